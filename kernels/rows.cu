/* SPDX-License-Identifier: MIT
 *
 * Rows chosen, added, multiplied, summed over heads.
 *
 * All kernels here: the grid strides over tiles of the rows named in the comment; a thread owns its
 * quads and what is written there; no shared memory, no barrier, so results repeat bit for bit. All
 * are bound by memory; bytes are counted for each element of a row, in f32.
 */
#include "ca_quads.cuh"

template <typename T> static __device__ __forceinline__ T *row_of(const ca_rows &t, int64_t r) {
    return static_cast<T *>(t.data) + ca_row_offset(t, r);
}

/* ---- elementwise */

/* y += alpha x.  12 bytes, 2 FLOPs. */
static __global__ void __launch_bounds__(CA_TILE)
    add_kernel(ca_rows y, ca_rows x, float alpha, int shift, bool wide) {
    const ca_walk walk = ca_walk_of(shift);
    for (int64_t r = walk.row; r < y.rows; r += walk.row_step) {
        float *to = row_of<float>(y, r);
        const float *from = row_of<const float>(x, r);
        for (int64_t i = walk.column; i < y.width; i += walk.column_step) {
            const int64_t left = y.width - i;
            ca_quad<float> a = ca_load(to + i, left, wide), b = ca_load(from + i, left, wide);
            for (int k = 0; k < 4; k++) a.at[k] += alpha * b.at[k];
            ca_store(to + i, a, left, wide);
        }
    }
}

/* y[r] += alpha scale[r] x[r].  12 bytes, 2 FLOPs. */
static __global__ void __launch_bounds__(CA_TILE)
    add_scaled_rows_kernel(ca_rows y, ca_rows x, ca_rows scale, float alpha, int shift, bool wide) {
    const ca_walk walk = ca_walk_of(shift);
    for (int64_t r = walk.row; r < y.rows; r += walk.row_step) {
        float *to = row_of<float>(y, r);
        const float *from = row_of<const float>(x, r);
        const float factor = alpha * *row_of<const float>(scale, r);
        for (int64_t i = walk.column; i < y.width; i += walk.column_step) {
            const int64_t left = y.width - i;
            ca_quad<float> a = ca_load(to + i, left, wide), b = ca_load(from + i, left, wide);
            for (int k = 0; k < 4; k++) a.at[k] += factor * b.at[k];
            ca_store(to + i, a, left, wide);
        }
    }
}

/* y = x w; y may be x.  12 bytes, 1 FLOP. */
static __global__ void __launch_bounds__(CA_TILE)
    multiply_kernel(ca_rows y, ca_rows x, ca_rows w, int shift, bool wide) {
    const ca_walk walk = ca_walk_of(shift);
    for (int64_t r = walk.row; r < y.rows; r += walk.row_step) {
        float *to = row_of<float>(y, r);
        const float *from = row_of<const float>(x, r), *by = row_of<const float>(w, r);
        for (int64_t i = walk.column; i < y.width; i += walk.column_step) {
            const int64_t left = y.width - i;
            ca_quad<float> a = ca_load(from + i, left, wide), b = ca_load(by + i, left, wide);
            for (int k = 0; k < 4; k++) a.at[k] *= b.at[k];
            ca_store(to + i, a, left, wide);
        }
    }
}

int ca_k_add(const ca_queue *queue, ca_tensor y, ca_tensor x, double alpha) {
    ca_tensor *const both[] = {&y, &x};
    ca_merge_axes(2, both);
    ca_rows rows = ca_rows_of(y);
    ca_tiles tiles = ca_tiles_of(queue, rows.rows, rows.width);
    CA_LAUNCH(add_kernel, tiles.grid, CA_TILE, 0, queue->stream, rows, ca_rows_of(x), (float)alpha,
              tiles.shift, ca_is_wide(y) && ca_is_wide(x));
    return ca_launched();
}

/* The bias is repeated by stride 0, and stays in the cache. */
int ca_k_add_bias(const ca_queue *queue, ca_tensor y, ca_tensor bias) {
    ca_tensor repeated = y;
    repeated.data = bias.data;
    for (int axis = 0; axis + 1 < y.rank; axis++) repeated.stride[axis] = 0;
    return ca_k_add(queue, y, repeated, 1);
}

int ca_k_add_scaled_rows(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor scale,
                         double alpha) {
    ca_rows rows = ca_rows_of(y);
    ca_tiles tiles = ca_tiles_of(queue, rows.rows, rows.width);
    CA_LAUNCH(add_scaled_rows_kernel, tiles.grid, CA_TILE, 0, queue->stream, rows, ca_rows_of(x),
              ca_scalars_of(scale), (float)alpha, tiles.shift, ca_is_wide(y) && ca_is_wide(x));
    return ca_launched();
}

int ca_k_multiply(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor w) {
    ca_tensor *const all[] = {&y, &x, &w};
    ca_merge_axes(3, all);
    ca_rows rows = ca_rows_of(y);
    ca_tiles tiles = ca_tiles_of(queue, rows.rows, rows.width);
    CA_LAUNCH(multiply_kernel, tiles.grid, CA_TILE, 0, queue->stream, rows, ca_rows_of(x),
              ca_rows_of(w), tiles.shift, ca_is_wide(y) && ca_is_wide(x) && ca_is_wide(w));
    return ca_launched();
}

/* ---- by index */

/* Row `index[i]` of lane `lane` of a table, or -1 when there is no such row. */
struct ca_table {
    char *data;
    int64_t rows, lane_stride, row_stride; /* in elements */
};

static ca_table table_of(const ca_tensor &t) {
    ca_table table = {static_cast<char *>(t.data), t.shape[t.rank - 2],
                      t.rank == 3 ? t.stride[0] : 0, t.stride[t.rank - 2]};
    return table;
}

static __device__ __forceinline__ int64_t index_at(const void *index, bool is_64, int64_t i) {
    return is_64 ? static_cast<const int64_t *>(index)[i] : static_cast<const int32_t *>(index)[i];
}

/* y[lane, i] = scale x[lane, index[i]] (+ y[lane, i])
 *
 * Tiles of y. 4 bytes and those of x, 4 more when accumulating; 2 FLOPs. A bad index gives a row
 * of NaN and a fault. */
template <typename T>
static __global__ void __launch_bounds__(CA_TILE)
    gather_kernel(ca_rows y, ca_table x, const void *index, bool index_is_64, int64_t count,
                  float scale, bool accumulate, int32_t *fault, int shift, bool wide) {
    const ca_walk walk = ca_walk_of(shift);
    for (int64_t r = walk.row; r < y.rows; r += walk.row_step) {
        const int64_t lane = ca_divide(r, count);
        const int64_t chosen = index_at(index, index_is_64, r - lane * count);
        const bool valid = chosen >= 0 && chosen < x.rows;
        if (!valid && walk.column == 0) atomicMax(fault, (int32_t)CA_FAULT_GATHER);
        float *to = row_of<float>(y, r);
        const T *from = reinterpret_cast<const T *>(x.data) + lane * x.lane_stride +
                        (valid ? chosen : 0) * x.row_stride;
        const float factor = valid ? scale : NAN;
        for (int64_t i = walk.column; i < y.width; i += walk.column_step) {
            const int64_t left = y.width - i;
            ca_quad<T> b = ca_load(from + i, valid ? left : 0, wide);
            ca_quad<float> a = {{0.0f, 0.0f, 0.0f, 0.0f}};
            if (accumulate) a = ca_load(to + i, left, wide);
            for (int k = 0; k < 4; k++) a.at[k] += factor * ca_to_float(b.at[k]);
            ca_store(to + i, a, left, wide);
        }
    }
}

/* y[lane, index[i]] += x[lane, i]
 *
 * Tiles of x: since the index rises strictly, a row of y has one writer. 12 bytes, 1 FLOP. A row
 * whose index is bad or does not rise is left out and gives a fault. */
static __global__ void __launch_bounds__(CA_TILE)
    scatter_add_kernel(ca_table y, const int64_t *index, int64_t count, ca_rows x, int32_t *fault,
                       int shift, bool wide) {
    const ca_walk walk = ca_walk_of(shift);
    for (int64_t r = walk.row; r < x.rows; r += walk.row_step) {
        const int64_t lane = ca_divide(r, count), i = r - lane * count, chosen = index[i];
        if (chosen < 0 || chosen >= y.rows || (i > 0 && index[i - 1] >= chosen)) {
            if (walk.column == 0) atomicMax(fault, (int32_t)CA_FAULT_SCATTER);
            continue;
        }
        const float *from = row_of<const float>(x, r);
        float *to =
            reinterpret_cast<float *>(y.data) + lane * y.lane_stride + chosen * y.row_stride;
        for (int64_t j = walk.column; j < x.width; j += walk.column_step) {
            const int64_t left = x.width - j;
            ca_quad<float> a = ca_load(to + j, left, wide), b = ca_load(from + j, left, wide);
            for (int k = 0; k < 4; k++) a.at[k] += b.at[k];
            ca_store(to + j, a, left, wide);
        }
    }
}

template <typename T>
static int gather(const ca_queue *queue, const ca_tensor &y, const ca_tensor &x,
                  const ca_tensor &index, double scale, bool accumulate) {
    ca_rows rows = ca_rows_of(y);
    ca_tiles tiles = ca_tiles_of(queue, rows.rows, rows.width);
    CA_LAUNCH((gather_kernel<T>), tiles.grid, CA_TILE, 0, queue->stream, rows, table_of(x),
              index.data, index.dtype == CA_I64, index.shape[0], (float)scale, accumulate,
              queue->fault, tiles.shift, ca_is_wide(y) && ca_is_wide(x));
    return ca_launched();
}

int ca_k_gather(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor index, double scale,
                bool accumulate) {
    return x.dtype == CA_BF16 ? gather<ca_bf16>(queue, y, x, index, scale, accumulate)
                              : gather<float>(queue, y, x, index, scale, accumulate);
}

int ca_k_scatter_add(const ca_queue *queue, ca_tensor y, ca_tensor index, ca_tensor x) {
    ca_rows rows = ca_rows_of(x);
    if (rows.rows == 0 || rows.width == 0) return 0;
    ca_tiles tiles = ca_tiles_of(queue, rows.rows, rows.width);
    CA_LAUNCH(scatter_add_kernel, tiles.grid, CA_TILE, 0, queue->stream, table_of(y),
              static_cast<const int64_t *>(index.data), index.shape[0], rows, queue->fault,
              tiles.shift, ca_is_wide(y) && ca_is_wide(x));
    return ca_launched();
}

/* ---- heads */

/* y[t] = x[t, 0] + x[t, 1] + ... + bias, in this order
 *
 * Tiles of y. 4 heads + 4 bytes and `heads` FLOPs. */
static __global__ void __launch_bounds__(CA_TILE)
    sum_heads_kernel(ca_rows y, const float *x, int64_t heads, int64_t row_stride,
                     int64_t head_stride, const float *bias, int shift, bool wide) {
    const ca_walk walk = ca_walk_of(shift);
    for (int64_t r = walk.row; r < y.rows; r += walk.row_step) {
        float *to = row_of<float>(y, r);
        for (int64_t i = walk.column; i < y.width; i += walk.column_step) {
            const int64_t left = y.width - i;
            const float *from = x + r * row_stride + i;
            ca_quad<float> sum = {{0.0f, 0.0f, 0.0f, 0.0f}};
            for (int64_t h = 0; h < heads; h++) {
                ca_quad<float> a = ca_load(from + h * head_stride, left, wide);
                for (int k = 0; k < 4; k++) sum.at[k] += a.at[k];
            }
            if (bias) {
                ca_quad<float> b = ca_load(bias + i, left, wide);
                for (int k = 0; k < 4; k++) sum.at[k] += b.at[k];
            }
            ca_store(to + i, sum, left, wide);
        }
    }
}

int ca_k_sum_heads(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor bias) {
    ca_rows rows = ca_rows_of(y);
    ca_tiles tiles = ca_tiles_of(queue, rows.rows, rows.width);
    bool wide = ca_is_wide(y) && ca_is_wide(x) && (!bias.data || ca_is_wide(bias));
    CA_LAUNCH(sum_heads_kernel, tiles.grid, CA_TILE, 0, queue->stream, rows,
              static_cast<const float *>(x.data), x.shape[1], x.stride[0], x.stride[1],
              static_cast<const float *>(bias.data), tiles.shift, wide);
    return ca_launched();
}
