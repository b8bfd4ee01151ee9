/* Choosing who goes down.
 *
 * Between entries: what would it cost to have this byte back, times how likely it is wanted?
 *
 *     value of a byte in memory = chance of use x seconds to get it back / bytes
 *     seconds to get it back    = the smaller of bytes / measured restore rate and tokens x what one cost its publisher to prefill
 *     chance of use             ~ (1 + log2(1 + hits)) / idle time
 *
 * The entry whose bytes are worth least goes first. Entries that were never attached are on probation: as long as they hold more
 * than PROBATION_SHARE of the memory, only they go, and before anything that was attached within RECENT_NS. So one pass over many
 * cold contexts pushes out its own, and not the few that are read again and again. What is on its way down counts as if it were
 * gone: a slow disk is no reason to send others after it. Leased payloads, pinned entries and entries a draft works on stay.
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
#define RECENT_NS UINT64_C(60000000000)
#define DOWN_LIMIT_BYTES (UINT64_C(64) << 20) /* writes under way at a time */
#define DEFAULT_RATE 1e9
#define DEFAULT_TOKEN_SECONDS 1e-3
#define NVME_ENTRIES_AT_ONCE 8

/* What weighing needs, found out once per round. */
struct weights {
    uint64_t now;
    double bytes_per_second; /* of restores */
};

static struct weights weights_now(const struct crn_tier *t)
{
    struct crn_spill_stats stats;
    crn_spill_stats(crn_store_spill(t->store), &stats);
    return (struct weights){crn_now_ns(), stats.read_per_second > 0 ? (double)stats.read_per_second : DEFAULT_RATE};
}

static double seconds_back(const struct weights *w, const struct crn_entry *e, uint64_t bytes)
{
    double token = e->token_ns > 0 ? (double)e->token_ns * 1e-9 : DEFAULT_TOKEN_SECONDS;
    double restore = (double)bytes / w->bytes_per_second, recompute = (double)e->n_tokens * token;
    return restore < recompute ? restore : recompute;
}

/* Higher goes first. */
static double coldness(const struct weights *w, const struct crn_entry *e, uint64_t bytes)
{
    double idle = (double)(w->now - e->used_ns) * 1e-9 + 1e-3;
    double chance = (1.0 + log2(1.0 + (double)e->hits)) / idle;
    double back = seconds_back(w, e, bytes);
    return (double)bytes / (chance * (back > 0 ? back : 1e-9));
}

/* ---- inside an entry ---- */

struct candidates {
    uint32_t n;
    uint64_t bytes;   /* of what may go */
    uint64_t leaving; /* on its way down */
    struct crn_payload *p[CRN_CATALOG_MAX_PAYLOADS];
};

static bool may_go(const struct crn_payload *p)
{
    return p->state == CRN_RESIDENT && p->move == NULL && crn_tier_idle(p);
}

static void add_candidate(void *ctx, struct crn_payload *p)
{
    struct candidates *c = ctx;
    uint64_t bytes = (uint64_t)p->extent.n * CRN_GRANULE_BYTES;
    c->leaving += p->state == CRN_SPILLING ? bytes : 0;
    if (!may_go(p))
        return;
    c->p[c->n++] = p;
    c->bytes += bytes;
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
    out->n = 0;
    out->bytes = out->leaving = 0;
    if (e->pinned || e->broken || !crn_tier_quiet(e))
        return false;
    crn_body_each(e->body, add_candidate, out);
    if (e->item != NULL) /* once durable it goes cold, and its tokens with it */
        out->leaving += (uint64_t)e->body->tokens->extent.n * CRN_GRANULE_BYTES;
    return out->n > 0;
}

/* ---- between entries ---- */

struct choice {
    struct crn_entry *victim;
    double coldness;
    uint64_t bytes, leaving; /* of all that was looked at */
};

/* The coldest of one list among those used least recently; looks on while what it saw holds no more than `enough` bytes. */
static struct choice coldest_of(struct crn_space *space, enum crn_lru_list list, uint64_t enough, const struct weights *w,
                                struct candidates *scratch)
{
    struct crn_lru_walk walk = crn_lru_from_coldest(space, list);
    struct choice c = {.coldness = -1.0};
    struct crn_entry *e;
    uint32_t n = 0;
    while ((n < CRN_LRU_CANDIDATES || c.bytes + c.leaving <= enough) && (e = crn_lru_next(&walk)) != NULL) {
        bool may = collect(e, scratch);
        c.bytes += scratch->bytes;
        c.leaving += scratch->leaving;
        double cold = may ? coldness(w, e, scratch->bytes) : -1.0;
        n += may;
        if (cold <= c.coldness)
            continue;
        c.coldness = cold;
        c.victim = e;
    }
    return c;
}

/* NULL: nothing may go, or what should go is on its way. */
static struct crn_entry *coldest(struct crn_space *space, const struct weights *w, struct candidates *scratch)
{
    uint64_t share = space->options.limit_bytes / PROBATION_SHARE;
    struct choice probation = coldest_of(space, CRN_LRU_NEW, share, w, scratch);
    if (probation.bytes + probation.leaving > share)
        return probation.victim;
    struct choice used = coldest_of(space, CRN_LRU_USED, 0, w, scratch);
    if (used.victim == NULL || (probation.victim == NULL && probation.leaving > 0))
        return probation.victim;
    if (probation.victim == NULL)
        return used.victim;
    bool recent = w->now - used.victim->used_ns < RECENT_NS;
    return !recent && used.coldness > probation.coldness ? used.victim : probation.victim;
}

static struct crn_entry *coldest_on_nvme(struct crn_space *space, enum crn_lru_list list, const struct weights *w)
{
    struct crn_lru_walk walk = crn_lru_from_coldest(space, list);
    struct crn_entry *e, *victim = NULL;
    double most = -1.0;
    for (uint32_t n = 0; n < CRN_LRU_CANDIDATES && (e = crn_lru_next(&walk)) != NULL;) {
        if (!e->durable || !crn_evict_allowed(e))
            continue;
        double cold = coldness(w, e, crn_tier_brief(e).bytes + 1);
        victim = cold > most ? e : victim;
        most = cold > most ? cold : most;
        n++;
    }
    return victim;
}

/* Room on NVMe: the coldest entries that are only there; else those that are there, too. */
static void drop_from_store(struct crn_space *space)
{
    struct weights w = weights_now(space->tier);
    for (int n = 0; n < NVME_ENTRIES_AT_ONCE; n++) {
        struct crn_entry *victim = NULL;
        for (enum crn_lru_list list = CRN_LRU_COLD; list <= CRN_LRU_USED && victim == NULL; list++)
            victim = coldest_on_nvme(space, list, &w);
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
        int status = crn_tier_release(c->p[i]) ? 0 : crn_tier_start_spill(e, c->p[i], CRN_DOWN_RELEASE, NULL);
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
    struct weights w = weights_now(t);
    while (freed < bytes && !full && t->down_bytes < DOWN_LIMIT_BYTES) {
        struct crn_entry *e = coldest(space, &w, &c);
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
