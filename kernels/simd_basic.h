/* simd_basic - norm, rotation, activation and the like, one run of numbers at a time. Part of simd_table.h. */
#ifndef CRN_KERNELS_SIMD_BASIC_H
#define CRN_KERNELS_SIMD_BASIC_H

#include <math.h>

/* Sum of squares in four chains: always the same order for the same d. */
static float sum_of_squares(const float *x, size_t d)
{
    vf sum[4] = { { 0 } };
    size_t i = 0;
    for (; i + 4 * CRN_LANES <= d; i += 4 * CRN_LANES)
        for (size_t j = 0; j < 4; j++) {
            vf v = v_load(x + i + j * CRN_LANES);
            sum[j] = v_fma(v, v, sum[j]);
        }
    float total = v_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
    for (; i < d; i++)
        total += x[i] * x[i];
    return total;
}

static void rmsnorm(const float *x, const float *gain, size_t d, float eps, float *out)
{
    float inverse = 1.0f / sqrtf(sum_of_squares(x, d) / (float)d + eps);
    size_t i = 0;
    for (; i + CRN_LANES <= d; i += CRN_LANES)
        v_store(out + i, v_load(x + i) * inverse * v_load(gain + i));
    for (; i < d; i++)
        out[i] = x[i] * inverse * gain[i];
}

/* In double, so that the reduction by multiples of pi/2 loses nothing: the polynomials are within 2e-9. */
static void sines(const float *angle, size_t n, float *out_cos, float *out_sin)
{
    const double magic = 0x1.8p52; /* adding it leaves the rounded number in the low bits */
    for (size_t i = 0; i < n; i++) {
        double x = (double)angle[i], shifted = x * 0x1.45f306dc9c883p-1 + magic, turns = shifted - magic;
        double r = x - turns * 0x1.921fb54400000p+0 - turns * 0x1.0b4611a626331p-34, r2 = r * r;
        double s = r + r * r2 * (-1.0 / 6 + r2 * (1.0 / 120 + r2 * (-1.0 / 5040 + r2 * (1.0 / 362880))));
        double c = 1 + r2 * (-0.5 + r2 * (1.0 / 24 + r2 * (-1.0 / 720 + r2 * (1.0 / 40320 - r2 / 3628800))));
        int64_t quadrant;
        memcpy(&quadrant, &shifted, sizeof quadrant);
        double cosine = quadrant & 1 ? s : c, sine = quadrant & 1 ? c : s;
        out_cos[i] = (float)((quadrant + 1) & 2 ? -cosine : cosine);
        out_sin[i] = (float)(quadrant & 2 ? -sine : sine);
    }
}

static void rotate(const float *cosine, const float *sine, size_t half, size_t heads, float *x)
{
    for (size_t h = 0; h < heads; h++, x += 2 * half) {
        size_t i = 0;
        for (; i + CRN_LANES <= half; i += CRN_LANES) {
            vf a = v_load(x + i), b = v_load(x + half + i), c = v_load(cosine + i), s = v_load(sine + i);
            v_store(x + i, a * c - b * s);
            v_store(x + half + i, b * c + a * s);
        }
        for (; i < half; i++) {
            float a = x[i], b = x[half + i];
            x[i] = a * cosine[i] - b * sine[i];
            x[half + i] = b * cosine[i] + a * sine[i];
        }
    }
}

V_INLINE vf v_silu(vf x)
{
    return x / (1.0f + v_exp(-x));
}

static void swiglu(const float *gate, const float *up, size_t n, float *out)
{
    size_t i = 0;
    for (; i + CRN_LANES <= n; i += CRN_LANES)
        v_store(out + i, v_silu(v_load(gate + i)) * v_load(up + i));
    if (i == n)
        return;
    float rest[3][CRN_LANES] = { { 0 } }; /* the tail takes the same path: a number's result never depends on its place */
    memcpy(rest[0], gate + i, (n - i) * sizeof(float));
    memcpy(rest[1], up + i, (n - i) * sizeof(float));
    v_store(rest[2], v_silu(v_load(rest[0])) * v_load(rest[1]));
    memcpy(out + i, rest[2], (n - i) * sizeof(float));
}

static void add(const float *y, size_t n, float *x)
{
    size_t i = 0;
    for (; i + CRN_LANES <= n; i += CRN_LANES)
        v_store(x + i, v_load(x + i) + v_load(y + i));
    for (; i < n; i++)
        x[i] += y[i];
}

static float highest(const float *x, size_t n)
{
    vf best = v_set1(-INFINITY);
    size_t i = 0;
    for (; i + CRN_LANES <= n; i += CRN_LANES)
        best = v_max(v_load(x + i), best); /* a NaN leaves best as it is */
    float result = v_highest(best);
    for (; i < n; i++)
        result = x[i] > result ? x[i] : result;
    return result;
}

static void narrow(const float *x, size_t n, uint32_t dtype, uint16_t *out)
{
    size_t i = 0;
    if (dtype == CAIRN_F16)
        for (; i + CRN_LANES <= n; i += CRN_LANES)
            v_to_f16(out + i, v_load(x + i));
    else
        for (; i + CRN_LANES <= n; i += CRN_LANES)
            v_to_bf16(out + i, v_load(x + i));
    for (; i < n; i++)
        out[i] = dtype == CAIRN_F16 ? crn_f16_from_f32(x[i]) : crn_bf16_from_f32(x[i]);
}

#endif
