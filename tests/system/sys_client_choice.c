/* The choice of a plan, from the frontier that a real broker has to the counters it keeps: floor, queue, deadline, break-even. */
#include "tests/support/broker.h"
#include "tests/support/run.h"

#include <string.h>

#define N 256u

static const char *const small[] = {"--memory", "64M", NULL};

struct scene {
    struct broker b;
    int32_t context[N];
    struct cairn_client *producer, *reader;
    uint64_t whole, middle, cheap; /* plans */
};

/* A run without a state map. */
static uint64_t store_plan(struct scene *s, uint32_t first, uint32_t last, float quality)
{
    struct cairn_plan_put put = CAIRN_PLAN_PUT_INIT;
    uint64_t plan = 0;
    put.plan.producer = tiny_model(1);
    put.plan.receiver = tiny_model(2);
    put.plan.first = first;
    put.plan.last = last;
    put.plan.quality = put.plan.exact = quality;
    put.plan.own_exact = 1;
    put.plan.questions = 10;
    put.plan.cost = (float)(last + 1 - first) / TINY_LAYERS;
    ck_assert_msg(cairn_plan_store(s->reader, &put, SOON, &plan) == 0, "%s",
                  cairn_error(s->reader));
    return plan;
}

static void scene_open(struct scene *s)
{
    struct cairn_entry_id entry;
    broker_start(&s->b, small);
    tiny_tokens(s->context, N, 7);
    s->producer = tiny_open(&s->b, 1);
    s->reader = tiny_open(&s->b, 2);
    s->whole = store_plan(s, 0, 3, 1.0f);
    s->middle = store_plan(s, 1, 2, 0.97f);
    s->cheap = store_plan(s, 1, 1, 0.91f);
    store_plan(s, 2, 2, 0.5f); /* its state was not kept */
    struct tiny_entry e = {.model = 1, .context = s->context, .n_tokens = N, .n_states = 2};
    ck_assert_msg(tiny_publish(s->producer, &e, &entry) == 0, "%s", cairn_error(s->producer));
}

static void scene_close(struct scene *s)
{
    cairn_close(s->producer);
    cairn_close(s->reader);
    broker_stop(&s->b);
}

static struct cairn_query query_of(const struct scene *s)
{
    struct cairn_query q = CAIRN_QUERY_INIT;
    q.tokens = s->context;
    q.n_tokens = N;
    return q;
}

static void check_choice(struct scene *s, const struct cairn_query *q, uint64_t plan, uint32_t reason)
{
    struct cairn_lease *lease;
    ck_assert_msg(cairn_attach(s->reader, q, SOON, &lease) == 0, "%s", cairn_error(s->reader));
    const struct cairn_lease_info *info = cairn_lease_info(lease);
    ck_assert_uint_eq(info->class_, CAIRN_CLASS_APPROX);
    ck_assert_uint_eq(info->reason, reason);
    ck_assert_uint_eq(cairn_last_reason(s->reader), reason);
    ck_assert(info->plan->id == plan);
    cairn_release(lease);
}

/* 4 layers of 256 tokens: a millisecond per token and layer makes a prefill of 1024 ms. */
static void report(struct scene *s, uint32_t what, uint64_t work, uint64_t ms)
{
    struct cairn_timing t = CAIRN_TIMING_INIT;
    t.what = what;
    t.n_tokens = N;
    t.work = work;
    t.ns = ms * 1000000u;
    ck_assert_int_eq(cairn_report(s->reader, &t), 0);
}

START_TEST(floor_queue_and_deadline_pick_their_plans_and_are_counted)
{
    struct scene s;
    scene_open(&s);
    struct cairn_query q = query_of(&s);
    check_choice(&s, &q, s.whole, CAIRN_REASON_PLAN);
    q.waiting = 4; /* without a floor there is nothing to be cheaper than */
    check_choice(&s, &q, s.whole, CAIRN_REASON_PLAN);
    q.min_quality = 0.9f;
    check_choice(&s, &q, s.cheap, CAIRN_REASON_QUEUE);
    q.min_quality = 0.95f;
    check_choice(&s, &q, s.middle, CAIRN_REASON_QUEUE);
    q.waiting = 0;
    q.min_quality = 0;
    report(&s, CAIRN_TIMED_PREFILL, 4 * N, 1024);
    report(&s, CAIRN_TIMED_RUN, 2 * N, 512);
    q.first_token_ns = cairn_deadline_in(900);
    check_choice(&s, &q, s.middle, CAIRN_REASON_DEADLINE);
    q.first_token_ns = cairn_deadline_in(400);
    check_choice(&s, &q, s.cheap, CAIRN_REASON_DEADLINE);
    q.first_token_ns = cairn_deadline_in(20);
    q.min_quality = 0.95f;
    check_choice(&s, &q, s.middle, CAIRN_REASON_LATE);
    broker_await(&s.b, "choice_late_total", 1);
    ck_assert_uint_eq(broker_counter(&s.b, "choice_plan_total"), 2);
    ck_assert_uint_eq(broker_counter(&s.b, "choice_queue_total"), 2);
    ck_assert_uint_eq(broker_counter(&s.b, "choice_deadline_total"), 2);
    ck_assert_uint_eq(broker_counter(&s.b, "match_approx_total"), 7);
    ck_assert_uint_eq(broker_counter(&s.b, "attach_total"), 7);
    broker_await(&s.b, "leases", 0);
    scene_close(&s);
}
END_TEST

START_TEST(a_run_slower_than_a_prefill_is_given_up_and_counted)
{
    struct scene s;
    struct cairn_lease *lease = NULL;
    scene_open(&s);
    struct cairn_query q = query_of(&s);
    report(&s, CAIRN_TIMED_PREFILL, 4 * N, 100);
    report(&s, CAIRN_TIMED_RUN, 2 * N, 60); /* whole: 120, middle: 60 */
    check_choice(&s, &q, s.middle, CAIRN_REASON_PLAN);
    for (int i = 0; i < 8; i++)
        report(&s, CAIRN_TIMED_RUN, N, 101);
    ck_assert_int_eq(cairn_attach(s.reader, &q, SOON, &lease), CAIRN_E_MISS);
    ck_assert_ptr_null(lease);
    ck_assert_uint_eq(cairn_last_reason(s.reader), CAIRN_REASON_BREAK_EVEN);
    ck_assert_ptr_nonnull(strstr(cairn_error(s.reader), "quicker"));
    broker_await(&s.b, "choice_break_even_total", 1);
    broker_await(&s.b, "leases", 0);
    /* The producer's own entry needs no run. */
    ck_assert_int_eq(tiny_attach(s.producer, s.context, N, &lease), 0);
    ck_assert_uint_eq(cairn_lease_info(lease)->reason, CAIRN_REASON_SAME_MODEL);
    cairn_release(lease);
    scene_close(&s);
}
END_TEST

START_TEST(a_forced_plan_and_broken_timings_are_no_choice)
{
    struct scene s;
    struct cairn_timing t = CAIRN_TIMING_INIT;
    scene_open(&s);
    struct cairn_query q = query_of(&s);
    ck_assert_int_eq(cairn_report(s.reader, &t), CAIRN_E_ARG);
    ck_assert_int_eq(cairn_report(NULL, &t), CAIRN_E_ARG);
    report(&s, CAIRN_TIMED_PREFILL, 4 * N, 1);
    report(&s, CAIRN_TIMED_RUN, N, 1000);
    q.plan = s.cheap;
    check_choice(&s, &q, s.cheap, CAIRN_REASON_PLAN);
    scene_close(&s);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(floor_queue_and_deadline_pick_their_plans_and_are_counted),
        RUN_TEST(a_run_slower_than_a_prefill_is_given_up_and_counted),
        RUN_TEST(a_forced_plan_and_broken_timings_are_no_choice),
    };
    return run_suite("client_choice", tests, sizeof tests / sizeof *tests);
}
