/* kernels: attention over spans equals the definition, for every storage type, head size, grouping and number of queries; and
 * its bits depend neither on the threads nor on the other queries of the call. */
#include "tests/support/parity.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"
#include "tests/support/spans.h"

#include "kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct crn_kernel_ops *cand;

/* Values are in [-1, 1]; a score's error of a few ulp (scores up to about 10) moves a probability by 1e-6 of itself. */
static const struct tolerance tol = { 4e-6f, 4e-6f };

/* n_q, H, G, dh, spans, keys, dtype, equal */
static const struct spans_shape shapes[] = {
    { 1, 1, 1, 32, 1, 1, CAIRN_F32, 0 },       { 3, 3, 1, 64, 1, 3, CAIRN_F32, 0 },
    { 1, 9, 3, 64, 3, 63, CAIRN_F16, 0 },      { 7, 9, 3, 64, 2, 64, CAIRN_BF16, 0 },
    { 5, 8, 1, 128, 2, 65, CAIRN_I8, 0 },      { 64, 3, 1, 32, 2, 127, CAIRN_F32, 0 },
    { 65, 3, 1, 32, 3, 193, 0, 0 },            { 19, 2, 2, 128, 4, 131, 0, 0 },
    { 1, 6, 2, 64, 3, 2500, CAIRN_F16, 0 },    { 1, 8, 1, 64, 5, 1100, 0, 0 },
    { 4, 9, 3, 64, 4, 1030, 0, 0 },           { 130, 3, 1, 32, 3, 217, 0, 0 },
    { 9, 4, 4, 20, 3, 100, 0, 0 },             { 2, 2, 1, 7, 2, 70, 0, 0 },
    { 4, 2, 1, 512, 2, 70, 0, 0 },             { 0, 3, 1, 64, 1, 5, CAIRN_F32, 0 },
    { 3, 3, 1, 64, 2, 0, CAIRN_F32, 0 },       { 3, 3, 1, 64, 0, 5, CAIRN_F32, 0 },
    { 3, 140, 2, 64, 2, 80, CAIRN_F16, 0 },
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static size_t out_floats(const struct spans_shape *s)
{
    return (size_t)s->n_q * s->n_heads * s->head_dim;
}

START_TEST(every_shape_matches_the_definition)
{
    const struct spans_shape *s = &shapes[_i];
    struct rand r = rand_seeded(rand_default_seed() + (uint64_t)_i);
    struct spans_case c = spans_make(&r, s);
    size_t bytes = out_floats(s) * sizeof(float);
    float *want = malloc(bytes + 1);
    ck_assert_int_eq(crn_kernels_ref.attention(NULL, &c.a, want), 0);
    for (int v = 0; v < PARITY_VARIANTS; v++) {
        if (!parity_use_variant(v))
            continue;
        struct guarded out = guarded_alloc(bytes, 4 * (size_t)(v % 3));
        char name[64];
        snprintf(name, sizeof name, "shape %d", _i);
        ck_assert_int_eq(cand->attention(parity_exec(), &c.a, out.p), 0);
        ck_assert(parity_close(name, want, out.p, out_floats(s), tol));
        ck_assert(guarded_intact(&out));
        guarded_free(&out);
    }
    free(want);
    spans_free(&c);
}
END_TEST

/* Attention of query i alone: the same spans, as far as the query sees them. */
static void attend_alone(const struct spans_case *c, uint32_t i, float *out)
{
    struct crn_span spans[8];
    struct crn_attention a = c->a;
    size_t row = (size_t)a.n_heads * a.head_dim;
    a.n_spans = 0;
    for (uint32_t s = 0; s < c->a.n_spans; s++) {
        if (i < c->spans[s].q_begin || i >= c->spans[s].q_end)
            continue;
        spans[a.n_spans] = c->spans[s];
        spans[a.n_spans].q_begin = 0;
        spans[a.n_spans++].q_end = 1;
    }
    a.spans = spans;
    a.q += i * row;
    a.q_pos += i;
    a.n_q = 1;
    ck_assert_int_eq(cand->attention(parity_exec(), &a, out), 0);
}

START_TEST(a_query_alone_gets_the_same_bits_as_in_company)
{
    const struct spans_shape s = { 70, 9, 3, 64, 4, 1300, 0, 0 };
    struct rand r = rand_seeded(rand_default_seed());
    struct spans_case c = spans_make(&r, &s);
    size_t row = (size_t)s.n_heads * s.head_dim;
    float *all = malloc(out_floats(&s) * sizeof *all), *alone = malloc(row * sizeof *alone);
    for (int v = 0; v < PARITY_VARIANTS; v++) {
        if (!parity_use_variant(v))
            continue;
        ck_assert_int_eq(cand->attention(parity_exec(), &c.a, all), 0);
        for (uint32_t i = 0; i < s.n_q; i += 3) {
            attend_alone(&c, i, alone);
            ck_assert_int_eq(parity_first_byte(all + i * row, alone, row * sizeof *alone), -1);
        }
    }
    free(all);
    free(alone);
    spans_free(&c);
}
END_TEST

START_TEST(threads_do_not_change_a_bit)
{
    const struct spans_shape s = { 5, 9, 3, 64, 3, 2100, 0, 0 };
    struct rand r = rand_seeded(rand_default_seed() + 1);
    struct spans_case c = spans_make(&r, &s);
    float *want = malloc(out_floats(&s) * sizeof *want), *got = malloc(out_floats(&s) * sizeof *got);
    for (int v = 0; v < PARITY_VARIANTS; v++) {
        if (!parity_use_variant(v))
            continue;
        ck_assert_int_eq(cand->attention(NULL, &c.a, want), 0);
        ck_assert_int_eq(cand->attention(parity_exec(), &c.a, got), 0);
        ck_assert_int_eq(parity_first_byte(want, got, out_floats(&s) * sizeof *got), -1);
    }
    free(want);
    free(got);
    spans_free(&c);
}
END_TEST

START_TEST(impossible_shapes_are_refused)
{
    const struct spans_shape s = { 2, 3, 1, 64, 1, 5, CAIRN_F32, 0 };
    struct rand r = rand_seeded(1);
    struct spans_case c = spans_make(&r, &s);
    float out[2 * 3 * 64];
    struct crn_attention a = c.a;
    a.n_heads = 4;
    a.n_kv_heads = 3;
    ck_assert_int_eq(cand->attention(NULL, &a, out), CAIRN_E_ARG);
    a = c.a;
    a.head_dim = CAIRN_MAX_HEAD_DIM + 1;
    ck_assert_int_eq(cand->attention(NULL, &a, out), CAIRN_E_ARG);
    c.spans[0].q_end = 3;
    ck_assert_int_eq(cand->attention(NULL, &c.a, out), CAIRN_E_ARG);
    c.spans[0].q_end = 2;
    c.spans[0].dtype = 77;
    ck_assert_int_eq(cand->attention(NULL, &c.a, out), CAIRN_E_ARG);
    spans_free(&c);
}
END_TEST

int main(int argc, char **argv)
{
    cand = parity_backend(argc, argv);
    if (cand == NULL)
        return 77;
    const struct run_test tests[] = {
        RUN_LOOP(every_shape_matches_the_definition, N_SHAPES),
        RUN_TEST(a_query_alone_gets_the_same_bits_as_in_company),
        RUN_TEST(threads_do_not_change_a_bit),
        RUN_TEST(impossible_shapes_are_refused),
    };
    return run_suite("parity_attention", tests, sizeof tests / sizeof *tests);
}
