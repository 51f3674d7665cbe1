/* SPDX-License-Identifier: MIT
 *
 * CUDA's built-in device functions that need no other thread: bit casts, arithmetic with a stated
 * rounding, integer helpers and atomics. Included at the end of simt.h.
 *
 * Atomics are relaxed, as on the device. There are none on floats: their order changes results.
 */
#ifndef CA_SIMT_INTRINSICS_H
#define CA_SIMT_INTRINSICS_H

template <typename To, typename From> static inline To simt_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

static inline float __uint_as_float(unsigned x) { return simt_bits<float>(x); }
static inline unsigned __float_as_uint(float x) { return simt_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return simt_bits<float>(x); }
static inline int __float_as_int(float x) { return simt_bits<int>(x); }
static inline double __longlong_as_double(long long x) { return simt_bits<double>(x); }
static inline long long __double_as_longlong(double x) { return simt_bits<long long>(x); }

static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }

/* Without C++'s references, so that int and int64_t mix as on the device. */
template <typename A, typename B> static inline std::common_type_t<A, B> min(A a, B b) {
    return b < a ? b : a;
}
template <typename A, typename B> static inline std::common_type_t<A, B> max(A a, B b) {
    return a < b ? b : a;
}
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }

template <typename T> static inline T __ldg(const T *p) { return *p; }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __ffs(int x) { return __builtin_ffs(x); }

/* ---- atomics on integers; each returns the old value */

template <typename T>
using simt_integer = std::enable_if_t<std::is_integral_v<T> && sizeof(T) >= 4, T>;

template <typename T> static inline simt_integer<T> atomicAdd(T *p, std::common_type_t<T> v) {
    return __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
}
template <typename T> static inline simt_integer<T> atomicOr(T *p, std::common_type_t<T> v) {
    return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
}
template <typename T> static inline simt_integer<T> atomicAnd(T *p, std::common_type_t<T> v) {
    return __atomic_fetch_and(p, v, __ATOMIC_RELAXED);
}
template <typename T> static inline simt_integer<T> atomicExch(T *p, std::common_type_t<T> v) {
    return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);
}
template <typename T>
static inline simt_integer<T> atomicCAS(T *p, std::common_type_t<T> expected,
                                        std::common_type_t<T> desired) {
    __atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return expected;
}
template <typename T> static inline simt_integer<T> atomicMax(T *p, std::common_type_t<T> v) {
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (old < v &&
           !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}
template <typename T> static inline simt_integer<T> atomicMin(T *p, std::common_type_t<T> v) {
    T old = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (v < old &&
           !__atomic_compare_exchange_n(p, &old, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

#endif
