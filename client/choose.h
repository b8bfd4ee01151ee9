/* choose - which plan an attach uses, or none. Pure: numbers in, a choice out.
 *
 *     gate        a plan whose estimate is above that of an own prefill is no option; none left: BREAK_EVEN
 *     waiting     requests queue behind this one, and there is a quality floor: least work that meets it (QUEUE)
 *     idle        the best quality whose estimate meets the time limit (PLAN when it is the best of all, else DEADLINE);
 *                 nothing meets it: the shortest estimate (LATE)
 *
 * Follows method.md 1.2.5. Work is rows recomputed, summed over the run's layers. */
#ifndef CRN_CLIENT_CHOOSE_H
#define CRN_CLIENT_CHOOSE_H

#include "ipc/cairn_types.h"

#include <stddef.h>
#include <stdint.h>

/* A plan as it would be on one path; plan 0: an exact path, nothing is recomputed. */
struct crn_option {
    uint64_t plan;
    float quality;
    uint64_t run_tokens;              /* rows recomputed, summed over the run's layers */
    uint64_t state_bytes, kv_bytes;   /* to be brought back from a lower tier first */
    uint32_t tier;                    /* enum cairn_tier they come from */
};

/* What this worker and its tiers can do; 0: not known yet. */
struct crn_speed {
    double prefill_ns, run_ns;        /* per token and layer, at the length in question */
    double suffix_ns;                 /* from the context to the first token */
    double bytes_per_s[CAIRN_TIER_NVME + 1]; /* by tier */
};

struct crn_wish {
    uint32_t n_tokens, n_cached, n_layers; /* of the context; of it, on the path; of the model */
    float min_quality;
    uint32_t waiting;                 /* requests behind this one */
    uint64_t limit_ns;                /* until the first token; 0: none */
};

/* Nanoseconds to the first token: the state comes first, the rest of the loads hide behind the run (method.md 1.2.7), then what the
 * path does not cover and the question. 0: nothing is known. */
uint64_t crn_choose_estimate(const struct crn_speed *speed, const struct crn_wish *wish,
                             const struct crn_option *option);
/* The same for a prefill of the whole context; 0: not known. */
uint64_t crn_choose_prefill(const struct crn_speed *speed, const struct crn_wish *wish);
/* 1 when an own prefill is known to be shorter. */
int crn_choose_gate(uint64_t estimate_ns, uint64_t prefill_ns);

#define CRN_CHOOSE_NONE SIZE_MAX
struct crn_choice {
    size_t index;    /* of options, or CRN_CHOOSE_NONE */
    uint32_t reason; /* enum cairn_reason */
    uint64_t estimate_ns, prefill_ns;
};
/* options [n] in any order. QUALITY when none meets the floor. */
struct crn_choice crn_choose(const struct crn_speed *speed, const struct crn_wish *wish,
                             const struct crn_option *options, size_t n);

#endif
