/* SPDX-License-Identifier: MIT
 *
 * Memory of the cpu backend is host memory; copies convert between floating dtypes.
 */
#include "cpu.h"

#include <stdlib.h>
#include <unistd.h>

ca_status ca_cpu_alloc(ca_backend *be, size_t bytes, void **out) {
    (void)be;
    /* aligned_alloc wants a multiple of the alignment; nothing asked for is still an address */
    size_t rounded = 64;
    if (bytes > 0 && !ca_add_size(bytes - 1, 64, &rounded))
        return ca_fail(CA_E_MEMORY, "cpu: cannot allocate %zu bytes", bytes);
    *out = aligned_alloc(64, rounded / 64 * 64);
    if (*out == NULL) return ca_fail(CA_E_MEMORY, "cpu: cannot allocate %zu bytes", bytes);
    return CA_OK;
}

void ca_cpu_release(ca_backend *be, void *data) {
    (void)be;
    free(data);
}

ca_status ca_cpu_upload(ca_backend *be, ca_tensor dst, const void *host) {
    (void)be;
    size_t bytes = (size_t)ca_tensor_count(&dst) * ca_dtype_size(dst.dtype);
    if (bytes > 0) memcpy(dst.data, host, bytes);
    return CA_OK;
}

ca_status ca_cpu_download(ca_backend *be, void *host, ca_tensor src) {
    (void)be;
    size_t bytes = (size_t)ca_tensor_count(&src) * ca_dtype_size(src.dtype);
    if (bytes > 0) memcpy(host, src.data, bytes);
    return CA_OK;
}

ca_status ca_cpu_sync(ca_backend *be) {
    (void)be;
    return CA_OK;
}

ca_status ca_cpu_memory_info(ca_backend *be, size_t *available, size_t *total) {
    (void)be;
    long page = sysconf(_SC_PAGESIZE);
    long free_pages = sysconf(_SC_AVPHYS_PAGES), pages = sysconf(_SC_PHYS_PAGES);
    if (page <= 0 || free_pages < 0 || pages < 0)
        return ca_fail(CA_E_BACKEND, "cpu: the system does not tell the size of its memory");
    *available = (size_t)free_pages * (size_t)page;
    *total = (size_t)pages * (size_t)page;
    return CA_OK;
}

/* ---- conversions ------------------------------------------------------------------------- */

/* Exponents 1 .. 30 only need another bias; a product does that and subnormals at once. */
static float from_f16(uint16_t half) {
    uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13;
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    float scaled = cpu_from_bits(magnitude) * 0x1p112f;
    uint32_t bits = magnitude >= 0x0f800000 ? magnitude | 0x7f800000 : cpu_to_bits(scaled);
    return cpu_from_bits(bits | sign);
}

static uint16_t to_f16(float x) {
    uint32_t bits = cpu_to_bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);  /* NaN */
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* rounds beyond 65504 */
    if (magnitude < 0x38800000) {
        /* subnormal: adding 0.5 leaves the value in units of 2^-24, rounded to even */
        float shifted = cpu_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (cpu_to_bits(shifted) - cpu_to_bits(0.5f)));
    }
    uint32_t even = magnitude >> 13 & 1;
    return (uint16_t)(sign | (magnitude - 0x38000000 + 0xfff + even) >> 13);
}

/* n values of one row, through float32. */
static void read_row(float *to, const char *from, ca_dtype dtype, int64_t n) {
    switch (dtype) {
    case CA_F32:
        memcpy(to, from, (size_t)n * sizeof(float));
        break;
    case CA_F64:
        for (int64_t i = 0; i < n; i++) to[i] = (float)((const double *)(const void *)from)[i];
        break;
    case CA_F16:
        for (int64_t i = 0; i < n; i++) to[i] = from_f16(((const uint16_t *)(const void *)from)[i]);
        break;
    case CA_BF16:
        for (int64_t i = 0; i < n; i++)
            to[i] = ca_bf16_widen(((const uint16_t *)(const void *)from)[i]);
        break;
    default:
        assert(!"copy converts between floating dtypes only");
    }
}

static void write_row(char *to, const float *from, ca_dtype dtype, int64_t n) {
    switch (dtype) {
    case CA_F32:
        memcpy(to, from, (size_t)n * sizeof(float));
        break;
    case CA_F64:
        for (int64_t i = 0; i < n; i++) ((double *)(void *)to)[i] = from[i];
        break;
    case CA_F16:
        for (int64_t i = 0; i < n; i++) ((uint16_t *)(void *)to)[i] = to_f16(from[i]);
        break;
    case CA_BF16:
        for (int64_t i = 0; i < n; i++) ((uint16_t *)(void *)to)[i] = ca_bf16_round(from[i]);
        break;
    default:
        assert(!"copy converts between floating dtypes only");
    }
}

ca_status ca_cpu_copy(ca_backend *be, ca_tensor dst, ca_tensor src) {
    enum { CHUNK = 512 };
    int64_t rows = cpu_places(&dst, dst.rank - 1), n = cpu_width(&dst);
    int64_t chunks = (n + CHUNK - 1) / CHUNK;
    size_t to_size = ca_dtype_size(dst.dtype), from_size = ca_dtype_size(src.dtype);
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t item = 0; item < rows * chunks; item++) {
        int64_t row = item / chunks, at = item % chunks * CHUNK, count = cpu_min(n - at, CHUNK);
        char *to = (char *)dst.data + (size_t)(cpu_offset(&dst, dst.rank - 1, row) + at) * to_size;
        const char *from =
            (const char *)src.data + (size_t)(cpu_offset(&src, src.rank - 1, row) + at) * from_size;
        float values[CHUNK];
        if (dst.dtype == src.dtype) {
            memmove(to, from, (size_t)count * to_size);
        } else {
            read_row(values, from, src.dtype, count);
            write_row(to, values, dst.dtype, count);
        }
    }
    return CA_OK;
}

ca_status ca_cpu_fill(ca_backend *be, ca_tensor dst, double value) {
    int64_t rows = cpu_places(&dst, dst.rank - 1), n = cpu_width(&dst);
    size_t size = ca_dtype_size(dst.dtype);
    union {
        float f32;
        double f64;
        uint16_t half;
        int32_t i32;
        int64_t i64;
    } element = {0};
    switch (dst.dtype) {
    case CA_F32:
        element.f32 = (float)value;
        break;
    case CA_F64:
        element.f64 = value;
        break;
    case CA_F16:
        element.half = to_f16((float)value);
        break;
    case CA_BF16:
        element.half = ca_bf16_round((float)value);
        break;
    case CA_I32:
        element.i32 = (int32_t)value;
        break;
    case CA_I64:
        element.i64 = (int64_t)value;
        break;
    }
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        char *to = (char *)dst.data + (size_t)cpu_offset(&dst, dst.rank - 1, row) * size;
        switch (size) {
        case 2:
            for (int64_t i = 0; i < n; i++) ((uint16_t *)(void *)to)[i] = element.half;
            break;
        case 4:
            for (int64_t i = 0; i < n; i++) ((int32_t *)(void *)to)[i] = element.i32;
            break;
        default:
            for (int64_t i = 0; i < n; i++) ((int64_t *)(void *)to)[i] = element.i64;
        }
    }
    return CA_OK;
}
