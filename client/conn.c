/* A session: one connection to one broker process, with what was mapped through it.
 *
 *     connect the descriptor channel   (refused at once when no broker is there: nobody waits for an absent one)
 *     HELLO -> WELCOME                 versions, limits, a one-time token
 *     token over the descriptor channel -> control page
 *     ... arenas and landing zones when first needed ...
 *
 * Counted: the client holds it, and so does every lease and draft made in it. When the last one lets go everything is unmapped.
 * What comes back is checked by ipc/fdchan.c (record), ipc/mem_host.c (size, seals) and ipc/control.c (page). */
#include "client/client.h"

#include "ipc/fdchan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARENAS_MAX 4096u

struct crn_conn *crn_conn_hold(struct crn_conn *session)
{
    session->refs++;
    return session;
}

static void unmap(struct crn_mem *mem)
{
    if (mem->ops != NULL)
        mem->ops->destroy(mem);
}

void crn_conn_drop(struct crn_conn *session)
{
    if (session == NULL || --session->refs > 0)
        return;
    for (size_t i = 0; i < session->n_arenas; i++)
        unmap(&session->arenas[i].mem);
    free(session->arenas);
    unmap(&session->zone.mem);
    unmap(&session->control);
    if (session->fd >= 0)
        close(session->fd);
    free(session);
}

/* ---- descriptor channel ---- */

/* One question, one answer. The channel carries nothing else, so an answer to something else is a broken peer. */
static int ask(struct crn_conn *session, struct crn_fd_record *record, uint64_t deadline_ns,
               int *out_fd)
{
    uint16_t op = record->op;
    uint64_t id = record->id;
    record->magic = CRN_FD_MAGIC;
    record->version = CRN_FD_VERSION;
    int status = crn_fd_send(session->fd, record, -1);
    int fd = -1;
    if (status == 0)
        status = crn_fd_recv(session->fd, deadline_ns, record, &fd);
    if (status == 0 && (record->op != op || record->id != id))
        status = CAIRN_E_PROTO;
    if (status != 0)
        session->generation = 0; /* a late answer would be taken for that of the next question */
    else if (record->status != 0)
        status = record->status;
    if (status != 0) {
        if (fd >= 0)
            close(fd);
        return status;
    }
    *out_fd = fd;
    return 0;
}

static int import(struct crn_conn *session, struct crn_fd_record *record,
                  enum crn_mem_access access, uint64_t deadline_ns, struct crn_mem *out_mem)
{
    int fd;
    int status = ask(session, record, deadline_ns, &fd);
    if (status != 0)
        return status;
    const struct crn_mem_ops *ops = crn_mem_ops_of(record->mem.kind);
    if (ops == NULL) {
        if (fd >= 0)
            close(fd);
        return CAIRN_E_NOT_BUILT;
    }
    return ops->import_token(&record->mem, fd, access, out_mem);
}

/* ---- begin ---- */

static int hello(struct cairn_client *client, uint64_t deadline_ns, struct crn_msg_welcome *out)
{
    const struct cairn_options *o = &client->options;
    struct crn_msg_hello msg = {
        .proto_min = CRN_PROTO_MIN,
        .proto_max = CRN_PROTO_MAX,
        .caps = CRN_CAP_RESTORE,
        .space = crn_client_text(o->space),
        .label = crn_client_text(o->label),
        .model = o->model,
        .family = o->family,
        .n_layers = o->shape.n_layers,
        .n_kv_heads = o->shape.n_kv_heads,
        .head_dim = o->shape.head_dim,
        .hidden = o->shape.hidden,
    };
    int status = CRN_CALL(client, hello, msg, welcome, out, deadline_ns);
    if (status == 0 && (out->proto < CRN_PROTO_MIN || out->proto > CRN_PROTO_MAX))
        status = crn_client_fail(client, CAIRN_E_VERSION, "broker %s", client->socket);
    if (status == 0 && out->token.n != 16)
        status = crn_client_fail(client, CAIRN_E_PROTO, "broker %s: token", client->socket);
    return status;
}

static int take_control(struct crn_conn *session, const struct crn_msg_welcome *welcome,
                        uint64_t deadline_ns)
{
    struct crn_fd_record record = {.op = CRN_FD_AUTH, .id = welcome->session};
    memcpy(record.token, welcome->token.p, sizeof record.token);
    int status = import(session, &record, CRN_MEM_READ, deadline_ns, &session->control);
    return status != 0 ? status : crn_control_check(&session->control);
}

static int session_start(struct cairn_client *client, struct crn_conn *session,
                         uint64_t deadline_ns)
{
    int status = crn_fd_connect(client->fd_path, &session->fd);
    if (status == -EACCES || status == -EPERM)
        status = CAIRN_E_DENIED;
    if (status == CAIRN_E_BUSY)
        status = CAIRN_E_TIMEOUT;
    if (status != 0)
        return crn_client_fail(client, status, "connect to %s", client->fd_path);
    struct crn_msg_welcome welcome;
    status = hello(client, deadline_ns, &welcome);
    if (status == CAIRN_E_GONE && crn_now_ns() >= deadline_ns) /* it listens, as the descriptor channel showed */
        status = crn_client_fail(client, CAIRN_E_TIMEOUT, "hello at %s", client->socket);
    if (status != 0)
        return status;
    session->generation = crn_chan_generation(client->chan);
    session->id = welcome.session;
    session->max_entry_bytes = welcome.max_entry_bytes;
    session->heartbeat_ns = welcome.heartbeat_ms * UINT64_C(1000000);
    status = take_control(session, &welcome, deadline_ns);
    if (status != 0)
        return crn_client_fail(client, status, "control page of %s", client->fd_path);
    return 0;
}

int crn_conn_open(struct cairn_client *client, uint64_t deadline_ns, struct crn_conn **out_session)
{
    uint64_t patience_ns = crn_now_ns() + CRN_PATIENCE_NS;
    int patient = deadline_ns > patience_ns;
    struct crn_conn *session = calloc(1, sizeof *session);
    if (session == NULL)
        return crn_client_fail(client, -ENOMEM, "session");
    session->refs = 1;
    session->fd = -1;
    int status = session_start(client, session, patient ? patience_ns : deadline_ns);
    if (status == CAIRN_E_TIMEOUT && patient)
        status = crn_client_fail(client, CAIRN_E_GONE, "broker %s does not answer", client->socket);
    if (status != 0) {
        crn_conn_drop(session);
        client->stuck = 1; /* the broker may have taken our HELLO: the next one needs a new connection */
        return status;
    }
    *out_session = session;
    return 0;
}

/* ---- memory ---- */

int crn_conn_arena(struct cairn_client *client, struct crn_conn *session, uint32_t id,
                      uint64_t deadline_ns, struct crn_mem *out_mem)
{
    for (size_t i = 0; i < session->n_arenas; i++) {
        if (session->arenas[i].id == id) {
            *out_mem = session->arenas[i].mem;
            return 0;
        }
    }
    if (session->n_arenas >= ARENAS_MAX)
        return crn_client_fail(client, CAIRN_E_TOO_BIG, "arena %u", id);
    struct crn_segment *grown =
        realloc(session->arenas, (session->n_arenas + 1) * sizeof *session->arenas);
    if (grown == NULL)
        return crn_client_fail(client, -ENOMEM, "arena %u", id);
    session->arenas = grown;
    struct crn_segment segment = {.id = id};
    struct crn_fd_record record = {.op = CRN_FD_ARENA, .id = id};
    int status = import(session, &record, CRN_MEM_READ, deadline_ns, &segment.mem);
    if (status != 0)
        return crn_client_fail(client, status, "map arena %u", id);
    session->arenas[session->n_arenas++] = segment;
    *out_mem = segment.mem;
    return 0;
}

int crn_conn_fits(const struct cairn_client *client, const struct crn_mem *mem)
{
    if (client->options.memory == CAIRN_MEMORY_HOST)
        return crn_conn_readable(mem);
    return !mem->ops->cpu_visible && mem->device == (int)client->options.device ? 0 : CAIRN_E_UNSUPPORTED;
}

int crn_conn_readable(const struct crn_mem *mem)
{
    return mem->ops->cpu_visible ? 0 : CAIRN_E_UNSUPPORTED;
}

int crn_conn_fetch(const struct crn_mem *mem, const void *at, void *host, uint64_t bytes)
{
    struct crn_mem from = *mem, to = {.ops = &crn_mem_host, .base = host, .bytes = bytes, .owner = 1};
    if (mem->ops->cpu_visible) {
        memcpy(host, at, bytes);
        return 0;
    }
    int status = mem->ops->copy(&to, 0, mem, (uint64_t)((const char *)at - (const char *)mem->base), bytes);
    return status != 0 ? status : from.ops->fence(&from);
}

static int map_zone(struct crn_conn *session, uint64_t id, uint64_t deadline_ns, struct crn_mem *out_mem)
{
    struct crn_segment kept = session->zone;
    session->zone = (struct crn_segment){0};
    if (kept.mem.ops != NULL && kept.id == id) {
        *out_mem = kept.mem;
        return 0;
    }
    unmap(&kept.mem);
    struct crn_fd_record record = {.op = CRN_FD_LANDING, .id = id};
    return import(session, &record, CRN_MEM_WRITE, deadline_ns, out_mem);
}

void crn_zone_keep(struct crn_conn *session, struct crn_zone *zone)
{
    unmap(&session->zone.mem);
    session->zone = (struct crn_segment){.id = zone->id, .mem = zone->mem};
    zone->mem = (struct crn_mem){0};
}

int crn_zone_map(struct cairn_client *client, uint64_t id, uint64_t deadline_ns,
                 struct crn_zone *out_zone)
{
    struct crn_mem mem;
    int status = map_zone(client->session, id, deadline_ns, &mem);
    if (status != 0)
        return crn_client_fail(client, status, "map landing zone");
    out_zone->id = id;
    out_zone->mem = mem;
    crn_ring_init(&out_zone->ring, mem.bytes);
    return 0;
}

int crn_zone_take(struct cairn_client *client, struct crn_zone *zone, uint64_t bytes,
                  uint64_t deadline_ns, uint64_t *out_off)
{
    for (;;) {
        int status = crn_ring_take(&zone->ring, bytes, out_off);
        if (status == CAIRN_E_FULL)
            return crn_client_fail(client, status, "%llu bytes in a landing zone of %llu",
                                   (unsigned long long)bytes, (unsigned long long)zone->ring.bytes);
        if (status == 0)
            return 0;
        status = crn_client_pump(client, deadline_ns);
        if (status != 0)
            return crn_client_fail(client, status, "landing zone: the broker is behind");
    }
}
