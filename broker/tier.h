/* tier - which payloads are in memory, which below it, and how they get from one to the other. Knows entries; the moving is done by
 * broker/spill.h and broker/device.h, the remembering by broker/catalog.h. Below the memory that readers map lies NVMe; below a
 * device's there is, before NVMe, a host tier: page-locked memory that only the broker sees. Either may be missing.
 *
 *     RESIDENT --spill--> SPILLING --written--> SPILLED      (memory given back)
 *         ^                  |                     |
 *         |                  +--written, wanted, or failed--> RESIDENT     (written: clean, memory may go without I/O)
 *         +-----read------ RESTORING <--attach-----+
 *                            +--failed--> SPILLED             (its entry is dropped: a miss)
 *     RESIDENT, clean --pressure--> SPILLED
 *     SPILLED, in the host tier --written down--> SPILLED, on NVMe     (beside anything else: reading the copy goes on)
 *
 * SPILLED means one or the other; crn_payload.host tells. What is in the host tier only is lost with the broker, like a resident
 * payload, so durability knows nothing of it: an entry is in the catalogue when all its payloads have a place on NVMe.
 *
 * One function (move_to in tier.c) makes these steps and refuses all others. An entry whose payloads all have a place on NVMe is
 * written to the catalogue (files synced first) and survives from then on; once all are SPILLED and nobody uses it, it goes cold:
 * its body is dropped and loaded again from the catalogue when somebody asks (crn_tier_warm). Loop thread only. */
#ifndef CRN_BROKER_TIER_H
#define CRN_BROKER_TIER_H

#include "broker/entry.h"
#include "broker/lease.h"
#include "broker/listing.h"
#include "broker/plan.h"
#include "broker/space.h"
#include "broker/stats.h"
#include "broker/store.h"

#include <stdbool.h>
#include <stdint.h>

enum crn_tier_state { CRN_RESIDENT = 0, CRN_SPILLING = 1, CRN_SPILLED = 2, CRN_RESTORING = 3 };

struct crn_tier;
struct crn_session;

struct crn_tier_config {
    struct crn_store_config store; /* no files: no NVMe */
    uint32_t high_percent, low_percent; /* of a namespace's memory, and of its host tier: above high, payloads go down until below low */
    bool write_through;                 /* every published entry gets its copy on NVMe at once */
    uint64_t catalog_map_bytes, catalog_max_map_bytes; /* 0: default */
};

/* Opens files and catalogue, fills the namespaces with what survived; starts the threads of the host tier when a namespace has
 * one. On failure the broker goes on without: logged.
 * own     end with crn_tier_close, before the spaces are closed */
int crn_tier_open(const struct crn_tier_config *config, struct crn_space *spaces, uint32_t n_spaces,
                  struct crn_tier **out_tier);
/* Waits for what is under way. NULL is allowed. */
void crn_tier_close(struct crn_tier *t);

/* Readable when transfers or commits are finished; all lead to crn_tier_collect. -1: there is none of that number. */
#define CRN_TIER_FDS 4u
int crn_tier_fd(const struct crn_tier *t, uint32_t i);
void crn_tier_collect(struct crn_tier *t);
/* A few times a second: watermarks, entries to let go cold. */
void crn_tier_tick(struct crn_tier *t);

/* ---- what the rest of the broker tells or asks; tier may be NULL in all of these ---- */

/* The entry's body is there, loaded from the catalogue if need be. Drops nothing to make room.
 * fails   CAIRN_E_MISS when it cannot be had: then the entry is not usable, and soon gone; -EAGAIN when memory for it is coming */
int crn_tier_warm(struct crn_entry *e);
/* crn_entry_serves for an entry without a body: its tokens are compared where the catalogue has them. */
bool crn_tier_serves_cold(const struct crn_entry *e, const struct crn_entry_spec *spec);
/* Restores what the listing names and is not resident, in its order; fills places and progress words of its records, and begins
 * the lease on the control page. Payloads without a chance are FAILED at once.
 * fails   -EAGAIN when memory for some is coming: end the lease and ask again; CAIRN_E_TOO_BIG */
int crn_tier_want(struct crn_session *session, struct crn_lease *lease, const struct crn_path *path,
                  struct crn_listing *listing);
void crn_tier_unwant(struct crn_lease *lease); /* the lease ends */
void crn_tier_published(struct crn_entry *e);  /* new, or replaced */
void crn_tier_replaced(struct crn_entry *e);   /* about to get another body: the record stays until that one is durable */
void crn_tier_removed(struct crn_entry *e);    /* about to lose its body for good */
void crn_tier_dropped(struct crn_payload *p);  /* last reference gone: its place, too */
/* Memory is short: gives some back now, by dropping clean copies, or sends payloads down. Never waits. */
enum crn_tier_room {
    CRN_ROOM_NONE = 0,
    CRN_ROOM_MADE = 1,
    CRN_ROOM_COMING = 2,
    CRN_ROOM_LATE = 3, /* coming, but the caller is in a hurry */
};
enum crn_tier_room crn_tier_make_room(struct crn_space *space, uint64_t bytes);
/* Whoever is told -EAGAIN because room is coming asks again later, and in the end once with hurry on: then it is room or none. */
void crn_tier_hurry(struct crn_tier *t, bool on);
/* An entry could not be loaded for want of memory since the last call with clear. */
bool crn_tier_starved(const struct crn_space *space);
void crn_tier_fed(struct crn_tier *t);

void crn_tier_plan_added(struct crn_space *space, struct crn_plan *plan);
void crn_tier_plan_dropped(struct crn_space *space, const struct crn_plan *plan);

/* Called once everything an order started is finished; status: the first failure. */
typedef void crn_tier_done(void *ctx, int status);
/* By order of a person: layers first..last down (whole: states and everything; to NVMe, what the entry continues is written, too,
 * and it ends when all of it is durable), or all back. Nothing to do calls done at once; done may be NULL.
 * fails CAIRN_E_UNSUPPORTED without that tier, CAIRN_E_FULL no room in the host tier, -EAGAIN room is coming: ask again, -ENOMEM */
struct crn_tier_layers {
    uint32_t first, last;
    bool int8; /* to NVMe: coded on the way down, as far as nobody reads them */
    bool host; /* to the host tier, no farther */
};
int crn_tier_spill(struct crn_entry *e, const struct crn_tier_layers *what, crn_tier_done *done, void *ctx);
int crn_tier_restore(struct crn_entry *e, crn_tier_done *done, void *ctx);

bool crn_tier_has_nvme(const struct crn_tier *t); /* NULL allowed */
/* Bytes per second that restores were measured to bring back; 0: none yet. */
uint64_t crn_tier_restore_rate(const struct crn_space *space);
/* Where the copy of a payload in the host tier is; it must have one. It stays while the payload's body is held. */
void *crn_tier_host_copy(const struct crn_payload *p);
/* Adds gauges to a namespace's counters. */
void crn_tier_gauges(const struct crn_space *space, struct crn_stats *out);
struct crn_store *crn_tier_store(const struct crn_tier *t);
const char *crn_tier_text(const struct crn_tier *t);

/* How much of an entry is where. Works on cold entries, too. */
struct crn_tier_brief {
    uint64_t bytes, resident_bytes, allocated_bytes;
    uint32_t leases;
    uint16_t n_states;
    uint8_t dtype, tier; /* of layer 0; coldest of all */
};
struct crn_tier_brief crn_tier_brief(const struct crn_entry *e);

#endif
