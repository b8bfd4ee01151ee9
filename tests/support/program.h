/* program - runs a built program (cairn-worker, cairn) to its end in a test, and keeps what it
 * printed. */
#ifndef CRN_TESTS_PROGRAM_H
#define CRN_TESTS_PROGRAM_H

#include <jansson.h>

struct program {
    int code;  /* exit code, or 128 + signal */
    char *out; /* standard output, terminated */
    char *err; /* standard error, terminated */
};

/* Runs $CRN_BIN/NAME with arguments (NULL-terminated, without argv[0]); fails the test after 120 s, or
 * $CRN_TEST_TIMEOUT when that is longer.
 * own: program_free */
struct program program_run(const char *name, const char *const *arguments);
void program_free(struct program *p);

/* Line `index` of the output as JSON; fails the test when it is none. */
json_t *program_json(const struct program *p, size_t index);

/* Lines on standard error. */
size_t program_err_lines(const struct program *p);

#endif
