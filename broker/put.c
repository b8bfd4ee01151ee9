/* A PUT's numbers come from a peer, and so do the lists in its landing zone, which the peer can change while we look. Therefore
 * offsets and sizes are checked against the zone here, and index lists and positions are first copied into memory of the broker
 * and only then checked, once. Row data is not checked: whatever it is, it can only harm the entry of its publisher.
 *
 * The source of a put is a part of the landing zone, or, with no bytes in a draft that replaces an entry, that entry's own
 * payload of the same kind and layer; then only the index lists come through the landing zone. */
#include "broker/put.h"

#include "broker/broker.h"
#include "broker/crash.h"
#include "broker/gather.h"
#include "broker/tier.h"
#include "ipc/hash.h"
#include "ipc/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct put_job {
    struct crn_job job;
    struct crn_draft *draft;
    uint64_t request;
    struct crn_payload *payload;   /* being written; of the draft's body. Loop thread */
    struct crn_landing *landing;   /* held */
    struct crn_body *source_body;  /* held; NULL: the source is the landing zone */
    struct crn_device *device;     /* zone, source and out are its memory, except for tokens; NULL: the host's */
    /* what the copy thread needs, all of it copied */
    struct crn_msg_put msg;
    struct cairn_shape shape;
    const uint8_t *zone;           /* the landing zone's bytes */
    const uint8_t *source;         /* the payload that is the source; NULL */
    uint8_t *out;
    uint64_t out_bytes;
    uint32_t src_dtype, dst_dtype; /* dst_dtype: may become bf16 */
    uint32_t src_wide, src_shared_pos;
    uint32_t n_heads;              /* lists: 1 for states */
    uint32_t src_rows[CAIRN_MAX_KV_HEADS];
    uint32_t counts[CAIRN_MAX_KV_HEADS];
    uint8_t has_index, shared_index, shared_pos;
    uint32_t first_pos, end_pos;   /* positions must lie in there */
    uint64_t checksum;
    char why[120];
};

static int fail(char *why, size_t why_bytes, int code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static int fail(char *why, size_t why_bytes, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why, why_bytes, format, args);
    va_end(args);
    return code;
}

#define FAIL(job, code, ...) fail((job)->why, sizeof(job)->why, (code), __VA_ARGS__)

/* ---- loop thread: the message's numbers ---- */

static int inside(uint64_t off, uint64_t bytes, uint64_t zone_bytes)
{
    return bytes <= zone_bytes && off <= zone_bytes - bytes;
}

static int plain_dtype(uint64_t dtype)
{
    return dtype == CAIRN_F32 || dtype == CAIRN_F16 || dtype == CAIRN_BF16;
}

/* Kept rows per list: the message's counts, or all rows. */
static int read_counts(struct put_job *j)
{
    const struct crn_msg_put *m = &j->msg;
    size_t n = 0;
    memcpy(j->counts, j->src_rows, sizeof j->counts);
    j->has_index = m->counts.n > 0;
    j->shared_index = m->shared_index != 0;
    if (!j->has_index)
        return 0;
    if (crn_wire_records(m->counts, sizeof *j->counts, CAIRN_MAX_KV_HEADS, j->counts, &n) != 0 ||
        n != j->n_heads)
        return FAIL(j, CAIRN_E_ARG, "counts must be one u32 per head (%u)", j->n_heads);
    for (uint32_t h = 0; h < j->n_heads; h++) {
        if (j->counts[h] > j->src_rows[h])
            return FAIL(j, CAIRN_E_ARG, "head %u keeps %u of %u rows", h, j->counts[h],
                        j->src_rows[h]);
        if (j->shared_index && j->counts[h] != j->counts[0])
            return FAIL(j, CAIRN_E_ARG, "a shared index needs equal counts");
    }
    return 0;
}

static uint64_t list_rows(const struct put_job *j)
{
    uint64_t n = 0;
    for (uint32_t h = 0; h < (j->shared_index ? 1u : j->n_heads); h++)
        n += j->counts[h];
    return n;
}

static int check_lists(struct put_job *j, uint64_t zone_bytes)
{
    const struct crn_msg_put *m = &j->msg;
    if (j->has_index && !inside(m->index_off, list_rows(j) * sizeof(uint32_t), zone_bytes))
        return FAIL(j, CAIRN_E_ARG, "index lists leave the landing zone");
    if (j->source == NULL && !inside(m->pos_off, m->rows * sizeof(int32_t), zone_bytes))
        return FAIL(j, CAIRN_E_ARG, "positions leave the landing zone");
    return 0;
}

/* A whole entry keeps every token. */
static int check_whole(struct put_job *j)
{
    for (uint32_t h = 0; h < j->n_heads; h++) {
        if (j->draft->pyramid == CAIRN_PYRAMID_NONE && j->counts[h] != j->draft->n_tokens)
            return FAIL(j, CAIRN_E_ARG, "%u rows of %u tokens, and the entry is no pyramid",
                        j->counts[h], j->draft->n_tokens);
        if (j->counts[h] > j->draft->n_tokens)
            return FAIL(j, CAIRN_E_ARG, "%u rows of %u tokens", j->counts[h], j->draft->n_tokens);
    }
    return 0;
}

/* The source is part of the landing zone: dtype, rows, and their bytes inside it. */
static int from_zone(struct put_job *j, uint64_t zone_bytes)
{
    const struct crn_msg_put *m = &j->msg;
    uint64_t numbers;
    if (!plain_dtype(m->src_dtype))
        return FAIL(j, CAIRN_E_ARG, "source type %u is not f32, f16 or bf16",
                    (unsigned)m->src_dtype);
    if (m->kind == CRN_PAYLOAD_KV) {
        if (m->row_stride < m->rows)
            return FAIL(j, CAIRN_E_ARG, "row stride %u is below %u rows", (unsigned)m->row_stride,
                        (unsigned)m->rows);
        numbers = 2u * m->row_stride * j->shape.n_kv_heads * j->shape.head_dim;
    } else {
        numbers = m->rows * j->shape.hidden;
    }
    uint64_t need = numbers * cairn_dtype_bytes((uint32_t)m->src_dtype);
    if (need > m->bytes || !inside(m->off, m->bytes, zone_bytes))
        return FAIL(j, CAIRN_E_ARG, "%llu bytes at %llu do not hold %llu, or leave the zone",
                    (unsigned long long)m->bytes, (unsigned long long)m->off,
                    (unsigned long long)need);
    j->src_dtype = (uint32_t)m->src_dtype;
    for (uint32_t h = 0; h < j->n_heads; h++)
        j->src_rows[h] = (uint32_t)m->rows;
    return 0;
}

/* The source is the payload of the entry being replaced. */
static int from_entry(struct put_job *j)
{
    const struct crn_draft *d = j->draft;
    const struct crn_msg_put *m = &j->msg;
    const struct crn_payload *p = NULL;
    if (d->replaces == NULL)
        return FAIL(j, CAIRN_E_ARG, "a put without bytes needs a draft that replaces an entry");
    if (d->replaces->id != d->replaces_id)
        return FAIL(j, CAIRN_E_STALE, "entry %llx was replaced meanwhile",
                    (unsigned long long)d->replaces_id);
    if (m->kind == CRN_PAYLOAD_KV && m->layer < d->replaces->body->n_layers)
        p = d->replaces->body->kv[m->layer];
    if (m->kind == CRN_PAYLOAD_STATE)
        p = crn_body_state(d->replaces->body, (uint32_t)m->layer);
    if (p == NULL)
        return FAIL(j, CAIRN_E_MISS, "the entry has no such payload");
    if (p->state != CRN_RESIDENT && p->state != CRN_SPILLING) {
        crn_tier_restore(d->replaces, NULL, NULL);
        return FAIL(j, CAIRN_E_BUSY, "that payload is not in memory; it is being restored, try again");
    }
    j->source_body = d->replaces->body;
    j->source = crn_payload_at(p);
    j->src_dtype = p->dtype;
    j->src_wide = p->wide;
    j->src_shared_pos = p->shared_pos;
    for (uint32_t h = 0; h < j->n_heads; h++)
        j->src_rows[h] = crn_payload_rows(p, h);
    return 0;
}

/* Heads share one position list when they keep the same rows of sources that do. */
static uint8_t shares_positions(const struct put_job *j)
{
    for (uint32_t h = 1; h < j->n_heads; h++) {
        if (j->counts[h] != j->counts[0])
            return 0;
    }
    return (!j->has_index || j->shared_index) && (j->source == NULL || j->src_shared_pos);
}

static struct crn_kv_spec kv_spec(const struct put_job *j)
{
    return (struct crn_kv_spec){.dtype = j->dst_dtype,
                                .n_kv_heads = j->shape.n_kv_heads,
                                .head_dim = j->shape.head_dim,
                                .wide = j->dst_dtype == CAIRN_I8 ? (uint32_t)j->msg.wide : 0,
                                .shared_pos = j->shared_pos,
                                .n = j->counts};
}

static int plan_rows(struct put_job *j, uint64_t zone_bytes)
{
    const struct crn_msg_put *m = &j->msg;
    j->n_heads = m->kind == CRN_PAYLOAD_KV ? j->shape.n_kv_heads : 1;
    if (m->layer >= j->shape.n_layers)
        return FAIL(j, CAIRN_E_ARG, "layer %u of %u", (unsigned)m->layer, j->shape.n_layers);
    int status = m->bytes > 0 ? from_zone(j, zone_bytes) : from_entry(j);
    if (status == 0)
        status = read_counts(j);
    if (status == 0)
        status = check_lists(j, zone_bytes);
    if (status == 0)
        status = check_whole(j);
    if (status != 0)
        return status;
    j->dst_dtype = m->dst_dtype != 0 ? (uint32_t)m->dst_dtype : j->src_dtype;
    j->shared_pos = shares_positions(j);
    struct crn_state_parts parts;
    struct crn_head_parts heads[CAIRN_MAX_KV_HEADS];
    struct crn_kv_spec spec = kv_spec(j);
    status = m->kind == CRN_PAYLOAD_KV
                 ? crn_layout_kv(&spec, heads, &j->out_bytes)
                 : crn_layout_state(j->dst_dtype, j->counts[0], j->shape.hidden, &parts,
                                    &j->out_bytes);
    return status == 0 ? 0 : FAIL(j, status, "target type %u: %s", j->dst_dtype,
                                  cairn_strerror(status));
}

static int plan_tokens(struct put_job *j, uint64_t zone_bytes)
{
    const struct crn_msg_put *m = &j->msg;
    j->n_heads = 1;
    j->out_bytes = (uint64_t)j->draft->n_tokens * sizeof(int32_t);
    if (m->rows != j->draft->n_tokens || m->bytes < j->out_bytes ||
        !inside(m->off, m->bytes, zone_bytes))
        return FAIL(j, CAIRN_E_ARG, "tokens: %u rows in %llu bytes, the draft has %u",
                    (unsigned)m->rows, (unsigned long long)m->bytes, j->draft->n_tokens);
    j->counts[0] = j->draft->n_tokens;
    j->shared_pos = 1;
    return 0;
}

/* Checks the message and fills everything the copy needs but the memory it goes to. */
static int plan(struct put_job *j)
{
    uint64_t zone_bytes = j->landing->mem.bytes;
    switch (j->msg.kind) {
    case CRN_PAYLOAD_TOKENS:
        return plan_tokens(j, zone_bytes);
    case CRN_PAYLOAD_KV:
    case CRN_PAYLOAD_STATE:
        return plan_rows(j, zone_bytes);
    default:
        return FAIL(j, CAIRN_E_ARG, "payload kind %u cannot be put", (unsigned)j->msg.kind);
    }
}

/* ---- copy thread ---- */

/* The zone's bytes, read once. */
static int read_zone(struct put_job *j, uint64_t off, uint64_t bytes, void *to)
{
    int status = 0;
    if (j->device == NULL)
        memcpy(to, j->zone + off, bytes);
    else if (bytes > 0)
        status = crn_device_read(j->device, j->zone + off, bytes, to);
    return status == 0 ? 0 : FAIL(j, status, "reading the landing zone: %s", cairn_strerror(status));
}

static int copy_tokens(struct put_job *j)
{
    int status = read_zone(j, j->msg.off, j->out_bytes, j->out);
    if (status != 0)
        return status;
    const int32_t *tokens = (const int32_t *)(const void *)j->out; /* ours now */
    for (uint64_t i = 0; i < j->out_bytes / sizeof *tokens; i++) {
        if (tokens[i] < 0)
            return FAIL(j, CAIRN_E_ARG, "token %llu is negative", (unsigned long long)i);
    }
    return 0;
}

/* Ascending, each below the rows there are. */
static int check_index(struct put_job *j, const uint32_t *index, uint32_t n, uint32_t rows)
{
    for (uint32_t i = 0; i < n; i++) {
        if (index[i] >= rows || (i > 0 && index[i] <= index[i - 1]))
            return FAIL(j, CAIRN_E_ARG, "index %u is %u: not ascending, or not below %u rows", i,
                        index[i], rows);
    }
    return 0;
}

static int check_positions(struct put_job *j, const int32_t *pos, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (pos[i] < (int32_t)j->first_pos || pos[i] >= (int32_t)j->end_pos ||
            (i > 0 && pos[i] <= pos[i - 1]))
            return FAIL(j, CAIRN_E_ARG, "position %u is %d: not ascending, or not in %u..%u", i,
                        pos[i], j->first_pos, j->end_pos - 1);
    }
    return 0;
}

/* Private copies of what the worker could still change; both may be empty. own: free(*out_lists). */
static int take_lists(struct put_job *j, uint32_t **out_lists, const int32_t **out_pos)
{
    uint64_t n_index = j->has_index ? list_rows(j) : 0;
    uint64_t n_pos = j->source == NULL ? j->msg.rows : 0;
    uint32_t *lists = malloc((n_index + n_pos + 1) * sizeof *lists);
    if (lists == NULL)
        return FAIL(j, -ENOMEM, "no memory for the index lists");
    int32_t *pos = (int32_t *)(lists + n_index);
    int status = read_zone(j, n_index > 0 ? j->msg.index_off : 0, n_index * sizeof *lists, lists);
    if (status == 0)
        status = read_zone(j, n_pos > 0 ? j->msg.pos_off : 0, n_pos * sizeof *pos, pos);
    if (status == 0)
        status = check_positions(j, pos, (uint32_t)n_pos);
    const uint32_t *at = lists;
    for (uint32_t h = 0; n_index > 0 && status == 0 && h < (j->shared_index ? 1u : j->n_heads);
         h++) {
        status = check_index(j, at, j->counts[h], j->src_rows[h]);
        at += j->counts[h];
    }
    if (status != 0) {
        free(lists);
        return status;
    }
    *out_lists = lists;
    *out_pos = pos;
    return 0;
}

static int source_heads(const struct put_job *j, const int32_t *pos,
                        struct crn_gather_head *out_heads)
{
    if (j->source != NULL) {
        struct crn_kv_spec spec = {.dtype = j->src_dtype,
                                   .n_kv_heads = j->n_heads,
                                   .head_dim = j->shape.head_dim,
                                   .wide = j->src_wide,
                                   .shared_pos = j->src_shared_pos,
                                   .n = j->src_rows};
        return crn_gather_from_payload(&spec, j->source, out_heads);
    }
    uint64_t head_bytes =
        j->msg.row_stride * j->shape.head_dim * cairn_dtype_bytes(j->src_dtype);
    const uint8_t *k = j->zone + j->msg.off, *v = k + j->n_heads * head_bytes;
    for (uint32_t h = 0; h < j->n_heads; h++)
        out_heads[h] = (struct crn_gather_head){.k = k + h * head_bytes,
                                                .v = v + h * head_bytes,
                                                .n = (uint32_t)j->msg.rows,
                                                .pos = pos};
    return 0;
}

static int copy_kv(struct put_job *j, const uint32_t *lists, const int32_t *pos,
                   const struct crn_device_lists *all)
{
    struct crn_gather_head heads[CAIRN_MAX_KV_HEADS];
    int status = source_heads(j, pos, heads);
    if (status != 0)
        return status;
    for (uint32_t h = 0; h < j->n_heads && j->has_index; h++) {
        heads[h].index = lists;
        lists += j->shared_index ? 0 : j->counts[h];
    }
    struct crn_gather_kv g = {.src_dtype = j->src_dtype,
                              .dst = kv_spec(j),
                              .heads = heads,
                              .out = j->out};
    if (j->device != NULL)
        return crn_device_gather_kv(j->device, &g, all, &j->checksum);
    g.sum = crn_hash64_begin();
    if (g.sum == NULL)
        return -ENOMEM;
    status = crn_gather_kv(&g);
    j->checksum = crn_hash64_end(g.sum);
    return status;
}

static int copy_state(struct put_job *j, const uint32_t *lists, const int32_t *pos,
                      const struct crn_device_lists *all)
{
    struct crn_gather_state g = {.src_dtype = j->src_dtype,
                                 .dst_dtype = j->dst_dtype,
                                 .hidden = j->shape.hidden,
                                 .n = j->counts[0],
                                 .n_rows = j->src_rows[0],
                                 .rows = j->zone + j->msg.off,
                                 .pos = pos,
                                 .index = j->has_index ? lists : NULL,
                                 .out = j->out};
    if (j->source != NULL) {
        struct crn_state_parts parts;
        uint64_t bytes;
        int status =
            crn_layout_state(j->src_dtype, j->src_rows[0], j->shape.hidden, &parts, &bytes);
        if (status != 0)
            return status;
        g.rows = j->source + parts.rows;
        g.scale = (const uint16_t *)(const void *)(j->source + parts.scale);
        g.pos = (const int32_t *)(const void *)(j->source + parts.pos);
    }
    if (j->device != NULL)
        return crn_device_gather_state(j->device, &g, all, &j->dst_dtype, &j->checksum);
    int status = crn_gather_state(&g, &j->dst_dtype);
    if (status == 0)
        j->checksum = crn_hash64(j->out, j->out_bytes);
    return status;
}

static int copy_rows(struct put_job *j)
{
    uint32_t *lists = NULL;
    const int32_t *pos = NULL;
    int status = take_lists(j, &lists, &pos);
    if (status != 0)
        return status;
    struct crn_device_lists all = {lists, (j->has_index ? list_rows(j) : 0) + (j->source == NULL ? j->msg.rows : 0)};
    status = j->msg.kind == CRN_PAYLOAD_KV ? copy_kv(j, lists, pos, &all)
                                           : copy_state(j, lists, pos, &all);
    free(lists);
    return status;
}

static int run(struct crn_job *job)
{
    struct put_job *j = (struct put_job *)job;
    int status = j->msg.kind == CRN_PAYLOAD_TOKENS ? copy_tokens(j) : copy_rows(j);
    if (status == 0 && j->msg.kind == CRN_PAYLOAD_TOKENS)
        j->checksum = crn_hash64(j->out, j->out_bytes);
    return status;
}

/* ---- loop thread again ---- */

static void answer(const struct put_job *j, struct crn_session *s, int status)
{
    if (status != 0) {
        char text[200];
        snprintf(text, sizeof text, "put into draft %llu: %s", (unsigned long long)j->msg.draft,
                 j->why[0] != '\0' ? j->why : cairn_strerror(status));
        crn_session_send_error(s, j->request, status, text);
        return;
    }
    struct crn_msg_put_done reply = {.draft = j->msg.draft,
                                     .off = j->msg.off,
                                     .bytes = j->msg.bytes,
                                     .stored_bytes = j->out_bytes,
                                     .checksum = j->checksum,
                                     .request = j->request};
    crn_session_send(s, CRN_MSG_put_done, &reply);
}

static void release_job(struct put_job *j)
{
    crn_landing_drop(j->landing);
    crn_body_drop(j->source_body);
    free(j);
}

static void done(struct crn_job *job, int status)
{
    struct put_job *j = (struct put_job *)job;
    struct crn_draft *d = j->draft;
    CRN_CRASH("publish-put");
    j->payload->checksum = j->checksum;
    j->payload->dtype = (uint8_t)j->dst_dtype;
    d->broken |= status != 0;
    CRN_ADD(&d->space->stats, gathered_bytes_total, status == 0 ? j->out_bytes : 0);
    if (d->session != NULL)
        answer(j, d->session, status);
    release_job(j); /* first: a draft that ends with this copy leaves its zone to the next one */
    crn_draft_copy_ends(d);
}

/* A payload of the planned size, in its place in the draft's body. */
static int place_payload(struct put_job *j)
{
    uint32_t n_counts = 1;
    for (uint32_t h = 1; h < j->n_heads; h++)
        n_counts = j->counts[h] != j->counts[0] ? j->n_heads : n_counts;
    struct crn_payload_spec spec = {.kind = (uint8_t)j->msg.kind,
                                    .dtype = (uint8_t)j->dst_dtype,
                                    .shared_pos = j->shared_pos,
                                    .layer = (uint16_t)j->msg.layer,
                                    .wide = (uint16_t)kv_spec(j).wide,
                                    .bytes = j->out_bytes,
                                    .counts = j->counts,
                                    .n_counts = n_counts};
    int status = crn_payload_create(j->draft->space, &spec, &j->payload);
    if (status != 0)
        return FAIL(j, status, "no room for %llu bytes: %s; publish less, or raise --memory",
                    (unsigned long long)j->out_bytes, cairn_strerror(status));
    status = crn_body_put(j->draft->body, j->payload);
    if (status == 0)
        return 0;
    crn_payload_drop(j->payload);
    return FAIL(j, status, "layer %u, kind %u was put before, or is one state too many",
                (unsigned)j->msg.layer, (unsigned)j->msg.kind);
}

int crn_put_start(struct crn_draft *draft, const struct crn_msg_put *msg, char *why,
                  size_t why_bytes)
{
    if (draft->state != CRN_DRAFT_OPEN)
        return fail(why, why_bytes, CAIRN_E_STATE, "the draft is being committed");
    struct put_job *j = calloc(1, sizeof *j);
    if (j == NULL)
        return -ENOMEM;
    j->job = (struct crn_job){.run = run, .done = done};
    j->draft = draft;
    j->request = msg->request;
    j->landing = crn_landing_hold(draft->landing);
    j->msg = *msg;
    j->shape = draft->producer->shape;
    j->zone = draft->landing->mem.base;
    j->device = draft->broker->device;
    j->first_pos = draft->start;
    j->end_pos = draft->start + draft->n_tokens;
    int status = plan(j);
    if (j->source_body != NULL)
        crn_body_hold(j->source_body);
    if (status == 0)
        status = place_payload(j);
    if (status != 0) {
        snprintf(why, why_bytes, "%s", j->why);
        release_job(j);
        return status;
    }
    j->msg.counts = (struct crn_bytes){NULL, 0}; /* pointed into the message */
    j->out = crn_payload_at(j->payload);
    crn_draft_copy_begins(draft);
    crn_copier_submit(draft->broker->copier, &j->job);
    return 0;
}
