/* listing - payloads as records of the wire: what ATTACH and SHOW answer. */
#ifndef CRN_BROKER_LISTING_H
#define CRN_BROKER_LISTING_H

#include "broker/match.h"
#include "ipc/wire.h"

#include <stdbool.h>
#include <stdint.h>

#define CRN_LISTING_PAYLOADS (49152u / 40u)
#define CRN_LISTING_COUNTS (49152u / 4u)

struct crn_listing {
    uint32_t n, n_counts;
    struct crn_payload *payloads[CRN_LISTING_PAYLOADS];
    struct crn_payload_rec recs[CRN_LISTING_PAYLOADS];
    uint32_t counts[CRN_LISTING_COUNTS];
};

/* What a reader of this path needs, in the order it needs it. all: every payload, whatever the class.
 * fails   CAIRN_E_TOO_BIG when it does not fit into one message together with `other_bytes` more */
int crn_listing_path(struct crn_listing *l, const struct crn_path *path, bool all,
                     size_t other_bytes);
/* All payloads of one body; same failure. */
int crn_listing_body(struct crn_listing *l, const struct crn_body *body);

#endif
