/* Operations for tools: counters, lists, one entry in detail, and orders. Lists are collected page by page before the caller sees
 * them, so that a callback may use the client itself. */
#include "client/client.h"

#include "ipc/counters.h"
#include "ipc/layout.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- counters ---- */

enum { KIND_T = 1, KIND_G = 0 };

static const struct {
    const char *name, *help;
    uint32_t is_total;
} counters[] = {
#define ROW(name, kind, help) {#name, help, KIND_##kind},
    CRN_COUNTER_MAP(ROW)
#undef ROW
};
#define N_COUNTERS (sizeof counters / sizeof counters[0])

static void add_note(char *notes, size_t bytes, const char *what, struct crn_bytes text)
{
    char line[1100];
    size_t at = strlen(notes);
    if (text.n == 0 || at + 1 >= bytes)
        return;
    crn_wire_text(text, line, sizeof line);
    snprintf(notes + at, bytes - at, "%s%s%s", at > 0 ? "\n" : "", what, line);
}

/* notes: "device ...", "io ...", "broker VERSION", "namespace ...", then the broker's own remarks. */
static void write_notes(const struct crn_msg_stats *s, char *notes, size_t bytes)
{
    if (notes == NULL || bytes == 0)
        return;
    notes[0] = '\0';
    add_note(notes, bytes, "device ", s->device);
    add_note(notes, bytes, "io ", s->io);
    add_note(notes, bytes, "broker ", s->version);
    add_note(notes, bytes, "namespace ", s->space);
    for (struct crn_bytes rest = s->notes; rest.n > 0;) {
        const char *end = memchr(rest.p, '\n', rest.n);
        uint32_t n = end != NULL ? (uint32_t)(end - (const char *)rest.p) : rest.n;
        add_note(notes, bytes, "", (struct crn_bytes){rest.p, n});
        n += end != NULL;
        rest = (struct crn_bytes){(const char *)rest.p + n, rest.n - n};
    }
}

int cairn_stat(struct cairn_client *client, uint64_t deadline_ns, struct cairn_counter *out_counters,
               size_t capacity, size_t *out_n, char *out_notes, size_t notes_bytes)
{
    struct crn_msg_stat msg = {0};
    struct crn_msg_stats stats;
    uint64_t values[256];
    size_t n = 0;
    if (client == NULL || out_n == NULL || (capacity > 0 && out_counters == NULL))
        return CAIRN_E_ARG;
    int status = crn_client_ready(client, deadline_ns);
    if (status == 0)
        status = CRN_CALL(client, stat, msg, stats, &stats, deadline_ns);
    if (status != 0)
        return status;
    if (crn_wire_records(stats.counters, sizeof values[0], 256, values, &n) != 0)
        return crn_client_fail(client, CAIRN_E_PROTO, "stat: counters");
    n = n < N_COUNTERS ? n : N_COUNTERS;
    for (size_t i = 0; i < n && i < capacity; i++)
        out_counters[i] = (struct cairn_counter){.name = counters[i].name,
                                                 .help = counters[i].help,
                                                 .value = values[i],
                                                 .is_total = counters[i].is_total};
    write_notes(&stats, out_notes, notes_bytes);
    *out_n = n;
    return 0;
}

/* ---- lists ---- */

struct listing {
    uint8_t *recs;
    size_t n, record_bytes;
};

static int add_recs(struct listing *list, struct crn_bytes recs)
{
    size_t n = recs.n / list->record_bytes;
    if (recs.n % list->record_bytes != 0)
        return CAIRN_E_PROTO;
    uint8_t *grown = realloc(list->recs, (list->n + n + 1) * list->record_bytes);
    if (grown == NULL)
        return -ENOMEM;
    list->recs = grown;
    if (recs.n > 0)
        memcpy(grown + list->n * list->record_bytes, recs.p, recs.n);
    list->n += n;
    return 0;
}

/* All pages. own: list->recs is the caller's to free, in every case. */
static int fetch_list(struct cairn_client *client, uint64_t what, uint64_t deadline_ns,
                      struct listing *list)
{
    struct crn_msg_list msg = {.what = what};
    struct crn_msg_listed page;
    int status = crn_client_ready(client, deadline_ns);
    while (status == 0) {
        status = CRN_CALL(client, list, msg, listed, &page, deadline_ns);
        if (status != 0)
            return status;
        status = add_recs(list, page.recs);
        if (status == 0 && page.next != 0 && page.next <= msg.cursor)
            status = CAIRN_E_PROTO;
        if (status != 0)
            return crn_client_fail(client, status, "list");
        if (page.next == 0)
            break;
        msg.cursor = page.next;
    }
    return status;
}

static void entry_unpack(const struct crn_entry_rec *r, struct cairn_entry_info *out)
{
    *out = (struct cairn_entry_info){
        .entry = {r->entry}, .parent = {r->parent}, .bytes = r->bytes,
        .resident_bytes = r->resident_bytes, .allocated_bytes = r->allocated_bytes,
        .age_ns = r->age_ns, .idle_ns = r->idle_ns, .hits = r->hits, .producer = r->producer,
        .start = r->start, .n_tokens = r->n_tokens, .leases = r->leases,
        .generation = r->generation, .n_layers = r->n_layers, .n_states = r->n_states,
        .shape = {r->n_layers, r->n_kv_heads, r->head_dim, r->hidden},
        .pyramid = r->pyramid, .pinned = r->pinned, .dtype = r->dtype, .tier = r->tier};
    crn_client_label(out->label, r->label);
}

int cairn_entry_each(struct cairn_client *client, uint64_t deadline_ns,
                     int (*each)(void *ctx, const struct cairn_entry_info *info), void *ctx)
{
    struct listing list = {.record_bytes = sizeof(struct crn_entry_rec)};
    if (client == NULL || each == NULL)
        return CAIRN_E_ARG;
    int status = fetch_list(client, CRN_LIST_ENTRIES, deadline_ns, &list);
    for (size_t i = 0; i < list.n && status == 0; i++) {
        struct cairn_entry_info info;
        entry_unpack((const struct crn_entry_rec *)(const void *)list.recs + i, &info);
        status = each(ctx, &info);
    }
    free(list.recs);
    return status;
}

static void session_unpack(const struct crn_session_rec *r, struct cairn_session_info *out)
{
    *out = (struct cairn_session_info){
        .session = r->session, .connected_ns = r->connected_ns, .leased_bytes = r->leased_bytes,
        .saved_bytes = r->saved_bytes, .requests = r->requests, .hits = r->hits,
        .published = r->published, .model = r->model, .pid = r->pid, .uid = r->uid,
        .leases = r->leases, .drafts = r->drafts};
    crn_client_label(out->label, r->label);
}

int cairn_session_each(struct cairn_client *client, uint64_t deadline_ns,
                       int (*each)(void *ctx, const struct cairn_session_info *info), void *ctx)
{
    struct listing list = {.record_bytes = sizeof(struct crn_session_rec)};
    if (client == NULL || each == NULL)
        return CAIRN_E_ARG;
    int status = fetch_list(client, CRN_LIST_SESSIONS, deadline_ns, &list);
    for (size_t i = 0; i < list.n && status == 0; i++) {
        struct cairn_session_info info;
        session_unpack((const struct crn_session_rec *)(const void *)list.recs + i, &info);
        status = each(ctx, &info);
    }
    free(list.recs);
    return status;
}

int cairn_model_each(struct cairn_client *client, uint64_t deadline_ns,
                     int (*each)(void *ctx, const struct cairn_model_info *info), void *ctx)
{
    struct listing list = {.record_bytes = sizeof(struct crn_model_rec)};
    if (client == NULL || each == NULL)
        return CAIRN_E_ARG;
    int status = fetch_list(client, CRN_LIST_MODELS, deadline_ns, &list);
    for (size_t i = 0; i < list.n && status == 0; i++) {
        const struct crn_model_rec *r = (const struct crn_model_rec *)(const void *)list.recs + i;
        struct cairn_model_info info = {.model = r->model, .family = r->family};
        crn_client_label(info.label, r->label);
        status = each(ctx, &info);
    }
    free(list.recs);
    return status;
}

/* ---- one entry ---- */

struct shown {
    struct crn_entry_rec entry;
    struct crn_payload_rec *payloads; /* [n]; counts [n_counts] behind them */
    uint32_t *counts;
    size_t n, n_counts;
};

/* Copies the answer out of the message buffer; payloads is the caller's to free. */
static int show_read(struct cairn_client *client, const struct crn_msg_shown *msg, struct shown *out)
{
    size_t n_entries = 0;
    if (crn_wire_records(msg->entry, sizeof out->entry, 1, &out->entry, &n_entries) != 0 ||
        n_entries != 1 ||
        crn_wire_records(msg->payloads, sizeof client->payloads[0], CRN_PAYLOADS_MAX,
                         client->payloads, &out->n) != 0 ||
        crn_wire_records(msg->counts, sizeof client->counts[0], CRN_COUNTS_MAX, client->counts,
                         &out->n_counts) != 0)
        return crn_client_fail(client, CAIRN_E_PROTO, "show: records");
    size_t payload_bytes = out->n * sizeof client->payloads[0];
    uint8_t *copy = malloc(payload_bytes + out->n_counts * sizeof client->counts[0] + 1);
    if (copy == NULL)
        return crn_client_fail(client, -ENOMEM, "show");
    out->payloads = (void *)copy;
    out->counts = (void *)(copy + payload_bytes);
    memcpy(out->payloads, client->payloads, payload_bytes);
    memcpy(out->counts, client->counts, out->n_counts * sizeof client->counts[0]);
    return 0;
}

static int payload_unpack(const struct shown *s, const struct crn_payload_rec *r,
                          struct cairn_payload_info *out)
{
    uint32_t n_heads = r->kind == CRN_PAYLOAD_KV ? s->entry.n_kv_heads : 1;
    uint32_t travelled = r->one_count != 0 ? 1 : n_heads;
    if (n_heads == 0 || n_heads > CAIRN_MAX_KV_HEADS || r->counts > s->n_counts ||
        travelled > s->n_counts - r->counts)
        return CAIRN_E_PROTO;
    *out = (struct cairn_payload_info){.bytes = r->bytes,
                                       .layer = r->layer,
                                       .kind = r->kind,
                                       .n_heads = n_heads,
                                       .dtype = r->dtype,
                                       .tier = r->tier};
    for (uint32_t h = 0; h < n_heads; h++)
        out->kept[h] = s->counts[r->counts + (r->one_count != 0 ? 0 : h)];
    return 0;
}

int cairn_show(struct cairn_client *client, struct cairn_entry_id entry, uint64_t deadline_ns,
               struct cairn_entry_info *out_info,
               int (*each)(void *ctx, const struct cairn_payload_info *payload), void *ctx)
{
    struct crn_msg_show msg = {.entry = entry.v};
    struct crn_msg_shown answer;
    struct shown shown = {0};
    if (client == NULL || out_info == NULL || entry.v == 0)
        return CAIRN_E_ARG;
    int status = crn_client_ready(client, deadline_ns);
    if (status == 0)
        status = CRN_CALL(client, show, msg, shown, &answer, deadline_ns);
    if (status == 0)
        status = show_read(client, &answer, &shown);
    if (status != 0)
        return status;
    entry_unpack(&shown.entry, out_info);
    for (size_t i = 0; each != NULL && i < shown.n && status == 0; i++) {
        struct cairn_payload_info info;
        status = payload_unpack(&shown, &shown.payloads[i], &info);
        status = status != 0 ? crn_client_fail(client, status, "show: payload %zu", i)
                             : each(ctx, &info);
    }
    free(shown.payloads);
    return status;
}

/* ---- orders ---- */

int cairn_pin(struct cairn_client *client, struct cairn_entry_id entry, int on, uint64_t deadline_ns)
{
    struct crn_msg_pin msg = {.entry = entry.v, .on = on != 0};
    struct crn_msg_ok ok;
    if (client == NULL || entry.v == 0)
        return CAIRN_E_ARG;
    int status = crn_client_ready(client, deadline_ns);
    return status != 0 ? status : CRN_CALL(client, pin, msg, ok, &ok, deadline_ns);
}

int cairn_evict(struct cairn_client *client, struct cairn_entry_id entry, uint64_t deadline_ns,
                uint64_t *out_entries, uint64_t *out_bytes)
{
    struct crn_msg_evict msg = {.entry = entry.v, .all = entry.v == 0};
    struct crn_msg_evicted evicted;
    if (client == NULL)
        return CAIRN_E_ARG;
    int status = crn_client_ready(client, deadline_ns);
    if (status == 0)
        status = CRN_CALL(client, evict, msg, evicted, &evicted, deadline_ns);
    if (status != 0)
        return status;
    if (out_entries != NULL)
        *out_entries = evicted.entries;
    if (out_bytes != NULL)
        *out_bytes = evicted.bytes;
    return 0;
}

int cairn_spill(struct cairn_client *client, struct cairn_entry_id entry, uint32_t first,
                uint32_t last, uint32_t tier, uint64_t deadline_ns)
{
    struct crn_msg_spill msg = {.entry = entry.v,
                                .first = first,
                                .last = last,
                                .tier = tier & ~CAIRN_SPILL_INT8,
                                .flags = (tier & CAIRN_SPILL_INT8) != 0 ? CRN_SPILL_INT8 : 0};
    struct crn_msg_ok ok;
    if (client == NULL || entry.v == 0 || first > last || last >= CAIRN_MAX_LAYERS)
        return CAIRN_E_ARG;
    int status = crn_client_ready(client, deadline_ns);
    return status != 0 ? status : CRN_CALL(client, spill, msg, ok, &ok, deadline_ns);
}

int cairn_restore(struct cairn_client *client, struct cairn_entry_id entry, uint64_t deadline_ns)
{
    struct crn_msg_restore msg = {.entry = entry.v};
    struct crn_msg_ok ok;
    if (client == NULL || entry.v == 0)
        return CAIRN_E_ARG;
    int status = crn_client_ready(client, deadline_ns);
    return status != 0 ? status : CRN_CALL(client, restore, msg, ok, &ok, deadline_ns);
}

int cairn_verify(struct cairn_client *client, struct cairn_entry_id entry, uint64_t deadline_ns,
                 uint64_t *out_payloads, uint64_t *out_bytes, uint64_t *out_bad)
{
    struct crn_msg_verify msg = {.entry = entry.v};
    struct crn_msg_verified page;
    uint64_t payloads = 0, bytes = 0, bad = 0;
    if (client == NULL || out_payloads == NULL || out_bytes == NULL || out_bad == NULL)
        return CAIRN_E_ARG;
    int status = crn_client_ready(client, deadline_ns);
    if (status != 0)
        return status;
    do {
        status = CRN_CALL(client, verify, msg, verified, &page, deadline_ns);
        if (status != 0)
            return status;
        if (page.next != 0 && page.next == msg.cursor)
            return crn_client_fail(client, CAIRN_E_PROTO, "verify");
        payloads += page.payloads;
        bytes += page.bytes;
        bad += page.bad;
        msg.cursor = page.next;
    } while (page.next != 0);
    *out_payloads = payloads;
    *out_bytes = bytes;
    *out_bad = bad;
    return 0;
}
