/* cuBLAS: products of strided batches with f32, f16 and bf16 inputs, sums in f32. A handle belongs to the stream it was given;
 * without a workspace of the caller's the real library would allocate while it computes, so its absence is a violation.
 *
 * Column-major as cuBLAS: C (m x n) = alpha op(A) op(B) + beta C. C is not read when beta is 0. */
#include "tests/cuda_emu/internal.h"

#include <cublas_v2.h>

#include "kernels/half.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct cublasContext {
    cudaStream_t stream;
    void *workspace;
    int device;
};

struct operand {
    const char *p;
    cudaDataType type;
    int ld, transposed;
    long long stride;
};

struct product {
    int m, n, k, batch;
    float alpha, beta;
    struct operand a, b, c;
};

static size_t size_of(cudaDataType type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

static cublasStatus_t finish(int code)
{
    emu_end(code);
    return code == 0 ? CUBLAS_STATUS_SUCCESS : code == cudaErrorMemoryAllocation ? CUBLAS_STATUS_ALLOC_FAILED
           : code == cudaErrorInvalidValue                                       ? CUBLAS_STATUS_INVALID_VALUE
           : code < 100                                                          ? (cublasStatus_t)code
                                                                                 : CUBLAS_STATUS_EXECUTION_FAILED;
}

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle)
{
    int code = emu_begin("cublasCreate", EMU_NEED_CONTEXT);
    cublasHandle_t h = code == 0 ? calloc(1, sizeof *h) : NULL;
    if (h != NULL) {
        h->device = emu_device();
        emu_now.blas++;
        *handle = h;
    }
    return finish(code == 0 && h == NULL ? (int)cudaErrorMemoryAllocation : code);
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle)
{
    int code = emu_begin("cublasDestroy", EMU_NEED_CONTEXT);
    if (code == 0) {
        emu_drain_all();
        free(handle);
        emu_now.blas--;
    }
    return finish(code);
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t streamId)
{
    int code = emu_begin("cublasSetStream", EMU_NEED_CONTEXT);
    if (code == 0 && !emu_stream_ok(streamId))
        code = cudaErrorInvalidValue;
    if (code == 0) {
        handle->stream = streamId;
        handle->workspace = NULL; /* as documented: setting the stream resets the workspace */
    }
    return finish(code);
}

cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t handle, void *workspace, size_t workspaceSizeInBytes)
{
    int code = emu_begin("cublasSetWorkspace", EMU_NEED_CONTEXT);
    if (code == 0 && (uintptr_t)workspace % 256 != 0)
        code = cudaErrorInvalidValue;
    if (code == 0) {
        emu_check_range("cublasSetWorkspace", workspace, workspaceSizeInBytes, PROT_READ | PROT_WRITE);
        handle->workspace = workspace;
    }
    return finish(code);
}

/* Rows and columns as stored, the part that a product touches. */
static void check_operand(const char *name, const struct product *p, const struct operand *o, int rows, int cols, int prot)
{
    if (rows == 0 || cols == 0)
        return;
    for (long long i = 0; i < p->batch; i++) {
        const char *at = o->p + i * o->stride * (long long)size_of(o->type);
        size_t bytes = ((size_t)o->ld * ((size_t)cols - 1) + (size_t)rows) * size_of(o->type);
        emu_check_range(name, at, bytes, prot);
        if ((uintptr_t)at % size_of(o->type) != 0)
            emu_violation("%s: %p is not aligned", name, (const void *)at);
    }
}

static void check_product(const struct product *p)
{
    check_operand("gemm A", p, &p->a, p->a.transposed ? p->k : p->m, p->a.transposed ? p->m : p->k, PROT_READ);
    check_operand("gemm B", p, &p->b, p->b.transposed ? p->n : p->k, p->b.transposed ? p->k : p->n, PROT_READ);
    check_operand("gemm C", p, &p->c, p->m, p->n, PROT_READ | PROT_WRITE);
}

static float number(const struct operand *o, const char *base, size_t index)
{
    uint16_t half;
    if (o->type == CUDA_R_32F)
        return ((const float *)(const void *)base)[index];
    memcpy(&half, base + 2 * index, 2);
    return o->type == CUDA_R_16F ? crn_f16_to_f32(half) : crn_bf16_to_f32(half);
}

/* op(X) as rows of k numbers: [rows][k]. A is seen by its rows, B by its columns, so both come out the same way. */
static void unpack(const struct operand *o, const char *base, int k_runs_down, int rows, int k, float *out)
{
    for (int r = 0; r < rows; r++) {
        for (int j = 0; j < k; j++) {
            size_t index = k_runs_down ? (size_t)r * (size_t)o->ld + (size_t)j : (size_t)j * (size_t)o->ld + (size_t)r;
            out[(size_t)r * (size_t)k + (size_t)j] = number(o, base, index);
        }
    }
}

#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define FAST __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3", "associative-math", "no-signed-zeros", "no-trapping-math")))
#else
#define FAST
#endif

/* Sums of one row of b with four rows of a: [4] running totals, each vectorised. Nothing is skipped: zero times infinity must
 * stay NaN. */
FAST static void dot4(const float *const rows[4], const float *b, size_t k, float out[4])
{
    const float *a = rows[0], *a1 = rows[1], *a2 = rows[2], *a3 = rows[3];
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (size_t i = 0; i < k; i++) {
        s0 += a[i] * b[i];
        s1 += a1[i] * b[i];
        s2 += a2[i] * b[i];
        s3 += a3[i] * b[i];
    }
    out[0] = s0;
    out[1] = s1;
    out[2] = s2;
    out[3] = s3;
}

/* Rows of k numbers, `stride` apart: where they lie when they are f32 and run along k, else unpacked into scratch. */
struct rows {
    const float *p;
    size_t stride;
};

static struct rows rows_of(const struct operand *o, long long i, int k_runs_down, int rows, int k, float *scratch)
{
    const char *base = o->p + i * o->stride * (long long)size_of(o->type);
    if (o->type == CUDA_R_32F && k_runs_down)
        return (struct rows){ (const float *)(const void *)base, (size_t)o->ld };
    unpack(o, base, k_runs_down, rows, k, scratch);
    return (struct rows){ scratch, (size_t)k };
}

static void multiply(const struct product *p, long long i, float *scratch_a, float *scratch_b)
{
    struct rows a = rows_of(&p->a, i, p->a.transposed, p->m, p->k, scratch_a);
    struct rows b = rows_of(&p->b, i, !p->b.transposed, p->n, p->k, scratch_b);
    float *c = (float *)(uintptr_t)(p->c.p + i * p->c.stride * 4), sums[4];
    for (int m = 0; m < p->m; m += 4) {
        const float *group[4];
        for (int j = 0; j < 4; j++)
            group[j] = a.p + (size_t)(m + j < p->m ? m + j : m) * a.stride;
        for (int n = 0; n < p->n; n++) {
            dot4(group, b.p + (size_t)n * b.stride, (size_t)p->k, sums);
            for (int j = 0; j < 4 && m + j < p->m; j++) {
                float *to = &c[(size_t)n * (size_t)p->c.ld + (size_t)(m + j)], sum = p->alpha * sums[j];
                *to = p->beta == 0 ? sum : sum + p->beta * *to;
            }
        }
    }
}

static void run_product(void *arg)
{
    const struct product *p = arg;
    check_product(p);
    float *a = malloc(((size_t)p->m * (size_t)p->k + 1) * sizeof *a);
    float *b = malloc(((size_t)p->n * (size_t)p->k + 1) * sizeof *b);
    if (a == NULL || b == NULL)
        emu_violation("no host memory for a product");
    for (long long i = 0; i < p->batch; i++)
        multiply(p, i, a, b);
    free(a);
    free(b);
}

static int check_arguments(const struct product *p, cudaDataType type_c, cublasComputeType_t compute)
{
    int rows_a = p->a.transposed ? p->k : p->m, rows_b = p->b.transposed ? p->n : p->k;
    if (p->m < 0 || p->n < 0 || p->k < 0 || p->batch < 0 || compute != CUBLAS_COMPUTE_32F || type_c != CUDA_R_32F)
        return cudaErrorInvalidValue;
    if (p->a.type != p->b.type || (p->a.type != CUDA_R_32F && p->a.type != CUDA_R_16F && p->a.type != CUDA_R_16BF))
        return cudaErrorInvalidValue;
    return p->a.ld < (rows_a > 1 ? rows_a : 1) || p->b.ld < (rows_b > 1 ? rows_b : 1) || p->c.ld < (p->m > 1 ? p->m : 1)
               ? cudaErrorInvalidValue
               : 0;
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t transa, cublasOperation_t transb, int m,
                                          int n, int k, const void *alpha, const void *A, cudaDataType Atype, int lda,
                                          long long int strideA, const void *B, cudaDataType Btype, int ldb,
                                          long long int strideB, const void *beta, void *C, cudaDataType Ctype, int ldc,
                                          long long int strideC, int batchCount, cublasComputeType_t computeType,
                                          cublasGemmAlgo_t algo)
{
    (void)algo;
    int code = emu_begin("cublasGemmStridedBatchedEx", EMU_NEED_CONTEXT);
    if (code != 0)
        return finish(code);
    if (handle->stream == NULL || handle->workspace == NULL || handle->device != emu_device())
        emu_violation("cuBLAS is used without a stream and a workspace of its own, or on another device");
    struct product *p = malloc(sizeof *p);
    if (p == NULL)
        return finish(cudaErrorMemoryAllocation);
    *p = (struct product){ m, n, k, batchCount, *(const float *)alpha, *(const float *)beta,
                           { A, Atype, lda, transa == CUBLAS_OP_T, strideA },
                           { B, Btype, ldb, transb == CUBLAS_OP_T, strideB },
                           { C, Ctype, ldc, 0, strideC } };
    code = check_arguments(p, Ctype, computeType);
    if (code == 0 && m != 0 && n != 0 && batchCount != 0) {
        check_product(p);
        code = emu_enqueue(handle->stream, "a matrix product", run_product, p);
        p = code == 0 ? NULL : p;
    }
    free(p);
    return finish(code);
}
