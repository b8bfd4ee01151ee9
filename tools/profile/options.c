/* Arguments to options; every refusal names the option and what it wants. Nothing is opened here. */
#include "tools/profile/options.h"

#include "ipc/cairn_types.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum option_id {
    OPT_PRODUCER = 256,
    OPT_RECEIVER,
    OPT_PRODUCER_LABEL,
    OPT_RECEIVER_LABEL,
    OPT_REQUESTS,
    OPT_FIT,
    OPT_STATE_CACHE,
    OPT_MAPS,
    OPT_OUT,
    OPT_RUNS,
    OPT_TUNED,
    OPT_KEEP,
    OPT_INT8,
    OPT_SELECTOR,
    OPT_BUDGET,
    OPT_WHOLE,
    OPT_CONTEXTS,
    OPT_ANSWER_TOKENS,
    OPT_SENSITIVITY,
    OPT_CORNERS,
    OPT_KV,
    OPT_THREADS,
    OPT_QUIET,
    OPT_HELP,
};

static const struct {
    const char *name, *argument, *help;
    int id;
} table[] = {
    {"producer", "MODEL[,ADAPTER[=SCALE]]...", "the model whose cache is reused", OPT_PRODUCER},
    {"receiver", "MODEL[,ADAPTER[=SCALE]]...", "the model that reuses it", OPT_RECEIVER},
    {"producer-label", "TEXT", "display name", OPT_PRODUCER_LABEL},
    {"receiver-label", "TEXT", "display name", OPT_RECEIVER_LABEL},
    {"requests", "FILE", "JSON lines {context, question?, answer?} to measure on", OPT_REQUESTS},
    {"fit", "FILE", "JSON lines whose contexts state maps are fitted on (default: every third context of --requests)", OPT_FIT},
    {"maps", "SPEC[;SPEC]...",
     "state maps to compare: plain, file=FILE, or lambda=F,weight=equal|norm,rank=N,tokens=N,half, all "
     "optional (default lambda=1e-3)", OPT_MAPS},
    {"state-cache", "DIR", "keep the states of --fit there, so that other pairs of these models need no prefills", OPT_STATE_CACHE},
    {"out", "DIR", "results and maps; an unfinished profile there is continued", OPT_OUT},
    {"runs", "A-B,...", "runs of layers to measure", OPT_RUNS},
    {"tuned", "A-B,...", "runs to measure with a map tuned on the receiver's answers too, each with a start of its own", OPT_TUNED},
    {"keep", "F,...", "shares of the tokens kept, as int8 when i8 follows: 1,0.4,0.4i8; the first must be 1 (default 1)", OPT_KEEP},
    {"int8", NULL, "each share with int8 payloads too", OPT_INT8},
    {"selector", "NAME", "how kept tokens are chosen, as in cairn-worker --compress (default reread)", OPT_SELECTOR},
    {"budget", "NAME", "how they are divided among layers (default global)", OPT_BUDGET},
    {"whole", "A-B", "layers that keep all tokens, whatever --keep says", OPT_WHOLE},
    {"contexts", "N", "measure on the first N contexts only", OPT_CONTEXTS},
    {"answer-tokens", "N", "longest answer where none is given (default 32)", OPT_ANSWER_TOKENS},
    {"sensitivity", NULL, "also reuse each layer alone", OPT_SENSITIVITY},
    {"corners", NULL, "also cut the receiver's own cache by each share", OPT_CORNERS},
    {"kv", "f32|f16|bf16", "type of K and V (default f16)", OPT_KV},
    {"threads", "N", "threads for computing (default: CPUs)", OPT_THREADS},
    {"quiet", NULL, "no progress", OPT_QUIET},
    {"help", NULL, "print this", OPT_HELP},
};
#define N_OPTIONS (sizeof table / sizeof *table)

static void print_help(void)
{
    printf("usage: cairn-profiler --producer M --receiver M --requests FILE --out DIR --runs A-B,...\n\n");
    for (size_t i = 0; i < N_OPTIONS; i++) {
        char head[64];
        snprintf(head, sizeof head, "--%s %s", table[i].name, table[i].argument != NULL ? table[i].argument : "");
        printf("  %-38s %s\n", head, table[i].help);
    }
}

static int refuse(const char *option, const char *value, const char *want)
{
    fprintf(stderr, "cairn-profiler: --%s %s: %s\n", option, value, want);
    return CAIRN_E_ARG;
}

static int number(const char *option, const char *text, double lo, double hi, double *out)
{
    char *end, want[64];
    double value = strtod(text, &end);
    snprintf(want, sizeof want, "want a number from %g to %g", lo, hi);
    if (end == text || *end != '\0' || !(value >= lo && value <= hi))
        return refuse(option, text, want);
    *out = value;
    return 0;
}

static int whole(const char *option, const char *text, uint32_t lo, uint32_t hi, uint32_t *out)
{
    double value;
    int status = number(option, text, lo, hi, &value);
    if (status == 0)
        *out = (uint32_t)value;
    return status;
}

/* "MODEL[,ADAPTER[=SCALE]]..." */
static int parse_model(const char *option, const char *text, struct crn_profile_model *out)
{
    free(out->path);
    out->n_adapters = 0;
    out->path = strdup(text);
    if (out->path == NULL)
        return -12;
    for (char *next = strchr(out->path, ','); next != NULL;) {
        if (out->n_adapters == CRN_MAX_ADAPTERS)
            return refuse(option, text, "too many adapters");
        *next++ = '\0';
        struct crn_adapter_spec *spec = &out->adapters[out->n_adapters++];
        *spec = (struct crn_adapter_spec){.path = next, .scale = 1.0f};
        next = strchr(next, ',');
        if (next != NULL)
            *next = '\0';
        char *scale = strchr(spec->path, '='), *end;
        if (scale != NULL) {
            *scale++ = '\0';
            spec->scale = strtof(scale, &end);
            if (end == scale || *end != '\0')
                return refuse(option, text, "want MODEL[,ADAPTER[=SCALE]]...");
        }
        if (next != NULL)
            *next = ',';
    }
    return 0;
}

static int parse_runs(const char *option, const char *text, struct crn_profile_run **io_runs, uint32_t *out_n)
{
    *out_n = 0;
    if (*io_runs == NULL)
        *io_runs = malloc(CRN_PROFILE_MAX_RUNS * sizeof **io_runs);
    for (const char *at = text; *io_runs != NULL && *at != '\0';) {
        char *end;
        unsigned long a = strtoul(at, &end, 10), b = 0;
        int good = end != at && *end == '-' && *out_n < CRN_PROFILE_MAX_RUNS;
        if (good) {
            at = end + 1;
            b = strtoul(at, &end, 10);
        }
        if (!good || end == at || (*end != ',' && *end != '\0') || a > b || b >= CAIRN_MAX_LAYERS)
            return refuse(option, text, "want runs of layers as 13-23,15-23");
        (*io_runs)[(*out_n)++] = (struct crn_profile_run){(uint32_t)a, (uint32_t)b};
        at = *end == ',' ? end + 1 : end;
    }
    return *io_runs != NULL ? 0 : -12;
}

const struct crn_profile_run *crn_profile_tuned_at(const struct crn_profile_options *o, uint32_t layer)
{
    for (uint32_t i = 0; i < o->n_tuned; i++)
        if (o->tuned[i].first == layer)
            return &o->tuned[i];
    return NULL;
}

/* The tuned map starts from the first way to make maps. */
static int add_tuned(struct crn_profile_options *o)
{
    struct crn_profile_variant *v = &o->variants[o->n_variants];
    *v = o->variants[0];
    v->tuned = true;
    if (o->n_tuned > 0 && (v->plain || v->file[0] != '\0' || v->rank > 0))
        return refuse("maps", o->maps, "tuning wants a fitted map of full rank first");
    for (uint32_t i = 0; i < o->n_tuned; i++)
        if (o->tuned[i].first == 0 || crn_profile_tuned_at(o, o->tuned[i].first) != &o->tuned[i]) {
            fprintf(stderr, "cairn-profiler: --tuned %u-%u: %s\n", o->tuned[i].first, o->tuned[i].last,
                    o->tuned[i].first == 0 ? "a run from layer 0 has no state to map" : "another run starts there too");
            return CAIRN_E_ARG;
        }
    return 0;
}

static int parse_whole(struct crn_profile_options *o, const char *text)
{
    char *end, *rest;
    unsigned long a = strtoul(text, &end, 10);
    if (end == text || *end != '-')
        return refuse("whole", text, "want layers as 13-23");
    unsigned long b = strtoul(end + 1, &rest, 10);
    if (rest == end + 1 || *rest != '\0' || a > b || b >= CAIRN_MAX_LAYERS)
        return refuse("whole", text, "want layers as 13-23");
    o->rule.whole_first = (uint32_t)a;
    o->rule.whole_last = (uint32_t)b;
    return 0;
}

static int parse_keep(struct crn_profile_options *o, const char *text)
{
    o->n_settings = 0;
    for (const char *at = text; *at != '\0';) {
        char *end;
        float keep = strtof(at, &end);
        int int8 = strncmp(end, "i8", 2) == 0;
        end += int8 ? 2 : 0;
        if (end == at || (*end != ',' && *end != '\0') || !(keep > 0 && keep <= 1) ||
            o->n_settings == CRN_PROFILE_MAX_SETTINGS / 2)
            return refuse("keep", text, "want up to 8 shares above 0, as 1,0.4,0.25i8");
        o->settings[o->n_settings++] = (struct crn_cut_setting){.rule.keep = keep, .int8 = int8};
        at = *end == ',' ? end + 1 : end;
    }
    return o->n_settings > 0 && o->settings[0].rule.keep >= 1 && !o->settings[0].int8 ? 0 : refuse("keep", text, "the first must be 1");
}

static int parse_kv(struct crn_profile_options *o, const char *text)
{
    if (strcmp(text, "f32") == 0)
        o->kv_dtype = CAIRN_F32;
    else if (strcmp(text, "f16") == 0)
        o->kv_dtype = CAIRN_F16;
    else if (strcmp(text, "bf16") == 0)
        o->kv_dtype = CAIRN_BF16;
    else
        return refuse("kv", text, "want f32, f16 or bf16");
    return 0;
}

static int bad_spec(const char *text)
{
    return refuse("maps", text, "want SPEC[;SPEC]..., SPEC: plain, file=FILE or lambda=F,weight=equal|norm,rank=N,tokens=N,half");
}

/* One "name" or "name=value" of n bytes. */
static int parse_item(const char *text, size_t n, struct crn_profile_variant *v)
{
    char item[48], *end = item, *value;
    if (n > 5 && strncmp(text, "file=", 5) == 0)
        return (size_t)snprintf(v->file, sizeof v->file, "%.*s", (int)(n - 5), text + 5) < sizeof v->file ? 0 : CAIRN_E_ARG;
    if (n >= sizeof item)
        return CAIRN_E_ARG;
    memcpy(item, text, n);
    item[n] = '\0';
    if (strcmp(item, "plain") == 0)
        return (v->plain = true) ? 0 : 0;
    if (strcmp(item, "half") == 0)
        return (v->half = true) ? 0 : 0;
    value = strchr(item, '=');
    if (value == NULL)
        return CAIRN_E_ARG;
    *value++ = '\0';
    if (strcmp(item, "weight") == 0) {
        v->weight = strcmp(value, "norm") == 0 ? CRN_FIT_NORM : CRN_FIT_EQUAL;
        return v->weight == CRN_FIT_NORM || strcmp(value, "equal") == 0 ? 0 : CAIRN_E_ARG;
    }
    double number = strtod(value, &end);
    if (end == value || *end != '\0' || !(number >= 0 && number <= 1e9))
        return CAIRN_E_ARG;
    if (strcmp(item, "lambda") == 0)
        v->lambda = number;
    else if (strcmp(item, "rank") == 0 && number < CAIRN_MAX_HIDDEN)
        v->rank = (uint32_t)number;
    else if (strcmp(item, "tokens") == 0)
        v->n_tokens = (uint32_t)number;
    else
        return CAIRN_E_ARG;
    return 0;
}

static int parse_maps(struct crn_profile_options *o, const char *text)
{
    o->n_variants = 0;
    o->maps = text;
    for (const char *at = text; *at != '\0';) {
        if (o->n_variants == CRN_PROFILE_MAX_VARIANTS)
            return bad_spec(text);
        struct crn_profile_variant *v = &o->variants[o->n_variants++];
        *v = (struct crn_profile_variant){.lambda = 1e-3, .weight = CRN_FIT_EQUAL};
        for (;;) {
            size_t n = strcspn(at, ",;");
            if (parse_item(at, n, v) != 0)
                return bad_spec(text);
            at += n;
            if (*at != ',')
                break;
            at++;
        }
        if (*at == ';')
            at++;
    }
    return o->n_variants > 0 ? 0 : bad_spec(text);
}

/* Options that are a whole number. 1: not one of them. */
static int apply_number(struct crn_profile_options *o, int id, const char *text)
{
    switch (id) {
    case OPT_CONTEXTS:
        return whole("contexts", text, 1, 1000000, &o->n_contexts);
    case OPT_ANSWER_TOKENS:
        return whole("answer-tokens", text, 1, 4096, &o->answer_tokens);
    case OPT_THREADS:
        return whole("threads", text, 1, 256, &o->n_threads);
    default:
        return 1;
    }
}

static int apply(struct crn_profile_options *o, int id, const char *text, bool *out_int8)
{
    switch (id) {
    case OPT_PRODUCER:
        return parse_model("producer", text, &o->producer);
    case OPT_RECEIVER:
        return parse_model("receiver", text, &o->receiver);
    case OPT_PRODUCER_LABEL:
        o->producer.label = text;
        return 0;
    case OPT_RECEIVER_LABEL:
        o->receiver.label = text;
        return 0;
    case OPT_REQUESTS:
        o->requests = text;
        return 0;
    case OPT_FIT:
        o->fit = text;
        return 0;
    case OPT_STATE_CACHE:
        o->state_cache = text;
        return 0;
    case OPT_OUT:
        o->out = text;
        return 0;
    case OPT_RUNS:
        return parse_runs("runs", text, &o->runs, &o->n_runs);
    case OPT_TUNED:
        return parse_runs("tuned", text, &o->tuned, &o->n_tuned);
    case OPT_KEEP:
        return parse_keep(o, text);
    case OPT_INT8:
        *out_int8 = true;
        return 0;
    case OPT_SELECTOR:
        o->selector = crn_selector_named(text);
        return o->selector != NULL ? 0 : refuse("selector", text, "there is none of that name");
    case OPT_BUDGET:
        return crn_budget_parse(text, &o->rule.budget) == 0 ? 0 : refuse("budget", text, "there is none of that name");
    case OPT_WHOLE:
        return parse_whole(o, text);
    case OPT_MAPS:
        return parse_maps(o, text);
    case OPT_KV:
        return parse_kv(o, text);
    case OPT_SENSITIVITY:
        return (o->sensitivity = true) ? 0 : 0;
    case OPT_CORNERS:
        return (o->corners = true) ? 0 : 0;
    case OPT_QUIET:
        return (o->quiet = true) ? 0 : 0;
    case OPT_HELP:
        print_help();
        return 1;
    default:
        return CAIRN_E_ARG; /* getopt has said why */
    }
}

static int check(struct crn_profile_options *o, int rest)
{
    const char *wrong = NULL;
    if (rest)
        wrong = "arguments are given as options";
    else if (o->producer.path == NULL || o->receiver.path == NULL)
        wrong = "--producer and --receiver are needed";
    else if (o->requests == NULL || o->out == NULL)
        wrong = "--requests and --out are needed";
    else if (o->n_runs == 0 && o->n_tuned == 0)
        wrong = "--runs or --tuned is needed";
    if (wrong == NULL)
        return 0;
    fprintf(stderr, "cairn-profiler: %s\n", wrong);
    return CAIRN_E_ARG;
}

static void add_int8(struct crn_profile_options *o)
{
    uint32_t n = o->n_settings;
    for (uint32_t i = 0; i < n; i++)
        if (!o->settings[i].int8)
            o->settings[o->n_settings++] = (struct crn_cut_setting){.rule.keep = o->settings[i].rule.keep, .int8 = 1};
}

int crn_profile_options_parse(int argc, char **argv, struct crn_profile_options *out)
{
    struct option list[N_OPTIONS + 1] = {0};
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    bool int8 = false;
    int id, status = 0;
    *out = (struct crn_profile_options){.n_settings = 1,
                                        .settings = {{.rule.keep = 1}},
                                        .selector = crn_selector_named("reread"),
                                        .rule = {.whole_first = 1, .whole_last = 0},
                                        .answer_tokens = 32,
                                        .n_threads = cpus > 0 && cpus <= 256 ? (uint32_t)cpus : 1,
                                        .n_variants = 1,
                                        .variants = {{.lambda = 1e-3, .weight = CRN_FIT_EQUAL}},
                                        .maps = "lambda=1e-3",
                                        .kv_dtype = CAIRN_F16,
                                        .producer.label = "producer",
                                        .receiver.label = "receiver"};
    for (size_t i = 0; i < N_OPTIONS; i++)
        list[i] = (struct option){table[i].name, table[i].argument != NULL ? required_argument : no_argument, NULL, table[i].id};
    while (status == 0 && (id = getopt_long(argc, argv, "", list, NULL)) != -1)
        if ((status = apply_number(out, id, optarg)) == 1)
            status = apply(out, id, optarg, &int8);
    if (status == 0)
        status = check(out, optind < argc);
    if (status == 0 && int8)
        add_int8(out);
    if (status == 0)
        status = add_tuned(out);
    for (uint32_t i = 0; i < out->n_settings; i++) {
        float keep = out->settings[i].rule.keep;
        out->settings[i].rule = out->rule;
        out->settings[i].rule.keep = keep;
    }
    if (status != 0)
        crn_profile_options_free(out);
    return status;
}

void crn_profile_options_free(struct crn_profile_options *o)
{
    free(o->producer.path);
    free(o->receiver.path);
    free(o->runs);
    free(o->tuned);
    o->producer.path = o->receiver.path = NULL;
    o->runs = o->tuned = NULL;
}
