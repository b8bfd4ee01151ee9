/* extent - which granules of an arena are in use. Pure bookkeeping: it owns numbers, never the memory.
 * One thread. Every call but create, destroy and check is O(1) apart from the scan of one bin. */
#ifndef CRN_BROKER_EXTENT_H
#define CRN_BROKER_EXTENT_H

#include <stdint.h>

#define CRN_GRANULE_BYTES 65536u

/* A run of granules handed out. The generation tells it from later tenants of the same place. */
struct crn_extent {
    uint32_t first, n;
    uint32_t generation;
};

struct crn_extents;

/* own     end with crn_extents_destroy (NULL allowed)
 * fails   CAIRN_E_ARG for 0 or more than 2^30 granules, -ENOMEM */
int crn_extents_create(uint32_t n_granules, struct crn_extents **out_extents);
void crn_extents_destroy(struct crn_extents *x);

/* The smallest free run that holds n granules. CAIRN_E_FULL when there is none, CAIRN_E_ARG for n = 0. */
int crn_extents_alloc(struct crn_extents *x, uint32_t n, struct crn_extent *out_extent);
/* CAIRN_E_STALE when it is not (or no longer) that extent; nothing changes then. */
int crn_extents_free(struct crn_extents *x, const struct crn_extent *extent);

struct crn_extents_view {
    uint32_t total, used, largest_free, free_runs; /* granules; runs */
};
struct crn_extents_view crn_extents_view(const struct crn_extents *x);

/* Walks everything: CAIRN_E_CORRUPT when an invariant does not hold. For tests. */
int crn_extents_check(const struct crn_extents *x);

#endif
