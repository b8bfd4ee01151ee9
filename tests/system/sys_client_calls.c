/* Attaching again costs one message and nothing else: the system calls of a worker are counted with ptrace. What remains is how
 * libzmq hands a message to its I/O thread and hears back: an eventfd written, polled and read, getpid to notice a fork, and yields while the answer is awaited awake. */
#include "client/cairn.h"
#include "tests/support/broker.h"
#include "tests/support/child.h"
#include "tests/support/run.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define N 1000u
#define ROUNDS 20

static const char *const small[] = {"--memory", "32M", "--log-level", "error", NULL};
static int32_t context[N];

static void attach_once(struct cairn_client *client)
{
    struct cairn_lease *lease;
    if (tiny_attach(client, context, N, &lease) != 0)
        _exit(3);
    for (uint32_t layer = 0; layer < TINY_LAYERS; layer++) {
        struct cairn_layer_view view;
        if (cairn_wait(lease, 0, layer, CAIRN_WAIT_KV, SOON) != 0 ||
            cairn_lease_layer(lease, 0, layer, &view) != 0 || view.heads[0].n != N)
            _exit(4);
    }
    if (cairn_lease_check(lease) != 0)
        _exit(5);
    cairn_release(lease);
}

/* getppid marks the part that counts. */
static int attach_often(void *ctx)
{
    struct cairn_client *client = tiny_open(ctx, 1);
    attach_once(client);
    attach_once(client);
    if (ptrace(PTRACE_TRACEME, 0, 0, 0) != 0)
        return 6;
    raise(SIGSTOP);
    syscall(SYS_getppid);
    for (int i = 0; i < ROUNDS; i++)
        attach_once(client);
    syscall(SYS_getppid);
    return 0;
}

/* Counts calls between the two marks, by number. */
static void trace(pid_t pid, uint32_t calls[512])
{
    int status, marks = 0;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFSTOPPED(status), "the worker ended with %d", WEXITSTATUS(status));
    ck_assert_int_eq(ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL), 0);
    while (marks < 2) {
        struct __ptrace_syscall_info info;
        ck_assert_int_eq(ptrace(PTRACE_SYSCALL, pid, 0, 0), 0);
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(WIFSTOPPED(status));
        if (WSTOPSIG(status) != (SIGTRAP | 0x80))
            continue;
        ck_assert_int_gt(ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof info, &info), 0);
        if (info.op != PTRACE_SYSCALL_INFO_ENTRY)
            continue;
        if (info.entry.nr == SYS_getppid)
            marks++;
        else if (marks == 1 && info.entry.nr < 512)
            calls[info.entry.nr]++;
    }
    child_kill(pid);
}

static int is_of_message(unsigned nr)
{
    return nr == SYS_read || nr == SYS_write || nr == SYS_poll || nr == SYS_ppoll || nr == SYS_getpid ||
           nr == SYS_sched_yield;
}

START_TEST(attaching_again_makes_no_system_call_but_those_of_the_message)
{
    struct broker b;
    struct cairn_entry_id entry;
    uint32_t calls[512] = {0}, of_message = 0, other = 0;
    broker_start(&b, small);
    tiny_tokens(context, N, 5);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N};
    struct cairn_client *client = tiny_open(&b, 1);
    ck_assert_int_eq(tiny_publish(client, &e, &entry), 0);
    cairn_close(client);
    trace(child_start(attach_often, &b), calls);
    for (unsigned nr = 0; nr < 512; nr++) {
        if (is_of_message(nr))
            of_message += calls[nr];
        else
            other += calls[nr];
        if (!is_of_message(nr) && calls[nr] > 0)
            fprintf(stderr, "system call %u: %u times in %d attaches\n", nr, calls[nr], ROUNDS);
    }
    fprintf(stderr, "%u calls for %d attaches and releases\n", of_message, ROUNDS);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    ck_assert_uint_eq(other, 0); /* the sanitizers' own calls would count */
#endif
    ck_assert_uint_gt(of_message, 0);
    broker_stop(&b);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(attaching_again_makes_no_system_call_but_those_of_the_message),
    };
    return run_suite("client_calls", tests, sizeof tests / sizeof tests[0]);
}
