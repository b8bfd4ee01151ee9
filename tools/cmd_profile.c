/* profile: finds the plans of a pair of models. The engine is cairn-profiler, beside this program; here is what comes before and
 * after it: which runs to measure (all, or coarsely first and then about the best; the best ones with tuned maps, too), and what the
 * numbers mean: the frontier, a table, a plot, plan files, plans in the broker. Results stay in a directory, so that an unfinished
 * profile goes on. */
#include "tools/cmd.h"
#include "tools/frontier.h"
#include "tools/plan_file.h"
#include "tools/profile_plot.h"
#include "tools/profile_result.h"
#include "tools/worker/gguf.h"

#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PASSED_MAX 40
#define COARSE_GRAIN 5u
#define REFINE_REACH 5u
#define TUNED_MAX 16u

struct profile {
    struct crn_cmd *cmd;
    const char *producer, *receiver, *requests, *out, *plans, *runs;
    uint32_t grain, max_layers, n_layers;
    uint32_t n_tuned; /* runs to tune a map for */
    double floor; /* of the receiver's own quality: what a plan must keep */
    bool coarse, store, report_only;
    const char *passed[PASSED_MAX]; /* options that go to the profiler as they are */
    int n_passed;
    struct crn_result result;
    uint32_t n_plans;
};

/* ---- arguments ---- */

/* Options that only the profiler understands; n: with a value. */
static const struct {
    const char *name;
    bool value;
} passed_on[] = {
    {"--producer-label", true}, {"--receiver-label", true}, {"--fit", true},           {"--maps", true},
    {"--state-cache", true},    {"--keep", true},           {"--int8", false},         {"--selector", true},
    {"--budget", true},         {"--whole", true},          {"--contexts", true},      {"--answer-tokens", true},
    {"--sensitivity", false},   {"--kv", true},             {"--threads", true},       {"--quiet", false},
    {"--tuned", true},          {"--corners", false},
};

static int pass_on(struct profile *p, int argc, char **argv, int *i)
{
    for (size_t k = 0; k < sizeof passed_on / sizeof *passed_on; k++) {
        if (strcmp(argv[*i], passed_on[k].name) != 0)
            continue;
        if (p->n_passed + 2 > PASSED_MAX || (passed_on[k].value && *i + 1 >= argc))
            return crn_cmd_usage(p->cmd, "%s: without its value, or too many options", argv[*i]);
        p->passed[p->n_passed++] = argv[*i];
        if (passed_on[k].value)
            p->passed[p->n_passed++] = argv[++*i];
        return 0;
    }
    return crn_cmd_usage(p->cmd, "unknown argument %s", argv[*i]);
}

static int take_number(struct profile *p, const char *option, const char *text, double lo, double hi, double *out)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= lo && value <= hi))
        return crn_cmd_usage(p->cmd, "%s needs a number from %g to %g", option, lo, hi);
    *out = value;
    return 0;
}

/* 1: not one of ours. */
static int take_value(struct profile *p, const char *option, const char *value)
{
    const struct {
        const char *name, **to;
    } texts[] = {{"--producer", &p->producer}, {"--receiver", &p->receiver}, {"--requests", &p->requests},
                 {"--out", &p->out},           {"--plans", &p->plans},       {"--runs", &p->runs}};
    double number = 0;
    int code;
    for (size_t k = 0; k < sizeof texts / sizeof *texts; k++)
        if (strcmp(option, texts[k].name) == 0) {
            *texts[k].to = value;
            return 0;
        }
    if (strcmp(option, "--grain") == 0) {
        code = take_number(p, option, value, 1, CAIRN_MAX_LAYERS, &number);
        p->grain = code == 0 ? (uint32_t)number : p->grain;
        return code;
    }
    if (strcmp(option, "--max-layers") == 0) {
        code = take_number(p, option, value, 1, CAIRN_MAX_LAYERS, &number);
        p->max_layers = code == 0 ? (uint32_t)number : 0;
        return code;
    }
    if (strcmp(option, "--tune") == 0) {
        code = take_number(p, option, value, 1, TUNED_MAX, &number);
        p->n_tuned = code == 0 ? (uint32_t)number : 0;
        return code;
    }
    return strcmp(option, "--floor") == 0 ? take_number(p, option, value, 0, 1, &p->floor) : 1;
}

/* What the profiler would refuse only after all runs were measured with fitted maps. */
static int check_tuning(const struct profile *p)
{
    for (int i = 0; i < p->n_passed; i++) {
        if (strcmp(p->passed[i], "--tuned") == 0)
            return crn_cmd_usage(p->cmd, "--tune finds the runs, --tuned names them: give one of the two");
        if (strcmp(p->passed[i], "--maps") != 0 || i + 1 == p->n_passed)
            continue;
        size_t n = strcspn(p->passed[i + 1], ";");
        const char *spec = p->passed[i + 1], *rank = strstr(spec, "rank=");
        if (strncmp(spec, "plain", 5) == 0 || strncmp(spec, "file=", 5) == 0 || (rank != NULL && rank < spec + n))
            return crn_cmd_usage(p->cmd, "--tune wants a fitted map of full rank first in --maps");
    }
    return 0;
}

static int parse(struct profile *p, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        int code = 1;
        if (strcmp(argv[i], "--coarse") == 0)
            p->coarse = true, code = 0;
        else if (strcmp(argv[i], "--store") == 0)
            p->store = true, code = 0;
        else if (strcmp(argv[i], "--report-only") == 0)
            p->report_only = true, code = 0;
        else if (i + 1 < argc && (code = take_value(p, argv[i], argv[i + 1])) == 0)
            i++;
        if (code == 1)
            code = pass_on(p, argc, argv, &i);
        if (code != 0)
            return code;
    }
    int tuning = p->n_tuned > 0 ? check_tuning(p) : 0;
    if (tuning != 0)
        return tuning;
    if (p->out == NULL)
        return crn_cmd_usage(p->cmd, "--out DIR is needed");
    if (!p->report_only && (p->producer == NULL || p->receiver == NULL || p->requests == NULL))
        return crn_cmd_usage(p->cmd, "--producer, --receiver and --requests are needed");
    return 0;
}

/* ---- the engine ---- */

static int count_layers(struct profile *p)
{
    char path[4096];
    struct crn_gguf *g;
    snprintf(path, sizeof path, "%.*s", (int)strcspn(p->receiver, ","), p->receiver);
    int status = crn_gguf_open(path, &g);
    if (status != 0) {
        crn_cmd_say(p->cmd, "%s: %s", path, cairn_strerror(status));
        return CRN_EXIT_NO;
    }
    status = crn_gguf_u32(g, "llama.block_count", &p->n_layers);
    crn_gguf_close(g);
    if (status == 0 && p->n_layers > 0 && p->n_layers <= CAIRN_MAX_LAYERS)
        return 0;
    crn_cmd_say(p->cmd, "%s: not a model of the Llama family", path);
    return CRN_EXIT_NO;
}

/* OpenBLAS 0.3.21 must be told what an unknown new CPU can do, before it is loaded (tools/profile/linalg.c). */
static void name_core(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        setenv("OPENBLAS_CORETYPE", "SkylakeX", 0);
    else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        setenv("OPENBLAS_CORETYPE", "Haswell", 0);
#endif
}

static int wait_for(struct profile *p, pid_t child)
{
    int how;
    while (waitpid(child, &how, 0) < 0)
        if (errno != EINTR)
            return CRN_EXIT_NO;
    if (WIFEXITED(how) && WEXITSTATUS(how) == 0)
        return 0;
    if (WIFSIGNALED(how))
        crn_cmd_say(p->cmd, "cairn-profiler was stopped by signal %d; the same command goes on", WTERMSIG(how));
    return WIFEXITED(how) && WEXITSTATUS(how) == 2 ? CRN_EXIT_USAGE : CRN_EXIT_NO;
}

/* option: --runs or --tuned; what was measured before is not measured again. */
static int run_profiler(struct profile *p, const char *option, const char *runs)
{
    char self[4096], program[4200];
    const char *arguments[PASSED_MAX + 16] = {program, "--producer", p->producer, "--receiver", p->receiver, "--requests", p->requests,
                                              "--out", p->out, option, runs};
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    int at = 11;
    pid_t child;
    self[n > 0 ? n : 0] = '\0';
    char *slash = strrchr(self, '/');
    snprintf(program, sizeof program, "%.*scairn-profiler", slash != NULL ? (int)(slash - self + 1) : 0, self);
    for (int i = 0; i < p->n_passed; i++)
        arguments[at++] = p->passed[i];
    name_core();
    int error = posix_spawn(&child, program, NULL, NULL, (char *const *)(uintptr_t)arguments, environ);
    if (error != 0) {
        crn_cmd_say(p->cmd, "%s: %s", program, cairn_strerror(-error));
        return CRN_EXIT_NO;
    }
    return wait_for(p, child);
}

static int read_result(struct profile *p)
{
    char path[4096], why[400];
    crn_result_free(&p->result);
    snprintf(path, sizeof path, "%s/results.jsonl", p->out);
    int status = crn_result_read(path, &p->result, why, sizeof why);
    if (status == 0)
        return 0;
    crn_cmd_say(p->cmd, "%s", why);
    return CRN_EXIT_NO;
}

/* The run worth refining: the cheapest that keeps the floor, else the best there is. */
static const struct crn_point *best_region(const struct crn_result *r, double floor)
{
    const struct crn_point *best = crn_frontier_choose(r->points, r->n_points, 0, floor * r->own.quality);
    for (size_t i = 0; i < r->n_points && best == NULL; i++)
        if (r->points[i].setting == 0 && r->points[i].on_frontier) {
            best = &r->points[i];
            for (size_t j = i; j < r->n_points; j++)
                if (r->points[j].setting == 0 && r->points[j].quality > best->quality)
                    best = &r->points[j];
        }
    return best;
}

static int measure_runs(struct profile *p, const char *option, const struct crn_runs *runs)
{
    char *text = crn_runs_text(runs);
    int code = text != NULL ? run_profiler(p, option, text) : CRN_EXIT_NO;
    free(text);
    return code;
}

static int measure_fitted(struct profile *p)
{
    struct crn_runs runs = {0};
    if (p->runs != NULL)
        return run_profiler(p, "--runs", p->runs);
    int code = count_layers(p);
    if (code != 0)
        return code;
    uint32_t grain = p->coarse ? COARSE_GRAIN : p->grain;
    code = crn_runs_all(p->n_layers, grain, p->max_layers, &runs) == 0 ? measure_runs(p, "--runs", &runs) : CRN_EXIT_NO;
    if (code == 0 && p->coarse && (code = read_result(p)) == 0) {
        const struct crn_point *best = best_region(&p->result, p->floor);
        if (best != NULL && crn_point_layers(best) > 0) {
            const uint32_t run[2] = {best->first, best->last};
            code = crn_runs_about(p->n_layers, p->grain, REFINE_REACH, p->max_layers, run, &runs) == 0
                       ? measure_runs(p, "--runs", &runs)
                       : CRN_EXIT_NO;
        }
    }
    free(runs.list);
    return code;
}

/* Maps are tuned where they matter: for the best runs that are worth their time, found with fitted ones. */
static int measure_tuned(struct profile *p)
{
    uint32_t list[TUNED_MAX][2];
    int code = read_result(p);
    if (code != 0)
        return code;
    const struct crn_result *r = &p->result;
    struct crn_runs runs = {.list = list};
    struct crn_point *fitted = malloc((r->n_points + 1) * sizeof *fitted);
    size_t n = 0;
    for (size_t i = 0; i < r->n_points && fitted != NULL; i++) /* so that the same command always tunes the same */
        if (!crn_result_is_tuned(r, &r->points[i]))
            fitted[n++] = r->points[i];
    crn_frontier_mark(fitted, n);
    runs.n = crn_frontier_best(fitted, n, p->max_layers > 0 ? p->max_layers : r->n_layers / 2, p->n_tuned, list);
    free(fitted);
    if (runs.n == 0)
        crn_cmd_say(p->cmd, "nothing to tune: no run on the frontier recomputes so few layers");
    return runs.n > 0 ? measure_runs(p, "--tuned", &runs) : 0;
}

/* ---- what was found ---- */

static struct crn_json *json_of(const struct crn_result *r, const struct crn_point *p)
{
    struct crn_json *o = crn_json_object(), *run = crn_json_array();
    double low, high;
    crn_point_interval(p, &low, &high);
    crn_json_add(o, "run", run);
    if (crn_point_layers(p) > 0) {
        crn_json_add_u64(run, NULL, p->first);
        crn_json_add_u64(run, NULL, p->last);
    }
    crn_json_add_u64(o, "setting", p->setting);
    crn_json_add_u64(o, "variant", p->variant);
    crn_json_add_bool(o, "tuned", crn_result_is_tuned(r, p));
    crn_json_add_u64(o, "questions", p->n);
    crn_json_add_real(o, "exact", p->n > 0 ? (double)p->n_exact / p->n : 0);
    crn_json_add_real(o, "low95", low);
    crn_json_add_real(o, "high95", high);
    crn_json_add_real(o, "nll", p->nll);
    if (r->by_agreement) {
        crn_json_add_real(o, "agreement", p->quality);
        crn_json_add_real(o, "kl", p->kl);
    }
    crn_json_add_real(o, "layers", crn_result_share(r, p));
    crn_json_add_real(o, "recomputed_tokens", p->tokens);
    crn_json_add_real(o, "seconds", p->cost_s);
    crn_json_add_real(o, "time", crn_result_cost(r, p));
    crn_json_add_u64(o, "bytes", p->bytes);
    crn_json_add_real(o, "kept", crn_result_kept(r, p));
    crn_json_add_real(o, "kv_bytes", crn_result_bytes(r, p));
    crn_json_add_bool(o, "frontier", p->on_frontier);
    return o;
}

static void add_model(struct crn_json *root, const char *key, const char *label, const struct cairn_digest *digest)
{
    struct crn_json *o = crn_json_object();
    crn_json_add(root, key, o);
    crn_json_add_text(o, "label", label);
    crn_cmd_add_digest(o, "digest", digest);
}

static struct crn_json *document(const struct crn_result *r)
{
    struct crn_json *root = crn_cmd_json(), *points = crn_json_array(), *settings = crn_json_array(), *alone = crn_json_array();
    struct crn_json *corners = crn_json_array();
    add_model(root, "producer", r->producer, &r->producer_digest);
    add_model(root, "receiver", r->receiver, &r->receiver_digest);
    crn_json_add_u64(root, "n_layers", r->n_layers);
    crn_json_add_u64(root, "contexts", r->n_contexts);
    crn_json_add_real(root, "tokens", r->tokens);
    crn_json_add_u64(root, "fit_tokens", r->fit_tokens);
    crn_json_add_text(root, "maps", r->maps);
    crn_json_add_text(root, "requests", r->requests);
    crn_json_add_text(root, "fit", r->fit);
    crn_json_add_text(root, "selector", r->selector);
    crn_json_add_text(root, "budget", r->budget);
    crn_json_add_text(root, "quality", r->by_agreement ? "agreement" : "exact");
    crn_json_add(root, "own", json_of(r, &r->own));
    crn_json_add(root, "settings", settings);
    for (uint32_t i = 0; i < r->n_settings; i++) {
        struct crn_json *o = crn_json_object();
        crn_json_add(settings, NULL, o);
        crn_json_add_real(o, "keep", r->settings[i].keep);
        crn_json_add_bool(o, "int8", r->settings[i].int8);
    }
    crn_json_add(root, "points", points);
    for (size_t i = 0; i < r->n_points; i++)
        crn_json_add(points, NULL, json_of(r, &r->points[i]));
    for (uint32_t l = 0; l < r->n_layers && r->alone[l].n > 0; l++) {
        struct crn_json *o = crn_json_object();
        crn_json_add(alone, NULL, o);
        crn_json_add_real(o, "exact", (double)r->alone[l].n_exact / r->alone[l].n);
        crn_json_add_real(o, "nll", r->alone[l].nll);
    }
    crn_json_add(root, "alone", alone);
    for (uint32_t i = 0; i < r->n_settings && r->corners[i].n > 0; i++)
        crn_json_add(corners, NULL, json_of(r, &r->corners[i]));
    crn_json_add(root, "corners", corners);
    return root;
}

static int write_document(const struct crn_result *r, const char *path)
{
    struct crn_json *root = document(r);
    FILE *f = fopen(path, "we");
    int status = f != NULL ? crn_json_print(root, f) : -errno;
    if (f != NULL && fclose(f) != 0 && status == 0)
        status = -EIO;
    crn_json_free(root);
    return status;
}

static void print_point(const struct crn_result *r, const struct crn_point *p, const char *name)
{
    double low, high;
    crn_interval(p->n_exact, p->n, &low, &high);
    printf("%-12s %6.0f %% %7.3f  %.3f..%.3f %8.4f %6.0f %% %7.0f %%", name, 100 * crn_result_share(r, p),
           p->n > 0 ? (double)p->n_exact / p->n : 0, low, high, p->nll, 100 * crn_result_cost(r, p),
           p == &r->own ? 0 : 100 * crn_result_bytes(r, p));
    if (r->by_agreement)
        printf(" %9.3f %8.4f", p->quality, p->kl);
    printf("\n");
}

static int by_cost(const void *a, const void *b)
{
    const struct crn_point *x = *(const struct crn_point *const *)a, *y = *(const struct crn_point *const *)b;
    if (x->setting != y->setting)
        return x->setting < y->setting ? -1 : 1;
    return (x->cost_s > y->cost_s) - (x->cost_s < y->cost_s);
}

/* Frontier points, setting by setting, cheapest first; NULL when memory is out. */
static const struct crn_point **sorted_frontier(const struct crn_result *r, size_t *out_n)
{
    const struct crn_point **list = malloc((r->n_points + 1) * sizeof *list);
    size_t n = 0;
    for (size_t i = 0; i < r->n_points && list != NULL; i++)
        if (r->points[i].on_frontier)
            list[n++] = &r->points[i];
    if (list != NULL)
        qsort(list, n, sizeof *list, by_cost);
    *out_n = n;
    return list;
}

static void print_table(const struct profile *p)
{
    const struct crn_result *r = &p->result;
    size_t n;
    const struct crn_point **list = sorted_frontier(r, &n);
    printf("%s -> %s: %u questions on %u contexts of %.0f tokens; maps fitted on %llu tokens\n\n", r->producer, r->receiver,
           r->own.n, r->n_contexts, r->tokens, (unsigned long long)r->fit_tokens);
    printf("%-12s %8s %7s  %12s %8s %8s %9s%s\n", "RUN", "LAYERS", "EXACT", "95 %", "NLL", "TIME", "KV BYTES",
           r->by_agreement ? "     AGREE       KL" : "");
    print_point(r, &r->own, "own prefill");
    for (size_t i = 0; i < n && list != NULL; i++) {
        char name[32] = "full reuse";
        const struct crn_result_setting *s = &r->settings[list[i]->setting];
        if (i == 0 || list[i]->setting != list[i - 1]->setting)
            printf("keep %g%s\n", s->keep, s->int8 ? ", int8" : "");
        if (crn_result_is_tuned(r, list[i]))
            snprintf(name, sizeof name, "%u-%u tuned", list[i]->first, list[i]->last);
        else if (crn_point_layers(list[i]) > 0)
            snprintf(name, sizeof name, r->n_variants > 2 ? "%u-%u map %u" : "%u-%u", list[i]->first, list[i]->last,
                     list[i]->variant);
        print_point(r, list[i], name);
    }
    free(list);
}

/* ---- plans ---- */

static int copy_file(const char *from, const char *to)
{
    char block[65536];
    FILE *in = fopen(from, "re"), *out = in != NULL ? fopen(to, "we") : NULL;
    size_t n;
    int failed = out == NULL;
    while (!failed && (n = fread(block, 1, sizeof block, in)) > 0)
        failed = fwrite(block, 1, n, out) != n;
    failed |= in == NULL || ferror(in);
    if (in != NULL)
        fclose(in);
    if (out != NULL)
        failed |= fclose(out) != 0;
    return failed ? -EIO : 0;
}

/* What was measured with this run under every setting: which bytes an entry may do without. */
static struct crn_json *settings_of(const struct crn_result *r, const struct crn_point *plan)
{
    struct crn_json *list = crn_json_array();
    for (size_t i = 0; i < r->n_points; i++) {
        const struct crn_point *q = &r->points[i];
        if (q->first != plan->first || q->last != plan->last || q->variant != plan->variant)
            continue;
        struct crn_json *o = json_of(r, q);
        crn_json_add_real(o, "keep", r->settings[q->setting].keep);
        crn_json_add_bool(o, "int8", r->settings[q->setting].int8);
        crn_json_add(list, NULL, o);
    }
    return list;
}

static struct crn_json *plan_of(const struct crn_result *r, const struct crn_point *p, const char *map)
{
    struct crn_json *root = crn_json_object(), *run = crn_json_array(), *measured = crn_json_object();
    crn_json_add_text(root, "producer", r->producer);
    crn_json_add_text(root, "receiver", r->receiver);
    crn_cmd_add_digest(root, "producer_digest", &r->producer_digest);
    crn_cmd_add_digest(root, "receiver_digest", &r->receiver_digest);
    crn_json_add_u64(root, "n_layers", r->n_layers);
    crn_json_add(root, "run", run);
    crn_json_add_u64(run, NULL, p->first);
    crn_json_add_u64(run, NULL, p->last);
    if (map != NULL)
        crn_json_add_text(root, "state_map", map);
    crn_json_add(root, "measured", measured);
    crn_json_add_u64(measured, "questions", p->n);
    crn_json_add_u64(measured, "contexts", r->n_contexts);
    crn_json_add_text(measured, "quality", r->by_agreement ? "agreement" : "exact");
    crn_json_add_real(measured, "own_exact", r->own.quality);
    crn_json_add_real(measured, "exact", p->quality < r->own.quality ? p->quality : r->own.quality);
    crn_json_add_real(measured, "own_nll", r->own.nll);
    crn_json_add_real(measured, "nll", p->nll);
    crn_json_add_real(measured, "time", crn_result_cost(r, p));
    crn_json_add_u64(measured, "fit_tokens", r->fit_tokens);
    crn_json_add(measured, "settings", settings_of(r, p));
    return root;
}

static int store_plan(struct profile *p, const char *path)
{
    struct crn_plan_file *file;
    char why[400];
    uint64_t id;
    int status = crn_plan_file_open(path, p->result.n_layers, &file, why, sizeof why);
    if (status != 0) {
        crn_cmd_say(p->cmd, "%s", why);
        return CRN_EXIT_NO;
    }
    status = cairn_plan_store(p->cmd->client, &file->put, crn_cmd_deadline(p->cmd), &id);
    crn_plan_file_close(file);
    return status == 0 ? 0 : crn_cmd_fail(p->cmd, status);
}

/* Where the map that a point was measured with lies; "": it had none. */
static void map_path(const struct profile *p, const struct crn_point *point, char out[4096])
{
    const char *spec = p->result.maps;
    for (uint32_t i = 0; i < point->variant && *spec != '\0'; i++)
        spec += strcspn(spec, ";") + (spec[strcspn(spec, ";")] == ';');
    if (crn_result_is_tuned(&p->result, point))
        snprintf(out, 4096, "%s/maps/%u-%u.tuned.map.gguf", p->out, point->first, point->last);
    else if (strncmp(spec, "file=", 5) == 0)
        snprintf(out, 4096, "%.*s", (int)strcspn(spec + 5, ",;"), spec + 5);
    else if (strncmp(spec, "plain", 5) == 0)
        out[0] = '\0';
    else
        snprintf(out, 4096, "%s/maps/%u-%u.map.gguf", p->out, point->first, point->variant);
}

/* One plan: OUT or --plans DIR/PRODUCER-RECEIVER-A-B.json and its map beside it. */
static int write_plan(struct profile *p, const struct crn_point *point)
{
    const struct crn_result *r = &p->result;
    const char *dir = p->plans != NULL ? p->plans : p->out;
    char name[200], path[4096], from[4096], to[4096];
    snprintf(name, sizeof name, "%s-%s-%u-%u.map.gguf", r->producer, r->receiver, point->first, point->last);
    map_path(p, point, from);
    snprintf(to, sizeof to, "%s/%s", dir, name);
    snprintf(path, sizeof path, "%s/%s-%s-%u-%u.json", dir, r->producer, r->receiver, point->first, point->last);
    int mapped = point->first > 0 && from[0] != '\0';
    int status = mapped ? copy_file(from, to) : 0;
    if (status != 0) {
        crn_cmd_say(p->cmd, "%s: the map of run %u-%u: %s", from, point->first, point->last, cairn_strerror(status));
        return CRN_EXIT_NO;
    }
    struct crn_json *plan = plan_of(r, point, mapped ? name : NULL);
    FILE *f = status == 0 ? fopen(path, "we") : NULL;
    if (f != NULL) {
        status = crn_json_print(plan, f);
        if (fclose(f) != 0)
            status = -EIO;
    } else if (status == 0) {
        status = -errno;
    }
    crn_json_free(plan);
    if (status != 0) {
        crn_cmd_say(p->cmd, "%s: %s", path, cairn_strerror(status));
        return CRN_EXIT_NO;
    }
    p->n_plans++;
    return p->store ? store_plan(p, path) : 0;
}

static int write_plans(struct profile *p)
{
    const struct crn_result *r = &p->result;
    int code = 0;
    if (r->own.quality <= 0 || (p->plans == NULL && !p->store))
        return 0;
    if (p->plans != NULL && mkdir(p->plans, 0777) != 0 && errno != EEXIST) {
        crn_cmd_say(p->cmd, "--plans %s: %s", p->plans, cairn_strerror(-errno));
        return CRN_EXIT_NO;
    }
    for (size_t i = 0; i < r->n_points && code == 0; i++) {
        const struct crn_point *q = &r->points[i];
        if (q->on_frontier && q->setting == 0 && crn_point_layers(q) > 0 && crn_point_layers(q) < r->n_layers &&
            q->quality >= p->floor * r->own.quality)
            code = write_plan(p, q);
    }
    if (code == 0)
        fprintf(stderr, "cairn profile: %u plans keep %g of the own quality\n", p->n_plans, p->floor);
    return code;
}

static int report(struct profile *p)
{
    char path[4096];
    int code = read_result(p);
    if (code != 0)
        return code;
    snprintf(path, sizeof path, "%s/profile.json", p->out);
    int status = write_document(&p->result, path);
    if (status == 0) {
        snprintf(path, sizeof path, "%s/profile.svg", p->out);
        status = crn_profile_plot(&p->result, path);
    }
    if (status != 0) {
        crn_cmd_say(p->cmd, "%s: %s", path, cairn_strerror(status));
        return CRN_EXIT_NO;
    }
    code = write_plans(p);
    if (code == 0 && p->cmd->json)
        return crn_cmd_print(p->cmd, document(&p->result));
    if (code == 0)
        print_table(p);
    return code;
}

int crn_cmd_profile(struct crn_cmd *cmd, int argc, char **argv)
{
    struct profile p = {.cmd = cmd, .grain = 2, .floor = 0.9};
    int code = parse(&p, argc, argv);
    if (code == 0 && !p.report_only)
        code = measure_fitted(&p);
    int tuned = code == 0 && !p.report_only && p.n_tuned > 0 ? measure_tuned(&p) : 0;
    if (code == 0)
        code = report(&p);
    code = code == 0 ? tuned : code; /* what was measured is reported, whatever became of tuning */
    crn_result_free(&p.result);
    return code;
}
