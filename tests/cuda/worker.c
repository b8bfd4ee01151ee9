/* cairn-worker on a device, end to end: real brokers and workers, once with everything on the device and once on the CPU, must say
 * the same. Prefill, both pyramids, int8, compression, reuse of a sibling's context with every run and with a state map; workers
 * without a broker, without the device, and with a device that is lost. Greedy tokens are compared: logits are by parity and
 * forward tests. Small random models, short contexts: the emulated device is slow. */
#include "tests/support/dev_share.h"
#include "tests/support/gguf_write.h"
#include "tests/support/paths.h"
#include "tests/support/receiver.h"
#include "tests/support/run.h"

#include "ipc/log.h"

#include <stdlib.h>
#include <string.h>

enum { LAYERS = 3, HIDDEN = 64, TEXT = 80 };

static const struct crn_model_shape shape = {.n_layers = LAYERS, .hidden = HIDDEN, .n_heads = 4, .n_kv_heads = 2,
                                             .head_dim = 32, .ffn = 96, .vocab = 97, .context_max = 512,
                                             .rope_theta = 10000, .norm_eps = 1e-5f};

/* The same twice. */
enum { CPU, DEVICE };
static struct broker brokers[2];
static char model[512], adapter[512];

static const char *const on_cpu[] = {"--memory", "32M", "--log-level", "warn", NULL};
static const char *const on_device[][12] = {
    {"--device", "cuda:0", "--mem-kind", "cuda-vmm", "--memory", "32M", "--arena-size", "8M", "--log-level", "warn", NULL},
    {"--device", "cuda:0", "--mem-kind", "cuda-ipc", "--memory", "32M", "--arena-size", "8M", "--log-level", "warn", NULL},
};

static void open_both(int kind)
{
    paths_tmp();
    snprintf(model, sizeof model, "%s", paths_tmp_file("model.gguf"));
    snprintf(adapter, sizeof adapter, "%s", paths_tmp_file("sibling.gguf"));
    ck_assert_int_eq(crn_test_model_write(model, &shape, 3, CRN_QUANT_F32), 0);
    ck_assert_int_eq(crn_test_adapter_write(adapter, &shape, 30, 4, CRN_QUANT_F32), 0);
    broker_start(&brokers[CPU], on_cpu);
    broker_start(&brokers[DEVICE], on_device[kind]);
}

static void close_both(void)
{
    for (int i = 0; i < 2; i++)
        broker_stop(&brokers[i]);
    paths_tmp_remove();
}

/* One worker with further options; b NULL: it finds no broker. */
static json_t *answer(const struct broker *b, int on, const char *text, const char *const *more)
{
    const char *options[40] = {"--model", model, "--context", text_file((unsigned)on, text, -1), "--ask", "who knows?",
                               "--max-tokens", "6", "--kv", "f32", "--device", on == DEVICE ? "cuda:0" : "host"};
    size_t n = 12;
    for (; more != NULL && *more != NULL; more++)
        options[n++] = *more;
    return worker_line(b, options);
}

static json_t *ask(int on, const char *text, const char *const *more)
{
    return answer(&brokers[on], on, text, more);
}

/* Both sides with the same options say the same, about the same amount of reuse. own: free */
static char *agree(const char *text, const char *const *more)
{
    json_t *cpu = ask(CPU, text, more), *device = ask(DEVICE, text, more);
    ck_assert_str_eq(json_text(cpu, "answer"), json_text(device, "answer"));
    ck_assert_str_eq(json_text(cpu, "class"), json_text(device, "class"));
    ck_assert_int_eq(json_number(cpu, "reused_tokens"), json_number(device, "reused_tokens"));
    ck_assert_int_eq(json_number(cpu, "published"), json_number(device, "published"));
    ck_assert_int_eq(json_number(cpu, "kv_shared_bytes"), json_number(device, "kv_shared_bytes"));
    char *said = strdup(json_text(device, "answer"));
    json_decref(cpu);
    json_decref(device);
    return said;
}

/* Every way of storing over cuda-vmm, and one over cuda-ipc. */
START_TEST(what_is_published_and_attached_is_what_the_cpu_has)
{
    static const char *const pyramids[] = {"off", "prefill:d=0.5,rho=0.1,m=8", "keep=0.5", "off", "keep=0.5"};
    static const char *const stores[] = {"f32", "f32", "f16", "i8", "i8"};
    char *text = random_text(TEXT, 5 + (uint64_t)_i);
    const char *const publish[] = {"--pyramid", pyramids[_i], "--store", stores[_i], "--states", "1,2", NULL};
    open_both(_i == 4);
    free(agree(text, publish));
    free(agree(text, publish)); /* attached now */
    json_t *line = ask(DEVICE, text, publish);
    ck_assert_str_eq(json_text(line, "class"), "exact");
    ck_assert_int_eq(json_number(line, "reused_tokens"), json_number(line, "context_tokens"));
    json_decref(line);
    struct program check = program_run("cairn", (const char *const[]){"--socket", brokers[DEVICE].socket, "verify", NULL});
    ck_assert_msg(check.code == 0, "verify: %s%s", check.out, check.err);
    program_free(&check);
    free(text);
    close_both();
}
END_TEST

/* A plan for the sibling whose run starts at layer 1 with a map of random numbers: both sides get the same one. */
static void store_map(int on, const struct cairn_digest *producer, uint32_t rank)
{
    struct cairn_plan_put put = CAIRN_PLAN_PUT_INIT;
    size_t n = rank > 0 ? HIDDEN * (2 * (size_t)rank + 1) : HIDDEN * (HIDDEN + 1);
    float *w = malloc(n * sizeof *w);
    uint64_t seed = 7 + rank, id;
    struct receiver r;
    receiver_open(&r, &brokers[on], model, adapter, CAIRN_F32);
    for (size_t i = 0; i < n; i++)
        w[i] = gguf_random(&seed) * 0.05f;
    put.plan.producer = *producer;
    put.plan.receiver = r.model.weights->digest;
    put.plan.first = 1;
    put.plan.last = 1;
    put.plan.quality = 1;
    put.plan.map_rank = rank;
    put.plan.has_map = 1;
    put.map = (struct cairn_map_view){.w = w, .hidden = HIDDEN, .rank = rank, .bytes = n * sizeof *w};
    ck_assert_int_eq(cairn_plan_store(r.client, &put, SOON, &id), 0);
    receiver_close(&r);
    free(w);
}

START_TEST(a_state_map_is_applied_on_the_device)
{
    const uint32_t rank = _i == 0 ? 0 : 5;
    struct test_model base;
    char *text = random_text(TEXT, 71), *mapped, *plain;
    const char *const publish[] = {"--states", "1", "--store", "f32", NULL};
    const char *const with[] = {"--adapter", adapter, "--no-publish", NULL};
    const char *const without[] = {"--adapter", adapter, "--reuse", "1-1", "--no-publish", NULL};
    open_both(0);
    test_model_open_file(&base, model, NULL, "cpu", CAIRN_F32);
    for (int on = 0; on < 2; on++)
        store_map(on, &base.weights->digest, rank);
    free(agree(text, publish));
    mapped = agree(text, with);
    plain = agree(text, without);
    json_t *line = ask(DEVICE, text, with);
    ck_assert_str_eq(json_text(line, "class"), "approx");
    ck_assert_int_eq(json_number(line, "map"), 1);
    json_decref(line);
    test_model_close(&base);
    free(mapped);
    free(plain);
    free(text);
    close_both();
}
END_TEST

START_TEST(a_sibling_recomputes_its_run_on_the_device)
{
    static const char *const runs[] = {"full", "0-0", "1-2", "0-2"};
    char *text = random_text(TEXT, 21), *own, *said;
    const char *const publish[] = {"--states", "0,1,2", "--store", "f32", NULL};
    open_both(0);
    free(agree(text, publish));
    const char *const never[] = {"--adapter", adapter, "--reuse", "never", "--no-publish", NULL};
    own = agree(text, never);
    for (size_t i = 0; i < 4; i++) {
        const char *const reuse[] = {"--adapter", adapter, "--reuse", runs[i], "--no-publish", NULL};
        said = agree(text, reuse);
        if (i == 3)
            ck_assert_str_eq(said, own);
        free(said);
    }
    free(own);
    free(text);
    close_both();
}
END_TEST

/* Rows of the answer are chosen by scores that come from the device, and closed up there. */
START_TEST(an_answer_is_thinned_on_the_device)
{
    static const char *const rules[] = {"rho=0.05,g=0.5,c=0.5,X=4", "rho=0,X=2,c=0.4"};
    char *text = random_text(TEXT, 35 + (uint64_t)_i), *thinned;
    const char *const thin[] = {"--gen-pyramid", rules[_i], "--max-tokens", "40", "--ask", "and this?", "--batch", "2", NULL};
    const char *const whole[] = {"--max-tokens", "40", "--ask", "and this?", "--batch", "2", NULL};
    open_both(0);
    thinned = agree(text, thin);
    json_t *cpu = ask(CPU, text, thin), *device = ask(DEVICE, text, thin), *all = ask(DEVICE, text, whole);
    ck_assert_int_eq(json_number(device, "tokens"), 40);
    ck_assert_int_eq(json_number(device, "kv_private_bytes"), json_number(cpu, "kv_private_bytes"));
    ck_assert_int_lt(json_number(device, "kv_private_bytes"), json_number(all, "kv_private_bytes"));
    json_decref(all);
    json_decref(device);
    json_decref(cpu);
    free(thinned);
    free(text);
    close_both();
}
END_TEST

/* With all query heads of each KV head, and with one of two. */
START_TEST(compression_reads_and_cuts_on_the_device)
{
    static const char *const how[] = {"keep=0.5", "keep=0.5,heads=1"};
    char *text = random_text(TEXT, 31);
    const char *const compress[] = {"--store", "f32", "--compress", how[_i], NULL};
    open_both(0);
    free(agree(text, compress));
    free(agree(text, NULL));
    json_t *line = ask(DEVICE, text, NULL);
    ck_assert_int_eq(json_number(line, "reused_tokens"), json_number(line, "context_tokens"));
    json_decref(line);
    free(text);
    close_both();
}
END_TEST

START_TEST(a_worker_whose_memory_is_another_works_alone)
{
    char *text = random_text(TEXT, 41);
    open_both(0);
    free(agree(text, NULL));
    for (int i = 0; i < 2; i++) { /* a CPU at the device's broker, and the other way round */
        json_t *right = answer(NULL, CPU, text, (const char *const[]){"--reuse", "never", "--no-publish", NULL});
        json_t *line = answer(&brokers[!i], i, text, NULL);
        ck_assert_str_eq(json_text(line, "answer"), json_text(right, "answer"));
        ck_assert_int_eq(json_number(line, "reused_tokens"), 0);
        ck_assert_str_eq(json_text(line, "reason"), "other_memory");
        json_decref(line);
        json_decref(right);
    }
    free(text);
    close_both();
}
END_TEST

START_TEST(without_a_broker_the_device_answers_by_itself)
{
    char *text = random_text(TEXT, 51);
    open_both(0);
    json_t *right = answer(NULL, CPU, text, NULL), *line = answer(NULL, DEVICE, text, NULL);
    ck_assert_str_eq(json_text(line, "answer"), json_text(right, "answer"));
    json_decref(line);
    json_decref(right);
    free(text);
    close_both();
}
END_TEST

/* Rounded weights say the same here, and what they publish serves a worker with float32 ones: the model is the same. */
START_TEST(weights_in_bf16_answer_and_share)
{
    char *text = random_text(TEXT, 81 + (uint64_t)_i);
    const char *const narrow[] = {"--weights", "bf16", "--store", "f32", "--log-level", "info", NULL};
    const char *const wide[] = {"--weights", "f32", NULL};
    open_both(0);
    json_t *right = answer(NULL, CPU, text, NULL), *published = ask(DEVICE, text, narrow), *attached = ask(DEVICE, text, wide);
    ck_assert_str_eq(json_text(published, "answer"), json_text(right, "answer"));
    ck_assert_str_eq(json_text(attached, "answer"), json_text(right, "answer"));
    ck_assert_int_eq(json_number(published, "published"), 1);
    ck_assert_str_eq(json_text(attached, "class"), "exact");
    json_decref(attached);
    json_decref(published);
    json_decref(right);
    free(text);
    close_both();
}
END_TEST

START_TEST(a_lost_device_ends_this_worker_alone)
{
    static const char *const fails[] = {"cudaMemcpyAsync:30:719", "cudaStreamSynchronize:40:700", "cudaMalloc:20:2"};
    char *text = random_text(TEXT, 61);
    if (getenv("CRN_GPU") != NULL)
        return;
    open_both(0);
    setenv("CRN_CUDA_EMU_FAIL", fails[_i], 1);
    struct program p = program_run("cairn-worker", (const char *const[]){"--socket", brokers[DEVICE].socket, "--model", model,
                                                                         "--context", text_file(0, text, -1), "--ask", "who?",
                                                                         "--device", "cuda:0", NULL});
    unsetenv("CRN_CUDA_EMU_FAIL");
    ck_assert_msg(p.code == 1, "exit code %d: %s%s", p.code, p.out, p.err);
    program_free(&p);
    json_t *cpu = ask(CPU, text, NULL);
    for (int i = 0; i < 2; i++) {
        json_t *device = ask(DEVICE, text, NULL);
        ck_assert_str_eq(json_text(cpu, "answer"), json_text(device, "answer"));
        json_decref(device);
    }
    json_decref(cpu);
    free(text);
    close_both();
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(what_is_published_and_attached_is_what_the_cpu_has, 5),
        RUN_TEST(a_sibling_recomputes_its_run_on_the_device),
        RUN_LOOP(a_state_map_is_applied_on_the_device, 2),
        RUN_LOOP(an_answer_is_thinned_on_the_device, 2),
        RUN_LOOP(compression_reads_and_cuts_on_the_device, 2),
        RUN_TEST(a_worker_whose_memory_is_another_works_alone),
        RUN_TEST(without_a_broker_the_device_answers_by_itself),
        RUN_LOOP(weights_in_bf16_answer_and_share, 2),
        RUN_LOOP(a_lost_device_ends_this_worker_alone, 3),
    };
    crn_log_setup("cuda_worker", CRN_LOG_WARN);
    dev_programs();
    return run_suite("cuda_worker", tests, sizeof tests / sizeof *tests);
}
