/* tests/support/parity and kernels/half: the comparator sees what it must, and 16-bit conversions are exact for every pattern. */
#include "tests/support/parity.h"
#include "tests/support/run.h"

#include "kernels/half.h"

#include <math.h>

static const struct tolerance none = { 0, 0 }, loose = { 0.1f, 0.01f };

START_TEST(comparator_finds_the_first_number_out_of_tolerance)
{
    const float want[] = { 1, 2, 100, 4 }, near[] = { 1.05f, 2, 101, 4 }, far[] = { 1, 2, 102, 9 };
    ck_assert_int_eq(parity_first_bad(want, want, 4, none), -1);
    ck_assert_int_eq(parity_first_bad(want, near, 4, loose), -1);
    ck_assert_int_eq(parity_first_bad(want, near, 4, none), 0);
    ck_assert_int_eq(parity_first_bad(want, far, 4, loose), 2);
    ck_assert_int_eq(parity_first_bad(want, far, 0, loose), -1);
}
END_TEST

START_TEST(comparator_is_not_fooled_by_nan_or_infinity)
{
    const float number[] = { 1 }, nan_[] = { NAN }, inf[] = { INFINITY }, minus[] = { -INFINITY };
    ck_assert_int_eq(parity_first_bad(number, nan_, 1, loose), 0);
    ck_assert_int_eq(parity_first_bad(nan_, number, 1, loose), 0);
    ck_assert_int_eq(parity_first_bad(nan_, nan_, 1, none), -1);
    ck_assert_int_eq(parity_first_bad(inf, inf, 1, none), -1);
    ck_assert_int_eq(parity_first_bad(inf, minus, 1, loose), 0);
    ck_assert_int_eq(parity_first_bad(inf, number, 1, loose), 0);
    ck_assert_int_eq(parity_first_bad(number, inf, 1, loose), 0);
}
END_TEST

START_TEST(guards_notice_a_write_on_either_side)
{
    for (size_t offset = 0; offset < 64; offset += 21)
        for (size_t bytes = 0; bytes < 130; bytes += 43) {
            struct guarded g = guarded_alloc(bytes, offset);
            ck_assert(guarded_intact(&g));
            unsigned char *p = g.p;
            p[bytes] ^= 1;
            ck_assert(!guarded_intact(&g));
            p[bytes] ^= 1;
            p[-1] ^= 1;
            ck_assert(!guarded_intact(&g));
            guarded_free(&g);
        }
}
END_TEST

START_TEST(byte_comparison_finds_the_first_difference)
{
    ck_assert_int_eq(parity_first_byte("abcd", "abcd", 4), -1);
    ck_assert_int_eq(parity_first_byte("abcd", "abxd", 4), 2);
}
END_TEST

/* f16 by its meaning: (-1)^s 2^(e-15) (1 + m/1024), denormals m 2^-24. */
static double f16_meaning(unsigned h)
{
    int exponent = (int)(h >> 10 & 31);
    double mantissa = h & 1023, sign = h >> 15 ? -1 : 1;
    return sign * (exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25));
}

START_TEST(every_f16_goes_to_f32_and_back)
{
    for (unsigned h = 0; h < 65536; h++) {
        float x = crn_f16_to_f32((uint16_t)h);
        if ((h >> 10 & 31) == 31 && (h & 1023) != 0) {
            ck_assert(isnan(x));
            ck_assert_uint_eq(crn_f16_from_f32(x), h | 0x200);
            continue;
        }
        if ((h & 0x7fff) == 0x7c00)
            ck_assert(isinf(x));
        else
            ck_assert(x == (float)f16_meaning(h) && (signbit(x) != 0) == (h >> 15 != 0));
        ck_assert_uint_eq(crn_f16_from_f32(x), h);
    }
}
END_TEST

/* Between two neighbours the nearer one wins; half way, the one with an even last bit. */
START_TEST(f16_rounds_to_nearest_even)
{
    for (unsigned h = 0; h < 0x7c00; h++) {
        double low = f16_meaning(h), high = h == 0x7bff ? 65536.0 : f16_meaning(h + 1);
        float half = (float)((low + high) / 2);
        ck_assert_uint_eq(crn_f16_from_f32(half), h + (h & 1));
        ck_assert_uint_eq(crn_f16_from_f32(nextafterf(half, 0)), h);
        ck_assert_uint_eq(crn_f16_from_f32(nextafterf(half, INFINITY)), h + 1);
        ck_assert_uint_eq(crn_f16_from_f32(-half), 0x8000u | (h + (h & 1)));
    }
    ck_assert_uint_eq(crn_f16_from_f32(1e30f), 0x7c00);
    ck_assert_uint_eq(crn_f16_from_f32(-INFINITY), 0xfc00);
}
END_TEST

START_TEST(bf16_rounds_to_nearest_even_and_keeps_nan)
{
    for (unsigned h = 0; h < 0x7f80; h++) {
        float x = crn_bf16_to_f32((uint16_t)h);
        ck_assert_uint_eq(crn_bf16_from_f32(x), h);
        ck_assert_uint_eq(crn_bf16_from_f32(crn_f32_from_bits(h << 16 | 0x8000)), h + (h & 1));
        ck_assert_uint_eq(crn_bf16_from_f32(crn_f32_from_bits(h << 16 | 0x7fff)), h);
        ck_assert_uint_eq(crn_bf16_from_f32(crn_f32_from_bits(h << 16 | 0x8001)), h + 1);
    }
    ck_assert(isnan(crn_bf16_to_f32(crn_bf16_from_f32(crn_f32_from_bits(0x7f800001)))));
    ck_assert_uint_eq(crn_bf16_from_f32(-INFINITY), 0xff80);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(comparator_finds_the_first_number_out_of_tolerance),
        RUN_TEST(comparator_is_not_fooled_by_nan_or_infinity),
        RUN_TEST(guards_notice_a_write_on_either_side),
        RUN_TEST(byte_comparison_finds_the_first_difference),
        RUN_TEST(every_f16_goes_to_f32_and_back),
        RUN_TEST(f16_rounds_to_nearest_even),
        RUN_TEST(bf16_rounds_to_nearest_even_and_keeps_nan),
    };
    return run_suite("kernels_parity", tests, sizeof tests / sizeof *tests);
}
