/* simd_rows - stored keys and values become f32 rows, and keys become columns. Part of simd_table.h. */
#ifndef CRN_KERNELS_SIMD_ROWS_H
#define CRN_KERNELS_SIMD_ROWS_H

static float widen_one(const struct crn_stored_rows *r, size_t row, size_t c)
{
    size_t i = row * r->dh + c;
    switch (r->dtype) {
    case CAIRN_F32:
        return ((const float *)r->data)[i];
    case CAIRN_F16:
        return crn_f16_to_f32(((const uint16_t *)r->data)[i]);
    case CAIRN_BF16:
        return crn_bf16_to_f32(((const uint16_t *)r->data)[i]);
    default: {
        uint16_t scale = r->column_scale != NULL ? r->column_scale[c] : r->row_scale[row];
        return (float)((const int8_t *)r->data)[i] * crn_f16_to_f32(scale);
    }
    }
}

/* CRN_LANES numbers of a row from column c on. */
V_INLINE vf widen_lanes(const struct crn_stored_rows *r, size_t row, size_t c)
{
    size_t i = row * r->dh + c;
    switch (r->dtype) {
    case CAIRN_F32:
        return v_load((const float *)r->data + i);
    case CAIRN_F16:
        return v_from_f16((const uint16_t *)r->data + i);
    case CAIRN_BF16:
        return v_from_bf16((const uint16_t *)r->data + i);
    default: {
        vf q = v_from_i8((const int8_t *)r->data + i);
        if (r->column_scale != NULL)
            return q * v_from_f16(r->column_scale + c);
        return q * v_set1_f16(r->row_scale[row]);
    }
    }
}

V_INLINE void widen_row(const struct crn_stored_rows *r, size_t row, float *out, size_t stride)
{
    size_t c = 0;
    for (; c + CRN_LANES <= r->dh; c += CRN_LANES)
        v_store(out + c, widen_lanes(r, row, c));
    for (; c < r->dh; c++)
        out[c] = widen_one(r, row, c);
    for (; c < stride; c++)
        out[c] = 0;
}

/* One loop per dtype, so that the choice is made outside. */
V_INLINE void widen_as(const struct crn_stored_rows *rows, uint32_t dtype, float *out, size_t stride)
{
    struct crn_stored_rows r = *rows;
    r.dtype = dtype;
    for (size_t i = 0; i < r.n; i++)
        widen_row(&r, i, out + i * stride, stride);
}

static void widen_rows(const struct crn_stored_rows *rows, float *out, size_t stride)
{
    switch (rows->dtype) {
    case CAIRN_F32:
        widen_as(rows, CAIRN_F32, out, stride);
        return;
    case CAIRN_F16:
        widen_as(rows, CAIRN_F16, out, stride);
        return;
    case CAIRN_BF16:
        widen_as(rows, CAIRN_BF16, out, stride);
        return;
    default:
        widen_as(rows, CAIRN_I8, out, stride);
    }
}

typedef float v4f __attribute__((vector_size(16)));
typedef float v4f_any __attribute__((vector_size(16), aligned(4), may_alias));

/* out [4][CRN_TILE_KEYS] = the transpose of x [4][stride]. */
V_INLINE void transpose_4x4(const float *x, size_t stride, float *out)
{
    v4f a = *(const v4f_any *)x, b = *(const v4f_any *)(x + stride);
    v4f c = *(const v4f_any *)(x + 2 * stride), d = *(const v4f_any *)(x + 3 * stride);
    v4f ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    v4f cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    *(v4f_any *)out = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
    *(v4f_any *)(out + CRN_TILE_KEYS) = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
    *(v4f_any *)(out + 2 * CRN_TILE_KEYS) = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
    *(v4f_any *)(out + 3 * CRN_TILE_KEYS) = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

static void transpose(const float *x, size_t n, size_t dh, size_t stride, float *out)
{
    size_t n4 = n & ~(size_t)3, dh4 = dh & ~(size_t)3;
    for (size_t j = 0; j < n4; j += 4)
        for (size_t c = 0; c < dh4; c += 4)
            transpose_4x4(x + j * stride + c, stride, out + c * CRN_TILE_KEYS + j);
    for (size_t c = 0; c < dh; c++) {
        for (size_t j = c < dh4 ? n4 : 0; j < n; j++)
            out[c * CRN_TILE_KEYS + j] = x[j * stride + c];
        for (size_t j = n; j < CRN_TILE_KEYS; j++)
            out[c * CRN_TILE_KEYS + j] = 0;
    }
}

#if CRN_LANES >= 8
/* out [8][CRN_TILE_KEYS] = the transpose of 8 rows of 8 numbers, stride numbers apart; 16 bits are moved, then widened. */
V_INLINE void columns_8x8(uint32_t dtype, const uint16_t *x, size_t stride, float *out)
{
    __m128i r[8], a[8], b[8];
    V_UNROLL
    for (size_t i = 0; i < 8; i++)
        r[i] = _mm_loadu_si128((const void *)(x + i * stride));
    V_UNROLL
    for (size_t i = 0; i < 4; i++) { /* a[i], a[i + 4]: columns 0-3 and 4-7 of rows 2i, 2i + 1 */
        a[i] = _mm_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
        a[i + 4] = _mm_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
    V_UNROLL
    for (size_t i = 0; i < 8; i += 4) { /* columns i, i + 1 | i + 2, i + 3 of rows 0-3, then of rows 4-7 */
        b[i] = _mm_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm_unpackhi_epi32(a[i], a[i + 1]);
        b[i + 2] = _mm_unpacklo_epi32(a[i + 2], a[i + 3]);
        b[i + 3] = _mm_unpackhi_epi32(a[i + 2], a[i + 3]);
    }
    V_UNROLL
    for (size_t i = 0; i < 8; i++) {
        __m128i low = b[i / 4 * 4 + i % 4 / 2], high = b[i / 4 * 4 + 2 + i % 4 / 2];
        __m128i column = i % 2 == 0 ? _mm_unpacklo_epi64(low, high) : _mm_unpackhi_epi64(low, high);
        __m256 wide = dtype == CAIRN_F16 ? _mm256_cvtph_ps(column)
                                         : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(column), 16));
        _mm256_storeu_ps(out + i * CRN_TILE_KEYS, wide);
    }
}

V_INLINE void columns_as(const struct crn_stored_rows *rows, uint32_t dtype, float *out)
{
    struct crn_stored_rows r = *rows;
    r.dtype = dtype;
    size_t n8 = r.n / 8 * 8, dh8 = r.dh / 8 * 8;
    for (size_t j = 0; j < n8; j += 8)
        for (size_t c = 0; c < dh8; c += 8)
            columns_8x8(dtype, (const uint16_t *)r.data + j * r.dh + c, r.dh, out + c * CRN_TILE_KEYS + j);
    for (size_t c = 0; c < r.dh; c++) {
        for (size_t j = c < dh8 ? n8 : 0; j < r.n; j++)
            out[c * CRN_TILE_KEYS + j] = widen_one(&r, j, c);
        for (size_t j = r.n; j < CRN_TILE_KEYS; j++)
            out[c * CRN_TILE_KEYS + j] = 0;
    }
}
#endif

static void columns(const struct crn_stored_rows *rows, float *scratch, float *out)
{
    if (rows->dtype == CAIRN_F32) {
        transpose(rows->data, rows->n, rows->dh, rows->dh, out);
        return;
    }
#if CRN_LANES >= 8
    if (rows->dtype == CAIRN_F16) {
        columns_as(rows, CAIRN_F16, out);
        return;
    }
    if (rows->dtype == CAIRN_BF16) {
        columns_as(rows, CAIRN_BF16, out);
        return;
    }
#endif
    widen_rows(rows, scratch, rows->dh);
    transpose(scratch, rows->n, rows->dh, rows->dh, out);
}

#endif
