/* tools/frontier: nobody on the frontier is beaten, nobody off it is unbeaten, and adding a run never removes a better one. */
#include "tools/frontier.h"

#include "tests/support/rand.h"
#include "tests/support/run.h"

#include <stdlib.h>
#include <string.h>

static struct crn_point point(uint32_t first, uint32_t last, double quality, double cost_s)
{
    return (struct crn_point){.first = first, .last = last, .quality = quality, .cost_s = cost_s, .bytes = 1000};
}

START_TEST(the_frontier_of_a_known_set_is_the_known_one)
{
    struct crn_point p[] = {
        point(1, 0, 0.40, 1),   /* full reuse: the cheapest */
        point(4, 5, 0.35, 2),   /* dearer and worse */
        point(2, 5, 0.90, 4),   /* the optimum below 5 */
        point(1, 4, 0.80, 4),   /* same cost, worse */
        point(0, 5, 0.95, 6),
        point(0, 7, 0.95, 8),   /* as good, dearer */
    };
    static const bool want[] = {true, false, true, false, true, false};
    ck_assert_uint_eq(crn_frontier_mark(p, 6), 3);
    for (int i = 0; i < 6; i++)
        ck_assert_int_eq(p[i].on_frontier, want[i]);
    ck_assert_ptr_eq(crn_frontier_choose(p, 6, 0, 0.9), &p[2]);
    ck_assert_ptr_eq(crn_frontier_choose(p, 6, 0, 0.91), &p[4]);
    ck_assert_ptr_eq(crn_frontier_choose(p, 6, 0, 0), &p[0]);
    ck_assert_ptr_null(crn_frontier_choose(p, 6, 0, 0.96));
    ck_assert_ptr_null(crn_frontier_choose(p, 6, 1, 0));
}
END_TEST

START_TEST(ties_go_to_fewer_layers_then_fewer_bytes_then_the_earlier_start)
{
    struct crn_point p[] = {point(4, 9, 0.9, 3), point(5, 9, 0.9, 3), point(6, 10, 0.9, 3), point(3, 7, 0.9, 3)};
    p[2].bytes = 900;
    crn_frontier_mark(p, 4);
    ck_assert(!p[0].on_frontier && !p[1].on_frontier && p[2].on_frontier && !p[3].on_frontier);
    p[2].bytes = 1000;
    crn_frontier_mark(p, 4);
    ck_assert(!p[0].on_frontier && !p[1].on_frontier && !p[2].on_frontier && p[3].on_frontier);
}
END_TEST

START_TEST(the_best_of_the_frontier_each_have_a_start_of_their_own)
{
    struct crn_point p[] = {point(1, 0, 0.40, 1), point(4, 5, 0.60, 2), point(4, 6, 0.70, 3), point(2, 5, 0.90, 4), point(0, 3, 0.92, 5),
                            point(1, 9, 0.95, 9), point(3, 6, 0.50, 4)};
    uint32_t runs[4][2];
    crn_frontier_mark(p, 7);
    ck_assert_uint_eq(crn_frontier_best(p, 7, 5, 4, runs), 2); /* not from layer 0, not nine layers, not 4-5 beside 4-6, not beaten ones */
    ck_assert(runs[0][0] == 2 && runs[0][1] == 5 && runs[1][0] == 4 && runs[1][1] == 6);
    ck_assert_uint_eq(crn_frontier_best(p, 7, 5, 1, runs), 1);
    ck_assert_uint_eq(runs[0][0], 2);
    ck_assert_uint_eq(crn_frontier_best(p, 7, 1, 4, runs), 0);
}
END_TEST

START_TEST(settings_do_not_compete)
{
    struct crn_point p[] = {point(2, 5, 0.9, 4), point(2, 5, 0.5, 5)};
    p[1].setting = 1;
    ck_assert_uint_eq(crn_frontier_mark(p, 2), 2);
}
END_TEST

#define MANY 60

/* Few values on purpose: ties are what goes wrong. */
static void random_points(struct rand *r, struct crn_point *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t first = (uint32_t)rand_below(r, 8);
        p[i] = point(first, first + (uint32_t)rand_below(r, 4), (double)rand_below(r, 6) / 5, (double)(1 + rand_below(r, 6)));
        p[i].bytes = 100 * rand_below(r, 3);
        p[i].setting = (uint32_t)rand_below(r, 2);
        p[i].variant = (uint32_t)i; /* so no two are alike */
    }
}

START_TEST(the_frontier_is_what_no_other_beats)
{
    struct rand r = rand_seeded(rand_default_seed() + (uint64_t)_i);
    struct crn_point p[MANY];
    random_points(&r, p, MANY);
    ck_assert_uint_gt(crn_frontier_mark(p, MANY), 0);
    for (size_t i = 0; i < MANY; i++) {
        bool beaten = false;
        for (size_t j = 0; j < MANY; j++) {
            beaten |= crn_point_beats(&p[j], &p[i]);
            ck_assert(!(crn_point_beats(&p[i], &p[j]) && crn_point_beats(&p[j], &p[i])));
        }
        ck_assert_int_eq(p[i].on_frontier, !beaten);
    }
}
END_TEST

/* What leaves the frontier when a point comes was beaten by that point; what was beaten before stays so. */
START_TEST(adding_a_run_never_removes_a_better_one)
{
    struct rand r = rand_seeded(rand_default_seed() + 1000 + (uint64_t)_i);
    struct crn_point p[MANY], before[MANY];
    random_points(&r, p, MANY);
    for (size_t n = 1; n < MANY; n++) {
        crn_frontier_mark(p, n);
        memcpy(before, p, sizeof p);
        const struct crn_point *choice = crn_frontier_choose(p, n, 0, 0.6);
        double cost = choice != NULL ? choice->cost_s : 1e9;
        crn_frontier_mark(p, n + 1);
        for (size_t i = 0; i < n; i++) {
            if (before[i].on_frontier && !p[i].on_frontier)
                ck_assert(crn_point_beats(&p[n], &p[i]));
            ck_assert(before[i].on_frontier || !p[i].on_frontier);
        }
        choice = crn_frontier_choose(p, n + 1, 0, 0.6);
        ck_assert((choice != NULL ? choice->cost_s : 1e9) <= cost);
    }
}
END_TEST

START_TEST(a_stricter_floor_never_chooses_a_cheaper_run)
{
    struct rand r = rand_seeded(rand_default_seed() + 2000 + (uint64_t)_i);
    struct crn_point p[MANY];
    double last = 0;
    random_points(&r, p, MANY);
    for (int floor = 0; floor <= 10; floor++) {
        const struct crn_point *q = crn_frontier_choose(p, MANY, 0, floor / 10.0);
        double cost = q != NULL ? q->cost_s : 1e9;
        ck_assert(cost >= last);
        if (q != NULL) {
            crn_frontier_mark(p, MANY);
            ck_assert(q->on_frontier);
        }
        last = cost;
    }
}
END_TEST

START_TEST(all_runs_of_smollm_in_groups_of_two_are_120)
{
    struct crn_runs runs;
    ck_assert_int_eq(crn_runs_all(30, 2, 0, &runs), 0);
    ck_assert_uint_eq(runs.n, 120);
    for (size_t i = 0; i < runs.n; i++) {
        ck_assert_uint_eq(runs.list[i][0] % 2, 0);
        ck_assert_uint_eq(runs.list[i][1] % 2, 1);
    }
    free(runs.list);
    ck_assert_int_eq(crn_runs_all(30, 2, 11, &runs), 0);
    ck_assert_uint_eq(runs.n, 15 + 14 + 13 + 12 + 11);
    free(runs.list);
    ck_assert_int_eq(crn_runs_all(32, 1, 0, &runs), 0); /* method.md 1.2.3 */
    ck_assert_uint_eq(runs.n, 528);
    free(runs.list);
    ck_assert_int_eq(crn_runs_all(7, 5, 0, &runs), 0); /* 0-4 0-6 5-6 */
    ck_assert_uint_eq(runs.n, 3);
    char *text = crn_runs_text(&runs);
    ck_assert_str_eq(text, "0-4,0-6,5-6");
    free(text);
    free(runs.list);
}
END_TEST

START_TEST(runs_about_one_stay_inside_the_model_and_come_once)
{
    struct crn_runs runs = {0};
    static const uint32_t run[2] = {1, 3};
    ck_assert_int_eq(crn_runs_about(5, 1, 2, 3, run, &runs), 0);
    for (size_t i = 0; i < runs.n; i++) {
        ck_assert(runs.list[i][0] <= runs.list[i][1] && runs.list[i][1] < 5 && runs.list[i][1] - runs.list[i][0] < 3);
        for (size_t j = 0; j < i; j++)
            ck_assert(memcmp(runs.list[i], runs.list[j], sizeof runs.list[i]) != 0);
    }
    ck_assert_uint_eq(runs.n, 10); /* 0-1 0-2 1-1 1-2 1-3 2-2 2-3 2-4 3-3 3-4 */
    size_t n = runs.n;
    ck_assert_int_eq(crn_runs_about(5, 1, 2, 3, run, &runs), 0);
    ck_assert_uint_eq(runs.n, n);
    free(runs.list);
}
END_TEST

START_TEST(runs_about_one_start_in_steps_and_end_anywhere)
{
    struct crn_runs runs = {0};
    static const uint32_t run[2] = {15, 24};
    int longest = 0;
    ck_assert_int_eq(crn_runs_about(30, 2, 5, 11, run, &runs), 0);
    for (size_t i = 0; i < runs.n; i++) {
        ck_assert_uint_eq(runs.list[i][0] % 2, 1);
        ck_assert_uint_le(runs.list[i][1] - runs.list[i][0] + 1, 11);
        longest |= runs.list[i][0] == 13 && runs.list[i][1] == 23;
    }
    ck_assert(longest);
    free(runs.list);
}
END_TEST

START_TEST(the_interval_is_wilsons)
{
    double low, high;
    crn_interval(117, 120, &low, &high); /* docs/quality.md: 0.975, 0.929 to 0.991 */
    ck_assert_double_eq_tol(low, 0.929, 0.0006);
    ck_assert_double_eq_tol(high, 0.991, 0.0006);
    crn_interval(0, 0, &low, &high);
    ck_assert(low >= 0 && high <= 1 && low <= high);
    struct crn_point p = {.quality = 0.98, .n = 120, .n_exact = 117};
    crn_point_interval(&p, &low, &high);
    ck_assert_double_eq_tol(low, 0.929, 0.0006);
    p.error = 0.02; /* agreement: by its standard error, inside 0 .. 1 */
    crn_point_interval(&p, &low, &high);
    ck_assert_double_eq_tol(low, 0.98 - 0.0392, 1e-9);
    ck_assert_double_eq_tol(high, 1, 1e-12);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(the_frontier_of_a_known_set_is_the_known_one),
        RUN_TEST(ties_go_to_fewer_layers_then_fewer_bytes_then_the_earlier_start),
        RUN_TEST(the_best_of_the_frontier_each_have_a_start_of_their_own),
        RUN_TEST(settings_do_not_compete),
        RUN_LOOP(the_frontier_is_what_no_other_beats, 20),
        RUN_LOOP(adding_a_run_never_removes_a_better_one, 20),
        RUN_LOOP(a_stricter_floor_never_chooses_a_cheaper_run, 20),
        RUN_TEST(all_runs_of_smollm_in_groups_of_two_are_120),
        RUN_TEST(runs_about_one_stay_inside_the_model_and_come_once),
        RUN_TEST(runs_about_one_start_in_steps_and_end_anywhere),
        RUN_TEST(the_interval_is_wilsons),
    };
    return run_suite("tools_frontier", tests, sizeof tests / sizeof *tests);
}
