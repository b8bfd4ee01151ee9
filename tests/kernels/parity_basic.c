/* kernels: norm, rotation, activation, sum and argmax equal their definitions for every width, and treat numbers that are none
 * as the definition does. */
#include "tests/support/parity.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"

#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct crn_kernel_ops *cand;

/* Runs the body once per variant. */
#define FOR_VARIANTS                                                                                                     \
    for (int v_ = 0; v_ < PARITY_VARIANTS; v_++)                                                                         \
        if (parity_use_variant(v_))

static const size_t sizes[] = { 0, 1, 3, 15, 16, 17, 64, 97, 576, 4099, 16383, 16385, 70001 };
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static float *numbers(struct rand *r, size_t n, float scale)
{
    float *x = malloc((n + 1) * sizeof *x);
    rand_fill(r, x, n, scale);
    return x;
}

/* A sum of squares in f32 loses a few ulp of its own size; the rest are two multiplications. */
static const struct tolerance norm_tol = { 0, 1e-6f };

START_TEST(rmsnorm_matches_the_definition)
{
    static const size_t widths[] = { 1, 3, 31, 32, 33, 97, 576, 1031 };
    struct rand r = rand_seeded(rand_default_seed());
    size_t d = widths[_i];
    for (size_t n = 0; n < 100; n = n * 3 + 1) {
        float *x = numbers(&r, n * d, 30), *gain = numbers(&r, d, 2), *want = numbers(&r, n * d, 1);
        crn_kernels_ref.rmsnorm(NULL, x, gain, n, d, 1e-5f, want);
        FOR_VARIANTS {
            struct guarded out = guarded_alloc(n * d * 4, 4), in_place = guarded_copy(x, n * d * 4, 8);
            ck_assert_int_eq(cand->rmsnorm(parity_exec(), x, gain, n, d, 1e-5f, out.p), 0);
            ck_assert_int_eq(cand->rmsnorm(parity_exec(), in_place.p, gain, n, d, 1e-5f, in_place.p), 0);
            ck_assert(parity_close("rmsnorm", want, out.p, n * d, norm_tol));
            ck_assert_int_eq(parity_first_byte(out.p, in_place.p, n * d * 4), -1);
            ck_assert(guarded_intact(&out) && guarded_intact(&in_place));
            guarded_free(&out);
            guarded_free(&in_place);
        }
        free(x);
        free(gain);
        free(want);
    }
}
END_TEST

/* The angle is the same f32 on both sides; sine and cosine are exact to an ulp, so two products and a sum differ by few ulp
 * of the largest term. */
static const struct tolerance rope_tol = { 6e-7f, 1e-6f };

START_TEST(rope_matches_the_definition_at_any_position)
{
    static const uint32_t head_dims[] = { 2, 6, 32, 64, 128, 512 };
    struct rand r = rand_seeded(rand_default_seed());
    uint32_t dh = head_dims[_i];
    size_t n = 37, heads = 3, count = n * heads * dh;
    float *x = numbers(&r, count, 2), *want = malloc(count * 4), *inv_freq = malloc(dh * 4);
    int32_t pos[37];
    for (size_t i = 0; i < n; i++)
        pos[i] = i < 4 ? (int32_t)i : (int32_t)rand_below(&r, i < 30 ? 9000 : 1u << 20);
    for (uint32_t i = 0; i < dh / 2; i++)
        inv_freq[i] = powf(100000.0f, -2.0f * (float)i / (float)dh);
    struct crn_rope rope = { inv_freq, dh };
    memcpy(want, x, count * 4);
    ck_assert_int_eq(crn_kernels_ref.rope(NULL, &rope, pos, n, heads, want), 0);
    FOR_VARIANTS {
        struct guarded out = guarded_copy(x, count * 4, 4);
        ck_assert_int_eq(cand->rope(parity_exec(), &rope, pos, n, heads, out.p), 0);
        ck_assert(parity_close("rope", want, out.p, count, rope_tol));
        ck_assert(guarded_intact(&out));
        guarded_free(&out);
    }
    rope.head_dim = 7;
    ck_assert_int_eq(cand->rope(NULL, &rope, pos, n, heads, want), CAIRN_E_ARG);
    free(x);
    free(want);
    free(inv_freq);
}
END_TEST

/* exp within 2 ulp, a sum, a division, a product. Gates below -88 give 0 where the definition has a denormal. */
static const struct tolerance swiglu_tol = { 1e-35f, 1e-6f };

START_TEST(swiglu_matches_the_definition)
{
    struct rand r = rand_seeded(rand_default_seed());
    size_t n = sizes[_i];
    float *gate = numbers(&r, n, 20), *up = numbers(&r, n, 1), *want = numbers(&r, n, 1);
    for (size_t i = 0; i < n; i += 5)
        gate[i] *= 6;
    rand_sprinkle(&r, gate, n, 40);
    crn_kernels_ref.swiglu(NULL, gate, up, n, want);
    FOR_VARIANTS {
        struct guarded out = guarded_alloc(n * 4, 4), in_place = guarded_copy(gate, n * 4, 12);
        ck_assert_int_eq(cand->swiglu(parity_exec(), gate, up, n, out.p), 0);
        ck_assert_int_eq(cand->swiglu(parity_exec(), in_place.p, up, n, in_place.p), 0);
        ck_assert(parity_close("swiglu", want, out.p, n, swiglu_tol));
        ck_assert_int_eq(parity_first_byte(out.p, in_place.p, n * 4), -1);
        ck_assert(guarded_intact(&out) && guarded_intact(&in_place));
        guarded_free(&out);
        guarded_free(&in_place);
    }
    free(gate);
    free(up);
    free(want);
}
END_TEST

START_TEST(add_matches_bit_for_bit)
{
    struct rand r = rand_seeded(rand_default_seed());
    size_t n = sizes[_i];
    float *x = numbers(&r, n, 1), *y = numbers(&r, n, 1), *want = malloc(n * 4 + 1);
    rand_sprinkle(&r, y, n, 30);
    memcpy(want, x, n * 4);
    crn_kernels_ref.add(NULL, y, n, want);
    FOR_VARIANTS {
        struct guarded out = guarded_copy(x, n * 4, 4);
        ck_assert_int_eq(cand->add(parity_exec(), y, n, out.p), 0);
        ck_assert(parity_close("add", want, out.p, n, (struct tolerance){ 0, 0 }));
        ck_assert(guarded_intact(&out));
        guarded_free(&out);
    }
    free(x);
    free(y);
    free(want);
}
END_TEST

static void check_argmax(const float *x, size_t n)
{
    uint32_t want = 0, got = 0;
    ck_assert_int_eq(crn_kernels_ref.argmax(NULL, x, n, &want), 0);
    FOR_VARIANTS {
        ck_assert_int_eq(cand->argmax(parity_exec(), x, n, &got), 0);
        ck_assert_uint_eq(want, got);
    }
}

START_TEST(argmax_takes_the_first_of_the_largest_and_never_nan)
{
    struct rand r = rand_seeded(rand_default_seed());
    size_t n = sizes[_i];
    uint32_t index;
    if (n == 0) {
        ck_assert_int_eq(cand->argmax(NULL, NULL, 0, &index), CAIRN_E_ARG);
        return;
    }
    float *x = numbers(&r, n, 1);
    check_argmax(x, n);
    for (size_t i = 0; i < n; i++)
        x[i] = floorf(x[i] * 4); /* ties */
    check_argmax(x, n);
    rand_sprinkle(&r, x, n, 3);
    check_argmax(x, n);
    for (size_t i = 0; i < n; i++)
        x[i] = i % 2 ? NAN : -INFINITY;
    check_argmax(x, n);
    for (size_t i = 0; i < n; i++)
        x[i] = NAN;
    check_argmax(x, n);
    free(x);
}
END_TEST

int main(int argc, char **argv)
{
    cand = parity_backend(argc, argv);
    if (cand == NULL)
        return 77;
    const struct run_test tests[] = {
        RUN_LOOP(rmsnorm_matches_the_definition, 8),
        RUN_LOOP(rope_matches_the_definition_at_any_position, 6),
        RUN_LOOP(swiglu_matches_the_definition, N_SIZES),
        RUN_LOOP(add_matches_bit_for_bit, N_SIZES),
        RUN_LOOP(argmax_takes_the_first_of_the_largest_and_never_nan, N_SIZES),
    };
    return run_suite("parity_basic", tests, sizeof tests / sizeof *tests);
}
