/* See broken.h. */
#include "tests/cuda_emu/kernels/broken.h"

#include "kernels/cuda/common.cuh"

static __global__ void shared_memory(unsigned what, unsigned count, unsigned *out)
{
    CRN_SHARED(unsigned, words, 0, count);
    unsigned i = threadIdx.x;
    if (what != BROKEN_SHARED_UNWRITTEN)
        words[what == BROKEN_SHARED_WRITES ? 0 : i] = i;
    __syncthreads();
    if (what == BROKEN_MISSING_BARRIER)
        words[i] = i + 1;
    unsigned next = what == BROKEN_SHARED_RANGE ? i + 1 : (i + 1) % 64;
    out[i] = next == 0 ? 64 : (unsigned)words[next];
}

static __global__ void barriers(unsigned what, unsigned *out)
{
    unsigned sum = 0;
    if (what == BROKEN_DIVERGENT_BARRIER && threadIdx.x >= 32)
        return;
    if (what == BROKEN_SHUFFLE_LANES) {
        if (threadIdx.x % 32 >= 16)
            return;
        sum = __shfl_xor_sync(0xffffffffu, threadIdx.x, 1u);
    }
    if (what == BROKEN_TWO_BARRIERS && threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = sum;
}

static __global__ void memory(unsigned what, const unsigned *p, unsigned *out)
{
    if (what == BROKEN_WRITE_PAST)
        out[threadIdx.x + 1] = 1;
    else if (what == BROKEN_WRITE_BEFORE)
        *(out - 1 + threadIdx.x) = 1;
    else if (what == BROKEN_WRITE_FAR)
        out[threadIdx.x + 4096] = 1;
    else if (what == BROKEN_USES_HOST)
        out[threadIdx.x] = p[threadIdx.x];
}

int broken_run(crn_cuda_stream stream, enum broken what, const unsigned *p, unsigned *out)
{
    unsigned n = (unsigned)what;
    if (what <= BROKEN_SHARED_SIZE)
        return CRN_LAUNCH(shared_memory, 1, 64, 256, stream, n, what == BROKEN_SHARED_SIZE ? 65u : 64u, out);
    if (what <= BROKEN_SHUFFLE_LANES)
        return CRN_LAUNCH(barriers, 1, 64, 0, stream, n, out);
    if (what == BROKEN_TOO_MUCH_SHARED)
        return CRN_LAUNCH(shared_memory, 1, 64, 64 * 1024, stream, 0u, 64u, out);
    return CRN_LAUNCH(memory, what == BROKEN_NO_THREADS ? 0u : 1u, 64, 0, stream, n, p, out);
}
