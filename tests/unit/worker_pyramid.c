/* tools/worker/pyramid: the coded PyramidInfer rule, kept token by kept token, and the sets made at
 * publish time. */
#include "tests/support/model.h"
#include "tests/support/run.h"

#include "tools/worker/decode.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct crn_pyramid_rule rule_of(const json_t *row)
{
    struct crn_pyramid_rule r = CRN_PYRAMID_DEFAULT;
    r.rho = (float)json_number_value(json_object_get(row, "rho"));
    r.d = (float)json_number_value(json_object_get(row, "d"));
    r.interval = (uint32_t)json_integer_value(json_object_get(row, "I"));
    r.m = (uint32_t)json_integer_value(json_object_get(row, "m"));
    return r;
}

/* Counts depend on lengths and settings alone: method.md 2.3.2. */
START_TEST(kept_counts_equal_the_reference_for_every_setting)
{
    json_t *golden = test_golden("retention.json"), *row;
    size_t at;
    ck_assert_uint_gt(json_array_size(golden), 10);
    json_array_foreach(golden, at, row)
    {
        struct crn_pyramid_rule r = rule_of(row);
        uint32_t s = (uint32_t)json_integer_value(json_object_get(row, "S")), n = s;
        uint32_t layers = (uint32_t)json_integer_value(json_object_get(row, "L"));
        double sum = 0;
        for (uint32_t l = 0; l < layers; l++) {
            ck_assert_int_eq(n,
                             json_integer_value(json_array_get(json_object_get(row, "counts"), l)));
            sum += n;
            uint32_t window = crn_pyramid_window(&r, s);
            n = crn_pyramid_keep(&r, l, layers, s, n) + (window < n ? window : n);
        }
        ck_assert_double_le(
            fabs(sum / (layers * (double)s) - json_number_value(json_object_get(row, "fraction"))),
            5e-4);
    }
    json_decref(golden);
}
END_TEST

/* method.md 2.3.2, the table of realised retention at S = 2048, to three digits. */
START_TEST(shipped_configurations_keep_what_the_table_says)
{
    static const struct {
        uint32_t layers, interval;
        float d;
        double mean;
    } rows[] = {
        {32, 1, 0.9f, .765},
        {40, 2, 0.8f, .723},
        {80, 3, 0.9f, .780},
    };
    struct crn_pyramid_rule r = CRN_PYRAMID_DEFAULT;
    uint32_t n = 2048;
    double sum = 0;
    r.d = rows[_i].d;
    r.interval = rows[_i].interval;
    for (uint32_t l = 0; l < rows[_i].layers; l++) {
        sum += n;
        n = crn_pyramid_keep(&r, l, rows[_i].layers, 2048, n) + crn_pyramid_window(&r, 2048);
    }
    ck_assert_double_le(fabs(sum / (rows[_i].layers * 2048.0) - rows[_i].mean), 6e-4);
}
END_TEST

static const char *const settings[] = {"prefill d=0.9 rho=0.2", "prefill d=0.7 rho=0.2",
                                       "prefill d=0.8 rho=0.05"};
static const char *const rules[] = {"d=0.9,rho=0.2", "d=0.7,rho=0.2", "d=0.8,rho=0.05"};

/* Positions kept in one layer equal the list, but for at most one exchange between equal scores. */
static void check_positions(const struct crn_cache *c, uint32_t layer, const json_t *want)
{
    const struct crn_kv_head *head = &c->layers[layer].spans[0].heads[0];
    uint32_t other = 0;
    ck_assert_uint_eq(head->n, json_array_size(want));
    for (uint32_t i = 0; i < head->n; i++)
        other += head->pos[i] != json_integer_value(json_array_get(want, i));
    ck_assert_uint_eq(other, 0);
}

START_TEST(prefill_keeps_the_same_tokens_as_the_reference)
{
    struct test_model m;
    uint32_t n;
    json_t *reuse = test_golden("reuse.json"), *forward = test_golden("forward.json");
    const json_t *want = json_object_get(json_object_get(reuse, "pyramid"), settings[_i]);
    int32_t *ids = test_ids(json_object_get(forward, "context_ids"), &n);
    struct crn_pyramid_rule rule;
    struct crn_cache cache;
    ck_assert_int_eq(crn_pyramid_parse(rules[_i], &rule), 0);
    test_model_open(&m, "base", "cpu", CAIRN_F32);
    float *h = malloc(m.weights->shape.hidden * sizeof *h),
          *logits = malloc(m.weights->shape.vocab * sizeof *logits);
    struct crn_prefill p = {.tokens = ids, .n = n, .rule = &rule};
    ck_assert_int_eq(crn_cache_init(&cache, m.weights->shape.n_layers), 0);
    ck_assert_int_eq(crn_prefill(&m.engine, &p, &cache, h), 0);
    for (uint32_t l = 0; l < cache.n_layers; l++)
        ck_assert_int_eq(cache.layers[l].spans[0].heads[0].n,
                         json_integer_value(json_array_get(json_object_get(want, "counts"), l)));
    check_positions(&cache, 10, json_object_get(want, "kept_layer_10"));
    check_positions(&cache, cache.n_layers - 1, json_object_get(want, "kept_last"));
    ck_assert_int_eq(crn_engine_logits(&m.engine, h, 1, logits), 0);
    ck_assert_double_le(test_top_difference(json_object_get(want, "last_logits"), logits), 2e-3);
    crn_cache_free(&cache);
    test_model_close(&m);
    free(h);
    free(logits);
    free(ids);
    json_decref(reuse);
    json_decref(forward);
}
END_TEST

START_TEST(a_broken_rule_is_refused)
{
    static const char *const bad[] = {"d",   "d=",    "d=2", "rho=1", "x=1", "d=0.9;rho=0.2",
                                      "I=0", "d=nan", "m=-1"};
    struct crn_pyramid_rule r;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_int_eq(crn_pyramid_parse(bad[i], &r), CAIRN_E_ARG);
    ck_assert_int_eq(crn_pyramid_parse("", &r), 0);
    ck_assert_uint_eq(r.m, 64);
}
END_TEST

START_TEST(snap_sets_hold_sinks_and_recent_tokens)
{
    float score[100], pooled[100];
    uint32_t index[100];
    for (int i = 0; i < 100; i++)
        score[i] = i == 50 ? 1.0f : 0.0f;
    crn_snap_pool(score, 100, pooled);
    ck_assert_float_eq(pooled[47], 1.0f);
    ck_assert_float_eq(pooled[46], 0.0f);
    uint32_t k = crn_snap_select(&crn_kernels_ref, NULL, pooled, 100, 0.3f, index);
    ck_assert_uint_eq(k, 30);
    ck_assert_uint_eq(index[3], 3);
    ck_assert_uint_eq(index[29], 99);
    ck_assert_uint_eq(index[15], 85);
    int peak = 0;
    for (uint32_t i = 0; i < k; i++)
        peak += index[i] >= 47 && index[i] <= 53;
    ck_assert_int_eq(peak, 7);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(kept_counts_equal_the_reference_for_every_setting),
        RUN_LOOP(shipped_configurations_keep_what_the_table_says, 3),
        RUN_LOOP(prefill_keeps_the_same_tokens_as_the_reference, 3),
        RUN_TEST(a_broken_rule_is_refused),
        RUN_TEST(snap_sets_hold_sinks_and_recent_tokens),
    };
    return run_suite("worker_pyramid", tests, sizeof tests / sizeof *tests);
}
