/* What subcommands share: codes, numbers for people, ids, JSON frames. Results go to stdout, words about them to stderr. */
#include "tools/cmd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t crn_cmd_deadline(const struct crn_cmd *cmd)
{
    return cairn_deadline_in(cmd->timeout_ms);
}

int crn_cmd_exit(int status)
{
    switch (status) {
    case 0:
        return CRN_EXIT_OK;
    case CAIRN_E_GONE:
        return CRN_EXIT_CONNECT;
    case CAIRN_E_TIMEOUT:
        return CRN_EXIT_TIMEOUT;
    case CAIRN_E_DENIED:
    case -EACCES:
    case -EPERM:
        return CRN_EXIT_PERMISSION;
    case CAIRN_E_VERSION:
    case CAIRN_E_PROTO:
        return CRN_EXIT_PROTOCOL;
    default:
        return CRN_EXIT_NO;
    }
}

void crn_cmd_say(const struct crn_cmd *cmd, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "cairn %s: ", cmd->name);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

int crn_cmd_usage(const struct crn_cmd *cmd, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fprintf(stderr, "cairn %s: ", cmd->name);
    vfprintf(stderr, format, args);
    fprintf(stderr, "; see cairn %s --help\n", cmd->name);
    va_end(args);
    return CRN_EXIT_USAGE;
}

int crn_cmd_fail(const struct crn_cmd *cmd, int status)
{
    const char *why = cairn_error(cmd->client);
    crn_cmd_say(cmd, "%s", why[0] != '\0' ? why : cairn_strerror(status));
    return crn_cmd_exit(status);
}

int crn_cmd_no_more(const struct crn_cmd *cmd, int argc, char **argv, int n)
{
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '-' && argv[i][1] != '\0')
            return crn_cmd_usage(cmd, "unknown option %s", argv[i]);
    }
    return argc - 1 <= n ? 0 : crn_cmd_usage(cmd, "too many arguments: %s", argv[n + 1]);
}

int crn_cmd_parse_id(const char *text, uint64_t *out_id)
{
    char *end;
    errno = 0;
    unsigned long long id = strtoull(text, &end, 16);
    if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || id == 0)
        return CAIRN_E_ARG;
    *out_id = id;
    return 0;
}

const char *crn_cmd_bytes(uint64_t bytes, char out_text[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double size = (double)bytes;
    size_t unit = 0;
    for (; size >= 1024 && unit + 1 < sizeof units / sizeof units[0]; unit++)
        size /= 1024;
    snprintf(out_text, 32, unit > 0 && size < 100 ? "%.1f %s" : "%.0f %s", size, units[unit]);
    return out_text;
}

const char *crn_cmd_age(uint64_t ns, char out_text[32])
{
    uint64_t s = ns / 1000000000u;
    if (s < 120)
        snprintf(out_text, 32, "%" PRIu64 " s", s);
    else if (s < 7200)
        snprintf(out_text, 32, "%" PRIu64 " min", s / 60);
    else if (s < 172800)
        snprintf(out_text, 32, "%" PRIu64 " h", s / 3600);
    else
        snprintf(out_text, 32, "%" PRIu64 " d", s / 86400);
    return out_text;
}

static const char *pick(const char *const *names, size_t n, uint32_t number)
{
    return number < n ? names[number] : "?";
}

const char *crn_cmd_dtype(uint32_t dtype)
{
    static const char *const names[] = {"-", "f32", "f16", "bf16", "int8"};
    return pick(names, sizeof names / sizeof names[0], dtype);
}

const char *crn_cmd_tier(uint32_t tier)
{
    static const char *const names[] = {"-", "device", "host", "nvme"};
    return pick(names, sizeof names / sizeof names[0], tier);
}

const char *crn_cmd_pyramid(uint32_t pyramid)
{
    static const char *const names[] = {"none", "prefill", "publish"};
    return pick(names, sizeof names / sizeof names[0], pyramid);
}

const char *crn_cmd_model(const char *label, const struct cairn_digest *digest, char out_text[64])
{
    char hex[33];
    cairn_digest_text(digest, hex);
    if (label[0] != '\0')
        snprintf(out_text, 64, "%s", label);
    else
        snprintf(out_text, 64, "%.12s", hex);
    return out_text;
}

struct crn_json *crn_cmd_json(void)
{
    struct crn_json *root = crn_json_object();
    crn_json_add_u64(root, "schema_version", CRN_JSON_SCHEMA);
    return root;
}

int crn_cmd_print(const struct crn_cmd *cmd, struct crn_json *root)
{
    int status = crn_json_print(root, stdout);
    crn_json_free(root);
    if (status == 0)
        return CRN_EXIT_OK;
    crn_cmd_say(cmd, "cannot write: %s", cairn_strerror(status));
    return CRN_EXIT_NO;
}

void crn_cmd_add_id(struct crn_json *parent, const char *key, uint64_t id)
{
    char text[17];
    snprintf(text, sizeof text, "%" PRIx64, id);
    crn_json_add_text(parent, key, text);
}

void crn_cmd_add_digest(struct crn_json *parent, const char *key, const struct cairn_digest *digest)
{
    char text[33];
    cairn_digest_text(digest, text);
    crn_json_add_text(parent, key, text);
}

void crn_cmd_add_entry(struct crn_json *parent, const struct cairn_entry_info *e)
{
    crn_cmd_add_id(parent, "entry", e->entry.v);
    if (e->parent.v != 0)
        crn_cmd_add_id(parent, "parent", e->parent.v);
    crn_json_add_text(parent, "label", e->label);
    crn_cmd_add_digest(parent, "producer", &e->producer);
    crn_json_add_u64(parent, "start", e->start);
    crn_json_add_u64(parent, "tokens", e->n_tokens);
    crn_json_add_text(parent, "pyramid", crn_cmd_pyramid(e->pyramid));
    crn_json_add_text(parent, "dtype", crn_cmd_dtype(e->dtype));
    crn_json_add_text(parent, "tier", crn_cmd_tier(e->tier));
    crn_json_add_u64(parent, "bytes", e->bytes);
    crn_json_add_u64(parent, "resident_bytes", e->resident_bytes);
    crn_json_add_u64(parent, "allocated_bytes", e->allocated_bytes);
    crn_json_add_u64(parent, "states", e->n_states);
    crn_json_add_u64(parent, "layers", e->n_layers);
    crn_json_add_u64(parent, "generation", e->generation);
    crn_json_add_u64(parent, "leases", e->leases);
    crn_json_add_u64(parent, "hits", e->hits);
    crn_json_add_bool(parent, "pinned", e->pinned != 0);
    crn_json_add_real(parent, "age_seconds", (double)e->age_ns * 1e-9);
    crn_json_add_real(parent, "idle_seconds", (double)e->idle_ns * 1e-9);
}
