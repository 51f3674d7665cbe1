/* SPDX-License-Identifier: MIT
 *
 * The pass runs on a shallow copy of the model. A block is randomised by pointing the copy's
 * tensors at memory of our own that holds normal noise of the mean and standard deviation of each
 * tensor; embeddings, final norm and unembedding stay, and so do targets. See randomise.h.
 */
#include "randomise.h"

#include "evaluate.h"
#include "statistics.h"

#include "causa/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FRACTIONS "method.evaluate.randomise.fractions"

enum { MOST_FRACTIONS = 64, PIECE = 1 << 18 /* elements made at a time */ };

struct jacobian_randomisation {
    int64_t fractions;
    double *fraction; /* [fractions] rising */
    int64_t *blocks;  /* [fractions] from the top */
    ca_model model;   /* shares all but its layers */
    int64_t random;   /* blocks from the top that are random by now */
    method_buffers buffers;
    double *piece;     /* [PIECE] */
    void *staging;     /* [PIECE] */
    float **clean;     /* [columns] scores of the model */
    double **spearman; /* [columns] [N, fractions] */
    int64_t columns;
};

#define TENSOR(name)                                                                               \
    { offsetof(ca_layer, name), #name }
static const struct {
    size_t field;
    const char *name;
} tensors[] = {
    TENSOR(norm1_gain),      TENSOR(norm1_bias),      TENSOR(qkv_weight),  TENSOR(qkv_bias),
    TENSOR(q_norm_gain),     TENSOR(k_norm_gain),     TENSOR(out_weight),  TENSOR(out_bias),
    TENSOR(post_norm1_gain), TENSOR(post_norm1_bias), TENSOR(norm2_gain),  TENSOR(norm2_bias),
    TENSOR(up_weight),       TENSOR(up_bias),         TENSOR(down_weight), TENSOR(down_bias),
    TENSOR(post_norm2_gain), TENSOR(post_norm2_bias),
};
enum { TENSORS = sizeof tensors / sizeof *tensors };

/* ---- what is asked for ---- */

ca_status ca_jacobian_randomise_prepare(const ca_job *job, jacobian *j) {
    ca_status st = CA_OK;
    int64_t count = ca_config_count(job->config, FRACTIONS), layers = job->arch->layers;
    if (!ca_config_has(job->config, FRACTIONS)) return CA_OK;
    if (count < 1 || count > MOST_FRACTIONS)
        return ca_config_fail(job->config, FRACTIONS, "expected 1 to %d fractions, got %lld",
                              (int)MOST_FRACTIONS, (long long)count);
    if (j->reads.most > 1 || j->reads.span)
        return ca_config_fail(job->config, FRACTIONS,
                              "expected one position per prompt in method.position, got up to %lld",
                              (long long)j->reads.most);
    CA_TRY(ca_calloc(1, sizeof *j->randomisation, &j->randomisation));
    struct jacobian_randomisation *r = j->randomisation;
    CA_TRY(ca_calloc((size_t)count, sizeof *r->fraction, &r->fraction));
    CA_TRY(ca_calloc((size_t)count, sizeof *r->blocks, &r->blocks));
    for (int64_t f = 0; f < count; f++) {
        r->fraction[f] = ca_config_float_at(job->config, FRACTIONS, f);
        r->blocks[f] = layers - (int64_t)floor((1 - r->fraction[f]) * (double)layers);
        if (f > 0 && r->fraction[f] <= r->fraction[f - 1])
            return ca_config_fail(job->config, FRACTIONS,
                                  "expected rising fractions, got %g after %g", r->fraction[f],
                                  r->fraction[f - 1]);
    }
    r->fractions = count;
out:
    return st;
}

int64_t ca_jacobian_randomise_runs(const jacobian *j) {
    return j->randomisation ? 1 + j->randomisation->fractions : 1;
}

/* ---- what it needs ---- */

/* At least the bytes of the tensors of one block, those included that only some families have. */
static int64_t block_bytes(const ca_arch *a, ca_dtype precision, ca_dtype dtype) {
    int64_t heads = a->heads * a->head_dim, qkv = heads + 2 * a->kv_heads * a->head_dim;
    int64_t up = (a->gated ? 2 : 1) * a->mlp_width;
    int64_t matrices = qkv * a->width + heads * a->width + up * a->width + a->mlp_width * a->width;
    int64_t vectors = 10 * a->width + 2 * qkv + up;
    return (int64_t)(ca_method_buffer_bytes(matrices, precision) +
                     ca_method_buffer_bytes(vectors, dtype)) +
           64 * TENSORS;
}

int64_t ca_jacobian_randomise_bytes(const jacobian *j, const ca_job *job) {
    const struct jacobian_randomisation *r = j->randomisation;
    return r ? r->blocks[r->fractions - 1] * block_bytes(job->arch, job->precision, job->dtype) : 0;
}

ca_status ca_jacobian_randomise_create(jacobian *j, const ca_model **model) {
    ca_status st = CA_OK;
    struct jacobian_randomisation *r = j->randomisation;
    const ca_job *job = j->job;
    size_t scores = (size_t)j->score_start[job->data->count], layers = (size_t)job->arch->layers;
    *model = job->model;
    if (!r) return CA_OK;
    r->model = *job->model;
    r->model.layers = NULL;
    CA_TRY(ca_calloc(layers, sizeof *r->model.layers, &r->model.layers));
    memcpy(r->model.layers, job->model->layers, layers * sizeof *r->model.layers);
    CA_TRY(ca_method_buffers_create(job->backend, (size_t)ca_jacobian_randomise_bytes(j, job) + 64,
                                    &r->buffers));
    CA_TRY(ca_calloc(PIECE, sizeof *r->piece, &r->piece));
    CA_TRY(ca_calloc(PIECE, sizeof(double), &r->staging));
    CA_TRY(ca_calloc((size_t)j->columns, sizeof *r->clean, &r->clean));
    CA_TRY(ca_calloc((size_t)j->columns, sizeof *r->spearman, &r->spearman));
    r->columns = j->columns;
    for (int64_t c = 0; c < j->columns; c++) {
        CA_TRY(ca_calloc(scores + 1, sizeof **r->clean, &r->clean[c]));
        CA_TRY(ca_calloc((size_t)(job->data->count * r->fractions), sizeof **r->spearman,
                         &r->spearman[c]));
    }
    *model = &r->model;
out:
    return st;
}

void ca_jacobian_randomise_free(struct jacobian_randomisation *r) {
    if (!r) return;
    ca_method_buffers_free(&r->buffers);
    for (int64_t c = 0; c < r->columns; c++) {
        free(r->clean[c]);
        free(r->spearman[c]);
    }
    void *arrays[] = {r->fraction, r->blocks, r->model.layers, r->piece,
                      r->staging,  r->clean,  r->spearman};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
    free(r);
}

/* ---- random weights ---- */

/* A part of a tensor as a vector. */
static ca_tensor piece_of(ca_tensor flat, int64_t at) {
    int64_t rest = flat.shape[0] - at;
    return ca_tensor_slice(flat, 0, at, rest < PIECE ? rest : PIECE);
}

static ca_status measure(struct jacobian_randomisation *r, ca_tensor flat, double *mean,
                         double *deviation) {
    ca_status st = CA_OK;
    int64_t count = flat.shape[0];
    double sum = 0, square = 0;
    for (int64_t at = 0; at < count; at += PIECE) {
        ca_tensor piece = piece_of(flat, at);
        CA_TRY(ca_download_f64(r->model.backend, piece, r->staging, r->piece));
        for (int64_t i = 0; i < piece.shape[0]; i++) {
            sum += r->piece[i];
            square += r->piece[i] * r->piece[i];
        }
    }
    *mean = sum / (double)count;
    double variance = square / (double)count - *mean * *mean;
    *deviation = variance > 0 ? sqrt(variance) : 0;
out:
    return st;
}

/* Replaces a tensor of the copy by noise; a value depends on seed, tensor and place alone. */
static ca_status randomise_tensor(struct jacobian_randomisation *r, ca_philox_key key,
                                  ca_tensor *tensor) {
    ca_status st = CA_OK;
    double mean, deviation;
    int64_t count = ca_tensor_count(tensor);
    ca_tensor old = ca_tensor_1d(tensor->data, tensor->dtype, count);
    ca_tensor fresh = ca_method_buffers_take(&r->buffers, old.dtype, 1, &count);
    CA_TRY(measure(r, old, &mean, &deviation));
    for (int64_t at = 0; at < count; at += PIECE) {
        ca_tensor piece = piece_of(fresh, at);
        for (int64_t i = 0; i < piece.shape[0]; i++)
            r->piece[i] = mean + deviation * ca_philox_normal(key, (uint64_t)(at + i));
        CA_TRY(ca_upload_f64(r->model.backend, piece, r->staging, r->piece));
    }
    tensor->data = fresh.data;
out:
    return st;
}

/* Makes the blocks from the top random, down to `blocks` of them. */
static ca_status randomise_blocks(jacobian *j, int64_t blocks) {
    ca_status st = CA_OK;
    struct jacobian_randomisation *r = j->randomisation;
    char name[96];
    for (; r->random < blocks; r->random++) {
        int64_t layer = r->model.arch.layers - 1 - r->random;
        for (int t = 0; t < TENSORS; t++) {
            ca_tensor *tensor = (ca_tensor *)((char *)&r->model.layers[layer] + tensors[t].field);
            if (!tensor->data) continue;
            snprintf(name, sizeof name, "jacobian.randomise.%lld.%s", (long long)layer,
                     tensors[t].name);
            ca_philox_key key = {(uint64_t)ca_config_int(j->job->config, "seed"), ca_stream(name)};
            CA_TRY(randomise_tensor(r, key, tensor));
        }
    }
out:
    return st;
}

/* ---- comparison ---- */

/* Rank correlations of the micro-batch that was run last, over the candidates of each prompt. */
static ca_status correlate(jacobian *j, int64_t fraction) {
    ca_status st = CA_OK;
    struct jacobian_randomisation *r = j->randomisation;
    ranked_value *items = NULL;
    double *values = NULL;
    size_t most = (size_t)j->most_scores;
    CA_TRY(ca_calloc(most, sizeof *items, &items));
    CA_TRY(ca_calloc(4 * most, sizeof *values, &values));
    for (int64_t c = 0; c < j->columns; c++)
        for (int64_t i = j->first; i < j->last; i++) {
            int64_t first, count;
            ca_jacobian_candidates(j, j->job, i, &first, &count);
            double *before = values, *after = values + count;
            for (int64_t k = 0; k < count; k++) {
                int64_t at = j->score_start[i] + first + k;
                before[k] = (double)r->clean[c][at];
                after[k] = (double)j->column[c].score[at - j->score_start[j->first]];
            }
            r->spearman[c][i * r->fractions + fraction] =
                ca_statistics_spearman(before, after, count, items, values + 2 * count);
        }
out:
    free(items);
    free(values);
    return st;
}

static ca_status put_column(jacobian *j, int64_t c) {
    ca_status st = CA_OK;
    const struct jacobian_randomisation *r = j->randomisation;
    int64_t n = j->job->data->count;
    double mean[MOST_FRACTIONS], sem[MOST_FRACTIONS], *values = NULL;
    char path[96];
    CA_TRY(ca_calloc((size_t)n, sizeof *values, &values));
    for (int64_t f = 0; f < r->fractions; f++) {
        for (int64_t i = 0; i < n; i++) values[i] = r->spearman[c][i * r->fractions + f];
        mean[f] = ca_statistics_mean(values, n);
        sem[f] = ca_statistics_sem(values, n);
    }
    const struct {
        const char *name;
        ca_result_shape shape;
        const double *values;
    } list[] = {
        {"spearman", {2, {n, r->fractions}, {"example", "fraction"}}, r->spearman[c]},
        {"spearman_mean", {1, {r->fractions}, {"fraction"}}, mean},
        {"spearman_sem", {1, {r->fractions}, {"fraction"}}, sem},
    };
    for (size_t k = 0; k < sizeof list / sizeof *list; k++) {
        snprintf(path, sizeof path, "/evaluation/randomise/%s/%s", j->column[c].scope->name,
                 list[k].name);
        CA_TRY(ca_result_put(j->job->result, path, CA_RESULT_F64, list[k].shape, list[k].values));
    }
out:
    free(values);
    return st;
}

static ca_status put_results(jacobian *j) {
    ca_status st = CA_OK;
    const struct jacobian_randomisation *r = j->randomisation;
    ca_result_shape shape = {1, {r->fractions}, {"fraction"}};
    CA_TRY(ca_result_put(j->job->result, "/evaluation/randomise/fraction", CA_RESULT_F64, shape,
                         r->fraction));
    CA_TRY(ca_result_put(j->job->result, "/evaluation/randomise/blocks", CA_RESULT_I64, shape,
                         r->blocks));
    for (int64_t c = 0; c < j->columns; c++) CA_TRY(put_column(j, c));
out:
    return st;
}

/* Scores and targets of all prompts, of which a resumed run has computed only some. */
static ca_status read_back(jacobian *j) {
    ca_status st = CA_OK;
    char path[96];
    int32_t *target = NULL;
    int64_t reads = j->reads.start[j->job->data->count];
    CA_TRY(ca_calloc((size_t)reads + 1, sizeof *target, &target));
    CA_TRY(ca_result_read_back(j->job->result, "/data/target", target));
    for (int64_t i = 0; i < reads; i++) j->reads.read[i].id = target[i];
    for (int64_t c = 0; c < j->columns; c++) {
        snprintf(path, sizeof path, "/attribution/%s/score", j->column[c].scope->name);
        CA_TRY(ca_result_read_back(j->job->result, path, j->randomisation->clean[c]));
    }
out:
    free(target);
    return st;
}

ca_status ca_jacobian_randomise(jacobian *j, jacobian_rerun rerun) {
    ca_status st = CA_OK;
    struct jacobian_randomisation *r = j->randomisation;
    ca_progress progress;
    if (!r) return CA_OK;
    ca_progress_start(&progress, "random weights", "prompt", r->fractions * j->job->data->count);
    j->control = true;
    CA_TRY(read_back(j));
    for (int64_t f = 0; f < r->fractions; f++) {
        CA_TRY(randomise_blocks(j, r->blocks[f]));
        for (int64_t b = 0; b < j->packing.batches; b++) {
            int64_t first = j->packing.first[b], last = j->packing.first[b + 1];
            CA_TRY(ca_signal_status());
            CA_TRY(rerun(j, first, last));
            CA_TRY(correlate(j, f));
            ca_progress_add(&progress, last - first);
        }
    }
    CA_TRY(put_results(j));
out:
    ca_progress_finish(&progress);
    return st;
}
