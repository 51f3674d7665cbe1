/* SPDX-License-Identifier: MIT
 *
 * Attention forward on tensor cores: as attention_fwd.cu, but q, k, v and the probabilities (before
 * their division by the sum) are rounded to bf16 on the way into the products. Scores, the running
 * softmax and all sums are f32.
 *
 * Grid: one item is (tile of 64 packed rows, sequence, key/value head); late tiles first; blocks
 * stride over items. A block owns its rows of o and lse, a warp 16 of them; every sum has a fixed
 * order. Block: 128 threads. Shared: k and v of 64 keys, 17 KB for heads up to 64 wide, 34 KB up to
 * 128, the limit. The rows of q pass through the tile of k into registers. Barriers: two for each
 * tile of keys.
 *
 * FLOPs: 4 Dh for each head and visible pair, tiles at the diagonal whole.
 */
#include "ca_attention.cuh"
#include "ca_mma.cuh"

constexpr int THREADS = 128, WARP_ROWS = 16, ROWS = THREADS / CA_WARP * WARP_ROWS;

/* Shared tiles in words of two bf16. k: [64, WIDTH / 2], neighbours of a row in a word. v: [32,
 * WIDTH], neighbours of a column in a word: what a thread needs of b. The padding keeps the 32
 * accesses of a warp in different banks. */
template <int WIDTH> struct tile {
    static constexpr int K_STRIDE = WIDTH / 2 + 4, V_STRIDE = WIDTH + 8;
    static constexpr int K_WORDS = CA_TILE * K_STRIDE, V_WORDS = CA_TILE / 2 * V_STRIDE;
};

struct forward_bf16 {
    ca_layout layout;
    ca_heads o, q;
    ca_sides k, v;
    float *lse; /* [T, H] */
    int64_t lse_row;
    int64_t tiles, items;
};

/* Key number `key` from the first prefix key; NULL behind the last one. */
static __device__ __forceinline__ const float *key_row(const ca_sides &x, const ca_place &p,
                                                       int key) {
    if (key >= p.prefix + p.own) return nullptr;
    const bool own = key >= p.prefix;
    const ca_heads &side = own ? x.own : x.prefix;
    return side.data + (own ? p.row + key - p.prefix : p.prefix_row + key) * side.row +
           p.kv_head * side.head;
}

/* The rows of q, or 64 keys from `at` on when k is given. The caller synchronises around it. */
template <int WIDTH>
static __device__ __forceinline__ void load_rows(uint32_t *to, const ca_place &p, const ca_heads &q,
                                                 const ca_sides *k, int at) {
    constexpr int FOURS = WIDTH / 4;
    const bool vector = k ? k->own.vector && (!k->prefix.data || k->prefix.vector) : q.vector;
#pragma unroll 4
    for (int i = (int)threadIdx.x; i < CA_TILE * FOURS; i += THREADS) {
        const int r = i / FOURS, column = i % FOURS * 4;
        const float *row = k ? key_row(*k, p, at + r) : ca_query_row(q, p, 0, r);
        const float4 x = ca_load_four(row, column, p.width, vector);
        uint32_t *word = to + r * tile<WIDTH>::K_STRIDE + column / 2;
        word[0] = ca_pack_bf16(x.x, x.y);
        word[1] = ca_pack_bf16(x.z, x.w);
    }
}

template <int WIDTH>
static __device__ __forceinline__ void load_values(uint32_t *to, const ca_place &p,
                                                   const ca_sides &v, int at) {
    constexpr int FOURS = WIDTH / 4;
    const bool vector = v.own.vector && (!v.prefix.data || v.prefix.vector);
#pragma unroll 2
    for (int i = (int)threadIdx.x; i < CA_TILE / 2 * FOURS; i += THREADS) {
        const int pair = i / FOURS, column = i % FOURS * 4;
        const float4 x = ca_load_four(key_row(v, p, at + 2 * pair), column, p.width, vector);
        const float4 y = ca_load_four(key_row(v, p, at + 2 * pair + 1), column, p.width, vector);
        uint32_t *word = to + pair * tile<WIDTH>::V_STRIDE + column;
        word[0] = ca_pack_bf16(x.x, y.x);
        word[1] = ca_pack_bf16(x.y, y.y);
        word[2] = ca_pack_bf16(x.z, y.z);
        word[3] = ca_pack_bf16(x.w, y.w);
    }
}

/* Over the 4 threads that share a row, in each of them. The whole warp calls them together. */
static __device__ __forceinline__ float row_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(CA_FULL_WARP, v, 1));
    return fmaxf(v, __shfl_xor_sync(CA_FULL_WARP, v, 2));
}
static __device__ __forceinline__ float row_sum(float v) {
    v += __shfl_xor_sync(CA_FULL_WARP, v, 1);
    return v + __shfl_xor_sync(CA_FULL_WARP, v, 2);
}

/* The running softmax of the thread's 2 rows, g and g + 8 of its warp's. */
struct running_rows {
    float top[2], sum[2];
    int position[2]; /* -1: no row */
};

/* s [8 tiles of 8 keys] += q k^T */
template <int WIDTH>
static __device__ __forceinline__ void score(float s[8][4], const uint32_t q[WIDTH / 16][4],
                                             const uint32_t *k, int g, int t) {
#pragma unroll
    for (int n = 0; n < 8; n++) {
        const uint32_t *row = k + (8 * n + g) * tile<WIDTH>::K_STRIDE + t;
#pragma unroll
        for (int i = 0; i < 4; i++) s[n][i] = 0.0f;
#pragma unroll
        for (int d = 0; d < WIDTH / 16; d++) {
            const uint32_t b[2] = {row[8 * d], row[8 * d + 4]};
            ca_mma(s[n], q[d], b);
        }
    }
}

/* Turns scores of keys from `at` on into exp(score - top), 0 where invisible; factor[i] is what
 * sums made under the old top have to be multiplied with. */
static __device__ __forceinline__ void soften(float s[8][4], running_rows &state, float factor[2],
                                              const ca_layout &layout, int at, int t) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float top = state.top[i];
#pragma unroll
        for (int e = 0; e < 16; e++) {
            float &x = s[e / 2][2 * i + e % 2];
            const bool visible =
                ca_visible(layout, state.position[i], at + 8 * (e / 2) + 2 * t + e % 2);
            x = visible ? ca_score(layout, x) : -INFINITY;
            top = fmaxf(top, x);
        }
        top = row_max(top);
        /* equal also covers a row that has seen no key yet */
        factor[i] = state.top[i] == top ? 1.0f : expf(state.top[i] - top);
        float sum = state.sum[i] * factor[i];
#pragma unroll
        for (int e = 0; e < 16; e++) {
            float &x = s[e / 2][2 * i + e % 2];
            x = x == -INFINITY ? 0.0f : expf(x - top);
            sum += x;
        }
        state.top[i] = top;
        state.sum[i] = sum;
    }
}

/* o [WIDTH / 8 tiles of 8 columns] = factor o + p v */
template <int WIDTH>
static __device__ __forceinline__ void mix(float o[WIDTH / 8][4], const float s[8][4],
                                           const float factor[2], const uint32_t *v, int g, int t) {
#pragma unroll
    for (int n = 0; n < WIDTH / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) o[n][i] *= factor[i / 2];
#pragma unroll
    for (int k = 0; k < 4; k++) { /* 16 keys: two tiles of scores are one of a */
        const float *low = s[2 * k], *high = s[2 * k + 1];
        const uint32_t a[4] = {ca_pack_bf16(low[0], low[1]), ca_pack_bf16(low[2], low[3]),
                               ca_pack_bf16(high[0], high[1]), ca_pack_bf16(high[2], high[3])};
        const uint32_t *pair = v + (8 * k + t) * tile<WIDTH>::V_STRIDE + g;
#pragma unroll
        for (int n = 0; n < WIDTH / 8; n++) {
            const uint32_t b[2] = {pair[8 * n], pair[4 * tile<WIDTH>::V_STRIDE + 8 * n]};
            ca_mma(o[n], a, b);
        }
    }
}

template <int WIDTH>
static __device__ __forceinline__ void write_rows(const forward_bf16 &f, const ca_place &p,
                                                  const running_rows &state, float o[WIDTH / 8][4],
                                                  int row0, int t) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float sum = row_sum(state.sum[i]);
        const int r = row0 + 8 * i, token = p.tokens[r];
        if (token < 0) continue;
        float *row = ca_query_row(f.o, p, 0, r);
#pragma unroll
        for (int e = 0; e < WIDTH / 4; e++) {
            const int column = 8 * (e / 2) + 2 * t + e % 2;
            if (column < p.width) row[column] = o[e / 2][2 * i + e % 2] / sum;
        }
        if (t == 0)
            f.lse[(p.row + token) * f.lse_row + ca_query_head(p, r, token)] =
                state.top[i] + logf(sum);
    }
}

template <int WIDTH>
static __global__ void __launch_bounds__(THREADS, WIDTH > 64 ? 2 : 3)
    forward_bf16_kernel(forward_bf16 f) {
    CA_SHARED(uint32_t, k_tile, tile<WIDTH>::K_WORDS);
    CA_SHARED(uint32_t, v_tile, tile<WIDTH>::V_WORDS);
    CA_SHARED(ca_place, place, 1);
    ca_place &p = place[0];
    const int lane = (int)threadIdx.x % CA_WARP, g = lane / 4, t = lane % 4;
    const int row0 = (int)threadIdx.x / CA_WARP * WARP_ROWS + g;

    for (int64_t item = blockIdx.x; item < f.items; item += gridDim.x) {
        const int kv_head = (int)(item % f.layout.kv_heads);
        const int64_t rest = item / f.layout.kv_heads, s = rest % f.layout.count;
        const int64_t first = (f.tiles - 1 - rest / f.layout.count) * ROWS;
        if (first >= ca_own_rows(f.layout, s) * (f.layout.heads / f.layout.kv_heads)) continue;
        ca_place_at(p, f.layout, s, kv_head, f.layout.kv_heads, (int)first, ROWS);
        __syncthreads();
        load_rows<WIDTH>(k_tile, p, f.q, nullptr, 0);
        __syncthreads();

        uint32_t q[WIDTH / 16][4];
        float o[WIDTH / 8][4] = {};
        running_rows state;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int token = p.tokens[row0 + 8 * i];
            state.top[i] = -INFINITY;
            state.sum[i] = 0.0f;
            state.position[i] = token < 0 ? -1 : p.prefix + token;
        }
#pragma unroll
        for (int e = 0; e < WIDTH / 4; e++)
            q[e / 4][e % 4] =
                k_tile[(row0 + e % 2 * 8) * tile<WIDTH>::K_STRIDE + e / 4 * 8 + e % 4 / 2 * 4 + t];

        for (int at = p.start; at < p.end; at += CA_TILE) {
            float scores[8][4], factor[2];
            __syncthreads(); /* the tiles are free */
            load_rows<WIDTH>(k_tile, p, f.q, &f.k, at);
            load_values<WIDTH>(v_tile, p, f.v, at);
            __syncthreads();
            score<WIDTH>(scores, q, k_tile, g, t);
            soften(scores, state, factor, f.layout, at, t);
            mix<WIDTH>(o, scores, factor, v_tile, g, t);
        }
        write_rows<WIDTH>(f, p, state, o, row0, t);
        __syncthreads(); /* p and the tiles are free */
    }
}

int ca_k_attention_fwd_bf16(const ca_queue *queue, ca_tensor o, ca_tensor lse, ca_tensor q,
                            ca_tensor k, ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                            const ca_sequences *sequences, ca_attention attention) {
    forward_bf16 f = {};
    if (attention.head_dim > CA_K_ATTENTION_BF16_WIDTH) return (int)cudaErrorInvalidValue;
    f.layout = ca_layout_of(sequences, attention);
    f.o = ca_heads_of(o);
    f.q = ca_heads_of(q);
    f.k = ca_sides_of(k, prefix_k);
    f.v = ca_sides_of(v, prefix_v);
    f.lse = (float *)lse.data;
    f.lse_row = lse.stride[0];
    f.tiles = ca_ceil_div(sequences->max_rows * (attention.heads / attention.kv_heads), ROWS);
    f.items = f.tiles * sequences->count * attention.kv_heads;
    if (f.items == 0) return 0;
    if (attention.head_dim <= CA_TILE)
        CA_LAUNCH((forward_bf16_kernel<CA_TILE>), ca_item_grid(queue, f.items), THREADS, 0,
                  queue->stream, f);
    else
        CA_LAUNCH((forward_bf16_kernel<2 * CA_TILE>), ca_item_grid(queue, f.items), THREADS, 0,
                  queue->stream, f);
    return ca_launched();
}
