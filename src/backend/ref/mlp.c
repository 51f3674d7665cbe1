/* SPDX-License-Identifier: MIT
 *
 * Activations of the reference backend, plain and gated.
 *
 * Sources: Hendrycks and Gimpel 2016, "Gaussian error linear units" (both forms of GELU);
 * Elfwing et al. 2018, "Sigmoid-weighted linear units"; Shazeer 2020, "GLU variants".
 */
#include "ref.h"

#include <math.h>
#include <stdlib.h>

static const double pi = 3.14159265358979323846;

/* The value at x and the slope there. */
typedef struct activation {
    double value, slope;
} activation;

static activation activate(ca_activation kind, double x) {
    switch (kind) {
    case CA_GELU: {
        double phi = erfc(-x / sqrt(2)) / 2, density = exp(-x * x / 2) / sqrt(2 * pi);
        return (activation){x * phi, phi + x * density};
    }
    case CA_GELU_TANH: {
        double t = tanh(sqrt(2 / pi) * (x + 0.044715 * x * x * x));
        /* 1 - t^2 is zero where x^2 overflows, and 0 times infinity is not */
        double bend = t * t < 1 ? (1 - t * t) * x * sqrt(2 / pi) * (1 + 0.134145 * x * x) : 0;
        return (activation){x * (1 + t) / 2, (1 + t + bend) / 2};
    }
    case CA_SILU: {
        double sigmoid = 1 / (1 + exp(-x));
        return (activation){x * sigmoid, sigmoid * (1 + x * (1 - sigmoid))};
    }
    case CA_RELU:
        return (activation){x > 0 ? x : 0 * x, x > 0}; /* 0 * x keeps NaN */
    }
    return (activation){(double)NAN, (double)NAN};
}

ca_status ca_ref_act_fwd(ca_backend *be, ca_tensor y, ca_tensor x, ca_activation kind, bool gated) {
    (void)be;
    int64_t n = ca_ref_width(&y);
    double *xi = NULL; /* [F], or gate [F] and up [F] */
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(ca_ref_width(&x), &xi));
    for (int64_t row = 0; row < ca_ref_rows(&y); row++) {
        ca_ref_load(&x, row, xi);
        for (int64_t f = 0; f < n; f++)
            xi[f] = activate(kind, xi[f]).value * (gated ? xi[n + f] : 1);
        ca_ref_store(&y, row, xi);
    }
out:
    free(xi);
    return st;
}

/* y = act(gate) up:  d gate = dy up act'(gate),  d up = dy act(gate) */
ca_status ca_ref_act_bwd(ca_backend *be, ca_tensor dx, ca_tensor dy, ca_tensor x,
                         ca_activation kind, bool gated) {
    (void)be;
    int64_t n = ca_ref_width(&dy);
    double *xi = NULL, *dyi;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(3 * n, &xi));
    dyi = xi + 2 * n;
    for (int64_t row = 0; row < ca_ref_rows(&dy); row++) {
        ca_ref_load(&x, row, xi);
        ca_ref_load(&dy, row, dyi);
        for (int64_t f = 0; f < n; f++) {
            activation a = activate(kind, xi[f]);
            xi[f] = dyi[f] * a.slope * (gated ? xi[n + f] : 1);
            if (gated) xi[n + f] = dyi[f] * a.value;
        }
        ca_ref_store(&dx, row, xi);
    }
out:
    free(xi);
    return st;
}
