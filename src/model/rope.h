/* SPDX-License-Identifier: MIT
 *
 * Rotary tables.
 */
#ifndef CAUSA_MODEL_ROPE_H
#define CAUSA_MODEL_ROPE_H

#include "causa/model.h"

/* Angle per position of each pair.
 *
 * frequency  [dim / 2]
 * divisors   [dim / 2] f32 at any address, or NULL
 *
 * Source: Su et al. 2021, "RoFormer", 3.2.2 (default); Chen et al. 2023, "Extending Context Window
 * of Large Language Models via Positional Interpolation" (linear). llama3: the scaling that Llama
 * 3.1 was released with. */
void ca_rope_frequencies(double *frequency, const ca_rope_config *rope,
                         const unsigned char *divisors);
/* cosine, sine [count, dim / 2] of positions first, first + 1, …; in f32 or f64, from angles in
 * f64. */
void ca_rope_rows(void *cosine, void *sine, ca_dtype dtype, const double *frequency, int64_t pairs,
                  int64_t first, int64_t count, int threads);

#endif
