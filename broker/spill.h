/* spill - moves extents between memory and files. It knows bytes, offsets and checksums; it knows no entries.
 *
 * A caller fills a struct crn_spill_io and submits it; the engine cuts it into pieces, keeps a bounded number of them in flight,
 * and hands the struct back through a queue with an eventfd. Reads (restores) go before writes (spills). Two engines keep this
 * contract: io_uring, and a pool of threads where io_uring is not allowed. Files are opened by broker/store.c. */
#ifndef CRN_BROKER_SPILL_H
#define CRN_BROKER_SPILL_H

#include "ipc/cairn_status.h"

#include <stdint.h>

#define CRN_SPILL_ALIGN 4096u /* of offsets, memory and moved lengths: enough for O_DIRECT everywhere */

/* bytes, rounded up to what is moved. */
static inline uint64_t crn_spill_whole(uint64_t bytes)
{
    return (bytes + CRN_SPILL_ALIGN - 1) / CRN_SPILL_ALIGN * CRN_SPILL_ALIGN;
}

#define CRN_SPILL_PIECE_BYTES (1u << 20)
#define CRN_SPILL_MAX_FILES 16u
#define CRN_SPILL_MIN_DEPTH 1u
#define CRN_SPILL_MAX_DEPTH 64u
#define CRN_SPILL_DEPTH 12u

enum crn_spill_engine { CRN_SPILL_AUTO = 0, CRN_SPILL_URING = 1, CRN_SPILL_THREADS = 2 };

enum crn_spill_op {
    CRN_SPILL_READ = 1,
    CRN_SPILL_WRITE = 2,
    CRN_SPILL_SYNC = 3, /* fdatasync of one file: covers the writes whose completion was seen before it was submitted */
};

/* One transfer. Owned by the caller; the engine's from submit until take returns it, and so is the memory. */
struct crn_spill_io {
    uint32_t op;   /* enum crn_spill_op */
    uint32_t file; /* index into the configuration's files */
    uint64_t off, bytes; /* bytes is rounded up to CRN_SPILL_ALIGN: memory and file must reach that far */
    void *mem;
    uint64_t checksum; /* XXH3-64 of bytes */
    uint32_t check;    /* read: 1 = compare with checksum */
    int result;        /* out: 0, -errno, CAIRN_E_CORRUPT */
    void *owner;       /* the caller's */
    int (*prepare)(struct crn_spill_io *io); /* may be NULL: runs on a thread of the engine before anything is moved and sets mem, and
                                                of a write bytes if they become fewer; what it returns but 0 ends the transfer */

    int (*deliver)(struct crn_spill_io *io); /* read with check, may be NULL: the same after the bytes were found right */
    struct crn_spill_io *next; /* from here on the engine's own; while not submitted, next is the caller's */
    uint64_t total, issued;
    uint32_t in_flight;
};

/* Fault injection for tests: called on the engine's thread with the true result of every piece, returns the one to believe
 * (negative, or fewer bytes). May block: completions are late then. */
struct crn_spill_faults {
    int (*result)(void *ctx, const struct crn_spill_io *io, uint64_t off, int res);
    void *ctx;
};

struct crn_spill_config {
    uint32_t n_files;
    int fds[CRN_SPILL_MAX_FILES];           /* borrowed, opened with O_DIRECT where the file system has it */
    const char *names[CRN_SPILL_MAX_FILES]; /* for the log, borrowed */
    enum crn_spill_engine engine;
    uint32_t depth;           /* pieces in flight; 0: CRN_SPILL_DEPTH */
    uint32_t piece_bytes;     /* multiple of CRN_SPILL_ALIGN; 0: CRN_SPILL_PIECE_BYTES */
    const struct crn_spill_faults *faults; /* NULL: none */
};

struct crn_spill;

/* Starts the engine's threads. AUTO takes io_uring, else threads; URING fails where it is not allowed.
 * own     end with crn_spill_close
 * fails   CAIRN_E_ARG, -errno */
int crn_spill_open(const struct crn_spill_config *config, struct crn_spill **out_spill);

/* Finishes what was submitted, stops the threads. Completions not taken are forgotten; their structs are the caller's again.
 * NULL is allowed. */
void crn_spill_close(struct crn_spill *s);

/* Registers memory that extents live in, so that the kernel pins it once and not per piece. Best effort: without it (threads,
 * RLIMIT_MEMLOCK) the same calls work and cost a little more. withdraw the same range before the memory is unmapped; it waits until no piece
 * uses the registration. The caller's thread waits for the engine's. Returns 0 or why not; nobody needs to care. */
int crn_spill_offer(struct crn_spill *s, void *base, uint64_t bytes);
void crn_spill_withdraw(struct crn_spill *s, void *base, uint64_t bytes);

/* Any thread. fails CAIRN_E_ARG when something is not aligned, overflows, or names no file; the engine has not taken it then. */
int crn_spill_submit(struct crn_spill *s, struct crn_spill_io *io);

/* Next finished transfer, NULL when there is none. One thread. */
struct crn_spill_io *crn_spill_take(struct crn_spill *s);

/* Readable while finished transfers may wait; reading it resets it (crn_spill_take does when the queue is empty). */
int crn_spill_fd(const struct crn_spill *s);

/* Waits until something is finished: 0, or CAIRN_E_TIMEOUT. For threads without a poll loop. */
int crn_spill_wait(struct crn_spill *s, uint64_t timeout_ns);

struct crn_spill_stats {
    uint64_t read_bytes, write_bytes;           /* moved so far */
    uint64_t read_per_second, write_per_second; /* over the last second or two of work; 0 before the first */
    uint64_t errors, corrupt;                   /* transfers that failed; of these: checksums that did not fit */
    uint64_t retries, shorts;                   /* pieces issued again */
    uint32_t read_queue, write_queue;           /* transfers not finished */
    uint32_t in_flight, max_in_flight;          /* pieces */
};
void crn_spill_stats(struct crn_spill *s, struct crn_spill_stats *out_stats);

/* "io_uring (defer-taskrun, registered files, depth 8)" or "threads (8; io_uring: Operation not permitted)". */
const char *crn_spill_text(const struct crn_spill *s);

/* "auto" "uring" "threads"; CAIRN_E_ARG for anything else. */
int crn_spill_engine_parse(const char *text, enum crn_spill_engine *out_engine);

#endif
