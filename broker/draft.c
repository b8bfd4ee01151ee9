/* Drafts. While one is open it keeps its parent (or the entry it replaces) from being evicted by a count on that entry; its own
 * payloads belong to a body that nobody else can see.
 *
 * Publishing runs on the loop thread, between two messages, so it is atomic to everybody: the entry gets its hashes from the
 * tokens in the arena, goes into index and table, and is there. When an equal entry was published meanwhile, this one is dropped
 * and the other's id is the answer. Replacing swaps the body under a new generation: the old id is stale at once, leases on the
 * old body go on reading what they have. */
#include "broker/draft.h"

#include "broker/broker.h"
#include "broker/crash.h"
#include "broker/tier.h"
#include "ipc/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int move(struct crn_draft *d, enum crn_draft_state to)
{
    static const uint8_t allowed[] = {
        [CRN_DRAFT_OPEN] = 1u << CRN_DRAFT_SEALED | 1u << CRN_DRAFT_DROPPED,
        [CRN_DRAFT_SEALED] = 1u << CRN_DRAFT_DROPPED | 1u << CRN_DRAFT_ENDED,
        [CRN_DRAFT_DROPPED] = 1u << CRN_DRAFT_ENDED,
        [CRN_DRAFT_ENDED] = 0,
    };
    if ((allowed[d->state] & 1u << to) == 0)
        return CAIRN_E_STATE;
    d->state = to;
    return 0;
}

static void keep(struct crn_entry *e, int by)
{
    if (e != NULL)
        e->n_drafts = (uint32_t)((int)e->n_drafts + by);
}

int crn_draft_open(struct crn_session *session, const struct crn_draft_spec *spec,
                   struct crn_draft **out_draft)
{
    if (session->n_drafts == CRN_SESSION_DRAFTS)
        return CAIRN_E_FULL;
    struct crn_draft *d = calloc(1, sizeof *d);
    if (d == NULL)
        return -ENOMEM;
    int status = crn_body_create((uint16_t)session->shape.n_layers, &d->body);
    if (status == 0)
        status = crn_session_add_landing(session, spec->put_bytes, &d->landing);
    if (status != 0) {
        crn_body_drop(d->body);
        free(d);
        return status;
    }
    d->id = ++session->broker->last_draft;
    d->state = CRN_DRAFT_OPEN;
    d->broker = session->broker;
    d->session = session;
    d->space = session->space;
    d->producer = session->model;
    d->parent = spec->parent;
    d->replaces = spec->replaces;
    d->replaces_id = spec->replaces != NULL ? spec->replaces->id : 0;
    d->first_hash = spec->first_hash;
    d->start = spec->start;
    d->n_tokens = spec->n_tokens;
    d->exclusive = spec->exclusive;
    d->spill_int8 = spec->spill_int8;
    d->pyramid = spec->pyramid;
    memcpy(d->settings, spec->settings, sizeof d->settings);
    keep(d->parent, 1);
    keep(d->replaces, 1);
    d->next = session->drafts;
    session->drafts = d;
    session->n_drafts++;
    CRN_COUNT(&d->space->stats, draft_total);
    *out_draft = d;
    return 0;
}

struct crn_draft *crn_draft_find(const struct crn_session *session, uint64_t id)
{
    struct crn_draft *d = session->drafts;
    while (d != NULL && d->id != id)
        d = d->next;
    return d;
}

bool crn_draft_somebody(const struct crn_session *session, const struct crn_draft_spec *spec)
{
    const struct crn_session *s = session->broker->sessions.first;
    for (; s != NULL; s = s->next) {
        if (s == session || s->space != session->space || s->doom != NULL)
            continue;
        for (const struct crn_draft *d = s->drafts; d != NULL; d = d->next) {
            if (d->producer == session->model && d->replaces == NULL &&
                d->first_hash == spec->first_hash && d->start == spec->start &&
                d->n_tokens == spec->n_tokens && d->exclusive)
                return true;
        }
    }
    return false;
}

/* Takes the draft off its session; its landing zone goes as soon as no copy reads it. */
static void detach(struct crn_draft *d)
{
    if (d->session == NULL)
        return;
    struct crn_draft **at = &d->session->drafts;
    while (*at != d)
        at = &(*at)->next;
    *at = d->next;
    d->session->n_drafts--;
    crn_session_end_landing(d->session, d->landing);
    d->session = NULL;
}

static void end(struct crn_draft *d)
{
    int status = move(d, CRN_DRAFT_ENDED);
    if (status != 0)
        crn_log(CRN_LOG_ERROR, "draft %llu: ended in state %d", (unsigned long long)d->id,
                (int)d->state);
    detach(d);
    keep(d->parent, -1);
    keep(d->replaces, -1);
    crn_body_drop(d->body);
    free(d);
}

/* ---- publishing ---- */

/* 0 when nothing is missing, else a code and the reason. */
static int complete(const struct crn_draft *d, char *why, size_t why_bytes)
{
    if (d->broken) {
        snprintf(why, why_bytes, "a put of this draft failed; abort it");
        return CAIRN_E_STATE;
    }
    if (d->body->tokens == NULL) {
        snprintf(why, why_bytes, "the tokens were not put");
        return CAIRN_E_STATE;
    }
    for (uint32_t l = 0; l < d->body->n_layers; l++) {
        if (d->body->kv[l] == NULL) {
            snprintf(why, why_bytes, "layer %u was not put", l);
            return CAIRN_E_STATE;
        }
    }
    return 0;
}

static int publish_replacement(struct crn_draft *d, char *why, size_t why_bytes,
                               struct crn_entry **out_entry)
{
    struct crn_entry *e = d->replaces;
    if (e->id != d->replaces_id) {
        CRN_COUNT(&d->space->stats, stale_total);
        snprintf(why, why_bytes, "entry %llx was replaced meanwhile",
                 (unsigned long long)d->replaces_id);
        return CAIRN_E_STALE;
    }
    crn_body_inherit(d->body, e->body);
    int status = complete(d, why, why_bytes);
    char *settings = status == 0 ? strdup(d->settings) : NULL;
    if (status == 0 && settings == NULL)
        status = -ENOMEM;
    if (status != 0)
        return status;
    free(e->settings);
    e->settings = settings;
    e->pyramid = d->pyramid;
    crn_tier_replaced(e); /* its record, if it has one, is good until the next one is */
    crn_body_drop(e->body);
    e->body = crn_body_hold(d->body);
    crn_entries_renew(&d->space->entries, e);
    CRN_COUNT(&d->space->stats, compress_total);
    *out_entry = e;
    return 0;
}

static int publish_new(struct crn_draft *d, char *why, size_t why_bytes,
                       struct crn_entry **out_entry)
{
    int status = complete(d, why, why_bytes);
    if (status != 0)
        return status;
    struct crn_entry_spec spec = {.space = d->space,
                                  .producer = d->producer,
                                  .parent = d->parent,
                                  .start = d->start,
                                  .n_tokens = d->n_tokens,
                                  .pyramid = d->pyramid,
                                  .settings = d->settings,
                                  .tokens = crn_payload_at(d->body->tokens)};
    struct crn_entry *e;
    status = crn_entry_create(&spec, &e);
    if (status != 0)
        return status;
    struct crn_entry *same = crn_space_same(d->space, &spec, crn_entry_last_hash(e));
    if (same != NULL) {
        crn_entry_destroy(e);
        *out_entry = same;
        return 0;
    }
    e->body = crn_body_hold(d->body);
    status = crn_space_insert(d->space, e);
    if (status != 0) {
        crn_entry_destroy(e);
        return status;
    }
    CRN_COUNT(&d->space->stats, commit_total);
    *out_entry = e;
    return 0;
}

static void publish(struct crn_draft *d)
{
    char why[160] = "";
    struct crn_entry *e = NULL;
    CRN_CRASH("publish-sealed");
    int status = d->replaces != NULL ? publish_replacement(d, why, sizeof why, &e)
                                     : publish_new(d, why, sizeof why, &e);
    if (status != 0) {
        char text[256];
        snprintf(text, sizeof text, "commit of draft %llu: %s", (unsigned long long)d->id,
                 why[0] != '\0' ? why : cairn_strerror(status));
        CRN_COUNT(&d->space->stats, draft_aborted_total);
        crn_session_send_error(d->session, d->commit_request, status, text);
        return;
    }
    e->pinned |= d->pin;
    e->spill_int8 |= d->spill_int8;
    e->token_ns = d->token_ns > 0 ? d->token_ns : e->token_ns;
    crn_tier_published(e);
    d->session->published++;
    struct crn_msg_committed reply = {
        .entry = e->id, .bytes = crn_tier_brief(e).bytes, .request = d->commit_request};
    crn_session_send(d->session, CRN_MSG_committed, &reply);
}

/* Ends a sealed or dropped draft once nothing is copied for it any more. */
static void settle(struct crn_draft *d)
{
    if (d->n_copies > 0 || d->state == CRN_DRAFT_OPEN)
        return;
    if (d->state == CRN_DRAFT_SEALED)
        publish(d);
    end(d);
}

void crn_draft_copy_begins(struct crn_draft *draft)
{
    draft->n_copies++;
}

void crn_draft_copy_ends(struct crn_draft *draft)
{
    draft->n_copies--;
    settle(draft);
}

int crn_draft_commit(struct crn_draft *draft, uint64_t request, bool pin)
{
    int status = move(draft, CRN_DRAFT_SEALED);
    if (status != 0)
        return status;
    draft->commit_request = request;
    draft->pin = pin;
    settle(draft);
    return 0;
}

void crn_draft_abandon(struct crn_draft *draft)
{
    CRN_COUNT(&draft->space->stats, draft_aborted_total);
    detach(draft);
    if (move(draft, CRN_DRAFT_DROPPED) != 0)
        crn_log(CRN_LOG_ERROR, "draft %llu: dropped in state %d", (unsigned long long)draft->id,
                (int)draft->state);
    settle(draft);
}
