/* Moving payloads.
 *
 * A move owns the transfer of one payload and holds a reference on it, so neither its memory nor its place can go while the kernel
 * works on them. Attaches on a payload that is on its way share the one move: each leaves a wait (control page slot and word),
 * and all words are set when it ends. A move that fails down leaves the payload as it was; one that fails up sets FAILED and
 * dooms the entry, because what a checksum refused once must not be asked for again.
 *
 * Memory is given back only when nobody reads it: no lease on the payload, no draft that may copy from its entry, no other holder
 * of its body. Places are given back through limbo when a catalogue record may still name them: the removal must be durable
 * before the extent is overwritten (crn_tier_dropped). */
#include "broker/tier_impl.h"

#include "broker/crash.h"
#include "broker/session.h"
#include "ipc/chan.h"
#include "ipc/log.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define ROOM_BYTES (UINT64_C(8) << 20) /* made at a time, at most */
#define WAIT_MS 100
#define COOL_EVERY_NS UINT64_C(1000000000)

/* ---- the state machine ---- */

void crn_tier_move_to(struct crn_payload *p, enum crn_tier_state to)
{
    static const uint8_t allowed[] = {
        [CRN_RESIDENT] = 1u << CRN_SPILLING | 1u << CRN_SPILLED,
        [CRN_SPILLING] = 1u << CRN_RESIDENT | 1u << CRN_SPILLED,
        [CRN_SPILLED] = 1u << CRN_RESTORING | 1u << CRN_SPILLED, /* from the host tier to NVMe */
        [CRN_RESTORING] = 1u << CRN_RESIDENT | 1u << CRN_SPILLED,
    };
    if ((allowed[p->state] & 1u << to) == 0)
        crn_log(CRN_LOG_ERROR, "tier: payload of layer %u: illegal step %u -> %u", p->layer, p->state, (unsigned)to);
    else
        p->state = (uint8_t)to;
}

bool crn_tier_clean(const struct crn_payload *p)
{
    return p->state == CRN_RESIDENT && (p->place.bytes > 0 || p->host != NULL);
}

bool crn_tier_idle(const struct crn_payload *p)
{
    return p->leases == 0 && p->refs == 1u + (p->move != NULL) + (p->sink != NULL) && p->kind != CRN_PAYLOAD_TOKENS &&
           p->kind != CRN_PAYLOAD_BLOB;
}

void crn_tier_give_memory_back(struct crn_payload *p)
{
    p->space->payload_bytes -= p->bytes;
    crn_space_free(p->arena, &p->extent);
    p->arena = NULL;
    p->extent = (struct crn_extent){0, 0, 0};
    p->off = 0;
}

void crn_tier_let_go(struct crn_payload *p)
{
    crn_tier_move_to(p, CRN_SPILLED);
    crn_tier_give_memory_back(p);
    p->tier = p->host != NULL ? CAIRN_TIER_HOST : CAIRN_TIER_NVME;
}

bool crn_tier_quiet(const struct crn_entry *e)
{
    return e->n_drafts == 0 && e->body != NULL && e->body->refs == 1 + e->body->leases;
}

bool crn_tier_release(struct crn_payload *p)
{
    if (!crn_tier_clean(p) || p->move != NULL || !crn_tier_idle(p))
        return false;
    crn_tier_let_go(p);
    return true;
}

/* ---- orders, waits, moves ---- */

void crn_tier_order_end(struct crn_tier_order *order, int status)
{
    if (order == NULL)
        return;
    order->status = order->status == 0 ? status : order->status;
    if (--order->n > 0)
        return;
    if (order->done != NULL)
        order->done(order->ctx, order->status);
    free(order);
}

void crn_tier_join(struct crn_tier_link **list, struct crn_tier_order *order)
{
    struct crn_tier_link *link = order != NULL ? malloc(sizeof *link) : NULL;
    if (link == NULL)
        return; /* without memory it just does not wait */
    *link = (struct crn_tier_link){*list, order};
    *list = link;
    order->n++;
}

void crn_tier_end_links(struct crn_tier_link *list, int status)
{
    for (struct crn_tier_link *next; list != NULL; list = next) {
        next = list->next;
        crn_tier_order_end(list->order, status);
        free(list);
    }
}

struct crn_tier_move *crn_tier_move_new(struct crn_entry *e, struct crn_payload *p)
{
    struct crn_tier_move *m = calloc(1, sizeof *m);
    if (m == NULL)
        return NULL;
    m->payload = crn_payload_hold(p);
    m->entry = e->id;
    m->bytes = p->bytes;
    e->space->tier->n_moves++;
    return m;
}

void crn_tier_move_free(struct crn_tier *t, struct crn_tier_move *m, int status)
{
    struct crn_payload *p = m->payload;
    t->n_moves--;
    p->move = p->move == m ? NULL : p->move;
    p->sink = p->sink == m ? NULL : p->sink;
    crn_tier_recode_free(m->recode);
    crn_tier_stage_free(m->stage);
    crn_payload_drop(p);
    crn_tier_end_links(m->orders, status);
    free(m);
}

struct crn_entry *crn_tier_entry_of(const struct crn_tier_move *m)
{
    struct crn_entry *e;
    return crn_entries_find(&m->payload->space->entries, m->entry, &e) == 0 ? e : NULL;
}

static bool add_wait(struct crn_tier_move *m, struct crn_lease *lease, struct crn_control_slot *slot, uint32_t word)
{
    struct crn_tier_wait *w = malloc(sizeof *w);
    if (w == NULL)
        return false;
    *w = (struct crn_tier_wait){m->waits, lease, slot, word};
    m->waits = w;
    return true;
}

void crn_tier_wake_all(struct crn_tier_move *m, enum crn_progress value)
{
    while (m->waits != NULL) {
        struct crn_tier_wait *w = m->waits;
        m->waits = w->next;
        crn_control_set(w->slot, w->word, value);
        free(w);
    }
}

/* ---- down ---- */

/* An int8 copy to be written, when asked for by how, entry or namespace, and possible; else NULL. */
static struct crn_tier_recode *recode_for(struct crn_entry *e, struct crn_payload *p, int how)
{
    struct crn_tier_recode *recode;
    bool int8 = (how & CRN_DOWN_INT8) != 0 || e->spill_int8 || e->space->options.spill_int8;
    bool possible = int8 && (how & CRN_DOWN_RELEASE) != 0 && crn_tier_recodable(p);
    return possible && crn_tier_recode_new(e, p, &recode) == 0 ? recode : NULL; /* else as it is */
}

/* Takes a place; CAIRN_E_FULL. */
static int submit_write(struct crn_tier *t, struct crn_tier_move *m, void *mem)
{
    struct crn_payload *p = m->payload;
    uint64_t bytes = m->recode != NULL ? m->recode->bytes : crn_tier_place_bytes(p->bytes);
    int status = crn_store_take(t->store, bytes, &m->place);
    if (status != 0)
        return status;
    m->io = (struct crn_spill_io){.op = CRN_SPILL_WRITE,
                                  .file = m->place.file,
                                  .off = m->place.off,
                                  .bytes = bytes,
                                  .mem = mem,
                                  .checksum = p->checksum,
                                  .prepare = m->recode != NULL ? crn_tier_recode_run : NULL,
                                  .owner = m};
    if (m->recode != NULL)
        m->recode->source = mem;
    if (crn_tier_staged(p))
        status = crn_tier_stage_new(m);
    if (status != 0) {
        crn_store_free(t->store, &m->place);
        return status;
    }
    crn_spill_submit(crn_store_spill(t->store), &m->io); /* aligned by construction */
    return 0;
}

int crn_tier_start_write(struct crn_entry *e, struct crn_payload *p, bool from_host, int how, struct crn_tier_order *order)
{
    struct crn_tier *t = e->space->tier;
    struct crn_tier_move *m = crn_tier_move_new(e, p);
    if (m == NULL)
        return -ENOMEM;
    m->release = (how & CRN_DOWN_RELEASE) != 0;
    m->recode = recode_for(e, p, how);
    *(from_host ? &p->sink : &p->move) = m;
    int status = submit_write(t, m, from_host ? crn_tier_host_copy(p) : crn_payload_at(p));
    if (status != 0) {
        crn_tier_move_free(t, m, status);
        return status;
    }
    crn_tier_join(&m->orders, order);
    *(from_host ? &t->sink_bytes : &t->down_bytes) += m->bytes;
    return 0;
}

int crn_tier_start_spill(struct crn_entry *e, struct crn_payload *p, int how, struct crn_tier_order *order)
{
    if (e->space->tier->store == NULL)
        return CAIRN_E_UNSUPPORTED;
    if (p->state != CRN_RESIDENT || p->place.bytes > 0 || p->move != NULL || p->sink != NULL)
        return CAIRN_E_STATE;
    int status = crn_tier_start_write(e, p, false, how, order);
    if (status == 0)
        crn_tier_move_to(p, CRN_SPILLING);
    return status;
}

/* A bad extent stays in use until the next start; the next one is written elsewhere. */
void crn_tier_write_failed(struct crn_tier *t, struct crn_tier_move *m)
{
    if (m->io.result != -EIO)
        crn_store_free(t->store, &m->place);
    t->paused_until_ns = crn_now_ns() + CRN_TIER_PAUSE_NS;
    CRN_COUNT(&m->payload->space->stats, io_error_total);
}

void crn_tier_become_coded(struct crn_entry *e, struct crn_payload *p, const struct crn_tier_recode *r)
{
    e->body->bytes -= p->bytes - r->bytes;
    p->bytes = r->bytes;
    p->checksum = r->checksum;
    p->dtype = CAIRN_I8;
    p->wide = (uint16_t)r->wide;
}

void crn_tier_persist_for(struct crn_tier *t, struct crn_tier_move *m, struct crn_entry *e)
{
    if (e == NULL)
        return;
    crn_tier_persist(t, e, NULL);
    for (struct crn_tier_link *l = m->orders; l != NULL; l = l->next)
        crn_tier_persist(t, e, l->order);
}

/* e: NULL when the entry is gone. */
static void spill_worked(struct crn_tier *t, struct crn_tier_move *m, struct crn_entry *e)
{
    struct crn_payload *p = m->payload;
    bool free_to_go = m->release && e != NULL && crn_tier_quiet(e) && crn_tier_idle(p);
    CRN_COUNT(&p->space->stats, spilled_total);
    CRN_ADD(&p->space->stats, spilled_bytes_total, m->io.bytes);
    if (m->recode != NULL && !free_to_go) /* somebody reads the plain one: what was written is not a copy of it */
        crn_store_free(t->store, &m->place);
    else
        p->place = m->place;
    if (free_to_go)
        crn_tier_let_go(p);
    else
        crn_tier_move_to(p, CRN_RESIDENT);
    if (free_to_go && m->recode != NULL)
        crn_tier_become_coded(e, p, m->recode);
    crn_tier_persist_for(t, m, e);
}

static void spill_ended(struct crn_tier *t, struct crn_tier_move *m)
{
    struct crn_entry *e = crn_tier_entry_of(m);
    int status = m->io.result;
    t->down_bytes -= m->bytes;
    CRN_CRASH("spill-written");
    if (status == 0) {
        spill_worked(t, m, e);
    } else {
        crn_tier_write_failed(t, m);
        crn_tier_move_to(m->payload, CRN_RESIDENT);
    }
    crn_tier_move_free(t, m, status);
    if (e != NULL && !e->in_catalog && !crn_tier_coming(e))
        crn_tier_adopt(t, e, status != 0 ? status : -EIO); /* nobody need wait for it */
}

/* ---- up ---- */

int crn_tier_take_memory(struct crn_payload *p)
{
    int status = crn_space_alloc(p->space, p->bytes, &p->arena, &p->extent);
    if (status != 0)
        return status;
    p->off = (uint64_t)p->extent.first * CRN_GRANULE_BYTES;
    p->space->payload_bytes += p->bytes;
    return 0;
}

static int start_read(struct crn_entry *e, struct crn_payload *p, struct crn_tier_order *order)
{
    struct crn_tier *t = e->space->tier;
    struct crn_tier_move *m = crn_tier_move_new(e, p);
    if (m == NULL)
        return -ENOMEM;
    m->io = (struct crn_spill_io){.op = CRN_SPILL_READ,
                                  .file = p->place.file,
                                  .off = p->place.off,
                                  .bytes = crn_tier_place_bytes(p->bytes),
                                  .mem = crn_payload_at(p),
                                  .checksum = p->checksum,
                                  .check = p->bytes > 0,
                                  .owner = m};
    p->move = m;
    if (crn_tier_staged(p) && crn_tier_stage_new(m) != 0) {
        crn_tier_move_free(t, m, -ENOMEM);
        return -ENOMEM;
    }
    crn_tier_join(&m->orders, order);
    crn_tier_move_to(p, CRN_RESTORING);
    CRN_CRASH("restore-started");
    crn_spill_submit(crn_store_spill(t->store), &m->io);
    return 0;
}

int crn_tier_start_restore(struct crn_entry *e, struct crn_payload *p, struct crn_tier_order *order)
{
    if (p->state != CRN_SPILLED || p->move != NULL)
        return CAIRN_E_STATE;
    int status = crn_tier_take_memory(p);
    if (status != 0)
        return status;
    status = p->host != NULL ? crn_tier_start_up(e, p, order) : start_read(e, p, order);
    if (status != 0)
        crn_tier_give_memory_back(p);
    return status;
}

static void restore_ended(struct crn_tier *t, struct crn_tier_move *m)
{
    struct crn_payload *p = m->payload;
    struct crn_space *space = p->space;
    int status = m->io.result;
    CRN_CRASH("restore-read");
    if (status == 0) {
        crn_tier_move_to(p, CRN_RESIDENT);
        p->tier = crn_tier_staged(p) ? CAIRN_TIER_DEVICE : CAIRN_TIER_HOST;
        crn_tier_abandon_suspect(p);
        CRN_COUNT(&space->stats, restored_total);
        CRN_ADD(&space->stats, restored_bytes_total, p->bytes);
        crn_tier_wake_all(m, CRN_PROGRESS_READY);
        crn_tier_move_free(t, m, 0);
        return;
    }
    CRN_COUNT(&space->stats, restore_failed_total);
    if (status == CAIRN_E_CORRUPT)
        CRN_COUNT(&space->stats, corrupt_total);
    else
        CRN_COUNT(&space->stats, io_error_total);
    crn_tier_move_to(p, CRN_SPILLED);
    crn_tier_give_memory_back(p);
    bool good = m->stage != NULL && m->stage->failed; /* what is on NVMe; it did not get to the device */
    uint64_t entry = m->entry;
    crn_tier_wake_all(m, CRN_PROGRESS_FAILED);
    crn_tier_move_free(t, m, status);
    if (!good)
        crn_tier_doom(space, entry);
}

/* What cannot be read must not be found. Children cannot be used without it. */
void crn_tier_doom(struct crn_space *space, uint64_t id)
{
    struct crn_entry *e;
    if (crn_entries_find(&space->entries, id, &e) != 0)
        return;
    e->broken = true;
    space->tier->any_broken = true;
    space->tier->dropped++;
    crn_log(CRN_LOG_WARN, "entry %" PRIx64 ": a payload cannot be read back: the entry is dropped", id);
}

/* true: some are still being read for a draft. */
static bool sweep_broken(struct crn_space *space)
{
    uint32_t slot = 0;
    bool left = false;
    for (struct crn_entry *e = crn_entries_walk(&space->entries, 0, &slot); e != NULL;
         e = crn_entries_walk(&space->entries, slot + 1, &slot)) {
        left = left || (e->broken && e->n_drafts > 0);
        if (e->broken && e->n_drafts == 0)
            crn_space_remove_tree(space, e);
    }
    return left;
}

/* ---- attach ---- */

/* One payload of a listing. word: the one to use when it is not there yet. -EAGAIN: there will be room for it. */
static int want_one(struct crn_session *s, struct crn_lease *lease, const struct crn_path *path,
                    struct crn_payload *p, struct crn_payload_rec *rec, uint32_t *word)
{
    struct crn_control_slot *slot = crn_control_slot_at(&s->control, lease->slot);
    p->used_ns = crn_now_ns();
    if (p->state == CRN_RESIDENT || p->state == CRN_SPILLING)
        return 0;
    rec->word = (uint16_t)*word;
    rec->tier = p->tier;
    int status = 0;
    if (p->state == CRN_SPILLED)
        status = crn_tier_start_restore(path->parts[rec->path_index].entry, p, NULL);
    if (status == -EAGAIN)
        return status;
    if (status != 0 || !add_wait(p->move, lease, slot, *word)) {
        CRN_COUNT(&s->space->stats, restore_failed_total);
        crn_control_set(slot, *word, CRN_PROGRESS_FAILED);
    }
    rec->arena = p->arena != NULL ? p->arena->id : 0;
    rec->off = p->off;
    ++*word;
    return 0;
}

int crn_tier_want(struct crn_session *s, struct crn_lease *lease, const struct crn_path *path, struct crn_listing *l)
{
    struct crn_control_slot *slot = crn_control_slot_at(&s->control, lease->slot);
    uint32_t n = 0, word = 0;
    for (uint32_t i = 0; i < l->n; i++)
        n += l->payloads[i]->state == CRN_SPILLED || l->payloads[i]->state == CRN_RESTORING;
    if (n > CRN_CONTROL_WORDS)
        return CAIRN_E_TOO_BIG;
    crn_control_begin_lease(slot, n);
    int status = 0;
    for (uint32_t i = 0; n > 0 && i < l->n && status == 0; i++)
        status = want_one(s, lease, path, l->payloads[i], &l->recs[i], &word);
    if (status != 0)
        return status;
    uint64_t now = crn_now_ns();
    for (uint32_t i = 0; n == 0 && i < l->n; i++)
        l->payloads[i]->used_ns = now;
    return 0;
}

void crn_tier_unwant(struct crn_lease *lease)
{
    for (uint32_t i = 0; i < lease->n_payloads; i++) {
        struct crn_tier_move *m = lease->payloads[i]->move;
        struct crn_tier_wait **at = m != NULL ? &m->waits : NULL;
        while (at != NULL && *at != NULL) {
            struct crn_tier_wait *w = *at;
            if (w->lease != lease) {
                at = &w->next;
                continue;
            }
            *at = w->next;
            free(w);
        }
    }
}

/* ---- orders of people ---- */

struct order_ctx {
    struct crn_entry *e;
    struct crn_tier_order *order;
    struct crn_tier_layers what;
    int status;
    bool quiet;
};

/* Is the payload among those that the order names? */
static bool is_ordered(const struct order_ctx *o, const struct crn_payload *p)
{
    bool layer = p->kind == CRN_PAYLOAD_KV && p->layer >= o->what.first && p->layer <= o->what.last;
    bool whole = o->what.first == 0 && o->what.last >= o->e->body->n_layers - 1u;
    return layer || (whole && p->kind == CRN_PAYLOAD_STATE);
}

static void order_down(void *ctx, struct crn_payload *p)
{
    struct order_ctx *o = ctx;
    int status = 0, how = CRN_DOWN_RELEASE | (o->what.int8 ? CRN_DOWN_INT8 : 0);
    if (!is_ordered(o, p))
        return;
    if (p->state == CRN_SPILLING) {
        p->move->release = p->move->onward = true;
        p->move->how = how;
        crn_tier_join(&p->move->orders, o->order);
    }
    if (p->sink != NULL) {
        p->sink->release = true;
        crn_tier_join(&p->sink->orders, o->order);
    }
    if (o->quiet)
        crn_tier_release(p);
    if (p->state == CRN_SPILLED && p->host != NULL && p->sink == NULL && !crn_tier_host_release(o->e, p))
        status = crn_tier_start_sink(o->e, p, how, o->order);
    if (p->state == CRN_RESIDENT && p->place.bytes == 0 && p->sink == NULL)
        status = crn_tier_start_spill(o->e, p, how, o->order);
    o->status = o->status == 0 ? status : o->status;
}

static void order_to_host(void *ctx, struct crn_payload *p)
{
    struct order_ctx *o = ctx;
    enum crn_tier_room room = CRN_ROOM_MADE;
    int status = CAIRN_E_FULL;
    if (!is_ordered(o, p) || o->status == -EAGAIN)
        return;
    if (p->state == CRN_SPILLING)
        crn_tier_join(&p->move->orders, o->order);
    if ((o->quiet && p->host != NULL && crn_tier_release(p)) || p->state != CRN_RESIDENT || p->host != NULL)
        return;
    while (status == CAIRN_E_FULL && room == CRN_ROOM_MADE) {
        status = crn_tier_start_down(o->e, p, o->order);
        room = status == CAIRN_E_FULL ? crn_tier_host_room(o->e, p->bytes) : room;
    }
    status = status == CAIRN_E_FULL && room == CRN_ROOM_COMING ? -EAGAIN : status;
    o->status = o->status == 0 || status == -EAGAIN ? status : o->status;
}

/* Everything was asked for. -EAGAIN: it is asked for again later, and nobody waits for what was begun. */
static int order_begun(struct order_ctx *o)
{
    int status = o->status == -EAGAIN ? o->status : 0;
    if (status != 0)
        o->order->done = NULL;
    crn_tier_order_end(o->order, o->status);
    return status;
}

/* A copy on NVMe of what has none, from wherever it is; it stays there. */
static int write_down(struct crn_entry *e, struct crn_payload *p)
{
    if (p->state == CRN_SPILLING)
        p->move->onward = true; /* if not to NVMe anyway */
    if (p->place.bytes > 0 || p->move != NULL || p->sink != NULL)
        return 0;
    if (p->state == CRN_RESIDENT)
        return crn_tier_start_spill(e, p, CRN_DOWN_KEEP, NULL);
    return p->state == CRN_SPILLED && p->host != NULL ? crn_tier_start_sink(e, p, CRN_DOWN_KEEP, NULL) : 0;
}

/* What the entry continues: written, and kept where it is. */
static void order_ancestor(void *ctx, struct crn_payload *p)
{
    struct order_ctx *o = ctx;
    if (p->kind == CRN_PAYLOAD_TOKENS)
        return;
    int status = write_down(o->e, p);
    o->status = o->status == 0 ? status : o->status;
}

static void order_up(void *ctx, struct crn_payload *p)
{
    struct order_ctx *o = ctx;
    if (p->state == CRN_RESTORING)
        crn_tier_join(&p->move->orders, o->order);
    if (p->state != CRN_SPILLED || o->status == -EAGAIN)
        return;
    int status = crn_tier_start_restore(o->e, p, o->order);
    o->status = o->status == 0 ? status : o->status;
}

static int order_new(struct crn_entry *e, struct order_ctx *o, crn_tier_done *done, void *ctx)
{
    if (e->space->tier == NULL)
        return CAIRN_E_UNSUPPORTED;
    o->e = e;
    o->quiet = crn_tier_quiet(e);
    o->order = calloc(1, sizeof *o->order);
    if (o->order == NULL)
        return -ENOMEM;
    *o->order = (struct crn_tier_order){.n = 1, .done = done, .ctx = ctx};
    return 0;
}

static void order_to_nvme(struct crn_tier *t, struct order_ctx *o)
{
    struct crn_entry *e = o->e;
    for (struct crn_entry *a = e->parent; a != NULL; a = a->parent) {
        if (a->in_catalog || a->body == NULL)
            continue;
        o->e = a;
        crn_body_each(a->body, order_ancestor, o);
        crn_tier_persist(t, a, NULL);
    }
    o->e = e;
    crn_body_each(e->body, order_down, o);
    crn_tier_persist(t, e, o->order);
    crn_tier_persist_step(t);
}

int crn_tier_spill(struct crn_entry *e, const struct crn_tier_layers *what, crn_tier_done *done, void *ctx)
{
    struct order_ctx o = {.what = *what};
    struct crn_tier *t = e->space->tier;
    bool possible = what->host ? crn_tier_has_host(e->space) : crn_tier_has_nvme(t);
    int status = possible ? order_new(e, &o, done, ctx) : CAIRN_E_UNSUPPORTED;
    if (status != 0)
        return status;
    if (what->host)
        crn_body_each(e->body, order_to_host, &o);
    else
        order_to_nvme(t, &o);
    return order_begun(&o);
}

int crn_tier_restore(struct crn_entry *e, crn_tier_done *done, void *ctx)
{
    struct order_ctx o = {.e = e};
    int status = order_new(e, &o, done, ctx);
    if (status != 0)
        return status;
    e->n_drafts++; /* room for one payload must not be made by dropping the entry */
    crn_body_each(e->body, order_up, &o);
    e->n_drafts--;
    return order_begun(&o);
}

/* ---- events ---- */

static void collect_moves(struct crn_tier *t)
{
    struct crn_spill_io *io;
    while (t->store != NULL && (io = crn_spill_take(crn_store_spill(t->store))) != NULL) {
        struct crn_tier_move *m = io->owner;
        if (io->op == CRN_SPILL_SYNC)
            crn_tier_synced(t, io);
        else if (io->op == CRN_SPILL_READ)
            restore_ended(t, m);
        else if (m->payload->sink == m)
            crn_tier_sink_ended(t, m);
        else
            spill_ended(t, m);
    }
}

static void collect(struct crn_tier *t)
{
    struct crn_cat_batch *batch;
    collect_moves(t);
    while (t->catalog != NULL && (batch = crn_catalog_take(t->catalog)) != NULL)
        crn_tier_committed(t, batch);
    if (t->from_host != NULL)
        crn_copier_collect(t->from_host);
    if (t->to_host != NULL)
        crn_copier_collect(t->to_host);
    crn_tier_persist_step(t);
}

void crn_tier_collect(struct crn_tier *t)
{
    t->turn++;
    collect(t);
}

static void write_all_down(void *ctx, struct crn_payload *p)
{
    struct crn_entry *e = ctx;
    if (p->kind != CRN_PAYLOAD_TOKENS)
        write_down(e, p);
}

/* What should be on NVMe and is not: entries published while the store was full or paused. */
static void look_after(struct crn_tier *t, struct crn_entry *e)
{
    bool wanted = t->store != NULL && (t->config.write_through || e->in_catalog) && !e->durable;
    if (wanted && crn_now_ns() >= t->paused_until_ns && e->n_drafts == 0)
        crn_body_each(e->body, write_all_down, e);
    crn_tier_persist(t, e, NULL);
    crn_tier_cool(e);
}

static void look_after_all(struct crn_space *space)
{
    struct crn_entry *e;
    for (enum crn_lru_list list = CRN_LRU_NEW; list <= CRN_LRU_USED; list++) {
        struct crn_lru_walk walk = crn_lru_from_coldest(space, list);
        while ((e = crn_lru_next(&walk)) != NULL) {
            if (e->body != NULL)
                look_after(space->tier, e);
        }
    }
}

/* Bytes to send down to be below the low mark; 0: not above the high one. What is leaving counts as gone. */
static uint64_t too_much(const struct crn_tier_config *c, uint64_t limit, uint64_t used, uint64_t leaving)
{
    uint64_t high = limit / 100 * c->high_percent, low = limit / 100 * c->low_percent;
    return used > high + leaving ? used - leaving - low : 0;
}

/* Without NVMe the host tier may fill up: then the coldest entries are dropped when there must be room. */
static void keep_below_high(struct crn_space *space)
{
    const struct crn_tier *t = space->tier;
    uint64_t bytes = too_much(&t->config, space->options.host_limit_bytes, space->host_used_bytes, t->sink_bytes);
    if (bytes > 0 && t->store != NULL)
        crn_tier_sink(space, bytes);
    bytes = too_much(&t->config, space->options.limit_bytes, space->used_bytes, t->down_bytes);
    if (bytes > 0)
        crn_tier_demote(space, bytes, false);
}

void crn_tier_tick(struct crn_tier *t)
{
    if (t == NULL)
        return;
    t->turn++;
    uint64_t now = crn_now_ns();
    bool cool = now - t->cooled_ns >= COOL_EVERY_NS, broken = t->any_broken;
    t->cooled_ns = cool ? now : t->cooled_ns;
    t->any_broken = false;
    for (uint32_t i = 0; i < t->n_spaces; i++) {
        t->any_broken = (broken && sweep_broken(&t->spaces[i])) || t->any_broken;
        keep_below_high(&t->spaces[i]);
        if (cool)
            look_after_all(&t->spaces[i]);
    }
    crn_tier_offer_step(t);
    crn_tier_drop_again(t);
    crn_tier_adopt(t, NULL, 0);
    crn_tier_persist_step(t);
}

/* Something is under way that may give memory back: payloads going down, entries becoming durable and then cold. */
static bool busy(const struct crn_tier *t)
{
    return t->down_bytes > 0 || t->sink_bytes > 0 || t->n_syncs > 0 || t->pending != NULL || t->finished < t->submitted;
}

static void wait_for_any(const struct crn_tier *t)
{
    struct pollfd p[CRN_TIER_FDS]; /* poll leaves out what is negative */
    for (uint32_t i = 0; i < CRN_TIER_FDS; i++)
        p[i] = (struct pollfd){.fd = crn_tier_fd(t, i), .events = POLLIN};
    poll(p, CRN_TIER_FDS, WAIT_MS);
}

enum crn_tier_room crn_tier_make_room(struct crn_space *space, uint64_t bytes)
{
    struct crn_tier *t = space->tier;
    if (t == NULL || t->closing)
        return CRN_ROOM_NONE;
    uint64_t before = space->used_bytes;
    uint64_t some = space->options.limit_bytes / 16 < ROOM_BYTES ? space->options.limit_bytes / 16 : ROOM_BYTES;
    crn_tier_cool_some(space);
    some = bytes > some ? bytes : some;
    if (space->used_bytes >= before && t->down_bytes < some)
        crn_tier_demote(space, some - t->down_bytes, true);
    if (space->used_bytes < before)
        return CRN_ROOM_MADE;
    if (!busy(t))
        return CRN_ROOM_NONE;
    return t->impatient ? CRN_ROOM_LATE : CRN_ROOM_COMING;
}

void crn_tier_hurry(struct crn_tier *t, bool on)
{
    if (t != NULL)
        t->impatient = on;
}

bool crn_tier_starved(const struct crn_space *space)
{
    return space->tier != NULL && space->tier->starved;
}

void crn_tier_fed(struct crn_tier *t)
{
    if (t != NULL)
        t->starved = false;
}

static void release_old(void *ctx, struct crn_payload *p)
{
    (void)ctx;
    crn_tier_release(p);
}

void crn_tier_published(struct crn_entry *e)
{
    struct crn_tier *t = e->space->tier;
    if (t == NULL)
        return;
    CRN_CRASH("publish-visible");
    if (e->body == NULL)
        return; /* it was there already */
    if (t->store != NULL && (t->config.write_through || e->old != NULL))
        crn_body_each(e->body, write_all_down, e);
    if (e->old != NULL && e->old->refs == 1 + e->old->leases)
        crn_body_each(e->old, release_old, NULL);
}

/* ---- opening and closing ---- */

static int open_catalog(struct crn_tier *t)
{
    char path[4200];
    bool damaged;
    uint32_t at = 0;
    /* the catalogue lies beside the file that has one already, else beside the first */
    for (uint32_t i = crn_store_files(t->store); i-- > 0;) {
        snprintf(path, sizeof path, "%s.catalog", crn_store_path(t->store, i));
        at = access(path, F_OK) == 0 ? i : at;
    }
    snprintf(path, sizeof path, "%s.catalog", crn_store_path(t->store, at));
    struct crn_catalog_config config = {
        .path = path, .map_bytes = t->config.catalog_map_bytes, .max_map_bytes = t->config.catalog_max_map_bytes};
    int status = crn_catalog_open(&config, &damaged, &t->catalog);
    for (uint32_t i = 0; i < crn_store_files(t->store) && status == 0; i++) {
        struct cairn_digest uuid = crn_store_uuid(t->store, i);
        status = crn_catalog_file(t->catalog, &uuid, &t->file_ids[i]);
    }
    return status;
}

static int open_nvme(struct crn_tier *t)
{
    if (t->config.store.n_files == 0)
        return 0;
    int status = crn_store_open(&t->config.store, &t->store);
    if (status == 0)
        status = open_catalog(t);
    return status == 0 ? crn_tier_recover(t) : status;
}

int crn_tier_open(const struct crn_tier_config *config, struct crn_space *spaces, uint32_t n_spaces,
                  struct crn_tier **out_tier)
{
    struct crn_tier *t = calloc(1, sizeof *t);
    if (t == NULL)
        return -ENOMEM;
    t->config = *config;
    t->turn = 1;
    t->spaces = spaces;
    t->n_spaces = n_spaces;
    for (uint32_t i = 0; i < n_spaces; i++)
        spaces[i].tier = t;
    int status = open_nvme(t);
    if (status == 0)
        status = crn_tier_host_open(t);
    if (status != 0) {
        crn_log(CRN_LOG_WARN, "tier: %s: going on without %s", cairn_strerror(status), config->store.n_files > 0 ? "NVMe" : "a host tier");
        crn_tier_close(t);
        return status;
    }
    if (t->store != NULL)
        crn_log(CRN_LOG_INFO, "tier: %s, %" PRIu64 " MiB; %" PRIu64 " entries came back, %" PRIu64 " dropped",
                crn_tier_text(t), crn_store_limit_bytes(t->store) >> 20, t->recovered, t->dropped);
    *out_tier = t;
    return 0;
}

void crn_tier_close(struct crn_tier *t)
{
    if (t == NULL)
        return;
    t->closing = true;
    while ((t->catalog != NULL || t->to_host != NULL) && (t->n_moves > 0 || busy(t))) {
        collect(t);
        if (t->n_moves > 0 || busy(t))
            wait_for_any(t);
    }
    crn_tier_host_close(t);
    crn_tier_offer_end(t);
    crn_tier_adopt(t, NULL, CAIRN_E_GONE);
    for (uint32_t i = 0; i < t->n_spaces; i++)
        t->spaces[i].tier = NULL;
    crn_catalog_close(t->catalog);
    crn_store_close(t->store);
    free(t->limbo);
    free(t->undropped);
    free(t);
}

int crn_tier_fd(const struct crn_tier *t, uint32_t i)
{
    switch (i) {
    case 0:
        return t->store != NULL ? crn_spill_fd(crn_store_spill(t->store)) : -1;
    case 1:
        return t->catalog != NULL ? crn_catalog_fd(t->catalog) : -1;
    case 2:
        return t->to_host != NULL ? crn_copier_fd(t->to_host) : -1;
    case 3:
        return t->from_host != NULL ? crn_copier_fd(t->from_host) : -1;
    default:
        return -1;
    }
}

bool crn_tier_has_nvme(const struct crn_tier *t)
{
    return t != NULL && t->store != NULL;
}

struct crn_store *crn_tier_store(const struct crn_tier *t)
{
    return t->store;
}

const char *crn_tier_text(const struct crn_tier *t)
{
    return !crn_tier_has_nvme(t) ? "" : crn_spill_text(crn_store_spill(t->store));
}

uint64_t crn_tier_restore_rate(const struct crn_space *space)
{
    struct crn_spill_stats stats;
    if (!crn_tier_has_nvme(space->tier))
        return 0;
    crn_spill_stats(crn_store_spill(space->tier->store), &stats);
    return stats.read_per_second;
}

void crn_tier_gauges(const struct crn_space *space, struct crn_stats *out)
{
    const struct crn_tier *t = space->tier;
    struct crn_spill_stats stats;
    CRN_GAUGE(out, host_tier_limit_bytes, space->options.host_limit_bytes);
    CRN_GAUGE(out, host_tier_used_bytes, space->host_used_bytes);
    if (!crn_tier_has_nvme(t))
        return;
    crn_spill_stats(crn_store_spill(t->store), &stats);
    CRN_GAUGE(out, nvme_limit_bytes, crn_store_limit_bytes(t->store));
    CRN_GAUGE(out, nvme_used_bytes, crn_store_used_bytes(t->store));
    CRN_GAUGE(out, spill_queue, stats.write_queue);
    CRN_GAUGE(out, restore_queue, stats.read_queue);
    CRN_GAUGE(out, spill_bytes_per_second, stats.write_per_second);
    CRN_GAUGE(out, restore_bytes_per_second, stats.read_per_second);
    CRN_GAUGE(out, recovered_entries, t->recovered);
    CRN_GAUGE(out, dropped_entries, t->dropped);
}

static void add_brief(void *ctx, struct crn_payload *p)
{
    struct crn_tier_brief *b = ctx;
    bool here = p->state == CRN_RESIDENT || p->state == CRN_SPILLING;
    b->resident_bytes += here ? p->bytes : 0;
    b->allocated_bytes += (uint64_t)p->extent.n * CRN_GRANULE_BYTES;
    if (p->kind != CRN_PAYLOAD_TOKENS) /* always in memory that the CPU reads */
        b->tier = p->tier > b->tier ? p->tier : b->tier;
}

struct crn_tier_brief crn_tier_brief(const struct crn_entry *e)
{
    struct crn_tier_brief b = {.bytes = e->cold_bytes, .n_states = e->cold_states, .dtype = e->cold_dtype, .tier = CAIRN_TIER_NVME};
    if (e->body == NULL)
        return b;
    b = (struct crn_tier_brief){.bytes = e->body->bytes,
                                .leases = e->body->leases,
                                .n_states = e->body->n_states,
                                .dtype = e->body->kv[0]->dtype};
    crn_body_each(e->body, add_brief, &b);
    return b;
}
