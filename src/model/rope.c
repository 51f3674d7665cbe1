/* SPDX-License-Identifier: MIT
 *
 * Rotary tables, computed in f64 and rounded once. Called by the loader.
 */
#include "rope.h"

#include <math.h>
#include <string.h>

static const double PI = 3.14159265358979323846;

/* Long waves are slowed by `factor`, short ones kept, those in between interpolated. */
static double llama3_frequency(double f, const ca_rope_config *rope) {
    double wave = 2 * PI / f, original = (double)rope->original_max_positions;
    if (wave < original / rope->high_freq_factor) return f;
    if (wave > original / rope->low_freq_factor) return f / rope->factor;
    double s = (original / wave - rope->low_freq_factor) /
               (rope->high_freq_factor - rope->low_freq_factor);
    return (1 - s) * f / rope->factor + s * f;
}

void ca_rope_frequencies(double *frequency, const ca_rope_config *rope,
                         const unsigned char *divisors) {
    for (int64_t i = 0; i < rope->dim / 2; i++) {
        double f = pow(rope->theta, -2.0 * (double)i / (double)rope->dim);
        if (rope->kind == CA_ROPE_LINEAR) f /= rope->factor;
        if (rope->kind == CA_ROPE_LLAMA3) f = llama3_frequency(f, rope);
        if (divisors != NULL) {
            float divisor;
            memcpy(&divisor, divisors + (size_t)i * sizeof divisor, sizeof divisor);
            f /= (double)divisor;
        }
        frequency[i] = f;
    }
}

static void store(void *out, ca_dtype dtype, int64_t at, double value) {
    if (dtype == CA_F32)
        ((float *)out)[at] = (float)value;
    else
        ((double *)out)[at] = value;
}

void ca_rope_rows(void *cosine, void *sine, ca_dtype dtype, const double *frequency, int64_t pairs,
                  int64_t first, int64_t count, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t p = 0; p < count; p++)
        for (int64_t i = 0; i < pairs; i++) {
            double angle = (double)(first + p) * frequency[i];
            store(cosine, dtype, p * pairs + i, cos(angle));
            store(sine, dtype, p * pairs + i, sin(angle));
        }
}
