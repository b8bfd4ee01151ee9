/* From a context and questions to answers. Order of attempts: what is cached, as far as it goes;
 * then an own prefill of the rest, published behind it. Whatever fails on the shared path is thrown
 * away and done by an own prefill: slower, never wrong. */
#include "tools/worker/answer.h"

#include "ipc/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int crn_worker_family(const struct crn_weights *weights, const struct crn_tokenizer *tokenizer,
                      struct cairn_digest *out_family)
{
    const struct crn_model_shape *s = &weights->shape;
    struct cairn_family family = CAIRN_FAMILY_INIT;
    char foundation[128];
    snprintf(foundation, sizeof foundation, "%.*s", (int)weights->foundation.n,
             weights->foundation.p);
    family.shape = (struct cairn_shape){s->n_layers, s->n_kv_heads, s->head_dim, s->hidden};
    family.n_heads = s->n_heads;
    family.ffn = s->ffn;
    family.rope_theta = s->rope_theta;
    family.norm_eps = s->norm_eps;
    family.vocabulary = crn_tokenizer_digest(tokenizer);
    family.foundation = foundation;
    return cairn_family_digest(&family, out_family);
}

const char *crn_reason_name(uint32_t reason)
{
    static const char *const names[] = {
        [CAIRN_REASON_NONE] = "none",
        [CAIRN_REASON_SAME_MODEL] = "same_model",
        [CAIRN_REASON_PLAN] = "plan",
        [CAIRN_REASON_NO_ENTRY] = "no_entry",
        [CAIRN_REASON_NO_PLAN] = "no_plan",
        [CAIRN_REASON_QUALITY] = "quality",
        [CAIRN_REASON_NO_STATE] = "no_state",
        [CAIRN_REASON_WHOLE_ONLY] = "whole_only",
        [CAIRN_REASON_OTHER_FAMILY] = "other_family",
        [CAIRN_REASON_QUEUE] = "queue",
        [CAIRN_REASON_DEADLINE] = "deadline",
        [CAIRN_REASON_LATE] = "late",
        [CAIRN_REASON_BREAK_EVEN] = "break_even",
        [CAIRN_REASON_SETTINGS] = "settings",
    };
    return reason < sizeof names / sizeof *names ? names[reason] : "unknown";
}

const char *crn_class_name(uint32_t class_)
{
    return class_ == CAIRN_CLASS_EXACT ? "exact" : class_ == CAIRN_CLASS_APPROX ? "approx" : "none";
}

/* One call of crn_answer. */
struct job {
    struct crn_worker *w;
    const int32_t *context;
    uint32_t n;
    struct crn_question *questions;
    uint32_t n_questions;
    struct crn_outcome *out;
    struct cairn_lease *lease;
    struct crn_cache cache;
    struct crn_decode decode;
    struct crn_publish *publish;
};

static int open_cache(struct job *j, uint32_t start)
{
    int status = crn_cache_init(&j->cache, j->w->engine.weights->shape.n_layers);
    if (status == 0 && j->n_questions > 0)
        status = crn_decode_begin(&j->decode, &j->w->engine, j->questions, j->n_questions, start);
    if (status == 0 && j->n_questions > 0)
        status = crn_decode_thin(&j->decode, &j->w->gen);
    return status;
}

static void close_cache(struct job *j)
{
    crn_decode_end(&j->decode);
    crn_cache_free(&j->cache);
}

/* Whatever came from others is thrown away; the job is as before. */
static void give_up_shared(struct job *j, const char *reason, int status)
{
    crn_log(CRN_LOG_WARN, "reuse failed: %s; prefilling instead", cairn_strerror(status));
    crn_publish_end(j->publish, 0, NULL);
    j->publish = NULL;
    close_cache(j);
    cairn_release(j->lease);
    j->lease = NULL;
    j->out->reuse =
        (struct crn_reuse_result){.class_ = CAIRN_CLASS_NONE, .run_first = -1, .run_last = -2};
    j->out->reason = reason;
}

/* Attach and reuse. 0 when the cache holds what the lease covers, else the job is as before. */
static int try_shared(struct job *j)
{
    struct crn_worker *w = j->w;
    struct crn_reuse_result *result = &j->out->reuse;
    int status = crn_share_attach(w->client, j->context, j->n, &w->reuse, &j->lease, result);
    j->out->reason = w->reuse.mode == CRN_REUSE_AUTO ? crn_reason_name(result->reason) : "forced";
    if (status == CAIRN_E_GONE || status == CAIRN_E_TIMEOUT) {
        j->out->reason = "no_broker";
        if (!w->alone)
            crn_log(CRN_LOG_WARN, "no broker: %s; working alone", cairn_error(w->client));
        w->alone = 1;
        return status;
    }
    w->alone = 0;
    if (status == CAIRN_E_UNSUPPORTED)
        j->out->reason = "other_memory"; /* the broker's payloads are not where this engine computes */
    if (status != 0 || j->lease == NULL)
        return status != 0 ? status : CAIRN_E_MISS;
    int whole = result->n_tokens == j->n;
    status = open_cache(j, j->n);
    if (status == 0)
        status = crn_share_reuse(&w->engine, j->lease, j->context, &w->reuse, &j->cache,
                                 whole && j->n_questions > 0 ? &j->decode : NULL, result);
    if (status != 0)
        give_up_shared(j, "reuse_failed", status);
    return status;
}

/* The tokens that nothing cached covers, published behind the compute. */
static int prefill_rest(struct job *j)
{
    struct crn_worker *w = j->w;
    uint32_t start = j->out->reuse.n_tokens;
    double begin = now_s();
    int measured =
        start > 0 && w->reuse.mode != CRN_REUSE_AUTO; /* behind a forced reuse: not for others */
    if (w->client != NULL && !w->alone && !measured)
        j->publish = crn_publish_begin(&w->engine, w->client, j->context, start, j->n - start,
                                       j->lease, &w->publish, w->reuse.timeout_ms);
    struct crn_prefill p = {.tokens = j->context + start,
                            .n = j->n - start,
                            .start = start,
                            .rule = start == 0 ? &w->rule : NULL,
                            .watch = crn_publish_watch(j->publish)};
    int status = crn_prefill(&w->engine, &p, &j->cache, NULL);
    j->out->prefill_s = now_s() - begin;
    return status;
}

static int suffix(struct job *j)
{
    int status = 0;
    double begin = now_s();
    for (uint32_t l = 0; l < j->cache.n_layers && status == 0; l++)
        status = crn_decode_layer(&j->decode, l, j->cache.layers[l].spans, j->cache.layers[l].n);
    j->out->reuse.suffix_s = now_s() - begin;
    return status;
}

static int quantise_private(struct job *j)
{
    int status = 0;
    for (struct crn_cache_piece *piece = j->cache.pieces; piece != NULL; piece = piece->next)
        for (uint32_t l = 0; l < j->cache.n_layers && status == 0; l++)
            if (piece->kv[l].heads != NULL)
                status = crn_kv_quantise(&piece->kv[l], j->w->engine.ops, &j->w->engine.exec);
    crn_cache_refresh(&j->cache);
    return status;
}

static int first_tokens(struct job *j, double begin)
{
    uint32_t covered = j->lease != NULL ? j->out->reuse.n_tokens : 0;
    int status = 0;
    if (j->lease == NULL)
        status = open_cache(j, j->n);
    if (status == 0 && covered < j->n) {
        status = prefill_rest(j);
        if (status == 0 && j->n_questions > 0)
            status = suffix(j);
    }
    if (status == 0 && j->n_questions > 0)
        status = j->w->score ? 0 : crn_decode_logits(&j->decode);
    j->out->ttft_s = now_s() - begin;
    return status;
}

static int keep_lease(void *ctx)
{
    const struct job *j = ctx;
    return j->lease != NULL ? cairn_lease_keep(j->lease) : 0;
}

static int the_rest(struct job *j)
{
    struct crn_decode_options options = j->w->decode;
    int status = keep_lease(j); /* what was computed behind a lost lease is for nobody */
    if (status == 0)
        j->out->published = crn_publish_end(j->publish, 1, NULL) == 0;
    if (status == 0)
        j->publish = NULL;
    if (status == 0 && j->w->private_int8)
        status = quantise_private(j);
    if (status != 0 || j->n_questions == 0)
        return status;
    options.keep = keep_lease;
    options.keep_ctx = j;
    status = j->w->score ? crn_decode_score(&j->decode)
                         : crn_decode_generate(&j->decode, &j->cache, &options);
    return status == 0 ? keep_lease(j) : status;
}

static int answer_once(struct job *j, double begin)
{
    int status = first_tokens(j, begin);
    return status == 0 ? the_rest(j) : status;
}

static int check_length(const struct job *j)
{
    uint32_t limit = j->w->engine.weights->shape.context_max;
    if (j->n == 0)
        return CAIRN_E_ARG;
    for (uint32_t i = 0; i < j->n_questions; i++)
        if (j->questions[i].n >= limit || j->n > limit - j->questions[i].n)
            return CAIRN_E_TOO_BIG;
    return j->n > limit ? CAIRN_E_TOO_BIG : 0;
}

/* What the next choice of a plan is made from. */
static void report(struct job *j, uint32_t what, uint64_t work, double seconds)
{
    struct cairn_timing t = CAIRN_TIMING_INIT;
    t.what = what;
    t.n_tokens = j->n;
    t.work = work;
    t.ns = (uint64_t)(1e9 * seconds);
    if (work > 0 && t.ns > 0)
        cairn_report(j->w->client, &t);
}

static void report_times(struct job *j)
{
    const struct crn_reuse_result *r = &j->out->reuse;
    uint64_t n_layers = j->w->engine.weights->shape.n_layers;
    if (j->w->client == NULL)
        return;
    if (!j->w->rule.on) /* a pyramid computes fewer rows */
        report(j, CAIRN_TIMED_PREFILL, (j->n - r->n_tokens) * n_layers, j->out->prefill_s);
    report(j, CAIRN_TIMED_RUN, r->run_tokens, r->map_s + r->run_s);
    report(j, CAIRN_TIMED_SUFFIX, j->n_questions > 0, r->suffix_s);
}

int crn_answer(struct crn_worker *w, const int32_t *context, uint32_t n,
               struct crn_question *questions, uint32_t n_questions, struct crn_outcome *out)
{
    struct job j = {.w = w,
                    .context = context,
                    .n = n,
                    .questions = questions,
                    .n_questions = n_questions,
                    .out = out};
    double begin = now_s();
    *out = (struct crn_outcome){.n_context = n, .reason = "not_asked"};
    out->reuse =
        (struct crn_reuse_result){.class_ = CAIRN_CLASS_NONE, .run_first = -1, .run_last = -2};
    int status = check_length(&j);
    if (status != 0)
        return status;
    if (w->client != NULL && w->reuse.mode != CRN_REUSE_NEVER)
        try_shared(&j);
    status = answer_once(&j, begin);
    if (status != 0 && j.lease != NULL) {
        give_up_shared(&j, "reuse_failed", status);
        status = answer_once(&j, begin);
    }
    if (status == 0) {
        report_times(&j);
        out->kv_shared_bytes = j.cache.shared_bytes;
        out->kv_private_bytes = crn_cache_private_bytes(&j.cache) + crn_decode_bytes(&j.decode);
    }
    out->total_s = now_s() - begin;
    crn_publish_end(j.publish, 0, NULL);
    close_cache(&j);
    cairn_release(j.lease);
    return status;
}
