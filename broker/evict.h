/* evict - whom to drop when a namespace is full. A policy is a function that says how little an entry is worth. */
#ifndef CRN_BROKER_EVICT_H
#define CRN_BROKER_EVICT_H

#include <stdbool.h>
#include <stdint.h>

struct crn_space;
struct crn_entry;

struct crn_evict_policy {
    const char *name;
    /* Higher goes first. */
    double (*coldness)(const struct crn_entry *entry, uint64_t now_ns);
};

extern const struct crn_evict_policy crn_evict_cost;

/* Nobody reads it, nothing builds on it, it is not pinned. */
bool crn_evict_allowed(const struct crn_entry *entry);
/* The coldest entry that may go; NULL when there is none. */
struct crn_entry *crn_evict_victim(const struct crn_space *space,
                                   const struct crn_evict_policy *policy, uint64_t now_ns);

#endif
