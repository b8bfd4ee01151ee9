/* Which payloads a plan needs is decided in listing.c; here only their bytes are added up, as far as they are not in memory. A
 * plan that is no better, no cheaper and no quicker to load than another is nobody's choice: with few plans the rest is a frontier
 * of few. */
#include "broker/options.h"

#include "broker/tier.h"

#include <stdbool.h>

/* What comes from the host tier counts as if it were there: a copy to the device is nothing beside the prefill it saves. */
static void add_load(const struct crn_payload *p, uint64_t *io_bytes, uint32_t *io_tier)
{
    if (p == NULL || p->state == CRN_RESIDENT || p->state == CRN_SPILLING || p->host != NULL)
        return;
    *io_bytes += p->bytes;
    *io_tier = CAIRN_TIER_NVME;
}

/* Rows that the run has at one layer of a part. */
static uint64_t rows_at(const struct crn_part *part, uint32_t layer)
{
    const struct crn_payload *kv = part->entry->body->kv[layer];
    if (part->entry->pyramid == CAIRN_PYRAMID_PREFILL && kv != NULL)
        return crn_payload_rows(kv, 0);
    return part->usable;
}

static void add_layer(const struct crn_part *part, const struct crn_plan *plan, uint32_t layer,
                      struct crn_option_rec *o)
{
    bool runs = plan != NULL && part->class_ == CAIRN_CLASS_APPROX && crn_plan_runs(plan, layer);
    if (runs)
        o->run_tokens += rows_at(part, layer);
    if (!runs || part->entry->pyramid == CAIRN_PYRAMID_PREFILL)
        add_load(part->entry->body->kv[layer], &o->kv_bytes, &o->tier);
}

/* With the part of the path that keeps least; 0: it was not measured with so little. */
static uint32_t quality_of(const struct crn_path *path, const struct crn_plan *plan)
{
    uint32_t worst = UINT32_MAX;
    for (uint32_t i = 0; i < path->n; i++) {
        const struct crn_entry *e = path->parts[i].entry;
        uint32_t quality = path->parts[i].class_ == CAIRN_CLASS_APPROX ? crn_match_quality(plan, e) : worst;
        worst = quality < worst ? quality : worst;
    }
    return worst < UINT32_MAX ? worst : plan->rec.quality_ppm;
}

/* measured: some plan of this path was. Where none was, they are told apart by what they give with whole entries. */
static struct crn_option_rec option_of(const struct crn_path *path, const struct crn_plan *plan, bool measured)
{
    struct crn_option_rec o = {.plan = plan != NULL ? plan->rec.id : 0,
                               .quality_ppm = plan == NULL ? 1000000 : measured ? quality_of(path, plan) : plan->rec.quality_ppm,
                               .tier = CAIRN_TIER_HOST};
    for (uint32_t i = 0; i < path->n; i++) {
        const struct crn_part *part = &path->parts[i];
        if (plan != NULL && part->class_ == CAIRN_CLASS_APPROX && crn_plan_needs_state(plan))
            add_load(crn_body_state(part->entry->body, plan->rec.first), &o.state_bytes, &o.tier);
        for (uint32_t layer = 0; layer < part->entry->body->n_layers; layer++)
            add_layer(part, plan, layer, &o);
    }
    return o;
}

static bool beaten(const struct crn_option_rec *o, const struct crn_option_rec *others, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (others[i].quality_ppm >= o->quality_ppm && others[i].run_tokens <= o->run_tokens &&
            others[i].state_bytes <= o->state_bytes && others[i].kv_bytes <= o->kv_bytes)
            return true;
    }
    return false;
}

static bool fits(const struct crn_plan *plan, const struct crn_query *q, const struct crn_path *path)
{
    for (uint32_t i = 0; i < path->n; i++) {
        if (path->parts[i].class_ == CAIRN_CLASS_APPROX &&
            crn_match_fits(plan, path->parts[i].entry, q) != CAIRN_REASON_PLAN)
            return false;
    }
    return true;
}

uint32_t crn_options_list(const struct crn_space *space, const struct crn_query *query,
                          const struct crn_path *path, struct crn_option_rec out[CRN_OPTIONS_MAX])
{
    const struct crn_plan *plan = NULL;
    uint32_t n = 0;
    if (path->n == 0)
        return 0;
    bool measured = path->plan != NULL && quality_of(path, path->plan) > 0;
    out[n++] = option_of(path, path->plan, measured); /* what the path was matched with is always there */
    if (path->plan == NULL || query->plan != 0)
        return n;
    const struct crn_plan_rec *pair = &path->plan->rec;
    while (n < CRN_OPTIONS_MAX && (plan = crn_plans_next(&space->plans, plan, &pair->producer,
                                                         &pair->receiver)) != NULL) {
        if (plan == path->plan || !fits(plan, query, path))
            continue;
        out[n] = option_of(path, plan, measured);
        n += beaten(&out[n], out, n) ? 0 : 1;
    }
    return n;
}
