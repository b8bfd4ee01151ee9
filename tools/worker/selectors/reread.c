/* Context reconstruction (KVzip; method.md 5.4): the model is asked to repeat the context and reads
 * it a second time over its own cache. A token's score is the most attention that any query of the
 * second reading pays to it.
 *
 * The second reading is the price: one more prefill whose queries also see the first one, and go
 * through it twice. It gets cheaper in chunks, which do not see each other, by reading only every
 * stride-th token, and by looking at only some of the query heads. */
#include "tools/worker/selectors/selectors.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LEAD 8u /* tokens of the chunk before that a chunk begins with */

struct reread {
    const struct crn_select *s;
    int32_t *reader; /* [n_prompt + n] */
    float *scores;   /* [G][n] */
    float *out;
};

/* Maximum of what is there and of one chunk's scores, which begin behind the wide rows. */
static void take_maximum(const struct reread *r, uint32_t layer)
{
    uint32_t wide = crn_select_wide(r->s, layer), n = r->s->n, rest = n - wide;
    uint32_t heads = r->s->e->weights->shape.n_kv_heads;
    for (uint32_t h = 0; h < heads; h++) {
        float *out = r->out + ((size_t)layer * heads + h) * n + wide;
        const float *in = r->scores + (size_t)h * rest;
        for (uint32_t i = 0; i < rest; i++)
            out[i] = in[i] > out[i] ? in[i] : out[i];
    }
}

static int read_again(struct reread *r, uint32_t n_reader)
{
    struct crn_engine *e = r->s->e;
    const struct crn_model_shape *shape = &e->weights->shape;
    struct crn_pass pass = {0};
    int status = crn_pass_begin(&pass, e, r->reader, n_reader, r->s->n);
    for (uint32_t l = 0; l < shape->n_layers && status == 0; l++) {
        const struct crn_cache_layer *spans = &r->s->cache->layers[l];
        struct crn_kv kv = {0};
        struct crn_score_call call = {
            .q_end = n_reader,
            .span = spans->n - 1,
            .reduce = CRN_REDUCE_KV_MAX,
            .heads = r->s->heads,
            .out = r->scores};
        status = crn_kv_init_in(&kv, &e->exec, e->kv_dtype, shape->n_kv_heads, shape->head_dim,
                                n_reader);
        if (status == 0)
            status = crn_pass_layer(&pass, l, spans->spans, spans->n, &kv, &call, 1);
        if (status == 0)
            take_maximum(r, l);
        crn_kv_free(&kv);
    }
    crn_pass_end(&pass);
    return status;
}

/* The prompt, then every stride-th token of [first, end). */
static uint32_t fill_reader(struct reread *r, uint32_t first, uint32_t end)
{
    const struct crn_select *s = r->s;
    uint32_t n = s->n_prompt, stride = s->stride > 1 ? s->stride : 1;
    memcpy(r->reader, s->prompt, s->n_prompt * sizeof *s->prompt);
    for (uint32_t i = first; i < end; i += stride)
        r->reader[n++] = s->tokens[i];
    return n;
}

int crn_select_reread(const struct crn_select *s, float *out_scores)
{
    const struct crn_model_shape *shape = &s->e->weights->shape;
    size_t heads = shape->n_kv_heads, sets = shape->n_layers * heads;
    struct reread r = {.s = s, .out = out_scores};
    r.reader = malloc(((size_t)s->n_prompt + s->n) * sizeof *r.reader);
    r.scores = malloc(heads * s->n * sizeof *r.scores);
    int status = r.reader != NULL && r.scores != NULL ? 0 : -ENOMEM;
    uint32_t chunk = s->chunk > 0 ? s->chunk : CRN_SELECT_CHUNK;
    crn_select_fill(out_scores, sets * s->n, 0.0f);
    for (uint32_t at = 0; at < s->n && status == 0; at += chunk) {
        uint32_t end = s->n - at > chunk ? at + chunk : s->n;
        status = read_again(&r, fill_reader(&r, at > LEAD ? at - LEAD : 0, end));
    }
    for (size_t set = 0; set < sets && status == 0; set++)
        crn_select_fill(out_scores + set * s->n, crn_select_wide(s, (uint32_t)(set / heads)),
                        INFINITY);
    free(r.scores);
    free(r.reader);
    return status;
}
