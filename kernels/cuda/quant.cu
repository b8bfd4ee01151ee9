/* int8 with f16 scales, bit for bit as the definition (kernels.h), and the block formats of GGUF weights. */
#include "kernels/cuda/common.cuh"
#include "kernels/shape.h"

/* max / 127 rounded up to f16, at most its largest finite number: crn_quant_scale on the device. */
static __device__ inline uint16_t scale_of(float max)
{
    uint16_t half = crn_f16_from_f32(max / 127.0f);
    if (half >= 0x7c00u)
        return 0x7bffu;
    if (crn_f16_to_f32(half) * 127.0f < max)
        half = (uint16_t)(half + 1);
    return half < 0x7c00u ? half : (uint16_t)0x7bffu;
}

static __device__ inline int8_t quantise(float x, float s)
{
    if (s == 0 || x != x)
        return 0;
    return (int8_t)fmaxf(-127.0f, fminf(127.0f, rintf(x / s)));
}

/* A thread per channel of a block of 64 tokens. */
static __global__ void quant_k(const float *x, size_t n, size_t dh, int8_t *q, uint16_t *scale)
{
    size_t from = (size_t)blockIdx.x * CRN_SCALE_ROWS, to = from + CRN_SCALE_ROWS < n ? from + CRN_SCALE_ROWS : n;
    for (size_t c = threadIdx.x; c < dh; c += blockDim.x) {
        float max = 0;
        for (size_t i = from; i < to; i++)
            max = fmaxf(max, fabsf(x[i * dh + c]));
        uint16_t s = scale_of(max);
        for (size_t i = from; i < to; i++)
            q[i * dh + c] = quantise(x[i * dh + c], crn_f16_to_f32(s));
        scale[(size_t)blockIdx.x * dh + c] = s;
    }
}

extern "C" int crn_cuda_quant_k(crn_cuda_stream s, const float *x, size_t n, size_t dh, int8_t *q, uint16_t *scale)
{
    if (n == 0 || dh == 0)
        return 0;
    unsigned blocks = (unsigned)((n + CRN_SCALE_ROWS - 1) / CRN_SCALE_ROWS);
    return CRN_LAUNCH(quant_k, blocks, CRN_THREADS / 2, 0, s, x, n, dh, q, scale);
}

/* A warp per group. */
static __global__ void quant_rows(const float *x, size_t n_groups, size_t group, int8_t *q, uint16_t *scale)
{
    size_t g = (size_t)blockIdx.x * CRN_WARPS + threadIdx.x / CRN_WARP, lane = threadIdx.x % CRN_WARP;
    if (g >= n_groups)
        return;
    float max = 0;
    for (size_t i = lane; i < group; i += CRN_WARP)
        max = fmaxf(max, fabsf(x[g * group + i]));
    for (unsigned other = CRN_WARP / 2; other > 0; other /= 2)
        max = fmaxf(max, __shfl_xor_sync(0xffffffffu, max, other));
    uint16_t s = scale_of(max);
    for (size_t i = lane; i < group; i += CRN_WARP)
        q[g * group + i] = quantise(x[g * group + i], crn_f16_to_f32(s));
    if (lane == 0)
        scale[g] = s;
}

extern "C" int crn_cuda_quant_rows(crn_cuda_stream s, const float *x, size_t n, size_t d, size_t group, int8_t *q,
                                   uint16_t *scale)
{
    size_t groups = n * d / group;
    if (groups == 0)
        return 0;
    unsigned blocks = (unsigned)((groups + CRN_WARPS - 1) / CRN_WARPS);
    return CRN_LAUNCH(quant_rows, blocks, CRN_THREADS, 0, s, x, groups, group, q, scale);
}

static __global__ void dequant_k(const int8_t *q, const uint16_t *scale, size_t n, size_t dh, float *out)
{
    for (size_t i = crn_first(); i < n * dh; i += crn_step())
        out[i] = (float)q[i] * crn_f16_to_f32(scale[i / dh / CRN_SCALE_ROWS * dh + i % dh]);
}

extern "C" int crn_cuda_dequant_k(crn_cuda_stream s, const int8_t *q, const uint16_t *scale, size_t n, size_t dh, float *out)
{
    return n * dh == 0 ? 0 : CRN_LAUNCH(dequant_k, crn_blocks(n * dh), CRN_THREADS, 0, s, q, scale, n, dh, out);
}

static __global__ void dequant_rows(const int8_t *q, const uint16_t *scale, size_t n, size_t group, float *out)
{
    for (size_t i = crn_first(); i < n; i += crn_step())
        out[i] = (float)q[i] * crn_f16_to_f32(scale[i / group]);
}

extern "C" int crn_cuda_dequant_rows(crn_cuda_stream s, const int8_t *q, const uint16_t *scale, size_t n, size_t group,
                                     float *out)
{
    return n == 0 ? 0 : CRN_LAUNCH(dequant_rows, crn_blocks(n), CRN_THREADS, 0, s, q, scale, n, group, out);
}

/* --- weights --- */

static __device__ inline float weight(const crn_block_q8_0 &b, unsigned j)
{
    return crn_f16_to_f32(b.d) * (float)b.q[j];
}

static __device__ inline int nibble(const uint8_t *q, unsigned j)
{
    return j < 16 ? q[j] & 15 : q[j - 16] >> 4;
}

static __device__ inline float weight(const crn_block_q4_0 &b, unsigned j)
{
    return crn_f16_to_f32(b.d) * (float)(nibble(b.q, j) - 8);
}

static __device__ inline float weight(const crn_block_q4_1 &b, unsigned j)
{
    return crn_f16_to_f32(b.d) * (float)nibble(b.q, j) + crn_f16_to_f32(b.m);
}

template <typename B> static __global__ void decode(const B *blocks, size_t n, float *out)
{
    for (size_t i = crn_first(); i < n; i += crn_step())
        out[i] = weight(blocks[i / CRN_QUANT_BLOCK], (unsigned)(i % CRN_QUANT_BLOCK));
}

template <typename B> static int decode_as(crn_cuda_stream s, const void *blocks, size_t n, float *out)
{
    return CRN_LAUNCH(decode<B>, crn_blocks(n), CRN_THREADS, 0, s, static_cast<const B *>(blocks), n, out);
}

extern "C" int crn_cuda_weights(crn_cuda_stream s, uint32_t type, const void *blocks, size_t n_blocks, float *out)
{
    size_t n = n_blocks * CRN_QUANT_BLOCK;
    if (n == 0)
        return 0;
    if (type == CRN_W_Q8_0)
        return decode_as<crn_block_q8_0>(s, blocks, n, out);
    return type == CRN_W_Q4_0 ? decode_as<crn_block_q4_0>(s, blocks, n, out) : decode_as<crn_block_q4_1>(s, blocks, n, out);
}
