/* SPDX-License-Identifier: MIT
 *
 * bench_gpu [BACKEND [ROWS]]: every operation at the sizes of one layer of an 8-billion-parameter
 * Llama, ROWS packed tokens (4096), on the backend `cuda`. Bytes and FLOPs are counted from the
 * shapes: each input read once, each output written once. Shares are of the device's own large copy
 * and of the fastest matrix product, both measured in the same run. Without a device it says why
 * and ends well.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "causa/ops.h"

enum {
    D = 4096,
    H = 32,
    K = 8,
    DH = 128,
    F = 14336,
    V = 32768,
    LANES = 4,
    SEQUENCE = 512,
    LONG_SEQUENCE = 4096,
    TOP = 10
};

static const ca_tensor absent;

/* Operands of the case that is measured; what is not used stays absent. */
typedef struct bench {
    ca_backend *be;
    double peak, stream; /* FLOP/s, bytes/s */
    int64_t rows;
    ca_tensor y, x, w, u, index;
    ca_tensor o, lse, q, k, v, d_q, d_k, d_v, d_o, pattern;
    ca_sequences sequences;
    ca_attention attention;
} bench;

typedef ca_status (*bench_function)(bench *b);

/* ---- measuring */

/* Best of five times of a series that takes about 20 ms: a launch alone is too short to time. */
static ca_status measure(bench *b, bench_function function, double *seconds) {
    ca_status st = CA_OK;
    CA_TRY(function(b));
    CA_TRY(ca_sync(b->be));
    *seconds = 1e30;
    for (int64_t series = 1, runs = 0; runs < 5;) {
        double before = ca_seconds();
        for (int64_t i = 0; i < series; i++) CA_TRY(function(b));
        CA_TRY(ca_sync(b->be));
        double took = ca_seconds() - before;
        if (took < 0.02 && series < 1 << 14) {
            series *= 2;
            continue;
        }
        if (took / (double)series < *seconds) *seconds = took / (double)series;
        runs++;
    }
out:
    return st;
}

static ca_status report(bench *b, const char *name, bench_function function, double bytes,
                        double flops) {
    ca_status st = CA_OK;
    double seconds;
    CA_TRY(measure(b, function, &seconds));
    printf("%-28s %10.1f us %8.1f GB/s %4.0f %% of copy", name, 1e6 * seconds,
           1e-9 * bytes / seconds, 100 * bytes / seconds / b->stream);
    if (flops > 0)
        printf(" %8.2f TFLOP/s %4.0f %% of GEMM", 1e-12 * flops / seconds,
               100 * flops / seconds / b->peak);
    printf("\n");
    fflush(stdout);
out:
    return st;
}

/* ---- tensors: filled with a constant, which is as fast as any other content */

static ca_status make(bench *b, ca_tensor *out, ca_dtype dtype, int rank, const int64_t *shape) {
    ca_status st = CA_OK;
    int64_t count = 1;
    void *data;
    for (int i = 0; i < rank; i++) count *= shape[i];
    CA_TRY(ca_alloc(b->be, (size_t)count * ca_dtype_size(dtype), &data));
    *out = ca_tensor_reshape(ca_tensor_1d(data, dtype, count), rank, shape);
    CA_TRY(ca_fill(b->be, *out, dtype == CA_F32 || dtype == CA_BF16 ? 0.5 : 0));
out:
    return st;
}

#define SHAPE(...)                                                                                 \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) { __VA_ARGS__ }

static void drop(bench *b) {
    ca_tensor *all[] = {&b->y, &b->x, &b->w,   &b->u,   &b->index, &b->o,   &b->lse,    &b->q,
                        &b->k, &b->v, &b->d_q, &b->d_k, &b->d_v,   &b->d_o, &b->pattern};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        ca_release(b->be, all[i]->data);
        *all[i] = absent;
    }
}

/* Bytes of the elements of a view; repeated ones count once. */
static double bytes_of(ca_tensor t) {
    double elements = t.data ? 1 : 0;
    for (int i = 0; i < t.rank; i++)
        if (t.stride[i] != 0) elements *= (double)t.shape[i];
    return elements * (double)ca_dtype_size(t.dtype);
}

/* ---- the device's own */

static ca_status run_copy(bench *b) { return ca_copy(b->be, b->y, b->x); }

static ca_status run_matmul(bench *b) { return ca_linear_fwd(b->be, b->y, b->x, b->w, absent); }

static ca_status run_matmul_wide(bench *b) {
    return ca_matmul(b->be, b->y, b->x, b->w, absent,
                     (ca_matmul_options){.transpose_b = true, .alpha = 1, .wide = true});
}

static ca_status measure_device(bench *b) {
    ca_status st = CA_OK;
    double seconds;
    CA_TRY(make(b, &b->x, CA_F32, SHAPE(16 * b->rows, D)));
    CA_TRY(make(b, &b->y, CA_F32, SHAPE(16 * b->rows, D)));
    CA_TRY(measure(b, run_copy, &seconds));
    b->stream = 2 * bytes_of(b->x) / seconds;
    drop(b);
    const int64_t sizes[][3] = {{b->rows, F, D}, {b->rows, D, F}, {b->rows, D, D}, {512, D, D}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
        CA_TRY(make(b, &b->y, CA_F32, SHAPE(m, n)));
        CA_TRY(make(b, &b->x, CA_F32, SHAPE(m, k)));
        CA_TRY(make(b, &b->w, CA_F32, SHAPE(n, k)));
        CA_TRY(measure(b, run_matmul, &seconds));
        b->peak = fmax(b->peak, 2.0 * (double)m * (double)n * (double)k / seconds);
        drop(b);
    }
    printf("%s: copy %.0f GB/s, float32 GEMM %.2f TFLOP/s\n\n",
           b->be->device ? b->be->device : b->be->name, 1e-9 * b->stream, 1e-12 * b->peak);
out:
    return st;
}

/* ---- operations on rows: y, x, w, u are whatever the case made */

static const ca_norm rms = {CA_NORM_RMS, 1e-5, 0}, layer = {CA_NORM_LAYER, 1e-5, 0};

static ca_status run_fill(bench *b) { return ca_fill(b->be, b->y, 0.5); }
static ca_status run_add(bench *b) { return ca_add(b->be, b->y, b->x, 0.5); }
static ca_status run_add_scaled_rows(bench *b) {
    return ca_add_scaled_rows(b->be, b->y, b->x, b->u, 0.5);
}
static ca_status run_multiply(bench *b) { return ca_multiply(b->be, b->y, b->x, b->w); }
static ca_status run_gather(bench *b) { return ca_gather(b->be, b->y, b->x, b->index, 1, false); }
static ca_status run_scatter_add(bench *b) { return ca_scatter_add(b->be, b->y, b->index, b->x); }
/* A product over nothing leaves the bias. */
static ca_status run_add_bias(bench *b) {
    ca_tensor left = ca_tensor_2d(b->y.data, CA_F32, b->y.shape[0], 0);
    ca_tensor right = ca_tensor_2d(b->y.data, CA_F32, 0, b->y.shape[1]);
    return ca_matmul(b->be, b->y, left, right, b->u, (ca_matmul_options){.alpha = 1, .beta = 1});
}
static ca_status run_sum_heads(bench *b) { return ca_sum_heads(b->be, b->y, b->x, absent); }
static ca_status run_norm_fwd(bench *b) {
    return ca_norm_fwd(b->be, b->y, b->x, b->u, absent, rms);
}
static ca_status run_layer_norm_fwd(bench *b) {
    return ca_norm_fwd(b->be, b->y, b->x, b->u, b->u, layer);
}
static ca_status run_layer_norm_bwd(bench *b) {
    return ca_norm_bwd(b->be, b->y, b->w, b->x, b->u, layer, false);
}
static ca_status run_norm_bwd(bench *b) {
    return ca_norm_bwd(b->be, b->y, b->w, b->x, b->u, rms, false);
}
static ca_status run_norm_stats(bench *b) { return ca_norm_stats(b->be, b->y, b->u, b->x, rms); }
static ca_status run_act_fwd(bench *b) { return ca_act_fwd(b->be, b->y, b->x, CA_SILU, true); }
static ca_status run_act_bwd(bench *b) {
    return ca_act_bwd(b->be, b->y, b->w, b->x, CA_SILU, true);
}
static ca_status run_gelu_fwd(bench *b) { return ca_act_fwd(b->be, b->y, b->x, CA_GELU, false); }
static ca_status run_gelu_bwd(bench *b) {
    return ca_act_bwd(b->be, b->y, b->w, b->x, CA_GELU, false);
}
static ca_status run_rope(bench *b) { return ca_rope(b->be, b->y, b->w, b->u, b->index, false); }
static ca_status run_mix(bench *b) { return ca_mix_fwd(b->be, b->y, b->x, b->w, b->u); }
/* In place; u holds the mask and its gradient. */
static ca_status run_mix_bwd(bench *b) {
    return ca_mix_bwd(b->be, b->y, absent, ca_tensor_slice(b->u, 0, 1, 1), b->y, b->x, b->w,
                      ca_tensor_slice(b->u, 0, 0, 1), false);
}
static ca_status run_soft_cap_bwd(bench *b) { return ca_soft_cap_bwd(b->be, b->y, b->x, b->w, 30); }
static ca_status run_cross_entropy_bwd(bench *b) {
    return ca_cross_entropy_bwd(b->be, b->y, b->x, b->index, b->u);
}
static ca_status run_adam_step(bench *b) {
    const ca_adam adam = {.step = 1,
                          .learning_rate = 1e-3,
                          .beta1 = 0.9,
                          .beta2 = 0.999,
                          .epsilon = 1e-8,
                          .lower = -1e3,
                          .upper = 1e3};
    return ca_adam_step(b->be, b->y, b->w, b->u, b->x, adam);
}
static ca_status run_soft_cap(bench *b) { return ca_soft_cap_fwd(b->be, b->y, b->x, 30); }
static ca_status run_log_sum_exp(bench *b) { return ca_log_sum_exp(b->be, b->y, b->x); }
static ca_status run_softmax(bench *b) { return ca_softmax(b->be, b->y, b->x); }
static ca_status run_top_k(bench *b) { return ca_top_k(b->be, b->y, b->index, b->x); }
static ca_status run_cross_entropy(bench *b) {
    return ca_cross_entropy_fwd(b->be, b->y, b->x, b->index);
}
static ca_status run_row_norms(bench *b) { return ca_row_norms(b->be, b->y, b->x); }
static ca_status run_row_dots(bench *b) { return ca_row_dots(b->be, b->y, b->x, b->w); }
static ca_status run_row_distances(bench *b) { return ca_row_distances(b->be, b->y, b->x, b->w); }
static ca_status run_column_sums(bench *b) { return ca_column_sums(b->be, b->y, b->x); }

/* Shapes of the operands; -1 is ROWS, 0 ends a shape. Written memory that is read too counts
 * twice. */
typedef struct row_case {
    const char *name;
    bench_function function;
    int64_t y[4], x[4], w[4], u[4];
    int64_t index[2];
    double y_passes;
    int64_t rows; /* to which index points, in turns */
} row_case;

static const row_case row_cases[] = {
    {"copy", run_copy, {-1, D}, {-1, D}, {0}, {0}, {0}, 1, 0},
    {"fill", run_fill, {-1, D}, {0}, {0}, {0}, {0}, 1, 0},
    {"add", run_add, {-1, D}, {-1, D}, {0}, {0}, {0}, 2, 0},
    {"add_scaled_rows", run_add_scaled_rows, {-1, D}, {-1, D}, {0}, {-1}, {0}, 2, 0},
    {"multiply", run_multiply, {-1, D}, {-1, D}, {-1, D}, {0}, {0}, 1, 0},
    {"gather", run_gather, {-1, D}, {-1, D}, {0}, {0}, {-1}, 1, -1},
    {"scatter_add", run_scatter_add, {-1, D}, {-1, D}, {0}, {0}, {-1}, 2, -1},
    {"add_bias", run_add_bias, {-1, D}, {0}, {0}, {D}, {0}, 2, 0},
    {"sum_heads", run_sum_heads, {-1, D / 4}, {-1, 8, D / 4}, {0}, {0}, {0}, 1, 0},
    {"norm_fwd", run_norm_fwd, {-1, D}, {-1, D}, {0}, {D}, {0}, 1, 0},
    {"norm_bwd", run_norm_bwd, {-1, D}, {-1, D}, {-1, D}, {D}, {0}, 1, 0},
    {"norm_fwd layer", run_layer_norm_fwd, {-1, D}, {-1, D}, {0}, {D}, {0}, 1, 0},
    {"norm_bwd layer", run_layer_norm_bwd, {-1, D}, {-1, D}, {-1, D}, {D}, {0}, 1, 0},
    {"norm_stats", run_norm_stats, {-1, D}, {-1, D}, {0}, {-1}, {0}, 1, 0},
    {"act_fwd silu, gated", run_act_fwd, {-1, F}, {-1, 2 * F}, {0}, {0}, {0}, 1, 0},
    {"act_bwd silu, gated", run_act_bwd, {-1, 2 * F}, {-1, 2 * F}, {-1, F}, {0}, {0}, 1, 0},
    {"act_fwd gelu", run_gelu_fwd, {-1, F}, {-1, F}, {0}, {0}, {0}, 1, 0},
    {"act_bwd gelu", run_gelu_bwd, {-1, F}, {-1, F}, {-1, F}, {0}, {0}, 1, 0},
    {"rope", run_rope, {-1, H, DH}, {0}, {SEQUENCE, DH / 2}, {SEQUENCE, DH / 2}, {-1}, 2, SEQUENCE},
    {"mix_fwd", run_mix, {-1, D}, {-1, D}, {-1, D}, {-1, 1}, {0}, 1, 0},
    {"mix_bwd", run_mix_bwd, {1, -1, D}, {1, -1, D}, {1, -1, D}, {2, -1, 1}, {0}, 2, 0},
    {"soft_cap_fwd", run_soft_cap, {256, V}, {256, V}, {0}, {0}, {0}, 1, 0},
    {"soft_cap_bwd", run_soft_cap_bwd, {256, V}, {256, V}, {256, V}, {0}, {0}, 1, 0},
    {"log_sum_exp", run_log_sum_exp, {256}, {256, V}, {0}, {0}, {0}, 1, 0},
    {"softmax", run_softmax, {256, V}, {256, V}, {0}, {0}, {0}, 1, 0},
    {"top_k 10", run_top_k, {256, TOP}, {256, V}, {0}, {0}, {256, TOP}, 1, V},
    {"cross_entropy_fwd", run_cross_entropy, {256}, {256, V}, {0}, {0}, {256}, 1, V},
    {"cross_entropy_bwd", run_cross_entropy_bwd, {256, V}, {256, V}, {0}, {256}, {256}, 1, V},
    {"row_norms", run_row_norms, {-1}, {-1, D}, {0}, {0}, {0}, 1, 0},
    {"row_dots", run_row_dots, {-1}, {-1, D}, {-1, D}, {0}, {0}, 1, 0},
    {"row_distances", run_row_distances, {-1}, {-1, D}, {-1, D}, {0}, {0}, 1, 0},
    {"column_sums", run_column_sums, {D}, {-1, D}, {0}, {0}, {0}, 1, 0},
    {"adam_step", run_adam_step, {-1, D}, {-1, D}, {-1, D}, {-1, D}, {0}, 4, 0},
};

static ca_status make_operand(bench *b, ca_tensor *out, ca_dtype dtype, const int64_t *shape,
                              int most) {
    int rank = 0;
    int64_t sizes[CA_MAX_RANK];
    for (; rank < most && shape[rank]; rank++)
        sizes[rank] = shape[rank] < 0 ? b->rows : shape[rank];
    return rank ? make(b, out, dtype, rank, sizes) : CA_OK;
}

static ca_status make_index(bench *b, const row_case *c) {
    ca_status st = CA_OK;
    const bool is_64 = c->function == run_scatter_add;
    void *values = NULL;
    CA_TRY(make_operand(b, &b->index, is_64 ? CA_I64 : CA_I32, c->index, 2));
    int64_t count = ca_tensor_count(&b->index), rows = c->rows < 0 ? b->rows : c->rows;
    CA_TRY(ca_calloc((size_t)count + 1, sizeof(int64_t), &values));
    for (int64_t i = 0; i < count; i++)
        if (is_64)
            ((int64_t *)values)[i] = i % rows;
        else
            ((int32_t *)values)[i] = (int32_t)(i % rows);
    if (count) CA_TRY(ca_upload(b->be, b->index, values));
out:
    free(values);
    return st;
}

static ca_status bench_rows(bench *b) {
    ca_status st = CA_OK;
    for (size_t i = 0; i < sizeof row_cases / sizeof *row_cases; i++) {
        const row_case *c = &row_cases[i];
        CA_TRY(make_operand(b, &b->y, CA_F32, c->y, 4));
        CA_TRY(make_operand(b, &b->x, CA_F32, c->x, 4));
        CA_TRY(make_operand(b, &b->w, CA_F32, c->w, 4));
        CA_TRY(make_operand(b, &b->u, CA_F32, c->u, 4));
        CA_TRY(make_index(b, c));
        double bytes = c->y_passes * bytes_of(b->y) + bytes_of(b->x) + bytes_of(b->w) +
                       bytes_of(b->u) + bytes_of(b->index);
        CA_TRY(report(b, c->name, c->function, bytes, 0));
        drop(b);
    }
out:
    return st;
}

/* ---- matrix products */

/* With w in bf16 an x in f32 is rounded (or, unrounded, cut into three terms) on the way: more
 * memory than is counted here. */
static ca_status bench_products(bench *b, ca_dtype inputs, ca_dtype weights, const char *kind,
                                bench_function function) {
    ca_status st = CA_OK;
    const int64_t rows[] = {1, 16, 256, b->rows};
    if (weights == CA_BF16 && !b->be->bfloat16) return CA_OK;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char name[64];
        CA_TRY(make(b, &b->y, CA_F32, SHAPE(rows[i], F)));
        CA_TRY(make(b, &b->x, inputs, SHAPE(rows[i], D)));
        CA_TRY(make(b, &b->w, weights, SHAPE(F, D)));
        snprintf(name, sizeof name, "%s %lld x %d x %d", kind, (long long)rows[i], F, D);
        CA_TRY(report(b, name, function, bytes_of(b->y) + bytes_of(b->x) + bytes_of(b->w),
                      2.0 * (double)rows[i] * F * D));
        drop(b);
    }
out:
    return st;
}

static ca_status run_groups(bench *b) {
    return ca_matmul(b->be, b->y, b->x, b->w, absent, (ca_matmul_options){.alpha = 1});
}

/* What heads send to the residual stream, each group through the rows of its key/value head: one
 * call, whose products share factors along its second axis. */
static ca_status bench_groups(bench *b) {
    ca_status st = CA_OK;
    const int64_t rows = b->rows / H;
    CA_TRY(make(b, &b->y, CA_F32, SHAPE(K, H / K, rows, D)));
    CA_TRY(make(b, &b->x, CA_F32, SHAPE(K, H / K, rows, DH)));
    CA_TRY(make(b, &b->w, CA_F32, SHAPE(K, 1, DH, D)));
    b->w.shape[1] = H / K, b->w.stride[1] = 0;
    CA_TRY(report(b, "matmul in 8 groups of 4", run_groups,
                  bytes_of(b->y) + bytes_of(b->x) + bytes_of(b->w),
                  2.0 * (double)rows * H * DH * D));
    drop(b);
out:
    return st;
}

/* The cut of an f32 factor into three terms, which only a product asks for: here one so thin that
 * the cut and reading the terms, 16 bytes an element, are what it does. */
static ca_status bench_split(bench *b) {
    ca_status st = CA_OK;
    enum { THIN = 8 };
    if (!b->be->bfloat16) return CA_OK;
    CA_TRY(make(b, &b->y, CA_F32, SHAPE(b->rows, THIN)));
    CA_TRY(make(b, &b->x, CA_F32, SHAPE(b->rows, D)));
    CA_TRY(make(b, &b->w, CA_BF16, SHAPE(THIN, D)));
    CA_TRY(report(b, "split_bf16, thin product", run_matmul_wide, 4 * bytes_of(b->x), 0));
    drop(b);
out:
    return st;
}

/* ---- attention: sequences of one length; a causal product counts half */

static ca_status run_attention_fwd(bench *b) {
    return ca_attention_fwd(b->be, b->o, b->lse, b->q, b->k, b->v, absent, absent, &b->sequences,
                            b->attention);
}
static ca_status run_attention_fwd_bf16(bench *b) {
    ca_attention narrow = b->attention;
    narrow.narrow = true;
    return ca_attention_fwd(b->be, b->o, b->lse, b->q, b->k, b->v, absent, absent, &b->sequences,
                            narrow);
}
static ca_status run_attention_bwd(bench *b) {
    return ca_attention_bwd(b->be, b->d_q, b->d_k, b->d_v, b->d_o, b->o, b->lse, b->q, b->k, b->v,
                            absent, absent, &b->sequences, b->attention);
}
static ca_status run_pattern_fwd(bench *b) {
    return ca_pattern_fwd(b->be, b->pattern, b->q, b->k, absent, &b->sequences, b->attention);
}
static ca_status run_pattern_apply_fwd(bench *b) {
    return ca_pattern_apply_fwd(b->be, b->o, b->pattern, b->v, absent, &b->sequences, b->attention);
}

static ca_status run_pattern_bwd(bench *b) {
    return ca_pattern_bwd(b->be, b->d_q, b->d_k, b->y, b->pattern, b->q, b->k, absent,
                          &b->sequences, b->attention);
}
static ca_status run_pattern_apply_bwd(bench *b) {
    return ca_pattern_apply_bwd(b->be, b->y, b->d_v, b->d_o, b->pattern, b->v, absent,
                                &b->sequences, b->attention);
}
/* One lane of y, in place for the gradients; u holds the mask [T, H] and its gradient. */
static ca_status run_pattern_mix_fwd(bench *b) {
    ca_tensor to = ca_tensor_1d(b->y.data, CA_F32, b->pattern.shape[0]);
    ca_tensor mask = ca_tensor_2d(b->u.data, CA_F32, b->u.shape[1], H);
    return ca_pattern_mix_fwd(b->be, to, b->pattern, b->w, mask, &b->sequences, b->attention);
}
static ca_status run_pattern_mix_bwd(bench *b) {
    ca_tensor d_x = ca_tensor_slice(b->y, 0, 0, 1), d_mask = ca_tensor_slice(b->u, 0, 1, 1);
    ca_tensor mask = ca_tensor_2d(b->u.data, CA_F32, b->u.shape[1], H);
    return ca_pattern_mix_bwd(b->be, d_x, absent, d_mask, d_x, b->pattern, b->w, mask,
                              &b->sequences, b->attention, false);
}

/* numbers [4 count + 2] host: row_start, pattern_start, prefix_start, prefix_rows */
static ca_status make_sequences(bench *b, int64_t length, int64_t *numbers) {
    ca_status st = CA_OK;
    ca_sequences *s = &b->sequences;
    const int64_t count = b->rows / length;
    for (int64_t i = 0; i <= count; i++) {
        numbers[i] = i * length;
        numbers[count + 1 + i] = i * length * length;
    }
    *s = (ca_sequences){.count = count,
                        .rows = b->rows,
                        .max_rows = length,
                        .max_keys = length,
                        .row_start = numbers,
                        .pattern_start = numbers + count + 1,
                        .prefix_start = numbers + 2 * count + 2,
                        .prefix_rows = numbers + 3 * count + 2};
    CA_TRY(make(b, &b->x, CA_I64, SHAPE(4 * count + 2)));
    CA_TRY(ca_upload(b->be, b->x, numbers));
    CA_TRY(make(b, &s->positions, CA_I32, SHAPE(b->rows)));
    b->index = s->positions;
    s->row_start_b = ca_tensor_slice(b->x, 0, 0, count + 1);
    s->pattern_start_b = ca_tensor_slice(b->x, 0, count + 1, count + 1);
    s->prefix_start_b = ca_tensor_slice(b->x, 0, 2 * count + 2, count);
    s->prefix_rows_b = ca_tensor_slice(b->x, 0, 3 * count + 2, count);
out:
    return st;
}

/* Operands of attention over sequences of `length` rows. */
static ca_status make_attention(bench *b, int64_t length, int64_t *numbers) {
    ca_status st = CA_OK;
    const int64_t t = b->rows;
    b->attention = (ca_attention){.heads = H, .kv_heads = K, .head_dim = DH, .scale = 1 / sqrt(DH)};
    CA_TRY(make_sequences(b, length, numbers));
    CA_TRY(make(b, &b->o, CA_F32, SHAPE(t, H, DH)));
    CA_TRY(make(b, &b->lse, CA_F32, SHAPE(t, H)));
    CA_TRY(make(b, &b->q, CA_F32, SHAPE(t, H, DH)));
    CA_TRY(make(b, &b->k, CA_F32, SHAPE(t, K, DH)));
    CA_TRY(make(b, &b->v, CA_F32, SHAPE(t, K, DH)));
    CA_TRY(make(b, &b->d_q, CA_F32, SHAPE(LANES, t, H, DH)));
    CA_TRY(make(b, &b->d_k, CA_F32, SHAPE(LANES, t, K, DH)));
    CA_TRY(make(b, &b->d_v, CA_F32, SHAPE(LANES, t, K, DH)));
    CA_TRY(make(b, &b->d_o, CA_F32, SHAPE(LANES, t, H, DH)));
out:
    return st;
}

/* Bytes of q or o, of keys and values, and FLOPs of one product of rows and visible keys. */
typedef struct attention_cost {
    double q, kv, lse, product;
} attention_cost;

static attention_cost cost_of(const bench *b, int64_t length) {
    return (attention_cost){.q = bytes_of(b->q),
                            .kv = 2 * bytes_of(b->k),
                            .lse = bytes_of(b->lse),
                            .product = (double)(b->rows * (length + 1)) * H * DH};
}

static ca_status bench_patterns(bench *b) {
    ca_status st = CA_OK;
    const attention_cost c = cost_of(b, SEQUENCE);
    const int64_t size = H * b->rows * SEQUENCE;
    CA_TRY(make(b, &b->pattern, CA_F32, SHAPE(size)));
    CA_TRY(make(b, &b->w, CA_F32, SHAPE(size)));
    CA_TRY(make(b, &b->y, CA_F32, SHAPE(LANES, size)));
    CA_TRY(make(b, &b->u, CA_F32, SHAPE(2, b->rows, H)));
    const double q = c.q, kv = c.kv, n = bytes_of(b->pattern), u = bytes_of(b->u);
    CA_TRY(report(b, "pattern_fwd", run_pattern_fwd, q + kv / 2 + n, c.product));
    CA_TRY(report(b, "pattern_apply_fwd", run_pattern_apply_fwd, q + kv / 2 + n / 2, c.product));
    CA_TRY(report(b, "pattern_apply_bwd, 4 lanes", run_pattern_apply_bwd,
                  kv / 2 + n + LANES * (q + kv / 2 + n), LANES * 2 * c.product));
    CA_TRY(report(b, "pattern_bwd, 4 lanes", run_pattern_bwd,
                  q + kv / 2 + n + LANES * (q + kv / 2 + n), LANES * 2 * c.product));
    CA_TRY(report(b, "pattern_mix_fwd", run_pattern_mix_fwd, 3 * n + u / 2, 0));
    CA_TRY(report(b, "pattern_mix_bwd", run_pattern_mix_bwd, 4 * n + u, 0));
out:
    return st;
}

static ca_status bench_attention(bench *b) {
    ca_status st = CA_OK;
    const int64_t count = b->rows / SEQUENCE;
    int64_t *numbers = NULL;
    CA_TRY(ca_calloc((size_t)(4 * count + 2), sizeof *numbers, &numbers));
    CA_TRY(make_attention(b, SEQUENCE, numbers));
    const attention_cost c = cost_of(b, SEQUENCE);
    CA_TRY(report(b, "attention_fwd", run_attention_fwd, 2 * c.q + c.kv + c.lse, 2 * c.product));
    if (b->be->bfloat16)
        CA_TRY(report(b, "attention_fwd_bf16", run_attention_fwd_bf16, 2 * c.q + c.kv + c.lse,
                      2 * c.product));
    CA_TRY(report(b, "attention_bwd, 4 lanes", run_attention_bwd,
                  2 * c.q + c.kv + c.lse + LANES * (2 * c.q + c.kv), LANES * 4 * c.product));
    CA_TRY(bench_patterns(b));
out:
    free(numbers);
    drop(b);
    return st;
}

/* One sequence is all: where attention, not memory, is the work. */
static ca_status bench_long_attention(bench *b) {
    ca_status st = CA_OK;
    int64_t numbers[6] = {0};
    if (b->rows != LONG_SEQUENCE) return CA_OK;
    CA_TRY(make_attention(b, LONG_SEQUENCE, numbers));
    const attention_cost c = cost_of(b, LONG_SEQUENCE);
    CA_TRY(report(b, "attention_fwd, 4096 rows", run_attention_fwd, 2 * c.q + c.kv + c.lse,
                  2 * c.product));
    if (b->be->bfloat16)
        CA_TRY(report(b, "attention_fwd_bf16, 4096 rows", run_attention_fwd_bf16,
                      2 * c.q + c.kv + c.lse, 2 * c.product));
    CA_TRY(report(b, "attention_bwd, 4096 rows", run_attention_bwd,
                  2 * c.q + c.kv + c.lse + LANES * (2 * c.q + c.kv), LANES * 4 * c.product));
out:
    drop(b);
    return st;
}

int main(int count, char **words) {
    ca_status st = CA_OK;
    bench b = {.rows = count > 2 ? atoll(words[2]) : 4096};
    if (b.rows < SEQUENCE || b.rows % SEQUENCE != 0) {
        fprintf(stderr, "bench_gpu: expected a multiple of %d rows, got %s\n", SEQUENCE, words[2]);
        return 2;
    }
    if (ca_backend_open(count > 1 ? words[1] : "cuda", 0, &b.be) != CA_OK) {
        printf("nothing to measure: %s\n", ca_error_text());
        return 0;
    }
    CA_TRY(measure_device(&b));
    CA_TRY(bench_rows(&b));
    CA_TRY(bench_products(&b, CA_F32, CA_F32, "matmul", run_matmul));
    CA_TRY(bench_products(&b, CA_F32, CA_BF16, "bf16", run_matmul));
    CA_TRY(bench_products(&b, CA_F32, CA_BF16, "bf16, wide", run_matmul_wide));
    CA_TRY(bench_products(&b, CA_BF16, CA_BF16, "bf16 by bf16", run_matmul));
    CA_TRY(bench_groups(&b));
    CA_TRY(bench_split(&b));
    CA_TRY(bench_attention(&b));
    CA_TRY(bench_long_attention(&b));
out:
    if (st != CA_OK) fprintf(stderr, "bench_gpu: %s\n", ca_error_text());
    drop(&b);
    ca_backend_close(b.be);
    return ca_status_exit_code(st);
}
