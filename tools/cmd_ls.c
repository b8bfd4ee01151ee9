/* ls, show: what is in the cache. show draws the pyramid of one entry: per layer the share of tokens kept, averaged over heads. */
#include "tools/cmd.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define BAR_COLUMNS 40u

/* ---- ls ---- */

struct listing {
    struct crn_json *array; /* NULL: text */
    size_t n;
};

static int list_entry(void *ctx, const struct cairn_entry_info *e)
{
    struct listing *l = ctx;
    char bytes[32], age[32], model[64];
    if (l->array != NULL) {
        struct crn_json *object = crn_json_object();
        crn_json_add(l->array, NULL, object);
        crn_cmd_add_entry(object, e);
        return 0;
    }
    if (l->n++ == 0)
        printf("%-16s %-16s %15s %10s %-6s %-7s %-5s %6s %8s %s\n", "ENTRY", "MODEL", "TOKENS", "BYTES",
               "TIER", "PYRAMID", "DTYPE", "LEASES", "IDLE", "FLAGS");
    char span[32];
    snprintf(span, sizeof span, "%u..%u", e->start, e->start + e->n_tokens - 1);
    printf("%-16" PRIx64 " %-16.16s %15s %10s %-6s %-7s %-5s %6u %8s %s\n", e->entry.v,
           crn_cmd_model(e->label, &e->producer, model), span, crn_cmd_bytes(e->bytes, bytes),
           crn_cmd_tier(e->tier), crn_cmd_pyramid(e->pyramid), crn_cmd_dtype(e->dtype), e->leases,
           crn_cmd_age(e->idle_ns, age), e->pinned ? "pinned" : "");
    return 0;
}

static int list_model(void *ctx, const struct cairn_model_info *m)
{
    struct listing *l = ctx;
    char model[33], family[33];
    if (l->array != NULL) {
        struct crn_json *object = crn_json_object();
        crn_json_add(l->array, NULL, object);
        crn_json_add_text(object, "label", m->label);
        crn_cmd_add_digest(object, "model", &m->model);
        crn_cmd_add_digest(object, "family", &m->family);
        return 0;
    }
    if (l->n++ == 0)
        printf("%-32s %-32s %s\n", "MODEL", "FAMILY", "LABEL");
    cairn_digest_text(&m->model, model);
    cairn_digest_text(&m->family, family);
    printf("%s %s %s\n", model, family, m->label);
    return 0;
}

int crn_cmd_ls(struct crn_cmd *cmd, int argc, char **argv)
{
    bool models = argc > 1 && strcmp(argv[1], "--models") == 0;
    int code = crn_cmd_no_more(cmd, models ? argc - 1 : argc, models ? argv + 1 : argv, 0);
    if (code != 0)
        return code;
    struct crn_json *root = cmd->json ? crn_cmd_json() : NULL;
    struct listing list = {.array = cmd->json ? crn_json_array() : NULL};
    if (cmd->json)
        crn_json_add(root, models ? "models" : "entries", list.array);
    uint64_t deadline_ns = crn_cmd_deadline(cmd);
    int status = models ? cairn_model_each(cmd->client, deadline_ns, list_model, &list)
                        : cairn_entry_each(cmd->client, deadline_ns, list_entry, &list);
    if (status != 0) {
        crn_json_free(root);
        return crn_cmd_fail(cmd, status);
    }
    return cmd->json ? crn_cmd_print(cmd, root) : CRN_EXIT_OK;
}

/* ---- show ---- */

struct shown {
    struct cairn_payload_info kv[CAIRN_MAX_LAYERS];
    struct cairn_payload_info state[CAIRN_MAX_LAYERS]; /* by the layer it enters; kind 0: none */
};

static int collect(void *ctx, const struct cairn_payload_info *p)
{
    struct shown *shown = ctx;
    if (p->layer >= CAIRN_MAX_LAYERS)
        return CAIRN_E_PROTO;
    if (p->kind == 1)
        shown->kv[p->layer] = *p;
    if (p->kind == 2)
        shown->state[p->layer] = *p;
    return 0;
}

static double kept_share(const struct cairn_payload_info *p, uint32_t n_tokens)
{
    double kept = 0;
    for (uint32_t h = 0; h < p->n_heads; h++)
        kept += p->kept[h];
    return p->n_heads > 0 && n_tokens > 0 ? kept / p->n_heads / n_tokens : 0;
}

static void draw_layer(const struct shown *shown, uint32_t layer, uint32_t n_tokens)
{
    const struct cairn_payload_info *p = &shown->kv[layer];
    char bar[BAR_COLUMNS + 1], bytes[32];
    double share = kept_share(p, n_tokens);
    uint32_t low = UINT32_MAX, high = 0, full = (uint32_t)(share * BAR_COLUMNS + 0.5);
    for (uint32_t h = 0; h < p->n_heads; h++) {
        low = p->kept[h] < low ? p->kept[h] : low;
        high = p->kept[h] > high ? p->kept[h] : high;
    }
    for (uint32_t i = 0; i < BAR_COLUMNS; i++)
        bar[i] = i < full ? '#' : '.';
    bar[BAR_COLUMNS] = '\0';
    printf("%5u %s %s %4.0f %%", layer, shown->state[layer].kind != 0 ? "E" : " ", bar, share * 100);
    char kept[32];
    if (p->n_heads == 0)
        snprintf(kept, sizeof kept, "-");
    else if (low == high)
        snprintf(kept, sizeof kept, "%u", low);
    else
        snprintf(kept, sizeof kept, "%u..%u", low, high);
    printf(" %13s %-5s %-6s %10s\n", kept, crn_cmd_dtype(p->dtype), crn_cmd_tier(p->tier),
           crn_cmd_bytes(p->bytes, bytes));
}

static void print_entry(const struct cairn_entry_info *e, const struct shown *shown)
{
    char a[32], b[32], model[64];
    printf("entry     %" PRIx64 ", generation %u%s\n", e->entry.v, e->generation,
           e->pinned ? ", pinned" : "");
    if (e->parent.v != 0)
        printf("parent    %" PRIx64 "\n", e->parent.v);
    printf("producer  %s\n", crn_cmd_model(e->label, &e->producer, model));
    printf("tokens    %u, positions %u..%u\n", e->n_tokens, e->start, e->start + e->n_tokens - 1);
    printf("pyramid   %s\n", crn_cmd_pyramid(e->pyramid));
    printf("bytes     %s, resident %s\n", crn_cmd_bytes(e->bytes, a), crn_cmd_bytes(e->resident_bytes, b));
    printf("used      %" PRIu64 " hits, %u leases, idle %s, age %s\n", e->hits, e->leases,
           crn_cmd_age(e->idle_ns, a), crn_cmd_age(e->age_ns, b));
    printf("\nlayer E kept (E: the state entering this layer is stored)%25s dtype tier        bytes\n", "tokens");
    for (uint32_t layer = 0; layer < e->n_layers && layer < CAIRN_MAX_LAYERS; layer++)
        draw_layer(shown, layer, e->n_tokens);
}

static void add_payload(struct crn_json *array, const struct cairn_payload_info *p)
{
    struct crn_json *object = crn_json_object(), *kept = crn_json_array();
    crn_json_add(array, NULL, object);
    crn_json_add_u64(object, "layer", p->layer);
    crn_json_add_text(object, "kind", p->kind == 2 ? "state" : "kv");
    crn_json_add_text(object, "dtype", crn_cmd_dtype(p->dtype));
    crn_json_add_text(object, "tier", crn_cmd_tier(p->tier));
    crn_json_add_u64(object, "bytes", p->bytes);
    crn_json_add(object, "kept", kept);
    for (uint32_t h = 0; h < p->n_heads; h++)
        crn_json_add_u64(kept, NULL, p->kept[h]);
}

static int print_entry_json(const struct crn_cmd *cmd, const struct cairn_entry_info *e,
                            const struct shown *shown)
{
    struct crn_json *root = crn_cmd_json(), *payloads = crn_json_array();
    crn_cmd_add_entry(root, e);
    crn_json_add(root, "payloads", payloads);
    for (uint32_t layer = 0; layer < CAIRN_MAX_LAYERS; layer++) {
        if (shown->kv[layer].kind != 0)
            add_payload(payloads, &shown->kv[layer]);
        if (shown->state[layer].kind != 0)
            add_payload(payloads, &shown->state[layer]);
    }
    return crn_cmd_print(cmd, root);
}

int crn_cmd_show(struct crn_cmd *cmd, int argc, char **argv)
{
    static struct shown shown; /* 150 KB: too much for a stack */
    struct cairn_entry_id entry;
    struct cairn_entry_info info;
    int code = crn_cmd_no_more(cmd, argc, argv, 1);
    if (code != 0)
        return code;
    if (argc < 2)
        return crn_cmd_usage(cmd, "which entry? cairn ls names them");
    if (crn_cmd_parse_id(argv[1], &entry.v) != 0)
        return crn_cmd_usage(cmd, "%s is no entry id", argv[1]);
    int status = cairn_show(cmd->client, entry, crn_cmd_deadline(cmd), &info, collect, &shown);
    if (status != 0)
        return crn_cmd_fail(cmd, status);
    if (cmd->json)
        return print_entry_json(cmd, &info, &shown);
    print_entry(&info, &shown);
    return CRN_EXIT_OK;
}
