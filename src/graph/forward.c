/* SPDX-License-Identifier: MIT
 *
 * The forward: embedding, blocks, head. One parametrised block serves every family.
 */
#include "pass.h"

#include "causa/ops.h"

#include <assert.h>

static const ca_tensor absent = {0};

ca_forward ca_forward_all(const ca_model *model, const ca_batch *batch) {
    return (ca_forward){.batch = batch, .last_layer = model->arch.layers, .head = CA_HEAD_LOGITS};
}

void ca_pass_prefix(const ca_pass *pass, int64_t layer, ca_tensor *k, ca_tensor *v) {
    *k = *v = absent;
    if (pass->request.prefix) ca_pass_cache(pass->request.prefix, layer, k, v);
}

ca_tensor ca_pass_out_weight_heads(const ca_pass *pass, int64_t layer) {
    ca_tensor w = pass->model->layers[layer].out_weight; /* [D, H Dh] */
    return ca_tensor_swap_axes(ca_tensor_split_last(w, pass->model->arch.heads), 0, 1);
}

/* What a branch reads of the residual stream x: x, or a copy of it where hooks edit it. */
static ca_status enter_branch(ca_pass *pass, ca_site_kind site, int64_t layer, bool recompute,
                              ca_tensor copy, ca_tensor *x) {
    ca_status st = CA_OK;
    if (ca_pass_is_edited(pass, site, layer)) {
        CA_TRY(ca_copy(pass->model->backend, copy, *x));
        *x = copy;
    }
    CA_TRY(ca_pass_hooks_forward(pass, site, layer, recompute, *x));
out:
    return st;
}

/* q, k, v of a layer: project, hooks, q/k norm, rotate. What a q/k norm reads is kept. */
static ca_status make_qkv(ca_pass *pass, int64_t layer, bool recompute, const block_values *block,
                          qkv_views p) {
    ca_status st = CA_OK;
    ca_backend *be = pass->model->backend;
    ca_tensor x = ca_pass_resid(pass, layer);
    CA_TRY(enter_branch(pass, CA_SITE_ATTN_IN, layer, recompute, block->attn_in, &x));
    CA_TRY(ca_block_qkv(pass->model, layer, block->qkv, pass->scratch.branch, x));
    CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_Q, layer, recompute, p.q));
    CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_K, layer, recompute, p.k));
    CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_V, layer, recompute, p.v));
    if (block->qk.data)
        CA_TRY(ca_copy(be, block->qk, ca_tensor_slice(block->qkv, 1, 0, block->qk.shape[1])));
    CA_TRY(ca_block_rotate(pass->model, layer, p.q, p.k, pass->request.batch->sequences.positions));
    if (pass->limits.key_values && !recompute) {
        ca_tensor k, v;
        ca_pass_cache(pass, layer, &k, &v);
        CA_TRY(ca_copy(be, k, p.k));
        CA_TRY(ca_copy(be, v, p.v));
    }
out:
    return st;
}

/* o [T, H, Dh]; goes through stored probabilities only when a hook asks for them. */
static ca_status attend(ca_pass *pass, int64_t layer, bool recompute, const block_values *block,
                        qkv_views p) {
    ca_status st = CA_OK;
    ca_backend *be = pass->model->backend;
    const ca_sequences *s = &pass->request.batch->sequences;
    ca_attention at = ca_block_attention(pass->model, layer);
    ca_tensor prefix_k, prefix_v, o = ca_tensor_split_last(block->o, at.heads);
    ca_pass_prefix(pass, layer, &prefix_k, &prefix_v);
    if (!ca_pass_is_hooked(pass, CA_SITE_PATTERN, layer))
        return ca_attention_fwd(be, o, block->lse, p.q, p.k, p.v, prefix_k, prefix_v, s, at);
    CA_TRY(ca_pattern_fwd(be, block->pattern, p.q, p.k, prefix_k, s, at));
    if (block->pattern_used.data != block->pattern.data)
        CA_TRY(ca_copy(be, block->pattern_used, block->pattern));
    CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_PATTERN, layer, recompute, block->pattern_used));
    CA_TRY(ca_pattern_apply_fwd(be, o, block->pattern_used, p.v, prefix_v, s, at));
out:
    return st;
}

/* branch = z W_O^T + b, through per-head results when a hook asks for them. */
static ca_status project_out(ca_pass *pass, int64_t layer, bool recompute, ca_tensor z,
                             ca_tensor branch) {
    ca_status st = CA_OK;
    ca_backend *be = pass->model->backend;
    const ca_layer *w = &pass->model->layers[layer];
    if (!ca_pass_is_hooked(pass, CA_SITE_RESULT, layer))
        return ca_linear_fwd(be, branch, z, w->out_weight, w->out_bias);
    ca_tensor result = pass->scratch.result; /* [T, H, D] */
    ca_tensor z_heads = ca_tensor_split_last(z, pass->model->arch.heads);
    CA_TRY(ca_matmul(be, ca_tensor_swap_axes(result, 0, 1), ca_tensor_swap_axes(z_heads, 0, 1),
                     ca_pass_out_weight_heads(pass, layer), absent,
                     (ca_matmul_options){.transpose_b = true, .alpha = 1}));
    CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_RESULT, layer, recompute, result));
    CA_TRY(ca_sum_heads(be, branch, result, w->out_bias));
out:
    return st;
}

/* Post-norm of a branch, keeping what it read; nothing for pre-norm families. */
static ca_status post_norm(ca_pass *pass, ca_tensor branch, ca_tensor raw, ca_tensor gain,
                           ca_tensor bias) {
    ca_status st = CA_OK;
    const ca_arch *a = &pass->model->arch;
    if (!a->post_norm) return CA_OK;
    CA_TRY(ca_copy(pass->model->backend, raw, branch));
    CA_TRY(ca_norm_fwd(pass->model->backend, branch, raw, gain, bias, a->norm));
out:
    return st;
}

/* y = x + branch; y may be x. */
static ca_status add_branch(ca_pass *pass, ca_tensor y, ca_tensor x, ca_tensor branch) {
    ca_status st = CA_OK;
    if (y.data != x.data) CA_TRY(ca_copy(pass->model->backend, y, x));
    CA_TRY(ca_add(pass->model->backend, y, branch, 1));
out:
    return st;
}

/* Whether a branch goes straight into the residual stream: nothing reads it by itself, and the
 * backend's products add to what is there for less than an addition takes. */
static bool joins_stream(const ca_pass *pass, ca_site_kind site, int64_t layer) {
    return pass->model->backend->accumulates && !pass->model->arch.post_norm &&
           !ca_pass_is_read(pass, site, layer);
}

/* y = x + (in W^T + b); y may be x. */
static ca_status add_projection(ca_pass *pass, ca_tensor y, ca_tensor x, ca_tensor in,
                                ca_tensor weight, ca_tensor bias) {
    ca_status st = CA_OK;
    ca_backend *be = pass->model->backend;
    if (y.data != x.data) CA_TRY(ca_copy(be, y, x));
    CA_TRY(ca_matmul(be, y, in, weight, bias,
                     (ca_matmul_options){.transpose_b = true, .alpha = 1, .beta = 1}));
out:
    return st;
}

/* y = x + attention's output, made of z. */
static ca_status leave_attention(ca_pass *pass, int64_t layer, bool recompute,
                                 const block_values *block, ca_tensor y, ca_tensor x, ca_tensor z) {
    ca_status st = CA_OK;
    const ca_layer *w = &pass->model->layers[layer];
    ca_tensor branch = pass->scratch.branch;
    if (joins_stream(pass, CA_SITE_ATTN_OUT, layer) &&
        !ca_pass_is_hooked(pass, CA_SITE_RESULT, layer))
        return add_projection(pass, y, x, z, w->out_weight, w->out_bias);
    CA_TRY(project_out(pass, layer, recompute, z, branch));
    CA_TRY(post_norm(pass, branch, block->attn_raw, w->post_norm1_gain, w->post_norm1_bias));
    CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_ATTN_OUT, layer, recompute, branch));
    CA_TRY(add_branch(pass, y, x, branch));
out:
    return st;
}

/* Attention with its residual add: fills the block's qkv, o and mid. */
static ca_status attention_half(ca_pass *pass, int64_t layer, bool recompute,
                                const block_values *block) {
    ca_status st = CA_OK;
    const ca_arch *a = &pass->model->arch;
    qkv_views p = ca_pass_split_qkv(a, block->qkv);
    ca_tensor z = block->o;
    CA_TRY(make_qkv(pass, layer, recompute, block, p));
    CA_TRY(attend(pass, layer, recompute, block, p));
    if (ca_pass_is_edited(pass, CA_SITE_Z, layer)) { /* the backward needs o as attention left it */
        z = pass->scratch.z;
        CA_TRY(ca_copy(pass->model->backend, z, block->o));
    }
    CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_Z, layer, recompute,
                                 ca_tensor_split_last(z, a->heads)));
    CA_TRY(
        leave_attention(pass, layer, recompute, block, block->mid, ca_pass_resid(pass, layer), z));
    CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_RESID_MID, layer, recompute, block->mid));
out:
    return st;
}

/* The MLP up to what its activation function reads. */
static ca_status mlp_up(ca_pass *pass, int64_t layer, bool recompute, const block_values *block,
                        ca_tensor x) {
    ca_status st = CA_OK;
    const ca_arch *a = &pass->model->arch;
    CA_TRY(enter_branch(pass, CA_SITE_MLP_IN, layer, recompute, block->mlp_in, &x));
    CA_TRY(ca_block_up(pass->model, layer, block->up, pass->scratch.branch, x));
    CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_MLP_PRE, layer, recompute,
                                 ca_tensor_slice(block->up, 1, 0, a->mlp_width)));
out:
    return st;
}

/* The rest of the MLP: y = x + down(act(up)). */
static ca_status mlp_down(ca_pass *pass, int64_t layer, const block_values *block, ca_tensor y,
                          ca_tensor x) {
    ca_status st = CA_OK;
    ca_backend *be = pass->model->backend;
    const ca_arch *a = &pass->model->arch;
    const ca_layer *w = &pass->model->layers[layer];
    ca_tensor branch = pass->scratch.branch;
    CA_TRY(ca_act_fwd(be, pass->scratch.hidden, block->up, a->activation, a->gated));
    CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_MLP_POST, layer, false, pass->scratch.hidden));
    if (joins_stream(pass, CA_SITE_MLP_OUT, layer))
        return add_projection(pass, y, x, pass->scratch.hidden, w->down_weight, w->down_bias);
    CA_TRY(ca_linear_fwd(be, branch, pass->scratch.hidden, w->down_weight, w->down_bias));
    CA_TRY(post_norm(pass, branch, block->mlp_raw, w->post_norm2_gain, w->post_norm2_bias));
    CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_MLP_OUT, layer, false, branch));
    CA_TRY(add_branch(pass, y, x, branch));
out:
    return st;
}

static ca_status run_block(ca_pass *pass, int64_t layer) {
    ca_status st = CA_OK;
    block_values block = ca_pass_block(pass, layer);
    ca_tensor post = ca_pass_resid(pass, layer + 1);
    CA_TRY(
        ca_pass_hooks_forward(pass, CA_SITE_RESID_PRE, layer, false, ca_pass_resid(pass, layer)));
    if (pass->model->arch.parallel) /* before attention, which may update the stream in place */
        CA_TRY(mlp_up(pass, layer, false, &block, ca_pass_resid(pass, layer)));
    CA_TRY(attention_half(pass, layer, false, &block));
    if (!pass->model->arch.parallel) CA_TRY(mlp_up(pass, layer, false, &block, block.mid));
    CA_TRY(mlp_down(pass, layer, &block, post, block.mid));
    CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_RESID_POST, layer, false, post));
out:
    return st;
}

ca_status ca_pass_recompute_block(ca_pass *pass, int64_t layer) {
    ca_status st = CA_OK;
    block_values block = ca_pass_block(pass, layer);
    const ca_arch *a = &pass->model->arch;
    const ca_layer *w = &pass->model->layers[layer];
    CA_TRY(attention_half(pass, layer, true, &block));
    CA_TRY(mlp_up(pass, layer, true, &block, a->parallel ? ca_pass_resid(pass, layer) : block.mid));
    if (a->post_norm) { /* only then does the backward need the MLP's output */
        CA_TRY(ca_act_fwd(pass->model->backend, pass->scratch.hidden, block.up, a->activation,
                          a->gated));
        CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_MLP_POST, layer, true, pass->scratch.hidden));
        CA_TRY(ca_linear_fwd(pass->model->backend, block.mlp_raw, pass->scratch.hidden,
                             w->down_weight, w->down_bias));
    }
out:
    return st;
}

/* The residual stream that the first block reads. */
static ca_status start(ca_pass *pass) {
    ca_status st = CA_OK;
    const ca_model *m = pass->model;
    const ca_batch *batch = pass->request.batch;
    ca_tensor x = ca_pass_resid(pass, pass->request.first_layer);
    if (pass->request.resid.data) return ca_copy(m->backend, x, pass->request.resid);
    assert(pass->request.first_layer == 0);
    CA_TRY(ca_gather(m->backend, x, m->embed, batch->ids_b, m->arch.embed_scale, false));
    CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_EMBED, -1, false, x));
    if (m->arch.learned_positions)
        CA_TRY(ca_gather(m->backend, x, m->positions, batch->sequences.positions, 1, true));
out:
    return st;
}

ca_status ca_head_forward(const ca_model *m, ca_tensor logits, ca_tensor normed) {
    ca_status st = CA_OK;
    CA_TRY(ca_linear_fwd(m->backend, logits, normed, m->head, m->head_bias));
    if (m->arch.logit_soft_cap > 0)
        CA_TRY(ca_soft_cap_fwd(m->backend, logits, logits, m->arch.logit_soft_cap));
out:
    return st;
}

static ca_status finish(ca_pass *pass) {
    ca_status st = CA_OK;
    const ca_model *m = pass->model;
    const forward_scratch *s = &pass->scratch;
    const ca_batch *batch = pass->request.batch;
    if (pass->request.head == CA_HEAD_NONE || batch->reads == 0) return CA_OK;
    CA_TRY(ca_gather(m->backend, s->read, ca_pass_resid(pass, m->arch.layers), batch->read_b, 1,
                     false));
    CA_TRY(ca_norm_fwd(m->backend, s->final, s->read, m->final_gain, m->final_bias, m->arch.norm));
    CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_FINAL_NORM, -1, false, s->final));
    if (pass->request.head == CA_HEAD_NORM) return CA_OK;
    CA_TRY(ca_head_forward(m, s->logits, s->final));
    if (m->arch.logit_soft_cap > 0 && s->capped.data != s->logits.data)
        CA_TRY(ca_copy(m->backend, s->capped, s->logits));
    CA_TRY(ca_pass_hooks_forward(pass, CA_SITE_LOGITS, -1, false, s->logits));
out:
    return st;
}

static void check_request(const ca_pass *pass, const ca_forward *r) {
    const ca_pass_limits *l = &pass->limits;
    const ca_sequences *s = &r->batch->sequences;
    const ca_pass *prefix = r->prefix;
    int64_t layers = l->layers ? l->layers : pass->model->arch.layers;
    assert(s->rows <= l->rows && r->batch->reads <= l->reads);
    assert(0 <= r->first_layer && r->first_layer <= r->last_layer);
    assert(r->last_layer - r->first_layer <= layers);
    assert(r->head == CA_HEAD_NONE || r->last_layer == pass->model->arch.layers);
    assert(r->head != CA_HEAD_LOGITS || l->logits);
    for (int64_t i = 0; i < r->hook_count; i++) {
        uint32_t site = CA_SITE_BIT(r->hooks[i].site);
        assert((site & l->sites) && (!r->hooks[i].edits || (site & l->edited)));
        (void)site;
    }
    assert(!(pass->hooked & CA_SITE_BIT(CA_SITE_PATTERN)) ||
           s->pattern_start[s->count] <= l->pattern);
    assert(!prefix || (prefix != pass && prefix->limits.key_values));
    assert(!prefix || (prefix->request.first_layer <= r->first_layer &&
                       r->last_layer <= prefix->request.last_layer));
    (void)layers; /* for builds without assertions */
    (void)l;
    (void)s;
    (void)prefix;
}

ca_status ca_pass_forward(ca_pass *pass, const ca_forward *request) {
    ca_status st = CA_OK;
    pass->request = *request;
    pass->rows = request->batch->sequences.rows;
    pass->hooked = 0;
    for (int64_t i = 0; i < request->hook_count; i++)
        pass->hooked |= CA_SITE_BIT(request->hooks[i].site);
    check_request(pass, request);
    ca_pass_set_scratch(pass);
    CA_TRY(start(pass));
    for (int64_t l = request->first_layer; l < request->last_layer; l++) CA_TRY(run_block(pass, l));
    CA_TRY(finish(pass));
out:
    return st;
}
