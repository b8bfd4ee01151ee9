/* Int8 on the way down: keys and values of one layer, coded anew while they are written.
 *
 * The copy is made by a thread of the spill engine, into memory of its own, from the payload that is still in its arena, in the
 * host tier, or in the buffer that a payload of a device goes through; the payload becomes the coded one only when the write has
 * ended and nobody reads the plain one (tier.c), else the copy is forgotten. It never goes the other way: what comes back is int8.
 * States are left as they are: a run starts from them. */
#include "broker/tier_impl.h"

#include "broker/gather.h"
#include "ipc/hash.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SINK_ROWS 4u /* stay f16: attention sinks have outliers that one scale would spread */

bool crn_tier_recodable(const struct crn_payload *p)
{
    return p->kind == CRN_PAYLOAD_KV && p->dtype != CAIRN_I8 && p->bytes > 0;
}

static struct crn_kv_spec spec_of(const struct crn_tier_recode *r, uint32_t dtype, uint32_t wide)
{
    return (struct crn_kv_spec){.dtype = dtype, .n_kv_heads = r->n_kv_heads, .head_dim = r->head_dim, .wide = wide,
                                .shared_pos = r->shared_pos, .n = r->counts};
}

int crn_tier_recode_new(const struct crn_entry *e, const struct crn_payload *p, struct crn_tier_recode **out_recode)
{
    struct crn_head_parts heads[CAIRN_MAX_KV_HEADS];
    struct crn_tier_recode *r = calloc(1, sizeof *r);
    if (r == NULL)
        return -ENOMEM;
    *r = (struct crn_tier_recode){.from = p->dtype, .shared_pos = p->shared_pos, .wide = SINK_ROWS,
                                  .n_kv_heads = e->producer->shape.n_kv_heads, .head_dim = e->producer->shape.head_dim};
    for (uint32_t h = 0; h < r->n_kv_heads; h++)
        r->counts[h] = crn_payload_rows(p, h);
    struct crn_kv_spec to = spec_of(r, CAIRN_I8, r->wide);
    int status = crn_layout_kv(&to, heads, &r->bytes);
    if (status == 0 && r->bytes >= p->bytes)
        status = CAIRN_E_TOO_BIG; /* a handful of rows: nothing to gain */
    if (status != 0) {
        free(r);
        return status;
    }
    *out_recode = r;
    return 0;
}

void crn_tier_recode_free(struct crn_tier_recode *r)
{
    if (r != NULL)
        free(r->coded);
    free(r);
}

int crn_tier_recode_run(struct crn_spill_io *io)
{
    struct crn_tier_recode *r = ((struct crn_tier_move *)(void *)io)->recode;
    struct crn_gather_head heads[CAIRN_MAX_KV_HEADS];
    uint64_t whole = crn_spill_whole(r->bytes);
    void *coded;
    if (posix_memalign(&coded, CRN_SPILL_ALIGN, whole) != 0)
        return -ENOMEM;
    memset((char *)coded + r->bytes, 0, whole - r->bytes);
    r->coded = coded;
    struct crn_kv_spec from = spec_of(r, r->from, 0);
    int status = crn_gather_from_payload(&from, r->source, heads);
    struct crn_gather_kv g = {.src_dtype = r->from, .dst = spec_of(r, CAIRN_I8, r->wide), .heads = heads, .out = coded};
    if (status == 0)
        status = crn_gather_kv(&g);
    r->checksum = crn_hash64(coded, r->bytes);
    io->mem = coded;
    return status;
}
