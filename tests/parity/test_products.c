/* SPDX-License-Identifier: MIT
 *
 * Parity of copies between dtypes and of matrix products, with factors in f32 and bf16.
 */
#include "table.h"

#include <float.h>

/* ---- memory */

static void copy_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    static const ca_dtype dtypes[] = {CA_F32, CA_BF16, CA_F16};
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->rows, c->width + 3));
    x = ca_tensor_slice(x, 1, 1, c->width);
    ca_tensor y = parity_output_typed(p, "y", dtypes[c->variant], SHAPE(c->rows, c->width + 1));
    ca_tensor back = parity_output(p, "back", 0, SHAPE(c->rows, c->width));
    y = ca_tensor_slice(y, 1, 0, c->width);
    parity_ok(ca_copy(p->be, y, x));
    parity_ok(ca_copy(p->be, back, y));
}

/* variant: from each floating dtype to each other; values come from x, rounded once. */
static void convert_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    static const ca_dtype dtypes[] = {CA_F32, CA_F64, CA_F16, CA_BF16};
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->rows, c->width));
    ca_tensor from =
        parity_output_typed(p, "from", dtypes[c->variant / 4], SHAPE(c->rows, c->width));
    ca_tensor to = parity_output_typed(p, "to", dtypes[c->variant % 4], SHAPE(c->rows, c->width));
    parity_ok(ca_copy(p->be, from, x));
    parity_ok(ca_copy(p->be, to, from));
}

static void copy_integers_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    const ca_dtype dtype = c->variant == 0 ? CA_I32 : CA_I64;
    int64_t values[200];
    for (int64_t i = 0; i < c->rows * c->width; i++) values[i] = i % 2 ? -i : INT32_MAX - i;
    ca_tensor x = parity_input_i64(p, "x", dtype, c->rows * c->width, values);
    ca_tensor y = parity_output_typed(p, "y", dtype, SHAPE(c->rows, c->width + 1));
    parity_ok(ca_copy(p->be, ca_tensor_slice(y, 1, 1, c->width),
                      ca_tensor_reshape(x, SHAPE(c->rows, c->width))));
}

/* variant: dtype */
static void fill_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    static const ca_dtype dtypes[] = {CA_F32, CA_F64, CA_F16, CA_BF16, CA_I32, CA_I64};
    const bool integer = c->variant >= 4;
    ca_tensor y = parity_output_typed(p, "y", dtypes[c->variant], SHAPE(c->rows, 2, c->width));
    parity_ok(ca_fill(p->be, ca_tensor_slice(y, 1, 1, 1), integer ? -7 : 0.1));
}

/* ---- dense */

typedef enum narrow_factors { NONE_NARROW, B_NARROW, BOTH_NARROW } narrow_factors;

/* bits 0, 1: transposes; 2: bias and beta; 3: strided rows, at no multiple of 16 bytes; 4: a batch
 * that shares b */
static void multiply_as(parity *p, const row_case *c, int64_t n, narrow_factors narrow, bool wide) {
    ca_tensor (*a_input)(parity *, const char *, fill, int, const int64_t *) =
        narrow == BOTH_NARROW ? parity_input_bf16 : parity_input;
    ca_tensor (*b_input)(parity *, const char *, fill, int, const int64_t *) =
        narrow != NONE_NARROW ? parity_input_bf16 : parity_input;
    int64_t m = c->rows, k = c->width, batch = bit(c, 4) ? 3 : 1;
    int64_t pad = bit(c, 3) ? 5 : 0;
    fill of_b = c->f == RARE ? NORMAL : c->f;
    ca_matmul_options o = {
        .transpose_a = bit(c, 0), .transpose_b = bit(c, 1), .alpha = 1, .wide = wide};
    ca_tensor a = o.transpose_a ? a_input(p, "a", c->f, SHAPE(batch, k, m + pad))
                                : a_input(p, "a", c->f, SHAPE(batch, m, k + pad));
    ca_tensor b = o.transpose_b ? b_input(p, "b", of_b, SHAPE(n, k + pad))
                                : b_input(p, "b", of_b, SHAPE(k, n + pad));
    ca_tensor y = parity_inout(p, "c", NORMAL, sum_scale(c->f, k), SHAPE(batch, m, n + pad));
    ca_tensor bias = bit(c, 2) ? parity_input(p, "bias", NORMAL, SHAPE(n)) : absent;
    a = ca_tensor_slice(a, 2, pad > 0, a.shape[2] - pad);
    b = ca_tensor_slice(b, 1, pad > 0, b.shape[1] - pad);
    y = ca_tensor_slice(y, 2, pad > 0, n);
    if (bit(c, 2)) o.alpha = -0.5, o.beta = 2;
    if (bit(c, 4)) {
        b = ca_tensor_repeat(b, batch);
    } else { /* without the batch axis */
        a = ca_tensor_2d(a.data, a.dtype, a.shape[1], a.shape[2]);
        a.stride[0] += pad;
        y = ca_tensor_2d(y.data, y.dtype, m, n);
        y.stride[0] += pad;
    }
    parity_ok(ca_matmul(p->be, y, a, b, bias, o));
}

/* Columns of a product, none of the same width. */
static int64_t columns_for(const row_case *c) { return 1 + c->width % 71; }

static void matmul_case(parity *p, const void *parameters) {
    multiply_as(p, parameters, columns_for(parameters), NONE_NARROW, false);
}

/* bits 0 to 2: bits 2 to 4 of others. The products of linear layers, with as many columns: a
 * backend may go about some rows of theirs, and large weights, in another way. */
static void matmul_wide_case(parity *p, const void *parameters) {
    row_case c = *(const row_case *)parameters;
    c.variant = c.variant << 2 | 2;
    multiply_as(p, &c, 255 + columns_for(&c), NONE_NARROW, false);
}

/* b in bf16; bit 5: a is not rounded. Both sides multiply the same bf16 values exactly, so that the
 * limit is that of f32 sums. */
static void matmul_bf16_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    multiply_as(p, c, columns_for(c), B_NARROW, bit(c, 5));
}

static void matmul_both_bf16_case(parity *p, const void *parameters) {
    multiply_as(p, parameters, columns_for(parameters), BOTH_NARROW, false);
}

/* A view [G, B, ...] of which `axis` repeats what it has one of. */
static ca_tensor repeat_along(ca_tensor t, int axis, int64_t count) {
    t.shape[axis] = count;
    t.stride[axis] = 0;
    return t;
}

/* Products along two axes. bits 0, 1: transposes; 2: bias, beta and strided rows; 3, 4: both axes
 * of b go on in one stride, b is repeated along the second axis, or the first, or a and c lie in
 * memory with their axes exchanged; 5: no groups. For single rows more products than are listed at
 * a time, so that a list ends within a group. bf16 is listed where all matrices begin at multiples
 * of 16 bytes: with k a multiple of 8, unless bit 2 moves the first one or, for single rows, sets
 * results apart by no multiple. */
static void multiply_groups(parity *p, const row_case *c, int64_t n, bool narrow, bool wide) {
    const int64_t m = c->rows, k = c->width, batch = 3;
    const int64_t pad = !bit(c, 2) || n == 26 ? 0 : k % 8 ? 5 : 8;
    const int64_t groups = bit(c, 5) ? 0 : m == 1 ? 100 : 2;
    const int layout = c->variant >> 3 & 3;
    const int64_t b_groups = layout == 2 ? 1 : groups, b_batch = layout == 1 ? 1 : batch;
    const int64_t first = layout == 3 ? batch : groups, second = layout == 3 ? groups : batch;
    ca_matmul_options o = {
        .transpose_a = bit(c, 0), .transpose_b = bit(c, 1), .alpha = 1, .wide = wide};
    ca_tensor a = o.transpose_a ? parity_input(p, "a", c->f, SHAPE(first, second, k, m + pad))
                                : parity_input(p, "a", c->f, SHAPE(first, second, m, k + pad));
    const int64_t lines = o.transpose_b ? n : k, columns = o.transpose_b ? k : n;
    ca_tensor b =
        narrow ? parity_input_bf16(p, "b", c->f, SHAPE(b_groups, b_batch, lines, columns + pad))
               : parity_input(p, "b", c->f, SHAPE(b_groups, b_batch, lines, columns + pad));
    ca_tensor y =
        parity_inout(p, "c", NORMAL, sum_scale(c->f, k), SHAPE(first, second, m, n + pad));
    ca_tensor bias = bit(c, 2) ? parity_input(p, "bias", NORMAL, SHAPE(n)) : absent;
    a = ca_tensor_slice(a, 3, pad > 0, a.shape[3] - pad);
    b = ca_tensor_slice(b, 3, pad > 0, columns);
    y = ca_tensor_slice(y, 3, pad > 0, n);
    if (layout == 1) b = repeat_along(b, 1, batch);
    if (layout == 2) b = repeat_along(b, 0, groups);
    if (layout == 3) a = ca_tensor_swap_axes(a, 0, 1), y = ca_tensor_swap_axes(y, 0, 1);
    if (bit(c, 2)) o.alpha = -0.5, o.beta = 2;
    parity_ok(ca_matmul(p->be, y, a, b, bias, o));
}

static int64_t columns_of_groups(const row_case *c) {
    return c->width % 8 ? 1 + c->width % 29 : bit(c, 2) && c->rows == 1 ? 26 : 24;
}

static void groups_case(parity *p, const void *parameters) {
    multiply_groups(p, parameters, columns_of_groups(parameters), false, false);
}

static void wide_groups_case(parity *p, const void *parameters) {
    multiply_groups(p, parameters, 264, false, false);
}

/* bit 6: a is not rounded */
static void groups_bf16_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    multiply_groups(p, c, columns_of_groups(c), true, bit(c, 6));
}

/* bit 0: a is not rounded; 1: transposed; 2: strided rows, at no multiple of 16 bytes; 3: a batch.
 * A product with the unit matrix shows how an f32 factor enters one in bf16: rounded once, or cut
 * into terms whose sum, in f32, is the number itself, so that nothing may differ. */
static void split_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    const int64_t m = c->rows, n = c->width, batch = bit(c, 3) ? 3 : 1, pad = bit(c, 2) ? 5 : 0;
    const int64_t lines = bit(c, 1) ? n : m, columns = bit(c, 1) ? m : n;
    ca_matmul_options o = {.transpose_a = bit(c, 1), .alpha = 1, .wide = bit(c, 0)};
    ca_tensor a = parity_input(p, "a", c->f, SHAPE(batch, lines, columns + pad));
    ca_tensor unit = parity_output_typed(p, "unit", CA_BF16, SHAPE(n, n));
    ca_tensor diagonal = ca_tensor_2d(unit.data, CA_BF16, n, 1);
    diagonal.stride[0] = n + 1;
    ca_tensor y = parity_output(p, "y", 0, SHAPE(batch, m, n));
    parity_set_tolerance(p, 0);
    a = ca_tensor_slice(a, 2, pad > 0, columns);
    parity_ok(ca_fill(p->be, unit, 0));
    parity_ok(ca_fill(p->be, diagonal, 1));
    parity_ok(ca_matmul(p->be, y, a, ca_tensor_repeat(unit, batch), absent, o));
}

/* variant: beta = 0, 1, 2. What is left of a product over nothing is its bias, rounded twice at
 * most; with beta = 1 a backend may add it by an operation of its own. */
static void add_bias_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    ca_tensor a = parity_input(p, "a", ZERO, SHAPE(c->lanes, c->rows, 0));
    ca_tensor b = parity_input(p, "b", ZERO, SHAPE(0, c->width));
    ca_tensor bias = parity_input(p, "bias", c->f, SHAPE(c->width));
    ca_tensor y =
        parity_inout(p, "y", c->f, fill_amplitude(c->f), SHAPE(c->lanes, c->rows, c->width + 1));
    parity_set_tolerance(p, 3 * FLT_EPSILON);
    y = ca_tensor_slice(y, 2, 1, c->width);
    ca_matmul_options o = {.alpha = 1, .beta = c->variant};
    parity_ok(ca_matmul(p->be, y, a, ca_tensor_repeat(b, c->lanes), bias, o));
}

static void linear_case(parity *p, const void *parameters) {
    const row_case *c = parameters;
    int64_t out = 37;
    double scale = sum_scale(c->f, c->width + out);
    ca_tensor x = parity_input(p, "x", c->f, SHAPE(c->rows, c->width));
    ca_tensor w = parity_input(p, "w", c->f, SHAPE(out, c->width));
    ca_tensor bias = bit(c, 0) ? parity_input(p, "bias", c->f, SHAPE(out)) : absent;
    ca_tensor y = parity_output(p, "y", scale, SHAPE(c->rows, out));
    parity_ok(ca_linear_fwd(p->be, y, x, w, bias));
    ca_tensor dy = parity_input(p, "dy", c->f, SHAPE(c->lanes, c->rows, out));
    ca_tensor dx = parity_output(p, "dx", scale, SHAPE(c->lanes, c->rows, c->width));
    parity_ok(ca_linear_bwd(p->be, dx, dy, w));
}

/* ---- the table */

static const operation operations[] = {
    {"copy", copy_case, 3, {0, 1, 7, END}, {1, 13, 64, END}, ANY},
    {"convert", convert_case, 16, {0, 7, END}, {13, 64, END}, ANY},
    {"copy integers", copy_integers_case, 2, {0, 1, 3, END}, {1, 13, 64, END}, ONE(ZERO)},
    {"fill", fill_case, 6, {0, 1, 7, END}, {1, 13, 64, END}, ONE(NORMAL)},
    {"matmul",
     matmul_case,
     32,
     {0, 1, 5, 66, END},
     {0, 1, 17, 130, END},
     ONE(NORMAL) | ONE(MIXED) | ONE(TIES)},
    {"matmul", matmul_case, 4, {1, 70, END}, {2000, END}, ONE(NORMAL) | ONE(MIXED)},
    {"matmul", matmul_case, 32, {3, END}, {4500, END}, ONE(RARE) | ONE(ZERO)},
    {"matmul wide", matmul_wide_case, 8, {9, 35, 130, END}, {5, 83, 1100, END}, ONE(NORMAL)},
    {"matmul bf16",
     matmul_bf16_case,
     64,
     {0, 5, 66, END},
     {0, 1, 130, END},
     ONE(NORMAL) | ONE(MIXED)},
    {"matmul bf16", matmul_bf16_case, 4, {1, 70, END}, {2000, 4500, END}, ONE(NORMAL)},
    {"matmul bf16 by bf16",
     matmul_both_bf16_case,
     32,
     {0, 5, 66, END},
     {0, 1, 130, END},
     ONE(NORMAL) | ONE(MIXED)},
    {"matmul bf16 by bf16", matmul_both_bf16_case, 4, {70, END}, {2000, 4500, END}, ONE(NORMAL)},
    {"matmul in groups",
     groups_case,
     64,
     {0, 1, 34, END},
     {0, 1, 17, 130, END},
     ONE(NORMAL) | ONE(MIXED)},
    {"matmul wide in groups", wide_groups_case, 64, {12, END}, {17, 64, END}, ONE(NORMAL)},
    {"matmul in groups bf16", groups_bf16_case, 128, {1, 34, END}, {1, 130, 136, END}, ONE(NORMAL)},
    {"split_bf16",
     split_case,
     16,
     {0, 5, 66, END},
     {1, 13, 130, END},
     ANY & ~ONE(TIES) & ~ONE(EQUAL)},
    {"add_bias", add_bias_case, 3, {0, 1, 7, 66, END}, {1, 13, 577, END}, ANY | LANED},
    {"linear", linear_case, 2, {0, 1, 19, END}, {1, 33, 576, END}, ANY | LANED},
};

enum { OPERATION_COUNT = sizeof operations / sizeof operations[0] };

int main(void) {
    struct CMUnitTest tests[OPERATION_COUNT];
    table_tests(operations, OPERATION_COUNT, tests);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
