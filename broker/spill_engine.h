/* spill_engine - what broker/spill.c and its two engines share: queues in the one, I/O in the others. */
#ifndef CRN_BROKER_SPILL_ENGINE_H
#define CRN_BROKER_SPILL_ENGINE_H

#include "broker/spill.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define CRN_SPILL_CHECKERS 2u

/* A part of a transfer that is, or is about to be, in flight. */
struct crn_spill_piece {
    struct crn_spill_io *io;
    uint64_t off;
    char *mem;
    uint32_t bytes; /* 0: a sync */
    uint32_t tries;
};

struct crn_spill_queue {
    struct crn_spill_io *head, *tail;
    uint32_t n;
};

/* Work per direction. Time counts while at least one piece of the direction is in flight. */
struct crn_spill_rate {
    uint64_t total_bytes, recent_bytes, recent_ns, last_ns;
    uint32_t in_flight;
};

struct crn_spill_backend {
    /* Starts its threads; out_why says what was chosen, or why not. */
    int (*start)(struct crn_spill *s, char *out_why, uint32_t why_bytes);
    void (*wake)(struct crn_spill *s); /* something was queued, or stop was set */
    void (*stop)(struct crn_spill *s); /* s->stopping is set: finishes everything, joins, frees */
    int (*offer)(struct crn_spill *s, void *base, uint64_t bytes);
    void (*withdraw)(struct crn_spill *s, void *base, uint64_t bytes);
};
extern const struct crn_spill_backend crn_spill_uring;
extern const struct crn_spill_backend crn_spill_threads;

struct crn_spill {
    struct crn_spill_config config;
    const struct crn_spill_backend *backend;
    void *engine; /* the backend's own */
    char text[160];
    int done_fd;

    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t work;  /* pool of threads: something to do */
    pthread_cond_t check_work;
    struct crn_spill_queue syncs, reads, writes, checks, done;
    struct crn_spill_queue read_prepares, write_prepares;
    struct crn_spill_rate read_rate, write_rate;
    uint32_t in_flight, max_in_flight;
    uint32_t reads_open, writes_open; /* submitted, not yet in `done` */
    uint32_t preparing; /* in read_prepares or write_prepares, or being prepared */
    uint64_t errors, corrupt, retries, shorts;
    bool stopping, checkers_stopping;
    pthread_t checkers[CRN_SPILL_CHECKERS];
    uint32_t n_checkers;
};

/* The next piece to issue: syncs, then reads, then writes, unless `depth` pieces are out. false: nothing now. Lock held. */
bool crn_spill_next_locked(struct crn_spill *s, struct crn_spill_piece *out_piece);
/* Nothing queued, nothing in flight. Lock held. */
bool crn_spill_idle_locked(const struct crn_spill *s);
/* A piece came back with res (bytes or -errno). true: piece holds what must be issued again. Lock not held. */
bool crn_spill_finish(struct crn_spill *s, struct crn_spill_piece *piece, int res);

#endif
