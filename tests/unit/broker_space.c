/* broker/space, entry, index, match, plan, evict: who finds what, under which class, and who goes first when room is needed. */
#include "broker/match.h"
#include "broker/space.h"

#include "ipc/hash.h"
#include "ipc/wire.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"

#include <stdlib.h>
#include <string.h>

#define LONGEST 1024u

static struct crn_space space;
static const struct crn_model *base, *finder;
static int32_t context[LONGEST]; /* what most entries are about */

static const struct crn_model *model(uint8_t digest, uint8_t family)
{
    struct crn_model like = {.shape = {1, 1, 32, 64}};
    const struct crn_model *m = NULL;
    memset(&like.digest, digest, sizeof like.digest);
    memset(&like.family, family, sizeof like.family);
    ck_assert_int_eq(crn_space_model(&space, &like, &m), 0);
    return m;
}

static void open_space(uint64_t bytes)
{
    struct crn_space_options o = {.name = "test", .limit_bytes = bytes, .arena_bytes = bytes,
                                  .first_generation = 1, .mem = &crn_mem_host};
    ck_assert_int_eq(crn_space_open(&o, &space), 0);
    base = model(1, 9);
    finder = model(2, 9);
    for (uint32_t i = 0; i < LONGEST; i++)
        context[i] = (int32_t)(i * 37 % 1009);
}

static struct crn_payload *payload(uint8_t kind, uint16_t layer, uint64_t bytes, uint32_t count)
{
    struct crn_payload *p = NULL;
    struct crn_payload_spec spec = {.kind = kind, .dtype = CAIRN_F16, .shared_pos = 1,
                                    .layer = layer, .bytes = bytes, .counts = &count,
                                    .n_counts = 1};
    return crn_payload_create(&space, &spec, &p) == 0 ? p : NULL;
}

struct made {
    const struct crn_model *producer;
    struct crn_entry *parent;
    const int32_t *tokens; /* of the context, from position 0 */
    uint32_t start, n_tokens;
    uint8_t pyramid;
    uint16_t state; /* layer whose state is kept; 0: none */
};

/* Publishes an entry of one layer; NULL when there is no room. */
static struct crn_entry *made(struct made m)
{
    struct crn_body *body;
    struct crn_entry *e;
    const int32_t *tokens = (m.tokens != NULL ? m.tokens : context) + m.start;
    const struct crn_model *producer = m.producer != NULL ? m.producer : base;
    struct crn_entry_spec spec = {.space = &space, .producer = producer, .parent = m.parent, .start = m.start, .n_tokens = m.n_tokens,
                                  .pyramid = m.pyramid, .settings = "", .tokens = tokens};
    struct crn_payload *own = payload(CRN_PAYLOAD_TOKENS, 0, m.n_tokens * sizeof *tokens, m.n_tokens);
    struct crn_payload *kv = own != NULL ? payload(CRN_PAYLOAD_KV, 0, 65536, m.n_tokens) : NULL;
    if (kv == NULL) {
        crn_payload_drop(own);
        return NULL;
    }
    memcpy(crn_payload_at(own), tokens, m.n_tokens * sizeof *tokens);
    ck_assert_int_eq(crn_body_create(1, &body), 0);
    ck_assert_int_eq(crn_body_put(body, own), 0);
    ck_assert_int_eq(crn_body_put(body, kv), 0);
    if (m.state != 0)
        ck_assert_int_eq(crn_body_put(body, payload(CRN_PAYLOAD_STATE, m.state, 64, m.n_tokens)), 0);
    ck_assert_int_eq(crn_entry_create(&spec, &e), 0);
    e->body = body;
    ck_assert_int_eq(crn_space_insert(&space, e), 0);
    return e;
}
#define MADE(...) made((struct made){__VA_ARGS__})

static uint64_t hashes[LONGEST / 64];

static struct crn_path found(const struct crn_model *receiver, const int32_t *tokens, uint32_t n,
                             uint32_t min_quality)
{
    struct crn_query q = {.hashes = hashes, .n_tokens = n, .min_quality = min_quality, .settings = "",
                          .model = receiver->digest, .family = receiver->family};
    struct crn_path path;
    q.n_hashes = (uint32_t)crn_hash_chain(&receiver->family, tokens, n, hashes);
    q.tail = tokens + q.n_hashes * 64;
    q.n_tail = n - q.n_hashes * 64;
    ck_assert_int_eq(crn_match_query(&space, &q, &path), 0);
    return path;
}

static uint64_t plan(uint16_t first, uint32_t quality, uint32_t cost)
{
    struct crn_plan *p = calloc(1, sizeof *p);
    p->rec = (struct crn_plan_rec){.producer = base->digest, .receiver = finder->digest,
                                   .first = first, .last = 5, .quality_ppm = quality,
                                   .cost_ppm = cost};
    p->budgets = calloc(1, sizeof *p->budgets);
    p->info = strdup("{}");
    ck_assert_int_eq(crn_plans_add(&space.plans, p), 0);
    return p->rec.id;
}

/* ---- hashes and spans ---- */

START_TEST(an_entrys_hashes_are_those_of_its_whole_context)
{
    static const uint32_t starts[] = {1, 63, 64, 65, 100, 128, 200};
    open_space(16u << 20);
    uint32_t start = starts[_i];
    struct crn_entry *root = MADE(.n_tokens = 200);
    struct crn_entry *child = MADE(.parent = root, .start = start, .n_tokens = 500 - start);
    size_t n = crn_hash_chain(&base->family, context, 500, hashes);
    ck_assert_uint_eq(child->n_whole, n - start / 64);
    for (uint32_t i = 0; i < child->n_whole; i++)
        ck_assert_uint_eq(child->nodes[i].hash, hashes[start / 64 + i]);
    ck_assert_uint_eq(crn_entry_last_hash(child), hashes[n - 1]);
    crn_space_close(&space);
}
END_TEST

START_TEST(a_chain_of_small_children_hashes_like_one_text)
{
    open_space(16u << 20);
    struct rand r = rand_seeded(rand_default_seed() + (uint64_t)_i);
    struct crn_entry *leaf = MADE(.n_tokens = 1 + (uint32_t)rand_below(&r, 50));
    for (int i = 0; i < 14; i++) {
        uint32_t end = crn_entry_end(leaf);
        uint32_t back = (uint32_t)rand_below(&r, leaf->n_tokens);
        leaf = MADE(.parent = leaf, .start = end - back,
                    .n_tokens = back + 1 + (uint32_t)rand_below(&r, 40));
        size_t n = crn_hash_chain(&base->family, context, crn_entry_end(leaf), hashes);
        uint64_t want = n > 0 ? hashes[n - 1] : crn_hash_root(&base->family);
        ck_assert_uint_eq(crn_entry_last_hash(leaf), want);
    }
    struct crn_path path = found(base, context, crn_entry_end(leaf), 0);
    uint32_t end = 0;
    for (uint32_t i = 0; i < path.n; i++) {
        ck_assert_uint_eq(path.parts[i].entry->start, end);
        end += path.parts[i].usable;
    }
    ck_assert_uint_eq(end, crn_entry_end(leaf));
    crn_space_close(&space);
}
END_TEST

START_TEST(the_longest_common_prefix_wins)
{
    open_space(16u << 20);
    int32_t other[LONGEST];
    memcpy(other, context, sizeof other);
    other[300]++;
    struct crn_entry *a = MADE(.n_tokens = 256);
    struct crn_entry *b = MADE(.n_tokens = 600);
    struct crn_path path = found(base, context, 1000, 0);
    ck_assert_ptr_eq(path.parts[0].entry, b);
    ck_assert_uint_eq(path.parts[0].usable, 600);
    path = found(base, other, 1000, 0); /* agrees for 300 tokens: 4 whole chunks */
    ck_assert_uint_eq(path.parts[0].usable, 256);
    ck_assert_uint_eq(found(base, other + 1, 900, 0).n, 0);
    ck_assert_ptr_nonnull(a);
    crn_space_close(&space);
}
END_TEST

START_TEST(a_prefill_pyramid_serves_only_as_a_whole)
{
    open_space(16u << 20);
    struct crn_entry *e = MADE(.n_tokens = 300, .pyramid = CAIRN_PYRAMID_PREFILL);
    struct crn_path path = found(base, context, 299, 0);
    ck_assert_uint_eq(path.n, 0);
    ck_assert_uint_eq(path.reason, CAIRN_REASON_WHOLE_ONLY);
    path = found(base, context, 300, 0);
    ck_assert_ptr_eq(path.parts[0].entry, e);
    ck_assert_uint_eq(found(base, context, 500, 0).parts[0].usable, 300);
    crn_space_close(&space);
}
END_TEST

START_TEST(families_never_meet)
{
    open_space(16u << 20);
    const struct crn_model *stranger = model(1, 8);
    MADE(.n_tokens = 300);
    ck_assert_uint_eq(found(stranger, context, 300, 0).reason, CAIRN_REASON_NO_ENTRY);
    ck_assert_uint_eq(found(base, context, 300, 0).n, 1);
    crn_space_close(&space);
}
END_TEST

/* ---- class and plan ---- */

START_TEST(the_class_follows_from_producer_plan_quality_and_state)
{
    open_space(16u << 20);
    MADE(.n_tokens = 300, .state = 2);
    ck_assert_uint_eq(found(finder, context, 300, 0).reason, CAIRN_REASON_NO_PLAN);
    plan(3, 990000, 300000);
    ck_assert_uint_eq(found(finder, context, 300, 0).reason, CAIRN_REASON_NO_STATE);
    uint64_t id = plan(2, 900000, 300000);
    struct crn_path path = found(finder, context, 300, 0);
    ck_assert_uint_eq(path.class_, CAIRN_CLASS_APPROX);
    ck_assert_uint_eq(path.plan->rec.id, id);
    path = found(finder, context, 300, 950000);
    ck_assert_uint_eq(path.class_, CAIRN_CLASS_NONE);
    ck_assert_uint_eq(found(base, context, 300, 0).class_, CAIRN_CLASS_EXACT);
    crn_space_close(&space);
}
END_TEST

START_TEST(the_best_plan_is_the_one_of_highest_quality_then_lowest_cost)
{
    open_space(16u << 20);
    MADE(.n_tokens = 300, .state = 2);
    plan(2, 900000, 100000);
    plan(0, 950000, 500000);
    uint64_t best = plan(2, 950000, 400000);
    ck_assert_uint_eq(found(finder, context, 300, 0).plan->rec.id, best);
    uint64_t again = plan(2, 910000, 100000); /* the same run, measured again */
    ck_assert_uint_gt(again, best);
    ck_assert_ptr_null(crn_plans_find(&space.plans, best));
    ck_assert_uint_eq(space.plans.n, 2);
    crn_space_close(&space);
}
END_TEST

START_TEST(an_own_continuation_of_a_siblings_entry_is_exact_on_an_approximate_path)
{
    open_space(16u << 20);
    struct crn_entry *root = MADE(.n_tokens = 200, .state = 2);
    MADE(.producer = finder, .parent = root, .start = 200, .n_tokens = 200);
    ck_assert_uint_eq(found(finder, context, 400, 0).n, 0); /* not without a plan for the root */
    plan(2, 900000, 100000);
    struct crn_path path = found(finder, context, 400, 0);
    ck_assert_uint_eq(path.n, 2);
    ck_assert_uint_eq(path.class_, CAIRN_CLASS_APPROX);
    ck_assert_uint_eq(path.parts[0].class_, CAIRN_CLASS_APPROX);
    ck_assert_uint_eq(path.parts[1].class_, CAIRN_CLASS_EXACT);
    path = found(base, context, 400, 0); /* the child is a sibling's: the path ends before it */
    ck_assert_uint_eq(path.n, 1);
    ck_assert_uint_eq(path.parts[0].usable, 200);
    crn_space_close(&space);
}
END_TEST

/* ---- ids ---- */

START_TEST(ids_are_never_used_twice)
{
    open_space(16u << 20);
    uint64_t seen[200];
    struct crn_entry *e, *f;
    for (int i = 0; i < 200; i++) {
        e = MADE(.n_tokens = 64);
        seen[i] = e->id;
        if (i % 3 == 0) {
            crn_entries_renew(&space.entries, e);
            ck_assert_int_eq(crn_entries_find(&space.entries, seen[i], &f), CAIRN_E_STALE);
            ck_assert_int_eq(crn_entries_find(&space.entries, e->id, &f), 0);
        }
        crn_space_remove(&space, e);
        for (int j = 0; j <= i; j++) {
            ck_assert(j == i || seen[j] != seen[i]);
            ck_assert_int_eq(crn_entries_find(&space.entries, seen[j], &f), CAIRN_E_STALE);
        }
    }
    ck_assert_int_eq(crn_entries_find(&space.entries, 0, &f), CAIRN_E_MISS);
    ck_assert_int_eq(crn_entries_find(&space.entries, UINT64_MAX, &f), CAIRN_E_MISS);
    crn_space_close(&space);
}
END_TEST

START_TEST(the_table_of_ids_grows)
{
    open_space(64u << 20);
    for (uint32_t i = 0; i < 400; i++) {
        context[0] = (int32_t)i;
        ck_assert_ptr_nonnull(MADE(.n_tokens = 64));
    }
    ck_assert_uint_eq(space.entries.n, 400);
    for (uint32_t i = 0; i < 400; i++) {
        context[0] = (int32_t)i;
        ck_assert_uint_eq(found(base, context, 64, 0).n, 1);
    }
    ck_assert_uint_eq(space.used_bytes, 400u * 2 * CRN_GRANULE_BYTES);
    crn_space_close(&space);
    ck_assert_uint_eq(space.used_bytes, 0);
}
END_TEST

/* ---- room ---- */

START_TEST(the_coldest_goes_first_and_children_before_parents)
{
    open_space(8 * CRN_GRANULE_BYTES); /* four entries of two granules */
    struct crn_entry *root = MADE(.n_tokens = 64);
    struct crn_entry *child = MADE(.parent = root, .start = 64, .n_tokens = 64);
    context[0]++;
    struct crn_entry *pinned = MADE(.n_tokens = 64);
    context[0]++;
    struct crn_entry *warm = MADE(.n_tokens = 64), *gone;
    root->used_ns = 1; /* coldest of all, but a child needs it */
    child->used_ns = 3;
    pinned->used_ns = 2;
    pinned->pinned = true;
    uint64_t child_id = child->id, root_id = root->id, warm_id = warm->id;
    context[0]++;
    ck_assert_ptr_nonnull(MADE(.n_tokens = 64));
    ck_assert_int_eq(crn_entries_find(&space.entries, child_id, &gone), CAIRN_E_STALE);
    ck_assert_int_eq(crn_entries_find(&space.entries, root_id, &gone), 0);
    context[0]++;
    struct crn_entry *held = MADE(.n_tokens = 64);
    ck_assert_int_eq(crn_entries_find(&space.entries, root_id, &gone), CAIRN_E_STALE);
    struct crn_body *lease = crn_body_hold(held->body);
    held->used_ns = 1;
    context[0]++;
    ck_assert_ptr_nonnull(MADE(.n_tokens = 64));
    ck_assert_int_eq(crn_entries_find(&space.entries, warm_id, &gone), CAIRN_E_STALE);
    ck_assert_int_eq(crn_entries_find(&space.entries, held->id, &gone), 0);
    crn_body_drop(lease);
    crn_space_close(&space);
}
END_TEST

START_TEST(an_entry_that_was_read_often_outlives_one_that_was_not)
{
    open_space(4 * CRN_GRANULE_BYTES);
    struct crn_entry *read = MADE(.n_tokens = 64), *gone;
    context[0]++;
    struct crn_entry *scanned = MADE(.n_tokens = 64);
    read->hits = 100;
    scanned->used_ns = read->used_ns + 1000;
    uint64_t read_id = read->id, scanned_id = scanned->id;
    context[0]++;
    ck_assert_ptr_nonnull(MADE(.n_tokens = 64));
    ck_assert_int_eq(crn_entries_find(&space.entries, scanned_id, &gone), CAIRN_E_STALE);
    ck_assert_int_eq(crn_entries_find(&space.entries, read_id, &gone), 0);
    crn_space_close(&space);
}
END_TEST

START_TEST(memory_that_somebody_reads_is_not_handed_out)
{
    open_space(2 * CRN_GRANULE_BYTES);
    struct crn_entry *e = MADE(.n_tokens = 64);
    struct crn_body *lease = crn_body_hold(e->body);
    crn_space_remove(&space, e); /* dropped by hand while leased */
    ck_assert_ptr_null(MADE(.n_tokens = 64));
    ck_assert_uint_eq(space.stats.v[CRN_COUNTER_full_total], 1);
    crn_body_drop(lease);
    ck_assert_uint_eq(space.used_bytes, 0);
    ck_assert_ptr_nonnull(MADE(.n_tokens = 64));
    crn_space_close(&space);
}
END_TEST

START_TEST(arenas_are_added_up_to_the_limit)
{
    struct crn_space_options o = {.name = "test", .limit_bytes = 10 * CRN_GRANULE_BYTES,
                                  .arena_bytes = 4 * CRN_GRANULE_BYTES, .first_generation = 1,
                                  .mem = &crn_mem_host};
    struct crn_arena *arenas[10];
    struct crn_extent e[10], more = {0};
    struct crn_arena *none = NULL;
    ck_assert_int_eq(crn_space_open(&o, &space), 0);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(crn_space_alloc(&space, 2 * CRN_GRANULE_BYTES, &arenas[i], &e[i]), 0);
    ck_assert_uint_eq(space.arena_bytes, 10 * CRN_GRANULE_BYTES);
    ck_assert_int_eq(crn_space_alloc(&space, 1, &none, &more), CAIRN_E_FULL);
    ck_assert_int_eq(crn_space_alloc(&space, 5 * CRN_GRANULE_BYTES, &none, &more), CAIRN_E_TOO_BIG);
    ck_assert_ptr_null(none);
    crn_space_free(arenas[2], &e[2]);
    ck_assert_int_eq(crn_space_alloc(&space, 1, &none, &more), 0);
    crn_space_close(&space);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(an_entrys_hashes_are_those_of_its_whole_context, 7),
        RUN_LOOP(a_chain_of_small_children_hashes_like_one_text, 20),
        RUN_TEST(the_longest_common_prefix_wins),
        RUN_TEST(a_prefill_pyramid_serves_only_as_a_whole),
        RUN_TEST(families_never_meet),
        RUN_TEST(the_class_follows_from_producer_plan_quality_and_state),
        RUN_TEST(the_best_plan_is_the_one_of_highest_quality_then_lowest_cost),
        RUN_TEST(an_own_continuation_of_a_siblings_entry_is_exact_on_an_approximate_path),
        RUN_TEST(ids_are_never_used_twice),
        RUN_TEST(the_table_of_ids_grows),
        RUN_TEST(the_coldest_goes_first_and_children_before_parents),
        RUN_TEST(an_entry_that_was_read_often_outlives_one_that_was_not),
        RUN_TEST(memory_that_somebody_reads_is_not_handed_out),
        RUN_TEST(arenas_are_added_up_to_the_limit),
    };
    return run_suite("broker_space", tests, sizeof tests / sizeof *tests);
}
