/* The order of loading and computing, replayed against a clock of units: a FIFO channel that loads and a FIFO channel that
 * computes. The toy schedule of method.md 1.2.7: 10 layers, one unit per layer loaded or computed, the state counts as one load.
 * A (at 0) recomputes layers 4-10 and reuses 1-3; B (at 2) recomputes 1-3 and reuses 4-10. */
#include "client/reuse.h"
#include "tests/support/run.h"

#include <string.h>

#define STEPS_MAX 256
#define TOY_LAYERS 10u

struct steps {
    struct crn_step at[STEPS_MAX];
    uint32_t n;
};

static int record(void *ctx, const struct crn_step *step)
{
    struct steps *s = ctx;
    ck_assert_uint_lt(s->n, STEPS_MAX);
    s->at[s->n++] = *step;
    return 0;
}

static struct steps steps_of(const struct crn_reuse_spec *spec)
{
    struct steps s = {.n = 0};
    ck_assert_int_eq(crn_reuse_steps(spec, record, &s), 0);
    return s;
}

/* Layers are 0-based here: A runs 3..9, B runs 0..2. */
static const struct crn_reuse_spec toy_a = {
    .n_layers = TOY_LAYERS, .n_parts = 1, .first = 3, .last = 9, .approx = 1, .suffix = 1};
static const struct crn_reuse_spec toy_b = {
    .n_layers = TOY_LAYERS, .n_parts = 1, .first = 0, .last = 2, .approx = 1, .suffix = 1};

static int is_wait(const struct crn_step *s)
{
    return s->op == CRN_STEP_WAIT_STATE || s->op == CRN_STEP_WAIT_KV;
}

static uint32_t count(const struct steps *s, uint32_t op)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++)
        n += s->at[i].op == op;
    return n;
}

/* When each channel is free again. */
struct channels {
    uint32_t load, compute;
};

static uint32_t later(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* Loads are issued at arrival, in the order in which they are waited for; computing waits for them where the steps say so.
 * Returns the time of the last step. */
static uint32_t replay_pipelined(const struct steps *s, uint32_t arrival, struct channels *c)
{
    uint32_t loaded[STEPS_MAX], now = later(arrival, c->compute);
    for (uint32_t i = 0; i < s->n; i++) {
        if (is_wait(&s->at[i]))
            loaded[i] = c->load = later(arrival, c->load) + 1;
    }
    for (uint32_t i = 0; i < s->n; i++) {
        if (is_wait(&s->at[i]))
            now = later(now, loaded[i]);
        else if (s->at[i].op == CRN_STEP_RUN)
            now++;
    }
    c->compute = now;
    return now;
}

/* Everything is loaded, then computed, and only then the next request. */
static uint32_t replay_serial(const struct steps *s, uint32_t n_loads, uint32_t arrival, struct channels *c)
{
    uint32_t now = later(arrival, later(c->load, c->compute)) + n_loads + count(s, CRN_STEP_RUN);
    c->load = c->compute = now;
    return now;
}

START_TEST(the_toy_schedule_takes_17_units_when_it_is_pipelined)
{
    struct steps a = steps_of(&toy_a), b = steps_of(&toy_b);
    struct channels c = {0, 0};
    uint32_t ttft_a = replay_pipelined(&a, 0, &c), ttft_b = replay_pipelined(&b, 2, &c) - 2;
    ck_assert_uint_eq(ttft_a, 8);
    ck_assert_uint_eq(ttft_b, 9);
    ck_assert_uint_eq(ttft_a + ttft_b, 17);
}
END_TEST

START_TEST(the_toy_schedule_takes_30_units_when_only_what_is_needed_is_loaded_first)
{
    struct steps a = steps_of(&toy_a), b = steps_of(&toy_b);
    struct channels c = {0, 0};
    uint32_t loads_a = count(&a, CRN_STEP_WAIT_KV) + count(&a, CRN_STEP_WAIT_STATE);
    uint32_t loads_b = count(&b, CRN_STEP_WAIT_KV) + count(&b, CRN_STEP_WAIT_STATE);
    uint32_t ttft_a = replay_serial(&a, loads_a, 0, &c), ttft_b = replay_serial(&b, loads_b, 2, &c) - 2;
    ck_assert_uint_eq(ttft_a, 11);
    ck_assert_uint_eq(ttft_b, 19);
}
END_TEST

START_TEST(the_toy_schedule_takes_47_units_when_everything_is_loaded_first)
{
    struct steps a = steps_of(&toy_a), b = steps_of(&toy_b);
    struct channels c = {0, 0};
    uint32_t ttft_a = replay_serial(&a, TOY_LAYERS + count(&a, CRN_STEP_WAIT_STATE), 0, &c);
    uint32_t ttft_b = replay_serial(&b, TOY_LAYERS + count(&b, CRN_STEP_WAIT_STATE), 2, &c) - 2;
    ck_assert_uint_eq(ttft_a, 18);
    ck_assert_uint_eq(ttft_b, 29);
}
END_TEST

START_TEST(waiting_for_shared_layers_first_would_cost_units)
{
    struct steps a = steps_of(&toy_a), worse = {.n = 0};
    struct channels c = {0, 0};
    for (int kv = 1; kv >= 0; kv--) {
        for (uint32_t i = 0; i < a.n; i++) {
            if ((a.at[i].op == CRN_STEP_WAIT_KV) == kv)
                worse.at[worse.n++] = a.at[i];
        }
    }
    ck_assert_uint_eq(worse.n, a.n);
    ck_assert_uint_eq(replay_pipelined(&worse, 0, &c), 11);
}
END_TEST

START_TEST(the_state_comes_first_and_each_shared_layer_right_before_its_use)
{
    struct steps s = steps_of(&toy_a);
    uint32_t ready = 0;
    ck_assert_uint_eq(s.at[0].op, CRN_STEP_WAIT_STATE);
    ck_assert_uint_eq(s.at[0].layer, 3);
    ck_assert_uint_eq(s.at[1].op, CRN_STEP_BEGIN);
    for (uint32_t i = 0; i < s.n; i++) {
        if (s.at[i].op == CRN_STEP_WAIT_KV) {
            ready |= 1u << s.at[i].layer;
            ck_assert_uint_eq(s.at[i + 1].op, CRN_STEP_SUFFIX);
        }
        if (s.at[i].op == CRN_STEP_SUFFIX)
            ck_assert(s.at[i].layer >= 3 || (ready >> s.at[i].layer & 1) != 0);
    }
    ck_assert_uint_eq(ready, 7);
    ck_assert_uint_eq(count(&s, CRN_STEP_SUFFIX), TOY_LAYERS);
}
END_TEST

START_TEST(a_run_from_layer_zero_needs_no_state)
{
    struct steps s = steps_of(&toy_b);
    ck_assert_uint_eq(count(&s, CRN_STEP_WAIT_STATE), 0);
    ck_assert_uint_eq(s.at[0].op, CRN_STEP_BEGIN);
}
END_TEST

START_TEST(an_exact_path_runs_nothing)
{
    struct crn_reuse_spec spec = {.n_layers = 4, .n_parts = 2, .first = 1, .last = 0, .suffix = 1};
    struct steps s = steps_of(&spec);
    ck_assert_uint_eq(count(&s, CRN_STEP_RUN), 0);
    ck_assert_uint_eq(count(&s, CRN_STEP_WAIT_KV), 8);
    spec.suffix = 0;
    s = steps_of(&spec);
    ck_assert_uint_eq(s.n, 0);
}
END_TEST

START_TEST(a_prefill_pyramid_waits_for_its_positions_one_layer_ahead)
{
    struct crn_reuse_spec spec = {
        .n_layers = 6, .n_parts = 1, .first = 2, .last = 4, .approx = 1, .positions = 1};
    struct steps s = steps_of(&spec);
    static const struct crn_step want[] = {
        {CRN_STEP_WAIT_STATE, 0, 2}, {CRN_STEP_BEGIN, 0, 2}, {CRN_STEP_WAIT_KV, 0, 3}, {CRN_STEP_RUN, 0, 2},
        {CRN_STEP_WAIT_KV, 0, 4},    {CRN_STEP_RUN, 0, 3},   {CRN_STEP_RUN, 0, 4},
    };
    ck_assert_uint_eq(s.n, sizeof want / sizeof want[0]);
    ck_assert_int_eq(memcmp(s.at, want, sizeof want), 0);
}
END_TEST

START_TEST(a_later_part_waits_for_the_shared_layers_of_earlier_parts_but_not_at_its_last_layer)
{
    struct crn_reuse_spec spec = {.n_layers = 4, .n_parts = 2, .first = 1, .last = 2, .approx = 2};
    struct steps s = steps_of(&spec);
    static const struct crn_step want[] = {
        {CRN_STEP_WAIT_STATE, 1, 1}, {CRN_STEP_BEGIN, 1, 1}, {CRN_STEP_WAIT_KV, 0, 1},
        {CRN_STEP_RUN, 1, 1},        {CRN_STEP_RUN, 1, 2},
    };
    ck_assert_uint_eq(s.n, sizeof want / sizeof want[0]);
    ck_assert_int_eq(memcmp(s.at, want, sizeof want), 0);
}
END_TEST

static int fail_at_third(void *ctx, const struct crn_step *step)
{
    uint32_t *n = ctx;
    (void)step;
    return ++*n == 3 ? -7 : 0;
}

START_TEST(the_first_failure_ends_the_walk_with_its_code)
{
    uint32_t n = 0;
    ck_assert_int_eq(crn_reuse_steps(&toy_a, fail_at_third, &n), -7);
    ck_assert_uint_eq(n, 3);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(the_toy_schedule_takes_17_units_when_it_is_pipelined),
        RUN_TEST(the_toy_schedule_takes_30_units_when_only_what_is_needed_is_loaded_first),
        RUN_TEST(the_toy_schedule_takes_47_units_when_everything_is_loaded_first),
        RUN_TEST(waiting_for_shared_layers_first_would_cost_units),
        RUN_TEST(the_state_comes_first_and_each_shared_layer_right_before_its_use),
        RUN_TEST(a_run_from_layer_zero_needs_no_state),
        RUN_TEST(an_exact_path_runs_nothing),
        RUN_TEST(a_prefill_pyramid_waits_for_its_positions_one_layer_ahead),
        RUN_TEST(a_later_part_waits_for_the_shared_layers_of_earlier_parts_but_not_at_its_last_layer),
        RUN_TEST(the_first_failure_ends_the_walk_with_its_code),
    };
    return run_suite("client_reuse", tests, sizeof tests / sizeof tests[0]);
}
