/* SPDX-License-Identifier: MIT
 *
 * Programs with one known fault each, and their faultless twins: what check_canaries.c must and
 * must not see fail.
 */
#ifndef CA_SIMT_CANARIES_H
#define CA_SIMT_CANARIES_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Where a fault must be caught: in modes of any build, or in every mode of one build. */
enum {
    REVERSE = 1,
    GREEDY = 2,
    LAZY = 4, /* streams */
    PLAIN = 8,
    ASAN = 16,
    TSAN = 32,
    EVERYWHERE = PLAIN | ASAN | TSAN
};

typedef struct canary {
    const char *name;
    unsigned caught_by;
    const char *says; /* part of the message; NULL where results are wrong or the process dies */
    bool (*run)(bool faulty); /* true when its results are right */
} canary;

extern const canary canaries[];
extern const int canary_count;

#ifdef __cplusplus
}
#endif

#endif
