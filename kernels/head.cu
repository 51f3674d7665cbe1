/* SPDX-License-Identifier: MIT
 *
 * What is done with logits: soft cap, log of the sum of exponentials, softmax, the largest few.
 *
 * Sums over a row are made in parts of PART elements, so that few rows fill the device as well and
 * a row's result does not depend on how many rows there are.
 */
#include "ca_quads.cuh"

constexpr int BLOCK = 256, PART = 4096;

/* ---- soft cap
 *
 * Grid: tiles of y; a thread owns its quads. No shared memory, no barrier. */

/* y = cap tanh(x / cap); y may be x.  8 bytes, 20 FLOPs an element. */
static __global__ void __launch_bounds__(CA_TILE)
    soft_cap_fwd_kernel(ca_rows y, ca_rows x, float cap, float inverse, int shift, bool wide) {
    const ca_walk walk = ca_walk_of(shift);
    for (int64_t r = walk.row; r < y.rows; r += walk.row_step) {
        const float *from = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        float *to = static_cast<float *>(y.data) + ca_row_offset(y, r);
        for (int64_t i = walk.column; i < y.width; i += walk.column_step) {
            ca_quad<float> v = ca_load(from + i, y.width - i, wide);
            for (int k = 0; k < 4; k++) v.at[k] = cap * tanhf(v.at[k] * inverse);
            ca_store(to + i, v, y.width - i, wide);
        }
    }
}

/* dx = dy (1 - (y / cap)^2); dx may be dy.  12 bytes, 4 FLOPs an element. */
static __global__ void __launch_bounds__(CA_TILE)
    soft_cap_bwd_kernel(ca_rows dx, ca_rows dy, ca_rows y, float inverse, int shift, bool wide) {
    const ca_walk walk = ca_walk_of(shift);
    for (int64_t r = walk.row; r < dx.rows; r += walk.row_step) {
        const float *at = static_cast<const float *>(y.data) + ca_row_offset(y, r);
        const float *from = static_cast<const float *>(dy.data) + ca_row_offset(dy, r);
        float *to = static_cast<float *>(dx.data) + ca_row_offset(dx, r);
        for (int64_t i = walk.column; i < dx.width; i += walk.column_step) {
            const int64_t left = dx.width - i;
            ca_quad<float> d = ca_load(from + i, left, wide), v = ca_load(at + i, left, wide);
            for (int k = 0; k < 4; k++) {
                float t = v.at[k] * inverse;
                d.at[k] *= 1.0f - t * t;
            }
            ca_store(to + i, d, left, wide);
        }
    }
}

int ca_k_soft_cap_fwd(const ca_queue *queue, ca_tensor y, ca_tensor x, double cap) {
    ca_tensor *const both[] = {&y, &x};
    ca_merge_axes(2, both);
    ca_rows rows = ca_rows_of(y);
    ca_tiles tiles = ca_tiles_of(queue, rows.rows, rows.width);
    CA_LAUNCH(soft_cap_fwd_kernel, tiles.grid, CA_TILE, 0, queue->stream, rows, ca_rows_of(x),
              (float)cap, (float)(1 / cap), tiles.shift, ca_is_wide(y) && ca_is_wide(x));
    return ca_launched();
}

int ca_k_soft_cap_bwd(const ca_queue *queue, ca_tensor dx, ca_tensor dy, ca_tensor y, double cap) {
    ca_tensor *const all[] = {&dx, &dy, &y};
    ca_merge_axes(3, all);
    ca_rows rows = ca_rows_of(dx);
    ca_tiles tiles = ca_tiles_of(queue, rows.rows, rows.width);
    CA_LAUNCH(soft_cap_bwd_kernel, tiles.grid, CA_TILE, 0, queue->stream, rows, ca_rows_of(dy),
              ca_rows_of(y), (float)(1 / cap), tiles.shift,
              ca_is_wide(dx) && ca_is_wide(dy) && ca_is_wide(y));
    return ca_launched();
}

/* ---- sums of exponentials */

/* The largest of some values, and the sum of exp(value - top). An infinite top counts how often it
 * occurs; a NaN makes the sum NaN. */
struct exp_sum {
    float top, sum;
};

static __device__ __forceinline__ float weight(float x, float top) {
    return x == top ? 1.0f : expf(x - top); /* also for infinity - infinity */
}

/* Products rounded on their own, so that merge(a, b) = merge(b, a) bit for bit. */
static __device__ __forceinline__ exp_sum merge(exp_sum a, exp_sum b) {
    float top = fmaxf(a.top, b.top);
    exp_sum c = {top, __fmul_rn(a.sum, weight(a.top, top)) + __fmul_rn(b.sum, weight(b.top, top))};
    return c;
}

/* Of all parts of a row, in every lane of a full warp: each lane in order, then a fixed tree. */
static __device__ __forceinline__ exp_sum merge_parts(const exp_sum *parts, int64_t count) {
    exp_sum a = {-INFINITY, 0.0f};
    for (int64_t p = (int)threadIdx.x % CA_WARP; p < count; p += CA_WARP) a = merge(a, parts[p]);
    for (int offset = CA_WARP / 2; offset > 0; offset >>= 1) {
        exp_sum b;
        b.top = __shfl_xor_sync(CA_FULL_WARP, a.top, offset);
        b.sum = __shfl_xor_sync(CA_FULL_WARP, a.sum, offset);
        a = merge(a, b);
    }
    return a;
}

/* What a member of a team holds of up to 16 TEAM elements: quads member, member + TEAM, ... */
constexpr int QUADS = PART / BLOCK / 4;

struct held {
    ca_quad<float> at[QUADS];
};

/* Reads `count` elements and sums them over the team; scratch as for ca_block_sum. */
template <int TEAM>
static __device__ __forceinline__ exp_sum sum_of(held &v, const float *x, int64_t count, int member,
                                                 bool wide, float *scratch) {
    exp_sum s = {-INFINITY, 0.0f};
    for (int q = 0; q < QUADS; q++) {
        const int i = 4 * (member + q * TEAM);
        v.at[q] = ca_load(x + i, count - i, wide);
        for (int k = 0; k < 4; k++)
            if (i + k < count) s.top = fmaxf(s.top, v.at[q].at[k]);
    }
    s.top = ca_team_max<TEAM>(s.top, scratch);
    for (int q = 0; q < QUADS; q++)
        for (int k = 0; k < 4; k++)
            if (4 * (member + q * TEAM) + k < count) s.sum += weight(v.at[q].at[k], s.top);
    s.sum = ca_team_sum<TEAM>(s.sum, scratch);
    return s;
}

template <int TEAM>
static __device__ __forceinline__ void store_softmax(float *y, const held &v, int64_t count,
                                                     exp_sum total, int member, bool wide) {
    const float share = 1.0f / total.sum;
    for (int q = 0; q < QUADS; q++) {
        const int i = 4 * (member + q * TEAM);
        ca_quad<float> p;
        for (int k = 0; k < 4; k++) p.at[k] = share * expf(v.at[q].at[k] - total.top);
        if (i < count) ca_store(y + i, p, count - i, wide);
    }
}

static __device__ __forceinline__ float log_of(exp_sum s) { return s.top + logf(s.sum); }

/* y = log sum exp of a row, or its softmax: rows of at most 16 TEAM elements, kept in registers
 *
 * Grid: strides over rows; a team owns one. 4 or 8 bytes and about 15 FLOPs an element. Shared
 * memory: one float a warp; barriers: those of ca_block_sum. */
template <int TEAM, bool SOFTMAX>
static __global__ void __launch_bounds__(BLOCK) short_rows_kernel(ca_rows y, ca_rows x, bool wide) {
    CA_SHARED(float, scratch, CA_WARP);
    constexpr int TEAMS = BLOCK / TEAM;
    const int team = (int)threadIdx.x / TEAM, member = (int)threadIdx.x % TEAM;
    for (int64_t r = (int64_t)blockIdx.x * TEAMS + team; r < x.rows;
         r += (int64_t)gridDim.x * TEAMS) {
        const float *from = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        float *to = static_cast<float *>(y.data) + ca_row_offset(y, r);
        held v;
        const exp_sum total = sum_of<TEAM>(v, from, x.width, member, wide, scratch);
        if (SOFTMAX)
            store_softmax<TEAM>(to, v, x.width, total, member, wide);
        else if (member == 0)
            *to = log_of(total);
    }
}

/* parts [rows, count] from `rows` rows of x from `first` on
 *
 * Grid: strides over parts, of which a block owns one. 4 bytes and 10 FLOPs an element. Shared
 * memory and barriers as above. */
static __global__ void __launch_bounds__(BLOCK)
    part_sums_kernel(exp_sum *parts, int64_t count, ca_rows x, int64_t first, int64_t rows,
                     bool wide) {
    CA_SHARED(float, scratch, CA_WARP);
    for (int64_t item = blockIdx.x; item < rows * count; item += gridDim.x) {
        const int64_t r = ca_divide(item, count), start = (item - r * count) * PART;
        const float *from = static_cast<const float *>(x.data) + ca_row_offset(x, first + r);
        held v;
        const exp_sum s =
            sum_of<BLOCK>(v, from + start, x.width - start, (int)threadIdx.x, wide, scratch);
        if (threadIdx.x == 0) parts[item] = s;
    }
}

/* y [rows from first on] = log of the merged sums
 *
 * Grid: strides over rows; a warp owns one. No shared memory, no barrier. */
static __global__ void __launch_bounds__(BLOCK)
    log_parts_kernel(ca_rows y, const exp_sum *parts, int64_t count, int64_t first, int64_t rows) {
    constexpr int WARPS = BLOCK / CA_WARP;
    for (int64_t r = (int64_t)blockIdx.x * WARPS + (int)threadIdx.x / CA_WARP; r < rows;
         r += (int64_t)gridDim.x * WARPS) {
        const exp_sum total = merge_parts(parts + r * count, count);
        if ((int)threadIdx.x % CA_WARP == 0)
            static_cast<float *>(y.data)[ca_row_offset(y, first + r)] = log_of(total);
    }
}

/* y = softmax of x, whose parts are summed; y may be x
 *
 * Grid: strides over parts; a block owns one, and each warp merges the sums of the row again.
 * 8 bytes and 5 FLOPs an element. No shared memory, no barrier. */
static __global__ void __launch_bounds__(BLOCK)
    softmax_parts_kernel(ca_rows y, ca_rows x, const exp_sum *parts, int64_t count, int64_t first,
                         int64_t rows, bool wide) {
    for (int64_t item = blockIdx.x; item < rows * count; item += gridDim.x) {
        const int64_t r = ca_divide(item, count), start = (item - r * count) * PART;
        const float *from =
            static_cast<const float *>(x.data) + ca_row_offset(x, first + r) + start;
        float *to = static_cast<float *>(y.data) + ca_row_offset(y, first + r) + start;
        const exp_sum total = merge_parts(parts + r * count, count);
        held v;
        for (int q = 0; q < QUADS; q++) {
            const int i = 4 * ((int)threadIdx.x + q * BLOCK);
            v.at[q] = ca_load(from + i, x.width - start - i, wide);
        }
        store_softmax<BLOCK>(to, v, x.width - start, total, (int)threadIdx.x, wide);
    }
}

template <int TEAM, bool SOFTMAX>
static int short_rows(const ca_queue *queue, const ca_rows &y, const ca_rows &x, bool wide) {
    CA_LAUNCH((short_rows_kernel<TEAM, SOFTMAX>), ca_grid(queue, x.rows, BLOCK / TEAM), BLOCK, 0,
              queue->stream, y, x, wide);
    return ca_launched();
}

/* As many rows at once as the scratch memory has room for the sums of. */
template <bool SOFTMAX>
static int long_rows(const ca_queue *queue, const ca_rows &y, const ca_rows &x, bool wide) {
    const int64_t count = ca_ceil_div(x.width, PART), most = queue->scratch_count / (2 * count);
    exp_sum *parts = reinterpret_cast<exp_sum *>(queue->scratch);
    int error = most > 0 ? 0 : (int)cudaErrorInvalidValue;
    for (int64_t first = 0; first < x.rows && error == 0; first += most) {
        const int64_t rows = x.rows - first < most ? x.rows - first : most;
        const unsigned grid = ca_grid(queue, rows * count, 1);
        CA_LAUNCH(part_sums_kernel, grid, BLOCK, 0, queue->stream, parts, count, x, first, rows,
                  wide);
        if (SOFTMAX)
            CA_LAUNCH(softmax_parts_kernel, grid, BLOCK, 0, queue->stream, y, x, parts, count,
                      first, rows, wide);
        else
            CA_LAUNCH(log_parts_kernel, ca_grid(queue, rows, BLOCK / CA_WARP), BLOCK, 0,
                      queue->stream, y, parts, count, first, rows);
        error = ca_launched();
    }
    return error;
}

template <bool SOFTMAX>
static int exp_sums(const ca_queue *queue, const ca_rows &y, const ca_rows &x, bool wide) {
    return x.width <= 4 * QUADS * CA_WARP ? short_rows<CA_WARP, SOFTMAX>(queue, y, x, wide)
           : x.width <= PART              ? short_rows<BLOCK, SOFTMAX>(queue, y, x, wide)
                                          : long_rows<SOFTMAX>(queue, y, x, wide);
}

int ca_k_log_sum_exp(const ca_queue *queue, ca_tensor y, ca_tensor x) {
    return exp_sums<false>(queue, ca_scalars_of(y), ca_rows_of(x), ca_is_wide(x));
}

int ca_k_softmax(const ca_queue *queue, ca_tensor y, ca_tensor x) {
    return exp_sums<true>(queue, ca_rows_of(y), ca_rows_of(x), ca_is_wide(y) && ca_is_wide(x));
}

/* ---- the k largest
 *
 * A value and its index make one number that rises with the rank: NaN, then larger values, then
 * lower indices. No two are equal, so the k largest are a set, found digit by digit from the top
 * (radix select), and the rank of each is the number of larger ones. */

constexpr int BATCH = 512, DIGITS = 256; /* DIGITS = BLOCK: a thread for each digit */

static __device__ __forceinline__ uint64_t rank_key(float x, int64_t index) {
    const uint32_t bits = __float_as_uint(x);
    uint32_t key = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    if (x == 0.0f) key = 0x80000000u; /* -0 ties with 0 */
    if (x != x) key = 0xffffffffu;
    return (uint64_t)key << 32 | (uint32_t)(INT32_MAX - index);
}

static __device__ __forceinline__ int64_t key_index(uint64_t key) {
    return INT32_MAX - (int64_t)(uint32_t)key;
}

/* Shared by the block while it selects. */
struct selection {
    uint64_t prefix; /* digits found so far */
    int need;        /* how many are wanted of the keys with this prefix */
    int found;       /* keys with this prefix; later: keys collected */
};

/* A number that exactly `take` of the keys below `bound` are not below. All threads call it; on
 * return they may use counts [DIGITS] and *s, both in shared memory, at once. */
static __device__ uint64_t select_least(const float *x, int64_t width, uint64_t bound, int take,
                                        bool wide, int *counts, selection *s) {
    const int thread = (int)threadIdx.x;
    uint64_t prefix = 0, mask = 0;
    int need = take;
    for (int shift = 56; shift >= 0; shift -= 8) {
        counts[thread] = 0;
        __syncthreads();
        for (int64_t i = 4 * thread; i < width; i += 4 * BLOCK) {
            ca_quad<float> v = ca_load(x + i, width - i, wide);
            for (int k = 0; k < 4; k++) {
                const uint64_t key = rank_key(v.at[k], i + k);
                if (i + k < width && key < bound && (key & mask) == prefix)
                    atomicAdd(&counts[key >> shift & (DIGITS - 1)], 1);
            }
        }
        __syncthreads();
        int above = 0;
        for (int digit = DIGITS - 1; digit > thread; digit--) above += counts[digit];
        if (above < need && need <= above + counts[thread]) { /* true for one thread */
            s->prefix = prefix | (uint64_t)thread << shift;
            s->need = need - above;
            s->found = counts[thread];
        }
        __syncthreads();
        prefix = s->prefix;
        need = s->need;
        mask |= (uint64_t)(DIGITS - 1) << shift;
        const bool all = s->found == need;
        __syncthreads();
        if (all) break;
    }
    return prefix;
}

/* values, indices [rows, k]: the k largest of each row, falling
 *
 * Grid: strides over rows; a block owns one and takes BATCH of the k at a time. It reads a row 5
 * times for a batch without ties at its end, at most 9 times, mostly from the cache. Shared memory:
 * 8 bytes for each of BATCH keys, 4 for each digit. Atomics on shared integers: their order decides
 * only where a key waits for its rank, which is not seen outside. Rows below 2^31 elements. */
static __global__ void __launch_bounds__(BLOCK)
    top_k_kernel(ca_rows values, ca_rows indices, ca_rows x, bool wide) {
    CA_SHARED(uint64_t, keys, BATCH);
    CA_SHARED(int, counts, DIGITS);
    CA_SHARED(selection, s, 1);
    const int thread = (int)threadIdx.x;
    for (int64_t r = blockIdx.x; r < x.rows; r += gridDim.x) {
        const float *from = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        float *value = static_cast<float *>(values.data) + ca_row_offset(values, r);
        int32_t *index = static_cast<int32_t *>(indices.data) + ca_row_offset(indices, r);
        uint64_t bound = UINT64_MAX; /* above every key */
        for (int64_t first = 0; first < values.width; first += BATCH) {
            const int take = (int)min(values.width - first, (int64_t)BATCH);
            const uint64_t least = select_least(from, x.width, bound, take, wide, counts, s);
            if (thread == 0) s->found = 0;
            __syncthreads();
            for (int64_t i = 4 * thread; i < x.width; i += 4 * BLOCK) {
                ca_quad<float> v = ca_load(from + i, x.width - i, wide);
                for (int k = 0; k < 4; k++) {
                    const uint64_t key = rank_key(v.at[k], i + k);
                    if (i + k < x.width && key < bound && key >= least)
                        keys[atomicAdd(&s->found, 1)] = key;
                }
            }
            __syncthreads();
            for (int c = thread; c < take; c += BLOCK) {
                int rank = 0;
                for (int other = 0; other < take; other++) rank += keys[other] > keys[c];
                const int64_t at = key_index(keys[c]);
                value[first + rank] = from[at];
                index[first + rank] = (int32_t)at;
            }
            bound = least; /* the next batch is below all of this one */
            __syncthreads();
        }
    }
}

int ca_k_top_k(const ca_queue *queue, ca_tensor values, ca_tensor indices, ca_tensor x) {
    ca_rows rows = ca_rows_of(x);
    CA_LAUNCH(top_k_kernel, ca_grid(queue, rows.rows, 1), BLOCK, 0, queue->stream,
              ca_rows_of(values), ca_rows_of(indices), rows, ca_is_wide(x));
    return ca_launched();
}
