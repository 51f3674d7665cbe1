/* SPDX-License-Identifier: MIT
 *
 * See statistics.h.
 */
#include "statistics.h"
#include "interval.h"

#include <math.h>
#include <stdlib.h>

static int compare(const void *left, const void *right) {
    const ranked_value *a = left, *b = right;
    if (a->value != b->value) return a->value > b->value ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

void ca_statistics_sort(ranked_value *items, int64_t count) {
    qsort(items, (size_t)count, sizeof *items, compare);
}

double ca_statistics_mean(const double *values, int64_t count) {
    double sum = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++) {
        if (isnan(values[i])) continue;
        sum += values[i];
        n++;
    }
    return n ? sum / (double)n : NAN;
}

/* Squared deviations from the mean of the *n values that are no NaN. */
static double squares_of(const double *values, int64_t count, int64_t *n) {
    double mean = ca_statistics_mean(values, count), sum = 0;
    *n = 0;
    for (int64_t i = 0; i < count; i++) {
        if (isnan(values[i])) continue;
        sum += (values[i] - mean) * (values[i] - mean);
        ++*n;
    }
    return sum;
}

double ca_statistics_sem(const double *values, int64_t count) {
    int64_t n;
    double sum = squares_of(values, count, &n);
    return n > 1 ? sqrt(sum / (double)(n - 1) / (double)n) : NAN;
}

double ca_statistics_half_width(const double *values, int64_t count) {
    int64_t n;
    double sum = squares_of(values, count, &n);
    return ca_method_half_width(sum, n);
}

double ca_statistics_area(const double *x, const double *y, int64_t count) {
    double area = 0;
    for (int64_t i = 0; i + 1 < count; i++) area += (x[i + 1] - x[i]) / 2 * (y[i] + y[i + 1]);
    return area;
}

double ca_statistics_published_sem(const double *x, const double *sem, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i + 1 < count; i++) {
        double weight = (x[i + 1] - x[i]) / 2;
        sum += weight * weight * (sem[i] * sem[i] + sem[i + 1] * sem[i + 1]);
    }
    return sqrt(sum);
}

/* ranks[i] of values[i], equal values get the mean of their ranks. */
static void rank(const double *values, int64_t count, ranked_value *items, double *ranks) {
    for (int64_t i = 0; i < count; i++) items[i] = (ranked_value){values[i], i};
    ca_statistics_sort(items, count);
    for (int64_t first = 0, last; first < count; first = last) {
        for (last = first + 1; last < count && items[last].value == items[first].value;) last++;
        for (int64_t i = first; i < last; i++)
            ranks[items[i].index] = (double)(first + last - 1) / 2;
    }
}

/* Sizes are ranked from 1 for the smallest; t equal ones share the mean of their ranks. */
double ca_statistics_wilcoxon(const double *values, int64_t count, ranked_value *items) {
    double plus = 0, ties = 0;
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++)
        if (fabs(values[i]) > 0) items[n++] = (ranked_value){fabs(values[i]), i};
    ca_statistics_sort(items, n);
    for (int64_t first = 0, last; first < n; first = last) {
        for (last = first + 1; last < n && items[last].value == items[first].value;) last++;
        double t = (double)(last - first), rank = (double)n - (double)(first + last - 1) / 2;
        ties += t * t * t - t;
        for (int64_t i = first; i < last; i++)
            if (values[items[i].index] > 0) plus += rank;
    }
    double size = (double)n, mean = size * (size + 1) / 4;
    double variance = (size * (size + 1) * (2 * size + 1) - ties / 2) / 24;
    return n ? erfc(fabs(plus - mean) / sqrt(2 * variance)) : NAN;
}

double ca_statistics_spearman(const double *a, const double *b, int64_t count, ranked_value *items,
                              double *ranks) {
    double *of_a = ranks, *of_b = ranks + count, mean = (double)(count - 1) / 2;
    double ab = 0, aa = 0, bb = 0;
    rank(a, count, items, of_a);
    rank(b, count, items, of_b);
    for (int64_t i = 0; i < count; i++) {
        ab += (of_a[i] - mean) * (of_b[i] - mean);
        aa += (of_a[i] - mean) * (of_a[i] - mean);
        bb += (of_b[i] - mean) * (of_b[i] - mean);
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : NAN;
}

static int sign(double difference) { return (difference > 0) - (difference < 0); }

double ca_statistics_kendall(const double *a, const double *b, int64_t count) {
    int64_t agreement = 0, pairs_a = 0, pairs_b = 0; /* pairs that are no ties */
    for (int64_t i = 0; i < count; i++)
        for (int64_t k = 0; k < i; k++) {
            int in_a = sign(a[i] - a[k]), in_b = sign(b[i] - b[k]);
            agreement += in_a * in_b;
            pairs_a += in_a != 0;
            pairs_b += in_b != 0;
        }
    if (pairs_a == 0 || pairs_b == 0) return NAN;
    return (double)agreement / sqrt((double)pairs_a * (double)pairs_b);
}

double ca_statistics_top_jaccard(const double *a, const double *b, int64_t count, int64_t k,
                                 ranked_value *items, double *marks) {
    int64_t shared = 0;
    for (int64_t i = 0; i < count; i++) {
        items[i] = (ranked_value){a[i], i};
        marks[i] = 0;
    }
    ca_statistics_sort(items, count);
    for (int64_t i = 0; i < k; i++) marks[items[i].index] = 1;
    for (int64_t i = 0; i < count; i++) items[i] = (ranked_value){b[i], i};
    ca_statistics_sort(items, count);
    for (int64_t i = 0; i < k; i++) shared += marks[items[i].index] > 0;
    return (double)shared / (double)(2 * k - shared);
}
