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

/* CPU_LANES values of bf16 as they lie. */
typedef uint16_t narrow_vec __attribute__((vector_size(2 * CPU_LANES), aligned(2)));
typedef uint32_t bits_vec __attribute__((vector_size(4 * CPU_LANES)));

/* A row of b, in f32 or bf16. */
typedef struct b_row {
    const float *f32;
    const uint16_t *bf16;
} b_row;

static inline cpu_vec load_b(bool narrow, b_row b, int64_t at) {
    if (!narrow) return *(const cpu_vec *)(b.f32 + at);
    return (cpu_vec)(__builtin_convertvector(*(const narrow_vec *)(b.bf16 + at), bits_vec) << 16);
}

/* The first `count` < CPU_LANES values, zeros behind them. */
static cpu_vec load_part(const float *from, int64_t count) {
    float lanes[CPU_LANES] = {0};
    memcpy(lanes, from, (size_t)count * sizeof(float));
    return *(const cpu_vec *)lanes;
}

static cpu_vec load_b_part(bool narrow, b_row b, int64_t at, int64_t count) {
    float lanes[CPU_LANES] = {0};
    if (!narrow) return load_part(b.f32 + at, count);
    for (int64_t i = 0; i < count; i++) lanes[i] = ca_bf16_widen(b.bf16[at + i]);
    return *(const cpu_vec *)lanes;
}

/* sums [rows, BLOCK] = dot products of `rows` rows of a with BLOCK rows of b. `narrow` and `rows`
 * are constants at every call, so that the accumulators stay in registers. */
static inline __attribute__((always_inline)) void dot_block(bool narrow, int rows,
                                                            float (*sums)[STRIP], int64_t k,
                                                            const float *a, int64_t lda,
                                                            const b_row b[BLOCK]) {
    cpu_vec acc[BLOCK][BLOCK] = {0};
    int64_t whole = k / CPU_LANES * CPU_LANES;
    for (int64_t at = 0; at < whole; at += CPU_LANES) {
        cpu_vec y[BLOCK];
        for (int j = 0; j < BLOCK; j++) y[j] = load_b(narrow, b[j], at);
        for (int i = 0; i < rows; i++) {
            cpu_vec x = *(const cpu_vec *)(a + i * lda + at);
            for (int j = 0; j < BLOCK; j++) acc[i][j] += x * y[j];
        }
    }
    if (whole < k)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < BLOCK; j++)
                acc[i][j] += load_part(a + i * lda + whole, k - whole) *
                             load_b_part(narrow, b[j], whole, k - whole);
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

static inline __attribute__((always_inline)) void dot_rows(bool narrow, int64_t rows,
                                                           float (*sums)[STRIP], int64_t k,
                                                           const float *a, int64_t lda,
                                                           const b_row b[BLOCK]) {
    switch (rows) {
    case 1:
        dot_block(narrow, 1, sums, k, a, lda, b);
        break;
    case 2:
        dot_block(narrow, 2, sums, k, a, lda, b);
        break;
    case 3:
        dot_block(narrow, 3, sums, k, a, lda, b);
        break;
    default:
        dot_block(narrow, BLOCK, sums, k, a, lda, b);
    }
}

static b_row row_of(const ca_cpu_product *p, int64_t row) {
    if (p->narrow) return (b_row){.bf16 = (const uint16_t *)p->b + row * p->ldb};
    return (b_row){.f32 = (const float *)p->b + row * p->ldb};
}

/* Columns [at, at + columns) of c for at most ROWS rows. They are gathered first and then written
 * line by line: rows of c may lie a power of two apart, where few of their lines fit the cache. */
static void strip(const ca_cpu_product *p, int64_t row0, int64_t rows, int64_t at,
                  int64_t columns) {
    float sums[ROWS][STRIP];
    for (int64_t j = 0; j < columns; j += BLOCK) {
        b_row b[BLOCK]; /* beyond the end: the last row again */
        for (int64_t l = 0; l < BLOCK; l++) b[l] = row_of(p, at + cpu_min(j + l, columns - 1));
        for (int64_t i = 0; i < rows; i += A_BLOCK) {
            int64_t count = cpu_min(A_BLOCK, rows - i);
            float(*block)[STRIP] = (float(*)[STRIP]) & sums[i][j];
            const float *a = (const float *)p->a + (row0 + i) * p->lda;
            if (p->narrow)
                dot_rows(true, count, block, p->k, a, p->lda, b);
            else
                dot_rows(false, count, block, p->k, a, p->lda, b);
        }
    }
    for (int64_t i = 0; i < rows; i++) {
        float *to = p->c + (row0 + i) * p->ldc + at;
        for (int64_t j = 0; j < columns; j++)
            to[j] = p->alpha * sums[i][j] + (p->beta == 0.0f ? 0.0f : p->beta * to[j]);
    }
}

static void all_strips(const ca_cpu_product *p, int64_t at) {
    for (int64_t row = 0; row < p->m; row += ROWS)
        strip(p, row, cpu_min(ROWS, p->m - row), at, cpu_min(STRIP, p->n - at));
}

void ca_cpu_gemm_few_rows(int threads, const ca_cpu_product *p) {
    if (threads == 1) {
        for (int64_t at = 0; at < p->n; at += STRIP) all_strips(p, at);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t at = 0; at < p->n; at += STRIP) all_strips(p, at);
}
