/* SPDX-License-Identifier: MIT
 *
 * Products with b in bf16. Tiles of a are rounded to bf16, or widened where they are, and tiles of
 * b widened, both into scratch
 * memory of the backend as f32, and multiplied by the f32 GEMM: products of bf16 values are exact
 * in f32, so this is what the operation promises, and no second copy of the weights exists. Few
 * rows of a take b as it lies, half the bytes of f32.
 */
#include "cpu.h"

/* Values of a line that are summed before c is read again; rows and columns of a tile follow. */
enum { DEPTH = 2048 };

/* `lines` lines of `width` values into a contiguous tile. */
static void pack_a(int threads, const float *from, int64_t stride, int64_t lines, int64_t width,
                   bool rounds, float *tile) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t l = 0; l < lines; l++) {
        const float *x = from + l * stride;
        float *y = tile + l * width;
        if (rounds)
            for (int64_t i = 0; i < width; i++) y[i] = ca_bf16_widen(ca_bf16_round(x[i]));
        else
            memcpy(y, x, (size_t)width * sizeof *y);
    }
}

static void widen(int threads, const uint16_t *from, int64_t stride, int64_t lines, int64_t width,
                  float *tile) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t l = 0; l < lines; l++)
        for (int64_t i = 0; i < width; i++)
            tile[l * width + i] = ca_bf16_widen(from[l * stride + i]);
}

/* Rows [row, row + rows) of op(a), products [from, from + depth) of each, as a tile. */
static void take_a(int threads, const ca_cpu_product *p, int64_t row, int64_t rows, int64_t from,
                   int64_t depth, float *tile) {
    int64_t at = p->transpose_a ? from * p->lda + row : row * p->lda + from;
    int64_t lines = p->transpose_a ? depth : rows, width = p->transpose_a ? rows : depth;
    if (p->narrow_a)
        widen(threads, (const uint16_t *)p->a + at, p->lda, lines, width, tile);
    else
        pack_a(threads, (const float *)p->a + at, p->lda, lines, width, !p->wide, tile);
}

static void take_b(int threads, const ca_cpu_product *p, int64_t column, int64_t columns,
                   int64_t from, int64_t depth, float *tile) {
    const uint16_t *b = p->b;
    if (p->transpose_b)
        widen(threads, b + column * p->ldb + from, p->ldb, columns, depth, tile);
    else
        widen(threads, b + from * p->ldb + column, p->ldb, depth, columns, tile);
}

static void multiply_few_rows(int threads, const ca_cpu_product *p, float *tile) {
    int64_t most = CPU_GEMM_TILE / p->m;
    for (int64_t from = 0; from < p->k; from += most) {
        int64_t depth = cpu_min(most, p->k - from);
        take_a(threads, p, 0, p->m, from, depth, tile);
        ca_cpu_product part = *p;
        part.a = tile;
        part.narrow_a = false;
        part.lda = part.k = depth;
        part.b = (const uint16_t *)p->b + from;
        if (from > 0) part.beta = 1.0f;
        ca_cpu_gemm_few_rows(threads, &part);
    }
}

bool ca_cpu_gemm_bf16(const ca_backend *be, const ca_cpu_product *p) {
    const ca_cpu_context *context = be->context;
    float *a = context->gemm_tiles, *b = a + CPU_GEMM_TILE;
    int threads = be->threads;
    if (ca_cpu_has_few_rows(p)) {
        multiply_few_rows(threads, p, a);
        return true;
    }
    int64_t most = cpu_min(p->k, DEPTH), lines = CPU_GEMM_TILE / most;
    for (int64_t row = 0; row < p->m; row += lines)
        for (int64_t from = 0; from < p->k; from += most) {
            int64_t rows = cpu_min(lines, p->m - row), depth = cpu_min(most, p->k - from);
            take_a(threads, p, row, rows, from, depth, a);
            for (int64_t column = 0; column < p->n; column += lines) {
                int64_t columns = cpu_min(lines, p->n - column);
                take_b(threads, p, column, columns, from, depth, b);
                if (!ca_cpu_sgemm(threads, p->transpose_a, p->transpose_b, rows, columns, depth,
                                  p->alpha, a, p->transpose_a ? rows : depth, b,
                                  p->transpose_b ? depth : columns, from > 0 ? 1.0f : p->beta,
                                  p->c + row * p->ldc + column, p->ldc))
                    return false;
            }
        }
    return true;
}
