/* SPDX-License-Identifier: MIT
 *
 * The backward with lanes: R cotangents against one forward. Gradients of activations only; the
 * weights are frozen. g [R, T, D] is the gradient of the residual stream and is walked down the
 * blocks in place.
 */
#include "pass.h"

#include "causa/ops.h"

#include <assert.h>

/* The leading `columns` of each row of a [R, T, n] scratch buffer as a contiguous tensor. */
static ca_tensor narrowed(ca_tensor buffer, int64_t columns) {
    return ca_tensor_3d(buffer.data, buffer.dtype, buffer.shape[0], buffer.shape[1], columns);
}

/* The gradient that enters a branch (attention or MLP): g itself, or a copy of it that hooks on the
 * branch's output may rewrite and the post-norm is differentiated in. */
static ca_status enter_branch(ca_pass *pass, int64_t layer, ca_site_kind site, ca_tensor g,
                              ca_tensor raw, ca_tensor gain, ca_tensor *d_branch) {
    ca_status st = CA_OK;
    ca_backend *be = pass->model->backend;
    const ca_arch *a = &pass->model->arch;
    int64_t lanes = g.shape[0];
    *d_branch = g;
    if (!a->post_norm && !ca_pass_is_hooked(pass, site, layer)) return CA_OK;
    *d_branch = pass->backward.branch;
    CA_TRY(ca_copy(be, *d_branch, g));
    CA_TRY(ca_pass_hooks_backward(pass, site, layer, lanes, *d_branch));
    if (a->post_norm)
        CA_TRY(ca_norm_bwd(be, *d_branch, *d_branch, ca_tensor_repeat(raw, lanes), gain, a->norm,
                           false));
out:
    return st;
}

/* g += (d normed input / d x)^T (d W^T): out of a branch, back into the residual stream. Hooks at
 * `site` see what is added. */
static ca_status leave_branch(ca_pass *pass, int64_t layer, ca_site_kind site, ca_tensor g,
                              ca_tensor d_projection, ca_tensor weight, ca_tensor x,
                              ca_tensor gain) {
    ca_status st = CA_OK;
    ca_backend *be = pass->model->backend;
    const ca_arch *a = &pass->model->arch;
    ca_tensor d_x = pass->backward.branch;
    bool apart = ca_pass_is_hooked(pass, site, layer);
    CA_TRY(ca_linear_bwd(be, d_x, d_projection, weight));
    x = ca_tensor_repeat(x, g.shape[0]);
    if (a->pre_norm) CA_TRY(ca_norm_bwd(be, apart ? d_x : g, d_x, x, gain, a->norm, !apart));
    if (apart) CA_TRY(ca_pass_hooks_backward(pass, site, layer, g.shape[0], d_x));
    if (apart || !a->pre_norm) CA_TRY(ca_add(be, g, d_x, 1));
out:
    return st;
}

/* Adds the MLP's gradient with respect to its input x to g. */
static ca_status mlp_backward(ca_pass *pass, int64_t layer, const block_values *block, ca_tensor g,
                              ca_tensor x) {
    ca_status st = CA_OK;
    ca_backend *be = pass->model->backend;
    const ca_arch *a = &pass->model->arch;
    const ca_layer *w = &pass->model->layers[layer];
    int64_t lanes = g.shape[0];
    ca_tensor d_hidden = narrowed(pass->backward.narrow, a->mlp_width);
    ca_tensor d_up = narrowed(pass->backward.wide, block->up.shape[1]), d_branch;
    CA_TRY(enter_branch(pass, layer, CA_SITE_MLP_OUT, g, block->mlp_raw, w->post_norm2_gain,
                        &d_branch));
    CA_TRY(ca_linear_bwd(be, d_hidden, d_branch, w->down_weight));
    CA_TRY(ca_pass_hooks_backward(pass, CA_SITE_MLP_POST, layer, lanes, d_hidden));
    CA_TRY(ca_act_bwd(be, d_up, d_hidden, ca_tensor_repeat(block->up, lanes), a->activation,
                      a->gated));
    CA_TRY(ca_pass_hooks_backward(pass, CA_SITE_MLP_PRE, layer, lanes,
                                  ca_tensor_slice(d_up, 2, 0, a->mlp_width)));
    if (ca_pass_is_edited(pass, CA_SITE_MLP_IN, layer)) x = block->mlp_in;
    CA_TRY(leave_branch(pass, layer, CA_SITE_MLP_IN, g, d_up, w->up_weight, x, w->norm2_gain));
out:
    return st;
}

/* d z [R, T, H Dh] from the gradient of the attention output, through per-head results when a hook
 * asks for their gradient. */
static ca_status result_backward(ca_pass *pass, int64_t layer, ca_tensor dz, ca_tensor d_branch) {
    ca_status st = CA_OK;
    ca_backend *be = pass->model->backend;
    const ca_arch *a = &pass->model->arch;
    ca_tensor d_result = pass->backward.result; /* [R, T, H, D] */
    if (!ca_pass_is_hooked(pass, CA_SITE_RESULT, layer))
        return ca_linear_bwd(be, dz, d_branch, pass->model->layers[layer].out_weight);
    /* Every head's result is added to the output: [H, R, T, D], all heads the same. */
    CA_TRY(ca_copy(be, ca_tensor_swap_axes(ca_tensor_swap_axes(d_result, 0, 2), 1, 2),
                   ca_tensor_repeat(d_branch, a->heads)));
    CA_TRY(ca_pass_hooks_backward(pass, CA_SITE_RESULT, layer, d_result.shape[0], d_result));
    int64_t rows = dz.shape[0] * dz.shape[1]; /* lanes are more rows: [R T, H, D] to [R T, H, Dh] */
    ca_tensor results = ca_tensor_3d(d_result.data, d_result.dtype, rows, a->heads, a->width);
    ca_tensor zs = ca_tensor_3d(dz.data, dz.dtype, rows, a->heads, a->head_dim);
    CA_TRY(ca_matmul(be, ca_tensor_swap_axes(zs, 0, 1), ca_tensor_swap_axes(results, 0, 1),
                     ca_pass_out_weight_heads(pass, layer), (ca_tensor){0},
                     (ca_matmul_options){.alpha = 1}));
out:
    return st;
}

/* dq, dk, dv (of rotated and normed q and k) from dz. */
static ca_status attend_backward(ca_pass *pass, int64_t layer, const block_values *block,
                                 qkv_views d, ca_tensor dz) {
    ca_status st = CA_OK;
    ca_backend *be = pass->model->backend;
    const ca_sequences *s = &pass->request.batch->sequences;
    qkv_views p = ca_pass_split_qkv(&pass->model->arch, block->qkv);
    ca_attention at = ca_block_attention(pass->model, layer);
    ca_tensor prefix_k, prefix_v, o = ca_tensor_split_last(block->o, at.heads);
    ca_tensor d_pattern = pass->backward.d_pattern;
    ca_pass_prefix(pass, layer, &prefix_k, &prefix_v);
    if (!ca_pass_is_hooked(pass, CA_SITE_PATTERN, layer))
        return ca_attention_bwd(be, d.q, d.k, d.v, dz, o, block->lse, p.q, p.k, p.v, prefix_k,
                                prefix_v, s, at);
    CA_TRY(ca_pattern_apply_bwd(be, d_pattern, d.v, dz, block->pattern_used, p.v, prefix_v, s, at));
    CA_TRY(ca_pass_hooks_backward(pass, CA_SITE_PATTERN, layer, dz.shape[0], d_pattern));
    CA_TRY(ca_pattern_bwd(be, d.q, d.k, d_pattern, block->pattern, p.q, p.k, prefix_k, s, at));
out:
    return st;
}

/* d k of one key/value head's norm for `shares` query heads: d [R, T, G, Dh], x [T, Dh] of the
 * head. */
static ca_status norm_share_backward(ca_pass *pass, int64_t layer, ca_tensor d, ca_tensor x) {
    const ca_model *m = pass->model;
    x = ca_tensor_repeat(ca_tensor_repeat(x, d.shape[2]), d.shape[0]); /* [R, G, T, Dh] */
    return ca_norm_bwd(m->backend, d, d, ca_tensor_swap_axes(x, 1, 2), m->layers[layer].k_norm_gain,
                       m->arch.norm, false);
}

/* Gradients of q and k before their norm, in place. d.k may be per query head. */
static ca_status norm_qk_backward(ca_pass *pass, int64_t layer, const block_values *block,
                                  ca_tensor d_qkv, qkv_views d) {
    ca_status st = CA_OK;
    ca_backend *be = pass->model->backend;
    const ca_arch *a = &pass->model->arch;
    const ca_layer *w = &pass->model->layers[layer];
    int64_t lanes = d_qkv.shape[0], q = a->heads * a->head_dim, k = a->kv_heads * a->head_dim;
    int64_t share = d.k.shape[2] / a->kv_heads; /* query heads of a group when they are apart */
    if (a->qk_norm == CA_QK_NORM_NONE) return CA_OK;
    ca_tensor xq = ca_tensor_slice(block->qk, 1, 0, q), xk = ca_tensor_slice(block->qk, 1, q, k);
    if (a->qk_norm == CA_QK_NORM_HEAD) {
        xq = ca_tensor_repeat(ca_tensor_split_last(xq, a->heads), lanes);
        xk = ca_tensor_split_last(xk, a->kv_heads);
        for (int64_t h = 0; h < a->kv_heads; h++)
            CA_TRY(norm_share_backward(pass, layer, ca_tensor_slice(d.k, 2, h * share, share),
                                       ca_tensor_at(xk, 1, h)));
    } else {
        assert(share == 1);
        xq = ca_tensor_repeat(xq, lanes);
        d.q = ca_tensor_slice(d_qkv, 2, 0, q);
        d.k = ca_tensor_slice(d_qkv, 2, q, k);
        CA_TRY(
            ca_norm_bwd(be, d.k, d.k, ca_tensor_repeat(xk, lanes), w->k_norm_gain, a->norm, false));
    }
    CA_TRY(ca_norm_bwd(be, d.q, d.q, xq, w->q_norm_gain, a->norm, false));
out:
    return st;
}

/* d [R, T, K, Dh] = sums over each group of its query heads' shares [R, T, H, Dh]. */
static ca_status add_shares(ca_pass *pass, ca_tensor d, ca_tensor shares) {
    ca_status st = CA_OK;
    int64_t kv_heads = d.shape[2], group = shares.shape[2] / kv_heads;
    for (int64_t r = 0; r < d.shape[0]; r++)
        for (int64_t h = 0; h < kv_heads; h++) {
            ca_tensor of_lane = ca_tensor_slice(ca_tensor_at(shares, 0, r), 1, h * group, group);
            CA_TRY(ca_sum_heads(pass->model->backend, ca_tensor_at(ca_tensor_at(d, 0, r), 1, h),
                                of_lane, (ca_tensor){0}));
        }
out:
    return st;
}

/* Hooks on v, k and q, and where some see k and v per query head, the sums of these. `d` has what
 * they see, `whole` the fused buffer. */
static ca_status qkv_hooks_backward(ca_pass *pass, int64_t layer, int64_t lanes, qkv_views d,
                                    qkv_views whole) {
    ca_status st = CA_OK;
    if (ca_pass_has_shares(pass, layer)) {
        CA_TRY(ca_pass_hooks_shares(pass, CA_SITE_V, layer, lanes, d.v));
        CA_TRY(ca_pass_hooks_shares(pass, CA_SITE_K, layer, lanes, d.k));
        CA_TRY(add_shares(pass, whole.v, d.v));
        CA_TRY(add_shares(pass, whole.k, d.k));
    }
    CA_TRY(ca_pass_hooks_backward(pass, CA_SITE_V, layer, lanes, whole.v));
    CA_TRY(ca_pass_hooks_backward(pass, CA_SITE_K, layer, lanes, whole.k));
    CA_TRY(ca_pass_hooks_backward(pass, CA_SITE_Q, layer, lanes, whole.q));
out:
    return st;
}

/* Where gradients of q, k and v go: k and v into the fused buffer, or apart per query head. */
static qkv_views qkv_gradients(const ca_pass *pass, int64_t layer, qkv_views whole) {
    const ca_arch *a = &pass->model->arch;
    int64_t n = a->heads * a->head_dim;
    ca_tensor shares = pass->backward.shares;
    if (!ca_pass_has_shares(pass, layer)) return whole;
    return (qkv_views){
        .q = whole.q,
        .k = ca_tensor_split_last(ca_tensor_slice(shares, 2, 0, n), a->heads),
        .v = ca_tensor_split_last(ca_tensor_slice(shares, 2, n, n), a->heads),
    };
}

/* Adds attention's gradient with respect to the block's input to g; d_out is the gradient of the
 * residual stream after attention (g itself in sequential blocks). */
static ca_status attention_backward(ca_pass *pass, int64_t layer, const block_values *block,
                                    ca_tensor g, ca_tensor d_out) {
    ca_status st = CA_OK;
    ca_backend *be = pass->model->backend;
    const ca_model *m = pass->model;
    const ca_arch *a = &m->arch;
    const ca_layer *w = &m->layers[layer];
    int64_t lanes = g.shape[0];
    ca_tensor dz = narrowed(pass->backward.narrow, a->heads * a->head_dim);
    ca_tensor d_qkv = narrowed(pass->backward.wide, block->qkv.shape[1]), d_branch;
    ca_tensor dz_heads = ca_tensor_split_last(dz, a->heads);
    qkv_views whole = ca_pass_split_qkv(a, d_qkv), d = qkv_gradients(pass, layer, whole);
    CA_TRY(enter_branch(pass, layer, CA_SITE_ATTN_OUT, d_out, block->attn_raw, w->post_norm1_gain,
                        &d_branch));
    CA_TRY(result_backward(pass, layer, dz, d_branch));
    CA_TRY(ca_pass_hooks_backward(pass, CA_SITE_Z, layer, lanes, dz_heads));
    CA_TRY(attend_backward(pass, layer, block, d, dz_heads));
    if (w->rope >= 0) {
        ca_tensor positions = pass->request.batch->sequences.positions;
        CA_TRY(ca_rope(be, d.q, m->cosine[w->rope], m->sine[w->rope], positions, true));
        CA_TRY(ca_rope(be, d.k, m->cosine[w->rope], m->sine[w->rope], positions, true));
    }
    CA_TRY(norm_qk_backward(pass, layer, block, d_qkv, d));
    CA_TRY(qkv_hooks_backward(pass, layer, lanes, d, whole));
    ca_tensor x = ca_pass_resid(pass, layer);
    if (ca_pass_is_edited(pass, CA_SITE_ATTN_IN, layer)) x = block->attn_in;
    CA_TRY(leave_branch(pass, layer, CA_SITE_ATTN_IN, g, d_qkv, w->qkv_weight, x, w->norm1_gain));
out:
    return st;
}

static ca_status block_backward(ca_pass *pass, int64_t layer, ca_tensor g) {
    ca_status st = CA_OK;
    const ca_arch *a = &pass->model->arch;
    int64_t lanes = g.shape[0];
    ca_tensor d_out = g;
    if (!pass->limits.keep) CA_TRY(ca_pass_recompute_block(pass, layer));
    block_values block = ca_pass_block(pass, layer);
    CA_TRY(ca_pass_hooks_backward(pass, CA_SITE_RESID_POST, layer, lanes, g));
    if (a->parallel) {
        d_out = pass->backward.attn;
        CA_TRY(ca_copy(pass->model->backend, d_out, g));
    }
    CA_TRY(
        mlp_backward(pass, layer, &block, g, a->parallel ? ca_pass_resid(pass, layer) : block.mid));
    CA_TRY(ca_pass_hooks_backward(pass, CA_SITE_RESID_MID, layer, lanes, g));
    CA_TRY(attention_backward(pass, layer, &block, g, d_out));
    CA_TRY(ca_pass_hooks_backward(pass, CA_SITE_RESID_PRE, layer, lanes, g));
out:
    return st;
}

/* Adds the cotangents of the read rows to g. */
static ca_status head_backward(ca_pass *pass, const ca_backward *r, ca_tensor g) {
    ca_status st = CA_OK;
    const ca_model *m = pass->model;
    ca_backend *be = m->backend;
    ca_tensor d_final = pass->backward.final, d_logits = r->d_logits;
    if (d_logits.data) {
        CA_TRY(ca_pass_hooks_backward(pass, CA_SITE_LOGITS, -1, r->lanes, d_logits));
        if (m->arch.logit_soft_cap > 0)
            CA_TRY(ca_soft_cap_bwd(be, d_logits, d_logits,
                                   ca_tensor_repeat(pass->scratch.capped, r->lanes),
                                   m->arch.logit_soft_cap));
        CA_TRY(ca_linear_bwd(be, d_final, d_logits, m->head));
        if (r->d_final_norm.data) CA_TRY(ca_add(be, d_final, r->d_final_norm, 1));
    } else if (r->d_final_norm.data) {
        CA_TRY(ca_copy(be, d_final, r->d_final_norm));
    } else {
        return CA_OK;
    }
    CA_TRY(ca_pass_hooks_backward(pass, CA_SITE_FINAL_NORM, -1, r->lanes, d_final));
    CA_TRY(ca_norm_bwd(be, d_final, d_final, ca_tensor_repeat(pass->scratch.read, r->lanes),
                       m->final_gain, m->arch.norm, false));
    CA_TRY(ca_scatter_add(be, g, pass->request.batch->read_b, d_final));
out:
    return st;
}

ca_status ca_pass_backward(ca_pass *pass, const ca_backward *request, ca_tensor *gradient) {
    ca_status st = CA_OK;
    const ca_forward *f = &pass->request;
    assert(request->lanes > 0 && request->lanes <= pass->limits.lanes);
    assert(f->head != CA_HEAD_NONE || !(request->d_logits.data || request->d_final_norm.data));
    assert(f->first_layer <= request->stop_layer && request->stop_layer <= f->last_layer);
    ca_pass_set_backward(pass, request->lanes);
    ca_tensor g = pass->backward.g;
    if (request->d_resid.data)
        CA_TRY(ca_copy(pass->model->backend, g, request->d_resid));
    else
        CA_TRY(ca_fill(pass->model->backend, g, 0));
    CA_TRY(head_backward(pass, request, g));
    for (int64_t l = f->last_layer - 1; l >= request->stop_layer; l--)
        CA_TRY(block_backward(pass, l, g));
    if (request->stop_layer == 0 && !f->resid.data)
        CA_TRY(ca_pass_hooks_backward(pass, CA_SITE_EMBED, -1, request->lanes, g));
    *gradient = g;
out:
    return st;
}
