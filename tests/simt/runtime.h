/* SPDX-License-Identifier: MIT
 *
 * What the files that stand in for the CUDA libraries share: work on streams, and calls that may
 * be made to fail.
 */
#ifndef CA_SIMT_RUNTIME_H
#define CA_SIMT_RUNTIME_H

#include <functional>

#include "internal.h"

namespace simt {

/* ---- stream.cc */

/* False for a handle that is no stream. NULL is the default stream. */
bool stream_exists(cudaStream_t stream);
/* Does `work` after what the stream holds: now, or in lazy mode when something waits for it. */
void stream_enqueue(cudaStream_t stream, std::function<void()> work);
void stream_finish(cudaStream_t stream);
void finish_all_streams();

/* ---- cudart.cc */

/* The error that a call must return: of a device that is lost or absent, or one that CA_SIMT_FAIL
 * injects into this call; else cudaSuccess. */
cudaError_t begin_call();
/* Remembers an error for cudaGetLastError. */
cudaError_t end_call(cudaError_t error);

/* What every function of the API is wrapped in. */
template <typename F> cudaError_t call(F body) {
    cudaError_t error = begin_call();
    return end_call(error == cudaSuccess ? body() : error);
}

/* The same for functions that release something: they do so even when they return an error. */
template <typename F> cudaError_t release_call(F body) {
    cudaError_t error = begin_call(), own = body();
    return end_call(error == cudaSuccess ? own : error);
}

/* What the program made and must release; `change` is 1 or -1. Leaks are reported at exit. */
enum class resource { pinned_memory, stream, event, cublas_handle, nccl_communicator };
constexpr int RESOURCES = 5;
void count_resource(resource what, int change);
/* A number from the environment. */
size_t setting(const char *variable, size_t standard);
int device_count();
unsigned most_blocks(); /* of a launch, along x */
/* Counts an allocation; true for one that CA_SIMT_FULL lets fail. */
bool allocation_fails();

} // namespace simt

#endif
