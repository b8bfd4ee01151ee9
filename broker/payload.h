/* payload - one layer's KV, one state, the tokens or a state map: bytes in an arena with what is needed to read them.
 *
 * A payload is the unit of tiering; a body is all payloads of one generation of an entry. Both are counted: a body is held by
 * its entry, by leases and by copies under way; a payload by the bodies and plans it is part of (a new generation shares what it
 * did not change). Memory is given back when the last holder lets go, so what somebody reads is never handed out again.
 * Loop thread only. */
#ifndef CRN_BROKER_PAYLOAD_H
#define CRN_BROKER_PAYLOAD_H

#include "broker/extent.h"
#include "broker/store.h"
#include "ipc/cairn_types.h"
#include "ipc/layout.h"

#include <stdint.h>

struct crn_space;
struct crn_arena;
struct crn_tier_move;

struct crn_payload {
    struct crn_space *space;
    struct crn_arena *arena; /* NULL: not in memory */
    struct crn_extent extent;
    uint64_t off, bytes; /* in the arena */
    uint64_t checksum;
    uint32_t refs;       /* bodies and plans */
    uint32_t leases;     /* leases that read it */
    struct crn_place place;     /* on NVMe; bytes 0: none */
    struct crn_tier_move *move; /* on its way; NULL */
    struct crn_arena *host;     /* of its copy in the host tier below a device; NULL: none */
    struct crn_extent host_extent;
    struct crn_tier_move *sink; /* that copy on its way to NVMe; NULL */
    uint64_t used_ns;           /* last attach that asked for it */
    uint8_t state;              /* enum crn_tier_state (tier.h) */
    uint8_t recorded;           /* a catalogue record may name its place */
    uint8_t suspect;            /* what is at its place was written, but a sync failed since: no record may name it */
    uint16_t layer;
    uint16_t wide;
    uint8_t kind;        /* enum crn_payload_kind */
    uint8_t dtype;
    uint8_t tier;        /* enum cairn_tier */
    uint8_t shared_pos;
    uint32_t n_counts;   /* KV: one per head, or a single one when all heads keep as many; else 1 */
    uint32_t counts[];
};

/* What a payload is to be; counts [n_counts] is copied. */
struct crn_payload_spec {
    uint8_t kind, dtype, shared_pos;
    uint16_t layer, wide;
    uint64_t bytes;
    const uint32_t *counts;
    uint32_t n_counts;
};

/* A payload of one reference in an arena of the space, after eviction if need be; its bytes are undefined.
 * fails   CAIRN_E_FULL, CAIRN_E_TOO_BIG (no arena of this space can ever hold it), -ENOMEM */
int crn_payload_create(struct crn_space *space, const struct crn_payload_spec *spec,
                       struct crn_payload **out_payload);
struct crn_payload *crn_payload_hold(struct crn_payload *p);
void crn_payload_drop(struct crn_payload *p); /* NULL allowed */

/* Where its bytes are; it must be in memory. Tokens and state maps are for the CPU to read; other payloads only when arenas are
 * host memory (broker/device.h). */
void *crn_payload_at(const struct crn_payload *p);
/* Kept rows of a head. */
uint32_t crn_payload_rows(const struct crn_payload *p, uint32_t head);

struct crn_body {
    uint32_t refs;
    uint32_t leases;
    uint16_t n_layers, n_states;
    uint64_t bytes, allocated_bytes;
    struct crn_body *older; /* of an entry's replaced bodies: the next one */
    struct crn_payload *tokens;
    struct crn_payload *states[CAIRN_MAX_STATES]; /* in the order of arrival; layer in the payload */
    struct crn_payload *kv[];                     /* [n_layers]; NULL until it arrived */
};

/* An empty body of one reference; -ENOMEM. */
int crn_body_create(uint16_t n_layers, struct crn_body **out_body);
struct crn_body *crn_body_hold(struct crn_body *body);
void crn_body_drop(struct crn_body *body); /* NULL allowed */
/* The state entering a layer, NULL when it was not kept. */
struct crn_payload *crn_body_state(const struct crn_body *body, uint32_t layer);
/* Takes the reference over. CAIRN_E_STATE when the place is taken, CAIRN_E_TOO_BIG when there are too many states. */
int crn_body_put(struct crn_body *body, struct crn_payload *p);
/* Takes over from `from` (by reference) whatever this body lacks. */
void crn_body_inherit(struct crn_body *body, const struct crn_body *from);
/* Calls each(ctx, payload) for all payloads: tokens, states, KV in layer order. */
void crn_body_each(const struct crn_body *body, void (*each)(void *ctx, struct crn_payload *p),
                   void *ctx);

#endif
