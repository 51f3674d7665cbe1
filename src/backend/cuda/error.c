/* SPDX-License-Identifier: MIT
 *
 * Failures of the CUDA runtime and of cuBLAS as statuses: device, call, the library's words.
 */
#include "cuda.h"

ca_status ca_cuda_error(const ca_cuda_context *c, const char *call, cudaError_t error) {
    if (error == cudaSuccess) return CA_OK;
    /* The runtime keeps it for whoever asks next, which would be a launch that went well. */
    (void)cudaGetLastError();
    return ca_fail(error == cudaErrorMemoryAllocation ? CA_E_MEMORY : CA_E_FAILED,
                   "%s: %s: %s (%s)", c->name, call, cudaGetErrorString(error),
                   cudaGetErrorName(error));
}

ca_status ca_cuda_blas_error(const ca_cuda_context *c, const char *call, cublasStatus_t error) {
    if (error == CUBLAS_STATUS_SUCCESS) return CA_OK;
    return ca_fail(error == CUBLAS_STATUS_ALLOC_FAILED ? CA_E_MEMORY : CA_E_FAILED, "%s: %s: %s",
                   c->name, call, cublasGetStatusString(error));
}

ca_status ca_cuda_launched(const ca_backend *be, const char *operation, int error) {
    return ca_cuda_error(be->context, operation, (cudaError_t)error);
}
