/* The control page: one writer (the broker, one thread per slot at a time), any number of readers
 * that the kernel keeps from writing. A slot lives through lease after lease:
 *
 *     begin_lease   words PENDING            epoch e (the lease's)
 *     set           word PENDING -> READY or FAILED, waiters woken
 *     end_lease     epoch e + 1, waiters woken
 *
 * A reader looks at its word first and at the epoch second: a word of a later lease was written
 * after the epoch moved, so the reader then sees the epoch moved too. Waiting is FUTEX_WAIT on the
 * word, which needs no write access. The page holds no locks and knows nothing of payloads. */
#include "ipc/control.h"

#include "ipc/chan.h"
#include "ipc/log.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SLOTS_OFF 4096u
#define PAGE_BYTES (SLOTS_OFF + (uint64_t)CRN_CONTROL_SLOTS * CRN_CONTROL_SLOT_BYTES)
#define LOOK_NS 1000000000ull /* how long a waiter trusts a silent broker */

_Static_assert(sizeof(_Atomic uint32_t) == 4, "a futex is 32 bits");
_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "shared words must not need a lock");

uint32_t crn_control_layout(void)
{
    static const uint32_t parts[] = {
        SLOTS_OFF,
        CRN_CONTROL_SLOTS,
        CRN_CONTROL_WORDS,
        CRN_CONTROL_SLOT_BYTES,
        offsetof(struct crn_control_header, alive),
        offsetof(struct crn_control_slot, n_words),
        offsetof(struct crn_control_slot, word),
    };
    uint32_t folded = 2166136261u; /* FNV-1a over whole numbers */
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        folded = (folded ^ parts[i]) * 16777619u;
    return folded;
}

int crn_control_create(struct crn_mem *out_mem)
{
    struct crn_mem mem;
    int status = crn_mem_host.create(PAGE_BYTES, -1, CRN_MEM_ARENA, &mem);
    if (status != 0)
        return status;
    struct crn_control_header *h = mem.base;
    h->magic = CRN_CONTROL_MAGIC;
    h->version = CRN_CONTROL_VERSION;
    h->layout = crn_control_layout();
    h->bytes = mem.bytes;
    h->n_slots = CRN_CONTROL_SLOTS;
    h->slot_bytes = CRN_CONTROL_SLOT_BYTES;
    /* Release: who reads alive sees the header. */
    atomic_store_explicit(&h->alive, 1, memory_order_release);
    *out_mem = mem;
    return 0;
}

int crn_control_check(const struct crn_mem *mem)
{
    const struct crn_control_header *h = mem->base;
    int status = CAIRN_E_CORRUPT;
    if (h == NULL || mem->bytes < PAGE_BYTES || h->magic != CRN_CONTROL_MAGIC)
        goto out;
    status = CAIRN_E_VERSION;
    if (h->version != CRN_CONTROL_VERSION)
        goto out;
    status = CAIRN_E_CORRUPT;
    if (h->layout == crn_control_layout() && h->bytes == mem->bytes &&
        h->n_slots == CRN_CONTROL_SLOTS && h->slot_bytes == CRN_CONTROL_SLOT_BYTES)
        return 0;
out:
    crn_log(CRN_LOG_WARN, "control page: %s", cairn_strerror(status));
    return status;
}

struct crn_control_slot *crn_control_slot_at(const struct crn_mem *mem, uint32_t slot)
{
    if (slot >= CRN_CONTROL_SLOTS)
        return NULL;
    return (void *)((char *)mem->base + SLOTS_OFF + (size_t)slot * CRN_CONTROL_SLOT_BYTES);
}

static void wake(const _Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

uint32_t crn_control_begin_lease(struct crn_control_slot *slot, uint32_t n_words)
{
    slot->n_words = n_words < CRN_CONTROL_WORDS ? n_words : CRN_CONTROL_WORDS;
    for (uint32_t i = 0; i < slot->n_words; i++)
        atomic_store_explicit(&slot->word[i], CRN_PROGRESS_PENDING, memory_order_release);
    return atomic_load_explicit(&slot->epoch, memory_order_relaxed);
}

void crn_control_set(struct crn_control_slot *slot, uint32_t word, enum crn_progress value)
{
    if (word >= CRN_CONTROL_WORDS)
        return;
    /* Release: whoever acquires READY also sees the payload's bytes (crn_control_wait). */
    atomic_store_explicit(&slot->word[word], (uint32_t)value, memory_order_release);
    wake(&slot->word[word]);
}

void crn_control_end_lease(struct crn_control_slot *slot)
{
    /* Release, and before any byte is re-used: a reader that still sees the old epoch (acquire)
     * read the old bytes. */
    atomic_fetch_add_explicit(&slot->epoch, 1, memory_order_acq_rel);
    for (uint32_t i = 0; i < slot->n_words && i < CRN_CONTROL_WORDS; i++) {
        if (atomic_load_explicit(&slot->word[i], memory_order_relaxed) == CRN_PROGRESS_PENDING)
            wake(&slot->word[i]);
    }
}

/* What the slot says now: 0, a code, or -EAGAIN to go on waiting. */
static int look(const struct crn_control_slot *slot, uint32_t word, uint32_t epoch)
{
    uint32_t value = atomic_load_explicit(&slot->word[word], memory_order_acquire);
    if (atomic_load_explicit(&slot->epoch, memory_order_acquire) != epoch)
        return CAIRN_E_STALE;
    switch (value) {
    case CRN_PROGRESS_PENDING:
        return -EAGAIN;
    case CRN_PROGRESS_READY:
        return 0;
    case CRN_PROGRESS_FAILED:
        return CAIRN_E_MISS;
    default:
        return CAIRN_E_CORRUPT;
    }
}

int crn_control_wait(const struct crn_control_slot *slot, uint32_t word, uint32_t epoch,
                     uint64_t deadline_ns, int (*peer_alive)(void *ctx), void *ctx)
{
    if (word >= CRN_CONTROL_WORDS)
        return CAIRN_E_ARG;
    for (;;) {
        int status = look(slot, word, epoch);
        if (status != -EAGAIN)
            return status;
        uint64_t now_ns = crn_now_ns();
        if (now_ns >= deadline_ns)
            return CAIRN_E_TIMEOUT;
        uint64_t left_ns = deadline_ns - now_ns < LOOK_NS ? deadline_ns - now_ns : LOOK_NS;
        struct timespec left = {.tv_sec = (time_t)(left_ns / LOOK_NS),
                                .tv_nsec = (long)(left_ns % LOOK_NS)};
        long woken =
            syscall(SYS_futex, &slot->word[word], FUTEX_WAIT, CRN_PROGRESS_PENDING, &left, NULL, 0);
        if (woken != 0 && errno == ETIMEDOUT && peer_alive != NULL && peer_alive(ctx) == 0)
            return CAIRN_E_GONE;
    }
}
