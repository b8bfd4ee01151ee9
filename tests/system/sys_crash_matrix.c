/* Killed anywhere: whatever was told to be durable is there, whatever is there is right, and nothing is lost or owned twice.
 *
 * A round: a broker with a small memory and a store gets some entries; it is started again as a build that dies (SIGKILL) at the
 * n-th passing of one named place; a worker publishes, reads, spills, restores and evicts at random until the broker is gone, or
 * is killed itself somewhere in between; then a plain broker starts on what is left, and everything is checked.
 *
 * Rounds are independent and come from the seed: 20 of them, 320 with CRN_LONG=1. A failure prints the command that repeats it. */
#include "client/cairn.h"
#include "tests/support/broker.h"
#include "tests/support/child.h"
#include "tests/support/paths.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONTEXTS 10u
#define N 130u
#define ALL 255u
#define GRANULE 65536u

static const char *const points[] = {
    "publish-put", "publish-sealed", "publish-visible", "replaced",         /* publish, compress */
    "spill-written", "sync-start", "synced",                                /* spill */
    "commit-submit", "catalog-commit", "catalog-written", "committed",      /* commit */
    "restore-started", "restore-read",                                      /* restore */
    "evict-record", "evict-freed",                                          /* evict */
    "start-entry", "start-walked", "start-preallocated",                    /* start-up */
    "worker", "worker", "anywhere",                                         /* the worker; the broker, from outside */
};
#define N_POINTS (sizeof points / sizeof points[0])

/* Shared with the worker process. */
struct world {
    struct broker b;
    uint32_t first_model;
    uint64_t seed;
    uint32_t n_ops;
    uint32_t kill_step; /* the worker dies there; 0: never */
    uint32_t step;
    /* what the worker knows: written after an answer, so never too early */
    volatile uint32_t durable[CONTEXTS]; /* a spill of the whole entry was confirmed, and no eviction was begun since */
    volatile uint32_t tried[CONTEXTS];   /* publishing was begun at least once */
};

static void step(struct world *w)
{
    if (++w->step == w->kill_step)
        raise(SIGKILL);
}

static int may_fail(int status)
{
    static const int codes[] = {0, CAIRN_E_GONE, CAIRN_E_TIMEOUT, CAIRN_E_MISS, CAIRN_E_FULL, CAIRN_E_BUSY, CAIRN_E_EXISTS, CAIRN_E_STALE};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        if (status == codes[i])
            return 1;
    }
    return 0;
}

/* ---- the worker ---- */

static int attach(struct cairn_client *c, uint32_t k, struct cairn_lease **out_lease)
{
    int32_t context[N];
    tiny_tokens(context, N, 1000 + k);
    return tiny_attach(c, context, N, out_lease);
}

static int publish(struct world *w, struct cairn_client *c, uint32_t k)
{
    int32_t context[N];
    struct cairn_draft *draft;
    struct cairn_entry_id id;
    tiny_tokens(context, N, 1000 + k);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N, .flags = CAIRN_DRAFT_EXCLUSIVE};
    w->tried[k] = 1;
    int status = tiny_draft(c, &e, &draft);
    step(w);
    if (status != 0)
        return status;
    for (uint32_t l = 0; l < TINY_LAYERS; l++) {
        status = tiny_put_layer(draft, &e, l);
        step(w);
        if (status != 0) {
            cairn_abort(draft);
            return status;
        }
    }
    status = cairn_commit(draft, SOON, &id);
    step(w);
    return status;
}

/* Every other row of every layer stays. What was durable is still there afterwards, one way or the other. */
static int compress(struct world *w, struct cairn_client *c, struct cairn_lease *lease, uint32_t k)
{
    int32_t context[N];
    uint32_t rows[N / 2], counts[TINY_HEADS] = {N / 2, N / 2};
    const uint32_t *lists[TINY_HEADS] = {rows, rows};
    struct cairn_draft_options o = CAIRN_DRAFT_INIT;
    struct cairn_put put = CAIRN_PUT_INIT;
    struct cairn_draft *draft;
    struct cairn_entry_id id;
    tiny_tokens(context, N, 1000 + k);
    for (uint32_t i = 0; i < N / 2; i++)
        rows[i] = 2 * i;
    o.tokens = context;
    o.n_tokens = N;
    o.replaces = lease;
    o.pyramid = CAIRN_PYRAMID_PUBLISH;
    o.dtype = CAIRN_F32;
    int status = cairn_draft_open(c, &o, SOON, &draft);
    step(w);
    if (status != 0)
        return status;
    put.counts = counts;
    put.index = lists;
    for (put.layer = 0; put.layer < TINY_LAYERS && status == 0; put.layer++) {
        status = cairn_put_layer(draft, &put, SOON);
        step(w);
    }
    if (status == 0)
        return cairn_commit(draft, SOON, &id);
    cairn_abort(draft);
    return status;
}

/* Waits for every layer; the code of the first wait that failed. Bytes that came must be right. */
static int read_lease(struct world *w, struct cairn_lease *lease)
{
    int status = 0;
    for (uint32_t l = 0; l < TINY_LAYERS && status == 0; l++) {
        status = cairn_wait(lease, 0, l, CAIRN_WAIT_KV, SOON);
        step(w);
    }
    if (status == 0)
        tiny_check_part(lease, 0, 1);
    return status;
}

static bool is_whole(struct cairn_lease *lease)
{
    struct cairn_layer_view view;
    return cairn_lease_layer(lease, 0, 0, &view) == 0 && view.heads[0].n == N;
}

/* Entry of a context, through an attach that is given up at once. */
static int find(struct world *w, struct cairn_client *c, uint32_t k, struct cairn_entry_id *out_id)
{
    struct cairn_lease *lease;
    int status = attach(c, k, &lease);
    step(w);
    if (status != 0)
        return status;
    *out_id = cairn_lease_info(lease)->parts[0].entry;
    cairn_release(lease);
    return 0;
}

static int one_op(struct world *w, struct cairn_client *c, struct rand *r)
{
    struct cairn_entry_id id;
    struct cairn_lease *lease;
    uint64_t entries, bytes;
    uint32_t k = (uint32_t)rand_below(r, CONTEXTS), what = (uint32_t)rand_below(r, 12);
    int status;
    if (what < 4)
        return publish(w, c, k);
    if (what < 6) {
        status = attach(c, k, &lease);
        if (status != 0)
            return status;
        status = read_lease(w, lease);
        cairn_release(lease);
        return status;
    }
    if (what >= 10) {
        status = attach(c, k, &lease);
        if (status != 0)
            return status;
        bool whole = cairn_lease_info(lease)->n_tokens == N && read_lease(w, lease) == 0 && is_whole(lease);
        status = whole ? compress(w, c, lease, k) : 0;
        cairn_release(lease);
        return status;
    }
    status = find(w, c, k, &id);
    if (status != 0)
        return status;
    if (what < 8) {
        status = cairn_spill(c, id, 0, ALL, CAIRN_TIER_NVME, SOON);
        w->durable[k] = status == 0 ? 1 : w->durable[k];
    } else if (what == 8) {
        status = cairn_restore(c, id, SOON);
    } else {
        w->durable[k] = 0;
        status = cairn_evict(c, id, SOON, &entries, &bytes);
    }
    step(w);
    return status;
}

static int worker_main(void *ctx)
{
    struct world *w = ctx;
    struct rand r = rand_seeded(w->seed);
    struct cairn_client *c = tiny_open(&w->b, w->first_model);
    int status = 0;
    for (uint32_t i = 0; i < w->n_ops && status != CAIRN_E_GONE && status != CAIRN_E_TIMEOUT; i++) {
        status = one_op(w, c, &r);
        ck_assert_msg(may_fail(status), "%s: %s", cairn_strerror(status), cairn_error(c));
    }
    cairn_close(c);
    return 0;
}

/* ---- the check afterwards ---- */

struct sums {
    struct cairn_client *tool;
    uint64_t entries, granules;
};

static int add_payload(void *ctx, const struct cairn_payload_info *p)
{
    struct sums *s = ctx;
    if (p->kind != 3) /* tokens are in the catalogue */
        s->granules += p->bytes == 0 ? 1 : (p->bytes + GRANULE - 1) / GRANULE;
    return 0;
}

static int add_id(void *ctx, const struct cairn_entry_info *info)
{
    struct cairn_entry_id *ids = ctx;
    uint32_t n = 0;
    while (ids[n].v != 0)
        n++;
    ck_assert_uint_lt(n, CONTEXTS);
    ids[n] = info->entry;
    return 0;
}

static void check_all(struct world *w)
{
    struct cairn_entry_id ids[CONTEXTS + 1] = {{0}};
    struct cairn_entry_info info;
    uint64_t payloads, bytes, bad;
    struct sums sums = {.tool = tiny_open(&w->b, 0)};
    ck_assert_uint_eq(broker_counter(&w->b, "dropped_entries"), 0);
    ck_assert_uint_eq(broker_counter(&w->b, "leases"), 0);
    ck_assert_uint_eq(broker_counter(&w->b, "drafts"), 0);
    ck_assert_int_eq(cairn_entry_each(sums.tool, SOON, add_id, ids), 0);
    for (; ids[sums.entries].v != 0; sums.entries++)
        ck_assert_msg(cairn_show(sums.tool, ids[sums.entries], SOON, &info, add_payload, &sums) == 0, "%s", cairn_error(sums.tool));
    ck_assert_uint_eq(broker_counter(&w->b, "recovered_entries"), sums.entries);
    ck_assert_uint_eq(broker_counter(&w->b, "nvme_used_bytes"), sums.granules * GRANULE);
    ck_assert_msg(cairn_verify(sums.tool, (struct cairn_entry_id){0}, SOON, &payloads, &bytes, &bad) == 0, "%s", cairn_error(sums.tool));
    ck_assert_uint_eq(bad, 0);
    cairn_close(sums.tool);
}

static void check_contexts(struct world *w)
{
    struct cairn_client *c = tiny_open(&w->b, 1);
    for (uint32_t k = 0; k < CONTEXTS; k++) {
        struct cairn_lease *lease;
        int status = attach(c, k, &lease);
        if (status == 0) {
            ck_assert_msg(w->tried[k], "context %u was never published", k);
            ck_assert_uint_eq(cairn_lease_info(lease)->n_tokens, N);
            status = read_lease(w, lease);
            cairn_release(lease);
        }
        ck_assert_msg(status == 0 || status == CAIRN_E_MISS, "context %u: %s", k, cairn_strerror(status));
        ck_assert_msg(status == 0 || !w->durable[k], "context %u was durable and is gone", k);
    }
    cairn_close(c);
}

/* ---- rounds ---- */

static void run_worker(struct world *w, uint32_t n_ops, uint32_t kill_step, uint64_t seed)
{
    w->n_ops = n_ops;
    w->kill_step = kill_step;
    w->step = 0;
    w->seed = seed;
    int code = child_end(child_start(worker_main, w));
    ck_assert_msg(code == 0 || (kill_step > 0 && code == 128 + SIGKILL), "the worker ended with %d", code);
}

/* The broker lives on: what the dead worker held is given back, and the rest is right. */
static void check_survivor(struct world *w)
{
    broker_await(&w->b, "leases", 0);
    broker_await(&w->b, "drafts", 0);
    w->kill_step = 0;
    check_contexts(w);
}

static void deadly_part(struct world *w, const char *point, struct rand *r)
{
    char at[64];
    uint32_t ops = 60;
    uint64_t seed = rand_u64(r);
    bool outside = strcmp(point, "anywhere") == 0, worker = strcmp(point, "worker") == 0;
    size_t hits = strncmp(point, "start", 5) == 0 || strcmp(point, "replaced") == 0 ? 3 : strncmp(point, "publish", 7) == 0 || strncmp(point, "spill", 5) == 0 ? 40 : 8;
    snprintf(at, sizeof at, "%s:%zu", point, 1 + rand_below(r, hits));
    if (!outside && !worker)
        setenv("CRN_CRASH_AT", at, 1);
    w->b.program = "../tests/cairnd-crash";
    if (strcmp(point, "start-preallocated") == 0)
        unlink(paths_tmp_file("store"));
    int lives = broker_try_restart(&w->b);
    unsetenv("CRN_CRASH_AT");
    if (lives) {
        run_worker(w, outside ? (uint32_t)rand_below(r, ops) : ops, worker ? 1 + (uint32_t)rand_below(r, 120) : 0, seed);
        if (worker)
            check_survivor(w);
    }
    siginfo_t dead = {.si_pid = 0};
    if (lives)
        waitid(P_PID, (id_t)w->b.pid, &dead, WEXITED | WNOHANG | WNOWAIT);
    printf("    %s\n", !lives || dead.si_pid != 0 ? "died there" : "killed from outside");
    fflush(stdout);
    broker_kill(&w->b); /* where the point was not passed often enough, here */
    w->b.program = NULL;
}

static int wanted(int round)
{
    const char *only = getenv("CRN_CRASH_ROUND");
    return only == NULL || strtol(only, NULL, 10) == round;
}

START_TEST(what_is_left_after_a_kill_is_right)
{
    char nvme[600];
    const char *point = points[(size_t)_i % N_POINTS];
    if (!wanted(_i))
        return;
    struct rand r = rand_seeded(rand_default_seed() + (uint64_t)_i * 7919);
    struct world *w = mmap(NULL, sizeof *w, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(w, MAP_FAILED);
    paths_tmp();
    snprintf(nvme, sizeof nvme, "%s:16M", paths_tmp_file("store"));
    const char *const options[] = {"--nvme", nvme, "--memory", "1M", "--log-level", "error",
                                   "--io-engine", _i % 3 == 0 ? "threads" : "auto", _i % 4 == 0 ? "--write-through" : NULL, NULL};
    printf("round %d: %s; again: CRN_TEST_SEED=%llu CRN_CRASH_ROUND=%d build/release/tests/system/sys_crash_matrix\n", _i, point,
           (unsigned long long)rand_default_seed(), _i);
    fflush(stdout);
    w->first_model = 1;
    broker_start(&w->b, options);
    run_worker(w, 25, 0, rand_u64(&r));
    broker_kill(&w->b);
    if (strcmp(point, "start-preallocated") == 0)
        memset((void *)(uintptr_t)w->durable, 0, sizeof w->durable);
    deadly_part(w, point, &r);
    broker_restart(&w->b);
    if (strcmp(point, "start-preallocated") != 0) /* its store was taken away: all records are dropped, once */
        check_all(w);
    check_contexts(w);
    broker_stop(&w->b);
    paths_tmp_remove();
    munmap(w, sizeof *w);
}
END_TEST

int main(void)
{
    const char *long_run = getenv("CRN_LONG");
    int rounds = long_run != NULL && strcmp(long_run, "1") == 0 ? 320 : 20;
    const struct run_test tests[] = {RUN_LOOP(what_is_left_after_a_kill_is_right, rounds)};
    return run_suite("crash_matrix", tests, 1);
}
