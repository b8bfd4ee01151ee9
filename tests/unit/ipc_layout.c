/* ipc/layout: parts are aligned, never overlap, fill the payload, and have the sizes that layout.h
 * states. */
#include "ipc/layout.h"

#include "tests/support/run.h"

#include <stdlib.h>
#include <string.h>

struct part {
    uint64_t off, bytes;
};

struct parts {
    struct part list[1 + 8 * CAIRN_MAX_KV_HEADS];
    size_t n;
};

static void add(struct parts *p, uint64_t off, uint64_t bytes)
{
    if (bytes != 0)
        p->list[p->n++] = (struct part){off, bytes};
    else if (off != 0)
        ck_abort_msg("a part of no bytes has an offset");
}

static int by_off(const void *a, const void *b)
{
    uint64_t x = ((const struct part *)a)->off, y = ((const struct part *)b)->off;
    return x < y ? -1 : x > y;
}

/* Aligned, in a row with less than 64 bytes between, from 0 to the payload's end. */
static void check_parts(struct parts *p, uint64_t total)
{
    uint64_t end = 0;
    qsort(p->list, p->n, sizeof p->list[0], by_off);
    for (size_t i = 0; i < p->n; i++) {
        uint64_t off = p->list[i].off;
        if (off % 64 != 0 || off < end || off - end >= 64) /* a ck_assert costs a system call */
            ck_abort_msg("part %zu at %llu, the one before ends at %llu", i,
                         (unsigned long long)off, (unsigned long long)end);
        end = off + p->list[i].bytes;
    }
    ck_assert_uint_eq(total % 64, 0);
    ck_assert_uint_ge(total, end);
    ck_assert_uint_lt(total - end, 64);
}

static void check_kv(const struct crn_kv_spec *s)
{
    struct crn_head_parts heads[CAIRN_MAX_KV_HEADS];
    struct parts p = {.n = 0};
    uint64_t total, dh = s->head_dim, item = cairn_dtype_bytes(s->dtype);
    ck_assert_int_eq(crn_layout_kv(s, heads, &total), 0);
    for (uint32_t h = 0; h < s->n_kv_heads; h++) {
        uint64_t wide = s->wide < s->n[h] ? s->wide : s->n[h], rows = s->n[h] - wide;
        int quantised = s->dtype == CAIRN_I8;
        if (heads[h].n != rows || heads[h].n_wide != wide)
            ck_abort_msg("head %u: %u rows and %u wide ones", h, heads[h].n, heads[h].n_wide);
        if (h == 0 || !s->shared_pos)
            add(&p, heads[h].pos, 4 * (uint64_t)s->n[h]);
        else if (heads[h].pos != heads[0].pos)
            ck_abort_msg("head %u has positions of its own", h);
        add(&p, heads[h].k, rows * dh * item);
        add(&p, heads[h].v, rows * dh * item);
        add(&p, heads[h].k_wide, wide * dh * 2);
        add(&p, heads[h].v_wide, wide * dh * 2);
        add(&p, heads[h].k_scale, quantised ? (rows + 63) / 64 * dh * 2 : 0);
        add(&p, heads[h].v_scale, quantised ? rows * 2 : 0);
    }
    check_parts(&p, total);
}

START_TEST(parts_of_any_kv_payload_lie_in_a_row)
{
    static const uint32_t dtypes[] = {CAIRN_F32, CAIRN_F16, CAIRN_BF16, CAIRN_I8};
    srand(7);
    for (int round = 0; round < 1000; round++) {
        uint32_t n[CAIRN_MAX_KV_HEADS];
        struct crn_kv_spec s = {.dtype = dtypes[_i],
                                .n_kv_heads = 1 + (uint32_t)rand() % CAIRN_MAX_KV_HEADS,
                                .head_dim = 1 + (uint32_t)rand() % CAIRN_MAX_HEAD_DIM,
                                .shared_pos = round % 3 == 0,
                                .n = n};
        if (s.dtype == CAIRN_I8)
            s.wide = (uint32_t)rand() % 80;
        for (uint32_t h = 0; h < CAIRN_MAX_KV_HEADS; h++)
            n[h] = s.shared_pos && h > 0 ? n[0] : (uint32_t)rand() % (round % 7 == 0 ? 3 : 3000);
        check_kv(&s);
    }
}
END_TEST

START_TEST(the_order_of_parts_is_the_documented_one)
{
    uint32_t n[] = {100, 3};
    struct crn_kv_spec s = {.dtype = CAIRN_I8, .n_kv_heads = 2, .head_dim = 64, .wide = 4, .n = n};
    struct crn_head_parts h[2];
    uint64_t total;
    ck_assert_int_eq(crn_layout_kv(&s, h, &total), 0);
    ck_assert_uint_eq(h[0].pos, 0);
    ck_assert_uint_eq(h[1].pos, 448); /* 100 x 4 = 400, rounded */
    ck_assert_uint_eq(h[0].k_wide, 512);
    ck_assert_uint_eq(h[0].v_wide, 1024); /* 4 x 64 x 2 */
    ck_assert_uint_eq(h[0].k, 1536);
    ck_assert_uint_eq(h[0].v, 1536 + 6144); /* 96 x 64 */
    ck_assert_uint_eq(h[0].k_scale, 1536 + 12288);
    ck_assert_uint_eq(h[0].v_scale, 14080); /* 2 blocks x 64 x 2 */
    ck_assert_uint_eq(h[1].k_wide, 14272);  /* 96 x 2 */
    ck_assert_uint_eq(h[1].v_wide, 14656);  /* 3 x 64 x 2 */
    ck_assert_uint_eq(h[1].n, 0);
    ck_assert_uint_eq(h[1].k, 0);
    ck_assert_uint_eq(total, 15040);
}
END_TEST

START_TEST(the_largest_payload_does_not_overflow)
{
    uint32_t n[CAIRN_MAX_KV_HEADS];
    for (uint32_t h = 0; h < CAIRN_MAX_KV_HEADS; h++)
        n[h] = CAIRN_MAX_TOKENS;
    struct crn_kv_spec s = {.dtype = CAIRN_F32,
                            .n_kv_heads = CAIRN_MAX_KV_HEADS,
                            .head_dim = CAIRN_MAX_HEAD_DIM,
                            .n = n};
    check_kv(&s);
    struct crn_state_parts parts;
    uint64_t total;
    ck_assert_int_eq(
        crn_layout_state(CAIRN_F32, CAIRN_MAX_TOKENS, CAIRN_MAX_HIDDEN, &parts, &total), 0);
    ck_assert_uint_eq(total, ((uint64_t)1 << 22) + ((uint64_t)1 << 38));
}
END_TEST

START_TEST(impossible_kv_numbers_are_refused)
{
    uint32_t n[CAIRN_MAX_KV_HEADS + 1] = {5, 5, 6};
    struct crn_head_parts heads[CAIRN_MAX_KV_HEADS];
    uint64_t total = 42;
    const struct crn_kv_spec good = {.dtype = CAIRN_F16, .n_kv_heads = 3, .head_dim = 64, .n = n};
    const struct {
        struct crn_kv_spec s;
        int want;
    } cases[] = {
        {{.dtype = 0, .n_kv_heads = 3, .head_dim = 64, .n = n}, CAIRN_E_ARG},
        {{.dtype = 5, .n_kv_heads = 3, .head_dim = 64, .n = n}, CAIRN_E_ARG},
        {{.dtype = CAIRN_F16, .n_kv_heads = 0, .head_dim = 64, .n = n}, CAIRN_E_ARG},
        {{.dtype = CAIRN_F16, .n_kv_heads = 3, .head_dim = 0, .n = n}, CAIRN_E_ARG},
        {{.dtype = CAIRN_F16, .n_kv_heads = 3, .head_dim = 64, .wide = 4, .n = n}, CAIRN_E_ARG},
        {{.dtype = CAIRN_F16, .n_kv_heads = 3, .head_dim = 64, .shared_pos = 1, .n = n},
         CAIRN_E_ARG},
        {{.dtype = CAIRN_F16, .n_kv_heads = 3, .head_dim = 64, .shared_pos = 2, .n = n},
         CAIRN_E_ARG},
        {{.dtype = CAIRN_F16, .n_kv_heads = 65, .head_dim = 64, .n = n}, CAIRN_E_TOO_BIG},
        {{.dtype = CAIRN_F16, .n_kv_heads = 3, .head_dim = 513, .n = n}, CAIRN_E_TOO_BIG},
        {{.dtype = CAIRN_F16, .n_kv_heads = UINT32_MAX, .head_dim = UINT32_MAX, .n = n},
         CAIRN_E_TOO_BIG},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        ck_assert_int_eq(crn_layout_kv(&cases[i].s, heads, &total), cases[i].want);
    ck_assert_uint_eq(total, 42);
    n[1] = CAIRN_MAX_TOKENS + 1;
    ck_assert_int_eq(crn_layout_kv(&good, heads, &total), CAIRN_E_TOO_BIG);
}
END_TEST

START_TEST(parts_of_any_state_lie_in_a_row)
{
    static const uint32_t dtypes[] = {CAIRN_F32, CAIRN_F16, CAIRN_BF16, CAIRN_I8};
    srand(8);
    for (int round = 0; round < 2000; round++) {
        uint32_t n = (uint32_t)rand() % 5000, hidden = 64 * (1 + (uint32_t)rand() % 1024);
        struct crn_state_parts s;
        struct parts p = {.n = 0};
        uint64_t total;
        ck_assert_int_eq(crn_layout_state(dtypes[_i], n, hidden, &s, &total), 0);
        add(&p, s.pos, 4 * (uint64_t)n);
        add(&p, s.rows, (uint64_t)n * hidden * cairn_dtype_bytes(dtypes[_i]));
        add(&p, s.scale, dtypes[_i] == CAIRN_I8 ? (uint64_t)n * (hidden / 64) * 2 : 0);
        check_parts(&p, total);
    }
}
END_TEST

START_TEST(impossible_states_are_refused)
{
    struct crn_state_parts s;
    uint64_t total;
    ck_assert_int_eq(crn_layout_state(0, 1, 64, &s, &total), CAIRN_E_ARG);
    ck_assert_int_eq(crn_layout_state(CAIRN_F32, 1, 0, &s, &total), CAIRN_E_ARG);
    ck_assert_int_eq(crn_layout_state(CAIRN_I8, 1, 65, &s, &total), CAIRN_E_ARG);
    ck_assert_int_eq(crn_layout_state(CAIRN_F32, 1, 65, &s, &total), 0);
    ck_assert_int_eq(crn_layout_state(CAIRN_F32, CAIRN_MAX_TOKENS + 1, 64, &s, &total),
                     CAIRN_E_TOO_BIG);
    ck_assert_int_eq(crn_layout_state(CAIRN_F32, 1, CAIRN_MAX_HIDDEN + 1, &s, &total),
                     CAIRN_E_TOO_BIG);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(parts_of_any_kv_payload_lie_in_a_row, 4),
        RUN_TEST(the_order_of_parts_is_the_documented_one),
        RUN_TEST(the_largest_payload_does_not_overflow),
        RUN_TEST(impossible_kv_numbers_are_refused),
        RUN_LOOP(parts_of_any_state_lie_in_a_row, 4),
        RUN_TEST(impossible_states_are_refused),
    };
    return run_suite("ipc_layout", tests, sizeof tests / sizeof *tests);
}
