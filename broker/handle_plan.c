/* PLAN_PUT, PLAN_GET, PLAN_DROP. A plan's numbers are believed, its shape is not: run, budgets and map must be possible for the
 * storing session's model family, because readers compute addresses from them. The map travels through a landing zone and is
 * copied into an arena by a copy thread; the plan becomes visible when that is done. The zone is used up by it. */
#include "broker/broker.h"
#include "broker/dispatch.h"
#include "ipc/hash.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct map_job {
    struct crn_job job;
    struct crn_broker *broker;
    struct crn_space *space;
    uint64_t session, request;
    struct crn_plan *plan;
    struct crn_landing *landing; /* held */
    const uint8_t *from;
    uint8_t *to;
    uint64_t bytes, checksum;
};

static int check_run(struct crn_call *call, const struct crn_plan *plan)
{
    const struct crn_plan_rec *r = &plan->rec;
    if (r->first >= CAIRN_MAX_LAYERS || (r->first <= r->last && r->last >= CAIRN_MAX_LAYERS))
        return crn_call_fail(call, CAIRN_E_ARG, "plan: run %u..%u", r->first, r->last);
    if (r->n_measured > CRN_PLAN_MEASURED)
        return crn_call_fail(call, CAIRN_E_ARG, "plan: %u measurements, at most %u", r->n_measured, CRN_PLAN_MEASURED);
    for (uint32_t i = 0; i < r->n_budgets; i++) {
        const struct crn_budget_rec *b = &plan->budgets[i];
        if (b->first > b->last || b->last >= CAIRN_MAX_LAYERS || b->keep_ppm > 1000000)
            return crn_call_fail(call, CAIRN_E_ARG, "plan: budget %u: layers %u..%u keep %u", i,
                                 b->first, b->last, b->keep_ppm);
    }
    return 0;
}

/* The hidden size of the producer's models here, else of the storing session; 0 when nobody knows. */
static uint32_t hidden_of(const struct crn_session *s, const struct crn_plan_rec *r)
{
    for (const struct crn_model *m = s->space->models; m != NULL; m = m->next) {
        if (memcmp(&m->digest, &r->producer, sizeof m->digest) == 0 ||
            memcmp(&m->digest, &r->receiver, sizeof m->digest) == 0)
            return m->shape.hidden;
    }
    return s->shape.hidden;
}

/* A map's bytes fit its rank for some hidden size: the known one, or, before any of its models came, the one they imply. */
static int map_size_fits(uint32_t hidden, uint32_t rank, uint64_t bytes)
{
    if (hidden != 0)
        return crn_plan_map_bytes(hidden, rank) == bytes;
    for (uint32_t d = 1; d <= CAIRN_MAX_HIDDEN; d++) {
        if (crn_plan_map_bytes(d, rank) == bytes)
            return 1;
    }
    return 0;
}

static int check_map(struct crn_call *call, const struct crn_plan *plan,
                     struct crn_landing **out_landing)
{
    const struct crn_msg_plan_put *m = &call->in->plan_put;
    const struct crn_plan_rec *r = &plan->rec;
    if (r->map_dtype == 0)
        return m->bytes == 0 && m->landing == 0
                   ? 0
                   : crn_call_fail(call, CAIRN_E_ARG, "plan: map bytes, but map_dtype is 0");
    if (r->map_dtype != CAIRN_F32 ||
        !map_size_fits(hidden_of(call->session, r), r->map_rank, m->bytes))
        return crn_call_fail(call, CAIRN_E_ARG, "plan: %llu bytes are no f32 map of rank %u",
                             (unsigned long long)m->bytes, r->map_rank);
    struct crn_landing *l = crn_session_landing(call->session, m->landing);
    if (l == NULL)
        return crn_call_fail(call, CAIRN_E_MISS, "plan: no landing zone %llu",
                             (unsigned long long)m->landing);
    if (m->bytes > l->mem.bytes || m->off > l->mem.bytes - m->bytes)
        return crn_call_fail(call, CAIRN_E_ARG, "plan: the map leaves the landing zone");
    *out_landing = l;
    return 0;
}

/* The plan as the message has it; own: crn_plan_destroy. */
static int read_plan(struct crn_call *call, struct crn_plan **out_plan)
{
    const struct crn_msg_plan_put *m = &call->in->plan_put;
    size_t n = 0;
    struct crn_plan *p = calloc(1, sizeof *p);
    if (p == NULL)
        return -ENOMEM;
    p->budgets = calloc(CAIRN_MAX_LAYERS, sizeof *p->budgets);
    p->info = calloc(1, m->info.n + 1);
    int status = p->budgets != NULL && p->info != NULL ? 0 : -ENOMEM;
    if (status == 0)
        status = crn_wire_records(m->plan, sizeof p->rec, 1, &p->rec, &n);
    if (status == 0 && n != 1)
        status = CAIRN_E_PROTO;
    if (status == 0)
        status = crn_wire_records(m->budgets, sizeof *p->budgets, CAIRN_MAX_LAYERS, p->budgets, &n);
    if (status != 0) {
        crn_plan_destroy(p);
        return crn_call_fail(call, status, "plan: one plan record and at most %u budgets",
                             CAIRN_MAX_LAYERS);
    }
    memcpy(p->info, m->info.p != NULL ? m->info.p : "", m->info.n);
    p->rec.n_budgets = (uint16_t)n;
    p->rec.map_arena = 0;
    p->rec.map_off = p->rec.map_bytes = 0;
    *out_plan = p;
    return 0;
}

static int copy_map(struct crn_job *job)
{
    struct map_job *j = (struct map_job *)job;
    memcpy(j->to, j->from, j->bytes);
    j->checksum = crn_hash64(j->to, j->bytes);
    return 0;
}

/* Makes the plan visible; it is destroyed when that fails. */
static int store(struct crn_space *space, struct crn_plan *plan)
{
    int status = crn_plans_add(&space->plans, plan);
    if (status != 0)
        crn_plan_destroy(plan);
    else
        crn_tier_plan_added(space, plan);
    return status;
}

static void map_copied(struct crn_job *job, int status)
{
    struct map_job *j = (struct map_job *)job;
    struct crn_session *s = crn_session_of_id(&j->broker->sessions, j->session);
    struct crn_msg_plan_stored reply = {.request = j->request};
    if (j->plan->rec.map_checksum != 0 && j->plan->rec.map_checksum != j->checksum)
        status = CAIRN_E_CORRUPT;
    j->plan->rec.map_checksum = j->plan->map->checksum = j->checksum;
    struct crn_plan *plan = j->plan;
    if (status == 0)
        status = store(j->space, plan);
    else
        crn_plan_destroy(plan);
    if (status == 0)
        reply.plan = plan->rec.id;
    if (s != NULL && status == 0)
        crn_session_send(s, CRN_MSG_plan_stored, &reply);
    else if (s != NULL)
        crn_session_send_error(s, j->request, status, "plan: the map does not fit its checksum");
    crn_landing_drop(j->landing);
    free(j);
}

/* Makes room for the map and has it copied. Takes the plan over on success. */
static int start_map(struct crn_call *call, struct crn_plan *plan, struct crn_landing *landing)
{
    const struct crn_msg_plan_put *m = &call->in->plan_put;
    struct crn_session *s = call->session;
    uint32_t count = 1;
    struct crn_payload_spec spec = {.kind = CRN_PAYLOAD_BLOB,
                                    .dtype = CAIRN_F32,
                                    .bytes = m->bytes,
                                    .counts = &count,
                                    .n_counts = 1};
    struct map_job *j = calloc(1, sizeof *j);
    if (j == NULL)
        return -ENOMEM;
    int status = crn_payload_create(s->space, &spec, &plan->map);
    if (status != 0) {
        free(j);
        return crn_call_fail(call, status, "plan: no room for a map of %llu bytes",
                             (unsigned long long)m->bytes);
    }
    plan->rec.map_arena = plan->map->arena->id;
    plan->rec.map_off = plan->map->off;
    plan->rec.map_bytes = plan->map->bytes;
    *j = (struct map_job){.job = {.run = copy_map, .done = map_copied},
                          .broker = call->broker,
                          .space = s->space,
                          .session = s->id,
                          .request = call->request,
                          .plan = plan,
                          .landing = crn_landing_hold(landing),
                          .from = (const uint8_t *)landing->mem.base + m->off,
                          .to = crn_payload_at(plan->map),
                          .bytes = m->bytes};
    crn_session_end_landing(s, landing);
    crn_copier_submit(call->broker->copier, &j->job);
    return 0;
}

int crn_handle_plan_put(struct crn_call *call)
{
    struct crn_plan *plan = NULL;
    struct crn_landing *landing = NULL;
    int status = read_plan(call, &plan);
    if (status != 0)
        return status;
    status = check_run(call, plan);
    if (status == 0)
        status = check_map(call, plan, &landing);
    if (status == 0 && landing != NULL)
        status = start_map(call, plan, landing);
    if (status != 0) {
        crn_plan_destroy(plan);
        return status;
    }
    if (landing != NULL)
        return CRN_LATER;
    plan->rec.map_checksum = 0;
    status = store(call->session->space, plan);
    if (status != 0)
        return crn_call_fail(call, status, "plan: %u plans are stored", CRN_MAX_PLANS);
    call->out.plan_stored.plan = plan->rec.id;
    return 0;
}

/* Room in a page for one more plan with its budgets? */
static int page_holds(size_t n_plans, size_t n_budgets, const struct crn_plan *p)
{
    return (n_plans + 1) * sizeof p->rec <= 16384 &&
           (n_budgets + p->rec.n_budgets) * sizeof *p->budgets <= 16384;
}

/* The cursor is the number of plans of the pair already sent. */
int crn_handle_plan_get(struct crn_call *call)
{
    const struct crn_msg_plan_get *m = &call->in->plan_get;
    struct crn_msg_plan_list *out = &call->out.plan_list;
    struct crn_plan_rec *recs = (struct crn_plan_rec *)(void *)call->scratch[0];
    struct crn_budget_rec *budgets = (struct crn_budget_rec *)(void *)call->scratch[1];
    size_t n = 0, n_budgets = 0;
    uint64_t seen = 0;
    const struct crn_plan *p = NULL, *last = NULL;
    while ((p = crn_plans_next(&call->session->space->plans, p, &m->producer, &m->receiver))) {
        if (m->plan != 0 ? p->rec.id != m->plan : seen++ < m->cursor)
            continue;
        if (!page_holds(n, n_budgets, p) || (m->with_info != 0 && n == 1)) {
            out->next = m->cursor + n;
            break;
        }
        recs[n++] = p->rec;
        memcpy(budgets + n_budgets, p->budgets, p->rec.n_budgets * sizeof *budgets);
        n_budgets += p->rec.n_budgets;
        last = p;
    }
    out->plans = (struct crn_bytes){recs, (uint32_t)(n * sizeof *recs)};
    out->budgets = (struct crn_bytes){budgets, (uint32_t)(n_budgets * sizeof *budgets)};
    if (m->with_info != 0 && n == 1)
        out->info = (struct crn_bytes){last->info, (uint32_t)strlen(last->info)};
    return 0;
}

int crn_handle_plan_drop(struct crn_call *call)
{
    uint64_t id = call->in->plan_drop.plan;
    struct crn_space *space = call->session->space;
    const struct crn_plan *plan = crn_plans_find(&space->plans, id);
    if (plan != NULL)
        crn_tier_plan_dropped(space, plan);
    int status = crn_plans_drop(&space->plans, id);
    return status == 0 ? 0
                       : crn_call_fail(call, status, "no plan %llu", (unsigned long long)id);
}
