/* SPDX-License-Identifier: MIT
 *
 * Fibers for x86-64 and the System V ABI: a switch saves the six registers that a call preserves
 * on the old stack and takes those of the new stack. The floating-point control words are the same
 * in all fibers.
 */
#include "fiber.h"

#include <stdint.h>

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

constexpr size_t STACK_BYTES = 64 << 10, SAVED_REGISTERS = 6;

struct fiber {
    void *stopped_at; /* stack pointer */
    stack memory;
};

static fiber host, *running = &host;

fiber *fiber_create(void (*entry)()) {
    static unsigned color;
    fiber *f = new fiber{nullptr, stack_map(STACK_BYTES, color++)};
    /* What simt_switch pops: registers, then where to go. As after a call, the stack pointer is 8
     * below a multiple of 16 when `entry` begins; the word above is the return address. */
    uintptr_t *words = reinterpret_cast<uintptr_t *>(f->memory.top) - 2;
    words[0] = reinterpret_cast<uintptr_t>(entry);
    words[1] = 0;
    f->stopped_at = words - SAVED_REGISTERS;
    return f;
}

void fiber_destroy(fiber *f) {
    stack_unmap(f->memory);
    delete f;
}

fiber *fiber_host() { return &host; }

void fiber_switch(fiber *to) {
    fiber *from = running;
    running = to;
    simt_switch(&from->stopped_at, to->stopped_at);
}

} // namespace simt
