/* The engine for places where io_uring is not allowed: `depth` threads with pread and pwrite on the same files.
 * The queues are those of spill.c, so the two engines differ in nothing a caller can see but speed. */
#include "broker/spill_engine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct pool {
    uint32_t n;
    pthread_t threads[CRN_SPILL_MAX_DEPTH];
};

static int move(const struct crn_spill *s, const struct crn_spill_piece *p)
{
    int fd = s->config.fds[p->io->file];
    if (p->io->op == CRN_SPILL_SYNC)
        return fdatasync(fd) == 0 ? 0 : -errno;
    ssize_t n = p->io->op == CRN_SPILL_READ ? pread(fd, p->mem, p->bytes, (off_t)p->off)
                                            : pwrite(fd, p->mem, p->bytes, (off_t)p->off);
    return n < 0 ? -errno : (int)n;
}

static void *pool_main(void *arg)
{
    struct crn_spill *s = arg;
    struct crn_spill_piece piece;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        if (!crn_spill_next_locked(s, &piece)) {
            if (s->stopping && crn_spill_idle_locked(s))
                break;
            pthread_cond_wait(&s->work, &s->lock);
            continue;
        }
        pthread_mutex_unlock(&s->lock);
        while (crn_spill_finish(s, &piece, move(s, &piece)))
            ;
        pthread_mutex_lock(&s->lock);
        if (s->stopping && crn_spill_idle_locked(s))
            pthread_cond_broadcast(&s->work);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* Submit has signalled the condition; a transfer of many pieces needs more than one thread. */
static void pool_wake(struct crn_spill *s)
{
    pthread_cond_broadcast(&s->work);
}

static void pool_stop(struct crn_spill *s)
{
    struct pool *p = s->engine;
    pthread_cond_broadcast(&s->work);
    for (uint32_t i = 0; i < p->n; i++)
        pthread_join(p->threads[i], NULL);
    free(p);
}

static int pool_start(struct crn_spill *s, char *out_why, uint32_t why_bytes)
{
    struct pool *p = calloc(1, sizeof *p);
    if (p == NULL)
        return -ENOMEM;
    s->engine = p;
    int error = 0;
    while (p->n < s->config.depth && error == 0) {
        error = pthread_create(&p->threads[p->n], NULL, pool_main, s);
        p->n += error == 0;
    }
    if (p->n == 0) {
        free(p);
        return -error;
    }
    snprintf(out_why, why_bytes, "%u", p->n);
    return 0;
}

static int pool_offer(struct crn_spill *s, void *base, uint64_t bytes)
{
    (void)s, (void)base, (void)bytes;
    return CAIRN_E_UNSUPPORTED;
}

static void pool_withdraw(struct crn_spill *s, void *base, uint64_t bytes)
{
    (void)s, (void)base, (void)bytes;
}

const struct crn_spill_backend crn_spill_threads = {
    .start = pool_start,
    .wake = pool_wake,
    .stop = pool_stop,
    .offer = pool_offer,
    .withdraw = pool_withdraw,
};
