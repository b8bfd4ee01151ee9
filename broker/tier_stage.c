/* Payloads of a device on their way to and from NVMe: through a page-locked buffer of the host, because storage does not read or
 * write a device's memory. Both copies are made by threads of the spill engine, each on a stream of its own: down before the write,
 * up after the read's checksum was found right. The sum is that of the bytes wherever they are, so nothing else changes. What goes
 * down as int8 is coded from the buffer. Buffers are taken by those threads, too: page-locking a new one takes time, and there are
 * never many at once. */
#include "broker/tier_impl.h"

#include "broker/arena.h"
#include "broker/device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool crn_tier_staged(const struct crn_payload *p)
{
    return p->arena != NULL && !p->arena->mem.ops->cpu_visible;
}

/* Bytes of the buffer for so many: never none. */
static uint64_t buffer_bytes(uint64_t bytes)
{
    return crn_spill_whole(crn_tier_place_bytes(bytes));
}

static int stage_out(struct crn_spill_io *io)
{
    struct crn_tier_move *m = (struct crn_tier_move *)(void *)io;
    struct crn_tier_stage *s = m->stage;
    uint64_t room = buffer_bytes(s->bytes);
    int status = crn_device_stage_take(s->device, room, &s->host);
    if (status != 0)
        return status;
    memset((char *)s->host->at + s->bytes, 0, room - s->bytes);
    if (s->bytes > 0)
        status = crn_device_down(s->device, s->there, s->bytes, s->host->at);
    if (status != 0 || m->recode == NULL) {
        io->mem = s->host->at;
        return status;
    }
    m->recode->source = s->host->at;
    return crn_tier_recode_run(io);
}

/* A buffer to read into. */
static int stage_ready(struct crn_spill_io *io)
{
    struct crn_tier_stage *s = ((struct crn_tier_move *)(void *)io)->stage;
    int status = crn_device_stage_take(s->device, buffer_bytes(io->bytes), &s->host);
    io->mem = status == 0 ? s->host->at : NULL;
    s->failed = status != 0;
    return status;
}

static int stage_in(struct crn_spill_io *io)
{
    struct crn_tier_stage *s = ((struct crn_tier_move *)(void *)io)->stage;
    int status = crn_device_up(s->device, s->there, s->bytes, s->host->at);
    s->failed = status != 0;
    return status;
}

int crn_tier_stage_new(struct crn_tier_move *m)
{
    struct crn_payload *p = m->payload;
    struct crn_tier_stage *s = calloc(1, sizeof *s);
    if (s == NULL)
        return -ENOMEM;
    *s = (struct crn_tier_stage){.device = p->space->options.device, .there = crn_payload_at(p), .bytes = p->bytes};
    m->stage = s;
    m->io.prepare = m->io.op == CRN_SPILL_WRITE ? stage_out : stage_ready;
    m->io.deliver = m->io.op == CRN_SPILL_READ && p->bytes > 0 ? stage_in : NULL;
    return 0;
}

void crn_tier_stage_free(struct crn_tier_stage *s)
{
    if (s != NULL && s->host != NULL)
        crn_device_stage_give(s->device, s->host);
    free(s);
}
