/* A stream, a cuBLAS handle and a workspace. One allocation serves all three: cuBLAS's own workspace first, so that it never
 * allocates while it computes, then a flag, then the workspace of the operations. */
#include "kernels/cuda/exec.h"

#include "kernels/cuda/internal.h"
#include "kernels/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define BLAS_BYTES_MAX ((size_t)32 << 20) /* what cuBLAS uses on Hopper */
#define FLAG_BYTES ((size_t)256)

static size_t blas_bytes(size_t workspace_bytes)
{
    size_t half = workspace_bytes / 2 / 256 * 256;
    return half < BLAS_BYTES_MAX ? half : BLAS_BYTES_MAX;
}

int crn_cuda_enter(const struct crn_exec *e, struct crn_cuda_exec **out_exec)
{
    if (e == NULL || e->stream == NULL)
        return CAIRN_E_ARG;
    struct crn_cuda_exec *x = e->stream;
    int status = crn_cuda_use(x->device);
    if (status == 0)
        *out_exec = x;
    return status;
}

static int open_blas(struct crn_cuda_exec *x, size_t bytes)
{
    const struct crn_cuda_blas *blas;
    int status = crn_cuda_blas(&blas);
    if (status == 0)
        status = crn_cuda_blas_status(blas->create(&x->blas), "cublasCreate");
    if (status == 0)
        status = crn_cuda_blas_status(blas->set_stream(x->blas, x->stream), "cublasSetStream");
    if (status == 0)
        status = crn_cuda_blas_status(blas->set_workspace(x->blas, x->allocation, bytes), "cublasSetWorkspace");
    return status;
}

static int open_parts(struct crn_cuda_exec *x, size_t bytes, size_t for_blas)
{
    void *host = NULL;
    int status = crn_cuda_status((int)cudaStreamCreateWithFlags(&x->stream, cudaStreamNonBlocking),
                                 "cudaStreamCreateWithFlags");
    if (status == 0)
        status = crn_cuda_status((int)cudaMalloc(&x->allocation, bytes), "cudaMalloc");
    if (status == 0)
        status = crn_cuda_status((int)cudaMallocHost(&host, FLAG_BYTES), "cudaMallocHost");
    x->bad_host = host;
    if (status == 0 && for_blas > 0)
        status = open_blas(x, for_blas);
    if (status != 0)
        return status;
    x->bad = (uint32_t *)(void *)((char *)x->allocation + for_blas);
    status = crn_cuda_status((int)cudaMemsetAsync(x->bad, 0, FLAG_BYTES, x->stream), "cudaMemsetAsync");
    return status != 0 ? status : crn_cuda_status((int)cudaStreamSynchronize(x->stream), "cudaStreamSynchronize");
}

static const struct crn_exec_memory memory;

static int exec_open(int device, size_t workspace_bytes, size_t for_blas, struct crn_exec *out_exec)
{
    int status = crn_cuda_use(device);
    if (status != 0)
        return status;
    struct crn_cuda_exec *x = calloc(1, sizeof *x);
    if (x == NULL)
        return -ENOMEM;
    x->device = device;
    struct crn_exec exec = { .stream = x };
    status = open_parts(x, workspace_bytes, for_blas);
    if (status != 0) {
        crn_cuda_exec_close(&exec);
        return status;
    }
    exec.memory = &memory;
    exec.workspace = (char *)x->allocation + for_blas + FLAG_BYTES;
    exec.workspace_bytes = workspace_bytes - for_blas - FLAG_BYTES;
    *out_exec = exec;
    return 0;
}

int crn_cuda_exec_open(int device, size_t workspace_bytes, struct crn_exec *out_exec)
{
    return workspace_bytes < CRN_CUDA_WORKSPACE_MIN ? CAIRN_E_ARG
                                                    : exec_open(device, workspace_bytes, blas_bytes(workspace_bytes), out_exec);
}

int crn_cuda_exec_open_plain(int device, size_t workspace_bytes, struct crn_exec *out_exec)
{
    return workspace_bytes < CRN_CUDA_WORKSPACE_MIN ? CAIRN_E_ARG : exec_open(device, workspace_bytes, 0, out_exec);
}

static size_t workspace_for(uint64_t device_bytes)
{
    const uint64_t mib = (uint64_t)1 << 20, share = device_bytes / 64;
    return (size_t)(share < 16 * mib ? 16 * mib : share > 512 * mib ? 512 * mib : share);
}

int crn_cuda_exec_open_on(int device, struct crn_exec *out_exec, char *why, size_t why_bytes)
{
    struct crn_cuda_info info;
    int n = 0;
    if (!crn_kernels_cuda.probe(why, why_bytes))
        return CAIRN_E_NO_DEVICE;
    int status = crn_cuda_devices(&n, why, why_bytes);
    if (status == 0 && device >= n) {
        snprintf(why, why_bytes, "there are %d devices", n);
        status = CAIRN_E_NO_DEVICE;
    }
    if (status != 0)
        return status;
    status = crn_cuda_info(device, &info);
    if (status == 0)
        status = crn_cuda_exec_open(device, workspace_for(info.total_bytes), out_exec);
    snprintf(why, why_bytes, "%s", status == 0 ? info.name : cairn_strerror(status));
    return status;
}

int crn_cuda_exec_sync(const struct crn_exec *exec)
{
    struct crn_cuda_exec *x;
    int status = crn_cuda_enter(exec, &x);
    return status != 0 ? status : crn_cuda_status((int)cudaStreamSynchronize(x->stream), "cudaStreamSynchronize");
}

void crn_cuda_exec_close(struct crn_exec *exec)
{
    const struct crn_cuda_blas *blas;
    struct crn_cuda_exec *x = exec->stream;
    if (x == NULL)
        return;
    (void)crn_cuda_use(x->device);
    if (x->stream != NULL)
        (void)crn_cuda_status((int)cudaStreamSynchronize(x->stream), "cudaStreamSynchronize");
    if (x->blas != NULL && crn_cuda_blas(&blas) == 0)
        (void)crn_cuda_blas_status(blas->destroy(x->blas), "cublasDestroy");
    if (x->bad_host != NULL)
        (void)crn_cuda_status((int)cudaFreeHost(x->bad_host), "cudaFreeHost");
    if (x->allocation != NULL)
        (void)crn_cuda_status((int)cudaFree(x->allocation), "cudaFree");
    if (x->stream != NULL)
        (void)crn_cuda_status((int)cudaStreamDestroy(x->stream), "cudaStreamDestroy");
    free(x);
    *exec = (struct crn_exec){ 0 };
}

int crn_cuda_alloc(const struct crn_exec *exec, size_t bytes, void **out_at)
{
    struct crn_cuda_exec *x;
    void *at = NULL;
    int status = crn_cuda_enter(exec, &x);
    if (status == 0)
        status = crn_cuda_status((int)cudaMalloc(&at, bytes > 0 ? bytes : 1), "cudaMalloc");
    if (status == 0)
        *out_at = at;
    return status;
}

void crn_cuda_free(const struct crn_exec *exec, void *at)
{
    struct crn_cuda_exec *x;
    if (at != NULL && crn_cuda_enter(exec, &x) == 0)
        (void)crn_cuda_status((int)cudaFree(at), "cudaFree");
}

static int move(const struct crn_exec *exec, void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind)
{
    struct crn_cuda_exec *x;
    int status = crn_cuda_enter(exec, &x);
    if (status != 0 || bytes == 0)
        return status;
    return crn_cuda_status((int)cudaMemcpyAsync(dst, src, bytes, kind, x->stream), "cudaMemcpyAsync");
}

int crn_cuda_upload(const struct crn_exec *exec, void *device, const void *host, size_t bytes)
{
    return move(exec, device, host, bytes, cudaMemcpyHostToDevice);
}

int crn_cuda_download(const struct crn_exec *exec, void *host, const void *device, size_t bytes)
{
    return move(exec, host, device, bytes, cudaMemcpyDeviceToHost);
}

/* ---- kernels/memory.h ---- */

static int memory_move(const struct crn_exec *e, void *dst, const void *src, size_t bytes, enum crn_move way)
{
    static const enum cudaMemcpyKind kinds[] = { [CRN_MOVE_IN] = cudaMemcpyHostToDevice, [CRN_MOVE_OUT] = cudaMemcpyDeviceToHost,
                                                 [CRN_MOVE_WITHIN] = cudaMemcpyDeviceToDevice };
    return move(e, dst, src, bytes, kinds[way]);
}

static int memory_zero(const struct crn_exec *e, void *at, size_t bytes)
{
    struct crn_cuda_exec *x;
    int status = crn_cuda_enter(e, &x);
    if (status != 0 || bytes == 0)
        return status;
    return crn_cuda_status((int)cudaMemsetAsync(at, 0, bytes, x->stream), "cudaMemsetAsync");
}

static const struct crn_exec_memory memory = { .alloc = crn_cuda_alloc,
                                               .free = crn_cuda_free,
                                               .move = memory_move,
                                               .zero = memory_zero,
                                               .sync = crn_cuda_exec_sync };
