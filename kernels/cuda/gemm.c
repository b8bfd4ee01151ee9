/* Projections. f32 weights: an f32 product. bf16 weights: activations rounded to bf16 in the workspace, sums in f32, on tensor
 * cores; that is the form for speed. GGUF-quantised weights: rows are decoded to f32 in the workspace, as many at a time as fit,
 * and multiplied in f32: the CPU's numbers at a GPU's memory cost, meant for checks and small models. */
#include "kernels/cuda/internal.h"

#include "kernels/shape.h"

static size_t at_most(size_t n, size_t limit)
{
    return n < limit ? n : limit;
}

static struct crn_cuda_product product(size_t m, const struct crn_matrix *w, float beta)
{
    return (struct crn_cuda_product){ .m = m, .n = w->rows, .k = w->cols, .b = w->data, .lda = w->cols, .ldb = w->cols,
                                      .ldc = w->rows, .batch = 1, .dtype = CAIRN_F32, .b_by_rows = 1, .alpha = 1.0f,
                                      .beta = beta };
}

/* In pieces of rows of a, each rounded into the workspace first. */
static int gemm_bf16(const struct crn_exec *e, const struct crn_cuda_exec *x, const float *a, size_t m,
                     struct crn_cuda_product p, float *out)
{
    size_t fit = e->workspace_bytes / (p.k * sizeof(uint16_t)), rows;
    if (fit == 0)
        return CAIRN_E_TOO_BIG;
    p.dtype = CAIRN_BF16;
    p.a = e->workspace;
    for (size_t i = 0; i < m; i += rows) {
        rows = at_most(m - i, fit);
        int status = crn_cuda_status(
            crn_cuda_convert(x->stream, a + i * p.k, CAIRN_F32, rows * p.k, CAIRN_BF16, e->workspace), "convert");
        p.m = rows;
        p.c = out + i * p.ldc;
        if (status == 0)
            status = crn_cuda_multiply(x, &p);
        if (status != 0)
            return status;
    }
    return 0;
}

static int gemm_quantised(const struct crn_exec *e, const struct crn_cuda_exec *x, const float *a,
                          const struct crn_matrix *w, struct crn_cuda_product p, float *out)
{
    size_t fit = e->workspace_bytes / (p.k * sizeof(float)), row_bytes = crn_weight_row_bytes(w->type, w->cols), rows;
    if (fit == 0)
        return CAIRN_E_TOO_BIG;
    p.a = a;
    p.b = e->workspace;
    for (size_t r = 0; r < w->rows; r += rows) {
        rows = at_most(w->rows - r, fit);
        int status = crn_cuda_status(crn_cuda_weights(x->stream, w->type, (const char *)w->data + r * row_bytes,
                                                      rows * (p.k / CRN_QUANT_BLOCK), e->workspace),
                                     "decode weights");
        p.n = rows;
        p.c = out + r;
        if (status == 0)
            status = crn_cuda_multiply(x, &p);
        if (status != 0)
            return status;
    }
    return 0;
}

int crn_cuda_gemm(const struct crn_exec *e, const float *a, size_t m, const struct crn_matrix *w, float beta, float *out)
{
    struct crn_cuda_exec *x;
    if (w->type < CRN_W_F32 || w->type > CRN_W_Q4_1 || (beta != 0.0f && beta != 1.0f))
        return CAIRN_E_ARG;
    if (w->cols == 0 || crn_weight_row_bytes(w->type, w->cols) == 0)
        return CAIRN_E_ARG;
    int status = crn_cuda_enter(e, &x);
    if (status != 0 || m == 0 || w->rows == 0)
        return status;
    struct crn_cuda_product p = product(m, w, beta);
    if (w->type == CRN_W_BF16)
        return gemm_bf16(e, x, a, m, p, out);
    if (w->type != CRN_W_F32)
        return gemm_quantised(e, x, a, w, p, out);
    p.a = a;
    p.c = out;
    return crn_cuda_multiply(x, &p);
}
