/* The "cuda-ipc" backend: cudaMalloc blocks whose 64-byte handles travel inside the message.
 *
 * Blocks are whole multiples of 2 MiB, or the handle would expose the neighbours in the allocator's block. There is no read-only
 * mapping. The creator must not free a block while somebody has it open (undefined behaviour): importers come first, and when
 * an importer died the driver has dropped its mapping. A handle cannot be opened in the process that made it.
 *
 * Opened handles are kept in a table with counts of our own: the driver's promise to count was not always kept, and one close
 * must not unmap what another part of the process reads. The table is bounded; when it is full the import fails with FULL. */
#include "ipc/mem.h"

#include "ipc/cuda_driver.h"
#include "ipc/log.h"

#include <cuda_runtime_api.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_BYTES ((uint64_t)1 << 46)
#define GRANULE ((uint64_t)2 << 20)
enum { MAX_OPEN = 256 };

_Static_assert(sizeof(cudaIpcMemHandle_t) == sizeof ((struct crn_mem_token *)0)->handle, "handle travels in the token");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct opened {
    cudaIpcMemHandle_t handle;
    void *base;
    unsigned count; /* 0 = free slot */
    int device;
} table[MAX_OPEN];

static int ipc_probe(char *why, size_t why_bytes)
{
    int n, can = 0;
    if (crn_cuda_devices(&n, why, why_bytes) != 0)
        return 0;
    cudaError_t error = cudaDeviceGetAttribute(&can, cudaDevAttrIpcEventSupport, 0);
    if (crn_cuda_status((int)error, "cudaDeviceGetAttribute") == 0 && can)
        return 1;
    snprintf(why, why_bytes, "the device does not support CUDA IPC");
    return 0;
}

static int ipc_create(uint64_t bytes, int device, enum crn_mem_role role, struct crn_mem *out_mem)
{
    void *base = NULL;
    if (bytes == 0 || (role != CRN_MEM_ARENA && role != CRN_MEM_LANDING))
        return CAIRN_E_ARG;
    if (bytes > MAX_BYTES)
        return CAIRN_E_TOO_BIG;
    bytes = (bytes + GRANULE - 1) / GRANULE * GRANULE;
    int status = crn_cuda_use(device);
    if (status == 0)
        status = crn_cuda_status((int)cudaMalloc(&base, bytes), "cudaMalloc");
    if (status != 0)
        return status;
    status = crn_cuda_clear(device, base, bytes);
    if (status != 0) {
        (void)crn_cuda_status((int)cudaFree(base), "cudaFree");
        return status;
    }
    *out_mem = (struct crn_mem){ .ops = &crn_mem_cuda_ipc, .base = base, .bytes = bytes, .fd = -1, .device = device,
                                 .owner = 1 };
    return 0;
}

static int ipc_export(const struct crn_mem *mem, struct crn_mem_token *out_token, int *out_fd)
{
    struct crn_cuda_info info;
    cudaIpcMemHandle_t handle;
    if (!mem->owner)
        return CAIRN_E_ARG;
    int status = crn_cuda_info(mem->device, &info);
    if (status == 0)
        status = crn_cuda_status((int)cudaIpcGetMemHandle(&handle, mem->base), "cudaIpcGetMemHandle");
    if (status != 0)
        return status;
    *out_token = (struct crn_mem_token){ .kind = CRN_MEM_CUDA_IPC, .bytes = mem->bytes };
    memcpy(out_token->device_uuid, info.uuid, sizeof out_token->device_uuid);
    memcpy(out_token->handle, &handle, sizeof out_token->handle);
    *out_fd = -1;
    return 0;
}

/* A slot that has this handle open, else a free one; NULL when the table is full. */
static struct opened *slot_for(const cudaIpcMemHandle_t *handle)
{
    struct opened *unused = NULL;
    for (struct opened *o = table; o < table + MAX_OPEN; o++) {
        if (o->count > 0 && memcmp(&o->handle, handle, sizeof *handle) == 0)
            return o;
        if (o->count == 0 && unused == NULL)
            unused = o;
    }
    return unused;
}

static int open_locked(const cudaIpcMemHandle_t *handle, int device, void **out_base)
{
    struct opened *o = slot_for(handle);
    if (o == NULL) {
        crn_log(CRN_LOG_WARN, "memory: more than %d CUDA IPC handles open", MAX_OPEN);
        return CAIRN_E_FULL;
    }
    if (o->count == 0) {
        void *base = NULL;
        cudaError_t error = cudaIpcOpenMemHandle(&base, *handle, cudaIpcMemLazyEnablePeerAccess);
        int status = crn_cuda_status((int)error, "cudaIpcOpenMemHandle");
        if (status != 0)
            return error == cudaErrorInvalidValue || error == cudaErrorMapBufferObjectFailed ? CAIRN_E_CORRUPT : status;
        *o = (struct opened){ .handle = *handle, .base = base, .device = device };
    }
    o->count++;
    *out_base = o->base;
    return 0;
}

static int ipc_import(const struct crn_mem_token *token, int fd, enum crn_mem_access access, struct crn_mem *out_mem)
{
    cudaIpcMemHandle_t handle;
    void *base = NULL;
    int device = -1, status = 0;
    if (fd >= 0)
        close(fd); /* none belongs to this kind */
    if (access != CRN_MEM_READ && access != CRN_MEM_WRITE)
        return CAIRN_E_ARG;
    if (token->kind != CRN_MEM_CUDA_IPC || token->bytes == 0 || token->bytes > MAX_BYTES || token->bytes % GRANULE != 0)
        status = CAIRN_E_CORRUPT;
    if (status == 0)
        status = crn_cuda_by_uuid(token->device_uuid, &device);
    if (status == 0)
        status = crn_cuda_use(device);
    if (status == 0) {
        memcpy(&handle, token->handle, sizeof handle);
        pthread_mutex_lock(&lock);
        status = open_locked(&handle, device, &base);
        pthread_mutex_unlock(&lock);
    }
    if (status != 0) {
        crn_log(CRN_LOG_WARN, "memory: import of %llu bytes of device memory: %s", (unsigned long long)token->bytes,
                cairn_strerror(status));
        return status;
    }
    *out_mem = (struct crn_mem){ .ops = &crn_mem_cuda_ipc, .base = base, .bytes = token->bytes, .fd = -1, .device = device,
                                 .access = (uint32_t)access };
    return 0;
}

static void close_import(const void *base)
{
    pthread_mutex_lock(&lock);
    for (struct opened *o = table; o < table + MAX_OPEN; o++) {
        if (o->count == 0 || o->base != base)
            continue;
        if (--o->count == 0)
            (void)crn_cuda_status((int)cudaIpcCloseMemHandle(o->base), "cudaIpcCloseMemHandle");
        break;
    }
    pthread_mutex_unlock(&lock);
}

static void ipc_destroy(struct crn_mem *mem)
{
    if (mem->ops == NULL)
        return;
    (void)crn_cuda_fence(mem->device);
    if (mem->owner)
        (void)crn_cuda_status((int)cudaFree(mem->base), "cudaFree");
    else
        close_import(mem->base);
    *mem = (struct crn_mem){ 0 };
}

const struct crn_mem_ops crn_mem_cuda_ipc = {
    .name = "cuda-ipc",
    .kind = CRN_MEM_CUDA_IPC,
    .cpu_visible = 0,
    .fd_travels = 0,
    .probe = ipc_probe,
    .create = ipc_create,
    .export_token = ipc_export,
    .import_token = ipc_import,
    .copy = crn_mem_cuda_copy,
    .clear = crn_mem_cuda_clear,
    .fence = crn_mem_cuda_fence,
    .destroy = ipc_destroy,
};
