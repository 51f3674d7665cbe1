/* SPDX-License-Identifier: MIT
 *
 * Launches: what the runtime checks, what it cannot know but we can (that a kernel gets no pointers
 * of the host), and faults of kernels.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime.h"
#include "sanitizer.h"

namespace simt {

/* The device pointers among the arguments of the launch that is being prepared. */
static std::vector<const void *> &given = *new std::vector<const void *>;

/* Where a program's memory lies; no count, stride or pair of small integers is so large, nearly. */
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
            given.push_back(p);
        else if (is_mapped(word))
            die("%s: launch: argument %d: byte %zu holds %p, which is no device memory", l.kernel,
                position, at, p);
    }
}

static cudaError_t check_shape(const launch &l) {
    const dim3 &g = l.grid, &b = l.block;
    if (!stream_exists(l.stream)) return cudaErrorInvalidResourceHandle;
    if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > most_blocks() || g.y > 65535 || g.z > 65535)
        return cudaErrorInvalidConfiguration;
    if (b.x == 0 || b.y == 0 || b.z == 0 || b.x > 1024 || b.y > 1024 || b.z > 64 ||
        (uint64_t)b.x * b.y * b.z > 1024)
        return cudaErrorInvalidConfiguration;
    return l.shared_bytes > SHARED_BYTES ? cudaErrorInvalidValue : cudaSuccess;
}

/* ---- faults: the sanitizers have reports of their own */

static void report_fault(int number, siginfo_t *info, void *) {
    const void *p = info->si_addr;
    size_t behind;
    if (number == SIGFPE) die("division of an integer by zero");
    if (info->si_code == SI_KERNEL) die("a misaligned vector access, or no address at all");
    if (!device_distance(p, &behind)) die("access to %p, which is no memory of the device", p);
    if (behind == 0) die("access to %p, to which the kernel was given no pointer", p);
    die("access to %p, %zu bytes behind the end of an allocation", p, behind);
}

/* The handlers of the program come back when no kernel runs. */
struct fault_handlers {
    struct sigaction old[3];
    stack_t old_stack;
    static constexpr int signals[3] = {SIGSEGV, SIGBUS, SIGFPE};
    fault_handlers() {
        static char memory[64 << 10];
        stack_t own = {};
        own.ss_sp = memory;
        own.ss_size = sizeof memory;
        sigaltstack(&own, &old_stack);
        struct sigaction action = {};
        action.sa_sigaction = report_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        for (int i = 0; i < 3; i++) sigaction(signals[i], &action, &old[i]);
    }
    ~fault_handlers() {
        for (int i = 0; i < 3; i++) sigaction(signals[i], &old[i], nullptr);
        sigaltstack(&old_stack, nullptr);
    }
};

static void run(const launch &l, const std::vector<const void *> &pointers,
                const std::function<void()> &body) {
    opened memory(pointers);
    if (SANITIZER) {
        run_grid(l, body);
        return;
    }
    fault_handlers handlers;
    run_grid(l, body);
}

void launch_grid(const launch &l, std::function<void()> body) {
    std::vector<const void *> pointers;
    pointers.swap(given);
    call([&] {
        cudaError_t error = check_shape(l);
        if (error == cudaSuccess) stream_enqueue(l.stream, [=] { run(l, pointers, body); });
        return error;
    });
}

} // namespace simt
