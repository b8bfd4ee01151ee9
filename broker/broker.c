/* The running broker: what is made in which order, and what one turn of the loop does.
 *
 * Made: directory, lock and ZeroMQ socket (a second broker stops here), descriptor socket, arenas, copy threads. Given back in the
 * reverse order. A turn: what epoll reports (descriptor channel, deaths, copies done, time, signals), then a bounded number of
 * messages, then whatever was marked on the way is swept. ZeroMQ's descriptor is edge-triggered and an edge may be eaten by a
 * send, so messages are looked for on every turn, and again at once while the last look did not find the end. */
#include "broker/broker.h"

#include "broker/dispatch.h"
#include "broker/fdserve.h"
#include "broker/lease.h"
#include "broker/notify.h"
#include "broker/rundir.h"
#include "ipc/log.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define MESSAGES_PER_TURN 64
#define TICK_NS 100000000L
#define SPARE_NS UINT64_C(10000000000) /* an idle landing zone is given back after that time */

#define GRAVE_NS UINT64_C(1000000000)  /* a cuda-ipc zone is freed so long after its session ended */

/* ---- events ---- */

/* A session is made by HELLO, and only sessions watch their process. */
static int is_hello(const void *bytes, size_t n)
{
    enum crn_msg_type type;
    uint64_t request;
    return crn_wire_peek(bytes, n, &type, &request) == 0 && type == CRN_MSG_hello;
}

/* Up to MESSAGES_PER_TURN messages; 1 when there may be more. */
static int serve_messages(struct crn_broker *b)
{
    static uint8_t bytes[CRN_MESSAGE_MAX];
    for (int i = 0; i < MESSAGES_PER_TURN; i++) {
        struct crn_peer peer;
        size_t n;
        int status = crn_router_recv(b->router, is_hello, bytes, sizeof bytes, &n, &peer);
        if (status == CAIRN_E_TIMEOUT)
            return 0;
        if (status == 0)
            crn_dispatch(b, &peer, bytes, n);
        else
            CRN_COUNT(&b->stats, bad_message_total);
    }
    return 1;
}

static void router_ready(struct crn_watch *watch, uint32_t events)
{
    (void)watch;
    (void)events; /* every turn looks for messages */
}

static void copies_ready(struct crn_watch *watch, uint32_t events)
{
    struct crn_broker *b = watch->ctx;
    (void)events;
    crn_copier_collect(b->copier);
}

static void expire_leases(struct crn_broker *b, uint64_t now)
{
    uint64_t ttl_ns = b->config->lease_ttl_ms * UINT64_C(1000000);
    for (struct crn_session *s = b->sessions.first; s != NULL; s = s->next) {
        if (s->n_leases == 0 || now - s->seen_ns < ttl_ns)
            continue;
        uint32_t n = crn_lease_end_all(s);
        CRN_ADD(&s->space->stats, lease_expired_total, n);
        crn_log(CRN_LOG_INFO, "session %" PRIx64 ": %u leases expired", s->id, n);
    }
}

static void tick(struct crn_watch *watch, uint32_t events)
{
    struct crn_broker *b = watch->ctx;
    uint64_t ignored, now = crn_now_ns();
    (void)events;
    if (read(watch->fd, &ignored, sizeof ignored) < 0 && errno != EAGAIN)
        crn_log(CRN_LOG_ERROR, "timer: %s", cairn_strerror(-errno));
    expire_leases(b, now);
    crn_session_trim(b, now > SPARE_NS ? now - SPARE_NS : 0);
    for (struct crn_session *s = b->sessions.first; s != NULL; s = s->next)
        crn_session_flush(s);
    b->sweep_due = true; /* at the end of the turn: what is ready in this one must stay in place */
    crn_landings_sweep(&b->landings, now > GRAVE_NS ? now - GRAVE_NS : 0);
    crn_tier_tick(b->tier);
    crn_dispatch_parked(b);
}

static void tier_ready(struct crn_watch *watch, uint32_t events)
{
    struct crn_broker *b = watch->ctx;
    (void)events;
    crn_tier_collect(b->tier);
    crn_dispatch_parked(b);
}

static void signalled(struct crn_watch *watch, uint32_t events)
{
    struct crn_broker *b = watch->ctx;
    struct signalfd_siginfo info;
    (void)events;
    if (read(watch->fd, &info, sizeof info) != (ssize_t)sizeof info)
        return;
    crn_log(CRN_LOG_INFO, "%s: stopping", info.ssi_signo == SIGINT ? "interrupted" : "terminated");
    b->stopping = 1;
}

int crn_broker_run(struct crn_broker *b)
{
    int more = 1;
    crn_notify("READY=1");
    while (!b->stopping) {
        int status = crn_loop_turn(b->loop, more ? 0 : -1);
        if (status != 0) {
            crn_log(CRN_LOG_ERROR, "loop: %s", cairn_strerror(status));
            return status;
        }
        more = serve_messages(b);
        if (b->sessions.any_doomed) {
            crn_session_reap_doomed(b, 0);
            b->sweep_due = true;
            more = 1; /* what was sent may have eaten an edge */
        }
        if (b->sweep_due)
            crn_fdserve_sweep(b->fds, crn_now_ns());
        b->sweep_due = false;
    }
    crn_notify("STOPPING=1");
    return 0;
}

/* ---- making ---- */

static int watch_timer(struct crn_broker *b)
{
    struct itimerspec every = {{0, TICK_NS}, {0, TICK_NS}};
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (fd < 0 || timerfd_settime(fd, 0, &every, NULL) != 0) {
        int status = -errno;
        crn_log(CRN_LOG_ERROR, "timer: %s", cairn_strerror(status));
        if (fd >= 0)
            close(fd);
        return status;
    }
    b->timer_watch = (struct crn_watch){fd, tick, b};
    return crn_loop_add(b->loop, &b->timer_watch, EPOLLIN);
}

/* Before any thread starts: they inherit the mask. */
static int watch_signals(struct crn_broker *b)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) {
        int status = -errno;
        crn_log(CRN_LOG_ERROR, "signals: %s", cairn_strerror(status));
        return status;
    }
    b->signal_watch = (struct crn_watch){fd, signalled, b};
    return crn_loop_add(b->loop, &b->signal_watch, EPOLLIN);
}

/* libzmq aborts when descriptors run out, so there must be far more than sessions need. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        crn_log(CRN_LOG_WARN, "descriptor limit: %s", cairn_strerror(-errno));
}

/* What the configuration means by so many bytes: half of RAM, the default, becomes half of the device's memory. */
static uint64_t memory_of(const struct crn_broker *b, uint64_t bytes)
{
    uint64_t half = crn_device_bytes(b->device) / 2;
    if (half == 0 || !b->config->memory_default)
        return bytes;
    uint64_t mine = (uint64_t)((unsigned __int128)bytes * half / b->config->memory_bytes);
    return mine > CRN_GRANULE_BYTES ? mine : CRN_GRANULE_BYTES;
}

/* Of the host tier, for so many bytes of --memory; none without a device. By default as much as the device's share, within a quarter
 * of RAM. */
static uint64_t host_tier_of(const struct crn_broker *b, uint64_t memory_bytes)
{
    const struct crn_config *c = b->config;
    if (b->device == NULL)
        return 0;
    uint64_t all = memory_of(b, c->memory_bytes);
    all = c->host_tier_default && all < c->host_tier_bytes ? all : c->host_tier_bytes;
    return (uint64_t)((unsigned __int128)all * memory_bytes / c->memory_bytes);
}

static int open_device(struct crn_broker *b)
{
    const struct crn_config *c = b->config;
    int status = crn_device_open(c->device, c->mem_kind, &b->device);
    if (status == 0 && b->device == NULL && !c->host_tier_default && c->host_tier_bytes > 0)
        crn_log(CRN_LOG_INFO, "host-tier: payloads are in host memory already: not used");
    b->landings = (struct crn_landings){.mem = crn_device_mem(b->device),
                                        .device = crn_device_ordinal(b->device),
                                        .max_bytes = c->landing_max_bytes,
                                        .limit_bytes = memory_of(b, c->memory_bytes)};
    b->host_landings = b->landings;
    b->host_landings.mem = &crn_mem_host;
    b->host_landings.device = -1;
    return status;
}

static int open_spaces(struct crn_broker *b)
{
    b->spaces = calloc(b->config->n_spaces, sizeof *b->spaces);
    if (b->spaces == NULL)
        return -ENOMEM;
    for (; b->n_spaces < b->config->n_spaces; b->n_spaces++) {
        const struct crn_config_space *c = &b->config->spaces[b->n_spaces];
        uint64_t limit = memory_of(b, c->memory_bytes);
        struct crn_space_options options = {
            .name = c->name,
            .limit_bytes = limit,
            .arena_bytes = b->config->arena_bytes < limit ? b->config->arena_bytes : limit,
            .first_generation = 1 + (b->boot & 0xffff),
            .mem = crn_device_mem(b->device),
            .device = b->device,
            .host_limit_bytes = host_tier_of(b, c->memory_bytes),
            .spill_int8 = b->config->spill_int8 || c->spill_int8};
        int status = crn_space_open(&options, &b->spaces[b->n_spaces]);
        if (status != 0)
            return status;
    }
    return 0;
}

static int open_sockets(struct crn_broker *b)
{
    char fd_path[128];
    int status = crn_rundir_prepare(b->config);
    if (status == 0)
        status = crn_router_open(b->config->socket, &b->router);
    if (status != 0)
        return status;
    b->router_watch = (struct crn_watch){crn_router_fd(b->router), router_ready, b};
    status = crn_loop_add(b->loop, &b->router_watch, EPOLLIN);
    snprintf(fd_path, sizeof fd_path, "%s.fd", b->config->socket);
    if (status == 0)
        status = crn_fdserve_open(b, fd_path, &b->fds);
    return status == 0 ? crn_rundir_admit(b->config) : status;
}

static int open_copier(struct crn_broker *b)
{
    int status = crn_copier_create((unsigned)b->config->copy_threads, &b->copier);
    if (status != 0) {
        crn_log(CRN_LOG_ERROR, "copy threads: %s", cairn_strerror(status));
        return status;
    }
    b->copier_watch = (struct crn_watch){crn_copier_fd(b->copier), copies_ready, b};
    return crn_loop_add(b->loop, &b->copier_watch, EPOLLIN);
}

static int watch_tier(struct crn_broker *b)
{
    int status = 0;
    for (uint32_t i = 0; i < CRN_TIER_FDS && b->tier != NULL && status == 0; i++) {
        b->tier_watch[i] = (struct crn_watch){crn_tier_fd(b->tier, i), tier_ready, b};
        if (b->tier_watch[i].fd >= 0)
            status = crn_loop_add(b->loop, &b->tier_watch[i], EPOLLIN);
    }
    return status;
}

/* Without NVMe the broker goes on: memory, and a host tier below a device, is all there is then, and `status` says why. */
static int open_tier(struct crn_broker *b)
{
    const struct crn_config *c = b->config;
    struct crn_tier_config config = {.store = c->nvme,
                                     .high_percent = (uint32_t)c->high_percent,
                                     .low_percent = (uint32_t)c->low_percent,
                                     .write_through = c->write_through};
    bool host = host_tier_of(b, c->memory_bytes) > 0;
    if (c->nvme.n_files == 0 && !host)
        return 0;
    int status = crn_tier_open(&config, b->spaces, b->n_spaces, &b->tier);
    b->tier_status = c->nvme.n_files > 0 ? status : 0;
    if (status != 0 && c->nvme.n_files > 0 && host) {
        config.store.n_files = 0;
        (void)crn_tier_open(&config, b->spaces, b->n_spaces, &b->tier);
    }
    return watch_tier(b);
}

static int open_all(struct crn_broker *b)
{
    if (getrandom(&b->boot, sizeof b->boot, 0) != (ssize_t)sizeof b->boot)
        return -errno;
    raise_descriptor_limit();
    int status = crn_loop_create(&b->loop);
    if (status == 0)
        status = watch_signals(b);
    if (status == 0)
        status = watch_timer(b);
    if (status == 0)
        status = open_sockets(b);
    if (status == 0)
        status = open_device(b);
    if (status == 0)
        status = open_spaces(b);
    if (status == 0)
        status = open_tier(b);
    return status == 0 ? open_copier(b) : status;
}

int crn_broker_open(const struct crn_config *config, struct crn_broker **out_broker)
{
    struct crn_broker *b = calloc(1, sizeof *b);
    if (b == NULL)
        return -ENOMEM;
    b->config = config;
    b->started_ns = crn_now_ns();
    b->timer_watch.fd = b->signal_watch.fd = -1;
    int status = open_all(b);
    if (status != 0) {
        crn_broker_close(b);
        return status;
    }
    crn_log(CRN_LOG_INFO,
            "listening on %s: %u namespaces, %" PRIu64 " MiB, payloads in %s memory",
            config->socket, b->n_spaces, memory_of(b, config->memory_bytes) >> 20,
            crn_device_mem(b->device)->name);
    *out_broker = b;
    return 0;
}

void crn_broker_close(struct crn_broker *b)
{
    b->stopping = 1;
    crn_session_reap_doomed(b, 1);
    if (b->copier != NULL)
        crn_copier_drain(b->copier);
    crn_copier_destroy(b->copier);
    crn_fdserve_close(b->fds);
    crn_router_close(b->router);
    crn_tier_close(b->tier);
    for (uint32_t i = 0; i < b->n_spaces; i++)
        crn_space_close(&b->spaces[i]);
    free(b->spaces);
    crn_landings_sweep(&b->landings, UINT64_MAX);
    crn_device_close(b->device);
    if (b->timer_watch.fd >= 0)
        close(b->timer_watch.fd);
    if (b->signal_watch.fd >= 0)
        close(b->signal_watch.fd);
    crn_loop_destroy(b->loop);
    free(b);
}
