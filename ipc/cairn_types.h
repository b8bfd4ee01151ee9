/* cairn_types - the vocabulary that broker, library and engines share: ids, data types, shapes, limits.
 * Everything here has a fixed width and no padding that a compiler may choose; sizes are asserted. */
#ifndef CAIRN_TYPES_H
#define CAIRN_TYPES_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#define CAIRN_STATIC_ASSERT static_assert
#else
#define CAIRN_STATIC_ASSERT _Static_assert
#endif

/* Limits. A value beyond one of them is refused with CAIRN_E_TOO_BIG. */
#define CAIRN_MAX_LAYERS 256u         /* layers of a model */
#define CAIRN_MAX_KV_HEADS 64u        /* KV heads of a layer */
#define CAIRN_MAX_HEAD_DIM 512u       /* channels of a head */
#define CAIRN_MAX_HIDDEN 65536u       /* channels of the residual stream */
#define CAIRN_MAX_TOKENS (1u << 20)   /* tokens of a context */
#define CAIRN_MAX_PATH 16u            /* entries on one path (root to leaf) */
#define CAIRN_MAX_STATES 16u          /* states (E) kept per entry */
#define CAIRN_MAX_SETTINGS 256u       /* bytes of a pyramid's settings */
#define CAIRN_MAX_LABEL 63u           /* bytes of a display name, without the terminating zero */
#define CAIRN_CHUNK_TOKENS 64u        /* tokens per chunk of the index */
#define CAIRN_ALIGN 64u               /* alignment of every part of a payload, bytes */

/* How numbers of a payload are stored. */
enum cairn_dtype {
    CAIRN_DTYPE_NONE = 0,
    CAIRN_F32 = 1,
    CAIRN_F16 = 2,
    CAIRN_BF16 = 3,
    CAIRN_I8 = 4, /* int8 with f16 scales, see ipc/layout.h */
};

/* Where a payload is now. */
enum cairn_tier {
    CAIRN_TIER_NONE = 0,
    CAIRN_TIER_DEVICE = 1,
    CAIRN_TIER_HOST = 2,
    CAIRN_TIER_NVME = 3,
};

/* What a receiver may do with an entry. */
enum cairn_class {
    CAIRN_CLASS_NONE = 1,   /* full prefill */
    CAIRN_CLASS_APPROX = 2, /* a plan for the pair meets the quality floor */
    CAIRN_CLASS_EXACT = 3,  /* same producer model */
};

/* Why a match has its class, or why there is none. */
enum cairn_reason {
    CAIRN_REASON_NONE = 0,
    CAIRN_REASON_SAME_MODEL = 1, /* exact */
    CAIRN_REASON_PLAN = 2,       /* approx, by the best stored plan */
    CAIRN_REASON_NO_ENTRY = 3,   /* nothing is cached for these tokens */
    CAIRN_REASON_NO_PLAN = 4,    /* cached by a sibling, but no plan for the pair */
    CAIRN_REASON_QUALITY = 5,    /* every plan is below the quality floor */
    CAIRN_REASON_NO_STATE = 6,   /* the state where the plan's run starts was not kept */
    CAIRN_REASON_WHOLE_ONLY = 7, /* a prefill pyramid of another length */
    CAIRN_REASON_OTHER_FAMILY = 8,
    CAIRN_REASON_SETTINGS = 9,   /* a prefill pyramid of other settings than the receiver takes */
    CAIRN_REASON_QUEUE = 10,     /* approx: requests wait, least work that meets the floor */
    CAIRN_REASON_DEADLINE = 11,  /* approx: the best plan that is in time */
    CAIRN_REASON_LATE = 12,      /* approx: no plan is in time, the quickest */
    CAIRN_REASON_BREAK_EVEN = 13, /* none: an own prefill is quicker */
};

/* How an entry's token sets were made. */
enum cairn_pyramid {
    CAIRN_PYRAMID_NONE = 0,    /* whole */
    CAIRN_PYRAMID_PREFILL = 1, /* dropped while prefilling: usable only as a whole entry */
    CAIRN_PYRAMID_PUBLISH = 2, /* selected afterwards: usable up to any token */
};

/* 128-bit digest: of a model's weights, of a family's fingerprint. All zero = not set. */
struct cairn_digest {
    uint8_t b[16];
};
CAIRN_STATIC_ASSERT(sizeof(struct cairn_digest) == 16, "digest is 16 bytes");

/* An entry: index and generation in one number, never reused; 0 = none. A replaced entry answers CAIRN_E_STALE. */
struct cairn_entry_id {
    uint64_t v;
};

/* A lease: a random 63-bit number; 0 = none. */
struct cairn_lease_id {
    uint64_t v;
};

/* Everything that shapes the KV cache of a family. */
struct cairn_shape {
    uint32_t n_layers;
    uint32_t n_kv_heads;
    uint32_t head_dim;
    uint32_t hidden;
};

/* cairn_dtype_bytes - bytes of one number, 0 for an unknown type. int8: without its scales. */
static inline uint32_t cairn_dtype_bytes(uint32_t dtype)
{
    return dtype == CAIRN_F32 ? 4u : dtype == CAIRN_F16 || dtype == CAIRN_BF16 ? 2u : dtype == CAIRN_I8 ? 1u : 0u;
}

#ifdef __cplusplus
}
#endif
#endif
