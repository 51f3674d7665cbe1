/* SPDX-License-Identifier: MIT
 *
 * Decoders of stored weights to f32: one function and one table row per encoding. Called by the
 * loader on rows of a tensor; the bytes have been checked to hold whole blocks.
 *
 * Every decoder does its arithmetic in f32 in the order of the formula beside it. All products of
 * a 16-bit scale and an integer but Q6_K's last are exact, so the results do not depend on the
 * compiler's choice of instructions.
 */
#include "encoding.h"

#include <string.h>

#include "bytes.h"

/* Half to float without a branch: exponents move by 112; zero and subnormals are a difference of
 * two normal numbers; infinities and NaNs move once more. */
static inline float float_of_half(uint16_t h) {
    const uint32_t infinite = 0x7c00u << 13;
    uint32_t magnitude = (uint32_t)(h & 0x7fffu) << 13, exponent = magnitude & infinite;
    uint32_t bits = magnitude + (112u << 23) + (exponent == infinite ? 112u << 23 : 0u) +
                    (exponent == 0 ? 1u << 23 : 0u);
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, offset_bits = exponent == 0 ? 113u << 23 : 0u;
    float value, offset;
    memcpy(&value, &bits, sizeof value);
    memcpy(&offset, &offset_bits, sizeof offset);
    value -= offset;
    memcpy(&bits, &value, sizeof bits);
    bits |= sign;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float half_at(const unsigned char *p) { return float_of_half(ca_read_u16(p)); }

static void decode_f32(float *out, const unsigned char *in, int64_t count) {
    memcpy(out, in, (size_t)count * sizeof *out);
}

static void decode_f16(float *out, const unsigned char *in, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) out[i] = half_at(in + 2 * i);
}

/* BF16 is the upper half of an f32. */
static void decode_bf16(float *out, const unsigned char *in, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)ca_read_u16(in + 2 * i) << 16;
        memcpy(out + i, &bits, sizeof bits);
    }
}

/* f16 d; 32 i8 q: d q */
static void decode_q8_0(float *out, const unsigned char *in, int64_t blocks) {
    for (int64_t b = 0; b < blocks; b++, out += 32, in += 34) {
        float d = half_at(in);
#pragma omp simd
        for (int i = 0; i < 32; i++) out[i] = d * (float)(int8_t)in[2 + i];
    }
}

/* f16 d; 16 bytes, low nibbles are values 0-15, high nibbles 16-31: d (q - 8) */
static void decode_q4_0(float *out, const unsigned char *in, int64_t blocks) {
    for (int64_t b = 0; b < blocks; b++, out += 32, in += 18) {
        float d = half_at(in);
#pragma omp simd
        for (int i = 0; i < 16; i++) {
            int q = in[2 + i];
            out[i] = d * (float)((q & 15) - 8);
            out[i + 16] = d * (float)((q >> 4) - 8);
        }
    }
}

/* f16 d, m; 16 bytes as Q4_0: d q + m */
static void decode_q4_1(float *out, const unsigned char *in, int64_t blocks) {
    for (int64_t b = 0; b < blocks; b++, out += 32, in += 20) {
        float d = half_at(in), m = half_at(in + 2);
#pragma omp simd
        for (int i = 0; i < 16; i++) {
            int q = in[4 + i];
            out[i] = d * (float)(q & 15) + m;
            out[i + 16] = d * (float)(q >> 4) + m;
        }
    }
}

/* 32 values of 5 bits: nibbles as Q4_0 in `low`, bit 4 of value i is bit i of `high`. */
static inline void five_bits(int q[32], const unsigned char *low, uint32_t high) {
    for (int i = 0; i < 16; i++) {
        q[i] = (low[i] & 15) | (int)(high >> i & 1u) << 4;
        q[i + 16] = (low[i] >> 4) | (int)(high >> (i + 16) & 1u) << 4;
    }
}

/* f16 d; u32 high bits; 16 bytes: d (q - 16) */
static void decode_q5_0(float *out, const unsigned char *in, int64_t blocks) {
    int q[32];
    for (int64_t b = 0; b < blocks; b++, out += 32, in += 22) {
        float d = half_at(in);
        five_bits(q, in + 6, ca_read_u32(in + 2));
        for (int i = 0; i < 32; i++) out[i] = d * (float)(q[i] - 16);
    }
}

/* f16 d, m; u32 high bits; 16 bytes: d q + m */
static void decode_q5_1(float *out, const unsigned char *in, int64_t blocks) {
    int q[32];
    for (int64_t b = 0; b < blocks; b++, out += 32, in += 24) {
        float d = half_at(in), m = half_at(in + 2);
        five_bits(q, in + 8, ca_read_u32(in + 4));
        for (int i = 0; i < 32; i++) out[i] = d * (float)q[i] + m;
    }
}

/* Eight 6-bit scales and eight 6-bit minima in 12 bytes; the last four of each are split in two. */
static void six_bit_scales(int scale[8], int minimum[8], const unsigned char *b) {
    for (int j = 0; j < 4; j++) {
        scale[j] = b[j] & 63;
        minimum[j] = b[j + 4] & 63;
        scale[j + 4] = (b[j + 8] & 15) | (b[j] >> 6) << 4;
        minimum[j + 4] = (b[j + 8] >> 4) | (b[j + 4] >> 6) << 4;
    }
}

/* f16 d, dmin; 12 bytes of scales s and minima m of 8 sub-blocks of 32 values; 128 bytes, 32 of
 * them for two sub-blocks (low nibbles first): d s q - dmin m */
static void decode_q4_k(float *out, const unsigned char *in, int64_t blocks) {
    int s[8], m[8];
    for (int64_t b = 0; b < blocks; b++, out += 256, in += 144) {
        float d = half_at(in), d_min = half_at(in + 2);
        six_bit_scales(s, m, in + 4);
        for (int k = 0; k < 8; k++) {
            const unsigned char *nibbles = in + 16 + 32 * (k / 2);
            float scale = d * (float)s[k], minimum = d_min * (float)m[k];
            for (int i = 0; i < 32; i++)
                out[32 * k + i] = scale * (float)(nibbles[i] >> 4 * (k % 2) & 15) - minimum;
        }
    }
}

/* As Q4_K with 32 bytes of fifth bits after the scales: bit k of byte i for sub-block k. */
static void decode_q5_k(float *out, const unsigned char *in, int64_t blocks) {
    int s[8], m[8];
    for (int64_t b = 0; b < blocks; b++, out += 256, in += 176) {
        float d = half_at(in), d_min = half_at(in + 2);
        const unsigned char *high = in + 16;
        six_bit_scales(s, m, in + 4);
        for (int k = 0; k < 8; k++) {
            const unsigned char *nibbles = in + 48 + 32 * (k / 2);
            float scale = d * (float)s[k], minimum = d_min * (float)m[k];
            for (int i = 0; i < 32; i++) {
                int q = (nibbles[i] >> 4 * (k % 2) & 15) | (high[i] >> k & 1) << 4;
                out[32 * k + i] = scale * (float)q - minimum;
            }
        }
    }
}

/* 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 i8 scales s, f16 d: d s (q - 32).
 * A half block has 128 values in four groups of 32: groups 0 and 1 are the low nibbles of its two
 * 32-byte runs, groups 2 and 3 the high ones; group g takes bits 2 g of its 32 high bytes. */
static void decode_q6_k(float *out, const unsigned char *in, int64_t blocks) {
    for (int64_t b = 0; b < blocks; b++, out += 256, in += 210) {
        float d = half_at(in + 208);
        for (int k = 0; k < 8; k++) {
            int half = k / 4, group = k % 4;
            const unsigned char *low = in + 64 * half + 32 * (group % 2);
            const unsigned char *high = in + 128 + 32 * half, *scales = in + 192 + 2 * k;
            for (int i = 0; i < 32; i++) {
                int q = (low[i] >> 4 * (group / 2) & 15) | (high[i] >> 2 * group & 3) << 4;
                out[32 * k + i] = d * (float)(int8_t)scales[i / 16] * (float)(q - 32);
            }
        }
    }
}

/* X(name, GGML type, values and bytes of a block, decoder) */
#define ENCODINGS(X)                                                                               \
    X("F32", 0, 1, 4, decode_f32)                                                                  \
    X("F16", 1, 1, 2, decode_f16)                                                                  \
    X("BF16", 30, 1, 2, decode_bf16)                                                               \
    X("Q4_0", 2, 32, 18, decode_q4_0)                                                              \
    X("Q4_1", 3, 32, 20, decode_q4_1)                                                              \
    X("Q5_0", 6, 32, 22, decode_q5_0)                                                              \
    X("Q5_1", 7, 32, 24, decode_q5_1)                                                              \
    X("Q8_0", 8, 32, 34, decode_q8_0)                                                              \
    X("Q4_K", 12, 256, 144, decode_q4_k)                                                           \
    X("Q5_K", 13, 256, 176, decode_q5_k)                                                           \
    X("Q6_K", 14, 256, 210, decode_q6_k)

static const ca_encoding encodings[] = {
#define ROW(name, type, values, bytes, decode) {name, type, values, bytes, decode},
    ENCODINGS(ROW)
#undef ROW
};

enum { ENCODING_COUNT = sizeof encodings / sizeof *encodings };

const ca_encoding *ca_encoding_by_name(const char *name) {
    for (int i = 0; i < ENCODING_COUNT; i++)
        if (strcmp(encodings[i].name, name) == 0) return encodings + i;
    return NULL;
}

const ca_encoding *ca_encoding_by_ggml_type(uint32_t type) {
    for (int i = 0; i < ENCODING_COUNT; i++)
        if ((uint32_t)encodings[i].ggml_type == type) return encodings + i;
    return NULL;
}

const char *ca_ggml_type_name(uint32_t type) {
    static const char *const names[] = {
        "F32",     "F16",    "Q4_0",    "Q4_1",  "Q4_2",   "Q4_3",  "Q5_0",  "Q5_1",
        "Q8_0",    "Q8_1",   "Q2_K",    "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K",  "Q8_K",
        "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS",
        "I8",      "I16",    "I32",     "I64",   "F64",    "IQ1_M", "BF16"};
    return type < sizeof names / sizeof *names ? names[type] : "unknown";
}

const char *ca_encoding_names(void) {
#define NAME(name, type, values, bytes, decode) ", " name
    static const char text[] = ENCODINGS(NAME);
#undef NAME
    return text + 2;
}
