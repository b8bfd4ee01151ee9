/* session - one connected worker or tool, and all it holds: leases, drafts, landing zones, control page, answers not yet sent.
 *
 * Many things can end a session: bye, the process's death (pidfd), its descriptor channel closing, answers that it does not
 * take, the broker's end. All of them only mark it (crn_session_doom); at the end of the turn the loop reaps what is marked
 * through the one function crn_session_reap. So no code on the way meets a session that is half gone. */
#ifndef CRN_BROKER_SESSION_H
#define CRN_BROKER_SESSION_H

#include "broker/landing.h"
#include "broker/loop.h"
#include "broker/space.h"
#include "ipc/chan.h"
#include "ipc/control.h"
#include "ipc/wire.h"

#include <stdbool.h>
#include <stdint.h>

struct crn_broker;
struct crn_draft;
struct crn_lease;

#define CRN_SESSION_DRAFTS 8u    /* open at a time */
#define CRN_SESSION_LANDINGS 16u /* including those of drafts */
#define CRN_SESSION_QUEUE 64u    /* answers that wait for the peer to read */
#define CRN_SESSION_PARKED 1024u /* requests that wait for memory */

struct crn_outgoing {
    struct crn_outgoing *next;
    size_t n;
    uint8_t bytes[];
};

/* A request that waits for memory, or behind one that does. */
struct crn_parked {
    struct crn_parked *next;
    uint64_t until_ns; /* then it is answered as things are */
    size_t n;
    uint8_t bytes[];
};

struct crn_session {
    struct crn_session *next;
    struct crn_broker *broker;
    uint64_t id;
    struct crn_peer peer; /* route and what the kernel says; pidfd -1 when it could not be had */
    struct crn_watch death;
    struct crn_space *space;
    const struct crn_model *model; /* NULL: a tool */
    struct cairn_digest digest, family;
    struct cairn_shape shape;
    char label[CAIRN_MAX_LABEL + 1];
    uint8_t token[16];
    bool token_used;
    struct crn_mem control;
    struct crn_lease *leases[CRN_CONTROL_SLOTS]; /* by slot */
    uint32_t n_leases;
    struct crn_draft *drafts;
    uint32_t n_drafts;
    struct crn_landing *landings;
    uint32_t n_landings;
    struct crn_landing *spare; /* of the last draft: the next one takes it over; NULL */
    uint64_t spare_ns;         /* when it became idle */
    struct crn_landing *retired; /* cuda-ipc: idle, not freed while the worker may have them open */
    struct crn_outgoing *queue, **queue_end;
    uint32_t n_queue;
    struct crn_parked *parked, **parked_end; /* in the order they came (dispatch.c) */
    uint32_t n_parked;
    uint64_t connected_ns, seen_ns;
    uint64_t requests, hits, published, saved_bytes;
    const char *doom; /* why it ends; NULL while it lives */
    bool said_bye;    /* it ended itself; every other end counts as a death */
};

struct crn_sessions {
    struct crn_session *first;
    uint32_t n;
    bool any_doomed;
};

/* What a HELLO says, checked. */
struct crn_session_spec {
    struct crn_peer peer; /* pidfd is taken over on success */
    struct crn_space *space;
    const struct crn_model *model;
    struct cairn_digest digest, family;
    struct cairn_shape shape;
    char label[CAIRN_MAX_LABEL + 1];
};

/* fails -ENOMEM, -errno (random numbers, memory) */
int crn_session_create(struct crn_broker *broker, const struct crn_session_spec *spec,
                       struct crn_session **out_session);
/* By ZeroMQ route; NULL when there is none. */
struct crn_session *crn_session_of_route(const struct crn_sessions *all,
                                         const struct crn_peer *peer);
struct crn_session *crn_session_of_id(const struct crn_sessions *all, uint64_t id);
/* Marks the session; the first reason counts. why: a literal, for the log. */
void crn_session_doom(struct crn_session *session, const char *why);
/* Ends all marked sessions, or every one of them (all != 0). */
void crn_session_reap_doomed(struct crn_broker *broker, int all);

/* Sends a message, or queues it when the peer is slow; dooms the session when the queue is full.
 * fails   CAIRN_E_TOO_BIG when it does not fit into one message, CAIRN_E_GONE when the session is doomed: nothing is sent then */
int crn_session_send(struct crn_session *session, enum crn_msg_type type, const void *msg);
void crn_session_send_error(struct crn_session *session, uint64_t request, int code,
                            const char *text);
/* Retries what is queued. */
void crn_session_flush(struct crn_session *session);

/* A landing zone of this session: its spare one when that is large enough. It is on the session's list until
 * crn_session_end_landing, which keeps it as the spare one unless a copy reads it or there is one.
 * fails   CAIRN_E_TOO_BIG (put beyond --landing-max), CAIRN_E_FULL, -ENOMEM */
int crn_session_add_landing(struct crn_session *session, uint64_t put_bytes,
                            struct crn_landing **out_landing);
/* The same in memory that the CPU reads: for state maps. */
int crn_session_add_host_landing(struct crn_session *session, uint64_t put_bytes,
                                 struct crn_landing **out_landing);
struct crn_landing *crn_session_landing(const struct crn_session *session, uint64_t id);
void crn_session_end_landing(struct crn_session *session, struct crn_landing *landing);
/* Gives back spare zones that are idle since before_ns; all of them with UINT64_MAX. */
void crn_session_trim(struct crn_broker *broker, uint64_t before_ns);

#endif
