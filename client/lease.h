/* lease - what attach.c makes and wait.c, reuse.c and publish.c use: a path of parts and where their payloads lie. */
#ifndef CRN_CLIENT_LEASE_H
#define CRN_CLIENT_LEASE_H

#include "client/client.h"
#include "ipc/layout.h"

#include <stdint.h>

#define CRN_NO_ITEM 0xffffu
#define CRN_NO_WORD 0xffffu

/* One payload. Everything but the positions is checked against the mapping when it is made; positions when they are first used,
 * because they may not be there yet. */
struct crn_item {
    const uint8_t *base;
    uint16_t layer, word;  /* word: progress word, CRN_NO_WORD: ready */
    uint8_t part, kind;    /* kind: enum crn_payload_kind */
    uint8_t dtype, shared_pos;
    uint8_t away;          /* in memory that the CPU does not read */
    uint8_t seen;          /* positions checked, rows beyond the part cut */
    uint32_t n_rows;       /* states and tokens */
    uint32_t arena;        /* its id */
    int32_t *fetched;      /* away: positions as the CPU reads them, heads one after the other; owned */
    struct crn_state_parts state;
    struct cairn_head_view *heads, *wide; /* [G]; wide NULL unless int8 with rows kept wide */
};

struct cairn_lease {
    struct cairn_client *client;
    struct crn_conn *session;
    struct cairn_lease *previous, *next;
    const struct crn_control_slot *slot;
    uint32_t epoch;
    uint64_t id;
    size_t memory_bytes; /* of the whole block: the lease, then its arrays */
    struct cairn_shape shape;
    struct cairn_lease_info info;
    struct cairn_plan plan;
    struct cairn_map_view map; /* w NULL: none */
    uint16_t wants[CAIRN_MAX_STATES];
    struct cairn_part parts[CAIRN_MAX_PATH];
    struct cairn_layer_view views[CAIRN_MAX_PATH]; /* for the driver of reuse.c */
    uint32_t n_items;
    struct crn_item *items; /* [n_items] */
    uint16_t *kv_index;     /* [parts][n_layers] -> item or CRN_NO_ITEM */
    struct cairn_head_view *head_views;
};

/* The item, NULL when the lease has none. kind: enum crn_payload_kind. */
struct crn_item *crn_grant_item(const struct cairn_lease *lease, uint32_t part, uint32_t layer,
                                uint32_t kind);
/* 1 when the receiver recomputes this layer of this part. */
int crn_grant_in_run(const struct cairn_lease *lease, uint32_t part, uint32_t layer);
/* Waits for one item. */
int crn_item_wait(struct cairn_lease *lease, const struct crn_item *item, uint64_t deadline_ns);

/* How far tokens agree: rows of the part that may be used. A prefill pyramid is usable only as a whole. */
uint32_t crn_path_usable(uint32_t pyramid, const int32_t *entry, uint32_t n_entry,
                         const int32_t *query, uint32_t n_query);
/* Rows of an ascending position list below end; CAIRN_E_CORRUPT unless all positions ascend inside [start, end_entry). */
int crn_positions_cut(const int32_t *pos, uint32_t n, uint32_t start, uint32_t end_entry,
                      uint32_t end, uint32_t *out_n);

/* Makes a lease from an answer: checks every record against the session's mappings.
 * fails   CAIRN_E_PROTO, CAIRN_E_CORRUPT, CAIRN_E_MISS (nothing usable), codes of mapping */
struct crn_offer {
    const struct crn_msg_attached *msg;
    const struct crn_path_rec *path;
    size_t n_path;
    const struct crn_payload_rec *payloads;
    size_t n_payloads;
    const uint32_t *counts;
    size_t n_counts;
    const struct crn_plan_rec *plan; /* NULL: none */
    const uint16_t *wants;           /* [n_wants], at most CAIRN_MAX_STATES */
    size_t n_wants;
};
int crn_grant_make(struct cairn_client *client, const struct crn_offer *offer, uint64_t deadline_ns,
                   struct cairn_lease **out_lease);
/* Positions of a prefill pyramid's layer, also inside a run; CAIRN_E_UNSUPPORTED when heads keep different ones. */
int crn_grant_positions(struct cairn_lease *lease, uint32_t part, uint32_t layer,
                        const int32_t **out_pos, uint32_t *out_n);
/* Compares tokens and cuts the path; CAIRN_E_MISS when nothing is left. */
int crn_grant_cut(struct cairn_lease *lease, const struct cairn_query *query, uint64_t deadline_ns);

#endif
