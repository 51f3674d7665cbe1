/* SPDX-License-Identifier: MIT
 *
 * Scopes integrated along the path from no input to the input: every token embedding is scaled by
 * alpha, and the gradients at nodes alpha_k are averaged.
 *
 *   integrated_gradients  log-probability of the target, of a contrast the difference of two, which
 *                         is that of the logits (Sundararajan et al. 2017, arXiv 1703.01365)
 *   path_semantic         its logit
 *
 * score = |x * a|, signed = x . a with a = sum_k w_k d f / d e (alpha_k x); the midpoint rule's
 * signed scores add up to f(x) - f(0) but for a residual that falls as 1 / steps^2.
 * Differs: with compat jacobian-scopes the nodes are k / steps, the gradients of
 * integrated_gradients carry a factor alpha_k and those of path_semantic (steps - 1) / steps, as in
 * that implementation.
 */
#include "jacobian.h"

#include "causa/ops.h"

#include <string.h>

/* Hook at the token embeddings: e = alpha x. */
static ca_status scale_embeddings(void *context, const ca_hook_call *call, ca_tensor value) {
    const double *alpha = context;
    const ca_model *m = call->model;
    return ca_gather(call->backend, value, m->embed, call->batch->ids_b,
                     *alpha * m->arch.embed_scale, false);
}

/* The gradient that is wanted is that at e. */
static ca_status keep_gradient(void *context, const ca_hook_call *call, ca_tensor gradient) {
    (void)context;
    (void)call;
    (void)gradient;
    return CA_OK;
}

ca_hook ca_jacobian_path_hook(double *alpha) {
    return (ca_hook){.site = CA_SITE_EMBED,
                     .edits = true,
                     .forward = scale_embeddings,
                     .backward = keep_gradient,
                     .context = alpha};
}

/* One point of the path: its hook and the scale that the hook reads. */
typedef struct path_point {
    double alpha;
    ca_hook hook;
} path_point;

static ca_status forward_at(jacobian *j, path_point *point, double alpha) {
    ca_forward request = ca_forward_all(j->job->model, j->batch);
    point->alpha = alpha;
    request.hooks = &point->hook;
    request.hook_count = 1;
    return ca_pass_forward(j->pass, &request);
}

/* d f / d y [n, D]. */
static ca_status set_cotangent(jacobian *j, const jacobian_scope *scope, ca_tensor cotangent) {
    ca_status st = CA_OK;
    CA_TRY(ca_copy(j->job->backend, cotangent, ca_tensor_slice(j->direction, 0, 0, j->n)));
    if (scope->path == PATH_LOGPROB) CA_TRY(ca_jacobian_subtract_mean(j, cotangent));
out:
    return st;
}

/* f at the last forward, per read. */
static ca_status read_values(jacobian *j, const jacobian_scope *scope, double *value) {
    ca_status st = CA_OK;
    ca_backend *be = j->job->backend;
    ca_tensor values = ca_tensor_slice(j->values, 0, 0, j->n),
              lse = ca_tensor_slice(j->lse, 0, 0, j->n);
    CA_TRY(ca_row_dots(be, values, ca_pass_final_norm(j->pass),
                       ca_tensor_slice(j->direction, 0, 0, j->n)));
    if (scope->path == PATH_LOGPROB && !j->reads.contrast) {
        CA_TRY(ca_log_sum_exp(be, lse, ca_pass_logits(j->pass)));
        CA_TRY(ca_add(be, values, lse, -1));
    }
    CA_TRY(ca_download_f64(be, values, j->staging, value));
out:
    return st;
}

/* Adds weight * d f / d e at one node to the sum [T, D]. */
static ca_status add_node(jacobian *j, const jacobian_scope *scope, path_point *point, double alpha,
                          double weight, ca_tensor sum) {
    ca_status st = CA_OK;
    int64_t rows = j->batch->sequences.rows, width = j->job->arch->width;
    ca_tensor cotangent = ca_tensor_3d(j->cotangents.data, j->cotangents.dtype, 1, j->n, width),
              gradient;
    CA_TRY(forward_at(j, point, alpha));
    CA_TRY(set_cotangent(j, scope, ca_tensor_2d(cotangent.data, cotangent.dtype, j->n, width)));
    ca_backward request = {.lanes = 1, .d_final_norm = cotangent};
    CA_TRY(ca_pass_backward(j->pass, &request, &gradient));
    CA_TRY(ca_add(j->job->backend, sum, ca_tensor_2d(gradient.data, gradient.dtype, rows, width),
                  weight));
out:
    return st;
}

static void node(const jacobian *j, const jacobian_scope *scope, int64_t k, double *alpha,
                 double *weight) {
    double steps = (double)j->steps;
    *alpha = j->compat ? (double)(k + 1) / steps : ((double)k + 0.5) / steps;
    *weight = 1 / steps;
    if (j->compat) *weight *= scope->path == PATH_LOGPROB ? *alpha : (steps - 1) / steps;
}

/* f(x) - f(0) less the sum of the signed scores, per prompt. */
static ca_status set_residual(jacobian *j, const jacobian_column *c, path_point *point) {
    ca_status st = CA_OK;
    double *from = j->numbers, *to = j->numbers + j->n;
    CA_TRY(forward_at(j, point, 0));
    CA_TRY(read_values(j, c->scope, from));
    CA_TRY(forward_at(j, point, 1));
    CA_TRY(read_values(j, c->scope, to));
    for (int64_t i = j->first; i < j->last; i++) {
        double rest = 0;
        for (int64_t r = j->reads.start[i]; r < j->reads.start[i + 1]; r++)
            rest += to[r - j->reads.start[j->first]] - from[r - j->reads.start[j->first]];
        for (int64_t t = j->score_start[i]; t < j->score_start[i + 1]; t++)
            rest -= (double)c->signed_score[t - j->score_start[j->first]];
        j->residual[i - j->first] = rest;
    }
out:
    return st;
}

ca_status ca_jacobian_path(jacobian *j, int64_t column) {
    ca_status st = CA_OK;
    const jacobian_column *c = &j->column[column];
    path_point point = {0};
    point.hook = ca_jacobian_path_hook(&point.alpha);
    int64_t rows = j->batch->sequences.rows;
    ca_tensor sum = ca_tensor_slice(j->path_sum, 0, 0, rows);
    CA_TRY(ca_fill(j->job->backend, sum, 0));
    for (int64_t k = 0; k < j->steps; k++) {
        double alpha, weight;
        node(j, c->scope, k, &alpha, &weight);
        CA_TRY(add_node(j, c->scope, &point, alpha, weight, sum));
    }
    CA_TRY(ca_jacobian_reduce(j, column, 0, sum));
    CA_TRY(set_residual(j, c, &point));
out:
    return st;
}
