/* SPDX-License-Identifier: MIT
 *
 * See interval.h.
 */
#include "interval.h"

#include <math.h>

/* 97.5 % quantile of Student's t. Above the table by the expansion of Fisher and Cornish in
 * 1 / freedom, which there is right to four digits. */
static double quantile(int64_t freedom) {
    static const double table[] = {12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646,
                                   2.3060,  2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
                                   2.1314,  2.1199, 2.1098, 2.1009, 2.0930, 2.0860};
    const int64_t rows = sizeof table / sizeof *table;
    double z = 1.959964, z3 = z * z * z, z5 = z3 * z * z, v = (double)freedom;
    if (freedom <= rows) return table[freedom - 1];
    return z + (z3 + z) / (4 * v) + (5 * z5 + 16 * z3 + 3 * z) / (96 * v * v);
}

double ca_method_half_width(double squares, int64_t count) {
    if (count < 2) return NAN;
    return quantile(count - 1) * sqrt(squares / (double)(count - 1) / (double)count);
}
