/* Sessions: made by HELLO (handle_session.c), ended in one place.
 *
 *     live --crn_session_doom--> doomed --end of the turn: crn_session_reap--> gone
 *
 * Reaping ends the leases (epochs move on, so a reader that is still there learns it), drops drafts, destroys landing zones, closes
 * the descriptor channel, and frees the control page last. A copy that is under way for one of its drafts keeps the landing zone
 * alive until it is done. */
#include "broker/session.h"

#include "broker/broker.h"
#include "broker/draft.h"
#include "broker/fdserve.h"
#include "broker/lease.h"
#include "ipc/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <unistd.h>

static void process_died(struct crn_watch *watch, uint32_t events)
{
    struct crn_session *s = watch->ctx;
    (void)events;
    crn_session_doom(s, "its process died");
}

static int watch_process(struct crn_broker *broker, struct crn_session *s)
{
    if (s->peer.pidfd < 0) {
        crn_log(CRN_LOG_WARN, "session %llx: no pidfd for process %d: its leases end by time only",
                (unsigned long long)s->id, (int)s->peer.pid);
        return 0;
    }
    s->death = (struct crn_watch){s->peer.pidfd, process_died, s};
    return crn_loop_add(broker->loop, &s->death, EPOLLIN);
}

static int random_identity(struct crn_session *s)
{
    struct {
        uint64_t id;
        uint8_t token[16];
    } random;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) {
        crn_log(CRN_LOG_ERROR, "session: getrandom: %s", cairn_strerror(-errno));
        return -errno;
    }
    s->id = random.id & INT64_MAX;
    memcpy(s->token, random.token, sizeof s->token);
    return 0;
}

int crn_session_create(struct crn_broker *broker, const struct crn_session_spec *spec,
                       struct crn_session **out_session)
{
    struct crn_session *s = calloc(1, sizeof *s);
    if (s == NULL)
        return -ENOMEM;
    s->broker = broker;
    s->peer = spec->peer;
    s->space = spec->space;
    s->model = spec->model;
    s->digest = spec->digest;
    s->family = spec->family;
    s->shape = spec->shape;
    memcpy(s->label, spec->label, sizeof s->label);
    s->queue_end = &s->queue;
    s->parked_end = &s->parked;
    s->connected_ns = s->seen_ns = crn_now_ns();
    int status = random_identity(s);
    if (status == 0)
        status = crn_control_create(&s->control);
    if (status == 0)
        status = watch_process(broker, s);
    if (status != 0) {
        if (s->control.ops != NULL)
            s->control.ops->destroy(&s->control);
        free(s);
        return status;
    }
    s->next = broker->sessions.first;
    broker->sessions.first = s;
    broker->sessions.n++;
    *out_session = s;
    return 0;
}

struct crn_session *crn_session_of_route(const struct crn_sessions *all,
                                         const struct crn_peer *peer)
{
    struct crn_session *s = all->first;
    while (s != NULL && (s->peer.route_bytes != peer->route_bytes || s->doom != NULL ||
                         memcmp(s->peer.route, peer->route, peer->route_bytes) != 0))
        s = s->next;
    return s;
}

struct crn_session *crn_session_of_id(const struct crn_sessions *all, uint64_t id)
{
    struct crn_session *s = all->first;
    while (s != NULL && (s->id != id || s->doom != NULL))
        s = s->next;
    return s;
}

void crn_session_doom(struct crn_session *session, const char *why)
{
    if (session->doom != NULL)
        return;
    session->doom = why;
    session->broker->sessions.any_doomed = true;
}

static void drop_queue(struct crn_session *s)
{
    while (s->queue != NULL) {
        struct crn_outgoing *o = s->queue;
        s->queue = o->next;
        free(o);
    }
    s->queue_end = &s->queue;
    s->n_queue = 0;
}

static void drop_parked(struct crn_session *s)
{
    while (s->parked != NULL) {
        struct crn_parked *p = s->parked;
        s->parked = p->next;
        free(p);
    }
}

static void drop_spare(struct crn_session *s)
{
    struct crn_landing *l = s->spare;
    if (l != NULL) /* the worker may have it mapped, and would keep its pages */
        (void)l->mem.ops->clear(&l->mem, 0, l->mem.bytes);
    crn_landing_drop(l);
    s->spare = NULL;
}

static void drop_retired(struct crn_session *s)
{
    while (s->retired != NULL) {
        struct crn_landing *l = s->retired;
        s->retired = l->next;
        crn_landing_drop(l);
    }
}

/* A retired zone that is large enough; NULL. */
static struct crn_landing *take_retired(struct crn_session *s, uint64_t bytes)
{
    struct crn_landing **at = &s->retired;
    while (*at != NULL && (*at)->mem.bytes < bytes)
        at = &(*at)->next;
    struct crn_landing *l = *at;
    if (l != NULL)
        *at = l->next;
    return l;
}

static void count_end(const struct crn_session *s, uint32_t leases)
{
    if (s->said_bye || s->broker->stopping)
        return;
    CRN_COUNT(&s->space->stats, session_reaped_total);
    CRN_ADD(&s->space->stats, lease_reaped_total, leases);
}

/* The only way a session ends. */
static void crn_session_reap(struct crn_session *s)
{
    struct crn_broker *broker = s->broker;
    crn_log(CRN_LOG_DEBUG, "session %llx of process %d ends: %s", (unsigned long long)s->id,
            (int)s->peer.pid, s->doom != NULL ? s->doom : "the broker stops");
    crn_fdserve_forget(broker->fds, s);
    count_end(s, crn_lease_end_all(s));
    while (s->drafts != NULL)
        crn_draft_abandon(s->drafts);
    while (s->landings != NULL)
        crn_session_end_landing(s, s->landings);
    drop_spare(s);
    drop_retired(s);
    drop_queue(s);
    drop_parked(s);
    if (s->peer.pidfd >= 0) {
        crn_loop_remove(broker->loop, &s->death);
        close(s->peer.pidfd);
    }
    struct crn_control_header *page = s->control.base;
    if (broker->stopping)
        atomic_store_explicit(&page->alive, 0, memory_order_release); /* pairs with the client's acquire */
    s->control.ops->destroy(&s->control);
    free(s);
}

void crn_session_reap_doomed(struct crn_broker *broker, int all)
{
    struct crn_sessions *sessions = &broker->sessions;
    while (sessions->any_doomed || all) {
        sessions->any_doomed = false;
        struct crn_session **at = &sessions->first;
        while (*at != NULL) {
            struct crn_session *s = *at;
            if (s->doom == NULL && !all) {
                at = &s->next;
                continue;
            }
            *at = s->next;
            sessions->n--;
            crn_session_reap(s);
        }
        all = 0;
    }
}

/* ---- answers ---- */

static void enqueue(struct crn_session *s, const void *bytes, size_t n)
{
    struct crn_outgoing *o = s->n_queue < CRN_SESSION_QUEUE ? malloc(sizeof *o + n) : NULL;
    if (o == NULL) {
        crn_session_doom(s, "it does not take its answers");
        return;
    }
    o->next = NULL;
    o->n = n;
    memcpy(o->bytes, bytes, n);
    *s->queue_end = o;
    s->queue_end = &o->next;
    s->n_queue++;
}

/* 1 when it was sent, 0 when it has to wait (or the session is doomed). */
static int try_send(struct crn_session *s, const void *bytes, size_t n)
{
    int status = crn_router_send(s->broker->router, &s->peer, bytes, n);
    if (status != 0 && status != CAIRN_E_BUSY)
        crn_session_doom(s, "its connection is gone");
    return status == 0;
}

void crn_session_flush(struct crn_session *s)
{
    while (s->queue != NULL && try_send(s, s->queue->bytes, s->queue->n)) {
        struct crn_outgoing *o = s->queue;
        s->queue = o->next;
        s->n_queue--;
        if (s->queue == NULL)
            s->queue_end = &s->queue;
        free(o);
    }
}

int crn_session_send(struct crn_session *s, enum crn_msg_type type, const void *msg)
{
    uint8_t bytes[CRN_MESSAGE_MAX];
    size_t n;
    if (s->doom != NULL)
        return CAIRN_E_GONE;
    int status = crn_wire_encode(type, msg, bytes, sizeof bytes, &n);
    if (status != 0)
        return status;
    crn_session_flush(s);
    bool sent = s->queue == NULL && s->doom == NULL && try_send(s, bytes, n);
    if (!sent && s->doom == NULL)
        enqueue(s, bytes, n);
    return 0;
}

void crn_session_send_error(struct crn_session *s, uint64_t request, int code, const char *text)
{
    struct crn_msg_error e = {.code = (uint64_t)-code, .request = request};
    e.text = (struct crn_bytes){text, (uint32_t)strnlen(text, 512)};
    crn_session_send(s, CRN_MSG_error, &e);
}

/* ---- landing zones ---- */

static int add_landing(struct crn_session *s, struct crn_landings *all, uint64_t put_bytes,
                       struct crn_landing **out_landing)
{
    uint64_t bytes = crn_landing_bytes(all, put_bytes);
    if (bytes == 0)
        return CAIRN_E_TOO_BIG;
    if (s->n_landings == CRN_SESSION_LANDINGS)
        return CAIRN_E_FULL;
    struct crn_landing *landing = s->spare;
    if (landing != NULL && landing->all == all && landing->mem.bytes >= bytes) {
        s->spare = NULL;
    } else if (all != &s->broker->landings || (landing = take_retired(s, bytes)) == NULL) {
        drop_spare(s);
        int status = crn_landing_create(all, bytes, &landing);
        if (status == CAIRN_E_FULL) {
            crn_session_trim(s->broker, UINT64_MAX);
            status = crn_landing_create(all, bytes, &landing);
        }
        if (status != 0)
            return status;
    }
    landing->next = s->landings;
    s->landings = landing;
    s->n_landings++;
    *out_landing = landing;
    return 0;
}

int crn_session_add_landing(struct crn_session *s, uint64_t put_bytes,
                            struct crn_landing **out_landing)
{
    return add_landing(s, &s->broker->landings, put_bytes, out_landing);
}

int crn_session_add_host_landing(struct crn_session *s, uint64_t put_bytes,
                                 struct crn_landing **out_landing)
{
    struct crn_broker *b = s->broker;
    return add_landing(s, b->device == NULL ? &b->landings : &b->host_landings, put_bytes, out_landing);
}

struct crn_landing *crn_session_landing(const struct crn_session *s, uint64_t id)
{
    struct crn_landing *landing = s->landings;
    while (landing != NULL && landing->id != id)
        landing = landing->next;
    return landing;
}

void crn_session_end_landing(struct crn_session *s, struct crn_landing *landing)
{
    struct crn_landing **at = &s->landings;
    while (*at != landing)
        at = &(*at)->next;
    *at = landing->next;
    s->n_landings--;
    if (landing->mem.ops->kind == CRN_MEM_CUDA_IPC && landing->refs == 1) {
        landing->next = s->retired;
        s->retired = landing;
        return;
    }
    if (s->spare != NULL || landing->refs > 1) {
        crn_landing_drop(landing);
        return;
    }
    s->spare = landing;
    s->spare_ns = crn_now_ns();
}

void crn_session_trim(struct crn_broker *broker, uint64_t before_ns)
{
    for (struct crn_session *s = broker->sessions.first; s != NULL; s = s->next) {
        if (s->spare != NULL && s->spare_ns < before_ns)
            drop_spare(s);
    }
}
