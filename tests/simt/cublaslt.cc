/* SPDX-License-Identifier: MIT
 *
 * Stands in for cuBLASLt: descriptions, the choice of an algorithm, and products as in cublas.cc.
 * An algorithm fits the products for which it was chosen only, and there is none for operands that
 * begin at no multiple of 16 bytes, so that callers show what they do then.
 */
#include <string.h>

#include "blas.h"

using namespace simt;

namespace {

/* What lies in the opaque structures. */
struct operation {
    int32_t transpose_a, transpose_b;
    uint32_t epilogue;
    const float *bias;
};
struct layout {
    uint64_t type, rows, columns;
    int64_t ld, batch, step;
};
struct preference {
    uint64_t workspace;
    uint32_t alignment[4]; /* of a, b, c, d */
};
struct algorithm {
    uint64_t product;
    uint32_t alignment[3];
};
constexpr uint32_t ENOUGH = 16;
constexpr size_t WORKSPACE_ALIGNMENT = 16;

template <typename T, typename O> T &inside(O *opaque) {
    static_assert(sizeof(T) <= sizeof(O), "an opaque structure is large enough");
    return *reinterpret_cast<T *>(opaque);
}

template <typename T> cublasStatus_t set(T *to, const void *from, size_t bytes) {
    if (!from || bytes != sizeof *to) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, from, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

/* A product without its pointers; false when the matrices do not fit each other. */
bool product_of(const operation &o, const layout &a, const layout &b, const layout &c,
                product *out) {
    product g = {};
    bool fits = a.type == b.type && (a.type == CUDA_R_32F || a.type == CUDA_R_16BF) &&
                c.type == CUDA_R_32F && a.batch == c.batch && b.batch == c.batch;
    g.m = (int64_t)(o.transpose_a ? a.columns : a.rows);
    g.k = (int64_t)(o.transpose_a ? a.rows : a.columns);
    g.n = (int64_t)(o.transpose_b ? b.rows : b.columns);
    fits = fits && g.k == (int64_t)(o.transpose_b ? b.columns : b.rows) && g.m == (int64_t)c.rows &&
           g.n == (int64_t)c.columns;
    g.batch = c.batch;
    g.a = blas_matrix(nullptr, (cudaDataType)a.type, (cublasOperation_t)o.transpose_a, a.ld, a.step,
                      g.m, g.k);
    g.b = blas_matrix(nullptr, (cudaDataType)b.type, (cublasOperation_t)o.transpose_b, b.ld, b.step,
                      g.k, g.n);
    g.ldc = c.ld, g.step_c = c.step;
    *out = g;
    return fits;
}

/* A number for all that an algorithm may depend on. */
uint64_t fingerprint(const operation &o, const layout &a, const layout &b, const layout &c) {
    uint64_t hash = 1469598103934665603u;
    auto add = [&](uint64_t x) { hash = (hash ^ x) * 1099511628211u; };
    add((uint64_t)o.transpose_a), add((uint64_t)o.transpose_b), add(o.epilogue);
    for (const layout *x : {&a, &b, &c}) {
        add(x->type), add(x->rows), add(x->columns);
        add((uint64_t)x->ld), add((uint64_t)x->batch), add((uint64_t)x->step);
    }
    return hash;
}

bool aligned(const void *data, size_t bytes) { return (uintptr_t)data % bytes == 0; }

} // namespace

/* ---- descriptions */

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t d, size_t size,
                                               cublasComputeType_t computeType,
                                               cudaDataType scaleType) {
    if (!d || size < sizeof *d) return CUBLAS_STATUS_ALLOC_FAILED;
    if (computeType != CUBLAS_COMPUTE_32F || scaleType != CUDA_R_32F)
        return CUBLAS_STATUS_INVALID_VALUE;
    memset(d, 0, sizeof *d);
    inside<operation>(d).epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d,
                                              cublasLtMatmulDescAttributes_t attr, const void *buf,
                                              size_t bytes) {
    operation &o = inside<operation>(d);
    switch (attr) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return set(&o.transpose_a, buf, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return set(&o.transpose_b, buf, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return set(&o.epilogue, buf, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return set(&o.bias, buf, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t l, size_t size,
                                                 cudaDataType type, uint64_t rows, uint64_t cols,
                                                 int64_t ld) {
    if (!l || size < sizeof *l) return CUBLAS_STATUS_ALLOC_FAILED;
    memset(l, 0, sizeof *l);
    inside<layout>(l) = {(uint64_t)type, rows, cols, ld, 1, 0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l,
                                                cublasLtMatrixLayoutAttribute_t attr,
                                                const void *buf, size_t bytes) {
    int32_t batch = 0;
    if (attr == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET)
        return set(&inside<layout>(l).step, buf, bytes);
    if (attr != CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) return CUBLAS_STATUS_INVALID_VALUE;
    cublasStatus_t status = set(&batch, buf, bytes);
    inside<layout>(l).batch = batch;
    return status;
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t p, size_t size) {
    if (!p || size < sizeof *p) return CUBLAS_STATUS_ALLOC_FAILED;
    memset(p, 0, sizeof *p);
    inside<preference>(p) = {0, {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                    cublasLtMatmulPreferenceAttributes_t attr,
                                                    const void *buf, size_t bytes) {
    preference &wanted = inside<preference>(p);
    if (attr == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) return set(&wanted.workspace, buf, bytes);
    int matrix = attr - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
    if (matrix < 0 || matrix > 3) return CUBLAS_STATUS_INVALID_VALUE;
    return set(&wanted.alignment[matrix], buf, bytes);
}

/* ---- choice and product */

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t Adesc,
    cublasLtMatrixLayout_t Bdesc, cublasLtMatrixLayout_t Cdesc, cublasLtMatrixLayout_t Ddesc,
    cublasLtMatmulPreference_t pref, int requested, cublasLtMatmulHeuristicResult_t results[],
    int *count) {
    cudaError_t injected = begin_call();
    if (injected != cudaSuccess) return blas_status(injected);
    if (!blas_handle_exists((cublasHandle_t)handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    const operation &o = inside<operation>(desc);
    const preference &wanted = inside<preference>(pref);
    product g;
    *count = 0;
    if (requested < 1 ||
        !product_of(o, inside<layout>(Adesc), inside<layout>(Bdesc), inside<layout>(Cdesc), &g))
        return CUBLAS_STATUS_INVALID_VALUE;
    bool usable = !o.bias || aligned(o.bias, ENOUGH);
    for (uint32_t alignment : wanted.alignment) usable = usable && alignment >= ENOUGH;
    if (!usable) return CUBLAS_STATUS_NOT_SUPPORTED;
    memset(&results[0], 0, sizeof results[0]);
    inside<algorithm>(&results[0].algo) = {
        fingerprint(o, inside<layout>(Adesc), inside<layout>(Bdesc), inside<layout>(Ddesc)),
        {wanted.alignment[0], wanted.alignment[1], wanted.alignment[2]}};
    results[0].workspaceSize = (size_t)wanted.workspace;
    *count = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *A, cublasLtMatrixLayout_t Adesc, const void *B,
                              cublasLtMatrixLayout_t Bdesc, const void *beta, const void *C,
                              cublasLtMatrixLayout_t, void *D, cublasLtMatrixLayout_t Ddesc,
                              const cublasLtMatmulAlgo_t *algo, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    cudaError_t injected = begin_call();
    if (injected != cudaSuccess) return blas_status(injected);
    if (!blas_handle_exists((cublasHandle_t)handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    const operation &o = inside<operation>(desc);
    const layout &a = inside<layout>(Adesc), &b = inside<layout>(Bdesc), &d = inside<layout>(Ddesc);
    product g;
    if (!alpha || !beta || !algo || C != D || !product_of(o, a, b, d, &g) ||
        !aligned(workspace, WORKSPACE_ALIGNMENT) || device_bytes_from(workspace) < workspace_bytes)
        return CUBLAS_STATUS_INVALID_VALUE;
    const algorithm &chosen = inside<const algorithm>(algo);
    if (chosen.product != fingerprint(o, a, b, d))
        die("cuBLASLt: the algorithm was chosen for another product");
    if (!aligned(A, chosen.alignment[0]) || !aligned(B, chosen.alignment[1]) ||
        !aligned(D, chosen.alignment[2]))
        die("cuBLASLt: the algorithm was chosen for other alignments");
    g.a.data = A, g.b.data = B, g.c = static_cast<float *>(D);
    g.alpha = *static_cast<const float *>(alpha), g.beta = *static_cast<const float *>(beta);
    if (o.epilogue == CUBLASLT_EPILOGUE_BIAS) g.bias = o.bias;
    return blas_enqueue(stream, g);
}
