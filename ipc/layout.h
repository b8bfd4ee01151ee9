/* layout - where the parts of a payload lie. Broker and reader compute it from the same few numbers, so no offsets travel.
 *
 * KV payload, in this order, every part aligned to 64 bytes:
 *     positions, int32: one list [n_0] when all heads share it (all n_h equal), else one list [n_h] per head
 *     per KV head h:  K_h [n_h][dh]   V_h [n_h][dh]                             f32, f16, bf16
 *     per KV head h:  K_h wide [w_h][dh] f16, V_h wide [w_h][dh] f16,
 *                     K_h [n_h-w_h][dh] int8, V_h [n_h-w_h][dh] int8,
 *                     K scales f16 [ceil((n_h-w_h)/64)][dh], V scales f16 [n_h-w_h]     int8; w_h = min(wide, n_h)
 * State payload: positions int32 [n], rows [n][hidden]; int8: rows, then scales f16 [n][hidden/64].
 * int8: K per channel over 64-token blocks, V per token and head, states per group of 64 channels (method.md 5.5; tech.md 6.5).
 * The first `wide` rows of a head stay f16: attention sinks have outliers that one scale would spread over a block.
 * Token payload: int32 [n]. Blob payload: bytes. */
#ifndef CRN_IPC_LAYOUT_H
#define CRN_IPC_LAYOUT_H

#include "ipc/cairn_status.h"
#include "ipc/cairn_types.h"

#include <stdint.h>

enum crn_payload_kind {
    CRN_PAYLOAD_KV = 1,     /* K, V, positions of one layer */
    CRN_PAYLOAD_STATE = 2,  /* residual stream entering one layer */
    CRN_PAYLOAD_TOKENS = 3, /* the entry's tokens */
    CRN_PAYLOAD_BLOB = 4,   /* a plan's state map */
};

struct crn_kv_spec {
    uint32_t dtype;      /* enum cairn_dtype */
    uint32_t n_kv_heads; /* 1..CAIRN_MAX_KV_HEADS */
    uint32_t head_dim;   /* 1..CAIRN_MAX_HEAD_DIM */
    uint32_t wide;       /* rows kept as f16 in front of int8 rows; 0 for other types */
    uint32_t shared_pos; /* 1: one position list for all heads */
    const uint32_t *n;   /* [n_kv_heads] kept tokens */
};

/* Byte offsets of one head's parts inside the payload; parts that do not exist are 0. */
struct crn_head_parts {
    uint64_t pos, k, v, k_wide, v_wide, k_scale, v_scale;
    uint32_t n;      /* rows in k and v (int8: without the wide ones) */
    uint32_t n_wide; /* rows in k_wide and v_wide; their positions come first in pos */
};

/* out_heads [n_kv_heads], out_bytes: size of the payload, a multiple of 64.
 * fails   CAIRN_E_ARG for impossible numbers, CAIRN_E_TOO_BIG beyond a limit or 2^46 bytes */
int crn_layout_kv(const struct crn_kv_spec *spec, struct crn_head_parts *out_heads, uint64_t *out_bytes);

struct crn_state_parts {
    uint64_t pos, rows, scale;
};
/* dtype f32, f16, bf16 or int8 (hidden a multiple of 64). Same failures. */
int crn_layout_state(uint32_t dtype, uint32_t n, uint32_t hidden, struct crn_state_parts *out_parts, uint64_t *out_bytes);

#endif
