/* common - what the kernels of this folder share. The same files compile with nvcc, and with g++ for the emulator
 * (tests/cuda_emu), which is why three things have one spelling here:
 *
 *     CRN_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...)   the launch, worth its cudaError number
 *     CRN_SHARED(type, name, offset, count)                                 an array in the block's dynamic shared memory
 *     crn_shared_add(array, index, x)                                       an atomic addition to one of its elements
 *
 * Block size is 256 unless a kernel says otherwise. */
#ifndef CRN_KERNELS_CUDA_COMMON_CUH
#define CRN_KERNELS_CUDA_COMMON_CUH

#include <cuda_runtime.h>

#include "ipc/cairn_types.h"
#include "kernels/cuda/launch.h"
#include "kernels/half.h"

#if defined(__CUDACC__)
#define CRN_LAUNCH(kernel, grid, block, bytes, stream, ...)                                                                 \
    (kernel<<<(grid), (block), (bytes), (stream)>>>(__VA_ARGS__), (int)cudaGetLastError())
extern __shared__ __align__(16) unsigned char crn_shared_memory[];
#define CRN_SHARED(type, name, offset, count) type *const name = reinterpret_cast<type *>(crn_shared_memory + (offset))
#define crn_shared_add(array, index, x) atomicAdd(&(array)[index], (x))
#else
#define CRN_LAUNCH(kernel, grid, block, bytes, stream, ...)                                                                 \
    ((int)emu::launch(#kernel, kernel, (grid), (block), (bytes), (stream), __VA_ARGS__))
#define CRN_SHARED(type, name, offset, count) const emu::shared<type> name((offset), (count))
#define crn_shared_add(array, index, x) (array)[index].atomic_add(x)
#endif

enum { CRN_THREADS = 256, CRN_WARP = 32, CRN_WARPS = CRN_THREADS / CRN_WARP };

/* Blocks for n threads' worth of work, for kernels that walk in strides of the grid. */
static inline unsigned crn_blocks(size_t n)
{
    size_t blocks = (n + CRN_THREADS - 1) / CRN_THREADS;
    return (unsigned)(blocks < 65535 ? blocks : 65535);
}

__device__ inline size_t crn_first(void)
{
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

__device__ inline size_t crn_step(void)
{
    return (size_t)gridDim.x * blockDim.x;
}

/* Sum or maximum over a block of CRN_THREADS threads; every thread gets it. scratch: CRN_WARPS + 1 elements of shared memory,
 * free for the next use when the function returns. The order of additions is fixed. */
template <typename T, typename S> __device__ inline T crn_block_sum(T x, const S &scratch)
{
    for (unsigned lane = CRN_WARP / 2; lane > 0; lane /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, lane);
    if (threadIdx.x % CRN_WARP == 0)
        scratch[threadIdx.x / CRN_WARP] = x;
    __syncthreads();
    if (threadIdx.x == 0) {
        T sum = scratch[0];
        for (unsigned w = 1; w < CRN_WARPS; w++)
            sum += scratch[w];
        scratch[CRN_WARPS] = sum;
    }
    __syncthreads();
    T all = scratch[CRN_WARPS];
    __syncthreads();
    return all;
}

template <typename S> __device__ inline float crn_block_max(float x, const S &scratch)
{
    for (unsigned lane = CRN_WARP / 2; lane > 0; lane /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    if (threadIdx.x % CRN_WARP == 0)
        scratch[threadIdx.x / CRN_WARP] = x;
    __syncthreads();
    if (threadIdx.x == 0) {
        float max = scratch[0];
        for (unsigned w = 1; w < CRN_WARPS; w++)
            max = fmaxf(max, scratch[w]);
        scratch[CRN_WARPS] = max;
    }
    __syncthreads();
    float all = scratch[CRN_WARPS];
    __syncthreads();
    return all;
}

/* Numbers of a payload; dtype f32, f16 or bf16. */
__device__ inline float crn_load(const void *base, uint32_t dtype, size_t i)
{
    if (dtype == CAIRN_F32)
        return static_cast<const float *>(base)[i];
    uint16_t h = static_cast<const uint16_t *>(base)[i];
    return dtype == CAIRN_F16 ? crn_f16_to_f32(h) : crn_bf16_to_f32(h);
}

__device__ inline void crn_store(void *base, uint32_t dtype, size_t i, float x)
{
    if (dtype == CAIRN_F32)
        static_cast<float *>(base)[i] = x;
    else
        static_cast<uint16_t *>(base)[i] = dtype == CAIRN_F16 ? crn_f16_from_f32(x) : crn_bf16_from_f32(x);
}

#endif
