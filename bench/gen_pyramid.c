/* bench/gen_pyramid - what dropping tokens while generating costs: a model writes N tokens with its full cache, then follows these very
 * tokens under each rule, and we count how often its most likely token is the same, and how likely it finds the given one.
 *
 * usage: gen_pyramid MODEL REQUESTS N THREADS RULE...
 *     REQUESTS  JSON lines of tools/family/generate.py: the contexts that are written about, each once
 *     RULE      full, or as for cairn-worker --gen-pyramid
 * Writes one JSON line per RULE: sums over all tokens; rows: private rows of the answers at the end, over those of the full cache. */
#include "tools/worker/chat.h"
#include "tools/worker/decode.h"
#include "tools/worker/prefill.h"
#include "tools/worker/requests.h"

#include "kernels/pool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RULES 32
#define TASKS 2

static const char *const tasks[TASKS] = {"Retell all of this text in your own words, at length.",
                                         "Explain each paragraph of this text to a beginner, one after the other."};

struct rule {
    const char *text;
    struct crn_gen_rule rule; /* on 0: full */
    uint64_t n, agreed, rows, full_rows;
    double nll;
};

struct bench {
    struct crn_weights *weights;
    struct crn_engine engine;
    struct crn_tokenizer *tokenizer;
    struct crn_chat chat;
    uint32_t n;
    struct rule rules[MAX_RULES];
    size_t n_rules;
};

static void need(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "gen_pyramid: %s\n", what);
    exit(1);
}

static uint64_t private_rows(const struct crn_decode *d)
{
    uint64_t rows = 0;
    for (size_t i = 0; i < (size_t)d->engine->weights->shape.n_layers * d->n; i++)
        rows += d->kv[i].n;
    return rows;
}

/* Writes or follows; returns the private rows at the end. */
static uint64_t generate(struct bench *b, const struct crn_cache *cache, struct crn_question *q, uint32_t start,
                         const struct crn_gen_rule *rule)
{
    struct crn_decode_options o = {.sampler = {0, 1.0f, 1}, .max_tokens = b->n, .stop = {-1, -1}};
    struct crn_decode d;
    need(crn_decode_begin(&d, &b->engine, q, TASKS, start) == 0 && crn_decode_thin(&d, rule) == 0, "questions");
    for (uint32_t l = 0; l < b->weights->shape.n_layers; l++)
        need(crn_decode_layer(&d, l, cache->layers[l].spans, cache->layers[l].n) == 0, "suffix");
    need(crn_decode_logits(&d) == 0 && crn_decode_generate(&d, cache, &o) == 0, "generating");
    uint64_t rows = private_rows(&d);
    crn_decode_end(&d);
    return rows;
}

static void measure(struct bench *b, const struct crn_request *r)
{
    struct crn_ids ids = {0}, asked[TASKS] = {{0}};
    struct crn_question q[TASKS];
    struct crn_cache cache;
    const struct crn_gen_rule off = {.on = 0};
    int32_t *own = malloc(2 * TASKS * b->n * sizeof *own);
    need(own != NULL && crn_chat_context(&b->chat, r->context, r->context_bytes, &ids) == 0, "tokens");
    for (uint32_t i = 0; i < TASKS; i++) {
        need(crn_chat_question(&b->chat, tasks[i], strlen(tasks[i]), &asked[i]) == 0, "tokens");
        q[i] = (struct crn_question){.tokens = asked[i].ids, .n = (uint32_t)asked[i].n, .answer = own + i * b->n};
    }
    struct crn_prefill p = {.tokens = ids.ids, .n = (uint32_t)ids.n};
    need(crn_cache_init(&cache, b->weights->shape.n_layers) == 0 && crn_prefill(&b->engine, &p, &cache, NULL) == 0, "prefill");
    uint64_t full = generate(b, &cache, q, (uint32_t)ids.n, &off);
    for (uint32_t i = 0; i < TASKS; i++) {
        q[i].follow = own + i * b->n;
        q[i].n_follow = b->n;
        q[i].answer = own + (TASKS + i) * b->n;
    }
    for (size_t k = 0; k < b->n_rules; k++) {
        struct rule *rule = &b->rules[k];
        rule->rows += generate(b, &cache, q, (uint32_t)ids.n, &rule->rule);
        rule->full_rows += full;
        for (uint32_t i = 0; i < TASKS; i++) {
            rule->n += b->n;
            rule->agreed += q[i].n_agreed;
            rule->nll += q[i].nll * b->n;
        }
    }
    for (uint32_t i = 0; i < TASKS; i++)
        crn_ids_free(&asked[i]);
    crn_cache_free(&cache);
    crn_ids_free(&ids);
    free(own);
}

static void load(struct bench *b, char **argv)
{
    struct crn_exec exec = {0};
    need(crn_pool_create((unsigned)strtoul(argv[4], NULL, 10), 0, &exec.pool) == 0, "threads");
    need(crn_weights_load(argv[1], NULL, 0, &b->weights) == 0, argv[1]);
    need(crn_engine_init(&b->engine, b->weights, &crn_kernels_cpu, &exec, CAIRN_F16) == 0, "engine");
    need(crn_tokenizer_create(b->weights->base, &b->tokenizer) == 0 && crn_chat_setup(b->weights->base, b->tokenizer, &b->chat) == 0,
         "tokenizer");
    b->n = (uint32_t)strtoul(argv[3], NULL, 10);
    need(b->n > 0, "N must be positive");
}

int main(int argc, char **argv)
{
    static struct bench b;
    struct crn_requests requests;
    if (argc < 6 || argc - 5 > MAX_RULES) {
        fprintf(stderr, "usage: gen_pyramid MODEL REQUESTS N THREADS RULE...\n");
        return 2;
    }
    load(&b, argv);
    for (int i = 5; i < argc; i++) {
        struct rule *r = &b.rules[b.n_rules++];
        r->text = argv[i];
        need(strcmp(argv[i], "full") == 0 || crn_gen_parse(argv[i], &r->rule) == 0, argv[i]);
    }
    need(crn_requests_read(argv[2], &requests) == 0, argv[2]);
    for (size_t i = 0; i < requests.n; i++) {
        const struct crn_request *r = &requests.list[i];
        if (i > 0 && r->context_bytes == r[-1].context_bytes && memcmp(r->context, r[-1].context, r->context_bytes) == 0)
            continue;
        measure(&b, r);
        fprintf(stderr, "%zu of %zu lines\n", i + 1, requests.n);
    }
    for (size_t k = 0; k < b.n_rules; k++) {
        const struct rule *r = &b.rules[k];
        printf("{\"rule\": \"%s\", \"tokens\": %llu, \"agreed\": %llu, \"nll\": %.5f, \"rows\": %.5f}\n", r->text, (unsigned long long)r->n,
               (unsigned long long)r->agreed, r->nll / (double)r->n, (double)r->rows / (double)r->full_rows);
    }
    return 0;
}
