/* SPDX-License-Identifier: MIT
 *
 * Activations of the MLP, plain and gated, and their gradients.
 *
 * Grid: strides over tiles of y (forward) or of one lane of dy (backward); a thread owns its quads.
 * No shared memory, no barrier. Bound by memory: forward 8 bytes for each element of y, 12 when
 * gated; backward 8 (12) for each of dy, and 4 (8) once for all lanes; 20 to 40 FLOPs.
 */
#include "ca_quads.cuh"

/* ---- one value */

struct activation {
    float value, slope;
};

static __device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/* act(x) and act'(x); what is not used is not computed. Infinite powers of a large x must not meet
 * a factor that has become zero. */
template <ca_activation KIND> static __device__ __forceinline__ activation activate(float x) {
    float p, bend; /* the slope is p + bend */
    switch (KIND) {
    case CA_GELU:
        p = 0.5f * (1.0f + erff(x * 0.707106781f));
        bend = x * (0.398942280f * expf(-0.5f * x * x));
        break;
    case CA_GELU_TANH: {
        /* (1 + tanh u) / 2 = sigmoid(2 u), 2 u = 2 sqrt(2 / pi) (x + 0.044715 x^3) */
        p = sigmoid(1.59576912f * x * (1.0f + 0.044715f * x * x));
        float q = p * (1.0f - p);
        bend = q > 0.0f ? q * x * 1.59576912f * (1.0f + 0.134145f * x * x) : 0.0f;
        break;
    }
    case CA_SILU:
        p = sigmoid(x);
        bend = x * p * (1.0f - p);
        break;
    case CA_RELU: {
        activation relu = {x < 0.0f ? 0.0f : x, x > 0.0f ? 1.0f : 0.0f}; /* keeps NaN */
        return relu;
    }
    }
    activation a = {x * p, p + bend};
    return a;
}

/* ---- kernels */

/* y = act(x), or act(gate) up for x = gate, up of y.width elements each. */
template <ca_activation KIND, bool GATED>
static __global__ void __launch_bounds__(CA_TILE)
    act_fwd_kernel(ca_rows y, ca_rows x, int shift, bool wide) {
    const ca_walk walk = ca_walk_of(shift);
    for (int64_t r = walk.row; r < y.rows; r += walk.row_step) {
        float *to = static_cast<float *>(y.data) + ca_row_offset(y, r);
        const float *from = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        for (int64_t i = walk.column; i < y.width; i += walk.column_step) {
            const int64_t left = y.width - i;
            ca_quad<float> a = ca_load(from + i, left, wide);
            for (int k = 0; k < 4; k++) a.at[k] = activate<KIND>(a.at[k]).value;
            if (GATED) {
                ca_quad<float> up = ca_load(from + y.width + i, left, wide);
                for (int k = 0; k < 4; k++) a.at[k] *= up.at[k];
            }
            ca_store(to + i, a, left, wide);
        }
    }
}

/* d gate = dy up act'(gate), d up = dy act(gate)
 *
 * x [x.rows] is one lane; lane l of dx and dy has their rows from l x.rows on. Blocks of one z take
 * every gridDim.z-th lane and compute the activation once. */
template <ca_activation KIND, bool GATED>
static __global__ void __launch_bounds__(CA_TILE)
    act_bwd_kernel(ca_rows dx, ca_rows dy, ca_rows x, int64_t lanes, int shift, bool wide) {
    const ca_walk walk = ca_walk_of(shift);
    for (int64_t r = walk.row; r < x.rows; r += walk.row_step) {
        const float *from = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        for (int64_t i = walk.column; i < dy.width; i += walk.column_step) {
            const int64_t left = dy.width - i;
            ca_quad<float> slope = ca_load(from + i, left, wide), value;
            for (int k = 0; k < 4; k++) {
                activation a = activate<KIND>(slope.at[k]);
                slope.at[k] = a.slope;
                value.at[k] = a.value;
            }
            if (GATED) {
                ca_quad<float> up = ca_load(from + dy.width + i, left, wide);
                for (int k = 0; k < 4; k++) slope.at[k] *= up.at[k];
            }
            for (int64_t lane = blockIdx.z; lane < lanes; lane += gridDim.z) {
                const int64_t row = lane * x.rows + r;
                const float *d = static_cast<const float *>(dy.data) + ca_row_offset(dy, row) + i;
                float *to = static_cast<float *>(dx.data) + ca_row_offset(dx, row) + i;
                ca_quad<float> g = ca_load(d, left, wide), up = g;
                for (int k = 0; k < 4; k++) {
                    g.at[k] *= slope.at[k];
                    up.at[k] *= value.at[k];
                }
                ca_store(to, g, left, wide);
                if (GATED) ca_store(to + dy.width, up, left, wide);
            }
        }
    }
}

/* ---- launchers */

template <ca_activation KIND, bool GATED>
static int act_fwd(const ca_queue *queue, const ca_tensor &y, const ca_tensor &x) {
    ca_rows rows = ca_rows_of(y);
    ca_tiles tiles = ca_tiles_of(queue, rows.rows, rows.width);
    bool wide = ca_is_wide(y) && ca_is_wide(x) && (!GATED || rows.width % 4 == 0);
    CA_LAUNCH((act_fwd_kernel<KIND, GATED>), tiles.grid, CA_TILE, 0, queue->stream, rows,
              ca_rows_of(x), tiles.shift, wide);
    return ca_launched();
}

template <ca_activation KIND, bool GATED>
static int act_bwd(const ca_queue *queue, const ca_tensor &dx, const ca_tensor &dy,
                   const ca_tensor &x) {
    int64_t lanes = 1;
    ca_rows one = ca_rows_of(ca_one_lane(x, &lanes)), d = ca_rows_of(dy);
    ca_tiles tiles = ca_tiles_of(queue, one.rows, d.width);
    tiles.grid.z = ca_grid_beside(queue, lanes, 1, tiles.grid.x * tiles.grid.y);
    bool wide = ca_is_wide(dx) && ca_is_wide(dy) && ca_is_wide(x) && (!GATED || d.width % 4 == 0);
    CA_LAUNCH((act_bwd_kernel<KIND, GATED>), tiles.grid, CA_TILE, 0, queue->stream, ca_rows_of(dx),
              d, one, lanes, tiles.shift, wide);
    return ca_launched();
}

template <bool GATED>
static int act_fwd_of(const ca_queue *queue, const ca_tensor &y, const ca_tensor &x,
                      ca_activation kind) {
    switch (kind) {
    case CA_GELU:
        return act_fwd<CA_GELU, GATED>(queue, y, x);
    case CA_GELU_TANH:
        return act_fwd<CA_GELU_TANH, GATED>(queue, y, x);
    case CA_SILU:
        return act_fwd<CA_SILU, GATED>(queue, y, x);
    case CA_RELU:
        return act_fwd<CA_RELU, GATED>(queue, y, x);
    }
    return (int)cudaErrorInvalidValue;
}

template <bool GATED>
static int act_bwd_of(const ca_queue *queue, const ca_tensor &dx, const ca_tensor &dy,
                      const ca_tensor &x, ca_activation kind) {
    switch (kind) {
    case CA_GELU:
        return act_bwd<CA_GELU, GATED>(queue, dx, dy, x);
    case CA_GELU_TANH:
        return act_bwd<CA_GELU_TANH, GATED>(queue, dx, dy, x);
    case CA_SILU:
        return act_bwd<CA_SILU, GATED>(queue, dx, dy, x);
    case CA_RELU:
        return act_bwd<CA_RELU, GATED>(queue, dx, dy, x);
    }
    return (int)cudaErrorInvalidValue;
}

int ca_k_act_fwd(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_activation kind, bool gated) {
    if (gated) return act_fwd_of<true>(queue, y, x, kind);
    ca_tensor *const both[] = {&y, &x};
    ca_merge_axes(2, both);
    return act_fwd_of<false>(queue, y, x, kind);
}

int ca_k_act_bwd(const ca_queue *queue, ca_tensor dx, ca_tensor dy, ca_tensor x, ca_activation kind,
                 bool gated) {
    if (gated) return act_bwd_of<true>(queue, dx, dy, x, kind);
    ca_tensor *const all[] = {&dx, &dy, &x};
    ca_merge_axes(3, all);
    return act_bwd_of<false>(queue, dx, dy, x, kind);
}
