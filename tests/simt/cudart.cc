/* SPDX-License-Identifier: MIT
 *
 * Stands in for the CUDA runtime: devices and errors.
 *
 * The environment makes machines that are hard to come by:
 *   CA_SIMT_DEVICES=N          devices, 1 by default
 *   CA_SIMT_DRIVER=V           the driver's CUDA version, 13000 by default; 0 = no driver
 *   CA_SIMT_MEMORY=BYTES       memory of a device
 *   CA_SIMT_MULTIPROCESSORS=N  2 by default
 *   CA_SIMT_BLOCKS=N           the most blocks of a launch along x, 2^31 - 1 by default
 *   CA_SIMT_CAPABILITY=N       compute capability, 80 by default
 *   CA_SIMT_FAIL=N:CODE        the N-th call returns error CODE; one that loses the device stays.
 *                              N = 0: none fails, the number of calls is printed at exit
 *   CA_SIMT_FULL=N             no memory from the N-th allocation on, page-locked memory included.
 *                              N = 0: none fails, their number is printed at exit
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime.h"

namespace simt {

static struct {
    bool known;
    size_t calls, failing_call, allocations;
    cudaError_t failure;
    cudaError_t last, lost; /* lost: what every call returns once the device is */
    int device;
    int resources[RESOURCES];
} runtime;

size_t setting(const char *variable, size_t standard) {
    const char *text = getenv(variable);
    return text ? strtoull(text, nullptr, 10) : standard;
}

unsigned most_blocks() {
    static const size_t most = setting("CA_SIMT_BLOCKS", 0x7fffffff);
    return (unsigned)most;
}

int device_count() { return (int)setting("CA_SIMT_DEVICES", 1); }

static int driver_version() { return (int)setting("CA_SIMT_DRIVER", CUDART_VERSION); }

/* ---- leaks */

void count_resource(resource what, int change) { runtime.resources[(int)what] += change; }

/* Called at exit. A program whose device is lost releases what the host knows of it all the same.
 */
static void report_at_exit() {
    static const char *const names[] = {"page-locked allocations", "streams", "events",
                                        "cuBLAS handles", "NCCL communicators"};
    bool leaks = false;
    if (getenv("CA_SIMT_FAIL") && runtime.failing_call == 0)
        fprintf(stderr, "simt: %zu calls\n", runtime.calls);
    if (getenv("CA_SIMT_FULL") && setting("CA_SIMT_FULL", 0) == 0)
        fprintf(stderr, "simt: %zu allocations\n", runtime.allocations);
    for (int i = 0; i < RESOURCES; i++) {
        if (runtime.resources[i] == 0) continue;
        fprintf(stderr, "simt: leak: %d %s\n", runtime.resources[i], names[i]);
        leaks = true;
    }
    if (report_device_leaks() || leaks) {
        fflush(nullptr);
        _exit(70);
    }
}

static void start() {
    if (runtime.known) return;
    runtime.known = true;
    runtime.failure = cudaErrorLaunchFailure;
    atexit(report_at_exit);
    const char *text = getenv("CA_SIMT_FAIL");
    if (!text) return;
    runtime.failing_call = strtoull(text, nullptr, 10);
    const char *code = strchr(text, ':');
    if (code) runtime.failure = (cudaError_t)atoi(code + 1);
}

bool allocation_fails() {
    static const size_t full = setting("CA_SIMT_FULL", 0);
    return ++runtime.allocations >= full && full > 0;
}

/* ---- calls */

static bool loses_device(cudaError_t error) {
    return error == cudaErrorECCUncorrectable ||
           (error >= cudaErrorIllegalAddress && error <= cudaErrorLaunchFailure);
}

static cudaError_t no_device() {
    if (driver_version() < CUDART_VERSION) return cudaErrorInsufficientDriver;
    return device_count() == 0 ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t begin_call() {
    start();
    if (runtime.lost) return runtime.lost;
    runtime.calls++;
    if (runtime.calls != runtime.failing_call) return no_device();
    if (loses_device(runtime.failure)) runtime.lost = runtime.failure;
    return runtime.failure;
}

cudaError_t end_call(cudaError_t error) {
    if (error != cudaSuccess && error != cudaErrorNotReady) runtime.last = error;
    return error;
}

} // namespace simt

using namespace simt;

/* ---- errors */

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
     "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorDevicesUnavailable, "cudaErrorDevicesUnavailable",
     "CUDA-capable device(s) is/are busy or unavailable"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorSystemDriverMismatch, "cudaErrorSystemDriverMismatch",
     "system has unsupported display driver / cuda driver combination"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const char *cudaGetErrorName(cudaError_t error) {
    for (const auto &row : errors)
        if (row.error == error) return row.name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error) {
    for (const auto &row : errors)
        if (row.error == error) return row.text;
    return "unrecognized error code";
}

cudaError_t cudaPeekAtLastError(void) { return runtime.lost ? runtime.lost : runtime.last; }

cudaError_t cudaGetLastError(void) {
    cudaError_t error = cudaPeekAtLastError();
    runtime.last = cudaSuccess;
    return error;
}

/* ---- device */

cudaError_t cudaGetDeviceCount(int *count) {
    return call([&] {
        *count = device_count();
        return cudaSuccess;
    });
}

cudaError_t cudaGetDevice(int *device) {
    return call([&] {
        *device = runtime.device;
        return cudaSuccess;
    });
}

cudaError_t cudaSetDevice(int device) {
    return call([&] {
        if (device < 0 || device >= device_count()) return cudaErrorInvalidDevice;
        runtime.device = device;
        return cudaSuccess;
    });
}

static int attribute(enum cudaDeviceAttr attr) {
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock:
        return 1024;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        return (int)SHARED_BYTES;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        return (int)SHARED_BYTES;
    case cudaDevAttrWarpSize:
        return 32;
    case cudaDevAttrMultiProcessorCount:
        return (int)setting("CA_SIMT_MULTIPROCESSORS", 2);
    case cudaDevAttrComputeCapabilityMajor:
        return (int)setting("CA_SIMT_CAPABILITY", 80) / 10;
    case cudaDevAttrComputeCapabilityMinor:
        return (int)setting("CA_SIMT_CAPABILITY", 80) % 10;
    }
    return -1;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device) {
    return call([&] {
        if (device < 0 || device >= device_count()) return cudaErrorInvalidDevice;
        *value = attribute(attr);
        return *value < 0 ? cudaErrorInvalidValue : cudaSuccess;
    });
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device) {
    return call([&] {
        if (device < 0 || device >= device_count()) return cudaErrorInvalidDevice;
        size_t available;
        *prop = {};
        strcpy(prop->name, "cuda-sim");
        device_memory_info(&available, &prop->totalGlobalMem);
        prop->sharedMemPerBlock = prop->sharedMemPerBlockOptin = SHARED_BYTES;
        prop->warpSize = 32;
        prop->maxThreadsPerBlock = prop->maxThreadsDim[0] = prop->maxThreadsDim[1] = 1024;
        prop->maxThreadsDim[2] = 64;
        prop->maxGridSize[0] = (int)most_blocks();
        prop->maxGridSize[1] = prop->maxGridSize[2] = 65535;
        prop->major = attribute(cudaDevAttrComputeCapabilityMajor);
        prop->minor = attribute(cudaDevAttrComputeCapabilityMinor);
        prop->multiProcessorCount = attribute(cudaDevAttrMultiProcessorCount);
        prop->concurrentKernels = prop->unifiedAddressing = prop->asyncEngineCount = 1;
        prop->pciBusID = device;
        return cudaSuccess;
    });
}

/* These two need no device. */
cudaError_t cudaDriverGetVersion(int *version) {
    *version = driver_version();
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    return call([&] {
        device_memory_info(available, total);
        return cudaSuccess;
    });
}
