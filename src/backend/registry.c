/* SPDX-License-Identifier: MIT
 *
 * The backends of this build and how one is chosen by name. A backend is added by one row of
 * CA_BACKEND_LIST and one folder that defines `ca_backend_<name>`.
 */
#include "causa/backend.h"

#include <errno.h>
#include <limits.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define DECLARE(name) extern const ca_backend_entry ca_backend_##name;
CA_BACKEND_LIST(DECLARE)
#undef DECLARE

static const ca_backend_entry *const entries[] = {
#define ROW(name) &ca_backend_##name,
    CA_BACKEND_LIST(ROW)
#undef ROW
        NULL};

enum { ENTRY_COUNT = sizeof entries / sizeof entries[0] - 1 };

const ca_backend_entry *const *ca_backend_entries(void) { return entries; }

/* OMP_NUM_THREADS (its first number, as OpenMP reads it for the outermost level), else the CPUs
 * that the affinity mask left to this process when it began: OMP_PROC_BIND narrows the mask of the
 * first thread to one place. */
static int default_threads(void) {
    const char *text = getenv("OMP_NUM_THREADS");
    if (text) {
        char *end;
        errno = 0;
        long n = strtol(text, &end, 10);
        if (errno == 0 && end != text && n >= 1 && n <= INT_MAX) return (int)n;
    }
    return omp_get_num_procs();
}

static ca_status open_entry(const ca_backend_entry *entry, int device, int threads,
                            ca_backend **out) {
    if (!entry->libraries)
        return ca_fail(CA_E_BACKEND, "backend %s: not part of this build; %s", entry->name,
                       entry->how_to_build);
    return entry->open(device, threads, out);
}

/* The list is in rising order of preference. */
static ca_status open_best(int threads, ca_backend **out) {
    ca_status st = CA_E_BACKEND;
    for (int i = ENTRY_COUNT - 1; i >= 0; i--) {
        st = open_entry(entries[i], -1, threads, out);
        if (st == CA_OK) {
            ca_error_clear();
            return CA_OK;
        }
        ca_log(entries[i]->libraries ? CA_LOG_WARNING : CA_LOG_DEBUG,
               "backend auto: passing over %s: %s", entries[i]->name, ca_error_text());
    }
    return st;
}

/* "cuda:3" -> device 3; false when the text behind the colon is not a device number. */
static bool parse_device(const char *text, int *device) {
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 4 || text[digits] != '\0') return false;
    *device = atoi(text);
    return true;
}

static ca_status unknown_name(const char *name) {
    const char *names[ENTRY_COUNT + 1] = {"auto"};
    for (int i = 0; i < ENTRY_COUNT; i++) names[i + 1] = entries[i]->name;
    ca_status st = ca_fail(CA_E_CONFIG, "expected auto, ref, cpu, cuda or cuda:N, got '%s'", name);
    const char *near = ca_nearest_name(name, names, ENTRY_COUNT + 1);
    if (near) ca_hint("did you mean '%s'?", near);
    return st;
}

ca_status ca_backend_open(const char *name, int threads, ca_backend **out) {
    *out = NULL;
    if (threads < 0)
        return ca_fail(CA_E_CONFIG, "backend: threads: expected 0 or more, got %d", threads);
    if (threads == 0) threads = default_threads();
    if (strcmp(name, "auto") == 0) return open_best(threads, out);

    int device = -1;
    size_t length = strlen(name);
    if (strncmp(name, "cuda:", 5) == 0 && parse_device(name + 5, &device)) length = 4;
    for (int i = 0; i < ENTRY_COUNT; i++) {
        if (strlen(entries[i]->name) == length && memcmp(entries[i]->name, name, length) == 0)
            return open_entry(entries[i], device, threads, out);
    }
    return unknown_name(name);
}

void ca_backend_close(ca_backend *be) {
    if (!be) return;
    for (int i = 0; i < ENTRY_COUNT; i++) {
        if (strcmp(entries[i]->name, be->name) == 0) {
            entries[i]->close(be);
            return;
        }
    }
}
