/* SPDX-License-Identifier: MIT
 *
 * Scores and circuits against one that is known to be the true one, or is another's: the area under
 * the ROC curve, and how far the edges and nodes of each circuit are the same.
 */
#include "eap.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const TRUTH = "method.evaluate.truth";

ca_status ca_eap_truth_read(const ca_job *job, eap *e) {
    ca_status st = CA_OK;
    if (!ca_config_has(job->config, TRUTH)) return CA_OK;
    const char *path = ca_config_path(job->config, TRUTH);
    if (e->level != EAP_EDGES)
        return ca_config_fail(job->config, TRUTH, "expected method.level edge beside it");
    CA_TRY(ca_circuit_file_read(path, &e->truth));
    CA_TRY(ca_circuit_file_check(&e->truth, path, &e->sums.graph));
    if (!e->truth.in) st = ca_fail(CA_E_DATA, "%s: expected a circuit, got scores alone", path);
out:
    return st == CA_OK ? st : ca_context(st, "%s", ca_config_where(job->config, TRUTH));
}

/* ---- scores ---- */

/* Scores of real edges beside whether they are true. */
static int64_t collect(const eap *e, double *score, bool *truth) {
    const eap_sums *s = &e->sums;
    int64_t count = 0;
    for (int64_t i = 0; i < s->graph.sources * s->graph.destinations; i++)
        if (s->valid[i]) {
            truth[count] = e->truth.in[i];
            score[count++] = s->edge[i];
        }
    return count;
}

static ca_status write_areas(ca_job *job, eap *e) {
    ca_status st = CA_OK;
    double *score = NULL;
    bool *truth = NULL;
    size_t edges = (size_t)e->sums.graph.edges;
    CA_TRY(ca_calloc(edges, sizeof *score, &score));
    CA_TRY(ca_calloc(edges, sizeof *truth, &truth));
    int64_t count = collect(e, score, truth);
    CA_TRY(ca_auroc(score, truth, count, &e->auroc));
    for (int64_t i = 0; i < count; i++) score[i] = fabs(score[i]);
    CA_TRY(ca_auroc(score, truth, count, &e->auroc_absolute));
    CA_TRY(ca_result_attribute_float(job->result, "/edges", "auroc", e->auroc));
    CA_TRY(ca_result_attribute_float(job->result, "/edges", "auroc_absolute", e->auroc_absolute));
out:
    free(score);
    free(truth);
    return st;
}

/* ---- circuits ---- */

enum { EDGES_AND_NODES = 2 };

typedef struct agreement {
    int64_t count;
    int64_t *common;
    double *precision, *recall, *iou, *chance; /* [count] each */
} agreement;

/* Circuit by circuit; in [count, F, R]. */
static ca_status compare(const ca_circuit_graph *g, const bool *truth, const bool *in,
                         agreement out[EDGES_AND_NODES]) {
    ca_status st = CA_OK;
    ca_circuit of_truth = {0}, own = {0}, valid = {0}; /* valid: all edges */
    size_t all = (size_t)(g->sources * g->destinations);
    CA_TRY(ca_circuit_create(g, &of_truth));
    CA_TRY(ca_circuit_create(g, &own));
    CA_TRY(ca_circuit_create(g, &valid));
    for (int64_t v = 0; v < g->destinations; v++)
        for (int64_t u = 0; u < ca_circuit_parents(g, v); u++)
            valid.edges[u * g->destinations + v] = true;
    memcpy(of_truth.edges, truth, all * sizeof *truth);
    ca_circuit_count(g, &of_truth);
    for (int64_t i = 0; i < out[0].count; i++) {
        memcpy(own.edges, in + (size_t)i * all, all * sizeof *in);
        ca_circuit_count(g, &own);
        for (int nodes = 0; nodes < EDGES_AND_NODES; nodes++) {
            ca_overlap o =
                nodes ? ca_overlap_of(own.nodes, of_truth.nodes, NULL, g->sources)
                      : ca_overlap_of(own.edges, of_truth.edges, valid.edges, (int64_t)all);
            out[nodes].common[i] = o.both;
            out[nodes].precision[i] = o.a_in_b;
            out[nodes].recall[i] = o.b_in_a;
            out[nodes].iou[i] = o.iou;
            out[nodes].chance[i] = o.probability;
        }
    }
out:
    ca_circuit_free(&of_truth);
    ca_circuit_free(&own);
    ca_circuit_free(&valid);
    return st;
}

static ca_status put_agreement(ca_job *job, const char *kind, const agreement *a) {
    ca_status st = CA_OK;
    const struct {
        const char *name;
        ca_result_type type;
        const void *values;
    } sets[] = {{"common", CA_RESULT_I64, a->common},
                {"precision", CA_RESULT_F64, a->precision},
                {"recall", CA_RESULT_F64, a->recall},
                {"iou", CA_RESULT_F64, a->iou},
                {"chance", CA_RESULT_F64, a->chance}};
    char path[64];
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        snprintf(path, sizeof path, "/circuits/truth/%s/%s", kind, sets[i].name);
        CA_TRY(ca_result_put(job->result, path, sets[i].type,
                             (ca_result_shape){1, {a->count}, {"size"}}, sets[i].values));
        CA_TRY(ca_result_scale(job->result, path, 0, "/circuits/fraction"));
    }
out:
    return st;
}

static ca_status write_agreement(ca_job *job, const eap *e) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = &e->sums.graph;
    int64_t count = e->faithfulness->selection.count, all = g->sources * g->destinations;
    bool *in = NULL;
    double *values = NULL;
    int64_t *common = NULL;
    agreement of[EDGES_AND_NODES];
    CA_TRY(ca_calloc((size_t)(count * all), sizeof *in, &in));
    CA_TRY(ca_calloc((size_t)(EDGES_AND_NODES * 4 * count), sizeof *values, &values));
    CA_TRY(ca_calloc((size_t)(EDGES_AND_NODES * count), sizeof *common, &common));
    for (int64_t i = 0; i < EDGES_AND_NODES; i++) {
        double *own = values + i * 4 * count;
        of[i] = (agreement){count,       common + i * count, own,
                            own + count, own + 2 * count,    own + 3 * count};
    }
    CA_TRY(ca_result_read_back(job->result, "/circuits/in_circuit", in));
    CA_TRY(compare(g, e->truth.in, in, of));
    CA_TRY(put_agreement(job, "edges", &of[0]));
    CA_TRY(put_agreement(job, "nodes", &of[1]));
out:
    free(in);
    free(values);
    free(common);
    return st;
}

ca_status ca_eap_write_truth(ca_job *job, eap *e) {
    ca_status st = CA_OK;
    if (!e->truth.in) return CA_OK;
    if (!e->given) CA_TRY(write_areas(job, e));
    if (e->faithfulness) CA_TRY(write_agreement(job, e));
out:
    return st;
}
