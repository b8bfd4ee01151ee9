/* wire - MessagePack bodies of the control plane. msgs.def lists the messages; this header turns the list into one struct and
 * one field table per message, and declares one encoder and one decoder that walk the table.
 *
 * Bytes from a peer are hostile: they are scanned with bounds (total, depth, counts, lengths) before anything is allocated, must
 * end exactly, and must not repeat a key. Unknown keys are skipped, missing required keys refused. Decoding allocates nothing
 * that outlives the call: byte and text fields point into the message. */
#ifndef CRN_IPC_WIRE_H
#define CRN_IPC_WIRE_H

#include "ipc/cairn_status.h"
#include "ipc/cairn_types.h"

#include <stddef.h>
#include <stdint.h>

#define CRN_PROTO_MIN 2u
#define CRN_PROTO_MAX 2u

/* A view: never owned. Text is not terminated. */
struct crn_bytes {
    const void *p;
    uint32_t n;
};

#define MESSAGE(name, number, fields)                                                              \
    struct crn_msg_##name {                                                                        \
        fields uint64_t request;                                                                   \
    };
#define U(key, name, need, max) uint64_t name;
#define B(key, name, need, max) struct crn_bytes name;
#define S(key, name, need, max) struct crn_bytes name;
#define D(key, name, need) struct cairn_digest name;
#include "ipc/msgs.def"
#undef MESSAGE
#undef U
#undef B
#undef S
#undef D

enum crn_msg_type {
#define MESSAGE(name, number, fields) CRN_MSG_##name = (number),
#include "ipc/msgs.def"
#undef MESSAGE
};

enum { CRN_MATCH_PIN_NONE = 0, CRN_MATCH_EXACT_ONLY = 1 }; /* match.flags, attach.flags */
enum { CRN_ATTACH_INSPECT = 2 };                           /* attach.flags: all payloads, whatever the class */
enum { CRN_ATTACH_AGAIN = 4 };                             /* attach.flags: counted before; another plan of the same path */
enum { CRN_DRAFT_EXCLUSIVE = 1,                            /* draft.flags: EXISTS when the context is cached by this model */
       CRN_DRAFT_SPILL_INT8 = 2 };                         /* int8 on the way down to NVMe */
enum { CRN_SPILL_INT8 = 1 };                               /* spill.flags */
enum { CRN_COMMIT_PIN = 1 };                               /* commit.flags */
enum { CRN_LIST_ENTRIES = 1, CRN_LIST_SESSIONS = 2, CRN_LIST_MODELS = 3, CRN_LIST_ARENAS = 4 }; /* list.what */
enum { CRN_CAP_RESTORE = 1, CRN_CAP_NVME = 2, CRN_CAP_CUDA = 4 };

/* ---- records inside byte fields; fixed layout, little-endian ---- */

struct crn_path_rec { /* one entry of a path */
    uint64_t entry;
    uint32_t start, n_tokens; /* positions start .. start + n_tokens - 1 */
    uint32_t usable;          /* of n_tokens, counted from the front: as far as the hashes agree */
    uint8_t class_, reason, pyramid, reserved;
    struct cairn_digest producer;
    uint64_t resident_bytes, bytes;
};
_Static_assert(sizeof(struct crn_path_rec) == 56, "wire record");

struct crn_payload_rec { /* where one payload lies */
    uint64_t off, bytes;
    uint32_t arena;
    uint32_t counts;     /* index into the counts array: n per head (one number when one_count) */
    uint16_t layer;
    uint8_t path_index;  /* which entry of the path */
    uint8_t kind;        /* enum crn_payload_kind */
    uint8_t dtype, tier; /* tier NVME/HOST: wait for progress word `word` */
    uint8_t shared_pos, one_count;
    uint16_t wide;
    uint16_t word;       /* progress word in the lease's slot, 0xffff: ready now */
    uint32_t reserved;
};
_Static_assert(sizeof(struct crn_payload_rec) == 40, "wire record");

struct crn_budget_rec { /* kept share of a group of layers */
    uint16_t first, last; /* layers, both included */
    uint32_t keep_ppm;    /* share of tokens kept, in millionths */
};
_Static_assert(sizeof(struct crn_budget_rec) == 8, "wire record");

#define CRN_PLAN_MEASURED 16u

struct crn_measured_rec { /* how good a plan is with an entry that keeps less than everything */
    uint32_t keep_ppm;    /* share of all tokens that an entry was asked to keep */
    uint32_t kept_ppm;    /* what came of it in the layers that the plan does not recompute */
    uint32_t quality_ppm; /* over the receiver's own */
    uint32_t int8;        /* 1: of int8 payloads */
};
_Static_assert(sizeof(struct crn_measured_rec) == 16, "wire record");

struct crn_plan_rec {
    uint64_t id;
    struct cairn_digest producer, receiver;
    uint16_t first, last;      /* the run [a, b]; first > last: an empty run (full reuse) */
    uint16_t n_budgets;
    uint8_t map_dtype;         /* CAIRN_F32: [hidden][hidden + 1], row i = weights of output i, then its bias; 0: no map */
    uint8_t reserved;
    uint32_t quality_ppm;      /* measured exact match over the receiver's own, with an entry that keeps everything */
    uint32_t own_exact_ppm, exact_ppm;
    uint32_t questions;
    uint32_t cost_ppm;         /* sum of recomputed tokens over (layers x tokens) */
    uint32_t map_arena;
    uint32_t map_rank;         /* 0: full matrix. r: U [hidden][r], V [r][hidden], bias [hidden] */
    uint32_t n_measured;
    uint64_t map_off, map_bytes, map_checksum;
    struct crn_measured_rec measured[CRN_PLAN_MEASURED];
};
_Static_assert(sizeof(struct crn_plan_rec) == 360, "wire record");

struct crn_option_rec { /* a plan on a path; plan 0: an exact path */
    uint64_t plan;
    uint64_t run_tokens;            /* rows to recompute, summed over the run's layers */
    uint64_t state_bytes, kv_bytes; /* not in memory now */
    uint32_t quality_ppm;
    uint32_t tier;                  /* where they are: enum cairn_tier */
};
_Static_assert(sizeof(struct crn_option_rec) == 40, "wire record");

struct crn_entry_rec { /* `ls` and `show` */
    uint64_t entry, parent;
    uint64_t bytes, resident_bytes, allocated_bytes;
    uint64_t age_ns, idle_ns;
    uint64_t hits;
    struct cairn_digest producer;
    uint32_t start, n_tokens;
    uint32_t leases, generation;
    uint16_t n_layers, n_states, n_kv_heads, head_dim;
    uint32_t hidden;
    uint8_t pyramid, pinned, dtype, tier; /* tier: the coldest of its payloads; dtype of layer 0 */
    char label[64];                       /* of the producer, zero-terminated */
};
_Static_assert(sizeof(struct crn_entry_rec) == 176, "wire record");

struct crn_session_rec {
    uint64_t session, connected_ns, leased_bytes, saved_bytes;
    uint64_t requests, hits, published;
    struct cairn_digest model;
    uint32_t pid, uid, leases, drafts;
    char label[64];
};
_Static_assert(sizeof(struct crn_session_rec) == 152, "wire record");

struct crn_model_rec {
    struct cairn_digest model, family;
    char label[64];
};
_Static_assert(sizeof(struct crn_model_rec) == 96, "wire record");

struct crn_arena_rec {
    uint32_t arena, reserved;
    uint64_t bytes, used_bytes, largest_free_bytes, free_runs;
};
_Static_assert(sizeof(struct crn_arena_rec) == 40, "wire record");

/* ---- codec ---- */

/* One message in a caller's buffer. type picks the struct: msg is a `struct crn_msg_<name>`.
 * fails   CAIRN_E_TOO_BIG when it does not fit or a field is beyond its maximum, CAIRN_E_ARG for an unknown type */
int crn_wire_encode(enum crn_msg_type type, const void *msg, void *buf, size_t buf_bytes, size_t *out_n);

/* Type and request id of a message, checked like a whole decode's envelope. CAIRN_E_VERSION when the protocol version differs
 * (out_request is set then too, so that the refusal can be addressed). */
int crn_wire_peek(const void *buf, size_t n, enum crn_msg_type *out_type, uint64_t *out_request);

/* Decodes a message of the given type into out_msg (zeroed first). Views point into buf.
 * fails   CAIRN_E_PROTO, CAIRN_E_VERSION */
int crn_wire_decode(enum crn_msg_type type, const void *buf, size_t n, void *out_msg);

/* "hello", "attach", ...; "?" when unknown. */
const char *crn_wire_name(enum crn_msg_type type);

/* Records of a byte field: CAIRN_E_PROTO unless v.n is a multiple of record_bytes and at most max records.
 * Copies them to out_records (alignment of views is not guaranteed). */
int crn_wire_records(struct crn_bytes v, size_t record_bytes, size_t max, void *out_records, size_t *out_n);

/* Copies a text view into a terminated buffer; unprintable bytes become '?', too long is cut. */
void crn_wire_text(struct crn_bytes v, char *out_text, size_t out_bytes);

#endif
