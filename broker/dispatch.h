/* dispatch - from a message's bytes to its handler and back to an answer.
 *
 * A handler gets a decoded message of a session whose sender the kernel has confirmed. It validates, works, fills `out` and
 * returns 0; or returns a code, best through crn_call_fail with one clear line; or CRN_LATER when somebody else will answer.
 * Handlers change nothing before their last check has passed. One that returns -EAGAIN found no memory while the tier below is
 * making some: the request, and all that follow it in its session, wait for that without holding up anybody else. */
#ifndef CRN_BROKER_DISPATCH_H
#define CRN_BROKER_DISPATCH_H

#include "broker/session.h"
#include "ipc/wire.h"

#include <stdint.h>

#define CRN_LATER 1

union crn_any_msg {
#define MESSAGE(name, number, fields) struct crn_msg_##name name;
#include "ipc/msgs.def"
#undef MESSAGE
};

/* One request being served. */
struct crn_call {
    struct crn_broker *broker;
    struct crn_session *session; /* NULL: hello */
    struct crn_peer *peer; /* pidfd is closed after the call, unless a handler takes it and sets -1 */
    uint64_t request;
    const union crn_any_msg *in;
    enum crn_msg_type out_type; /* set to the request's own answer */
    union crn_any_msg out;      /* zeroed; request is filled in by dispatch */
    char text[256];             /* of an error */
    _Alignas(16) uint8_t scratch[3][CRN_MESSAGE_MAX]; /* for byte fields of out */
};

/* Formats the error line; returns code. */
int crn_call_fail(struct crn_call *call, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Serves one message. peer->pidfd is taken over. */
void crn_dispatch(struct crn_broker *broker, struct crn_peer *peer, const void *bytes, size_t n);

/* Requests that wait for memory, tried again; those that waited too long are answered as things are. After events of the tier. */
void crn_dispatch_parked(struct crn_broker *broker);

/* Handlers, by file. */
int crn_handle_hello(struct crn_call *call); /* handle_session.c */
int crn_handle_bye(struct crn_call *call);
int crn_handle_alive(struct crn_call *call);
int crn_handle_landing(struct crn_call *call);
int crn_handle_match(struct crn_call *call); /* handle_read.c */
int crn_handle_attach(struct crn_call *call);
int crn_handle_release(struct crn_call *call);
int crn_handle_draft(struct crn_call *call); /* handle_write.c */
int crn_handle_put(struct crn_call *call);
int crn_handle_commit(struct crn_call *call);
int crn_handle_abort(struct crn_call *call);
int crn_handle_plan_put(struct crn_call *call); /* handle_plan.c */
int crn_handle_plan_get(struct crn_call *call);
int crn_handle_plan_drop(struct crn_call *call);
int crn_handle_stat(struct crn_call *call); /* handle_stat.c */
int crn_handle_list(struct crn_call *call); /* handle_list.c */
int crn_handle_show(struct crn_call *call);
int crn_handle_pin(struct crn_call *call); /* handle_entry.c */
int crn_handle_evict(struct crn_call *call);
int crn_handle_spill(struct crn_call *call);
int crn_handle_restore(struct crn_call *call);
int crn_handle_verify(struct crn_call *call);

/* An entry by id, or the error line that says whether it is unknown or stale. */
int crn_call_entry(struct crn_call *call, uint64_t id, struct crn_entry **out_entry);
/* The session's model, or CAIRN_E_DENIED for a tool. */
int crn_call_needs_model(struct crn_call *call, const char *what);

#endif
