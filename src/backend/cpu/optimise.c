/* SPDX-License-Identifier: MIT
 *
 * Optimiser steps.
 */
#include "cpu.h"

enum { CHUNK = 4096 }; /* elements of a row that one step of the loop below takes */

/* What a step needs beside its numbers, rounded once. */
typedef struct cpu_adam {
    float beta1, beta2, rest1, rest2; /* rest = 1 - beta */
    float keep;                       /* 1 - learning_rate weight_decay */
    float rate;                       /* learning_rate / (1 - beta1^step) */
    float root;                       /* 1 / sqrt(1 - beta2^step) */
    float epsilon, lower, upper;
} cpu_adam;

/* theta, m, v and g as in the paper. */
static void step(float *restrict theta, float *restrict m, float *restrict v,
                 const float *restrict g, int64_t n, cpu_adam a) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        m[i] = a.beta1 * m[i] + a.rest1 * g[i];
        v[i] = a.beta2 * v[i] + a.rest2 * g[i] * g[i];
        float next = a.keep * theta[i] - a.rate * m[i] / (sqrtf(v[i]) * a.root + a.epsilon);
        next = next < a.lower ? a.lower : next; /* these keep NaN */
        theta[i] = next > a.upper ? a.upper : next;
    }
}

ca_status ca_cpu_adam_step(ca_backend *be, ca_tensor parameter, ca_tensor first, ca_tensor second,
                           ca_tensor gradient, ca_adam adam) {
    int64_t rows = cpu_places(&parameter, parameter.rank - 1), n = cpu_width(&parameter);
    int64_t chunks = (n + CHUNK - 1) / CHUNK;
    const cpu_adam a = {
        .beta1 = (float)adam.beta1,
        .beta2 = (float)adam.beta2,
        .rest1 = (float)(1 - adam.beta1),
        .rest2 = (float)(1 - adam.beta2),
        .keep = (float)(1 - adam.learning_rate * adam.weight_decay),
        .rate = (float)(adam.learning_rate / (1 - pow(adam.beta1, (double)adam.step))),
        .root = (float)(1 / sqrt(1 - pow(adam.beta2, (double)adam.step))),
        .epsilon = (float)adam.epsilon,
        .lower = (float)adam.lower,
        .upper = (float)adam.upper,
    };
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t item = 0; item < rows * chunks; item++) {
        int64_t row = item / chunks, at = item % chunks * CHUNK, count = cpu_min(n - at, CHUNK);
        step(cpu_row(&parameter, row) + at, cpu_row(&first, row) + at, cpu_row(&second, row) + at,
             cpu_row(&gradient, row) + at, count, a);
    }
    return CA_OK;
}
