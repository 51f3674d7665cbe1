/* SPDX-License-Identifier: MIT
 *
 * c = a b^T for an a of ten rows to two hundred, the shape of a linear layer in the forward
 * passes of short prompts. A library GEMM copies b into its own order first; weights come from
 * memory, and for so few rows the copy takes a good part of the product's time. Here a is turned
 * instead, once for all threads, and b is read where it lies: a panel of its rows goes against all
 * of a from the nearest cache, while the next panel is on its way from memory.
 *
 * Every element of c is a sum of sums of at most DEPTH terms in their order, whatever the other
 * rows of a are.
 */
#include "cpu.h"

#include <omp.h>

enum {
    GROUPS = 4,                      /* of rows of b: each has a pointer of its own */
    GROUP = CPU_LANES == 16 ? 3 : 1, /* rows of one: AVX-512 has registers for 3 */
    PANEL = GROUPS * GROUP,
    VECTORS = 2, /* of rows of a */
    TILE = VECTORS * CPU_LANES,
    LINE = 16,   /* values of a cache line */
    STEP = 4,    /* terms between two requests for lines */
    BLOCK = 64,  /* terms that are turned together: fit the first cache */
    DEPTH = 384, /* terms of one sum: the rounding of longer ones would grow with them */
    /* where it was measured to be faster than the library on two AVX-512 cores with b in memory */
    LEAST_ROWS = 9,
    MOST_ROWS = 192,
    LEAST_COLUMNS = 256,
    LEAST_WEIGHTS = 1 << 18, /* for several threads: fewer are in the second cache anyway */
};

typedef struct skinny {
    const ca_cpu_product *p;
    float *turned; /* [tiles, k, TILE], zeros behind the last row */
    int64_t tiles;
} skinny;

/* The scratch of the backend, of which each thread has its share inside a parallel region. */
static float *scratch_of(const ca_backend *be, int64_t *count) {
    const ca_cpu_context *context = be->context;
    *count = 2 * CPU_GEMM_TILE;
    if (!omp_in_parallel()) return context->gemm_tiles;
    *count /= be->threads;
    return context->gemm_tiles + omp_get_thread_num() * *count;
}

static int64_t tiles_of(const ca_cpu_product *p) { return (p->m + TILE - 1) / TILE; }

bool ca_cpu_is_skinny(const ca_backend *be, int threads, const ca_cpu_product *p) {
    int64_t count;
    if (p->transpose_a || !p->transpose_b || p->narrow) return false;
    if (p->m < LEAST_ROWS || p->m > MOST_ROWS || p->n < LEAST_COLUMNS) return false;
    if (threads > 1 && p->n * p->k < LEAST_WEIGHTS) return false;
    scratch_of(be, &count);
    return tiles_of(p) * TILE * p->k <= count;
}

/* to [4, 4] = from^T, rows apart as told */
static inline void turn_4(const float *from, int64_t from_row, float *to, int64_t to_row) {
    cpu_vec4 a = *(const cpu_vec4 *)from, b = *(const cpu_vec4 *)(from + from_row);
    cpu_vec4 c = *(const cpu_vec4 *)(from + 2 * from_row);
    cpu_vec4 d = *(const cpu_vec4 *)(from + 3 * from_row);
    cpu_vec4 ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5);
    cpu_vec4 ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    cpu_vec4 cd0 = __builtin_shufflevector(c, d, 0, 4, 1, 5);
    cpu_vec4 cd1 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    *(cpu_vec4 *)to = __builtin_shufflevector(ab0, cd0, 0, 1, 4, 5);
    *(cpu_vec4 *)(to + to_row) = __builtin_shufflevector(ab0, cd0, 2, 3, 6, 7);
    *(cpu_vec4 *)(to + 2 * to_row) = __builtin_shufflevector(ab1, cd1, 0, 1, 4, 5);
    *(cpu_vec4 *)(to + 3 * to_row) = __builtin_shufflevector(ab1, cd1, 2, 3, 6, 7);
}

/* Terms [from, from + BLOCK) of a tile. */
static void turn_block(const skinny *s, int64_t tile, int64_t from) {
    const ca_cpu_product *p = s->p;
    const float *a = (const float *)p->a + tile * TILE * p->lda;
    float *to = s->turned + tile * TILE * p->k;
    const int64_t rows = cpu_min(TILE, p->m - tile * TILE), end = cpu_min(from + BLOCK, p->k);
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        int64_t l = from;
        for (; l + 4 <= end; l += 4) turn_4(a + i * p->lda + l, p->lda, to + l * TILE + i, TILE);
        for (; l < end; l++)
            for (int64_t r = i; r < i + 4; r++) to[l * TILE + r] = a[r * p->lda + l];
    }
    for (int64_t l = from; l < end; l++)
        for (int64_t r = i; r < TILE; r++) to[l * TILE + r] = r < rows ? a[r * p->lda + l] : 0.0f;
}

/* acc += term l of PANEL rows of b times that of `vectors` vectors of a. `vectors` is a constant at
 * every call, so that the sums stay in registers. */
static inline __attribute__((always_inline)) void add_term(int vectors, cpu_vec acc[PANEL][VECTORS],
                                                           const float *a,
                                                           const float *const b[GROUPS],
                                                           int64_t ldb, int64_t l) {
    cpu_vec x[VECTORS];
    for (int v = 0; v < vectors; v++) x[v] = *(const cpu_vec *)(a + l * TILE + v * CPU_LANES);
    for (int j = 0; j < PANEL; j++) {
        const float y = b[j / GROUP][(j % GROUP) * ldb + l];
        for (int v = 0; v < vectors; v++) acc[j][v] += y * x[v];
    }
}

/* Terms [from, end) of products of a panel with a tile; `next`: `ahead` rows of b, wanted later. */
typedef struct skinny_terms {
    const float *a, *b, *next;
    int64_t ldb, from, end, ahead;
} skinny_terms;

/* sums [PANEL, TILE] += the terms. */
static inline __attribute__((always_inline)) void add_terms(int vectors, float *sums,
                                                            const skinny_terms *t) {
    const float *const b[GROUPS] = {t->b, t->b + GROUP * t->ldb, t->b + 2 * GROUP * t->ldb,
                                    t->b + 3 * GROUP * t->ldb};
    const float *const a = t->a;
    const int64_t ldb = t->ldb, end = t->end;
    cpu_vec acc[PANEL][VECTORS] = {0};
    int64_t l = t->from;
    for (int64_t line = l; l + STEP <= end; l += STEP) {
        if (l - line == LINE) line = l;
        for (int64_t row = (l - line) / STEP; row < t->ahead; row += LINE / STEP)
            __builtin_prefetch(t->next + row * ldb + line, 0, 2);
#pragma GCC unroll 4
        for (int64_t i = l; i < l + STEP; i++) add_term(vectors, acc, a, b, ldb, i);
    }
    for (; l < end; l++) add_term(vectors, acc, a, b, ldb, l);
#pragma GCC unroll 12
    for (int j = 0; j < PANEL; j++)
        for (int v = 0; v < vectors; v++) {
            cpu_vec *to = (cpu_vec *)(sums + j * TILE + v * CPU_LANES);
            *to = acc[j][v] + *to;
        }
}

/* Functions of their own: the compiler has no registers left for what surrounds them. */
static __attribute__((noinline)) void add_terms_of_one(float *sums, const skinny_terms *t) {
    add_terms(1, sums, t);
}
static __attribute__((noinline)) void add_terms_of_all(float *sums, const skinny_terms *t) {
    add_terms(VECTORS, sums, t);
}

/* `rows` rows of c from `to`, their first `skip` columns left out. */
static void write_tile(const ca_cpu_product *p, float *to, const float *sums, int64_t rows,
                       int64_t skip) {
    const float alpha = p->alpha, beta = p->beta;
    _Alignas(64) float value[TILE][PANEL];
    for (int64_t i = 0; i < rows; i += 4)
        for (int64_t j = 0; j < PANEL; j += 4)
            turn_4(sums + j * TILE + i, TILE, &value[i][j], PANEL);
    for (int64_t i = 0; i < rows; i++, to += p->ldc) {
        for (int64_t j = 0; j < PANEL; j++) value[i][j] *= alpha;
        if (beta != 0.0f)
            for (int64_t j = skip; j < PANEL; j++) value[i][j] += beta * to[j];
        if (skip == 0)
            memcpy(to, value[i], sizeof value[i]);
        else
            memcpy(to + skip, value[i] + skip, (size_t)(PANEL - skip) * sizeof(float));
    }
}

/* All rows of a against one panel, each tile of them while a part of the next panel and of c is on
 * its way. The last panel begins early enough to be whole, and leaves out what the one before it
 * has written. */
static void multiply_panel(const skinny *s, int64_t panel) {
    const ca_cpu_product *p = s->p;
    const int64_t at = cpu_min(panel * PANEL, p->n - PANEL), skip = panel * PANEL - at;
    const float *b = (const float *)p->b + at * p->ldb;
    const float *next = (const float *)p->b + cpu_min(at + PANEL, p->n - PANEL) * p->ldb;
    const int64_t lines = (p->k + LINE - 1) / LINE, parts = (p->k + DEPTH - 1) / DEPTH;
    const int64_t depth = (lines + parts - 1) / parts * LINE; /* parts about as long */
    _Alignas(64) float sums[PANEL * TILE];
    for (int64_t tile = 0; tile < s->tiles; tile++) {
        const int64_t row = tile * TILE, rows = cpu_min(TILE, p->m - row);
        const int64_t first = tile * PANEL / s->tiles,
                      ahead = (tile + 1) * PANEL / s->tiles - first;
        skinny_terms t = {.a = s->turned + row * p->k,
                          .b = b,
                          .next = next + first * p->ldb,
                          .ldb = p->ldb,
                          .ahead = ahead};
        float *to = p->c + row * p->ldc + at;
        for (int64_t i = 0; i < rows; i++) __builtin_prefetch(to + i * p->ldc + PANEL - 1, 1, 2);
        memset(sums, 0, sizeof sums);
        for (; t.from < p->k; t.from = t.end) {
            t.end = cpu_min(t.from + depth, p->k);
            (rows > CPU_LANES ? add_terms_of_all : add_terms_of_one)(sums, &t);
        }
        write_tile(p, to, sums, rows, skip);
    }
}

void ca_cpu_gemm_skinny(const ca_backend *be, int threads, const ca_cpu_product *p) {
    int64_t count;
    const skinny s = {.p = p, .turned = scratch_of(be, &count), .tiles = tiles_of(p)};
    const int64_t panels = (p->n + PANEL - 1) / PANEL;
    if (threads == 1) {
        for (int64_t t = 0; t < s.tiles; t++)
            for (int64_t l = 0; l < p->k; l += BLOCK) turn_block(&s, t, l);
        for (int64_t i = 0; i < panels; i++) multiply_panel(&s, i);
        return;
    }
    /* a processor may be slower than another for a while: its neighbour is busy */
#pragma omp parallel num_threads(threads)
    {
#pragma omp for collapse(2) schedule(static)
        for (int64_t t = 0; t < s.tiles; t++)
            for (int64_t l = 0; l < p->k; l += BLOCK) turn_block(&s, t, l);
#pragma omp for schedule(guided, 2) nowait
        for (int64_t i = 0; i < panels; i++) multiply_panel(&s, i);
    }
}
