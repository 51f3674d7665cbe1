/* SPDX-License-Identifier: MIT
 *
 * Checked host allocation and the region allocator. Sizes often come from files that anybody may
 * have written, so every product and sum is checked before it reaches malloc.
 */
#include "causa/base.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

bool ca_mul_size(size_t a, size_t b, size_t *product) {
    return !__builtin_mul_overflow(a, b, product);
}

bool ca_add_size(size_t a, size_t b, size_t *sum) { return !__builtin_add_overflow(a, b, sum); }

/* `out` is the address of a pointer of any object type: written byte-wise, not through void **. */
static void store_pointer(void *out, void *pointer) { memcpy(out, &pointer, sizeof pointer); }

static void *load_pointer(const void *from) {
    void *pointer;
    memcpy(&pointer, from, sizeof pointer);
    return pointer;
}

ca_status ca_calloc(size_t count, size_t size, void *out) {
    store_pointer(out, NULL);
    /* Zero elements still give a pointer that can be freed and told from "absent". */
    void *pointer = calloc(count > 0 ? count : 1, size > 0 ? size : 1);
    if (pointer == NULL)
        return ca_fail(CA_E_MEMORY, "host memory: expected room for %zu x %zu bytes, got none",
                       count, size);
    store_pointer(out, pointer);
    return CA_OK;
}

ca_status ca_grow(void *array, int64_t *capacity, int64_t needed, size_t size) {
    assert(*capacity >= 0 && size > 0);
    if (needed <= *capacity) return CA_OK;

    int64_t grown = *capacity < 8 ? 8 : *capacity;
    while (grown < needed) grown = grown > INT64_MAX / 2 ? needed : grown * 2;

    size_t bytes;
    void *pointer = NULL;
    if (ca_mul_size((size_t)grown, size, &bytes)) pointer = realloc(load_pointer(array), bytes);
    if (pointer == NULL)
        return ca_fail(CA_E_MEMORY, "host memory: expected room for %lld x %zu bytes, got none",
                       (long long)grown, size);
    store_pointer(array, pointer);
    *capacity = grown;
    return CA_OK;
}

/* ---- arena ------------------------------------------------------------------------------- */

enum { ARENA_ALIGNMENT = 16, ARENA_BLOCK_SIZE = 64 * 1024 };

/* The payload follows the header, which is a multiple of the alignment long. */
typedef struct ca_arena_block {
    _Alignas(ARENA_ALIGNMENT) struct ca_arena_block *next;
    size_t used, size; /* bytes of payload */
} ca_arena_block;

struct ca_arena {
    ca_arena_block *first; /* the one that is being filled */
};

static ca_status arena_add_block(ca_arena *arena, size_t size) {
    size_t bytes;
    if (!ca_add_size(sizeof(ca_arena_block), size, &bytes)) bytes = SIZE_MAX;
    ca_arena_block *block;
    ca_status st = ca_calloc(bytes, 1, &block);
    if (st != CA_OK) return st;
    block->size = size;
    block->next = arena->first;
    arena->first = block;
    return CA_OK;
}

ca_status ca_arena_create(ca_arena **out) { return ca_calloc(1, sizeof **out, out); }

void ca_arena_destroy(ca_arena *arena) {
    if (arena == NULL) return;
    for (ca_arena_block *block = arena->first; block != NULL;) {
        ca_arena_block *next = block->next;
        free(block);
        block = next;
    }
    free(arena);
}

ca_status ca_arena_alloc(ca_arena *arena, size_t bytes, void *out) {
    ca_status st = CA_OK;
    store_pointer(out, NULL);

    size_t rounded;
    if (!ca_add_size(bytes > 0 ? bytes : 1, ARENA_ALIGNMENT - 1, &rounded))
        return ca_fail(CA_E_MEMORY, "host memory: expected room for %zu bytes, got none", bytes);
    rounded -= rounded % ARENA_ALIGNMENT;

    ca_arena_block *block = arena->first;
    if (block == NULL || block->size - block->used < rounded) {
        CA_TRY(arena_add_block(arena, rounded > ARENA_BLOCK_SIZE ? rounded : ARENA_BLOCK_SIZE));
        block = arena->first;
    }
    store_pointer(out, (unsigned char *)(block + 1) + block->used);
    block->used += rounded;
out:
    return st;
}

ca_status ca_arena_strdup(ca_arena *arena, const char *text, size_t length, char **out) {
    ca_status st = CA_OK;
    size_t bytes;
    if (!ca_add_size(length, 1, &bytes)) bytes = SIZE_MAX;
    CA_TRY(ca_arena_alloc(arena, bytes, out));
    if (length > 0) memcpy(*out, text, length); /* the rest is zero already */
out:
    return st;
}

ca_status ca_arena_printf(ca_arena *arena, char **out, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0) return ca_fail(CA_E_FAILED, "text '%s': cannot be formatted", format);

    ca_status st = CA_OK;
    CA_TRY(ca_arena_alloc(arena, (size_t)length + 1, out));
    va_start(arguments, format);
    vsnprintf(*out, (size_t)length + 1, format, arguments);
    va_end(arguments);
out:
    return st;
}
