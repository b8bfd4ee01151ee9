/* What an entry may shrink to. A target in bytes is arithmetic over the rows of one head. A floor of quality is looked up: plans say how
 * good they were with entries that kept less (cairn_plan.measured), and the smallest such setting is taken that every receiver of this
 * producer has a good enough plan for. Nothing is guessed between settings: what was not measured is not promised. */
#include "tools/worker/share.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KEY_BLOCK 64.0f /* rows that share the scales of int8 keys (ipc/layout.h) */
#define SLACK 1e-4f     /* shares travel as millionths */

/* Bytes of a kept row of K and V beside one of f16 that needs no position of its own. */
static float row_share(const struct crn_model_shape *s, uint32_t dtype)
{
    float dh = (float)s->head_dim, whole = 2 * 2 * dh, position = 4;
    if (dtype == CAIRN_I8)
        return (2 * dh + 2 + 2 * dh / KEY_BLOCK + position) / whole;
    return ((dtype == CAIRN_F32 ? 2 : 1) * whole + position) / whole;
}

struct plans {
    struct cairn_plan *list;
    size_t n;
};

static int take_plan(void *ctx, const struct cairn_plan *plan, const struct cairn_budget *budgets, const char *info)
{
    struct plans *p = ctx;
    (void)budgets;
    (void)info;
    struct cairn_plan *grown = realloc(p->list, (p->n + 1) * sizeof *grown);
    if (grown == NULL)
        return -ENOMEM;
    p->list = grown;
    p->list[p->n++] = *plan;
    return 0;
}

/* Has this receiver a plan that was good enough with an entry as small as m? */
static int serves(const struct plans *p, const struct cairn_digest *receiver, const struct cairn_measured *m, float quality)
{
    for (size_t i = 0; i < p->n; i++) {
        const struct cairn_plan *plan = &p->list[i];
        if (memcmp(&plan->receiver, receiver, sizeof *receiver) != 0)
            continue;
        for (uint32_t k = 0; k < plan->n_measured; k++) {
            const struct cairn_measured *had = &plan->measured[k];
            if (had->quality + SLACK >= quality && had->keep <= m->keep + SLACK && (had->int8 || !m->int8))
                return 1;
        }
    }
    return 0;
}

static int serves_all(const struct plans *p, const struct cairn_measured *m, float quality)
{
    for (size_t i = 0; i < p->n; i++)
        if (!serves(p, &p->list[i].receiver, m, quality))
            return 0;
    return 1;
}

static const struct cairn_measured *smallest(const struct plans *p, const struct crn_model_shape *s, const struct crn_compress *c)
{
    const struct cairn_measured *best = NULL;
    float least = 1;
    for (size_t i = 0; i < p->n; i++)
        for (uint32_t k = 0; k < p->list[i].n_measured; k++) {
            const struct cairn_measured *m = &p->list[i].measured[k];
            float size = m->keep * row_share(s, m->int8 ? (uint32_t)CAIRN_I8 : (uint32_t)CAIRN_F16);
            if (size < least && (c->dtype == 0 || (c->dtype == CAIRN_I8) == (m->int8 != 0)) && serves_all(p, m, c->quality)) {
                best = m;
                least = size;
            }
        }
    return best;
}

int crn_share_target(const struct crn_weights *weights, struct cairn_client *client, struct crn_compress *io_compress)
{
    struct crn_compress *c = io_compress;
    struct plans plans = {0};
    if (c->bytes > 0) {
        float keep = c->bytes / row_share(&weights->shape, c->dtype != 0 ? c->dtype : (uint32_t)CAIRN_F16);
        c->rule.keep = keep < 1 ? keep : 1;
    }
    if (c->quality <= 0)
        return 0;
    int status = cairn_plan_each(client, &weights->digest, NULL, cairn_deadline_in(c->timeout_ms), take_plan, &plans);
    const struct cairn_measured *m = status == 0 ? smallest(&plans, &weights->shape, c) : NULL;
    if (m != NULL) {
        c->rule.keep = m->keep;
        c->dtype = m->int8 ? (uint32_t)CAIRN_I8 : c->dtype;
    }
    free(plans.list);
    return status != 0 ? status : m != NULL ? 0 : CAIRN_E_MISS;
}
