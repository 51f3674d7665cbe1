/* SPDX-License-Identifier: MIT
 *
 * Scores of a group of pairs, whatever the variant: buffers, sums in float64, and what is written
 * of every pair.
 */
#include "eap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t edges_of(const eap *e) { return e->graph.sources * e->graph.destinations; }

/* Doubles of the largest array of scores on the host. */
static int64_t host_count(const eap *e) {
    int64_t nodes = e->graph.sources * e->most_points * e->sizes.rows;
    return e->level == EAP_EDGES || nodes < edges_of(e) ? edges_of(e) : nodes;
}

int64_t ca_eap_attribute_host_bytes(const eap *e, int64_t vocab) {
    int64_t kept = e->per_example ? e->sizes.pairs * edges_of(e) : 0;
    return (int64_t)sizeof(double) * (2 * edges_of(e) + 2 * host_count(e) + kept) +
           ca_method_scorer_host_bytes(&e->metric, vocab, e->sizes.pairs);
}

static void mark_edges(const ca_circuit_graph *g, bool *valid) {
    for (int64_t v = 0; v < g->destinations; v++)
        for (int64_t u = 0; u < ca_circuit_parents(g, v); u++)
            valid[u * g->destinations + v] = true;
}

static ca_status create_arrays(eap *e) {
    ca_status st = CA_OK;
    size_t edges = (size_t)edges_of(e), sources = (size_t)e->graph.sources;
    size_t pairs = (size_t)e->sizes.pairs, most = (size_t)host_count(e);
    CA_TRY(ca_calloc(edges, sizeof *e->valid, &e->valid));
    CA_TRY(ca_calloc(edges, sizeof *e->row, &e->row));
    CA_TRY(ca_calloc(edges, sizeof *e->edge_sum, &e->edge_sum));
    CA_TRY(ca_calloc(sources, sizeof *e->node_sum, &e->node_sum));
    CA_TRY(ca_calloc(pairs * sources, sizeof *e->node, &e->node));
    CA_TRY(ca_calloc(most, sizeof *e->score_host, &e->score_host));
    CA_TRY(ca_calloc(most, sizeof(double), &e->staging));
    if (e->per_example && e->level == EAP_EDGES)
        CA_TRY(ca_calloc(pairs * edges, sizeof *e->edge, &e->edge));
    mark_edges(&e->graph, e->valid);
out:
    return st;
}

ca_status ca_eap_attribute_create(eap *e) {
    ca_status st = CA_OK;
    ca_job *job = e->job;
    e->ends = (eap_ends){
        .model = job->model,
        .ablation = e->ablation.kind == EAP_PATCHING ? NULL : &e->ablation,
        .sizes = e->sizes,
        .keep_stream = e->variant->keep_stream,
    };
    CA_TRY(ca_eap_ablation_create(job->model, &e->ablation));
    CA_TRY(ca_eap_group_create(e->sizes.pairs, &e->group));
    CA_TRY(ca_eap_ends_create(&e->ends));
    CA_TRY(ca_method_scorer_create(&e->metric, job->data, job->backend, job->arch->vocab,
                                   e->sizes.pairs, &e->scorer));
    CA_TRY(create_arrays(e));
    CA_TRY(e->variant->create(e));
out:
    return st; /* freed by the owner */
}

void ca_eap_attribute_free(eap *e) {
    ca_eap_gradients_free(&e->gradients);
    ca_eap_scores_free(&e->scores);
    ca_eap_exact_free(&e->exact);
    ca_eap_flow_free(&e->flow);
    ca_eap_ends_free(&e->ends);
    ca_eap_ablation_free(&e->ablation);
    ca_eap_group_free(&e->group);
    ca_method_scorer_free(&e->scorer);
    free(e->valid);
    free(e->row);
    free(e->edge_sum);
    free(e->edge);
    free(e->node_sum);
    free(e->node);
    free(e->score_host);
    free(e->staging);
}

ca_status ca_eap_make_means(eap *e) {
    ca_status st = CA_OK;
    const ca_packing *p = &e->packing;
    if (!e->ablation.positions) return CA_OK;
    for (int64_t b = 0; b < p->batches; b++) {
        CA_TRY(ca_signal_status());
        ca_eap_group_set(&e->group, e->job->data, p->first[b], p->first[b + 1], true);
        CA_TRY(ca_eap_ends_begin(&e->ends, &e->group));
        CA_TRY(ca_eap_ends_run(&e->ends, true, false, NULL));
        CA_TRY(ca_eap_ablation_add(&e->ablation, e->job->backend, &e->group, &e->ends.clean,
                                   e->job->data->count));
    }
out:
    return st;
}

/* ---- sums ---- */

/* What a peer divides the scores of a pair by: the size of its batch, the last one being smaller.
 */
static double share_of(const eap *e, int64_t example) {
    if (e->batch_size == 0) return 1;
    int64_t batch = example / e->batch_size * e->batch_size;
    int64_t rest = e->job->data->count - batch;
    return 1 / (double)(rest < e->batch_size ? rest : e->batch_size);
}

void ca_eap_add_edges(eap *e, int64_t n, const double *score) {
    const ca_circuit_graph *g = &e->graph;
    double share = share_of(e, e->group.first + n);
    double *own = e->edge ? e->edge + n * edges_of(e) : NULL;
    for (int64_t u = 0; u < g->sources; u++)
        for (int64_t v = 0, i = u * g->destinations; v < g->destinations; v++, i++) {
            if (!e->valid[i]) continue;
            e->edge_sum[i] += share * score[i];
            e->node[n * g->sources + u] += score[i];
            if (own) own[i] += score[i];
        }
}

void ca_eap_add_node(eap *e, int64_t n, int64_t source, double score) {
    e->node[n * e->graph.sources + source] += score;
}

/* ---- groups ---- */

static ca_status write_example(eap *e, int64_t n) {
    ca_status st = CA_OK;
    ca_result *r = e->job->result;
    const eap_ends *ends = &e->ends;
    int64_t sources = e->graph.sources, i = e->group.first + n;
    int64_t position = e->job->data->examples[i].clean.count - 1;
    const double *node = e->node + n * sources;
    CA_TRY(ca_result_write(r, "/data/position", i, 1, &position));
    /* A path of inputs explains the change of the loss by the input's node. */
    double change = -e->metric.kind->sign * (ends->ablated_metric[n] - ends->clean_metric[n]);
    double residual = change - node[0];
    if (e->variant->path == EAP_OF_INPUTS)
        CA_TRY(ca_result_write(r, "/baseline/residual", i, 1, &residual));
    for (int64_t u = 0; u < sources; u++) e->node_sum[u] += share_of(e, i) * node[u];
    if (!e->edge) goto out;
    for (int64_t k = 0; k < edges_of(e); k++)
        e->row[k] = e->valid[k] ? (float)e->edge[n * edges_of(e) + k] : NAN;
    CA_TRY(ca_result_write(r, "/edges/score_per_example", i, 1, e->row));
out:
    return st;
}

ca_status ca_eap_attribute(void *state, int64_t first, int64_t last) {
    ca_status st = CA_OK;
    eap *e = state;
    ca_result *r = e->job->result;
    size_t pairs = (size_t)(last - first);
    ca_eap_group_set(&e->group, e->job->data, first, last, ca_eap_runs_whole(e));
    memset(e->node, 0, pairs * (size_t)e->graph.sources * sizeof *e->node);
    if (e->edge) memset(e->edge, 0, pairs * (size_t)edges_of(e) * sizeof *e->edge);
    CA_TRY(e->variant->score(e));
    CA_TRY(ca_result_write(r, "/baseline/clean", first, last - first, e->ends.clean_metric));
    CA_TRY(ca_result_write(r, "/baseline/corrupted", first, last - first, e->ends.ablated_metric));
    CA_TRY(ca_result_write(r, "/baseline/predicted", first, last - first, e->ends.predicted));
    for (int64_t n = 0; n < last - first; n++) CA_TRY(write_example(e, n));
out:
    return st;
}

/* ---- a stopped run ---- */

static const char *const EDGES = CA_RESULT_UNFINISHED "/edges";
static const char *const NODES = CA_RESULT_UNFINISHED "/nodes";

ca_status ca_eap_save_sums(const eap *e) {
    ca_status st = CA_OK;
    ca_result *r = e->job->result;
    CA_TRY(ca_result_put(r, EDGES, CA_RESULT_F64, (ca_result_shape){1, {edges_of(e)}, {"edge"}},
                         e->edge_sum));
    CA_TRY(ca_result_put(r, NODES, CA_RESULT_F64,
                         (ca_result_shape){1, {e->graph.sources}, {"source"}}, e->node_sum));
out:
    return st;
}

ca_status ca_eap_restore_sums(eap *e) {
    ca_status st = CA_OK;
    ca_result *r = e->job->result;
    CA_TRY(ca_result_read_back(r, EDGES, e->edge_sum));
    CA_TRY(ca_result_read_back(r, NODES, e->node_sum));
out:
    return st;
}
