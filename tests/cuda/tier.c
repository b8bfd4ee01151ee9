/* The tiers below a device, by real processes: cairnd, cairn, and workers on the device. Payloads go to page-locked host memory and
 * on to NVMe, by order and by watermark, and come back; what cairn says about them; what is refused; and the failure table:
 * kill -9 of the broker, a device and a host that fail while they move. On a real device the injected failures are left out. */
#include "tests/support/child.h"
#include "tests/support/daemon.h"
#include "tests/support/dev.h"
#include "tests/support/dev_share.h"
#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/run.h"

#include "ipc/log.h"
#include "kernels/half.h"
#include "kernels/memory.h"

#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOKENS 40u
#define N_STATES 2u
#define PAYLOADS (TINY_LAYERS + N_STATES) /* that move; each takes a granule of 64 KiB */
#define CONTEXTS 16u
#define MAX_OPTIONS 24

static struct broker broker;
static const char *options[MAX_OPTIONS];
static char nvme[128];

/* cairnd on the device with one of the two kinds and these options; each of those ends with NULL. */
static void start(int kind, const char *const *more, bool with_nvme)
{
    const char *const always[] = {"--device", "cuda:0", "--mem-kind", kind == 0 ? "cuda-vmm" : "cuda-ipc", "--log-level", "error"};
    size_t n = 0;
    for (size_t i = 0; i < sizeof always / sizeof *always; i++)
        options[n++] = always[i];
    for (size_t i = 0; more[i] != NULL; i++)
        options[n++] = more[i];
    snprintf(nvme, sizeof nvme, "%s/store:32M", paths_tmp());
    if (with_nvme) {
        options[n++] = "--nvme";
        options[n++] = nvme;
    }
    options[n] = NULL;
    broker_start(&broker, options);
}

static void stop(void)
{
    broker_stop(&broker);
    paths_tmp_remove();
}

static const char *const roomy[] = {"--memory", "16M", "--arena-size", "4M", NULL};

/* ---- workers ---- */

enum act { PUBLISH, ATTACH, ATTACH_INT8, ATTACH_FAILS };

struct worker {
    enum act act;
    uint32_t context; /* seed of its tokens, and which numbers its rows are */
    uint32_t model;   /* of the session; 0: the context's number */
    uint32_t more;    /* PUBLISH: so many contexts behind that one, too */
    int expect;       /* ATTACH_FAILS */
};

/* 0 when K or V of a head, int8 with f16 rows before it, is about what was published. */
static int check_int8(const struct cairn_layer_view *view, uint32_t head, uint32_t what, uint32_t model, uint32_t layer)
{
    const struct cairn_head_view *h = &view->heads[head], *w = &view->wide[head];
    uint32_t n = h->n + w->n, blocks = (h->n + 63) / 64, n_scales = what == 0 ? blocks * TINY_DIM : h->n;
    int8_t *q = calloc(h->n + 1u, TINY_DIM);
    uint16_t *scale = calloc(n_scales + 1u, sizeof *scale), *wide = calloc((w->n + 1u) * TINY_DIM, sizeof *wide);
    const struct crn_exec *x = dev_exec();
    int bad = n != TOKENS || crn_memory_get(x, q, what == 0 ? h->k : h->v, h->n * TINY_DIM) != 0 ||
              crn_memory_get(x, scale, what == 0 ? h->k_scale : h->v_scale, n_scales * sizeof *scale) != 0 ||
              crn_memory_get(x, wide, what == 0 ? w->k : w->v, w->n * TINY_DIM * sizeof *wide) != 0;
    for (uint32_t i = 0; i < n * TINY_DIM && !bad; i++) {
        uint32_t row = i / TINY_DIM, c = i % TINY_DIM, coded = row - w->n;
        float want = tiny_value(model, what, layer, head, (int32_t)row, c), step = 0.01f, got;
        if (row < w->n) {
            got = crn_f16_to_f32(wide[i]);
        } else {
            step = crn_f16_to_f32(scale[what == 0 ? coded / 64 * TINY_DIM + c : coded]);
            got = (float)q[coded * TINY_DIM + c] * step;
        }
        bad = !(fabsf(got - want) <= step);
    }
    free(q);
    free(scale);
    free(wide);
    return bad;
}

static int check_coded(struct cairn_lease *lease, uint32_t model)
{
    for (uint32_t layer = 0; layer < TINY_LAYERS; layer++) {
        struct cairn_layer_view view;
        if (cairn_wait(lease, 0, layer, CAIRN_WAIT_KV, SOON) != 0 || cairn_lease_layer(lease, 0, layer, &view) != 0)
            return 1;
        if (view.dtype != CAIRN_I8 || view.wide_dtype != CAIRN_F16 || view.wide == NULL)
            return 2;
        for (uint32_t head = 0; head < TINY_HEADS; head++) {
            if (check_int8(&view, head, 0, model, layer) != 0 || check_int8(&view, head, 1, model, layer) != 0)
                return 3;
        }
    }
    return 0;
}

static int publish_some(const struct worker *w, struct cairn_client *client)
{
    int32_t context[TOKENS];
    struct cairn_entry_id id;
    int status = 0;
    for (uint32_t i = 0; i <= w->more && status == 0; i++) {
        tiny_tokens(context, TOKENS, w->context + i);
        struct tiny_entry e = {.model = w->context + i, .context = context, .n_tokens = TOKENS, .n_states = N_STATES};
        status = dev_tiny_publish(client, &e, &id);
    }
    if (status != 0)
        fprintf(stderr, "publish: %s\n", cairn_error(client));
    return status != 0;
}

static int act(const struct worker *w, struct cairn_client *client)
{
    int32_t context[TOKENS];
    struct cairn_query q = CAIRN_QUERY_INIT;
    struct cairn_lease *lease = NULL;
    tiny_tokens(context, TOKENS, w->context);
    if (w->act == PUBLISH)
        return publish_some(w, client);
    q.tokens = context;
    q.n_tokens = TOKENS;
    q.flags = CAIRN_QUERY_INSPECT;
    int status = cairn_attach(client, &q, SOON, &lease);
    if (w->act == ATTACH_FAILS && status != 0)
        return status == w->expect ? 0 : 2;
    if (status != 0)
        return 3;
    if (w->act == ATTACH_FAILS)
        status = cairn_wait(lease, 0, 0, CAIRN_WAIT_KV, SOON) == w->expect ? 0 : 4;
    else if (w->act == ATTACH_INT8)
        status = check_coded(lease, w->context);
    else
        status = dev_tiny_check(lease, w->context, N_STATES);
    cairn_release(lease);
    return status == 0 ? 0 : 10 + status;
}

static int work(void *ctx)
{
    const struct worker *w = ctx;
    struct cairn_client *client = dev_tiny_open(&broker, w->model != 0 ? w->model : w->context);
    if (client == NULL)
        return 1;
    int status = act(w, client);
    cairn_close(client);
    dev_close();
    return status;
}

static void run_worker(struct worker w)
{
    int code = child_end(child_start(work, &w));
    ck_assert_msg(code == 0, "context %u: worker ended with %d", w.context, code);
}

static void publish(uint32_t context)
{
    run_worker((struct worker){.act = PUBLISH, .context = context});
}

/* By one session of model 1. */
static void publish_all(void)
{
    run_worker((struct worker){.act = PUBLISH, .context = 1, .model = 1, .more = CONTEXTS - 1});
}

static void attach(uint32_t context)
{
    run_worker((struct worker){.act = ATTACH, .context = context});
}

/* ---- cairn ---- */

static struct program cairn(const char *const *arguments)
{
    const char *argv[16] = {"--socket", broker.socket};
    size_t n = 2;
    for (size_t i = 0; arguments[i] != NULL; i++)
        argv[n++] = arguments[i];
    argv[n] = NULL;
    return program_run("cairn", argv);
}

/* Runs cairn; it must end with this code, and say `say` (NULL: anything) in one line when it fails. */
static void cairn_ends(int code, const char *say, const char *const *arguments)
{
    struct program p = cairn(arguments);
    ck_assert_msg(p.code == code, "cairn %s: %d: %s%s", arguments[0], p.code, p.out, p.err);
    if (say != NULL) {
        ck_assert_msg(strstr(p.err, say) != NULL, "cairn %s: %s", arguments[0], p.err);
        ck_assert_uint_eq(program_err_lines(&p), 1);
    }
    program_free(&p);
}

struct found {
    struct cairn_digest producer;
    struct cairn_entry_id id;
};

static int find(void *ctx, const struct cairn_entry_info *info)
{
    struct found *f = ctx;
    if (memcmp(&info->producer, &f->producer, sizeof f->producer) == 0)
        f->id = info->entry;
    return 0;
}

/* The id of a context's entry, as cairn wants it. */
static const char *id_of(uint32_t context)
{
    static char text[20];
    struct found f = {.producer = tiny_model(context)};
    struct cairn_client *client = tiny_open(&broker, 0);
    ck_assert_int_eq(cairn_entry_each(client, SOON, find, &f), 0);
    cairn_close(client);
    ck_assert_uint_ne(f.id.v, 0);
    snprintf(text, sizeof text, "%llx", (unsigned long long)f.id.v);
    return text;
}

static void spill(uint32_t context, const char *to)
{
    cairn_ends(0, NULL, (const char *const[]){"spill", id_of(context), "--to", to, NULL});
}

/* What ls and show say about the tier of an entry and of each of its payloads. */
static void says_tier(uint32_t context, const char *tier)
{
    const char *id = id_of(context);
    size_t i;
    json_t *p;
    struct program shown = cairn((const char *const[]){"--json", "show", id, NULL});
    ck_assert_int_eq(shown.code, 0);
    json_t *root = json_loads(shown.out, 0, NULL);
    ck_assert_str_eq(json_string_value(json_object_get(root, "tier")), tier);
    ck_assert_uint_eq(json_array_size(json_object_get(root, "payloads")), PAYLOADS);
    json_array_foreach(json_object_get(root, "payloads"), i, p)
        ck_assert_str_eq(json_string_value(json_object_get(p, "tier")), tier);
    json_decref(root);
    program_free(&shown);
    char line[128] = "";
    struct program listed = cairn((const char *const[]){"ls", NULL});
    const char *at = strstr(listed.out, id);
    ck_assert_ptr_nonnull(at);
    snprintf(line, sizeof line, "%.*s", (int)strcspn(at, "\n"), at);
    char word[16];
    snprintf(word, sizeof word, " %s ", tier);
    ck_assert_msg(strstr(line, word) != NULL, "ls: %s", line);
    program_free(&listed);
}

static uint64_t count(const char *name)
{
    return broker_counter(&broker, name);
}

static int emulated(void)
{
    return getenv("CRN_GPU") == NULL;
}

/* ---- the tests ---- */

START_TEST(cairn_names_the_tier_of_device_entries)
{
    start(_i, roomy, true);
    publish(1);
    says_tier(1, "device");
    struct program p = cairn((const char *const[]){"status", NULL});
    ck_assert_ptr_nonnull(strstr(p.out, "host tier 0 "));
    ck_assert_ptr_nonnull(strstr(p.out, _i == 0 ? "payload memory: cuda-vmm" : "payload memory: cuda-ipc"));
    program_free(&p);
    spill(1, "host");
    says_tier(1, "host");
    spill(1, "nvme");
    says_tier(1, "nvme");
    cairn_ends(0, NULL, (const char *const[]){"restore", id_of(1), NULL});
    says_tier(1, "device");
    attach(1);
    stop();
}
END_TEST

START_TEST(the_host_tier_takes_payloads_and_gives_them_back_without_nvme)
{
    start(_i, roomy, false);
    publish(1);
    uint64_t used = count("used_bytes");
    spill(1, "host");
    ck_assert_uint_eq(count("host_spilled_total"), PAYLOADS);
    ck_assert_uint_eq(count("host_tier_used_bytes"), PAYLOADS * 65536u);
    ck_assert_uint_eq(count("used_bytes"), used - PAYLOADS * 65536u);
    cairn_ends(0, NULL, (const char *const[]){"verify", NULL});
    attach(1);
    ck_assert_uint_eq(count("host_restored_total"), PAYLOADS);
    ck_assert_uint_eq(count("host_tier_used_bytes"), 0);
    ck_assert_uint_eq(count("used_bytes"), used);
    ck_assert_uint_eq(count("restored_total") + count("spilled_total"), 0);
    attach(1);
    stop();
}
END_TEST

/* 16 granules: the third entry has no room. */
START_TEST(a_full_host_tier_sends_its_coldest_to_nvme)
{
    static const char *const small[] = {"--memory", "16M", "--arena-size", "4M", "--host-tier", "1M", NULL};
    start(_i, small, true);
    for (uint32_t c = 1; c <= 3; c++) {
        publish(c);
        spill(c, "host");
    }
    says_tier(3, "host");
    ck_assert_uint_gt(count("spilled_total"), 0);
    ck_assert_uint_le(count("host_tier_used_bytes"), 1u << 20);
    publish(4);
    cairn_ends(0, NULL, (const char *const[]){"spill", id_of(4), "--layers", "0-1", "--to", "host", NULL});
    for (uint32_t c = 1; c <= 4; c++)
        attach(c);
    ck_assert_uint_gt(count("restored_total"), 0);
    ck_assert_uint_gt(count("host_restored_total"), 0);
    cairn_ends(0, NULL, (const char *const[]){"verify", NULL});
    stop();
}
END_TEST

/* 4 MiB of device memory and 1 MiB below it; 16 contexts of 384 KiB. */
START_TEST(watermarks_lead_from_the_device_through_the_host_to_nvme)
{
    static const char *const tight[] = {"--memory", "4M", "--arena-size", "4M", "--host-tier", "1M", "--high", "60", "--low", "30",
                                        NULL};
    start(_i, tight, true);
    publish_all();
    for (uint32_t i = 0; i < 500 && count("spilled_total") == 0; i++)
        poll(NULL, 0, 20);
    ck_assert_uint_gt(count("host_spilled_total"), 0);
    ck_assert_uint_gt(count("spilled_total"), 0);
    ck_assert_uint_eq(count("evicted_total"), 0);
    for (uint32_t c = 1; c <= CONTEXTS; c++)
        run_worker((struct worker){.act = ATTACH, .context = c, .model = 1});
    ck_assert_uint_gt(count("restored_total"), 0);
    ck_assert_uint_eq(count("restore_failed_total"), 0);
    ck_assert_uint_eq(count("corrupt_total") + count("io_error_total"), 0);
    ck_assert_uint_eq(count("entries"), CONTEXTS);
    cairn_ends(0, NULL, (const char *const[]){"verify", NULL});
    stop();
}
END_TEST

/* Without NVMe the coldest are dropped when both are full: a miss, and nothing wrong. */
START_TEST(without_nvme_the_coldest_is_dropped_last)
{
    static const char *const tight[] = {"--memory", "4M", "--arena-size", "4M", "--host-tier", "1M", NULL};
    start(_i, tight, false);
    publish_all();
    ck_assert_uint_gt(count("host_spilled_total"), 0);
    ck_assert_uint_gt(count("evicted_total"), 0);
    ck_assert_uint_ge(count("entries"), 8);
    run_worker((struct worker){.act = ATTACH, .context = CONTEXTS, .model = 1});
    run_worker((struct worker){.act = ATTACH_FAILS, .context = 1, .model = 1, .expect = CAIRN_E_MISS});
    stop();
}
END_TEST

/* 0, 1: straight from the device; 2, 3: by way of the host tier; 4, 5: as the namespace's setting says. */
START_TEST(int8_is_coded_on_the_way_to_nvme)
{
    static const char *const coded[] = {"--memory", "16M", "--arena-size", "4M", "--spill-int8", NULL};
    start(_i % 2, _i >= 4 ? coded : roomy, true);
    publish(1);
    uint64_t plain = count("payload_bytes");
    if (_i == 2 || _i == 3)
        spill(1, "host");
    if (_i >= 4)
        spill(1, "nvme");
    else
        cairn_ends(0, NULL, (const char *const[]){"spill", id_of(1), "--int8", NULL});
    says_tier(1, "nvme");
    run_worker((struct worker){.act = ATTACH_INT8, .context = 1});
    ck_assert_uint_lt(count("payload_bytes"), plain);
    cairn_ends(0, NULL, (const char *const[]){"verify", NULL});
    broker_kill(&broker);
    broker_restart(&broker);
    run_worker((struct worker){.act = ATTACH_INT8, .context = 1});
    stop();
}
END_TEST

START_TEST(what_is_only_in_the_host_tier_dies_with_the_broker)
{
    start(_i, roomy, true);
    publish(1);
    publish(2);
    spill(1, "host");
    spill(2, "host");
    spill(2, "nvme");
    broker_kill(&broker);
    broker_restart(&broker);
    ck_assert_uint_eq(count("recovered_entries"), 1);
    ck_assert_uint_eq(count("entries"), 1);
    run_worker((struct worker){.act = ATTACH_FAILS, .context = 1, .expect = CAIRN_E_MISS});
    attach(2);
    publish(1);
    attach(1);
    stop();
}
END_TEST

START_TEST(a_copy_with_write_through_survives_from_the_host_tier)
{
    static const char *const through[] = {"--memory", "16M", "--arena-size", "4M", "--write-through", NULL};
    start(_i, through, true);
    publish(1);
    spill(1, "nvme"); /* returns when it is durable */
    cairn_ends(0, NULL, (const char *const[]){"restore", id_of(1), NULL});
    uint64_t written = count("spilled_total");
    spill(1, "host");
    says_tier(1, "host");
    spill(1, "nvme"); /* clean: nothing to write */
    ck_assert_uint_eq(count("spilled_total"), written);
    ck_assert_uint_eq(count("host_tier_used_bytes"), 0);
    broker_kill(&broker);
    broker_restart(&broker);
    attach(1);
    stop();
}
END_TEST

/* A stream that cannot be made ends one order; the payload stays where it was, and the next order works. */
START_TEST(a_move_that_fails_leaves_the_payload_where_it_was)
{
    if (!emulated())
        return;
    setenv("CRN_CUDA_EMU_FAIL", "cudaStreamCreateWithFlags:3:2", 1); /* 1: gathers, 2: fills and landing zones */
    start(_i, roomy, false);
    unsetenv("CRN_CUDA_EMU_FAIL");
    publish(1);
    struct program p = cairn((const char *const[]){"spill", id_of(1), "--to", "host", NULL});
    ck_assert_msg(p.code != 0 && program_err_lines(&p) == 1, "%d: %s", p.code, p.err);
    program_free(&p);
    ck_assert_uint_eq(count("io_error_total"), 1);
    attach(1);
    spill(1, "host");
    says_tier(1, "host");
    attach(1);
    stop();
}
END_TEST

/* Memory that cannot be page-locked is used all the same. */
START_TEST(memory_that_is_not_page_locked_works)
{
    if (!emulated())
        return;
    setenv("CRN_CUDA_EMU_FAIL", "cudaHostRegister:1:2", 1);
    start(_i, roomy, false);
    unsetenv("CRN_CUDA_EMU_FAIL");
    publish(1);
    spill(1, "host");
    attach(1);
    stop();
}
END_TEST

static void refused(const char *const *more, bool with_nvme, const char *tier, const char *say)
{
    start(0, more, with_nvme);
    publish(1);
    cairn_ends(1, say, (const char *const[]){"spill", id_of(1), "--to", tier, NULL});
    says_tier(1, "device");
    stop();
}

START_TEST(what_is_not_there_is_refused_in_one_line)
{
    static const char *const none[] = {"--memory", "16M", "--arena-size", "4M", "--host-tier", "0", NULL};
    static const char *const little[] = {"--device", "cuda:0", "--host-tier", "5K", NULL};
    char said[1024];
    refused(none, true, "host", "no host tier; start it with --host-tier");
    refused(roomy, false, "nvme", "no NVMe; start it with --nvme");
    start(0, roomy, true);
    publish(1);
    cairn_ends(1, "int8 is coded on the way to nvme only",
               (const char *const[]){"spill", id_of(1), "--to", "host", "--int8", NULL});
    cairn_ends(2, "--tier needs host or nvme", (const char *const[]){"spill", id_of(1), "--to", "device", NULL});
    stop();
    ck_assert_int_eq(daemon_run(little, said, sizeof said), 2);
    ck_assert_ptr_nonnull(strstr(said, "host-tier 5120 is below 1 MiB; 0: none"));
}
END_TEST

START_TEST(payloads_in_host_memory_have_no_host_tier)
{
    static const char *const host[] = {"--memory", "16M", "--host-tier", "1M", "--log-level", "error", NULL};
    int32_t context[TOKENS];
    struct cairn_entry_id id;
    char text[20];
    broker_start(&broker, host);
    tiny_tokens(context, TOKENS, 1);
    struct cairn_client *client = tiny_open(&broker, 1);
    ck_assert_int_eq(tiny_publish(client, &(struct tiny_entry){.model = 1, .context = context, .n_tokens = TOKENS}, &id), 0);
    cairn_close(client);
    snprintf(text, sizeof text, "%llx", (unsigned long long)id.v);
    cairn_ends(1, "payloads are in host memory already", (const char *const[]){"spill", text, "--to", "host", NULL});
    ck_assert_uint_eq(count("host_tier_limit_bytes"), 0);
    broker_stop(&broker);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(cairn_names_the_tier_of_device_entries, 2),
        RUN_LOOP(the_host_tier_takes_payloads_and_gives_them_back_without_nvme, 2),
        RUN_LOOP(a_full_host_tier_sends_its_coldest_to_nvme, 2),
        RUN_LOOP(watermarks_lead_from_the_device_through_the_host_to_nvme, 2),
        RUN_LOOP(without_nvme_the_coldest_is_dropped_last, 2),
        RUN_LOOP(int8_is_coded_on_the_way_to_nvme, 6),
        RUN_LOOP(what_is_only_in_the_host_tier_dies_with_the_broker, 2),
        RUN_LOOP(a_copy_with_write_through_survives_from_the_host_tier, 2),
        RUN_LOOP(a_move_that_fails_leaves_the_payload_where_it_was, 2),
        RUN_LOOP(memory_that_is_not_page_locked_works, 2),
        RUN_TEST(what_is_not_there_is_refused_in_one_line),
        RUN_TEST(payloads_in_host_memory_have_no_host_tier),
    };
    crn_log_setup("cuda_tier", CRN_LOG_ERROR);
    dev_programs();
    return run_suite("cuda_tier", tests, sizeof tests / sizeof *tests);
}
