/* SPDX-License-Identifier: MIT
 *
 * Counter-based random numbers: Philox4x32-10.
 * Source: Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
 * Counter words 0 and 1 are our index, words 2 and 3 our stream; the key is the seed.
 */
#include "causa/base.h"

#include <math.h>

enum { PHILOX_ROUNDS = 10 };
static const uint32_t PHILOX_M0 = 0xD2511F53u, PHILOX_M1 = 0xCD9E8D57u; /* multipliers */
static const uint32_t PHILOX_W0 = 0x9E3779B9u, PHILOX_W1 = 0xBB67AE85u; /* key increments */

void ca_philox(ca_philox_key key, uint64_t index, uint32_t out[4]) {
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)key.stream, c3 = (uint32_t)(key.stream >> 32);
    uint32_t k0 = (uint32_t)key.seed, k1 = (uint32_t)(key.seed >> 32);

    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint64_t p0 = (uint64_t)PHILOX_M0 * c0, p1 = (uint64_t)PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

/* Odd multiples of 2^-53: exact in a double, never 0 and never 1. */
static double open_unit(uint32_t low, uint32_t high) {
    uint64_t bits = ((uint64_t)high << 32 | low) >> 12;
    return ((double)bits + 0.5) * 0x1p-52;
}

double ca_philox_uniform(ca_philox_key key, uint64_t index) {
    uint32_t words[4];
    ca_philox(key, index, words);
    return open_unit(words[0], words[1]);
}

double ca_philox_normal(ca_philox_key key, uint64_t index) {
    uint32_t words[4];
    ca_philox(key, index, words);
    double radius = sqrt(-2.0 * log(open_unit(words[0], words[1])));
    return radius * cos(2.0 * M_PI * open_unit(words[2], words[3]));
}

uint64_t ca_stream(const char *name) {
    uint64_t hash = 0xCBF29CE484222325u;
    for (const char *c = name; *c != '\0'; c++)
        hash = (hash ^ (uint64_t)(unsigned char)*c) * 0x100000001B3u;
    return hash;
}
