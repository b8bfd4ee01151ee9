/* cpu_topk - the k highest scores by radix selection, without memory of its own and without sorting.
 *
 * A score becomes a 32-bit key that orders like the number (NaN lowest, -0 = +0). Three histograms, of the upper, middle and
 * lower bits, narrow down the key of the k-th highest; then one pass emits everything above it and the first of its equals. */
#include "kernels/cpu.h"
#include "kernels/half.h"

enum { BUCKETS = 2048, DIGITS = 3 };

static const unsigned digit_shift[DIGITS] = { 21, 10, 0 };
static const unsigned digit_bits[DIGITS] = { 11, 11, 10 };

static uint32_t sort_key(float x)
{
    uint32_t bits = crn_f32_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return 0; /* NaN; -inf maps to 0x007fffff */
    if (bits == 0x80000000u)
        bits = 0;
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* Counts keys whose bits above this digit equal those of `prefix`, by the digit. */
static void count_digit(const float *score, size_t n, unsigned digit, uint32_t prefix, uint32_t *count)
{
    unsigned shift = digit_shift[digit], above = shift + digit_bits[digit];
    uint32_t mask = (1u << digit_bits[digit]) - 1;
    for (size_t i = 0; i < BUCKETS; i++)
        count[i] = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t key = sort_key(score[i]);
        if (digit == 0 || key >> above == prefix >> above)
            count[key >> shift & mask]++;
    }
}

/* The key of the k-th highest score, k >= 1; out_equal: how many of its equals belong to the k. */
static uint32_t threshold(const float *score, size_t n, size_t k, size_t *out_equal)
{
    uint32_t count[BUCKETS], key = 0;
    for (unsigned digit = 0; digit < DIGITS; digit++) {
        count_digit(score, n, digit, key, count);
        uint32_t bucket = (1u << digit_bits[digit]) - 1;
        while (count[bucket] < k)
            k -= count[bucket--];
        key |= bucket << digit_shift[digit];
    }
    *out_equal = k;
    return key;
}

int crn_cpu_topk(const struct crn_exec *e, const float *score, size_t n, size_t k, uint32_t *out_index)
{
    (void)e;
    if (k > n || n > UINT32_MAX)
        return CAIRN_E_ARG;
    if (k == 0)
        return 0;
    size_t equal;
    uint32_t least = threshold(score, n, k, &equal);
    for (size_t i = 0; i < n; i++) {
        uint32_t key = sort_key(score[i]);
        if (key < least || (key == least && equal == 0))
            continue;
        equal -= key == least;
        *out_index++ = (uint32_t)i;
    }
    return 0;
}
