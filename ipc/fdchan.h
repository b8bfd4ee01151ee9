/* fdchan - AF_UNIX SEQPACKET socket beside the ZeroMQ one (PATH.fd): the only way descriptors travel.
 *
 * A session gets a one-time token in WELCOME. The worker connects, sends FD_AUTH with it, and may then ask for segments of its
 * session. The broker accepts the token once, and only when SO_PEERCRED here equals the kernel's word about the ZeroMQ peer.
 * One fixed-size record per packet, at most one descriptor per packet, surplus descriptors are closed and refused. */
#ifndef CRN_IPC_FDCHAN_H
#define CRN_IPC_FDCHAN_H

#include "ipc/mem.h"

#include <stdint.h>
#include <sys/types.h>

#define CRN_FD_MAGIC 0x44464e43u /* "CNFD" */
#define CRN_FD_VERSION 1u

enum crn_fd_op {
    CRN_FD_AUTH = 1,    /* token -> the session's control page */
    CRN_FD_ARENA = 2,   /* id -> an arena of the session's namespace */
    CRN_FD_LANDING = 3, /* id -> the session's landing zone */
};

struct crn_fd_record {
    uint32_t magic;
    uint16_t version;
    uint16_t op;        /* enum crn_fd_op; the reply repeats it */
    int32_t status;     /* reply: 0 or a code; request: 0 */
    uint32_t reserved;
    uint64_t id;        /* arena or landing id; AUTH: session */
    uint8_t token[16];  /* AUTH only */
    struct crn_mem_token mem; /* reply */
};
_Static_assert(sizeof(struct crn_fd_record) == 136, "record travels as bytes");

/* broker: listening socket (mode 0600, close-on-exec, non-blocking); unlinks a stale file first (the lock is held). */
int crn_fd_listen(const char *path, int *out_fd);
/* broker: accepts one connection (non-blocking): -EAGAIN when none. Peer as the kernel knows it. */
int crn_fd_accept(int listen_fd, int *out_fd, uid_t *out_uid, pid_t *out_pid);
/* worker: connects. CAIRN_E_GONE when nobody listens. */
int crn_fd_connect(const char *path, int *out_fd);
/* Sends a record, with fd attached unless -1. Non-blocking: -EAGAIN. CAIRN_E_GONE when the peer closed. */
int crn_fd_send(int sock, const struct crn_fd_record *record, int fd);
/* Receives one record; out_fd -1 when none came. Checks size, magic, version (CAIRN_E_PROTO, CAIRN_E_VERSION; descriptors that
 * came along are closed). deadline_ns 0: do not block (-EAGAIN). CAIRN_E_GONE at end of file. */
int crn_fd_recv(int sock, uint64_t deadline_ns, struct crn_fd_record *out_record, int *out_fd);

#endif
