/* control - the control page: one small segment per session, written by the broker, read-only for the worker.
 *
 * It answers two questions without a message: is my lease still good (epoch), and is this payload back yet (progress words).
 *
 *     0     header  (struct crn_control_header)
 *     4096  slot 0  (struct crn_control_slot, 4096 bytes: one lease)
 *     8192  slot 1  ...
 *
 * A lease names its slot and the epoch it got. The broker adds one to the slot's epoch when the lease ends for any reason, so a
 * reader re-checks after its last read. Progress words go PENDING -> READY or FAILED, once per lease; the broker wakes their futex.
 * The bytes are input to the worker: header and indices are checked before use. */
#ifndef CRN_IPC_CONTROL_H
#define CRN_IPC_CONTROL_H

#include "ipc/mem.h"

#include <stdatomic.h>
#include <stdint.h>

#define CRN_CONTROL_MAGIC 0x314c5254434e5243ull /* "CRNCTRL1" */
#define CRN_CONTROL_VERSION 1u
#define CRN_CONTROL_SLOTS 256u
#define CRN_CONTROL_WORDS 1008u
#define CRN_CONTROL_SLOT_BYTES 4096u

enum crn_progress { CRN_PROGRESS_PENDING = 0, CRN_PROGRESS_READY = 1, CRN_PROGRESS_FAILED = 2 };

struct crn_control_header {
    uint64_t magic;
    uint32_t version;
    uint32_t layout;     /* crn_control_layout(): sizes and offsets folded into one number */
    uint64_t bytes;      /* of the whole segment */
    uint32_t n_slots;
    uint32_t slot_bytes;
    _Atomic uint32_t alive; /* 1 while the broker runs; 0 after a clean shutdown */
    uint32_t reserved[7];
};

struct crn_control_slot {
    _Atomic uint32_t epoch;
    uint32_t n_words;
    uint32_t reserved[14];
    _Atomic uint32_t word[CRN_CONTROL_WORDS]; /* enum crn_progress */
};
_Static_assert(sizeof(struct crn_control_header) == 64, "layout of the control page");
_Static_assert(sizeof(struct crn_control_slot) == CRN_CONTROL_SLOT_BYTES, "layout of the control page");

/* Broker: creates and initialises a page (host memory, role arena). */
int crn_control_create(struct crn_mem *out_mem);
/* Worker: checks magic, version, layout, sizes. CAIRN_E_VERSION or CAIRN_E_CORRUPT. */
int crn_control_check(const struct crn_mem *mem);
/* NULL when slot is out of range. */
struct crn_control_slot *crn_control_slot_at(const struct crn_mem *mem, uint32_t slot);

/* Broker: starts a lease on a free slot: its first n_words words become PENDING. Returns the lease's epoch. */
uint32_t crn_control_begin_lease(struct crn_control_slot *slot, uint32_t n_words);
/* Broker: publishes a word's value and wakes all waiters. */
void crn_control_set(struct crn_control_slot *slot, uint32_t word, enum crn_progress value);
/* Broker: ends the lease of the slot: epoch + 1, all waiters woken. */
void crn_control_end_lease(struct crn_control_slot *slot);
/* Worker: waits on a futex until the word is READY (0) or FAILED (CAIRN_E_MISS), the epoch moved on (CAIRN_E_STALE), or
 * deadline_ns (CLOCK_MONOTONIC) passed (CAIRN_E_TIMEOUT). Wakes at least once a second to look at the epoch and, through
 * peer_alive (may be NULL, returns 0 when the broker is gone), at the broker: then CAIRN_E_GONE. */
int crn_control_wait(const struct crn_control_slot *slot, uint32_t word, uint32_t epoch, uint64_t deadline_ns,
                     int (*peer_alive)(void *ctx), void *ctx);

uint32_t crn_control_layout(void);

#endif
