/* Reuse: a receiver recomputes the plan's run from the published state and attends to everything else in place.
 *
 *     for each part that needs it, root first:   wait E_a; begin; layers a..b   (b: only K and V)
 *     then for each layer 0..L-1:                wait what is shared of it; run the new tokens through it
 *     then                                       is the lease still good?
 *
 * Nothing is waited for before it is needed: KV comes back from its tier while the run computes. A prefill pyramid's run drops
 * rows as its producer did, so the position lists of the next layers are waited for one layer ahead.
 * The arithmetic is the engine's. */
#include "client/reuse.h"

#include "client/lease.h"

#include <stddef.h>

/* ---- order ---- */

struct walk {
    const struct crn_reuse_spec *spec;
    int (*step)(void *ctx, const struct crn_step *step);
    void *ctx;
};

static int emit(const struct walk *w, uint32_t op, uint32_t part, uint32_t layer)
{
    struct crn_step step = {.op = op, .part = part, .layer = layer};
    return w->step(w->ctx, &step);
}

static int is_shared(const struct crn_reuse_spec *s, uint32_t part, uint32_t layer)
{
    return (s->approx >> part & 1) == 0 || layer < s->first || layer > s->last;
}

/* KV of the first n_parts parts at one layer, as far as it is shared. */
static int wait_shared(const struct walk *w, uint32_t n_parts, uint32_t layer)
{
    int status = 0;
    for (uint32_t part = 0; part < n_parts && status == 0; part++) {
        if (is_shared(w->spec, part, layer))
            status = emit(w, CRN_STEP_WAIT_KV, part, layer);
    }
    return status;
}

static int walk_run(const struct walk *w, uint32_t part)
{
    const struct crn_reuse_spec *s = w->spec;
    int status = s->first > 0 ? emit(w, CRN_STEP_WAIT_STATE, part, s->first) : 0;
    if (status == 0)
        status = emit(w, CRN_STEP_BEGIN, part, s->first);
    for (uint32_t layer = s->first; layer <= s->last && status == 0; layer++) {
        if (layer < s->last && (s->positions >> part & 1) != 0)
            status = emit(w, CRN_STEP_WAIT_KV, part, layer + 1);
        if (status == 0 && layer < s->last)
            status = wait_shared(w, part, layer);
        if (status == 0)
            status = emit(w, CRN_STEP_RUN, part, layer);
    }
    return status;
}

int crn_reuse_steps(const struct crn_reuse_spec *spec,
                    int (*step)(void *ctx, const struct crn_step *step), void *ctx)
{
    struct walk w = {.spec = spec, .step = step, .ctx = ctx};
    int status = 0;
    for (uint32_t part = 0; part < spec->n_parts && status == 0; part++) {
        if ((spec->approx >> part & 1) != 0 && spec->first <= spec->last)
            status = walk_run(&w, part);
    }
    for (uint32_t layer = 0; spec->suffix && layer < spec->n_layers && status == 0; layer++) {
        status = wait_shared(&w, spec->n_parts, layer);
        if (status == 0)
            status = emit(&w, CRN_STEP_SUFFIX, 0, layer);
    }
    return status;
}

/* ---- driver ---- */

struct drive {
    struct cairn_lease *lease;
    struct cairn_engine engine;
    const struct crn_reuse_spec *spec;
    const struct cairn_map_view *map; /* NULL: none */
    uint64_t deadline_ns;
};

/* Views of one layer for the first n parts. Private ones have dtype NONE. */
static int collect_views(struct drive *d, uint32_t n_parts, uint32_t layer)
{
    int status = 0;
    for (uint32_t part = 0; part < n_parts && status == 0; part++) {
        if (is_shared(d->spec, part, layer))
            status = cairn_lease_layer(d->lease, part, layer, &d->lease->views[part]);
        else
            d->lease->views[part] = (struct cairn_layer_view){.dtype = CAIRN_DTYPE_NONE};
    }
    return status;
}

static int begin(struct drive *d, uint32_t part)
{
    struct cairn_state_view state;
    if (d->spec->first == 0)
        return d->engine.run_begin(d->engine.ctx, part, NULL, NULL);
    int status = cairn_lease_state(d->lease, part, d->spec->first, &state);
    return status != 0 ? status : d->engine.run_begin(d->engine.ctx, part, &state, d->map);
}

static int run(struct drive *d, uint32_t part, uint32_t layer)
{
    int last = layer == d->spec->last, status = 0;
    const int32_t *next_pos = NULL;
    uint32_t n_next = 0;
    if (!last)
        status = collect_views(d, part, layer);
    if (!last && status == 0 && (d->spec->positions >> part & 1) != 0)
        status = crn_grant_positions(d->lease, part, layer + 1, &next_pos, &n_next);
    return status != 0 ? status
                       : d->engine.run_layer(d->engine.ctx, part, layer, last,
                                             last ? NULL : d->lease->views, next_pos, n_next);
}

static int suffix(struct drive *d, uint32_t layer)
{
    int status = collect_views(d, d->lease->info.n_parts, layer);
    return status != 0 ? status
                       : d->engine.suffix_layer(d->engine.ctx, layer, d->lease->views,
                                                d->lease->info.n_parts);
}

static int drive_step(void *ctx, const struct crn_step *step)
{
    struct drive *d = ctx;
    switch (step->op) {
    case CRN_STEP_WAIT_STATE:
        return cairn_wait(d->lease, step->part, step->layer, CAIRN_WAIT_STATE, d->deadline_ns);
    case CRN_STEP_WAIT_KV:
        return cairn_wait(d->lease, step->part, step->layer, CAIRN_WAIT_KV, d->deadline_ns);
    case CRN_STEP_BEGIN:
        return begin(d, step->part);
    case CRN_STEP_RUN:
        return run(d, step->part, step->layer);
    default:
        return suffix(d, step->layer);
    }
}

/* What to run: the lease's plan on its approximate parts, or a forced run on all. */
static struct crn_reuse_spec spec_of(const struct cairn_lease *lease,
                                     const struct cairn_reuse_options *o)
{
    const struct cairn_plan *plan = o->plan != NULL ? o->plan : &lease->plan;
    struct crn_reuse_spec spec = {.n_layers = lease->shape.n_layers,
                                  .n_parts = lease->info.n_parts,
                                  .first = plan->first,
                                  .last = plan->last};
    for (uint32_t i = 0; i < lease->info.n_parts; i++) {
        if (o->plan == NULL && lease->parts[i].class_ != CAIRN_CLASS_APPROX)
            continue;
        spec.approx |= 1u << i;
        if (!o->hold && lease->parts[i].pyramid == CAIRN_PYRAMID_PREFILL)
            spec.positions |= 1u << i;
    }
    return spec;
}

static int prepare(struct drive *d, const struct cairn_engine *engine,
                   const struct cairn_reuse_options *options, struct crn_reuse_spec *out_spec)
{
    struct cairn_reuse_options o = CAIRN_REUSE_INIT;
    int status = crn_sized_copy(&d->engine, sizeof d->engine, engine, sizeof d->engine);
    if (status == 0 && options != NULL)
        status = crn_sized_copy(&o, sizeof o, options, offsetof(struct cairn_reuse_options, plan));
    if (status != 0)
        return status;
    struct crn_reuse_spec spec = spec_of(d->lease, &o);
    int runs = spec.approx != 0 && spec.first <= spec.last;
    if (runs && (spec.last >= spec.n_layers || d->engine.run_begin == NULL ||
                 d->engine.run_layer == NULL))
        return CAIRN_E_ARG;
    spec.suffix = d->engine.suffix_layer != NULL;
    d->map = d->lease->map.w != NULL ? &d->lease->map : NULL;
    if (o.plan != NULL && o.use_map && d->map == NULL)
        return CAIRN_E_MISS;
    if (o.plan != NULL && !o.use_map)
        d->map = NULL;
    *out_spec = spec;
    return 0;
}

int cairn_reuse(struct cairn_lease *lease, const struct cairn_engine *engine,
                const struct cairn_reuse_options *options, uint64_t deadline_ns)
{
    struct drive d = {.lease = lease, .deadline_ns = deadline_ns};
    struct crn_reuse_spec spec = {0};
    if (lease == NULL)
        return CAIRN_E_ARG;
    crn_client_begin(lease->client);
    int status = prepare(&d, engine, options, &spec);
    if (status != 0)
        return crn_client_fail(lease->client, status, "reuse");
    d.spec = &spec;
    status = crn_reuse_steps(&spec, drive_step, &d);
    if (status == 0)
        status = cairn_lease_check(lease);
    if (status != 0 && cairn_error(lease->client)[0] == '\0')
        crn_client_fail(lease->client, status, "reuse");
    return status;
}
