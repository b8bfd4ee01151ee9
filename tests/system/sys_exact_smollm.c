/* Exactness (design.md section 7) on the real model: SmolLM2 publishes as a real cairn-worker, or
 * `finder` does; `finder` receives in this process, through a real cairnd. Same shapes, same
 * kernels, same number of threads: equal bit for bit. */
#include "tests/support/paths.h"
#include "tests/support/receiver.h"
#include "tests/support/run.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    uint32_t dtype;
    const char *name;
} stores[] = {{CAIRN_F32, "f32"}, {CAIRN_F16, "f16"}};
static const char *const quiet[] = {"--log-level", "warn", NULL};

struct scene {
    struct broker broker;
    struct receiver finder;
    json_t *forward;
    const char *text;
    struct crn_ids context;
    char adapter[512];
};

static void scene_open(struct scene *s, uint32_t kv_dtype)
{
    paths_tmp();
    snprintf(s->adapter, sizeof s->adapter, "%s", paths_family("finder.gguf"));
    s->forward = test_golden("forward.json");
    s->text = json_text(s->forward, "context");
    broker_start(&s->broker, quiet);
    receiver_open(&s->finder, &s->broker, paths_model(), s->adapter, kv_dtype);
    s->context = receiver_tokens(&s->finder, s->text);
    ck_assert_uint_ge(s->context.n, 350);
}

static void scene_close(struct scene *s)
{
    crn_ids_free(&s->context);
    receiver_close(&s->finder);
    broker_stop(&s->broker);
    json_decref(s->forward);
    paths_tmp_remove();
}

/* adapter NULL: the base model. */
static void publish(const struct scene *s, const char *adapter, const char *store)
{
    const char *const options[] = {"--model",
                                   paths_model(),
                                   "--context",
                                   text_file(0, s->text, -1),
                                   "--kv",
                                   store,
                                   "--states",
                                   "15",
                                   adapter != NULL ? "--adapter" : NULL,
                                   adapter,
                                   NULL};
    json_t *line = worker_line(&s->broker, options);
    ck_assert(json_number(line, "published"));
    ck_assert_int_eq(json_number(line, "context_tokens"), (int)s->context.n);
    json_decref(line);
}

static void check(struct scene *s, const struct crn_reuse_choice *choice, const struct reading *own,
                  const char *what)
{
    struct reading shared;
    reading_shared(&shared, &s->finder, &s->context, choice);
    reading_same_bits(&shared, own, what);
    reading_end(&shared);
}

START_TEST(finder_over_bases_cache_with_a_run_of_all_layers_is_finder)
{
    struct scene s;
    struct reading own, full;
    struct crn_reuse_choice all = choice_run(0, 29),
                            none = {.mode = CRN_REUSE_FULL, .timeout_ms = 10000};
    scene_open(&s, stores[_i].dtype);
    publish(&s, NULL, stores[_i].name);
    reading_own(&own, &s.finder, &s.context, NULL);
    check(&s, &all, &own, "run 0-29");
    reading_shared(&full, &s.finder, &s.context, &none);
    ck_assert_double_gt(reading_difference(&full, &own),
                        0.1); /* what would be seen if nothing was recomputed */
    reading_end(&full);
    reading_end(&own);
    scene_close(&s);
}
END_TEST

START_TEST(finder_over_its_own_cache_is_finder)
{
    struct scene s;
    struct reading own;
    struct crn_reuse_choice automatic = choice_auto(), run = choice_run(15, 23);
    scene_open(&s, stores[_i].dtype);
    publish(&s, s.adapter, stores[_i].name);
    reading_own(&own, &s.finder, &s.context, NULL);
    check(&s, &automatic, &own, "attached");
    if (stores[_i].dtype == CAIRN_F32) /* a narrow state is not the own prefill's (sys_exact_models
                                          compares it with one that is) */
        check(&s, &run, &own, "run 15-23");
    reading_end(&own);
    scene_close(&s);
}
END_TEST

int main(void)
{
    setenv("CRN_TEST_TIMEOUT", "300",
           0); /* the real model, up to four prefills a test, on a busy machine */
    const struct run_test tests[] = {
        RUN_LOOP(finder_over_bases_cache_with_a_run_of_all_layers_is_finder, 2),
        RUN_LOOP(finder_over_its_own_cache_is_finder, 2),
    };
    return run_suite("exact_smollm", tests, sizeof tests / sizeof *tests);
}
