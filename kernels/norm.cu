/* SPDX-License-Identifier: MIT
 *
 * Layer and RMS norm over the last axis, forward and backward.
 *
 * A team owns a row: a warp while the rows of all warps fit the staging memory, else the block.
 * Member m of the team owns the quads m, m + TEAM, ... of the row in every pass, so that staged
 * elements need no barrier. Sums: each member adds its elements in order, then a fixed tree.
 *
 * Shared memory: one float a warp for sums over the block; staging of at most STAGE floats, where a
 * row is kept between the passes. Longer rows are read again, from the cache.
 * Barriers: those of ca_block_sum; all threads of a team walk over the same rows.
 */
#include "ca_quads.cuh"

constexpr int BLOCK = 256, STAGE = 8192;

struct moments {
    float mean, inverse; /* mean is 0 for RMS; 1 / sqrt(variance or mean square + epsilon) */
};

struct norm_numbers {
    bool layer;
    float epsilon, gain_offset;
};

/* Reads a row once, into `kept` when staged, and finds its moments in two passes. */
template <int TEAM, bool STAGED>
static __device__ __forceinline__ moments moments_of(const float *row, int64_t width, float *kept,
                                                     norm_numbers norm, int member, bool wide,
                                                     float *scratch) {
    float sum = 0.0f, mean = 0.0f;
    for (int64_t i = 4 * member; i < width; i += 4 * TEAM) {
        ca_quad<float> v = ca_load(row + i, width - i, wide);
        if (STAGED) *reinterpret_cast<ca_quad<float> *>(kept + i) = v;
        for (int k = 0; k < 4; k++) sum += norm.layer ? v.at[k] : v.at[k] * v.at[k];
    }
    sum = ca_team_sum<TEAM>(sum, scratch);
    if (norm.layer) {
        mean = sum / (float)width;
        sum = 0.0f;
        for (int64_t i = 4 * member; i < width; i += 4 * TEAM) {
            const int64_t left = width - i;
            ca_quad<float> v = ca_load(STAGED ? kept + i : row + i, left, STAGED || wide);
            for (int k = 0; k < 4; k++)
                sum += k < left ? (v.at[k] - mean) * (v.at[k] - mean) : 0.0f;
        }
        sum = ca_team_sum<TEAM>(sum, scratch);
    }
    moments m = {mean, 1.0f / sqrtf(sum / (float)width + norm.epsilon)};
    return m;
}

/* y = (x - mean) inverse (gain_offset + gain) + bias; y may be x.
 *
 * Grid: strides over rows. 8 bytes and 8 FLOPs an element. */
template <int TEAM, bool STAGED>
static __global__ void __launch_bounds__(BLOCK)
    norm_fwd_kernel(ca_rows y, ca_rows x, const float *gain, const float *bias, norm_numbers norm,
                    int stage_width, bool wide) {
    CA_SHARED(float, scratch, CA_WARP);
    CA_DYN_SHARED(float, stage);
    constexpr int TEAMS = BLOCK / TEAM;
    const int team = (int)threadIdx.x / TEAM, member = (int)threadIdx.x % TEAM;
    float *kept = stage + team * stage_width;
    for (int64_t r = (int64_t)blockIdx.x * TEAMS + team; r < x.rows;
         r += (int64_t)gridDim.x * TEAMS) {
        const float *from = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        float *to = static_cast<float *>(y.data) + ca_row_offset(y, r);
        const moments m =
            moments_of<TEAM, STAGED>(from, x.width, kept, norm, member, wide, scratch);
        for (int64_t i = 4 * member; i < x.width; i += 4 * TEAM) {
            const int64_t left = x.width - i;
            ca_quad<float> v = ca_load(STAGED ? kept + i : from + i, left, STAGED || wide);
            ca_quad<float> g = ca_load(gain + i, left, wide);
            for (int k = 0; k < 4; k++)
                v.at[k] = (v.at[k] - m.mean) * m.inverse * (norm.gain_offset + g.at[k]);
            if (bias) {
                ca_quad<float> b = ca_load(bias + i, left, wide);
                for (int k = 0; k < 4; k++) v.at[k] += b.at[k];
            }
            ca_store(to + i, v, left, wide);
        }
    }
}

/* With u = (x - mean) inverse and g = dy (gain_offset + gain):
 *   layer  dx (+)= inverse (g - mean(g) - u mean(g u))
 *   RMS    dx (+)= inverse (g - u mean(g u))
 * dx may be dy when it does not accumulate.
 *
 * Grid: x strides over the rows of one lane, y over lanes; lane l of dx and dy has their rows from
 * l x.rows on. A block reads x once for all its lanes. 8 bytes an element of dy, 4 more when
 * accumulating, 4 of x; 15 FLOPs. Stages a row of x and one of dy. */
template <int TEAM, bool STAGED>
static __global__ void __launch_bounds__(BLOCK)
    norm_bwd_kernel(ca_rows dx, ca_rows dy, ca_rows x, const float *gain, norm_numbers norm,
                    int64_t lanes, bool accumulate, int stage_width, bool wide) {
    CA_SHARED(float, scratch, CA_WARP);
    CA_DYN_SHARED(float, stage);
    constexpr int TEAMS = BLOCK / TEAM;
    const int team = (int)threadIdx.x / TEAM, member = (int)threadIdx.x % TEAM;
    const int64_t width = x.width;
    float *kept_x = stage + 2 * team * stage_width, *kept_dy = kept_x + stage_width;
    for (int64_t r = (int64_t)blockIdx.x * TEAMS + team; r < x.rows;
         r += (int64_t)gridDim.x * TEAMS) {
        const float *at = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        const moments m = moments_of<TEAM, STAGED>(at, width, kept_x, norm, member, wide, scratch);
        for (int64_t lane = blockIdx.y; lane < lanes; lane += gridDim.y) {
            const int64_t row = lane * x.rows + r;
            const float *from = static_cast<const float *>(dy.data) + ca_row_offset(dy, row);
            float *to = static_cast<float *>(dx.data) + ca_row_offset(dx, row);
            float mean = 0.0f, along = 0.0f;
            for (int64_t i = 4 * member; i < width; i += 4 * TEAM) {
                const int64_t left = width - i;
                ca_quad<float> v = ca_load(STAGED ? kept_x + i : at + i, left, STAGED || wide);
                ca_quad<float> d = ca_load(from + i, left, wide), w = ca_load(gain + i, left, wide);
                if (STAGED) *reinterpret_cast<ca_quad<float> *>(kept_dy + i) = d;
                for (int k = 0; k < 4; k++) { /* d is 0 behind the end */
                    float g = d.at[k] * (norm.gain_offset + w.at[k]);
                    mean += g;
                    along += g * ((v.at[k] - m.mean) * m.inverse);
                }
            }
            along = ca_team_sum<TEAM>(along, scratch) / (float)width;
            mean = norm.layer ? ca_team_sum<TEAM>(mean, scratch) / (float)width : 0.0f;
            for (int64_t i = 4 * member; i < width; i += 4 * TEAM) {
                const int64_t left = width - i;
                ca_quad<float> v = ca_load(STAGED ? kept_x + i : at + i, left, STAGED || wide);
                ca_quad<float> d = ca_load(STAGED ? kept_dy + i : from + i, left, STAGED || wide);
                ca_quad<float> w = ca_load(gain + i, left, wide), sum = {{0.0f, 0.0f, 0.0f, 0.0f}};
                if (accumulate) sum = ca_load(to + i, left, wide);
                for (int k = 0; k < 4; k++) {
                    float g = d.at[k] * (norm.gain_offset + w.at[k]);
                    float u = (v.at[k] - m.mean) * m.inverse;
                    sum.at[k] += m.inverse * (g - mean - u * along);
                }
                ca_store(to + i, sum, left, wide);
            }
        }
    }
}

/* ---- launchers */

static norm_numbers numbers_of(ca_norm norm) {
    norm_numbers n = {norm.kind == CA_NORM_LAYER, (float)norm.epsilon, (float)norm.gain_offset};
    return n;
}

/* How rows are staged, of which a team keeps `copies`. */
struct staging {
    int team;
    bool staged;
    int width;    /* floats of a row: whole quads */
    size_t bytes; /* of a block */
};

static staging staging_of(int64_t width, int copies) {
    int64_t floats = 4 * ca_ceil_div(width, 4) * copies;
    staging s = {BLOCK, floats <= STAGE, 0, 0};
    if (floats * (BLOCK / CA_WARP) <= STAGE) s.team = CA_WARP;
    if (s.staged) {
        s.width = (int)(floats / copies);
        s.bytes = (size_t)floats * (size_t)(BLOCK / s.team) * sizeof(float);
    }
    return s;
}

template <int TEAM, bool STAGED>
static int norm_fwd(const ca_queue *queue, const staging &s, const ca_tensor &y, const ca_tensor &x,
                    const ca_tensor &gain, const ca_tensor &bias, ca_norm norm) {
    ca_rows rows = ca_rows_of(x);
    bool wide = ca_is_wide(y) && ca_is_wide(x) && ca_is_wide(gain);
    CA_LAUNCH((norm_fwd_kernel<TEAM, STAGED>), ca_grid(queue, rows.rows, BLOCK / TEAM), BLOCK,
              s.bytes, queue->stream, ca_rows_of(y), rows, static_cast<const float *>(gain.data),
              static_cast<const float *>(bias.data), numbers_of(norm), s.width,
              wide && (!bias.data || ca_is_wide(bias)));
    return ca_launched();
}

int ca_k_norm_fwd(const ca_queue *queue, ca_tensor y, ca_tensor x, ca_tensor gain, ca_tensor bias,
                  ca_norm norm) {
    staging s = staging_of(x.shape[x.rank - 1], 1);
    return s.team == CA_WARP ? norm_fwd<CA_WARP, true>(queue, s, y, x, gain, bias, norm)
           : s.staged        ? norm_fwd<BLOCK, true>(queue, s, y, x, gain, bias, norm)
                             : norm_fwd<BLOCK, false>(queue, s, y, x, gain, bias, norm);
}

template <int TEAM, bool STAGED>
static int norm_bwd(const ca_queue *queue, const staging &s, const ca_tensor &dx,
                    const ca_tensor &dy, const ca_tensor &x, const ca_tensor &gain, ca_norm norm,
                    bool accumulate) {
    int64_t lanes;
    ca_rows one = ca_rows_of(ca_one_lane(x, &lanes));
    unsigned down = ca_grid(queue, one.rows, BLOCK / TEAM);
    dim3 grid(down, ca_grid_beside(queue, lanes, 1, down));
    bool wide = ca_is_wide(dx) && ca_is_wide(dy) && ca_is_wide(x) && ca_is_wide(gain);
    CA_LAUNCH((norm_bwd_kernel<TEAM, STAGED>), grid, BLOCK, s.bytes, queue->stream, ca_rows_of(dx),
              ca_rows_of(dy), one, static_cast<const float *>(gain.data), numbers_of(norm), lanes,
              accumulate, s.width, wide);
    return ca_launched();
}

int ca_k_norm_bwd(const ca_queue *queue, ca_tensor dx, ca_tensor dy, ca_tensor x, ca_tensor gain,
                  ca_norm norm, bool accumulate) {
    staging s = staging_of(x.shape[x.rank - 1], 2);
    return s.team == CA_WARP ? norm_bwd<CA_WARP, true>(queue, s, dx, dy, x, gain, norm, accumulate)
           : s.staged        ? norm_bwd<BLOCK, true>(queue, s, dx, dy, x, gain, norm, accumulate)
                             : norm_bwd<BLOCK, false>(queue, s, dx, dy, x, gain, norm, accumulate);
}
