/* entry - the published cache of a token span, and the table that turns ids into entries.
 *
 * An id is generation and slot in one number. The generation moves on when an entry is dropped and when its payloads are
 * replaced, so an old id is recognised (CAIRN_E_STALE) and never leads to another entry. Entries form a tree: a child holds its
 * parent's object, which outlives it and survives replacement. Loop thread only. */
#ifndef CRN_BROKER_ENTRY_H
#define CRN_BROKER_ENTRY_H

#include "broker/evict.h"
#include "broker/index.h"
#include "broker/payload.h"
#include "ipc/cairn_types.h"

#include <stdbool.h>
#include <stdint.h>

#define CRN_ENTRY_SLOT_BITS 24u

struct crn_space;
struct crn_model;
struct crn_tier_item;

struct crn_entry {
    uint64_t id;
    struct crn_space *space;
    const struct crn_model *producer;
    struct crn_entry *parent; /* NULL: root */
    uint32_t n_children;
    uint32_t n_drafts;        /* drafts that build on it or replace it */
    uint32_t start, n_tokens; /* positions start .. start + n_tokens - 1 */
    uint8_t pyramid;          /* enum cairn_pyramid */
    bool pinned;
    char *settings;           /* of the pyramid; "" when none */
    struct crn_body *body;    /* NULL: cold, to be loaded by crn_tier_warm */
    struct crn_body *old;     /* what the catalogue still names: bodies replaced since (payload.h: older) */
    uint64_t catalog_id;      /* 0: never on NVMe */
    uint64_t cold_bytes;      /* of a cold entry: all payloads */
    uint64_t warm_turn;       /* when its body was loaded (tier_impl.h) */
    uint16_t cold_states;
    uint8_t cold_dtype;       /* of layer 0 */
    bool durable;             /* its record is in the catalogue, and is of this body */
    bool in_catalog;          /* a record of it is; of an earlier body, perhaps */
    bool spill_int8;          /* keys and values are coded as int8 on their way to NVMe */
    bool broken;              /* unreadable, to be dropped */
    struct crn_tier_item *item; /* being committed; NULL */
    uint64_t created_ns, used_ns, hits;
    uint64_t token_ns;        /* what a token cost its publisher to prefill; 0: not told */
    struct crn_lru_node lru;
    uint32_t first_chunk;     /* number of the first chunk: start / 64 */
    uint32_t n_whole;         /* whole chunks that end inside this entry */
    uint32_t n_nodes;         /* n_whole, or 1 (see entry.c) */
    struct crn_chunk nodes[];
};

/* First position behind the entry. */
static inline uint32_t crn_entry_end(const struct crn_entry *e)
{
    return e->start + e->n_tokens;
}

struct crn_entry_slot {
    struct crn_entry *entry; /* NULL: free */
    uint64_t generation;
    uint32_t next_free;
};

struct crn_entries {
    struct crn_entry_slot *slots;
    uint32_t n_slots, first_free, n;
};

/* first_generation: where ids start; random, so that ids of an earlier broker are stale here. */
int crn_entries_init(struct crn_entries *t, uint64_t first_generation);
void crn_entries_close(struct crn_entries *t);
/* Gives the entry an id. -ENOMEM; CAIRN_E_FULL beyond 2^24 entries. */
int crn_entries_add(struct crn_entries *t, struct crn_entry *e);
void crn_entries_remove(struct crn_entries *t, struct crn_entry *e);
/* Moves the generation on: the entry gets a new id, the old one is stale. */
void crn_entries_renew(struct crn_entries *t, struct crn_entry *e);
/* CAIRN_E_STALE when the id was one of this table, CAIRN_E_MISS when it never was. */
int crn_entries_find(const struct crn_entries *t, uint64_t id, struct crn_entry **out_entry);
/* The entry in the slot `from` or the next one behind it; NULL at the end. out_slot: where it was found. */
struct crn_entry *crn_entries_walk(const struct crn_entries *t, uint32_t from, uint32_t *out_slot);

/* What a new entry is made of; tokens [n_tokens] are read only here. */
struct crn_entry_spec {
    struct crn_space *space;
    const struct crn_model *producer;
    struct crn_entry *parent;
    uint32_t start, n_tokens;
    uint8_t pyramid;
    const char *settings;
    const int32_t *tokens;
    const uint64_t *hashes; /* of all its nodes, when they are known already: tokens are not looked at then; NULL */
};

/* An entry with its chunk hashes computed from the tokens (the parents' first), in no table yet and without body.
 * own     crn_entry_destroy. fails -ENOMEM, CAIRN_E_ARG (start behind the parent's end), CAIRN_E_MISS (a parent cannot be read) */
int crn_entry_create(const struct crn_entry_spec *spec, struct crn_entry **out_entry);
void crn_entry_destroy(struct crn_entry *e);
void crn_entry_drop_old(struct crn_entry *e); /* replaced bodies: the record is of the present one now, or gone */

/* Hash of the last whole chunk of the context up to the entry's end (the family's root hash when there is none). */
uint64_t crn_entry_last_hash(const struct crn_entry *e);
/* Same producer, parent, tokens, and a pyramid that serves as well as the asked-for one. */
bool crn_entry_serves(const struct crn_entry *e, const struct crn_entry_spec *spec);

#endif
