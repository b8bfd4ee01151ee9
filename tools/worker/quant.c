/* Row dequantisation. Scalar code in loops of fixed length, which the compiler vectorises; f16 is
 * converted by integer arithmetic and one exact multiplication, so results do not depend on the
 * machine. No quantisation here: nothing that Cairn runs writes weights. */
#include "tools/worker/quant.h"

#include <string.h>

static const struct crn_quant_info infos[] = {
    [CRN_QUANT_F32] = {"f32", 1, 4},
    [CRN_QUANT_F16] = {"f16", 1, 2},
    [CRN_QUANT_Q4_0] = {"q4_0", CRN_QUANT_BLOCK, 18},
    [CRN_QUANT_Q4_1] = {"q4_1", CRN_QUANT_BLOCK, 20},
    [CRN_QUANT_Q8_0] = {"q8_0", CRN_QUANT_BLOCK, 34},
    [CRN_QUANT_BF16] = {"bf16", 1, 2},
};

/* enum ggml_type, ggml/include/ggml.h; gaps are types that were removed. */
static const char *const names[] = {
    [0] = "f32",     [1] = "f16",      [2] = "q4_0",   [3] = "q4_1",    [6] = "q5_0",
    [7] = "q5_1",    [8] = "q8_0",     [9] = "q8_1",   [10] = "q2_k",   [11] = "q3_k",
    [12] = "q4_k",   [13] = "q5_k",    [14] = "q6_k",  [15] = "q8_k",   [16] = "iq2_xxs",
    [17] = "iq2_xs", [18] = "iq3_xxs", [19] = "iq1_s", [20] = "iq4_nl", [21] = "iq3_s",
    [22] = "iq2_s",  [23] = "iq4_xs",  [24] = "i8",    [25] = "i16",    [26] = "i32",
    [27] = "i64",    [28] = "f64",     [29] = "iq1_m", [30] = "bf16",   [34] = "tq1_0",
    [35] = "tq2_0",  [39] = "mxfp4",
};

const struct crn_quant_info *crn_quant_info(uint32_t type)
{
    if (type >= sizeof infos / sizeof *infos || infos[type].name == NULL)
        return NULL;
    return &infos[type];
}

const char *crn_quant_name(uint32_t type)
{
    if (type >= sizeof names / sizeof *names || names[type] == NULL)
        return "?";
    return names[type];
}

static inline float float_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline uint32_t bits_of_float(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* f16 -> f32, exact. The exponent is moved into place and rebiased by 2^112, which also normalises
 * denormals; infinity and NaN need their exponent set to all ones. No branch, so that loops over it
 * vectorise. */
static inline float float_of_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t rest = (uint32_t)(half & 0x7fffu) << 13;
    uint32_t bits = bits_of_float(float_of_bits(rest) * 0x1p112f);
    uint32_t special = 0u - (uint32_t)(rest >= 0x7c00u << 13);
    bits = (bits & ~special) | ((rest | 0x7f800000u) & special);
    return float_of_bits(bits | sign);
}

static inline float load_half(const uint8_t *p)
{
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return float_of_half(half);
}

static void row_f16(const uint8_t *src, size_t n, float *restrict out)
{
    size_t i = 0;
    for (; i + CRN_QUANT_BLOCK <= n; i += CRN_QUANT_BLOCK) {
        uint16_t half[CRN_QUANT_BLOCK];
        memcpy(half, src + i * sizeof *half, sizeof half);
        for (size_t j = 0; j < CRN_QUANT_BLOCK; j++)
            out[i + j] = float_of_half(half[j]);
    }
    for (; i < n; i++)
        out[i] = load_half(src + i * sizeof(uint16_t));
}

static void row_bf16(const uint8_t *src, size_t n, float *restrict out)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t high;
        memcpy(&high, src + i * sizeof high, sizeof high);
        out[i] = float_of_bits((uint32_t)high << 16);
    }
}

static void row_q4_0(const uint8_t *src, size_t n, float *restrict out)
{
    for (size_t i = 0; i < n; i += CRN_QUANT_BLOCK, src += 18) {
        float d = load_half(src);
        const uint8_t *q = src + 2;
        for (size_t j = 0; j < CRN_QUANT_BLOCK / 2; j++) {
            out[i + j] = (float)((q[j] & 15) - 8) * d;
            out[i + j + CRN_QUANT_BLOCK / 2] = (float)((q[j] >> 4) - 8) * d;
        }
    }
}

static void row_q4_1(const uint8_t *src, size_t n, float *restrict out)
{
    for (size_t i = 0; i < n; i += CRN_QUANT_BLOCK, src += 20) {
        float d = load_half(src), m = load_half(src + 2);
        const uint8_t *q = src + 4;
        for (size_t j = 0; j < CRN_QUANT_BLOCK / 2; j++) {
            out[i + j] = (float)(q[j] & 15) * d + m;
            out[i + j + CRN_QUANT_BLOCK / 2] = (float)(q[j] >> 4) * d + m;
        }
    }
}

static void row_q8_0(const uint8_t *src, size_t n, float *restrict out)
{
    for (size_t i = 0; i < n; i += CRN_QUANT_BLOCK, src += 34) {
        float d = load_half(src);
        const int8_t *q = (const int8_t *)src + 2;
        for (size_t j = 0; j < CRN_QUANT_BLOCK; j++)
            out[i + j] = (float)q[j] * d;
    }
}

void crn_quant_row(uint32_t type, const void *src, size_t n, float *out)
{
    switch (type) {
    case CRN_QUANT_F32:
        memcpy(out, src, n * sizeof *out);
        break;
    case CRN_QUANT_F16:
        row_f16(src, n, out);
        break;
    case CRN_QUANT_BF16:
        row_bf16(src, n, out);
        break;
    case CRN_QUANT_Q4_0:
        row_q4_0(src, n, out);
        break;
    case CRN_QUANT_Q4_1:
        row_q4_1(src, n, out);
        break;
    case CRN_QUANT_Q8_0:
        row_q8_0(src, n, out);
        break;
    default:
        break; /* excluded by crn_quant_info() */
    }
}
