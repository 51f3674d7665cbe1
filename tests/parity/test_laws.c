/* SPDX-License-Identifier: MIT
 *
 * What operations promise beside their values, on every backend: bits that stay, elements that are
 * never read, sums that do not depend on how they are cut or on the number of threads, and closed
 * forms of what is trained by them.
 */
#include "parity.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sequences.h"

static const ca_tensor absent;

/* ---- tensors of one backend */

enum { MAX_HELD = 128 };

typedef struct device {
    ca_backend *be;
    void *held[MAX_HELD];
    int count;
} device;

/* values == NULL: as the backend allocates it. */
static ca_tensor place(device *d, ca_dtype dtype, const void *values, int64_t m, int64_t n) {
    assert_true(d->count < MAX_HELD);
    ca_tensor t = ca_tensor_2d(NULL, dtype, m, n);
    parity_ok(ca_alloc(d->be, (size_t)(m * n) * ca_dtype_size(dtype), &t.data));
    d->held[d->count++] = t.data;
    if (values) parity_ok(ca_upload(d->be, t, values));
    return t;
}

static ca_tensor floats(device *d, const float *values, int64_t m, int64_t n) {
    return place(d, CA_F32, values, m, n);
}

static ca_tensor flat(ca_tensor t) {
    return ca_tensor_1d(t.data, t.dtype, t.shape[0] * t.shape[1]);
}

static void fetch(device *d, void *host, ca_tensor t) { parity_ok(ca_download(d->be, host, t)); }

static void release(device *d) {
    while (d->count > 0) ca_release(d->be, d->held[--d->count]);
}

static void draw(float *x, int64_t count, const char *stream) {
    ca_philox_key key = {.seed = 3, .stream = ca_stream(stream)};
    for (int64_t i = 0; i < count; i++) x[i] = (float)ca_philox_normal(key, (uint64_t)i);
}

static void assert_bits(const float *got, const float *expected, int64_t count, const char *what) {
    for (int64_t i = 0; i < count; i++)
        if (memcmp(&got[i], &expected[i], sizeof *got) != 0)
            fail_msg("%s[%lld]: expected %a, got %a", what, (long long)i, (double)expected[i],
                     (double)got[i]);
}

static void assert_near(double got, double expected, double limit, const char *what, int64_t i) {
    if (!(fabs(got - expected) <= limit))
        fail_msg("%s[%lld]: expected %.9g within %.3g, got %.9g", what, (long long)i, expected,
                 limit, got);
}

/* ---- uploads */

/* Uploads take their place among the operations, of whatever size they are: each of four values of
 * x is added before the next one takes its place. Integers, so sums are exact. */
static void uploads_keep_their_place(ca_backend *be, ca_backend *ref, const void *context) {
    /* On a device: one on the stream of the operations, the least that is not, some that share
     * staging memory, and one that needs all of it and more. */
    static const int64_t counts[] = {1000, 4096, 100000, 600000};
    enum { TIMES = 4, BASE = 7 };
    (void)ref, (void)context;
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        device d = {.be = be};
        int64_t n = counts[i];
        float *host = calloc((size_t)n, sizeof *host);
        assert_non_null(host);
        ca_tensor sum = floats(&d, host, 1, n), x = floats(&d, NULL, 1, n);
        for (int k = 1; k <= TIMES; k++) {
            for (int64_t j = 0; j < n; j++) host[j] = (float)(j % BASE + 100 * k);
            parity_ok(ca_upload(be, x, host));
            for (int64_t j = 0; j < n; j++) host[j] = -1; /* it may be reused */
            parity_ok(ca_add(be, sum, x, 1));
        }
        fetch(&d, host, sum);
        for (int64_t j = 0; j < n; j++)
            assert_near(host[j], (double)(TIMES * (j % BASE) + 50 * TIMES * (TIMES + 1)), 0, "sum",
                        j);
        release(&d);
        free(host);
    }
}

/* ---- bf16 */

/* 1 + 2^-8 lies halfway between two bf16 numbers, as 1 + 3 2^-8 does: the even ones are 1 and
 * 1 + 2^-6. The weight 1 + 2^-7 is one. */
static void bf16_rounds_to_even(ca_backend *be, ca_backend *ref, const void *context) {
    (void)ref, (void)context;
    if (!be->bfloat16) return;
    static const float a[2] = {1 + 0x1p-8f, 1 + 0x3p-8f};
    static const float rounded[2] = {1 + 0x1p-7f, (1 + 0x1p-6f) * (1 + 0x1p-7f)};
    static const float whole[2] = {(1 + 0x1p-8f) * (1 + 0x1p-7f), (1 + 0x3p-8f) * (1 + 0x1p-7f)};
    const uint16_t weight = ca_bf16_round(1 + 0x1p-7f);
    float y[2];
    device d = {.be = be};
    ca_tensor to = floats(&d, NULL, 2, 1), from = floats(&d, a, 2, 1);
    ca_tensor w = place(&d, CA_BF16, &weight, 1, 1);
    for (int wide = 0; wide <= 1; wide++) {
        ca_matmul_options o = {.alpha = 1, .wide = wide};
        parity_ok(ca_matmul(be, to, from, w, absent, o));
        fetch(&d, y, to);
        assert_bits(y, wide ? whole : rounded, 2, be->name);
    }
    release(&d);
}

/* Of the product of the f32 matrices: rounding both to bf16 moves a factor by BF16_ROUNDING of
 * itself at most, which of thousands is half of that on the average or less, and so the sum by
 * twice half of BF16_ROUNDING of the sum of magnitudes S, half of what 2 bf16 ulps of S are at
 * least; sums in f32 add k 2^-24 at most. When only b is rounded the limit halves but for the sums.
 * Large enough to be cut on a small device (tests/simt/check-simt.sh). */
enum { BATCH = 2, LINES = 100, COLUMNS = 29, TERMS = 300 };

static void near_product(const float *y, const float *a, const float *b, double share) {
    for (int i = 0; i < BATCH * LINES; i++)
        for (int j = 0; j < COLUMNS; j++) {
            double sum = 0, magnitude = 0;
            for (int k = 0; k < TERMS; k++) {
                double term = (double)a[i * TERMS + k] * (double)b[j * TERMS + k];
                sum += term;
                magnitude += fabs(term);
            }
            assert_near((double)y[i * COLUMNS + j], sum, share * magnitude, "c", i * COLUMNS + j);
        }
}

static void bf16_products_are_near(ca_backend *be, ca_backend *ref, const void *context) {
    (void)ref, (void)context;
    if (!be->bfloat16) return;
    static float a[BATCH * LINES * TERMS], b[COLUMNS * TERMS], y[BATCH * LINES * COLUMNS];
    draw(a, BATCH * LINES * TERMS, "bf16 a");
    draw(b, COLUMNS * TERMS, "bf16 b");
    device d = {.be = be};
    ca_tensor from = floats(&d, a, BATCH * LINES, TERMS), f32 = floats(&d, b, COLUMNS, TERMS);
    ca_tensor w = place(&d, CA_BF16, NULL, COLUMNS, TERMS);
    ca_tensor to = floats(&d, NULL, BATCH * LINES, COLUMNS);
    ca_tensor x = ca_tensor_reshape(from, 3, (int64_t[]){BATCH, LINES, TERMS});
    ca_tensor batch = ca_tensor_reshape(to, 3, (int64_t[]){BATCH, LINES, COLUMNS});
    parity_ok(ca_copy(be, w, f32));
    for (int wide = 0; wide <= 1; wide++) {
        ca_matmul_options o = {.transpose_b = true, .alpha = 1, .wide = wide};
        parity_ok(ca_matmul(be, batch, x, ca_tensor_repeat(w, BATCH), absent, o));
        fetch(&d, y, to);
        near_product(y, a, b, (wide ? 1 : 2) * BF16_ROUNDING / 2 + 0x1p-18 + TERMS * 0x1p-24);
    }
    release(&d);
}

/* ---- long sums */

/* Of equal terms, whose roundings add up instead of cancelling. A host backend adds sums of some
 * hundred terms, which is off by a share of 400 2^-24 < 2^-15 at most; one sum of all is off by
 * more than 2^-14. What a device's library does is its own. */
static void long_sums_keep_digits(ca_backend *be, ca_backend *ref, const void *context) {
    enum { M = 35, N = 300, K = 6144 };
    (void)ref, (void)context;
    if (strcmp(be->name, "cuda") == 0) return;
    static float equal[N * K], y[M * N];
    for (int i = 0; i < N * K; i++) equal[i] = 0.1f;
    device d = {.be = be};
    ca_tensor a = floats(&d, equal, M, K), b = floats(&d, equal, N, K), c = floats(&d, NULL, M, N);
    parity_ok(ca_matmul(be, c, a, b, absent, (ca_matmul_options){.transpose_b = true, .alpha = 1}));
    fetch(&d, y, c);
    const double sum = K * ((double)equal[0] * (double)equal[0]);
    for (int i = 0; i < M * N; i++) assert_near((double)y[i], sum, 0x1p-15 * sum, "c", i);
    release(&d);
}

/* ---- interventions */

static void mix_keeps_bits(ca_backend *be, ca_backend *ref, const void *context) {
    (void)ref, (void)context;
    enum { COUNT = 8 };
    static const float x[COUNT] = {-0.0f, 0.0f, 1e-42f, FLT_MAX, -FLT_MAX, 0.1f, 3, -0.0f};
    static const float source[COUNT] = {1, -0.0f, -FLT_MAX, -FLT_MAX, 0.3f, -0.0f, 1e-42f, 0};
    static const float wild[COUNT] = {NAN, INFINITY, -INFINITY, NAN, NAN, NAN, NAN, NAN};
    static const float plain[COUNT] = {1, -0.1f, 1e-42f, FLT_MAX, -FLT_MAX, 0.1f, 3, 0};
    static const float weights[3] = {0, 1, 0.3f};
    float y[COUNT];
    device d = {.be = be};
    ca_tensor a = floats(&d, x, 1, COUNT), b = floats(&d, source, 1, COUNT);
    ca_tensor c = floats(&d, wild, 1, COUNT), to = floats(&d, NULL, 1, COUNT);
    ca_tensor e = floats(&d, plain, 1, COUNT);
    ca_tensor m = floats(&d, weights, 1, 3);
    ca_tensor keep = ca_tensor_slice(m, 1, 0, 1), take = ca_tensor_slice(m, 1, 1, 1);
    const struct {
        ca_tensor x, source, mask;
        const float *expected;
    } laws[] = {{a, b, keep, x},
                {a, b, take, source},
                {a, c, keep, x},
                {c, b, take, source},
                {e, e, ca_tensor_slice(m, 1, 2, 1), plain}};
    for (size_t i = 0; i < sizeof laws / sizeof laws[0]; i++) {
        parity_ok(ca_mix_fwd(be, to, laws[i].x, laws[i].source, laws[i].mask));
        fetch(&d, y, to);
        assert_bits(y, laws[i].expected, COUNT, be->name);
    }
    release(&d);
}

/* Invisible elements hold NaN in every input and must come out as 0. */
static void pattern_mix_reads_visible(ca_backend *be, ca_backend *ref, const void *context) {
    (void)ref, (void)context;
    enum { HEADS = 2, SIZE = HEADS * (3 * 3 + 2 * 6), ROWS = 5, WINDOW = 2 };
    static sequence_arrays arrays;
    sequence_arrays_fill(&arrays, &(sequence_lengths){2, {3, 2}, {0, 4}});
    ca_sequences *s = &arrays.sequences;
    float x[SIZE], weights[ROWS * HEADS], out[3][SIZE];
    bool visible[SIZE];
    for (int64_t q = 0, j = 0; q < s->count; q++)
        for (int64_t h = 0; h < HEADS; h++)
            for (int64_t t = 0; t < arrays.row_start[q + 1] - arrays.row_start[q]; t++)
                for (int64_t k = 0, i = arrays.prefix_rows[q] + t;
                     k < arrays.prefix_rows[q] + arrays.row_start[q + 1] - arrays.row_start[q];
                     k++, j++)
                    visible[j] = k <= i && i - k < WINDOW;
    for (int i = 0; i < SIZE; i++) x[i] = visible[i] ? 1 : NAN;
    for (int i = 0; i < ROWS * HEADS; i++) weights[i] = 0.25f;

    device d = {.be = be};
    int32_t positions[ROWS] = {0, 1, 2, 4, 5};
    s->row_start_b = flat(place(&d, CA_I64, arrays.row_start, 1, 3));
    s->pattern_start_b = flat(place(&d, CA_I64, arrays.pattern_start, 1, 3));
    s->prefix_start_b = flat(place(&d, CA_I64, arrays.prefix_start, 1, 2));
    s->prefix_rows_b = flat(place(&d, CA_I64, arrays.prefix_rows, 1, 2));
    s->positions = flat(place(&d, CA_I32, positions, 1, ROWS));
    ca_attention a = {.heads = HEADS, .kv_heads = 1, .head_dim = 1, .scale = 1, .window = WINDOW};
    ca_tensor from = flat(floats(&d, x, 1, SIZE)), mask = floats(&d, weights, ROWS, HEADS);
    ca_tensor y = floats(&d, NULL, 1, SIZE), d_x = floats(&d, x, 1, SIZE);
    ca_tensor d_source = floats(&d, NULL, 1, SIZE), d_mask = floats(&d, NULL, ROWS, HEADS);
    parity_ok(ca_pattern_mix_fwd(be, flat(y), from, from, mask, s, a));
    parity_ok(
        ca_pattern_mix_bwd(be, d_x, d_source, ca_tensor_3d(d_mask.data, CA_F32, 1, ROWS, HEADS),
                           ca_tensor_2d(from.data, CA_F32, 1, SIZE), from, from, mask, s, a, true));
    fetch(&d, out[0], y);
    fetch(&d, out[1], d_x);
    fetch(&d, out[2], d_source);
    fetch(&d, weights, d_mask);
    for (int i = 0; i < SIZE; i++) {
        assert_near((double)out[0][i], visible[i], 0, "y", i);
        assert_near((double)out[1][i], visible[i] ? 1.75 : 0, 0, "d_x", i);
        assert_near((double)out[2][i], visible[i] ? 0.25 : 0, 0, "d_source", i);
    }
    for (int i = 0; i < ROWS * HEADS; i++) assert_near((double)weights[i], 0, 0, "d_mask", i);
    release(&d);
}

/* ---- column sums */

enum { WIDTH = 37, MOST_ROWS = 1000 };

/* Sums of chunks of `chunk` rows, and their sum. */
static void sum_of_chunks(device *d, float *sum, ca_tensor x, int64_t chunk) {
    int64_t rows = x.shape[0], chunks = (rows + chunk - 1) / chunk;
    ca_tensor parts = floats(d, NULL, chunks, WIDTH), y = flat(floats(d, NULL, 1, WIDTH));
    for (int64_t c = 0; c < chunks; c++) {
        int64_t start = c * chunk, count = chunk < rows - start ? chunk : rows - start;
        ca_tensor part = flat(ca_tensor_slice(parts, 0, c, 1));
        parity_ok(ca_column_sums(d->be, part, ca_tensor_slice(x, 0, start, count)));
    }
    parity_ok(ca_column_sums(d->be, y, parts));
    fetch(d, sum, y);
}

/* A chunk of 2^k rows is a subtree, and all backends add along the same tree. */
static void column_sums_of_chunks(ca_backend *be, ca_backend *ref, const void *context) {
    (void)context;
    static const int64_t row_counts[] = {1, 2, 3, 7, 8, 65, 100, 513, MOST_ROWS};
    static float values[MOST_ROWS * WIDTH];
    draw(values, MOST_ROWS * WIDTH, "columns");
    for (size_t i = 0; i < sizeof row_counts / sizeof row_counts[0]; i++) {
        int64_t rows = row_counts[i];
        float whole[WIDTH], expected[WIDTH], sum[WIDTH];
        device d = {.be = be}, r = {.be = ref};
        ca_tensor x = floats(&d, values, rows, WIDTH), y = flat(floats(&d, NULL, 1, WIDTH));
        sum_of_chunks(&r, expected, floats(&r, values, rows, WIDTH), MOST_ROWS);
        parity_ok(ca_column_sums(be, y, x));
        fetch(&d, whole, y);
        assert_bits(whole, expected, WIDTH, "whole");
        for (int64_t chunk = 1; chunk < 2 * rows; chunk *= 2) {
            if (rows / chunk > 64) continue; /* many small calls */
            sum_of_chunks(&d, sum, x, chunk);
            assert_bits(sum, whole, WIDTH, "sum of chunks");
        }
        release(&d), release(&r);
    }
}

/* Seven rows whose sum shows the order: in any other one 1 is lost at another place. */
static void column_sums_tree(ca_backend *be, ca_backend *ref, const void *context) {
    (void)ref, (void)context;
    const float x[7] = {1, 0x1p24f, 1, -0x1p24f, 0x1p25f, 1, 1};
    const float expected = ((1 + 0x1p24f) + (1 + -0x1p24f)) + ((0x1p25f + 1) + 1);
    float got;
    device d = {.be = be};
    ca_tensor y = flat(floats(&d, NULL, 1, 1));
    parity_ok(ca_column_sums(be, y, floats(&d, x, 7, 1)));
    fetch(&d, &got, y);
    assert_bits(&got, &expected, 1, "sum");
    release(&d);
}

/* ---- cross entropy */

static void cross_entropy_extremes(ca_backend *be, ca_backend *ref, const void *context) {
    (void)ref, (void)context;
    enum { ROWS = 4, TOKENS = 4 };
    const float x[ROWS][TOKENS] = {{1e30f, -1e30f, 0, 5},
                                   {-1e30f, 0, 1e30f, 5},
                                   {-INFINITY, 2, 2, -INFINITY},
                                   {-1e30f, -1e30f, -1e30f, -1e30f}};
    const int32_t targets[ROWS] = {0, 1, 2, 3};
    const float scale[ROWS] = {2, 1, 4, 1};
    const double loss[ROWS] = {0, 1e30, log(2), log(4)};
    const double dx[ROWS][TOKENS] = {
        {0, 0, 0, 0}, {0, -1, 1, 0}, {0, 2, -2, 0}, {0.25, 0.25, 0.25, -0.75}};
    float got_loss[ROWS], got[ROWS][TOKENS];
    device d = {.be = be};
    ca_tensor logits = floats(&d, &x[0][0], ROWS, TOKENS), y = flat(floats(&d, NULL, 1, ROWS));
    ca_tensor target = flat(place(&d, CA_I32, targets, 1, ROWS));
    parity_ok(ca_cross_entropy_fwd(be, y, logits, target));
    fetch(&d, got_loss, y);
    parity_ok(ca_cross_entropy_bwd(be, logits, logits, target, flat(floats(&d, scale, 1, ROWS))));
    fetch(&d, got, logits);
    for (int i = 0; i < ROWS; i++) {
        assert_near((double)got_loss[i], loss[i], 1e-6 * fmax(1, loss[i]), "loss", i);
        for (int v = 0; v < TOKENS; v++) assert_near((double)got[i][v], dx[i][v], 1e-6, "dx", i);
    }
    release(&d);
}

/* Targets that have nearly all probability: 1 - p is the sum of the others, to float32's digits,
 * where 1 less a rounded p has none. Beside them the first, a middle and the last element of a row.
 */
static void cross_entropy_keeps_digits(ca_backend *be, ca_backend *ref, const void *context) {
    (void)ref, (void)context;
    enum { ROWS = 3, TOKENS = 1027 };
    const int32_t targets[ROWS] = {0, 515, TOKENS - 1};
    const float scale[ROWS] = {1, -2, 1}, gap[ROWS] = {16, 21, 30};
    static float x[ROWS][TOKENS], got[ROWS][TOKENS];
    for (int i = 0; i < ROWS; i++)
        for (int v = 0; v < TOKENS; v++) x[i][v] = v == targets[i] ? 3 + gap[i] : 3;
    device d = {.be = be};
    ca_tensor logits = floats(&d, &x[0][0], ROWS, TOKENS), dx = floats(&d, NULL, ROWS, TOKENS);
    ca_tensor target = flat(place(&d, CA_I32, targets, 1, ROWS));
    parity_ok(ca_cross_entropy_bwd(be, dx, logits, target, flat(floats(&d, scale, 1, ROWS))));
    fetch(&d, got, dx);
    for (int i = 0; i < ROWS; i++) {
        double others = (TOKENS - 1) * exp(-(double)gap[i]), factor = (double)scale[i];
        double own = -factor * others / (1 + others), other = -own / (TOKENS - 1);
        assert_near((double)got[i][targets[i]], own, 3e-6 * fabs(own), "target", i);
        assert_near((double)got[i][1], other, 3e-6 * fabs(other), "other", i);
    }
    release(&d);
}

/* Reported at once, or by the next sync where targets are read elsewhere. */
static void cross_entropy_refuses(ca_backend *be, ca_backend *ref, const void *context) {
    (void)ref, (void)context;
    const int32_t targets[][2] = {{0, 3}, {-1, 0}};
    for (int i = 0; i < 2; i++) {
        device d = {.be = be};
        const float zeros[6] = {0};
        ca_tensor x = floats(&d, zeros, 2, 3), y = flat(floats(&d, NULL, 1, 2));
        ca_status st = ca_cross_entropy_fwd(be, y, x, flat(place(&d, CA_I32, targets[i], 1, 2)));
        if (st == CA_OK) st = ca_sync(be);
        assert_int_equal(st, CA_E_SHAPE);
        assert_non_null(strstr(ca_error_text(), "target"));
        ca_error_clear();
        release(&d);
    }
}

/* ---- norms */

/* dx at a place of a row, from what norm_stats left of its input and c = dy (offset + gain). */
static double slope_from_stats(const float *xhat, double inverse, const double *c, int width,
                               bool layer, int at) {
    double mean = 0, along = 0;
    for (int i = 0; i < width; i++) {
        mean += layer ? c[i] / width : 0;
        along += c[i] * (double)xhat[i] / width;
    }
    return inverse * (c[at] - mean - (double)xhat[at] * along);
}

static void check_stats(ca_backend *be, ca_norm norm) {
    enum { ROWS = 5 };
    float x[ROWS * WIDTH], dy[ROWS * WIDTH], gain[WIDTH], dx[ROWS * WIDTH], xhat[ROWS * WIDTH];
    float inverse[ROWS];
    draw(x, ROWS * WIDTH, "x"), draw(dy, ROWS * WIDTH, "dy"), draw(gain, WIDTH, "gain");
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = 0.5f + 3 * x[i]; /* a mean and a deviation */
    device d = {.be = be};
    ca_tensor a = floats(&d, x, ROWS, WIDTH), b = floats(&d, dy, ROWS, WIDTH);
    ca_tensor to = floats(&d, NULL, ROWS, WIDTH), unit = floats(&d, NULL, ROWS, WIDTH);
    ca_tensor scale = flat(floats(&d, NULL, 1, ROWS));
    parity_ok(ca_norm_bwd(be, to, b, a, flat(floats(&d, gain, 1, WIDTH)), norm, false));
    parity_ok(ca_norm_stats(be, unit, scale, a, norm));
    fetch(&d, dx, to), fetch(&d, xhat, unit), fetch(&d, inverse, scale);
    for (int row = 0; row < ROWS; row++) {
        double c[WIDTH];
        for (int i = 0; i < WIDTH; i++)
            c[i] = (double)dy[row * WIDTH + i] * (norm.gain_offset + (double)gain[i]);
        /* values of order 1 made by some tens of roundings of float32 */
        for (int i = 0; i < WIDTH; i++)
            assert_near((double)dx[row * WIDTH + i],
                        slope_from_stats(xhat + row * WIDTH, (double)inverse[row], c, WIDTH,
                                         norm.kind == CA_NORM_LAYER, i),
                        3e-6, "dx", row * WIDTH + i);
    }
    release(&d);
}

/* An epsilon of the size of the variance too: then the mean of xhat^2 is far from 1. */
static void norm_stats_make_gradient(ca_backend *be, ca_backend *ref, const void *context) {
    (void)ref, (void)context;
    for (int kind = 0; kind < 2; kind++)
        for (int large = 0; large < 2; large++)
            check_stats(be, (ca_norm){.kind = kind ? CA_NORM_LAYER : CA_NORM_RMS,
                                      .epsilon = large ? 4 : 1e-5,
                                      .gain_offset = large});
}

/* ---- Adam */

enum { PARAMETERS = 6 };

static const ca_adam adam = {.learning_rate = 0.05,
                             .beta1 = 0.9,
                             .beta2 = 0.99,
                             .epsilon = 1e-3,
                             .lower = -(double)INFINITY,
                             .upper = (double)INFINITY};

/* From moments of zero the first step is learning_rate g / (|g| + epsilon). */
static void adam_first_step(ca_backend *be, ca_backend *ref, const void *context) {
    (void)ref, (void)context;
    const float g[PARAMETERS] = {1e-6f, -2e-3f, 0, 4, -1e4f, 1e15f};
    const float theta[PARAMETERS] = {1, -1, 0.5f, 2, 0, -3}, zeros[PARAMETERS] = {0};
    float got[PARAMETERS];
    device d = {.be = be};
    ca_adam a = adam;
    a.step = 1;
    ca_tensor p = floats(&d, theta, 1, PARAMETERS);
    parity_ok(ca_adam_step(be, p, floats(&d, zeros, 1, PARAMETERS),
                           floats(&d, zeros, 1, PARAMETERS), floats(&d, g, 1, PARAMETERS), a));
    fetch(&d, got, p);
    for (int i = 0; i < PARAMETERS; i++) {
        double slope = (double)g[i];
        double expected = (double)theta[i] - 0.05 * slope / (fabs(slope) + 1e-3);
        /* a few roundings of a step of at most 0.05, one of the result */
        assert_near((double)got[i], expected, 4e-8 + 1e-7 * fabs(expected), "parameter", i);
    }
    release(&d);
}

/* Twenty steps down a parabola with its minimum at 1, decayed and clamped, beside the recurrences
 * with sums over all gradients instead of moments. */
static void adam_twenty_steps(ca_backend *be, ca_backend *ref, const void *context) {
    (void)ref, (void)context;
    enum { STEPS = 20 };
    float theta[PARAMETERS] = {3, -2, 0.9f, 1, 1.4f, -0.8f}, g[PARAMETERS], zeros[PARAMETERS] = {0};
    double expected[PARAMETERS], gradients[STEPS][PARAMETERS];
    for (int i = 0; i < PARAMETERS; i++) expected[i] = (double)theta[i];
    device d = {.be = be};
    ca_tensor p = floats(&d, theta, 1, PARAMETERS), first = floats(&d, zeros, 1, PARAMETERS);
    ca_tensor second = floats(&d, zeros, 1, PARAMETERS), slope = floats(&d, NULL, 1, PARAMETERS);
    ca_adam a = adam;
    a.weight_decay = 0.1, a.lower = -1.5, a.upper = 2.5;
    for (int t = 0; t < STEPS; t++) {
        for (int i = 0; i < PARAMETERS; i++) {
            g[i] = theta[i] - 1;
            gradients[t][i] = expected[i] - 1;
            double mean = 0, square = 0;
            for (int k = 0; k <= t; k++) {
                mean += 0.1 * pow(0.9, t - k) * gradients[k][i];
                square += 0.01 * pow(0.99, t - k) * gradients[k][i] * gradients[k][i];
            }
            mean /= 1 - pow(0.9, t + 1), square /= 1 - pow(0.99, t + 1);
            expected[i] -= 0.05 * (mean / (sqrt(square) + 1e-3) + 0.1 * expected[i]);
            expected[i] = fmin(fmax(expected[i], -1.5), 2.5);
        }
        a.step = t + 1;
        parity_ok(ca_upload(be, slope, g));
        parity_ok(ca_adam_step(be, p, first, second, slope, a));
        fetch(&d, theta, p);
    }
    /* 20 steps of some roundings of numbers up to 2.5; epsilon is far above the rounding of g */
    for (int i = 0; i < PARAMETERS; i++)
        assert_near((double)theta[i], expected[i], 2e-5, "parameter", i);
    release(&d);
}

/* ---- threads */

enum { TALL = 130, WIDE = 301 };

/* Everything that one of these operations writes, one after the other. */
static int64_t run_all(ca_backend *be, float *out) {
    static float x[TALL * WIDE], y[TALL * WIDE];
    int32_t targets[TALL];
    draw(x, TALL * WIDE, "x"), draw(y, TALL * WIDE, "y");
    for (int i = 0; i < TALL; i++) targets[i] = i;
    device d = {.be = be};
    ca_tensor a = floats(&d, x, TALL, WIDE), b = floats(&d, y, TALL, WIDE);
    ca_tensor m = ca_tensor_slice(b, 1, 3, 1), d_m = floats(&d, NULL, TALL, 1);
    ca_tensor mixed = floats(&d, NULL, TALL, WIDE), d_a = floats(&d, NULL, TALL, WIDE);
    ca_tensor sums = floats(&d, NULL, 1, WIDE), loss = floats(&d, NULL, TALL, 1);
    ca_tensor d_logits = floats(&d, NULL, TALL, WIDE);
    ca_tensor target = flat(place(&d, CA_I32, targets, TALL, 1));
    parity_ok(ca_mix_fwd(be, mixed, a, b, m));
    parity_ok(ca_mix_bwd(be, d_a, absent, d_m, mixed, a, b, m, false));
    parity_ok(ca_column_sums(be, flat(sums), mixed));
    parity_ok(ca_cross_entropy_fwd(be, flat(loss), mixed, target));
    parity_ok(ca_cross_entropy_bwd(be, d_logits, mixed, target, flat(loss)));
    const ca_tensor written[] = {mixed, d_a, d_m, sums, loss, d_logits};
    int64_t count = 0;
    for (size_t i = 0; i < sizeof written / sizeof written[0]; i++) {
        fetch(&d, out + count, written[i]);
        count += ca_tensor_count(&written[i]);
    }
    release(&d);
    return count;
}

static void test_threads(void **state) {
    (void)state;
    static float one[4 * TALL * WIDE], three[4 * TALL * WIDE];
    ca_backend *be;
    parity_ok(ca_backend_open("cpu", 1, &be));
    int64_t count = run_all(be, one);
    ca_backend_close(be);
    parity_ok(ca_backend_open("cpu", 3, &be));
    run_all(be, three);
    ca_backend_close(be);
    assert_bits(three, one, count, "three threads");
}

/* ---- all of them */

#define LAW(function)                                                                              \
    static void test_##function(void **state) {                                                    \
        (void)state;                                                                               \
        parity_each_backend(function, NULL);                                                       \
    }
LAW(uploads_keep_their_place)
LAW(bf16_rounds_to_even)
LAW(bf16_products_are_near)
LAW(long_sums_keep_digits)
LAW(mix_keeps_bits)
LAW(pattern_mix_reads_visible)
LAW(column_sums_of_chunks)
LAW(column_sums_tree)
LAW(cross_entropy_extremes)
LAW(cross_entropy_keeps_digits)
LAW(cross_entropy_refuses)
LAW(norm_stats_make_gradient)
LAW(adam_first_step)
LAW(adam_twenty_steps)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_uploads_keep_their_place),
        cmocka_unit_test(test_bf16_rounds_to_even),
        cmocka_unit_test(test_bf16_products_are_near),
        cmocka_unit_test(test_long_sums_keep_digits),
        cmocka_unit_test(test_mix_keeps_bits),
        cmocka_unit_test(test_pattern_mix_reads_visible),
        cmocka_unit_test(test_column_sums_of_chunks),
        cmocka_unit_test(test_column_sums_tree),
        cmocka_unit_test(test_cross_entropy_extremes),
        cmocka_unit_test(test_cross_entropy_keeps_digits),
        cmocka_unit_test(test_cross_entropy_refuses),
        cmocka_unit_test(test_norm_stats_make_gradient),
        cmocka_unit_test(test_adam_first_step),
        cmocka_unit_test(test_adam_twenty_steps),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
