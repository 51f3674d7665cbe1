/* SPDX-License-Identifier: MIT
 *
 * Packed batches: sequences end to end, their prefixes, and the rows that are read.
 */
#include "causa/graph.h"
#include "causa/ops.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Places of the batch's arrays in backend memory, each 64-aligned: one upload sends them all. */
typedef struct batch_layout {
    size_t ids, positions, row_start, prefix_start, prefix_rows, pattern_start, reads, bytes;
} batch_layout;

static size_t place(size_t *used, int64_t count, size_t size) {
    size_t at = *used;
    *used = (at + (size_t)count * size + 63) & ~(size_t)63;
    return at;
}

static batch_layout layout_of(int64_t sequences, int64_t rows, int64_t reads) {
    batch_layout l;
    size_t used = 0;
    l.ids = place(&used, rows, sizeof(int32_t));
    l.positions = place(&used, rows, sizeof(int32_t));
    l.row_start = place(&used, sequences + 1, sizeof(int64_t));
    l.prefix_start = place(&used, sequences, sizeof(int64_t));
    l.prefix_rows = place(&used, sequences, sizeof(int64_t));
    l.pattern_start = place(&used, sequences + 1, sizeof(int64_t));
    l.reads = place(&used, reads, sizeof(int64_t));
    l.bytes = used;
    return l;
}

int64_t ca_batch_bytes(int64_t max_sequences, int64_t max_rows, int64_t max_reads) {
    return (int64_t)layout_of(max_sequences, max_rows, max_reads).bytes;
}

ca_status ca_batch_create(ca_backend *backend, int64_t max_sequences, int64_t max_rows,
                          int64_t max_reads, ca_batch **out) {
    ca_status st = CA_OK;
    ca_batch *b = NULL;
    CA_TRY(ca_calloc(1, sizeof *b, &b));
    b->backend = backend;
    b->max_sequences = max_sequences;
    b->max_rows = max_rows;
    b->max_reads = max_reads;
    CA_TRY(ca_calloc((size_t)(4 * max_sequences + 2), sizeof *b->index, &b->index));
    CA_TRY(ca_calloc((size_t)max_rows + 1, sizeof *b->ids, &b->ids));
    CA_TRY(ca_calloc((size_t)max_rows + 1, sizeof *b->positions, &b->positions));
    CA_TRY(ca_calloc((size_t)max_reads + 1, sizeof *b->read_rows, &b->read_rows));
    size_t bytes = layout_of(max_sequences, max_rows, max_reads).bytes;
    CA_TRY(ca_calloc(bytes, 1, &b->staging));
    CA_TRY(ca_alloc(backend, bytes, &b->memory));
    ca_batch_clear(b);
    *out = b;
    b = NULL;
out:
    ca_batch_free(b);
    return st;
}

void ca_batch_free(ca_batch *batch) {
    if (!batch) return;
    if (batch->memory) ca_release(batch->backend, batch->memory);
    free(batch->index);
    free(batch->ids);
    free(batch->positions);
    free(batch->read_rows);
    free(batch->staging);
    free(batch);
}

/* The host arrays of `sequences` are parts of one allocation. */
static int64_t *row_start(ca_batch *b) { return b->index; }
static int64_t *pattern_start(ca_batch *b) { return b->index + b->max_sequences + 1; }
static int64_t *prefix_start(ca_batch *b) { return b->index + 2 * b->max_sequences + 2; }
static int64_t *prefix_rows(ca_batch *b) { return b->index + 3 * b->max_sequences + 2; }

void ca_batch_clear(ca_batch *batch) {
    batch->reads = 0;
    batch->sequences = (ca_sequences){
        .row_start = row_start(batch),
        .prefix_start = prefix_start(batch),
        .prefix_rows = prefix_rows(batch),
        .pattern_start = pattern_start(batch),
    };
    row_start(batch)[0] = 0;
    pattern_start(batch)[0] = 0;
}

void ca_batch_add(ca_batch *batch, const int32_t *ids, int64_t count, int64_t start, int64_t rows) {
    ca_sequences *s = &batch->sequences;
    assert(s->count < batch->max_sequences && s->rows + count <= batch->max_rows);
    for (int64_t i = 0; i < count; i++) {
        batch->ids[s->rows + i] = ids ? ids[i] : 0;
        batch->positions[s->rows + i] = (int32_t)(rows + i);
    }
    int64_t n = s->count++, keys = rows + count;
    s->rows += count;
    row_start(batch)[n + 1] = s->rows;
    pattern_start(batch)[n + 1] = pattern_start(batch)[n] + count * keys;
    prefix_start(batch)[n] = start;
    prefix_rows(batch)[n] = rows;
    if (count > s->max_rows) s->max_rows = count;
    if (keys > s->max_keys) s->max_keys = keys;
}

void ca_batch_read(ca_batch *batch, int64_t row) {
    const ca_sequences *s = &batch->sequences;
    int64_t packed = s->row_start[s->count - 1] + row;
    assert(batch->reads < batch->max_reads && row >= 0 && packed < s->rows);
    assert(batch->reads == 0 || batch->read_rows[batch->reads - 1] < packed);
    batch->read_rows[batch->reads++] = packed;
}

/* Puts an array where it is sent from; its tensor in backend memory. */
static ca_tensor stage(ca_batch *b, size_t at, ca_dtype dtype, int64_t count, const void *host) {
    if (count) memcpy(b->staging + at, host, (size_t)count * ca_dtype_size(dtype));
    return ca_tensor_1d((char *)b->memory + at, dtype, count);
}

ca_status ca_batch_upload(ca_batch *batch) {
    ca_sequences *s = &batch->sequences;
    const batch_layout l = layout_of(s->count, s->rows, batch->reads);
    batch->ids_b = stage(batch, l.ids, CA_I32, s->rows, batch->ids);
    s->positions = stage(batch, l.positions, CA_I32, s->rows, batch->positions);
    s->row_start_b = stage(batch, l.row_start, CA_I64, s->count + 1, s->row_start);
    s->prefix_start_b = stage(batch, l.prefix_start, CA_I64, s->count, s->prefix_start);
    s->prefix_rows_b = stage(batch, l.prefix_rows, CA_I64, s->count, s->prefix_rows);
    s->pattern_start_b = stage(batch, l.pattern_start, CA_I64, s->count + 1, s->pattern_start);
    batch->read_b = stage(batch, l.reads, CA_I64, batch->reads, batch->read_rows);
    return ca_upload(batch->backend,
                     ca_tensor_1d(batch->memory, CA_I64, (int64_t)(l.bytes / sizeof(int64_t))),
                     batch->staging);
}
