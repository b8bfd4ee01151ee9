/* Records to bytes and back. Encoding trusts its caller only as far as limits go; decoding trusts nothing: sizes first, then the
 * checksum, then every field against the limits, and every payload's size against the one its layout gives. */
#include "broker/catalog_format.h"

#include "ipc/hash.h"
#include "ipc/layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_REC_BYTES (1ull << 31)
#define MAX_SETTINGS 257u
#define MAX_COUNTS (CRN_CATALOG_MAX_PAYLOADS * CAIRN_MAX_KV_HEADS)
#define MAX_HASHES (CAIRN_MAX_TOKENS / CAIRN_CHUNK_TOKENS + 1u)

static size_t pad8(size_t n)
{
    return (n + 7) / 8 * 8;
}

static void seal(void *rec, size_t n)
{
    struct crn_cat_head *h = rec;
    h->version = CRN_CATALOG_VERSION;
    h->bytes = (uint32_t)n;
    h->checksum = crn_hash64((const char *)rec + sizeof *h, n - sizeof *h);
}

static int check_seal(const void *rec, size_t n, size_t min)
{
    const struct crn_cat_head *h = rec;
    if (n < sizeof *h || (uintptr_t)rec % 8 != 0)
        return CAIRN_E_CORRUPT;
    if (h->version != CRN_CATALOG_VERSION)
        return CAIRN_E_VERSION;
    if (n < min || h->bytes != n)
        return CAIRN_E_CORRUPT;
    return h->checksum == crn_hash64((const char *)rec + sizeof *h, n - sizeof *h) ? 0 : CAIRN_E_CORRUPT;
}

static bool terminated(const char *text, size_t n)
{
    return n > 0 && text[n - 1] == '\0' && strlen(text) == n - 1;
}

static bool label_ok(const char *text)
{
    return memchr(text, 0, CAIRN_MAX_LABEL + 1) != NULL;
}

/* ---- entries ---- */

struct entry_parts {
    size_t settings, payloads, hashes, counts, end;
};

static bool entry_sizes_ok(const struct crn_cat_entry_rec *r)
{
    return r->settings_bytes <= MAX_SETTINGS && r->n_payloads <= CRN_CATALOG_MAX_PAYLOADS && r->n_counts <= MAX_COUNTS &&
           r->n_hashes <= MAX_HASHES;
}

static struct entry_parts entry_parts(const struct crn_cat_entry_rec *r)
{
    struct entry_parts p;
    p.settings = sizeof *r;
    p.payloads = p.settings + pad8(r->settings_bytes);
    p.hashes = p.payloads + r->n_payloads * sizeof(struct crn_cat_payload);
    p.counts = p.hashes + r->n_hashes * sizeof(uint64_t);
    p.end = p.counts + pad8(r->n_counts * sizeof(uint32_t));
    return p;
}

static void copy(char *to, const void *from, size_t n)
{
    if (n > 0)
        memcpy(to, from, n);
}

int crn_cat_encode_entry(const struct crn_cat_entry *e, void **out_rec, size_t *out_n)
{
    struct crn_cat_entry_rec head = {.id = e->id,
                                     .parent = e->parent,
                                     .created_s = e->created_s,
                                     .hits = e->hits,
                                     .producer = e->producer,
                                     .family = e->family,
                                     .shape = e->shape,
                                     .start = e->start,
                                     .n_tokens = e->n_tokens,
                                     .n_payloads = e->n_payloads,
                                     .n_counts = e->n_counts,
                                     .n_hashes = e->n_hashes,
                                     .settings_bytes = (uint32_t)strlen(e->settings) + 1,
                                     .pyramid = e->pyramid,
                                     .pinned = e->pinned,
                                     .spill_int8 = e->spill_int8,
                                     .token_ns = e->token_ns};
    memcpy(head.space, e->space, sizeof head.space);
    memcpy(head.label, e->label, sizeof head.label);
    if (!entry_sizes_ok(&head) || !label_ok(e->space) || !label_ok(e->label))
        return CAIRN_E_TOO_BIG;
    struct entry_parts p = entry_parts(&head);
    char *rec = calloc(1, p.end);
    if (rec == NULL)
        return -ENOMEM;
    memcpy(rec, &head, sizeof head);
    copy(rec + p.settings, e->settings, head.settings_bytes);
    copy(rec + p.payloads, e->payloads, e->n_payloads * sizeof *e->payloads);
    copy(rec + p.hashes, e->hashes, e->n_hashes * sizeof *e->hashes);
    copy(rec + p.counts, e->counts, e->n_counts * sizeof *e->counts);
    seal(rec, p.end);
    *out_rec = rec;
    *out_n = p.end;
    return 0;
}

/* The size that the numbers of a payload give; false when they are impossible. */
static bool layout_bytes(const struct crn_cat_entry *e, const struct crn_cat_payload *p, uint64_t *out_bytes)
{
    const uint32_t *counts = e->counts + p->counts;
    struct crn_head_parts heads[CAIRN_MAX_KV_HEADS];
    struct crn_state_parts state;
    uint32_t n[CAIRN_MAX_KV_HEADS];
    *out_bytes = (uint64_t)e->n_tokens * sizeof(int32_t);
    if (p->kind == CRN_PAYLOAD_TOKENS)
        return true;
    if (p->kind == CRN_PAYLOAD_STATE)
        return crn_layout_state(p->dtype, counts[0], e->shape.hidden, &state, out_bytes) == 0;
    if (p->kind != CRN_PAYLOAD_KV)
        return false;
    for (uint32_t h = 0; h < e->shape.n_kv_heads; h++)
        n[h] = p->n_counts == 1 ? counts[0] : counts[h];
    struct crn_kv_spec spec = {.dtype = p->dtype,
                               .n_kv_heads = e->shape.n_kv_heads,
                               .head_dim = e->shape.head_dim,
                               .wide = p->wide,
                               .shared_pos = p->shared_pos,
                               .n = n};
    return crn_layout_kv(&spec, heads, out_bytes) == 0;
}

static bool payload_ok(const struct crn_cat_entry *e, const struct crn_cat_payload *p)
{
    bool one = p->n_counts == 1, per_head = p->kind == CRN_PAYLOAD_KV && p->n_counts == e->shape.n_kv_heads;
    if ((!one && !per_head) || p->counts > e->n_counts || p->n_counts > e->n_counts - p->counts)
        return false;
    for (uint32_t i = 0; i < p->n_counts; i++) {
        if (e->counts[p->counts + i] > e->n_tokens)
            return false;
    }
    if (p->layer >= e->shape.n_layers || p->shared_pos > 1 || p->off > INT64_MAX)
        return false;
    uint64_t bytes;
    bool in_catalogue = p->file == CRN_CATALOG_NO_FILE;
    return in_catalogue == (p->kind == CRN_PAYLOAD_TOKENS) && layout_bytes(e, p, &bytes) && bytes == p->bytes;
}

static bool shape_ok(const struct cairn_shape *s)
{
    return s->n_layers >= 1 && s->n_layers <= CAIRN_MAX_LAYERS && s->n_kv_heads >= 1 &&
           s->n_kv_heads <= CAIRN_MAX_KV_HEADS && s->head_dim >= 1 && s->head_dim <= CAIRN_MAX_HEAD_DIM &&
           s->hidden >= 1 && s->hidden <= CAIRN_MAX_HIDDEN;
}

static bool entry_ok(const struct crn_cat_entry *e)
{
    if (!shape_ok(&e->shape) || !label_ok(e->space) || !label_ok(e->label) || e->pinned > 1)
        return false;
    if (e->n_tokens == 0 || e->n_tokens > CAIRN_MAX_TOKENS || e->start > CAIRN_MAX_TOKENS - e->n_tokens)
        return false;
    if (e->pyramid > CAIRN_PYRAMID_PUBLISH || e->parent >= e->id || (e->parent == 0) != (e->start == 0))
        return false;
    uint32_t whole = (e->start + e->n_tokens) / CAIRN_CHUNK_TOKENS - e->start / CAIRN_CHUNK_TOKENS;
    if (e->n_hashes != (whole > 0 ? whole : 1))
        return false;
    for (uint32_t i = 0; i < e->n_payloads; i++) {
        if (!payload_ok(e, &e->payloads[i]))
            return false;
    }
    return true;
}

int crn_cat_decode_entry(const void *rec, size_t n, uint64_t key, struct crn_cat_entry *out_entry)
{
    const struct crn_cat_entry_rec *r = rec;
    int status = check_seal(rec, n, sizeof *r);
    if (status != 0)
        return status;
    struct entry_parts p = entry_parts(r);
    if (r->id != key || !entry_sizes_ok(r) || p.end != n)
        return CAIRN_E_CORRUPT;
    const char *base = rec;
    struct crn_cat_entry e = {.id = r->id,
                              .parent = r->parent,
                              .created_s = r->created_s,
                              .hits = r->hits,
                              .spill_int8 = r->spill_int8 != 0,
                              .token_ns = r->token_ns,
                              .producer = r->producer,
                              .family = r->family,
                              .shape = r->shape,
                              .start = r->start,
                              .n_tokens = r->n_tokens,
                              .pyramid = r->pyramid,
                              .pinned = r->pinned,
                              .n_payloads = r->n_payloads,
                              .n_counts = r->n_counts,
                              .n_hashes = r->n_hashes,
                              .settings = base + p.settings,
                              .payloads = (const void *)(base + p.payloads),
                              .counts = (const void *)(base + p.counts),
                              .hashes = (const void *)(base + p.hashes)};
    memcpy(e.space, r->space, sizeof e.space);
    memcpy(e.label, r->label, sizeof e.label);
    if (!terminated(e.settings, r->settings_bytes) || !entry_ok(&e))
        return CAIRN_E_CORRUPT;
    *out_entry = e;
    return 0;
}

/* ---- plans ---- */

struct plan_parts {
    size_t budgets, info, map, end;
};

static struct plan_parts plan_parts(const struct crn_cat_plan_rec *r)
{
    struct plan_parts p;
    p.budgets = sizeof *r;
    p.info = p.budgets + r->rec.n_budgets * sizeof(struct crn_budget_rec);
    p.map = p.info + pad8(r->info_bytes);
    p.end = p.map + pad8(r->rec.map_bytes);
    return p;
}

static bool plan_sizes_ok(const struct crn_cat_plan_rec *r)
{
    if (r->rec.n_measured > CRN_PLAN_MEASURED)
        return false;
    return r->info_bytes <= CRN_CATALOG_MAX_INFO + 1 && r->rec.map_bytes < MAX_REC_BYTES;
}

int crn_cat_encode_plan(const struct crn_cat_plan *plan, void **out_rec, size_t *out_n)
{
    struct crn_cat_plan_rec head = {.id = plan->id, .rec = plan->rec, .info_bytes = (uint32_t)strlen(plan->info) + 1};
    head.rec.id = 0;
    head.rec.map_arena = 0;
    head.rec.map_off = 0;
    memcpy(head.space, plan->space, sizeof head.space);
    if (!plan_sizes_ok(&head) || !label_ok(plan->space))
        return CAIRN_E_TOO_BIG;
    struct plan_parts p = plan_parts(&head);
    char *rec = p.end > MAX_REC_BYTES ? NULL : calloc(1, p.end);
    if (rec == NULL)
        return p.end > MAX_REC_BYTES ? CAIRN_E_TOO_BIG : -ENOMEM;
    memcpy(rec, &head, sizeof head);
    copy(rec + p.budgets, plan->budgets, plan->rec.n_budgets * sizeof *plan->budgets);
    copy(rec + p.info, plan->info, head.info_bytes);
    copy(rec + p.map, plan->map, plan->rec.map_bytes);
    seal(rec, p.end);
    *out_rec = rec;
    *out_n = p.end;
    return 0;
}

int crn_cat_decode_plan(const void *rec, size_t n, uint64_t key, struct crn_cat_plan *out_plan)
{
    const struct crn_cat_plan_rec *r = rec;
    int status = check_seal(rec, n, sizeof *r);
    if (status != 0)
        return status;
    if (r->id != key || !plan_sizes_ok(r) || plan_parts(r).end != n || !label_ok(r->space))
        return CAIRN_E_CORRUPT;
    struct plan_parts p = plan_parts(r);
    const char *base = rec;
    if (!terminated(base + p.info, r->info_bytes))
        return CAIRN_E_CORRUPT;
    *out_plan = (struct crn_cat_plan){.id = r->id,
                                      .rec = r->rec,
                                      .budgets = (const void *)(base + p.budgets),
                                      .info = base + p.info,
                                      .map = base + p.map};
    memcpy(out_plan->space, r->space, sizeof out_plan->space);
    return 0;
}

/* ---- tokens ---- */

int crn_cat_encode_tokens(uint64_t id, const int32_t *tokens, uint32_t n_tokens, void **out_rec, size_t *out_n)
{
    if (n_tokens == 0 || n_tokens > CAIRN_MAX_TOKENS)
        return CAIRN_E_TOO_BIG;
    struct crn_cat_tokens_rec head = {.id = id, .n_tokens = n_tokens};
    size_t n = sizeof head + pad8(n_tokens * sizeof *tokens);
    char *rec = calloc(1, n);
    if (rec == NULL)
        return -ENOMEM;
    memcpy(rec, &head, sizeof head);
    memcpy(rec + sizeof head, tokens, n_tokens * sizeof *tokens);
    seal(rec, n);
    *out_rec = rec;
    *out_n = n;
    return 0;
}

int crn_cat_decode_tokens(const void *rec, size_t n, uint64_t key, const int32_t **out_tokens, uint32_t *out_n)
{
    const struct crn_cat_tokens_rec *r = rec;
    int status = check_seal(rec, n, sizeof *r);
    if (status != 0)
        return status;
    if (r->id != key || r->n_tokens == 0 || r->n_tokens > CAIRN_MAX_TOKENS ||
        n != sizeof *r + pad8(r->n_tokens * sizeof(int32_t)))
        return CAIRN_E_CORRUPT;
    *out_tokens = (const void *)((const char *)rec + sizeof *r);
    *out_n = r->n_tokens;
    return 0;
}
