/* pool - threads that share out a loop.
 *
 * One 64-bit word holds the job number and the next task, so claiming a task is one compare-and-swap, and a thread that
 * wakes late for a finished job finds nothing to claim: the caller never waits for a sleeper, only for claimed tasks.
 *
 *     claim word   closed (next = CLOSED) -> open (next = 0 .. n_tasks) -> closed ...
 *
 * The caller closes the word before it changes the job's fields. A thread that read fields of a newer job therefore fails
 * its compare-and-swap, because it expects an older word.
 *
 * Idle threads spin a few microseconds on `epoch`, then sleep on it (futex); the caller waits on `done` in the same way.
 * Nothing here knows about priorities, nesting or several callers. */
#include "kernels/pool.h"

#include "ipc/cairn_status.h"
#include "ipc/log.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    POOL_MAX_THREADS = 256,
    POOL_SPIN = 400, /* pauses before sleeping: about 5 us */
};

#define CLOSED UINT32_MAX
#define MAX_TASKS_PER_JOB ((size_t)INT_MAX)

struct crn_pool {
    _Alignas(64) _Atomic uint64_t claim; /* job number << 32 | next task */
    _Atomic(crn_pool_fn *) fn;
    _Atomic(void *) ctx;
    _Atomic size_t first_task; /* added to the task number: large loops are several jobs */
    _Atomic uint32_t n_tasks;
    _Alignas(64) _Atomic uint32_t done;
    _Atomic uint32_t caller_sleeps;
    _Alignas(64) _Atomic uint32_t epoch; /* changes with every job and at the end */
    _Atomic uint32_t sleepers;
    _Atomic bool stop;

    unsigned n_threads, n_started;
    struct pool_thread {
        struct crn_pool *pool;
        pthread_t id;
        unsigned index;
    } *threads;
};

static void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

/* Counts a finished task. The order with caller_sleeps is sequential: either the caller sees the count, or we see it sleep. */
static void finish_task(struct crn_pool *pool, uint32_t n_tasks)
{
    uint32_t done = atomic_fetch_add(&pool->done, 1) + 1;
    if (done == n_tasks && atomic_load(&pool->caller_sleeps) != 0)
        futex_wake(&pool->done, 1);
}

/* Runs tasks of the open job until none is left to claim. */
static void work(struct crn_pool *pool, unsigned thread)
{
    uint64_t claim = atomic_load_explicit(&pool->claim, memory_order_acquire);
    for (;;) {
        /* acquire pairs with the release stores of open_job: a newer field implies a newer claim word */
        crn_pool_fn *fn = atomic_load_explicit(&pool->fn, memory_order_acquire);
        void *ctx = atomic_load_explicit(&pool->ctx, memory_order_acquire);
        size_t first = atomic_load_explicit(&pool->first_task, memory_order_acquire);
        uint32_t n_tasks = atomic_load_explicit(&pool->n_tasks, memory_order_acquire);
        uint32_t next = (uint32_t)claim;
        if (next >= n_tasks)
            return;
        if (!atomic_compare_exchange_strong(&pool->claim, &claim, claim + 1))
            continue;
        fn(ctx, first + next, thread);
        finish_task(pool, n_tasks);
        claim = atomic_load_explicit(&pool->claim, memory_order_acquire);
    }
}

static void open_job(struct crn_pool *pool, crn_pool_fn *fn, void *ctx, size_t first, uint32_t n_tasks)
{
    uint64_t job = (atomic_load_explicit(&pool->claim, memory_order_relaxed) >> 32) + 1;
    atomic_store(&pool->claim, job << 32 | CLOSED);
    atomic_store_explicit(&pool->fn, fn, memory_order_release);
    atomic_store_explicit(&pool->ctx, ctx, memory_order_release);
    atomic_store_explicit(&pool->first_task, first, memory_order_release);
    atomic_store_explicit(&pool->n_tasks, n_tasks, memory_order_release);
    atomic_store(&pool->done, 0);
    atomic_store(&pool->claim, job << 32);
    atomic_fetch_add(&pool->epoch, 1);
}

static void wake_threads(struct crn_pool *pool, size_t n_tasks)
{
    if (atomic_load(&pool->sleepers) == 0)
        return;
    size_t helpers = n_tasks - 1 < pool->n_threads - 1 ? n_tasks - 1 : pool->n_threads - 1;
    futex_wake(&pool->epoch, (int)helpers);
}

static void wait_done(struct crn_pool *pool, uint32_t n_tasks)
{
    for (int i = 0; i < POOL_SPIN; i++) {
        if (atomic_load(&pool->done) == n_tasks)
            return;
        cpu_relax();
    }
    atomic_store(&pool->caller_sleeps, 1);
    for (;;) {
        uint32_t done = atomic_load(&pool->done);
        if (done == n_tasks)
            break;
        futex_wait(&pool->done, done);
    }
    atomic_store(&pool->caller_sleeps, 0);
}

/* Waits until epoch differs from `seen`; returns the new one. */
static uint32_t wait_epoch(struct crn_pool *pool, uint32_t seen)
{
    for (int i = 0; i < POOL_SPIN; i++) {
        uint32_t now = atomic_load(&pool->epoch);
        if (now != seen)
            return now;
        cpu_relax();
    }
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->epoch) == seen)
        futex_wait(&pool->epoch, seen);
    atomic_fetch_sub(&pool->sleepers, 1);
    return atomic_load(&pool->epoch);
}

static void *thread_main(void *arg)
{
    struct pool_thread *self = arg;
    struct crn_pool *pool = self->pool;
    uint32_t seen = 0;
    while (!atomic_load(&pool->stop)) {
        work(pool, self->index);
        seen = wait_epoch(pool, seen);
    }
    return NULL;
}

/* Binds a thread to the index-th CPU this process may use, counting round; a failure only costs speed. */
static void pin_thread(pthread_t id, unsigned index)
{
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) == 0)
        return;
    unsigned left = index % (unsigned)CPU_COUNT(&allowed);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &allowed) || left-- != 0)
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        (void)pthread_setaffinity_np(id, sizeof one, &one);
        return;
    }
}

static int start_threads(struct crn_pool *pool, int pin)
{
    for (unsigned i = 0; i + 1 < pool->n_threads; i++) {
        struct pool_thread *t = &pool->threads[i];
        *t = (struct pool_thread){ .pool = pool, .index = i + 1 };
        int err = pthread_create(&t->id, NULL, thread_main, t);
        if (err != 0) {
            crn_log(CRN_LOG_ERROR, "pool: thread %u of %u: %s", i + 1, pool->n_threads, strerror(err));
            return -err;
        }
        pool->n_started++;
        if (pin)
            pin_thread(t->id, t->index);
    }
    return 0;
}

int crn_pool_create(unsigned n_threads, int pin, struct crn_pool **out_pool)
{
    if (n_threads == 0 || n_threads > POOL_MAX_THREADS || out_pool == NULL)
        return CAIRN_E_ARG;
    struct crn_pool *pool = aligned_alloc(64, sizeof *pool);
    if (pool == NULL)
        return -ENOMEM;
    memset(pool, 0, sizeof *pool);
    atomic_store(&pool->claim, CLOSED);
    pool->n_threads = n_threads;
    pool->threads = calloc(n_threads, sizeof *pool->threads);
    int rc = pool->threads != NULL ? start_threads(pool, pin) : -ENOMEM;
    if (rc != 0) {
        crn_pool_destroy(pool);
        return rc;
    }
    *out_pool = pool;
    return 0;
}

void crn_pool_destroy(struct crn_pool *pool)
{
    if (pool == NULL)
        return;
    atomic_store(&pool->stop, true);
    atomic_fetch_add(&pool->epoch, 1);
    futex_wake(&pool->epoch, INT_MAX);
    for (unsigned i = 0; i < pool->n_started; i++)
        pthread_join(pool->threads[i].id, NULL);
    free(pool->threads);
    free(pool);
}

unsigned crn_pool_threads(const struct crn_pool *pool)
{
    return pool != NULL ? pool->n_threads : 1;
}

void crn_pool_run(struct crn_pool *pool, crn_pool_fn *fn, void *ctx, size_t n_tasks)
{
    if (pool == NULL || pool->n_threads == 1 || n_tasks == 1) {
        for (size_t i = 0; i < n_tasks; i++)
            fn(ctx, i, 0);
        return;
    }
    for (size_t first = 0; first < n_tasks; first += MAX_TASKS_PER_JOB) {
        size_t left = n_tasks - first;
        uint32_t count = (uint32_t)(left < MAX_TASKS_PER_JOB ? left : MAX_TASKS_PER_JOB);
        open_job(pool, fn, ctx, first, count);
        wake_threads(pool, count);
        work(pool, 0);
        wait_done(pool, count);
    }
}
