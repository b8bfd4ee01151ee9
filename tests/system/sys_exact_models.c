/* Exactness (design.md section 7) on small random models of odd shapes. The publisher is a real
 * cairn-worker, the broker a real cairnd; the receiver is a second worker, or this process where
 * logits or payloads must be looked at.
 *
 * Equal bit for bit: whatever one set of rows goes through in one pass, with the same number of
 * threads: an attached context, a recomputed run, an own prefill on the same sets. A context read
 * in two parts meets other shapes: |difference of logits| <= 2e-3 and the same tokens. A state
 * stored as f16 or bf16 is compared with an own prefill that stores it alike. */
#include "tests/support/forced.h"
#include "tests/support/gguf_write.h"
#include "tests/support/paths.h"
#include "tests/support/receiver.h"
#include "tests/support/run.h"

#include <stdlib.h>
#include <string.h>

#define SHAPE(layers, hidden_, heads, kv, dim, ffn_)                                               \
    {                                                                                              \
        .n_layers = layers, .hidden = hidden_, .n_heads = heads, .n_kv_heads = kv,                 \
        .head_dim = dim, .ffn = ffn_, .vocab = 97, .context_max = 1024, .rope_theta = 10000,       \
        .norm_eps = 1e-5f                                                                          \
    }

static const struct crn_model_shape shapes[] = {
    SHAPE(1, 64, 2, 2, 32, 96),   SHAPE(2, 96, 3, 1, 64, 160), SHAPE(3, 64, 8, 1, 32, 96),
    SHAPE(5, 128, 6, 2, 64, 128), SHAPE(3, 64, 3, 3, 128, 64), SHAPE(2, 64, 16, 2, 128, 96),
};
#define N_SHAPES (sizeof shapes / sizeof *shapes)
#define MAX_LAYERS 5u
/* What the models' files store: a few rows are multiplied by these as they are, many by float32. */
static const uint32_t weights[] = {CRN_QUANT_F32,  CRN_QUANT_Q8_0, CRN_QUANT_F16,
                                   CRN_QUANT_Q4_1, CRN_QUANT_BF16, CRN_QUANT_Q4_0};

static const struct {
    uint32_t dtype;
    const char *name;
} stores[] = {
    {CAIRN_F32, "f32"},
    {CAIRN_F16, "f16"},
    {CAIRN_BF16, "bf16"},
};

/* Every shape as f32, some in the narrow types: a shape and a store. */
static const struct {
    size_t shape, store;
} kinds[] = {
    {0, 0}, {1, 0}, {2, 0}, {3, 0}, {4, 0}, {5, 0}, {0, 1}, {3, 1}, {5, 1}, {1, 2}, {2, 2},
};
#define N_KINDS (sizeof kinds / sizeof *kinds)

static const char *const memory[] = {"--memory", "64M", "--log-level", "warn", NULL};
static const char *const pyramid_option = "prefill:d=0.5,rho=0.1,m=8";
static const struct crn_pyramid_rule pyramid_rule = {1, 0.1f, 0.5f, 1.2f, 8, 1, 4, 0};

/* A model, its sibling, a broker, and this process as a receiver. */
struct scene {
    struct broker broker;
    char model[512], adapter[512];
    struct receiver r;
};

static void scene_open(struct scene *s, size_t shape, uint32_t kv_dtype, int sibling)
{
    memset(s, 0, sizeof *s);
    paths_tmp();
    snprintf(s->model, sizeof s->model, "%s", paths_tmp_file("model.gguf"));
    snprintf(s->adapter, sizeof s->adapter, "%s", paths_tmp_file("sibling.gguf"));
    ck_assert_int_eq(crn_test_model_write(s->model, &shapes[shape], 7 + shape, weights[shape]), 0);
    ck_assert_int_eq(
        crn_test_adapter_write(s->adapter, &shapes[shape], 70 + shape, 4, CRN_QUANT_F32), 0);
    broker_start(&s->broker, memory);
    receiver_open(&s->r, &s->broker, s->model, sibling ? s->adapter : NULL, kv_dtype);
}

static void scene_close(struct scene *s)
{
    receiver_close(&s->r);
    broker_stop(&s->broker);
    paths_tmp_remove();
}

/* A worker of the base model reads the text and publishes, with all states. */
static void publish(const struct scene *s, const char *text, const char *kv, const char *store,
                    const char *pyramid)
{
    char states[2 * MAX_LAYERS];
    snprintf(states, sizeof states, "%.*s", (int)(2 * s->r.model.weights->shape.n_layers - 1),
             "0,1,2,3,4");
    const char *const options[] = {"--model",  s->model, "--context", text_file(0, text, -1),
                                   "--kv",     kv,       "--store",   store,
                                   "--states", states,   "--pyramid", pyramid,
                                   NULL};
    json_t *line = worker_line(&s->broker, options);
    ck_assert(json_number(line, "published"));
    ck_assert_int_eq(json_number(line, "reused_tokens"), 0);
    json_decref(line);
}

/* ---- a sibling recomputes everything ---- */

static void check_all_layers(struct scene *s, const char *text, const char *pyramid)
{
    struct crn_ids context = receiver_tokens(&s->r, text);
    struct crn_reuse_choice all = choice_run(0, s->r.model.weights->shape.n_layers - 1);
    struct reading shared, own;
    reading_shared(&shared, &s->r, &context, &all);
    if (strncmp(pyramid, "prefill", 7) == 0) {
        struct sets sets;
        sets_take(&sets, &shared);
        reading_forced(&own, &s->r, &context, &sets, &all, CAIRN_F32);
        sets_free(&sets);
    } else {
        reading_own(&own, &s->r, &context, NULL);
    }
    reading_same_bits(&shared, &own, pyramid);
    reading_end(&own);
    reading_end(&shared);
    crn_ids_free(&context);
}

START_TEST(a_run_of_all_layers_is_the_receivers_own_prefill)
{
    const char *const pyramids[] = {"off", "keep=0.5", pyramid_option};
    struct scene s;
    size_t store = kinds[_i].store;
    scene_open(&s, kinds[_i].shape, stores[store].dtype, 1);
    for (size_t i = 0; i < 3; i++) {
        char *text = random_text(150 + 37 * (uint32_t)i, 1 + i);
        publish(&s, text, stores[store].name, "f32", pyramids[i]);
        check_all_layers(&s, text, pyramids[i]);
        free(text);
    }
    scene_close(&s);
}
END_TEST

/* What the test above would show if nothing was recomputed. */
START_TEST(without_a_run_a_sibling_is_not_itself)
{
    struct scene s;
    struct reading shared, own;
    struct crn_reuse_choice full = {.mode = CRN_REUSE_FULL, .timeout_ms = 10000};
    char *text = random_text(150, 4);
    scene_open(&s, 1, CAIRN_F32, 1);
    struct crn_ids context = receiver_tokens(&s.r, text);
    publish(&s, text, "f32", "f32", "off");
    reading_shared(&shared, &s.r, &context, &full);
    reading_own(&own, &s.r, &context, NULL);
    ck_assert_double_gt(reading_difference(&shared, &own), 0.1);
    reading_end(&own);
    reading_end(&shared);
    crn_ids_free(&context);
    free(text);
    scene_close(&s);
}
END_TEST

START_TEST(a_held_run_of_all_layers_undoes_the_pyramid)
{
    struct scene s;
    struct reading shared, own;
    struct crn_reuse_choice all = choice_run(0, shapes[_i].n_layers - 1);
    char *text = random_text(190, 5);
    scene_open(&s, (size_t)_i, CAIRN_F32, 1);
    struct crn_ids context = receiver_tokens(&s.r, text);
    publish(&s, text, "f32", "f32", pyramid_option);
    all.hold = 1;
    reading_shared(&shared, &s.r, &context, &all);
    reading_own(&own, &s.r, &context, NULL);
    reading_same_bits(&shared, &own, "hold");
    reading_end(&own);
    reading_end(&shared);
    crn_ids_free(&context);
    free(text);
    scene_close(&s);
}
END_TEST

/* ---- the same model on both sides ---- */

static void check_run(struct scene *s, const struct crn_ids *context,
                      const struct crn_reuse_choice *run, uint32_t dtype)
{
    struct reading shared, own;
    struct sets sets;
    char what[64];
    snprintf(what, sizeof what, "run %u-%u", run->first, run->last);
    reading_shared(&shared, &s->r, context, run);
    sets_take(&sets, &shared);
    reading_forced(&own, &s->r, context, &sets, run, dtype);
    reading_same_bits(&shared, &own, what);
    reading_end(&own);
    reading_end(&shared);
    sets_free(&sets);
}

/* Published sets are those of an own prefill by the same rule; attached as it is, the entry is that
 * prefill. */
static void check_attached(struct scene *s, const struct crn_ids *context,
                           const struct crn_pyramid_rule *rule)
{
    struct reading shared, own;
    struct crn_reuse_choice automatic = choice_auto();
    char settings[CRN_PYRAMID_TEXT];
    if (rule != NULL) {
        crn_pyramid_text(rule, settings);
        automatic.settings = settings;
    }
    reading_shared(&shared, &s->r, context, &automatic);
    reading_own(&own, &s->r, context, rule);
    ck_assert_uint_eq(shared.result.class_, CAIRN_CLASS_EXACT);
    ck_assert_uint_eq(shared.result.reason, CAIRN_REASON_SAME_MODEL);
    for (uint32_t l = 0; l < shared.cache.n_layers; l++) {
        const struct crn_kv_head *a = shared.cache.layers[l].spans[0].heads,
                                 *b = own.cache.layers[l].spans[0].heads;
        ck_assert_uint_eq(a->n, b->n);
        ck_assert_mem_eq(a->pos, b->pos, a->n * sizeof *a->pos);
    }
    reading_same_bits(&shared, &own, "attached");
    reading_end(&own);
    reading_end(&shared);
}

START_TEST(between_equal_models_every_run_is_the_own_prefill)
{
    struct scene s;
    size_t store = kinds[_i].store;
    scene_open(&s, kinds[_i].shape, stores[store].dtype, 0);
    uint32_t n_layers = s.r.model.weights->shape.n_layers;
    for (int pyramid = 0; pyramid < 2; pyramid++) {
        char *text = random_text(170, 11 + (uint64_t)pyramid);
        struct crn_ids context = receiver_tokens(&s.r, text);
        publish(&s, text, stores[store].name, stores[store].name, pyramid ? pyramid_option : "off");
        check_attached(&s, &context, pyramid ? &pyramid_rule : NULL);
        for (uint32_t a = 0; a < n_layers; a++) {
            for (uint32_t b = a; b < n_layers; b++) {
                struct crn_reuse_choice run = choice_run(a, b);
                check_run(&s, &context, &run, stores[store].dtype);
            }
        }
        crn_ids_free(&context);
        free(text);
    }
    scene_close(&s);
}
END_TEST

/* ---- pyramids that keep everything ---- */

/* Of a prefill pyramid's option; NULL for others. */
static const char *settings_of(const char *option, char out_text[CRN_PYRAMID_TEXT])
{
    struct crn_pyramid_rule rule;
    if (strncmp(option, "prefill", 7) != 0)
        return NULL;
    ck_assert_int_eq(crn_pyramid_parse(option[7] == ':' ? option + 8 : "", &rule), 0);
    crn_pyramid_text(&rule, out_text);
    return out_text;
}

START_TEST(a_pyramid_that_keeps_everything_is_the_full_cache)
{
    static const struct {
        const char *option;
        uint32_t chars;
    } keeping[] = {
        {"prefill:d=1,rho=0.2", 180},
        {"prefill:d=0.5,rho=0.2,m=200", 180},
        {"prefill", 57},
        {"keep=1", 181},
        {"plan", 200},
    };
    struct scene s;
    struct crn_reuse_choice automatic = choice_auto();
    char settings[CRN_PYRAMID_TEXT];
    scene_open(&s, (size_t)_i, CAIRN_F32, 0);
    for (size_t i = 0; i < sizeof keeping / sizeof *keeping; i++) {
        struct reading shared, own;
        char *text = random_text(keeping[i].chars, 20 + i);
        struct crn_ids context = receiver_tokens(&s.r, text);
        publish(&s, text, "f32", "f32", keeping[i].option);
        automatic.settings = settings_of(keeping[i].option, settings);
        reading_shared(&shared, &s.r, &context, &automatic);
        for (uint32_t l = 0; l < shared.cache.n_layers; l++)
            ck_assert_uint_eq(shared.cache.layers[l].spans[0].heads[0].n, context.n);
        reading_own(&own, &s.r, &context, NULL);
        reading_same_bits(&shared, &own, keeping[i].option);
        reading_end(&own);
        reading_end(&shared);
        crn_ids_free(&context);
        free(text);
    }
    scene_close(&s);
}
END_TEST

/* ---- contexts that agree in part ---- */

/* A worker of the base model answers about the first n characters of text. own: json_decref */
static json_t *ask(const struct scene *s, const char *text, long n, int alone)
{
    const char *const together[] = {
        "--model", s->model,     "--kv",         "f32", "--context", text_file(1, text, n),
        "--ask",   "who knows?", "--max-tokens", "12",  NULL};
    const char *const by_itself[] = {
        "--model",      s->model,     "--kv",         "f32", "--context", text_file(1, text, n),
        "--ask",        "who knows?", "--max-tokens", "12",  "--reuse",   "never",
        "--no-publish", NULL};
    return worker_line(&s->broker, alone ? by_itself : together);
}

/* One worker attaches `reused` tokens and publishes or not; the answer is the one of a worker that
 * works alone. */
static void check_answer(const struct scene *s, const char *text, int reused, int publishes)
{
    json_t *with = ask(s, text, -1, 0), *alone = ask(s, text, -1, 1);
    ck_assert_int_eq(json_number(with, "reused_tokens"), reused);
    ck_assert_int_eq(json_number(with, "published"), publishes);
    ck_assert_str_eq(json_text(with, "class"), reused > 0 ? "exact" : "none");
    ck_assert_str_eq(json_text(with, "reason"), reused > 0 ? "same_model" : "no_entry");
    ck_assert_str_eq(json_text(with, "answer"), json_text(alone, "answer"));
    ck_assert_int_eq(json_number(with, "tokens"), json_number(alone, "tokens"));
    json_decref(with);
    json_decref(alone);
}

/* The receiver of this process attaches all of it, in parts that start at 0 and at `second`. */
static void check_two_parts(struct scene *s, const struct crn_ids *context, uint32_t second)
{
    struct reading shared, own;
    struct crn_reuse_choice automatic = choice_auto();
    reading_shared(&shared, &s->r, context, &automatic);
    reading_own(&own, &s->r, context, NULL);
    const struct cairn_lease_info *info = cairn_lease_info(shared.lease);
    ck_assert_uint_eq(info->n_parts, 2);
    ck_assert_uint_eq(info->parts[0].n_tokens, second);
    ck_assert_uint_eq(info->parts[1].start, second);
    ck_assert_uint_eq(info->class_, CAIRN_CLASS_EXACT);
    reading_same(&shared, &own, "two parts");
    reading_end(&own);
    reading_end(&shared);
}

static const uint32_t prefixes[] = {7, 40, 63, 64, 65, 128, 192, 218, 222, 225};
#define N_PREFIXES (sizeof prefixes / sizeof *prefixes)

START_TEST(a_longer_context_continues_a_cached_prefix_of_any_length)
{
    struct scene s;
    uint32_t prefix = prefixes[_i];
    char *text = random_text(220, 30 + prefix);
    scene_open(&s, (size_t)_i % N_SHAPES, CAIRN_F32, 0);
    struct crn_ids context = receiver_tokens(&s.r, text);
    uint32_t frame = (uint32_t)context.n - 220;
    json_t *first = ask(&s, text, prefix - frame, 0);
    ck_assert_int_eq(json_number(first, "context_tokens"), (int)prefix);
    ck_assert(json_number(first, "published"));
    json_decref(first);
    check_answer(&s, text, (int)prefix, 1);    /* the rest is prefilled, and published as a child */
    check_answer(&s, text, (int)context.n, 0); /* a third worker finds parent and child */
    check_two_parts(&s, &context, prefix);
    crn_ids_free(&context);
    free(text);
    scene_close(&s);
}
END_TEST

/* What follows a sibling's cache taken as it is belongs to a measurement; nobody else may find it.
 */
START_TEST(nothing_is_published_behind_a_forced_reuse)
{
    struct scene s;
    char *text = random_text(220, 33);
    scene_open(&s, 1, CAIRN_F32, 1);
    struct crn_ids context = receiver_tokens(&s.r, text);
    json_t *first = ask(&s, text, 150, 0);
    ck_assert(json_number(first, "published"));
    const char *const options[] = {"--model", s.model,     "--adapter",
                                   s.adapter, "--context", text_file(4, text, -1),
                                   "--reuse", "full",      NULL};
    json_t *forced = worker_line(&s.broker, options);
    ck_assert_int_eq(json_number(forced, "reused_tokens"), (int)context.n - 70);
    ck_assert(!json_number(forced, "published"));
    ck_assert_uint_eq(broker_counter(&s.broker, "entries"), 1);
    json_decref(forced);
    json_decref(first);
    crn_ids_free(&context);
    free(text);
    scene_close(&s);
}
END_TEST

static const uint32_t forks[] = {20, 63, 64, 65, 127, 129, 225};
#define N_FORKS (sizeof forks / sizeof *forks)

START_TEST(contexts_that_part_share_what_they_have_in_common_to_the_token)
{
    struct scene s;
    uint32_t fork = forks[_i];
    char *text = random_text(220, 50 + fork), *other = random_text(220, 90 + fork);
    scene_open(&s, 3, CAIRN_F32, 0);
    struct crn_ids context = receiver_tokens(&s.r, text);
    uint32_t common = fork - ((uint32_t)context.n - 220);
    memcpy(other, text, common);
    other[common] = text[common] == 'b' ? 'c' : 'b';
    struct crn_ids branch = receiver_tokens(&s.r, other);
    publish(&s, text, "f32", "f32", "off");
    int found = fork >= CAIRN_CHUNK_TOKENS
                    ? (int)fork
                    : 0; /* less than a whole chunk of a longer entry is not looked for */
    check_answer(&s, other, found, 1);
    check_answer(&s, other, (int)branch.n, 0);
    check_answer(&s, text, (int)context.n, 0);
    if (found > 0)
        check_two_parts(&s, &branch, fork);
    crn_ids_free(&branch);
    crn_ids_free(&context);
    free(other);
    free(text);
    scene_close(&s);
}
END_TEST

/* ---- states of plans that came later ---- */

START_TEST(a_state_added_later_serves_like_one_published_at_once)
{
    struct scene s;
    struct reading shared, own;
    char *text = random_text(200, 58);
    scene_open(&s, (size_t)_i, CAIRN_F32, 0);
    uint32_t last = s.r.model.weights->shape.n_layers - 1;
    struct crn_reuse_choice from_last = choice_run(last, last);
    struct crn_ids context = receiver_tokens(&s.r, text);
    const char *const options[] = {"--model", s.model,     "--kv",
                                   "f32",     "--context", text_file(0, text, -1),
                                   NULL};
    json_decref(worker_line(&s.broker, options));
    receiver_store_plan(&s.r, last);
    json_t *line = worker_line(&s.broker, options);
    ck_assert_str_eq(json_text(line, "class"), "exact");
    json_decref(line);
    reading_shared(&shared, &s.r, &context, &from_last);
    ck_assert_uint_eq(cairn_lease_info(shared.lease)->n_wants, 0);
    reading_own(&own, &s.r, &context, NULL);
    reading_same_bits(&shared, &own, "state added later");
    reading_end(&own);
    reading_end(&shared);
    crn_ids_free(&context);
    free(text);
    scene_close(&s);
}
END_TEST

/* ---- compressed entries ---- */

/* A worker attaches its own entry and compresses it. */
static void compress(const struct scene *s, const char *text, const char *keep)
{
    const char *const options[] = {
        "--model",    s->model, "--kv",        "f32",  "--context", text_file(2, text, -1),
        "--compress", keep,     "--log-level", "info", NULL};
    struct program p = worker_run(&s->broker, options);
    ck_assert_msg(strstr(p.err, "compressed: ") != NULL && strstr(p.err, "not compressed") == NULL,
                  "%s", p.err);
    program_free(&p);
}

/* Rows of all layers and KV heads attached, over what a whole entry has. */
static double kept_share(const struct reading *x)
{
    const struct crn_model_shape *s = &x->by->model.weights->shape;
    double kept = 0;
    for (uint32_t l = 0; l < s->n_layers; l++)
        for (uint32_t h = 0; h < s->n_kv_heads; h++)
            kept += x->cache.layers[l].spans[0].heads[h].n;
    return kept / ((double)s->n_layers * s->n_kv_heads * x->result.n_tokens);
}

START_TEST(compressing_to_everything_changes_nothing)
{
    struct scene s;
    struct reading shared, own;
    struct crn_reuse_choice automatic = choice_auto();
    char *text = random_text(160, 60);
    scene_open(&s, (size_t)_i, CAIRN_F32, 0);
    struct crn_ids context = receiver_tokens(&s.r, text);
    publish(&s, text, "f32", "f32", "off");
    compress(&s, text, "keep=1.0");
    ck_assert_uint_eq(broker_counter(&s.broker, "compress_total"), 1);
    reading_shared(&shared, &s.r, &context, &automatic);
    reading_own(&own, &s.r, &context, NULL);
    ck_assert_uint_eq(cairn_lease_info(shared.lease)->parts[0].pyramid, CAIRN_PYRAMID_PUBLISH);
    reading_same_bits(&shared, &own, "keep=1.0");
    reading_end(&own);
    reading_end(&shared);
    crn_ids_free(&context);
    free(text);
    scene_close(&s);
}
END_TEST

static int attach_entry(struct receiver *r, struct cairn_entry_id entry)
{
    struct cairn_query q = CAIRN_QUERY_INIT;
    struct cairn_lease *lease = NULL;
    q.entry = entry;
    q.flags = CAIRN_QUERY_INSPECT;
    int status = cairn_attach(r->client, &q, SOON, &lease);
    cairn_release(lease);
    return status;
}

/* Reads the bytes of an old lease once more, into another answer. */
static void check_old_lease(struct reading *old, const struct crn_ids *context,
                            const struct reading *own)
{
    struct reading again;
    ck_assert_int_eq(cairn_lease_check(old->lease), 0);
    reading_begin(&again, old->by, context);
    for (uint32_t l = 0; l < again.cache.n_layers; l++) {
        struct cairn_layer_view view;
        ck_assert_int_eq(cairn_lease_layer(old->lease, 0, l, &view), 0);
        ck_assert_int_eq(crn_cache_add_view(&again.cache, l, &view), 0);
    }
    reading_answer(&again);
    reading_same_bits(&again, own, "old lease");
    ck_assert_int_eq(cairn_lease_check(old->lease), 0);
    reading_end(&again);
}

START_TEST(compressing_makes_a_new_entry_and_leaves_old_readers_alone)
{
    struct scene s;
    struct reading old, new, own;
    struct crn_reuse_choice automatic = choice_auto();
    char *text = random_text(240, 61);
    scene_open(&s, (size_t)_i, CAIRN_F32, 0);
    struct crn_ids context = receiver_tokens(&s.r, text);
    publish(&s, text, "f32", "f32", "off");
    reading_own(&own, &s.r, &context, NULL);
    reading_shared(&old, &s.r, &context, &automatic);
    struct cairn_entry_id before = cairn_lease_info(old.lease)->parts[0].entry;
    ck_assert_int_eq(attach_entry(&s.r, before), 0);
    compress(&s, text, "keep=0.4");
    ck_assert_int_eq(attach_entry(&s.r, before), CAIRN_E_STALE);
    reading_shared(&new, &s.r, &context, &automatic);
    ck_assert(cairn_lease_info(new.lease)->parts[0].entry.v != before.v);
    ck_assert_double_ge(kept_share(&new), 0.39);
    ck_assert_double_le(kept_share(&new), 0.47);
    ck_assert_double_gt(reading_difference(&new, &own), 0);
    check_old_lease(&old, &context, &own);
    reading_end(&new);
    check_old_lease(&old, &context, &own);
    reading_end(&old);
    reading_end(&own);
    crn_ids_free(&context);
    free(text);
    scene_close(&s);
}
END_TEST

/* Asked about twice in one process, the entry is cut once, when both are answered; another process leaves it alone; int8 stays int8. */
START_TEST(an_int8_entry_is_compressed_and_no_entry_is_twice)
{
    struct scene s;
    struct reading cut;
    struct crn_reuse_choice automatic = choice_auto();
    char *text = random_text(240, 62);
    scene_open(&s, 0, CAIRN_F32, 0);
    struct crn_ids context = receiver_tokens(&s.r, text);
    publish(&s, text, "f32", "i8", "off");
    const char *const options[] = {
        "--model",    s.model,    "--context",   text_file(2, text, -1), "--ask", "a", "--ask", "b",
        "--compress", "keep=0.4", "--log-level", "info",                 NULL};
    for (int i = 0; i < 2; i++) {
        struct program p = worker_run(&s.broker, options);
        ck_assert_msg((strstr(p.err, "info: compressed: ") != NULL) == (i == 0) &&
                          (strstr(p.err, "not compressed: it is already") != NULL) == (i == 1),
                      "%s", p.err);
        program_free(&p);
    }
    ck_assert_uint_eq(broker_counter(&s.broker, "compress_total"), 1);
    reading_shared(&cut, &s.r, &context, &automatic);
    for (uint32_t l = 0; l < cut.cache.n_layers; l++) {
        ck_assert_uint_eq(cut.cache.layers[l].n, 2);
        ck_assert_uint_eq(cut.cache.layers[l].spans[0].heads[0].n, CRN_SETS_SINK);
        ck_assert_uint_eq(cut.cache.layers[l].spans[1].dtype, CAIRN_I8);
        ck_assert_uint_lt(cut.cache.layers[l].spans[1].heads[0].n, (uint32_t)context.n - 4);
    }
    reading_end(&cut);
    crn_ids_free(&context);
    free(text);
    scene_close(&s);
}
END_TEST

/* ---- int8 ---- */

static void check_close(const struct reading *a, const struct reading *b, const char *what)
{
    double off = reading_difference(a, b), top = 0;
    for (uint32_t i = 0; i < b->by->model.weights->shape.vocab; i++)
        top = (double)b->logits[i] > top ? (double)b->logits[i] : top;
    ck_assert_msg(off > 0, "%s: nothing was rounded", what);
    ck_assert_msg(off <= 0.03 * top, "%s: logits off by %g of %g", what, off, top);
}

START_TEST(int8_stays_close_to_what_it_stands_for)
{
    struct scene s;
    struct reading stored, private, own, run;
    struct crn_reuse_choice automatic = choice_auto();
    char *text = random_text(230, 70);
    scene_open(&s, (size_t)_i, CAIRN_F32, 0);
    struct crn_engine *e = &s.r.model.engine;
    struct crn_ids context = receiver_tokens(&s.r, text);
    reading_own(&own, &s.r, &context, NULL);
    publish(&s, text, "f32", "i8", "off");
    reading_shared(&stored, &s.r, &context, &automatic);
    ck_assert_uint_eq(stored.cache.layers[0].n, 2); /* the first rows wide, then int8 */
    ck_assert_uint_eq(stored.cache.layers[0].spans[1].dtype, CAIRN_I8);
    check_close(&stored, &own, "published as int8");
    if (e->weights->shape.n_layers > 1) {
        struct crn_reuse_choice from_1 = choice_run(1, e->weights->shape.n_layers - 1);
        reading_shared(&run, &s.r, &context, &from_1);
        check_close(&run, &own, "run from an int8 state");
        reading_end(&run);
    }
    struct crn_prefill p = {.tokens = context.ids, .n = (uint32_t)context.n};
    reading_begin(&private, &s.r, &context);
    ck_assert_int_eq(crn_prefill(e, &p, &private.cache, NULL), 0);
    for (uint32_t l = 0; l < private.cache.n_layers; l++)
        ck_assert_int_eq(crn_kv_quantise(&private.cache.pieces->kv[l], e->ops, &e->exec), 0);
    crn_cache_refresh(&private.cache);
    ck_assert_uint_eq(private.cache.layers[0].spans[0].dtype, CAIRN_I8);
    reading_answer(&private);
    check_close(&private, &own, "held as int8");
    reading_end(&private);
    reading_end(&stored);
    reading_end(&own);
    crn_ids_free(&context);
    free(text);
    scene_close(&s);
}
END_TEST

START_TEST(a_worker_holds_a_context_in_a_quarter_of_its_memory_as_int8)
{
    struct scene s;
    char *text = random_text(400, 71);
    scene_open(&s, (size_t)_i, CAIRN_F32, 0);
    const char *options[] = {"--model",
                             s.model,
                             "--kv",
                             "f32",
                             "--context",
                             text_file(3, text, -1),
                             "--reuse",
                             "never",
                             "--no-publish",
                             "--private-int8",
                             NULL};
    json_t *narrow = worker_line(&s.broker, options);
    options[9] = NULL;
    json_t *wide = worker_line(&s.broker, options);
    ck_assert_int_le(3 * json_number(narrow, "kv_private_bytes"),
                     json_number(wide, "kv_private_bytes"));
    ck_assert_int_gt(5 * json_number(narrow, "kv_private_bytes"),
                     json_number(wide, "kv_private_bytes"));
    json_decref(narrow);
    json_decref(wide);
    free(text);
    scene_close(&s);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(a_run_of_all_layers_is_the_receivers_own_prefill, N_KINDS),
        RUN_TEST(without_a_run_a_sibling_is_not_itself),
        RUN_LOOP(a_held_run_of_all_layers_undoes_the_pyramid, 4),
        RUN_LOOP(between_equal_models_every_run_is_the_own_prefill, N_KINDS),
        RUN_LOOP(a_pyramid_that_keeps_everything_is_the_full_cache, N_SHAPES),
        RUN_LOOP(a_longer_context_continues_a_cached_prefix_of_any_length, N_PREFIXES),
        RUN_TEST(nothing_is_published_behind_a_forced_reuse),
        RUN_LOOP(contexts_that_part_share_what_they_have_in_common_to_the_token, N_FORKS),
        RUN_LOOP(a_state_added_later_serves_like_one_published_at_once, 4),
        RUN_LOOP(compressing_to_everything_changes_nothing, 4),
        RUN_LOOP(compressing_makes_a_new_entry_and_leaves_old_readers_alone, 4),
        RUN_TEST(an_int8_entry_is_compressed_and_no_entry_is_twice),
        RUN_LOOP(int8_stays_close_to_what_it_stands_for, 4),
        RUN_LOOP(a_worker_holds_a_context_in_a_quarter_of_its_memory_as_int8, 2),
    };
    return run_suite("exact_models", tests, sizeof tests / sizeof *tests);
}
