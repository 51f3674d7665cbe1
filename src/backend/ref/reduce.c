/* SPDX-License-Identifier: MIT
 *
 * One number per row on the reference backend.
 */
#include "ref.h"

#include <math.h>
#include <stdlib.h>

ca_status ca_ref_row_norms(ca_backend *be, ca_tensor y, ca_tensor x) {
    (void)be;
    int64_t n = ca_ref_width(&x);
    double *xi = NULL;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(n, &xi));
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        ca_ref_load(&x, row, xi);
        ca_ref_set(&y, row, sqrt(ca_ref_dot(xi, xi, n)));
    }
out:
    free(xi);
    return st;
}

ca_status ca_ref_row_dots(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) {
    (void)be;
    int64_t n = ca_ref_width(&x);
    double *xi = NULL, *wi;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(2 * n, &xi));
    wi = xi + n;
    for (int64_t row = 0; row < ca_ref_rows(&x); row++) {
        ca_ref_load(&x, row, xi);
        ca_ref_load(&w, row, wi);
        ca_ref_set(&y, row, ca_ref_dot(xi, wi, n));
    }
out:
    free(xi);
    return st;
}
