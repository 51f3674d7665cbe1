/* SPDX-License-Identifier: MIT
 *
 * Walking over rows four elements at a time, for kernels that are bound by memory.
 *
 * The wide path (one access of up to 16 bytes) and the narrow one (four accesses) move the same
 * elements through the same threads, so alignment never changes a result.
 */
#ifndef CA_QUADS_CUH
#define CA_QUADS_CUH

#include "ca_cuda.cuh"

/* ---- four neighbouring elements */

template <typename T> struct alignas(sizeof(T) < 4 ? 4 * sizeof(T) : 16) ca_quad { T at[4]; };

/* Whether every row of t begins where a quad may be accessed at once. */
static inline bool ca_is_wide(const ca_tensor &t) {
    size_t quad = 4 * ca_dtype_size(t.dtype);
    bool wide = (uintptr_t)t.data % (quad < 16 ? quad : 16) == 0;
    for (int axis = 0; axis + 1 < t.rank; axis++)
        wide = wide && (t.shape[axis] == 1 || t.stride[axis] % 4 == 0);
    return wide;
}

/* The elements p[0 .. min(4, count)), zeros behind them. */
template <typename T>
static __device__ __forceinline__ ca_quad<T> ca_load(const T *p, int64_t count, bool wide) {
    if (wide && count >= 4) return *reinterpret_cast<const ca_quad<T> *>(p);
    ca_quad<T> v;
    for (int k = 0; k < 4; k++) v.at[k] = k < count ? p[k] : T();
    return v;
}

/* p[0 .. min(4, count)) = v */
template <typename T>
static __device__ __forceinline__ void ca_store(T *p, const ca_quad<T> &v, int64_t count,
                                                bool wide) {
    if (wide && count >= 4) {
        *reinterpret_cast<ca_quad<T> *>(p) = v;
        return;
    }
    for (int k = 0; k < 4; k++)
        if (k < count) p[k] = v.at[k];
}

/* ---- elementwise kernels: a rectangle of quads for each block */

constexpr int CA_TILE = 256; /* threads: 1 << shift along a row, the others along the rows */

/* Blocks along a further dimension of a grid that has `others` blocks along the others. */
static inline unsigned ca_grid_beside(const ca_queue *queue, int64_t work, int64_t per_block,
                                      unsigned others) {
    unsigned blocks = ca_grid(queue, work, per_block), most = ca_grid(queue, INT32_MAX, 1) / others;
    return blocks < most ? blocks : most > 0 ? most : 1;
}

struct ca_tiles {
    dim3 grid;
    int shift;
};

/* The tiles of rows x width elements. The grid strides over what is more than fills the device. */
static inline ca_tiles ca_tiles_of(const ca_queue *queue, int64_t rows, int64_t width) {
    int64_t quads = ca_ceil_div(width, 4);
    int shift = 0;
    while ((1 << shift) < CA_TILE && (1 << shift) < quads) shift++;
    unsigned across = ca_grid(queue, quads, 1 << shift);
    unsigned down = ca_grid_beside(queue, rows, CA_TILE >> shift, across);
    ca_tiles tiles = {dim3(down, across), shift};
    return tiles;
}

/* Where a thread begins and how far it steps. */
struct ca_walk {
    int64_t row, row_step, column, column_step;
};

static __device__ __forceinline__ ca_walk ca_walk_of(int shift) {
    const int thread = (int)threadIdx.x, height = CA_TILE >> shift;
    ca_walk walk = {(int64_t)blockIdx.x * height + (thread >> shift), (int64_t)gridDim.x * height,
                    4 * (((int64_t)blockIdx.y << shift) + (thread & ((1 << shift) - 1))),
                    4 * ((int64_t)gridDim.y << shift)};
    return walk;
}

/* Merges axes that lie end to end in all of `count` tensors of one shape: [T, D] contiguous
 * becomes [T D], which spares short rows and the addresses of many. */
static inline void ca_merge_axes(int count, ca_tensor *const *tensors) {
    ca_tensor *first = tensors[0];
    for (int i = 0; i < count; i++) tensors[i]->stride[first->rank - 1] = 1;
    for (int axis = first->rank - 2; axis >= 0; axis--) {
        int64_t inner = first->shape[axis + 1];
        bool merge = true;
        for (int i = 0; i < count; i++)
            merge = merge && (first->shape[axis] == 1 ||
                              tensors[i]->stride[axis] == inner * tensors[i]->stride[axis + 1]);
        for (int i = 0; i < count && merge; i++) {
            ca_tensor *t = tensors[i];
            t->shape[axis + 1] *= t->shape[axis];
            for (int to = axis; to + 1 < t->rank; to++) {
                t->shape[to] = t->shape[to + 1];
                t->stride[to] = t->stride[to + 1];
            }
            t->rank--;
        }
    }
}

/* ---- kernels that reduce rows: a team of threads for each */

/* Over a team, which is a warp or the block, in every thread of it; as ca_warp_sum and
 * ca_block_sum, of which only the latter uses scratch. */
template <int TEAM> static __device__ __forceinline__ float ca_team_sum(float v, float *scratch) {
    return TEAM == CA_WARP ? ca_warp_sum(v) : ca_block_sum(v, scratch);
}

template <int TEAM> static __device__ __forceinline__ float ca_team_max(float v, float *scratch) {
    return TEAM == CA_WARP ? ca_warp_max(v) : ca_block_max(v, scratch);
}

/* ---- lanes */

/* Without the first axis where it repeats x (lanes share x); *lanes: how often. Row r of the result
 * serves rows r, r + its rows, r + 2 its rows, ... of tensors with all lanes. */
static inline ca_tensor ca_one_lane(ca_tensor x, int64_t *lanes) {
    *lanes = 1;
    if (x.rank < 2 || x.stride[0] != 0) return x;
    *lanes = x.shape[0];
    x.rank--;
    for (int axis = 0; axis < x.rank; axis++) {
        x.shape[axis] = x.shape[axis + 1];
        x.stride[axis] = x.stride[axis + 1];
    }
    return x;
}

#endif
