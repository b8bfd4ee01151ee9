/* The way of a lesson: the context's rows through the run, the questions' rows through all layers from its start on, their answers'
 * logits beside those after an own prefill; then back the same way. Tapes live for one question of the caller's; the loss is made a
 * block of rows at a time, because logits are the widest rows of all. It knows nothing of maps. */
#include "tools/profile/lesson.h"

#include "tools/profile/cut.h"
#include "tools/profile/grad.h"
#include "tools/worker/prefill.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LOGIT_ROWS 64u

static size_t hidden_of(const struct crn_lesson *l)
{
    return l->rule->receiver->weights->shape.hidden;
}

static uint32_t layers_of(const struct crn_lesson *l)
{
    return l->rule->receiver->weights->shape.n_layers;
}

/* ---- making one ---- */

static int take_state(void *ctx, uint32_t layer, const float *h, const int32_t *pos, uint32_t n)
{
    struct crn_lesson *l = ctx;
    (void)pos;
    if (layer == l->rule->first)
        memcpy(l->state, h, n * hidden_of(l) * sizeof *h);
    return 0;
}

static int read_context(struct crn_lesson *l, const struct crn_dataset_context *context, struct crn_cache *theirs,
                        struct crn_cache *own)
{
    struct crn_prefill_watch watch = {.ctx = l, .state = take_state};
    struct crn_prefill p = {.tokens = context->ids.ids, .n = l->n, .watch = &watch};
    int status = crn_cache_init(theirs, layers_of(l));
    if (status == 0)
        status = crn_prefill(l->rule->producer, &p, theirs, NULL);
    p.watch = NULL;
    if (status == 0)
        status = crn_cache_init(own, layers_of(l));
    if (status == 0)
        status = crn_prefill(l->rule->receiver, &p, own, NULL);
    return status != 0 ? status : crn_cut_state(l->rule->producer, l->state, l->n * hidden_of(l), l->state);
}

static int lay_out(struct crn_lesson *l, const struct crn_suffix *s)
{
    l->rows = s->rows;
    l->n_parts = s->n;
    l->n_answers = s->n_answers;
    l->questions = malloc(s->rows * hidden_of(l) * sizeof *l->questions);
    l->goal = malloc(s->n_answers * hidden_of(l) * sizeof *l->goal);
    l->pos = malloc(s->rows * sizeof *l->pos);
    l->parts = malloc(s->n * sizeof *l->parts);
    l->answers = malloc(s->n_answers * sizeof *l->answers);
    if (l->questions == NULL || l->goal == NULL || l->pos == NULL || l->parts == NULL || l->answers == NULL)
        return -ENOMEM;
    memcpy(l->pos, s->pos, s->rows * sizeof *l->pos);
    for (uint32_t i = 0, at = 0; i < s->n; i++) {
        l->parts[i] = (struct crn_part){s->segments[i].begin, s->segments[i].end};
        for (uint32_t j = s->questions[i].n_asked; j < s->questions[i].n; j++)
            l->answers[at++] = l->parts[i].begin + j - 1;
    }
    return 0;
}

static void gather_answers(const struct crn_lesson *l, const float *h, float *out)
{
    for (uint32_t i = 0; i < l->n_answers; i++)
        memcpy(out + i * hidden_of(l), h + l->answers[i] * hidden_of(l), hidden_of(l) * sizeof *h);
}

/* The questions' rows over a cache, as far as a layer: h in and out. */
static int follow(struct crn_suffix *s, const struct crn_cache *cache, uint32_t n_layers, float *h)
{
    int status = 0;
    memcpy(h, s->embedded, s->rows * (size_t)s->engine->weights->shape.hidden * sizeof *h);
    for (uint32_t i = 0; i < n_layers && status == 0; i++)
        status = crn_suffix_layer(s, i, cache->layers[i].spans, cache->layers[i].n, h);
    return status;
}

static int read_questions(struct crn_lesson *l, const struct crn_dataset_context *context, const struct crn_cache *theirs,
                          const struct crn_cache *own)
{
    struct crn_questions questions;
    struct crn_suffix suffix = {0};
    int status = crn_questions_make(context, l->rule->receiver, own, &l->rule->answers, &questions);
    if (status == 0)
        status = crn_suffix_begin(&suffix, l->rule->receiver, questions.list, questions.n, l->n);
    if (status == 0)
        status = lay_out(l, &suffix);
    if (status == 0)
        status = follow(&suffix, own, layers_of(l), l->questions);
    if (status == 0) {
        gather_answers(l, l->questions, l->goal);
        status = follow(&suffix, theirs, l->rule->first, l->questions);
    }
    crn_suffix_end(&suffix);
    crn_questions_free(&questions);
    return status;
}

int crn_lesson_make(const struct crn_lesson_rule *rule, const struct crn_dataset_context *context, struct crn_lesson *out)
{
    struct crn_lesson *l = out;
    struct crn_cache theirs = {0}, own = {0};
    *l = (struct crn_lesson){.rule = rule, .n = (uint32_t)context->ids.n};
    l->state = malloc(l->n * hidden_of(l) * sizeof *l->state);
    l->kv = calloc(layers_of(l), sizeof *l->kv);
    l->context_pos = malloc(l->n * sizeof *l->context_pos);
    int status = l->state != NULL && l->kv != NULL && l->context_pos != NULL ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < l->n && status == 0; i++)
        l->context_pos[i] = (int32_t)i;
    if (status == 0)
        status = read_context(l, context, &theirs, &own);
    if (status == 0)
        status = read_questions(l, context, &theirs, &own);
    for (uint32_t i = rule->last + 1; i < layers_of(l) && status == 0; i++) { /* moved, not copied */
        l->kv[i] = theirs.pieces->kv[i];
        theirs.pieces->kv[i] = (struct crn_kv){0};
    }
    crn_cache_free(&theirs);
    crn_cache_free(&own);
    return status;
}

void crn_lesson_free(struct crn_lesson *l)
{
    for (uint32_t i = 0; l->kv != NULL && i < layers_of(l); i++)
        crn_kv_free(&l->kv[i]);
    free(l->kv);
    free(l->state);
    free(l->questions);
    free(l->pos);
    free(l->context_pos);
    free(l->parts);
    free(l->answers);
    free(l->goal);
    *l = (struct crn_lesson){0};
}

/* ---- the loss ---- */

struct loss {
    float *goal, *logits; /* [LOGIT_ROWS][vocab]; logits become the derivative */
    double kl[LOGIT_ROWS];
    size_t vocab;
    float share; /* of one row in the mean */
};

/* log sum exp, in float32 but for the sum. */
static float log_sum(const float *x, size_t n)
{
    float max = x[0];
    double sum = 0;
    for (size_t i = 1; i < n; i++)
        max = x[i] > max ? x[i] : max;
    for (size_t i = 0; i < n; i++)
        sum += (double)expf(x[i] - max);
    return max + (float)log(sum);
}

static void loss_row(void *ctx, size_t row, unsigned thread)
{
    struct loss *s = ctx;
    const float *goal = s->goal + row * s->vocab;
    float *x = s->logits + row * s->vocab, all_p = log_sum(goal, s->vocab), all_q = log_sum(x, s->vocab);
    double kl = 0;
    (void)thread;
    for (size_t i = 0; i < s->vocab; i++) {
        float log_p = goal[i] - all_p, log_q = x[i] - all_q, p = expf(log_p);
        kl += (double)(p * (log_p - log_q));
        x[i] = s->share * (expf(log_q) - p);
    }
    s->kl[row] = kl;
}

/* Rows [begin, end) of the answers. */
static int loss_block(const struct crn_lesson *l, struct loss *s, const float *h, uint32_t begin, uint32_t end, double *io_kl,
                      float *dh)
{
    struct crn_engine *e = l->rule->receiver;
    size_t d = hidden_of(l);
    int status = crn_engine_logits(e, l->goal + begin * d, end - begin, s->goal);
    if (status == 0)
        status = crn_engine_logits(e, h + begin * d, end - begin, s->logits);
    if (status != 0)
        return status;
    crn_pool_run(e->exec.pool, loss_row, s, end - begin);
    for (uint32_t i = 0; i < end - begin; i++)
        *io_kl += s->kl[i];
    return dh != NULL ? crn_grad_logits_back(e, h + begin * d, end - begin, s->logits, dh + begin * d) : 0;
}

/* h [n_answers][d], after the last layer; dh likewise, NULL: not wanted. */
static int loss(const struct crn_lesson *l, const float *h, double *out_kl, float *dh)
{
    struct loss s = {.vocab = l->rule->receiver->weights->shape.vocab, .share = 1.0f / (float)l->n_answers};
    s.goal = malloc(LOGIT_ROWS * s.vocab * sizeof *s.goal);
    s.logits = malloc(LOGIT_ROWS * s.vocab * sizeof *s.logits);
    int status = s.goal != NULL && s.logits != NULL ? 0 : -ENOMEM;
    *out_kl = 0;
    for (uint32_t i = 0; i < l->n_answers && status == 0; i += LOGIT_ROWS)
        status = loss_block(l, &s, h, i, i + LOGIT_ROWS < l->n_answers ? i + LOGIT_ROWS : l->n_answers, out_kl, dh);
    free(s.goal);
    free(s.logits);
    return status;
}

/* ---- there and back ---- */

struct journey {
    const struct crn_lesson *l;
    struct crn_tape *run, *asked; /* [n_layers] */
    struct crn_part whole;        /* the context as one sequence */
    float *behind;                /* [2][G][n][dh] the producer's K and V of the layer in hand, float32 */
};

static struct crn_grad context_call(const struct journey *j, uint32_t layer)
{
    const struct crn_lesson *l = j->l;
    return (struct crn_grad){.engine = l->rule->receiver, .layer = layer, .n = l->n, .pos = l->context_pos, .parts = &j->whole,
                             .n_parts = 1};
}

/* The producer's keys of a layer behind the run. */
static int widen(const struct journey *j, uint32_t layer, struct crn_keys *out)
{
    const struct crn_kv *kv = &j->l->kv[layer];
    const struct crn_engine *e = j->l->rule->receiver;
    size_t head = (size_t)j->l->n * kv->head_dim, all = kv->n_heads * head;
    int status = 0;
    for (uint32_t g = 0; g < kv->n_heads && status == 0; g++) {
        status = e->ops->convert(&e->exec, kv->heads[g].k, kv->dtype, head, CAIRN_F32, j->behind + g * head);
        if (status == 0)
            status = e->ops->convert(&e->exec, kv->heads[g].v, kv->dtype, head, CAIRN_F32, j->behind + all + g * head);
    }
    *out = (struct crn_keys){j->behind, j->behind + all, kv->head_dim, head, j->l->n};
    return status;
}

static int question_call(const struct journey *j, uint32_t layer, struct crn_grad *out)
{
    const struct crn_lesson *l = j->l;
    *out = (struct crn_grad){.engine = l->rule->receiver, .layer = layer, .n = l->rows, .pos = l->pos, .parts = l->parts,
                             .n_parts = l->n_parts};
    if (layer > l->rule->last)
        return widen(j, layer, &out->before);
    out->of_before = &j->run[layer];
    out->before = crn_tape_keys(&j->run[layer], &l->rule->receiver->weights->shape);
    return 0;
}

static int there(const struct journey *j, float *mapped, float *rows)
{
    const struct crn_lesson_rule *r = j->l->rule;
    struct crn_grad g;
    int status = 0;
    for (uint32_t i = r->first; i <= r->last && status == 0; i++) {
        g = context_call(j, i);
        status = i < r->last ? crn_grad_layer(&g, mapped, &j->run[i]) : crn_grad_keys(&g, mapped, &j->run[i]);
    }
    for (uint32_t i = r->first; i < layers_of(j->l) && status == 0; i++) {
        status = question_call(j, i, &g);
        if (status == 0)
            status = crn_grad_layer(&g, rows, &j->asked[i]);
    }
    return status;
}

static int back(const struct journey *j, float *d_rows, float *d_mapped)
{
    const struct crn_lesson_rule *r = j->l->rule;
    struct crn_grad g;
    int status = 0;
    for (uint32_t i = layers_of(j->l); i-- > r->first && status == 0;) {
        status = question_call(j, i, &g);
        if (status == 0)
            status = crn_grad_layer_back(&g, &j->asked[i], d_rows);
    }
    for (uint32_t i = r->last + 1; i-- > r->first && status == 0;) {
        g = context_call(j, i);
        status = i < r->last ? crn_grad_layer_back(&g, &j->run[i], d_mapped) : crn_grad_keys_back(&g, &j->run[i], d_mapped);
    }
    return status;
}

static int answer(const struct journey *j, float *mapped, double *out_kl, float *d_mapped)
{
    const struct crn_lesson *l = j->l;
    size_t d = hidden_of(l);
    float *rows = malloc(l->rows * d * sizeof *rows), *last = malloc(2 * l->n_answers * d * sizeof *last);
    int status = rows != NULL && last != NULL ? 0 : -ENOMEM;
    if (status == 0) {
        memcpy(rows, l->questions, l->rows * d * sizeof *rows);
        status = there(j, mapped, rows);
    }
    float *d_last = d_mapped != NULL && status == 0 ? last + l->n_answers * d : NULL;
    if (status == 0) {
        gather_answers(l, rows, last);
        status = loss(l, last, out_kl, d_last);
    }
    if (status == 0 && d_last != NULL) {
        memset(rows, 0, l->rows * d * sizeof *rows);
        for (uint32_t i = 0; i < l->n_answers; i++)
            memcpy(rows + l->answers[i] * d, d_last + i * d, d * sizeof *rows);
        status = back(j, rows, d_mapped);
    }
    free(rows);
    free(last);
    return status;
}

int crn_lesson_ask(const struct crn_lesson *l, float *mapped, double *out_kl, float *d_mapped)
{
    const struct crn_model_shape *s = &l->rule->receiver->weights->shape;
    struct journey j = {.l = l, .whole = {0, l->n}};
    j.run = calloc(s->n_layers, sizeof *j.run);
    j.asked = calloc(s->n_layers, sizeof *j.asked);
    j.behind = malloc(2 * (size_t)s->n_kv_heads * l->n * s->head_dim * sizeof *j.behind);
    int status = j.run != NULL && j.asked != NULL && j.behind != NULL ? answer(&j, mapped, out_kl, d_mapped) : -ENOMEM;
    for (uint32_t i = 0; i < s->n_layers && j.run != NULL && j.asked != NULL; i++) {
        crn_tape_free(&j.run[i]);
        crn_tape_free(&j.asked[i]);
    }
    free(j.run);
    free(j.asked);
    free(j.behind);
    return status;
}
