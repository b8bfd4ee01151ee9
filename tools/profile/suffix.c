/* Teacher-forced passes over a mixed cache. The output matrix is multiplied with the rows that predict an answer's token only, a
 * block at a time. It chooses no spans. */
#include "tools/profile/suffix.h"

#include "tools/worker/sample.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_ROWS 64u

static int lay_out(struct crn_suffix *s, uint32_t start)
{
    const struct crn_model_shape *shape = &s->engine->weights->shape;
    uint32_t row = 0;
    int status = 0;
    for (uint32_t i = 0; i < s->n && status == 0; i++) {
        const struct crn_suffix_question *q = &s->questions[i];
        status = crn_engine_embed(s->engine, q->ids, q->n, s->embedded + (size_t)row * shape->hidden);
        s->segments[i] = (struct crn_segment){.kv = &s->kv[i], .begin = row, .end = row + q->n};
        for (uint32_t j = 0; j < q->n; j++)
            s->pos[row + j] = (int32_t)(start + j);
        if (status == 0)
            status = crn_kv_init(&s->kv[i], s->engine->kv_dtype, shape->n_kv_heads, shape->head_dim, q->n);
        row += q->n;
    }
    return status;
}

int crn_suffix_begin(struct crn_suffix *s, struct crn_engine *e, const struct crn_suffix_question *questions, uint32_t n,
                     uint32_t start)
{
    size_t hidden = e->weights->shape.hidden, vocab = e->weights->shape.vocab;
    *s = (struct crn_suffix){.engine = e, .questions = questions, .n = n};
    for (uint32_t i = 0; i < n; i++) {
        if (questions[i].n_asked == 0 || questions[i].n <= questions[i].n_asked ||
            questions[i].n > CAIRN_MAX_TOKENS - s->rows)
            return CAIRN_E_ARG;
        s->rows += questions[i].n;
        s->n_answers += questions[i].n - questions[i].n_asked;
    }
    if (s->rows == 0)
        return CAIRN_E_ARG;
    s->pos = malloc(s->rows * sizeof *s->pos);
    s->segments = calloc(n, sizeof *s->segments);
    s->kv = calloc(n, sizeof *s->kv);
    s->embedded = malloc(s->rows * hidden * sizeof *s->embedded);
    s->gathered = malloc(BLOCK_ROWS * hidden * sizeof *s->gathered);
    s->logits = malloc(BLOCK_ROWS * vocab * sizeof *s->logits);
    int status = s->pos && s->segments && s->kv && s->embedded && s->gathered && s->logits ? lay_out(s, start) : -ENOMEM;
    if (status != 0)
        crn_suffix_end(s);
    return status;
}

void crn_suffix_end(struct crn_suffix *s)
{
    for (uint32_t i = 0; i < s->n && s->kv != NULL; i++)
        crn_kv_free(&s->kv[i]);
    free(s->pos);
    free(s->segments);
    free(s->kv);
    free(s->embedded);
    free(s->gathered);
    free(s->logits);
    free(s->reference);
    *s = (struct crn_suffix){0};
}

int crn_suffix_layer(struct crn_suffix *s, uint32_t layer, const struct crn_span *spans, uint32_t n_spans, float *h)
{
    for (uint32_t i = 0; i < s->n; i++)
        crn_kv_truncate(&s->kv[i], 0);
    struct crn_layer_call call = {.layer = layer,
                                  .h = h,
                                  .pos = s->pos,
                                  .n = s->rows,
                                  .spans = spans,
                                  .n_spans = n_spans,
                                  .segments = s->segments,
                                  .n_segments = s->n};
    return crn_engine_layer(s->engine, &call);
}

static double log_sum_exp(const float *x, size_t n, double *out_max)
{
    double sum = 0, max = (double)x[0];
    for (size_t i = 1; i < n; i++)
        max = (double)x[i] > max ? (double)x[i] : max;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - max);
    *out_max = max;
    return max + log(sum);
}

/* KL(p || q) of two rows of logits. */
static double divergence(const float *p, const float *q, size_t n)
{
    double max_p, max_q, sum = 0, lse_p = log_sum_exp(p, n, &max_p), lse_q = log_sum_exp(q, n, &max_q);
    for (size_t i = 0; i < n; i++) {
        double log_p = (double)p[i] - lse_p;
        if (log_p > -40)
            sum += exp(log_p) * (log_p - ((double)q[i] - lse_q));
    }
    return sum > 0 ? sum : 0;
}

typedef int (*row_fn)(struct crn_suffix *s, void *ctx, uint32_t answer, const float *logits);

/* Calls each for the logits of every row that predicts a token of an answer, in order. */
static int each_answer_row(struct crn_suffix *s, const float *h, row_fn each, void *ctx)
{
    size_t hidden = s->engine->weights->shape.hidden, vocab = s->engine->weights->shape.vocab;
    uint32_t held = 0, done = 0;
    int status = 0;
    for (uint32_t i = 0; i < s->n && status == 0; i++)
        for (uint32_t j = s->questions[i].n_asked; j < s->questions[i].n && status == 0; j++) {
            memcpy(s->gathered + held * hidden, h + (s->segments[i].begin + j - 1) * hidden, hidden * sizeof *h);
            held++;
            if (held < BLOCK_ROWS && done + held < s->n_answers)
                continue;
            status = crn_engine_logits(s->engine, s->gathered, held, s->logits);
            for (uint32_t k = 0; k < held && status == 0; k++)
                status = each(s, ctx, done + k, s->logits + k * vocab);
            done += held;
            held = 0;
        }
    return status;
}

struct scoring {
    struct crn_suffix_score *out;
    uint32_t question, token; /* in hand */
};

static int score_row(struct crn_suffix *s, void *ctx, uint32_t answer, const float *logits)
{
    struct scoring *c = ctx;
    size_t vocab = s->engine->weights->shape.vocab;
    uint32_t best;
    if (c->token == s->questions[c->question].n)
        c->token = s->questions[++c->question].n_asked;
    const struct crn_suffix_question *q = &s->questions[c->question];
    struct crn_suffix_score *out = &c->out[c->question];
    double share = 1.0 / (q->n - q->n_asked);
    int status = s->engine->ops->argmax(&s->engine->exec, logits, vocab, &best);
    int right = best == (uint32_t)q->ids[c->token];
    out->exact &= right;
    out->agree += right ? share : 0;
    out->nll += share * crn_nll(logits, vocab, (uint32_t)q->ids[c->token]);
    if (s->reference != NULL)
        out->kl += share * divergence(s->reference + answer * vocab, logits, vocab);
    c->token++;
    return status;
}

int crn_suffix_score(struct crn_suffix *s, const float *h, struct crn_suffix_score *out)
{
    struct scoring c = {.out = out, .token = s->questions[0].n_asked};
    for (uint32_t i = 0; i < s->n; i++)
        out[i] = (struct crn_suffix_score){.exact = 1};
    return each_answer_row(s, h, score_row, &c);
}

static int keep_row(struct crn_suffix *s, void *ctx, uint32_t answer, const float *logits)
{
    size_t vocab = s->engine->weights->shape.vocab;
    memcpy((float *)ctx + answer * vocab, logits, vocab * sizeof *logits);
    return 0;
}

int crn_suffix_refer(struct crn_suffix *s, const float *h)
{
    float *reference = malloc((size_t)s->n_answers * s->engine->weights->shape.vocab * sizeof *reference);
    int status = reference != NULL ? each_answer_row(s, h, keep_row, reference) : -ENOMEM;
    if (status != 0) {
        free(reference);
        return status;
    }
    free(s->reference);
    s->reference = reference;
    return 0;
}
