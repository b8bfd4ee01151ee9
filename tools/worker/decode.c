/* Suffix pass and decoding for a group of questions on one context. A finished question leaves the
 * batch; the others go on. */
#include "tools/worker/decode.h"

#include "kernels/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct crn_kv *kv_at(const struct crn_decode *d, uint32_t layer, uint32_t question)
{
    return &d->kv[(size_t)layer * d->n + question];
}

static int init_kv(struct crn_decode *d)
{
    const struct crn_model_shape *s = &d->engine->weights->shape;
    int status = 0;
    for (uint32_t l = 0; l < s->n_layers; l++)
        for (uint32_t i = 0; i < d->n && status == 0; i++)
            status = crn_kv_init_in(kv_at(d, l, i), &d->engine->exec, d->engine->kv_dtype,
                                    s->n_kv_heads, s->head_dim, d->questions[i].n + 32);
    return status;
}

static int fill_rows(struct crn_decode *d, uint32_t start)
{
    uint32_t row = 0;
    for (uint32_t i = 0; i < d->n; i++) {
        const struct crn_question *q = &d->questions[i];
        float *h = d->pass.h + (size_t)row * d->engine->weights->shape.hidden;
        int status = crn_engine_embed(d->engine, q->tokens, q->n, h);
        if (status != 0)
            return status;
        for (uint32_t j = 0; j < q->n; j++)
            d->pass.pos[row + j] = (int32_t)(start + j);
        d->segments[i].begin = row;
        row += q->n;
        d->segments[i].end = row;
        d->next_pos[i] = start + q->n;
    }
    return 0;
}

int crn_decode_begin(struct crn_decode *d, struct crn_engine *e, struct crn_question *questions,
                     uint32_t n, uint32_t start)
{
    const struct crn_model_shape *s = &e->weights->shape;
    uint32_t rows = 0;
    void *rows_there = NULL;
    for (uint32_t i = 0; i < n; i++) {
        if (questions[i].n == 0 || questions[i].n > CAIRN_MAX_TOKENS - rows)
            return CAIRN_E_ARG;
        rows += questions[i].n;
    }
    *d = (struct crn_decode){.engine = e, .questions = questions, .n = n};
    d->segments = calloc(n, sizeof *d->segments);
    d->kv = calloc((size_t)s->n_layers * n, sizeof *d->kv);
    d->next_pos = calloc(n, sizeof *d->next_pos);
    d->logits = malloc((size_t)n * s->vocab * sizeof *d->logits);
    d->scratch = malloc((size_t)s->vocab * sizeof *d->scratch);
    int status = d->segments && d->kv && d->next_pos && d->logits && d->scratch ? 0 : -ENOMEM;
    if (status == 0)
        status = crn_memory_alloc(&e->exec, (size_t)n * s->hidden * sizeof *d->rows, &rows_there);
    d->rows = rows_there;
    if (status == 0)
        status = init_kv(d);
    if (status == 0)
        status = crn_pass_begin_rows(&d->pass, e, rows);
    if (status == 0)
        status = fill_rows(d, start);
    if (status != 0)
        crn_decode_end(d);
    return status;
}

void crn_decode_end(struct crn_decode *d)
{
    if (d->kv != NULL)
        for (size_t i = 0; i < (size_t)d->engine->weights->shape.n_layers * d->n; i++)
            crn_kv_free(&d->kv[i]);
    free(d->kv);
    free(d->segments);
    free(d->next_pos);
    if (d->engine != NULL)
        crn_memory_free(&d->engine->exec, d->rows);
    free(d->logits);
    free(d->scratch);
    crn_pass_end(&d->pass);
    crn_gen_end(d->gen);
    *d = (struct crn_decode){0};
}

int crn_decode_thin(struct crn_decode *d, const struct crn_gen_rule *rule)
{
    return rule->on ? crn_gen_begin(rule, d->engine->weights->shape.n_layers, d->n, &d->gen) : 0;
}

int crn_decode_layer(struct crn_decode *d, uint32_t layer, const struct crn_span *spans,
                     uint32_t n_spans)
{
    for (uint32_t i = 0; i < d->n; i++)
        d->segments[i].kv = kv_at(d, layer, i);
    struct crn_layer_call call = {.layer = layer,
                                  .h = d->pass.h,
                                  .pos = d->pass.pos,
                                  .n = d->pass.n,
                                  .spans = spans,
                                  .n_spans = n_spans,
                                  .segments = d->segments,
                                  .n_segments = d->n};
    return crn_engine_layer(d->engine, &call);
}

int crn_decode_logits(struct crn_decode *d)
{
    size_t hidden = d->engine->weights->shape.hidden;
    int status = 0;
    for (uint32_t i = 0; i < d->n && status == 0; i++)
        status = crn_memory_copy(&d->engine->exec, d->rows + i * hidden,
                                 d->pass.h + (size_t)(d->segments[i].end - 1) * hidden,
                                 hidden * sizeof *d->rows);
    return status != 0 ? status : crn_engine_logits(d->engine, d->rows, d->n, d->logits);
}

/* A given token instead of an own one: how likely it was. */
static int32_t follow(struct crn_question *q, const float *logits, size_t vocab)
{
    int32_t token = q->follow[q->n_answer];
    size_t best = 0;
    for (size_t i = 1; i < vocab; i++)
        best = logits[i] > logits[best] ? i : best;
    q->n_agreed += best == (size_t)token;
    q->nll += crn_nll(logits, (uint32_t)vocab, (uint32_t)token) / q->n_follow;
    return token;
}

/* Takes the next token of every active question from the logits, in order; returns how many go on.
 * active [] is compacted. */
static uint32_t take_tokens(struct crn_decode *d, const struct crn_decode_options *o,
                            struct crn_sampler *samplers, uint32_t *active, uint32_t n_active)
{
    size_t vocab = d->engine->weights->shape.vocab;
    uint32_t going = 0;
    for (uint32_t i = 0; i < n_active; i++) {
        struct crn_question *q = &d->questions[active[i]];
        if (q->follow != NULL) {
            q->answer[q->n_answer] = follow(q, d->logits + i * vocab, vocab);
            if (++q->n_answer < q->n_follow)
                active[going++] = active[i];
            continue;
        }
        int32_t token =
            (int32_t)crn_sample(&samplers[active[i]], d->logits + i * vocab, vocab, d->scratch);
        if (token == o->stop[0] || token == o->stop[1]) {
            q->stopped = 1;
            continue;
        }
        q->answer[q->n_answer++] = token;
        if (q->n_answer < o->max_tokens)
            active[going++] = active[i];
    }
    return going;
}

/* One layer of a step, its attention counted and its rows thinned. */
static int thin_layer(struct crn_decode *d, struct crn_layer_call *call, const uint32_t *active)
{
    struct crn_score_call *scores = calloc(call->n, sizeof *scores);
    int status = scores != NULL ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < call->n && status == 0; i++) {
        uint32_t rows = call->segments[i].kv->n + 1;
        scores[i] = (struct crn_score_call){.q_begin = i,
                                            .q_end = i + 1,
                                            .span = call->n_spans + i,
                                            .reduce = CRN_REDUCE_MEAN_ALL,
                                            .out = crn_gen_scores(d->gen, active[i], rows)};
        status = scores[i].out != NULL ? 0 : -ENOMEM;
    }
    call->scores = scores;
    call->n_scores = call->n;
    if (status == 0)
        status = crn_engine_layer(d->engine, call);
    for (uint32_t i = 0; i < call->n && status == 0; i++) {
        struct crn_gen_step step = {.layer = call->layer,
                                    .answer = active[i],
                                    .fixed = d->questions[active[i]].n,
                                    .tokens = (uint32_t)call->pos[i] + 1,
                                    .ops = d->engine->ops};
        status = crn_gen_take(d->gen, &step, call->segments[i].kv);
    }
    free(scores);
    return status;
}

static int step(struct crn_decode *d, const struct crn_cache *cache, const uint32_t *active,
                uint32_t n)
{
    const struct crn_model_shape *s = &d->engine->weights->shape;
    struct crn_pass *p = &d->pass;
    int status = 0;
    p->n = n;
    for (uint32_t i = 0; i < n && status == 0; i++) {
        const struct crn_question *q = &d->questions[active[i]];
        status = crn_engine_embed(d->engine, &q->answer[q->n_answer - 1], 1,
                                  p->h + (size_t)i * s->hidden);
        p->pos[i] = (int32_t)d->next_pos[active[i]]++;
        d->segments[i] = (struct crn_segment){.begin = i, .end = i + 1};
    }
    for (uint32_t l = 0; l < s->n_layers && status == 0; l++) {
        for (uint32_t i = 0; i < n; i++)
            d->segments[i].kv = kv_at(d, l, active[i]);
        const struct crn_cache_layer *spans = &cache->layers[l];
        struct crn_layer_call call = {.layer = l,
                                      .h = p->h,
                                      .pos = p->pos,
                                      .n = n,
                                      .spans = spans->spans,
                                      .n_spans = spans->n,
                                      .segments = d->segments,
                                      .n_segments = n};
        status = d->gen != NULL ? thin_layer(d, &call, active) : crn_engine_layer(d->engine, &call);
    }
    return status != 0 ? status : crn_engine_logits(d->engine, p->h, n, d->logits);
}

int crn_decode_generate(struct crn_decode *d, const struct crn_cache *cache,
                        const struct crn_decode_options *options)
{
    uint32_t *active = malloc(d->n * sizeof *active), n = d->n;
    struct crn_sampler *samplers = malloc(d->n * sizeof *samplers);
    int status = active != NULL && samplers != NULL ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < n && status == 0; i++) {
        active[i] = i;
        samplers[i] = options->sampler;
        d->questions[i].n_answer = 0;
        d->questions[i].stopped = 0;
        d->questions[i].n_agreed = 0;
        d->questions[i].nll = 0;
    }
    while (status == 0 && options->max_tokens > 0 &&
           (n = take_tokens(d, options, samplers, active, n)) > 0) {
        status = options->keep != NULL ? options->keep(options->keep_ctx) : 0;
        if (status == 0)
            status = step(d, cache, active, n);
    }
    free(active);
    free(samplers);
    return status;
}

static int score_one(struct crn_decode *d, uint32_t i)
{
    const struct crn_model_shape *s = &d->engine->weights->shape;
    struct crn_question *q = &d->questions[i];
    double sum = 0;
    q->exact = 1;
    for (uint32_t j = 0; j < q->n_forced; j++) {
        uint32_t at = q->n - q->n_forced + j;
        const float *h = d->pass.h + (size_t)(d->segments[i].begin + at - 1) * s->hidden;
        uint32_t best;
        int status = crn_engine_logits(d->engine, h, 1, d->logits);
        if (status == 0)
            status = d->engine->host_ops->argmax(&d->engine->host_exec, d->logits, s->vocab, &best);
        if (status != 0)
            return status;
        q->exact &= best == (uint32_t)q->tokens[at];
        sum += crn_nll(d->logits, s->vocab, (uint32_t)q->tokens[at]);
    }
    q->nll = q->n_forced > 0 ? sum / q->n_forced : 0;
    return 0;
}

int crn_decode_score(struct crn_decode *d)
{
    int status = 0;
    for (uint32_t i = 0; i < d->n && status == 0; i++)
        status = d->questions[i].n_forced < d->questions[i].n ? score_one(d, i) : CAIRN_E_ARG;
    return status;
}

uint64_t crn_decode_bytes(const struct crn_decode *d)
{
    uint64_t bytes = 0;
    if (d->kv == NULL)
        return 0;
    for (size_t i = 0; i < (size_t)d->engine->weights->shape.n_layers * d->n; i++)
        bytes += crn_kv_bytes(&d->kv[i]);
    return bytes;
}
