/* SPDX-License-Identifier: MIT
 *
 * The GEMM of the cpu backend by OpenBLAS. The Makefile compiles this file or gemm_onednn.c.
 */
#include "cpu.h"

#include <cblas.h>
#include <omp.h>

const char ca_cpu_libraries[] = "OpenBLAS, OpenMP";

bool ca_cpu_sgemm(int threads, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                  float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                  float *c, int64_t ldc) {
    const int64_t sizes[] = {m, n, k, lda, ldb, ldc};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i] > INT32_MAX) return false;
    /* OpenBLAS counts its threads for the whole process; one thread inside a region */
    bool outside = !omp_in_parallel();
    if (outside) openblas_set_num_threads(threads);
    cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                transpose_b ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, alpha, a, (int)lda,
                b, (int)ldb, beta, c, (int)ldc);
    if (outside) openblas_set_num_threads(1);
    return true;
}
