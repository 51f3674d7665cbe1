/* SPDX-License-Identifier: MIT
 *
 * Leave-one-out: the Kullback-Leibler divergence that zeroing each token alone causes, and how well
 * the order of every scope's scores, and of random ones, agrees with it.
 */
#include "evaluate.h"

#include <math.h>
#include <stdlib.h>

typedef struct loo_statistic {
    const char *name;
    double (*value)(jacobian *j, int64_t example, const double *score, const double *kl,
                    int64_t count);
} loo_statistic;

static double spearman(jacobian *j, int64_t example, const double *score, const double *kl,
                       int64_t count) {
    (void)example;
    return ca_statistics_spearman(score, kl, count, j->evaluation->ranking, j->evaluation->ranks);
}

static double kendall(jacobian *j, int64_t example, const double *score, const double *kl,
                      int64_t count) {
    (void)j;
    (void)example;
    return ca_statistics_kendall(score, kl, count);
}

/* How many tokens have a larger divergence than the best-scored one, in percent. */
static double top1_percentile(jacobian *j, int64_t example, const double *score, const double *kl,
                              int64_t count) {
    int64_t best = 0, before = 0, first, candidates;
    for (int64_t k = 1; k < count; k++)
        if (score[k] > score[best]) best = k;
    for (int64_t k = 0; k < count; k++)
        before += kl[k] > kl[best] || (kl[k] == kl[best] && k < best);
    int64_t all = ca_jacobian_candidates(j, j->job, example, &first, &candidates);
    return 100 * (double)before / (double)all;
}

/* Of the tenth of the tokens that each puts first. */
static double top10_jaccard(jacobian *j, int64_t example, const double *score, const double *kl,
                            int64_t count) {
    int64_t first, candidates,
        all = ca_jacobian_candidates(j, j->job, example, &first, &candidates);
    int64_t top = (all + 9) / 10 < count ? (all + 9) / 10 : count;
    return ca_statistics_top_jaccard(score, kl, count, top, j->evaluation->ranking,
                                     j->evaluation->ranks);
}

static const loo_statistic statistics[] = {
    {"spearman", spearman},
    {"kendall", kendall},
    {"top1_percentile", top1_percentile},
    {"top10_jaccard", top10_jaccard},
};
enum { STATISTICS = sizeof statistics / sizeof *statistics };

/* Beside the scopes stands `random`. */
static const char *path_of(const jacobian *j, int64_t column, const char *dataset, char path[96]) {
    const char *name = column < j->columns ? j->column[column].scope->name : "random";
    snprintf(path, 96, "/evaluation/loo/%s%s%s", name, dataset[0] ? "/" : "", dataset);
    return path;
}

ca_status ca_jacobian_loo_reserve(jacobian *j) {
    ca_status st = CA_OK;
    ca_result *r = j->job->result;
    int64_t n = j->job->data->count;
    char path[96];
    CA_TRY(ca_result_reserve(r, "/evaluation/loo/kl", CA_RESULT_F64,
                             (ca_result_shape){1, {j->score_start[n]}, {"token"}}));
    CA_TRY(ca_result_attribute_text(r, "/evaluation/loo", "units", "nats"));
    for (int64_t c = 0; c <= j->columns; c++)
        for (int s = 0; s < STATISTICS; s++)
            CA_TRY(ca_result_reserve(r, path_of(j, c, statistics[s].name, path), CA_RESULT_F64,
                                     (ca_result_shape){1, {n}, {"example"}}));
out:
    return st;
}

/* index: the token. */
static void take(jacobian *j, int64_t example, int64_t index, const double *log_q) {
    const jacobian_evaluation *e = j->evaluation;
    e->kl[j->score_start[example] - j->score_start[j->first] + index] =
        ca_jacobian_divergence(j, log_q);
}

/* Scores of the candidates of an example; random ones depend on seed and prompt alone. */
static void set_scores(jacobian *j, int64_t column, int64_t example, int64_t first, int64_t count) {
    double *score = j->evaluation->score;
    int64_t at = j->score_start[example] - j->score_start[j->first] + first;
    ca_philox_key key = {
        (uint64_t)ca_config_int(j->job->config, "seed"),
        ca_method_prompt_stream("jacobian.loo.random", &j->job->data->examples[example].clean, 0)};
    for (int64_t k = 0; k < count; k++)
        score[k] = column < j->columns ? (double)j->column[column].score[at + k]
                                       : ca_philox_uniform(key, (uint64_t)k);
}

static ca_status write_statistics(jacobian *j, int64_t column, int64_t example) {
    ca_status st = CA_OK;
    jacobian_evaluation *e = j->evaluation;
    int64_t at = j->score_start[example] - j->score_start[j->first], first, count;
    char path[96];
    ca_jacobian_candidates(j, j->job, example, &first, &count);
    set_scores(j, column, example, first, count);
    for (int s = 0; s < STATISTICS; s++) {
        double value = statistics[s].value(j, example, e->score, e->kl + at + first, count);
        CA_TRY(ca_result_write(j->job->result, path_of(j, column, statistics[s].name, path),
                               example, 1, &value));
    }
out:
    return st;
}

ca_status ca_jacobian_loo(jacobian *j) {
    ca_status st = CA_OK;
    jacobian_evaluation *e = j->evaluation;
    int64_t start = j->score_start[j->first], scores = j->score_start[j->last] - start;
    for (int64_t k = 0; k < scores; k++) e->kl[k] = NAN;
    ca_jacobian_ablate_begin(j, ABLATE_ZERO, take);
    for (int64_t i = j->first; i < j->last; i++) {
        int64_t first, count;
        ca_jacobian_candidates(j, j->job, i, &first, &count);
        for (int64_t t = first; t < first + count; t++) CA_TRY(ca_jacobian_ablate(j, i, &t, 1, t));
    }
    CA_TRY(ca_jacobian_ablate_end(j));
    CA_TRY(ca_result_write(j->job->result, "/evaluation/loo/kl", start, scores, e->kl));
    for (int64_t c = 0; c <= j->columns; c++)
        for (int64_t i = j->first; i < j->last; i++) CA_TRY(write_statistics(j, c, i));
out:
    return st;
}

ca_status ca_jacobian_loo_summary(jacobian *j) {
    ca_status st = CA_OK;
    ca_result *r = j->job->result;
    int64_t n = j->job->data->count;
    double *values = NULL;
    char path[96], name[32];
    CA_TRY(ca_calloc((size_t)n + 1, sizeof *values, &values));
    for (int64_t c = 0; c <= j->columns; c++)
        for (int s = 0; s < STATISTICS; s++) {
            CA_TRY(ca_result_read_back(r, path_of(j, c, statistics[s].name, path), values));
            path_of(j, c, "", path);
            snprintf(name, sizeof name, "%s_sem", statistics[s].name);
            CA_TRY(ca_result_attribute_float(r, path, statistics[s].name,
                                             ca_statistics_mean(values, n)));
            CA_TRY(ca_result_attribute_float(r, path, name, ca_statistics_sem(values, n)));
        }
out:
    free(values);
    return st;
}
