/* chan - the control plane over ZeroMQ: DEALER in the worker, ROUTER in the broker, at ipc://PATH.
 * It moves byte strings of at most CRN_MESSAGE_MAX; what they mean is wire.h's business. Sockets are not thread-safe. */
#ifndef CRN_IPC_CHAN_H
#define CRN_IPC_CHAN_H

#include "ipc/cairn_status.h"

#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define CRN_MESSAGE_MAX 65536u

/* Monotonic clock, nanoseconds. */
uint64_t crn_now_ns(void);

/* ---- worker ---- */
struct crn_chan;

/* Connects lazily; never blocks. path: of the broker's socket, <= 100 bytes. fails -ENOMEM, CAIRN_E_ARG, CAIRN_E_TOO_BIG */
int crn_chan_open(const char *path, struct crn_chan **out_chan);
void crn_chan_close(struct crn_chan *chan); /* NULL allowed; never blocks */
/* Queues one message. CAIRN_E_GONE when no broker is connected within deadline_ns, CAIRN_E_TIMEOUT when it takes nothing,
 * CAIRN_E_TOO_BIG. */
int crn_chan_send(struct crn_chan *chan, const void *bytes, size_t n, uint64_t deadline_ns);
/* One message into buf; out_n its size. CAIRN_E_TIMEOUT at the deadline; CAIRN_E_GONE when the connection of the last message
 * sent is broken and nothing waits, also when a new one was made since: a killed broker at once (disconnect event), a stopped
 * one within 4 s (ZMTP heartbeats). CAIRN_E_PROTO when the message is larger than buf. */
int crn_chan_recv(struct crn_chan *chan, void *buf, size_t buf_bytes, uint64_t deadline_ns, size_t *out_n);
/* 1 while connected, 0 when not (yet, or any more). */
int crn_chan_connected(struct crn_chan *chan);
/* Number of connections made so far: a change means that the broker's session is gone and HELLO is due. */
uint32_t crn_chan_generation(struct crn_chan *chan);

/* ---- broker ---- */
struct crn_router;

/* Who sent a message, from the kernel (SO_PEERCRED) and ZeroMQ; `route` is ROUTER's own id and no identity. */
struct crn_peer {
    uint8_t route[16];
    uint32_t route_bytes;
    uid_t uid;
    gid_t gid;
    pid_t pid;
    int pidfd; /* only from crn_router_recv when wanted: owned by the caller, -1 when it cannot be had */
};

/* Takes PATH.lock (flock) before it binds; CAIRN_E_BUSY when another broker holds it. Socket mode 0600, directory must exist. */
int crn_router_open(const char *path, struct crn_router **out_router);
void crn_router_close(struct crn_router *router); /* unlinks the socket, drops the lock */
/* A file descriptor for poll(), edge-triggered: after it fires, and also after sending, receive until CAIRN_E_TIMEOUT before
 * the next poll(). */
int crn_router_fd(struct crn_router *router);
/* Does not block: CAIRN_E_TIMEOUT when nothing waits. A message that is too large or not of two frames is dropped here
 * (CAIRN_E_PROTO: count it and go on). wants: is the peer's pidfd to be opened for this
 * message (three system calls)? NULL: never. */
typedef int crn_wants_pidfd(const void *bytes, size_t n);
int crn_router_recv(struct crn_router *router, crn_wants_pidfd *wants, void *buf, size_t buf_bytes, size_t *out_n,
                    struct crn_peer *out_peer);
/* Does not block: CAIRN_E_BUSY when the peer's queue is full (64 messages; a dead peer's stays full until the next receive),
 * CAIRN_E_GONE when the peer is gone. */
int crn_router_send(struct crn_router *router, const struct crn_peer *peer, const void *bytes, size_t n);

#endif
