/* Attention of the context's last tokens, mean over them and over the query heads of each KV head;
 * plain, and max-pooled over neighbours as SnapKV does. The voters themselves are kept. */
#include "tools/worker/selectors/selectors.h"

#include "tools/worker/pyramid.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct window {
    const struct crn_select *s;
    float *out;
};

static int take_scores(void *ctx, uint32_t layer, const float *scores, uint32_t first, uint32_t n)
{
    const struct window *w = ctx;
    uint32_t heads = w->s->e->weights->shape.n_kv_heads;
    for (uint32_t h = 0; h < heads; h++) {
        float *out = w->out + ((size_t)layer * heads + h) * w->s->n;
        memcpy(out + first, scores + (size_t)h * n, n * sizeof *out);
    }
    return 0;
}

int crn_select_window(const struct crn_select *s, float *out_scores)
{
    const struct crn_model_shape *shape = &s->e->weights->shape;
    struct window w = {s, out_scores};
    struct crn_replay replay = {
        .reduce = CRN_REDUCE_KV_MEAN, .ctx = &w, .scored = take_scores, .enter = NULL};
    crn_select_fill(out_scores, (size_t)shape->n_layers * shape->n_kv_heads * s->n, INFINITY);
    if (s->n <= CRN_SNAP_WINDOW)
        return 0;
    replay.from = s->n - CRN_SNAP_WINDOW;
    return crn_select_replay(s, &replay);
}

int crn_select_snap(const struct crn_select *s, float *out_scores)
{
    const struct crn_model_shape *shape = &s->e->weights->shape;
    size_t sets = (size_t)shape->n_layers * shape->n_kv_heads;
    uint32_t n = s->n > CRN_SNAP_WINDOW ? s->n - CRN_SNAP_WINDOW : 0;
    float *pooled = malloc(((size_t)n + 1) * sizeof *pooled);
    int status = pooled != NULL ? crn_select_window(s, out_scores) : -ENOMEM;
    for (size_t i = 0; i < sets && n > 0 && status == 0; i++) {
        crn_snap_pool(out_scores + i * s->n, n, pooled);
        memcpy(out_scores + i * s->n, pooled, n * sizeof *pooled);
    }
    free(pooled);
    return status;
}
