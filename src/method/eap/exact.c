/* SPDX-License-Identifier: MIT
 *
 * See exact.h. An edge into a head changes that head's z alone: the changed q, k or v is computed
 * for a block of sources at a time, and attends with the clean others. Edges into an MLP change
 * what it reads, edges into the logits the last token's final residual stream.
 */
#include "exact.h"

#include "causa/ops.h"
#include "expand.h"

#include <stdlib.h>

static int64_t qkv_width(const ca_arch *a) { return (a->heads + 2 * a->kv_heads) * a->head_dim; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- memory ---- */

static eap_exact sized(const ca_circuit_graph *graph, int64_t rows, int64_t longest) {
    int64_t block = rows / longest;
    return (eap_exact){.graph = graph,
                       .longest = longest,
                       .block = block < 1 ? 1 : smaller(block, graph->sources)};
}

static int64_t take(eap_exact *e, const ca_arch *a, ca_dtype type, bool measure) {
    int64_t rows = e->block * e->longest, share = e->graph->heads / e->graph->kv_columns;
    const method_tensor list[] = {
        {&e->source, type, 3, {e->graph->sources, e->longest, a->width}},
        {&e->x, type, 2, {rows, a->width}},
        {&e->normed, type, 2, {rows, a->width}},
        {&e->qkv, type, 2, {rows, qkv_width(a)}},
        {&e->clean, type, 2, {rows, qkv_width(a)}},
        {&e->z, type, 3, {rows, share, a->head_dim}},
        {&e->lse, type, 2, {rows, share}},
    };
    return ca_method_take_list(measure ? NULL : &e->buffers, list, sizeof list / sizeof *list);
}

int64_t ca_eap_exact_bytes(const ca_arch *arch, ca_dtype dtype, const ca_circuit_graph *graph,
                           int64_t rows, int64_t longest, int64_t reads) {
    eap_exact e = sized(graph, rows, longest);
    return take(&e, arch, dtype, true) + ca_eap_restart_bytes(arch, dtype, rows, longest, reads) +
           ca_batch_bytes(e.block, e.block * longest, 0);
}

ca_status ca_eap_exact_create(const eap_ends *ends, const ca_circuit_graph *graph,
                              method_scorer *scorer, int64_t rows, int64_t longest,
                              eap_exact *out) {
    ca_status st = CA_OK;
    const ca_model *m = ends->model;
    *out = sized(graph, rows, longest);
    out->ends = ends;
    CA_TRY(ca_eap_restart_create(ends, scorer, rows, longest, &out->restart));
    CA_TRY(ca_batch_create(m->backend, out->block, out->block * longest, 0, &out->batch));
    CA_TRY(ca_method_buffers_create(m->backend, (size_t)take(out, &m->arch, m->dtype, true),
                                    &out->buffers));
    take(out, &m->arch, m->dtype, false);
out:
    if (st != CA_OK) ca_eap_exact_free(out);
    return st;
}

void ca_eap_exact_free(eap_exact *e) {
    ca_eap_restart_free(&e->restart);
    ca_batch_free(e->batch);
    ca_method_buffers_free(&e->buffers);
    *e = (eap_exact){0};
}

double ca_eap_exact_flops(const ca_arch *a, const ca_circuit_graph *g, int64_t rows, int64_t prefix,
                          bool nodes) {
    double flops = 0, width = (double)a->width;
    int64_t keys = ca_sequence_keys(a, rows, prefix);
    for (int64_t l = 0; l < a->layers; l++) {
        int64_t parents = ca_circuit_parents(g, ca_circuit_column(g, l, CA_CIRCUIT_Q));
        int64_t cells = (g->heads + 2 * g->kv_columns) * parents +
                        ca_circuit_parents(g, ca_circuit_column(g, l, CA_CIRCUIT_MLP));
        if (nodes) cells = a->heads + 1 + (l == 0);
        flops += (double)cells * ca_flops_forward(a, rows, keys, a->layers - l);
        flops += ca_flops_head(a, cells);
        if (!nodes) flops += 2 * (double)(parents * rows) * width * (double)qkv_width(a);
    }
    return flops + (nodes ? 0 : ca_flops_head(a, g->sources));
}

/* ---- edges into heads ---- */

/* Sources [first, first + count), the sequences of one pair and layer that attend together. */
typedef struct source_block {
    int64_t n, rows;
    int64_t layer, first, count;
} source_block;

/* Parts of projections [count T, (H + 2 K) Dh]. */
typedef struct head_views {
    ca_tensor q, k, v;
} head_views;

static head_views views_of(const ca_arch *a, ca_tensor qkv) {
    int64_t q = a->heads * a->head_dim, kv = a->kv_heads * a->head_dim;
    return (head_views){
        .q = ca_tensor_split_last(ca_tensor_slice(qkv, 1, 0, q), a->heads),
        .k = ca_tensor_split_last(ca_tensor_slice(qkv, 1, q, kv), a->kv_heads),
        .v = ca_tensor_split_last(ca_tensor_slice(qkv, 1, q + kv, kv), a->kv_heads),
    };
}

/* Rows of the pair in a tensor [.., T, D] of the group. */
static ca_tensor of_pair(const eap_exact *e, int64_t n, ca_tensor t) {
    const eap_group *g = e->ends->group;
    return ca_tensor_slice(t, t.rank - 2, g->row[n], g->row[n + 1] - g->row[n]);
}

/* The projections of a layer's input with the difference of every source of the block added, or
 * (clean) of the input itself, repeated. */
static ca_status project(eap_exact *e, const source_block *b, bool clean, ca_tensor qkv) {
    ca_status st = CA_OK;
    const ca_model *m = e->ends->model;
    int64_t rows = b->count * b->rows;
    ca_tensor x = ca_tensor_slice(e->x, 0, 0, rows);
    ca_tensor input = of_pair(e, b->n, ca_tensor_at(e->ends->stream, 0, b->layer));
    ca_tensor by_source = ca_tensor_3d(x.data, x.dtype, b->count, b->rows, m->arch.width);
    head_views v = views_of(&m->arch, qkv);
    CA_TRY(ca_copy(m->backend, by_source, ca_tensor_repeat(input, b->count)));
    if (!clean) {
        ca_tensor source = ca_tensor_slice(e->source, 0, b->first, b->count);
        CA_TRY(ca_add(m->backend, by_source, ca_tensor_slice(source, 1, 0, b->rows), 1));
    }
    CA_TRY(ca_block_qkv(m, b->layer, qkv, ca_tensor_slice(e->normed, 0, 0, rows), x));
    CA_TRY(ca_block_rotate(m, b->layer, v.q, v.k, e->batch->sequences.positions));
out:
    return st;
}

/* One head of keys or values, of the whole prefix. */
static ca_tensor head_of(ca_tensor t, int64_t head) {
    return t.data ? ca_tensor_slice(t, 1, head, 1) : t;
}

/* z [count T, n, Dh] of n heads from `head` on, which have the same keys and values, with one input
 * changed. */
static ca_status attend(eap_exact *e, const source_block *b, ca_circuit_input input, int64_t head,
                        head_views changed, head_views clean, ca_tensor z) {
    const ca_model *m = e->ends->model;
    const ca_pass *prefix = ca_eap_ends_prefix(e->ends);
    ca_attention attention = ca_block_attention(m, b->layer);
    int64_t kv = head / (attention.heads / attention.kv_heads);
    ca_tensor prefix_k = {0}, prefix_v = {0};
    ca_tensor q = (input == CA_CIRCUIT_Q ? changed : clean).q;
    ca_tensor k = (input == CA_CIRCUIT_K ? changed : clean).k;
    ca_tensor v = (input == CA_CIRCUIT_V ? changed : clean).v;
    if (prefix) ca_pass_cache(prefix, b->layer, &prefix_k, &prefix_v);
    attention.heads = z.shape[1];
    attention.kv_heads = 1;
    ca_tensor lse = ca_tensor_2d(e->lse.data, e->lse.dtype, z.shape[0], z.shape[1]);
    return ca_attention_fwd(m->backend, z, lse, ca_tensor_slice(q, 1, head, z.shape[1]),
                            head_of(k, kv), head_of(v, kv), head_of(prefix_k, kv),
                            head_of(prefix_v, kv), &e->batch->sequences, attention);
}

/* Edges of the block's sources into one column, which n heads from `head` on read. */
static ca_status column_edges(eap_exact *e, const source_block *b, int64_t column, int64_t head,
                              int64_t n, head_views changed, head_views clean, double *metric) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = e->graph;
    int64_t rows = b->count * b->rows, head_dim = e->z.shape[2];
    ca_circuit_input input = ca_circuit_destination_place(g, column).input;
    ca_tensor z = ca_tensor_3d(e->z.data, e->z.dtype, rows, n, head_dim);
    ca_tensor flat = ca_tensor_2d(e->z.data, e->z.dtype, rows, n * head_dim);
    CA_TRY(attend(e, b, input, head, changed, clean, z));
    for (int64_t i = 0; i < b->count; i++)
        CA_TRY(ca_eap_restart_add(&e->restart, EAP_CHANGE_Z, b->layer, head,
                                  ca_tensor_slice(flat, 0, i * b->rows, b->rows),
                                  &metric[(b->first + i) * g->destinations + column]));
out:
    return st;
}

static ca_status block_edges(eap_exact *e, const source_block *b, double *metric) {
    ca_status st = CA_OK;
    const ca_arch *a = &e->ends->model->arch;
    const ca_circuit_graph *g = e->graph;
    int64_t rows = b->count * b->rows;
    ca_tensor qkv = ca_tensor_slice(e->qkv, 0, 0, rows);
    ca_tensor clean = ca_tensor_slice(e->clean, 0, 0, rows);
    if (b->first == 0) CA_TRY(project(e, b, true, clean)); /* later blocks are no larger */
    CA_TRY(project(e, b, false, qkv));
    for (ca_circuit_input input = CA_CIRCUIT_Q; input <= CA_CIRCUIT_V; input++) {
        int64_t column = ca_circuit_column(g, b->layer, input);
        int64_t n = input == CA_CIRCUIT_Q ? 1 : g->heads / g->kv_columns;
        for (int64_t head = 0; head < g->heads; head += n)
            CA_TRY(column_edges(e, b, column++, head, n, views_of(a, qkv), views_of(a, clean),
                                metric));
    }
out:
    return st;
}

static ca_status set_batch(eap_exact *e, const source_block *b) {
    const eap_group *g = e->ends->group;
    ca_batch_clear(e->batch);
    for (int64_t i = 0; i < b->count; i++)
        ca_batch_add(e->batch, NULL, b->rows, g->prefix_start[b->n], g->tail[b->n]);
    return ca_batch_upload(e->batch);
}

static ca_status layer_edges(eap_exact *e, int64_t n, int64_t layer, double *metric) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = e->graph;
    int64_t rows = e->ends->group->row[n + 1] - e->ends->group->row[n];
    int64_t parents = ca_circuit_parents(g, ca_circuit_column(g, layer, CA_CIRCUIT_Q));
    int64_t mlp = ca_circuit_column(g, layer, CA_CIRCUIT_MLP);
    for (int64_t u = 0; u < parents; u += e->block) {
        source_block b = {n, rows, layer, u, smaller(e->block, parents - u)};
        CA_TRY(set_batch(e, &b));
        CA_TRY(block_edges(e, &b, metric));
    }
    for (int64_t u = 0; u < ca_circuit_parents(g, mlp); u++)
        CA_TRY(ca_eap_restart_add(&e->restart, EAP_CHANGE_MLP_IN, layer, -1,
                                  ca_tensor_slice(ca_tensor_at(e->source, 0, u), 0, 0, rows),
                                  &metric[u * g->destinations + mlp]));
out:
    return st;
}

/* ---- pairs ---- */

static ca_status begin_pair(eap_exact *e, int64_t n, int64_t *rows) {
    const eap_group *g = e->ends->group;
    *rows = g->row[n + 1] - g->row[n];
    ca_eap_restart_pair(&e->restart, n);
    return ca_eap_expand(e->ends->model, e->graph, &e->ends->difference, g->row[n],
                         ca_tensor_slice(e->source, 1, 0, *rows));
}

ca_status ca_eap_exact_edges(eap_exact *e, int64_t n, double *metric) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = e->graph;
    int64_t rows, logits = g->destinations - 1;
    CA_TRY(begin_pair(e, n, &rows));
    for (int64_t l = 0; l < g->layers; l++) CA_TRY(layer_edges(e, n, l, metric));
    for (int64_t u = 0; u < g->sources; u++)
        CA_TRY(ca_eap_restart_add_final(&e->restart,
                                        ca_tensor_slice(ca_tensor_at(e->source, 0, u), 0, 0, rows),
                                        &metric[u * g->destinations + logits]));
    CA_TRY(ca_eap_restart_finish(&e->restart));
out:
    return st;
}

ca_status ca_eap_exact_nodes(eap_exact *e, int64_t n, double *metric) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = e->graph;
    int64_t rows;
    CA_TRY(begin_pair(e, n, &rows));
    CA_TRY(ca_eap_restart_add(&e->restart, EAP_CHANGE_STREAM, 0, -1,
                              ca_tensor_slice(ca_tensor_at(e->source, 0, 0), 0, 0, rows),
                              &metric[0]));
    for (int64_t l = 0; l < g->layers; l++) {
        int64_t head = ca_circuit_head(g, l, 0), mlp = ca_circuit_mlp(g, l);
        ca_tensor z = of_pair(e, n, ca_tensor_at(e->ends->ablated.z, 0, l));
        z = ca_tensor_split_last(z, g->heads);
        for (int64_t h = 0; h < g->heads; h++)
            CA_TRY(ca_eap_restart_add(&e->restart, EAP_CHANGE_Z, l, h, ca_tensor_at(z, 1, h),
                                      &metric[head + h]));
        CA_TRY(ca_eap_restart_add(&e->restart, EAP_CHANGE_MLP_OUT, l, -1,
                                  ca_tensor_slice(ca_tensor_at(e->source, 0, mlp), 0, 0, rows),
                                  &metric[mlp]));
    }
    CA_TRY(ca_eap_restart_finish(&e->restart));
out:
    return st;
}
