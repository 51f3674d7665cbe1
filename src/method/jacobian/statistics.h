/* SPDX-License-Identifier: MIT
 *
 * Statistics of the evaluation: means, areas, rank correlations. Pure functions of host arrays.
 */
#ifndef CAUSA_JACOBIAN_STATISTICS_H
#define CAUSA_JACOBIAN_STATISTICS_H

#include <stdint.h>

/* A value and where it stood before sorting. */
typedef struct ranked_value {
    double value;
    int64_t index;
} ranked_value;

/* Largest value first, ties by rising index. */
void ca_statistics_sort(ranked_value *items, int64_t count);

/* Of the values that are no NaN; NaN without any. */
double ca_statistics_mean(const double *values, int64_t count);
/* Standard error of that mean, from the sample standard deviation; NaN for fewer than two. */
double ca_statistics_sem(const double *values, int64_t count);

/* Half the width of the 95 % interval of that mean by Student's t; NaN for fewer than two. */
double ca_statistics_half_width(const double *values, int64_t count);
/* Two-sided p of Wilcoxon's signed-rank test that the values are symmetric about 0, by the normal
 * approximation with ties, without continuity correction; zeros (and NaN) are left out, as Wilcoxon
 * does, and without any other value it is NaN. items [count]: room
 * Source: Wilcoxon 1945, "Individual comparisons by ranking methods". */
double ca_statistics_wilcoxon(const double *values, int64_t count, ranked_value *items);

/* Area under y over rising x by the trapezoid rule. */
double ca_statistics_area(const double *x, const double *y, int64_t count);
/* Standard error of that area as published with Jacobian Scopes: the intervals are taken as
 * independent, although neighbours share a point. sem [count] of y. */
double ca_statistics_published_sem(const double *x, const double *sem, int64_t count);

/* Spearman's rho with mean ranks for ties; NaN when either array is constant.
 * items [count], ranks [2 * count]: room */
double ca_statistics_spearman(const double *a, const double *b, int64_t count, ranked_value *items,
                              double *ranks);
/* Kendall's tau-b; NaN when either array is constant. */
double ca_statistics_kendall(const double *a, const double *b, int64_t count);
/* Jaccard index of the k largest values of both arrays, ties by index: shared ones as a share of
 * those in either. items [count], marks [count]: room */
double ca_statistics_top_jaccard(const double *a, const double *b, int64_t count, int64_t k,
                                 ranked_value *items, double *marks);

#endif
