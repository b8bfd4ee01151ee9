/* cairn profile on toy models: its executor is exact where it must be, a profile that was stopped anywhere and goes on says what an
 * uninterrupted one says, and what it finds can be stored as a plan. */
#include "tests/support/broker.h"
#include "tests/support/gguf_write.h"
#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"
#include "tools/plan_file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct crn_model_shape shape = {.n_layers = 4,
                                             .hidden = 64,
                                             .n_heads = 4,
                                             .n_kv_heads = 2,
                                             .head_dim = 16,
                                             .ffn = 96,
                                             .vocab = 97,
                                             .context_max = 1024,
                                             .rope_theta = 10000,
                                             .norm_eps = 1e-5f};

static char model[200], sibling[200], requests[200], out[200];

/* Contexts of letters; every other question has an answer of its own unless `open`. */
static void scene_open(uint32_t n_contexts, bool open)
{
    char adapter[200];
    struct rand r = rand_seeded(rand_default_seed());
    paths_tmp();
    snprintf(model, sizeof model, "%s", paths_tmp_file("model.gguf"));
    snprintf(adapter, sizeof adapter, "%s", paths_tmp_file("adapter.gguf"));
    snprintf(requests, sizeof requests, "%s", paths_tmp_file("requests.jsonl"));
    snprintf(out, sizeof out, "%s", paths_tmp_file("out"));
    ck_assert_int_lt(snprintf(sibling, sizeof sibling, "%.90s,%.90s", model, adapter), (int)sizeof sibling);
    ck_assert_int_eq(crn_test_model_write(model, &shape, 5, CRN_QUANT_F32), 0);
    ck_assert_int_eq(crn_test_adapter_write(adapter, &shape, 6, 4, CRN_QUANT_F32), 0);
    FILE *f = fopen(requests, "w");
    ck_assert_ptr_nonnull(f);
    for (uint32_t i = 0; i < n_contexts; i++) {
        char text[120];
        for (size_t j = 0; j < sizeof text - 1; j++)
            text[j] = (char)(rand_below(&r, 6) == 0 ? ' ' : 'a' + (int)rand_below(&r, 26));
        text[sizeof text - 1] = '\0';
        for (int q = 0; q < 2; q++)
            fprintf(f, open ? "{\"context\":\"%s\",\"question\":\"what %d\"}\n"
                            : "{\"context\":\"%s\",\"question\":\"what %d\",\"answer\":\"abc\"}\n",
                    text, q);
    }
    ck_assert_int_eq(fclose(f), 0);
}

static struct program profile(const char *producer, const char *receiver, const char *const *more)
{
    const char *arguments[40] = {"profile", "--producer", producer, "--receiver", receiver, "--requests", requests,
                                 "--out", out, "--threads", "1", "--quiet", "--json"};
    int at = 13;
    for (int i = 0; more != NULL && more[i] != NULL; i++)
        arguments[at++] = more[i];
    return program_run("cairn", arguments);
}

/* The whole document of a profile that must work. */
static json_t *profiled(const char *producer, const char *receiver, const char *const *more)
{
    struct program p = profile(producer, receiver, more);
    json_error_t error;
    ck_assert_msg(p.code == 0, "exit code %d: %s", p.code, p.err);
    json_t *root = json_loads(p.out, 0, &error);
    ck_assert_msg(root != NULL, "%s in %s", error.text, p.out);
    program_free(&p);
    return root;
}

static double real(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static const json_t *point(const json_t *root, int first, int last, int setting)
{
    size_t i;
    json_t *p;
    json_array_foreach(json_object_get(root, "points"), i, p)
    {
        const json_t *run = json_object_get(p, "run");
        if (json_array_size(run) == 2 && json_integer_value(json_array_get(run, 0)) == first &&
            json_integer_value(json_array_get(run, 1)) == last && json_integer_value(json_object_get(p, "setting")) == setting)
            return p;
    }
    ck_abort_msg("no point %d-%d, setting %d", first, last, setting);
}

START_TEST(all_layers_are_the_receivers_own_prefill_under_every_setting)
{
    scene_open(3, false);
    json_t *root = profiled(model, sibling, (const char *const[]){"--grain", "1", "--keep", "1,0.5", "--int8", "--kv", "f32", "--corners", NULL});
    const json_t *own = json_object_get(root, "own"), *corners = json_object_get(root, "corners");
    ck_assert_uint_eq(json_array_size(corners), 4);
    ck_assert_double_eq_tol(real(json_array_get(corners, 0), "nll"), real(own, "nll"), 1e-9);
    ck_assert_double_gt(fabs(real(json_array_get(corners, 1), "nll") - real(own, "nll")), 1e-6); /* half of the tokens are gone */
    for (int setting = 0; setting < 4; setting++) {
        const json_t *all = point(root, 0, 3, setting);
        ck_assert_double_eq_tol(real(all, "nll"), real(own, "nll"), 1e-9);
        ck_assert_double_eq_tol(real(all, "exact"), real(own, "exact"), 1e-12);
    }
    ck_assert_uint_eq(json_array_size(json_object_get(root, "points")), 1 + 4 * 10); /* full reuse, and all runs under all settings */
    ck_assert_double_gt(fabs(real(point(root, 2, 2, 0), "nll") - real(own, "nll")), 1e-4); /* the models do differ */
    for (size_t i = 0; i < 4; i++)
        ck_assert_int_eq(json_is_true(json_object_get(json_array_get(json_object_get(root, "settings"), i), "int8")), i >= 2);
    ck_assert_double_lt(real(point(root, 2, 3, 1), "kept"), 0.75);
    ck_assert_double_lt(real(point(root, 2, 3, 2), "kv_bytes"), 0.6); /* int8 beside f32 */
    json_decref(root);
    paths_tmp_remove();
}
END_TEST

START_TEST(a_model_may_reuse_its_own_cache_with_any_run)
{
    scene_open(3, false);
    json_t *root = profiled(sibling, sibling, (const char *const[]){"--grain", "1", "--kv", "f32", "--maps", "plain", "--sensitivity", NULL});
    size_t i;
    json_t *p;
    json_array_foreach(json_object_get(root, "points"), i, p)
        ck_assert_double_eq_tol(real(p, "nll"), real(json_object_get(root, "own"), "nll"), 2e-3); /* states as f16 */
    ck_assert_uint_eq(json_array_size(json_object_get(root, "alone")), 4);
    json_array_foreach(json_object_get(root, "alone"), i, p)
        ck_assert_double_eq_tol(real(p, "nll"), real(json_object_get(root, "own"), "nll"), 1e-5);
    json_decref(root);
    paths_tmp_remove();
}
END_TEST

START_TEST(without_answers_quality_is_agreement_with_the_own_ones)
{
    scene_open(3, true);
    json_t *root = profiled(model, sibling, (const char *const[]){"--grain", "2", "--kv", "f32", "--answer-tokens", "5", NULL});
    ck_assert_str_eq(json_string_value(json_object_get(root, "quality")), "agreement");
    ck_assert_double_eq_tol(real(json_object_get(root, "own"), "agreement"), 1, 1e-12);
    ck_assert_double_eq_tol(real(point(root, 0, 3, 0), "agreement"), 1, 1e-12);
    ck_assert_double_eq_tol(real(point(root, 0, 3, 0), "kl"), 0, 1e-9);
    ck_assert_double_gt(real(point(root, 2, 3, 0), "kl"), 1e-6);
    json_decref(root);
    paths_tmp_remove();
}
END_TEST

/* ---- going on ---- */

static char *read_file(const char *path, size_t *out_n)
{
    FILE *f = fopen(path, "r");
    char *text = malloc(1 << 22);
    ck_assert(f != NULL && text != NULL);
    *out_n = fread(text, 1, 1 << 22, f);
    fclose(f);
    return text;
}

/* Everything but times. */
static void check_same(const json_t *a, const json_t *b)
{
    const json_t *x = json_object_get(a, "points"), *y = json_object_get(b, "points");
    static const char *const same[] = {"run", "setting", "questions", "exact", "nll", "kept", "kv_bytes", "bytes", "recomputed_tokens"};
    ck_assert_uint_eq(json_array_size(x), json_array_size(y));
    for (size_t i = 0; i < json_array_size(x); i++)
        for (size_t k = 0; k < sizeof same / sizeof *same; k++) {
            const json_t *u = json_object_get(json_array_get(x, i), same[k]), *v = json_object_get(json_array_get(y, i), same[k]);
            ck_assert_msg(json_equal(u, v), "point %zu: %s differs", i, same[k]);
        }
    ck_assert_int_eq(json_equal(json_object_get(a, "settings"), json_object_get(b, "settings")), 1);
    ck_assert_double_eq_tol(real(json_object_get(a, "own"), "nll"), real(json_object_get(b, "own"), "nll"), 1e-12);
}

static const char *const cut_short[] = {"--grain", "1", "--keep", "1,0.5", "--max-layers", "3", NULL};

/* Stopped at any byte: the results are cut there, and the same command goes on. */
START_TEST(a_profile_that_was_stopped_anywhere_goes_on_to_the_same_end)
{
    struct rand r = rand_seeded(rand_default_seed());
    char path[256];
    size_t n;
    scene_open(4, false);
    snprintf(path, sizeof path, "%s/results.jsonl", out);
    json_t *whole = profiled(model, sibling, cut_short);
    char *text = read_file(path, &n);
    size_t head = (size_t)(strchr(text, '\n') - text) + 1;
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(truncate(path, (off_t)(i == 0 ? head / 2 : head + rand_below(&r, n - head))), 0);
        json_t *again = profiled(model, sibling, cut_short);
        check_same(whole, again);
        json_decref(again);
    }
    json_decref(whole);
    free(text);
    paths_tmp_remove();
}
END_TEST

START_TEST(a_finished_profile_measures_nothing_again_and_more_runs_only_those)
{
    char path[256];
    size_t before, after;
    scene_open(4, false);
    snprintf(path, sizeof path, "%s/results.jsonl", out);
    json_t *first = profiled(model, sibling, (const char *const[]){"--runs", "1-2,2-3", NULL});
    free(read_file(path, &before));
    json_t *second = profiled(model, sibling, (const char *const[]){"--runs", "1-2,2-3", NULL});
    free(read_file(path, &after));
    ck_assert_uint_eq(before, after);
    json_t *third = profiled(model, sibling, (const char *const[]){"--runs", "1-2,2-3,1-3", NULL});
    ck_assert_double_eq_tol(real(point(first, 1, 2, 0), "nll"), real(point(third, 1, 2, 0), "nll"), 1e-12);
    ck_assert_double_ge(real(point(third, 1, 3, 0), "nll"), 0);
    struct program p = profile(model, sibling, (const char *const[]){"--runs", "1-2", "--maps", "lambda=1", NULL});
    ck_assert_int_eq(p.code, 1);
    ck_assert_ptr_nonnull(strstr(p.err, "other conditions"));
    program_free(&p);
    json_decref(first);
    json_decref(second);
    json_decref(third);
    paths_tmp_remove();
}
END_TEST

START_TEST(plans_are_files_that_can_be_read_back_with_both_digests)
{
    char path[600], why[400] = "";
    struct crn_plan_file *file;
    scene_open(4, true);
    json_t *root = profiled(model, sibling, (const char *const[]){"--runs", "1-2", "--floor", "0", "--plans", paths_tmp_file("plans"),
                                                                  "--producer-label", "a", "--receiver-label", "b", "--maps",
                                                                  "rank=8,half", NULL});
    snprintf(path, sizeof path, "%s", paths_tmp_file("plans/a-b-1-2.json"));
    int status = crn_plan_file_open(path, 0, &file, why, sizeof why);
    if (json_is_true(json_object_get(point(root, 1, 2, 0), "frontier"))) {
        ck_assert_msg(status == 0, "%s", why);
        ck_assert_uint_eq(file->put.plan.first, 1);
        ck_assert_uint_eq(file->put.plan.last, 2);
        ck_assert_uint_eq(file->put.map.rank, 8);
        ck_assert_uint_eq(file->put.map.hidden, shape.hidden);
        ck_assert_int_ne(memcmp(&file->put.plan.producer, &file->put.plan.receiver, sizeof file->put.plan.producer), 0);
        crn_plan_file_close(file);
    }
    ck_assert_int_eq(access(paths_tmp_file("out/profile.svg"), R_OK), 0);
    ck_assert_int_eq(access(paths_tmp_file("out/profile.json"), R_OK), 0);
    json_decref(root);
    paths_tmp_remove();
}
END_TEST

/* Runs on the frontier, everything kept, are what a floor of 0 asks for. */
START_TEST(the_frontiers_plans_are_stored_in_the_broker)
{
    struct broker b;
    size_t i, want = 0;
    json_t *p;
    scene_open(4, true);
    broker_start(&b, NULL);
    json_t *root = profiled(model, sibling, (const char *const[]){"--grain", "1", "--max-layers", "3", "--floor", "0", "--store",
                                                                  "--socket", b.socket, NULL});
    json_array_foreach(json_object_get(root, "points"), i, p)
        want += json_array_size(json_object_get(p, "run")) == 2 && json_is_true(json_object_get(p, "frontier"));
    struct program ls = program_run("cairn", (const char *const[]){"plan", "ls", "--json", "--socket", b.socket, NULL});
    json_t *plans = json_loads(ls.out, 0, NULL);
    ck_assert_uint_gt(want, 0);
    ck_assert_uint_eq(json_array_size(json_object_get(plans, "plans")), want);
    json_array_foreach(json_object_get(plans, "plans"), i, p)
        ck_assert_str_eq(json_string_value(json_object_get(p, "producer")),
                         json_string_value(json_object_get(json_object_get(root, "producer"), "digest")));
    program_free(&ls);
    json_decref(plans);
    json_decref(root);
    broker_stop(&b);
    paths_tmp_remove();
}
END_TEST

/* The only point of a run that was measured with a tuned map; fails the test when there is none. */
static const json_t *tuned_point(const json_t *root, int first, int last)
{
    size_t i;
    json_t *p;
    json_array_foreach(json_object_get(root, "points"), i, p)
    {
        const json_t *run = json_object_get(p, "run");
        if (json_is_true(json_object_get(p, "tuned")) && json_integer_value(json_array_get(run, 0)) == first &&
            json_integer_value(json_array_get(run, 1)) == last && real(p, "setting") == 0)
            return p;
    }
    ck_abort_msg("no tuned point %d-%d", first, last);
}

/* What the results say of the tuned map of a layer. */
static json_t *tuned_line(int layer)
{
    char path[256], *line, *save;
    size_t n;
    json_t *found = NULL;
    snprintf(path, sizeof path, "%s/results.jsonl", out);
    char *text = read_file(path, &n);
    text[n] = '\0';
    for (line = strtok_r(text, "\n", &save); line != NULL && found == NULL; line = strtok_r(NULL, "\n", &save)) {
        json_t *o = json_loads(line, 0, NULL);
        if (json_object_get(o, "better") != NULL && json_integer_value(json_object_get(o, "map")) == layer)
            found = json_incref(o);
        json_decref(o);
    }
    free(text);
    ck_assert_msg(found != NULL, "no tuned map of layer %d", layer);
    return found;
}

START_TEST(a_tuned_map_is_measured_beside_the_fitted_one_and_tuned_once)
{
    char path[256];
    size_t before, after;
    scene_open(30, true);
    snprintf(path, sizeof path, "%s/results.jsonl", out);
    json_t *root = profiled(model, sibling, (const char *const[]){"--runs", "1-2,2-3", "--tuned", "1-2", "--kv", "f32", NULL});
    const json_t *tuned = tuned_point(root, 1, 2);
    json_t *line = tuned_line(1);
    ck_assert_double_gt(fabs(real(tuned, "nll") - real(point(root, 1, 2, 0), "nll")), 1e-6);
    ck_assert_double_eq_tol(real(tuned, "recomputed_tokens"), real(point(root, 1, 2, 0), "recomputed_tokens"), 1e-9);
    ck_assert(json_is_true(json_object_get(line, "better")));
    ck_assert_double_lt(real(line, "kl_after"), real(line, "kl_before"));
    ck_assert_int_eq(json_integer_value(json_object_get(line, "held_out")), 2); /* of ten contexts to fit on */
    free(read_file(path, &before));
    json_t *again = profiled(model, sibling, (const char *const[]){"--runs", "1-2,2-3", "--tuned", "1-2", "--kv", "f32", NULL});
    free(read_file(path, &after));
    ck_assert_uint_eq(before, after);
    check_same(root, again);
    json_decref(again);
    json_decref(line);
    json_decref(root);
    paths_tmp_remove();
}
END_TEST

START_TEST(a_plan_of_a_map_that_was_given_brings_it_along)
{
    char maps[300];
    scene_open(30, true);
    json_decref(profiled(model, sibling, (const char *const[]){"--runs", "1-2", NULL}));
    snprintf(maps, sizeof maps, "plain;file=%s/maps/1-0.map.gguf", out);
    snprintf(out, sizeof out, "%s", paths_tmp_file("again"));
    json_t *root = profiled(model, sibling, (const char *const[]){"--runs", "1-2", "--maps", maps, "--floor", "0", "--plans",
                                                                  paths_tmp_file("plans"), NULL});
    const json_t *plain = point(root, 1, 2, 0), *given = NULL;
    size_t i;
    json_t *p;
    json_array_foreach(json_object_get(root, "points"), i, p)
        given = real(p, "variant") == 1 ? p : given;
    ck_assert(given != NULL && real(given, "agreement") > real(plain, "agreement"));
    ck_assert_int_eq(access(paths_tmp_file("plans/producer-receiver-1-2.map.gguf"), R_OK), 0);
    json_decref(root);
    paths_tmp_remove();
}
END_TEST

START_TEST(tune_takes_the_best_short_runs_of_the_frontier)
{
    size_t i, n = 0;
    json_t *p;
    scene_open(30, true);
    json_t *root = profiled(model, sibling, (const char *const[]){"--grain", "1", "--max-layers", "2", "--tune", "1", "--floor", "0", "--plans",
                                                                  paths_tmp_file("plans"), NULL});
    json_array_foreach(json_object_get(root, "points"), i, p)
        n += json_is_true(json_object_get(p, "tuned"));
    ck_assert_uint_eq(n, 1);
    json_decref(root);
    paths_tmp_remove();
}
END_TEST

static const struct {
    const char *arguments[6];
    const char *says;
    int code;
} wrong[] = {
    {{"--runs", "1-9"}, "the layers are 0-3", 1},
    {{"--runs", "2-1"}, "runs of layers", 2},
    {{"--keep", "0.5,1"}, "first must be 1", 2},
    {{"--maps", "lambda=x"}, "plain, file=FILE", 2},
    {{"--grain", "0"}, "--grain", 2},
    {{"--tune", "0"}, "--tune", 2},
    {{"--runs", "1-2", "--tuned", "0-2"}, "no state to map", 2},
    {{"--runs", "1-2", "--tuned", "1-2,1-3"}, "another run starts there", 2},
    {{"--tuned", "1-2", "--maps", "plain"}, "a fitted map of full rank", 2},
    {{"--nonsense", "1"}, "--nonsense", 2},
    {{"--fit", "/nonexistent/file"}, "/nonexistent/file", 1},
};

START_TEST(wrong_arguments_are_named)
{
    scene_open(3, false);
    struct program p = profile(model, sibling, wrong[_i].arguments);
    ck_assert_msg(p.code == wrong[_i].code, "exit code %d, %s", p.code, p.err);
    ck_assert_msg(strstr(p.err, wrong[_i].says) != NULL, "%s", p.err);
    program_free(&p);
    paths_tmp_remove();
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(all_layers_are_the_receivers_own_prefill_under_every_setting),
        RUN_TEST(a_model_may_reuse_its_own_cache_with_any_run),
        RUN_TEST(without_answers_quality_is_agreement_with_the_own_ones),
        RUN_TEST(a_profile_that_was_stopped_anywhere_goes_on_to_the_same_end),
        RUN_TEST(a_finished_profile_measures_nothing_again_and_more_runs_only_those),
        RUN_TEST(plans_are_files_that_can_be_read_back_with_both_digests),
        RUN_TEST(the_frontiers_plans_are_stored_in_the_broker),
        RUN_TEST(a_tuned_map_is_measured_beside_the_fitted_one_and_tuned_once),
        RUN_TEST(a_plan_of_a_map_that_was_given_brings_it_along),
        RUN_TEST(tune_takes_the_best_short_runs_of_the_frontier),
        RUN_LOOP(wrong_arguments_are_named, sizeof wrong / sizeof *wrong),
    };
    return run_suite("sys_profile", tests, sizeof tests / sizeof *tests);
}
