/* SPDX-License-Identifier: MIT
 *
 * Rows of the reference backend: chosen, added, summed over heads.
 */
#include "ref.h"

#include <stdlib.h>

/* The index lives in backend memory, so ops.c cannot look at it; here it costs nothing. */
static ca_status check_index(const char *operation, const ca_tensor *index, int64_t rows,
                             bool increasing) {
    for (int64_t i = 0; i < index->shape[0]; i++) {
        int64_t value = ca_ref_index(index, i);
        if (value < 0 || value >= rows)
            return ca_fail(CA_E_SHAPE, "%s: index[%lld]: expected a row from 0 to %lld, got %lld",
                           operation, (long long)i, (long long)rows - 1, (long long)value);
        if (increasing && i > 0 && value <= ca_ref_index(index, i - 1))
            return ca_fail(CA_E_SHAPE, "%s: index[%lld]: expected more than %lld, got %lld",
                           operation, (long long)i, (long long)ca_ref_index(index, i - 1),
                           (long long)value);
    }
    return CA_OK;
}

ca_status ca_ref_gather(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor index, double scale,
                        bool accumulate) {
    (void)be;
    int64_t width = ca_ref_width(&y), n = index.shape[0], from = x.shape[x.rank - 2];
    double *xi = NULL, *yi;
    ca_status st = CA_OK;
    CA_TRY(check_index("gather", &index, from, false));
    CA_TRY(ca_ref_scratch(2 * width, &xi));
    yi = xi + width;
    for (int64_t row = 0; row < ca_ref_rows(&y); row++) {
        ca_ref_load(&x, row / n * from + ca_ref_index(&index, row % n), xi);
        if (accumulate) ca_ref_load(&y, row, yi);
        for (int64_t d = 0; d < width; d++) yi[d] = scale * xi[d] + (accumulate ? yi[d] : 0);
        ca_ref_store(&y, row, yi);
    }
out:
    free(xi);
    return st;
}

/* y row += alpha x row; buffers of one row each */
static void add_row(const ca_tensor *y, int64_t y_row, const ca_tensor *x, int64_t x_row,
                    double alpha, double *buffer) {
    int64_t width = ca_ref_width(y);
    double *yi = buffer, *xi = buffer + width;
    ca_ref_load(y, y_row, yi);
    ca_ref_load(x, x_row, xi);
    for (int64_t d = 0; d < width; d++) yi[d] += alpha * xi[d];
    ca_ref_store(y, y_row, yi);
}

ca_status ca_ref_scatter_add(ca_backend *be, ca_tensor y, ca_tensor index, ca_tensor x) {
    (void)be;
    int64_t n = index.shape[0], into = y.shape[y.rank - 2];
    double *buffer = NULL;
    ca_status st = CA_OK;
    CA_TRY(check_index("scatter_add", &index, into, true));
    CA_TRY(ca_ref_scratch(2 * ca_ref_width(&y), &buffer));
    for (int64_t row = 0; row < ca_ref_rows(&x); row++)
        add_row(&y, row / n * into + ca_ref_index(&index, row % n), &x, row, 1, buffer);
out:
    free(buffer);
    return st;
}

ca_status ca_ref_add(ca_backend *be, ca_tensor y, ca_tensor x, double alpha) {
    (void)be;
    double *buffer = NULL;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(2 * ca_ref_width(&y), &buffer));
    for (int64_t row = 0; row < ca_ref_rows(&y); row++) add_row(&y, row, &x, row, alpha, buffer);
out:
    free(buffer);
    return st;
}

ca_status ca_ref_add_scaled_rows(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor scale,
                                 double alpha) {
    (void)be;
    int64_t width = ca_ref_width(&y);
    double *yi = NULL, *xi;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(2 * width, &yi));
    xi = yi + width;
    for (int64_t row = 0; row < ca_ref_rows(&y); row++) {
        double factor = alpha * ca_ref_get(&scale, row);
        ca_ref_load(&y, row, yi);
        ca_ref_load(&x, row, xi);
        for (int64_t d = 0; d < width; d++) yi[d] += factor * xi[d];
        ca_ref_store(&y, row, yi);
    }
out:
    free(yi);
    return st;
}

ca_status ca_ref_multiply(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor w) {
    (void)be;
    int64_t width = ca_ref_width(&y);
    double *xi = NULL, *wi;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(2 * width, &xi));
    wi = xi + width;
    for (int64_t row = 0; row < ca_ref_rows(&y); row++) {
        ca_ref_load(&x, row, xi);
        ca_ref_load(&w, row, wi);
        for (int64_t d = 0; d < width; d++) xi[d] *= wi[d];
        ca_ref_store(&y, row, xi);
    }
out:
    free(xi);
    return st;
}

ca_status ca_ref_sum_heads(ca_backend *be, ca_tensor y, ca_tensor x, ca_tensor bias) {
    (void)be;
    int64_t heads = x.shape[1], width = ca_ref_width(&y);
    double *sum = NULL, *term;
    ca_status st = CA_OK;
    CA_TRY(ca_ref_scratch(2 * width, &sum));
    term = sum + width;
    for (int64_t t = 0; t < y.shape[0]; t++) {
        for (int64_t d = 0; d < width; d++) sum[d] = 0;
        for (int64_t h = 0; h < heads; h++) {
            ca_ref_load(&x, t * heads + h, term);
            for (int64_t d = 0; d < width; d++) sum[d] += term[d];
        }
        if (bias.data) {
            ca_ref_load(&bias, 0, term);
            for (int64_t d = 0; d < width; d++) sum[d] += term[d];
        }
        ca_ref_store(&y, t, sum);
    }
out:
    free(sum);
    return st;
}
