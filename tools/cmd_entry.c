/* evict, pin, unpin, spill, restore, verify: orders about entries. */
#include "tools/cmd.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The one id of a command. */
static int take_id(const struct crn_cmd *cmd, int argc, char **argv, struct cairn_entry_id *out_entry)
{
    int code = crn_cmd_no_more(cmd, argc, argv, 1);
    if (code != 0)
        return code;
    if (argc < 2)
        return crn_cmd_usage(cmd, "which entry? cairn ls names them");
    if (crn_cmd_parse_id(argv[1], &out_entry->v) != 0)
        return crn_cmd_usage(cmd, "%s is no entry id", argv[1]);
    return 0;
}

/* Says that it was done. */
static int done(const struct crn_cmd *cmd, const char *verb, uint64_t entry)
{
    if (cmd->json) {
        struct crn_json *root = crn_cmd_json();
        crn_cmd_add_id(root, "entry", entry);
        crn_json_add_text(root, "done", verb);
        return crn_cmd_print(cmd, root);
    }
    printf("%s %" PRIx64 "\n", verb, entry);
    return CRN_EXIT_OK;
}

int crn_cmd_evict(struct crn_cmd *cmd, int argc, char **argv)
{
    struct cairn_entry_id entry = {0};
    uint64_t n = 0, bytes = 0;
    char text[32];
    bool all = argc == 2 && strcmp(argv[1], "--all") == 0;
    int code = all ? 0 : take_id(cmd, argc, argv, &entry);
    if (code != 0)
        return code;
    int status = cairn_evict(cmd->client, entry, crn_cmd_deadline(cmd), &n, &bytes);
    if (status != 0)
        return crn_cmd_fail(cmd, status);
    if (cmd->json) {
        struct crn_json *root = crn_cmd_json();
        crn_json_add_u64(root, "entries", n);
        crn_json_add_u64(root, "bytes", bytes);
        return crn_cmd_print(cmd, root);
    }
    printf("evicted %" PRIu64 " entries, %s\n", n, crn_cmd_bytes(bytes, text));
    return CRN_EXIT_OK;
}

static int set_pin(struct crn_cmd *cmd, int argc, char **argv, int on)
{
    struct cairn_entry_id entry;
    int code = take_id(cmd, argc, argv, &entry);
    if (code != 0)
        return code;
    int status = cairn_pin(cmd->client, entry, on, crn_cmd_deadline(cmd));
    return status != 0 ? crn_cmd_fail(cmd, status) : done(cmd, on ? "pinned" : "unpinned", entry.v);
}

int crn_cmd_pin(struct crn_cmd *cmd, int argc, char **argv)
{
    return set_pin(cmd, argc, argv, 1);
}

int crn_cmd_unpin(struct crn_cmd *cmd, int argc, char **argv)
{
    return set_pin(cmd, argc, argv, 0);
}

/* "A-B" or "A". */
static int parse_layers(const char *text, uint32_t *out_first, uint32_t *out_last)
{
    char *end;
    unsigned long first = strtoul(text, &end, 10), last = first;
    if (end == text)
        return CAIRN_E_ARG;
    if (*end == '-') {
        const char *second = end + 1;
        last = strtoul(second, &end, 10);
        if (end == second)
            return CAIRN_E_ARG;
    }
    if (*end != '\0' || first > last || last >= CAIRN_MAX_LAYERS)
        return CAIRN_E_ARG;
    *out_first = (uint32_t)first;
    *out_last = (uint32_t)last;
    return 0;
}

struct spill {
    struct cairn_entry_id entry;
    uint32_t first, last, tier, flags;
};

static int parse_spill(const struct crn_cmd *cmd, int argc, char **argv, struct spill *out)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--layers") == 0) {
            if (parse_layers(value, &out->first, &out->last) != 0)
                return crn_cmd_usage(cmd, "--layers needs A-B");
            i++;
        } else if (strcmp(argv[i], "--tier") == 0 || strcmp(argv[i], "--to") == 0) {
            if (strcmp(value, "host") != 0 && strcmp(value, "nvme") != 0)
                return crn_cmd_usage(cmd, "--tier needs host or nvme");
            out->tier = value[0] == 'h' ? CAIRN_TIER_HOST : CAIRN_TIER_NVME;
            i++;
        } else if (strcmp(argv[i], "--int8") == 0) {
            out->flags = CAIRN_SPILL_INT8;
        } else if (out->entry.v != 0 || crn_cmd_parse_id(argv[i], &out->entry.v) != 0) {
            return crn_cmd_usage(cmd, "unknown argument %s", argv[i]);
        }
    }
    return out->entry.v != 0 ? 0 : crn_cmd_usage(cmd, "which entry? cairn ls names them");
}

int crn_cmd_spill(struct crn_cmd *cmd, int argc, char **argv)
{
    struct spill s = {.last = CAIRN_MAX_LAYERS - 1, .tier = CAIRN_TIER_NVME};
    int code = parse_spill(cmd, argc, argv, &s);
    if (code != 0)
        return code;
    int status = cairn_spill(cmd->client, s.entry, s.first, s.last, s.tier | s.flags, crn_cmd_deadline(cmd));
    return status != 0 ? crn_cmd_fail(cmd, status) : done(cmd, "spilled", s.entry.v);
}

int crn_cmd_restore(struct crn_cmd *cmd, int argc, char **argv)
{
    struct cairn_entry_id entry;
    int code = take_id(cmd, argc, argv, &entry);
    if (code != 0)
        return code;
    int status = cairn_restore(cmd->client, entry, crn_cmd_deadline(cmd));
    return status != 0 ? crn_cmd_fail(cmd, status) : done(cmd, "restored", entry.v);
}

int crn_cmd_verify(struct crn_cmd *cmd, int argc, char **argv)
{
    struct cairn_entry_id entry = {0};
    uint64_t payloads, bytes, bad;
    char text[32];
    int code = argc > 1 ? take_id(cmd, argc, argv, &entry) : 0;
    if (code != 0)
        return code;
    int status = cairn_verify(cmd->client, entry, crn_cmd_deadline(cmd), &payloads, &bytes, &bad);
    if (status != 0)
        return crn_cmd_fail(cmd, status);
    if (cmd->json) {
        struct crn_json *root = crn_cmd_json();
        crn_json_add_u64(root, "payloads", payloads);
        crn_json_add_u64(root, "bytes", bytes);
        crn_json_add_u64(root, "bad", bad);
        code = crn_cmd_print(cmd, root);
    } else {
        printf("verified %" PRIu64 " payloads, %s: %" PRIu64 " bad\n", payloads, crn_cmd_bytes(bytes, text), bad);
    }
    return code != 0 ? code : bad > 0 ? CRN_EXIT_NO : CRN_EXIT_OK;
}
