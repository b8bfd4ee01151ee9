/* A lease in memory: one block that holds the lease, its items and its views, made from the broker's records.
 *
 * The records are input: indices, offsets, counts and sizes are checked against the mapped arenas before a pointer is made from
 * them, so that views stay inside. Positions are checked when an item is first viewed, because a spilled payload's bytes come
 * later. Contents (K, V, rows) are numbers and are not judged.
 *
 * The block of the last lease is kept by the client: attaching the same entry again allocates nothing. */
#include "client/lease.h"

#include "ipc/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- positions and tokens ---- */

uint32_t crn_path_usable(uint32_t pyramid, const int32_t *entry, uint32_t n_entry,
                         const int32_t *query, uint32_t n_query)
{
    uint32_t n = n_entry < n_query ? n_entry : n_query, same = 0;
    while (same < n && entry[same] == query[same])
        same++;
    return pyramid == CAIRN_PYRAMID_PREFILL && same < n_entry ? 0 : same;
}

int crn_positions_cut(const int32_t *pos, uint32_t n, uint32_t start, uint32_t end_entry,
                      uint32_t end, uint32_t *out_n)
{
    if (n > 0 && (pos[0] < (int32_t)start || pos[n - 1] >= (int32_t)end_entry))
        return CAIRN_E_CORRUPT;
    uint32_t disorder = 0, below = 0;
    for (uint32_t i = 1; i < n; i++)
        disorder |= pos[i] <= pos[i - 1];
    if (disorder)
        return CAIRN_E_CORRUPT;
    for (uint32_t step = n; step > 0;) { /* the first row at or beyond end */
        uint32_t half = step / 2;
        if (pos[below + half] < (int32_t)end) {
            below += half + 1;
            step -= half + 1;
        } else {
            step = half;
        }
    }
    *out_n = below;
    return 0;
}

/* ---- records ---- */

static int broken(struct cairn_client *client, const char *what, size_t index)
{
    return crn_client_fail(client, CAIRN_E_PROTO, "attach: %s %zu", what, index);
}

static int is_part(const struct crn_path_rec *p)
{
    return p->n_tokens > 0 && p->n_tokens <= CAIRN_MAX_TOKENS && p->usable > 0 &&
           p->usable <= p->n_tokens && p->class_ >= CAIRN_CLASS_NONE &&
           p->class_ <= CAIRN_CLASS_EXACT && p->pyramid <= CAIRN_PYRAMID_PUBLISH;
}

/* Each part begins where the one before it stops to be used. */
static int check_path(struct cairn_client *client, const struct crn_offer *o)
{
    uint64_t end = o->n_path > 0 ? o->path[0].start : 0;
    for (size_t i = 0; i < o->n_path; i++) {
        const struct crn_path_rec *p = &o->path[i];
        if (p->start != end || !is_part(p) || end > CAIRN_MAX_TOKENS - p->n_tokens)
            return broken(client, "path entry", i);
        if (p->class_ == CAIRN_CLASS_APPROX && o->plan == NULL)
            return broken(client, "no plan for path entry", i);
        end += p->usable;
    }
    return 0;
}

/* Counts of a record, widened to one per head; n: heads, 1 for states and tokens. */
static int read_counts(const struct crn_offer *o, const struct crn_payload_rec *r, uint32_t n,
                       uint32_t *out_counts)
{
    uint32_t travelled = r->one_count != 0 ? 1 : n;
    if (r->counts > o->n_counts || travelled > o->n_counts - r->counts)
        return CAIRN_E_PROTO;
    for (uint32_t i = 0; i < n; i++) {
        out_counts[i] = o->counts[r->counts + (r->one_count != 0 ? 0 : i)];
        if (out_counts[i] > o->path[r->path_index].n_tokens)
            return CAIRN_E_PROTO;
    }
    return 0;
}

static int check_record(const struct crn_offer *o, const struct cairn_shape *shape,
                        const struct crn_payload_rec *r)
{
    if (r->path_index >= o->n_path || r->layer >= shape->n_layers || r->off % CAIRN_ALIGN != 0 ||
        (r->word != CRN_NO_WORD && r->word >= CRN_CONTROL_WORDS))
        return CAIRN_E_PROTO;
    return r->kind >= CRN_PAYLOAD_KV && r->kind <= CRN_PAYLOAD_TOKENS ? 0 : CAIRN_E_PROTO;
}

/* ---- items ---- */

static int make_state(struct cairn_lease *lease, const struct crn_offer *o,
                      const struct crn_payload_rec *r, struct crn_item *item)
{
    uint64_t bytes;
    int status = read_counts(o, r, 1, &item->n_rows);
    if (status == 0)
        status = crn_layout_state(r->dtype, item->n_rows, lease->shape.hidden, &item->state, &bytes);
    return status != 0 || bytes > r->bytes ? CAIRN_E_PROTO : 0;
}

static int make_tokens(const struct crn_offer *o, const struct crn_payload_rec *r,
                       struct crn_item *item)
{
    item->n_rows = o->path[r->path_index].n_tokens;
    return r->bytes >= (uint64_t)item->n_rows * sizeof(int32_t) ? 0 : CAIRN_E_PROTO;
}

static struct cairn_head_view head_view(const uint8_t *base, const struct crn_head_parts *p)
{
    const void *pos = base + p->pos;
    return (struct cairn_head_view){
        .k = base + p->k,
        .v = base + p->v,
        .k_scale = p->k_scale != 0 ? (const void *)(base + p->k_scale) : NULL,
        .v_scale = p->v_scale != 0 ? (const void *)(base + p->v_scale) : NULL,
        .pos = (const int32_t *)pos + p->n_wide,
        .n = p->n,
    };
}

static int make_kv(struct cairn_lease *lease, const struct crn_offer *o,
                   const struct crn_payload_rec *r, struct crn_item *item)
{
    uint32_t n[CAIRN_MAX_KV_HEADS], n_heads = lease->shape.n_kv_heads;
    struct crn_head_parts parts[CAIRN_MAX_KV_HEADS];
    uint64_t bytes;
    int status = read_counts(o, r, n_heads, n);
    if (status != 0)
        return status;
    struct crn_kv_spec spec = {.dtype = r->dtype, .n_kv_heads = n_heads,
                               .head_dim = lease->shape.head_dim, .wide = r->wide,
                               .shared_pos = r->shared_pos, .n = n};
    status = crn_layout_kv(&spec, parts, &bytes);
    if (status != 0 || bytes > r->bytes)
        return CAIRN_E_PROTO;
    item->heads = lease->head_views;
    item->wide = r->wide > 0 ? item->heads + n_heads : NULL;
    lease->head_views += r->wide > 0 ? 2 * n_heads : n_heads;
    for (uint32_t h = 0; h < n_heads; h++) {
        item->heads[h] = head_view(item->base, &parts[h]);
        if (item->wide != NULL)
            item->wide[h] = (struct cairn_head_view){.k = item->base + parts[h].k_wide,
                                                     .v = item->base + parts[h].v_wide,
                                                     .pos = item->heads[h].pos - parts[h].n_wide,
                                                     .n = parts[h].n_wide};
    }
    return 0;
}

static int make_item(struct cairn_lease *lease, const struct crn_offer *o,
                     const struct crn_payload_rec *r, uint64_t deadline_ns)
{
    struct crn_mem mem;
    int status = check_record(o, &lease->shape, r);
    if (status != 0)
        return status;
    status = crn_conn_arena(lease->client, lease->session, r->arena, deadline_ns, &mem);
    if (status != 0)
        return status;
    if (r->bytes > mem.bytes || r->off > mem.bytes - r->bytes)
        return CAIRN_E_PROTO;
    status = r->kind == CRN_PAYLOAD_TOKENS ? crn_conn_readable(&mem) : crn_conn_fits(lease->client, &mem);
    if (status != 0)
        return status;
    struct crn_item *item = &lease->items[lease->n_items];
    *item = (struct crn_item){.base = (const uint8_t *)mem.base + r->off,
                              .layer = r->layer,
                              .word = r->word,
                              .part = r->path_index,
                              .kind = r->kind,
                              .dtype = r->dtype,
                              .shared_pos = r->shared_pos,
                              .arena = r->arena,
                              .away = !mem.ops->cpu_visible};
    if (r->kind == CRN_PAYLOAD_STATE)
        status = make_state(lease, o, r, item);
    else if (r->kind == CRN_PAYLOAD_TOKENS)
        status = make_tokens(o, r, item);
    else
        status = make_kv(lease, o, r, item);
    if (status != 0)
        return status;
    if (r->kind == CRN_PAYLOAD_KV) {
        uint16_t *at = &lease->kv_index[r->path_index * lease->shape.n_layers + r->layer];
        if (*at != CRN_NO_ITEM)
            return CAIRN_E_PROTO;
        *at = (uint16_t)lease->n_items;
    }
    lease->n_items++;
    return 0;
}

static int make_items(struct cairn_lease *lease, const struct crn_offer *o, uint64_t deadline_ns)
{
    for (size_t i = 0; i < o->n_payloads; i++) {
        int status = make_item(lease, o, &o->payloads[i], deadline_ns);
        if (status == CAIRN_E_PROTO)
            return broken(lease->client, "payload record", i);
        if (status == CAIRN_E_UNSUPPORTED)
            return crn_client_fail(lease->client, status, "attach: payloads are not in this engine's memory");
        if (status != 0)
            return crn_client_fail(lease->client, status, "attach: payload %zu", i);
    }
    return 0;
}

/* ---- plan ---- */

static int make_map(struct cairn_lease *lease, const struct crn_plan_rec *r, uint64_t deadline_ns)
{
    struct crn_mem mem;
    uint64_t hidden = lease->shape.hidden, rank = r->map_rank;
    uint64_t numbers = rank == 0 ? hidden * (hidden + 1) : hidden * (2 * rank + 1);
    if (r->map_dtype != CAIRN_F32 || rank > hidden || r->map_bytes != numbers * sizeof(float) ||
        r->map_off % CAIRN_ALIGN != 0)
        return CAIRN_E_PROTO;
    int status = crn_conn_arena(lease->client, lease->session, r->map_arena, deadline_ns, &mem);
    if (status != 0)
        return status;
    if (!mem.ops->cpu_visible)
        return CAIRN_E_UNSUPPORTED;
    if (r->map_bytes > mem.bytes || r->map_off > mem.bytes - r->map_bytes)
        return CAIRN_E_PROTO;
    lease->map = (struct cairn_map_view){.w = (const void *)((const uint8_t *)mem.base + r->map_off),
                                         .hidden = (uint32_t)hidden,
                                         .rank = r->map_rank,
                                         .bytes = r->map_bytes};
    return 0;
}

static int make_plan(struct cairn_lease *lease, const struct crn_plan_rec *r, uint64_t deadline_ns)
{
    if (r == NULL)
        return 0;
    int status = crn_client_plan(r, &lease->plan);
    if (status == 0 && r->first <= r->last && r->last >= lease->shape.n_layers)
        status = CAIRN_E_PROTO;
    if (status == 0 && lease->plan.has_map)
        status = make_map(lease, r, deadline_ns);
    return status == 0 ? 0 : crn_client_fail(lease->client, status, "attach: plan");
}

/* ---- the block ---- */

static void make_parts(struct cairn_lease *lease, const struct crn_offer *o)
{
    for (size_t i = 0; i < o->n_path; i++) {
        const struct crn_path_rec *p = &o->path[i];
        lease->parts[i] = (struct cairn_part){.entry = {p->entry},
                                              .start = p->start,
                                              .n_tokens = p->usable,
                                              .entry_tokens = p->n_tokens,
                                              .class_ = p->class_,
                                              .reason = p->reason,
                                              .pyramid = p->pyramid,
                                              .producer = p->producer};
    }
    lease->info = (struct cairn_lease_info){.class_ = (uint32_t)o->msg->class_,
                                            .reason = (uint32_t)o->msg->reason,
                                            .n_parts = (uint32_t)o->n_path,
                                            .parts = lease->parts,
                                            .wants = lease->wants,
                                            .n_wants = (uint32_t)o->n_wants};
    for (size_t i = 0; i < o->n_wants; i++)
        lease->wants[i] = o->wants[i];
}

/* A zeroed block; the spare one when it is large enough. */
static void *block_take(struct cairn_client *client, size_t bytes, size_t *out_bytes)
{
    if (client->spare == NULL || client->spare_bytes < bytes) {
        free(client->spare);
        client->spare = malloc(bytes);
        client->spare_bytes = client->spare != NULL ? bytes : 0;
    }
    void *block = client->spare;
    *out_bytes = client->spare_bytes;
    client->spare = NULL;
    client->spare_bytes = 0;
    if (block != NULL)
        memset(block, 0, bytes);
    return block;
}

static void block_give(struct cairn_client *client, void *block, size_t bytes)
{
    if (bytes < client->spare_bytes) {
        free(block);
        return;
    }
    free(client->spare);
    client->spare = block;
    client->spare_bytes = bytes;
}

static size_t rounded(size_t bytes)
{
    return (bytes + CAIRN_ALIGN - 1) / CAIRN_ALIGN * CAIRN_ALIGN;
}

/* Memory for everything the offer can become; sizes are bounded by the records' limits. */
static int lease_create(struct cairn_client *client, const struct crn_offer *o,
                        struct cairn_lease **out_lease)
{
    size_t n_heads = 0, n_index = o->n_path * client->options.shape.n_layers, memory_bytes;
    for (size_t i = 0; i < o->n_payloads; i++) {
        if (o->payloads[i].kind == CRN_PAYLOAD_KV)
            n_heads += (o->payloads[i].wide > 0 ? 2u : 1u) * client->options.shape.n_kv_heads;
    }
    size_t items_at = rounded(sizeof **out_lease);
    size_t index_at = items_at + rounded(o->n_payloads * sizeof(struct crn_item));
    size_t heads_at = index_at + rounded(n_index * sizeof(uint16_t));
    uint8_t *block = block_take(client, heads_at + n_heads * sizeof(struct cairn_head_view),
                                &memory_bytes);
    if (block == NULL)
        return crn_client_fail(client, -ENOMEM, "attach");
    struct cairn_lease *lease = (void *)block;
    lease->client = client;
    lease->memory_bytes = memory_bytes;
    lease->shape = client->options.shape;
    lease->items = (void *)(block + items_at);
    lease->kv_index = (void *)(block + index_at);
    lease->head_views = (void *)(block + heads_at);
    for (size_t i = 0; i < n_index; i++)
        lease->kv_index[i] = CRN_NO_ITEM;
    lease->session = crn_conn_hold(client->session);
    lease->next = client->leases;
    if (lease->next != NULL)
        lease->next->previous = lease;
    client->leases = lease;
    *out_lease = lease;
    return 0;
}

/* Also tells the broker, when it is still the same one. */
void crn_grant_free(struct cairn_lease *lease)
{
    struct cairn_client *client = lease->client;
    if (lease->id != 0 && client->chan != NULL && crn_client_current(client, lease->session)) {
        struct crn_msg_release msg = {.lease = lease->id, .reason = lease->info.reason};
        crn_client_send(client, CRN_MSG_release, &msg, 0);
    }
    if (lease->previous != NULL)
        lease->previous->next = lease->next;
    else
        client->leases = lease->next;
    if (lease->next != NULL)
        lease->next->previous = lease->previous;
    for (uint32_t i = 0; i < lease->n_items; i++)
        free(lease->items[i].fetched);
    crn_conn_drop(lease->session);
    block_give(client, lease, lease->memory_bytes);
}

int crn_grant_make(struct cairn_client *client, const struct crn_offer *offer, uint64_t deadline_ns,
                   struct cairn_lease **out_lease)
{
    struct cairn_lease *lease = NULL;
    int status = lease_create(client, offer, &lease);
    if (status != 0)
        return status;
    lease->id = offer->msg->lease; /* from here on freeing gives it back */
    lease->epoch = (uint32_t)offer->msg->epoch;
    lease->slot = crn_control_slot_at(&client->session->control, (uint32_t)offer->msg->slot);
    if (lease->slot == NULL)
        status = broken(client, "slot", (size_t)offer->msg->slot);
    if (status == 0)
        status = check_path(client, offer);
    if (status == 0)
        status = make_plan(lease, offer->plan, deadline_ns);
    if (status == 0) {
        make_parts(lease, offer);
        status = make_items(lease, offer, deadline_ns);
    }
    if (status != 0) {
        crn_grant_free(lease);
        return status;
    }
    for (size_t i = 0; i < offer->n_payloads; i++) {
        if (offer->payloads[i].kind != CRN_PAYLOAD_TOKENS)
            lease->info.shared_bytes += offer->payloads[i].bytes;
    }
    *out_lease = lease;
    return 0;
}

/* ---- look-up ---- */

struct crn_item *crn_grant_item(const struct cairn_lease *lease, uint32_t part, uint32_t layer,
                                uint32_t kind)
{
    if (kind == CRN_PAYLOAD_KV) {
        uint32_t at = lease->kv_index[part * lease->shape.n_layers + layer];
        return at == CRN_NO_ITEM ? NULL : &lease->items[at];
    }
    for (uint32_t i = 0; i < lease->n_items; i++) {
        struct crn_item *item = &lease->items[i];
        if (item->kind == kind && item->part == part &&
            (kind == CRN_PAYLOAD_TOKENS || item->layer == layer))
            return item;
    }
    return NULL;
}

int crn_grant_in_run(const struct cairn_lease *lease, uint32_t part, uint32_t layer)
{
    return lease->parts[part].class_ == CAIRN_CLASS_APPROX && layer >= lease->plan.first &&
           layer <= lease->plan.last;
}

/* ---- tokens ---- */

/* The class of what is left of the path. */
static void settle(struct cairn_lease *lease)
{
    uint32_t worst = CAIRN_CLASS_EXACT;
    lease->info.n_tokens = 0;
    for (uint32_t i = 0; i < lease->info.n_parts; i++) {
        lease->info.n_tokens += lease->parts[i].n_tokens;
        worst = lease->parts[i].class_ < worst ? lease->parts[i].class_ : worst;
    }
    if (worst == lease->info.class_ || lease->info.n_parts == 0 ||
        lease->info.class_ == CAIRN_CLASS_NONE)
        return;
    lease->info.class_ = worst;
    lease->info.reason = lease->parts[0].reason;
}

/* Tokens of a part that agree with the query's: all that the path wants of it, or, of the last one, as many as there are. */
static int compare_part(struct cairn_lease *lease, uint32_t index, const struct cairn_query *query,
                        uint64_t deadline_ns)
{
    struct cairn_part *part = &lease->parts[index];
    const struct crn_item *tokens = crn_grant_item(lease, index, 0, CRN_PAYLOAD_TOKENS);
    if (tokens == NULL || part->start > query->n_tokens)
        return CAIRN_E_PROTO;
    int status = crn_item_wait(lease, tokens, deadline_ns);
    if (status != 0)
        return status;
    uint32_t want = index + 1 < lease->info.n_parts ? part->n_tokens : part->entry_tokens;
    if (part->pyramid == CAIRN_PYRAMID_PREFILL)
        want = part->entry_tokens;
    part->n_tokens = crn_path_usable(part->pyramid, (const int32_t *)(const void *)tokens->base, want,
                                     query->tokens + part->start, query->n_tokens - part->start);
    return 0;
}

int crn_grant_cut(struct cairn_lease *lease, const struct cairn_query *query, uint64_t deadline_ns)
{
    uint32_t n = 0, n_parts = lease->info.n_parts;
    for (int whole = query->tokens != NULL; whole && n < n_parts; n++) {
        uint32_t want = lease->parts[n].n_tokens;
        int status = n == 0 && lease->parts[0].start != 0 ? CAIRN_E_PROTO
                                                          : compare_part(lease, n, query, deadline_ns);
        if (status != 0)
            return crn_client_fail(lease->client, status, "attach: tokens of part %u", n);
        whole = lease->parts[n].n_tokens >= want;
        if (lease->parts[n].n_tokens == 0)
            break;
    }
    lease->info.n_parts = query->tokens != NULL ? n : n_parts;
    settle(lease);
    lease->info.plan = lease->info.class_ == CAIRN_CLASS_APPROX ? &lease->plan : NULL;
    if (lease->info.n_parts > 0)
        return 0;
    return crn_client_fail(lease->client, CAIRN_E_MISS, "attach: other tokens behind the hash");
}

/* ---- views ---- */

static int is_ready(const struct cairn_lease *lease, const struct crn_item *item)
{
    /* Acquire: pairs with the broker's release of READY, after the payload's bytes. */
    return item->word == CRN_NO_WORD ||
           atomic_load_explicit(&lease->slot->word[item->word], memory_order_acquire) ==
               CRN_PROGRESS_READY;
}

static int cut_rows(const struct cairn_lease *lease, uint32_t part, const int32_t *pos, uint32_t n,
                    uint32_t *out_n)
{
    const struct cairn_part *p = &lease->parts[part];
    return crn_positions_cut(pos, n, p->start, p->start + p->entry_tokens, p->start + p->n_tokens,
                             out_n);
}

/* Positions of an item that is away, in memory of the CPU: [n]. A list of all of the part's tokens needs no copy: it ascends. */
static int fetch_list(struct cairn_lease *lease, const struct crn_item *item, const int32_t *at, uint32_t n,
                      int32_t *out)
{
    const struct cairn_part *p = &lease->parts[item->part];
    struct crn_mem mem;
    for (uint32_t i = 0; i < n && n == p->entry_tokens; i++)
        out[i] = (int32_t)(p->start + i);
    if (n == p->entry_tokens || n == 0)
        return 0;
    int status = crn_conn_arena(lease->client, lease->session, item->arena, 0, &mem); /* mapped when the item was made */
    return status != 0 ? status : crn_conn_fetch(&mem, at, out, n * sizeof *out);
}

static uint32_t list_rows(const struct crn_item *item, uint32_t h)
{
    return item->heads[h].n + (item->wide != NULL ? item->wide[h].n : 0);
}

static const int32_t *list_at(const struct crn_item *item, uint32_t h)
{
    return item->wide != NULL ? item->wide[h].pos : item->heads[h].pos;
}

static int fetch_kv(struct cairn_lease *lease, struct crn_item *item)
{
    uint32_t lists = item->shared_pos ? 1 : lease->shape.n_kv_heads;
    size_t n = 0;
    for (uint32_t h = 0; h < lists; h++)
        n += list_rows(item, h);
    int32_t *to = item->fetched = malloc((n + 1) * sizeof *to);
    int status = to != NULL ? 0 : -ENOMEM;
    for (uint32_t h = 0; h < lists && status == 0; h++) {
        status = fetch_list(lease, item, list_at(item, h), list_rows(item, h), to);
        to += list_rows(item, h);
    }
    return status;
}

static int fetch_state(struct cairn_lease *lease, struct crn_item *item)
{
    const void *at = item->base + item->state.pos;
    item->fetched = malloc(((size_t)item->n_rows + 1) * sizeof *item->fetched);
    return item->fetched != NULL ? fetch_list(lease, item, at, item->n_rows, item->fetched) : -ENOMEM;
}

/* Only an item that was not seen yet: rows that were cut would shift the heads' lists. */
static int fetch(struct cairn_lease *lease, struct crn_item *item, uint32_t kind)
{
    if (!item->away || item->fetched != NULL)
        return 0;
    int status = kind == CRN_PAYLOAD_KV ? fetch_kv(lease, item) : fetch_state(lease, item);
    if (status != 0) {
        free(item->fetched);
        item->fetched = NULL;
    }
    return status;
}

static int see_kv(const struct cairn_lease *lease, struct crn_item *item)
{
    const int32_t *fetched = item->fetched;
    uint32_t rows = 0;
    for (uint32_t h = 0; h < lease->shape.n_kv_heads; h++) {
        uint32_t n_wide = item->wide != NULL ? item->wide[h].n : 0;
        if (h == 0 || !item->shared_pos) {
            const int32_t *pos = item->away ? fetched : list_at(item, h);
            fetched += item->away ? list_rows(item, h) : 0;
            int status = cut_rows(lease, item->part, pos, n_wide + item->heads[h].n, &rows);
            if (status != 0)
                return status;
        }
        uint32_t keep_wide = rows < n_wide ? rows : n_wide;
        if (item->wide != NULL)
            item->wide[h].n = keep_wide;
        item->heads[h].n = rows - keep_wide;
    }
    item->seen = 1;
    return 0;
}

static int see_state(const struct cairn_lease *lease, struct crn_item *item)
{
    const int32_t *pos = item->away ? item->fetched : (const void *)(item->base + item->state.pos);
    int status = cut_rows(lease, item->part, pos, item->n_rows, &item->n_rows);
    item->seen = status == 0;
    return status;
}

/* The item ready to be viewed. */
static int find_item(struct cairn_lease *lease, uint32_t part, uint32_t layer, uint32_t kind,
                     struct crn_item **out_item)
{
    struct crn_item *item = crn_grant_item(lease, part, layer, kind);
    if (item == NULL)
        return CAIRN_E_MISS;
    if (!is_ready(lease, item))
        return CAIRN_E_STATE;
    if (!item->seen) {
        int status = fetch(lease, item, kind);
        if (status == 0)
            status = kind == CRN_PAYLOAD_KV ? see_kv(lease, item) : see_state(lease, item);
        if (status != 0)
            return crn_client_fail(lease->client, status, "positions of part %u layer %u", part,
                                   layer);
    }
    *out_item = item;
    return 0;
}

static int has_layer(const struct cairn_lease *lease, uint32_t part, uint32_t layer)
{
    return lease != NULL && part < lease->info.n_parts && layer < lease->shape.n_layers;
}

int cairn_lease_layer(struct cairn_lease *lease, uint32_t part, uint32_t layer,
                      struct cairn_layer_view *out_view)
{
    struct crn_item *item;
    if (!has_layer(lease, part, layer) || out_view == NULL)
        return CAIRN_E_ARG;
    if (crn_grant_in_run(lease, part, layer)) {
        *out_view = (struct cairn_layer_view){.dtype = CAIRN_DTYPE_NONE};
        return 0;
    }
    int status = find_item(lease, part, layer, CRN_PAYLOAD_KV, &item);
    if (status != 0)
        return status;
    *out_view = (struct cairn_layer_view){
        .dtype = item->dtype,
        .wide_dtype = item->wide != NULL ? CAIRN_F16 : CAIRN_DTYPE_NONE,
        .n_heads = lease->shape.n_kv_heads,
        .shared_pos = item->shared_pos,
        .heads = item->heads,
        .wide = item->wide,
    };
    return 0;
}

int crn_grant_positions(struct cairn_lease *lease, uint32_t part, uint32_t layer,
                        const int32_t **out_pos, uint32_t *out_n)
{
    struct crn_item *item;
    int status = find_item(lease, part, layer, CRN_PAYLOAD_KV, &item);
    if (status != 0)
        return status;
    if (!item->shared_pos)
        return CAIRN_E_UNSUPPORTED;
    uint32_t n_wide = item->wide != NULL ? item->wide[0].n : 0;
    *out_pos = item->away ? item->fetched : list_at(item, 0);
    *out_n = n_wide + item->heads[0].n;
    return 0;
}

int cairn_lease_state(struct cairn_lease *lease, uint32_t part, uint32_t layer,
                      struct cairn_state_view *out_view)
{
    struct crn_item *item;
    if (!has_layer(lease, part, layer) || out_view == NULL)
        return CAIRN_E_ARG;
    int status = find_item(lease, part, layer, CRN_PAYLOAD_STATE, &item);
    if (status != 0)
        return status;
    *out_view = (struct cairn_state_view){
        .dtype = item->dtype,
        .n = item->n_rows,
        .hidden = lease->shape.hidden,
        .rows = item->base + item->state.rows,
        .scale = item->state.scale != 0 ? (const void *)(item->base + item->state.scale) : NULL,
        .pos = item->away ? item->fetched : (const void *)(item->base + item->state.pos),
    };
    return 0;
}

int cairn_lease_map(struct cairn_lease *lease, struct cairn_map_view *out_view)
{
    if (lease == NULL || out_view == NULL)
        return CAIRN_E_ARG;
    if (lease->map.w == NULL)
        return CAIRN_E_MISS;
    *out_view = lease->map;
    return 0;
}

const struct cairn_lease_info *cairn_lease_info(const struct cairn_lease *lease)
{
    return lease != NULL ? &lease->info : NULL;
}
