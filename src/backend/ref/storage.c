/* SPDX-License-Identifier: MIT
 *
 * Storage of the reference backend seen as rows of doubles: f32, f64, f16 and bf16 are widened
 * exactly when loaded and rounded once, to nearest even, when stored.
 */
#include "ref.h"

#include <math.h>

/* Offset in elements of entry `index` of the first `axes` axes in row-major order. */
static int64_t offset_of(const ca_tensor *t, int axes, int64_t index) {
    int64_t offset = 0;
    for (int axis = axes - 1; axis >= 0; axis--) {
        offset += index % t->shape[axis] * t->stride[axis];
        index /= t->shape[axis];
    }
    return offset;
}

/* ---- 16-bit floats: sign, exponent, fraction */

static double decode(uint16_t bits, int fraction_bits) {
    int exponent_bits = 15 - fraction_bits, bias = (1 << (exponent_bits - 1)) - 1;
    int exponent = bits >> fraction_bits & ((1 << exponent_bits) - 1);
    int fraction = bits & ((1 << fraction_bits) - 1);
    double value;
    if (exponent == (1 << exponent_bits) - 1)
        value = fraction ? (double)NAN : (double)INFINITY;
    else if (exponent == 0)
        value = ldexp(fraction, 1 - bias - fraction_bits);
    else
        value = ldexp(fraction + (1 << fraction_bits), exponent - bias - fraction_bits);
    return bits >> 15 ? -value : value;
}

static uint16_t encode(double value, int fraction_bits) {
    int exponent_bits = 15 - fraction_bits, bias = (1 << (exponent_bits - 1)) - 1;
    int infinity = ((1 << exponent_bits) - 1) << fraction_bits;
    int sign = signbit(value) ? 1 << 15 : 0;
    if (isnan(value)) return (uint16_t)(sign | infinity | 1 << (fraction_bits - 1));
    if (isinf(value)) return (uint16_t)(sign | infinity);

    int exponent;
    frexp(value, &exponent); /* |value| in [2^(exponent - 1), 2^exponent) */
    if (exponent > bias + 1) return (uint16_t)(sign | infinity);
    exponent = value != 0 && exponent - 1 > 1 - bias ? exponent - 1 : 1 - bias;
    /* The implicit leading one of a normal number adds 1 to the exponent field, and so does a
     * fraction that is rounded up to the next power of two. */
    int fraction = (int)rint(ldexp(fabs(value), fraction_bits - exponent));
    int bits = fraction + ((exponent + bias - 1) << fraction_bits);
    return (uint16_t)(sign | (bits < infinity ? bits : infinity));
}

enum { F16_FRACTION = 10, BF16_FRACTION = 7 };

/* ---- runs of contiguous elements */

static void load_run(const ca_tensor *t, int64_t offset, int64_t n, double *values) {
    switch (t->dtype) {
    case CA_F32:
        for (int64_t i = 0; i < n; i++) values[i] = ((const float *)t->data)[offset + i];
        break;
    case CA_F64:
        for (int64_t i = 0; i < n; i++) values[i] = ((const double *)t->data)[offset + i];
        break;
    case CA_F16:
        for (int64_t i = 0; i < n; i++)
            values[i] = decode(((const uint16_t *)t->data)[offset + i], F16_FRACTION);
        break;
    case CA_BF16:
        for (int64_t i = 0; i < n; i++)
            values[i] = decode(((const uint16_t *)t->data)[offset + i], BF16_FRACTION);
        break;
    case CA_I32:
        for (int64_t i = 0; i < n; i++) values[i] = ((const int32_t *)t->data)[offset + i];
        break;
    case CA_I64:
        for (int64_t i = 0; i < n; i++) values[i] = (double)((const int64_t *)t->data)[offset + i];
        break;
    }
}

static void store_run(const ca_tensor *t, int64_t offset, int64_t n, const double *values) {
    switch (t->dtype) {
    case CA_F32:
        for (int64_t i = 0; i < n; i++) ((float *)t->data)[offset + i] = (float)values[i];
        break;
    case CA_F64:
        for (int64_t i = 0; i < n; i++) ((double *)t->data)[offset + i] = values[i];
        break;
    case CA_F16:
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)t->data)[offset + i] = encode(values[i], F16_FRACTION);
        break;
    case CA_BF16:
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)t->data)[offset + i] = encode(values[i], BF16_FRACTION);
        break;
    case CA_I32:
        for (int64_t i = 0; i < n; i++) ((int32_t *)t->data)[offset + i] = (int32_t)values[i];
        break;
    case CA_I64:
        for (int64_t i = 0; i < n; i++) ((int64_t *)t->data)[offset + i] = (int64_t)values[i];
        break;
    }
}

/* ---- the view that operations use */

int64_t ca_ref_rows(const ca_tensor *t) {
    int64_t rows = 1;
    for (int axis = 0; axis < t->rank - 1; axis++) rows *= t->shape[axis];
    return rows;
}

int64_t ca_ref_width(const ca_tensor *t) { return t->shape[t->rank - 1]; }

void *ca_ref_row(const ca_tensor *t, int64_t row) {
    return (char *)t->data + offset_of(t, t->rank - 1, row) * (int64_t)ca_dtype_size(t->dtype);
}

void ca_ref_load(const ca_tensor *t, int64_t row, double *values) {
    load_run(t, offset_of(t, t->rank - 1, row), ca_ref_width(t), values);
}

void ca_ref_store(const ca_tensor *t, int64_t row, const double *values) {
    store_run(t, offset_of(t, t->rank - 1, row), ca_ref_width(t), values);
}

double ca_ref_get(const ca_tensor *t, int64_t element) {
    double value = 0;
    load_run(t, offset_of(t, t->rank, element), 1, &value);
    return value;
}

void ca_ref_set(const ca_tensor *t, int64_t element, double value) {
    store_run(t, offset_of(t, t->rank, element), 1, &value);
}

void ca_ref_round_bf16(double *values, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        values[i] = decode(encode(values[i], BF16_FRACTION), BF16_FRACTION);
}

int64_t ca_ref_index(const ca_tensor *t, int64_t i) {
    return t->dtype == CA_I32 ? ((const int32_t *)t->data)[i] : ((const int64_t *)t->data)[i];
}

ca_status ca_ref_scratch(int64_t count, double **out) {
    return ca_calloc((size_t)(count > 0 ? count : 1), sizeof **out, out);
}

double ca_ref_dot(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}
