/* cpu - the functions behind crn_kernels_cpu, by the file that has them. Contracts: kernels/kernels.h. */
#ifndef CRN_KERNELS_CPU_H
#define CRN_KERNELS_CPU_H

#include "kernels/kernels.h"

/* The pool of an exec; no exec is the calling thread alone. */
static inline struct crn_pool *crn_pool_of(const struct crn_exec *e)
{
    return e != NULL ? e->pool : NULL;
}

/* Shares out items 0 .. n-1 in runs of at most `grain`: fn(ctx, begin, end). cpu.c */
typedef void crn_range_fn(void *ctx, size_t begin, size_t end);
void crn_for_ranges(const struct crn_exec *e, size_t n, size_t grain, crn_range_fn *fn, void *ctx);

/* cpu_basic.c */
int crn_cpu_rmsnorm(const struct crn_exec *e, const float *x, const float *gain, size_t n, size_t d, float eps, float *out);
int crn_cpu_rope(const struct crn_exec *e, const struct crn_rope *r, const int32_t *pos, size_t n, size_t heads, float *x);
int crn_cpu_swiglu(const struct crn_exec *e, const float *gate, const float *up, size_t n, float *out);
int crn_cpu_add(const struct crn_exec *e, const float *y, size_t n, float *x);
int crn_cpu_argmax(const struct crn_exec *e, const float *x, size_t n, uint32_t *out_index);

/* cpu_move.c */
int crn_cpu_gather(const struct crn_exec *e, const void *src, size_t src_rows, size_t row_bytes, const uint32_t *index,
                   size_t n, void *out);
int crn_cpu_split_heads(const struct crn_exec *e, const float *x, size_t n, size_t g, size_t dh, uint32_t dtype,
                        size_t stride, void *out);
int crn_cpu_convert(const struct crn_exec *e, const void *src, uint32_t src_dtype, size_t n, uint32_t dst_dtype, void *out);

/* cpu_attention.c, cpu_scores.c, cpu_topk.c */
int crn_cpu_attention(const struct crn_exec *e, const struct crn_attention *a, float *out);
int crn_cpu_scores(const struct crn_exec *e, const struct crn_scores *s, float *out);
int crn_cpu_topk(const struct crn_exec *e, const float *score, size_t n, size_t k, uint32_t *out_index);

/* cpu_quant.c */
int crn_cpu_quant_k(const struct crn_exec *e, const float *x, size_t n, size_t dh, int8_t *q, uint16_t *scale);
int crn_cpu_quant_rows(const struct crn_exec *e, const float *x, size_t n, size_t d, size_t group, int8_t *q,
                       uint16_t *scale);
int crn_cpu_dequant_k(const struct crn_exec *e, const int8_t *q, const uint16_t *scale, size_t n, size_t dh, float *out);
int crn_cpu_dequant_rows(const struct crn_exec *e, const int8_t *q, const uint16_t *scale, size_t n, size_t d, size_t group,
                         float *out);

/* gemm_dnnl.c: out [m][n] with row stride out_stride = beta * out + a [m][k] . w [n][k]^T, on the calling thread alone.
 * Rows of a lie a_stride apart, rows of w w_stride. */
struct crn_sgemm {
    size_t m, n, k;
    const float *a;
    size_t a_stride;
    const float *w;
    size_t w_stride;
    float beta;
    float *out;
    size_t out_stride;
};
int crn_sgemm(const struct crn_sgemm *g);

/* cpu_gemm.c */
int crn_cpu_gemm(const struct crn_exec *e, const float *a, size_t m, const struct crn_matrix *w, float beta, float *out);

#endif
