/* SPDX-License-Identifier: MIT
 *
 * Attention in two steps with the probabilities (pattern) in between. Works tile by tile as
 * attention_fwd.cu and attention_bwd.cu do; pattern rows are read and written with adjacent
 * threads on adjacent keys, or 32 bytes at a time where a tile is transposed.
 *
 * Common to the kernels with ROWS: a block has 4 ROWS threads and strides over items; an item is
 * one tile of ROWS packed rows (or ROWS own keys for dk and dv), sequence, group of heads and
 * lane, and is left whole where it lies beyond the sequence's rows. A block owns the rows of its
 * outputs. Shared: tiles a and b, 34 KB (ROWS 64) or 21 KB (16). Barriers: two for each chunk of 64
 * columns of a product. Every sum has a fixed order.
 *
 * Bytes: H n (p + n) floats for a sequence of n rows on a prefix of p dominate: written once and
 * read twice by pattern_fwd, read once for each 64 columns by the others.
 */
#include "ca_attention.cuh"

constexpr int MEAN_BLOCK = 256, MEAN_WARPS = MEAN_BLOCK / CA_WARP;

struct pattern_args {
    ca_layout layout;
    float *pattern, *d_pattern; /* [N], [R, N] */
    float *mean;                /* [R, T, H]: sum of p dp over a pattern row */
    int64_t d_pattern_lane;     /* elements from lane to lane */
    ca_heads q, o, out;         /* o: output or its cotangent; out: the gradient a kernel makes */
    ca_sides sides;             /* keys or values */
    int64_t rows, lanes;        /* T, R */
    int owners;                 /* groups of heads */
    int64_t tiles, items;
};

/* The parts of an item. */
struct pattern_item {
    int64_t lane, s, tile;
    int owner;
};

static __device__ __forceinline__ pattern_item item_at(const pattern_args &g, int64_t item) {
    pattern_item x;
    x.owner = (int)(item % g.owners);
    item /= g.owners;
    x.s = item % g.layout.count;
    item /= g.layout.count;
    x.tile = item % g.tiles;
    x.lane = item / g.tiles;
    return x;
}

/* Position of row r of the tile, -1 beyond the last. */
static __device__ __forceinline__ int position_of(const ca_place &p, int r) {
    return p.tokens[r] < 0 ? -1 : p.prefix + p.tokens[r];
}

/* The thread's 4 x 4 part of the tile's rows and the keys [at, at + 64), 0 where invisible. */
static __device__ __forceinline__ void read_pattern(float x[4][4], const float *pattern,
                                                    const ca_layout &layout, const ca_place &p,
                                                    int at) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int r = CA_MICRO * ca_ty() + i, position = position_of(p, r);
        const int64_t row = position < 0 ? 0 : ca_pattern_row(p, r, p.tokens[r]);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int key = at + ca_score_column(j);
            x[i][j] = ca_visible(layout, position, key) ? pattern[row + key] : 0.0f;
        }
    }
}

/* The transpose: keys [at, at + ROWS) and the tile's 64 rows. */
static __device__ __forceinline__ void read_transposed(float x[4][4], const float *pattern,
                                                       const ca_layout &layout, const ca_place &p,
                                                       int at) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int r = ca_score_column(j), position = position_of(p, r);
        const int64_t row = position < 0 ? 0 : ca_pattern_row(p, r, p.tokens[r]);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int key = at + CA_MICRO * ca_ty() + i;
            x[i][j] = ca_visible(layout, position, key) ? pattern[row + key] : 0.0f;
        }
    }
}

/* ---- forward */

/* First pass: scores go where the probabilities will be, and each thread keeps the maximum and the
 * sum of its own; second pass: each thread turns what it wrote into probabilities, and clears the
 * keys that are invisible. */
template <int ROWS>
static __global__ void __launch_bounds__(4 * ROWS, 512 / (4 * ROWS))
    pattern_fwd_kernel(pattern_args g) {
    CA_SHARED(float4, a_memory, ROWS * CA_TILE_STRIDE / 4);
    CA_SHARED(float4, b_memory, CA_TILE * CA_TILE_STRIDE / 4);
    CA_SHARED(ca_place, place, 1);
    ca_place &p = place[0];
    float *a = reinterpret_cast<float *>(a_memory), *b = reinterpret_cast<float *>(b_memory);
    const int row0 = CA_MICRO * ca_ty();

    for (int64_t item = blockIdx.x; item < g.items; item += gridDim.x) {
        const pattern_item x = item_at(g, item);
        const int64_t first = x.tile * ROWS;
        if (first >= (int64_t)ca_own_rows(g.layout, x.s) * (g.layout.heads / g.owners)) continue;
        ca_place_at(p, g.layout, x.s, x.owner, g.owners, (int)first, ROWS);
        __syncthreads();

        float top[4], sum[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            top[i] = -INFINITY;
            sum[i] = 0.0f;
        }
        for (int at = p.start; at < p.end; at += CA_TILE) {
            float s[4][4];
            ca_query_key_dots<ROWS>(s, a, b, p, g.q, 0, g.sides, at);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int position = position_of(p, row0 + i);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const int key = at + ca_score_column(j);
                    if (!ca_visible(g.layout, position, key)) continue;
                    const float score = ca_score(g.layout, s[i][j]), high = fmaxf(top[i], score);
                    g.pattern[ca_pattern_row(p, row0 + i, p.tokens[row0 + i]) + key] = score;
                    sum[i] = sum[i] * expf(top[i] - high) + expf(score - high);
                    top[i] = high;
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int position = position_of(p, row0 + i);
            const float high = ca_row_max(top[i]);
            /* a thread that saw no key of the row adds nothing */
            const float total = ca_row_sum(sum[i] > 0.0f ? sum[i] * expf(top[i] - high) : 0.0f);
            if (position < 0) continue;
            float *row = g.pattern + ca_pattern_row(p, row0 + i, p.tokens[row0 + i]);
            for (int key = ca_tx(); key < p.prefix + p.own; key += 16)
                row[key] =
                    ca_visible(g.layout, position, key) ? expf(row[key] - high) / total : 0.0f;
        }
        __syncthreads(); /* p is free again */
    }
}

/* ---- o = pattern v */

template <int ROWS>
static __global__ void __launch_bounds__(4 * ROWS, 512 / (4 * ROWS))
    apply_fwd_kernel(pattern_args g) {
    CA_SHARED(float4, a_memory, ROWS * CA_TILE_STRIDE / 4);
    CA_SHARED(float4, b_memory, CA_TILE * CA_TILE_STRIDE / 4);
    CA_SHARED(ca_place, place, 1);
    ca_place &p = place[0];
    float *a = reinterpret_cast<float *>(a_memory), *b = reinterpret_cast<float *>(b_memory);

    for (int64_t item = blockIdx.x; item < g.items; item += gridDim.x) {
        const pattern_item x = item_at(g, item);
        const int64_t first = x.tile * ROWS;
        if (first >= (int64_t)ca_own_rows(g.layout, x.s) * (g.layout.heads / g.owners)) continue;
        ca_place_at(p, g.layout, x.s, x.owner, g.owners, (int)first, ROWS);
        __syncthreads();

        for (int at = p.start; at < p.end; at += CA_TILE) {
            float weight[4][4];
            read_pattern(weight, g.pattern, g.layout, p, at);
            ca_mix_keys<ROWS>(g.out, 0, at == p.start, a, b, weight, p, g.sides, at);
        }
        __syncthreads(); /* p is free again */
    }
}

/* d_pattern = d_o v^T, 0 where invisible; all keys, since every element is written. */
template <int ROWS>
static __global__ void __launch_bounds__(4 * ROWS, 512 / (4 * ROWS))
    d_pattern_kernel(pattern_args g) {
    CA_SHARED(float4, a_memory, ROWS * CA_TILE_STRIDE / 4);
    CA_SHARED(float4, b_memory, CA_TILE * CA_TILE_STRIDE / 4);
    CA_SHARED(ca_place, place, 1);
    ca_place &p = place[0];
    float *a = reinterpret_cast<float *>(a_memory), *b = reinterpret_cast<float *>(b_memory);
    const int row0 = CA_MICRO * ca_ty();

    for (int64_t item = blockIdx.x; item < g.items; item += gridDim.x) {
        const pattern_item x = item_at(g, item);
        const int64_t first = x.tile * ROWS;
        if (first >= (int64_t)ca_own_rows(g.layout, x.s) * (g.layout.heads / g.owners)) continue;
        ca_place_at(p, g.layout, x.s, x.owner, g.owners, (int)first, ROWS);
        __syncthreads();

        float *d_pattern = g.d_pattern + x.lane * g.d_pattern_lane;
        for (int at = 0; at < p.prefix + p.own; at += CA_TILE) {
            float s[4][4];
            if (at >= p.start && at < p.end)
                ca_query_key_dots<ROWS>(s, a, b, p, g.o, x.lane, g.sides, at);
            else
                ca_tile_clear(s);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int position = position_of(p, row0 + i);
                if (position < 0) continue;
                float *row = d_pattern + ca_pattern_row(p, row0 + i, p.tokens[row0 + i]);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const int key = at + ca_score_column(j);
                    if (key < p.prefix + p.own)
                        row[key] = ca_visible(g.layout, position, key) ? s[i][j] : 0.0f;
                }
            }
        }
        __syncthreads(); /* p is free again */
    }
}

/* One past the last packed row that sees one of the own keys [key0, key0 + count). */
static __device__ __forceinline__ int rows_end(const ca_layout &layout, int own, int group,
                                               int key0, int count) {
    const int64_t end = (int64_t)key0 + count - 1 + layout.window;
    return (int)(end < own ? end : own) * group;
}

/* dv = pattern^T d_o for the tile's own keys. */
template <int ROWS>
static __global__ void __launch_bounds__(4 * ROWS, 512 / (4 * ROWS)) dv_kernel(pattern_args g) {
    CA_SHARED(float4, a_memory, ROWS * CA_TILE_STRIDE / 4);
    CA_SHARED(float4, b_memory, CA_TILE * CA_TILE_STRIDE / 4);
    CA_SHARED(ca_place, place, 1);
    ca_place &p = place[0];
    float *a = reinterpret_cast<float *>(a_memory), *b = reinterpret_cast<float *>(b_memory);

    for (int64_t item = blockIdx.x; item < g.items; item += gridDim.x) {
        const pattern_item x = item_at(g, item);
        const int own = ca_own_rows(g.layout, x.s), group = g.layout.heads / g.owners;
        const int key0 = (int)x.tile * ROWS, begin = key0 * group;
        if (key0 >= own) continue;
        const int end = rows_end(g.layout, own, group, key0, ROWS);
        for (int first = begin; first < end; first += CA_TILE) {
            ca_place_at(p, g.layout, x.s, x.owner, g.owners, first, CA_TILE);
            __syncthreads();
            float weight[4][4];
            read_transposed(weight, g.pattern, g.layout, p, p.prefix + key0);
            ca_mix_queries<ROWS>(g.out, x.lane, key0, first == begin, a, b, weight, p, g.o);
            __syncthreads(); /* p is free again */
        }
    }
}

/* ---- backward of the softmax and the scores: ds = score' p (dp - mean) */

/* One warp owns the mean of a (lane, row, head): reads its rows of p and dp once. A tile is one
 * row for each warp; grid: strides over items, here of single heads. No shared memory, no
 * barrier. */
static __global__ void __launch_bounds__(MEAN_BLOCK) mean_kernel(pattern_args g) {
    const int lane = (int)threadIdx.x % CA_WARP, warp = (int)threadIdx.x / CA_WARP;
    for (int64_t item = blockIdx.x; item < g.items; item += gridDim.x) {
        const pattern_item x = item_at(g, item);
        const int64_t row0 = g.layout.row_start[x.s];
        const int own = ca_own_rows(g.layout, x.s), prefix = (int)g.layout.prefix_rows[x.s];
        const int64_t t = x.tile * MEAN_WARPS + warp;
        if (t >= own) continue;
        const int64_t at = g.layout.heads * g.layout.pattern_start[x.s] +
                           ((int64_t)x.owner * own + t) * ((int64_t)prefix + own);
        const float *row = g.pattern + at, *d_row = g.d_pattern + x.lane * g.d_pattern_lane + at;
        const int position = prefix + (int)t;
        const int first = position < g.layout.window ? 0 : position - g.layout.window + 1;
        float sum = 0.0f;
        for (int key = first + lane; key <= position; key += CA_WARP) sum += row[key] * d_row[key];
        sum = ca_warp_sum(sum);
        if (lane == 0) g.mean[(x.lane * g.rows + row0 + t) * g.layout.heads + x.owner] = sum;
    }
}

static __device__ __forceinline__ float mean_of(const pattern_args &g, const ca_place &p,
                                                int64_t lane, int r) {
    const int token = p.tokens[r];
    return token < 0 ? 0.0f
                     : g.mean[(lane * g.rows + p.row + token) * g.layout.heads +
                              ca_query_head(p, r, token)];
}

/* dq = ds k. Scores are made again only for the slope of a cap. */
template <int ROWS>
static __global__ void __launch_bounds__(4 * ROWS, 512 / (4 * ROWS)) dq_kernel(pattern_args g) {
    CA_SHARED(float4, a_memory, ROWS * CA_TILE_STRIDE / 4);
    CA_SHARED(float4, b_memory, CA_TILE * CA_TILE_STRIDE / 4);
    CA_SHARED(ca_place, place, 1);
    ca_place &p = place[0];
    float *a = reinterpret_cast<float *>(a_memory), *b = reinterpret_cast<float *>(b_memory);

    for (int64_t item = blockIdx.x; item < g.items; item += gridDim.x) {
        const pattern_item x = item_at(g, item);
        const int64_t first = x.tile * ROWS;
        if (first >= (int64_t)ca_own_rows(g.layout, x.s) * (g.layout.heads / g.owners)) continue;
        ca_place_at(p, g.layout, x.s, x.owner, g.owners, (int)first, ROWS);
        __syncthreads();

        const float *d_pattern = g.d_pattern + x.lane * g.d_pattern_lane;
        for (int at = p.start; at < p.end; at += CA_TILE) {
            float ds[4][4], weight[4][4], dots[4][4];
            if (g.layout.cap > 0.0f)
                ca_query_key_dots<ROWS>(dots, a, b, p, g.q, 0, g.sides, at);
            else
                ca_tile_clear(dots);
            read_pattern(weight, g.pattern, g.layout, p, at);
            read_pattern(ds, d_pattern, g.layout, p, at);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float mean = mean_of(g, p, x.lane, CA_MICRO * ca_ty() + i);
#pragma unroll
                for (int j = 0; j < 4; j++)
                    ds[i][j] = weight[i][j] * (ds[i][j] - mean) *
                               ca_score_slope(g.layout, ca_score(g.layout, dots[i][j]));
            }
            ca_mix_keys<ROWS>(g.out, x.lane, at == p.start, a, b, ds, p, g.sides, at);
        }
        __syncthreads(); /* p is free again */
    }
}

/* dk = ds^T q for the tile's own keys. */
template <int ROWS>
static __global__ void __launch_bounds__(4 * ROWS, 512 / (4 * ROWS)) dk_kernel(pattern_args g) {
    CA_SHARED(float4, a_memory, ROWS * CA_TILE_STRIDE / 4);
    CA_SHARED(float4, b_memory, CA_TILE * CA_TILE_STRIDE / 4);
    CA_SHARED(ca_place, place, 1);
    ca_place &p = place[0];
    float *a = reinterpret_cast<float *>(a_memory), *b = reinterpret_cast<float *>(b_memory);

    for (int64_t item = blockIdx.x; item < g.items; item += gridDim.x) {
        const pattern_item x = item_at(g, item);
        const int own = ca_own_rows(g.layout, x.s), group = g.layout.heads / g.owners;
        const int key0 = (int)x.tile * ROWS, begin = key0 * group;
        if (key0 >= own) continue;
        const float *d_pattern = g.d_pattern + x.lane * g.d_pattern_lane;
        const int end = rows_end(g.layout, own, group, key0, ROWS);
        for (int first = begin; first < end; first += CA_TILE) {
            ca_place_at(p, g.layout, x.s, x.owner, g.owners, first, CA_TILE);
            __syncthreads();
            const int at = p.prefix + key0;
            float ds[4][4], weight[4][4], dots[4][4];
            if (g.layout.cap > 0.0f)
                ca_key_query_dots<ROWS>(dots, a, b, p, g.sides, at, g.q, 0);
            else
                ca_tile_clear(dots);
            read_transposed(weight, g.pattern, g.layout, p, at);
            read_transposed(ds, d_pattern, g.layout, p, at);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float mean = mean_of(g, p, x.lane, ca_score_column(j));
#pragma unroll
                for (int i = 0; i < 4; i++)
                    ds[i][j] = weight[i][j] * (ds[i][j] - mean) *
                               ca_score_slope(g.layout, ca_score(g.layout, dots[i][j]));
            }
            ca_mix_queries<ROWS>(g.out, x.lane, key0, first == begin, a, b, ds, p, g.q);
            __syncthreads(); /* p is free again */
        }
    }
}

/* ---- launchers */

static pattern_args arguments_of(ca_tensor pattern, const ca_sequences *sequences,
                                 ca_attention attention) {
    pattern_args g = {};
    g.layout = ca_layout_of(sequences, attention);
    g.pattern = (float *)pattern.data;
    g.rows = sequences->rows;
    g.lanes = 1;
    return g;
}

/* Launches kernel<ROWS> for tiles of `rows` rows of each of `owners` groups, sequences and
 * lanes. */
#define LAUNCH_TILES(kernel, queue, g, groups, tile_rows_of)                                       \
    do {                                                                                           \
        const int tile = ca_tile_rows(tile_rows_of, CA_TILE);                                      \
        g.owners = (int)(groups);                                                                  \
        g.tiles = ca_ceil_div(tile_rows_of, tile);                                                 \
        g.items = g.tiles * g.owners * g.layout.count * g.lanes;                                   \
        if (tile == CA_TILE)                                                                       \
            CA_LAUNCH((kernel<CA_TILE>), ca_item_grid(queue, g.items), 4 * CA_TILE, 0,             \
                      queue->stream, g);                                                           \
        else                                                                                       \
            CA_LAUNCH((kernel<CA_FEW_ROWS>), ca_item_grid(queue, g.items), 4 * CA_FEW_ROWS, 0,     \
                      queue->stream, g);                                                           \
    } while (0)

/* Packed rows of the longest sequence. */
static int64_t packed_rows(const ca_sequences *sequences, ca_attention attention) {
    return sequences->max_rows * (attention.heads / attention.kv_heads);
}

int ca_k_pattern_fwd(const ca_queue *queue, ca_tensor pattern, ca_tensor q, ca_tensor k,
                     ca_tensor prefix_k, const ca_sequences *sequences, ca_attention attention) {
    pattern_args g = arguments_of(pattern, sequences, attention);
    if (g.rows == 0) return 0;
    g.q = ca_heads_of(q);
    g.sides = ca_sides_of(k, prefix_k);
    LAUNCH_TILES(pattern_fwd_kernel, queue, g, attention.kv_heads,
                 packed_rows(sequences, attention));
    return ca_launched();
}

int ca_k_pattern_bwd(const ca_queue *queue, ca_tensor dq, ca_tensor dk, ca_tensor d_pattern,
                     ca_tensor pattern, ca_tensor q, ca_tensor k, ca_tensor prefix_k,
                     const ca_sequences *sequences, ca_attention attention) {
    pattern_args g = arguments_of(pattern, sequences, attention);
    g.lanes = dq.shape[0];
    if (g.rows * g.lanes == 0) return 0;
    if (g.lanes * g.rows * attention.heads > queue->scratch_count)
        return (int)cudaErrorInvalidValue;
    g.d_pattern = (float *)d_pattern.data;
    g.d_pattern_lane = d_pattern.stride[0];
    g.mean = queue->scratch;
    g.q = ca_heads_of(q);
    g.sides = ca_sides_of(k, prefix_k);

    g.owners = (int)attention.heads;
    g.tiles = ca_ceil_div(sequences->max_rows, MEAN_WARPS);
    g.items = g.tiles * g.owners * g.layout.count * g.lanes;
    CA_LAUNCH(mean_kernel, ca_item_grid(queue, g.items), MEAN_BLOCK, 0, queue->stream, g);
    g.out = ca_heads_of(dq);
    LAUNCH_TILES(dq_kernel, queue, g, attention.kv_heads, packed_rows(sequences, attention));
    g.out = ca_heads_of(dk);
    LAUNCH_TILES(dk_kernel, queue, g, dk.shape[2], sequences->max_rows);
    return ca_launched();
}

int ca_k_pattern_apply_fwd(const ca_queue *queue, ca_tensor o, ca_tensor pattern, ca_tensor v,
                           ca_tensor prefix_v, const ca_sequences *sequences,
                           ca_attention attention) {
    pattern_args g = arguments_of(pattern, sequences, attention);
    if (g.rows == 0) return 0;
    g.out = ca_heads_of(o);
    g.sides = ca_sides_of(v, prefix_v);
    LAUNCH_TILES(apply_fwd_kernel, queue, g, attention.kv_heads, packed_rows(sequences, attention));
    return ca_launched();
}

int ca_k_pattern_apply_bwd(const ca_queue *queue, ca_tensor d_pattern, ca_tensor dv, ca_tensor d_o,
                           ca_tensor pattern, ca_tensor v, ca_tensor prefix_v,
                           const ca_sequences *sequences, ca_attention attention) {
    pattern_args g = arguments_of(pattern, sequences, attention);
    g.lanes = d_o.shape[0];
    if (g.rows * g.lanes == 0) return 0;
    g.d_pattern = (float *)d_pattern.data;
    g.d_pattern_lane = d_pattern.stride[0];
    g.o = ca_heads_of(d_o);
    g.sides = ca_sides_of(v, prefix_v);
    LAUNCH_TILES(d_pattern_kernel, queue, g, attention.kv_heads, packed_rows(sequences, attention));
    g.out = ca_heads_of(dv);
    LAUNCH_TILES(dv_kernel, queue, g, dv.shape[2], sequences->max_rows);
    return ca_launched();
}
