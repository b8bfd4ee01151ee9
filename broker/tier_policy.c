/* Choosing who goes down.
 *
 * Between entries: what would it cost to have this byte back, times how likely it is wanted?
 *
 *     value of a byte in memory = chance of use x seconds to get it back / bytes
 *     seconds to get it back    = the smaller of bytes / measured restore rate and tokens x measured seconds per published token
 *     chance of use             ~ (1 + log2(1 + hits)) / idle time
 *
 * The entry whose bytes are worth least goes first. Entries that were never attached are on probation: as long as they hold more
 * than PROBATION_SHARE of the memory, only they go. So one pass over many cold contexts pushes out its own, and not the few that
 * are read again and again. Leased payloads, pinned entries and entries a draft works on stay.
 *
 * Inside an entry: payloads that the last attach of the entry did not ask for (every recent receiver recomputes those layers),
 * then KV from the deepest layer up, states last (design.md 5.3).
 *
 * Clean copies go without I/O and go first. When the store is full, the coldest entries that are wholly on it are dropped; their
 * room is free a commit later, so this round may still find nothing. */
#include "broker/tier_impl.h"

#include "ipc/chan.h"
#include "ipc/log.h"

#include <math.h>
#include <stdlib.h>

#define PROBATION_SHARE 4u /* a quarter */
#define DOWN_LIMIT_BYTES (UINT64_C(64) << 20) /* writes under way at a time */
#define DEFAULT_RATE 1e9
#define DEFAULT_TOKEN_SECONDS 1e-3
#define NVME_ENTRIES_AT_ONCE 8

static double seconds_back(const struct crn_tier *t, const struct crn_entry *e, uint64_t bytes)
{
    struct crn_spill_stats stats;
    crn_spill_stats(crn_store_spill(t->store), &stats);
    double rate = stats.read_per_second > 0 ? (double)stats.read_per_second : DEFAULT_RATE;
    double restore = (double)bytes / rate;
    double recompute = (double)e->n_tokens * DEFAULT_TOKEN_SECONDS;
    return restore < recompute ? restore : recompute;
}

/* Higher goes first. */
static double coldness(const struct crn_tier *t, const struct crn_entry *e, uint64_t bytes, uint64_t now)
{
    double idle = (double)(now - e->used_ns) * 1e-9 + 1e-3;
    double chance = (1.0 + log2(1.0 + (double)e->hits)) / idle;
    double back = seconds_back(t, e, bytes);
    return (double)bytes / (chance * (back > 0 ? back : 1e-9));
}

/* ---- inside an entry ---- */

struct candidates {
    const struct crn_entry *e;
    uint32_t n;
    uint64_t bytes;
    struct crn_payload *p[CRN_CATALOG_MAX_PAYLOADS];
};

static bool may_go(const struct crn_payload *p)
{
    return p->state == CRN_RESIDENT && p->move == NULL && crn_tier_idle(p);
}

static void add_candidate(void *ctx, struct crn_payload *p)
{
    struct candidates *c = ctx;
    if (!may_go(p))
        return;
    c->p[c->n++] = p;
    c->bytes += (uint64_t)p->extent.n * CRN_GRANULE_BYTES;
}

static int goes_before(const void *a, const void *b)
{
    const struct crn_payload *x = *(struct crn_payload *const *)a, *y = *(struct crn_payload *const *)b;
    bool x_state = x->kind == CRN_PAYLOAD_STATE, y_state = y->kind == CRN_PAYLOAD_STATE;
    if (x_state != y_state)
        return x_state ? 1 : -1;
    if (x->used_ns / 1000000000u != y->used_ns / 1000000000u)
        return x->used_ns < y->used_ns ? -1 : 1;
    return x->layer > y->layer ? -1 : x->layer < y->layer;
}

static bool collect(const struct crn_entry *e, struct candidates *out)
{
    out->e = e;
    out->n = 0;
    out->bytes = 0;
    if (e->body == NULL || e->pinned || e->broken || e->n_drafts > 0 || e->body->refs != 1 + e->body->leases)
        return false;
    crn_body_each(e->body, add_candidate, out);
    return out->n > 0;
}

/* ---- between entries ---- */

static struct crn_entry *coldest(struct crn_space *space, struct candidates *scratch)
{
    struct crn_entry *victims[2] = {NULL, NULL}; /* of those on probation, of the others */
    double most[2] = {-1.0, -1.0};
    uint64_t probation_bytes = 0;
    uint32_t slot = 0;
    uint64_t now = crn_now_ns();
    for (struct crn_entry *e = crn_entries_walk(&space->entries, 0, &slot); e != NULL;
         e = crn_entries_walk(&space->entries, slot + 1, &slot)) {
        if (!collect(e, scratch))
            continue;
        double cold = coldness(space->tier, e, scratch->bytes, now);
        int which = e->hits > 0;
        probation_bytes += which == 0 ? scratch->bytes : 0;
        if (cold > most[which]) {
            most[which] = cold;
            victims[which] = e;
        }
    }
    if (probation_bytes > space->options.limit_bytes / PROBATION_SHARE || victims[1] == NULL)
        return victims[0];
    return victims[0] == NULL || most[1] > most[0] ? victims[1] : victims[0];
}

/* Room on NVMe: the coldest entries that are only there. */
static void drop_from_store(struct crn_space *space)
{
    for (int n = 0; n < NVME_ENTRIES_AT_ONCE; n++) {
        struct crn_entry *victim = NULL;
        double most = -1.0;
        uint32_t slot = 0;
        uint64_t now = crn_now_ns();
        for (struct crn_entry *e = crn_entries_walk(&space->entries, 0, &slot); e != NULL;
             e = crn_entries_walk(&space->entries, slot + 1, &slot)) {
            if (!e->durable || !crn_evict_allowed(e))
                continue;
            double cold = coldness(space->tier, e, crn_tier_brief(e).bytes + 1, now);
            if (cold > most) {
                most = cold;
                victim = e;
            }
        }
        if (victim == NULL)
            return;
        CRN_COUNT(&space->stats, evicted_total);
        CRN_ADD(&space->stats, evicted_bytes_total, crn_tier_brief(victim).bytes);
        crn_space_remove(space, victim);
    }
}

static void store_full(struct crn_space *space)
{
    struct crn_tier *t = space->tier;
    uint64_t now = crn_now_ns();
    if (t->finished < t->submitted)
        return; /* removals are under way */
    if (now - t->told_full_ns > UINT64_C(10000000000)) {
        t->told_full_ns = now;
        crn_log(CRN_LOG_INFO, "tier: NVMe is full: dropping the coldest entries of namespace %s", space->options.name);
    }
    drop_from_store(space);
}

/* Sends one entry's payloads down until `bytes` are, or soon will be, free; returns how many. full: the store had no room. */
static uint64_t send_down(struct crn_entry *e, struct candidates *c, uint64_t bytes, bool *out_full)
{
    struct crn_tier *t = e->space->tier;
    uint64_t freed = 0;
    qsort(c->p, c->n, sizeof c->p[0], goes_before);
    for (uint32_t i = 0; i < c->n && freed < bytes && t->down_bytes < DOWN_LIMIT_BYTES; i++) {
        uint64_t gain = (uint64_t)c->p[i]->extent.n * CRN_GRANULE_BYTES;
        int status = crn_tier_release(c->p[i]) ? 0 : crn_tier_start_spill(e, c->p[i], true, NULL);
        *out_full = status == CAIRN_E_FULL;
        if (status != 0)
            break;
        freed += gain;
    }
    return freed;
}

uint64_t crn_tier_demote(struct crn_space *space, uint64_t bytes)
{
    struct crn_tier *t = space->tier;
    static struct candidates c; /* loop thread */
    uint64_t freed = 0;
    bool full = false;
    if (crn_now_ns() < t->paused_until_ns)
        return 0;
    while (freed < bytes && !full && t->down_bytes < DOWN_LIMIT_BYTES) {
        struct crn_entry *e = coldest(space, &c);
        if (e == NULL || !collect(e, &c))
            break;
        uint64_t got = send_down(e, &c, bytes - freed, &full);
        if (got == 0)
            break;
        freed += got;
    }
    if (full && !t->keep)
        store_full(space);
    return freed;
}
