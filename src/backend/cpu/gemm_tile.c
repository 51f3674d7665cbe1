/* SPDX-License-Identifier: MIT
 *
 * The products of attention: a tile of queries against a block of keys, a head wide. Short prompts
 * make them so small that a library's call costs more than the arithmetic.
 */
#include "cpu.h"

enum {
    VECTORS = 4,                          /* of columns of c at a time */
    ROWS = CPU_LANES == 16 ? VECTORS : 2, /* rows of c: AVX-512 has registers for 4 */
    LONG = 64, /* terms of a sum; where there are more the library, which packs b, is as fast */
    FEW = 256, /* dot products; of more the library makes better use */
};

typedef struct cpu_tile {
    const float *a, *b; /* element (i, l) of a lies at i * a_row + l * a_column */
    float *c;
    int64_t m, k, a_row, a_column, ldb, ldc;
    float alpha, beta;
} cpu_tile;

/* Rows [i, i + rows) of `vectors` vectors of columns from `at`. Both counts are constants at every
 * call, so that the accumulators stay in registers. */
static inline __attribute__((always_inline)) void block(int rows, int vectors, const cpu_tile *t,
                                                        int64_t i, int64_t at) {
    cpu_vec acc[ROWS][VECTORS] = {0};
    for (int64_t l = 0; l < t->k; l++) {
        const float *a = t->a + i * t->a_row + l * t->a_column, *b = t->b + l * t->ldb + at;
        cpu_vec y[VECTORS];
        for (int j = 0; j < vectors; j++) y[j] = *(const cpu_vec *)(b + (int64_t)j * CPU_LANES);
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < vectors; j++) acc[r][j] += a[r * t->a_row] * y[j];
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < vectors; j++) {
            cpu_vec *to = (cpu_vec *)(t->c + (i + r) * t->ldc + at + (int64_t)j * CPU_LANES);
            *to = t->alpha * acc[r][j] + (t->beta == 0.0f ? (cpu_vec){0} : t->beta * *to);
        }
}

static inline __attribute__((always_inline)) void columns(int vectors, const cpu_tile *t,
                                                          int64_t at) {
    int64_t i = 0;
    for (; i + ROWS <= t->m; i += ROWS) block(ROWS, vectors, t, i, at);
    switch (t->m - i) { /* fewer than ROWS */
    case 3:
        block(ROWS - 1, vectors, t, i, at);
        break;
    case 2:
        block(ROWS / 2, vectors, t, i, at);
        break;
    case 1:
        block(1, vectors, t, i, at);
    }
}

/* c = alpha op(a) b + beta c */
static void add_rows(const ca_cpu_product *p) {
    const cpu_tile t = {.a = p->a,
                        .b = p->b,
                        .c = p->c,
                        .m = p->m,
                        .k = p->k,
                        .a_row = p->transpose_a ? 1 : p->lda,
                        .a_column = p->transpose_a ? p->lda : 1,
                        .ldb = p->ldb,
                        .ldc = p->ldc,
                        .alpha = p->alpha,
                        .beta = p->beta};
    int64_t at = 0;
    for (; at + VECTORS * CPU_LANES <= p->n; at += VECTORS * CPU_LANES) columns(VECTORS, &t, at);
    for (; at < p->n; at += CPU_LANES) columns(1, &t, at);
}

bool ca_cpu_gemm_tile(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                      float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                      float beta, float *c, int64_t ldc) {
    const ca_cpu_product p = {.a = a,
                              .b = b,
                              .c = c,
                              .m = m,
                              .n = n,
                              .k = k,
                              .lda = lda,
                              .ldb = ldb,
                              .ldc = ldc,
                              .transpose_a = transpose_a,
                              .transpose_b = transpose_b,
                              .alpha = alpha,
                              .beta = beta};
    if (transpose_b && !transpose_a && m * n <= FEW)
        ca_cpu_gemm_few_rows(1, &p);
    else if (!transpose_b && k <= LONG && n % CPU_LANES == 0)
        add_rows(&p);
    else
        return ca_cpu_sgemm(1, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c,
                            ldc);
    return true;
}
