/* SPDX-License-Identifier: MIT
 *
 * Copies between dtypes and fills. Values are rounded once, to nearest even; NaN stays NaN.
 */
#include "ca_quads.cuh"

struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

/* ---- one value */

/* The 16-bit float with FRACTION fraction bits nearest to a float or double, given its bits:
 * MANTISSA fraction bits below BIAS's exponent. With integers only, so that doubles are rounded
 * once and subnormal numbers need no care. */
template <int FRACTION, int MANTISSA, int BIAS, typename BITS>
static __device__ uint16_t round_to_16(BITS bits) {
    constexpr int LEAST = 2 - (1 << (14 - FRACTION)); /* exponent of the least normal number */
    constexpr BITS ONE = (BITS)1 << MANTISSA;
    constexpr BITS INFINITE = (BITS)(2 * BIAS + 1) << MANTISSA;
    constexpr int INFINITE_16 = 0x7fff >> FRACTION << FRACTION;
    const int sign = (int)(bits >> (8 * sizeof(BITS) - 16)) & 0x8000;
    bits &= ((BITS)1 << (8 * sizeof(BITS) - 1)) - 1;
    if (bits > INFINITE) return (uint16_t)(sign | INFINITE_16 | 1 << (FRACTION - 1));

    int exponent = (int)(bits >> MANTISSA);
    BITS significand = (bits & (ONE - 1)) | (exponent > 0 ? ONE : 0);
    exponent = (exponent > 0 ? exponent : 1) - BIAS;
    int drop = MANTISSA - FRACTION + (exponent < LEAST ? LEAST - exponent : 0);
    if (drop > MANTISSA + 1) return (uint16_t)sign; /* below half of the least number */
    significand += ((BITS)1 << (drop - 1)) - 1 + (significand >> drop & 1);
    /* The leading one of a normal number adds 1 to the exponent field, and so does a fraction that
     * is rounded up to the next power of two. */
    int field = exponent > LEAST ? (exponent - LEAST) << FRACTION : 0;
    int result = field + (int)(significand >> drop);
    return (uint16_t)(sign | (result < INFINITE_16 ? result : INFINITE_16));
}

enum { F16_FRACTION = 10, BF16_FRACTION = 7 };

static __device__ float widen(float x) { return x; }
static __device__ double widen(double x) { return x; }

static __device__ float widen(bf16 x) {
    return (x.bits & 0x7fff) > 0x7f80 ? __uint_as_float((x.bits & 0x8000u) << 16 | 0x7fc00000u)
                                      : __uint_as_float((uint32_t)x.bits << 16);
}

static __device__ float widen(f16 x) {
    const uint32_t sign = (x.bits & 0x8000u) << 16, exponent = x.bits >> F16_FRACTION & 31;
    const uint32_t fraction = x.bits & 1023;
    if (exponent == 31) return __uint_as_float(sign | (fraction ? 0x7fc00000u : 0x7f800000u));
    if (exponent == 0)
        return __uint_as_float(sign | __float_as_uint((float)fraction * (1.0f / (1 << 24))));
    return __uint_as_float(sign | (exponent + 127 - 15) << 23 | fraction << (23 - F16_FRACTION));
}

template <int FRACTION> static __device__ uint16_t narrow(float x) {
    return round_to_16<FRACTION, 23, 127>((uint32_t)__float_as_uint(x));
}

template <int FRACTION> static __device__ uint16_t narrow(double x) {
    return round_to_16<FRACTION, 52, 1023>((uint64_t)__double_as_longlong(x));
}

/* *to = x, for a widened x */
template <typename W> static __device__ void assign(float *to, W x) { *to = (float)x; }
template <typename W> static __device__ void assign(double *to, W x) { *to = (double)x; }
template <typename W> static __device__ void assign(int32_t *to, W x) { *to = (int32_t)x; }
template <typename W> static __device__ void assign(int64_t *to, W x) { *to = (int64_t)x; }
template <typename W> static __device__ void assign(f16 *to, W x) {
    to->bits = narrow<F16_FRACTION>(x);
}
template <typename W> static __device__ void assign(bf16 *to, W x) {
    to->bits = narrow<BF16_FRACTION>(x);
}

template <typename D, typename S> static __device__ void convert(D *to, S x) {
    assign(to, widen(x));
}
template <typename T> static __device__ void convert(T *to, T x) { *to = x; }

/* ---- kernels */

/* Grid: tiles of dst; a thread owns its quads. No shared memory, no barrier. Reads and writes each
 * element once; no FLOPs. */
template <typename D, typename S>
static __global__ void __launch_bounds__(CA_TILE)
    copy_kernel(ca_rows dst, ca_rows src, int shift, bool wide) {
    const ca_walk walk = ca_walk_of(shift);
    for (int64_t r = walk.row; r < dst.rows; r += walk.row_step) {
        D *to = static_cast<D *>(dst.data) + ca_row_offset(dst, r);
        const S *from = static_cast<const S *>(src.data) + ca_row_offset(src, r);
        for (int64_t i = walk.column; i < dst.width; i += walk.column_step) {
            ca_quad<S> x = ca_load(from + i, dst.width - i, wide);
            ca_quad<D> y;
            for (int k = 0; k < 4; k++) convert(&y.at[k], x.at[k]);
            ca_store(to + i, y, dst.width - i, wide);
        }
    }
}

/* As copy_kernel; writes each element once. */
template <typename D>
static __global__ void __launch_bounds__(CA_TILE)
    fill_kernel(ca_rows dst, double value, int shift, bool wide) {
    const ca_walk walk = ca_walk_of(shift);
    ca_quad<D> y;
    for (int k = 0; k < 4; k++) assign(&y.at[k], value);
    for (int64_t r = walk.row; r < dst.rows; r += walk.row_step) {
        D *to = static_cast<D *>(dst.data) + ca_row_offset(dst, r);
        for (int64_t i = walk.column; i < dst.width; i += walk.column_step)
            ca_store(to + i, y, dst.width - i, wide);
    }
}

/* Takes the upper half of *x off it. A float is the sum of three such halves, 8 significant bits
 * each: they are cut, not rounded, so that none overflows. What is not finite leaves 0. */
static __device__ __forceinline__ ca_bf16 cut(float *x) {
    const uint32_t bits = __float_as_uint(*x), magnitude = bits & 0x7fffffffu;
    *x = magnitude < 0x7f800000u ? *x - __uint_as_float(bits & 0xffff0000u) : 0.0f;
    return {(uint16_t)(bits >> 16 | (magnitude > 0x7f800000u ? 0x40u : 0u))};
}

/* terms + r width = row r of x, in three terms `step` elements apart. As copy_kernel; 10 bytes an
 * element. */
static __global__ void __launch_bounds__(CA_TILE)
    split_bf16_kernel(ca_bf16 *terms, int64_t step, ca_rows x, int shift, bool wide) {
    const ca_walk walk = ca_walk_of(shift);
    for (int64_t r = walk.row; r < x.rows; r += walk.row_step) {
        const float *from = static_cast<const float *>(x.data) + ca_row_offset(x, r);
        ca_bf16 *to = terms + r * x.width;
        for (int64_t i = walk.column; i < x.width; i += walk.column_step) {
            ca_quad<float> v = ca_load(from + i, x.width - i, wide);
            for (int term = 0; term < 3; term++) {
                ca_quad<ca_bf16> part;
                for (int k = 0; k < 4; k++) part.at[k] = cut(&v.at[k]);
                ca_store(to + term * step + i, part, x.width - i, wide);
            }
        }
    }
}

/* ---- launchers */

template <typename D, typename S>
static int copy(const ca_queue *queue, const ca_tensor &dst, const ca_tensor &src) {
    ca_rows to = ca_rows_of(dst), from = ca_rows_of(src);
    ca_tiles tiles = ca_tiles_of(queue, to.rows, to.width);
    CA_LAUNCH((copy_kernel<D, S>), tiles.grid, CA_TILE, 0, queue->stream, to, from, tiles.shift,
              ca_is_wide(dst) && ca_is_wide(src));
    return ca_launched();
}

template <typename S>
static int copy_from(const ca_queue *queue, const ca_tensor &dst, const ca_tensor &src) {
    switch (dst.dtype) {
    case CA_F32:
        return copy<float, S>(queue, dst, src);
    case CA_F64:
        return copy<double, S>(queue, dst, src);
    case CA_F16:
        return copy<f16, S>(queue, dst, src);
    case CA_BF16:
        return copy<bf16, S>(queue, dst, src);
    default:
        return (int)cudaErrorInvalidValue;
    }
}

int ca_k_copy(const ca_queue *queue, ca_tensor dst, ca_tensor src) {
    ca_tensor *const both[] = {&dst, &src};
    ca_merge_axes(2, both);
    switch (src.dtype) {
    case CA_F32:
        return copy_from<float>(queue, dst, src);
    case CA_F64:
        return copy_from<double>(queue, dst, src);
    case CA_F16:
        return copy_from<f16>(queue, dst, src);
    case CA_BF16:
        return copy_from<bf16>(queue, dst, src);
    case CA_I32:
        return copy<int32_t, int32_t>(queue, dst, src);
    case CA_I64:
        return copy<int64_t, int64_t>(queue, dst, src);
    }
    return (int)cudaErrorInvalidValue;
}

template <typename D> static int fill(const ca_queue *queue, const ca_tensor &dst, double value) {
    ca_rows to = ca_rows_of(dst);
    ca_tiles tiles = ca_tiles_of(queue, to.rows, to.width);
    CA_LAUNCH((fill_kernel<D>), tiles.grid, CA_TILE, 0, queue->stream, to, value, tiles.shift,
              ca_is_wide(dst));
    return ca_launched();
}

int ca_k_fill(const ca_queue *queue, ca_tensor dst, double value) {
    ca_tensor *const one[] = {&dst};
    ca_merge_axes(1, one);
    switch (dst.dtype) {
    case CA_F32:
        return fill<float>(queue, dst, value);
    case CA_F64:
        return fill<double>(queue, dst, value);
    case CA_F16:
        return fill<f16>(queue, dst, value);
    case CA_BF16:
        return fill<bf16>(queue, dst, value);
    case CA_I32:
        return fill<int32_t>(queue, dst, value);
    case CA_I64:
        return fill<int64_t>(queue, dst, value);
    }
    return (int)cudaErrorInvalidValue;
}

int ca_k_split_bf16(const ca_queue *queue, ca_tensor terms, ca_tensor x) {
    ca_rows from = ca_rows_of(x);
    ca_tiles tiles = ca_tiles_of(queue, from.rows, from.width);
    bool wide = ca_is_wide(x) && ca_is_wide(terms) && from.width % 4 == 0;
    CA_LAUNCH(split_bf16_kernel, tiles.grid, CA_TILE, 0, queue->stream,
              static_cast<ca_bf16 *>(terms.data), terms.stride[0], from, tiles.shift, wide);
    return ca_launched();
}
