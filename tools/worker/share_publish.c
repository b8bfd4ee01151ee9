/* Publishing behind a prefill: each layer is handed over as soon as it is complete, states as they
 * pass by. A failure ends the publishing, never the prefill. */
#include "tools/worker/share.h"

#include "ipc/log.h"
#include "kernels/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct crn_publish {
    struct crn_engine *e;
    struct cairn_client *client;
    struct cairn_draft *draft;
    struct crn_publish_choice choice;
    uint32_t n; /* tokens of the entry */
    uint32_t timeout_ms;
    uint64_t begun_ns;
    int failed;
    float *pooled;          /* [n] */
    uint32_t *index;        /* [G][n] */
    const uint32_t **lists; /* [G] */
    uint32_t *counts;       /* [G] */
    struct crn_prefill_watch watch;
};

/* Says once why a publish ended; the request goes on. */
static int give_up(struct crn_publish *p, const char *what, uint32_t layer, int status)
{
    if (!p->failed)
        crn_log(CRN_LOG_WARN, "publishing ended at %s of layer %u: %s", what, layer,
                cairn_strerror(status));
    p->failed = 1;
    return status;
}

static int state_wanted(const struct crn_publish *p, uint32_t layer)
{
    const struct cairn_draft_wants *wants = cairn_draft_wants(p->draft);
    for (uint32_t i = 0; i < wants->n_states; i++)
        if (wants->states[i] == layer)
            return 1;
    for (uint32_t i = 0; i < p->choice.n_states; i++)
        if (p->choice.states[i] == layer)
            return 1;
    return 0;
}

static int on_state(void *ctx, uint32_t layer, const float *h, const int32_t *pos, uint32_t n)
{
    struct crn_publish *p = ctx;
    struct cairn_put put = CAIRN_PUT_INIT;
    if (p->failed || !state_wanted(p, layer))
        return 0;
    put.layer = layer;
    put.rows = h;
    put.src_dtype = CAIRN_F32;
    put.dst_dtype = crn_state_dtype(p->e, &p->choice);
    put.n = n;
    put.pos = pos;
    int status = crn_memory_sync(&p->e->exec); /* the broker reads what was only asked for until then */
    if (status == 0)
        status = cairn_put_state(p->draft, &put, cairn_deadline_in(p->timeout_ms));
    return status == 0 ? 0 : give_up(p, "the state", layer, status);
}

/* Share of tokens that layer keeps, 1 when nothing is cut. */
static float share_of(const struct crn_publish *p, uint32_t layer)
{
    if (p->choice.sets == CRN_SETS_KEEP)
        return p->choice.keep;
    const struct cairn_draft_wants *wants = cairn_draft_wants(p->draft);
    for (uint32_t i = 0; i < wants->n_budgets && p->choice.sets == CRN_SETS_PLAN; i++)
        if (layer >= wants->budgets[i].first && layer <= wants->budgets[i].last)
            return wants->budgets[i].keep;
    return 1.0f;
}

/* Sets of one layer by its window scores [G][n], one per KV head. */
static int choose_sets(struct crn_publish *p, const struct crn_kv *kv, const float *scores,
                       float keep, struct cairn_put *put)
{
    for (uint32_t h = 0; h < kv->n_heads; h++) {
        crn_snap_pool(scores + (size_t)h * kv->n, kv->n, p->pooled);
        p->lists[h] = p->index + (size_t)h * p->n;
        p->counts[h] = crn_snap_select(p->e->host_ops, &p->e->host_exec, p->pooled, kv->n, keep,
                                       p->index + (size_t)h * p->n);
        if (p->counts[h] == 0)
            return CAIRN_E_ARG;
    }
    put->counts = p->counts;
    put->index = p->lists;
    return 0;
}

static int on_layer(void *ctx, uint32_t layer, const struct crn_kv *kv, const float *scores)
{
    struct crn_publish *p = ctx;
    struct cairn_put put = CAIRN_PUT_INIT;
    if (p->failed)
        return 0;
    put.layer = layer;
    put.src_dtype = kv->dtype;
    put.dst_dtype = p->choice.dtype;
    put.k = kv->k;
    put.v = kv->v;
    put.n = kv->n;
    put.stride = kv->capacity;
    put.pos = kv->pos;
    put.wide = p->choice.dtype == CAIRN_I8 ? CRN_SNAP_SINK : 0;
    float keep = share_of(p, layer);
    int status = keep < 1.0f && scores != NULL ? choose_sets(p, kv, scores, keep, &put) : 0;
    if (status == 0)
        status = crn_memory_sync(&p->e->exec);
    if (status == 0)
        status = cairn_put_layer(p->draft, &put, cairn_deadline_in(p->timeout_ms));
    return status == 0 ? 0 : give_up(p, "the KV", layer, status);
}

static int set_room(struct crn_publish *p)
{
    uint32_t heads = p->e->weights->shape.n_kv_heads;
    p->pooled = malloc((size_t)p->n * sizeof *p->pooled);
    p->index = malloc((size_t)heads * p->n * sizeof *p->index);
    p->lists = malloc(heads * sizeof *p->lists);
    p->counts = malloc(heads * sizeof *p->counts);
    return p->pooled && p->index && p->lists && p->counts ? 0 : -ENOMEM;
}

static void publish_free(struct crn_publish *p)
{
    free(p->pooled);
    free(p->index);
    free(p->lists);
    free(p->counts);
    free(p);
}

struct crn_publish *crn_publish_begin(struct crn_engine *e, struct cairn_client *client,
                                      const int32_t *context, uint32_t start, uint32_t n,
                                      struct cairn_lease *parent,
                                      const struct crn_publish_choice *choice, uint32_t timeout_ms)
{
    struct cairn_draft_options options = CAIRN_DRAFT_INIT;
    struct crn_publish *p = choice->on ? calloc(1, sizeof *p) : NULL;
    if (p == NULL)
        return NULL;
    *p = (struct crn_publish){
        .e = e, .client = client, .choice = *choice, .n = n, .timeout_ms = timeout_ms};
    p->watch = (struct crn_prefill_watch){p, on_state, on_layer, choice->sets != CRN_SETS_WHOLE};
    options.tokens = context + start;
    options.n_tokens = n;
    options.start = start;
    options.context = start > 0 ? context : NULL;
    if (parent != NULL) {
        const struct cairn_lease_info *info = cairn_lease_info(parent);
        options.parent = info->parts[info->n_parts - 1].entry;
    }
    int dropped = choice->settings != NULL && start == 0; /* a continuation is always whole */
    options.pyramid = dropped                          ? CAIRN_PYRAMID_PREFILL
                      : choice->sets != CRN_SETS_WHOLE ? CAIRN_PYRAMID_PUBLISH
                                                       : CAIRN_PYRAMID_NONE;
    options.settings = dropped ? choice->settings : NULL;
    options.dtype = choice->dtype;
    options.n_states = CAIRN_MAX_STATES;
    options.flags = CAIRN_DRAFT_EXCLUSIVE;
    int status = set_room(p);
    if (status == 0)
        status = cairn_draft_open(client, &options, cairn_deadline_in(timeout_ms), &p->draft);
    p->begun_ns = cairn_deadline_in(0);
    if (status == 0)
        return p;
    if (status == CAIRN_E_EXISTS || status == CAIRN_E_BUSY || status == CAIRN_E_GONE)
        crn_log(CRN_LOG_INFO, "not publishing: %s", cairn_strerror(status));
    else
        crn_log(CRN_LOG_WARN, "not publishing: %s", cairn_error(client));
    publish_free(p);
    return NULL;
}

const struct crn_prefill_watch *crn_publish_watch(struct crn_publish *p)
{
    return p != NULL ? &p->watch : NULL;
}

int crn_publish_end(struct crn_publish *p, int commit, struct cairn_entry_id *out_entry)
{
    struct cairn_entry_id entry;
    if (p == NULL)
        return CAIRN_E_MISS;
    int status = commit && !p->failed ? 0 : CAIRN_E_STATE;
    if (status == 0) {
        cairn_draft_cost(p->draft, (cairn_deadline_in(0) - p->begun_ns) / p->n); /* it was open while the prefill ran */
        status = cairn_commit(p->draft, cairn_deadline_in(p->timeout_ms), &entry);
        if (status != 0)
            crn_log(CRN_LOG_WARN, "commit: %s", cairn_error(p->client));
    } else {
        cairn_abort(p->draft);
    }
    if (status == 0 && out_entry != NULL)
        *out_entry = entry;
    publish_free(p);
    return status;
}
