/* SPDX-License-Identifier: MIT
 *
 * RMS and layer norm over the last axis and their gradients. Statistics are float64 sums.
 */
#include "cpu.h"

/* Mean (0 for RMS) and 1 / sqrt(variance + epsilon) of one row. */
typedef struct cpu_moments {
    double mean, inverse;
} cpu_moments;

static cpu_moments moments_of(const float *x, int64_t n, ca_norm norm) {
    double sum = 0, squares = 0;
    if (norm.kind == CA_NORM_LAYER) {
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += (double)x[i];
    }
    double mean = sum / (double)n;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; i++) {
        double d = (double)x[i] - mean;
        squares += d * d;
    }
    return (cpu_moments){.mean = mean, .inverse = 1.0 / sqrt(squares / (double)n + norm.epsilon)};
}

ca_status ca_cpu_norm_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor gain, ca_tensor bias,
                          ca_norm norm) {
    int64_t rows = cpu_places(&x, x.rank - 1), n = cpu_width(&x);
    const float *g = gain.data, *b = bias.data;
    double offset = norm.gain_offset;
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *from = cpu_row(&x, row);
        float *to = cpu_row(&y, row);
        cpu_moments m = moments_of(from, n, norm);
        if (b == NULL) {
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                to[i] = (float)(((double)from[i] - m.mean) * m.inverse * (offset + (double)g[i]));
        } else {
#pragma omp simd
            for (int64_t i = 0; i < n; i++)
                to[i] = (float)(((double)from[i] - m.mean) * m.inverse * (offset + (double)g[i]) +
                                (double)b[i]);
        }
    }
    return CA_OK;
}

/* With u = dy gain and z = (x - mean) / sigma:
 * dx = (u - mean(u) - z mean(u z)) / sigma; RMS has no mean(u). The terms may cancel almost
 * entirely, hence float64 up to the last step. */
ca_status ca_cpu_norm_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x, ca_tensor gain,
                          ca_norm norm, bool accumulate) {
    int64_t rows = cpu_places(&x, x.rank - 1), n = cpu_width(&x);
    const float *g = gain.data;
    double offset = norm.gain_offset;
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *at = cpu_row(&x, row), *from = cpu_row(&dy, row);
        float *to = cpu_row(&dx, row);
        cpu_moments m = moments_of(at, n, norm);
        double sum = 0, product = 0;
#pragma omp simd reduction(+ : sum, product)
        for (int64_t i = 0; i < n; i++) {
            double u = (double)from[i] * (offset + (double)g[i]);
            sum += u;
            product += u * ((double)at[i] - m.mean);
        }
        double mean = norm.kind == CA_NORM_LAYER ? sum / (double)n : 0.0;
        double slope = product / (double)n * m.inverse * m.inverse;
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            double u = (double)from[i] * (offset + (double)g[i]);
            double d = (u - mean - ((double)at[i] - m.mean) * slope) * m.inverse;
            to[i] = (float)(accumulate ? d + (double)to[i] : d);
        }
    }
    return CA_OK;
}

ca_status ca_cpu_norm_stats(ca_backend *be, ca_tensor xhat, ca_tensor inverse, ca_tensor x,
                            ca_norm norm) {
    int64_t rows = cpu_places(&x, x.rank - 1), n = cpu_width(&x);
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *from = cpu_row(&x, row);
        float *to = cpu_row(&xhat, row);
        cpu_moments m = moments_of(from, n, norm);
        ((float *)inverse.data)[cpu_offset(&inverse, x.rank - 1, row)] = (float)m.inverse;
#pragma omp simd
        for (int64_t i = 0; i < n; i++) to[i] = (float)(((double)from[i] - m.mean) * m.inverse);
    }
    return CA_OK;
}
