/* SPDX-License-Identifier: MIT
 *
 * Scores and circuits against one that is known to be the true one, or is another's: the area under
 * the ROC curve, and how far the edges and nodes of each circuit are the same.
 */
#include "eap.h"

#include <math.h>
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

ca_status ca_eap_write_truth(ca_job *job, eap *e) {
    return e->truth.in ? write_areas(job, e) : CA_OK;
}

/* ---- circuits ---- */

enum { COLUMNS = 4 };

/* What a circuit's edges or nodes share with those of the true one. */
typedef struct agreement {
    int64_t *common;         /* [count] */
    double *column[COLUMNS]; /* [count] precision, recall, iou, chance */
} agreement;

static ca_status agreement_create(int64_t count, agreement *a) {
    ca_status st = CA_OK;
    CA_TRY(ca_calloc((size_t)count, sizeof *a->common, &a->common));
    for (int i = 0; i < COLUMNS; i++)
        CA_TRY(ca_calloc((size_t)count, sizeof *a->column[i], &a->column[i]));
out:
    return st;
}

static void agreement_free(agreement *a) {
    free(a->common);
    for (int i = 0; i < COLUMNS; i++) free(a->column[i]);
}

static void set_agreement(agreement *a, int64_t i, ca_overlap o) {
    const double values[COLUMNS] = {o.a_in_b, o.b_in_a, o.iou, o.probability};
    a->common[i] = o.both;
    for (int c = 0; c < COLUMNS; c++) a->column[c][i] = values[c];
}

static ca_status put_agreement(ca_job *job, const char *group, int64_t count, const agreement *a) {
    const eap_list lists[] = {{"common", CA_RESULT_I64, a->common},
                              {"precision", CA_RESULT_F64, a->column[0]},
                              {"recall", CA_RESULT_F64, a->column[1]},
                              {"iou", CA_RESULT_F64, a->column[2]},
                              {"chance", CA_RESULT_F64, a->column[3]}};
    return ca_eap_put_lists(job, group, lists, sizeof lists / sizeof *lists, count,
                            "/circuits/fraction");
}

/* Of all edges, and of the file's circuit the nodes that follow from its edges. */
static ca_status find_truth(const ca_circuit_graph *g, const bool *in, ca_circuit *all,
                            ca_circuit *truth) {
    ca_status st = CA_OK;
    CA_TRY(ca_circuit_create(g, all));
    CA_TRY(ca_circuit_create(g, truth));
    for (int64_t v = 0; v < g->destinations; v++)
        for (int64_t u = 0; u < ca_circuit_parents(g, v); u++)
            all->edges[u * g->destinations + v] = true;
    memcpy(truth->edges, in, (size_t)(g->sources * g->destinations) * sizeof *in);
    ca_circuit_count(g, truth);
out:
    return st;
}

ca_status ca_eap_truth_circuits(ca_job *job, const bool *in, const ca_circuit_graph *g,
                                const ca_circuit *circuits, int64_t count) {
    ca_status st = CA_OK;
    ca_circuit all = {0}, truth = {0};
    agreement edges = {0}, nodes = {0};
    CA_TRY(find_truth(g, in, &all, &truth));
    CA_TRY(agreement_create(count, &edges));
    CA_TRY(agreement_create(count, &nodes));
    for (int64_t i = 0; i < count; i++) {
        const ca_circuit *c = &circuits[i];
        set_agreement(
            &edges, i,
            ca_overlap_of(c->edges, truth.edges, all.edges, g->sources * g->destinations));
        set_agreement(&nodes, i, ca_overlap_of(c->nodes, truth.nodes, NULL, g->sources));
    }
    CA_TRY(put_agreement(job, "/circuits/truth/edges", count, &edges));
    CA_TRY(put_agreement(job, "/circuits/truth/nodes", count, &nodes));
out:
    agreement_free(&edges);
    agreement_free(&nodes);
    ca_circuit_free(&truth);
    ca_circuit_free(&all);
    return st;
}
