/* SPDX-License-Identifier: MIT
 *
 * Scores of a group of pairs: every site and range of points in a pass of its own, their scores
 * added up in float64.
 */
#include "eap.h"

#include "causa/ops.h"

#include <math.h>
#include <stdlib.h>

static int64_t edges_of(const eap *e) { return e->graph.sources * e->graph.destinations; }

int64_t ca_eap_attribute_host_bytes(const eap *e, int64_t vocab) {
    int64_t pairs = e->sizes.pairs, edges = e->level == EAP_EDGES ? edges_of(e) : 0;
    int64_t kept = e->per_example ? pairs * edges : 0;
    return (int64_t)sizeof(double) * (4 * edges + kept) +
           ca_method_scorer_host_bytes(&e->metric, vocab, pairs);
}

static void mark_edges(const ca_circuit_graph *g, bool *valid) {
    for (int64_t v = 0; v < g->destinations; v++)
        for (int64_t u = 0; u < ca_circuit_parents(g, v); u++)
            valid[u * g->destinations + v] = true;
}

static ca_status create_edges(eap *e) {
    ca_status st = CA_OK;
    size_t edges = (size_t)edges_of(e);
    CA_TRY(ca_calloc(edges, sizeof *e->edge_sum, &e->edge_sum));
    if (e->per_example)
        CA_TRY(ca_calloc((size_t)e->sizes.pairs * edges, sizeof *e->edge, &e->edge));
    CA_TRY(ca_eap_scores_create(e->job->model, &e->graph, e->expand_rows, false, &e->scores));
out:
    return st;
}

static ca_status create_nodes(eap *e) {
    ca_status st = CA_OK;
    size_t rows = (size_t)(e->graph.sources * e->sizes.points * e->sizes.rows);
    CA_TRY(ca_calloc(rows, sizeof *e->node_host, &e->node_host));
    CA_TRY(ca_calloc(rows, sizeof(double), &e->node_staging));
out:
    return st;
}

ca_status ca_eap_attribute_create(eap *e) {
    ca_status st = CA_OK;
    ca_job *job = e->job;
    size_t sources = (size_t)e->graph.sources, pairs = (size_t)e->sizes.pairs;
    e->gradients = (eap_gradients){
        .model = job->model,
        .sizes = e->sizes,
        .wants = e->level == EAP_EDGES ? EAP_WANTS_EDGES : EAP_WANTS_NODES,
        .ablation = e->ablation.kind == EAP_PATCHING ? NULL : &e->ablation,
    };
    CA_TRY(ca_eap_ablation_create(job->model, &e->ablation));
    CA_TRY(ca_eap_group_create(e->sizes.pairs, &e->group));
    CA_TRY(ca_eap_gradients_create(&e->gradients));
    CA_TRY(ca_method_scorer_create(&e->metric, job->data, job->backend, job->arch->vocab,
                                   e->sizes.pairs, &e->scorer));
    CA_TRY(ca_calloc((size_t)edges_of(e), sizeof *e->valid, &e->valid));
    CA_TRY(ca_calloc((size_t)edges_of(e), sizeof *e->row, &e->row));
    CA_TRY(ca_calloc(sources, sizeof *e->node_sum, &e->node_sum));
    CA_TRY(ca_calloc(pairs * sources, sizeof *e->node, &e->node));
    mark_edges(&e->graph, e->valid);
    CA_TRY(e->level == EAP_EDGES ? create_edges(e) : create_nodes(e));
out:
    return st; /* freed by the owner */
}

void ca_eap_attribute_free(eap *e) {
    ca_eap_gradients_free(&e->gradients);
    ca_eap_scores_free(&e->scores);
    ca_eap_ablation_free(&e->ablation);
    ca_eap_group_free(&e->group);
    ca_method_scorer_free(&e->scorer);
    free(e->valid);
    free(e->row);
    free(e->edge_sum);
    free(e->edge);
    free(e->node_sum);
    free(e->node);
    free(e->node_host);
    free(e->node_staging);
}

ca_status ca_eap_make_means(eap *e) {
    ca_status st = CA_OK;
    const ca_packing *p = &e->packing;
    if (!e->ablation.positions) return CA_OK;
    for (int64_t b = 0; b < p->batches; b++) {
        CA_TRY(ca_signal_status());
        ca_eap_group_set(&e->group, e->job->data, p->first[b], p->first[b + 1], true);
        CA_TRY(ca_eap_gradients_clean(&e->gradients, &e->group));
        CA_TRY(ca_eap_ablation_add(&e->ablation, e->job->backend, &e->group, &e->gradients.clean,
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

static ca_status add_edges(void *context, int64_t n, int64_t position, const double *score) {
    eap *e = context;
    const ca_circuit_graph *g = &e->graph;
    double share = share_of(e, e->group.first + n);
    double *own = e->edge ? e->edge + n * edges_of(e) : NULL;
    (void)position;
    for (int64_t u = 0; u < g->sources; u++)
        for (int64_t v = 0, i = u * g->destinations; v < g->destinations; v++, i++) {
            if (!e->valid[i]) continue;
            e->edge_sum[i] += share * score[i];
            e->node[n * g->sources + u] += score[i];
            if (own) own[i] += score[i];
        }
    return CA_OK;
}

/* The sources whose edges a path scores. */
static void sources_of(const eap *e, eap_site site, int64_t *first, int64_t *count) {
    *first = 0;
    *count = e->graph.sources;
    if (!e->own_site) return;
    *count = site.kind == CA_SITE_Z ? e->graph.heads : 1;
    if (site.kind == CA_SITE_Z) *first = ca_circuit_head(&e->graph, site.layer, 0);
    if (site.kind == CA_SITE_MLP_OUT) *first = ca_circuit_mlp(&e->graph, site.layer);
}

/* Node scores from the products at the sources' own outputs. */
static ca_status add_nodes(eap *e, int64_t first, int64_t count) {
    ca_status st = CA_OK;
    const eap_gradients *g = &e->gradients;
    const eap_group *group = &e->group;
    int64_t all = g->points * group->rows, sources = e->graph.sources;
    ca_tensor node = ca_tensor_2d(g->all_node.data, g->all_node.dtype, sources, all);
    CA_TRY(ca_download_f64(e->job->backend, node, e->node_staging, e->node_host));
    for (int64_t n = 0; n < group->count; n++)
        for (int64_t u = first; u < first + count; u++)
            for (int64_t k = 0; k < g->points; k++) {
                const double *rows = e->node_host + u * all + k * group->rows;
                for (int64_t t = group->row[n]; t < group->row[n + 1]; t++)
                    e->node[n * sources + u] += g->point[k].weight * rows[t];
            }
out:
    return st;
}

/* ---- groups ---- */

static ca_status run_site(eap *e, eap_site site) {
    ca_status st = CA_OK;
    int64_t first, count, most = e->sizes.points;
    double factor = -e->metric.kind->sign;
    sources_of(e, site, &first, &count);
    for (int64_t k = 0; k < e->point_count; k += most) {
        int64_t points = e->point_count - k < most ? e->point_count - k : most;
        CA_TRY(
            ca_eap_gradients_run(&e->gradients, site, e->points + k, points, factor, &e->scorer));
        if (e->level == EAP_EDGES)
            CA_TRY(ca_eap_scores_run(&e->scores, &e->gradients, first, count, add_edges, e));
        else
            CA_TRY(add_nodes(e, first, count));
    }
out:
    return st;
}

static ca_status write_examples(eap *e) {
    ca_status st = CA_OK;
    ca_result *r = e->job->result;
    const eap_gradients *g = &e->gradients;
    int64_t sources = e->graph.sources;
    CA_TRY(ca_result_write(r, "/baseline/clean", e->group.first, e->group.count, g->clean_metric));
    CA_TRY(ca_result_write(r, "/baseline/corrupted", e->group.first, e->group.count,
                           g->ablated_metric));
    CA_TRY(ca_result_write(r, "/baseline/predicted", e->group.first, e->group.count, g->predicted));
    for (int64_t n = 0; n < e->group.count; n++) {
        int64_t i = e->group.first + n, position = e->job->data->examples[i].clean.count - 1;
        const double *node = e->node + n * sources;
        CA_TRY(ca_result_write(r, "/data/position", i, 1, &position));
        /* A path of inputs explains the change of the loss by the input's node. */
        double change = -e->metric.kind->sign * (g->ablated_metric[n] - g->clean_metric[n]);
        double residual = change - node[0];
        if (e->variant == EAP_IG_INPUTS)
            CA_TRY(ca_result_write(r, "/baseline/residual", i, 1, &residual));
        for (int64_t u = 0; u < sources; u++) e->node_sum[u] += share_of(e, i) * node[u];
        if (!e->edge) continue;
        for (int64_t k = 0; k < edges_of(e); k++)
            e->row[k] = e->valid[k] ? (float)e->edge[n * edges_of(e) + k] : NAN;
        CA_TRY(ca_result_write(r, "/edges/score_per_example", i, 1, e->row));
    }
out:
    return st;
}

ca_status ca_eap_attribute(void *state, int64_t first, int64_t last) {
    ca_status st = CA_OK;
    eap *e = state;
    ca_eap_group_set(&e->group, e->job->data, first, last, ca_eap_runs_whole(e));
    for (int64_t i = 0; i < e->group.count * e->graph.sources; i++) e->node[i] = 0;
    for (int64_t i = 0; e->edge && i < e->group.count * edges_of(e); i++) e->edge[i] = 0;
    CA_TRY(ca_eap_gradients_begin(
        &e->gradients, &e->group, e->sites[0], e->points,
        e->point_count < e->sizes.points ? e->point_count : e->sizes.points, &e->scorer));
    for (int64_t s = 0; s < e->site_count; s++) CA_TRY(run_site(e, e->sites[s]));
    CA_TRY(write_examples(e));
out:
    return st;
}

/* ---- a stopped run ---- */

static const char *const EDGES = CA_RESULT_UNFINISHED "/edges";
static const char *const NODES = CA_RESULT_UNFINISHED "/nodes";

ca_status ca_eap_save_sums(const eap *e) {
    ca_status st = CA_OK;
    ca_result *r = e->job->result;
    if (e->edge_sum)
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
    if (e->edge_sum) CA_TRY(ca_result_read_back(r, EDGES, e->edge_sum));
    CA_TRY(ca_result_read_back(r, NODES, e->node_sum));
out:
    return st;
}
