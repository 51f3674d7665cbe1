/* SPDX-License-Identifier: MIT
 *
 * Fibers for x86-64 and the System V ABI: a switch saves the six registers that a call preserves
 * on the old stack and takes those of the new stack. The floating-point control words are the same
 * in all fibers.
 */
#include "fiber.h"

#include <stdint.h>

#include "sanitizer.h"

/* void simt_switch(void **save, void *resume) */
asm(R"(
    .text
    .p2align 4
    .type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch, . - simt_switch
)");

extern "C" void simt_switch(void **save, void *resume) __asm__("simt_switch");

namespace simt {

constexpr size_t STACK_BYTES = SANITIZER ? 256 << 10 : 64 << 10, SAVED_REGISTERS = 6;

struct fiber {
    void *stopped_at; /* stack pointer */
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
    /* What simt_switch pops: registers, then where to go. As after a call, the stack pointer is 8
     * below a multiple of 16 when `begin` begins; the word above is the return address. */
    uintptr_t *words = reinterpret_cast<uintptr_t *>(f->memory.top) - 2;
    words[0] = reinterpret_cast<uintptr_t>(begin);
    words[1] = 0;
    f->stopped_at = words - SAVED_REGISTERS;
    sanitizer_created(f->announced, f->memory.low, (size_t)(f->memory.top - f->memory.low));
    return f;
}

void fiber_announce_host() { sanitizer_host(host.announced); }

fiber *fiber_host() { return &host; }

void fiber_switch(fiber *to) {
    fiber *from = running;
    left = from;
    running = to;
    sanitizer_leaves(from->announced, to->announced);
    simt_switch(&from->stopped_at, to->stopped_at);
    sanitizer_arrived(from->announced, &left->announced);
}

} // namespace simt
