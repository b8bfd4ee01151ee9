/* Eviction by recency and cost. Time unused is weighed against what a byte is worth: the tokens that have to be prefilled again
 * to get the entry back, per byte it occupies. A compressed entry holds more tokens per byte and stays longer; each doubling of
 * its readers counts like a doubling of the work saved.
 *
 *     coldness = idle time x bytes / (tokens x (1 + log2(1 + hits)))
 *
 * Children go before parents (a parent with children is not allowed to go); leased and pinned entries stay. The
 * CRN_LRU_CANDIDATES least recently used entries of each list are weighed, not all. */
#include "broker/evict.h"

#include "broker/space.h"
#include "broker/tier.h"

#include <math.h>

/* ---- the lists ---- */

static enum crn_lru_list list_of(const struct crn_entry *e)
{
    return e->body == NULL ? CRN_LRU_COLD : e->hits == 0 ? CRN_LRU_NEW : CRN_LRU_USED;
}

void crn_lru_remove(struct crn_entry *e)
{
    struct crn_lru_node *n = &e->lru;
    if (!n->on)
        return;
    struct crn_lru *list = &e->space->lru[n->list];
    *(n->colder != NULL ? &n->colder->lru.hotter : &list->coldest) = n->hotter;
    *(n->hotter != NULL ? &n->hotter->lru.colder : &list->hottest) = n->colder;
    list->n--;
    *n = (struct crn_lru_node){.on = false};
}

void crn_lru_place(struct crn_entry *e)
{
    crn_lru_remove(e);
    struct crn_lru *list = &e->space->lru[list_of(e)];
    e->lru = (struct crn_lru_node){
        .colder = list->hottest, .since_ns = e->used_ns, .list = (uint8_t)list_of(e), .on = true};
    *(list->hottest != NULL ? &list->hottest->lru.hotter : &list->coldest) = e;
    list->hottest = e;
    list->n++;
}

struct crn_lru_walk crn_lru_from_coldest(struct crn_space *space, enum crn_lru_list list)
{
    return (struct crn_lru_walk){space->lru[list].coldest, space->lru[list].n, CRN_LRU_MOVES};
}

struct crn_entry *crn_lru_next(struct crn_lru_walk *walk)
{
    while (walk->next != NULL && walk->left > 0) {
        struct crn_entry *e = walk->next;
        walk->next = e->lru.hotter;
        walk->left--;
        bool in_place = e->used_ns <= e->lru.since_ns && list_of(e) == (enum crn_lru_list)e->lru.list;
        if (in_place || walk->moves_left == 0)
            return e;
        walk->moves_left--;
        crn_lru_place(e);
    }
    return NULL;
}

/* ---- dropping ---- */

static double cost_coldness(const struct crn_entry *e, uint64_t now_ns)
{
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

struct crn_entry *crn_evict_victim(struct crn_space *space, const struct crn_evict_policy *policy, uint64_t now_ns)
{
    struct crn_entry *victim = NULL, *e;
    double coldest = -1.0;
    for (enum crn_lru_list list = CRN_LRU_NEW; list <= CRN_LRU_USED; list++) {
        struct crn_lru_walk walk = crn_lru_from_coldest(space, list);
        uint32_t n = 0;
        while (n < CRN_LRU_CANDIDATES && (e = crn_lru_next(&walk)) != NULL) {
            if (e->durable || !crn_evict_allowed(e))
                continue;
            double coldness = policy->coldness(e, now_ns);
            victim = coldness > coldest ? e : victim;
            coldest = coldness > coldest ? coldness : coldest;
            n++;
        }
    }
    return victim;
}
