/* Remembering: which entries the catalogue knows, and keeping its records, the extents and the entries in step.
 *
 * Down: an entry whose payloads all have a place waits in `pending`; all that wait are synced together (fdatasync of every file),
 * then committed in one batch, then durable. A child waits among the `orphans` until its parent is in the catalogue, so parents
 * have smaller ids and come first when the catalogue is read. An entry whose body was replaced keeps its id: the new record
 * overwrites the old one, and until then the old one is good, because its extents are held (crn_tier_replaced).
 *
 * Away: removing an entry submits the removal of its record first; the places of its payloads go to limbo, tagged with the
 * number of the last batch submitted, and are free when that batch is done. A removal that failed is tried again with the next
 * tick, and places wait for it.
 *
 * Back: at start every record is checked against the files and against the other records (no extent twice); what fails is
 * removed from the catalogue before anything new is written. Recovered entries are cold: header and hashes in memory, the rest
 * in the catalogue until somebody asks. */
#include "broker/tier_impl.h"

#include "broker/crash.h"
#include "ipc/chan.h"
#include "ipc/hash.h"
#include "ipc/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SLOW_SYNC_NS UINT64_C(2000000000) /* worth a line: whoever waits for durability waits for this */
#define COOL_AT_ONCE 256u /* entries looked at when memory is short */

/* ---- away ---- */

static bool submit(struct crn_tier *t, struct crn_cat_batch *b, uint64_t drop_id, struct crn_tier_item *items)
{
    struct crn_tier_commit *c = malloc(sizeof *c);
    if (c == NULL || b == NULL) {
        crn_log(CRN_LOG_ERROR, "tier: %s", cairn_strerror(-ENOMEM));
        crn_cat_batch_free(b);
        free(c);
        return false;
    }
    *c = (struct crn_tier_commit){++t->submitted, drop_id, items};
    b->owner = c;
    crn_catalog_submit(t->catalog, b);
    return true;
}

/* Without memory for the list the record stays, and its extents with it, until the next start. */
static void note_undropped(struct crn_tier *t, uint64_t catalog_id)
{
    if (t->n_undropped == t->max_undropped) {
        size_t max = t->max_undropped == 0 ? 64 : t->max_undropped * 2;
        uint64_t *ids = reallocarray(t->undropped, max, sizeof *ids);
        if (ids == NULL)
            return;
        t->undropped = ids;
        t->max_undropped = max;
    }
    t->undropped[t->n_undropped++] = catalog_id;
}

static void drop_record(struct crn_tier *t, uint64_t catalog_id)
{
    struct crn_cat_batch *b = crn_cat_batch_new();
    if (b != NULL && crn_cat_drop_entry(b, catalog_id) != 0) {
        crn_cat_batch_free(b);
        b = NULL;
    }
    if (!submit(t, b, catalog_id, NULL))
        note_undropped(t, catalog_id);
}

void crn_tier_removed(struct crn_entry *e)
{
    struct crn_tier *t = e->space->tier;
    if (t == NULL || t->closing || e->catalog_id == 0)
        return;
    if (e->body == NULL)
        crn_tier_warm_places(e);
    CRN_CRASH("evict-record");
    drop_record(t, e->catalog_id);
    e->durable = e->in_catalog = false;
    e->item = NULL;
}

/* The body that a record names, or will when its batch is through, is held until the record is of the next one: a crash in
 * between finds the old entry. Its memory goes as soon as nobody reads it. */
void crn_tier_replaced(struct crn_entry *e)
{
    const struct crn_tier *t = e->space->tier;
    e->durable = false;
    e->item = NULL;
    if (t == NULL || t->closing || e->catalog_id == 0)
        return;
    crn_body_hold(e->body)->older = e->old;
    e->old = e->body;
    CRN_CRASH("replaced");
}

static void into_limbo(struct crn_tier *t, const struct crn_place *place, uint64_t seq)
{
    if (t->n_limbo == t->max_limbo) {
        size_t max = t->max_limbo == 0 ? 256 : t->max_limbo * 2;
        struct crn_tier_limbo *limbo = reallocarray(t->limbo, max, sizeof *limbo);
        if (limbo == NULL)
            return; /* in use until the next start */
        t->limbo = limbo;
        t->max_limbo = max;
    }
    t->limbo[t->n_limbo++] = (struct crn_tier_limbo){*place, seq};
}

/* Its record, if there was one, is being removed, or was: the removal was submitted before the body was let go. */
void crn_tier_dropped(struct crn_payload *p)
{
    struct crn_tier *t = p->space->tier;
    if (t == NULL || p->place.bytes == 0 || t->closing)
        return;
    if (!p->recorded || (t->finished == t->submitted && t->n_undropped == 0))
        crn_store_free(t->store, &p->place);
    else
        into_limbo(t, &p->place, t->n_undropped > 0 ? CRN_TIER_STUCK : t->submitted);
}

/* Batches finish in order: what waited for this one, or an earlier one, is decided. */
static void leave_limbo(struct crn_tier *t, uint64_t seq, bool durable)
{
    size_t kept = 0, n = t->n_limbo;
    for (size_t i = 0; i < n; i++) {
        struct crn_tier_limbo *l = &t->limbo[i];
        if (l->seq <= seq && durable) {
            crn_store_free(t->store, &l->place);
            continue;
        }
        if (l->seq <= seq)
            l->seq = CRN_TIER_STUCK;
        t->limbo[kept++] = *l;
    }
    t->n_limbo = kept;
    if (kept < n)
        CRN_CRASH("evict-freed");
}

/* All removals that failed, in one batch; what is stuck waits for it. */
void crn_tier_drop_again(struct crn_tier *t)
{
    if (t->n_undropped == 0 || t->finished < t->submitted)
        return;
    struct crn_cat_batch *b = crn_cat_batch_new();
    for (size_t i = 0; i < t->n_undropped && b != NULL; i++) {
        if (crn_cat_drop_entry(b, t->undropped[i]) != 0)
            break; /* the rest later */
    }
    if (b == NULL || b->n_ops < 2 * t->n_undropped) {
        crn_cat_batch_free(b);
        return;
    }
    if (!submit(t, b, CRN_TIER_STUCK, NULL))
        return;
    for (size_t i = 0; i < t->n_limbo; i++)
        t->limbo[i].seq = t->limbo[i].seq == CRN_TIER_STUCK ? t->submitted : t->limbo[i].seq;
}

/* ---- down ---- */

static void check_place(void *ctx, struct crn_payload *p)
{
    bool *all = ctx;
    bool placed = p->kind == CRN_PAYLOAD_TOKENS || (p->place.bytes > 0 && !p->suspect);
    *all = *all && placed;
}

bool crn_tier_all_placed(const struct crn_entry *e)
{
    bool all = e->body != NULL;
    if (all)
        crn_body_each(e->body, check_place, &all);
    return all;
}

static void check_moving(void *ctx, struct crn_payload *p)
{
    bool *any = ctx;
    *any = *any || p->move != NULL || p->sink != NULL;
}

bool crn_tier_coming(const struct crn_entry *e)
{
    bool any = e->item != NULL;
    if (e->body != NULL)
        crn_body_each(e->body, check_moving, &any);
    return any;
}

void crn_tier_persist(struct crn_tier *t, struct crn_entry *e, struct crn_tier_order *order)
{
    if (e->item != NULL)
        crn_tier_join(&e->item->orders, order);
    if (t->store == NULL || e->durable || e->broken || e->item != NULL || !crn_tier_all_placed(e))
        return;
    bool orphan = e->parent != NULL && !e->parent->in_catalog;
    if (orphan && !crn_tier_coming(e->parent)) {
        if (order != NULL) /* its parent could not be written */
            order->status = order->status == 0 ? -EIO : order->status;
        return;
    }
    struct crn_tier_item *item = malloc(sizeof *item);
    if (item == NULL)
        return;
    *item = (struct crn_tier_item){orphan ? t->orphans : t->pending, e->space, e->id, 0, NULL};
    *(orphan ? &t->orphans : &t->pending) = item;
    crn_tier_join(&item->orders, order);
    e->item = item;
}

void crn_tier_persist_step(struct crn_tier *t)
{
    if (t->pending == NULL || t->syncing != NULL)
        return;
    t->syncing = t->pending;
    t->pending = NULL;
    t->sync_status = 0;
    t->sync_began_ns = crn_now_ns();
    t->n_syncs = crn_store_files(t->store);
    CRN_CRASH("sync-start");
    for (uint32_t i = 0; i < crn_store_files(t->store); i++) {
        t->syncs[i] = (struct crn_spill_io){.op = CRN_SPILL_SYNC, .file = i};
        crn_spill_submit(crn_store_spill(t->store), &t->syncs[i]);
    }
}

struct record {
    struct crn_tier *tier;
    struct crn_cat_entry entry;
    struct crn_cat_payload payloads[CRN_CATALOG_MAX_PAYLOADS];
    uint32_t counts[CRN_CATALOG_MAX_PAYLOADS * CAIRN_MAX_KV_HEADS];
};

static void record_payload(void *ctx, struct crn_payload *p)
{
    struct record *r = ctx;
    struct crn_cat_entry *e = &r->entry;
    bool tokens = p->kind == CRN_PAYLOAD_TOKENS;
    r->payloads[e->n_payloads++] =
        (struct crn_cat_payload){.off = tokens ? 0 : p->place.off,
                                 .bytes = p->bytes,
                                 .checksum = p->checksum,
                                 .counts = e->n_counts,
                                 .n_counts = (uint16_t)p->n_counts,
                                 .file = tokens ? CRN_CATALOG_NO_FILE : r->tier->file_ids[p->place.file],
                                 .layer = p->layer,
                                 .wide = p->wide,
                                 .kind = p->kind,
                                 .dtype = p->dtype,
                                 .shared_pos = p->shared_pos};
    memcpy(r->counts + e->n_counts, p->counts, p->n_counts * sizeof *p->counts);
    e->n_counts += p->n_counts;
    p->recorded = true;
}

static int put_record(struct crn_tier *t, struct crn_cat_batch *b, struct crn_entry *e)
{
    struct record *r = calloc(1, sizeof *r);
    uint64_t *hashes = malloc(e->n_nodes * sizeof *hashes);
    int status = r == NULL || hashes == NULL ? -ENOMEM : 0;
    if (status != 0)
        goto out;
    for (uint32_t i = 0; i < e->n_nodes; i++)
        hashes[i] = e->nodes[i].hash;
    r->tier = t;
    r->entry = (struct crn_cat_entry){.id = e->catalog_id,
                                      .parent = e->parent != NULL ? e->parent->catalog_id : 0,
                                      .created_s = (uint64_t)time(NULL) - (crn_now_ns() - e->created_ns) / 1000000000u,
                                      .hits = e->hits,
                                      .producer = e->producer->digest,
                                      .family = e->producer->family,
                                      .shape = e->producer->shape,
                                      .start = e->start,
                                      .n_tokens = e->n_tokens,
                                      .pyramid = e->pyramid,
                                      .pinned = e->pinned,
                                      .spill_int8 = e->spill_int8,
                                      .token_ns = (uint32_t)e->token_ns,
                                      .n_hashes = e->n_nodes,
                                      .settings = e->settings,
                                      .payloads = r->payloads,
                                      .counts = r->counts,
                                      .hashes = hashes};
    snprintf(r->entry.space, sizeof r->entry.space, "%s", e->space->options.name);
    memcpy(r->entry.label, e->producer->label, sizeof r->entry.label);
    crn_body_each(e->body, record_payload, r);
    status = crn_cat_put_entry(b, &r->entry, crn_payload_at(e->body->tokens));
out:
    free(hashes);
    free(r);
    return status;
}

/* The entry of an item as long as it is still what was asked for. */
static struct crn_entry *item_entry(const struct crn_tier_item *item)
{
    struct crn_entry *e;
    return crn_entries_find(&item->space->entries, item->entry, &e) == 0 ? e : NULL;
}

static void end_items(struct crn_tier *t, struct crn_tier_item *items, int status)
{
    for (struct crn_tier_item *next; items != NULL; items = next) {
        struct crn_entry *e = item_entry(items);
        next = items->next;
        if (e != NULL && e->item == items)
            e->item = NULL;
        if (e != NULL && status != 0)
            crn_tier_adopt(t, e, status);
        crn_tier_end_links(items->orders, status == 0 && (e == NULL || !e->durable) ? CAIRN_E_STALE : status);
        free(items);
    }
}

void crn_tier_adopt(struct crn_tier *t, const struct crn_entry *parent, int status)
{
    struct crn_tier_item **at = &t->orphans, *ended = NULL;
    while (*at != NULL) {
        struct crn_tier_item *item = *at;
        const struct crn_entry *e = item_entry(item);
        bool mine = e == NULL || (parent != NULL && e->parent == parent) || (parent == NULL && status != 0);
        if (!mine) {
            at = &item->next;
            continue;
        }
        *at = item->next;
        bool on = e != NULL && status == 0;
        item->next = on ? t->pending : ended;
        *(on ? &t->pending : &ended) = item;
    }
    end_items(t, ended, status != 0 ? status : CAIRN_E_STALE);
}

static void commit_items(struct crn_tier *t, struct crn_tier_item *items)
{
    struct crn_cat_batch *b = crn_cat_batch_new();
    int status = b == NULL ? -ENOMEM : 0;
    for (struct crn_tier_item *i = items; i != NULL && status == 0; i = i->next) {
        struct crn_entry *e = item_entry(i);
        if (e == NULL || !crn_tier_all_placed(e) || (e->parent != NULL && !e->parent->in_catalog))
            continue;
        if (e->catalog_id == 0)
            e->catalog_id = crn_catalog_next_id(t->catalog);
        i->catalog_id = e->catalog_id;
        status = put_record(t, b, e);
    }
    if (status != 0) {
        crn_log(CRN_LOG_WARN, "tier: record: %s", cairn_strerror(status));
        crn_cat_batch_free(b);
        end_items(t, items, status);
        return;
    }
    CRN_CRASH("commit-submit");
    if (!submit(t, b, 0, items))
        end_items(t, items, -ENOMEM);
}

/* The extent stays in use until the next start. */
void crn_tier_abandon_suspect(struct crn_payload *p)
{
    if (!p->suspect)
        return;
    p->suspect = 0;
    p->place = (struct crn_place){0};
}

static void suspect_one(void *ctx, struct crn_payload *p)
{
    (void)ctx;
    if (p->place.bytes == 0 || p->recorded)
        return;
    p->suspect = 1;
    if (p->state == CRN_RESIDENT || p->state == CRN_SPILLING || p->host != NULL)
        crn_tier_abandon_suspect(p);
}

/* The kernel tells of a lost page once, so the next sync proves nothing about what was written before this one. */
static void sync_failed(struct crn_tier *t)
{
    t->paused_until_ns = crn_now_ns() + CRN_TIER_PAUSE_NS;
    for (uint32_t i = 0; i < t->n_spaces; i++) {
        uint32_t slot = 0;
        CRN_COUNT(&t->spaces[i].stats, io_error_total);
        for (struct crn_entry *e = crn_entries_walk(&t->spaces[i].entries, 0, &slot); e != NULL;
             e = crn_entries_walk(&t->spaces[i].entries, slot + 1, &slot)) {
            if (e->body != NULL)
                crn_body_each(e->body, suspect_one, NULL);
        }
    }
}

void crn_tier_synced(struct crn_tier *t, struct crn_spill_io *io)
{
    t->sync_status = t->sync_status == 0 ? io->result : t->sync_status;
    if (--t->n_syncs > 0)
        return;
    struct crn_tier_item *items = t->syncing;
    t->syncing = NULL;
    uint64_t took_ns = crn_now_ns() - t->sync_began_ns;
    if (took_ns > SLOW_SYNC_NS)
        crn_log(CRN_LOG_WARN, "tier: the store took %" PRIu64 " ms to sync", took_ns / 1000000u);
    CRN_CRASH("synced");
    if (t->sync_status == 0) {
        commit_items(t, items);
        return;
    }
    sync_failed(t);
    end_items(t, items, t->sync_status);
}

static void made_durable(struct crn_tier *t, struct crn_tier_item *items)
{
    for (struct crn_tier_item *i = items; i != NULL; i = i->next) {
        struct crn_entry *e = item_entry(i);
        if (e == NULL || e->catalog_id != i->catalog_id || i->catalog_id == 0)
            continue;
        e->durable = e->in_catalog = true;
        crn_entry_drop_old(e);
        crn_tier_adopt(t, e, 0);
    }
}

void crn_tier_committed(struct crn_tier *t, struct crn_cat_batch *b)
{
    struct crn_tier_commit *c = b->owner;
    CRN_CRASH("committed");
    t->finished = c->seq;
    leave_limbo(t, c->seq, b->status == 0);
    if (b->status == 0)
        made_durable(t, c->items);
    else
        CRN_COUNT(&t->spaces[0].stats, io_error_total);
    if (b->status == 0 && c->drop_id == CRN_TIER_STUCK)
        t->n_undropped = 0;
    if (b->status != 0 && c->drop_id != 0 && c->drop_id != CRN_TIER_STUCK)
        note_undropped(t, c->drop_id);
    end_items(t, c->items, b->status);
    crn_cat_batch_free(b);
    free(c);
}

/* ---- cold and warm ---- */

static void check_cold(void *ctx, struct crn_payload *p)
{
    bool *cold = ctx;
    bool gone = p->state == CRN_SPILLED && p->host == NULL && p->move == NULL && p->refs == 1;
    *cold = *cold && (p->kind == CRN_PAYLOAD_TOKENS ? p->refs == 1 && p->leases == 0 : gone);
}

static void disown_place(void *ctx, struct crn_payload *p)
{
    (void)ctx;
    p->place.bytes = 0; /* the record's from here on */
}

void crn_tier_cool(struct crn_entry *e)
{
    const struct crn_tier *t = e->space->tier;
    bool cold = e->durable && e->warm_turn != t->turn && e->item == NULL && !e->broken && e->n_drafts == 0;
    cold = cold && e->body != NULL && e->body->refs == 1;
    if (cold)
        crn_body_each(e->body, check_cold, &cold);
    if (!cold)
        return;
    e->cold_bytes = e->body->bytes;
    e->cold_states = e->body->n_states;
    e->cold_dtype = e->body->kv[0]->dtype;
    crn_body_each(e->body, disown_place, NULL);
    crn_body_drop(e->body);
    e->body = NULL;
    crn_lru_place(e);
}

void crn_tier_cool_some(struct crn_space *space)
{
    struct crn_entry *e;
    for (enum crn_lru_list list = CRN_LRU_NEW; list <= CRN_LRU_USED; list++) {
        struct crn_lru_walk walk = crn_lru_from_coldest(space, list);
        for (uint32_t n = 0; n < COOL_AT_ONCE && (e = crn_lru_next(&walk)) != NULL; n++)
            crn_tier_cool(e);
    }
}

/* The store's index of a file number of the catalogue; -1 when the file is not here. */
static int file_of(const struct crn_tier *t, uint16_t id)
{
    for (uint32_t i = 0; i < crn_store_files(t->store); i++) {
        if (t->file_ids[i] == id)
            return (int)i;
    }
    return -1;
}

static struct crn_payload *payload_of(struct crn_entry *e, const struct crn_cat_entry *rec, const struct crn_cat_payload *r)
{
    struct crn_payload *p = calloc(1, sizeof *p + r->n_counts * sizeof *p->counts);
    if (p == NULL)
        return NULL;
    p->space = e->space;
    p->bytes = r->bytes;
    p->checksum = r->checksum;
    p->refs = 1;
    p->layer = r->layer;
    p->wide = r->wide;
    p->kind = r->kind;
    p->dtype = r->dtype;
    p->shared_pos = r->shared_pos;
    p->n_counts = r->n_counts;
    memcpy(p->counts, rec->counts + r->counts, r->n_counts * sizeof *p->counts);
    p->recorded = true;
    p->tier = CAIRN_TIER_NVME;
    p->state = CRN_SPILLED;
    if (r->kind == CRN_PAYLOAD_TOKENS)
        return p;
    p->place = (struct crn_place){
        .file = (uint32_t)file_of(e->space->tier, r->file), .off = r->off, .bytes = crn_tier_place_bytes(r->bytes)};
    return p;
}

/* Tokens come from the catalogue itself, into memory, at once. */
static int load_tokens(struct crn_entry *e, struct crn_payload *p)
{
    struct crn_tier *t = e->space->tier;
    enum crn_tier_room room = CRN_ROOM_MADE;
    bool side = !e->space->options.mem->cpu_visible; /* arenas are a device's: tokens have host memory of their own */
    int status = side ? crn_space_alloc_side(e->space, p->bytes, &p->arena, &p->extent)
                      : crn_space_alloc_plain(e->space, p->bytes, &p->arena, &p->extent);
    t->keep = true; /* somebody is looking at entries: none may go */
    while (!side && status == CAIRN_E_FULL && (room = crn_tier_make_room(e->space, p->bytes)) == CRN_ROOM_MADE)
        status = crn_space_alloc_plain(e->space, p->bytes, &p->arena, &p->extent);
    t->keep = false;
    if (status == CAIRN_E_FULL && room == CRN_ROOM_COMING) {
        t->starved = true;
        status = -EAGAIN;
    }
    if (status != 0)
        return status;
    p->off = (uint64_t)p->extent.first * CRN_GRANULE_BYTES;
    p->space->payload_bytes += p->bytes;
    p->state = CRN_RESIDENT;
    p->tier = CAIRN_TIER_HOST;
    status = crn_catalog_tokens(e->space->tier->catalog, e->catalog_id, e->n_tokens, crn_payload_at(p));
    if (status == 0 && crn_hash64(crn_payload_at(p), p->bytes) != p->checksum)
        status = CAIRN_E_CORRUPT;
    return status;
}

static int load_body(struct crn_entry *e, const struct crn_cat_entry *rec, bool with_tokens, struct crn_body **out_body)
{
    struct crn_body *body;
    int status = crn_body_create((uint16_t)rec->shape.n_layers, &body);
    if (status != 0)
        return status;
    for (uint32_t i = 0; i < rec->n_payloads && status == 0; i++) {
        struct crn_payload *p = payload_of(e, rec, &rec->payloads[i]);
        if (p == NULL) {
            status = -ENOMEM;
            break;
        }
        if (p->kind == CRN_PAYLOAD_TOKENS && with_tokens)
            status = load_tokens(e, p);
        if (status == 0)
            status = crn_body_put(body, p);
        if (status != 0) {
            p->place.bytes = 0;
            crn_payload_drop(p);
        }
    }
    for (uint32_t l = 0; l < body->n_layers && status == 0; l++)
        status = body->kv[l] == NULL || body->tokens == NULL ? CAIRN_E_CORRUPT : 0;
    if (status != 0) {
        crn_body_each(body, disown_place, NULL);
        crn_body_drop(body);
        return status;
    }
    *out_body = body;
    return 0;
}

static int load(struct crn_entry *e, bool with_tokens)
{
    struct crn_cat_entry *rec;
    int status = crn_catalog_entry(e->space->tier->catalog, e->catalog_id, &rec);
    if (status != 0)
        return status;
    status = load_body(e, rec, with_tokens, &e->body);
    free(rec);
    if (status == 0 && e->lru.on)
        crn_lru_place(e);
    return status;
}

int crn_tier_warm(struct crn_entry *e)
{
    if (e->broken)
        return CAIRN_E_MISS;
    if (e->body != NULL)
        return 0;
    e->warm_turn = e->space->tier->turn;
    int status = load(e, true);
    if (status == -EAGAIN)
        return status;
    if (status == CAIRN_E_FULL || status == -ENOMEM)
        return CAIRN_E_MISS; /* now; later perhaps not */
    if (status != 0) {
        crn_log(CRN_LOG_WARN, "entry %" PRIx64 ": catalogue: %s", e->id, cairn_strerror(status));
        CRN_COUNT(&e->space->stats, corrupt_total);
        crn_tier_doom(e->space, e->id);
    }
    return status == 0 ? 0 : CAIRN_E_MISS;
}

bool crn_tier_serves_cold(const struct crn_entry *e, const struct crn_entry_spec *spec)
{
    struct crn_entry_spec like = *spec;
    like.tokens = NULL;
    if (e->space->tier == NULL || e->broken || !e->in_catalog || !crn_entry_serves(e, &like))
        return false;
    if (spec->tokens == NULL)
        return true;
    int32_t *tokens = malloc(e->n_tokens * sizeof *tokens);
    bool same = tokens != NULL && crn_catalog_tokens(e->space->tier->catalog, e->catalog_id, e->n_tokens, tokens) == 0 &&
                memcmp(tokens, spec->tokens, e->n_tokens * sizeof *tokens) == 0;
    free(tokens);
    return same;
}

void crn_tier_warm_places(struct crn_entry *e)
{
    if (load(e, false) != 0)
        crn_log(CRN_LOG_WARN, "entry %" PRIx64 ": its extents stay in use until the next start", e->id);
}

/* ---- back ---- */

struct known { /* catalogue id -> entry, ascending */
    uint64_t id;
    struct crn_entry *e;
};

struct recovery {
    struct crn_tier *tier;
    struct crn_cat_batch *bad;
    struct known *known;
    size_t n, max;
    uint64_t now_ns, now_s;
};

static struct crn_space *space_named(const struct crn_tier *t, const char *name)
{
    for (uint32_t i = 0; i < t->n_spaces; i++) {
        if (strcmp(t->spaces[i].options.name, name) == 0)
            return &t->spaces[i];
    }
    return NULL;
}

static struct crn_entry *known_entry(const struct recovery *r, uint64_t id)
{
    size_t lo = 0, hi = r->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (r->known[mid].id == id)
            return r->known[mid].e;
        if (r->known[mid].id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

static bool place_of(const struct crn_tier *t, const struct crn_cat_payload *p, struct crn_place *out_place)
{
    int file = file_of(t, p->file);
    *out_place = (struct crn_place){.file = (uint32_t)file, .off = p->off, .bytes = crn_tier_place_bytes(p->bytes)};
    return file >= 0;
}

/* All extents of a record, or none. */
static int reserve(struct crn_tier *t, const struct crn_cat_entry *rec)
{
    struct crn_place place;
    uint32_t i = 0;
    int status = 0;
    for (; i < rec->n_payloads && status == 0; i++) {
        if (rec->payloads[i].kind == CRN_PAYLOAD_TOKENS)
            continue;
        status = place_of(t, &rec->payloads[i], &place) ? crn_store_reserve(t->store, &place) : CAIRN_E_MISS;
    }
    if (status == 0)
        return 0;
    for (uint32_t j = 0; j + 1 < i; j++) {
        if (rec->payloads[j].kind != CRN_PAYLOAD_TOKENS && place_of(t, &rec->payloads[j], &place))
            crn_store_free(t->store, &place);
    }
    return status;
}

static void release(struct crn_tier *t, const struct crn_cat_entry *rec)
{
    struct crn_place place;
    for (uint32_t i = 0; i < rec->n_payloads; i++) {
        if (rec->payloads[i].kind != CRN_PAYLOAD_TOKENS && place_of(t, &rec->payloads[i], &place))
            crn_store_free(t->store, &place);
    }
}

/* The entry with its model, cold; in no table yet. */
static int make_entry(struct recovery *r, const struct crn_cat_entry *rec, struct crn_entry **out_entry)
{
    struct crn_space *space = space_named(r->tier, rec->space);
    struct crn_entry *parent = rec->parent != 0 ? known_entry(r, rec->parent) : NULL, *e;
    const struct crn_model *model;
    if (space == NULL || (rec->parent != 0 && (parent == NULL || parent->space != space)))
        return CAIRN_E_MISS;
    struct crn_model like = {.digest = rec->producer, .family = rec->family, .shape = rec->shape};
    memcpy(like.label, rec->label, sizeof like.label);
    int status = crn_space_model(space, &like, &model);
    struct crn_entry_spec spec = {.space = space,
                                  .producer = model,
                                  .parent = parent,
                                  .start = rec->start,
                                  .n_tokens = rec->n_tokens,
                                  .pyramid = rec->pyramid,
                                  .settings = rec->settings,
                                  .hashes = rec->hashes};
    if (status == 0)
        status = crn_entry_create(&spec, &e);
    if (status != 0)
        return status;
    e->catalog_id = rec->id;
    e->durable = e->in_catalog = true;
    e->spill_int8 = rec->spill_int8 != 0;
    e->token_ns = rec->token_ns;
    e->pinned = rec->pinned != 0;
    e->hits = rec->hits;
    for (uint32_t i = 0; i < rec->n_payloads; i++) {
        const struct crn_cat_payload *p = &rec->payloads[i];
        e->cold_bytes += p->bytes;
        e->cold_states = (uint16_t)(e->cold_states + (p->kind == CRN_PAYLOAD_STATE));
        e->cold_dtype = p->kind == CRN_PAYLOAD_KV && p->layer == 0 ? p->dtype : e->cold_dtype;
    }
    *out_entry = e;
    return 0;
}

static int remember(struct recovery *r, uint64_t id, struct crn_entry *e)
{
    if (r->n == r->max) {
        size_t max = r->max == 0 ? 1024 : r->max * 2;
        struct known *known = reallocarray(r->known, max, sizeof *known);
        if (known == NULL)
            return -ENOMEM;
        r->known = known;
        r->max = max;
    }
    r->known[r->n++] = (struct known){id, e};
    return 0;
}

static void recover_bad(void *ctx, bool is_plan, uint64_t id, int status)
{
    struct recovery *r = ctx;
    r->tier->dropped += !is_plan;
    crn_log(CRN_LOG_WARN, "catalogue: %s %" PRIu64 " does not check: %s: dropped", is_plan ? "plan" : "entry", id,
            cairn_strerror(status));
    if (is_plan)
        crn_cat_drop_plan(r->bad, id);
    else
        crn_cat_drop_entry(r->bad, id);
}

static int recover_entry(void *ctx, const struct crn_cat_entry *rec)
{
    struct recovery *r = ctx;
    struct crn_entry *e = NULL;
    CRN_CRASH("start-entry");
    int status = make_entry(r, rec, &e);
    if (status == 0)
        status = reserve(r->tier, rec);
    if (status == 0) {
        status = remember(r, rec->id, e);
        if (status == 0)
            status = crn_space_insert(e->space, e);
        if (status != 0)
            release(r->tier, rec);
    }
    if (status != 0) {
        if (e != NULL)
            e->space = NULL;
        free(e != NULL ? e->settings : NULL);
        free(e);
        recover_bad(r, false, rec->id, status);
        return status == -ENOMEM ? status : 0;
    }
    uint64_t age_s = r->now_s > rec->created_s ? r->now_s - rec->created_s : 0;
    uint64_t age_ns = age_s * 1000000000u;
    e->created_ns = age_ns < r->now_ns ? r->now_ns - age_ns : 1;
    r->tier->recovered++;
    return 0;
}

static int recover_plan(void *ctx, const struct crn_cat_plan *rec)
{
    struct recovery *r = ctx;
    struct crn_space *space = space_named(r->tier, rec->space);
    struct crn_plan *plan = calloc(1, sizeof *plan);
    uint32_t count = 1;
    struct crn_payload_spec spec = {
        .kind = CRN_PAYLOAD_BLOB, .dtype = CAIRN_F32, .bytes = rec->rec.map_bytes, .counts = &count, .n_counts = 1};
    int status = plan == NULL ? -ENOMEM : space == NULL ? CAIRN_E_MISS : 0;
    if (status == 0) {
        plan->rec = rec->rec;
        plan->catalog_id = rec->id;
        plan->info = strdup(rec->info);
        plan->budgets = calloc(rec->rec.n_budgets + 1u, sizeof *plan->budgets);
        status = plan->info == NULL || plan->budgets == NULL ? -ENOMEM : 0;
    }
    if (status == 0) {
        memcpy(plan->budgets, rec->budgets, rec->rec.n_budgets * sizeof *plan->budgets);
        status = rec->rec.map_bytes == 0 ? 0 : crn_payload_create(space, &spec, &plan->map);
    }
    if (status == 0 && plan->map != NULL) {
        memcpy(crn_payload_at(plan->map), rec->map, rec->rec.map_bytes);
        plan->map->checksum = rec->rec.map_checksum;
        plan->rec.map_arena = plan->map->arena->id;
        plan->rec.map_off = plan->map->off;
    }
    if (status == 0)
        status = crn_plans_add(&space->plans, plan);
    if (status != 0) {
        crn_plan_destroy(plan);
        recover_bad(r, true, rec->id, status);
    }
    return status == -ENOMEM ? status : 0;
}

int crn_tier_recover(struct crn_tier *t)
{
    struct recovery r = {.tier = t, .bad = crn_cat_batch_new(), .now_ns = crn_now_ns(), .now_s = (uint64_t)time(NULL)};
    struct crn_cat_visitor v = {recover_entry, recover_plan, recover_bad, &r};
    if (r.bad == NULL)
        return -ENOMEM;
    int status = crn_catalog_walk(t->catalog, &v);
    CRN_CRASH("start-walked");
    if (r.bad->n_ops > 0 && status == 0)
        status = crn_catalog_apply(t->catalog, r.bad); /* before anything may overwrite what those records name */
    else
        crn_cat_batch_free(r.bad);
    free(r.known);
    return status;
}

/* ---- plans ---- */

void crn_tier_plan_added(struct crn_space *space, struct crn_plan *plan)
{
    struct crn_tier *t = space->tier;
    if (t == NULL || t->catalog == NULL)
        return;
    if (plan->catalog_id == 0)
        plan->catalog_id = crn_catalog_next_id(t->catalog);
    struct crn_cat_plan rec = {.id = plan->catalog_id,
                               .rec = plan->rec,
                               .budgets = plan->budgets,
                               .info = plan->info != NULL ? plan->info : "",
                               .map = plan->map != NULL ? crn_payload_at(plan->map) : NULL};
    snprintf(rec.space, sizeof rec.space, "%s", space->options.name);
    struct crn_cat_batch *b = crn_cat_batch_new();
    if (b == NULL || crn_cat_put_plan(b, &rec) != 0) {
        crn_log(CRN_LOG_WARN, "tier: plan %" PRIu64 " will not survive a restart", plan->rec.id);
        crn_cat_batch_free(b);
        return;
    }
    submit(t, b, 0, NULL);
}

void crn_tier_plan_dropped(struct crn_space *space, const struct crn_plan *plan)
{
    struct crn_tier *t = space->tier;
    if (t == NULL || plan->catalog_id == 0)
        return;
    struct crn_cat_batch *b = crn_cat_batch_new();
    if (b == NULL || crn_cat_drop_plan(b, plan->catalog_id) != 0) {
        crn_cat_batch_free(b);
        return;
    }
    submit(t, b, 0, NULL);
}
