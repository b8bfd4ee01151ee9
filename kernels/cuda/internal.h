/* What the C files of this folder share. */
#ifndef CRN_KERNELS_CUDA_INTERNAL_H
#define CRN_KERNELS_CUDA_INTERNAL_H

#include "ipc/cuda_driver.h"
#include "kernels/cuda/exec.h"
#include "kernels/cuda/launch.h"

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

/* Behind crn_exec.stream. */
struct crn_cuda_exec {
    int device;
    cudaStream_t stream;
    cublasHandle_t blas;
    void *allocation;     /* cuBLAS's part, the flag, then crn_exec.workspace */
    uint32_t *bad;        /* device: a kernel saw an index out of range */
    uint32_t *bad_host;   /* page-locked copy */
};

/* The exec behind e, its device made current. fails CAIRN_E_ARG without one. */
int crn_cuda_enter(const struct crn_exec *e, struct crn_cuda_exec **out_exec);

/* cuBLAS, found at run time (blas.c). */
struct crn_cuda_blas {
    cublasStatus_t (*create)(cublasHandle_t *handle);
    cublasStatus_t (*destroy)(cublasHandle_t handle);
    cublasStatus_t (*set_stream)(cublasHandle_t handle, cudaStream_t stream);
    cublasStatus_t (*set_workspace)(cublasHandle_t handle, void *at, size_t bytes);
    cublasStatus_t (*gemm)(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                           const void *alpha, const void *a, cudaDataType at, int lda, long long stride_a, const void *b,
                           cudaDataType bt, int ldb, long long stride_b, const void *beta, void *c, cudaDataType ct,
                           int ldc, long long stride_c, int batch, cublasComputeType_t compute, cublasGemmAlgo_t algo);
};
int crn_cuda_blas(const struct crn_cuda_blas **out_blas);
int crn_cuda_blas_status(cublasStatus_t status, const char *call);

/* Row-major products of a strided batch, sums in f32:   c [m][n] = beta * c + alpha * a [m][k] . b
 * b is [n][k] (b_by_rows 1: its rows are dotted with a's) or [k][n]. dtype of a and b: f32, f16, bf16; c is f32.
 * Strides between the matrices of a batch and row lengths are in numbers. */
struct crn_cuda_product {
    size_t m, n, k;
    const void *a, *b;
    float *c;
    size_t lda, ldb, ldc;
    size_t stride_a, stride_b, stride_c;
    size_t batch;
    uint32_t dtype;
    int b_by_rows;
    float alpha, beta;
};
int crn_cuda_multiply(const struct crn_cuda_exec *x, const struct crn_cuda_product *p);

/* gemm.c, attention.c, checksum.c: operations of the table. */
int crn_cuda_gemm(const struct crn_exec *e, const float *a, size_t m, const struct crn_matrix *w, float beta, float *out);
int crn_cuda_attention(const struct crn_exec *e, const struct crn_attention *a, float *out);
int crn_cuda_scores(const struct crn_exec *e, const struct crn_scores *s, float *out);
int crn_cuda_checksum(const struct crn_exec *e, const void *data, size_t bytes, uint64_t *out_hash);
int crn_cuda_largest(const struct crn_exec *e, const float *x, size_t n, float *out_max);

#endif
