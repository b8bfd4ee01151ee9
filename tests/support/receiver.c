/* A receiver inside the test, and workers beside it. Everything computes with the same number of
 * threads, so that two processes that hand the same shapes to the same kernels get the same bits.
 */
#include "tests/support/receiver.h"

#include "tests/support/paths.h"
#include "tests/support/rand.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void receiver_open(struct receiver *r, const struct broker *b, const char *model,
                   const char *adapter, uint32_t kv_dtype)
{
    receiver_open_at(r, b, model, adapter, kv_dtype, NULL);
}

void receiver_open_at(struct receiver *r, const struct broker *b, const char *model,
                      const char *adapter, uint32_t kv_dtype, const struct crn_weights_place *place)
{
    struct cairn_options options = CAIRN_OPTIONS_INIT;
    memset(r, 0, sizeof *r);
    if (place != NULL)
        test_model_open_at(&r->model, model, adapter, place, kv_dtype);
    else
        test_model_open_file(&r->model, model, adapter, "cpu", kv_dtype);
    ck_assert_int_eq(crn_chat_setup(r->model.weights->base, r->model.tokenizer, &r->chat), 0);
    const struct crn_model_shape *s = &r->model.weights->shape;
    options.socket = b->socket;
    options.label = "receiver";
    options.model = r->model.weights->digest;
    options.shape = (struct cairn_shape){s->n_layers, s->n_kv_heads, s->head_dim, s->hidden};
    options.memory = place != NULL ? CAIRN_MEMORY_DEVICE : CAIRN_MEMORY_HOST;
    ck_assert_int_eq(crn_worker_family(r->model.weights, r->model.tokenizer, &options.family), 0);
    ck_assert_int_eq(cairn_open(&options, &r->client), 0);
}

void receiver_close(struct receiver *r)
{
    cairn_close(r->client);
    test_model_close(&r->model);
}

struct crn_ids receiver_tokens(const struct receiver *r, const char *text)
{
    struct crn_ids ids = {0};
    ck_assert_int_eq(crn_chat_context(&r->chat, text, strlen(text), &ids), 0);
    return ids;
}

/* ---- readings ---- */

void reading_begin(struct reading *x, struct receiver *r, const struct crn_ids *context)
{
    memset(x, 0, sizeof *x);
    x->by = r;
    ck_assert_int_eq(crn_chat_question(&r->chat, "who knows?", 10, &x->asked), 0);
    x->question = (struct crn_question){
        .tokens = x->asked.ids, .n = (uint32_t)x->asked.n, .answer = x->answer};
    ck_assert_int_eq(crn_cache_init(&x->cache, r->model.weights->shape.n_layers), 0);
    ck_assert_int_eq(
        crn_decode_begin(&x->decode, &r->model.engine, &x->question, 1, (uint32_t)context->n), 0);
}

/* First logits, kept aside, and the answer. */
static void finish(struct reading *x)
{
    size_t bytes = x->by->model.weights->shape.vocab * sizeof *x->logits;
    struct crn_decode_options o = {.sampler = {0, 1, 1}, .max_tokens = RECEIVER_ANSWER};
    memcpy(o.stop, x->by->chat.end_ids, sizeof o.stop);
    ck_assert_int_eq(crn_decode_logits(&x->decode), 0);
    x->logits = malloc(bytes);
    ck_assert_ptr_nonnull(x->logits);
    memcpy(x->logits, x->decode.logits, bytes);
    ck_assert_int_eq(crn_decode_generate(&x->decode, &x->cache, &o), 0);
}

void reading_answer(struct reading *x)
{
    for (uint32_t l = 0; l < x->cache.n_layers; l++)
        ck_assert_int_eq(
            crn_decode_layer(&x->decode, l, x->cache.layers[l].spans, x->cache.layers[l].n), 0);
    finish(x);
}

void reading_own(struct reading *x, struct receiver *r, const struct crn_ids *context,
                 const struct crn_pyramid_rule *rule)
{
    struct crn_prefill p = {.tokens = context->ids, .n = (uint32_t)context->n, .rule = rule};
    reading_begin(x, r, context);
    ck_assert_int_eq(crn_prefill(&r->model.engine, &p, &x->cache, NULL), 0);
    reading_answer(x);
}

void reading_shared(struct reading *x, struct receiver *r, const struct crn_ids *context,
                    const struct crn_reuse_choice *choice)
{
    uint32_t n = (uint32_t)context->n;
    reading_begin(x, r, context);
    ck_assert_int_eq(crn_share_attach(r->client, context->ids, n, choice, &x->lease, &x->result),
                     0);
    ck_assert_msg(x->lease != NULL, "nothing attached: %s", crn_reason_name(x->result.reason));
    ck_assert_uint_eq(x->result.n_tokens, n);
    int status = crn_share_reuse(&r->model.engine, x->lease, context->ids, choice, &x->cache,
                                 &x->decode, &x->result);
    ck_assert_msg(status == 0, "reuse: %s", cairn_strerror(status));
    finish(x);
}

void reading_end(struct reading *x)
{
    crn_decode_end(&x->decode);
    crn_cache_free(&x->cache);
    cairn_release(x->lease);
    crn_ids_free(&x->asked);
    free(x->logits);
}

static void same_answer(const struct reading *a, const struct reading *b, const char *what)
{
    ck_assert_msg(a->question.n_answer == b->question.n_answer, "%s: %u tokens, not %u", what,
                  a->question.n_answer, b->question.n_answer);
    for (uint32_t i = 0; i < a->question.n_answer; i++)
        ck_assert_msg(a->answer[i] == b->answer[i], "%s: token %u of the answer differs", what, i);
}

double reading_difference(const struct reading *a, const struct reading *b)
{
    double worst = 0;
    for (uint32_t i = 0; i < a->by->model.weights->shape.vocab; i++) {
        double off = fabs((double)a->logits[i] - (double)b->logits[i]);
        worst = off > worst || isnan(off) ? off : worst;
    }
    return worst;
}

void reading_same_bits(const struct reading *a, const struct reading *b, const char *what)
{
    size_t bytes = a->by->model.weights->shape.vocab * sizeof *a->logits;
    ck_assert_msg(memcmp(a->logits, b->logits, bytes) == 0, "%s: logits differ, by up to %g", what,
                  reading_difference(a, b));
    same_answer(a, b, what);
}

void reading_same(const struct reading *a, const struct reading *b, const char *what)
{
    double off = reading_difference(a, b);
    ck_assert_msg(off <= 2e-3, "%s: logits off by %g", what, off);
    same_answer(a, b, what);
}

void receiver_store_plan(const struct receiver *r, uint32_t layer)
{
    struct cairn_plan_put put = CAIRN_PLAN_PUT_INIT;
    uint64_t plan;
    put.plan.producer = r->model.weights->digest;
    put.plan.receiver.b[0] = (uint8_t)(1 + layer);
    put.plan.first = layer;
    put.plan.last = layer;
    put.plan.quality = 1;
    ck_assert_int_eq(cairn_plan_store(r->client, &put, SOON, &plan), 0);
}

struct crn_reuse_choice choice_auto(void)
{
    return (struct crn_reuse_choice){.mode = CRN_REUSE_AUTO, .timeout_ms = 10000};
}

struct crn_reuse_choice choice_run(uint32_t first, uint32_t last)
{
    return (struct crn_reuse_choice){
        .mode = CRN_REUSE_RUN, .first = first, .last = last, .timeout_ms = 10000};
}

/* ---- workers ---- */

struct program worker_run(const struct broker *b, const char *const *options)
{
    const char *arguments[60] = {"--json", "--threads", "2", "--socket",
                                 b != NULL ? b->socket : "/nonexistent/cairn.sock"};
    size_t n = 5;
    _Static_assert(RECEIVER_THREADS == 2, "as the model's pool in tests/support/model.c");
    for (; *options != NULL; options++) {
        ck_assert_uint_lt(n, sizeof arguments / sizeof *arguments - 1);
        arguments[n++] = *options;
    }
    struct program p = program_run("cairn-worker", arguments);
    ck_assert_msg(p.code == 0, "exit code %d: %s%s", p.code, p.out, p.err);
    return p;
}

json_t *worker_line(const struct broker *b, const char *const *options)
{
    struct program p = worker_run(b, options);
    json_t *line = program_json(&p, 0);
    program_free(&p);
    return line;
}

int json_number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    ck_assert_msg(json_is_integer(value) || json_is_boolean(value), "no number %s", key);
    return json_is_boolean(value) ? json_is_true(value) : (int)json_integer_value(value);
}

const char *json_text(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    ck_assert_msg(text != NULL, "no text %s", key);
    return text;
}

/* ---- texts ---- */

char *random_text(uint32_t n, uint64_t seed)
{
    static const char letters[] = "bcdfgjklmpqrsuvwxyz0123456789.,     ";
    struct rand r = rand_seeded(seed);
    char *text = malloc(n + 1);
    ck_assert_ptr_nonnull(text);
    for (uint32_t i = 0; i < n; i++)
        text[i] = letters[rand_below(&r, sizeof letters - 1)];
    text[n] = '\0';
    return text;
}

const char *text_file(unsigned slot, const char *text, long n)
{
    static char paths[8][512];
    char name[32];
    snprintf(name, sizeof name, "text-%u", slot);
    ck_assert_uint_lt(slot, 8);
    snprintf(paths[slot], sizeof paths[slot], "%s", paths_tmp_file(name));
    FILE *f = fopen(paths[slot], "w");
    ck_assert_ptr_nonnull(f);
    fwrite(text, 1, n < 0 ? strlen(text) : (size_t)n, f);
    ck_assert_int_eq(fclose(f), 0);
    return paths[slot];
}
