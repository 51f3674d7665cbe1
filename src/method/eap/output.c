/* SPDX-License-Identifier: MIT
 *
 * The groups /edges, /nodes and the residual of /baseline: what is reserved before the run, the
 * scores after it, and the strongest edges for the terminal.
 */
#include "eap.h"

#include "baseline.h"

#include <math.h>
#include <stdlib.h>

enum { STRONGEST = 8 };

static bool has_residual(const eap *e) {
    return e->variant->path == EAP_OF_INPUTS && e->level != EAP_HIDDEN;
}

/* ---- layout ---- */

const char *ca_eap_result_group(eap_level level) {
    static const char *const groups[] = {[EAP_EDGES] = "/edges",
                                         [EAP_NODES] = "/nodes",
                                         [EAP_NEURONS] = "/neurons",
                                         [EAP_HIDDEN] = "/hidden"};
    return groups[level];
}

/* The axes of what is scored; more may be put behind or before them. */
static ca_result_shape scores_shape(const eap *e) {
    const ca_circuit_graph *g = &e->sums.graph;
    switch (e->level) {
    case EAP_NODES:
        return (ca_result_shape){1, {g->sources}, {"source"}};
    case EAP_NEURONS:
        return (ca_result_shape){2, {g->sources, g->width}, {"source", "coordinate"}};
    case EAP_HIDDEN:
        return (ca_result_shape){2, {g->layers, e->sums.hidden}, {"layer", "unit"}};
    default:
        return (ca_result_shape){2, {g->sources, g->destinations}, {"source", "destination"}};
    }
}

static ca_status reserve_pairs(ca_job *job, const eap *e) {
    const ca_result_shape scores = scores_shape(e);
    ca_result_shape shape = {scores.rank + 1, {job->data->count}, {"example"}};
    char dataset[64];
    for (int i = 0; i < scores.rank; i++) {
        shape.size[i + 1] = scores.size[i];
        shape.label[i + 1] = scores.label[i];
    }
    snprintf(dataset, sizeof dataset, "%s/score_per_example", ca_eap_result_group(e->level));
    return ca_result_reserve(job->result, dataset, CA_RESULT_F32, shape);
}

/* ---- before ---- */

ca_status ca_eap_reserve(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    int64_t count = job->data->count;
    const ca_circuit_graph *g = &e->sums.graph;
    ca_result_shape examples = {1, {count}, {"example"}};
    CA_TRY(ca_eap_baseline_reserve(job, e->metric.kind->name));
    if (has_residual(e))
        CA_TRY(ca_result_reserve(job->result, "/baseline/residual", CA_RESULT_F64, examples));
    if (e->level == EAP_EDGES) CA_TRY(ca_circuit_put_graph(job->result, g));
    if (e->sums.per_pair) CA_TRY(reserve_pairs(job, e));
out:
    return st;
}

/* ---- after ---- */

ca_status ca_eap_put_edges(ca_job *job, const eap *e, const char *dataset, const double *sum) {
    const eap_sums *s = &e->sums;
    ca_result_shape shape = {
        2, {s->graph.sources, s->graph.destinations}, {"source", "destination"}};
    for (int64_t i = 0; i < s->graph.sources * s->graph.destinations; i++)
        e->row[i] = s->valid[i] ? (float)(sum[i] / (double)job->data->count) : NAN;
    return ca_result_put(job->result, dataset, CA_RESULT_F32, shape, e->row);
}

static ca_status put_positions(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    const eap_sums *s = &e->sums;
    int64_t edges = s->graph.sources * s->graph.destinations;
    ca_result_shape shape = {3,
                             {s->positions, s->graph.sources, s->graph.destinations},
                             {"position", "source", "destination"}};
    CA_TRY(ca_result_reserve(job->result, "/edges/score_by_position", CA_RESULT_F32, shape));
    for (int64_t p = 0; p < s->positions; p++) {
        for (int64_t i = 0; i < edges; i++)
            e->row[i] =
                s->valid[i] ? (float)(s->position[p * edges + i] / (double)job->data->count) : NAN;
        CA_TRY(ca_result_write(job->result, "/edges/score_by_position", p, 1, e->row));
    }
out:
    return st;
}

static ca_status put_interval(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    const eap_sums *s = &e->sums;
    float *interval = NULL;
    ca_result_shape shape = scores_shape(e);
    const char *group = ca_eap_result_group(e->level);
    char dataset[64];
    shape.size[shape.rank] = 2;
    shape.label[shape.rank++] = "low and high";
    snprintf(dataset, sizeof dataset, "%s/interval", group);
    CA_TRY(ca_calloc((size_t)(2 * ca_eap_sums_scores(s)), sizeof *interval, &interval));
    CA_TRY(ca_eap_sums_interval(s, interval));
    CA_TRY(ca_result_put(job->result, dataset, CA_RESULT_F32, shape, interval));
    CA_TRY(ca_result_attribute_int(job->result, group, "resamples", s->resamples));
out:
    free(interval);
    return st;
}

static ca_status put_edges(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    CA_TRY(ca_eap_put_edges(job, e, "/edges/score", e->sums.edge));
    if (e->sums.positions) CA_TRY(put_positions(job, e));
out:
    return st;
}

/* Means of neurons' or hidden units' scores. */
static ca_status put_matrix(ca_job *job, const eap *e, const char *dataset, const double *sum) {
    for (int64_t i = 0, count = ca_eap_sums_scores(&e->sums); i < count; i++)
        e->row[i] = (float)(sum[i] / (double)job->data->count);
    return ca_result_put(job->result, dataset, CA_RESULT_F32, scores_shape(e), e->row);
}

/* Names of the sources beside their scores. */
static ca_status put_names(ca_job *job, const eap *e, const char *dataset) {
    ca_status st = CA_OK;
    int64_t sources = e->sums.graph.sources;
    char(*text)[CA_CIRCUIT_NAME_MAX] = NULL;
    const char **names = NULL;
    ca_result_shape shape = {1, {sources}, {"source"}};
    CA_TRY(ca_calloc((size_t)sources, sizeof *text, &text));
    CA_TRY(ca_calloc((size_t)sources, sizeof *names, &names));
    for (int64_t u = 0; u < sources; u++)
        names[u] = ca_circuit_source_name(&e->sums.graph, u, text[u]);
    CA_TRY(ca_result_put(job->result, dataset, CA_RESULT_TEXT, shape, names));
out:
    free(text);
    free(names);
    return st;
}

static ca_status put_nodes(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    float *score = NULL;
    int64_t sources = e->sums.graph.sources;
    CA_TRY(ca_calloc((size_t)sources, sizeof *score, &score));
    for (int64_t u = 0; u < sources; u++)
        score[u] = (float)(e->sums.node[u] / (double)job->data->count);
    CA_TRY(put_names(job, e, "/nodes/name"));
    CA_TRY(ca_result_put(job->result, "/nodes/score", CA_RESULT_F32,
                         (ca_result_shape){1, {sources}, {"source"}}, score));
out:
    free(score);
    return st;
}

/* What was done, where a reader of the scores looks. */
static ca_status put_attributes(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    const char *group = ca_eap_result_group(e->level);
    eap_path path = e->variant->path;
    CA_TRY(ca_result_attribute_text(job->result, group, "variant", e->variant->name));
    CA_TRY(ca_result_attribute_text(job->result, group, "ablation",
                                    ca_config_text(job->config, "method.ablation")));
    CA_TRY(ca_result_attribute_text(job->result, group, "compat",
                                    ca_config_text(job->config, "method.compat")));
    if (path != EAP_OF_INPUTS && path != EAP_OF_ACTIVATIONS) goto out;
    CA_TRY(ca_result_attribute_text(job->result, group, "rule", ca_eap_rule_name(e->rule)));
    CA_TRY(ca_result_attribute_int(job->result, group, "steps", e->point_count));
out:
    return st;
}

static ca_status put_neurons(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    CA_TRY(put_names(job, e, "/neurons/name"));
    CA_TRY(put_matrix(job, e, "/neurons/score", e->sums.neuron));
out:
    return st;
}

/* The baseline's means; a path that leaves more unexplained than there is to explain says so. */
static ca_status put_means(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    double change, residual;
    CA_TRY(ca_eap_baseline_finish(job, &change));
    if (!has_residual(e)) goto out;
    CA_TRY(ca_eap_baseline_mean(job, "residual", &residual));
    if (fabs(residual) > fabs(change))
        ca_log(CA_LOG_WARNING,
               "the path explains the change of the loss by %.3g with an error of %.3g: take more "
               "steps, or another rule (method.rule)",
               change, residual);
out:
    return st;
}

ca_status ca_eap_write_scores(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    if (e->level == EAP_EDGES) CA_TRY(put_edges(job, e));
    if (e->level == EAP_NEURONS) CA_TRY(put_neurons(job, e));
    if (e->level == EAP_HIDDEN)
        CA_TRY(put_matrix(job, e, "/hidden/score", e->sums.unit));
    else
        CA_TRY(put_nodes(job, e));
    if (e->sums.resamples) CA_TRY(put_interval(job, e));
    CA_TRY(put_attributes(job, e));
    CA_TRY(put_means(job, e));
out:
    return st;
}

/* ---- terminal ---- */

/* Indices of the STRONGEST largest |score|, falling; returns how many. */
static int64_t strongest(const double *score, const bool *valid, int64_t n,
                         int64_t index[STRONGEST]) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (valid && !valid[i]) continue;
        int64_t at = count < STRONGEST ? count++ : STRONGEST;
        for (; at > 0 && fabs(score[i]) > fabs(score[index[at - 1]]); at--)
            if (at < STRONGEST) index[at] = index[at - 1];
        if (at < STRONGEST) index[at] = i;
    }
    return count;
}

/* What a level scores: as many numbers, and their names. */
static const double *answer_scores(const eap *e, int64_t *count, const char **what) {
    const ca_circuit_graph *g = &e->sums.graph;
    *what = "nodes";
    *count = g->sources;
    if (e->level == EAP_EDGES) return *what = "edges", *count *= g->destinations, e->sums.edge;
    if (e->level == EAP_NEURONS) return *what = "neurons", *count *= g->width, e->sums.neuron;
    if (e->level == EAP_HIDDEN)
        return *what = "hidden units", *count = g->layers * e->sums.hidden, e->sums.unit;
    return e->sums.node;
}

static ca_status answer_line(const eap *e, int64_t i, double mean, ca_string *text) {
    const ca_circuit_graph *g = &e->sums.graph;
    char from[CA_CIRCUIT_NAME_MAX], to[CA_CIRCUIT_NAME_MAX];
    int64_t width = e->level == EAP_EDGES ? g->destinations : g->width;
    if (e->level == EAP_EDGES)
        return ca_string_printf(text, "  %10.4g  %s -> %s\n", mean,
                                ca_circuit_source_name(g, i / width, from),
                                ca_circuit_destination_name(g, i % width, to));
    if (e->level == EAP_NEURONS)
        return ca_string_printf(text, "  %10.4g  %s[%lld]\n", mean,
                                ca_circuit_source_name(g, i / width, from), (long long)(i % width));
    if (e->level == EAP_HIDDEN)
        return ca_string_printf(text, "  %10.4g  blocks.%lld.mlp.post[%lld]\n", mean,
                                (long long)(i / e->sums.hidden), (long long)(i % e->sums.hidden));
    return ca_string_printf(text, "  %10.4g  %s\n", mean, ca_circuit_source_name(g, i, from));
}

ca_status ca_eap_answer(ca_job *job, void *state, ca_string *text) {
    ca_status st = CA_OK;
    const eap *e = state;
    int64_t index[STRONGEST], all;
    const char *what;
    const double *score = answer_scores(e, &all, &what);
    bool edges = e->level == EAP_EDGES;
    int64_t count = strongest(score, edges ? e->sums.valid : NULL, all, index);
    CA_TRY(ca_string_printf(text,
                            "strongest %s of %lld; positive: ablating it makes the model worse\n",
                            what, (long long)(edges ? e->sums.graph.edges : all)));
    for (int64_t i = 0; i < count; i++)
        CA_TRY(answer_line(e, index[i], score[index[i]] / (double)job->data->count, text));
out:
    return st;
}
