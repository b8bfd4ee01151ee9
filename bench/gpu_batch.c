/* bench/gpu_batch - answers per second on a device with full caches and with pyramids made while prefilling (method.md 2.3.2),
 * random bf16 weights of Llama-3-8B's shape. Two questions:
 *   - many answers about one context: the rows that all of them read are fewer;
 *   - answers about a context of each: in the memory that a few full caches take, more pyramids fit.
 * Only the steps of generating are timed, from the rows of the last tokens to logits on the host. Tokens are random: what comes out does not
 * matter, only that both sides do the same. */
#include "bench/common.h"
#include "bench/gpu.h"
#include "tools/worker/decode.h"
#include "tools/worker/prefill.h"

#include "ipc/log.h"
#include "kernels/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FULL, PYRAMID, FORMS, MAX_ANSWERS = 64 };

static const char *const rule_text = "d=0.9,rho=0.2";

struct bench {
    struct bench_gpu g;
    struct crn_weights *weights;
    struct crn_engine engine;
    struct crn_pyramid_rule rule;
    uint64_t seed;
};

static int32_t *random_tokens(struct bench *b, uint32_t n)
{
    int32_t *tokens = malloc(n * sizeof *tokens);
    bench_must(tokens == NULL ? -ENOMEM : 0, "tokens");
    for (uint32_t i = 0; i < n; i++) {
        b->seed = b->seed * 6364136223846793005ull + 1442695040888963407ull;
        tokens[i] = (int32_t)((b->seed >> 33) % b->weights->shape.vocab);
    }
    return tokens;
}

static void read_context(struct bench *b, uint32_t n, int form, struct crn_cache *out)
{
    int32_t *tokens = random_tokens(b, n);
    struct crn_prefill p = {.tokens = tokens, .n = n, .rule = form == PYRAMID ? &b->rule : NULL};
    bench_must(crn_cache_init(out, b->weights->shape.n_layers), "cache");
    bench_must(crn_prefill(&b->engine, &p, out, NULL), "prefill");
    free(tokens);
}

/* ---- one context ---- */

/* Tokens per second of n answers of `longest` tokens each, about what is in the cache. */
static double answers_per_cache(struct bench *b, const struct crn_cache *cache, uint32_t n, uint32_t longest)
{
    struct crn_question questions[MAX_ANSWERS] = {{0}};
    struct crn_decode decode;
    int32_t *asked = random_tokens(b, 16), *answers = malloc((size_t)n * longest * sizeof *answers);
    struct crn_decode_options options = {.sampler = {0, 1, 1}, .max_tokens = longest, .stop = {-1, -1}};
    bench_must(answers == NULL ? -ENOMEM : 0, "answers");
    for (uint32_t i = 0; i < n; i++)
        questions[i] = (struct crn_question){.tokens = asked, .n = 16, .answer = answers + (size_t)i * longest};
    bench_must(crn_decode_begin(&decode, &b->engine, questions, n, cache->n_tokens), "questions");
    for (uint32_t l = 0; l < cache->n_layers; l++)
        bench_must(crn_decode_layer(&decode, l, cache->layers[l].spans, cache->layers[l].n), "suffix");
    bench_must(crn_decode_logits(&decode), "logits");
    double begin = bench_now_s();
    bench_must(crn_decode_generate(&decode, cache, &options), "generate");
    double took = bench_now_s() - begin;
    crn_decode_end(&decode);
    free(answers);
    free(asked);
    return (double)n * (longest - 1) / took; /* the first token was there */
}

static void one_context(struct bench *b, uint32_t tokens, uint32_t n)
{
    struct crn_cache caches[FORMS];
    struct bench_samples rate[FORMS] = {{0}};
    uint32_t longest = b->g.emulated ? 3 : 33;
    int rounds = b->g.emulated ? 1 : bench_quick() ? 3 : 7;
    char name[96], note[96];
    for (int form = 0; form < FORMS; form++)
        read_context(b, tokens, form, &caches[form]);
    for (int i = 0; i <= rounds; i++) {
        for (int form = 0; form < FORMS; form++) {
            double value = answers_per_cache(b, &caches[form], n, longest);
            if (i > 0)
                bench_sample(&rate[form], value);
        }
    }
    snprintf(name, sizeof name, "%u answers about one context of %u, pyramid", n, tokens);
    snprintf(note, sizeof note, "prefill:%s keeps %.0f %% of the bytes", rule_text,
             100.0 * (double)crn_cache_private_bytes(&caches[PYRAMID]) / (double)crn_cache_private_bytes(&caches[FULL]));
    bench_report(&(struct bench_figure){.group = "gpu batch", .name = name, .unit = "tokens/s", .own = &rate[PYRAMID],
                                        .baseline = "full cache", .other = &rate[FULL], .note = note});
    for (int form = 0; form < FORMS; form++) {
        crn_cache_free(&caches[form]);
        bench_samples_free(&rate[form]);
    }
}

/* ---- a context of each ---- */

/* n answers, each with a cache of its own, one token further per step. */
struct group {
    struct crn_cache caches[MAX_ANSWERS];
    uint32_t n;
};

static void step(struct bench *b, struct group *g, float *logits)
{
    struct crn_segment segments[MAX_ANSWERS];
    struct crn_pass pass;
    int32_t *tokens = random_tokens(b, g->n);
    bench_must(crn_pass_begin(&pass, &b->engine, tokens, g->n, 0), "rows");
    for (uint32_t i = 0; i < g->n; i++)
        pass.pos[i] = (int32_t)g->caches[i].n_tokens++;
    for (uint32_t l = 0; l < b->weights->shape.n_layers; l++) {
        for (uint32_t i = 0; i < g->n; i++)
            segments[i] = (struct crn_segment){&g->caches[i].pieces->kv[l], i, i + 1};
        struct crn_layer_call call = {.layer = l, .h = pass.h, .pos = pass.pos, .n = g->n, .segments = segments, .n_segments = g->n};
        bench_must(crn_engine_layer(&b->engine, &call), "layer");
    }
    bench_must(crn_engine_logits(&b->engine, pass.h, g->n, logits), "logits");
    crn_pass_end(&pass);
    free(tokens);
}

static void measure_group(struct bench *b, uint32_t tokens, int form, uint32_t n, struct bench_samples *out)
{
    static struct group g;
    int steps = b->g.emulated ? 2 : bench_quick() ? 8 : 32;
    float *logits = malloc((size_t)n * b->weights->shape.vocab * sizeof *logits);
    bench_must(logits == NULL ? -ENOMEM : 0, "logits");
    g = (struct group){.n = n};
    for (uint32_t i = 0; i < n; i++)
        read_context(b, tokens, form, &g.caches[i]);
    step(b, &g, logits); /* memory grows once */
    for (int i = 0; i < steps; i++) {
        double begin = bench_now_s();
        step(b, &g, logits);
        bench_sample(out, n / (bench_now_s() - begin));
    }
    for (uint32_t i = 0; i < n; i++)
        crn_cache_free(&g.caches[i]);
    free(logits);
}

static void own_contexts(struct bench *b, uint32_t tokens, uint32_t n_full)
{
    struct bench_samples rate[FORMS] = {{0}};
    struct crn_cache cache;
    uint64_t bytes[FORMS];
    char name[96], note[96];
    for (int form = 0; form < FORMS; form++) {
        read_context(b, tokens, form, &cache);
        bytes[form] = crn_cache_private_bytes(&cache);
        crn_cache_free(&cache);
    }
    uint64_t fit = n_full * bytes[FULL] / bytes[PYRAMID];
    uint32_t n_pyramid = fit < MAX_ANSWERS ? (uint32_t)fit : MAX_ANSWERS;
    int turns = b->g.emulated ? 1 : 2;
    for (int i = 0; i < turns; i++) {
        measure_group(b, tokens, FULL, n_full, &rate[FULL]);
        measure_group(b, tokens, PYRAMID, n_pyramid, &rate[PYRAMID]);
    }
    snprintf(name, sizeof name, "%u answers, a context of %u each, pyramid", n_pyramid, tokens);
    snprintf(note, sizeof note, "as many as fit into %.2f GiB", (double)(n_full * bytes[FULL]) / 1073741824.0);
    char baseline[64];
    snprintf(baseline, sizeof baseline, "%u answers with full caches", n_full);
    bench_report(&(struct bench_figure){.group = "gpu batch", .name = name, .unit = "tokens/s", .own = &rate[PYRAMID],
                                        .baseline = baseline, .other = &rate[FULL], .note = note});
    bench_samples_free(&rate[FULL]);
    bench_samples_free(&rate[PYRAMID]);
}

int main(void)
{
    static struct bench b;
    crn_log_setup("bench", CRN_LOG_WARN);
    bench_gpu_require();
    bench_gpu_open(&b.g);
    struct crn_model_shape shape = bench_gpu_shape(&b.g);
    b.seed = bench_seed();
    b.weights = bench_gpu_weights(&b.g, &shape);
    bench_must(crn_engine_init(&b.engine, b.weights, &crn_kernels_cuda, &b.g.exec, CAIRN_BF16), "engine");
    bench_must(crn_pyramid_parse(rule_text, &b.rule), "rule");
    if (b.g.emulated) {
        one_context(&b, 80, 2);
        own_contexts(&b, 80, 2);
    } else {
        one_context(&b, 8192, 1);
        one_context(&b, 8192, 16);
        one_context(&b, bench_quick() ? 8192 : 32768, MAX_ANSWERS);
        own_contexts(&b, 4096, 4);
        own_contexts(&b, 4096, 12);
    }
    crn_engine_free(&b.engine);
    crn_weights_free(b.weights);
    bench_gpu_close(&b.g);
    return 0;
}
