/* The "cuda-vmm" backend: cuMemCreate memory that travels as a descriptor.
 *
 * States of a segment: created (owner: memory, address range, mapping, exported descriptor) or imported (address range, mapping);
 * destroy takes each down in reverse order. The generic handle is released as soon as the memory is mapped: mappings and exported
 * descriptors keep it alive, so the memory outlives a broker that dies while workers read.
 *
 * A reader's mapping is PROT_READ: a stray store kills the process that made it. Whoever holds the descriptor could map it
 * for writing; that guards against bugs, not against hostile workers (docs/gpu.md).
 *
 * The driver tells nobody how large an imported allocation is; mapping more than there is fails, and that is the size check. */
#include "ipc/mem.h"

#include "ipc/cuda_driver.h"
#include "ipc/cuda_entry.h"
#include "ipc/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_BYTES ((uint64_t)1 << 46)

static int check(CUresult result, const char *call)
{
    return crn_cuda_status((int)result, call);
}

static CUmemAllocationProp properties(int device)
{
    CUmemAllocationProp prop;
    memset(&prop, 0, sizeof prop);
    prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    prop.location.id = device;
    return prop;
}

static int supports(const struct crn_cuda_entry *e, int device)
{
    int vmm = 0, fd = 0;
    if (check(e->DeviceGetAttribute(&vmm, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, device),
              "cuDeviceGetAttribute") != 0)
        return 0;
    if (check(e->DeviceGetAttribute(&fd, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED, device),
              "cuDeviceGetAttribute") != 0)
        return 0;
    return vmm && fd;
}

static int vmm_probe(char *why, size_t why_bytes)
{
    const struct crn_cuda_entry *e;
    int n, status = crn_cuda_devices(&n, why, why_bytes);
    if (status != 0)
        return 0;
    status = crn_cuda_entries(&e);
    if (status == 0 && supports(e, 0))
        return 1;
    snprintf(why, why_bytes, "the driver cannot share memory by descriptor");
    return 0;
}

/* --- mapping --- */

static void unmap(const struct crn_cuda_entry *e, CUdeviceptr at, uint64_t bytes, int mapped)
{
    if (mapped)
        (void)check(e->MemUnmap(at, bytes), "cuMemUnmap");
    (void)check(e->MemAddressFree(at, bytes), "cuMemAddressFree");
}

/* Reserves exactly what is needed, maps, grants access. */
static int map(int device, CUmemGenericAllocationHandle handle, uint64_t bytes, CUmemAccess_flags flags,
               CUdeviceptr *out_at)
{
    const struct crn_cuda_entry *e;
    CUmemAccessDesc access;
    CUdeviceptr at = 0;
    int status = crn_cuda_entries(&e);
    if (status == 0)
        status = check(e->MemAddressReserve(&at, bytes, 0, 0, 0), "cuMemAddressReserve");
    if (status != 0)
        return status;
    status = check(e->MemMap(at, bytes, 0, handle, 0), "cuMemMap");
    int mapped = status == 0;
    memset(&access, 0, sizeof access);
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = device;
    access.flags = flags;
    if (status == 0)
        status = check(e->MemSetAccess(at, bytes, &access, 1), "cuMemSetAccess");
    if (status != 0) {
        unmap(e, at, bytes, mapped);
        return status;
    }
    *out_at = at;
    return 0;
}

/* --- creating --- */

static int round_up(int device, uint64_t *bytes)
{
    const struct crn_cuda_entry *e;
    CUmemAllocationProp prop = properties(device);
    size_t granule = 0;
    int status = crn_cuda_entries(&e);
    if (status == 0)
        status = check(e->MemGetAllocationGranularity(&granule, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM),
                       "cuMemGetAllocationGranularity");
    if (status == 0)
        *bytes = (*bytes + granule - 1) / granule * granule;
    return status;
}

/* Memory, mapping and descriptor; whatever fails, nothing is left behind. */
static int build(int device, uint64_t bytes, CUdeviceptr *out_at, int *out_fd)
{
    const struct crn_cuda_entry *e;
    CUmemAllocationProp prop = properties(device);
    CUmemGenericAllocationHandle handle = 0;
    CUdeviceptr at = 0;
    int fd = -1, status = crn_cuda_entries(&e);
    if (status == 0)
        status = check(e->MemCreate(&handle, bytes, &prop, 0), "cuMemCreate");
    if (status != 0)
        return status;
    status = map(device, handle, bytes, CU_MEM_ACCESS_FLAGS_PROT_READWRITE, &at);
    if (status != 0)
        goto out;
    status = check(e->MemExport(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                   "cuMemExportToShareableHandle");
    if (status == 0)
        status = crn_cuda_clear(device, (void *)(uintptr_t)at, bytes); /* zero by contract, whatever the driver does */
    if (status != 0) {
        if (fd >= 0)
            close(fd);
        unmap(e, at, bytes, 1);
    }
out:
    (void)check(e->MemRelease(handle), "cuMemRelease");
    if (status == 0) {
        *out_at = at;
        *out_fd = fd;
    }
    return status;
}

static int vmm_create(uint64_t bytes, int device, enum crn_mem_role role, struct crn_mem *out_mem)
{
    CUdeviceptr at;
    int fd;
    if (bytes == 0 || (role != CRN_MEM_ARENA && role != CRN_MEM_LANDING))
        return CAIRN_E_ARG;
    if (bytes > MAX_BYTES)
        return CAIRN_E_TOO_BIG;
    int status = crn_cuda_use(device);
    if (status == 0)
        status = round_up(device, &bytes);
    if (status == 0)
        status = build(device, bytes, &at, &fd);
    if (status != 0)
        return status;
    *out_mem = (struct crn_mem){ .ops = &crn_mem_cuda_vmm, .base = (void *)(uintptr_t)at, .bytes = bytes, .fd = fd,
                                 .device = device, .owner = 1 };
    return 0;
}

static int vmm_export(const struct crn_mem *mem, struct crn_mem_token *out_token, int *out_fd)
{
    struct crn_cuda_info info;
    if (!mem->owner || mem->fd < 0)
        return CAIRN_E_ARG;
    int status = crn_cuda_info(mem->device, &info);
    if (status != 0)
        return status;
    *out_token = (struct crn_mem_token){ .kind = CRN_MEM_CUDA_VMM, .bytes = mem->bytes };
    memcpy(out_token->device_uuid, info.uuid, sizeof out_token->device_uuid);
    *out_fd = mem->fd;
    return 0;
}

/* --- importing --- */

static int import_map(const struct crn_mem_token *token, int fd, enum crn_mem_access access, int device, CUdeviceptr *out_at)
{
    const struct crn_cuda_entry *e;
    CUmemGenericAllocationHandle handle;
    uint64_t bytes = token->bytes;
    int status = crn_cuda_use(device);
    if (status == 0)
        status = crn_cuda_entries(&e);
    if (status == 0)
        status = round_up(device, &bytes);
    if (status == 0 && bytes != token->bytes)
        status = CAIRN_E_CORRUPT;
    if (status == 0)
        status = check(e->MemImport(&handle, (void *)(intptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
                       "cuMemImportFromShareableHandle");
    if (status != 0)
        return status;
    status = map(device, handle, bytes,
                 access == CRN_MEM_READ ? CU_MEM_ACCESS_FLAGS_PROT_READ : CU_MEM_ACCESS_FLAGS_PROT_READWRITE, out_at);
    (void)check(e->MemRelease(handle), "cuMemRelease");
    return status;
}

static int vmm_import(const struct crn_mem_token *token, int fd, enum crn_mem_access access, struct crn_mem *out_mem)
{
    CUdeviceptr at = 0;
    int device = -1, status = 0;
    if (access != CRN_MEM_READ && access != CRN_MEM_WRITE)
        status = CAIRN_E_ARG;
    else if (fd < 0 || token->kind != CRN_MEM_CUDA_VMM || token->bytes == 0 || token->bytes > MAX_BYTES)
        status = CAIRN_E_CORRUPT;
    if (status == 0)
        status = crn_cuda_by_uuid(token->device_uuid, &device);
    if (status == 0)
        status = import_map(token, fd, access, device, &at);
    if (fd >= 0)
        close(fd);
    if (status == CAIRN_E_ARG && (access == CRN_MEM_READ || access == CRN_MEM_WRITE))
        status = CAIRN_E_CORRUPT; /* the driver refused what the token or the descriptor said */
    if (status != 0) {
        crn_log(CRN_LOG_WARN, "memory: import of %llu bytes of device memory: %s", (unsigned long long)token->bytes,
                cairn_strerror(status));
        return status;
    }
    *out_mem = (struct crn_mem){ .ops = &crn_mem_cuda_vmm, .base = (void *)(uintptr_t)at, .bytes = token->bytes, .fd = -1,
                                 .device = device, .access = (uint32_t)access };
    return 0;
}

static void vmm_destroy(struct crn_mem *mem)
{
    const struct crn_cuda_entry *e;
    if (mem->ops == NULL)
        return;
    (void)crn_cuda_fence(mem->device);
    if (crn_cuda_entries(&e) == 0)
        unmap(e, (CUdeviceptr)(uintptr_t)mem->base, mem->bytes, 1);
    if (mem->fd >= 0)
        close(mem->fd);
    *mem = (struct crn_mem){ 0 };
}

const struct crn_mem_ops crn_mem_cuda_vmm = {
    .name = "cuda-vmm",
    .kind = CRN_MEM_CUDA_VMM,
    .cpu_visible = 0,
    .fd_travels = 1,
    .probe = vmm_probe,
    .create = vmm_create,
    .export_token = vmm_export,
    .import_token = vmm_import,
    .copy = crn_mem_cuda_copy,
    .clear = crn_mem_cuda_clear,
    .fence = crn_mem_cuda_fence,
    .destroy = vmm_destroy,
};
