/* SPDX-License-Identifier: MIT
 *
 * c = a b^T for few rows of a, the shape of a linear layer on one short prompt and of logits at
 * chosen rows. A library GEMM copies b into its own order first, which costs more than the
 * product when a has few rows. Here every output is a dot product of two contiguous rows; a small
 * block of them shares its loads.
 */
#include "cpu.h"

enum {
    BLOCK = 4,                             /* rows of b at a time */
    A_BLOCK = CPU_LANES == 16 ? BLOCK : 2, /* rows of a: AVX-512 has registers for 4 */
    STRIP = 16,                            /* columns of c that one cache line holds */
    ROWS = 32,                             /* rows of a that go through a strip together */
};

typedef struct cpu_few {
    const float *a, *b;
    float *c;
    int64_t k, lda, ldb, ldc;
    float alpha, beta;
} cpu_few;

/* The first `count` < CPU_LANES values, zeros behind them. */
static cpu_vec load_part(const float *from, int64_t count) {
    float lanes[CPU_LANES] = {0};
    memcpy(lanes, from, (size_t)count * sizeof(float));
    return *(const cpu_vec *)lanes;
}

/* sums [rows, BLOCK] = dot products of `rows` rows of a with BLOCK rows of b. `rows` is a constant
 * at every call, so that the accumulators stay in registers. */
static inline __attribute__((always_inline)) void dot_block(int rows, float (*sums)[STRIP],
                                                            int64_t k, const float *a, int64_t lda,
                                                            const float *const b[BLOCK]) {
    cpu_vec acc[BLOCK][BLOCK] = {0};
    int64_t whole = k / CPU_LANES * CPU_LANES;
    for (int64_t at = 0; at < whole; at += CPU_LANES) {
        cpu_vec y[BLOCK];
        for (int j = 0; j < BLOCK; j++) y[j] = *(const cpu_vec *)(b[j] + at);
        for (int i = 0; i < rows; i++) {
            cpu_vec x = *(const cpu_vec *)(a + i * lda + at);
            for (int j = 0; j < BLOCK; j++) acc[i][j] += x * y[j];
        }
    }
    if (whole < k)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < BLOCK; j++)
                acc[i][j] +=
                    load_part(a + i * lda + whole, k - whole) * load_part(b[j] + whole, k - whole);
    for (int i = 0; i < rows; i++) {
        cpu_vec4 s0 = CPU_FOLD(acc[i][0]), s1 = CPU_FOLD(acc[i][1]);
        cpu_vec4 s2 = CPU_FOLD(acc[i][2]), s3 = CPU_FOLD(acc[i][3]);
        /* pairs of lanes of two vectors side by side, then the same once more */
        cpu_vec4 s01 = __builtin_shufflevector(s0, s1, 0, 1, 4, 5) +
                       __builtin_shufflevector(s0, s1, 2, 3, 6, 7);
        cpu_vec4 s23 = __builtin_shufflevector(s2, s3, 0, 1, 4, 5) +
                       __builtin_shufflevector(s2, s3, 2, 3, 6, 7);
        *(cpu_vec4 *)sums[i] = __builtin_shufflevector(s01, s23, 0, 2, 4, 6) +
                               __builtin_shufflevector(s01, s23, 1, 3, 5, 7);
    }
}

static void dot_rows(int64_t rows, float (*sums)[STRIP], int64_t k, const float *a, int64_t lda,
                     const float *const b[BLOCK]) {
    switch (rows) {
    case 1:
        dot_block(1, sums, k, a, lda, b);
        break;
    case 2:
        dot_block(2, sums, k, a, lda, b);
        break;
    case 3:
        dot_block(3, sums, k, a, lda, b);
        break;
    default:
        dot_block(BLOCK, sums, k, a, lda, b);
    }
}

/* Columns [at, at + columns) of c for at most ROWS rows. They are gathered first and then written
 * line by line: rows of c may lie a power of two apart, where few of their lines fit the cache. */
static void strip(const cpu_few *p, int64_t row0, int64_t rows, int64_t at, int64_t columns) {
    float sums[ROWS][STRIP];
    for (int64_t j = 0; j < columns; j += BLOCK) {
        const float *rows_of_b[BLOCK]; /* beyond the end: the last row again */
        for (int64_t l = 0; l < BLOCK; l++)
            rows_of_b[l] = p->b + (at + cpu_min(j + l, columns - 1)) * p->ldb;
        for (int64_t i = 0; i < rows; i += A_BLOCK)
            dot_rows(cpu_min(A_BLOCK, rows - i), (float(*)[STRIP]) & sums[i][j], p->k,
                     p->a + (row0 + i) * p->lda, p->lda, rows_of_b);
    }
    for (int64_t i = 0; i < rows; i++) {
        float *to = p->c + (row0 + i) * p->ldc + at;
        for (int64_t j = 0; j < columns; j++)
            to[j] = p->alpha * sums[i][j] + (p->beta == 0.0f ? 0.0f : p->beta * to[j]);
    }
}

void ca_cpu_gemm_few_rows(int threads, int64_t m, int64_t n, int64_t k, float alpha, const float *a,
                          int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                          int64_t ldc) {
    const cpu_few p = {a, b, c, k, lda, ldb, ldc, alpha, beta};
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t at = 0; at < n; at += STRIP)
        for (int64_t row = 0; row < m; row += ROWS)
            strip(&p, row, cpu_min(ROWS, m - row), at, cpu_min(STRIP, n - at));
}
