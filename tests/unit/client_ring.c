/* The allocator of a landing zone: order, wrapping, room given back out of order. */
#include "client/ring.h"
#include "ipc/cairn_status.h"
#include "tests/support/run.h"

#include <string.h>

static struct crn_ring ring;

START_TEST(spans_follow_each_other_and_never_start_at_zero)
{
    uint64_t a, b;
    crn_ring_init(&ring, 4096);
    ck_assert_int_eq(crn_ring_take(&ring, 100, &a), 0);
    ck_assert_int_eq(crn_ring_take(&ring, 1, &b), 0);
    ck_assert_uint_eq(a, 64);
    ck_assert_uint_eq(b, 64 + 128);
}
END_TEST

START_TEST(more_than_the_zone_is_full_and_more_than_is_free_is_busy)
{
    uint64_t a, poison = 77;
    crn_ring_init(&ring, 4096);
    ck_assert_int_eq(crn_ring_take(&ring, 4096 - 63, &poison), CAIRN_E_FULL);
    ck_assert_int_eq(crn_ring_take(&ring, UINT64_MAX, &poison), CAIRN_E_FULL);
    ck_assert_int_eq(crn_ring_take(&ring, 4096 - 64, &a), 0);
    ck_assert_int_eq(crn_ring_take(&ring, 1, &poison), CAIRN_E_BUSY);
    ck_assert_uint_eq(poison, 77);
    crn_ring_cancel(&ring, a);
    ck_assert_int_eq(crn_ring_take(&ring, 1, &a), 0);
}
END_TEST

START_TEST(room_is_free_again_when_everything_older_is)
{
    uint64_t a, b, c;
    crn_ring_init(&ring, 64 + 3 * 1024);
    ck_assert_int_eq(crn_ring_take(&ring, 1024, &a), 0);
    ck_assert_int_eq(crn_ring_take(&ring, 1024, &b), 0);
    ck_assert_int_eq(crn_ring_take(&ring, 1024, &c), 0);
    crn_ring_send(&ring, a, 1);
    crn_ring_send(&ring, b, 2);
    crn_ring_send(&ring, c, 3);
    ck_assert_uint_eq(crn_ring_done(&ring, 2), 1);
    ck_assert_int_eq(crn_ring_take(&ring, 64, &b), CAIRN_E_BUSY);
    ck_assert_uint_eq(crn_ring_done(&ring, 1), 1);
    ck_assert_int_eq(crn_ring_take(&ring, 2048, &b), 0);
    ck_assert_uint_eq(b, 64);
    ck_assert_uint_eq(crn_ring_done(&ring, 9), 0);
}
END_TEST

START_TEST(one_request_can_hold_two_spans)
{
    uint64_t a, b;
    crn_ring_init(&ring, 4096);
    ck_assert_int_eq(crn_ring_take(&ring, 64, &a), 0);
    ck_assert_int_eq(crn_ring_take(&ring, 64, &b), 0);
    crn_ring_send(&ring, a, 5);
    crn_ring_send(&ring, b, 5);
    ck_assert_uint_eq(crn_ring_done(&ring, 5), 2);
    ck_assert_uint_eq(ring.n, 0);
}
END_TEST

START_TEST(only_held_spans_are_found_and_only_whole_ranges)
{
    uint64_t a;
    crn_ring_init(&ring, 4096);
    ck_assert_int_eq(crn_ring_take(&ring, 256, &a), 0);
    ck_assert_ptr_nonnull(crn_ring_find(&ring, a + 64, 192));
    ck_assert_ptr_null(crn_ring_find(&ring, a + 64, 193));
    ck_assert_ptr_null(crn_ring_find(&ring, a - 1, 2));
    ck_assert_ptr_null(crn_ring_find(&ring, a, UINT64_MAX));
    crn_ring_send(&ring, a, 1);
    ck_assert_ptr_null(crn_ring_find(&ring, a, 64));
}
END_TEST

static uint32_t state = 1;

static uint32_t next_random(uint32_t below)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % below;
}

/* Spans in use, kept by the test on its own. */
struct model {
    uint64_t off, bytes, request;
};

START_TEST(no_two_spans_ever_overlap)
{
    struct model used[CRN_RING_SPANS];
    uint32_t n = 0, taken = 0;
    crn_ring_init(&ring, 10000);
    for (uint64_t step = 1; step < 200000; step++) {
        uint64_t off, bytes = 1 + next_random(3000);
        if (next_random(3) != 0 && n < CRN_RING_SPANS && crn_ring_take(&ring, bytes, &off) == 0) {
            ck_assert_uint_ge(off, 64);
            ck_assert_uint_le(off + bytes, 10000);
            for (uint32_t i = 0; i < n; i++)
                ck_assert(off + bytes <= used[i].off || used[i].off + used[i].bytes <= off);
            crn_ring_send(&ring, off, step);
            used[n++] = (struct model){off, bytes, step};
            taken++;
        } else if (n > 0) {
            uint32_t i = next_random(n);
            ck_assert_uint_eq(crn_ring_done(&ring, used[i].request), 1);
            used[i] = used[--n];
        }
    }
    ck_assert_uint_gt(taken, 50000);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(spans_follow_each_other_and_never_start_at_zero),
        RUN_TEST(more_than_the_zone_is_full_and_more_than_is_free_is_busy),
        RUN_TEST(room_is_free_again_when_everything_older_is),
        RUN_TEST(one_request_can_hold_two_spans),
        RUN_TEST(only_held_spans_are_found_and_only_whole_ranges),
        RUN_TEST(no_two_spans_ever_overlap),
    };
    return run_suite("client_ring", tests, sizeof tests / sizeof tests[0]);
}
