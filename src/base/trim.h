/* SPDX-License-Identifier: MIT
 *
 * What only some C libraries can do with memory that was freed. Private to src/base.
 */
#ifndef CAUSA_BASE_TRIM_H
#define CAUSA_BASE_TRIM_H

#ifdef __GLIBC__
#include <malloc.h>
#endif

static inline void trim_freed_memory(void) {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

#endif
