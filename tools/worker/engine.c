/* One layer of a Llama-family model over lists of spans. Scratch memory grows to the largest batch
 * seen and is then reused, so that nothing is allocated per layer. The MLP runs in blocks of rows:
 * its inner activations are the widest of all.
 *
 * Scratch, in floats, for n rows: x [n][hidden], q [n][H*dh], k and v [n][G*dh], att [n][H*dh],
 * gate and up [block][ffn], lse [n][H] of all heads and as much for a sample of them. It does not
 * know where spans come from, nor what a pyramid or a lease is. */
#include "tools/worker/engine.h"

#include "kernels/memory.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MLP_ROWS 1024u
#define FEW_ROWS 64u  /* tokens up to which stored weights are multiplied as they are */
#define MAX_RANK 256u /* of all adapters together, for that */

static int set_frequencies(struct crn_engine *e)
{
    uint32_t half = e->weights->shape.head_dim / 2;
    float *inv_freq = malloc(half * sizeof *inv_freq);
    void *there = NULL;
    if (inv_freq == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < half; i++)
        inv_freq[i] = 1.0f / powf(e->weights->shape.rope_theta, (float)(2 * i) / (float)(2 * half));
    int status = crn_memory_alloc(&e->exec, half * sizeof *inv_freq, &there);
    e->inv_freq = there;
    if (status == 0)
        status = crn_memory_put(&e->exec, e->inv_freq, inv_freq, half * sizeof *inv_freq);
    free(inv_freq);
    return status;
}

/* Stored forms are for the CPU: a device multiplies what is there. */
static int set_weights(struct crn_engine *e, const struct crn_weights *weights)
{
    e->weights = weights;
    if (crn_memory_apart(&e->exec) != crn_memory_apart(&weights->exec))
        return CAIRN_E_ARG;
    if (!crn_memory_apart(&e->exec)) {
        e->host_ops = e->ops;
        e->host_exec = e->exec;
        return crn_stored_build(weights, &e->stored);
    }
    e->host_ops = crn_kernels_host();
    e->stored.layers = calloc(weights->shape.n_layers, sizeof *e->stored.layers);
    return e->stored.layers != NULL ? 0 : -ENOMEM;
}

int crn_engine_init(struct crn_engine *e, const struct crn_weights *weights,
                    const struct crn_kernel_ops *ops, const struct crn_exec *exec,
                    uint32_t kv_dtype)
{
    *e = (struct crn_engine){.ops = ops, .exec = *exec, .kv_dtype = kv_dtype};
    int status = set_weights(e, weights);
    if (status == 0)
        status = set_frequencies(e);
    if (status != 0)
        crn_engine_free(e);
    return status;
}

void crn_engine_free(struct crn_engine *e)
{
    crn_stored_free(&e->stored);
    crn_memory_free(&e->exec, e->inv_freq);
    crn_memory_free(&e->exec, e->scratch);
    crn_memory_free(&e->exec, e->results.at);
    crn_memory_free(&e->exec, e->lists.at);
    crn_memory_free(&e->exec, e->narrow.at);
    free(e->pos);
    free(e->spans);
    *e = (struct crn_engine){0};
}

static int there_for(struct crn_engine *e, struct crn_there *t, size_t bytes)
{
    void *grown;
    if (bytes <= t->bytes)
        return 0;
    int status = crn_memory_alloc(&e->exec, 2 * bytes, &grown);
    if (status != 0)
        return status;
    crn_memory_free(&e->exec, t->at);
    *t = (struct crn_there){grown, 2 * bytes};
    return 0;
}

/* The call's positions where kernels read them; the same ones travel once, not with every layer. */
static int place_positions(struct crn_engine *e, const int32_t *pos, uint32_t n,
                           const int32_t **out_pos)
{
    if (!crn_memory_apart(&e->exec)) {
        *out_pos = pos;
        return 0;
    }
    if (n == e->n_pos && memcmp(pos, e->pos, n * sizeof *pos) == 0) {
        *out_pos = e->lists.at;
        return 0;
    }
    e->n_pos = 0;
    if (n > e->pos_capacity) {
        int32_t *grown = realloc(e->pos, n * sizeof *pos);
        if (grown == NULL)
            return -ENOMEM;
        e->pos = grown;
        e->pos_capacity = n;
    }
    memcpy(e->pos, pos, n * sizeof *pos);
    int status = there_for(e, &e->lists, n * sizeof *pos);
    if (status == 0)
        status = crn_memory_put(&e->exec, e->lists.at, pos, n * sizeof *pos);
    if (status != 0)
        return status;
    e->n_pos = n;
    *out_pos = e->lists.at;
    return 0;
}

struct scratch {
    float *x, *q, *k, *v, *att, *gate, *up, *lse;
    const int32_t *pos; /* of the call, there */
};

static int scratch_for(struct crn_engine *e, size_t n, struct scratch *out)
{
    const struct crn_model_shape *s = &e->weights->shape;
    size_t q = (size_t)s->n_heads * s->head_dim, kv = (size_t)s->n_kv_heads * s->head_dim;
    size_t block = n < MLP_ROWS ? n : MLP_ROWS;
    size_t need = n * (s->hidden + 2 * q + 2 * kv) + 2 * block * s->ffn + 2 * n * s->n_heads + 8 * 16;
    if (need > e->scratch_floats) {
        void *grown;
        int status = crn_memory_alloc(&e->exec, need * sizeof *e->scratch, &grown);
        if (status != 0)
            return status;
        crn_memory_free(&e->exec, e->scratch);
        e->scratch = grown;
        e->scratch_floats = need;
    }
    float *at = e->scratch;
    float **parts[] = {&out->x,   &out->q,    &out->k,  &out->v,
                       &out->att, &out->gate, &out->up, &out->lse};
    size_t sizes[] = {n * s->hidden, n * q,          n * kv,         n * kv,
                      n * q,         block * s->ffn, block * s->ffn, 2 * n * s->n_heads};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        *parts[i] = at;
        at += (sizes[i] + 15) / 16 * 16;
    }
    return 0;
}

/* The call's spans, then one span per segment. */
static int list_spans(struct crn_engine *e, const struct crn_layer_call *call)
{
    size_t n = (size_t)call->n_spans + call->n_segments;
    if (n > e->spans_capacity) {
        struct crn_span *grown = realloc(e->spans, n * sizeof *grown);
        if (grown == NULL)
            return -ENOMEM;
        e->spans = grown;
        e->spans_capacity = n;
    }
    for (uint32_t i = 0; i < call->n_spans; i++) {
        e->spans[i] = call->spans[i];
        e->spans[i].q_end = e->spans[i].q_end < call->n ? e->spans[i].q_end : call->n;
    }
    for (uint32_t i = 0; i < call->n_segments; i++) {
        const struct crn_segment *segment = &call->segments[i];
        e->spans[call->n_spans + i] = crn_kv_span(segment->kv, segment->begin, segment->end);
    }
    return 0;
}

/* out = beta * out + x . W^T, by the stored form when few tokens make memory the limit. */
static int project(struct crn_engine *e, const float *x, size_t n, const struct crn_matrix *merged,
                   const struct crn_stored_matrix *stored, float beta, float *out)
{
    float low[FEW_ROWS * MAX_RANK];
    if (n > FEW_ROWS || stored->w.type == 0 || stored->a.rows > MAX_RANK)
        return e->ops->gemm(&e->exec, x, n, merged, beta, out);
    int status = e->ops->gemm(&e->exec, x, n, &stored->w, beta, out);
    if (status != 0 || stored->a.rows == 0)
        return status;
    status = e->ops->gemm(&e->exec, x, n, &stored->a, 0.0f, low);
    return status != 0 ? status : e->ops->gemm(&e->exec, low, n, &stored->b, 1.0f, out);
}

static int keys_and_values(struct crn_engine *e, const struct crn_layer_call *call,
                           const struct scratch *s)
{
    const struct crn_model_shape *shape = &e->weights->shape;
    const struct crn_layer_weights *w = &e->weights->layers[call->layer];
    const struct crn_stored_layer *f = &e->stored.layers[call->layer];
    struct crn_rope rope = {e->inv_freq, shape->head_dim};
    size_t n = call->n, row = (size_t)shape->n_kv_heads * shape->head_dim;
    int status =
        e->ops->rmsnorm(&e->exec, call->h, w->attn_norm, n, shape->hidden, shape->norm_eps, s->x);
    if (status == 0)
        status = project(e, s->x, n, &w->wk, &f->wk, 0.0f, s->k);
    if (status == 0)
        status = project(e, s->x, n, &w->wv, &f->wv, 0.0f, s->v);
    if (status == 0)
        status = e->ops->rope(&e->exec, &rope, s->pos, n, shape->n_kv_heads, s->k);
    for (uint32_t i = 0; i < call->n_segments && status == 0; i++) {
        const struct crn_segment *g = &call->segments[i];
        struct crn_kv_rows rows = {.k = s->k + g->begin * row,
                                   .v = s->v + g->begin * row,
                                   .pos = call->pos + g->begin,
                                   .pos_there = s->pos + g->begin,
                                   .n = g->end - g->begin};
        status = crn_kv_append_rows(g->kv, e->ops, &e->exec, &rows);
    }
    return status;
}

static int attend(struct crn_engine *e, const struct crn_layer_call *call, const struct scratch *s)
{
    const struct crn_model_shape *shape = &e->weights->shape;
    const struct crn_layer_weights *w = &e->weights->layers[call->layer];
    const struct crn_stored_layer *f = &e->stored.layers[call->layer];
    struct crn_rope rope = {e->inv_freq, shape->head_dim};
    int status = project(e, s->x, call->n, &w->wq, &f->wq, 0.0f, s->q);
    if (status == 0)
        status = e->ops->rope(&e->exec, &rope, s->pos, call->n, shape->n_heads, s->q);
    if (status == 0)
        status = list_spans(e, call);
    if (status != 0)
        return status;
    int keep = call->n_scores > 0 && !crn_memory_apart(&e->exec);
    struct crn_attention a = {.q = s->q,
                              .q_pos = s->pos,
                              .n_q = call->n,
                              .n_heads = shape->n_heads,
                              .n_kv_heads = shape->n_kv_heads,
                              .head_dim = shape->head_dim,
                              .scale = 1.0f / sqrtf((float)shape->head_dim),
                              .spans = e->spans,
                              .n_spans = call->n_spans + call->n_segments,
                              .lse = keep ? s->lse : NULL};
    status = e->ops->attention(&e->exec, &a, s->att);
    return status != 0 ? status : project(e, s->att, call->n, &w->wo, &f->wo, 1.0f, call->h);
}

/* Scores by way of device memory: weights of the queries over, one number per key back. */
static int score_there(struct crn_engine *e, struct crn_scores *request, float *out)
{
    const struct crn_span *target = &request->attention.spans[request->target];
    size_t weights = request->q_weight != NULL ? request->attention.n_q : 0, keys = 0;
    uint32_t lists = request->reduce == CRN_REDUCE_MEAN_ALL ? 1 : request->attention.n_kv_heads;
    for (uint32_t h = 0; h < lists; h++)
        keys += target->heads[h].n;
    int status = there_for(e, &e->results, (weights + keys) * sizeof(float));
    float *there = e->results.at;
    if (status == 0 && weights > 0) {
        status = crn_memory_put(&e->exec, there + keys, request->q_weight, weights * sizeof(float));
        request->q_weight = there + keys;
    }
    if (status == 0)
        status = e->ops->scores(&e->exec, request, there);
    return status != 0 ? status : crn_memory_get(&e->exec, out, there, keys * sizeof(float));
}

/* Rows index [n] (on the host) of row_bytes each, there. */
static int gather_rows(struct crn_engine *e, const void *rows, uint32_t n_rows, size_t row_bytes,
                       const uint32_t *index, uint32_t n, void *out_rows)
{
    const uint32_t *at = index;
    if (crn_memory_apart(&e->exec)) {
        int status = there_for(e, &e->results, n * sizeof *index);
        if (status == 0)
            status = crn_memory_put(&e->exec, e->results.at, index, n * sizeof *index);
        if (status != 0)
            return status;
        at = e->results.at;
    }
    return e->ops->gather(&e->exec, rows, n_rows, row_bytes, at, n, out_rows);
}

/* Queries of a slice of the batch, of some heads only: they take the place of what attention left,
 * which nobody reads any more. Which heads of a group these are changes from layer to layer. On the
 * host their lse goes behind those of all heads. */
static int sample_heads(struct crn_engine *e, const struct crn_layer_call *call,
                        const struct crn_score_call *sc, const struct scratch *s)
{
    const struct crn_model_shape *shape = &e->weights->shape;
    uint32_t group = shape->n_heads / shape->n_kv_heads, n = sc->q_end - sc->q_begin, at = 0;
    uint32_t *index = malloc((size_t)n * shape->n_kv_heads * sc->heads * sizeof *index);
    if (index == NULL)
        return -ENOMEM;
    for (uint32_t row = sc->q_begin; row < sc->q_end; row++)
        for (uint32_t g = 0; g < shape->n_kv_heads; g++)
            for (uint32_t i = 0; i < sc->heads; i++)
                index[at++] = row * shape->n_heads + g * group + (call->layer + i) % group;
    int status = gather_rows(e, s->q, call->n * shape->n_heads, shape->head_dim * sizeof *s->q,
                             index, at, s->att);
    float *lse = s->lse + (size_t)call->n * shape->n_heads;
    for (uint32_t i = 0; i < at && !crn_memory_apart(&e->exec); i++)
        lse[i] = s->lse[index[i]];
    free(index);
    return status;
}

/* Queries are a slice of the batch: their rows move to the front, and spans are cut to them. */
static int score(struct crn_engine *e, const struct crn_layer_call *call,
                 const struct crn_score_call *sc, const struct scratch *s)
{
    const struct crn_model_shape *shape = &e->weights->shape;
    uint32_t n_spans = call->n_spans + call->n_segments;
    struct crn_span *spans = malloc(n_spans * sizeof *spans);
    if (spans == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < n_spans; i++) {
        uint32_t begin = e->spans[i].q_begin > sc->q_begin ? e->spans[i].q_begin : sc->q_begin;
        uint32_t end = e->spans[i].q_end < sc->q_end ? e->spans[i].q_end : sc->q_end;
        spans[i] = e->spans[i];
        spans[i].q_begin = begin < end ? begin - sc->q_begin : 0;
        spans[i].q_end = begin < end ? end - sc->q_begin : 0;
    }
    int some = sc->heads > 0 && sc->heads < shape->n_heads / shape->n_kv_heads;
    size_t row = (size_t)sc->q_begin * shape->n_heads, sampled = (size_t)call->n * shape->n_heads;
    struct crn_scores request = {
        .attention = {.q = some ? s->att : s->q + row * shape->head_dim,
                      .q_pos = s->pos + sc->q_begin,
                      .n_q = sc->q_end - sc->q_begin,
                      .n_heads = some ? sc->heads * shape->n_kv_heads : shape->n_heads,
                      .n_kv_heads = shape->n_kv_heads,
                      .head_dim = shape->head_dim,
                      .scale = 1.0f / sqrtf((float)shape->head_dim),
                      .spans = spans,
                      .n_spans = n_spans,
                      .lse = crn_memory_apart(&e->exec) ? NULL : s->lse + (some ? sampled : row)},
        .target = sc->span,
        .reduce = sc->reduce,
        .q_weight = sc->q_weight,
    };
    int status = some ? sample_heads(e, call, sc, s) : 0;
    if (status == 0)
        status = crn_memory_apart(&e->exec) ? score_there(e, &request, sc->out)
                                            : e->ops->scores(&e->exec, &request, sc->out);
    free(spans);
    return status;
}

static int mlp(struct crn_engine *e, const struct crn_layer_call *call, const struct scratch *s)
{
    const struct crn_model_shape *shape = &e->weights->shape;
    const struct crn_layer_weights *w = &e->weights->layers[call->layer];
    const struct crn_stored_layer *f = &e->stored.layers[call->layer];
    int status = e->ops->rmsnorm(&e->exec, call->h, w->ffn_norm, call->n, shape->hidden,
                                 shape->norm_eps, s->x);
    for (size_t i = 0; i < call->n && status == 0; i += MLP_ROWS) {
        size_t rows = call->n - i < MLP_ROWS ? call->n - i : MLP_ROWS;
        const float *x = s->x + i * shape->hidden;
        status = project(e, x, rows, &w->w_gate, &f->w_gate, 0.0f, s->gate);
        if (status == 0)
            status = project(e, x, rows, &w->w_up, &f->w_up, 0.0f, s->up);
        if (status == 0)
            status = e->ops->swiglu(&e->exec, s->gate, s->up, rows * shape->ffn, s->gate);
        if (status == 0)
            status = project(e, s->gate, rows, &w->w_down, &f->w_down, 1.0f,
                             call->h + i * shape->hidden);
    }
    return status;
}

int crn_engine_layer(struct crn_engine *e, const struct crn_layer_call *call)
{
    struct scratch s;
    if (call->layer >= e->weights->shape.n_layers)
        return CAIRN_E_ARG;
    if (call->n == 0)
        return 0;
    int status = scratch_for(e, call->n, &s);
    if (status == 0)
        status = place_positions(e, call->pos, call->n, &s.pos);
    if (status == 0)
        status = keys_and_values(e, call, &s);
    if (status != 0 || call->kv_only)
        return status;
    status = attend(e, call, &s);
    for (uint32_t i = 0; i < call->n_scores && status == 0; i++)
        status = score(e, call, &call->scores[i], &s);
    return status != 0 ? status : mlp(e, call, &s);
}

int crn_engine_rows(struct crn_engine *e, const float *rows, uint32_t n_rows, const uint32_t *index,
                    uint32_t n, float *out_rows)
{
    return gather_rows(e, rows, n_rows, e->weights->shape.hidden * sizeof *rows, index, n, out_rows);
}

int crn_engine_embed(struct crn_engine *e, const int32_t *tokens, uint32_t n, float *out_h)
{
    const struct crn_model_shape *shape = &e->weights->shape;
    const struct crn_matrix *table = &e->weights->token_embd;
    const uint32_t *index = (const uint32_t *)tokens;
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= shape->vocab)
            return CAIRN_E_ARG;
    if (table->type == CRN_W_F32)
        return crn_engine_rows(e, table->data, shape->vocab, index, n, out_h);
    size_t row_bytes = shape->hidden * sizeof(uint16_t);
    int status = there_for(e, &e->narrow, n * row_bytes);
    if (status == 0)
        status = gather_rows(e, table->data, shape->vocab, row_bytes, index, n, e->narrow.at);
    return status != 0 ? status
                       : e->ops->convert(&e->exec, e->narrow.at, CAIRN_BF16,
                                         (size_t)n * shape->hidden, CAIRN_F32, out_h);
}

int crn_engine_logits(struct crn_engine *e, const float *h, uint32_t n, float *out_logits)
{
    const struct crn_model_shape *shape = &e->weights->shape;
    const size_t bytes = (size_t)n * shape->vocab * sizeof *out_logits;
    const int apart = crn_memory_apart(&e->exec);
    struct scratch s;
    int status = scratch_for(e, n, &s);
    if (status == 0 && apart)
        status = there_for(e, &e->results, bytes);
    if (status != 0)
        return status;
    float *logits = apart ? e->results.at : out_logits;
    status = e->ops->rmsnorm(&e->exec, h, e->weights->output_norm, n, shape->hidden,
                             shape->norm_eps, s.x);
    if (status == 0)
        status = project(e, s.x, n, &e->weights->output, &e->stored.output, 0.0f, logits);
    return status != 0 || !apart ? status : crn_memory_get(&e->exec, out_logits, logits, bytes);
}
