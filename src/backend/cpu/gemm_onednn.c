/* SPDX-License-Identifier: MIT
 *
 * The GEMM of the cpu backend by oneDNN. The Makefile compiles this file or gemm_cblas.c.
 */
#include "cpu.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#define TEXT_OF(x) #x
#define TEXT(x)    TEXT_OF(x)

const char ca_cpu_libraries[] = "oneDNN " TEXT(DNNL_VERSION_MAJOR) "." TEXT(
    DNNL_VERSION_MINOR) "." TEXT(DNNL_VERSION_PATCH) ", OpenMP";

bool ca_cpu_sgemm(int threads, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                  float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                  float *c, int64_t ldc) {
    /* the library takes the calling thread's OpenMP setting, and one thread inside a region */
    int before = omp_get_max_threads();
    bool outside = !omp_in_parallel() && before != threads;
    if (outside) omp_set_num_threads(threads);
    dnnl_status_t st = dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, alpha,
                                  a, lda, b, ldb, beta, c, ldc);
    if (outside) omp_set_num_threads(before);
    return st == dnnl_success;
}
