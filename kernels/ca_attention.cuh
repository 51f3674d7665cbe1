/* SPDX-License-Identifier: MIT
 *
 * What the attention kernels share: where sequences and heads lie, tiles in shared memory, and the
 * two products of tiles.
 *
 * Query heads that share a key/value head form a group. Their rows are packed: row m of a group is
 * token m / group of head m % group, so that a tile of rows loads keys and values once for the
 * whole group and few tokens still fill a tile.
 *
 * A block of 4 ROWS threads (ROWS 64; 16 where there are few rows) makes ROWS x 64 results.
 * Thread (ty, tx) = (id / 16, id % 16) owns rows 4 ty + i and 4 columns, i and j < 4: 16 results
 * from 8 vector loads for 64 multiply-adds. Half a warp shares 4 rows, so a row is reduced by
 * shuffles over 16 lanes. Wide heads pass through the tiles in chunks of 64 columns: two tiles,
 * 34 KB for ROWS = 64 and 21 KB for 16, serve every head width, and registers, not shared memory,
 * bound the blocks of a multiprocessor.
 *
 * Key tiles begin at multiples of 64 counted from the first prefix key, and every sum runs in the
 * order of its terms, so a result depends neither on ROWS, on the other sequences and lanes of a
 * launch, nor on which of its keys are prefix.
 *
 * Limit: a sequence has fewer than 2^31 keys and packed rows. Zero times an invisible non-finite
 * value is NaN: rows before a non-finite key of the same tile do not stay clean.
 */
#ifndef CA_ATTENTION_CUH
#define CA_ATTENTION_CUH

#include "ca_cuda.cuh"

#include <limits.h>

constexpr int CA_TILE = 64;        /* keys or queries of a tile, columns of a chunk */
constexpr int CA_TILE_STRIDE = 68; /* floats from row to row: 16 lanes at 16 bytes never collide */
constexpr int CA_MICRO = 4;
constexpr int CA_FEW_ROWS = 16;

/* ---- tensors and sequences */

/* [rows, heads, width] or [lanes, rows, heads, width]; strides in elements. */
struct ca_heads {
    float *data;
    int64_t lane, row, head;
    bool vector; /* 16-byte loads are aligned and never cross the end of a row */
};

/* Keys or values: the sequences' own and those of the prefix. */
struct ca_sides {
    ca_heads own, prefix;
};

struct ca_layout {
    const int64_t *row_start, *prefix_start, *prefix_rows, *pattern_start;
    int64_t count;
    int heads, kv_heads, width, window; /* window INT_MAX: none */
    float scale, cap;                   /* cap 0: none */
};

static inline ca_heads ca_heads_of(ca_tensor t) {
    ca_heads x = {(float *)t.data, 0, 0, 0, (uintptr_t)t.data % 16 == 0};
    if (!t.data) return x;
    x.lane = t.rank == 4 ? t.stride[0] : 0;
    x.row = t.stride[t.rank - 3];
    x.head = t.stride[t.rank - 2];
    x.vector = x.vector && (x.lane | x.row | x.head | t.shape[t.rank - 1]) % CA_MICRO == 0;
    return x;
}

static inline ca_sides ca_sides_of(ca_tensor own, ca_tensor prefix) {
    ca_sides sides = {ca_heads_of(own), ca_heads_of(prefix)};
    return sides;
}

static inline ca_layout ca_layout_of(const ca_sequences *sequences, ca_attention attention) {
    bool windowed = attention.window > 0 && attention.window < INT_MAX;
    ca_layout layout = {(const int64_t *)sequences->row_start_b.data,
                        (const int64_t *)sequences->prefix_start_b.data,
                        (const int64_t *)sequences->prefix_rows_b.data,
                        (const int64_t *)sequences->pattern_start_b.data,
                        sequences->count,
                        (int)attention.heads,
                        (int)attention.kv_heads,
                        (int)attention.head_dim,
                        windowed ? (int)attention.window : INT_MAX,
                        (float)attention.scale,
                        (float)attention.soft_cap};
    return layout;
}

/* Few rows leave most of a large tile empty. */
static inline int ca_tile_rows(int64_t rows, int many) {
    return rows <= 2 * CA_FEW_ROWS ? CA_FEW_ROWS : many;
}

/* Lanes that one block takes one after the other. They share its scores, so as many as leave
 * enough blocks to fill the device. */
static inline int64_t ca_lanes_per_block(const ca_queue *queue, int64_t items, int64_t lanes) {
    int64_t block = lanes;
    while (block > 1 && items * ca_ceil_div(lanes, block) < 4 * (int64_t)queue->multiprocessors)
        block = (block + 1) / 2;
    return block;
}

/* Of position i (-1: no row), key j. */
static __device__ __forceinline__ bool ca_visible(const ca_layout &layout, int i, int j) {
    return j <= i && i - j < layout.window;
}

/* The first key tile that position i sees something of. */
static __device__ __forceinline__ int ca_first_tile(const ca_layout &layout, int i) {
    return i < layout.window ? 0 : (i - layout.window + 1) / CA_TILE * CA_TILE;
}

/* Rows of sequence s. */
static __device__ __forceinline__ int ca_own_rows(const ca_layout &layout, int64_t s) {
    return (int)(layout.row_start[s + 1] - layout.row_start[s]);
}

/* Where a block works: a sequence, a group of query heads and a tile of their packed rows. Lies in
 * shared memory, since registers are what the kernels run out of. */
struct ca_place {
    int64_t row, prefix_row; /* first rows of the sequence and of its prefix */
    int64_t pattern;         /* first element of its patterns */
    int own, prefix;         /* rows */
    int owner;               /* of the equal groups of query heads */
    int head, group;         /* its query heads [head, head + group) */
    int kv_head;
    int width;
    int first;           /* packed row of the tile's first row */
    int start, end;      /* its keys, from the beginning of a key tile */
    int tokens[CA_TILE]; /* of the tile's rows; -1 beyond the last one */
};

/* Moves a block to the packed rows [first, first + count) of group `owner` of `owners` equal ones
 * in sequence s; the first of them exists. The caller synchronises before and after. */
static __device__ __forceinline__ void ca_place_at(ca_place &p, const ca_layout &layout, int64_t s,
                                                   int owner, int owners, int first, int count) {
    const int own = ca_own_rows(layout, s), group = layout.heads / owners, rows = own * group;
    for (int r = (int)threadIdx.x; r < count; r += (int)blockDim.x)
        p.tokens[r] = first + r < rows ? (first + r) / group : -1;
    if (threadIdx.x > 0) return;
    p.row = layout.row_start[s];
    p.own = own;
    p.prefix_row = layout.prefix_start[s];
    p.prefix = (int)layout.prefix_rows[s];
    p.pattern = layout.heads * layout.pattern_start[s];
    p.owner = owner;
    p.group = group;
    p.head = owner * group;
    p.kv_head = p.head / (layout.heads / layout.kv_heads);
    p.width = layout.width;
    p.first = first;
    p.start = ca_first_tile(layout, p.prefix + first / group);
    p.end = p.prefix + ((first + count < rows ? first + count : rows) - 1) / group + 1;
}

/* Row r of the tile; its token is not -1. */
static __device__ __forceinline__ int ca_query_head(const ca_place &p, int r, int token) {
    return p.head + p.first + r - token * p.group;
}

static __device__ __forceinline__ float *ca_query_row(const ca_heads &x, const ca_place &p,
                                                      int64_t lane, int r) {
    const int token = p.tokens[r];
    if (token < 0) return nullptr;
    return x.data + lane * x.lane + (p.row + token) * x.row +
           (int64_t)ca_query_head(p, r, token) * x.head;
}

/* The sequence's own key number `own` (not counting the prefix) in head p.owner of x. */
static __device__ __forceinline__ float *ca_own_row(const ca_heads &x, const ca_place &p,
                                                    int64_t lane, int own) {
    if (own >= p.own) return nullptr;
    return x.data + lane * x.lane + (p.row + own) * x.row + (int64_t)p.owner * x.head;
}

/* First element of the pattern row of (token, head). */
static __device__ __forceinline__ int64_t ca_pattern_row(const ca_place &p, int r, int token) {
    return p.pattern +
           ((int64_t)ca_query_head(p, r, token) * p.own + token) * ((int64_t)p.prefix + p.own);
}

/* ---- scores */

static __device__ __forceinline__ float ca_score(const ca_layout &layout, float dot) {
    const float score = layout.scale * dot;
    return layout.cap > 0.0f ? layout.cap * tanhf(score / layout.cap) : score;
}

/* d score / d dot */
static __device__ __forceinline__ float ca_score_slope(const ca_layout &layout, float score) {
    const float t = layout.cap > 0.0f ? score / layout.cap : 0.0f;
    return layout.scale * (1.0f - t * t);
}

/* Over the 16 threads that share rows, in each of them. The whole warp calls them together. */
static __device__ __forceinline__ float ca_row_max(float v) {
    for (int offset = CA_WARP / 4; offset > 0; offset >>= 1)
        v = fmaxf(v, __shfl_xor_sync(CA_FULL_WARP, v, offset));
    return v;
}

static __device__ __forceinline__ float ca_row_sum(float v) {
    for (int offset = CA_WARP / 4; offset > 0; offset >>= 1)
        v += __shfl_xor_sync(CA_FULL_WARP, v, offset);
    return v;
}

/* ---- threads and tiles */

static __device__ __forceinline__ int ca_tx(void) { return (int)threadIdx.x % 16; }
static __device__ __forceinline__ int ca_ty(void) { return (int)threadIdx.x / 16; }

/* Column of a tile of scores that thread tx owns; those of one j are adjacent over the threads. */
static __device__ __forceinline__ int ca_score_column(int j) { return ca_tx() + 16 * j; }

/* Steps of a product over `extent` terms: tiles hold zeros up to the next multiple of 4. */
static __device__ __forceinline__ int ca_inner(int extent) {
    return extent < CA_TILE ? (extent + CA_MICRO - 1) / CA_MICRO * CA_MICRO : CA_TILE;
}

/* Columns [column, column + 4) of a row, 0 beyond its end and for no row. */
static __device__ __forceinline__ float4 ca_load_four(const float *row, int column, int width,
                                                      bool vector) {
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (!row || column >= width) return v;
    if (vector) return *reinterpret_cast<const float4 *>(row + column);
    v.x = row[column];
    if (column + 1 < width) v.y = row[column + 1];
    if (column + 2 < width) v.z = row[column + 2];
    if (column + 3 < width) v.w = row[column + 3];
    return v;
}

static __device__ __forceinline__ void ca_store_four(float *tile, int r, float4 v) {
    *reinterpret_cast<float4 *>(tile + r * CA_TILE_STRIDE + CA_MICRO * ca_tx()) = v;
}

/* Fills COUNT rows of a tile with columns [column, column + 64) of the packed rows of p; 16
 * threads read a row, each thread has four loads on the way. The caller synchronises before and
 * after. */
template <int COUNT, int ROWS>
static __device__ __forceinline__ void ca_load_queries(float *tile, const ca_place &p,
                                                       const ca_heads &x, int64_t lane,
                                                       int column) {
    constexpr int STEP = ROWS / 4;
    for (int r0 = ca_ty(); r0 < COUNT; r0 += 4 * STEP) {
        float4 v[4];
#pragma unroll
        for (int u = 0; u < 4; u++)
            v[u] = ca_load_four(ca_query_row(x, p, lane, r0 + u * STEP), column + 4 * ca_tx(),
                                p.width, x.vector);
#pragma unroll
        for (int u = 0; u < 4; u++) ca_store_four(tile, r0 + u * STEP, v[u]);
    }
}

/* The same with the keys [at, at + COUNT), counted from the first prefix key. */
template <int COUNT, int ROWS>
static __device__ __forceinline__ void ca_load_keys(float *tile, const ca_place &p,
                                                    const ca_sides &x, int at, int column) {
    constexpr int STEP = ROWS / 4;
    for (int r0 = ca_ty(); r0 < COUNT; r0 += 4 * STEP) {
        float4 v[4];
#pragma unroll
        for (int u = 0; u < 4; u++) {
            const int key = at + r0 + u * STEP;
            const bool own = key >= p.prefix;
            const ca_heads &side = own ? x.own : x.prefix;
            const float *row =
                key >= p.prefix + p.own
                    ? nullptr
                    : side.data + (own ? p.row + key - p.prefix : p.prefix_row + key) * side.row +
                          p.kv_head * side.head;
            v[u] = ca_load_four(row, column + 4 * ca_tx(), p.width, side.vector);
        }
#pragma unroll
        for (int u = 0; u < 4; u++) ca_store_four(tile, r0 + u * STEP, v[u]);
    }
}

/* s[i][j] += row 4 ty + i of a . row tx + 16 j of b, over the first `inner` columns. */
static __device__ __forceinline__ void ca_tile_dots(float s[4][4], const float *a, const float *b,
                                                    int inner) {
    a += CA_MICRO * ca_ty() * CA_TILE_STRIDE;
    b += ca_tx() * CA_TILE_STRIDE;
#pragma unroll 1
    for (int d = 0; d < inner; d += CA_MICRO) {
        float4 y[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            y[j] = *reinterpret_cast<const float4 *>(b + 16 * j * CA_TILE_STRIDE + d);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float4 x = *reinterpret_cast<const float4 *>(a + i * CA_TILE_STRIDE + d);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                s[i][j] += x.x * y[j].x;
                s[i][j] += x.y * y[j].y;
                s[i][j] += x.z * y[j].z;
                s[i][j] += x.w * y[j].w;
            }
        }
    }
}

/* acc[i] += x[i] times a row of b; thread tx has columns 2 tx, 2 tx + 1 and the same plus 32, the
 * latter unless COLUMNS is 32. */
template <int COLUMNS>
static __device__ __forceinline__ void ca_mix_row(float acc[4][4], float x0, float x1, float x2,
                                                  float x3, const float *b) {
    const float x[4] = {x0, x1, x2, x3};
    const float2 low = *reinterpret_cast<const float2 *>(b);
    const float2 high = COLUMNS == CA_TILE ? *reinterpret_cast<const float2 *>(b + 32) : low;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        acc[i][0] += x[i] * low.x;
        acc[i][1] += x[i] * low.y;
        if (COLUMNS == CA_TILE) {
            acc[i][2] += x[i] * high.x;
            acc[i][3] += x[i] * high.y;
        }
    }
}

/* acc += a b: row 4 ty + i of a [.., inner] times b [inner, COLUMNS]. */
template <int COLUMNS>
static __device__ __forceinline__ void ca_tile_mix(float acc[4][4], const float *a, const float *b,
                                                   int inner) {
    a += CA_MICRO * ca_ty() * CA_TILE_STRIDE;
    b += 2 * ca_tx();
#pragma unroll 2
    for (int k = 0; k < inner; k += CA_MICRO) {
        float4 x[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            x[i] = *reinterpret_cast<const float4 *>(a + i * CA_TILE_STRIDE + k);
        const float *row = b + k * CA_TILE_STRIDE;
        ca_mix_row<COLUMNS>(acc, x[0].x, x[1].x, x[2].x, x[3].x, row);
        ca_mix_row<COLUMNS>(acc, x[0].y, x[1].y, x[2].y, x[3].y, row + CA_TILE_STRIDE);
        ca_mix_row<COLUMNS>(acc, x[0].z, x[1].z, x[2].z, x[3].z, row + 2 * CA_TILE_STRIDE);
        ca_mix_row<COLUMNS>(acc, x[0].w, x[1].w, x[2].w, x[3].w, row + 3 * CA_TILE_STRIDE);
    }
}

/* The same where only `columns` of them exist; narrow chunks cost half. */
static __device__ __forceinline__ void ca_tile_mix_some(float acc[4][4], const float *a,
                                                        const float *b, int inner, int columns) {
    if (columns > CA_TILE / 2)
        ca_tile_mix<CA_TILE>(acc, a, b, inner);
    else
        ca_tile_mix<CA_TILE / 2>(acc, a, b, inner);
}

static __device__ __forceinline__ void ca_tile_clear(float s[4][4]) {
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) s[i][j] = 0.0f;
}

/* Writes scores or what became of them as rows of a tile. The caller synchronises. */
static __device__ __forceinline__ void ca_tile_store(float *tile, const float s[4][4]) {
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            tile[(CA_MICRO * ca_ty() + i) * CA_TILE_STRIDE + ca_score_column(j)] = s[i][j];
}

/* ---- rows in device memory that a thread sums up: mixed columns of a chunk */

/* Elements (column, column + 1) of a row. */
static __device__ __forceinline__ float2 ca_read_two(const float *row, int column, int width,
                                                     bool vector) {
    float2 v = make_float2(0.0f, 0.0f);
    if (column >= width) return v;
    if (vector) return *reinterpret_cast<const float2 *>(row + column);
    v.x = row[column];
    if (column + 1 < width) v.y = row[column + 1];
    return v;
}

static __device__ __forceinline__ void ca_write_two(float *row, int column, int width, bool vector,
                                                    float x, float y) {
    if (column >= width) return;
    if (vector) {
        *reinterpret_cast<float2 *>(row + column) = make_float2(x, y);
    } else {
        row[column] = x;
        if (column + 1 < width) row[column + 1] = y;
    }
}

static __device__ __forceinline__ void ca_read_row(float acc[4], const float *row, int column,
                                                   int width, bool vector) {
    if (!row) return;
    const float2 low = ca_read_two(row, column + 2 * ca_tx(), width, vector);
    const float2 high = ca_read_two(row, column + 32 + 2 * ca_tx(), width, vector);
    acc[0] = low.x;
    acc[1] = low.y;
    acc[2] = high.x;
    acc[3] = high.y;
}

static __device__ __forceinline__ void ca_write_row(float *row, const float acc[4], int column,
                                                    int width, bool vector) {
    if (!row) return;
    ca_write_two(row, column + 2 * ca_tx(), width, vector, acc[0], acc[1]);
    ca_write_two(row, column + 32 + 2 * ca_tx(), width, vector, acc[2], acc[3]);
}

/* ---- products of a block: all threads call them, they hold barriers, and a and b are free
 * before and after unless they say otherwise. Chunk by chunk over the head width. */

/* s = queries (ROWS) . keys [at, at + 64) */
template <int ROWS>
static __device__ __forceinline__ void ca_query_key_dots(float s[4][4], float *a, float *b,
                                                         const ca_place &p, const ca_heads &queries,
                                                         int64_t lane, const ca_sides &keys,
                                                         int at) {
    ca_tile_clear(s);
    for (int column = 0; column < p.width; column += CA_TILE) {
        ca_load_queries<ROWS, ROWS>(a, p, queries, lane, column);
        ca_load_keys<CA_TILE, ROWS>(b, p, keys, at, column);
        __syncthreads();
        ca_tile_dots(s, a, b, ca_inner(p.width - column));
        __syncthreads();
    }
}

/* s = keys [at, at + ROWS) . queries (64) */
template <int ROWS>
static __device__ __forceinline__ void ca_key_query_dots(float s[4][4], float *a, float *b,
                                                         const ca_place &p, const ca_sides &keys,
                                                         int at, const ca_heads &queries,
                                                         int64_t lane) {
    ca_tile_clear(s);
    for (int column = 0; column < p.width; column += CA_TILE) {
        ca_load_keys<ROWS, ROWS>(a, p, keys, at, column);
        ca_load_queries<CA_TILE, ROWS>(b, p, queries, lane, column);
        __syncthreads();
        ca_tile_dots(s, a, b, ca_inner(p.width - column));
        __syncthreads();
    }
}

/* out (the tile's packed rows) = or += w times keys [at, at + 64); w becomes tile a. */
template <int ROWS>
static __device__ __forceinline__ void ca_mix_keys(const ca_heads &out, int64_t lane, bool first,
                                                   float *a, float *b, const float w[4][4],
                                                   const ca_place &p, const ca_sides &keys,
                                                   int at) {
    ca_tile_store(a, w);
    for (int column = 0; column < p.width; column += CA_TILE) {
        float acc[4][4];
        ca_load_keys<CA_TILE, ROWS>(b, p, keys, at, column);
        ca_tile_clear(acc);
        for (int i = 0; i < 4 && !first; i++)
            ca_read_row(acc[i], ca_query_row(out, p, lane, CA_MICRO * ca_ty() + i), column, p.width,
                        out.vector);
        __syncthreads();
        ca_tile_mix_some(acc, a, b, ca_inner(p.prefix + p.own - at), p.width - column);
        for (int i = 0; i < 4; i++)
            ca_write_row(ca_query_row(out, p, lane, CA_MICRO * ca_ty() + i), acc[i], column,
                         p.width, out.vector);
        __syncthreads();
    }
}

/* out (own keys [own, own + ROWS) of head p.owner) = or += w times the 64 queries; w becomes tile
 * a. */
template <int ROWS>
static __device__ __forceinline__ void ca_mix_queries(const ca_heads &out, int64_t lane, int own,
                                                      bool first, float *a, float *b,
                                                      const float w[4][4], const ca_place &p,
                                                      const ca_heads &queries) {
    ca_tile_store(a, w);
    for (int column = 0; column < p.width; column += CA_TILE) {
        float acc[4][4];
        ca_load_queries<CA_TILE, ROWS>(b, p, queries, lane, column);
        ca_tile_clear(acc);
        for (int i = 0; i < 4 && !first; i++)
            ca_read_row(acc[i], ca_own_row(out, p, lane, own + CA_MICRO * ca_ty() + i), column,
                        p.width, out.vector);
        __syncthreads();
        ca_tile_mix_some(acc, a, b, ca_inner(p.own * p.group - p.first), p.width - column);
        for (int i = 0; i < 4; i++)
            ca_write_row(ca_own_row(out, p, lane, own + CA_MICRO * ca_ty() + i), acc[i], column,
                         p.width, out.vector);
        __syncthreads();
    }
}

#endif
