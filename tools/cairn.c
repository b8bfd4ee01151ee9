/* cairn - the command line tool of the cache broker: options that all subcommands take, the table of subcommands, and help.
 * Global options may stand before or behind the subcommand. Nothing is connected here: a subcommand's first call does that. */
#include "tools/cmd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct command {
    const char *name;
    crn_cmd_run run;
    const char *args, *help;
};

static const struct command commands[] = {
    {"status", crn_cmd_status, "", "what the broker holds and did, on one screen"},
    {"ls", crn_cmd_ls, "[--models]", "entries, or the models known"},
    {"show", crn_cmd_show, "ID", "one entry: its pyramid, a bar per layer"},
    {"top", crn_cmd_top, "[--once] [--interval SECONDS]", "live: who leases what, and what sharing saved"},
    {"evict", crn_cmd_evict, "ID | --all", "drop an entry, or all that are not in use"},
    {"pin", crn_cmd_pin, "ID", "keep an entry when memory is short"},
    {"unpin", crn_cmd_unpin, "ID", "undo pin"},
    {"plan", crn_cmd_plan, "put FILE [--producer M] [--receiver M] [--layers N] | get ID | ls | drop ID",
     "how receivers reuse producers' entries"},
    {"profile", crn_cmd_profile, "--producer M --receiver M --requests FILE --out DIR [OPTIONS]",
     "find a pair's plans: measure runs, keep the frontier"},
    {"spill", crn_cmd_spill, "ID [--layers A-B] [--tier host|nvme] [--int8]", "move layers of an entry down"},
    {"restore", crn_cmd_restore, "ID", "bring an entry back"},
    {"verify", crn_cmd_verify, "[ID]", "read back against checksums"},
    {"doctor", crn_cmd_doctor, "", "check this host for what Cairn needs"},
    {"version", crn_cmd_version, "", "version of tool and library"},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static const char option_help[] =
    "options:\n"
    "  --socket PATH     the broker's socket (default: $CAIRN_SOCKET, $XDG_RUNTIME_DIR/cairn/cairn.sock,\n"
    "                    /tmp/cairn-UID/cairn.sock)\n"
    "  --namespace NAME  the namespace to look into (default: the broker's choice)\n"
    "  --timeout SECONDS how long to wait for the broker (default 10)\n"
    "  --json            machine-readable output, schema_version 1\n"
    "  --help            this text, or a subcommand's\n"
    "exit codes: 0 ok, 1 negative answer, 2 usage, 3 cannot connect, 4 timeout, 5 permission, 6 protocol mismatch\n";

static void print_help(FILE *file)
{
    fprintf(file, "usage: cairn [OPTIONS] COMMAND [ARGUMENTS]\n\ncommands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(file, "  %-9s %s\n", commands[i].name, commands[i].help);
    fprintf(file, "\n%s", option_help);
}

static int print_command_help(const struct command *c)
{
    static const char plan_help[] =
        "\nplan put reads a JSON file {producer, receiver, run [a,b], state_map, budgets, measured} and the state map that\n"
        "it names (GGUF, relative to the file). M is a model's digest (32 hex digits), or the files it is made of:\n"
        "MODEL.gguf[,ADAPTER.gguf[=SCALE]]. Without M the label in the file is looked up among the models known.\n";
    static const char profile_help[] =
        "\nM: MODEL.gguf[,ADAPTER.gguf[=SCALE]]. FILE: JSON lines {context, question, answer}; lines without an answer are compared\n"
        "with the receiver's own. An unfinished profile in DIR goes on. DIR gets results.jsonl, profile.json, profile.svg, maps/.\n"
        "  --grain N         runs of whole groups of N layers (default 2); --coarse: groups of 5 first, then about the best\n"
        "  --max-layers N    no longer runs; --runs A-B,...: just these\n"
        "  --tune N          also with maps tuned on the receiver's answers, for the N best runs of the frontier; --tuned A-B,...\n"
        "  --fit FILE        contexts for state maps (default: every third of --requests); --maps SPEC, --state-cache DIR\n"
        "  --keep F,...      shares of the tokens kept (default 1), --int8: each with int8 payloads too; --selector, --budget, --whole\n"
        "  --sensitivity     also reuse each layer alone; --corners: cut the receiver's own cache by each share, too\n"
        "  --contexts N      measure on the first N only; --answer-tokens N, --threads N, --quiet\n"
        "  --plans DIR       write the frontier's plans there; --store: put them into the broker\n"
        "  --floor Q         plans must keep this share of the receiver's own quality (default 0.9)\n"
        "  --report-only     measure nothing, report what is there\n\n";
    printf("usage: cairn %s %s\n%s\n%s\n%s", c->name, c->args, c->help,
           strcmp(c->name, "plan") == 0      ? plan_help
           : strcmp(c->name, "profile") == 0 ? profile_help
                                             : "",
           option_help);
    return CRN_EXIT_OK;
}

/* ---- options ---- */

/* The value of "--name VALUE" or "--name=VALUE" at argv[*i]; NULL when it is another option. */
static const char *option_value(const char *name, int argc, char **argv, int *i, int *out_missing)
{
    size_t n = strlen(name);
    if (strncmp(argv[*i], name, n) != 0)
        return NULL;
    if (argv[*i][n] == '=')
        return argv[*i] + n + 1;
    if (argv[*i][n] != '\0')
        return NULL;
    if (*i + 1 < argc)
        return argv[++*i];
    *out_missing = 1;
    return "";
}

static int parse_timeout(const char *text, uint32_t *out_ms)
{
    char *end;
    double s = strtod(text, &end);
    if (end == text || *end != '\0' || !(s > 0 && s <= 86400))
        return CAIRN_E_ARG;
    *out_ms = (uint32_t)(s * 1000) > 0 ? (uint32_t)(s * 1000) : 1;
    return 0;
}

struct line {
    struct crn_cmd cmd;
    bool help;
    int argc;
    char **argv; /* what is left: the subcommand and its arguments */
};

/* 1: taken; 0: not one of ours; -1: wrong (said why). */
static int take_global(struct line *l, int argc, char **argv, int *i)
{
    int missing = 0;
    const char *option = argv[*i], *value;
    if (strcmp(option, "--json") == 0)
        return l->cmd.json = true;
    if (strcmp(option, "--help") == 0 || strcmp(option, "-h") == 0)
        return l->help = true;
    if ((value = option_value("--socket", argc, argv, i, &missing)) != NULL)
        l->cmd.socket = value;
    else if ((value = option_value("--namespace", argc, argv, i, &missing)) != NULL)
        l->cmd.space = value;
    else if ((value = option_value("--timeout", argc, argv, i, &missing)) == NULL)
        return 0;
    else if (!missing && parse_timeout(value, &l->cmd.timeout_ms) != 0) {
        fprintf(stderr, "cairn: --timeout %s: not a number of seconds in 0..86400\n", value);
        return -1;
    }
    if (missing)
        fprintf(stderr, "cairn: %s needs a value\n", option);
    return missing ? -1 : 1;
}

static int parse_line(struct line *l, int argc, char **argv)
{
    static char version[] = "version";
    for (int i = 1; i < argc; i++) {
        char *arg = argv[i];
        if (strcmp(arg, "--") == 0) {
            for (i++; i < argc; i++)
                l->argv[l->argc++] = argv[i];
            return 0;
        }
        int taken = take_global(l, argc, argv, &i);
        if (taken < 0)
            return CRN_EXIT_USAGE;
        if (taken)
            continue;
        if (strcmp(arg, "--version") == 0 && l->argc == 0)
            arg = version;
        else if (arg[0] == '-' && l->argc == 0) {
            fprintf(stderr, "cairn: unknown option %s; see cairn --help\n", arg);
            return CRN_EXIT_USAGE;
        }
        l->argv[l->argc++] = arg;
    }
    return 0;
}

/* ---- run ---- */

static int open_client(struct crn_cmd *cmd)
{
    struct cairn_options options = CAIRN_OPTIONS_INIT;
    options.socket = cmd->socket;
    options.space = cmd->space;
    options.label = "cairn";
    int status = cairn_open(&options, &cmd->client);
    if (status == 0)
        return 0;
    fprintf(stderr, "cairn: socket %s: %s\n", cmd->socket != NULL ? cmd->socket : "(default)",
            cairn_strerror(status));
    return status == CAIRN_E_ARG || status == CAIRN_E_TOO_BIG ? CRN_EXIT_USAGE : crn_cmd_exit(status);
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

static int run(struct line *l)
{
    if (l->argc == 0) {
        print_help(l->help ? stdout : stderr);
        return l->help ? CRN_EXIT_OK : CRN_EXIT_USAGE;
    }
    const struct command *command = find_command(l->argv[0]);
    if (command == NULL) {
        fprintf(stderr, "cairn: no command %s; see cairn --help\n", l->argv[0]);
        return CRN_EXIT_USAGE;
    }
    if (l->help)
        return print_command_help(command);
    l->cmd.name = command->name;
    int code = open_client(&l->cmd);
    if (code != 0)
        return code;
    code = command->run(&l->cmd, l->argc, l->argv);
    cairn_close(l->cmd.client);
    if (fflush(stdout) != 0 && code == CRN_EXIT_OK) {
        fprintf(stderr, "cairn: cannot write: %s\n", cairn_strerror(-errno));
        code = CRN_EXIT_NO;
    }
    return code;
}

int main(int argc, char **argv)
{
    struct line line = {.cmd = {.timeout_ms = 10000}};
    line.argv = calloc((size_t)argc + 1, sizeof *line.argv);
    if (line.argv == NULL)
        return CRN_EXIT_NO;
    int code = parse_line(&line, argc, argv);
    if (code == 0)
        code = run(&line);
    free(line.argv);
    return code;
}
