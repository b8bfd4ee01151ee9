/* pool - threads that share out a loop. The only place in kernels/ that owns threads; everything else is a pure function.
 *
 * A pool of n has n - 1 threads of its own; the caller is the n-th. Between jobs the threads spin for at most a few microseconds
 * and then sleep on a futex, so idle pools of several processes do not steal from each other. */
#ifndef CRN_KERNELS_POOL_H
#define CRN_KERNELS_POOL_H

#include <stddef.h>

struct crn_pool;

typedef void crn_pool_fn(void *ctx, size_t task, unsigned thread);

/* n_threads 1..256; pin != 0 binds thread i to the i-th CPU the process may use.
 * own     end with crn_pool_destroy; fails -ENOMEM, -EAGAIN, CAIRN_E_ARG */
int crn_pool_create(unsigned n_threads, int pin, struct crn_pool **out_pool);
void crn_pool_destroy(struct crn_pool *pool);
unsigned crn_pool_threads(const struct crn_pool *pool); /* NULL pool: 1 */

/* Calls fn(ctx, task, thread) for task 0..n_tasks-1, each once, and returns when all are done; thread < crn_pool_threads.
 * One job at a time per pool; not to be called from inside fn. NULL pool: a plain loop. */
void crn_pool_run(struct crn_pool *pool, crn_pool_fn *fn, void *ctx, size_t n_tasks);

#endif
