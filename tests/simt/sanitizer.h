/* SPDX-License-Identifier: MIT
 *
 * What the sanitizers must be told about fibers, device memory and the order of threads; nothing
 * in a plain build.
 *
 * The shim itself is compiled without -fsanitize=thread (SIMT_TSAN says that kernels are not):
 * its own accesses, which need no order, would else order or accuse the kernels'.
 */
#ifndef CA_SIMT_SANITIZER_H
#define CA_SIMT_SANITIZER_H

#include <stddef.h>

namespace simt {

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
} // namespace simt
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
namespace simt {

struct sanitizer_fiber {
    const void *low;
    size_t bytes;
    void *fake_stack;
};
inline void sanitizer_created(sanitizer_fiber &f, const void *low, size_t bytes) {
    f.low = low;
    f.bytes = bytes;
}
inline void sanitizer_host(sanitizer_fiber &) {} /* the first arrival elsewhere tells its stack */
inline void sanitizer_leaves(sanitizer_fiber &from, sanitizer_fiber &to) {
    __sanitizer_start_switch_fiber(&from.fake_stack, to.low, to.bytes);
}
inline void sanitizer_arrived(sanitizer_fiber &here, sanitizer_fiber *left) {
    __sanitizer_finish_switch_fiber(here.fake_stack, &left->low, &left->bytes);
}
inline void sanitizer_poison(const void *p, size_t n) { __asan_poison_memory_region(p, n); }
inline void sanitizer_unpoison(const void *p, size_t n) { __asan_unpoison_memory_region(p, n); }

#elif defined(SIMT_TSAN)

extern "C" {
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
void __tsan_acquire(void *address);
void __tsan_release(void *address);
}

struct sanitizer_fiber {
    void *thread;
};
inline void sanitizer_created(sanitizer_fiber &f, const void *, size_t) {
    f.thread = __tsan_create_fiber(0);
}
inline void sanitizer_host(sanitizer_fiber &f) { f.thread = __tsan_get_current_fiber(); }
inline void sanitizer_leaves(sanitizer_fiber &, sanitizer_fiber &to) {
    const unsigned no_sync = 1;
    __tsan_switch_to_fiber(to.thread, no_sync);
}
inline void sanitizer_arrived(sanitizer_fiber &, sanitizer_fiber *) {}

#else

struct sanitizer_fiber {};
inline void sanitizer_created(sanitizer_fiber &, const void *, size_t) {}
inline void sanitizer_host(sanitizer_fiber &) {}
inline void sanitizer_leaves(sanitizer_fiber &, sanitizer_fiber &) {}
inline void sanitizer_arrived(sanitizer_fiber &, sanitizer_fiber *) {}

#endif

#ifndef SIMT_ASAN
inline void sanitizer_poison(const void *, size_t) {}
inline void sanitizer_unpoison(const void *, size_t) {}
#endif

/* Happens-before: what was done before a release of a token is seen after an acquire of it. */
#ifdef SIMT_TSAN
constexpr bool RACE_CHECK = true;
inline void release_token(void *token) { __tsan_release(token); }
inline void acquire_token(void *token) { __tsan_acquire(token); }
#else
constexpr bool RACE_CHECK = false;
inline void release_token(void *) {}
inline void acquire_token(void *) {}
#endif

#if defined(SIMT_ASAN) || defined(SIMT_TSAN)
constexpr bool SANITIZER = true;
#else
constexpr bool SANITIZER = false;
#endif

} // namespace simt

#endif
