/* SPDX-License-Identifier: MIT
 *
 * Operations on whole rows: gather, scatter, add, sum over heads.
 */
#include "cpu.h"

ca_status ca_cpu_index_check(const char *operation, const char *name, const ca_tensor *index,
                             int64_t limit) {
    int64_t n = ca_tensor_count(index);
    for (int64_t i = 0; i < n; i++) {
        int64_t at = cpu_index(index, i);
        if (at < 0 || at >= limit)
            return ca_fail(CA_E_SHAPE, "%s: %s[%lld]: expected 0 to %lld, got %lld", operation,
                           name, (long long)i, (long long)(limit - 1), (long long)at);
    }
    return CA_OK;
}

/* Offset of row `row` of lane `lane`; a tensor [n, D] has one lane. */
static int64_t lane_offset(const ca_tensor *t, int64_t lane, int64_t row) {
    return (t->rank == 3 ? lane * t->stride[0] : 0) + row * t->stride[t->rank - 2];
}

static float *lane_row(const ca_tensor *t, int64_t lane, int64_t row) {
    return (float *)t->data + lane_offset(t, lane, row);
}

/* to (+)= factor from, for a row of f32 or bf16 */
static void put_row(float *to, float factor, const float *from, const uint16_t *narrow,
                    bool accumulate, int64_t width) {
    if (narrow && accumulate)
        for (int64_t d = 0; d < width; d++) to[d] += factor * ca_bf16_widen(narrow[d]);
    else if (narrow)
        for (int64_t d = 0; d < width; d++) to[d] = factor * ca_bf16_widen(narrow[d]);
    else if (accumulate)
        for (int64_t d = 0; d < width; d++) to[d] += factor * from[d];
    else
        for (int64_t d = 0; d < width; d++) to[d] = factor * from[d];
}

ca_status ca_cpu_gather(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor index, double scale,
                        bool accumulate) {
    ca_status st = ca_cpu_index_check("gather", "index", &index, x.shape[x.rank - 2]);
    if (st != CA_OK) return st;
    int64_t n = y.shape[y.rank - 2], width = cpu_width(&y);
    int64_t items = y.rank == 3 ? y.shape[0] * n : n;
    float factor = (float)scale;
#pragma omp parallel for num_threads(cpu_threads(be, items, width)) schedule(static)
    for (int64_t item = 0; item < items; item++) {
        float *to = lane_row(&y, item / n, item % n);
        int64_t at = lane_offset(&x, item / n, cpu_index(&index, item % n));
        if (x.dtype == CA_BF16)
            put_row(to, factor, NULL, (const uint16_t *)x.data + at, accumulate, width);
        else
            put_row(to, factor, (const float *)x.data + at, NULL, accumulate, width);
    }
    return CA_OK;
}

ca_status ca_cpu_scatter_add(ca_backend *be, ca_tensor y, ca_tensor index, ca_tensor x) {
    ca_status st = ca_cpu_index_check("scatter_add", "index", &index, y.shape[y.rank - 2]);
    if (st != CA_OK) return st;
    int64_t n = x.shape[x.rank - 2], width = cpu_width(&x);
    int64_t items = x.rank == 3 ? x.shape[0] * n : n;
#pragma omp parallel for num_threads(cpu_threads(be, items, width)) schedule(static)
    for (int64_t item = 0; item < items; item++) {
        float *to = lane_row(&y, item / n, cpu_index(&index, item % n));
        const float *from = lane_row(&x, item / n, item % n);
        for (int64_t d = 0; d < width; d++) to[d] += from[d];
    }
    return CA_OK;
}

ca_status ca_cpu_add(ca_backend *be, ca_tensor y, ca_tensor x, double alpha) {
    enum { CHUNK = 4096 };
    int64_t rows = cpu_places(&y, y.rank - 1), n = cpu_width(&y);
    int64_t chunks = (n + CHUNK - 1) / CHUNK;
    float factor = (float)alpha;
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t item = 0; item < rows * chunks; item++) {
        int64_t at = item % chunks * CHUNK, count = cpu_min(n - at, CHUNK);
        float *to = cpu_row(&y, item / chunks) + at;
        const float *from = cpu_row(&x, item / chunks) + at;
        for (int64_t i = 0; i < count; i++) to[i] += factor * from[i];
    }
    return CA_OK;
}

ca_status ca_cpu_add_scaled_rows(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor scale,
                                 double alpha) {
    int64_t rows = cpu_places(&y, y.rank - 1), n = cpu_width(&y);
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        float *to = cpu_row(&y, row);
        const float *from = cpu_row(&x, row);
        float factor =
            (float)alpha * ((const float *)scale.data)[cpu_offset(&scale, y.rank - 1, row)];
        for (int64_t i = 0; i < n; i++) to[i] += factor * from[i];
    }
    return CA_OK;
}

ca_status ca_cpu_multiply(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) {
    int64_t rows = cpu_places(&y, y.rank - 1), n = cpu_width(&y);
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        float *to = cpu_row(&y, row);
        const float *from = cpu_row(&x, row), *by = cpu_row(&w, row);
        for (int64_t i = 0; i < n; i++) to[i] = from[i] * by[i];
    }
    return CA_OK;
}

ca_status ca_cpu_sum_heads(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor bias) {
    int64_t rows = y.shape[0], width = y.shape[1], heads = x.shape[1];
    int64_t per_row = heads * width;
#pragma omp parallel for num_threads(cpu_threads(be, rows, per_row)) schedule(static)
    for (int64_t t = 0; t < rows; t++) {
        float *to = (float *)y.data + t * y.stride[0];
        memset(to, 0, (size_t)width * sizeof(float));
        for (int64_t h = 0; h < heads; h++) {
            const float *from = (const float *)x.data + t * x.stride[0] + h * x.stride[1];
            for (int64_t d = 0; d < width; d++) to[d] += from[d];
        }
        if (bias.data != NULL)
            for (int64_t d = 0; d < width; d++) to[d] += ((const float *)bias.data)[d];
    }
    return CA_OK;
}
