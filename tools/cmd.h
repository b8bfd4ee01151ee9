/* cmd - what the subcommands of `cairn` share. A subcommand is one function and one row of the table in cairn.c. */
#ifndef CRN_TOOLS_CMD_H
#define CRN_TOOLS_CMD_H

#include "client/cairn.h"
#include "tools/json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Exit codes (design.md section 10). */
enum crn_exit {
    CRN_EXIT_OK = 0,
    CRN_EXIT_NO = 1,       /* a negative answer: not found, refused, full */
    CRN_EXIT_USAGE = 2,
    CRN_EXIT_CONNECT = 3,
    CRN_EXIT_TIMEOUT = 4,
    CRN_EXIT_PERMISSION = 5,
    CRN_EXIT_PROTOCOL = 6,
};

#define CRN_JSON_SCHEMA 1u /* schema_version of all --json output; goes up when a field changes its meaning or goes away */

struct crn_cmd {
    const char *name;   /* of the subcommand */
    const char *socket; /* NULL: the default */
    const char *space;
    bool json;
    uint32_t timeout_ms;
    struct cairn_client *client; /* open, not connected yet */
};

typedef int (*crn_cmd_run)(struct crn_cmd *cmd, int argc, char **argv);

/* Subcommands; argv[0] is their name; they return an exit code. */
int crn_cmd_status(struct crn_cmd *cmd, int argc, char **argv);
int crn_cmd_ls(struct crn_cmd *cmd, int argc, char **argv);
int crn_cmd_show(struct crn_cmd *cmd, int argc, char **argv);
int crn_cmd_top(struct crn_cmd *cmd, int argc, char **argv);
int crn_cmd_evict(struct crn_cmd *cmd, int argc, char **argv);
int crn_cmd_pin(struct crn_cmd *cmd, int argc, char **argv);
int crn_cmd_unpin(struct crn_cmd *cmd, int argc, char **argv);
int crn_cmd_plan(struct crn_cmd *cmd, int argc, char **argv);
int crn_cmd_profile(struct crn_cmd *cmd, int argc, char **argv);
int crn_cmd_spill(struct crn_cmd *cmd, int argc, char **argv);
int crn_cmd_restore(struct crn_cmd *cmd, int argc, char **argv);
int crn_cmd_verify(struct crn_cmd *cmd, int argc, char **argv);
int crn_cmd_doctor(struct crn_cmd *cmd, int argc, char **argv);
int crn_cmd_version(struct crn_cmd *cmd, int argc, char **argv);

uint64_t crn_cmd_deadline(const struct crn_cmd *cmd);
/* Exit code of a status. */
int crn_cmd_exit(int status);
/* One line on stderr about a failed call (cairn_error, else the code's text); returns the exit code. */
int crn_cmd_fail(const struct crn_cmd *cmd, int status);
/* One line on stderr: "cairn NAME: ..."; crn_cmd_usage adds how to get help and returns CRN_EXIT_USAGE. */
void crn_cmd_say(const struct crn_cmd *cmd, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
int crn_cmd_usage(const struct crn_cmd *cmd, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* CRN_EXIT_USAGE with a line when there are more than n arguments or one that begins with '-'. */
int crn_cmd_no_more(const struct crn_cmd *cmd, int argc, char **argv, int n);

/* Ids are hexadecimal on both ways. CAIRN_E_ARG. */
int crn_cmd_parse_id(const char *text, uint64_t *out_id);
/* "3.2 MiB", "1.5 s", "37 %": out_text holds at least 32 bytes and is returned. */
const char *crn_cmd_bytes(uint64_t bytes, char out_text[32]);
const char *crn_cmd_age(uint64_t ns, char out_text[32]);
const char *crn_cmd_dtype(uint32_t dtype);
const char *crn_cmd_tier(uint32_t tier);
const char *crn_cmd_pyramid(uint32_t pyramid);
/* A label, or the first digits of the digest when there is none. */
const char *crn_cmd_model(const char *label, const struct cairn_digest *digest, char out_text[64]);

/* An object with schema_version; crn_cmd_print writes and frees it and returns an exit code. */
struct crn_json *crn_cmd_json(void);
int crn_cmd_print(const struct crn_cmd *cmd, struct crn_json *root);
void crn_cmd_add_id(struct crn_json *parent, const char *key, uint64_t id);
void crn_cmd_add_digest(struct crn_json *parent, const char *key, const struct cairn_digest *digest);
void crn_cmd_add_entry(struct crn_json *parent, const struct cairn_entry_info *info);

#endif
