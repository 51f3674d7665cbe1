/* SPDX-License-Identifier: MIT
 *
 * What the files of the shim know of each other.
 */
#ifndef CA_SIMT_INTERNAL_H
#define CA_SIMT_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include <functional>
#include <vector>

#include "simt.h"

namespace simt {

/* ---- grid.cc */

/* Ends the program with exit status 70; names kernel, block and thread when one runs. */
[[noreturn]] void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same at a place in a kernel. */
[[noreturn]] void die_at(const site *where, int thread, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Runs all blocks to their end. */
void run_grid(const launch &l, const std::function<void()> &body);

/* ---- schedule.cc: the order of blocks and threads, from CA_SIMT_SCHEDULE */

void schedule_blocks(std::vector<size_t> &order);
void schedule_begin_block(int threads);
/* Picks one of the threads that can run; there is one. */
int schedule_next(const uint8_t *can_run);
/* A seeded sequence of numbers below `limit`. */
struct random_sequence {
    uint64_t state;
    uint64_t below(uint64_t limit);
};

/* ---- memory.cc: the device heap, and shared memory */

void *device_allocate(size_t bytes); /* NULL when the device is full */
bool device_free(void *p);           /* false when it is no allocation */
void device_memory_info(size_t *available, size_t *total);
/* The allocation that holds address p (or ends at it), or NULL. */
struct allocation;
const allocation *device_find(const void *p);
size_t device_bytes_from(const void *p); /* up to the end of its allocation, 0 outside */
/* Whether p lies in or shortly behind an allocation; *behind: bytes behind its end, 0 in it. */
bool device_distance(const void *p, size_t *behind);
bool report_device_leaks(); /* true when there are some */

/* Device memory is inaccessible except while one of these lives that was given a pointer to it. */
struct opened {
    explicit opened(std::vector<const void *> pointers);
    ~opened();
    opened(const opened &) = delete;
    opened &operator=(const opened &) = delete;

  private:
    std::vector<const allocation *> held;
};

void shared_begin_block(size_t dynamic_bytes);
void shared_end_block();
void shared_end_grid();
constexpr size_t SHARED_BYTES = 48 << 10; /* without opting in for more */

} // namespace simt

#endif
