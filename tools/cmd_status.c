/* status, version: counters of the broker. The text picks what fits one screen; --json has all of them by name. */
#include "tools/cmd.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define COUNTERS_MAX 256

struct counters {
    struct cairn_counter all[COUNTERS_MAX];
    size_t n;
    char notes[2048];
};

static uint64_t value_of(const struct counters *c, const char *name)
{
    for (size_t i = 0; i < c->n; i++) {
        if (strcmp(c->all[i].name, name) == 0)
            return c->all[i].value;
    }
    return 0;
}

static int print_json(const struct crn_cmd *cmd, const struct counters *c)
{
    struct crn_json *root = crn_cmd_json(), *numbers = crn_json_object(), *notes = crn_json_array();
    crn_json_add(root, "counters", numbers);
    for (size_t i = 0; i < c->n; i++)
        crn_json_add_u64(numbers, c->all[i].name, c->all[i].value);
    crn_json_add(root, "notes", notes);
    for (const char *at = c->notes; *at != '\0';) {
        size_t n = strcspn(at, "\n");
        char line[1100];
        snprintf(line, sizeof line, "%.*s", (int)n, at);
        crn_json_add_text(notes, NULL, line);
        at += n + (at[n] == '\n');
    }
    return crn_cmd_print(cmd, root);
}

static void print_memory(const struct counters *c)
{
    char a[32], b[32], d[32];
    printf("memory    %s used of %s, largest free run %s\n",
           crn_cmd_bytes(value_of(c, "used_bytes"), a), crn_cmd_bytes(value_of(c, "memory_limit_bytes"), b),
           crn_cmd_bytes(value_of(c, "largest_free_bytes"), d));
    if (value_of(c, "host_tier_limit_bytes") > 0)
        printf("host tier %s used of %s\n", crn_cmd_bytes(value_of(c, "host_tier_used_bytes"), a),
               crn_cmd_bytes(value_of(c, "host_tier_limit_bytes"), b));
    if (value_of(c, "nvme_limit_bytes") > 0)
        printf("nvme      %s used of %s\n", crn_cmd_bytes(value_of(c, "nvme_used_bytes"), a),
               crn_cmd_bytes(value_of(c, "nvme_limit_bytes"), b));
}

#define N(name) value_of(c, name)

static void print_tiers(const struct counters *c)
{
    char a[32], b[32];
    printf("tiers     %" PRIu64 " spilled, %" PRIu64 " restored, %" PRIu64 " failed; attached payloads found: %" PRIu64 " device, %" PRIu64
           " host, %" PRIu64 " nvme\n",
           N("spilled_total"), N("restored_total"), N("restore_failed_total"), N("hits_device_total"), N("hits_host_total"),
           N("hits_nvme_total"));
    if (N("host_tier_limit_bytes") > 0)
        printf("device    %" PRIu64 " payloads down to the host tier, %" PRIu64 " back up\n", N("host_spilled_total"),
               N("host_restored_total"));
    if (N("nvme_limit_bytes") > 0)
        printf("rates     down %s/s, %" PRIu64 " waiting; up %s/s, %" PRIu64 " waiting\n", crn_cmd_bytes(N("spill_bytes_per_second"), a),
               N("spill_queue"), crn_cmd_bytes(N("restore_bytes_per_second"), b), N("restore_queue"));
}

static void print_text(const struct counters *c)
{
    char a[32];
    printf("up        %s\n", crn_cmd_age(N("uptime_seconds") * 1000000000u, a));
    print_memory(c);
    printf("holds     %" PRIu64 " entries (%s), %" PRIu64 " plans\n", N("entries"),
           crn_cmd_bytes(N("payload_bytes"), a), N("plans"));
    printf("in use    %" PRIu64 " sessions, %" PRIu64 " leases, %" PRIu64 " drafts\n", N("sessions"),
           N("leases"), N("drafts"));
    printf("matched   %" PRIu64 ": %" PRIu64 " exact, %" PRIu64 " by plan, %" PRIu64 " not (no plan %" PRIu64
           ", quality %" PRIu64 ")\n",
           N("match_total"), N("match_exact_total"), N("match_approx_total"), N("match_none_total"),
           N("refused_no_plan_total"), N("refused_quality_total"));
    printf("shared    %s, %" PRIu64 " tokens\n", crn_cmd_bytes(N("shared_bytes_total"), a),
           N("shared_tokens_total"));
    printf("published %" PRIu64 " entries, %" PRIu64 " compressed, %" PRIu64 " evicted, %" PRIu64
           " refused for room\n",
           N("commit_total"), N("compress_total"), N("evicted_total"), N("full_total"));
    print_tiers(c);
    printf("trouble   %" PRIu64 " bad messages, %" PRIu64 " denied, %" PRIu64 " dead workers, %" PRIu64
           " corrupt, %" PRIu64 " I/O errors\n",
           N("bad_message_total"), N("denied_total"), N("session_reaped_total"), N("corrupt_total"),
           N("io_error_total"));
    if (c->notes[0] != '\0')
        printf("%s\n", c->notes);
}

int crn_cmd_status(struct crn_cmd *cmd, int argc, char **argv)
{
    struct counters c = {.n = 0};
    int code = crn_cmd_no_more(cmd, argc, argv, 0);
    if (code != 0)
        return code;
    int status = cairn_stat(cmd->client, crn_cmd_deadline(cmd), c.all, COUNTERS_MAX, &c.n, c.notes,
                            sizeof c.notes);
    if (status != 0)
        return crn_cmd_fail(cmd, status);
    c.n = c.n < COUNTERS_MAX ? c.n : COUNTERS_MAX;
    if (cmd->json)
        return print_json(cmd, &c);
    print_text(&c);
    return CRN_EXIT_OK;
}

int crn_cmd_version(struct crn_cmd *cmd, int argc, char **argv)
{
    int code = crn_cmd_no_more(cmd, argc, argv, 0);
    if (code != 0)
        return code;
    if (cmd->json) {
        struct crn_json *root = crn_cmd_json();
        crn_json_add_text(root, "version", CAIRN_VERSION);
        crn_json_add_text(root, "library", cairn_version());
        return crn_cmd_print(cmd, root);
    }
    printf("cairn %s (libcairn %s)\n", CAIRN_VERSION, cairn_version());
    return CRN_EXIT_OK;
}
