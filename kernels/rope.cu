/* SPDX-License-Identifier: MIT
 *
 * Rotary position embedding, in place.
 */
#include "ca_quads.cuh"

constexpr int BLOCK = 256;

/* How a block is cut: 1 << columns threads along the angles (a quad each), 1 << heads along the
 * heads, the others along tokens. */
struct rope_shifts {
    int columns, heads;
};

struct rope_view {
    float *data;
    int64_t lanes, tokens, heads;
    int64_t lane_stride, token_stride, head_stride;
};

struct rope_table {
    const float *cosine, *sine;
    int64_t positions, angles; /* [positions, angles] */
    int64_t cosine_stride, sine_stride;
};

/* (a, b) -> (a c - b s, b c + a s) for elements i and i + angles of a head; sign -1 turns back
 *
 * Grid: strides over lanes x tokens. A thread owns quads of pairs, and reads their angles once for
 * all heads. 8 bytes for each rotated element and 4 for each angle; 3 FLOPs an element. No shared
 * memory, no barrier. A bad position gives NaN and a fault. */
static __global__ void __launch_bounds__(BLOCK)
    rope_kernel(rope_view x, rope_table table, const int32_t *positions, float sign, int32_t *fault,
                rope_shifts shifts, bool wide) {
    const int thread = (int)threadIdx.x, shift = shifts.columns + shifts.heads;
    const int column = thread & ((1 << shifts.columns) - 1);
    const int head = thread >> shifts.columns & ((1 << shifts.heads) - 1);
    const int64_t step = (int64_t)gridDim.x * (BLOCK >> shift);
    for (int64_t item = (int64_t)blockIdx.x * (BLOCK >> shift) + (thread >> shift);
         item < x.lanes * x.tokens; item += step) {
        const int64_t lane = ca_divide(item, x.tokens), token = item - lane * x.tokens;
        const int64_t position = positions[token];
        const bool valid = position >= 0 && position < table.positions;
        if (!valid && column == 0 && head == 0) atomicMax(fault, (int32_t)CA_FAULT_ROPE);
        float *row = x.data + lane * x.lane_stride + token * x.token_stride;
        for (int64_t i = 4 * column; i < table.angles; i += (int64_t)4 << shifts.columns) {
            const int64_t left = table.angles - i;
            ca_quad<float> c = {{NAN, NAN, NAN, NAN}}, s = c;
            if (valid) {
                c = ca_load(table.cosine + position * table.cosine_stride + i, left, wide);
                s = ca_load(table.sine + position * table.sine_stride + i, left, wide);
            }
            for (int64_t h = head; h < x.heads; h += 1 << shifts.heads) {
                float *low = row + h * x.head_stride + i, *high = low + table.angles;
                ca_quad<float> a = ca_load(low, left, wide), b = ca_load(high, left, wide), to, up;
                for (int k = 0; k < 4; k++) {
                    to.at[k] = a.at[k] * c.at[k] - b.at[k] * (sign * s.at[k]);
                    up.at[k] = b.at[k] * c.at[k] + a.at[k] * (sign * s.at[k]);
                }
                ca_store(low, to, left, wide);
                ca_store(high, up, left, wide);
            }
        }
    }
}

static rope_view view_of(const ca_tensor &x) {
    const int token = x.rank - 3;
    rope_view view = {static_cast<float *>(x.data), token > 0 ? x.shape[0] : 1,  x.shape[token],
                      x.shape[token + 1],           token > 0 ? x.stride[0] : 0, x.stride[token],
                      x.stride[token + 1]};
    return view;
}

int ca_k_rope(const ca_queue *queue, ca_tensor x, ca_tensor cosine, ca_tensor sine,
              ca_tensor positions, bool inverse) {
    rope_view view = view_of(x);
    rope_table table = {static_cast<const float *>(cosine.data),
                        static_cast<const float *>(sine.data),
                        cosine.shape[0],
                        cosine.shape[1],
                        cosine.stride[0],
                        sine.stride[0]};
    if (table.angles == 0) return 0;
    rope_shifts shifts = {0, 0};
    while (1 << shifts.columns < BLOCK && 4 << shifts.columns < table.angles) shifts.columns++;
    while (1 << (shifts.columns + shifts.heads) < BLOCK && 1 << shifts.heads < view.heads)
        shifts.heads++;
    bool wide = ca_is_wide(x) && ca_is_wide(cosine) && ca_is_wide(sine) && table.angles % 4 == 0;
    CA_LAUNCH(rope_kernel,
              ca_grid(queue, view.lanes * view.tokens, BLOCK >> (shifts.columns + shifts.heads)),
              BLOCK, 0, queue->stream, view, table, static_cast<const int32_t *>(positions.data),
              inverse ? -1.0f : 1.0f, queue->fault, shifts, wide);
    return ca_launched();
}
