/* bench/selectors - how well a sibling answers with a cut cache, for many ways to cut, at the price of few prefills.
 *
 * usage: selectors MODEL ADAPTER PLAN REQUESTS THREADS SPEC...
 *     MODEL     GGUF of the producer; ADAPTER makes the receiver of it; PLAN: JSON of the pair (run, state map)
 *     REQUESTS  JSON lines of tools/family/generate.py: {"context", "question", "answer"}
 *     SPEC      whole[:i8] | SELECTOR:BUDGET:KEEP[:cCHUNK][:sSTRIDE][:hHEADS][:one][:i8]
 *               BUDGET: a name, or shapes of the layers that are cut, as 0-4=0.1+5-9=1 (others: 1)
 *               one: one set per layer, by the best score of its KV heads
 * The producer reads each context once, every selector scores it once, and the receiver recomputes its run once; a SPEC then costs
 * no more than the questions. Rows are cut and stored as the broker would (gathered f16, or int8 with the sinks wide). The layers
 * of the run are the receiver's own and whole; the kept share is that of the other layers.
 * Writes one JSON line per SPEC: sums over all questions, and seconds that scoring took per context, beside the producer's prefill. */
#include "tools/plan_file.h"
#include "tools/worker/chat.h"
#include "tools/worker/decode.h"
#include "tools/worker/prefill.h"
#include "tools/worker/requests.h"
#include "tools/worker/selectors/selectors.h"

#include "kernels/pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_SPECS 256
#define MAX_QUESTIONS 64
#define WIDE 4u

struct spec {
    const char *text;
    const struct crn_selector *selector; /* NULL: whole */
    struct crn_sets_rule rule;
    double weights[CAIRN_MAX_LAYERS]; /* of a budget that is given by layer */
    uint32_t chunk, stride, heads;
    int one, int8;
    /* results */
    uint32_t n, n_exact, n_contexts;
    double nll, share, bytes, score_s;
    char *exact; /* one character per question */
};

struct bench {
    struct crn_weights *weights[2]; /* producer, receiver */
    struct crn_engine engine[2];
    struct crn_tokenizer *tokenizer;
    struct crn_chat chat;
    struct crn_plan_file *plan;
    struct crn_ids prompt;
    struct spec specs[MAX_SPECS];
    size_t n_specs;
    double prefill_s; /* of all contexts */
};

static void need(int ok, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "selectors: %s\n", what);
    exit(1);
}

static void *room(size_t bytes)
{
    void *p = malloc(bytes > 0 ? bytes : 1);
    need(p != NULL, "no memory");
    return p;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* LAYERS=SHAPE, joined by +. */
static void parse_shapes(struct spec *s, const char *text)
{
    for (uint32_t l = 0; l < CAIRN_MAX_LAYERS; l++)
        s->weights[l] = 1;
    for (const char *at = text; *at != '\0';) {
        char *end;
        unsigned long first = strtoul(at, &end, 10), last = *end == '-' ? strtoul(end + 1, &end, 10) : first;
        need(*end == '=' && first <= last && last < CAIRN_MAX_LAYERS, text);
        double shape = strtod(end + 1, &end);
        need(shape > 0 && (*end == '+' || *end == '\0'), text);
        for (unsigned long l = first; l <= last; l++)
            s->weights[l] = shape;
        at = *end == '+' ? end + 1 : end;
    }
    s->rule.weights = s->weights;
}

static void parse_budget(struct spec *s, const char *text)
{
    if (text[0] >= '0' && text[0] <= '9')
        parse_shapes(s, text);
    else
        need(crn_budget_parse(text, &s->rule.budget) == 0, text);
}

static void parse_spec(struct bench *b, const char *text)
{
    struct spec *s = &b->specs[b->n_specs++];
    char copy[256], *save = NULL;
    need(b->n_specs < MAX_SPECS && strlen(text) < sizeof copy, text);
    memcpy(copy, text, strlen(text) + 1);
    *s = (struct spec){.text = text, .rule = {1, CRN_BUDGET_GLOBAL, b->plan->put.plan.first, b->plan->put.plan.last, NULL}};
    char *part = strtok_r(copy, ":", &save);
    need(part != NULL, text);
    if (strcmp(part, "whole") != 0) {
        s->selector = crn_selector_named(part);
        part = strtok_r(NULL, ":", &save);
        need(s->selector != NULL && part != NULL, text);
        parse_budget(s, part);
        part = strtok_r(NULL, ":", &save);
        need(part != NULL, text);
        s->rule.keep = strtof(part, NULL);
    }
    while ((part = strtok_r(NULL, ":", &save)) != NULL) {
        if (strcmp(part, "i8") == 0)
            s->int8 = 1;
        else if (part[0] == 'c')
            s->chunk = (uint32_t)strtoul(part + 1, NULL, 10);
        else if (part[0] == 's')
            s->stride = (uint32_t)strtoul(part + 1, NULL, 10);
        else if (part[0] == 'h')
            s->heads = (uint32_t)strtoul(part + 1, NULL, 10);
        else if (strcmp(part, "one") == 0)
            s->one = 1;
        else
            need(0, text);
    }
}

/* ---- one context ---- */

struct context {
    struct crn_ids ids;
    struct crn_cache whole; /* of the producer */
    struct crn_kv *run;     /* [n_layers] of the receiver, those of the run filled */
    float *state;           /* [n][hidden], entering the run */
    struct crn_ids asked[MAX_QUESTIONS];
    struct crn_question questions[MAX_QUESTIONS];
    uint32_t n_questions;
};

struct wanted_state {
    struct bench *b;
    struct context *c;
};

/* As it is stored: rounded to f16. */
static int take_state(void *ctx, uint32_t layer, const float *h, const int32_t *pos, uint32_t n)
{
    struct wanted_state *w = ctx;
    const struct crn_engine *e = &w->b->engine[0];
    size_t numbers = (size_t)n * e->weights->shape.hidden;
    (void)pos;
    if (layer != w->b->plan->put.plan.first)
        return 0;
    uint16_t *half = room(numbers * sizeof *half);
    int status = e->ops->convert(&e->exec, h, CAIRN_F32, numbers, CAIRN_F16, half);
    if (status == 0)
        status = e->ops->convert(&e->exec, half, CAIRN_F16, numbers, CAIRN_F32, w->c->state);
    free(half);
    return status;
}

static void apply_map(struct bench *b, struct context *c)
{
    const struct cairn_map_view *map = &b->plan->put.map;
    const struct crn_engine *e = &b->engine[1];
    size_t n = c->ids.n, d = e->weights->shape.hidden;
    if (map->w == NULL)
        return;
    need(map->rank == 0 && map->hidden == d, "the plan's map is not a full one of this model");
    float *w = room(d * d * sizeof *w), *delta = room(n * d * sizeof *delta);
    for (size_t i = 0; i < d; i++)
        memcpy(w + i * d, map->w + i * (d + 1), d * sizeof *w);
    struct crn_matrix matrix = {w, CRN_W_F32, (uint32_t)d, (uint32_t)d};
    need(e->ops->gemm(&e->exec, c->state, n, &matrix, 0, delta) == 0, "map");
    for (size_t i = 0; i < n * d; i++)
        c->state[i] += delta[i] + map->w[(i % d) * (d + 1) + d];
    free(w);
    free(delta);
}

static void receiver_run(struct bench *b, struct context *c)
{
    struct crn_engine *e = &b->engine[1];
    const struct crn_model_shape *s = &e->weights->shape;
    const struct cairn_plan *plan = &b->plan->put.plan;
    struct crn_pass pass;
    uint32_t n = (uint32_t)c->ids.n;
    need(crn_pass_begin(&pass, e, c->ids.ids, n, 0) == 0, "rows");
    apply_map(b, c);
    memcpy(pass.h, c->state, (size_t)n * s->hidden * sizeof *pass.h);
    c->run = calloc(s->n_layers, sizeof *c->run);
    need(c->run != NULL, "no memory");
    for (uint32_t l = plan->first; l <= plan->last; l++) {
        need(crn_kv_init(&c->run[l], e->kv_dtype, s->n_kv_heads, s->head_dim, n) == 0, "kv");
        int status = l == plan->last ? crn_pass_keys(&pass, l, &c->run[l])
                                     : crn_pass_layer(&pass, l, NULL, 0, &c->run[l], NULL, 0);
        need(status == 0, "run");
    }
    crn_pass_end(&pass);
}

static void question_ids(struct bench *b, const struct crn_request *r, struct context *c)
{
    struct crn_ids *ids = &c->asked[c->n_questions];
    *ids = (struct crn_ids){0};
    need(c->n_questions + 1 < MAX_QUESTIONS && r->question != NULL && r->expected != NULL, "a request without question or answer");
    need(crn_chat_question(&b->chat, r->question, strlen(r->question), ids) == 0, "tokens");
    size_t asked = ids->n;
    need(crn_tokenizer_encode(b->tokenizer, r->expected, strlen(r->expected), false, ids) == 0 &&
             crn_ids_push(ids, b->chat.end_ids[0]) == 0,
         "tokens");
    c->questions[c->n_questions++] =
        (struct crn_question){.tokens = ids->ids, .n = (uint32_t)ids->n, .n_forced = (uint32_t)(ids->n - asked)};
}

static void open_context(struct bench *b, const struct crn_request *r, size_t n, struct context *c)
{
    struct crn_engine *e = &b->engine[0];
    struct wanted_state wanted = {b, c};
    struct crn_prefill_watch watch = {.ctx = &wanted, .state = take_state};
    *c = (struct context){.n_questions = 0};
    need(crn_chat_context(&b->chat, r->context, r->context_bytes, &c->ids) == 0, "tokens");
    c->state = room(c->ids.n * e->weights->shape.hidden * sizeof *c->state);
    struct crn_prefill p = {.tokens = c->ids.ids, .n = (uint32_t)c->ids.n, .watch = &watch};
    double begin = now_s();
    need(crn_cache_init(&c->whole, e->weights->shape.n_layers) == 0 && crn_prefill(e, &p, &c->whole, NULL) == 0, "prefill");
    b->prefill_s += now_s() - begin;
    receiver_run(b, c);
    for (size_t i = 0; i < n; i++)
        question_ids(b, &r[i], c);
}

static void close_context(struct bench *b, struct context *c)
{
    for (uint32_t l = 0; l < b->weights[0]->shape.n_layers; l++)
        crn_kv_free(&c->run[l]);
    for (uint32_t i = 0; i < c->n_questions; i++)
        crn_ids_free(&c->asked[i]);
    crn_ids_free(&c->ids);
    crn_cache_free(&c->whole);
    free(c->run);
    free(c->state);
}

/* ---- a cut copy of the producer's rows, as the broker stores it ---- */

struct part { /* memory of one head */
    uint16_t *k, *v, *k_scale, *v_scale;
    int8_t *k8, *v8;
    int32_t *pos;
};

struct cut {
    struct part *parts;        /* [L][G] */
    struct crn_kv_head *heads; /* [L][2][G]: wide, rest */
    struct crn_span *spans;    /* [L][2] */
    uint32_t *n_spans;         /* [L] */
    double bytes;
};

static void quantise(const struct crn_engine *e, struct part *p, uint32_t n)
{
    size_t dh = e->weights->shape.head_dim;
    float *rows = room((size_t)n * dh * sizeof *rows);
    const uint16_t *from[2] = {p->k + WIDE * dh, p->v + WIDE * dh};
    p->k8 = room(n * dh);
    p->v8 = room(n * dh);
    p->k_scale = room((n + 63) / 64 * dh * sizeof *p->k_scale);
    p->v_scale = room((n + 1) * sizeof *p->v_scale);
    int status = e->ops->convert(&e->exec, from[0], CAIRN_F16, n * dh, CAIRN_F32, rows);
    if (status == 0)
        status = e->ops->quant_k(&e->exec, rows, n, dh, p->k8, p->k_scale);
    if (status == 0)
        status = e->ops->convert(&e->exec, from[1], CAIRN_F16, n * dh, CAIRN_F32, rows);
    if (status == 0)
        status = e->ops->quant_rows(&e->exec, rows, n, dh, dh, p->v8, p->v_scale);
    need(status == 0, "int8");
    free(rows);
}

static void cut_head(const struct crn_engine *e, const struct crn_kv_head *from, const uint32_t *index, uint32_t n, int int8,
                     struct part *p, struct crn_kv_head *out_wide, struct crn_kv_head *out_rest)
{
    size_t dh = e->weights->shape.head_dim, row = dh * sizeof *p->k;
    p->k = room(n * row);
    p->v = room(n * row);
    p->pos = room(n * sizeof *p->pos);
    need(e->ops->gather(&e->exec, from->k, from->n, row, index, n, p->k) == 0 &&
             e->ops->gather(&e->exec, from->v, from->n, row, index, n, p->v) == 0,
         "gather");
    for (uint32_t i = 0; i < n; i++)
        p->pos[i] = from->pos[index[i]];
    if (!int8) {
        *out_rest = (struct crn_kv_head){.k = p->k, .v = p->v, .pos = p->pos, .n = n};
        return;
    }
    quantise(e, p, n - WIDE);
    *out_wide = (struct crn_kv_head){.k = p->k, .v = p->v, .pos = p->pos, .n = WIDE};
    *out_rest = (struct crn_kv_head){
        .k = p->k8, .v = p->v8, .k_scale = p->k_scale, .v_scale = p->v_scale, .pos = p->pos + WIDE, .n = n - WIDE};
}

static double head_bytes(uint32_t n, size_t dh, int int8)
{
    double rest = int8 ? n - WIDE : 0;
    double wide = (double)n - rest;
    double scales = int8 ? 2 * ((double)((n - WIDE + 63) / 64 * dh) + rest) : 0;
    return wide * (double)dh * 4 + rest * (double)dh * 2 + scales + 4.0 * n;
}

static void make_cut(struct bench *b, struct context *c, const struct spec *s, const struct crn_sets *sets, struct cut *out)
{
    const struct crn_engine *e = &b->engine[0];
    const struct crn_model_shape *shape = &e->weights->shape;
    size_t heads = shape->n_kv_heads, layers = shape->n_layers;
    *out = (struct cut){.parts = calloc(layers * heads, sizeof *out->parts),
                        .heads = calloc(layers * heads * 2, sizeof *out->heads),
                        .spans = calloc(layers * 2, sizeof *out->spans),
                        .n_spans = calloc(layers, sizeof *out->n_spans)};
    need(out->parts && out->heads && out->spans && out->n_spans, "no memory");
    for (uint32_t l = 0; l < layers; l++) {
        struct crn_span *spans = out->spans + 2 * l;
        if (c->run[l].heads != NULL) {
            spans[0] = crn_kv_span(&c->run[l], 0, UINT32_MAX);
            out->n_spans[l] = 1;
            continue;
        }
        struct crn_kv_head *wide = out->heads + l * heads * 2, *rest = wide + heads;
        for (uint32_t h = 0; h < heads; h++) {
            uint32_t n = sets->counts[l * heads + h];
            cut_head(e, &c->whole.layers[l].spans[0].heads[h], crn_sets_list(sets, l, h), n, s->int8,
                     &out->parts[l * heads + h], &wide[h], &rest[h]);
            out->bytes += head_bytes(n, shape->head_dim, s->int8);
        }
        if (s->int8)
            spans[out->n_spans[l]++] = (struct crn_span){wide, CAIRN_F16, 0, UINT32_MAX};
        spans[out->n_spans[l]++] = (struct crn_span){rest, s->int8 ? CAIRN_I8 : CAIRN_F16, 0, UINT32_MAX};
    }
}

static void free_cut(struct cut *c, size_t n_parts)
{
    for (size_t i = 0; i < n_parts; i++) {
        free(c->parts[i].k);
        free(c->parts[i].v);
        free(c->parts[i].k8);
        free(c->parts[i].v8);
        free(c->parts[i].k_scale);
        free(c->parts[i].v_scale);
        free(c->parts[i].pos);
    }
    free(c->parts);
    free(c->heads);
    free(c->spans);
    free(c->n_spans);
}

/* ---- measuring ---- */

static void ask(struct bench *b, struct context *c, struct spec *s, const struct cut *cut)
{
    struct crn_decode d;
    need(crn_decode_begin(&d, &b->engine[1], c->questions, c->n_questions, (uint32_t)c->ids.n) == 0, "questions");
    for (uint32_t l = 0; l < b->weights[1]->shape.n_layers; l++)
        need(crn_decode_layer(&d, l, cut->spans + 2 * l, cut->n_spans[l]) == 0, "layer");
    need(crn_decode_score(&d) == 0, "score");
    crn_decode_end(&d);
    s->exact = realloc(s->exact, s->n + c->n_questions + 1);
    need(s->exact != NULL, "no memory");
    for (uint32_t i = 0; i < c->n_questions; i++) {
        s->n_exact += c->questions[i].exact;
        s->nll += c->questions[i].nll;
        s->exact[s->n++] = c->questions[i].exact ? '1' : '0';
    }
    s->exact[s->n] = '\0';
    s->bytes += cut->bytes;
    s->n_contexts++;
}

/* Scores are kept for the next SPEC, which mostly wants the same ones. */
struct scored {
    const struct crn_selector *selector;
    uint32_t chunk, stride, heads;
    int one;
    float *scores;
    double took_s;
};

/* Every KV head of a layer gets the best score of all. */
static void make_one(const struct crn_model_shape *shape, uint32_t n, float *scores)
{
    uint32_t heads = shape->n_kv_heads;
    for (size_t l = 0; l < shape->n_layers; l++)
        for (uint32_t i = 0; i < n; i++) {
            float *of = scores + l * heads * n + i, best = of[0];
            for (uint32_t h = 1; h < heads; h++)
                best = of[(size_t)h * n] > best ? of[(size_t)h * n] : best;
            for (uint32_t h = 0; h < heads; h++)
                of[(size_t)h * n] = best;
        }
}

static void score(struct bench *b, struct context *c, const struct spec *s, struct scored *last)
{
    const struct crn_model_shape *shape = &b->weights[0]->shape;
    if (last->selector == s->selector && last->chunk == s->chunk && last->stride == s->stride && last->heads == s->heads &&
        last->one == s->one)
        return;
    struct crn_select select = {.e = &b->engine[0],
                                .cache = &c->whole,
                                .tokens = c->ids.ids,
                                .n = (uint32_t)c->ids.n,
                                .prompt = b->prompt.ids,
                                .n_prompt = (uint32_t)b->prompt.n,
                                .chunk = s->chunk,
                                .stride = s->stride,
                                .heads = s->heads};
    free(last->scores);
    *last = (struct scored){s->selector, s->chunk, s->stride, s->heads, s->one,
                            room((size_t)shape->n_layers * shape->n_kv_heads * c->ids.n * sizeof *last->scores), 0};
    double begin = now_s();
    if (s->selector != NULL)
        need(s->selector->score(&select, last->scores) == 0, s->text);
    else
        crn_select_fill(last->scores, (size_t)shape->n_layers * shape->n_kv_heads * c->ids.n, 0);
    last->took_s = now_s() - begin;
    if (s->one)
        make_one(shape, (uint32_t)c->ids.n, last->scores);
}

static void measure(struct bench *b, const struct crn_request *r, size_t n)
{
    const struct crn_model_shape *shape = &b->weights[0]->shape;
    struct context c;
    struct scored last = {.scores = NULL, .chunk = UINT32_MAX};
    open_context(b, r, n, &c);
    for (size_t i = 0; i < b->n_specs; i++) {
        struct spec *s = &b->specs[i];
        struct crn_sets sets;
        struct cut cut;
        score(b, &c, s, &last);
        need(crn_sets_choose(&s->rule, last.scores, shape->n_layers, shape->n_kv_heads, (uint32_t)c.ids.n, &sets) == 0, s->text);
        make_cut(b, &c, s, &sets, &cut);
        ask(b, &c, s, &cut);
        s->share += sets.share;
        s->score_s += last.took_s;
        free_cut(&cut, (size_t)shape->n_layers * shape->n_kv_heads);
        crn_sets_free(&sets);
    }
    free(last.scores);
    close_context(b, &c);
}

static void print(const struct bench *b, const struct spec *s)
{
    printf("{\"spec\": \"%s\", \"questions\": %u, \"contexts\": %u, \"exact\": %u, \"nll\": %.5f, \"share\": %.5f, "
           "\"bytes_per_context\": %.0f, \"score_s\": %.3f, \"prefill_s\": %.3f, \"each\": \"%s\"}\n",
           s->text, s->n, s->n_contexts, s->n_exact, s->nll / s->n, s->share / s->n_contexts, s->bytes / s->n_contexts,
           s->score_s / s->n_contexts, b->prefill_s / s->n_contexts, s->exact);
}

static void load(struct bench *b, char **argv)
{
    static const char prompt[] = "\n\nRepeat the previous context exactly:\n\n";
    struct crn_adapter_spec adapter = {argv[2], 1.0f};
    struct crn_exec exec = {0};
    char why[160];
    need(crn_pool_create((unsigned)strtoul(argv[5], NULL, 10), 0, &exec.pool) == 0, "threads");
    need(crn_weights_load(argv[1], NULL, 0, &b->weights[0]) == 0 && crn_weights_load(argv[1], &adapter, 1, &b->weights[1]) == 0, "model");
    for (int i = 0; i < 2; i++)
        need(crn_engine_init(&b->engine[i], b->weights[i], &crn_kernels_cpu, &exec, CAIRN_F16) == 0, "engine");
    need(crn_tokenizer_create(b->weights[0]->base, &b->tokenizer) == 0 && crn_chat_setup(b->weights[0]->base, b->tokenizer, &b->chat) == 0,
         "tokenizer");
    need(crn_tokenizer_encode(b->tokenizer, prompt, strlen(prompt), false, &b->prompt) == 0, "tokens");
    need(crn_plan_file_open(argv[3], b->weights[0]->shape.n_layers, &b->plan, why, sizeof why) == 0, why);
}

int main(int argc, char **argv)
{
    static struct bench b;
    struct crn_requests requests;
    if (argc < 7) {
        fprintf(stderr, "usage: selectors MODEL ADAPTER PLAN REQUESTS THREADS SPEC...\n");
        return 2;
    }
    load(&b, argv);
    for (int i = 6; i < argc; i++)
        parse_spec(&b, argv[i]);
    need(crn_requests_read(argv[4], &requests) == 0, argv[4]);
    for (size_t i = 0, n; i < requests.n; i += n) {
        const struct crn_request *r = &requests.list[i];
        for (n = 1; i + n < requests.n && r->context_bytes == r[n].context_bytes && memcmp(r->context, r[n].context, r->context_bytes) == 0;)
            n++;
        measure(&b, r, n);
        fprintf(stderr, "%zu of %zu questions\n", i + n, requests.n);
    }
    for (size_t i = 0; i < b.n_specs; i++)
        print(&b, &b.specs[i]);
    return 0;
}
