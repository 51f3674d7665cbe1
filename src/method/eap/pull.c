/* SPDX-License-Identifier: MIT
 *
 * See pull.h: called by the backward of a pass over points, layer after layer, the MLP before
 * attention, v and k before q.
 */
#include "pull.h"

#include "causa/ops.h"

/* ---- edges into heads ---- */

/* Rows of point k, of a tensor whose axis `axis` counts the rows of all points. */
static ca_tensor of_point(const eap_gradients *g, ca_tensor t, int axis, int64_t k) {
    return ca_tensor_slice(t, axis, k * g->part.rows, g->part.rows);
}

static int64_t all_rows(const eap_gradients *g) { return g->points * g->part.rows; }

/* [T, H, n] as [K, G, T, n], heads of a group together; n may be left out. */
static ca_tensor grouped(ca_tensor t, int64_t groups) {
    int64_t share = t.shape[1] / groups;
    ca_tensor out = t;
    out.rank = 4;
    out.shape[0] = groups, out.stride[0] = t.stride[1] * share;
    out.shape[1] = share, out.stride[1] = t.stride[1];
    out.shape[2] = t.shape[0], out.stride[2] = t.stride[0];
    out.shape[3] = t.shape[2], out.stride[3] = t.stride[2];
    return out;
}

/* [K, T, n] or [K, 1, n] repeated for the heads of a group: [K, G, T, n]. */
static ca_tensor for_heads(ca_tensor t, int64_t share, int64_t rows) {
    ca_tensor out = t;
    out.rank = 4;
    out.shape[1] = share, out.stride[1] = 0;
    out.shape[2] = rows, out.stride[2] = t.shape[1] == rows ? t.stride[1] : 0;
    out.shape[3] = t.shape[2], out.stride[3] = t.stride[2];
    return out;
}

/* Which columns a site has, and its part of the projections [.., (H + 2 K) Dh]. */
typedef struct head_input {
    int64_t column;       /* first of 3 H */
    int64_t first, heads; /* of H + 2 K projected heads */
} head_input;

static head_input input_of(const ca_arch *a, ca_site_kind site) {
    if (site == CA_SITE_Q) return (head_input){0, 0, a->heads};
    if (site == CA_SITE_K) return (head_input){a->heads, a->heads, a->kv_heads};
    return (head_input){2 * a->heads, a->heads + a->kv_heads, a->kv_heads};
}

/* The heads of an input, of rows of projections [T, (H + 2 K) Dh], as [heads, T, Dh]. */
static ca_tensor heads_of(const ca_arch *a, ca_tensor rows, head_input in) {
    ca_tensor part = ca_tensor_slice(rows, 1, in.first * a->head_dim, in.heads * a->head_dim);
    return ca_tensor_swap_axes(ca_tensor_split_last(part, in.heads), 0, 1);
}

/* q, k or v [heads, points T, Dh] of the pass as projected: the pass keeps q and k rotated, unless
 * they are normed first. */
static ca_status projected(const eap_gradients *g, int64_t layer, ca_site_kind site,
                           ca_tensor *out) {
    ca_status st = CA_OK;
    const ca_model *m = g->ends->model;
    ca_tensor q, k, v, to;
    bool rotated = !ca_pass_qkv(g->pass, layer, &q, &k, &v);
    ca_tensor from = site == CA_SITE_Q ? q : site == CA_SITE_K ? k : v;
    if (rotated && site != CA_SITE_V) {
        const ca_layer *w = &m->layers[layer];
        to = ca_tensor_3d(g->projected.data, from.dtype, from.shape[0], from.shape[1],
                          from.shape[2]);
        CA_TRY(ca_copy(m->backend, to, from));
        CA_TRY(ca_rope(m->backend, to, m->cosine[w->rope], m->sine[w->rope],
                       g->batch->sequences.positions, true));
        from = to;
    }
    *out = ca_tensor_swap_axes(from, 0, 1);
out:
    return st;
}

/* coefficient [H, points T] = d . (q - q0) / sigma; d [H as K, G; points T; Dh]. */
static ca_status set_coefficient(eap_gradients *g, int64_t layer, ca_site_kind site, ca_tensor d,
                                 ca_tensor coefficient) {
    ca_status st = CA_OK;
    ca_backend *be = g->ends->model->backend;
    const ca_arch *a = &g->ends->model->arch;
    head_input in = input_of(a, site);
    int64_t rows = all_rows(g), share = a->heads / in.heads;
    ca_tensor q;
    ca_tensor by_group = ca_tensor_3d(coefficient.data, coefficient.dtype, in.heads, share, rows);
    ca_tensor inverse = ca_tensor_slice(g->inverse, 0, 0, rows);
    CA_TRY(projected(g, layer, site, &q));
    CA_TRY(ca_row_dots(be, by_group, d, for_heads(q, share, rows)));
    if (g->rest.data) {
        ca_tensor dots = ca_tensor_3d(g->dots.data, g->dots.dtype, in.heads, share, rows);
        ca_tensor q0 = heads_of(a, ca_tensor_slice(g->rest, 0, layer, 1), in);
        CA_TRY(ca_row_dots(be, dots, d, for_heads(q0, share, rows)));
        CA_TRY(ca_add(be, by_group, dots, -1));
    }
    CA_TRY(ca_multiply(be, coefficient, coefficient, ca_tensor_repeat(inverse, a->heads)));
out:
    return st;
}

/* d [1, points T, H, Dh]: of keys and values each query head's share. */
static ca_status pull_heads(void *context, const ca_hook_call *call, ca_tensor gradient) {
    ca_status st = CA_OK;
    eap_gradients *g = context;
    ca_backend *be = call->backend;
    const ca_arch *a = &call->model->arch;
    head_input in = input_of(a, call->site);
    ca_tensor d = ca_tensor_at(gradient, 0, 0), xhat;
    if (call->site == CA_SITE_V)
        CA_TRY(ca_eap_gradients_xhat(g, call->layer, 0, g->part.rows, &xhat));
    CA_TRY(set_coefficient(g, call->layer, call->site, grouped(d, in.heads),
                           ca_eap_coefficients(g, call->layer, in.column)));
    ca_tensor by_head = ca_tensor_swap_axes(d, 0, 1);
    ca_tensor sum = ca_tensor_slice(ca_tensor_at(g->heads, 0, call->layer), 0, in.column, a->heads);
    for (int64_t k = 0; k < g->points; k++)
        CA_TRY(ca_add_scaled_rows(be, sum, of_point(g, by_head, 1, k),
                                  ca_tensor_repeat(of_point(g, g->inverse, 0, k), a->heads),
                                  g->point[k].weight));
out:
    return st;
}

ca_tensor ca_eap_coefficients(const eap_gradients *g, int64_t layer, int64_t column) {
    const ca_arch *a = &g->ends->model->arch;
    ca_tensor c = g->all_coefficient;
    c = ca_tensor_2d(c.data, c.dtype, c.shape[0], all_rows(g));
    return ca_tensor_slice(c, 0, layer * 3 * a->heads + column, a->heads);
}

ca_status ca_eap_gradients_xhat(eap_gradients *g, int64_t layer, int64_t first, int64_t rows,
                                ca_tensor *xhat) {
    const ca_model *m = g->ends->model;
    ca_tensor x = ca_pass_resid(g->pass, layer);
    x = ca_tensor_3d(x.data, x.dtype, g->points, g->part.rows, m->arch.width);
    *xhat = ca_tensor_3d(g->xhat.data, x.dtype, g->points, rows, m->arch.width);
    ca_tensor inverse = ca_tensor_2d(g->inverse.data, x.dtype, g->points, rows);
    return ca_norm_stats(m->backend, *xhat, inverse, ca_tensor_slice(x, 1, first, rows),
                         m->arch.norm);
}

/* ---- sums [T, n] over points of gradients [1, points T, n]: at the inputs of MLPs and logits,
 * before the norm, at outputs of sources and at hidden units ---- */

static ca_status pull_sum(void *context, const ca_hook_call *call, ca_tensor gradient) {
    ca_status st = CA_OK;
    const eap_gradients *g = context;
    int64_t layers = call->model->arch.layers;
    ca_tensor d = ca_tensor_at(gradient, 0, 0), sum = {0};
    switch (call->site) {
    case CA_SITE_MLP_IN:
        sum = ca_tensor_at(g->branch, 0, call->layer);
        break;
    case CA_SITE_RESID_POST:
        sum = ca_tensor_at(g->branch, 0, layers);
        break;
    case CA_SITE_MLP_POST:
        sum = ca_tensor_at(g->hidden, 0, call->layer);
        break;
    case CA_SITE_EMBED:
        sum = ca_tensor_at(g->output, 0, 0);
        break;
    default:
        sum = ca_tensor_at(g->output, 0, 1 + 2 * call->layer + (call->site == CA_SITE_MLP_OUT));
    }
    for (int64_t k = 0; k < g->points; k++)
        CA_TRY(ca_add(call->backend, sum, of_point(g, d, 0, k), g->point[k].weight));
out:
    return st;
}

/* ---- nodes ---- */

/* node [H or 1, points T] of a site = difference . gradient. */
static ca_status pull_node(void *context, const ca_hook_call *call, ca_tensor gradient) {
    ca_status st = CA_OK;
    const eap_gradients *g = context;
    const ca_arch *a = &call->model->arch;
    int64_t heads = call->site == CA_SITE_Z ? a->heads : 1;
    int64_t row = call->site == CA_SITE_EMBED ? 0 : 1 + call->layer * (a->heads + 1);
    if (call->site == CA_SITE_MLP_OUT) row += a->heads;
    ca_tensor to =
        ca_tensor_2d(g->all_node.data, g->all_node.dtype, g->all_node.shape[0], all_rows(g));
    ca_tensor d = ca_tensor_at(gradient, 0, 0);
    ca_tensor difference = ca_eap_outputs_at(&g->difference, call->site, call->layer);
    if (d.rank == 2) d = ca_tensor_split_last(d, 1);
    d = ca_tensor_swap_axes(d, 0, 1);
    difference = ca_tensor_swap_axes(ca_tensor_split_last(difference, heads), 0, 1);
    to = ca_tensor_slice(to, 0, row, heads);
    for (int64_t k = 0; k < g->points; k++)
        CA_TRY(ca_row_dots(call->backend, of_point(g, to, 1, k), of_point(g, d, 1, k), difference));
out:
    return st;
}

/* ---- */

static void add_hooks(eap_gradients *g, const ca_site_kind *sites, int64_t n,
                      ca_status (*pull)(void *, const ca_hook_call *, ca_tensor), ca_hook *hooks,
                      int64_t *count) {
    int64_t last = g->ends->model->arch.layers - 1;
    for (int64_t i = 0; i < n; i++)
        hooks[(*count)++] = (ca_hook){.site = sites[i],
                                      .first_layer = sites[i] == CA_SITE_RESID_POST ? last : 0,
                                      .last_layer = last,
                                      .backward = pull,
                                      .context = g};
}

int64_t ca_eap_pull_hooks(eap_gradients *g, ca_hook hooks[EAP_PULL_HOOKS]) {
    static const ca_site_kind heads[] = {CA_SITE_Q, CA_SITE_K, CA_SITE_V};
    static const ca_site_kind branches[] = {CA_SITE_MLP_IN, CA_SITE_RESID_POST};
    static const ca_site_kind nodes[] = {CA_SITE_EMBED, CA_SITE_Z, CA_SITE_MLP_OUT};
    static const ca_site_kind outputs[] = {CA_SITE_EMBED, CA_SITE_ATTN_OUT, CA_SITE_MLP_OUT};
    static const ca_site_kind hidden[] = {CA_SITE_MLP_POST};
    int64_t count = 0;
    if (g->wants & EAP_WANTS_EDGES) {
        add_hooks(g, heads, 3, pull_heads, hooks, &count);
        for (int64_t i = 0; i < 3; i++) hooks[i].per_query_head = heads[i] != CA_SITE_Q;
        add_hooks(g, branches, 2, pull_sum, hooks, &count);
    }
    if (g->wants & EAP_WANTS_NODES) add_hooks(g, nodes, 3, pull_node, hooks, &count);
    if (g->wants & EAP_WANTS_OUTPUTS) add_hooks(g, outputs, 3, pull_sum, hooks, &count);
    if (g->wants & EAP_WANTS_HIDDEN) add_hooks(g, hidden, 1, pull_sum, hooks, &count);
    return count;
}

ca_status ca_eap_pull_begin(eap_gradients *g) {
    ca_status st = CA_OK;
    ca_backend *be = g->ends->model->backend;
    if (g->wants & EAP_WANTS_EDGES) {
        CA_TRY(ca_fill(be, g->heads, 0));
        CA_TRY(ca_fill(be, g->branch, 0));
    }
    if (g->wants & EAP_WANTS_OUTPUTS) CA_TRY(ca_fill(be, g->output, 0));
    if (g->wants & EAP_WANTS_HIDDEN) CA_TRY(ca_fill(be, g->hidden, 0));
out:
    return st;
}
