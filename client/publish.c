/* Publishing: a draft, its landing zone, and puts that nobody waits for.
 *
 *     open --> tokens go at once --> put, put, ... --> commit | abort
 *
 * A put copies rows into the landing zone (or finds them there, written into reserved room), sends one message and returns; the
 * answer frees that part of the zone whenever it comes. Only a full zone makes a put wait. The first put that the broker could
 * not take is remembered, and ends the draft at the next call.
 * A draft that replaces an entry sends index lists only: the rows are those of the entry that its lease holds. States that the
 * entry lacks may come with rows. Whatever is not put is taken over. */
#include "client/lease.h"

#include "ipc/hash.h"
#include "ipc/layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WANTS_STATES 256u
#define WANTS_BUDGETS 256u

struct cairn_draft {
    struct cairn_client *client;
    struct crn_conn *session;
    struct cairn_draft *previous, *next;
    uint64_t id;         /* 0: over, the broker need not be told */
    int status;          /* of the first put that failed */
    uint32_t start, n_tokens, dtype;
    uint64_t token_ns;   /* 0: not told */
    int compresses;
    struct crn_zone zone;
    uint64_t held_off;   /* reserved room that no put took over yet; 0: none */
    struct cairn_draft_wants wants;
    uint16_t states[WANTS_STATES];
    struct cairn_budget budgets[WANTS_BUDGETS];
};

/* ---- open ---- */

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static int check_draft(const struct cairn_client *client, const struct cairn_draft_options *o)
{
    const struct cairn_digest none = {{0}};
    const struct cairn_shape *s = &client->options.shape;
    if (memcmp(&client->options.model, &none, sizeof none) == 0 || s->n_layers == 0)
        return CAIRN_E_STATE; /* a tool publishes nothing */
    if (o->pyramid > CAIRN_PYRAMID_PUBLISH || cairn_dtype_bytes(o->dtype) == 0 ||
        o->n_states > CAIRN_MAX_STATES || (o->settings != NULL && strlen(o->settings) > CAIRN_MAX_SETTINGS))
        return CAIRN_E_ARG;
    if (o->replaces != NULL)
        return o->replaces->client == client ? 0 : CAIRN_E_ARG;
    if (o->tokens == NULL || o->n_tokens == 0 || (o->start > 0) != (o->parent.v != 0) ||
        (o->start > 0 && o->context == NULL))
        return CAIRN_E_ARG;
    return o->n_tokens <= CAIRN_MAX_TOKENS && o->start <= CAIRN_MAX_TOKENS - o->n_tokens
               ? 0
               : CAIRN_E_TOO_BIG;
}

/* Hash of the last whole chunk of everything up to the draft's end: the family's root when there is none. */
static uint64_t last_hash(const struct cairn_client *client, const struct cairn_draft_options *o)
{
    const int32_t *tokens = o->start > 0 ? o->context : o->tokens;
    uint32_t n = o->start + o->n_tokens;
    uint64_t hash = crn_hash_root(&client->options.family);
    for (uint32_t at = 0; at + CAIRN_CHUNK_TOKENS <= n; at += CAIRN_CHUNK_TOKENS)
        hash = crn_hash_chunk(hash, tokens + at);
    return hash;
}

/* Upper bounds: of all payloads as the draft stores them, and of one put with f32 rows, positions and lists. */
static int estimate(const struct cairn_client *client, const struct cairn_draft_options *o,
                    struct crn_msg_draft *msg)
{
    const struct cairn_shape *s = &client->options.shape;
    uint32_t counts[CAIRN_MAX_KV_HEADS];
    struct crn_head_parts heads[CAIRN_MAX_KV_HEADS];
    struct crn_state_parts parts;
    uint64_t kv_bytes, state_bytes = 0, n = msg->n_tokens;
    for (uint32_t h = 0; h < CAIRN_MAX_KV_HEADS; h++)
        counts[h] = msg->n_tokens > CAIRN_MAX_TOKENS ? CAIRN_MAX_TOKENS : (uint32_t)msg->n_tokens;
    struct crn_kv_spec spec = {.dtype = o->dtype, .n_kv_heads = s->n_kv_heads,
                               .head_dim = s->head_dim, .n = counts};
    int status = crn_layout_kv(&spec, heads, &kv_bytes);
    if (status == 0 && o->n_states > 0)
        status = crn_layout_state(o->dtype == CAIRN_I8 ? CAIRN_F16 : o->dtype, counts[0], s->hidden, &parts, &state_bytes);
    if (status != 0)
        return status;
    uint64_t list_bytes = n * sizeof(int32_t) * (s->n_kv_heads + 1u) + 8 * CAIRN_ALIGN;
    uint64_t row_bytes = max_u64(2ull * s->n_kv_heads * s->head_dim, o->n_states > 0 ? s->hidden : 0);
    msg->bytes = s->n_layers * kv_bytes + o->n_states * state_bytes + n * sizeof(int32_t);
    if (o->replaces != NULL)
        row_bytes = o->n_states > 0 ? s->hidden : 0;
    msg->put_bytes = list_bytes + n * row_bytes * sizeof(float);
    return 0;
}

static int fill_draft(const struct cairn_client *client, const struct cairn_draft_options *o,
                      struct crn_msg_draft *out)
{
    *out = (struct crn_msg_draft){.parent = o->parent.v,
                                  .start = o->start,
                                  .n_tokens = o->n_tokens,
                                  .pyramid = o->pyramid,
                                  .flags = o->flags & (CAIRN_DRAFT_EXCLUSIVE | CAIRN_DRAFT_SPILL_INT8),
                                  .settings = crn_client_text(o->settings),
                                  .n_layers = client->options.shape.n_layers};
    if (o->replaces != NULL) {
        const struct cairn_part *part = &o->replaces->parts[o->replaces->info.n_parts - 1];
        out->replaces = part->entry.v;
        out->start = part->start;
        out->n_tokens = part->entry_tokens;
        out->parent = o->replaces->info.n_parts > 1 ? part[-1].entry.v : 0;
    } else {
        out->first_hash = last_hash(client, o);
    }
    return estimate(client, o, out);
}

static int read_wants(struct cairn_draft *draft, const struct crn_msg_drafted *msg)
{
    struct crn_budget_rec budgets[WANTS_BUDGETS];
    size_t n_states = 0, n_budgets = 0;
    if (crn_wire_records(msg->states, sizeof draft->states[0], WANTS_STATES, draft->states,
                         &n_states) != 0 ||
        crn_wire_records(msg->budgets, sizeof budgets[0], WANTS_BUDGETS, budgets, &n_budgets) != 0)
        return crn_client_fail(draft->client, CAIRN_E_PROTO, "draft: wants");
    for (size_t i = 0; i < n_budgets; i++)
        draft->budgets[i] = (struct cairn_budget){.first = budgets[i].first,
                                                  .last = budgets[i].last,
                                                  .keep = (float)budgets[i].keep_ppm / 1e6f};
    draft->wants = (struct cairn_draft_wants){.states = draft->states,
                                              .n_states = (uint32_t)n_states,
                                              .budgets = draft->budgets,
                                              .n_budgets = (uint32_t)n_budgets};
    return 0;
}

/* Also tells the broker, when it is still the same one and the draft is not over. */
void crn_writer_free(struct cairn_draft *draft)
{
    struct cairn_client *client = draft->client;
    if (draft->id != 0 && crn_client_current(client, draft->session)) {
        struct crn_msg_abort msg = {.draft = draft->id};
        crn_client_send(client, CRN_MSG_abort, &msg, 0);
    }
    if (draft->previous != NULL)
        draft->previous->next = draft->next;
    else
        client->drafts = draft->next;
    if (draft->next != NULL)
        draft->next->previous = draft->previous;
    if (draft->zone.mem.ops != NULL)
        draft->zone.mem.ops->destroy(&draft->zone.mem);
    crn_conn_drop(draft->session);
    free(draft);
}

static struct cairn_draft *draft_create(struct cairn_client *client)
{
    struct cairn_draft *draft = calloc(1, sizeof *draft);
    if (draft == NULL)
        return NULL;
    draft->client = client;
    draft->session = crn_conn_hold(client->session);
    draft->next = client->drafts;
    if (draft->next != NULL)
        draft->next->previous = draft;
    client->drafts = draft;
    return draft;
}

struct parcel;
static int send_parcel(struct cairn_draft *draft, const struct parcel *p, uint64_t deadline_ns);

/* What one put is made of: rows in up to two blocks (K and V), and lists. */
struct parcel {
    struct crn_msg_put msg;
    const uint8_t *blocks[2];
    uint32_t n_blocks, n_heads; /* n_heads: of each block, one after the other, msg.row_stride rows apart */
    size_t row_bytes;
    const int32_t *pos;               /* [msg.rows]; NULL: from the draft's start on */
    const uint32_t *const *index;     /* [n_lists] or NULL */
    uint32_t counts[CAIRN_MAX_KV_HEADS];
    uint32_t n_lists;
    int on_device;                    /* the rows; lists never are */
};

static int send_tokens(struct cairn_draft *draft, const int32_t *tokens, uint64_t deadline_ns)
{
    struct parcel p = {
        .msg = {.kind = CRN_PAYLOAD_TOKENS, .rows = draft->n_tokens, .row_stride = draft->n_tokens},
        .blocks = {(const uint8_t *)tokens},
        .n_blocks = 1,
        .n_heads = 1,
        .row_bytes = sizeof *tokens,
    };
    return send_parcel(draft, &p, deadline_ns);
}

static int begin_draft(struct cairn_draft *draft, const struct cairn_draft_options *o,
                       struct crn_msg_draft *msg, uint64_t deadline_ns)
{
    struct crn_msg_drafted drafted;
    int status = CRN_CALL(draft->client, draft, *msg, drafted, &drafted, deadline_ns);
    if (status != 0)
        return status;
    draft->id = drafted.draft;
    draft->start = (uint32_t)msg->start;
    draft->n_tokens = (uint32_t)msg->n_tokens;
    draft->dtype = o->dtype;
    draft->compresses = o->replaces != NULL;
    status = read_wants(draft, &drafted);
    if (status == 0)
        status = crn_zone_map(draft->client, drafted.landing, deadline_ns, &draft->zone);
    if (status == 0 && crn_conn_fits(draft->client, &draft->zone.mem) != 0)
        status = crn_client_fail(draft->client, CAIRN_E_UNSUPPORTED, "draft: payloads are not in this engine's memory");
    if (status == 0 && !draft->compresses)
        status = send_tokens(draft, o->tokens, deadline_ns);
    return status;
}

int cairn_draft_open(struct cairn_client *client, const struct cairn_draft_options *options,
                     uint64_t deadline_ns, struct cairn_draft **out_draft)
{
    struct cairn_draft_options o;
    struct crn_msg_draft msg;
    if (client == NULL || out_draft == NULL)
        return CAIRN_E_ARG;
    crn_client_begin(client);
    int status = crn_sized_copy(&o, sizeof o, options, sizeof o);
    if (status == 0)
        status = check_draft(client, &o);
    if (status == 0)
        status = fill_draft(client, &o, &msg);
    if (status != 0)
        return crn_client_fail(client, status, "draft");
    status = crn_client_ready(client, deadline_ns);
    if (status != 0)
        return status;
    if (o.replaces != NULL && o.replaces->session != client->session)
        return crn_client_fail(client, CAIRN_E_STALE, "draft: lease of an earlier session");
    struct cairn_draft *draft = draft_create(client);
    if (draft == NULL)
        return crn_client_fail(client, -ENOMEM, "draft");
    status = begin_draft(draft, &o, &msg, deadline_ns);
    if (status != 0) {
        crn_writer_free(draft);
        return status;
    }
    *out_draft = draft;
    return 0;
}

const struct cairn_draft_wants *cairn_draft_wants(const struct cairn_draft *draft)
{
    return draft != NULL ? &draft->wants : NULL;
}

/* ---- puts ---- */

void crn_writer_answer(struct cairn_client *client, uint64_t request, int status)
{
    for (struct cairn_draft *d = client->drafts; d != NULL; d = d->next) {
        if (crn_ring_done(&d->zone.ring, request) > 0 && status != 0 && d->status == 0)
            d->status = status;
    }
}

/* Is the draft good for another call? Takes in what the broker answered so far. */
static int draft_ready(struct cairn_draft *draft)
{
    struct cairn_client *client = draft->client;
    crn_client_begin(client);
    if (client->session != NULL && draft->session != client->session)
        return crn_client_fail(client, CAIRN_E_STALE, "draft of an earlier session");
    if (!crn_client_current(client, draft->session))
        return crn_client_fail(client, CAIRN_E_GONE, "draft: broker %s", client->socket);
    int status = crn_client_pump(client, 0);
    if (status != 0)
        return crn_client_fail(client, status, "draft");
    return draft->status == 0 ? 0 : crn_client_fail(client, draft->status, "draft: an earlier put");
}

int cairn_draft_reserve(struct cairn_draft *draft, size_t bytes, uint64_t deadline_ns,
                        void **out_memory)
{
    if (draft == NULL || out_memory == NULL || bytes == 0)
        return CAIRN_E_ARG;
    int status = draft_ready(draft);
    if (status != 0)
        return status;
    if (draft->held_off != 0)
        crn_ring_cancel(&draft->zone.ring, draft->held_off);
    draft->held_off = 0;
    uint64_t off;
    status = crn_zone_take(draft->client, &draft->zone, bytes, deadline_ns, &off);
    if (status != 0)
        return status;
    draft->held_off = off;
    *out_memory = (uint8_t *)draft->zone.mem.base + off;
    return 0;
}

static uint64_t rounded(uint64_t bytes)
{
    return (bytes + CAIRN_ALIGN - 1) / CAIRN_ALIGN * CAIRN_ALIGN;
}

static uint64_t block_bytes(const struct parcel *p)
{
    return (uint64_t)p->n_heads * p->msg.row_stride * p->row_bytes;
}

static uint64_t list_bytes(const struct parcel *p)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; p->index != NULL && i < p->n_lists; i++)
        bytes += p->counts[i] * sizeof(uint32_t);
    return bytes;
}

/* Rows of K, V and states travel with their positions; tokens are positions by themselves. */
static uint64_t pos_bytes(const struct parcel *p)
{
    return p->n_blocks > 0 && p->msg.kind != CRN_PAYLOAD_TOKENS ? p->msg.rows * sizeof(int32_t) : 0;
}

/* The rows' place in the landing zone when they are in reserved room, one block right behind the other; else 0. */
static uint64_t landed_already(const struct cairn_draft *draft, const struct parcel *p)
{
    uintptr_t base = (uintptr_t)draft->zone.mem.base, at = (uintptr_t)p->blocks[0];
    uint64_t bytes = block_bytes(p) * p->n_blocks;
    if (draft->held_off == 0 || p->n_blocks == 0 || at < base || at - base >= draft->zone.mem.bytes)
        return 0;
    if (p->n_blocks == 2 && p->blocks[1] != p->blocks[0] + block_bytes(p))
        return 0;
    const struct crn_ring_span *span = crn_ring_find(&draft->zone.ring, at - base, bytes);
    return span != NULL && span->off == draft->held_off ? at - base : 0;
}

/* Into the landing zone, wherever it is; on a device it is done after its fence. */
static int land(struct cairn_draft *draft, uint64_t off, const void *from, uint64_t bytes, int on_device)
{
    struct crn_mem *zone = &draft->zone.mem;
    if (zone->ops->cpu_visible) {
        memcpy((uint8_t *)zone->base + off, from, bytes);
        return 0;
    }
    struct crn_mem source = {.ops = on_device ? zone->ops : &crn_mem_host, .base = (void *)(uintptr_t)from,
                             .bytes = bytes, .fd = -1, .device = zone->device};
    return bytes > 0 ? zone->ops->copy(zone, off, &source, 0, bytes) : 0;
}

/* Copies rows without the gaps between heads. */
static int copy_rows(struct cairn_draft *draft, struct parcel *p, uint64_t off)
{
    size_t head_bytes = (size_t)p->msg.rows * p->row_bytes;
    int status = 0;
    for (uint32_t b = 0; b < p->n_blocks; b++) {
        for (uint32_t h = 0; h < p->n_heads && status == 0; h++, off += head_bytes)
            status = land(draft, off, p->blocks[b] + h * (size_t)p->msg.row_stride * p->row_bytes, head_bytes,
                          p->on_device);
    }
    p->msg.row_stride = p->msg.rows;
    return status;
}

/* Positions and index lists, to at and behind it: what the landing zone has from off on. */
static void copy_lists(const struct cairn_draft *draft, struct parcel *p, uint8_t *at, uint64_t off)
{
    if (pos_bytes(p) > 0) {
        int32_t *pos = (void *)at;
        for (uint32_t i = 0; i < p->msg.rows; i++)
            pos[i] = p->pos != NULL ? p->pos[i] : (int32_t)(draft->start + i);
        p->msg.pos_off = off;
        off += rounded(pos_bytes(p));
        at += rounded(pos_bytes(p));
    }
    if (p->index == NULL)
        return;
    p->msg.index_off = off;
    for (uint32_t i = 0; i < p->n_lists; i++) {
        if (p->counts[i] > 0)
            memcpy(at, p->index[i], p->counts[i] * sizeof(uint32_t));
        at += p->counts[i] * sizeof(uint32_t);
    }
}

/* The lists of a zone on a device are made on the host and go over in one piece; then everything is waited for. */
static int land_lists(struct cairn_draft *draft, struct parcel *p, uint64_t off, uint64_t bytes)
{
    struct crn_mem *zone = &draft->zone.mem;
    if (zone->ops->cpu_visible) {
        copy_lists(draft, p, (uint8_t *)zone->base + off, off);
        return 0;
    }
    uint8_t *lists = calloc(1, bytes + 1);
    if (lists == NULL)
        return -ENOMEM;
    copy_lists(draft, p, lists, off);
    int status = land(draft, off, lists, bytes, 0);
    if (status == 0)
        status = zone->ops->fence(zone);
    free(lists);
    return status;
}

/* Where a parcel lies: the spans of the zone it takes, 0 for none. */
struct placed {
    uint64_t rows_off, lists_off;
};

static int place(struct cairn_draft *draft, struct parcel *p, uint64_t deadline_ns, struct placed *out)
{
    uint64_t lists = rounded(pos_bytes(p)) + rounded(list_bytes(p)), rows = 0, off = 0;
    uint64_t here = landed_already(draft, p);
    struct placed at = {.rows_off = here != 0 ? draft->held_off : 0};
    if (here == 0)
        rows = rounded(p->n_blocks * p->n_heads * p->msg.rows * p->row_bytes);
    if (rows + lists > 0 || here == 0) {
        int status = crn_zone_take(draft->client, &draft->zone, rows + lists, deadline_ns, &off);
        if (status != 0)
            return status;
        at.lists_off = off;
    }
    p->msg.off = here != 0 ? here : p->n_blocks > 0 ? off : 0;
    p->msg.bytes = here != 0 ? block_bytes(p) * p->n_blocks
                             : (uint64_t)p->n_blocks * p->n_heads * p->msg.rows * p->row_bytes;
    int status = here == 0 && p->n_blocks > 0 ? copy_rows(draft, p, off) : 0;
    if (status == 0)
        status = land_lists(draft, p, off + rows, lists);
    if (status != 0)
        return crn_client_fail(draft->client, status, "put: copy into the landing zone");
    *out = at;
    return 0;
}

static int send_parcel(struct cairn_draft *draft, const struct parcel *parcel, uint64_t deadline_ns)
{
    struct cairn_client *client = draft->client;
    struct parcel p = *parcel;
    struct placed at = {0};
    int status = place(draft, &p, deadline_ns, &at);
    if (status != 0)
        return status;
    p.msg.draft = draft->id;
    p.msg.request = crn_client_next(client);
    if (p.index != NULL)
        p.msg.counts = (struct crn_bytes){p.counts, (uint32_t)(p.msg.counts.n)};
    status = crn_client_send(client, CRN_MSG_put, &p.msg, deadline_ns);
    if (status != 0) {
        crn_ring_cancel(&draft->zone.ring, at.lists_off);
        return crn_client_fail(client, status, "put at %s", client->socket);
    }
    if (at.lists_off != 0)
        crn_ring_send(&draft->zone.ring, at.lists_off, p.msg.request);
    if (at.rows_off != 0) {
        crn_ring_send(&draft->zone.ring, at.rows_off, p.msg.request);
        draft->held_off = 0;
    }
    return 0;
}

/* Kept rows: counts and lists per head, or one list for all. */
static int take_lists(const struct cairn_put *put, uint32_t n_heads, struct parcel *p)
{
    if ((put->counts == NULL) != (put->index == NULL))
        return CAIRN_E_ARG;
    if (put->counts == NULL)
        return 0;
    for (uint32_t h = 0; h < n_heads; h++) {
        uint32_t n = put->counts[put->shared_index ? 0 : h];
        const uint32_t *list = put->index[put->shared_index ? 0 : h];
        if ((p->n_blocks > 0 && n > put->n) || (n > 0 && list == NULL) || n > CAIRN_MAX_TOKENS)
            return CAIRN_E_ARG;
        p->counts[h] = n;
    }
    p->index = put->index;
    p->n_lists = put->shared_index ? 1 : n_heads;
    p->msg.shared_index = put->shared_index != 0;
    p->msg.counts.n = (uint32_t)(n_heads * sizeof p->counts[0]);
    return 0;
}

static int check_rows(const struct cairn_draft *draft, const struct cairn_put *put)
{
    int plain = put->src_dtype == CAIRN_F32 || put->src_dtype == CAIRN_F16 ||
                put->src_dtype == CAIRN_BF16;
    if (!plain || put->n == 0 || put->n > draft->n_tokens || (put->stride != 0 && put->stride < put->n))
        return CAIRN_E_ARG;
    return put->stride <= CAIRN_MAX_TOKENS ? 0 : CAIRN_E_TOO_BIG;
}

static int make_parcel(const struct cairn_draft *draft, const struct cairn_put *put,
                       enum crn_payload_kind kind, struct parcel *out)
{
    const struct cairn_shape *s = &draft->client->options.shape;
    uint32_t n_heads = kind == CRN_PAYLOAD_KV ? s->n_kv_heads : 1;
    uint32_t dtype = put->dst_dtype != 0 ? put->dst_dtype : draft->dtype;
    const void *first = kind == CRN_PAYLOAD_KV ? put->k : put->rows;
    if (put->layer >= s->n_layers || cairn_dtype_bytes(dtype) == 0 || put->wide > 1024 ||
        (first == NULL && !draft->compresses) ||
        (kind == CRN_PAYLOAD_KV && first != NULL && draft->compresses) ||
        (kind == CRN_PAYLOAD_KV && (put->k == NULL) != (put->v == NULL)))
        return CAIRN_E_ARG;
    *out = (struct parcel){.msg = {.kind = kind,
                                   .layer = put->layer,
                                   .dst_dtype = dtype,
                                   .wide = dtype == CAIRN_I8 ? put->wide : 0},
                           .n_heads = n_heads};
    if (first != NULL) {
        int status = check_rows(draft, put);
        if (status != 0)
            return status;
        uint32_t width = kind == CRN_PAYLOAD_KV ? s->head_dim : s->hidden;
        out->blocks[0] = first;
        out->blocks[1] = put->v;
        out->n_blocks = kind == CRN_PAYLOAD_KV ? 2 : 1;
        out->on_device = draft->client->options.memory == CAIRN_MEMORY_DEVICE;
        out->row_bytes = (size_t)width * cairn_dtype_bytes(put->src_dtype);
        out->pos = put->pos;
        out->msg.src_dtype = put->src_dtype;
        out->msg.rows = put->n;
        out->msg.row_stride = put->stride != 0 && kind == CRN_PAYLOAD_KV ? put->stride : put->n;
    }
    return take_lists(put, n_heads, out);
}

static int put_payload(struct cairn_draft *draft, const struct cairn_put *put,
                       enum crn_payload_kind kind, uint64_t deadline_ns)
{
    struct cairn_put sized;
    struct parcel p;
    if (draft == NULL)
        return CAIRN_E_ARG;
    int status = draft_ready(draft);
    if (status != 0)
        return status;
    status = crn_sized_copy(&sized, sizeof sized, put, sizeof sized);
    if (status == 0)
        status = make_parcel(draft, &sized, kind, &p);
    if (status != 0)
        return crn_client_fail(draft->client, status, "put");
    return send_parcel(draft, &p, deadline_ns);
}

int cairn_put_layer(struct cairn_draft *draft, const struct cairn_put *put, uint64_t deadline_ns)
{
    return put_payload(draft, put, CRN_PAYLOAD_KV, deadline_ns);
}

int cairn_put_state(struct cairn_draft *draft, const struct cairn_put *put, uint64_t deadline_ns)
{
    return put_payload(draft, put, CRN_PAYLOAD_STATE, deadline_ns);
}

/* ---- the end ---- */

void cairn_draft_cost(struct cairn_draft *draft, uint64_t token_ns)
{
    if (draft != NULL)
        draft->token_ns = token_ns < UINT32_MAX ? token_ns : UINT32_MAX;
}

int cairn_commit(struct cairn_draft *draft, uint64_t deadline_ns, struct cairn_entry_id *out_entry)
{
    if (draft == NULL || out_entry == NULL)
        return CAIRN_E_ARG;
    struct cairn_client *client = draft->client;
    struct crn_msg_commit msg = {.draft = draft->id, .token_ns = draft->token_ns};
    struct crn_msg_committed committed;
    int status = draft_ready(draft);
    if (status == 0)
        status = CRN_CALL(client, commit, msg, committed, &committed, deadline_ns);
    if (status == 0) {
        draft->id = 0;
        crn_zone_keep(draft->session, &draft->zone);
        client->stats.published_entries++;
        client->stats.published_bytes += committed.bytes;
        *out_entry = (struct cairn_entry_id){committed.entry};
    } else if (draft->status != 0) {
        status = draft->status; /* why the broker had something missing */
    }
    crn_writer_free(draft);
    return status;
}

void cairn_abort(struct cairn_draft *draft)
{
    if (draft != NULL)
        crn_writer_free(draft);
}
