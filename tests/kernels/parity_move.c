/* kernels: gather, split into heads, conversions and int8, bit for bit as the definition, whatever the bytes are. */
#include "tests/support/parity.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"

#include "kernels/half.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct crn_kernel_ops *cand;

#define FOR_VARIANTS                                                                                                     \
    for (int v_ = 0; v_ < PARITY_VARIANTS; v_++)                                                                         \
        if (parity_use_variant(v_))

static const size_t sizes[] = { 0, 1, 3, 7, 8, 9, 63, 64, 65, 127, 1023, 1025, 4099, 70001 };
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static float *special_numbers(struct rand *r, size_t n, float scale)
{
    float *x = malloc((n + 1) * sizeof *x);
    rand_fill(r, x, n, scale);
    rand_sprinkle(r, x, n, 20);
    return x;
}

START_TEST(every_16_bit_pattern_converts_as_defined)
{
    static const uint32_t types[] = { CAIRN_F16, CAIRN_BF16 };
    uint32_t from = types[_i];
    uint16_t all[65536];
    for (size_t i = 0; i < 65536; i++)
        all[i] = (uint16_t)i;
    for (uint32_t to = CAIRN_F32; to <= CAIRN_BF16; to++) {
        size_t bytes = 65536 * cairn_dtype_bytes(to);
        void *want = malloc(bytes);
        ck_assert_int_eq(crn_kernels_ref.convert(NULL, all, from, 65536, to, want), 0);
        FOR_VARIANTS {
            struct guarded out = guarded_alloc(bytes, 2 * cairn_dtype_bytes(to));
            ck_assert_int_eq(cand->convert(parity_exec(), all, from, 65536, to, out.p), 0);
            ck_assert_int_eq(parity_first_byte(want, out.p, bytes), -1);
            ck_assert(guarded_intact(&out));
            guarded_free(&out);
        }
        free(want);
    }
}
END_TEST

START_TEST(f32_of_any_bits_narrows_as_defined)
{
    struct rand r = rand_seeded(rand_default_seed() + (uint64_t)_i);
    size_t n = sizes[_i];
    uint32_t *bits = malloc(n * 4 + 4);
    uint16_t *want = malloc(n * 2 + 2);
    for (size_t i = 0; i < n; i++) /* any bits, half of them in the range of f16 */
        bits[i] = i % 2 ? (uint32_t)rand_u64(&r) : crn_f32_bits(rand_f32(&r) * ldexpf(1, (int)rand_below(&r, 44) - 27));
    for (uint32_t to = CAIRN_F16; to <= CAIRN_BF16; to++) {
        crn_kernels_ref.convert(NULL, bits, CAIRN_F32, n, to, want);
        FOR_VARIANTS {
            struct guarded out = guarded_alloc(n * 2, 6);
            ck_assert_int_eq(cand->convert(parity_exec(), bits, CAIRN_F32, n, to, out.p), 0);
            ck_assert_int_eq(parity_first_byte(want, out.p, n * 2), -1);
            ck_assert(guarded_intact(&out));
            guarded_free(&out);
        }
    }
    ck_assert_int_eq(cand->convert(NULL, bits, CAIRN_I8, n, CAIRN_F32, want), CAIRN_E_ARG);
    ck_assert_int_eq(cand->convert(NULL, bits, CAIRN_F32, n, 0, want), CAIRN_E_ARG);
    free(bits);
    free(want);
}
END_TEST

START_TEST(gather_copies_rows_and_refuses_a_bad_index)
{
    struct rand r = rand_seeded(rand_default_seed());
    size_t n = sizes[_i] < 5000 ? sizes[_i] : 5000, rows = 300;
    for (size_t row_bytes = 1; row_bytes < 400; row_bytes = row_bytes * 5 + 3) {
        unsigned char *src = malloc(rows * row_bytes), *want = malloc(n * row_bytes + 1);
        uint32_t *index = malloc((n + 1) * 4);
        for (size_t i = 0; i < rows * row_bytes; i++)
            src[i] = (unsigned char)rand_u64(&r);
        for (size_t i = 0; i < n; i++)
            index[i] = (uint32_t)rand_below(&r, rows);
        crn_kernels_ref.gather(NULL, src, rows, row_bytes, index, n, want);
        FOR_VARIANTS {
            struct guarded out = guarded_alloc(n * row_bytes, 1);
            ck_assert_int_eq(cand->gather(parity_exec(), src, rows, row_bytes, index, n, out.p), 0);
            ck_assert_int_eq(parity_first_byte(want, out.p, n * row_bytes), -1);
            ck_assert(guarded_intact(&out));
            guarded_free(&out);
        }
        if (n > 0) {
            index[n - 1] = (uint32_t)rows;
            ck_assert_int_eq(cand->gather(NULL, src, rows, row_bytes, index, n, want), CAIRN_E_ARG);
        }
        free(src);
        free(want);
        free(index);
    }
}
END_TEST

START_TEST(split_heads_moves_every_row_to_its_head)
{
    struct rand r = rand_seeded(rand_default_seed());
    static const size_t head_dims[] = { 1, 7, 32, 64, 128 };
    size_t n = sizes[_i] < 300 ? sizes[_i] : 300;
    for (size_t k = 0; k < 5 * 3; k++) {
        size_t dh = head_dims[k % 5], g = 1 + k % 4, stride = n + k % 3;
        uint32_t dtype = CAIRN_F32 + (uint32_t)(k % 3);
        size_t bytes = g * stride * dh * cairn_dtype_bytes(dtype);
        float *x = special_numbers(&r, n * g * dh, 10);
        FOR_VARIANTS {
            struct guarded want = guarded_alloc(bytes, 0), out = guarded_alloc(bytes, 4);
            crn_kernels_ref.split_heads(NULL, x, n, g, dh, dtype, stride, want.p);
            ck_assert_int_eq(cand->split_heads(parity_exec(), x, n, g, dh, dtype, stride, out.p), 0);
            ck_assert_int_eq(parity_first_byte(want.p, out.p, bytes), -1); /* poison between heads included */
            ck_assert(guarded_intact(&out));
            guarded_free(&want);
            guarded_free(&out);
        }
        free(x);
    }
    ck_assert_int_eq(cand->split_heads(NULL, NULL, 2, 1, 4, CAIRN_F16, 1, NULL), CAIRN_E_ARG);
    ck_assert_int_eq(cand->split_heads(NULL, NULL, 0, 1, 4, CAIRN_I8, 1, NULL), CAIRN_E_ARG);
}
END_TEST

/* One quantisation both ways: by rows when group != 0, else by columns of 64-token blocks. */
static void check_quant(const float *x, size_t n, size_t d, size_t group)
{
    size_t scales = group != 0 ? n * (d / group) : (n + 63) / 64 * d;
    struct guarded q1 = guarded_alloc(n * d, 0), s1 = guarded_alloc(scales * 2, 0), x1 = guarded_alloc(n * d * 4, 0);
    if (group != 0) {
        crn_kernels_ref.quant_rows(NULL, x, n, d, group, q1.p, s1.p);
        crn_kernels_ref.dequant_rows(NULL, q1.p, s1.p, n, d, group, x1.p);
    } else {
        crn_kernels_ref.quant_k(NULL, x, n, d, q1.p, s1.p);
        crn_kernels_ref.dequant_k(NULL, q1.p, s1.p, n, d, x1.p);
    }
    FOR_VARIANTS {
        struct guarded q2 = guarded_alloc(n * d, 1), s2 = guarded_alloc(scales * 2, 2), x2 = guarded_alloc(n * d * 4, 4);
        if (group != 0) {
            ck_assert_int_eq(cand->quant_rows(parity_exec(), x, n, d, group, q2.p, s2.p), 0);
            ck_assert_int_eq(cand->dequant_rows(parity_exec(), q2.p, s2.p, n, d, group, x2.p), 0);
        } else {
            ck_assert_int_eq(cand->quant_k(parity_exec(), x, n, d, q2.p, s2.p), 0);
            ck_assert_int_eq(cand->dequant_k(parity_exec(), q2.p, s2.p, n, d, x2.p), 0);
        }
        ck_assert_int_eq(parity_first_byte(s1.p, s2.p, scales * 2), -1);
        ck_assert_int_eq(parity_first_byte(q1.p, q2.p, n * d), -1);
        ck_assert_int_eq(parity_first_byte(x1.p, x2.p, n * d * 4), -1);
        ck_assert(guarded_intact(&q2) && guarded_intact(&s2) && guarded_intact(&x2));
        guarded_free(&q2);
        guarded_free(&s2);
        guarded_free(&x2);
    }
    guarded_free(&q1);
    guarded_free(&s1);
    guarded_free(&x1);
}

START_TEST(int8_matches_bit_for_bit_whatever_the_numbers)
{
    struct rand r = rand_seeded(rand_default_seed());
    static const size_t widths[] = { 1, 7, 32, 64, 576 };
    size_t n = sizes[_i] < 200 ? sizes[_i] : 200;
    for (size_t k = 0; k < 5; k++) {
        size_t d = widths[k];
        float *plain = malloc(n * d * 4 + 4), *special = special_numbers(&r, n * d, 1000);
        rand_fill(&r, plain, n * d, k % 2 ? 1e-7f : 3.0f);
        check_quant(plain, n, d, 0);
        check_quant(special, n, d, 0);
        check_quant(plain, n, d, d);
        check_quant(special, n, d, d == 576 ? 64 : d);
        free(plain);
        free(special);
    }
    int8_t q;
    uint16_t s;
    ck_assert_int_eq(cand->quant_rows(NULL, NULL, 1, 10, 3, &q, &s), CAIRN_E_ARG);
    ck_assert_int_eq(cand->dequant_rows(NULL, &q, &s, 1, 10, 0, NULL), CAIRN_E_ARG);
}
END_TEST

START_TEST(int8_error_is_at_most_half_a_step)
{
    struct rand r = rand_seeded(rand_default_seed());
    float x[128 * 64], back[128 * 64];
    int8_t q[128 * 64];
    uint16_t scale[128];
    rand_fill(&r, x, 128 * 64, 5);
    ck_assert_int_eq(cand->quant_rows(NULL, x, 128, 64, 64, q, scale), 0);
    ck_assert_int_eq(cand->dequant_rows(NULL, q, scale, 128, 64, 64, back), 0);
    for (size_t i = 0; i < 128 * 64; i++) {
        float step = crn_f16_to_f32(scale[i / 64]);
        ck_assert(step <= 5.0f / 127 * 1.001f && q[i] >= -127);
        ck_assert_msg(fabsf(x[i] - back[i]) <= step * 0.5001f, "number %zu", i);
    }
}
END_TEST

int main(int argc, char **argv)
{
    cand = parity_backend(argc, argv);
    if (cand == NULL)
        return 77;
    const struct run_test tests[] = {
        RUN_LOOP(every_16_bit_pattern_converts_as_defined, 2),
        RUN_LOOP(f32_of_any_bits_narrows_as_defined, N_SIZES),
        RUN_LOOP(gather_copies_rows_and_refuses_a_bad_index, N_SIZES),
        RUN_LOOP(split_heads_moves_every_row_to_its_head, N_SIZES),
        RUN_LOOP(int8_matches_bit_for_bit_whatever_the_numbers, N_SIZES),
        RUN_TEST(int8_error_is_at_most_half_a_step),
    };
    return run_suite("parity_move", tests, sizeof tests / sizeof *tests);
}
