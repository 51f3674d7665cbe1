/* SPDX-License-Identifier: MIT
 *
 * Memory of the reference backend: the host heap, filled with NaN so that a read before the
 * first write shows in the results.
 */
#include "ref.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ALIGNMENT = 64 };

ca_status ca_ref_alloc(ca_backend *be, size_t bytes, void **out) {
    (void)be;
    *out = NULL;
    size_t rounded;
    if (!ca_add_size(bytes, bytes ? ALIGNMENT - 1 : ALIGNMENT, &rounded))
        return ca_fail(CA_E_MEMORY, "backend ref: cannot allocate %zu bytes", bytes);
    rounded -= rounded % ALIGNMENT;
    void *data = aligned_alloc(ALIGNMENT, rounded);
    if (!data) return ca_fail(CA_E_MEMORY, "backend ref: cannot allocate %zu bytes", bytes);
    memset(data, 0xff, rounded); /* all ones is a NaN in every floating dtype */
    *out = data;
    return CA_OK;
}

void ca_ref_release(ca_backend *be, void *data) {
    (void)be;
    free(data);
}

static size_t bytes_of(const ca_tensor *t) {
    return (size_t)ca_tensor_count(t) * ca_dtype_size(t->dtype);
}

ca_status ca_ref_upload(ca_backend *be, ca_tensor dst, const void *host) {
    (void)be;
    memcpy(dst.data, host, bytes_of(&dst));
    return CA_OK;
}

ca_status ca_ref_download(ca_backend *be, void *host, ca_tensor src) {
    (void)be;
    memcpy(host, src.data, bytes_of(&src));
    return CA_OK;
}

ca_status ca_ref_copy(ca_backend *be, ca_tensor dst, ca_tensor src) {
    (void)be;
    int64_t rows = ca_ref_rows(&dst), width = ca_ref_width(&dst);
    if (dst.dtype == src.dtype) {
        size_t bytes = (size_t)width * ca_dtype_size(dst.dtype);
        for (int64_t r = 0; r < rows; r++) memcpy(ca_ref_row(&dst, r), ca_ref_row(&src, r), bytes);
        return CA_OK;
    }
    double *x = NULL;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(width, &x));
    for (int64_t r = 0; r < rows; r++) {
        ca_ref_load(&src, r, x);
        ca_ref_store(&dst, r, x);
    }
out:
    free(x);
    return st;
}

ca_status ca_ref_fill(ca_backend *be, ca_tensor dst, double value) {
    (void)be;
    int64_t rows = ca_ref_rows(&dst), width = ca_ref_width(&dst);
    double *x = NULL;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(width, &x));
    for (int64_t i = 0; i < width; i++) x[i] = value;
    for (int64_t r = 0; r < rows; r++) ca_ref_store(&dst, r, x);
out:
    free(x);
    return st;
}

ca_status ca_ref_sync(ca_backend *be) {
    (void)be;
    return CA_OK;
}

/* The kernel's own estimate of what can be had without swapping; 0 when it gives none. */
static size_t meminfo_available(void) {
    FILE *file = fopen("/proc/meminfo", "r");
    if (!file) return 0;
    char line[128];
    unsigned long long kib = 0;
    while (fgets(line, sizeof line, file) && sscanf(line, "MemAvailable: %llu kB", &kib) != 1) {
    }
    fclose(file);
    return (size_t)kib * 1024;
}

ca_status ca_ref_memory_info(ca_backend *be, size_t *available, size_t *total) {
    (void)be;
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    if (pages <= 0 || size <= 0)
        return ca_fail(CA_E_BACKEND, "backend ref: the system does not tell its memory size");
    *total = (size_t)pages * (size_t)size;
    *available = meminfo_available();
    if (*available == 0) {
        long idle = sysconf(_SC_AVPHYS_PAGES);
        *available = idle > 0 ? (size_t)idle * (size_t)size : *total;
    }
    return CA_OK;
}
