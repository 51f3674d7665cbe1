/* SPDX-License-Identifier: MIT
 *
 * Eigenpairs of F from F itself: its sum over tokens is taken of parts of W, one product of [D,
 * part] and [part, D] each, 2 V D^2 operations in all, and its pairs come from one eigenproblem of
 * D rows on the host in float64. For many pairs this takes less than a Krylov space.
 *
 * The mean is taken off the rows of W before they are weighted: where one token holds nearly all
 * probability, F is a small difference of large numbers otherwise.
 */
#include "fisher_state.h"

#include "causa/ops.h"

#include <math.h>

/* roots [V] = sqrt(p) of read i. */
static ca_status set_roots(jacobian_fisher *f, int64_t i) {
    ca_status st = CA_OK;
    ca_backend *be = f->model->backend;
    int64_t vocab = f->model->arch.vocab;
    double *root = f->p_host; /* free after the traces */
    CA_TRY(ca_download_f64(be, ca_tensor_at(f->p, 0, i), f->staging, root));
    for (int64_t k = 0; k < vocab; k++) root[k] = sqrt(root[k]);
    CA_TRY(ca_upload_f64(be, f->roots, f->staging, root));
out:
    return st;
}

/* f [D, D] = sum over all tokens of p (w - mu) (w - mu)^T at read i. */
static ca_status sum_tokens(jacobian_fisher *f, int64_t i) {
    ca_status st = CA_OK;
    ca_backend *be = f->model->backend;
    int64_t vocab = f->model->arch.vocab;
    ca_tensor mean = ca_tensor_at(f->mu, 0, i);
    for (int64_t from = 0; from < vocab; from += f->part) {
        int64_t count = f->part < vocab - from ? f->part : vocab - from;
        ca_tensor rows = ca_tensor_slice(f->rows, 0, 0, count);
        ca_tensor weighed = ca_tensor_slice(f->weighed, 0, 0, count);
        CA_TRY(ca_copy(be, rows, ca_tensor_slice(f->model->head, 0, from, count)));
        CA_TRY(ca_add(be, rows, ca_tensor_repeat(mean, count), -1));
        CA_TRY(ca_fill(be, weighed, 0));
        CA_TRY(ca_add_scaled_rows(be, weighed, rows, ca_tensor_slice(f->roots, 0, from, count), 1));
        CA_TRY(ca_matmul(be, f->f, weighed, weighed, (ca_tensor){0},
                         (ca_matmul_options){.transpose_a = true, .alpha = 1, .beta = from > 0}));
    }
out:
    return st;
}

/* vectors [rank, 1, D] = sqrt(lambda) u, largest first, of the eigenvectors in f->projected. */
static ca_status store(jacobian_fisher *f, ca_tensor vectors, double *eigenvalues) {
    ca_status st = CA_OK;
    int64_t width = f->model->arch.width;
    double *scaled = f->work; /* [rank, D]; LAPACK is done with it */
    for (int64_t k = 0; k < f->rank; k++) {
        double value = f->spectrum[width - 1 - k];
        eigenvalues[k] = value > 0 ? value : 0;
        for (int64_t d = 0; d < width; d++)
            scaled[k * width + d] =
                sqrt(eigenvalues[k]) * f->projected[(width - 1 - k) * width + d];
    }
    CA_TRY(ca_upload_f64(f->model->backend, f->pairs, f->staging, scaled));
    CA_TRY(ca_copy(f->model->backend, vectors,
                   ca_tensor_3d(f->pairs.data, f->pairs.dtype, f->rank, 1, width)));
out:
    return st;
}

ca_status ca_jacobian_fisher_dense(jacobian_fisher *f, int64_t reads, ca_tensor vectors,
                                   double *eigenvalues) {
    ca_status st = CA_OK;
    for (int64_t i = 0; i < reads; i++) {
        CA_TRY(set_roots(f, i));
        CA_TRY(sum_tokens(f, i));
        CA_TRY(ca_download_f64(f->model->backend, f->f, f->staging, f->projected));
        CA_TRY(ca_jacobian_fisher_decompose(f, f->model->arch.width));
        CA_TRY(store(f, ca_tensor_slice(vectors, 1, i, 1), eigenvalues + i * f->rank));
    }
out:
    return st;
}
