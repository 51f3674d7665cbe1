/* SPDX-License-Identifier: MIT
 *
 * Launches and copies on streams.
 */
#include <string.h>
#include <sys/mman.h>

#include "internal.h"

namespace simt {

static std::vector<const void *> &named = *new std::vector<const void *>;
static cudaError_t last_error;

/* Pointers that a user program can have begin well above what counts and strides reach. */
static bool looks_like_pointer(uintptr_t word) {
    return word >= (uintptr_t)1 << 44 && word < (uintptr_t)1 << 47;
}

static bool is_mapped(uintptr_t word) {
    return msync(reinterpret_cast<void *>(word & ~(uintptr_t)4095), 1, MS_ASYNC) == 0;
}

void check_argument(const launch &l, int position, const void *argument, size_t bytes) {
    for (size_t at = 0; at + sizeof(uintptr_t) <= bytes; at += sizeof(uintptr_t)) {
        uintptr_t word;
        memcpy(&word, static_cast<const char *>(argument) + at, sizeof word);
        if (!looks_like_pointer(word)) continue;
        const void *p = reinterpret_cast<const void *>(word);
        if (device_find(p))
            named.push_back(p);
        else if (is_mapped(word))
            die("launch of %s: argument %d: byte %zu holds %p, which is host memory", l.kernel,
                position, at, p);
    }
}

static bool shape_is_valid(const launch &l) {
    const dim3 &g = l.grid, &b = l.block;
    return g.x > 0 && g.y > 0 && g.z > 0 && g.x < 1u << 31 && g.y <= 65535 && g.z <= 65535 &&
           b.x > 0 && b.y > 0 && b.z > 0 && b.z <= 64 && b.x <= 1024 && b.y <= 1024 &&
           (size_t)b.x * b.y * b.z <= 1024;
}

void launch_grid(const launch &l, std::function<void()> body) {
    std::vector<const void *> pointers;
    pointers.swap(named);
    if (!shape_is_valid(l))
        last_error = cudaErrorInvalidConfiguration;
    else if (l.shared_bytes > SHARED_BYTES)
        last_error = cudaErrorInvalidValue;
    else {
        opened memory(pointers);
        run_grid(l, body);
    }
}

} // namespace simt

using namespace simt;

cudaError_t cudaGetLastError(void) {
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}
cudaError_t cudaMalloc(void **p, size_t bytes) {
    *p = device_allocate(bytes);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void *p) { return !p || device_free(p) ? cudaSuccess : cudaErrorInvalidValue; }
cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind) {
    opened memory({dst, src});
    memcpy(dst, src, bytes);
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void) { return cudaSuccess; }
