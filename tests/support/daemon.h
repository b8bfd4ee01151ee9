/* daemon - a real cairnd of a test, in its own temporary directory. It dies with the test. */
#ifndef CRN_TESTS_DAEMON_H
#define CRN_TESTS_DAEMON_H

#include <stddef.h>
#include <sys/types.h>

struct daemon {
    pid_t pid;
    char socket[108];
    int notify; /* where it says READY=1 and STOPPING=1 */
};

/* Starts cairnd with these options (NULL-terminated, --socket is added) and waits (10 s) until it says READY=1. socket NULL: in a
 * fresh temporary directory, else at that path. Fails the test when it does not come up. */
struct daemon daemon_start(const char *socket, const char *const options[]);
/* SIGTERM, and its exit code (128 + signal when it was killed). */
int daemon_stop(struct daemon *d);
/* SIGKILL. */
void daemon_kill(struct daemon *d);
/* Runs cairnd to its end; its exit code. what it says goes to out (terminated). */
int daemon_run(const char *const options[], char *out, size_t out_bytes);

#endif
