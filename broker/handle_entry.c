/* PIN, EVICT, VERIFY, and SPILL and RESTORE, which need a tier below the arenas: operations on entries, for people and scripts. */
#include "broker/broker.h"
#include "broker/dispatch.h"
#include "broker/tier.h"
#include "ipc/hash.h"
#include "ipc/log.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

int crn_handle_pin(struct crn_call *call)
{
    struct crn_entry *e;
    int status = crn_call_entry(call, call->in->pin.entry, &e);
    if (status == 0)
        e->pinned = call->in->pin.on != 0;
    return status;
}

static int evict_one(struct crn_call *call, uint64_t id)
{
    struct crn_entry *e;
    int status = crn_call_entry(call, id, &e);
    if (status != 0)
        return status;
    if (e->n_children > 0)
        return crn_call_fail(call, CAIRN_E_BUSY, "evict: %u entries continue entry %llx; drop them "
                                                 "first",
                             e->n_children, (unsigned long long)id);
    if (e->pinned || e->n_drafts > 0)
        return crn_call_fail(call, CAIRN_E_BUSY, "evict: entry %llx is %s", (unsigned long long)id,
                             e->pinned ? "pinned" : "being written to");
    call->out.evicted.entries = 1;
    call->out.evicted.bytes = crn_tier_brief(e).bytes;
    crn_space_remove(call->session->space, e);
    return 0;
}

/* A named entry goes even while it is leased: it stops to be found, and its memory follows when the last reader is done. */
int crn_handle_evict(struct crn_call *call)
{
    const struct crn_msg_evict *m = &call->in->evict;
    struct crn_msg_evicted *out = &call->out.evicted;
    struct crn_space *space = call->session->space;
    if (m->entry == 0 && m->all == 0)
        return crn_call_fail(call, CAIRN_E_ARG, "evict: name an entry, or say all");
    int status = 0;
    if (m->entry != 0)
        status = evict_one(call, m->entry);
    else
        out->entries = crn_space_evict_all(space, &out->bytes);
    if (status == 0) {
        CRN_ADD(&space->stats, evicted_total, out->entries);
        CRN_ADD(&space->stats, evicted_bytes_total, out->bytes);
    }
    return status;
}

/* ---- spill and restore: answered when everything has arrived ---- */

struct mover {
    struct crn_broker *broker;
    uint64_t session, request;
    const char *verb;
};

static void moved(void *ctx, int status)
{
    struct mover *m = ctx;
    struct crn_session *s = crn_session_of_id(&m->broker->sessions, m->session);
    struct crn_msg_ok ok = {.request = m->request};
    char text[120];
    snprintf(text, sizeof text, "%s: %s", m->verb, cairn_strerror(status));
    if (s != NULL && status == 0)
        crn_session_send(s, CRN_MSG_ok, &ok);
    else if (s != NULL)
        crn_session_send_error(s, m->request, status, text);
    free(m);
}

static int start_mover(struct crn_call *call, const char *verb, struct mover **out_mover)
{
    struct mover *m = malloc(sizeof *m);
    if (m == NULL)
        return -ENOMEM;
    *m = (struct mover){call->broker, call->session->id, call->request, verb};
    *out_mover = m;
    return 0;
}

static int check_target(struct crn_call *call)
{
    const struct crn_msg_spill *msg = &call->in->spill;
    const struct crn_space *space = call->session->space;
    bool to_host = msg->tier == CAIRN_TIER_HOST;
    if (msg->tier != 0 && msg->tier != CAIRN_TIER_NVME && !to_host)
        return crn_call_fail(call, CAIRN_E_ARG, "spill: tier %u is neither host nor nvme", (unsigned)msg->tier);
    if (!to_host && !crn_tier_has_nvme(space->tier))
        return crn_call_fail(call, CAIRN_E_UNSUPPORTED, "spill: this broker has no NVMe; start it with --nvme");
    if (to_host && space->options.device == NULL)
        return crn_call_fail(call, CAIRN_E_UNSUPPORTED, "spill: payloads are in host memory already; below it there is only nvme");
    if (to_host && space->options.host_limit_bytes == 0)
        return crn_call_fail(call, CAIRN_E_UNSUPPORTED, "spill: this broker has no host tier; start it with --host-tier");
    if (to_host && (msg->flags & CRN_SPILL_INT8) != 0)
        return crn_call_fail(call, CAIRN_E_ARG, "spill: int8 is coded on the way to nvme only");
    return 0;
}

/* Layers 0-0, and anything beyond the last layer: to the end. */
int crn_handle_spill(struct crn_call *call)
{
    const struct crn_msg_spill *msg = &call->in->spill;
    struct crn_entry *e;
    struct mover *m;
    int status = crn_call_entry(call, msg->entry, &e);
    if (status != 0)
        return status;
    uint32_t n = e->body->n_layers, first = (uint32_t)msg->first;
    uint32_t last = (msg->last == 0 && first == 0) || msg->last >= n ? n - 1 : (uint32_t)msg->last;
    if (first > last)
        return crn_call_fail(call, CAIRN_E_ARG, "spill: layers %u-%u, the entry has 0-%u", first, last, n - 1);
    status = check_target(call);
    if (status == 0)
        status = start_mover(call, "spill", &m);
    if (status != 0)
        return status;
    struct crn_tier_layers what = {first, last, (msg->flags & CRN_SPILL_INT8) != 0, msg->tier == CAIRN_TIER_HOST};
    status = crn_tier_spill(e, &what, moved, m);
    if (status != 0)
        free(m);
    return status == 0 ? CRN_LATER : status;
}

int crn_handle_restore(struct crn_call *call)
{
    struct crn_entry *e;
    struct mover *m;
    int status = crn_call_entry(call, call->in->restore.entry, &e);
    if (status == 0 && call->session->space->tier == NULL)
        return crn_call_fail(call, CAIRN_E_UNSUPPORTED, "restore: this broker has no tier to restore from; start it with --nvme");
    if (status == 0)
        status = start_mover(call, "restore", &m);
    if (status != 0)
        return status;
    status = crn_tier_restore(e, moved, m);
    if (status != 0)
        free(m);
    return status == 0 ? CRN_LATER : status;
}

/* ---- verify: one entry per request, on a copy thread ---- */

struct check { /* one payload, copied for the copy thread */
    const void *at; /* in memory, or in the host tier; NULL: only on NVMe */
    struct crn_place place;
    uint64_t bytes, checksum;
    bool on_device;
};

struct verify_job {
    struct crn_job job;
    struct crn_broker *broker;
    struct crn_space *space;
    struct crn_store *store; /* NULL: none */
    struct crn_body *body; /* held */
    uint64_t session, request, entry;
    struct crn_msg_verified result;
    uint32_t n;
    struct check checks[];
};

/* Of the payload in memory; a device that does not answer has no good bytes. */
static uint64_t sum_of(const struct verify_job *j, const struct check *c)
{
    uint64_t sum = ~c->checksum;
    if (!c->on_device)
        return crn_hash64(c->at, c->bytes);
    return crn_device_checksum(j->broker->device, c->at, c->bytes, &sum) == 0 ? sum : ~c->checksum;
}

static int run_verify(struct crn_job *job)
{
    struct verify_job *j = (struct verify_job *)job;
    for (uint32_t i = 0; i < j->n; i++) {
        const struct check *c = &j->checks[i];
        j->result.payloads++;
        j->result.bytes += c->bytes;
        j->result.bad += c->at != NULL && sum_of(j, c) != c->checksum;
        j->result.bad += c->place.bytes > 0 && crn_store_check(j->store, &c->place, c->bytes, c->checksum) != 0;
    }
    return 0;
}

/* An entry with wrong bytes must not be found again. Its children cannot be used without it. */
static void drop_corrupt(struct verify_job *j)
{
    struct crn_entry *e;
    CRN_ADD(&j->space->stats, corrupt_total, j->result.bad);
    crn_log(CRN_LOG_ERROR, "entry %llx: %llu of %llu payloads do not fit their checksum",
            (unsigned long long)j->entry, (unsigned long long)j->result.bad,
            (unsigned long long)j->result.payloads);
    if (crn_entries_find(&j->space->entries, j->entry, &e) == 0 && e->n_drafts == 0)
        crn_space_remove_tree(j->space, e);
}

static void verified(struct crn_job *job, int status)
{
    struct verify_job *j = (struct verify_job *)job;
    struct crn_session *s = crn_session_of_id(&j->broker->sessions, j->session);
    (void)status;
    if (j->result.bad > 0)
        drop_corrupt(j);
    j->result.request = j->request;
    if (s != NULL)
        crn_session_send(s, CRN_MSG_verified, &j->result);
    crn_body_drop(j->body);
    free(j);
}

static void add_check(void *ctx, struct crn_payload *p)
{
    struct verify_job *j = ctx;
    bool here = p->state == CRN_RESIDENT || p->state == CRN_SPILLING;
    bool below = !here && p->host != NULL; /* in the host tier */
    j->checks[j->n++] = (struct check){here    ? crn_payload_at(p)
                                       : below ? crn_tier_host_copy(p)
                                               : NULL,
                                       p->place, p->bytes, p->checksum, here && !p->arena->mem.ops->cpu_visible};
}

static int start_verify(struct crn_call *call, struct crn_entry *e, uint64_t next)
{
    struct crn_body *body = e->body;
    size_t n = 1u + body->n_states + body->n_layers;
    struct verify_job *j = calloc(1, sizeof *j + n * sizeof *j->checks);
    if (j == NULL)
        return -ENOMEM;
    j->job = (struct crn_job){.run = run_verify, .done = verified};
    j->broker = call->broker;
    j->space = call->session->space;
    j->store = call->session->space->tier != NULL ? crn_tier_store(call->session->space->tier) : NULL;
    j->body = crn_body_hold(body);
    j->session = call->session->id;
    j->request = call->request;
    j->entry = e->id;
    j->result.next = next;
    crn_body_each(body, add_check, j);
    crn_copier_submit(call->broker->copier, &j->job);
    return CRN_LATER;
}

/* entry 0: all of them, one per request; the cursor is the slot to go on with. */
int crn_handle_verify(struct crn_call *call)
{
    const struct crn_msg_verify *m = &call->in->verify;
    const struct crn_entries *entries = &call->session->space->entries;
    struct crn_entry *e;
    uint32_t slot = m->cursor > UINT32_MAX ? UINT32_MAX : (uint32_t)m->cursor, following;
    if (m->entry != 0) {
        int status = crn_call_entry(call, m->entry, &e);
        return status == 0 ? start_verify(call, e, 0) : status;
    }
    e = crn_entries_walk(entries, slot, &slot);
    if (e == NULL)
        return 0; /* nothing left: all zero */
    if (crn_tier_warm(e) != 0) { /* unreadable: one bad payload stands for all */
        call->out.verified.bad = 1;
        call->out.verified.next = crn_entries_walk(entries, slot + 1, &following) != NULL ? following : 0;
        return 0;
    }
    bool more = crn_entries_walk(entries, slot + 1, &following) != NULL;
    return start_verify(call, e, more ? following : 0);
}
