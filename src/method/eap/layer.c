/* SPDX-License-Identifier: MIT
 *
 * See lanes.h: one block in all lanes. Every product with a weight takes the rows of all lanes that
 * need it; lanes that need none of the layer's heads, or not its MLP, add the ablated output.
 */
#include "lanes.h"

#include "causa/ops.h"

/* Row of the fused projection at which a column's head begins, in heads. */
static int64_t weight_head(const eap_runs *r, int64_t column) {
    const ca_arch *a = &r->model->arch;
    int64_t share = r->graph.kv_columns / a->kv_heads; /* columns that one head serves */
    if (column < a->heads) return column;
    column -= a->heads;
    if (column < r->graph.kv_columns) return a->heads + column / share;
    return a->heads + a->kv_heads + (column - r->graph.kv_columns) / share;
}

/* Row `lane` of [S T, n] memory as [T, n], or of several lanes as [count T, n]. */
static ca_tensor lane_rows(const eap_runs *r, ca_tensor t, int64_t lane, int64_t count) {
    return ca_tensor_slice(t, 0, lane * r->rows, count * r->rows);
}

/* ---- attention ---- */

static bool reads(const eap_runs *r, int64_t layer, int64_t j, int64_t column) {
    int64_t first = ca_circuit_column(&r->graph, layer, CA_CIRCUIT_Q);
    return r->lanes[r->attn_lanes[j]].mixture[first + column].read;
}

/* One column of the lanes' projections: of their own inputs, or the ablated one where they have
 * none; equal neighbours together. */
static ca_status project_column(eap_runs *r, int64_t layer, int64_t column, int64_t n) {
    ca_status st = CA_OK;
    const ca_layer *w = &r->model->layers[layer];
    ca_backend *be = r->model->backend;
    int64_t size = r->model->arch.head_dim, head = weight_head(r, column);
    ca_tensor to = ca_tensor_slice(r->qkv, 1, column * size, size);
    ca_tensor bias = w->qkv_bias;
    if (bias.data) bias = ca_tensor_slice(bias, 0, head * size, size);
    for (int64_t j = 0, end; j < n; j = end) {
        bool own = reads(r, layer, j, column);
        for (end = j + 1; end < n && reads(r, layer, end, column) == own;) end++;
        ca_tensor y = lane_rows(r, to, j, end - j);
        if (own) {
            ca_tensor x = ca_tensor_rows(eap_stack(r, r->normed, column * n + j, end - j));
            CA_TRY(ca_linear_fwd(be, y, x, ca_tensor_slice(w->qkv_weight, 0, head * size, size),
                                 bias));
            continue;
        }
        ca_tensor ablated = eap_layer_of(r->ablated_qkv, layer);
        for (; j < end; j++)
            CA_TRY(ca_copy(be, lane_rows(r, to, j, 1),
                           ca_tensor_slice(ablated, 1, column * size, size)));
    }
out:
    return st;
}

/* The sequences of the first n lanes. */
static ca_sequences sequences_of(const eap_runs *r, int64_t n) {
    ca_sequences s = r->batch->sequences;
    s.count = n * r->pairs;
    s.rows = n * r->rows;
    s.row_start_b = ca_tensor_slice(s.row_start_b, 0, 0, s.count + 1);
    s.prefix_start_b = ca_tensor_slice(s.prefix_start_b, 0, 0, s.count);
    s.prefix_rows_b = ca_tensor_slice(s.prefix_rows_b, 0, 0, s.count);
    s.pattern_start_b = ca_tensor_slice(s.pattern_start_b, 0, 0, s.count + 1);
    s.positions = ca_tensor_slice(s.positions, 0, 0, s.rows);
    return s;
}

/* Keys and values of the prefixes, once per column. */
static ca_status prefix_of(eap_runs *r, int64_t layer, ca_tensor *k, ca_tensor *v) {
    ca_status st = CA_OK;
    int64_t kv_heads = r->model->arch.kv_heads, share = r->graph.kv_columns / kv_heads;
    *k = *v = (ca_tensor){0};
    if (!r->prefix) return CA_OK;
    ca_tensor native[2], wide[2] = {r->prefix_k, r->prefix_v};
    ca_pass_cache(r->prefix, layer, &native[0], &native[1]);
    for (int i = 0; i < 2; i++) {
        if (share == 1) {
            wide[i] = native[i];
            continue;
        }
        wide[i] = ca_tensor_slice(wide[i], 0, 0, native[i].shape[0]);
        for (int64_t c = 0; c < r->graph.kv_columns; c++)
            CA_TRY(ca_copy(r->model->backend, ca_tensor_slice(wide[i], 1, c, 1),
                           ca_tensor_slice(native[i], 1, c / share, 1)));
    }
    *k = wide[0];
    *v = wide[1];
out:
    return st;
}

/* z of the first n lanes' rows. */
static ca_status attend(eap_runs *r, int64_t layer, int64_t n) {
    ca_status st = CA_OK;
    int64_t size = r->model->arch.head_dim, heads = r->graph.heads, kv = r->graph.kv_columns;
    ca_sequences sequences = sequences_of(r, n);
    ca_attention attention = ca_block_attention(r->model, layer);
    ca_tensor qkv = lane_rows(r, r->qkv, 0, n), prefix_k, prefix_v;
    ca_tensor q = ca_tensor_split_last(ca_tensor_slice(qkv, 1, 0, heads * size), heads);
    ca_tensor k = ca_tensor_split_last(ca_tensor_slice(qkv, 1, heads * size, kv * size), kv);
    ca_tensor v = ca_tensor_split_last(ca_tensor_slice(qkv, 1, (heads + kv) * size, kv * size), kv);
    attention.kv_heads = kv;
    CA_TRY(ca_block_rotate(r->model, layer, q, k, sequences.positions));
    CA_TRY(prefix_of(r, layer, &prefix_k, &prefix_v));
    CA_TRY(ca_attention_fwd(
        r->model->backend, ca_tensor_split_last(lane_rows(r, r->z, 0, n), heads),
        lane_rows(r, r->lse, 0, n), q, k, v, prefix_k, prefix_v, &sequences, attention));
out:
    return st;
}

/* Calls f for every run of neighbouring heads of a lane that are (or are not) in its circuit. */
typedef ca_status (*head_run)(eap_runs *r, int64_t layer, int64_t j, int64_t head, int64_t count);
static ca_status each_run(eap_runs *r, int64_t layer, int64_t n, bool in, head_run f) {
    ca_status st = CA_OK;
    for (int64_t j = 0; j < n; j++) {
        const bool *nodes =
            r->lanes[r->attn_lanes[j]].circuit->nodes + ca_circuit_head(&r->graph, layer, 0);
        for (int64_t from = 0, to; from < r->graph.heads; from = to) {
            for (to = from + 1; to < r->graph.heads && nodes[to] == nodes[from];) to++;
            if (nodes[from] == in) CA_TRY(f(r, layer, j, from, to - from));
        }
    }
out:
    return st;
}

/* Heads outside the circuit put out their ablated z. */
static ca_status ablate_heads(eap_runs *r, int64_t layer, int64_t j, int64_t head, int64_t count) {
    int64_t size = r->model->arch.head_dim;
    ca_tensor z = ca_tensor_slice(lane_rows(r, r->z, j, 1), 1, head * size, count * size);
    return ca_copy(
        r->model->backend, z,
        ca_tensor_slice(eap_layer_of(r->ablated.z, layer), 1, head * size, count * size));
}

/* delta_h = (z_h - ablated z_h) W_O^h */
static ca_status put_head_deltas(eap_runs *r, int64_t layer, int64_t j, int64_t head,
                                 int64_t count) {
    const eap_lane *lane = &r->lanes[r->attn_lanes[j]];
    int64_t heads = r->graph.heads, slot = eap_slot(lane, ca_circuit_head(&r->graph, layer, head));
    ca_tensor z = ca_tensor_split_last(lane_rows(r, r->delta_z, j, 1), heads);
    ca_tensor w = ca_tensor_split_last(r->model->layers[layer].out_weight, heads);
    z = ca_tensor_slice(ca_tensor_swap_axes(z, 0, 1), 0, head, count); /* [count, T, Dh] */
    w = ca_tensor_slice(ca_tensor_swap_axes(w, 0, 1), 0, head, count); /* [count, D, Dh] */
    return ca_matmul(r->model->backend, eap_stack(r, r->slots, slot, count), z, w, (ca_tensor){0},
                     (ca_matmul_options){.transpose_b = true, .alpha = 1, .wide = true});
}

/* Deltas of all heads of the layer that are in the circuits. */
static ca_status put_all_head_deltas(eap_runs *r, int64_t layer, int64_t n) {
    ca_status st = CA_OK;
    ca_backend *be = r->model->backend;
    ca_tensor delta = lane_rows(r, r->delta_z, 0, n), ablated = eap_layer_of(r->ablated.z, layer);
    ca_tensor lanes = ca_tensor_3d(delta.data, delta.dtype, n, r->rows, delta.shape[1]);
    CA_TRY(ca_copy(be, delta, lane_rows(r, r->z, 0, n)));
    CA_TRY(ca_add(be, lanes, ca_tensor_repeat(ablated, n), -1));
    CA_TRY(each_run(r, layer, n, true, put_head_deltas));
out:
    return st;
}

/* Takes the neurons that heads do not keep out of their deltas and of the lane's branch. */
static ca_status mask_heads(eap_runs *r, int64_t layer, int64_t j, int64_t head, int64_t count) {
    ca_status st = CA_OK;
    ca_backend *be = r->model->backend;
    const eap_lane *lane = &r->lanes[r->attn_lanes[j]];
    for (int64_t h = head; h < head + count; h++) {
        int64_t u = ca_circuit_head(&r->graph, layer, h);
        if (!lane->masked[u]) continue;
        ca_tensor delta = eap_rows(r, r->slots, eap_slot(lane, u));
        CA_TRY(ca_add(be, eap_rows(r, r->branch, j), delta, -1));
        CA_TRY(ca_eap_lane_mask(r, lane, u, delta));
        CA_TRY(ca_add(be, eap_rows(r, r->branch, j), delta, 1));
    }
out:
    return st;
}

/* The lanes' streams move on by their branch, or by the ablated one. `lanes`: those with a branch
 * of their own, in rising order. */
static ca_status add_branches(eap_runs *r, const int64_t *lanes, int64_t n, ca_tensor ablated) {
    ca_status st = CA_OK;
    for (int64_t s = 0, j = 0; s < r->count; s++) {
        bool own = j < n && lanes[j] == s;
        CA_TRY(ca_add(r->model->backend, eap_rows(r, r->resid, s),
                      own ? eap_rows(r, r->branch, j) : ablated, 1));
        j += own;
    }
out:
    return st;
}

static ca_status run_attention(eap_runs *r, int64_t layer, int64_t n) {
    ca_status st = CA_OK;
    const ca_layer *w = &r->model->layers[layer];
    if (n > 0) {
        for (int64_t c = 0; c < eap_columns(&r->graph); c++) CA_TRY(project_column(r, layer, c, n));
        CA_TRY(attend(r, layer, n));
        CA_TRY(each_run(r, layer, n, false, ablate_heads));
        CA_TRY(ca_linear_fwd(r->model->backend, lane_rows(r, r->branch, 0, n),
                             lane_rows(r, r->z, 0, n), w->out_weight, w->out_bias));
        CA_TRY(put_all_head_deltas(r, layer, n));
        CA_TRY(each_run(r, layer, n, true, mask_heads));
    }
    CA_TRY(add_branches(r, r->attn_lanes, n, eap_layer_of(r->ablated_attn, layer)));
out:
    return st;
}

/* ---- MLP ---- */

/* Sequential blocks: what the MLP reads beyond the deltas of earlier layers, the stream behind
 * attention and the heads of its own layer. */
static ca_status complete_input(eap_runs *r, int64_t layer, int64_t m) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = &r->graph;
    ca_backend *be = r->model->backend;
    const eap_lane *lane = &r->lanes[r->mlp_lanes[m]];
    int64_t column = ca_circuit_column(g, layer, CA_CIRCUIT_MLP);
    ca_tensor x = eap_rows(r, r->mlp_input, m);
    if (lane->mixture[column].own) {
        CA_TRY(ca_add(be, x, eap_rows(r, r->resid, r->mlp_lanes[m]), 1));
    } else {
        CA_TRY(ca_add(be, x, eap_layer_of(r->ablated_pre, layer), 1));
        CA_TRY(ca_add(be, x, eap_layer_of(r->ablated_attn, layer), 1));
    }
    for (int64_t h = 0; h < g->heads; h++) {
        int64_t u = ca_circuit_head(g, layer, h);
        int factor = ca_eap_lane_factor(r, lane, u, column);
        if (factor) CA_TRY(ca_add(be, x, eap_rows(r, r->slots, eap_slot(lane, u)), factor));
    }
out:
    return st;
}

/* Of a source that keeps some of its neurons alone, the branch takes the mixture. */
static ca_status put_mlp_delta(eap_runs *r, int64_t layer, int64_t m) {
    ca_status st = CA_OK;
    ca_backend *be = r->model->backend;
    const eap_lane *lane = &r->lanes[r->mlp_lanes[m]];
    int64_t mlp = ca_circuit_mlp(&r->graph, layer);
    ca_tensor branch = eap_rows(r, r->branch, m), ablated = eap_layer_of(r->ablated.mlp, layer);
    ca_tensor delta = eap_rows(r, r->slots, eap_slot(lane, mlp));
    CA_TRY(ca_copy(be, delta, branch));
    CA_TRY(ca_add(be, delta, ablated, -1));
    if (!lane->masked[mlp]) goto out;
    CA_TRY(ca_eap_lane_mask(r, lane, mlp, delta));
    CA_TRY(ca_copy(be, branch, ablated));
    CA_TRY(ca_add(be, branch, delta, 1));
out:
    return st;
}

static ca_status run_mlp(eap_runs *r, int64_t layer, int64_t n) {
    ca_status st = CA_OK;
    ca_backend *be = r->model->backend;
    const ca_arch *a = &r->model->arch;
    const ca_layer *w = &r->model->layers[layer];
    ca_tensor ablated = eap_layer_of(r->ablated.mlp, layer);
    if (n > 0) {
        ca_tensor up = lane_rows(r, r->up, 0, n), hidden = lane_rows(r, r->hidden, 0, n);
        ca_tensor x = ca_tensor_rows(eap_stack(r, r->mlp_input, 0, n));
        CA_TRY(ca_block_up(r->model, layer, up, ca_tensor_rows(eap_stack(r, r->normed, 0, n)), x));
        CA_TRY(ca_act_fwd(be, hidden, up, a->activation, a->gated));
        CA_TRY(
            ca_linear_fwd(be, lane_rows(r, r->branch, 0, n), hidden, w->down_weight, w->down_bias));
    }
    for (int64_t m = 0; m < n; m++) CA_TRY(put_mlp_delta(r, layer, m));
    CA_TRY(add_branches(r, r->mlp_lanes, n, ablated));
out:
    return st;
}

/* ---- block ---- */

ca_status ca_eap_lanes_block(eap_runs *r, int64_t layer) {
    ca_status st = CA_OK;
    const ca_circuit_graph *g = &r->graph;
    int64_t head = ca_circuit_head(g, layer, 0), mlp = ca_circuit_mlp(g, layer);
    int64_t attn = 0, mlps = 0;
    for (int64_t s = 0; s < r->count; s++) {
        const eap_lane *lane = &r->lanes[s];
        if (lane->rank[head + g->heads] > lane->rank[head]) r->attn_lanes[attn++] = s;
        if (lane->circuit->nodes[mlp]) r->mlp_lanes[mlps++] = s;
    }
    for (int64_t s = 0, j = 0, m = 0; s < r->count; s++) {
        bool heads = j < attn && r->attn_lanes[j] == s, has_mlp = m < mlps && r->mlp_lanes[m] == s;
        CA_TRY(ca_eap_lane_inputs(r, layer, s, heads ? j : -1, attn, has_mlp ? m : -1));
        j += heads;
        m += has_mlp;
    }
    CA_TRY(run_attention(r, layer, attn));
    for (int64_t m = 0; m < mlps && !g->parallel; m++) CA_TRY(complete_input(r, layer, m));
    CA_TRY(run_mlp(r, layer, mlps));
out:
    return st;
}
