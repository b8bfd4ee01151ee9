/* Eviction by recency and cost. Time unused is weighed against what a byte is worth: the tokens that have to be prefilled again
 * to get the entry back, per byte it occupies. A compressed entry holds more tokens per byte and stays longer; each doubling of
 * its readers counts like a doubling of the work saved.
 *
 *     coldness = idle time x bytes / (tokens x (1 + log2(1 + hits)))
 *
 * Children go before parents (a parent with children is not allowed to go); leased and pinned entries stay. All entries are
 * looked at for each victim: at 10^5 entries that is about a millisecond, once per evicted entry. */
#include "broker/evict.h"

#include "broker/space.h"
#include "broker/tier.h"

#include <math.h>

static double cost_coldness(const struct crn_entry *e, uint64_t now_ns)
{
    if (e->durable)
        return 0; /* all of it is on NVMe: its memory comes back without dropping it */
    double idle = (double)(now_ns - e->used_ns) + 1.0;
    double worth = (double)e->n_tokens * (1.0 + log2(1.0 + (double)e->hits));
    return idle * (double)crn_tier_brief(e).allocated_bytes / worth;
}

const struct crn_evict_policy crn_evict_cost = {.name = "cost", .coldness = cost_coldness};

bool crn_evict_allowed(const struct crn_entry *e)
{
    return !e->pinned && e->n_children == 0 && e->n_drafts == 0 &&
           (e->body == NULL || e->body->refs == 1);
}

struct crn_entry *crn_evict_victim(const struct crn_space *space,
                                   const struct crn_evict_policy *policy, uint64_t now_ns)
{
    struct crn_entry *victim = NULL;
    double coldest = -1.0;
    uint32_t slot = 0;
    for (struct crn_entry *e = crn_entries_walk(&space->entries, 0, &slot); e != NULL;
         e = crn_entries_walk(&space->entries, slot + 1, &slot)) {
        if (!crn_evict_allowed(e))
            continue;
        double coldness = policy->coldness(e, now_ns);
        if (coldness > coldest) {
            coldest = coldness;
            victim = e;
        }
    }
    return victim;
}
