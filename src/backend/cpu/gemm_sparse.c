/* SPDX-License-Identifier: MIT
 *
 * c = a b where a is nearly all zeros, the shape of the unembedding's backward: a metric of few
 * tokens has a gradient on few of the vocabulary's logits, and all of b but their rows need not be
 * read. Only long sums are looked at: elsewhere counting would cost what it saves.
 */
#include "cpu.h"

enum {
    LONG_SUM = 4096,
    DENSE = 64, /* one value in so many: there a library is as fast */
};

bool ca_cpu_is_sparse(const ca_cpu_product *p) {
    if (p->transpose_a || p->transpose_b || p->narrow || p->k < LONG_SUM) return false;
    int64_t most = p->m * p->k / DENSE, count = 0;
    for (int64_t i = 0; i < p->m && count <= most; i++) {
        const float *a = (const float *)p->a + i * p->lda;
        int64_t row = 0;
#pragma omp simd reduction(+ : row)
        for (int64_t l = 0; l < p->k; l++) row += a[l] != 0.0f;
        count += row;
    }
    return count <= most;
}

static void add_row(const ca_cpu_product *p, int64_t i) {
    const float *a = (const float *)p->a + i * p->lda;
    float *c = p->c + i * p->ldc;
    for (int64_t j = 0; j < p->n; j++) c[j] = p->beta == 0.0f ? 0.0f : p->beta * c[j];
    for (int64_t l = 0; l < p->k; l++) {
        if (a[l] == 0.0f) continue;
        const float x = p->alpha * a[l], *b = (const float *)p->b + l * p->ldb;
#pragma omp simd
        for (int64_t j = 0; j < p->n; j++) c[j] += x * b[j];
    }
}

void ca_cpu_gemm_sparse(int threads, const ca_cpu_product *p) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < p->m; i++) add_row(p, i);
}
