/* SPDX-License-Identifier: MIT
 *
 * See flow.h.
 */
#include "flow.h"

#include "causa/ops.h"
#include "expand.h"

#include <math.h>
#include <stdlib.h>

static int64_t take(eap_flow *f, ca_dtype type, bool measure) {
    const method_tensor list[] = {
        {&f->source, type, 3, {f->graph->sources, f->rows, f->graph->width}},
        {&f->distance, type, 2, {f->graph->sources, f->rows}},
        {&f->norm, type, 1, {f->rows}},
    };
    return ca_method_take_list(measure ? NULL : &f->buffers, list, sizeof list / sizeof *list);
}

int64_t ca_eap_flow_bytes(ca_dtype dtype, const ca_circuit_graph *graph, int64_t rows) {
    eap_flow f = {.graph = graph, .rows = rows};
    return take(&f, dtype, true);
}

ca_status ca_eap_flow_create(const eap_ends *ends, const ca_circuit_graph *graph, int64_t rows,
                             eap_flow *out) {
    ca_status st = CA_OK;
    const ca_model *m = ends->model;
    size_t most = (size_t)(graph->sources * rows);
    *out = (eap_flow){.ends = ends, .graph = graph, .rows = rows};
    CA_TRY(ca_method_buffers_create(m->backend, (size_t)take(out, m->dtype, true), &out->buffers));
    take(out, m->dtype, false);
    CA_TRY(ca_calloc(most, sizeof(double), &out->staging));
    CA_TRY(ca_calloc(most, sizeof *out->distance_host, &out->distance_host));
    CA_TRY(ca_calloc((size_t)rows, sizeof *out->norm_host, &out->norm_host));
out:
    if (st != CA_OK) ca_eap_flow_free(out);
    return st;
}

void ca_eap_flow_free(eap_flow *f) {
    ca_method_buffers_free(&f->buffers);
    free(f->staging);
    free(f->distance_host);
    free(f->norm_host);
    *f = (eap_flow){0};
}

double ca_eap_flow_flops(const ca_circuit_graph *g, int64_t rows) {
    double per_row = 0;
    for (int64_t l = 0; l < g->layers; l++)
        per_row += (double)(ca_circuit_head(g, l, 0) + ca_circuit_mlp(g, l));
    return 3 * (per_row + (double)g->sources) * (double)(rows * g->width);
}

/* Adds the share of every source in columns [first, first + count), which read the same x [n, D].
 */
static ca_status add_columns(eap_flow *f, ca_tensor x, int64_t first, int64_t count, double share,
                             double *score) {
    ca_status st = CA_OK;
    ca_backend *be = f->ends->model->backend;
    int64_t parents = ca_circuit_parents(f->graph, first), rows = x.shape[0];
    ca_tensor source = ca_tensor_slice(ca_tensor_slice(f->source, 0, 0, parents), 1, 0, rows);
    ca_tensor distance = ca_tensor_2d(f->distance.data, f->distance.dtype, parents, rows);
    ca_tensor norm = ca_tensor_slice(f->norm, 0, 0, rows);
    CA_TRY(ca_row_distances(be, norm, x, (ca_tensor){0}));
    CA_TRY(ca_row_distances(be, distance, ca_tensor_repeat(x, parents), source));
    CA_TRY(ca_download_f64(be, norm, f->staging, f->norm_host));
    CA_TRY(ca_download_f64(be, distance, f->staging, f->distance_host));
    for (int64_t t = 0; t < rows; t++) {
        double all = 0;
        for (int64_t u = 0; u < parents; u++)
            all += fmax(0, f->norm_host[t] - f->distance_host[u * rows + t]);
        if (all <= 0) continue;
        for (int64_t u = 0; u < parents; u++) {
            double near = fmax(0, f->norm_host[t] - f->distance_host[u * rows + t]);
            for (int64_t v = first; v < first + count; v++)
                score[u * f->graph->destinations + v] += share * near / all;
        }
    }
out:
    return st;
}

ca_status ca_eap_flow_pair(eap_flow *f, int64_t n, double *score) {
    ca_status st = CA_OK;
    const eap_ends *ends = f->ends;
    const ca_circuit_graph *g = f->graph;
    int64_t first = ends->group->row[n], last = ends->group->row[n + 1];
    double share = 1 / (double)(last - first);
    for (int64_t t = first; t < last; t += f->rows) {
        int64_t rows = last - t < f->rows ? last - t : f->rows;
        CA_TRY(
            ca_eap_expand(ends->model, g, &ends->clean, t, ca_tensor_slice(f->source, 1, 0, rows)));
        for (int64_t l = 0; l < g->layers; l++) {
            ca_tensor x = ca_tensor_slice(ca_tensor_at(ends->stream, 0, l), 0, t, rows);
            ca_tensor mid = ca_tensor_slice(ca_tensor_at(ends->mlp_in, 0, l), 0, t, rows);
            CA_TRY(add_columns(f, x, ca_circuit_column(g, l, CA_CIRCUIT_Q),
                               g->heads + 2 * g->kv_columns, share, score));
            CA_TRY(add_columns(f, mid, ca_circuit_column(g, l, CA_CIRCUIT_MLP), 1, share, score));
        }
        CA_TRY(add_columns(f, ca_tensor_slice(ca_tensor_at(ends->stream, 0, g->layers), 0, t, rows),
                           g->destinations - 1, 1, share, score));
    }
out:
    return st;
}
