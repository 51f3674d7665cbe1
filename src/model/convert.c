/* SPDX-License-Identifier: MIT
 *
 * Conversion of stored weights: decoding, transposition or reordering of rows, widening and the
 * check for NaN and infinity, in one pass over each value. Called by the loader for pieces of a
 * tensor; rows are shared among threads, and the result does not depend on their number.
 */
#include "convert.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* Below THREAD_VALUES (about a millisecond of work) waking threads costs more than it saves. */
enum { TILE = CA_MAX_BLOCK_VALUES, PANEL = 16, THREAD_VALUES = 1 << 20 };

/* Decodes values [start, start + count) of a tensor; both are multiples of its block. */
static void decode(float *out, const ca_weight *w, int64_t start, int64_t count) {
    const ca_encoding *e = w->encoding;
    e->decode(out, w->data + (size_t)(start / e->block_values) * e->block_bytes,
              count / e->block_values);
}

static bool all_finite(const float *x, int64_t count) {
    uint32_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        found |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return found == 0;
}

/* Index of the first value that is not finite, counted from `start`; INT64_MAX when there is none.
 */
static int64_t first_bad(const float *x, int64_t start, int64_t count) {
    if (all_finite(x, count)) return INT64_MAX;
    int64_t i = 0;
    while (isfinite(x[i])) i++;
    return start + i;
}

static inline void put(void *out, ca_dtype dtype, int64_t at, float value) {
    if (dtype == CA_F32)
        ((float *)out)[at] = value;
    else if (dtype == CA_F64)
        ((double *)out)[at] = (double)value;
    else
        ((uint16_t *)out)[at] = ca_bf16_round(value);
}

/* The stored row that becomes row `r`. */
static int64_t source_row(const ca_part *part, int64_t head_dim, int64_t r) {
    if (part->layout == CA_LAYOUT_ROWS) return r;
    if (part->layout == CA_LAYOUT_BY_HEAD) {
        int64_t kind = r / (part->rows / 3), within = r % (part->rows / 3);
        return (within / head_dim * 3 + kind) * head_dim + within % head_dim;
    }
    int64_t head = r / head_dim, half = r % head_dim / (head_dim / 2), i = r % (head_dim / 2);
    return head * head_dim + 2 * i + half;
}

static int64_t convert_row(void *out, ca_dtype dtype, const ca_weight *w, int64_t row,
                           int64_t columns) {
    float tile[TILE];
    int64_t bad = INT64_MAX;
    for (int64_t c = 0; c < columns; c += TILE) {
        int64_t n = columns - c < TILE ? columns - c : TILE, start = row * columns + c;
        float *values = dtype == CA_F32 ? (float *)out + c : tile;
        decode(values, w, start, n);
        int64_t here = first_bad(values, start, n);
        if (here < bad) bad = here;
        if (dtype == CA_F32) continue;
        for (int64_t i = 0; i < n; i++) put(out, dtype, c + i, values[i]);
    }
    return bad;
}

/* PANEL stored rows [columns, w->shape[1]] become PANEL columns of out [count, columns]. */
static int64_t convert_panel(void *out, ca_dtype dtype, const ca_weight *w, int64_t columns,
                             int64_t first, int64_t count, int64_t column) {
    float tile[PANEL][TILE];
    int64_t height = columns - column < PANEL ? columns - column : PANEL, bad = INT64_MAX;
    for (int64_t r = 0; r < count; r += TILE) {
        int64_t n = count - r < TILE ? count - r : TILE;
        for (int64_t i = 0; i < height; i++) {
            int64_t start = (column + i) * w->shape[1] + first + r;
            decode(tile[i], w, start, n);
            int64_t here = first_bad(tile[i], start, n);
            if (here < bad) bad = here;
        }
        for (int64_t j = 0; j < n; j++)
            for (int64_t i = 0; i < height; i++)
                put(out, dtype, (r + j) * columns + column + i, tile[i][j]);
    }
    return bad;
}

static ca_status fail_value(const ca_weight *w, int64_t index) {
    float block[CA_MAX_BLOCK_VALUES];
    int64_t in_block = index % w->encoding->block_values;
    decode(block, w, index - in_block, w->encoding->block_values);
    return ca_fail(CA_E_MODEL, "%s: tensor '%s': expected finite values, but value %lld is %s",
                   w->file, w->name, (long long)index, isnan(block[in_block]) ? "NaN" : "infinite");
}

ca_status ca_convert_rows(void *out, ca_dtype dtype, const ca_part *part, int64_t columns,
                          int64_t head_dim, int64_t first, int64_t count, int threads) {
    const ca_weight *w = part->weight;
    int64_t bad = INT64_MAX;
    assert(dtype == CA_F32 || dtype == CA_F64 || dtype == CA_BF16);
    if (count * columns < THREAD_VALUES) threads = 1;
    if (part->layout == CA_LAYOUT_TRANSPOSED) {
        assert(w->encoding->block_values == 1);
#pragma omp parallel for num_threads(threads) schedule(static) reduction(min : bad)
        for (int64_t column = 0; column < columns; column += PANEL) {
            int64_t here = convert_panel(out, dtype, w, columns, first, count, column);
            if (here < bad) bad = here;
        }
    } else {
        size_t row_bytes = (size_t)columns * ca_dtype_size(dtype);
#pragma omp parallel for num_threads(threads) schedule(static) reduction(min : bad)
        for (int64_t r = 0; r < count; r++) {
            int64_t row = source_row(part, head_dim, first + r);
            int64_t here = convert_row((char *)out + (size_t)r * row_bytes, dtype, w, row, columns);
            if (here < bad) bad = here;
        }
    }
    return bad == INT64_MAX ? CA_OK : fail_value(w, bad);
}
