/* tools/worker/gen_pyramid: the budget is kept, question, sinks and recent window stay, what draws attention stays, and switched off
 * nothing changes, to the bit. */
#include "tests/support/gguf_write.h"
#include "tests/support/model.h"
#include "tests/support/paths.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"

#include "tools/worker/gen_pyramid.h"

#include <stdlib.h>
#include <string.h>

START_TEST(counts_fall_with_depth_as_published)
{
    struct crn_gen_rule r = CRN_GEN_DEFAULT;
    ck_assert_uint_eq(crn_gen_keep(&r, 0, 32), 14);
    ck_assert_uint_eq(crn_gen_keep(&r, 16, 32), 7);
    ck_assert_uint_eq(crn_gen_keep(&r, 31, 32), 1);
    for (uint32_t l = 1; l < 32; l++)
        ck_assert_uint_le(crn_gen_keep(&r, l, 32), crn_gen_keep(&r, l - 1, 32));
    ck_assert_uint_eq(crn_gen_window(&r, 10), 2);
}
END_TEST

START_TEST(broken_rules_are_refused)
{
    static const char *const bad[] = {"rho", "rho=", "rho=1", "g=2", "X=0", "X=1.5", "w=0.5", "y=1", "rho=nan"};
    struct crn_gen_rule r;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(crn_gen_parse(bad[i], &r) == CAIRN_E_ARG, "%s", bad[i]);
    ck_assert_int_eq(crn_gen_parse("on", &r), 0);
    ck_assert_uint_eq(r.exceed, 16);
    ck_assert_int_eq(crn_gen_parse("X=8,rho=0.1", &r), 0);
    ck_assert_uint_eq(r.exceed, 8);
    ck_assert(r.on);
}
END_TEST

/* ---- rows that know their positions ---- */

enum { FIXED = 10, START = 90, STEPS = 150, DIM = 4, HEADS = 2 };

static void append(struct crn_kv *kv, int32_t pos)
{
    float row[HEADS * DIM];
    for (int i = 0; i < HEADS * DIM; i++)
        row[i] = (float)(pos * 10 + i);
    struct crn_exec exec = {0};
    ck_assert_int_eq(crn_kv_append(kv, &crn_kernels_ref, &exec, row, row, &pos, 1), 0);
}

static void check_rows(const struct crn_kv *kv)
{
    for (uint32_t h = 0; h < HEADS; h++)
        for (uint32_t i = 0; i < kv->n; i++)
            for (uint32_t c = 0; c < DIM; c++) {
                float want = (float)(kv->pos[i] * 10 + (int32_t)(h * DIM + c));
                ck_assert_float_eq(((const float *)kv->heads[h].k)[i * DIM + c], want);
                ck_assert_float_eq(((const float *)kv->heads[h].v)[i * DIM + c], want);
            }
}

/* Generates STEPS rows in a layer; scores [position]: the attention that each row draws from every query. */
static void generate(const struct crn_gen_rule *rule, uint32_t layer, const float *drawn, struct crn_kv *kv)
{
    struct crn_gen *g;
    ck_assert_int_eq(crn_gen_begin(rule, 30, 1, &g), 0);
    ck_assert_int_eq(crn_kv_init(kv, CAIRN_F32, HEADS, DIM, 8), 0);
    for (int32_t i = 0; i < FIXED; i++)
        append(kv, START + i);
    for (int32_t i = 0; i < STEPS; i++) {
        int32_t pos = START + FIXED + i;
        append(kv, pos);
        float *scores = crn_gen_scores(g, 0, kv->n);
        ck_assert_ptr_nonnull(scores);
        for (uint32_t j = 0; j < kv->n; j++)
            scores[j] = drawn[kv->pos[j]];
        struct crn_gen_step step = {.layer = layer, .fixed = FIXED, .tokens = (uint32_t)pos + 1};
        ck_assert_int_eq(crn_gen_take(g, &step, kv), 0);
        uint32_t window = crn_gen_window(rule, step.tokens);
        for (uint32_t j = 0; j < FIXED; j++) /* sinks of the answer are the question's tokens */
            ck_assert_int_eq(kv->pos[j], START + (int32_t)j);
        for (uint32_t j = 0; j <= window && j <= (uint32_t)i; j++)
            ck_assert_int_eq(kv->pos[kv->n - 1 - j], pos - (int32_t)j);
        ck_assert_uint_le(kv->n, FIXED + (STEPS / rule->exceed + 1) * crn_gen_keep(rule, layer, 30) +
                                     rule->exceed + window + 1);
    }
    crn_gen_end(g);
}

START_TEST(budget_question_and_recent_window_are_kept)
{
    struct crn_gen_rule rule = CRN_GEN_DEFAULT;
    struct rand r = rand_seeded(rand_default_seed());
    uint32_t before = UINT32_MAX;
    for (uint32_t layer = 0; layer < 30; layer += 29) {
        float drawn[START + FIXED + STEPS];
        struct crn_kv kv;
        for (size_t i = 0; i < START + FIXED + STEPS; i++)
            drawn[i] = rand_f32(&r) + 1;
        generate(&rule, layer, drawn, &kv);
        check_rows(&kv);
        for (uint32_t i = 1; i < kv.n; i++)
            ck_assert_int_lt(kv.pos[i - 1], kv.pos[i]);
        ck_assert_uint_lt(kv.n, FIXED + STEPS);
        ck_assert_uint_lt(kv.n, before); /* less, deeper */
        before = kv.n;
        crn_kv_free(&kv);
    }
}
END_TEST

START_TEST(what_draws_most_attention_stays)
{
    struct crn_gen_rule rule = CRN_GEN_DEFAULT;
    float drawn[START + FIXED + STEPS] = {0};
    struct crn_kv kv;
    int found = 0;
    rule.exceed = 8;
    for (int i = 0; i < 5; i++)
        drawn[START + FIXED + 3 + 16 * i] = 1;
    generate(&rule, 29, drawn, &kv); /* one of eight */
    for (uint32_t i = 0; i < kv.n; i++)
        found += drawn[kv.pos[i]] > 0;
    ck_assert_int_eq(found, 5);
    crn_kv_free(&kv);
}
END_TEST

/* Of two rows with as much attention in all, the one that drew it lately is worth more. */
START_TEST(later_queries_weigh_more)
{
    struct crn_gen_rule rule = {1, 0.2f, 0.1f, 0.5f, 3.0f, 2}; /* of each two rows one stays */
    struct crn_gen *g;
    struct crn_kv kv;
    ck_assert_int_eq(crn_gen_begin(&rule, 1, 1, &g), 0);
    ck_assert_int_eq(crn_kv_init(&kv, CAIRN_F32, HEADS, DIM, 8), 0);
    for (int32_t i = 0; i < 2 + 1 + 20; i++) { /* tokens 100: a window of 1 + 20 */
        append(&kv, i);
        float *scores = crn_gen_scores(g, 0, kv.n);
        for (uint32_t j = 0; j < kv.n; j++)
            scores[j] = (j == 0 && i == 3) || (j == 1 && i == 19) ? 1.0f : 0.0f;
        struct crn_gen_step step = {.tokens = 100};
        ck_assert_int_eq(crn_gen_take(g, &step, &kv), 0);
    }
    ck_assert_uint_eq(kv.n, 22);
    ck_assert_int_eq(kv.pos[0], 1);
    crn_gen_end(g);
    crn_kv_free(&kv);
}
END_TEST

/* ---- in a model ---- */

enum { CONTEXT = 60, ANSWER = 90 };

struct told {
    int32_t answer[2][ANSWER];
    float logits[300];
    uint64_t bytes;
};

/* Two answers at once; rule NULL: the plain path. */
static void tell(struct test_model *m, const struct crn_gen_rule *rule, struct told *out)
{
    static const int32_t tokens[CONTEXT] = {5, 9, 30, 41, 7, 77, 120, 8};
    static const int32_t asked[2][4] = {{10, 11, 12, 13}, {20, 21, 22, 23}};
    struct crn_question q[2];
    struct crn_cache cache;
    struct crn_decode d;
    struct crn_prefill p = {.tokens = tokens, .n = CONTEXT};
    struct crn_decode_options o = {.sampler = {0.9f, 1.0f, 3}, .max_tokens = ANSWER, .stop = {-1, -1}};
    memset(out, 0, sizeof *out);
    for (int i = 0; i < 2; i++)
        q[i] = (struct crn_question){.tokens = asked[i], .n = 4, .answer = out->answer[i]};
    ck_assert_int_eq(crn_cache_init(&cache, 3), 0);
    ck_assert_int_eq(crn_prefill(&m->engine, &p, &cache, NULL), 0);
    ck_assert_int_eq(crn_decode_begin(&d, &m->engine, q, 2, CONTEXT), 0);
    if (rule != NULL)
        ck_assert_int_eq(crn_decode_thin(&d, rule), 0);
    for (uint32_t l = 0; l < 3; l++)
        ck_assert_int_eq(crn_decode_layer(&d, l, cache.layers[l].spans, cache.layers[l].n), 0);
    ck_assert_int_eq(crn_decode_logits(&d), 0);
    ck_assert_int_eq(crn_decode_generate(&d, &cache, &o), 0);
    ck_assert_uint_eq(q[1].n_answer, ANSWER);
    memcpy(out->logits, d.logits, sizeof out->logits);
    out->bytes = crn_decode_bytes(&d);
    crn_decode_end(&d);
    crn_cache_free(&cache);
}

START_TEST(off_or_never_due_is_the_same_to_the_bit_and_on_saves_rows)
{
    static const struct crn_model_shape shape = {.n_layers = 3, .hidden = 64, .n_heads = 4, .n_kv_heads = 2,
                                                 .head_dim = 16, .ffn = 96, .vocab = 300, .context_max = 2048,
                                                 .rope_theta = 10000, .norm_eps = 1e-5f};
    static struct told plain, off, never, on;
    struct crn_gen_rule rule = CRN_GEN_DEFAULT;
    struct test_model m;
    char path[256];
    snprintf(path, sizeof path, "%s/gen.gguf", paths_tmp());
    ck_assert_int_eq(crn_test_model_write(path, &shape, 6, CRN_QUANT_F32), 0);
    test_model_open_file(&m, path, NULL, "cpu", CAIRN_F16);
    paths_tmp_remove();
    tell(&m, NULL, &plain);
    tell(&m, &rule, &on);
    rule.on = 0;
    tell(&m, &rule, &off);
    rule.on = 1;
    rule.exceed = 1000;
    tell(&m, &rule, &never);
    ck_assert_mem_eq(&plain, &off, sizeof plain);
    ck_assert_mem_eq(&plain, &never, sizeof plain);
    ck_assert_uint_lt(on.bytes, plain.bytes);
    test_model_close(&m);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(counts_fall_with_depth_as_published),
        RUN_TEST(broken_rules_are_refused),
        RUN_TEST(budget_question_and_recent_window_are_kept),
        RUN_TEST(what_draws_most_attention_stays),
        RUN_TEST(later_queries_weigh_more),
        RUN_TEST(off_or_never_due_is_the_same_to_the_bit_and_on_saves_rows),
    };
    return run_suite("worker_gen_pyramid", tests, sizeof tests / sizeof *tests);
}
