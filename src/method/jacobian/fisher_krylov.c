/* SPDX-License-Identifier: MIT
 *
 * Largest eigenpairs of F by block Krylov iteration: the products F X = W^T (p * (W X)) - mu (mu .
 * X) of all blocks of a few reads are two matrix products on the backend; the small
 * orthogonalisations and eigenproblems are solved on the host in float64.
 *
 * The first block comes from the Gram matrix of the m most probable rows, sqrt(p) (w - mu): its
 * largest eigenvectors are off by what these rows leave of the trace. Of ten everyday prompts on
 * SmolLM2-135M, peaked ones included, 1024 tokens leave 1 to 7 % of it and 16384 still 0.007 to 0.1
 * % (in an eleventh 3 %), so that the Gram matrix alone would need m near V for the tolerance
 * below; as a start 76 rows save three quarters of the products. At rank 1 and 16 that makes three
 * to five blocks of 2 and 21 vectors, 4 V D operations a vector; F itself takes 2 V D^2.
 */
#include "fisher_state.h"

#include "causa/ops.h"

#include <math.h>
#include <string.h>

enum { FEW_ROWS = 32 };
/* Products with W: the other factor is not rounded with W in bf16, or what cancels in F would be
 * lost and the iteration would not converge. */
static const ca_matmul_options times_w_transposed = {.transpose_b = true, .alpha = 1, .wide = true};

static const double TOLERANCE = 1e-5; /* residual |F u - lambda u| of the largest eigenvalue */

/* ---- host: one read ---- */

/* Makes x orthonormal to the basis (twice: once is not enough for nearly dependent vectors) and
 * appends it; false when nothing of it is left. */
static bool append_vector(fisher_basis *b, const double *x, int64_t width) {
    double *q = b->q + b->size * width, before = sqrt(fisher_dot(x, x, width));
    if (!(before > 0)) return false;
    for (int64_t d = 0; d < width; d++) q[d] = x[d] / before;
    for (int round = 0; round < 2; round++)
        for (int64_t k = 0; k < b->size; k++) {
            double c = fisher_dot(b->q + k * width, q, width);
            for (int64_t d = 0; d < width; d++) q[d] -= c * b->q[k * width + d];
        }
    double norm = sqrt(fisher_dot(q, q, width));
    if (norm < 1e-10) return false;
    for (int64_t d = 0; d < width; d++) q[d] /= norm;
    b->size++;
    return true;
}

/* Appends up to `room` vectors; pseudo-random ones where the candidates are dependent, so that all
 * reads grow alike. */
static void append_block(jacobian_fisher *f, fisher_basis *b, const double *candidates,
                         int64_t stride, int64_t count) {
    ca_philox_key key = {0, ca_stream("jacobian.fisher")};
    int64_t width = f->model->arch.width;
    for (int64_t k = 0; k < count; k++) {
        if (append_vector(b, candidates + k * stride, width)) continue;
        do {
            for (int64_t d = 0; d < width; d++)
                f->random[d] = ca_philox_normal(key, (uint64_t)(b->size * width + d));
            key.seed++;
        } while (!append_vector(b, f->random, width));
    }
}

/* Rayleigh-Ritz in the basis, whose first `size` vectors have their products. */
static ca_status solve(jacobian_fisher *f, fisher_basis *b) {
    ca_status st = CA_OK;
    int64_t m = b->size, width = f->model->arch.width;
    for (int64_t i = 0; i < m; i++)
        for (int64_t k = 0; k <= i; k++)
            f->projected[i * m + k] = fisher_dot(b->q + i * width, b->fq + k * width, width);
    CA_TRY(ca_jacobian_fisher_decompose(f, m));
    b->done = true;
    for (int64_t i = 0; i < f->rank; i++) {
        double *u = b->vector + i * width, residual = 0;
        b->value[i] = f->spectrum[m - 1 - i] > 0 ? f->spectrum[m - 1 - i] : 0;
        memset(u, 0, (size_t)width * sizeof *u);
        memset(f->fu, 0, (size_t)width * sizeof *f->fu);
        double *fu = f->fu;
        for (int64_t k = 0; k < m; k++) {
            double c = f->projected[(m - 1 - i) * m + k];
            for (int64_t d = 0; d < width; d++) {
                u[d] += c * b->q[k * width + d];
                fu[d] += c * b->fq[k * width + d];
            }
        }
        for (int64_t d = 0; d < width; d++)
            residual += (fu[d] - b->value[i] * u[d]) * (fu[d] - b->value[i] * u[d]);
        if (sqrt(residual) > TOLERANCE * b->value[0]) b->done = false;
    }
    if (m == width) b->done = true; /* the whole space */
out:
    return st;
}

/* ---- backend: many reads ---- */

static ca_tensor of_reads(ca_tensor t, int64_t n) {
    return ca_tensor_3d(t.data, t.dtype, t.shape[0], n, t.shape[2]);
}

/* first [count, D] = the eigenvectors of the largest eigenvalues of sum p (w - mu) (w - mu)^T over
 * the m tokens `ids` of read i alone; logits [m] of these, falling, on the host. */
static ca_status combine_likely(jacobian_fisher *f, int64_t i, ca_tensor ids, const double *logits,
                                ca_tensor first) {
    ca_status st = CA_OK;
    ca_backend *be = f->model->backend;
    int64_t m = f->likely, count = first.shape[0];
    ca_tensor mean = ca_tensor_reshape(ca_tensor_slice(f->mu, 0, i, 1), 1, &f->mu.shape[1]);
    ca_tensor mixes = ca_tensor_slice(f->mixes, 0, 0, count);
    CA_TRY(ca_gather(be, f->rows, f->model->head, ids, 1, false));
    CA_TRY(ca_add(be, f->rows, ca_tensor_repeat(mean, m), -1));
    CA_TRY(ca_matmul(be, f->gram, f->rows, f->rows, (ca_tensor){0},
                     (ca_matmul_options){.transpose_b = true, .alpha = 1}));
    CA_TRY(ca_download_f64(be, f->gram, f->staging, f->projected));
    for (int64_t j = 0; j < m; j++) /* probabilities count relative to the largest */
        for (int64_t k = 0; k <= j; k++)
            f->projected[j * m + k] *= exp(0.5 * (logits[j] + logits[k]) - logits[0]);
    CA_TRY(ca_jacobian_fisher_decompose(f, m));
    for (int64_t j = 0; j < count; j++)
        for (int64_t k = 0; k < m; k++)
            f->x_host[j * m + k] =
                f->projected[(m - 1 - j) * m + k] * exp(0.5 * (logits[k] - logits[0]));
    CA_TRY(ca_upload_f64(be, mixes, f->staging, f->x_host));
    CA_TRY(ca_matmul(be, first, mixes, f->rows, (ca_tensor){0}, (ca_matmul_options){.alpha = 1}));
out:
    return st;
}

/* First blocks: what the most probable tokens make of F. */
static ca_status start(jacobian_fisher *f, ca_tensor logits) {
    ca_status st = CA_OK;
    ca_backend *be = f->model->backend;
    int64_t n = logits.shape[0], width = f->model->arch.width, m = f->likely;
    ca_tensor values = ca_tensor_slice(f->top_values, 0, 0, n),
              ids = ca_tensor_slice(f->top_ids, 0, 0, n);
    int64_t count = fisher_min(f->block, m);
    ca_tensor first = ca_tensor_slice(f->first, 0, 0, count);
    double *likely = f->dots_host; /* [n, m], free after the traces */
    CA_TRY(ca_top_k(be, values, ids, logits));
    CA_TRY(ca_download_f64(be, values, f->staging, likely));
    for (int64_t i = 0; i < n; i++) {
        fisher_basis *b = &f->bases[i];
        ca_tensor own = ca_tensor_reshape(ca_tensor_slice(ids, 0, i, 1), 1, &m);
        CA_TRY(combine_likely(f, i, own, likely + i * m, first));
        CA_TRY(ca_download_f64(be, first, f->staging, f->x_host));
        b->size = 0;
        b->done = false;
        append_block(f, b, f->x_host, width, count);
        append_block(f, b, f->x_host, 0,
                     f->block - count); /* a vocabulary smaller than the block */
    }
out:
    return st;
}

/* Sends the last `block` vectors of every basis, and mu . q of each, to the backend. */
static ca_status send_vectors(jacobian_fisher *f, int64_t n, int64_t block, ca_tensor x,
                              ca_tensor means) {
    ca_status st = CA_OK;
    int64_t width = f->model->arch.width, first = f->bases[0].size - block;
    for (int64_t k = 0; k < block; k++)
        for (int64_t i = 0; i < n; i++) {
            const double *q = f->bases[i].q + (first + k) * width;
            memcpy(f->x_host + (k * n + i) * width, q, (size_t)width * sizeof *q);
        }
    CA_TRY(ca_upload_f64(f->model->backend, x, f->staging, f->x_host));
    for (int64_t r = 0; r < block * n; r++)
        f->x_host[r] = fisher_dot(f->mu_host + r % n * width,
                                  f->bases[r % n].q + (first + r / n) * width, width);
    CA_TRY(ca_upload_f64(f->model->backend, means, f->staging, f->x_host));
out:
    return st;
}

/* fx [rows, D] (+)= sum_i p_i y_i w_i and sums [rows] (+)= sum_i p_i y_i over the tokens [from,
 * from
 * + count), y_i = w_i . x - means; x [block, n, D], rows = block n. */
static ca_status add_tokens(jacobian_fisher *f, ca_tensor x, int64_t from, int64_t count,
                            ca_tensor sums) {
    ca_status st = CA_OK;
    ca_backend *be = f->model->backend;
    int64_t block = x.shape[0], n = x.shape[1], width = x.shape[2], rows = block * n;
    ca_tensor head = ca_tensor_slice(f->model->head, 0, from, count);
    ca_tensor y = ca_tensor_2d(f->product.data, f->product.dtype, rows, count);
    ca_tensor y_of_reads = ca_tensor_3d(y.data, y.dtype, block, n, count);
    ca_tensor p = ca_tensor_slice(ca_tensor_slice(f->p, 0, 0, n), 1, from, count);
    ca_tensor fx = ca_tensor_2d(f->fx.data, f->fx.dtype, rows, width);
    ca_tensor means = ca_tensor_2d(f->means.data, f->means.dtype, rows, 1);
    ca_tensor ones = ca_tensor_slice(f->ones, 0, 0, count), none = {0};
    CA_TRY(ca_matmul(be, y, ca_tensor_2d(x.data, x.dtype, rows, width), head, none,
                     times_w_transposed));
    CA_TRY(ca_matmul(be, y, means, ca_tensor_repeat(ones, 1), none,
                     (ca_matmul_options){.alpha = -1, .beta = 1}));
    CA_TRY(ca_multiply(be, y_of_reads, y_of_reads, ca_tensor_repeat(p, block)));
    CA_TRY(ca_row_dots(be, sums, y, ca_tensor_repeat(ones, rows)));
    CA_TRY(ca_matmul(be, fx, y, head, none,
                     (ca_matmul_options){.alpha = 1, .beta = from > 0, .wide = true}));
out:
    return st;
}

/* fq of the last `block` vectors of every basis: F q = sum_i p_i y_i (w_i - mu), y_i = w_i . q - mu
 * . q. The mean is taken off y before it is weighted: where one token holds nearly all probability,
 * F is a small difference of large numbers otherwise. With few vectors W is read in parts that stay
 * in the processor's cache for the second product. */
static ca_status multiply(jacobian_fisher *f, int64_t n, int64_t block) {
    ca_status st = CA_OK;
    const ca_model *m = f->model;
    int64_t width = m->arch.width, vocab = m->arch.vocab, first = f->bases[0].size - block;
    ca_tensor x = ca_tensor_slice(of_reads(f->x, n), 0, 0, block);
    ca_tensor fx = ca_tensor_slice(of_reads(f->fx, n), 0, 0, block);
    int64_t rows = block * n, part = rows <= FEW_ROWS ? f->part : vocab, parts = 0;
    ca_tensor means = ca_tensor_1d(f->means.data, f->means.dtype, rows);
    ca_tensor sums = ca_tensor_2d(f->sums.data, f->sums.dtype, f->parts, rows);
    CA_TRY(send_vectors(f, n, block, x, means));
    for (int64_t from = 0; from < vocab; from += part, parts++)
        CA_TRY(add_tokens(f, x, from, fisher_min(part, vocab - from),
                          ca_tensor_reshape(ca_tensor_slice(sums, 0, parts, 1), 1, &rows)));
    CA_TRY(
        ca_download_f64(m->backend, ca_tensor_slice(sums, 0, 0, parts), f->staging, f->sums_host));
    CA_TRY(ca_download_f64(m->backend, fx, f->staging, f->x_host));
    for (int64_t r = 0; r < rows; r++) {
        const double *mu = f->mu_host + r % n * width;
        double *fq = f->bases[r % n].fq + (first + r / n) * width, sum = 0;
        for (int64_t k = 0; k < parts; k++) sum += f->sums_host[k * rows + r];
        for (int64_t d = 0; d < width; d++) fq[d] = f->x_host[r * width + d] - sum * mu[d];
    }
out:
    return st;
}

/* What has converged stays as it is, so that a read's pairs do not depend on the reads beside it.
 */
static ca_status solve_all(jacobian_fisher *f, int64_t n, bool *done) {
    ca_status st = CA_OK;
    *done = true;
    for (int64_t i = 0; i < n; i++) {
        if (!f->bases[i].done) CA_TRY(solve(f, &f->bases[i]));
        *done = *done && f->bases[i].done;
    }
out:
    return st;
}

/* Grows all bases of a chunk together until the pairs of all have converged. */
static ca_status iterate(jacobian_fisher *f, ca_tensor logits) {
    ca_status st = CA_OK;
    int64_t n = logits.shape[0], width = f->model->arch.width, block = f->block;
    bool done = false;
    CA_TRY(start(f, logits));
    for (;;) {
        CA_TRY(multiply(f, n, block));
        CA_TRY(solve_all(f, n, &done));
        if (done) return CA_OK;
        int64_t last = f->bases[0].size - block, room = f->most - f->bases[0].size;
        if (room == 0) break;
        block = fisher_min(block, room);
        for (int64_t i = 0; i < n; i++)
            append_block(f, &f->bases[i], f->bases[i].fq + last * width, width, block);
    }
    st = ca_fail(CA_E_NUMERIC,
                 "fisher: %lld eigenpairs have not converged to %g of the largest after %lld "
                 "products: lower method.rank",
                 (long long)f->rank, TOLERANCE, (long long)f->most);
out:
    return st;
}

/* vectors [rank, n, D]: sqrt(lambda) u. */
static ca_status store(jacobian_fisher *f, int64_t n, ca_tensor vectors, double *eigenvalues) {
    ca_status st = CA_OK;
    int64_t width = f->model->arch.width;
    for (int64_t i = 0; i < n; i++)
        memcpy(eigenvalues + i * f->rank, f->bases[i].value, (size_t)f->rank * sizeof(double));
    for (int64_t k = 0; k < f->rank; k++) {
        for (int64_t i = 0; i < n; i++)
            for (int64_t d = 0; d < width; d++)
                f->x_host[i * width + d] =
                    sqrt(f->bases[i].value[k]) * f->bases[i].vector[k * width + d];
        ca_tensor lane = ca_tensor_at(vectors, 0, k);
        CA_TRY(ca_upload_f64(f->model->backend, lane, f->staging, f->x_host));
    }
out:
    return st;
}

ca_status ca_jacobian_fisher_krylov(jacobian_fisher *f, ca_tensor logits, ca_tensor vectors,
                                    double *eigenvalues) {
    ca_status st = CA_OK;
    CA_TRY(iterate(f, logits));
    CA_TRY(store(f, logits.shape[0], vectors, eigenvalues));
out:
    return st;
}
