/* SPDX-License-Identifier: MIT
 *
 * Stands in for the CUDA runtime: memory and copies. When host memory is read and written is as in
 * "API synchronization behavior" of the CUDA runtime manual: page-locked memory when the stream
 * comes to the copy, pageable memory on its way to the device before the call returns, and on its
 * way back after waiting for the stream.
 */
#include <stdlib.h>
#include <string.h>

#include <map>
#include <memory>

#include "runtime.h"

namespace simt {

/* Page-locked memory: its end by its beginning. */
static std::map<const char *, const char *> &page_locked =
    *new std::map<const char *, const char *>;

/* Bytes up to the end of the page-locked memory that holds p, 0 outside. */
static size_t pinned_bytes_from(const void *p) {
    const char *at = static_cast<const char *>(p);
    auto next = page_locked.upper_bound(at);
    if (next == page_locked.begin()) return 0;
    const char *end = std::prev(next)->second;
    return at < end ? (size_t)(end - at) : 0;
}

struct copy {
    void *to;
    const void *from;
    size_t bytes;
};

static void do_copy(const copy &c) {
    opened memory({c.to, c.from});
    memmove(c.to, c.from, c.bytes);
}

/* From memory that the caller may write to when the call has returned. */
static std::function<void()> copy_of_snapshot(copy c) {
    const char *from = static_cast<const char *>(c.from);
    auto held = std::make_shared<std::vector<char>>(from, from + c.bytes);
    c.from = held->data();
    return [=] {
        (void)held;
        do_copy(c);
    };
}

enum class place { device, pinned, pageable, outside };

static place place_of(const void *p, size_t n) {
    size_t device = device_bytes_from(p), locked = pinned_bytes_from(p);
    if (device > 0) return device >= n ? place::device : place::outside;
    if (locked > 0) return locked >= n ? place::pinned : place::outside;
    return place::pageable;
}

static bool direction_fits(enum cudaMemcpyKind kind, bool from_device, bool to_device) {
    switch (kind) {
    case cudaMemcpyHostToHost:
        return !from_device && !to_device;
    case cudaMemcpyHostToDevice:
        return !from_device && to_device;
    case cudaMemcpyDeviceToHost:
        return from_device && !to_device;
    case cudaMemcpyDeviceToDevice:
        return from_device && to_device;
    case cudaMemcpyDefault:
        return true;
    }
    return false;
}

/* wait: cudaMemcpy rather than cudaMemcpyAsync. */
static cudaError_t enqueue_copy(const copy &c, enum cudaMemcpyKind kind, cudaStream_t stream,
                                bool wait) {
    if (!stream_exists(stream)) return cudaErrorInvalidResourceHandle;
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
        return cudaErrorInvalidMemcpyDirection;
    if (c.bytes == 0) return cudaSuccess;
    place from = place_of(c.from, c.bytes), to = place_of(c.to, c.bytes);
    if (from == place::outside || to == place::outside) return cudaErrorInvalidValue;
    if (!direction_fits(kind, from == place::device, to == place::device))
        return cudaErrorInvalidValue;
    if (wait && from != place::device) stream_finish(stream);
    if (from == place::pageable)
        stream_enqueue(stream, copy_of_snapshot(c));
    else
        stream_enqueue(stream, [=] { do_copy(c); });
    bool between_device_memory = from == place::device && to == place::device;
    if (to == place::pageable || (wait && from != place::pageable && !between_device_memory))
        stream_finish(stream);
    return cudaSuccess;
}

static cudaError_t enqueue_set(void *data, int value, size_t bytes, cudaStream_t stream) {
    if (!stream_exists(stream)) return cudaErrorInvalidResourceHandle;
    if (bytes == 0) return cudaSuccess;
    if (device_bytes_from(data) < bytes) return cudaErrorInvalidValue;
    stream_enqueue(stream, [=] {
        opened memory({data});
        memset(data, value, bytes);
    });
    return cudaSuccess;
}

} // namespace simt

using namespace simt;

cudaError_t cudaMalloc(void **devPtr, size_t size) {
    return call([&] {
        if (!devPtr) return cudaErrorInvalidValue;
        if (allocation_fails()) return cudaErrorMemoryAllocation;
        *devPtr = size ? device_allocate(size) : nullptr;
        return *devPtr || size == 0 ? cudaSuccess : cudaErrorMemoryAllocation;
    });
}

/* Waits for the device, as drivers do. */
cudaError_t cudaFree(void *devPtr) {
    return release_call([&] {
        finish_all_streams();
        return !devPtr || device_free(devPtr) ? cudaSuccess : cudaErrorInvalidValue;
    });
}

cudaError_t cudaHostAlloc(void **pHost, size_t size, unsigned flags) {
    return call([&] {
        if (!pHost || flags > 7) return cudaErrorInvalidValue;
        if (allocation_fails()) return cudaErrorMemoryAllocation;
        char *p = static_cast<char *>(aligned_alloc(4096, (size + 4095) / 4096 * 4096 + 4096));
        if (!p) return cudaErrorMemoryAllocation;
        memset(p, 0xff, size);
        page_locked[p] = p + size;
        *pHost = p;
        count_resource(resource::pinned_memory, 1);
        return cudaSuccess;
    });
}

cudaError_t cudaMallocHost(void **ptr, size_t size) {
    return cudaHostAlloc(ptr, size, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void *ptr) {
    return release_call([&] {
        finish_all_streams();
        if (!ptr) return cudaSuccess;
        if (page_locked.erase(static_cast<char *>(ptr)) == 0) return cudaErrorInvalidValue;
        free(ptr);
        count_resource(resource::pinned_memory, -1);
        return cudaSuccess;
    });
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind) {
    return call([&] { return enqueue_copy({dst, src, count}, kind, nullptr, true); });
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    return call([&] { return enqueue_copy({dst, src, count}, kind, stream, false); });
}

cudaError_t cudaMemset(void *devPtr, int value, size_t count) {
    return call([&] { return enqueue_set(devPtr, value, count, nullptr); });
}

cudaError_t cudaMemsetAsync(void *devPtr, int value, size_t count, cudaStream_t stream) {
    return call([&] { return enqueue_set(devPtr, value, count, stream); });
}
