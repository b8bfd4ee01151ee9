/* gather - write one payload in the layout of ipc/layout.h: kept rows, head by head, converted and quantised on the way. This copy
 * is the compression pass. Runs on a copy thread, touches only what it is given, and trusts it: put.c has checked every number. */
#ifndef CRN_BROKER_GATHER_H
#define CRN_BROKER_GATHER_H

#include "ipc/layout.h"

#include <stdint.h>

/* Where one head's rows come from: plain rows (a landing zone), or the parts of a payload. The wide rows come first. */
struct crn_gather_head {
    const void *k, *v;           /* [n][head_dim] of the source's dtype */
    const void *k_wide, *v_wide; /* int8 source: [n_wide][head_dim] f16 */
    const uint16_t *k_scale, *v_scale;
    uint32_t n, n_wide;
    const int32_t *pos;      /* [n_wide + n] */
    const uint32_t *index;   /* kept rows, ascending [dst.n[h]]; NULL: the first dst.n[h] rows */
};

struct crn_gather_kv {
    uint32_t src_dtype;
    struct crn_kv_spec dst;
    const struct crn_gather_head *heads; /* [dst.n_kv_heads] */
    uint8_t *out; /* the payload, 64-byte aligned */
    struct crn_hash64 *sum; /* takes in the whole payload, piece by piece while it is in cache; NULL: none */
};
/* fails -ENOMEM and kernels' codes */
int crn_gather_kv(const struct crn_gather_kv *g);

struct crn_gather_state {
    uint32_t src_dtype, dst_dtype;
    uint32_t hidden;
    uint32_t n;              /* kept rows */
    uint32_t n_rows;         /* of the source */
    const void *rows;
    const uint16_t *scale;   /* int8 source */
    const int32_t *pos;
    const uint32_t *index;   /* NULL: the first n rows */
    uint8_t *out;
};
/* A state that f16 cannot hold (|x| > 65504) is written as bf16: out_dtype says what it became. Sizes are equal. */
int crn_gather_state(const struct crn_gather_state *g, uint32_t *out_dtype);

/* The heads of a KV payload that lies at base, as sources; rows are all kept. */
int crn_gather_from_payload(const struct crn_kv_spec *spec, const uint8_t *base,
                            struct crn_gather_head *out_heads);

#endif
