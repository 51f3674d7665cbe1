/* SPDX-License-Identifier: MIT
 *
 * What cublas.cc and cublaslt.cc share: handles, and products on a stream.
 */
#ifndef CA_SIMT_BLAS_H
#define CA_SIMT_BLAS_H

#include "include/cublasLt.h"
#include "include/cublas_v2.h"
#include "runtime.h"

struct cublasContext {
    bool alive;
    cudaStream_t stream;
};

namespace simt {

/* A matrix as the caller gave it: columns `ld` elements apart. */
struct matrix {
    const void *data;
    bool transposed, bf16;
    int64_t ld, step;      /* elements from column to column, from matrix to matrix */
    int64_t rows, columns; /* as it lies in memory */
};

struct product {
    int64_t m, n, k, batch;
    float alpha, beta;
    matrix a, b;
    float *c;
    int64_t ldc, step_c;
    const float *bias; /* [m], or null */
};

bool blas_handle_exists(cublasHandle_t handle);
cublasStatus_t blas_status(cudaError_t error);
/* rows, columns: of op(matrix) */
matrix blas_matrix(const void *data, cudaDataType type, cublasOperation_t operation, int64_t ld,
                   int64_t step, int64_t rows, int64_t columns);
/* Checks sizes and memory, then computes on the stream. */
cublasStatus_t blas_enqueue(cudaStream_t stream, const product &g);

} // namespace simt

#endif
