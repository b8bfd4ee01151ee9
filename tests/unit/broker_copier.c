/* broker/copier: every job runs once, comes back once, and in time. */
#include "broker/copier.h"

#include "tests/support/run.h"

#include <poll.h>
#include <stdatomic.h>

#define JOBS 2000

struct counted {
    struct crn_job job;
    atomic_int runs;
    int done, status;
};

static struct counted jobs[JOBS];
static int n_done;

static int run(struct crn_job *job)
{
    struct counted *c = (struct counted *)job;
    atomic_fetch_add(&c->runs, 1);
    return (int)(c - jobs);
}

static void done(struct crn_job *job, int status)
{
    struct counted *c = (struct counted *)job;
    c->done++;
    c->status = status;
    n_done++;
}

START_TEST(every_job_runs_once_and_brings_its_status_back)
{
    struct crn_copier *c;
    ck_assert_int_eq(crn_copier_create((unsigned)_i + 1, &c), 0);
    n_done = 0;
    for (int i = 0; i < JOBS; i++) {
        jobs[i] = (struct counted){.job = {.run = run, .done = done}};
        crn_copier_submit(c, &jobs[i].job);
        if (i % 97 == 0)
            crn_copier_collect(c);
    }
    crn_copier_drain(c);
    ck_assert_int_eq(n_done, JOBS);
    for (int i = 0; i < JOBS; i++) {
        ck_assert_int_eq(atomic_load(&jobs[i].runs), 1);
        ck_assert_int_eq(jobs[i].done, 1);
        ck_assert_int_eq(jobs[i].status, i);
    }
    crn_copier_destroy(c);
}
END_TEST

START_TEST(the_descriptor_tells_of_finished_jobs)
{
    struct crn_copier *c;
    ck_assert_int_eq(crn_copier_create(1, &c), 0);
    struct pollfd p = {.fd = crn_copier_fd(c), .events = POLLIN};
    ck_assert_int_eq(poll(&p, 1, 0), 0);
    jobs[0] = (struct counted){.job = {.run = run, .done = done}};
    crn_copier_submit(c, &jobs[0].job);
    ck_assert_int_eq(poll(&p, 1, 5000), 1);
    ck_assert_uint_eq(crn_copier_collect(c), 1);
    ck_assert_int_eq(poll(&p, 1, 0), 0);
    crn_copier_destroy(c);
    crn_copier_destroy(NULL);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(every_job_runs_once_and_brings_its_status_back, 3),
        RUN_TEST(the_descriptor_tells_of_finished_jobs),
    };
    return run_suite("broker_copier", tests, sizeof tests / sizeof *tests);
}
