/* Spans of a landing zone, oldest first, in a fixed array that is itself a ring. A span is
 *
 *     HELD -> SENT -> (FREE) -> gone          answered by the broker
 *     HELD ---------> (FREE) -> gone          given up
 *
 * FREE spans go when they are the oldest. Bytes between the newest span's end and the oldest span's start are free; a span never
 * wraps, so a tail that is too short is left unused until the oldest span has passed it. */
#include "client/ring.h"

#include "ipc/cairn_status.h"
#include "ipc/cairn_types.h"

#include <stddef.h>

#define BASE ((uint64_t)CAIRN_ALIGN)

static struct crn_ring_span *span_at(struct crn_ring *ring, uint32_t i)
{
    return &ring->spans[(ring->first + i) % CRN_RING_SPANS];
}

void crn_ring_init(struct crn_ring *ring, uint64_t bytes)
{
    ring->bytes = bytes / CAIRN_ALIGN * CAIRN_ALIGN;
    ring->first = 0;
    ring->n = 0;
}

static void drop_oldest_free(struct crn_ring *ring)
{
    while (ring->n > 0 && span_at(ring, 0)->state == CRN_RING_FREE) {
        ring->first = (ring->first + 1) % CRN_RING_SPANS;
        ring->n--;
    }
}

/* Where a span of that size fits now; 0 when nowhere. */
static uint64_t find_room(struct crn_ring *ring, uint64_t bytes)
{
    if (ring->n == 0)
        return BASE;
    uint64_t head = span_at(ring, 0)->off;
    const struct crn_ring_span *newest = span_at(ring, ring->n - 1);
    uint64_t tail = newest->off + newest->bytes;
    if (newest->off < head)
        return bytes <= head - tail ? tail : 0;
    if (bytes <= ring->bytes - tail)
        return tail;
    return bytes <= head - BASE ? BASE : 0;
}

int crn_ring_take(struct crn_ring *ring, uint64_t bytes, uint64_t *out_off)
{
    if (bytes > ring->bytes || ring->bytes <= BASE)
        return CAIRN_E_FULL;
    bytes = bytes == 0 ? CAIRN_ALIGN : (bytes + CAIRN_ALIGN - 1) / CAIRN_ALIGN * CAIRN_ALIGN;
    if (bytes > ring->bytes - BASE)
        return CAIRN_E_FULL;
    uint64_t off = ring->n < CRN_RING_SPANS ? find_room(ring, bytes) : 0;
    if (off == 0)
        return CAIRN_E_BUSY;
    ring->n++;
    *span_at(ring, ring->n - 1) =
        (struct crn_ring_span){.off = off, .bytes = bytes, .state = CRN_RING_HELD};
    *out_off = off;
    return 0;
}

static struct crn_ring_span *held_at(struct crn_ring *ring, uint64_t off)
{
    for (uint32_t i = 0; i < ring->n; i++) {
        struct crn_ring_span *s = span_at(ring, i);
        if (s->off == off && s->state == CRN_RING_HELD)
            return s;
    }
    return NULL;
}

void crn_ring_send(struct crn_ring *ring, uint64_t off, uint64_t request)
{
    struct crn_ring_span *s = held_at(ring, off);
    if (s == NULL)
        return;
    s->state = CRN_RING_SENT;
    s->request = request;
}

void crn_ring_cancel(struct crn_ring *ring, uint64_t off)
{
    struct crn_ring_span *s = held_at(ring, off);
    if (s != NULL)
        s->state = CRN_RING_FREE;
    drop_oldest_free(ring);
}

uint32_t crn_ring_done(struct crn_ring *ring, uint64_t request)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < ring->n; i++) {
        struct crn_ring_span *s = span_at(ring, i);
        if (s->state != CRN_RING_SENT || s->request != request)
            continue;
        s->state = CRN_RING_FREE;
        n++;
    }
    drop_oldest_free(ring);
    return n;
}

const struct crn_ring_span *crn_ring_find(const struct crn_ring *ring, uint64_t off, uint64_t bytes)
{
    for (uint32_t i = 0; i < ring->n; i++) {
        const struct crn_ring_span *s = &ring->spans[(ring->first + i) % CRN_RING_SPANS];
        if (s->state == CRN_RING_HELD && off >= s->off && bytes <= s->bytes &&
            off - s->off <= s->bytes - bytes)
            return s;
    }
    return NULL;
}
