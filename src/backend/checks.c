/* SPDX-License-Identifier: MIT
 *
 * Verifies the arguments of operations against the descriptions that ops.c gives.
 */
#include "checks.h"

#include <math.h>
#include <string.h>

typedef long long ll; /* for %lld */

void ca_dims_set(ca_dims *dims, char letter, int64_t size) {
    dims->known[letter - 'A'] = true;
    dims->size[letter - 'A'] = size;
}

/* ---- what a message says */

enum { TEXT_SIZE = 128 };

static void append(char text[TEXT_SIZE], const char *piece) {
    size_t length = strlen(text);
    snprintf(text + length, TEXT_SIZE - length, "%s%s", length > 1 ? ", " : "", piece);
}

static void append_size(char text[TEXT_SIZE], int64_t size) {
    char piece[24];
    snprintf(piece, sizeof piece, "%lld", (ll)size);
    append(text, piece);
}

/* "[T, 576] f32": known sizes as numbers, others as letters. */
static void expected_text(const ca_argument *a, const ca_dims *dims, const char *dtype,
                          char text[TEXT_SIZE]) {
    strcpy(text, "[");
    for (const char *c = a->shape; *c; c++) {
        bool leading = *c == '*' || *c == '?';
        if (leading && dims->leading_known) {
            for (int i = 0; i < dims->leading_rank; i++) append_size(text, dims->leading[i]);
        } else if (leading) {
            if (*c == '*') append(text, "...");
        } else if (dims->known[*c - 'A']) {
            append_size(text, dims->size[*c - 'A']);
        } else {
            append(text, (const char[]){*c, '\0'});
        }
    }
    size_t length = strlen(text);
    snprintf(text + length, TEXT_SIZE - length, "] %s", dtype);
}

static ca_status unexpected(const char *operation, const ca_argument *a, const ca_dims *dims,
                            const char *dtype) {
    char expected[TEXT_SIZE];
    expected_text(a, dims, dtype, expected);
    const ca_tensor *t = a->tensor;
    bool absent = !t->data && t->rank == 0;
    return ca_fail(CA_E_SHAPE, "%s: %s: expected %s, got %s%s", operation, a->name, expected,
                   absent ? "nothing" : ca_tensor_text(t),
                   t->data || absent ? "" : " without data");
}

/* ---- one argument */

static bool is_floating(ca_dtype dtype) {
    return dtype == CA_F32 || dtype == CA_F64 || dtype == CA_F16 || dtype == CA_BF16;
}

/* What dtype an argument must have, as text; the first floating argument decides for the others. */
static const char *dtype_expected(const ca_argument *a, const ca_backend *be,
                                  const ca_dtype *common) {
    if (a->flags & CA_INDEX) return "i32 or i64";
    if (a->flags & CA_INT32) return "i32";
    if (a->flags & CA_INT64) return "i64";
    if (a->flags & CA_ANY_DTYPE) return "of any dtype";
    bool narrow = a->flags & CA_MATRIX && be->bfloat16 && common;
    if (narrow) return *common == CA_F64 ? "f64 or bf16" : "f32 or bf16";
    if (common) return ca_dtype_name(*common);
    return be->float64 ? "f32 or f64" : "f32";
}

static bool dtype_fits(const ca_argument *a, const ca_backend *be, const ca_dtype *common) {
    ca_dtype dtype = a->tensor->dtype;
    if (a->flags & CA_INDEX) return dtype == CA_I32 || dtype == CA_I64;
    if (a->flags & CA_INT32) return dtype == CA_I32;
    if (a->flags & CA_INT64) return dtype == CA_I64;
    if (a->flags & CA_ANY_DTYPE) return true;
    if (a->flags & CA_MATRIX && be->bfloat16 && dtype == CA_BF16) return true;
    if (common) return dtype == *common;
    return dtype == CA_F32 || (dtype == CA_F64 && be->float64);
}

/* Binds the letters of the shape; false when a bound letter has another size. */
static bool shape_fits(const ca_argument *a, ca_dims *dims) {
    const ca_tensor *t = a->tensor;
    const char *letters = a->shape;
    bool leading = *letters == '*' || *letters == '?';
    if (leading) letters++;
    int extra = t->rank - (int)strlen(letters);
    if (t->rank < 1 || t->rank > CA_MAX_RANK || extra < 0) return false;
    if (extra > (a->shape[0] == '*' ? CA_MAX_RANK : leading)) return false;
    if (leading) {
        size_t bytes = (size_t)extra * sizeof t->shape[0];
        if (!dims->leading_known) {
            dims->leading_known = true;
            dims->leading_rank = extra;
            memcpy(dims->leading, t->shape, bytes);
        }
        if (extra != dims->leading_rank || memcmp(dims->leading, t->shape, bytes) != 0)
            return false;
    }
    for (int axis = extra; axis < t->rank; axis++) {
        int letter = letters[axis - extra] - 'A';
        if (t->shape[axis] < 0) return false;
        if (!dims->known[letter]) ca_dims_set(dims, letters[axis - extra], t->shape[axis]);
        if (dims->size[letter] != t->shape[axis]) return false;
    }
    return true;
}

static bool has_zero_axis(const ca_tensor *t) {
    for (int axis = 0; axis < t->rank; axis++)
        if (t->shape[axis] == 0) return true;
    return t->rank == 0;
}

static ca_status check_strides(const char *operation, const ca_argument *a) {
    const ca_tensor *t = a->tensor;
    int last = t->rank - 1;
    if (has_zero_axis(t)) return CA_OK; /* nothing is addressed */
    if (t->shape[last] > 1 && t->stride[last] != 1)
        return ca_fail(CA_E_SHAPE, "%s: %s: expected stride 1 on the last axis, got %lld",
                       operation, a->name, (ll)t->stride[last]);
    for (int axis = 0; axis < last; axis++) {
        bool repeated = t->stride[axis] == 0 && t->shape[axis] > 1;
        if (t->stride[axis] < 0 || (repeated && a->flags & CA_OUT))
            return ca_fail(CA_E_SHAPE, "%s: %s: expected a %s stride on axis %d of %s, got %lld",
                           operation, a->name, a->flags & CA_OUT ? "positive" : "non-negative",
                           axis, ca_tensor_text(t), (ll)t->stride[axis]);
    }
    return CA_OK;
}

/* ---- two arguments */

static bool same_view(const ca_tensor *a, const ca_tensor *b) {
    if (a->data != b->data || a->dtype != b->dtype || !ca_tensor_same_shape(a, b)) return false;
    for (int axis = 0; axis < a->rank; axis++)
        if (a->shape[axis] > 1 && a->stride[axis] != b->stride[axis]) return false;
    return true;
}

/* Exact for contiguous tensors. Of strided ones only those that begin at the same element are
 * found: slices of one fused q, k, v buffer interleave in memory and share nothing. */
static bool overlap(const ca_tensor *a, const ca_tensor *b) {
    if (!a->data || !b->data || has_zero_axis(a) || has_zero_axis(b)) return false;
    if (a->data == b->data) return true;
    if (!ca_tensor_is_contiguous(a) || !ca_tensor_is_contiguous(b)) return false;
    uintptr_t start_a = (uintptr_t)a->data, start_b = (uintptr_t)b->data;
    uintptr_t bytes_a = (uintptr_t)ca_tensor_count(a) * ca_dtype_size(a->dtype);
    uintptr_t bytes_b = (uintptr_t)ca_tensor_count(b) * ca_dtype_size(b->dtype);
    return start_a < start_b ? start_b - start_a < bytes_a : start_a - start_b < bytes_b;
}

static ca_status check_aliasing(const char *operation, const ca_argument *arguments, int count) {
    for (int i = 0; i < count; i++) {
        const ca_argument *written = &arguments[i];
        if (!(written->flags & CA_OUT)) continue;
        for (int j = 0; j < count; j++) {
            const ca_argument *other = &arguments[j];
            if (j == i || !overlap(written->tensor, other->tensor)) continue;
            if (written->in_place == other->tensor && same_view(written->tensor, other->tensor))
                continue;
            return ca_fail(CA_E_SHAPE, "%s: %s: expected memory of its own, got memory of %s",
                           operation, written->name, other->name);
        }
    }
    return CA_OK;
}

/* ---- all arguments */

ca_status ca_arguments_check(const ca_backend *be, const char *operation,
                             const ca_argument *arguments, int count, ca_dims *dims) {
    const ca_dtype *common = NULL;
    for (int i = 0; i < count; i++) {
        const ca_argument *a = &arguments[i];
        const ca_tensor *t = a->tensor;
        if (!t->data && (a->flags & CA_OPTIONAL)) continue;
        bool present = t->data || (t->rank > 0 && has_zero_axis(t));
        if (!present || !dtype_fits(a, be, common) || !shape_fits(a, dims))
            return unexpected(operation, a, dims, dtype_expected(a, be, common));
        ca_status st = check_strides(operation, a);
        if (st != CA_OK) return st;
        if (!common && is_floating(t->dtype) && !(a->flags & CA_ANY_DTYPE)) common = &t->dtype;
    }
    return check_aliasing(operation, arguments, count);
}

bool ca_arguments_empty(const ca_argument *arguments, int count) {
    for (int i = 0; i < count; i++)
        if ((arguments[i].flags & CA_OUT) && !has_zero_axis(arguments[i].tensor)) return false;
    return true;
}

/* ---- attention */

static ca_status check_numbers(const char *operation, ca_attention a) {
    if (a.heads < 1 || a.kv_heads < 1 || a.head_dim < 1 || a.heads % a.kv_heads != 0)
        return ca_fail(CA_E_SHAPE,
                       "%s: attention: expected heads to be a multiple of kv_heads and head_dim "
                       "above 0, got %lld heads, %lld kv_heads, head_dim %lld",
                       operation, (ll)a.heads, (ll)a.kv_heads, (ll)a.head_dim);
    if (!isfinite(a.scale) || !isfinite(a.soft_cap) || a.soft_cap < 0 || a.window < 0)
        return ca_fail(CA_E_SHAPE,
                       "%s: attention: expected a finite scale and non-negative soft_cap and "
                       "window, got %g, %g and %lld",
                       operation, a.scale, a.soft_cap, (ll)a.window);
    return CA_OK;
}

static ca_status unexpected_number(const char *operation, const char *field, int64_t s, ll expected,
                                   ll got) {
    if (s < 0)
        return ca_fail(CA_E_SHAPE, "%s: sequences.%s: expected %lld, got %lld", operation, field,
                       expected, got);
    return ca_fail(CA_E_SHAPE, "%s: sequences.%s[%lld]: expected %lld, got %lld", operation, field,
                   (ll)s, expected, got);
}

/* Walks the sequences once; `prefix_limit` is the number of prefix rows that exist. */
static ca_status check_host_arrays(const char *operation, const ca_sequences *q,
                                   int64_t prefix_limit) {
    int64_t max_rows = 0, max_keys = 0, pattern = 0;
    if (q->row_start[0] != 0)
        return unexpected_number(operation, "row_start", 0, 0, (ll)q->row_start[0]);
    for (int64_t s = 0; s < q->count; s++) {
        int64_t own = q->row_start[s + 1] - q->row_start[s], prefix = q->prefix_rows[s];
        if (own < 0 || q->row_start[s + 1] > q->rows)
            return ca_fail(
                CA_E_SHAPE, "%s: sequences.row_start[%lld]: expected %lld to %lld, got %lld",
                operation, (ll)s + 1, (ll)q->row_start[s], (ll)q->rows, (ll)q->row_start[s + 1]);
        bool inside = prefix >= 0 && prefix <= prefix_limit && q->prefix_start[s] >= 0 &&
                      q->prefix_start[s] <= prefix_limit - prefix;
        if (!inside && prefix != 0)
            return ca_fail(CA_E_SHAPE,
                           "%s: sequences.prefix_start[%lld]: expected rows within the %lld of "
                           "the prefix, got %lld rows from %lld",
                           operation, (ll)s, (ll)prefix_limit, (ll)prefix, (ll)q->prefix_start[s]);
        if (q->pattern_start[s] != pattern)
            return unexpected_number(operation, "pattern_start", s, (ll)pattern,
                                     (ll)q->pattern_start[s]);
        pattern += own * (prefix + own);
        max_rows = own > max_rows ? own : max_rows;
        max_keys = prefix + own > max_keys ? prefix + own : max_keys;
    }
    if (q->row_start[q->count] != q->rows)
        return unexpected_number(operation, "row_start", q->count, (ll)q->rows,
                                 (ll)q->row_start[q->count]);
    if (q->pattern_start[q->count] != pattern)
        return unexpected_number(operation, "pattern_start", q->count, (ll)pattern,
                                 (ll)q->pattern_start[q->count]);
    if (q->max_rows != max_rows)
        return unexpected_number(operation, "max_rows", -1, (ll)max_rows, (ll)q->max_rows);
    if (q->max_keys != max_keys)
        return unexpected_number(operation, "max_keys", -1, (ll)max_keys, (ll)q->max_keys);
    return CA_OK;
}

ca_status ca_attention_check(const ca_backend *be, const char *operation,
                             const ca_sequences *sequences, ca_attention attention,
                             const ca_tensor *prefix) {
    ca_status st = check_numbers(operation, attention);
    if (st != CA_OK) return st;
    if (sequences->count < 0)
        return ca_fail(CA_E_SHAPE, "%s: sequences.count: expected 0 or more, got %lld", operation,
                       (ll)sequences->count);
    int64_t prefix_limit = !prefix ? INT64_MAX : prefix->data ? prefix->shape[0] : 0;
    st = check_host_arrays(operation, sequences, prefix_limit);
    if (st != CA_OK) return st;

    const ca_argument arguments[] = {
        {"sequences.row_start_b", &sequences->row_start_b, "B", CA_INT64, NULL},
        {"sequences.prefix_start_b", &sequences->prefix_start_b, "S", CA_INT64, NULL},
        {"sequences.prefix_rows_b", &sequences->prefix_rows_b, "S", CA_INT64, NULL},
        {"sequences.pattern_start_b", &sequences->pattern_start_b, "B", CA_INT64, NULL},
        {"sequences.positions", &sequences->positions, "T", CA_INT32, NULL},
    };
    ca_dims dims = {0};
    ca_dims_set(&dims, 'B', sequences->count + 1);
    ca_dims_set(&dims, 'S', sequences->count);
    ca_dims_set(&dims, 'T', sequences->rows);
    return ca_arguments_check(be, operation, arguments, sizeof arguments / sizeof arguments[0],
                              &dims);
}
