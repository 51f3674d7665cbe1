/* SPDX-License-Identifier: MIT
 *
 * bench_ops [BACKEND [THREADS]]: measures the operations of a backend, alone and put together to
 * decoder layers of the size of SmolLM2-135M, beside the machine's own matrix product and copy,
 * which are measured in the same run. Prints the best of several runs.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "causa/ops.h"

typedef struct bench {
    ca_backend *be;
    double peak;   /* FLOP/s of the fastest matrix product seen */
    double stream; /* byte/s of a large copy */
} bench;

typedef ca_status (*bench_function)(bench *b, void *context);

static const ca_tensor absent;

static ca_status measure(bench *b, bench_function function, void *context, double *seconds) {
    ca_status st = CA_OK;
    double start = ca_seconds();
    *seconds = 1e30;
    for (int run = 0; run < 3 || (run < 1000 && ca_seconds() - start < 0.4); run++) {
        double before = ca_seconds();
        CA_TRY(function(b, context));
        CA_TRY(ca_sync(b->be));
        double took = ca_seconds() - before;
        if (took < *seconds) *seconds = took;
    }
out:
    return st;
}

static void print_line(const bench *b, const char *name, double seconds, double flops,
                       double bytes) {
    printf("%-44s %9.3f ms", name, 1e3 * seconds);
    if (flops > 0)
        printf(" %8.1f GFLOP/s %4.0f %% of peak", 1e-9 * flops / seconds,
               100 * flops / seconds / b->peak);
    if (bytes > 0)
        printf(" %8.1f GB/s %4.0f %% of copy", 1e-9 * bytes / seconds,
               100 * bytes / seconds / b->stream);
    printf("\n");
    fflush(stdout);
}

static ca_status make_tensor(bench *b, int rank, const int64_t *shape, double scale,
                             ca_tensor *out) {
    ca_status st = CA_OK;
    static uint64_t drawn;
    float *values = NULL;
    size_t count = 1;
    for (int i = 0; i < rank; i++) count *= (size_t)shape[i];
    void *data = NULL;
    CA_TRY(ca_calloc(count, sizeof *values, &values));
    uint64_t state = 0x9e3779b97f4a7c15u + drawn++;
    for (size_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        values[i] = (float)(((double)(state >> 11) * 0x1p-52 - 1.0) * scale);
    }
    CA_TRY(ca_alloc(b->be, count * sizeof *values, &data));
    ca_tensor flat = ca_tensor_1d(data, CA_F32, (int64_t)count);
    CA_TRY(ca_upload(b->be, flat, values));
    *out = ca_tensor_reshape(flat, rank, shape);
out:
    free(values);
    return st;
}

/* ---- the machine's own ------------------------------------------------------------------- */

typedef struct product {
    ca_tensor c, a, b;
} product;

static ca_status run_product(bench *b, void *context) {
    product *p = context;
    return ca_matmul(b->be, p->c, p->a, p->b, absent, (ca_matmul_options){.alpha = 1});
}

static ca_status run_copy(bench *b, void *context) {
    product *p = context;
    return ca_copy(b->be, p->c, p->a);
}

/* The best of some shapes is the peak that shares refer to. */
static ca_status measure_machine(bench *b) {
    ca_status st = CA_OK;
    const int64_t sizes[][3] = {{2048, 2048, 2048}, {1024, 1024, 1024}, {512, 3072, 576}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const int64_t m = sizes[i][0], n = sizes[i][1], k = sizes[i][2];
        product p;
        double seconds;
        CA_TRY(make_tensor(b, 2, (const int64_t[]){m, n}, 1, &p.c));
        CA_TRY(make_tensor(b, 2, (const int64_t[]){m, k}, 1, &p.a));
        CA_TRY(make_tensor(b, 2, (const int64_t[]){k, n}, 1, &p.b));
        CA_TRY(measure(b, run_product, &p, &seconds));
        double rate = 2.0 * (double)(m * n * k) / seconds;
        if (rate > b->peak) b->peak = rate;
        ca_release(b->be, p.c.data);
        ca_release(b->be, p.a.data);
        ca_release(b->be, p.b.data);
    }
    product large;
    double seconds;
    const int64_t shape[] = {8192, 4096};
    CA_TRY(make_tensor(b, 2, shape, 1, &large.c));
    CA_TRY(make_tensor(b, 2, shape, 1, &large.a));
    CA_TRY(measure(b, run_copy, &large, &seconds));
    b->stream = 2.0 * (double)(shape[0] * shape[1]) * sizeof(float) / seconds;
    ca_release(b->be, large.c.data);
    ca_release(b->be, large.a.data);
out:
    return st;
}

/* ---- layers ---------------------------------------------------------------------------------- */

enum { D = 576, H = 9, K = 3, WIDTH = 64, F = 1536, QKV = (H + 2 * K) * WIDTH };

/* `count` sequences of `length` rows through one layer, with `lanes` cotangents. */
typedef struct layer {
    int64_t count, length, rows, lanes;
    ca_sequences sequences;
    ca_attention attention;
    ca_norm norm;
    ca_tensor gain, w_qkv, w_o, w_gate_up, w_down, cosine, sine;
    ca_tensor x, normed, qkv, q, k, v, o, lse, gate_up, hidden;          /* forward */
    ca_tensor dx, d_normed, d_qkv, dq, dk, dv, d_o, d_gate_up, d_hidden; /* [R, T, ...] */
} layer;

static ca_status make_sequences(bench *b, layer *y) {
    ca_status st = CA_OK;
    int64_t n = y->count, *numbers = NULL;
    int32_t *positions = NULL;
    void *data = NULL;
    ca_sequences *s = &y->sequences;
    *s = (ca_sequences){.count = n, .rows = y->rows, .max_rows = y->length, .max_keys = y->length};
    CA_TRY(ca_calloc((size_t)(4 * n + 2), sizeof *numbers, &numbers));
    for (int64_t i = 0; i <= n; i++) {
        numbers[i] = i * y->length;                     /* row_start */
        numbers[n + 1 + i] = i * y->length * y->length; /* pattern_start */
    }
    s->row_start = numbers;
    s->pattern_start = numbers + n + 1;
    s->prefix_start = numbers + 2 * n + 2;
    s->prefix_rows = numbers + 3 * n + 2;
    CA_TRY(ca_alloc(b->be, (size_t)(4 * n + 2) * sizeof *numbers, &data));
    ca_tensor all = ca_tensor_1d(data, CA_I64, 4 * n + 2);
    CA_TRY(ca_upload(b->be, all, numbers));
    s->row_start_b = ca_tensor_slice(all, 0, 0, n + 1);
    s->pattern_start_b = ca_tensor_slice(all, 0, n + 1, n + 1);
    s->prefix_start_b = ca_tensor_slice(all, 0, 2 * n + 2, n);
    s->prefix_rows_b = ca_tensor_slice(all, 0, 3 * n + 2, n);
    CA_TRY(ca_calloc((size_t)y->rows, sizeof *positions, &positions));
    for (int64_t t = 0; t < y->rows; t++) positions[t] = (int32_t)(t % y->length);
    CA_TRY(ca_alloc(b->be, (size_t)y->rows * sizeof *positions, &data));
    s->positions = ca_tensor_1d(data, CA_I32, y->rows);
    CA_TRY(ca_upload(b->be, s->positions, positions));
out:
    free(positions);
    return st;
}

/* Heads [start, start + count) of a fused [..., QKV] buffer. */
static ca_tensor heads_of(ca_tensor fused, int64_t start, int64_t count) {
    ca_tensor part = ca_tensor_slice(fused, fused.rank - 1, start * WIDTH, count * WIDTH);
    return ca_tensor_split_last(part, count);
}

static ca_status make_layer(bench *b, layer *y) {
    ca_status st = CA_OK;
    const int64_t t = y->rows, r = y->lanes;
    y->attention =
        (ca_attention){.heads = H, .kv_heads = K, .head_dim = WIDTH, .scale = 1 / sqrt(WIDTH)};
    y->norm = (ca_norm){.kind = CA_NORM_RMS, .epsilon = 1e-5};
    struct {
        ca_tensor *tensor;
        int64_t shape[4];
        double scale;
    } parts[] = {
        {&y->gain, {D}, 1},
        {&y->w_qkv, {QKV, D}, 0.02},
        {&y->w_o, {D, D}, 0.02},
        {&y->w_gate_up, {2 * F, D}, 0.02},
        {&y->w_down, {D, F}, 0.02},
        {&y->cosine, {y->length, WIDTH / 2}, 0.7},
        {&y->sine, {y->length, WIDTH / 2}, 0.7},
        {&y->x, {t, D}, 1},
        {&y->normed, {t, D}, 1},
        {&y->qkv, {t, QKV}, 1},
        {&y->o, {t, H, WIDTH}, 1},
        {&y->lse, {t, H}, 1},
        {&y->gate_up, {t, 2 * F}, 1},
        {&y->hidden, {t, F}, 1},
        {&y->dx, {r, t, D}, 1},
        {&y->d_normed, {r, t, D}, 1},
        {&y->d_qkv, {r, t, QKV}, 1},
        {&y->d_o, {r, t, H, WIDTH}, 1},
        {&y->d_gate_up, {r, t, 2 * F}, 1},
        {&y->d_hidden, {r, t, F}, 1},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        int rank = 0;
        while (rank < 4 && parts[i].shape[rank] > 0) rank++;
        CA_TRY(make_tensor(b, rank, parts[i].shape, parts[i].scale, parts[i].tensor));
    }
    y->q = heads_of(y->qkv, 0, H);
    y->k = heads_of(y->qkv, H, K);
    y->v = heads_of(y->qkv, H + K, K);
    y->dq = heads_of(y->d_qkv, 0, H);
    y->dk = heads_of(y->d_qkv, H, K);
    y->dv = heads_of(y->d_qkv, H + K, K);
    CA_TRY(make_sequences(b, y));
out:
    return st;
}

static void free_layer(bench *b, layer *y) {
    const ca_tensor all[] = {y->gain,
                             y->w_qkv,
                             y->w_o,
                             y->w_gate_up,
                             y->w_down,
                             y->cosine,
                             y->sine,
                             y->x,
                             y->normed,
                             y->qkv,
                             y->o,
                             y->lse,
                             y->gate_up,
                             y->hidden,
                             y->dx,
                             y->d_normed,
                             y->d_qkv,
                             y->d_o,
                             y->d_gate_up,
                             y->d_hidden,
                             y->sequences.row_start_b,
                             y->sequences.positions};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ca_release(b->be, all[i].data);
    free((void *)(uintptr_t)y->sequences.row_start);
}

/* x += a w^T */
static ca_status add_linear(ca_backend *be, ca_tensor x, ca_tensor a, ca_tensor w) {
    return ca_matmul(be, x, a, w, absent,
                     (ca_matmul_options){.transpose_b = true, .alpha = 1, .beta = 1});
}

static ca_status forward(bench *b, void *context) {
    ca_status st = CA_OK;
    layer *y = context;
    ca_backend *be = b->be;
    CA_TRY(ca_norm_fwd(be, y->normed, y->x, y->gain, absent, y->norm));
    CA_TRY(ca_linear_fwd(be, y->qkv, y->normed, y->w_qkv, absent));
    CA_TRY(ca_rope(be, y->q, y->cosine, y->sine, y->sequences.positions, false));
    CA_TRY(ca_rope(be, y->k, y->cosine, y->sine, y->sequences.positions, false));
    CA_TRY(ca_attention_fwd(be, y->o, y->lse, y->q, y->k, y->v, absent, absent, &y->sequences,
                            y->attention));
    CA_TRY(add_linear(be, y->x, ca_tensor_reshape(y->o, 2, (const int64_t[]){y->rows, D}), y->w_o));
    CA_TRY(ca_norm_fwd(be, y->normed, y->x, y->gain, absent, y->norm));
    CA_TRY(ca_linear_fwd(be, y->gate_up, y->normed, y->w_gate_up, absent));
    CA_TRY(ca_act_fwd(be, y->hidden, y->gate_up, CA_SILU, true));
    CA_TRY(add_linear(be, y->x, y->hidden, y->w_down));
out:
    return st;
}

static ca_status backward(bench *b, void *context) {
    ca_status st = CA_OK;
    layer *y = context;
    ca_backend *be = b->be;
    const int64_t r = y->lanes;
    CA_TRY(ca_linear_bwd(be, y->d_hidden, y->dx, y->w_down));
    CA_TRY(
        ca_act_bwd(be, y->d_gate_up, y->d_hidden, ca_tensor_repeat(y->gate_up, r), CA_SILU, true));
    CA_TRY(ca_linear_bwd(be, y->d_normed, y->d_gate_up, y->w_gate_up));
    CA_TRY(ca_norm_bwd(be, y->dx, y->d_normed, ca_tensor_repeat(y->x, r), y->gain, y->norm, true));
    CA_TRY(ca_linear_bwd(be, ca_tensor_reshape(y->d_o, 3, (const int64_t[]){r, y->rows, D}), y->dx,
                         y->w_o));
    CA_TRY(ca_attention_bwd(be, y->dq, y->dk, y->dv, y->d_o, y->o, y->lse, y->q, y->k, y->v, absent,
                            absent, &y->sequences, y->attention));
    CA_TRY(ca_rope(be, y->dq, y->cosine, y->sine, y->sequences.positions, true));
    CA_TRY(ca_rope(be, y->dk, y->cosine, y->sine, y->sequences.positions, true));
    CA_TRY(ca_linear_bwd(be, y->d_normed, y->d_qkv, y->w_qkv));
    CA_TRY(ca_norm_bwd(be, y->dx, y->d_normed, ca_tensor_repeat(y->x, r), y->gain, y->norm, true));
out:
    return st;
}

/* The attention of the layer alone. */
static ca_status attention_only(bench *b, void *context) {
    layer *y = context;
    return ca_attention_fwd(b->be, y->o, y->lse, y->q, y->k, y->v, absent, absent, &y->sequences,
                            y->attention);
}
static ca_status attention_bwd_only(bench *b, void *context) {
    layer *y = context;
    return ca_attention_bwd(b->be, y->dq, y->dk, y->dv, y->d_o, y->o, y->lse, y->q, y->k, y->v,
                            absent, absent, &y->sequences, y->attention);
}

static ca_status bench_layer(bench *b, int64_t count, int64_t length, int64_t lanes) {
    ca_status st = CA_OK;
    layer y = {.count = count, .length = length, .rows = count * length, .lanes = lanes};
    CA_TRY(make_layer(b, &y));
    /* causal products count half; the recomputed scores of the backward do not count */
    const double linear = 2.0 * (double)y.rows * ((double)QKV * D + D * D + 3.0 * D * F);
    const double scores = (double)(count * length * (length + 1)) * H * WIDTH;
    const struct {
        const char *name;
        bench_function function;
        double flops;
    } parts[] = {
        {"layer_fwd", forward, linear + 2 * scores},
        {"layer_bwd", backward, (double)lanes * (linear + 4 * scores)},
        {"attention_fwd", attention_only, 2 * scores},
        {"attention_bwd", attention_bwd_only, (double)lanes * 4 * scores},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        double seconds;
        char name[96];
        snprintf(name, sizeof name, "%s %lld x %lld rows, %lld lanes", parts[i].name,
                 (long long)count, (long long)length, (long long)lanes);
        CA_TRY(measure(b, parts[i].function, &y, &seconds));
        print_line(b, name, seconds, parts[i].flops, 0);
    }
out:
    free_layer(b, &y);
    return st;
}

static ca_status bench_layers(bench *b) {
    ca_status st = CA_OK;
    CA_TRY(bench_layer(b, 1, 512, 1));
    CA_TRY(bench_layer(b, 1, 512, 16));
    CA_TRY(bench_layer(b, 64, 32, 1));
    CA_TRY(bench_layer(b, 1, 16, 1));
    CA_TRY(bench_layer(b, 1, 16, 16));
out:
    return st;
}

/* ---- single operations ------------------------------------------------------------------- */

/* Tensors of one measurement; each `run_...` says which it uses. */
typedef struct operands {
    ca_tensor y, x, w, gain;
    ca_tensor index; /* i32, [rows, 10] of 0: indices of the k largest, targets */
} operands;

static ca_status run_linear(bench *b, void *context) { /* y = x w^T */
    operands *p = context;
    return ca_linear_fwd(b->be, p->y, p->x, p->w, absent);
}
static ca_status run_norm(bench *b, void *context) {
    operands *p = context;
    return ca_norm_fwd(b->be, p->y, p->x, p->gain, absent, (ca_norm){.epsilon = 1e-5});
}
static ca_status run_norm_bwd(bench *b, void *context) { /* w as the cotangent */
    operands *p = context;
    return ca_norm_bwd(b->be, p->y, p->w, p->x, p->gain, (ca_norm){.epsilon = 1e-5}, false);
}
static ca_status run_norm_stats(bench *b, void *context) { /* w for 1 / deviation */
    operands *p = context;
    ca_tensor inverse = ca_tensor_1d(p->w.data, CA_F32, p->x.shape[0]);
    return ca_norm_stats(b->be, p->y, inverse, p->x, (ca_norm){.epsilon = 1e-5});
}
static ca_status run_add(bench *b, void *context) {
    operands *p = context;
    return ca_add(b->be, p->y, p->x, 0.5);
}
static ca_status run_silu(bench *b, void *context) {
    operands *p = context;
    return ca_act_fwd(b->be, p->y, p->x, CA_SILU, false);
}
static ca_status run_gelu(bench *b, void *context) {
    operands *p = context;
    return ca_act_fwd(b->be, p->y, p->x, CA_GELU, false);
}
static ca_status run_silu_bwd(bench *b, void *context) { /* w as the cotangent */
    operands *p = context;
    return ca_act_bwd(b->be, p->y, p->w, p->x, CA_SILU, false);
}
static ca_status run_soft_cap(bench *b, void *context) {
    operands *p = context;
    return ca_soft_cap_fwd(b->be, p->y, p->x, 30);
}
static ca_status run_log_sum_exp(bench *b, void *context) {
    operands *p = context;
    return ca_log_sum_exp(b->be, ca_tensor_1d(p->y.data, CA_F32, p->x.shape[0]), p->x);
}
static ca_status run_top_k(bench *b, void *context) {
    operands *p = context;
    return ca_top_k(b->be, ca_tensor_2d(p->y.data, CA_F32, p->x.shape[0], p->index.shape[1]),
                    p->index, p->x);
}
static ca_status run_row_dots(bench *b, void *context) {
    operands *p = context;
    return ca_row_dots(b->be, ca_tensor_1d(p->y.data, CA_F32, p->x.shape[0]), p->x, p->w);
}
static ca_status run_row_distances(bench *b, void *context) {
    operands *p = context;
    return ca_row_distances(b->be, ca_tensor_1d(p->y.data, CA_F32, p->x.shape[0]), p->x, p->w);
}

static ca_status run_mix(bench *b, void *context) { /* the same mask for every row */
    operands *p = context;
    return ca_mix_fwd(b->be, p->y, p->x, p->w, ca_tensor_repeat(p->gain, p->x.shape[0]));
}
static ca_status run_mix_bwd(bench *b, void *context) { /* y in place, one weight for a row */
    operands *p = context;
    ca_tensor mask = ca_tensor_slice(p->w, 1, 0, 1);
    ca_tensor d_mask = ca_tensor_2d(p->index.data, CA_F32, p->x.shape[0], 1);
    return ca_mix_bwd(b->be, p->y, absent, d_mask, p->y, p->x, p->w, mask, false);
}
static ca_status run_cross_entropy(bench *b, void *context) { /* forward and backward */
    operands *p = context;
    ca_status st = CA_OK;
    ca_tensor target = ca_tensor_1d(p->index.data, CA_I32, p->x.shape[0]);
    ca_tensor loss = ca_tensor_1d(p->w.data, CA_F32, p->x.shape[0]);
    CA_TRY(ca_cross_entropy_fwd(b->be, loss, p->x, target));
    CA_TRY(ca_cross_entropy_bwd(b->be, p->y, p->x, target, loss));
out:
    return st;
}
static ca_status run_column_sums(bench *b, void *context) {
    operands *p = context;
    return ca_column_sums(b->be, ca_tensor_1d(p->y.data, CA_F32, p->x.shape[1]), p->x);
}
/* gain as every row's gradient; a moment below 0 gives NaN, which costs what a number costs */
static ca_status run_adam(bench *b, void *context) {
    operands *p = context;
    const ca_adam adam = {.learning_rate = 1e-3,
                          .beta1 = 0.9,
                          .beta2 = 0.999,
                          .epsilon = 1e-8,
                          .step = 1,
                          .lower = -(double)INFINITY,
                          .upper = (double)INFINITY};
    return ca_adam_step(b->be, p->y, p->x, p->w, ca_tensor_repeat(p->gain, p->x.shape[0]), adam);
}

/* One operation on [rows, width] tensors that reads and writes `passes` of them. */
static ca_status bench_rows(bench *b, const char *name, bench_function function, int64_t rows,
                            int64_t width, int passes) {
    ca_status st = CA_OK;
    enum { LARGEST = 10 };
    operands p = {0};
    const int64_t shape[] = {rows, width};
    void *index = NULL;
    CA_TRY(make_tensor(b, 2, shape, 1, &p.y));
    CA_TRY(make_tensor(b, 2, shape, 4, &p.x));
    CA_TRY(make_tensor(b, 2, shape, 1, &p.w));
    CA_TRY(make_tensor(b, 1, &width, 1, &p.gain));
    CA_TRY(ca_alloc(b->be, (size_t)(rows * LARGEST) * sizeof(int32_t), &index));
    p.index = ca_tensor_2d(index, CA_I32, rows, LARGEST);
    CA_TRY(ca_fill(b->be, p.index, 0));
    double seconds;
    char text[96];
    snprintf(text, sizeof text, "%s [%" PRId64 ", %" PRId64 "]", name, rows, width);
    CA_TRY(measure(b, function, &p, &seconds));
    print_line(b, text, seconds, 0, (double)(passes * rows * width) * sizeof(float));
out:
    ca_release(b->be, p.y.data);
    ca_release(b->be, p.x.data);
    ca_release(b->be, p.w.data);
    ca_release(b->be, p.gain.data);
    ca_release(b->be, index);
    return st;
}

static ca_status bench_linear(bench *b, int64_t m, int64_t n, int64_t k) {
    ca_status st = CA_OK;
    operands p = {0};
    CA_TRY(make_tensor(b, 2, (const int64_t[]){m, n}, 1, &p.y));
    CA_TRY(make_tensor(b, 2, (const int64_t[]){m, k}, 1, &p.x));
    CA_TRY(make_tensor(b, 2, (const int64_t[]){n, k}, 1, &p.w));
    double seconds;
    char text[96];
    snprintf(text, sizeof text, "linear_fwd %" PRId64 " rows, w [%" PRId64 ", %" PRId64 "]", m, n,
             k);
    CA_TRY(measure(b, run_linear, &p, &seconds));
    print_line(b, text, seconds, 2.0 * (double)(m * n * k),
               (double)(m * n + m * k + n * k) * sizeof(float));
out:
    ca_release(b->be, p.y.data);
    ca_release(b->be, p.x.data);
    ca_release(b->be, p.w.data);
    return st;
}

static ca_status bench_operations(bench *b) {
    ca_status st = CA_OK;
    const int64_t rows_of_prompts[] = {1, 2, 4, 8, 16, 32, 64, 512};
    for (size_t i = 0; i < sizeof rows_of_prompts / sizeof *rows_of_prompts; i++)
        CA_TRY(bench_linear(b, rows_of_prompts[i], 2 * F, D));
    for (size_t i = 0; i < 6; i++) CA_TRY(bench_linear(b, rows_of_prompts[i], 49152, D));
    const struct {
        const char *name;
        bench_function function;
        int64_t rows, width;
        int passes;
    } rows[] = {
        {"norm_fwd", run_norm, 8192, D, 2},
        {"norm_bwd", run_norm_bwd, 8192, D, 3},
        {"norm_stats", run_norm_stats, 8192, D, 2},
        {"add", run_add, 8192, D, 3},
        {"act_fwd silu", run_silu, 4096, F, 2},
        {"act_fwd gelu", run_gelu, 4096, F, 2},
        {"act_bwd silu", run_silu_bwd, 4096, F, 3},
        {"soft_cap_fwd", run_soft_cap, 128, 49152, 2},
        {"log_sum_exp", run_log_sum_exp, 128, 49152, 1},
        {"top_k 10", run_top_k, 128, 49152, 1},
        {"row_dots", run_row_dots, 8192, D, 2},
        {"row_distances", run_row_distances, 8192, D, 2},
        {"mix_fwd", run_mix, 8192, D, 3},
        {"mix_bwd", run_mix_bwd, 8192, D, 4},
        {"cross_entropy fwd + bwd", run_cross_entropy, 128, 49152, 3},
        {"column_sums", run_column_sums, 8192, D, 1},
        {"adam_step", run_adam, 8192, D, 6},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        CA_TRY(bench_rows(b, rows[i].name, rows[i].function, rows[i].rows, rows[i].width,
                          rows[i].passes));
out:
    return st;
}

int main(int count, char **words) {
    ca_status st = CA_OK;
    bench b = {0};
    CA_TRY(ca_backend_open(count > 1 ? words[1] : "cpu", count > 2 ? atoi(words[2]) : 0, &b.be));
    CA_TRY(measure_machine(&b));
    printf("%s, %d threads: peak %.1f GFLOP/s, copy %.1f GB/s\n", b.be->name, b.be->threads,
           1e-9 * b.peak, 1e-9 * b.stream);
    CA_TRY(bench_layers(&b));
    CA_TRY(bench_operations(&b));
out:
    if (st != CA_OK) fprintf(stderr, "error: %s\n", ca_error_text());
    ca_backend_close(b.be);
    return ca_status_exit_code(st);
}
