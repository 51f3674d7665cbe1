/* SPDX-License-Identifier: MIT
 *
 * The only include that differs between nvcc and the SIMT shim, and the few device helpers that
 * all kernels share. The rules for kernels are in README.md.
 */
#ifndef CA_CUDA_CUH
#define CA_CUDA_CUH

#ifdef CA_SIMT
#include "simt.h"
#else
#include <cuda_runtime.h>
#include <math.h>
#define CA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                  \
    kernel<<<(grid), (block), (shared_bytes), (cudaStream_t)(stream)>>>(__VA_ARGS__)
#define CA_SHARED(type, name, count) __shared__ type name[count]
#define CA_DYN_SHARED(type, name)                                                                  \
    extern __shared__ __align__(16) unsigned char ca_dynamic_shared[];                             \
    type *name = reinterpret_cast<type *>(ca_dynamic_shared)
#endif

#include "ca_kernels.h"

enum { CA_WARP = 32 };
#define CA_FULL_WARP 0xffffffffu

/* ---- bf16: storage only; arithmetic is f32 */

struct ca_bf16 {
    uint16_t bits;
};

static __device__ __forceinline__ float ca_to_float(float x) { return x; }
static __device__ __forceinline__ float ca_to_float(ca_bf16 x) {
    return __uint_as_float((uint32_t)x.bits << 16);
}

/* ---- addressing: 64-bit throughout */

/* A tensor as rows of its last axis, which is contiguous; row r counts the axes before it. Axes
 * that lie end to end in memory count as one, so most tensors have one stride. */
struct ca_rows {
    void *data;
    int64_t rows, width;
    int64_t shape1, shape2; /* of the two axes before the last one, 1 where there is none */
    int64_t stride0, stride1, stride2;
};

static inline ca_rows ca_rows_of(ca_tensor t) {
    int64_t shape[CA_MAX_RANK] = {1, 1, 1, 1}, stride[CA_MAX_RANK] = {0, 0, 0, 1};
    for (int i = 0; i < t.rank; i++) {
        shape[CA_MAX_RANK - t.rank + i] = t.shape[i];
        stride[CA_MAX_RANK - t.rank + i] = t.stride[i];
    }
    for (int axis = 0; axis < 2; axis++) {
        if (shape[axis + 1] == 1) stride[axis + 1] = stride[axis];
        if (shape[axis] != 1 && stride[axis] != shape[axis + 1] * stride[axis + 1]) continue;
        shape[axis + 1] *= shape[axis];
        for (int outer = axis; outer > 0; outer--) {
            shape[outer] = shape[outer - 1];
            stride[outer] = stride[outer - 1];
        }
        shape[0] = 1;
    }
    ca_rows r = {t.data,    shape[0] * shape[1] * shape[2],
                 shape[3],  shape[1],
                 shape[2],  stride[0],
                 stride[1], stride[2]};
    return r;
}

/* A tensor with one number for each row of another: [...] as [..., 1]. */
static inline ca_rows ca_scalars_of(ca_tensor t) {
    t.shape[t.rank] = t.stride[t.rank] = 1;
    t.rank++;
    return ca_rows_of(t);
}

/* a / b for a >= 0, b > 0. Division of 64 bits takes some hundred instructions, of 32 bits ten. */
static __device__ __forceinline__ int64_t ca_divide(int64_t a, int64_t b) {
    return ((a | b) >> 32) == 0 ? (int64_t)((uint32_t)a / (uint32_t)b) : a / b;
}

/* Offset of row r in elements. */
static __device__ __forceinline__ int64_t ca_row_offset(const ca_rows &t, int64_t r) {
    if (t.rows == t.shape2) return r * t.stride2;
    int64_t outer = ca_divide(r, t.shape2), inner = r - outer * t.shape2;
    int64_t first = t.rows == t.shape1 * t.shape2 ? 0 : ca_divide(outer, t.shape1);
    return first * t.stride0 + (outer - first * t.shape1) * t.stride1 + inner * t.stride2;
}

static inline int64_t ca_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* A block for each item, up to the device's largest grid; the kernel strides over the rest. */
static inline unsigned ca_item_grid(const ca_queue *queue, int64_t items) {
    return (unsigned)(items < queue->most_blocks ? items : queue->most_blocks);
}

/* Blocks for `work` units: enough to fill the device, the kernel strides over the rest. */
static inline unsigned ca_grid(const ca_queue *queue, int64_t work, int64_t per_block) {
    int64_t blocks = ca_ceil_div(work, per_block), most = (int64_t)queue->multiprocessors * 16;
    return ca_item_grid(queue, blocks < most ? blocks : most);
}

/* ---- reductions: fixed trees, so results repeat bit for bit */

/* Sum over a full warp, in every lane. All 32 lanes call it together. */
static __device__ __forceinline__ float ca_warp_sum(float v) {
    for (int offset = CA_WARP / 2; offset > 0; offset >>= 1)
        v += __shfl_xor_sync(CA_FULL_WARP, v, offset);
    return v;
}

static __device__ __forceinline__ float ca_warp_max(float v) {
    for (int offset = CA_WARP / 2; offset > 0; offset >>= 1)
        v = fmaxf(v, __shfl_xor_sync(CA_FULL_WARP, v, offset));
    return v;
}

/* Sum over the block, in every thread. scratch [32] is shared memory; on return every thread has
 * read it, so the caller may use it again at once. The block is a whole number of warps. */
static __device__ __forceinline__ float ca_block_sum(float v, float *scratch) {
    const int lane = (int)threadIdx.x % CA_WARP, warp = (int)threadIdx.x / CA_WARP;
    const int warps = (int)blockDim.x / CA_WARP;
    v = ca_warp_sum(v);
    if (lane == 0) scratch[warp] = v;
    __syncthreads();
    v = ca_warp_sum(lane < warps ? scratch[lane] : 0.0f);
    __syncthreads();
    return v;
}

/* As ca_block_sum; NaN only where all values are. */
static __device__ __forceinline__ float ca_block_max(float v, float *scratch) {
    const int lane = (int)threadIdx.x % CA_WARP, warp = (int)threadIdx.x / CA_WARP;
    const int warps = (int)blockDim.x / CA_WARP;
    v = ca_warp_max(v);
    if (lane == 0) scratch[warp] = v;
    __syncthreads();
    v = ca_warp_max(scratch[lane < warps ? lane : 0]);
    __syncthreads();
    return v;
}

/* What a launcher returns. */
static inline int ca_launched(void) { return (int)cudaGetLastError(); }

#endif
