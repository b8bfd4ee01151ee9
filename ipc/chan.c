/* ZeroMQ sockets with deadlines: DEALER for a worker, ROUTER for the broker, one context each.
 *
 * A worker's channel is `connected` or not; libzmq's I/O thread connects and reconnects (50 to 500
 * ms), and a monitor socket tells us when. Every connection is a generation. A request belongs to
 * the generation it was sent in: when that one ended, no answer can come (ZMQ_IMMEDIATE drops what
 * was queued), so recv says GONE at once instead of waiting for its deadline.
 *
 * The broker's side guards what libzmq does not: zmq_bind unlinks whatever lies at the path, so a
 * lock file is held first and anything but a socket is refused; the socket's mode follows umask;
 * ROUTER drops unroutable messages silently unless told; ids that peers choose themselves are
 * refused, and who they are comes from the kernel.
 *
 * Not here: running out of descriptors aborts libzmq (raise RLIMIT_NOFILE first), and one message
 * of very many frames is collected by libzmq before we see it; both need a peer that passed the
 * socket's 0600. */
#include "ipc/chan.h"

#include "ipc/log.h"

#include <zmq.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif

#define PATH_BYTES_MAX 100u /* sun_path is 108, and ".lock" and ".fd" are appended */
#define ADDRESS_BYTES 128
#define QUEUE_MESSAGES 64
#define AWAKE_NS 200000u
#define MONITOR_ADDRESS "inproc://events"
#define ROUTE_BYTES 5u /* an id that ROUTER made: a zero byte, then a number */

uint64_t crn_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- both sides ---- */

static const struct {
    int option, value;
} settings[] = {
    {ZMQ_LINGER, 0},           {ZMQ_SNDHWM, QUEUE_MESSAGES},  {ZMQ_RCVHWM, QUEUE_MESSAGES},
    {ZMQ_HEARTBEAT_IVL, 1000}, {ZMQ_HEARTBEAT_TIMEOUT, 3000}, {ZMQ_HEARTBEAT_TTL, 3000},
    {ZMQ_HANDSHAKE_IVL, 5000},
};

static int set(void *sock, int option, int value)
{
    return zmq_setsockopt(sock, option, &value, sizeof value) == 0 ? 0 : -zmq_errno();
}

static int set_common(void *sock)
{
    int64_t limit = CRN_MESSAGE_MAX;
    int status = 0;
    for (size_t i = 0; i < sizeof settings / sizeof settings[0] && status == 0; i++)
        status = set(sock, settings[i].option, settings[i].value);
    if (status == 0 && zmq_setsockopt(sock, ZMQ_MAXMSGSIZE, &limit, sizeof limit) != 0)
        status = -zmq_errno();
    return status;
}

/* "ipc://PATH"; names that libzmq reads as something else than a path are refused. */
static int address_of(const char *path, char out_address[ADDRESS_BYTES])
{
    if (path[0] == '\0' || path[0] == '@' || path[0] == '*')
        return CAIRN_E_ARG;
    if (strlen(path) > PATH_BYTES_MAX)
        return CAIRN_E_TOO_BIG;
    snprintf(out_address, ADDRESS_BYTES, "ipc://%s", path);
    return 0;
}

static void context_end(void *ctx)
{
    while (ctx != NULL && zmq_ctx_term(ctx) != 0 && zmq_errno() == EINTR)
        continue;
}

/* One frame, whole or not at all. */
static int frame_recv(void *sock, zmq_msg_t *out_frame)
{
    zmq_msg_init(out_frame);
    while (zmq_msg_recv(out_frame, sock, ZMQ_DONTWAIT) < 0) {
        if (zmq_errno() == EINTR)
            continue;
        int status = zmq_errno() == EAGAIN ? CAIRN_E_TIMEOUT : -zmq_errno();
        zmq_msg_close(out_frame);
        return status;
    }
    return 0;
}

/* Frames that follow frame: received and dropped. Returns how many. */
static int frames_drop(void *sock, const zmq_msg_t *frame)
{
    int n = 0;
    for (int more = zmq_msg_more(frame); more;) {
        zmq_msg_t extra;
        if (frame_recv(sock, &extra) != 0)
            break;
        more = zmq_msg_more(&extra);
        zmq_msg_close(&extra);
        n++;
    }
    return n;
}

static int frame_copy(zmq_msg_t *frame, void *buf, size_t buf_bytes, size_t *out_n)
{
    size_t n = zmq_msg_size(frame);
    if (n > buf_bytes)
        return CAIRN_E_PROTO;
    if (n > 0)
        memcpy(buf, zmq_msg_data(frame), n);
    *out_n = n;
    return 0;
}

/* ---- worker ---- */

struct crn_chan {
    void *ctx, *sock, *monitor;
    int connected;
    uint32_t generation, sent_generation; /* of connections; of the last message sent */
};

static int chan_start(struct crn_chan *chan, const char *address)
{
    chan->ctx = zmq_ctx_new();
    if (chan->ctx == NULL)
        return -zmq_errno();
    chan->sock = zmq_socket(chan->ctx, ZMQ_DEALER);
    chan->monitor = zmq_socket(chan->ctx, ZMQ_PAIR);
    if (chan->sock == NULL || chan->monitor == NULL)
        return -zmq_errno();
    int status = set_common(chan->sock);
    /* Only completed connections take messages: nothing meant for a dead broker reaches the next
     * one. */
    status = status != 0 ? status : set(chan->sock, ZMQ_IMMEDIATE, 1);
    status = status != 0 ? status : set(chan->sock, ZMQ_RECONNECT_IVL, 50);
    status = status != 0 ? status : set(chan->sock, ZMQ_RECONNECT_IVL_MAX, 500);
    /* Unlimited: a full monitor queue would stop the I/O thread. Events are few, one pair per
     * connection. */
    status = status != 0 ? status : set(chan->monitor, ZMQ_RCVHWM, 0);
    status = status != 0 ? status : set(chan->monitor, ZMQ_LINGER, 0);
    if (status != 0)
        return status;
    int events = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED;
    if (zmq_socket_monitor(chan->sock, MONITOR_ADDRESS, events) != 0 ||
        zmq_connect(chan->monitor, MONITOR_ADDRESS) != 0 || zmq_connect(chan->sock, address) != 0)
        return -zmq_errno();
    return 0;
}

int crn_chan_open(const char *path, struct crn_chan **out_chan)
{
    char address[ADDRESS_BYTES];
    int status = address_of(path, address);
    if (status != 0)
        return status;
    struct crn_chan *chan = calloc(1, sizeof *chan);
    if (chan == NULL)
        return -ENOMEM;
    status = chan_start(chan, address);
    if (status != 0) {
        crn_log(CRN_LOG_ERROR, "channel %s: %s", path, cairn_strerror(status));
        crn_chan_close(chan);
        return status;
    }
    *out_chan = chan;
    return 0;
}

void crn_chan_close(struct crn_chan *chan)
{
    if (chan == NULL)
        return;
    if (chan->sock != NULL) {
        zmq_socket_monitor(chan->sock, NULL, 0);
        zmq_close(chan->sock);
    }
    if (chan->monitor != NULL)
        zmq_close(chan->monitor);
    context_end(chan->ctx);
    free(chan);
}

/* Takes in what the monitor has to tell. */
static void chan_watch(struct crn_chan *chan)
{
    zmq_msg_t frame;
    while (frame_recv(chan->monitor, &frame) == 0) {
        uint16_t event = 0;
        if (zmq_msg_size(&frame) >= sizeof event)
            memcpy(&event, zmq_msg_data(&frame), sizeof event);
        frames_drop(chan->monitor, &frame); /* the address */
        zmq_msg_close(&frame);
        if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
            chan->connected = 1;
            chan->generation++;
        } else if (event == ZMQ_EVENT_DISCONNECTED) {
            chan->connected = 0;
        }
    }
}

/* Sleeps until the socket has one of events or the connection changes; CAIRN_E_TIMEOUT at the
 * deadline. */
static int chan_sleep(struct crn_chan *chan, short events, uint64_t deadline_ns)
{
    uint64_t now_ns = crn_now_ns();
    if (now_ns >= deadline_ns)
        return CAIRN_E_TIMEOUT;
    uint64_t left_ms = (deadline_ns - now_ns - 1) / 1000000u + 1;
    zmq_pollitem_t items[] = {{chan->sock, -1, events, 0}, {chan->monitor, -1, ZMQ_POLLIN, 0}};
    if (zmq_poll(items, 2, left_ms < 1000 ? (long)left_ms : 1000) < 0 && zmq_errno() != EINTR)
        return -zmq_errno();
    return 0;
}

int crn_chan_send(struct crn_chan *chan, const void *bytes, size_t n, uint64_t deadline_ns)
{
    if (n > CRN_MESSAGE_MAX)
        return CAIRN_E_TOO_BIG;
    for (;;) {
        chan_watch(chan);
        if (chan->connected) {
            if (zmq_send(chan->sock, bytes, n, ZMQ_DONTWAIT) >= 0) {
                chan->sent_generation = chan->generation;
                return 0;
            }
            if (zmq_errno() != EAGAIN && zmq_errno() != EINTR)
                return -zmq_errno();
        }
        int status = chan_sleep(chan, chan->connected ? ZMQ_POLLOUT : 0, deadline_ns);
        if (status != 0)
            return status == CAIRN_E_TIMEOUT && !chan->connected ? CAIRN_E_GONE : status;
    }
}

static int chan_take(struct crn_chan *chan, void *buf, size_t buf_bytes, size_t *out_n)
{
    zmq_msg_t frame;
    int status = frame_recv(chan->sock, &frame);
    if (status != 0)
        return status;
    status = frames_drop(chan->sock, &frame) == 0 ? frame_copy(&frame, buf, buf_bytes, out_n)
                                                  : CAIRN_E_PROTO;
    zmq_msg_close(&frame);
    return status;
}

/* An answer is usually there within a tenth of a millisecond, which is less than it takes to put a core to sleep, to wake it, and
 * to fill its caches again: looks for one that long, letting others run, before it sleeps. */
static int chan_take_soon(struct crn_chan *chan, void *buf, size_t buf_bytes, uint64_t deadline_ns,
                          size_t *out_n)
{
    uint64_t until_ns = crn_now_ns() + AWAKE_NS;
    until_ns = until_ns < deadline_ns ? until_ns : deadline_ns;
    int status = chan_take(chan, buf, buf_bytes, out_n);
    while (status == CAIRN_E_TIMEOUT && crn_now_ns() < until_ns) {
        sched_yield();
        status = chan_take(chan, buf, buf_bytes, out_n);
    }
    return status;
}

int crn_chan_recv(struct crn_chan *chan, void *buf, size_t buf_bytes, uint64_t deadline_ns,
                  size_t *out_n)
{
    for (;;) {
        chan_watch(chan);
        int broken = !chan->connected || chan->generation != chan->sent_generation;
        int status = chan_take_soon(chan, buf, buf_bytes, deadline_ns, out_n);
        if (status != CAIRN_E_TIMEOUT)
            return status;
        if (broken)
            return CAIRN_E_GONE;
        status = chan_sleep(chan, ZMQ_POLLIN, deadline_ns);
        if (status != 0)
            return status;
    }
}

int crn_chan_connected(struct crn_chan *chan)
{
    chan_watch(chan);
    return chan->connected;
}

uint32_t crn_chan_generation(struct crn_chan *chan)
{
    chan_watch(chan);
    return chan->generation;
}

/* ---- broker ---- */

struct crn_router {
    void *ctx, *sock;
    int lock_fd;
    int bound;
    char path[PATH_BYTES_MAX + 1];
};

/* The lock file stays: unlinking it would let two brokers lock two files of one name. */
static int lock_take(const char *path, int *out_fd)
{
    char lock_path[PATH_BYTES_MAX + sizeof ".lock"];
    snprintf(lock_path, sizeof lock_path, "%s.lock", path);
    int fd = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int status = errno == EWOULDBLOCK ? CAIRN_E_BUSY : -errno;
        close(fd);
        return status;
    }
    *out_fd = fd;
    return 0;
}

/* Binding deletes what is there; only a dead broker's socket may be. */
static int bind_private(void *sock, const char *path, const char *address)
{
    struct stat st;
    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode))
        return CAIRN_E_EXISTS;
    /* Of the whole process: a broker opens its router before it starts threads. */
    mode_t before = umask(0177);
    int status = zmq_bind(sock, address) == 0 ? 0 : -zmq_errno();
    umask(before);
    return status;
}

static int router_start(struct crn_router *router, const char *address)
{
    int status = lock_take(router->path, &router->lock_fd);
    if (status != 0)
        return status;
    router->ctx = zmq_ctx_new();
    router->sock = router->ctx != NULL ? zmq_socket(router->ctx, ZMQ_ROUTER) : NULL;
    if (router->sock == NULL)
        return -zmq_errno();
    status = set_common(router->sock);
    status = status != 0 ? status : set(router->sock, ZMQ_ROUTER_MANDATORY, 1);
    status = status != 0 ? status : bind_private(router->sock, router->path, address);
    router->bound = status == 0;
    return status;
}

int crn_router_open(const char *path, struct crn_router **out_router)
{
    char address[ADDRESS_BYTES];
    int status = address_of(path, address);
    if (status != 0)
        return status;
    struct crn_router *router = calloc(1, sizeof *router);
    if (router == NULL)
        return -ENOMEM;
    router->lock_fd = -1;
    memcpy(router->path, path, strlen(path) + 1);
    status = router_start(router, address);
    if (status != 0) {
        crn_log(CRN_LOG_ERROR, "socket %s: %s", path, cairn_strerror(status));
        crn_router_close(router);
        return status;
    }
    *out_router = router;
    return 0;
}

void crn_router_close(struct crn_router *router)
{
    if (router == NULL)
        return;
    if (router->sock != NULL)
        zmq_close(router->sock);
    context_end(router->ctx);
    if (router->bound)
        unlink(router->path);
    if (router->lock_fd >= 0)
        close(router->lock_fd);
    free(router);
}

int crn_router_fd(struct crn_router *router)
{
    int fd = -1;
    size_t bytes = sizeof fd;
    return zmq_getsockopt(router->sock, ZMQ_FD, &fd, &bytes) == 0 ? fd : -zmq_errno();
}

/* The kernel's word about the sender, as libzmq hands it on: "localhost:uid:gid:pid". */
static int peer_read(zmq_msg_t *route, zmq_msg_t *body, struct crn_peer *out)
{
    const uint8_t *id = zmq_msg_data(route);
    const char *address = zmq_msg_gets(body, "Peer-Address");
    unsigned uid, gid;
    int pid;
    if (zmq_msg_size(route) != ROUTE_BYTES || id[0] != 0 || address == NULL)
        return CAIRN_E_PROTO;
    if (sscanf(address, "localhost:%u:%u:%d", &uid, &gid, &pid) != 3)
        return CAIRN_E_PROTO;
    *out = (struct crn_peer){
        .route_bytes = ROUTE_BYTES, .uid = uid, .gid = gid, .pid = (pid_t)pid, .pidfd = -1};
    memcpy(out->route, id, ROUTE_BYTES);
    return 0;
}

/* By the connection's own descriptor, which libzmq may close and the kernel re-use at any time: a
 * duplicate keeps it still while we check that it belongs to the sender. Else (before Linux 6.5) by
 * number, which races with its re-use. */
static int peer_pidfd(zmq_msg_t *body, const struct crn_peer *peer)
{
    int pidfd = -1;
    socklen_t pidfd_bytes = sizeof pidfd;
    struct ucred cred;
    socklen_t cred_bytes = sizeof cred;
    int fd = fcntl(zmq_msg_get(body, ZMQ_SRCFD), F_DUPFD_CLOEXEC, 0);
    if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &cred_bytes) != 0 ||
        cred.pid != peer->pid || cred.uid != peer->uid ||
        getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &pidfd_bytes) != 0)
        pidfd = (int)syscall(SYS_pidfd_open, peer->pid, 0);
    if (fd >= 0)
        close(fd);
    return pidfd;
}

int crn_router_recv(struct crn_router *router, crn_wants_pidfd *wants, void *buf,
                    size_t buf_bytes, size_t *out_n, struct crn_peer *out_peer)
{
    zmq_msg_t route, body;
    int status = frame_recv(router->sock, &route);
    if (status != 0)
        return status;
    if (!zmq_msg_more(&route) || frame_recv(router->sock, &body) != 0) {
        zmq_msg_close(&route);
        return CAIRN_E_PROTO;
    }
    struct crn_peer peer;
    status =
        frames_drop(router->sock, &body) == 0 ? peer_read(&route, &body, &peer) : CAIRN_E_PROTO;
    if (status == 0)
        status = frame_copy(&body, buf, buf_bytes, out_n);
    if (status == 0) {
        if (wants != NULL && wants(buf, *out_n))
            peer.pidfd = peer_pidfd(&body, &peer);
        *out_peer = peer;
    }
    zmq_msg_close(&body);
    zmq_msg_close(&route);
    return status;
}

static int router_put(void *sock, const void *bytes, size_t n, int flags)
{
    while (zmq_send(sock, bytes, n, ZMQ_DONTWAIT | flags) < 0) {
        switch (zmq_errno()) {
        case EINTR:
            continue;
        case EAGAIN:
            return CAIRN_E_BUSY;
        case EHOSTUNREACH:
            return CAIRN_E_GONE;
        default:
            return -zmq_errno();
        }
    }
    return 0;
}

int crn_router_send(struct crn_router *router, const struct crn_peer *peer, const void *bytes,
                    size_t n)
{
    if (n > CRN_MESSAGE_MAX)
        return CAIRN_E_TOO_BIG;
    int status = router_put(router->sock, peer->route, peer->route_bytes, ZMQ_SNDMORE);
    return status != 0 ? status : router_put(router->sock, bytes, n, 0);
}
