/* kernels: matrix products equal the definition for every weight type, and their bits do not depend on the threads. */
#include "tests/support/parity.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"

#include "kernels/half.h"
#include "kernels/kernels.h"
#include "kernels/shape.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct crn_kernel_ops *cand;

static const size_t tokens[] = { 0, 1, 2, 3, 7, 8, 9, 17, 191, 255, 257, 401 };
static const uint32_t outputs[] = { 1, 3, 97, 191, 192, 193, 576 };
static const uint32_t inputs[] = { 32, 96, 576, 800 };
enum {
    N_TOKENS = sizeof tokens / sizeof *tokens,
    N_OUTPUTS = sizeof outputs / sizeof *outputs,
    N_INPUTS = sizeof inputs / sizeof *inputs,
    N_TYPES = CRN_W_Q4_1,
};

/* Sums of k products of numbers up to 1 in f32, in any order: partial sums reach about sqrt(k), and k roundings of them add up
 * like sqrt(k) again. */
static struct tolerance tolerance_for(uint32_t k)
{
    return (struct tolerance){ 5e-8f * (float)k, 2e-6f };
}

/* Random bytes are valid weights once the scales are small finite numbers. */
static void *make_weights(struct rand *r, const struct crn_matrix *w)
{
    size_t row = crn_weight_row_bytes(w->type, w->cols), bytes = row * w->rows;
    unsigned char *data = malloc(bytes + 1);
    for (size_t i = 0; i < bytes; i++)
        data[i] = (unsigned char)rand_u64(r);
    size_t block = crn_weight_row_bytes(w->type, CRN_QUANT_BLOCK);
    for (size_t i = 0; i < bytes; i += w->type >= CRN_W_Q8_0 ? block : 4) {
        uint16_t small = crn_f16_from_f32(rand_f32(r) / (w->type == CRN_W_Q8_0 ? 128.0f : 16.0f));
        uint16_t brain = crn_bf16_from_f32(rand_f32(r)), brain2 = crn_bf16_from_f32(rand_f32(r));
        float f = rand_f32(r);
        if (w->type == CRN_W_F32)
            memcpy(data + i, &f, 4);
        else if (w->type == CRN_W_BF16)
            memcpy(data + i, (uint16_t[]){ brain, brain2 }, 4 < bytes - i ? 4 : bytes - i);
        else
            memcpy(data + i, (uint16_t[]){ small, small }, w->type == CRN_W_Q4_1 ? 4 : 2);
    }
    return data;
}

struct gemm_case {
    struct crn_matrix w;
    size_t m;
    float beta;
    float *a, *start, *want;
    void *weights;
};

static struct gemm_case make_case(struct rand *r, uint32_t type, size_t m, uint32_t rows, uint32_t cols)
{
    struct gemm_case c = { .w = { NULL, type, rows, cols }, .m = m, .beta = rand_below(r, 2) ? 1.0f : 0.0f };
    c.weights = make_weights(r, &c.w);
    c.w.data = c.weights;
    c.a = malloc((m * cols + 1) * sizeof *c.a);
    c.start = malloc((m * rows + 1) * sizeof *c.start);
    c.want = malloc((m * rows + 1) * sizeof *c.want);
    rand_fill(r, c.a, m * cols, 1.0f);
    rand_fill(r, c.start, m * rows, c.beta != 0 ? 1.0f : NAN); /* beta 0 must not read what was there */
    memcpy(c.want, c.start, m * rows * sizeof *c.want);
    ck_assert_int_eq(crn_kernels_ref.gemm(NULL, c.a, m, &c.w, c.beta, c.want), 0);
    return c;
}

static void free_case(struct gemm_case *c)
{
    free(c->a);
    free(c->start);
    free(c->want);
    free(c->weights);
}

static void check_case(const struct gemm_case *c)
{
    size_t n = c->m * c->w.rows;
    char name[96];
    snprintf(name, sizeof name, "type %u m %zu rows %u cols %u", c->w.type, c->m, c->w.rows, c->w.cols);
    struct guarded out = guarded_copy(c->start, n * sizeof(float), 4);
    ck_assert_int_eq(cand->gemm(parity_exec(), c->a, c->m, &c->w, c->beta, out.p), 0);
    ck_assert(parity_close(name, c->want, out.p, n, tolerance_for(c->w.cols)));
    ck_assert(guarded_intact(&out));
    struct guarded alone = guarded_copy(c->start, n * sizeof(float), 4);
    ck_assert_int_eq(cand->gemm(NULL, c->a, c->m, &c->w, c->beta, alone.p), 0);
    ck_assert_msg(parity_first_byte(out.p, alone.p, n * sizeof(float)) == -1, "%s: bits depend on threads", name);
    guarded_free(&alone);
    guarded_free(&out);
}

/* One loop per weight type and number of tokens; outputs and inputs walk together to keep the reference affordable. */
START_TEST(every_shape_and_type_matches_the_definition)
{
    uint32_t type = (uint32_t)(_i % N_TYPES) + 1;
    size_t m = tokens[_i / N_TYPES];
    struct rand r = rand_seeded(rand_default_seed() + (uint64_t)_i);
    for (size_t j = 0; j < (m > 100 ? 3 : N_OUTPUTS); j++) {
        uint32_t cols = m > 100 ? 96 : inputs[(j + (size_t)_i) % N_INPUTS]; /* the reference is slow */
        struct gemm_case c = make_case(&r, type, m, outputs[m > 100 ? j * 2 : j], cols);
        for (int v = 0; v < PARITY_VARIANTS; v++)
            if (parity_use_variant(v))
                check_case(&c);
        free_case(&c);
    }
}
END_TEST

START_TEST(up_to_64_tokens_each_gets_the_same_bits_as_alone)
{
    static float all[64 * 203];
    struct rand r = rand_seeded(rand_default_seed());
    for (uint32_t type = CRN_W_F32; type <= CRN_W_Q4_1; type++) {
        uint32_t cols = type <= CRN_W_BF16 ? 627 : 608;
        struct gemm_case c = make_case(&r, type, 64, 203, cols);
        float alone[203];
        for (int v = 0; v < PARITY_VARIANTS; v++) {
            if (!parity_use_variant(v))
                continue;
            for (size_t m = 1; m <= 64; m += m < 18 ? 1 : 23) {
                ck_assert_int_eq(cand->gemm(parity_exec(), c.a, m, &c.w, 0, all), 0);
                ck_assert_int_eq(cand->gemm(parity_exec(), c.a + (m - 1) * cols, 1, &c.w, 0, alone), 0);
                ck_assert_int_eq(parity_first_byte(all + (m - 1) * 203, alone, sizeof alone), -1);
            }
        }
        free_case(&c);
    }
}
END_TEST

START_TEST(odd_widths_work_without_blocks)
{
    struct rand r = rand_seeded(rand_default_seed());
    for (uint32_t cols = 1; cols < 40; cols += 3)
        for (uint32_t type = CRN_W_F32; type <= CRN_W_BF16; type++) {
            struct gemm_case c = make_case(&r, type, cols % 2 ? 1 + cols % 3 : 9 + cols % 4, 5, cols);
            for (int v = 0; v < PARITY_VARIANTS; v++)
                if (parity_use_variant(v))
                    check_case(&c);
            free_case(&c);
        }
}
END_TEST

START_TEST(impossible_matrices_are_refused)
{
    float a[64] = { 0 }, out[64];
    struct crn_matrix w = { a, 99, 1, 32 };
    ck_assert_int_eq(cand->gemm(NULL, a, 1, &w, 0, out), CAIRN_E_ARG);
    w.type = CRN_W_Q4_1;
    w.cols = 33;
    ck_assert_int_eq(cand->gemm(NULL, a, 1, &w, 0, out), CAIRN_E_ARG);
    w.type = CRN_W_F32;
    ck_assert_int_eq(cand->gemm(NULL, a, 1, &w, 0.5f, out), CAIRN_E_ARG);
}
END_TEST

int main(int argc, char **argv)
{
    cand = parity_backend(argc, argv);
    if (cand == NULL)
        return 77;
    const struct run_test tests[] = {
        RUN_LOOP(every_shape_and_type_matches_the_definition, N_TYPES * N_TOKENS),
        RUN_TEST(up_to_64_tokens_each_gets_the_same_bits_as_alone),
        RUN_TEST(odd_widths_work_without_blocks),
        RUN_TEST(impossible_matrices_are_refused),
    };
    return run_suite("parity_gemm", tests, sizeof tests / sizeof *tests);
}
