/* SPDX-License-Identifier: MIT
 *
 * Stands in for cuBLAS: handles, and products of f32 or bf16 matrices into f32 ones, computed on
 * the stream of the handle. Arguments are checked as by cuBLAS, and matrices must lie in device
 * memory from their first element to their last.
 */
#include <string.h>

#include <algorithm>

#include "blas.h"

using namespace simt;

static std::vector<cublasContext *> &handles = *new std::vector<cublasContext *>;

bool simt::blas_handle_exists(cublasHandle_t handle) {
    return std::find(handles.begin(), handles.end(), handle) != handles.end() && handle->alive;
}

cublasStatus_t simt::blas_status(cudaError_t error) {
    if (error == cudaSuccess) return CUBLAS_STATUS_SUCCESS;
    if (error == cudaErrorMemoryAllocation) return CUBLAS_STATUS_ALLOC_FAILED;
    if (error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    return CUBLAS_STATUS_EXECUTION_FAILED;
}

/* ---- products */

static float widened(float x) { return x; }
static float widened(uint16_t bf16) {
    uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A tile of c is summed in f32 over DEPTH products, then in f64. Columns of it are vectors: left to
 * itself the compiler shuffles more than it multiplies. */
constexpr int64_t ROWS = 16, COLUMNS = 6, DEPTH = 64;
typedef float column __attribute__((vector_size(ROWS * sizeof(float))));

static void multiply_tile(const float *a, const float *b, int64_t depth, double *sum) {
    for (int64_t from = 0; from < depth; from += DEPTH) {
        column part[COLUMNS] = {};
        for (int64_t p = from; p < std::min(depth, from + DEPTH); p++) {
            column x;
            memcpy(&x, a + p * ROWS, sizeof x);
            for (int64_t j = 0; j < COLUMNS; j++) part[j] += x * b[p * COLUMNS + j];
        }
        for (int64_t j = 0; j < COLUMNS; j++)
            for (int64_t i = 0; i < ROWS; i++) sum[j * ROWS + i] += (double)part[j][i];
    }
}

/* Panels of `width` rows or columns, zero beyond `count`: [panel, k, width]. */
template <typename T>
static void pack_panels(const T *from, int64_t step, int64_t step_k, int64_t count, int64_t k,
                        int64_t width, float *to) {
    for (int64_t first = 0; first < count; first += width, to += k * width) {
        const int64_t here = std::min(width, count - first);
        for (int64_t p = 0; p < k; p++)
            for (int64_t i = 0; i < here; i++)
                to[p * width + i] = widened(from[(first + i) * step + p * step_k]);
    }
}

/* Of matrix number `number`: `count` rows of op(x) with `along` false, else columns. */
static void pack(std::vector<float> &to, const matrix &x, int64_t number, bool along, int64_t count,
                 int64_t k, int64_t width) {
    const bool apart = along != x.transposed; /* neighbours of a panel are ld apart */
    const int64_t step = apart ? x.ld : 1, step_k = apart ? 1 : x.ld;
    to.assign((size_t)((count + width - 1) / width * k * width), 0.0f);
    if (x.bf16)
        pack_panels(static_cast<const uint16_t *>(x.data) + number * x.step, step, step_k, count, k,
                    width, to.data());
    else
        pack_panels(static_cast<const float *>(x.data) + number * x.step, step, step_k, count, k,
                    width, to.data());
}

static void store_tile(const product &g, float *c, const float *bias, int64_t rows, int64_t columns,
                       const double *sum) {
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < rows; i++) {
            float *to = c + i + j * g.ldc;
            double kept = g.beta == 0.0f ? 0.0 : (double)g.beta * (double)*to;
            if (bias) kept += (double)bias[i];
            *to = (float)((double)g.alpha * sum[j * ROWS + i] + kept);
        }
}

static void multiply(const product &g) {
    opened memory({g.a.data, g.b.data, g.c, g.bias});
    int64_t k = g.alpha == 0.0f ? 0 : g.k; /* then a and b are not read */
    std::vector<float> a, b;
    for (int64_t number = 0; number < g.batch; number++) {
        if (number == 0 || g.a.step != 0) pack(a, g.a, number, false, g.m, k, ROWS);
        if (number == 0 || g.b.step != 0) pack(b, g.b, number, true, g.n, k, COLUMNS);
        for (int64_t j = 0; j < g.n; j += COLUMNS)
            for (int64_t i = 0; i < g.m; i += ROWS) {
                double sum[COLUMNS * ROWS] = {};
                multiply_tile(a.data() + i * k, b.data() + j * k, k, sum);
                store_tile(g, g.c + number * g.step_c + i + j * g.ldc,
                           g.bias ? g.bias + i : nullptr, std::min(ROWS, g.m - i),
                           std::min(COLUMNS, g.n - j), sum);
            }
    }
}

/* ---- arguments */

static bool is_operation(cublasOperation_t o) {
    return o == CUBLAS_OP_N || o == CUBLAS_OP_T || o == CUBLAS_OP_C;
}

matrix simt::blas_matrix(const void *data, cudaDataType type, cublasOperation_t operation,
                         int64_t ld, int64_t step, int64_t rows, int64_t columns) {
    bool transposed = operation != CUBLAS_OP_N;
    if (transposed) std::swap(rows, columns);
    return {data, transposed, type == CUDA_R_16BF, ld, step, rows, columns};
}

/* On the device this would be an illegal address, perhaps. */
static void check_extent(const char *name, const void *data, size_t element_bytes, int64_t ld,
                         int64_t step, int64_t rows, int64_t columns, int64_t batch) {
    if (rows == 0 || columns == 0) return;
    int64_t last = (columns - 1) * ld + rows + (batch - 1) * std::max<int64_t>(step, 0);
    size_t needed = (size_t)last * element_bytes, there = device_bytes_from(data);
    if ((uintptr_t)data % element_bytes != 0)
        die("cuBLAS: matrix %s at %p is not aligned to its elements", name, data);
    if (there < needed)
        die("cuBLAS: matrix %s at %p: expected %zu bytes of device memory, got %zu", name, data,
            needed, there);
}

static bool sizes_fit(const product &g) {
    return g.m >= 0 && g.n >= 0 && g.k >= 0 && g.batch >= 0 &&
           g.a.ld >= std::max<int64_t>(1, g.a.rows) && g.b.ld >= std::max<int64_t>(1, g.b.rows) &&
           g.ldc >= std::max<int64_t>(1, g.m);
}

static void check_matrices(const product &g) {
    for (const matrix *x : {&g.a, &g.b})
        check_extent(x == &g.a ? "A" : "B", x->data, x->bf16 ? 2 : 4, x->ld, x->step, x->rows,
                     x->columns, g.batch);
    check_extent("C", g.c, sizeof *g.c, g.ldc, g.step_c, g.m, g.n, g.batch);
    if (g.bias) check_extent("bias", g.bias, sizeof *g.bias, g.m, 0, g.m, 1, 1);
}

cublasStatus_t simt::blas_enqueue(cudaStream_t stream, const product &g) {
    if (!sizes_fit(g)) return CUBLAS_STATUS_INVALID_VALUE;
    if (g.m == 0 || g.n == 0 || g.batch == 0) return CUBLAS_STATUS_SUCCESS;
    if (!stream_exists(stream)) return CUBLAS_STATUS_EXECUTION_FAILED;
    check_matrices(g);
    stream_enqueue(stream, [=] { multiply(g); });
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- lists of matrices: device memory, which is read when the products are computed */

struct matrix_lists {
    const void *const *a, *const *b;
    void *const *c;
};

/* Tensor cores load 16 bytes of bf16 at a time: a device may take the misaligned address ill. */
static void check_alignment(const product &g) {
    for (const void *data : {g.a.data, g.b.data, (const void *)g.c})
        if (g.a.bf16 && (uintptr_t)data % 16 != 0)
            die("cuBLAS: listed matrix at %p is not aligned to 16 bytes", data);
    if (g.a.bf16 && (g.a.ld % 8 != 0 || g.b.ld % 8 != 0))
        die("cuBLAS: columns of a listed matrix are not aligned to 16 bytes");
}

static void multiply_listed(product g, const matrix_lists &lists) {
    const size_t count = (size_t)g.batch;
    std::vector<const void *> a(count), b(count);
    std::vector<void *> c(count);
    {
        opened memory({lists.a, lists.b, lists.c});
        std::copy_n(lists.a, count, a.begin());
        std::copy_n(lists.b, count, b.begin());
        std::copy_n(lists.c, count, c.begin());
    }
    g.batch = 1;
    for (size_t i = 0; i < count; i++) {
        g.a.data = a[i], g.b.data = b[i], g.c = static_cast<float *>(c[i]);
        check_matrices(g);
        check_alignment(g);
        multiply(g);
    }
}

/* ---- the API */

/* What products of all kinds are refused for; the matrices themselves are missing in g. */
static cublasStatus_t describe(cublasHandle_t handle, cublasOperation_t transa,
                               cublasOperation_t transb, int m, int n, int k, const void *alpha,
                               cudaDataType Atype, int lda, long long strideA, cudaDataType Btype,
                               int ldb, long long strideB, const void *beta, cudaDataType Ctype,
                               int ldc, int batch, cublasComputeType_t computeType, product &g) {
    cudaError_t injected = begin_call();
    if (injected != cudaSuccess) return blas_status(injected);
    if (!alpha || !beta || !is_operation(transa) || !is_operation(transb))
        return CUBLAS_STATUS_INVALID_VALUE;
    bool computes = computeType == CUBLAS_COMPUTE_32F || computeType == CUBLAS_COMPUTE_32F_PEDANTIC;
    if (!computes || Ctype != CUDA_R_32F || Atype != Btype ||
        (Atype != CUDA_R_32F && Atype != CUDA_R_16BF))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    g.m = m, g.n = n, g.k = k, g.batch = batch, g.ldc = ldc;
    g.alpha = *static_cast<const float *>(alpha);
    g.beta = *static_cast<const float *>(beta);
    g.a = blas_matrix(nullptr, Atype, transa, lda, strideA, m, k);
    g.b = blas_matrix(nullptr, Btype, transb, ldb, strideB, k, n);
    return blas_handle_exists(handle) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t transa,
                                          cublasOperation_t transb, int m, int n, int k,
                                          const void *alpha, const void *A, cudaDataType Atype,
                                          int lda, long long int strideA, const void *B,
                                          cudaDataType Btype, int ldb, long long int strideB,
                                          const void *beta, void *C, cudaDataType Ctype, int ldc,
                                          long long int strideC, int batchCount,
                                          cublasComputeType_t computeType, cublasGemmAlgo_t) {
    product g = {};
    cublasStatus_t status =
        describe(handle, transa, transb, m, n, k, alpha, Atype, lda, strideA, Btype, ldb, strideB,
                 beta, Ctype, ldc, batchCount, computeType, g);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    g.a.data = A, g.b.data = B;
    g.c = static_cast<float *>(C), g.step_c = strideC;
    return blas_enqueue(handle->stream, g);
}

cublasStatus_t cublasGemmBatchedEx(cublasHandle_t handle, cublasOperation_t transa,
                                   cublasOperation_t transb, int m, int n, int k, const void *alpha,
                                   const void *const Aarray[], cudaDataType Atype, int lda,
                                   const void *const Barray[], cudaDataType Btype, int ldb,
                                   const void *beta, void *const Carray[], cudaDataType Ctype,
                                   int ldc, int batchCount, cublasComputeType_t computeType,
                                   cublasGemmAlgo_t) {
    product g = {};
    cublasStatus_t status = describe(handle, transa, transb, m, n, k, alpha, Atype, lda, 0, Btype,
                                     ldb, 0, beta, Ctype, ldc, batchCount, computeType, g);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (!sizes_fit(g)) return CUBLAS_STATUS_INVALID_VALUE;
    if (g.m == 0 || g.n == 0 || g.batch == 0) return CUBLAS_STATUS_SUCCESS;
    for (const void *list : {(const void *)Aarray, (const void *)Barray, (const void *)Carray})
        check_extent("list", list, sizeof list, g.batch, 0, g.batch, 1, 1);
    const matrix_lists lists = {Aarray, Barray, Carray};
    stream_enqueue(handle->stream, [=] { multiply_listed(g, lists); });
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t transa,
                            cublasOperation_t transb, int m, int n, int k, const void *alpha,
                            const void *A, cudaDataType Atype, int lda, const void *B,
                            cudaDataType Btype, int ldb, const void *beta, void *C,
                            cudaDataType Ctype, int ldc, cublasComputeType_t computeType,
                            cublasGemmAlgo_t algo) {
    return cublasGemmStridedBatchedEx(handle, transa, transb, m, n, k, alpha, A, Atype, lda, 0, B,
                                      Btype, ldb, 0, beta, C, Ctype, ldc, 0, 1, computeType, algo);
}

cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t transa,
                                         cublasOperation_t transb, int m, int n, int k,
                                         const float *alpha, const float *A, int lda,
                                         long long int strideA, const float *B, int ldb,
                                         long long int strideB, const float *beta, float *C,
                                         int ldc, long long int strideC, int batchCount) {
    return cublasGemmStridedBatchedEx(handle, transa, transb, m, n, k, alpha, A, CUDA_R_32F, lda,
                                      strideA, B, CUDA_R_32F, ldb, strideB, beta, C, CUDA_R_32F,
                                      ldc, strideC, batchCount, CUBLAS_COMPUTE_32F,
                                      CUBLAS_GEMM_DEFAULT);
}

cublasStatus_t cublasSgemm(cublasHandle_t handle, cublasOperation_t transa,
                           cublasOperation_t transb, int m, int n, int k, const float *alpha,
                           const float *A, int lda, const float *B, int ldb, const float *beta,
                           float *C, int ldc) {
    return cublasSgemmStridedBatched(handle, transa, transb, m, n, k, alpha, A, lda, 0, B, ldb, 0,
                                     beta, C, ldc, 0, 1);
}

cublasStatus_t cublasCreate(cublasHandle_t *handle) {
    cudaError_t injected = begin_call();
    if (injected != cudaSuccess) return blas_status(injected);
    if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
    *handle = new cublasContext{true, nullptr};
    handles.push_back(*handle);
    count_resource(resource::cublas_handle, 1);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle) {
    cudaError_t injected = begin_call();
    if (!blas_handle_exists(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    finish_all_streams();
    handle->alive = false;
    count_resource(resource::cublas_handle, -1);
    return blas_status(injected);
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t streamId) {
    cudaError_t injected = begin_call();
    if (injected != cudaSuccess) return blas_status(injected);
    if (!blas_handle_exists(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    handle->stream = streamId;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void *workspace,
                                  size_t workspaceSizeInBytes) {
    cudaError_t injected = begin_call();
    if (injected != cudaSuccess) return blas_status(injected);
    if (!blas_handle_exists(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    if ((uintptr_t)workspace % 256 != 0 || device_bytes_from(workspace) < workspaceSizeInBytes)
        return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t) {
    cudaError_t injected = begin_call();
    if (injected != cudaSuccess) return blas_status(injected);
    return blas_handle_exists(handle) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_INITIALIZED;
}

cublasStatus_t cublasGetVersion(cublasHandle_t handle, int *version) {
    if (!blas_handle_exists(handle)) return CUBLAS_STATUS_NOT_INITIALIZED;
    *version = CUBLAS_VERSION;
    return CUBLAS_STATUS_SUCCESS;
}

static const struct {
    cublasStatus_t status;
    const char *name, *text;
} statuses[] = {
    {CUBLAS_STATUS_SUCCESS, "CUBLAS_STATUS_SUCCESS", "success"},
    {CUBLAS_STATUS_NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED",
     "the library was not initialized"},
    {CUBLAS_STATUS_ALLOC_FAILED, "CUBLAS_STATUS_ALLOC_FAILED", "the resource allocation failed"},
    {CUBLAS_STATUS_INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE",
     "an unsupported value or parameter was passed to the function"},
    {CUBLAS_STATUS_EXECUTION_FAILED, "CUBLAS_STATUS_EXECUTION_FAILED",
     "the GPU program failed to execute"},
    {CUBLAS_STATUS_NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED",
     "the functionality requested is not supported"},
};

const char *cublasGetStatusName(cublasStatus_t status) {
    for (const auto &row : statuses)
        if (row.status == status) return row.name;
    return "unknown status";
}

const char *cublasGetStatusString(cublasStatus_t status) {
    for (const auto &row : statuses)
        if (row.status == status) return row.text;
    return "unknown status";
}
