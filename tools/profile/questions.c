/* Room for an answer of the longest kind is laid out behind every question, so that answers are written in place. It scores nothing. */
#include "tools/profile/questions.h"

#include "tools/worker/decode.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct answering {
    struct crn_engine *engine;
    const struct crn_cache *own;
    const struct crn_answer_rule *rule;
    struct crn_questions *out;
    uint32_t *which; /* [n] questions without an answer */
    uint32_t n;
};

static int decode(const struct answering *a, struct crn_question *list)
{
    struct crn_decode decode = {0};
    struct crn_decode_options options = {.max_tokens = a->rule->tokens, .stop = {a->rule->stop[0], a->rule->stop[1]}};
    int status = crn_decode_begin(&decode, a->engine, list, a->n, a->own->n_tokens);
    for (uint32_t l = 0; l < a->own->n_layers && status == 0; l++)
        status = crn_decode_layer(&decode, l, a->own->layers[l].spans, a->own->layers[l].n);
    if (status == 0)
        status = crn_decode_logits(&decode);
    if (status == 0)
        status = crn_decode_generate(&decode, a->own, &options);
    crn_decode_end(&decode);
    return status;
}

static void take_answer(const struct answering *a, uint32_t i, const struct crn_question *answered)
{
    struct crn_suffix_question *q = &a->out->list[a->which[i]];
    int32_t *ids = (int32_t *)(uintptr_t)q->ids;
    memcpy(ids + q->n_asked, answered->answer, answered->n_answer * sizeof *ids);
    q->n = q->n_asked + answered->n_answer;
    if (answered->stopped) /* which of them it was is not told; where there are two, either ends an answer */
        ids[q->n++] = a->rule->stop[0] >= 0 ? a->rule->stop[0] : a->rule->stop[1];
}

static int answer(const struct answering *a)
{
    struct crn_question *list = calloc(a->n, sizeof *list);
    int32_t *answers = malloc((size_t)a->n * a->rule->tokens * sizeof *answers);
    int status = list != NULL && answers != NULL ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < a->n && status == 0; i++) {
        const struct crn_suffix_question *q = &a->out->list[a->which[i]];
        list[i] = (struct crn_question){.tokens = q->ids, .n = q->n_asked, .answer = answers + (size_t)i * a->rule->tokens};
    }
    if (status == 0)
        status = decode(a, list);
    for (uint32_t i = 0; i < a->n && status == 0; i++)
        take_answer(a, i, &list[i]);
    free(list);
    free(answers);
    return status;
}

int crn_questions_make(const struct crn_dataset_context *context, struct crn_engine *receiver, const struct crn_cache *own,
                       const struct crn_answer_rule *rule, struct crn_questions *out)
{
    struct answering a = {.engine = receiver, .own = own, .rule = rule, .out = out};
    size_t room = 0;
    *out = (struct crn_questions){.n = context->n};
    for (uint32_t i = 0; i < context->n; i++)
        room += context->questions[i].ids.n + rule->tokens + 1;
    int32_t *at = out->ids = malloc(room * sizeof *at + 1);
    out->list = calloc(context->n + 1, sizeof *out->list);
    a.which = malloc(context->n * sizeof *a.which + 1);
    int status = out->ids != NULL && out->list != NULL && a.which != NULL ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < context->n && status == 0; i++) {
        const struct crn_dataset_question *q = &context->questions[i];
        memcpy(at, q->ids.ids, q->ids.n * sizeof *at);
        out->list[i] = (struct crn_suffix_question){.ids = at, .n = (uint32_t)q->ids.n, .n_asked = q->n_asked};
        at += q->ids.n + rule->tokens + 1;
        if (!q->answered)
            a.which[a.n++] = i;
    }
    out->own_answers = a.n > 0;
    if (status == 0 && a.n > 0)
        status = answer(&a);
    free(a.which);
    return status;
}

void crn_questions_free(struct crn_questions *q)
{
    free(q->list);
    free(q->ids);
    *q = (struct crn_questions){0};
}
