/* SPDX-License-Identifier: MIT
 *
 * The next-token distribution at the reads: p, mu and the trace of F. Few eigenpairs then come from
 * a Krylov space (fisher_krylov.c), many from F itself (fisher_dense.c).
 */
#include "fisher_state.h"

#include "causa/ops.h"

#include <lapacke.h>
#include <stdlib.h>

enum { PART = 1 << 21 /* elements of a part of W */ };
enum { MOST_VECTORS = 96, MOST_PRODUCT = 1 << 24 /* elements of [rows, V] */, MOST_DENSE = 16 };
/* Products with W: the other factor is not rounded with W in bf16. */
static const ca_matmul_options times_w = {.alpha = 1, .wide = true};
static const ca_matmul_options times_w_transposed = {.transpose_b = true, .alpha = 1, .wide = true};

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- sizes ---- */

static void set_sizes(jacobian_fisher *f, const ca_arch *a, int64_t most_reads, int64_t rank) {
    f->rank = fisher_min(rank, a->width);
    f->part = fisher_min(PART / a->width + 1, a->vocab);
    /* the sought pairs come with more that make them converge sooner */
    f->block = f->rank + 1 + f->rank / 4;
    f->likely = 64 + 12 * f->rank;
    f->dense = f->likely >= a->width; /* no smaller than F, and only the start of an iteration */
    if (f->dense) {
        f->block = 1;
        f->chunk = fisher_min(most_reads, MOST_DENSE);
        return;
    }
    f->likely = fisher_min(f->likely, a->vocab);
    f->most = fisher_min(larger(f->block * 12, MOST_VECTORS), a->width);
    f->parts = (a->vocab + f->part - 1) / f->part;
    f->chunk = fisher_min(most_reads, MOST_PRODUCT / (f->block * a->vocab) + 1);
}

/* Rows of the largest eigenproblem. */
static int64_t order_of(const jacobian_fisher *f, const ca_arch *a) {
    return f->dense ? a->width : larger(f->likely, f->most);
}

/* The tensors; with buffers == NULL they are only measured. */
static int64_t take_tensors(jacobian_fisher *f, const ca_arch *a, ca_dtype dtype,
                            method_buffers *buffers) {
    int64_t n = f->chunk, width = a->width, m = f->likely;
    const method_tensor shared[] = {
        {&f->p, dtype, 2, {n, a->vocab}},
        {&f->mu, dtype, 2, {n, width}},
        {&f->row_square, dtype, 1, {a->vocab}},
        {&f->ids, CA_I32, 1, {n}},
        {&f->best, dtype, 2, {n, width}},
        {&f->rest, dtype, 2, {n, width}},
        {&f->product, dtype, 3, {f->block, n, a->vocab}},
        {&f->rows, dtype, 2, {f->dense ? f->part : m, width}},
    };
    const method_tensor dense[] = {
        {&f->weighed, dtype, 2, {f->part, width}},
        {&f->roots, dtype, 1, {a->vocab}},
        {&f->f, dtype, 2, {width, width}},
        {&f->pairs, dtype, 2, {f->rank, width}},
    };
    const method_tensor krylov[] = {
        {&f->x, dtype, 3, {f->block, n, width}},
        {&f->fx, dtype, 3, {f->block, n, width}},
        {&f->ones, dtype, 1, {a->vocab}},
        {&f->means, dtype, 1, {f->block * n}},
        {&f->sums, dtype, 2, {f->parts, f->block * n}},
        {&f->top_values, dtype, 2, {n, m}},
        {&f->top_ids, CA_I32, 2, {n, m}},
        {&f->gram, dtype, 2, {m, m}},
        {&f->mixes, dtype, 2, {f->block, m}},
        {&f->first, dtype, 2, {f->block, width}},
    };
    int64_t bytes = ca_method_take_list(buffers, shared, sizeof shared / sizeof *shared);
    return bytes + (f->dense
                        ? ca_method_take_list(buffers, dense, sizeof dense / sizeof *dense)
                        : ca_method_take_list(buffers, krylov, sizeof krylov / sizeof *krylov));
}

typedef struct host_array {
    double **array;
    int64_t count;
} host_array;
enum { HOST_ARRAYS = 17 };

/* The arrays on the host; those that this way does not need are empty. */
static void list_arrays(jacobian_fisher *f, const ca_arch *a, ca_dtype dtype,
                        host_array list[HOST_ARRAYS]) {
    int64_t n = f->chunk, width = a->width, m = f->likely, order = order_of(f, a);
    int64_t krylov = !f->dense, block = f->block * n * width;
    int64_t staged = larger(larger(n * a->vocab, block), order * order);
    int64_t x = larger(block, krylov * f->block * m);
    const host_array arrays[HOST_ARRAYS] = {
        {&f->mu_host, n * width},
        {&f->best_host, n * width},
        {&f->square_host, a->vocab},
        {&f->p_host, n * a->vocab},
        {&f->dots_host, n * larger(a->vocab, krylov * m)},
        {&f->x_host, x},
        {&f->projected, order * order},
        {&f->spectrum, order},
        {&f->work, 1 + 6 * order + 2 * order * order + /* and as many integers */ 3 + 5 * order},
        {&f->staging, (staged * (int64_t)ca_dtype_size(dtype) + 7) / 8},
        {&f->q, krylov * n * f->most * width},
        {&f->fq, krylov * n * f->most * width},
        {&f->value, krylov * n * f->rank},
        {&f->vector, krylov * n * f->rank * width},
        {&f->sums_host, krylov * f->parts * f->block * n},
        {&f->fu, krylov * width},
        {&f->random, krylov * width},
    };
    for (int k = 0; k < HOST_ARRAYS; k++) list[k] = arrays[k];
}

int64_t ca_jacobian_fisher_bytes(const ca_arch *arch, ca_dtype dtype, int64_t most_reads,
                                 int64_t rank) {
    jacobian_fisher f = {0};
    set_sizes(&f, arch, most_reads, rank);
    return take_tensors(&f, arch, dtype, NULL);
}

int64_t ca_jacobian_fisher_host_bytes(const ca_arch *arch, ca_dtype dtype, int64_t most_reads,
                                      int64_t rank) {
    jacobian_fisher f = {0};
    host_array list[HOST_ARRAYS];
    int64_t count = 0;
    set_sizes(&f, arch, most_reads, rank);
    list_arrays(&f, arch, dtype, list);
    for (int k = 0; k < HOST_ARRAYS; k++) count += list[k].count;
    return count * (int64_t)sizeof(double);
}

double ca_jacobian_fisher_flops(const ca_arch *arch, int64_t rank) {
    jacobian_fisher f = {0};
    double width = (double)arch->width, blocks = 3.5; /* as many as it usually takes */
    set_sizes(&f, arch, 1, rank);
    double vectors = f.dense ? width / 2 : blocks * (double)f.block;
    return 4.0 * vectors * (double)arch->vocab * width;
}

bool ca_jacobian_fisher_is_dense(const ca_arch *arch, int64_t rank) {
    jacobian_fisher f = {0};
    set_sizes(&f, arch, 1, rank);
    return f.dense;
}

/* ---- life ---- */

void ca_jacobian_fisher_free(jacobian_fisher *f) {
    host_array list[HOST_ARRAYS];
    if (!f) return;
    ca_method_buffers_free(&f->buffers);
    list_arrays(f, &f->model->arch, f->model->dtype, list);
    for (int k = 0; k < HOST_ARRAYS; k++) free(*list[k].array);
    free(f->bases);
    free(f);
}

static ca_status create_arrays(jacobian_fisher *f) {
    ca_status st = CA_OK;
    const ca_arch *a = &f->model->arch;
    host_array list[HOST_ARRAYS];
    list_arrays(f, a, f->model->dtype, list);
    for (int k = 0; k < HOST_ARRAYS; k++)
        CA_TRY(ca_calloc((size_t)list[k].count + 1, sizeof(double), list[k].array));
    if (f->dense) return CA_OK;
    CA_TRY(ca_calloc((size_t)f->chunk, sizeof *f->bases, &f->bases));
    for (int64_t i = 0; i < f->chunk; i++)
        f->bases[i] = (fisher_basis){.q = f->q + i * f->most * a->width,
                                     .fq = f->fq + i * f->most * a->width,
                                     .value = f->value + i * f->rank,
                                     .vector = f->vector + i * f->rank * a->width};
out:
    return st;
}

/* |w|^2 of all tokens, of a few rows of W at a time, which may be stored in bf16. */
static ca_status set_squares(jacobian_fisher *f) {
    ca_status st = CA_OK;
    ca_backend *be = f->model->backend;
    int64_t vocab = f->model->arch.vocab, most = f->rows.shape[0];
    for (int64_t from = 0; from < vocab; from += most) {
        int64_t count = fisher_min(most, vocab - from);
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
    CA_TRY(create_arrays(f));
    CA_TRY(set_squares(f));
    if (!f->dense) CA_TRY(ca_fill(model->backend, f->ones, 1));
    *out = f;
    f = NULL;
out:
    ca_jacobian_fisher_free(f);
    return st;
}

ca_status ca_jacobian_fisher_decompose(jacobian_fisher *f, int64_t m) {
    /* by columns the rows up to the diagonal are the upper triangle, and eigenvectors are rows */
    lapack_int n = (lapack_int)m, reals = 1 + 6 * n + 2 * n * n, integers = 3 + 5 * n;
    lapack_int *integer_work = (lapack_int *)(void *)(f->work + reals);
    if (LAPACKE_dsyevd_work(LAPACK_COL_MAJOR, 'V', 'U', n, f->projected, n, f->spectrum, f->work,
                            reals, integer_work, integers) != 0)
        return ca_fail(CA_E_NUMERIC,
                       "fisher: the eigenvalues of a matrix of %lld rows were not found",
                       (long long)m);
    return CA_OK;
}

/* ---- distributions and traces ---- */

/* Most probable token of a row of p. */
static int64_t likeliest(const double *p, int64_t vocab) {
    int64_t best = 0;
    for (int64_t i = 1; i < vocab; i++)
        if (p[i] > p[best]) best = i;
    return best;
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
    ca_tensor ids = ca_tensor_slice(f->ids, 0, 0, n);
    ca_tensor best = ca_tensor_slice(f->best, 0, 0, n), rest = ca_tensor_slice(f->rest, 0, 0, n);
    ca_tensor flat = ca_tensor_2d(f->product.data, f->product.dtype, n, vocab);
    for (int64_t i = 0; i < n; i++)
        ((int32_t *)(void *)f->staging)[i] = (int32_t)likeliest(f->p_host + i * vocab, vocab);
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
        double square = 0, mass = 0, shift = 0, best = fisher_dot(c, c, width);
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

ca_status ca_jacobian_fisher_eigenpairs(jacobian_fisher *f, ca_tensor logits, ca_tensor vectors,
                                        double *eigenvalues, double *trace) {
    ca_status st = CA_OK;
    int64_t reads = logits.shape[0];
    for (int64_t first = 0; first < reads; first += f->chunk) {
        int64_t n = fisher_min(f->chunk, reads - first);
        ca_tensor chunk = ca_tensor_slice(logits, 0, first, n);
        ca_tensor own = ca_tensor_slice(vectors, 1, first, n);
        double *values = eigenvalues + first * f->rank;
        CA_TRY(set_distribution(f, chunk));
        CA_TRY(set_traces(f, n, trace + first));
        if (f->dense)
            CA_TRY(ca_jacobian_fisher_dense(f, n, own, values));
        else
            CA_TRY(ca_jacobian_fisher_krylov(f, chunk, own, values));
    }
out:
    return st;
}
