/* Norm, RoPE, SwiGLU, addition and the movements of rows. One block per row where a row needs a sum, otherwise a grid that walks
 * over all numbers. Sums of squares and SwiGLU's division are kept in double, so that
 * neither the largest nor the smallest numbers change the result; both are bound by memory. */
#include "kernels/cuda/common.cuh"

static __global__ void rmsnorm(const float *x, const float *gain, size_t d, float eps, float *out)
{
    CRN_SHARED(double, scratch, 0, CRN_WARPS + 1);
    const float *row = x + (size_t)blockIdx.x * d;
    float *to = out + (size_t)blockIdx.x * d;
    double sum = 0;
    for (size_t c = threadIdx.x; c < d; c += CRN_THREADS)
        sum += (double)row[c] * (double)row[c];
    sum = crn_block_sum(sum, scratch);
    double inverse = 1.0 / sqrt(sum / (double)d + (double)eps);
    for (size_t c = threadIdx.x; c < d; c += CRN_THREADS)
        to[c] = (float)((double)row[c] * inverse * (double)gain[c]);
}

extern "C" int crn_cuda_rmsnorm(crn_cuda_stream s, const float *x, const float *gain, size_t n, size_t d, float eps, float *out)
{
    if (n == 0 || d == 0)
        return 0;
    return CRN_LAUNCH(rmsnorm, (unsigned)n, CRN_THREADS, (CRN_WARPS + 1) * sizeof(double), s, x, gain, d, eps, out);
}

/* One block per token: the angles are the same for all heads. */
static __global__ void rope(const float *inv_freq, size_t dh, const int32_t *pos, size_t heads, float *x)
{
    size_t half = dh / 2;
    float *row = x + (size_t)blockIdx.x * heads * dh;
    for (size_t i = threadIdx.x; i < half; i += blockDim.x) {
        float angle = (float)pos[blockIdx.x] * inv_freq[i];
        float c = cosf(angle), s = sinf(angle);
        for (size_t h = 0; h < heads; h++) {
            float *at = row + h * dh + i;
            float a = at[0], b = at[half];
            at[0] = a * c - b * s;
            at[half] = b * c + a * s;
        }
    }
}

extern "C" int crn_cuda_rope(crn_cuda_stream s, const float *inv_freq, size_t dh, const int32_t *pos, size_t n, size_t heads,
                             float *x)
{
    if (n == 0 || heads == 0)
        return 0;
    unsigned threads = dh / 2 < CRN_THREADS ? (unsigned)(dh / 2) : (unsigned)CRN_THREADS;
    return CRN_LAUNCH(rope, (unsigned)n, threads, 0, s, inv_freq, dh, pos, heads, x);
}

static __global__ void swiglu(const float *gate, const float *up, size_t n, float *out)
{
    for (size_t i = crn_first(); i < n; i += crn_step())
        out[i] = (float)((double)gate[i] / (1.0 + (double)expf(-gate[i])) * (double)up[i]);
}

extern "C" int crn_cuda_swiglu(crn_cuda_stream s, const float *gate, const float *up, size_t n, float *out)
{
    return n == 0 ? 0 : CRN_LAUNCH(swiglu, crn_blocks(n), CRN_THREADS, 0, s, gate, up, n, out);
}

static __global__ void add(const float *y, size_t n, float *x)
{
    for (size_t i = crn_first(); i < n; i += crn_step())
        x[i] += y[i];
}

extern "C" int crn_cuda_add(crn_cuda_stream s, const float *y, size_t n, float *x)
{
    return n == 0 ? 0 : CRN_LAUNCH(add, crn_blocks(n), CRN_THREADS, 0, s, y, n, x);
}

static __global__ void split_heads(const float *x, size_t n, size_t g, size_t dh, uint32_t dtype, size_t stride, void *out)
{
    for (size_t i = crn_first(); i < n * g * dh; i += crn_step()) {
        size_t c = i % dh, h = i / dh % g, row = i / dh / g;
        crn_store(out, dtype, (h * stride + row) * dh + c, x[i]);
    }
}

extern "C" int crn_cuda_split_heads(crn_cuda_stream s, const float *x, size_t n, size_t g, size_t dh, uint32_t dtype,
                                    size_t stride, void *out)
{
    size_t count = n * g * dh;
    return count == 0 ? 0 : CRN_LAUNCH(split_heads, crn_blocks(count), CRN_THREADS, 0, s, x, n, g, dh, dtype, stride, out);
}

static __global__ void convert(const void *src, uint32_t src_dtype, size_t n, uint32_t dst_dtype, void *out)
{
    for (size_t i = crn_first(); i < n; i += crn_step())
        crn_store(out, dst_dtype, i, crn_load(src, src_dtype, i));
}

extern "C" int crn_cuda_convert(crn_cuda_stream s, const void *src, uint32_t src_dtype, size_t n, uint32_t dst_dtype, void *out)
{
    return n == 0 ? 0 : CRN_LAUNCH(convert, crn_blocks(n), CRN_THREADS, 0, s, src, src_dtype, n, dst_dtype, out);
}

/* A row moves in the widest units that its size and both addresses allow. */
template <typename T>
static __global__ void gather(const T *src, size_t src_rows, size_t row_units, const uint32_t *index, T *out, uint32_t *bad)
{
    size_t from = index[blockIdx.x];
    if (from >= src_rows) {
        if (threadIdx.x == 0)
            atomicExch(bad, 1u);
        return;
    }
    for (size_t c = threadIdx.x; c < row_units; c += blockDim.x)
        out[(size_t)blockIdx.x * row_units + c] = src[from * row_units + c];
}

template <typename T>
static int gather_as(crn_cuda_stream s, const void *src, size_t src_rows, size_t row_bytes, const uint32_t *index, size_t n,
                     void *out, uint32_t *bad)
{
    size_t units = row_bytes / sizeof(T);
    unsigned threads = units < CRN_THREADS ? (unsigned)(units + CRN_WARP - 1) / CRN_WARP * CRN_WARP : (unsigned)CRN_THREADS;
    return CRN_LAUNCH(gather<T>, (unsigned)n, threads, 0, s, static_cast<const T *>(src), src_rows, units, index,
                      static_cast<T *>(out), bad);
}

extern "C" int crn_cuda_gather(crn_cuda_stream s, const void *src, size_t src_rows, size_t row_bytes, const uint32_t *index,
                               size_t n, void *out, uint32_t *bad)
{
    if (n == 0 || row_bytes == 0)
        return 0;
    size_t all = row_bytes | reinterpret_cast<uintptr_t>(src) | reinterpret_cast<uintptr_t>(out);
    if (all % sizeof(uint64_t) == 0)
        return gather_as<uint64_t>(s, src, src_rows, row_bytes, index, n, out, bad);
    if (all % sizeof(uint32_t) == 0)
        return gather_as<uint32_t>(s, src, src_rows, row_bytes, index, n, out, bad);
    return gather_as<uint8_t>(s, src, src_rows, row_bytes, index, n, out, bad);
}
