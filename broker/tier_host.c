/* The host tier: page-locked memory between a device and NVMe, arenas of host memory that no worker sees (space.h).
 *
 * Three moves, all of whole payloads whose bytes never change:
 *
 *     down   RESIDENT -> SPILLING -> SPILLED       a thread copies from the device, then its memory goes
 *     up     SPILLED -> RESTORING -> RESIDENT      a thread copies to the device, then the copy here goes
 *     sink   SPILLED stays SPILLED                 the spill engine writes the copy to NVMe, then it goes
 *
 * Each copy runs on a stream of its own (broker/device.h), and up has threads of its own, so a restore waits neither for what goes
 * down nor for a gather. A sink only reads: meanwhile the payload may be restored; the place that was written is then the
 * payload's all the same, and the copy here goes when nobody reads it any more.
 *
 * A copy here is never the only reason for anything durable: places are (tier.h). A device that fails leaves the payload where
 * it was; what is here stays good, so its entry stays. */
#include "broker/tier_impl.h"

#include "broker/arena.h"
#include "broker/crash.h"
#include "broker/device.h"
#include "ipc/chan.h"
#include "ipc/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>

#define UP_THREADS 2u /* a device copies both ways at once; the second one hides the gaps between payloads */
#define DOWN_THREADS 1u

bool crn_tier_has_host(const struct crn_space *space)
{
    return space->options.host_limit_bytes > 0 && space->tier != NULL && space->tier->to_host != NULL;
}

int crn_tier_host_open(struct crn_tier *t)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < t->n_spaces; i++)
        bytes += t->spaces[i].options.host_limit_bytes;
    if (bytes == 0)
        return 0;
    int status = crn_copier_create(DOWN_THREADS, &t->to_host);
    if (status == 0)
        status = crn_copier_create(UP_THREADS, &t->from_host);
    if (status == 0)
        crn_log(CRN_LOG_INFO, "tier: up to %" PRIu64 " MiB of host memory below the device", bytes >> 20);
    return status;
}

void crn_tier_host_close(struct crn_tier *t)
{
    crn_copier_destroy(t->to_host);
    crn_copier_destroy(t->from_host);
    t->to_host = t->from_host = NULL;
}

void *crn_tier_host_copy(const struct crn_payload *p)
{
    return (char *)p->host->mem.base + (uint64_t)p->host_extent.first * CRN_GRANULE_BYTES;
}

static void drop_copy(struct crn_payload *p)
{
    crn_space_free_host(p->host, &p->host_extent);
    p->host = NULL;
    p->host_extent = (struct crn_extent){0, 0, 0};
}

/* The copy of what is SPILLED goes: it has a place. */
static void leave_host(struct crn_payload *p)
{
    crn_tier_move_to(p, CRN_SPILLED);
    p->tier = CAIRN_TIER_NVME;
    drop_copy(p);
}

bool crn_tier_host_release(const struct crn_entry *e, struct crn_payload *p)
{
    bool above = p->state == CRN_RESIDENT && p->refs == 1; /* readers read that */
    bool below = p->state == CRN_SPILLED && p->place.bytes > 0 && crn_tier_idle(p);
    if (p->host == NULL || p->sink != NULL || p->move != NULL || !crn_tier_quiet(e) || (!above && !below))
        return false;
    if (p->state == CRN_SPILLED)
        leave_host(p);
    else
        drop_copy(p);
    return true;
}

/* ---- jobs ---- */

static struct crn_tier_move *move_of(struct crn_job *job)
{
    return (struct crn_tier_move *)(void *)((char *)job - offsetof(struct crn_tier_move, job));
}

static int run_down(struct crn_job *job)
{
    struct crn_tier_move *m = move_of(job);
    crn_device_lock(m->device, m->arena);
    return m->bytes > 0 ? crn_device_down(m->device, m->there, m->bytes, m->here) : 0;
}

static int run_up(struct crn_job *job)
{
    struct crn_tier_move *m = move_of(job);
    return m->bytes > 0 ? crn_device_up(m->device, m->there, m->bytes, m->here) : 0;
}

/* A move with both sides in memory; the payload has both. */
static struct crn_tier_move *job_new(struct crn_entry *e, struct crn_payload *p, struct crn_job job, struct crn_tier_order *order)
{
    struct crn_tier_move *m = crn_tier_move_new(e, p);
    if (m == NULL)
        return NULL;
    m->job = job;
    m->device = p->space->options.device;
    m->there = crn_payload_at(p);
    m->here = crn_tier_host_copy(p);
    m->arena = p->host;
    p->move = m;
    crn_tier_join(&m->orders, order);
    return m;
}

/* ---- down ---- */

static void pause_host(struct crn_tier *t, struct crn_payload *p)
{
    t->host_paused_until_ns = crn_now_ns() + CRN_TIER_PAUSE_NS;
    CRN_COUNT(&p->space->stats, io_error_total);
}

/* An order that wants it on NVMe found it on its way to here. */
static int go_on(struct crn_tier_move *m, struct crn_entry *e)
{
    struct crn_payload *p = m->payload;
    struct crn_tier_link *l = m->orders;
    struct crn_tier_order *first = l != NULL ? l->order : NULL;
    if (p->place.bytes > 0) {
        if (p->state == CRN_SPILLED)
            leave_host(p);
        return 0;
    }
    int status = p->state == CRN_SPILLED ? crn_tier_start_sink(e, p, m->how, first) : crn_tier_start_spill(e, p, m->how, first);
    for (l = l != NULL ? l->next : NULL; l != NULL && status == 0; l = l->next)
        crn_tier_join(p->sink != NULL ? &p->sink->orders : &p->move->orders, l->order);
    return status;
}

/* The copy is here. What somebody reads by now stays where it is. */
static int arrived(struct crn_tier_move *m, struct crn_entry *e)
{
    struct crn_payload *p = m->payload;
    bool free_to_go = e != NULL && crn_tier_quiet(e) && crn_tier_idle(p);
    CRN_COUNT(&p->space->stats, host_spilled_total);
    CRN_ADD(&p->space->stats, host_spilled_bytes_total, m->bytes);
    if (free_to_go) {
        crn_tier_let_go(p);
    } else {
        crn_tier_move_to(p, CRN_RESIDENT);
        drop_copy(p);
    }
    p->move = NULL; /* this one is over */
    if (m->onward && e != NULL)
        return go_on(m, e);
    return free_to_go ? 0 : CAIRN_E_BUSY;
}

static void down_ended(struct crn_job *job, int status)
{
    struct crn_tier_move *m = move_of(job);
    struct crn_payload *p = m->payload;
    struct crn_tier *t = p->space->tier;
    struct crn_entry *e = crn_tier_entry_of(m);
    t->down_bytes -= m->bytes;
    CRN_CRASH("host-copied");
    if (status == 0) {
        status = arrived(m, e);
    } else {
        pause_host(t, p);
        crn_tier_move_to(p, CRN_RESIDENT);
        drop_copy(p);
    }
    crn_tier_move_free(t, m, status);
    if (e != NULL && !e->in_catalog && !crn_tier_coming(e))
        crn_tier_adopt(t, e, -EIO); /* nobody need wait for it to be on NVMe */
}

int crn_tier_start_down(struct crn_entry *e, struct crn_payload *p, struct crn_tier_order *order)
{
    struct crn_tier *t = e->space->tier;
    if (!crn_tier_has_host(e->space))
        return CAIRN_E_UNSUPPORTED;
    if (p->state != CRN_RESIDENT || p->move != NULL || p->host != NULL)
        return CAIRN_E_STATE;
    int status = crn_space_alloc_host(p->space, p->bytes, &p->host, &p->host_extent);
    if (status != 0)
        return status;
    struct crn_tier_move *m = job_new(e, p, (struct crn_job){.run = run_down, .done = down_ended}, order);
    if (m == NULL) {
        drop_copy(p);
        return -ENOMEM;
    }
    crn_tier_move_to(p, CRN_SPILLING);
    t->down_bytes += m->bytes;
    crn_copier_submit(t->to_host, &m->job);
    return 0;
}

/* ---- up ---- */

static void up_ended(struct crn_job *job, int status)
{
    struct crn_tier_move *m = move_of(job);
    struct crn_payload *p = m->payload;
    struct crn_stats *stats = &p->space->stats;
    struct crn_entry *e = crn_tier_entry_of(m);
    CRN_CRASH("host-restored");
    if (status != 0) {
        CRN_COUNT(stats, restore_failed_total);
        pause_host(p->space->tier, p);
        crn_tier_move_to(p, CRN_SPILLED);
        crn_tier_give_memory_back(p);
    } else {
        CRN_COUNT(stats, host_restored_total);
        CRN_ADD(stats, host_restored_bytes_total, m->bytes);
        crn_tier_move_to(p, CRN_RESIDENT);
        p->tier = p->arena->mem.ops->cpu_visible ? CAIRN_TIER_HOST : CAIRN_TIER_DEVICE;
    }
    crn_tier_wake_all(m, status == 0 ? CRN_PROGRESS_READY : CRN_PROGRESS_FAILED);
    /* a thread may be verifying the copy: then it goes when there must be room */
    if (status == 0 && p->sink == NULL && e != NULL && crn_tier_quiet(e))
        drop_copy(p);
    crn_tier_move_free(p->space->tier, m, status);
}

int crn_tier_start_up(struct crn_entry *e, struct crn_payload *p, struct crn_tier_order *order)
{
    struct crn_tier_move *m = job_new(e, p, (struct crn_job){.run = run_up, .done = up_ended}, order);
    if (m == NULL)
        return -ENOMEM;
    crn_tier_move_to(p, CRN_RESTORING);
    crn_copier_submit(e->space->tier->from_host, &m->job);
    return 0;
}

/* ---- on to NVMe ---- */

int crn_tier_start_sink(struct crn_entry *e, struct crn_payload *p, int how, struct crn_tier_order *order)
{
    if (e->space->tier->store == NULL)
        return CAIRN_E_UNSUPPORTED;
    if (p->state != CRN_SPILLED || p->host == NULL || p->place.bytes > 0 || p->move != NULL || p->sink != NULL)
        return CAIRN_E_STATE;
    return crn_tier_start_write(e, p, true, how, order);
}

static void sink_worked(struct crn_tier *t, struct crn_tier_move *m, struct crn_entry *e)
{
    struct crn_payload *p = m->payload;
    bool down_here = p->state == CRN_SPILLED && p->move == NULL && e != NULL && crn_tier_quiet(e) && crn_tier_idle(p);
    CRN_COUNT(&p->space->stats, spilled_total);
    CRN_ADD(&p->space->stats, spilled_bytes_total, m->io.bytes);
    if (m->recode != NULL && !(m->release && down_here)) /* somebody has the plain one: what was written is no copy of it */
        crn_store_free(t->store, &m->place);
    else
        p->place = m->place;
    if (m->release && down_here) {
        leave_host(p);
        if (m->recode != NULL)
            crn_tier_become_coded(e, p, m->recode);
    }
    crn_tier_persist_for(t, m, e);
}

void crn_tier_sink_ended(struct crn_tier *t, struct crn_tier_move *m)
{
    struct crn_payload *p = m->payload;
    struct crn_entry *e = crn_tier_entry_of(m);
    int status = m->io.result;
    t->sink_bytes -= m->bytes;
    CRN_CRASH("sunk");
    if (status == 0)
        sink_worked(t, m, e);
    else
        crn_tier_write_failed(t, m);
    crn_tier_move_free(t, m, status);
    if (e == NULL)
        return;
    if (p->state == CRN_RESIDENT) /* restored meanwhile */
        crn_tier_host_release(e, p);
    if (!e->in_catalog && !crn_tier_coming(e))
        crn_tier_adopt(t, e, status != 0 ? status : -EIO); /* nobody need wait for it */
}
