/* SPDX-License-Identifier: MIT
 *
 * What the checked operations refuse, with which words, and what they let through; how backends
 * are opened by name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "parity.h"
#include "sequences.h"

static ca_backend *be;
static float memory[4096];

static int open_ref(void **state) {
    (void)state;
    return ca_backend_open("ref", 1, &be) == CA_OK ? 0 : -1;
}

static int close_ref(void **state) {
    (void)state;
    ca_backend_close(be);
    return 0;
}

static void assert_fails(ca_status st, ca_status expected, const char *text) {
    assert_int_equal(st, expected);
    assert_string_equal(ca_error_text(), text);
    ca_error_clear();
}

static void assert_shape(ca_status st, const char *text) { assert_fails(st, CA_E_SHAPE, text); }

static void assert_ok(ca_status st) {
    if (st != CA_OK) fail_msg("%s", ca_error_text());
}

/* Tensors that share nothing: part n of the memory. */
static float *part(int n) { return memory + 256 * n; }
static ca_tensor vec(int n, int64_t a) { return ca_tensor_1d(part(n), CA_F32, a); }
static ca_tensor mat(int n, int64_t a, int64_t b) { return ca_tensor_2d(part(n), CA_F32, a, b); }

static const ca_tensor absent;
static const ca_norm rms = {CA_NORM_RMS, 1e-5, 0};
static const ca_matmul_options plain = {.alpha = 1};

static void test_shapes(void **state) {
    (void)state;
    assert_shape(ca_norm_fwd(be, mat(0, 3, 9), mat(1, 3, 9), vec(2, 8), absent, rms),
                 "norm_fwd: gain: expected [9] f32, got [8] f32");
    assert_shape(ca_norm_fwd(be, mat(0, 3, 9), mat(1, 2, 9), vec(2, 9), absent, rms),
                 "norm_fwd: x: expected [3, 9] f32, got [2, 9] f32");
    assert_shape(ca_norm_fwd(be, mat(0, 3, 9), mat(1, 3, 9), absent, absent, rms),
                 "norm_fwd: gain: expected [9] f32, got nothing");
    assert_shape(ca_norm_stats(be, mat(0, 3, 9), mat(1, 3, 1), mat(2, 3, 9), rms),
                 "norm_stats: inverse: expected [3] f32, got [3, 1] f32");
    assert_shape(ca_row_distances(be, vec(0, 3), mat(1, 3, 9), mat(2, 3, 8)),
                 "row_distances: w: expected [3, 9] f32, got [3, 8] f32");
    assert_ok(ca_row_distances(be, vec(0, 3), mat(1, 3, 9), absent));
    assert_shape(ca_row_distances(be, vec(0, 3), absent, mat(2, 3, 9)),
                 "row_distances: x: expected [3, D] f32, got nothing");
    assert_shape(ca_matmul(be, mat(0, 2, 3), mat(1, 2, 4), mat(2, 5, 3), absent, plain),
                 "matmul: b: expected [4, 3] f32 or bf16, got [5, 3] f32");
    assert_shape(ca_matmul(be, vec(0, 2), mat(1, 2, 4), mat(2, 4, 3), absent, plain),
                 "matmul: c: expected [..., M, N] f32 or f64, got [2] f32");
    assert_shape(ca_matmul(be, mat(0, 2, 3), ca_tensor_2d(part(1), CA_BF16, 2, 4), mat(2, 4, 3),
                           absent, plain),
                 "matmul: a: expected f32 with b in f32, got bf16");
    assert_shape(ca_linear_fwd(be, mat(0, 2, 3), mat(1, 2, 4), mat(2, 3, 5), absent),
                 "linear_fwd: matmul: b: expected [3, 4] f32 or bf16, got [3, 5] f32");
    assert_shape(ca_act_fwd(be, mat(0, 2, 3), mat(1, 2, 3), CA_SILU, true),
                 "act_fwd: x: expected [2, 6] f32, got [2, 3] f32");
    assert_shape(ca_top_k(be, mat(0, 2, 4), ca_tensor_2d(part(1), CA_I32, 2, 4), mat(2, 2, 3)),
                 "top_k: values: expected at most 3 columns, got 4");
    assert_shape(ca_soft_cap_fwd(be, vec(0, 2), vec(1, 2), 0),
                 "soft_cap_fwd: cap: expected a number above 0, got 0");
}

static const ca_adam step = {.beta1 = 0.9, .beta2 = 0.99, .epsilon = 1e-8, .step = 1};

static void test_interventions(void **state) {
    (void)state;
    ca_tensor x = mat(0, 3, 4), source = mat(1, 3, 4), y = mat(2, 3, 4), d_mask = mat(3, 3, 1);
    ca_tensor mask = mat(4, 3, 1), shared = ca_tensor_repeat(vec(5, 4), 3);
    assert_ok(ca_mix_fwd(be, x, x, source, mask)); /* in place */
    assert_ok(ca_mix_fwd(be, y, x, source, shared));
    assert_shape(ca_mix_fwd(be, y, x, mat(1, 3, 5), mask),
                 "mix_fwd: source: expected [3, 4] f32, got [3, 5] f32");
    assert_shape(ca_mix_fwd(be, y, x, source, mat(4, 3, 2)),
                 "mix_fwd: mask: expected [3, 4] f32, got [3, 2] f32");
    assert_shape(ca_mix_fwd(be, y, x, source, vec(4, 4)),
                 "mix_fwd: mask: expected [3, 4] f32, got [4] f32");
    assert_shape(ca_mix_fwd(be, source, x, source, mask),
                 "mix_fwd: y: expected memory of its own, got memory of source");
    assert_ok(ca_mix_bwd(be, y, absent, absent, y, absent, absent, mask, false));
    assert_ok(ca_mix_bwd(be, y, absent, d_mask, y, x, source, mask, false));
    assert_shape(ca_mix_bwd(be, y, absent, d_mask, y, x, source, mask, true),
                 "mix_bwd: d_x: expected memory of its own, got memory of dy");
    assert_shape(ca_mix_bwd(be, y, absent, d_mask, y, absent, source, mask, false),
                 "mix_bwd: x: expected [3, 4] f32, got nothing");
    assert_shape(ca_mix_bwd(be, y, absent, mat(3, 3, 4), y, x, source, mask, false),
                 "mix_bwd: d_mask: expected [3, 1] f32, got [3, 4] f32");
    assert_shape(
        ca_mix_bwd(be, y, absent, ca_tensor_repeat(vec(3, 4), 3), y, x, source, shared, false),
        "mix_bwd: d_mask: expected a positive stride on axis 0 of [3, 4] f32, got 0");
}

static void test_training(void **state) {
    (void)state;
    int32_t targets[] = {0, 3};
    ca_tensor target = ca_tensor_1d(targets, CA_I32, 2), x = mat(0, 2, 3);
    assert_shape(ca_cross_entropy_fwd(be, vec(1, 2), x, target),
                 "cross_entropy_fwd: target[1]: expected 0 to 2, got 3");
    assert_shape(ca_cross_entropy_bwd(be, x, x, target, vec(1, 2)),
                 "cross_entropy_bwd: target[1]: expected 0 to 2, got 3");
    assert_shape(ca_cross_entropy_fwd(be, vec(1, 2), x, vec(2, 2)),
                 "cross_entropy_fwd: target: expected [2] i32, got [2] f32");
    assert_shape(ca_column_sums(be, vec(1, 4), x),
                 "column_sums: x: expected [2, 4] f32, got [2, 3] f32");
    ca_tensor a = vec(3, 5), b = vec(4, 5), c = vec(5, 5), d = vec(6, 5);
    assert_ok(ca_adam_step(be, a, b, c, d, step));
    assert_shape(ca_adam_step(be, a, b, c, a, step),
                 "adam_step: parameter: expected memory of its own, got memory of gradient");
    ca_adam bad = step;
    bad.step = 0;
    assert_shape(ca_adam_step(be, a, b, c, d, bad), "adam_step: step: expected 1 or more, got 0");
    bad = step, bad.beta2 = 1;
    assert_shape(ca_adam_step(be, a, b, c, d, bad),
                 "adam_step: beta2: expected 0 or more and below 1, got 1");
    bad = step, bad.lower = 2, bad.upper = 1;
    assert_shape(ca_adam_step(be, a, b, c, d, bad),
                 "adam_step: upper: expected lower or more, got 1");
}

static void test_dtypes(void **state) {
    (void)state;
    ca_tensor half = ca_tensor_2d(part(0), CA_F16, 2, 3),
              wide = ca_tensor_2d(part(1), CA_F64, 2, 3);
    assert_shape(ca_add(be, half, half, 1), "add: y: expected [...] f32 or f64, got [2, 3] f16");
    assert_shape(ca_add(be, mat(0, 2, 3), wide, 1), "add: x: expected [2, 3] f32, got [2, 3] f64");
    assert_shape(ca_gather(be, mat(0, 2, 3), mat(1, 2, 3), vec(2, 2), 1, false),
                 "gather: index: expected [2] i32 or i64, got [2] f32");
    assert_shape(ca_copy(be, mat(0, 2, 3), ca_tensor_2d(part(1), CA_I32, 2, 3)),
                 "copy: dst: expected i32, got f32");
    ca_backend narrow = *be;
    narrow.float64 = false;
    assert_shape(ca_add(&narrow, wide, wide, 1), "add: y: expected [...] f32, got [2, 3] f64");
}

static void test_strides(void **state) {
    (void)state;
    ca_tensor repeated = ca_tensor_repeat(vec(0, 3), 2), row = mat(1, 2, 3);
    assert_shape(ca_add(be, repeated, row, 1),
                 "add: y: expected a positive stride on axis 0 of [2, 3] f32, got 0");
    assert_ok(ca_add(be, row, repeated, 1));
    ca_tensor column = mat(0, 3, 1);
    column.stride[1] = 7; /* never used: the axis has one element */
    assert_ok(ca_add(be, column, mat(1, 3, 1), 1));
    ca_tensor sparse = mat(0, 3, 4);
    sparse.stride[1] = 2;
    assert_shape(ca_add(be, sparse, mat(1, 3, 4), 1),
                 "add: y: expected stride 1 on the last axis, got 2");
    ca_tensor slice = ca_tensor_slice(mat(0, 3, 4), 1, 0, 2);
    assert_shape(ca_upload(be, slice, part(1)),
                 "upload: dst: expected a contiguous tensor, got a strided [3, 2] f32");
}

static void test_aliasing(void **state) {
    (void)state;
    ca_tensor x = mat(0, 4, 8), y = mat(1, 4, 8);
    assert_shape(ca_add(be, x, x, 1), "add: y: expected memory of its own, got memory of x");
    ca_tensor shifted = ca_tensor_2d(part(0) + 31, CA_F32, 4, 8);
    assert_shape(ca_add(be, x, shifted, 1), "add: y: expected memory of its own, got memory of x");
    ca_tensor behind = ca_tensor_2d(part(0) + 32, CA_F32, 4, 8);
    assert_ok(ca_add(be, x, behind, 1));
    /* in place where the header allows it, as the same view only */
    assert_ok(ca_norm_fwd(be, x, x, vec(2, 8), absent, rms));
    assert_shape(ca_norm_fwd(be, x, shifted, vec(2, 8), absent, rms),
                 "norm_fwd: y: expected memory of its own, got memory of x");
    assert_ok(ca_norm_bwd(be, x, x, y, vec(2, 8), rms, false));
    assert_shape(ca_norm_bwd(be, x, x, y, vec(2, 8), rms, true),
                 "norm_bwd: dx: expected memory of its own, got memory of dy");
    assert_ok(ca_norm_stats(be, x, vec(2, 4), x, rms));
    assert_shape(ca_norm_stats(be, y, vec(0, 4), x, rms),
                 "norm_stats: inverse: expected memory of its own, got memory of x");
    /* columns of one buffer interleave and share nothing */
    assert_ok(ca_add(be, ca_tensor_slice(x, 1, 0, 4), ca_tensor_slice(x, 1, 4, 4), 1));
    assert_shape(ca_add(be, ca_tensor_slice(x, 1, 0, 4), ca_tensor_slice(x, 1, 0, 4), 1),
                 "add: y: expected memory of its own, got memory of x");
}

static void test_indices(void **state) {
    (void)state;
    int64_t index[] = {1, 4}, falling[] = {2, 1};
    assert_shape(
        ca_gather(be, mat(0, 2, 3), mat(1, 4, 3), ca_tensor_1d(index, CA_I64, 2), 1, false),
        "gather: index[1]: expected a row from 0 to 3, got 4");
    assert_shape(ca_scatter_add(be, mat(0, 4, 3), ca_tensor_1d(falling, CA_I64, 2), mat(1, 2, 3)),
                 "scatter_add: index[1]: expected more than 2, got 1");
}

static ca_tensor on_backend(ca_backend *target, ca_tensor t) {
    const void *host = t.data;
    parity_ok(ca_alloc(target, (size_t)ca_tensor_count(&t) * ca_dtype_size(t.dtype), &t.data));
    parity_ok(ca_upload(target, t, host));
    return t;
}

/* Reported by the operation or, where that only enqueues, by the next wait; then forgotten. */
static void assert_reported(ca_backend *target, ca_status st, const char *beginning) {
    if (st == CA_OK) st = ca_sync(target);
    assert_int_equal(st, CA_E_SHAPE);
    if (strncmp(ca_error_text(), beginning, strlen(beginning)) != 0)
        fail_msg("%s: expected '%s...', got '%s'", target->name, beginning, ca_error_text());
    ca_error_clear();
    parity_ok(ca_sync(target));
}

static void bad_indices(ca_backend *target, ca_backend *ref, const void *context) {
    (void)ref;
    (void)context;
    int64_t beyond[] = {1, 4}, below[] = {-1, 0};
    int32_t positions_beyond[] = {1, 4};
    float ones[12] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    ca_tensor table = on_backend(target, ca_tensor_2d(ones, CA_F32, 4, 3));
    ca_tensor rows = on_backend(target, ca_tensor_2d(ones, CA_F32, 2, 3));
    ca_tensor high = on_backend(target, ca_tensor_1d(beyond, CA_I64, 2));
    ca_tensor low = on_backend(target, ca_tensor_1d(below, CA_I64, 2));
    ca_tensor heads = on_backend(target, ca_tensor_3d(ones, CA_F32, 2, 1, 6));
    ca_tensor at = on_backend(target, ca_tensor_1d(positions_beyond, CA_I32, 2));
    ca_tensor angles = on_backend(target, ca_tensor_2d(ones, CA_F32, 4, 3));
    assert_reported(target, ca_gather(target, rows, table, high, 1, false), "gather: index");
    assert_reported(target, ca_gather(target, rows, table, low, 1, true), "gather: index");
    assert_reported(target, ca_scatter_add(target, table, high, rows), "scatter_add: index");
    assert_reported(target, ca_scatter_add(target, table, low, rows), "scatter_add: index");
    assert_reported(target, ca_rope(target, heads, angles, angles, at, false), "rope: positions");
    const ca_tensor all[] = {table, rows, high, low, heads, at, angles};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) ca_release(target, all[i].data);
}

static void test_indices_everywhere(void **state) {
    (void)state;
    parity_each_backend(bad_indices, NULL);
}

/* Through staging memory in pieces, of which the last is odd. */
static void large_transfer(ca_backend *target, ca_backend *ref, const void *context) {
    (void)ref;
    (void)context;
    enum { COUNT = (9 << 18) + 7 }; /* 9 MiB of floats and some */
    float *values = calloc(COUNT, sizeof *values), *back = calloc(COUNT, sizeof *back);
    assert_true(values && back);
    for (int64_t i = 0; i < COUNT; i++) values[i] = (float)i;
    ca_tensor t = on_backend(target, ca_tensor_1d(values, CA_F32, COUNT));
    parity_ok(ca_download(target, back, t));
    assert_memory_equal(back, values, COUNT * sizeof *values);
    memset(back, 0, COUNT * sizeof *back);
    parity_ok(ca_download(target, back, ca_tensor_slice(t, 0, 1, 2 << 20))); /* whole pieces */
    assert_memory_equal(back, values + 1, (2 << 20) * sizeof *values);
    assert_true(back[2 << 20] == 0);
    ca_release(target, t.data);
    free(values), free(back);
}

static void test_large_transfers(void **state) {
    (void)state;
    parity_each_backend(large_transfer, NULL);
}

/* Rows of a factor may repeat or overlap: row r of a is r, r + 1, r + 2 or always 0, 1, 2. */
static void overlapping_rows(ca_backend *target, ca_backend *ref, const void *context) {
    (void)ref;
    (void)context;
    float numbers[] = {0, 1, 2, 3, 4, 5}, weights[] = {1, 10, 100}, got[4];
    ca_tensor x = on_backend(target, ca_tensor_1d(numbers, CA_F32, 6));
    ca_tensor w = on_backend(target, ca_tensor_2d(weights, CA_F32, 3, 1));
    ca_tensor y = on_backend(target, ca_tensor_2d(numbers, CA_F32, 4, 1));
    ca_tensor rows = ca_tensor_2d(x.data, CA_F32, 4, 3);
    for (rows.stride[0] = 0; rows.stride[0] < 2; rows.stride[0]++) {
        parity_ok(ca_matmul(target, y, rows, w, absent, plain));
        parity_ok(ca_download(target, got, y));
        for (int64_t r = 0; r < 4; r++)
            assert_true(got[r] == (float)(210 + 111 * r * rows.stride[0]));
    }
    ca_release(target, x.data), ca_release(target, w.data), ca_release(target, y.data);
}

static void test_overlapping_rows(void **state) {
    (void)state;
    parity_each_backend(overlapping_rows, NULL);
}

static void test_nothing_to_do(void **state) {
    (void)state;
    ca_tensor empty = ca_tensor_2d(NULL, CA_F32, 0, 8);
    static const ca_backend_ops no_operations = {0};
    ca_backend idle = {.name = "idle", .ops = &no_operations};
    assert_ok(ca_norm_fwd(&idle, empty, empty, vec(0, 8), absent, rms));
    assert_ok(ca_matmul(&idle, empty, mat(0, 0, 3), mat(1, 3, 8), absent, plain));
    assert_fails(ca_norm_fwd(&idle, mat(0, 1, 8), mat(1, 1, 8), vec(2, 8), absent, rms),
                 CA_E_BACKEND, "backend idle does not offer norm_fwd");
}

/* ---- attention */

static sequence_arrays arrays;
static int32_t positions[8];
static const ca_attention attention = {.heads = 2, .kv_heads = 1, .head_dim = 3, .scale = 1};

static void make_sequences(void) {
    sequence_arrays_fill(&arrays, &(sequence_lengths){2, {3, 2}, {0, 4}});
    ca_sequences *s = &arrays.sequences;
    s->row_start_b = ca_tensor_1d(arrays.row_start, CA_I64, 3);
    s->pattern_start_b = ca_tensor_1d(arrays.pattern_start, CA_I64, 3);
    s->prefix_start_b = ca_tensor_1d(arrays.prefix_start, CA_I64, 2);
    s->prefix_rows_b = ca_tensor_1d(arrays.prefix_rows, CA_I64, 2);
    s->positions = ca_tensor_1d(positions, CA_I32, 5);
}

static ca_status attend(ca_attention a) {
    ca_tensor o = ca_tensor_3d(part(0), CA_F32, 5, 2, 3),
              q = ca_tensor_3d(part(1), CA_F32, 5, 2, 3);
    ca_tensor k = ca_tensor_3d(part(2), CA_F32, 5, 1, 3),
              v = ca_tensor_3d(part(3), CA_F32, 5, 1, 3);
    ca_tensor pk = ca_tensor_3d(part(4), CA_F32, 5, 1, 3),
              pv = ca_tensor_3d(part(5), CA_F32, 5, 1, 3);
    return ca_attention_fwd(be, o, mat(6, 5, 2), q, k, v, pk, pv, &arrays.sequences, a);
}

static void test_sequences(void **state) {
    (void)state;
    make_sequences();
    assert_ok(attend(attention));
    arrays.row_start[0] = 1;
    assert_shape(attend(attention), "attention_fwd: sequences.row_start[0]: expected 0, got 1");
    make_sequences();
    arrays.row_start[1] = 6;
    assert_shape(attend(attention),
                 "attention_fwd: sequences.row_start[1]: expected 0 to 5, got 6");
    make_sequences();
    arrays.row_start[2] = 4;
    assert_shape(attend(attention), "attention_fwd: sequences.row_start[2]: expected 5, got 4");
    make_sequences();
    arrays.prefix_rows[1] = 5;
    assert_shape(attend(attention),
                 "attention_fwd: sequences.prefix_start[1]: expected rows within the 5 of the "
                 "prefix, got 5 rows from 1");
    make_sequences();
    arrays.sequences.max_keys = 7;
    assert_shape(attend(attention), "attention_fwd: sequences.max_keys: expected 6, got 7");
    make_sequences();
    arrays.sequences.positions.dtype = CA_I64;
    assert_shape(attend(attention),
                 "attention_fwd: sequences.positions: expected [5] i32, got [5] i64");
}

static void test_pattern_mix(void **state) {
    (void)state;
    make_sequences();
    int64_t size = 2 * arrays.pattern_start[2];
    ca_tensor x = vec(0, size), source = vec(1, size), d_x = mat(2, 3, size), dy = mat(3, 3, size);
    ca_tensor d_mask = ca_tensor_3d(part(4), CA_F32, 3, 5, 2);
    ca_tensor mask = ca_tensor_repeat(vec(5, 2), 5); /* sequences with a prefix, but none is read */
    assert_ok(ca_pattern_mix_fwd(be, x, x, source, mask, &arrays.sequences, attention));
    assert_ok(ca_pattern_mix_bwd(be, d_x, absent, d_mask, dy, x, source, mask, &arrays.sequences,
                                 attention, true));
    assert_shape(ca_pattern_mix_fwd(be, x, x, source, mat(5, 5, 1), &arrays.sequences, attention),
                 "pattern_mix_fwd: mask: expected [5, 2] f32, got [5, 1] f32");
    assert_shape(ca_pattern_mix_bwd(be, d_x, absent, mat(4, 5, 2), dy, x, source, mask,
                                    &arrays.sequences, attention, false),
                 "pattern_mix_bwd: d_mask: expected [3, 5, 2] f32, got [5, 2] f32");
}

static void test_attention(void **state) {
    (void)state;
    make_sequences();
    ca_attention a = attention;
    a.kv_heads = 3;
    assert_shape(attend(a),
                 "attention_fwd: attention: expected heads to be a multiple of kv_heads and "
                 "head_dim above 0, got 2 heads, 3 kv_heads, head_dim 3");
    a = attention;
    a.head_dim = 4;
    assert_shape(attend(a), "attention_fwd: o: expected [5, 2, 4] f32 or f64, got [5, 2, 3] f32");
    ca_tensor q = ca_tensor_3d(part(0), CA_F32, 5, 2, 3),
              k = ca_tensor_3d(part(1), CA_F32, 5, 1, 3);
    ca_tensor dq = ca_tensor_4d(part(2), CA_F32, 2, 5, 2, 3);
    ca_tensor shares = ca_tensor_4d(part(3), CA_F32, 2, 5, 2, 3);
    ca_tensor grouped = ca_tensor_4d(part(4), CA_F32, 2, 5, 1, 3);
    ca_tensor d_o = ca_tensor_4d(part(5), CA_F32, 2, 5, 2, 3);
    ca_tensor pk = ca_tensor_3d(part(6), CA_F32, 5, 1, 3),
              pv = ca_tensor_3d(part(7), CA_F32, 5, 1, 3);
    ca_tensor o = ca_tensor_3d(part(8), CA_F32, 5, 2, 3),
              v = ca_tensor_3d(part(9), CA_F32, 5, 1, 3);
    assert_shape(ca_attention_bwd(be, dq, shares, grouped, d_o, o, mat(10, 5, 2), q, k, v, pk, pv,
                                  &arrays.sequences, attention),
                 "attention_bwd: dv: expected [2, 5, 2, 3] f32, got [2, 5, 1, 3] f32");
    assert_shape(ca_attention_bwd(be, dq, grouped, grouped, d_o, o, mat(10, 5, 2), q, k, v, pk, pv,
                                  &arrays.sequences, attention),
                 "attention_bwd: dk: expected memory of its own, got memory of dv");
    assert_shape(
        ca_attention_fwd(be, o, mat(10, 5, 2), q, k, v, pk, absent, &arrays.sequences, attention),
        "attention_fwd: prefix_v: expected [5, 1, 3] f32, got nothing");
    assert_shape(ca_attention_fwd(be, o, mat(10, 5, 2), q, k, v, absent, absent, &arrays.sequences,
                                  attention),
                 "attention_fwd: sequences.prefix_start[1]: expected rows within the 0 of the "
                 "prefix, got 4 rows from 1");
}

/* ---- the registry */

static void test_names(void **state) {
    (void)state;
    ca_backend *other;
    assert_fails(ca_backend_open("cpuu", 1, &other), CA_E_CONFIG,
                 "expected auto, ref, cpu, cuda or cuda:N, got 'cpuu'");
    assert_null(other);
    assert_fails(ca_backend_open("cuda:", 1, &other), CA_E_CONFIG,
                 "expected auto, ref, cpu, cuda or cuda:N, got 'cuda:'");
    assert_fails(ca_backend_open("cuda:1x", 1, &other), CA_E_CONFIG,
                 "expected auto, ref, cpu, cuda or cuda:N, got 'cuda:1x'");
    assert_fails(ca_backend_open("", 1, &other), CA_E_CONFIG,
                 "expected auto, ref, cpu, cuda or cuda:N, got ''");
    assert_fails(ca_backend_open("ref", -1, &other), CA_E_CONFIG,
                 "backend: threads: expected 0 or more, got -1");
    ca_backend_close(NULL);
}

/* An explicit name opens that backend or fails; auto opens the last one that works. */
static void test_preference(void **state) {
    (void)state;
    const char *best = NULL;
    for (const ca_backend_entry *const *entry = ca_backend_entries(); *entry; entry++) {
        ca_backend *one;
        ca_status st = ca_backend_open((*entry)->name, 1, &one);
        if (!(*entry)->libraries) {
            assert_int_equal(st, CA_E_BACKEND);
            assert_non_null(strstr(ca_error_text(), (*entry)->how_to_build));
        }
        if (st != CA_OK) continue;
        assert_string_equal(one->name, (*entry)->name);
        best = (*entry)->name;
        ca_backend_close(one);
    }
    ca_backend *chosen;
    ca_log_set_level(CA_LOG_ERROR);
    assert_ok(ca_backend_open("auto", 0, &chosen));
    assert_string_equal(chosen->name, best);
    assert_string_equal(ca_error_text(), "");
    ca_backend_close(chosen);
}

static void test_threads(void **state) {
    (void)state;
    ca_backend *cpu;
    assert_int_equal(setenv("OMP_NUM_THREADS", "3,2", 1), 0);
    assert_int_equal(ca_backend_open("cpu", 0, &cpu), CA_OK);
    assert_int_equal(cpu->threads, 3);
    ca_backend_close(cpu);
    assert_ok(ca_backend_open("cpu", 2, &cpu));
    assert_int_equal(cpu->threads, 2);
    ca_backend_close(cpu);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes),           cmocka_unit_test(test_dtypes),
        cmocka_unit_test(test_strides),          cmocka_unit_test(test_aliasing),
        cmocka_unit_test(test_indices),          cmocka_unit_test(test_indices_everywhere),
        cmocka_unit_test(test_nothing_to_do),    cmocka_unit_test(test_sequences),
        cmocka_unit_test(test_attention),        cmocka_unit_test(test_names),
        cmocka_unit_test(test_preference),       cmocka_unit_test(test_threads),
        cmocka_unit_test(test_interventions),    cmocka_unit_test(test_training),
        cmocka_unit_test(test_pattern_mix),      cmocka_unit_test(test_large_transfers),
        cmocka_unit_test(test_overlapping_rows),
    };
    return cmocka_run_group_tests(tests, open_ref, close_ref);
}
