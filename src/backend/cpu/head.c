/* SPDX-License-Identifier: MIT
 *
 * On the logits: soft cap, log-sum-exp, the k largest, cross entropy.
 */
#include "cpu.h"

enum { CHUNK = 1024 }; /* elements of a row that one step of a loop below takes */

ca_status ca_cpu_soft_cap_fwd(ca_backend *be, ca_tensor y, ca_tensor x, double cap) {
    int64_t rows = cpu_places(&y, y.rank - 1), n = cpu_width(&y);
    int64_t chunks = (n + CHUNK - 1) / CHUNK;
    float limit = (float)cap, inverse = (float)(1.0 / cap);
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t item = 0; item < rows * chunks; item++) {
        int64_t at = item % chunks * CHUNK, count = cpu_min(n - at, CHUNK);
        const float *from = cpu_row(&x, item / chunks) + at;
        float *to = cpu_row(&y, item / chunks) + at;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) to[i] = limit * cpu_tanh(from[i] * inverse);
    }
    return CA_OK;
}

ca_status ca_cpu_soft_cap_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor y, double cap) {
    int64_t rows = cpu_places(&dx, dx.rank - 1), n = cpu_width(&dx);
    int64_t chunks = (n + CHUNK - 1) / CHUNK;
    float inverse = (float)(1.0 / cap);
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t item = 0; item < rows * chunks; item++) {
        int64_t at = item % chunks * CHUNK, count = cpu_min(n - at, CHUNK);
        const float *value = cpu_row(&y, item / chunks) + at;
        const float *from = cpu_row(&dy, item / chunks) + at;
        float *to = cpu_row(&dx, item / chunks) + at;
#pragma omp simd
        for (int64_t i = 0; i < count; i++) {
            float t = value[i] * inverse;
            to[i] = from[i] * (1.0f - t * t);
        }
    }
    return CA_OK;
}

/* The largest value of a row, or 0 where that is infinite: differences to it are then defined. */
static float origin_of(const float *x, int64_t n) {
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
    return isinf(top) ? 0.0f : top;
}

/* Sum of exp(x - top), float32 inside a chunk, float64 over chunks. */
static double sum_of_exp(const float *x, int64_t n, float top) {
    double sum = 0;
    for (int64_t at = 0; at < n; at += CHUNK) {
        int64_t end = cpu_min(n, at + CHUNK);
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = at; i < end; i++) part += cpu_exp(x[i] - top);
        sum += (double)part;
    }
    return sum;
}

ca_status ca_cpu_log_sum_exp(ca_backend *be, ca_tensor y, ca_tensor x) {
    int64_t rows = x.shape[0], n = x.shape[1];
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *from = cpu_row(&x, row);
        /* an infinite largest value is the result; a NaN elsewhere still comes through the sum */
        float origin = origin_of(from, n);
        ((float *)y.data)[cpu_offset(&y, 1, row)] =
            (float)((double)origin + log(sum_of_exp(from, n, origin)));
    }
    return CA_OK;
}

ca_status ca_cpu_softmax(ca_backend *be, ca_tensor y, ca_tensor x) {
    int64_t rows = cpu_places(&x, x.rank - 1), n = cpu_width(&x);
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *from = cpu_row(&x, row);
        float *to = cpu_row(&y, row), top = -INFINITY;
#pragma omp simd reduction(max : top)
        for (int64_t i = 0; i < n; i++) top = from[i] > top ? from[i] : top;
        float share = (float)(1 / sum_of_exp(from, n, top));
#pragma omp simd
        for (int64_t i = 0; i < n; i++) to[i] = share * cpu_exp(from[i] - top);
    }
    return CA_OK;
}

/* ---- the k largest ----------------------------------------------------------------------- */

/* Whether (a, index i) comes before (b, index j): NaN, then larger values, then lower indices. */
static bool before(float a, int32_t i, float b, int32_t j) {
    if (isnan(a) || isnan(b)) return isnan(a) && (!isnan(b) || i < j);
    return a > b || (a >= b && i < j);
}

/* A heap over values[0 .. k), indices[0 .. k) whose top is the entry that comes last. Puts the
 * entry (value, index) at `hole` and lets it sink. */
static void sink(float *values, int32_t *indices, int64_t k, int64_t hole, float value,
                 int32_t index) {
    for (int64_t child = 2 * hole + 1; child < k; child = 2 * hole + 1) {
        if (child + 1 < k &&
            before(values[child], indices[child], values[child + 1], indices[child + 1]))
            child++;
        if (!before(value, index, values[child], indices[child])) break;
        values[hole] = values[child];
        indices[hole] = indices[child];
        hole = child;
    }
    values[hole] = value;
    indices[hole] = index;
}

static void top_of_row(float *values, int32_t *indices, int64_t k, const float *x, int64_t n) {
    for (int64_t i = 0; i < k; i++) {
        values[i] = x[i];
        indices[i] = (int32_t)i;
    }
    for (int64_t i = k / 2; i-- > 0;) sink(values, indices, k, i, values[i], indices[i]);
    for (int64_t at = k; at < n; at += 64) {
        /* most stretches hold nothing large: look at 64 values at once, a NaN counts */
        int64_t end = cpu_min(n, at + 64);
        float limit = values[0];
        int found = 0;
#pragma omp simd reduction(| : found)
        for (int64_t i = at; i < end; i++) found |= !(x[i] <= limit);
        for (int64_t i = at; found && i < end; i++)
            if (before(x[i], (int32_t)i, values[0], indices[0]))
                sink(values, indices, k, 0, x[i], (int32_t)i);
    }
    /* the top is the last of the rest: fill from the back */
    for (int64_t last = k - 1; last > 0; last--) {
        float value = values[last];
        int32_t index = indices[last];
        values[last] = values[0];
        indices[last] = indices[0];
        sink(values, indices, last, 0, value, index);
    }
}

ca_status ca_cpu_top_k(ca_backend *be, ca_tensor values, ca_tensor indices, ca_tensor x) {
    int64_t rows = x.shape[0], n = x.shape[1], k = values.shape[1];
    if (k == 0) return CA_OK;
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        top_of_row(cpu_row(&values, row), (int32_t *)indices.data + cpu_offset(&indices, 1, row), k,
                   cpu_row(&x, row), n);
    return CA_OK;
}

/* ---- cross entropy ----------------------------------------------------------------------- */

ca_status ca_cpu_cross_entropy_fwd(ca_backend *be, ca_tensor loss, ca_tensor x, ca_tensor target) {
    int64_t rows = x.shape[0], n = x.shape[1];
    ca_status st = ca_cpu_index_check("cross_entropy_fwd", "target", &target, n);
    if (st != CA_OK) return st;
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *from = cpu_row(&x, row);
        double origin = (double)origin_of(from, n);
        double hit = (double)from[cpu_index(&target, row)] - origin;
        ((float *)loss.data)[row] = (float)(log(sum_of_exp(from, n, (float)origin)) - hit);
    }
    return CA_OK;
}

ca_status ca_cpu_cross_entropy_bwd(ca_backend *be, ca_tensor dx, ca_tensor x, ca_tensor target,
                                   ca_tensor scale) {
    int64_t rows = x.shape[0], n = x.shape[1];
    ca_status st = ca_cpu_index_check("cross_entropy_bwd", "target", &target, n);
    if (st != CA_OK) return st;
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *from = cpu_row(&x, row);
        float *to = cpu_row(&dx, row), factor = ((const float *)scale.data)[row];
        float origin = origin_of(from, n);
        int64_t hit = cpu_index(&target, row), behind = hit + 1;
        double others =
            sum_of_exp(from, hit, origin) + sum_of_exp(from + behind, n - behind, origin);
        double sum = others + exp((double)(from[hit] - origin));
        float share = (float)((double)factor / sum);
#pragma omp simd
        for (int64_t i = 0; i < n; i++) to[i] = share * cpu_exp(from[i] - origin);
        to[hit] = (float)(-(double)factor * (others / sum)); /* factor (p - 1) */
    }
    return CA_OK;
}
