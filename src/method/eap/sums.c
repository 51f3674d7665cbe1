/* SPDX-License-Identifier: MIT
 *
 * See sums.h.
 */
#include "sums.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t edges_of(const eap_sums *s) { return s->graph.sources * s->graph.destinations; }

int64_t ca_eap_sums_scores(const eap_sums *s) {
    if (s->edges) return edges_of(s);
    if (s->neurons) return s->graph.sources * s->graph.width;
    return s->hidden ? s->graph.layers * s->hidden : s->graph.sources;
}

/* Nodes' scores of single pairs are kept anyway. */
static bool is_nodes(const eap_sums *s) { return !s->edges && !s->neurons && !s->hidden; }

/* ---- memory ---- */

/* One array of doubles: where it is, how many, and its name in a checkpoint. */
typedef struct array {
    double **values;
    int64_t count;
    const char *name; /* NULL: not kept */
} array;

enum { ARRAYS = 8 };

static void arrays_of(eap_sums *s, array list[ARRAYS]) {
    int64_t edges = s->edges ? edges_of(s) : 0, sources = s->graph.sources;
    bool each = (s->per_pair || s->resamples) && !is_nodes(s);
    const array all[ARRAYS] = {
        {&s->edge, edges, CA_RESULT_UNFINISHED "/edges"},
        {&s->position, s->positions * edges, CA_RESULT_UNFINISHED "/positions"},
        {&s->node, sources, CA_RESULT_UNFINISHED "/nodes"},
        {&s->neuron, s->neurons ? sources * s->graph.width : 0, CA_RESULT_UNFINISHED "/neurons"},
        {&s->unit, s->graph.layers * s->hidden, CA_RESULT_UNFINISHED "/units"},
        {&s->weight, s->resamples, CA_RESULT_UNFINISHED "/weights"},
        {&s->pair_score, each ? s->pairs * ca_eap_sums_scores(s) : 0, NULL},
        {&s->pair_node, s->pairs * sources, NULL},
    };
    memcpy(list, all, sizeof all);
}

int64_t ca_eap_sums_bytes(const eap_sums *sums) {
    eap_sums s = *sums;
    array list[ARRAYS];
    int64_t count = 0;
    arrays_of(&s, list);
    for (int i = 0; i < ARRAYS; i++) count += list[i].count;
    return count * (int64_t)sizeof(double) +
           s.resamples * ca_eap_sums_scores(&s) * (int64_t)sizeof(float);
}

/* Where a column of query heads goes: k and v columns of a group may share one. */
static int64_t shared_column(const eap_sums *s, int64_t v) {
    ca_circuit_place p = ca_circuit_destination_place(&s->query, v);
    if (p.input == CA_CIRCUIT_LOGITS) return s->graph.destinations - 1;
    int64_t first = ca_circuit_column(&s->graph, p.layer, p.input);
    if (p.input == CA_CIRCUIT_MLP) return first;
    if (p.input == CA_CIRCUIT_Q) return first + p.head;
    return first + p.head * s->graph.kv_columns / s->query.kv_columns;
}

ca_status ca_eap_sums_create(eap_sums *s) {
    ca_status st = CA_OK;
    array list[ARRAYS];
    arrays_of(s, list);
    for (int i = 0; i < ARRAYS; i++)
        if (list[i].count) CA_TRY(ca_calloc((size_t)list[i].count, sizeof(double), list[i].values));
    if (s->resamples)
        CA_TRY(ca_calloc((size_t)(s->resamples * ca_eap_sums_scores(s)), sizeof *s->resampled,
                         &s->resampled));
    CA_TRY(ca_calloc((size_t)edges_of(s), sizeof *s->valid, &s->valid));
    CA_TRY(ca_calloc((size_t)s->query.destinations, sizeof *s->column, &s->column));
    for (int64_t v = 0; v < s->query.destinations; v++) s->column[v] = shared_column(s, v);
    for (int64_t v = 0; v < s->graph.destinations; v++)
        for (int64_t u = 0; u < ca_circuit_parents(&s->graph, v); u++)
            s->valid[u * s->graph.destinations + v] = true;
out:
    if (st != CA_OK) ca_eap_sums_free(s);
    return st;
}

void ca_eap_sums_free(eap_sums *s) {
    array list[ARRAYS];
    arrays_of(s, list);
    for (int i = 0; i < ARRAYS; i++) {
        free(*list[i].values);
        *list[i].values = NULL;
    }
    free(s->resampled);
    free(s->valid);
    free(s->column);
    s->resampled = NULL;
    s->valid = NULL;
    s->column = NULL;
}

/* ---- sums ---- */

void ca_eap_sums_begin(eap_sums *s, int64_t count) {
    size_t n = (size_t)count;
    memset(s->pair_node, 0, n * (size_t)s->graph.sources * sizeof *s->pair_node);
    if (s->pair_score)
        memset(s->pair_score, 0, n * (size_t)ca_eap_sums_scores(s) * sizeof *s->pair_score);
}

/* Those of pair n beside the sums, or NULL. */
static double *own_scores(const eap_sums *s, int64_t n) {
    return s->pair_score ? s->pair_score + n * ca_eap_sums_scores(s) : NULL;
}

const double *ca_eap_sums_pair(const eap_sums *s, int64_t n) {
    return is_nodes(s) ? s->pair_node + n * s->graph.sources : own_scores(s, n);
}

void ca_eap_sums_edges(eap_sums *s, int64_t n, int64_t position, double share,
                       const double *score) {
    int64_t width = s->graph.destinations;
    double *own = own_scores(s, n);
    double *at = position >= 0 && s->position ? s->position + position * edges_of(s) : NULL;
    for (int64_t v = 0; v < s->query.destinations; v++)
        for (int64_t u = 0, parents = ca_circuit_parents(&s->query, v); u < parents; u++) {
            int64_t to = u * width + s->column[v];
            double value = score[u * s->query.destinations + v];
            if (s->edges) s->edge[to] += share * value;
            if (at) at[to] += share * value;
            if (own) own[to] += value;
            s->pair_node[n * s->graph.sources + u] += value;
            s->node[u] += share * value;
        }
}

void ca_eap_sums_node(eap_sums *s, int64_t n, double share, int64_t source, double score) {
    s->pair_node[n * s->graph.sources + source] += score;
    s->node[source] += share * score;
}

void ca_eap_sums_neurons(eap_sums *s, int64_t n, double share, int64_t first, int64_t count,
                         const double *score) {
    double *own = own_scores(s, n);
    for (int64_t u = first; u < first + count; u++) {
        double sum = 0;
        for (int64_t i = u * s->graph.width; i < (u + 1) * s->graph.width; i++, score++) {
            s->neuron[i] += share * *score;
            if (own) own[i] += *score;
            sum += *score;
        }
        ca_eap_sums_node(s, n, share, u, sum);
    }
}

void ca_eap_sums_units(eap_sums *s, int64_t n, double share, int64_t first, int64_t count,
                       const double *score) {
    double *own = own_scores(s, n);
    for (int64_t i = first * s->hidden; i < (first + count) * s->hidden; i++, score++) {
        s->unit[i] += share * *score;
        if (own) own[i] += *score;
    }
}

/* ---- bootstrap ---- */

/* A Poisson number with mean 1 from a uniform one, by adding up probabilities. */
static int poisson(double uniform) {
    double probability = exp(-1), below = probability;
    int k = 0;
    while (uniform > below && k < 20) {
        probability /= ++k;
        below += probability;
    }
    return k;
}

/* The Poisson bootstrap: how often a resample has a pair does not depend on the other pairs, so
 * that pairs can be forgotten (Hanley and MacGibbon 2006). */
void ca_eap_sums_resample(eap_sums *s, int64_t n, int64_t example, double share) {
    const double *own = ca_eap_sums_pair(s, n);
    int64_t scores = ca_eap_sums_scores(s);
    const ca_philox_key key = {s->seed, ca_stream("eap.bootstrap")};
    for (int64_t b = 0; b < s->resamples; b++) {
        uint64_t index = (uint64_t)(example * s->resamples + b);
        int times = poisson(ca_philox_uniform(key, index));
        float *sum = s->resampled + b * scores, factor = (float)(times * share);
        s->weight[b] += times;
        for (int64_t i = 0; times && i < scores; i++) sum[i] += factor * (float)own[i];
    }
}

static int rising(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

ca_status ca_eap_sums_interval(const eap_sums *s, float *low_high) {
    ca_status st = CA_OK;
    double *mean = NULL;
    int64_t scores = ca_eap_sums_scores(s);
    CA_TRY(ca_calloc((size_t)s->resamples, sizeof *mean, &mean));
    for (int64_t i = 0; i < scores; i++) {
        int64_t count = 0;
        low_high[2 * i] = low_high[2 * i + 1] = NAN;
        for (int64_t b = 0; ca_eap_sums_has(s, i) && b < s->resamples; b++)
            if (s->weight[b] > 0) mean[count++] = s->resampled[b * scores + i] / s->weight[b];
        if (count == 0) continue;
        qsort(mean, (size_t)count, sizeof *mean, rising);
        int64_t cut = (int64_t)(0.025 * (double)count);
        low_high[2 * i] = (float)mean[cut];
        low_high[2 * i + 1] = (float)mean[count - 1 - cut];
    }
out:
    free(mean);
    return st;
}

/* ---- a stopped run ---- */

static const char *const RESAMPLED = CA_RESULT_UNFINISHED "/resampled";

ca_status ca_eap_sums_save(const eap_sums *sums, ca_result *result) {
    ca_status st = CA_OK;
    eap_sums s = *sums;
    array list[ARRAYS];
    arrays_of(&s, list);
    for (int i = 0; i < ARRAYS; i++)
        if (list[i].count && list[i].name)
            CA_TRY(ca_result_put(result, list[i].name, CA_RESULT_F64,
                                 (ca_result_shape){1, {list[i].count}, {"score"}},
                                 *list[i].values));
    if (s.resamples)
        CA_TRY(ca_result_put(
            result, RESAMPLED, CA_RESULT_F32,
            (ca_result_shape){2, {s.resamples, ca_eap_sums_scores(&s)}, {"resample", "score"}},
            s.resampled));
out:
    return st;
}

ca_status ca_eap_sums_restore(eap_sums *s, ca_result *result) {
    ca_status st = CA_OK;
    array list[ARRAYS];
    arrays_of(s, list);
    for (int i = 0; i < ARRAYS; i++)
        if (list[i].count && list[i].name)
            CA_TRY(ca_result_read_back(result, list[i].name, *list[i].values));
    if (s->resamples) CA_TRY(ca_result_read_back(result, RESAMPLED, s->resampled));
out:
    return st;
}
