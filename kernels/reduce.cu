/* SPDX-License-Identifier: MIT
 *
 * Norms and dot products of rows.
 *
 * Grid: strides over rows. One warp owns a row and its output; lane l sums the elements l, l + 32,
 * ..., then a fixed tree over the lanes: the same bits on every run. No shared memory, no barrier.
 */
#include "ca_cuda.cuh"

constexpr int BLOCK = 256, WARPS = BLOCK / CA_WARP;

/* y[r] = x[r] . w[r], or the norm of x[r] */
template <bool NORM>
static __global__ void __launch_bounds__(BLOCK) row_dots_kernel(ca_rows y, ca_rows x, ca_rows w) {
    const int lane = (int)threadIdx.x % CA_WARP;
    int64_t row = (int64_t)blockIdx.x * WARPS + (int)threadIdx.x / CA_WARP;
    for (; row < x.rows; row += (int64_t)gridDim.x * WARPS) {
        const float *a = static_cast<const float *>(x.data) + ca_row_offset(x, row);
        const float *b = static_cast<const float *>(w.data) + ca_row_offset(w, row);
        float sum = 0.0f;
        for (int64_t i = lane; i < x.width; i += CA_WARP) sum += a[i] * b[i];
        sum = ca_warp_sum(sum);
        if (lane == 0)
            static_cast<float *>(y.data)[ca_row_offset(y, row)] = NORM ? sqrtf(sum) : sum;
    }
}

/* y [...] has an axis less than x: give it a last axis of 1. */
static ca_rows scalars_of(ca_tensor y) {
    y.shape[y.rank] = y.stride[y.rank] = 1;
    y.rank++;
    return ca_rows_of(y);
}

int ca_k_row_norms(const ca_queue *queue, ca_tensor y, ca_tensor x) {
    ca_rows rows = ca_rows_of(x);
    CA_LAUNCH((row_dots_kernel<true>), ca_grid(queue, rows.rows, WARPS), BLOCK, 0, queue->stream,
              scalars_of(y), rows, rows);
    return ca_launched();
}

int ca_k_row_dots(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor w) {
    ca_rows rows = ca_rows_of(x);
    CA_LAUNCH((row_dots_kernel<false>), ca_grid(queue, rows.rows, WARPS), BLOCK, 0, queue->stream,
              scalars_of(y), rows, ca_rows_of(w));
    return ca_launched();
}
