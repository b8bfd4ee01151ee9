/* Matching. The deepest chunk hash that some entry shares with the query decides how far a context is known; hashes are chained,
 * so all ancestors of that entry agree with the query too. Entries found at that depth are candidates; shorter depths are tried
 * as long as they could save more: a sibling's longer entry, unusable or at the price of a run, never hides the receiver's own.
 *
 * How much of an entry is usable:
 *     its deepest common chunk is inside it                          up to that chunk's end
 *     its deepest common chunk is its last, or the query's last      up to its end or the query's, whichever is first: fewer than
 *                                                                    64 tokens that no hash covers. The broker compares them
 *                                                                    when the query sent its tail, else the client does.
 *     it is a prefill pyramid                                        all of it or nothing, and only for a receiver that names its
 *                                                                    settings: what it lost is lost for good
 *
 * Class of each part of a path, root first: `exact` when the producer is the receiver; `approx` when a plan of the pair meets the
 * floor and its run's state was kept; else the path ends before it. One plan serves a path, so approximate parts of another
 * producer than the first one's end it as well. */
#include "broker/match.h"

#include "broker/tier.h"
#include "ipc/hash.h"
#include "ipc/wire.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define CHUNK CAIRN_CHUNK_TOKENS
#define WHOLE 1000000u /* a share of one, in millionths */

static bool same_digest(const struct cairn_digest *a, const struct cairn_digest *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* ---- class and plan ---- */

struct judge {
    const struct crn_space *space;
    const struct crn_query *query;
    const struct crn_plan *plan; /* chosen by the first approximate part */
};

uint32_t crn_match_quality(const struct crn_plan *plan, const struct crn_entry *e)
{
    return e->pyramid == CAIRN_PYRAMID_PREFILL ? 0 : crn_plan_quality(plan, e->body, e->n_tokens);
}

uint8_t crn_match_fits(const struct crn_plan *plan, const struct crn_entry *e,
                       const struct crn_query *q)
{
    if (q->min_quality > 0 && plan->rec.id != q->plan && crn_match_quality(plan, e) < q->min_quality)
        return CAIRN_REASON_QUALITY;
    if (crn_plan_needs_state(plan) && crn_body_state(e->body, plan->rec.first) == NULL)
        return CAIRN_REASON_NO_STATE;
    return CAIRN_REASON_PLAN;
}

/* Requests that wait are better served by the cheapest plan that meets a floor (method.md 1.2.5). The reader has the last word:
 * it knows its own speed (options.c). */
static bool wants_cheap(const struct crn_query *q)
{
    return q->waiting > 0 && q->min_quality > 0;
}

/* The best plan of the pair that fits this entry, or the cheapest; NULL with the reason why there is none. */
static const struct crn_plan *choose(const struct judge *j, const struct crn_entry *e,
                                     uint8_t *out_reason)
{
    const struct crn_plan *p = NULL, *best = NULL;
    uint32_t best_quality = 0;
    *out_reason = CAIRN_REASON_NO_PLAN;
    while ((p = crn_plans_next(&j->space->plans, p, &e->producer->digest, &j->query->model)) !=
           NULL) {
        if (j->query->plan != 0 && p->rec.id != j->query->plan)
            continue;
        uint8_t reason = crn_match_fits(p, e, j->query);
        uint32_t quality = reason == CAIRN_REASON_PLAN ? crn_match_quality(p, e) : 0;
        if (reason == CAIRN_REASON_PLAN &&
            (best == NULL || (wants_cheap(j->query) ? p->rec.cost_ppm < best->rec.cost_ppm : quality > best_quality))) {
            best = p;
            best_quality = quality;
        }
        if (best != NULL)
            *out_reason = CAIRN_REASON_PLAN;
        else if (*out_reason != CAIRN_REASON_NO_STATE)
            *out_reason = reason;
    }
    return best;
}

static uint8_t judge_approx(struct judge *j, const struct crn_entry *e, uint8_t *out_reason)
{
    if ((j->query->flags & CRN_MATCH_EXACT_ONLY) != 0) {
        *out_reason = CAIRN_REASON_NO_PLAN;
        return CAIRN_CLASS_NONE;
    }
    if (j->plan == NULL) {
        j->plan = choose(j, e, out_reason);
        return j->plan != NULL ? CAIRN_CLASS_APPROX : CAIRN_CLASS_NONE;
    }
    if (!same_digest(&j->plan->rec.producer, &e->producer->digest)) {
        *out_reason = CAIRN_REASON_NO_PLAN;
        return CAIRN_CLASS_NONE;
    }
    *out_reason = crn_match_fits(j->plan, e, j->query);
    return *out_reason == CAIRN_REASON_PLAN ? CAIRN_CLASS_APPROX : CAIRN_CLASS_NONE;
}

static uint8_t judge_part(struct judge *j, const struct crn_entry *e, uint8_t *out_reason)
{
    bool inspect = (j->query->flags & CRN_ATTACH_INSPECT) != 0;
    if (!inspect && e->pyramid == CAIRN_PYRAMID_PREFILL &&
        strcmp(e->settings, j->query->settings) != 0) {
        *out_reason = CAIRN_REASON_SETTINGS;
        return CAIRN_CLASS_NONE;
    }
    if (inspect || same_digest(&e->producer->digest, &j->query->model)) {
        *out_reason = CAIRN_REASON_SAME_MODEL;
        return CAIRN_CLASS_EXACT;
    }
    return judge_approx(j, e, out_reason);
}

/* Judges the parts of a path and cuts it where a part may not be used. */
static void judge_path(struct judge *j, struct crn_path *path)
{
    uint32_t n = path->n;
    path->class_ = CAIRN_CLASS_EXACT;
    path->reason = CAIRN_REASON_SAME_MODEL;
    for (uint32_t i = 0; i < n; i++) {
        struct crn_part *part = &path->parts[i];
        part->class_ = judge_part(j, part->entry, &part->reason);
        if (part->class_ == CAIRN_CLASS_NONE) {
            path->n = i;
            if (i == 0) {
                path->class_ = CAIRN_CLASS_NONE;
                path->reason = part->reason;
            }
            return;
        }
        if (part->class_ == CAIRN_CLASS_APPROX) {
            path->class_ = CAIRN_CLASS_APPROX;
            path->reason = part->reason;
            path->plan = j->plan;
        }
    }
    if ((j->query->flags & CRN_ATTACH_INSPECT) != 0 && j->query->plan != 0)
        path->plan = crn_plans_find(&j->space->plans, j->query->plan);
}

/* Root .. leaf; each part ends where the next one starts. CAIRN_E_TOO_BIG when it is too long. */
static int path_to(struct crn_entry *leaf, uint32_t usable, struct crn_path *out_path)
{
    uint32_t n = 0;
    for (const struct crn_entry *e = leaf; e != NULL; e = e->parent)
        n++;
    if (n > CAIRN_MAX_PATH)
        return CAIRN_E_TOO_BIG;
    *out_path = (struct crn_path){.n = n};
    uint32_t end = leaf->start + usable;
    for (struct crn_entry *e = leaf; e != NULL; e = e->parent) {
        if (crn_tier_warm(e) != 0)
            return CAIRN_E_MISS;
        out_path->parts[--n] = (struct crn_part){.entry = e, .usable = end - e->start};
        end = e->start;
    }
    return 0;
}

static struct judge judge_of(const struct crn_space *space, const struct crn_query *query)
{
    return (struct judge){space, query, NULL};
}

int crn_match_entry(const struct crn_space *space, struct crn_entry *leaf,
                    const struct crn_query *query, struct crn_path *out_path)
{
    struct judge j = judge_of(space, query);
    struct crn_path path;
    int status = path_to(leaf, leaf->n_tokens, &path);
    if (status != 0)
        return status;
    judge_path(&j, &path);
    *out_path = path;
    return 0;
}

/* ---- candidates ---- */

/* Where tokens behind the query's last whole chunk stop to agree, looking at the entry's and its ancestors' before `end`. */
static uint32_t agree_in_tail(const struct crn_entry *e, const struct crn_query *q, uint32_t end)
{
    uint32_t from = q->n_hashes * CHUNK;
    if (e->start > from) {
        uint32_t above = crn_tier_warm(e->parent) == 0 ? agree_in_tail(e->parent, q, e->start) : from;
        if (above < e->start)
            return above;
    }
    uint32_t at = from > e->start ? from : e->start;
    const int32_t *tokens = crn_payload_at(e->body->tokens);
    while (at < end && tokens[at - e->start] == q->tail[at - from])
        at++;
    return at;
}

/* Tokens of the entry that the query may use when its first `depth` whole chunks agree; 0: none. */
static uint32_t usable_of(const struct crn_entry *e, const struct crn_query *q, uint32_t depth)
{
    uint32_t entry_end = crn_entry_end(e);
    uint32_t agreed = depth * CHUNK;
    uint32_t end = entry_end < q->n_tokens ? entry_end : q->n_tokens;
    bool last_of_entry = entry_end / CHUNK == depth, last_of_query = q->n_hashes == depth;
    if (!last_of_entry && !last_of_query)
        end = agreed < end ? agreed : end;
    else if (last_of_query && q->n_tail > 0 && end > agreed)
        end = agree_in_tail(e, q, end);
    if (e->pyramid == CAIRN_PYRAMID_PREFILL && end < entry_end)
        return 0;
    return end > e->start ? end - e->start : 0;
}

static uint32_t path_tokens(const struct crn_path *path)
{
    if (path->n == 0)
        return 0;
    const struct crn_part *last = &path->parts[path->n - 1];
    return last->entry->start + last->usable;
}

/* Layer-tokens a path saves, in millionths of a layer stack: an approximate one costs its run again. */
static uint64_t worth(const struct crn_path *path)
{
    uint64_t cost = path->plan != NULL ? path->plan->rec.cost_ppm : 0;
    return path_tokens(path) * (cost < WHOLE ? WHOLE - cost : 0);
}

/* Is a better than b? What saves more; then exact before approximate, the better plan, the one used last. */
static bool better(const struct crn_path *a, const struct crn_path *b)
{
    if (worth(a) != worth(b))
        return worth(a) > worth(b);
    if (a->class_ != b->class_)
        return a->class_ > b->class_;
    if (a->plan != b->plan && a->plan != NULL && b->plan != NULL) {
        if (a->plan->rec.quality_ppm != b->plan->rec.quality_ppm)
            return a->plan->rec.quality_ppm > b->plan->rec.quality_ppm;
        if (a->plan->rec.cost_ppm != b->plan->rec.cost_ppm)
            return a->plan->rec.cost_ppm < b->plan->rec.cost_ppm;
    }
    return a->parts[a->n - 1].entry->used_ns > b->parts[b->n - 1].entry->used_ns;
}

/* The path to a candidate, judged and cut; n = 0 with the reason when it may not be used. */
static struct crn_path try_entry(const struct crn_space *space, const struct crn_query *q,
                                 struct crn_entry *e, uint32_t depth)
{
    struct judge j = judge_of(space, q);
    struct crn_path path = {.class_ = CAIRN_CLASS_NONE, .reason = CAIRN_REASON_NO_ENTRY};
    if (crn_tier_warm(e) != 0)
        return path;
    uint32_t usable = usable_of(e, q, depth);
    if (usable == 0) {
        path.reason = e->pyramid == CAIRN_PYRAMID_PREFILL ? CAIRN_REASON_WHOLE_ONLY : path.reason;
        return path;
    }
    if (path_to(e, usable, &path) == 0)
        judge_path(&j, &path);
    return path;
}

/* Looks at all entries found at one depth; keeps the best path, or else the reason of the deepest refusal. */
static void match_depth(const struct crn_space *space, const struct crn_query *q, uint32_t depth,
                        struct crn_path *best)
{
    uint64_t hash = depth > 0 ? q->hashes[depth - 1] : crn_hash_root(&q->family);
    const struct crn_chunk *c = NULL;
    while ((c = crn_index_next(&space->index, hash, c)) != NULL) {
        if (!same_digest(&c->entry->producer->family, &q->family))
            continue;
        struct crn_path path = try_entry(space, q, c->entry, depth);
        if (path.n > 0 && (best->n == 0 || better(&path, best)))
            *best = path;
        else if (best->n == 0 && best->reason == CAIRN_REASON_NO_ENTRY)
            best->reason = path.reason;
    }
}

int crn_match_query(const struct crn_space *space, const struct crn_query *query,
                    struct crn_path *out_path)
{
    struct crn_path best = {.class_ = CAIRN_CLASS_NONE, .reason = CAIRN_REASON_NO_ENTRY};
    if (query->plan != 0 && crn_plans_find(&space->plans, query->plan) == NULL)
        return CAIRN_E_MISS;
    for (uint32_t depth = query->n_hashes + 1; depth-- > 0;) {
        uint64_t most = ((uint64_t)depth + 1) * CHUNK * WHOLE;
        if (best.n > 0 && most <= worth(&best))
            break;
        match_depth(space, query, depth, &best);
    }
    if (best.n == 0 && crn_tier_starved(space))
        return -EAGAIN; /* there may be something, once there is memory to look at it */
    *out_path = best;
    return 0;
}
