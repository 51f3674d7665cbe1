/* SPDX-License-Identifier: MIT
 *
 * Agreement of circuits and of scores: by hand, and against SciPy 1.17.1 and scikit-learn 1.9.1:
 *
 *   scipy.stats.hypergeom.sf(both - 1, N, a, b)       (for N <= 40000 confirmed in whole numbers)
 *   i = np.arange(60); x, y = i * 37 % 61, (i * i * 11 + 5 * i) % 53   (ties: % 7 and % 5)
 *   scipy.stats.pearsonr(x, y), scipy.stats.kendalltau(x, y)
 *   sklearn.metrics.roc_auc_score(i * 29 % 60 < 20, x)
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "causa/circuit.h"

static void ok(ca_status st) {
    if (st != CA_OK) fail_msg("%s", ca_error_text());
}

static void expect_near(double got, double want, double limit) {
    if (!(fabs(got - want) <= limit)) fail_msg("got %.17g, expected %.17g", got, want);
}

/* ---- sets */

static void test_overlap_by_hand(void **state) {
    (void)state;
    const bool a[] = {1, 1, 1, 0, 0, 0, 1}, b[] = {0, 1, 1, 1, 0, 0, 1};
    const bool valid[] = {1, 1, 1, 1, 1, 1, 0};
    const ca_overlap all = ca_overlap_of(a, b, NULL, 7);
    assert_true(all.a == 4 && all.b == 4 && all.both == 3 && all.of == 7);
    expect_near(all.iou, 3.0 / 5, 1e-15);
    /* of C(7, 4) = 35 choices of b: C(4, 3) C(3, 1) + C(4, 4) = 13 */
    expect_near(all.probability, 13.0 / 35, 1e-13);
    const ca_overlap some = ca_overlap_of(a, b, valid, 7);
    assert_true(some.a == 3 && some.b == 3 && some.both == 2 && some.of == 6);
    expect_near(some.iou, 2.0 / 4, 1e-15);
    expect_near(some.probability, 10.0 / 20, 1e-13);
}

static void test_directions(void **state) {
    (void)state;
    const bool small[] = {1, 0, 0, 0, 0}, large[] = {1, 1, 1, 1, 0}, none[5] = {0};
    const ca_overlap o = ca_overlap_of(small, large, NULL, 5);
    expect_near(o.a_in_b, 1, 0);
    expect_near(o.b_in_a, 0.25, 0);
    const ca_overlap with_none = ca_overlap_of(small, none, NULL, 5);
    expect_near(with_none.iou, 0, 0);
    expect_near(with_none.a_in_b, 0, 0);
    expect_near(with_none.b_in_a, 1, 0);
    expect_near(with_none.probability, 1, 0);
    const ca_overlap of_nothing = ca_overlap_of(none, none, NULL, 0);
    expect_near(of_nothing.iou, 1, 0);
    expect_near(of_nothing.probability, 1, 0);
}

/* Log-gamma of n loses about n log n rounding units: 1e-12 for thousands, 1e-7 for millions. */
static void test_probability_of_chance(void **state) {
    (void)state;
    static const struct {
        int64_t a, b, both, of;
        double want, relative;
    } cases[] = {
        {40, 50, 12, 1000, 1.249116413332310456e-7, 1e-11},
        {40, 50, 1, 1000, 8.767978500420538467e-1, 1e-11},
        {40, 50, 0, 1000, 1, 0},
        {5, 5, 5, 10, 1.0 / 252, 1e-13},
        {900, 800, 750, 1000, 8.659692344502377472e-13, 1e-11},
        {900, 800, 700, 1000, 1, 0},  /* they cannot share less */
        {756, 756, 700, 32491, 0, 0}, /* 1.9e-1295 */
        {20000, 30000, 500, 1592881, 4.173249891974082e-10, 1e-7},
        {20000, 30000, 376, 1592881, 0.5212922276316039, 1e-7},
        {20000, 20000, 700, 1592881, 1.4943552596736733e-123, 1e-7},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool *a, *b;
        ok(ca_calloc((size_t)cases[i].of, 1, &a));
        ok(ca_calloc((size_t)cases[i].of, 1, &b));
        for (int64_t k = 0; k < cases[i].a; k++) a[k] = true;
        const int64_t first = cases[i].a - cases[i].both;
        for (int64_t k = first; k < first + cases[i].b; k++) b[k] = true;
        const ca_overlap o = ca_overlap_of(a, b, NULL, cases[i].of);
        assert_int_equal(o.both, cases[i].both);
        expect_near(o.probability, cases[i].want, cases[i].want * cases[i].relative);
        free(a);
        free(b);
    }
}

/* ---- scores */

enum { N = 60 };

static void fill(double *x, double *y, bool *truth, int64_t xs, int64_t ys) {
    for (int64_t i = 0; i < N; i++) {
        x[i] = (double)(i * 37 % xs);
        y[i] = (double)((i * i * 11 + 5 * i) % ys);
        truth[i] = i * 29 % 60 < 20;
    }
}

static void test_recorded_correlations(void **state) {
    (void)state;
    static const struct {
        int64_t xs, ys;
        double pearson, kendall, area;
    } cases[] = {
        {61, 53, 0.03522261556441653, 0.04343140785803226, 0.53},
        {7, 5, 0.03951303898467998, 0.02325911936253564, 0.43624999999999997},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double x[N], y[N], tau, area;
        bool truth[N];
        fill(x, y, truth, cases[i].xs, cases[i].ys);
        expect_near(ca_pearson(x, y, N), cases[i].pearson, 1e-14);
        ok(ca_kendall(x, y, N, &tau));
        expect_near(tau, cases[i].kendall, 1e-14);
        ok(ca_auroc(x, truth, N, &area));
        expect_near(area, cases[i].area, 1e-14);
    }
}

/* The definition: every pair of pairs. */
static double kendall_plainly(const double *x, const double *y, int64_t n) {
    double concordance = 0, tied_x = 0, tied_y = 0, all = (double)(n * (n - 1) / 2);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < i; j++) {
            const double dx = x[i] - x[j], dy = y[i] - y[j];
            concordance += (double)((dx > 0) - (dx < 0)) * (double)((dy > 0) - (dy < 0));
            tied_x += dx == 0;
            tied_y += dy == 0;
        }
    return concordance / sqrt((all - tied_x) * (all - tied_y));
}

static double area_plainly(const double *score, const bool *truth, int64_t n) {
    double won = 0, pairs = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            if (!truth[i] || truth[j]) continue;
            won += score[i] > score[j] ? 1 : score[i] == score[j] ? 0.5 : 0;
            pairs++;
        }
    return won / pairs;
}

static void test_ranks_are_their_definition(void **state) {
    (void)state;
    for (int64_t n = 2; n < 200; n += 7)
        for (uint64_t ties = 0; ties < 3; ties++) {
            double x[200], y[200], tau, area;
            bool truth[200];
            const ca_philox_key key = {(uint64_t)n, ties};
            const double steps[] = {1e9, 20, 3};
            for (int64_t i = 0; i < n; i++) {
                x[i] = floor(ca_philox_uniform(key, (uint64_t)(3 * i)) * steps[ties]);
                y[i] =
                    floor(ca_philox_uniform(key, (uint64_t)(3 * i + 1)) * steps[ties]) + x[i] / 2;
                truth[i] = i == 0 || (i > 1 && ca_philox_uniform(key, (uint64_t)(3 * i + 2)) < 0.3);
            }
            ok(ca_kendall(x, y, n, &tau));
            const double want = kendall_plainly(x, y, n);
            if (!(isnan(tau) && isnan(want))) expect_near(tau, want, 1e-12);
            ok(ca_auroc(x, truth, n, &area));
            expect_near(area, area_plainly(x, truth, n), 1e-12);
        }
}

static void test_perfect_agreement(void **state) {
    (void)state;
    double x[N], y[N], tau, area;
    bool truth[N];
    fill(x, y, truth, 61, 53);
    for (int64_t i = 0; i < N; i++) y[i] = 3 - 2 * x[i];
    for (int64_t i = 0; i < N; i++) truth[i] = x[i] > 20;
    expect_near(ca_pearson(x, y, N), -1, 1e-14);
    ok(ca_kendall(x, y, N, &tau));
    expect_near(tau, -1, 1e-14);
    ok(ca_auroc(x, truth, N, &area));
    expect_near(area, 1, 0);
    ok(ca_auroc(y, truth, N, &area));
    expect_near(area, 0, 0);
}

static void test_nothing_to_compare(void **state) {
    (void)state;
    double x[N], y[N], tau, area;
    bool truth[N];
    fill(x, y, truth, 61, 53);
    for (int64_t i = 0; i < N; i++) y[i] = 0.1; /* its mean is not 0.1 in binary */
    assert_true(isnan(ca_pearson(x, y, N)) && isnan(ca_pearson(y, x, N)));
    ok(ca_kendall(x, y, N, &tau));
    assert_true(isnan(tau));
    memset(truth, 0, sizeof truth);
    ok(ca_auroc(x, truth, N, &area));
    assert_true(isnan(area));
    ok(ca_kendall(x, y, 0, &tau));
    assert_true(isnan(tau) && isnan(ca_pearson(x, y, 0)));
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(test_overlap_by_hand),
        cmocka_unit_test(test_directions),
        cmocka_unit_test(test_probability_of_chance),
        cmocka_unit_test(test_recorded_correlations),
        cmocka_unit_test(test_ranks_are_their_definition),
        cmocka_unit_test(test_perfect_agreement),
        cmocka_unit_test(test_nothing_to_compare),
    };
    return cmocka_run_group_tests(all, NULL, NULL);
}
