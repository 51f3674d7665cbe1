/* SPDX-License-Identifier: MIT
 *
 * Tensor cores: one product of bf16 tiles with f32 sums by a warp, and its definition in scalar
 * code, which older devices and the CPU run. Both add the same exact products; tensor cores may
 * group the additions otherwise.
 *
 * A warp holds the tiles in registers. With g = lane / 4 and t = lane % 4, and two bf16 in a
 * register, the one with the lower index in its lower half:
 *   a [16, 16]  a[0]: (g, 2t)  a[1]: (g + 8, 2t)  a[2]: (g, 2t + 8)  a[3]: (g + 8, 2t + 8), each
 *               with the next column
 *   b [16, 8]   b[0]: (2t, g)  b[1]: (2t + 8, g), each with the next row
 *   c [16, 8]   c[0], c[1]: (g, 2t), (g, 2t + 1)   c[2], c[3]: the same of row g + 8
 * Source: NVIDIA, "PTX ISA", matrix fragments for mma.m16n8k16.
 */
#ifndef CA_MMA_CUH
#define CA_MMA_CUH

#include "ca_cuda.cuh"

#if !defined(CA_SIMT) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define CA_HAS_MMA 1
#else
#define CA_HAS_MMA 0
#endif

static __device__ __forceinline__ float ca_low_bf16(uint32_t pair) {
    return __uint_as_float(pair << 16);
}
static __device__ __forceinline__ float ca_high_bf16(uint32_t pair) {
    return __uint_as_float(pair & 0xffff0000u);
}

/* The upper half is x to nearest even; NaN stays NaN. */
static __device__ __forceinline__ uint32_t ca_round_to_bf16(float x) {
    const uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return bits | 0x400000u;
    return bits + 0x7fffu + (bits >> 16 & 1u);
}

static __device__ __forceinline__ uint32_t ca_pack_bf16(float low, float high) {
#if CA_HAS_MMA
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return ca_round_to_bf16(low) >> 16 | (ca_round_to_bf16(high) & 0xffff0000u);
#endif
}

/* c += a b. The whole warp calls it together; no barrier. */
static __device__ __forceinline__ void ca_mma(float c[4], const uint32_t a[4],
                                              const uint32_t b[2]) {
#if CA_HAS_MMA
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    const int lane = (int)threadIdx.x % CA_WARP, row = lane / 4 * 4, column = lane % 4 * 8;
    for (int k = 0; k < 16; k += 2) {
        const int from = k % 8 / 2, half = k / 8;
        const uint32_t top = __shfl_sync(CA_FULL_WARP, a[2 * half], row + from);
        const uint32_t bottom = __shfl_sync(CA_FULL_WARP, a[2 * half + 1], row + from);
        const uint32_t left = __shfl_sync(CA_FULL_WARP, b[half], column + from);
        const uint32_t right = __shfl_sync(CA_FULL_WARP, b[half], column + 4 + from);
        const uint32_t rows[2] = {top, bottom}, columns[2] = {left, right};
        for (int i = 0; i < 4; i++) {
            c[i] += ca_low_bf16(rows[i / 2]) * ca_low_bf16(columns[i % 2]);
            c[i] += ca_high_bf16(rows[i / 2]) * ca_high_bf16(columns[i % 2]);
        }
    }
#endif
}

#endif
