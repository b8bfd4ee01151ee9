/* Reuse does not see where payloads were: a context that went down to NVMe and came back, or came back after kill -9 of the broker,
 * gives a receiver the same logits, bit for bit, as one that stayed in memory; and when a layer cannot be read back, the same
 * request is answered by an own prefill. Models are small and random; publisher, broker and worker are real processes. */
#include "tests/support/gguf_write.h"
#include "tests/support/paths.h"
#include "tests/support/receiver.h"
#include "tests/support/run.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALL 255u
#define N_TOKENS 150u

static const struct crn_model_shape shape = {.n_layers = 5, .hidden = 128, .n_heads = 6, .n_kv_heads = 2, .head_dim = 64, .ffn = 128,
                                             .vocab = 97, .context_max = 1024, .rope_theta = 10000, .norm_eps = 1e-5f};

struct scene {
    struct broker broker;
    char model[512], adapter[512], nvme[600];
    const char *options[12];
    struct receiver r;
    char *text;
    struct crn_ids context;
};

/* A context that a worker of the base model has read and published, and this process as its sibling. */
static void scene_open(struct scene *s, const char *pyramid)
{
    memset(s, 0, sizeof *s);
    paths_tmp();
    snprintf(s->model, sizeof s->model, "%s", paths_tmp_file("model.gguf"));
    snprintf(s->adapter, sizeof s->adapter, "%s", paths_tmp_file("sibling.gguf"));
    snprintf(s->nvme, sizeof s->nvme, "%s:16M", paths_tmp_file("store"));
    ck_assert_int_eq(crn_test_model_write(s->model, &shape, 3, CRN_QUANT_Q8_0), 0);
    ck_assert_int_eq(crn_test_adapter_write(s->adapter, &shape, 4, 4, CRN_QUANT_F32), 0);
    const char *const options[] = {"--nvme", s->nvme, "--memory", "32M", "--log-level", "error", NULL};
    memcpy(s->options, options, sizeof options);
    broker_start(&s->broker, s->options);
    s->text = random_text(N_TOKENS, 9);
    const char *const publisher[] = {"--model", s->model, "--context", text_file(0, s->text, -1), "--kv", "f32", "--store", "f16",
                                     "--states", "0,1,2,3,4", "--pyramid", pyramid, NULL};
    json_t *line = worker_line(&s->broker, publisher);
    ck_assert(json_number(line, "published"));
    json_decref(line);
    receiver_open(&s->r, &s->broker, s->model, s->adapter, CAIRN_F32);
    s->context = receiver_tokens(&s->r, s->text);
}

static void scene_close(struct scene *s)
{
    crn_ids_free(&s->context);
    free(s->text);
    receiver_close(&s->r);
    broker_stop(&s->broker);
    paths_tmp_remove();
}

static int take_id(void *ctx, const struct cairn_entry_info *info)
{
    *(struct cairn_entry_id *)ctx = info->entry;
    return 0;
}

static void send_down(struct scene *s)
{
    struct cairn_entry_id id = {0};
    struct cairn_client *tool = tiny_open(&s->broker, 0);
    broker_await(&s->broker, "leases", 0); /* what is leased stays in memory */
    ck_assert_int_eq(cairn_entry_each(tool, SOON, take_id, &id), 0);
    ck_assert_msg(cairn_spill(tool, id, 0, ALL, CAIRN_TIER_NVME, SOON) == 0, "%s", cairn_error(tool));
    cairn_close(tool);
}

/* Runs of every kind: from the embedding, from a state, of one layer, of all. */
static const uint32_t runs[][2] = {{0, 1}, {1, 3}, {4, 4}, {0, 4}};

START_TEST(reuse_over_restored_payloads_is_reuse_over_resident_ones)
{
    const char *const pyramids[] = {"off", "keep=0.5"};
    struct crn_reuse_choice run = choice_run(runs[_i / 2][0], runs[_i / 2][1]);
    struct reading resident, restored, recovered;
    struct scene s;
    scene_open(&s, pyramids[_i % 2]);
    reading_shared(&resident, &s.r, &s.context, &run);
    cairn_release(resident.lease);
    resident.lease = NULL;
    send_down(&s);
    reading_shared(&restored, &s.r, &s.context, &run);
    ck_assert_uint_gt(broker_counter(&s.broker, "restored_total"), 0);
    reading_same_bits(&resident, &restored, "restored");
    reading_end(&restored);
    broker_kill(&s.broker);
    broker_restart(&s.broker);
    ck_assert_uint_eq(broker_counter(&s.broker, "recovered_entries"), 1);
    reading_shared(&recovered, &s.r, &s.context, &run);
    reading_same_bits(&resident, &recovered, "after a restart");
    reading_end(&recovered);
    reading_end(&resident);
    scene_close(&s);
}
END_TEST

/* All of the store but its superblock. */
static void harm_store(void)
{
    int fd = open(paths_tmp_file("store"), O_RDWR | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    for (off_t at = 65536 + 300; at < 4 << 20; at += 65536) {
        uint8_t byte = 0;
        ck_assert_int_ge(pread(fd, &byte, 1, at), 0);
        byte ^= 0x40;
        ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
    }
    ck_assert_int_eq(fsync(fd), 0);
    close(fd);
}

START_TEST(a_layer_that_cannot_be_read_back_costs_time_and_no_answer)
{
    struct scene s;
    scene_open(&s, "off");
    const char *const options[] = {"--model", s.model, "--context", text_file(1, s.text, -1), "--ask", "what", "--max-tokens", "8",
                                   "--kv", "f32", "--no-publish", NULL};
    json_t *before = worker_line(&s.broker, options);
    ck_assert_str_eq(json_text(before, "class"), "exact");
    send_down(&s);
    harm_store();
    json_t *after = worker_line(&s.broker, options);
    ck_assert_str_eq(json_text(after, "answer"), json_text(before, "answer"));
    ck_assert_int_eq(json_number(after, "reused_tokens"), 0);
    ck_assert_uint_gt(broker_counter(&s.broker, "corrupt_total"), 0);
    ck_assert_uint_gt(broker_counter(&s.broker, "restore_failed_total"), 0);
    broker_await(&s.broker, "entries", 0);
    json_decref(before);
    json_decref(after);
    scene_close(&s);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(reuse_over_restored_payloads_is_reuse_over_resident_ones, 2 * sizeof runs / sizeof runs[0]),
        RUN_TEST(a_layer_that_cannot_be_read_back_costs_time_and_no_answer),
    };
    return run_suite("tier_reuse", tests, sizeof tests / sizeof tests[0]);
}
