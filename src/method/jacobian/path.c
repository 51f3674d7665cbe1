/* SPDX-License-Identifier: MIT
 *
 * Scopes integrated along the straight path from a baseline b to the input x at the leaf: the
 * gradients at nodes e = b + alpha_k (x - b) of all tokens are averaged.
 *
 *   integrated_gradients  log-probability of the target, of a contrast the difference of two, which
 *                         is that of the logits (Sundararajan et al. 2017, arXiv 1703.01365)
 *   path_semantic         its logit
 *
 * At layer 0 the leaf is the token embeddings and b is the same at every token. At layer l > 0 it
 * is the residual stream that enters block l, from which the model is run on; b is the stream there
 * of a prompt of such embeddings (of zero: the zero vector), and what the blocks below did with the
 * prompt is part of x.
 *
 * score = |(x - b) * a|, signed = (x - b) . a with a = sum_k w_k d f / d e (e_k); the midpoint
 * rule's signed scores add up to f(x) - f(b) but for a residual that falls as 1 / steps^2.
 * Differs: with compat jacobian-scopes the nodes are k / steps, the gradients of
 * integrated_gradients carry a factor alpha_k and those of path_semantic (steps - 1) / steps, as in
 * that implementation.
 *
 * All scopes and slots share the forward of a node, as lanes of its backward. A tile of lanes goes
 * along the whole path before the next one does: its sums are all that is kept.
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

/* rows [T, D] += factor b, at the embeddings */
static ca_status add_embedding(jacobian *j, ca_backend *be, ca_tensor rows, double factor) {
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
    CA_TRY(add_embedding(j, call->backend, value, 1 - j->alpha));
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

/* From the embeddings up to what enters block `last_layer`, or all of the model. The hook serves
 * the backward over this forward too. */
static ca_status embed_at(jacobian *j, double alpha, int64_t last_layer) {
    ca_forward request = ca_forward_all(j->job->model, j->batch);
    j->alpha = alpha;
    request.hooks = &j->path_hook;
    request.hook_count = 1;
    request.last_layer = last_layer;
    if (last_layer < j->job->arch->layers) request.head = CA_HEAD_NONE;
    return ca_pass_forward(j->pass, &request);
}

/* From b + alpha (x - b) at the leaf; j->leaf holds x - b. */
static ca_status forward_at(jacobian *j, double alpha) {
    ca_status st = CA_OK;
    ca_backend *be = j->job->backend;
    int64_t rows = j->batch->sequences.rows;
    if (j->layer == 0) return embed_at(j, alpha, j->job->arch->layers);
    ca_tensor point = ca_tensor_slice(j->path_point, 0, 0, rows);
    if (j->baseline == BASELINE_ZERO)
        CA_TRY(ca_fill(be, point, 0));
    else
        CA_TRY(ca_copy(be, point, ca_tensor_slice(j->path_stream, 0, 0, rows)));
    CA_TRY(ca_add(be, point, ca_tensor_slice(j->leaf, 0, 0, rows), alpha));
    ca_forward request = ca_forward_all(j->job->model, j->batch);
    request.first_layer = j->layer;
    request.resid = point;
    CA_TRY(ca_pass_forward(j->pass, &request));
out:
    return st;
}

/* Takes b off the leaf; of a later layer that is the stream of a prompt of b's. */
static ca_status subtract_baseline(jacobian *j) {
    ca_status st = CA_OK;
    ca_backend *be = j->job->backend;
    int64_t rows = j->batch->sequences.rows;
    ca_tensor leaf = ca_tensor_slice(j->leaf, 0, 0, rows);
    if (j->layer == 0) return add_embedding(j, be, leaf, -1);
    if (j->baseline == BASELINE_ZERO) return CA_OK;
    ca_tensor stream = ca_tensor_slice(j->path_stream, 0, 0, rows);
    CA_TRY(embed_at(j, 0, j->layer));
    CA_TRY(ca_copy(be, stream, ca_pass_resid(j->pass, j->layer)));
    CA_TRY(ca_add(be, leaf, stream, -1));
out:
    return st;
}

/* ---- nodes ---- */

/* Paths are lanes, as those of lanes.c are: all integrated scopes of a slot, then the next slot. */
static int64_t path_columns(const jacobian *j, int64_t column[JACOBIAN_MOST_SCOPES]) {
    int64_t count = 0;
    for (int64_t c = 0; c < j->columns; c++)
        if (j->column[c].scope->path) column[count++] = c;
    return count;
}

int64_t ca_jacobian_paths_of_slot(const jacobian *j) {
    int64_t column[JACOBIAN_MOST_SCOPES];
    return path_columns(j, column);
}

/* The place of a node, and the weight of its gradients for a scope. */
static double node_at(const jacobian *j, int64_t k) {
    return ((double)k + (j->compat ? 1 : 0.5)) / (double)j->steps;
}

static double node_weight(const jacobian *j, const jacobian_scope *scope, double alpha) {
    double steps = (double)j->steps;
    if (!j->compat) return 1 / steps;
    return 1 / steps * (scope->path == PATH_LOGPROB ? alpha : (steps - 1) / steps);
}

static bool has_log_probability(const jacobian *j) {
    for (int64_t c = 0; c < j->columns; c++)
        if (j->column[c].scope->path == PATH_LOGPROB) return true;
    return false;
}

/* One lane of [lanes, rows, D] as [rows, D]. */
static ca_tensor lane_of(ca_tensor lanes, int64_t lane) {
    ca_tensor one = ca_tensor_slice(lanes, 0, lane, 1);
    return ca_tensor_2d(one.data, one.dtype, one.shape[1], one.shape[2]);
}

/* Adds weight * d f / d e of a tile's lanes at one node to their sums [count, T, D]. */
static ca_status add_node(jacobian *j, int64_t k, int64_t first, ca_tensor sums) {
    ca_status st = CA_OK;
    ca_backend *be = j->job->backend;
    int64_t column[JACOBIAN_MOST_SCOPES], columns = path_columns(j, column);
    int64_t count = sums.shape[0], width = j->job->arch->width;
    double alpha = node_at(j, k);
    ca_tensor logit = ca_tensor_slice(j->direction, 0, 0, j->n), gradient;
    ca_tensor log_probability = ca_tensor_slice(j->path_vector, 0, 0, j->n);
    ca_tensor cotangents =
        ca_tensor_3d(j->cotangents.data, j->cotangents.dtype, count, j->n, width);
    CA_TRY(forward_at(j, alpha));
    if (has_log_probability(j)) CA_TRY(ca_jacobian_log_probability_direction(j, log_probability));
    for (int64_t r = 0; r < count; r++) {
        const jacobian_scope *scope = j->column[column[(first + r) % columns]].scope;
        CA_TRY(ca_jacobian_slot_cotangent(j, (first + r) / columns,
                                          scope->path == PATH_LOGIT ? logit : log_probability,
                                          lane_of(cotangents, r)));
    }
    ca_backward request = {.lanes = count, .d_final_norm = cotangents, .stop_layer = j->layer};
    CA_TRY(ca_pass_backward(j->pass, &request, &gradient));
    for (int64_t r = 0; r < count; r++)
        CA_TRY(ca_add(be, lane_of(sums, r), lane_of(gradient, r),
                      node_weight(j, j->column[column[(first + r) % columns]].scope, alpha)));
out:
    return st;
}

static ca_status run_tile(jacobian *j, int64_t first, int64_t count) {
    ca_status st = CA_OK;
    int64_t column[JACOBIAN_MOST_SCOPES], columns = path_columns(j, column);
    ca_tensor sums = ca_tensor_3d(j->path_sum.data, j->path_sum.dtype, count,
                                  j->batch->sequences.rows, j->job->arch->width);
    CA_TRY(ca_fill(j->job->backend, sums, 0));
    for (int64_t k = 0; k < j->steps; k++) CA_TRY(add_node(j, k, first, sums));
    for (int64_t r = 0; r < count; r++)
        CA_TRY(ca_jacobian_reduce(j, column[(first + r) % columns], (first + r) / columns,
                                  lane_of(sums, r)));
out:
    return st;
}

/* ---- ends ---- */

/* value [n] of every integrated scope += sign * f at the last forward. */
static ca_status add_values(jacobian *j, double sign) {
    ca_status st = CA_OK;
    ca_backend *be = j->job->backend;
    ca_tensor values = ca_tensor_slice(j->values, 0, 0, j->n),
              lse = ca_tensor_slice(j->lse, 0, 0, j->n);
    for (int64_t c = 0; c < j->columns; c++) {
        const jacobian_column *column = &j->column[c];
        if (!column->scope->path) continue;
        CA_TRY(ca_row_dots(be, values, ca_pass_final_norm(j->pass),
                           ca_tensor_slice(j->direction, 0, 0, j->n)));
        if (column->scope->path == PATH_LOGPROB && !j->reads.contrast) {
            CA_TRY(ca_log_sum_exp(be, lse, ca_pass_logits(j->pass)));
            CA_TRY(ca_add(be, values, lse, -1));
        }
        CA_TRY(ca_download_f64(be, values, j->staging, j->numbers));
        for (int64_t r = 0; r < j->n; r++) column->change[r] += sign * j->numbers[r];
    }
out:
    return st;
}

/* Writes f(x) - f(b) less the sum of the signed scores, per slot. */
static ca_status write_residuals(jacobian *j, int64_t c) {
    const jacobian_column *column = &j->column[c];
    int64_t n = 0;
    for (int64_t i = j->first; i < j->last; i++) {
        int64_t tokens = j->job->data->examples[i].clean.count;
        for (int64_t s = 0; s < ca_jacobian_slots_of(j, i); s++, n++) {
            int64_t read = ca_jacobian_read_of(j, i, s);
            int64_t end =
                j->reads.span ? j->reads.start[i + 1] - j->reads.start[j->first] : read + 1;
            const float *score =
                column->signed_score + j->score_start[i] - j->score_start[j->first] + s * tokens;
            j->residual[n] = 0;
            for (int64_t r = read; r < end; r++) j->residual[n] += column->change[r];
            for (int64_t t = 0; t < tokens; t++) j->residual[n] -= (double)score[t];
        }
    }
    return ca_jacobian_write_residual(j, c, n);
}

ca_status ca_jacobian_paths(jacobian *j) {
    ca_status st = CA_OK;
    int64_t column[JACOBIAN_MOST_SCOPES], columns = path_columns(j, column), slots = 0;
    if (columns == 0) return CA_OK;
    for (int64_t i = j->first; i < j->last; i++)
        if (ca_jacobian_slots_of(j, i) > slots) slots = ca_jacobian_slots_of(j, i);
    for (int64_t c = 0; c < columns; c++)
        memset(j->column[column[c]].change, 0, (size_t)j->n * sizeof(double));
    j->path_hook = ca_jacobian_path_hook(j);
    CA_TRY(add_values(j, 1)); /* the forward of the input itself is still there */
    CA_TRY(subtract_baseline(j));
    CA_TRY(forward_at(j, 0));
    CA_TRY(add_values(j, -1));
    for (int64_t first = 0, all = slots * columns; first < all; first += j->path_tile)
        CA_TRY(run_tile(j, first, all - first < j->path_tile ? all - first : j->path_tile));
    for (int64_t c = 0; c < columns; c++) CA_TRY(write_residuals(j, column[c]));
out:
    return st;
}
