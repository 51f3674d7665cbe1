/* SPDX-License-Identifier: MIT
 *
 * The variants: how the edges, or the nodes, of a group of pairs are scored. One row each.
 */
#include "eap.h"

#include "causa/ops.h"

#include <math.h>
#include <string.h>

/* ---- gradients along a path ---- */

/* Forward, backward and scores of all points, from the block of each site on. */
static double path_flops(const ca_job *job, const eap *e, int64_t rows, int64_t prefix) {
    const ca_arch *a = job->arch;
    int64_t keys = ca_sequence_keys(a, rows, prefix);
    double flops = 0, points = (double)e->point_count;
    bool one_gradient = ca_eap_one_gradient(a, e->metric.kind);
    double heads = one_gradient ? (double)(2 - ca_eap_ends_apart(e)) : 2 * points;
    for (int64_t s = 0; s < e->site_count; s++) {
        int64_t layers = a->layers;
        if (e->own_site && e->sites[s].layer > 0) layers -= e->sites[s].layer;
        flops += points * (ca_flops_forward(a, rows, keys, layers) +
                           ca_flops_backward(a, rows, keys, layers, 1, true));
        flops += heads * ca_flops_head(a, 1);
        if (e->level == EAP_EDGES)
            flops += ca_eap_scores_flops(a, &e->sums.query, rows, e->point_count) * (double)layers /
                     (double)a->layers;
    }
    return flops;
}

static unsigned wants_of(const eap *e) {
    static const unsigned wants[] = {[EAP_EDGES] = EAP_WANTS_EDGES,
                                     [EAP_NODES] = EAP_WANTS_NODES,
                                     [EAP_NEURONS] = EAP_WANTS_OUTPUTS,
                                     [EAP_HIDDEN] = EAP_WANTS_HIDDEN};
    return wants[e->level];
}

static int64_t path_bytes(const ca_job *job, const eap *e) {
    int64_t bytes =
        ca_eap_gradients_bytes(job->arch, job->dtype, e->part_sizes, e->most_points, wants_of(e),
                               e->own_site, ca_eap_one_gradient(job->arch, e->metric.kind));
    if (e->level == EAP_EDGES)
        bytes += ca_eap_scores_bytes(job->precision, &e->sums.query, e->expand_rows,
                                     e->sums.positions > 0);
    if (e->level == EAP_NEURONS || e->level == EAP_HIDDEN)
        bytes += ca_eap_neurons_bytes(job->arch, job->dtype, &e->sums.query, e->longest,
                                      e->level == EAP_HIDDEN);
    return bytes;
}

static ca_status path_create(eap *e) {
    ca_status st = CA_OK;
    e->gradients =
        (eap_gradients){.ends = &e->ends,
                        .sizes = e->part_sizes,
                        .most_points = e->most_points,
                        .wants = wants_of(e),
                        .from_site = e->own_site,
                        .one_gradient = ca_eap_one_gradient(e->job->arch, e->metric.kind)};
    CA_TRY(ca_eap_gradients_create(&e->gradients));
    if (e->level == EAP_EDGES)
        CA_TRY(ca_eap_scores_create(e->job->model, &e->sums.query, e->expand_rows,
                                    e->sums.positions > 0, &e->scores));
    if (e->level == EAP_NEURONS || e->level == EAP_HIDDEN)
        CA_TRY(ca_eap_neurons_create(&e->gradients, &e->sums.query, e->longest,
                                     e->level == EAP_HIDDEN, &e->neurons));
out:
    return st;
}

/* The sources that a path scores, or layers of hidden units. */
static void scored_by(const eap *e, eap_site site, int64_t *first, int64_t *count) {
    const ca_circuit_graph *g = &e->sums.query;
    *first = 0;
    *count = e->level == EAP_HIDDEN ? g->layers : g->sources;
    if (!e->own_site) return;
    *count = site.kind == CA_SITE_Z ? g->heads : 1;
    if (site.kind == CA_SITE_Z) *first = ca_circuit_head(g, site.layer, 0);
    if (site.kind == CA_SITE_MLP_OUT) *first = ca_circuit_mlp(g, site.layer);
    if (site.kind == CA_SITE_MLP_POST) *first = site.layer;
}

/* The example of the group that pair n is a sequence of. */
static int64_t example_of(const eap *e, int64_t n) { return n / ca_metric_parts(e->metric.kind); }

static ca_status take_edges(void *context, int64_t n, int64_t position, const double *score) {
    eap *e = context;
    n = example_of(e, e->gradients.first + n);
    ca_eap_sums_edges(&e->sums, n, position, ca_eap_share(e, n), score);
    return CA_OK;
}

/* Node scores: products at the sources' own outputs. */
static ca_status take_nodes(eap *e, int64_t first, int64_t count) {
    ca_status st = CA_OK;
    const eap_gradients *g = &e->gradients;
    const eap_group *part = &g->part;
    int64_t all = g->points * part->rows;
    ca_tensor node = ca_tensor_2d(g->all_node.data, g->all_node.dtype, e->sums.query.sources, all);
    CA_TRY(ca_download_f64(e->job->backend, node, e->staging, e->score_host));
    for (int64_t n = 0; n < part->count; n++)
        for (int64_t u = first; u < first + count; u++)
            for (int64_t k = 0; k < g->points; k++) {
                const double *rows = e->score_host + u * all + k * part->rows;
                int64_t i = example_of(e, g->first + n);
                for (int64_t t = part->row[n]; t < part->row[n + 1]; t++)
                    ca_eap_sums_node(&e->sums, i, ca_eap_share(e, i), u,
                                     g->point[k].weight * rows[t]);
            }
out:
    return st;
}

static ca_status take_neurons(eap *e, int64_t first, int64_t count) {
    ca_status st = CA_OK;
    for (int64_t n = 0; n < e->gradients.part.count; n++) {
        int64_t i = example_of(e, e->gradients.first + n);
        ca_tensor score;
        CA_TRY(ca_eap_neurons_pair(&e->neurons, n, first, count, &score));
        CA_TRY(ca_download_f64(e->job->backend, score, e->staging, e->score_host));
        if (e->level == EAP_HIDDEN)
            ca_eap_sums_units(&e->sums, i, ca_eap_share(e, i), first, count, e->score_host);
        else
            ca_eap_sums_neurons(&e->sums, i, ca_eap_share(e, i), first, count, e->score_host);
    }
out:
    return st;
}

static ca_status path_site(eap *e, eap_site site) {
    ca_status st = CA_OK;
    double factor = -e->metric.kind->sign;
    int64_t first, count;
    scored_by(e, site, &first, &count);
    for (int64_t k = 0; k < e->point_count; k += e->most_points) {
        int64_t points = e->point_count - k < e->most_points ? e->point_count - k : e->most_points;
        CA_TRY(
            ca_eap_gradients_run(&e->gradients, site, e->points + k, points, factor, &e->scorer));
        if (e->level == EAP_EDGES)
            CA_TRY(ca_eap_scores_run(&e->scores, &e->gradients, first, count, take_edges, e));
        else if (e->level == EAP_NODES)
            CA_TRY(take_nodes(e, first, count));
        else
            CA_TRY(take_neurons(e, first, count));
    }
out:
    return st;
}

static ca_status path_score(eap *e) {
    ca_status st = CA_OK;
    int64_t points = e->point_count < e->most_points ? e->point_count : e->most_points;
    CA_TRY(ca_eap_gradients_begin(&e->gradients, &e->group, e->sites[0], e->points, points,
                                  &e->scorer));
    int64_t last = e->group.first + e->group.count;
    for (int64_t pair = e->group.first, end; pair < last; pair = end) {
        end = ca_eap_part_end(e, pair, last);
        ca_eap_gradients_part(&e->gradients, pair - e->group.first, end - pair);
        for (int64_t s = 0; s < e->site_count; s++) CA_TRY(path_site(e, e->sites[s]));
    }
out:
    return st;
}

/* ---- exact patching ---- */

static double exact_flops(const ca_job *job, const eap *e, int64_t rows, int64_t prefix) {
    return ca_eap_exact_flops(job->arch, &e->sums.query, rows, prefix, e->level == EAP_NODES);
}

static int64_t exact_bytes(const ca_job *job, const eap *e) {
    return ca_eap_exact_bytes(job->arch, job->dtype, &e->sums.query, e->cell_rows, e->longest,
                              e->sizes.reads);
}

static ca_status exact_create(eap *e) {
    return ca_eap_exact_create(&e->ends, &e->sums.query, &e->scorer, e->cell_rows, e->longest,
                               &e->exact);
}

/* Changes of the loss from the metrics of ablated runs. */
static ca_status exact_score(eap *e) {
    ca_status st = CA_OK;
    bool edges = e->level == EAP_EDGES;
    int64_t count = e->sums.query.sources * (edges ? e->sums.query.destinations : 1);
    CA_TRY(ca_eap_ends_begin(&e->ends, &e->group));
    CA_TRY(ca_eap_ends_run(&e->ends, true, true, &e->scorer));
    CA_TRY(ca_eap_ends_subtract(&e->ends, 0, e->group.rows));
    for (int64_t n = 0; n < e->group.count; n++) {
        double clean = e->ends.clean_metric[n];
        CA_TRY((edges ? ca_eap_exact_edges : ca_eap_exact_nodes)(&e->exact, n, e->score_host));
        for (int64_t i = 0; i < count; i++)
            e->score_host[i] = -e->metric.kind->sign * (e->score_host[i] - clean);
        int64_t example = example_of(e, n);
        double share = ca_eap_share(e, example);
        if (edges) ca_eap_sums_edges(&e->sums, example, -1, share, e->score_host);
        for (int64_t u = 0; u < count && !edges; u++)
            ca_eap_sums_node(&e->sums, example, share, u, e->score_host[u]);
    }
out:
    return st;
}

/* ---- information flow ---- */

static double flow_flops(const ca_job *job, const eap *e, int64_t rows, int64_t prefix) {
    (void)job;
    (void)prefix;
    return ca_eap_flow_flops(&e->sums.query, rows);
}

static int64_t flow_bytes(const ca_job *job, const eap *e) {
    return ca_eap_flow_bytes(job->dtype, &e->sums.query, e->expand_rows);
}

static ca_status flow_create(eap *e) {
    return ca_eap_flow_create(&e->ends, &e->sums.query, e->expand_rows, &e->flow);
}

static ca_status flow_score(eap *e) {
    ca_status st = CA_OK;
    size_t edges = (size_t)(e->sums.query.sources * e->sums.query.destinations);
    CA_TRY(ca_eap_ends_begin(&e->ends, &e->group));
    CA_TRY(ca_eap_ends_run(&e->ends, true, false, &e->scorer));
    for (int64_t n = 0; n < e->group.count; n++) {
        memset(e->score_host, 0, edges * sizeof *e->score_host);
        CA_TRY(ca_eap_flow_pair(&e->flow, n, e->score_host));
        ca_eap_sums_edges(&e->sums, n, -1, ca_eap_share(e, n), e->score_host);
    }
out:
    return st;
}

/* ---- table ---- */

#define PATH .flops = path_flops, .bytes = path_bytes, .create = path_create, .score = path_score

static const eap_variant variants[] = {
    {.name = "eap", .path = EAP_AT_CLEAN, PATH},
    {.name = "ig-inputs", .path = EAP_OF_INPUTS, PATH},
    {.name = "ig-activations", .path = EAP_OF_ACTIVATIONS, PATH},
    {.name = "clean-corrupted", .path = EAP_AT_BOTH, PATH},
    {.name = "exact",
     .keep_stream = true,
     .flops = exact_flops,
     .bytes = exact_bytes,
     .create = exact_create,
     .score = exact_score},
    {.name = "information-flow",
     .clean_only = true,
     .sums_edges = true,
     .keep_stream = true,
     .flops = flow_flops,
     .bytes = flow_bytes,
     .create = flow_create,
     .score = flow_score},
};

const eap_variant *ca_eap_variant_find(const char *name) {
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
        if (strcmp(variants[i].name, name) == 0) return &variants[i];
    return NULL;
}
