/* SPDX-License-Identifier: MIT
 *
 * See gradients.h. Rows of a pass: point after point, each the tails of all pairs. The hooks that
 * sum gradients are in pull.c.
 */
#include "pull.h"

#include "causa/ops.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

/* ---- memory ---- */

static int64_t head_columns(const ca_arch *a) { return 3 * a->heads; }
static int64_t qkv_width(const ca_arch *a) { return (a->heads + 2 * a->kv_heads) * a->head_dim; }

/* A norm's bias, or the projection's, moves q0 away from 0. */
static bool has_rest(const ca_model *m) {
    return m->layers[0].qkv_bias.data || m->layers[0].norm1_bias.data;
}

static void set_limits(eap_gradients *g, const ca_arch *arch) {
    const eap_sizes *s = &g->sizes;
    const uint32_t taps =
        CA_SITE_BIT(CA_SITE_EMBED) | CA_SITE_BIT(CA_SITE_Z) | CA_SITE_BIT(CA_SITE_MLP_OUT);
    g->prefix_limits = (ca_pass_limits){.rows = s->prefix_rows, .key_values = true};
    g->end_limits =
        (ca_pass_limits){.rows = 2 * s->rows, .reads = 2 * s->pairs, .logits = true, .sites = taps};
    g->point_limits = (ca_pass_limits){
        .rows = s->points * s->rows,
        .reads = s->points * s->pairs,
        .lanes = 1,
        .keep = true,
        .logits = true,
        .per_query_head = true,
        .sites = taps | CA_SITE_BIT(CA_SITE_Q) | CA_SITE_BIT(CA_SITE_K) | CA_SITE_BIT(CA_SITE_V) |
                 CA_SITE_BIT(CA_SITE_MLP_IN) | CA_SITE_BIT(CA_SITE_RESID_POST),
        .edited = taps,
    };
    (void)arch;
}

/* Takes all tensors, or with g->buffers empty measures them. */
static int64_t take(eap_gradients *g, const ca_arch *a, ca_dtype type, bool measure) {
    int64_t rows = g->sizes.rows, all = g->sizes.points * rows, kv = qkv_width(a);
    bool edges = g->wants & EAP_WANTS_EDGES, nodes = g->wants & EAP_WANTS_NODES;
    int64_t z = a->heads * a->head_dim, columns = edges ? head_columns(a) : 0;
    int64_t width = edges ? a->width : 0, sources = 1 + a->layers * (a->heads + 1);
    const method_tensor list[] = {
        {&g->alphas, type, 1, {g->sizes.points}},
        {&g->ids, CA_I32, 1, {rows}},
        {&g->d_logits, type, 3, {1, g->point_limits.reads, a->vocab}},
        {&g->all_clean.embed, type, 2, {rows, a->width}},
        {&g->all_clean.z, type, 3, {a->layers, rows, z}},
        {&g->all_clean.mlp, type, 3, {a->layers, rows, a->width}},
        {&g->all_ablated.embed, type, 2, {rows, a->width}},
        {&g->all_ablated.z, type, 3, {a->layers, rows, z}},
        {&g->all_ablated.mlp, type, 3, {a->layers, rows, a->width}},
        {&g->all_difference.embed, type, 2, {rows, a->width}},
        {&g->all_difference.z, type, 3, {a->layers, rows, z}},
        {&g->all_difference.mlp, type, 3, {a->layers, rows, a->width}},
        {&g->all_heads, type, 3, {a->layers * columns, rows, a->head_dim}},
        {&g->all_coefficient, type, 2, {a->layers * columns, all}},
        {&g->all_branch, type, 3, {edges ? a->layers + 1 : 0, rows, a->width}},
        {&g->all_node, type, 2, {nodes ? sources : 0, all}},
        {&g->projections, type, 3, {edges ? a->layers : 0, all, kv}},
        {&g->rest, type, 2, {edges ? a->layers : 0, kv}},
        {&g->xhat, type, 2, {all, width}},
        {&g->inverse, type, 1, {edges ? all : 0}},
        {&g->dots, type, 2, {edges ? a->heads : 0, all}},
    };
    return ca_method_take_list(measure ? NULL : &g->buffers, list, sizeof list / sizeof *list);
}

ca_status ca_eap_gradients_bytes(const ca_arch *arch, ca_dtype dtype, eap_sizes sizes,
                                 unsigned wants, int64_t *bytes) {
    eap_gradients g = {.sizes = sizes, .wants = wants};
    set_limits(&g, arch);
    *bytes = take(&g, arch, dtype, true);
    *bytes += ca_pass_bytes(arch, dtype, &g.end_limits) +
              ca_batch_bytes(2 * sizes.pairs, g.end_limits.rows, g.end_limits.reads);
    *bytes += ca_pass_bytes(arch, dtype, &g.point_limits) +
              ca_batch_bytes(sizes.points * sizes.pairs, g.point_limits.rows, g.point_limits.reads);
    if (sizes.prefix_rows)
        *bytes += ca_pass_bytes(arch, dtype, &g.prefix_limits) +
                  ca_batch_bytes(sizes.pairs, sizes.prefix_rows, 0);
    return CA_OK;
}

static ca_status create_passes(eap_gradients *g) {
    ca_status st = CA_OK;
    ca_backend *be = g->model->backend;
    int64_t pairs = g->sizes.pairs;
    CA_TRY(ca_batch_create(be, 2 * pairs, g->end_limits.rows, g->end_limits.reads, &g->end_batch));
    CA_TRY(ca_batch_create(be, g->sizes.points * pairs, g->point_limits.rows, g->point_limits.reads,
                           &g->point_batch));
    CA_TRY(ca_pass_create(g->model, &g->end_limits, &g->end_pass));
    CA_TRY(ca_pass_create(g->model, &g->point_limits, &g->point_pass));
    if (g->sizes.prefix_rows == 0) goto out;
    CA_TRY(ca_batch_create(be, pairs, g->sizes.prefix_rows, 0, &g->prefix_batch));
    CA_TRY(ca_pass_create(g->model, &g->prefix_limits, &g->prefix_pass));
out:
    return st;
}

/* q0 | k0 | v0 of every layer: what is projected of a row whose xhat is 0. */
static ca_status set_rest(eap_gradients *g) {
    ca_status st = CA_OK;
    const ca_model *m = g->model;
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
    const ca_model *m = g->model;
    size_t pairs = (size_t)g->sizes.pairs;
    set_limits(g, &m->arch);
    CA_TRY(create_passes(g));
    CA_TRY(ca_method_buffers_create(m->backend, (size_t)take(g, &m->arch, m->dtype, true),
                                    &g->buffers));
    take(g, &m->arch, m->dtype, false);
    CA_TRY(set_rest(g));
    CA_TRY(ca_calloc(pairs, sizeof *g->clean_metric, &g->clean_metric));
    CA_TRY(ca_calloc(pairs, sizeof *g->ablated_metric, &g->ablated_metric));
    CA_TRY(ca_calloc(pairs, sizeof *g->predicted, &g->predicted));
    CA_TRY(ca_calloc((size_t)g->sizes.rows + 1, sizeof *g->id_host, &g->id_host));
    CA_TRY(ca_calloc((size_t)g->sizes.points * sizeof(double), 1, &g->staging));
out:
    if (st != CA_OK) ca_eap_gradients_free(g);
    return st;
}

void ca_eap_gradients_free(eap_gradients *g) {
    ca_pass_free(g->prefix_pass);
    ca_pass_free(g->end_pass);
    ca_pass_free(g->point_pass);
    ca_batch_free(g->prefix_batch);
    ca_batch_free(g->end_batch);
    ca_batch_free(g->point_batch);
    ca_method_buffers_free(&g->buffers);
    free(g->clean_metric);
    free(g->ablated_metric);
    free(g->predicted);
    free(g->id_host);
    free(g->staging);
    *g = (eap_gradients){0};
}

/* ---- the two ends ---- */

static const ca_pass *prefix_of(const eap_gradients *g) {
    return g->group->prefix_rows ? g->prefix_pass : NULL;
}

static ca_status run_prefixes(eap_gradients *g) {
    ca_status st = CA_OK;
    if (!prefix_of(g)) return CA_OK;
    ca_batch_clear(g->prefix_batch);
    ca_eap_group_add_prefixes(g->group, g->prefix_batch);
    CA_TRY(ca_batch_upload(g->prefix_batch));
    ca_forward request = ca_forward_all(g->model, g->prefix_batch);
    request.head = CA_HEAD_NONE;
    CA_TRY(ca_pass_forward(g->prefix_pass, &request));
out:
    return st;
}

/* Token embeddings of the tails, without a run. */
static ca_status embed_tails(eap_gradients *g, bool corrupted, ca_tensor embed) {
    ca_status st = CA_OK;
    const ca_model *m = g->model;
    const eap_group *group = g->group;
    int64_t rows = 0;
    for (int64_t n = 0; n < group->count; n++) {
        const ca_example *e = &group->data->examples[group->first + n];
        const ca_prompt_text *prompt = corrupted ? &e->corrupted : &e->clean;
        for (int64_t t = group->tail[n]; t < prompt->count; t++)
            g->id_host[rows++] = prompt->ids[t];
    }
    ca_tensor ids = ca_tensor_slice(g->ids, 0, 0, rows);
    CA_TRY(ca_upload(m->backend, ids, g->id_host));
    CA_TRY(ca_gather(m->backend, embed, m->embed, ids, m->arch.embed_scale, false));
out:
    return st;
}

/* The first point with this alpha of a path of embeddings, which is a run of its own; -1: none. */
static int64_t point_at(eap_site site, const eap_point *point, int64_t points, double alpha) {
    for (int64_t k = 0; k < points; k++)
        if (site.kind == CA_SITE_EMBED && point[k].alpha == alpha) return k;
    return -1;
}

static ca_status score_end(eap_gradients *g, bool clean, ca_tensor logits, method_scorer *scorer) {
    ca_status st = CA_OK;
    double *metric = clean ? g->clean_metric : g->ablated_metric;
    for (int64_t n = 0; n < g->group->count; n++) {
        const ca_example *e = &g->group->data->examples[g->group->first + n];
        ca_tensor row = ca_tensor_slice(logits, 0, n, 1);
        if (clean) CA_TRY(ca_method_scorer_clean(scorer, n, row, &g->predicted[n]));
        CA_TRY(ca_method_score(scorer, e, n, row, &metric[n]));
    }
out:
    return st;
}

static ca_status run_ends(eap_gradients *g, bool clean, bool ablated, method_scorer *scorer) {
    ca_status st = CA_OK;
    int64_t rows = g->group->rows, pairs = g->group->count, count = 0;
    ca_hook hooks[2 * EAP_TAP_HOOKS];
    eap_tap clean_tap = {.from = 0, .to = g->clean},
            ablated_tap = {.from = clean ? rows : 0, .to = g->ablated};
    if (!clean && !ablated) return CA_OK;
    ca_batch_clear(g->end_batch);
    if (clean) {
        ca_eap_group_add_run(g->group, g->end_batch, false);
        ca_eap_tap_hooks(&clean_tap, &g->model->arch, hooks);
        count = EAP_TAP_HOOKS;
    }
    if (ablated) {
        ca_eap_group_add_run(g->group, g->end_batch, true);
        ca_eap_tap_hooks(&ablated_tap, &g->model->arch, hooks + count);
        count += EAP_TAP_HOOKS;
    }
    CA_TRY(ca_batch_upload(g->end_batch));
    ca_forward request = ca_forward_all(g->model, g->end_batch);
    request.prefix = prefix_of(g);
    request.hooks = hooks;
    request.hook_count = count;
    CA_TRY(ca_pass_forward(g->end_pass, &request));
    ca_tensor logits = ca_pass_logits(g->end_pass);
    if (clean) CA_TRY(score_end(g, true, ca_tensor_slice(logits, 0, 0, pairs), scorer));
    if (ablated)
        CA_TRY(score_end(g, false, ca_tensor_slice(logits, 0, clean ? pairs : 0, pairs), scorer));
out:
    return st;
}

ca_status ca_eap_gradients_begin(eap_gradients *g, const eap_group *group, eap_site site,
                                 const eap_point *point, int64_t points, method_scorer *scorer) {
    ca_status st = CA_OK;
    const ca_arch *a = &g->model->arch;
    int64_t rows = group->rows;
    g->group = group;
    g->differs = false;
    g->clean = ca_eap_outputs_rows(&g->all_clean, rows);
    g->ablated = ca_eap_outputs_rows(&g->all_ablated, rows);
    g->difference = ca_eap_outputs_rows(&g->all_difference, rows);
    if (g->wants & EAP_WANTS_EDGES) {
        ca_tensor h = g->all_heads, b = g->all_branch;
        g->heads = ca_tensor_4d(h.data, h.dtype, a->layers, head_columns(a), rows, a->head_dim);
        g->branch = ca_tensor_3d(b.data, b.dtype, b.shape[0], rows, b.shape[2]);
    }
    for (int64_t n = 0; n < group->count; n++) g->clean_metric[n] = g->ablated_metric[n] = NAN;
    CA_TRY(run_prefixes(g));
    CA_TRY(embed_tails(g, false, g->clean.embed));
    if (g->patching) CA_TRY(embed_tails(g, true, g->ablated.embed));
    CA_TRY(run_ends(g, point_at(site, point, points, 1) < 0,
                    g->patching && point_at(site, point, points, 0) < 0, scorer));
out:
    return st;
}

/* ---- points ---- */

/* Sets the value of the path's site in the rows of every point. */
static ca_status put_point(void *context, const ca_hook_call *call, ca_tensor value) {
    ca_status st = CA_OK;
    const eap_gradients *g = context;
    int64_t rows = g->group->rows;
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
    int64_t count = 0, rows = g->group->rows;
    int64_t clean = g->differs ? -1 : point_at(g->site, g->point, g->points, 1);
    int64_t ablated = g->differs || !g->patching ? -1 : point_at(g->site, g->point, g->points, 0);
    hooks[count++] = (ca_hook){.site = g->site.kind,
                               .first_layer = g->site.layer,
                               .last_layer = g->site.layer,
                               .edits = true,
                               .forward = put_point,
                               .backward = cut_gradient,
                               .context = g};
    if (clean >= 0) {
        g->clean_tap = (eap_tap){.from = clean * rows, .to = g->clean};
        ca_eap_tap_hooks(&g->clean_tap, &g->model->arch, hooks + count);
        count += EAP_TAP_HOOKS;
    }
    if (ablated >= 0) {
        g->ablated_tap = (eap_tap){.from = ablated * rows, .to = g->ablated};
        ca_eap_tap_hooks(&g->ablated_tap, &g->model->arch, hooks + count);
        count += EAP_TAP_HOOKS;
    }
    return count + ca_eap_pull_hooks(g, hooks + count);
}

static ca_status subtract(ca_backend *be, ca_tensor y, ca_tensor a, ca_tensor b) {
    ca_status st = CA_OK;
    CA_TRY(ca_copy(be, y, a));
    CA_TRY(ca_add(be, y, b, -1));
out:
    return st;
}

/* Metrics of the ends that this pass ran, and the difference of their outputs. */
static ca_status finish_ends(eap_gradients *g, method_scorer *scorer) {
    ca_status st = CA_OK;
    ca_backend *be = g->model->backend;
    int64_t pairs = g->group->count;
    ca_tensor logits = ca_pass_logits(g->point_pass);
    if (g->differs) return CA_OK;
    int64_t clean = point_at(g->site, g->point, g->points, 1);
    int64_t ablated = g->patching ? point_at(g->site, g->point, g->points, 0) : -1;
    if (clean >= 0)
        CA_TRY(score_end(g, true, ca_tensor_slice(logits, 0, clean * pairs, pairs), scorer));
    if (ablated >= 0)
        CA_TRY(score_end(g, false, ca_tensor_slice(logits, 0, ablated * pairs, pairs), scorer));
    CA_TRY(subtract(be, g->difference.embed, g->ablated.embed, g->clean.embed));
    CA_TRY(subtract(be, g->difference.z, g->ablated.z, g->clean.z));
    CA_TRY(subtract(be, g->difference.mlp, g->ablated.mlp, g->clean.mlp));
    g->differs = true;
out:
    return st;
}

static ca_status forward_points(eap_gradients *g, ca_hook *hooks) {
    ca_status st = CA_OK;
    ca_backend *be = g->model->backend;
    double alpha[EAP_MOST_POINTS];
    ca_batch_clear(g->point_batch);
    for (int64_t k = 0; k < g->points; k++) {
        ca_eap_group_add_run(g->group, g->point_batch, false);
        alpha[k] = g->point[k].alpha;
    }
    CA_TRY(ca_batch_upload(g->point_batch));
    CA_TRY(ca_upload_f64(be, ca_tensor_slice(g->alphas, 0, 0, g->points), g->staging, alpha));
    ca_forward request = ca_forward_all(g->model, g->point_batch);
    request.prefix = prefix_of(g);
    request.hook_count = point_hooks(g, hooks);
    request.hooks = hooks;
    CA_TRY(ca_pass_forward(g->point_pass, &request));
out:
    return st;
}

ca_status ca_eap_gradients_run(eap_gradients *g, eap_site site, const eap_point *point,
                               int64_t points, double factor, method_scorer *scorer) {
    ca_status st = CA_OK;
    int64_t pairs = g->group->count;
    ca_hook hooks[1 + 2 * EAP_TAP_HOOKS + EAP_PULL_HOOKS];
    ca_tensor gradient, d = g->d_logits;
    assert(points <= g->sizes.points && points <= EAP_MOST_POINTS);
    g->site = site;
    g->point = point;
    g->points = points;
    CA_TRY(forward_points(g, hooks));
    CA_TRY(finish_ends(g, scorer));
    ca_tensor logits = ca_pass_logits(g->point_pass);
    d = ca_tensor_3d(d.data, d.dtype, 1, points * pairs, d.shape[2]);
    for (int64_t r = 0; r < points * pairs; r++) {
        const ca_example *e = &g->group->data->examples[g->group->first + r % pairs];
        double value;
        CA_TRY(ca_method_score_gradient(scorer, e, r % pairs, ca_tensor_slice(logits, 0, r, 1),
                                        factor, &value,
                                        ca_tensor_slice(ca_tensor_at(d, 0, 0), 0, r, 1)));
    }
    CA_TRY(ca_eap_pull_begin(g));
    ca_backward request = {.lanes = 1, .d_logits = d};
    CA_TRY(ca_pass_backward(g->point_pass, &request, &gradient));
out:
    return st;
}
