/* Exactness (design.md section 7) with everything on a device: a real cairn-worker publishes, a real
 * cairnd keeps it, and this process receives, its weights, rows and KV in device memory too, so that
 * logits can be compared. Every run of layers from every start to every end, whole entries and
 * pyramids, each of them also against the CPU.
 *
 * The bound is the design's: |difference of logits| <= 2e-3 and the same tokens, since cuBLAS does
 * not promise the same bits. Only what reads the same bytes by the same calls is compared bit for
 * bit. Small random models, short contexts: the emulated device is slow. */
#include "tests/support/dev.h"
#include "tests/support/dev_share.h"
#include "tests/support/forced.h"
#include "tests/support/gguf_write.h"
#include "tests/support/paths.h"
#include "tests/support/receiver.h"
#include "tests/support/run.h"

#include "ipc/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 3, TEXT = 50 };

static const struct crn_model_shape shape = {.n_layers = LAYERS, .hidden = 64, .n_heads = 4, .n_kv_heads = 2,
                                             .head_dim = 32, .ffn = 96, .vocab = 97, .context_max = 512,
                                             .rope_theta = 10000, .norm_eps = 1e-5f};

static const struct {
    uint32_t dtype;
    const char *name;
} stores[] = {{CAIRN_F32, "f32"}, {CAIRN_F16, "f16"}, {CAIRN_BF16, "bf16"}};

static const char *const pyramid_option = "prefill:d=0.5,rho=0.1,m=8";
static const struct crn_pyramid_rule pyramid_rule = {1, 0.1f, 0.5f, 1.2f, 8, 1, 4, 0};

/* A model, its sibling, a broker on the device, this process there as well, and on the CPU beside it. */
struct scene {
    struct broker broker;
    char model[512], adapter[512];
    struct receiver r, cpu;
};

/* nvme: of the broker's --nvme, or NULL. */
static void scene_open(struct scene *s, uint32_t kv_dtype, int sibling, const char *nvme)
{
    const char *const options[] = {"--device", "cuda:0", "--memory", "32M", "--arena-size", "8M", "--log-level", "warn",
                                   nvme != NULL ? "--nvme" : NULL, nvme, NULL};
    memset(s, 0, sizeof *s);
    snprintf(s->model, sizeof s->model, "%s", paths_tmp_file("model.gguf"));
    snprintf(s->adapter, sizeof s->adapter, "%s", paths_tmp_file("sibling.gguf"));
    ck_assert_int_eq(crn_test_model_write(s->model, &shape, 3, CRN_QUANT_F32), 0);
    ck_assert_int_eq(crn_test_adapter_write(s->adapter, &shape, 30, 4, CRN_QUANT_F32), 0);
    broker_start(&s->broker, options);
    const char *adapter = sibling ? s->adapter : NULL;
    struct crn_weights_place place = {dev_exec(), CRN_WEIGHTS_AUTO};
    receiver_open_at(&s->r, &s->broker, s->model, adapter, kv_dtype, &place);
    receiver_open(&s->cpu, &s->broker, s->model, adapter, kv_dtype);
}

static void scene_close(struct scene *s)
{
    receiver_close(&s->cpu);
    receiver_close(&s->r);
    dev_close();
    broker_stop(&s->broker);
    paths_tmp_remove();
}

/* A worker of the base model reads the text on the device and publishes. states NULL: none. */
static json_t *read_and_publish(const struct scene *s, const char *text, size_t store, const char *pyramid, const char *states)
{
    const char *const options[] = {"--device", "cuda:0", "--model", s->model, "--context", text_file(0, text, -1),
                                   "--kv", stores[store].name, "--store", stores[store].name, "--pyramid", pyramid,
                                   states != NULL ? "--states" : NULL, states, NULL};
    return worker_line(&s->broker, options);
}

static void publish(const struct scene *s, const char *text, size_t store, const char *pyramid, const char *states)
{
    json_t *line = read_and_publish(s, text, store, pyramid, states);
    ck_assert_int_eq(json_number(line, "published"), 1);
    json_decref(line);
}

/* What was read on the device is what a second way of reading gives. Ends the second one. */
static void same(const struct reading *shared, struct reading *other, const char *what)
{
    reading_same(shared, other, what);
    reading_end(other);
}

/* ---- every run, of equal models and of siblings ---- */

/* A run on the device against the same done by hand: on the device, and for f32 on the CPU (which does not round what it
 * multiplies with 16-bit keys). */
static void check_run(struct scene *s, const struct crn_ids *context, uint32_t first, uint32_t last, uint32_t dtype)
{
    struct crn_reuse_choice run = choice_run(first, last);
    struct reading shared, forced;
    struct sets sets;
    char what[64];
    snprintf(what, sizeof what, "run %u-%u", first, last);
    reading_shared(&shared, &s->r, context, &run);
    sets_take(&sets, &shared);
    reading_forced(&forced, &s->r, context, &sets, &run, dtype);
    same(&shared, &forced, what);
    if (dtype == CAIRN_F32) {
        snprintf(what, sizeof what, "run %u-%u against the CPU", first, last);
        reading_forced(&forced, &s->cpu, context, &sets, &run, dtype);
        same(&shared, &forced, what);
    }
    sets_free(&sets);
    reading_end(&shared);
}

START_TEST(between_equal_models_every_run_is_the_own_prefill)
{
    struct scene s;
    size_t store = (size_t)_i / 2;
    int pyramid = _i % 2;
    char *text = random_text(TEXT, 11 + (uint64_t)_i), settings[CRN_PYRAMID_TEXT];
    struct crn_reuse_choice automatic = choice_auto();
    struct reading shared, own;
    paths_tmp();
    scene_open(&s, stores[store].dtype, 0, NULL);
    struct crn_ids context = receiver_tokens(&s.r, text);
    publish(&s, text, store, pyramid ? pyramid_option : "off", "0,1,2");
    crn_pyramid_text(&pyramid_rule, settings);
    automatic.settings = pyramid ? settings : NULL;
    reading_shared(&shared, &s.r, &context, &automatic);
    ck_assert_uint_eq(shared.result.class_, CAIRN_CLASS_EXACT);
    reading_own(&own, &s.r, &context, pyramid ? &pyramid_rule : NULL);
    same(&shared, &own, "attached");
    reading_end(&shared);
    for (uint32_t a = 0; a < LAYERS; a++)
        for (uint32_t b = a; b < LAYERS; b++)
            check_run(&s, &context, a, b, stores[store].dtype);
    crn_ids_free(&context);
    free(text);
    scene_close(&s);
}
END_TEST

START_TEST(a_siblings_run_of_all_layers_is_its_own_prefill)
{
    static const char *const pyramids[] = {"off", "keep=0.5", "prefill:d=0.5,rho=0.1,m=8"};
    struct scene s;
    struct reading shared, own;
    struct crn_reuse_choice all = choice_run(0, LAYERS - 1), full = {.mode = CRN_REUSE_FULL, .timeout_ms = 10000};
    char *text = random_text(TEXT, 31 + (uint64_t)_i);
    paths_tmp();
    scene_open(&s, CAIRN_F32, 1, NULL);
    struct crn_ids context = receiver_tokens(&s.r, text);
    publish(&s, text, 0, pyramids[_i], NULL);
    if (_i < 2) {
        reading_shared(&shared, &s.r, &context, &all);
        reading_own(&own, &s.r, &context, NULL);
        same(&shared, &own, pyramids[_i]);
        reading_own(&own, &s.cpu, &context, NULL);
        same(&shared, &own, "the CPU's own prefill");
        reading_end(&shared);
    } else {
        check_run(&s, &context, 0, LAYERS - 1, CAIRN_F32);
        all.hold = 1; /* undoes the pyramid */
        reading_shared(&shared, &s.r, &context, &all);
        reading_own(&own, &s.r, &context, NULL);
        same(&shared, &own, "held");
        reading_end(&shared);
    }
    reading_shared(&shared, &s.r, &context, &full); /* what would be seen if nothing was recomputed */
    reading_own(&own, &s.r, &context, NULL);
    ck_assert_double_gt(reading_difference(&shared, &own), 0.1);
    reading_end(&own);
    reading_end(&shared);
    crn_ids_free(&context);
    free(text);
    scene_close(&s);
}
END_TEST

/* ---- entries that are whole in the end ---- */

START_TEST(a_pyramid_that_keeps_everything_is_the_full_cache)
{
    static const char *const keeping[] = {"prefill:d=1,rho=0.2", "keep=1"};
    struct scene s;
    struct reading shared, own;
    struct crn_reuse_choice automatic = choice_auto();
    struct crn_pyramid_rule rule;
    char *text = random_text(TEXT, 41 + (uint64_t)_i), settings[CRN_PYRAMID_TEXT];
    paths_tmp();
    scene_open(&s, CAIRN_F32, 0, NULL);
    struct crn_ids context = receiver_tokens(&s.r, text);
    publish(&s, text, 0, keeping[_i], NULL);
    if (_i == 0) {
        ck_assert_int_eq(crn_pyramid_parse(strchr(keeping[_i], ':') + 1, &rule), 0);
        crn_pyramid_text(&rule, settings);
        automatic.settings = settings;
    }
    reading_shared(&shared, &s.r, &context, &automatic);
    reading_own(&own, &s.r, &context, NULL);
    same(&shared, &own, keeping[_i]);
    reading_own(&own, &s.cpu, &context, NULL);
    same(&shared, &own, "the CPU's own prefill");
    reading_end(&shared);
    crn_ids_free(&context);
    free(text);
    scene_close(&s);
}
END_TEST

START_TEST(a_longer_context_continues_a_cached_one)
{
    struct scene s;
    struct reading shared, own;
    struct crn_reuse_choice automatic = choice_auto();
    char *text = random_text(2 * TEXT, 51), *begin = strndup(text, TEXT);
    paths_tmp();
    scene_open(&s, CAIRN_F32, 0, NULL);
    struct crn_ids context = receiver_tokens(&s.r, text);
    publish(&s, begin, 0, "off", NULL);
    publish(&s, text, 0, "off", NULL);
    reading_shared(&shared, &s.r, &context, &automatic);
    ck_assert_uint_eq(cairn_lease_info(shared.lease)->n_parts, 2);
    reading_own(&own, &s.r, &context, NULL);
    same(&shared, &own, "two parts");
    reading_own(&own, &s.cpu, &context, NULL);
    same(&shared, &own, "the CPU's own prefill");
    reading_end(&shared);
    crn_ids_free(&context);
    free(begin);
    free(text);
    scene_close(&s);
}
END_TEST

/* ---- states of plans that came later ---- */

/* Two plans that start at different layers; the producer's next worker adds both states, from rows on the device. */
START_TEST(states_added_later_serve_like_those_published_at_once)
{
    struct scene s;
    struct reading shared;
    char *text = random_text(TEXT, 61);
    paths_tmp();
    scene_open(&s, stores[_i].dtype, 0, NULL);
    struct crn_ids context = receiver_tokens(&s.r, text);
    publish(&s, text, (size_t)_i, "off", NULL);
    receiver_store_plan(&s.r, 1);
    receiver_store_plan(&s.r, LAYERS - 1);
    json_t *line = read_and_publish(&s, text, (size_t)_i, "off", NULL);
    ck_assert_str_eq(json_text(line, "class"), "exact");
    json_decref(line);
    struct crn_reuse_choice automatic = choice_auto();
    reading_shared(&shared, &s.r, &context, &automatic);
    ck_assert_uint_eq(cairn_lease_info(shared.lease)->n_wants, 0);
    reading_end(&shared);
    for (uint32_t first = 1; first < LAYERS; first += LAYERS - 2)
        for (uint32_t last = first; last < LAYERS; last++)
            check_run(&s, &context, first, last, stores[_i].dtype);
    crn_ids_free(&context);
    free(text);
    scene_close(&s);
}
END_TEST

/* ---- payloads that were away ---- */

START_TEST(restored_payloads_serve_bit_for_bit)
{
    struct scene s;
    struct reading before, after;
    struct crn_reuse_choice run = choice_run(1, 2);
    char *text = random_text(TEXT, 71), nvme[600];
    paths_tmp();
    snprintf(nvme, sizeof nvme, "%s:64M", paths_tmp_file("store"));
    scene_open(&s, CAIRN_F32, 1, nvme);
    struct crn_ids context = receiver_tokens(&s.r, text);
    publish(&s, text, 0, "off", "1");
    reading_shared(&before, &s.r, &context, &run);
    struct cairn_entry_id entry = cairn_lease_info(before.lease)->parts[0].entry;
    cairn_release(before.lease);
    before.lease = NULL;
    ck_assert_int_eq(cairn_spill(s.r.client, entry, 0, LAYERS - 1, CAIRN_TIER_NVME, SOON), 0);
    ck_assert_uint_ge(broker_counter(&s.broker, "spilled_total"), LAYERS);
    reading_shared(&after, &s.r, &context, &run);
    ck_assert_uint_ge(broker_counter(&s.broker, "restored_total"), LAYERS - 1);
    reading_same_bits(&after, &before, "restored");
    reading_end(&after);
    reading_end(&before);
    crn_ids_free(&context);
    free(text);
    scene_close(&s);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(between_equal_models_every_run_is_the_own_prefill, 5),
        RUN_LOOP(a_siblings_run_of_all_layers_is_its_own_prefill, 3),
        RUN_LOOP(a_pyramid_that_keeps_everything_is_the_full_cache, 2),
        RUN_TEST(a_longer_context_continues_a_cached_one),
        RUN_LOOP(states_added_later_serve_like_those_published_at_once, 3),
        RUN_TEST(restored_payloads_serve_bit_for_bit),
    };
    crn_log_setup("cuda_exact", CRN_LOG_WARN);
    dev_programs();
    return run_suite("cuda_exact", tests, sizeof tests / sizeof *tests);
}
