/* Payloads and bodies: counting who holds them, and giving extents back. Where an extent comes from is space.c's business; what
 * is in it was written by a copy thread (gather.c) before anybody could see the payload. */
#include "broker/payload.h"

#include "broker/space.h"
#include "broker/tier.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int crn_payload_create(struct crn_space *space, const struct crn_payload_spec *spec,
                       struct crn_payload **out_payload)
{
    struct crn_payload *p = calloc(1, sizeof *p + spec->n_counts * sizeof *p->counts);
    if (p == NULL)
        return -ENOMEM;
    bool read_here = spec->kind == CRN_PAYLOAD_TOKENS || spec->kind == CRN_PAYLOAD_BLOB;
    int status = read_here ? crn_space_alloc_side(space, spec->bytes, &p->arena, &p->extent)
                           : crn_space_alloc(space, spec->bytes, &p->arena, &p->extent);
    if (status != 0) {
        free(p);
        return status;
    }
    p->space = space;
    p->off = (uint64_t)p->extent.first * CRN_GRANULE_BYTES;
    p->bytes = spec->bytes;
    p->refs = 1;
    p->layer = spec->layer;
    p->wide = spec->wide;
    p->kind = spec->kind;
    p->dtype = spec->dtype;
    p->shared_pos = spec->shared_pos;
    p->tier = p->arena->mem.ops->cpu_visible ? CAIRN_TIER_HOST : CAIRN_TIER_DEVICE;
    p->n_counts = spec->n_counts;
    memcpy(p->counts, spec->counts, spec->n_counts * sizeof *p->counts);
    space->payload_bytes += p->bytes;
    *out_payload = p;
    return 0;
}

struct crn_payload *crn_payload_hold(struct crn_payload *p)
{
    p->refs++;
    return p;
}

void crn_payload_drop(struct crn_payload *p)
{
    if (p == NULL || --p->refs > 0)
        return;
    if (p->arena != NULL) {
        p->space->payload_bytes -= p->bytes;
        crn_space_free(p->arena, &p->extent);
    }
    if (p->host != NULL)
        crn_space_free_host(p->host, &p->host_extent);
    crn_tier_dropped(p);
    free(p);
}

void *crn_payload_at(const struct crn_payload *p)
{
    return (char *)p->arena->mem.base + p->off;
}

uint32_t crn_payload_rows(const struct crn_payload *p, uint32_t head)
{
    return p->n_counts == 1 ? p->counts[0] : p->counts[head];
}

int crn_body_create(uint16_t n_layers, struct crn_body **out_body)
{
    struct crn_body *body = calloc(1, sizeof *body + n_layers * sizeof *body->kv);
    if (body == NULL)
        return -ENOMEM;
    body->refs = 1;
    body->n_layers = n_layers;
    *out_body = body;
    return 0;
}

struct crn_body *crn_body_hold(struct crn_body *body)
{
    body->refs++;
    return body;
}

static void drop_one(void *ctx, struct crn_payload *p)
{
    (void)ctx;
    crn_payload_drop(p);
}

void crn_body_drop(struct crn_body *body)
{
    if (body == NULL || --body->refs > 0)
        return;
    crn_body_each(body, drop_one, NULL);
    free(body);
}

struct crn_payload *crn_body_state(const struct crn_body *body, uint32_t layer)
{
    for (uint32_t i = 0; i < body->n_states; i++) {
        if (body->states[i]->layer == layer)
            return body->states[i];
    }
    return NULL;
}

/* The slot a payload belongs into; NULL when it is taken or does not exist. */
static struct crn_payload **slot_of(struct crn_body *body, const struct crn_payload *p)
{
    switch (p->kind) {
    case CRN_PAYLOAD_TOKENS:
        return body->tokens == NULL ? &body->tokens : NULL;
    case CRN_PAYLOAD_KV:
        return p->layer < body->n_layers && body->kv[p->layer] == NULL ? &body->kv[p->layer] : NULL;
    case CRN_PAYLOAD_STATE:
        return crn_body_state(body, p->layer) == NULL ? &body->states[body->n_states] : NULL;
    default:
        return NULL;
    }
}

int crn_body_put(struct crn_body *body, struct crn_payload *p)
{
    if (p->kind == CRN_PAYLOAD_STATE && body->n_states == CAIRN_MAX_STATES)
        return CAIRN_E_TOO_BIG;
    struct crn_payload **slot = slot_of(body, p);
    if (slot == NULL)
        return CAIRN_E_STATE;
    *slot = p;
    body->n_states = (uint16_t)(body->n_states + (p->kind == CRN_PAYLOAD_STATE));
    body->bytes += p->bytes;
    body->allocated_bytes += (uint64_t)p->extent.n * CRN_GRANULE_BYTES;
    return 0;
}

static void inherit_one(void *ctx, struct crn_payload *p)
{
    if (crn_body_put(ctx, p) == 0)
        crn_payload_hold(p);
}

void crn_body_inherit(struct crn_body *body, const struct crn_body *from)
{
    crn_body_each(from, inherit_one, body);
}

void crn_body_each(const struct crn_body *body, void (*each)(void *ctx, struct crn_payload *p),
                   void *ctx)
{
    if (body->tokens != NULL)
        each(ctx, body->tokens);
    for (uint32_t i = 0; i < body->n_states; i++)
        each(ctx, body->states[i]);
    for (uint32_t l = 0; l < body->n_layers; l++) {
        if (body->kv[l] != NULL)
            each(ctx, body->kv[l]);
    }
}
