/* Connections of the descriptor channel. Each one starts as a stranger with five seconds to say AUTH:
 *
 *     stranger --AUTH with the session's unused token, equal uid and pid--> of that session
 *
 * A wrong AUTH ends the connection. Afterwards it may ask for arenas of its session's namespace and for its session's landing
 * zones, nothing else. When it closes, its session ends; when the session ends, it is closed. Replies that would block end the
 * connection: a worker that asks for descriptors reads them.
 *
 * Like sessions, connections are only marked while the turn runs, and swept at its end. */
#include "broker/fdserve.h"

#include "broker/broker.h"
#include "ipc/fdchan.h"
#include "ipc/log.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#define AUTH_NS UINT64_C(5000000000)
#define RECORDS_PER_TURN 16
#define ACCEPTS_PER_TURN 16
#define SPARE_CONNECTIONS 32u /* strangers, beyond one per session */

struct connection {
    struct connection *next;
    struct crn_fdserve *fds;
    struct crn_watch watch;
    uid_t uid;
    pid_t pid;
    struct crn_session *session; /* NULL: a stranger */
    uint64_t deadline_ns;        /* of a stranger */
    bool ended;
};

struct crn_fdserve {
    struct crn_broker *broker;
    struct crn_watch listener;
    struct connection *first;
    uint32_t n;
    char *path;
};

static void end_connection(struct connection *c, const char *why)
{
    if (c->ended)
        return;
    c->ended = true;
    if (c->session != NULL)
        crn_session_doom(c->session, why);
}

static int equal_tokens(const uint8_t a[16], const uint8_t b[16])
{
    unsigned difference = 0;
    for (int i = 0; i < 16; i++)
        difference |= (unsigned)(a[i] ^ b[i]);
    return difference == 0;
}

static int authenticate(struct connection *c, const struct crn_fd_record *r)
{
    struct crn_session *s = crn_session_of_id(&c->fds->broker->sessions, r->id);
    if (c->session != NULL)
        return CAIRN_E_STATE;
    if (s == NULL || s->token_used || s->peer.uid != c->uid || s->peer.pid != c->pid ||
        !equal_tokens(s->token, r->token)) {
        CRN_COUNT(&c->fds->broker->stats, denied_total);
        crn_log(CRN_LOG_WARN, "descriptor channel: process %d of uid %u denied", (int)c->pid,
                (unsigned)c->uid);
        return CAIRN_E_DENIED;
    }
    s->token_used = true;
    c->session = s;
    return 0;
}

/* The segment that a request may have. */
static int segment_for(struct connection *c, const struct crn_fd_record *r,
                       const struct crn_mem **out_mem)
{
    if (r->op == CRN_FD_AUTH) {
        int status = authenticate(c, r);
        if (status == 0)
            *out_mem = &c->session->control;
        return status;
    }
    if (c->session == NULL)
        return CAIRN_E_DENIED;
    if (r->op == CRN_FD_ARENA) {
        struct crn_arena *arena = crn_space_arena(c->session->space, r->id);
        *out_mem = arena != NULL ? &arena->mem : NULL;
        return arena != NULL ? 0 : CAIRN_E_MISS;
    }
    if (r->op == CRN_FD_LANDING) {
        struct crn_landing *landing = crn_session_landing(c->session, r->id);
        *out_mem = landing != NULL ? &landing->mem : NULL;
        return landing != NULL ? 0 : CAIRN_E_MISS;
    }
    return CAIRN_E_PROTO;
}

static void answer(struct connection *c, const struct crn_fd_record *request)
{
    struct crn_fd_record reply = {
        .magic = CRN_FD_MAGIC, .version = CRN_FD_VERSION, .op = request->op, .id = request->id};
    const struct crn_mem *mem = NULL;
    int fd = -1;
    reply.status = segment_for(c, request, &mem);
    if (reply.status == 0)
        reply.status = mem->ops->export_token(mem, &reply.mem, &fd);
    if (crn_fd_send(c->watch.fd, &reply, reply.status == 0 ? fd : -1) != 0)
        end_connection(c, "its descriptor channel is stuck");
    else if (c->session == NULL)
        end_connection(c, "not authenticated");
}

static void connection_ready(struct crn_watch *watch, uint32_t events)
{
    struct connection *c = watch->ctx;
    (void)events;
    for (int i = 0; i < RECORDS_PER_TURN && !c->ended; i++) {
        struct crn_fd_record record;
        int fd = -1;
        int status = crn_fd_recv(c->watch.fd, 0, &record, &fd);
        if (fd >= 0)
            close(fd);
        if (status == -EAGAIN)
            return;
        if (status != 0) {
            if (status != CAIRN_E_GONE)
                CRN_COUNT(&c->fds->broker->stats, bad_message_total);
            end_connection(c, "its descriptor channel closed");
            return;
        }
        answer(c, &record);
    }
}

static void add_connection(struct crn_fdserve *fds, int fd, uid_t uid, pid_t pid)
{
    struct connection *c = NULL;
    if (fds->n < fds->broker->config->max_sessions + SPARE_CONNECTIONS)
        c = calloc(1, sizeof *c);
    if (c == NULL) {
        close(fd);
        return;
    }
    *c = (struct connection){.next = fds->first,
                             .fds = fds,
                             .watch = {fd, connection_ready, c},
                             .uid = uid,
                             .pid = pid,
                             .deadline_ns = crn_now_ns() + AUTH_NS};
    if (crn_loop_add(fds->broker->loop, &c->watch, EPOLLIN) != 0) {
        close(fd);
        free(c);
        return;
    }
    fds->first = c;
    fds->n++;
}

static void listener_ready(struct crn_watch *watch, uint32_t events)
{
    struct crn_fdserve *fds = watch->ctx;
    (void)events;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd;
        uid_t uid;
        pid_t pid;
        int status = crn_fd_accept(watch->fd, &fd, &uid, &pid);
        if (status == -EAGAIN)
            return;
        if (status != 0) {
            crn_log(CRN_LOG_WARN, "descriptor channel: accept: %s", cairn_strerror(status));
            return;
        }
        add_connection(fds, fd, uid, pid);
    }
}

int crn_fdserve_open(struct crn_broker *broker, const char *path, struct crn_fdserve **out_fds)
{
    struct crn_fdserve *fds = calloc(1, sizeof *fds);
    if (fds == NULL)
        return -ENOMEM;
    fds->broker = broker;
    fds->path = strdup(path);
    fds->listener = (struct crn_watch){-1, listener_ready, fds};
    int status = fds->path != NULL ? crn_fd_listen(path, &fds->listener.fd) : -ENOMEM;
    if (status == 0)
        status = crn_loop_add(broker->loop, &fds->listener, EPOLLIN);
    if (status != 0) {
        crn_log(CRN_LOG_ERROR, "socket %s: %s", path, cairn_strerror(status));
        if (fds->listener.fd >= 0)
            close(fds->listener.fd);
        free(fds->path);
        free(fds);
        return status;
    }
    *out_fds = fds;
    return 0;
}

static void free_connection(struct crn_fdserve *fds, struct connection *c)
{
    crn_loop_remove(fds->broker->loop, &c->watch);
    close(c->watch.fd);
    free(c);
    fds->n--;
}

void crn_fdserve_close(struct crn_fdserve *fds)
{
    if (fds == NULL)
        return;
    while (fds->first != NULL) {
        struct connection *c = fds->first;
        fds->first = c->next;
        free_connection(fds, c);
    }
    crn_loop_remove(fds->broker->loop, &fds->listener);
    close(fds->listener.fd);
    unlink(fds->path);
    free(fds->path);
    free(fds);
}

void crn_fdserve_forget(struct crn_fdserve *fds, const struct crn_session *session)
{
    for (struct connection *c = fds->first; c != NULL; c = c->next) {
        if (c->session == session) {
            c->session = NULL;
            c->ended = true;
        }
    }
}

void crn_fdserve_sweep(struct crn_fdserve *fds, uint64_t now_ns)
{
    struct connection **at = &fds->first;
    while (*at != NULL) {
        struct connection *c = *at;
        bool late = c->session == NULL && now_ns > c->deadline_ns;
        if (!c->ended && !late) {
            at = &c->next;
            continue;
        }
        *at = c->next;
        free_connection(fds, c);
    }
}
