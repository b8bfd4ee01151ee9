/* Choosing a device, and the jobs that run on it. Built without CUDA there is only the host, and a wish for anything else is
 * refused; "auto" takes what there is. Jobs come from copy threads; a lock makes them take turns, as the stream would anyway. */
#include "broker/device.h"

#include "broker/arena.h"
#include "broker/gather_there.h"
#include "ipc/log.h"
#include "kernels/memory.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifdef CRN_CUDA
#include "ipc/cuda_driver.h"
#include "kernels/cuda/exec.h"
#endif

#define WORKSPACE_BYTES ((size_t)8 << 20)
#define STAGE_BYTES ((uint64_t)1 << 20) /* host buffers are multiples of it */
#define STAGES_KEPT 16u
#define LANES_KEPT 8u

struct crn_device {
    const struct crn_mem_ops *mem;
    int ordinal;
    char name[64];
    uint64_t bytes;
    pthread_mutex_t lock; /* of what follows */
    struct crn_gather_there gather;
    struct crn_gather_scratch lists;
    pthread_mutex_t stage_lock;
    struct crn_device_stage *stages; /* idle */
    unsigned n_stages;
    pthread_mutex_t lane_lock;
    struct crn_cuda_lane *lanes[LANES_KEPT]; /* idle */
    unsigned n_lanes;
    pthread_mutex_t pin_lock; /* arenas are page-locked one at a time */
};

const struct crn_mem_ops *crn_device_mem(const struct crn_device *device)
{
    return device != NULL ? device->mem : &crn_mem_host;
}

int crn_device_ordinal(const struct crn_device *device)
{
    return device != NULL ? device->ordinal : -1;
}

const char *crn_device_name(const struct crn_device *device)
{
    return device != NULL ? device->name : "host";
}

uint64_t crn_device_bytes(const struct crn_device *device)
{
    return device != NULL ? device->bytes : 0;
}

/* ---- choosing ---- */

#ifdef CRN_CUDA

/* "cuda:N" or "auto" (N = 0). */
static int parse(const char *wish, int *out_ordinal)
{
    char rest;
    *out_ordinal = 0;
    if (strcmp(wish, "auto") == 0)
        return 0;
    return sscanf(wish, "cuda:%d%c", out_ordinal, &rest) == 1 && *out_ordinal >= 0 ? 0 : CAIRN_E_ARG;
}

static const struct crn_mem_ops *kind_for(const char *kind, char *why, size_t why_bytes)
{
    static const struct crn_mem_ops *const kinds[] = {&crn_mem_cuda_vmm, &crn_mem_cuda_ipc};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcmp(kind, "auto") != 0 && strcmp(kind, kinds[i]->name) != 0)
            continue;
        if (kinds[i]->probe(why, why_bytes))
            return kinds[i];
    }
    return NULL;
}

static int use(struct crn_device *d, const char *wish, const char *kind, char *why, size_t why_bytes)
{
    struct crn_cuda_info info;
    int n = 0, status = parse(wish, &d->ordinal);
    snprintf(why, why_bytes, "it is neither host, auto nor cuda:N");
    if (status == 0)
        status = crn_cuda_devices(&n, why, why_bytes);
    if (status == 0 && d->ordinal >= n) {
        snprintf(why, why_bytes, "there are %d devices", n);
        status = CAIRN_E_NO_DEVICE;
    }
    if (status != 0)
        return status;
    d->mem = kind_for(kind, why, why_bytes);
    if (d->mem == NULL)
        return CAIRN_E_UNSUPPORTED;
    d->gather.ops = &crn_kernels_cuda;
    status = crn_cuda_info(d->ordinal, &info);
    if (status == 0)
        status = crn_cuda_exec_open_plain(d->ordinal, WORKSPACE_BYTES, &d->gather.exec);
    snprintf(why, why_bytes, "%s", cairn_strerror(status));
    if (status != 0)
        return status;
    memcpy(d->name, info.name, sizeof d->name);
    d->bytes = info.total_bytes;
    return 0;
}

static void leave(struct crn_device *d)
{
    crn_cuda_exec_close(&d->gather.exec);
}

static int pin(const struct crn_device *d, void *at, uint64_t bytes)
{
    return crn_cuda_pin(d->ordinal, at, bytes);
}

static void unpin(const struct crn_device *d, void *at, uint64_t bytes)
{
    (void)crn_cuda_unpin(d->ordinal, at, bytes);
}

static int lane_take(struct crn_device *d, struct crn_cuda_lane **out_lane)
{
    struct crn_cuda_lane *lane = NULL;
    pthread_mutex_lock(&d->lane_lock);
    if (d->n_lanes > 0)
        lane = d->lanes[--d->n_lanes];
    pthread_mutex_unlock(&d->lane_lock);
    if (lane == NULL)
        return crn_cuda_lane_open(d->ordinal, out_lane);
    *out_lane = lane;
    return 0;
}

static void lane_give(struct crn_device *d, struct crn_cuda_lane *lane)
{
    pthread_mutex_lock(&d->lane_lock);
    bool keep = d->n_lanes < LANES_KEPT;
    if (keep)
        d->lanes[d->n_lanes++] = lane;
    pthread_mutex_unlock(&d->lane_lock);
    if (!keep)
        crn_cuda_lane_close(lane);
}

static void close_lanes(struct crn_device *d)
{
    while (d->n_lanes > 0)
        crn_cuda_lane_close(d->lanes[--d->n_lanes]);
}

static int move(struct crn_device *d, void *dst, const void *src, uint64_t bytes, bool up)
{
    struct crn_cuda_lane *lane;
    struct crn_cuda_move m = {.dst = dst, .src = src, .bytes = bytes, .to = up ? CRN_CUDA_DEVICE : CRN_CUDA_HOST,
                              .from = up ? CRN_CUDA_HOST : CRN_CUDA_DEVICE};
    int status = lane_take(d, &lane);
    if (status != 0)
        return status;
    status = crn_cuda_lane_copy(lane, &m);
    if (status == 0)
        status = crn_cuda_lane_wait(lane);
    lane_give(d, lane);
    return status;
}

#else

static void close_lanes(struct crn_device *d)
{
    (void)d;
}

static int move(struct crn_device *d, void *dst, const void *src, uint64_t bytes, bool up)
{
    (void)d;
    (void)dst;
    (void)src;
    (void)bytes;
    (void)up;
    return CAIRN_E_NOT_BUILT;
}

static int use(struct crn_device *d, const char *wish, const char *kind, char *why, size_t why_bytes)
{
    (void)d;
    (void)wish;
    (void)kind;
    snprintf(why, why_bytes, "this cairnd is built without CUDA");
    return CAIRN_E_NOT_BUILT;
}

static void leave(struct crn_device *d)
{
    (void)d;
}

static int pin(const struct crn_device *d, void *at, uint64_t bytes)
{
    (void)d;
    (void)at;
    (void)bytes;
    return CAIRN_E_NOT_BUILT;
}

static void unpin(const struct crn_device *d, void *at, uint64_t bytes)
{
    (void)pin(d, at, bytes);
}

#endif

int crn_device_open(const char *wish, const char *kind, struct crn_device **out_device)
{
    char why[128];
    *out_device = NULL;
    if (strcmp(wish, "host") == 0)
        return 0;
    struct crn_device *d = calloc(1, sizeof *d);
    if (d == NULL)
        return -ENOMEM;
    int status = use(d, wish, kind, why, sizeof why);
    if (status == 0) {
        pthread_mutex_init(&d->lock, NULL);
        pthread_mutex_init(&d->stage_lock, NULL);
        pthread_mutex_init(&d->lane_lock, NULL);
        pthread_mutex_init(&d->pin_lock, NULL);
        crn_log(CRN_LOG_INFO, "device cuda:%d, %s: payloads in %s memory, as %s asks", d->ordinal, d->name, d->mem->name,
                wish);
        *out_device = d;
        return 0;
    }
    free(d);
    if (strcmp(wish, "auto") == 0) {
        crn_log(CRN_LOG_INFO, "device: payloads in host memory, because %s", why);
        return 0;
    }
    crn_log(CRN_LOG_ERROR, "device %s with %s memory: %s: %s", wish, kind, cairn_strerror(status), why);
    return status;
}

static void stage_free(struct crn_device *d, struct crn_device_stage *s)
{
    if (s->pinned)
        unpin(d, s->at, s->bytes);
    munmap(s->at, s->bytes);
    free(s);
}

void crn_device_close(struct crn_device *device)
{
    if (device == NULL)
        return;
    while (device->stages != NULL) {
        struct crn_device_stage *s = device->stages;
        device->stages = s->next;
        stage_free(device, s);
    }
    close_lanes(device);
    crn_gather_there_end(&device->gather);
    crn_memory_free(&device->gather.exec, device->lists.at);
    leave(device);
    pthread_mutex_destroy(&device->lock);
    pthread_mutex_destroy(&device->stage_lock);
    pthread_mutex_destroy(&device->lane_lock);
    pthread_mutex_destroy(&device->pin_lock);
    free(device);
}

/* ---- host buffers ---- */

static struct crn_device_stage *stage_idle(struct crn_device *d, uint64_t bytes)
{
    struct crn_device_stage **at = &d->stages, *s;
    pthread_mutex_lock(&d->stage_lock);
    while (*at != NULL && (*at)->bytes < bytes)
        at = &(*at)->next;
    s = *at;
    if (s != NULL) {
        *at = s->next;
        d->n_stages--;
    }
    pthread_mutex_unlock(&d->stage_lock);
    return s;
}

int crn_device_stage_take(struct crn_device *device, uint64_t bytes, struct crn_device_stage **out_stage)
{
    struct crn_device_stage *s = stage_idle(device, bytes);
    if (s != NULL) {
        *out_stage = s;
        return 0;
    }
    s = calloc(1, sizeof *s);
    if (s == NULL)
        return -ENOMEM;
    s->bytes = (bytes + STAGE_BYTES - 1) / STAGE_BYTES * STAGE_BYTES;
    s->at = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->at == MAP_FAILED) {
        free(s);
        return -ENOMEM;
    }
    s->pinned = pin(device, s->at, s->bytes) == 0;
    *out_stage = s;
    return 0;
}

void crn_device_stage_give(struct crn_device *device, struct crn_device_stage *stage)
{
    pthread_mutex_lock(&device->stage_lock);
    int keep = device->n_stages < STAGES_KEPT;
    if (keep) {
        stage->next = device->stages;
        device->stages = stage;
        device->n_stages++;
    }
    pthread_mutex_unlock(&device->stage_lock);
    if (!keep)
        stage_free(device, stage);
}

/* ---- moves between tiers ---- */

int crn_device_down(struct crn_device *device, const void *at, uint64_t bytes, void *host)
{
    if (device != NULL)
        return move(device, host, at, bytes, false);
    memcpy(host, at, bytes);
    return 0;
}

int crn_device_up(struct crn_device *device, void *at, uint64_t bytes, const void *host)
{
    if (device != NULL)
        return move(device, at, host, bytes, true);
    memcpy(at, host, bytes);
    return 0;
}

void crn_device_lock(struct crn_device *device, struct crn_arena *arena)
{
    if (device == NULL || atomic_load_explicit(&arena->locked, memory_order_acquire) != CRN_ARENA_UNTRIED)
        return;
    pthread_mutex_lock(&device->pin_lock);
    if (atomic_load_explicit(&arena->locked, memory_order_relaxed) == CRN_ARENA_UNTRIED) {
        int status = pin(device, arena->mem.base, arena->mem.bytes);
        if (status != 0)
            crn_log(CRN_LOG_WARN, "host tier: arena %u is not page-locked: %s: moves cost more", arena->id, cairn_strerror(status));
        atomic_store_explicit(&arena->locked, status == 0 ? CRN_ARENA_LOCKED : CRN_ARENA_UNLOCKED, memory_order_release);
    }
    pthread_mutex_unlock(&device->pin_lock);
}

void crn_device_unlock(struct crn_device *device, struct crn_arena *arena)
{
    if (device != NULL && atomic_load_explicit(&arena->locked, memory_order_acquire) == CRN_ARENA_LOCKED)
        unpin(device, arena->mem.base, arena->mem.bytes);
}

/* ---- jobs ---- */

int crn_device_read(struct crn_device *device, const void *at, uint64_t bytes, void *out_host)
{
    pthread_mutex_lock(&device->lock);
    int status = crn_memory_get(&device->gather.exec, out_host, at, bytes);
    pthread_mutex_unlock(&device->lock);
    return status;
}

int crn_device_write(struct crn_device *device, void *at, uint64_t bytes, const void *host)
{
    pthread_mutex_lock(&device->lock);
    int status = crn_memory_put(&device->gather.exec, at, host, bytes);
    pthread_mutex_unlock(&device->lock);
    return status;
}

static int checksum(struct crn_device *d, const void *at, uint64_t bytes, uint64_t *out_sum)
{
    return d->gather.ops->checksum(&d->gather.exec, at, bytes, out_sum);
}

int crn_device_checksum(struct crn_device *device, const void *at, uint64_t bytes, uint64_t *out_sum)
{
    pthread_mutex_lock(&device->lock);
    int status = checksum(device, at, bytes, out_sum);
    pthread_mutex_unlock(&device->lock);
    return status;
}

static int bring_lists(struct crn_device *d, const struct crn_device_lists *lists)
{
    const struct crn_exec *e = &d->gather.exec;
    size_t bytes = lists->n * sizeof *lists->at;
    if (bytes > d->lists.bytes) {
        void *grown;
        int status = crn_memory_alloc(e, bytes, &grown);
        if (status != 0)
            return status;
        crn_memory_free(e, d->lists.at);
        d->lists = (struct crn_gather_scratch){grown, bytes};
    }
    return crn_memory_put(e, d->lists.at, lists->at, bytes);
}

/* Where a pointer into the lists points after they were brought over; others stay. */
static const void *brought(const struct crn_device *d, const struct crn_device_lists *lists, const void *p)
{
    uintptr_t at = (uintptr_t)p, base = (uintptr_t)lists->at;
    return p != NULL && at >= base && at - base < lists->n * sizeof *lists->at ? (const char *)d->lists.at + (at - base) : p;
}

int crn_device_gather_kv(struct crn_device *device, const struct crn_gather_kv *g, const struct crn_device_lists *lists,
                         uint64_t *out_sum)
{
    struct crn_gather_head heads[CAIRN_MAX_KV_HEADS];
    struct crn_head_parts parts[CAIRN_MAX_KV_HEADS];
    struct crn_gather_kv there = *g;
    uint64_t bytes;
    int status = crn_layout_kv(&g->dst, parts, &bytes);
    if (status != 0)
        return status;
    pthread_mutex_lock(&device->lock);
    status = bring_lists(device, lists);
    for (uint32_t h = 0; h < g->dst.n_kv_heads && status == 0; h++) {
        heads[h] = g->heads[h];
        heads[h].pos = brought(device, lists, heads[h].pos);
        heads[h].index = brought(device, lists, heads[h].index);
    }
    there.heads = heads;
    if (status == 0)
        status = crn_gather_kv_there(&device->gather, &there);
    if (status == 0)
        status = checksum(device, g->out, bytes, out_sum);
    pthread_mutex_unlock(&device->lock);
    return status;
}

int crn_device_gather_state(struct crn_device *device, const struct crn_gather_state *g, const struct crn_device_lists *lists,
                            uint32_t *out_dtype, uint64_t *out_sum)
{
    struct crn_gather_state there = *g;
    struct crn_state_parts parts;
    uint64_t bytes;
    int status = crn_layout_state(g->dst_dtype, g->n, g->hidden, &parts, &bytes);
    if (status != 0)
        return status;
    pthread_mutex_lock(&device->lock);
    status = bring_lists(device, lists);
    there.pos = brought(device, lists, g->pos);
    there.index = brought(device, lists, g->index);
    if (status == 0)
        status = crn_gather_state_there(&device->gather, &there, out_dtype);
    if (status == 0)
        status = checksum(device, g->out, bytes, out_sum);
    pthread_mutex_unlock(&device->lock);
    return status;
}
