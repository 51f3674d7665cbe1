/* SPDX-License-Identifier: MIT
 *
 * matmul by cuBLASLt in float32 (no TF32), or with bf16 inputs and float32 sums. It counts columns
 * first: what it takes for a is our b, and what it writes is our c, each seen transposed.
 *
 * With b in bf16, an a in f32 is rounded into scratch memory of a fixed size, a part of its rows
 * after another. One that must enter unrounded is cut into three bf16 terms that add up to it, and
 * three products are summed: tensor cores do that faster than float32 units one product.
 */
#include "cuda.h"

#include <limits.h>

/* One input as cuBLAS takes it. */
typedef struct cuda_matrix {
    const void *data;
    int64_t ld, step; /* elements from row to row, from matrix to matrix */
    cublasOperation_t operation;
    void *copy; /* to be released, or NULL */
} cuda_matrix;

/* Rows must be at least their width apart; repeated or overlapping ones are copied. */
static ca_status matrix_of(ca_backend *be, ca_tensor t, bool transposed, cuda_matrix *out) {
    ca_status st = CA_OK;
    int axis = t.rank - 2; /* of the rows */
    int64_t rows = t.shape[axis], width = t.shape[axis + 1];
    *out = (cuda_matrix){.operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N};
    if (rows > 1 && t.stride[axis] < width) {
        size_t bytes = (size_t)ca_tensor_count(&t) * ca_dtype_size(t.dtype);
        CA_TRY(ca_cuda_alloc(be, bytes, &out->copy));
        ca_tensor flat = ca_tensor_1d(out->copy, t.dtype, ca_tensor_count(&t));
        ca_tensor packed = ca_tensor_reshape(flat, t.rank, t.shape);
        CA_TRY(CA_CUDA_LAUNCH(be, copy, packed, t));
        t = packed;
    }
    out->data = t.data;
    out->ld = t.stride[axis] > width ? t.stride[axis] : width;
    out->step = axis == 1 ? t.stride[0] : 0;
out:
    return st;
}

/* c *= beta: what is left of a product over nothing. */
static ca_status scale(ca_backend *be, ca_tensor c, double beta) {
    ca_status st = CA_OK;
    void *data = NULL;
    int64_t width = c.shape[c.rank - 1];
    if (beta == 0) return CA_CUDA_LAUNCH(be, fill, c, 0);
    CA_TRY(ca_cuda_alloc(be, (size_t)width * sizeof(float), &data));
    CA_TRY(CA_CUDA_LAUNCH(be, fill, ca_tensor_1d(data, CA_F32, width), beta));
    ca_tensor factor = c; /* one row, repeated */
    factor.data = data;
    for (int axis = 0; axis < c.rank - 1; axis++) factor.stride[axis] = 0;
    CA_TRY(CA_CUDA_LAUNCH(be, multiply, c, c, factor));
out:
    ca_cuda_release(be, data);
    return st;
}

/* What cuBLASLt has no algorithm for. */
static ca_status multiply_otherwise(ca_backend *be, ca_tensor y, ca_tensor bias,
                                    const ca_cuda_product *p) {
    ca_status st = CA_OK;
    const ca_cuda_context *c = be->context;
    const int64_t sizes[] = {p->m, p->n, p->k, p->batch, p->lda, p->ldb, p->ldc};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i] > INT_MAX)
            return ca_fail(CA_E_SHAPE, "%s: matmul: expected sizes up to %d, got %lld", c->name,
                           INT_MAX, (long long)sizes[i]);
    CA_CUBLAS(cublasGemmStridedBatchedEx, c->blas, p->operation_a, p->operation_b, (int)p->m,
              (int)p->n, (int)p->k, &p->alpha, p->a, p->type, (int)p->lda, p->step_a, p->b, p->type,
              (int)p->ldb, p->step_b, &p->beta, p->c, CUDA_R_32F, (int)p->ldc, p->step_c,
              (int)p->batch, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (bias.data) CA_TRY(CA_CUDA_LAUNCH(be, add_bias, y, bias));
out:
    return st;
}

/* y = alpha a b + beta y + bias, inputs of one type. */
static ca_status multiply(ca_backend *be, ca_tensor y, const cuda_matrix *a, const cuda_matrix *b,
                          ca_dtype dtype, int64_t inner, ca_tensor bias,
                          ca_matmul_options options) {
    ca_status st = CA_OK;
    int axis = y.rank - 2;
    int64_t rows = y.shape[axis], width = y.shape[axis + 1];
    bool found = false;
    const ca_cuda_product p = {
        .operation_a = b->operation,
        .operation_b = a->operation,
        .type = dtype == CA_BF16 ? CUDA_R_16BF : CUDA_R_32F,
        .m = width,
        .n = rows,
        .k = inner,
        .batch = axis == 1 ? y.shape[0] : 1,
        .lda = b->ld,
        .ldb = a->ld,
        .ldc = rows > 1 ? y.stride[axis] : width,
        .step_a = b->step,
        .step_b = a->step,
        .step_c = axis == 1 ? y.stride[0] : 0,
        .a = b->data,
        .b = a->data,
        .c = y.data,
        .bias = bias.data,
        .alpha = (float)options.alpha,
        .beta = (float)options.beta,
    };
    CA_TRY(ca_cuda_gemm_lt(be->context, &p, &found));
    if (!found) CA_TRY(multiply_otherwise(be, y, bias, &p));
out:
    return st;
}

/* ---- b in bf16 */

/* Rows [from, from + count) of op(a); of y with `transposed` false. */
static ca_tensor rows_of(ca_tensor a, bool transposed, int64_t from, int64_t count) {
    return ca_tensor_slice(a, transposed ? a.rank - 1 : a.rank - 2, from, count);
}

/* Values from one term to the next: every term begins as aligned as memory can be. */
static int64_t term_step(int64_t count) { return (count + 127) / 128 * 128; }

/* For a that fits the scratch memory; the first of its products adds what is not a b. */
static ca_status multiply_rows(ca_backend *be, ca_tensor y, ca_tensor a, const cuda_matrix *right,
                               int64_t inner, ca_tensor bias, ca_matmul_options options) {
    ca_status st = CA_OK;
    const ca_cuda_context *c = be->context;
    int64_t count = ca_tensor_count(&a), step = term_step(count);
    int64_t terms = options.wide ? CA_CUDA_TERMS : 1;
    ca_tensor flat = ca_tensor_1d(c->narrow, CA_BF16, count);
    ca_tensor split = ca_tensor_slice(ca_tensor_2d(c->narrow, CA_BF16, terms, step), 1, 0, count);
    if (options.wide)
        CA_TRY(CA_CUDA_LAUNCH(be, split_bf16, split, a));
    else
        CA_TRY(CA_CUDA_LAUNCH(be, copy, ca_tensor_reshape(flat, a.rank, a.shape), a));
    for (int64_t term = 0; term < terms; term++) {
        cuda_matrix left;
        flat.data = c->narrow + term * step;
        CA_TRY(matrix_of(be, ca_tensor_reshape(flat, a.rank, a.shape), options.transpose_a, &left));
        CA_TRY(multiply(be, y, &left, right, CA_BF16, inner, bias, options));
        options.beta = 1;
        bias.data = NULL;
    }
out:
    return st;
}

static ca_tensor matrix_at(ca_tensor t, int64_t batch) {
    t = ca_tensor_slice(t, 0, batch, 1);
    ca_tensor m = ca_tensor_2d(t.data, t.dtype, t.shape[1], t.shape[2]);
    m.stride[0] = t.stride[1];
    return m;
}

static ca_status multiply_bf16(ca_backend *be, ca_tensor y, ca_tensor a, const cuda_matrix *right,
                               int64_t inner, ca_tensor bias, ca_matmul_options options) {
    ca_status st = CA_OK;
    const ca_cuda_context *c = be->context;
    int64_t room = c->narrow_count / (options.wide ? CA_CUDA_TERMS : 1) / 128 * 128;
    int64_t most = room / inner; /* rows */
    if (ca_tensor_count(&a) <= room) return multiply_rows(be, y, a, right, inner, bias, options);
    if (most == 0)
        return ca_fail(CA_E_SHAPE, "%s: matmul: expected up to %lld terms with bf16, got %lld",
                       c->name, (long long)room, (long long)inner);
    if (y.rank == 3) {
        cuda_matrix one = *right;
        for (int64_t i = 0; i < y.shape[0]; i++) {
            one.data = (const uint16_t *)right->data + i * right->step;
            CA_TRY(multiply_bf16(be, matrix_at(y, i), matrix_at(a, i), &one, inner, bias, options));
        }
        return CA_OK;
    }
    for (int64_t from = 0; from < y.shape[0]; from += most) {
        int64_t count = y.shape[0] - from < most ? y.shape[0] - from : most;
        CA_TRY(multiply_rows(be, rows_of(y, false, from, count),
                             rows_of(a, options.transpose_a, from, count), right, inner, bias,
                             options));
    }
out:
    return st;
}

ca_status ca_cuda_matmul(ca_backend *be, ca_tensor c, ca_tensor a, ca_tensor b, ca_tensor bias,
                         ca_matmul_options options) {
    ca_status st = CA_OK;
    cuda_matrix left = {0}, right = {0};
    int64_t inner = a.shape[options.transpose_a ? a.rank - 2 : a.rank - 1];
    if (inner == 0) {
        if (options.beta != 1) CA_TRY(scale(be, c, options.beta));
        if (bias.data) CA_TRY(CA_CUDA_LAUNCH(be, add_bias, c, bias));
        return CA_OK;
    }
    CA_TRY(matrix_of(be, b, options.transpose_b, &right));
    if (b.dtype == CA_BF16 && a.dtype != CA_BF16) {
        CA_TRY(multiply_bf16(be, c, a, &right, inner, bias, options));
    } else {
        CA_TRY(matrix_of(be, a, options.transpose_a, &left));
        CA_TRY(multiply(be, c, &left, &right, b.dtype, inner, bias, options));
    }
out:
    ca_cuda_release(be, left.copy);
    ca_cuda_release(be, right.copy);
    return st;
}
