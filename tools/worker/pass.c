/* Residual rows and their positions, carried from layer to layer. Prefill, run, suffix and
 * re-reading differ only in what they attend to and in which rows they keep. */
#include "tools/worker/pass.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int crn_pass_begin_rows(struct crn_pass *p, struct crn_engine *e, uint32_t n)
{
    size_t floats = (size_t)n * e->weights->shape.hidden;
    *p = (struct crn_pass){.engine = e, .n = n};
    p->h = aligned_alloc(64, (floats * sizeof *p->h + 64) / 64 * 64);
    p->pos = malloc((n > 0 ? n : 1) * sizeof *p->pos);
    if (p->h == NULL || p->pos == NULL) {
        crn_pass_end(p);
        return -ENOMEM;
    }
    return 0;
}

int crn_pass_begin(struct crn_pass *p, struct crn_engine *e, const int32_t *tokens, uint32_t n,
                   uint32_t start)
{
    int status = crn_pass_begin_rows(p, e, n);
    if (status != 0)
        return status;
    for (uint32_t i = 0; i < n; i++)
        p->pos[i] = (int32_t)(start + i);
    status = crn_engine_embed(e, tokens, n, p->h);
    if (status != 0)
        crn_pass_end(p);
    return status;
}

void crn_pass_end(struct crn_pass *p)
{
    free(p->h);
    free(p->pos);
    *p = (struct crn_pass){0};
}

int crn_pass_layer(struct crn_pass *p, uint32_t layer, const struct crn_span *spans,
                   uint32_t n_spans, struct crn_kv *kv, const struct crn_score_call *scores,
                   uint32_t n_scores)
{
    struct crn_segment segment = {.kv = kv, .begin = 0, .end = p->n};
    struct crn_layer_call call = {.layer = layer,
                                  .h = p->h,
                                  .pos = p->pos,
                                  .n = p->n,
                                  .spans = spans,
                                  .n_spans = n_spans,
                                  .segments = &segment,
                                  .n_segments = 1,
                                  .scores = scores,
                                  .n_scores = n_scores};
    return crn_engine_layer(p->engine, &call);
}

int crn_pass_keys(struct crn_pass *p, uint32_t layer, struct crn_kv *kv)
{
    struct crn_segment segment = {.kv = kv, .begin = 0, .end = p->n};
    struct crn_layer_call call = {.layer = layer,
                                  .h = p->h,
                                  .pos = p->pos,
                                  .n = p->n,
                                  .segments = &segment,
                                  .n_segments = 1,
                                  .kv_only = 1};
    return crn_engine_layer(p->engine, &call);
}

void crn_pass_keep(struct crn_pass *p, const uint32_t *index, uint32_t n)
{
    size_t hidden = p->engine->weights->shape.hidden;
    for (uint32_t i = 0; i < n; i++) {
        if (index[i] == i)
            continue;
        memcpy(p->h + i * hidden, p->h + index[i] * hidden, hidden * sizeof *p->h);
        p->pos[i] = p->pos[index[i]];
    }
    p->n = n;
}

int crn_pass_keep_positions(struct crn_pass *p, const int32_t *pos, uint32_t n)
{
    size_t hidden = p->engine->weights->shape.hidden;
    uint32_t row = 0;
    for (uint32_t i = 0; i < n; i++) {
        while (row < p->n && p->pos[row] < pos[i])
            row++;
        if (row == p->n || p->pos[row] != pos[i])
            return CAIRN_E_ARG;
        if (row != i) {
            memcpy(p->h + i * hidden, p->h + row * hidden, hidden * sizeof *p->h);
            p->pos[i] = pos[i];
        }
        row++;
    }
    p->n = n;
    return 0;
}
