/* arena - one large segment of broker memory and the book of its extents. Belongs to one namespace for life: its memory is never
 * handed to another one, only given back to the system when the namespace closes. */
#ifndef CRN_BROKER_ARENA_H
#define CRN_BROKER_ARENA_H

#include "broker/extent.h"
#include "ipc/mem.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct crn_space;

struct crn_arena {
    struct crn_arena *next;
    struct crn_space *space;
    uint32_t id; /* unique in this broker, from 1 */
    struct crn_mem mem;
    struct crn_extents *extents;
    bool offered; /* to the spill engine (tier_offer.c) */
    atomic_uint locked; /* of a host tier: enum crn_arena_locked */
};

enum crn_arena_locked { CRN_ARENA_UNTRIED = 0, CRN_ARENA_LOCKED = 1, CRN_ARENA_UNLOCKED = 2 };

/* bytes is rounded up to granules. own: end with crn_arena_destroy. fails -ENOMEM and the backend's codes */
/* device: ordinal of the device that ops is of, -1 for the host */
int crn_arena_create(struct crn_space *space, const struct crn_mem_ops *ops, int device,
                     uint64_t bytes, struct crn_arena **out_arena);
void crn_arena_destroy(struct crn_arena *arena);
/* Granules that hold so many bytes (at least one); 0 when no arena can be that large. */
uint32_t crn_arena_granules(uint64_t bytes);

#endif
