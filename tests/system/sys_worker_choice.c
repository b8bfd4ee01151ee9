/* Workers choose among the plans of their pair: a queue with a floor takes the cheapest that meets it, the last request the best one,
 * and a deadline that nothing meets the quickest. What decided is in the answer. */
#include "tests/support/gguf_write.h"
#include "tests/support/paths.h"
#include "tests/support/receiver.h"
#include "tests/support/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINES 3

static const struct crn_model_shape shape = {.n_layers = 5,
                                             .hidden = 128,
                                             .n_heads = 6,
                                             .n_kv_heads = 2,
                                             .head_dim = 64,
                                             .ffn = 4096,
                                             .vocab = 97,
                                             .context_max = 1024,
                                             .rope_theta = 10000,
                                             .norm_eps = 1e-5f};
static const char *const memory[] = {"--memory", "64M", NULL};

struct scene {
    struct broker broker;
    char model[512], adapter[512], requests[512];
    struct receiver r; /* the sibling */
};

static void store_plan(struct scene *s, uint32_t first, uint32_t last, float quality)
{
    struct cairn_plan_put put = CAIRN_PLAN_PUT_INIT;
    uint64_t plan;
    ck_assert_int_eq(cairn_model_digest(s->model, NULL, 0, &put.plan.producer), 0);
    put.plan.receiver = s->r.model.weights->digest;
    put.plan.first = first;
    put.plan.last = last;
    put.plan.quality = put.plan.exact = quality;
    put.plan.own_exact = 1;
    put.plan.questions = 10;
    put.plan.cost = (float)(last + 1 - first) / 5;
    ck_assert_int_eq(cairn_plan_store(s->r.client, &put, SOON, &plan), 0);
}

static void write_requests(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    for (int i = 0; i < LINES; i++)
        fprintf(file, "{\"context\": \"%s\", \"question\": \"%c\"}\n", text, 'a' + i);
    ck_assert_int_eq(fclose(file), 0);
}

static void scene_open(struct scene *s)
{
    char *text = random_text(900, 5);
    memset(s, 0, sizeof *s);
    paths_tmp();
    snprintf(s->model, sizeof s->model, "%s", paths_tmp_file("model.gguf"));
    snprintf(s->adapter, sizeof s->adapter, "%s", paths_tmp_file("sibling.gguf"));
    snprintf(s->requests, sizeof s->requests, "%s", paths_tmp_file("requests.jsonl"));
    ck_assert_int_eq(crn_test_model_write(s->model, &shape, 7, CRN_QUANT_F32), 0);
    ck_assert_int_eq(crn_test_adapter_write(s->adapter, &shape, 70, 4, CRN_QUANT_F32), 0);
    write_requests(s->requests, text);
    broker_start(&s->broker, memory);
    receiver_open(&s->r, &s->broker, s->model, s->adapter, CAIRN_F32);
    store_plan(s, 0, 4, 1.0f);
    store_plan(s, 2, 3, 0.95f);
    store_plan(s, 3, 3, 0.5f);
    const char *const publish[] = {"--model", s->model, "--context", text_file(0, text, -1), NULL};
    json_t *line = worker_line(&s->broker, publish);
    ck_assert(json_number(line, "published"));
    json_decref(line);
    free(text);
}

static void scene_close(struct scene *s)
{
    receiver_close(&s->r);
    broker_stop(&s->broker);
    paths_tmp_remove();
}

/* Reasons and first layers of the runs, in the order of the requests. */
static void answers(struct scene *s, const char *option, const char *value, char reasons[LINES][16],
                    int firsts[LINES])
{
    const char *const options[] = {"--model",      s->model,    "--adapter", s->adapter,
                                   "--requests",   s->requests, "--max-tokens", "2",
                                   "--no-publish", option,      value,       NULL};
    struct program p = worker_run(&s->broker, options);
    char *save = NULL, *line = strtok_r(p.out, "\n", &save);
    for (int i = 0; i < LINES; i++, line = strtok_r(NULL, "\n", &save)) {
        ck_assert_ptr_nonnull(line);
        json_t *reply = json_loads(line, 0, NULL);
        ck_assert_ptr_nonnull(reply);
        snprintf(reasons[i], 16, "%s", json_text(reply, "reason"));
        firsts[i] = (int)json_integer_value(json_array_get(json_object_get(reply, "run"), 0));
        ck_assert_ptr_nonnull(json_object_get(json_object_get(reply, "estimate_s"), "reuse"));
        json_decref(reply);
    }
    program_free(&p);
}

/* Requests of a file, and those that wait on standard input, all read at once. */
START_TEST(a_queue_takes_the_cheapest_plan_that_meets_the_floor)
{
    struct scene s;
    char reasons[LINES][16];
    int firsts[LINES];
    scene_open(&s);
    if (_i == 1) {
        ck_assert_ptr_nonnull(freopen(s.requests, "r", stdin));
        snprintf(s.requests, sizeof s.requests, "-");
    }
    answers(&s, "--quality", "0.9", reasons, firsts);
    for (int i = 0; i < LINES; i++) {
        ck_assert_str_eq(reasons[i], i + 1 < LINES ? "queue" : "plan");
        ck_assert_int_eq(firsts[i], i + 1 < LINES ? 2 : 0);
    }
    broker_await(&s.broker, "choice_plan_total", 1);
    ck_assert_uint_eq(broker_counter(&s.broker, "choice_queue_total"), 2);
    scene_close(&s);
}
END_TEST

/* One millisecond is too short: a layer over this context is 2.8 billion multiplications and additions. */
START_TEST(a_deadline_that_nothing_meets_takes_the_quickest_plan)
{
    struct scene s;
    char reasons[LINES][16];
    int firsts[LINES];
    scene_open(&s);
    answers(&s, "--deadline-ms", "1", reasons, firsts);
    ck_assert_str_eq(reasons[0], "plan");
    ck_assert_int_eq(firsts[0], 0);
    ck_assert_str_eq(reasons[1], "late");
    ck_assert_int_eq(firsts[1], 3);
    ck_assert_str_eq(reasons[2], "late");
    scene_close(&s);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(a_queue_takes_the_cheapest_plan_that_meets_the_floor, 2),
        RUN_TEST(a_deadline_that_nothing_meets_takes_the_quickest_plan),
    };
    return run_suite("worker_choice", tests, sizeof tests / sizeof *tests);
}
