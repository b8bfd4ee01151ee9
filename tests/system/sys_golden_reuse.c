/* Reuse of base's cache by finder and clerk, in other processes, equals the independent reference:
 * tests/data/golden/reuse.json. base is a real cairn-worker, the broker a real cairnd; the receiver
 * is this process, so that logits can be looked at. */
#include "tests/support/broker.h"
#include "tests/support/model.h"
#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/run.h"

#include "tools/worker/answer.h"

#include <stdlib.h>
#include <string.h>

#define ASKED 3u

static const char *const receivers[] = {"finder", "clerk"};
static const struct {
    const char *name, *option;
} pyramids[] = {
    {"full", "off"},
    {"prefill d=.9 rho=.2", "prefill:d=0.9,rho=0.2"},
};

/* What one test works with. */
struct scene {
    struct broker broker;
    struct test_model model;
    struct cairn_client *client;
    json_t *forward;
    int32_t *context;
    uint32_t n;
    struct crn_question questions[ASKED];
    int32_t *asked[ASKED];
};

static void publish_base(struct scene *s, const char *pyramid)
{
    const char *file = paths_tmp_file("context.txt");
    const char *text = json_string_value(json_object_get(s->forward, "context"));
    FILE *f = fopen(file, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
    const char *const arguments[] = {
        "--model", paths_model(), "--context",    file,        "--socket", s->broker.socket, "--kv",
        "f32",     "--states",    "0,5,10,13,15", "--pyramid", pyramid,    "--json",         NULL};
    struct program p = program_run("cairn-worker", arguments);
    ck_assert_msg(p.code == 0, "%s", p.err);
    json_t *line = program_json(&p, 0);
    ck_assert(json_is_true(json_object_get(line, "published")));
    ck_assert_int_eq(json_integer_value(json_object_get(line, "context_tokens")), s->n);
    json_decref(line);
    program_free(&p);
}

static void store_plan(struct scene *s, const char *receiver)
{
    char producer[33], own[33], file[64], path[512];
    struct cairn_digest digest;
    snprintf(file, sizeof file, "../plans/base-%s.json", receiver);
    snprintf(path, sizeof path, "%s", paths_golden(file));
    ck_assert_int_eq(cairn_model_digest(paths_model(), NULL, 0, &digest), 0);
    cairn_digest_text(&digest, producer);
    cairn_digest_text(&s->model.weights->digest, own);
    const char *const arguments[] = {"--socket",   s->broker.socket, "plan",       "put", path,
                                     "--producer", producer,         "--receiver", own,   NULL};
    struct program p = program_run("cairn", arguments);
    ck_assert_msg(p.code == 0, "%s", p.err);
    program_free(&p);
}

static void open_client(struct scene *s)
{
    const struct crn_model_shape *shape = &s->model.weights->shape;
    struct cairn_options options = CAIRN_OPTIONS_INIT;
    options.socket = s->broker.socket;
    options.model = s->model.weights->digest;
    options.shape =
        (struct cairn_shape){shape->n_layers, shape->n_kv_heads, shape->head_dim, shape->hidden};
    ck_assert_int_eq(crn_worker_family(s->model.weights, s->model.tokenizer, &options.family), 0);
    ck_assert_int_eq(cairn_open(&options, &s->client), 0);
}

static void scene_open(struct scene *s, const char *receiver, const char *pyramid)
{
    memset(s, 0, sizeof *s);
    paths_tmp();
    s->forward = test_golden("forward.json");
    s->context = test_ids(json_object_get(s->forward, "context_ids"), &s->n);
    const json_t *answers = json_object_get(
        json_object_get(json_object_get(s->forward, "models"), receiver), "answers");
    for (uint32_t i = 0; i < ASKED; i++) {
        s->asked[i] = test_ids(json_object_get(json_array_get(answers, i), "question_ids"),
                               &s->questions[i].n);
        s->questions[i].tokens = s->asked[i];
        s->questions[i].answer = malloc(64 * sizeof(int32_t));
    }
    broker_start(&s->broker, NULL);
    publish_base(s, pyramid);
    test_model_open(&s->model, receiver, "cpu", CAIRN_F32);
    store_plan(s, receiver);
    open_client(s);
}

static void scene_close(struct scene *s)
{
    cairn_close(s->client);
    test_model_close(&s->model);
    broker_stop(&s->broker);
    for (uint32_t i = 0; i < ASKED; i++) {
        free(s->asked[i]);
        free(s->questions[i].answer);
    }
    free(s->context);
    json_decref(s->forward);
    paths_tmp_remove();
}

static void check_answers(struct scene *s, struct crn_decode *d, const struct crn_cache *cache,
                          const json_t *want)
{
    struct crn_decode_options o = {.sampler = {0, 1, 1}, .max_tokens = 64, .stop = {2, -1}};
    ck_assert_int_eq(crn_decode_generate(d, cache, &o), 0);
    for (uint32_t i = 0; i < ASKED; i++) {
        char text[512] = "";
        size_t n = 0;
        for (uint32_t j = 0; j < s->questions[i].n_answer; j++) {
            struct crn_gguf_str piece =
                crn_tokenizer_piece(s->model.tokenizer, s->questions[i].answer[j]);
            ck_assert_uint_lt(n + piece.n, sizeof text);
            memcpy(text + n, piece.p, piece.n);
            n += piece.n;
        }
        text[n] = '\0';
        ck_assert_str_eq(text, json_string_value(json_array_get(want, i)));
    }
}

/* One line of the golden file: same kept tokens, same first logits, same answers. */
static void check_case(struct scene *s, const json_t *row)
{
    const json_t *run = json_object_get(row, "run"), *kept = json_object_get(row, "kept");
    int first = (int)json_integer_value(json_array_get(run, 0)),
        last = (int)json_integer_value(json_array_get(run, 1));
    int map = json_is_true(json_object_get(row, "state_map"));
    struct crn_reuse_choice choice = {.mode = last < first ? CRN_REUSE_FULL : CRN_REUSE_RUN,
                                      .first = (uint32_t)first,
                                      .last = (uint32_t)(last < first ? 0 : last),
                                      .with_map = map,
                                      .hold = json_is_true(json_object_get(row, "hold")),
                                      .timeout_ms = 10000,
                                      .self = s->model.weights->digest};
    struct crn_reuse_result result;
    struct cairn_lease *lease;
    struct crn_cache cache;
    struct crn_decode d;
    ck_assert_int_eq(crn_share_attach(s->client, s->context, s->n, &choice, &lease, &result), 0);
    ck_assert_ptr_nonnull(lease);
    ck_assert_uint_eq(result.n_tokens, s->n);
    ck_assert_int_eq(crn_cache_init(&cache, s->model.weights->shape.n_layers), 0);
    ck_assert_int_eq(crn_decode_begin(&d, &s->model.engine, s->questions, ASKED, s->n), 0);
    int status = crn_share_reuse(&s->model.engine, lease, s->context, &choice, &cache, &d, &result);
    ck_assert_msg(status == 0, "run %d-%d: %s", first, last, cairn_strerror(status));
    for (uint32_t l = 0; l < cache.n_layers; l++) {
        ck_assert_uint_eq(cache.layers[l].n, 1);
        ck_assert_int_eq(cache.layers[l].spans[0].heads[0].n,
                         json_integer_value(json_array_get(kept, l)));
    }
    ck_assert_int_eq(crn_decode_logits(&d), 0);
    for (uint32_t i = 0; i < ASKED; i++) {
        const json_t *top = json_array_get(json_object_get(row, "first_logits"), i);
        double off = test_top_difference(top, d.logits + (size_t)i * s->model.weights->shape.vocab);
        ck_assert_msg(off <= (map ? 5e-3 : 2e-3),
                      "run %d-%d map %d hold %d question %u: logits off by %g", first, last, map,
                      choice.hold, i, off);
    }
    check_answers(s, &d, &cache, json_object_get(row, "answers"));
    crn_decode_end(&d);
    crn_cache_free(&cache);
    cairn_release(lease);
}

START_TEST(every_run_equals_the_reference)
{
    const char *receiver = receivers[_i % 2], *pyramid = pyramids[_i / 2].name;
    struct scene s;
    json_t *golden = test_golden("reuse.json"), *row;
    size_t at, n_cases = 0;
    scene_open(&s, receiver, pyramids[_i / 2].option);
    json_array_foreach(json_object_get(golden, "reuse"), at, row)
    {
        if (strcmp(json_string_value(json_object_get(row, "receiver")), receiver) == 0 &&
            strcmp(json_string_value(json_object_get(row, "pyramid")), pyramid) == 0) {
            check_case(&s, row);
            n_cases++;
        }
    }
    ck_assert_uint_ge(n_cases, 7);
    scene_close(&s);
    json_decref(golden);
}
END_TEST

int main(void)
{
    setenv("CRN_TEST_TIMEOUT", "300", 0); /* 13 runs, each with three answers to the end */
    const struct run_test tests[] = {RUN_LOOP(every_run_equals_the_reference, 4)};
    return run_suite("golden_reuse", tests, sizeof tests / sizeof *tests);
}
