/* top: sessions, refreshed until interrupted. --once prints one picture, and so does an output that is no terminal. */
#include "tools/cmd.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct picture {
    struct crn_json *array; /* NULL: text */
    size_t n;
};

static void add_session(struct crn_json *array, const struct cairn_session_info *s)
{
    struct crn_json *object = crn_json_object();
    crn_json_add(array, NULL, object);
    crn_cmd_add_id(object, "session", s->session);
    crn_json_add_u64(object, "pid", s->pid);
    crn_json_add_u64(object, "uid", s->uid);
    crn_json_add_text(object, "label", s->label);
    crn_cmd_add_digest(object, "model", &s->model);
    crn_json_add_u64(object, "leases", s->leases);
    crn_json_add_u64(object, "drafts", s->drafts);
    crn_json_add_u64(object, "leased_bytes", s->leased_bytes);
    crn_json_add_u64(object, "saved_bytes", s->saved_bytes);
    crn_json_add_u64(object, "requests", s->requests);
    crn_json_add_u64(object, "hits", s->hits);
    crn_json_add_u64(object, "published", s->published);
    crn_json_add_real(object, "connected_seconds", (double)s->connected_ns * 1e-9);
}

static int draw_session(void *ctx, const struct cairn_session_info *s)
{
    struct picture *p = ctx;
    char model[64], leased[32], saved[32], age[32];
    if (p->array != NULL) {
        add_session(p->array, s);
        return 0;
    }
    if (p->n++ == 0)
        printf("%8s %6s %-16s %7s %7s %10s %10s %9s %7s %9s %8s\n", "PID", "UID", "MODEL", "LEASES", "DRAFTS",
               "LEASED", "SAVED", "REQUESTS", "HITS", "PUBLISHED", "AGE");
    printf("%8u %6u %-16.16s %7u %7u %10s %10s %9" PRIu64 " %7" PRIu64 " %9" PRIu64 " %8s\n", s->pid, s->uid,
           crn_cmd_model(s->label, &s->model, model), s->leases, s->drafts,
           crn_cmd_bytes(s->leased_bytes, leased), crn_cmd_bytes(s->saved_bytes, saved), s->requests,
           s->hits, s->published, crn_cmd_age(s->connected_ns, age));
    return 0;
}

static int draw(struct crn_cmd *cmd, bool clear)
{
    struct picture p = {.array = cmd->json ? crn_json_array() : NULL};
    struct crn_json *root = cmd->json ? crn_cmd_json() : NULL;
    if (cmd->json)
        crn_json_add(root, "sessions", p.array);
    if (clear)
        fputs("\033[H\033[2J", stdout);
    int status = cairn_session_each(cmd->client, crn_cmd_deadline(cmd), draw_session, &p);
    if (status != 0) {
        crn_json_free(root);
        return crn_cmd_fail(cmd, status);
    }
    return cmd->json ? crn_cmd_print(cmd, root) : CRN_EXIT_OK;
}

static int parse_interval(const char *text, int *out_ms)
{
    char *end;
    double s = strtod(text, &end);
    if (end == text || *end != '\0' || !(s >= 0.1 && s <= 3600))
        return CAIRN_E_ARG;
    *out_ms = (int)(s * 1000);
    return 0;
}

int crn_cmd_top(struct crn_cmd *cmd, int argc, char **argv)
{
    bool once = cmd->json || !isatty(STDOUT_FILENO);
    int interval_ms = 2000;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--once") == 0)
            once = true;
        else if (strcmp(argv[i], "--interval") != 0)
            return crn_cmd_usage(cmd, "unknown argument %s", argv[i]);
        else if (++i == argc || parse_interval(argv[i], &interval_ms) != 0)
            return crn_cmd_usage(cmd, "--interval needs seconds in 0.1..3600");
    }
    for (;;) {
        int code = draw(cmd, !once);
        if (code != 0 || once)
            return code;
        if (fflush(stdout) != 0)
            return CRN_EXIT_NO;
        if (poll(NULL, 0, interval_ms) < 0 && errno != EINTR)
            return CRN_EXIT_NO;
    }
}
