/* XXH3-64 of device memory, and the largest magnitude. What XXH3 adds up inside a block of 1024 bytes can be added in any order,
 * so the bytes are read by as many threads as there are; only the scrambling between blocks is a chain, of a few instructions a
 * block, walked by eight threads. The last steps, on 64 bytes, are the host's (checksum.c). */
#include "kernels/cuda/common.cuh"

enum { LANES = 8, STRIPES = 16 };

/* One 64-bit lane of one stripe: what it adds to its accumulator. */
static __device__ inline uint64_t added(const uint64_t *stripe, unsigned lane, uint64_t key)
{
    uint64_t mixed = stripe[lane] ^ key;
    return stripe[lane ^ 1u] + (mixed & 0xffffffffu) * (mixed >> 32);
}

static __global__ void block_sums(const uint64_t *data, size_t n, struct crn_cuda_xxh3 keys, uint64_t *sums)
{
    for (size_t i = crn_first(); i < n * LANES; i += crn_step()) {
        unsigned lane = (unsigned)(i % LANES);
        const uint64_t *block = data + i / LANES * (LANES * STRIPES);
        uint64_t sum = 0;
        for (unsigned s = 0; s < STRIPES; s++)
            sum += added(block + s * LANES, lane, keys.word[s + lane]);
        sums[i] = sum;
    }
}

extern "C" int crn_cuda_xxh3_sums(crn_cuda_stream s, const uint64_t *data, size_t n, const struct crn_cuda_xxh3 *keys,
                                  uint64_t *sums)
{
    return n == 0 ? 0 : CRN_LAUNCH(block_sums, crn_blocks(n * LANES), CRN_THREADS, 0, s, data, n, *keys, sums);
}

static __global__ void chain(const uint64_t *sums, size_t n, struct crn_cuda_xxh3 keys, uint64_t *acc)
{
    unsigned lane = threadIdx.x;
    uint64_t a = acc[lane];
    for (size_t b = 0; b < n; b++) {
        a += sums[b * LANES + lane];
        a = (a ^ (a >> 47) ^ keys.word[STRIPES + lane]) * 0x9E3779B1u;
    }
    acc[lane] = a;
}

extern "C" int crn_cuda_xxh3_chain(crn_cuda_stream s, const uint64_t *sums, size_t n, const struct crn_cuda_xxh3 *keys,
                                   uint64_t *acc)
{
    return n == 0 ? 0 : CRN_LAUNCH(chain, 1, LANES, 0, s, sums, n, *keys, acc);
}

static __global__ void largest(const float *x, size_t n, float *out)
{
    CRN_SHARED(float, scratch, 0, CRN_WARPS + 1);
    float max = 0;
    for (size_t i = crn_first(); i < n; i += crn_step())
        max = fmaxf(max, fabsf(x[i]));
    max = crn_block_max(max, scratch);
    if (threadIdx.x == 0)
        out[blockIdx.x] = max;
}

extern "C" int crn_cuda_max_abs(crn_cuda_stream s, const float *x, size_t n, float *partial, float *out)
{
    unsigned blocks = crn_blocks(n) < CRN_CUDA_MAX_PARTS ? crn_blocks(n) : (unsigned)CRN_CUDA_MAX_PARTS;
    if (n == 0)
        return 0;
    int status = CRN_LAUNCH(largest, blocks, CRN_THREADS, (CRN_WARPS + 1) * sizeof(float), s, x, n, partial);
    return status != 0 ? status
                       : CRN_LAUNCH(largest, 1, CRN_THREADS, (CRN_WARPS + 1) * sizeof(float), s, partial, (size_t)blocks, out);
}
