/* SPDX-License-Identifier: MIT
 *
 * Layer and RMS norm of the reference backend, forward and backward.
 *
 * Sources: Ba et al. 2016, "Layer normalization"; Zhang and Sennrich 2019, "Root mean square layer
 * normalization".
 */
#include "ref.h"

#include <math.h>
#include <stdlib.h>

/* unit [D]: the row before the gain. Returns 1 / sqrt(var + epsilon), or of the mean square. */
static double normalize(const double *x, int64_t n, ca_norm norm, double *unit) {
    double mean = 0, square = 0;
    if (norm.kind == CA_NORM_LAYER) {
        for (int64_t d = 0; d < n; d++) mean += x[d];
        mean /= (double)n;
    }
    for (int64_t d = 0; d < n; d++) square += (x[d] - mean) * (x[d] - mean);
    double inverse = 1 / sqrt(square / (double)n + norm.epsilon);
    for (int64_t d = 0; d < n; d++) unit[d] = (x[d] - mean) * inverse;
    return inverse;
}

ca_status ca_ref_norm_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor gain, ca_tensor bias,
                          ca_norm norm) {
    (void)be;
    int64_t n = ca_ref_width(&x);
    double *scratch = NULL;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(4 * n, &scratch));
    double *xi = scratch, *unit = xi + n, *g = unit + n, *b = g + n;
    ca_ref_load(&gain, 0, g);
    if (bias.data) ca_ref_load(&bias, 0, b); /* else zeros */
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        ca_ref_load(&x, row, xi);
        normalize(xi, n, norm, unit);
        for (int64_t d = 0; d < n; d++) xi[d] = unit[d] * (norm.gain_offset + g[d]) + b[d];
        ca_ref_store(&y, row, xi);
    }
out:
    free(scratch);
    return st;
}

/* With u the normalised row, g = dy (gain_offset + gain) and s the inverse deviation:
 *   layer  dx = s (g - mean(g) - u mean(g u))
 *   RMS    dx = s (g - u mean(g u)) */
ca_status ca_ref_norm_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x, ca_tensor gain,
                          ca_norm norm, bool accumulate) {
    (void)be;
    int64_t n = ca_ref_width(&x);
    double *scratch = NULL;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(5 * n, &scratch));
    double *xi = scratch, *unit = xi + n, *weight = unit + n, *g = weight + n, *dxi = g + n;
    ca_ref_load(&gain, 0, weight);
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        ca_ref_load(&x, row, xi);
        ca_ref_load(&dy, row, g);
        if (accumulate) ca_ref_load(&dx, row, dxi);
        double inverse = normalize(xi, n, norm, unit), mean = 0, along = 0;
        for (int64_t d = 0; d < n; d++) {
            g[d] *= norm.gain_offset + weight[d];
            mean += norm.kind == CA_NORM_LAYER ? g[d] / (double)n : 0;
            along += g[d] * unit[d] / (double)n;
        }
        for (int64_t d = 0; d < n; d++)
            dxi[d] = (accumulate ? dxi[d] : 0) + inverse * (g[d] - mean - unit[d] * along);
        ca_ref_store(&dx, row, dxi);
    }
out:
    free(scratch);
    return st;
}

ca_status ca_ref_norm_stats(ca_backend *be, ca_tensor xhat, ca_tensor inverse, ca_tensor x,
                            ca_norm norm) {
    (void)be;
    int64_t n = ca_ref_width(&x);
    double *xi = NULL, *unit;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(2 * n, &xi));
    unit = xi + n;
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        ca_ref_load(&x, row, xi);
        ca_ref_set(&inverse, row, normalize(xi, n, norm, unit));
        ca_ref_store(&xhat, row, unit);
    }
out:
    free(xi);
    return st;
}
