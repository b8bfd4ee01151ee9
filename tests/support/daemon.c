/* Readiness is learnt through the service manager's protocol: a datagram, so no test polls or sleeps. */
#include "tests/support/daemon.h"

#include "tests/support/child.h"
#include "tests/support/paths.h"

#include <check.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_OPTIONS 30

/* Replaces the forked child by cairnd. */
static _Noreturn void become(const char *const options[], const char *socket_path, int out_fd)
{
    const char *argv[MAX_OPTIONS + 4] = {"cairnd"};
    int n = 1;
    for (int i = 0; options[i] != NULL && i < MAX_OPTIONS; i++)
        argv[n++] = options[i];
    if (socket_path != NULL) {
        argv[n++] = "--socket";
        argv[n++] = socket_path;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setenv("CAIRN_LOG_LEVEL", "error", 0);
    if (out_fd >= 0) {
        dup2(out_fd, STDOUT_FILENO);
        dup2(out_fd, STDERR_FILENO);
    }
    execv(paths_bin("cairnd"), (char *const *)(const void *)argv);
    _exit(127);
}

/* Waits for READY=1, or for the end of the process. */
static void await_ready(int sock, pid_t pid)
{
    char line[64];
    for (int i = 0; i < 1000; i++) {
        struct pollfd p = {.fd = sock, .events = POLLIN};
        if (poll(&p, 1, 10) > 0) {
            ssize_t n = recv(sock, line, sizeof line, 0);
            ck_assert(n >= 7 && memcmp(line, "READY=1", 7) == 0);
            return;
        }
        ck_assert_msg(waitpid(pid, NULL, WNOHANG) == 0, "cairnd ended before it was ready");
    }
    ck_abort_msg("cairnd is not ready after 10 s");
}

struct daemon daemon_start(const char *socket_path, const char *const options[])
{
    struct daemon d = {.pid = -1};
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (socket_path == NULL)
        paths_tmp();
    snprintf(d.socket, sizeof d.socket, "%s",
             socket_path != NULL ? socket_path : paths_tmp_file("cairn.sock"));
    snprintf(to.sun_path, sizeof to.sun_path, "%.90s.ready", d.socket);
    unlink(to.sun_path);
    int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(sock, (const struct sockaddr *)&to, sizeof to), 0);
    setenv("NOTIFY_SOCKET", to.sun_path, 1);
    d.pid = fork();
    ck_assert_int_ge(d.pid, 0);
    if (d.pid == 0)
        become(options, d.socket, -1);
    unsetenv("NOTIFY_SOCKET");
    await_ready(sock, d.pid);
    d.notify = sock;
    return d;
}

int daemon_stop(struct daemon *d)
{
    kill(d->pid, SIGTERM);
    int code = child_end(d->pid);
    close(d->notify);
    d->pid = -1;
    return code;
}

void daemon_kill(struct daemon *d)
{
    child_kill(d->pid);
    close(d->notify);
    d->pid = -1;
}

int daemon_run(const char *const options[], char *out, size_t out_bytes)
{
    int ends[2];
    size_t n = 0;
    ck_assert_int_eq(pipe(ends), 0);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        become(options, NULL, ends[1]);
    close(ends[1]);
    for (ssize_t got; n + 1 < out_bytes && (got = read(ends[0], out + n, out_bytes - 1 - n)) > 0;)
        n += (size_t)got;
    out[n] = '\0';
    close(ends[0]);
    return child_end(pid);
}
