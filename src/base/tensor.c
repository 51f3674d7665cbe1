/* SPDX-License-Identifier: MIT
 *
 * Views: shapes and strides only. Nothing here touches the elements, so it serves device memory
 * as well. Wrong axes or shapes are programming errors: what users write is checked before.
 */
#include "causa/tensor.h"

#include <assert.h>

size_t ca_dtype_size(ca_dtype dtype) {
    switch (dtype) {
#define SIZE_CASE(name, bytes, text)                                                               \
    case name:                                                                                     \
        return bytes;
        CA_DTYPE_LIST(SIZE_CASE)
#undef SIZE_CASE
    }
    assert(!"dtype out of range");
    return 0;
}

const char *ca_dtype_name(ca_dtype dtype) {
    switch (dtype) {
#define NAME_CASE(name, bytes, text)                                                               \
    case name:                                                                                     \
        return text;
        CA_DTYPE_LIST(NAME_CASE)
#undef NAME_CASE
    }
    return "unknown";
}

static ca_tensor contiguous(void *data, ca_dtype dtype, int rank, const int64_t *shape) {
    assert(rank >= 1 && rank <= CA_MAX_RANK);
    ca_tensor t = {.data = data, .dtype = dtype, .rank = rank, .shape = {1, 1, 1, 1}};
    int64_t stride = 1;
    for (int axis = rank - 1; axis >= 0; axis--) {
        assert(shape[axis] >= 0);
        t.shape[axis] = shape[axis];
        t.stride[axis] = stride;
        stride *= shape[axis];
    }
    return t;
}

ca_tensor ca_tensor_1d(void *data, ca_dtype dtype, int64_t n0) {
    return contiguous(data, dtype, 1, (int64_t[]){n0});
}

ca_tensor ca_tensor_2d(void *data, ca_dtype dtype, int64_t n0, int64_t n1) {
    return contiguous(data, dtype, 2, (int64_t[]){n0, n1});
}

ca_tensor ca_tensor_3d(void *data, ca_dtype dtype, int64_t n0, int64_t n1, int64_t n2) {
    return contiguous(data, dtype, 3, (int64_t[]){n0, n1, n2});
}

ca_tensor ca_tensor_4d(void *data, ca_dtype dtype, int64_t n0, int64_t n1, int64_t n2, int64_t n3) {
    return contiguous(data, dtype, 4, (int64_t[]){n0, n1, n2, n3});
}

int64_t ca_tensor_count(const ca_tensor *t) {
    if (t->data == NULL) return 0;
    int64_t count = 1;
    for (int axis = 0; axis < t->rank; axis++) count *= t->shape[axis];
    return count;
}

bool ca_tensor_is_contiguous(const ca_tensor *t) {
    int64_t stride = 1;
    for (int axis = t->rank - 1; axis >= 0; axis--) {
        if (t->shape[axis] == 0) return true;
        /* The stride of an axis of one element is never used. */
        if (t->shape[axis] != 1 && t->stride[axis] != stride) return false;
        stride *= t->shape[axis];
    }
    return true;
}

bool ca_tensor_same_shape(const ca_tensor *a, const ca_tensor *b) {
    if (a->rank != b->rank) return false;
    for (int axis = 0; axis < a->rank; axis++)
        if (a->shape[axis] != b->shape[axis]) return false;
    return true;
}

ca_tensor ca_tensor_slice(ca_tensor t, int axis, int64_t start, int64_t count) {
    assert(axis >= 0 && axis < t.rank);
    assert(start >= 0 && count >= 0 && count <= t.shape[axis] - start);
    t.shape[axis] = count;
    if (t.data != NULL)
        t.data = (char *)t.data + start * t.stride[axis] * (int64_t)ca_dtype_size(t.dtype);
    return t;
}

ca_tensor ca_tensor_reshape(ca_tensor t, int rank, const int64_t *shape) {
    assert(ca_tensor_is_contiguous(&t));
    ca_tensor reshaped = contiguous(t.data, t.dtype, rank, shape);
    assert(ca_tensor_count(&reshaped) == ca_tensor_count(&t));
    return reshaped;
}

ca_tensor ca_tensor_rows(ca_tensor t) {
    assert(t.rank >= 1);
    int64_t rows = 1, width = t.shape[t.rank - 1];
    for (int axis = 0; axis < t.rank - 1; axis++) rows *= t.shape[axis];
    return ca_tensor_reshape(t, 2, (int64_t[]){rows, width});
}

ca_tensor ca_tensor_split_last(ca_tensor t, int64_t parts) {
    int last = t.rank - 1;
    assert(t.rank >= 1 && t.rank < CA_MAX_RANK);
    assert(parts > 0 && t.shape[last] % parts == 0);
    int64_t width = t.shape[last] / parts;
    t.shape[last] = parts;
    t.stride[last] = width;
    t.shape[last + 1] = width;
    t.stride[last + 1] = 1;
    t.rank++;
    return t;
}

ca_tensor ca_tensor_repeat(ca_tensor t, int64_t count) {
    assert(t.rank < CA_MAX_RANK && count >= 0);
    for (int axis = t.rank; axis > 0; axis--) {
        t.shape[axis] = t.shape[axis - 1];
        t.stride[axis] = t.stride[axis - 1];
    }
    t.shape[0] = count;
    t.stride[0] = 0;
    t.rank++;
    return t;
}

ca_tensor ca_tensor_at(ca_tensor t, int axis, int64_t index) {
    assert(axis < t.rank - 1);
    t = ca_tensor_slice(t, axis, index, 1);
    for (int i = axis; i + 1 < t.rank; i++) {
        t.shape[i] = t.shape[i + 1];
        t.stride[i] = t.stride[i + 1];
    }
    t.rank--;
    t.shape[t.rank] = 1;
    t.stride[t.rank] = 0;
    return t;
}

ca_tensor ca_tensor_swap_axes(ca_tensor t, int a, int b) {
    assert(a >= 0 && b >= 0 && a < t.rank - 1 && b < t.rank - 1);
    int64_t shape = t.shape[a], stride = t.stride[a];
    t.shape[a] = t.shape[b];
    t.stride[a] = t.stride[b];
    t.shape[b] = shape;
    t.stride[b] = stride;
    return t;
}

const char *ca_tensor_text(const ca_tensor *t) {
    /* Used in turn, so that one message can show several tensors. */
    static _Thread_local char buffers[4][128];
    static _Thread_local unsigned turn;
    char *text = buffers[turn++ % 4];
    int used = snprintf(text, sizeof buffers[0], "[");
    for (int axis = 0; axis < t->rank; axis++)
        used += snprintf(text + used, sizeof buffers[0] - (size_t)used, "%s%lld",
                         axis > 0 ? ", " : "", (long long)t->shape[axis]);
    snprintf(text + used, sizeof buffers[0] - (size_t)used, "] %s", ca_dtype_name(t->dtype));
    return text;
}
