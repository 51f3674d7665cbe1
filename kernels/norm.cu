/* SPDX-License-Identifier: MIT
 *
 * Layer and RMS norm over the last axis: forward, statistics and backward.
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

/* mean and variance, for RMS 0 and the mean square; inverse = 1 / sqrt(variance + epsilon) */
struct moments {
    float mean, variance, inverse;
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
    const float variance = sum / (float)width;
    moments m = {mean, variance, 1.0f / sqrtf(variance + norm.epsilon)};
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
    constexpr int TEAMS = BLOCK / TEAM;
    const int team = (int)threadIdx.x / TEAM, member = (int)threadIdx.x % TEAM;
    float *kept = NULL;
    if (STAGED) {
        CA_DYN_SHARED(float, stage);
        kept = stage + team * stage_width;
    }
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

/* xhat = (x - mean) inverse, and inverse of each row; xhat may be x.
 *
 * Grid: strides over rows. Member 0 of a team owns the row's element of `inverse`. 8 bytes and 6
 * FLOPs an element. */
template <int TEAM, bool STAGED>
static __global__ void __launch_bounds__(BLOCK)
    norm_stats_kernel(ca_rows xhat, ca_rows inverse, ca_rows x, norm_numbers norm, int stage_width,
                      bool wide) {
    CA_SHARED(float, scratch, CA_WARP);
    constexpr int TEAMS = BLOCK / TEAM;
    const int team = (int)threadIdx.x / TEAM, member = (int)threadIdx.x % TEAM;
    float *kept = NULL;
    if (STAGED) {
        CA_DYN_SHARED(float, stage);
        kept = stage + team * stage_width;
    }
    for (int64_t r = (int64_t)blockIdx.x * TEAMS + team; r < x.rows;
         r += (int64_t)gridDim.x * TEAMS) {
        const float *from = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        float *to = static_cast<float *>(xhat.data) + ca_row_offset(xhat, r);
        const moments m =
            moments_of<TEAM, STAGED>(from, x.width, kept, norm, member, wide, scratch);
        if (member == 0) static_cast<float *>(inverse.data)[ca_row_offset(inverse, r)] = m.inverse;
        for (int64_t i = 4 * member; i < x.width; i += 4 * TEAM) {
            const int64_t left = x.width - i;
            ca_quad<float> v = ca_load(STAGED ? kept + i : from + i, left, STAGED || wide);
            for (int k = 0; k < 4; k++) v.at[k] = (v.at[k] - m.mean) * m.inverse;
            ca_store(to + i, v, left, wide);
        }
    }
}

/* ---- backward
 *
 * With u = (x - mean) inverse and g = dy (gain_offset + gain):
 *   layer  dx (+)= inverse (g - mean(g) - u mean(g u))
 *   RMS    dx (+)= inverse (g - u mean(g u))
 * g may be all but parallel to u (a row of one element always is), so that the difference is only
 * rounding. Hence g = mean + along u + rest, where the rest is made orthogonal to 1 and u in two
 * steps of which the second removes what rounding left; then, as mean(u^2) = 1 - epsilon inverse^2,
 *   dx (+)= inverse (rest + epsilon inverse^2 along u)
 * Source: Parlett 1980, "The symmetric eigenvalue problem", 6.9 (twice is enough). */

struct components {
    float mean, along;
};

struct norm_quad {
    ca_quad<float> u, rest;
};

/* u, and g without `c`, of four elements */
static __device__ __forceinline__ norm_quad rest_of(const ca_quad<float> &x,
                                                    const ca_quad<float> &dy,
                                                    const ca_quad<float> &gain, moments m,
                                                    float gain_offset, components c) {
    norm_quad n;
    for (int k = 0; k < 4; k++) {
        n.u.at[k] = (x.at[k] - m.mean) * m.inverse;
        n.rest.at[k] = dy.at[k] * (gain_offset + gain.at[k]) - c.mean - n.u.at[k] * c.along;
    }
    return n;
}

/* The components of g without `c`. Copies dy to `keep` unless that is NULL. */
template <int TEAM>
static __device__ __forceinline__ components components_of(const float *x, const float *dy,
                                                           float *keep, const float *gain,
                                                           int64_t width, moments m,
                                                           norm_numbers norm, components c,
                                                           int member, bool x_wide, bool dy_wide,
                                                           bool gain_wide, float *scratch) {
    components sum = {0.0f, 0.0f};
    for (int64_t i = 4 * member; i < width; i += 4 * TEAM) {
        const int64_t left = width - i;
        const ca_quad<float> d = ca_load(dy + i, left, dy_wide);
        if (keep) *reinterpret_cast<ca_quad<float> *>(keep + i) = d;
        const norm_quad n = rest_of(ca_load(x + i, left, x_wide), d,
                                    ca_load(gain + i, left, gain_wide), m, norm.gain_offset, c);
        for (int k = 0; k < 4; k++)
            if (k < left) {
                sum.mean += n.rest.at[k];
                sum.along += n.rest.at[k] * n.u.at[k];
            }
    }
    const float square = m.variance * m.inverse * m.inverse; /* mean(u^2) */
    sum.along = ca_team_sum<TEAM>(sum.along, scratch) / (float)width;
    sum.along = square > 0.0f ? sum.along / square : 0.0f;
    sum.mean = norm.layer ? ca_team_sum<TEAM>(sum.mean, scratch) / (float)width : 0.0f;
    return sum;
}

/* dx (+)= (d norm / d x)^T dy; dx may be dy when it does not accumulate.
 *
 * Grid: x strides over the rows of one lane, y over lanes; lane l of dx and dy has their rows from
 * l x.rows on. A block reads x once for all its lanes. 8 bytes an element of dy, 4 more when
 * accumulating, 4 of x; 25 FLOPs. Stages a row of x and one of dy. */
template <int TEAM, bool STAGED>
static __global__ void __launch_bounds__(BLOCK)
    norm_bwd_kernel(ca_rows dx, ca_rows dy, ca_rows x, const float *gain, norm_numbers norm,
                    int64_t lanes, bool accumulate, int stage_width, bool wide) {
    CA_SHARED(float, scratch, CA_WARP);
    constexpr int TEAMS = BLOCK / TEAM;
    const int team = (int)threadIdx.x / TEAM, member = (int)threadIdx.x % TEAM;
    const int64_t width = x.width;
    float *kept_x = NULL, *kept_dy = NULL;
    if (STAGED) {
        CA_DYN_SHARED(float, stage);
        kept_x = stage + 2 * team * stage_width;
        kept_dy = kept_x + stage_width;
    }
    const bool kept_wide = STAGED || wide;
    for (int64_t r = (int64_t)blockIdx.x * TEAMS + team; r < x.rows;
         r += (int64_t)gridDim.x * TEAMS) {
        const float *from_x = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        const moments m =
            moments_of<TEAM, STAGED>(from_x, width, kept_x, norm, member, wide, scratch);
        const float *at = STAGED ? kept_x : from_x;
        const float left_over = norm.epsilon * m.inverse * m.inverse;
        for (int64_t lane = blockIdx.y; lane < lanes; lane += gridDim.y) {
            const int64_t row = lane * x.rows + r;
            const float *from = static_cast<const float *>(dy.data) + ca_row_offset(dy, row);
            float *to = static_cast<float *>(dx.data) + ca_row_offset(dx, row);
            const components none = {0.0f, 0.0f};
            const components first =
                components_of<TEAM>(at, from, kept_dy, gain, width, m, norm, none, member,
                                    kept_wide, wide, wide, scratch);
            const float *d = STAGED ? kept_dy : from;
            const components second =
                components_of<TEAM>(at, d, NULL, gain, width, m, norm, first, member, kept_wide,
                                    kept_wide, wide, scratch);
            const float along = left_over * (first.along + second.along) - second.along;
            for (int64_t i = 4 * member; i < width; i += 4 * TEAM) {
                const int64_t left = width - i;
                const norm_quad n =
                    rest_of(ca_load(at + i, left, kept_wide), ca_load(d + i, left, kept_wide),
                            ca_load(gain + i, left, wide), m, norm.gain_offset, first);
                ca_quad<float> sum = {{0.0f, 0.0f, 0.0f, 0.0f}};
                if (accumulate) sum = ca_load(to + i, left, wide);
                for (int k = 0; k < 4; k++)
                    sum.at[k] += m.inverse * (n.rest.at[k] - second.mean + n.u.at[k] * along);
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
static int norm_stats(const ca_queue *queue, const staging &s, const ca_tensor &xhat,
                      const ca_tensor &inverse, const ca_tensor &x, ca_norm norm) {
    ca_rows rows = ca_rows_of(x);
    CA_LAUNCH((norm_stats_kernel<TEAM, STAGED>), ca_grid(queue, rows.rows, BLOCK / TEAM), BLOCK,
              s.bytes, queue->stream, ca_rows_of(xhat), ca_scalars_of(inverse), rows,
              numbers_of(norm), s.width, ca_is_wide(xhat) && ca_is_wide(x));
    return ca_launched();
}

int ca_k_norm_stats(const ca_queue *queue, ca_tensor xhat, ca_tensor inverse, ca_tensor x,
                    ca_norm norm) {
    staging s = staging_of(x.shape[x.rank - 1], 1);
    return s.team == CA_WARP ? norm_stats<CA_WARP, true>(queue, s, xhat, inverse, x, norm)
           : s.staged        ? norm_stats<BLOCK, true>(queue, s, xhat, inverse, x, norm)
                             : norm_stats<BLOCK, false>(queue, s, xhat, inverse, x, norm);
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
