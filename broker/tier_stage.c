/* Payloads of a device on their way to and from NVMe: through a page-locked buffer of the host, because storage does not read or
 * write a device's memory. Both copies are made by threads of the spill engine, on the stream for moves: down before the write,
 * up after the read's checksum was found right. The sum is that of the bytes wherever they are, so nothing else changes. */
#include "broker/tier_impl.h"

#include "broker/arena.h"
#include "broker/device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint64_t whole(uint64_t bytes)
{
    return (bytes + CRN_SPILL_ALIGN - 1) / CRN_SPILL_ALIGN * CRN_SPILL_ALIGN;
}

bool crn_tier_staged(const struct crn_payload *p)
{
    return !p->arena->mem.ops->cpu_visible;
}

static struct crn_tier_stage *stage_of(struct crn_spill_io *io)
{
    return ((struct crn_tier_move *)(void *)io)->stage;
}

static struct crn_mem host_side(const struct crn_tier_stage *s)
{
    return (struct crn_mem){.ops = &crn_mem_host, .base = s->host->at, .bytes = s->host->bytes, .fd = -1, .device = -1, .owner = 1};
}

static int stage_out(struct crn_spill_io *io)
{
    struct crn_tier_stage *s = stage_of(io);
    int status = crn_device_stage_take(s->device, whole(io->bytes), &s->host);
    if (status != 0)
        return status;
    struct crn_mem host = host_side(s);
    memset((char *)s->host->at + s->bytes, 0, whole(io->bytes) - s->bytes);
    if (s->bytes > 0)
        status = s->arena->ops->copy(&host, 0, s->arena, s->off, s->bytes);
    if (status == 0)
        status = s->arena->ops->fence(s->arena);
    io->mem = s->host->at;
    return status;
}

static int stage_in(struct crn_spill_io *io)
{
    struct crn_tier_stage *s = stage_of(io);
    struct crn_mem host = host_side(s);
    int status = s->arena->ops->copy(s->arena, s->off, &host, 0, s->bytes);
    return status != 0 ? status : s->arena->ops->fence(s->arena);
}

int crn_tier_stage_new(struct crn_tier_move *m)
{
    struct crn_payload *p = m->payload;
    struct crn_tier_stage *s = calloc(1, sizeof *s);
    int status = s != NULL ? 0 : -ENOMEM;
    if (status != 0)
        return status;
    *s = (struct crn_tier_stage){.device = p->space->options.device, .arena = &p->arena->mem, .off = p->off, .bytes = p->bytes};
    m->stage = s;
    if (m->io.op == CRN_SPILL_WRITE) {
        m->io.prepare = stage_out;
        return 0;
    }
    status = crn_device_stage_take(s->device, whole(m->io.bytes), &s->host);
    m->io.mem = status == 0 ? s->host->at : NULL;
    m->io.deliver = p->bytes > 0 ? stage_in : NULL;
    return status;
}

void crn_tier_stage_free(struct crn_tier_stage *s)
{
    if (s != NULL && s->host != NULL)
        crn_device_stage_give(s->device, s->host);
    free(s);
}
