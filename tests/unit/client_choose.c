/* client/choose, client/speed: known best choices, and what holds for all of them: no plan that costs more than a prefill, and no
 * cheaper plan for a stricter floor. */
#include "tests/support/rand.h"
#include "tests/support/run.h"

#include "client/cairn.h"
#include "client/speed.h"

#include <stdlib.h>

/* One unit per layer computed and per layer loaded: 1 token, 1 s per token-layer, 1 byte per layer, 1 byte/s. */
static const struct crn_speed toy = {.prefill_ns = 1e9, .run_ns = 1e9, .bytes_per_s = {1, 1, 1, 1}};
static const struct crn_wish toy_wish = {.n_tokens = 1, .n_cached = 1, .n_layers = 10};

/* method.md 1.2.7: A recomputes 7 of 10 layers from a state and loads 3: 8 units; B recomputes 3 without a state and loads 7. */
START_TEST(the_toy_schedule_of_the_paper_is_estimated_exactly)
{
    struct crn_option a = {1, 1, 7, 1, 3, CAIRN_TIER_NVME}, b = {2, 1, 3, 0, 7, CAIRN_TIER_NVME};
    ck_assert_uint_eq(crn_choose_estimate(&toy, &toy_wish, &a), 8000000000u);
    ck_assert_uint_eq(crn_choose_estimate(&toy, &toy_wish, &b), 7000000000u);
    ck_assert_uint_eq(crn_choose_prefill(&toy, &toy_wish), 10000000000u);
}
END_TEST

START_TEST(tokens_that_are_not_cached_cost_a_prefill_of_their_own)
{
    struct crn_wish wish = {.n_tokens = 30, .n_cached = 20, .n_layers = 10};
    struct crn_option o = {1, 1, 60, 0, 0, CAIRN_TIER_HOST};
    ck_assert_uint_eq(crn_choose_estimate(&toy, &wish, &o), 160000000000u);
    ck_assert_uint_eq(crn_choose_prefill(&toy, &wish), 300000000000u);
}
END_TEST

/* Quality against work, all in memory. */
static const struct crn_option frontier[] = {
    {11, 1.00f, 9, 0, 0, CAIRN_TIER_HOST}, {12, 0.98f, 6, 0, 0, CAIRN_TIER_HOST},
    {13, 0.95f, 4, 0, 0, CAIRN_TIER_HOST}, {14, 0.60f, 1, 0, 0, CAIRN_TIER_HOST},
};

static uint64_t chosen(const struct crn_speed *speed, struct crn_wish wish, uint32_t *out_reason)
{
    struct crn_choice c = crn_choose(speed, &wish, frontier, 4);
    *out_reason = c.reason;
    return c.index == CRN_CHOOSE_NONE ? 0 : frontier[c.index].plan;
}

START_TEST(known_best_choices)
{
    static const struct {
        float floor;
        uint32_t waiting, limit_s, reason;
        uint64_t plan;
    } rows[] = {
        {0, 0, 0, CAIRN_REASON_PLAN, 11},         {0.9f, 0, 0, CAIRN_REASON_PLAN, 11},
        {0.9f, 3, 0, CAIRN_REASON_QUEUE, 13},     {0.97f, 3, 0, CAIRN_REASON_QUEUE, 12},
        {0.5f, 3, 0, CAIRN_REASON_QUEUE, 14},     {0, 3, 0, CAIRN_REASON_PLAN, 11},
        {0, 0, 9, CAIRN_REASON_PLAN, 11},         {0, 0, 8, CAIRN_REASON_DEADLINE, 12},
        {0, 0, 5, CAIRN_REASON_DEADLINE, 13},     {0.97f, 0, 5, CAIRN_REASON_LATE, 12},
        {0.9f, 0, 1, CAIRN_REASON_LATE, 13},      {0, 0, 1, CAIRN_REASON_DEADLINE, 14},
        {1.0f, 3, 1, CAIRN_REASON_QUEUE, 11},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct crn_wish wish = toy_wish;
        uint32_t reason;
        wish.min_quality = rows[i].floor;
        wish.waiting = rows[i].waiting;
        wish.limit_ns = rows[i].limit_s * 1000000000ull;
        ck_assert_msg(chosen(&toy, wish, &reason) == rows[i].plan && reason == rows[i].reason,
                      "row %zu: reason %u", i, reason);
    }
}
END_TEST

START_TEST(a_plan_slower_than_a_prefill_is_not_used_however_good)
{
    struct crn_speed slow = toy;
    uint32_t reason;
    slow.run_ns = 2e9; /* a map, say: 9 rows take 18 s, 6 take 12 s, a prefill 10 s */
    ck_assert_uint_eq(chosen(&slow, toy_wish, &reason), 13);
    ck_assert_uint_eq(reason, CAIRN_REASON_PLAN);
    slow.run_ns = 20e9;
    ck_assert_uint_eq(chosen(&slow, toy_wish, &reason), 0);
    ck_assert_uint_eq(reason, CAIRN_REASON_BREAK_EVEN);
    struct crn_option exact = {0, 1, 0, 0, 11, CAIRN_TIER_NVME}; /* 11 s to load */
    struct crn_choice c = crn_choose(&toy, &toy_wish, &exact, 1);
    ck_assert_uint_eq(c.reason, CAIRN_REASON_BREAK_EVEN);
    exact.kv_bytes = 9;
    c = crn_choose(&toy, &toy_wish, &exact, 1);
    ck_assert_uint_eq(c.reason, CAIRN_REASON_SAME_MODEL);
    ck_assert_uint_eq(c.estimate_ns, 9000000000u);
}
END_TEST

START_TEST(what_is_not_known_refuses_nothing)
{
    struct crn_speed unknown = {0};
    struct crn_wish wish = toy_wish;
    uint32_t reason;
    wish.limit_ns = 1;
    ck_assert_uint_eq(chosen(&unknown, wish, &reason), 11);
    ck_assert_uint_eq(reason, CAIRN_REASON_PLAN);
    wish.min_quality = 1.5f;
    ck_assert_uint_eq(chosen(&unknown, wish, &reason), 0);
    ck_assert_uint_eq(reason, CAIRN_REASON_QUALITY);
}
END_TEST

/* ---- properties over random frontiers ---- */

#define MAX_OPTIONS 8

struct world {
    struct crn_speed speed;
    struct crn_wish wish;
    struct crn_option options[MAX_OPTIONS];
    size_t n;
};

static struct world random_world(struct rand *r)
{
    struct world w = {.n = 1 + rand_below(r, MAX_OPTIONS)};
    w.speed.prefill_ns = (double)rand_below(r, 4) * 1e3;
    w.speed.run_ns = (double)rand_below(r, 6) * 1e3;
    w.speed.suffix_ns = (double)rand_below(r, 2) * 1e5;
    w.speed.bytes_per_s[CAIRN_TIER_NVME] = (double)rand_below(r, 3) * 1e9;
    w.wish = (struct crn_wish){.n_tokens = 100, .n_cached = 100, .n_layers = 10};
    w.wish.waiting = (uint32_t)rand_below(r, 2);
    w.wish.limit_ns = rand_below(r, 2) * rand_below(r, 6000000);
    for (size_t i = 0; i < w.n; i++)
        w.options[i] = (struct crn_option){.plan = i + 1,
                                           .quality = (float)(1 + rand_below(r, 10)) / 10.0f,
                                           .run_tokens = rand_below(r, 1001),
                                           .state_bytes = rand_below(r, 100000),
                                           .kv_bytes = rand_below(r, 1000000),
                                           .tier = CAIRN_TIER_NVME};
    return w;
}

START_TEST(no_plan_costs_more_than_a_prefill_and_a_stricter_floor_none_less)
{
    struct rand r = rand_seeded(rand_default_seed());
    for (int run = 0; run < 20000; run++) {
        struct world w = random_world(&r);
        uint64_t prefill = crn_choose_prefill(&w.speed, &w.wish), work = 0, ns = 0;
        for (int tenth = 1; tenth <= 10; tenth++) {
            w.wish.min_quality = (float)tenth / 10.0f;
            struct crn_choice c = crn_choose(&w.speed, &w.wish, w.options, w.n);
            if (c.index == CRN_CHOOSE_NONE)
                break;
            const struct crn_option *o = &w.options[c.index];
            ck_assert_float_ge(o->quality, w.wish.min_quality);
            ck_assert(prefill == 0 || c.estimate_ns <= prefill);
            if (w.wish.waiting > 0) {
                ck_assert_uint_ge(o->run_tokens, work);
                work = o->run_tokens;
            } else if (c.reason == CAIRN_REASON_LATE) {
                ck_assert_uint_ge(c.estimate_ns, ns);
                ns = c.estimate_ns;
            }
        }
    }
}
END_TEST

/* Whatever order the broker lists them in. */
START_TEST(the_order_of_the_options_does_not_matter)
{
    struct rand r = rand_seeded(rand_default_seed() + 1);
    for (int run = 0; run < 5000; run++) {
        struct world w = random_world(&r);
        w.wish.min_quality = (float)rand_below(&r, 10) / 10.0f;
        struct crn_choice a = crn_choose(&w.speed, &w.wish, w.options, w.n);
        uint64_t plan = a.index == CRN_CHOOSE_NONE ? 0 : w.options[a.index].plan;
        for (size_t i = w.n; i > 1; i--) {
            size_t j = rand_below(&r, i);
            struct crn_option x = w.options[i - 1];
            w.options[i - 1] = w.options[j];
            w.options[j] = x;
        }
        struct crn_choice b = crn_choose(&w.speed, &w.wish, w.options, w.n);
        ck_assert_uint_eq(a.reason, b.reason);
        ck_assert(plan == (b.index == CRN_CHOOSE_NONE ? 0 : w.options[b.index].plan));
    }
}
END_TEST

/* ---- what is learned ---- */

START_TEST(one_outlier_does_not_move_an_average)
{
    struct crn_average a = {{0}, 0};
    ck_assert_double_eq(crn_average_of(&a), 0);
    crn_average_add(&a, 900);
    crn_average_add(&a, 10);
    ck_assert_double_eq(crn_average_of(&a), 10);
    crn_average_add(&a, 12);
    ck_assert_double_eq(crn_average_of(&a), 12);
    for (int i = 0; i < 20; i++) {
        crn_average_add(&a, i == 11 ? 1e9 : 10);
        ck_assert_double_le(crn_average_of(&a), 12);
    }
    for (int i = 0; i < 8; i++)
        crn_average_add(&a, 30);
    ck_assert_double_eq(crn_average_of(&a), 30);
}
END_TEST

START_TEST(speeds_are_those_of_the_nearest_length)
{
    static struct crn_learned l;
    ck_assert_int_eq(crn_learned_add(&l, CAIRN_TIMED_PREFILL, 1000, 30000, 60000), 0);
    ck_assert_int_eq(crn_learned_add(&l, CAIRN_TIMED_PREFILL, 8000, 240000, 960000), 0);
    ck_assert_int_eq(crn_learned_add(&l, CAIRN_TIMED_SUFFIX, 1000, 1, 77), 0);
    ck_assert_double_eq(crn_learned_speed(&l, 900).prefill_ns, 2);
    ck_assert_double_eq(crn_learned_speed(&l, 1).prefill_ns, 2);
    ck_assert_double_eq(crn_learned_speed(&l, 100000).prefill_ns, 4);
    ck_assert_double_eq(crn_learned_speed(&l, 5000).prefill_ns, 4);
    ck_assert_double_eq(crn_learned_speed(&l, 5000).run_ns, 0);
    ck_assert_double_eq(crn_learned_speed(&l, 5000).suffix_ns, 77);
    ck_assert_int_eq(crn_learned_add(&l, 0, 1, 1, 1), CAIRN_E_ARG);
    ck_assert_int_eq(crn_learned_add(&l, 4, 1, 1, 1), CAIRN_E_ARG);
    ck_assert_int_eq(crn_learned_add(&l, CAIRN_TIMED_RUN, 0, 1, 1), CAIRN_E_ARG);
    ck_assert_int_eq(crn_learned_add(&l, CAIRN_TIMED_RUN, 5, 0, 1), CAIRN_E_ARG);
    ck_assert_int_eq(crn_learned_add(&l, CAIRN_TIMED_RUN, CAIRN_MAX_TOKENS, 1, 1), 0);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(the_toy_schedule_of_the_paper_is_estimated_exactly),
        RUN_TEST(tokens_that_are_not_cached_cost_a_prefill_of_their_own),
        RUN_TEST(known_best_choices),
        RUN_TEST(a_plan_slower_than_a_prefill_is_not_used_however_good),
        RUN_TEST(what_is_not_known_refuses_nothing),
        RUN_TEST(no_plan_costs_more_than_a_prefill_and_a_stricter_floor_none_less),
        RUN_TEST(the_order_of_the_options_does_not_matter),
        RUN_TEST(one_outlier_does_not_move_an_average),
        RUN_TEST(speeds_are_those_of_the_nearest_length),
    };
    return run_suite("client_choose", tests, sizeof tests / sizeof *tests);
}
