/* tools/worker: the forward pass equals an independent reference (tests/data/golden/forward.json),
 * at every storage type. */
#include "tests/support/model.h"
#include "tests/support/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const members[] = {"base", "finder", "clerk"};
/* bf16: the reference itself is off by 0.076 when only the context's K and V are rounded
 * (docs/decisions.md). */
static const struct {
    uint32_t kv;
    double logit_bound;
} types[] = {
    {CAIRN_F32, 2e-3},
    {CAIRN_F16, 0.05},
    {CAIRN_BF16, 0.1},
};
/* The golden norms are float32 sums; where E holds one outlier of 24,000 a float64 run departs from
 * them by 1.05e-4. */
static const double norm_bound = 1.2e-4;

struct norms {
    const json_t *k, *v, *e;
    double worst;
};

static void compare_norm(struct norms *c, const json_t *list, uint32_t layer, double square)
{
    double want = json_number_value(json_array_get(list, layer)),
           off = fabs(sqrt(square) - want) / want;
    c->worst = off > c->worst || isnan(off) ? off : c->worst;
}

static int see_state(void *ctx, uint32_t layer, const float *h, const int32_t *pos, uint32_t n)
{
    struct norms *c = ctx;
    double square = 0;
    (void)pos;
    for (size_t i = 0; i < (size_t)n * 576; i++)
        square += (double)h[i] * (double)h[i];
    compare_norm(c, c->e, layer, square);
    return 0;
}

static double square_of(const struct crn_kv *kv, const float *rows)
{
    double square = 0;
    for (uint32_t h = 0; h < kv->n_heads; h++)
        for (size_t i = 0; i < (size_t)kv->n * kv->head_dim; i++) {
            double x = (double)rows[h * (size_t)kv->capacity * kv->head_dim + i];
            square += x * x;
        }
    return square;
}

static int see_layer(void *ctx, uint32_t layer, const struct crn_kv *kv, const float *scores)
{
    struct norms *c = ctx;
    (void)scores;
    compare_norm(c, c->k, layer, square_of(kv, kv->k));
    compare_norm(c, c->v, layer, square_of(kv, kv->v));
    return 0;
}

/* Norms of K, V and E of every layer, f32. */
START_TEST(every_layer_has_the_norms_of_the_reference)
{
    struct test_model m;
    uint32_t n;
    json_t *golden = test_golden("forward.json");
    const json_t *member = json_object_get(json_object_get(golden, "models"), members[_i]);
    int32_t *ids = test_ids(json_object_get(golden, "context_ids"), &n);
    struct norms norms = {json_object_get(member, "k_norm"), json_object_get(member, "v_norm"),
                          json_object_get(member, "e_norm"), 0};
    struct crn_prefill_watch watch = {&norms, see_state, see_layer, 0};
    struct crn_prefill p = {.tokens = ids, .n = n, .watch = &watch};
    struct crn_cache cache;
    test_model_open(&m, members[_i], "cpu", CAIRN_F32);
    ck_assert_int_eq(crn_cache_init(&cache, m.weights->shape.n_layers), 0);
    ck_assert_int_eq(crn_prefill(&m.engine, &p, &cache, NULL), 0);
    ck_assert_double_le(norms.worst, norm_bound);
    crn_cache_free(&cache);
    test_model_close(&m);
    free(ids);
    json_decref(golden);
}
END_TEST

/* Logits inside the context: all rows of one question-less pass. */
START_TEST(context_logits_and_nll_equal_the_reference)
{
    struct test_model m;
    uint32_t n;
    json_t *golden = test_golden("forward.json");
    const json_t *member = json_object_get(json_object_get(golden, "models"), members[_i]);
    int32_t *ids = test_ids(json_object_get(golden, "context_ids"), &n);
    test_model_open(&m, members[_i], "cpu", CAIRN_F32);
    struct crn_question question = {.tokens = ids, .n = n};
    struct crn_decode d;
    ck_assert_int_eq(crn_decode_begin(&d, &m.engine, &question, 1, 0), 0);
    for (uint32_t l = 0; l < m.weights->shape.n_layers; l++)
        ck_assert_int_eq(crn_decode_layer(&d, l, NULL, 0), 0);
    size_t vocab = m.weights->shape.vocab;
    float *logits = malloc(n * vocab * sizeof *logits);
    ck_assert_int_eq(crn_engine_logits(&m.engine, d.pass.h, n, logits), 0);
    const char *at;
    json_t *top;
    json_object_foreach(json_object_get(member, "logits"), at, top)
        ck_assert_double_le(test_top_difference(top, logits + strtoul(at, NULL, 10) * vocab), 2e-3);
    double nll = 0;
    for (uint32_t i = 0; i + 1 < n; i++)
        nll += crn_nll(logits + i * vocab, vocab, (uint32_t)ids[i + 1]);
    ck_assert_double_le(
        fabs(nll / (n - 1) - json_number_value(json_object_get(member, "nll_of_context"))), 1e-3);
    free(logits);
    crn_decode_end(&d);
    test_model_close(&m);
    free(ids);
    json_decref(golden);
}
END_TEST

/* Three questions together after a prefill: same first logits, same greedy answers, as the
 * reference gave one by one. */
START_TEST(answers_equal_the_reference_at_every_storage_type)
{
    const char *name = members[_i % 3];
    struct test_model m;
    uint32_t n;
    json_t *golden = test_golden("forward.json");
    const json_t *answers =
        json_object_get(json_object_get(json_object_get(golden, "models"), name), "answers");
    int32_t *ids = test_ids(json_object_get(golden, "context_ids"), &n), *asked[8] = {0},
            said[8][64];
    struct crn_question q[8] = {{0}};
    size_t n_q = json_array_size(answers);
    struct crn_cache cache;
    struct crn_decode d;
    test_model_open(&m, name, "cpu", types[_i / 3].kv);
    for (size_t i = 0; i < n_q; i++) {
        asked[i] = test_ids(json_object_get(json_array_get(answers, i), "question_ids"), &q[i].n);
        q[i].tokens = asked[i];
        q[i].answer = said[i];
    }
    struct crn_prefill p = {.tokens = ids, .n = n};
    ck_assert_int_eq(crn_cache_init(&cache, m.weights->shape.n_layers), 0);
    ck_assert_int_eq(crn_prefill(&m.engine, &p, &cache, NULL), 0);
    ck_assert_int_eq(crn_decode_begin(&d, &m.engine, q, (uint32_t)n_q, n), 0);
    for (uint32_t l = 0; l < cache.n_layers; l++)
        ck_assert_int_eq(crn_decode_layer(&d, l, cache.layers[l].spans, cache.layers[l].n), 0);
    ck_assert_int_eq(crn_decode_logits(&d), 0);
    for (size_t i = 0; i < n_q; i++)
        ck_assert_double_le(
            test_top_difference(json_object_get(json_array_get(answers, i), "first_logits"),
                                d.logits + i * m.weights->shape.vocab),
            types[_i / 3].logit_bound);
    struct crn_decode_options o = {.sampler = {0, 1, 1}, .max_tokens = 64, .stop = {2, -1}};
    ck_assert_int_eq(crn_decode_generate(&d, &cache, &o), 0);
    for (size_t i = 0; i < n_q; i++) {
        uint32_t n_want;
        int32_t *want =
            test_ids(json_object_get(json_array_get(answers, i), "answer_ids"), &n_want);
        ck_assert_uint_le(q[i].n_answer, n_want + 1);
        ck_assert_uint_ge(q[i].n_answer, n_want);
        ck_assert_mem_eq(q[i].answer, want, n_want * sizeof *want);
        free(want);
        free(asked[i]);
    }
    crn_decode_end(&d);
    crn_cache_free(&cache);
    test_model_close(&m);
    free(ids);
    json_decref(golden);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(every_layer_has_the_norms_of_the_reference, 3),
        RUN_LOOP(context_logits_and_nll_equal_the_reference, 3),
        RUN_LOOP(answers_equal_the_reference_at_every_storage_type, 9),
    };
    return run_suite("worker_forward", tests, sizeof tests / sizeof *tests);
}
