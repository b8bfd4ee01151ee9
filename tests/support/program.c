/* Runs a program with its outputs in temporary files: no pipe can fill up, and nothing is lost when
 * it dies. */
#include "tests/support/program.h"

#include "tests/support/paths.h"

#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static char *contents(int fd)
{
    struct stat st;
    ck_assert_int_eq(fstat(fd, &st), 0);
    char *text = malloc((size_t)st.st_size + 1);
    ck_assert_ptr_nonnull(text);
    ck_assert_int_eq(pread(fd, text, (size_t)st.st_size, 0), st.st_size);
    text[st.st_size] = '\0';
    close(fd);
    return text;
}

/* 120 s, or as long as a slow run gives each test. */
static int limit_ms(void)
{
    const char *text = getenv("CRN_TEST_TIMEOUT");
    double limit_s = text != NULL ? strtod(text, NULL) : 0;
    return limit_s > 120 && limit_s < 1e6 ? (int)(1000 * limit_s) : 120000;
}

static int wait_for(pid_t pid, const char *name)
{
    int status, pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd ended = {pidfd, POLLIN, 0};
    ck_assert_int_ge(pidfd, 0);
    if (poll(&ended, 1, limit_ms()) != 1) {
        kill(pid, SIGKILL);
        ck_abort_msg("%s did not end within %d s", name, limit_ms() / 1000);
    }
    close(pidfd);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

struct program program_run(const char *name, const char *const *arguments)
{
    enum { MAX = 64 };
    char path[512];
    char *argv[MAX] = {path};
    posix_spawn_file_actions_t actions;
    int out = memfd_create("out", 0), err = memfd_create("err", 0);
    pid_t pid;
    snprintf(path, sizeof path, "%s", paths_bin(name));
    for (int i = 0; arguments[i] != NULL; i++) {
        ck_assert_int_lt(i, MAX - 2);
        argv[i + 1] = (char *)(uintptr_t)arguments[i];
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO);
    ck_assert_int_eq(posix_spawn(&pid, path, &actions, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    struct program p = {.code = wait_for(pid, name)};
    p.out = contents(out);
    p.err = contents(err);
    return p;
}

void program_free(struct program *p)
{
    free(p->out);
    free(p->err);
    *p = (struct program){0};
}

json_t *program_json(const struct program *p, size_t index)
{
    const char *line = p->out;
    json_error_t error;
    while (index-- > 0 && line != NULL)
        line = strchr(line, '\n') != NULL ? strchr(line, '\n') + 1 : NULL;
    ck_assert_msg(line != NULL && *line != '\0', "no such line in: %s%s", p->out, p->err);
    json_t *value = json_loadb(line, strcspn(line, "\n"), 0, &error);
    ck_assert_msg(value != NULL, "%s in: %s", error.text, line);
    return value;
}

size_t program_err_lines(const struct program *p)
{
    size_t n = 0;
    for (const char *at = p->err; *at != '\0'; at++)
        n += *at == '\n';
    return n;
}
