/* Match and attach: a context becomes chunk hashes, the answer becomes a lease (lease.c). One message each way; arenas that this
 * process has not mapped yet are fetched over the descriptor channel, once. A hash that agrees is a hint: the tokens decide. */
#include "client/lease.h"

#include "ipc/hash.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HASHES_MAX 4096u /* chunks in one message: 262,144 tokens */

static const char *reason_text(uint64_t reason)
{
    switch (reason) {
    case CAIRN_REASON_NO_PLAN:
        return "cached by a sibling, but no plan for the pair";
    case CAIRN_REASON_QUALITY:
        return "every plan is below the quality floor";
    case CAIRN_REASON_NO_STATE:
        return "the state where the plan's run starts was not kept";
    case CAIRN_REASON_WHOLE_ONLY:
        return "a prefill pyramid of another length";
    case CAIRN_REASON_SETTINGS:
        return "a prefill pyramid of other settings";
    case CAIRN_REASON_OTHER_FAMILY:
        return "cached by another family";
    default:
        return "nothing is cached for these tokens";
    }
}

static int query_copy(struct cairn_client *client, const struct cairn_query *in,
                      struct cairn_query *out)
{
    int status = crn_sized_copy(out, sizeof *out, in, sizeof *in);
    if (status == 0 && out->entry.v == 0 && (out->tokens == NULL || out->n_tokens == 0))
        status = CAIRN_E_ARG;
    if (status == 0 && out->n_tokens > CAIRN_MAX_TOKENS)
        status = CAIRN_E_TOO_BIG;
    if (status == 0 && !(out->min_quality >= 0 && out->min_quality <= 1))
        status = CAIRN_E_ARG;
    if (status == 0 && client->options.shape.n_layers == 0)
        status = CAIRN_E_ARG;
    if (status == 0 && out->settings != NULL && strlen(out->settings) > CAIRN_MAX_SETTINGS)
        status = CAIRN_E_TOO_BIG;
    return status == 0 ? 0 : crn_client_fail(client, status, "query");
}

/* A context as it travels: hashes of its whole chunks, in the client's scratch (valid until the next answer is read), and the
 * tokens behind them. Contexts beyond one message are matched as far as it reaches. */
struct asked {
    struct crn_bytes hashes, tail;
    uint32_t n_tokens;
};

static struct asked ask_for(struct cairn_client *client, const struct cairn_query *query)
{
    _Static_assert(sizeof client->payloads >= HASHES_MAX * sizeof(uint64_t), "scratch");
    uint64_t *hashes = (void *)client->payloads;
    uint32_t n = query->n_tokens, most = HASHES_MAX * CAIRN_CHUNK_TOKENS;
    if (query->tokens == NULL)
        return (struct asked){.n_tokens = 0};
    n = n < most ? n : most;
    size_t chunks = crn_hash_chain(&client->options.family, query->tokens, n, hashes);
    uint32_t whole = (uint32_t)chunks * CAIRN_CHUNK_TOKENS;
    return (struct asked){
        .hashes = {hashes, (uint32_t)(chunks * sizeof *hashes)},
        .tail = {query->tokens + whole, (uint32_t)((n - whole) * sizeof *query->tokens)},
        .n_tokens = n,
    };
}

int cairn_match(struct cairn_client *client, const struct cairn_query *query, uint64_t deadline_ns,
                struct cairn_match *out_match)
{
    struct cairn_query q;
    struct crn_path_rec path[CAIRN_MAX_PATH];
    size_t n = 0;
    if (client == NULL || out_match == NULL)
        return CAIRN_E_ARG;
    crn_client_begin(client);
    int status = query_copy(client, query, &q);
    if (status == 0 && q.tokens == NULL)
        status = CAIRN_E_ARG;
    if (status == 0)
        status = crn_client_ready(client, deadline_ns);
    if (status != 0)
        return status;
    struct crn_msg_matched matched;
    struct asked asked = ask_for(client, &q);
    struct crn_msg_match msg = {.hashes = asked.hashes,
                                .n_tokens = asked.n_tokens,
                                .tail = asked.tail,
                                .min_quality = (uint64_t)(q.min_quality * 1e6f + 0.5f),
                                .flags = q.flags & CAIRN_QUERY_EXACT_ONLY,
                                .settings = crn_client_text(q.settings)};
    status = CRN_CALL(client, match, msg, matched, &matched, deadline_ns);
    if (status != 0)
        return status;
    if (crn_wire_records(matched.path, sizeof path[0], CAIRN_MAX_PATH, path, &n) != 0)
        return crn_client_fail(client, CAIRN_E_PROTO, "match: path");
    client->reason = (uint32_t)matched.reason;
    struct cairn_match match = {.class_ = (uint32_t)matched.class_,
                                .reason = (uint32_t)matched.reason,
                                .n_parts = (uint32_t)n,
                                .plan = matched.plan};
    for (size_t i = 0; i < n; i++) {
        match.n_tokens += path[i].usable;
        match.resident_bytes += path[i].resident_bytes;
        match.bytes += path[i].bytes;
    }
    if (n > 0)
        match.producer = path[0].producer;
    *out_match = match;
    return 0;
}

/* Records of an answer, copied out of the message (their alignment there is anything). */
static int read_offer(struct cairn_client *client, const struct crn_msg_attached *msg,
                      struct crn_path_rec path[CAIRN_MAX_PATH], struct crn_plan_rec *plan,
                      uint16_t wants[CAIRN_MAX_STATES], struct crn_offer *out)
{
    size_t n_plans = 0;
    *out = (struct crn_offer){
        .msg = msg, .path = path, .payloads = client->payloads, .counts = client->counts,
        .wants = wants};
    if (crn_wire_records(msg->path, sizeof *path, CAIRN_MAX_PATH, path, &out->n_path) != 0 ||
        crn_wire_records(msg->payloads, sizeof client->payloads[0], CRN_PAYLOADS_MAX,
                         client->payloads, &out->n_payloads) != 0 ||
        crn_wire_records(msg->counts, sizeof client->counts[0], CRN_COUNTS_MAX, client->counts,
                         &out->n_counts) != 0 ||
        crn_wire_records(msg->plan, sizeof *plan, 1, plan, &n_plans) != 0 ||
        crn_wire_records(msg->wants, sizeof *wants, CAIRN_MAX_STATES, wants, &out->n_wants) != 0)
        return crn_client_fail(client, CAIRN_E_PROTO, "attach: records");
    out->plan = n_plans == 1 ? plan : NULL;
    return 0;
}

/* Ends a lease of which nothing was made. */
static void refuse(struct cairn_client *client, uint64_t lease)
{
    struct crn_msg_release msg = {.lease = lease, .request = crn_client_next(client)};
    if (lease != 0)
        crn_client_send(client, CRN_MSG_release, &msg, 0);
}

static int take_offer(struct cairn_client *client, const struct crn_msg_attached *msg,
                      const struct cairn_query *query, uint64_t deadline_ns,
                      struct cairn_lease **out_lease)
{
    struct crn_path_rec path[CAIRN_MAX_PATH];
    struct crn_plan_rec plan;
    struct crn_offer offer;
    uint16_t wants[CAIRN_MAX_STATES];
    struct cairn_lease *lease;
    int status = read_offer(client, msg, path, &plan, wants, &offer);
    client->reason = (uint32_t)msg->reason;
    if (status == 0 && (msg->lease == 0 || offer.n_path == 0))
        status = crn_client_fail(client, CAIRN_E_MISS, "attach: %s", reason_text(msg->reason));
    if (status != 0) {
        refuse(client, msg->lease);
        return status;
    }
    status = crn_grant_make(client, &offer, deadline_ns, &lease);
    if (status != 0)
        return status;
    status = crn_grant_cut(lease, query, deadline_ns);
    if (status != 0) {
        crn_grant_free(lease);
        return status;
    }
    *out_lease = lease;
    return 0;
}

int cairn_attach(struct cairn_client *client, const struct cairn_query *query, uint64_t deadline_ns,
                 struct cairn_lease **out_lease)
{
    struct cairn_query q;
    struct crn_msg_attached attached;
    if (client == NULL || out_lease == NULL)
        return CAIRN_E_ARG;
    crn_client_begin(client);
    int status = query_copy(client, query, &q);
    if (status == 0)
        status = crn_client_ready(client, deadline_ns);
    if (status != 0)
        return status;
    if (q.entry.v != 0)
        q.tokens = NULL;
    struct asked asked = ask_for(client, &q);
    struct crn_msg_attach msg = {
        .hashes = asked.hashes,
        .n_tokens = asked.n_tokens,
        .tail = asked.tail,
        .min_quality = (uint64_t)(q.min_quality * 1e6f + 0.5f),
        .flags = q.flags & (CAIRN_QUERY_EXACT_ONLY | CAIRN_QUERY_INSPECT),
        .entry = q.entry.v,
        .plan = q.plan,
        .settings = crn_client_text(q.settings),
    };
    status = CRN_CALL(client, attach, msg, attached, &attached, deadline_ns);
    if (status == 0)
        status = take_offer(client, &attached, &q, deadline_ns, out_lease);
    if (status == CAIRN_E_MISS)
        client->stats.misses++;
    if (status != 0)
        return status;
    client->stats.attaches++;
    client->stats.shared_bytes += (*out_lease)->info.shared_bytes;
    client->stats.shared_tokens += (*out_lease)->info.n_tokens;
    return 0;
}

uint32_t cairn_last_reason(const struct cairn_client *client)
{
    return client->reason;
}

void cairn_release(struct cairn_lease *lease)
{
    if (lease != NULL)
        crn_grant_free(lease);
}
