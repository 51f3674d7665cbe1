/* SPDX-License-Identifier: MIT
 *
 * Stands in for NCCL among one rank, where every reduction is a copy on the stream. Buffers must
 * lie in device memory as far as the count goes.
 */
#include "include/nccl.h"

#include <string.h>

#include <algorithm>

#include "runtime.h"

using namespace simt;

struct ncclComm {
    bool alive;
};

static std::vector<ncclComm *> &communicators = *new std::vector<ncclComm *>;
static const char ID[] = "one rank of simulated NCCL";

static bool exists(ncclComm_t comm) {
    return std::find(communicators.begin(), communicators.end(), comm) != communicators.end() &&
           comm->alive;
}

static ncclResult_t result_of(cudaError_t error) {
    return error == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

static size_t size_of(ncclDataType_t type) {
    if (type == ncclInt32 || type == ncclFloat32) return 4;
    return type == ncclInt64 || type == ncclFloat64 ? 8 : 0;
}

ncclResult_t ncclGetVersion(int *version) {
    if (!version) return ncclInvalidArgument;
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    if (!id) return ncclInvalidArgument;
    memset(id, 0, sizeof *id);
    memcpy(id->internal, ID, sizeof ID);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank) {
    cudaError_t injected = begin_call();
    if (injected != cudaSuccess) return result_of(injected);
    if (!comm || rank < 0 || rank >= nranks || memcmp(id.internal, ID, sizeof ID) != 0)
        return ncclInvalidArgument;
    if (nranks != 1) die("NCCL: the simulated one has one rank, got %d", nranks);
    *comm = new ncclComm{true};
    communicators.push_back(*comm);
    count_resource(resource::nccl_communicator, 1);
    return ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    cudaError_t injected = begin_call();
    if (!exists(comm)) return ncclInvalidArgument;
    comm->alive = false;
    count_resource(resource::nccl_communicator, -1);
    return result_of(injected);
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
    cudaError_t injected = begin_call();
    if (injected != cudaSuccess) return result_of(injected);
    size_t bytes = count * size_of(type);
    if (!exists(comm) || size_of(type) == 0 || (op != ncclSum && op != ncclMax))
        return ncclInvalidArgument;
    if (!stream_exists(stream)) return ncclInvalidArgument;
    if (count == 0) return ncclSuccess;
    if (device_bytes_from(from) < bytes || device_bytes_from(to) < bytes)
        die("NCCL: expected %zu bytes of device memory, got %zu to read and %zu to write", bytes,
            device_bytes_from(from), device_bytes_from(to));
    stream_enqueue(stream, [=] {
        opened memory({from, to});
        memmove(to, from, bytes);
    });
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
    static const char *const texts[] = {
        "no error",       "unhandled cuda error", "unhandled system error",
        "internal error", "invalid argument",     "invalid usage"};
    return result >= 0 && result <= ncclInvalidUsage ? texts[result] : "unknown result code";
}
