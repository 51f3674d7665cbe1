/* SPDX-License-Identifier: MIT
 *
 * The CUDA C++ dialect of kernels/ for an ordinary C++17 compiler: included by ca_cuda.cuh where
 * nvcc would see cuda_runtime.h. Each CUDA thread runs as a fiber of the calling host thread; the
 * names below mean what the CUDA C++ Programming Guide says, and every use that it leaves
 * undefined ends the program with a message that names block, thread, file and line.
 */
#ifndef CA_SIMT_H
#define CA_SIMT_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <tuple>
#include <type_traits>

#include "include/cuda_runtime_api.h"

/* ---- qualifiers */

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__    __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define __launch_bounds__(...)

/* ---- vectors: aligned as on the device, so that a misaligned access is undefined here too */

#define SIMT_VECTORS(type, name, align2, align4)                                                   \
    struct alignas(align2) name##2 {                                                               \
        type x, y;                                                                                 \
    };                                                                                             \
    struct name##3 {                                                                               \
        type x, y, z;                                                                              \
    };                                                                                             \
    struct alignas(align4) name##4 {                                                               \
        type x, y, z, w;                                                                           \
    };                                                                                             \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                        \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }             \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
SIMT_VECTORS(float, float, 8, 16)
SIMT_VECTORS(int, int, 8, 16)
SIMT_VECTORS(unsigned, uint, 8, 16)
SIMT_VECTORS(unsigned short, ushort, 4, 8)
SIMT_VECTORS(short, short, 4, 8)
SIMT_VECTORS(unsigned char, uchar, 2, 4)
SIMT_VECTORS(double, double, 16, 16)
SIMT_VECTORS(long long, longlong, 16, 16)
#undef SIMT_VECTORS

constexpr int warpSize = 32;

/* Converts from the number of blocks or threads, as in a launch of one dimension. */
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned nx = 1, unsigned ny = 1, unsigned nz = 1) : x(nx), y(ny), z(nz) {}
};

namespace simt {

/* A place in a kernel that waits for other threads; its address is its identity. */
struct site {
    const char *file;
    int line;
};

struct thread_index {
    uint3 thread;
    unsigned lane;
};

extern const thread_index *current; /* of the running thread */
extern uint3 block_index;           /* the same for all threads of the running block */
extern dim3 block_shape, grid_shape;

/* ---- launches */

struct launch {
    const char *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    cudaStream_t stream;
};

/* Sets the error that cudaGetLastError returns when the launch is refused. */
void launch_grid(const launch &l, std::function<void()> body);

/* The words of a kernel argument that look like pointers must point to device memory. */
void check_argument(const launch &l, int position, const void *argument, size_t bytes);

/* Arguments are evaluated and converted to the kernel's parameters here, once, as by nvcc. */
template <typename... Parameters, typename... Arguments>
void launch_kernel(const launch &l, void (*kernel)(Parameters...), Arguments &&...arguments) {
    std::tuple<std::decay_t<Parameters>...> values(std::forward<Arguments>(arguments)...);
    std::apply(
        [&](auto &...value) {
            int position = 0;
            (__builtin_clear_padding(&value), ...); /* stale pointers may lie there */
            (check_argument(l, position++, &value, sizeof value), ...);
        },
        values);
    launch_grid(l, [kernel, values] { std::apply(kernel, values); });
}

/* ---- what threads of a block do together */

void barrier(const site *where);

enum class warp_operation { shuffle, ballot, any, all, sync };

/* Waits for the lanes of `mask`. shuffle: the value that lane `source` gave; any, all: a truth
 * value; ballot: the lanes whose value is not zero. */
uint64_t exchange(const site *where, warp_operation operation, unsigned mask, uint64_t value,
                  unsigned source);

template <typename T> T shuffle(const site *where, unsigned mask, T value, unsigned source) {
    static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = exchange(where, warp_operation::shuffle, mask, bits, source);
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A shuffle whose source would lie outside the own group of `width` lanes returns the own value. */
template <typename T>
T shuffle_index(const site *where, unsigned mask, T value, int index, int width = 32) {
    unsigned lane = current->lane, w = (unsigned)width;
    return shuffle(where, mask, value, (lane & ~(w - 1)) | ((unsigned)index & (w - 1)));
}

template <typename T>
T shuffle_xor(const site *where, unsigned mask, T value, int lanes, int width = 32) {
    unsigned lane = current->lane, source = lane ^ (unsigned)lanes;
    unsigned end = (lane | ((unsigned)width - 1)) + 1; /* lower groups may be read */
    return shuffle(where, mask, value, source < end ? source : lane);
}

template <typename T>
T shuffle_down(const site *where, unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned lane = current->lane, last = lane | ((unsigned)width - 1);
    return shuffle(where, mask, value, lane + delta <= last ? lane + delta : lane);
}

template <typename T>
T shuffle_up(const site *where, unsigned mask, T value, unsigned delta, int width = 32) {
    unsigned lane = current->lane, first = lane & ~((unsigned)width - 1);
    return shuffle(where, mask, value, lane >= first + delta ? lane - delta : lane);
}

inline void sync_warp(const site *where, unsigned mask = 0xffffffffu) {
    exchange(where, warp_operation::sync, mask, 0, current->lane);
}

inline int vote(const site *where, warp_operation operation, unsigned mask, int predicate) {
    return (int)exchange(where, operation, mask, predicate != 0, current->lane);
}

/* ---- shared memory: fresh for every block, full of 0xff (NaN), and as long as it is declared */

void *shared_array(const site *where, size_t bytes);
void *dynamic_shared();

} // namespace simt

#define SIMT_HERE                                                                                  \
    ([]() -> const simt::site * {                                                                  \
        static constexpr simt::site here = {__FILE__, __LINE__};                                   \
        return &here;                                                                              \
    }())

#define CA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                  \
    simt::launch_kernel({#kernel, (grid), (block), (shared_bytes), (cudaStream_t)(stream)},        \
                        kernel, __VA_ARGS__)
#define CA_SHARED(type, name, count)                                                               \
    type *const name = static_cast<type *>(simt::shared_array(SIMT_HERE, sizeof(type) * (count)))
#define CA_DYN_SHARED(type, name) type *name = static_cast<type *>(simt::dynamic_shared())

#define threadIdx (simt::current->thread)
#define blockIdx  simt::block_index
#define blockDim  simt::block_shape
#define gridDim   simt::grid_shape

#define __syncthreads()       simt::barrier(SIMT_HERE)
#define __syncwarp(...)       simt::sync_warp(SIMT_HERE, ##__VA_ARGS__)
#define __shfl_sync(...)      simt::shuffle_index(SIMT_HERE, __VA_ARGS__)
#define __shfl_xor_sync(...)  simt::shuffle_xor(SIMT_HERE, __VA_ARGS__)
#define __shfl_down_sync(...) simt::shuffle_down(SIMT_HERE, __VA_ARGS__)
#define __shfl_up_sync(...)   simt::shuffle_up(SIMT_HERE, __VA_ARGS__)
#define __any_sync(mask, p)   simt::vote(SIMT_HERE, simt::warp_operation::any, mask, p)
#define __all_sync(mask, p)   simt::vote(SIMT_HERE, simt::warp_operation::all, mask, p)
#define __ballot_sync(mask, p)                                                                     \
    (unsigned)simt::vote(SIMT_HERE, simt::warp_operation::ballot, mask, p)

#include "intrinsics.h"

#endif
