/* SPDX-License-Identifier: MIT
 *
 * The canaries: kernels and host code with one fault each, chosen by a template argument or by
 * `faulty`, and right without it.
 */
#include "canaries.h"

#include <vector>

#include "ca_cuda.cuh"

constexpr int BLOCK = 128, WARPS = BLOCK / CA_WARP;

/* ---- host helpers */

template <typename T> static T *on_device(const std::vector<T> &values) {
    void *p = nullptr;
    cudaMalloc(&p, values.size() * sizeof(T));
    cudaMemcpy(p, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice);
    return static_cast<T *>(p);
}

template <typename T> static std::vector<T> from_device(const T *p, size_t count) {
    std::vector<T> values(count);
    cudaMemcpy(values.data(), p, count * sizeof(T), cudaMemcpyDeviceToHost);
    return values;
}

/* Takes what is on the device and frees it. */
template <typename T> static std::vector<T> taken(T *p, size_t count) {
    std::vector<T> values = from_device(p, count);
    cudaFree(p);
    return values;
}

static std::vector<float> ramp(size_t count) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; i++) values[i] = (float)(i % 23);
    return values;
}

static bool all_equal(const std::vector<float> &values, float expected) {
    for (float v : values)
        if (!(v == expected)) return false;
    return true;
}

/* ---- inside a block */

enum {
    NONE,
    NO_BARRIER_BEFORE_READ,
    NO_BARRIER_BEFORE_REUSE,
    READ_PAST_ROW,
    EARLY_RETURN,
    TWO_BARRIERS,
    SHARED_OVERFLOW
};

template <int FAULT> static __device__ float block_sum(float v, float *scratch) {
    const int lane = (int)threadIdx.x % CA_WARP, warp = (int)threadIdx.x / CA_WARP;
    v = ca_warp_sum(v);
    if (lane == 0) scratch[warp] = v;
    if (FAULT != NO_BARRIER_BEFORE_READ) __syncthreads();
    v = ca_warp_sum(lane < WARPS ? scratch[lane] : 0.0f);
    if (FAULT != NO_BARRIER_BEFORE_REUSE) __syncthreads();
    return v;
}

/* y = x - its mean, a block per row, which is then summed again: 0. */
template <int FAULT>
static __global__ void __launch_bounds__(BLOCK) center_kernel(float *y, const float *x, int width) {
    CA_SHARED(float, scratch, WARPS);
    const float *row = x + (int64_t)blockIdx.x * width;
    const int end = FAULT == READ_PAST_ROW ? width + 1 : width;
    float sum = 0.0f, rest = 0.0f;
    for (int i = (int)threadIdx.x; i < end; i += BLOCK) sum += row[i];
    if (FAULT == EARLY_RETURN && threadIdx.x == 5) return;
    if (FAULT == TWO_BARRIERS && threadIdx.x % 2)
        __syncthreads();
    else
        __syncthreads();
    if (FAULT == SHARED_OVERFLOW && threadIdx.x == 0) scratch[WARPS] = 0.0f;
    const float mean = block_sum<FAULT>(sum, scratch) / (float)width;
    for (int i = (int)threadIdx.x; i < width; i += BLOCK) rest += row[i] - mean;
    rest = block_sum<FAULT>(rest, scratch);
    if (threadIdx.x == 0) y[blockIdx.x] = rest;
}

template <int FAULT> static bool center(bool faulty) {
    constexpr int rows = 3, width = 23 * 13; /* a whole number of ramps: the mean is 11 exactly */
    float *x = on_device(ramp(rows * width)), *y = on_device(std::vector<float>(rows));
    if (faulty)
        CA_LAUNCH(center_kernel<FAULT>, rows, BLOCK, 0, nullptr, y, x, width);
    else
        CA_LAUNCH(center_kernel<NONE>, rows, BLOCK, 0, nullptr, y, x, width);
    cudaFree(x);
    return all_equal(taken(y, rows), 0.0f);
}

template <bool FAULTY> static __global__ void __launch_bounds__(BLOCK) shared_kernel(float *y) {
    CA_SHARED(float, fixed, BLOCK);
    CA_DYN_SHARED(float, dynamic);
    if (!FAULTY) fixed[threadIdx.x] = dynamic[threadIdx.x] = 1.0f;
    __syncthreads();
    y[threadIdx.x] = fixed[threadIdx.x] + dynamic[threadIdx.x];
}

static bool uninitialised_shared(bool faulty) {
    float *y = on_device(std::vector<float>(BLOCK));
    const size_t bytes = BLOCK * sizeof(float);
    if (faulty)
        CA_LAUNCH(shared_kernel<true>, 2, BLOCK, bytes, nullptr, y);
    else
        CA_LAUNCH(shared_kernel<false>, 1, BLOCK, bytes, nullptr, y);
    return all_equal(taken(y, BLOCK), 2.0f);
}

/* ---- inside a warp */

template <bool FAULTY>
static __global__ void __launch_bounds__(CA_WARP) absent_lanes_kernel(float *y) {
    const float lane = (float)threadIdx.x;
    if (FAULTY && threadIdx.x >= 20) return;
    const float v = __shfl_sync(CA_FULL_WARP, lane, 7);
    y[threadIdx.x] = v;
}

static bool absent_lanes(bool faulty) {
    float *y = on_device(std::vector<float>(CA_WARP));
    if (faulty)
        CA_LAUNCH(absent_lanes_kernel<true>, 1, CA_WARP, 0, nullptr, y);
    else
        CA_LAUNCH(absent_lanes_kernel<false>, 1, CA_WARP, 0, nullptr, y);
    return all_equal(taken(y, CA_WARP), 7.0f);
}

/* Lanes 0 to 15 shuffle among themselves, from lane 15 or, wrongly, from 16. */
static __global__ void __launch_bounds__(CA_WARP) half_warp_kernel(float *y, int source) {
    float v = 15.0f;
    if (threadIdx.x < 16) v = __shfl_sync(0xffffu, (float)threadIdx.x, source);
    y[threadIdx.x] = v;
}

static bool lane_outside_mask(bool faulty) {
    float *y = on_device(std::vector<float>(CA_WARP));
    CA_LAUNCH(half_warp_kernel, 1, CA_WARP, 0, nullptr, y, faulty ? 16 : 15);
    return all_equal(taken(y, CA_WARP), 15.0f);
}

/* A shuffle orders no memory. */
template <bool FAULTY>
static __global__ void __launch_bounds__(CA_WARP) warp_memory_kernel(float *y) {
    CA_SHARED(float, values, CA_WARP);
    values[threadIdx.x] = 3.0f;
    float v = __shfl_xor_sync(CA_FULL_WARP, 1.0f, 1);
    if (!FAULTY) __syncwarp();
    y[threadIdx.x] = v + values[threadIdx.x ^ 1];
}

static bool shuffle_as_barrier(bool faulty) {
    float *y = on_device(std::vector<float>(CA_WARP));
    if (faulty)
        CA_LAUNCH(warp_memory_kernel<true>, 1, CA_WARP, 0, nullptr, y);
    else
        CA_LAUNCH(warp_memory_kernel<false>, 1, CA_WARP, 0, nullptr, y);
    return all_equal(taken(y, CA_WARP), 4.0f);
}

/* ---- between blocks */

template <bool FAULTY> static __global__ void __launch_bounds__(BLOCK) count_kernel(int *count) {
    if (threadIdx.x != 0) return;
    if (FAULTY)
        count[0] += 1;
    else
        atomicAdd(count, 1);
}

static bool no_atomic(bool faulty) {
    int *count = on_device(std::vector<int>(1));
    if (faulty)
        CA_LAUNCH(count_kernel<true>, 4, BLOCK, 0, nullptr, count);
    else
        CA_LAUNCH(count_kernel<false>, 4, BLOCK, 0, nullptr, count);
    return taken(count, 1)[0] == 4;
}

/* Every block adds to what the block before it left, if that ran before it. */
template <bool FAULTY>
static __global__ void __launch_bounds__(CA_WARP) chain_kernel(float *y, int blocks) {
    const int b = (int)blockIdx.x;
    if (threadIdx.x != 0) return;
    if (FAULTY)
        y[b + 1] = y[b] + 1.0f;
    else
        y[b + 1] = (float)(b + 1);
    (void)blocks;
}

static bool block_order(bool faulty) {
    constexpr int blocks = 5;
    float *y = on_device(std::vector<float>(blocks + 1));
    if (faulty)
        CA_LAUNCH(chain_kernel<true>, blocks, CA_WARP, 0, nullptr, y, blocks);
    else
        CA_LAUNCH(chain_kernel<false>, blocks, CA_WARP, 0, nullptr, y, blocks);
    return taken(y, blocks + 1)[blocks] == blocks;
}

/* ---- memory */

static __global__ void __launch_bounds__(CA_WARP) fill_kernel(float *y, int count, float value) {
    for (int i = (int)threadIdx.x; i < count; i += CA_WARP) y[i] = value;
}

static __global__ void __launch_bounds__(CA_WARP) copy_kernel(float *y, const float *x, int count) {
    for (int i = (int)threadIdx.x; i < count; i += CA_WARP) y[i] = x[i];
}

/* Stays within the last 16 bytes, where the guard page cannot see it. */
static bool write_past_end(bool faulty) {
    constexpr int count = 37;
    float *y = on_device(std::vector<float>(count));
    CA_LAUNCH(fill_kernel, 1, CA_WARP, 0, nullptr, y, faulty ? count + 1 : count, 2.0f);
    return all_equal(taken(y, count), 2.0f);
}

static bool use_after_free(bool faulty) {
    constexpr int count = 64;
    float *x = on_device(std::vector<float>(count, 1.0f)),
          *y = on_device(std::vector<float>(count));
    if (faulty) cudaFree(x);
    CA_LAUNCH(copy_kernel, 1, CA_WARP, 0, nullptr, y, x, count);
    if (!faulty) cudaFree(x);
    return all_equal(taken(y, count), 1.0f);
}

static bool host_pointer(bool faulty) {
    std::vector<float> host(CA_WARP, 1.0f);
    float *x = on_device(host), *y = on_device(host);
    CA_LAUNCH(copy_kernel, 1, CA_WARP, 0, nullptr, y, faulty ? host.data() : x, CA_WARP);
    cudaFree(x);
    return all_equal(taken(y, CA_WARP), 1.0f);
}

static bool device_pointer_on_host(bool faulty) {
    float *y = on_device(std::vector<float>(1, 5.0f));
    const volatile float *p = y;
    bool right = faulty ? *p == 5.0f : from_device(y, 1)[0] == 5.0f;
    cudaFree(y);
    return right;
}

static bool leak(bool faulty) {
    float *y = on_device(std::vector<float>(7));
    if (!faulty) cudaFree(y);
    return true;
}

static __global__ void __launch_bounds__(CA_WARP) quad_kernel(float *y, const float *x) {
    const float4 v = *reinterpret_cast<const float4 *>(x);
    if (threadIdx.x == 0) y[0] = v.x + v.y + v.z + v.w;
}

static bool misaligned_vector(bool faulty) {
    float *x = on_device(std::vector<float>(8, 1.0f)), *y = on_device(std::vector<float>(1));
    CA_LAUNCH(quad_kernel, 1, CA_WARP, 0, nullptr, y, faulty ? x + 1 : x + 4);
    cudaFree(x);
    return all_equal(taken(y, 1), 4.0f);
}

/* ---- streams */

constexpr int COUNT = 100;

struct two_streams {
    cudaStream_t first, second;
    cudaEvent_t event;
    float *x, *y, *host; /* device, device, page-locked */
    two_streams() {
        cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking);
        cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking);
        cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
        x = on_device(std::vector<float>(COUNT));
        y = on_device(std::vector<float>(COUNT));
        cudaMallocHost((void **)&host, COUNT * sizeof(float));
        for (int i = 0; i < COUNT; i++) host[i] = 0.0f;
        cudaDeviceSynchronize();
    }
    void copy_to_host(const float *from, cudaStream_t stream) {
        cudaMemcpyAsync(host, from, COUNT * sizeof(float), cudaMemcpyDeviceToHost, stream);
    }
    bool host_holds(float value) {
        bool right = all_equal(std::vector<float>(host, host + COUNT), value);
        cudaDeviceSynchronize();
        return right;
    }
    ~two_streams() {
        cudaFree(x);
        cudaFree(y);
        cudaFreeHost(host);
        cudaEventDestroy(event);
        cudaStreamDestroy(first);
        cudaStreamDestroy(second);
    }
};

static bool missing_event_wait(bool faulty) {
    two_streams s;
    CA_LAUNCH(fill_kernel, 1, CA_WARP, 0, s.first, s.x, COUNT, 4.0f);
    cudaEventRecord(s.event, s.first);
    if (!faulty) cudaStreamWaitEvent(s.second, s.event, 0);
    CA_LAUNCH(copy_kernel, 1, CA_WARP, 0, s.second, s.y, s.x, COUNT);
    s.copy_to_host(s.y, s.second);
    cudaStreamSynchronize(s.second);
    return s.host_holds(4.0f);
}

static bool read_before_sync(bool faulty) {
    two_streams s;
    CA_LAUNCH(fill_kernel, 1, CA_WARP, 0, s.first, s.x, COUNT, 4.0f);
    s.copy_to_host(s.x, s.first);
    if (!faulty) cudaStreamSynchronize(s.first);
    return s.host_holds(4.0f);
}

/* The default stream and a non-blocking one do not wait for each other. */
static bool wrong_stream(bool faulty) {
    two_streams s;
    CA_LAUNCH(fill_kernel, 1, CA_WARP, 0, faulty ? nullptr : s.first, s.x, COUNT, 4.0f);
    s.copy_to_host(s.x, s.first);
    cudaStreamSynchronize(s.first);
    return s.host_holds(4.0f);
}

static bool source_overwritten(bool faulty) {
    two_streams s;
    for (int i = 0; i < COUNT; i++) s.host[i] = 4.0f;
    cudaMemcpyAsync(s.x, s.host, COUNT * sizeof(float), cudaMemcpyHostToDevice, s.first);
    cudaEventRecord(s.event, s.first);
    if (!faulty) cudaEventSynchronize(s.event);
    for (int i = 0; i < COUNT; i++) s.host[i] = 0.0f;
    s.copy_to_host(s.x, s.first);
    cudaStreamSynchronize(s.first);
    return s.host_holds(4.0f);
}

const canary canaries[] = {
    {"no barrier before a read", EVERYWHERE, nullptr, center<NO_BARRIER_BEFORE_READ>},
    {"no barrier before scratch is used again", GREEDY | TSAN, nullptr,
     center<NO_BARRIER_BEFORE_REUSE>},
    {"read past the end of a row", EVERYWHERE, nullptr, center<READ_PAST_ROW>},
    {"return before a barrier", EVERYWHERE, "a barrier before which thread 5 returned",
     center<EARLY_RETURN>},
    {"barriers in both branches", EVERYWHERE, "waits at this barrier, but thread",
     center<TWO_BARRIERS>},
    {"write past a shared array", PLAIN | ASAN, nullptr, center<SHARED_OVERFLOW>},
    {"shared memory that was not written", EVERYWHERE, nullptr, uninitialised_shared},
    {"shuffle with lanes that returned", EVERYWHERE, "which has returned", absent_lanes},
    {"shuffle from a lane outside the mask", EVERYWHERE, "which is not in the mask",
     lane_outside_mask},
    {"shuffle taken for a memory barrier", TSAN, nullptr, shuffle_as_barrier},
    {"blocks that add without an atomic", TSAN, nullptr, no_atomic},
    {"blocks that rely on their order", REVERSE | TSAN, nullptr, block_order},
    {"write behind an allocation", PLAIN | ASAN, nullptr, write_past_end},
    {"use of freed memory", EVERYWHERE, nullptr, use_after_free},
    {"kernel with a pointer of the host", EVERYWHERE, "which is no device memory", host_pointer},
    {"host that reads device memory", EVERYWHERE, nullptr, device_pointer_on_host},
    {"device memory that is not freed", EVERYWHERE, "leak", leak},
    {"vector load that is not aligned", ASAN, nullptr, misaligned_vector},
    {"stream that does not wait for an event", LAZY, nullptr, missing_event_wait},
    {"host that reads before it waits", LAZY, nullptr, read_before_sync},
    {"work on the default stream", LAZY, nullptr, wrong_stream},
    {"source overwritten before it was copied", LAZY, nullptr, source_overwritten},
};
const int canary_count = sizeof canaries / sizeof *canaries;
