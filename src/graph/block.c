/* SPDX-License-Identifier: MIT
 *
 * The parts of a block that need no pass: shared by the forward and by methods that compose blocks
 * of their own.
 */
#include "causa/graph.h"
#include "causa/ops.h"

static const ca_tensor absent = {0};

ca_attention ca_block_attention(const ca_model *model, int64_t layer) {
    const ca_arch *a = &model->arch;
    const ca_layer *w = &model->layers[layer];
    return (ca_attention){
        .heads = a->heads,
        .kv_heads = a->kv_heads,
        .head_dim = a->head_dim,
        .scale = w->attention_scale,
        .soft_cap = a->score_soft_cap,
        .window = w->window,
    };
}

/* y = x W^T + b of the normed input; `normed` and y may share no memory. */
static ca_status project(const ca_model *model, ca_tensor y, ca_tensor normed, ca_tensor x,
                         ca_tensor gain, ca_tensor gain_bias, ca_tensor weight, ca_tensor bias) {
    ca_status st = CA_OK;
    const ca_arch *a = &model->arch;
    if (a->pre_norm) CA_TRY(ca_norm_fwd(model->backend, normed, x, gain, gain_bias, a->norm));
    CA_TRY(ca_linear_fwd(model->backend, y, a->pre_norm ? normed : x, weight, bias));
out:
    return st;
}

ca_status ca_block_qkv(const ca_model *model, int64_t layer, ca_tensor qkv, ca_tensor normed,
                       ca_tensor x) {
    const ca_layer *w = &model->layers[layer];
    return project(model, qkv, normed, x, w->norm1_gain, w->norm1_bias, w->qkv_weight, w->qkv_bias);
}

ca_status ca_block_up(const ca_model *model, int64_t layer, ca_tensor up, ca_tensor normed,
                      ca_tensor x) {
    const ca_layer *w = &model->layers[layer];
    return project(model, up, normed, x, w->norm2_gain, w->norm2_bias, w->up_weight, w->up_bias);
}

/* Heads that lie side by side in a row, [T, H, Dh] as [T, H Dh]. */
static ca_tensor join_heads(ca_tensor t) {
    ca_tensor rows = ca_tensor_2d(t.data, t.dtype, t.shape[0], t.shape[1] * t.shape[2]);
    rows.stride[0] = t.stride[0];
    return rows;
}

ca_status ca_block_rotate(const ca_model *model, int64_t layer, ca_tensor q, ca_tensor k,
                          ca_tensor positions) {
    ca_status st = CA_OK;
    ca_backend *be = model->backend;
    const ca_arch *a = &model->arch;
    const ca_layer *w = &model->layers[layer];
    if (a->qk_norm != CA_QK_NORM_NONE) {
        bool full = a->qk_norm == CA_QK_NORM_FULL;
        ca_tensor qs = full ? join_heads(q) : q, ks = full ? join_heads(k) : k;
        CA_TRY(ca_norm_fwd(be, qs, qs, w->q_norm_gain, absent, a->norm));
        CA_TRY(ca_norm_fwd(be, ks, ks, w->k_norm_gain, absent, a->norm));
    }
    if (w->rope >= 0) {
        CA_TRY(ca_rope(be, q, model->cosine[w->rope], model->sine[w->rope], positions, false));
        CA_TRY(ca_rope(be, k, model->cosine[w->rope], model->sine[w->rope], positions, false));
    }
out:
    return st;
}
