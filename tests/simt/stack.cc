/* SPDX-License-Identifier: MIT
 *
 * Memory for the stacks of fibers.
 */
#include "fiber.h"

#include <sys/mman.h>

#include "internal.h"

namespace simt {

constexpr size_t GUARD = 4096, COLORS = 32, COLOR_BYTES = 128;

stack stack_map(size_t bytes, unsigned color) {
    size_t mapped = bytes + GUARD + COLORS * COLOR_BYTES;
    void *memory = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, GUARD, PROT_NONE) != 0)
        die("no memory for the stacks of CUDA threads");
    stack s;
    s.low = static_cast<char *>(memory) + GUARD;
    s.top = static_cast<char *>(memory) + mapped - color % COLORS * COLOR_BYTES;
    return s;
}

} // namespace simt
