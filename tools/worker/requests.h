/* requests - JSON lines in, JSON lines out. The only file of the worker that knows JSON. */
#ifndef CRN_WORKER_REQUESTS_H
#define CRN_WORKER_REQUESTS_H

#include "tools/worker/answer.h"

#include <stddef.h>
#include <stdio.h>

/* One line. A line that cannot be used has `error` set and nothing else. Strings are owned. */
struct crn_request {
    char *context; /* text; of the line before when it named the same file */
    size_t context_bytes;
    char *question;
    char *expected; /* NULL: none given */
    char *error;
};

struct crn_requests {
    struct crn_request *list;
    size_t n;
};

/* Reads a file of JSON lines ("-": standard input): {"context" or "context_file", "question",
 * "answer"?}. Paths are relative to the working directory. Empty lines are skipped. A broken line
 * becomes a request with an error that says line and cause. fails   -errno (file), -ENOMEM */
int crn_requests_read(const char *path, struct crn_requests *out);
void crn_requests_free(struct crn_requests *r);

/* Lines of a descriptor, taken one by one, so that a caller can wait for each answer. Start with
 * {.fd = fd}; it stays the caller's. */
struct crn_request_stream {
    int fd, ended;
    int too_long; /* the line in hand */
    char *text;   /* what was read and not taken: [at, n) */
    size_t at, n, room;
    size_t scanned; /* bytes of the line in hand, without its end */
    size_t number; /* of the line taken last, from 1 */
};

/* The next line as a request, as soon as it is there; one of more than 64 MiB becomes an error like
 * any broken line. 1: taken (own: crn_request_free), 0: the stream has ended. fails -ENOMEM,
 * -errno (reading) */
int crn_request_next(struct crn_request_stream *s, struct crn_request *out);
/* Lines that are there, and one that has begun to come: an engine's queue. Reads about 4 MiB ahead
 * and never waits; broken lines count. */
uint32_t crn_requests_waiting(struct crn_request_stream *s);
void crn_request_stream_free(struct crn_request_stream *s);
void crn_request_free(struct crn_request *r);

/* A whole file as text; fails -errno, CAIRN_E_TOO_BIG (64 MiB), after one log line. own: free */
int crn_text_read(const char *path, char **out_text, size_t *out_bytes);

/* What is written for one request. */
struct crn_reply {
    const char *error;    /* or: */
    const char *answer;   /* text; NULL when scored only */
    const char *expected; /* NULL: no `exact` */
    uint32_t n_tokens;    /* of the answer */
    int stopped;
    int scored, exact;
    double nll;
    const struct crn_outcome *outcome;
};

/* One line to the stream, flushed. -errno */
int crn_reply_write(FILE *to, const struct crn_reply *reply);

#endif
