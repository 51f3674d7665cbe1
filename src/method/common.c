/* SPDX-License-Identifier: MIT
 *
 * What every method does alike. See common.h.
 */
#include "common.h"

#include "causa/ops.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- random numbers ---- */

uint64_t ca_method_prompt_stream(const char *kind, const ca_prompt_text *prompt, int64_t draw) {
    const uint64_t prime = 0x100000001b3; /* of 64-bit FNV-1a */
    uint64_t stream = (ca_stream(kind) ^ (uint64_t)draw) * prime;
    for (int64_t t = 0; t < prompt->count; t++)
        stream = (stream ^ (uint64_t)prompt->ids[t]) * prime;
    return stream;
}

/* ---- buffers ---- */

size_t ca_method_buffer_bytes(int64_t count, ca_dtype dtype) {
    return ((size_t)count * ca_dtype_size(dtype) + 63) & ~(size_t)63;
}

ca_status ca_method_buffers_create(ca_backend *backend, size_t bytes, method_buffers *out) {
    *out = (method_buffers){.backend = backend, .size = bytes};
    return ca_alloc(backend, bytes, &out->memory);
}

ca_tensor ca_method_buffers_take(method_buffers *b, ca_dtype dtype, int rank,
                                 const int64_t *shape) {
    int64_t count = 1;
    for (int i = 0; i < rank; i++) count *= shape[i];
    ca_tensor flat = ca_tensor_1d((char *)b->memory + b->used, dtype, count);
    b->used += ca_method_buffer_bytes(count, dtype);
    assert(b->used <= b->size);
    return ca_tensor_reshape(flat, rank, shape);
}

int64_t ca_method_take_list(method_buffers *buffers, const method_tensor *list, size_t count) {
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        int64_t elements = 1;
        for (int k = 0; k < list[i].rank; k++) elements *= list[i].shape[k];
        bytes += ca_method_buffer_bytes(elements, list[i].dtype);
        if (buffers)
            *list[i].tensor =
                ca_method_buffers_take(buffers, list[i].dtype, list[i].rank, list[i].shape);
    }
    return (int64_t)bytes;
}

void ca_method_buffers_free(method_buffers *b) {
    if (b->memory) ca_release(b->backend, b->memory);
    *b = (method_buffers){0};
}

/* ---- pairs ---- */

ca_status ca_method_check_pair(const ca_dataset *data, const ca_example *e, const char *who) {
    const char *place = ca_example_place(data, e);
    if (e->corrupted.count == 0)
        return ca_fail(CA_E_DATA, "%s: column corrupted: %s needs a prompt, got none", place, who);
    if (e->corrupted.count != e->clean.count) {
        ca_hint("data.mismatch=skip leaves such pairs out and lists them in the result");
        return ca_fail(CA_E_DATA,
                       "%s: column corrupted: expected %lld tokens as in clean, got %lld", place,
                       (long long)e->clean.count, (long long)e->corrupted.count);
    }
    if (e->first_difference == e->clean.count)
        return ca_fail(CA_E_DATA,
                       "%s: column corrupted: expected a prompt that differs from clean, got the "
                       "same tokens",
                       place);
    return CA_OK;
}

/* ---- micro-batches ---- */

void ca_method_plan_packing(const ca_packing *packing, ca_plan *plan) {
    plan->batch_rows = packing->limits.rows;
    plan->batches = packing->batches;
    plan->lanes = packing->limits.lanes;
    plan->recompute = packing->limits.lanes > 0 && !packing->limits.keep;
    plan->work_bytes += packing->bytes;
}

ca_status ca_method_run_batches(ca_job *job, const ca_packing *packing, const char *task,
                                method_step step, void *context, int64_t *done) {
    ca_status st = CA_OK;
    ca_progress progress;
    ca_progress_start(&progress, task, "prompt", job->data->count);
    ca_progress_add(&progress, job->resume_at);
    *done = job->resume_at;
    for (int64_t b = 0; b < packing->batches; b++) {
        int64_t first = packing->first[b], last = packing->first[b + 1];
        if (last <= job->resume_at) continue;
        CA_TRY(ca_signal_status());
        CA_TRY(step(context, first, last));
        ca_progress_add(&progress, last - first);
        *done = last;
    }
out:
    ca_progress_finish(&progress);
    return st;
}

/* ---- /data ---- */

ca_status ca_method_piece(const ca_job *job, int32_t id, ca_string *out) {
    if (!job->tokenizer) return ca_string_append(out, "", 0);
    return ca_tokenizer_decode(job->tokenizer, &id, 1, false, out);
}

ca_status ca_method_pieces(const ca_job *job, const int32_t *ids, int64_t count, ca_string *text,
                           const char ***pieces) {
    ca_status st = CA_OK;
    size_t *at = NULL;
    CA_TRY(ca_calloc((size_t)count + 1, sizeof *at, &at));
    CA_TRY(ca_calloc((size_t)count + 1, sizeof **pieces, pieces));
    for (int64_t i = 0; i < count; i++) {
        at[i] = text->length;
        CA_TRY(ca_method_piece(job, ids[i], text));
        CA_TRY(ca_string_append(text, "", 1)); /* the terminator of this piece */
    }
    for (int64_t i = 0; i < count; i++) (*pieces)[i] = text->text + at[i];
out:
    free(at);
    return st;
}

static ca_status put_tokens(ca_job *job, const char *ids_name, const char *pieces_name,
                            const int32_t *ids, int64_t count) {
    ca_status st = CA_OK;
    ca_string text = {0};
    const char **pieces = NULL;
    ca_result_shape shape = {1, {count}, {"token"}};
    CA_TRY(ca_result_put(job->result, ids_name, CA_RESULT_I32, shape, ids));
    CA_TRY(ca_method_pieces(job, ids, count, &text, &pieces));
    CA_TRY(ca_result_put(job->result, pieces_name, CA_RESULT_TEXT, shape, pieces));
out:
    free(pieces);
    ca_string_free(&text);
    return st;
}

/* Ids of all examples end to end, with their offsets. */
typedef struct flat_ids {
    int64_t *offsets;
    int32_t *ids;
} flat_ids;

typedef const int32_t *(*ids_of)(const ca_example *example, int64_t *count);

static const int32_t *clean_ids(const ca_example *e, int64_t *n) {
    return *n = e->clean.count, e->clean.ids;
}
static const int32_t *corrupted_ids(const ca_example *e, int64_t *n) {
    return *n = e->corrupted.count, e->corrupted.ids;
}
static const int32_t *answer_ids(const ca_example *e, int64_t *n) {
    return *n = e->answer.count, e->answer.ids;
}
static const int32_t *wrong_ids(const ca_example *e, int64_t *n) {
    return *n = e->wrong.count, e->wrong.ids;
}

static const int32_t *answer_text_ids(const ca_example *e, int64_t *n) {
    return *n = e->answer_text.count, e->answer_text.ids;
}
static const int32_t *wrong_text_ids(const ca_example *e, int64_t *n) {
    return *n = e->wrong_text.count, e->wrong_text.ids;
}

static ca_status flatten(const ca_dataset *data, ids_of get, flat_ids *out) {
    ca_status st = CA_OK;
    int64_t total = 0, n = 0;
    for (int64_t i = 0; i < data->count; i++) total += (get(&data->examples[i], &n), n);
    CA_TRY(ca_calloc((size_t)data->count + 1, sizeof *out->offsets, &out->offsets));
    CA_TRY(ca_calloc((size_t)total + 1, sizeof *out->ids, &out->ids));
    for (int64_t i = 0; i < data->count; i++) {
        const int32_t *ids = get(&data->examples[i], &n);
        if (n) memcpy(out->ids + out->offsets[i], ids, (size_t)n * sizeof *ids);
        out->offsets[i + 1] = out->offsets[i] + n;
    }
out:
    return st;
}

static void flat_free(flat_ids *f) {
    free(f->offsets);
    free(f->ids);
    *f = (flat_ids){0};
}

static ca_status put_ids(ca_job *job, const char *name, ids_of get) {
    ca_status st = CA_OK;
    flat_ids f = {0};
    char path[64];
    CA_TRY(flatten(job->data, get, &f));
    if (f.offsets[job->data->count] == 0) goto out;
    snprintf(path, sizeof path, "/data/%s_ids", name);
    CA_TRY(ca_result_put(job->result, path, CA_RESULT_I32,
                         (ca_result_shape){1, {f.offsets[job->data->count]}, {name}}, f.ids));
    snprintf(path, sizeof path, "/data/%s_offsets", name);
    CA_TRY(ca_result_put(job->result, path, CA_RESULT_I64,
                         (ca_result_shape){1, {job->data->count + 1}, {"example"}}, f.offsets));
out:
    flat_free(&f);
    return st;
}

static ca_status put_names(ca_job *job) {
    ca_status st = CA_OK;
    const ca_dataset *d = job->data;
    const char **ids = NULL;
    CA_TRY(ca_calloc((size_t)d->count + 1, sizeof *ids, &ids));
    for (int64_t i = 0; i < d->count; i++) ids[i] = d->examples[i].id;
    CA_TRY(ca_result_put(job->result, "/data/id", CA_RESULT_TEXT,
                         (ca_result_shape){1, {d->count}, {"example"}}, ids));
    if (d->excluded_count)
        CA_TRY(ca_result_put(job->result, "/data/excluded", CA_RESULT_TEXT,
                             (ca_result_shape){1, {d->excluded_count}, {"row"}}, d->excluded));
out:
    free(ids);
    return st;
}

ca_status ca_method_write_data(ca_job *job) {
    ca_status st = CA_OK;
    flat_ids clean = {0}, corrupted = {0};
    int64_t count = job->data->count;
    CA_TRY(put_names(job));
    CA_TRY(flatten(job->data, clean_ids, &clean));
    CA_TRY(put_tokens(job, "/data/tokens", "/data/pieces", clean.ids, clean.offsets[count]));
    CA_TRY(ca_result_put(job->result, "/data/offsets", CA_RESULT_I64,
                         (ca_result_shape){1, {count + 1}, {"example"}}, clean.offsets));
    if (job->data->pairs) {
        CA_TRY(flatten(job->data, corrupted_ids, &corrupted));
        CA_TRY(put_tokens(job, "/data/corrupted_tokens", "/data/corrupted_pieces", corrupted.ids,
                          corrupted.offsets[count]));
    }
    CA_TRY(put_ids(job, "answer", answer_ids));
    CA_TRY(put_ids(job, "wrong", wrong_ids));
    CA_TRY(put_ids(job, "answer_text", answer_text_ids));
    CA_TRY(put_ids(job, "wrong_text", wrong_text_ids));
out:
    flat_free(&clean);
    flat_free(&corrupted);
    return st;
}
