/* SPDX-License-Identifier: MIT
 *
 * Little-endian numbers at any address of a file map. Both weight formats are little-endian, and
 * so is every machine that the project builds for.
 */
#ifndef CAUSA_MODEL_BYTES_H
#define CAUSA_MODEL_BYTES_H

#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "weight files are little-endian");

static inline uint16_t ca_read_u16(const unsigned char *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint32_t ca_read_u32(const unsigned char *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t ca_read_u64(const unsigned char *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

#endif
