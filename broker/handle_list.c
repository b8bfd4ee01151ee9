/* LIST and SHOW: what there is, page by page, for people and their tools. Only the session's own namespace, ever. A page is what
 * fits into one message; things that come or go between two pages may be missed or seen once, never twice in a row. */
#include "broker/broker.h"
#include "broker/dispatch.h"
#include "broker/lease.h"
#include "broker/listing.h"
#include "broker/tier.h"

#include <stdio.h>
#include <string.h>

#define PAGE_BYTES 57344u

struct page {
    uint8_t *at;
    size_t n_bytes;
    uint64_t next; /* cursor when the page is full */
};

/* 0 when the page is full. */
static int page_add(struct page *page, const void *rec, size_t bytes)
{
    if (page->n_bytes + bytes > PAGE_BYTES)
        return 0;
    memcpy(page->at + page->n_bytes, rec, bytes);
    page->n_bytes += bytes;
    return 1;
}

static struct crn_entry_rec entry_rec(const struct crn_entry *e, uint64_t now)
{
    const struct crn_tier_brief brief = crn_tier_brief(e);
    struct crn_entry_rec rec = {
        .entry = e->id,
        .parent = e->parent != NULL ? e->parent->id : 0,
        .bytes = brief.bytes,
        .resident_bytes = brief.resident_bytes,
        .allocated_bytes = brief.allocated_bytes,
        .age_ns = now - e->created_ns,
        .idle_ns = now - e->used_ns,
        .hits = e->hits,
        .producer = e->producer->digest,
        .start = e->start,
        .n_tokens = e->n_tokens,
        .leases = brief.leases,
        .generation = (uint32_t)(e->id >> CRN_ENTRY_SLOT_BITS),
        .n_layers = (uint16_t)e->producer->shape.n_layers,
        .n_states = brief.n_states,
        .n_kv_heads = (uint16_t)e->producer->shape.n_kv_heads,
        .head_dim = (uint16_t)e->producer->shape.head_dim,
        .hidden = e->producer->shape.hidden,
        .pyramid = e->pyramid,
        .pinned = e->pinned,
        .dtype = brief.dtype,
        .tier = brief.tier,
    };
    snprintf(rec.label, sizeof rec.label, "%s", e->producer->label);
    return rec;
}

/* The cursor is the slot to go on with. */
static void list_entries(const struct crn_session *s, uint64_t cursor, struct page *page)
{
    uint64_t now = crn_now_ns();
    uint32_t slot = cursor > UINT32_MAX ? UINT32_MAX : (uint32_t)cursor;
    const struct crn_entry *e = crn_entries_walk(&s->space->entries, slot, &slot);
    for (; e != NULL; e = crn_entries_walk(&s->space->entries, slot + 1, &slot)) {
        struct crn_entry_rec rec = entry_rec(e, now);
        if (!page_add(page, &rec, sizeof rec)) {
            page->next = slot;
            return;
        }
    }
}

static struct crn_session_rec session_rec(const struct crn_session *s, uint64_t now)
{
    struct crn_session_rec rec = {.session = s->id,
                                  .connected_ns = now - s->connected_ns,
                                  .saved_bytes = s->saved_bytes,
                                  .requests = s->requests,
                                  .hits = s->hits,
                                  .published = s->published,
                                  .model = s->digest,
                                  .pid = (uint32_t)s->peer.pid,
                                  .uid = (uint32_t)s->peer.uid,
                                  .leases = s->n_leases,
                                  .drafts = s->n_drafts};
    for (uint32_t slot = 0; slot < CRN_CONTROL_SLOTS; slot++)
        rec.leased_bytes += s->leases[slot] != NULL ? s->leases[slot]->bytes : 0;
    snprintf(rec.label, sizeof rec.label, "%s", s->label);
    return rec;
}

/* Cursors of the other lists count the records sent so far. */
static void list_sessions(const struct crn_session *self, uint64_t cursor, struct page *page)
{
    uint64_t seen = 0;
    for (const struct crn_session *s = self->broker->sessions.first; s != NULL; s = s->next) {
        if (s->space != self->space || s->doom != NULL || seen++ < cursor)
            continue;
        struct crn_session_rec rec = session_rec(s, crn_now_ns());
        if (!page_add(page, &rec, sizeof rec)) {
            page->next = seen - 1;
            return;
        }
    }
}

static void list_models(const struct crn_session *self, uint64_t cursor, struct page *page)
{
    uint64_t seen = 0;
    for (const struct crn_model *m = self->space->models; m != NULL; m = m->next) {
        if (seen++ < cursor)
            continue;
        struct crn_model_rec rec = {.model = m->digest, .family = m->family};
        snprintf(rec.label, sizeof rec.label, "%s", m->label);
        if (!page_add(page, &rec, sizeof rec)) {
            page->next = seen - 1;
            return;
        }
    }
}

static const struct crn_arena *next_arena(const struct crn_space *space, const struct crn_arena *a, int *on_side)
{
    const struct crn_arena *next = a != NULL ? a->next : space->arenas;
    if (next != NULL || *on_side)
        return next;
    *on_side = 1;
    return space->side;
}

static void list_arenas(const struct crn_session *self, uint64_t cursor, struct page *page)
{
    uint64_t seen = 0;
    int on_side = 0;
    for (const struct crn_arena *a = NULL; (a = next_arena(self->space, a, &on_side)) != NULL;) {
        if (seen++ < cursor)
            continue;
        struct crn_extents_view view = crn_extents_view(a->extents);
        struct crn_arena_rec rec = {
            .arena = a->id,
            .bytes = a->mem.bytes,
            .used_bytes = (uint64_t)view.used * CRN_GRANULE_BYTES,
            .largest_free_bytes = (uint64_t)view.largest_free * CRN_GRANULE_BYTES,
            .free_runs = view.free_runs};
        if (!page_add(page, &rec, sizeof rec)) {
            page->next = seen - 1;
            return;
        }
    }
}

int crn_handle_list(struct crn_call *call)
{
    const struct crn_msg_list *m = &call->in->list;
    struct page page = {.at = call->scratch[0]};
    switch (m->what) {
    case 0:
    case CRN_LIST_ENTRIES:
        list_entries(call->session, m->cursor, &page);
        break;
    case CRN_LIST_SESSIONS:
        list_sessions(call->session, m->cursor, &page);
        break;
    case CRN_LIST_MODELS:
        list_models(call->session, m->cursor, &page);
        break;
    case CRN_LIST_ARENAS:
        list_arenas(call->session, m->cursor, &page);
        break;
    default:
        return crn_call_fail(call, CAIRN_E_ARG, "list: there is no list %u", (unsigned)m->what);
    }
    call->out.listed.recs = (struct crn_bytes){page.at, (uint32_t)page.n_bytes};
    call->out.listed.next = page.next;
    return 0;
}

int crn_handle_show(struct crn_call *call)
{
    static struct crn_listing listing; /* one call at a time */
    struct crn_entry_rec *rec = (struct crn_entry_rec *)(void *)call->scratch[0];
    struct crn_entry *e;
    int status = crn_call_entry(call, call->in->show.entry, &e);
    if (status == 0)
        status = crn_listing_body(&listing, e->body);
    if (status != 0)
        return status;
    *rec = entry_rec(e, crn_now_ns());
    call->out.shown.entry = (struct crn_bytes){rec, sizeof *rec};
    call->out.shown.payloads =
        (struct crn_bytes){listing.recs, listing.n * (uint32_t)sizeof *listing.recs};
    call->out.shown.counts =
        (struct crn_bytes){listing.counts, listing.n_counts * (uint32_t)sizeof *listing.counts};
    return 0;
}
