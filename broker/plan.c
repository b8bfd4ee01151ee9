/* Plans: a sorted list per namespace. It holds tens, not millions, so it is walked. Plans are stored by whoever measured them
 * and believed as they are: quality numbers are the profiler's word, and a namespace trusts its own members. What is checked is
 * everything that would let a plan harm a reader: sizes, layer numbers, counts (handle_plan.c). */
#include "broker/plan.h"

#include <stdlib.h>
#include <string.h>

#define WHOLE_PPM 1000000u

void crn_plan_destroy(struct crn_plan *plan)
{
    if (plan == NULL)
        return;
    crn_payload_drop(plan->map);
    free(plan->budgets);
    free(plan->info);
    free(plan);
}

void crn_plans_close(struct crn_plans *plans)
{
    while (plans->first != NULL) {
        struct crn_plan *plan = plans->first;
        plans->first = plan->next;
        crn_plan_destroy(plan);
    }
    plans->n = 0;
}

static int digest_fits(const struct cairn_digest *wanted, const struct cairn_digest *have)
{
    static const struct cairn_digest any;
    return memcmp(wanted, &any, sizeof any) == 0 || memcmp(wanted, have, sizeof any) == 0;
}

static int before(const struct crn_plan *a, const struct crn_plan *b)
{
    if (a->rec.quality_ppm != b->rec.quality_ppm)
        return a->rec.quality_ppm > b->rec.quality_ppm;
    return a->rec.cost_ppm < b->rec.cost_ppm;
}

static int same_choice(const struct crn_plan *a, const struct crn_plan *b)
{
    const struct crn_plan_rec *x = &a->rec, *y = &b->rec;
    return memcmp(&x->producer, &y->producer, sizeof x->producer) == 0 &&
           memcmp(&x->receiver, &y->receiver, sizeof x->receiver) == 0 && x->first == y->first &&
           x->last == y->last && x->map_dtype == y->map_dtype && x->map_rank == y->map_rank &&
           x->n_budgets == y->n_budgets &&
           memcmp(a->budgets, b->budgets, x->n_budgets * sizeof *a->budgets) == 0;
}

/* Takes the first plan out for which which(it, key) holds; NULL when there is none. */
static struct crn_plan *unlink_plan(struct crn_plans *plans,
                                    int (*which)(const struct crn_plan *, const struct crn_plan *),
                                    const struct crn_plan *key)
{
    for (struct crn_plan **at = &plans->first; *at != NULL; at = &(*at)->next) {
        if (!which(*at, key))
            continue;
        struct crn_plan *found = *at;
        *at = found->next;
        plans->n--;
        return found;
    }
    return NULL;
}

int crn_plans_add(struct crn_plans *plans, struct crn_plan *plan)
{
    struct crn_plan *old = unlink_plan(plans, same_choice, plan);
    if (old != NULL && plan->catalog_id == 0)
        plan->catalog_id = old->catalog_id; /* its record is overwritten */
    crn_plan_destroy(old);
    if (plans->n >= CRN_MAX_PLANS)
        return CAIRN_E_FULL;
    plan->rec.id = ++plans->last_id;
    struct crn_plan **at = &plans->first;
    while (*at != NULL && !before(plan, *at))
        at = &(*at)->next;
    plan->next = *at;
    *at = plan;
    plans->n++;
    return 0;
}

static int same_id(const struct crn_plan *a, const struct crn_plan *b)
{
    return a->rec.id == b->rec.id;
}

int crn_plans_drop(struct crn_plans *plans, uint64_t id)
{
    struct crn_plan key = {.rec = {.id = id}};
    struct crn_plan *plan = unlink_plan(plans, same_id, &key);
    crn_plan_destroy(plan);
    return plan != NULL ? 0 : CAIRN_E_MISS;
}

struct crn_plan *crn_plans_find(const struct crn_plans *plans, uint64_t id)
{
    struct crn_plan *plan = plans->first;
    while (plan != NULL && plan->rec.id != id)
        plan = plan->next;
    return plan;
}

struct crn_plan *crn_plans_next(const struct crn_plans *plans, const struct crn_plan *after,
                                const struct cairn_digest *producer,
                                const struct cairn_digest *receiver)
{
    struct crn_plan *plan = after != NULL ? after->next : plans->first;
    while (plan != NULL && (!digest_fits(producer, &plan->rec.producer) ||
                            !digest_fits(receiver, &plan->rec.receiver)))
        plan = plan->next;
    return plan;
}

int crn_plan_runs(const struct crn_plan *plan, uint32_t layer)
{
    return plan->rec.first <= layer && layer <= plan->rec.last;
}

int crn_plan_needs_state(const struct crn_plan *plan)
{
    return plan->rec.first > 0 && plan->rec.first <= plan->rec.last;
}

static int ascending(const void *a, const void *b)
{
    uint16_t x = *(const uint16_t *)a, y = *(const uint16_t *)b;
    return x < y ? -1 : x > y;
}

uint32_t crn_plans_states(const struct crn_plans *plans, const struct cairn_digest *producer,
                          uint16_t *out_layers, uint32_t max)
{
    static const struct cairn_digest any;
    uint32_t n = 0;
    const struct crn_plan *p = NULL;
    while (n < max && (p = crn_plans_next(plans, p, producer, &any)) != NULL) {
        uint32_t i = 0;
        while (i < n && out_layers[i] != p->rec.first)
            i++;
        if (i == n && crn_plan_needs_state(p))
            out_layers[n++] = p->rec.first;
    }
    qsort(out_layers, n, sizeof *out_layers, ascending);
    return n;
}

/* The share of a layer that a plan wants kept. */
static uint32_t share(const struct crn_plan *plan, uint32_t layer)
{
    for (uint32_t i = 0; i < plan->rec.n_budgets; i++) {
        if (plan->budgets[i].first <= layer && layer <= plan->budgets[i].last)
            return plan->budgets[i].keep_ppm;
    }
    return WHOLE_PPM;
}

uint32_t crn_plans_budgets(const struct crn_plans *plans, const struct cairn_digest *producer,
                           uint32_t n_layers, struct crn_budget_rec out[CAIRN_MAX_LAYERS])
{
    static const struct cairn_digest any;
    uint32_t n = 0;
    for (uint32_t layer = 0; layer < n_layers && layer < CAIRN_MAX_LAYERS; layer++) {
        uint32_t keep = 0, n_plans = 0;
        const struct crn_plan *p = NULL;
        for (; (p = crn_plans_next(plans, p, producer, &any)) != NULL; n_plans++)
            keep = share(p, layer) > keep ? share(p, layer) : keep;
        if (n_plans == 0 || keep >= WHOLE_PPM)
            continue;
        if (n > 0 && out[n - 1].keep_ppm == keep && out[n - 1].last + 1u == layer)
            out[n - 1].last = (uint16_t)layer;
        else
            out[n++] = (struct crn_budget_rec){(uint16_t)layer, (uint16_t)layer, keep};
    }
    return n;
}

/* How far an entry may lie below what was measured and still count as that: contexts differ a little. */
#define LIKE_PPM 5000u

/* The mean share of the tokens kept in the layers that a plan does not recompute, each layer counting alike; *out_int8: some are int8. */
static uint32_t kept_for(const struct crn_plan *plan, const struct crn_body *body, uint32_t n_tokens, int *out_int8)
{
    uint64_t sum = 0, n = 0;
    *out_int8 = 0;
    for (uint32_t layer = 0; layer < body->n_layers; layer++) {
        const struct crn_payload *p = body->kv[layer];
        if (p == NULL || crn_plan_runs(plan, layer))
            continue;
        uint64_t rows = 0; /* one count stands for all heads when they are equal */
        for (uint32_t h = 0; h < p->n_counts; h++)
            rows += p->counts[h];
        sum += rows * WHOLE_PPM / ((uint64_t)p->n_counts * n_tokens);
        n++;
        *out_int8 |= p->dtype == CAIRN_I8;
    }
    return n > 0 ? (uint32_t)(sum / n) : WHOLE_PPM;
}

uint32_t crn_plan_quality(const struct crn_plan *plan, const struct crn_body *body, uint32_t n_tokens)
{
    const struct crn_plan_rec *r = &plan->rec;
    int int8;
    uint32_t kept = kept_for(plan, body, n_tokens, &int8), best = 0;
    if (kept >= WHOLE_PPM && !int8)
        return r->quality_ppm;
    for (uint32_t i = 0; i < r->n_measured && i < CRN_PLAN_MEASURED; i++)
        if (r->measured[i].kept_ppm <= kept + LIKE_PPM && (!int8 || r->measured[i].int8 != 0) && r->measured[i].quality_ppm > best)
            best = r->measured[i].quality_ppm;
    return best;
}

uint64_t crn_plan_map_bytes(uint32_t hidden, uint32_t rank)
{
    if (hidden == 0 || hidden > CAIRN_MAX_HIDDEN || rank > hidden)
        return 0;
    uint64_t d = hidden;
    uint64_t numbers = rank == 0 ? d * (d + 1) : 2 * d * rank + d;
    return numbers * sizeof(float);
}
