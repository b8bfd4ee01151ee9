/* Publishing and attaching through a real broker: what one process put, another one reads, in place and to the last bit. */
#include "client/cairn.h"
#include "tests/support/broker.h"
#include "tests/support/child.h"
#include "tests/support/run.h"

#include <stdlib.h>
#include <string.h>

#define N 200u

static const char *const small[] = {"--memory", "16M", "--log-level", "warn", NULL};

struct reader {
    const struct broker *b;
    const int32_t *context;
};

static int read_all(void *ctx)
{
    const struct reader *r = ctx;
    struct cairn_client *client = tiny_open(r->b, 1);
    struct cairn_lease *lease;
    ck_assert_int_eq(tiny_attach(client, r->context, N, &lease), 0);
    const struct cairn_lease_info *info = cairn_lease_info(lease);
    ck_assert_uint_eq(info->n_tokens, N);
    ck_assert_uint_eq(info->class_, CAIRN_CLASS_EXACT);
    tiny_check_part(lease, 0, 1);
    ck_assert_int_eq(cairn_lease_check(lease), 0);
    cairn_release(lease);
    cairn_close(client);
    return 0;
}

START_TEST(what_one_process_publishes_another_reads_in_place)
{
    struct broker b;
    int32_t context[N];
    struct cairn_entry_id entry;
    broker_start(&b, small);
    tiny_tokens(context, N, 1);
    struct cairn_client *client = tiny_open(&b, 1);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N, .n_states = 1};
    ck_assert_msg(tiny_publish(client, &e, &entry) == 0, "%s", cairn_error(client));
    cairn_close(client); /* its threads end before the fork */
    struct reader reader = {&b, context};
    ck_assert_int_eq(child_end(child_start(read_all, &reader)), 0);
    broker_stop(&b);
}
END_TEST

START_TEST(a_part_ends_at_the_token_where_the_contexts_differ)
{
    struct broker b;
    int32_t context[N];
    struct cairn_entry_id entry;
    struct cairn_lease *lease;
    struct cairn_layer_view view;
    broker_start(&b, small);
    tiny_tokens(context, N, 2);
    struct cairn_client *client = tiny_open(&b, 1);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N};
    ck_assert_int_eq(tiny_publish(client, &e, &entry), 0);
    static const uint32_t cuts[] = {64, 65, 100, 127, 128, 129, 191, 199};
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        int32_t other[N];
        memcpy(other, context, sizeof other);
        other[cuts[i]]++;
        ck_assert_msg(tiny_attach(client, other, N, &lease) == 0, "cut %u: %s", cuts[i], cairn_error(client));
        uint32_t n = cairn_lease_info(lease)->n_tokens;
        ck_assert_uint_le(n, cuts[i]);
        ck_assert_uint_ge(n, cuts[i] / 64 * 64);
        ck_assert_int_eq(cairn_lease_layer(lease, 0, 1, &view), 0);
        ck_assert_uint_eq(view.heads[0].n, n);
        tiny_check_part(lease, 0, 1);
        cairn_release(lease);
    }
    cairn_close(client);
    broker_stop(&b);
}
END_TEST

START_TEST(a_child_entry_continues_its_parent_on_one_path)
{
    struct broker b;
    int32_t context[N];
    struct cairn_entry_id root, leaf;
    struct cairn_lease *lease;
    broker_start(&b, small);
    tiny_tokens(context, N, 3);
    struct cairn_client *client = tiny_open(&b, 1);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = 100};
    ck_assert_int_eq(tiny_publish(client, &e, &root), 0);
    e.start = 100;
    e.n_tokens = 100;
    e.parent = root;
    ck_assert_msg(tiny_publish(client, &e, &leaf) == 0, "%s", cairn_error(client));
    ck_assert_msg(tiny_attach(client, context, N, &lease) == 0, "%s", cairn_error(client));
    const struct cairn_lease_info *info = cairn_lease_info(lease);
    ck_assert_uint_eq(info->n_parts, 2);
    ck_assert_uint_eq(info->n_tokens, N);
    ck_assert_uint_eq(info->parts[1].start, 100);
    ck_assert(info->parts[1].entry.v == leaf.v);
    tiny_check_part(lease, 0, 1);
    tiny_check_part(lease, 1, 1);
    cairn_release(lease);
    cairn_close(client);
    broker_stop(&b);
}
END_TEST

START_TEST(what_is_not_cached_is_a_miss_with_its_reason)
{
    struct broker b;
    int32_t context[N];
    struct cairn_entry_id entry;
    struct cairn_lease *lease = NULL;
    struct cairn_match match;
    struct cairn_query q = CAIRN_QUERY_INIT;
    broker_start(&b, small);
    tiny_tokens(context, N, 4);
    struct cairn_client *producer = tiny_open(&b, 1), *sibling = tiny_open(&b, 2);
    ck_assert_int_eq(tiny_attach(sibling, context, N, &lease), CAIRN_E_MISS);
    ck_assert_ptr_null(lease);
    ck_assert_ptr_nonnull(strstr(cairn_error(sibling), "nothing is cached"));
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N};
    ck_assert_int_eq(tiny_publish(producer, &e, &entry), 0);
    ck_assert_int_eq(tiny_attach(sibling, context, N, &lease), CAIRN_E_MISS);
    ck_assert_ptr_nonnull(strstr(cairn_error(sibling), "no plan"));
    q.tokens = context;
    q.n_tokens = N;
    ck_assert_int_eq(cairn_match(sibling, &q, SOON, &match), 0);
    ck_assert_uint_eq(match.class_, CAIRN_CLASS_NONE);
    ck_assert_uint_eq(match.reason, CAIRN_REASON_NO_PLAN);
    ck_assert_int_eq(cairn_match(producer, &q, SOON, &match), 0);
    ck_assert_uint_eq(match.class_, CAIRN_CLASS_EXACT);
    ck_assert_uint_eq(match.n_tokens, N);
    cairn_close(producer);
    cairn_close(sibling);
    broker_stop(&b);
}
END_TEST

/* ---- a plan, and the driver over it ---- */

struct engine {
    struct cairn_lease *lease;
    uint32_t calls, begun, next_suffix;
    uint32_t run_mask; /* layers run */
};

static int run_begin(void *ctx, uint32_t part, const struct cairn_state_view *state, const struct cairn_map_view *map)
{
    struct engine *e = ctx;
    ck_assert_uint_eq(part, 0);
    ck_assert_ptr_nonnull(state);
    ck_assert_uint_eq(state->n, N);
    ck_assert_uint_eq(state->dtype, CAIRN_F32);
    ck_assert_float_eq(((const float *)state->rows)[TINY_HIDDEN * 3 + 5], tiny_value(1, 2, 1, 0, 3, 5));
    ck_assert_ptr_nonnull(map);
    ck_assert_uint_eq(map->hidden, TINY_HIDDEN);
    ck_assert_float_eq(map->w[TINY_HIDDEN + 1], 65.0f);
    e->begun++;
    return 0;
}

static int run_layer(void *ctx, uint32_t part, uint32_t layer, int last, const struct cairn_layer_view *earlier,
                     const int32_t *next_pos, uint32_t n_next)
{
    struct engine *e = ctx;
    (void)part;
    (void)earlier;
    ck_assert_uint_eq(e->begun, 1);
    ck_assert_int_eq(last, layer == 2);
    ck_assert_ptr_null(next_pos);
    ck_assert_uint_eq(n_next, 0);
    e->run_mask |= 1u << layer;
    return 0;
}

static int suffix_layer(void *ctx, uint32_t layer, const struct cairn_layer_view *views, uint32_t n_parts)
{
    struct engine *e = ctx;
    ck_assert_uint_eq(n_parts, 1);
    ck_assert_uint_eq(layer, e->next_suffix++);
    ck_assert_uint_eq(e->run_mask, 6);
    if (layer == 1 || layer == 2)
        ck_assert_uint_eq(views[0].dtype, CAIRN_DTYPE_NONE);
    else
        ck_assert_uint_eq(views[0].heads[0].n, N);
    return 0;
}

/* Plan of model 1 for model 2: run 1..2, a map that counts. */
static uint64_t store_plan(struct cairn_client *client, float quality)
{
    float map[TINY_HIDDEN * (TINY_HIDDEN + 1)];
    struct cairn_plan_put put = CAIRN_PLAN_PUT_INIT;
    struct cairn_budget budget = {3, 3, 0.5f};
    uint64_t plan = 0;
    for (size_t i = 0; i < sizeof map / sizeof map[0]; i++)
        map[i] = (float)i;
    put.plan.producer = tiny_model(1);
    put.plan.receiver = tiny_model(2);
    put.plan.first = 1;
    put.plan.last = 2;
    put.plan.quality = quality;
    put.plan.own_exact = 1;
    put.plan.exact = quality;
    put.plan.questions = 10;
    put.plan.cost = 0.5f;
    put.budgets = &budget;
    put.n_budgets = 1;
    put.map = (struct cairn_map_view){map, TINY_HIDDEN, 0, sizeof map};
    put.info = "{\"note\": 1}";
    ck_assert_msg(cairn_plan_store(client, &put, SOON, &plan) == 0, "%s", cairn_error(client));
    return plan;
}

START_TEST(a_sibling_reuses_by_plan_and_the_driver_runs_its_layers_first)
{
    struct broker b;
    int32_t context[N];
    struct cairn_entry_id entry;
    struct cairn_lease *lease;
    broker_start(&b, small);
    tiny_tokens(context, N, 5);
    struct cairn_client *producer = tiny_open(&b, 1), *sibling = tiny_open(&b, 2);
    uint64_t plan = store_plan(sibling, 0.9f);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N, .n_states = 2};
    ck_assert_msg(tiny_publish(producer, &e, &entry) == 0, "%s", cairn_error(producer));
    ck_assert_msg(tiny_attach(sibling, context, N, &lease) == 0, "%s", cairn_error(sibling));
    const struct cairn_lease_info *info = cairn_lease_info(lease);
    ck_assert_uint_eq(info->class_, CAIRN_CLASS_APPROX);
    ck_assert_ptr_nonnull(info->plan);
    ck_assert(info->plan->id == plan);
    tiny_check_part(lease, 0, 1);
    struct engine ctx = {.lease = lease};
    struct cairn_engine engine = {sizeof engine, &ctx, run_begin, run_layer, suffix_layer};
    ck_assert_msg(cairn_reuse(lease, &engine, NULL, SOON) == 0, "%s", cairn_error(sibling));
    ck_assert_uint_eq(ctx.next_suffix, TINY_LAYERS);
    cairn_release(lease);
    cairn_close(producer);
    cairn_close(sibling);
    broker_stop(&b);
}
END_TEST

START_TEST(a_plan_below_the_floor_is_refused_for_its_quality)
{
    struct broker b;
    int32_t context[N];
    struct cairn_entry_id entry;
    struct cairn_lease *lease;
    struct cairn_query q = CAIRN_QUERY_INIT;
    broker_start(&b, small);
    tiny_tokens(context, N, 6);
    struct cairn_client *producer = tiny_open(&b, 1), *sibling = tiny_open(&b, 2);
    store_plan(sibling, 0.9f);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N, .n_states = 2};
    ck_assert_int_eq(tiny_publish(producer, &e, &entry), 0);
    q.tokens = context;
    q.n_tokens = N;
    q.min_quality = 0.95f;
    ck_assert_int_eq(cairn_attach(sibling, &q, SOON, &lease), CAIRN_E_MISS);
    ck_assert_ptr_nonnull(strstr(cairn_error(sibling), "quality"));
    cairn_close(producer);
    cairn_close(sibling);
    broker_stop(&b);
}
END_TEST

/* The producer's entry came before the plan: its next attach says what is missing, and a draft that replaces the lease adds it. */
START_TEST(a_state_that_a_later_plan_wants_is_added_to_the_entry)
{
    struct broker b;
    int32_t context[N];
    struct cairn_entry_id before, after;
    struct cairn_lease *lease;
    struct cairn_draft *draft;
    struct cairn_draft_options o = CAIRN_DRAFT_INIT;
    broker_start(&b, small);
    tiny_tokens(context, N, 15);
    struct cairn_client *producer = tiny_open(&b, 1), *sibling = tiny_open(&b, 2);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N};
    ck_assert_int_eq(tiny_publish(producer, &e, &before), 0);
    ck_assert_int_eq(tiny_attach(producer, context, N, &lease), 0);
    ck_assert_uint_eq(cairn_lease_info(lease)->n_wants, 0);
    cairn_release(lease);
    store_plan(sibling, 0.9f);
    ck_assert_int_eq(tiny_attach(sibling, context, N, &lease), CAIRN_E_MISS);
    ck_assert_uint_eq(cairn_last_reason(sibling), CAIRN_REASON_NO_STATE);
    ck_assert_int_eq(tiny_attach(producer, context, N, &lease), 0);
    ck_assert_uint_eq(cairn_lease_info(lease)->n_wants, 1);
    ck_assert_uint_eq(cairn_lease_info(lease)->wants[0], 1);
    o.replaces = lease;
    o.dtype = CAIRN_F32;
    o.n_states = 1;
    ck_assert_msg(cairn_draft_open(producer, &o, SOON, &draft) == 0, "%s", cairn_error(producer));
    ck_assert_msg(tiny_put_state(draft, &e, 1) == 0, "%s", cairn_error(producer));
    ck_assert_msg(cairn_commit(draft, SOON, &after) == 0, "%s", cairn_error(producer));
    ck_assert(after.v != before.v);
    tiny_check_part(lease, 0, 1); /* readers of the old generation finish undisturbed */
    cairn_release(lease);
    ck_assert_msg(tiny_attach(sibling, context, N, &lease) == 0, "%s", cairn_error(sibling));
    ck_assert_uint_eq(cairn_lease_info(lease)->class_, CAIRN_CLASS_APPROX);
    tiny_check_part(lease, 0, 1);
    struct engine ctx = {.lease = lease};
    struct cairn_engine engine = {sizeof engine, &ctx, run_begin, run_layer, suffix_layer};
    ck_assert_msg(cairn_reuse(lease, &engine, NULL, SOON) == 0, "%s", cairn_error(sibling));
    cairn_release(lease);
    cairn_close(producer);
    cairn_close(sibling);
    broker_stop(&b);
}
END_TEST

static uint32_t class_with(struct cairn_client *client, const int32_t *context, const char *settings,
                           uint32_t *out_reason)
{
    struct cairn_match match;
    struct cairn_query q = CAIRN_QUERY_INIT;
    q.tokens = context;
    q.n_tokens = N;
    q.settings = settings;
    ck_assert_int_eq(cairn_match(client, &q, SOON, &match), 0);
    *out_reason = match.reason;
    return match.class_;
}

START_TEST(a_prefill_pyramid_serves_only_who_names_its_settings)
{
    struct broker b;
    int32_t context[N];
    struct cairn_entry_id entry;
    struct cairn_lease *lease;
    uint32_t reason;
    broker_start(&b, small);
    tiny_tokens(context, N, 16);
    struct cairn_client *client = tiny_open(&b, 1);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N,
                           .pyramid = CAIRN_PYRAMID_PREFILL, .settings = "prefill:d=0.9"};
    ck_assert_msg(tiny_publish(client, &e, &entry) == 0, "%s", cairn_error(client));
    ck_assert_uint_eq(class_with(client, context, "prefill:d=0.9", &reason), CAIRN_CLASS_EXACT);
    ck_assert_uint_eq(class_with(client, context, "prefill:d=0.8", &reason), CAIRN_CLASS_NONE);
    ck_assert_uint_eq(reason, CAIRN_REASON_SETTINGS);
    ck_assert_int_eq(tiny_attach(client, context, N, &lease), CAIRN_E_MISS);
    ck_assert_ptr_nonnull(strstr(cairn_error(client), "other settings"));
    e.pyramid = CAIRN_PYRAMID_NONE; /* what it lacks is published beside it */
    e.settings = NULL;
    e.flags = CAIRN_DRAFT_EXCLUSIVE;
    ck_assert_msg(tiny_publish(client, &e, &entry) == 0, "%s", cairn_error(client));
    ck_assert_int_eq(tiny_attach(client, context, N, &lease), 0);
    ck_assert(cairn_lease_info(lease)->parts[0].entry.v == entry.v);
    cairn_release(lease);
    cairn_close(client);
    broker_stop(&b);
}
END_TEST

START_TEST(a_lease_that_is_kept_outlives_its_time_and_one_that_is_not_expires)
{
    static const char *const hasty[] = {"--memory", "16M", "--log-level", "warn", "--lease-ttl", "500ms", NULL};
    struct broker b;
    int32_t context[N];
    struct cairn_entry_id entry;
    struct cairn_lease *lease;
    broker_start(&b, hasty);
    tiny_tokens(context, N, 17);
    struct cairn_client *client = tiny_open(&b, 1);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N};
    ck_assert_int_eq(tiny_publish(client, &e, &entry), 0);
    ck_assert_int_eq(tiny_attach(client, context, N, &lease), 0);
    for (uint64_t end = cairn_deadline_in(1500); cairn_deadline_in(0) < end;)
        ck_assert_int_eq(cairn_lease_keep(lease), 0);
    ck_assert_uint_eq(broker_counter(&b, "lease_expired_total"), 0);
    broker_await(&b, "lease_expired_total", 1);
    ck_assert_int_eq(cairn_lease_keep(lease), CAIRN_E_STALE);
    cairn_release(lease);
    cairn_close(client);
    broker_stop(&b);
}
END_TEST

static int see_plan(void *ctx, const struct cairn_plan *plan, const struct cairn_budget *budgets, const char *info)
{
    struct cairn_plan *seen = ctx;
    ck_assert_uint_eq(plan->n_budgets, 1);
    ck_assert_uint_eq(budgets[0].first, 3);
    ck_assert_float_eq_tol(budgets[0].keep, 0.5f, 1e-6f);
    ck_assert_ptr_nonnull(info);
    ck_assert_ptr_nonnull(strstr(info, "note"));
    *seen = *plan;
    return 0;
}

START_TEST(plans_are_listed_as_they_were_stored_and_dropped_by_id)
{
    struct broker b;
    struct cairn_plan seen = {0};
    struct cairn_digest other = tiny_model(3);
    broker_start(&b, small);
    struct cairn_client *client = tiny_open(&b, 2);
    uint64_t plan = store_plan(client, 0.9f);
    ck_assert_int_eq(cairn_plan_each(client, NULL, NULL, SOON, see_plan, &seen), 0);
    ck_assert(seen.id == plan);
    ck_assert_uint_eq(seen.first, 1);
    ck_assert_uint_eq(seen.last, 2);
    ck_assert_uint_eq(seen.has_map, 1);
    ck_assert_float_eq_tol(seen.quality, 0.9f, 1e-6f);
    seen.id = 0;
    ck_assert_int_eq(cairn_plan_each(client, NULL, &other, SOON, see_plan, &seen), 0);
    ck_assert_uint_eq(seen.id, 0);
    ck_assert_int_eq(cairn_plan_drop(client, plan, SOON), 0);
    ck_assert_int_eq(cairn_plan_drop(client, plan, SOON), CAIRN_E_MISS);
    cairn_close(client);
    broker_stop(&b);
}
END_TEST

/* ---- a pyramid made while prefilling ---- */

/* Rows that reach a layer: fewer and fewer, each set inside the one before. */
static uint32_t pyramid_positions(uint32_t layer, int32_t *out_pos)
{
    uint32_t n = 0, step = layer + 1;
    for (uint32_t pos = 0; pos < N; pos++) {
        if (pos % 4 < 5 - step || pos + 8 >= N)
            out_pos[n++] = (int32_t)pos;
    }
    return n;
}

static void publish_pyramid(struct cairn_client *client, const int32_t *context)
{
    static float rows[2 * TINY_HEADS * N * TINY_DIM], state[N * TINY_HIDDEN];
    struct cairn_draft_options o = CAIRN_DRAFT_INIT;
    struct cairn_draft *draft;
    struct cairn_entry_id entry;
    int32_t pos[N];
    o.tokens = context;
    o.n_tokens = N;
    o.pyramid = CAIRN_PYRAMID_PREFILL;
    o.settings = "d=0.75";
    o.n_states = 1;
    o.dtype = CAIRN_F32;
    ck_assert_msg(cairn_draft_open(client, &o, SOON, &draft) == 0, "%s", cairn_error(client));
    for (uint32_t layer = 0; layer < TINY_LAYERS; layer++) {
        struct cairn_put put = CAIRN_PUT_INIT;
        put.layer = layer;
        put.n = pyramid_positions(layer, pos);
        put.pos = pos;
        if (layer == 1) {
            put.rows = state;
            ck_assert_msg(cairn_put_state(draft, &put, SOON) == 0, "%s", cairn_error(client));
            put.rows = NULL;
        }
        put.k = rows;
        put.v = rows + TINY_HEADS * put.n * TINY_DIM;
        ck_assert_msg(cairn_put_layer(draft, &put, SOON) == 0, "%s", cairn_error(client));
    }
    ck_assert_msg(cairn_commit(draft, SOON, &entry) == 0, "%s", cairn_error(client));
}

struct narrowing {
    uint32_t rows; /* in hand */
    uint32_t hold, runs;
};

static int narrow_begin(void *ctx, uint32_t part, const struct cairn_state_view *state, const struct cairn_map_view *map)
{
    struct narrowing *w = ctx;
    int32_t pos[N];
    (void)part;
    (void)map;
    w->rows = pyramid_positions(1, pos);
    ck_assert_uint_eq(state->n, w->rows);
    ck_assert_int_eq(memcmp(state->pos, pos, w->rows * sizeof *pos), 0);
    return 0;
}

static int narrow_layer(void *ctx, uint32_t part, uint32_t layer, int last, const struct cairn_layer_view *earlier,
                        const int32_t *next_pos, uint32_t n_next)
{
    struct narrowing *w = ctx;
    int32_t pos[N];
    (void)part;
    (void)earlier;
    w->runs++;
    if (last || w->hold) {
        ck_assert_ptr_null(next_pos);
        return 0;
    }
    ck_assert_uint_eq(n_next, pyramid_positions(layer + 1, pos));
    ck_assert_uint_lt(n_next, w->rows);
    ck_assert_int_eq(memcmp(next_pos, pos, n_next * sizeof *pos), 0);
    w->rows = n_next;
    return 0;
}

START_TEST(a_run_over_a_prefill_pyramid_inherits_its_sets_or_holds_them)
{
    struct broker b;
    int32_t context[N];
    struct cairn_lease *lease;
    struct cairn_layer_view view;
    broker_start(&b, small);
    tiny_tokens(context, N, 11);
    struct cairn_client *producer = tiny_open(&b, 1), *sibling = tiny_open(&b, 2);
    store_plan(sibling, 0.9f);
    publish_pyramid(producer, context);
    struct cairn_query q = CAIRN_QUERY_INIT;
    q.tokens = context;
    q.n_tokens = N;
    q.settings = "d=0.75";
    ck_assert_msg(cairn_attach(sibling, &q, SOON, &lease) == 0, "%s", cairn_error(sibling));
    ck_assert_uint_eq(cairn_lease_info(lease)->class_, CAIRN_CLASS_APPROX);
    ck_assert_int_eq(cairn_lease_layer(lease, 0, 1, &view), 0);
    ck_assert_uint_eq(view.dtype, CAIRN_DTYPE_NONE);
    for (uint32_t hold = 0; hold < 2; hold++) {
        struct narrowing w = {.hold = hold};
        struct cairn_engine engine = {sizeof engine, &w, narrow_begin, narrow_layer, NULL};
        struct cairn_reuse_options options = CAIRN_REUSE_INIT;
        options.hold = hold;
        ck_assert_msg(cairn_reuse(lease, &engine, &options, SOON) == 0, "%s", cairn_error(sibling));
        ck_assert_uint_eq(w.runs, 2);
    }
    cairn_release(lease);
    q.n_tokens = N - 1;
    ck_assert_int_eq(cairn_attach(sibling, &q, SOON, &lease), CAIRN_E_MISS);
    ck_assert_uint_eq(cairn_last_reason(sibling), CAIRN_REASON_WHOLE_ONLY);
    cairn_close(producer);
    cairn_close(sibling);
    broker_stop(&b);
}
END_TEST

START_TEST(a_forced_run_drives_an_inspected_lease_with_the_map_of_the_named_plan)
{
    struct broker b;
    int32_t context[N];
    struct cairn_entry_id entry;
    struct cairn_lease *lease;
    struct cairn_query q = CAIRN_QUERY_INIT;
    struct cairn_plan run = {.first = 1, .last = 2};
    struct cairn_reuse_options options = CAIRN_REUSE_INIT;
    broker_start(&b, small);
    tiny_tokens(context, N, 12);
    struct cairn_client *producer = tiny_open(&b, 1), *sibling = tiny_open(&b, 2);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N, .n_states = 2};
    ck_assert_int_eq(tiny_publish(producer, &e, &entry), 0);
    q.tokens = context;
    q.n_tokens = N;
    q.flags = CAIRN_QUERY_INSPECT;
    ck_assert_msg(cairn_attach(sibling, &q, SOON, &lease) == 0, "%s", cairn_error(sibling));
    struct engine ctx = {.lease = lease};
    struct cairn_engine engine = {sizeof engine, &ctx, run_begin, run_layer, suffix_layer};
    options.plan = &run;
    options.use_map = 1;
    ck_assert_int_eq(cairn_reuse(lease, &engine, &options, SOON), CAIRN_E_MISS);
    cairn_release(lease);
    q.plan = store_plan(sibling, 0.9f);
    ck_assert_msg(cairn_attach(sibling, &q, SOON, &lease) == 0, "%s", cairn_error(sibling));
    tiny_check_part(lease, 0, 1); /* all layers are there, also the run's */
    ctx = (struct engine){.lease = lease};
    ck_assert_msg(cairn_reuse(lease, &engine, &options, SOON) == 0, "%s", cairn_error(sibling));
    ck_assert_uint_eq(ctx.next_suffix, TINY_LAYERS);
    run.last = TINY_LAYERS;
    ck_assert_int_eq(cairn_reuse(lease, &engine, &options, SOON), CAIRN_E_ARG);
    cairn_release(lease);
    cairn_close(producer);
    cairn_close(sibling);
    broker_stop(&b);
}
END_TEST

/* ---- compression ---- */

START_TEST(compressing_replaces_the_payloads_and_leaves_the_reader_of_the_old_ones_alone)
{
    struct broker b;
    int32_t context[N];
    struct cairn_entry_id entry, smaller;
    struct cairn_lease *old, *new_lease;
    struct cairn_draft *draft;
    struct cairn_draft_options o = CAIRN_DRAFT_INIT;
    struct cairn_layer_view view;
    uint32_t counts[TINY_HEADS] = {50, 20}, list[TINY_HEADS][50];
    const uint32_t *lists[TINY_HEADS] = {list[0], list[1]};
    broker_start(&b, small);
    tiny_tokens(context, N, 7);
    struct cairn_client *client = tiny_open(&b, 1), *writer = tiny_open(&b, 1);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N};
    ck_assert_int_eq(tiny_publish(client, &e, &entry), 0);
    ck_assert_int_eq(tiny_attach(client, context, N, &old), 0);
    ck_assert_int_eq(tiny_attach(writer, context, N, &o.replaces), 0);
    o.pyramid = CAIRN_PYRAMID_PUBLISH;
    o.dtype = CAIRN_F32;
    ck_assert_msg(cairn_draft_open(writer, &o, SOON, &draft) == 0, "%s", cairn_error(writer));
    for (uint32_t i = 0; i < 50; i++) {
        list[0][i] = i * 4;
        list[1][i] = i * 5 + 1;
    }
    for (uint32_t layer = 0; layer < TINY_LAYERS; layer++) {
        struct cairn_put put = CAIRN_PUT_INIT;
        put.layer = layer;
        put.counts = counts;
        put.index = lists;
        ck_assert_msg(cairn_put_layer(draft, &put, SOON) == 0, "%s", cairn_error(writer));
    }
    ck_assert_msg(cairn_commit(draft, SOON, &smaller) == 0, "%s", cairn_error(writer));
    cairn_release(o.replaces);
    ck_assert(smaller.v != entry.v);
    tiny_check_part(old, 0, 1);
    ck_assert_int_eq(cairn_lease_layer(old, 0, 0, &view), 0);
    ck_assert_uint_eq(view.heads[1].n, N);
    ck_assert_int_eq(cairn_lease_check(old), 0);
    ck_assert_int_eq(tiny_attach(client, context, N, &new_lease), 0);
    ck_assert_int_eq(cairn_lease_layer(new_lease, 0, 0, &view), 0);
    ck_assert_uint_eq(view.heads[0].n, 50);
    ck_assert_uint_eq(view.heads[1].n, 20);
    ck_assert_int_eq(view.heads[1].pos[2], 11);
    tiny_check_part(new_lease, 0, 1);
    cairn_close(client);
    cairn_close(writer);
    broker_stop(&b);
}
END_TEST

START_TEST(rows_written_into_reserved_room_are_published_without_a_copy)
{
    struct broker b;
    int32_t context[N];
    struct cairn_entry_id entry;
    struct cairn_draft *draft;
    struct cairn_lease *lease;
    size_t numbers = (size_t)TINY_HEADS * N * TINY_DIM;
    broker_start(&b, small);
    tiny_tokens(context, N, 8);
    struct cairn_client *client = tiny_open(&b, 1);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N};
    ck_assert_int_eq(tiny_draft(client, &e, &draft), 0);
    for (uint32_t layer = 0; layer < TINY_LAYERS; layer++) {
        void *memory;
        struct cairn_put put = CAIRN_PUT_INIT;
        ck_assert_msg(cairn_draft_reserve(draft, 2 * numbers * sizeof(float), SOON, &memory) == 0, "%s",
                      cairn_error(client));
        float *k = memory;
        for (size_t i = 0; i < numbers; i++) {
            uint32_t c = i % TINY_DIM, row = (uint32_t)(i / TINY_DIM) % N, head = (uint32_t)(i / TINY_DIM / N);
            k[i] = tiny_value(1, 0, layer, head, (int32_t)row, c);
            k[numbers + i] = tiny_value(1, 1, layer, head, (int32_t)row, c);
        }
        put.layer = layer;
        put.k = k;
        put.v = k + numbers;
        put.n = N;
        ck_assert_msg(cairn_put_layer(draft, &put, SOON) == 0, "%s", cairn_error(client));
    }
    ck_assert_msg(cairn_commit(draft, SOON, &entry) == 0, "%s", cairn_error(client));
    ck_assert_int_eq(tiny_attach(client, context, N, &lease), 0);
    tiny_check_part(lease, 0, 1);
    cairn_close(client);
    broker_stop(&b);
}
END_TEST

/* ---- operations ---- */

static int count_entry(void *ctx, const struct cairn_entry_info *info)
{
    uint32_t *n = ctx;
    ck_assert_uint_eq(info->n_layers, TINY_LAYERS);
    ck_assert_str_eq(info->label, "tiny-1");
    ++*n;
    return 0;
}

static int count_payload(void *ctx, const struct cairn_payload_info *payload)
{
    uint32_t *n = ctx;
    if (payload->kind == 1)
        ck_assert_uint_eq(payload->kept[TINY_HEADS - 1], N);
    n[payload->kind]++;
    return 0;
}

START_TEST(tools_list_show_pin_and_evict_entries)
{
    struct broker b;
    int32_t context[N];
    struct cairn_entry_id entry, second;
    struct cairn_entry_info info;
    uint32_t n = 0, kinds[4] = {0};
    uint64_t evicted = 9, bytes = 0;
    broker_start(&b, small);
    struct cairn_client *worker = tiny_open(&b, 1), *tool = tiny_open(&b, 0);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N, .n_states = 2};
    tiny_tokens(context, N, 9);
    ck_assert_int_eq(tiny_publish(worker, &e, &entry), 0);
    tiny_tokens(context, N, 10);
    ck_assert_int_eq(tiny_publish(worker, &e, &second), 0);
    ck_assert_int_eq(cairn_entry_each(tool, SOON, count_entry, &n), 0);
    ck_assert_uint_eq(n, 2);
    ck_assert_msg(cairn_show(tool, entry, SOON, &info, count_payload, kinds) == 0, "%s", cairn_error(tool));
    ck_assert_uint_eq(info.n_tokens, N);
    ck_assert_uint_eq(kinds[1], TINY_LAYERS);
    ck_assert_uint_eq(kinds[2], 2);
    ck_assert_int_eq(cairn_pin(tool, entry, 1, SOON), 0);
    ck_assert_msg(cairn_evict(tool, (struct cairn_entry_id){0}, SOON, &evicted, &bytes) == 0, "%s",
                  cairn_error(tool));
    ck_assert_uint_eq(evicted, 1);
    ck_assert_int_eq(cairn_show(tool, entry, SOON, &info, NULL, NULL), 0);
    ck_assert_uint_eq(info.pinned, 1);
    ck_assert_int_eq(cairn_show(tool, second, SOON, &info, NULL, NULL), CAIRN_E_STALE);
    cairn_close(worker);
    cairn_close(tool);
    broker_stop(&b);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(what_one_process_publishes_another_reads_in_place),
        RUN_TEST(a_part_ends_at_the_token_where_the_contexts_differ),
        RUN_TEST(a_child_entry_continues_its_parent_on_one_path),
        RUN_TEST(what_is_not_cached_is_a_miss_with_its_reason),
        RUN_TEST(a_sibling_reuses_by_plan_and_the_driver_runs_its_layers_first),
        RUN_TEST(a_plan_below_the_floor_is_refused_for_its_quality),
        RUN_TEST(a_state_that_a_later_plan_wants_is_added_to_the_entry),
        RUN_TEST(a_prefill_pyramid_serves_only_who_names_its_settings),
        RUN_TEST(a_lease_that_is_kept_outlives_its_time_and_one_that_is_not_expires),
        RUN_TEST(plans_are_listed_as_they_were_stored_and_dropped_by_id),
        RUN_TEST(a_run_over_a_prefill_pyramid_inherits_its_sets_or_holds_them),
        RUN_TEST(a_forced_run_drives_an_inspected_lease_with_the_map_of_the_named_plan),
        RUN_TEST(compressing_replaces_the_payloads_and_leaves_the_reader_of_the_old_ones_alone),
        RUN_TEST(rows_written_into_reserved_room_are_published_without_a_copy),
        RUN_TEST(tools_list_show_pin_and_evict_entries),
    };
    return run_suite("client_share", tests, sizeof tests / sizeof tests[0]);
}
