/* broker and libcairn on a device: real processes publish from device memory and attach to it, for both memory kinds; and the
 * failure table (design.md section 8) with each party killed at each step, broken imports, and a device that is full or lost.
 * What the emulated device can be told (failing calls, memory limits) is told by its environment; on a real one those tests
 * are left out. Leaks are counted: descriptors and device mappings of the broker, and mappings that a worker still has when it has
 * closed everything. */
#include "tests/support/child.h"
#include "tests/support/daemon.h"
#include "tests/support/dev.h"
#include "tests/support/dev_share.h"
#include "tests/support/paths.h"
#include "tests/support/program.h"
#include "tests/support/run.h"

#include "ipc/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOKENS 40u
#define N_STATES 2u

static const char *const vmm[] = {"--device", "cuda:0", "--mem-kind", "cuda-vmm", "--memory", "32M", "--arena-size", "8M",
                                  "--log-level", "warn", NULL};
static const char *const ipc[] = {"--device", "cuda:0", "--mem-kind", "cuda-ipc", "--memory", "32M", "--arena-size", "8M",
                                  "--log-level", "warn", NULL};
static const char *const *const kinds[] = {vmm, ipc};

static struct broker broker;
static int32_t context[TOKENS];

static void start(int kind)
{
    tiny_tokens(context, TOKENS, 1);
    broker_start(&broker, kinds[kind]);
}

static struct tiny_entry entry_of(uint32_t model)
{
    return (struct tiny_entry){.model = model, .context = context, .n_tokens = TOKENS, .n_states = N_STATES};
}

static int fds_of(pid_t pid)
{
    char path[64];
    int n = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    ck_assert_ptr_nonnull(dir);
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

/* Mappings of device memory that the system knows of. On the emulator: all of them (none may be touched while nothing runs). */
static int maps_of(pid_t pid)
{
    char path[64], line[512];
    int n = 0;
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return -1;
    while (fgets(line, sizeof line, f) != NULL)
        n += (strstr(line, "---s") != NULL && strstr(line, "cuda-emu") != NULL) || strstr(line, "/dev/nvidia") != NULL;
    fclose(f);
    return n;
}

/* What the broker holds of the system. */
struct held {
    int fds, maps;
};

static struct held held_now(void)
{
    return (struct held){fds_of(broker.pid), maps_of(broker.pid)};
}

/* The same when it no longer moves: sessions end a moment after their process, and cuda-ipc zones a second after that. */
static struct held settled(void)
{
    struct held seen = held_now();
    for (int i = 0, same = 0; i < 500 && same < 75; i++) {
        poll(NULL, 0, 20);
        struct held now = held_now();
        same = now.fds == seen.fds && now.maps == seen.maps ? same + 1 : 0;
        seen = now;
    }
    return seen;
}

static void as_before(struct held before)
{
    struct held now = held_now();
    for (int i = 0; i < 500 && (now.fds != before.fds || now.maps != before.maps); i++) {
        poll(NULL, 0, 20);
        now = held_now();
    }
    ck_assert_int_eq(now.fds, before.fds);
    ck_assert_int_eq(now.maps, before.maps);
}

/* ---- what a worker process does; 0 when all went as it should ---- */

enum act { PUBLISH, ATTACH, ATTACH_FAILS, HOLD_DRAFT, HOLD_LEASE, OUTLIVE };

struct worker {
    enum act act;
    uint32_t model;
    int expect;      /* PUBLISH, ATTACH_FAILS: the code wanted */
    int ready;       /* HOLD_*, OUTLIVE: written when there */
    int go;          /* OUTLIVE: read before going on */
    const char *fail; /* CRN_CUDA_EMU_FAIL of this process */
};

#define CHECK(condition)                                                                                                    \
    do {                                                                                                                    \
        if (!(condition)) {                                                                                                 \
            fprintf(stderr, "worker: line %d: %s; %s\n", __LINE__, #condition, client != NULL ? cairn_error(client) : "");    \
            return 1;                                                                                                       \
        }                                                                                                                   \
    } while (0)

/* With states, as a tool for measurements sees them. */
static int attach(struct cairn_client *client, struct cairn_lease **out_lease)
{
    struct cairn_query q = CAIRN_QUERY_INIT;
    q.tokens = context;
    q.n_tokens = TOKENS;
    q.flags = CAIRN_QUERY_INSPECT;
    return cairn_attach(client, &q, SOON, out_lease);
}

static int outlive(struct worker *w, struct cairn_client *client, struct cairn_lease *lease)
{
    struct tiny_entry e = entry_of(w->model);
    struct cairn_lease *again = NULL;
    struct cairn_entry_id id;
    char byte = 0;
    CHECK(write(w->ready, &byte, 1) == 1 && read(w->go, &byte, 1) == 1); /* the broker is dead now */
    CHECK(dev_tiny_check(lease, 1, N_STATES) == 0);                      /* ... and what was mapped is there */
    CHECK(write(w->ready, &byte, 1) == 1 && read(w->go, &byte, 1) == 1); /* a new one is up */
    CHECK(attach(client, &again) == CAIRN_E_MISS);
    CHECK(dev_tiny_publish(client, &e, &id) == 0);
    CHECK(attach(client, &again) == 0);
    CHECK(dev_tiny_check(again, w->model, N_STATES) == 0);
    cairn_release(again);
    return 0;
}

static int act(struct worker *w, struct cairn_client *client)
{
    struct tiny_entry e = entry_of(w->model);
    struct cairn_lease *lease = NULL;
    struct cairn_draft *draft;
    struct cairn_entry_id id;
    char byte = 0;
    int status;
    if (w->act == PUBLISH) {
        status = dev_tiny_publish(client, &e, &id);
        CHECK(status == w->expect);
        return 0;
    }
    if (w->act == HOLD_DRAFT) {
        CHECK(tiny_draft(client, &e, &draft) == 0);
        CHECK(dev_tiny_put(draft, &e, 0, 0) == 0);
        CHECK(write(w->ready, &byte, 1) == 1);
        return pause();
    }
    status = attach(client, &lease);
    if (w->act == ATTACH_FAILS) {
        CHECK(status == w->expect);
        return 0;
    }
    CHECK(status == 0);
    CHECK(dev_tiny_check(lease, 1, N_STATES) == 0);
    CHECK(cairn_lease_check(lease) == 0);
    if (w->act == HOLD_LEASE) {
        CHECK(write(w->ready, &byte, 1) == 1);
        return pause();
    }
    status = w->act == OUTLIVE ? outlive(w, client, lease) : 0;
    cairn_release(lease);
    return status;
}

static int work(void *ctx)
{
    struct worker *w = ctx;
    if (w->fail != NULL)
        setenv("CRN_CUDA_EMU_FAIL", w->fail, 1);
    struct cairn_client *client = dev_tiny_open(&broker, w->model);
    if (client == NULL)
        return 1;
    int status = act(w, client);
    cairn_close(client);
    client = NULL;
    dev_close();
    if (status == 0 && w->expect != CAIRN_E_DEVICE_LOST && getenv("CRN_GPU") == NULL)
        CHECK(maps_of(getpid()) == 0);
    return status;
}

static void run_worker(struct worker w)
{
    ck_assert_int_eq(child_end(child_start(work, &w)), 0);
}

static void publish(uint32_t model)
{
    run_worker((struct worker){.act = PUBLISH, .model = model});
}

/* A worker that stays; it is where it should be when this returns. */
static pid_t holds(enum act what, uint32_t model)
{
    int ends[2];
    char byte;
    ck_assert_int_eq(pipe(ends), 0);
    struct worker w = {.act = what, .model = model, .ready = ends[1]};
    pid_t pid = child_start(work, &w);
    close(ends[1]);
    ck_assert_int_eq(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    return pid;
}

/* Only the tool that asks is left. */
static void alone(void)
{
    broker_await(&broker, "sessions", 1);
    ck_assert_uint_eq(broker_counter(&broker, "drafts"), 0);
    ck_assert_uint_eq(broker_counter(&broker, "leases"), 0);
}

static int emulated(void)
{
    return getenv("CRN_GPU") == NULL;
}

/* ---- the tests ---- */

START_TEST(three_workers_attach_what_a_fourth_published)
{
    pid_t readers[3];
    start(_i);
    publish(1);
    for (int i = 0; i < 3; i++)
        readers[i] = child_start(work, &(struct worker){.act = ATTACH, .model = 1});
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(child_end(readers[i]), 0);
    ck_assert_uint_eq(broker_counter(&broker, "entries"), 1);
    broker_stop(&broker);
}
END_TEST

START_TEST(a_publisher_killed_in_its_draft_leaves_nothing)
{
    start(_i);
    publish(1); /* what stays open for good is open now */
    alone();
    uint64_t used = broker_counter(&broker, "used_bytes");
    struct held before = settled();
    for (uint32_t i = 0; i < 3; i++) {
        pid_t pid = holds(HOLD_DRAFT, 2);
        ck_assert_uint_eq(broker_counter(&broker, "drafts"), 1);
        child_kill(pid);
        broker_await(&broker, "drafts", 0);
        broker_await(&broker, "used_bytes", used);
    }
    alone();
    ck_assert_uint_eq(broker_counter(&broker, "landing_bytes"), 0);
    as_before(before);
    publish(2);
    ck_assert_uint_eq(broker_counter(&broker, "entries"), 2);
    broker_stop(&broker);
}
END_TEST

START_TEST(a_killed_reader_gives_its_leases_back)
{
    start(_i);
    publish(1);
    alone();
    struct held before = settled();
    for (int i = 0; i < 3; i++) {
        pid_t pid = holds(HOLD_LEASE, 1);
        ck_assert_uint_eq(broker_counter(&broker, "leases"), 1);
        child_kill(pid);
        broker_await(&broker, "leases", 0);
    }
    alone();
    as_before(before);
    run_worker((struct worker){.act = ATTACH, .model = 1});
    broker_stop(&broker);
}
END_TEST

START_TEST(what_is_attached_outlives_a_killed_broker_and_the_next_one_starts_anew)
{
    int there[2], go[2];
    char byte;
    start(_i);
    publish(1);
    ck_assert_int_eq(pipe2(there, O_CLOEXEC), 0); /* not for the next broker */
    ck_assert_int_eq(pipe2(go, O_CLOEXEC), 0);
    alone();
    struct held before = settled();
    struct worker w = {.act = OUTLIVE, .model = 1, .ready = there[1], .go = go[0]};
    pid_t pid = child_start(work, &w);
    ck_assert_int_eq(read(there[0], &byte, 1), 1);
    broker_kill(&broker);
    ck_assert_int_eq(write(go[1], &byte, 1), 1);
    ck_assert_int_eq(read(there[0], &byte, 1), 1);
    broker_restart(&broker);
    ck_assert_int_eq(write(go[1], &byte, 1), 1);
    ck_assert_int_eq(child_end(pid), 0);
    alone();
    ck_assert_uint_eq(broker_counter(&broker, "entries"), 1);
    as_before(before);
    broker_stop(&broker);
}
END_TEST

START_TEST(an_import_that_fails_costs_one_attach)
{
    static const char *const fails[] = {"cuMemImportFromShareableHandle:1:2", "cudaIpcOpenMemHandle:1:2"};
    if (!emulated())
        return;
    start(_i);
    publish(1);
    alone();
    struct held before = settled();
    run_worker((struct worker){.act = ATTACH_FAILS, .model = 1, .expect = -ENOMEM, .fail = fails[_i]});
    run_worker((struct worker){.act = ATTACH, .model = 1});
    alone();
    as_before(before);
    broker_stop(&broker);
}
END_TEST

START_TEST(a_lost_device_ends_the_worker_and_nobody_else)
{
    if (!emulated())
        return;
    start(_i);
    publish(2);
    alone();
    struct held before = settled();
    run_worker((struct worker){
        .act = PUBLISH, .model = 1, .expect = CAIRN_E_DEVICE_LOST, .fail = "cudaMemcpyAsync:12:719"});
    alone();
    as_before(before);
    ck_assert_uint_eq(broker_counter(&broker, "entries"), 1);
    publish(1);
    run_worker((struct worker){.act = ATTACH, .model = 1});
    broker_stop(&broker);
}
END_TEST

/* The broker has room for its workspace and one arena, and none for a landing zone. */
START_TEST(a_full_device_refuses_the_draft_and_nothing_else)
{
    if (!emulated())
        return;
    setenv("CRN_CUDA_EMU_MEMORY", "17000000", 1);
    start(_i);
    unsetenv("CRN_CUDA_EMU_MEMORY");
    alone();
    struct held before = settled();
    for (int i = 0; i < 2; i++)
        run_worker((struct worker){.act = PUBLISH, .model = 1, .expect = -ENOMEM});
    alone();
    as_before(before);
    run_worker((struct worker){.act = ATTACH_FAILS, .model = 1, .expect = CAIRN_E_MISS});
    alone();
    ck_assert_uint_eq(broker_counter(&broker, "used_bytes"), 0);
    broker_stop(&broker);
}
END_TEST

/* An engine of the other memory is told so, and the broker goes on. */
START_TEST(a_worker_without_the_device_cannot_use_its_payloads)
{
    struct cairn_lease *lease = NULL;
    struct cairn_draft *draft = NULL;
    struct tiny_entry e = entry_of(2);
    start(_i);
    publish(1);
    struct cairn_client *client = tiny_open(&broker, 1);
    int status = tiny_attach(client, context, TOKENS, &lease);
    ck_assert_msg(status < 0 && status != CAIRN_E_GONE, "attach: %d", status);
    status = tiny_draft(client, &e, &draft);
    ck_assert_msg(status < 0 && status != CAIRN_E_GONE, "draft: %d", status);
    cairn_close(client);
    alone();
    broker_stop(&broker);
}
END_TEST

START_TEST(a_device_that_is_not_there_is_refused_and_auto_goes_on_without)
{
    static const char *const wanted[] = {"--device", "cuda:0", NULL};
    static const char *const automatic[] = {"--device", "auto", "--memory", "16M", NULL};
    char said[2048];
    if (!emulated())
        return;
    setenv("CRN_CUDA_EMU_DEVICES", _i == 0 ? "0" : "-1", 1);
    ck_assert_int_eq(daemon_run(wanted, said, sizeof said), 1);
    ck_assert_ptr_nonnull(strstr(said, _i == 0 ? "no CUDA device" : "no CUDA driver"));
    broker_start(&broker, automatic);
    ck_assert_uint_eq(broker_counter(&broker, "entries"), 0);
    broker_stop(&broker);
}
END_TEST

static int spill_one(void *ctx, const struct cairn_entry_info *info)
{
    *(struct cairn_entry_id *)ctx = info->entry;
    return 0;
}

static void spill_all(void)
{
    struct cairn_client *client = tiny_open(&broker, 0);
    struct cairn_entry_id entry = {0};
    ck_assert_int_eq(cairn_entry_each(client, SOON, spill_one, &entry), 0);
    ck_assert_int_eq(cairn_spill(client, entry, 0, TINY_LAYERS - 1, CAIRN_TIER_NVME, SOON), 0);
    cairn_close(client);
}

/* Down to NVMe by order, back by an attach, through a restart: the bytes are those that were published, and cairnd verify agrees. */
START_TEST(payloads_go_to_nvme_and_come_back_to_the_device)
{
    static char store[128];
    const char *options[20];
    size_t n = 0;
    for (; kinds[_i][n] != NULL; n++)
        options[n] = kinds[_i][n];
    snprintf(store, sizeof store, "%s/store:16M", paths_tmp());
    const char *const more[] = {"--nvme", store, "--write-through", NULL};
    for (size_t i = 0; i < 4; i++)
        options[n++] = more[i];
    tiny_tokens(context, TOKENS, 1);
    broker_start(&broker, options);
    publish(1);
    spill_all();
    run_worker((struct worker){.act = ATTACH, .model = 1});
    ck_assert_uint_gt(broker_counter(&broker, "restored_total"), 0);
    broker_kill(&broker);
    broker_restart(&broker);
    run_worker((struct worker){.act = ATTACH, .model = 1});
    struct program p = program_run("cairn", (const char *const[]){"--socket", broker.socket, "verify", NULL});
    ck_assert_msg(p.code == 0, "verify: %s%s", p.out, p.err);
    program_free(&p);
    alone();
    broker_stop(&broker);
    paths_tmp_remove();
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(three_workers_attach_what_a_fourth_published, 2),
        RUN_LOOP(a_publisher_killed_in_its_draft_leaves_nothing, 2),
        RUN_LOOP(a_killed_reader_gives_its_leases_back, 2),
        RUN_LOOP(what_is_attached_outlives_a_killed_broker_and_the_next_one_starts_anew, 2),
        RUN_LOOP(an_import_that_fails_costs_one_attach, 2),
        RUN_LOOP(a_lost_device_ends_the_worker_and_nobody_else, 2),
        RUN_LOOP(a_full_device_refuses_the_draft_and_nothing_else, 2),
        RUN_LOOP(payloads_go_to_nvme_and_come_back_to_the_device, 2),
        RUN_LOOP(a_worker_without_the_device_cannot_use_its_payloads, 2),
        RUN_LOOP(a_device_that_is_not_there_is_refused_and_auto_goes_on_without, 2),
    };
    crn_log_setup("cuda_share", CRN_LOG_ERROR);
    dev_programs();
    return run_suite("cuda_share", tests, sizeof tests / sizeof *tests);
}
