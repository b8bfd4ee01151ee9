/* DRAFT, PUT, COMMIT, ABORT: the write side. DRAFT is where most refusals happen, before the worker has written anything. */
#include "broker/broker.h"
#include "broker/dispatch.h"
#include "broker/draft.h"
#include "broker/put.h"

#include <string.h>

/* The entry that the draft's tokens follow. */
static int check_parent(struct crn_call *call, struct crn_draft_spec *spec)
{
    const struct crn_msg_draft *m = &call->in->draft;
    if (m->parent == 0)
        return m->start == 0 ? 0
                             : crn_call_fail(call, CAIRN_E_ARG, "draft: a root starts at token 0");
    int status = crn_call_entry(call, m->parent, &spec->parent);
    if (status != 0)
        return status;
    const struct crn_entry *p = spec->parent;
    uint32_t depth = 1;
    for (const struct crn_entry *e = p; e != NULL; e = e->parent)
        depth++;
    if (memcmp(&p->producer->family, &call->session->family, sizeof p->producer->family) != 0)
        return crn_call_fail(call, CAIRN_E_ARG, "draft: the parent is of another family");
    if (m->start <= p->start || m->start > crn_entry_end(p))
        return crn_call_fail(call, CAIRN_E_ARG, "draft: start %u is not within the parent's %u..%u",
                             spec->start, p->start + 1, crn_entry_end(p));
    if (p->pyramid == CAIRN_PYRAMID_PREFILL && m->start != crn_entry_end(p))
        return crn_call_fail(call, CAIRN_E_ARG, "draft: the parent is usable only as a whole");
    return depth <= CAIRN_MAX_PATH
               ? 0
               : crn_call_fail(call, CAIRN_E_TOO_BIG, "draft: a path has at most %u entries",
                               CAIRN_MAX_PATH);
}

/* The entry whose payloads are to be replaced: of the same model and span, and not tied to its length. */
static int check_replaces(struct crn_call *call, struct crn_draft_spec *spec)
{
    const struct crn_msg_draft *m = &call->in->draft;
    if (m->replaces == 0)
        return 0;
    int status = crn_call_entry(call, m->replaces, &spec->replaces);
    if (status != 0)
        return status;
    const struct crn_entry *e = spec->replaces;
    if (e->producer != call->session->model)
        return crn_call_fail(call, CAIRN_E_DENIED, "draft: only its own model compresses an entry");
    if (e->start != spec->start || e->n_tokens != spec->n_tokens)
        return crn_call_fail(call, CAIRN_E_ARG, "draft: the entry has tokens %u..%u, not %u..%u",
                             e->start, crn_entry_end(e), spec->start, spec->start + spec->n_tokens);
    if (e->pyramid == CAIRN_PYRAMID_PREFILL || spec->pyramid == CAIRN_PYRAMID_PREFILL)
        return crn_call_fail(call, CAIRN_E_ARG, "draft: a prefill pyramid is never a replacement");
    return 0;
}

static int check_numbers(struct crn_call *call)
{
    const struct crn_msg_draft *m = &call->in->draft;
    if (m->n_tokens == 0 || m->start + m->n_tokens > CAIRN_MAX_TOKENS)
        return crn_call_fail(call, CAIRN_E_ARG, "draft: %u tokens at %u", (unsigned)m->n_tokens,
                             (unsigned)m->start);
    if (m->n_layers != call->session->shape.n_layers)
        return crn_call_fail(call, CAIRN_E_ARG, "draft: %u layers, HELLO said %u",
                             (unsigned)m->n_layers, call->session->shape.n_layers);
    if (m->pyramid > CAIRN_PYRAMID_PUBLISH)
        return crn_call_fail(call, CAIRN_E_ARG, "draft: unknown pyramid %u", (unsigned)m->pyramid);
    if (m->bytes > call->session->space->options.limit_bytes)
        return crn_call_fail(call, CAIRN_E_FULL, "draft: %llu bytes, the namespace has %llu",
                             (unsigned long long)m->bytes,
                             (unsigned long long)call->session->space->options.limit_bytes);
    return 0;
}

/* Somebody has, or is publishing, the same. The early answer looks at hashes only; COMMIT compares tokens. */
static int check_exclusive(struct crn_call *call, const struct crn_draft_spec *spec)
{
    const struct crn_session *s = call->session;
    struct crn_entry_spec like = {.space = s->space,
                                  .producer = s->model,
                                  .parent = spec->parent,
                                  .start = spec->start,
                                  .n_tokens = spec->n_tokens,
                                  .pyramid = spec->pyramid,
                                  .settings = spec->settings};
    if (!spec->exclusive || spec->replaces != NULL)
        return 0;
    const struct crn_entry *same = crn_space_same(s->space, &like, spec->first_hash);
    if (same != NULL)
        return crn_call_fail(call, CAIRN_E_EXISTS, "draft: entry %llx is the same",
                             (unsigned long long)same->id);
    if (crn_draft_somebody(s, spec))
        return crn_call_fail(call, CAIRN_E_BUSY, "draft: another worker is publishing the same");
    return 0;
}

static int check_draft(struct crn_call *call, struct crn_draft_spec *spec)
{
    const struct crn_msg_draft *m = &call->in->draft;
    int status = crn_call_needs_model(call, "draft");
    if (status == 0)
        status = check_numbers(call);
    if (status != 0)
        return status;
    spec->start = (uint32_t)m->start;
    spec->n_tokens = (uint32_t)m->n_tokens;
    spec->pyramid = (uint8_t)m->pyramid;
    spec->put_bytes = m->put_bytes;
    spec->first_hash = m->first_hash;
    spec->spill_int8 = (m->flags & CRN_DRAFT_SPILL_INT8) != 0;
    spec->exclusive = (m->flags & CRN_DRAFT_EXCLUSIVE) != 0 && m->first_hash != 0;
    crn_wire_text(m->settings, spec->settings, sizeof spec->settings);
    status = m->replaces == 0 ? check_parent(call, spec) : check_replaces(call, spec);
    return status == 0 ? check_exclusive(call, spec) : status;
}

int crn_handle_draft(struct crn_call *call)
{
    struct crn_draft_spec spec = {.start = 0};
    struct crn_session *s = call->session;
    struct crn_draft *d = NULL;
    int status = check_draft(call, &spec);
    if (status == 0) {
        status = crn_draft_open(s, &spec, &d);
        if (status != 0)
            crn_call_fail(call, status, "draft: landing zone for puts of %llu bytes: %s",
                          (unsigned long long)spec.put_bytes, cairn_strerror(status));
    }
    if (status != 0) {
        CRN_COUNT(&s->space->stats, draft_refused_total);
        return status;
    }
    uint16_t *states = (uint16_t *)(void *)call->scratch[0];
    struct crn_budget_rec *budgets = (struct crn_budget_rec *)(void *)call->scratch[1];
    uint32_t n_states = crn_plans_states(&s->space->plans, &s->digest, states, CAIRN_MAX_STATES);
    uint32_t n_budgets =
        crn_plans_budgets(&s->space->plans, &s->digest, s->shape.n_layers, budgets);
    struct crn_msg_drafted *out = &call->out.drafted;
    out->draft = d->id;
    out->landing = d->landing->id;
    out->landing_bytes = d->landing->mem.bytes;
    out->states = (struct crn_bytes){states, n_states * (uint32_t)sizeof *states};
    out->budgets = (struct crn_bytes){budgets, n_budgets * (uint32_t)sizeof *budgets};
    return 0;
}

static int find_draft(struct crn_call *call, uint64_t id, struct crn_draft **out_draft)
{
    struct crn_draft *d = crn_draft_find(call->session, id);
    if (d == NULL)
        return crn_call_fail(call, CAIRN_E_STALE, "no draft %llu in this session",
                             (unsigned long long)id);
    *out_draft = d;
    return 0;
}

int crn_handle_put(struct crn_call *call)
{
    char why[160] = "";
    struct crn_draft *d = NULL;
    int status = find_draft(call, call->in->put.draft, &d);
    if (status != 0)
        return status;
    status = crn_put_start(d, &call->in->put, why, sizeof why);
    if (status == 0)
        return CRN_LATER;
    return crn_call_fail(call, status, "put into draft %llu: %s", (unsigned long long)d->id,
                         why[0] != '\0' ? why : cairn_strerror(status));
}

int crn_handle_commit(struct crn_call *call)
{
    const struct crn_msg_commit *m = &call->in->commit;
    struct crn_draft *d = NULL;
    int status = find_draft(call, m->draft, &d);
    if (status != 0)
        return status;
    d->token_ns = m->token_ns;
    status = crn_draft_commit(d, call->request, (m->flags & CRN_COMMIT_PIN) != 0);
    return status == 0 ? CRN_LATER
                       : crn_call_fail(call, status, "draft %llu is being committed already",
                                       (unsigned long long)m->draft);
}

int crn_handle_abort(struct crn_call *call)
{
    struct crn_draft *d = NULL;
    int status = find_draft(call, call->in->abort.draft, &d);
    if (status != 0)
        return status;
    if (d->state != CRN_DRAFT_OPEN)
        return crn_call_fail(call, CAIRN_E_STATE, "draft %llu is being committed",
                             (unsigned long long)d->id);
    crn_draft_abandon(d);
    return 0;
}
