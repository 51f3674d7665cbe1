/* SPDX-License-Identifier: MIT
 *
 * See pairs.h.
 */
#include "pairs.h"

#include "causa/ops.h"

#include <assert.h>
#include <stdlib.h>

/* ---- groups ---- */

ca_status ca_eap_group_create(int64_t most, eap_group *out) {
    ca_status st = CA_OK;
    size_t n = (size_t)most;
    *out = (eap_group){.most = most};
    CA_TRY(ca_calloc(n, sizeof *out->tail, &out->tail));
    CA_TRY(ca_calloc(n + 1, sizeof *out->row, &out->row));
    CA_TRY(ca_calloc(n, sizeof *out->prefix_start, &out->prefix_start));
    CA_TRY(ca_calloc(n + 1, sizeof *out->read, &out->read));
out:
    if (st != CA_OK) ca_eap_group_free(out);
    return st;
}

void ca_eap_group_free(eap_group *group) {
    free(group->tail);
    free(group->row);
    free(group->prefix_start);
    free(group->read);
    *group = (eap_group){0};
}

void ca_eap_group_set(eap_group *g, const ca_dataset *data, int64_t first, int64_t last,
                      bool whole) {
    assert(last - first <= g->most);
    g->data = data;
    g->first = first;
    g->count = last - first;
    g->rows = g->prefix_rows = 0;
    for (int64_t n = 0; n < g->count; n++) {
        const ca_example *e = &data->examples[first + n];
        g->tail[n] = ca_eap_prefix_rows(e, whole);
        g->row[n] = g->rows;
        g->prefix_start[n] = g->prefix_rows;
        g->rows += e->clean.count - g->tail[n];
        g->prefix_rows += g->tail[n];
        g->read[n + 1] = g->read[n] + ca_example_reads(e);
    }
    g->row[g->count] = g->rows;
}

void ca_eap_group_part(const eap_group *group, int64_t first, int64_t count, eap_group *part) {
    assert(first + count <= group->count && count <= part->most);
    part->data = group->data;
    part->first = group->first + first;
    part->count = count;
    part->rows = group->row[first + count] - group->row[first];
    part->prefix_rows = group->prefix_rows;
    for (int64_t n = 0; n <= count; n++) {
        part->row[n] = group->row[first + n] - group->row[first];
        part->read[n] = group->read[first + n] - group->read[first];
        if (n == count) break;
        part->tail[n] = group->tail[first + n];
        part->prefix_start[n] = group->prefix_start[first + n];
    }
}

void ca_eap_group_set_examples(eap_group *g, const ca_metric *metric, int64_t first, int64_t last,
                               bool whole) {
    int64_t parts = ca_metric_parts(metric->kind);
    ca_eap_group_set(g, metric->sequences, parts * first, parts * last, whole);
}

ca_tensor ca_eap_group_logits(const eap_group *g, ca_tensor logits, int64_t k, int64_t n) {
    return ca_tensor_slice(logits, 0, k * g->read[g->count] + g->read[n],
                           g->read[n + 1] - g->read[n]);
}

int64_t ca_eap_prefix_rows(const ca_example *e, bool whole) {
    return whole ? 0 : e->first_difference;
}

int64_t ca_eap_tail_rows(const ca_example *e, bool whole) {
    return e->clean.count - ca_eap_prefix_rows(e, whole);
}

/* Sizes of the largest group of a packing. */
static eap_group_sizes measure(const ca_metric *metric, bool whole, const ca_packing *p) {
    int64_t parts = ca_metric_parts(metric->kind);
    eap_group_sizes sizes = {.pairs = parts * p->max_sequences};
    for (int64_t b = 0; b < p->batches; b++) {
        int64_t rows = 0, prefix = 0, reads = 0;
        for (int64_t i = parts * p->first[b]; i < parts * p->first[b + 1]; i++) {
            const ca_example *e = &metric->sequences->examples[i];
            rows += ca_eap_tail_rows(e, whole);
            prefix += ca_eap_prefix_rows(e, whole);
            reads += ca_example_reads(e);
        }
        if (reads > sizes.reads) sizes.reads = reads;
        if (rows > sizes.rows) sizes.rows = rows;
        if (prefix > sizes.prefix_rows) sizes.prefix_rows = prefix;
    }
    return sizes;
}

ca_status ca_eap_groups_cut(const ca_job *job, const ca_metric *metric, bool whole, int64_t runs,
                            int64_t least, int64_t rows, ca_packing *packing,
                            eap_group_sizes *sizes) {
    ca_status st = CA_OK;
    int64_t *lengths = NULL, count = job->data->count, parts = ca_metric_parts(metric->kind);
    const ca_pass_limits limits = {0};
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *lengths, &lengths));
    for (int64_t i = 0; i < parts * count; i++) {
        const ca_example *e = &metric->sequences->examples[i];
        int64_t tail = ca_eap_tail_rows(e, whole), reads = ca_example_reads(e) * least;
        lengths[i / parts] += runs * (tail > reads ? tail : reads);
    }
    ca_packing_free(packing);
    CA_TRY(ca_plan_packing(job->arch, job->dtype, &limits, lengths, NULL, count, 1, rows, INT64_MAX,
                           packing));
    *sizes = measure(metric, whole, packing);
out:
    free(lengths);
    return st;
}

void ca_eap_group_add_prefixes(const eap_group *g, ca_batch *batch) {
    for (int64_t n = 0; n < g->count; n++)
        if (g->tail[n])
            ca_batch_add(batch, g->data->examples[g->first + n].clean.ids, g->tail[n], 0, 0);
}

void ca_eap_group_add_run(const eap_group *g, ca_batch *batch, bool corrupted) {
    for (int64_t n = 0; n < g->count; n++) {
        const ca_example *e = &g->data->examples[g->first + n];
        const ca_prompt_text *prompt = corrupted ? &e->corrupted : &e->clean;
        int64_t rows = prompt->count - g->tail[n];
        ca_batch_add(batch, prompt->ids + g->tail[n], rows, g->prefix_start[n], g->tail[n]);
        for (int64_t r = ca_example_reads(e); r > 0; r--) ca_batch_read(batch, rows - r);
    }
}

/* ---- outputs ---- */

int64_t ca_eap_outputs_count(const ca_arch *a, int64_t rows) {
    return rows * (a->width + a->layers * (a->heads * a->head_dim + a->width));
}

eap_outputs ca_eap_outputs_take(method_buffers *buffers, const ca_arch *a, ca_dtype dtype,
                                int64_t rows) {
    int64_t z = a->heads * a->head_dim;
    return (eap_outputs){
        .embed = ca_method_buffers_take(buffers, dtype, 2, (int64_t[]){rows, a->width}),
        .z = ca_method_buffers_take(buffers, dtype, 3, (int64_t[]){a->layers, rows, z}),
        .mlp = ca_method_buffers_take(buffers, dtype, 3, (int64_t[]){a->layers, rows, a->width}),
    };
}

ca_tensor ca_eap_with_rows(ca_tensor t, int64_t rows) {
    return t.data ? ca_tensor_3d(t.data, t.dtype, t.shape[0], rows, t.shape[2]) : t;
}

eap_outputs ca_eap_outputs_rows(const eap_outputs *o, int64_t rows) {
    assert(rows <= o->embed.shape[0]);
    return (eap_outputs){
        .embed = ca_tensor_slice(o->embed, 0, 0, rows),
        .z = ca_eap_with_rows(o->z, rows),
        .mlp = ca_eap_with_rows(o->mlp, rows),
        .hidden = ca_eap_with_rows(o->hidden, rows),
    };
}

static ca_tensor part_of(ca_tensor t, int64_t first, int64_t rows) {
    return t.data ? ca_tensor_slice(t, 1, first, rows) : t;
}

eap_outputs ca_eap_outputs_part(const eap_outputs *o, int64_t first, int64_t rows) {
    return (eap_outputs){
        .embed = ca_tensor_slice(o->embed, 0, first, rows),
        .z = part_of(o->z, first, rows),
        .mlp = part_of(o->mlp, first, rows),
        .hidden = part_of(o->hidden, first, rows),
    };
}

ca_tensor ca_eap_outputs_at(const eap_outputs *o, ca_site_kind kind, int64_t layer) {
    if (kind == CA_SITE_EMBED) return o->embed;
    if (kind == CA_SITE_MLP_POST) return ca_tensor_at(o->hidden, 0, layer);
    return ca_tensor_at(kind == CA_SITE_Z ? o->z : o->mlp, 0, layer);
}

static ca_status take_outputs(void *context, const ca_hook_call *call, ca_tensor value) {
    const eap_tap *tap = context;
    if (call->recompute) return CA_OK;
    ca_tensor to = ca_eap_outputs_at(&tap->to, call->site, call->layer);
    if (value.rank == 3) to = ca_tensor_split_last(to, value.shape[1]);
    value = ca_tensor_slice(value, 0, tap->from, to.shape[0]);
    return tap->add ? ca_add(call->backend, to, value, tap->add)
                    : ca_copy(call->backend, to, value);
}

int64_t ca_eap_tap_hooks(eap_tap *tap, const ca_arch *arch, ca_hook hooks[EAP_TAP_HOOKS]) {
    static const ca_site_kind sites[EAP_TAP_HOOKS] = {CA_SITE_EMBED, CA_SITE_Z, CA_SITE_MLP_OUT,
                                                      CA_SITE_MLP_POST};
    int64_t first = tap->add ? 1 : 0,
            last = tap->to.hidden.data ? EAP_TAP_HOOKS : EAP_TAP_HOOKS - 1;
    for (int64_t i = first; i < last; i++)
        hooks[i - first] = (ca_hook){.site = sites[i],
                                     .last_layer = arch->layers - 1,
                                     .forward = take_outputs,
                                     .context = tap};
    return last - first;
}
