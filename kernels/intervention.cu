/* SPDX-License-Identifier: MIT
 *
 * Masked soft interventions: on rows, and on ragged attention patterns.
 *
 * Every element is owned by one thread and every sum by one warp or block, so results repeat bit
 * for bit. All are bound by memory; bytes and FLOPs are counted for each element, in f32.
 */
#include "ca_quads.cuh"

constexpr int BLOCK = 256, WARPS = BLOCK / CA_WARP;

/* The ends are taken as they are, so that they hold bit for bit. */
static __device__ __forceinline__ float mix(float m, float x, float source) {
    return m == 0.0f ? x : m == 1.0f ? source : x + m * (source - x);
}

static __device__ __forceinline__ ca_quad<float> quad_of(float v) {
    ca_quad<float> q = {{v, v, v, v}};
    return q;
}

/* ---- rows */

/* y = (1 - mask) x + mask source; y may be x. per_row: the mask has one weight for a row.
 *
 * Grid: tiles of y; a thread owns its quads. No shared memory, no barrier. 16 bytes (12 with one
 * weight for a row), 3 FLOPs. */
static __global__ void __launch_bounds__(CA_TILE)
    mix_fwd_kernel(ca_rows y, ca_rows x, ca_rows source, ca_rows mask, bool per_row, int shift,
                   bool wide) {
    const ca_walk walk = ca_walk_of(shift);
    for (int64_t r = walk.row; r < y.rows; r += walk.row_step) {
        float *to = static_cast<float *>(y.data) + ca_row_offset(y, r);
        const float *from = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        const float *other = static_cast<const float *>(source.data) + ca_row_offset(source, r);
        const float *weights = static_cast<const float *>(mask.data) + ca_row_offset(mask, r);
        for (int64_t i = walk.column; i < y.width; i += walk.column_step) {
            const int64_t left = y.width - i;
            ca_quad<float> a = ca_load(from + i, left, wide), b = ca_load(other + i, left, wide);
            ca_quad<float> m = per_row ? quad_of(*weights) : ca_load(weights + i, left, wide);
            for (int k = 0; k < 4; k++) a.at[k] = mix(m.at[k], a.at[k], b.at[k]);
            ca_store(to + i, a, left, wide);
        }
    }
}

int ca_k_mix_fwd(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor source,
                 ca_tensor mask) {
    const bool per_row = mask.shape[mask.rank - 1] == 1;
    ca_tensor *const all[] = {&y, &x, &source, &mask};
    if (!per_row) ca_merge_axes(4, all);
    const bool wide =
        ca_is_wide(y) && ca_is_wide(x) && ca_is_wide(source) && (per_row || ca_is_wide(mask));
    ca_rows rows = ca_rows_of(y);
    ca_tiles tiles = ca_tiles_of(queue, rows.rows, rows.width);
    CA_LAUNCH(mix_fwd_kernel, tiles.grid, CA_TILE, 0, queue->stream, rows, ca_rows_of(x),
              ca_rows_of(source), ca_rows_of(mask), per_row, tiles.shift, wide);
    return ca_launched();
}

/* The tensors of a backward; data is null where one is absent or not needed. */
struct mix_tensors {
    ca_rows d_x, d_source, d_mask, dy, x, source, mask;
    int32_t accumulate, wide; /* truth values */
};

/* Where a row of each begins. */
struct mix_row {
    float *d_x, *d_source, *d_mask;
    const float *dy, *x, *source, *mask;
};

static __device__ __forceinline__ float *begin(const ca_rows &t, int64_t r) {
    return t.data ? static_cast<float *>(t.data) + ca_row_offset(t, r) : nullptr;
}

static __device__ __forceinline__ mix_row row_of(const mix_tensors &t, int64_t r) {
    mix_row row = {begin(t.d_x, r), begin(t.d_source, r), begin(t.d_mask, r), begin(t.dy, r),
                   begin(t.x, r),   begin(t.source, r),   begin(t.mask, r)};
    return row;
}

/* One quad under the weights m: writes d_x (which may be dy) and d_source, and returns the mask's
 * gradient at each element, zeros behind the row's end. */
static __device__ __forceinline__ ca_quad<float> quad_bwd(const mix_tensors &t, const mix_row &row,
                                                          int64_t i, ca_quad<float> m) {
    const int64_t left = t.dy.width - i;
    ca_quad<float> g = ca_load(row.dy + i, left, t.wide), dm = quad_of(0.0f), d = quad_of(0.0f);
    if (row.x) {
        ca_quad<float> a = ca_load(row.x + i, left, t.wide);
        ca_quad<float> b = ca_load(row.source + i, left, t.wide);
        for (int k = 0; k < 4; k++) dm.at[k] = g.at[k] * (b.at[k] - a.at[k]);
    }
    if (row.d_source) {
        for (int k = 0; k < 4; k++) d.at[k] = m.at[k] * g.at[k];
        ca_store(row.d_source + i, d, left, t.wide);
    }
    d = t.accumulate ? ca_load(static_cast<const float *>(row.d_x) + i, left, t.wide)
                     : quad_of(0.0f);
    for (int k = 0; k < 4; k++) {
        const float share = (1.0f - m.at[k]) * g.at[k];
        d.at[k] = t.accumulate ? d.at[k] + share : share;
    }
    ca_store(row.d_x + i, d, left, t.wide);
    return dm;
}

/* Every element under its own weight
 *
 * Grid: tiles of dy; a thread owns its quads. No shared memory, no barrier. 12 bytes, 4 more for
 * d_source and for accumulating, 12 more for d_mask; up to 6 FLOPs. */
static __global__ void __launch_bounds__(CA_TILE) mix_bwd_kernel(mix_tensors t, int shift) {
    const ca_walk walk = ca_walk_of(shift);
    for (int64_t r = walk.row; r < t.dy.rows; r += walk.row_step) {
        const mix_row row = row_of(t, r);
        for (int64_t i = walk.column; i < t.dy.width; i += walk.column_step) {
            const int64_t left = t.dy.width - i;
            const ca_quad<float> dm = quad_bwd(t, row, i, ca_load(row.mask + i, left, t.wide));
            if (row.d_mask) ca_store(row.d_mask + i, dm, left, t.wide);
        }
    }
}

/* Rows under one weight each
 *
 * Grid: strides over rows; a team (a warp or the block) owns one. Shared memory: one float a warp;
 * barriers: those of ca_block_sum. 8 bytes, 4 more for d_source and for accumulating, 8 more for
 * d_mask; up to 7 FLOPs. */
template <int TEAM>
static __global__ void __launch_bounds__(BLOCK) mix_rows_bwd_kernel(mix_tensors t) {
    CA_SHARED(float, scratch, CA_WARP);
    constexpr int TEAMS = BLOCK / TEAM;
    const int team = (int)threadIdx.x / TEAM, member = (int)threadIdx.x % TEAM;
    for (int64_t r = (int64_t)blockIdx.x * TEAMS + team; r < t.dy.rows;
         r += (int64_t)gridDim.x * TEAMS) {
        const mix_row row = row_of(t, r);
        const ca_quad<float> m = quad_of(*row.mask);
        float sum = 0.0f;
        for (int64_t i = 4 * member; i < t.dy.width; i += 4 * TEAM) {
            const ca_quad<float> dm = quad_bwd(t, row, i, m);
            sum += (dm.at[0] + dm.at[1]) + (dm.at[2] + dm.at[3]);
        }
        if (!row.d_mask) continue;
        sum = ca_team_sum<TEAM>(sum, scratch);
        if (member == 0) *row.d_mask = sum;
    }
}

static int mix_rows_bwd(const ca_queue *queue, const mix_tensors &t) {
    constexpr int LONG_ROW = 32 * CA_WARP; /* elements for which a block is worth while */
    if (t.dy.width <= LONG_ROW)
        CA_LAUNCH((mix_rows_bwd_kernel<CA_WARP>), ca_grid(queue, t.dy.rows, WARPS), BLOCK, 0,
                  queue->stream, t);
    else
        CA_LAUNCH((mix_rows_bwd_kernel<BLOCK>), ca_grid(queue, t.dy.rows, 1), BLOCK, 0,
                  queue->stream, t);
    return ca_launched();
}

int ca_k_mix_bwd(const ca_queue *queue, ca_tensor d_x, ca_tensor d_source, ca_tensor d_mask,
                 ca_tensor dy, ca_tensor x, ca_tensor source, ca_tensor mask, bool accumulate) {
    const bool per_row = mask.shape[mask.rank - 1] == 1;
    if (!d_mask.data) x.data = source.data = NULL;
    ca_tensor *present[7];
    ca_tensor *const all[] = {&d_x, &d_source, &d_mask, &dy, &x, &source, &mask};
    int count = 0;
    bool wide = true;
    for (ca_tensor *t : all) {
        if (!t->data) continue;
        present[count++] = t;
        wide = wide && (ca_is_wide(*t) || (per_row && (t == &mask || t == &d_mask)));
    }
    if (!per_row) ca_merge_axes(count, present);
    const mix_tensors t = {ca_rows_of(d_x),  ca_rows_of(d_source), ca_rows_of(d_mask),
                           ca_rows_of(dy),   ca_rows_of(x),        ca_rows_of(source),
                           ca_rows_of(mask), accumulate,           wide};
    if (per_row) return mix_rows_bwd(queue, t);
    ca_tiles tiles = ca_tiles_of(queue, t.dy.rows, t.dy.width);
    CA_LAUNCH(mix_bwd_kernel, tiles.grid, CA_TILE, 0, queue->stream, t, tiles.shift);
    return ca_launched();
}

/* ---- attention patterns
 *
 * Grids: stride over the rows of the patterns of all lanes; a warp owns one. Rows begin at any
 * element, so accesses are coalesced but of 4 bytes. No shared memory, no barrier. */

/* Where the rows of a flat pattern lie, as ca_sequences on the device. */
struct pattern_rows {
    const int64_t *row_start, *prefix_rows, *pattern_start;
    int64_t count, rows, heads, window;
};

/* `keys` elements from `at`, of which [low, high) are visible; packed row t and head h. */
struct pattern_row {
    int64_t t, h, at, keys, low, high;
};

static pattern_rows pattern_rows_of(const ca_sequences *sequences, ca_attention attention) {
    pattern_rows p = {static_cast<const int64_t *>(sequences->row_start_b.data),
                      static_cast<const int64_t *>(sequences->prefix_rows_b.data),
                      static_cast<const int64_t *>(sequences->pattern_start_b.data),
                      sequences->count,
                      sequences->rows,
                      attention.heads,
                      attention.window};
    return p;
}

/* Row `item` of a lane, counted with the packed row inside the head: neighbours in memory. */
static __device__ __forceinline__ pattern_row row_at(const pattern_rows &p, int64_t item) {
    pattern_row row;
    row.h = ca_divide(item, p.rows);
    row.t = item - row.h * p.rows;
    int64_t s = 0, behind = p.count; /* the last sequence that begins at or before row t */
    while (behind - s > 1) {
        const int64_t middle = (s + behind) / 2;
        if (p.row_start[middle] <= row.t)
            s = middle;
        else
            behind = middle;
    }
    const int64_t own = p.row_start[s + 1] - p.row_start[s], first = row.t - p.row_start[s];
    const int64_t i = p.prefix_rows[s] + first; /* the last visible key */
    row.keys = p.prefix_rows[s] + own;
    row.at = p.heads * p.pattern_start[s] + (row.h * own + first) * row.keys;
    row.low = p.window > 0 && i >= p.window ? i - p.window + 1 : 0;
    row.high = i + 1;
    return row;
}

/* y = (1 - m) x + m source at visible keys, 0 elsewhere.  12 bytes, 3 FLOPs. */
static __global__ void __launch_bounds__(BLOCK)
    pattern_mix_fwd_kernel(float *y, const float *x, const float *source, ca_rows mask,
                           pattern_rows p) {
    const int lane = (int)threadIdx.x % CA_WARP;
    int64_t item = (int64_t)blockIdx.x * WARPS + (int)threadIdx.x / CA_WARP;
    for (; item < p.rows * p.heads; item += (int64_t)gridDim.x * WARPS) {
        const pattern_row row = row_at(p, item);
        const float m = static_cast<const float *>(mask.data)[ca_row_offset(mask, row.t) + row.h];
        for (int64_t j = lane; j < row.keys; j += CA_WARP) {
            const bool visible = j >= row.low && j < row.high;
            y[row.at + j] = visible ? mix(m, x[row.at + j], source[row.at + j]) : 0.0f;
        }
    }
}

int ca_k_pattern_mix_fwd(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor source,
                         ca_tensor mask, const ca_sequences *sequences, ca_attention attention) {
    const pattern_rows p = pattern_rows_of(sequences, attention);
    CA_LAUNCH(pattern_mix_fwd_kernel, ca_grid(queue, p.rows * p.heads, WARPS), BLOCK, 0,
              queue->stream, static_cast<float *>(y.data), static_cast<const float *>(x.data),
              static_cast<const float *>(source.data), ca_rows_of(mask), p);
    return ca_launched();
}

/* One lane's element: writes d_x (which may be dy) and d_source, returns the mask's gradient.
 * Pointers are those of the lane's row; x is null when no mask gradient is wanted. */
static __device__ __forceinline__ float element_bwd(const mix_row &row, int64_t j, bool visible,
                                                    float m, bool accumulate) {
    const float g = visible ? row.dy[j] : 0.0f;
    const float dm = visible && row.x ? g * (row.source[j] - row.x[j]) : 0.0f;
    if (row.d_source) row.d_source[j] = visible ? m * g : 0.0f;
    const float before = visible && accumulate ? row.d_x[j] : 0.0f;
    row.d_x[j] = visible ? before + (1.0f - m) * g : 0.0f;
    return dm;
}

/* 8 bytes, 4 more for d_source and for accumulating, 8 more for d_mask; up to 7 FLOPs. t.mask is
 * [T, H], t.d_mask [R, T, H], t.x and t.source one row, the others a row for each lane. */
static __global__ void __launch_bounds__(BLOCK)
    pattern_mix_bwd_kernel(mix_tensors t, pattern_rows p) {
    const int lane = (int)threadIdx.x % CA_WARP;
    const int64_t rows = p.rows * p.heads;
    int64_t item = (int64_t)blockIdx.x * WARPS + (int)threadIdx.x / CA_WARP;
    for (; item < t.dy.rows * rows; item += (int64_t)gridDim.x * WARPS) {
        const int64_t r = ca_divide(item, rows);
        const pattern_row row = row_at(p, item - r * rows);
        const float m =
            static_cast<const float *>(t.mask.data)[ca_row_offset(t.mask, row.t) + row.h];
        mix_row at = {begin(t.d_x, r) + row.at,
                      begin(t.d_source, r),
                      nullptr,
                      begin(t.dy, r) + row.at,
                      begin(t.x, 0),
                      begin(t.source, 0),
                      nullptr};
        if (at.d_source) at.d_source += row.at;
        if (at.x) at.x += row.at, at.source += row.at;
        float sum = 0.0f;
        for (int64_t j = lane; j < row.keys; j += CA_WARP)
            sum += element_bwd(at, j, j >= row.low && j < row.high, m, t.accumulate);
        if (!t.d_mask.data) continue;
        sum = ca_warp_sum(sum);
        if (lane == 0) begin(t.d_mask, r * p.rows + row.t)[row.h] = sum;
    }
}

int ca_k_pattern_mix_bwd(const ca_queue *queue, ca_tensor d_x, ca_tensor d_source, ca_tensor d_mask,
                         ca_tensor dy, ca_tensor x, ca_tensor source, ca_tensor mask,
                         const ca_sequences *sequences, ca_attention attention, bool accumulate) {
    if (!d_mask.data) x.data = source.data = NULL;
    const pattern_rows p = pattern_rows_of(sequences, attention);
    const mix_tensors t = {ca_rows_of(d_x),  ca_rows_of(d_source), ca_rows_of(d_mask),
                           ca_rows_of(dy),   ca_rows_of(x),        ca_rows_of(source),
                           ca_rows_of(mask), accumulate,           false};
    CA_LAUNCH(pattern_mix_bwd_kernel, ca_grid(queue, t.dy.rows * p.rows * p.heads, WARPS), BLOCK, 0,
              queue->stream, t, p);
    return ca_launched();
}
