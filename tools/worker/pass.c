/* Residual rows and their positions, carried from layer to layer. Prefill, run, suffix and
 * re-reading differ only in what they attend to and in which rows they keep. */
#include "tools/worker/pass.h"

#include "kernels/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int crn_pass_begin_rows(struct crn_pass *p, struct crn_engine *e, uint32_t n)
{
    size_t floats = (size_t)n * e->weights->shape.hidden;
    void *h = NULL;
    *p = (struct crn_pass){.engine = e, .n = n};
    p->pos = malloc((n > 0 ? n : 1) * sizeof *p->pos);
    int status = p->pos != NULL ? 0 : -ENOMEM;
    if (status == 0)
        status = crn_memory_alloc(&e->exec, floats * sizeof *p->h, &h);
    p->h = h;
    if (status != 0)
        crn_pass_end(p);
    return status;
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
    if (p->engine != NULL)
        crn_memory_free(&p->engine->exec, p->h);
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

/* In place: rows only move forward. */
static void keep_here(struct crn_pass *p, const uint32_t *index, uint32_t n)
{
    size_t hidden = p->engine->weights->shape.hidden;
    for (uint32_t i = 0; i < n; i++)
        if (index[i] != i)
            memcpy(p->h + i * hidden, p->h + index[i] * hidden, hidden * sizeof *p->h);
}

/* Into other memory: on a device all rows move at once. */
static int keep_there(struct crn_pass *p, const uint32_t *index, uint32_t n)
{
    struct crn_engine *e = p->engine;
    void *kept;
    int status = crn_memory_alloc(&e->exec, n * (size_t)e->weights->shape.hidden * sizeof *p->h, &kept);
    if (status != 0)
        return status;
    status = crn_engine_rows(e, p->h, p->n, index, n, kept);
    crn_memory_free(&e->exec, status == 0 ? p->h : kept);
    if (status == 0)
        p->h = kept;
    return status;
}

int crn_pass_keep(struct crn_pass *p, const uint32_t *index, uint32_t n)
{
    int status = 0;
    if (!crn_memory_apart(&p->engine->exec))
        keep_here(p, index, n);
    else if (n < p->n)
        status = keep_there(p, index, n);
    if (status != 0)
        return status;
    for (uint32_t i = 0; i < n; i++)
        p->pos[i] = p->pos[index[i]];
    p->n = n;
    return 0;
}

int crn_pass_keep_positions(struct crn_pass *p, const int32_t *pos, uint32_t n)
{
    uint32_t row = 0, *index = malloc(((size_t)n + 1) * sizeof *index);
    int status = index != NULL ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < n && status == 0; i++) {
        while (row < p->n && p->pos[row] < pos[i])
            row++;
        if (row == p->n || p->pos[row] != pos[i])
            status = CAIRN_E_ARG;
        index[i] = row++;
    }
    if (status == 0)
        status = crn_pass_keep(p, index, n);
    free(index);
    return status;
}
