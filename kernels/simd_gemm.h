/* simd_gemm - some activations (a question, a batch of answers) times a weight of any type. Part of simd_table.h.
 *
 * Four rows of W at a time are decoded to the first-level cache and multiplied with all activations, three at a time: twelve
 * chains, seven loads for twelve v_fma. Each output is the chain of simd_gemv.h, so it has the same bits as there. */
#ifndef CRN_KERNELS_SIMD_GEMM_H
#define CRN_KERNELS_SIMD_GEMM_H

enum { GEMM_TOKENS = 3 };

/* Writes the outputs of one token. */
V_INLINE void gemm_finish(const struct crn_gemv *g, const vf acc[CRN_GEMM_ROWS], size_t token, size_t row)
{
    float sum[CRN_GEMM_ROWS], *out = g->out + token * g->out_stride + row;
    v_sum4(acc, sum);
    if (row + CRN_GEMM_ROWS > g->rows || chained_cols(g->type, g->cols) != g->cols) {
        for (size_t r = 0; r < CRN_GEMM_ROWS && row + r < g->rows; r++)
            gemv_finish(g, token, row + r, sum[r]);
        return;
    }
    for (size_t r = 0; r < CRN_GEMM_ROWS; r++)
        out[r] = g->beta != 0.0f ? out[r] + sum[r] : sum[r];
}

/* tokens [1, 3] x CRN_GEMM_ROWS; w: f32 rows, of which those past the last one repeat it and are not written. */
V_INLINE void gemm_block(const struct crn_gemv *g, const float *const w[CRN_GEMM_ROWS], size_t tokens, size_t token,
                         size_t row)
{
    const float *a = g->a + token * g->cols;
    vf acc[GEMM_TOKENS][CRN_GEMM_ROWS] = { { { 0 } } };
    for (size_t k = 0; k < chained_cols(g->type, g->cols); k += CRN_LANES) {
        vf x[CRN_GEMM_ROWS];
        V_UNROLL
        for (size_t r = 0; r < CRN_GEMM_ROWS; r++)
            x[r] = v_load(w[r] + k);
        V_UNROLL
        for (size_t t = 0; t < tokens; t++) {
            vf y = v_load(a + t * g->cols + k);
            V_UNROLL
            for (size_t r = 0; r < CRN_GEMM_ROWS; r++)
                acc[t][r] = v_fma(x[r], y, acc[t][r]);
        }
    }
    V_UNROLL
    for (size_t t = 0; t < tokens; t++)
        gemm_finish(g, acc[t], token + t, row);
}

static void gemm_rows(const struct crn_gemv *g, const float *const w[CRN_GEMM_ROWS], size_t row)
{
    size_t t = 0;
    for (; t + GEMM_TOKENS <= g->tokens; t += GEMM_TOKENS)
        gemm_block(g, w, GEMM_TOKENS, t, row);
    if (g->tokens - t == 2)
        gemm_block(g, w, 2, t, row);
    else if (g->tokens - t == 1)
        gemm_block(g, w, 1, t, row);
}

static void gemm(const struct crn_gemv *g, float *scratch)
{
    for (size_t row = 0; row < g->rows; row += CRN_GEMM_ROWS) {
        const float *w[CRN_GEMM_ROWS];
        for (size_t r = 0; r < CRN_GEMM_ROWS; r++) {
            size_t at = row + r < g->rows ? row + r : g->rows - 1;
            const char *stored = (const char *)g->w + at * g->row_bytes;
            w[r] = g->type == CRN_W_F32 ? (const float *)(const void *)stored : scratch + r * g->cols;
            if (g->type != CRN_W_F32)
                decode_row(g->type, stored, g->cols, scratch + r * g->cols);
        }
        gemm_rows(g, w, row);
    }
}

#endif
