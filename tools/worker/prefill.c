/* Prefill: layer by layer over all tokens, so that each layer can be published while the next one
 * is computed. With a pyramid rule, layer l's scores decide which rows enter layer l + 1; layer l
 * itself keeps all rows it saw (method.md 2.3.2). */
#include "tools/worker/prefill.h"

#include "ipc/log.h"
#include "kernels/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct run {
    struct crn_engine *e;
    const struct crn_prefill *p;
    struct crn_cache *cache;
    struct crn_pass pass;
    struct crn_kv *piece;
    float *scores;  /* room for [G][n] */
    float *weights; /* [window] */
    uint32_t *index;
    uint32_t window;
    int watching;
    int wants_row; /* the last row after the last layer */
};

static int pyramid_on(const struct run *r)
{
    return r->p->rule != NULL && r->p->rule->on;
}

static int prepare(struct run *r)
{
    const struct crn_model_shape *s = &r->e->weights->shape;
    uint32_t n = r->p->n;
    if (pyramid_on(r) && r->p->start != 0)
        return CAIRN_E_ARG;
    r->piece = crn_cache_piece_add(r->cache);
    r->scores = malloc(((size_t)s->n_kv_heads * n + 1) * sizeof *r->scores);
    r->weights = malloc(((size_t)n + 1) * sizeof *r->weights);
    r->index = malloc(((size_t)n + 1) * sizeof *r->index);
    if (r->piece == NULL || r->scores == NULL || r->weights == NULL || r->index == NULL)
        return -ENOMEM;
    if (pyramid_on(r)) {
        r->window = crn_pyramid_window(r->p->rule, n);
        crn_pyramid_weights(r->p->rule, r->window, r->weights);
    }
    r->watching = r->p->watch != NULL;
    return crn_pass_begin(&r->pass, r->e, r->p->tokens, n, r->p->start);
}

static void watch_state(struct run *r, uint32_t layer)
{
    const struct crn_prefill_watch *w = r->p->watch;
    if (r->watching && w->state != NULL)
        r->watching = w->state(w->ctx, layer, r->pass.h, r->pass.pos, r->pass.n) == 0;
}

static void watch_layer(struct run *r, uint32_t layer, int scored)
{
    const struct crn_prefill_watch *w = r->p->watch;
    if (r->watching && w->layer != NULL)
        r->watching = w->layer(w->ctx, layer, &r->piece[layer], scored ? r->scores : NULL) == 0;
}

/* Which scores this layer must give: the pyramid's own cut, or a watcher's window scores. */
static uint32_t score_calls(struct run *r, uint32_t layer, struct crn_score_call *out)
{
    uint32_t n = r->pass.n, own = r->cache->layers[layer].n;
    if (pyramid_on(r)) {
        uint32_t context = n > r->window ? n - r->window : 0;
        uint32_t n_layers = r->e->weights->shape.n_layers;
        if (layer + 1 == n_layers ||
            crn_pyramid_keep(r->p->rule, layer, n_layers, r->p->n, n) == context)
            return 0;
        *out = (struct crn_score_call){.q_begin = context,
                                       .q_end = n,
                                       .span = own,
                                       .reduce = CRN_REDUCE_MEAN_ALL,
                                       .q_weight = r->weights,
                                       .out = r->scores};
        return 1;
    }
    if (!r->watching || !r->p->watch->want_scores)
        return 0;
    *out = (struct crn_score_call){.q_begin = n > CRN_SNAP_WINDOW ? n - CRN_SNAP_WINDOW : 0,
                                   .q_end = n,
                                   .span = own,
                                   .reduce = CRN_REDUCE_KV_MEAN,
                                   .out = r->scores};
    return 1;
}

static int one_layer(struct run *r, uint32_t layer)
{
    const struct crn_model_shape *s = &r->e->weights->shape;
    struct crn_kv *kv = &r->piece[layer];
    struct crn_cache_layer *spans = &r->cache->layers[layer];
    struct crn_score_call call;
    watch_state(r, layer);
    int status = crn_kv_init_in(kv, &r->e->exec, r->e->kv_dtype, s->n_kv_heads, s->head_dim,
                                r->pass.n);
    if (status != 0)
        return status;
    uint32_t n_calls = score_calls(r, layer, &call);
    if (layer + 1 == s->n_layers && n_calls == 0 && !r->wants_row)
        status =
            crn_pass_keys(&r->pass, layer, kv); /* nobody looks at what leaves the last layer */
    else
        status = crn_pass_layer(&r->pass, layer, spans->spans, spans->n, kv, &call, n_calls);
    if (status == 0)
        status = crn_cache_add_kv(r->cache, layer, kv);
    if (status != 0)
        return status;
    watch_layer(r, layer, n_calls == 1 && !pyramid_on(r));
    if (pyramid_on(r) && n_calls == 1) {
        uint32_t keep = crn_pyramid_keep(r->p->rule, layer, s->n_layers, r->p->n, r->pass.n);
        uint32_t n = crn_pyramid_select(r->p->rule, r->e->host_ops, &r->e->host_exec, r->scores,
                                        r->pass.n, r->window, keep, r->index);
        status = crn_pass_keep(&r->pass, r->index, n);
    }
    return status;
}

int crn_prefill(struct crn_engine *e, const struct crn_prefill *p, struct crn_cache *cache,
                float *out_h)
{
    const struct crn_model_shape *s = &e->weights->shape;
    struct run r = {.e = e, .p = p, .cache = cache, .wants_row = out_h != NULL};
    int status = p->n > 0 && p->n <= CAIRN_MAX_TOKENS ? prepare(&r) : CAIRN_E_ARG;
    for (uint32_t l = 0; l < s->n_layers && status == 0; l++)
        status = one_layer(&r, l);
    if (status == 0) {
        cache->n_tokens = p->start + p->n;
        if (out_h != NULL)
            status = crn_memory_copy(&e->exec, out_h, r.pass.h + (size_t)(r.pass.n - 1) * s->hidden,
                                     s->hidden * sizeof *out_h);
    }
    crn_pass_end(&r.pass);
    free(r.scores);
    free(r.weights);
    free(r.index);
    return status;
}
