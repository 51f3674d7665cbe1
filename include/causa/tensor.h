/* SPDX-License-Identifier: MIT
 *
 * A tensor is a view: where, of what type, how large. It owns nothing; memory belongs to a
 * backend (device memory for cuda) and is released by whoever allocated it.
 */
#ifndef CAUSA_TENSOR_H
#define CAUSA_TENSOR_H

#include "causa/base.h"

/* X(name, bytes, text) */
#define CA_DTYPE_LIST(X)                                                                           \
    X(CA_F32, 4, "f32")                                                                            \
    X(CA_F64, 8, "f64")                                                                            \
    X(CA_F16, 2, "f16")                                                                            \
    X(CA_BF16, 2, "bf16")                                                                          \
    X(CA_I32, 4, "i32")                                                                            \
    X(CA_I64, 8, "i64")

typedef enum ca_dtype {
#define CA_DTYPE_ENUM(name, bytes, text) name,
    CA_DTYPE_LIST(CA_DTYPE_ENUM)
#undef CA_DTYPE_ENUM
} ca_dtype;

size_t ca_dtype_size(ca_dtype dtype);
const char *ca_dtype_name(ca_dtype dtype);

/* bf16 is the upper half of an f32: widened exactly, rounded to nearest even; NaN stays NaN. */
static inline float ca_bf16_widen(uint16_t bits) {
    union {
        uint32_t i;
        float f;
    } u = {.i = (uint32_t)bits << 16};
    return u.f;
}
static inline uint16_t ca_bf16_round(float x) {
    union {
        float f;
        uint32_t i;
    } u = {.f = x};
    uint32_t nan = (u.i >> 16) | 0x40u, nearest = (u.i + 0x7fffu + (u.i >> 16 & 1u)) >> 16;
    return (uint16_t)((u.i & 0x7fffffffu) > 0x7f800000u ? nan : nearest);
}

enum { CA_MAX_RANK = 4 };

/* Row-major with free outer strides: the last axis is always contiguous (stride 1).
 * An input may repeat rows along an axis by stride 0 (see ca_tensor_repeat); an output may not.
 * Axes beyond `rank` have size 1. Strides count elements. data == NULL means "absent". */
typedef struct ca_tensor {
    void *data;
    ca_dtype dtype;
    int rank;
    int64_t shape[CA_MAX_RANK];
    int64_t stride[CA_MAX_RANK];
} ca_tensor;

/* Contiguous views over `data`. */
ca_tensor ca_tensor_1d(void *data, ca_dtype dtype, int64_t n0);
ca_tensor ca_tensor_2d(void *data, ca_dtype dtype, int64_t n0, int64_t n1);
ca_tensor ca_tensor_3d(void *data, ca_dtype dtype, int64_t n0, int64_t n1, int64_t n2);
ca_tensor ca_tensor_4d(void *data, ca_dtype dtype, int64_t n0, int64_t n1, int64_t n2, int64_t n3);

int64_t ca_tensor_count(const ca_tensor *t); /* elements; 0 for an absent tensor */
bool ca_tensor_is_contiguous(const ca_tensor *t);
bool ca_tensor_same_shape(const ca_tensor *a, const ca_tensor *b);

/* Part of one axis: elements [start, start + count). Shares memory. */
ca_tensor ca_tensor_slice(ca_tensor t, int axis, int64_t start, int64_t count);
/* One element of an axis: [A, B, C] at (1, i) as [A, C]. Rank shrinks by one; not the last axis. */
ca_tensor ca_tensor_at(ca_tensor t, int axis, int64_t index);
/* The same elements under another shape; `t` must be contiguous. */
ca_tensor ca_tensor_reshape(ca_tensor t, int rank, const int64_t *shape);
/* [A, B, C] contiguous seen as [A * B, C]; works for any rank >= 1. */
ca_tensor ca_tensor_rows(ca_tensor t);
/* The last axis [n] seen as [parts, n / parts]: [T, H * Dh] as [T, H, Dh]; rank grows by one. */
ca_tensor ca_tensor_split_last(ca_tensor t, int64_t parts);

/* [T, D] seen as [count, T, D] with stride 0: one value for every lane. Rank grows by one. */
ca_tensor ca_tensor_repeat(ca_tensor t, int64_t count);
/* Exchanges two axes of the view, neither of them the last: [T, H, Dh] as [H, T, Dh]. */
ca_tensor ca_tensor_swap_axes(ca_tensor t, int a, int b);

/* "[12, 576] f32" into a static per-thread buffer, for messages. */
const char *ca_tensor_text(const ca_tensor *t);

#endif
