/* SPDX-License-Identifier: MIT
 *
 * The pass runs on a shallow copy of the model. A block is randomised by pointing the copy's
 * tensors at memory of our own that holds what a block holds before training: matrices of normal
 * noise with the deviation that the config names, biases 0, gains 1. Embeddings, final norm and
 * unembedding stay, and so do targets. See randomise.h.
 */
#include "randomise.h"

#include "evaluate.h"
#include "statistics.h"

#include "causa/ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define FRACTIONS "method.evaluate.randomise.fractions"

enum { MOST_FRACTIONS = 64, PIECE = 1 << 18 /* elements made at a time */, PERMUTATIONS = 20 };

/* How two orders of a prompt's tokens are compared. */
enum { SPEARMAN, JACCARD, AGREEMENTS };
static const char *const agreement_names[AGREEMENTS] = {"spearman", "top10_jaccard"};

/* Of one scope. */
typedef struct column_agreement {
    float *clean;              /* scores of the model */
    double *value[AGREEMENTS]; /* [N, fractions] */
    double *floor[AGREEMENTS]; /* [N] of the scores in random order */
} column_agreement;

struct jacobian_randomisation {
    int64_t fractions;
    double *fraction; /* [fractions] rising */
    int64_t *blocks;  /* [fractions] from the top */
    ca_model model;   /* shares all but its layers */
    int64_t random;   /* blocks from the top that are random by now */
    method_buffers buffers;
    double *piece; /* [PIECE] */
    void *staging; /* [PIECE] */
    int64_t columns;
    column_agreement *column; /* [columns] */
};

/* What a tensor is before training. */
typedef enum tensor_role { ROLE_WEIGHT, ROLE_BIAS, ROLE_GAIN } tensor_role;

#define TENSOR(name, role)                                                                         \
    { offsetof(ca_layer, name), #name, role }
static const struct {
    size_t field;
    const char *name;
    tensor_role role;
} tensors[] = {
    TENSOR(norm1_gain, ROLE_GAIN),      TENSOR(norm1_bias, ROLE_BIAS),
    TENSOR(qkv_weight, ROLE_WEIGHT),    TENSOR(qkv_bias, ROLE_BIAS),
    TENSOR(q_norm_gain, ROLE_GAIN),     TENSOR(k_norm_gain, ROLE_GAIN),
    TENSOR(out_weight, ROLE_WEIGHT),    TENSOR(out_bias, ROLE_BIAS),
    TENSOR(post_norm1_gain, ROLE_GAIN), TENSOR(post_norm1_bias, ROLE_BIAS),
    TENSOR(norm2_gain, ROLE_GAIN),      TENSOR(norm2_bias, ROLE_BIAS),
    TENSOR(up_weight, ROLE_WEIGHT),     TENSOR(up_bias, ROLE_BIAS),
    TENSOR(down_weight, ROLE_WEIGHT),   TENSOR(down_bias, ROLE_BIAS),
    TENSOR(post_norm2_gain, ROLE_GAIN), TENSOR(post_norm2_bias, ROLE_BIAS),
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
    size_t n = (size_t)job->data->count;
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
    CA_TRY(ca_calloc((size_t)j->columns, sizeof *r->column, &r->column));
    r->columns = j->columns;
    for (int64_t c = 0; c < j->columns; c++) {
        column_agreement *column = &r->column[c];
        CA_TRY(ca_calloc(scores + 1, sizeof *column->clean, &column->clean));
        for (int a = 0; a < AGREEMENTS; a++) {
            CA_TRY(ca_calloc(n * (size_t)r->fractions, sizeof(double), &column->value[a]));
            CA_TRY(ca_calloc(n, sizeof(double), &column->floor[a]));
        }
    }
    *model = &r->model;
out:
    return st;
}

void ca_jacobian_randomise_free(struct jacobian_randomisation *r) {
    if (!r) return;
    ca_method_buffers_free(&r->buffers);
    for (int64_t c = 0; c < r->columns; c++) {
        free(r->column[c].clean);
        for (int a = 0; a < AGREEMENTS; a++) {
            free(r->column[c].value[a]);
            free(r->column[c].floor[a]);
        }
    }
    void *arrays[] = {r->fraction, r->blocks, r->model.layers, r->piece, r->staging, r->column};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
    free(r);
}

/* ---- random weights ---- */

/* An untrained value of a tensor; depends on key and place alone. */
static double initial_value(const ca_arch *arch, tensor_role role, ca_philox_key key, int64_t i) {
    if (role == ROLE_BIAS) return 0;
    if (role == ROLE_GAIN) return 1 - arch->norm.gain_offset;
    return arch->initializer_range * ca_philox_normal(key, (uint64_t)i);
}

/* Replaces a tensor of the copy. */
static ca_status randomise_tensor(struct jacobian_randomisation *r, ca_philox_key key,
                                  tensor_role role, ca_tensor *tensor) {
    ca_status st = CA_OK;
    int64_t count = ca_tensor_count(tensor);
    ca_tensor fresh = ca_method_buffers_take(&r->buffers, tensor->dtype, 1, &count);
    for (int64_t at = 0; at < count; at += PIECE) {
        int64_t size = count - at < PIECE ? count - at : PIECE;
        for (int64_t i = 0; i < size; i++)
            r->piece[i] = initial_value(&r->model.arch, role, key, at + i);
        CA_TRY(ca_upload_f64(r->model.backend, ca_tensor_slice(fresh, 0, at, size), r->staging,
                             r->piece));
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
            CA_TRY(randomise_tensor(r, key, tensors[t].role, tensor));
        }
    }
out:
    return st;
}

/* ---- comparison ---- */

/* Room for the tokens of one prompt. */
typedef struct comparison {
    ranked_value *items;
    double *before, *after, *ranks;
} comparison;

static ca_status comparison_create(const jacobian *j, comparison *w) {
    ca_status st = CA_OK;
    size_t most = (size_t)j->most_scores;
    CA_TRY(ca_calloc(most, sizeof *w->items, &w->items));
    CA_TRY(ca_calloc(most, sizeof *w->before, &w->before));
    CA_TRY(ca_calloc(most, sizeof *w->after, &w->after));
    CA_TRY(ca_calloc(2 * most, sizeof *w->ranks, &w->ranks));
out:
    return st;
}

static void comparison_free(comparison *w) {
    free(w->items);
    free(w->before);
    free(w->after);
    free(w->ranks);
}

/* all: tokens that the tenth is of, as in loo. */
static void compare(const comparison *w, int64_t count, int64_t all, double value[AGREEMENTS]) {
    int64_t top = (all + 9) / 10 < count ? (all + 9) / 10 : count;
    value[SPEARMAN] = ca_statistics_spearman(w->before, w->after, count, w->items, w->ranks);
    value[JACCARD] = ca_statistics_top_jaccard(w->before, w->after, count, top, w->items, w->ranks);
}

/* The micro-batch that was run last, over the candidates of each prompt. */
static ca_status compare_batch(jacobian *j, int64_t fraction) {
    ca_status st = CA_OK;
    struct jacobian_randomisation *r = j->randomisation;
    comparison w = {0};
    double value[AGREEMENTS];
    CA_TRY(comparison_create(j, &w));
    for (int64_t c = 0; c < j->columns; c++)
        for (int64_t i = j->first; i < j->last; i++) {
            int64_t first, count, all = ca_jacobian_candidates(j, j->job, i, &first, &count);
            for (int64_t k = 0; k < count; k++) {
                int64_t at = j->score_start[i] + first + k;
                w.before[k] = (double)r->column[c].clean[at];
                w.after[k] = (double)j->column[c].score[at - j->score_start[j->first]];
            }
            compare(&w, count, all, value);
            for (int a = 0; a < AGREEMENTS; a++)
                r->column[c].value[a][i * r->fractions + fraction] = value[a];
        }
out:
    comparison_free(&w);
    return st;
}

/* A random order of the values, drawn anew for every prompt and draw. */
static void shuffle(const jacobian *j, int64_t example, int64_t draw, int64_t count,
                    double *values) {
    const ca_prompt_text *prompt = &j->job->data->examples[example].clean;
    ca_philox_key key = {(uint64_t)ca_config_int(j->job->config, "seed"),
                         ca_method_prompt_stream("jacobian.permutation", prompt, draw)};
    for (int64_t k = 0; k + 1 < count; k++) {
        double u = ca_philox_uniform(key, (uint64_t)k), swap = values[k];
        int64_t other = k + (int64_t)(u * (double)(count - k));
        values[k] = values[other];
        values[other] = swap;
    }
}

/* What chance alone gives: means over random orders of the model's scores. */
static ca_status find_floors(jacobian *j) {
    ca_status st = CA_OK;
    struct jacobian_randomisation *r = j->randomisation;
    comparison w = {0};
    double value[AGREEMENTS];
    CA_TRY(comparison_create(j, &w));
    for (int64_t c = 0; c < j->columns; c++)
        for (int64_t i = 0; i < j->job->data->count; i++) {
            int64_t first, count, all = ca_jacobian_candidates(j, j->job, i, &first, &count);
            const float *clean = r->column[c].clean + j->score_start[i] + first;
            for (int64_t draw = 0; draw < PERMUTATIONS; draw++) {
                for (int64_t k = 0; k < count; k++) w.before[k] = w.after[k] = (double)clean[k];
                shuffle(j, i, draw, count, w.after);
                compare(&w, count, all, value);
                for (int a = 0; a < AGREEMENTS; a++)
                    r->column[c].floor[a][i] += value[a] / PERMUTATIONS;
            }
        }
out:
    comparison_free(&w);
    return st;
}

/* One way of comparing, of one scope. */
static ca_status put_agreement(jacobian *j, int64_t c, int a) {
    ca_status st = CA_OK;
    const struct jacobian_randomisation *r = j->randomisation;
    const column_agreement *column = &r->column[c];
    int64_t n = j->job->data->count;
    double mean[MOST_FRACTIONS], sem[MOST_FRACTIONS], *values = NULL;
    char group[64], path[96];
    CA_TRY(ca_calloc((size_t)n, sizeof *values, &values));
    for (int64_t f = 0; f < r->fractions; f++) {
        for (int64_t i = 0; i < n; i++) values[i] = column->value[a][i * r->fractions + f];
        mean[f] = ca_statistics_mean(values, n);
        sem[f] = ca_statistics_sem(values, n);
    }
    const struct {
        const char *suffix;
        ca_result_shape shape;
        const double *values;
    } list[] = {
        {"", {2, {n, r->fractions}, {"example", "fraction"}}, column->value[a]},
        {"_mean", {1, {r->fractions}, {"fraction"}}, mean},
        {"_sem", {1, {r->fractions}, {"fraction"}}, sem},
        {"_floor", {1, {n}, {"example"}}, column->floor[a]},
    };
    snprintf(group, sizeof group, "/evaluation/randomise/%s", j->column[c].scope->name);
    for (size_t k = 0; k < sizeof list / sizeof *list; k++) {
        snprintf(path, sizeof path, "%s/%s%s", group, agreement_names[a], list[k].suffix);
        CA_TRY(ca_result_put(j->job->result, path, CA_RESULT_F64, list[k].shape, list[k].values));
    }
    snprintf(path, sizeof path, "%s_floor", agreement_names[a]);
    CA_TRY(ca_result_attribute_float(j->job->result, group, path,
                                     ca_statistics_mean(column->floor[a], n)));
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
    for (int64_t c = 0; c < j->columns; c++)
        for (int a = 0; a < AGREEMENTS; a++) CA_TRY(put_agreement(j, c, a));
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
        CA_TRY(ca_result_read_back(j->job->result, path, j->randomisation->column[c].clean));
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
    CA_TRY(find_floors(j));
    for (int64_t f = 0; f < r->fractions; f++) {
        CA_TRY(randomise_blocks(j, r->blocks[f]));
        for (int64_t b = 0; b < j->packing.batches; b++) {
            int64_t first = j->packing.first[b], last = j->packing.first[b + 1];
            CA_TRY(ca_signal_status());
            CA_TRY(rerun(j, first, last));
            CA_TRY(compare_batch(j, f));
            ca_progress_add(&progress, last - first);
        }
    }
    CA_TRY(put_results(j));
out:
    ca_progress_finish(&progress);
    return st;
}
