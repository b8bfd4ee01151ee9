/* Match and attach: a context becomes chunk hashes, the answer becomes a lease (lease.c). One message each way; arenas that this
 * process has not mapped yet are fetched over the descriptor channel, once. A hash that agrees is a hint: the tokens decide.
 *
 * The answer offers one plan and names the others (choose.h). When the choice is another one, the lease is given back and taken
 * again with it; when it is none, it is given back and the answer is a miss. */
#include "client/lease.h"

#include "ipc/hash.h"

#include <errno.h>
#include <stddef.h>
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
    case CAIRN_REASON_BREAK_EVEN:
        return "an own prefill is estimated to be quicker";
    default:
        return "nothing is cached for these tokens";
    }
}

static int query_copy(struct cairn_client *client, const struct cairn_query *in,
                      struct cairn_query *out)
{
    int status = crn_sized_copy(out, sizeof *out, in, offsetof(struct cairn_query, settings));
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

/* Ends a lease of which nothing was made; reason: of the choice against it, or 0. */
static void refuse(struct cairn_client *client, uint64_t lease, uint32_t reason)
{
    struct crn_msg_release msg = {.lease = lease, .reason = reason};
    if (lease != 0)
        crn_client_send(client, CRN_MSG_release, &msg, 0);
}

/* ---- the choice ---- */

#define OPTIONS_MAX 51u /* of one answer */

static size_t read_options(struct cairn_client *client, const struct crn_msg_attached *msg,
                           struct crn_option *out)
{
    struct crn_option_rec recs[OPTIONS_MAX];
    size_t n = 0;
    if (crn_wire_records(msg->options, sizeof recs[0], OPTIONS_MAX, recs, &n) != 0)
        return 0;
    for (size_t i = 0; i < n; i++)
        out[i] = (struct crn_option){.plan = recs[i].plan,
                                     .quality = (float)recs[i].quality_ppm / 1e6f,
                                     .run_tokens = recs[i].run_tokens,
                                     .state_bytes = recs[i].state_bytes,
                                     .kv_bytes = recs[i].kv_bytes,
                                     .tier = recs[i].tier};
    if (msg->restore_rate > 0)
        client->learned.bytes_per_s[CAIRN_TIER_NVME] = (double)msg->restore_rate;
    return n;
}

static uint64_t time_left(const struct cairn_query *query)
{
    uint64_t now = cairn_deadline_in(0);
    if (query->first_token_ns == 0)
        return 0;
    return query->first_token_ns > now ? query->first_token_ns - now : 1;
}

/* What to do with an offer. A query that leaves no choice, and a broker that offers none, keep what was matched. */
static struct crn_choice choose(struct cairn_client *client, const struct crn_offer *offer,
                                const struct cairn_query *query, uint64_t *out_plan)
{
    struct crn_option options[OPTIONS_MAX];
    size_t n = read_options(client, offer->msg, options);
    struct crn_choice keep = {.index = 0, .reason = (uint32_t)offer->msg->reason};
    *out_plan = offer->plan != NULL ? offer->plan->id : 0;
    if (n == 0 || query->tokens == NULL || query->plan != 0 ||
        (query->flags & CAIRN_QUERY_INSPECT) != 0)
        return keep;
    const struct crn_path_rec *end = &offer->path[offer->n_path - 1];
    struct crn_wish wish = {.n_tokens = query->n_tokens,
                            .n_cached = end->start + end->usable,
                            .n_layers = client->options.shape.n_layers,
                            .min_quality = query->min_quality,
                            .waiting = query->waiting,
                            .limit_ns = time_left(query)};
    struct crn_speed speed = crn_learned_speed(&client->learned, query->n_tokens);
    struct crn_choice choice = crn_choose(&speed, &wish, options, n);
    if (choice.reason == CAIRN_REASON_QUALITY) /* rounding: the broker compared millionths */
        return keep;
    if (choice.index != CRN_CHOOSE_NONE)
        *out_plan = options[choice.index].plan;
    return choice;
}

/* An answer on its way to a lease. */
struct attach {
    const struct cairn_query *query;
    struct crn_msg_attach msg;
    struct crn_choice choice;
};

/* Decides about the first answer. CAIRN_E_MISS: against all of it; *out_again: for another plan of it. */
static int decide(struct cairn_client *client, const struct crn_offer *offer, struct attach *a,
                  int *out_again)
{
    uint64_t plan;
    a->choice = choose(client, offer, a->query, &plan);
    client->reason = a->choice.reason;
    *out_again = 0;
    if (a->choice.index == CRN_CHOOSE_NONE) {
        refuse(client, offer->msg->lease, a->choice.reason);
        return crn_client_fail(client, CAIRN_E_MISS, "attach: %s", reason_text(a->choice.reason));
    }
    if (plan == (offer->plan != NULL ? offer->plan->id : 0))
        return 0;
    refuse(client, offer->msg->lease, 0);
    a->msg.plan = plan;
    a->msg.flags |= CRN_ATTACH_AGAIN;
    *out_again = 1;
    return 0;
}

static int take_offer(struct cairn_client *client, const struct crn_offer *offer,
                      const struct attach *a, uint64_t deadline_ns, struct cairn_lease **out_lease)
{
    struct cairn_lease *lease;
    int status = crn_grant_make(client, offer, deadline_ns, &lease);
    if (status != 0)
        return status;
    if (lease->info.class_ == CAIRN_CLASS_APPROX)
        lease->info.reason = a->choice.reason;
    lease->info.estimate_ns = a->choice.estimate_ns;
    lease->info.prefill_ns = a->choice.prefill_ns;
    status = crn_grant_cut(lease, a->query, deadline_ns);
    if (status != 0) {
        crn_grant_free(lease);
        return status;
    }
    *out_lease = lease;
    return 0;
}

/* Asks once, or, for another plan than the broker's first choice, twice. */
static int ask(struct cairn_client *client, struct attach *a, uint64_t deadline_ns,
               struct cairn_lease **out_lease)
{
    struct crn_path_rec path[CAIRN_MAX_PATH];
    struct crn_msg_attached msg;
    struct crn_plan_rec plan;
    struct crn_offer offer;
    uint16_t wants[CAIRN_MAX_STATES];
    int again = 1;
    for (int round = 0; again; round++) {
        struct asked asked = ask_for(client, a->query);
        a->msg.hashes = asked.hashes;
        a->msg.tail = asked.tail;
        a->msg.n_tokens = asked.n_tokens;
        int status = CRN_CALL(client, attach, a->msg, attached, &msg, deadline_ns);
        if (status != 0)
            return status;
        status = read_offer(client, &msg, path, &plan, wants, &offer);
        client->reason = (uint32_t)msg.reason;
        if (status == 0 && (msg.lease == 0 || offer.n_path == 0))
            status = crn_client_fail(client, CAIRN_E_MISS, "attach: %s", reason_text(msg.reason));
        if (status != 0) {
            refuse(client, msg.lease, 0);
            return status;
        }
        again = 0;
        status = round == 0 ? decide(client, &offer, a, &again) : 0;
        if (status != 0)
            return status;
    }
    client->reason = a->choice.reason;
    return take_offer(client, &offer, a, deadline_ns, out_lease);
}

int cairn_attach(struct cairn_client *client, const struct cairn_query *query, uint64_t deadline_ns,
                 struct cairn_lease **out_lease)
{
    struct cairn_query q;
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
    struct attach a = {.query = &q,
                       .msg = {.min_quality = (uint64_t)(q.min_quality * 1e6f + 0.5f),
                               .flags = q.flags & (CAIRN_QUERY_EXACT_ONLY | CAIRN_QUERY_INSPECT),
                               .entry = q.entry.v,
                               .plan = q.plan,
                               .settings = crn_client_text(q.settings),
                               .waiting = q.waiting}};
    status = ask(client, &a, deadline_ns, out_lease);
    if (status == CAIRN_E_MISS)
        client->stats.misses++;
    if (status != 0)
        return status;
    client->stats.attaches++;
    client->stats.shared_bytes += (*out_lease)->info.shared_bytes;
    client->stats.shared_tokens += (*out_lease)->info.n_tokens;
    return 0;
}

int cairn_report(struct cairn_client *client, const struct cairn_timing *timing)
{
    struct cairn_timing t;
    if (client == NULL)
        return CAIRN_E_ARG;
    int status = crn_sized_copy(&t, sizeof t, timing, sizeof t);
    return status != 0 ? status
                       : crn_learned_add(&client->learned, t.what, t.n_tokens, t.work, t.ns);
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
