/* SPDX-License-Identifier: MIT
 *
 * Method `jacobian`: which input tokens move the prediction.
 *
 * Per micro-batch of packed prompts, each cut after the position that is read: one forward, the
 * vectors of all scopes as lanes of one backward, one reduction per scope at the embeddings.
 */
#include "jacobian.h"
#include "common.h"

#include "causa/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SCOPES = 8, TOP = 10 };

typedef struct jacobian {
    jacobian_target *targets; /* [N] */
    const jacobian_scope *scopes[MOST_SCOPES];
    int64_t scope_count, lanes, top;
    int64_t *token_start; /* [N + 1] rows of the examples in /attribution/<scope>/score */
    ca_packing packing;
    bool gold;
    /* while running */
    ca_job *job;
    ca_batch *batch;
    ca_pass *pass;
    method_buffers buffers;
    ca_tensor ids, others, direction, cotangents, scores, values, lse, top_values, top_ids;
    void *staging;    /* doubles, the largest download */
    float *packed;    /* [T] scores of a micro-batch's rows */
    float *score;     /* tokens of a micro-batch, those after the position included */
    int32_t *id_host; /* [n] */
} jacobian;

static const ca_option options[] = {
    {"method.scopes", CA_OPTION_CHOICES, "[semantic]", NULL, "semantic",
     "scopes to compute, all from one forward and one backward"},
    {"method.target", CA_OPTION_TEXT, "gold", NULL, NULL,
     "what is explained: gold (the answer, else the next token of the prompt), argmax, one token "
     "as text or #id, A:B for a difference of logits"},
    {"method.position", CA_OPTION_INT, "last", NULL, "last",
     "token at which the prediction is read: last or an index, negative from the end"},
    {0},
};

static const char *const conventions[] = {
    "score: Euclidean norm over the embedding dimension of the gradient of the target logit (not "
    "log-probability) "
    "with respect to the embedding that enters the first block; unsigned, not normalised",
    "tokens after the position that is read score exactly 0; a BOS token is scored like any other",
    "target gold without an answer: the prompt's last token is the target and the token before it "
    "is read",
    NULL,
};
static const char *const headlines[] = {"/baseline@accuracy", "/baseline@clean_mean", NULL};

/* ---- prepare ---- */

static ca_status choose_scopes(const ca_job *job, jacobian *j) {
    for (int64_t i = 0, n = ca_config_count(job->config, "method.scopes"); i < n; i++) {
        const jacobian_scope *scope =
            ca_jacobian_scope_find(ca_config_text_at(job->config, "method.scopes", i));
        for (int64_t k = 0; k < j->scope_count; k++)
            if (j->scopes[k] == scope)
                return ca_config_fail(job->config, "method.scopes",
                                      "expected every scope once, got %s twice", scope->name);
        j->scopes[j->scope_count++] = scope;
        j->lanes += scope->lanes;
    }
    if (j->scope_count == 0)
        return ca_config_fail(job->config, "method.scopes", "expected at least one scope");
    return CA_OK;
}

/* Backend memory of the method's own tensors in the largest micro-batch. */
static int64_t buffer_bytes(const jacobian *j, const ca_job *job) {
    int64_t n = j->packing.limits.reads, width = job->arch->width;
    size_t bytes =
        2 * ca_method_buffer_bytes(n, CA_I64) + ca_method_buffer_bytes(n * width, job->dtype) +
        ca_method_buffer_bytes(j->lanes * n * width, job->dtype) +
        ca_method_buffer_bytes(j->packing.limits.rows, job->dtype) +
        2 * ca_method_buffer_bytes(n, job->dtype) + ca_method_buffer_bytes(n * j->top, job->dtype) +
        ca_method_buffer_bytes(n * j->top, CA_I32);
    return (int64_t)bytes;
}

static ca_status plan_batches(const ca_job *job, jacobian *j, ca_plan *plan) {
    ca_status st = CA_OK;
    int64_t count = job->data->count, *lengths = NULL, tokens = 0;
    ca_pass_limits limits = {.lanes = j->lanes, .logits = true};
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *lengths, &lengths));
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *j->token_start, &j->token_start));
    for (int64_t i = 0; i < count; i++) {
        tokens += lengths[i] = j->targets[i].position + 1;
        j->token_start[i + 1] = j->token_start[i] + job->data->examples[i].clean.count;
    }
    int64_t own = (int64_t)job->arch->width * (j->lanes + 1) * 8 *
                  1024; /* room for the method's own tensors */
    CA_TRY(ca_plan_packing(job->arch, job->dtype, &limits, lengths, NULL, count, 1, job->batch,
                           job->memory > 2 * own ? job->memory - own : job->memory, &j->packing));
    ca_method_plan_packing(&j->packing, plan);
    plan->work_bytes += buffer_bytes(j, job);
    plan->host_bytes += j->token_start[count] * (int64_t)(sizeof(float) + sizeof(double));
    plan->examples = count;
    plan->tokens = tokens;
    plan->flops = ca_flops_forward(job->arch, tokens, j->packing.keys, job->arch->layers) +
                  ca_flops_head(job->arch, count) +
                  ca_flops_backward(job->arch, tokens, j->packing.keys, job->arch->layers, j->lanes,
                                    j->packing.limits.keep);
out:
    free(lengths);
    return st;
}

static void release(void *state) {
    jacobian *j = state;
    if (!j) return;
    ca_pass_free(j->pass);
    ca_batch_free(j->batch);
    ca_method_buffers_free(&j->buffers);
    ca_packing_free(&j->packing);
    free(j->targets);
    free(j->token_start);
    free(j->staging);
    free(j->packed);
    free(j->score);
    free(j->id_host);
    free(j);
}

static ca_status prepare(const ca_job *job, ca_plan *plan, void **state) {
    ca_status st = CA_OK;
    jacobian *j = NULL;
    CA_TRY(ca_calloc(1, sizeof *j, &j));
    CA_TRY(choose_scopes(job, j));
    j->top = job->arch->vocab < TOP ? job->arch->vocab : TOP;
    j->gold = strcmp(ca_config_text(job->config, "method.target"), "gold") == 0;
    CA_TRY(ca_calloc((size_t)job->data->count + 1, sizeof *j->targets, &j->targets));
    CA_TRY(ca_jacobian_targets(job, j->targets));
    CA_TRY(plan_batches(job, j, plan));
    *state = j;
    return CA_OK;
out:
    release(j);
    return st;
}

/* ---- run ---- */

static ca_status create_buffers(ca_job *job, jacobian *j) {
    ca_status st = CA_OK;
    const ca_pass_limits *l = &j->packing.limits;
    int64_t n = l->reads, width = job->arch->width, tokens = 0;
    int64_t by_width[] = {n, width}, by_lane[] = {j->lanes, n, width}, by_top[] = {n, j->top};
    CA_TRY(ca_batch_create(job->backend, j->packing.max_sequences, l->rows, n, &j->batch));
    CA_TRY(ca_pass_create(job->model, l, &j->pass));
    CA_TRY(ca_method_buffers_create(job->backend, (size_t)buffer_bytes(j, job), &j->buffers));
    j->ids = ca_method_buffers_take(&j->buffers, CA_I32, 1, &n);
    j->others = ca_method_buffers_take(&j->buffers, CA_I32, 1, &n);
    j->direction = ca_method_buffers_take(&j->buffers, job->dtype, 2, by_width);
    j->cotangents = ca_method_buffers_take(&j->buffers, job->dtype, 3, by_lane);
    j->scores = ca_method_buffers_take(&j->buffers, job->dtype, 1, &l->rows);
    j->values = ca_method_buffers_take(&j->buffers, job->dtype, 1, &n);
    j->lse = ca_method_buffers_take(&j->buffers, job->dtype, 1, &n);
    j->top_values = ca_method_buffers_take(&j->buffers, job->dtype, 2, by_top);
    j->top_ids = ca_method_buffers_take(&j->buffers, CA_I32, 2, by_top);
    for (int64_t b = 0; b < j->packing.batches; b++) {
        int64_t rows =
            j->token_start[j->packing.first[b + 1]] - j->token_start[j->packing.first[b]];
        if (rows > tokens) tokens = rows;
    }
    CA_TRY(ca_calloc((size_t)(tokens + n * j->top), sizeof(double), &j->staging));
    CA_TRY(ca_calloc((size_t)l->rows + 1, sizeof(float), &j->packed));
    CA_TRY(ca_calloc((size_t)tokens + 1, sizeof(float), &j->score));
    CA_TRY(ca_calloc((size_t)n, sizeof *j->id_host, &j->id_host));
out:
    return st;
}

static ca_status reserve(ca_job *job, jacobian *j) {
    ca_status st = CA_OK;
    int64_t count = job->data->count;
    char path[64];
    ca_result_shape examples = {1, {count}, {"example"}},
                    top = {2, {count, j->top}, {"example", "rank"}};
    CA_TRY(ca_result_reserve(job->result, "/data/position", CA_RESULT_I64, examples));
    CA_TRY(ca_result_reserve(job->result, "/data/target", CA_RESULT_I32, examples));
    CA_TRY(ca_result_reserve(job->result, "/data/target_piece", CA_RESULT_TEXT, examples));
    CA_TRY(ca_result_reserve(job->result, "/baseline/clean", CA_RESULT_F64, examples));
    CA_TRY(ca_result_reserve(job->result, "/baseline/predicted", CA_RESULT_I32, examples));
    CA_TRY(ca_result_reserve(job->result, "/predictions/token_ids", CA_RESULT_I32, top));
    CA_TRY(ca_result_reserve(job->result, "/predictions/pieces", CA_RESULT_TEXT, top));
    CA_TRY(ca_result_reserve(job->result, "/predictions/probability", CA_RESULT_F32, top));
    for (int64_t i = 0; i < j->scope_count; i++) {
        const jacobian_scope *scope = j->scopes[i];
        snprintf(path, sizeof path, "/attribution/%s", scope->name);
        CA_TRY(ca_result_attribute_text(job->result, path, "target", scope->target));
        CA_TRY(ca_result_attribute_text(job->result, path, "units", scope->units));
        CA_TRY(ca_result_attribute_text(job->result, path, "position",
                                        ca_config_text(job->config, "method.position")));
        snprintf(path, sizeof path, "/attribution/%s/score", scope->name);
        CA_TRY(ca_result_reserve(job->result, path, CA_RESULT_F32,
                                 (ca_result_shape){1, {j->token_start[count]}, {"token"}}));
    }
out:
    return st;
}

/* Pieces of ids as a list of texts: one string, one pointer each. */
static ca_status write_pieces(jacobian *j, const char *path, int64_t first, int64_t examples,
                              int64_t per_example, const int32_t *ids) {
    ca_status st = CA_OK;
    ca_string text = {0};
    const char **pieces = NULL;
    size_t *at = NULL;
    int64_t n = examples * per_example;
    CA_TRY(ca_calloc((size_t)n, sizeof *pieces, &pieces));
    CA_TRY(ca_calloc((size_t)n, sizeof *at, &at));
    for (int64_t i = 0; i < n; i++) {
        at[i] = text.length;
        CA_TRY(ca_method_piece(j->job, ids[i], &text));
        CA_TRY(ca_string_append(&text, "", 1));
    }
    for (int64_t i = 0; i < n; i++) pieces[i] = text.text + at[i];
    CA_TRY(ca_result_write(j->job->result, path, first, examples, pieces));
out:
    free(pieces);
    free(at);
    ca_string_free(&text);
    return st;
}

static ca_status make_batch(jacobian *j, int64_t first, int64_t last) {
    ca_batch_clear(j->batch);
    for (int64_t i = first; i < last; i++) {
        int64_t rows = j->targets[i].position + 1; /* later tokens cannot move the prediction */
        ca_batch_add(j->batch, j->job->data->examples[i].clean.ids, rows, 0, 0);
        ca_batch_read(j->batch, rows - 1);
    }
    return ca_batch_upload(j->batch);
}

/* Top tokens with their probabilities; sets the targets that are the argmax. */
static ca_status predict(jacobian *j, int64_t first, int64_t n) {
    ca_status st = CA_OK;
    ca_job *job = j->job;
    ca_tensor logits = ca_pass_logits(j->pass), lse = ca_tensor_slice(j->lse, 0, 0, n);
    ca_tensor values = ca_tensor_slice(j->top_values, 0, 0, n),
              ids = ca_tensor_slice(j->top_ids, 0, 0, n);
    double *value = NULL, *sum = NULL;
    float *probability = NULL;
    int32_t *id = NULL;
    CA_TRY(ca_calloc((size_t)(n * j->top), sizeof *value, &value));
    CA_TRY(ca_calloc((size_t)n, sizeof *sum, &sum));
    CA_TRY(ca_calloc((size_t)(n * j->top), sizeof *probability, &probability));
    CA_TRY(ca_calloc((size_t)(n * j->top), sizeof *id, &id));
    CA_TRY(ca_top_k(job->backend, values, ids, logits));
    CA_TRY(ca_log_sum_exp(job->backend, lse, logits));
    CA_TRY(ca_method_download_f64(job->backend, values, j->staging, value));
    CA_TRY(ca_method_download_f64(job->backend, lse, j->staging, sum));
    CA_TRY(ca_download(job->backend, id, ids));
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(sum[i]))
            st = ca_fail(CA_E_NUMERIC, "%s: the logits are not finite",
                         ca_example_place(job->data, &job->data->examples[first + i]));
        for (int64_t k = 0; k < j->top; k++)
            probability[i * j->top + k] = (float)exp(value[i * j->top + k] - sum[i]);
        j->id_host[i] = id[i * j->top];
        if (j->targets[first + i].id < 0) j->targets[first + i].id = id[i * j->top];
    }
    CA_TRY(st);
    CA_TRY(ca_result_write(job->result, "/predictions/token_ids", first, n, id));
    CA_TRY(ca_result_write(job->result, "/predictions/probability", first, n, probability));
    CA_TRY(write_pieces(j, "/predictions/pieces", first, n, j->top, id));
    CA_TRY(ca_result_write(job->result, "/baseline/predicted", first, n, j->id_host));
out:
    free(value);
    free(sum);
    free(probability);
    free(id);
    return st;
}

/* d target / d y [n, D]: rows of the unembedding. */
static ca_status set_direction(jacobian *j, int64_t first, int64_t n, ca_tensor direction) {
    ca_status st = CA_OK;
    ca_job *job = j->job;
    ca_tensor ids = ca_tensor_slice(j->ids, 0, 0, n), others = ca_tensor_slice(j->others, 0, 0, n);
    for (int64_t i = 0; i < n; i++) j->id_host[i] = j->targets[first + i].id;
    CA_TRY(ca_upload(job->backend, ids, j->id_host));
    CA_TRY(ca_gather(job->backend, direction, job->model->head, ids, 1, false));
    CA_TRY(ca_result_write(job->result, "/data/target", first, n, j->id_host));
    CA_TRY(write_pieces(j, "/data/target_piece", first, n, 1, j->id_host));
    if (j->targets[first].other >= 0) { /* a contrast is one of the config: all examples have it */
        for (int64_t i = 0; i < n; i++) j->id_host[i] = j->targets[first + i].other;
        CA_TRY(ca_upload(job->backend, others, j->id_host));
        CA_TRY(ca_gather(job->backend, direction, job->model->head, others, -1, true));
    }
out:
    return st;
}

/* The explained value at y, and the position of each example. */
static ca_status write_values(jacobian *j, int64_t first, int64_t n, const jacobian_batch *batch) {
    ca_status st = CA_OK;
    ca_job *job = j->job;
    ca_tensor values = ca_tensor_slice(j->values, 0, 0, n);
    double *value = NULL;
    int64_t *position = NULL;
    CA_TRY(ca_calloc((size_t)n, sizeof *value, &value));
    CA_TRY(ca_calloc((size_t)n, sizeof *position, &position));
    CA_TRY(ca_row_dots(job->backend, values, batch->final, batch->direction));
    CA_TRY(ca_method_download_f64(job->backend, values, j->staging, value));
    for (int64_t i = 0; i < n; i++) position[i] = j->targets[first + i].position;
    CA_TRY(ca_result_write(job->result, "/baseline/clean", first, n, value));
    CA_TRY(ca_result_write(job->result, "/data/position", first, n, position));
out:
    free(value);
    free(position);
    return st;
}

/* Scores of one scope from its lanes, to the file; tokens after the position get 0. */
static ca_status write_scores(jacobian *j, const jacobian_scope *scope, int64_t first, int64_t last,
                              const jacobian_batch *batch, ca_tensor gradients) {
    ca_status st = CA_OK;
    ca_job *job = j->job;
    ca_tensor scores = ca_tensor_slice(j->scores, 0, 0, batch->rows);
    const ca_sequences *s = &j->batch->sequences;
    char path[64];
    CA_TRY(scope->reduce(batch, gradients, scores));
    CA_TRY(ca_method_download_f32(job->backend, scores, j->staging, j->packed));
    int64_t tokens = j->token_start[last] - j->token_start[first];
    memset(j->score, 0, (size_t)tokens * sizeof *j->score);
    for (int64_t i = first; i < last; i++) {
        int64_t row = s->row_start[i - first], rows = s->row_start[i - first + 1] - row;
        float *score = j->score + (j->token_start[i] - j->token_start[first]);
        for (int64_t t = 0; t < rows; t++) {
            score[t] = j->packed[row + t];
            if (!isfinite(score[t]))
                return ca_fail(CA_E_NUMERIC, "%s: scope %s is not finite at token %lld",
                               ca_example_place(job->data, &job->data->examples[i]), scope->name,
                               (long long)t);
        }
    }
    snprintf(path, sizeof path, "/attribution/%s/score", scope->name);
    CA_TRY(ca_result_write(job->result, path, j->token_start[first], tokens, j->score));
out:
    return st;
}

static ca_status step(void *context, int64_t first, int64_t last) {
    ca_status st = CA_OK;
    jacobian *j = context;
    int64_t n = last - first, lane = 0;
    ca_tensor gradient;
    CA_TRY(make_batch(j, first, last));
    ca_forward forward = ca_forward_all(j->job->model, j->batch);
    CA_TRY(ca_pass_forward(j->pass, &forward));
    CA_TRY(predict(j, first, n));
    jacobian_batch batch = {
        .model = j->job->model,
        .examples = n,
        .rows = j->batch->sequences.rows,
        .final = ca_pass_final_norm(j->pass),
        .direction = ca_tensor_slice(j->direction, 0, 0, n),
    };
    CA_TRY(set_direction(j, first, n, batch.direction));
    CA_TRY(write_values(j, first, n, &batch));
    /* the leading part of the buffer, so that it is contiguous for n examples */
    ca_tensor cotangents =
        ca_tensor_3d(j->cotangents.data, j->cotangents.dtype, j->lanes, n, j->cotangents.shape[2]);
    for (int64_t i = 0; i < j->scope_count; lane += j->scopes[i++]->lanes)
        CA_TRY(j->scopes[i]->cotangents(&batch,
                                        ca_tensor_slice(cotangents, 0, lane, j->scopes[i]->lanes)));
    ca_backward backward = {.lanes = j->lanes, .d_final_norm = cotangents};
    CA_TRY(ca_pass_backward(j->pass, &backward, &gradient));
    lane = 0;
    for (int64_t i = 0; i < j->scope_count; lane += j->scopes[i++]->lanes)
        CA_TRY(write_scores(j, j->scopes[i], first, last, &batch,
                            ca_tensor_slice(gradient, 0, lane, j->scopes[i]->lanes)));
out:
    return st;
}

/* Means over all examples, those of an earlier, interrupted run included. */
static ca_status write_summary(ca_job *job, jacobian *j) {
    ca_status st = CA_OK;
    int64_t count = job->data->count, right = 0;
    double *value = NULL, sum = 0;
    int32_t *predicted = NULL;
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *value, &value));
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *predicted, &predicted));
    CA_TRY(ca_result_read_back(job->result, "/baseline/clean", value));
    CA_TRY(ca_result_read_back(job->result, "/baseline/predicted", predicted));
    for (int64_t i = 0; i < count; i++) {
        sum += value[i];
        right += predicted[i] == j->targets[i].id;
    }
    CA_TRY(ca_result_attribute_text(job->result, "/baseline", "metric", "target logit"));
    CA_TRY(ca_result_attribute_float(job->result, "/baseline", "clean_mean",
                                     count ? sum / (double)count : NAN));
    if (j->gold)
        CA_TRY(ca_result_attribute_float(job->result, "/baseline", "accuracy",
                                         count ? (double)right / (double)count : NAN));
out:
    free(value);
    free(predicted);
    return st;
}

static ca_status run(ca_job *job, void *state, int64_t *done) {
    ca_status st = CA_OK;
    jacobian *j = state;
    j->job = job;
    if (job->resume_at == 0) {
        CA_TRY(ca_method_write_data(job));
        CA_TRY(reserve(job, j));
    }
    CA_TRY(create_buffers(job, j));
    CA_TRY(ca_method_run_batches(job, &j->packing, "jacobian", step, j, done));
    CA_TRY(write_summary(job, j));
out:
    return st;
}

static ca_status answer(ca_job *job, void *state, ca_string *text) {
    const jacobian *j = state;
    return ca_jacobian_answer(job, j->targets, j->scopes, j->scope_count, j->token_start, j->top,
                              text);
}

const ca_method ca_method_jacobian = {
    .kind = "jacobian",
    .summary = "Jacobian Scopes: which input tokens move the prediction",
    .options = options,
    .prepare = prepare,
    .run = run,
    .answer = answer,
    .release = release,
    .conventions = conventions,
    .headlines = headlines,
};
