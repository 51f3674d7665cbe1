/* SPDX-License-Identifier: MIT
 *
 * `ref` is what other backends are compared to; here it is compared to numbers worked out by hand
 * or with another formula. Limits of 1e-12 leave room for some thousand roundings of doubles.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "causa/ops.h"
#include "sequences.h"

static ca_backend *be;

static int open_ref(void **state) {
    (void)state;
    return ca_backend_open("ref", 1, &be) == CA_OK ? 0 : -1;
}

static int close_ref(void **state) {
    (void)state;
    ca_backend_close(be);
    return 0;
}

static void ok(ca_status st) {
    if (st != CA_OK) fail_msg("%s", ca_error_text());
}

static void assert_values(const double *got, const double *expected, int count) {
    for (int i = 0; i < count; i++)
        if (!(fabs(got[i] - expected[i]) <= 1e-12 * fmax(1, fabs(expected[i]))))
            fail_msg("[%d]: expected %.17g, got %.17g", i, expected[i], got[i]);
}

static const ca_tensor absent;

static ca_tensor vec(double *x, int64_t n) { return ca_tensor_1d(x, CA_F64, n); }
static ca_tensor mat(double *x, int64_t m, int64_t n) { return ca_tensor_2d(x, CA_F64, m, n); }

static void test_new_memory_is_nan(void **state) {
    (void)state;
    void *memory;
    ok(ca_alloc(be, 100, &memory));
    assert_int_equal((uintptr_t)memory % 64, 0);
    for (int i = 0; i < 25; i++) assert_true(isnan(((float *)memory)[i]));
    ca_release(be, memory);
    ok(ca_alloc(be, 0, &memory));
    assert_non_null(memory);
    ca_release(be, memory);
    assert_int_equal(ca_alloc(be, SIZE_MAX - 10, &memory), CA_E_MEMORY);
    size_t available = 0, total = 0;
    ok(ca_memory_info(be, &available, &total));
    assert_true(available > 0 && available <= total);
}

/* Round to nearest even, subnormals, overflow, signed zero: bits from the format definitions. */
static void test_sixteen_bits(void **state) {
    (void)state;
    static double values[] = {1,         -0.0,     1 + 0x1p-8,  1 + 0x3p-8,  1 + 0x1.01p-8, 3e38,
                              1e39,      INFINITY, 1 + 0x1p-11, 1 + 0x3p-11, 0x1p-24,       0x1p-25,
                              0x1.8p-25, 65504,    65520,       -0x1p-14};
    static const uint16_t bf16[] = {0x3f80, 0x8000, 0x3f80, 0x3f82, 0x3f81, 0x7f62, 0x7f80, 0x7f80,
                                    0x3f80, 0x3f80, 0x3380, 0x3300, 0x3340, 0x4780, 0x4780, 0xb880};
    static const uint16_t f16[] = {0x3c00, 0x8000, 0x3c04, 0x3c0c, 0x3c04, 0x7c00, 0x7c00, 0x7c00,
                                   0x3c00, 0x3c02, 0x0001, 0x0000, 0x0001, 0x7bff, 0x7c00, 0x8400};
    enum { COUNT = sizeof values / sizeof values[0] };
    uint16_t bits[COUNT];
    ok(ca_copy(be, ca_tensor_1d(bits, CA_BF16, COUNT), vec(values, COUNT)));
    for (int i = 0; i < COUNT; i++) assert_int_equal(bits[i], bf16[i]);
    ok(ca_copy(be, ca_tensor_1d(bits, CA_F16, COUNT), vec(values, COUNT)));
    for (int i = 0; i < COUNT; i++) assert_int_equal(bits[i], f16[i]);
    /* Every 16-bit pattern that is a number comes back as it was. */
    for (int dtype = CA_F16; dtype <= CA_BF16; dtype++)
        for (uint32_t pattern = 0; pattern <= 0xffff; pattern++) {
            uint16_t from = (uint16_t)pattern, to = 0;
            double wide;
            ok(ca_copy(be, vec(&wide, 1), ca_tensor_1d(&from, (ca_dtype)dtype, 1)));
            ok(ca_copy(be, ca_tensor_1d(&to, (ca_dtype)dtype, 1), vec(&wide, 1)));
            if (!isnan(wide)) assert_int_equal(to, from);
        }
}

static void test_matmul(void **state) {
    (void)state;
    double a[] = {1, 2, 3, 4, 5, 6}, b[] = {7, 8, 9, 10, 11, 12}, bias[] = {100, 200};
    double c[] = {1, 1, 1, 1};
    ca_matmul_options plain = {.alpha = 1};
    ok(ca_matmul(be, mat(c, 2, 2), mat(a, 2, 3), mat(b, 3, 2), absent, plain));
    assert_values(c, (const double[]){58, 64, 139, 154}, 4);
    ca_matmul_options all = {.transpose_a = true, .transpose_b = true, .alpha = 2, .beta = -1};
    double d[] = {1, 2, 3, 4};
    /* a^T b^T with a [3, 2], b [2, 3]: [[1, 3, 5], [2, 4, 6]] [[7, 10], [8, 11], [9, 12]] */
    ok(ca_matmul(be, mat(d, 2, 2), mat(a, 3, 2), mat(b, 2, 3), vec(bias, 2), all));
    assert_values(
        d,
        (const double[]){2 * 76 - 1 + 100, 2 * 103 - 2 + 200, 2 * 100 - 3 + 100, 2 * 136 - 4 + 200},
        4);
}

static void test_rows(void **state) {
    (void)state;
    double x[] = {1, 2, 3, 4, 5, 6}, y[] = {10, 20, 30, 40};
    int64_t index[] = {2, 0}, rising[] = {0, 2};
    ok(ca_gather(be, mat(y, 2, 2), mat(x, 3, 2), ca_tensor_1d(index, CA_I64, 2), 2, true));
    assert_values(y, (const double[]){20, 32, 32, 44}, 4);
    ok(ca_scatter_add(be, mat(x, 3, 2), ca_tensor_1d(rising, CA_I64, 2), mat(y, 2, 2)));
    assert_values(x, (const double[]){21, 34, 3, 4, 37, 50}, 6);
    double sum[2], bias[] = {0.5, -0.5};
    ok(ca_sum_heads(be, mat(sum, 1, 2), ca_tensor_3d(x, CA_F64, 1, 3, 2), vec(bias, 2)));
    assert_values(sum, (const double[]){61.5, 87.5}, 2);
    double norms[3], dots[3];
    ok(ca_row_norms(be, vec(norms, 2), mat((double[]){3, 4, 5, 12}, 2, 2)));
    assert_values(norms, (const double[]){5, 13}, 2);
    ok(ca_row_dots(be, vec(dots, 3), mat(x, 3, 2), ca_tensor_repeat(vec(bias, 2), 3)));
    assert_values(dots, (const double[]){-6.5, -0.5, -6.5}, 3);
    double distances[3];
    ok(ca_row_distances(be, vec(distances, 3), mat((double[]){3, -4, 0.5, -0.5, -5, -12}, 3, 2),
                        ca_tensor_repeat(vec(bias, 2), 3)));
    assert_values(distances, (const double[]){6, 0, 17}, 3);
    ok(ca_row_distances(be, vec(distances, 1), mat((double[]){3, -4}, 1, 2), absent));
    assert_values(distances, (const double[]){7}, 1);
}

static void test_norm(void **state) {
    (void)state;
    double x[] = {1, 2, 3, 6}, y[4], gain[] = {1, 2, 3, 4}, bias[] = {1, 1, 1, 1};
    /* mean 3, deviations -2 -1 0 3, variance 3.5; mean square 12.5 */
    ok(ca_norm_fwd(be, mat(y, 1, 4), mat(x, 1, 4), vec(gain, 4), vec(bias, 4),
                   (ca_norm){CA_NORM_LAYER, 0.5, 0}));
    assert_values(y, (const double[]){1 - 2 / 2.0, 1 - 2 / 2.0, 1, 1 + 12 / 2.0}, 4);
    ok(ca_norm_fwd(be, mat(y, 1, 4), mat(x, 1, 4), vec(gain, 4), absent,
                   (ca_norm){CA_NORM_RMS, 3.5, 1}));
    assert_values(y, (const double[]){2 / 4.0, 6 / 4.0, 12 / 4.0, 30 / 4.0}, 4);
    double inverse;
    ok(ca_norm_stats(be, mat(y, 1, 4), vec(&inverse, 1), mat(x, 1, 4),
                     (ca_norm){CA_NORM_LAYER, 0.5, 1}));
    assert_values(y, (const double[]){-2 / 2.0, -1 / 2.0, 0, 3 / 2.0}, 4);
    assert_values(&inverse, (const double[]){1 / 2.0}, 1);
    ok(ca_norm_stats(be, mat(y, 1, 4), vec(&inverse, 1), mat(x, 1, 4),
                     (ca_norm){CA_NORM_RMS, 3.5, 0}));
    assert_values(y, (const double[]){1 / 4.0, 2 / 4.0, 3 / 4.0, 6 / 4.0}, 4);
    assert_values(&inverse, (const double[]){1 / 4.0}, 1);
}

static void test_activations(void **state) {
    (void)state;
    double x[] = {-1, 0.5}, y[2];
    /* Phi(-1) and Phi(0.5) from tables */
    ok(ca_act_fwd(be, vec(y, 2), vec(x, 2), CA_GELU, false));
    assert_values(y, (const double[]){-0.158655253931457, 0.5 * 0.691462461274013}, 2);
    ok(ca_act_fwd(be, vec(y, 2), vec(x, 2), CA_SILU, false));
    assert_values(y, (const double[]){-1 / (1 + M_E), 0.5 / (1 + exp(-0.5))}, 2);
    ok(ca_act_fwd(be, vec(y, 2), vec(x, 2), CA_RELU, false));
    assert_values(y, (const double[]){0, 0.5}, 2);
    /* (1 + tanh a) / 2 = 1 / (1 + exp(-2 a)) */
    double a = sqrt(2 / M_PI) * (0.5 + 0.044715 * 0.125);
    ok(ca_act_fwd(be, vec(y, 1), vec(x + 1, 1), CA_GELU_TANH, false));
    assert_values(y, (const double[]){0.5 / (1 + exp(-2 * a))}, 1);
    double gated[] = {2, -3, 10, 100};
    ok(ca_act_fwd(be, vec(y, 2), vec(gated, 4), CA_RELU, true));
    assert_values(y, (const double[]){20, 0}, 2);
}

static void test_head(void **state) {
    (void)state;
    double x[] = {log(1), log(2), log(5), -INFINITY, 1000, 1000, 1000, 1000}, y[2];
    ok(ca_log_sum_exp(be, vec(y, 2), mat(x, 2, 4)));
    assert_values(y, (const double[]){log(8), 1000 + log(4)}, 2);
    double nans[] = {NAN, NAN}, least[] = {-INFINITY, -INFINITY};
    ok(ca_log_sum_exp(be, vec(y, 1), mat(nans, 1, 2)));
    assert_true(isnan(y[0]));
    ok(ca_log_sum_exp(be, vec(y, 1), mat(least, 1, 2)));
    assert_true(y[0] == -INFINITY);

    double logits[] = {3, 7, NAN, 7, -1, 8}, values[4];
    int32_t indices[4];
    ok(ca_top_k(be, mat(values, 1, 4), ca_tensor_2d(indices, CA_I32, 1, 4), mat(logits, 1, 6)));
    assert_true(isnan(values[0]));
    assert_values(values + 1, (const double[]){8, 7, 7}, 3);
    assert_memory_equal(indices, ((const int32_t[]){2, 5, 1, 3}), sizeof indices);

    double capped[] = {30 * atanh(0.5), -1e9};
    ok(ca_soft_cap_fwd(be, vec(capped, 2), vec(capped, 2), 30));
    assert_values(capped, (const double[]){15, -30}, 2);
}

static void test_intervention(void **state) {
    (void)state;
    double x[] = {1, 2, 3, 4}, source[] = {5, 10, -3, 4}, y[4], rows[] = {0.25, 1};
    double columns[] = {0, 0.5}, dy[] = {1, 2, 3, 4}, d_x[] = {10, 20, 30, 40}, d_source[4];
    double d_mask[4];
    ok(ca_mix_fwd(be, mat(y, 2, 2), mat(x, 2, 2), mat(source, 2, 2), mat(rows, 2, 1)));
    assert_values(y, (const double[]){2, 4, -3, 4}, 4);
    ca_tensor channel = ca_tensor_repeat(vec(columns, 2), 2);
    ok(ca_mix_fwd(be, mat(y, 2, 2), mat(x, 2, 2), mat(source, 2, 2), channel));
    assert_values(y, (const double[]){1, 6, 3, 4}, 4);

    ok(ca_mix_bwd(be, mat(d_x, 2, 2), mat(d_source, 2, 2), mat(d_mask, 2, 1), mat(dy, 2, 2),
                  mat(x, 2, 2), mat(source, 2, 2), mat(rows, 2, 1), true));
    assert_values(d_x, (const double[]){10.75, 21.5, 30, 40}, 4);
    assert_values(d_source, (const double[]){0.25, 0.5, 3, 4}, 4);
    assert_values(d_mask, (const double[]){20, -18}, 2);
    ok(ca_mix_bwd(be, mat(dy, 2, 2), absent, mat(d_mask, 2, 2), mat(dy, 2, 2), mat(x, 2, 2),
                  mat(source, 2, 2), channel, false));
    assert_values(dy, (const double[]){1, 1, 3, 2}, 4);
    assert_values(d_mask, (const double[]){4, 16, -18, 0}, 4);
}

/* One sequence of two rows and two heads; the second key of the first row is invisible. */
static void test_pattern_mix(void **state) {
    (void)state;
    static sequence_arrays arrays;
    sequence_arrays_fill(&arrays, &(sequence_lengths){1, {2}, {0}});
    ca_sequences *s = &arrays.sequences;
    int32_t positions[] = {0, 1};
    s->row_start_b = ca_tensor_1d(arrays.row_start, CA_I64, 2);
    s->pattern_start_b = ca_tensor_1d(arrays.pattern_start, CA_I64, 2);
    s->prefix_start_b = ca_tensor_1d(arrays.prefix_start, CA_I64, 1);
    s->prefix_rows_b = ca_tensor_1d(arrays.prefix_rows, CA_I64, 1);
    s->positions = ca_tensor_1d(positions, CA_I32, 2);
    ca_attention a = {.heads = 2, .kv_heads = 1, .head_dim = 1, .scale = 1};
    double x[] = {1, NAN, 0.5, 0.5, 1, NAN, 0.25, 0.75}, y[8], d_x[8], d_source[8], d_mask[4];
    double source[] = {1, NAN, 0, 1, 1, NAN, 1, 0}, dy[] = {1, NAN, 2, 3, 4, NAN, 5, 6};
    double mask[] = {0.5, 0, 0.5, 1}; /* [row, head] */
    ok(ca_pattern_mix_fwd(be, vec(y, 8), vec(x, 8), vec(source, 8), mat(mask, 2, 2), s, a));
    assert_values(y, (const double[]){1, 0, 0.25, 0.75, 1, 0, 1, 0}, 8);
    ok(ca_pattern_mix_bwd(be, mat(d_x, 1, 8), mat(d_source, 1, 8),
                          ca_tensor_3d(d_mask, CA_F64, 1, 2, 2), mat(dy, 1, 8), vec(x, 8),
                          vec(source, 8), mat(mask, 2, 2), s, a, false));
    assert_values(d_x, (const double[]){0.5, 0, 1, 1.5, 4, 0, 0, 0}, 8);
    assert_values(d_source, (const double[]){0.5, 0, 1, 1.5, 0, 0, 5, 6}, 8);
    assert_values(d_mask, (const double[]){0, 0, 0.5, -0.75}, 4);
}

static void test_training(void **state) {
    (void)state;
    double x[] = {log(1), log(2), log(5), 0, 0, 0}, loss[2], dx[6], scale[] = {8, 3};
    int32_t targets[] = {1, 2};
    ca_tensor target = ca_tensor_1d(targets, CA_I32, 2);
    ok(ca_cross_entropy_fwd(be, vec(loss, 2), mat(x, 2, 3), target));
    assert_values(loss, (const double[]){log(4), log(3)}, 2);
    ok(ca_cross_entropy_bwd(be, mat(dx, 2, 3), mat(x, 2, 3), target, vec(scale, 2)));
    assert_values(dx, (const double[]){1, -6, 5, 1, 1, -2}, 6);

    double sums[2], rows[] = {1, 10, 2, 20, 3, 30};
    ok(ca_column_sums(be, vec(sums, 2), mat(rows, 3, 2)));
    assert_values(sums, (const double[]){6, 60}, 2);
    ok(ca_column_sums(be, vec(sums, 2), mat(rows, 0, 2)));
    assert_values(sums, (const double[]){0, 0}, 2);

    /* the second step: moments 0.5 * 2 + 0.5 * 4 = 3 of 0.75, 0.75 * 8 + 0.25 * 16 = 10 of 0.4375
     */
    double theta[] = {5, 5}, first[] = {2, 2}, second[] = {8, 8}, gradient[] = {4, 4};
    ca_adam a = {.learning_rate = 0.5,
                 .beta1 = 0.5,
                 .beta2 = 0.75,
                 .epsilon = 0.125,
                 .step = 2,
                 .weight_decay = 0.25,
                 .lower = 4.5,
                 .upper = (double)INFINITY};
    ok(ca_adam_step(be, vec(theta, 1), vec(first, 1), vec(second, 1), vec(gradient, 1), a));
    assert_values(first, (const double[]){3}, 1);
    assert_values(second, (const double[]){10}, 1);
    assert_values(theta, (const double[]){4.5}, 1);
    a.lower = -(double)INFINITY;
    ok(ca_adam_step(be, vec(theta + 1, 1), vec(first + 1, 1), vec(second + 1, 1), vec(gradient, 1),
                    a));
    assert_values(theta + 1, (const double[]){5 - 0.625 - 2 / (sqrt(10 / 0.4375) + 0.125)}, 1);
}

/* A quarter turn and no turn; the value behind the turned half stays. */
static void test_rope(void **state) {
    (void)state;
    double cosine[] = {1, 1, 0, 0}, sine[] = {0, 0, 1, 1};
    int32_t positions[] = {1, 0};
    double x[] = {1, 2, 3, 4, 5, 1, 2, 3, 4, 5};
    ca_tensor view = ca_tensor_3d(x, CA_F64, 2, 1, 5), index = ca_tensor_1d(positions, CA_I32, 2);
    ok(ca_rope(be, view, mat(cosine, 2, 2), mat(sine, 2, 2), index, false));
    assert_values(x, (const double[]){-3, -4, 1, 2, 5, 1, 2, 3, 4, 5}, 10);
    ok(ca_rope(be, view, mat(cosine, 2, 2), mat(sine, 2, 2), index, true));
    assert_values(x, (const double[]){1, 2, 3, 4, 5, 1, 2, 3, 4, 5}, 10);
}

/* Head width 1 and queries of 1, so that a score is its key and everything can be written down:
 * two query heads share one key head; keys log 1, log 2, log 3 weigh values 1 : 2 : 3. */
static void test_attention(void **state) {
    (void)state;
    static sequence_arrays arrays;
    sequence_arrays_fill(&arrays, &(sequence_lengths){1, {2}, {1}});
    ca_sequences *s = &arrays.sequences;
    int32_t positions[] = {1, 2};
    s->row_start_b = ca_tensor_1d(arrays.row_start, CA_I64, 2);
    s->pattern_start_b = ca_tensor_1d(arrays.pattern_start, CA_I64, 2);
    s->prefix_start_b = ca_tensor_1d(arrays.prefix_start, CA_I64, 1);
    s->prefix_rows_b = ca_tensor_1d(arrays.prefix_rows, CA_I64, 1);
    s->positions = ca_tensor_1d(positions, CA_I32, 2);
    double q[] = {1, 0, 1, 0}, k[] = {log(2), log(3)}, v[] = {10, 100};
    double prefix_k[] = {NAN, log(1)}, prefix_v[] = {NAN, 1};
    double o[4], lse[4], pattern[12];
    ca_attention a = {.heads = 2, .kv_heads = 1, .head_dim = 1, .scale = 1};
    ca_tensor q3 = ca_tensor_3d(q, CA_F64, 2, 2, 1), k3 = ca_tensor_3d(k, CA_F64, 2, 1, 1);
    ca_tensor v3 = ca_tensor_3d(v, CA_F64, 2, 1, 1), o3 = ca_tensor_3d(o, CA_F64, 2, 2, 1);
    ca_tensor pk = ca_tensor_3d(prefix_k, CA_F64, 2, 1, 1);
    ca_tensor pv = ca_tensor_3d(prefix_v, CA_F64, 2, 1, 1);
    ok(ca_attention_fwd(be, o3, mat(lse, 2, 2), q3, k3, v3, pk, pv, s, a));
    assert_values(o, (const double[]){21 / 3.0, 11 / 2.0, 321 / 6.0, 111 / 3.0}, 4);
    assert_values(lse, (const double[]){log(3), log(2), log(6), log(3)}, 4);

    ok(ca_pattern_fwd(be, vec(pattern, 12), q3, k3, pk, s, a));
    const double expected[] = {1 / 3.0, 2 / 3.0, 0, 1 / 6.0, 2 / 6.0, 3 / 6.0,
                               1 / 2.0, 1 / 2.0, 0, 1 / 3.0, 1 / 3.0, 1 / 3.0};
    assert_values(pattern, expected, 12);

    a.window = 2; /* the last row loses the prefix */
    ok(ca_attention_fwd(be, o3, mat(lse, 2, 2), q3, k3, v3, pk, pv, s, a));
    assert_values(o, (const double[]){21 / 3.0, 11 / 2.0, 320 / 5.0, 110 / 2.0}, 4);

    a.soft_cap = 1, a.scale = 1e9; /* positive scores become 1, the score of key log 1 stays 0 */
    ok(ca_attention_fwd(be, o3, mat(lse, 2, 2), q3, k3, v3, pk, pv, s, a));
    assert_values(o, (const double[]){(1 + 10 * M_E) / (1 + M_E), 11 / 2.0, 55, 55}, 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_new_memory_is_nan),
        cmocka_unit_test(test_sixteen_bits),
        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_norm),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_head),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_intervention),
        cmocka_unit_test(test_pattern_mix),
        cmocka_unit_test(test_training),
    };
    return cmocka_run_group_tests(tests, open_ref, close_ref);
}
