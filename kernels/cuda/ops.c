/* The table of CUDA operations: shapes are checked here as ref does, then kernels are queued (launch.h). */
#include "kernels/cuda/internal.h"

#include "kernels/shape.h"

#include <stdint.h>
#include <stdio.h>

static int cuda_probe(char *why, size_t why_bytes)
{
    const struct crn_cuda_blas *blas;
    int n;
    if (crn_cuda_devices(&n, why, why_bytes) != 0)
        return 0;
    if (crn_cuda_blas(&blas) == 0)
        return 1;
    snprintf(why, why_bytes, "cuBLAS was not found");
    return 0;
}

/* One queued launch between entering and its status. */
#define QUEUE(e, name, call)                                                                                                \
    struct crn_cuda_exec *x;                                                                                                \
    int status = crn_cuda_enter(e, &x);                                                                                     \
    return status != 0 ? status : crn_cuda_status(call, name)

static int cuda_rmsnorm(const struct crn_exec *e, const float *x_, const float *gain, size_t n, size_t d, float eps, float *out)
{
    if (n > INT32_MAX)
        return CAIRN_E_ARG;
    QUEUE(e, "rmsnorm", crn_cuda_rmsnorm(x->stream, x_, gain, n, d, eps, out));
}

static int cuda_rope(const struct crn_exec *e, const struct crn_rope *r, const int32_t *pos, size_t n, size_t heads, float *x_)
{
    if (r->head_dim == 0 || r->head_dim % 2 != 0 || n > INT32_MAX)
        return CAIRN_E_ARG;
    QUEUE(e, "rope", crn_cuda_rope(x->stream, r->inv_freq, r->head_dim, pos, n, heads, x_));
}

static int cuda_swiglu(const struct crn_exec *e, const float *gate, const float *up, size_t n, float *out)
{
    QUEUE(e, "swiglu", crn_cuda_swiglu(x->stream, gate, up, n, out));
}

static int cuda_add(const struct crn_exec *e, const float *y, size_t n, float *x_)
{
    QUEUE(e, "add", crn_cuda_add(x->stream, y, n, x_));
}

static int cuda_split_heads(const struct crn_exec *e, const float *x_, size_t n, size_t g, size_t dh, uint32_t dtype,
                            size_t stride, void *out)
{
    if (crn_check_float_dtype(dtype) != 0 || stride < n)
        return CAIRN_E_ARG;
    QUEUE(e, "split_heads", crn_cuda_split_heads(x->stream, x_, n, g, dh, dtype, stride, out));
}

static int cuda_convert(const struct crn_exec *e, const void *src, uint32_t src_dtype, size_t n, uint32_t dst_dtype, void *out)
{
    if (crn_check_float_dtype(src_dtype) != 0 || crn_check_float_dtype(dst_dtype) != 0)
        return CAIRN_E_ARG;
    if (src_dtype == dst_dtype) { /* bit for bit, NaNs too */
        struct crn_cuda_exec *x;
        int status = crn_cuda_enter(e, &x);
        if (status != 0 || n == 0)
            return status;
        return crn_cuda_status((int)cudaMemcpyAsync(out, src, n * cairn_dtype_bytes(src_dtype), cudaMemcpyDeviceToDevice,
                                                    x->stream),
                               "cudaMemcpyAsync");
    }
    QUEUE(e, "convert", crn_cuda_convert(x->stream, src, src_dtype, n, dst_dtype, out));
}

static int cuda_topk(const struct crn_exec *e, const float *score, size_t n, size_t k, uint32_t *out_index)
{
    if (k > n || n > UINT32_MAX)
        return CAIRN_E_ARG;
    QUEUE(e, "topk", crn_cuda_topk(x->stream, score, n, k, out_index));
}

static int cuda_argmax(const struct crn_exec *e, const float *x_, size_t n, uint32_t *out_index)
{
    if (n == 0 || n > UINT32_MAX)
        return CAIRN_E_ARG;
    QUEUE(e, "argmax", crn_cuda_argmax(x->stream, x_, n, out_index));
}

/* Reads the flag back, and clears it when it was set. */
static int read_flag(struct crn_cuda_exec *x)
{
    int status = crn_cuda_status((int)cudaMemcpyAsync(x->bad_host, x->bad, sizeof *x->bad, cudaMemcpyDeviceToHost, x->stream),
                                 "cudaMemcpyAsync");
    if (status == 0)
        status = crn_cuda_status((int)cudaStreamSynchronize(x->stream), "cudaStreamSynchronize");
    if (status != 0 || *x->bad_host == 0)
        return status;
    status = crn_cuda_status((int)cudaMemsetAsync(x->bad, 0, sizeof *x->bad, x->stream), "cudaMemsetAsync");
    return status != 0 ? status : CAIRN_E_ARG;
}

static int cuda_gather(const struct crn_exec *e, const void *src, size_t src_rows, size_t row_bytes, const uint32_t *index,
                       size_t n, void *out)
{
    struct crn_cuda_exec *x;
    if (n > INT32_MAX)
        return CAIRN_E_ARG;
    int status = crn_cuda_enter(e, &x);
    if (status != 0 || n == 0 || row_bytes == 0)
        return status;
    status = crn_cuda_status(crn_cuda_gather(x->stream, src, src_rows, row_bytes, index, n, out, x->bad), "gather");
    return status != 0 ? status : read_flag(x);
}

static int cuda_quant_k(const struct crn_exec *e, const float *x_, size_t n, size_t dh, int8_t *q, uint16_t *scale)
{
    QUEUE(e, "quant_k", crn_cuda_quant_k(x->stream, x_, n, dh, q, scale));
}

static int cuda_quant_rows(const struct crn_exec *e, const float *x_, size_t n, size_t d, size_t group, int8_t *q,
                           uint16_t *scale)
{
    if (group == 0 || d % group != 0)
        return CAIRN_E_ARG;
    QUEUE(e, "quant_rows", crn_cuda_quant_rows(x->stream, x_, n, d, group, q, scale));
}

static int cuda_dequant_k(const struct crn_exec *e, const int8_t *q, const uint16_t *scale, size_t n, size_t dh, float *out)
{
    QUEUE(e, "dequant_k", crn_cuda_dequant_k(x->stream, q, scale, n, dh, out));
}

static int cuda_dequant_rows(const struct crn_exec *e, const int8_t *q, const uint16_t *scale, size_t n, size_t d,
                             size_t group, float *out)
{
    if (group == 0 || d % group != 0)
        return CAIRN_E_ARG;
    QUEUE(e, "dequant_rows", crn_cuda_dequant_rows(x->stream, q, scale, n * d, group, out));
}

const struct crn_kernel_ops crn_kernels_cuda = {
    .name = "cuda",
    .probe = cuda_probe,
    .rmsnorm = cuda_rmsnorm,
    .rope = cuda_rope,
    .gemm = crn_cuda_gemm,
    .attention = crn_cuda_attention,
    .scores = crn_cuda_scores,
    .topk = cuda_topk,
    .gather = cuda_gather,
    .swiglu = cuda_swiglu,
    .add = cuda_add,
    .split_heads = cuda_split_heads,
    .convert = cuda_convert,
    .quant_k = cuda_quant_k,
    .quant_rows = cuda_quant_rows,
    .dequant_k = cuda_dequant_k,
    .dequant_rows = cuda_dequant_rows,
    .argmax = cuda_argmax,
    .checksum = crn_cuda_checksum,
    .max_abs = crn_cuda_largest,
};
