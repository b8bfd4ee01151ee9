/* kernels/pool: every task runs once, on a thread of the pool, before run returns; pools may be many, small and re-used. */
#include "tests/support/run.h"

#include "kernels/pool.h"

#include "ipc/cairn_status.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { MAX_TASKS = 5000, MAX_THREADS = 8 };

struct tally {
    unsigned n_threads;
    _Atomic int runs[MAX_TASKS];
    _Atomic bool wrong_thread;
};

static void count(void *ctx, size_t task, unsigned thread)
{
    struct tally *t = ctx;
    atomic_fetch_add(&t->runs[task], 1);
    if (thread >= t->n_threads)
        atomic_store(&t->wrong_thread, true);
}

static void check_run(struct crn_pool *pool, size_t n_tasks)
{
    static struct tally t;
    t.n_threads = crn_pool_threads(pool);
    for (size_t i = 0; i < MAX_TASKS; i++)
        atomic_store(&t.runs[i], 0);
    crn_pool_run(pool, count, &t, n_tasks);
    for (size_t i = 0; i < MAX_TASKS; i++)
        ck_assert_int_eq(atomic_load(&t.runs[i]), i < n_tasks);
    ck_assert(!atomic_load(&t.wrong_thread));
}

START_TEST(each_task_runs_once_with_any_number_of_threads)
{
    static const size_t sizes[] = { 0, 1, 2, 3, 7, 64, MAX_TASKS };
    struct crn_pool *pool = NULL;
    ck_assert_int_eq(crn_pool_create((unsigned)_i + 1, _i % 2, &pool), 0);
    ck_assert_uint_eq(crn_pool_threads(pool), (unsigned)_i + 1);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        check_run(pool, sizes[i]);
    crn_pool_destroy(pool);
}
END_TEST

START_TEST(no_pool_is_a_plain_loop)
{
    ck_assert_uint_eq(crn_pool_threads(NULL), 1);
    check_run(NULL, 17);
    crn_pool_destroy(NULL);
}
END_TEST

/* Plain memory, written by one job and read by the next: run must order them. */
struct relay {
    uint64_t cell[64];
    uint64_t round;
};

static void pass_on(void *ctx, size_t task, unsigned thread)
{
    struct relay *r = ctx;
    (void)thread;
    if (r->cell[task] == r->round)
        r->cell[task]++;
}

START_TEST(a_job_sees_everything_the_job_before_it_wrote)
{
    static struct relay r;
    struct crn_pool *pool = NULL;
    ck_assert_int_eq(crn_pool_create(3, 0, &pool), 0);
    for (r.round = 0; r.round < 20000; r.round++)
        crn_pool_run(pool, pass_on, &r, 64);
    for (size_t i = 0; i < 64; i++)
        ck_assert_uint_eq(r.cell[i], 20000);
    crn_pool_destroy(pool);
}
END_TEST

START_TEST(many_pools_work_side_by_side)
{
    struct crn_pool *pools[MAX_THREADS];
    for (unsigned i = 0; i < MAX_THREADS; i++)
        ck_assert_int_eq(crn_pool_create(i + 1, 0, &pools[i]), 0);
    for (unsigned round = 0; round < 20; round++)
        for (unsigned i = 0; i < MAX_THREADS; i++)
            check_run(pools[i], 100);
    for (unsigned i = 0; i < MAX_THREADS; i++)
        crn_pool_destroy(pools[i]);
}
END_TEST

START_TEST(a_pool_may_end_before_its_threads_ever_worked)
{
    for (int i = 0; i < 200; i++) {
        struct crn_pool *pool = NULL;
        ck_assert_int_eq(crn_pool_create(4, 0, &pool), 0);
        crn_pool_destroy(pool);
    }
}
END_TEST

START_TEST(impossible_sizes_are_refused)
{
    struct crn_pool *pool = NULL;
    ck_assert_int_eq(crn_pool_create(0, 0, &pool), CAIRN_E_ARG);
    ck_assert_int_eq(crn_pool_create(257, 0, &pool), CAIRN_E_ARG);
    ck_assert_int_eq(crn_pool_create(1, 0, NULL), CAIRN_E_ARG);
    ck_assert_ptr_null(pool);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(each_task_runs_once_with_any_number_of_threads, MAX_THREADS),
        RUN_TEST(no_pool_is_a_plain_loop),
        RUN_TEST(a_job_sees_everything_the_job_before_it_wrote),
        RUN_TEST(many_pools_work_side_by_side),
        RUN_TEST(a_pool_may_end_before_its_threads_ever_worked),
        RUN_TEST(impossible_sizes_are_refused),
    };
    return run_suite("kernels_pool", tests, sizeof tests / sizeof *tests);
}
