/* Plans: stored with their budgets and state map, listed by pair, dropped. Numbers travel as millionths. The map goes through a
 * landing zone, because it is larger than a message. */
#include "client/client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MILLION 1e6f
#define BUDGETS_MAX 1024u /* of one plan */
#define PAGE_PLANS 45u    /* records in one answer */
#define PAGE_BUDGETS 2048u

static uint32_t to_ppm(float share)
{
    return share <= 0 ? 0 : share >= 4000 ? 4000000000u : (uint32_t)(share * MILLION + 0.5f);
}

static float from_ppm(uint32_t ppm)
{
    return (float)ppm / MILLION;
}

int crn_client_plan(const struct crn_plan_rec *rec, struct cairn_plan *out_plan)
{
    if (rec->first > CAIRN_MAX_LAYERS || rec->last > CAIRN_MAX_LAYERS ||
        (rec->map_dtype != 0 && rec->map_dtype != CAIRN_F32) || rec->map_rank > CAIRN_MAX_HIDDEN ||
        rec->n_measured > CAIRN_PLAN_MEASURED)
        return CAIRN_E_PROTO;
    *out_plan = (struct cairn_plan){.id = rec->id,
                                    .producer = rec->producer,
                                    .receiver = rec->receiver,
                                    .first = rec->first,
                                    .last = rec->last,
                                    .quality = from_ppm(rec->quality_ppm),
                                    .own_exact = from_ppm(rec->own_exact_ppm),
                                    .exact = from_ppm(rec->exact_ppm),
                                    .questions = rec->questions,
                                    .cost = from_ppm(rec->cost_ppm),
                                    .map_rank = rec->map_rank,
                                    .has_map = rec->map_dtype != 0,
                                    .n_budgets = rec->n_budgets,
                                    .n_measured = rec->n_measured};
    for (uint32_t i = 0; i < rec->n_measured; i++)
        out_plan->measured[i] = (struct cairn_measured){.keep = from_ppm(rec->measured[i].keep_ppm),
                                                        .kept = from_ppm(rec->measured[i].kept_ppm),
                                                        .quality = from_ppm(rec->measured[i].quality_ppm),
                                                        .int8 = rec->measured[i].int8};
    return 0;
}

/* ---- store ---- */

static int check_put(const struct cairn_plan_put *put)
{
    const struct cairn_plan *p = &put->plan;
    const struct cairn_map_view *m = &put->map;
    uint64_t hidden = m->hidden, rank = m->rank;
    uint64_t numbers = rank == 0 ? hidden * (hidden + 1) : hidden * (2 * rank + 1);
    if (p->first > CAIRN_MAX_LAYERS || p->last >= CAIRN_MAX_LAYERS ||
        p->n_measured > CAIRN_PLAN_MEASURED || put->n_budgets > BUDGETS_MAX ||
        (put->n_budgets > 0 && put->budgets == NULL))
        return CAIRN_E_ARG;
    for (uint32_t i = 0; i < put->n_budgets; i++) {
        const struct cairn_budget *b = &put->budgets[i];
        if (b->first > b->last || b->last >= CAIRN_MAX_LAYERS || !(b->keep >= 0 && b->keep <= 1))
            return CAIRN_E_ARG;
    }
    for (uint32_t i = 0; i < p->n_measured; i++) {
        const struct cairn_measured *s = &p->measured[i];
        if (!(s->keep >= 0 && s->keep <= 1) || !(s->kept >= 0 && s->kept <= 1) || !(s->quality >= 0))
            return CAIRN_E_ARG;
    }
    if (m->w == NULL)
        return 0;
    if (hidden == 0 || hidden > CAIRN_MAX_HIDDEN || rank > hidden)
        return CAIRN_E_ARG;
    return m->bytes == numbers * sizeof(float) ? 0 : CAIRN_E_ARG;
}

/* Where a plan's state map waits to be fetched. */
struct landed_map {
    struct crn_zone zone; /* mem.ops NULL: there is no map */
    uint64_t off, bytes;
};

/* The caller ends the zone, also after a failure. */
static int land_map(struct cairn_client *client, const struct cairn_map_view *map,
                    uint64_t deadline_ns, struct landed_map *out)
{
    struct crn_msg_landed landed;
    struct crn_msg_landing msg = {.put_bytes = map->bytes + CAIRN_ALIGN};
    int status = CRN_CALL(client, landing, msg, landed, &landed, deadline_ns);
    if (status == 0)
        status = crn_zone_map(client, landed.landing, deadline_ns, &out->zone);
    if (status == 0 && crn_conn_readable(&out->zone.mem) != 0)
        status = crn_client_fail(client, CAIRN_E_PROTO, "plan: landing zone");
    if (status == 0)
        status = crn_zone_take(client, &out->zone, map->bytes, deadline_ns, &out->off);
    if (status != 0)
        return status;
    memcpy((uint8_t *)out->zone.mem.base + out->off, map->w, map->bytes);
    out->bytes = map->bytes;
    return 0;
}

static void pack(const struct cairn_plan_put *put, struct crn_plan_rec *out_rec,
                 struct crn_budget_rec *out_budgets)
{
    const struct cairn_plan *p = &put->plan;
    *out_rec = (struct crn_plan_rec){.producer = p->producer,
                                     .receiver = p->receiver,
                                     .first = (uint16_t)p->first,
                                     .last = (uint16_t)p->last,
                                     .n_budgets = (uint16_t)put->n_budgets,
                                     .map_dtype = put->map.w != NULL ? CAIRN_F32 : 0,
                                     .quality_ppm = to_ppm(p->quality),
                                     .own_exact_ppm = to_ppm(p->own_exact),
                                     .exact_ppm = to_ppm(p->exact),
                                     .questions = p->questions,
                                     .cost_ppm = to_ppm(p->cost),
                                     .map_rank = put->map.w != NULL ? put->map.rank : 0,
                                     .map_bytes = put->map.w != NULL ? put->map.bytes : 0};
    out_rec->n_measured = p->n_measured;
    for (uint32_t i = 0; i < p->n_measured; i++) {
        const struct cairn_measured *m = &p->measured[i];
        out_rec->measured[i] = (struct crn_measured_rec){to_ppm(m->keep), to_ppm(m->kept), to_ppm(m->quality), m->int8 != 0};
    }
    for (uint32_t i = 0; i < put->n_budgets; i++)
        out_budgets[i] = (struct crn_budget_rec){.first = (uint16_t)put->budgets[i].first,
                                                 .last = (uint16_t)put->budgets[i].last,
                                                 .keep_ppm = to_ppm(put->budgets[i].keep)};
}

static int send_plan(struct cairn_client *client, const struct cairn_plan_put *put,
                     const struct landed_map *map, uint64_t deadline_ns, uint64_t *out_plan)
{
    struct crn_plan_rec rec;
    struct crn_budget_rec budgets[BUDGETS_MAX];
    struct crn_msg_plan_stored stored;
    pack(put, &rec, budgets);
    struct crn_msg_plan_put msg = {
        .plan = {&rec, sizeof rec},
        .budgets = {budgets, (uint32_t)(put->n_budgets * sizeof budgets[0])},
        .info = crn_client_text(put->info),
        .landing = map->zone.id,
        .off = map->off,
        .bytes = map->bytes,
    };
    int status = CRN_CALL(client, plan_put, msg, plan_stored, &stored, deadline_ns);
    if (status == 0)
        *out_plan = stored.plan;
    return status;
}

static int store(struct cairn_client *client, const struct cairn_plan_put *put, uint64_t deadline_ns,
                 uint64_t *out_plan)
{
    struct landed_map map = {.off = 0};
    int status = put->map.w != NULL ? land_map(client, &put->map, deadline_ns, &map) : 0;
    if (status == 0)
        status = send_plan(client, put, &map, deadline_ns, out_plan);
    if (map.zone.mem.ops != NULL)
        map.zone.mem.ops->destroy(&map.zone.mem);
    return status;
}

int cairn_plan_store(struct cairn_client *client, const struct cairn_plan_put *put,
                     uint64_t deadline_ns, uint64_t *out_plan)
{
    struct cairn_plan_put p;
    if (client == NULL || out_plan == NULL)
        return CAIRN_E_ARG;
    crn_client_begin(client);
    int status = crn_sized_copy(&p, sizeof p, put, sizeof p);
    if (status == 0)
        status = check_put(&p);
    if (status != 0)
        return crn_client_fail(client, status, "plan");
    status = crn_client_ready(client, deadline_ns);
    return status != 0 ? status : store(client, &p, deadline_ns, out_plan);
}

/* ---- list ---- */

struct listed_plan {
    struct cairn_plan plan;
    struct cairn_budget *budgets; /* [n_budgets] */
};

struct plan_list {
    struct listed_plan *plans;
    size_t n;
};

static void list_free(struct plan_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->plans[i].budgets);
    free(list->plans);
}

static int add_plan(struct plan_list *list, const struct crn_plan_rec *rec,
                    const struct crn_budget_rec *budgets)
{
    struct listed_plan *grown = realloc(list->plans, (list->n + 1) * sizeof *grown);
    if (grown == NULL)
        return -ENOMEM;
    list->plans = grown;
    struct listed_plan *at = &grown[list->n];
    int status = crn_client_plan(rec, &at->plan);
    if (status != 0)
        return status;
    at->budgets = calloc(rec->n_budgets > 0 ? rec->n_budgets : 1, sizeof *at->budgets);
    if (at->budgets == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < rec->n_budgets; i++)
        at->budgets[i] = (struct cairn_budget){.first = budgets[i].first,
                                               .last = budgets[i].last,
                                               .keep = from_ppm(budgets[i].keep_ppm)};
    list->n++;
    return 0;
}

static int add_page(struct plan_list *list, const struct crn_msg_plan_list *page)
{
    struct crn_plan_rec recs[PAGE_PLANS];
    struct crn_budget_rec budgets[PAGE_BUDGETS];
    size_t n = 0, n_budgets = 0, used = 0;
    int status = crn_wire_records(page->plans, sizeof recs[0], PAGE_PLANS, recs, &n);
    if (status == 0)
        status = crn_wire_records(page->budgets, sizeof budgets[0], PAGE_BUDGETS, budgets, &n_budgets);
    for (size_t i = 0; i < n && status == 0; i++) {
        if (recs[i].n_budgets > n_budgets - used)
            return CAIRN_E_PROTO;
        status = add_plan(list, &recs[i], budgets + used);
        used += recs[i].n_budgets;
    }
    return status;
}

/* Best quality first, then the cheaper one. */
static int by_frontier(const void *a, const void *b)
{
    const struct cairn_plan *x = &((const struct listed_plan *)a)->plan;
    const struct cairn_plan *y = &((const struct listed_plan *)b)->plan;
    if (x->quality < y->quality || x->quality > y->quality)
        return x->quality < y->quality ? 1 : -1;
    if (x->cost < y->cost || x->cost > y->cost)
        return x->cost > y->cost ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

static int fetch_plans(struct cairn_client *client, struct crn_msg_plan_get msg, uint64_t deadline_ns,
                       struct plan_list *list)
{
    struct crn_msg_plan_list page;
    int status;
    do {
        status = CRN_CALL(client, plan_get, msg, plan_list, &page, deadline_ns);
        if (status != 0)
            return status;
        status = add_page(list, &page);
        if (status != 0 || (page.next != 0 && page.next == msg.cursor))
            return crn_client_fail(client, status != 0 ? status : CAIRN_E_PROTO, "plans");
        msg.cursor = page.next;
    } while (page.next != 0);
    if (list->n > 1)
        qsort(list->plans, list->n, sizeof *list->plans, by_frontier);
    return 0;
}

/* The JSON of one plan: out_info [16385]. */
static int fetch_info(struct cairn_client *client, uint64_t plan, uint64_t deadline_ns, char *out_info)
{
    struct crn_msg_plan_list page;
    struct crn_msg_plan_get msg = {.with_info = 1, .plan = plan};
    int status = CRN_CALL(client, plan_get, msg, plan_list, &page, deadline_ns);
    if (status != 0)
        return status;
    if (page.info.n > 0)
        memcpy(out_info, page.info.p, page.info.n);
    out_info[page.info.n] = '\0';
    return 0;
}

int cairn_plan_each(struct cairn_client *client, const struct cairn_digest *producer,
                    const struct cairn_digest *receiver, uint64_t deadline_ns,
                    int (*each)(void *ctx, const struct cairn_plan *plan,
                                const struct cairn_budget *budgets, const char *info),
                    void *ctx)
{
    struct crn_msg_plan_get msg = {0};
    struct plan_list list = {0};
    if (client == NULL || each == NULL)
        return CAIRN_E_ARG;
    int status = crn_client_ready(client, deadline_ns);
    if (status != 0)
        return status;
    char *info = malloc(16385);
    if (info == NULL)
        return crn_client_fail(client, -ENOMEM, "plans");
    if (producer != NULL)
        msg.producer = *producer;
    if (receiver != NULL)
        msg.receiver = *receiver;
    status = fetch_plans(client, msg, deadline_ns, &list);
    for (size_t i = 0; i < list.n && status == 0; i++) {
        status = fetch_info(client, list.plans[i].plan.id, deadline_ns, info);
        if (status == 0)
            status = each(ctx, &list.plans[i].plan, list.plans[i].budgets, info[0] != '\0' ? info : NULL);
    }
    list_free(&list);
    free(info);
    return status;
}

int cairn_plan_drop(struct cairn_client *client, uint64_t plan, uint64_t deadline_ns)
{
    struct crn_msg_plan_drop msg = {.plan = plan};
    struct crn_msg_ok ok;
    if (client == NULL || plan == 0)
        return CAIRN_E_ARG;
    int status = crn_client_ready(client, deadline_ns);
    return status != 0 ? status : CRN_CALL(client, plan_drop, msg, ok, &ok, deadline_ns);
}
