/* SPDX-License-Identifier: MIT
 *
 * Private header of the cpu backend: what its files share.
 *
 * Storage is float32. Every output element is computed by one thread in a fixed order, so results
 * do not depend on the number of threads, apart from products: the library may cut its work
 * differently for another number, and a batch go to another kernel. Arguments were checked by
 * ops.c. A backend runs one operation at a time: its scratch memory is shared by all of them.
 */
#ifndef CAUSA_BACKEND_CPU_H
#define CAUSA_BACKEND_CPU_H

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "causa/backend.h"

/* Vectors of the machine's width at any address, and a sum down to four lanes. */
typedef float cpu_vec4 __attribute__((vector_size(16), aligned(4)));
typedef float cpu_vec8 __attribute__((vector_size(32), aligned(4)));
typedef float cpu_vec16 __attribute__((vector_size(64), aligned(4)));

static inline cpu_vec4 cpu_fold8(cpu_vec8 x) {
    return __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
}
static inline cpu_vec4 cpu_fold16(cpu_vec16 x) {
    return cpu_fold8(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                     __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15));
}

#if defined(__AVX512F__)
typedef cpu_vec16 cpu_vec;
#define CPU_FOLD(x) cpu_fold16(x)
#elif defined(__AVX__)
typedef cpu_vec8 cpu_vec;
#define CPU_FOLD(x) cpu_fold8(x)
#else
typedef cpu_vec4 cpu_vec;
#define CPU_FOLD(x) (x)
#endif
enum { CPU_LANES = sizeof(cpu_vec) / sizeof(float) };

/* ---- context ----------------------------------------------------------------------------- */

enum {
    CPU_QUERY_TILE = 64,                  /* query rows of one attention tile */
    CPU_KEY_BLOCK = 256,                  /* keys of one attention tile */
    CPU_TILE_STRIDE = CPU_KEY_BLOCK + 16, /* no power of two: rows spread over the cache */
    CPU_TILE_SIZE = CPU_QUERY_TILE * CPU_TILE_STRIDE,
    CPU_TILES = 3,           /* tiles that one thread needs at most */
    CPU_GEMM_TILE = 1 << 20, /* values of one tile of a product with bf16 */
    CPU_SERIAL = 1 << 14,    /* an operation on fewer elements is not worth waking threads */
};

typedef struct ca_cpu_context {
    float *tiles;          /* [threads, CPU_TILES, CPU_TILE_SIZE] attention scores */
    float *gemm_tiles;     /* [2, CPU_GEMM_TILE] of a and b, bf16 or skinny */
    int64_t *tile_start;   /* [tile_capacity] see ca_cpu_tiles */
    int64_t tile_capacity; /* grows to the largest number of sequences seen, plus 1 */
} ca_cpu_context;

/* The C library keeps what is freed, up to 32 MB a block, once a block of that size was. The arenas
 * of one method would stay beside those of the next, which no plan counts. */
static inline void cpu_give_back_arenas(void) {
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 8 << 20);
#endif
}

/* Threads for an operation that touches rows * width values. */
static inline int cpu_threads(const ca_backend *be, int64_t rows, int64_t width) {
    return rows * width < CPU_SERIAL ? 1 : be->threads;
}
/* The same for attention: all rows and heads, each against up to max_keys keys. */
static inline int cpu_attention_threads(const ca_backend *be, const ca_sequences *seq,
                                        const ca_attention *attention) {
    return cpu_threads(be, seq->rows * attention->heads, seq->max_keys * attention->head_dim);
}

/* ---- addressing -------------------------------------------------------------------------- */

static inline int64_t cpu_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t cpu_max(int64_t a, int64_t b) { return a > b ? a : b; }

/* Number of places along the first `axes` axes. */
static inline int64_t cpu_places(const ca_tensor *t, int axes) {
    int64_t n = 1;
    for (int i = 0; i < axes; i++) n *= t->shape[i];
    return n;
}

/* Element offset of place `index`, counted row-major along the first `axes` axes. */
static inline int64_t cpu_offset(const ca_tensor *t, int axes, int64_t index) {
    int64_t offset = 0;
    for (int i = axes - 1; i > 0; i--) {
        offset += index % t->shape[i] * t->stride[i];
        index /= t->shape[i];
    }
    return axes > 0 ? offset + index * t->stride[0] : 0;
}

static inline float *cpu_row(const ca_tensor *t, int64_t index) {
    return (float *)t->data + cpu_offset(t, t->rank - 1, index);
}

static inline int64_t cpu_width(const ca_tensor *t) { return t->shape[t->rank - 1]; }

/* Entry i of an index tensor, i32 or i64. */
static inline int64_t cpu_index(const ca_tensor *t, int64_t i) {
    return t->dtype == CA_I32 ? ((const int32_t *)t->data)[i] : ((const int64_t *)t->data)[i];
}

/* ---- elementary functions, written so that loops over them vectorise --------------------- */

static inline float cpu_from_bits(uint32_t bits) {
    union {
        uint32_t i;
        float f;
    } u = {.i = bits};
    return u.f;
}

static inline uint32_t cpu_to_bits(float x) {
    union {
        float f;
        uint32_t i;
    } u = {.f = x};
    return u.i;
}

/* Below 2 ulp everywhere; inf above 88.73, 0 below -104, NaN stays NaN. */
static inline float cpu_exp(float x) {
    /* adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits */
    const float magic = 12582912.0f;
    x = x > 89.0f ? 89.0f : x;
    x = x < -104.5f ? -104.5f : x;
    float shifted = x * 1.44269504f + magic;
    float n = shifted - magic;
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.392618359e-3f;
    p = p * r + 8.363179053e-3f;
    p = p * r + 4.166655462e-2f;
    p = p * r + 1.666657699e-1f;
    p = p * r + 0.5f;
    p = p * (r * r) + r;
    /* 2^n in two factors, so that results near the ends of the range come out right */
    int32_t i = (int32_t)(cpu_to_bits(shifted) - cpu_to_bits(magic)), half = i >> 1;
    float low = cpu_from_bits((uint32_t)(half + 127) << 23);
    float high = cpu_from_bits((uint32_t)(i - half + 127) << 23);
    return (p * low + low) * high;
}

static inline float cpu_sigmoid(float x) { return 1.0f / (1.0f + cpu_exp(-x)); }

static inline float cpu_tanh(float x) {
    float u = x * x;
    float p = 2.292744816e-3f;
    p = p * u - 8.343945516e-3f;
    p = p * u + 2.176891865e-2f;
    p = p * u - 5.395925958e-2f;
    p = p * u + 1.333330356e-1f;
    p = p * u - 3.333333317e-1f;
    float small = x + x * u * p;
    float large = 1.0f - 2.0f / (cpu_exp(2.0f * fabsf(x)) + 1.0f);
    return fabsf(x) < 0.625f ? small : copysignf(large, x);
}

/* Phi(x) and its derivative phi(x), the standard normal distribution and density.
 * With z = |x| / sqrt 2: erfc(z) = exp(-z^2) t P(t), t = 1 / (1 + 0.3 z). */
static inline float cpu_normal(float x, float *density) {
    float e = cpu_exp(-0.5f * x * x);
    float t = 1.0f / (1.0f + 0.212132034f * fabsf(x));
    float p = -0.1304928155f;
    p = p * t + 0.4905715981f;
    p = p * t - 0.5233146563f;
    p = p * t + 0.5612462022f;
    p = p * t - 0.1047121411f;
    p = p * t + 0.2195671148f;
    p = p * t + 0.1470454191f;
    p = p * t + 0.1709141563f;
    p = p * t + 0.1691751026f;
    float tail = 0.5f * e * t * p;
    *density = 0.398942280f * e;
    return x < 0.0f ? tail : 1.0f - tail;
}

/* ---- indices ----------------------------------------------------------------------------- */

/* Indices lie in backend memory, which ops.c does not read: here it costs nothing. `name` is the
 * argument's; each index has to be in [0, limit). */
ca_status ca_cpu_index_check(const char *operation, const char *name, const ca_tensor *index,
                             int64_t limit);

/* ---- dense ------------------------------------------------------------------------------- */

/* c [m, n] = alpha op(a) op(b) + beta c, row-major with leading dimensions; the one call that
 * gemm_onednn.c and gemm_cblas.c provide. Inside a parallel region it runs on one thread, outside
 * on `threads`. false: the library refused. */
bool ca_cpu_sgemm(int threads, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                  float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                  float *c, int64_t ldc);
extern const char ca_cpu_libraries[];
/* The same on the calling thread, for the small products of attention's tiles. */
bool ca_cpu_gemm_tile(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                      float alpha, const float *a, int64_t lda, const float *b, int64_t ldb,
                      float beta, float *c, int64_t ldc);

/* One product of a batch: c [m, n] = alpha op(a) op(b) + beta c. */
typedef struct ca_cpu_product {
    const void *a; /* f32, or bf16 when `narrow_a` */
    const void *b; /* f32, or bf16 when `narrow` */
    float *c;
    int64_t m, n, k, lda, ldb, ldc;
    bool transpose_a, transpose_b, narrow;
    bool narrow_a; /* with `narrow` only */
    bool wide;     /* narrow: an a in f32 is not rounded to bf16 */
    float alpha, beta;
} ca_cpu_product;

/* Where reading b unpacked beats the library, measured on two AVX-512 cores with b in memory: few
 * rows, and products long enough to be worth adding up a vector's lanes (tests/bench/bench_ops.c).
 * A library has no products with b in bf16 that leave a in f32. */
static inline bool ca_cpu_has_few_rows(const ca_cpu_product *p) {
    enum { FEW_ROWS = 8, FEW_NARROW_ROWS = 32, LONG_PRODUCT = 256 };
    if (p->transpose_a || !p->transpose_b) return false;
    return p->narrow ? p->m <= FEW_NARROW_ROWS : p->m <= FEW_ROWS && p->k >= LONG_PRODUCT;
}
/* For few rows of a: reads b once, unpacked. a is f32 and taken as it is. */
void ca_cpu_gemm_few_rows(int threads, const ca_cpu_product *p);
/* For 9 to 192 rows, where the backend's scratch has room for a, which is turned: reads b
 * once, unpacked. Inside a parallel region for one thread, in its share of the scratch. */
bool ca_cpu_is_skinny(const ca_backend *be, int threads, const ca_cpu_product *p);
void ca_cpu_gemm_skinny(const ca_backend *be, int threads, const ca_cpu_product *p);
/* True for an a of f32 that is nearly all zeros, and long sums: then only the rows of b that count
 * are read. Zeros times inf or NaN are left out. */
bool ca_cpu_is_sparse(const ca_cpu_product *p);
void ca_cpu_gemm_sparse(int threads, const ca_cpu_product *p);
/* b is bf16. Uses the backend's scratch: one product at a time. false: the library refused. */
bool ca_cpu_gemm_bf16(const ca_backend *be, const ca_cpu_product *p);

/* ---- attention --------------------------------------------------------------------------- */

/* Keys or values of one sequence and one key/value head: prefix rows, then own rows. */
typedef struct ca_cpu_side {
    const float *prefix, *own;
    int64_t prefix_stride, own_stride;
    int64_t prefix_rows, count; /* count: prefix and own together */
} ca_cpu_side;

ca_cpu_side ca_cpu_side_of(const ca_tensor *own, const ca_tensor *prefix, const ca_sequences *seq,
                           int64_t s, int64_t kv_head);

/* Row `at` of a side; *stride to the next one. */
static inline const float *cpu_side_row(const ca_cpu_side *side, int64_t at, int64_t *stride) {
    bool own = at >= side->prefix_rows;
    *stride = own ? side->own_stride : side->prefix_stride;
    return own ? side->own + (at - side->prefix_rows) * side->own_stride
               : side->prefix + at * side->prefix_stride;
}

/* Length of the next block of keys from `at`: at most CPU_KEY_BLOCK, not across the border of the
 * prefix, not beyond `end`. */
static inline int64_t cpu_block(const ca_cpu_side *side, int64_t at, int64_t end) {
    int64_t border = at < side->prefix_rows ? cpu_min(side->prefix_rows, end) : end;
    return cpu_min(border - at, CPU_KEY_BLOCK);
}

/* Keys that query row `row` (own row number) sees: [cpu_first_key, cpu_last_key]. */
static inline int64_t cpu_last_key(const ca_cpu_side *side, int64_t row) {
    return side->prefix_rows + row;
}
static inline int64_t cpu_first_key(const ca_cpu_side *side, int64_t row, int64_t window) {
    return window > 0 ? cpu_max(0, side->prefix_rows + row - window + 1) : 0;
}

/* The calling thread's CPU_TILES tiles, each [CPU_QUERY_TILE, CPU_TILE_STRIDE]. */
float *ca_cpu_thread_tiles(const ca_backend *be);

/* scores [rows, keys] = cap(scale q k^T), rows ld apart, for queries q [rows, Dh] and the keys
 * [at, at + keys) of one block. */
bool ca_cpu_scores(float *scores, int64_t ld, const float *q, int64_t q_stride, int64_t rows,
                   const ca_cpu_side *k, int64_t at, int64_t keys, const ca_attention *attention);

/* Cuts all sequences into tiles of CPU_QUERY_TILE query rows; tile_start[s] is the number of
 * tiles before sequence s. The array belongs to the context. */
ca_status ca_cpu_tiles(ca_backend *be, const ca_sequences *seq, const int64_t **tile_start);
/* Sequence of tile number `tile`. */
int64_t ca_cpu_tile_sequence(const int64_t *tile_start, int64_t count, int64_t tile);

/* ---- the table's functions --------------------------------------------------------------- */

ca_status ca_cpu_alloc(ca_backend *be, size_t bytes, void **out);
void ca_cpu_release(ca_backend *be, void *data);
ca_status ca_cpu_upload(ca_backend *be, ca_tensor dst, const void *host);
ca_status ca_cpu_download(ca_backend *be, void *host, ca_tensor src);
ca_status ca_cpu_copy(ca_backend *be, ca_tensor dst, ca_tensor src);
ca_status ca_cpu_fill(ca_backend *be, ca_tensor dst, double value);
ca_status ca_cpu_sync(ca_backend *be);
ca_status ca_cpu_memory_info(ca_backend *be, size_t *available, size_t *total);
ca_status ca_cpu_matmul(ca_backend *be, ca_tensor c, ca_tensor a, ca_tensor b, ca_tensor bias,
                        ca_matmul_options options);
ca_status ca_cpu_gather(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor index, double scale,
                        bool accumulate);
ca_status ca_cpu_scatter_add(ca_backend *be, ca_tensor y, ca_tensor index, ca_tensor x);
ca_status ca_cpu_add_scaled_rows(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor scale,
                                 double alpha);
ca_status ca_cpu_multiply(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w);
ca_status ca_cpu_add(ca_backend *be, ca_tensor y, ca_tensor x, double alpha);
ca_status ca_cpu_sum_heads(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor bias);
ca_status ca_cpu_norm_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor gain, ca_tensor bias,
                          ca_norm norm);
ca_status ca_cpu_norm_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x, ca_tensor gain,
                          ca_norm norm, bool accumulate);
ca_status ca_cpu_norm_stats(ca_backend *be, ca_tensor xhat, ca_tensor inverse, ca_tensor x,
                            ca_norm norm);
ca_status ca_cpu_rope(ca_backend *be, ca_tensor x, ca_tensor cosine, ca_tensor sine,
                      ca_tensor positions, bool inverse);
ca_status ca_cpu_attention_fwd(ca_backend *be, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                               ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                               const ca_sequences *seq, ca_attention attention);
ca_status ca_cpu_attention_bwd(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor dv,
                               ca_tensor d_o, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                               ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                               const ca_sequences *seq, ca_attention attention);
ca_status ca_cpu_pattern_fwd(ca_backend *be, ca_tensor pattern, ca_tensor q, ca_tensor k,
                             ca_tensor prefix_k, const ca_sequences *seq, ca_attention attention);
ca_status ca_cpu_pattern_bwd(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor d_pattern,
                             ca_tensor pattern, ca_tensor q, ca_tensor k, ca_tensor prefix_k,
                             const ca_sequences *seq, ca_attention attention);
ca_status ca_cpu_pattern_apply_fwd(ca_backend *be, ca_tensor o, ca_tensor pattern, ca_tensor v,
                                   ca_tensor prefix_v, const ca_sequences *seq,
                                   ca_attention attention);
ca_status ca_cpu_pattern_apply_bwd(ca_backend *be, ca_tensor d_pattern, ca_tensor dv, ca_tensor d_o,
                                   ca_tensor pattern, ca_tensor v, ca_tensor prefix_v,
                                   const ca_sequences *seq, ca_attention attention);
ca_status ca_cpu_mix_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source,
                         ca_tensor mask);
ca_status ca_cpu_mix_bwd(ca_backend *be, ca_tensor d_x, ca_tensor d_source, ca_tensor d_mask,
                         ca_tensor dy, ca_tensor x, ca_tensor source, ca_tensor mask,
                         bool accumulate);
ca_status ca_cpu_pattern_mix_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source,
                                 ca_tensor mask, const ca_sequences *seq, ca_attention attention);
ca_status ca_cpu_pattern_mix_bwd(ca_backend *be, ca_tensor d_x, ca_tensor d_source,
                                 ca_tensor d_mask, ca_tensor dy, ca_tensor x, ca_tensor source,
                                 ca_tensor mask, const ca_sequences *seq, ca_attention attention,
                                 bool accumulate);
ca_status ca_cpu_act_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_activation kind, bool gated);
ca_status ca_cpu_act_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x,
                         ca_activation kind, bool gated);
ca_status ca_cpu_soft_cap_fwd(ca_backend *be, ca_tensor y, ca_tensor x, double cap);
ca_status ca_cpu_soft_cap_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor y, double cap);
ca_status ca_cpu_log_sum_exp(ca_backend *be, ca_tensor y, ca_tensor x);
ca_status ca_cpu_softmax(ca_backend *be, ca_tensor y, ca_tensor x);
ca_status ca_cpu_top_k(ca_backend *be, ca_tensor values, ca_tensor indices, ca_tensor x);
ca_status ca_cpu_cross_entropy_fwd(ca_backend *be, ca_tensor loss, ca_tensor x, ca_tensor target);
ca_status ca_cpu_cross_entropy_bwd(ca_backend *be, ca_tensor dx, ca_tensor x, ca_tensor target,
                                   ca_tensor scale);
ca_status ca_cpu_row_norms(ca_backend *be, ca_tensor y, ca_tensor x);
ca_status ca_cpu_row_dots(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w);
ca_status ca_cpu_row_distances(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w);
ca_status ca_cpu_column_sums(ca_backend *be, ca_tensor y, ca_tensor x);
ca_status ca_cpu_adam_step(ca_backend *be, ca_tensor parameter, ca_tensor first, ca_tensor second,
                           ca_tensor gradient, ca_adam adam);

#endif
