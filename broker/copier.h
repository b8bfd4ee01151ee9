/* copier - the threads that move bytes. A job is a function and its own memory; the loop thread fills it, a copy thread runs it,
 * the loop thread gets it back. At any time exactly one of them may touch it.
 * The queue needs no bound of its own: every job belongs to a draft's payload, a plan or a verification, which are bounded. */
#ifndef CRN_BROKER_COPIER_H
#define CRN_BROKER_COPIER_H

#include <stdint.h>

struct crn_job {
    struct crn_job *next; /* the copier's own */
    /* Copy thread. Returns the job's status. */
    int (*run)(struct crn_job *job);
    /* Loop thread, from crn_copier_collect. Owns the job from here. */
    void (*done)(struct crn_job *job, int status);
    int status;
};

struct crn_copier;

/* own: crn_copier_destroy, which runs what is queued, calls no done, and joins. fails -ENOMEM, -errno */
int crn_copier_create(unsigned n_threads, struct crn_copier **out_copier);
void crn_copier_destroy(struct crn_copier *copier);
/* Loop thread. Never blocks for longer than a queue operation of another thread. */
void crn_copier_submit(struct crn_copier *copier, struct crn_job *job);
/* Readable when jobs are done. */
int crn_copier_fd(const struct crn_copier *copier);
/* Loop thread: calls done of all finished jobs; returns their number. */
unsigned crn_copier_collect(struct crn_copier *copier);
/* Loop thread: waits until nothing is queued or running, collecting all the while. */
void crn_copier_drain(struct crn_copier *copier);

#endif
