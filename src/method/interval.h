/* SPDX-License-Identifier: MIT
 *
 * Confidence intervals of means over draws and over prompts.
 */
#ifndef CAUSA_METHOD_INTERVAL_H
#define CAUSA_METHOD_INTERVAL_H

#include <stdint.h>

/* Half the width of the 95 % interval of a mean (Student's t) of `count` values whose squared
 * deviations from it sum to `squares`; NaN for fewer than two values. */
double ca_method_half_width(double squares, int64_t count);

#endif
