/* SPDX-License-Identifier: MIT
 *
 * One product by cuBLASLt. Its choice of an algorithm depends on sizes, strides and alignment
 * alone; it is asked for once for each of these and kept, so that results repeat bit for bit and a
 * call costs no more than its launch.
 */
#include "cuda.h"

#include <string.h>

/* ---- what a choice depends on */

/* Bytes to which an address and a stride are aligned, at most 256: what the library asks for. */
static int64_t alignment(const void *data, int64_t stride_bytes) {
    uintptr_t bits = (uintptr_t)data | (uintptr_t)stride_bytes | 256;
    return (int64_t)(bits & ~(bits - 1));
}

static ca_cuda_choice key_of(const ca_cuda_product *p) {
    int64_t size = p->type == CUDA_R_16BF ? 2 : 4;
    return (ca_cuda_choice){.key = {
                                p->operation_a,
                                p->operation_b,
                                p->type,
                                p->m,
                                p->n,
                                p->k,
                                p->batch,
                                p->lda,
                                p->ldb,
                                p->ldc,
                                p->step_a,
                                p->step_b,
                                p->step_c,
                                alignment(p->a, p->step_a * size),
                                alignment(p->b, p->step_b * size),
                                alignment(p->c, p->step_c * 4),
                                p->bias ? alignment(p->bias, 0) : 0,
                            }};
}

/* Where a key is kept: one place for each, which the last one of that place has. */
static ca_cuda_choice *place_of(const ca_cuda_context *c, const ca_cuda_choice *choice) {
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a, a word at a time */
    for (int i = 0; i < CA_CUDA_KEY; i++) hash = (hash ^ (uint64_t)choice->key[i]) * 0x100000001b3u;
    return &c->choices[(hash ^ hash >> 32) % CA_CUDA_CHOICES];
}

/* ---- descriptions: they live on the stack */

typedef struct lt_product {
    cublasLtMatmulDescOpaque_t operation;
    cublasLtMatrixLayoutOpaque_t a, b, c;
} lt_product;

#define SET_OPERATION(attribute, value)                                                            \
    CA_CUBLAS(cublasLtMatmulDescSetAttribute, &lt->operation, CUBLASLT_MATMUL_DESC_##attribute,    \
              &(value), sizeof(value))

static ca_status describe_operation(const ca_cuda_context *c, const ca_cuda_product *p,
                                    lt_product *lt) {
    ca_status st = CA_OK;
    int32_t transpose_a = p->operation_a, transpose_b = p->operation_b;
    uint32_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    CA_CUBLAS(cublasLtMatmulDescInit, &lt->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    SET_OPERATION(TRANSA, transpose_a);
    SET_OPERATION(TRANSB, transpose_b);
    if (p->bias) { /* of the type of c, the same for the whole batch */
        SET_OPERATION(EPILOGUE, epilogue);
        SET_OPERATION(BIAS_POINTER, p->bias);
    }
out:
    return st;
}

/* rows, columns: of op(matrix) */
static ca_status describe_matrix(const ca_cuda_context *c, cublasLtMatrixLayoutOpaque_t *layout,
                                 cudaDataType type, cublasOperation_t operation, int64_t rows,
                                 int64_t columns, int64_t ld, int64_t step, int64_t batch) {
    ca_status st = CA_OK;
    bool transposed = operation != CUBLAS_OP_N;
    int32_t count = (int32_t)batch;
    CA_CUBLAS(cublasLtMatrixLayoutInit, layout, type, (uint64_t)(transposed ? columns : rows),
              (uint64_t)(transposed ? rows : columns), ld);
    if (batch == 1) return CA_OK;
    CA_CUBLAS(cublasLtMatrixLayoutSetAttribute, layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
              sizeof count);
    CA_CUBLAS(cublasLtMatrixLayoutSetAttribute, layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
              &step, sizeof step);
out:
    return st;
}

static ca_status describe(const ca_cuda_context *c, const ca_cuda_product *p, lt_product *lt) {
    ca_status st = CA_OK;
    CA_TRY(describe_operation(c, p, lt));
    CA_TRY(describe_matrix(c, &lt->a, p->type, p->operation_a, p->m, p->k, p->lda, p->step_a,
                           p->batch));
    CA_TRY(describe_matrix(c, &lt->b, p->type, p->operation_b, p->k, p->n, p->ldb, p->step_b,
                           p->batch));
    CA_TRY(describe_matrix(c, &lt->c, CUDA_R_32F, CUBLAS_OP_N, p->m, p->n, p->ldc, p->step_c,
                           p->batch));
out:
    return st;
}

/* ---- choice and product */

#define SET_PREFERENCE(attribute, value)                                                           \
    CA_CUBLAS(cublasLtMatmulPreferenceSetAttribute, &preference, CUBLASLT_MATMUL_PREF_##attribute, \
              &(value), sizeof(value))

/* Asks the library; a product that it has no algorithm for leaves choice->found false. */
static ca_status choose(const ca_cuda_context *c, lt_product *lt, ca_cuda_choice *choice) {
    ca_status st = CA_OK;
    cublasLtMatmulPreferenceOpaque_t preference;
    cublasLtMatmulHeuristicResult_t result = {0};
    int count = 0;
    uint64_t workspace = CA_CUDA_WORKSPACE;
    uint32_t a = (uint32_t)choice->key[CA_CUDA_KEY_ALIGNMENT],
             b = (uint32_t)choice->key[CA_CUDA_KEY_ALIGNMENT + 1],
             y = (uint32_t)choice->key[CA_CUDA_KEY_ALIGNMENT + 2];
    CA_CUBLAS(cublasLtMatmulPreferenceInit, &preference);
    SET_PREFERENCE(MAX_WORKSPACE_BYTES, workspace);
    SET_PREFERENCE(MIN_ALIGNMENT_A_BYTES, a);
    SET_PREFERENCE(MIN_ALIGNMENT_B_BYTES, b);
    SET_PREFERENCE(MIN_ALIGNMENT_C_BYTES, y);
    SET_PREFERENCE(MIN_ALIGNMENT_D_BYTES, y);
    cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic((cublasLtHandle_t)c->blas, &lt->operation, &lt->a, &lt->b,
                                       &lt->c, &lt->c, &preference, 1, &result, &count);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) return CA_OK;
    CA_TRY(ca_cuda_blas_error(c, "cublasLtMatmulAlgoGetHeuristic", status));
    choice->found = count > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    choice->algorithm = result.algo;
out:
    return st;
}

ca_status ca_cuda_gemm_lt(const ca_cuda_context *c, const ca_cuda_product *p, bool *found) {
    ca_status st = CA_OK;
    lt_product lt;
    ca_cuda_choice wanted = key_of(p), *kept = place_of(c, &wanted);
    CA_TRY(describe(c, p, &lt));
    if (!kept->known || memcmp(kept->key, wanted.key, sizeof wanted.key) != 0) {
        kept->known = false;
        CA_TRY(choose(c, &lt, &wanted));
        wanted.known = true;
        *kept = wanted;
    }
    *found = kept->found;
    if (!*found) return CA_OK;
    CA_CUBLAS(cublasLtMatmul, (cublasLtHandle_t)c->blas, &lt.operation, &p->alpha, p->a, &lt.a,
              p->b, &lt.b, &p->beta, p->c, &lt.c, p->c, &lt.c, &kept->algorithm, c->workspace,
              CA_CUDA_WORKSPACE, c->queue.stream);
out:
    return st;
}
