/* cuBLAS, opened when the first exec is: linking it would add 0.13 s to the start of every process that could use a GPU
 * (measured, CUDA 13.0), and a binary would not start on a machine without the library. CRN_CUBLAS is its file name, NULL for a
 * build in which the program itself has the functions (the emulator).
 *
 * cuBLAS is column-major: the product is asked for transposed, with a and b exchanged. */
#include "kernels/cuda/internal.h"

#include "ipc/log.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

#ifndef CRN_CUBLAS
#define CRN_CUBLAS "libcublas.so.13"
#endif

static struct crn_cuda_blas functions;
static int found = CAIRN_E_NOT_BUILT;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static int look_up(void *library, const char *name, void *out_function)
{
    void *at = dlsym(library, name);
    if (at == NULL) {
        crn_log(CRN_LOG_WARN, "cuda: cuBLAS has no %s", name);
        return CAIRN_E_UNSUPPORTED;
    }
    memcpy(out_function, &at, sizeof at);
    return 0;
}

static void open_library(void)
{
    void *library = dlopen(CRN_CUBLAS, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        crn_log(CRN_LOG_WARN, "cuda: %s", dlerror());
        return;
    }
    found = look_up(library, "cublasCreate_v2", &functions.create);
    if (found == 0)
        found = look_up(library, "cublasDestroy_v2", &functions.destroy);
    if (found == 0)
        found = look_up(library, "cublasSetStream_v2", &functions.set_stream);
    if (found == 0)
        found = look_up(library, "cublasSetWorkspace_v2", &functions.set_workspace);
    if (found == 0)
        found = look_up(library, "cublasGemmStridedBatchedEx", &functions.gemm);
}

int crn_cuda_blas(const struct crn_cuda_blas **out_blas)
{
    pthread_once(&once, open_library);
    if (found == 0)
        *out_blas = &functions;
    return found;
}

int crn_cuda_blas_status(cublasStatus_t status, const char *call)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return 0;
    int error = (int)cudaGetLastError(); /* the device's own word, when it has one */
    crn_log(CRN_LOG_WARN, "cuda: %s: cuBLAS status %d", call, (int)status);
    if (error != 0)
        return crn_cuda_status(error, call);
    switch (status) {
    case CUBLAS_STATUS_ALLOC_FAILED:
        return -ENOMEM;
    case CUBLAS_STATUS_INVALID_VALUE:
        return CAIRN_E_ARG;
    case CUBLAS_STATUS_ARCH_MISMATCH:
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return CAIRN_E_UNSUPPORTED;
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return CAIRN_E_DEVICE_LOST;
    default:
        return -EIO;
    }
}

static cudaDataType type_of(uint32_t dtype)
{
    return dtype == CAIRN_F32 ? CUDA_R_32F : dtype == CAIRN_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

int crn_cuda_multiply(const struct crn_cuda_exec *x, const struct crn_cuda_product *p)
{
    const struct crn_cuda_blas *blas;
    if (x->blas == NULL)
        return CAIRN_E_ARG;
    int status = crn_cuda_blas(&blas);
    if (status != 0 || p->m == 0 || p->n == 0 || p->batch == 0)
        return status;
    size_t widest = p->lda > p->ldb ? p->lda : p->ldb;
    widest = p->ldc > widest ? p->ldc : widest;
    if (p->m > INT_MAX || p->n > INT_MAX || p->k > INT_MAX || widest > INT_MAX || p->batch > INT_MAX)
        return CAIRN_E_TOO_BIG;
    cublasStatus_t result = blas->gemm(
        x->blas, p->b_by_rows ? CUBLAS_OP_T : CUBLAS_OP_N, CUBLAS_OP_N, (int)p->n, (int)p->m, (int)p->k, &p->alpha, p->b,
        type_of(p->dtype), (int)p->ldb, (long long)p->stride_b, p->a, type_of(p->dtype), (int)p->lda,
        (long long)p->stride_a, &p->beta, p->c, CUDA_R_32F, (int)p->ldc, (long long)p->stride_c, (int)p->batch,
        CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return crn_cuda_blas_status(result, "cublasGemmStridedBatchedEx");
}
