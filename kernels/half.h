/* half - scalar conversions between f32 and the two 16-bit float formats. The definition for every backend.
 *
 * Rounding is to nearest, ties to even. A NaN stays a NaN: it becomes quiet and keeps its sign and its highest payload
 * bits, as F16C does. f16 overflow becomes infinity; f16 denormals are exact both ways. */
#ifndef CRN_KERNELS_HALF_H
#define CRN_KERNELS_HALF_H

#include <stdint.h>
#include <string.h>

/* The same functions run on a GPU. */
#if defined(__CUDACC__)
#define CRN_EVERYWHERE __host__ __device__ static inline
#else
#define CRN_EVERYWHERE static inline
#endif

CRN_EVERYWHERE uint32_t crn_f32_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

CRN_EVERYWHERE float crn_f32_from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

CRN_EVERYWHERE float crn_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (uint32_t)(h >> 10) & 0x1fu;
    uint32_t mantissa = (uint32_t)h & 0x3ffu;
    if (exponent == 0x1fu) {
        uint32_t quiet = mantissa != 0 ? 0x00400000u : 0u;
        return crn_f32_from_bits(sign | 0x7f800000u | quiet | mantissa << 13);
    }
    if (exponent != 0)
        return crn_f32_from_bits(sign | (exponent + 112u) << 23 | mantissa << 13);
    /* Denormal or zero: mantissa * 2^-24, exact in f32. */
    return crn_f32_from_bits(sign | crn_f32_bits((float)mantissa * 0x1p-24f));
}

CRN_EVERYWHERE uint16_t crn_f16_from_f32(float x)
{
    uint32_t bits = crn_f32_bits(x);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (rest >> 13 & 0x3ffu));
    if (rest >= 0x477ff000u) /* 65520: the first value that rounds to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (rest < 0x38800000u) { /* below 2^-14: adding 0.5 makes the adder round at 2^-24 */
        float sum = crn_f32_from_bits(rest) + 0.5f;
        return (uint16_t)(sign | (crn_f32_bits(sum) - 0x3f000000u));
    }
    uint32_t odd = rest >> 13 & 1u;
    return (uint16_t)(sign | (rest - 0x38000000u + 0xfffu + odd) >> 13);
}

CRN_EVERYWHERE float crn_bf16_to_f32(uint16_t h)
{
    return crn_f32_from_bits((uint32_t)h << 16);
}

CRN_EVERYWHERE uint16_t crn_bf16_from_f32(float x)
{
    uint32_t bits = crn_f32_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#endif
