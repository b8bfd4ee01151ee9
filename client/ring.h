/* ring - which parts of a landing zone are in use. Spans are handed out in ring order and given back in any order; room is free
 * again when everything older is. The first 64 bytes are never handed out: offset 0 means "absent" in messages.
 * Knows no memory and no messages. */
#ifndef CRN_CLIENT_RING_H
#define CRN_CLIENT_RING_H

#include <stdint.h>

#define CRN_RING_SPANS 64u

enum crn_ring_state {
    CRN_RING_HELD = 1, /* handed out, not sent yet */
    CRN_RING_SENT = 2, /* the broker reads it */
    CRN_RING_FREE = 3, /* done, but something older is not */
};

struct crn_ring_span {
    uint64_t off, bytes;
    uint64_t request; /* SENT: of the PUT that took it */
    uint32_t state;   /* enum crn_ring_state */
};

struct crn_ring {
    uint64_t bytes;
    uint32_t first, n; /* oldest span, spans in use */
    struct crn_ring_span spans[CRN_RING_SPANS];
};

void crn_ring_init(struct crn_ring *ring, uint64_t bytes);
/* fails   CAIRN_E_FULL (larger than the zone), CAIRN_E_BUSY (give something back first) */
int crn_ring_take(struct crn_ring *ring, uint64_t bytes, uint64_t *out_off);
/* HELD -> SENT. The span that starts at off. */
void crn_ring_send(struct crn_ring *ring, uint64_t off, uint64_t request);
/* Gives back a span that starts at off and was not sent. */
void crn_ring_cancel(struct crn_ring *ring, uint64_t off);
/* Gives back what this request took; returns the number of spans. */
uint32_t crn_ring_done(struct crn_ring *ring, uint64_t request);
/* The HELD span that contains off .. off + bytes - 1, NULL when there is none. */
const struct crn_ring_span *crn_ring_find(const struct crn_ring *ring, uint64_t off, uint64_t bytes);

#endif
