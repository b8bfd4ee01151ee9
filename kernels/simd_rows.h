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

#endif
