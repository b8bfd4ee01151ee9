/* evict - entries in order of use, and whom to drop when a namespace is full and no tier below can take anything.
 *
 * Every visible entry is on one of three lists, coldest first: without a body, with a body and never attached, with a body and
 * attached. Use is not told to the lists: a search that meets an entry which was used since it was put there, or belongs to
 * another list by now, puts it where it belongs and goes on. So a use costs nothing, and a search looks at a few dozen entries
 * whatever their number. Loop thread only. */
#ifndef CRN_BROKER_EVICT_H
#define CRN_BROKER_EVICT_H

#include <stdbool.h>
#include <stdint.h>

struct crn_space;
struct crn_entry;

enum crn_lru_list { CRN_LRU_COLD = 0, CRN_LRU_NEW = 1, CRN_LRU_USED = 2, CRN_LRU_LISTS = 3 };

#define CRN_LRU_CANDIDATES 64u /* entries that may go, weighed per search and list */

#define CRN_LRU_MOVES 512u

struct crn_lru {
    struct crn_entry *coldest, *hottest;
    uint32_t n;
};

/* An entry's place in the lists. */
struct crn_lru_node {
    struct crn_entry *colder, *hotter;
    uint64_t since_ns; /* used_ns when it was put there */
    uint8_t list;      /* enum crn_lru_list */
    bool on;
};

/* Puts the entry to the hot end of the list it belongs to now: it is new, or got or lost its body. */
void crn_lru_place(struct crn_entry *e);
void crn_lru_remove(struct crn_entry *e);

/* From the coldest entry to hotter ones. What was used meanwhile is moved on the way and not returned, up to CRN_LRU_MOVES of
 * them; nothing is returned twice. */
struct crn_lru_walk {
    struct crn_entry *next;
    uint32_t left, moves_left;
};
struct crn_lru_walk crn_lru_from_coldest(struct crn_space *space, enum crn_lru_list list);
struct crn_entry *crn_lru_next(struct crn_lru_walk *walk); /* NULL at the end */

struct crn_evict_policy {
    const char *name;
    /* Higher goes first. */
    double (*coldness)(const struct crn_entry *entry, uint64_t now_ns);
};

extern const struct crn_evict_policy crn_evict_cost;

/* Nobody reads it, nothing builds on it, it is not pinned. */
bool crn_evict_allowed(const struct crn_entry *entry);
/* The coldest entry in memory that may go, and is not on NVMe (there its memory comes back without dropping it); NULL: none. */
struct crn_entry *crn_evict_victim(struct crn_space *space,
                                   const struct crn_evict_policy *policy, uint64_t now_ns);

#endif
