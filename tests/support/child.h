/* child - processes and descriptors of tests. Everything has a deadline; failures end the test. */
#ifndef CRN_TESTS_CHILD_H
#define CRN_TESTS_CHILD_H

#include <sys/types.h>

/* Runs run(ctx) in a forked process that exits with its result, and dies with the test. */
pid_t child_start(int (*run)(void *ctx), void *ctx);
/* Exit code, or 128 + signal; fails the test when the child has not ended after 20 s. */
int child_end(pid_t pid);
/* SIGKILL, and reaps. */
void child_kill(pid_t pid);
/* Waits (10 s) until the main thread of the process sleeps in the kernel. */
void child_asleep(pid_t pid);

/* Open descriptors of this process. */
int count_fds(void);

#endif
