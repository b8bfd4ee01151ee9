/* plan put|get|ls|drop: how receivers reuse producers' entries. A plan is about two exact models, so `put` needs their digests:
 * from the file, from --producer and --receiver (digest or model files), or by the file's labels among the models that the broker
 * has met. A label is looked up only when exactly one model has it: labels are display names. */
#include "tools/cmd.h"
#include "tools/plan_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ADAPTERS_MAX 8

/* ---- digests ---- */

/* "MODEL.gguf[,ADAPTER.gguf[=SCALE]]...": cuts text up. */
static int digest_of_files(char *text, struct cairn_digest *out)
{
    struct cairn_adapter adapters[ADAPTERS_MAX];
    size_t n = 0;
    char *next = strchr(text, ',');
    while (next != NULL) {
        if (n == ADAPTERS_MAX)
            return CAIRN_E_TOO_BIG;
        *next++ = '\0';
        adapters[n] = (struct cairn_adapter){.path = next, .scale = 1.0f};
        next = strchr(next, ',');
        char *scale = strchr(adapters[n].path, '='), *end;
        if (scale != NULL && (next == NULL || scale < next)) {
            *scale++ = '\0';
            adapters[n].scale = strtof(scale, &end);
            if (end == scale || (*end != '\0' && *end != ','))
                return CAIRN_E_ARG;
        }
        n++;
    }
    return cairn_model_digest(text, adapters, n, out);
}

static int digest_of_argument(const struct crn_cmd *cmd, const char *option, const char *argument,
                              struct cairn_digest *out)
{
    if (cairn_digest_parse(argument, out) == 0)
        return 0;
    char *text = strdup(argument);
    int status = text != NULL ? digest_of_files(text, out) : CAIRN_E_ARG;
    free(text);
    if (status == 0)
        return 0;
    crn_cmd_say(cmd, "%s %s: neither a digest nor model files: %s", option, argument, cairn_strerror(status));
    return status == CAIRN_E_ARG ? CRN_EXIT_USAGE : CRN_EXIT_NO;
}

struct search {
    const char *label;
    struct cairn_digest digest;
    uint32_t n;
};

static int match_label(void *ctx, const struct cairn_model_info *m)
{
    struct search *s = ctx;
    if (strcmp(s->label, m->label) == 0 &&
        (s->n == 0 || memcmp(&s->digest, &m->model, sizeof s->digest) != 0)) {
        s->digest = m->model;
        s->n++;
    }
    return 0;
}

static int digest_of_label(struct crn_cmd *cmd, const char *option, const char *label,
                           struct cairn_digest *out)
{
    struct search s = {.label = label};
    int status = cairn_model_each(cmd->client, crn_cmd_deadline(cmd), match_label, &s);
    if (status != 0)
        return crn_cmd_fail(cmd, status);
    if (s.n == 1) {
        *out = s.digest;
        return 0;
    }
    crn_cmd_say(cmd, "%s models are called %s here; pass %s with a digest or MODEL.gguf[,ADAPTER.gguf[=SCALE]]",
                s.n == 0 ? "no" : "several", label, option);
    return CRN_EXIT_NO;
}

static int is_zero(const struct cairn_digest *d)
{
    static const struct cairn_digest zero;
    return memcmp(d, &zero, sizeof zero) == 0;
}

/* ---- put ---- */

struct put_options {
    const char *path, *producer, *receiver;
    uint32_t n_layers;
};

static int parse_put(const struct crn_cmd *cmd, int argc, char **argv, struct put_options *out)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        char *end;
        if (argv[i][0] == '-' && value == NULL)
            return crn_cmd_usage(cmd, "%s: unknown, or without its value", argv[i]);
        if (strcmp(argv[i], "--producer") == 0)
            out->producer = value, i++;
        else if (strcmp(argv[i], "--receiver") == 0)
            out->receiver = value, i++;
        else if (strcmp(argv[i], "--layers") == 0) {
            unsigned long n = strtoul(value, &end, 10);
            if (*end != '\0' || n == 0 || n > CAIRN_MAX_LAYERS)
                return crn_cmd_usage(cmd, "--layers needs a number in 1..%u", CAIRN_MAX_LAYERS);
            out->n_layers = (uint32_t)n;
            i++;
        } else if (argv[i][0] == '-' || out->path != NULL)
            return crn_cmd_usage(cmd, "unknown argument %s", argv[i]);
        else
            out->path = argv[i];
    }
    return out->path != NULL ? 0 : crn_cmd_usage(cmd, "put needs a plan file");
}

static int resolve(struct crn_cmd *cmd, const char *option, const char *argument, const char *label,
                   struct cairn_digest *digest)
{
    if (argument != NULL)
        return digest_of_argument(cmd, option, argument, digest);
    return is_zero(digest) ? digest_of_label(cmd, option, label, digest) : 0;
}

static int put_file(struct crn_cmd *cmd, const struct put_options *o, struct crn_plan_file *file)
{
    uint64_t plan;
    int code = resolve(cmd, "--producer", o->producer, file->producer, &file->put.plan.producer);
    if (code == 0)
        code = resolve(cmd, "--receiver", o->receiver, file->receiver, &file->put.plan.receiver);
    if (code != 0)
        return code;
    int status = cairn_plan_store(cmd->client, &file->put, crn_cmd_deadline(cmd), &plan);
    if (status != 0)
        return crn_cmd_fail(cmd, status);
    if (cmd->json) {
        struct crn_json *root = crn_cmd_json();
        crn_cmd_add_id(root, "plan", plan);
        crn_cmd_add_digest(root, "producer", &file->put.plan.producer);
        crn_cmd_add_digest(root, "receiver", &file->put.plan.receiver);
        return crn_cmd_print(cmd, root);
    }
    printf("stored plan %" PRIx64 ": %s -> %s\n", plan, file->producer, file->receiver);
    return CRN_EXIT_OK;
}

static int plan_put(struct crn_cmd *cmd, int argc, char **argv)
{
    struct put_options options = {0};
    struct crn_plan_file *file;
    char why[400] = "";
    int code = parse_put(cmd, argc, argv, &options);
    if (code != 0)
        return code;
    int status = crn_plan_file_open(options.path, options.n_layers, &file, why, sizeof why);
    if (status != 0) {
        crn_cmd_say(cmd, "%s", why);
        return CRN_EXIT_NO;
    }
    code = put_file(cmd, &options, file);
    crn_plan_file_close(file);
    return code;
}

/* ---- ls, get ---- */

struct listing {
    struct crn_cmd *cmd;
    struct crn_json *array; /* NULL: text */
    uint64_t only;          /* 0: all */
    size_t n;
};

static void add_plan(struct crn_json *array, const struct cairn_plan *p, const struct cairn_budget *budgets,
                     const char *info)
{
    struct crn_json *object = crn_json_object(), *run = crn_json_array(), *list = crn_json_array(), *measured = crn_json_array();
    crn_json_add(array, NULL, object);
    crn_cmd_add_id(object, "plan", p->id);
    crn_cmd_add_digest(object, "producer", &p->producer);
    crn_cmd_add_digest(object, "receiver", &p->receiver);
    crn_json_add(object, "run", run);
    if (p->first <= p->last) {
        crn_json_add_u64(run, NULL, p->first);
        crn_json_add_u64(run, NULL, p->last);
    }
    crn_json_add_bool(object, "state_map", p->has_map != 0);
    crn_json_add_u64(object, "map_rank", p->map_rank);
    crn_json_add_real(object, "quality", (double)p->quality);
    crn_json_add_real(object, "own_exact", (double)p->own_exact);
    crn_json_add_real(object, "exact", (double)p->exact);
    crn_json_add_u64(object, "questions", p->questions);
    crn_json_add_real(object, "cost", (double)p->cost);
    crn_json_add(object, "budgets", list);
    for (uint32_t i = 0; i < p->n_budgets; i++) {
        struct crn_json *budget = crn_json_object(), *layers = crn_json_array();
        crn_json_add(list, NULL, budget);
        crn_json_add(budget, "layers", layers);
        crn_json_add_u64(layers, NULL, budgets[i].first);
        crn_json_add_u64(layers, NULL, budgets[i].last);
        crn_json_add_real(budget, "keep", (double)budgets[i].keep);
    }
    crn_json_add(object, "measured", measured);
    for (uint32_t i = 0; i < p->n_measured; i++) {
        struct crn_json *m = crn_json_object();
        crn_json_add(measured, NULL, m);
        crn_json_add_real(m, "keep", (double)p->measured[i].keep);
        crn_json_add_real(m, "kept", (double)p->measured[i].kept);
        crn_json_add_bool(m, "int8", p->measured[i].int8 != 0);
        crn_json_add_real(m, "quality", (double)p->measured[i].quality);
    }
    if (info != NULL)
        crn_json_add_parsed(object, "info", info);
}

static void print_plan(struct listing *l, const struct cairn_plan *p)
{
    char producer[33], receiver[33], run[24] = "none";
    cairn_digest_text(&p->producer, producer);
    cairn_digest_text(&p->receiver, receiver);
    if (p->first <= p->last)
        snprintf(run, sizeof run, "%u-%u", p->first, p->last);
    if (l->n == 0)
        printf("%-8s %-12s %-12s %-8s %-4s %7s %6s %6s %9s %7s\n", "PLAN", "PRODUCER", "RECEIVER", "RUN", "MAP",
               "QUALITY", "EXACT", "OWN", "QUESTIONS", "COST");
    printf("%-8" PRIx64 " %-12.12s %-12.12s %-8s %-4s %7.3f %6.3f %6.3f %9u %5.0f %%\n", p->id, producer, receiver,
           run, p->has_map ? "yes" : "no", (double)p->quality, (double)p->exact, (double)p->own_exact,
           p->questions, (double)p->cost * 100);
}

static int list_plan(void *ctx, const struct cairn_plan *p, const struct cairn_budget *budgets, const char *info)
{
    struct listing *l = ctx;
    if (l->only != 0 && l->only != p->id)
        return 0;
    if (l->array != NULL)
        add_plan(l->array, p, budgets, info);
    else
        print_plan(l, p);
    if (l->array == NULL && l->only != 0) {
        for (uint32_t i = 0; i < p->n_budgets; i++)
            printf("budget    layers %u-%u keep %.3f\n", budgets[i].first, budgets[i].last,
                   (double)budgets[i].keep);
        for (uint32_t i = 0; i < p->n_measured; i++)
            printf("measured  keep %.3f%s: %.0f %% of the tokens of reused layers, quality %.3f\n", (double)p->measured[i].keep,
                   p->measured[i].int8 ? ", int8" : "", (double)p->measured[i].kept * 100, (double)p->measured[i].quality);
        if (info != NULL)
            printf("info      %s\n", info);
    }
    l->n++;
    return 0;
}

static int plan_list(struct crn_cmd *cmd, uint64_t only)
{
    struct crn_json *root = cmd->json ? crn_cmd_json() : NULL;
    struct listing l = {.cmd = cmd, .array = cmd->json ? crn_json_array() : NULL, .only = only};
    if (cmd->json)
        crn_json_add(root, "plans", l.array);
    int status = cairn_plan_each(cmd->client, NULL, NULL, crn_cmd_deadline(cmd), list_plan, &l);
    if (status != 0) {
        crn_json_free(root);
        return crn_cmd_fail(cmd, status);
    }
    if (only != 0 && l.n == 0) {
        crn_json_free(root);
        crn_cmd_say(cmd, "no plan %" PRIx64, only);
        return CRN_EXIT_NO;
    }
    return cmd->json ? crn_cmd_print(cmd, root) : CRN_EXIT_OK;
}

static int plan_drop(struct crn_cmd *cmd, uint64_t plan)
{
    int status = cairn_plan_drop(cmd->client, plan, crn_cmd_deadline(cmd));
    if (status != 0)
        return crn_cmd_fail(cmd, status);
    if (cmd->json) {
        struct crn_json *root = crn_cmd_json();
        crn_cmd_add_id(root, "plan", plan);
        crn_json_add_text(root, "done", "dropped");
        return crn_cmd_print(cmd, root);
    }
    printf("dropped plan %" PRIx64 "\n", plan);
    return CRN_EXIT_OK;
}

int crn_cmd_plan(struct crn_cmd *cmd, int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    uint64_t plan = 0;
    if (strcmp(verb, "put") == 0)
        return plan_put(cmd, argc - 1, argv + 1);
    bool get = strcmp(verb, "get") == 0, drop = strcmp(verb, "drop") == 0;
    if (!get && !drop && strcmp(verb, "ls") != 0)
        return crn_cmd_usage(cmd, "say put, get, ls or drop");
    int code = crn_cmd_no_more(cmd, argc - 1, argv + 1, get || drop ? 1 : 0);
    if (code != 0)
        return code;
    if ((get || drop) && (argc < 3 || crn_cmd_parse_id(argv[2], &plan) != 0))
        return crn_cmd_usage(cmd, "%s needs a plan id", verb);
    return drop ? plan_drop(cmd, plan) : plan_list(cmd, plan);
}
