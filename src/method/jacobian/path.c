/* SPDX-License-Identifier: MIT
 *
 * Scopes integrated along the path from a baseline b, which is the same at every token, to the
 * input: every token embedding becomes e = b + alpha (x - b), and the gradients at nodes alpha_k
 * are averaged.
 *
 *   integrated_gradients  log-probability of the target, of a contrast the difference of two, which
 *                         is that of the logits (Sundararajan et al. 2017, arXiv 1703.01365)
 *   path_semantic         its logit
 *
 * score = |(x - b) * a|, signed = (x - b) . a with a = sum_k w_k d f / d e (e_k); the midpoint
 * rule's signed scores add up to f(x) - f(b) but for a residual that falls as 1 / steps^2.
 * Differs: with compat jacobian-scopes the nodes are k / steps, the gradients of
 * integrated_gradients carry a factor alpha_k and those of path_semantic (steps - 1) / steps, as in
 * that implementation.
 */
#include "jacobian.h"

#include "causa/ops.h"

#include <string.h>

/* ---- baseline ---- */

static const char *const BASELINE = "method.baseline";

/* A token that the tokenizer names. */
static ca_status named_token(const ca_job *job, const char *word, int32_t id, jacobian *j) {
    if (id < 0 || id >= job->arch->vocab)
        return ca_config_fail(job->config, BASELINE,
                              "the tokenizer names no %s token: give it as text or #id", word);
    j->baseline_id = id;
    return CA_OK;
}

ca_status ca_jacobian_read_baseline(const ca_job *job, jacobian *j) {
    const char *text = ca_config_text(job->config, BASELINE);
    const ca_tokenizer *t = job->tokenizer;
    if (strcmp(text, "zero") == 0) return CA_OK;
    if (j->compat)
        return ca_config_fail(job->config, BASELINE,
                              "expected zero with compat, whose paths begin there, got %s", text);
    j->baseline = strcmp(text, "mean") == 0 ? BASELINE_MEAN : BASELINE_TOKEN;
    if (j->baseline == BASELINE_MEAN) return CA_OK;
    if (strcmp(text, "bos") == 0)
        return named_token(job, text, t ? ca_tokenizer_default_bos(t) : -1, j);
    if (strcmp(text, "eos") == 0) return named_token(job, text, t ? ca_tokenizer_eos(t) : -1, j);
    if (strcmp(text, "pad") == 0) return named_token(job, text, t ? ca_tokenizer_pad(t) : -1, j);
    ca_status st = ca_token_of_text(t, text, job->arch->vocab, &j->baseline_id);
    return st == CA_OK ? st : ca_context(CA_E_CONFIG, "%s", ca_config_where(job->config, BASELINE));
}

ca_status ca_jacobian_set_baseline(jacobian *j) {
    ca_status st = CA_OK;
    const ca_model *m = j->job->model;
    if (j->baseline == BASELINE_ZERO) return CA_OK;
    if (j->baseline == BASELINE_MEAN)
        return ca_jacobian_mean_embedding(m, ca_tensor_slice(j->probability, 0, 0, 1),
                                          j->path_baseline);
    ca_tensor id = ca_tensor_slice(j->ids, 0, 0, 1);
    CA_TRY(ca_upload(m->backend, id, &j->baseline_id));
    CA_TRY(ca_gather(m->backend, j->path_baseline, m->embed, id, m->arch.embed_scale, false));
out:
    return st;
}

/* rows [T, D] += factor b */
static ca_status add_baseline(jacobian *j, ca_backend *be, ca_tensor rows, double factor) {
    if (j->baseline == BASELINE_ZERO) return CA_OK;
    return ca_add(be, rows, ca_tensor_repeat(ca_tensor_at(j->path_baseline, 0, 0), rows.shape[0]),
                  factor);
}

/* ---- points ---- */

/* Hook at the token embeddings: e = alpha x + (1 - alpha) b. */
static ca_status set_embeddings(void *context, const ca_hook_call *call, ca_tensor value) {
    ca_status st = CA_OK;
    jacobian *j = context;
    const ca_model *m = call->model;
    CA_TRY(ca_gather(call->backend, value, m->embed, call->batch->ids_b,
                     j->alpha * m->arch.embed_scale, false));
    CA_TRY(add_baseline(j, call->backend, value, 1 - j->alpha));
out:
    return st;
}

/* The gradient that is wanted is that at e. */
static ca_status keep_gradient(void *context, const ca_hook_call *call, ca_tensor gradient) {
    (void)context;
    (void)call;
    (void)gradient;
    return CA_OK;
}

ca_hook ca_jacobian_path_hook(jacobian *j) {
    return (ca_hook){.site = CA_SITE_EMBED,
                     .edits = true,
                     .forward = set_embeddings,
                     .backward = keep_gradient,
                     .context = j};
}

/* hook: that of paths; the backward over this forward needs it too. */
static ca_status forward_at(jacobian *j, const ca_hook *hook, double alpha) {
    ca_forward request = ca_forward_all(j->job->model, j->batch);
    j->alpha = alpha;
    request.hooks = hook;
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
static ca_status add_node(jacobian *j, const jacobian_scope *scope, const ca_hook *hook,
                          double alpha, double weight, ca_tensor sum) {
    ca_status st = CA_OK;
    int64_t rows = j->batch->sequences.rows, width = j->job->arch->width;
    ca_tensor cotangent = ca_tensor_3d(j->cotangents.data, j->cotangents.dtype, 1, j->n, width),
              gradient;
    CA_TRY(forward_at(j, hook, alpha));
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

/* f(x) - f(b) less the sum of the signed scores, per prompt. */
static ca_status set_residual(jacobian *j, const jacobian_column *c, const ca_hook *hook) {
    ca_status st = CA_OK;
    double *from = j->numbers, *to = j->numbers + j->n;
    CA_TRY(forward_at(j, hook, 0));
    CA_TRY(read_values(j, c->scope, from));
    CA_TRY(forward_at(j, hook, 1));
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
    ca_hook hook = ca_jacobian_path_hook(j);
    int64_t rows = j->batch->sequences.rows;
    ca_tensor leaf = ca_tensor_slice(j->leaf, 0, 0, rows);
    ca_tensor sum = ca_tensor_slice(j->path_sum, 0, 0, rows);
    CA_TRY(ca_fill(j->job->backend, sum, 0));
    for (int64_t k = 0; k < j->steps; k++) {
        double alpha, weight;
        node(j, c->scope, k, &alpha, &weight);
        CA_TRY(add_node(j, c->scope, &hook, alpha, weight, sum));
    }
    CA_TRY(add_baseline(j, j->job->backend, leaf, -1));
    CA_TRY(ca_jacobian_reduce(j, column, 0, sum));
    CA_TRY(ca_jacobian_set_leaf(j));
    CA_TRY(set_residual(j, c, &hook));
out:
    return st;
}
