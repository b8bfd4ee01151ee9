/* client - what the files of libcairn share: the client object, its session with one broker process, and the one way to talk.
 *
 * A client lives as long as its owner wants; a session as long as one connection to one broker process. Leases and drafts hold
 * their session, so what they mapped stays mapped when the client has long gone on to the next one.
 * One thread at a time per client. */
#ifndef CRN_CLIENT_CLIENT_H
#define CRN_CLIENT_CLIENT_H

#include "client/cairn.h"
#include "client/ring.h"
#include "client/speed.h"
#include "ipc/chan.h"
#include "ipc/control.h"
#include "ipc/mem.h"
#include "ipc/wire.h"

#include <stddef.h>
#include <stdint.h>

#define CRN_PAYLOADS_MAX 1228u /* 49152 bytes of struct crn_payload_rec */
#define CRN_COUNTS_MAX 12288u  /* 49152 bytes of uint32 */
#define CRN_SOCKET_BYTES 108u
#define CRN_PATIENCE_NS 3000000000ull /* a broker that listens but does not answer in that time is gone */

struct crn_segment {
    uint64_t id;
    struct crn_mem mem;
};

/* A landing zone: memory that this worker may write, and which parts of it are in use. Belongs to one draft or one plan. */
struct crn_zone {
    uint64_t id;
    struct crn_mem mem;
    struct crn_ring ring;
};

struct crn_conn {
    uint32_t refs;
    uint32_t generation; /* of the channel it was made on, from 1; 0: not to be used any more */
    uint64_t id, max_entry_bytes, heartbeat_ns;
    int fd;              /* descriptor channel, -1 when closed */
    struct crn_mem control;
    struct crn_segment *arenas;
    size_t n_arenas;
    struct crn_segment zone; /* landing zone of the last draft: the broker may hand it out again; mem.ops NULL: none */
};

struct cairn_client {
    struct cairn_options options; /* strings: below */
    char socket[CRN_SOCKET_BYTES], fd_path[CRN_SOCKET_BYTES + 4];
    char space[CAIRN_MAX_LABEL + 1], label[CAIRN_MAX_LABEL + 1];
    struct crn_chan *chan;
    struct crn_conn *session; /* NULL: none, the next call connects */
    int stuck;                   /* 1: this connection cannot take another HELLO */
    uint64_t last_request;
    uint64_t sent_ns;            /* when the last message was sent */
    uint64_t sessions;           /* made so far */
    uint64_t retry_ns;           /* no attempt to connect before */
    uint32_t deaf;               /* attempts in a row that somebody took and nobody answered */
    struct cairn_lease *leases;  /* open ones */
    struct cairn_draft *drafts;
    void *spare;                 /* memory of the last lease that ended: the next one takes it over */
    size_t spare_bytes;
    uint32_t reason;             /* enum cairn_reason of the last match or attach */
    struct crn_learned learned;
    struct cairn_client_stats stats;
    char error[256];
    uint8_t in[CRN_MESSAGE_MAX], out[CRN_MESSAGE_MAX];
    struct crn_payload_rec payloads[CRN_PAYLOADS_MAX]; /* scratch of attach and show */
    uint32_t counts[CRN_COUNTS_MAX];
};

/* Notes what failed for cairn_error and returns code. */
int crn_client_fail(struct cairn_client *client, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Copies a structure that starts with its own size: what the caller's version lacks is zero, what it has beyond ours must be.
 * fails   CAIRN_E_ARG (size below min_bytes or NULL), CAIRN_E_UNSUPPORTED (a field of a newer version is set) */
int crn_sized_copy(void *dst, size_t dst_bytes, const void *src, size_t min_bytes);

/* A session, made now when there is none. Clears cairn_error: every public call begins here or with crn_client_begin. */
int crn_client_ready(struct cairn_client *client, uint64_t deadline_ns);
void crn_client_begin(struct cairn_client *client);
/* 1 while the session is the one that requests would use. */
int crn_client_current(struct cairn_client *client, const struct crn_conn *session);

/* One request and its answer. */
struct crn_call {
    enum crn_msg_type type;
    const void *msg;
    uint64_t request;
    enum crn_msg_type reply; /* expected type of the answer */
    void *out_reply;         /* its struct; views point into client->in and die with the next receive */
    uint64_t deadline_ns;
};
uint64_t crn_client_next(struct cairn_client *client);
int crn_client_call(struct cairn_client *client, const struct crn_call *call);
#define CRN_CALL(client, name, m, answer, out, deadline)                                           \
    crn_client_call((client), &(struct crn_call){.type = CRN_MSG_##name,                           \
                                                 .msg = &(m),                                      \
                                                 .request = (m).request = crn_client_next(client), \
                                                 .reply = CRN_MSG_##answer,                        \
                                                 .out_reply = (out),                               \
                                                 .deadline_ns = (deadline)})

/* Sends without waiting for the answer. deadline_ns 0: what does not go at once does not go. */
int crn_client_send(struct cairn_client *client, enum crn_msg_type type, const void *msg,
                    uint64_t deadline_ns);
/* Takes in answers that nobody waits for; waits for at least one when deadline_ns is not 0 (CAIRN_E_TIMEOUT). */
int crn_client_pump(struct cairn_client *client, uint64_t deadline_ns);

/* Session memory. Arenas stay mapped as long as the session is held. */
struct crn_conn *crn_conn_hold(struct crn_conn *session);
void crn_conn_drop(struct crn_conn *session); /* NULL allowed */
int crn_conn_open(struct cairn_client *client, uint64_t deadline_ns, struct crn_conn **out_session);
int crn_conn_arena(struct cairn_client *client, struct crn_conn *session, uint32_t id,
                   uint64_t deadline_ns, struct crn_mem *out_mem);
/* A landing zone of the current session; end with out_zone->mem.ops->destroy, or leave it to the session for the next draft. */
int crn_zone_map(struct cairn_client *client, uint64_t id, uint64_t deadline_ns,
                 struct crn_zone *out_zone);
void crn_zone_keep(struct crn_conn *session, struct crn_zone *zone);

/* Is a segment what the engine works on (rows), or what the CPU reads (everything else)? fails CAIRN_E_UNSUPPORTED */
int crn_conn_fits(const struct cairn_client *client, const struct crn_mem *mem);
int crn_conn_readable(const struct crn_mem *mem);
/* Copies between a segment's address (a device's or the host's) and host memory, which may be used again at once. */
int crn_conn_fetch(const struct crn_mem *mem, const void *at, void *host, uint64_t bytes);

/* attach.c, publish.c: what client.c ends for them, and answers that come by themselves. */
void crn_grant_free(struct cairn_lease *lease);
void crn_writer_free(struct cairn_draft *draft);
/* An answer to a PUT: status 0 or what it failed with. */
void crn_writer_answer(struct cairn_client *client, uint64_t request, int status);

/* Room in a landing zone, waiting for answers while there is none. */
int crn_zone_take(struct cairn_client *client, struct crn_zone *zone, uint64_t bytes,
                  uint64_t deadline_ns, uint64_t *out_off);

/* plan.c: a plan as it travels. CAIRN_E_PROTO when its numbers cannot be. */
int crn_client_plan(const struct crn_plan_rec *rec, struct cairn_plan *out_plan);

/* A view of a terminated text, NULL allowed. */
struct crn_bytes crn_client_text(const char *text);
/* Text from a fixed field of a record: terminated and printable. */
void crn_client_label(char out_label[64], const char label[64]);

#endif
