/* The queues of the tier engine.
 *
 * A transfer goes: submitted -> cut into pieces -> all pieces back -> (reads: checksum) -> done -> taken. The engine behind
 * (spill_uring.c, spill_threads.c) asks for the next piece while fewer than `depth` are out, and gives every piece back with its
 * result; here is decided whether the rest of a short piece, or a piece the kernel put off, is issued again. One failed piece
 * fails its transfer: what was not issued yet is dropped, what is in flight is waited for, because the memory belongs to the
 * kernel until then.
 *
 * Threads: callers submit and take, engine threads move, two checkers hash what was read and prepare what asks for it. One
 * mutex guards the queues; it is never held across I/O, hashing or preparing.
 *
 * What it does not do: no ordering between transfers (a sync covers what the submitter saw finish), no caching, no retries of
 * real errors. */
#include "broker/spill_engine.h"

#include "ipc/hash.h"
#include "ipc/log.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_TRIES 32u
#define MAX_WAITING 16u /* reads, or writes: nothing more is prepared while so many wait, because what was prepared takes memory */
#define RATE_WINDOW_NS 1000000000ull

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void push(struct crn_spill_queue *q, struct crn_spill_io *io)
{
    io->next = NULL;
    if (q->head == NULL)
        q->head = io;
    else
        q->tail->next = io;
    q->tail = io;
    q->n++;
}

static struct crn_spill_io *pop(struct crn_spill_queue *q)
{
    struct crn_spill_io *io = q->head;
    if (io == NULL)
        return NULL;
    q->head = io->next;
    q->n--;
    io->next = NULL;
    return io;
}

static void signal_fd(int fd)
{
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof one);
    (void)n; /* EAGAIN: the counter is full, so the reader is woken anyway */
}

/* ---- rates ---- */

static struct crn_spill_rate *rate_of(struct crn_spill *s, const struct crn_spill_io *io)
{
    return io->op == CRN_SPILL_READ ? &s->read_rate : io->op == CRN_SPILL_WRITE ? &s->write_rate : NULL;
}

static void rate_begin(struct crn_spill_rate *r)
{
    if (r != NULL && r->in_flight++ == 0)
        r->last_ns = now_ns();
}

static void rate_moved(struct crn_spill_rate *r, uint64_t bytes)
{
    if (r == NULL)
        return;
    uint64_t now = now_ns();
    r->recent_ns += now - r->last_ns;
    r->last_ns = now;
    r->recent_bytes += bytes;
    r->total_bytes += bytes;
    if (r->recent_ns > 2 * RATE_WINDOW_NS) {
        r->recent_ns /= 2;
        r->recent_bytes /= 2;
    }
}

static uint64_t rate_per_second(const struct crn_spill_rate *r)
{
    return r->recent_ns == 0 ? 0 : (uint64_t)((double)r->recent_bytes * 1e9 / (double)r->recent_ns);
}

/* ---- pieces ---- */

static struct crn_spill_queue *queue_of(struct crn_spill *s, const struct crn_spill_io *io)
{
    return io->op == CRN_SPILL_SYNC ? &s->syncs : io->op == CRN_SPILL_READ ? &s->reads : &s->writes;
}

bool crn_spill_next_locked(struct crn_spill *s, struct crn_spill_piece *out_piece)
{
    if (s->in_flight >= s->config.depth)
        return false;
    struct crn_spill_queue *q = s->syncs.head != NULL ? &s->syncs : s->reads.head != NULL ? &s->reads : &s->writes;
    struct crn_spill_io *io = q->head;
    if (io == NULL)
        return false;
    uint64_t left = io->total - io->issued;
    uint32_t bytes = left < s->config.piece_bytes ? (uint32_t)left : s->config.piece_bytes;
    *out_piece = (struct crn_spill_piece){
        .io = io, .off = io->off + io->issued, .mem = (char *)io->mem + io->issued, .bytes = bytes};
    io->issued += bytes;
    io->in_flight++;
    if (io->issued == io->total)
        pop(q);
    if ((q == &s->writes && s->write_prepares.head != NULL) || (q == &s->reads && s->read_prepares.head != NULL))
        pthread_cond_signal(&s->check_work);
    s->in_flight++;
    s->max_in_flight = s->in_flight > s->max_in_flight ? s->in_flight : s->max_in_flight;
    rate_begin(rate_of(s, io));
    return true;
}

bool crn_spill_idle_locked(const struct crn_spill *s)
{
    return s->in_flight == 0 && s->syncs.n == 0 && s->reads.n == 0 && s->writes.n == 0 && s->preparing == 0;
}

/* What a result means for a piece: 1 = issue again, 0 = finished, negative = failed. Counts what is issued again. */
static int judge(struct crn_spill *s, struct crn_spill_piece *p, int res)
{
    bool off_again = res == -EINTR || res == -EAGAIN;
    if (res < 0 && !off_again)
        return res;
    if (p->bytes == 0)
        return off_again ? ++p->tries <= MAX_TRIES ? 1 : res : 0;
    uint32_t moved = res < 0 ? 0 : (uint32_t)res;
    if (moved >= p->bytes) {
        rate_moved(rate_of(s, p->io), p->bytes);
        return 0;
    }
    moved -= moved % CRN_SPILL_ALIGN; /* the rest must start aligned, so part of a block is moved again */
    if (moved == 0 && ++p->tries > (off_again ? MAX_TRIES : 2u))
        return off_again ? res : p->io->op == CRN_SPILL_READ ? -ENODATA : -EIO;
    *(off_again ? &s->retries : &s->shorts) += 1;
    rate_moved(rate_of(s, p->io), moved);
    p->off += moved;
    p->mem += moved;
    p->bytes -= moved;
    return 1;
}

static void finished_locked(struct crn_spill *s, struct crn_spill_io *io)
{
    if (io->op == CRN_SPILL_READ)
        s->reads_open--;
    else
        s->writes_open--;
    s->errors += io->result != 0;
    s->corrupt += io->result == CAIRN_E_CORRUPT;
    push(&s->done, io);
    signal_fd(s->done_fd);
}

static const char *op_name(uint32_t op)
{
    return op == CRN_SPILL_READ ? "read" : op == CRN_SPILL_WRITE ? "write" : "sync";
}

static void log_failure(const struct crn_spill *s, const struct crn_spill_io *io)
{
    crn_log(CRN_LOG_WARN, "spill: %s of %llu bytes at %llu of %s: %s", op_name(io->op), (unsigned long long)io->bytes,
            (unsigned long long)io->off, s->config.names[io->file], cairn_strerror(io->result));
}

/* Drops what was not issued of a failed transfer. Only the head of a queue is partly issued. */
static void drop_rest_locked(struct crn_spill *s, struct crn_spill_io *io)
{
    if (io->issued == io->total)
        return;
    if (queue_of(s, io)->head == io) {
        pop(queue_of(s, io));
        pthread_cond_signal(&s->check_work); /* room to prepare the next one */
    }
    io->issued = io->total;
}

bool crn_spill_finish(struct crn_spill *s, struct crn_spill_piece *p, int res)
{
    struct crn_spill_io *io = p->io;
    if (s->config.faults != NULL)
        res = s->config.faults->result(s->config.faults->ctx, io, p->off, res);
    pthread_mutex_lock(&s->lock);
    int verdict = judge(s, p, res);
    if (verdict == 1) {
        pthread_mutex_unlock(&s->lock);
        return true;
    }
    struct crn_spill_rate *r = rate_of(s, io);
    if (r != NULL)
        r->in_flight--;
    s->in_flight--;
    io->in_flight--;
    bool first = verdict < 0 && io->result == 0;
    if (verdict < 0) {
        io->result = io->result == 0 ? verdict : io->result;
        drop_rest_locked(s, io);
    }
    if (first)
        log_failure(s, io);
    if (io->in_flight == 0 && io->issued == io->total) {
        if (io->op == CRN_SPILL_READ && io->check != 0 && io->result == 0) {
            push(&s->checks, io);
            pthread_cond_signal(&s->check_work);
        } else {
            finished_locked(s, io);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return false;
}

/* ---- checksums, and preparing ---- */

static void check(struct crn_spill *s, struct crn_spill_io *io)
{
    if (crn_hash64(io->mem, io->bytes) != io->checksum) {
        io->result = CAIRN_E_CORRUPT;
        log_failure(s, io);
    } else if (io->deliver != NULL) {
        io->result = io->deliver(io);
    }
    pthread_mutex_lock(&s->lock);
    finished_locked(s, io);
    pthread_mutex_unlock(&s->lock);
}

static void prepare(struct crn_spill *s, struct crn_spill_io *io)
{
    uint64_t most = io->bytes;
    io->result = io->prepare(io);
    if (io->result == 0 && (io->mem == NULL || (uintptr_t)io->mem % CRN_SPILL_ALIGN != 0 || io->bytes == 0 || io->bytes > most))
        io->result = CAIRN_E_ARG;
    if (io->result != 0)
        log_failure(s, io);
    io->total = crn_spill_whole(io->bytes);
    pthread_mutex_lock(&s->lock);
    s->preparing--;
    if (io->result == 0)
        push(queue_of(s, io), io);
    else
        finished_locked(s, io);
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    s->backend->wake(s);
}

/* What a checker does next, restores first. NULL: nothing now. */
static struct crn_spill_io *next_to_check_locked(struct crn_spill *s, void (**out_do)(struct crn_spill *s, struct crn_spill_io *io))
{
    struct crn_spill_io *io = pop(&s->checks);
    *out_do = check;
    if (io != NULL)
        return io;
    *out_do = prepare;
    if (s->reads.n < MAX_WAITING)
        io = pop(&s->read_prepares);
    return io == NULL && s->writes.n < MAX_WAITING ? pop(&s->write_prepares) : io;
}

static void *checker_main(void *arg)
{
    struct crn_spill *s = arg;
    void (*work)(struct crn_spill *s, struct crn_spill_io *io);
    pthread_mutex_lock(&s->lock);
    for (;;) {
        struct crn_spill_io *io = next_to_check_locked(s, &work);
        if (io == NULL) {
            if (s->checkers_stopping)
                break;
            pthread_cond_wait(&s->check_work, &s->lock);
            continue;
        }
        pthread_mutex_unlock(&s->lock);
        work(s, io);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void stop_checkers(struct crn_spill *s)
{
    pthread_mutex_lock(&s->lock);
    s->checkers_stopping = true;
    pthread_cond_broadcast(&s->check_work);
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; i < s->n_checkers; i++)
        pthread_join(s->checkers[i], NULL);
}

static int start_checkers(struct crn_spill *s)
{
    for (; s->n_checkers < CRN_SPILL_CHECKERS; s->n_checkers++) {
        int error = pthread_create(&s->checkers[s->n_checkers], NULL, checker_main, s);
        if (error != 0)
            return -error;
    }
    return 0;
}

/* ---- open and close ---- */

static int start_backend(struct crn_spill *s)
{
    char why[96] = "";
    s->backend = &crn_spill_uring;
    int status = CAIRN_E_UNSUPPORTED;
    if (s->config.engine != CRN_SPILL_THREADS) {
        status = s->backend->start(s, why, sizeof why);
        if (status == 0 || s->config.engine == CRN_SPILL_URING) {
            snprintf(s->text, sizeof s->text, "io_uring (%s, depth %u)", why, s->config.depth);
            return status;
        }
    }
    char chosen[48];
    s->backend = &crn_spill_threads;
    int started = s->backend->start(s, chosen, sizeof chosen);
    snprintf(s->text, sizeof s->text, "threads (%s; io_uring: %s)", chosen,
             s->config.engine == CRN_SPILL_THREADS ? "not asked for" : why);
    return started;
}

static int check_config(const struct crn_spill_config *c)
{
    if (c->n_files == 0 || c->n_files > CRN_SPILL_MAX_FILES || c->piece_bytes % CRN_SPILL_ALIGN != 0)
        return CAIRN_E_ARG;
    return c->piece_bytes > (1u << 30) || c->depth > CRN_SPILL_MAX_DEPTH ? CAIRN_E_ARG : 0;
}

static void destroy(struct crn_spill *s)
{
    if (s->done_fd >= 0)
        close(s->done_fd);
    pthread_cond_destroy(&s->check_work);
    pthread_cond_destroy(&s->work);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

int crn_spill_open(const struct crn_spill_config *config, struct crn_spill **out_spill)
{
    int status = check_config(config);
    if (status != 0)
        return status;
    struct crn_spill *s = calloc(1, sizeof *s);
    if (s == NULL)
        return -ENOMEM;
    s->config = *config;
    s->config.depth = config->depth == 0 ? CRN_SPILL_DEPTH : config->depth;
    s->config.piece_bytes = config->piece_bytes == 0 ? CRN_SPILL_PIECE_BYTES : config->piece_bytes;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    pthread_cond_init(&s->check_work, NULL);
    s->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    status = s->done_fd < 0 ? -errno : start_checkers(s);
    if (status == 0)
        status = start_backend(s);
    if (status != 0) {
        stop_checkers(s);
        destroy(s);
        return status;
    }
    *out_spill = s;
    return 0;
}

void crn_spill_close(struct crn_spill *s)
{
    if (s == NULL)
        return;
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_mutex_unlock(&s->lock);
    s->backend->stop(s);
    stop_checkers(s);
    destroy(s);
}

int crn_spill_offer(struct crn_spill *s, void *base, uint64_t bytes)
{
    return s->backend->offer(s, base, bytes);
}

void crn_spill_withdraw(struct crn_spill *s, void *base, uint64_t bytes)
{
    s->backend->withdraw(s, base, bytes);
}

/* ---- callers ---- */

static int check_io(const struct crn_spill *s, const struct crn_spill_io *io)
{
    uint64_t total, end;
    if (io->op < CRN_SPILL_READ || io->op > CRN_SPILL_SYNC || io->file >= s->config.n_files)
        return CAIRN_E_ARG;
    if (io->op == CRN_SPILL_SYNC)
        return 0;
    bool later = io->prepare != NULL;
    bool aligned = io->off % CRN_SPILL_ALIGN == 0 && (uintptr_t)io->mem % CRN_SPILL_ALIGN == 0;
    if (io->bytes == 0 || (io->mem == NULL && !later) || !aligned)
        return CAIRN_E_ARG;
    if (__builtin_add_overflow(io->bytes, (uint64_t)CRN_SPILL_ALIGN - 1, &total) ||
        __builtin_add_overflow(io->off, total, &end) || end > INT64_MAX)
        return CAIRN_E_ARG;
    return 0;
}

int crn_spill_submit(struct crn_spill *s, struct crn_spill_io *io)
{
    int status = check_io(s, io);
    if (status != 0)
        return status;
    io->total = 0;
    if (io->op != CRN_SPILL_SYNC)
        io->total = crn_spill_whole(io->bytes);
    io->issued = 0;
    io->in_flight = 0;
    io->result = 0;
    pthread_mutex_lock(&s->lock);
    if (io->op == CRN_SPILL_READ)
        s->reads_open++;
    else
        s->writes_open++;
    if (io->op != CRN_SPILL_SYNC && io->prepare != NULL) {
        s->preparing++;
        push(io->op == CRN_SPILL_READ ? &s->read_prepares : &s->write_prepares, io);
        pthread_cond_signal(&s->check_work);
        pthread_mutex_unlock(&s->lock);
        return 0;
    }
    push(queue_of(s, io), io);
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    s->backend->wake(s);
    return 0;
}

struct crn_spill_io *crn_spill_take(struct crn_spill *s)
{
    pthread_mutex_lock(&s->lock);
    struct crn_spill_io *io = pop(&s->done);
    if (io == NULL) {
        uint64_t count;
        ssize_t n = read(s->done_fd, &count, sizeof count);
        (void)n; /* EAGAIN: nothing was signalled */
    }
    pthread_mutex_unlock(&s->lock);
    return io;
}

int crn_spill_fd(const struct crn_spill *s)
{
    return s->done_fd;
}

int crn_spill_wait(struct crn_spill *s, uint64_t timeout_ns)
{
    uint64_t end = now_ns() + timeout_ns;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        bool any = s->done.head != NULL;
        pthread_mutex_unlock(&s->lock);
        uint64_t now = now_ns();
        if (any)
            return 0;
        if (now >= end)
            return CAIRN_E_TIMEOUT;
        uint64_t ms = (end - now) / 1000000u + 1;
        struct pollfd p = {.fd = s->done_fd, .events = POLLIN};
        poll(&p, 1, ms > 1000 ? 1000 : (int)ms);
    }
}

void crn_spill_stats(struct crn_spill *s, struct crn_spill_stats *out)
{
    pthread_mutex_lock(&s->lock);
    *out = (struct crn_spill_stats){
        .read_bytes = s->read_rate.total_bytes,
        .write_bytes = s->write_rate.total_bytes,
        .read_per_second = rate_per_second(&s->read_rate),
        .write_per_second = rate_per_second(&s->write_rate),
        .errors = s->errors,
        .corrupt = s->corrupt,
        .retries = s->retries,
        .shorts = s->shorts,
        .read_queue = s->reads_open,
        .write_queue = s->writes_open,
        .in_flight = s->in_flight,
        .max_in_flight = s->max_in_flight,
    };
    pthread_mutex_unlock(&s->lock);
}

const char *crn_spill_text(const struct crn_spill *s)
{
    return s->text;
}

int crn_spill_engine_parse(const char *text, enum crn_spill_engine *out_engine)
{
    static const char *const names[] = {"auto", "uring", "threads"};
    for (uint32_t i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out_engine = (enum crn_spill_engine)i;
            return 0;
        }
    }
    return CAIRN_E_ARG;
}
