/* Prints every constant and size of CUDA's that Cairn uses: compiled against the emulator's headers and against the toolkit's,
 * the two outputs must be equal. */
#include <cublas_v2.h>
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stdio.h>

#define SHOW(x) printf("%s %lld\n", #x, (long long)(x))

int main(void)
{
    SHOW(cudaSuccess);
    SHOW(cudaErrorInvalidValue);
    SHOW(cudaErrorMemoryAllocation);
    SHOW(cudaErrorInitializationError);
    SHOW(cudaErrorInvalidConfiguration);
    SHOW(cudaErrorInvalidDevicePointer);
    SHOW(cudaErrorInvalidMemcpyDirection);
    SHOW(cudaErrorInsufficientDriver);
    SHOW(cudaErrorDevicesUnavailable);
    SHOW(cudaErrorNoDevice);
    SHOW(cudaErrorInvalidDevice);
    SHOW(cudaErrorDeviceUninitialized);
    SHOW(cudaErrorMapBufferObjectFailed);
    SHOW(cudaErrorECCUncorrectable);
    SHOW(cudaErrorInvalidResourceHandle);
    SHOW(cudaErrorSymbolNotFound);
    SHOW(cudaErrorNotReady);
    SHOW(cudaErrorIllegalAddress);
    SHOW(cudaErrorLaunchTimeout);
    SHOW(cudaErrorHostMemoryAlreadyRegistered);
    SHOW(cudaErrorHostMemoryNotRegistered);
    SHOW(cudaErrorHardwareStackError);
    SHOW(cudaErrorIllegalInstruction);
    SHOW(cudaErrorMisalignedAddress);
    SHOW(cudaErrorInvalidAddressSpace);
    SHOW(cudaErrorInvalidPc);
    SHOW(cudaErrorLaunchFailure);
    SHOW(cudaErrorNotPermitted);
    SHOW(cudaErrorNotSupported);
    SHOW(cudaErrorUnknown);
    SHOW(cudaMemcpyHostToHost);
    SHOW(cudaMemcpyHostToDevice);
    SHOW(cudaMemcpyDeviceToHost);
    SHOW(cudaMemcpyDeviceToDevice);
    SHOW(cudaDevAttrUnifiedAddressing);
    SHOW(cudaDevAttrComputeCapabilityMajor);
    SHOW(cudaDevAttrComputeCapabilityMinor);
    SHOW(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    SHOW(cudaDevAttrIpcEventSupport);
    SHOW(cudaFuncAttributeMaxDynamicSharedMemorySize);
    SHOW(cudaDriverEntryPointSuccess);
    SHOW(cudaDriverEntryPointSymbolNotFound);
    SHOW(sizeof(cudaIpcMemHandle_t));
    SHOW(cudaStreamNonBlocking);
    SHOW(cudaEventDisableTiming);
    SHOW(cudaHostRegisterDefault);
    SHOW(cudaIpcMemLazyEnablePeerAccess);
    SHOW(cudaEnableDefault);
    SHOW(CUDA_SUCCESS);
    SHOW(CUDA_ERROR_INVALID_VALUE);
    SHOW(CUDA_ERROR_OUT_OF_MEMORY);
    SHOW(CUDA_ERROR_INVALID_DEVICE);
    SHOW(CUDA_ERROR_INVALID_CONTEXT);
    SHOW(CUDA_ERROR_UNKNOWN);
    SHOW(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
    SHOW(CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
    SHOW(CU_MEM_ALLOCATION_TYPE_PINNED);
    SHOW(CU_MEM_LOCATION_TYPE_DEVICE);
    SHOW(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
    SHOW(CU_MEM_ALLOC_GRANULARITY_MINIMUM);
    SHOW(CU_MEM_ACCESS_FLAGS_PROT_READ);
    SHOW(CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
    SHOW(sizeof(CUmemAllocationProp));
    SHOW(sizeof(CUmemAccessDesc));
    SHOW(sizeof(CUuuid));
    SHOW(CUBLAS_STATUS_SUCCESS);
    SHOW(CUBLAS_STATUS_ALLOC_FAILED);
    SHOW(CUBLAS_STATUS_INVALID_VALUE);
    SHOW(CUBLAS_STATUS_ARCH_MISMATCH);
    SHOW(CUBLAS_STATUS_EXECUTION_FAILED);
    SHOW(CUBLAS_STATUS_NOT_SUPPORTED);
    SHOW(CUBLAS_OP_N);
    SHOW(CUBLAS_OP_T);
    SHOW(CUDA_R_32F);
    SHOW(CUDA_R_16F);
    SHOW(CUDA_R_16BF);
    SHOW(CUBLAS_COMPUTE_32F);
    SHOW(CUBLAS_GEMM_DEFAULT);
    return 0;
}
