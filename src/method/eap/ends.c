/* SPDX-License-Identifier: MIT
 *
 * See ends.h.
 */
#include "ends.h"

#include "causa/ops.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static bool is_patching(const eap_ends *e) { return e->ablation == NULL; }

/* ---- memory ---- */

static ca_pass_limits prefix_limits(eap_group_sizes sizes) {
    return (ca_pass_limits){.rows = sizes.prefix_rows, .key_values = true};
}

static ca_pass_limits end_limits(const eap_ends *e) {
    const uint32_t taps =
        CA_SITE_BIT(CA_SITE_EMBED) | CA_SITE_BIT(CA_SITE_Z) | CA_SITE_BIT(CA_SITE_MLP_OUT);
    const uint32_t stream = CA_SITE_BIT(CA_SITE_RESID_PRE) | CA_SITE_BIT(CA_SITE_MLP_IN) |
                            CA_SITE_BIT(CA_SITE_RESID_POST);
    return (ca_pass_limits){
        .rows = e->runs * e->sizes.rows,
        .reads = e->runs * e->sizes.reads,
        .logits = true,
        .sites = taps | (e->keep_stream ? stream : 0) |
                 (e->keep_hidden ? CA_SITE_BIT(CA_SITE_MLP_POST) : 0),
        .edited = taps,
    };
}

/* Takes all tensors, or measures them. */
static int64_t take(eap_ends *e, const ca_arch *a, ca_dtype type, bool measure) {
    int64_t rows = e->sizes.rows, z = a->heads * a->head_dim;
    int64_t hidden = e->keep_hidden ? a->layers : 0;
    int64_t streams = e->keep_stream ? a->layers + 1 : 0, mlps = e->keep_stream ? a->layers : 0;
    int64_t layers = e->difference_only ? 0 : a->layers, units = e->difference_only ? 0 : hidden;
    const method_tensor list[] = {
        {&e->ids, CA_I32, 1, {rows}},
        {&e->all_clean.embed, type, 2, {rows, a->width}},
        {&e->all_clean.z, type, 3, {layers, rows, z}},
        {&e->all_clean.mlp, type, 3, {layers, rows, a->width}},
        {&e->all_clean.hidden, type, 3, {units, rows, a->mlp_width}},
        {&e->all_ablated.embed, type, 2, {rows, a->width}},
        {&e->all_ablated.z, type, 3, {layers, rows, z}},
        {&e->all_ablated.mlp, type, 3, {layers, rows, a->width}},
        {&e->all_ablated.hidden, type, 3, {units, rows, a->mlp_width}},
        {&e->all_difference.embed, type, 2, {rows, a->width}},
        {&e->all_difference.z, type, 3, {a->layers, rows, z}},
        {&e->all_difference.mlp, type, 3, {a->layers, rows, a->width}},
        {&e->all_difference.hidden, type, 3, {hidden, rows, a->mlp_width}},
        {&e->all_stream, type, 3, {streams, rows, a->width}},
        {&e->all_mlp_in, type, 3, {mlps, rows, a->width}},
    };
    return ca_method_take_list(measure ? NULL : &e->buffers, list, sizeof list / sizeof *list);
}

int64_t ca_eap_ends_bytes(const ca_arch *arch, ca_dtype dtype, const eap_ends *settings) {
    eap_ends e = *settings;
    ca_pass_limits prefix = prefix_limits(e.sizes), ends = end_limits(&e);
    int64_t bytes = take(&e, arch, dtype, true);
    bytes += ca_pass_bytes(arch, dtype, &ends) +
             ca_batch_bytes(e.runs * e.sizes.pairs, ends.rows, ends.reads);
    if (e.sizes.prefix_rows)
        bytes += ca_pass_bytes(arch, dtype, &prefix) +
                 ca_batch_bytes(e.sizes.pairs, e.sizes.prefix_rows, 0);
    return bytes;
}

static ca_status create_passes(eap_ends *e) {
    ca_status st = CA_OK;
    ca_backend *be = e->model->backend;
    ca_pass_limits prefix = prefix_limits(e->sizes);
    ca_pass_limits ends = end_limits(e);
    CA_TRY(ca_batch_create(be, e->runs * e->sizes.pairs, ends.rows, ends.reads, &e->batch));
    CA_TRY(ca_pass_create(e->model, &ends, &e->pass));
    if (e->sizes.prefix_rows == 0) goto out;
    CA_TRY(ca_batch_create(be, e->sizes.pairs, prefix.rows, 0, &e->prefix_batch));
    CA_TRY(ca_pass_create(e->model, &prefix, &e->prefix_pass));
out:
    return st;
}

ca_status ca_eap_ends_create(eap_ends *e) {
    ca_status st = CA_OK;
    const ca_model *m = e->model;
    size_t pairs = (size_t)e->sizes.pairs;
    CA_TRY(create_passes(e));
    CA_TRY(ca_method_buffers_create(m->backend, (size_t)take(e, &m->arch, m->dtype, true),
                                    &e->buffers));
    take(e, &m->arch, m->dtype, false);
    if (!e->keep_hidden) e->all_difference.hidden = (ca_tensor){0};
    if (!e->keep_hidden || e->difference_only)
        e->all_clean.hidden = e->all_ablated.hidden = (ca_tensor){0};
    if (e->difference_only)
        e->all_clean.z = e->all_clean.mlp = e->all_ablated.z = e->all_ablated.mlp = (ca_tensor){0};
    CA_TRY(ca_calloc(pairs, sizeof *e->clean_metric, &e->clean_metric));
    CA_TRY(ca_calloc(pairs, sizeof *e->ablated_metric, &e->ablated_metric));
    CA_TRY(ca_calloc(pairs, sizeof *e->predicted, &e->predicted));
    CA_TRY(ca_calloc((size_t)e->sizes.rows + 1, sizeof *e->id_host, &e->id_host));
out:
    if (st != CA_OK) ca_eap_ends_free(e);
    return st;
}

void ca_eap_ends_free(eap_ends *e) {
    ca_pass_free(e->prefix_pass);
    ca_pass_free(e->pass);
    ca_batch_free(e->prefix_batch);
    ca_batch_free(e->batch);
    ca_method_buffers_free(&e->buffers);
    free(e->clean_metric);
    free(e->ablated_metric);
    free(e->predicted);
    free(e->id_host);
    *e = (eap_ends){0};
}

/* ---- a group ---- */

const ca_pass *ca_eap_ends_prefix(const eap_ends *e) {
    return e->group->prefix_rows ? e->prefix_pass : NULL;
}

static ca_status run_prefixes(eap_ends *e) {
    ca_status st = CA_OK;
    if (!ca_eap_ends_prefix(e)) return CA_OK;
    ca_batch_clear(e->prefix_batch);
    ca_eap_group_add_prefixes(e->group, e->prefix_batch);
    CA_TRY(ca_batch_upload(e->prefix_batch));
    ca_forward request = ca_forward_all(e->model, e->prefix_batch);
    request.head = CA_HEAD_NONE;
    CA_TRY(ca_pass_forward(e->prefix_pass, &request));
out:
    return st;
}

/* Token embeddings of the tails, without a run. */
static ca_status embed_tails(eap_ends *e, bool corrupted, ca_tensor embed) {
    ca_status st = CA_OK;
    const ca_model *m = e->model;
    const eap_group *group = e->group;
    int64_t rows = 0;
    for (int64_t n = 0; n < group->count; n++) {
        const ca_example *example = &group->data->examples[group->first + n];
        const ca_prompt_text *prompt = corrupted ? &example->corrupted : &example->clean;
        for (int64_t t = group->tail[n]; t < prompt->count; t++)
            e->id_host[rows++] = prompt->ids[t];
    }
    ca_tensor ids = ca_tensor_slice(e->ids, 0, 0, rows);
    CA_TRY(ca_upload(m->backend, ids, e->id_host));
    CA_TRY(ca_gather(m->backend, embed, m->embed, ids, m->arch.embed_scale, false));
out:
    return st;
}

static ca_status subtract(ca_backend *be, ca_tensor y, ca_tensor a, ca_tensor b) {
    ca_status st = CA_OK;
    CA_TRY(ca_copy(be, y, a));
    CA_TRY(ca_add(be, y, b, -1));
out:
    return st;
}

/* Both ends are added to it as they run. */
static ca_status begin_difference(eap_ends *e) {
    ca_status st = CA_OK;
    ca_backend *be = e->model->backend;
    CA_TRY(subtract(be, e->difference.embed, e->ablated.embed, e->clean.embed));
    CA_TRY(ca_fill(be, e->difference.z, 0));
    CA_TRY(ca_fill(be, e->difference.mlp, 0));
    if (e->keep_hidden) CA_TRY(ca_fill(be, e->difference.hidden, 0));
out:
    return st;
}

ca_status ca_eap_ends_begin(eap_ends *e, const eap_group *group) {
    ca_status st = CA_OK;
    e->group = group;
    e->clean = ca_eap_outputs_rows(&e->all_clean, group->rows);
    e->ablated = ca_eap_outputs_rows(&e->all_ablated, group->rows);
    e->difference = ca_eap_outputs_rows(&e->all_difference, group->rows);
    e->stream = ca_eap_with_rows(e->all_stream, group->rows);
    e->mlp_in = ca_eap_with_rows(e->all_mlp_in, group->rows);
    for (int64_t n = 0; n < group->count; n++) e->clean_metric[n] = e->ablated_metric[n] = NAN;
    CA_TRY(run_prefixes(e));
    CA_TRY(embed_tails(e, false, e->clean.embed));
    if (e->clean_only) goto out;
    if (is_patching(e))
        CA_TRY(embed_tails(e, true, e->ablated.embed));
    else
        CA_TRY(ca_eap_ablation_fill(e->ablation, e->model->backend, group, &e->ablated));
    if (e->difference_only) CA_TRY(begin_difference(e));
out:
    return st;
}

/* ---- hooks ---- */

/* Every source puts out its ablated value. */
static ca_status put_ablated(void *context, const ca_hook_call *call, ca_tensor value) {
    const eap_tap *tap = context;
    ca_tensor from = ca_eap_outputs_at(&tap->to, call->site, call->layer);
    if (value.rank == 3) from = ca_tensor_split_last(from, value.shape[1]);
    return ca_copy(call->backend, ca_tensor_slice(value, 0, tap->from, from.shape[0]), from);
}

eap_tap ca_eap_ends_tap(const eap_ends *e, bool clean, int64_t from, int64_t first, int64_t rows) {
    const eap_outputs *to = e->difference_only ? &e->difference : clean ? &e->clean : &e->ablated;
    return (eap_tap){.from = from,
                     .to = ca_eap_outputs_part(to, first, rows),
                     .add = e->difference_only ? (clean ? -1 : 1) : 0};
}

/* The hooks of one end: taps, or for the ablated end without a corrupted run, edits. Nothing reads
 * the hidden units below MLPs' outputs that are replaced. */
static int64_t end_hooks(const eap_ends *e, eap_tap *tap, bool put, ca_hook *hooks) {
    if (put) tap->to.hidden = (ca_tensor){0};
    int64_t count = ca_eap_tap_hooks(tap, &e->model->arch, hooks);
    for (int64_t i = 0; put && i < count; i++) {
        hooks[i].edits = true;
        hooks[i].forward = put_ablated;
    }
    return count;
}

static ca_status keep_stream(void *context, const ca_hook_call *call, ca_tensor value) {
    const eap_ends *e = context;
    int64_t at = call->layer + (call->site == CA_SITE_RESID_POST);
    ca_tensor to = ca_tensor_at(call->site == CA_SITE_MLP_IN ? e->mlp_in : e->stream, 0, at);
    return ca_copy(call->backend, to, ca_tensor_slice(value, 0, 0, to.shape[0]));
}

/* Clean rows come first. */
static int64_t stream_hooks(eap_ends *e, ca_hook *hooks) {
    static const ca_site_kind sites[] = {CA_SITE_RESID_PRE, CA_SITE_MLP_IN, CA_SITE_RESID_POST};
    int64_t last = e->model->arch.layers - 1;
    if (!e->keep_stream) return 0;
    for (int i = 0; i < EAP_STREAM_HOOKS; i++)
        hooks[i] = (ca_hook){.site = sites[i],
                             .first_layer = sites[i] == CA_SITE_RESID_POST ? last : 0,
                             .last_layer = last,
                             .forward = keep_stream,
                             .context = e};
    return EAP_STREAM_HOOKS;
}

/* ---- runs ---- */

ca_status ca_eap_ends_score(eap_ends *e, bool clean, const eap_group *part, int64_t first,
                            ca_tensor logits, int64_t k, method_scorer *scorer) {
    ca_status st = CA_OK;
    double *metric = clean ? e->clean_metric : e->ablated_metric;
    for (int64_t n = 0; n < part->count; n++) {
        const ca_example *example = &part->data->examples[part->first + n];
        ca_tensor rows = ca_eap_group_logits(part, logits, k, n);
        if (clean)
            CA_TRY(ca_method_scorer_clean(scorer, first + n, rows, &e->predicted[first + n]));
        CA_TRY(ca_method_score(scorer, example, first + n, rows, &metric[first + n]));
    }
out:
    return st;
}

ca_status ca_eap_ends_run(eap_ends *e, bool clean, bool ablated, method_scorer *scorer) {
    ca_status st = CA_OK;
    int64_t rows = e->group->rows, count = 0;
    ca_hook hooks[2 * EAP_TAP_HOOKS + EAP_STREAM_HOOKS];
    eap_tap clean_tap = ca_eap_ends_tap(e, true, 0, 0, rows);
    eap_tap ablated_tap = ca_eap_ends_tap(e, false, clean ? rows : 0, 0, rows);
    if (!clean && !ablated) return CA_OK;
    assert(clean + ablated <= e->runs && !(ablated && e->clean_only));
    ca_batch_clear(e->batch);
    if (clean) {
        ca_eap_group_add_run(e->group, e->batch, false);
        count += end_hooks(e, &clean_tap, false, hooks);
        count += stream_hooks(e, hooks + count);
    }
    if (ablated) {
        ca_eap_group_add_run(e->group, e->batch, is_patching(e));
        count += end_hooks(e, &ablated_tap, !is_patching(e), hooks + count);
    }
    CA_TRY(ca_batch_upload(e->batch));
    ca_forward request = ca_forward_all(e->model, e->batch);
    request.prefix = ca_eap_ends_prefix(e);
    request.hooks = hooks;
    request.hook_count = count;
    CA_TRY(ca_pass_forward(e->pass, &request));
    ca_tensor logits = ca_pass_logits(e->pass);
    if (!scorer) goto out;
    if (clean) CA_TRY(ca_eap_ends_score(e, true, e->group, 0, logits, 0, scorer));
    if (ablated) CA_TRY(ca_eap_ends_score(e, false, e->group, 0, logits, clean ? 1 : 0, scorer));
out:
    return st;
}

ca_status ca_eap_ends_subtract(eap_ends *e, int64_t first, int64_t rows) {
    ca_status st = CA_OK;
    ca_backend *be = e->model->backend;
    if (e->difference_only) return CA_OK; /* it is made as they run */
    eap_outputs difference = ca_eap_outputs_part(&e->difference, first, rows);
    eap_outputs ablated = ca_eap_outputs_part(&e->ablated, first, rows);
    eap_outputs clean = ca_eap_outputs_part(&e->clean, first, rows);
    CA_TRY(subtract(be, difference.embed, ablated.embed, clean.embed));
    CA_TRY(subtract(be, difference.z, ablated.z, clean.z));
    CA_TRY(subtract(be, difference.mlp, ablated.mlp, clean.mlp));
    if (e->keep_hidden) CA_TRY(subtract(be, difference.hidden, ablated.hidden, clean.hidden));
out:
    return st;
}
