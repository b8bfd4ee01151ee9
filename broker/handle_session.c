/* HELLO, BYE, ALIVE, LANDING. HELLO is where a peer becomes a session: its uid is the kernel's, its namespace the configuration's, its
 * model and shape its own word (a wrong word harms only what it publishes under that name; a family's shape is fixed by the first
 * who names it, so nobody reads a payload by another shape). */
#include "broker/broker.h"
#include "broker/dispatch.h"
#include "ipc/log.h"

#include <string.h>

static const struct cairn_digest no_digest;

static bool is_set(const struct cairn_digest *d)
{
    return memcmp(d, &no_digest, sizeof *d) != 0;
}

/* The namespace that this uid gets: the wished one if it may, the first one that it may when it has no wish; NULL: none. */
static struct crn_space *space_for(struct crn_broker *broker, const struct crn_msg_hello *m,
                                   uid_t uid)
{
    for (uint32_t i = 0; i < broker->n_spaces; i++) {
        const struct crn_config_space *c = &broker->config->spaces[i];
        bool wished = m->space.n == 0 || (strlen(c->name) == m->space.n &&
                                          memcmp(c->name, m->space.p, m->space.n) == 0);
        if (wished && crn_config_space_allows(c, uid))
            return &broker->spaces[i];
    }
    return NULL;
}

static int check_model(struct crn_call *call, const struct crn_msg_hello *m)
{
    if (!is_set(&m->model) && !is_set(&m->family))
        return 0;
    if (!is_set(&m->model) || !is_set(&m->family))
        return crn_call_fail(call, CAIRN_E_ARG, "hello: model and family go together");
    if (m->n_layers == 0 || m->n_kv_heads == 0 || m->head_dim == 0 || m->hidden == 0)
        return crn_call_fail(call, CAIRN_E_ARG, "hello: a model needs its whole shape");
    return 0;
}

static int find_model(struct crn_call *call, struct crn_session_spec *spec)
{
    struct crn_model like = {.digest = spec->digest, .family = spec->family, .shape = spec->shape};
    if (!is_set(&spec->digest))
        return 0;
    memcpy(like.label, spec->label, sizeof like.label);
    int status = crn_space_model(spec->space, &like, &spec->model);
    return status == CAIRN_E_ARG
               ? crn_call_fail(call, status, "hello: this family has another shape here")
               : status;
}

static int admit_peer(struct crn_call *call, struct crn_session_spec *spec)
{
    const struct crn_msg_hello *m = &call->in->hello;
    struct crn_broker *b = call->broker;
    if (m->proto_min > CRN_PROTO_MAX || m->proto_max < CRN_PROTO_MIN)
        return crn_call_fail(call, CAIRN_E_VERSION, "hello: this broker speaks protocol %u to %u",
                             CRN_PROTO_MIN, CRN_PROTO_MAX);
    spec->space = space_for(b, m, call->peer->uid);
    if (spec->space == NULL) {
        CRN_COUNT(&b->stats, denied_total);
        crn_log(CRN_LOG_WARN, "process %d of uid %u denied: no namespace for it",
                (int)call->peer->pid, (unsigned)call->peer->uid);
        return crn_call_fail(call, CAIRN_E_DENIED, "hello: no such namespace for uid %u",
                             (unsigned)call->peer->uid);
    }
    if (b->sessions.n >= b->config->max_sessions)
        return crn_call_fail(call, CAIRN_E_FULL, "hello: %u sessions are open, see --max-sessions",
                             b->sessions.n);
    return check_model(call, m);
}

static void fill_welcome(struct crn_call *call)
{
    struct crn_session *s = call->session;
    struct crn_msg_welcome *w = &call->out.welcome;
    const struct crn_mem_ops *mem = crn_device_mem(call->broker->device);
    const char *device = crn_device_name(call->broker->device);
    w->proto = CRN_PROTO_MAX;
    w->caps = CRN_CAP_RESTORE | (s->space->tier != NULL ? (uint64_t)CRN_CAP_NVME : 0);
    w->session = s->id;
    w->boot = call->broker->boot;
    w->space = (struct crn_bytes){s->space->options.name, (uint32_t)strlen(s->space->options.name)};
    w->token = (struct crn_bytes){s->token, sizeof s->token};
    w->max_message = CRN_MESSAGE_MAX;
    w->max_entry_bytes = s->space->options.limit_bytes;
    w->heartbeat_ms = call->broker->config->lease_ttl_ms / 3;
    w->mem_kind = (struct crn_bytes){mem->name, (uint32_t)strlen(mem->name)};
    w->device = (struct crn_bytes){device, (uint32_t)strlen(device)};
    w->version = (struct crn_bytes){CAIRN_VERSION, sizeof CAIRN_VERSION - 1};
}

int crn_handle_hello(struct crn_call *call)
{
    const struct crn_msg_hello *m = &call->in->hello;
    struct crn_session_spec spec = {
        .peer = *call->peer,
        .digest = m->model,
        .family = m->family,
        .shape = {(uint32_t)m->n_layers, (uint32_t)m->n_kv_heads, (uint32_t)m->head_dim,
                  (uint32_t)m->hidden}};
    crn_wire_text(m->label, spec.label, sizeof spec.label);
    int status = admit_peer(call, &spec);
    if (status == 0)
        status = find_model(call, &spec);
    if (status == 0)
        status = crn_session_create(call->broker, &spec, &call->session);
    if (status != 0)
        return status;
    call->peer->pidfd = -1; /* the session has it now */
    crn_log(CRN_LOG_DEBUG, "session %llx: process %d of uid %u in namespace %s, model %s",
            (unsigned long long)call->session->id, (int)spec.peer.pid, (unsigned)spec.peer.uid,
            spec.space->options.name, spec.label[0] != '\0' ? spec.label : "none");
    fill_welcome(call);
    return 0;
}

int crn_handle_bye(struct crn_call *call)
{
    struct crn_msg_ok ok = {.request = call->request};
    crn_session_send(call->session, CRN_MSG_ok, &ok);
    call->session->said_bye = true;
    crn_session_doom(call->session, "it said bye");
    return CRN_LATER;
}

/* Every message renews the session's leases (dispatch.c); this one does nothing else. */
int crn_handle_alive(struct crn_call *call)
{
    (void)call;
    return 0;
}

int crn_handle_landing(struct crn_call *call)
{
    struct crn_landing *landing;
    int status = crn_session_add_host_landing(call->session, call->in->landing.put_bytes, &landing);
    if (status != 0)
        return crn_call_fail(call, status, "landing zone for %llu bytes: %s",
                             (unsigned long long)call->in->landing.put_bytes,
                             cairn_strerror(status));
    call->out.landed.landing = landing->id;
    call->out.landed.landing_bytes = landing->mem.bytes;
    return 0;
}
