/* The io_uring engine: one thread submits and completes, because DEFER_TASKRUN and SINGLE_ISSUER want exactly that.
 *
 * The thread sleeps in io_uring_submit_and_wait. A submitter on another thread wakes it through an eventfd that the ring polls.
 * Flags are tried best first; each kernel takes what it knows (6.1: SINGLE_ISSUER with DEFER_TASKRUN, 5.19: COOP_TASKRUN).
 * Files are registered. Memory is registered when a caller offers it: in slots of at most 1 GiB, the kernel's limit; a piece
 * that lies in no slot, or crosses two, goes by plain address. Registering belongs to the ring's thread too, so offers travel
 * to it and the caller waits.
 *
 * liburing 2.3 (Debian 12); nothing later is used. */
#include "broker/spill_engine.h"

#include "ipc/log.h"

#include <liburing.h>

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define SLOTS 256u
#define SLOT_BYTES (1ull << 30)

struct slot {
    char *base; /* NULL: free */
    uint64_t bytes;
    uint32_t pieces; /* in flight through it */
    bool leaving;
};

/* An order for the ring's thread; the caller waits for `finished`. */
struct order {
    char *base;
    uint64_t bytes;
    int status;
    bool withdraw, pending, finished;
};

struct flight {
    struct crn_spill_piece piece;
    uint32_t slot; /* SLOTS: none */
    bool used;
};

struct ring {
    struct io_uring ring;
    struct crn_spill *s;
    pthread_t thread;
    int wake_fd;
    bool wake_armed, fixed_files, fixed_memory, started, broken;
    int start_status;
    const char *flags_text;
    struct flight flights[CRN_SPILL_MAX_DEPTH];
    uint32_t n_flights;
    struct slot slots[SLOTS]; /* the ring's thread only */
    pthread_mutex_t lock;     /* order, started */
    pthread_cond_t changed;
    struct order order;
};

/* ---- start ---- */

static int init_ring(struct ring *r)
{
    static const struct {
        unsigned flags;
        const char *text;
    } ways[] = {
        {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, "defer-taskrun"},
        {IORING_SETUP_COOP_TASKRUN, "coop-taskrun"},
        {0, "plain"},
    };
    int status = -EINVAL;
    for (size_t i = 0; i < sizeof ways / sizeof ways[0] && status == -EINVAL; i++) {
        status = io_uring_queue_init(r->s->config.depth * 2 + 2, &r->ring, ways[i].flags);
        r->flags_text = ways[i].text;
    }
    return status;
}

static void register_what_goes(struct ring *r)
{
    const struct crn_spill_config *c = &r->s->config;
    r->fixed_files = io_uring_register_files(&r->ring, c->fds, c->n_files) == 0;
    r->fixed_memory = io_uring_register_buffers_sparse(&r->ring, SLOTS) == 0;
}

/* ---- registered memory; the ring's thread ---- */

static int update_slot(struct ring *r, uint32_t i, char *base, uint64_t bytes)
{
    struct iovec iov = {.iov_base = base, .iov_len = bytes};
    __u64 tag = 0;
    int n = io_uring_register_buffers_update_tag(&r->ring, i, &iov, &tag, 1);
    return n < 0 ? n : 0;
}

static void clear_slot(struct ring *r, uint32_t i)
{
    update_slot(r, i, NULL, 0);
    r->slots[i] = (struct slot){0};
}

static int register_range(struct ring *r, char *base, uint64_t bytes)
{
    for (uint32_t i = 0; i < SLOTS && bytes > 0; i++) {
        if (r->slots[i].base != NULL)
            continue;
        uint64_t part = bytes < SLOT_BYTES ? bytes : SLOT_BYTES;
        int status = update_slot(r, i, base, part);
        if (status != 0)
            return status;
        r->slots[i] = (struct slot){.base = base, .bytes = part};
        base += part;
        bytes -= part;
    }
    return bytes == 0 ? 0 : -ENOSPC;
}

/* true when no slot of the range is in use any more. */
static bool leave_range(struct ring *r, const char *base, uint64_t bytes)
{
    bool left = true;
    for (uint32_t i = 0; i < SLOTS; i++) {
        struct slot *slot = &r->slots[i];
        if (slot->base == NULL || slot->base < base || slot->base >= base + bytes)
            continue;
        slot->leaving = true;
        left = left && slot->pieces == 0;
    }
    return left;
}

static void clear_leaving(struct ring *r)
{
    for (uint32_t i = 0; i < SLOTS; i++) {
        if (r->slots[i].leaving && r->slots[i].pieces == 0)
            clear_slot(r, i);
    }
}

static uint32_t slot_of(struct ring *r, const struct crn_spill_piece *p)
{
    for (uint32_t i = 0; i < SLOTS && r->fixed_memory; i++) {
        const struct slot *slot = &r->slots[i];
        if (slot->base == NULL || slot->leaving || p->mem < slot->base)
            continue;
        uint64_t at = (uint64_t)(p->mem - slot->base);
        if (at < slot->bytes && p->bytes <= slot->bytes - at)
            return i;
    }
    return SLOTS;
}

/* true: the order is done; false: a piece is still in flight through the range. */
static bool carry_out(struct ring *r, struct order *o)
{
    if (!r->fixed_memory) {
        o->status = CAIRN_E_UNSUPPORTED;
        return true;
    }
    bool over = true;
    if (!o->withdraw)
        o->status = register_range(r, o->base, o->bytes);
    if (o->withdraw || o->status != 0)
        over = leave_range(r, o->base, o->bytes) || !o->withdraw;
    clear_leaving(r);
    return over;
}

static void serve_order(struct ring *r)
{
    pthread_mutex_lock(&r->lock);
    if (r->order.pending && carry_out(r, &r->order)) {
        r->order.pending = false;
        r->order.finished = true;
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->lock);
}

/* ---- the loop ---- */

static void prepare(struct ring *r, struct flight *f)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring); /* sized for all flights and the wake poll: never NULL */
    const struct crn_spill_piece *p = &f->piece;
    int fd = r->fixed_files ? (int)p->io->file : r->s->config.fds[p->io->file];
    bool fixed = f->slot < SLOTS;
    if (p->io->op == CRN_SPILL_SYNC)
        io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    else if (p->io->op == CRN_SPILL_READ && fixed)
        io_uring_prep_read_fixed(sqe, fd, p->mem, p->bytes, p->off, (int)f->slot);
    else if (p->io->op == CRN_SPILL_READ)
        io_uring_prep_read(sqe, fd, p->mem, p->bytes, p->off);
    else if (fixed)
        io_uring_prep_write_fixed(sqe, fd, p->mem, p->bytes, p->off, (int)f->slot);
    else
        io_uring_prep_write(sqe, fd, p->mem, p->bytes, p->off);
    if (r->fixed_files)
        io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data(sqe, f);
}

static struct flight *free_flight(struct ring *r)
{
    uint32_t i = 0;
    while (r->flights[i].used)
        i++;
    return &r->flights[i];
}

/* Issues what may go. false: the engine stops, and nothing is left. */
static bool issue(struct ring *r)
{
    struct crn_spill *s = r->s;
    struct crn_spill_piece piece;
    bool more = true;
    while (more) {
        pthread_mutex_lock(&s->lock);
        more = crn_spill_next_locked(s, &piece);
        bool over = !more && s->stopping && crn_spill_idle_locked(s);
        pthread_mutex_unlock(&s->lock);
        if (over)
            return false;
        if (!more)
            break;
        struct flight *f = free_flight(r);
        *f = (struct flight){.piece = piece, .slot = slot_of(r, &piece), .used = true};
        if (f->slot < SLOTS)
            r->slots[f->slot].pieces++;
        prepare(r, f);
    }
    if (!r->wake_armed) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
        io_uring_prep_poll_add(sqe, r->wake_fd, POLLIN);
        io_uring_sqe_set_data(sqe, NULL);
        r->wake_armed = true;
    }
    return true;
}

static void complete(struct ring *r, struct flight *f, int res)
{
    if (crn_spill_finish(r->s, &f->piece, res)) {
        prepare(r, f);
        return;
    }
    if (f->slot < SLOTS)
        r->slots[f->slot].pieces--;
    f->used = false;
}

static void reap(struct ring *r)
{
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&r->ring, &cqe) == 0 && cqe != NULL) {
        struct flight *f = io_uring_cqe_get_data(cqe);
        int res = cqe->res;
        io_uring_cqe_seen(&r->ring, cqe);
        if (f != NULL) {
            complete(r, f, res);
            continue;
        }
        uint64_t count;
        ssize_t n = read(r->wake_fd, &count, sizeof count);
        (void)n;
        r->wake_armed = false;
    }
}

static void announce(struct ring *r, int status)
{
    pthread_mutex_lock(&r->lock);
    r->start_status = status;
    r->started = true;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void *ring_main(void *arg)
{
    struct ring *r = arg;
    int status = init_ring(r);
    if (status == 0)
        register_what_goes(r);
    announce(r, status);
    if (status != 0)
        return NULL;
    while (serve_order(r), issue(r)) {
        int n = io_uring_submit_and_wait(&r->ring, 1);
        if (n < 0 && n != -EINTR && n != -EAGAIN && n != -EBUSY && !r->broken) {
            r->broken = true;
            crn_log(CRN_LOG_ERROR, "spill: io_uring_enter: %s", cairn_strerror(n));
        }
        reap(r);
    }
    io_uring_queue_exit(&r->ring);
    return NULL;
}

/* ---- what spill.c calls ---- */

static void destroy(struct ring *r)
{
    if (r->wake_fd >= 0)
        close(r->wake_fd);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

static int start_thread(struct ring *r)
{
    r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->wake_fd < 0)
        return -errno;
    int error = pthread_create(&r->thread, NULL, ring_main, r);
    if (error != 0)
        return -error;
    pthread_mutex_lock(&r->lock);
    while (!r->started)
        pthread_cond_wait(&r->changed, &r->lock);
    pthread_mutex_unlock(&r->lock);
    if (r->start_status != 0)
        pthread_join(r->thread, NULL);
    return r->start_status;
}

static int ring_start(struct crn_spill *s, char *out_why, uint32_t why_bytes)
{
    struct ring *r = calloc(1, sizeof *r);
    if (r == NULL)
        return -ENOMEM;
    r->s = s;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    int status = start_thread(r);
    if (status != 0) {
        snprintf(out_why, why_bytes, "%s", cairn_strerror(status));
        destroy(r);
        return status;
    }
    s->engine = r;
    snprintf(out_why, why_bytes, "%s, %s files", r->flags_text, r->fixed_files ? "registered" : "plain");
    return 0;
}

static void ring_wake(struct crn_spill *s)
{
    struct ring *r = s->engine;
    uint64_t one = 1;
    ssize_t n = write(r->wake_fd, &one, sizeof one);
    (void)n; /* EAGAIN: it is awake */
}

static void ring_stop(struct crn_spill *s)
{
    struct ring *r = s->engine;
    ring_wake(s);
    pthread_join(r->thread, NULL);
    destroy(r);
}

static int give_order(struct crn_spill *s, const struct order *order)
{
    struct ring *r = s->engine;
    pthread_mutex_lock(&r->lock);
    r->order = *order;
    ring_wake(s);
    while (!r->order.finished)
        pthread_cond_wait(&r->changed, &r->lock);
    int status = r->order.status;
    pthread_mutex_unlock(&r->lock);
    return status;
}

static int ring_offer(struct crn_spill *s, void *base, uint64_t bytes)
{
    struct order order = {.base = base, .bytes = bytes, .pending = true};
    return give_order(s, &order);
}

static void ring_withdraw(struct crn_spill *s, void *base, uint64_t bytes)
{
    struct order order = {.base = base, .bytes = bytes, .withdraw = true, .pending = true};
    give_order(s, &order);
}

const struct crn_spill_backend crn_spill_uring = {
    .start = ring_start,
    .wake = ring_wake,
    .stop = ring_stop,
    .offer = ring_offer,
    .withdraw = ring_withdraw,
};
