/* SPDX-License-Identifier: MIT
 *
 * Scores and circuits against one that is known to be the true one, or is another's: the area under
 * the ROC curve, and how far the edges, nodes and neurons of each circuit are the same.
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
    if (e->level == EAP_HIDDEN)
        return ca_config_fail(job->config, TRUTH,
                              "expected level edge, node or neuron beside it, of which circuits "
                              "are made, got hidden");
    CA_TRY(ca_circuit_file_read(path, &e->truth));
    CA_TRY(ca_circuit_file_check(&e->truth, path, &e->sums.graph));
    if (!e->truth.in) st = ca_fail(CA_E_DATA, "%s: expected a circuit, got scores alone", path);
out:
    return st == CA_OK ? st : ca_context(st, "%s", ca_config_where(job->config, TRUTH));
}

/* Of the file's circuit the nodes that follow from its edges, and of these the neurons that it
 * keeps: all where it has no mask. */
static ca_status find_truth(const ca_circuit_file *file, ca_circuit *truth) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = &file->graph;
    CA_TRY(ca_circuit_create(g, truth));
    CA_TRY(ca_circuit_add_neurons(g, truth));
    memcpy(truth->edges, file->in, (size_t)(g->sources * g->destinations) * sizeof *file->in);
    ca_circuit_count(g, truth);
    for (int64_t i = 0; i < g->sources * g->width; i++)
        truth->neurons[i] = truth->nodes[i / g->width] && (!file->neurons || file->neurons[i]);
out:
    return st;
}

/* ---- scores ---- */

/* What is scored, real edges of all, beside whether it is true. Gives how many there are. */
static int64_t collect(const eap *e, const ca_circuit *circuit, double *score, bool *truth) {
    const eap_sums *s = &e->sums;
    const double *scores = e->level == EAP_EDGES   ? s->edge
                           : e->level == EAP_NODES ? s->node
                                                   : s->neuron;
    const bool *in = e->level == EAP_EDGES   ? circuit->edges
                     : e->level == EAP_NODES ? circuit->nodes
                                             : circuit->neurons;
    int64_t count = 0;
    for (int64_t i = 0, all = ca_eap_sums_scores(s); i < all; i++)
        if (ca_eap_sums_has(s, i)) {
            truth[count] = in[i];
            score[count++] = scores[i];
        }
    return count;
}

static ca_status write_areas(ca_job *job, eap *e) {
    ca_status st = CA_OK;
    double *score = NULL;
    bool *truth = NULL;
    ca_circuit circuit = {0};
    const char *group = ca_eap_result_group(e->level);
    size_t all = (size_t)ca_eap_sums_scores(&e->sums);
    CA_TRY(find_truth(&e->truth, &circuit));
    CA_TRY(ca_calloc(all, sizeof *score, &score));
    CA_TRY(ca_calloc(all, sizeof *truth, &truth));
    int64_t count = collect(e, &circuit, score, truth);
    CA_TRY(ca_auroc(score, truth, count, &e->auroc));
    for (int64_t i = 0; i < count; i++) score[i] = fabs(score[i]);
    CA_TRY(ca_auroc(score, truth, count, &e->auroc_absolute));
    CA_TRY(ca_result_attribute_float(job->result, group, "auroc", e->auroc));
    CA_TRY(ca_result_attribute_float(job->result, group, "auroc_absolute", e->auroc_absolute));
out:
    ca_circuit_free(&circuit);
    free(score);
    free(truth);
    return st;
}

ca_status ca_eap_write_truth(ca_job *job, eap *e) {
    return e->truth.in ? write_areas(job, e) : CA_OK;
}

/* ---- circuits ---- */

enum { COLUMNS = 4 };

/* What a circuit's edges, nodes or neurons share with those of the true one. */
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

/* All edges that there can be. */
static ca_status find_all(const ca_circuit_graph *g, ca_circuit *all) {
    ca_status st = CA_OK;
    CA_TRY(ca_circuit_create(g, all));
    for (int64_t v = 0; v < g->destinations; v++)
        for (int64_t u = 0; u < ca_circuit_parents(g, v); u++)
            all->edges[u * g->destinations + v] = true;
out:
    return st;
}

typedef enum part { EDGES, NODES, NEURONS, PARTS } part;

static ca_overlap overlap_of(const ca_circuit_graph *g, const ca_circuit *c,
                             const ca_circuit *truth, const ca_circuit *all, part p) {
    if (p == EDGES)
        return ca_overlap_of(c->edges, truth->edges, all->edges, g->sources * g->destinations);
    if (p == NODES) return ca_overlap_of(c->nodes, truth->nodes, NULL, g->sources);
    return ca_overlap_of(c->neurons, truth->neurons, NULL, g->sources * g->width);
}

ca_status ca_eap_truth_circuits(ca_job *job, const ca_circuit_file *file,
                                const ca_circuit *circuits, int64_t count) {
    ca_status st = CA_OK;
    static const char *const groups[PARTS] = {"/circuits/truth/edges", "/circuits/truth/nodes",
                                              "/circuits/truth/neurons"};
    ca_circuit all = {0}, truth = {0};
    agreement a = {0};
    CA_TRY(find_all(&file->graph, &all));
    CA_TRY(find_truth(file, &truth));
    CA_TRY(agreement_create(count, &a));
    for (part p = EDGES; p < (count && circuits[0].neurons ? PARTS : NEURONS); p++) {
        for (int64_t i = 0; i < count; i++)
            set_agreement(&a, i, overlap_of(&file->graph, &circuits[i], &truth, &all, p));
        CA_TRY(put_agreement(job, groups[p], count, &a));
    }
out:
    agreement_free(&a);
    ca_circuit_free(&truth);
    ca_circuit_free(&all);
    return st;
}
