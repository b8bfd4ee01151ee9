/* tools/worker/selectors: every selector scores every token of every layer and head, whatever the entry is stored as; a budget is
 * kept to the token, and what must be kept is. */
#include "tests/support/gguf_write.h"
#include "tests/support/model.h"
#include "tests/support/paths.h"
#include "tests/support/run.h"

#include "tools/worker/selectors/selectors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SETS_L = 16, SETS_G = 3, SETS_N = 200 };

static float *random_scores(uint32_t seed, uint32_t levels)
{
    float *scores = malloc(SETS_L * SETS_G * SETS_N * sizeof *scores);
    ck_assert_ptr_nonnull(scores);
    for (size_t i = 0; i < SETS_L * SETS_G * SETS_N; i++) {
        seed = seed * 1664525u + 1013904223u;
        scores[i] = levels > 0 ? (float)(seed >> 16) / (65536.0f / (float)levels) : 0;
        scores[i] = levels < 1000 ? floorf(scores[i]) : scores[i];
    }
    return scores;
}

static void check_set(const struct crn_sets *s, uint32_t layer, uint32_t head)
{
    const uint32_t *list = crn_sets_list(s, layer, head);
    uint32_t n = s->counts[layer * s->n_heads + head];
    ck_assert_uint_ge(n, CRN_SETS_SINK + CRN_SETS_RECENT);
    for (uint32_t i = 1; i < n; i++)
        ck_assert_uint_lt(list[i - 1], list[i]);
    for (uint32_t i = 0; i < CRN_SETS_SINK; i++)
        ck_assert_uint_eq(list[i], i);
    for (uint32_t i = 0; i < CRN_SETS_RECENT; i++)
        ck_assert_uint_eq(list[n - 1 - i], s->n - 1 - i);
}

/* Ties (few levels of scores) must not widen a budget. */
START_TEST(one_threshold_keeps_the_share_asked_for_to_the_token)
{
    static const uint32_t levels[] = {100000, 4, 1};
    for (size_t i = 0; i < 3; i++) {
        struct crn_sets_rule rule = {0.25f, CRN_BUDGET_GLOBAL, 1, 0, NULL};
        struct crn_sets sets;
        float *scores = random_scores(7, levels[i]);
        uint32_t kept = 0;
        ck_assert_int_eq(crn_sets_choose(&rule, scores, SETS_L, SETS_G, SETS_N, &sets), 0);
        for (uint32_t l = 0; l < SETS_L; l++)
            for (uint32_t h = 0; h < SETS_G; h++) {
                check_set(&sets, l, h);
                kept += sets.counts[l * SETS_G + h];
            }
        ck_assert_uint_eq(kept, SETS_L * SETS_G * SETS_N / 4);
        ck_assert_double_eq_tol(sets.share, 0.25, 1e-9);
        crn_sets_free(&sets);
        free(scores);
    }
}
END_TEST

START_TEST(what_is_kept_has_the_best_scores)
{
    struct crn_sets_rule rule = {0.4f, CRN_BUDGET_GLOBAL, 1, 0, NULL};
    struct crn_sets sets;
    float *scores = random_scores(11, 100000), least = INFINITY, best_lost = -INFINITY;
    ck_assert_int_eq(crn_sets_choose(&rule, scores, SETS_L, SETS_G, SETS_N, &sets), 0);
    for (uint32_t set = 0; set < SETS_L * SETS_G; set++) {
        const uint32_t *list = sets.index + set * SETS_N;
        uint32_t at = 0;
        for (uint32_t i = CRN_SETS_SINK; i < SETS_N - CRN_SETS_RECENT; i++) {
            while (at < sets.counts[set] && list[at] < i)
                at++;
            float x = scores[set * SETS_N + i];
            if (list[at] == i)
                least = x < least ? x : least;
            else
                best_lost = x > best_lost ? x : best_lost;
        }
    }
    ck_assert_float_ge(least, best_lost);
    crn_sets_free(&sets);
    free(scores);
}
END_TEST

static const enum crn_budget shaped[] = {CRN_BUDGET_UNIFORM, CRN_BUDGET_LINEAR, CRN_BUDGET_COSINE,
                                         CRN_BUDGET_DELAYED};

START_TEST(shares_have_the_shape_of_their_budget_and_the_mean_asked_for)
{
    for (int k = 2; k <= 9; k++) {
        struct crn_sets_rule rule = {0.1f * (float)k, shaped[_i], 5, 7, NULL};
        double share[SETS_L], sum = 0, before = 1;
        crn_sets_shares(&rule, SETS_L, share);
        for (uint32_t l = 0; l < SETS_L; l++) {
            int whole = l >= 5 && l <= 7;
            ck_assert(share[l] >= 0 && share[l] <= 1);
            ck_assert(!whole || share[l] == 1.0);
            sum += whole ? 0 : share[l];
            if (whole)
                continue;
            ck_assert_double_le(share[l], before);
            before = share[l];
        }
        ck_assert_double_eq_tol(sum / (SETS_L - 3), (double)rule.keep, 1e-6);
        int falls = shaped[_i] != CRN_BUDGET_UNIFORM;
        ck_assert_int_eq(share[0] > share[SETS_L - 1], falls);
    }
}
END_TEST

/* Heads of one layer share its threshold, so that one of them may keep more than the other. */
START_TEST(shares_given_by_layer_are_followed_and_divided_within_a_layer)
{
    double weights[SETS_L];
    struct crn_sets_rule rule = {.keep = 0.4f, .whole_first = 5, .whole_last = 7, .weights = weights};
    struct crn_sets sets;
    float *scores = random_scores(13, 100000);
    uint32_t uneven = 0;
    for (uint32_t l = 0; l < SETS_L; l++)
        weights[l] = l == 2 ? 1e6 : l == 9 ? 2 : 1;
    ck_assert_int_eq(crn_sets_choose(&rule, scores, SETS_L, SETS_G, SETS_N, &sets), 0);
    double of[SETS_L] = {0}, sum = 0;
    for (uint32_t l = 0; l < SETS_L; l++)
        for (uint32_t h = 0; h < SETS_G; h++) {
            check_set(&sets, l, h);
            uneven += h > 0 && sets.counts[l * SETS_G + h] != sets.counts[l * SETS_G];
            of[l] += (double)sets.counts[l * SETS_G + h] / (SETS_G * SETS_N);
            sum += l >= 5 && l <= 7 ? 0 : (double)sets.counts[l * SETS_G + h];
        }
    ck_assert_double_eq_tol(sum / ((SETS_L - 3) * SETS_G * SETS_N), 0.4, 0.002);
    ck_assert_double_eq_tol(of[2], 1, 1e-9);
    ck_assert_double_eq_tol(of[6], 1, 1e-9);
    ck_assert_double_eq_tol(of[9], 2 * of[8], 0.005);
    for (uint32_t l = 0; l < SETS_L; l++) /* only the shape counts */
        weights[l] = 1e-3 * (l + 1);
    double share[SETS_L], mean = 0;
    crn_sets_shares(&rule, SETS_L, share);
    for (uint32_t l = 0; l < SETS_L; l++)
        mean += l >= 5 && l <= 7 ? 0 : share[l] / (SETS_L - 3);
    ck_assert_double_eq_tol(mean, 0.4, 1e-6);
    ck_assert_uint_gt(uneven, 0);
    crn_sets_free(&sets);
    free(scores);
}
END_TEST

START_TEST(layers_left_whole_keep_everything_and_do_not_count)
{
    struct crn_sets_rule rule = {0.3f, CRN_BUDGET_GLOBAL, 5, 7, NULL};
    struct crn_sets sets;
    float *scores = random_scores(3, 100000);
    uint32_t kept = 0;
    ck_assert_int_eq(crn_sets_choose(&rule, scores, SETS_L, SETS_G, SETS_N, &sets), 0);
    for (uint32_t l = 0; l < SETS_L; l++)
        for (uint32_t h = 0; h < SETS_G; h++) {
            uint32_t n = sets.counts[l * SETS_G + h];
            if (l >= 5 && l <= 7)
                ck_assert_uint_eq(n, SETS_N);
            else
                kept += n;
        }
    ck_assert_uint_eq(kept, (SETS_L - 3) * SETS_G * SETS_N * 3 / 10);
    crn_sets_free(&sets);
    free(scores);
}
END_TEST

START_TEST(impossible_rules_are_refused)
{
    float score = 1;
    struct crn_sets sets;
    enum crn_budget budget;
    struct crn_sets_rule none = {0, CRN_BUDGET_GLOBAL, 1, 0, NULL}, all = {1, CRN_BUDGET_GLOBAL, 1, 0, NULL};
    double weight = 0;
    struct crn_sets_rule weightless = {0.5f, CRN_BUDGET_GLOBAL, 1, 0, &weight};
    ck_assert_int_eq(crn_sets_choose(&weightless, &score, 1, 1, 1, &sets), CAIRN_E_ARG);
    ck_assert_int_eq(crn_sets_choose(&none, &score, 1, 1, 1, &sets), CAIRN_E_ARG);
    ck_assert_int_eq(crn_sets_choose(&all, &score, 1, 1, 0, &sets), CAIRN_E_ARG);
    ck_assert_int_eq(crn_sets_choose(&all, &score, 1, 1, 1, &sets), 0);
    ck_assert_uint_eq(sets.counts[0], 1);
    crn_sets_free(&sets);
    ck_assert_int_eq(crn_budget_parse("global", &budget), 0);
    ck_assert_str_eq(crn_budget_name(budget), "global");
    ck_assert_int_eq(crn_budget_parse("loud", &budget), CAIRN_E_ARG);
    ck_assert_ptr_null(crn_selector_named("loud"));
}
END_TEST

/* ---- selectors on a small random model ---- */

enum { TOKENS = 300 };

struct scene {
    struct test_model model;
    struct crn_cache cache;
    int32_t tokens[TOKENS];
    struct crn_select select;
    size_t n_scores;
};

static void scene_open(struct scene *s, int int8)
{
    static const struct crn_model_shape shape = {.n_layers = 3,
                                                 .hidden = 64,
                                                 .n_heads = 4,
                                                 .n_kv_heads = 2,
                                                 .head_dim = 16,
                                                 .ffn = 96,
                                                 .vocab = 300,
                                                 .context_max = 2048,
                                                 .rope_theta = 10000,
                                                 .norm_eps = 1e-5f};
    static const int32_t prompt[] = {5, 6, 7};
    char path[256];
    snprintf(path, sizeof path, "%s/selectors.gguf", paths_tmp());
    ck_assert_int_eq(crn_test_model_write(path, &shape, 5, CRN_QUANT_F32), 0);
    test_model_open_file(&s->model, path, NULL, "cpu", CAIRN_F16);
    paths_tmp_remove();
    uint64_t seed = 9;
    for (int i = 0; i < TOKENS; i++)
        s->tokens[i] = (int32_t)((gguf_random(&seed) + 1) * 149);
    struct crn_prefill p = {.tokens = s->tokens, .n = TOKENS};
    ck_assert_int_eq(crn_cache_init(&s->cache, shape.n_layers), 0);
    ck_assert_int_eq(crn_prefill(&s->model.engine, &p, &s->cache, NULL), 0);
    for (uint32_t l = 0; int8 && l < shape.n_layers; l++)
        ck_assert_int_eq(crn_kv_quantise(&s->cache.pieces->kv[l], s->model.engine.ops,
                                         &s->model.engine.exec),
                         0);
    crn_cache_refresh(&s->cache);
    s->select = (struct crn_select){.e = &s->model.engine,
                                    .cache = &s->cache,
                                    .tokens = s->tokens,
                                    .n = TOKENS,
                                    .prompt = prompt,
                                    .n_prompt = 3};
    s->n_scores = (size_t)shape.n_layers * shape.n_kv_heads * TOKENS;
}

static float *score(struct scene *s, const char *name)
{
    float *scores = malloc(s->n_scores * sizeof *scores);
    ck_assert_ptr_nonnull(scores);
    for (size_t i = 0; i < s->n_scores; i++)
        scores[i] = NAN;
    ck_assert_int_eq(crn_selector_named(name)->score(&s->select, scores), 0);
    for (size_t i = 0; i < s->n_scores; i++)
        ck_assert_msg(!isnan(scores[i]), "%s: score %zu was not set", name, i);
    return scores;
}

static void scene_close(struct scene *s)
{
    crn_cache_free(&s->cache);
    test_model_close(&s->model);
}

/* Share of the kept tokens that two score tables agree on, at a half. */
static double agreement(const float *a, const float *b)
{
    struct crn_sets_rule rule = {0.5f, CRN_BUDGET_UNIFORM, 1, 0, NULL};
    struct crn_sets x, y;
    double same = 0, all = 0;
    ck_assert_int_eq(crn_sets_choose(&rule, a, 3, 2, TOKENS, &x), 0);
    ck_assert_int_eq(crn_sets_choose(&rule, b, 3, 2, TOKENS, &y), 0);
    for (uint32_t set = 0; set < 6; set++) {
        const uint32_t *p = x.index + set * TOKENS, *q = y.index + set * TOKENS;
        for (uint32_t i = 0, j = 0; i < x.counts[set]; i++, all++) {
            while (j < y.counts[set] && q[j] < p[i])
                j++;
            same += j < y.counts[set] && q[j] == p[i];
        }
    }
    crn_sets_free(&x);
    crn_sets_free(&y);
    return same / all;
}

START_TEST(every_selector_scores_whole_and_int8_entries_nearly_alike)
{
    struct scene plain, quantised;
    scene_open(&plain, 0);
    scene_open(&quantised, 1);
    for (size_t i = 0; i < crn_n_selectors; i++) {
        float *a = score(&plain, crn_selectors[i].name);
        float *b = score(&quantised, crn_selectors[i].name);
        double same = agreement(a, b);
        ck_assert_msg(same >= 0.9, "%s: %.3f agree", crn_selectors[i].name, same);
        free(a);
        free(b);
    }
    scene_close(&quantised);
    scene_close(&plain);
}
END_TEST

/* Scores of the softmax add up: each of n queries gives 1, spread over the keys it sees. */
START_TEST(attention_sums_add_up_to_one_per_query)
{
    struct scene s;
    scene_open(&s, 0);
    float *scores = score(&s, "attention");
    for (uint32_t set = 0; set < 6; set++) {
        double sum = 0;
        for (uint32_t i = 0; i < TOKENS; i++)
            sum += (double)scores[set * TOKENS + i];
        ck_assert_double_eq_tol(sum, 1.0, 1e-3);
    }
    free(scores);
    scene_close(&s);
}
END_TEST

START_TEST(norms_are_those_of_the_rows)
{
    struct scene s;
    float row[TOKENS * 16];
    scene_open(&s, 0);
    float *keys = score(&s, "key-norm"), *values = score(&s, "value-norm");
    ck_assert_int_eq(crn_select_rows(&s.select, 1, 1, CRN_ROWS_K, row), 0);
    double k = 0, v = 0;
    for (int c = 0; c < 16; c++)
        k += (double)row[77 * 16 + c] * (double)row[77 * 16 + c];
    ck_assert_int_eq(crn_select_rows(&s.select, 1, 1, CRN_ROWS_V, row), 0);
    for (int c = 0; c < 16; c++)
        v += (double)row[77 * 16 + c] * (double)row[77 * 16 + c];
    ck_assert_double_eq_tol((double)keys[3 * TOKENS + 77], -sqrt(k), 1e-4);
    ck_assert_double_eq_tol((double)values[3 * TOKENS + 77], sqrt(v), 1e-4);
    free(keys);
    free(values);
    scene_close(&s);
}
END_TEST

START_TEST(rereading_in_one_chunk_is_rereading_and_in_small_ones_nearly)
{
    struct scene s;
    scene_open(&s, 0);
    float *whole = score(&s, "reread");
    s.select.chunk = TOKENS;
    float *one = score(&s, "reread");
    ck_assert_mem_eq(whole, one, s.n_scores * sizeof *one);
    s.select.chunk = 64;
    float *small = score(&s, "reread");
    ck_assert_double_ge(agreement(whole, small), 0.6);
    s.select.chunk = 0;
    s.select.stride = 2;
    float *half = score(&s, "reread");
    ck_assert_double_ge(agreement(whole, half), 0.6);
    free(whole);
    free(one);
    free(small);
    free(half);
    scene_close(&s);
}
END_TEST

/* Of two query heads one is looked at: where it drew the most attention the score is the same, elsewhere less. */
START_TEST(rereading_with_some_heads_never_scores_higher_than_with_all)
{
    struct scene s;
    uint32_t same = 0, seen = 0;
    scene_open(&s, 0);
    float *all = score(&s, "reread");
    s.select.heads = 2;
    float *both = score(&s, "reread");
    ck_assert_mem_eq(all, both, s.n_scores * sizeof *all);
    s.select.heads = 1;
    float *one = score(&s, "reread");
    for (size_t i = 0; i < s.n_scores; i++) {
        ck_assert_float_le(one[i], all[i] * 1.00001f);
        same += one[i] >= all[i] * 0.99999f;
        seen++;
    }
    ck_assert_uint_gt(same, seen / 4);
    ck_assert_uint_lt(same, seen * 3 / 4);
    free(all);
    free(both);
    free(one);
    scene_close(&s);
}
END_TEST

/* Not said otherwise, a long context is read again in chunks of CRN_SELECT_CHUNK. */
START_TEST(long_contexts_are_reread_in_chunks)
{
    enum { LONG = CRN_SELECT_CHUNK + 60 };
    struct scene s;
    static int32_t tokens[LONG];
    scene_open(&s, 0);
    crn_cache_free(&s.cache);
    for (int i = 0; i < LONG; i++)
        tokens[i] = s.tokens[(7 * i) % TOKENS];
    struct crn_prefill p = {.tokens = tokens, .n = LONG};
    ck_assert_int_eq(crn_cache_init(&s.cache, 3), 0);
    ck_assert_int_eq(crn_prefill(&s.model.engine, &p, &s.cache, NULL), 0);
    s.select.tokens = tokens;
    s.select.n = LONG;
    s.n_scores = (size_t)3 * 2 * LONG;
    float *by_default = score(&s, "reread");
    s.select.chunk = CRN_SELECT_CHUNK;
    float *chunks = score(&s, "reread");
    s.select.chunk = LONG;
    float *whole = score(&s, "reread");
    ck_assert_mem_eq(by_default, chunks, s.n_scores * sizeof *chunks);
    ck_assert_int_ne(memcmp(by_default, whole, s.n_scores * sizeof *whole), 0);
    free(by_default);
    free(chunks);
    free(whole);
    scene_close(&s);
}
END_TEST

START_TEST(contexts_shorter_than_a_window_are_kept_whole)
{
    struct scene s;
    struct crn_sets sets;
    struct crn_sets_rule rule = {0.5f, CRN_BUDGET_GLOBAL, 1, 0, NULL};
    scene_open(&s, 0);
    crn_cache_free(&s.cache);
    struct crn_prefill p = {.tokens = s.tokens, .n = 18};
    ck_assert_int_eq(crn_cache_init(&s.cache, 3), 0);
    ck_assert_int_eq(crn_prefill(&s.model.engine, &p, &s.cache, NULL), 0);
    s.select.n = 18;
    s.n_scores = (size_t)3 * 2 * 18;
    for (size_t i = 0; i < crn_n_selectors; i++) {
        float *scores = score(&s, crn_selectors[i].name);
        ck_assert_int_eq(crn_sets_choose(&rule, scores, 3, 2, 18, &sets), 0);
        ck_assert_uint_eq(sets.counts[0], 18);
        crn_sets_free(&sets);
        free(scores);
    }
    scene_close(&s);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(one_threshold_keeps_the_share_asked_for_to_the_token),
        RUN_TEST(what_is_kept_has_the_best_scores),
        RUN_LOOP(shares_have_the_shape_of_their_budget_and_the_mean_asked_for, 4),
        RUN_TEST(shares_given_by_layer_are_followed_and_divided_within_a_layer),
        RUN_TEST(layers_left_whole_keep_everything_and_do_not_count),
        RUN_TEST(impossible_rules_are_refused),
        RUN_TEST(every_selector_scores_whole_and_int8_entries_nearly_alike),
        RUN_TEST(attention_sums_add_up_to_one_per_query),
        RUN_TEST(norms_are_those_of_the_rows),
        RUN_TEST(rereading_in_one_chunk_is_rereading_and_in_small_ones_nearly),
        RUN_TEST(rereading_with_some_heads_never_scores_higher_than_with_all),
        RUN_TEST(long_contexts_are_reread_in_chunks),
        RUN_TEST(contexts_shorter_than_a_window_are_kept_whole),
    };
    return run_suite("worker_selectors", tests, sizeof tests / sizeof *tests);
}
