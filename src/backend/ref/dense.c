/* SPDX-License-Identifier: MIT
 *
 * Matrix products of the reference backend.
 */
#include "ref.h"

#include <stdlib.h>
#include <string.h>

/* Columns computed together. A panel of op(b) this wide stays in cache while every row of op(a)
 * passes over it, so the plain loops below take seconds, not minutes, for whole models. */
enum { PANEL = 64 };

/* One of the matrices of a batch, counted along all its axes, as [rows, columns]. */
static ca_tensor matrix_at(ca_tensor t, int64_t number) {
    for (; t.rank > 2; t = ca_tensor_at(t, t.rank - 3, 0)) {
        const int64_t count = t.shape[t.rank - 3];
        t = ca_tensor_slice(t, t.rank - 3, number % count, 1);
        number /= count;
    }
    return t;
}

/* line = row i of op(a): a row of a, or a column when transposed */
static void load_line(const ca_tensor *t, bool transposed, int64_t i, double *line) {
    if (!transposed) {
        ca_ref_load(t, i, line);
        return;
    }
    for (int64_t k = 0; k < t->shape[0]; k++) line[k] = ca_ref_get(t, k * t->shape[1] + i);
}

/* panel [K, PANEL] = columns [first, first + count) of op(b), zero beyond them. */
static void load_panel(const ca_tensor *b, bool transposed, int64_t first, int64_t count,
                       int64_t inner, double *row, double *panel) {
    memset(panel, 0, (size_t)(inner * PANEL) * sizeof *panel);
    if (!transposed) {
        ca_tensor columns = ca_tensor_slice(*b, 1, first, count);
        for (int64_t k = 0; k < inner; k++) ca_ref_load(&columns, k, panel + k * PANEL);
        return;
    }
    for (int64_t j = 0; j < count; j++) {
        ca_ref_load(b, first + j, row);
        for (int64_t k = 0; k < inner; k++) panel[k * PANEL + j] = row[k];
    }
}

/* sum [PANEL] = sum over k, in rising order, of a[k] panel[k, :] */
static void multiply_row(const double *a, const double *panel, int64_t inner, double *sum) {
    for (int j = 0; j < PANEL; j++) sum[j] = 0;
    for (int64_t k = 0; k < inner; k++)
        for (int j = 0; j < PANEL; j++) sum[j] += a[k] * panel[k * PANEL + j];
}

static void multiply_matrix(const ca_tensor *c, const ca_tensor *a, const ca_tensor *b,
                            const ca_tensor *bias, ca_matmul_options options, int64_t inner,
                            double *scratch) {
    double *row = scratch, *panel = row + inner, *lines = panel + inner * PANEL, sum[PANEL];
    int64_t m = c->shape[0], n = c->shape[1];
    for (int64_t i = 0; i < m; i++) load_line(a, options.transpose_a, i, lines + i * inner);
    if (b->dtype == CA_BF16 && !options.wide) ca_ref_round_bf16(lines, m * inner);
    for (int64_t first = 0; first < n; first += PANEL) {
        int64_t count = n - first < PANEL ? n - first : PANEL;
        load_panel(b, options.transpose_b, first, count, inner, row, panel);
        for (int64_t i = 0; i < m; i++) {
            multiply_row(lines + i * inner, panel, inner, sum);
            for (int64_t j = 0; j < count; j++) {
                double value = options.alpha * sum[j];
                if (options.beta != 0) value += options.beta * ca_ref_get(c, i * n + first + j);
                if (bias->data) value += ca_ref_get(bias, first + j);
                ca_ref_set(c, i * n + first + j, value);
            }
        }
    }
}

ca_status ca_ref_matmul(ca_backend *be, ca_tensor c, ca_tensor a, ca_tensor b, ca_tensor bias,
                        ca_matmul_options options) {
    (void)be;
    int64_t batches = 1;
    for (int axis = 0; axis < c.rank - 2; axis++) batches *= c.shape[axis];
    int64_t inner = a.shape[a.rank - (options.transpose_a ? 2 : 1)];
    double *scratch = NULL; /* one line of b, one panel, all lines of a */
    ca_status st = CA_OK;
    int64_t rows = c.shape[c.rank - 2];
    CA_TRY(ca_ref_scratch(inner * (1 + PANEL + rows), &scratch));
    for (int64_t i = 0; i < batches; i++) {
        ca_tensor ci = matrix_at(c, i), ai = matrix_at(a, i), bi = matrix_at(b, i);
        multiply_matrix(&ci, &ai, &bi, &bias, options, inner, scratch);
    }
out:
    free(scratch);
    return st;
}
