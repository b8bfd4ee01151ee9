/* MATCH, ATTACH, RELEASE: the read side. An attach is one look-up, one lease, and one answer that says where everything lies
 * (listing.c). When the answer would not fit into one message, the path loses its deepest part until it does.
 *
 * Finding nothing is an answer, not an error: class none, and the reason. Every use and every refusal is counted. */
#include "broker/broker.h"
#include "broker/dispatch.h"
#include "broker/lease.h"
#include "broker/listing.h"
#include "broker/match.h"
#include "broker/options.h"
#include "broker/tier.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

/* ---- queries ---- */

static int read_hashes(struct crn_call *call, struct crn_bytes hashes, struct crn_query *q)
{
    size_t n = 0;
    uint64_t *out = (uint64_t *)(void *)call->scratch[0];
    if (crn_wire_records(hashes, sizeof *out, sizeof call->scratch[0] / sizeof *out, out, &n) != 0)
        return crn_call_fail(call, CAIRN_E_PROTO, "query: hashes are u64 each");
    if (n > q->n_tokens / CAIRN_CHUNK_TOKENS)
        return crn_call_fail(call, CAIRN_E_ARG, "query: %zu hashes for %u tokens", n, q->n_tokens);
    q->hashes = out;
    q->n_hashes = (uint32_t)n;
    if (n < q->n_tokens / CAIRN_CHUNK_TOKENS) /* longer than a message can say: ask about the front */
        q->n_tokens = q->n_hashes * CAIRN_CHUNK_TOKENS;
    return 0;
}

static int read_tail(struct crn_call *call, struct crn_bytes tail, struct crn_query *q)
{
    size_t n = 0;
    int32_t *out = (int32_t *)(void *)call->scratch[1];
    if (tail.n == 0)
        return 0;
    if (crn_wire_records(tail, sizeof *out, CAIRN_CHUNK_TOKENS - 1, out, &n) != 0)
        return crn_call_fail(call, CAIRN_E_PROTO, "query: the tail is fewer than 64 int32");
    if (q->n_hashes * CAIRN_CHUNK_TOKENS + n != q->n_tokens)
        return crn_call_fail(call, CAIRN_E_ARG, "query: a tail of %zu for %u tokens", n,
                             q->n_tokens);
    q->tail = out;
    q->n_tail = (uint32_t)n;
    return 0;
}

static int read_query(struct crn_call *call, struct crn_bytes hashes, struct crn_bytes tail,
                      struct crn_query *q)
{
    int status = read_hashes(call, hashes, q);
    return status == 0 ? read_tail(call, tail, q) : status;
}

/* ---- answers ---- */

static void count_match(struct crn_stats *stats, const struct crn_path *path)
{
    CRN_COUNT(stats, match_total);
    if (path->class_ == CAIRN_CLASS_EXACT) {
        CRN_COUNT(stats, match_exact_total);
    } else if (path->class_ == CAIRN_CLASS_APPROX) {
        CRN_COUNT(stats, match_approx_total);
    } else {
        CRN_COUNT(stats, match_none_total);
        if (path->reason == CAIRN_REASON_NO_PLAN)
            CRN_COUNT(stats, refused_no_plan_total);
        else if (path->reason == CAIRN_REASON_QUALITY)
            CRN_COUNT(stats, refused_quality_total);
        else if (path->reason != CAIRN_REASON_NO_ENTRY)
            CRN_COUNT(stats, refused_other_total);
    }
}

/* Path records into a scratch buffer of the call. */
static struct crn_bytes path_recs(struct crn_call *call, const struct crn_path *path)
{
    struct crn_path_rec *recs = (struct crn_path_rec *)(void *)call->scratch[2];
    for (uint32_t i = 0; i < path->n; i++) {
        const struct crn_part *part = &path->parts[i];
        const struct crn_entry *e = part->entry;
        recs[i] = (struct crn_path_rec){.entry = e->id,
                                        .start = e->start,
                                        .n_tokens = e->n_tokens,
                                        .usable = part->usable,
                                        .class_ = part->class_,
                                        .reason = part->reason,
                                        .pyramid = e->pyramid,
                                        .producer = e->producer->digest,
                                        .resident_bytes = crn_tier_brief(e).resident_bytes,
                                        .bytes = e->body->bytes};
    }
    return (struct crn_bytes){recs, path->n * (uint32_t)sizeof *recs};
}

int crn_handle_match(struct crn_call *call)
{
    const struct crn_msg_match *m = &call->in->match;
    struct crn_space *space = call->session->space;
    char settings[CAIRN_MAX_SETTINGS + 1];
    struct crn_query q = {.n_tokens = (uint32_t)m->n_tokens,
                          .model = call->session->digest,
                          .family = call->session->family,
                          .settings = settings,
                          .min_quality = (uint32_t)m->min_quality,
                          .flags = (uint32_t)m->flags & CRN_MATCH_EXACT_ONLY};
    struct crn_path path;
    crn_wire_text(m->settings, settings, sizeof settings);
    int status = crn_call_needs_model(call, "match");
    if (status == 0)
        status = read_query(call, m->hashes, m->tail, &q);
    if (status == 0)
        status = crn_match_query(space, &q, &path);
    if (status != 0)
        return status;
    count_match(&space->stats, &path);
    call->out.matched.path = path_recs(call, &path);
    call->out.matched.class_ = path.class_;
    call->out.matched.reason = path.reason;
    call->out.matched.plan = path.plan != NULL ? path.plan->rec.id : 0;
    return 0;
}

static int find_by_entry(struct crn_call *call, struct crn_query *q, struct crn_path *out_path)
{
    const struct crn_msg_attach *m = &call->in->attach;
    struct crn_entry *e;
    int status = crn_call_entry(call, m->entry, &e);
    if (status != 0)
        return status;
    bool inspect = (q->flags & CRN_ATTACH_INSPECT) != 0;
    if (!inspect && memcmp(&e->producer->family, &q->family, sizeof q->family) != 0) {
        *out_path = (struct crn_path){.class_ = CAIRN_CLASS_NONE,
                                      .reason = CAIRN_REASON_OTHER_FAMILY};
        return 0;
    }
    return crn_match_entry(call->session->space, e, q, out_path);
}

static int find_path(struct crn_call *call, struct crn_query *q, struct crn_path *out_path)
{
    const struct crn_msg_attach *m = &call->in->attach;
    int status;
    if (m->plan != 0 && crn_plans_find(&call->session->space->plans, m->plan) == NULL)
        return crn_call_fail(call, CAIRN_E_MISS, "attach: no plan %llu",
                             (unsigned long long)m->plan);
    if (m->entry != 0)
        return find_by_entry(call, q, out_path);
    status = crn_call_needs_model(call, "attach");
    if (status == 0)
        status = read_query(call, m->hashes, m->tail, q);
    return status == 0 ? crn_match_query(call->session->space, q, out_path) : status;
}

/* What the reader can choose from; behind the path's records in the scratch buffer. */
static struct crn_bytes option_recs(struct crn_call *call, const struct crn_query *q,
                                    const struct crn_path *path)
{
    struct crn_option_rec *recs = (struct crn_option_rec *)(void *)(call->scratch[2] + 4096);
    _Static_assert(4096 + CRN_OPTIONS_MAX * sizeof *recs <= sizeof call->scratch[2], "scratch");
    bool inspect = (q->flags & CRN_ATTACH_INSPECT) != 0;
    uint32_t n = inspect ? 0 : crn_options_list(call->session->space, q, path, recs);
    return (struct crn_bytes){recs, n * (uint32_t)sizeof *recs};
}

/* The path and what it consists of; the path gets shorter until the answer fits. */
static int list_path(struct crn_call *call, struct crn_path *path, bool all,
                     struct crn_listing *l)
{
    int status = 0;
    while (path->n > 0) {
        size_t other = path->n * sizeof(struct crn_path_rec) + sizeof(struct crn_plan_rec) +
                       CRN_OPTIONS_MAX * sizeof(struct crn_option_rec);
        status = crn_listing_path(l, path, all, other);
        if (status == 0 || path->n == 1)
            break;
        path->n--;
    }
    return status == 0 ? 0 : crn_call_fail(call, status, "attach: one entry has more payloads than "
                                                         "a message can name");
}

static void count_attach(struct crn_session *s, const struct crn_path *path,
                         const struct crn_lease *lease, const struct crn_listing *l)
{
    struct crn_stats *stats = &s->space->stats;
    uint64_t now = crn_now_ns();
    CRN_COUNT(stats, attach_total);
    CRN_ADD(stats, shared_bytes_total, lease->bytes);
    for (uint32_t i = 0; i < path->n; i++) {
        path->parts[i].entry->hits++;
        path->parts[i].entry->used_ns = now;
        CRN_ADD(stats, shared_tokens_total, path->parts[i].usable);
    }
    for (uint32_t i = 0; i < l->n; i++) {
        CRN_ADD(stats, hits_device_total, l->payloads[i]->tier == CAIRN_TIER_DEVICE);
        CRN_ADD(stats, hits_nvme_total, l->payloads[i]->tier == CAIRN_TIER_NVME);
        CRN_ADD(stats, hits_host_total, l->payloads[i]->tier == CAIRN_TIER_HOST);
    }
    s->hits++;
    s->saved_bytes += lease->bytes;
}

/* States that plans of the receiver's own entry start from and that it lacks, because the plans came later. */
static struct crn_bytes wanted_states(struct crn_call *call, const struct crn_path *path)
{
    const struct crn_session *s = call->session;
    const struct crn_entry *e = path->parts[0].entry;
    uint16_t *layers = (uint16_t *)(void *)call->scratch[0];
    uint32_t n = 0, n_all = 0;
    if (path->n == 1 && e->producer == s->model && e->pyramid != CAIRN_PYRAMID_PREFILL)
        n_all = crn_plans_states(&s->space->plans, &s->digest, layers, CAIRN_MAX_STATES);
    for (uint32_t i = 0; i < n_all; i++) {
        if (crn_body_state(e->body, layers[i]) == NULL)
            layers[n++] = layers[i];
    }
    return (struct crn_bytes){layers, n * (uint32_t)sizeof *layers};
}

static void answer_attach(struct crn_call *call, const struct crn_path *path,
                          const struct crn_lease *lease, const struct crn_listing *l)
{
    struct crn_msg_attached *a = &call->out.attached;
    a->lease = lease->id;
    a->slot = lease->slot;
    a->epoch = lease->epoch;
    a->path = path_recs(call, path);
    a->payloads = (struct crn_bytes){l->recs, l->n * (uint32_t)sizeof *l->recs};
    a->counts = (struct crn_bytes){l->counts, l->n_counts * (uint32_t)sizeof *l->counts};
    a->wants = wanted_states(call, path);
    if (path->plan != NULL)
        a->plan = (struct crn_bytes){&path->plan->rec, sizeof path->plan->rec};
}

int crn_handle_attach(struct crn_call *call)
{
    static struct crn_listing listing; /* one call at a time */
    const struct crn_msg_attach *m = &call->in->attach;
    struct crn_session *s = call->session;
    char settings[CAIRN_MAX_SETTINGS + 1];
    struct crn_query q = {.n_tokens = (uint32_t)m->n_tokens,
                          .model = s->digest,
                          .family = s->family,
                          .settings = settings,
                          .min_quality = (uint32_t)m->min_quality,
                          .flags = (uint32_t)m->flags,
                          .plan = m->plan,
                          .waiting = (uint32_t)m->waiting};
    bool counts = (q.flags & (CRN_ATTACH_INSPECT | CRN_ATTACH_AGAIN)) == 0;
    struct crn_path path;
    struct crn_lease *lease;
    crn_wire_text(m->settings, settings, sizeof settings);
    int status = find_path(call, &q, &path);
    if (status == 0)
        status = list_path(call, &path, (q.flags & CRN_ATTACH_INSPECT) != 0, &listing);
    if (status != 0)
        return status;
    if (counts && path.n == 0)
        count_match(&s->space->stats, &path);
    call->out.attached.class_ = path.class_;
    call->out.attached.reason = path.reason;
    if (path.n == 0)
        return 0;
    status = crn_lease_grant(s, &path, listing.payloads, listing.n, &lease);
    if (status != 0)
        return crn_call_fail(call, status, "attach: %u leases are held, release some",
                             s->n_leases);
    call->out.attached.options = option_recs(call, &q, &path); /* before restores begin */
    call->out.attached.restore_rate = crn_tier_restore_rate(s->space);
    status = crn_tier_want(s, lease, &path, &listing);
    if (status != 0) {
        crn_lease_end(s, lease);
        if (status == -EAGAIN)
            return status;
        return crn_call_fail(call, status, "attach: %u payloads, more than a lease can wait for",
                             listing.n);
    }
    if (counts)
        count_match(&s->space->stats, &path);
    if ((q.flags & CRN_ATTACH_AGAIN) == 0)
        count_attach(s, &path, lease, &listing);
    answer_attach(call, &path, lease, &listing);
    return 0;
}

static void count_choice(struct crn_stats *stats, uint64_t reason)
{
    CRN_ADD(stats, choice_plan_total, reason == CAIRN_REASON_PLAN);
    CRN_ADD(stats, choice_queue_total, reason == CAIRN_REASON_QUEUE);
    CRN_ADD(stats, choice_deadline_total, reason == CAIRN_REASON_DEADLINE);
    CRN_ADD(stats, choice_late_total, reason == CAIRN_REASON_LATE);
    CRN_ADD(stats, choice_break_even_total, reason == CAIRN_REASON_BREAK_EVEN);
}

int crn_handle_release(struct crn_call *call)
{
    struct crn_lease *lease;
    int status = crn_lease_find(call->session, call->in->release.lease, &lease);
    if (status != 0) {
        CRN_COUNT(&call->session->space->stats, stale_total);
        return crn_call_fail(call, status, "release: no such lease; it ended before");
    }
    count_choice(&call->session->space->stats, call->in->release.reason);
    crn_lease_end(call->session, lease);
    return 0;
}
