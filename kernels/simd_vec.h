/* simd_vec - vectors of CRN_LANES floats: 16 (AVX-512), 8 (AVX2 + FMA + F16C), 4 (any CPU).
 *
 * Included once by each kernels/simd_v*.c, after that file has set CRN_LANES and its target. Arithmetic is written with GCC
 * vector operators; only what they lack is spelled per instruction set. v_fma rounds once on AVX2, AVX-512 and NEON and twice
 * elsewhere, so results are equal between runs on one machine, not between instruction sets. */
#ifndef CRN_KERNELS_SIMD_VEC_H
#define CRN_KERNELS_SIMD_VEC_H

#include "kernels/half.h"
#include "kernels/shape.h"
#include "kernels/simd.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* V_INLINE: helpers whose arguments become constants where they are called. V_UNROLL: before a short loop whose arrays must
 * become registers. Sanitizers check every access of every copy, so for them the code stays small instead. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define V_INLINE static inline
#define V_UNROLL
#else
#define V_INLINE static inline __attribute__((always_inline))
#define V_UNROLL _Pragma("GCC unroll 8")
#endif

typedef float vf __attribute__((vector_size(4 * CRN_LANES)));
typedef int32_t vi __attribute__((vector_size(4 * CRN_LANES)));
typedef float vf_any __attribute__((vector_size(4 * CRN_LANES), aligned(4), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * CRN_LANES)));
typedef uint16_t vh __attribute__((vector_size(2 * CRN_LANES)));
typedef uint16_t vh_any __attribute__((vector_size(2 * CRN_LANES), aligned(2), may_alias));

V_INLINE vf v_load(const float *p)
{
    return *(const vf_any *)p;
}

V_INLINE void v_store(float *p, vf x)
{
    *(vf_any *)p = x;
}

V_INLINE vf v_set1(float x)
{
    return x - (vf){ 0 };
}

V_INLINE vi v_set1i(int32_t x)
{
    return x - (vi){ 0 };
}

/* mask lanes are 0 or -1 */
V_INLINE vf v_select(vi mask, vf yes, vf no)
{
    return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}

/* v_max, v_min: the second operand when either is NaN. */
#if CRN_LANES == 16
V_INLINE vf v_fma(vf a, vf b, vf c)
{
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
V_INLINE vf v_max(vf a, vf b)
{
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
}
V_INLINE vf v_min(vf a, vf b)
{
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
}
V_INLINE vf v_sqrt(vf a)
{
    return (vf)_mm512_sqrt_ps((__m512)a);
}
V_INLINE vf v_from_f16(const uint16_t *p)
{
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}
V_INLINE void v_to_f16(uint16_t *p, vf x)
{
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
}
V_INLINE vi v_round(vf x)
{
    return (vi)_mm512_cvtps_epi32((__m512)x);
}
#elif CRN_LANES == 8
V_INLINE vf v_fma(vf a, vf b, vf c)
{
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
V_INLINE vf v_max(vf a, vf b)
{
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
}
V_INLINE vf v_min(vf a, vf b)
{
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
}
V_INLINE vf v_from_f16(const uint16_t *p)
{
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}
V_INLINE void v_to_f16(uint16_t *p, vf x)
{
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
}
V_INLINE vi v_round(vf x)
{
    return (vi)_mm256_cvtps_epi32((__m256)x);
}
#else
V_INLINE vf v_fma(vf a, vf b, vf c)
{
#if defined(__aarch64__)
    return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}
V_INLINE vf v_max(vf a, vf b)
{
    return v_select(a > b, a, b);
}
V_INLINE vf v_min(vf a, vf b)
{
    return v_select(a < b, a, b);
}
V_INLINE vf v_from_f16(const uint16_t *p)
{
    vf x = { 0 };
    for (size_t i = 0; i < CRN_LANES; i++)
        x[i] = crn_f16_to_f32(p[i]);
    return x;
}
V_INLINE void v_to_f16(uint16_t *p, vf x)
{
    for (size_t i = 0; i < CRN_LANES; i++)
        p[i] = crn_f16_from_f32(x[i]);
}
/* to the nearest integer, ties to even; |x| < 2^22 */
V_INLINE vi v_round(vf x)
{
    return (vi)(x + 0x1.8p23f) - (vi)v_set1(0x1.8p23f);
}
#endif

V_INLINE vf v_from_bf16(const uint16_t *p)
{
#if CRN_LANES == 16
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16);
#elif CRN_LANES == 8
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16);
#else
    return (vf)(__builtin_convertvector(*(const vh_any *)p, vi) << 16);
#endif
}

V_INLINE void v_to_bf16(uint16_t *p, vf x)
{
    vu bits = (vu)x, high = bits >> 16;
    vu rounded = (bits + 0x7fff + (high & 1)) >> 16;
    vu is_nan = (vu)((bits & 0x7fffffff) > 0x7f800000);
    vu result = (is_nan & (high | 0x40)) | (~is_nan & rounded);
#if CRN_LANES == 16
    _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16((__m512i)result));
#elif CRN_LANES == 8
    __m256i both = (__m256i)result;
    _mm_storeu_si128((void *)p, _mm_packus_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
#else
    *(vh_any *)p = __builtin_convertvector(result, vh);
#endif
}

/* v_to_i8: every lane within -128 .. 127. */
#if CRN_LANES == 16
V_INLINE vf v_from_i8(const int8_t *p)
{
    return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}
V_INLINE void v_to_i8(int8_t *p, vi x)
{
    _mm_storeu_si128((void *)p, _mm512_cvtsepi32_epi8((__m512i)x));
}
#elif CRN_LANES == 8
V_INLINE vf v_from_i8(const int8_t *p)
{
    return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
}
V_INLINE void v_to_i8(int8_t *p, vi x)
{
    __m128i half = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
    _mm_storel_epi64((void *)p, _mm_packs_epi16(half, half));
}
#else
V_INLINE vf v_from_i8(const int8_t *p)
{
    vf x = { 0 };
    for (size_t i = 0; i < CRN_LANES; i++)
        x[i] = (float)p[i];
    return x;
}
V_INLINE void v_to_i8(int8_t *p, vi x)
{
    for (size_t i = 0; i < CRN_LANES; i++)
        p[i] = (int8_t)x[i];
}
#endif

/* All lanes = one f16. */
V_INLINE vf v_set1_f16(uint16_t h)
{
#if CRN_LANES == 16
    return (vf)_mm512_cvtph_ps(_mm256_set1_epi16((short)h));
#elif CRN_LANES == 8
    return (vf)_mm256_cvtph_ps(_mm_set1_epi16((short)h));
#else
    return v_set1(crn_f16_to_f32(h));
#endif
}

/* 32 numbers 0 .. 15: the low halves of 16 bytes, then the high ones. */
#if CRN_LANES == 16
V_INLINE void v_nibbles(const uint8_t *p, vf out[2])
{
    __m128i bytes = _mm_loadu_si128((const void *)p), low = _mm_set1_epi8(15);
    out[0] = (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(bytes, low)));
    out[1] = (vf)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_and_si128(_mm_srli_epi16(bytes, 4), low)));
}
#elif CRN_LANES == 8
/* Bytes first .. first + 7 of the 16 in both halves as numbers: one shuffle each, where a widening load would cost two. */
V_INLINE vf v_spread_bytes(__m256i bytes, int first)
{
    const vi index = ((vi){ 0, 1, 2, 3, 4, 5, 6, 7 } + first) | (vi)_mm256_set1_epi32((int)0x80808000u);
    return (vf)_mm256_cvtepi32_ps(_mm256_shuffle_epi8(bytes, (__m256i)index));
}
V_INLINE void v_nibbles(const uint8_t *p, vf out[4])
{
    __m256i bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)p)), mask = _mm256_set1_epi8(15);
    __m256i low = _mm256_and_si256(bytes, mask), high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    out[0] = v_spread_bytes(low, 0);
    out[1] = v_spread_bytes(low, 8);
    out[2] = v_spread_bytes(high, 0);
    out[3] = v_spread_bytes(high, 8);
}
#else
V_INLINE void v_nibbles(const uint8_t *p, vf out[32 / CRN_LANES])
{
    for (size_t j = 0; j < 16; j++) {
        out[j / CRN_LANES][j % CRN_LANES] = (float)(p[j] & 15);
        out[(j + 16) / CRN_LANES][j % CRN_LANES] = (float)(p[j] >> 4);
    }
}
#endif

/* Sum and highest of all lanes, always in the same order. */
#if CRN_LANES == 16
V_INLINE float v_sum(vf x)
{
    return _mm512_reduce_add_ps((__m512)x);
}
V_INLINE float v_highest(vf x)
{
    return _mm512_reduce_max_ps((__m512)x);
}
#elif CRN_LANES == 8
V_INLINE float v_sum(vf x)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
V_INLINE float v_highest(vf x)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128((__m256)x), _mm256_extractf128_ps((__m256)x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
#else
V_INLINE float v_sum(vf x)
{
    for (size_t half = CRN_LANES / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            x[i] += x[i + half];
    return x[0];
}
V_INLINE float v_highest(vf x)
{
    for (size_t half = CRN_LANES / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++)
            x[i] = x[i] > x[i + half] ? x[i] : x[i + half];
    return x[0];
}
#endif

/* out [4] = v_sum of each, bit for bit. */
#if CRN_LANES >= 8
V_INLINE void v_sum4(const vf x[4], float *out)
{
#if CRN_LANES == 16
    __m256 h[4];
    V_UNROLL
    for (int i = 0; i < 4; i++)
        h[i] = _mm256_add_ps(_mm512_castps512_ps256((__m512)x[i]), _mm512_extractf32x8_ps((__m512)x[i], 1));
#else
    const __m256 h[4] = { (__m256)x[0], (__m256)x[1], (__m256)x[2], (__m256)x[3] };
#endif
    __m256 ab = _mm256_add_ps(_mm256_permute2f128_ps(h[0], h[1], 0x20), _mm256_permute2f128_ps(h[0], h[1], 0x31));
    __m256 cd = _mm256_add_ps(_mm256_permute2f128_ps(h[2], h[3], 0x20), _mm256_permute2f128_ps(h[2], h[3], 0x31));
    __m256 low = _mm256_shuffle_ps(ab, cd, 0x44), high = _mm256_shuffle_ps(ab, cd, 0xee);
    __m256 pairs = _mm256_add_ps(low, high); /* a0 a1 c0 c1 | b0 b1 d0 d1 */
    pairs = _mm256_add_ps(pairs, _mm256_shuffle_ps(pairs, pairs, 0xb1));
    __m128 ac = _mm256_castps256_ps128(pairs), bd = _mm256_extractf128_ps(pairs, 1);
    __m128 even = _mm_unpacklo_ps(ac, bd), odd = _mm_unpackhi_ps(ac, bd); /* a b a b; c d c d */
    _mm_storeu_ps(out, _mm_movelh_ps(even, odd));
}
#else
V_INLINE void v_sum4(const vf x[4], float *out)
{
    for (size_t i = 0; i < 4; i++)
        out[i] = v_sum(x[i]);
}
#endif

/* 2^n for integers -126 <= n <= 128 (infinity). */
V_INLINE vf v_pow2i(vi n)
{
    return (vf)((n + 127) << 23);
}

/* 2^x for x <= 0. Relative error below 2^-23 (the polynomial, from Chebyshev nodes, has 1e-8; the rest is rounding); exactly 1
 * at 0; 0 below -126.5, so -inf gives exactly 0; NaN stays. */
V_INLINE vf v_exp2_negative(vf x)
{
    vf limited = v_max(v_set1(-127.0f), x);
    vf shifted = limited + 0x1.8000fep23f; /* the low bits become the exponent n + 127 */
    vf f = limited - (shifted - 0x1.8000fep23f);
    vf p = v_fma(v_set1(1.54531634e-4f), f, v_set1(1.33908633e-3f));
    p = v_fma(p, f, v_set1(9.61808302e-3f));
    p = v_fma(p, f, v_set1(5.55035695e-2f));
    p = v_fma(p, f, v_set1(0.240226507f));
    p = v_fma(p, f, v_set1(0.693147182f));
    p = v_fma(p, f, v_set1(1.0f));
    return p * (vf)((vi)shifted << 23);
}

/* e^x, within 2 ulp: the argument is reduced by n ln 2 in two parts. 0 below -87.3, infinity above 88.3, NaN stays. */
V_INLINE vf v_exp(vf x)
{
    vf limited = v_min(v_set1(89.0f), x);
    vf shifted = v_fma(limited, v_set1(1.44269504f), v_set1(0x1.8p23f));
    vf n = shifted - 0x1.8p23f;
    vf r = v_fma(n, v_set1(-0x1.62e4p-1f), limited);
    r = v_fma(n, v_set1(-0x1.7f7d1cp-20f), r);
    vf p = v_fma(v_set1(1.39262679e-3f), r, v_set1(8.36324692e-3f));
    p = v_fma(p, r, v_set1(4.16665524e-2f));
    p = v_fma(p, r, v_set1(0.166665763f));
    p = v_fma(p, r, v_set1(0.5f));
    p = v_fma(p, r * r, r) + 1.0f;
    vf result = p * v_pow2i((vi)shifted - (vi)v_set1(0x1.8p23f));
    return (vf)(~(x < -87.3f) & (vi)result);
}

#endif
