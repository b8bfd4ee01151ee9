/* The choice of a plan, from the frontier that a real broker has to the counters it keeps: floor, queue, deadline, break-even. */
#include "tests/support/broker.h"
#include "tests/support/run.h"

#include "tools/worker/share.h"

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

/* ---- what the entry kept ---- */

enum { KEPT = N / 2 };

/* Every other token of each head is kept. */
static int put_half(struct cairn_draft *draft, const struct tiny_entry *e, uint32_t layer)
{
    static float rows[TINY_HEADS * N * TINY_DIM];
    uint32_t index[KEPT];
    const uint32_t counts[TINY_HEADS] = {KEPT, KEPT}, *shared = index;
    struct cairn_put put = CAIRN_PUT_INIT;
    for (uint32_t i = 0; i < KEPT; i++)
        index[i] = 2 * i;
    put.layer = layer;
    put.dst_dtype = e->dtype;
    put.k = put.v = rows;
    put.n = N;
    put.counts = counts;
    put.index = &shared;
    put.shared_index = 1;
    return cairn_put_layer(draft, &put, SOON);
}

/* A tenth of one head and three tenths of the other in layer 0, everything elsewhere. */
static int put_uneven(struct cairn_draft *draft, const struct tiny_entry *e, uint32_t layer)
{
    static float rows[TINY_HEADS * N * TINY_DIM];
    uint32_t index[N];
    const uint32_t counts[TINY_HEADS] = {N / 10, 3 * N / 10}, *const lists[TINY_HEADS] = {index, index};
    struct cairn_put put = CAIRN_PUT_INIT;
    for (uint32_t i = 0; i < N; i++)
        index[i] = i;
    put.layer = layer;
    put.dst_dtype = e->dtype;
    put.k = put.v = rows;
    put.n = N;
    if (layer == 0) {
        put.counts = counts;
        put.index = lists;
    }
    return cairn_put_layer(draft, &put, SOON);
}

static void publish_cut(struct scene *s, uint32_t seed, uint32_t dtype, int (*layer)(struct cairn_draft *, const struct tiny_entry *, uint32_t))
{
    const struct tiny_puts puts = {tiny_put_state, layer};
    struct cairn_entry_id entry;
    tiny_tokens(s->context, N, seed);
    struct tiny_entry e = {.model = 1, .context = s->context, .n_tokens = N, .n_states = 2, .dtype = dtype, .pyramid = CAIRN_PYRAMID_PUBLISH};
    ck_assert_msg(tiny_publish_by(s->producer, &e, &puts, &entry) == 0, "%s", cairn_error(s->producer));
}

static void publish_half(struct scene *s, uint32_t seed, uint32_t dtype)
{
    publish_cut(s, seed, dtype, put_half);
}

/* The plan 1-2 again, with what it was measured to keep: of half of the tokens, and of half of them as int8. */
static uint64_t store_measured(struct scene *s, float half, float half_int8)
{
    struct cairn_plan_put put = CAIRN_PLAN_PUT_INIT;
    uint64_t plan = 0;
    put.plan = (struct cairn_plan){.producer = tiny_model(1), .receiver = tiny_model(2), .first = 1, .last = 2, .quality = 0.97f,
                                   .exact = 0.97f, .own_exact = 1, .questions = 10, .cost = 0.5f, .n_measured = 2,
                                   .measured = {{0.5f, 0.5f, half, 0}, {0.5f, 0.5f, half_int8, 1}}};
    ck_assert_int_eq(cairn_plan_store(s->reader, &put, SOON, &plan), 0);
    return plan;
}

static void check_refused(struct scene *s, const struct cairn_query *q)
{
    struct cairn_lease *lease = NULL;
    ck_assert_int_eq(cairn_attach(s->reader, q, SOON, &lease), CAIRN_E_MISS);
    ck_assert_uint_eq(cairn_last_reason(s->reader), CAIRN_REASON_QUALITY);
}

START_TEST(with_a_floor_an_entry_counts_as_what_was_measured_with_as_little)
{
    struct scene s;
    scene_open(&s);
    publish_half(&s, 8, CAIRN_F32);
    struct cairn_query q = query_of(&s);
    check_choice(&s, &q, s.whole, CAIRN_REASON_PLAN); /* no floor: whatever there is */
    q.min_quality = 0.9f;
    check_choice(&s, &q, s.whole, CAIRN_REASON_PLAN); /* it recomputes all layers: nothing that is missing matters */
    ck_assert_int_eq(cairn_plan_drop(s.reader, s.whole, SOON), 0);
    check_refused(&s, &q); /* 0.97 and 0.91 were measured with everything kept */
    uint64_t measured = store_measured(&s, 0.95f, 0.92f);
    check_choice(&s, &q, measured, CAIRN_REASON_PLAN);
    q.min_quality = 0.96f;
    check_refused(&s, &q);
    publish_half(&s, 9, CAIRN_I8);
    q.min_quality = 0.92f;
    check_choice(&s, &q, measured, CAIRN_REASON_PLAN);
    q.min_quality = 0.93f;
    check_refused(&s, &q); /* 0.95 is not what int8 gives */
    tiny_tokens(s.context, N, 7); /* and the whole entry is what it was */
    q.min_quality = 0.96f;
    check_choice(&s, &q, measured, CAIRN_REASON_PLAN);
    scene_close(&s);
}
END_TEST

/* Layers 0 and 3 are reused: a fifth of one and all of the other make six tenths, however many heads there are. */
START_TEST(layers_count_alike_whatever_their_heads_kept)
{
    static const float kept[] = {0.58f, 0.62f};
    struct scene s;
    scene_open(&s);
    ck_assert_int_eq(cairn_plan_drop(s.reader, s.whole, SOON), 0);
    publish_cut(&s, 8, CAIRN_F32, put_uneven);
    struct cairn_query q = query_of(&s);
    q.min_quality = 0.9f;
    for (int i = 0; i < 2; i++) {
        struct cairn_plan_put put = CAIRN_PLAN_PUT_INIT;
        uint64_t plan = 0;
        put.plan = (struct cairn_plan){.producer = tiny_model(1), .receiver = tiny_model(2), .first = 1, .last = 2, .quality = 1, .exact = 1,
                                       .own_exact = 1, .questions = 10, .cost = 0.5f, .n_measured = 1, .measured = {{0.5f, kept[i], 0.95f, 0}}};
        ck_assert_int_eq(cairn_plan_store(s.reader, &put, SOON, &plan), 0);
        if (i == 0)
            check_choice(&s, &q, plan, CAIRN_REASON_PLAN);
        else
            check_refused(&s, &q);
    }
    scene_close(&s);
}
END_TEST

START_TEST(less_than_was_ever_measured_does_not_meet_a_floor)
{
    struct scene s;
    struct cairn_plan_put put = CAIRN_PLAN_PUT_INIT;
    uint64_t plan = 0;
    scene_open(&s);
    ck_assert_int_eq(cairn_plan_drop(s.reader, s.whole, SOON), 0);
    publish_half(&s, 8, CAIRN_F32);
    put.plan = (struct cairn_plan){.producer = tiny_model(1), .receiver = tiny_model(2), .first = 1, .last = 2, .quality = 1, .exact = 1,
                                   .own_exact = 1, .questions = 10, .cost = 0.5f, .n_measured = 1, .measured = {{0.6f, 0.6f, 1, 0}}};
    ck_assert_int_eq(cairn_plan_store(s.reader, &put, SOON, &plan), 0);
    struct cairn_query q = query_of(&s);
    q.min_quality = 0.9f;
    check_refused(&s, &q);
    put.plan.n_measured = CAIRN_PLAN_MEASURED + 1;
    ck_assert_int_eq(cairn_plan_store(s.reader, &put, SOON, &plan), CAIRN_E_ARG);
    scene_close(&s);
}
END_TEST

/* A plan for a receiver, with the qualities of .6, .3 and .3 as int8. */
static void store_settings(struct scene *s, uint32_t receiver, float at_60, float at_30, float at_30_int8)
{
    struct cairn_plan_put put = CAIRN_PLAN_PUT_INIT;
    uint64_t plan;
    put.plan = (struct cairn_plan){.producer = tiny_model(1), .receiver = tiny_model(receiver), .first = 1, .last = 2, .quality = 1,
                                   .exact = 1, .own_exact = 1, .questions = 10, .cost = 0.5f, .n_measured = 3,
                                   .measured = {{0.6f, 0.5f, at_60, 0}, {0.3f, 0.25f, at_30, 0}, {0.3f, 0.25f, at_30_int8, 1}}};
    ck_assert_int_eq(cairn_plan_store(s->reader, &put, SOON, &plan), 0);
}

static int target(struct scene *s, float quality, uint32_t dtype, struct crn_compress *out)
{
    const struct crn_weights weights = {.digest = tiny_model(1), .shape = {.head_dim = 64}};
    *out = (struct crn_compress){.quality = quality, .dtype = dtype, .timeout_ms = 5000};
    return crn_share_target(&weights, s->producer, out);
}

START_TEST(a_floor_becomes_the_smallest_setting_that_serves_every_receiver)
{
    struct scene s;
    struct crn_compress c;
    scene_open(&s);
    ck_assert_int_eq(target(&s, 0.9f, 0, &c), CAIRN_E_MISS); /* no plan was measured with less than everything */
    store_settings(&s, 2, 0.99f, 0.97f, 0.96f);
    ck_assert_int_eq(target(&s, 0.95f, 0, &c), 0);
    ck_assert_float_eq_tol(c.rule.keep, 0.3f, 1e-5f);
    ck_assert_uint_eq(c.dtype, CAIRN_I8);
    ck_assert_int_eq(target(&s, 0.97f, 0, &c), 0);
    ck_assert_float_eq_tol(c.rule.keep, 0.3f, 1e-5f);
    ck_assert_uint_eq(c.dtype, 0);
    store_settings(&s, 3, 0.98f, 0.8f, 0.8f); /* a receiver that needs more */
    ck_assert_int_eq(target(&s, 0.97f, 0, &c), 0);
    ck_assert_float_eq_tol(c.rule.keep, 0.6f, 1e-5f);
    ck_assert_int_eq(target(&s, 0.97f, CAIRN_I8, &c), CAIRN_E_MISS);
    ck_assert_int_eq(target(&s, 0.995f, 0, &c), CAIRN_E_MISS);
    scene_close(&s);
}
END_TEST

START_TEST(a_target_in_bytes_is_met_by_tokens)
{
    const struct crn_weights weights = {.shape = {.head_dim = 64}};
    struct crn_compress c = {.bytes = 0.4f};
    ck_assert_int_eq(crn_share_target(&weights, NULL, &c), 0);
    ck_assert_float_eq_tol(c.rule.keep, 0.4f * 256 / 260, 1e-5f); /* 2 x 64 x 2 bytes a row, and 4 of its position */
    c.dtype = CAIRN_I8;
    ck_assert_int_eq(crn_share_target(&weights, NULL, &c), 0);
    ck_assert_float_eq_tol(c.rule.keep, 0.4f * 256 / 136, 1e-5f); /* 2 x 64 bytes, 2 and 2 of scales, 4 */
    c.bytes = 0.9f;
    ck_assert_int_eq(crn_share_target(&weights, NULL, &c), 0);
    ck_assert_float_eq(c.rule.keep, 1);
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
        RUN_TEST(with_a_floor_an_entry_counts_as_what_was_measured_with_as_little),
        RUN_TEST(layers_count_alike_whatever_their_heads_kept),
        RUN_TEST(less_than_was_ever_measured_does_not_meet_a_floor),
        RUN_TEST(a_floor_becomes_the_smallest_setting_that_serves_every_receiver),
        RUN_TEST(a_target_in_bytes_is_met_by_tokens),
        RUN_TEST(a_forced_plan_and_broken_timings_are_no_choice),
    };
    return run_suite("client_choice", tests, sizeof tests / sizeof *tests);
}
