/* Descriptors over AF_UNIX SEQPACKET: one record per packet, at most one descriptor with it. A
 * socket here is a plain descriptor; who may have which segment, the one-time token and the
 * comparison of credentials are the broker's business.
 *
 * What arrives is hostile: descriptors are counted before the record is believed, and whatever is
 * not handed out is closed. The kernel closes what does not fit into our control buffer and says so
 * (MSG_CTRUNC). */
#include "ipc/fdchan.h"

#include "ipc/cairn_status.h"
#include "ipc/chan.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 128
#define FDS_TAKEN 8 /* room for surplus descriptors, to close them */

static int address_of(const char *path, struct sockaddr_un *out_address)
{
    size_t n = strlen(path);
    if (n == 0)
        return CAIRN_E_ARG;
    if (n >= sizeof out_address->sun_path)
        return CAIRN_E_TOO_BIG;
    *out_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(out_address->sun_path, path, n + 1);
    return 0;
}

static int socket_open(void)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd < 0 ? -errno : fd;
}

/* Binds with mode 0600; what lies there may be a dead broker's socket and nothing else. */
static int bind_private(int fd, const struct sockaddr_un *address)
{
    struct stat st;
    if (lstat(address->sun_path, &st) == 0) {
        if (!S_ISSOCK(st.st_mode))
            return CAIRN_E_EXISTS;
        if (unlink(address->sun_path) != 0)
            return -errno;
    }
    /* Of the whole process: a broker listens before it starts threads. */
    mode_t before = umask(0177);
    int status = bind(fd, (const struct sockaddr *)address, sizeof *address) == 0 ? 0 : -errno;
    umask(before);
    return status;
}

int crn_fd_listen(const char *path, int *out_fd)
{
    struct sockaddr_un address;
    int status = address_of(path, &address);
    if (status != 0)
        return status;
    int fd = socket_open();
    if (fd < 0)
        return fd;
    status = bind_private(fd, &address);
    if (status == 0 && listen(fd, BACKLOG) != 0)
        status = -errno;
    if (status != 0) {
        close(fd);
        return status;
    }
    *out_fd = fd;
    return 0;
}

int crn_fd_accept(int listen_fd, int *out_fd, uid_t *out_uid, pid_t *out_pid)
{
    struct ucred cred;
    socklen_t cred_bytes = sizeof cred;
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return -errno;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_bytes) != 0) {
        int status = -errno;
        close(fd);
        return status;
    }
    *out_fd = fd;
    *out_uid = cred.uid;
    *out_pid = cred.pid;
    return 0;
}

int crn_fd_connect(const char *path, int *out_fd)
{
    struct sockaddr_un address;
    int status = address_of(path, &address);
    if (status != 0)
        return status;
    int fd = socket_open();
    if (fd < 0)
        return fd;
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) != 0) {
        status = -errno;
        close(fd);
        if (status == -EAGAIN) /* the backlog is full */
            return CAIRN_E_BUSY;
        return status == -ENOENT || status == -ECONNREFUSED ? CAIRN_E_GONE : status;
    }
    *out_fd = fd;
    return 0;
}

static int gone_or(int error)
{
    return error == EPIPE || error == ECONNRESET || error == ENOTCONN ? CAIRN_E_GONE : -error;
}

int crn_fd_send(int sock, const struct crn_fd_record *record, int fd)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = {0}};
    struct iovec body = {.iov_base = (void *)(uintptr_t)record, .iov_len = sizeof *record};
    struct msghdr msg = {.msg_iov = &body, .msg_iovlen = 1};
    if (fd >= 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof control.bytes;
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    }
    for (;;) {
        if (sendmsg(sock, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
            return 0;
        if (errno != EINTR)
            return gone_or(errno);
    }
}

/* 0 when something waits; -EAGAIN or CAIRN_E_TIMEOUT otherwise. */
static int wait_readable(int sock, uint64_t deadline_ns)
{
    for (;;) {
        struct pollfd p = {.fd = sock, .events = POLLIN};
        uint64_t now_ns = deadline_ns != 0 ? crn_now_ns() : 0;
        uint64_t left_ns = deadline_ns > now_ns ? deadline_ns - now_ns : 0;
        struct timespec left = {.tv_sec = (time_t)(left_ns / 1000000000u),
                                .tv_nsec = (long)(left_ns % 1000000000u)};
        int n = ppoll(&p, 1, &left, NULL);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            return deadline_ns == 0 ? -EAGAIN : CAIRN_E_TIMEOUT;
    }
}

/* All descriptors of a packet; the caller owns them. */
static size_t take_fds(struct msghdr *msg, int out_fds[FDS_TAKEN])
{
    size_t n = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t here = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        here = here < FDS_TAKEN - n ? here : FDS_TAKEN - n;
        memcpy(out_fds + n, CMSG_DATA(c), here * sizeof(int));
        n += here;
    }
    return n;
}

static int record_check(const struct crn_fd_record *r, ssize_t n, int flags)
{
    if ((flags & (MSG_TRUNC | MSG_CTRUNC)) != 0 || n != (ssize_t)sizeof *r)
        return CAIRN_E_PROTO;
    if (r->magic != CRN_FD_MAGIC)
        return CAIRN_E_PROTO;
    return r->version == CRN_FD_VERSION ? 0 : CAIRN_E_VERSION;
}

int crn_fd_recv(int sock, uint64_t deadline_ns, struct crn_fd_record *out_record, int *out_fd)
{
    struct crn_fd_record record;
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(FDS_TAKEN * sizeof(int))];
    } control;
    struct iovec body = {.iov_base = &record, .iov_len = sizeof record};
    struct msghdr msg = {.msg_iov = &body,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof control.bytes};
    int status = wait_readable(sock, deadline_ns);
    if (status != 0)
        return status;
    ssize_t n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (n < 0)
        return gone_or(errno);

    int fds[FDS_TAKEN];
    size_t n_fds = take_fds(&msg, fds);
    status = n == 0 ? CAIRN_E_GONE : record_check(&record, n, msg.msg_flags);
    if (status == 0 && n_fds > 1)
        status = CAIRN_E_PROTO;
    if (status == 0) {
        *out_record = record;
        *out_fd = n_fds == 1 ? fds[0] : -1;
        return 0;
    }
    for (size_t i = 0; i < n_fds; i++)
        close(fds[i]);
    return status;
}
