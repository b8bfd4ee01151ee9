/* Two lists under one mutex: jobs waiting, jobs done. Copy threads sleep on a condition variable, the loop on an eventfd. Jobs are
 * taken in the order they came; with several threads they may finish in another one.
 *
 * The mutex is the only lock of the broker; it is held for list operations, never while a job runs. */
#include "broker/copier.h"

#include "ipc/cairn_status.h"
#include "ipc/log.h"

#include <errno.h>
#include <pthread.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct list {
    struct crn_job *first, **last;
};

struct crn_copier {
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct list waiting, done; /* under lock */
    bool stopping;             /* under lock */
    int event;
    unsigned pending; /* loop thread: submitted and not collected */
    unsigned n_threads;
    pthread_t threads[];
};

static void append(struct list *list, struct crn_job *job)
{
    job->next = NULL;
    *list->last = job;
    list->last = &job->next;
}

static struct crn_job *take_first(struct list *list)
{
    struct crn_job *job = list->first;
    list->first = job->next;
    if (list->first == NULL)
        list->last = &list->first;
    return job;
}

/* The next job; NULL when the copier stops and nothing is left. */
static struct crn_job *wait_for_job(struct crn_copier *c)
{
    pthread_mutex_lock(&c->lock);
    while (c->waiting.first == NULL && !c->stopping)
        pthread_cond_wait(&c->work, &c->lock);
    struct crn_job *job = c->waiting.first != NULL ? take_first(&c->waiting) : NULL;
    pthread_mutex_unlock(&c->lock);
    return job;
}

static void hand_back(struct crn_copier *c, struct crn_job *job)
{
    pthread_mutex_lock(&c->lock);
    append(&c->done, job);
    pthread_mutex_unlock(&c->lock);
    uint64_t one = 1;
    if (write(c->event, &one, sizeof one) < 0)
        crn_log(CRN_LOG_ERROR, "copier: eventfd: %s", cairn_strerror(-errno));
}

static void *copy_thread(void *arg)
{
    struct crn_copier *c = arg;
    struct crn_job *job;
    while ((job = wait_for_job(c)) != NULL) {
        job->status = job->run(job);
        hand_back(c, job);
    }
    return NULL;
}

static void stop(struct crn_copier *c)
{
    pthread_mutex_lock(&c->lock);
    c->stopping = true;
    pthread_cond_broadcast(&c->work);
    pthread_mutex_unlock(&c->lock);
    for (unsigned i = 0; i < c->n_threads; i++)
        pthread_join(c->threads[i], NULL);
}

int crn_copier_create(unsigned n_threads, struct crn_copier **out_copier)
{
    struct crn_copier *c = calloc(1, sizeof *c + n_threads * sizeof *c->threads);
    if (c == NULL)
        return -ENOMEM;
    c->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->event < 0) {
        int status = -errno;
        free(c);
        return status;
    }
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->work, NULL);
    c->waiting.last = &c->waiting.first;
    c->done.last = &c->done.first;
    for (; c->n_threads < n_threads; c->n_threads++) {
        int error = pthread_create(&c->threads[c->n_threads], NULL, copy_thread, c);
        if (error != 0) {
            crn_copier_destroy(c);
            return -error;
        }
    }
    *out_copier = c;
    return 0;
}

void crn_copier_destroy(struct crn_copier *copier)
{
    if (copier == NULL)
        return;
    stop(copier);
    close(copier->event);
    pthread_cond_destroy(&copier->work);
    pthread_mutex_destroy(&copier->lock);
    free(copier);
}

void crn_copier_submit(struct crn_copier *copier, struct crn_job *job)
{
    pthread_mutex_lock(&copier->lock);
    append(&copier->waiting, job);
    pthread_cond_signal(&copier->work);
    pthread_mutex_unlock(&copier->lock);
    copier->pending++;
}

int crn_copier_fd(const struct crn_copier *copier)
{
    return copier->event;
}

unsigned crn_copier_collect(struct crn_copier *copier)
{
    uint64_t ignored;
    if (read(copier->event, &ignored, sizeof ignored) < 0 && errno != EAGAIN)
        crn_log(CRN_LOG_ERROR, "copier: eventfd: %s", cairn_strerror(-errno));
    pthread_mutex_lock(&copier->lock);
    struct crn_job *job = copier->done.first;
    copier->done = (struct list){NULL, &copier->done.first};
    pthread_mutex_unlock(&copier->lock);
    unsigned n = 0;
    for (struct crn_job *next; job != NULL; job = next, n++) {
        next = job->next;
        copier->pending--;
        job->done(job, job->status);
    }
    return n;
}

void crn_copier_drain(struct crn_copier *copier)
{
    while (copier->pending > 0) {
        struct pollfd p = {.fd = copier->event, .events = POLLIN};
        poll(&p, 1, 1000);
        crn_copier_collect(copier);
    }
}
