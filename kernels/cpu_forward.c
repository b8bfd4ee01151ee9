/* cpu_forward - operations that have no tuned version yet: the reference computes them. */
#include "kernels/cpu.h"

int crn_cpu_rmsnorm(const struct crn_exec *e, const float *x, const float *gain, size_t n, size_t d, float eps, float *out)
{
    return crn_kernels_ref.rmsnorm(e, x, gain, n, d, eps, out);
}

int crn_cpu_rope(const struct crn_exec *e, const struct crn_rope *r, const int32_t *pos, size_t n, size_t heads, float *x)
{
    return crn_kernels_ref.rope(e, r, pos, n, heads, x);
}

int crn_cpu_swiglu(const struct crn_exec *e, const float *gate, const float *up, size_t n, float *out)
{
    return crn_kernels_ref.swiglu(e, gate, up, n, out);
}

int crn_cpu_add(const struct crn_exec *e, const float *y, size_t n, float *x)
{
    return crn_kernels_ref.add(e, y, n, x);
}

int crn_cpu_argmax(const struct crn_exec *e, const float *x, size_t n, uint32_t *out_index)
{
    return crn_kernels_ref.argmax(e, x, n, out_index);
}

int crn_cpu_gather(const struct crn_exec *e, const void *src, size_t src_rows, size_t row_bytes, const uint32_t *index,
                   size_t n, void *out)
{
    return crn_kernels_ref.gather(e, src, src_rows, row_bytes, index, n, out);
}

int crn_cpu_split_heads(const struct crn_exec *e, const float *x, size_t n, size_t g, size_t dh, uint32_t dtype,
                        size_t stride, void *out)
{
    return crn_kernels_ref.split_heads(e, x, n, g, dh, dtype, stride, out);
}

int crn_cpu_convert(const struct crn_exec *e, const void *src, uint32_t src_dtype, size_t n, uint32_t dst_dtype, void *out)
{
    return crn_kernels_ref.convert(e, src, src_dtype, n, dst_dtype, out);
}

int crn_cpu_scores(const struct crn_exec *e, const struct crn_scores *s, float *out)
{
    return crn_kernels_ref.scores(e, s, out);
}

int crn_cpu_topk(const struct crn_exec *e, const float *score, size_t n, size_t k, uint32_t *out_index)
{
    return crn_kernels_ref.topk(e, score, n, k, out_index);
}

int crn_cpu_quant_k(const struct crn_exec *e, const float *x, size_t n, size_t dh, int8_t *q, uint16_t *scale)
{
    return crn_kernels_ref.quant_k(e, x, n, dh, q, scale);
}

int crn_cpu_quant_rows(const struct crn_exec *e, const float *x, size_t n, size_t d, size_t group, int8_t *q,
                       uint16_t *scale)
{
    return crn_kernels_ref.quant_rows(e, x, n, d, group, q, scale);
}

int crn_cpu_dequant_k(const struct crn_exec *e, const int8_t *q, const uint16_t *scale, size_t n, size_t dh, float *out)
{
    return crn_kernels_ref.dequant_k(e, q, scale, n, dh, out);
}

int crn_cpu_dequant_rows(const struct crn_exec *e, const int8_t *q, const uint16_t *scale, size_t n, size_t d, size_t group,
                         float *out)
{
    return crn_kernels_ref.dequant_rows(e, q, scale, n, d, group, out);
}
