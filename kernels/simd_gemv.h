/* simd_gemv - few activations times a weight of any type, decoded in registers. Part of simd_table.h.
 *
 * Decoding text reads every weight once per token, so this is bound by memory: what counts is to read the weights as they are
 * stored, once, for all activations. Each output is CRN_LANES chains of v_fma over the inputs, then a fixed sum of the lanes:
 * the same bits for any number of activations 1 .. CRN_GEMV_MAX. */
#ifndef CRN_KERNELS_SIMD_GEMV_H
#define CRN_KERNELS_SIMD_GEMV_H

enum { STEP_VECTORS = CRN_QUANT_BLOCK / CRN_LANES };

/* 32 weights of a row from input k on (a multiple of 32). */
V_INLINE void decode_step(uint32_t type, const char *row, size_t k, vf w[STEP_VECTORS])
{
    const void *at = row;
    if (type == CRN_W_F32 || type == CRN_W_BF16) {
        for (size_t v = 0; v < STEP_VECTORS; v++)
            w[v] = type == CRN_W_F32 ? v_load((const float *)at + k + v * CRN_LANES)
                                     : v_from_bf16((const uint16_t *)at + k + v * CRN_LANES);
    } else if (type == CRN_W_Q8_0) {
        const struct crn_block_q8_0 *b = (const struct crn_block_q8_0 *)at + k / CRN_QUANT_BLOCK;
        vf d = v_set1_f16(b->d);
        for (size_t v = 0; v < STEP_VECTORS; v++)
            w[v] = v_from_i8(b->q + v * CRN_LANES) * d;
    } else if (type == CRN_W_Q4_0) {
        const struct crn_block_q4_0 *b = (const struct crn_block_q4_0 *)at + k / CRN_QUANT_BLOCK;
        vf d = v_set1_f16(b->d);
        v_nibbles(b->q, w);
        for (size_t v = 0; v < STEP_VECTORS; v++)
            w[v] = (w[v] - 8.0f) * d;
    } else {
        const struct crn_block_q4_1 *b = (const struct crn_block_q4_1 *)at + k / CRN_QUANT_BLOCK;
        vf d = v_set1_f16(b->d), m = v_set1_f16(b->m);
        v_nibbles(b->q, w);
        for (size_t v = 0; v < STEP_VECTORS; v++)
            w[v] = v_fma(w[v], d, m);
    }
}

/* Asks for the same step of a later row: rows are too short for the processor to see where the reading goes. */
V_INLINE void fetch_step(uint32_t type, const char *row, size_t k)
{
    size_t bytes = type == CRN_W_F32 ? 128 : type == CRN_W_BF16 ? 64 : type == CRN_W_Q8_0 ? 34 : type == CRN_W_Q4_0 ? 18 : 20;
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(row + k / CRN_QUANT_BLOCK * bytes + i);
}

/* One weight, for the inputs after the last whole step: only f32 and bf16 rows have them. */
V_INLINE float decode_one(uint32_t type, const char *row, size_t k)
{
    const void *at = row;
    return type == CRN_W_F32 ? ((const float *)at)[k] : crn_bf16_to_f32(((const uint16_t *)at)[k]);
}

V_INLINE void decode_row_as(uint32_t type, const char *row, size_t cols, float *out)
{
    size_t k = 0;
    for (; k + CRN_QUANT_BLOCK <= cols; k += CRN_QUANT_BLOCK) {
        vf w[STEP_VECTORS];
        decode_step(type, row, k, w);
        for (size_t v = 0; v < STEP_VECTORS; v++)
            v_store(out + k + v * CRN_LANES, w[v]);
    }
    for (; k < cols; k++)
        out[k] = decode_one(type, row, k);
}

static void decode_row(uint32_t type, const void *row, size_t cols, float *out)
{
    switch (type) {
    case CRN_W_F32:
        decode_row_as(CRN_W_F32, row, cols, out);
        return;
    case CRN_W_BF16:
        decode_row_as(CRN_W_BF16, row, cols, out);
        return;
    case CRN_W_Q8_0:
        decode_row_as(CRN_W_Q8_0, row, cols, out);
        return;
    case CRN_W_Q4_0:
        decode_row_as(CRN_W_Q4_0, row, cols, out);
        return;
    default:
        decode_row_as(CRN_W_Q4_1, row, cols, out);
    }
}

/* Inputs that a chain of vectors takes in: all whole steps, and for plain types all whole vectors. */
V_INLINE size_t chained_cols(uint32_t type, size_t cols)
{
    size_t unit = type == CRN_W_F32 || type == CRN_W_BF16 ? (size_t)CRN_LANES : CRN_QUANT_BLOCK;
    return cols / unit * unit;
}

/* Writes one output: the lanes, the inputs past the chain, what was there. */
static void gemv_finish(const struct crn_gemv *g, size_t token, size_t row, float sum)
{
    const char *w = (const char *)g->w + row * g->row_bytes;
    const float *a = g->a + token * g->cols;
    for (size_t k = chained_cols(g->type, g->cols); k < g->cols; k++)
        sum += a[k] * decode_one(g->type, w, k);
    float *out = g->out + token * g->out_stride + row;
    *out = g->beta != 0.0f ? *out + sum : sum;
}

/* The vectors after the last whole step of plain rows: the rank of an adapter is one. */
V_INLINE void gemv_rest(const struct crn_gemv *g, uint32_t type, const char *row, size_t tokens, const float *const *a,
                        size_t r, vf acc[CRN_GEMV_MAX][CRN_GEMV_MAX])
{
    if (type != CRN_W_F32 && type != CRN_W_BF16)
        return;
    const void *at = row;
    for (size_t k = g->cols / CRN_QUANT_BLOCK * CRN_QUANT_BLOCK; k + CRN_LANES <= g->cols; k += CRN_LANES) {
        vf x = type == CRN_W_F32 ? v_load((const float *)at + k) : v_from_bf16((const uint16_t *)at + k);
        V_UNROLL
        for (size_t t = 0; t < tokens; t++)
            acc[t][r] = v_fma(x, v_load(a[t] + k), acc[t][r]);
    }
}

/* A block of tokens x rows, both known at compile time. What lies past the last token or row repeats the last one and is not
 * written: so four block shapes serve every size. */
V_INLINE void gemv_block(const struct crn_gemv *g, uint32_t type, size_t tokens, size_t rows, size_t row)
{
    const float *a[CRN_GEMV_MAX];
    const char *w[CRN_GEMV_MAX];
    vf acc[CRN_GEMV_MAX][CRN_GEMV_MAX] = { { { 0 } } };
    V_UNROLL
    for (size_t t = 0; t < tokens; t++)
        a[t] = g->a + (t < g->tokens ? t : g->tokens - 1) * g->cols;
    V_UNROLL
    for (size_t r = 0; r < rows; r++)
        w[r] = (const char *)g->w + (row + r < g->rows ? row + r : g->rows - 1) * g->row_bytes;
    for (size_t k = 0; k + CRN_QUANT_BLOCK <= g->cols; k += CRN_QUANT_BLOCK)
        V_UNROLL
        for (size_t r = 0; r < rows; r++) {
            vf step[STEP_VECTORS];
            decode_step(type, w[r], k, step);
            fetch_step(type, w[r] + rows * g->row_bytes, k);
            V_UNROLL
            for (size_t t = 0; t < tokens; t++)
                V_UNROLL
                for (size_t v = 0; v < STEP_VECTORS; v++)
                    acc[t][r] = v_fma(step[v], v_load(a[t] + k + v * CRN_LANES), acc[t][r]);
        }
    V_UNROLL
    for (size_t r = 0; r < rows; r++)
        gemv_rest(g, type, w[r], tokens, a, r, acc);
    float sum[CRN_GEMV_MAX][CRN_GEMV_MAX];
    V_UNROLL
    for (size_t t = 0; t < tokens; t++)
        V_UNROLL
        for (size_t r = 0; r < rows; r++)
            sum[t][r] = v_sum(acc[t][r]);
    for (size_t t = 0; t < tokens && t < g->tokens; t++)
        for (size_t r = 0; r < rows && row + r < g->rows; r++)
            gemv_finish(g, t, row + r, sum[t][r]);
}

/* Tokens x rows chains: enough that the latency of v_fma does not show, and no more than what fits registers beside what the
 * decoding of a type needs. */
V_INLINE void gemv_as(const struct crn_gemv *g, uint32_t type)
{
    const size_t one_step = type == CRN_W_Q8_0 || type == CRN_W_BF16 ? 8 : 4;
    for (size_t row = 0; row < g->rows;) {
        size_t step = g->tokens == 1 && one_step == 8 ? 8 : g->tokens <= 2 ? 4 : g->tokens <= 4 ? 2 : 1;
        if (step == 8)
            gemv_block(g, type, 1, 8, row);
        else if (g->tokens == 1)
            gemv_block(g, type, 1, 4, row);
        else if (step == 4)
            gemv_block(g, type, 2, 4, row);
        else if (step == 2)
            gemv_block(g, type, 4, 2, row);
        else
            gemv_block(g, type, 8, 1, row);
        row += step;
    }
}

static void gemv(const struct crn_gemv *g)
{
    switch (g->type) {
    case CRN_W_F32:
        gemv_as(g, CRN_W_F32);
        return;
    case CRN_W_BF16:
        gemv_as(g, CRN_W_BF16);
        return;
    case CRN_W_Q8_0:
        gemv_as(g, CRN_W_Q8_0);
        return;
    case CRN_W_Q4_0:
        gemv_as(g, CRN_W_Q4_0);
        return;
    default:
        gemv_as(g, CRN_W_Q4_1);
    }
}

#endif
