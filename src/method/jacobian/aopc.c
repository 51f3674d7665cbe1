/* SPDX-License-Identifier: MIT
 *
 * AOPC: how far the log-probability of the model's own prediction falls when the tokens that a
 * scope scores highest are ablated, as an area over the ablated fraction. Beside the scopes stands
 * `random`, whose tokens are drawn anew for every fraction.
 */
#include "evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *name_of(const jacobian *j, int64_t column) {
    return column < j->columns ? j->column[column].scope->name : "random";
}

static const char *path_of(const jacobian *j, int64_t column, const char *dataset, char path[96]) {
    snprintf(path, 96, "/evaluation/aopc/%s%s%s", name_of(j, column), dataset[0] ? "/" : "",
             dataset);
    return path;
}

int64_t ca_jacobian_ablated_count(const jacobian *j, const ca_job *job, int64_t example,
                                  int64_t fraction) {
    const jacobian_evaluation *e = j->evaluation;
    int64_t first, most, all = ca_jacobian_candidates(j, job, example, &first, &most);
    int64_t count = (int64_t)floor((double)all * e->fraction[fraction]);
    if (e->ablation == ABLATE_DELETE && first == 0) most--; /* a token must be left */
    if (count < 1) count = 1;
    return count < most ? count : most;
}

/* Stored tokens of an example: the largest set of a scope, of random the sets of all fractions. */
static int64_t stored_count(const jacobian *j, int64_t column, int64_t example) {
    const jacobian_evaluation *e = j->evaluation;
    int64_t sum = 0;
    if (column < j->columns) return ca_jacobian_ablated_count(j, j->job, example, e->fractions - 1);
    for (int64_t f = 0; f < e->fractions; f++)
        sum += ca_jacobian_ablated_count(j, j->job, example, f);
    return sum;
}

/* ---- datasets ---- */

static ca_status put_counts(jacobian *j) {
    ca_status st = CA_OK;
    const jacobian_evaluation *e = j->evaluation;
    ca_result *r = j->job->result;
    int64_t n = j->job->data->count, fractions = e->fractions;
    int32_t *counts = NULL;
    CA_TRY(ca_calloc((size_t)(n * fractions) + 1, sizeof *counts, &counts));
    for (int64_t i = 0; i < n * fractions; i++)
        counts[i] = (int32_t)ca_jacobian_ablated_count(j, j->job, i / fractions, i % fractions);
    CA_TRY(ca_result_put(r, "/evaluation/aopc/fraction", CA_RESULT_F64,
                         (ca_result_shape){1, {fractions}, {"fraction"}}, e->fraction));
    CA_TRY(ca_result_put(r, "/evaluation/aopc/count", CA_RESULT_I32,
                         (ca_result_shape){2, {n, fractions}, {"example", "fraction"}}, counts));
    CA_TRY(ca_result_scale(r, "/evaluation/aopc/count", 1, "/evaluation/aopc/fraction"));
out:
    free(counts);
    return st;
}

static ca_status reserve_column(jacobian *j, int64_t column, int64_t *offsets) {
    ca_status st = CA_OK;
    ca_result *r = j->job->result;
    int64_t n = j->job->data->count, fractions = j->evaluation->fractions;
    char path[96];
    for (int64_t i = 0; i < n; i++) offsets[i + 1] = offsets[i] + stored_count(j, column, i);
    CA_TRY(ca_result_reserve(r, path_of(j, column, "delta_logprob", path), CA_RESULT_F64,
                             (ca_result_shape){2, {n, fractions}, {"example", "fraction"}}));
    CA_TRY(ca_result_scale(r, path, 1, "/evaluation/aopc/fraction"));
    CA_TRY(ca_result_reserve(r, path_of(j, column, "kl", path), CA_RESULT_F64,
                             (ca_result_shape){2, {n, fractions}, {"example", "fraction"}}));
    CA_TRY(ca_result_reserve(r, path_of(j, column, "flipped", path), CA_RESULT_BOOL,
                             (ca_result_shape){2, {n, fractions}, {"example", "fraction"}}));
    CA_TRY(ca_result_reserve(r, path_of(j, column, "aopc_per_example", path), CA_RESULT_F64,
                             (ca_result_shape){1, {n}, {"example"}}));
    CA_TRY(ca_result_reserve(r, path_of(j, column, "ablated", path), CA_RESULT_I32,
                             (ca_result_shape){1, {offsets[n]}, {"token"}}));
    CA_TRY(ca_result_put(r, path_of(j, column, "ablated_offsets", path), CA_RESULT_I64,
                         (ca_result_shape){1, {n + 1}, {"example"}}, offsets));
out:
    return st;
}

ca_status ca_jacobian_aopc_reserve(jacobian *j) {
    ca_status st = CA_OK;
    int64_t *offsets = NULL;
    CA_TRY(put_counts(j));
    CA_TRY(ca_calloc((size_t)j->job->data->count + 1, sizeof *offsets, &offsets));
    for (int64_t c = 0; c <= j->columns; c++) CA_TRY(reserve_column(j, c, offsets));
    CA_TRY(
        ca_result_attribute_text(j->job->result, "/evaluation/aopc", "ablation",
                                 ca_config_text(j->job->config, "method.evaluate.aopc.ablation")));
    if (j->evaluation->ablation == ABLATE_PAD)
        CA_TRY(
            ca_result_attribute_int(j->job->result, "/evaluation/aopc", "pad", j->evaluation->pad));
out:
    free(offsets);
    return st;
}

/* ---- choice of tokens ---- */

/* The highest scores of an example, best first. */
static void choose_best(jacobian *j, int64_t column, int64_t example, int64_t count, int32_t *set) {
    ranked_value *items = j->evaluation->ranking;
    int64_t first, candidates;
    ca_jacobian_candidates(j, j->job, example, &first, &candidates);
    const float *score =
        j->column[column].score + j->score_start[example] - j->score_start[j->first];
    for (int64_t k = 0; k < candidates; k++)
        items[k] = (ranked_value){(double)score[first + k], first + k};
    ca_statistics_sort(items, candidates);
    for (int64_t k = 0; k < count; k++) set[k] = (int32_t)items[k].index;
}

/* Draws without replacement: the first `count` steps of a Fisher-Yates shuffle. */
static void choose_random(jacobian *j, int64_t example, int64_t fraction, int64_t count,
                          int32_t *set) {
    int64_t *pool = j->evaluation->tokens, first, candidates;
    const ca_prompt_text *prompt = &j->job->data->examples[example].clean;
    ca_philox_key key = {(uint64_t)ca_config_int(j->job->config, "seed"),
                         ca_method_prompt_stream("jacobian.random", prompt, fraction)};
    ca_jacobian_candidates(j, j->job, example, &first, &candidates);
    for (int64_t k = 0; k < candidates; k++) pool[k] = first + k;
    for (int64_t k = 0; k < count; k++) {
        double u = ca_philox_uniform(key, (uint64_t)k);
        int64_t drawn = k + (int64_t)(u * (double)(candidates - k)), token = pool[drawn];
        pool[drawn] = pool[k];
        set[k] = (int32_t)token;
    }
}

/* ---- runs ---- */

/* Where the values of a column and example begin, one a fraction. */
static int64_t place_of(const jacobian *j, int64_t column, int64_t example) {
    return (column * (j->last - j->first) + example - j->first) * j->evaluation->fractions;
}

/* index: column and fraction. */
static void take(jacobian *j, int64_t example, int64_t index, const double *log_p) {
    const jacobian_evaluation *e = j->evaluation;
    int64_t at = place_of(j, index / e->fractions, example) + index % e->fractions;
    e->delta[at] = log_p[e->predicted] - e->clean[e->predicted];
    e->divergence[at] = ca_jacobian_divergence(j, log_p);
    e->flipped[at] = false;
    for (int64_t i = 0; i < j->job->arch->vocab; i++)
        e->flipped[at] = e->flipped[at] || log_p[i] > log_p[e->predicted];
}

static int rising(const void *left, const void *right) {
    const int64_t *a = left, *b = right;
    return (*a > *b) - (*a < *b);
}

/* The runs of an example for all fractions of a column; writes the tokens. */
static ca_status add_runs(jacobian *j, int64_t column, int64_t example, int64_t stored_at) {
    ca_status st = CA_OK;
    jacobian_evaluation *e = j->evaluation;
    bool random = column == j->columns;
    int64_t stored = stored_count(j, column, example);
    int32_t *set = e->set;
    char path[96];
    if (!random) choose_best(j, column, example, stored, set);
    for (int64_t f = 0; f < e->fractions; f++) {
        int64_t count = ca_jacobian_ablated_count(j, j->job, example, f);
        if (random) choose_random(j, example, f, count, set);
        for (int64_t k = 0; k < count; k++) e->tokens[k] = set[k];
        qsort(e->tokens, (size_t)count, sizeof *e->tokens, rising);
        CA_TRY(ca_jacobian_ablate(j, example, e->tokens, count, column * e->fractions + f));
        if (random) set += count;
    }
    CA_TRY(ca_result_write(j->job->result, path_of(j, column, "ablated", path), stored_at, stored,
                           e->set));
out:
    return st;
}

static ca_status write_column(jacobian *j, int64_t column) {
    ca_status st = CA_OK;
    const jacobian_evaluation *e = j->evaluation;
    ca_result *r = j->job->result;
    int64_t at = place_of(j, column, j->first), n = j->last - j->first;
    char path[96];
    CA_TRY(
        ca_result_write(r, path_of(j, column, "delta_logprob", path), j->first, n, e->delta + at));
    CA_TRY(ca_result_write(r, path_of(j, column, "kl", path), j->first, n, e->divergence + at));
    CA_TRY(ca_result_write(r, path_of(j, column, "flipped", path), j->first, n, e->flipped + at));
    for (int64_t i = j->first; i < j->last; i++) {
        double area =
            ca_statistics_area(e->fraction, e->delta + place_of(j, column, i), e->fractions);
        CA_TRY(ca_result_write(r, path_of(j, column, "aopc_per_example", path), i, 1, &area));
    }
out:
    return st;
}

ca_status ca_jacobian_aopc(jacobian *j) {
    ca_status st = CA_OK;
    int64_t stored_at[JACOBIAN_MOST_SCOPES + 1] = {0};
    for (int64_t c = 0; c <= j->columns; c++)
        for (int64_t i = 0; i < j->first; i++) stored_at[c] += stored_count(j, c, i);
    ca_jacobian_ablate_begin(j, j->evaluation->ablation, take);
    for (int64_t i = j->first; i < j->last; i++)
        for (int64_t c = 0; c <= j->columns; c++) {
            CA_TRY(add_runs(j, c, i, stored_at[c]));
            stored_at[c] += stored_count(j, c, i);
        }
    CA_TRY(ca_jacobian_ablate_end(j));
    for (int64_t c = 0; c <= j->columns; c++) CA_TRY(write_column(j, c));
out:
    return st;
}

/* ---- summary ---- */

/* Per fraction the mean of delta_logprob and its standard error; the published one of the area. */
static ca_status summarise_fractions(jacobian *j, int64_t column, const double *delta,
                                     double *values) {
    ca_status st = CA_OK;
    const jacobian_evaluation *e = j->evaluation;
    ca_result *r = j->job->result;
    int64_t n = j->job->data->count, fractions = e->fractions;
    double *mean = NULL, *sem = NULL;
    char path[96];
    ca_result_shape shape = {1, {fractions}, {"fraction"}};
    CA_TRY(ca_calloc((size_t)fractions, sizeof *mean, &mean));
    CA_TRY(ca_calloc((size_t)fractions, sizeof *sem, &sem));
    for (int64_t f = 0; f < fractions; f++) {
        for (int64_t i = 0; i < n; i++) values[i] = delta[i * fractions + f];
        mean[f] = ca_statistics_mean(values, n);
        sem[f] = ca_statistics_sem(values, n);
    }
    CA_TRY(ca_result_put(r, path_of(j, column, "delta_mean", path), CA_RESULT_F64, shape, mean));
    CA_TRY(ca_result_put(r, path_of(j, column, "delta_sem", path), CA_RESULT_F64, shape, sem));
    for (int64_t f = 0; f < fractions; f++) /* published: from the population's deviation */
        sem[f] *= sqrt((double)(n - 1) / (double)n);
    CA_TRY(ca_result_attribute_float(r, path_of(j, column, "", path), "published_sem",
                                     ca_statistics_published_sem(e->fraction, sem, fractions)));
out:
    free(mean);
    free(sem);
    return st;
}

/* Per fraction the mean divergence and the share of prompts with another first choice. */
static ca_status summarise_distributions(jacobian *j, int64_t column) {
    ca_status st = CA_OK;
    ca_result *r = j->job->result;
    int64_t n = j->job->data->count, fractions = j->evaluation->fractions;
    double *kl = NULL, *mean = NULL, *rate = NULL;
    int8_t *flipped = NULL;
    char path[96];
    ca_result_shape shape = {1, {fractions}, {"fraction"}};
    CA_TRY(ca_calloc((size_t)(n * fractions) + 1, sizeof *kl, &kl));
    CA_TRY(ca_calloc((size_t)(n * fractions) + 1, sizeof *flipped, &flipped));
    CA_TRY(ca_calloc((size_t)fractions, sizeof *mean, &mean));
    CA_TRY(ca_calloc((size_t)fractions, sizeof *rate, &rate));
    CA_TRY(ca_result_read_back(r, path_of(j, column, "kl", path), kl));
    CA_TRY(ca_result_read_back(r, path_of(j, column, "flipped", path), flipped));
    for (int64_t i = 0; i < n * fractions; i++) {
        mean[i % fractions] += kl[i] / (double)n;
        rate[i % fractions] += flipped[i] / (double)n;
    }
    CA_TRY(ca_result_put(r, path_of(j, column, "kl_mean", path), CA_RESULT_F64, shape, mean));
    CA_TRY(ca_result_put(r, path_of(j, column, "flip_rate", path), CA_RESULT_F64, shape, rate));
out:
    free(kl);
    free(flipped);
    free(mean);
    free(rate);
    return st;
}

/* Mean, error, interval and test of differences [n]. prefix: of the attributes' names. */
static ca_status put_differences(jacobian *j, const char *group, const char *prefix,
                                 const double *difference, int64_t n) {
    ca_status st = CA_OK;
    ranked_value *items = NULL;
    char name[48];
    CA_TRY(ca_calloc((size_t)n + 1, sizeof *items, &items));
    const struct {
        const char *name;
        double value;
    } list[] = {
        {"difference", ca_statistics_mean(difference, n)},
        {"sem", ca_statistics_sem(difference, n)},
        {"interval", ca_statistics_half_width(difference, n)},
        {"wilcoxon", ca_statistics_wilcoxon(difference, n, items)},
    };
    for (size_t k = 0; k < sizeof list / sizeof *list; k++) {
        snprintf(name, sizeof name, "%s_%s", prefix, list[k].name);
        CA_TRY(ca_result_attribute_float(j->job->result, group, name, list[k].value));
    }
out:
    free(items);
    return st;
}

/* Areas of a column, and against those of the baseline: of all prompts, and of those whose target
 * is what the model predicts, since the areas are of the prediction. */
static ca_status summarise_areas(jacobian *j, int64_t column, int64_t baseline, double *area,
                                 double *other, const bool *aligned) {
    ca_status st = CA_OK;
    ca_result *r = j->job->result;
    int64_t n = j->job->data->count, kept = 0;
    char path[96];
    CA_TRY(ca_result_read_back(r, path_of(j, column, "aopc_per_example", path), area));
    path_of(j, column, "", path);
    CA_TRY(ca_result_attribute_float(r, path, "aopc", ca_statistics_mean(area, n)));
    CA_TRY(ca_result_attribute_float(r, path, "sem", ca_statistics_sem(area, n)));
    if (column == baseline) return CA_OK;
    CA_TRY(ca_result_read_back(r, path_of(j, baseline, "aopc_per_example", path), other));
    for (int64_t i = 0; i < n; i++) area[i] -= other[i];
    path_of(j, column, "", path);
    CA_TRY(ca_result_attribute_text(r, path, "paired_with", name_of(j, baseline)));
    CA_TRY(put_differences(j, path, "paired", area, n));
    for (int64_t i = 0; i < n; i++)
        if (aligned[i]) area[kept++] = area[i];
    CA_TRY(put_differences(j, path, "aligned", area, kept));
out:
    return st;
}

/* aligned [N]: the target is the prediction. */
static ca_status find_aligned(jacobian *j, bool **aligned) {
    ca_status st = CA_OK;
    int64_t n = j->job->data->count, count = 0;
    int32_t *target = NULL, *predicted = NULL;
    CA_TRY(ca_calloc((size_t)n + 1, sizeof **aligned, aligned));
    CA_TRY(ca_calloc((size_t)n + 1, sizeof *target, &target));
    CA_TRY(ca_calloc((size_t)n + 1, sizeof *predicted, &predicted));
    CA_TRY(ca_result_read_back(j->job->result, "/data/target", target));
    CA_TRY(ca_result_read_back(j->job->result, "/baseline/predicted", predicted));
    for (int64_t i = 0; i < n; i++) count += (*aligned)[i] = target[i] == predicted[i];
    CA_TRY(ca_result_attribute_int(j->job->result, "/evaluation/aopc", "aligned_prompts", count));
out:
    free(target);
    free(predicted);
    return st;
}

ca_status ca_jacobian_aopc_summary(jacobian *j) {
    ca_status st = CA_OK;
    int64_t n = j->job->data->count, baseline = j->columns; /* random */
    double *delta = NULL, *values = NULL, *other = NULL;
    bool *aligned = NULL;
    char path[96];
    CA_TRY(find_aligned(j, &aligned));
    CA_TRY(ca_calloc((size_t)(n * j->evaluation->fractions) + 1, sizeof *delta, &delta));
    CA_TRY(ca_calloc((size_t)n + 1, sizeof *values, &values));
    CA_TRY(ca_calloc((size_t)n + 1, sizeof *other, &other));
    for (int64_t c = 0; c < j->columns; c++)
        if (strcmp(name_of(j, c), "input_x_gradient") == 0) baseline = c;
    for (int64_t c = 0; c <= j->columns; c++) {
        CA_TRY(ca_result_read_back(j->job->result, path_of(j, c, "delta_logprob", path), delta));
        CA_TRY(summarise_fractions(j, c, delta, values));
        CA_TRY(summarise_distributions(j, c));
        CA_TRY(summarise_areas(j, c, baseline, values, other, aligned));
    }
out:
    free(delta);
    free(values);
    free(other);
    free(aligned);
    return st;
}
