/* Payloads that go down to NVMe and come back, through a real broker: to the last bit, after kill -9 too, and never wrong ones. */
#include "client/cairn.h"
#include "tests/support/broker.h"
#include "tests/support/child.h"
#include "tests/support/paths.h"
#include "tests/support/run.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define N 200u
#define ALL 255u /* layers */

static const char *const engines[] = {"uring", "threads"};

/* A broker with a store of its own. */
struct fixture {
    struct broker b;
    char nvme[600];
    const char *options[20];
};

static void start(struct fixture *f, const char *size, const char *const *more)
{
    size_t n = 0;
    if (access(paths_tmp_file("said"), F_OK) != 0) /* else it is there, with a log in it */
        paths_tmp();
    snprintf(f->nvme, sizeof f->nvme, "%s:%s", paths_tmp_file("store"), size);
    f->options[n++] = "--nvme";
    f->options[n++] = f->nvme;
    f->options[n++] = "--log-level";
    f->options[n++] = "error";
    for (size_t i = 0; more != NULL && more[i] != NULL; i++)
        f->options[n++] = more[i];
    f->options[n] = NULL;
    broker_start(&f->b, f->options);
}

static void stop(struct fixture *f)
{
    broker_stop(&f->b);
    paths_tmp_remove();
}

static struct cairn_entry_id publish(struct fixture *f, uint32_t model, uint32_t seed, uint32_t n_states)
{
    int32_t context[N];
    struct cairn_entry_id id = {0};
    struct cairn_client *client = tiny_open(&f->b, model);
    tiny_tokens(context, N, seed);
    struct tiny_entry e = {.model = model, .context = context, .n_tokens = N, .n_states = n_states};
    ck_assert_msg(tiny_publish(client, &e, &id) == 0, "%s", cairn_error(client));
    cairn_close(client);
    return id;
}

/* Attaches and compares every byte; the code of attach or of the first wait. */
static int read_back(struct fixture *f, uint32_t model, uint32_t seed)
{
    int32_t context[N];
    struct cairn_lease *lease;
    struct cairn_client *client = tiny_open(&f->b, model);
    tiny_tokens(context, N, seed);
    int status = tiny_attach(client, context, N, &lease);
    for (uint32_t l = 0; l < TINY_LAYERS && status == 0; l++)
        status = cairn_wait(lease, 0, l, CAIRN_WAIT_KV, SOON);
    if (status == 0) {
        ck_assert_uint_eq(cairn_lease_info(lease)->n_tokens, N);
        tiny_check_part(lease, 0, model);
        ck_assert_int_eq(cairn_lease_check(lease), 0);
    }
    cairn_close(client);
    return status;
}

static void spill(struct fixture *f, struct cairn_entry_id id, uint32_t first, uint32_t last)
{
    struct cairn_client *tool = tiny_open(&f->b, 0);
    ck_assert_msg(cairn_spill(tool, id, first, last, CAIRN_TIER_NVME, SOON) == 0, "%s", cairn_error(tool));
    cairn_close(tool);
}

struct seen {
    struct cairn_entry_info last;
    uint32_t n;
};

static int see(void *ctx, const struct cairn_entry_info *info)
{
    struct seen *s = ctx;
    s->last = *info;
    s->n++;
    return 0;
}

static struct seen entries(struct fixture *f)
{
    struct seen s = {.n = 0};
    struct cairn_client *tool = tiny_open(&f->b, 0);
    ck_assert_int_eq(cairn_entry_each(tool, SOON, see, &s), 0);
    cairn_close(tool);
    return s;
}

/* ---- down and up ---- */

START_TEST(a_spilled_entry_comes_back_to_the_last_bit)
{
    struct fixture f;
    const char *const more[] = {"--io-engine", engines[_i], NULL};
    start(&f, "16M", more);
    struct cairn_entry_id id = publish(&f, 1, 1, 1);
    spill(&f, id, 0, ALL);
    struct seen s = entries(&f);
    ck_assert_uint_eq(s.n, 1);
    ck_assert_uint_eq(s.last.tier, CAIRN_TIER_NVME);
    ck_assert_uint_lt(s.last.resident_bytes, s.last.bytes / 4);
    ck_assert_uint_eq(broker_counter(&f.b, "spilled_total"), TINY_LAYERS + 1);
    ck_assert_uint_gt(broker_counter(&f.b, "nvme_used_bytes"), 0);
    ck_assert_int_eq(read_back(&f, 1, 1), 0);
    ck_assert_uint_eq(broker_counter(&f.b, "restored_total"), TINY_LAYERS);
    ck_assert_uint_eq(broker_counter(&f.b, "hits_nvme_total"), TINY_LAYERS);
    struct cairn_client *tool = tiny_open(&f.b, 0);
    ck_assert_int_eq(cairn_restore(tool, id, SOON), 0);
    ck_assert_uint_eq(broker_counter(&f.b, "restored_total"), TINY_LAYERS + 1);
    s = entries(&f);
    ck_assert_uint_eq(s.last.tier, CAIRN_TIER_HOST);
    ck_assert_uint_eq(s.last.resident_bytes, s.last.bytes);
    cairn_close(tool);
    stop(&f);
}
END_TEST

static int is_int8(void *ctx, const struct cairn_payload_info *p)
{
    uint32_t *n = ctx;
    *n += p->kind == 1 && p->dtype == CAIRN_I8;
    return 0;
}

/* 0: asked for by the tool, 1: by the entry's publisher, 2: by the broker's option. */
START_TEST(what_went_down_as_int8_is_read_as_int8)
{
    struct fixture f;
    int32_t context[N];
    struct cairn_entry_id id;
    struct cairn_entry_info info;
    struct cairn_lease *lease;
    struct cairn_layer_view view;
    const char *const more[] = {_i == 2 ? "--spill-int8" : NULL, NULL};
    start(&f, "16M", more);
    struct cairn_client *client = tiny_open(&f.b, 1), *tool = tiny_open(&f.b, 0);
    tiny_tokens(context, N, 21);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N, .flags = _i == 1 ? CAIRN_DRAFT_SPILL_INT8 : 0};
    ck_assert_int_eq(tiny_publish(client, &e, &id), 0);
    uint64_t bytes = entries(&f).last.bytes;
    ck_assert_int_eq(cairn_spill(tool, id, 0, ALL, CAIRN_TIER_NVME | (_i == 0 ? CAIRN_SPILL_INT8 : 0), SOON), 0);
    cairn_close(tool);
    cairn_close(client);
    for (int round = 0; round < 2; round++) {
        uint32_t n = 0;
        tool = tiny_open(&f.b, 0);
        client = tiny_open(&f.b, 1);
        id = entries(&f).last.entry;
        ck_assert_uint_lt(entries(&f).last.bytes, bytes / 2);
        ck_assert_int_eq(tiny_attach(client, context, N, &lease), 0);
        ck_assert_int_eq(cairn_wait(lease, 0, 1, CAIRN_WAIT_KV, SOON), 0);
        ck_assert_int_eq(cairn_lease_layer(lease, 0, 1, &view), 0);
        ck_assert_uint_eq(view.dtype, CAIRN_I8);
        ck_assert_uint_eq(view.wide_dtype, CAIRN_F16);
        ck_assert_uint_eq(view.heads[0].n + view.wide[0].n, N);
        ck_assert_int_eq(cairn_show(tool, id, SOON, &info, is_int8, &n), 0);
        ck_assert_uint_eq(n, TINY_LAYERS);
        cairn_release(lease);
        cairn_close(client);
        cairn_close(tool);
        broker_kill(&f.b);
        broker_restart(&f.b);
    }
    stop(&f);
}
END_TEST

START_TEST(layers_go_down_one_by_one)
{
    struct fixture f;
    start(&f, "16M", NULL);
    struct cairn_entry_id id = publish(&f, 1, 2, 0);
    spill(&f, id, 2, 3);
    ck_assert_uint_eq(broker_counter(&f.b, "spilled_total"), 2);
    ck_assert_int_eq(read_back(&f, 1, 2), 0);
    ck_assert_uint_eq(broker_counter(&f.b, "restored_total"), 2);
    ck_assert_uint_eq(broker_counter(&f.b, "hits_nvme_total"), 2);
    stop(&f);
}
END_TEST

struct reader {
    struct fixture *f;
    uint32_t seed;
};

static int reader_main(void *ctx)
{
    struct reader *r = ctx;
    return read_back(r->f, 1, r->seed) == 0 ? 0 : 1;
}

START_TEST(readers_at_the_same_time_share_one_restore)
{
    enum { READERS = 6 };
    struct fixture f;
    pid_t pids[READERS];
    start(&f, "16M", NULL);
    spill(&f, publish(&f, 1, 3, 0), 0, ALL);
    struct reader r = {&f, 3};
    for (int i = 0; i < READERS; i++)
        pids[i] = child_start(reader_main, &r);
    for (int i = 0; i < READERS; i++)
        ck_assert_int_eq(child_end(pids[i]), 0);
    ck_assert_uint_eq(broker_counter(&f.b, "restored_total"), TINY_LAYERS);
    stop(&f);
}
END_TEST

/* 16 granules of memory hold three entries; thirty are published. */
START_TEST(more_than_memory_holds_stays_readable)
{
    enum { ENTRIES = 30 };
    struct fixture f;
    const char *const more[] = {"--memory", "1M", "--io-engine", engines[_i], NULL};
    start(&f, "32M", more);
    for (uint32_t i = 0; i < ENTRIES; i++)
        publish(&f, 1, 100 + i, 0);
    for (uint32_t i = 0; i < ENTRIES; i++)
        ck_assert_msg(read_back(&f, 1, 100 + i) == 0, "entry %u", i);
    ck_assert_uint_eq(broker_counter(&f.b, "entries"), ENTRIES);
    ck_assert_uint_eq(broker_counter(&f.b, "evicted_total"), 0);
    ck_assert_uint_eq(broker_counter(&f.b, "corrupt_total"), 0);
    ck_assert_uint_gt(broker_counter(&f.b, "restored_total"), 0);
    stop(&f);
}
END_TEST

START_TEST(a_full_store_drops_the_coldest_and_nothing_is_wrong)
{
    enum { ENTRIES = 30 };
    struct fixture f;
    uint32_t readable = 0;
    const char *const more[] = {"--memory", "1M", NULL};
    start(&f, "2M", more);
    for (uint32_t i = 0; i < ENTRIES; i++)
        publish(&f, 1, 200 + i, 0);
    for (uint32_t i = 0; i < ENTRIES; i++) {
        int status = read_back(&f, 1, 200 + i);
        ck_assert_msg(status == 0 || status == CAIRN_E_MISS, "entry %u: %s", i, cairn_strerror(status));
        readable += status == 0;
    }
    ck_assert_uint_ge(readable, 3);
    ck_assert_uint_gt(broker_counter(&f.b, "evicted_total"), 0);
    ck_assert_uint_eq(broker_counter(&f.b, "corrupt_total"), 0);
    stop(&f);
}
END_TEST

/* One entry is read again and again; many are published once. The hot one is never read from NVMe. */
START_TEST(one_pass_over_cold_contexts_leaves_the_hot_one_in_memory)
{
    struct fixture f;
    const char *const more[] = {"--memory", "2M", NULL};
    start(&f, "32M", more);
    publish(&f, 1, 300, 0);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(read_back(&f, 1, 300), 0);
    for (uint32_t i = 1; i <= 30; i++) {
        publish(&f, 1, 300 + i, 0);
        if (i % 5 == 0)
            ck_assert_int_eq(read_back(&f, 1, 300), 0);
    }
    ck_assert_uint_gt(broker_counter(&f.b, "spilled_total"), 20 * TINY_LAYERS);
    ck_assert_uint_eq(broker_counter(&f.b, "restored_total"), 0);
    stop(&f);
}
END_TEST

/* ---- restarts ---- */

START_TEST(spilled_entries_survive_kill_9)
{
    struct fixture f;
    start(&f, "16M", NULL);
    for (uint32_t i = 0; i < 5; i++)
        spill(&f, publish(&f, 1 + i % 2, 400 + i, i % 3), 0, ALL);
    publish(&f, 1, 500, 0); /* only in memory: gone afterwards */
    uint64_t used = broker_counter(&f.b, "nvme_used_bytes");
    for (int round = 0; round < 3; round++) {
        broker_kill(&f.b);
        broker_restart(&f.b);
        ck_assert_uint_eq(broker_counter(&f.b, "recovered_entries"), 5);
        ck_assert_uint_eq(broker_counter(&f.b, "dropped_entries"), 0);
        ck_assert_uint_eq(broker_counter(&f.b, "nvme_used_bytes"), used);
        ck_assert_uint_eq(broker_counter(&f.b, "leases"), 0);
        for (uint32_t i = 0; i < 5; i++)
            ck_assert_int_eq(read_back(&f, 1 + i % 2, 400 + i), 0);
        ck_assert_int_eq(read_back(&f, 1, 500), CAIRN_E_MISS);
    }
    stop(&f);
}
END_TEST

START_TEST(write_through_keeps_everything)
{
    struct fixture f;
    const char *const more[] = {"--write-through", NULL};
    start(&f, "16M", more);
    struct cairn_entry_id id = {0};
    for (uint32_t i = 0; i < 4; i++)
        id = publish(&f, 1, 600 + i, 1);
    broker_await(&f.b, "spilled_total", 4 * (TINY_LAYERS + 1));
    spill(&f, id, 0, ALL); /* returns when the last one is durable, and those before it are then, too */
    broker_kill(&f.b);
    broker_restart(&f.b);
    for (uint32_t i = 0; i < 4; i++)
        ck_assert_int_eq(read_back(&f, 1, 600 + i), 0);
    stop(&f);
}
END_TEST

START_TEST(children_come_back_with_their_parents)
{
    struct fixture f;
    int32_t context[N];
    struct cairn_entry_id root, leaf;
    struct cairn_lease *lease;
    start(&f, "16M", NULL);
    tiny_tokens(context, N, 7);
    struct cairn_client *client = tiny_open(&f.b, 1);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = 100};
    ck_assert_int_eq(tiny_publish(client, &e, &root), 0);
    e.start = e.n_tokens = 100;
    e.parent = root;
    ck_assert_int_eq(tiny_publish(client, &e, &leaf), 0);
    cairn_close(client);
    spill(&f, leaf, 0, ALL); /* its parent is written, too */
    ck_assert_uint_ne(root.v, leaf.v);
    broker_kill(&f.b);
    broker_restart(&f.b);
    ck_assert_uint_eq(broker_counter(&f.b, "recovered_entries"), 2);
    client = tiny_open(&f.b, 1);
    ck_assert_msg(tiny_attach(client, context, N, &lease) == 0, "%s", cairn_error(client));
    ck_assert_uint_eq(cairn_lease_info(lease)->n_parts, 2);
    ck_assert_uint_eq(cairn_lease_info(lease)->n_tokens, N);
    tiny_check_part(lease, 0, 1);
    tiny_check_part(lease, 1, 1);
    cairn_release(lease);
    /* and one that continues what came back */
    int32_t longer[N + 50];
    memcpy(longer, context, sizeof context);
    tiny_tokens(longer + N, 50, 8);
    struct cairn_query q = CAIRN_QUERY_INIT;
    struct cairn_match m;
    q.tokens = longer;
    q.n_tokens = N + 50;
    ck_assert_int_eq(cairn_match(client, &q, SOON, &m), 0);
    ck_assert_uint_eq(m.n_tokens, N);
    cairn_close(client);
    stop(&f);
}
END_TEST

START_TEST(plans_survive_with_their_maps)
{
    struct fixture f;
    static float map[TINY_HIDDEN * (TINY_HIDDEN + 1)];
    int32_t context[N];
    struct cairn_plan_put put = CAIRN_PLAN_PUT_INIT;
    struct cairn_lease *lease;
    struct cairn_map_view view;
    uint64_t plan;
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++)
        map[i] = (float)i * 0.25f;
    put.plan.producer = tiny_model(1);
    put.plan.receiver = tiny_model(2);
    put.plan.first = 1;
    put.plan.last = 2;
    put.plan.quality = 0.9f;
    put.map = (struct cairn_map_view){map, TINY_HIDDEN, 0, sizeof map};
    put.info = "{\"measured\": true}";
    start(&f, "16M", NULL);
    struct cairn_client *client = tiny_open(&f.b, 2);
    ck_assert_msg(cairn_plan_store(client, &put, SOON, &plan) == 0, "%s", cairn_error(client));
    cairn_close(client);
    spill(&f, publish(&f, 1, 9, 2), 0, ALL); /* commits come in order: the plan is durable, too */
    broker_kill(&f.b);
    broker_restart(&f.b);
    ck_assert_uint_eq(broker_counter(&f.b, "plans"), 1);
    tiny_tokens(context, N, 9);
    client = tiny_open(&f.b, 2);
    ck_assert_msg(tiny_attach(client, context, N, &lease) == 0, "%s", cairn_error(client));
    ck_assert_uint_eq(cairn_lease_info(lease)->class_, CAIRN_CLASS_APPROX);
    ck_assert_int_eq(cairn_wait(lease, 0, 1, CAIRN_WAIT_STATE, SOON), 0);
    tiny_check_part(lease, 0, 1);
    ck_assert_int_eq(cairn_lease_map(lease, &view), 0);
    ck_assert_mem_eq(view.w, map, sizeof map);
    cairn_release(lease);
    cairn_close(client);
    stop(&f);
}
END_TEST

/* ---- damage ---- */

static void flip_file(const char *path, off_t from, off_t to, off_t step)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    for (off_t at = from; at < to; at += step) {
        uint8_t byte = 0;
        ck_assert_int_ge(pread(fd, &byte, 1, at), 0);
        byte ^= 0x40;
        ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
    }
    fsync(fd);
    close(fd);
}

static void flip_bytes(off_t from, off_t to, off_t step)
{
    flip_file(paths_tmp_file("store"), from, to, step);
}

/* Where a text is in a file; it must be there. */
static off_t find_in(const char *path, const char *text)
{
    static char bytes[1 << 20];
    size_t n_text = strlen(text);
    FILE *f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    for (size_t i = n; i-- > n_text;) {
        if (memcmp(bytes + i - n_text, text, n_text) == 0)
            return (off_t)(i - n_text);
    }
    ck_abort_msg("%s is not in %s", text, path);
}

START_TEST(corrupt_extents_are_a_miss_and_then_forgotten)
{
    struct fixture f;
    uint64_t payloads, bytes, bad;
    start(&f, "4M", NULL);
    spill(&f, publish(&f, 1, 10, 0), 0, ALL);
    flip_bytes(65536 + 100, 4 << 20, 65536);
    ck_assert_int_eq(read_back(&f, 1, 10), CAIRN_E_MISS);
    ck_assert_uint_gt(broker_counter(&f.b, "corrupt_total"), 0);
    ck_assert_uint_gt(broker_counter(&f.b, "restore_failed_total"), 0);
    broker_await(&f.b, "entries", 0);
    ck_assert_int_eq(read_back(&f, 1, 10), CAIRN_E_MISS);
    spill(&f, publish(&f, 1, 10, 0), 0, ALL);
    ck_assert_int_eq(read_back(&f, 1, 10), 0);
    spill(&f, publish(&f, 1, 11, 0), 0, ALL);
    flip_bytes(65536 + 100, 4 << 20, 65536);
    struct cairn_client *tool = tiny_open(&f.b, 0);
    ck_assert_int_eq(cairn_verify(tool, (struct cairn_entry_id){0}, SOON, &payloads, &bytes, &bad), 0);
    ck_assert_uint_ge(bad, TINY_LAYERS);
    ck_assert_uint_gt(payloads, bad);
    cairn_close(tool);
    broker_await(&f.b, "entries", 0);
    stop(&f);
}
END_TEST

/* What brokers say from here on. */
static const char *said_path(void)
{
    return paths_tmp_file("said");
}

static void listen_to_log(void)
{
    paths_tmp();
    int fd = open(said_path(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(dup2(fd, STDERR_FILENO), STDERR_FILENO);
    close(fd);
}

/* Lines of warnings or worse that name the thing. */
static int warnings_about(const char *what)
{
    char line[1024];
    int n = 0;
    FILE *f = fopen(said_path(), "r");
    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof line, f) != NULL)
        n += (strstr(line, "] warn: ") != NULL || strstr(line, "] error: ") != NULL) && strstr(line, what) != NULL;
    fclose(f);
    return n;
}

/* Between two lives of the broker somebody harms its files: 0 superblock, 1 cut store, 2 no store, 3 cut catalogue, 4 a catalogue of
 * rubbish, 5 no catalogue, 6 a flipped bit in every page of the catalogue, 7 in the record of the entry alone. */
START_TEST(harmed_files_are_found_at_start)
{
    static const char *const said[] = {"superblock", "truncated", NULL, "set aside", "set aside", NULL, "set aside", "does not check"};
    struct fixture f;
    char catalog[600];
    const char *const more[] = {"--log-level", "warn", NULL};
    listen_to_log();
    start(&f, "4M", more);
    spill(&f, publish(&f, 1, 12, 0), 0, ALL);
    broker_kill(&f.b);
    snprintf(catalog, sizeof catalog, "%s", paths_tmp_file("store.catalog"));
    struct stat st;
    ck_assert_int_eq(stat(catalog, &st), 0);
    switch (_i) {
    case 0: flip_bytes(40, 41, 1); break;
    case 1: ck_assert_int_eq(truncate(paths_tmp_file("store"), 65536), 0); break;
    case 2: ck_assert_int_eq(unlink(paths_tmp_file("store")), 0); break;
    case 3: ck_assert_int_eq(truncate(catalog, st.st_size / 2), 0); break;
    case 4: {
        FILE *file = fopen(catalog, "w");
        for (int i = 0; i < 10000; i++)
            fprintf(file, "rubbish %d", i);
        fclose(file);
        break;
    }
    case 5: ck_assert_int_eq(unlink(catalog), 0); break;
    case 6: flip_file(catalog, 2 * 4096 + 13, st.st_size, 4096); break; /* in the page headers */
    default: flip_file(catalog, find_in(catalog, "tiny-1") + 16, find_in(catalog, "tiny-1") + 17, 1); break;
    }
    broker_restart(&f.b);
    ck_assert_int_eq(read_back(&f, 1, 12), CAIRN_E_MISS);
    ck_assert(said[_i] == NULL || warnings_about(said[_i]) == 1);
    if (_i == 7)
        ck_assert_uint_eq(broker_counter(&f.b, "dropped_entries"), 1);
    ck_assert_uint_gt(broker_counter(&f.b, "nvme_limit_bytes"), 0);
    spill(&f, publish(&f, 1, 13, 0), 0, ALL);
    broker_kill(&f.b);
    broker_restart(&f.b);
    ck_assert_int_eq(read_back(&f, 1, 13), 0);
    stop(&f);
}
END_TEST

/* The notes of `status`. */
static void notes(struct fixture *f, char *out, size_t bytes)
{
    struct cairn_counter counters[256];
    size_t n;
    struct cairn_client *tool = tiny_open(&f->b, 0);
    ck_assert_int_eq(cairn_stat(tool, SOON, counters, 256, &n, out, bytes), 0);
    cairn_close(tool);
}

/* Once more than memory holds, so that payloads go down and come back. */
static void go_down_and_up(struct fixture *f)
{
    for (uint32_t i = 0; i < 8; i++)
        publish(f, 1, 700 + i, 0);
    for (uint32_t i = 0; i < 8; i++)
        ck_assert_int_eq(read_back(f, 1, 700 + i), 0);
    ck_assert_uint_gt(broker_counter(&f->b, "restored_total"), 0);
    ck_assert_uint_eq(broker_counter(&f->b, "io_error_total"), 0);
}

START_TEST(a_broker_that_may_not_use_io_uring_says_so_and_works)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, __builtin_offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
    const char *const more[] = {"--memory", "1M", NULL};
    struct fixture f;
    char text[2048];
    ck_assert_int_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ck_assert_int_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    start(&f, "8M", more);
    notes(&f, text, sizeof text);
    ck_assert_msg(strstr(text, "io threads (12; io_uring: ") != NULL && strstr(text, strerror(EPERM)) != NULL, "%s", text);
    go_down_and_up(&f);
    stop(&f);
}
END_TEST

START_TEST(a_broker_that_may_lock_no_memory_works)
{
    const struct rlimit none = {0, 0};
    const char *const more[] = {"--memory", "1M", NULL};
    struct fixture f;
    ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &none), 0);
    start(&f, "8M", more);
    go_down_and_up(&f);
    stop(&f);
}
END_TEST

START_TEST(status_names_the_engine)
{
    struct fixture f;
    char text[2048];
    const char *const more[] = {"--io-engine", "threads", NULL};
    start(&f, "4M", more);
    notes(&f, text, sizeof text);
    ck_assert_msg(strstr(text, "io threads (") != NULL, "%s", text);
    stop(&f);
}
END_TEST

START_TEST(without_room_for_the_file_the_broker_goes_on_in_memory)
{
    char text[2048];
    struct fixture f;
    start(&f, "30T", NULL);
    ck_assert_uint_eq(broker_counter(&f.b, "nvme_limit_bytes"), 0);
    notes(&f, text, sizeof text);
    ck_assert_msg(strstr(text, "io no nvme: ") != NULL && strstr(text, "not asked for") == NULL, "%s", text);
    struct cairn_entry_id id = publish(&f, 1, 14, 0);
    ck_assert_int_eq(read_back(&f, 1, 14), 0);
    struct cairn_client *tool = tiny_open(&f.b, 0);
    ck_assert_int_eq(cairn_spill(tool, id, 0, ALL, 0, SOON), CAIRN_E_UNSUPPORTED);
    cairn_close(tool);
    stop(&f);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(a_spilled_entry_comes_back_to_the_last_bit, 2),
        RUN_LOOP(what_went_down_as_int8_is_read_as_int8, 3),
        RUN_TEST(layers_go_down_one_by_one),
        RUN_TEST(readers_at_the_same_time_share_one_restore),
        RUN_LOOP(more_than_memory_holds_stays_readable, 2),
        RUN_TEST(a_full_store_drops_the_coldest_and_nothing_is_wrong),
        RUN_TEST(one_pass_over_cold_contexts_leaves_the_hot_one_in_memory),
        RUN_TEST(spilled_entries_survive_kill_9),
        RUN_TEST(write_through_keeps_everything),
        RUN_TEST(children_come_back_with_their_parents),
        RUN_TEST(plans_survive_with_their_maps),
        RUN_TEST(corrupt_extents_are_a_miss_and_then_forgotten),
        RUN_LOOP(harmed_files_are_found_at_start, 8),
        RUN_TEST(a_broker_that_may_not_use_io_uring_says_so_and_works),
        RUN_TEST(a_broker_that_may_lock_no_memory_works),
        RUN_TEST(status_names_the_engine),
        RUN_TEST(without_room_for_the_file_the_broker_goes_on_in_memory),
    };
    return run_suite("tier_nvme", tests, sizeof tests / sizeof tests[0]);
}
