/* The table of verbs. Every request passes the same gates, in this order:
 *
 *     envelope is sound, version is ours        else `error` PROTO or VERSION
 *     it is HELLO, or its route has a session   else `error` STATE: say HELLO first
 *     kernel's uid and pid are the session's    else `error` DENIED
 *     the body decodes exactly                  else `error` PROTO
 *
 * and only then reaches its handler. Whatever a handler returns becomes exactly one answer. */
#include "broker/dispatch.h"

#include "broker/tier.h"
#include "broker/broker.h"
#include "ipc/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PARK_NS UINT64_C(2000000000)

typedef int handler_fn(struct crn_call *call);

struct verb {
    handler_fn *handle;
    enum crn_msg_type answer;
};

static const struct verb verbs[128] = {
    [CRN_MSG_hello] = {crn_handle_hello, CRN_MSG_welcome},
    [CRN_MSG_bye] = {crn_handle_bye, CRN_MSG_ok},
    [CRN_MSG_alive] = {crn_handle_alive, CRN_MSG_ok},
    [CRN_MSG_match] = {crn_handle_match, CRN_MSG_matched},
    [CRN_MSG_attach] = {crn_handle_attach, CRN_MSG_attached},
    [CRN_MSG_release] = {crn_handle_release, CRN_MSG_ok},
    [CRN_MSG_draft] = {crn_handle_draft, CRN_MSG_drafted},
    [CRN_MSG_put] = {crn_handle_put, CRN_MSG_put_done},
    [CRN_MSG_commit] = {crn_handle_commit, CRN_MSG_committed},
    [CRN_MSG_abort] = {crn_handle_abort, CRN_MSG_ok},
    [CRN_MSG_plan_put] = {crn_handle_plan_put, CRN_MSG_plan_stored},
    [CRN_MSG_plan_get] = {crn_handle_plan_get, CRN_MSG_plan_list},
    [CRN_MSG_plan_drop] = {crn_handle_plan_drop, CRN_MSG_ok},
    [CRN_MSG_landing] = {crn_handle_landing, CRN_MSG_landed},
    [CRN_MSG_stat] = {crn_handle_stat, CRN_MSG_stats},
    [CRN_MSG_list] = {crn_handle_list, CRN_MSG_listed},
    [CRN_MSG_show] = {crn_handle_show, CRN_MSG_shown},
    [CRN_MSG_pin] = {crn_handle_pin, CRN_MSG_ok},
    [CRN_MSG_evict] = {crn_handle_evict, CRN_MSG_evicted},
    [CRN_MSG_spill] = {crn_handle_spill, CRN_MSG_ok},
    [CRN_MSG_restore] = {crn_handle_restore, CRN_MSG_ok},
    [CRN_MSG_verify] = {crn_handle_verify, CRN_MSG_verified},
};

int crn_call_fail(struct crn_call *call, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(call->text, sizeof call->text, format, args);
    va_end(args);
    return code;
}

int crn_call_entry(struct crn_call *call, uint64_t id, struct crn_entry **out_entry)
{
    int status = crn_entries_find(&call->session->space->entries, id, out_entry);
    if (status == CAIRN_E_STALE) {
        CRN_COUNT(&call->session->space->stats, stale_total);
        return crn_call_fail(call, status, "entry %llx was replaced or dropped; look it up again",
                             (unsigned long long)id);
    }
    if (status == 0)
        status = crn_tier_warm(*out_entry);
    return status == 0 ? 0
                       : crn_call_fail(call, status, "no entry %llx in namespace %s",
                                       (unsigned long long)id,
                                       call->session->space->options.name);
}

int crn_call_needs_model(struct crn_call *call, const char *what)
{
    return call->session->model != NULL
               ? 0
               : crn_call_fail(call, CAIRN_E_DENIED, "%s: this session named no model in HELLO",
                               what);
}

/* An error to somebody who has no session. */
static void refuse_stranger(struct crn_broker *broker, const struct crn_peer *peer,
                            uint64_t request, int code, const char *text)
{
    uint8_t bytes[1024];
    size_t n;
    struct crn_msg_error e = {.code = (uint64_t)-code, .request = request};
    e.text = (struct crn_bytes){text, (uint32_t)strlen(text)};
    if (crn_wire_encode(CRN_MSG_error, &e, bytes, sizeof bytes, &n) == 0)
        (void)crn_router_send(broker->router, peer, bytes, n); /* a stranger that does not listen */
}

static void refuse(struct crn_call *call, int code)
{
    const char *text = call->text[0] != '\0' ? call->text : cairn_strerror(code);
    if (call->session != NULL)
        crn_session_send_error(call->session, call->request, code, text);
    else
        refuse_stranger(call->broker, call->peer, call->request, code, text);
}

/* The gates before decoding. */
static int admit(struct crn_call *call, enum crn_msg_type type)
{
    struct crn_session *s = call->session;
    if ((unsigned)type >= sizeof verbs / sizeof *verbs || verbs[type].handle == NULL) {
        CRN_COUNT(&call->broker->stats, bad_message_total);
        return crn_call_fail(call, CAIRN_E_PROTO, "message type %u is no request", (unsigned)type);
    }
    if (type == CRN_MSG_hello)
        return s == NULL ? 0
                         : crn_call_fail(call, CAIRN_E_STATE, "this connection has a session; say "
                                                              "BYE first");
    if (s == NULL)
        return crn_call_fail(call, CAIRN_E_STATE, "%s before HELLO", crn_wire_name(type));
    if (s->peer.uid != call->peer->uid || s->peer.pid != call->peer->pid) {
        CRN_COUNT(&call->broker->stats, denied_total);
        return crn_call_fail(call, CAIRN_E_DENIED, "process %d is not the one that said HELLO",
                             (int)call->peer->pid);
    }
    return 0;
}

static void set_request(union crn_any_msg *out, enum crn_msg_type type, uint64_t request)
{
    switch (type) {
#define MESSAGE(name, number, fields)                                                              \
    case CRN_MSG_##name:                                                                           \
        out->name.request = request;                                                               \
        break;
#include "ipc/msgs.def"
#undef MESSAGE
    }
}

/* Decodes, calls the handler, and answers. -EAGAIN: not yet, nothing was answered. */
static int serve(struct crn_call *call, enum crn_msg_type type, const void *bytes, size_t n)
{
    static union crn_any_msg in; /* large, and one call at a time */
    call->in = &in;
    int status = crn_wire_decode(type, bytes, n, &in);
    if (status != 0) {
        CRN_COUNT(&call->broker->stats, bad_message_total);
        crn_call_fail(call, status, "malformed %s", crn_wire_name(type));
    } else {
        call->out_type = verbs[type].answer;
        status = verbs[type].handle(call);
    }
    if (status == CRN_LATER || status == -EAGAIN)
        return status;
    if (call->request == 0 && verbs[type].answer == CRN_MSG_ok)
        return 0; /* nobody waits: an answer would only wake somebody up */
    if (status == 0) {
        set_request(&call->out, call->out_type, call->request);
        status = crn_session_send(call->session, call->out_type, &call->out);
    }
    if (status < 0)
        refuse(call, status);
    return 0;
}

static void note_session(struct crn_call *call)
{
    call->session = crn_session_of_route(&call->broker->sessions, call->peer);
    if (call->session == NULL)
        return;
    call->session->seen_ns = crn_now_ns();
    call->session->requests++;
}

/* ---- requests that wait for memory ---- */

static int park(struct crn_session *s, const void *bytes, size_t n)
{
    struct crn_parked *p = s->n_parked < CRN_SESSION_PARKED ? malloc(sizeof *p + n) : NULL;
    if (p == NULL)
        return CAIRN_E_BUSY;
    p->next = NULL;
    p->until_ns = crn_now_ns() + PARK_NS;
    p->n = n;
    memcpy(p->bytes, bytes, n);
    *s->parked_end = p;
    s->parked_end = &p->next;
    s->n_parked++;
    return 0;
}

static void unpark_first(struct crn_session *s)
{
    struct crn_parked *p = s->parked;
    s->parked = p->next;
    if (s->parked == NULL)
        s->parked_end = &s->parked;
    s->n_parked--;
    free(p);
}

static struct crn_call *new_call(struct crn_broker *broker, struct crn_peer *peer)
{
    static struct crn_call call; /* 200 KiB of scratch; one call at a time */
    call.broker = broker;
    call.peer = peer;
    call.request = 0;
    call.text[0] = '\0';
    memset(&call.out, 0, sizeof call.out);
    return &call;
}

/* -EAGAIN: it waits on. */
static int try_again(struct crn_broker *b, struct crn_session *s, bool last_time)
{
    struct crn_peer peer = s->peer;
    enum crn_msg_type type = CRN_MSG_error;
    peer.pidfd = -1;
    struct crn_call *call = new_call(b, &peer);
    call->session = s;
    if (crn_wire_peek(s->parked->bytes, s->parked->n, &type, &call->request) != 0)
        return 0; /* it was sound when it came */
    crn_tier_fed(b->tier);
    crn_tier_hurry(b->tier, last_time);
    int status = serve(call, type, s->parked->bytes, s->parked->n);
    crn_tier_hurry(b->tier, false);
    if (status == -EAGAIN && last_time) {
        refuse(call, CAIRN_E_FULL);
        status = 0;
    }
    return status;
}

void crn_dispatch_parked(struct crn_broker *b)
{
    for (struct crn_session *s = b->sessions.first; s != NULL; s = s->next) {
        while (s->parked != NULL && s->doom == NULL) {
            if (try_again(b, s, crn_now_ns() >= s->parked->until_ns) == -EAGAIN)
                break;
            unpark_first(s);
        }
    }
}

/* ---- the way in ---- */

static int dispatch(struct crn_call *call, const void *bytes, size_t n)
{
    enum crn_msg_type type = CRN_MSG_error;
    int status = crn_wire_peek(bytes, n, &type, &call->request);
    if (status != 0) {
        CRN_COUNT(&call->broker->stats, bad_message_total);
        return crn_call_fail(call, status, "malformed message; this broker speaks protocol %u to %u", CRN_PROTO_MIN,
                             CRN_PROTO_MAX);
    }
    status = admit(call, type);
    if (status != 0)
        return status;
    crn_tier_fed(call->broker->tier);
    bool waits = call->session != NULL && call->session->parked != NULL;
    if (waits || serve(call, type, bytes, n) == -EAGAIN)
        return call->session != NULL ? park(call->session, bytes, n) : CAIRN_E_FULL;
    return 0;
}

void crn_dispatch(struct crn_broker *broker, struct crn_peer *peer, const void *bytes, size_t n)
{
    struct crn_call *call = new_call(broker, peer);
    note_session(call);
    int status = dispatch(call, bytes, n);
    if (status != 0)
        refuse(call, status);
    if (peer->pidfd >= 0)
        close(peer->pidfd);
}
