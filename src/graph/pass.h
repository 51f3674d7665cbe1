/* SPDX-License-Identifier: MIT
 *
 * Inside of a pass: where its values live in one block of backend memory. Private to src/graph.
 */
#ifndef CAUSA_GRAPH_PASS_H
#define CAUSA_GRAPH_PASS_H

#include "causa/graph.h"

/* What the backward of a block needs of its forward. */
typedef struct block_values {
    ca_tensor qkv;             /* [T, (H + 2 K) Dh] rows q | k | v; q and k normed and rotated */
    ca_tensor qk;              /* [T, (H + K) Dh] q | k before their norm; absent without one */
    ca_tensor o, lse;          /* [T, H Dh], [T, H] attention output before hooks on z */
    ca_tensor pattern;         /* flat probabilities before hooks; absent unless hooked */
    ca_tensor pattern_used;    /* after hooks; the same tensor unless edited */
    ca_tensor mid;             /* [T, D] residual stream between attention and MLP */
    ca_tensor attn_in, mlp_in; /* [T, D] what the branch reads, where hooks edit it; else absent */
    ca_tensor up;              /* [T, F], or [T, 2 F] gate | up */
    ca_tensor attn_raw, mlp_raw; /* [T, D] before the post-norms; absent without */
} block_values;

/* Shared by all blocks of a forward. */
typedef struct forward_scratch {
    ca_tensor branch; /* [T, D] normed input, then output of attention or MLP */
    ca_tensor hidden; /* [T, F] */
    ca_tensor z;      /* [T, H Dh] when hooks edit z */
    ca_tensor result; /* [T, H, D] when attn.result is hooked */
    ca_tensor read;   /* [n, D] residual stream at the read rows */
    ca_tensor final;  /* [n, D] after the final norm */
    ca_tensor logits; /* [n, V] */
    ca_tensor capped; /* [n, V] as the cap left them, before hooks; absent without a cap */
} forward_scratch;

typedef struct backward_scratch {
    ca_tensor g;         /* [R, T, D] gradient of the residual stream */
    ca_tensor branch;    /* [R, T, D] of a block's branch */
    ca_tensor attn;      /* [R, T, D] kept for attention in parallel blocks */
    ca_tensor narrow;    /* [R, T, max(F, H Dh)] of hidden units or z */
    ca_tensor wide;      /* [R, T, max(up, qkv)] of projections */
    ca_tensor shares;    /* [R, T, 2 H Dh] of k | v per query head when a hook asks for them */
    ca_tensor result;    /* [R, T, H, D] when attn.result is hooked */
    ca_tensor d_pattern; /* [R, H pattern_start[count]] when hooked */
    ca_tensor final;     /* [R, n, D] */
} backward_scratch;

struct ca_pass {
    const ca_model *model;
    ca_pass_limits limits;
    void *memory;
    /* byte offsets of the regions, and strides of those that exist per layer */
    size_t resid_at, resid_stride, block_at, block_stride, cache_at, cache_stride;
    size_t scratch_at, backward_at, bytes;

    ca_forward request; /* the last forward */
    uint32_t hooked;    /* CA_SITE_BITs of its hooks */
    int64_t rows;       /* T of its batch */
    forward_scratch scratch;
    backward_scratch backward;
};

/* Computes offsets, strides and `bytes` from the limits. */
void ca_pass_place_regions(ca_pass *pass, const ca_arch *arch, ca_dtype dtype);
/* Views for the rows of the current request. */
block_values ca_pass_block(const ca_pass *pass, int64_t layer);
void ca_pass_set_scratch(ca_pass *pass);
void ca_pass_set_backward(ca_pass *pass, int64_t lanes);

/* Parts of a fused q | k | v buffer [..., (H + 2 K) Dh] as [..., heads, Dh]. */
typedef struct qkv_views {
    ca_tensor q, k, v;
} qkv_views;
qkv_views ca_pass_split_qkv(const ca_arch *arch, ca_tensor qkv);

/* hook.c */
bool ca_pass_is_hooked(const ca_pass *pass, ca_site_kind site, int64_t layer);
bool ca_pass_is_edited(const ca_pass *pass, ca_site_kind site, int64_t layer);
/* Some hook reads or edits the value in the forward. */
bool ca_pass_is_read(const ca_pass *pass, ca_site_kind site, int64_t layer);
ca_status ca_pass_hooks_forward(ca_pass *pass, ca_site_kind site, int64_t layer, bool recompute,
                                ca_tensor value) CA_MUST_USE;
/* Hooks that see k and v per query head are called by ca_pass_hooks_shares alone. */
ca_status ca_pass_hooks_backward(ca_pass *pass, ca_site_kind site, int64_t layer, int64_t lanes,
                                 ca_tensor gradient) CA_MUST_USE;
ca_status ca_pass_hooks_shares(ca_pass *pass, ca_site_kind site, int64_t layer, int64_t lanes,
                               ca_tensor shares) CA_MUST_USE;
bool ca_pass_has_shares(const ca_pass *pass, int64_t layer);

/* forward.c: makes the values of a block again for the backward, from its input. */
ca_status ca_pass_recompute_block(ca_pass *pass, int64_t layer) CA_MUST_USE;
/* Keys and values of the prefix at a layer; absent tensors without a prefix. */
void ca_pass_prefix(const ca_pass *pass, int64_t layer, ca_tensor *k, ca_tensor *v);
/* W_O seen per head: [H, D, Dh]. */
ca_tensor ca_pass_out_weight_heads(const ca_pass *pass, int64_t layer);

#endif
