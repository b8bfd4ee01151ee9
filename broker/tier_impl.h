/* tier_impl - what tier.c (moving), tier_host.c (the same, between a device and host memory), tier_catalog.c (remembering) and
 * tier_policy.c (choosing) share. */
#ifndef CRN_BROKER_TIER_IMPL_H
#define CRN_BROKER_TIER_IMPL_H

#include "broker/catalog.h"
#include "broker/copier.h"
#include "broker/tier.h"
#include "ipc/control.h"

#define CRN_TIER_STUCK UINT64_MAX /* limbo: no batch removes its record yet */
#define CRN_TIER_PAUSE_NS UINT64_C(5000000000) /* no demotion for so long after a storage error */

/* An order of a person. Lives until everything it waits for has ended. */
struct crn_tier_order {
    uint32_t n;
    int status;
    crn_tier_done *done;
    void *ctx;
};

/* Who waits for a move or an item. */
struct crn_tier_link {
    struct crn_tier_link *next;
    struct crn_tier_order *order;
};

struct crn_tier_wait {
    struct crn_tier_wait *next;
    struct crn_lease *lease;
    struct crn_control_slot *slot;
    uint32_t word;
};

/* The int8 copy that is written instead of a payload. */
struct crn_tier_recode {
    const uint8_t *source; /* memory of the host */
    uint8_t *coded; /* owned; NULL until a thread of the engine has made it */
    uint64_t bytes, checksum;
    uint32_t from, n_kv_heads, head_dim, wide, shared_pos;
    uint32_t counts[CAIRN_MAX_KV_HEADS];
};

/* A payload on its way. Holds a reference on it. */
struct crn_tier_move {
    struct crn_spill_io io; /* between memory and NVMe; first: found back by address */
    struct crn_job job;     /* between a device and the host tier */
    struct crn_payload *payload;
    uint64_t entry;         /* the entry that asked */
    bool release;           /* down: the memory is wanted back */
    bool onward;            /* to the host tier, and from there to NVMe: an order says so, and how (CRN_DOWN_*) */
    int how;
    struct crn_place place; /* where it is being written: the payload's once it is there */
    uint64_t bytes;         /* of the payload when it set out */
    struct crn_device *device; /* of a job, and its two sides; here is in `arena` */
    void *there, *here;
    struct crn_arena *arena;
    struct crn_tier_recode *recode; /* down, as int8; NULL: as it is */
    struct crn_tier_stage *stage;   /* of a payload on a device; NULL: the host's */
    struct crn_tier_link *orders;
    struct crn_tier_wait *waits;
};

/* An entry to be written into the catalogue. */
struct crn_tier_item {
    struct crn_tier_item *next;
    struct crn_space *space;
    uint64_t entry;
    uint64_t catalog_id; /* as committed */
    struct crn_tier_link *orders;
};

/* A batch under way; limbo places wait for its number. */
struct crn_tier_commit {
    uint64_t seq;
    uint64_t drop_id; /* the record it removes; 0: none */
    struct crn_tier_item *items;
};

struct crn_tier_limbo {
    struct crn_place place;
    uint64_t seq;
};

struct crn_tier {
    struct crn_tier_config config;
    struct crn_space *spaces;
    uint32_t n_spaces;
    struct crn_store *store;     /* NULL: no NVMe */
    struct crn_catalog *catalog; /* ... and no catalogue */
    struct crn_copier *to_host, *from_host; /* threads of the host tier; NULL: there is none */
    uint16_t file_ids[CRN_SPILL_MAX_FILES]; /* store file -> number in the catalogue */
    uint32_t n_moves;
    uint64_t down_bytes; /* leaving the memory that readers map */
    uint64_t sink_bytes; /* leaving the host tier */
    struct crn_tier_item *pending, *syncing;
    struct crn_tier_item *orphans; /* wait until their parent is in the catalogue */
    struct crn_spill_io syncs[CRN_SPILL_MAX_FILES];
    uint32_t n_syncs;
    int sync_status;
    uint64_t sync_began_ns;
    uint64_t submitted, finished; /* numbers of batches */
    struct crn_tier_limbo *limbo; /* [n_limbo] of [max_limbo], in order of seq */
    size_t n_limbo, max_limbo;
    uint64_t *undropped;          /* [n_undropped] of [max_undropped]: records whose removal failed, to be tried again */
    size_t n_undropped, max_undropped;
    uint64_t paused_until_ns; /* after a storage error: no demotion */
    uint64_t host_paused_until_ns; /* after an error of the device: none to the host tier */
    uint64_t told_full_ns, cooled_ns;
    uint64_t recovered, dropped;
    uint64_t turn;                /* of the loop: bodies loaded in this one are not dropped in it */
    bool keep;                    /* no entry may be dropped to make room now */
    bool closing;
    bool starved, impatient; /* crn_tier_starved, crn_tier_hurry */
    struct crn_tier_offer *offer; /* under way; NULL */
    bool no_offers;
    bool any_broken; /* entries to be dropped */
};

/* Of a place, and of what is read or written there: a layer may keep no rows. */
static inline uint64_t crn_tier_place_bytes(uint64_t payload_bytes)
{
    return payload_bytes > 0 ? payload_bytes : 1;
}

/* tier.c */
/* How a payload goes down. */
enum { CRN_DOWN_KEEP = 0, CRN_DOWN_RELEASE = 1, CRN_DOWN_INT8 = 2 };
int crn_tier_start_spill(struct crn_entry *e, struct crn_payload *p, int how, struct crn_tier_order *order);
int crn_tier_start_restore(struct crn_entry *e, struct crn_payload *p, struct crn_tier_order *order);
bool crn_tier_release(struct crn_payload *p); /* gives the memory of a clean payload back, when nobody uses it */
bool crn_tier_clean(const struct crn_payload *p); /* resident, and there is a copy below */
bool crn_tier_idle(const struct crn_payload *p); /* nobody reads its memory */
bool crn_tier_quiet(const struct crn_entry *e); /* no copy thread reads its payloads: no draft, no verification */
void crn_tier_doom(struct crn_space *space, uint64_t entry);
void crn_tier_order_end(struct crn_tier_order *order, int status);
/* The order waits for what has this list; NULL order: nobody does. */
void crn_tier_join(struct crn_tier_link **list, struct crn_tier_order *order);
void crn_tier_end_links(struct crn_tier_link *list, int status);

/* What the two kinds of moves share. move_to: the one function that changes a payload's state. */
void crn_tier_move_to(struct crn_payload *p, enum crn_tier_state to);
/* Its caller makes it p->move or p->sink; there is nothing else under way then. NULL without memory. */
struct crn_tier_move *crn_tier_move_new(struct crn_entry *e, struct crn_payload *p);
/* Forgets it, and ends the orders that wait for it. */
void crn_tier_move_free(struct crn_tier *t, struct crn_tier_move *m, int status);
void crn_tier_wake_all(struct crn_tier_move *m, enum crn_progress value);
int crn_tier_take_memory(struct crn_payload *p);
void crn_tier_give_memory_back(struct crn_payload *p);
void crn_tier_let_go(struct crn_payload *p); /* RESIDENT or SPILLING -> SPILLED */
struct crn_entry *crn_tier_entry_of(const struct crn_tier_move *m); /* NULL: gone, or it has another body */
/* The payload is the coded one from here on; its plain bytes go. */
void crn_tier_become_coded(struct crn_entry *e, struct crn_payload *p, const struct crn_tier_recode *r);
void crn_tier_persist_for(struct crn_tier *t, struct crn_tier_move *m, struct crn_entry *e); /* it was written: record, perhaps */
/* A copy on NVMe begins, of what readers map (p->move) or of what is in the host tier (p->sink). fails CAIRN_E_FULL, -ENOMEM */
int crn_tier_start_write(struct crn_entry *e, struct crn_payload *p, bool from_host, int how, struct crn_tier_order *order);
/* A write failed: its place is free, or bad; storage is left alone for a while. */
void crn_tier_write_failed(struct crn_tier *t, struct crn_tier_move *m);

/* tier_host.c: the host tier. All take a payload of a namespace that may have none. */
bool crn_tier_has_host(const struct crn_space *space);
int crn_tier_host_open(struct crn_tier *t);
void crn_tier_host_close(struct crn_tier *t);
int crn_tier_start_down(struct crn_entry *e, struct crn_payload *p, struct crn_tier_order *order); /* RESIDENT -> SPILLED there */
int crn_tier_start_up(struct crn_entry *e, struct crn_payload *p, struct crn_tier_order *order);   /* memory is taken */
/* Its copy in the host tier goes on to NVMe. */
int crn_tier_start_sink(struct crn_entry *e, struct crn_payload *p, int how, struct crn_tier_order *order);
void crn_tier_sink_ended(struct crn_tier *t, struct crn_tier_move *m);
/* Drops the copy there when another one remains and nobody reads it; false: it stays. */
bool crn_tier_host_release(const struct crn_entry *e, struct crn_payload *p);

/* tier_offer.c */
void crn_tier_offer_step(struct crn_tier *t); /* a tick */
void crn_tier_offer_end(struct crn_tier *t);  /* waits for what is under way */

/* tier_recode.c */
bool crn_tier_recodable(const struct crn_payload *p);
/* CAIRN_E_TOO_BIG when it would not become smaller, -ENOMEM. own: crn_tier_recode_free */
int crn_tier_recode_new(const struct crn_entry *e, const struct crn_payload *p, struct crn_tier_recode **out_recode);
void crn_tier_recode_free(struct crn_tier_recode *r); /* NULL allowed */
int crn_tier_recode_run(struct crn_spill_io *io);     /* of a move; a thread of the engine */

/* tier_stage.c: a payload that storage cannot reach, and the host buffer that it goes through */
struct crn_device;
struct crn_device_stage;
struct crn_tier_stage {
    struct crn_device *device;
    struct crn_device_stage *host;
    void *there; /* in the device's memory */
    uint64_t bytes;
    bool failed; /* the device, or memory for the buffer: not the storage */
};
bool crn_tier_staged(const struct crn_payload *p); /* it has memory, and that is a device's */
int crn_tier_stage_new(struct crn_tier_move *m);   /* for a move that is otherwise ready; fails -ENOMEM */
void crn_tier_stage_free(struct crn_tier_stage *stage); /* NULL allowed */

/* tier_catalog.c */
int crn_tier_recover(struct crn_tier *t);
void crn_tier_warm_places(struct crn_entry *e); /* a body without bytes, so that its places can be given back */
bool crn_tier_all_placed(const struct crn_entry *e);
/* Puts the entry on the list of those to be committed, when it is ready for it. */
void crn_tier_persist(struct crn_tier *t, struct crn_entry *e, struct crn_tier_order *order);
void crn_tier_persist_step(struct crn_tier *t); /* starts a sync when entries wait */
/* What waited for this entry to be in the catalogue: it is (status 0), or will not be. NULL: only forgets those that are gone. */
void crn_tier_adopt(struct crn_tier *t, const struct crn_entry *parent, int status);
bool crn_tier_coming(const struct crn_entry *e); /* parts of it are being written or committed: it may be in the catalogue soon */
void crn_tier_synced(struct crn_tier *t, struct crn_spill_io *io);
void crn_tier_abandon_suspect(struct crn_payload *p); /* it is in memory: written elsewhere next time */
void crn_tier_committed(struct crn_tier *t, struct crn_cat_batch *batch);
void crn_tier_drop_again(struct crn_tier *t); /* removals that failed; a tick */
void crn_tier_cool(struct crn_entry *e); /* drops the body of an entry that is wholly on NVMe and unused */
void crn_tier_cool_some(struct crn_space *space); /* of the coldest ones */

/* tier_policy.c */
/* Bytes that are, or soon will be, free. hurry: what has a copy anywhere below goes at once, instead of to the host tier first. */
uint64_t crn_tier_demote(struct crn_space *space, uint64_t bytes, bool hurry);
/* The same for the host tier: copies go on to NVMe. */
uint64_t crn_tier_sink(struct crn_space *space, uint64_t bytes);
/* Room in the host tier for what is asked for e's sake: made at once, coming, or none. */
enum crn_tier_room crn_tier_host_room(struct crn_entry *e, uint64_t bytes);

#endif
