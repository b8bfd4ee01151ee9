/* The order of an attach: tokens of all parts (they are compared first), then the state where the run starts, because nothing
 * hides waiting for it, then KV layer by layer, root to leaf. Layers that the run recomputes are left out for approximate parts,
 * but for prefill pyramids: the run follows their position lists.
 *
 * Row counts travel in one array beside the records; equal neighbours share their place in it, so a whole entry of any number
 * of layers needs a single number. */
#include "broker/listing.h"

#include "ipc/chan.h"

#include <string.h>

#define OVERHEAD 256u /* envelope, plain numbers, field headers */

/* Index of the payload's counts; those of the record before are used again when they are equal. */
static uint32_t add_counts(struct crn_listing *l, const struct crn_payload *p)
{
    if (l->n > 0) {
        const struct crn_payload *before = l->payloads[l->n - 1];
        if (before->n_counts == p->n_counts &&
            memcmp(before->counts, p->counts, p->n_counts * sizeof *p->counts) == 0)
            return l->recs[l->n - 1].counts;
    }
    uint32_t at = l->n_counts;
    memcpy(l->counts + at, p->counts, p->n_counts * sizeof *p->counts);
    l->n_counts += p->n_counts;
    return at;
}

static int add(struct crn_listing *l, struct crn_payload *p, uint32_t path_index)
{
    if (p == NULL)
        return 0;
    if (l->n == CRN_LISTING_PAYLOADS || l->n_counts + p->n_counts > CRN_LISTING_COUNTS)
        return CAIRN_E_TOO_BIG;
    struct crn_payload_rec rec = {.off = p->off,
                                  .bytes = p->bytes,
                                  .arena = p->arena != NULL ? p->arena->id : 0,
                                  .counts = add_counts(l, p),
                                  .layer = p->layer,
                                  .path_index = (uint8_t)path_index,
                                  .kind = p->kind,
                                  .dtype = p->dtype,
                                  .tier = p->tier,
                                  .shared_pos = p->shared_pos,
                                  .one_count = p->n_counts == 1,
                                  .wide = p->wide,
                                  .word = 0xffff};
    l->recs[l->n] = rec;
    l->payloads[l->n] = p;
    l->n++;
    return 0;
}

static int add_states(struct crn_listing *l, const struct crn_path *path, bool all)
{
    int status = 0;
    for (uint32_t i = 0; i < path->n && status == 0; i++) {
        const struct crn_body *body = path->parts[i].entry->body;
        bool wanted = path->parts[i].class_ == CAIRN_CLASS_APPROX && path->plan != NULL &&
                      crn_plan_needs_state(path->plan);
        for (uint32_t s = 0; s < body->n_states && all && status == 0; s++)
            status = add(l, body->states[s], i);
        if (!all && wanted)
            status = add(l, crn_body_state(body, path->plan->rec.first), i);
    }
    return status;
}

static int add_layer(struct crn_listing *l, const struct crn_path *path, uint32_t layer, bool all)
{
    int status = 0;
    for (uint32_t i = 0; i < path->n && status == 0; i++) {
        const struct crn_part *part = &path->parts[i];
        bool private_here = !all && part->class_ == CAIRN_CLASS_APPROX &&
                            part->entry->pyramid != CAIRN_PYRAMID_PREFILL &&
                            crn_plan_runs(path->plan, layer);
        if (!private_here)
            status = add(l, part->entry->body->kv[layer], i);
    }
    return status;
}

static int fits(const struct crn_listing *l, size_t other_bytes)
{
    size_t bytes = l->n * sizeof *l->recs + l->n_counts * sizeof *l->counts;
    return bytes + other_bytes + OVERHEAD <= CRN_MESSAGE_MAX ? 0 : CAIRN_E_TOO_BIG;
}

int crn_listing_path(struct crn_listing *l, const struct crn_path *path, bool all,
                     size_t other_bytes)
{
    int status = 0;
    l->n = l->n_counts = 0;
    for (uint32_t i = 0; i < path->n && status == 0; i++)
        status = add(l, path->parts[i].entry->body->tokens, i);
    if (status == 0)
        status = add_states(l, path, all);
    uint32_t n_layers = path->n > 0 ? path->parts[0].entry->body->n_layers : 0;
    for (uint32_t layer = 0; layer < n_layers && status == 0; layer++)
        status = add_layer(l, path, layer, all);
    return status == 0 ? fits(l, other_bytes) : status;
}

struct adder {
    struct crn_listing *listing;
    int status;
};

static void add_each(void *ctx, struct crn_payload *p)
{
    struct adder *a = ctx;
    if (a->status == 0)
        a->status = add(a->listing, p, 0);
}

int crn_listing_body(struct crn_listing *l, const struct crn_body *body)
{
    struct adder a = {l, 0};
    l->n = l->n_counts = 0;
    crn_body_each(body, add_each, &a);
    return a.status == 0 ? fits(l, sizeof(struct crn_entry_rec)) : a.status;
}
