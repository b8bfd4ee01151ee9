/* match - which path of entries serves a receiver best, under which reuse class, and why. Pure look-up: changes nothing. */
#ifndef CRN_BROKER_MATCH_H
#define CRN_BROKER_MATCH_H

#include "broker/space.h"

#include <stdint.h>

struct crn_query {
    const uint64_t *hashes; /* [n_hashes]: chained, whole chunks of the context */
    uint32_t n_hashes, n_tokens;
    const int32_t *tail;    /* [n_tail]: tokens behind the last whole chunk; none when the client did not send them */
    uint32_t n_tail;
    uint32_t min_quality;   /* millionths */
    uint32_t flags;         /* CRN_MATCH_*, CRN_ATTACH_* */
    uint64_t plan;          /* force this one; 0: the best */
    const char *settings;   /* of prefill pyramids that it takes; "": none */
    uint32_t waiting;       /* requests behind this one */
    struct cairn_digest model, family; /* of the receiver */
};

struct crn_part {
    struct crn_entry *entry;
    uint32_t usable; /* of its tokens, from the front */
    uint8_t class_, reason;
};

struct crn_path {
    uint32_t n;
    struct crn_part parts[CAIRN_MAX_PATH]; /* root first */
    uint8_t class_, reason;                /* of the whole: the weakest part's; NONE when n is 0 */
    const struct crn_plan *plan;           /* of the approximate parts; NULL when there are none */
};

/* The longest usable path by hashes. CAIRN_E_MISS when a forced plan does not exist; no hit is a path of n = 0. */
int crn_match_query(const struct crn_space *space, const struct crn_query *query,
                    struct crn_path *out_path);
/* CAIRN_REASON_PLAN when the plan may be used on this entry, else what is in its way. */
uint8_t crn_match_fits(const struct crn_plan *plan, const struct crn_entry *entry,
                       const struct crn_query *query);
/* What the plan promises with this entry, in millionths of the receiver's own quality; 0: nothing like it was measured, as with a pyramid
 * made while prefilling, which lost tokens of the run too. */
uint32_t crn_match_quality(const struct crn_plan *plan, const struct crn_entry *entry);
/* The path to one entry, each part as long as the next one lets it be. */
int crn_match_entry(const struct crn_space *space, struct crn_entry *leaf,
                    const struct crn_query *query, struct crn_path *out_path);

#endif
