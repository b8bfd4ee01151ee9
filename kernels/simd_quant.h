/* simd_quant - float32 to int8 with f16 scales. Part of simd_table.h. */
#ifndef CRN_KERNELS_SIMD_QUANT_H
#define CRN_KERNELS_SIMD_QUANT_H

#include <math.h>

V_INLINE vf v_abs(vf x)
{
    return (vf)((vi)x & 0x7fffffff);
}

/* x / s rounded to nearest even, at most 127 in size; NaN (also 0 / 0) gives 0. */
V_INLINE void quantise_lanes(const float *x, vf s, int8_t *q)
{
    vf quotient = v_load(x) / s;
    quotient = (vf)((quotient == quotient) & (vi)quotient);
    vi rounded = v_round(v_max(v_set1(-127.0f), v_min(v_set1(127.0f), quotient)));
    v_to_i8(q, rounded);
}

static int8_t quantise_one(float x, float s)
{
    float quotient = x / s;
    if (isnan(quotient))
        return 0;
    return (int8_t)rintf(quotient > 127.0f ? 127.0f : quotient < -127.0f ? -127.0f : quotient);
}

static uint16_t quant_row(const float *x, size_t width, int8_t *q)
{
    vf high = { 0 };
    size_t i = 0;
    for (; i + CRN_LANES <= width; i += CRN_LANES)
        high = v_max(v_abs(v_load(x + i)), high);
    float max = v_highest(high);
    for (; i < width; i++)
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    uint16_t scale = crn_quant_scale(max);
    float s = crn_f16_to_f32(scale);
    for (i = 0; i + CRN_LANES <= width; i += CRN_LANES)
        quantise_lanes(x + i, v_set1(s), q + i);
    for (; i < width; i++)
        q[i] = quantise_one(x[i], s);
    return scale;
}

static void quant_rows(const float *x, size_t n, size_t width, int8_t *q, uint16_t *scale)
{
    for (size_t i = 0; i < n; i++)
        scale[i] = quant_row(x + i * width, width, q + i * width);
}

/* CRN_LANES columns of n rows. */
V_INLINE void quant_column_lanes(const float *x, size_t n, size_t width, int8_t *q, uint16_t *scale)
{
    vf high = { 0 };
    for (size_t i = 0; i < n; i++)
        high = v_max(v_abs(v_load(x + i * width)), high);
    float max[CRN_LANES];
    v_store(max, high);
    for (size_t c = 0; c < CRN_LANES; c++)
        scale[c] = crn_quant_scale(max[c]);
    vf s = v_from_f16(scale);
    for (size_t i = 0; i < n; i++)
        quantise_lanes(x + i * width, s, q + i * width);
}

static void quant_columns(const float *x, size_t n, size_t width, int8_t *q, uint16_t *scale)
{
    size_t c = 0;
    for (; c + CRN_LANES <= width; c += CRN_LANES)
        quant_column_lanes(x + c, n, width, q + c, scale + c);
    for (; c < width; c++) {
        float max = 0;
        for (size_t i = 0; i < n; i++)
            max = fabsf(x[i * width + c]) > max ? fabsf(x[i * width + c]) : max;
        scale[c] = crn_quant_scale(max);
        for (size_t i = 0; i < n; i++)
            q[i * width + c] = quantise_one(x[i * width + c], crn_f16_to_f32(scale[c]));
    }
}

#endif
