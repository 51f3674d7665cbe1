/* SPDX-License-Identifier: MIT
 *
 * What is done with logits on the reference backend: soft cap, log of the sum, the largest, cross
 * entropy.
 */
#include "ref.h"

#include <math.h>
#include <stdlib.h>

ca_status ca_ref_soft_cap_fwd(ca_backend *be, ca_tensor y, ca_tensor x, double cap) {
    (void)be;
    int64_t n = ca_ref_width(&x);
    double *xi = NULL;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(n, &xi));
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        ca_ref_load(&x, row, xi);
        for (int64_t d = 0; d < n; d++) xi[d] = cap * tanh(xi[d] / cap);
        ca_ref_store(&y, row, xi);
    }
out:
    free(xi);
    return st;
}

ca_status ca_ref_soft_cap_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor y, double cap) {
    (void)be;
    int64_t n = ca_ref_width(&y);
    double *yi = NULL, *dyi;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(2 * n, &yi));
    dyi = yi + n;
    for (int64_t row = 0; row < ca_ref_rows(&y); row++) {
        ca_ref_load(&y, row, yi);
        ca_ref_load(&dy, row, dyi);
        for (int64_t d = 0; d < n; d++) dyi[d] *= 1 - (yi[d] / cap) * (yi[d] / cap);
        ca_ref_store(&dx, row, dyi);
    }
out:
    free(yi);
    return st;
}

double ca_ref_log_sum_exp(const double *x, int64_t n) {
    double largest = -(double)INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        if (isnan(x[i])) return x[i];
        if (x[i] > largest) largest = x[i];
    }
    if (isinf(largest)) return largest; /* the difference below would be infinity - infinity */
    for (int64_t i = 0; i < n; i++) sum += exp(x[i] - largest);
    return largest + log(sum);
}

ca_status ca_ref_log_sum_exp_rows(ca_backend *be, ca_tensor y, ca_tensor x) {
    (void)be;
    int64_t n = ca_ref_width(&x);
    double *xi = NULL;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(n, &xi));
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        ca_ref_load(&x, row, xi);
        ca_ref_set(&y, row, ca_ref_log_sum_exp(xi, n));
    }
out:
    free(xi);
    return st;
}

ca_status ca_ref_softmax_rows(ca_backend *be, ca_tensor y, ca_tensor x) {
    (void)be;
    int64_t n = ca_ref_width(&x);
    double *xi = NULL;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(n, &xi));
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        ca_ref_load(&x, row, xi);
        double lse = ca_ref_log_sum_exp(xi, n);
        for (int64_t i = 0; i < n; i++) xi[i] = exp(xi[i] - lse);
        ca_ref_store(&y, row, xi);
    }
out:
    free(xi);
    return st;
}

typedef struct candidate {
    double value;
    int32_t index;
} candidate;

/* NaN first, then falling values, ties by rising index. */
static int compare_candidates(const void *left, const void *right) {
    const candidate *a = left, *b = right;
    bool a_nan = isnan(a->value), b_nan = isnan(b->value);
    if (a_nan != b_nan) return a_nan ? -1 : 1;
    if (!a_nan && a->value != b->value) return a->value > b->value ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

ca_status ca_ref_top_k(ca_backend *be, ca_tensor values, ca_tensor indices, ca_tensor x) {
    (void)be;
    int64_t n = ca_ref_width(&x), k = ca_ref_width(&values);
    candidate *all = NULL;
    double *xi = NULL;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(n, &xi));
    CA_TRY(ca_calloc((size_t)n, sizeof *all, &all));
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        ca_ref_load(&x, row, xi);
        for (int64_t v = 0; v < n; v++) all[v] = (candidate){xi[v], (int32_t)v};
        qsort(all, (size_t)n, sizeof *all, compare_candidates);
        for (int64_t i = 0; i < k; i++) {
            ca_ref_set(&values, row * k + i, all[i].value);
            ca_ref_set(&indices, row * k + i, all[i].index);
        }
    }
out:
    free(all);
    free(xi);
    return st;
}

/* ---- cross entropy */

static ca_status check_targets(const char *operation, const ca_tensor *target, int64_t limit) {
    for (int64_t i = 0; i < target->shape[0]; i++) {
        int64_t value = ca_ref_index(target, i);
        if (value < 0 || value >= limit)
            return ca_fail(CA_E_SHAPE, "%s: target[%lld]: expected 0 to %lld, got %lld", operation,
                           (long long)i, (long long)limit - 1, (long long)value);
    }
    return CA_OK;
}

/* Takes the largest value from all, so that small losses of large logits keep their digits. */
static void shift(double *x, int64_t n) {
    double largest = -(double)INFINITY;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, x[i]);
    for (int64_t i = 0; i < n && isfinite(largest); i++) x[i] -= largest;
}

ca_status ca_ref_cross_entropy_fwd(ca_backend *be, ca_tensor loss, ca_tensor x, ca_tensor target) {
    (void)be;
    int64_t n = ca_ref_width(&x);
    double *xi = NULL;
    ca_status st = CA_OK;
    CA_TRY(check_targets("cross_entropy_fwd", &target, n));
    CA_TRY(ca_ref_scratch(n, &xi));
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        ca_ref_load(&x, row, xi);
        shift(xi, n);
        ca_ref_set(&loss, row, ca_ref_log_sum_exp(xi, n) - xi[ca_ref_index(&target, row)]);
    }
out:
    free(xi);
    return st;
}

ca_status ca_ref_cross_entropy_bwd(ca_backend *be, ca_tensor dx, ca_tensor x, ca_tensor target,
                                   ca_tensor scale) {
    (void)be;
    int64_t n = ca_ref_width(&x);
    double *xi = NULL;
    ca_status st = CA_OK;
    CA_TRY(check_targets("cross_entropy_bwd", &target, n));
    CA_TRY(ca_ref_scratch(n, &xi));
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        ca_ref_load(&x, row, xi);
        shift(xi, n);
        int64_t hit = ca_ref_index(&target, row);
        double lse = ca_ref_log_sum_exp(xi, n), factor = ca_ref_get(&scale, row), others = 0;
        for (int64_t i = 0; i < n; i++) {
            double probability = exp(xi[i] - lse);
            if (i != hit) others += probability;
            xi[i] = factor * probability;
        }
        xi[hit] = -factor * others; /* factor (p - 1) */
        ca_ref_store(&dx, row, xi);
    }
out:
    free(xi);
    return st;
}
