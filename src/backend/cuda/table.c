/* SPDX-License-Identifier: MIT
 *
 * The cuda backend's row of the registry: opening and closing.
 */
#include "cuda.h"

#include <stdlib.h>

/* Tensor cores take bf16 from Ampere on. */
enum { BF16_CAPABILITY = 80 };

static void cuda_close(ca_backend *be) {
    if (!be) return;
    ca_cuda_context *c = be->context;
    if (c) {
        if (c->queue.stream) (void)cudaStreamSynchronize(c->queue.stream);
        if (c->blas) (void)cublasDestroy(c->blas);
        ca_cuda_staging_free(c);
        ca_cuda_blocks_free(c);
        free(c->choices);
        if (c->queue.stream) (void)cudaStreamDestroy(c->queue.stream);
    }
    free(c);
    free(be);
}

/* Memory that every operation may use, always the same: sums may be cut to fit it, so that their
 * bits would change with it. */
static ca_status open_scratch(ca_backend *be) {
    enum { COUNT = 1 << 20 };
    ca_status st = CA_OK;
    ca_queue *queue = &((ca_cuda_context *)be->context)->queue;
    void *scratch;
    CA_TRY(ca_cuda_alloc(be, COUNT * sizeof *queue->scratch, &scratch));
    queue->scratch = scratch;
    queue->scratch_count = COUNT;
out:
    return st;
}

static ca_status open_blas(ca_backend *be) {
    ca_status st = CA_OK;
    ca_cuda_context *c = be->context;
    void *list;
    CA_TRY(ca_calloc(CA_CUDA_CHOICES, sizeof *c->choices, &c->choices));
    CA_CUBLAS(cublasCreate, &c->blas);
    CA_CUBLAS(cublasSetStream, c->blas, c->queue.stream); /* forgets a workspace */
    CA_TRY(ca_cuda_alloc(be, CA_CUDA_WORKSPACE, &c->workspace));
    CA_TRY(ca_cuda_alloc(be, 3 * CA_CUDA_LIST * sizeof *c->list, &list));
    c->list = list;
    CA_CUBLAS(cublasSetWorkspace, c->blas, c->workspace, CA_CUDA_WORKSPACE);
    CA_CUBLAS(cublasSetMathMode, c->blas, CUBLAS_DEFAULT_MATH);
out:
    return st;
}

/* Scratch for what is rounded to bf16: 1024 rows of the widest MLPs, less on small devices. Always
 * the same on a device, as the algorithm of a product depends on how many rows it has. */
static ca_status open_bf16(ca_backend *be) {
    enum { MOST = 16 << 20, SHARE = 1024 }; /* values; bytes of the device for each */
    ca_status st = CA_OK;
    ca_cuda_context *c = be->context;
    size_t available, total;
    void *narrow;
    if (c->capability < BF16_CAPABILITY) return CA_OK;
    CA_CUDA(cudaMemGetInfo, &available, &total);
    c->narrow_count = total / SHARE < MOST ? (int64_t)(total / SHARE) : MOST;
    CA_TRY(ca_cuda_alloc(be, (size_t)c->narrow_count * sizeof *c->narrow, &narrow));
    c->narrow = narrow;
    be->bfloat16 = true;
out:
    return st;
}

/* The first launch: shows whether this build has kernels that the device can run. */
static ca_status clear_fault(ca_backend *be) {
    ca_status st = CA_OK;
    ca_cuda_context *c = be->context;
    void *fault;
    CA_TRY(ca_cuda_alloc(be, sizeof *c->queue.fault, &fault));
    c->queue.fault = fault;
    int error = ca_k_fill(&c->queue, ca_tensor_1d(fault, CA_I32, 1), CA_FAULT_NONE);
    if (error == cudaErrorNoKernelImageForDevice) {
        (void)cudaGetLastError();
        return ca_fail(CA_E_BACKEND,
                       "backend %s: expected kernels for this device, got those for %s; build "
                       "with CUDA_ARCHITECTURES=... or use backend=cpu",
                       c->name, CA_CUDA_ARCHITECTURES);
    }
    CA_TRY(ca_cuda_launched(be, "fill", error));
    CA_TRY(ca_cuda_sync(be));
out:
    return st;
}

static ca_status cuda_open(int device, int threads, ca_backend **out) {
    ca_status st = CA_OK;
    ca_backend *be = NULL;
    ca_cuda_context *c = NULL;
    cudaStream_t stream;
    CA_TRY(ca_calloc(1, sizeof *be, &be));
    *be =
        (ca_backend){.name = "cuda", .ops = &ca_cuda_ops, .threads = threads, .accumulates = true};
    CA_TRY(ca_calloc(1, sizeof *c, &c));
    be->context = c;
    CA_TRY(ca_cuda_device_choose(c, device));
    be->device = c->name;
    CA_CUDA(cudaStreamCreateWithFlags, &stream, cudaStreamNonBlocking);
    c->queue.stream = stream;
    CA_TRY(ca_cuda_staging_create(be));
    CA_TRY(open_scratch(be));
    CA_TRY(open_blas(be));
    CA_TRY(open_bf16(be));
    CA_TRY(clear_fault(be));
    *out = be;
    return CA_OK;
out:
    if (st == CA_E_FAILED || st == CA_E_MEMORY)
        ca_hint("nvidia-smi shows who else uses the device; backend=cpu does without it");
    cuda_close(be);
    return st == CA_E_FAILED ? CA_E_BACKEND : st;
}

const ca_backend_entry ca_backend_cuda = {
    .name = "cuda",
    .libraries = CA_CUDA_LIBRARIES "; kernels for " CA_CUDA_ARCHITECTURES,
    .how_to_build = "make CUDA=1 (needs the CUDA toolkit with nvcc and cuBLAS)",
    .open = cuda_open,
    .close = cuda_close,
};
