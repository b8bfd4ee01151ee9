/* Entries, their ids and their chunk hashes.
 *
 * A context is cut into chunks of 64 tokens from position 0, whatever the entries are: an entry's first chunk may begin in its
 * parent. The broker computes all hashes itself, from token bytes in its own memory; hashes that a client sends only ever ask.
 *
 * An entry that completes no chunk of its own (fewer than 64 tokens, more or less) would be unfindable. It hangs at the last
 * whole chunk before its end, or at the family's root hash when there is none: `n_whole` is 0 then and `n_nodes` 1.
 *
 * Making entries visible, and dropping them, is space.c; payloads are payload.c. */
#include "broker/entry.h"

#include "broker/space.h"
#include "broker/tier.h"
#include "ipc/hash.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NO_SLOT UINT32_MAX
#define FIRST_SLOTS 256u
#define SLOT_MASK ((1u << CRN_ENTRY_SLOT_BITS) - 1u)
#define CHUNK CAIRN_CHUNK_TOKENS

static int table_grow(struct crn_entries *t, uint32_t n_slots)
{
    if (n_slots > SLOT_MASK)
        return CAIRN_E_FULL;
    struct crn_entry_slot *slots = reallocarray(t->slots, n_slots, sizeof *slots);
    if (slots == NULL)
        return -ENOMEM;
    uint64_t generation = t->slots != NULL ? slots[0].generation : 1;
    t->slots = slots;
    for (uint32_t i = n_slots; i-- > t->n_slots;) {
        slots[i] = (struct crn_entry_slot){NULL, generation, t->first_free};
        t->first_free = i;
    }
    t->n_slots = n_slots;
    return 0;
}

int crn_entries_init(struct crn_entries *t, uint64_t first_generation)
{
    *t = (struct crn_entries){.first_free = NO_SLOT};
    int status = table_grow(t, FIRST_SLOTS);
    for (uint32_t i = 0; i < t->n_slots; i++)
        t->slots[i].generation = first_generation;
    return status;
}

void crn_entries_close(struct crn_entries *t)
{
    free(t->slots);
    *t = (struct crn_entries){0};
}

static uint64_t id_of(const struct crn_entries *t, uint32_t slot)
{
    return t->slots[slot].generation << CRN_ENTRY_SLOT_BITS | slot;
}

int crn_entries_add(struct crn_entries *t, struct crn_entry *e)
{
    if (t->first_free == NO_SLOT) {
        int status = table_grow(t, t->n_slots * 2);
        if (status != 0)
            return status;
    }
    uint32_t slot = t->first_free;
    t->first_free = t->slots[slot].next_free;
    t->slots[slot].entry = e;
    t->n++;
    e->id = id_of(t, slot);
    return 0;
}

void crn_entries_remove(struct crn_entries *t, struct crn_entry *e)
{
    uint32_t slot = (uint32_t)e->id & SLOT_MASK;
    t->slots[slot].entry = NULL;
    t->slots[slot].generation++;
    t->slots[slot].next_free = t->first_free;
    t->first_free = slot;
    t->n--;
}

void crn_entries_renew(struct crn_entries *t, struct crn_entry *e)
{
    uint32_t slot = (uint32_t)e->id & SLOT_MASK;
    t->slots[slot].generation++;
    e->id = id_of(t, slot);
}

int crn_entries_find(const struct crn_entries *t, uint64_t id, struct crn_entry **out_entry)
{
    uint32_t slot = (uint32_t)id & SLOT_MASK;
    uint64_t generation = id >> CRN_ENTRY_SLOT_BITS;
    if (id == 0 || slot >= t->n_slots || generation > t->slots[slot].generation)
        return CAIRN_E_MISS;
    if (t->slots[slot].entry == NULL || generation < t->slots[slot].generation)
        return CAIRN_E_STALE;
    *out_entry = t->slots[slot].entry;
    return 0;
}

struct crn_entry *crn_entries_walk(const struct crn_entries *t, uint32_t from, uint32_t *out_slot)
{
    for (uint32_t slot = from; slot < t->n_slots; slot++) {
        if (t->slots[slot].entry != NULL) {
            *out_slot = slot;
            return t->slots[slot].entry;
        }
    }
    return NULL;
}

static const int32_t *tokens_of(const struct crn_entry *e)
{
    return crn_payload_at(e->body->tokens);
}

/* Tokens from .. to - 1 of the context that ends with leaf. They all lie before leaf's end. */
static int copy_context(struct crn_entry *leaf, uint32_t from, uint32_t to, int32_t *out)
{
    for (struct crn_entry *e = leaf; e != NULL && from < to; e = e->parent) {
        if (e->start >= to)
            continue;
        if (crn_tier_warm(e) != 0)
            return CAIRN_E_MISS;
        uint32_t first = e->start > from ? e->start : from;
        memcpy(out + (first - from), tokens_of(e) + (first - e->start),
               (to - first) * sizeof *out);
        to = first;
    }
    return 0;
}

/* Chain value after `chunks` whole chunks of the context that leads to leaf's child at start >= chunks * 64. */
static uint64_t chain_after(const struct crn_entry *leaf, uint32_t chunks, uint64_t root)
{
    const struct crn_entry *e = leaf;
    while (e != NULL && e->start >= chunks * CHUNK)
        e = e->parent;
    if (chunks == 0 || e == NULL)
        return root;
    return e->nodes[chunks - 1 - e->first_chunk].hash;
}

/* Hashes of the chunks that end inside the entry; the first one may begin in the parents. */
static int hash_chunks(struct crn_entry *e, const int32_t *tokens)
{
    int32_t chunk[CHUNK];
    uint64_t hash =
        chain_after(e->parent, e->first_chunk, crn_hash_root(&e->producer->family));
    for (uint32_t i = 0; i < e->n_whole; i++) {
        uint32_t from = (e->first_chunk + i) * CHUNK, before = 0;
        if (from < e->start) {
            before = e->start - from;
            if (copy_context(e->parent, from, e->start, chunk) != 0)
                return CAIRN_E_MISS;
        }
        memcpy(chunk + before, tokens + (from + before - e->start),
               (CHUNK - before) * sizeof *chunk);
        hash = crn_hash_chunk(hash, chunk);
        e->nodes[i].hash = hash;
    }
    if (e->n_whole == 0)
        e->nodes[0].hash = hash;
    return 0;
}

int crn_entry_create(const struct crn_entry_spec *spec, struct crn_entry **out_entry)
{
    if (spec->parent == NULL ? spec->start != 0 : spec->start > crn_entry_end(spec->parent))
        return CAIRN_E_ARG;
    uint32_t first = spec->start / CHUNK;
    uint32_t n_whole = (spec->start + spec->n_tokens) / CHUNK - first;
    uint32_t n_nodes = n_whole > 0 ? n_whole : 1;
    struct crn_entry *e = calloc(1, sizeof *e + n_nodes * sizeof *e->nodes);
    char *settings = strdup(spec->settings);
    if (e == NULL || settings == NULL) {
        free(e);
        free(settings);
        return -ENOMEM;
    }
    *e = (struct crn_entry){.space = spec->space,
                            .producer = spec->producer,
                            .parent = spec->parent,
                            .start = spec->start,
                            .n_tokens = spec->n_tokens,
                            .pyramid = spec->pyramid,
                            .settings = settings,
                            .first_chunk = first,
                            .n_whole = n_whole,
                            .n_nodes = n_nodes};
    int status = 0;
    for (uint32_t i = 0; i < n_nodes; i++) {
        e->nodes[i].entry = e;
        e->nodes[i].hash = spec->hashes != NULL ? spec->hashes[i] : 0;
    }
    if (spec->hashes == NULL)
        status = hash_chunks(e, spec->tokens);
    if (status != 0) {
        crn_entry_destroy(e);
        return status;
    }
    *out_entry = e;
    return 0;
}

void crn_entry_drop_old(struct crn_entry *e)
{
    while (e->old != NULL) {
        struct crn_body *body = e->old;
        e->old = body->older;
        crn_body_drop(body);
    }
}

void crn_entry_destroy(struct crn_entry *e)
{
    if (e == NULL)
        return;
    crn_body_drop(e->body);
    crn_entry_drop_old(e);
    free(e->settings);
    free(e);
}

uint64_t crn_entry_last_hash(const struct crn_entry *e)
{
    return e->nodes[e->n_nodes - 1].hash;
}

bool crn_entry_serves(const struct crn_entry *e, const struct crn_entry_spec *spec)
{
    if (e->producer != spec->producer || e->parent != spec->parent || e->start != spec->start ||
        e->n_tokens != spec->n_tokens)
        return false;
    bool whole_only = e->pyramid == CAIRN_PYRAMID_PREFILL;
    if (whole_only &&
        (spec->pyramid != CAIRN_PYRAMID_PREFILL || strcmp(e->settings, spec->settings) != 0))
        return false;
    return spec->tokens == NULL ||
           memcmp(tokens_of(e), spec->tokens, spec->n_tokens * sizeof *spec->tokens) == 0;
}
