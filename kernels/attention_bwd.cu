/* SPDX-License-Identifier: MIT
 *
 * Attention backward for many cotangents (lanes) against one forward. Probabilities are recomputed
 * from q, k and lse, once for all lanes that a block takes:
 *
 *   P = exp(score - lse)    dP = dO V^T    dS = score' P (dP - delta)    delta = rowsum(dO O)
 *   dQ = dS K               dK = dS^T Q    dV = P^T dO
 *
 * Source: Dao et al. 2022, "FlashAttention", algorithm 4. Differs: dQ has a kernel of its own, so
 * that no sum needs atomics; sums of a tile live in the output between two tiles, so that neither
 * lanes nor head width are bounded by registers. The prefix is constant: dQ sees it, and it gets
 * no gradient.
 *
 * Every element of dq, dk, dv belongs to one thread, which adds its terms in one order: rising
 * keys for dq, rising packed rows for dk and dv. The same bits for any grid.
 *
 * FLOPs for each lane, head and visible pair: 4 Dh (dQ) and 6 Dh (dK, dV), and for each block of
 * lanes another 2 Dh in each kernel for the scores. Cache traffic of a 64 x 64 tile and a lane:
 * five (dQ) and eight (dK, dV) blocks of 64 x Dh floats against 2 and 3 products of 64 x 64 x Dh:
 * 20 bytes per multiprocessor and clock at full f32 rate, about half of them repeats that the
 * level 1 cache serves. Occupancy: two blocks of 256 threads at 128 registers on a multiprocessor.
 */
#include "ca_attention.cuh"

constexpr int DELTA_BLOCK = 256, DELTA_WARPS = DELTA_BLOCK / CA_WARP;

struct backward {
    ca_layout layout;
    ca_heads dq, dk, dv, d_o, q;
    ca_sides k, v;
    const float *lse, *delta; /* [T, H], [R, T, H] */
    int64_t lse_row, rows;    /* rows: T */
    int lanes, lanes_per_block;
    int owners; /* heads of dk and dv */
    int64_t tiles, items;
};

/* One warp owns delta of a (lane, row, head): reads d_o and o once. No shared memory, no
 * barrier. Grid: strides over rows of d_o. */
static __global__ void __launch_bounds__(DELTA_BLOCK)
    delta_kernel(float *delta, ca_rows d_o, ca_rows o) {
    const int lane = (int)threadIdx.x % CA_WARP;
    int64_t row = (int64_t)blockIdx.x * DELTA_WARPS + (int)threadIdx.x / CA_WARP;
    for (; row < d_o.rows; row += (int64_t)gridDim.x * DELTA_WARPS) {
        const float *x = static_cast<const float *>(d_o.data) + ca_row_offset(d_o, row);
        const float *y = static_cast<const float *>(o.data) + ca_row_offset(o, row % o.rows);
        float sum = 0.0f;
        for (int64_t i = lane; i < d_o.width; i += CA_WARP) sum += x[i] * y[i];
        sum = ca_warp_sum(sum);
        if (lane == 0) delta[row] = sum;
    }
}

/* Row r of the tile, of a [rows, heads] array without gaps between heads. */
static __device__ __forceinline__ float of_row(const float *x, int64_t stride, const ca_place &p,
                                               int r) {
    const int token = p.tokens[r];
    return token < 0 ? 0.0f : x[(p.row + token) * stride + ca_query_head(p, r, token)];
}

/* Grid: one item is (tile of ROWS packed rows, sequence, key/value head, block of lanes), late
 * tiles first; blocks stride over items and leave those whole that lie beyond a sequence's rows. A
 * block owns its rows of dq. Block: 4 ROWS threads. Shared: tiles a (q, d_o, dS) and b (k, v, k),
 * 34 KB or 21 KB. Barriers: two for each chunk of 64 columns of a product. */
template <int ROWS>
static __global__ void __launch_bounds__(4 * ROWS, 512 / (4 * ROWS)) dq_kernel(backward g) {
    CA_SHARED(float4, a_memory, ROWS * CA_TILE_STRIDE / 4);
    CA_SHARED(float4, b_memory, CA_TILE * CA_TILE_STRIDE / 4);
    CA_SHARED(ca_place, place, 1);
    ca_place &p = place[0];
    float *a = reinterpret_cast<float *>(a_memory), *b = reinterpret_cast<float *>(b_memory);
    const int row0 = CA_MICRO * ca_ty(), kv_heads = g.layout.kv_heads;

    for (int64_t item = blockIdx.x; item < g.items; item += gridDim.x) {
        const int lane_blocks = (g.lanes + g.lanes_per_block - 1) / g.lanes_per_block;
        const int lane0 = (int)(item % lane_blocks) * g.lanes_per_block;
        const int lane1 = min(lane0 + g.lanes_per_block, g.lanes);
        const int64_t tile = item / lane_blocks;
        const int64_t s = tile / kv_heads % g.layout.count;
        const int64_t first = (g.tiles - 1 - tile / kv_heads / g.layout.count) * ROWS;
        if (first >= (int64_t)ca_own_rows(g.layout, s) * (g.layout.heads / kv_heads)) continue;
        ca_place_at(p, g.layout, s, (int)(tile % kv_heads), kv_heads, (int)first, ROWS);
        __syncthreads();

        for (int at = p.start; at < p.end; at += CA_TILE) {
            float slope[4][4]; /* P score' */
            ca_query_key_dots<ROWS>(slope, a, b, p, g.q, 0, g.k, at);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int token = p.tokens[row0 + i], position = token < 0 ? -1 : p.prefix + token;
                const float lse = of_row(g.lse, g.lse_row, p, row0 + i);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float score = ca_score(g.layout, slope[i][j]);
                    const bool visible = ca_visible(g.layout, position, at + ca_score_column(j));
                    slope[i][j] =
                        visible ? expf(score - lse) * ca_score_slope(g.layout, score) : 0.0f;
                }
            }
            for (int lane = lane0; lane < lane1; lane++) {
                float ds[4][4];
                ca_query_key_dots<ROWS>(ds, a, b, p, g.d_o, lane, g.v, at);
                const float *delta = g.delta + (int64_t)lane * g.rows * g.layout.heads;
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float mean = of_row(delta, g.layout.heads, p, row0 + i);
#pragma unroll
                    for (int j = 0; j < 4; j++) ds[i][j] = slope[i][j] * (ds[i][j] - mean);
                }
                ca_mix_keys<ROWS>(g.dq, lane, at == p.start, a, b, ds, p, g.k, at);
            }
        }
        __syncthreads(); /* p is free again */
    }
}

/* Grid: one item is (tile of ROWS own keys, sequence, head of dk and dv, block of lanes), early
 * tiles, which most rows see, first. A block owns its rows of dk and dv and loops over the packed
 * rows, 64 at a time, that see them. Block: 4 ROWS threads. Shared: tiles a (k, v, dS^T, P^T) and b
 * (q, d_o, q, d_o), 34 KB or 21 KB. Barriers: two for each chunk of 64 columns of a product. */
template <int ROWS>
static __global__ void __launch_bounds__(4 * ROWS, ROWS == CA_TILE ? 2 : 6)
    dk_dv_kernel(backward g) {
    CA_SHARED(float4, a_memory, ROWS * CA_TILE_STRIDE / 4);
    CA_SHARED(float4, b_memory, CA_TILE * CA_TILE_STRIDE / 4);
    CA_SHARED(ca_place, place, 1);
    ca_place &p = place[0];
    float *a = reinterpret_cast<float *>(a_memory), *b = reinterpret_cast<float *>(b_memory);

    for (int64_t item = blockIdx.x; item < g.items; item += gridDim.x) {
        const int lane_blocks = (g.lanes + g.lanes_per_block - 1) / g.lanes_per_block;
        const int lane0 = (int)(item % lane_blocks) * g.lanes_per_block;
        const int lane1 = min(lane0 + g.lanes_per_block, g.lanes);
        const int64_t tile = item / lane_blocks;
        const int owner = (int)(tile % g.owners), group = g.layout.heads / g.owners;
        const int64_t s = tile / g.owners % g.layout.count;
        const int key0 = (int)(tile / g.owners / g.layout.count) * ROWS; /* among the own keys */
        const int own = ca_own_rows(g.layout, s);
        if (key0 >= own) continue;
        /* one past the last row that sees one of the keys */
        const int64_t window_end = (int64_t)key0 + ROWS - 1 + g.layout.window;
        const int end = (int)(window_end < own ? window_end : own) * group;

        for (int first = key0 * group; first < end; first += CA_TILE) {
            ca_place_at(p, g.layout, s, owner, g.owners, first, CA_TILE);
            __syncthreads();
            const bool new_sums = first == key0 * group;
            const int at = p.prefix + key0;
            float weight[4][4], slope[4][4]; /* P^T, P^T score' */
            ca_key_query_dots<ROWS>(slope, a, b, p, g.k, at, g.q, 0);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int r = ca_score_column(j), token = p.tokens[r];
                const int position = token < 0 ? -1 : p.prefix + token;
                const float lse = of_row(g.lse, g.lse_row, p, r);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float score = ca_score(g.layout, slope[i][j]);
                    const bool visible =
                        ca_visible(g.layout, position, at + CA_MICRO * ca_ty() + i);
                    weight[i][j] = visible ? expf(score - lse) : 0.0f;
                    slope[i][j] = visible ? weight[i][j] * ca_score_slope(g.layout, score) : 0.0f;
                }
            }
            for (int lane = lane0; lane < lane1; lane++) {
                float ds[4][4];
                ca_key_query_dots<ROWS>(ds, a, b, p, g.v, at, g.d_o, lane);
                const float *delta = g.delta + (int64_t)lane * g.rows * g.layout.heads;
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float mean = of_row(delta, g.layout.heads, p, ca_score_column(j));
#pragma unroll
                    for (int i = 0; i < 4; i++) ds[i][j] = slope[i][j] * (ds[i][j] - mean);
                }
                ca_mix_queries<ROWS>(g.dk, lane, key0, new_sums, a, b, ds, p, g.q);
                ca_mix_queries<ROWS>(g.dv, lane, key0, new_sums, a, b, weight, p, g.d_o);
            }
            __syncthreads(); /* p is free again */
        }
    }
}

int64_t ca_k_attention_bwd_scratch(int64_t lanes, int64_t rows, int64_t heads) {
    return lanes * rows * heads;
}

static void launch_dq(const ca_queue *queue, backward g, int64_t max_rows) {
    const int64_t rows = max_rows * (g.layout.heads / g.layout.kv_heads);
    const int tile = ca_tile_rows(rows, CA_TILE);
    g.tiles = ca_ceil_div(rows, tile);
    g.items = g.tiles * g.layout.count * g.layout.kv_heads;
    g.lanes_per_block = (int)ca_lanes_per_block(queue, g.items, g.lanes);
    g.items *= ca_ceil_div(g.lanes, g.lanes_per_block);
    const unsigned grid = ca_item_grid(queue, g.items);
    if (tile == CA_TILE)
        CA_LAUNCH((dq_kernel<CA_TILE>), grid, 4 * CA_TILE, 0, queue->stream, g);
    else
        CA_LAUNCH((dq_kernel<CA_FEW_ROWS>), grid, 4 * CA_FEW_ROWS, 0, queue->stream, g);
}

static void launch_dk_dv(const ca_queue *queue, backward g, int64_t max_rows) {
    const int tile = ca_tile_rows(max_rows, CA_TILE);
    g.tiles = ca_ceil_div(max_rows, tile);
    g.items = g.tiles * g.layout.count * g.owners;
    g.lanes_per_block = (int)ca_lanes_per_block(queue, g.items, g.lanes);
    g.items *= ca_ceil_div(g.lanes, g.lanes_per_block);
    const unsigned grid = ca_item_grid(queue, g.items);
    if (tile == CA_TILE)
        CA_LAUNCH((dk_dv_kernel<CA_TILE>), grid, 4 * CA_TILE, 0, queue->stream, g);
    else
        CA_LAUNCH((dk_dv_kernel<CA_FEW_ROWS>), grid, 4 * CA_FEW_ROWS, 0, queue->stream, g);
}

int ca_k_attention_bwd(const ca_queue *queue, ca_tensor dq, ca_tensor dk, ca_tensor dv,
                       ca_tensor d_o, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                       ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                       const ca_sequences *sequences, ca_attention attention) {
    backward g = {};
    g.layout = ca_layout_of(sequences, attention);
    g.dq = ca_heads_of(dq);
    g.dk = ca_heads_of(dk);
    g.dv = ca_heads_of(dv);
    g.d_o = ca_heads_of(d_o);
    g.q = ca_heads_of(q);
    g.k = ca_sides_of(k, prefix_k);
    g.v = ca_sides_of(v, prefix_v);
    g.lse = (const float *)lse.data;
    g.lse_row = lse.stride[0];
    g.delta = queue->scratch;
    g.rows = sequences->rows;
    g.lanes = (int)dq.shape[0];
    g.owners = (int)dk.shape[2];
    const int64_t scratch = ca_k_attention_bwd_scratch(g.lanes, g.rows, attention.heads);
    if (scratch == 0) return 0;
    if (scratch > queue->scratch_count) return (int)cudaErrorInvalidValue;
    CA_LAUNCH(delta_kernel, ca_grid(queue, scratch, DELTA_WARPS), DELTA_BLOCK, 0, queue->stream,
              queue->scratch, ca_rows_of(d_o), ca_rows_of(o));
    launch_dq(queue, g, sequences->max_rows);
    launch_dk_dv(queue, g, sequences->max_rows);
    return ca_launched();
}
