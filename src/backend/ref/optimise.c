/* SPDX-License-Identifier: MIT
 *
 * Optimiser steps of the reference backend.
 *
 * Sources: Kingma and Ba 2015, "Adam: a method for stochastic optimization"; Loshchilov and Hutter
 * 2019, "Decoupled weight decay regularization".
 */
#include "ref.h"

#include <math.h>
#include <stdlib.h>

/* One element; theta, m and v are the papers' parameter and moments, g the gradient. */
static void step(double *theta, double *m, double *v, double g, ca_adam a) {
    *m = a.beta1 * *m + (1 - a.beta1) * g;
    *v = a.beta2 * *v + (1 - a.beta2) * g * g;
    double mean = *m / (1 - pow(a.beta1, (double)a.step));
    double square = *v / (1 - pow(a.beta2, (double)a.step));
    *theta -= a.learning_rate * a.weight_decay * *theta;
    *theta -= a.learning_rate * mean / (sqrt(square) + a.epsilon);
    if (*theta < a.lower) *theta = a.lower;
    if (*theta > a.upper) *theta = a.upper;
}

ca_status ca_ref_adam_step(ca_backend *be, ca_tensor parameter, ca_tensor first, ca_tensor second,
                           ca_tensor gradient, ca_adam adam) {
    (void)be;
    int64_t n = ca_ref_width(&parameter);
    double *theta = NULL, *m, *v, *g;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(4 * n, &theta));
    m = theta + n;
    v = m + n;
    g = v + n;
    for (int64_t row = 0; row < ca_ref_rows(&parameter); row++) {
        ca_ref_load(&parameter, row, theta);
        ca_ref_load(&first, row, m);
        ca_ref_load(&second, row, v);
        ca_ref_load(&gradient, row, g);
        for (int64_t d = 0; d < n; d++) step(&theta[d], &m[d], &v[d], g[d], adam);
        ca_ref_store(&parameter, row, theta);
        ca_ref_store(&first, row, m);
        ca_ref_store(&second, row, v);
    }
out:
    free(theta);
    return st;
}
