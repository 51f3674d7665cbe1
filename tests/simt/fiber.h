/* SPDX-License-Identifier: MIT
 *
 * Fibers: stacks between which one host thread switches. fiber_x86_64.cc switches in a few
 * nanoseconds; fiber_ucontext.cc serves other machines and the sanitizers, which know ucontext.
 */
#ifndef CA_SIMT_FIBER_H
#define CA_SIMT_FIBER_H

#include <stddef.h>

namespace simt {

struct fiber;

/* A fiber that calls `entry`, which must never return, when first switched to. Fibers live as long
 * as the process. */
fiber *fiber_create(void (*entry)());
/* Called on the host's own stack before it switches to a fiber. */
void fiber_announce_host();
/* That stack. */
fiber *fiber_host();
/* Stops the running fiber and goes on with another. */
void fiber_switch(fiber *to);

/* A stack of `bytes` with an inaccessible page below it. `color` moves its top by a few cache
 * lines: equal tops would compete for the same sets of the cache. */
struct stack {
    char *low, *top;
};
stack stack_map(size_t bytes, unsigned color);

} // namespace simt

#endif
