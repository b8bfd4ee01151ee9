/* ipc/fdchan: one descriptor per record reaches another process; everything that does not fit is
 * refused and leaks nothing. */
#include "ipc/fdchan.h"

#include "ipc/cairn_status.h"
#include "ipc/chan.h"
#include "ipc/control.h"
#include "tests/support/child.h"
#include "tests/support/paths.h"
#include "tests/support/run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECOND 1000000000ull

static char path[108];
static int listener, broker, worker; /* a connected pair: broker accepted worker */

static uint64_t in(uint64_t seconds)
{
    return crn_now_ns() + seconds * SECOND;
}

static void listen_only(void)
{
    paths_tmp();
    atexit(paths_tmp_remove);
    snprintf(path, sizeof path, "%s", paths_tmp_file("b.sock.fd"));
    ck_assert_int_eq(crn_fd_listen(path, &listener), 0);
}

static void accept_one(uid_t *out_uid, pid_t *out_pid)
{
    struct pollfd p = {.fd = listener, .events = POLLIN};
    ck_assert_int_eq(poll(&p, 1, 10000), 1);
    ck_assert_int_eq(crn_fd_accept(listener, &broker, out_uid, out_pid), 0);
}

static void connect_pair(void)
{
    uid_t uid;
    pid_t pid;
    listen_only();
    ck_assert_int_eq(crn_fd_connect(path, &worker), 0);
    accept_one(&uid, &pid);
    ck_assert_uint_eq(uid, getuid());
    ck_assert_int_eq(pid, getpid());
}

static struct crn_fd_record record(uint16_t op, uint64_t id)
{
    return (struct crn_fd_record){
        .magic = CRN_FD_MAGIC, .version = CRN_FD_VERSION, .op = op, .id = id};
}

/* Any bytes with any number of descriptors (copies of one), as a hostile peer would send them. */
static void send_raw(const void *bytes, size_t n, size_t n_fds)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(64 * sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec body = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = n};
    struct msghdr msg = {.msg_iov = &body, .msg_iovlen = 1};
    if (n_fds > 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
        for (size_t i = 0; i < n_fds; i++)
            memcpy(CMSG_DATA(&control.header) + i * sizeof(int), &listener, sizeof listener);
    }
    ck_assert_int_eq(sendmsg(worker, &msg, MSG_NOSIGNAL), (ssize_t)n);
}

static void check_refused(const void *bytes, size_t n, size_t n_fds, int want)
{
    struct crn_fd_record got;
    int before = count_fds(), fd = 99;
    send_raw(bytes, n, n_fds);
    ck_assert_int_eq(crn_fd_recv(broker, in(10), &got, &fd), want);
    ck_assert_int_eq(fd, 99);
    ck_assert_int_eq(count_fds(), before);
}

/* ---- what it is for ---- */

/* A worker process: asks, maps what comes read-only, and finds the broker's mark in it. */
static int fetch_page(void *ctx)
{
    struct crn_fd_record r = record(CRN_FD_AUTH, 77), reply;
    struct crn_mem page;
    int sock, fd;
    (void)ctx;
    memcpy(r.token, "0123456789abcdef", sizeof r.token);
    if (crn_fd_connect(path, &sock) != 0 || crn_fd_send(sock, &r, -1) != 0)
        return 1;
    if (crn_fd_recv(sock, in(10), &reply, &fd) != 0 || reply.op != CRN_FD_AUTH || reply.id != 77)
        return 2;
    if ((fcntl(fd, F_GETFD) & FD_CLOEXEC) == 0)
        return 3;
    if (crn_mem_host.import_token(&reply.mem, fd, CRN_MEM_READ, &page) != 0)
        return 4;
    if (crn_control_check(&page) != 0)
        return 5;
    return crn_control_wait(crn_control_slot_at(&page, 9), 4, 0, in(10), NULL, NULL) == 0 ? 0 : 6;
}

START_TEST(a_worker_process_gets_and_maps_its_control_page)
{
    struct crn_fd_record r;
    struct crn_mem page;
    uid_t uid;
    pid_t pid;
    int fd;
    listen_only();
    ck_assert_int_eq(crn_control_create(&page), 0);
    pid_t child = child_start(fetch_page, NULL);
    accept_one(&uid, &pid);
    ck_assert_int_eq(pid, child);
    ck_assert_int_eq(crn_fd_recv(broker, in(10), &r, &fd), 0);
    ck_assert_int_eq(fd, -1);
    ck_assert_int_eq(r.op, CRN_FD_AUTH);
    ck_assert_mem_eq(r.token, "0123456789abcdef", 16);
    ck_assert_int_eq(crn_mem_host.export_token(&page, &r.mem, &fd), 0);
    ck_assert_int_eq(crn_fd_send(broker, &r, fd), 0);
    crn_control_set(crn_control_slot_at(&page, 9), 4, CRN_PROGRESS_READY);
    ck_assert_int_eq(child_end(child), 0);
    ck_assert_int_eq(crn_fd_recv(broker, in(10), &r, &fd), CAIRN_E_GONE); /* it ended */
}
END_TEST

START_TEST(records_keep_their_order_and_their_descriptors)
{
    struct crn_fd_record r;
    int fd;
    connect_pair();
    int before = count_fds();
    for (uint64_t i = 0; i < 4; i++) {
        r = record(CRN_FD_ARENA, i);
        ck_assert_int_eq(crn_fd_send(worker, &r, i % 2 == 0 ? listener : -1), 0);
    }
    for (uint64_t i = 0; i < 4; i++) {
        ck_assert_int_eq(crn_fd_recv(broker, 0, &r, &fd), 0);
        ck_assert_uint_eq(r.id, i);
        ck_assert_int_eq(fd >= 0, i % 2 == 0);
    }
    ck_assert_int_eq(count_fds(), before + 2);
}
END_TEST

/* ---- what is refused ---- */

START_TEST(surplus_descriptors_are_closed_and_refused)
{
    struct crn_fd_record r = record(CRN_FD_ARENA, 1);
    connect_pair();
    check_refused(&r, sizeof r, 2, CAIRN_E_PROTO);
    check_refused(&r, sizeof r, 8, CAIRN_E_PROTO);
    check_refused(&r, sizeof r, 9, CAIRN_E_PROTO); /* more than there is room for */
    check_refused(&r, sizeof r, 64, CAIRN_E_PROTO);
}
END_TEST

START_TEST(a_descriptor_that_finds_no_room_is_noticed)
{
    struct crn_fd_record r = record(CRN_FD_ARENA, 1);
    connect_pair();
    struct rlimit limit = {(rlim_t)broker + 2, 4096}; /* worker, broker and no more */
    ck_assert_int_eq(dup(0), broker + 1);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    ck_assert_int_eq(dup(0), -1);
    int fd = 99;
    send_raw(&r, sizeof r, 1);
    ck_assert_int_eq(crn_fd_recv(broker, in(10), &r, &fd), CAIRN_E_PROTO);
    ck_assert_int_eq(fd, 99);
    limit.rlim_cur = limit.rlim_max; /* a leak check at exit opens files */
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}
END_TEST

START_TEST(other_magics_versions_and_sizes_are_refused_with_what_they_bring)
{
    uint8_t longer[2 * sizeof(struct crn_fd_record)] = {0};
    connect_pair();
    struct crn_fd_record r = record(CRN_FD_ARENA, 1);
    r.magic ^= 1;
    check_refused(&r, sizeof r, 1, CAIRN_E_PROTO);
    r = record(CRN_FD_ARENA, 1);
    r.version++;
    check_refused(&r, sizeof r, 1, CAIRN_E_VERSION);
    r.version--;
    memcpy(longer, &r, sizeof r);
    check_refused(longer, sizeof r - 1, 1, CAIRN_E_PROTO);
    check_refused(longer, sizeof r + 1, 1, CAIRN_E_PROTO);
    check_refused(longer, sizeof longer, 1, CAIRN_E_PROTO);
    check_refused(longer, 1, 0, CAIRN_E_PROTO);
    check_refused(longer, 0, 1, CAIRN_E_GONE); /* an empty packet looks like the end */
}
END_TEST

/* ---- waiting and ending ---- */

START_TEST(receiving_keeps_its_deadline)
{
    struct crn_fd_record r;
    int fd;
    connect_pair();
    uint64_t start_ns = crn_now_ns();
    ck_assert_int_eq(crn_fd_recv(broker, 0, &r, &fd), -EAGAIN);
    ck_assert_int_eq(crn_fd_recv(broker, start_ns + SECOND / 10, &r, &fd), CAIRN_E_TIMEOUT);
    ck_assert_uint_ge(crn_now_ns() - start_ns, SECOND / 10);
    ck_assert_uint_lt(crn_now_ns() - start_ns, 2 * SECOND);
}
END_TEST

START_TEST(a_closed_peer_is_gone_for_both_directions)
{
    struct crn_fd_record r = record(CRN_FD_ARENA, 1);
    int fd;
    connect_pair();
    ck_assert_int_eq(crn_fd_send(worker, &r, -1), 0);
    close(worker);
    ck_assert_int_eq(crn_fd_recv(broker, in(10), &r, &fd), 0); /* what it sent still arrives */
    ck_assert_int_eq(crn_fd_recv(broker, in(10), &r, &fd), CAIRN_E_GONE);
    ck_assert_int_eq(crn_fd_send(broker, &r, listener), CAIRN_E_GONE);
}
END_TEST

START_TEST(a_peer_that_never_reads_does_not_block_the_sender)
{
    struct crn_fd_record r = record(CRN_FD_ARENA, 1);
    int status = 0, sent = 0;
    connect_pair();
    while (status == 0 && sent < 100000) {
        status = crn_fd_send(broker, &r, -1);
        sent += status == 0;
    }
    ck_assert_int_eq(status, -EAGAIN);
}
END_TEST

/* ---- the address ---- */

START_TEST(only_a_listening_broker_can_be_connected)
{
    int fd;
    uid_t uid;
    pid_t pid;
    struct stat st;
    listen_only();
    ck_assert_int_eq(crn_fd_accept(listener, &fd, &uid, &pid), -EAGAIN);
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0600);
    close(listener);
    ck_assert_int_eq(crn_fd_connect(path, &fd), CAIRN_E_GONE); /* its socket is still there */
    ck_assert_int_eq(crn_fd_listen(path, &listener), 0);       /* and is no obstacle */
    ck_assert_int_eq(crn_fd_connect(path, &fd), 0);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(crn_fd_connect(path, &fd), CAIRN_E_GONE);
}
END_TEST

START_TEST(a_full_backlog_does_not_block_a_worker)
{
    int fd, status = 0, connected = 0;
    listen_only();
    while (status == 0 && connected < 500) {
        status = crn_fd_connect(path, &fd);
        connected += status == 0;
    }
    ck_assert_int_eq(status, CAIRN_E_BUSY);
}
END_TEST

START_TEST(names_that_cannot_be_a_socket_are_refused)
{
    char name[200];
    int fd;
    struct stat st;
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = '\0';
    ck_assert_int_eq(crn_fd_listen(name, &fd), CAIRN_E_TOO_BIG);
    ck_assert_int_eq(crn_fd_connect(name, &fd), CAIRN_E_TOO_BIG);
    ck_assert_int_eq(crn_fd_listen("", &fd), CAIRN_E_ARG);
    listen_only();
    const char *file = paths_tmp_file("file");
    close(open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    ck_assert_int_eq(crn_fd_listen(file, &fd), CAIRN_E_EXISTS);
    ck_assert_int_eq(stat(file, &st), 0);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(a_worker_process_gets_and_maps_its_control_page),
        RUN_TEST(records_keep_their_order_and_their_descriptors),
        RUN_TEST(surplus_descriptors_are_closed_and_refused),
        RUN_TEST(a_descriptor_that_finds_no_room_is_noticed),
        RUN_TEST(other_magics_versions_and_sizes_are_refused_with_what_they_bring),
        RUN_TEST(receiving_keeps_its_deadline),
        RUN_TEST(a_closed_peer_is_gone_for_both_directions),
        RUN_TEST(a_peer_that_never_reads_does_not_block_the_sender),
        RUN_TEST(only_a_listening_broker_can_be_connected),
        RUN_TEST(a_full_backlog_does_not_block_a_worker),
        RUN_TEST(names_that_cannot_be_a_socket_are_refused),
    };
    return run_suite("ipc_fdchan", tests, sizeof tests / sizeof *tests);
}
