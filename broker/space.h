/* space - a namespace: everything one tenant owns. Arenas, entries, index, plans and models belong to exactly one, and nothing in
 * here takes two of them, so tenants cannot meet. ("namespace" is a keyword elsewhere; the code says space.) */
#ifndef CRN_BROKER_SPACE_H
#define CRN_BROKER_SPACE_H

#include "broker/arena.h"
#include "broker/entry.h"
#include "broker/evict.h"
#include "broker/index.h"
#include "broker/plan.h"
#include "broker/stats.h"

#include <stdint.h>
#include <sys/types.h>

#define CRN_MAX_MODELS 4096u

/* A model that a session named: identity, shape, and the label shown for it. Lives as long as the space. */
struct crn_model {
    struct crn_model *next;
    struct cairn_digest digest, family;
    struct cairn_shape shape;
    char label[CAIRN_MAX_LABEL + 1];
};

struct crn_space_options {
    const char *name; /* kept by reference */
    uint64_t limit_bytes, arena_bytes;
    uint64_t first_generation;
    const struct crn_mem_ops *mem;
    bool spill_int8; /* of all its entries */
    struct crn_device *device; /* that mem is of; NULL: the host's */
    uint64_t host_limit_bytes; /* of the host tier below a device; 0: none */
};

struct crn_tier;

struct crn_space {
    struct crn_space_options options;
    struct crn_arena *arenas;
    struct crn_arena *side; /* host memory, for what the CPU must read, when arenas are a device's */
    uint64_t side_bytes;
    uint64_t arena_bytes;   /* all arenas together */
    uint64_t used_bytes;    /* extents in use */
    uint64_t payload_bytes; /* before rounding to granules */
    struct crn_arena *host; /* the host tier: memory of this process, shared with nobody */
    uint64_t host_bytes, host_used_bytes; /* its arenas; extents in use */
    struct crn_entries entries;
    struct crn_lru lru[CRN_LRU_LISTS];
    struct crn_index index;
    struct crn_plans plans;
    struct crn_model *models;
    uint32_t n_models;
    struct crn_tier *tier; /* below the arenas; NULL: none */
    struct crn_stats stats;
};

/* Makes the namespace and its first arena. own: crn_space_close, also after a failure of a caller. */
int crn_space_open(const struct crn_space_options *options, struct crn_space *out_space);
void crn_space_close(struct crn_space *space);

/* Room for one payload: in an arena there is, else in a new one while the limit allows, else after evicting.
 * fails   CAIRN_E_FULL when eviction found nothing, -EAGAIN when the tier below is making room, CAIRN_E_TOO_BIG, -ENOMEM */
int crn_space_alloc(struct crn_space *space, uint64_t bytes, struct crn_arena **out_arena,
                    struct crn_extent *out_extent);
/* Room that the CPU can read: tokens and state maps. With host arenas the same; else in arenas on the side, which nobody is
 * evicted for and which may become as large as the others together. */
int crn_space_alloc_side(struct crn_space *space, uint64_t bytes, struct crn_arena **out_arena,
                         struct crn_extent *out_extent);
/* The same without dropping anything to make room. */
int crn_space_alloc_plain(struct crn_space *space, uint64_t bytes, struct crn_arena **out_arena,
                          struct crn_extent *out_extent);
void crn_space_free(struct crn_arena *arena, const struct crn_extent *extent);
/* Room in the host tier. Nothing is dropped or moved to make it. fails CAIRN_E_FULL, CAIRN_E_TOO_BIG (it can never fit), -ENOMEM */
int crn_space_alloc_host(struct crn_space *space, uint64_t bytes, struct crn_arena **out_arena,
                         struct crn_extent *out_extent);
void crn_space_free_host(struct crn_arena *arena, const struct crn_extent *extent);
struct crn_arena *crn_space_arena(const struct crn_space *space, uint64_t id); /* NULL: not of this space */

/* The record of a model, made when it is new. A family has one shape: CAIRN_E_ARG when this one differs;
 * CAIRN_E_FULL beyond CRN_MAX_MODELS, -ENOMEM. */
int crn_space_model(struct crn_space *space, const struct crn_model *like,
                    const struct crn_model **out_model);

/* Publishes: id, index, parent's child count. Takes the entry over on success. */
int crn_space_insert(struct crn_space *space, struct crn_entry *entry);
/* Takes it out of index and table and lets go of its body; leases on it keep their payloads. No child may be left. */
void crn_space_remove(struct crn_space *space, struct crn_entry *entry);
/* The same with everything that continues it, deepest first. Entries that a draft builds on stay, with what they need. */
void crn_space_remove_tree(struct crn_space *space, struct crn_entry *entry);
/* An entry that serves as well as the described one; NULL when there is none. last_hash: of crn_entry_last_hash. */
struct crn_entry *crn_space_same(const struct crn_space *space, const struct crn_entry_spec *spec,
                                 uint64_t last_hash);
/* Drops everything that may go, children first; returns the number of entries. */
uint32_t crn_space_evict_all(struct crn_space *space, uint64_t *out_bytes);

#endif
