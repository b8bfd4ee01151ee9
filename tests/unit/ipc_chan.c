/* ipc/chan: requests reach a broker in another process and its answers come back; when it dies, is
 * stopped or replaced, the worker learns it in time; and peers that speak ZMTP badly, or not at
 * all, harm nobody else. */
#include "ipc/chan.h"

#include "ipc/log.h"
#include "tests/support/child.h"
#include "tests/support/paths.h"
#include "tests/support/run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND 1000000000ull

static char path[108];
static uint8_t buf[CRN_MESSAGE_MAX + 1];

static void setup(void)
{
    paths_tmp();
    atexit(paths_tmp_remove);
    snprintf(path, sizeof path, "%s", paths_tmp_file("b.sock"));
}

static uint64_t in(uint64_t seconds)
{
    return crn_now_ns() + seconds * SECOND;
}

/* ---- broker side ---- */

static int any_message(const void *bytes, size_t n)
{
    (void)bytes;
    return n > 0;
}

/* Waits (10 s) for the next message. */
static int take(struct crn_router *router, crn_wants_pidfd *wants, size_t *out_n, struct crn_peer *out_peer)
{
    uint64_t end_ns = in(10);
    for (;;) {
        int status = crn_router_recv(router, wants, buf, sizeof buf, out_n, out_peer);
        if (status != CAIRN_E_TIMEOUT || crn_now_ns() > end_ns)
            return status;
        struct pollfd p = {.fd = crn_router_fd(router), .events = POLLIN};
        poll(&p, 1, 200);
    }
}

static struct crn_router *opened_router(void)
{
    struct crn_router *router = NULL;
    ck_assert_int_eq(crn_router_open(path, &router), 0);
    return router;
}

/* Processes: a broker that answers everything with the same bytes; one that never answers. */
static int echo(void *ctx)
{
    struct crn_router *router;
    (void)ctx;
    if (crn_router_open(path, &router) != 0)
        return 1;
    for (;;) {
        struct crn_peer peer;
        size_t n;
        if (take(router, NULL, &n, &peer) == 0)
            crn_router_send(router, &peer, buf, n);
    }
    return 0;
}

static int swallow(void *ctx)
{
    struct crn_router *router;
    (void)ctx;
    if (crn_router_open(path, &router) != 0)
        return 1;
    for (;;) {
        struct crn_peer peer;
        size_t n;
        take(router, NULL, &n, &peer);
    }
    return 0;
}

/* A process that waits until it is let go and then is a broker: libzmq's threads forbid forking
 * later on. */
static int await_and_echo(void *ctx)
{
    char byte;
    return read(*(int *)ctx, &byte, 1) == 1 ? echo(NULL) : 1;
}

static pid_t standby(int *out_go)
{
    int ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    pid_t pid = child_start(await_and_echo, &ends[0]);
    close(ends[0]);
    *out_go = ends[1];
    return pid;
}

static void let_go(int go)
{
    ck_assert_int_eq(write(go, "g", 1), 1);
}

/* ---- worker side ---- */

static struct crn_chan *opened_chan(void)
{
    struct crn_chan *chan = NULL;
    ck_assert_int_eq(crn_chan_open(path, &chan), 0);
    return chan;
}

static void check_echo(struct crn_chan *chan, const char *text)
{
    size_t n = 0;
    ck_assert_int_eq(crn_chan_send(chan, text, strlen(text), in(10)), 0);
    ck_assert_int_eq(crn_chan_recv(chan, buf, sizeof buf, in(10), &n), 0);
    ck_assert_uint_eq(n, strlen(text));
    ck_assert_mem_eq(buf, text, n);
}

static int say_hi_and_stay(void *ctx)
{
    struct crn_chan *chan;
    (void)ctx;
    if (crn_chan_open(path, &chan) != 0 || crn_chan_send(chan, "hi", 2, in(10)) != 0)
        return 1;
    while (pause() != 0)
        continue;
    return 0;
}

/* ---- a peer that speaks ZMTP by hand ---- */

static void write_all(int fd, const void *bytes, size_t n)
{
    ck_assert_int_eq(send(fd, bytes, n, MSG_NOSIGNAL), (ssize_t)n);
}

static int raw_connect(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = 10};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

/* A DEALER after its handshake; identity of at most 9 bytes, "" lets the router choose. */
static int raw_dealer(const char *identity)
{
    uint8_t greeting[64] = {0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0, 'N', 'U', 'L', 'L'};
    uint8_t ready[64] = "\x04\x00\x05READY\x0bSocket-Type\x00\x00\x00\x06"
                        "DEALER\x08Identity\x00\x00\x00";
    size_t n = 2 + 6 + 12 + 4 + 6 + 9 + 3;
    ready[n++] = (uint8_t)strlen(identity);
    memcpy(ready + n, identity, strlen(identity));
    n += strlen(identity);
    ready[1] = (uint8_t)(n - 2);
    int fd = raw_connect();
    write_all(fd, greeting, sizeof greeting);
    write_all(fd, ready, n);
    ck_assert_int_eq(recv(fd, buf, 66, MSG_WAITALL), 66); /* greeting, and the head of READY */
    ck_assert_int_eq(recv(fd, buf + 66, buf[65], MSG_WAITALL), buf[65]);
    return fd;
}

static void raw_frame(int fd, int more, const void *bytes, size_t n)
{
    uint8_t head[9] = {(uint8_t)(2 | more)};
    for (size_t i = 0; i < 8; i++)
        head[8 - i] = (uint8_t)(n >> 8 * i);
    write_all(fd, head, sizeof head);
    if (n > 0)
        write_all(fd, bytes, n);
}

/* ---- request and answer ---- */

START_TEST(a_message_comes_back_from_a_broker_process)
{
    setup();
    pid_t broker = child_start(echo, NULL);
    struct crn_chan *chan = opened_chan();
    check_echo(chan, "hello");
    check_echo(chan, "");
    ck_assert_int_eq(crn_chan_connected(chan), 1);
    ck_assert_uint_eq(crn_chan_generation(chan), 1);
    crn_chan_close(chan);
    child_kill(broker);
}
END_TEST

START_TEST(the_largest_message_passes_and_no_larger_one)
{
    setup();
    pid_t broker = child_start(echo, NULL);
    struct crn_chan *chan = opened_chan();
    size_t n = 0;
    memset(buf, 'x', sizeof buf);
    ck_assert_int_eq(crn_chan_send(chan, buf, CRN_MESSAGE_MAX, in(10)), 0);
    ck_assert_int_eq(crn_chan_recv(chan, buf, sizeof buf, in(10), &n), 0);
    ck_assert_uint_eq(n, CRN_MESSAGE_MAX);
    ck_assert_int_eq(crn_chan_send(chan, buf, CRN_MESSAGE_MAX + 1, in(10)), CAIRN_E_TOO_BIG);
    ck_assert_int_eq(crn_chan_send(chan, buf, 100, in(10)), 0);
    ck_assert_int_eq(crn_chan_recv(chan, buf, 99, in(10), &n), CAIRN_E_PROTO);
    check_echo(chan, "still there");
    crn_chan_close(chan);
    child_kill(broker);
}
END_TEST

START_TEST(a_silent_broker_costs_the_deadline_and_no_more)
{
    setup();
    pid_t broker = child_start(swallow, NULL);
    struct crn_chan *chan = opened_chan();
    size_t n;
    ck_assert_int_eq(crn_chan_send(chan, "hi", 2, in(10)), 0);
    uint64_t start_ns = crn_now_ns();
    ck_assert_int_eq(crn_chan_recv(chan, buf, sizeof buf, start_ns + SECOND / 5, &n),
                     CAIRN_E_TIMEOUT);
    ck_assert_uint_ge(crn_now_ns() - start_ns, SECOND / 5);
    ck_assert_uint_lt(crn_now_ns() - start_ns, 2 * SECOND);
    crn_chan_close(chan);
    child_kill(broker);
}
END_TEST

START_TEST(the_router_knows_its_peer_from_the_kernel)
{
    setup();
    pid_t worker = child_start(say_hi_and_stay, NULL);
    struct crn_router *router = opened_router();
    int before = count_fds();
    struct crn_peer peer;
    size_t n;
    ck_assert_int_eq(take(router, any_message, &n, &peer), 0);
    ck_assert_uint_eq(n, 2);
    ck_assert_uint_eq(peer.uid, getuid());
    ck_assert_uint_eq(peer.gid, getgid());
    ck_assert_int_eq(peer.pid, worker);
    ck_assert_int_ge(peer.pidfd, 0);

    struct pollfd p = {.fd = peer.pidfd, .events = POLLIN};
    ck_assert_int_eq(poll(&p, 1, 0), 0);
    ck_assert_int_eq(kill(worker, SIGKILL), 0);
    ck_assert_int_eq(poll(&p, 1, 5000), 1);
    waitpid(worker, NULL, 0);
    close(peer.pidfd);

    uint64_t end_ns = in(5);
    int status;
    do { /* at first into its queue, then BUSY; receiving is what lets the router forget a peer */
        crn_router_recv(router, NULL, buf, sizeof buf, &n, &(struct crn_peer){0});
        status = crn_router_send(router, &peer, "hi", 2);
    } while (status != CAIRN_E_GONE && crn_now_ns() < end_ns);
    ck_assert_int_eq(status, CAIRN_E_GONE);
    ck_assert_int_le(count_fds(), before);
    crn_router_close(router);
}
END_TEST

START_TEST(all_waiting_messages_are_taken_after_one_wake_up)
{
    setup();
    struct crn_router *router = opened_router();
    struct crn_chan *chan = opened_chan();
    struct crn_peer peer;
    size_t n;
    for (uint8_t i = 0; i < 20; i++)
        ck_assert_int_eq(crn_chan_send(chan, &i, 1, in(10)), 0);
    for (uint8_t i = 0; i < 20; i++) {
        ck_assert_int_eq(take(router, NULL, &n, &peer), 0);
        ck_assert_uint_eq(buf[0], i);
        ck_assert_int_eq(peer.pidfd, -1);
    }
    ck_assert_int_eq(crn_router_recv(router, NULL, buf, sizeof buf, &n, &peer), CAIRN_E_TIMEOUT);
    crn_chan_close(chan);
    crn_router_close(router);
}
END_TEST

/* ---- a broker that goes away ---- */

START_TEST(a_killed_broker_is_gone_within_three_seconds)
{
    setup();
    pid_t broker = child_start(swallow, NULL);
    struct crn_chan *chan = opened_chan();
    size_t n;
    ck_assert_int_eq(crn_chan_send(chan, "hi", 2, in(10)), 0);
    uint64_t start_ns = crn_now_ns();
    child_kill(broker);
    ck_assert_int_eq(crn_chan_recv(chan, buf, sizeof buf, in(20), &n), CAIRN_E_GONE);
    ck_assert_uint_lt(crn_now_ns() - start_ns, 3 * SECOND);
    ck_assert_int_eq(crn_chan_connected(chan), 0);

    start_ns = crn_now_ns();
    ck_assert_int_eq(crn_chan_send(chan, "hi", 2, start_ns + SECOND / 5), CAIRN_E_GONE);
    ck_assert_uint_lt(crn_now_ns() - start_ns, 2 * SECOND);
    ck_assert_int_eq(crn_chan_recv(chan, buf, sizeof buf, in(20), &n), CAIRN_E_GONE);
    crn_chan_close(chan);
}
END_TEST

START_TEST(a_stopped_broker_is_noticed_by_heartbeats)
{
    setup();
    pid_t broker = child_start(echo, NULL);
    struct crn_chan *chan = opened_chan();
    size_t n;
    check_echo(chan, "hi");
    ck_assert_int_eq(kill(broker, SIGSTOP), 0);
    ck_assert_int_eq(crn_chan_send(chan, "hi", 2, in(10)), 0);
    uint64_t start_ns = crn_now_ns();
    ck_assert_int_eq(crn_chan_recv(chan, buf, sizeof buf, in(20), &n), CAIRN_E_GONE);
    ck_assert_uint_lt(crn_now_ns() - start_ns, 6 * SECOND);
    crn_chan_close(chan);
    child_kill(broker);
}
END_TEST

START_TEST(a_restarted_broker_is_a_new_generation)
{
    pid_t brokers[4];
    int go[4];
    size_t n;
    setup();
    for (size_t i = 0; i < 4; i++)
        brokers[i] = standby(&go[i]);
    let_go(go[0]);
    struct crn_chan *chan = opened_chan();
    check_echo(chan, "one");
    for (uint32_t generation = 1; generation <= 3; generation++) {
        ck_assert_uint_eq(crn_chan_generation(chan), generation);
        child_kill(brokers[generation - 1]);
        ck_assert_int_eq(crn_chan_recv(chan, buf, sizeof buf, in(5), &n), CAIRN_E_GONE);
        let_go(go[generation]);
        check_echo(chan, "again");
    }
    crn_chan_close(chan);
    child_kill(brokers[3]);
}
END_TEST

START_TEST(an_answer_of_a_lost_connection_is_not_awaited)
{
    int go;
    size_t n;
    setup();
    pid_t first = child_start(swallow, NULL), second = standby(&go);
    struct crn_chan *chan = opened_chan();
    ck_assert_int_eq(crn_chan_send(chan, "lost", 4, in(10)), 0);
    child_kill(first);
    let_go(go);
    uint64_t start_ns = crn_now_ns();
    while (crn_chan_generation(chan) < 2 && crn_now_ns() < start_ns + 10 * SECOND)
        poll(NULL, 0, 5);
    ck_assert_uint_eq(crn_chan_generation(chan), 2);
    start_ns = crn_now_ns();
    ck_assert_int_eq(crn_chan_recv(chan, buf, sizeof buf, in(20), &n), CAIRN_E_GONE);
    ck_assert_uint_lt(crn_now_ns() - start_ns, SECOND);
    check_echo(chan, "found");
    crn_chan_close(chan);
    child_kill(second);
}
END_TEST

START_TEST(without_a_broker_nothing_blocks)
{
    setup();
    struct crn_chan *chan = opened_chan();
    size_t n;
    uint64_t start_ns = crn_now_ns();
    ck_assert_int_eq(crn_chan_connected(chan), 0);
    ck_assert_int_eq(crn_chan_recv(chan, buf, sizeof buf, in(20), &n), CAIRN_E_GONE);
    ck_assert_int_eq(crn_chan_send(chan, "hi", 2, crn_now_ns() + SECOND / 5), CAIRN_E_GONE);
    ck_assert_uint_ge(crn_now_ns() - start_ns, SECOND / 5);
    crn_chan_close(chan);
    crn_chan_close(NULL);
    ck_assert_uint_lt(crn_now_ns() - start_ns, 3 * SECOND);
}
END_TEST

START_TEST(closing_does_not_wait_for_queued_messages)
{
    setup();
    pid_t broker = child_start(echo, NULL);
    struct crn_chan *chan = opened_chan();
    check_echo(chan, "hi");
    ck_assert_int_eq(kill(broker, SIGSTOP), 0);
    int status = 0;
    for (int i = 0; i < 10000 && status == 0; i++)
        status = crn_chan_send(chan, buf, 60000, crn_now_ns() + SECOND / 10);
    ck_assert_int_eq(status, CAIRN_E_TIMEOUT); /* bounded, and still connected */
    uint64_t start_ns = crn_now_ns();
    crn_chan_close(chan);
    ck_assert_uint_lt(crn_now_ns() - start_ns, SECOND);
    child_kill(broker);
}
END_TEST

/* ---- the address ---- */

START_TEST(a_second_broker_on_one_address_is_refused)
{
    int go;
    struct stat st;
    setup();
    pid_t process = standby(&go);
    struct crn_router *router = opened_router(), *second = NULL;
    int before = count_fds();
    ck_assert_int_eq(crn_router_open(path, &second), CAIRN_E_BUSY);
    ck_assert_ptr_null(second);
    ck_assert_int_eq(count_fds(), before);
    let_go(go);
    ck_assert_int_eq(child_end(process), 1); /* nor from another process */

    struct crn_chan *chan = opened_chan(); /* the first one still has it */
    struct crn_peer peer;
    size_t n;
    ck_assert_int_eq(crn_chan_send(chan, "hi", 2, in(10)), 0);
    ck_assert_int_eq(take(router, NULL, &n, &peer), 0);
    crn_chan_close(chan);

    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0600);
    crn_router_close(router);
    ck_assert_int_eq(stat(path, &st), -1);
    crn_router_close(opened_router());
    crn_router_close(NULL);
}
END_TEST

START_TEST(what_a_killed_broker_leaves_is_no_obstacle)
{
    setup();
    pid_t broker = child_start(echo, NULL);
    struct crn_chan *chan = opened_chan();
    struct stat st;
    check_echo(chan, "hi");
    crn_chan_close(chan);
    child_kill(broker);
    ck_assert_int_eq(stat(path, &st), 0);
    crn_router_close(opened_router());
}
END_TEST

START_TEST(a_file_that_is_no_socket_is_not_deleted)
{
    struct crn_router *router;
    struct stat st;
    setup();
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    close(fd);
    ck_assert_int_eq(crn_router_open(path, &router), CAIRN_E_EXISTS);
    ck_assert_int_eq(stat(path, &st), 0);
}
END_TEST

START_TEST(names_that_cannot_be_a_socket_are_refused)
{
    struct crn_router *router;
    struct crn_chan *chan;
    char name[128];
    ck_assert_int_eq(crn_router_open("", &router), CAIRN_E_ARG);
    ck_assert_int_eq(crn_router_open("@abstract", &router), CAIRN_E_ARG);
    ck_assert_int_eq(crn_chan_open("*", &chan), CAIRN_E_ARG);
    memset(name, 'x', sizeof name);
    memcpy(name, "/tmp/", 5);
    name[101] = '\0';
    ck_assert_int_eq(crn_chan_open(name, &chan), CAIRN_E_TOO_BIG);
    ck_assert_int_eq(crn_router_open(name, &router), CAIRN_E_TOO_BIG);
    ck_assert_int_eq(crn_router_open("/nowhere/at/all", &router), -ENOENT);
}
END_TEST

/* ---- hostile peers ---- */

START_TEST(bytes_that_are_no_zmtp_harm_nobody)
{
    setup();
    pid_t broker = child_start(echo, NULL);
    struct crn_chan *chan = opened_chan();
    check_echo(chan, "before");
    for (unsigned round = 0; round < 64; round++) {
        uint8_t garbage[512];
        int fd = raw_connect();
        for (size_t i = 0; i < sizeof garbage; i++)
            garbage[i] = (uint8_t)((i * 131 + round * 7919) >> round % 5);
        if (round % 2 == 0)
            garbage[0] = 0xff; /* as if a greeting followed */
        send(fd, garbage, 1 + round * 8, MSG_NOSIGNAL);
        close(fd);
    }
    check_echo(chan, "after");
    ck_assert_uint_eq(crn_chan_generation(chan), 1);
    crn_chan_close(chan);
    child_kill(broker);
}
END_TEST

START_TEST(a_peer_by_hand_is_served_like_any_other)
{
    setup();
    struct crn_router *router = opened_router();
    int fd = raw_dealer("");
    struct crn_peer peer;
    size_t n;
    raw_frame(fd, 0, "hi", 2);
    ck_assert_int_eq(take(router, NULL, &n, &peer), 0);
    ck_assert_uint_eq(n, 2);
    ck_assert_int_eq(peer.pid, getpid());
    close(fd);
    crn_router_close(router);
}
END_TEST

START_TEST(names_that_peers_choose_and_extra_frames_are_refused)
{
    setup();
    struct crn_router *router = opened_router();
    struct crn_peer peer;
    size_t n;
    int squatter = raw_dealer("worker-1"), chatty = raw_dealer("");
    raw_frame(squatter, 0, "hi", 2);
    ck_assert_int_eq(take(router, NULL, &n, &peer), CAIRN_E_PROTO);
    for (int i = 0; i < 3; i++)
        raw_frame(chatty, 1, "more", 4);
    raw_frame(chatty, 0, "end", 3);
    raw_frame(chatty, 0, "good", 4);
    ck_assert_int_eq(take(router, NULL, &n, &peer), CAIRN_E_PROTO);
    ck_assert_int_eq(take(router, NULL, &n, &peer), 0); /* frames do not run into the next message */
    ck_assert_mem_eq(buf, "good", 4);
    close(squatter);
    close(chatty);
    crn_router_close(router);
}
END_TEST

START_TEST(an_oversized_message_ends_the_connection)
{
    setup();
    struct crn_router *router = opened_router();
    struct crn_peer peer;
    size_t n;
    int fd = raw_dealer("");
    raw_frame(fd, 0, "", 0);
    ck_assert_int_eq(take(router, NULL, &n, &peer), 0);
    uint8_t head[9] = {2, 0, 0, 0, 0, 0, 1, 0, 1}; /* 65537 bytes are to come */
    write_all(fd, head, sizeof head);
    ck_assert_int_eq(recv(fd, buf, sizeof buf, 0), 0);
    ck_assert_int_eq(crn_router_recv(router, NULL, buf, sizeof buf, &n, &peer), CAIRN_E_TIMEOUT);
    close(fd);
    crn_router_close(router);
}
END_TEST

START_TEST(a_peer_that_never_reads_fills_its_own_queue_only)
{
    setup();
    struct crn_router *router = opened_router();
    struct crn_peer lazy, other;
    size_t n;
    int fd = raw_dealer(""), status = 0, sent = 0;
    raw_frame(fd, 0, "hi", 2);
    ck_assert_int_eq(take(router, NULL, &n, &lazy), 0);
    while (status == 0 && sent < 10000) {
        status = crn_router_send(router, &lazy, buf, 60000);
        sent += status == 0;
    }
    ck_assert_int_eq(status, CAIRN_E_BUSY);
    ck_assert_int_lt(sent, 200);

    struct crn_chan *chan = opened_chan();
    ck_assert_int_eq(crn_chan_send(chan, "hi", 2, in(10)), 0);
    ck_assert_int_eq(take(router, NULL, &n, &other), 0);
    ck_assert_int_eq(crn_router_send(router, &other, "served", 6), 0);
    ck_assert_int_eq(crn_chan_recv(chan, buf, sizeof buf, in(10), &n), 0);
    ck_assert_uint_eq(n, 6);
    ck_assert_int_eq(crn_router_send(router, &other, buf, CRN_MESSAGE_MAX + 1), CAIRN_E_TOO_BIG);
    crn_chan_close(chan);
    close(fd);
    crn_router_close(router);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(a_message_comes_back_from_a_broker_process),
        RUN_TEST(the_largest_message_passes_and_no_larger_one),
        RUN_TEST(a_silent_broker_costs_the_deadline_and_no_more),
        RUN_TEST(the_router_knows_its_peer_from_the_kernel),
        RUN_TEST(all_waiting_messages_are_taken_after_one_wake_up),
        RUN_TEST(a_killed_broker_is_gone_within_three_seconds),
        RUN_TEST(a_stopped_broker_is_noticed_by_heartbeats),
        RUN_TEST(a_restarted_broker_is_a_new_generation),
        RUN_TEST(an_answer_of_a_lost_connection_is_not_awaited),
        RUN_TEST(without_a_broker_nothing_blocks),
        RUN_TEST(closing_does_not_wait_for_queued_messages),
        RUN_TEST(a_second_broker_on_one_address_is_refused),
        RUN_TEST(what_a_killed_broker_leaves_is_no_obstacle),
        RUN_TEST(a_file_that_is_no_socket_is_not_deleted),
        RUN_TEST(names_that_cannot_be_a_socket_are_refused),
        RUN_TEST(bytes_that_are_no_zmtp_harm_nobody),
        RUN_TEST(a_peer_by_hand_is_served_like_any_other),
        RUN_TEST(names_that_peers_choose_and_extra_frames_are_refused),
        RUN_TEST(an_oversized_message_ends_the_connection),
        RUN_TEST(a_peer_that_never_reads_fills_its_own_queue_only),
    };
    crn_log_setup("ipc_chan", (enum crn_log_level)0); /* refusals are expected */
    return run_suite("ipc_chan", tests, sizeof tests / sizeof *tests);
}
