/* SPDX-License-Identifier: MIT
 *
 * Parity of the operations on rows: norms, MLPs, heads, interventions, reductions, optimisers.
 */
#include "table.h"

#include <float.h>
#include <math.h>

/* ---- rows */

enum { TABLE_ROWS = 41 };

/* bit 0: lanes; 1: i64 index and accumulate */
static void gather_as(parity *p, const row_case *c, bool narrow) {
    int64_t values[200];
    for (int64_t i = 0; i < c->rows; i++) values[i] = i * 17 % TABLE_ROWS;
    ca_tensor x = narrow ? parity_input_bf16(p, "x", c->f, SHAPE(TABLE_ROWS, c->width))
                         : parity_input(p, "x", c->f, SHAPE(TABLE_ROWS, c->width));
    ca_tensor y = parity_inout(p, "y", c->f, 0, SHAPE(c->lanes, c->rows, c->width + 1));
    y = ca_tensor_slice(y, 2, 1, c->width);
    ca_tensor index = parity_input_i64(p, "index", bit(c, 1) ? CA_I64 : CA_I32, c->rows, values);
    if (bit(c, 0)) {
        x = ca_tensor_repeat(x, c->lanes);
    } else {
        ca_tensor first = ca_tensor_2d(y.data, y.dtype, c->rows, c->width);
        first.stride[0] = y.stride[1];
        y = first;
    }
    parity_ok(ca_gather(p->be, y, x, index, 24.25, bit(c, 1)));
}

static void gather_case(parity *p, const void *parameters) { gather_as(p, parameters, false); }
static void gather_bf16_case(parity *p, const void *parameters) { gather_as(p, parameters, true); }

static void scatter_add_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    int64_t values[200];
    for (int64_t i = 0; i < c->rows; i++) values[i] = 2 * i + (i > 2);
    ca_tensor y = parity_inout(p, "y", c->f, 0, SHAPE(c->lanes, 2 * c->rows + 5, c->width));
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->lanes, c->rows, c->width + 2));
    x = ca_tensor_slice(x, 2, 1, c->width);
    ca_tensor index = parity_input_i64(p, "index", CA_I64, c->rows, values);
    parity_ok(ca_scatter_add(p->be, y, index, x));
}

static void add_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    ca_tensor y =
        parity_inout(p, "y", c->f, fill_amplitude(c->f), SHAPE(c->lanes, c->rows, c->width));
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->rows, c->width + 1));
    x = ca_tensor_slice(x, 1, 1, c->width);
    parity_ok(ca_add(p->be, y, ca_tensor_repeat(x, c->lanes), bit(c, 0) ? 1.0 : -0.375));
}

static void multiply_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    ca_tensor x = parity_inout(p, "x", c->f, 0, SHAPE(c->lanes, c->rows, c->width));
    ca_tensor w = parity_input(p, "w", NORMAL, SHAPE(c->rows, c->width + 1));
    w = ca_tensor_repeat(ca_tensor_slice(w, 1, 1, c->width), c->lanes);
    parity_ok(ca_multiply(p->be, x, x, w)); /* in place */
}

static void add_scaled_rows_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->rows, c->width));
    ca_tensor scale = parity_input(p, "scale", NORMAL, SHAPE(c->lanes, c->rows + 1));
    ca_tensor y = parity_inout(p, "y", c->f, 0, SHAPE(c->lanes, c->rows, c->width));
    scale = ca_tensor_slice(scale, 1, 0, c->rows);
    parity_ok(ca_add_scaled_rows(p->be, y, ca_tensor_repeat(x, c->lanes), scale, -0.75));
}

static void sum_heads_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->rows, 9, c->width));
    ca_tensor bias = bit(c, 0) ? parity_input(p, "bias", c->f, SHAPE(c->width)) : absent;
    ca_tensor y = parity_output(p, "y", 3 * fill_amplitude(c->f), SHAPE(c->rows, c->width + 1));
    parity_ok(ca_sum_heads(p->be, ca_tensor_slice(y, 1, 0, c->width), x, bias));
}

/* ---- norm */

static const double epsilon = 1e-5;

/* The mean of equal values is off by a rounding of float32 (2^-24, times 4 for its steps), which
 * the division by sqrt(epsilon) raises to a visible output; elsewhere outputs are of order 1. */
static double norm_tolerance(fill f) {
    return f == EQUAL ? 4 * FLT_EPSILON / sqrt(epsilon) : TOLERANCE;
}

static ca_norm norm_of(const row_case *c) {
    return (ca_norm){.kind = bit(c, 0) ? CA_NORM_LAYER : CA_NORM_RMS,
                     .epsilon = epsilon,
                     .gain_offset = bit(c, 1) ? 1 : 0};
}

/* bit 0: kind; 1: gain offset; 2: bias; 3: in place on heads inside wider rows */
static void norm_fwd_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    double tolerance = norm_tolerance(c->f);
    ca_tensor gain = parity_input(p, "gain", NORMAL, SHAPE(c->width));
    ca_tensor bias = bit(c, 2) ? parity_input(p, "bias", NORMAL, SHAPE(c->width)) : absent;
    if (bit(c, 3)) {
        ca_tensor x = parity_inout(p, "x", c->f, 1, SHAPE(c->rows, 5 * c->width));
        parity_set_tolerance(p, tolerance);
        x = ca_tensor_split_last(ca_tensor_slice(x, 1, c->width, 3 * c->width), 3);
        parity_ok(ca_norm_fwd(p->be, x, x, gain, bias, norm_of(c)));
        return;
    }
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->rows, c->width));
    ca_tensor y = parity_output(p, "y", 1, SHAPE(c->rows, c->width));
    parity_set_tolerance(p, tolerance);
    parity_ok(ca_norm_fwd(p->be, y, x, gain, bias, norm_of(c)));
}

/* bit 0: kind; 1: gain offset; 2: accumulate; 3: lanes, dx in place of dy unless accumulating */
static void norm_bwd_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    int64_t lanes = bit(c, 3) ? c->lanes : 1;
    bool accumulate = bit(c, 2), in_place = bit(c, 3) && !accumulate;
    /* dx is at most dy gain / deviation; the deviation is sqrt(epsilon) for tiny rows. */
    double deviation =
        fmax(c->f == EQUAL || c->f == ZERO ? 0 : fill_amplitude(c->f), sqrt(epsilon));
    ca_tensor gain = parity_input(p, "gain", NORMAL, SHAPE(c->width));
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->rows, c->width));
    ca_tensor dy =
        in_place ? parity_inout(p, "dx", NORMAL, 1 / deviation, SHAPE(lanes, c->rows, c->width))
                 : parity_input(p, "dy", NORMAL, SHAPE(lanes, c->rows, c->width));
    parity_set_tolerance(p, norm_tolerance(c->f));
    ca_tensor dx = dy;
    if (!in_place) {
        dx = parity_inout(p, "dx", NORMAL, 1 / deviation, SHAPE(lanes, c->rows, c->width));
        parity_set_tolerance(p, norm_tolerance(c->f));
    }
    parity_ok(ca_norm_bwd(p->be, dx, dy, ca_tensor_repeat(x, lanes), gain, norm_of(c), accumulate));
}

/* bit 0: kind; 1: in place on heads inside wider rows, else lanes that share x */
static void norm_stats_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    double tolerance = norm_tolerance(c->f);
    if (bit(c, 1)) {
        ca_tensor inverse = parity_output(p, "inverse", 0, SHAPE(c->rows, 4));
        ca_tensor x = parity_inout(p, "x", c->f, 1, SHAPE(c->rows, 5 * c->width));
        parity_set_tolerance(p, tolerance);
        x = ca_tensor_split_last(ca_tensor_slice(x, 1, c->width, 3 * c->width), 3);
        parity_ok(ca_norm_stats(p->be, x, ca_tensor_slice(inverse, 1, 1, 3), x, norm_of(c)));
        return;
    }
    ca_tensor inverse = parity_output(p, "inverse", 0, SHAPE(c->lanes, c->rows));
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->rows, c->width + 1));
    x = ca_tensor_repeat(ca_tensor_slice(x, 1, 1, c->width), c->lanes);
    ca_tensor xhat = parity_output(p, "xhat", 1, SHAPE(c->lanes, c->rows, c->width));
    parity_set_tolerance(p, tolerance);
    parity_ok(ca_norm_stats(p->be, xhat, inverse, x, norm_of(c)));
}

/* ---- intervention */

/* bit 0: one weight per row; 1: the same mask for all rows; 2: in place, else accumulating */
static void mix_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    int64_t weights = bit(c, 0) ? 1 : c->width, lanes = c->lanes;
    bool in_place = bit(c, 2);
    double scale = fill_amplitude(c->f);
    ca_tensor source = parity_input(p, "source", c->f, SHAPE(c->rows, c->width));
    ca_tensor mask = parity_input(p, "mask", c->f == TIES ? TIES : NORMAL,
                                  SHAPE(bit(c, 1) ? 1 : c->rows, weights));
    if (bit(c, 1)) mask = ca_tensor_repeat(ca_tensor_1d(mask.data, mask.dtype, weights), c->rows);

    ca_tensor x = parity_inout(p, "x", c->f, scale, SHAPE(c->rows, c->width + 1));
    x = ca_tensor_slice(x, 1, 1, c->width);
    ca_tensor y = in_place ? x : parity_output(p, "y", scale, SHAPE(c->rows, c->width));
    parity_ok(ca_mix_fwd(p->be, y, x, source, mask));

    ca_tensor d_x = parity_inout(p, "d_x", NORMAL, 1, SHAPE(lanes, c->rows, c->width));
    ca_tensor dy = in_place ? d_x : parity_input(p, "dy", NORMAL, SHAPE(lanes, c->rows, c->width));
    ca_tensor d_source = absent, d_mask = absent;
    if (bit(c, 0)) d_source = parity_output(p, "d_source", 1, SHAPE(lanes, c->rows, c->width));
    d_mask =
        parity_output(p, "d_mask", scale * sqrt((double)c->width), SHAPE(lanes, c->rows, weights));
    parity_ok(ca_mix_bwd(p->be, d_x, d_source, d_mask, dy, ca_tensor_repeat(x, lanes),
                         ca_tensor_repeat(source, lanes), ca_tensor_repeat(mask, lanes),
                         !in_place));
    ca_tensor alone = parity_output(p, "d_x alone", 1, SHAPE(lanes, c->rows, c->width));
    parity_ok(ca_mix_bwd(p->be, alone, absent, absent, dy, absent, absent,
                         ca_tensor_repeat(mask, lanes), false));
}

/* One weight per head, for heads inside wider rows. */
static void mix_heads_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    ca_tensor x = parity_inout(p, "x", c->f, fill_amplitude(c->f), SHAPE(c->rows, 5 * c->width));
    x = ca_tensor_split_last(ca_tensor_slice(x, 1, c->width, 3 * c->width), 3);
    ca_tensor source = parity_input(p, "source", c->f, SHAPE(c->rows, 3, c->width));
    ca_tensor mask = parity_input(p, "mask", NORMAL, SHAPE(3, 1));
    parity_ok(ca_mix_fwd(p->be, x, x, source, ca_tensor_repeat(mask, c->rows)));
}

/* ---- mlp */

/* bits 0, 1: kind; 2: gated */
static void act_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    ca_activation kind = (ca_activation)(c->variant & 3);
    bool gated = bit(c, 2);
    int64_t wide = gated ? 2 * c->width : c->width;
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->rows, wide));
    ca_tensor y = parity_output(p, "y", 0, SHAPE(c->rows, c->width));
    parity_ok(ca_act_fwd(p->be, y, x, kind, gated));
    ca_tensor dy = parity_input(p, "dy", NORMAL, SHAPE(c->lanes, c->rows, c->width));
    /* The slope of an activation at the far left is a difference of numbers near 1. */
    ca_tensor dx =
        parity_output(p, "dx", gated ? fill_amplitude(c->f) : 1, SHAPE(c->lanes, c->rows, wide));
    parity_ok(ca_act_bwd(p->be, dx, dy, ca_tensor_repeat(x, c->lanes), kind, gated));
}

/* ---- head */

static void soft_cap_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    double cap = bit(c, 0) ? 30 : 0.5;
    ca_tensor y = parity_inout(p, "y", c->f, 0, SHAPE(c->rows, c->width + 1));
    y = ca_tensor_slice(y, 1, 1, c->width);
    parity_ok(ca_soft_cap_fwd(p->be, y, y, cap));
    /* 1 - (y / cap)^2 is a difference of numbers near 1 where the cap bites. */
    ca_tensor dx = parity_inout(p, "dx", NORMAL, 1, SHAPE(c->rows, c->width));
    parity_ok(ca_soft_cap_bwd(p->be, dx, dx, y, cap));
}

static void log_sum_exp_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->rows, c->width + 1));
    ca_tensor y = parity_output(p, "y", 1, SHAPE(c->rows));
    parity_ok(ca_log_sum_exp(p->be, y, ca_tensor_slice(x, 1, 1, c->width)));
}

static void softmax_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    ca_tensor x = parity_inout(p, "x", c->f, 1, SHAPE(2, c->rows, c->width));
    parity_ok(ca_softmax(p->be, x, x));
}

/* variant: k = 1, 2, all */
static void top_k_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    int64_t k = c->variant == 2 || c->variant >= c->width ? c->width : c->variant + 1;
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->rows, c->width));
    ca_tensor values = parity_output(p, "values", 0, SHAPE(c->rows, k));
    parity_set_tolerance(p, 0); /* values are copied, so they are equal */
    ca_tensor indices = parity_output_typed(p, "indices", CA_I32, SHAPE(c->rows, k));
    parity_ok(ca_top_k(p->be, values, indices, x));
}

/* bit 0: in place */
static void cross_entropy_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    int64_t values[200];
    for (int64_t i = 0; i < c->rows; i++) values[i] = i * 17 % c->width;
    ca_tensor target = parity_input_i64(p, "target", CA_I32, c->rows, values);
    ca_tensor scale = parity_input(p, "scale", NORMAL, SHAPE(c->rows));
    ca_tensor x = parity_inout(p, "x", c->f, 1, SHAPE(c->rows, c->width + 1));
    x = ca_tensor_slice(x, 1, 1, c->width);
    ca_tensor loss = parity_output(p, "loss", 1, SHAPE(c->rows));
    parity_ok(ca_cross_entropy_fwd(p->be, loss, x, target));
    ca_tensor dx = bit(c, 0) ? x : parity_output(p, "dx", 1, SHAPE(c->rows, c->width));
    parity_ok(ca_cross_entropy_bwd(p->be, dx, x, target, scale));
}

/* ---- reduce */

static void row_norms_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->lanes, c->rows, c->width + 1));
    ca_tensor y = parity_output(p, "y", 0, SHAPE(c->lanes, c->rows));
    parity_ok(ca_row_norms(p->be, y, ca_tensor_slice(x, 2, 0, c->width)));
}

static void row_dots_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->lanes, c->rows, c->width));
    ca_tensor w = parity_input(p, "w", c->f, SHAPE(c->rows, c->width + 1));
    w = ca_tensor_repeat(ca_tensor_slice(w, 1, 1, c->width), c->lanes);
    ca_tensor y = parity_output(p, "y", sum_scale(c->f, c->width), SHAPE(c->lanes, c->rows));
    parity_ok(ca_row_dots(p->be, y, x, w));
}

/* bit 0: w absent; 1: x repeated, else w. Differences of float32 are rounded once and terms do not
 * cancel, so that limits are relative to the sums alone. */
static void row_distances_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->lanes, c->rows, c->width));
    ca_tensor w = parity_input(p, "w", c->f, SHAPE(c->rows, c->width + 1));
    w = ca_tensor_repeat(ca_tensor_slice(w, 1, 1, c->width), c->lanes);
    ca_tensor y = parity_output(p, "y", 0, SHAPE(c->lanes, c->rows + 1));
    y = ca_tensor_slice(y, 1, 1, c->rows);
    ca_tensor from = bit(c, 1) ? w : x, to = bit(c, 1) ? x : w;
    parity_ok(ca_row_distances(p->be, y, from, bit(c, 0) ? absent : to));
}

static void column_sums_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    double scale = fill_amplitude(c->f) * sqrt((double)c->rows);
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->lanes, c->rows, c->width + 1));
    ca_tensor y = parity_output(p, "y", scale, SHAPE(c->lanes, c->width + 1));
    parity_ok(ca_column_sums(p->be, ca_tensor_slice(y, 1, 1, c->width),
                             ca_tensor_slice(x, 2, 0, c->width)));
}

/* ---- optimise */

/* bit 0: weight decay; 1: clamped; 2: contiguous */
static void adam_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    const int64_t pad = bit(c, 2) ? 0 : 1;
    ca_adam a = {.learning_rate = 0.01,
                 .beta1 = 0.9,
                 .beta2 = 0.999,
                 .epsilon = 1e-8,
                 .weight_decay = bit(c, 0) ? 0.5 : 0,
                 .lower = bit(c, 1) ? -0.5 : -(double)INFINITY,
                 .upper = bit(c, 1) ? 0.25 : (double)INFINITY};
    /* A parameter of its gradient's size moves by 0.03, so differences to it may cancel. */
    double scale = fmax(fill_amplitude(c->f), 0.03);
    ca_tensor theta = parity_inout(p, "parameter", c->f, scale, SHAPE(c->rows, c->width + pad));
    theta = ca_tensor_slice(theta, 1, pad, c->width);
    ca_tensor first = parity_inout(p, "first", ZERO, 0, SHAPE(c->rows, c->width));
    ca_tensor second = parity_inout(p, "second", ZERO, 0, SHAPE(c->rows, c->width));
    ca_tensor gradient = parity_input(p, "gradient", c->f, SHAPE(c->rows, c->width));
    for (a.step = 1; a.step <= 3; a.step++)
        parity_ok(ca_adam_step(p->be, theta, first, second, gradient, a));
}

/* ---- the table */

static const operation operations[] = {
    {"gather", gather_case, 4, {0, 1, 50, END}, {1, 13, 64, END}, ANY | LANED},
    {"gather bf16", gather_bf16_case, 4, {0, 1, 50, END}, {1, 13, 64, END}, ANY},
    {"scatter_add", scatter_add_case, 1, {0, 1, 50, END}, {1, 13, 64, END}, ANY | LANED},
    {"multiply", multiply_case, 1, {0, 1, 50, END}, {1, 13, 577, END}, ANY | LANED},
    {"add", add_case, 2, {0, 1, 50, END}, {1, 13, 577, END}, ANY | LANED},
    {"add_scaled_rows", add_scaled_rows_case, 1, {0, 1, 50, END}, {1, 13, 577, END}, ANY | LANED},
    {"sum_heads", sum_heads_case, 2, {0, 1, 50, END}, {1, 13, 577, END}, ANY},
    {"norm_fwd", norm_fwd_case, 16, {0, 1, 37, END}, {1, 7, 64, 577, END}, ANY},
    {"norm_bwd", norm_bwd_case, 16, {0, 1, 37, END}, {1, 7, 64, 577, END}, ANY | LANED},
    /* Rows that a block shares, and those that do not fit its shared memory. */
    {"norm_fwd", norm_fwd_case, 16, {3, END}, {1030, 8200, END}, ONE(NORMAL) | ONE(MIXED)},
    {"norm_bwd", norm_bwd_case, 16, {3, END}, {1028, 4102, END}, ONE(NORMAL) | ONE(MIXED)},
    {"norm_stats", norm_stats_case, 4, {0, 1, 37, END}, {1, 7, 64, 577, END}, ANY | LANED},
    {"norm_stats", norm_stats_case, 2, {5, END}, {1030, 8200, END}, ONE(NORMAL) | ONE(MIXED)},
    {"act", act_case, 8, {0, 1, 37, END}, {1, 7, 64, 577, END}, ANY | LANED},
    {"soft_cap", soft_cap_case, 2, {0, 1, 37, END}, {1, 7, 577, END}, ANY},
    {"log_sum_exp", log_sum_exp_case, 1, {0, 1, 37, END}, {1, 7, 577, 5003, END}, ANY},
    {"softmax", softmax_case, 1, {0, 1, 37, END}, {1, 7, 577, 5003, END}, ANY},
    {"top_k", top_k_case, 3, {0, 1, 37, END}, {1, 7, 577, 5003, END}, ANY},
    {"row_norms", row_norms_case, 1, {0, 1, 37, END}, {1, 7, 577, END}, ANY | LANED},
    {"row_dots", row_dots_case, 1, {0, 1, 37, END}, {1, 7, 577, END}, ANY | LANED},
    {"row_norms", row_norms_case, 1, {5, END}, {1028, 2051, END}, ANY},
    {"row_dots", row_dots_case, 1, {5, END}, {1028, 2051, END}, ANY},
    {"row_distances", row_distances_case, 4, {0, 1, 37, END}, {1, 7, 577, 1030, END}, ANY | LANED},
    {"mix", mix_case, 8, {0, 1, 37, END}, {0, 1, 7, 64, END}, ANY},
    {"mix", mix_case, 8, {9, END}, {576, 577, END}, ANY | LANED},
    {"mix", mix_case, 8, {3, END}, {1030, 1032, END}, ONE(NORMAL) | ONE(MIXED)},
    {"mix heads", mix_heads_case, 1, {0, 1, 37, END}, {1, 7, 64, END}, ANY},
    {"cross_entropy", cross_entropy_case, 2, {0, 1, 37, END}, {1, 7, 577, 5003, END}, ANY},
    {"column_sums", column_sums_case, 1, {0, 1, 37, 333, END}, {1, 13, 577, END}, ANY | LANED},
    /* Sums of sums, on every number of multiprocessors. */
    {"column_sums", column_sums_case, 1, {2000, END}, {5, 70, END}, ONE(NORMAL)},
    {"adam_step", adam_case, 8, {0, 1, 37, END}, {1, 7, 576, END}, ANY},
};

enum { OPERATION_COUNT = sizeof operations / sizeof operations[0] };

int main(void) {
    struct CMUnitTest tests[OPERATION_COUNT];
    table_tests(operations, OPERATION_COUNT, tests);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
