/* broker/extent: no granule is handed out twice, free neighbours always merge, and old extents are recognised. */
#include "broker/extent.h"

#include "ipc/cairn_status.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"

#include <stdlib.h>
#include <string.h>

#define GRANULES 1000u

static struct crn_extents *book(uint32_t n)
{
    struct crn_extents *x = NULL;
    ck_assert_int_eq(crn_extents_create(n, &x), 0);
    return x;
}

static struct crn_extent taken(struct crn_extents *x, uint32_t n)
{
    struct crn_extent e = {0};
    ck_assert_int_eq(crn_extents_alloc(x, n, &e), 0);
    return e;
}

START_TEST(a_new_book_is_one_free_run)
{
    struct crn_extents *x = book(GRANULES);
    struct crn_extents_view v = crn_extents_view(x);
    ck_assert_uint_eq(v.largest_free, GRANULES);
    ck_assert_uint_eq(v.free_runs, 1);
    ck_assert_int_eq(crn_extents_check(x), 0);
    crn_extents_destroy(x);
    ck_assert_int_eq(crn_extents_create(0, &x), CAIRN_E_ARG);
}
END_TEST

START_TEST(the_smallest_run_that_fits_is_used)
{
    struct crn_extents *x = book(GRANULES);
    struct crn_extent big = taken(x, 300), wall = taken(x, 1), small = taken(x, 70);
    struct crn_extent wall2 = taken(x, 1), mid = taken(x, 100), wall3 = taken(x, 1);
    ck_assert_int_eq(crn_extents_free(x, &big), 0);
    ck_assert_int_eq(crn_extents_free(x, &small), 0);
    ck_assert_int_eq(crn_extents_free(x, &mid), 0);
    ck_assert_uint_eq(taken(x, 69).first, small.first);
    ck_assert_uint_eq(taken(x, 99).first, mid.first);
    ck_assert_uint_eq(taken(x, 101).first, big.first);
    ck_assert_int_eq(crn_extents_check(x), 0);
    ck_assert_uint_lt(wall.first, wall2.first);
    ck_assert_uint_lt(wall2.first, wall3.first);
    crn_extents_destroy(x);
}
END_TEST

START_TEST(freed_neighbours_merge_on_both_sides)
{
    struct crn_extents *x = book(30);
    struct crn_extent a = taken(x, 10), b = taken(x, 10), c = taken(x, 10);
    struct crn_extent none = {7, 7, 7};
    ck_assert_int_eq(crn_extents_alloc(x, 1, &none), CAIRN_E_FULL);
    ck_assert_uint_eq(none.first, 7);
    ck_assert_int_eq(crn_extents_free(x, &a), 0);
    ck_assert_int_eq(crn_extents_free(x, &c), 0);
    ck_assert_uint_eq(crn_extents_view(x).free_runs, 2);
    ck_assert_int_eq(crn_extents_free(x, &b), 0);
    ck_assert_uint_eq(crn_extents_view(x).free_runs, 1);
    ck_assert_uint_eq(crn_extents_view(x).largest_free, 30);
    crn_extents_destroy(x);
}
END_TEST

START_TEST(an_extent_that_was_freed_is_stale_for_ever)
{
    struct crn_extents *x = book(GRANULES);
    struct crn_extent old = taken(x, 5), wrong = old;
    ck_assert_int_eq(crn_extents_free(x, &old), 0);
    ck_assert_int_eq(crn_extents_free(x, &old), CAIRN_E_STALE);
    struct crn_extent now = taken(x, 5);
    ck_assert_uint_eq(now.first, old.first);
    ck_assert_uint_ne(now.generation, old.generation);
    ck_assert_int_eq(crn_extents_free(x, &old), CAIRN_E_STALE);
    wrong = now;
    wrong.n = 4;
    ck_assert_int_eq(crn_extents_free(x, &wrong), CAIRN_E_STALE);
    wrong = now;
    wrong.first = GRANULES;
    ck_assert_int_eq(crn_extents_free(x, &wrong), CAIRN_E_STALE);
    wrong.first = 1;
    wrong.n = UINT32_MAX;
    ck_assert_int_eq(crn_extents_free(x, &wrong), CAIRN_E_STALE);
    ck_assert_int_eq(crn_extents_free(x, &now), 0);
    crn_extents_destroy(x);
}
END_TEST

START_TEST(random_use_keeps_every_invariant)
{
    static struct crn_extent held[GRANULES];
    static uint8_t owner[GRANULES];
    struct rand r = rand_seeded(rand_default_seed() + (uint64_t)_i);
    struct crn_extents *x = book(GRANULES);
    size_t n_held = 0;
    uint32_t used = 0;
    memset(owner, 0, sizeof owner);
    for (int step = 0; step < 20000; step++) {
        struct crn_extent e;
        uint32_t n = 1 + (uint32_t)rand_below(&r, rand_below(&r, 10) == 0 ? 200 : 20);
        if (rand_below(&r, 2) == 0 && crn_extents_alloc(x, n, &e) == 0) {
            for (uint32_t g = e.first; g < e.first + e.n; g++)
                ck_assert_msg(owner[g]++ == 0, "granule %u handed out twice, step %d", g, step);
            ck_assert_uint_eq(e.n, n);
            held[n_held++] = e;
            used += n;
        } else if (n_held > 0) {
            size_t which = rand_below(&r, n_held);
            e = held[which];
            held[which] = held[--n_held];
            memset(owner + e.first, 0, e.n);
            ck_assert_int_eq(crn_extents_free(x, &e), 0);
            used -= e.n;
        }
        ck_assert_uint_eq(crn_extents_view(x).used, used);
        if (step % 64 == 0)
            ck_assert_msg(crn_extents_check(x) == 0, "step %d", step);
    }
    while (n_held > 0)
        ck_assert_int_eq(crn_extents_free(x, &held[--n_held]), 0);
    ck_assert_uint_eq(crn_extents_view(x).largest_free, GRANULES);
    ck_assert_int_eq(crn_extents_check(x), 0);
    crn_extents_destroy(x);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(a_new_book_is_one_free_run),
        RUN_TEST(the_smallest_run_that_fits_is_used),
        RUN_TEST(freed_neighbours_merge_on_both_sides),
        RUN_TEST(an_extent_that_was_freed_is_stale_for_ever),
        RUN_LOOP(random_use_keeps_every_invariant, 8),
    };
    return run_suite("broker_extent", tests, sizeof tests / sizeof *tests);
}
