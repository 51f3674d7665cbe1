/* SPDX-License-Identifier: MIT
 *
 * See gradients.h. Rows of a pass: point after point, each the tails of all pairs. The hooks that
 * sum gradients are in pull.c.
 */
#include "pull.h"

#include "causa/ops.h"

#include <assert.h>
#include <stdlib.h>

/* ---- memory ---- */

static int64_t head_columns(const ca_arch *a) { return 3 * a->heads; }
static int64_t qkv_width(const ca_arch *a) { return (a->heads + 2 * a->kv_heads) * a->head_dim; }

/* A norm's bias, or the projection's, moves q0 away from 0. */
static bool has_rest(const ca_model *m) {
    return m->layers[0].qkv_bias.data || m->layers[0].norm1_bias.data;
}

static ca_pass_limits pass_limits(eap_group_sizes sizes, int64_t points, unsigned wants,
                                  bool one_gradient) {
    const uint32_t outputs =
        CA_SITE_BIT(CA_SITE_EMBED) | CA_SITE_BIT(CA_SITE_Z) | CA_SITE_BIT(CA_SITE_MLP_OUT);
    const uint32_t hidden = wants & EAP_WANTS_HIDDEN ? CA_SITE_BIT(CA_SITE_MLP_POST) : 0;
    uint32_t sites = outputs | hidden;
    if (wants & EAP_WANTS_EDGES)
        sites |= CA_SITE_BIT(CA_SITE_Q) | CA_SITE_BIT(CA_SITE_K) | CA_SITE_BIT(CA_SITE_V) |
                 CA_SITE_BIT(CA_SITE_MLP_IN) | CA_SITE_BIT(CA_SITE_RESID_POST);
    if (wants & EAP_WANTS_OUTPUTS) sites |= CA_SITE_BIT(CA_SITE_ATTN_OUT);
    return (ca_pass_limits){
        .rows = points * sizes.rows,
        .reads = points * sizes.reads,
        .lanes = 1,
        .keep = true,
        .logits = !one_gradient,
        .per_query_head = wants & EAP_WANTS_EDGES,
        .sites = sites,
        .edited = outputs | hidden,
    };
}

/* Takes all tensors, or measures them. */
static int64_t take(eap_gradients *g, const ca_arch *a, ca_dtype type, eap_group_sizes sizes,
                    bool measure) {
    int64_t rows = sizes.rows, all = g->most_points * rows, kv = qkv_width(a);
    bool edges = g->wants & EAP_WANTS_EDGES, nodes = g->wants & EAP_WANTS_NODES;
    int64_t columns = edges ? head_columns(a) : 0, width = edges ? a->width : 0;
    int64_t sources = 1 + a->layers * (a->heads + 1);
    int64_t outputs = g->wants & EAP_WANTS_OUTPUTS ? 1 + 2 * a->layers : 0;
    int64_t hidden = g->wants & EAP_WANTS_HIDDEN ? a->layers : 0;
    int64_t reads = g->most_points * sizes.reads, own_reads = g->one_gradient ? sizes.reads : 0;
    const method_tensor list[] = {
        {&g->alphas, type, 1, {g->most_points}},
        {&g->start, type, 2, {g->from_site ? all : 0, a->width}},
        {&g->d_logits, type, 3, {1, g->one_gradient ? own_reads : reads, a->vocab}},
        {&g->logits, type, 2, {own_reads, a->vocab}},
        {&g->d_final, type, 3, {1, g->one_gradient ? reads : 0, a->width}},
        {&g->all_heads, type, 3, {a->layers * columns, rows, a->head_dim}},
        {&g->all_coefficient, type, 2, {a->layers * columns, all}},
        {&g->all_branch, type, 3, {edges ? a->layers + 1 : 0, rows, a->width}},
        {&g->all_output, type, 3, {outputs, rows, a->width}},
        {&g->all_hidden, type, 3, {hidden, rows, a->mlp_width}},
        {&g->all_node, type, 2, {nodes ? sources : 0, all}},
        {&g->projected, type, 2, {edges ? all : 0, a->heads * a->head_dim}},
        {&g->rest, type, 2, {edges ? a->layers : 0, kv}},
        {&g->xhat, type, 2, {all, width}},
        {&g->inverse, type, 1, {edges ? all : 0}},
        {&g->dots, type, 2, {edges ? a->heads : 0, all}},
    };
    return ca_method_take_list(measure ? NULL : &g->buffers, list, sizeof list / sizeof *list);
}

int64_t ca_eap_gradients_bytes(const ca_arch *arch, ca_dtype dtype, eap_group_sizes sizes,
                               int64_t most_points, unsigned wants, bool from_site,
                               bool one_gradient) {
    eap_gradients g = {.most_points = most_points,
                       .wants = wants,
                       .from_site = from_site,
                       .one_gradient = one_gradient};
    ca_pass_limits limits = pass_limits(sizes, most_points, wants, one_gradient);
    return take(&g, arch, dtype, sizes, true) + ca_pass_bytes(arch, dtype, &limits) +
           ca_batch_bytes(limits.reads, limits.rows, limits.reads);
}

/* q0 | k0 | v0 of every layer: what is projected of a row whose xhat is 0. */
static ca_status set_rest(eap_gradients *g) {
    ca_status st = CA_OK;
    const ca_model *m = g->ends->model;
    ca_backend *be = m->backend;
    if (!has_rest(m) || !(g->wants & EAP_WANTS_EDGES)) {
        g->rest.data = NULL;
        return CA_OK;
    }
    for (int64_t l = 0; l < m->arch.layers; l++) {
        const ca_layer *w = &m->layers[l];
        ca_tensor rest = ca_tensor_slice(g->rest, 0, l, 1), x = w->norm1_bias;
        if (x.data)
            CA_TRY(ca_linear_fwd(be, rest, ca_tensor_2d(x.data, x.dtype, 1, m->arch.width),
                                 w->qkv_weight, w->qkv_bias));
        else
            CA_TRY(ca_copy(be, ca_tensor_at(rest, 0, 0), w->qkv_bias));
    }
out:
    return st;
}

ca_status ca_eap_gradients_create(eap_gradients *g) {
    ca_status st = CA_OK;
    const ca_model *m = g->ends->model;
    eap_group_sizes sizes = g->sizes;
    ca_pass_limits limits = pass_limits(sizes, g->most_points, g->wants, g->one_gradient);
    CA_TRY(ca_batch_create(m->backend, limits.reads, limits.rows, limits.reads, &g->batch));
    CA_TRY(ca_pass_create(m, &limits, &g->pass));
    CA_TRY(ca_eap_group_create(sizes.pairs, &g->part));
    CA_TRY(ca_method_buffers_create(m->backend, (size_t)take(g, &m->arch, m->dtype, sizes, true),
                                    &g->buffers));
    take(g, &m->arch, m->dtype, sizes, false);
    CA_TRY(set_rest(g));
    CA_TRY(ca_calloc((size_t)g->most_points, sizeof(double), &g->staging));
out:
    if (st != CA_OK) ca_eap_gradients_free(g);
    return st;
}

void ca_eap_gradients_free(eap_gradients *g) {
    ca_pass_free(g->pass);
    ca_batch_free(g->batch);
    ca_eap_group_free(&g->part);
    ca_method_buffers_free(&g->buffers);
    free(g->staging);
    *g = (eap_gradients){0};
}

/* ---- the two ends ---- */

static bool is_patching(const eap_gradients *g) { return g->ends->ablation == NULL; }

/* The first point with this alpha of a path of embeddings, which is a run of its own; -1: none. */
static int64_t point_at(eap_site site, const eap_point *point, int64_t points, double alpha) {
    return site.kind == CA_SITE_EMBED ? ca_eap_point_find(point, points, alpha) : -1;
}

ca_status ca_eap_gradients_begin(eap_gradients *g, const eap_group *group, eap_site site,
                                 const eap_point *point, int64_t points, method_scorer *scorer) {
    ca_status st = CA_OK;
    CA_TRY(ca_eap_ends_begin(g->ends, group));
    bool clean = g->from_site || point_at(site, point, points, 1) < 0;
    bool ablated = g->from_site || !is_patching(g) || point_at(site, point, points, 0) < 0;
    CA_TRY(ca_eap_ends_run(g->ends, clean, ablated, scorer));
    if (g->from_site) CA_TRY(ca_eap_ends_subtract(g->ends, 0, group->rows));
out:
    return st;
}

void ca_eap_gradients_part(eap_gradients *g, int64_t first, int64_t count) {
    const ca_arch *a = &g->ends->model->arch;
    const eap_group *group = g->ends->group;
    int64_t row = group->row[first];
    ca_tensor h = g->all_heads;
    ca_eap_group_part(group, first, count, &g->part);
    g->first = first;
    int64_t rows = g->part.rows;
    g->clean = ca_eap_outputs_part(&g->ends->clean, row, rows);
    g->ablated = ca_eap_outputs_part(&g->ends->ablated, row, rows);
    g->difference = ca_eap_outputs_part(&g->ends->difference, row, rows);
    g->differs = g->from_site;
    g->heads = ca_tensor_4d(h.data, h.dtype, a->layers, head_columns(a), rows, a->head_dim);
    g->branch = ca_eap_with_rows(g->all_branch, rows);
    g->output = ca_eap_with_rows(g->all_output, rows);
    g->hidden = ca_eap_with_rows(g->all_hidden, rows);
}

/* ---- points ---- */

/* Sets the value of the path's site in the rows of every point. */
static ca_status put_point(void *context, const ca_hook_call *call, ca_tensor value) {
    ca_status st = CA_OK;
    const eap_gradients *g = context;
    int64_t rows = g->part.rows;
    ca_tensor clean = ca_eap_outputs_at(&g->clean, call->site, call->layer);
    ca_tensor ablated = ca_eap_outputs_at(&g->ablated, call->site, call->layer);
    if (value.rank == 3)
        value = ca_tensor_2d(value.data, value.dtype, value.shape[0], clean.shape[1]);
    for (int64_t k = 0; k < g->points; k++) {
        ca_tensor alpha = ca_tensor_2d(NULL, g->alphas.dtype, rows, 1);
        alpha.data = (char *)g->alphas.data + (size_t)k * ca_dtype_size(g->alphas.dtype);
        alpha.stride[0] = 0;
        CA_TRY(ca_mix_fwd(call->backend, ca_tensor_slice(value, 0, k * rows, rows), ablated, clean,
                          alpha));
    }
out:
    return st;
}

/* The value does not depend on what lies below. */
static ca_status cut_gradient(void *context, const ca_hook_call *call, ca_tensor gradient) {
    (void)context;
    return ca_fill(call->backend, gradient, 0);
}

/* The path's hook, and taps of the ends that this pass runs. */
static int64_t point_hooks(eap_gradients *g, ca_hook *hooks) {
    int64_t count = 0, rows = g->part.rows, row = g->ends->group->row[g->first];
    int64_t clean = g->differs ? -1 : point_at(g->site, g->point, g->points, 1);
    int64_t ablated =
        g->differs || !is_patching(g) ? -1 : point_at(g->site, g->point, g->points, 0);
    hooks[count++] = (ca_hook){.site = g->site.kind,
                               .first_layer = g->site.layer,
                               .last_layer = g->site.layer,
                               .edits = true,
                               .forward = put_point,
                               .backward = cut_gradient,
                               .context = g};
    if (clean >= 0) {
        g->clean_tap = ca_eap_ends_tap(g->ends, true, clean * rows, row, rows);
        count += ca_eap_tap_hooks(&g->clean_tap, &g->ends->model->arch, hooks + count);
    }
    if (ablated >= 0) {
        g->ablated_tap = ca_eap_ends_tap(g->ends, false, ablated * rows, row, rows);
        count += ca_eap_tap_hooks(&g->ablated_tap, &g->ends->model->arch, hooks + count);
    }
    return count + ca_eap_pull_hooks(g, hooks + count);
}

/* Metrics of the end that this pass ran as its point k; none where k < 0. */
static ca_status score_end(eap_gradients *g, bool clean, int64_t k, method_scorer *scorer) {
    ca_status st = CA_OK;
    int64_t reads = g->part.read[g->part.count];
    ca_tensor logits = g->logits;
    if (k < 0) return CA_OK;
    if (g->one_gradient) {
        logits = ca_tensor_slice(logits, 0, 0, reads);
        CA_TRY(ca_head_forward(g->ends->model, logits,
                               ca_tensor_slice(ca_pass_final_norm(g->pass), 0, k * reads, reads)));
        k = 0;
    } else {
        logits = ca_pass_logits(g->pass);
    }
    CA_TRY(ca_eap_ends_score(g->ends, clean, &g->part, g->first, logits, k, scorer));
out:
    return st;
}

/* Metrics of the ends that this pass ran, and the difference of their outputs. */
static ca_status finish_ends(eap_gradients *g, method_scorer *scorer) {
    ca_status st = CA_OK;
    if (g->differs) return CA_OK;
    CA_TRY(score_end(g, true, point_at(g->site, g->point, g->points, 1), scorer));
    if (is_patching(g))
        CA_TRY(score_end(g, false, point_at(g->site, g->point, g->points, 0), scorer));
    CA_TRY(ca_eap_ends_subtract(g->ends, g->ends->group->row[g->first], g->part.rows));
    g->differs = true;
out:
    return st;
}

/* The block of the site, and the clean residual stream that enters it, for every point. */
static ca_status start_at_site(eap_gradients *g, ca_forward *request) {
    ca_status st = CA_OK;
    const ca_model *m = g->ends->model;
    int64_t rows = g->part.rows;
    if (!g->from_site || g->site.layer < 0) return CA_OK;
    ca_tensor start = ca_tensor_slice(g->start, 0, 0, g->points * rows);
    request->first_layer = g->site.layer;
    request->resid = start;
    ca_tensor stream = ca_tensor_at(g->ends->stream, 0, g->site.layer);
    stream = ca_tensor_slice(stream, 0, g->ends->group->row[g->first], rows);
    CA_TRY(ca_copy(m->backend,
                   ca_tensor_3d(start.data, start.dtype, g->points, rows, m->arch.width),
                   ca_tensor_repeat(stream, g->points)));
out:
    return st;
}

static ca_status forward_points(eap_gradients *g, ca_hook *hooks) {
    ca_status st = CA_OK;
    ca_backend *be = g->ends->model->backend;
    double alpha[EAP_MOST_POINTS];
    ca_batch_clear(g->batch);
    for (int64_t k = 0; k < g->points; k++) {
        ca_eap_group_add_run(&g->part, g->batch, false);
        alpha[k] = g->point[k].alpha;
    }
    CA_TRY(ca_batch_upload(g->batch));
    CA_TRY(ca_upload_f64(be, ca_tensor_slice(g->alphas, 0, 0, g->points), g->staging, alpha));
    ca_forward request = ca_forward_all(g->ends->model, g->batch);
    if (g->one_gradient) request.head = CA_HEAD_NORM;
    request.prefix = ca_eap_ends_prefix(g->ends);
    CA_TRY(start_at_site(g, &request));
    request.hook_count = point_hooks(g, hooks);
    request.hooks = hooks;
    CA_TRY(ca_pass_forward(g->pass, &request));
out:
    return st;
}

/* Gradients of the metric at the logits of every point. */
static ca_status differentiate(eap_gradients *g, double factor, method_scorer *scorer,
                               ca_backward *request) {
    ca_status st = CA_OK;
    const eap_group *part = &g->part;
    int64_t pairs = part->count;
    ca_tensor logits = ca_pass_logits(g->pass), d = g->d_logits;
    d = ca_tensor_3d(d.data, d.dtype, 1, g->points * part->read[pairs], d.shape[2]);
    for (int64_t r = 0; r < g->points * pairs; r++) {
        int64_t k = r / pairs, n = r % pairs;
        double value;
        CA_TRY(ca_method_score_gradient(scorer, &part->data->examples[part->first + n],
                                        g->first + n, ca_eap_group_logits(part, logits, k, n),
                                        factor, &value,
                                        ca_eap_group_logits(part, ca_tensor_at(d, 0, 0), k, n)));
    }
    request->d_logits = d;
out:
    return st;
}

/* The one gradient of every pair, below the vocabulary head and for all points. */
static ca_status repeat_gradient(eap_gradients *g, double factor, method_scorer *scorer,
                                 ca_backward *request) {
    ca_status st = CA_OK;
    const eap_group *part = &g->part;
    const ca_model *m = g->ends->model;
    int64_t reads = part->read[part->count], width = m->arch.width;
    ca_tensor d_logits = ca_tensor_slice(ca_tensor_at(g->d_logits, 0, 0), 0, 0, reads);
    ca_tensor all = g->d_final;
    all = ca_tensor_3d(all.data, all.dtype, g->points, reads, width);
    for (int64_t n = 0; n < part->count; n++)
        CA_TRY(ca_method_linear_gradient(scorer, &part->data->examples[part->first + n], factor,
                                         ca_eap_group_logits(part, d_logits, 0, n)));
    CA_TRY(ca_linear_bwd(m->backend, ca_tensor_at(all, 0, 0), d_logits, m->head));
    if (g->points > 1)
        CA_TRY(ca_copy(m->backend, ca_tensor_slice(all, 0, 1, g->points - 1),
                       ca_tensor_repeat(ca_tensor_at(all, 0, 0), g->points - 1)));
    request->d_final_norm = ca_tensor_3d(all.data, all.dtype, 1, g->points * reads, width);
out:
    return st;
}

ca_status ca_eap_gradients_run(eap_gradients *g, eap_site site, const eap_point *point,
                               int64_t points, double factor, method_scorer *scorer) {
    ca_status st = CA_OK;
    ca_hook hooks[1 + 2 * EAP_TAP_HOOKS + EAP_PULL_HOOKS];
    ca_backward request = {.lanes = 1};
    ca_tensor gradient;
    assert(points <= g->most_points && points <= EAP_MOST_POINTS);
    g->site = site;
    g->point = point;
    g->points = points;
    CA_TRY(forward_points(g, hooks));
    CA_TRY(finish_ends(g, scorer));
    CA_TRY((g->one_gradient ? repeat_gradient : differentiate)(g, factor, scorer, &request));
    CA_TRY(ca_eap_pull_begin(g));
    if (g->from_site && site.layer > 0) request.stop_layer = site.layer;
    CA_TRY(ca_pass_backward(g->pass, &request, &gradient));
out:
    return st;
}
