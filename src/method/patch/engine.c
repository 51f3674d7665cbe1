/* SPDX-License-Identifier: MIT
 *
 * See engine.h. What the first pass keeps is a list of taps: the residual stream at every layer at
 * which cells start, and the values of every place. Prompts are told apart by their packed rows.
 */
#include "engine.h"
#include "common.h"

#include "causa/ops.h"

#include <assert.h>
#include <stdlib.h>

typedef struct patch_tap {
    ca_site_kind kind; /* as in patch_place */
    int64_t layer;
    int64_t heads, width;
    ca_tensor rows; /* [base rows, heads, width]; of patterns flat, see ca_sequences */
} patch_tap;

typedef struct tap_list {
    patch_tap *taps;
    int64_t count;
} tap_list;

struct patch_engine {
    const ca_model *model;
    patch_sizes sizes;
    tap_list kept;
    ca_hook *hooks; /* the hook at the embeddings, then one for each tap */
    ca_batch *base_batch, *cell_batch;
    ca_pass *base_pass, *cell_pass;
    method_buffers buffers;
    ca_tensor start; /* [cell rows, D] residual stream from which cells go on */
    ca_tensor index; /* [cell rows] i64: rows of the first pass that it is gathered from */
    int64_t *index_host;
    const patch_cell *cells; /* of the running pass */
    ca_tensor normed;        /* [cell reads, D] of cells that wait for the head */
    ca_tensor logits;        /* [cell reads, V] */
    int64_t waiting;         /* rows of them */
};

static bool is_stream(const patch_place *place) { return place->kind == CA_SITE_RESID_PRE; }
static bool is_final(const patch_place *place) { return place->kind == CA_SITE_FINAL_NORM; }

/* ---- sizes ---- */

static patch_tap *find_tap(const tap_list *list, ca_site_kind kind, int64_t layer) {
    for (int64_t i = 0; i < list->count; i++)
        if (list->taps[i].kind == kind && list->taps[i].layer == layer) return &list->taps[i];
    return NULL;
}

static void add_tap(tap_list *list, const ca_arch *arch, ca_site_kind kind, int64_t layer) {
    if (find_tap(list, kind, layer)) return;
    list->taps[list->count++] = (patch_tap){
        .kind = kind,
        .layer = layer,
        .heads = ca_site_heads(arch, kind),
        .width = ca_site_width(arch, kind),
    };
}

static ca_status list_taps(const ca_arch *arch, const patch_place *places, int64_t count,
                           tap_list *out) {
    ca_status st = CA_OK;
    int64_t most = 0;
    for (int64_t i = 0; i < count; i++) most += 2 + places[i].last - places[i].first;
    CA_TRY(ca_calloc((size_t)most + 1, sizeof *out->taps, &out->taps));
    for (int64_t i = 0; i < count; i++) {
        if (is_final(&places[i])) continue; /* the first pass has it */
        add_tap(out, arch, CA_SITE_RESID_PRE, places[i].first);
        for (int64_t l = places[i].first; !is_stream(&places[i]) && l <= places[i].last; l++)
            add_tap(out, arch, places[i].kind, l);
    }
out:
    return st;
}

static int64_t tap_elements(const patch_tap *tap, patch_sizes sizes) {
    if (tap->kind == CA_SITE_PATTERN) return tap->heads * sizes.base_pattern;
    return sizes.base_rows * tap->heads * tap->width;
}

/* Of both passes. The stream that leaves the last block is read there as resid_post. */
static void set_limits(const patch_place *places, int64_t count, patch_sizes sizes,
                       ca_pass_limits *base, ca_pass_limits *cell) {
    *base = (ca_pass_limits){
        .rows = sizes.base_rows,
        .reads = sizes.base_reads,
        .pattern = sizes.base_pattern,
        .logits = true,
        .key_values = true,
        .sites = CA_SITE_BIT(CA_SITE_EMBED) | CA_SITE_BIT(CA_SITE_RESID_PRE) |
                 CA_SITE_BIT(CA_SITE_RESID_POST),
        .edited = CA_SITE_BIT(CA_SITE_EMBED),
    };
    *cell = (ca_pass_limits){
        .rows = sizes.cell_rows, .reads = sizes.cell_reads, .pattern = sizes.cell_pattern};
    for (int64_t i = 0; i < count; i++) {
        if (is_stream(&places[i]) || is_final(&places[i])) continue;
        base->sites |= CA_SITE_BIT(places[i].kind);
        cell->sites |= CA_SITE_BIT(places[i].kind);
        cell->edited |= CA_SITE_BIT(places[i].kind);
    }
}

static size_t buffer_bytes(const ca_arch *arch, ca_dtype dtype, const tap_list *list,
                           patch_sizes sizes) {
    size_t bytes = ca_method_buffer_bytes(sizes.cell_rows * arch->width, dtype) +
                   ca_method_buffer_bytes(sizes.cell_rows, CA_I64) +
                   ca_method_buffer_bytes(sizes.cell_reads * arch->width, dtype) +
                   ca_method_buffer_bytes(sizes.cell_reads * arch->vocab, dtype);
    for (int64_t i = 0; i < list->count; i++)
        bytes += ca_method_buffer_bytes(tap_elements(&list->taps[i], sizes), dtype);
    return bytes;
}

ca_status ca_patch_engine_bytes(const ca_arch *arch, ca_dtype dtype, const patch_place *places,
                                int64_t count, patch_sizes sizes, int64_t *bytes) {
    ca_status st = CA_OK;
    tap_list list = {0};
    ca_pass_limits base, cell;
    CA_TRY(list_taps(arch, places, count, &list));
    set_limits(places, count, sizes, &base, &cell);
    *bytes = ca_pass_bytes(arch, dtype, &base) + ca_pass_bytes(arch, dtype, &cell) +
             ca_batch_bytes(sizes.base_sequences, sizes.base_rows, sizes.base_reads) +
             ca_batch_bytes(sizes.cell_sequences, sizes.cell_rows, sizes.cell_reads) +
             (int64_t)buffer_bytes(arch, dtype, &list, sizes);
out:
    free(list.taps);
    return st;
}

/* ---- life ---- */

static ca_status keep(void *context, const ca_hook_call *call, ca_tensor value) {
    const patch_tap *tap = context;
    if (tap->kind == CA_SITE_PATTERN)
        return ca_copy(call->backend, ca_tensor_slice(tap->rows, 0, 0, value.shape[0]), value);
    ca_tensor rows = ca_tensor_slice(tap->rows, 0, 0, value.shape[0]);
    return ca_copy(call->backend, rows, value.rank == 2 ? ca_tensor_split_last(value, 1) : value);
}

static void take_tensors(patch_engine *e) {
    const ca_arch *arch = &e->model->arch;
    ca_dtype dtype = e->model->dtype;
    int64_t rows = e->sizes.cell_rows, start[] = {rows, arch->width};
    int64_t normed[] = {e->sizes.cell_reads, arch->width};
    int64_t logits[] = {e->sizes.cell_reads, arch->vocab};
    e->start = ca_method_buffers_take(&e->buffers, dtype, 2, start);
    e->index = ca_method_buffers_take(&e->buffers, CA_I64, 1, &rows);
    e->normed = ca_method_buffers_take(&e->buffers, dtype, 2, normed);
    e->logits = ca_method_buffers_take(&e->buffers, dtype, 2, logits);
    for (int64_t i = 0; i < e->kept.count; i++) {
        patch_tap *tap = &e->kept.taps[i];
        int64_t shape[] = {e->sizes.base_rows, tap->heads, tap->width};
        int64_t elements = tap_elements(tap, e->sizes);
        bool flat = tap->kind == CA_SITE_PATTERN;
        bool leaves = tap->kind == CA_SITE_RESID_PRE && tap->layer == arch->layers;
        int64_t layer = leaves ? tap->layer - 1 : tap->layer;
        tap->rows =
            ca_method_buffers_take(&e->buffers, dtype, flat ? 1 : 3, flat ? &elements : shape);
        e->hooks[1 + i] = (ca_hook){.site = leaves ? CA_SITE_RESID_POST : tap->kind,
                                    .first_layer = layer,
                                    .last_layer = layer,
                                    .forward = keep,
                                    .context = tap};
    }
}

ca_status ca_patch_engine_create(const ca_model *model, const patch_place *places, int64_t count,
                                 patch_sizes sizes, patch_engine **out) {
    ca_status st = CA_OK;
    patch_engine *e = NULL;
    ca_pass_limits base, cell;
    CA_TRY(ca_calloc(1, sizeof *e, &e));
    e->model = model;
    e->sizes = sizes;
    CA_TRY(list_taps(&model->arch, places, count, &e->kept));
    set_limits(places, count, sizes, &base, &cell);
    CA_TRY(ca_calloc((size_t)e->kept.count + 1, sizeof *e->hooks, &e->hooks));
    CA_TRY(ca_calloc((size_t)sizes.cell_rows, sizeof *e->index_host, &e->index_host));
    CA_TRY(ca_batch_create(model->backend, sizes.base_sequences, sizes.base_rows, sizes.base_reads,
                           &e->base_batch));
    CA_TRY(ca_batch_create(model->backend, sizes.cell_sequences, sizes.cell_rows, sizes.cell_reads,
                           &e->cell_batch));
    CA_TRY(ca_pass_create(model, &base, &e->base_pass));
    CA_TRY(ca_pass_create(model, &cell, &e->cell_pass));
    CA_TRY(ca_method_buffers_create(
        model->backend, buffer_bytes(&model->arch, model->dtype, &e->kept, sizes), &e->buffers));
    take_tensors(e);
    *out = e;
    return CA_OK;
out:
    ca_patch_engine_free(e);
    return st;
}

void ca_patch_engine_free(patch_engine *e) {
    if (!e) return;
    ca_pass_free(e->base_pass);
    ca_pass_free(e->cell_pass);
    ca_batch_free(e->base_batch);
    ca_batch_free(e->cell_batch);
    ca_method_buffers_free(&e->buffers);
    free(e->kept.taps);
    free(e->hooks);
    free(e->index_host);
    free(e);
}

/* ---- first pass ---- */

ca_batch *ca_patch_engine_base(patch_engine *engine) { return engine->base_batch; }

ca_status ca_patch_engine_run_base(patch_engine *e, const ca_hook *embed, ca_tensor *logits) {
    ca_status st = CA_OK;
    ca_forward request = ca_forward_all(e->model, e->base_batch);
    e->waiting = 0;
    if (embed) e->hooks[0] = *embed;
    request.hooks = embed ? e->hooks : e->hooks + 1;
    request.hook_count = e->kept.count + (embed != NULL);
    CA_TRY(ca_pass_forward(e->base_pass, &request));
    *logits = ca_pass_logits(e->base_pass);
out:
    return st;
}

/* ---- cells ---- */

static bool is_patched(const patch_cell *c, int64_t token) {
    return token >= c->from && token < c->to && (!c->tokens || c->tokens[token]);
}

/* The next run of patched tokens [*from, *to) from *to on; false when there is none. Begin with *to
 * = c->from. */
static bool next_run(const patch_cell *c, int64_t *from, int64_t *to) {
    *from = *to;
    while (*from < c->to && !is_patched(c, *from)) ++*from;
    for (*to = *from; is_patched(c, *to);) ++*to;
    return *from < *to;
}

/* Elements of one head in a flat pattern, [own rows, keys] of a sequence. */
static ca_tensor head_of_pattern(ca_tensor pattern, const ca_sequences *s, int64_t sequence,
                                 int64_t heads, int64_t head) {
    int64_t rows = s->row_start[sequence + 1] - s->row_start[sequence];
    int64_t keys = s->prefix_rows[sequence] + rows;
    int64_t start = heads * s->pattern_start[sequence] + head * rows * keys;
    ca_tensor flat = ca_tensor_slice(pattern, 0, start, rows * keys);
    return ca_tensor_2d(flat.data, flat.dtype, rows, keys);
}

/* Hook: the source's rows of attention, whose keys are all tokens of the prompt, in those of the
 * cells. */
static ca_status put_pattern_in(void *context, const ca_hook_call *call, ca_tensor value) {
    ca_status st = CA_OK;
    const patch_engine *e = context;
    const ca_sequences *s = &call->batch->sequences, *base = &e->base_batch->sequences;
    const patch_tap *tap = find_tap(&e->kept, CA_SITE_PATTERN, call->layer);
    for (int64_t i = 0; i < s->count; i++) {
        const patch_cell *c = &e->cells[i];
        int64_t source = 0;
        while (base->row_start[source] != c->source) source++;
        for (int64_t h = 0; h < tap->heads; h++) {
            if (c->head >= 0 && c->head != h) continue;
            ca_tensor to = head_of_pattern(value, s, i, tap->heads, h);
            ca_tensor from = head_of_pattern(tap->rows, base, source, tap->heads, h);
            for (int64_t first, end = c->from; next_run(c, &first, &end);)
                CA_TRY(ca_copy(call->backend, ca_tensor_slice(to, 0, first - c->from, end - first),
                               ca_tensor_slice(from, 0, first, end - first)));
        }
    }
out:
    return st;
}

/* Hook: the source's values in the patched rows of every cell, whose sequence begins with the first
 * of them. */
static ca_status put_in(void *context, const ca_hook_call *call, ca_tensor value) {
    ca_status st = CA_OK;
    const patch_engine *e = context;
    const ca_sequences *s = &call->batch->sequences;
    const patch_tap *tap = find_tap(&e->kept, call->site, call->layer);
    if (value.rank == 2) value = ca_tensor_split_last(value, 1);
    for (int64_t i = 0; i < s->count; i++) {
        const patch_cell *c = &e->cells[i];
        for (int64_t first, end = c->from; next_run(c, &first, &end);) {
            int64_t rows = end - first;
            ca_tensor to = ca_tensor_slice(value, 0, s->row_start[i] + first - c->from, rows);
            ca_tensor from = ca_tensor_slice(tap->rows, 0, c->source + first, rows);
            if (c->head >= 0) {
                to = ca_tensor_slice(to, 1, c->head, 1);
                from = ca_tensor_slice(from, 1, c->head, 1);
            }
            CA_TRY(ca_copy(call->backend, to, from));
        }
    }
out:
    return st;
}

/* Packs the cells and gathers the residual stream that they start from: the target's, and where the
 * stream itself is patched the source's. */
static ca_status start_cells(patch_engine *e, const patch_place *place, const patch_cell *cells,
                             int64_t count) {
    ca_status st = CA_OK;
    ca_batch *batch = e->cell_batch;
    int64_t rows = 0;
    ca_batch_clear(batch);
    for (int64_t i = 0; i < count; i++) {
        const patch_cell *c = &cells[i];
        assert(0 <= c->from && c->from < c->to && c->to <= c->length);
        ca_batch_add(batch, NULL, c->length - c->from, c->target, c->from);
        for (int64_t r = c->reads; r > 0; r--) ca_batch_read(batch, c->length - c->from - r);
        for (int64_t t = c->from; t < c->length; t++)
            e->index_host[rows++] =
                (is_stream(place) && is_patched(c, t) ? c->source : c->target) + t;
    }
    ca_tensor index = ca_tensor_slice(e->index, 0, 0, rows);
    CA_TRY(ca_batch_upload(batch));
    CA_TRY(ca_upload(e->model->backend, index, e->index_host));
    CA_TRY(ca_gather(e->model->backend, ca_tensor_slice(e->start, 0, 0, rows),
                     ca_tensor_rows(find_tap(&e->kept, CA_SITE_RESID_PRE, place->first)->rows),
                     index, 1, false));
out:
    return st;
}

/* The index of a row of the first pass among those that it read. */
static int64_t read_index(const patch_engine *e, int64_t row) {
    int64_t first = 0, last = e->base_batch->reads - 1;
    while (first < last) {
        int64_t middle = (first + last) / 2;
        if (e->base_batch->read_rows[middle] < row)
            first = middle + 1;
        else
            last = middle;
    }
    assert(e->base_batch->read_rows[first] == row);
    return first;
}

/* Cells at the final norm: rows of the source where they are patched, else of the target. */
static ca_status take_final(patch_engine *e, const patch_cell *cells, int64_t count) {
    ca_status st = CA_OK;
    ca_tensor final = ca_pass_final_norm(e->base_pass);
    for (int64_t i = 0; i < count; i++) {
        const patch_cell *c = &cells[i];
        for (int64_t t = c->length - c->reads; t < c->length; t++) {
            int64_t row = (is_patched(c, t) ? c->source : c->target) + t;
            assert(e->waiting < e->sizes.cell_reads);
            CA_TRY(ca_copy(e->model->backend, ca_tensor_slice(e->normed, 0, e->waiting++, 1),
                           ca_tensor_slice(final, 0, read_index(e, row), 1)));
        }
    }
out:
    return st;
}

ca_status ca_patch_engine_run_cells(patch_engine *e, const patch_place *place,
                                    const patch_cell *cells, int64_t count) {
    ca_status st = CA_OK;
    ca_hook edit = {.site = place->kind,
                    .first_layer = place->first,
                    .last_layer = place->last,
                    .edits = true,
                    .forward = place->kind == CA_SITE_PATTERN ? put_pattern_in : put_in,
                    .context = e};
    if (is_final(place)) return take_final(e, cells, count);
    CA_TRY(start_cells(e, place, cells, count));
    int64_t reads = e->cell_batch->reads;
    assert(e->waiting + reads <= e->sizes.cell_reads);
    e->cells = cells;
    ca_forward request = ca_forward_all(e->model, e->cell_batch);
    request.first_layer = place->first;
    request.resid = ca_tensor_slice(e->start, 0, 0, e->cell_batch->sequences.rows);
    request.head = CA_HEAD_NORM;
    request.prefix = e->base_pass;
    request.hooks = &edit;
    request.hook_count = !is_stream(place);
    CA_TRY(ca_pass_forward(e->cell_pass, &request));
    CA_TRY(ca_copy(e->model->backend, ca_tensor_slice(e->normed, 0, e->waiting, reads),
                   ca_pass_final_norm(e->cell_pass)));
    e->waiting += reads;
out:
    return st;
}

ca_status ca_patch_engine_logits(patch_engine *e, ca_tensor *logits) {
    *logits = ca_tensor_slice(e->logits, 0, 0, e->waiting);
    ca_tensor normed = ca_tensor_slice(e->normed, 0, 0, e->waiting);
    e->waiting = 0;
    return ca_head_forward(e->model, *logits, normed);
}
