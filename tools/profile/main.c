/* cairn-profiler: the engine behind `cairn profile`. For one pair of models it fits the state maps of all starts wanted, then
 * measures runs on contexts, and appends what it finds to OUT/results.jsonl; stopped and started again it goes on where it was.
 * It needs no broker. What the numbers mean, `cairn profile` decides (tools/frontier.h).
 *
 * Exit codes: 0 done, 1 failed (one line on stderr), 2 usage. */
#include "tools/json.h"
#include "tools/profile/linalg.h"
#include "tools/profile/maps.h"
#include "tools/profile/measure.h"
#include "tools/profile/options.h"
#include "tools/profile/record.h"
#include "tools/worker/answer.h"

#include "ipc/log.h"
#include "kernels/pool.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define REREAD_PROMPT "\n\nRepeat the previous context exactly:\n\n"
#define FIT_EVERY 3u /* without --fit every third context is for fitting only */

struct side {
    struct crn_weights *weights;
    struct crn_engine engine;
};

struct program {
    struct crn_profile_options options;
    struct side producer, receiver;
    struct crn_tokenizer *tokenizer;
    struct crn_chat chat;
    struct crn_pool *pool;
    struct crn_dataset questions, fitting; /* fitting: empty without --fit */
    struct crn_record record;
    struct cairn_map_view *maps; /* [n_variants + 1][n_layers] */
    uint8_t *wanted;             /* [n_layers][n_layers], CRN_WANTED_* */
    struct crn_ids reader;
    uint32_t n_layers, n_measured;
    /* progress */
    const char *stage;
    double done, total, begin_s, shown_s;
};

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int fail(const char *what, int status)
{
    fprintf(stderr, "cairn-profiler: %s: %s\n", what, cairn_strerror(status));
    return status;
}

/* ---- progress ---- */

static void begin_stage(struct program *p, const char *stage, double total)
{
    p->stage = stage;
    p->total = total;
    p->done = 0;
    p->begin_s = p->shown_s = now_s();
}

/* A bar on a terminal, else a line every 30 s. */
static void advance(void *ctx, double work)
{
    static const char bar[] = "##############################";
    struct program *p = ctx;
    double now = now_s(), share;
    int terminal = isatty(STDERR_FILENO);
    p->done += work;
    share = p->total > 0 ? p->done / p->total : 1;
    share = share < 1 ? share : 1;
    if (p->options.quiet || now - p->shown_s < (terminal ? 0.2 : 30.0))
        return;
    p->shown_s = now;
    double left = share > 0 ? (now - p->begin_s) * (1 - share) / share : 0;
    if (terminal)
        fprintf(stderr, "\r%s [%-30.*s] %3.0f %%, %.0f min %02.0f s left ", p->stage, (int)(share * 30), bar, share * 100,
                (double)(int)(left / 60), left - 60 * (double)(int)(left / 60));
    else
        fprintf(stderr, "%s: %.0f %%, %.0f s left\n", p->stage, share * 100, left);
}

static void end_stage(const struct program *p)
{
    if (!p->options.quiet && isatty(STDERR_FILENO))
        fprintf(stderr, "\r%s: %.0f s%40s\n", p->stage, now_s() - p->begin_s, "");
}

/* ---- loading ---- */

static int load_side(struct program *p, const struct crn_profile_model *model, struct side *side)
{
    struct crn_exec exec = {.pool = p->pool};
    int status = crn_weights_load(model->path, model->adapters, model->n_adapters, &side->weights);
    if (status == 0)
        status = crn_engine_init(&side->engine, side->weights, crn_kernels_named("cpu"), &exec, p->options.kv_dtype);
    return status;
}

/* Both must be of one family: only then does a cache mean the same to both. */
static int check_family(struct program *p)
{
    struct cairn_digest a, b;
    struct crn_tokenizer *other;
    int status = crn_tokenizer_create(p->producer.weights->base, &other);
    if (status != 0)
        return status;
    status = crn_worker_family(p->producer.weights, other, &a);
    if (status == 0)
        status = crn_worker_family(p->receiver.weights, p->tokenizer, &b);
    crn_tokenizer_destroy(other);
    if (status == 0 && memcmp(&a, &b, sizeof a) != 0) {
        fprintf(stderr, "cairn-profiler: producer and receiver are not of one family\n");
        return CAIRN_E_ARG;
    }
    return status;
}

static int load(struct program *p)
{
    int status = crn_pool_create(p->options.n_threads, 0, &p->pool);
    if (status == 0)
        status = load_side(p, &p->options.receiver, &p->receiver);
    if (status == 0)
        status = load_side(p, &p->options.producer, &p->producer);
    if (status == 0)
        status = crn_tokenizer_create(p->receiver.weights->base, &p->tokenizer);
    if (status == 0)
        status = check_family(p);
    if (status == 0)
        status = crn_chat_setup(p->receiver.weights->base, p->tokenizer, &p->chat);
    if (status == 0)
        status = crn_tokenizer_encode(p->tokenizer, REREAD_PROMPT, strlen(REREAD_PROMPT), false, &p->reader);
    if (status == 0)
        status = crn_dataset_read(p->options.requests, &p->chat, &p->questions);
    if (status == 0 && p->options.fit != NULL)
        status = crn_dataset_read(p->options.fit, &p->chat, &p->fitting);
    return status;
}

static void unload(struct program *p)
{
    for (uint32_t l = 0; l < (p->options.n_variants + 1) * p->n_layers && p->maps != NULL; l++)
        free((void *)(uintptr_t)p->maps[l].w);
    free(p->maps);
    free(p->wanted);
    crn_ids_free(&p->reader);
    crn_record_close(&p->record);
    crn_dataset_free(&p->questions);
    crn_dataset_free(&p->fitting);
    crn_tokenizer_destroy(p->tokenizer);
    crn_engine_free(&p->producer.engine);
    crn_engine_free(&p->receiver.engine);
    crn_weights_free(p->producer.weights);
    crn_weights_free(p->receiver.weights);
    crn_pool_destroy(p->pool);
    crn_profile_options_free(&p->options);
}

/* ---- what is measured ---- */

static int want(struct program *p, const char *option, const struct crn_profile_run *runs, uint32_t n, uint8_t how)
{
    for (uint32_t i = 0; i < n; i++) {
        if (runs[i].last >= p->n_layers) {
            fprintf(stderr, "cairn-profiler: --%s %u-%u: the layers are 0-%u\n", option, runs[i].first, runs[i].last, p->n_layers - 1);
            return CAIRN_E_ARG;
        }
        p->wanted[(size_t)runs[i].first * p->n_layers + runs[i].last] |= how;
    }
    return 0;
}

static int take_wanted(struct program *p)
{
    p->n_layers = p->receiver.weights->shape.n_layers;
    p->wanted = calloc((size_t)p->n_layers * p->n_layers, 1);
    p->maps = calloc((size_t)(p->options.n_variants + 1) * p->n_layers, sizeof *p->maps);
    if (p->wanted == NULL || p->maps == NULL)
        return -ENOMEM;
    int status = want(p, "runs", p->options.runs, p->options.n_runs, CRN_WANTED_FITTED);
    return status != 0 ? status : want(p, "tuned", p->options.tuned, p->options.n_tuned, CRN_WANTED_TUNED);
}

static int is_measured(const struct program *p, uint32_t context)
{
    return p->fitting.n > 0 || context % FIT_EVERY != FIT_EVERY - 1;
}

/* The first contexts that are measured, up to the limit; the others' numbers stay unused. */
static void count_measured(struct program *p)
{
    for (uint32_t i = 0; i < p->questions.n; i++)
        p->n_measured += (uint32_t)is_measured(p, i);
    if (p->options.n_contexts > 0 && p->options.n_contexts < p->n_measured)
        p->n_measured = p->options.n_contexts;
}

static void add_model(struct crn_json *root, const char *key, const struct crn_profile_model *model,
                      const struct crn_weights *weights)
{
    char text[33];
    struct crn_json *object = crn_json_object();
    cairn_digest_text(&weights->digest, text);
    crn_json_add(root, key, object);
    crn_json_add_text(object, "label", model->label);
    crn_json_add_text(object, "digest", text);
}

/* The first line of the results: whatever is not in it may change from one start of the program to the next. */
static char *head_of(const struct program *p)
{
    const struct crn_profile_options *o = &p->options;
    const struct crn_model_shape *s = &p->receiver.weights->shape;
    struct crn_json *root = crn_json_object(), *settings = crn_json_array();
    char digest[33];
    crn_json_add_u64(root, "profile", 1);
    add_model(root, "producer", &o->producer, p->producer.weights);
    add_model(root, "receiver", &o->receiver, p->receiver.weights);
    crn_json_add_u64(root, "n_layers", s->n_layers);
    crn_json_add_u64(root, "state_bytes", (uint64_t)s->hidden * 2);
    cairn_digest_text(&p->questions.digest, digest);
    crn_json_add_text(root, "requests", digest);
    cairn_digest_text(p->fitting.n > 0 ? &p->fitting.digest : &p->questions.digest, digest);
    crn_json_add_text(root, "fit", digest);
    crn_json_add_text(root, "maps", o->maps);
    crn_json_add_text(root, "selector", o->selector->name);
    crn_json_add_text(root, "budget", crn_budget_name(o->rule.budget));
    crn_json_add_u64(root, "whole_first", o->rule.whole_first);
    crn_json_add_u64(root, "whole_last", o->rule.whole_last);
    crn_json_add_u64(root, "kv", o->kv_dtype);
    crn_json_add_u64(root, "answer_tokens", o->answer_tokens);
    crn_json_add(root, "settings", settings);
    for (uint32_t i = 0; i < o->n_settings; i++) {
        struct crn_json *setting = crn_json_object();
        crn_json_add(settings, NULL, setting);
        crn_json_add_real(setting, "keep", (double)(int)(o->settings[i].rule.keep * 10000.0f + 0.5f) / 10000.0);
        crn_json_add_bool(setting, "int8", o->settings[i].int8 != 0);
    }
    char *text = crn_json_compact(root);
    crn_json_free(root);
    return text;
}

static int open_record(struct program *p)
{
    char path[4096];
    char *head = head_of(p);
    if (head == NULL)
        return -ENOMEM;
    if (mkdir(p->options.out, 0777) != 0 && errno != EEXIST) {
        free(head);
        return fail(p->options.out, -errno);
    }
    snprintf(path, sizeof path, "%s/maps", p->options.out);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/results.jsonl", p->options.out);
    int status = crn_record_open(path, head, p->questions.n, p->n_layers, p->options.n_settings,
                                 p->options.n_variants + 1, &p->record);
    free(head);
    if (status == CAIRN_E_EXISTS)
        fprintf(stderr, "cairn-profiler: %s was measured under other conditions: remove it or choose another --out\n", path);
    else if (status != 0)
        fail(path, status);
    return status;
}

static struct crn_answer_rule answer_rule(const struct program *p)
{
    return (struct crn_answer_rule){.tokens = p->options.answer_tokens, .stop = {p->chat.end_ids[0], p->chat.end_ids[1]}};
}

/* ---- maps ---- */

static int starts_at(const struct program *p, uint32_t layer)
{
    int any = 0;
    for (uint32_t b = layer; b < p->n_layers; b++)
        any |= (p->wanted[(size_t)layer * p->n_layers + b] & CRN_WANTED_FITTED) != 0;
    return any;
}

static const struct crn_dataset *fit_set(const struct program *p)
{
    return p->fitting.n > 0 ? &p->fitting : &p->questions;
}

static void map_stage(void *ctx, const char *stage, double contexts)
{
    struct program *p = ctx;
    if (p->stage != NULL)
        end_stage(p);
    begin_stage(p, stage, contexts);
}

static int make_maps(struct program *p)
{
    struct crn_maps maps = {.options = &p->options,
                            .set = fit_set(p),
                            .every = p->fitting.n > 0 ? 1 : FIT_EVERY,
                            .producer = &p->producer.engine,
                            .receiver = &p->receiver.engine,
                            .out = p->record.file,
                            .known = p->record.maps,
                            .answers = answer_rule(p),
                            .stage = map_stage,
                            .progress = advance,
                            .progress_ctx = p};
    uint8_t *starts = calloc(p->n_layers, 1);
    int status = starts != NULL ? 0 : -ENOMEM;
    for (uint32_t l = 1; l < p->n_layers && status == 0; l++)
        starts[l] = (uint8_t)starts_at(p, l);
    maps.starts = starts;
    crn_linalg_threads(p->options.n_threads);
    if (strcmp(crn_linalg_core(), "Prescott") == 0)
        crn_log(CRN_LOG_WARN, "OpenBLAS takes this CPU for Prescott: fitting is slow; OPENBLAS_CORETYPE=Haswell helps");
    if (status == 0)
        status = crn_maps_make(&maps, p->maps);
    if (p->stage != NULL)
        end_stage(p);
    free(starts);
    return status;
}

/* ---- measuring ---- */

static int all_known(const struct program *p, uint32_t context)
{
    const struct crn_measure_known *known = &p->record.known[context];
    size_t square = (size_t)p->n_layers * p->n_layers;
    int all = known->own && (known->alone || !p->options.sensitivity) && (known->corners || !p->options.corners);
    for (size_t i = 0; i < square; i++)
        all &= (p->wanted[i] & ~known->run[i]) == 0;
    return all;
}

static int measure(struct program *p)
{
    struct crn_measure m = {.producer = &p->producer.engine,
                            .receiver = &p->receiver.engine,
                            .maps = p->maps,
                            .n_variants = p->options.n_variants,
                            .settings = p->options.settings,
                            .n_settings = p->options.n_settings,
                            .wanted = p->wanted,
                            .sensitivity = p->options.sensitivity,
                            .corners = p->options.corners,
                            .answers = answer_rule(p),
                            .selector = p->options.selector,
                            .reader_prefix = p->reader.ids,
                            .n_reader_prefix = (uint32_t)p->reader.n,
                            .out = p->record.file,
                            .progress = advance,
                            .progress_ctx = p};
    uint32_t taken = 0, left = 0;
    int status = 0;
    for (uint32_t i = 0; i < p->questions.n && taken < p->n_measured; i++) {
        taken += (uint32_t)is_measured(p, i);
        left += is_measured(p, i) && !all_known(p, i);
    }
    begin_stage(p, "measuring", left);
    taken = 0;
    for (uint32_t i = 0; i < p->questions.n && taken < p->n_measured && status == 0; i++) {
        if (!is_measured(p, i))
            continue;
        taken++;
        if (!all_known(p, i))
            status = crn_measure_context(&m, i, &p->questions.contexts[i], &p->record.known[i]);
    }
    end_stage(p);
    return status;
}

/* twice: contexts are read a second time, for their scores. */
static int check_set(const struct program *p, const char *file, const struct crn_dataset *set, int twice)
{
    uint32_t limit = p->receiver.weights->shape.context_max;
    for (uint32_t i = 0; i < set->n; i++) {
        size_t longest = 0, n = set->contexts[i].ids.n;
        for (uint32_t j = 0; j < set->contexts[i].n; j++)
            longest = set->contexts[i].questions[j].ids.n > longest ? set->contexts[i].questions[j].ids.n : longest;
        if ((twice && 2 * n + p->reader.n > limit) || n + longest + p->options.answer_tokens + 1 > limit) {
            fprintf(stderr, "cairn-profiler: context %u of %s has %zu tokens: too long to be %s by a model of %u\n", i, file, n,
                    twice ? "read twice" : "asked about", limit);
            return CAIRN_E_TOO_BIG;
        }
    }
    return 0;
}

static int check_lengths(const struct program *p)
{
    int status = check_set(p, p->options.requests, &p->questions, 1);
    if (status == 0 && p->options.n_tuned > 0 && p->fitting.n > 0)
        status = check_set(p, p->options.fit, &p->fitting, 0);
    if (status == 0 && p->options.n_tuned > 0 && fit_set(p)->n / (p->fitting.n > 0 ? 1 : FIT_EVERY) < 2) {
        fprintf(stderr, "cairn-profiler: --tuned wants at least two contexts to fit maps on, one of them to be held out\n");
        return CAIRN_E_ARG;
    }
    return status;
}

int main(int argc, char **argv)
{
    static struct program program;
    crn_log_setup("cairn-profiler", CRN_LOG_WARN);
    int status = crn_profile_options_parse(argc, argv, &program.options);
    if (status != 0)
        return status == 1 ? EXIT_SUCCESS : 2;
    status = load(&program);
    if (status != 0)
        fail("cannot start", status);
    if (status == 0)
        status = check_lengths(&program);
    if (status == 0)
        status = take_wanted(&program);
    if (status == 0) {
        count_measured(&program);
        status = open_record(&program);
    }
    if (status == 0) {
        status = make_maps(&program);
        if (status != 0)
            fail("making maps", status);
    }
    if (status == 0) {
        status = measure(&program);
        if (status != 0)
            fail("measuring", status);
    }
    unload(&program);
    return status != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
