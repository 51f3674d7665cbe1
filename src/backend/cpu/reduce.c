/* SPDX-License-Identifier: MIT
 *
 * Reductions over the last axis, summed in float64.
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
