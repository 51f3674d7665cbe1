/* SPDX-License-Identifier: MIT
 *
 * The operations of ops.h: each describes its arguments in a table, has them verified, and calls
 * the backend's entry. Nothing is called when there is nothing to write.
 */
#include "causa/ops.h"

#include "checks.h"

#include <math.h>

enum { OUT = CA_OUT, OPTIONAL = CA_OPTIONAL };

/* be->ops->operation(be, ...), or the error that it is not offered */
#define CALL(operation, ...)                                                                       \
    (be->ops->operation ? be->ops->operation(be, __VA_ARGS__) : not_offered(be, #operation))

/* The body of most operations: verify `arguments` with `dims`, then call. */
#define CHECK_AND_CALL(operation, dims, arguments, ...)                                            \
    do {                                                                                           \
        int count = (int)(sizeof arguments / sizeof arguments[0]);                                 \
        ca_status checked = ca_arguments_check(be, #operation, arguments, count, dims);            \
        if (checked != CA_OK || ca_arguments_empty(arguments, count)) return checked;              \
        return CALL(operation, __VA_ARGS__);                                                       \
    } while (0)

static ca_status not_offered(const ca_backend *be, const char *operation) {
    return ca_fail(CA_E_BACKEND, "backend %s does not offer %s", be->name, operation);
}

/* ---- memory */

ca_status ca_alloc(ca_backend *be, size_t bytes, void **out) { return CALL(alloc, bytes, out); }

void ca_release(ca_backend *be, void *data) {
    if (data) be->ops->release(be, data);
}

static ca_status check_contiguous(const char *operation, const char *name, const ca_tensor *t) {
    if (ca_tensor_is_contiguous(t)) return CA_OK;
    return ca_fail(CA_E_SHAPE, "%s: %s: expected a contiguous tensor, got a strided %s", operation,
                   name, ca_tensor_text(t));
}

ca_status ca_upload(ca_backend *be, ca_tensor dst, const void *host) {
    const ca_argument arguments[] = {{"dst", &dst, "*", OUT | CA_ANY_DTYPE, NULL}};
    ca_dims dims = {0};
    ca_status st = check_contiguous("upload", "dst", &dst);
    if (st != CA_OK) return st;
    CHECK_AND_CALL(upload, &dims, arguments, dst, host);
}

ca_status ca_download(ca_backend *be, void *host, ca_tensor src) {
    /* Described as written, so that an empty tensor is not downloaded. */
    const ca_argument arguments[] = {{"src", &src, "*", OUT | CA_ANY_DTYPE, NULL}};
    ca_dims dims = {0};
    ca_status st = check_contiguous("download", "src", &src);
    if (st != CA_OK) return st;
    CHECK_AND_CALL(download, &dims, arguments, host, src);
}

ca_status ca_download_f64(ca_backend *be, ca_tensor src, void *staging, double *host) {
    ca_status st = ca_download(be, staging, src);
    for (int64_t i = 0, n = ca_tensor_count(&src); st == CA_OK && i < n; i++) {
        if (src.dtype == CA_F64)
            host[i] = ((double *)staging)[i];
        else if (src.dtype == CA_BF16)
            host[i] = (double)ca_bf16_widen(((uint16_t *)staging)[i]);
        else
            host[i] = (double)((float *)staging)[i];
    }
    return st;
}

ca_status ca_upload_f64(ca_backend *be, ca_tensor dst, void *staging, const double *host) {
    for (int64_t i = 0, n = ca_tensor_count(&dst); i < n; i++) {
        if (dst.dtype == CA_F64)
            ((double *)staging)[i] = host[i];
        else if (dst.dtype == CA_BF16)
            ((uint16_t *)staging)[i] = ca_bf16_round((float)host[i]);
        else
            ((float *)staging)[i] = (float)host[i];
    }
    return ca_upload(be, dst, staging);
}

ca_status ca_copy(ca_backend *be, ca_tensor dst, ca_tensor src) {
    const ca_argument arguments[] = {{"dst", &dst, "*", OUT | CA_ANY_DTYPE, NULL},
                                     {"src", &src, "*", CA_ANY_DTYPE, NULL}};
    ca_dims dims = {0};
    bool integers =
        dst.dtype == CA_I32 || dst.dtype == CA_I64 || src.dtype == CA_I32 || src.dtype == CA_I64;
    if (integers && dst.dtype != src.dtype)
        return ca_fail(CA_E_SHAPE, "copy: dst: expected %s, got %s", ca_dtype_name(src.dtype),
                       ca_dtype_name(dst.dtype));
    CHECK_AND_CALL(copy, &dims, arguments, dst, src);
}

ca_status ca_fill(ca_backend *be, ca_tensor dst, double value) {
    const ca_argument arguments[] = {{"dst", &dst, "*", OUT | CA_ANY_DTYPE, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(fill, &dims, arguments, dst, value);
}

ca_status ca_sync(ca_backend *be) { return be->ops->sync ? be->ops->sync(be) : CA_OK; }

ca_status ca_memory_info(ca_backend *be, size_t *available, size_t *total) {
    return CALL(memory_info, available, total);
}

/* ---- dense */

ca_status ca_matmul(ca_backend *be, ca_tensor c, ca_tensor a, ca_tensor b, ca_tensor bias,
                    ca_matmul_options options) {
    const ca_argument arguments[] = {
        {"c", &c, "*MN", OUT, NULL},
        {"a", &a, options.transpose_a ? "*KM" : "*MK", CA_MATRIX, NULL},
        {"b", &b, options.transpose_b ? "*NK" : "*KN", CA_MATRIX, NULL},
        {"bias", &bias, "N", OPTIONAL, NULL}};
    ca_dims dims = {0};
    if (a.dtype == CA_BF16 && b.dtype != CA_BF16)
        return ca_fail(CA_E_SHAPE, "matmul: a: expected %s with b in %s, got bf16",
                       ca_dtype_name(b.dtype), ca_dtype_name(b.dtype));
    CHECK_AND_CALL(matmul, &dims, arguments, c, a, b, bias, options);
}

ca_status ca_linear_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w, ca_tensor bias) {
    ca_matmul_options options = {.transpose_b = true, .alpha = 1};
    ca_status st = ca_matmul(be, y, x, w, bias, options);
    return st == CA_OK ? st : ca_context(st, "linear_fwd");
}

ca_status ca_linear_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor w) {
    const ca_argument arguments[] = {{"dx", &dx, "*I", OUT, NULL},
                                     {"dy", &dy, "*O", CA_IN, NULL},
                                     {"w", &w, "OI", CA_MATRIX, NULL}};
    ca_dims dims = {0};
    ca_status st = CA_OK;
    CA_TRY(ca_arguments_check(be, "linear_bwd", arguments, 3, &dims));
    CA_TRY(check_contiguous("linear_bwd", "dx", &dx));
    CA_TRY(check_contiguous("linear_bwd", "dy", &dy));
    if (ca_arguments_empty(arguments, 3)) return CA_OK;
    st = ca_matmul(be, ca_tensor_rows(dx), ca_tensor_rows(dy), w, (ca_tensor){0},
                   (ca_matmul_options){.alpha = 1});
out:
    return st;
}

/* ---- rows */

ca_status ca_gather(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor index, double scale,
                    bool accumulate) {
    const ca_argument arguments[] = {{"y", &y, "?ID", OUT, NULL},
                                     {"x", &x, "?ND", CA_MATRIX, NULL},
                                     {"index", &index, "I", CA_INDEX, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(gather, &dims, arguments, y, x, index, scale, accumulate);
}

ca_status ca_scatter_add(ca_backend *be, ca_tensor y, ca_tensor index, ca_tensor x) {
    const ca_argument arguments[] = {{"y", &y, "?ND", OUT, NULL},
                                     {"index", &index, "I", CA_INT64, NULL},
                                     {"x", &x, "?ID", CA_IN, NULL}};
    ca_dims dims = {0};
    ca_status st = ca_arguments_check(be, "scatter_add", arguments, 3, &dims);
    if (st != CA_OK || ca_tensor_count(&x) == 0) return st;
    return CALL(scatter_add, y, index, x);
}

ca_status ca_add(ca_backend *be, ca_tensor y, ca_tensor x, double alpha) {
    const ca_argument arguments[] = {{"y", &y, "*", OUT, NULL}, {"x", &x, "*", CA_IN, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(add, &dims, arguments, y, x, alpha);
}

ca_status ca_add_scaled_rows(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor scale,
                             double alpha) {
    const ca_argument arguments[] = {{"y", &y, "*D", OUT, NULL},
                                     {"x", &x, "*D", CA_IN, NULL},
                                     {"scale", &scale, "*", CA_IN, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(add_scaled_rows, &dims, arguments, y, x, scale, alpha);
}

ca_status ca_multiply(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) {
    const ca_argument arguments[] = {
        {"y", &y, "*", OUT, &x}, {"x", &x, "*", CA_IN, NULL}, {"w", &w, "*", CA_IN, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(multiply, &dims, arguments, y, x, w);
}

ca_status ca_sum_heads(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor bias) {
    const ca_argument arguments[] = {{"y", &y, "TD", OUT, NULL},
                                     {"x", &x, "THD", CA_IN, NULL},
                                     {"bias", &bias, "D", OPTIONAL, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(sum_heads, &dims, arguments, y, x, bias);
}

/* ---- norm */

ca_status ca_norm_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor gain, ca_tensor bias,
                      ca_norm norm) {
    const ca_argument arguments[] = {{"y", &y, "*D", OUT, &x},
                                     {"x", &x, "*D", CA_IN, NULL},
                                     {"gain", &gain, "D", CA_IN, NULL},
                                     {"bias", &bias, "D", OPTIONAL, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(norm_fwd, &dims, arguments, y, x, gain, bias, norm);
}

ca_status ca_norm_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x, ca_tensor gain,
                      ca_norm norm, bool accumulate) {
    const ca_argument arguments[] = {{"dx", &dx, "*D", OUT, accumulate ? NULL : &dy},
                                     {"dy", &dy, "*D", CA_IN, NULL},
                                     {"x", &x, "*D", CA_IN, NULL},
                                     {"gain", &gain, "D", CA_IN, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(norm_bwd, &dims, arguments, dx, dy, x, gain, norm, accumulate);
}

ca_status ca_norm_stats(ca_backend *be, ca_tensor xhat, ca_tensor inverse, ca_tensor x,
                        ca_norm norm) {
    const ca_argument arguments[] = {{"xhat", &xhat, "*D", OUT, &x},
                                     {"inverse", &inverse, "*", OUT, NULL},
                                     {"x", &x, "*D", CA_IN, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(norm_stats, &dims, arguments, xhat, inverse, x, norm);
}

/* ---- attention */

ca_status ca_rope(ca_backend *be, ca_tensor x, ca_tensor cosine, ca_tensor sine,
                  ca_tensor positions, bool inverse) {
    const ca_argument arguments[] = {{"x", &x, "?THE", OUT, NULL},
                                     {"cosine", &cosine, "PN", CA_IN, NULL},
                                     {"sine", &sine, "PN", CA_IN, NULL},
                                     {"positions", &positions, "T", CA_INT32, NULL}};
    ca_dims dims = {0};
    if (cosine.rank == 2 && x.rank > 0 && 2 * cosine.shape[1] > x.shape[x.rank - 1])
        return ca_fail(CA_E_SHAPE, "rope: cosine: expected at most %lld angles, got %s",
                       (long long)x.shape[x.rank - 1] / 2, ca_tensor_text(&cosine));
    CHECK_AND_CALL(rope, &dims, arguments, x, cosine, sine, positions, inverse);
}

/* The letters of attention: H query heads, K key/value heads, E head width, G heads of dK and dV
 * (K, or H when each query head keeps its share), N elements of a flat pattern. */
static ca_dims attention_dims(const ca_sequences *sequences, ca_attention attention,
                              const ca_tensor *gradient) {
    ca_dims dims = {0};
    ca_dims_set(&dims, 'H', attention.heads);
    ca_dims_set(&dims, 'K', attention.kv_heads);
    ca_dims_set(&dims, 'E', attention.head_dim);
    ca_dims_set(&dims, 'T', sequences->rows);
    ca_dims_set(&dims, 'N', attention.heads * sequences->pattern_start[sequences->count]);
    bool per_query_head = gradient && gradient->rank == 4 && gradient->shape[2] == attention.heads;
    ca_dims_set(&dims, 'G', per_query_head ? attention.heads : attention.kv_heads);
    return dims;
}

/* An argument that may be absent only when another one is. */
static unsigned present_with(const ca_tensor *other) { return other->data ? CA_IN : CA_OPTIONAL; }

/* As CHECK_AND_CALL for operations on sequences; every other check relies on theirs. */
#define CHECK_SEQUENCES_AND_CALL(operation, prefix, gradient, arguments, ...)                      \
    do {                                                                                           \
        ca_status valid = ca_attention_check(be, #operation, sequences, attention, prefix);        \
        if (valid != CA_OK) return valid;                                                          \
        ca_dims dims = attention_dims(sequences, attention, gradient);                             \
        CHECK_AND_CALL(operation, &dims, arguments, __VA_ARGS__);                                  \
    } while (0)

ca_status ca_attention_fwd(ca_backend *be, ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k,
                           ca_tensor v, ca_tensor prefix_k, ca_tensor prefix_v,
                           const ca_sequences *sequences, ca_attention attention) {
    const ca_argument arguments[] = {{"o", &o, "THE", OUT, NULL},
                                     {"lse", &lse, "TH", OUT, NULL},
                                     {"q", &q, "THE", CA_IN, NULL},
                                     {"k", &k, "TKE", CA_IN, NULL},
                                     {"v", &v, "TKE", CA_IN, NULL},
                                     {"prefix_k", &prefix_k, "PKE", OPTIONAL, NULL},
                                     {"prefix_v", &prefix_v, "PKE", present_with(&prefix_k), NULL}};
    CHECK_SEQUENCES_AND_CALL(attention_fwd, &prefix_k, NULL, arguments, o, lse, q, k, v, prefix_k,
                             prefix_v, sequences, attention);
}

ca_status ca_attention_bwd(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor dv, ca_tensor d_o,
                           ca_tensor o, ca_tensor lse, ca_tensor q, ca_tensor k, ca_tensor v,
                           ca_tensor prefix_k, ca_tensor prefix_v, const ca_sequences *sequences,
                           ca_attention attention) {
    const ca_argument arguments[] = {{"dq", &dq, "RTHE", OUT, NULL},
                                     {"dk", &dk, "RTGE", OUT, NULL},
                                     {"dv", &dv, "RTGE", OUT, NULL},
                                     {"d_o", &d_o, "RTHE", CA_IN, NULL},
                                     {"o", &o, "THE", CA_IN, NULL},
                                     {"lse", &lse, "TH", CA_IN, NULL},
                                     {"q", &q, "THE", CA_IN, NULL},
                                     {"k", &k, "TKE", CA_IN, NULL},
                                     {"v", &v, "TKE", CA_IN, NULL},
                                     {"prefix_k", &prefix_k, "PKE", OPTIONAL, NULL},
                                     {"prefix_v", &prefix_v, "PKE", present_with(&prefix_k), NULL}};
    CHECK_SEQUENCES_AND_CALL(attention_bwd, &prefix_k, &dk, arguments, dq, dk, dv, d_o, o, lse, q,
                             k, v, prefix_k, prefix_v, sequences, attention);
}

ca_status ca_pattern_fwd(ca_backend *be, ca_tensor pattern, ca_tensor q, ca_tensor k,
                         ca_tensor prefix_k, const ca_sequences *sequences,
                         ca_attention attention) {
    const ca_argument arguments[] = {{"pattern", &pattern, "N", OUT, NULL},
                                     {"q", &q, "THE", CA_IN, NULL},
                                     {"k", &k, "TKE", CA_IN, NULL},
                                     {"prefix_k", &prefix_k, "PKE", OPTIONAL, NULL}};
    CHECK_SEQUENCES_AND_CALL(pattern_fwd, &prefix_k, NULL, arguments, pattern, q, k, prefix_k,
                             sequences, attention);
}

ca_status ca_pattern_bwd(ca_backend *be, ca_tensor dq, ca_tensor dk, ca_tensor d_pattern,
                         ca_tensor pattern, ca_tensor q, ca_tensor k, ca_tensor prefix_k,
                         const ca_sequences *sequences, ca_attention attention) {
    const ca_argument arguments[] = {{"dq", &dq, "RTHE", OUT, NULL},
                                     {"dk", &dk, "RTGE", OUT, NULL},
                                     {"d_pattern", &d_pattern, "RN", CA_IN, NULL},
                                     {"pattern", &pattern, "N", CA_IN, NULL},
                                     {"q", &q, "THE", CA_IN, NULL},
                                     {"k", &k, "TKE", CA_IN, NULL},
                                     {"prefix_k", &prefix_k, "PKE", OPTIONAL, NULL}};
    CHECK_SEQUENCES_AND_CALL(pattern_bwd, &prefix_k, &dk, arguments, dq, dk, d_pattern, pattern, q,
                             k, prefix_k, sequences, attention);
}

ca_status ca_pattern_apply_fwd(ca_backend *be, ca_tensor o, ca_tensor pattern, ca_tensor v,
                               ca_tensor prefix_v, const ca_sequences *sequences,
                               ca_attention attention) {
    const ca_argument arguments[] = {{"o", &o, "THE", OUT, NULL},
                                     {"pattern", &pattern, "N", CA_IN, NULL},
                                     {"v", &v, "TKE", CA_IN, NULL},
                                     {"prefix_v", &prefix_v, "PKE", OPTIONAL, NULL}};
    CHECK_SEQUENCES_AND_CALL(pattern_apply_fwd, &prefix_v, NULL, arguments, o, pattern, v, prefix_v,
                             sequences, attention);
}

ca_status ca_pattern_apply_bwd(ca_backend *be, ca_tensor d_pattern, ca_tensor dv, ca_tensor d_o,
                               ca_tensor pattern, ca_tensor v, ca_tensor prefix_v,
                               const ca_sequences *sequences, ca_attention attention) {
    const ca_argument arguments[] = {{"d_pattern", &d_pattern, "RN", OUT, NULL},
                                     {"dv", &dv, "RTGE", OUT, NULL},
                                     {"d_o", &d_o, "RTHE", CA_IN, NULL},
                                     {"pattern", &pattern, "N", CA_IN, NULL},
                                     {"v", &v, "TKE", CA_IN, NULL},
                                     {"prefix_v", &prefix_v, "PKE", OPTIONAL, NULL}};
    CHECK_SEQUENCES_AND_CALL(pattern_apply_bwd, &prefix_v, &dv, arguments, d_pattern, dv, d_o,
                             pattern, v, prefix_v, sequences, attention);
}

/* ---- intervention */

/* M: the width of a mask is that of x, or 1. */
static ca_dims mix_dims(const ca_tensor *mask, const ca_tensor *dy) {
    ca_dims dims = {0};
    bool per_row = mask->rank > 0 && mask->shape[mask->rank - 1] == 1;
    ca_dims_set(&dims, 'M', per_row || dy->rank == 0 ? 1 : dy->shape[dy->rank - 1]);
    return dims;
}

ca_status ca_mix_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source, ca_tensor mask) {
    const ca_argument arguments[] = {{"y", &y, "*W", OUT, &x},
                                     {"x", &x, "*W", CA_IN, NULL},
                                     {"source", &source, "*W", CA_IN, NULL},
                                     {"mask", &mask, "*M", CA_IN, NULL}};
    ca_dims dims = mix_dims(&mask, &y);
    CHECK_AND_CALL(mix_fwd, &dims, arguments, y, x, source, mask);
}

ca_status ca_mix_bwd(ca_backend *be, ca_tensor d_x, ca_tensor d_source, ca_tensor d_mask,
                     ca_tensor dy, ca_tensor x, ca_tensor source, ca_tensor mask, bool accumulate) {
    const ca_argument arguments[] = {{"d_x", &d_x, "*W", OUT, accumulate ? NULL : &dy},
                                     {"d_source", &d_source, "*W", OUT | OPTIONAL, NULL},
                                     {"d_mask", &d_mask, "*M", OUT | OPTIONAL, NULL},
                                     {"dy", &dy, "*W", CA_IN, NULL},
                                     {"x", &x, "*W", present_with(&d_mask), NULL},
                                     {"source", &source, "*W", present_with(&d_mask), NULL},
                                     {"mask", &mask, "*M", CA_IN, NULL}};
    ca_dims dims = mix_dims(&mask, &dy);
    CHECK_AND_CALL(mix_bwd, &dims, arguments, d_x, d_source, d_mask, dy, x, source, mask,
                   accumulate);
}

ca_status ca_pattern_mix_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor source,
                             ca_tensor mask, const ca_sequences *sequences,
                             ca_attention attention) {
    const ca_argument arguments[] = {{"y", &y, "N", OUT, &x},
                                     {"x", &x, "N", CA_IN, NULL},
                                     {"source", &source, "N", CA_IN, NULL},
                                     {"mask", &mask, "TH", CA_IN, NULL}};
    CHECK_SEQUENCES_AND_CALL(pattern_mix_fwd, NULL, NULL, arguments, y, x, source, mask, sequences,
                             attention);
}

ca_status ca_pattern_mix_bwd(ca_backend *be, ca_tensor d_x, ca_tensor d_source, ca_tensor d_mask,
                             ca_tensor dy, ca_tensor x, ca_tensor source, ca_tensor mask,
                             const ca_sequences *sequences, ca_attention attention,
                             bool accumulate) {
    const ca_argument arguments[] = {{"d_x", &d_x, "RN", OUT, accumulate ? NULL : &dy},
                                     {"d_source", &d_source, "RN", OUT | OPTIONAL, NULL},
                                     {"d_mask", &d_mask, "RTH", OUT | OPTIONAL, NULL},
                                     {"dy", &dy, "RN", CA_IN, NULL},
                                     {"x", &x, "N", present_with(&d_mask), NULL},
                                     {"source", &source, "N", present_with(&d_mask), NULL},
                                     {"mask", &mask, "TH", CA_IN, NULL}};
    CHECK_SEQUENCES_AND_CALL(pattern_mix_bwd, NULL, NULL, arguments, d_x, d_source, d_mask, dy, x,
                             source, mask, sequences, attention, accumulate);
}

/* ---- mlp */

/* x has F columns, or 2 F: the gate and what it multiplies. */
static ca_dims act_dims(const ca_tensor *narrow, bool gated) {
    ca_dims dims = {0};
    int64_t width = narrow->rank > 0 ? narrow->shape[narrow->rank - 1] : 0;
    ca_dims_set(&dims, 'F', width);
    ca_dims_set(&dims, 'X', gated ? 2 * width : width);
    return dims;
}

ca_status ca_act_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_activation kind, bool gated) {
    const ca_argument arguments[] = {{"y", &y, "*F", OUT, NULL}, {"x", &x, "*X", CA_IN, NULL}};
    ca_dims dims = act_dims(&y, gated);
    CHECK_AND_CALL(act_fwd, &dims, arguments, y, x, kind, gated);
}

ca_status ca_act_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x, ca_activation kind,
                     bool gated) {
    const ca_argument arguments[] = {
        {"dx", &dx, "*X", OUT, NULL}, {"dy", &dy, "*F", CA_IN, NULL}, {"x", &x, "*X", CA_IN, NULL}};
    ca_dims dims = act_dims(&dy, gated);
    CHECK_AND_CALL(act_bwd, &dims, arguments, dx, dy, x, kind, gated);
}

/* ---- head */

static ca_status check_cap(const char *operation, double cap) {
    if (isfinite(cap) && cap > 0) return CA_OK;
    return ca_fail(CA_E_SHAPE, "%s: cap: expected a number above 0, got %g", operation, cap);
}

ca_status ca_soft_cap_fwd(ca_backend *be, ca_tensor y, ca_tensor x, double cap) {
    const ca_argument arguments[] = {{"y", &y, "*", OUT, &x}, {"x", &x, "*", CA_IN, NULL}};
    ca_dims dims = {0};
    ca_status st = check_cap("soft_cap_fwd", cap);
    if (st != CA_OK) return st;
    CHECK_AND_CALL(soft_cap_fwd, &dims, arguments, y, x, cap);
}

ca_status ca_soft_cap_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor y, double cap) {
    const ca_argument arguments[] = {
        {"dx", &dx, "*", OUT, &dy}, {"dy", &dy, "*", CA_IN, NULL}, {"y", &y, "*", CA_IN, NULL}};
    ca_dims dims = {0};
    ca_status st = check_cap("soft_cap_bwd", cap);
    if (st != CA_OK) return st;
    CHECK_AND_CALL(soft_cap_bwd, &dims, arguments, dx, dy, y, cap);
}

ca_status ca_log_sum_exp(ca_backend *be, ca_tensor y, ca_tensor x) {
    const ca_argument arguments[] = {{"y", &y, "I", OUT, NULL}, {"x", &x, "IV", CA_IN, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(log_sum_exp, &dims, arguments, y, x);
}

ca_status ca_softmax(ca_backend *be, ca_tensor y, ca_tensor x) {
    const ca_argument arguments[] = {{"y", &y, "*", OUT, &x}, {"x", &x, "*", CA_IN, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(softmax, &dims, arguments, y, x);
}

ca_status ca_top_k(ca_backend *be, ca_tensor values, ca_tensor indices, ca_tensor x) {
    const ca_argument arguments[] = {{"values", &values, "IK", OUT, NULL},
                                     {"indices", &indices, "IK", OUT | CA_INT32, NULL},
                                     {"x", &x, "IV", CA_IN, NULL}};
    ca_dims dims = {0};
    if (values.rank == 2 && x.rank == 2 && values.shape[1] > x.shape[1])
        return ca_fail(CA_E_SHAPE, "top_k: values: expected at most %lld columns, got %lld",
                       (long long)x.shape[1], (long long)values.shape[1]);
    CHECK_AND_CALL(top_k, &dims, arguments, values, indices, x);
}

ca_status ca_cross_entropy_fwd(ca_backend *be, ca_tensor loss, ca_tensor x, ca_tensor target) {
    const ca_argument arguments[] = {{"loss", &loss, "I", OUT, NULL},
                                     {"x", &x, "IV", CA_IN, NULL},
                                     {"target", &target, "I", CA_INT32, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(cross_entropy_fwd, &dims, arguments, loss, x, target);
}

ca_status ca_cross_entropy_bwd(ca_backend *be, ca_tensor dx, ca_tensor x, ca_tensor target,
                               ca_tensor scale) {
    const ca_argument arguments[] = {{"dx", &dx, "IV", OUT, &x},
                                     {"x", &x, "IV", CA_IN, NULL},
                                     {"target", &target, "I", CA_INT32, NULL},
                                     {"scale", &scale, "I", CA_IN, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(cross_entropy_bwd, &dims, arguments, dx, x, target, scale);
}

/* ---- reduce */

ca_status ca_row_norms(ca_backend *be, ca_tensor y, ca_tensor x) {
    const ca_argument arguments[] = {{"y", &y, "*", OUT, NULL}, {"x", &x, "*D", CA_IN, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(row_norms, &dims, arguments, y, x);
}

ca_status ca_row_dots(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) {
    const ca_argument arguments[] = {
        {"y", &y, "*", OUT, NULL}, {"x", &x, "*D", CA_IN, NULL}, {"w", &w, "*D", CA_IN, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(row_dots, &dims, arguments, y, x, w);
}

ca_status ca_row_distances(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) {
    const ca_argument arguments[] = {
        {"y", &y, "*", OUT, NULL}, {"x", &x, "*D", CA_IN, NULL}, {"w", &w, "*D", OPTIONAL, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(row_distances, &dims, arguments, y, x, w);
}

ca_status ca_column_sums(ca_backend *be, ca_tensor y, ca_tensor x) {
    const ca_argument arguments[] = {{"y", &y, "*D", OUT, NULL}, {"x", &x, "*TD", CA_IN, NULL}};
    ca_dims dims = {0};
    CHECK_AND_CALL(column_sums, &dims, arguments, y, x);
}

/* ---- optimise */

static ca_status check_adam(ca_adam a) {
    const struct {
        const char *name, *expected;
        double value;
        bool fits;
    } numbers[] = {
        {"learning_rate", "a finite number", a.learning_rate, isfinite(a.learning_rate)},
        {"beta1", "0 or more and below 1", a.beta1, a.beta1 >= 0 && a.beta1 < 1},
        {"beta2", "0 or more and below 1", a.beta2, a.beta2 >= 0 && a.beta2 < 1},
        {"epsilon", "a number above 0", a.epsilon, isfinite(a.epsilon) && a.epsilon > 0},
        {"step", "1 or more", (double)a.step, a.step >= 1},
        {"weight_decay", "0 or more", a.weight_decay,
         isfinite(a.weight_decay) && a.weight_decay >= 0},
        {"upper", "lower or more", a.upper, a.upper >= a.lower},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (!numbers[i].fits)
            return ca_fail(CA_E_SHAPE, "adam_step: %s: expected %s, got %g", numbers[i].name,
                           numbers[i].expected, numbers[i].value);
    return CA_OK;
}

ca_status ca_adam_step(ca_backend *be, ca_tensor parameter, ca_tensor first, ca_tensor second,
                       ca_tensor gradient, ca_adam adam) {
    const ca_argument arguments[] = {{"parameter", &parameter, "*", OUT, NULL},
                                     {"first", &first, "*", OUT, NULL},
                                     {"second", &second, "*", OUT, NULL},
                                     {"gradient", &gradient, "*", CA_IN, NULL}};
    ca_dims dims = {0};
    ca_status st = check_adam(adam);
    if (st != CA_OK) return st;
    CHECK_AND_CALL(adam_step, &dims, arguments, parameter, first, second, gradient, adam);
}
