/* SPDX-License-Identifier: MIT
 *
 * Norms, dot products and L1 distances of rows.
 */
#include "ca_quads.cuh"

constexpr int BLOCK = 256, WARP_WIDTH = 1024; /* the longest row that a warp takes */

/* What is made of a row: x . w, |x|_2, |x - w|_1, |x|_1. */
enum reduction { DOT, NORM, DISTANCE, SIZE };

/* What an element adds to the sum. Quads end in zeros, which add nothing. */
template <reduction KIND> static __device__ __forceinline__ float term(float x, float w) {
    if (KIND == DOT) return x * w;
    if (KIND == NORM) return x * x;
    return fabsf(KIND == DISTANCE ? x - w : x);
}

/* y[r] = the reduction of x[r], and of w[r] where it has two arguments
 *
 * Grid: strides over rows. A team (a warp or the block) owns a row and its output; a member sums
 * its quads in order, then follows a fixed tree: the same bits on every run. 8 bytes an element (4
 * without w), 2 FLOPs (3 for distances). Shared memory: one float a warp; barriers: those of
 * ca_block_sum. */
template <int TEAM, reduction KIND>
static __global__ void __launch_bounds__(BLOCK)
    row_reduction_kernel(ca_rows y, ca_rows x, ca_rows w, bool wide) {
    CA_SHARED(float, scratch, CA_WARP);
    constexpr int TEAMS = BLOCK / TEAM;
    constexpr bool READS_W = KIND == DOT || KIND == DISTANCE;
    const int team = (int)threadIdx.x / TEAM, member = (int)threadIdx.x % TEAM;
    for (int64_t r = (int64_t)blockIdx.x * TEAMS + team; r < x.rows;
         r += (int64_t)gridDim.x * TEAMS) {
        const float *a = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        const float *b = static_cast<const float *>(w.data) + ca_row_offset(w, r);
        float sum = 0.0f;
        for (int64_t i = 4 * member; i < x.width; i += 4 * TEAM) {
            ca_quad<float> u = ca_load(a + i, x.width - i, wide);
            ca_quad<float> v = READS_W ? ca_load(b + i, x.width - i, wide) : u;
            for (int k = 0; k < 4; k++) sum += term<KIND>(u.at[k], v.at[k]);
        }
        sum = ca_team_sum<TEAM>(sum, scratch);
        if (member == 0)
            static_cast<float *>(y.data)[ca_row_offset(y, r)] = KIND == NORM ? sqrtf(sum) : sum;
    }
}

template <int TEAM, reduction KIND>
static int reduce_by(const ca_queue *queue, const ca_tensor &y, const ca_tensor &x,
                     const ca_tensor &w) {
    ca_rows rows = ca_rows_of(x);
    CA_LAUNCH((row_reduction_kernel<TEAM, KIND>), ca_grid(queue, rows.rows, BLOCK / TEAM), BLOCK, 0,
              queue->stream, ca_scalars_of(y), rows, ca_rows_of(w), ca_is_wide(x) && ca_is_wide(w));
    return ca_launched();
}

/* w: x where the reduction does not read it. */
template <reduction KIND>
static int reduce(const ca_queue *queue, const ca_tensor &y, const ca_tensor &x,
                  const ca_tensor &w) {
    return x.shape[x.rank - 1] <= WARP_WIDTH ? reduce_by<CA_WARP, KIND>(queue, y, x, w)
                                             : reduce_by<BLOCK, KIND>(queue, y, x, w);
}

int ca_k_row_norms(const ca_queue *queue, ca_tensor y, ca_tensor x) {
    return reduce<NORM>(queue, y, x, x);
}

int ca_k_row_dots(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor w) {
    return reduce<DOT>(queue, y, x, w);
}

int ca_k_row_distances(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor w) {
    return w.data ? reduce<DISTANCE>(queue, y, x, w) : reduce<SIZE>(queue, y, x, x);
}
