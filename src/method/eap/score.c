/* SPDX-License-Identifier: MIT
 *
 * See score.h.
 */
#include "score.h"

#include "expand.h"

#include "causa/ops.h"

#include <stdlib.h>

enum {
    COLUMNS = 96,  /* of a product, about: fewer would read the outputs too often */
    MOST_UNITS = 8 /* whose scores are in backend memory at a time */
};

static const ca_tensor absent = {0};

/* Columns of a layer: 3 H heads' inputs and the MLP's. */
static int64_t layer_columns(const ca_circuit_graph *g) { return 3 * g->heads + 1; }

static int64_t group_layers(const ca_circuit_graph *g) {
    int64_t n = (COLUMNS + layer_columns(g) - 1) / layer_columns(g);
    return n < g->layers ? n : g->layers;
}

/* ---- memory ---- */

static int64_t take(eap_scores *s, const ca_circuit_graph *g, ca_dtype precision, bool measure) {
    const ca_dtype type = ca_precision_values(precision);
    const bool narrow = precision == CA_BF16;
    const method_tensor list[] = {
        {&s->source, type, 3, {g->sources, s->rows, g->width}},
        {&s->column, type, 3, {s->layers * layer_columns(g) + 1, s->rows, g->width}},
        {&s->ones, type, 1, {g->width}},
        {&s->mean, type, 2, {3 * g->heads, s->rows}},
        {&s->score, type, 3, {s->units, g->sources, g->destinations}},
        {&s->narrow_source, CA_BF16, 3, {g->sources, s->rows, g->width}},
        {&s->narrow_column, CA_BF16, 3, {s->layers * layer_columns(g) + 1, s->rows, g->width}},
    };
    const size_t count = sizeof list / sizeof *list - (narrow ? 0 : 2);
    return ca_method_take_list(measure ? NULL : &s->buffers, list, count);
}

static eap_scores sized(const ca_circuit_graph *graph, int64_t rows, bool by_position) {
    return (eap_scores){.graph = graph,
                        .rows = rows,
                        .by_position = by_position,
                        .layers = group_layers(graph),
                        .units = rows < MOST_UNITS ? rows : MOST_UNITS};
}

int64_t ca_eap_scores_bytes(ca_dtype precision, const ca_circuit_graph *graph, int64_t rows,
                            bool by_position) {
    eap_scores s = sized(graph, rows, by_position);
    return take(&s, graph, precision, true);
}

ca_status ca_eap_scores_create(const ca_model *model, const ca_circuit_graph *graph, int64_t rows,
                               bool by_position, eap_scores *out) {
    ca_status st = CA_OK;
    size_t count = (size_t)(graph->sources * graph->destinations);
    *out = sized(graph, rows, by_position);
    out->model = model;
    CA_TRY(ca_method_buffers_create(
        model->backend, (size_t)take(out, graph, model->precision, true), &out->buffers));
    take(out, graph, model->precision, false);
    CA_TRY(ca_fill(model->backend, out->ones, 1));
    CA_TRY(ca_calloc(count, sizeof(double), &out->staging));
    CA_TRY(ca_calloc(count, sizeof *out->host, &out->host));
out:
    if (st != CA_OK) ca_eap_scores_free(out);
    return st;
}

void ca_eap_scores_free(eap_scores *s) {
    ca_method_buffers_free(&s->buffers);
    free(s->staging);
    free(s->host);
    *s = (eap_scores){0};
}

double ca_eap_scores_flops(const ca_arch *a, const ca_circuit_graph *g, int64_t rows,
                           int64_t points) {
    double width = (double)g->width, heads = (double)g->heads, layers = (double)g->layers;
    double expand = 2 * 4 * heads * (double)a->head_dim * width * layers;
    double corrections = 2 * (double)points * 3 * heads * width * layers;
    return (double)rows * (expand + corrections + 2 * width * (double)g->edges);
}

/* ---- expansion ---- */

/* Rows of the group that are expanded now, and the units that they belong to. */
typedef struct eap_chunk {
    int64_t first, rows;
    int64_t unit, units; /* numbers of the units */
    bool begins, ends;   /* the first unit begins here, the last one ends here */
} eap_chunk;

/* Rows [first, first + count) of a contiguous [.., T, D], as they lie. */
static ca_tensor rows_of(ca_tensor t, const eap_chunk *c) {
    return ca_tensor_slice(t, t.rank - 2, c->first, c->rows);
}

/* [H, rows, n] as [groups, H / groups, rows, n]. */
static ca_tensor in_groups(ca_tensor t, int64_t groups) {
    ca_tensor g =
        ca_tensor_4d(t.data, t.dtype, groups, t.shape[0] / groups, t.shape[1], t.shape[2]);
    g.stride[0] = g.shape[1] * t.stride[0];
    g.stride[1] = t.stride[0];
    g.stride[2] = t.stride[1];
    return g;
}

/* to [H, rows, D] = sums [H, rows, Dh] times the heads' rows of W_qkv [heads Dh, D], which the
 * heads of a group share. */
static ca_status expand_heads(eap_scores *s, ca_tensor to, ca_tensor sums, ca_tensor weight,
                              int64_t heads) {
    int64_t width = weight.shape[1], head_dim = weight.shape[0] / heads;
    int64_t share = to.shape[0] / heads;
    ca_tensor w = ca_tensor_4d(weight.data, weight.dtype, heads, 1, head_dim, width);
    w.shape[1] = share, w.stride[1] = 0;
    return ca_matmul(s->model->backend, in_groups(to, heads), in_groups(sums, heads), w, absent,
                     (ca_matmul_options){.alpha = 1, .wide = true});
}

/* The gradient of the norm: to [3 H, rows, D] has sum over points of w_k c_k / sigma_k. */
static ca_status through_norm(eap_scores *s, eap_gradients *g, int64_t layer, const eap_chunk *c,
                              ca_tensor to) {
    ca_status st = CA_OK;
    const ca_model *m = s->model;
    const ca_arch *a = &m->arch;
    ca_backend *be = m->backend;
    int64_t columns = to.shape[0], rows = g->part.rows;
    double share = -1 / (double)a->width;
    ca_tensor xhat;
    if (a->norm.kind == CA_NORM_LAYER) {
        ca_tensor mean = ca_tensor_slice(s->mean, 1, 0, c->rows);
        ca_tensor ones = ca_tensor_repeat(ca_tensor_repeat(s->ones, c->rows), columns);
        CA_TRY(ca_row_dots(be, mean, to, ones));
        CA_TRY(ca_add_scaled_rows(be, to, ones, mean, share));
    }
    CA_TRY(ca_eap_gradients_xhat(g, layer, c->first, c->rows, &xhat));
    for (int64_t k = 0; k < g->points; k++) {
        ca_tensor x = ca_tensor_at(xhat, 0, k);
        for (int64_t i = 0; i < 3; i++) {
            ca_tensor coefficient = ca_eap_coefficients(g, layer, i * a->heads);
            CA_TRY(ca_add_scaled_rows(be, ca_tensor_slice(to, 0, i * a->heads, a->heads),
                                      ca_tensor_repeat(x, a->heads),
                                      ca_tensor_slice(coefficient, 1, k * rows + c->first, c->rows),
                                      share * g->point[k].weight));
        }
    }
out:
    return st;
}

/* Gradients [3 H + 1, rows, D] at all inputs of a layer. */
static ca_status expand_layer(eap_scores *s, eap_gradients *g, int64_t layer, const eap_chunk *c,
                              ca_tensor to) {
    ca_status st = CA_OK;
    const ca_model *m = s->model;
    const ca_arch *a = &m->arch;
    const ca_layer *w = &m->layers[layer];
    int64_t q = a->heads * a->head_dim, kv = a->kv_heads * a->head_dim;
    ca_tensor sums = rows_of(ca_tensor_at(g->heads, 0, layer), c);
    ca_tensor heads = ca_tensor_slice(to, 0, 0, 3 * a->heads), gain;
    CA_TRY(expand_heads(s, ca_tensor_slice(to, 0, 0, a->heads),
                        ca_tensor_slice(sums, 0, 0, a->heads),
                        ca_tensor_slice(w->qkv_weight, 0, 0, q), a->heads));
    for (int64_t i = 0; i < 2; i++)
        CA_TRY(expand_heads(s, ca_tensor_slice(to, 0, (1 + i) * a->heads, a->heads),
                            ca_tensor_slice(sums, 0, (1 + i) * a->heads, a->heads),
                            ca_tensor_slice(w->qkv_weight, 0, q + i * kv, kv), a->kv_heads));
    gain = ca_tensor_repeat(ca_tensor_repeat(w->norm1_gain, c->rows), 3 * a->heads);
    CA_TRY(ca_multiply(m->backend, heads, heads, gain));
    CA_TRY(through_norm(s, g, layer, c, heads));
    CA_TRY(ca_copy(m->backend, ca_tensor_at(to, 0, 3 * a->heads),
                   rows_of(ca_tensor_at(g->branch, 0, layer), c)));
out:
    return st;
}

/* ---- products ---- */

/* The rows of units in the group: unit number -> its first row, up to the next one's. */
static int64_t unit_row(const eap_scores *s, const eap_group *group, int64_t unit) {
    return s->by_position ? unit : group->row[unit];
}

static int64_t unit_count(const eap_scores *s, const eap_group *group) {
    return s->by_position ? group->rows : group->count;
}

/* [n, rows, D], of which the rows of one unit are wanted, as [n, rows of the unit * D]. */
static ca_tensor unit_columns(ca_tensor t, int64_t first, int64_t rows) {
    t = ca_tensor_slice(t, 1, first, rows);
    t.rank = 2;
    t.shape[1] = rows * t.shape[2], t.stride[1] = 1;
    t.shape[2] = 1, t.stride[2] = 0;
    return t;
}

/* A factor [n, rows, D] as it enters the products: rounded into `narrow` where there is one. */
static ca_status round_factor(eap_scores *s, ca_tensor narrow, ca_tensor *factor) {
    ca_status st = CA_OK;
    if (!narrow.data) return CA_OK;
    narrow = ca_tensor_slice(narrow, 0, 0, factor->shape[0]);
    narrow = ca_tensor_slice(narrow, 1, 0, factor->shape[1]);
    CA_TRY(ca_copy(s->model->backend, narrow, *factor));
    *factor = narrow;
out:
    return st;
}

/* Adds columns [first, first + n) of all units of the chunk. */
static ca_status multiply(eap_scores *s, const eap_group *group, const eap_chunk *c,
                          ca_tensor column, int64_t first, int64_t first_source, int64_t sources) {
    ca_status st = CA_OK;
    ca_tensor all = s->narrow_source.data ? s->narrow_source : s->source;
    CA_TRY(round_factor(s, s->narrow_column, &column));
    for (int64_t u = 0; u < c->units; u++) {
        int64_t from = unit_row(s, group, c->unit + u), to = unit_row(s, group, c->unit + u + 1);
        from = from > c->first ? from : c->first;
        to = to < c->first + c->rows ? to : c->first + c->rows;
        ca_tensor score = ca_tensor_at(s->score, 0, u);
        score = ca_tensor_slice(ca_tensor_slice(score, 0, first_source, sources), 1, first,
                                column.shape[0]);
        ca_tensor source = ca_tensor_slice(all, 0, first_source, sources);
        ca_matmul_options options = {
            .transpose_b = true, .alpha = 1, .beta = u > 0 || c->begins ? 0 : 1};
        CA_TRY(ca_matmul(s->model->backend, score, unit_columns(source, from - c->first, to - from),
                         unit_columns(column, from - c->first, to - from), absent, options));
    }
out:
    return st;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* All columns of the chunk's units: layers in groups, then the logits. Sources behind a group's
 * last layer have no edge into it. */
static ca_status score_chunk(eap_scores *s, eap_gradients *g, const eap_chunk *c,
                             int64_t first_source, int64_t sources) {
    ca_status st = CA_OK;
    const ca_circuit_graph *graph = s->graph;
    int64_t n = layer_columns(graph);
    ca_tensor source = ca_tensor_slice(s->source, 1, 0, c->rows);
    const eap_ablation *ablation = g->ends->ablation;
    CA_TRY(ca_eap_expand(s->model, graph, &g->difference, c->first, source));
    if (ablation && ablation->one.data)
        CA_TRY(ca_add(s->model->backend, source,
                      ca_tensor_repeat(ca_tensor_repeat(ablation->one, c->rows), graph->sources),
                      1));
    CA_TRY(round_factor(s, s->narrow_source, &source));
    int64_t layer = ca_circuit_source_place(graph, first_source).layer;
    for (int64_t l = layer < 0 ? 0 : layer; l < graph->layers; l += s->layers) {
        int64_t layers = least(s->layers, graph->layers - l);
        ca_tensor column =
            ca_tensor_slice(ca_tensor_slice(s->column, 0, 0, layers * n), 1, 0, c->rows);
        int64_t parents = ca_circuit_mlp(graph, l + layers - 1) - first_source;
        for (int64_t i = 0; i < layers; i++)
            CA_TRY(expand_layer(s, g, l + i, c, ca_tensor_slice(column, 0, i * n, n)));
        CA_TRY(multiply(s, &g->part, c, column, l * n, first_source, least(parents, sources)));
    }
    ca_tensor logits = ca_tensor_slice(ca_tensor_slice(s->column, 0, 0, 1), 1, 0, c->rows);
    CA_TRY(ca_copy(s->model->backend, ca_tensor_at(logits, 0, 0),
                   rows_of(ca_tensor_at(g->branch, 0, graph->layers), c)));
    CA_TRY(multiply(s, &g->part, c, logits, graph->destinations - 1, first_source, sources));
out:
    return st;
}

/* Units from `unit` on that fit, whole ones unless the first is too long; `from`: its first row
 * that is to do. */
static eap_chunk next_chunk(const eap_scores *s, const eap_group *group, int64_t unit,
                            int64_t from) {
    eap_chunk c = {.first = from, .unit = unit, .begins = from == unit_row(s, group, unit)};
    int64_t end = unit_row(s, group, unit + 1);
    c.units = 1;
    c.ends = end - from <= s->rows;
    c.rows = c.ends ? end - from : s->rows;
    if (!c.begins || !c.ends) return c;
    while (c.units < s->units && unit + c.units < unit_count(s, group)) {
        int64_t rows = unit_row(s, group, unit + c.units + 1) - from;
        if (rows > s->rows) break;
        c.rows = rows;
        c.units++;
    }
    return c;
}

/* The pair of a unit, and the token of its prompt. */
static void place_of(const eap_scores *s, const eap_group *group, int64_t unit, int64_t *n,
                     int64_t *position) {
    *n = unit;
    *position = -1;
    if (!s->by_position) return;
    *n = 0;
    while (group->row[*n + 1] <= unit) ++*n;
    *position = group->tail[*n] + unit - group->row[*n];
}

ca_status ca_eap_scores_run(eap_scores *s, eap_gradients *g, int64_t first_source, int64_t sources,
                            eap_score_visitor visit, void *context) {
    ca_status st = CA_OK;
    int64_t units = unit_count(s, &g->part), from = 0;
    CA_TRY(ca_fill(s->model->backend, s->score, 0));
    for (int64_t unit = 0; unit < units;) {
        eap_chunk c = next_chunk(s, &g->part, unit, from);
        CA_TRY(score_chunk(s, g, &c, first_source, sources));
        from = c.first + c.rows;
        if (!c.ends) continue;
        for (int64_t u = 0; u < c.units; u++) {
            int64_t n, position;
            CA_TRY(ca_download_f64(s->model->backend, ca_tensor_at(s->score, 0, u), s->staging,
                                   s->host));
            place_of(s, &g->part, unit + u, &n, &position);
            CA_TRY(visit(context, n, position, s->host));
        }
        unit += c.units;
    }
out:
    return st;
}
