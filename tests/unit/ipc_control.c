/* ipc/control: a waiting worker is woken by what the broker writes, by the lease's end, by its
 * deadline or by the broker's death, in real processes with a read-only page; and a word that is
 * ready carries its payload with it. */
#include "ipc/control.h"

#include "ipc/chan.h"
#include "ipc/log.h"
#include "tests/support/child.h"
#include "tests/support/run.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MS = 1000000 };

static struct crn_mem page;

static struct crn_mem imported(void)
{
    struct crn_mem_token token;
    struct crn_mem mem;
    int fd;
    ck_assert_int_eq(crn_mem_host.export_token(&page, &token, &fd), 0);
    fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    ck_assert_int_eq(crn_mem_host.import_token(&token, fd, CRN_MEM_READ, &mem), 0);
    return mem;
}

struct waiter {
    uint32_t slot, word, epoch;
    uint64_t timeout_ms;
    int want;
    pid_t broker; /* asked whether alive, unless 0 */
};

static int is_running(void *ctx)
{
    return kill(*(pid_t *)ctx, 0) == 0;
}

/* In its own process: maps the page read-only, waits, exits 0 when the answer is the wanted one and
 * came in time. */
static int wait_as_worker(void *ctx)
{
    struct waiter *w = ctx;
    struct crn_mem mem = imported();
    if (crn_control_check(&mem) != 0)
        return 2;
    struct crn_control_slot *slot = crn_control_slot_at(&mem, w->slot);
    int status = crn_control_wait(slot, w->word, w->epoch, crn_now_ns() + w->timeout_ms * MS,
                                  w->broker != 0 ? is_running : NULL, &w->broker);
    return status == w->want ? 0 : 1;
}

static struct crn_control_slot *fresh_page(void)
{
    ck_assert_int_eq(crn_control_create(&page), 0);
    return crn_control_slot_at(&page, 3);
}

START_TEST(a_fresh_page_passes_its_check_and_is_read_only_for_workers)
{
    struct crn_control_slot *slot = fresh_page();
    struct crn_mem mem = imported();
    const struct crn_control_header *h = mem.base;
    ck_assert_int_eq(crn_control_check(&mem), 0);
    ck_assert_uint_eq(h->alive, 1);
    ck_assert_ptr_eq((char *)slot, (char *)page.base + 4096 + 3 * 4096);
    ck_assert_int_eq(mprotect(mem.base, 4096, PROT_READ | PROT_WRITE), -1);
    ck_assert_ptr_nonnull(crn_control_slot_at(&mem, CRN_CONTROL_SLOTS - 1));
    ck_assert_ptr_null(crn_control_slot_at(&mem, CRN_CONTROL_SLOTS));
}
END_TEST

START_TEST(a_page_that_does_not_fit_is_refused)
{
    fresh_page();
    struct crn_mem mem = imported();
    struct crn_control_header *h = page.base, good = *h;
    h->magic ^= 1;
    ck_assert_int_eq(crn_control_check(&mem), CAIRN_E_CORRUPT);
    *h = good;
    h->version++;
    ck_assert_int_eq(crn_control_check(&mem), CAIRN_E_VERSION);
    *h = good;
    h->layout++;
    ck_assert_int_eq(crn_control_check(&mem), CAIRN_E_CORRUPT);
    *h = good;
    h->bytes--;
    ck_assert_int_eq(crn_control_check(&mem), CAIRN_E_CORRUPT);
    *h = good;
    h->n_slots++;
    ck_assert_int_eq(crn_control_check(&mem), CAIRN_E_CORRUPT);
    *h = good;
    mem.bytes = 4096;
    ck_assert_int_eq(crn_control_check(&mem), CAIRN_E_CORRUPT);
}
END_TEST

START_TEST(a_sleeping_worker_is_woken_at_once)
{
    struct crn_control_slot *slot = fresh_page();
    struct waiter w = {.slot = 3, .word = 1007, .timeout_ms = 10000};
    w.epoch = crn_control_begin_lease(slot, CRN_CONTROL_WORDS);
    w.want = _i == 0 ? 0 : CAIRN_E_MISS;
    pid_t pid = child_start(wait_as_worker, &w);
    child_asleep(pid);
    uint64_t start_ns = crn_now_ns();
    crn_control_set(slot, 1007, _i == 0 ? CRN_PROGRESS_READY : CRN_PROGRESS_FAILED);
    ck_assert_int_eq(child_end(pid), 0);
    ck_assert_uint_lt(crn_now_ns() - start_ns,
                      700 * MS); /* by the futex, not by the look each second */
}
END_TEST

START_TEST(all_waiters_of_a_word_are_woken)
{
    struct crn_control_slot *slot = fresh_page();
    struct waiter w = {.slot = 3, .word = 5, .timeout_ms = 10000};
    pid_t pids[6];
    w.epoch = crn_control_begin_lease(slot, 6);
    for (size_t i = 0; i < 6; i++)
        pids[i] = child_start(wait_as_worker, &w);
    for (size_t i = 0; i < 6; i++)
        child_asleep(pids[i]);
    crn_control_set(slot, 5, CRN_PROGRESS_READY);
    for (size_t i = 0; i < 6; i++)
        ck_assert_int_eq(child_end(pids[i]), 0);
}
END_TEST

START_TEST(the_end_of_a_lease_wakes_its_waiters)
{
    struct crn_control_slot *slot = fresh_page();
    struct waiter w = {.slot = 3, .word = 2, .timeout_ms = 10000, .want = CAIRN_E_STALE};
    w.epoch = crn_control_begin_lease(slot, 4);
    pid_t pid = child_start(wait_as_worker, &w);
    child_asleep(pid);
    crn_control_end_lease(slot);
    ck_assert_int_eq(child_end(pid), 0);
}
END_TEST

START_TEST(a_word_of_a_later_lease_is_never_taken_for_ours)
{
    struct crn_control_slot *slot = fresh_page();
    uint32_t first = crn_control_begin_lease(slot, 4);
    crn_control_set(slot, 2, CRN_PROGRESS_READY);
    uint64_t soon_ns = crn_now_ns() + 50 * MS;
    ck_assert_int_eq(crn_control_wait(slot, 2, first, soon_ns, NULL, NULL), 0);
    crn_control_end_lease(slot);
    uint32_t second = crn_control_begin_lease(slot, 4);
    ck_assert_uint_eq(second, first + 1);
    ck_assert_int_eq(crn_control_wait(slot, 2, second, soon_ns, NULL, NULL), CAIRN_E_TIMEOUT);
    crn_control_set(slot, 2, CRN_PROGRESS_READY);
    ck_assert_int_eq(crn_control_wait(slot, 2, first, soon_ns, NULL, NULL), CAIRN_E_STALE);
    ck_assert_int_eq(crn_control_wait(slot, 2, second, soon_ns, NULL, NULL), 0);
}
END_TEST

START_TEST(a_deadline_is_kept)
{
    struct crn_control_slot *slot = fresh_page();
    uint32_t epoch = crn_control_begin_lease(slot, 4);
    uint64_t start_ns = crn_now_ns();
    ck_assert_int_eq(crn_control_wait(slot, 0, epoch, start_ns + 120 * MS, NULL, NULL),
                     CAIRN_E_TIMEOUT);
    ck_assert_uint_ge(crn_now_ns() - start_ns, 120 * MS);
    ck_assert_uint_lt(crn_now_ns() - start_ns, 2000 * (uint64_t)MS);
    ck_assert_int_eq(crn_control_wait(slot, 0, epoch, 0, NULL, NULL), CAIRN_E_TIMEOUT);
}
END_TEST

START_TEST(numbers_out_of_range_and_garbage_are_refused)
{
    struct crn_control_slot *slot = fresh_page();
    uint32_t epoch = crn_control_begin_lease(slot, UINT32_MAX);
    ck_assert_uint_eq(slot->n_words, CRN_CONTROL_WORDS);
    ck_assert_int_eq(crn_control_wait(slot, CRN_CONTROL_WORDS, epoch, 0, NULL, NULL), CAIRN_E_ARG);
    crn_control_set(slot, CRN_CONTROL_WORDS, CRN_PROGRESS_READY); /* no effect, no crash */
    ck_assert_uint_eq(crn_control_slot_at(&page, 4)->epoch, 0);
    atomic_store(&slot->word[0], 99);
    ck_assert_int_eq(crn_control_wait(slot, 0, epoch, 0, NULL, NULL), CAIRN_E_CORRUPT);
}
END_TEST

static int sleep_for_ever(void *ctx)
{
    (void)ctx;
    while (pause() != 0)
        continue;
    return 0;
}

START_TEST(a_dead_broker_is_noticed_while_waiting)
{
    struct crn_control_slot *slot = fresh_page();
    struct waiter w = {.slot = 3, .word = 0, .timeout_ms = 15000, .want = CAIRN_E_GONE};
    w.epoch = crn_control_begin_lease(slot, 1);
    w.broker = child_start(sleep_for_ever, NULL);
    pid_t pid = child_start(wait_as_worker, &w);
    child_asleep(pid);
    child_kill(w.broker);
    uint64_t start_ns = crn_now_ns();
    ck_assert_int_eq(child_end(pid), 0);
    ck_assert_uint_lt(crn_now_ns() - start_ns, 3000 * (uint64_t)MS);
}
END_TEST

/* ---- ordering, with threads on one mapping, where ThreadSanitizer can see it ---- */

enum { ROUNDS = 2000 };

static struct {
    struct crn_control_slot *slot;
    uint64_t payload[8]; /* plain memory: only the word orders it */
    atomic_uint begun, acked;
} shared;

static void *publish(void *unused)
{
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        crn_control_begin_lease(shared.slot, 1);
        atomic_store(&shared.begun, round);
        for (size_t i = 0; i < 8; i++)
            shared.payload[i] = round + i;
        crn_control_set(shared.slot, 0, CRN_PROGRESS_READY);
        while (atomic_load(&shared.acked) != round)
            sched_yield();
        crn_control_end_lease(shared.slot);
    }
    return unused;
}

START_TEST(a_ready_word_carries_its_payload)
{
    pthread_t publisher;
    uint32_t wrong = 0;
    shared.slot = fresh_page();
    ck_assert_int_eq(pthread_create(&publisher, NULL, publish, NULL), 0);
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        while (atomic_load(&shared.begun) != round)
            sched_yield();
        uint64_t deadline_ns = crn_now_ns() + 10000 * (uint64_t)MS;
        int status = crn_control_wait(shared.slot, 0, round - 1, deadline_ns, NULL, NULL);
        for (size_t i = 0; i < 8; i++)
            wrong += status != 0 || shared.payload[i] != round + i;
        atomic_store(&shared.acked, round);
    }
    pthread_join(publisher, NULL);
    ck_assert_uint_eq(wrong, 0);
    ck_assert_uint_eq(shared.slot->epoch, ROUNDS);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(a_fresh_page_passes_its_check_and_is_read_only_for_workers),
        RUN_TEST(a_page_that_does_not_fit_is_refused),
        RUN_LOOP(a_sleeping_worker_is_woken_at_once, 2),
        RUN_TEST(all_waiters_of_a_word_are_woken),
        RUN_TEST(the_end_of_a_lease_wakes_its_waiters),
        RUN_TEST(a_word_of_a_later_lease_is_never_taken_for_ours),
        RUN_TEST(a_deadline_is_kept),
        RUN_TEST(numbers_out_of_range_and_garbage_are_refused),
        RUN_TEST(a_dead_broker_is_noticed_while_waiting),
        RUN_TEST(a_ready_word_carries_its_payload),
    };
    crn_log_setup("ipc_control", CRN_LOG_ERROR); /* refusals are expected */
    return run_suite("ipc_control", tests, sizeof tests / sizeof *tests);
}
