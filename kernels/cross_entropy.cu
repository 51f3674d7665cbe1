/* SPDX-License-Identifier: MIT
 *
 * Cross entropy of rows of logits with one target each.
 *
 * Sums are of exp(x - top), top being the largest logit met so far: nothing overflows, and the loss
 * is log(sum) + (top - x[target]), which keeps its digits where both logits are large.
 */
#include <float.h>

#include "ca_quads.cuh"

constexpr int BLOCK = 256, WARPS = BLOCK / CA_WARP;

/* The largest of some logits (-FLT_MAX when all are smaller, so that differences to it are
 * defined), and the sum of exp(x - top). A NaN makes the sum NaN. */
struct exp_sum {
    float top, sum;
};

static __device__ __forceinline__ exp_sum merge(exp_sum a, exp_sum b) {
    const float top = fmaxf(a.top, b.top);
    exp_sum c = {top, a.sum * expf(a.top - top) + b.sum * expf(b.top - top)};
    return c;
}

/* Of a row but for its element `hit`, in every thread: quads by the threads in turn, then a fixed
 * tree over the lanes and the warps in their order. scratch [WARPS] is shared memory; on return
 * every thread has read it, so the caller may use it again at once. */
static __device__ __forceinline__ exp_sum sum_of_others(const float *x, int64_t n, int64_t hit,
                                                        bool wide, exp_sum *scratch) {
    exp_sum s = {-FLT_MAX, 0.0f};
    for (int64_t i = 4 * (int)threadIdx.x; i < n; i += 4 * BLOCK) {
        const ca_quad<float> v = ca_load(x + i, n - i, wide);
        float top = s.top;
        for (int k = 0; k < 4; k++) top = i + k < n && i + k != hit ? fmaxf(top, v.at[k]) : top;
        if (top > s.top) s.sum *= expf(s.top - top), s.top = top;
        for (int k = 0; k < 4; k++)
            s.sum += i + k < n && i + k != hit ? expf(v.at[k] - s.top) : 0.0f;
    }
    for (int offset = CA_WARP / 2; offset > 0; offset >>= 1) {
        exp_sum other = {__shfl_xor_sync(CA_FULL_WARP, s.top, offset),
                         __shfl_xor_sync(CA_FULL_WARP, s.sum, offset)};
        s = merge(s, other);
    }
    if (threadIdx.x % CA_WARP == 0) scratch[threadIdx.x / CA_WARP] = s;
    __syncthreads();
    s = scratch[0];
    for (int warp = 1; warp < WARPS; warp++) s = merge(s, scratch[warp]);
    __syncthreads();
    return s;
}

/* The target of a row, or -1 and a fault when it is no column. All threads of the block get the
 * same; one of them reports. */
static __device__ __forceinline__ int64_t target_of(const int32_t *target, int64_t r, int64_t n,
                                                    int32_t *fault) {
    const int64_t t = target[r];
    if (t >= 0 && t < n) return t;
    if (threadIdx.x == 0) atomicMax(fault, (int32_t)CA_FAULT_CROSS_ENTROPY);
    return -1;
}

/* loss [n] = log sum exp(x [n, V]) - x[n, target[n]], NaN for a bad target
 *
 * Grid: strides over rows, of which a block owns one. 4 bytes and about 4 FLOPs an element, each
 * with one exponential. Shared memory: two floats a warp; two barriers a row. */
static __global__ void __launch_bounds__(BLOCK)
    cross_entropy_fwd_kernel(float *loss, ca_rows x, const int32_t *target, int32_t *fault,
                             bool wide) {
    CA_SHARED(exp_sum, scratch, WARPS);
    for (int64_t r = blockIdx.x; r < x.rows; r += gridDim.x) {
        const float *from = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        const exp_sum s = sum_of_others(from, x.width, -1, wide, scratch);
        const int64_t hit = target_of(target, r, x.width, fault);
        if (threadIdx.x == 0) loss[r] = hit < 0 ? NAN : logf(s.sum) + (s.top - from[hit]);
    }
}

/* dx [n, V] = scale[n] (softmax(x[n]) - onehot(target[n])), rows of NaN for a bad target; dx may
 * be x. At the target the sum of the others stands for 1 - p, which keeps its digits
 *
 * Grid, shared memory and barriers as above; a thread writes the quads that it read. 12 bytes (x
 * twice, the second time mostly from the cache) and about 7 FLOPs an element. */
static __global__ void __launch_bounds__(BLOCK)
    cross_entropy_bwd_kernel(ca_rows dx, ca_rows x, const int32_t *target, const float *scale,
                             int32_t *fault, bool wide) {
    CA_SHARED(exp_sum, scratch, WARPS);
    for (int64_t r = blockIdx.x; r < x.rows; r += gridDim.x) {
        const float *from = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        float *to = static_cast<float *>(dx.data) + ca_row_offset(dx, r);
        const int64_t hit = target_of(target, r, x.width, fault);
        const float own = hit < 0 ? 0.0f : from[hit]; /* read before the barriers: dx may be x */
        const exp_sum others = sum_of_others(from, x.width, hit, wide, scratch);
        const float top = fmaxf(others.top, own), rest = others.sum * expf(others.top - top);
        const float sum = rest + expf(own - top); /* NaN when own is */
        const float factor = hit < 0 ? NAN : scale[r], share = factor / sum;
        for (int64_t i = 4 * (int)threadIdx.x; i < x.width; i += 4 * BLOCK) {
            ca_quad<float> v = ca_load(from + i, x.width - i, wide);
            for (int k = 0; k < 4; k++)
                v.at[k] = i + k == hit ? -factor * (rest / sum) : share * expf(v.at[k] - top);
            ca_store(to + i, v, x.width - i, wide);
        }
    }
}

int ca_k_cross_entropy_fwd(const ca_queue *queue, ca_tensor loss, ca_tensor x, ca_tensor target) {
    const ca_rows rows = ca_rows_of(x);
    CA_LAUNCH(cross_entropy_fwd_kernel, ca_grid(queue, rows.rows, 1), BLOCK, 0, queue->stream,
              static_cast<float *>(loss.data), rows, static_cast<const int32_t *>(target.data),
              queue->fault, ca_is_wide(x));
    return ca_launched();
}

int ca_k_cross_entropy_bwd(const ca_queue *queue, ca_tensor dx, ca_tensor x, ca_tensor target,
                           ca_tensor scale) {
    const ca_rows rows = ca_rows_of(x);
    CA_LAUNCH(cross_entropy_bwd_kernel, ca_grid(queue, rows.rows, 1), BLOCK, 0, queue->stream,
              ca_rows_of(dx), rows, static_cast<const int32_t *>(target.data),
              static_cast<const float *>(scale.data), queue->fault,
              ca_is_wide(dx) && ca_is_wide(x));
    return ca_launched();
}
