/* SPDX-License-Identifier: MIT
 *
 * Norms, dot products and L1 distances of rows.
 */
#include "ca_quads.cuh"

constexpr int BLOCK = 256, WARP_WIDTH = 1024; /* the longest row that a warp takes */

/* y[r] = x[r] . w[r], or the norm of x[r]
 *
 * Grid: strides over rows. A team (a warp or the block) owns a row and its output; a member sums
 * its quads in order, then follows a fixed tree: the same bits on every run. 8 bytes an element (4
 * for norms), 2 FLOPs. Shared memory: one float a warp; barriers: those of ca_block_sum. */
template <int TEAM, bool NORM>
static __global__ void __launch_bounds__(BLOCK)
    row_dots_kernel(ca_rows y, ca_rows x, ca_rows w, bool wide) {
    CA_SHARED(float, scratch, CA_WARP);
    constexpr int TEAMS = BLOCK / TEAM;
    const int team = (int)threadIdx.x / TEAM, member = (int)threadIdx.x % TEAM;
    for (int64_t r = (int64_t)blockIdx.x * TEAMS + team; r < x.rows;
         r += (int64_t)gridDim.x * TEAMS) {
        const float *a = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        const float *b = static_cast<const float *>(w.data) + ca_row_offset(w, r);
        float sum = 0.0f;
        for (int64_t i = 4 * member; i < x.width; i += 4 * TEAM) {
            ca_quad<float> u = ca_load(a + i, x.width - i, wide);
            ca_quad<float> v = NORM ? u : ca_load(b + i, x.width - i, wide);
            for (int k = 0; k < 4; k++) sum += u.at[k] * v.at[k];
        }
        sum = ca_team_sum<TEAM>(sum, scratch);
        if (member == 0)
            static_cast<float *>(y.data)[ca_row_offset(y, r)] = NORM ? sqrtf(sum) : sum;
    }
}

template <int TEAM, bool NORM>
static int row_dots(const ca_queue *queue, const ca_tensor &y, const ca_tensor &x,
                    const ca_tensor &w) {
    ca_rows rows = ca_rows_of(x);
    CA_LAUNCH((row_dots_kernel<TEAM, NORM>), ca_grid(queue, rows.rows, BLOCK / TEAM), BLOCK, 0,
              queue->stream, ca_scalars_of(y), rows, ca_rows_of(w), ca_is_wide(x) && ca_is_wide(w));
    return ca_launched();
}

int ca_k_row_norms(const ca_queue *queue, ca_tensor y, ca_tensor x) {
    return x.shape[x.rank - 1] <= WARP_WIDTH ? row_dots<CA_WARP, true>(queue, y, x, x)
                                             : row_dots<BLOCK, true>(queue, y, x, x);
}

int ca_k_row_dots(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor w) {
    return x.shape[x.rank - 1] <= WARP_WIDTH ? row_dots<CA_WARP, false>(queue, y, x, w)
                                             : row_dots<BLOCK, false>(queue, y, x, w);
}

/* y[r] = sum of |x[r] - w[r]|, or of |x[r]| where w has no data
 *
 * Grid, ownership, shared memory, barriers and the order of sums: as row_dots_kernel. Quads end in
 * zeros, whose distance is 0. 8 bytes an element (4 without w), 3 FLOPs. */
template <int TEAM>
static __global__ void __launch_bounds__(BLOCK)
    row_distances_kernel(ca_rows y, ca_rows x, ca_rows w, bool wide) {
    CA_SHARED(float, scratch, CA_WARP);
    constexpr int TEAMS = BLOCK / TEAM;
    const int team = (int)threadIdx.x / TEAM, member = (int)threadIdx.x % TEAM;
    for (int64_t r = (int64_t)blockIdx.x * TEAMS + team; r < x.rows;
         r += (int64_t)gridDim.x * TEAMS) {
        const float *a = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        const float *b = w.data ? static_cast<const float *>(w.data) + ca_row_offset(w, r) : NULL;
        float sum = 0.0f;
        for (int64_t i = 4 * member; i < x.width; i += 4 * TEAM) {
            ca_quad<float> u = ca_load(a + i, x.width - i, wide);
            ca_quad<float> v = {{0.0f, 0.0f, 0.0f, 0.0f}};
            if (b) v = ca_load(b + i, x.width - i, wide);
            for (int k = 0; k < 4; k++) sum += fabsf(u.at[k] - v.at[k]);
        }
        sum = ca_team_sum<TEAM>(sum, scratch);
        if (member == 0) static_cast<float *>(y.data)[ca_row_offset(y, r)] = sum;
    }
}

template <int TEAM>
static int row_distances(const ca_queue *queue, const ca_tensor &y, const ca_tensor &x,
                         const ca_tensor &w) {
    ca_rows rows = ca_rows_of(x);
    CA_LAUNCH((row_distances_kernel<TEAM>), ca_grid(queue, rows.rows, BLOCK / TEAM), BLOCK, 0,
              queue->stream, ca_scalars_of(y), rows, ca_rows_of(w),
              ca_is_wide(x) && (!w.data || ca_is_wide(w)));
    return ca_launched();
}

int ca_k_row_distances(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor w) {
    return x.shape[x.rank - 1] <= WARP_WIDTH ? row_distances<CA_WARP>(queue, y, x, w)
                                             : row_distances<BLOCK>(queue, y, x, w);
}
