/* SPDX-License-Identifier: MIT
 *
 * matmul by cuBLAS in float32 (no TF32). cuBLAS counts columns first: what it takes for a is our b,
 * and what it writes is our c, each seen transposed.
 */
#include "cuda.h"

#include <limits.h>

/* One input as cuBLAS takes it. */
typedef struct cuda_matrix {
    const float *data;
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
        size_t bytes = (size_t)ca_tensor_count(&t) * sizeof(float);
        CA_TRY(ca_cuda_alloc(be, bytes, &out->copy));
        ca_tensor flat = ca_tensor_1d(out->copy, CA_F32, ca_tensor_count(&t));
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

static ca_status multiply(ca_backend *be, ca_tensor y, const cuda_matrix *a, const cuda_matrix *b,
                          int64_t inner, ca_matmul_options options) {
    ca_status st = CA_OK;
    const ca_cuda_context *c = be->context;
    int axis = y.rank - 2;
    int64_t rows = y.shape[axis], width = y.shape[axis + 1], batch = axis == 1 ? y.shape[0] : 1;
    int64_t ld = rows > 1 ? y.stride[axis] : width;
    const int64_t sizes[] = {rows, width, inner, batch, a->ld, b->ld, ld};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i] > INT_MAX)
            return ca_fail(CA_E_SHAPE, "%s: matmul: expected sizes up to %d, got %lld", c->name,
                           INT_MAX, (long long)sizes[i]);
    float alpha = (float)options.alpha, beta = (float)options.beta;
    if (batch == 1)
        CA_CUBLAS(cublasSgemm, c->blas, b->operation, a->operation, (int)width, (int)rows,
                  (int)inner, &alpha, b->data, (int)b->ld, a->data, (int)a->ld, &beta, y.data,
                  (int)ld);
    else
        CA_CUBLAS(cublasSgemmStridedBatched, c->blas, b->operation, a->operation, (int)width,
                  (int)rows, (int)inner, &alpha, b->data, (int)b->ld, b->step, a->data, (int)a->ld,
                  a->step, &beta, y.data, (int)ld, y.stride[0], (int)batch);
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
    } else {
        CA_TRY(matrix_of(be, a, options.transpose_a, &left));
        CA_TRY(matrix_of(be, b, options.transpose_b, &right));
        CA_TRY(multiply(be, c, &left, &right, inner, options));
    }
    if (bias.data) CA_TRY(CA_CUDA_LAUNCH(be, add_bias, c, bias));
out:
    ca_cuda_release(be, left.copy);
    ca_cuda_release(be, right.copy);
    return st;
}
