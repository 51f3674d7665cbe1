/* SPDX-License-Identifier: MIT
 *
 * See runs.h. This file has the engine's memory, the ablated residual stream of a group, and the
 * way of the lanes from the embeddings to the logits.
 */
#include "lanes.h"

#include "causa/ops.h"

#include <assert.h>
#include <stdlib.h>

/* ---- memory ---- */

static int64_t qkv_width(const ca_arch *a) { return (a->heads + 2 * a->kv_heads) * a->head_dim; }

/* Mask elements of circuits with `sources` nodes, every destination read. */
static int64_t mask_count(const ca_circuit_graph *g, int64_t sources) {
    return sources * g->layers * (eap_columns(g) + 1);
}

/* Neurons of a lane, where they have masks. */
static int64_t neuron_count(const ca_circuit_graph *g, eap_runs_sizes s) {
    return s.neurons ? g->sources * g->width : 0;
}

/* Takes the tensors; buffers == NULL: only measures. */
static int64_t take_tensors(eap_runs *r, const ca_arch *a, ca_dtype dtype, method_buffers *to) {
    eap_runs_sizes s = r->sizes;
    const ca_circuit_graph *g = &r->graph;
    int64_t layers = a->layers, d = a->width, rows = s.lanes * s.group.rows,
            columns = eap_columns(g);
    int64_t up = a->gated ? 2 * a->mlp_width : a->mlp_width, z = a->heads * a->head_dim;
    int64_t prefix = g->kv_columns > a->kv_heads ? s.group.prefix_rows : 0;
    const method_tensor list[] = {
        {&r->clean, dtype, 2, {s.group.rows, d}},
        {&r->start, dtype, 2, {s.group.rows, d}},
        {&r->ablated_pre, dtype, 3, {layers + 1, s.group.rows, d}},
        {&r->ablated_qkv, dtype, 3, {layers, s.group.rows, columns * a->head_dim}},
        {&r->ablated_attn, dtype, 3, {layers, s.group.rows, d}},
        {&r->resid, dtype, 3, {s.lanes, s.group.rows, d}},
        {&r->slots, dtype, 3, {s.sources, s.group.rows, d}},
        {&r->masks, dtype, 1, {mask_count(g, s.sources)}},
        {&r->neurons, dtype, 2, {s.neurons ? s.sources : 0, d}},
        {&r->input, dtype, 3, {columns + 1, s.group.rows, d}},
        {&r->normed, dtype, 3, {columns * s.lanes, s.group.rows, d}},
        {&r->mlp_input, dtype, 3, {s.lanes, s.group.rows, d}},
        {&r->qkv, dtype, 2, {rows, columns * a->head_dim}},
        {&r->z, dtype, 2, {rows, z}},
        {&r->delta_z, dtype, 2, {rows, z}},
        {&r->lse, dtype, 2, {rows, a->heads}},
        {&r->branch, dtype, 2, {rows, d}},
        {&r->up, dtype, 2, {rows, up}},
        {&r->hidden, dtype, 2, {rows, a->mlp_width}},
        {&r->prefix_k, dtype, 3, {prefix, g->kv_columns, a->head_dim}},
        {&r->prefix_v, dtype, 3, {prefix, g->kv_columns, a->head_dim}},
        {&r->last, dtype, 2, {s.lanes * s.group.reads, d}},
        {&r->logits, dtype, 2, {s.lanes * s.group.reads, a->vocab}},
    };
    return ca_method_take_list(to, list, sizeof list / sizeof *list);
}

int64_t ca_eap_runs_bytes(const ca_arch *arch, ca_dtype dtype, const ca_circuit_graph *graph,
                          eap_runs_sizes s) {
    eap_runs measured = {.graph = *graph, .sizes = s};
    return take_tensors(&measured, arch, dtype, NULL) +
           ca_batch_bytes(s.lanes * s.group.pairs, s.lanes * s.group.rows, s.lanes * s.group.reads);
}

int64_t ca_eap_runs_host_bytes(const ca_circuit_graph *g, eap_runs_sizes s) {
    int64_t lane = g->destinations * (int64_t)sizeof(eap_mixture) +
                   (g->sources + 1 + g->layers) * (int64_t)sizeof(int64_t) +
                   g->sources * (int64_t)sizeof(bool);
    int64_t values = mask_count(g, g->sources) + neuron_count(g, s);
    return s.lanes * lane + 2 * values * (int64_t)sizeof(double);
}

static ca_status create_lanes(eap_runs *r) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = &r->graph;
    size_t lanes = (size_t)r->sizes.lanes, masks = (size_t)mask_count(g, g->sources);
    size_t neurons = (size_t)neuron_count(g, r->sizes);
    CA_TRY(ca_calloc(lanes, sizeof *r->lanes, &r->lanes));
    for (size_t s = 0; s < lanes; s++) {
        eap_lane *lane = &r->lanes[s];
        CA_TRY(ca_calloc((size_t)g->sources + 1, sizeof *lane->rank, &lane->rank));
        CA_TRY(ca_calloc((size_t)g->sources, sizeof *lane->masked, &lane->masked));
        CA_TRY(ca_calloc((size_t)g->destinations, sizeof *lane->mixture, &lane->mixture));
        CA_TRY(ca_calloc((size_t)g->layers, sizeof *lane->mask, &lane->mask));
    }
    CA_TRY(ca_calloc((size_t)eap_columns(g) + 1, sizeof *r->columns, &r->columns));
    CA_TRY(ca_calloc(lanes, sizeof *r->attn_lanes, &r->attn_lanes));
    CA_TRY(ca_calloc(lanes, sizeof *r->mlp_lanes, &r->mlp_lanes));
    CA_TRY(ca_calloc(masks, sizeof *r->mask_host, &r->mask_host));
    CA_TRY(ca_calloc(masks, sizeof(double), &r->mask_staging));
    if (neurons == 0) goto out;
    CA_TRY(ca_calloc(neurons, sizeof *r->neurons_host, &r->neurons_host));
    CA_TRY(ca_calloc(neurons, sizeof(double), &r->neurons_staging));
out:
    return st;
}

ca_status ca_eap_runs_create(const ca_model *model, const ca_circuit_graph *graph,
                             eap_runs_sizes sizes, eap_runs **out) {
    ca_status st = CA_OK;
    eap_runs *r = NULL;
    const ca_arch *a = &model->arch;
    assert(a->pre_norm && !a->post_norm && a->qk_norm != CA_QK_NORM_FULL);
    assert(sizes.lanes >= 1 && sizes.sources >= 1);
    CA_TRY(ca_calloc(1, sizeof *r, &r));
    r->model = model;
    r->graph = *graph;
    r->sizes = sizes;
    CA_TRY(create_lanes(r));
    CA_TRY(ca_batch_create(model->backend, sizes.lanes * sizes.group.pairs,
                           sizes.lanes * sizes.group.rows, sizes.lanes * sizes.group.reads,
                           &r->batch));
    CA_TRY(ca_method_buffers_create(model->backend, (size_t)take_tensors(r, a, model->dtype, NULL),
                                    &r->buffers));
    take_tensors(r, a, model->dtype, &r->buffers);
    *out = r;
    return CA_OK;
out:
    ca_eap_runs_free(r);
    return st;
}

void ca_eap_runs_free(eap_runs *r) {
    if (!r) return;
    for (int64_t s = 0; r->lanes && s < r->sizes.lanes; s++) {
        free(r->lanes[s].rank);
        free(r->lanes[s].masked);
        free(r->lanes[s].mixture);
        free(r->lanes[s].mask);
    }
    free(r->lanes);
    free(r->columns);
    free(r->attn_lanes);
    free(r->mlp_lanes);
    free(r->mask_host);
    free(r->mask_staging);
    free(r->neurons_host);
    free(r->neurons_staging);
    ca_batch_free(r->batch);
    ca_method_buffers_free(&r->buffers);
    free(r);
}

double ca_eap_runs_flops(const ca_arch *a, const ca_circuit_graph *g, int64_t rows, int64_t keys) {
    double t = (double)rows, d = (double)a->width, columns = (double)eap_columns(g);
    double z = (double)(a->heads * a->head_dim), sums = 0;
    for (int64_t l = 0; l < a->layers; l++)
        sums += (double)ca_circuit_head(g, l, 0) * (columns + 1);
    double wider = columns * (double)a->head_dim - (double)qkv_width(a); /* own keys and values */
    return ca_flops_forward(a, rows, keys, a->layers) + 2 * t * d * sums +
           2 * t * d * (double)a->layers * (z + wider);
}

/* ---- group ---- */

/* The fused projection with keys and values once per column. */
static ca_status spread_qkv(eap_runs *r, ca_tensor to, ca_tensor from) {
    ca_status st = CA_OK;
    const ca_arch *a = &r->model->arch;
    int64_t size = a->head_dim, kv = r->graph.kv_columns, share = kv / a->kv_heads;
    ca_backend *be = r->model->backend;
    if (share == 1) return ca_copy(be, to, from);
    CA_TRY(ca_copy(be, ca_tensor_slice(to, 1, 0, a->heads * size),
                   ca_tensor_slice(from, 1, 0, a->heads * size)));
    for (int64_t c = 0; c < 2 * kv; c++) /* keys and values follow each other in both */
        CA_TRY(ca_copy(be, ca_tensor_slice(to, 1, (a->heads + c) * size, size),
                       ca_tensor_slice(from, 1, (a->heads + c / share) * size, size)));
out:
    return st;
}

/* One block of the ablated stream, with the operations of a forward in their order. */
static ca_status ablated_block(eap_runs *r, int64_t layer) {
    ca_status st = CA_OK;
    const ca_model *m = r->model;
    const ca_layer *w = &m->layers[layer];
    ca_tensor pre = eap_layer_of(r->ablated_pre, layer),
              attn = eap_layer_of(r->ablated_attn, layer);
    ca_tensor post = eap_layer_of(r->ablated_pre, layer + 1);
    ca_tensor qkv = ca_tensor_2d(r->qkv.data, m->dtype, r->rows, qkv_width(&m->arch));
    CA_TRY(ca_block_qkv(m, layer, qkv, eap_rows(r, r->normed, 0), pre));
    CA_TRY(spread_qkv(r, eap_layer_of(r->ablated_qkv, layer), qkv));
    CA_TRY(ca_linear_fwd(m->backend, attn, eap_layer_of(r->ablated.z, layer), w->out_weight,
                         w->out_bias));
    CA_TRY(ca_copy(m->backend, post, pre));
    CA_TRY(ca_add(m->backend, post, attn, 1));
    CA_TRY(ca_add(m->backend, post, eap_layer_of(r->ablated.mlp, layer), 1));
out:
    return st;
}

/* x = embed, with positions where the model learned them. */
static ca_status add_positions(eap_runs *r, ca_tensor x, ca_tensor embed) {
    ca_status st = CA_OK;
    const ca_model *m = r->model;
    ca_tensor positions = ca_tensor_slice(r->batch->sequences.positions, 0, 0, r->rows);
    CA_TRY(ca_copy(m->backend, x, embed));
    if (m->arch.learned_positions)
        CA_TRY(ca_gather(m->backend, x, m->positions, positions, 1, true));
out:
    return st;
}

ca_status ca_eap_runs_group(eap_runs *r, const eap_group *group, const ca_pass *prefix,
                            const eap_outputs *ablated) {
    ca_status st = CA_OK;
    const ca_model *m = r->model;
    assert(group->rows <= r->sizes.group.rows && group->count <= r->sizes.group.pairs);
    assert(group->prefix_rows <= r->sizes.group.prefix_rows && (prefix || group->prefix_rows == 0));
    r->rows = group->rows;
    r->pairs = group->count;
    r->reads = group->read[group->count];
    r->prefix = group->prefix_rows ? prefix : NULL;
    r->ablated = *ablated;
    r->ablated_pre = ca_eap_with_rows(r->ablated_pre, r->rows);
    r->ablated_qkv = ca_eap_with_rows(r->ablated_qkv, r->rows);
    r->ablated_attn = ca_eap_with_rows(r->ablated_attn, r->rows);
    ca_batch_clear(r->batch);
    for (int64_t s = 0; s < r->sizes.lanes; s++) ca_eap_group_add_run(group, r->batch, false);
    CA_TRY(ca_batch_upload(r->batch));
    CA_TRY(ca_gather(m->backend, eap_rows(r, r->clean, 0), m->embed,
                     ca_tensor_slice(r->batch->ids_b, 0, 0, r->rows), m->arch.embed_scale, false));
    CA_TRY(add_positions(r, eap_rows(r, r->start, 0), eap_rows(r, r->clean, 0)));
    CA_TRY(add_positions(r, eap_layer_of(r->ablated_pre, 0), r->ablated.embed));
    for (int64_t l = 0; l < m->arch.layers; l++) CA_TRY(ablated_block(r, l));
out:
    return st;
}

/* ---- circuits ---- */

int64_t ca_eap_runs_fit(const eap_runs *r, const ca_circuit *circuits, int64_t count) {
    int64_t n = 0, sources = 0;
    while (n < count && n < r->sizes.lanes) {
        sources += circuits[n].node_count;
        if (sources > r->sizes.sources) break;
        n++;
    }
    assert(n > 0);
    return n;
}

/* Streams at the embeddings, and the slots of the input. */
static ca_status start_lanes(eap_runs *r) {
    ca_status st = CA_OK;
    ca_backend *be = r->model->backend;
    for (int64_t s = 0; s < r->count; s++) {
        const eap_lane *lane = &r->lanes[s];
        bool in = lane->circuit->nodes[0], whole = in && !lane->masked[0];
        ca_tensor resid = eap_rows(r, r->resid, s);
        CA_TRY(
            ca_copy(be, resid, whole ? eap_rows(r, r->start, 0) : eap_layer_of(r->ablated_pre, 0)));
        if (!in) continue;
        ca_tensor delta = eap_rows(r, r->slots, lane->slot);
        CA_TRY(ca_copy(be, delta, eap_rows(r, r->clean, 0)));
        CA_TRY(ca_add(be, delta, r->ablated.embed, -1));
        if (whole) continue;
        CA_TRY(ca_eap_lane_mask(r, lane, 0, delta));
        CA_TRY(ca_add(be, resid, delta, 1));
    }
out:
    return st;
}

/* The logits' input of a lane at the tokens that are read, [reads, D]. */
static ca_status read_last(eap_runs *r, int64_t s, ca_tensor x) {
    ca_status st = CA_OK;
    const eap_lane *lane = &r->lanes[s];
    ca_backend *be = r->model->backend;
    int64_t column = r->graph.destinations - 1;
    ca_tensor index = ca_tensor_slice(r->batch->read_b, 0, 0, r->reads);
    ca_tensor base = lane->mixture[column].own ? eap_rows(r, r->resid, s)
                                               : eap_layer_of(r->ablated_pre, r->graph.layers);
    CA_TRY(ca_gather(be, x, base, index, 1, false));
    for (int64_t u = 0; u < r->graph.sources; u++) {
        int factor = ca_eap_lane_factor(r, lane, u, column);
        if (factor)
            CA_TRY(ca_gather(be, x, eap_rows(r, r->slots, eap_slot(lane, u)), index, factor, true));
    }
out:
    return st;
}

ca_status ca_eap_runs_circuits(eap_runs *r, const ca_circuit *circuits, int64_t count,
                               ca_tensor *logits) {
    ca_status st = CA_OK;
    const ca_model *m = r->model;
    CA_TRY(ca_eap_lanes_set(r, circuits, count));
    CA_TRY(start_lanes(r));
    for (int64_t l = 0; l < m->arch.layers; l++) CA_TRY(ca_eap_lanes_block(r, l));
    ca_tensor last = ca_tensor_slice(r->last, 0, 0, count * r->reads);
    for (int64_t s = 0; s < count; s++)
        CA_TRY(read_last(r, s, ca_tensor_slice(last, 0, s * r->reads, r->reads)));
    CA_TRY(ca_norm_fwd(m->backend, last, last, m->final_gain, m->final_bias, m->arch.norm));
    *logits = ca_tensor_slice(r->logits, 0, 0, count * r->reads);
    CA_TRY(ca_head_forward(m, *logits, last));
out:
    return st;
}
