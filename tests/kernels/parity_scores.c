/* kernels: scores of keys and the selection of the highest equal their definitions; working in chunks gives the same sums. */
#include "tests/support/parity.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"
#include "tests/support/spans.h"

#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct crn_kernel_ops *cand;

#define FOR_VARIANTS                                                                                                     \
    for (int v_ = 0; v_ < PARITY_VARIANTS; v_++)                                                                         \
        if (parity_use_variant(v_))

/* A probability is off by 1e-6 of itself (attention's reason); a mean adds up to a few hundred of them in f32. */
static const struct tolerance tol = { 1e-7f, 1e-5f };

static const struct spans_shape shapes[] = {
    { 1, 1, 1, 32, 1, 1, CAIRN_F32, 1 }, { 3, 3, 1, 64, 2, 64, CAIRN_F16, 1 },  { 7, 9, 3, 64, 3, 65, 0, 1 },
    { 70, 3, 1, 32, 2, 300, 0, 1 },      { 3, 8, 1, 128, 2, 257, CAIRN_I8, 1 }, { 5, 4, 4, 20, 4, 63, 0, 1 },
    { 0, 3, 1, 64, 1, 7, CAIRN_F32, 1 }, { 4, 3, 1, 64, 2, 0, CAIRN_F32, 1 },   { 10, 6, 2, 64, 3, 130, 0, 0 },
    { 2, 6, 2, 64, 2, 1027, CAIRN_F16, 0 },      { 4200, 4, 4, 20, 1, 9, CAIRN_F32, 1 },
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, N_REDUCE = 3 };

static size_t n_scores(const struct crn_scores *s)
{
    const struct crn_kv_head *heads = s->attention.spans[s->target].heads;
    size_t n = 0;
    for (uint32_t g = 0; g < (s->reduce == CRN_REDUCE_MEAN_ALL ? 1 : s->attention.n_kv_heads); g++)
        n += heads[g].n;
    return n;
}

static void check_scores(const struct crn_scores *s)
{
    size_t n = n_scores(s);
    float *want = malloc(n * 4 + 4), *start = malloc(n * 4 + 4);
    for (size_t i = 0; i < n; i++)
        want[i] = start[i] = s->accumulate ? 0.01f * (float)(i % 7) : NAN;
    ck_assert_int_eq(crn_kernels_ref.scores(NULL, s, want), 0);
    FOR_VARIANTS {
        struct guarded out = guarded_copy(start, n * 4, 4), alone = guarded_copy(start, n * 4, 0);
        char name[96];
        snprintf(name, sizeof name, "scores reduce %u target %u accumulate %u", s->reduce, s->target, s->accumulate);
        ck_assert_int_eq(cand->scores(parity_exec(), s, out.p), 0);
        ck_assert_int_eq(cand->scores(NULL, s, alone.p), 0);
        ck_assert(parity_close(name, want, out.p, n, tol));
        ck_assert_int_eq(parity_first_byte(out.p, alone.p, n * 4), -1);
        ck_assert(guarded_intact(&out));
        guarded_free(&out);
        guarded_free(&alone);
    }
    free(want);
    free(start);
}

START_TEST(every_shape_and_reduction_matches_the_definition)
{
    const struct spans_shape *shape = &shapes[_i / N_REDUCE];
    struct rand r = rand_seeded(rand_default_seed() + (uint64_t)_i);
    struct spans_case c = spans_make(&r, shape);
    float *weight = malloc(shape->n_q * sizeof *weight + 4);
    rand_fill(&r, weight, shape->n_q, 1);
    struct crn_scores s = { .attention = c.a, .reduce = (uint32_t)(_i % N_REDUCE) + 1 };
    if (shape->equal_heads || s.reduce != CRN_REDUCE_MEAN_ALL)
        for (s.target = 0; s.target < shape->n_spans; s.target++) {
            s.q_weight = s.target % 2 ? weight : NULL;
            s.accumulate = s.target == 1;
            s.total_queries = s.target == 1 ? shape->n_q + 10 : 0;
            check_scores(&s);
        }
    free(weight);
    spans_free(&c);
}
END_TEST

/* A logarithm is off by what the products of long rows are; one near 200 is rounded by 8e-6, and so is a probability of itself. */
static const struct tolerance of_lse = { 5e-5f, 1e-6f }, with_lse = { 1e-7f, 3e-5f };

/* Scores made with what attention left, beside those that the same backend makes without, from the same start. */
static void check_with_lse(const struct crn_kernel_ops *ops, const struct crn_scores *with)
{
    struct crn_scores without = *with;
    size_t n = n_scores(with);
    float *want = malloc(n * 4 + 4), *got = malloc(n * 4 + 4);
    for (size_t i = 0; i < n; i++)
        want[i] = got[i] = with->accumulate ? 0.01f * (float)(i % 7) : NAN;
    without.attention.lse = NULL;
    ck_assert_int_eq(ops->scores(parity_exec(), &without, want), 0);
    ck_assert_int_eq(ops->scores(parity_exec(), with, got), 0);
    ck_assert(parity_close(ops->name, want, got, n, with_lse));
    for (size_t i = 0; i < n && with->reduce == CRN_REDUCE_KV_MAX && ops == cand; i++)
        ck_assert_float_le(got[i], 1.0f);
    free(want);
    free(got);
}

/* What attention leaves of its softmax is what it is by definition, and scores take it up. In every second case queries are long:
 * one key draws all attention then, and its score is the whole sum. */
START_TEST(scores_take_up_the_softmax_that_attention_left)
{
    const struct spans_shape *shape = &shapes[_i / N_REDUCE];
    struct rand r = rand_seeded(rand_default_seed() + (uint64_t)_i);
    struct spans_case c = spans_make(&r, shape);
    size_t rows = (size_t)shape->n_q * shape->n_heads, numbers = rows * shape->head_dim;
    float *want = malloc(rows * 4 + 4), *out = malloc(numbers * 4 + 4), *weight = malloc(shape->n_q * 4 + 4);
    struct guarded lse = guarded_alloc(rows * 4, 4);
    struct crn_scores s = { .reduce = (uint32_t)(_i % N_REDUCE) + 1 };
    rand_fill(&r, weight, shape->n_q, 1);
    for (size_t i = 0; i < numbers && _i % 2 != 0; i++)
        c.q[i] *= 20;
    c.a.lse = want;
    ck_assert_int_eq(crn_kernels_ref.attention(NULL, &c.a, out), 0);
    FOR_VARIANTS {
        c.a.lse = lse.p;
        memset(lse.p, 0xff, rows * 4);
        ck_assert_int_eq(cand->attention(parity_exec(), &c.a, out), 0);
        ck_assert(parity_close("lse", want, lse.p, rows, of_lse));
        ck_assert(guarded_intact(&lse));
        s.attention = c.a;
        for (s.target = 0; s.target < shape->n_spans && (shape->equal_heads || s.reduce != CRN_REDUCE_MEAN_ALL); s.target++) {
            s.q_weight = s.target % 2 ? weight : NULL;
            s.accumulate = s.target == 1;
            s.attention.lse = lse.p;
            check_with_lse(cand, &s);
            s.attention.lse = want;
            check_with_lse(&crn_kernels_ref, &s);
        }
    }
    guarded_free(&lse);
    free(weight);
    free(want);
    free(out);
    spans_free(&c);
}
END_TEST

/* The first n queries of a case, or the rest. */
static void score_part(const struct spans_case *c, uint32_t reduce, uint32_t first, uint32_t n, float *out)
{
    struct crn_span span = c->spans[0];
    struct crn_scores s = { .attention = c->a, .reduce = reduce, .total_queries = c->a.n_q, .accumulate = first > 0 };
    span.q_begin = 0;
    span.q_end = n;
    s.attention.spans = &span;
    s.attention.q += (size_t)first * c->a.n_heads * c->a.head_dim;
    s.attention.q_pos += first;
    s.attention.n_q = n;
    ck_assert_int_eq(cand->scores(parity_exec(), &s, out), 0);
}

START_TEST(queries_may_come_in_chunks)
{
    const struct spans_shape shape = { 50, 6, 2, 64, 1, 200, CAIRN_F32, 1 };
    struct rand r = rand_seeded(rand_default_seed());
    struct spans_case c = spans_make(&r, &shape);
    float whole[2 * 200], parts[2 * 200];
    uint32_t reduce = (uint32_t)_i + 1;
    size_t n = reduce == CRN_REDUCE_MEAN_ALL ? 200 : 400;
    FOR_VARIANTS {
        score_part(&c, reduce, 0, 50, whole);
        score_part(&c, reduce, 0, 17, parts);
        score_part(&c, reduce, 17, 33, parts);
        ck_assert(parity_close("chunks", whole, parts, n, tol));
    }
    spans_free(&c);
}
END_TEST

START_TEST(a_mean_over_everything_needs_heads_of_equal_length)
{
    const struct spans_shape shape = { 2, 6, 2, 64, 1, 40, CAIRN_F32, 0 };
    struct rand r = rand_seeded(3);
    struct spans_case c = spans_make(&r, &shape);
    struct crn_scores s = { .attention = c.a, .reduce = CRN_REDUCE_MEAN_ALL };
    float out[128];
    ck_assert_uint_ne(c.spans[0].heads[0].n, c.spans[0].heads[1].n);
    ck_assert_int_eq(cand->scores(NULL, &s, out), CAIRN_E_ARG);
    s.reduce = 9;
    ck_assert_int_eq(cand->scores(NULL, &s, out), CAIRN_E_ARG);
    s.reduce = CRN_REDUCE_KV_MAX;
    s.target = 1;
    ck_assert_int_eq(cand->scores(NULL, &s, out), CAIRN_E_ARG);
    spans_free(&c);
}
END_TEST

/* --- top k --- */

static const size_t topk_sizes[] = { 0, 1, 3, 64, 257, 1500 };
enum { N_TOPK = sizeof topk_sizes / sizeof *topk_sizes };

static void check_topk(const float *score, size_t n)
{
    uint32_t *want = malloc(n * 4 + 4);
    const size_t ks[] = { 0, 1, n / 3, n / 2 + 1, n };
    for (size_t i = 0; i < sizeof ks / sizeof *ks; i++) {
        size_t k = ks[i] < n ? ks[i] : n;
        ck_assert_int_eq(crn_kernels_ref.topk(NULL, score, n, k, want), 0);
        struct guarded out = guarded_alloc(k * 4, 4);
        ck_assert_int_eq(cand->topk(NULL, score, n, k, out.p), 0);
        ck_assert_int_eq(parity_first_byte(want, out.p, k * 4), -1);
        ck_assert(guarded_intact(&out));
        guarded_free(&out);
    }
    free(want);
}

START_TEST(topk_is_deterministic_for_ties_and_nan)
{
    struct rand r = rand_seeded(rand_default_seed());
    size_t n = topk_sizes[_i];
    float *x = malloc(n * 4 + 4);
    uint32_t index;
    rand_fill(&r, x, n, 1);
    check_topk(x, n);
    for (size_t i = 0; i < n; i++)
        x[i] = floorf(x[i] * 5) / 4;
    check_topk(x, n);
    rand_sprinkle(&r, x, n, 3);
    check_topk(x, n);
    for (size_t i = 0; i < n; i++)
        x[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? 0.0f : -0.0f;
    check_topk(x, n);
    ck_assert_int_eq(cand->topk(NULL, x, n, n + 1, &index), CAIRN_E_ARG);
    free(x);
}
END_TEST

int main(int argc, char **argv)
{
    cand = parity_backend(argc, argv);
    if (cand == NULL)
        return 77;
    const struct run_test tests[] = {
        RUN_LOOP(every_shape_and_reduction_matches_the_definition, N_SHAPES * N_REDUCE),
        RUN_LOOP(scores_take_up_the_softmax_that_attention_left, N_SHAPES * N_REDUCE),
        RUN_LOOP(queries_may_come_in_chunks, N_REDUCE),
        RUN_TEST(a_mean_over_everything_needs_heads_of_equal_length),
        RUN_LOOP(topk_is_deterministic_for_ties_and_nan, N_TOPK),
    };
    return run_suite("parity_scores", tests, sizeof tests / sizeof *tests);
}
