/* SPDX-License-Identifier: MIT
 *
 * The matmul of the cpu backend: chooses between the library, the kernels for few rows, for some
 * rows and for few values other than 0, tiles for b in bf16 and, for inputs with repeated rows, a
 * plain loop; runs batches.
 */
#include "cpu.h"

/* Multiplications of a product that is not worth waking threads. */
enum { SMALL_PRODUCT = 1 << 17 };

/* A library wants distinct rows: a leading dimension of at least the width. One row has any. */
static bool fit_stride(int64_t rows, int64_t width, int64_t *stride) {
    if (rows <= 1) *stride = cpu_max(*stride, width);
    return *stride >= width;
}

static void multiply_plainly(int threads, const ca_cpu_product *p) {
    const float *a = p->a, *b = p->b;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->n; j++) {
            double sum = 0;
            for (int64_t l = 0; l < p->k; l++) {
                float x = p->transpose_a ? a[l * p->lda + i] : a[i * p->lda + l];
                float y = p->transpose_b ? b[j * p->ldb + l] : b[l * p->ldb + j];
                sum += (double)x * (double)y;
            }
            float *to = &p->c[i * p->ldc + j];
            *to = (float)(p->alpha * sum + (p->beta == 0.0f ? 0.0 : (double)p->beta * *to));
        }
}

static bool multiply(const ca_backend *be, int threads, ca_cpu_product p) {
    bool fits = fit_stride(p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k, &p.lda);
    fits = fit_stride(p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n, &p.ldb) && fits;
    fits = fit_stride(p.m, p.n, &p.ldc) && fits;
    if (ca_cpu_has_few_rows(&p)) {
        ca_cpu_gemm_few_rows(threads, &p);
        return true;
    }
    if (ca_cpu_is_sparse(&p)) {
        ca_cpu_gemm_sparse(threads, &p);
        return true;
    }
    if (ca_cpu_is_skinny(be, threads, &p)) {
        ca_cpu_gemm_skinny(be, threads, &p);
        return true;
    }
    if (!fits) {
        multiply_plainly(threads, &p);
        return true;
    }
    return ca_cpu_sgemm(threads, p.transpose_a, p.transpose_b, p.m, p.n, p.k, p.alpha, p.a, p.lda,
                        p.b, p.ldb, p.beta, p.c, p.ldc);
}

/* c = beta c + bias, before the product is added. */
static void add_bias(ca_backend *be, const ca_tensor *c, const float *bias, float beta) {
    int64_t rows = cpu_places(c, c->rank - 1), n = cpu_width(c);
#pragma omp parallel for num_threads(cpu_threads(be, rows, n)) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        float *to = cpu_row(c, row);
        if (beta == 0.0f)
            memcpy(to, bias, (size_t)n * sizeof(float));
        else
            for (int64_t j = 0; j < n; j++) to[j] = beta * to[j] + bias[j];
    }
}

/* c = beta c: what is left of a product over nothing. */
static ca_status scale_only(ca_backend *be, ca_tensor c, float beta) {
    int64_t rows = cpu_places(&c, c.rank - 1), n = cpu_width(&c);
    if (beta == 0.0f) return ca_cpu_fill(be, c, 0.0);
    for (int64_t row = 0; row < rows; row++) {
        float *to = cpu_row(&c, row);
        for (int64_t j = 0; j < n; j++) to[j] *= beta;
    }
    return CA_OK;
}

static const void *further(const void *values, bool narrow, int64_t count) {
    return (const char *)values + count * (int64_t)(narrow ? sizeof(uint16_t) : sizeof(float));
}

/* The products of a call: count[0] times count[1], and how far c, a and b of one are from those of
 * the next along both axes. */
typedef struct product_batch {
    int64_t count[2], c[2], a[2], b[2];
} product_batch;

static ca_cpu_product product_at(ca_cpu_product p, int64_t i, const product_batch *t) {
    const int64_t g = i / t->count[1], k = i % t->count[1];
    p.c += g * t->c[0] + k * t->c[1];
    p.a = further(p.a, p.narrow_a, g * t->a[0] + k * t->a[1]);
    p.b = further(p.b, p.narrow, g * t->b[0] + k * t->b[1]);
    return p;
}

static bool multiply_batch(ca_backend *be, ca_cpu_product p, const product_batch *t) {
    const int64_t batch = t->count[0] * t->count[1];
    int threads = be->threads;
    bool done = true;
    /* many or small products: one thread for each, unless they share scratch memory */
    if (!p.narrow && (batch >= 4 * threads || p.m * p.n * p.k < SMALL_PRODUCT)) {
#pragma omp parallel for num_threads((int)cpu_min(threads, batch)) reduction(&& : done)
        for (int64_t i = 0; i < batch; i++) done = multiply(be, 1, product_at(p, i, t)) && done;
        return done;
    }
    /* outside of any parallel region, even one of a single thread: inside, OpenMP would start new
     * threads for every product */
    for (int64_t i = 0; i < batch && done; i++) {
        ca_cpu_product one = product_at(p, i, t);
        done = p.narrow ? ca_cpu_gemm_bf16(be, &one) : multiply(be, threads, one);
    }
    return done;
}

ca_status ca_cpu_matmul(ca_backend *be, ca_tensor c, ca_tensor a, ca_tensor b, ca_tensor bias,
                        ca_matmul_options options) {
    int axis = c.rank - 2; /* of the rows; a batch has one axis before it, or two */
    product_batch t = {.count = {1, 1}};
    for (int i = 0; i < axis; i++) {
        const int to = 2 - axis + i;
        t.count[to] = c.shape[i];
        t.c[to] = c.stride[i], t.a[to] = a.stride[i], t.b[to] = b.stride[i];
    }
    ca_cpu_product p = {.a = a.data,
                        .b = b.data,
                        .c = c.data,
                        .m = c.shape[axis],
                        .n = c.shape[axis + 1],
                        .k = options.transpose_a ? a.shape[axis] : a.shape[axis + 1],
                        .lda = a.stride[axis],
                        .ldb = b.stride[axis],
                        .ldc = c.stride[axis],
                        .transpose_a = options.transpose_a,
                        .transpose_b = options.transpose_b,
                        .narrow = b.dtype == CA_BF16,
                        .narrow_a = a.dtype == CA_BF16,
                        .wide = options.wide,
                        .alpha = (float)options.alpha,
                        .beta = (float)options.beta};
    if (t.count[0] * t.count[1] == 0 || p.m == 0 || p.n == 0) return CA_OK;
    if (bias.data != NULL) {
        add_bias(be, &c, bias.data, p.beta);
        p.beta = 1.0f;
    }
    if (p.k == 0) return scale_only(be, c, p.beta);
    if (!multiply_batch(be, p, &t))
        return ca_fail(CA_E_BACKEND, "cpu: matmul: %s refused c %s", ca_cpu_libraries,
                       ca_tensor_text(&c));
    return CA_OK;
}
