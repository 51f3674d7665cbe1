/* SPDX-License-Identifier: MIT
 *
 * Fibers by ucontext, announced to the sanitizer of this build.
 */
#include "fiber.h"

#include <ucontext.h>

#include "internal.h"
#include "sanitizer.h"

namespace simt {

constexpr size_t STACK_BYTES = 256 << 10;

struct fiber {
    ucontext_t context;
    stack memory;
    void (*entry)();
    sanitizer_fiber announced;
};

static fiber host, *running = &host, *left;

static void begin() {
    sanitizer_arrived(running->announced, &left->announced);
    running->entry();
}

fiber *fiber_create(void (*entry)()) {
    static unsigned color;
    fiber *f = new fiber();
    f->memory = stack_map(STACK_BYTES, color++);
    f->entry = entry;
    size_t usable = (size_t)(f->memory.top - f->memory.low);
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->memory.low;
    f->context.uc_stack.ss_size = usable;
    makecontext(&f->context, begin, 0);
    sanitizer_created(f->announced, f->memory.low, usable);
    return f;
}

void fiber_announce_host() { sanitizer_host(host.announced); }

fiber *fiber_host() { return &host; }

void fiber_switch(fiber *to) {
    fiber *from = running;
    left = from;
    running = to;
    sanitizer_leaves(from->announced, to->announced);
    swapcontext(&from->context, &to->context);
    sanitizer_arrived(from->announced, &left->announced);
}

} // namespace simt
