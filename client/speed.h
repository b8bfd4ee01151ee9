/* speed - what a worker has learned about itself: how long prefill, run and suffix took, by length of context. */
#ifndef CRN_CLIENT_SPEED_H
#define CRN_CLIENT_SPEED_H

#include "client/choose.h"

#include <stdint.h>

#define CRN_SPEED_LAST 8u     /* observations that count */
#define CRN_SPEED_LENGTHS 21u /* 1, 2, 4, ... CAIRN_MAX_TOKENS tokens */
#define CRN_SPEED_KINDS 3u    /* CAIRN_TIMED_* */

/* A running mean without its largest and smallest value, so that one outlier changes nothing; of two values the smaller: what
 * goes wrong makes things slower. */
struct crn_average {
    double last[CRN_SPEED_LAST];
    uint32_t n; /* ever seen */
};
void crn_average_add(struct crn_average *a, double value);
double crn_average_of(const struct crn_average *a); /* 0: nothing was seen */

struct crn_learned {
    struct crn_average by[CRN_SPEED_KINDS][CRN_SPEED_LENGTHS];
    double bytes_per_s[CAIRN_TIER_NVME + 1]; /* as the broker measured them */
};

/* work: tokens x layers; 1 for a suffix. CAIRN_E_ARG for what cannot be a timing. */
int crn_learned_add(struct crn_learned *l, uint32_t kind, uint32_t n_tokens, uint64_t work,
                    uint64_t ns);
/* Speed at this length, else at the nearest one that was seen. */
struct crn_speed crn_learned_speed(const struct crn_learned *l, uint32_t n_tokens);

#endif
