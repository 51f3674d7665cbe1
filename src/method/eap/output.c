/* SPDX-License-Identifier: MIT
 *
 * The groups /edges, /nodes and /baseline: what is reserved before the run, the scores after it,
 * and the strongest edges for the terminal.
 */
#include "eap.h"

#include <math.h>
#include <stdlib.h>

enum { STRONGEST = 8 };

/* ---- before ---- */

ca_status ca_eap_reserve(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    int64_t count = job->data->count;
    const ca_circuit_graph *g = &e->graph;
    ca_result_shape examples = {1, {count}, {"example"}};
    CA_TRY(ca_result_reserve(job->result, "/baseline/clean", CA_RESULT_F64, examples));
    CA_TRY(ca_result_reserve(job->result, "/baseline/corrupted", CA_RESULT_F64, examples));
    CA_TRY(ca_result_reserve(job->result, "/baseline/predicted", CA_RESULT_I32, examples));
    CA_TRY(ca_result_reserve(job->result, "/data/position", CA_RESULT_I64, examples));
    if (e->variant->path == EAP_OF_INPUTS)
        CA_TRY(ca_result_reserve(job->result, "/baseline/residual", CA_RESULT_F64, examples));
    CA_TRY(ca_result_attribute_text(job->result, "/baseline", "metric",
                                    ca_config_text(job->config, "metric")));
    if (e->level == EAP_EDGES) CA_TRY(ca_circuit_put_graph(job->result, g));
    if (e->edge)
        CA_TRY(ca_result_reserve(job->result, "/edges/score_per_example", CA_RESULT_F32,
                                 (ca_result_shape){3,
                                                   {count, g->sources, g->destinations},
                                                   {"example", "source", "destination"}}));
out:
    return st;
}

/* ---- after ---- */

static ca_status put_edges(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = &e->graph;
    ca_result_shape shape = {2, {g->sources, g->destinations}, {"source", "destination"}};
    double count = (double)job->data->count;
    for (int64_t i = 0; i < g->sources * g->destinations; i++)
        e->row[i] = e->valid[i] ? (float)(e->edge_sum[i] / count) : NAN;
    CA_TRY(ca_result_put(job->result, "/edges/score", CA_RESULT_F32, shape, e->row));
    CA_TRY(ca_result_attribute_text(job->result, "/edges", "variant",
                                    ca_config_text(job->config, "method.variant")));
out:
    return st;
}

static ca_status put_nodes(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    int64_t sources = e->graph.sources;
    char(*text)[CA_CIRCUIT_NAME_MAX] = NULL;
    const char **names = NULL;
    ca_result_shape shape = {1, {sources}, {"source"}};
    CA_TRY(ca_calloc((size_t)sources, sizeof *text, &text));
    CA_TRY(ca_calloc((size_t)sources, sizeof *names, &names));
    for (int64_t u = 0; u < sources; u++) {
        names[u] = ca_circuit_source_name(&e->graph, u, text[u]);
        e->row[u] = (float)(e->node_sum[u] / (double)job->data->count);
    }
    CA_TRY(ca_result_put(job->result, "/nodes/name", CA_RESULT_TEXT, shape, names));
    CA_TRY(ca_result_put(job->result, "/nodes/score", CA_RESULT_F32, shape, e->row));
out:
    free(text);
    free(names);
    return st;
}

/* Means of the baseline, from the file: an earlier, stopped run may have written a part. */
static ca_status put_means(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    static const char *const names[] = {"clean", "corrupted", "residual"};
    int64_t count = job->data->count, sets = e->variant->path == EAP_OF_INPUTS ? 3 : 2, right = 0;
    double *values = NULL;
    int32_t *predicted = NULL;
    char path[64], name[64];
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *values, &values));
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *predicted, &predicted));
    for (int64_t s = 0; s < sets; s++) {
        double sum = 0;
        snprintf(path, sizeof path, "/baseline/%s", names[s]);
        snprintf(name, sizeof name, "%s_mean", names[s]);
        CA_TRY(ca_result_read_back(job->result, path, values));
        for (int64_t i = 0; i < count; i++) sum += values[i];
        CA_TRY(ca_result_attribute_float(job->result, "/baseline", name, sum / (double)count));
    }
    CA_TRY(ca_result_read_back(job->result, "/baseline/predicted", predicted));
    for (int64_t i = 0; i < count; i++)
        right += ca_metric_is_answer(&job->data->examples[i].answer, predicted[i]);
    if (job->data->unanswered < count)
        CA_TRY(ca_result_attribute_float(job->result, "/baseline", "accuracy",
                                         (double)right / (double)count));
out:
    free(values);
    free(predicted);
    return st;
}

ca_status ca_eap_write_scores(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    if (e->level == EAP_EDGES) CA_TRY(put_edges(job, e));
    CA_TRY(put_nodes(job, e));
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

ca_status ca_eap_answer(ca_job *job, void *state, ca_string *text) {
    ca_status st = CA_OK;
    const eap *e = state;
    const ca_circuit_graph *g = &e->graph;
    bool edges = e->level == EAP_EDGES;
    char from[CA_CIRCUIT_NAME_MAX], to[CA_CIRCUIT_NAME_MAX];
    int64_t index[STRONGEST];
    const double *score = edges ? e->edge_sum : e->node_sum;
    int64_t count = strongest(score, edges ? e->valid : NULL,
                              edges ? g->sources * g->destinations : g->sources, index);
    CA_TRY(ca_string_printf(text,
                            "strongest %s of %lld; positive: ablating it makes the model "
                            "worse\n",
                            edges ? "edges" : "nodes", (long long)(edges ? g->edges : g->sources)));
    for (int64_t i = 0; i < count; i++) {
        double mean = score[index[i]] / (double)job->data->count;
        if (edges)
            CA_TRY(
                ca_string_printf(text, "  %10.4g  %s -> %s\n", mean,
                                 ca_circuit_source_name(g, index[i] / g->destinations, from),
                                 ca_circuit_destination_name(g, index[i] % g->destinations, to)));
        else
            CA_TRY(ca_string_printf(text, "  %10.4g  %s\n", mean,
                                    ca_circuit_source_name(g, index[i], from)));
    }
out:
    return st;
}
