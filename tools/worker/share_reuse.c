/* Reuse: a lease becomes spans of a cache. The library says what to do in which order
 * (cairn_reuse); this file does it with the engine: take the state, apply the map, recompute the
 * run's layers into private memory, follow with the suffix. It publishes nothing and chooses no
 * plan. */
#include "tools/worker/share.h"
#include "tools/worker/state_map.h"

#include "ipc/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A stored plan for this receiver whose run starts at `first`: forcing it brings its map along. */
struct map_search {
    uint32_t first;
    uint64_t plan;
};

static int plan_starts_there(void *ctx, const struct cairn_plan *plan,
                             const struct cairn_budget *budgets, const char *info)
{
    struct map_search *search = ctx;
    (void)budgets;
    (void)info;
    if (search->plan == 0 && plan->has_map && plan->first == search->first)
        search->plan = plan->id;
    return 0;
}

int crn_share_attach(struct cairn_client *client, const int32_t *tokens, uint32_t n,
                     const struct crn_reuse_choice *choice, struct cairn_lease **out_lease,
                     struct crn_reuse_result *out_result)
{
    struct cairn_query query = CAIRN_QUERY_INIT;
    double start = now_s();
    *out_lease = NULL;
    *out_result = (struct crn_reuse_result){.class_ = CAIRN_CLASS_NONE,
                                            .reason = CAIRN_REASON_NO_ENTRY,
                                            .run_first = -1,
                                            .run_last = -2};
    if (choice->mode == CRN_REUSE_NEVER)
        return 0;
    query.tokens = tokens;
    query.n_tokens = n;
    query.min_quality = choice->min_quality;
    query.waiting = choice->waiting;
    if (choice->deadline_ms > 0)
        query.first_token_ns = cairn_deadline_in(choice->deadline_ms);
    query.settings = choice->settings;
    query.flags = choice->mode == CRN_REUSE_AUTO ? 0 : CAIRN_QUERY_INSPECT;
    int status = 0;
    if (choice->mode == CRN_REUSE_RUN && choice->with_map) {
        struct map_search search = {.first = choice->first};
        status = cairn_plan_each(client, NULL, &choice->self, cairn_deadline_in(choice->timeout_ms),
                                 plan_starts_there, &search);
        query.plan = search.plan;
        if (status != 0 || search.plan == 0)
            return status;
    }
    status = cairn_attach(client, &query, cairn_deadline_in(choice->timeout_ms), out_lease);
    out_result->match_s = now_s() - start;
    if (status != 0) {
        if (status != CAIRN_E_MISS)
            return status;
        out_result->reason = cairn_last_reason(client);
        return 0;
    }
    const struct cairn_lease_info *info = cairn_lease_info(*out_lease);
    out_result->class_ =
        choice->mode == CRN_REUSE_AUTO ? info->class_ : (uint32_t)CAIRN_CLASS_APPROX;
    out_result->reason = info->reason;
    out_result->n_tokens = info->n_tokens;
    out_result->n_wants = choice->mode == CRN_REUSE_AUTO ? info->n_wants : 0;
    out_result->producer = info->parts[0].producer;
    out_result->estimate_s = 1e-9 * (double)info->estimate_ns;
    out_result->prefill_s = 1e-9 * (double)info->prefill_ns;
    return 0;
}

int crn_share_attach_own(struct cairn_client *client, const int32_t *tokens, uint32_t n,
                         uint32_t timeout_ms, struct cairn_lease **out_lease)
{
    struct cairn_query query = CAIRN_QUERY_INIT;
    struct cairn_lease *lease;
    query.tokens = tokens;
    query.n_tokens = n;
    query.flags = CAIRN_QUERY_EXACT_ONLY;
    int status = cairn_attach(client, &query, cairn_deadline_in(timeout_ms), &lease);
    if (status != 0)
        return status;
    const struct cairn_lease_info *info = cairn_lease_info(lease);
    if (info->n_parts != 1 || info->parts[0].entry_tokens != n || info->n_tokens != n) {
        cairn_release(lease);
        return CAIRN_E_MISS;
    }
    *out_lease = lease;
    return 0;
}

/* State of one crn_share_reuse. */
struct reuse {
    struct crn_engine *e;
    struct cairn_lease *lease;
    const struct cairn_lease_info *info;
    const int32_t *tokens;
    struct crn_cache *cache;
    struct crn_decode *decode;
    struct crn_pass pass; /* rows of the run */
    struct crn_kv *piece; /* private layers of the part in hand */
    uint8_t *added;       /* [n_layers][n_parts]: this shared payload is in the cache */
    int hold;
    uint64_t run_tokens;
    double map_s, run_s, suffix_s;
};

static int add_view(struct reuse *r, uint32_t part, uint32_t layer,
                    const struct cairn_layer_view *view)
{
    uint8_t *added = &r->added[(size_t)layer * r->info->n_parts + part];
    if (*added || view->dtype == CAIRN_DTYPE_NONE)
        return 0;
    *added = 1;
    return crn_cache_add_view(r->cache, layer, view);
}

static int take_state(struct reuse *r, const struct cairn_state_view *state)
{
    const struct crn_kernel_ops *ops = r->e->ops;
    if (state->hidden != r->e->weights->shape.hidden)
        return CAIRN_E_CORRUPT;
    int status = crn_pass_begin_rows(&r->pass, r->e, state->n);
    if (status != 0)
        return status;
    memcpy(r->pass.pos, state->pos, state->n * sizeof *state->pos);
    if (state->dtype == CAIRN_I8)
        return ops->dequant_rows(&r->e->exec, state->rows, state->scale, state->n, state->hidden,
                                 64, r->pass.h);
    return ops->convert(&r->e->exec, state->rows, state->dtype, (size_t)state->n * state->hidden,
                        CAIRN_F32, r->pass.h);
}

static int run_begin(void *ctx, uint32_t part, const struct cairn_state_view *state,
                     const struct cairn_map_view *map)
{
    struct reuse *r = ctx;
    const struct cairn_part *p = &r->info->parts[part];
    double start = now_s();
    crn_pass_end(&r->pass);
    r->piece = crn_cache_piece_add(r->cache);
    if (r->piece == NULL)
        return -ENOMEM;
    int status = state != NULL
                     ? take_state(r, state)
                     : crn_pass_begin(&r->pass, r->e, r->tokens + p->start, p->n_tokens, p->start);
    double mapped = now_s();
    if (status == 0 && map != NULL)
        status = crn_state_map_apply(r->e, map, r->pass.h, r->pass.n);
    r->map_s += now_s() - mapped;
    r->run_s += mapped - start;
    return status;
}

static int run_layer(void *ctx, uint32_t part, uint32_t layer, int last,
                     const struct cairn_layer_view *earlier, const int32_t *next_pos,
                     uint32_t n_next)
{
    struct reuse *r = ctx;
    const struct crn_model_shape *s = &r->e->weights->shape;
    struct crn_kv *kv = &r->piece[layer];
    const struct crn_cache_layer *spans = &r->cache->layers[layer];
    double start = now_s();
    r->run_tokens += r->pass.n;
    int status = crn_kv_init_in(kv, &r->e->exec, r->e->kv_dtype, s->n_kv_heads, s->head_dim,
                                r->pass.n);
    for (uint32_t i = 0; i < part && status == 0 && !last; i++)
        status = add_view(r, i, layer, &earlier[i]);
    if (status == 0)
        status = last ? crn_pass_keys(&r->pass, layer, kv)
                      : crn_pass_layer(&r->pass, layer, spans->spans, spans->n, kv, NULL, 0);
    if (status == 0)
        status = crn_cache_add_kv(r->cache, layer, kv);
    if (status == 0 && !last && !r->hold && next_pos != NULL)
        status = crn_pass_keep_positions(&r->pass, next_pos, n_next);
    r->run_s += now_s() - start;
    return status;
}

static int suffix_layer(void *ctx, uint32_t layer, const struct cairn_layer_view *views,
                        uint32_t n_parts)
{
    struct reuse *r = ctx;
    double start = now_s();
    int status = 0;
    for (uint32_t part = 0; part < n_parts && status == 0; part++)
        status = add_view(r, part, layer, &views[part]);
    const struct crn_cache_layer *spans = &r->cache->layers[layer];
    if (status == 0 && r->decode != NULL)
        status = crn_decode_layer(r->decode, layer, spans->spans, spans->n);
    r->suffix_s += now_s() - start;
    return status;
}

int crn_share_reuse(struct crn_engine *e, struct cairn_lease *lease, const int32_t *tokens,
                    const struct crn_reuse_choice *choice, struct crn_cache *cache,
                    struct crn_decode *decode, struct crn_reuse_result *io_result)
{
    const struct cairn_lease_info *info = cairn_lease_info(lease);
    uint64_t deadline = cairn_deadline_in(choice->timeout_ms);
    struct cairn_engine engine = {sizeof engine, NULL, run_begin, run_layer, suffix_layer};
    struct cairn_reuse_options options = CAIRN_REUSE_INIT;
    struct reuse r = {.e = e,
                      .lease = lease,
                      .info = info,
                      .tokens = tokens,
                      .cache = cache,
                      .decode = decode,
                      .hold = choice->hold};
    struct cairn_plan forced = {.first = choice->first, .last = choice->last};
    int status;
    r.added = calloc((size_t)cache->n_layers * info->n_parts, 1);
    if (r.added == NULL)
        return -ENOMEM;
    engine.ctx = &r;
    options.hold = (uint32_t)choice->hold;
    if (choice->mode == CRN_REUSE_FULL)
        forced = (struct cairn_plan){.first = 1, .last = 0};
    if (choice->mode != CRN_REUSE_AUTO)
        options.plan = &forced;
    options.use_map = choice->mode == CRN_REUSE_RUN && choice->with_map;
    status = cairn_reuse(lease, &engine, &options, deadline);
    const struct cairn_plan *plan = options.plan != NULL ? options.plan : info->plan;
    if (status == 0 && plan != NULL && plan->first <= plan->last) {
        io_result->run_first = (int32_t)plan->first;
        io_result->run_last = (int32_t)plan->last;
        io_result->mapped = options.plan != NULL ? choice->with_map : (int)plan->has_map;
    }
    io_result->run_tokens += r.run_tokens;
    io_result->map_s += r.map_s;
    io_result->run_s += r.run_s;
    io_result->suffix_s += r.suffix_s;
    if (status == 0) {
        cache->n_tokens = info->n_tokens;
        cache->shared_bytes = info->shared_bytes;
    }
    crn_pass_end(&r.pass);
    free(r.added);
    return status;
}
