/* A lease from an answer that the test fabricates: views inside the mapped bytes, and every lie of a broker refused. */
#include "client/lease.h"
#include "tests/support/run.h"

#include <stdlib.h>
#include <string.h>

#define LAYERS 3u
#define HEADS 2u
#define DIM 8u
#define HIDDEN 64u
#define TOKENS 100u
#define ARENA_BYTES (1u << 20)

/* A client with a session that was never connected, one arena, one control page, and an answer about them. */
struct scene {
    struct cairn_client client;
    struct crn_conn session;
    struct crn_segment arena;
    uint8_t *bytes;
    struct crn_msg_attached msg;
    struct crn_path_rec path[2];
    struct crn_payload_rec payloads[8];
    uint32_t counts[8];
    struct crn_plan_rec plan;
    struct crn_offer offer;
    int32_t query[2 * TOKENS];
    uint64_t used;
};

static struct scene *s;

static uint64_t take(uint64_t bytes)
{
    uint64_t off = s->used;
    s->used += (bytes + 63) / 64 * 64;
    ck_assert_uint_le(s->used, ARENA_BYTES);
    return off;
}

static struct crn_payload_rec *add(uint8_t kind, uint16_t layer, uint8_t part, uint64_t bytes, uint8_t dtype)
{
    struct crn_payload_rec *r = &s->payloads[s->offer.n_payloads++];
    *r = (struct crn_payload_rec){.off = take(bytes), .bytes = bytes, .arena = 7, .layer = layer,
                                  .path_index = part, .kind = kind, .dtype = dtype, .one_count = 1,
                                  .shared_pos = 1, .word = 0xffff};
    return r;
}

static void write_positions(uint64_t off, int32_t from, uint32_t n)
{
    int32_t *pos = (void *)(s->bytes + off);
    for (uint32_t i = 0; i < n; i++)
        pos[i] = from + (int32_t)i;
}

static void add_kv(uint16_t layer, uint8_t dtype, uint16_t wide)
{
    uint32_t n[HEADS] = {TOKENS, TOKENS};
    struct crn_head_parts parts[HEADS];
    uint64_t bytes;
    struct crn_kv_spec spec = {dtype, HEADS, DIM, wide, 1, n};
    ck_assert_int_eq(crn_layout_kv(&spec, parts, &bytes), 0);
    struct crn_payload_rec *r = add(CRN_PAYLOAD_KV, layer, 0, bytes, dtype);
    r->wide = wide;
    write_positions(r->off + parts[0].pos, 0, TOKENS);
}

/* One whole entry of 100 tokens: tokens, a state before layer 1, KV of layers 0 (f16), 1 (f32), 2 (int8, 4 rows wide). */
static void setup(void)
{
    s = calloc(1, sizeof *s);
    ck_assert_ptr_nonnull(s);
    s->client.options.shape = (struct cairn_shape){LAYERS, HEADS, DIM, HIDDEN};
    s->client.session = &s->session;
    s->session.refs = 1;
    s->session.fd = -1;
    s->arena.id = 7;
    ck_assert_int_eq(crn_mem_host.create(ARENA_BYTES, -1, CRN_MEM_ARENA, &s->arena.mem), 0);
    ck_assert_int_eq(crn_control_create(&s->session.control), 0);
    s->session.arenas = &s->arena;
    s->session.n_arenas = 1;
    s->bytes = s->arena.mem.base;
    s->msg = (struct crn_msg_attached){.lease = 5, .slot = 2, .class_ = CAIRN_CLASS_EXACT,
                                       .reason = CAIRN_REASON_SAME_MODEL};
    s->path[0] = (struct crn_path_rec){.entry = 11, .n_tokens = TOKENS, .usable = TOKENS,
                                       .class_ = CAIRN_CLASS_EXACT, .reason = CAIRN_REASON_SAME_MODEL};
    s->counts[0] = TOKENS;
    s->offer = (struct crn_offer){.msg = &s->msg, .path = s->path, .n_path = 1, .payloads = s->payloads,
                                  .counts = s->counts, .n_counts = 1};
    struct crn_payload_rec *tokens = add(CRN_PAYLOAD_TOKENS, 0, 0, TOKENS * 4, 0);
    for (uint32_t i = 0; i < 2 * TOKENS; i++)
        s->query[i] = (int32_t)(i * 3);
    memcpy(s->bytes + tokens->off, s->query, TOKENS * 4);
    struct crn_state_parts parts;
    uint64_t bytes;
    ck_assert_int_eq(crn_layout_state(CAIRN_F16, TOKENS, HIDDEN, &parts, &bytes), 0);
    struct crn_payload_rec *state = add(CRN_PAYLOAD_STATE, 1, 0, bytes, CAIRN_F16);
    write_positions(state->off + parts.pos, 0, TOKENS);
    add_kv(0, CAIRN_F16, 0);
    add_kv(1, CAIRN_F32, 0);
    add_kv(2, CAIRN_I8, 4);
}

static void teardown(void)
{
    while (s->client.leases != NULL)
        crn_grant_free(s->client.leases);
    free(s->client.spare);
    s->arena.mem.ops->destroy(&s->arena.mem);
    s->session.control.ops->destroy(&s->session.control);
    free(s);
}

static int make(struct cairn_lease **out_lease)
{
    return crn_grant_make(&s->client, &s->offer, 0, out_lease);
}

static int cut(struct cairn_lease *lease, uint32_t n_tokens)
{
    struct cairn_query q = CAIRN_QUERY_INIT;
    q.tokens = s->query;
    q.n_tokens = n_tokens;
    return crn_grant_cut(lease, &q, 0);
}

START_TEST(views_point_into_the_arena_and_count_all_rows)
{
    struct cairn_lease *lease;
    struct cairn_layer_view v;
    struct cairn_state_view e;
    setup();
    ck_assert_int_eq(make(&lease), 0);
    ck_assert_int_eq(cut(lease, 2 * TOKENS), 0);
    ck_assert_uint_eq(cairn_lease_info(lease)->n_tokens, TOKENS);
    ck_assert_int_eq(cairn_wait(lease, 0, 0, CAIRN_WAIT_KV, 0), 0);
    ck_assert_int_eq(cairn_lease_layer(lease, 0, 0, &v), 0);
    ck_assert_uint_eq(v.dtype, CAIRN_F16);
    ck_assert_uint_eq(v.n_heads, HEADS);
    ck_assert_uint_eq(v.heads[1].n, TOKENS);
    ck_assert_ptr_null(v.wide);
    const uint8_t *end = (const uint8_t *)v.heads[1].v + TOKENS * DIM * 2;
    ck_assert(end <= s->bytes + s->payloads[2].off + s->payloads[2].bytes);
    ck_assert_int_eq(cairn_lease_layer(lease, 0, 2, &v), 0);
    ck_assert_uint_eq(v.dtype, CAIRN_I8);
    ck_assert_uint_eq(v.wide_dtype, CAIRN_F16);
    ck_assert_uint_eq(v.wide[0].n, 4);
    ck_assert_uint_eq(v.heads[0].n, TOKENS - 4);
    ck_assert_int_eq(v.heads[0].pos[0], 4);
    ck_assert_int_eq(cairn_lease_state(lease, 0, 1, &e), 0);
    ck_assert_uint_eq(e.n, TOKENS);
    ck_assert_int_eq(cairn_lease_state(lease, 0, 2, &e), CAIRN_E_MISS);
    ck_assert_int_eq(cairn_lease_layer(lease, 1, 0, &v), CAIRN_E_ARG);
    ck_assert_int_eq(cairn_lease_layer(lease, 0, LAYERS, &v), CAIRN_E_ARG);
    teardown();
}
END_TEST

START_TEST(rows_beyond_the_agreeing_tokens_are_cut_everywhere)
{
    static const uint32_t ends[] = {1, 3, 4, 5, 63, 64, 99, 100};
    setup();
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        struct cairn_lease *lease;
        struct cairn_layer_view v;
        struct cairn_state_view e;
        uint32_t n = ends[i];
        ck_assert_int_eq(make(&lease), 0);
        ck_assert_int_eq(cut(lease, n), 0);
        ck_assert_uint_eq(cairn_lease_info(lease)->parts[0].n_tokens, n);
        ck_assert_int_eq(cairn_lease_layer(lease, 0, 1, &v), 0);
        ck_assert_uint_eq(v.heads[0].n, n);
        ck_assert_uint_eq(v.heads[1].n, n);
        ck_assert_int_eq(cairn_lease_layer(lease, 0, 2, &v), 0);
        ck_assert_uint_eq(v.wide[1].n, n < 4 ? n : 4);
        ck_assert_uint_eq(v.heads[1].n, n < 4 ? 0 : n - 4);
        ck_assert_int_eq(cairn_lease_state(lease, 0, 1, &e), 0);
        ck_assert_uint_eq(e.n, n);
        crn_grant_free(lease);
    }
    teardown();
}
END_TEST

START_TEST(a_prefill_pyramid_is_used_as_a_whole_or_not_at_all)
{
    static const int32_t entry[] = {1, 2, 3, 4}, longer[] = {1, 2, 3, 4, 5}, other[] = {1, 2, 3, 5};
    ck_assert_uint_eq(crn_path_usable(CAIRN_PYRAMID_PREFILL, entry, 4, longer, 5), 4);
    ck_assert_uint_eq(crn_path_usable(CAIRN_PYRAMID_PREFILL, entry, 4, other, 4), 0);
    ck_assert_uint_eq(crn_path_usable(CAIRN_PYRAMID_PREFILL, entry, 4, entry, 3), 0);
    ck_assert_uint_eq(crn_path_usable(CAIRN_PYRAMID_PUBLISH, entry, 4, other, 4), 3);
    ck_assert_uint_eq(crn_path_usable(CAIRN_PYRAMID_NONE, entry, 4, entry, 0), 0);
}
END_TEST

START_TEST(tokens_that_differ_from_the_first_on_are_a_miss)
{
    struct cairn_lease *lease;
    setup();
    ck_assert_int_eq(make(&lease), 0);
    s->query[0] = -1;
    ck_assert_int_eq(cut(lease, TOKENS), CAIRN_E_MISS);
    ck_assert_uint_eq(s->client.stats.failures, 0);
    teardown();
}
END_TEST

START_TEST(positions_are_cut_by_value_and_must_ascend_inside_their_entry)
{
    int32_t pos[] = {10, 12, 15, 19};
    uint32_t n = 77;
    ck_assert_int_eq(crn_positions_cut(pos, 4, 10, 20, 15, &n), 0);
    ck_assert_uint_eq(n, 2);
    ck_assert_int_eq(crn_positions_cut(pos, 4, 10, 20, 20, &n), 0);
    ck_assert_uint_eq(n, 4);
    ck_assert_int_eq(crn_positions_cut(pos, 4, 10, 20, 10, &n), 0);
    ck_assert_uint_eq(n, 0);
    ck_assert_int_eq(crn_positions_cut(pos, 0, 10, 20, 15, &n), 0);
    ck_assert_uint_eq(n, 0);
    n = 77;
    ck_assert_int_eq(crn_positions_cut(pos, 4, 11, 20, 20, &n), CAIRN_E_CORRUPT);
    ck_assert_int_eq(crn_positions_cut(pos, 4, 10, 19, 19, &n), CAIRN_E_CORRUPT);
    pos[2] = 12;
    ck_assert_int_eq(crn_positions_cut(pos, 4, 10, 20, 20, &n), CAIRN_E_CORRUPT);
    ck_assert_uint_eq(n, 77);
}
END_TEST

START_TEST(corrupt_positions_are_found_when_they_are_first_used)
{
    struct cairn_lease *lease;
    struct cairn_layer_view v = {.dtype = 99};
    setup();
    ((int32_t *)(void *)(s->bytes + s->payloads[2].off))[50] = 5000000;
    ck_assert_int_eq(make(&lease), 0);
    ck_assert_int_eq(cut(lease, TOKENS), 0);
    ck_assert_int_eq(cairn_lease_layer(lease, 0, 0, &v), CAIRN_E_CORRUPT);
    ck_assert_uint_eq(v.dtype, 99);
    teardown();
}
END_TEST

/* ---- lies ---- */

static void lie(int i)
{
    struct crn_payload_rec *kv = &s->payloads[2];
    switch (i) {
    case 0: kv->off = ARENA_BYTES; break;
    case 1: kv->off = UINT64_MAX - 63; break;
    case 2: kv->off += 4; break;
    case 3: kv->bytes = 64; break;
    case 4: kv->bytes = UINT64_MAX; break;
    case 5: kv->counts = 1; break;
    case 6: kv->counts = UINT32_MAX; break;
    case 7: kv->one_count = 0; break;
    case 8: s->counts[0] = TOKENS + 1; break;
    case 9: kv->layer = LAYERS; break;
    case 10: kv->path_index = 1; break;
    case 11: kv->kind = 0; break;
    case 12: kv->kind = CRN_PAYLOAD_BLOB; break;
    case 13: kv->dtype = 9; break;
    case 14: kv->layer = 1; break; /* twice the same */
    case 15: kv->word = CRN_CONTROL_WORDS; break;
    case 16: kv->wide = 3; break; /* of f16 */
    case 17: s->payloads[0].bytes = 4 * TOKENS - 4; break;
    case 18: s->payloads[1].dtype = CAIRN_F32; break; /* larger than its bytes */
    case 19: s->path[0].n_tokens = 0; break;
    case 20: s->path[0].usable = TOKENS + 1; break;
    case 21: s->path[0].class_ = 0; break;
    case 22: s->path[0].class_ = CAIRN_CLASS_APPROX; break; /* without a plan */
    case 23: s->path[0].start = UINT32_MAX; break;
    case 24: s->path[0].pyramid = 9; break;
    case 25: s->path[1] = s->path[0]; s->offer.n_path = 2; break; /* does not follow */
    case 26: s->msg.slot = CRN_CONTROL_SLOTS; break;
    case 27: s->path[0].usable = 0; break;
    case 28: kv->shared_pos = 2; break;
    default: break;
    }
}
#define N_LIES 29

START_TEST(every_lie_about_a_payload_is_refused)
{
    struct cairn_lease *lease = NULL;
    setup();
    lie(_i);
    int status = make(&lease);
    ck_assert_msg(status == CAIRN_E_PROTO, "lie %d: %d", _i, status);
    ck_assert_ptr_null(lease);
    ck_assert_ptr_null(s->client.leases);
    ck_assert_uint_eq(s->session.refs, 1);
    teardown();
}
END_TEST

static void use_plan(void)
{
    s->plan = (struct crn_plan_rec){.id = 3, .first = 1, .last = 2, .quality_ppm = 900000};
    s->offer.plan = &s->plan;
    s->path[0].class_ = CAIRN_CLASS_APPROX;
    s->msg.class_ = CAIRN_CLASS_APPROX;
    s->offer.n_payloads = 3; /* tokens, the state before layer 1, KV of layer 0 */
}

START_TEST(layers_of_the_run_are_private_for_approximate_parts)
{
    struct cairn_lease *lease;
    struct cairn_layer_view v;
    struct cairn_map_view map;
    setup();
    use_plan();
    uint64_t map_bytes = HIDDEN * (HIDDEN + 1) * 4;
    s->plan.map_dtype = CAIRN_F32;
    s->plan.map_arena = 7;
    s->plan.map_bytes = map_bytes;
    s->plan.map_off = take(map_bytes);
    ck_assert_int_eq(make(&lease), 0);
    ck_assert_int_eq(cut(lease, TOKENS), 0);
    ck_assert_ptr_nonnull(cairn_lease_info(lease)->plan);
    ck_assert_int_eq(cairn_lease_layer(lease, 0, 0, &v), 0);
    ck_assert_uint_eq(v.dtype, CAIRN_F16);
    for (uint32_t layer = 1; layer <= 2; layer++) {
        ck_assert_int_eq(cairn_lease_layer(lease, 0, layer, &v), 0);
        ck_assert_uint_eq(v.dtype, CAIRN_DTYPE_NONE);
    }
    ck_assert_int_eq(cairn_lease_map(lease, &map), 0);
    ck_assert_ptr_eq(map.w, s->bytes + s->plan.map_off);
    teardown();
}
END_TEST

static void lie_about_plan(int i)
{
    switch (i) {
    case 0: s->plan.last = LAYERS; break;
    case 1: s->plan.map_dtype = CAIRN_F16; break;
    case 2: s->plan.map_bytes -= 4; break;
    case 3: s->plan.map_off = ARENA_BYTES; break;
    case 4: s->plan.map_off = UINT64_MAX - 63; break;
    case 5: s->plan.map_rank = HIDDEN + 1; break;
    case 6: s->plan.map_off += 4; break;
    default: break;
    }
}
#define N_PLAN_LIES 7

START_TEST(every_lie_about_a_plan_is_refused)
{
    struct cairn_lease *lease = NULL;
    setup();
    use_plan();
    s->plan.map_dtype = CAIRN_F32;
    s->plan.map_arena = 7;
    s->plan.map_bytes = HIDDEN * (HIDDEN + 1) * 4;
    s->plan.map_off = take(s->plan.map_bytes);
    lie_about_plan(_i);
    ck_assert_int_eq(make(&lease), CAIRN_E_PROTO);
    ck_assert_ptr_null(lease);
    teardown();
}
END_TEST

/* ---- waiting ---- */

START_TEST(a_payload_on_its_way_is_waited_for_and_a_lost_one_is_a_miss)
{
    struct cairn_lease *lease;
    struct cairn_layer_view v;
    struct crn_control_slot *slot;
    setup();
    slot = crn_control_slot_at(&s->session.control, 2);
    slot->n_words = 2;
    s->payloads[2].word = 0;
    s->payloads[3].word = 1;
    ck_assert_int_eq(make(&lease), 0);
    ck_assert_int_eq(cut(lease, TOKENS), 0);
    ck_assert_int_eq(cairn_wait(lease, 0, 0, CAIRN_WAIT_KV, cairn_deadline_in(20)), CAIRN_E_TIMEOUT);
    ck_assert_int_eq(cairn_lease_layer(lease, 0, 0, &v), CAIRN_E_STATE);
    crn_control_set(slot, 0, CRN_PROGRESS_READY);
    crn_control_set(slot, 1, CRN_PROGRESS_FAILED);
    ck_assert_int_eq(cairn_wait(lease, 0, 0, CAIRN_WAIT_KV, cairn_deadline_in(20)), 0);
    ck_assert_int_eq(cairn_lease_layer(lease, 0, 0, &v), 0);
    ck_assert_int_eq(cairn_wait(lease, 0, 1, CAIRN_WAIT_KV, cairn_deadline_in(20)), CAIRN_E_MISS);
    ck_assert_int_eq(cairn_lease_check(lease), 0);
    crn_control_end_lease(slot);
    ck_assert_int_eq(cairn_lease_check(lease), CAIRN_E_STALE);
    ck_assert_int_eq(cairn_wait(lease, 0, 2, CAIRN_WAIT_KV, cairn_deadline_in(20)), CAIRN_E_STALE);
    teardown();
}
END_TEST

START_TEST(the_same_lease_again_takes_the_memory_of_the_last_one)
{
    struct cairn_lease *lease;
    setup();
    ck_assert_int_eq(make(&lease), 0);
    void *first = lease;
    crn_grant_free(lease);
    for (int i = 0; i < 10; i++) {
        ck_assert_int_eq(make(&lease), 0);
        ck_assert_ptr_eq(lease, first);
        crn_grant_free(lease);
    }
    teardown();
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(views_point_into_the_arena_and_count_all_rows),
        RUN_TEST(rows_beyond_the_agreeing_tokens_are_cut_everywhere),
        RUN_TEST(a_prefill_pyramid_is_used_as_a_whole_or_not_at_all),
        RUN_TEST(tokens_that_differ_from_the_first_on_are_a_miss),
        RUN_TEST(positions_are_cut_by_value_and_must_ascend_inside_their_entry),
        RUN_TEST(corrupt_positions_are_found_when_they_are_first_used),
        RUN_LOOP(every_lie_about_a_payload_is_refused, N_LIES),
        RUN_TEST(layers_of_the_run_are_private_for_approximate_parts),
        RUN_LOOP(every_lie_about_a_plan_is_refused, N_PLAN_LIES),
        RUN_TEST(a_payload_on_its_way_is_waited_for_and_a_lost_one_is_a_miss),
        RUN_TEST(the_same_lease_again_takes_the_memory_of_the_last_one),
    };
    return run_suite("client_lease", tests, sizeof tests / sizeof tests[0]);
}
