/* SPDX-License-Identifier: MIT
 *
 * Masked soft interventions: on rows, and on ragged attention patterns. Sums for the gradient of a
 * mask are float64.
 */
#include "cpu.h"

enum { CHUNK = 4096 }; /* elements of a row that one step of a loop below takes */

/* The ends are taken as they are, so that they hold bit for bit. */
static inline float mix(float m, float x, float source) {
    float mixed = x + m * (source - x);
    mixed = m == 0.0f ? x : mixed;
    return m == 1.0f ? source : mixed;
}

/* ---- runs of contiguous elements under one weight, or each under its own ------------------ */

static void mix_under_one(float *y, const float *x, const float *source, float m, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = mix(m, x[i], source[i]);
}

static void mix_under_own(float *y, const float *x, const float *source, const float *m,
                          int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) y[i] = mix(m[i], x[i], source[i]);
}

/* to (+)= m dy; to == dy is allowed */
static void weigh(float *to, const float *dy, float m, int64_t n, bool accumulate) {
    if (accumulate)
#pragma omp simd
        for (int64_t i = 0; i < n; i++) to[i] += m * dy[i];
    else
#pragma omp simd
        for (int64_t i = 0; i < n; i++) to[i] = m * dy[i];
}

/* dy . (source - x) */
static double mask_gradient(const float *dy, const float *x, const float *source, int64_t n) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += (double)dy[i] * ((double)source[i] - (double)x[i]);
    return sum;
}

/* ---- rows -------------------------------------------------------------------------------- */

ca_status ca_cpu_mix_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source,
                         ca_tensor mask) {
    int64_t rows = cpu_places(&y, y.rank - 1), n = cpu_width(&y);
    int64_t chunks = (n + CHUNK - 1) / CHUNK;
    bool one = cpu_width(&mask) == 1;
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t item = 0; item < rows * chunks; item++) {
        int64_t row = item / chunks, at = item % chunks * CHUNK, count = cpu_min(n - at, CHUNK);
        float *to = cpu_row(&y, row) + at;
        const float *from = cpu_row(&x, row) + at, *other = cpu_row(&source, row) + at;
        const float *m = cpu_row(&mask, row);
        if (one)
            mix_under_one(to, from, other, m[0], count);
        else
            mix_under_own(to, from, other, m + at, count);
    }
    return CA_OK;
}

/* The arguments of a backward by name. */
typedef struct cpu_mix {
    ca_tensor d_x, d_source, d_mask, dy, x, source, mask;
    bool accumulate;
} cpu_mix;

/* A whole row under one weight; d_x last, since it may be dy. */
static void row_bwd_under_one(const cpu_mix *w, int64_t row, int64_t n) {
    const float *dy = cpu_row(&w->dy, row);
    float m = *cpu_row(&w->mask, row);
    if (w->d_mask.data != NULL)
        *cpu_row(&w->d_mask, row) =
            (float)mask_gradient(dy, cpu_row(&w->x, row), cpu_row(&w->source, row), n);
    if (w->d_source.data != NULL) weigh(cpu_row(&w->d_source, row), dy, m, n, false);
    weigh(cpu_row(&w->d_x, row), dy, 1.0f - m, n, w->accumulate);
}

/* Elements [at, at + n) of a row, each under its own weight. */
static void row_bwd_under_own(const cpu_mix *w, int64_t row, int64_t at, int64_t n) {
    const float *dy = cpu_row(&w->dy, row) + at, *m = cpu_row(&w->mask, row) + at;
    if (w->d_mask.data != NULL) {
        float *to = cpu_row(&w->d_mask, row) + at;
        const float *x = cpu_row(&w->x, row) + at, *source = cpu_row(&w->source, row) + at;
        for (int64_t i = 0; i < n; i++) to[i] = dy[i] * (source[i] - x[i]);
    }
    if (w->d_source.data != NULL) {
        float *to = cpu_row(&w->d_source, row) + at;
        for (int64_t i = 0; i < n; i++) to[i] = m[i] * dy[i];
    }
    float *to = cpu_row(&w->d_x, row) + at;
    if (w->accumulate)
        for (int64_t i = 0; i < n; i++) to[i] += (1.0f - m[i]) * dy[i];
    else
        for (int64_t i = 0; i < n; i++) to[i] = (1.0f - m[i]) * dy[i];
}

ca_status ca_cpu_mix_bwd(ca_backend *be, ca_tensor d_x, ca_tensor d_source, ca_tensor d_mask,
                         ca_tensor dy, ca_tensor x, ca_tensor source, ca_tensor mask,
                         bool accumulate) {
    const cpu_mix w = {d_x, d_source, d_mask, dy, x, source, mask, accumulate};
    int64_t rows = cpu_places(&dy, dy.rank - 1), n = cpu_width(&dy);
    bool one = cpu_width(&mask) == 1;
    int64_t chunks = one ? 1 : (n + CHUNK - 1) / CHUNK; /* one thread sums a row */
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t item = 0; item < rows * chunks; item++) {
        int64_t row = item / chunks, at = item % chunks * CHUNK;
        if (one)
            row_bwd_under_one(&w, row, n);
        else
            row_bwd_under_own(&w, row, at, cpu_min(n - at, CHUNK));
    }
    return CA_OK;
}

/* ---- attention patterns ------------------------------------------------------------------ */

/* One row of a pattern: `keys` elements from `at`, of which [low, high) are visible. */
typedef struct cpu_pattern_row {
    int64_t packed, head, at, keys, low, high;
} cpu_pattern_row;

typedef void cpu_pattern_function(const cpu_mix *w, cpu_pattern_row row, int64_t lane);

static int64_t weight_offset(const ca_tensor *mask, cpu_pattern_row row, int64_t lane) {
    int axis = mask->rank - 2;
    return (axis > 0 ? lane * mask->stride[0] : 0) + row.packed * mask->stride[axis] + row.head;
}

/* Calls `function` for every row of every sequence, head and lane. */
static ca_status for_pattern_rows(ca_backend *be, const cpu_mix *w, int64_t lanes,
                                  const ca_sequences *seq, ca_attention attention,
                                  cpu_pattern_function *function) {
    const int64_t *tile_start, heads = attention.heads;
    ca_status st = ca_cpu_tiles(be, seq, &tile_start);
    if (st != CA_OK) return st;
    int64_t items = lanes * heads * tile_start[seq->count], size = lanes * heads * seq->max_keys;
#pragma omp parallel for num_threads(cpu_threads(be, seq->rows, size)) schedule(static)
    for (int64_t item = 0; item < items; item++) {
        int64_t tile = item / heads % tile_start[seq->count], h = item % heads;
        int64_t s = ca_cpu_tile_sequence(tile_start, seq->count, tile);
        int64_t start = seq->row_start[s], own = seq->row_start[s + 1] - start;
        int64_t keys = seq->prefix_rows[s] + own, t = (tile - tile_start[s]) * CPU_QUERY_TILE;
        for (int64_t end = cpu_min(own, t + CPU_QUERY_TILE); t < end; t++) {
            int64_t i = seq->prefix_rows[s] + t;
            function(w,
                     (cpu_pattern_row){
                         .packed = start + t,
                         .head = h,
                         .at = heads * seq->pattern_start[s] + (h * own + t) * keys,
                         .keys = keys,
                         .low = attention.window > 0 ? cpu_max(0, i - attention.window + 1) : 0,
                         .high = i + 1},
                     item / heads / tile_start[seq->count]);
        }
    }
    return CA_OK;
}

static void clear_invisible(float *values, cpu_pattern_row row) {
    memset(values, 0, (size_t)row.low * sizeof(float));
    memset(values + row.high, 0, (size_t)(row.keys - row.high) * sizeof(float));
}

/* d_x is y. */
static void pattern_row_mix(const cpu_mix *w, cpu_pattern_row row, int64_t lane) {
    (void)lane;
    float *y = (float *)w->d_x.data + row.at;
    const float *x = (const float *)w->x.data + row.at + row.low;
    const float *source = (const float *)w->source.data + row.at + row.low;
    float m = ((const float *)w->mask.data)[weight_offset(&w->mask, row, 0)];
    mix_under_one(y + row.low, x, source, m, row.high - row.low);
    clear_invisible(y, row);
}

static void pattern_row_bwd(const cpu_mix *w, cpu_pattern_row row, int64_t lane) {
    int64_t n = row.high - row.low, at = row.at + row.low;
    const float *dy = (const float *)w->dy.data + lane * w->dy.stride[0] + at;
    float m = ((const float *)w->mask.data)[weight_offset(&w->mask, row, 0)];
    if (w->d_mask.data != NULL)
        ((float *)w->d_mask.data)[weight_offset(&w->d_mask, row, lane)] = (float)mask_gradient(
            dy, (const float *)w->x.data + at, (const float *)w->source.data + at, n);
    if (w->d_source.data != NULL) {
        float *to = (float *)w->d_source.data + lane * w->d_source.stride[0] + row.at;
        weigh(to + row.low, dy, m, n, false);
        clear_invisible(to, row);
    }
    float *to = (float *)w->d_x.data + lane * w->d_x.stride[0] + row.at;
    weigh(to + row.low, dy, 1.0f - m, n, w->accumulate);
    clear_invisible(to, row);
}

ca_status ca_cpu_pattern_mix_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source,
                                 ca_tensor mask, const ca_sequences *seq, ca_attention attention) {
    const cpu_mix w = {.d_x = y, .x = x, .source = source, .mask = mask};
    return for_pattern_rows(be, &w, 1, seq, attention, pattern_row_mix);
}

ca_status ca_cpu_pattern_mix_bwd(ca_backend *be, ca_tensor d_x, ca_tensor d_source,
                                 ca_tensor d_mask, ca_tensor dy, ca_tensor x, ca_tensor source,
                                 ca_tensor mask, const ca_sequences *seq, ca_attention attention,
                                 bool accumulate) {
    const cpu_mix w = {d_x, d_source, d_mask, dy, x, source, mask, accumulate};
    return for_pattern_rows(be, &w, dy.shape[0], seq, attention, pattern_row_bwd);
}
