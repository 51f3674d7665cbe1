/* SPDX-License-Identifier: MIT
 *
 * Statistics of the evaluation against values worked out by hand.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "method/jacobian/statistics.h"
#include "published_aopc.h"

#include <math.h>
#include <string.h>

/* A few roundings of numbers of the size of 1. */
#define NEAR(got, expected) assert_true(fabs((got) - (expected)) <= 1e-14)

static void largest_first_ties_by_index(void **state) {
    (void)state;
    ranked_value items[] = {{1, 0}, {3, 1}, {1, 2}, {-2, 3}, {3, 4}};
    const int64_t expected[] = {1, 4, 0, 2, 3};
    ca_statistics_sort(items, 5);
    for (int i = 0; i < 5; i++) assert_int_equal(items[i].index, expected[i]);
}

static void means_leave_nan_out(void **state) {
    (void)state;
    const double values[] = {1, NAN, 3, 5}, one[] = {NAN, 2};
    NEAR(ca_statistics_mean(values, 4), 3);
    NEAR(ca_statistics_sem(values, 4), sqrt(4.0 / 3)); /* variance 8 / 2, three values */
    NEAR(ca_statistics_mean(one, 2), 2);
    assert_true(isnan(ca_statistics_sem(one, 2)));
    assert_true(isnan(ca_statistics_mean(one, 1)));
}

/* Delta = -1 at every fraction gives -0.15: the weights of Jacobian Scopes. */
static void areas(void **state) {
    (void)state;
    const double x[] = {0.05, 0.1, 0.2}, flat[] = {-1, -1, -1}, y[] = {1, 2, 4};
    NEAR(ca_statistics_area(x, flat, 3), -0.15);
    NEAR(ca_statistics_area(x, y, 3), 0.025 * 3 + 0.05 * 6);
    NEAR(ca_statistics_published_sem(x, y, 3), sqrt(0.025 * 0.025 * 5 + 0.05 * 0.05 * 20));
}

/* The row of input_x_gradient of the same model and data set. */
static const published_aopc *baseline_of(const published_aopc *row) {
    static const char method[] = "input_x_gradient";
    size_t pair = (size_t)(strrchr(row->name, ' ') + 1 - row->name);
    for (size_t i = 0; i < sizeof published / sizeof *published; i++)
        if (strncmp(published[i].name, row->name, pair) == 0 &&
            strcmp(published[i].name + pair, method) == 0)
            return &published[i];
    return NULL;
}

/* The area is linear in the changes, so that of their means is the mean of areas. Each of them is
 * rounded to 5e-5, and the weights add up to 0.15. */
static void published_areas(void **state) {
    (void)state;
    const double x[] = {0.05, 0.1, 0.2};
    int differences = 0;
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        const published_aopc *row = &published[i], *baseline = baseline_of(row);
        double area = ca_statistics_area(x, row->delta, 3);
        if (!(fabs(area - row->aopc) <= 1.15 * 5e-5)) fail_msg("%s: %.6f", row->name, area);
        if (isnan(row->difference)) continue;
        double difference = area - ca_statistics_area(x, baseline->delta, 3);
        if (!(fabs(difference - row->difference) <= 1.3 * 5e-5))
            fail_msg("%s: difference %.6f", row->name, difference);
        differences++;
    }
    assert_true(differences > 60);
}

/* Two values 0 and 2: t = 12.7062 times an error of 1; of 41 and more the quantile is from the
 * expansion: 2.0211 for 40. */
static void intervals(void **state) {
    (void)state;
    const double two[] = {0, NAN, 2};
    double many[41];
    NEAR(ca_statistics_half_width(two, 3), 12.7062);
    assert_true(isnan(ca_statistics_half_width(two, 1)));
    for (int i = 0; i < 41; i++) many[i] = i % 2 ? -1 : 1;
    many[40] = 0;
    assert_true(fabs(ca_statistics_half_width(many, 41) / ca_statistics_sem(many, 41) - 2.02108) <
                5e-5);
}

/* p of scipy 1.10.1, wilcoxon(values, method="approx"): ties, zeros, all of one sign, none. */
static void signed_ranks(void **state) {
    (void)state;
    static const struct {
        int64_t count;
        double values[12], p;
    } recorded[] = {
        {10, {0.3, -0.1, 0.2, 0.05, -0.4, 0.6, 0.7, -0.02, 0.11, 0.9}, 0.09260069782067576},
        {12, {1, -1, 2, 2, -3, 4, 0, 0, 4, 5, -2, 3}, 0.11248161417523894},
        {6, {-0.5, -1.5, -2.5, -3.5, -4.5, -5.5}, 0.027707849358079864},
        {6, {2, 2, 2, -2, -2, 1}, 0.5785147215079439},
        {2, {-1, 1}, 1},
        {3, {-1, NAN, 1}, 1},
    };
    ranked_value items[12];
    for (size_t i = 0; i < sizeof recorded / sizeof *recorded; i++) {
        double p = ca_statistics_wilcoxon(recorded[i].values, recorded[i].count, items);
        if (!(fabs(p - recorded[i].p) <= 1e-13)) fail_msg("row %zu: %.17g", i, p);
    }
    const double zeros[] = {0, NAN, 0};
    assert_true(isnan(ca_statistics_wilcoxon(zeros, 3, items)));
}

static void correlations(void **state) {
    (void)state;
    ranked_value items[5];
    double ranks[10];
    const double a[] = {1, 2, 3, 4, 5}, up[] = {-9, 0, 0.5, 7, 100}, down[] = {5, 4, 3, 2, 1};
    const double mixed[] = {2, 1, 4, 3, 5}; /* d^2 sums to 4; 8 of 10 pairs agree */
    const double flat[] = {7, 7, 7, 7, 7};
    NEAR(ca_statistics_spearman(a, up, 5, items, ranks), 1);
    NEAR(ca_statistics_spearman(a, down, 5, items, ranks), -1);
    NEAR(ca_statistics_spearman(a, mixed, 5, items, ranks), 1 - 6.0 * 4 / (5 * 24));
    assert_true(isnan(ca_statistics_spearman(a, flat, 5, items, ranks)));
    NEAR(ca_statistics_kendall(a, up, 5), 1);
    NEAR(ca_statistics_kendall(a, down, 5), -1);
    NEAR(ca_statistics_kendall(a, mixed, 5), 0.6);
    assert_true(isnan(ca_statistics_kendall(flat, a, 5)));
}

/* Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4; five of six pairs are no tie in a, all agree. */
static void correlations_with_ties(void **state) {
    (void)state;
    ranked_value items[4];
    double ranks[8];
    const double a[] = {1, 2, 2, 3}, b[] = {1, 2, 3, 4};
    NEAR(ca_statistics_spearman(a, b, 4, items, ranks), 4.5 / sqrt(4.5 * 5));
    NEAR(ca_statistics_kendall(a, b, 4), 5 / sqrt(5 * 6.0));
}

/* Both put 5 and 4 first; behind them are 3 and a tie, of which the lower index counts. */
static void overlaps(void **state) {
    (void)state;
    ranked_value items[5];
    double marks[5];
    const double a[] = {1, 5, 4, 3, 0}, b[] = {2, 8, 9, 2, 1};
    NEAR(ca_statistics_top_jaccard(a, b, 5, 1, items, marks), 0);
    NEAR(ca_statistics_top_jaccard(a, b, 5, 2, items, marks), 1);
    NEAR(ca_statistics_top_jaccard(a, b, 5, 3, items, marks), 0.5);
    NEAR(ca_statistics_top_jaccard(a, b, 5, 5, items, marks), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(largest_first_ties_by_index),
        cmocka_unit_test(means_leave_nan_out),
        cmocka_unit_test(areas),
        cmocka_unit_test(published_areas),
        cmocka_unit_test(intervals),
        cmocka_unit_test(signed_ranks),
        cmocka_unit_test(correlations),
        cmocka_unit_test(correlations_with_ties),
        cmocka_unit_test(overlaps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
