/* SPDX-License-Identifier: MIT
 *
 * What the files of the CUDA backend share: its context and how calls into the libraries report.
 *
 * Operations enqueue on one stream, so they happen in the order of the calls, uploads included;
 * downloads and syncs wait for it. A backend is used by one host thread.
 */
#ifndef CA_BACKEND_CUDA_H
#define CA_BACKEND_CUDA_H

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
 * device copies from or to the other. */
typedef struct ca_cuda_staging {
    char *half[2];
    cudaEvent_t done[2]; /* behind the last copy of a half that was filled */
    int turn;            /* the half that is being filled */
    size_t used;         /* bytes of it */
} ca_cuda_staging;

typedef struct ca_cuda_context {
    int device;
    char name[288]; /* "cuda:0 (NVIDIA H200)" */
    ca_queue queue;
    cublasHandle_t blas;
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

/* Makes a device this thread's and fills c->device, c->name and the queue's number of
 * multiprocessors. asked: its number among the visible ones, -1 = by the rank on this machine.
 * Errors: CA_E_BACKEND with a cure. */
ca_status ca_cuda_device_choose(ca_cuda_context *c, int asked) CA_MUST_USE;

/* ---- memory and transfers */

void ca_cuda_blocks_free(ca_cuda_context *c);
ca_status ca_cuda_staging_create(ca_cuda_context *c) CA_MUST_USE;
void ca_cuda_staging_free(ca_cuda_context *c);

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
