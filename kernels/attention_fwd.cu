/* SPDX-License-Identifier: MIT
 *
 * Attention forward: o = softmax(cap(scale q k^T)) v with a running softmax, and the log of its
 * denominators. Scores stay in registers, probabilities in shared memory.
 *
 * Source: Dao 2023, "FlashAttention-2", algorithm 1. Differs: a tile's rows are packed over the
 * query heads of a group.
 *
 * Grid: one item is (tile of ROWS packed rows, sequence, key/value head, 256 columns of o); late
 * tiles, which see the most keys, come first; blocks stride over items and leave those whole that
 * lie beyond a sequence's rows. A block owns its rows of o and lse; every sum has a fixed order.
 * Key tiles wholly outside causality and window are never loaded.
 * Block: 4 ROWS threads. Shared: tiles a (q, then probabilities) and b (k, then v), 34 KB for ROWS
 * 64, 26 KB for 32, 21 KB for 16, at every head width. Barriers: two for each chunk of 64 columns
 * of q k^T and of p v.
 *
 * Occupancy: 16 scores and 16 sums per chunk of o make registers the bound. Up to 192 columns two
 * blocks of 256 threads share a multiprocessor at 128 registers each, so that one loads while the
 * other multiplies; 256 columns take 168, so three blocks of 128 threads and tiles of 32 rows.
 *
 * FLOPs: 4 Dh for each head and visible pair, tiles at the diagonal whole. Cache traffic of a 64 x
 * 64 tile: q, k and v, 48 KB per chunk for 1 MFLOP: 12 bytes per multiprocessor and clock at full
 * f32 rate, so bound by multiply-adds. Device memory: q and o once, k and v once for each tile of
 * rows that the level 2 cache does not serve.
 */
#include "ca_attention.cuh"

constexpr int CHUNKS_MAX = 4; /* of 64 columns that a block keeps in registers */

struct forward {
    ca_layout layout;
    ca_heads o, q;
    ca_sides k, v;
    float *lse; /* [T, H] */
    int64_t lse_row;
    int64_t tiles, items;
    int column_groups; /* of CHUNKS_MAX chunks */
};

/* The running softmax of the thread's 4 rows: `top` is the same in the 16 threads of a row, `sum`
 * is the thread's own part. */
struct running {
    float top[4], sum[4];
};

/* Turns scores of keys [at, at + 64) into exp(score - top), 0 where invisible; factor[i] is what
 * sums made under the old top have to be multiplied with. Warp shuffles, no barrier. */
static __device__ __forceinline__ void soften(float s[4][4], running &state, float factor[4],
                                              const ca_layout &layout, const ca_place &p, int at) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int token = p.tokens[CA_MICRO * ca_ty() + i];
        const int position = token < 0 ? -1 : p.prefix + token;
        float top = state.top[i];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const bool visible = ca_visible(layout, position, at + ca_score_column(j));
            s[i][j] = visible ? ca_score(layout, s[i][j]) : -INFINITY;
            top = fmaxf(top, s[i][j]);
        }
        top = ca_row_max(top);
        /* equal also covers a row that has seen no key yet */
        factor[i] = state.top[i] == top ? 1.0f : expf(state.top[i] - top);
        float sum = state.sum[i] * factor[i];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const bool visible = ca_visible(layout, position, at + ca_score_column(j));
            s[i][j] = visible ? expf(s[i][j] - top) : 0.0f;
            sum += s[i][j];
        }
        state.top[i] = top;
        state.sum[i] = sum;
    }
}

template <int ROWS, int CHUNKS>
static __global__ void __launch_bounds__(4 * ROWS, (CHUNKS == CHUNKS_MAX ? 384 : 512) / (4 * ROWS))
    forward_kernel(forward f) {
    CA_SHARED(float4, a_memory, ROWS * CA_TILE_STRIDE / 4);
    CA_SHARED(float4, b_memory, CA_TILE * CA_TILE_STRIDE / 4);
    CA_SHARED(ca_place, place, 1);
    ca_place &p = place[0];
    float *a = reinterpret_cast<float *>(a_memory), *b = reinterpret_cast<float *>(b_memory);
    const int row0 = CA_MICRO * ca_ty();

    for (int64_t item = blockIdx.x; item < f.items; item += gridDim.x) {
        int64_t rest = item;
        const int column0 = (int)(rest % f.column_groups) * CHUNKS_MAX * CA_TILE;
        rest /= f.column_groups;
        const int kv_head = (int)(rest % f.layout.kv_heads);
        rest /= f.layout.kv_heads;
        const int64_t s = rest % f.layout.count,
                      first = (f.tiles - 1 - rest / f.layout.count) * ROWS;
        const int rows = ca_own_rows(f.layout, s) * (f.layout.heads / f.layout.kv_heads);
        if (first >= rows) continue;
        ca_place_at(p, f.layout, s, kv_head, f.layout.kv_heads, (int)first, ROWS);
        __syncthreads();

        running state;
        float acc[CHUNKS][4][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            state.top[i] = -INFINITY;
            state.sum[i] = 0.0f;
        }
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) ca_tile_clear(acc[c]);

        for (int at = p.start; at < p.end; at += CA_TILE) {
            float s[4][4], factor[4];
            ca_query_key_dots<ROWS>(s, a, b, p, f.q, 0, f.k, at);
            soften(s, state, factor, f.layout, p, at);
            ca_tile_store(a, s);
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) {
                const int column = column0 + c * CA_TILE;
                ca_load_keys<CA_TILE, ROWS>(b, p, f.v, at, column);
#pragma unroll
                for (int e = 0; e < 16; e++) acc[c][e / 4][e % 4] *= factor[e / 4];
                __syncthreads();
                ca_tile_mix_some(acc[c], a, b, ca_inner(p.end - at), p.width - column);
                __syncthreads();
            }
        }

#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float sum = ca_row_sum(state.sum[i]);
            const int token = p.tokens[row0 + i];
            if (token < 0) continue;
            float *row = ca_query_row(f.o, p, 0, row0 + i);
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
                for (int j = 0; j < 4; j++) acc[c][i][j] /= sum;
                ca_write_row(row, acc[c][i], column0 + c * CA_TILE, p.width, f.o.vector);
            }
            if (ca_tx() == 0 && column0 == 0)
                f.lse[(p.row + token) * f.lse_row + ca_query_head(p, row0 + i, token)] =
                    state.top[i] + logf(sum);
        }
        __syncthreads(); /* p is free again */
    }
}

/* Rows of a tile: 32 rather than 64 where wide heads fill the registers. */
template <int CHUNKS> static int launch(const ca_queue *queue, forward f, int64_t rows) {
    constexpr int MANY_ROWS = CHUNKS == CHUNKS_MAX ? CA_TILE / 2 : CA_TILE;
    const int tile = ca_tile_rows(rows, MANY_ROWS);
    f.tiles = ca_ceil_div(rows, tile);
    f.items = f.tiles * f.layout.count * f.layout.kv_heads * f.column_groups;
    if (f.items == 0) return 0;
    const unsigned grid = ca_item_grid(queue, f.items);
    if (tile == CA_FEW_ROWS)
        CA_LAUNCH((forward_kernel<CA_FEW_ROWS, CHUNKS>), grid, 4 * CA_FEW_ROWS, 0, queue->stream,
                  f);
    else
        CA_LAUNCH((forward_kernel<MANY_ROWS, CHUNKS>), grid, 4 * MANY_ROWS, 0, queue->stream, f);
    return ca_launched();
}

int ca_k_attention_fwd(const ca_queue *queue, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                       ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                       const ca_sequences *sequences, ca_attention attention) {
    forward f = {};
    f.layout = ca_layout_of(sequences, attention);
    f.o = ca_heads_of(o);
    f.q = ca_heads_of(q);
    f.k = ca_sides_of(k, prefix_k);
    f.v = ca_sides_of(v, prefix_v);
    f.lse = (float *)lse.data;
    f.lse_row = lse.stride[0];
    f.column_groups = (int)ca_ceil_div(attention.head_dim, CHUNKS_MAX * CA_TILE);
    const int64_t rows = sequences->max_rows * (attention.heads / attention.kv_heads);
    switch (ca_ceil_div(attention.head_dim, CA_TILE)) {
    case 1:
        return launch<1>(queue, f, rows);
    case 2:
        return launch<2>(queue, f, rows);
    case 3:
        return launch<3>(queue, f, rows);
    default:
        return launch<CHUNKS_MAX>(queue, f, rows);
    }
}
