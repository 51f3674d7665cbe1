/* SPDX-License-Identifier: MIT
 *
 * Sums over rows along the binary tree of ca_column_sums.
 *
 * -0 is what leaves every number as it is when added, so a tree is filled up with -0 to the next
 * power of two and has the same sums. Chunks of 2^k rows are subtrees: however rows are cut into
 * chunks, for threads, warps or passes, the bits are the same.
 */
#include "ca_cuda.cuh"

constexpr int BLOCK = 256, GROUPS = BLOCK / CA_WARP; /* GROUPS chunks of 32 columns */
constexpr int UNIT = 8;                              /* rows whose loads are in flight together */
constexpr int LEVELS = 20;                           /* a thread sums up to UNIT 2^LEVELS rows */
constexpr int64_t SHORTEST_CHUNK = 512;              /* rows for a block; a power of two */

static __device__ __forceinline__ float sum_of_eight(const float v[8]) {
    return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

/* level[l] is the sum of the last 2^l of `units` units where bit l is set, as in a binary counter.
 * Adds one unit from level L on; the recursion unrolls, which keeps the levels in registers. */
template <int L>
static __device__ __forceinline__ void count_unit(float level[LEVELS], uint32_t units, float sum) {
    if constexpr (L < LEVELS) {
        if (units >> L & 1)
            count_unit<L + 1>(level, units, level[L] + sum);
        else
            level[L] = sum;
    }
}

/* Sum of `rows` numbers, `stride` apart; -0 for none. */
static __device__ __forceinline__ float tree_sum(const float *x, int64_t stride, int64_t rows) {
    float level[LEVELS], sum = -0.0f;
    uint32_t units = 0;
    for (int64_t at = 0; at < rows; at += UNIT, units++) {
        float v[UNIT];
#pragma unroll
        for (int k = 0; k < UNIT; k++) v[k] = at + k < rows ? x[(at + k) * stride] : -0.0f;
        count_unit<0>(level, units, sum_of_eight(v));
    }
#pragma unroll
    for (int l = 0; l < LEVELS; l++)
        if (units >> l & 1) sum = level[l] + sum;
    return sum;
}

/* y [places, chunks, D] = sums of chunks of `chunk` rows of x [places, rows, D]
 *
 * places: x without its rows, which are `stride` apart; chunk: a power of two, at least GROUPS.
 * Grid: strides over (place, chunk, 32 columns), of which a block owns one; warp g sums the g-th
 * part of the chunk. 4 bytes and 1 FLOP an element of x. Shared memory: BLOCK floats; two barriers
 * for each. Limit: chunk <= GROUPS UNIT 2^LEVELS. */
static __global__ void __launch_bounds__(BLOCK)
    column_sums_kernel(ca_rows y, ca_rows places, int64_t rows, int64_t stride, int64_t chunk,
                       int64_t chunks, int64_t tiles) {
    CA_SHARED(float, sums, BLOCK);
    const int lane = (int)threadIdx.x % CA_WARP, group = (int)threadIdx.x / CA_WARP;
    const int64_t part = chunk / GROUPS;
    for (int64_t item = blockIdx.x; item < places.rows * chunks * tiles; item += gridDim.x) {
        const int64_t out = ca_divide(item, tiles), place = ca_divide(out, chunks);
        const int64_t column = (item - out * tiles) * CA_WARP + lane;
        const int64_t start = (out - place * chunks) * chunk + group * part;
        const int64_t count = rows - start < part ? rows - start : part;
        const float *x = static_cast<const float *>(places.data) + ca_row_offset(places, place);
        sums[threadIdx.x] = column < places.width && count > 0
                                ? tree_sum(x + start * stride + column, stride, count)
                                : -0.0f;
        __syncthreads();
        if (group == 0 && column < places.width) {
            float v[GROUPS];
            for (int g = 0; g < GROUPS; g++) v[g] = sums[g * CA_WARP + lane];
            static_cast<float *>(y.data)[ca_row_offset(y, out) + column] = sum_of_eight(v);
        }
        __syncthreads();
    }
}

/* x [..., T, D] as [..., D], for the offsets of its places. */
static ca_tensor places_of(ca_tensor x) {
    int last = x.rank - 1;
    x.shape[last - 1] = x.shape[last];
    x.stride[last - 1] = 1;
    x.rank--;
    return x;
}

static int sum_chunks(const ca_queue *queue, ca_tensor y, ca_tensor x, int64_t chunk) {
    static_assert(GROUPS == 8, "sum_of_eight adds the groups");
    if (chunk > (int64_t)GROUPS * UNIT << LEVELS) return (int)cudaErrorInvalidValue;
    const ca_rows places = ca_rows_of(places_of(x));
    const int64_t rows = x.shape[x.rank - 2], chunks = ca_ceil_div(rows, chunk);
    const int64_t tiles = ca_ceil_div(places.width, CA_WARP);
    CA_LAUNCH(column_sums_kernel, ca_grid(queue, places.rows * chunks * tiles, 1), BLOCK, 0,
              queue->stream, ca_rows_of(y), places, rows, x.stride[x.rank - 2], chunk, chunks,
              tiles);
    return ca_launched();
}

/* One pass, or two where that fills the device better and the scratch memory has room for the sums
 * between. */
int ca_k_column_sums(const ca_queue *queue, ca_tensor y, ca_tensor x) {
    const int64_t rows = x.shape[x.rank - 2], width = x.shape[x.rank - 1];
    if (rows == 0) return ca_k_fill(queue, y, 0);
    const int64_t places = ca_rows_of(y).rows, tiles = ca_ceil_div(width, CA_WARP);
    const int64_t enough = (int64_t)queue->multiprocessors * 16;
    int64_t chunk = SHORTEST_CHUNK, chunks;
    while ((chunks = places * ca_ceil_div(rows, chunk)) > places &&
           (chunks * width > queue->scratch_count || chunks * tiles > enough))
        chunk *= 2;
    if (chunk >= rows) return sum_chunks(queue, y, x, chunk);

    ca_tensor parts = ca_tensor_3d(queue->scratch, CA_F32, places, ca_ceil_div(rows, chunk), width);
    int error = sum_chunks(queue, parts, x, chunk);
    while (chunk < parts.shape[1]) chunk *= 2;
    if (error != 0) return error;
    return sum_chunks(queue, y, parts, chunk);
}
