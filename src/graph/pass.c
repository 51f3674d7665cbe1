/* SPDX-License-Identifier: MIT
 *
 * Memory of a pass: one allocation, cut into regions by the same code that plans it, so that the
 * planned size is the allocated size.
 */
#include "pass.h"

#include "causa/ops.h"

#include <stdlib.h>

/* Cuts tensors off a region; with base == NULL it only measures. */
typedef struct carve {
    char *base;
    size_t used;
    ca_dtype dtype;
} carve;

static ca_tensor take(carve *c, int64_t n0, int64_t n1, int64_t n2) {
    ca_tensor t = ca_tensor_3d(c->base ? c->base + c->used : NULL, c->dtype, n0, n1, n2);
    size_t bytes = (size_t)(n0 * n1 * n2) * ca_dtype_size(c->dtype);
    c->used += (bytes + 63) & ~(size_t)63;
    return t;
}

static ca_tensor take_2d(carve *c, int64_t n0, int64_t n1) {
    ca_tensor t = take(c, 1, n0, n1);
    return ca_tensor_2d(t.data, t.dtype, n0, n1);
}

static ca_tensor take_1d(carve *c, int64_t n) {
    ca_tensor t = take(c, 1, 1, n);
    return ca_tensor_1d(t.data, t.dtype, n);
}

static int64_t qkv_width(const ca_arch *a) { return (a->heads + 2 * a->kv_heads) * a->head_dim; }
static int64_t up_width(const ca_arch *a) { return a->gated ? 2 * a->mlp_width : a->mlp_width; }
static int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }
static bool has(uint32_t set, ca_site_kind kind) { return (set & CA_SITE_BIT(kind)) != 0; }

static block_values layout_block(carve *c, const ca_arch *a, const ca_pass_limits *l, int64_t rows,
                                 int64_t pattern) {
    block_values b = {.qkv = take_2d(c, rows, qkv_width(a))};
    if (a->qk_norm != CA_QK_NORM_NONE)
        b.qk = take_2d(c, rows, (a->heads + a->kv_heads) * a->head_dim);
    b.o = take_2d(c, rows, a->heads * a->head_dim);
    b.lse = take_2d(c, rows, a->heads);
    if (has(l->sites, CA_SITE_PATTERN)) {
        b.pattern = take_1d(c, a->heads * pattern);
        b.pattern_used =
            has(l->edited, CA_SITE_PATTERN) ? take_1d(c, a->heads * pattern) : b.pattern;
    }
    if (l->lanes) b.mid = take_2d(c, rows, a->width);
    if (has(l->edited, CA_SITE_ATTN_IN)) b.attn_in = take_2d(c, rows, a->width);
    if (has(l->edited, CA_SITE_MLP_IN)) b.mlp_in = take_2d(c, rows, a->width);
    b.up = take_2d(c, rows, up_width(a));
    if (a->post_norm) {
        b.attn_raw = take_2d(c, rows, a->width);
        b.mlp_raw = take_2d(c, rows, a->width);
    }
    return b;
}

static forward_scratch layout_scratch(carve *c, const ca_arch *a, const ca_pass_limits *l,
                                      int64_t rows, int64_t reads) {
    forward_scratch s = {
        .branch = take_2d(c, rows, a->width),
        .hidden = take_2d(c, rows, a->mlp_width),
        .read = take_2d(c, reads, a->width),
        .final = take_2d(c, reads, a->width),
    };
    if (has(l->edited, CA_SITE_Z)) s.z = take_2d(c, rows, a->heads * a->head_dim);
    if (has(l->sites, CA_SITE_RESULT)) s.result = take(c, rows, a->heads, a->width);
    if (l->logits) s.logits = take_2d(c, reads, a->vocab);
    if (l->logits && a->logit_soft_cap > 0)
        s.capped = has(l->edited, CA_SITE_LOGITS) ? take_2d(c, reads, a->vocab) : s.logits;
    return s;
}

static backward_scratch layout_backward(carve *c, const ca_arch *a, const ca_pass_limits *l,
                                        int64_t lanes, int64_t rows, int64_t reads,
                                        int64_t pattern) {
    backward_scratch s = {
        .g = take(c, lanes, rows, a->width),
        .branch = take(c, lanes, rows, a->width),
        .narrow = take(c, lanes, rows, max64(a->mlp_width, a->heads * a->head_dim)),
        .wide = take(c, lanes, rows, max64(up_width(a), qkv_width(a))),
        .final = take(c, lanes, reads, a->width),
    };
    if (a->parallel) s.attn = take(c, lanes, rows, a->width);
    if (l->per_query_head) s.shares = take(c, lanes, rows, 2 * a->heads * a->head_dim);
    if (has(l->sites, CA_SITE_RESULT)) {
        ca_tensor t = take(c, lanes * rows, a->heads, a->width);
        s.result = ca_tensor_4d(t.data, t.dtype, lanes, rows, a->heads, a->width);
    }
    if (has(l->sites, CA_SITE_PATTERN)) s.d_pattern = take_2d(c, lanes, a->heads * pattern);
    return s;
}

void ca_pass_place_regions(ca_pass *pass, const ca_arch *a, ca_dtype dtype) {
    const ca_pass_limits *l = &pass->limits;
    int64_t layers = l->layers ? l->layers : a->layers;
    size_t at = 0;

    carve resid = {.dtype = dtype}, block = {.dtype = dtype}, cache = {.dtype = dtype};
    carve scratch = {.dtype = dtype}, backward = {.dtype = dtype};
    take_2d(&resid, l->rows, a->width);
    layout_block(&block, a, l, l->rows, l->pattern);
    take(&cache, l->rows, 2 * a->kv_heads, a->head_dim);
    layout_scratch(&scratch, a, l, l->rows, l->reads);
    if (l->lanes) layout_backward(&backward, a, l, l->lanes, l->rows, l->reads, l->pattern);

    /* A forward alone updates one residual stream in place and uses one block's values. */
    pass->resid_at = at;
    pass->resid_stride = l->lanes ? resid.used : 0;
    at += resid.used * (size_t)(l->lanes ? layers + 1 : 1);
    pass->block_at = at;
    pass->block_stride = l->lanes && l->keep ? block.used : 0;
    at += block.used * (size_t)(l->lanes && l->keep ? layers : 1);
    pass->cache_at = at;
    pass->cache_stride = cache.used;
    at += l->key_values ? cache.used * (size_t)layers : 0;
    pass->scratch_at = at;
    at += scratch.used;
    pass->backward_at = at;
    pass->bytes = at + backward.used;
}

static carve region(const ca_pass *pass, size_t at, size_t stride, int64_t layer) {
    size_t offset = at + stride * (size_t)(layer - pass->request.first_layer);
    return (carve){.base = (char *)pass->memory + offset, .dtype = pass->model->dtype};
}

ca_tensor ca_pass_resid(const ca_pass *pass, int64_t layer) {
    carve c = region(pass, pass->resid_at, pass->resid_stride, layer);
    return take_2d(&c, pass->rows, pass->model->arch.width);
}

/* Pattern elements per head of the current request; none when it has no hook on them. */
static int64_t pattern_count(const ca_pass *pass) {
    const ca_sequences *s = &pass->request.batch->sequences;
    return has(pass->hooked, CA_SITE_PATTERN) ? s->pattern_start[s->count] : 0;
}

block_values ca_pass_block(const ca_pass *pass, int64_t layer) {
    carve c = region(pass, pass->block_at, pass->block_stride, layer);
    block_values b =
        layout_block(&c, &pass->model->arch, &pass->limits, pass->rows, pattern_count(pass));
    /* Without a backward the residual stream is updated in place. */
    if (!pass->limits.lanes) b.mid = ca_pass_resid(pass, layer);
    return b;
}

void ca_pass_set_scratch(ca_pass *pass) {
    carve c = {.base = (char *)pass->memory + pass->scratch_at, .dtype = pass->model->dtype};
    pass->scratch = layout_scratch(&c, &pass->model->arch, &pass->limits, pass->rows,
                                   pass->request.batch->reads);
}

void ca_pass_set_backward(ca_pass *pass, int64_t lanes) {
    carve c = {.base = (char *)pass->memory + pass->backward_at, .dtype = pass->model->dtype};
    pass->backward = layout_backward(&c, &pass->model->arch, &pass->limits, lanes, pass->rows,
                                     pass->request.batch->reads, pattern_count(pass));
}

void ca_pass_cache(const ca_pass *pass, int64_t layer, ca_tensor *k, ca_tensor *v) {
    const ca_arch *a = &pass->model->arch;
    carve c = region(pass, pass->cache_at, pass->cache_stride, layer);
    ca_tensor kv = take(&c, 2 * pass->rows, a->kv_heads, a->head_dim);
    *k = ca_tensor_slice(kv, 0, 0, pass->rows);
    *v = ca_tensor_slice(kv, 0, pass->rows, pass->rows);
}

qkv_views ca_pass_split_qkv(const ca_arch *a, ca_tensor qkv) {
    int last = qkv.rank - 1;
    int64_t q = a->heads * a->head_dim, kv = a->kv_heads * a->head_dim;
    return (qkv_views){
        .q = ca_tensor_split_last(ca_tensor_slice(qkv, last, 0, q), a->heads),
        .k = ca_tensor_split_last(ca_tensor_slice(qkv, last, q, kv), a->kv_heads),
        .v = ca_tensor_split_last(ca_tensor_slice(qkv, last, q + kv, kv), a->kv_heads),
    };
}

bool ca_pass_qkv(const ca_pass *pass, int64_t layer, ca_tensor *q, ca_tensor *k, ca_tensor *v) {
    const ca_arch *a = &pass->model->arch;
    block_values b = ca_pass_block(pass, layer);
    qkv_views views = ca_pass_split_qkv(a, b.qkv);
    int64_t n = a->heads * a->head_dim;
    *q = views.q;
    *k = views.k;
    *v = views.v;
    if (!b.qk.data) return pass->model->layers[layer].rope < 0;
    *q = ca_tensor_split_last(ca_tensor_slice(b.qk, 1, 0, n), a->heads);
    *k = ca_tensor_split_last(ca_tensor_slice(b.qk, 1, n, a->kv_heads * a->head_dim), a->kv_heads);
    return true;
}

ca_tensor ca_pass_final_norm(const ca_pass *pass) { return pass->scratch.final; }
ca_tensor ca_pass_logits(const ca_pass *pass) { return pass->scratch.logits; }

int64_t ca_pass_bytes(const ca_arch *arch, ca_dtype dtype, const ca_pass_limits *limits) {
    ca_pass pass = {.limits = *limits};
    ca_pass_place_regions(&pass, arch, dtype);
    return (int64_t)pass.bytes;
}

ca_status ca_pass_create(const ca_model *model, const ca_pass_limits *limits, ca_pass **out) {
    ca_status st = CA_OK;
    ca_pass *pass = NULL;
    CA_TRY(ca_calloc(1, sizeof *pass, &pass));
    pass->model = model;
    pass->limits = *limits;
    ca_pass_place_regions(pass, &model->arch, model->dtype);
    CA_TRY(ca_alloc(model->backend, pass->bytes, &pass->memory));
    *out = pass;
    pass = NULL;
out:
    ca_pass_free(pass);
    return st;
}

void ca_pass_free(ca_pass *pass) {
    if (!pass) return;
    if (pass->memory) ca_release(pass->model->backend, pass->memory);
    free(pass);
}
