/* STAT: counters of the session's namespace, with those that belong to no namespace added. Gauges are computed here, when somebody
 * looks; totals are kept where things happen. */
#include "broker/broker.h"
#include "broker/dispatch.h"
#include "broker/tier.h"

#include <stdio.h>
#include <string.h>

static void add_sessions(const struct crn_broker *b, const struct crn_space *space,
                         struct crn_stats *out)
{
    uint64_t sessions = 0, leases = 0, drafts = 0, landing = 0;
    for (const struct crn_session *s = b->sessions.first; s != NULL; s = s->next) {
        if (s->space != space)
            continue;
        sessions++;
        leases += s->n_leases;
        drafts += s->n_drafts;
        for (const struct crn_landing *l = s->landings; l != NULL; l = l->next)
            landing += l->mem.bytes;
        landing += s->spare != NULL ? s->spare->mem.bytes : 0;
    }
    CRN_GAUGE(out, sessions, sessions);
    CRN_GAUGE(out, leases, leases);
    CRN_GAUGE(out, drafts, drafts);
    CRN_GAUGE(out, landing_bytes, landing);
}

static void add_memory(const struct crn_space *space, struct crn_stats *out)
{
    uint64_t largest = 0;
    for (const struct crn_arena *a = space->arenas; a != NULL; a = a->next) {
        uint64_t free_run =
            (uint64_t)crn_extents_view(a->extents).largest_free * CRN_GRANULE_BYTES;
        largest = free_run > largest ? free_run : largest;
    }
    CRN_GAUGE(out, memory_limit_bytes, space->options.limit_bytes);
    CRN_GAUGE(out, arena_bytes, space->arena_bytes);
    CRN_GAUGE(out, used_bytes, space->used_bytes);
    CRN_GAUGE(out, payload_bytes, space->payload_bytes);
    CRN_GAUGE(out, largest_free_bytes, largest);
    CRN_GAUGE(out, entries, space->entries.n);
    CRN_GAUGE(out, plans, space->plans.n);
}

/* The engine of the NVMe tier, or why there is none. */
static int io_text(const struct crn_broker *b, char *out, size_t bytes)
{
    if (crn_tier_has_nvme(b->tier))
        return snprintf(out, bytes, "%s", crn_tier_text(b->tier));
    if (b->tier_status == 0)
        return snprintf(out, bytes, "no nvme: not asked for (--nvme)");
    return snprintf(out, bytes, "no nvme: %s; see the log", cairn_strerror(b->tier_status));
}

int crn_handle_stat(struct crn_call *call)
{
    const struct crn_broker *b = call->broker;
    const struct crn_space *space = call->session->space;
    struct crn_stats *stats = (struct crn_stats *)(void *)call->scratch[0];
    char *notes = (char *)call->scratch[1];
    for (size_t i = 0; i < CRN_COUNTER_COUNT; i++)
        stats->v[i] = space->stats.v[i] + b->stats.v[i];
    CRN_GAUGE(stats, uptime_seconds, (crn_now_ns() - b->started_ns) / UINT64_C(1000000000));
    add_sessions(b, space, stats);
    add_memory(space, stats);
    crn_tier_gauges(space, stats);
    int n = snprintf(notes, 256, "payload memory: %s\ncopy threads: %llu", crn_device_mem(b->device)->name,
                     (unsigned long long)b->config->copy_threads);
    struct crn_msg_stats *out = &call->out.stats;
    out->counters = (struct crn_bytes){stats->v, sizeof stats->v};
    const char *device = crn_device_name(b->device);
    out->device = (struct crn_bytes){device, (uint32_t)strlen(device)};
    char *io = (char *)call->scratch[2];
    out->io = (struct crn_bytes){io, (uint32_t)io_text(b, io, 120)};
    out->version = (struct crn_bytes){CAIRN_VERSION, sizeof CAIRN_VERSION - 1};
    out->space = (struct crn_bytes){space->options.name, (uint32_t)strlen(space->options.name)};
    out->notes = (struct crn_bytes){notes, (uint32_t)n};
    return 0;
}
