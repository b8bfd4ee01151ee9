/* Questions by context. Consecutive lines with one context belong together, as generators write them; everything is tokenised at
 * once, so that a broken line is found before hours of work. */
#include "tools/profile/dataset.h"

#include "ipc/hash.h"
#include "ipc/log.h"
#include "tools/json.h"
#include "tools/worker/requests.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const char *path;
    const struct crn_chat *chat;
    struct crn_dataset *set;
    char *last; /* text of the context in hand */
    size_t line;
};

static int complain(const struct reader *r, const char *why)
{
    crn_log(CRN_LOG_ERROR, "%s, line %zu: %s", r->path, r->line, why);
    return CAIRN_E_FORMAT;
}

static void *grown(void *list, size_t n, size_t size)
{
    return (n & (n + 1)) == 0 ? realloc(list, (2 * n + 1) * size) : list;
}

static int add_context(struct reader *r, const char *text)
{
    struct crn_dataset *set = r->set;
    if (r->last != NULL && strcmp(r->last, text) == 0)
        return 0;
    struct crn_dataset_context *list = grown(set->contexts, set->n, sizeof *list);
    char *copy = strdup(text);
    if (list == NULL || copy == NULL) {
        set->contexts = list != NULL ? list : set->contexts;
        free(copy);
        return -ENOMEM;
    }
    free(r->last);
    r->last = copy;
    set->contexts = list;
    struct crn_dataset_context *context = &list[set->n++];
    *context = (struct crn_dataset_context){0};
    int status = crn_chat_context(r->chat, text, strlen(text), &context->ids);
    set->n_tokens += context->ids.n;
    if (status == 0 && context->ids.n == 0)
        return complain(r, "the context is empty");
    return status;
}

static int add_question(struct reader *r, const char *text, const char *answer)
{
    struct crn_dataset_context *context = &r->set->contexts[r->set->n - 1];
    struct crn_dataset_question *list = grown(context->questions, context->n, sizeof *list);
    if (list == NULL)
        return -ENOMEM;
    context->questions = list;
    struct crn_dataset_question *q = &list[context->n++];
    *q = (struct crn_dataset_question){.answered = answer != NULL};
    int status = crn_chat_question(r->chat, text, strlen(text), &q->ids);
    q->n_asked = (uint32_t)q->ids.n;
    if (status == 0 && q->n_asked == 0)
        return complain(r, "a model without a chat template needs a question");
    if (status == 0 && answer != NULL)
        status = crn_tokenizer_encode(r->chat->tokenizer, answer, strlen(answer), false, &q->ids);
    if (status == 0 && answer != NULL && r->chat->end_ids[0] != CRN_NO_TOKEN)
        status = crn_ids_push(&q->ids, r->chat->end_ids[0]);
    return status;
}

/* A text member: out NULL when it is not there. */
static int take_text(const struct reader *r, const struct crn_json *line, const char *key, const char **out)
{
    char why[64];
    *out = NULL;
    int status = crn_json_text(crn_json_get(line, key), out);
    if (status == 0 || status == CAIRN_E_MISS)
        return 0;
    snprintf(why, sizeof why, "\"%s\" must be a string", key);
    return complain(r, why);
}

static int take_line(struct reader *r, const char *text, size_t n)
{
    struct crn_json *line;
    const char *context, *question, *answer;
    char why[200];
    int status = crn_json_parse(text, n, "JSON", &line, why, sizeof why);
    if (status != 0)
        return complain(r, why);
    status = take_text(r, line, "context", &context);
    if (status == 0)
        status = take_text(r, line, "question", &question);
    if (status == 0)
        status = take_text(r, line, "answer", &answer);
    if (status == 0 && context == NULL)
        status = complain(r, "no \"context\"");
    if (status == 0)
        status = add_context(r, context);
    if (status == 0)
        status = add_question(r, question != NULL ? question : "", answer);
    crn_json_free(line);
    return status;
}

static int take_lines(struct reader *r, const char *text, size_t bytes)
{
    int status = 0;
    for (const char *at = text; at < text + bytes && status == 0;) {
        const char *end = memchr(at, '\n', (size_t)(text + bytes - at));
        size_t n = (size_t)((end != NULL ? end : text + bytes) - at);
        r->line++;
        if (strspn(at, " \t\r") < n)
            status = take_line(r, at, n);
        at += n + 1;
    }
    return status;
}

int crn_dataset_read(const char *path, const struct crn_chat *chat, struct crn_dataset *out)
{
    char *text;
    size_t bytes;
    *out = (struct crn_dataset){0};
    struct reader r = {.path = path, .chat = chat, .set = out};
    int status = crn_text_read(path, &text, &bytes);
    if (status != 0)
        return status;
    struct crn_hash128 *hash = crn_hash128_begin();
    if (hash == NULL) {
        free(text);
        return -ENOMEM;
    }
    crn_hash128_add(hash, text, bytes);
    out->digest = crn_hash128_end(hash);
    status = take_lines(&r, text, bytes);
    if (status == 0 && out->n == 0)
        status = complain(&r, "no contexts");
    free(r.last);
    free(text);
    if (status != 0)
        crn_dataset_free(out);
    return status;
}

void crn_dataset_free(struct crn_dataset *d)
{
    for (uint32_t i = 0; i < d->n; i++) {
        for (uint32_t j = 0; j < d->contexts[i].n; j++)
            crn_ids_free(&d->contexts[i].questions[j].ids);
        free(d->contexts[i].questions);
        crn_ids_free(&d->contexts[i].ids);
    }
    free(d->contexts);
    *d = (struct crn_dataset){0};
}
