/* SPDX-License-Identifier: MIT
 *
 * Which device runs this process, and in words why none can.
 */
#include "cuda.h"

#include <stdlib.h>
#include <string.h>

/* Kernels are compiled for compute capability 7.5 (Turing) and newer. */
enum { OLDEST_CAPABILITY = 75 };

/* Asks why there is no device. */
static ca_status no_device(cudaError_t error) {
    int driver = 0, runtime = 0;
    (void)cudaGetLastError();
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return ca_fail(CA_E_BACKEND, "backend cuda: expected an NVIDIA driver, found none; install "
                                     "one or use backend=cpu");
    if (error == cudaErrorInsufficientDriver && cudaRuntimeGetVersion(&runtime) == cudaSuccess)
        return ca_fail(CA_E_BACKEND,
                       "backend cuda: expected a driver for CUDA %d.%d or newer, got one for "
                       "CUDA %d.%d; update it or use backend=cpu",
                       runtime / 1000, runtime % 1000 / 10, driver / 1000, driver % 1000 / 10);
    if (error == cudaSuccess || error == cudaErrorNoDevice)
        return ca_fail(CA_E_BACKEND, "backend cuda: expected a GPU, found none; look at nvidia-smi "
                                     "and CUDA_VISIBLE_DEVICES or use backend=cpu");
    return ca_fail(CA_E_BACKEND,
                   "backend cuda: cudaGetDeviceCount: %s (%s); look at nvidia-smi or use "
                   "backend=cpu",
                   cudaGetErrorString(error), cudaGetErrorName(error));
}

/* This process's number among those of the same job on this machine, as launchers tell it. */
static int local_rank(void) {
    static const char *const variables[] = {"OMPI_COMM_WORLD_LOCAL_RANK",
                                            "MV2_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
                                            "SLURM_LOCALID"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        const char *text = getenv(variables[i]);
        if (!text) continue;
        char *end;
        long rank = strtol(text, &end, 10);
        if (end != text && *end == '\0' && rank >= 0 && rank < 1 << 20) return (int)rank;
    }
    return 0;
}

static ca_status choose(int asked, int *device) {
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) return no_device(error);
    if (asked >= count)
        return ca_fail(CA_E_BACKEND,
                       "backend cuda:%d: expected a device from 0 to %d, got %d; nvidia-smi lists "
                       "the devices, CUDA_VISIBLE_DEVICES hides some",
                       asked, count - 1, asked);
    *device = asked >= 0 ? asked : local_rank() % count;
    return CA_OK;
}

ca_status ca_cuda_device_choose(ca_cuda_context *c, int asked) {
    ca_status st = CA_OK;
    int major = 0, minor = 0;
    struct cudaDeviceProp properties = {0};
    CA_TRY(choose(asked, &c->device));
    snprintf(c->name, sizeof c->name, "cuda:%d", c->device);
    CA_CUDA(cudaGetDeviceProperties, &properties, c->device);
    snprintf(c->name, sizeof c->name, "cuda:%d (%.255s)", c->device, properties.name);
    c->queue.most_blocks = properties.maxGridSize[0];
    CA_CUDA(cudaDeviceGetAttribute, &major, cudaDevAttrComputeCapabilityMajor, c->device);
    CA_CUDA(cudaDeviceGetAttribute, &minor, cudaDevAttrComputeCapabilityMinor, c->device);
    CA_CUDA(cudaDeviceGetAttribute, &c->queue.multiprocessors, cudaDevAttrMultiProcessorCount,
            c->device);
    c->capability = 10 * major + minor;
    if (c->capability < OLDEST_CAPABILITY) {
        st = ca_fail(CA_E_BACKEND,
                     "backend %s: expected compute capability %d.%d or newer, got %d.%d; use "
                     "backend=cpu or another device",
                     c->name, OLDEST_CAPABILITY / 10, OLDEST_CAPABILITY % 10, major, minor);
        goto out;
    }
    CA_CUDA(cudaSetDevice, c->device);
out:
    return st;
}
