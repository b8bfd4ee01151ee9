/* broker/gather: kept rows end up where the layout says, bit for bit where types are equal, and as the reference quantises them
 * where they are int8. */
#include "broker/gather.h"

#include "ipc/hash.h"
#include "kernels/kernels.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"

#include <stdlib.h>
#include <string.h>

#define HEADS 2u
#define DIM 32u
#define ROWS 300u
#define HIDDEN 128u

static float k[HEADS][ROWS * DIM], v[HEADS][ROWS * DIM];
static int32_t pos[ROWS];
static uint32_t index_of[HEADS][ROWS];

static void fill(void)
{
    struct rand r = rand_seeded(rand_default_seed());
    for (uint32_t h = 0; h < HEADS; h++) {
        rand_fill(&r, k[h], ROWS * DIM, 3.0f);
        rand_fill(&r, v[h], ROWS * DIM, 3.0f);
        for (uint32_t i = 0; i < ROWS; i++)
            index_of[h][i] = i + i / (h + 2); /* gaps; below ROWS while i is small */
    }
    for (uint32_t i = 0; i < ROWS; i++)
        pos[i] = (int32_t)(10 + 2 * i);
}

static uint8_t *block(uint64_t bytes)
{
    uint8_t *p = aligned_alloc(64, bytes + 64);
    ck_assert_ptr_nonnull(p);
    memset(p, 0xa5, bytes + 64);
    return p;
}

static void heads_of(struct crn_gather_head heads[HEADS], int with_index)
{
    for (uint32_t h = 0; h < HEADS; h++)
        heads[h] = (struct crn_gather_head){.k = k[h], .v = v[h], .n = ROWS, .pos = pos,
                                            .index = with_index ? index_of[h] : NULL};
}

/* Gathers n[h] rows to dtype; own: free. */
static uint8_t *gathered(const struct crn_kv_spec *spec, int with_index,
                         struct crn_head_parts parts[HEADS])
{
    struct crn_gather_head heads[HEADS];
    uint64_t bytes;
    heads_of(heads, with_index);
    ck_assert_int_eq(crn_layout_kv(spec, parts, &bytes), 0);
    uint8_t *out = block(bytes);
    struct crn_gather_kv g = {.src_dtype = CAIRN_F32,
                              .dst = *spec,
                              .heads = heads,
                              .out = out,
                              .sum = crn_hash64_begin()};
    ck_assert_int_eq(crn_gather_kv(&g), 0);
    ck_assert_uint_eq(crn_hash64_end(g.sum), crn_hash64(out, bytes));
    for (int i = 0; i < 64; i++)
        ck_assert_uint_eq(out[bytes + (unsigned)i], 0xa5);
    return out;
}

START_TEST(equal_types_are_copied_bit_for_bit)
{
    static const uint32_t n[HEADS] = {150, 65};
    struct crn_kv_spec spec = {CAIRN_F32, HEADS, DIM, 0, 0, n};
    struct crn_head_parts parts[HEADS];
    fill();
    uint8_t *out = gathered(&spec, 1, parts);
    for (uint32_t h = 0; h < HEADS; h++) {
        for (uint32_t i = 0; i < n[h]; i++) {
            uint32_t row = index_of[h][i];
            ck_assert_mem_eq(out + parts[h].k + i * DIM * 4, &k[h][row * DIM], DIM * 4);
            ck_assert_mem_eq(out + parts[h].v + i * DIM * 4, &v[h][row * DIM], DIM * 4);
            ck_assert_int_eq(((int32_t *)(void *)(out + parts[h].pos))[i], pos[row]);
        }
    }
    free(out);
}
END_TEST

START_TEST(equal_content_has_equal_bytes_whatever_was_there_before)
{
    static const uint32_t n[HEADS] = {67, 67};
    static const uint32_t dtypes[] = {CAIRN_F32, CAIRN_F16, CAIRN_BF16, CAIRN_I8};
    struct crn_kv_spec spec = {dtypes[_i], HEADS, DIM, dtypes[_i] == CAIRN_I8 ? 4 : 0, 1, n};
    struct crn_head_parts parts[HEADS];
    struct crn_gather_head heads[HEADS];
    uint64_t bytes;
    fill();
    heads_of(heads, 0);
    ck_assert_int_eq(crn_layout_kv(&spec, parts, &bytes), 0);
    uint8_t *a = block(bytes), *b = block(bytes);
    memset(b, 0x11, bytes);
    struct crn_gather_kv g = {.src_dtype = CAIRN_F32, .dst = spec, .heads = heads, .out = a};
    ck_assert_int_eq(crn_gather_kv(&g), 0);
    g.out = b;
    ck_assert_int_eq(crn_gather_kv(&g), 0);
    ck_assert_mem_eq(a, b, bytes);
    free(a);
    free(b);
}
END_TEST

/* Reference: take the rows, quantise them with the scalar kernels. */
static void expect_int8(const uint8_t *out, const struct crn_head_parts *p, uint32_t h, uint32_t n,
                        uint32_t wide)
{
    static float rows_k[ROWS * DIM], rows_v[ROWS * DIM];
    static int8_t q[ROWS * DIM];
    static uint16_t scale[ROWS * DIM], half[ROWS * DIM];
    struct crn_exec e = {0};
    const struct crn_kernel_ops *ref = &crn_kernels_ref;
    for (uint32_t i = 0; i < n; i++) {
        memcpy(rows_k + i * DIM, &k[h][index_of[h][i] * DIM], DIM * 4);
        memcpy(rows_v + i * DIM, &v[h][index_of[h][i] * DIM], DIM * 4);
    }
    uint32_t m = n - wide;
    ck_assert_int_eq(ref->convert(&e, rows_k, CAIRN_F32, wide * DIM, CAIRN_F16, half), 0);
    ck_assert_mem_eq(out + p->k_wide, half, wide * DIM * 2);
    ck_assert_int_eq(ref->quant_k(&e, rows_k + wide * DIM, m, DIM, q, scale), 0);
    ck_assert_mem_eq(out + p->k, q, m * DIM);
    ck_assert_mem_eq(out + p->k_scale, scale, (m + 63) / 64 * DIM * 2);
    ck_assert_int_eq(ref->quant_rows(&e, rows_v + wide * DIM, m, DIM, DIM, q, scale), 0);
    ck_assert_mem_eq(out + p->v, q, m * DIM);
    ck_assert_mem_eq(out + p->v_scale, scale, m * 2);
}

START_TEST(int8_is_what_the_reference_makes_of_the_kept_rows)
{
    static const uint32_t n[HEADS] = {150, 133};
    struct crn_kv_spec spec = {CAIRN_I8, HEADS, DIM, 4, 0, n};
    struct crn_head_parts parts[HEADS];
    fill();
    uint8_t *out = gathered(&spec, 1, parts);
    for (uint32_t h = 0; h < HEADS; h++)
        expect_int8(out, &parts[h], h, n[h], 4);
    free(out);
}
END_TEST

START_TEST(a_payload_is_a_source_like_rows_are)
{
    static const uint32_t all[HEADS] = {ROWS, ROWS}, n[HEADS] = {100, 90};
    struct crn_kv_spec whole = {CAIRN_F16, HEADS, DIM, 0, 1, all};
    struct crn_kv_spec cut = {CAIRN_F16, HEADS, DIM, 0, 0, n};
    struct crn_head_parts parts[HEADS];
    struct crn_gather_head heads[HEADS];
    uint64_t bytes;
    fill();
    uint8_t *from = gathered(&whole, 0, parts);
    uint8_t *direct = gathered(&cut, 1, parts);
    ck_assert_int_eq(crn_gather_from_payload(&whole, from, heads), 0);
    for (uint32_t h = 0; h < HEADS; h++)
        heads[h].index = index_of[h];
    ck_assert_int_eq(crn_layout_kv(&cut, parts, &bytes), 0);
    uint8_t *twice = block(bytes);
    struct crn_gather_kv g = {.src_dtype = CAIRN_F16, .dst = cut, .heads = heads, .out = twice};
    ck_assert_int_eq(crn_gather_kv(&g), 0);
    ck_assert_mem_eq(direct, twice, bytes);
    free(from);
    free(direct);
    free(twice);
}
END_TEST

START_TEST(an_int8_payload_is_read_back_with_its_scales)
{
    static const uint32_t all[HEADS] = {ROWS, ROWS}, n[HEADS] = {140, 140};
    struct crn_kv_spec whole = {CAIRN_I8, HEADS, DIM, 4, 1, all};
    struct crn_kv_spec cut = {CAIRN_F32, HEADS, DIM, 0, 0, n};
    struct crn_head_parts parts[HEADS];
    struct crn_gather_head heads[HEADS];
    uint64_t bytes;
    fill();
    uint8_t *from = gathered(&whole, 0, parts);
    ck_assert_int_eq(crn_gather_from_payload(&whole, from, heads), 0);
    for (uint32_t h = 0; h < HEADS; h++)
        heads[h].index = index_of[h];
    ck_assert_int_eq(crn_layout_kv(&cut, parts, &bytes), 0);
    uint8_t *out = block(bytes);
    struct crn_gather_kv g = {.src_dtype = CAIRN_I8, .dst = cut, .heads = heads, .out = out};
    ck_assert_int_eq(crn_gather_kv(&g), 0);
    for (uint32_t h = 0; h < HEADS; h++) {
        for (uint32_t i = 0; i < n[h] * DIM; i++) {
            float want = k[h][index_of[h][i / DIM] * DIM + i % DIM];
            float have = ((float *)(void *)(out + parts[h].k))[i];
            ck_assert_msg(have - want < 0.02f && want - have < 0.02f, "head %u, %u: %g for %g", h,
                          i, (double)have, (double)want); /* 3 / 127 / 2 and a little */
        }
    }
    free(from);
    free(out);
}
END_TEST

START_TEST(a_state_that_f16_cannot_hold_becomes_bf16)
{
    static float rows[70 * HIDDEN];
    struct crn_state_parts parts;
    uint64_t bytes;
    uint32_t dtype = 0;
    fill();
    for (uint32_t i = 0; i < 70 * HIDDEN; i++)
        rows[i] = (float)(i % 500);
    ck_assert_int_eq(crn_layout_state(CAIRN_F16, 60, HIDDEN, &parts, &bytes), 0);
    uint8_t *out = block(bytes);
    struct crn_gather_state g = {.src_dtype = CAIRN_F32, .dst_dtype = CAIRN_F16, .hidden = HIDDEN,
                                 .n = 60, .rows = rows, .pos = pos, .out = out};
    rows[60 * HIDDEN] = 1e6f; /* behind the kept rows */
    ck_assert_int_eq(crn_gather_state(&g, &dtype), 0);
    ck_assert_uint_eq(dtype, CAIRN_F16);
    rows[59 * HIDDEN + 3] = -65536.0f;
    ck_assert_int_eq(crn_gather_state(&g, &dtype), 0);
    ck_assert_uint_eq(dtype, CAIRN_BF16);
    ck_assert_uint_eq(((uint16_t *)(void *)(out + parts.rows))[59 * HIDDEN + 3], 0xc780);
    free(out);
}
END_TEST

START_TEST(a_state_in_int8_has_a_scale_per_group_of_64)
{
    static float rows[10 * HIDDEN];
    static int8_t q[10 * HIDDEN];
    static uint16_t scale[10 * HIDDEN / 64];
    struct crn_exec e = {0};
    struct crn_state_parts parts;
    uint64_t bytes;
    uint32_t dtype = 0;
    struct rand r = rand_seeded(rand_default_seed());
    fill();
    rand_fill(&r, rows, 10 * HIDDEN, 100.0f);
    ck_assert_int_eq(crn_layout_state(CAIRN_I8, 10, HIDDEN, &parts, &bytes), 0);
    uint8_t *out = block(bytes);
    struct crn_gather_state g = {.src_dtype = CAIRN_F32, .dst_dtype = CAIRN_I8, .hidden = HIDDEN,
                                 .n = 10, .rows = rows, .pos = pos, .out = out};
    ck_assert_int_eq(crn_gather_state(&g, &dtype), 0);
    ck_assert_int_eq(crn_kernels_ref.quant_rows(&e, rows, 10, HIDDEN, 64, q, scale), 0);
    ck_assert_mem_eq(out + parts.rows, q, sizeof q);
    ck_assert_mem_eq(out + parts.scale, scale, sizeof scale);
    free(out);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(equal_types_are_copied_bit_for_bit),
        RUN_LOOP(equal_content_has_equal_bytes_whatever_was_there_before, 4),
        RUN_TEST(int8_is_what_the_reference_makes_of_the_kept_rows),
        RUN_TEST(a_payload_is_a_source_like_rows_are),
        RUN_TEST(an_int8_payload_is_read_back_with_its_scales),
        RUN_TEST(a_state_that_f16_cannot_hold_becomes_bf16),
        RUN_TEST(a_state_in_int8_has_a_scale_per_group_of_64),
    };
    return run_suite("broker_gather", tests, sizeof tests / sizeof *tests);
}
