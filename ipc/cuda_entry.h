/* cuda_entry - the driver entry points behind ipc/cuda_driver.h, for the files that may see CUDA's own types. */
#ifndef CRN_IPC_CUDA_ENTRY_H
#define CRN_IPC_CUDA_ENTRY_H

#include <cuda.h>
#include <cuda_runtime_api.h>

struct crn_cuda_entry {
    CUresult (*DeviceGetName)(char *name, int bytes, CUdevice device);
    CUresult (*DeviceGetUuid)(CUuuid *uuid, CUdevice device);
    CUresult (*DeviceGetAttribute)(int *value, CUdevice_attribute attribute, CUdevice device);
    CUresult (*MemGetAllocationGranularity)(size_t *bytes, const CUmemAllocationProp *prop,
                                            CUmemAllocationGranularity_flags option);
    CUresult (*MemCreate)(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *prop,
                          unsigned long long flags);
    CUresult (*MemRelease)(CUmemGenericAllocationHandle handle);
    CUresult (*MemAddressReserve)(CUdeviceptr *at, size_t bytes, size_t align, CUdeviceptr hint, unsigned long long flags);
    CUresult (*MemAddressFree)(CUdeviceptr at, size_t bytes);
    CUresult (*MemMap)(CUdeviceptr at, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                       unsigned long long flags);
    CUresult (*MemUnmap)(CUdeviceptr at, size_t bytes);
    CUresult (*MemSetAccess)(CUdeviceptr at, size_t bytes, const CUmemAccessDesc *access, size_t count);
    CUresult (*MemExport)(void *out_handle, CUmemGenericAllocationHandle handle, CUmemAllocationHandleType type,
                          unsigned long long flags);
    CUresult (*MemImport)(CUmemGenericAllocationHandle *handle, void *os_handle, CUmemAllocationHandleType type);
};

/* The table, looked up on first use. fails   NO_DEVICE without a driver, UNSUPPORTED when one is missing */
int crn_cuda_entries(const struct crn_cuda_entry **out_entries);

#endif
