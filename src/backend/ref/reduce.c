/* SPDX-License-Identifier: MIT
 *
 * One number per row, and sums over rows, on the reference backend.
 */
#include "ref.h"

#include <math.h>
#include <stdlib.h>

ca_status ca_ref_row_norms(ca_backend *be, ca_tensor y, ca_tensor x) {
    (void)be;
    int64_t n = ca_ref_width(&x);
    double *xi = NULL;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(n, &xi));
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        ca_ref_load(&x, row, xi);
        ca_ref_set(&y, row, sqrt(ca_ref_dot(xi, xi, n)));
    }
out:
    free(xi);
    return st;
}

ca_status ca_ref_row_dots(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) {
    (void)be;
    int64_t n = ca_ref_width(&x);
    double *xi = NULL, *wi;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(2 * n, &xi));
    wi = xi + n;
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        ca_ref_load(&x, row, xi);
        ca_ref_load(&w, row, wi);
        ca_ref_set(&y, row, ca_ref_dot(xi, wi, n));
    }
out:
    free(xi);
    return st;
}

ca_status ca_ref_row_distances(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) {
    (void)be;
    int64_t n = ca_ref_width(&x);
    double *xi = NULL, *wi;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(2 * n, &xi)); /* zeros, which w is when absent */
    wi = xi + n;
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        double sum = 0;
        ca_ref_load(&x, row, xi);
        if (w.data) ca_ref_load(&w, row, wi);
        for (int64_t d = 0; d < n; d++) sum += fabs(xi[d] - wi[d]);
        ca_ref_set(&y, row, sum);
    }
out:
    free(xi);
    return st;
}

/* ---- sums over rows along a tree */

static double round_to(ca_dtype dtype, double x) { return dtype == CA_F32 ? (double)(float)x : x; }

static int64_t largest_power_below(int64_t n) {
    int64_t power = 1;
    while (2 * power < n) power *= 2;
    return power;
}

/* sum [D] = rows [at, at + count) of x, count >= 1; the space behind it takes the right-hand sums,
 * one more for each halving of count. */
static void tree_sum(const ca_tensor *x, int64_t at, int64_t count, double *sum) {
    if (count == 1) {
        ca_ref_load(x, at, sum);
        return;
    }
    int64_t n = ca_ref_width(x), left = largest_power_below(count);
    tree_sum(x, at, left, sum);
    tree_sum(x, at + left, count - left, sum + n);
    for (int64_t d = 0; d < n; d++) sum[d] = round_to(x->dtype, sum[d] + sum[n + d]);
}

ca_status ca_ref_column_sums(ca_backend *be, ca_tensor y, ca_tensor x) {
    (void)be;
    int64_t n = ca_ref_width(&y), rows = x.shape[x.rank - 2], levels = 1;
    for (int64_t power = 1; power < rows; power *= 2) levels++;
    double *sum = NULL;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(levels * n, &sum)); /* zeros, which is the sum of no rows */
    for (int64_t row = 0; row < ca_ref_rows(&y); row++) {
        if (rows > 0) tree_sum(&x, row * rows, rows, sum);
        ca_ref_store(&y, row, sum);
    }
out:
    free(sum);
    return st;
}
