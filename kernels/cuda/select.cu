/* Deterministic selection: the k highest scores by radix, and the index of the highest.
 *
 * A score becomes a 32-bit key whose unsigned order is the order of the definition: NaN lowest, -0 equal to +0. One block finds
 * the k-th highest key digit by digit (histograms of 256 in shared memory; integer additions, so their order does not matter),
 * then writes the indices above it, and of those equal to it the lowest, in ascending order by prefix sums. */
#include "kernels/cuda/common.cuh"

enum { DIGITS = 256 };

static __device__ inline uint32_t key_of(float x)
{
    uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return 0;
    if (bits == 0x80000000u)
        bits = 0;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u; /* -inf becomes 0x007fffff: above NaN */
}

/* Number of ones in the block's threads before this one, and in all of them. scratch: CRN_WARPS + 1. */
template <typename S> static __device__ inline unsigned count_before(bool mine, const S &scratch, unsigned *out_all)
{
    unsigned votes = __ballot_sync(0xffffffffu, mine), lane = threadIdx.x % CRN_WARP, warp = threadIdx.x / CRN_WARP;
    unsigned before = (unsigned)__popc(votes & ((1u << lane) - 1u));
    if (lane == 0)
        scratch[warp] = (uint32_t)__popc(votes);
    __syncthreads();
    unsigned all = 0;
    for (unsigned w = 0; w < CRN_WARPS; w++) {
        unsigned ones = scratch[w];
        before += w < warp ? ones : 0;
        all += ones;
    }
    __syncthreads();
    *out_all = all;
    return before;
}

/* The digit that holds the rank-th highest key among those that begin with prefix; rank is lowered by the keys above it. */
template <typename H, typename R>
static __device__ inline void find_digit(const float *score, size_t n, int shift, const H &histogram, const R &result)
{
    uint32_t prefix = result[0], mask = shift == 24 ? 0 : ~0u << (shift + 8);
    histogram[threadIdx.x] = 0u;
    __syncthreads();
    for (size_t i = threadIdx.x; i < n; i += CRN_THREADS) {
        uint32_t key = key_of(score[i]);
        if ((key & mask) == prefix)
            crn_shared_add(histogram, key >> shift & 255u, 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t rank = result[1], digit = DIGITS - 1;
        for (; digit > 0 && histogram[digit] < rank; digit--)
            rank -= histogram[digit];
        result[0] = prefix | digit << shift;
        result[1] = rank;
    }
    __syncthreads();
}

static __global__ void topk(const float *score, size_t n, size_t k, uint32_t *out_index)
{
    CRN_SHARED(uint32_t, histogram, 0, DIGITS);
    CRN_SHARED(uint32_t, scratch, DIGITS * 4, CRN_WARPS + 1);
    CRN_SHARED(uint32_t, result, (DIGITS + CRN_WARPS + 1) * 4, 2); /* key so far, rank among those that begin with it */
    if (threadIdx.x == 0) {
        result[0] = 0u;
        result[1] = (uint32_t)k;
    }
    __syncthreads();
    for (int shift = 24; shift >= 0; shift -= 8)
        find_digit(score, n, shift, histogram, result);
    uint32_t threshold = result[0], ties_wanted = result[1], ties_seen = 0, written = 0;
    for (size_t base = 0; base < n; base += CRN_THREADS) {
        size_t i = base + threadIdx.x;
        uint32_t key = i < n ? key_of(score[i]) : 0;
        bool tie = i < n && key == threshold;
        unsigned all, ties = count_before(tie, scratch, &all);
        bool chosen = (i < n && key > threshold) || (tie && ties_seen + ties < ties_wanted);
        ties_seen += all;
        unsigned at = count_before(chosen, scratch, &all);
        if (chosen)
            out_index[written + at] = (uint32_t)i;
        written += all;
    }
}

extern "C" int crn_cuda_topk(crn_cuda_stream s, const float *score, size_t n, size_t k, uint32_t *out_index)
{
    if (k == 0)
        return 0;
    return CRN_LAUNCH(topk, 1, CRN_THREADS, (DIGITS + CRN_WARPS + 1 + 2) * 4, s, score, n, k, out_index);
}

static __device__ inline bool better(uint32_t key, uint32_t index, uint32_t best_key, uint32_t best_index)
{
    return key > best_key || (key == best_key && index < best_index);
}

static __global__ void argmax(const float *x, size_t n, uint32_t *out_index)
{
    CRN_SHARED(uint32_t, keys, 0, CRN_THREADS);
    CRN_SHARED(uint32_t, indices, CRN_THREADS * 4, CRN_THREADS);
    uint32_t key = 0, index = 0xffffffffu;
    for (size_t i = threadIdx.x; i < n; i += CRN_THREADS) {
        uint32_t other = key_of(x[i]);
        if (better(other, (uint32_t)i, key, index)) {
            key = other;
            index = (uint32_t)i;
        }
    }
    keys[threadIdx.x] = key;
    indices[threadIdx.x] = index;
    __syncthreads();
    for (unsigned half = CRN_THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            uint32_t other = keys[threadIdx.x + half], at = indices[threadIdx.x + half];
            if (better(other, at, key, index)) {
                keys[threadIdx.x] = key = other;
                indices[threadIdx.x] = index = at;
            }
        }
        __syncthreads();
    }
    if (threadIdx.x == 0)
        *out_index = index;
}

extern "C" int crn_cuda_argmax(crn_cuda_stream s, const float *x, size_t n, uint32_t *out_index)
{
    return CRN_LAUNCH(argmax, 1, CRN_THREADS, CRN_THREADS * 8, s, x, n, out_index);
}
