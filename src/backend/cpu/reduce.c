/* SPDX-License-Identifier: MIT
 *
 * Reductions over the last axis, summed in float64; sums over rows, along a tree.
 */
#include "cpu.h"

static double dot(const float *x, const float *w, int64_t n) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)w[i];
    return sum;
}

ca_status ca_cpu_row_norms(ca_backend *be, ca_tensor y, ca_tensor x) {
    int64_t rows = cpu_places(&x, x.rank - 1), n = cpu_width(&x);
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *from = cpu_row(&x, row);
        ((float *)y.data)[cpu_offset(&y, x.rank - 1, row)] = (float)sqrt(dot(from, from, n));
    }
    return CA_OK;
}

ca_status ca_cpu_row_dots(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) {
    int64_t rows = cpu_places(&x, x.rank - 1), n = cpu_width(&x);
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        ((float *)y.data)[cpu_offset(&y, x.rank - 1, row)] =
            (float)dot(cpu_row(&x, row), cpu_row(&w, row), n);
    return CA_OK;
}

/* w == NULL: zeros */
static double distance(const float *x, const float *w, int64_t n) {
    double sum = 0;
    if (w == NULL) {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += fabs((double)x[i]);
    } else {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += fabs((double)x[i] - (double)w[i]);
    }
    return sum;
}

ca_status ca_cpu_row_distances(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) {
    int64_t rows = cpu_places(&x, x.rank - 1), n = cpu_width(&x);
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        ((float *)y.data)[cpu_offset(&y, x.rank - 1, row)] =
            (float)distance(cpu_row(&x, row), w.data ? cpu_row(&w, row) : NULL, n);
    return CA_OK;
}

/* ---- sums over rows along a tree --------------------------------------------------------- */

/* Columns that one thread sums at a time: the sums of all levels stay in the first cache. */
enum { COLUMNS = 128 };

static int64_t largest_power_below(int64_t n) {
    int64_t power = 1;
    while (2 * power < n) power *= 2;
    return power;
}

static void sum_of_eight(float *restrict sum, const float *restrict x, int64_t stride,
                         int64_t width) {
    const float *a = x, *b = a + stride, *c = b + stride, *d = c + stride;
    const float *e = d + stride, *f = e + stride, *g = f + stride, *h = g + stride;
#pragma omp simd
    for (int64_t i = 0; i < width; i++)
        sum[i] = ((a[i] + b[i]) + (c[i] + d[i])) + ((e[i] + f[i]) + (g[i] + h[i]));
}

/* sum [width] = rows of x, `stride` apart, along the tree of ops.h; rows >= 1, width <= COLUMNS. */
static void tree_sum(float *restrict sum, const float *restrict x, int64_t stride, int64_t rows,
                     int64_t width) {
    if (rows == 1) {
        memcpy(sum, x, (size_t)width * sizeof(float));
    } else if (rows == 8) {
        sum_of_eight(sum, x, stride, width);
    } else {
        float rest[COLUMNS];
        int64_t left = largest_power_below(rows);
        tree_sum(sum, x, stride, left, width);
        tree_sum(rest, x + left * stride, stride, rows - left, width);
        for (int64_t i = 0; i < width; i++) sum[i] += rest[i];
    }
}

ca_status ca_cpu_column_sums(ca_backend *be, ca_tensor y, ca_tensor x) {
    int64_t places = cpu_places(&y, y.rank - 1), width = cpu_width(&y);
    int64_t rows = x.shape[x.rank - 2], stride = x.stride[x.rank - 2];
    int64_t tiles = (width + COLUMNS - 1) / COLUMNS;
#pragma omp parallel for num_threads(cpu_threads(be, places, rows * width)) schedule(static)
    for (int64_t item = 0; item < places * tiles; item++) {
        int64_t place = item / tiles, at = item % tiles * COLUMNS;
        int64_t count = cpu_min(width - at, COLUMNS);
        float *sum = cpu_row(&y, place) + at;
        if (rows == 0)
            memset(sum, 0, (size_t)count * sizeof(float));
        else
            tree_sum(sum, (const float *)x.data + cpu_offset(&x, x.rank - 2, place) + at, stride,
                     rows, count);
    }
    return CA_OK;
}
