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
#include "fisher.h"
#include "common.h"

#include "causa/ops.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FEW_ROWS = 32, PART = 1 << 21 /* elements of W */ };
enum { MOST_VECTORS = 96, MOST_PRODUCT = 1 << 24 /* elements of [rows, V] */ };
/* Products with W: the other factor is not rounded with W in bf16, or what cancels in F would be
 * lost and the iteration would not converge. */
static const ca_matmul_options times_w = {.alpha = 1, .wide = true};
static const ca_matmul_options times_w_transposed = {.transpose_b = true, .alpha = 1, .wide = true};

static const double TOLERANCE = 1e-5; /* residual |F u - lambda u| of the largest eigenvalue */

/* The Krylov basis of one read, on the host. */
typedef struct basis {
    int64_t size;   /* vectors in q and fq */
    double *q, *fq; /* [most, D] orthonormal vectors and F times them */
    double *value;  /* [rank] */
    double *vector; /* [rank, D] unit eigenvectors */
    bool done;
} basis;

struct jacobian_fisher {
    const ca_model *model;
    int64_t most_reads, rank, block, most; /* most: vectors of a basis */
    int64_t chunk;                         /* reads of one product */
    int64_t likely;                        /* m, rows of the Gram matrix */
    int64_t part, parts;                   /* tokens of a part of W, and how many parts there are */
    method_buffers buffers;
    ca_tensor p, x, product, fx, mu, row_square, top_values, top_ids;
    ca_tensor rows, gram;   /* [m, D] w - mu of one read, [m, m] their dot products */
    ca_tensor mixes, first; /* [block, m] and [block, D] the first block as sums of these rows */
    ca_tensor best, rest;   /* [n, D] row c of the most probable token; sum of the others' p w */
    ca_tensor ones, means, sums; /* [V] of ones, [block n] mu . q, [parts, block n] sum of p * y */
    basis *bases;                /* [chunk] */
    double *mu_host;             /* [chunk, D] */
    double *best_host;           /* [chunk, D] c */
    double *square_host;         /* [V] |w|^2 */
    double *p_host, *dots_host;  /* [chunk, V] p, and w . c */
    double *x_host;              /* [block, chunk, D] or [block, m] */
    double *sums_host;           /* [parts, block, chunk] */
    double *projected;           /* [most, most] or [m, m] */
    double *spectrum;            /* [most] or [m] */
    double *random;              /* [D] */
    void *staging;
};

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

static void set_sizes(jacobian_fisher *f, const ca_arch *a, int64_t most_reads, int64_t rank) {
    f->most_reads = most_reads;
    f->rank = min64(rank, a->width);
    /* the sought pairs come with more that make them converge sooner */
    f->block = min64(f->rank + 1 + f->rank / 4, a->width);
    f->most = min64(f->block * 12 > MOST_VECTORS ? f->block * 12 : MOST_VECTORS, a->width);
    f->part = PART / a->width + 1;
    f->parts = (a->vocab + f->part - 1) / f->part;
    f->likely = min64(64 + 12 * f->rank, a->vocab);
    f->chunk = min64(most_reads, MOST_PRODUCT / (f->block * a->vocab) + 1);
}

/* The tensors; with buffers == NULL they are only measured. */
static int64_t take_tensors(jacobian_fisher *f, const ca_arch *a, ca_dtype dtype,
                            method_buffers *buffers) {
    int64_t n = f->chunk, m = f->likely;
    const method_tensor list[] = {
        {&f->p, dtype, 2, {n, a->vocab}},
        {&f->x, dtype, 3, {f->block, n, a->width}},
        {&f->product, dtype, 3, {f->block, n, a->vocab}},
        {&f->fx, dtype, 3, {f->block, n, a->width}},
        {&f->mu, dtype, 2, {n, a->width}},
        {&f->row_square, dtype, 1, {a->vocab}},
        {&f->best, dtype, 2, {n, a->width}},
        {&f->rest, dtype, 2, {n, a->width}},
        {&f->ones, dtype, 1, {a->vocab}},
        {&f->means, dtype, 1, {f->block * n}},
        {&f->sums, dtype, 2, {f->parts, f->block * n}},
        {&f->top_values, dtype, 2, {n, m}},
        {&f->top_ids, CA_I32, 2, {n, m}},
        {&f->rows, dtype, 2, {m, a->width}},
        {&f->gram, dtype, 2, {m, m}},
        {&f->mixes, dtype, 2, {f->block, m}},
        {&f->first, dtype, 2, {f->block, a->width}},
    };
    return ca_method_take_list(buffers, list, sizeof list / sizeof *list);
}

int64_t ca_jacobian_fisher_bytes(const ca_arch *arch, ca_dtype dtype, int64_t most_reads,
                                 int64_t rank) {
    jacobian_fisher f = {0};
    set_sizes(&f, arch, most_reads, rank);
    return take_tensors(&f, arch, dtype, NULL);
}

double ca_jacobian_fisher_flops(const ca_arch *arch, int64_t rank) {
    jacobian_fisher f = {0};
    set_sizes(&f, arch, 1, rank);
    double blocks = f.block == arch->width ? 1 : 3.5; /* as many as it usually takes */
    return 4.0 * blocks * (double)f.block * (double)arch->vocab * (double)arch->width;
}

void ca_jacobian_fisher_free(jacobian_fisher *f) {
    if (!f) return;
    ca_method_buffers_free(&f->buffers);
    for (int64_t i = 0; f->bases && i < f->chunk; i++) {
        free(f->bases[i].q);
        free(f->bases[i].fq);
        free(f->bases[i].value);
        free(f->bases[i].vector);
    }
    free(f->bases);
    free(f->mu_host);
    free(f->best_host);
    free(f->square_host);
    free(f->p_host);
    free(f->dots_host);
    free(f->x_host);
    free(f->sums_host);
    free(f->projected);
    free(f->spectrum);
    free(f->random);
    free(f->staging);
    free(f);
}

/* |w|^2 of all tokens, of a few rows of W at a time, which may be stored in bf16. */
static ca_status set_squares(jacobian_fisher *f) {
    ca_status st = CA_OK;
    ca_backend *be = f->model->backend;
    for (int64_t from = 0, vocab = f->model->arch.vocab; from < vocab; from += f->likely) {
        int64_t count = min64(f->likely, vocab - from);
        ca_tensor rows = ca_tensor_slice(f->rows, 0, 0, count);
        CA_TRY(ca_copy(be, rows, ca_tensor_slice(f->model->head, 0, from, count)));
        CA_TRY(ca_row_dots(be, ca_tensor_slice(f->row_square, 0, from, count), rows, rows));
    }
    CA_TRY(ca_download_f64(be, f->row_square, f->staging, f->square_host));
out:
    return st;
}

ca_status ca_jacobian_fisher_create(const ca_model *model, int64_t most_reads, int64_t rank,
                                    jacobian_fisher **out) {
    ca_status st = CA_OK;
    const ca_arch *a = &model->arch;
    jacobian_fisher *f = NULL;
    CA_TRY(ca_calloc(1, sizeof *f, &f));
    f->model = model;
    set_sizes(f, a, most_reads, rank);
    CA_TRY(ca_method_buffers_create(model->backend, (size_t)take_tensors(f, a, model->dtype, NULL),
                                    &f->buffers));
    take_tensors(f, a, model->dtype, &f->buffers);
    size_t width = (size_t)a->width, most = (size_t)f->most, chunk = (size_t)f->chunk;
    size_t vocab = (size_t)a->vocab, block = (size_t)f->block;
    CA_TRY(ca_calloc((size_t)f->chunk, sizeof *f->bases, &f->bases));
    for (int64_t i = 0; i < f->chunk; i++) {
        CA_TRY(ca_calloc(most * width, sizeof(double), &f->bases[i].q));
        CA_TRY(ca_calloc(most * width, sizeof(double), &f->bases[i].fq));
        CA_TRY(ca_calloc((size_t)f->rank, sizeof(double), &f->bases[i].value));
        CA_TRY(ca_calloc((size_t)f->rank * width, sizeof(double), &f->bases[i].vector));
    }
    CA_TRY(ca_calloc(chunk * width, sizeof(double), &f->mu_host));
    CA_TRY(ca_calloc(chunk * width, sizeof(double), &f->best_host));
    CA_TRY(ca_calloc(vocab, sizeof(double), &f->square_host));
    CA_TRY(ca_calloc(chunk * vocab, sizeof(double), &f->p_host));
    CA_TRY(ca_calloc(chunk * vocab, sizeof(double), &f->dots_host));
    size_t vectors = chunk * width > (size_t)f->likely ? chunk * width : (size_t)f->likely;
    CA_TRY(ca_calloc(block * vectors, sizeof(double), &f->x_host));
    size_t staged = chunk * (block * width > vocab ? block * width : vocab);
    size_t square = (size_t)(f->likely > f->most ? f->likely * f->likely : f->most * f->most);
    CA_TRY(ca_calloc(staged > square ? staged : square, sizeof(double), &f->staging));
    CA_TRY(ca_calloc((size_t)f->parts * block * chunk, sizeof(double), &f->sums_host));
    CA_TRY(ca_calloc(square, sizeof(double), &f->projected));
    CA_TRY(ca_calloc((size_t)(f->likely > f->most ? f->likely : f->most), sizeof(double),
                     &f->spectrum));
    CA_TRY(ca_calloc(width, sizeof(double), &f->random));
    CA_TRY(set_squares(f));
    CA_TRY(ca_fill(model->backend, f->ones, 1));
    *out = f;
    f = NULL;
out:
    ca_jacobian_fisher_free(f);
    return st;
}

/* ---- host: one read ---- */

static double dot(const double *x, const double *y, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

/* Makes x orthonormal to the basis (twice: once is not enough for nearly dependent vectors) and
 * appends it; false when nothing of it is left. */
static bool append_vector(basis *b, const double *x, int64_t width) {
    double *q = b->q + b->size * width, before = sqrt(dot(x, x, width));
    if (!(before > 0)) return false;
    for (int64_t d = 0; d < width; d++) q[d] = x[d] / before;
    for (int round = 0; round < 2; round++)
        for (int64_t k = 0; k < b->size; k++) {
            double c = dot(b->q + k * width, q, width);
            for (int64_t d = 0; d < width; d++) q[d] -= c * b->q[k * width + d];
        }
    double norm = sqrt(dot(q, q, width));
    if (norm < 1e-10) return false;
    for (int64_t d = 0; d < width; d++) q[d] /= norm;
    b->size++;
    return true;
}

/* Appends up to `room` vectors; pseudo-random ones where the candidates are dependent, so that all
 * reads grow alike. */
static void append_block(jacobian_fisher *f, basis *b, const double *candidates, int64_t stride,
                         int64_t count) {
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

/* projected [m, m], of which the lower triangle counts, becomes its eigenvectors, one a column, and
 * spectrum [m] their eigenvalues, rising. */
static ca_status decompose(jacobian_fisher *f, int64_t m) {
    if (LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'L', (int)m, f->projected, (int)m, f->spectrum) != 0)
        return ca_fail(CA_E_NUMERIC,
                       "fisher: the eigenvalues of a matrix of %lld rows were not found",
                       (long long)m);
    return CA_OK;
}

/* Rayleigh-Ritz in the basis, whose first `size` vectors have their products. */
static ca_status solve(jacobian_fisher *f, basis *b) {
    ca_status st = CA_OK;
    int64_t m = b->size, width = f->model->arch.width;
    for (int64_t i = 0; i < m; i++)
        for (int64_t k = 0; k <= i; k++)
            f->projected[i * m + k] = dot(b->q + i * width, b->fq + k * width, width);
    CA_TRY(decompose(f, m));
    b->done = true;
    for (int64_t i = 0; i < f->rank; i++) {
        double *u = b->vector + i * width, residual = 0;
        b->value[i] = f->spectrum[m - 1 - i] > 0 ? f->spectrum[m - 1 - i] : 0;
        memset(u, 0, (size_t)width * sizeof *u);
        memset(f->staging, 0, (size_t)width * sizeof(double));
        double *fu = f->staging;
        for (int64_t k = 0; k < m; k++) {
            double c = f->projected[k * m + m - 1 - i];
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

/* Most probable token of a row of p. */
static int64_t likeliest(const double *p, int64_t vocab) {
    int64_t best = 0;
    for (int64_t i = 1; i < vocab; i++)
        if (p[i] > p[best]) best = i;
    return best;
}

static ca_tensor of_reads(ca_tensor t, int64_t n) {
    return ca_tensor_3d(t.data, t.dtype, t.shape[0], n, t.shape[2]);
}

/* p and mu of a chunk. */
static ca_status set_distribution(jacobian_fisher *f, ca_tensor logits) {
    ca_status st = CA_OK;
    ca_backend *be = f->model->backend;
    int64_t n = logits.shape[0];
    ca_tensor p = ca_tensor_slice(f->p, 0, 0, n), mu = ca_tensor_slice(f->mu, 0, 0, n);
    CA_TRY(ca_softmax(be, p, logits));
    CA_TRY(ca_matmul(be, mu, p, f->model->head, (ca_tensor){0}, times_w));
    CA_TRY(ca_download_f64(be, p, f->staging, f->p_host));
    CA_TRY(ca_download_f64(be, mu, f->staging, f->mu_host));
out:
    return st;
}

/* Rows c of the most probable tokens, w . c of all tokens, and sum p w over the other tokens (into
 * x_host). */
static ca_status compare_with_best(jacobian_fisher *f, int64_t n) {
    ca_status st = CA_OK;
    ca_backend *be = f->model->backend;
    int64_t vocab = f->model->arch.vocab;
    ca_tensor ids = ca_tensor_1d(f->top_ids.data, CA_I32, n);
    ca_tensor best = ca_tensor_slice(f->best, 0, 0, n), rest = ca_tensor_slice(f->rest, 0, 0, n);
    ca_tensor flat = ca_tensor_2d(f->product.data, f->product.dtype, n, vocab);
    for (int64_t i = 0; i < n; i++)
        ((int32_t *)f->staging)[i] = (int32_t)likeliest(f->p_host + i * vocab, vocab);
    CA_TRY(ca_upload(be, ids, f->staging));
    CA_TRY(ca_gather(be, best, f->model->head, ids, 1, false));
    CA_TRY(ca_matmul(be, flat, best, f->model->head, (ca_tensor){0}, times_w_transposed));
    CA_TRY(ca_download_f64(be, best, f->staging, f->best_host));
    CA_TRY(ca_download_f64(be, flat, f->staging, f->dots_host));
    for (int64_t i = 0; i < n; i++)
        f->p_host[i * vocab + likeliest(f->p_host + i * vocab, vocab)] = 0;
    CA_TRY(ca_upload_f64(be, flat, f->staging, f->p_host));
    CA_TRY(ca_matmul(be, rest, flat, f->model->head, (ca_tensor){0}, times_w));
    CA_TRY(ca_download_f64(be, rest, f->staging, f->x_host));
out:
    return st;
}

/* The trace sum_i p_i |w_i - mu|^2 = sum_i p_i |w_i - c|^2 - |mu - c|^2 of every read. With c the
 * row of the most probable token both terms are of the other tokens alone, and neither cancels
 * where it holds nearly all probability. */
static ca_status set_traces(jacobian_fisher *f, int64_t n, double *trace) {
    ca_status st = CA_OK;
    int64_t vocab = f->model->arch.vocab, width = f->model->arch.width;
    CA_TRY(compare_with_best(f, n));
    for (int64_t r = 0; r < n; r++) {
        const double *p = f->p_host + r * vocab, *dots = f->dots_host + r * vocab;
        const double *c = f->best_host + r * width, *rest = f->x_host + r * width;
        double square = 0, mass = 0, shift = 0, best = dot(c, c, width);
        for (int64_t i = 0; i < vocab; i++) {
            square += p[i] * (f->square_host[i] - 2 * dots[i] + best);
            mass += p[i];
        }
        for (int64_t d = 0; d < width; d++) {
            double difference = rest[d] - mass * c[d]; /* of mu and c */
            shift += difference * difference;
        }
        trace[r] = square - shift;
    }
out:
    return st;
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
    CA_TRY(decompose(f, m));
    for (int64_t j = 0; j < count; j++)
        for (int64_t k = 0; k < m; k++)
            f->x_host[j * m + k] =
                f->projected[k * m + m - 1 - j] * exp(0.5 * (logits[k] - logits[0]));
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
    int64_t count = min64(f->block, m);
    ca_tensor first = ca_tensor_slice(f->first, 0, 0, count);
    double *likely = f->dots_host; /* [n, m], free after the traces */
    CA_TRY(ca_top_k(be, values, ids, logits));
    CA_TRY(ca_download_f64(be, values, f->staging, likely));
    for (int64_t i = 0; i < n; i++) {
        basis *b = &f->bases[i];
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
        f->x_host[r] =
            dot(f->mu_host + r % n * width, f->bases[r % n].q + (first + r / n) * width, width);
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
        CA_TRY(add_tokens(f, x, from, min64(part, vocab - from),
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
        block = min64(block, room);
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

/* vectors [rank, n of all, D] at the reads [first, first + n): sqrt(lambda) u. */
static ca_status store(jacobian_fisher *f, int64_t first, int64_t n, ca_tensor vectors,
                       double *eigenvalues) {
    ca_status st = CA_OK;
    int64_t width = f->model->arch.width;
    for (int64_t i = 0; i < n; i++)
        memcpy(eigenvalues + (first + i) * f->rank, f->bases[i].value,
               (size_t)f->rank * sizeof(double));
    for (int64_t k = 0; k < f->rank; k++) {
        for (int64_t i = 0; i < n; i++)
            for (int64_t d = 0; d < width; d++)
                f->x_host[i * width + d] =
                    sqrt(f->bases[i].value[k]) * f->bases[i].vector[k * width + d];
        ca_tensor lane = ca_tensor_slice(ca_tensor_slice(vectors, 0, k, 1), 1, first, n);
        CA_TRY(ca_upload_f64(f->model->backend, ca_tensor_2d(lane.data, lane.dtype, n, width),
                             f->staging, f->x_host));
    }
out:
    return st;
}

ca_status ca_jacobian_fisher_eigenpairs(jacobian_fisher *f, ca_tensor logits, ca_tensor vectors,
                                        double *eigenvalues, double *trace) {
    ca_status st = CA_OK;
    int64_t reads = logits.shape[0];
    for (int64_t first = 0; first < reads; first += f->chunk) {
        int64_t n = min64(f->chunk, reads - first);
        ca_tensor chunk = ca_tensor_slice(logits, 0, first, n);
        CA_TRY(set_distribution(f, chunk));
        CA_TRY(set_traces(f, n, trace + first));
        CA_TRY(iterate(f, chunk));
        CA_TRY(store(f, first, n, vectors, eigenvalues));
    }
out:
    return st;
}
