/* SPDX-License-Identifier: MIT
 *
 * What the files of the CUDA backend share: its context and how calls into the libraries report.
 *
 * Operations enqueue on one stream, so they happen in the order of the calls; uploads take their
 * place there too, though they cross the bus beside it. Downloads and syncs wait for it. A backend
 * is used by one host thread.
 */
#ifndef CA_BACKEND_CUDA_H
#define CA_BACKEND_CUDA_H

#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include "ca_kernels.h"

/* The Makefile says for which architectures the kernels were compiled, and with what. */
#ifndef CA_CUDA_ARCHITECTURES
#define CA_CUDA_ARCHITECTURES "unknown"
#endif
#ifndef CA_CUDA_LIBRARIES
#define CA_CUDA_LIBRARIES "CUDA, cuBLAS"
#endif

/* A piece of device memory, in use or kept for the next request of its size. */
typedef struct ca_cuda_block {
    void *data;
    size_t bytes;
    bool used;
} ca_cuda_block;

/* Page-locked memory through which transfers go, in two halves: the host works on one while the
 * device copies from or to the other. Uploads land in device memory of the same two halves. */
typedef struct ca_cuda_staging {
    cudaStream_t stream; /* of copies from the host */
    cudaEvent_t landed;  /* behind the last of them */
    char *landing;       /* device */
    char *half[2];
    cudaEvent_t done[2]; /* behind the last copy of a half that was filled */
    int turn;            /* the half that is being filled */
    size_t used;         /* bytes of it */
} ca_cuda_staging;

/* Bytes that cuBLAS may use. Fixed, because its choice of algorithm, and with it the bits of a
 * result, depend on it; 32 MiB is what the library recommends for its largest device. */
#define CA_CUDA_WORKSPACE ((size_t)32 << 20)

enum {
    CA_CUDA_LIST = 256,         /* products whose matrices are listed at a time */
    CA_CUDA_TERMS = 3,          /* bf16 numbers that add up to any f32 */
    CA_CUDA_CHOICES = 1024,     /* products of which the algorithm is kept */
    CA_CUDA_KEY_ALIGNMENT = 13, /* where the alignments of a, b and c stand in a key */
    CA_CUDA_KEY = 17
};

/* The algorithm for one shape of product; see gemm_lt.c. */
typedef struct ca_cuda_choice {
    int64_t key[CA_CUDA_KEY];
    cublasLtMatmulAlgo_t algorithm;
    bool known, found; /* found: the library has one */
} ca_cuda_choice;

typedef struct ca_cuda_context {
    int device, capability; /* 90 for compute capability 9.0 */
    char name[288];         /* "cuda:0 (NVIDIA H200)" */
    ca_queue queue;
    cublasHandle_t blas;
    void *workspace;         /* of cuBLAS, CA_CUDA_WORKSPACE bytes */
    ca_cuda_choice *choices; /* [CA_CUDA_CHOICES] */
    void **list;             /* device: [3 CA_CUDA_LIST] pointers to matrices */
    uint16_t *narrow;        /* device: [narrow_count] scratch, or NULL without bf16 */
    int64_t narrow_count;
    ca_cuda_block *blocks;
    int64_t block_count, block_capacity;
    size_t held; /* bytes of all blocks */
    ca_cuda_staging staging;
    int32_t *fault; /* page-locked; the device's is in the queue */
} ca_cuda_context;

/* ---- errors: "cuda:0 (NVIDIA H200): cudaMalloc: out of memory (cudaErrorMemoryAllocation)" */

/* CA_E_MEMORY when memory is lacking, else CA_E_FAILED. */
ca_status ca_cuda_error(const ca_cuda_context *c, const char *call, cudaError_t error) CA_MUST_USE;
ca_status ca_cuda_blas_error(const ca_cuda_context *c, const char *call,
                             cublasStatus_t error) CA_MUST_USE;

/* Calls a function of the library; on failure jumps to `out:` with `st` set. `c` is in scope. */
#define CA_CUDA(function, ...)   CA_TRY(ca_cuda_error(c, #function, function(__VA_ARGS__)))
#define CA_CUBLAS(function, ...) CA_TRY(ca_cuda_blas_error(c, #function, function(__VA_ARGS__)))

/* What a launcher returned, as a status. */
ca_status ca_cuda_launched(const ca_backend *be, const char *operation, int error) CA_MUST_USE;
#define CA_CUDA_LAUNCH(be, operation, ...)                                                         \
    ca_cuda_launched(be, #operation,                                                               \
                     ca_k_##operation(&((ca_cuda_context *)(be)->context)->queue, __VA_ARGS__))

/* ---- the device */

/* Makes a device this thread's and fills c->device, c->name and what bounds the queue's grids.
 * asked: its number among the visible ones, -1 = by the rank on this machine.
 * Errors: CA_E_BACKEND with a cure. */
ca_status ca_cuda_device_choose(ca_cuda_context *c, int asked) CA_MUST_USE;

/* ---- memory and transfers */

void ca_cuda_blocks_free(ca_cuda_context *c);
ca_status ca_cuda_staging_create(ca_backend *be) CA_MUST_USE;
void ca_cuda_staging_free(ca_cuda_context *c);

/* ---- products */

/* c [m, n] = alpha op(a) op(b) + beta c + bias, columns first, as cuBLAS counts. */
typedef struct ca_cuda_product {
    cublasOperation_t operation_a, operation_b;
    cudaDataType type; /* of a and b; c and bias are f32 */
    int64_t m, n, k, batch;
    int64_t lda, ldb, ldc;          /* elements from column to column */
    int64_t step_a, step_b, step_c; /* from matrix to matrix of the batch */
    const void *a, *b;
    float *c;
    const float *bias; /* [m], or NULL */
    float alpha, beta;
} ca_cuda_product;

/* Enqueues the product. *found is false, and nothing is done, when cuBLASLt has no algorithm for
 * it. */
ca_status ca_cuda_gemm_lt(const ca_cuda_context *c, const ca_cuda_product *p,
                          bool *found) CA_MUST_USE;

/* ---- the table */

extern const ca_backend_ops ca_cuda_ops;

ca_status ca_cuda_alloc(ca_backend *be, size_t bytes, void **out);
void ca_cuda_release(ca_backend *be, void *data);
ca_status ca_cuda_memory_info(ca_backend *be, size_t *available, size_t *total);
ca_status ca_cuda_upload(ca_backend *be, ca_tensor dst, const void *host);
ca_status ca_cuda_download(ca_backend *be, void *host, ca_tensor src);
ca_status ca_cuda_sync(ca_backend *be);
ca_status ca_cuda_matmul(ca_backend *be, ca_tensor c, ca_tensor a, ca_tensor b, ca_tensor bias,
                         ca_matmul_options options);

#endif
