/* Command line of cairn-worker. One table: long option, argument name, help. Every value is checked
 * here, so that nothing further down meets a number out of range; the first wrong one gives one
 * line and exit code 2. */
#include "tools/worker/options.h"

#include "tools/worker/device.h"

#include "ipc/log.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum option_id {
    OPT_MODEL = 256,
    OPT_ADAPTER,
    OPT_LABEL,
    OPT_CONTEXT,
    OPT_ASK,
    OPT_REQUESTS,
    OPT_SOCKET,
    OPT_DEVICE,
    OPT_BACKEND,
    OPT_WEIGHTS,
    OPT_REUSE,
    OPT_NO_PUBLISH,
    OPT_PYRAMID,
    OPT_GEN_PYRAMID,
    OPT_STATES,
    OPT_COMPRESS,
    OPT_KV,
    OPT_STORE,
    OPT_PRIVATE_INT8,
    OPT_HOLD,
    OPT_QUALITY,
    OPT_DEADLINE,
    OPT_THREADS,
    OPT_PIN,
    OPT_BATCH,
    OPT_MAX_TOKENS,
    OPT_TEMPERATURE,
    OPT_TOP_P,
    OPT_SEED,
    OPT_SCORE,
    OPT_TIMEOUT,
    OPT_JSON,
    OPT_DIGEST,
    OPT_LOG_LEVEL,
    OPT_VERSION,
    OPT_HELP,
};

static const struct {
    const char *name, *argument, *help;
    int id;
} table[] = {
    {"model", "FILE", "GGUF model of the Llama family", OPT_MODEL},
    {"adapter", "FILE[=SCALE]", "GGUF LoRA adapter, merged at load; may be repeated", OPT_ADAPTER},
    {"label", "TEXT", "display name of the model", OPT_LABEL},
    {"context", "FILE", "text to read and publish", OPT_CONTEXT},
    {"ask", "TEXT", "question about the context; may be repeated", OPT_ASK},
    {"requests", "FILE",
     "JSON lines {context | context_file, question, answer?}; -: standard input, line by line",
     OPT_REQUESTS},
    {"socket", "PATH",
     "the broker's address (default: $CAIRN_SOCKET, else the user's runtime directory)",
     OPT_SOCKET},
    {"reuse", "auto|never|full|A-B[+map]", "what to do with cached contexts (default auto)",
     OPT_REUSE},
    {"quality", "Q",
     "use only plans that keep this share of this model's own quality, and the cheapest of them "
     "while requests wait",
     OPT_QUALITY},
    {"deadline-ms", "MS", "time to the first token: use the best plan that is in time",
     OPT_DEADLINE},
    {"hold", NULL, "keep all rows of a run's first layer throughout the run", OPT_HOLD},
    {"no-publish", NULL, "do not publish what this worker prefills", OPT_NO_PUBLISH},
    {"pyramid", "off|prefill:d=0.9,rho=0.2|plan|keep=F", "tokens kept (default off)", OPT_PYRAMID},
    {"gen-pyramid", "on|rho=F,g=F,c=F,w=F,X=N",
     "drop tokens of the answer while generating (default off)", OPT_GEN_PYRAMID},
    {"states", "L,L,...",
     "layers whose entering state to publish besides those that plans start from", OPT_STATES},
    {"compress", "keep=F|bytes=F|quality=F[,selector=S][,budget=B][,i8]",
     "after the commit, keep the share F of the tokens, chosen by a selector (default reread)",
     OPT_COMPRESS},
    {"kv", "f32|f16|bf16", "type of this worker's own KV (default f16)", OPT_KV},
    {"store", "f32|f16|bf16|i8", "type of published payloads (default: that of --kv)", OPT_STORE},
    {"private-int8", NULL, "hold finished private KV as int8", OPT_PRIVATE_INT8},
    {"threads", "N", "threads for computing (default: CPUs this process may use)", OPT_THREADS},
    {"pin", NULL, "bind each thread to a CPU", OPT_PIN},
    {"batch", "N", "answer up to N questions about one context together (default 1)", OPT_BATCH},
    {"max-tokens", "N", "longest answer (default 64)", OPT_MAX_TOKENS},
    {"temperature", "T", "0: always the most likely token (default)", OPT_TEMPERATURE},
    {"top-p", "P", "sample from the most likely tokens of this total probability (default 1)",
     OPT_TOP_P},
    {"seed", "N", "of sampling (default 1)", OPT_SEED},
    {"score", NULL, "score the given answers instead of generating: exact and nll", OPT_SCORE},
    {"timeout", "MS", "longest wait for the broker per call (default 30000)", OPT_TIMEOUT},
    {"device", "host|cuda:N|auto", "what to compute on (default host); the broker's payloads must be there", OPT_DEVICE},
    {"weights", "auto|f32|bf16", "type of the weights on a device (default auto: bf16 when the file has 16 bits each)", OPT_WEIGHTS},
    {"backend", "cpu|ref", "kernels of the host (default cpu)", OPT_BACKEND},
    {"json", NULL, "one JSON line per answer", OPT_JSON},
    {"digest", NULL, "print the model's digest and exit", OPT_DIGEST},
    {"log-level", "LEVEL", "error, warn, info or debug (default warn)", OPT_LOG_LEVEL},
    {"version", NULL, "print the version", OPT_VERSION},
    {"help", NULL, "print this", OPT_HELP},
};
#define N_OPTIONS (sizeof table / sizeof *table)

static void print_help(void)
{
    printf("usage: cairn-worker --model FILE [--adapter FILE[=SCALE]] (--context FILE [--ask "
           "TEXT]... | --requests FILE)\n\n");
    for (size_t i = 0; i < N_OPTIONS; i++) {
        char head[64];
        snprintf(head, sizeof head, "--%s %s", table[i].name,
                 table[i].argument != NULL ? table[i].argument : "");
        printf("  %-46s %s\n", head, table[i].help);
    }
}

static int refuse(const char *option, const char *value, const char *want)
{
    fprintf(stderr, "cairn-worker: --%s %s: %s\n", option, value, want);
    return CAIRN_E_ARG;
}

static int number(const char *option, const char *text, double lo, double hi, double *out)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= lo && value <= hi)) {
        fprintf(stderr, "cairn-worker: --%s %s: want a number from %g to %g\n", option, text, lo,
                hi);
        return CAIRN_E_ARG;
    }
    *out = value;
    return 0;
}

static int count(const char *option, const char *text, uint32_t lo, uint32_t hi, uint32_t *out)
{
    double value;
    int status = number(option, text, lo, hi, &value);
    if (status != 0 || value != floor(value))
        return status != 0 ? status : refuse(option, text, "want a whole number");
    *out = (uint32_t)value;
    return 0;
}

static int dtype(const char *option, const char *text, int with_int8, uint32_t *out)
{
    static const struct {
        const char *name;
        uint32_t dtype;
    } names[] = {
        {"f32", CAIRN_F32},
        {"f16", CAIRN_F16},
        {"bf16", CAIRN_BF16},
        {"i8", CAIRN_I8},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names - (with_int8 ? 0 : 1); i++) {
        if (strcmp(text, names[i].name) == 0) {
            *out = names[i].dtype;
            return 0;
        }
    }
    return refuse(option, text, with_int8 ? "want f32, f16, bf16 or i8" : "want f32, f16 or bf16");
}

static int parse_weights(struct crn_worker_options *o, const char *text)
{
    static const char *const names[] = {
        [CRN_WEIGHTS_AUTO] = "auto", [CRN_WEIGHTS_F32] = "f32", [CRN_WEIGHTS_BF16] = "bf16"};
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(text, names[i]) == 0) {
            o->weights = i;
            return 0;
        }
    }
    return refuse("weights", text, "want auto, f32 or bf16");
}

static int add_adapter(struct crn_worker_options *o, const char *text)
{
    double scale = 1.0;
    if (o->n_adapters == CRN_MAX_ADAPTERS)
        return refuse("adapter", text, "too many adapters");
    char *path = strdup(text);
    if (path == NULL)
        return refuse("adapter", text, "no memory");
    o->adapter_paths[o->n_adapters] = path;
    o->adapters[o->n_adapters].path = path;
    char *eq = strrchr(path, '=');
    if (eq != NULL && access(path, F_OK) != 0) {
        *eq = '\0';
        if (number("adapter", eq + 1, -100, 100, &scale) != 0) {
            o->n_adapters++;
            return CAIRN_E_ARG;
        }
    }
    o->adapters[o->n_adapters++].scale = (float)scale;
    return 0;
}

static int parse_reuse(struct crn_worker_options *o, const char *text)
{
    struct crn_reuse_choice *r = &o->reuse;
    unsigned first, last;
    int used = 0;
    if (strcmp(text, "auto") == 0) {
        r->mode = CRN_REUSE_AUTO;
    } else if (strcmp(text, "never") == 0) {
        r->mode = CRN_REUSE_NEVER;
    } else if (strcmp(text, "full") == 0) {
        r->mode = CRN_REUSE_FULL;
    } else if (sscanf(text, "%3u-%3u%n", &first, &last, &used) == 2 && used > 0 && first <= last &&
               last < CAIRN_MAX_LAYERS &&
               (text[used] == '\0' || strcmp(text + used, "+map") == 0)) {
        r->mode = CRN_REUSE_RUN;
        r->first = first;
        r->last = last;
        r->with_map = text[used] != '\0';
    } else {
        return refuse("reuse", text,
                      "want auto, never, full or a run of layers as 15-23 or 15-23+map");
    }
    return 0;
}

static int parse_pyramid(struct crn_worker_options *o, const char *text)
{
    double keep;
    o->rule.on = 0;
    o->publish.sets = CRN_SETS_WHOLE;
    if (strcmp(text, "off") == 0)
        return 0;
    if (strcmp(text, "plan") == 0) {
        o->publish.sets = CRN_SETS_PLAN;
        return 0;
    }
    if (strncmp(text, "keep=", 5) == 0) {
        o->publish.sets = CRN_SETS_KEEP;
        int status = number("pyramid", text + 5, 0.01, 1, &keep);
        o->publish.keep = (float)keep;
        return status;
    }
    const char *rule = strncmp(text, "prefill", 7) != 0 ? NULL
                       : text[7] == ':'                 ? text + 8
                       : text[7] == '\0'                ? ""
                                                        : NULL;
    if (rule == NULL || crn_pyramid_parse(rule, &o->rule) != 0)
        return refuse(
            "pyramid", text,
            "want off, plan, keep=F or prefill:d=0.9,rho=0.2,m=64,I=1,sink=4,w=1.2,warm=0");
    crn_pyramid_text(&o->rule, o->settings);
    return 0;
}

static int parse_gen(struct crn_worker_options *o, const char *text)
{
    if (crn_gen_parse(text, &o->gen) == 0)
        return 0;
    return refuse("gen-pyramid", text, "want on or rho=0.2,g=0.1,c=0.9,w=1.2,X=16");
}

static int parse_states(struct crn_worker_options *o, const char *text)
{
    uint32_t n = 0;
    for (const char *at = text; *at != '\0';) {
        char *end;
        unsigned long layer = strtoul(at, &end, 10);
        if (end == at || layer >= CAIRN_MAX_LAYERS || n == CAIRN_MAX_STATES ||
            (*end != '\0' && *end != ','))
            return refuse("states", text, "want up to 16 layer numbers with commas between");
        o->states[n++] = (uint16_t)layer;
        at = *end == ',' ? end + 1 : end;
    }
    o->publish.n_states = n;
    return 0;
}

/* One number of several in an option; whoever reads the whole says what is wrong. */
static int whole_number(const char *text, unsigned long lo, unsigned long hi, uint32_t *out)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (end == text || *end != '\0' || text[0] == '-' || value < lo || value > hi)
        return CAIRN_E_ARG;
    *out = (uint32_t)value;
    return 0;
}

static int share(const char *text, float *out)
{
    char *end;
    double value = strtod(text, &end);
    *out = (float)value;
    return end != text && *end == '\0' && value >= 0.01 && value <= 1 ? 0 : CAIRN_E_ARG;
}

static int parse_compress_item(struct crn_compress *c, const char *name, const char *value)
{
    unsigned first, last;
    int used = 0;
    if (strcmp(name, "i8") == 0 && value == NULL) {
        c->dtype = CAIRN_I8;
        return 0;
    }
    if (value == NULL)
        return CAIRN_E_ARG;
    if (strcmp(name, "budget") == 0)
        return crn_budget_parse(value, &c->rule.budget);
    if (strcmp(name, "chunk") == 0)
        return whole_number(value, 16, CAIRN_MAX_TOKENS, &c->chunk);
    if (strcmp(name, "stride") == 0)
        return whole_number(value, 1, 64, &c->stride);
    if (strcmp(name, "heads") == 0)
        return whole_number(value, 1, 64, &c->heads);
    if (strcmp(name, "selector") == 0) {
        c->selector = crn_selector_named(value);
        return c->selector != NULL ? 0 : CAIRN_E_ARG;
    }
    if (strcmp(name, "keep") == 0)
        return share(value, &c->rule.keep);
    if (strcmp(name, "bytes") == 0)
        return share(value, &c->bytes);
    if (strcmp(name, "quality") == 0)
        return share(value, &c->quality);
    if (strcmp(name, "whole") != 0 || sscanf(value, "%3u-%3u%n", &first, &last, &used) != 2 ||
        value[used] != '\0' || first > last || last >= CAIRN_MAX_LAYERS)
        return CAIRN_E_ARG;
    c->rule.whole_first = first;
    c->rule.whole_last = last;
    return 0;
}

static int parse_compress(struct crn_worker_options *o, const char *text)
{
    char copy[256], *rest = copy, *item;
    int status = strlen(text) < sizeof copy ? 0 : CAIRN_E_ARG;
    o->compress = (struct crn_compress){.selector = crn_selector_named("reread"),
                                        .rule = {.whole_first = 1, .whole_last = 0}};
    if (status == 0)
        memcpy(copy, text, strlen(text) + 1);
    while (status == 0 && (item = strsep(&rest, ",")) != NULL) {
        char *value = strchr(item, '=');
        if (value != NULL)
            *value++ = '\0';
        status = parse_compress_item(&o->compress, item, value);
    }
    const struct crn_compress *c = &o->compress;
    int targets = (c->rule.keep > 0) + (c->bytes > 0) + (c->quality > 0), whole = c->rule.whole_first <= c->rule.whole_last;
    int as_measured = strcmp(c->selector != NULL ? c->selector->name : "", "reread") == 0 && c->rule.budget == CRN_BUDGET_GLOBAL &&
                      c->chunk == 0 && c->stride == 0 && c->heads == 0 && !whole;
    if (status == 0 && targets == 1 && !(c->bytes > 0 && whole) && (c->quality <= 0 || as_measured))
        return 0;
    fprintf(stderr,
            "cairn-worker: --compress %s: want keep=F, bytes=F or quality=F[,selector=NAME][,budget=NAME]"
            "[,whole=A-B][,chunk=N][,stride=N][,heads=N][,i8] (quality: nothing but i8; bytes: no whole); selectors:",
            text);
    for (size_t i = 0; i < crn_n_selectors; i++)
        fprintf(stderr, " %s", crn_selectors[i].name);
    fprintf(stderr, "; budgets: global uniform linear cosine delayed\n");
    return CAIRN_E_ARG;
}

static int add_ask(struct crn_worker_options *o, const char *text)
{
    if (o->n_asks == CRN_MAX_ASKS)
        return refuse("ask", text, "too many questions; use --requests");
    o->asks[o->n_asks++] = text;
    return 0;
}

static int parse_float(const char *option, const char *text, double lo, double hi, float *out)
{
    double value;
    int status = number(option, text, lo, hi, &value);
    if (status == 0)
        *out = (float)value;
    return status;
}

static int parse_seed(struct crn_worker_options *o, const char *text)
{
    char *end;
    o->decode.sampler.state = strtoull(text, &end, 10);
    return end != text && *end == '\0' ? 0 : refuse("seed", text, "want a whole number");
}

static int parse_log_level(const char *text)
{
    enum crn_log_level level;
    if (crn_log_level_parse(text, &level) != 0)
        return refuse("log-level", text, "want error, warn, info or debug");
    crn_log_setup("cairn-worker", level);
    return 0;
}

static int parse_device(struct crn_worker_options *o, const char *text)
{
    int ordinal;
    o->device = text;
    return crn_worker_device_parse(text, &ordinal) == 0 ? 0 : refuse("device", text, "want host, auto or cuda:N");
}

static int apply_flag(struct crn_worker_options *o, int id)
{
    switch (id) {
    case OPT_HOLD:
        o->reuse.hold = 1;
        return 0;
    case OPT_NO_PUBLISH:
        o->publish.on = 0;
        return 0;
    case OPT_PRIVATE_INT8:
        o->private_int8 = true;
        return 0;
    case OPT_PIN:
        o->pin = true;
        return 0;
    case OPT_SCORE:
        o->score = true;
        return 0;
    case OPT_JSON:
        o->json = true;
        return 0;
    case OPT_DIGEST:
        o->digest_only = true;
        return 0;
    case OPT_VERSION:
        printf("cairn-worker %s\n", CAIRN_VERSION);
        return 1;
    case OPT_HELP:
        print_help();
        return 1;
    default:
        return CAIRN_E_ARG; /* getopt has said why */
    }
}

/* Options that are texts as they are; NULL: another one. */
static const char **text_of(struct crn_worker_options *o, int id)
{
    switch (id) {
    case OPT_MODEL:
        return &o->model;
    case OPT_LABEL:
        return &o->label;
    case OPT_CONTEXT:
        return &o->context_file;
    case OPT_REQUESTS:
        return &o->requests_file;
    case OPT_SOCKET:
        return &o->socket;
    case OPT_BACKEND:
        return &o->backend;
    default:
        return NULL;
    }
}

static int apply(struct crn_worker_options *o, int id, const char *arg)
{
    const char **text = text_of(o, id);
    if (text != NULL) {
        *text = arg;
        return 0;
    }
    switch (id) {
    case OPT_ADAPTER:
        return add_adapter(o, arg);
    case OPT_ASK:
        return add_ask(o, arg);
    case OPT_DEVICE:
        return parse_device(o, arg);
    case OPT_WEIGHTS:
        return parse_weights(o, arg);
    case OPT_REUSE:
        return parse_reuse(o, arg);
    case OPT_QUALITY:
        return parse_float("quality", arg, 0, 1, &o->reuse.min_quality);
    case OPT_DEADLINE:
        return count("deadline-ms", arg, 1, 3600000, &o->reuse.deadline_ms);
    case OPT_PYRAMID:
        return parse_pyramid(o, arg);
    case OPT_GEN_PYRAMID:
        return parse_gen(o, arg);
    case OPT_STATES:
        return parse_states(o, arg);
    case OPT_COMPRESS:
        return parse_compress(o, arg);
    case OPT_KV:
        return dtype("kv", arg, 0, &o->kv_dtype);
    case OPT_STORE:
        return dtype("store", arg, 1, &o->publish.dtype);
    case OPT_THREADS:
        return count("threads", arg, 1, 256, &o->n_threads);
    case OPT_BATCH:
        return count("batch", arg, 1, 256, &o->batch);
    case OPT_MAX_TOKENS:
        return count("max-tokens", arg, 1, 65536, &o->decode.max_tokens);
    case OPT_TEMPERATURE:
        return parse_float("temperature", arg, 0, 100, &o->decode.sampler.temperature);
    case OPT_TOP_P:
        return parse_float("top-p", arg, 0, 1, &o->decode.sampler.top_p);
    case OPT_SEED:
        return parse_seed(o, arg);
    case OPT_TIMEOUT:
        return count("timeout", arg, 1, 3600000, &o->reuse.timeout_ms);
    case OPT_LOG_LEVEL:
        return parse_log_level(arg);
    default:
        return apply_flag(o, id);
    }
}

/* What only makes sense, or does not, together. */
static int check_whole(struct crn_worker_options *o)
{
    const char *wrong = NULL;
    if (o->model == NULL)
        wrong = "--model FILE is needed";
    else if (o->digest_only)
        return 0;
    else if ((o->context_file == NULL) == (o->requests_file == NULL))
        wrong = "give either --context FILE or --requests FILE";
    else if (o->n_asks > 0 && o->context_file == NULL)
        wrong = "--ask needs --context FILE";
    else if (o->score && o->requests_file == NULL)
        wrong = "--score needs --requests FILE with answers";
    if (wrong != NULL) {
        fprintf(stderr, "cairn-worker: %s; see --help\n", wrong);
        return CAIRN_E_ARG;
    }
    return 0;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static void fill_in(struct crn_worker_options *o)
{
    if (o->publish.dtype == 0)
        o->publish.dtype = o->kv_dtype;
    o->publish.states = o->states;
    o->publish.settings = o->rule.on ? o->settings : NULL;
    o->reuse.settings = o->publish.settings;
    if (o->label == NULL)
        o->label = base_name(o->n_adapters > 0 ? o->adapters[o->n_adapters - 1].path : o->model);
}

int crn_worker_options_parse(int argc, char **argv, struct crn_worker_options *out)
{
    struct option longs[N_OPTIONS + 1] = {{0}};
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    for (size_t i = 0; i < N_OPTIONS; i++)
        longs[i] = (struct option){table[i].name, table[i].argument != NULL, NULL, table[i].id};
    *out = (struct crn_worker_options){
        .device = "host",
        .backend = "cpu",
        .kv_dtype = CAIRN_F16,
        .batch = 1,
        .n_threads = cpus > 0 && cpus <= 256 ? (uint32_t)cpus : 1,
        .reuse = {.mode = CRN_REUSE_AUTO, .timeout_ms = 30000},
        .publish = {.on = 1},
        .decode = {.sampler = {0, 1.0f, 1}, .max_tokens = 64},
    };
    int id, status = 0;
    optind = 1;
    while (status == 0 && (id = getopt_long(argc, argv, "", longs, NULL)) != -1)
        status = apply(out, id, optarg);
    if (status == 0 && optind < argc)
        status = refuse("", argv[optind], "unexpected argument");
    if (status == 0)
        status = check_whole(out);
    if (status == 0)
        fill_in(out);
    else
        crn_worker_options_free(out);
    return status;
}

void crn_worker_options_free(struct crn_worker_options *o)
{
    for (size_t i = 0; i < CRN_MAX_ADAPTERS; i++)
        free(o->adapter_paths[i]);
    memset(o->adapter_paths, 0, sizeof o->adapter_paths);
}
