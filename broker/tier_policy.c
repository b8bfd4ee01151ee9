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
 * room is free a commit later, so this round may still find nothing.
 *
 * Below a device lies the host tier: payloads go there first, by the same order, even those that NVMe has, too, because they are
 * back sooner; only when somebody waits for memory, what NVMe has goes at once. The host tier has the same watermarks, and its
 * coldest payloads go on to NVMe by the same rules. When it is full, what should have gone there waits for that, or goes to NVMe
 * directly where nothing there can go. Without NVMe its coldest entry is dropped instead. */
#include "broker/tier_impl.h"

#include "ipc/chan.h"
#include "ipc/log.h"

#include <errno.h>
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
    stats.read_per_second = 0;
    if (t->store != NULL)
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

enum level { FROM_MEMORY = 0, FROM_HOST = 1 }; /* which readers map; the tier below a device's */

struct candidates {
    enum level level;
    bool hurry; /* crn_tier_demote's */
    uint32_t n;
    uint64_t bytes;   /* of what may go */
    uint64_t leaving; /* on its way down */
    struct crn_payload *p[CRN_CATALOG_MAX_PAYLOADS];
};

static uint64_t held(const struct crn_payload *p, enum level level)
{
    return (uint64_t)(level == FROM_HOST ? p->host_extent.n : p->extent.n) * CRN_GRANULE_BYTES;
}

static bool may_go(const struct crn_payload *p, enum level level)
{
    bool here = level == FROM_HOST ? p->host != NULL && p->sink == NULL : p->state == CRN_RESIDENT;
    return here && p->move == NULL && crn_tier_idle(p);
}

static void add_candidate(void *ctx, struct crn_payload *p)
{
    struct candidates *c = ctx;
    uint64_t bytes = held(p, c->level);
    bool leaving = c->level == FROM_HOST ? p->sink != NULL : p->state == CRN_SPILLING;
    c->leaving += leaving ? bytes : 0;
    if (!may_go(p, c->level))
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

/* What may leave its level. */
static bool collect(const struct crn_entry *e, struct candidates *out)
{
    out->n = 0;
    out->bytes = out->leaving = 0;
    if (e->pinned || e->broken || !crn_tier_quiet(e))
        return false;
    crn_body_each(e->body, add_candidate, out);
    if (e->item != NULL && out->level == FROM_MEMORY) /* once durable it goes cold, and its tokens with it */
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

/* Of the level in scratch. NULL: nothing may go, or what should go is on its way. */
static struct crn_entry *coldest(struct crn_space *space, const struct weights *w, struct candidates *scratch)
{
    bool host = scratch->level == FROM_HOST;
    uint64_t share = (host ? space->options.host_limit_bytes : space->options.limit_bytes) / PROBATION_SHARE;
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

static void evict(struct crn_space *space, struct crn_entry *victim)
{
    CRN_COUNT(&space->stats, evicted_total);
    CRN_ADD(&space->stats, evicted_bytes_total, crn_tier_brief(victim).bytes);
    crn_space_remove(space, victim);
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
        evict(space, victim);
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

/* ---- down ---- */

static bool paused(const struct crn_tier *t)
{
    return t->store == NULL || crn_now_ns() < t->paused_until_ns;
}

/* Out of the memory that readers map, to the host tier if it can be; -EAGAIN: there will be room for it. */
static int go_down(struct crn_entry *e, struct crn_payload *p, bool hurry)
{
    struct crn_tier *t = e->space->tier;
    bool host = crn_tier_has_host(e->space) && crn_now_ns() >= t->host_paused_until_ns && !(hurry && p->place.bytes > 0);
    if ((!host || p->host != NULL) && crn_tier_release(p))
        return 0;
    int status = host ? crn_tier_start_down(e, p, NULL) : CAIRN_E_UNSUPPORTED;
    enum crn_tier_room room = CRN_ROOM_MADE;
    while (status == CAIRN_E_FULL && (room = crn_tier_host_room(e, p->bytes)) == CRN_ROOM_MADE)
        status = crn_tier_start_down(e, p, NULL);
    if (status == 0)
        return 0;
    if (status == CAIRN_E_FULL && room == CRN_ROOM_COMING)
        return -EAGAIN;
    if (crn_tier_release(p))
        return 0;
    return paused(t) ? status : crn_tier_start_spill(e, p, CRN_DOWN_RELEASE, NULL);
}

/* Out of the host tier, on to NVMe. */
static int go_on(struct crn_entry *e, struct crn_payload *p)
{
    if (crn_tier_host_release(e, p))
        return 0;
    return paused(e->space->tier) ? CAIRN_E_STATE : crn_tier_start_sink(e, p, CRN_DOWN_RELEASE, NULL);
}

static uint64_t leaving(const struct crn_tier *t, enum level level)
{
    return level == FROM_HOST ? t->sink_bytes : t->down_bytes;
}

/* Sends one entry's payloads down until `bytes` are, or soon will be, free; returns how many. full: the store had no room. */
static uint64_t send_down(struct crn_entry *e, struct candidates *c, uint64_t bytes, bool *out_full)
{
    const struct crn_tier *t = e->space->tier;
    uint64_t freed = 0;
    qsort(c->p, c->n, sizeof c->p[0], goes_before);
    for (uint32_t i = 0; i < c->n && freed < bytes && leaving(t, c->level) < DOWN_LIMIT_BYTES; i++) {
        uint64_t gain = held(c->p[i], c->level);
        int status = c->level == FROM_HOST ? go_on(e, c->p[i]) : go_down(e, c->p[i], c->hurry);
        *out_full = status == CAIRN_E_FULL;
        if (status != 0)
            break;
        freed += gain;
    }
    return freed;
}

/* The coldest entries of the level in c, one after the other. */
static uint64_t send_some(struct crn_space *space, struct candidates *c, uint64_t bytes, bool *out_full)
{
    const struct crn_tier *t = space->tier;
    struct weights w = weights_now(t);
    uint64_t freed = 0;
    *out_full = false;
    while (freed < bytes && !*out_full && leaving(t, c->level) < DOWN_LIMIT_BYTES) {
        struct crn_entry *e = coldest(space, &w, c);
        if (e == NULL || !collect(e, c))
            break;
        uint64_t got = send_down(e, c, bytes - freed, out_full);
        if (got == 0)
            break;
        freed += got;
    }
    return freed;
}

uint64_t crn_tier_demote(struct crn_space *space, uint64_t bytes, bool hurry)
{
    static struct candidates c; /* loop thread */
    struct crn_tier *t = space->tier;
    bool full;
    if (paused(t) && !crn_tier_has_host(space))
        return 0;
    c.level = FROM_MEMORY;
    c.hurry = hurry;
    uint64_t freed = send_some(space, &c, bytes, &full);
    if (full && t->store != NULL && !t->keep)
        store_full(space);
    return freed;
}

/* ---- the host tier ---- */

static uint64_t sink_some(struct crn_space *space, uint64_t bytes, bool *out_full)
{
    static struct candidates c; /* loop thread; crn_tier_demote is at work on its own */
    c.level = FROM_HOST;
    return send_some(space, &c, bytes, out_full);
}

uint64_t crn_tier_sink(struct crn_space *space, uint64_t bytes)
{
    bool full;
    uint64_t freed = sink_some(space, bytes, &full);
    if (full && !space->tier->keep)
        store_full(space);
    return freed;
}

static void add_held(void *ctx, struct crn_payload *p)
{
    *(uint64_t *)ctx += held(p, FROM_HOST);
}

/* Without NVMe: the coldest entry that has something there and may go, but not this one. */
static void drop_coldest(struct crn_space *space, const struct crn_entry *except)
{
    struct weights w = weights_now(space->tier);
    struct crn_entry *e, *victim = NULL;
    double most = -1.0;
    for (enum crn_lru_list list = CRN_LRU_NEW; list <= CRN_LRU_USED; list++) {
        struct crn_lru_walk walk = crn_lru_from_coldest(space, list);
        for (uint32_t n = 0; n < CRN_LRU_CANDIDATES && (e = crn_lru_next(&walk)) != NULL;) {
            uint64_t bytes = 0;
            if (e == except || !crn_evict_allowed(e))
                continue;
            crn_body_each(e->body, add_held, &bytes);
            double cold = bytes > 0 ? coldness(&w, e, bytes) : -1.0;
            victim = cold > most ? e : victim;
            most = cold > most ? cold : most;
            n += bytes > 0;
        }
    }
    if (victim != NULL)
        evict(space, victim);
}

enum crn_tier_room crn_tier_host_room(struct crn_entry *e, uint64_t bytes)
{
    struct crn_space *space = e->space;
    struct crn_tier *t = space->tier;
    uint64_t before = space->host_used_bytes;
    bool full = false;
    if (t->store == NULL && !t->keep)
        drop_coldest(space, e);
    else if (t->sink_bytes < bytes)
        sink_some(space, bytes - t->sink_bytes, &full);
    e->n_drafts++; /* no room is made by dropping the entry itself */
    if (full && !t->keep)
        store_full(space);
    e->n_drafts--;
    if (space->host_used_bytes < before)
        return CRN_ROOM_MADE;
    return t->sink_bytes > 0 || full ? CRN_ROOM_COMING : CRN_ROOM_NONE;
}
