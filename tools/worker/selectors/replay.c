/* The end of a context, or all of it, through the model again, to see what its queries look at. The
 * entry's own rows of the replayed tokens are left out: the replay makes them anew. */
#include "tools/worker/selectors/selectors.h"

#include <errno.h>
#include <stdlib.h>

#define MAX_SPANS 2u

struct replay {
    const struct crn_select *s;
    const struct crn_replay *how;
    struct crn_pass pass;
    uint32_t n_heads;
    struct crn_kv_head *heads; /* [MAX_SPANS][n_heads] */
    float *scores;             /* [n_heads][n] */
};

/* The layer's spans as far as tokens before `from` go; returns how many. */
static uint32_t cut_spans(const struct replay *r, uint32_t layer, struct crn_span *out)
{
    const struct crn_cache_layer *l = &r->s->cache->layers[layer];
    uint32_t n = 0, left = r->how->from;
    for (uint32_t i = 0; i < l->n && i < MAX_SPANS && left > 0; i++, n++) {
        struct crn_kv_head *heads = r->heads + (size_t)n * r->n_heads;
        uint32_t rows = l->spans[i].heads[0].n < left ? l->spans[i].heads[0].n : left;
        for (uint32_t h = 0; h < r->n_heads; h++) {
            heads[h] = l->spans[i].heads[h];
            heads[h].n = rows;
        }
        out[n] = l->spans[i];
        out[n].heads = heads;
        left -= rows;
    }
    return n;
}

static int through_layer(struct replay *r, uint32_t layer)
{
    const struct crn_engine *e = r->s->e;
    const struct crn_model_shape *shape = &e->weights->shape;
    struct crn_span spans[MAX_SPANS];
    struct crn_kv kv = {0};
    uint32_t n_spans = cut_spans(r, layer, spans), target = n_spans > 0 ? n_spans - 1 : 0;
    uint32_t n = n_spans > 0 ? spans[target].heads[0].n : r->pass.n;
    uint32_t first = n_spans > 0 ? r->how->from - n : 0;
    struct crn_score_call call = {
        .q_end = r->pass.n, .span = target, .reduce = r->how->reduce, .out = r->scores};
    int status = r->how->enter != NULL ? r->how->enter(r->how->ctx, layer, &r->pass) : 0;
    if (status == 0)
        status = crn_kv_init_in(&kv, &e->exec, e->kv_dtype, shape->n_kv_heads, shape->head_dim,
                                r->pass.n);
    if (status == 0)
        status = crn_pass_layer(&r->pass, layer, spans, n_spans, &kv, &call, r->how->reduce != 0);
    if (status == 0 && r->how->reduce != 0)
        status = r->how->scored(r->how->ctx, layer, r->scores, first, n);
    crn_kv_free(&kv);
    return status;
}

int crn_select_replay(const struct crn_select *s, const struct crn_replay *how)
{
    const struct crn_model_shape *shape = &s->e->weights->shape;
    struct replay r = {.s = s, .how = how, .n_heads = shape->n_kv_heads};
    r.heads = malloc(MAX_SPANS * r.n_heads * sizeof *r.heads);
    r.scores = malloc((size_t)r.n_heads * s->n * sizeof *r.scores);
    int status = r.heads != NULL && r.scores != NULL ? 0 : -ENOMEM;
    if (status == 0)
        status = crn_pass_begin(&r.pass, s->e, s->tokens + how->from, s->n - how->from, how->from);
    for (uint32_t l = 0; l < shape->n_layers && status == 0; l++)
        status = through_layer(&r, l);
    crn_pass_end(&r.pass);
    free(r.scores);
    free(r.heads);
    return status;
}
