/* SPDX-License-Identifier: MIT
 *
 * matmul by cuBLASLt in float32 (no TF32), or with bf16 inputs and float32 sums. It counts columns
 * first: what it takes for a is our b, and what it writes is our c, each seen transposed.
 *
 * With b in bf16, an a in f32 is rounded into scratch memory of a fixed size, a part of its rows
 * after another. One that must enter unrounded is cut into three bf16 terms that add up to it, and
 * three products are summed: tensor cores do that faster than float32 units one product.
 */
#include "cuda.h"

#include <limits.h>

/* One input as cuBLAS takes it. */
typedef struct cuda_matrix {
    const void *data;
    int64_t ld;      /* elements from row to row */
    int64_t step[2]; /* from matrix to matrix, along the axes before the rows */
    cublasOperation_t operation;
    void *copy; /* to be released, or NULL */
} cuda_matrix;

/* Rows must be at least their width apart; repeated or overlapping ones are copied. */
static ca_status matrix_of(ca_backend *be, ca_tensor t, bool transposed, cuda_matrix *out) {
    ca_status st = CA_OK;
    int axis = t.rank - 2; /* of the rows */
    int64_t rows = t.shape[axis], width = t.shape[axis + 1];
    *out = (cuda_matrix){.operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N};
    if (rows > 1 && t.stride[axis] < width) {
        size_t bytes = (size_t)ca_tensor_count(&t) * ca_dtype_size(t.dtype);
        CA_TRY(ca_cuda_alloc(be, bytes, &out->copy));
        ca_tensor flat = ca_tensor_1d(out->copy, t.dtype, ca_tensor_count(&t));
        ca_tensor packed = ca_tensor_reshape(flat, t.rank, t.shape);
        CA_TRY(CA_CUDA_LAUNCH(be, copy, packed, t));
        t = packed;
    }
    out->data = t.data;
    out->ld = t.stride[axis] > width ? t.stride[axis] : width;
    for (int i = 0; i < axis; i++) out->step[i] = t.stride[i];
out:
    return st;
}

/* c *= beta: what is left of a product over nothing. */
static ca_status scale(ca_backend *be, ca_tensor c, double beta) {
    ca_status st = CA_OK;
    void *data = NULL;
    int64_t width = c.shape[c.rank - 1];
    if (beta == 0) return CA_CUDA_LAUNCH(be, fill, c, 0);
    CA_TRY(ca_cuda_alloc(be, (size_t)width * sizeof(float), &data));
    CA_TRY(CA_CUDA_LAUNCH(be, fill, ca_tensor_1d(data, CA_F32, width), beta));
    ca_tensor factor = c; /* one row, repeated */
    factor.data = data;
    for (int axis = 0; axis < c.rank - 1; axis++) factor.stride[axis] = 0;
    CA_TRY(CA_CUDA_LAUNCH(be, multiply, c, c, factor));
out:
    ca_cuda_release(be, data);
    return st;
}

/* cuBLAS proper counts in int. */
static ca_status check_sizes(const ca_cuda_context *c, const ca_cuda_product *p) {
    const int64_t sizes[] = {p->m, p->n, p->k, p->batch, p->lda, p->ldb, p->ldc};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i] > INT_MAX)
            return ca_fail(CA_E_SHAPE, "%s: matmul: expected sizes up to %d, got %lld", c->name,
                           INT_MAX, (long long)sizes[i]);
    return CA_OK;
}

/* What cuBLASLt has no algorithm for. */
static ca_status multiply_otherwise(ca_backend *be, ca_tensor y, ca_tensor bias,
                                    const ca_cuda_product *p) {
    ca_status st = CA_OK;
    const ca_cuda_context *c = be->context;
    CA_TRY(check_sizes(c, p));
    CA_CUBLAS(cublasGemmStridedBatchedEx, c->blas, p->operation_a, p->operation_b, (int)p->m,
              (int)p->n, (int)p->k, &p->alpha, p->a, p->type, (int)p->lda, p->step_a, p->b, p->type,
              (int)p->ldb, p->step_b, &p->beta, p->c, CUDA_R_32F, (int)p->ldc, p->step_c,
              (int)p->batch, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    if (bias.data) CA_TRY(CA_CUDA_LAUNCH(be, add_bias, y, bias));
out:
    return st;
}

/* A batch with one axis. */
static ca_status multiply_strided(ca_backend *be, ca_tensor y, ca_tensor bias,
                                  const ca_cuda_product *p) {
    ca_status st = CA_OK;
    bool found = false;
    CA_TRY(ca_cuda_gemm_lt(be->context, p, &found));
    if (!found) CA_TRY(multiply_otherwise(be, y, bias, p));
out:
    return st;
}

/* A batch with two axes, and how far its matrices are apart along each, in elements. */
typedef struct cuda_batch {
    int64_t count[2], a[2], b[2], c[2];
} cuda_batch;

/* Where the last axis does for both, in steps of its own, the first counts 1 from now on. */
static bool merge_axes(cuda_batch *t) {
    const bool merges = t->a[0] == t->count[1] * t->a[1] && t->b[0] == t->count[1] * t->b[1] &&
                        t->c[0] == t->count[1] * t->c[1];
    if (t->count[0] == 1) return true;
    if (t->count[1] == 1)
        t->a[1] = t->a[0], t->b[1] = t->b[0], t->c[1] = t->c[0];
    else if (!merges)
        return false;
    t->count[1] *= t->count[0];
    t->count[0] = 1;
    return true;
}

static const void *matrix_in(const void *data, size_t size, const int64_t step[2], int64_t group,
                             int64_t k) {
    return (const char *)data + (group * step[0] + k * step[1]) * (int64_t)size;
}

/* Tensor cores load 16 bytes at a time, and nobody tells cuBLAS how listed matrices are aligned. */
static bool can_be_listed(const ca_cuda_product *p, const cuda_batch *t) {
    if (p->type != CUDA_R_16BF) return true;
    const int64_t inputs = p->lda | p->ldb | t->a[0] | t->a[1] | t->b[0] | t->b[1];
    const int64_t outputs = p->ldc | t->c[0] | t->c[1];
    const uintptr_t addresses = (uintptr_t)p->a | (uintptr_t)p->b | (uintptr_t)p->c;
    return inputs % 8 == 0 && outputs % 4 == 0 && addresses % 16 == 0;
}

/* Two axes by lists of pointers. A list is uploaded as any data is and takes its place among the
 * operations, so the same memory holds the next one. */
static ca_status multiply_listed(ca_backend *be, ca_tensor y, ca_tensor bias, ca_cuda_product p,
                                 const cuda_batch *t) {
    ca_status st = CA_OK;
    const ca_cuda_context *c = be->context;
    const int64_t batch = t->count[0] * t->count[1];
    const size_t size = p.type == CUDA_R_16BF ? sizeof(uint16_t) : sizeof(float);
    const void *list[3 * CA_CUDA_LIST];
    CA_TRY(check_sizes(c, &p));
    for (int64_t from = 0; from < batch; from += p.batch) {
        p.batch = batch - from < CA_CUDA_LIST ? batch - from : CA_CUDA_LIST;
        for (int64_t i = 0; i < p.batch; i++) {
            const int64_t group = (from + i) / t->count[1], k = (from + i) % t->count[1];
            list[i] = matrix_in(p.a, size, t->a, group, k);
            list[p.batch + i] = matrix_in(p.b, size, t->b, group, k);
            list[2 * p.batch + i] = matrix_in(p.c, sizeof(float), t->c, group, k);
        }
        CA_TRY(ca_cuda_upload(be, ca_tensor_1d(c->list, CA_I64, 3 * p.batch), list));
        CA_CUBLAS(cublasGemmBatchedEx, c->blas, p.operation_a, p.operation_b, (int)p.m, (int)p.n,
                  (int)p.k, &p.alpha, (const void *const *)c->list, p.type, (int)p.lda,
                  (const void *const *)c->list + p.batch, p.type, (int)p.ldb, &p.beta,
                  c->list + 2 * p.batch, CUDA_R_32F, (int)p.ldc, (int)p.batch, CUBLAS_COMPUTE_32F,
                  CUBLAS_GEMM_DEFAULT);
    }
    if (bias.data) CA_TRY(CA_CUDA_LAUNCH(be, add_bias, y, bias));
out:
    return st;
}

/* Two axes, a group at a time. */
static ca_status multiply_groups(ca_backend *be, ca_tensor y, ca_tensor bias,
                                 const ca_cuda_product *p, const cuda_batch *t) {
    ca_status st = CA_OK;
    const size_t size = p->type == CUDA_R_16BF ? sizeof(uint16_t) : sizeof(float);
    for (int64_t group = 0; group < t->count[0]; group++) {
        ca_cuda_product one = *p;
        ca_tensor to = ca_tensor_at(y, 0, group);
        one.a = matrix_in(p->a, size, t->a, group, 0);
        one.b = matrix_in(p->b, size, t->b, group, 0);
        one.c = to.data;
        CA_TRY(multiply_strided(be, to, bias, &one));
    }
out:
    return st;
}

static cuda_batch batch_of(const ca_tensor *y, const cuda_matrix *a, const cuda_matrix *b) {
    cuda_batch t = {.count = {1, 1}};
    for (int axis = 0; axis < y->rank - 2; axis++) {
        const int to = axis + 4 - y->rank; /* one axis is the last */
        t.count[to] = y->shape[axis];
        t.a[to] = b->step[axis], t.b[to] = a->step[axis], t.c[to] = y->stride[axis];
    }
    return t;
}

/* y = alpha a b + beta y + bias, inputs of one type. */
static ca_status multiply(ca_backend *be, ca_tensor y, const cuda_matrix *a, const cuda_matrix *b,
                          ca_dtype dtype, int64_t inner, ca_tensor bias,
                          ca_matmul_options options) {
    int axis = y.rank - 2;
    int64_t rows = y.shape[axis], width = y.shape[axis + 1];
    cuda_batch t = batch_of(&y, a, b);
    const bool merged = merge_axes(&t);
    const ca_cuda_product p = {
        .operation_a = b->operation,
        .operation_b = a->operation,
        .type = dtype == CA_BF16 ? CUDA_R_16BF : CUDA_R_32F,
        .m = width,
        .n = rows,
        .k = inner,
        .batch = t.count[1],
        .lda = b->ld,
        .ldb = a->ld,
        .ldc = rows > 1 ? y.stride[axis] : width,
        .step_a = t.a[1],
        .step_b = t.b[1],
        .step_c = t.c[1],
        .a = b->data,
        .b = a->data,
        .c = y.data,
        .bias = bias.data,
        .alpha = (float)options.alpha,
        .beta = (float)options.beta,
    };
    if (merged) return multiply_strided(be, y, bias, &p);
    if (can_be_listed(&p, &t)) return multiply_listed(be, y, bias, p, &t);
    return multiply_groups(be, y, bias, &p, &t);
}

/* ---- b in bf16 */

/* Rows [from, from + count) of op(a); of y with `transposed` false. */
static ca_tensor rows_of(ca_tensor a, bool transposed, int64_t from, int64_t count) {
    return ca_tensor_slice(a, transposed ? a.rank - 1 : a.rank - 2, from, count);
}

/* Values from one term to the next: every term begins as aligned as memory can be. */
static int64_t term_step(int64_t count) { return (count + 127) / 128 * 128; }

/* For a that fits the scratch memory; the first of its products adds what is not a b. */
static ca_status multiply_rows(ca_backend *be, ca_tensor y, ca_tensor a, const cuda_matrix *right,
                               int64_t inner, ca_tensor bias, ca_matmul_options options) {
    ca_status st = CA_OK;
    const ca_cuda_context *c = be->context;
    int64_t count = ca_tensor_count(&a), step = term_step(count);
    int64_t terms = options.wide ? CA_CUDA_TERMS : 1;
    ca_tensor flat = ca_tensor_1d(c->narrow, CA_BF16, count);
    ca_tensor split = ca_tensor_slice(ca_tensor_2d(c->narrow, CA_BF16, terms, step), 1, 0, count);
    if (options.wide)
        CA_TRY(CA_CUDA_LAUNCH(be, split_bf16, split, a));
    else
        CA_TRY(CA_CUDA_LAUNCH(be, copy, ca_tensor_reshape(flat, a.rank, a.shape), a));
    for (int64_t term = 0; term < terms; term++) {
        cuda_matrix left;
        flat.data = c->narrow + term * step;
        CA_TRY(matrix_of(be, ca_tensor_reshape(flat, a.rank, a.shape), options.transpose_a, &left));
        CA_TRY(multiply(be, y, &left, right, CA_BF16, inner, bias, options));
        options.beta = 1;
        bias.data = NULL;
    }
out:
    return st;
}

static ca_status multiply_bf16(ca_backend *be, ca_tensor y, ca_tensor a, const cuda_matrix *right,
                               int64_t inner, ca_tensor bias, ca_matmul_options options) {
    ca_status st = CA_OK;
    const ca_cuda_context *c = be->context;
    int64_t room = c->narrow_count / (options.wide ? CA_CUDA_TERMS : 1) / 128 * 128;
    int64_t most = room / inner; /* rows */
    if (ca_tensor_count(&a) <= room) return multiply_rows(be, y, a, right, inner, bias, options);
    if (most == 0)
        return ca_fail(CA_E_SHAPE, "%s: matmul: expected up to %lld terms with bf16, got %lld",
                       c->name, (long long)room, (long long)inner);
    if (y.rank > 2) {
        cuda_matrix one = *right;
        one.step[0] = right->step[1];
        for (int64_t i = 0; i < y.shape[0]; i++) {
            one.data = (const uint16_t *)right->data + i * right->step[0];
            CA_TRY(multiply_bf16(be, ca_tensor_at(y, 0, i), ca_tensor_at(a, 0, i), &one, inner,
                                 bias, options));
        }
        return CA_OK;
    }
    for (int64_t from = 0; from < y.shape[0]; from += most) {
        int64_t count = y.shape[0] - from < most ? y.shape[0] - from : most;
        CA_TRY(multiply_rows(be, rows_of(y, false, from, count),
                             rows_of(a, options.transpose_a, from, count), right, inner, bias,
                             options));
    }
out:
    return st;
}

ca_status ca_cuda_matmul(ca_backend *be, ca_tensor c, ca_tensor a, ca_tensor b, ca_tensor bias,
                         ca_matmul_options options) {
    ca_status st = CA_OK;
    cuda_matrix left = {0}, right = {0};
    int64_t inner = a.shape[options.transpose_a ? a.rank - 2 : a.rank - 1];
    if (inner == 0) {
        if (options.beta != 1) CA_TRY(scale(be, c, options.beta));
        if (bias.data) CA_TRY(CA_CUDA_LAUNCH(be, add_bias, c, bias));
        return CA_OK;
    }
    CA_TRY(matrix_of(be, b, options.transpose_b, &right));
    if (b.dtype == CA_BF16 && a.dtype != CA_BF16) {
        CA_TRY(multiply_bf16(be, c, a, &right, inner, bias, options));
    } else {
        CA_TRY(matrix_of(be, a, options.transpose_a, &left));
        CA_TRY(multiply(be, c, &left, &right, b.dtype, inner, bias, options));
    }
out:
    ca_cuda_release(be, left.copy);
    ca_cuda_release(be, right.copy);
    return st;
}
