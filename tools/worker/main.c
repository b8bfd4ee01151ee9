/* cairn-worker: a reference engine for Llama-family models, on libcairn and kernels/. One process,
 * one model (base plus adapters); it reads contexts, shares their caches through the broker, and
 * answers questions about them. The example for engine authors: share_reuse.c and share_publish.c
 * are what another engine would write.
 *
 * Exit codes: 0 all answered, 1 something failed (one line on stderr, or an `error` field for that
 * request), 2 usage. */
#include "tools/worker/answer.h"
#include "tools/worker/chat.h"
#include "tools/worker/device.h"
#include "tools/worker/options.h"
#include "tools/worker/requests.h"

#include "ipc/log.h"
#include "kernels/pool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LATER_MAX 64u /* contexts remembered for compressing */
#define COMPRESS_PROMPT "\n\nRepeat the previous context exactly:\n\n"

struct program {
    struct crn_worker_options options;
    struct crn_weights *weights;
    struct crn_tokenizer *tokenizer;
    struct crn_chat chat;
    struct crn_pool *pool;
    struct crn_worker_device device;
    struct crn_worker worker;
    struct crn_ids later[LATER_MAX]; /* contexts whose entries are compressed when no request waits, oldest first */
    size_t n_later;
    int failures;
};

static int fail(const char *what, int status)
{
    fprintf(stderr, "cairn-worker: %s: %s\n", what, cairn_strerror(status));
    return status;
}

/* Identity of the model and of its family, as the broker knows them. */
static int open_client(struct program *p)
{
    const struct crn_model_shape *s = &p->weights->shape;
    struct cairn_options options = CAIRN_OPTIONS_INIT;
    options.socket = p->options.socket;
    options.label = p->options.label;
    options.shape = (struct cairn_shape){s->n_layers, s->n_kv_heads, s->head_dim, s->hidden};
    options.model = p->weights->digest;
    if (p->device.ordinal >= 0) {
        options.memory = CAIRN_MEMORY_DEVICE;
        options.device = (uint32_t)p->device.ordinal;
    }
    int status = crn_worker_family(p->weights, p->tokenizer, &options.family);
    return status != 0 ? status : cairn_open(&options, &p->worker.client);
}

/* Layers named on the command line, now that the model is known. */
static int check_layers(const struct crn_worker_options *o, uint32_t n_layers)
{
    if (o->reuse.mode == CRN_REUSE_RUN && o->reuse.last >= n_layers) {
        fprintf(stderr, "cairn-worker: --reuse %u-%u: the layers of %s are 0-%u\n", o->reuse.first,
                o->reuse.last, o->model, n_layers - 1);
        return CAIRN_E_ARG;
    }
    for (uint32_t i = 0; i < o->publish.n_states; i++) {
        if (o->states[i] >= n_layers) {
            fprintf(stderr, "cairn-worker: --states %u: the layers of %s are 0-%u\n", o->states[i],
                    o->model, n_layers - 1);
            return CAIRN_E_ARG;
        }
    }
    return 0;
}

static int load(struct program *p)
{
    const struct crn_worker_options *o = &p->options;
    int status = crn_worker_device_open(o->device, o->backend, &p->device);
    if (status != 0)
        return fail(strcmp(o->device, "host") == 0 ? o->backend : o->device, status);
    struct crn_weights_place place = {&p->device.exec, o->weights};
    status = crn_weights_load_at(o->model, o->adapters, o->n_adapters, &place, &p->weights);
    if (status == 0)
        status = check_layers(o, p->weights->shape.n_layers);
    if (status == 0)
        status = crn_tokenizer_create(p->weights->base, &p->tokenizer);
    if (status == 0)
        status = crn_chat_setup(p->weights->base, p->tokenizer, &p->chat);
    if (status != 0)
        return status;
    status = crn_pool_create(o->n_threads, o->pin, &p->pool);
    if (status != 0)
        return fail("threads", status);
    p->device.exec.pool = p->pool;
    status = crn_engine_init(&p->worker.engine, p->weights, p->device.ops, &p->device.exec, o->kv_dtype);
    if (status == 0 && (o->reuse.mode != CRN_REUSE_NEVER || o->publish.on))
        status = open_client(p);
    if (status != 0)
        return fail("start", status);
    p->worker.reuse = o->reuse;
    p->worker.reuse.self = p->weights->digest;
    p->worker.publish = o->publish;
    p->worker.rule = o->rule;
    p->worker.decode = o->decode;
    p->worker.gen = o->gen;
    memcpy(p->worker.decode.stop, p->chat.end_ids, sizeof p->chat.end_ids);
    p->worker.private_int8 = o->private_int8;
    p->worker.score = o->score;
    return 0;
}

static void unload(struct program *p)
{
    cairn_close(p->worker.client);
    crn_engine_free(&p->worker.engine);
    crn_tokenizer_destroy(p->tokenizer);
    crn_weights_free(p->weights);
    crn_worker_device_close(&p->device);
    crn_pool_destroy(p->pool);
    crn_worker_options_free(&p->options);
}

/* Token ids of one question, and of the given answer when it is to be scored. */
static int question_ids(const struct program *p, const struct crn_request *r, struct crn_ids *ids,
                        struct crn_question *out)
{
    int status = crn_chat_question(&p->chat, r->question, strlen(r->question), ids);
    size_t asked = ids->n;
    if (status == 0 && p->options.score && r->expected != NULL)
        status = crn_tokenizer_encode(p->tokenizer, r->expected, strlen(r->expected), false, ids);
    if (status == 0 && p->options.score && r->expected != NULL)
        status = crn_ids_push(ids, p->worker.decode.stop[0]);
    *out = (struct crn_question){
        .tokens = ids->ids, .n = (uint32_t)ids->n, .n_forced = (uint32_t)(ids->n - asked)};
    return status;
}

static char *text_of(const struct program *p, const struct crn_question *q)
{
    size_t n = 0;
    for (uint32_t i = 0; i < q->n_answer; i++)
        n += crn_tokenizer_piece(p->tokenizer, q->answer[i]).n;
    char *text = malloc(n + 1), *at = text;
    for (uint32_t i = 0; i < q->n_answer && text != NULL; i++) {
        struct crn_gguf_str piece = crn_tokenizer_piece(p->tokenizer, q->answer[i]);
        memcpy(at, piece.p, piece.n);
        at += piece.n;
    }
    if (text != NULL)
        *at = '\0';
    return text;
}

static void write_error(struct program *p, const char *text)
{
    struct crn_reply reply = {.error = text};
    p->failures++;
    if (p->options.json)
        crn_reply_write(stdout, &reply);
    else
        fprintf(stderr, "cairn-worker: %s\n", text);
}

static void write_answer(struct program *p, const struct crn_request *r,
                         const struct crn_question *q, const struct crn_outcome *outcome)
{
    char *text = p->options.score ? NULL : text_of(p, q);
    struct crn_reply reply = {.answer = text,
                              .expected = r->expected,
                              .n_tokens = q->n_answer,
                              .stopped = (int)q->stopped,
                              .scored = p->options.score,
                              .exact = (int)q->exact,
                              .nll = q->nll,
                              .outcome = outcome};
    if (p->options.json)
        crn_reply_write(stdout, &reply);
    else if (p->options.score)
        printf("%s  nll %.4f\n", q->exact ? "exact" : "other", q->nll);
    else
        printf("%s\n", text != NULL ? text : "");
    fflush(stdout);
    free(text);
}

/* Why a request failed, for its line. */
static const char *reason_of(int status, uint32_t tokens, uint32_t limit, char *buf, size_t bytes)
{
    if (status == CAIRN_E_TOO_BIG)
        snprintf(buf, bytes,
                 "context and question have more than the %u tokens this model allows (context %u)",
                 limit, tokens);
    else
        snprintf(buf, bytes, "%s", cairn_strerror(status));
    return buf;
}

static void compress(struct program *p, const struct crn_ids *context)
{
    const struct crn_worker_options *o = &p->options;
    struct crn_ids prefix = {0};
    float share = 0;
    int status = crn_tokenizer_encode(p->tokenizer, COMPRESS_PROMPT, strlen(COMPRESS_PROMPT), false,
                                      &prefix);
    struct crn_compress c = o->compress;
    c.tokens = context->ids;
    c.n = (uint32_t)context->n;
    c.reader_prefix = prefix.ids;
    c.n_prefix = (uint32_t)prefix.n;
    c.timeout_ms = o->reuse.timeout_ms;
    int target = status == 0 ? crn_share_target(p->worker.engine.weights, p->worker.client, &c) : 0;
    if (status == 0)
        status = target != 0 ? target : crn_share_compress(&p->worker.engine, p->worker.client, &c, &share);
    if (status == 0)
        crn_log(CRN_LOG_INFO, "compressed: %.1f %% of the tokens kept", 100.0 * (double)share);
    else if (target == CAIRN_E_MISS)
        crn_log(CRN_LOG_INFO, "not compressed: no plan was measured to keep %g of the quality with less", (double)c.quality);
    else if (status == CAIRN_E_EXISTS)
        crn_log(CRN_LOG_INFO, "not compressed: it is already");
    else
        crn_log(CRN_LOG_WARN, "not compressed: %s", cairn_strerror(status));
    crn_ids_free(&prefix);
}

/* A plan came after the entry: siblings need a state that it lacks. */
static void add_states(struct program *p, const struct crn_ids *context)
{
    const struct crn_worker *w = &p->worker;
    int status = crn_share_add_states(&p->worker.engine, w->client, context->ids,
                                      (uint32_t)context->n, &w->publish, w->reuse.timeout_ms);
    if (status != 0)
        crn_log(CRN_LOG_WARN, "no states added: %s", cairn_strerror(status));
}

/* Each context once; the oldest is given up when there are too many. */
static void remember(struct program *p, const struct crn_ids *context)
{
    size_t bytes = context->n * sizeof *context->ids;
    for (size_t i = 0; i < p->n_later; i++)
        if (p->later[i].n == context->n && memcmp(p->later[i].ids, context->ids, bytes) == 0)
            return;
    if (p->n_later == LATER_MAX) {
        crn_ids_free(&p->later[0]);
        memmove(p->later, p->later + 1, --p->n_later * sizeof *p->later);
    }
    struct crn_ids copy = {.ids = malloc(bytes + 1), .n = context->n, .room = context->n};
    if (copy.ids == NULL) {
        crn_log(CRN_LOG_WARN, "not compressed: %s", cairn_strerror(-ENOMEM));
        return;
    }
    memcpy(copy.ids, context->ids, bytes);
    p->later[p->n_later++] = copy;
}

/* Scoring an entry takes longer than a prefill: requests go first. stream: where they come from, NULL when none can. */
static void compress_remembered(struct program *p, struct crn_request_stream *stream)
{
    size_t done = 0;
    while (done < p->n_later && (stream == NULL || crn_requests_waiting(stream) == 0)) {
        compress(p, &p->later[done]);
        crn_ids_free(&p->later[done++]);
    }
    p->n_later -= done;
    if (done > 0)
        memmove(p->later, p->later + done, p->n_later * sizeof *p->later);
}

/* For those who come next; nobody waits for it. */
static void work_when_answered(struct program *p, const struct crn_ids *context,
                               const struct crn_outcome *outcome)
{
    if (outcome->reuse.n_wants > 0 && p->worker.publish.on)
        add_states(p, context);
    if (p->options.compress.selector != NULL)
        remember(p, context);
}

struct group {
    const struct crn_request *requests;
    size_t n;
    struct crn_ids context;
    struct crn_ids *ids;            /* [n] */
    struct crn_question *questions; /* [n] */
    int32_t *answers;               /* [n][max_tokens] */
};

static int group_ids(struct program *p, struct group *g)
{
    size_t longest = p->options.decode.max_tokens;
    g->ids = calloc(g->n + 1, sizeof *g->ids);
    g->questions = calloc(g->n + 1, sizeof *g->questions);
    g->answers = malloc((g->n + 1) * longest * sizeof *g->answers);
    if (g->ids == NULL || g->questions == NULL || g->answers == NULL)
        return -12;
    int status = crn_chat_context(&p->chat, g->requests[0].context, g->requests[0].context_bytes,
                                  &g->context);
    for (size_t i = 0; i < g->n && status == 0 && g->requests[i].question != NULL; i++) {
        status = question_ids(p, &g->requests[i], &g->ids[i], &g->questions[i]);
        g->questions[i].answer = g->answers + i * longest;
    }
    return status;
}

static void write_group(struct program *p, const struct group *g, int status,
                        const struct crn_outcome *outcome)
{
    int read_only = g->requests[0].question == NULL;
    char why[160];
    for (size_t i = 0; i < g->n; i++) {
        if (status != 0)
            write_error(p, reason_of(status, (uint32_t)g->context.n, p->weights->shape.context_max,
                                     why, sizeof why));
        else if (!read_only)
            write_answer(p, &g->requests[i], &g->questions[i], outcome);
    }
    if (status == 0 && read_only && p->options.json) {
        struct crn_reply reply = {.answer = NULL, .outcome = outcome};
        crn_reply_write(stdout, &reply);
    }
}

static void group_free(struct group *g)
{
    for (size_t i = 0; i < g->n && g->ids != NULL; i++)
        crn_ids_free(&g->ids[i]);
    crn_ids_free(&g->context);
    free(g->ids);
    free(g->questions);
    free(g->answers);
}

/* Requests with one context: a single one that only reads it has no question. When several together
 * fail they are answered one by one, so that a question that is too long costs no other one its
 * answer. */
static void answer_group(struct program *p, const struct crn_request *requests, size_t n)
{
    struct group g = {.requests = requests, .n = n};
    struct crn_outcome outcome;
    uint32_t n_questions = requests[0].question != NULL ? (uint32_t)n : 0;
    int status = group_ids(p, &g);
    if (status == 0)
        status = crn_answer(&p->worker, g.context.ids, (uint32_t)g.context.n, g.questions,
                            n_questions, &outcome);
    int apart = status != 0 && n > 1;
    if (!apart)
        write_group(p, &g, status, &outcome);
    if (status == 0 && p->worker.client != NULL)
        work_when_answered(p, &g.context, &outcome);
    group_free(&g);
    for (size_t i = 0; apart && i < n; i++)
        answer_group(p, &requests[i], 1);
}

/* May b be answered together with a? */
static int goes_with(const struct program *p, const struct crn_request *a,
                     const struct crn_request *b)
{
    if (p->options.score && b->expected == NULL)
        return 0;
    return b->error == NULL && a->context_bytes == b->context_bytes &&
           memcmp(a->context, b->context, a->context_bytes) == 0;
}

/* False when the request cannot be answered; then that has been said. */
static int usable(struct program *p, const struct crn_request *r)
{
    const char *wrong = r->error;
    if (wrong == NULL && p->options.score && r->expected == NULL)
        wrong = "--score needs an answer in every line";
    if (wrong != NULL)
        write_error(p, wrong);
    return wrong == NULL;
}

/* Standard input, one by one: each line is answered before the next one is taken, so that a caller
 * can wait for the answer. */
static int answer_stream(struct program *p)
{
    struct crn_request_stream stream = {.fd = STDIN_FILENO};
    struct crn_request request;
    int status;
    while ((status = crn_request_next(&stream, &request)) == 1) {
        p->worker.reuse.waiting = crn_requests_waiting(&stream);
        if (usable(p, &request))
            answer_group(p, &request, 1);
        crn_request_free(&request);
        compress_remembered(p, &stream);
    }
    crn_request_stream_free(&stream);
    return status;
}

static int answer_requests(struct program *p)
{
    struct crn_requests requests;
    if (p->options.batch == 1 && strcmp(p->options.requests_file, "-") == 0)
        return answer_stream(p);
    int status = crn_requests_read(p->options.requests_file, &requests);
    for (size_t i = 0, n; status == 0 && i < requests.n; i += n) {
        const struct crn_request *first = &requests.list[i];
        n = 1;
        if (!usable(p, first))
            continue;
        while (n < p->options.batch && i + n < requests.n &&
               goes_with(p, first, &requests.list[i + n]))
            n++;
        p->worker.reuse.waiting = (uint32_t)(requests.n - i - n);
        answer_group(p, first, n);
        compress_remembered(p, NULL); /* nobody waits for the lines of a file */
    }
    if (status == 0)
        crn_requests_free(&requests);
    return status;
}

static int answer_context(struct program *p)
{
    struct crn_request base = {0};
    int status = crn_text_read(p->options.context_file, &base.context, &base.context_bytes);
    if (status != 0)
        return status;
    struct crn_request list[CRN_MAX_ASKS];
    for (size_t i = 0; i < p->options.n_asks; i++) {
        list[i] = base;
        list[i].question = strdup(p->options.asks[i]);
    }
    if (p->options.n_asks == 0)
        answer_group(p, &base, 1);
    for (size_t i = 0, n; i < p->options.n_asks; i += n) {
        n = p->options.n_asks - i < p->options.batch ? p->options.n_asks - i : p->options.batch;
        answer_group(p, &list[i], n);
    }
    for (size_t i = 0; i < p->options.n_asks; i++)
        free(list[i].question);
    free(base.context);
    return 0;
}

int main(int argc, char **argv)
{
    static struct program program = {.device = {.ordinal = -1}};
    char digest[33];
    crn_log_setup("cairn-worker", CRN_LOG_WARN);
    int status = crn_worker_options_parse(argc, argv, &program.options);
    if (status != 0)
        return status == 1 ? EXIT_SUCCESS : 2;
    status = load(&program);
    if (status == 0 && program.options.digest_only) {
        cairn_digest_text(&program.weights->digest, digest);
        printf("%s\n", digest);
    } else if (status == 0) {
        status = program.options.requests_file != NULL ? answer_requests(&program)
                                                       : answer_context(&program);
        compress_remembered(&program, NULL);
    }
    int failed = status != 0 || program.failures > 0;
    unload(&program);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
