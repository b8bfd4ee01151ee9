/* Compressing: a committed entry is attached like any other, its tokens are scored by a selector,
 * and the broker is sent lists of the rows to keep; no K or V travels (method.md 5.4). The entry
 * gets a new generation; readers of the old one finish undisturbed. An entry that is a pyramid
 * already is left alone: scores of what is gone cannot be had, and a second cut of the same size
 * would find nothing to do. */
#include "tools/worker/share.h"

#include <errno.h>
#include <stdlib.h>

#define WIDE_ROWS CRN_SETS_SINK

/* Tokens a view has of one head: int8 has two parts. */
static uint32_t rows_of(const struct cairn_layer_view *view)
{
    return view->heads[0].n + (view->wide != NULL ? view->wide[0].n : 0);
}

/* The whole entry as a cache: one span per layer, or two when it is int8. */
static int cache_of(struct cairn_lease *lease, const struct crn_compress *c,
                    struct crn_cache *cache)
{
    int status = 0;
    for (uint32_t l = 0; l < cache->n_layers && status == 0; l++) {
        struct cairn_layer_view view;
        status = cairn_wait(lease, 0, l, CAIRN_WAIT_KV, cairn_deadline_in(c->timeout_ms));
        if (status == 0)
            status = cairn_lease_layer(lease, 0, l, &view);
        if (status == 0 &&
            (view.dtype == CAIRN_DTYPE_NONE || !view.shared_pos || rows_of(&view) != c->n))
            status = CAIRN_E_STATE;
        if (status == 0)
            status = crn_cache_add_view(cache, l, &view);
    }
    return status;
}

static int is_cut(const struct crn_compress *c, uint32_t layer)
{
    return layer < c->rule.whole_first || layer > c->rule.whole_last;
}

static int put_layer(struct cairn_draft *draft, const struct crn_compress *c, uint32_t dtype,
                     const struct crn_sets *sets, uint32_t layer)
{
    struct cairn_put put = CAIRN_PUT_INIT;
    const uint32_t *lists[CAIRN_MAX_KV_HEADS];
    for (uint32_t h = 0; h < sets->n_heads; h++)
        lists[h] = crn_sets_list(sets, layer, h);
    put.layer = layer;
    put.n = c->n;
    put.dst_dtype = dtype;
    put.counts = sets->counts + (size_t)layer * sets->n_heads;
    put.index = lists;
    put.wide = dtype == CAIRN_I8 ? WIDE_ROWS : 0;
    return cairn_put_layer(draft, &put, cairn_deadline_in(c->timeout_ms));
}

static int replace_payloads(struct cairn_client *client, struct cairn_lease *lease,
                            const struct crn_compress *c, uint32_t dtype,
                            const struct crn_sets *sets)
{
    struct cairn_draft_options options = CAIRN_DRAFT_INIT;
    struct cairn_draft *draft;
    struct cairn_entry_id entry;
    options.tokens = c->tokens;
    options.n_tokens = c->n;
    options.replaces = lease;
    options.pyramid = CAIRN_PYRAMID_PUBLISH;
    options.dtype = dtype;
    int status = cairn_draft_open(client, &options, cairn_deadline_in(c->timeout_ms), &draft);
    if (status != 0)
        return status;
    for (uint32_t l = 0; l < sets->n_layers && status == 0; l++)
        if (is_cut(c, l))
            status = put_layer(draft, c, dtype, sets, l);
    if (status == 0)
        return cairn_commit(draft, cairn_deadline_in(c->timeout_ms), &entry);
    cairn_abort(draft);
    return status;
}

static int choose_sets(struct crn_engine *e, const struct crn_cache *cache,
                       const struct crn_compress *c, struct crn_sets *out_sets)
{
    const struct crn_model_shape *s = &e->weights->shape;
    struct crn_select select = {.e = e,
                                .cache = cache,
                                .tokens = c->tokens,
                                .n = c->n,
                                .prompt = c->reader_prefix,
                                .n_prompt = c->n_prefix,
                                .chunk = c->chunk,
                                .stride = c->stride,
                                .heads = c->heads};
    float *scores = malloc((size_t)s->n_layers * s->n_kv_heads * c->n * sizeof *scores);
    int status = scores != NULL ? c->selector->score(&select, scores) : -ENOMEM;
    if (status == 0)
        status = crn_sets_choose(&c->rule, scores, s->n_layers, s->n_kv_heads, c->n, out_sets);
    free(scores);
    return status;
}

int crn_share_compress(struct crn_engine *e, struct cairn_client *client,
                       const struct crn_compress *c, float *out_share)
{
    struct cairn_lease *lease = NULL;
    struct crn_cache cache = {0};
    struct crn_sets sets = {0};
    int status = crn_share_attach_own(client, c->tokens, c->n, c->timeout_ms, &lease);
    if (status == 0 && cairn_lease_info(lease)->parts[0].pyramid != CAIRN_PYRAMID_NONE)
        status = CAIRN_E_EXISTS;
    if (status == 0)
        status = crn_cache_init(&cache, e->weights->shape.n_layers);
    if (status == 0)
        status = cache_of(lease, c, &cache);
    if (status == 0)
        status = choose_sets(e, &cache, c, &sets);
    if (status == 0)
        status = cairn_lease_check(lease);
    if (status == 0) {
        uint32_t layers = cache.n_layers - 1, stored = cache.layers[layers].n;
        uint32_t dtype = cache.layers[layers].spans[stored - 1].dtype;
        status = replace_payloads(client, lease, c, c->dtype != 0 ? c->dtype : dtype, &sets);
    }
    if (status == 0)
        *out_share = (float)sets.share;
    crn_sets_free(&sets);
    crn_cache_free(&cache);
    cairn_release(lease);
    return status;
}
