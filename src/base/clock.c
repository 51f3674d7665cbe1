/* SPDX-License-Identifier: MIT
 *
 * Monotonic time and the memory of this process, as the operating system counts it.
 */
#include "causa/base.h"
#include "trim.h"

#include <time.h>
#include <unistd.h>

double ca_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int64_t ca_peak_host_bytes(void) {
    /* getrusage would also count the program that started this one, between its fork and exec */
    FILE *file = fopen("/proc/self/status", "r");
    if (file == NULL) return 0;
    char line[256];
    long long kib = 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %lld kB", &kib) == 1) break;
    fclose(file);
    return (int64_t)kib * 1024;
}

int64_t ca_host_bytes(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL) return 0;
    long long total = 0, resident = 0;
    int fields = fscanf(file, "%lld %lld", &total, &resident);
    fclose(file);
    return fields == 2 ? (int64_t)resident * sysconf(_SC_PAGESIZE) : 0;
}

void ca_give_back_memory(void) { trim_freed_memory(); }
