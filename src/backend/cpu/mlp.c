/* SPDX-License-Identifier: MIT
 *
 * Activations of the MLP, plain and gated, and their gradients.
 */
#include "cpu.h"

enum { CHUNK = 1024 }; /* elements of a row that one step of a loop below takes */

static inline float gelu_tanh_sigmoid(float x) {
    /* (1 + tanh(u)) / 2 = sigmoid(2 u), 2 u = 2 sqrt(2 / pi) (x + 0.044715 x^3) */
    return cpu_sigmoid(1.59576912f * x * (1.0f + 0.044715f * x * x));
}

/* y = act(x) */
static void activate(float *restrict y, const float *restrict x, int64_t n, ca_activation kind) {
    switch (kind) {
    case CA_GELU:
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            float density;
            y[i] = x[i] * cpu_normal(x[i], &density);
        }
        break;
    case CA_GELU_TANH:
#pragma omp simd
        for (int64_t i = 0; i < n; i++) y[i] = x[i] * gelu_tanh_sigmoid(x[i]);
        break;
    case CA_SILU:
#pragma omp simd
        for (int64_t i = 0; i < n; i++) y[i] = x[i] * cpu_sigmoid(x[i]);
        break;
    case CA_RELU:
#pragma omp simd
        for (int64_t i = 0; i < n; i++) y[i] = x[i] < 0.0f ? 0.0f : x[i];
        break;
    }
}

/* slope = act'(x) and y = act(x) */
static void differentiate(float *restrict slope, float *restrict y, const float *restrict x,
                          int64_t n, ca_activation kind) {
    switch (kind) {
    case CA_GELU:
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            float density, p = cpu_normal(x[i], &density);
            y[i] = x[i] * p;
            slope[i] = p + x[i] * density;
        }
        break;
    case CA_GELU_TANH:
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            float p = gelu_tanh_sigmoid(x[i]);
            y[i] = x[i] * p;
            slope[i] = p + x[i] * p * (1.0f - p) * 1.59576912f * (1.0f + 0.134145f * x[i] * x[i]);
        }
        break;
    case CA_SILU:
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            float p = cpu_sigmoid(x[i]);
            y[i] = x[i] * p;
            slope[i] = p + y[i] * (1.0f - p);
        }
        break;
    case CA_RELU:
#pragma omp simd
        for (int64_t i = 0; i < n; i++) {
            y[i] = x[i] < 0.0f ? 0.0f : x[i];
            slope[i] = x[i] > 0.0f ? 1.0f : 0.0f;
        }
        break;
    }
}

ca_status ca_cpu_act_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_activation kind, bool gated) {
    int64_t rows = cpu_places(&y, y.rank - 1), n = cpu_width(&y);
    int64_t chunks = (n + CHUNK - 1) / CHUNK;
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t item = 0; item < rows * chunks; item++) {
        int64_t at = item % chunks * CHUNK, count = cpu_min(n - at, CHUNK);
        const float *from = cpu_row(&x, item / chunks) + at;
        float *to = cpu_row(&y, item / chunks) + at;
        activate(to, from, count, kind);
        if (gated)
            for (int64_t i = 0; i < count; i++) to[i] *= from[n + i];
    }
    return CA_OK;
}

ca_status ca_cpu_act_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x,
                         ca_activation kind, bool gated) {
    int64_t rows = cpu_places(&dy, dy.rank - 1), n = cpu_width(&dy);
    int64_t chunks = (n + CHUNK - 1) / CHUNK;
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t item = 0; item < rows * chunks; item++) {
        int64_t at = item % chunks * CHUNK, count = cpu_min(n - at, CHUNK);
        const float *pre = cpu_row(&x, item / chunks) + at;
        const float *from = cpu_row(&dy, item / chunks) + at;
        float *to = cpu_row(&dx, item / chunks) + at;
        float slope[CHUNK], value[CHUNK];
        differentiate(slope, value, pre, count, kind);
        if (gated) {
            for (int64_t i = 0; i < count; i++) {
                float d = from[i];
                to[i] = d * pre[n + i] * slope[i];
                to[n + i] = d * value[i];
            }
        } else {
            for (int64_t i = 0; i < count; i++) to[i] = from[i] * slope[i];
        }
    }
    return CA_OK;
}
