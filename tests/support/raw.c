/* Known numbers in, known numbers out. */
#include "tests/support/raw.h"

#include "ipc/hash.h"
#include "ipc/layout.h"
#include "kernels/kernels.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PUT_BYTES (1u << 20)
#define MAX_TOKENS 4096u

float raw_kv(unsigned salt, uint32_t layer, uint32_t head, uint32_t pos, uint32_t channel, int is_v)
{
    return (float)((int)((salt * 17 + layer * 5 + head * 3 + pos * 7 + channel * 11 +
                          (unsigned)is_v * 13) % 251) - 125);
}

float raw_state(unsigned salt, uint32_t layer, uint32_t pos, uint32_t channel)
{
    return (float)((int)((salt * 19 + layer * 29 + pos * 3 + channel) % 241) - 120);
}

int32_t raw_token(unsigned salt, uint32_t pos)
{
    return (int32_t)((salt * 31 + pos * 7 + pos / 13) % 97);
}

static uint64_t hashes[MAX_TOKENS / 64];
static int32_t context[MAX_TOKENS];

void raw_query(unsigned salt, uint8_t family, uint32_t n, struct crn_msg_match *out_match)
{
    struct cairn_digest digest;
    ck_assert_uint_le(n, MAX_TOKENS);
    memset(&digest, family, sizeof digest);
    for (uint32_t i = 0; i < n; i++)
        context[i] = raw_token(salt, i);
    size_t n_hashes = crn_hash_chain(&digest, context, n, hashes);
    *out_match = (struct crn_msg_match){.n_tokens = n};
    out_match->hashes = (struct crn_bytes){hashes, (uint32_t)(n_hashes * sizeof *hashes)};
    out_match->tail = (struct crn_bytes){context + n_hashes * 64,
                                         (uint32_t)((n - n_hashes * 64) * sizeof *context)};
}

int raw_open(struct peer *p, const struct raw_draft *d, struct raw_open *out_open)
{
    const char *settings = d->settings != NULL ? d->settings : "";
    struct crn_msg_draft m = {.parent = d->parent,
                              .start = d->start,
                              .n_tokens = d->n_tokens,
                              .pyramid = d->pyramid,
                              .bytes = 4096,
                              .put_bytes = PUT_BYTES,
                              .flags = d->flags,
                              .settings = {settings, (uint32_t)strlen(settings)},
                              .n_layers = RAW_LAYERS,
                              .first_hash = d->first_hash};
    struct raw_open o = {.draft = 0};
    int status = peer_call(p, CRN_MSG_draft, &m, CRN_MSG_drafted, &o.reply);
    if (status != 0)
        return status;
    o.draft = o.reply.draft;
    ck_assert_int_eq(crn_wire_records(o.reply.states, 2, CAIRN_MAX_STATES, o.states, &o.n_states),
                     0);
    ck_assert_int_eq(crn_wire_records(o.reply.budgets, sizeof *o.budgets, CAIRN_MAX_LAYERS,
                                      o.budgets, &o.n_budgets),
                     0);
    ck_assert_int_eq(peer_segment(p, CRN_FD_LANDING, o.reply.landing, &o.landing), 0);
    *out_open = o;
    return 0;
}

static uint64_t write_kv(const struct raw_draft *d, uint32_t layer, float *to)
{
    uint32_t n = d->n_tokens;
    for (int is_v = 0; is_v < 2; is_v++) {
        for (uint32_t h = 0; h < RAW_HEADS; h++) {
            for (uint32_t i = 0; i < n * RAW_DIM; i++)
                *to++ = raw_kv(d->salt, layer, h, d->start + i / RAW_DIM, i % RAW_DIM, is_v);
        }
    }
    return 2ull * RAW_HEADS * n * RAW_DIM * sizeof(float);
}

static uint64_t write_state(const struct raw_draft *d, uint32_t layer, float *to)
{
    for (uint32_t i = 0; i < d->n_tokens * RAW_HIDDEN; i++)
        *to++ = raw_state(d->salt, layer, d->start + i / RAW_HIDDEN, i % RAW_HIDDEN);
    return (uint64_t)d->n_tokens * RAW_HIDDEN * sizeof(float);
}

static uint64_t write_ints(const struct raw_draft *d, int tokens, int32_t *to)
{
    for (uint32_t i = 0; i < d->n_tokens; i++)
        to[i] = tokens ? raw_token(d->salt, d->start + i) : (int32_t)(d->start + i);
    return (uint64_t)d->n_tokens * sizeof *to;
}

struct crn_msg_put raw_rows(const struct raw_draft *d, const struct raw_open *o, uint32_t kind,
                             uint32_t layer)
{
    void *base = o->landing.base;
    struct crn_msg_put m = {.draft = o->draft,
                            .kind = kind,
                            .layer = layer,
                            .src_dtype = CAIRN_F32,
                            .dst_dtype = d->dtype,
                            .rows = d->n_tokens,
                            .row_stride = d->n_tokens};
    if (kind == CRN_PAYLOAD_TOKENS)
        m.bytes = write_ints(d, 1, base);
    else
        m.bytes = kind == CRN_PAYLOAD_KV ? write_kv(d, layer, base) : write_state(d, layer, base);
    m.pos_off = m.bytes;
    if (kind != CRN_PAYLOAD_TOKENS)
        write_ints(d, 0, (int32_t *)(void *)((uint8_t *)base + m.pos_off));
    return m;
}

int raw_put(struct peer *p, const struct raw_draft *d, const struct raw_open *o, uint32_t kind,
             uint32_t layer)
{
    struct crn_msg_put m = raw_rows(d, o, kind, layer);
    return peer_call(p, CRN_MSG_put, &m, CRN_MSG_put_done, NULL);
}

int raw_commit(struct peer *p, const struct raw_draft *d, struct raw_open *o, uint64_t *out_entry)
{
    struct crn_msg_commit m = {.draft = o->draft, .flags = d->commit_flags};
    struct crn_msg_committed r;
    int status = peer_call(p, CRN_MSG_commit, &m, CRN_MSG_committed, &r);
    o->landing.ops->destroy(&o->landing);
    if (status == 0)
        *out_entry = r.entry;
    return status;
}

int raw_publish(struct peer *p, const struct raw_draft *d, uint64_t *out_entry)
{
    struct raw_open o;
    int status = raw_open(p, d, &o);
    if (status != 0)
        return status;
    status = raw_put(p, d, &o, CRN_PAYLOAD_TOKENS, 0);
    if (status == 0 && d->state_layer != 0)
        status = raw_put(p, d, &o, CRN_PAYLOAD_STATE, d->state_layer);
    for (uint32_t l = 0; l < RAW_LAYERS && status == 0; l++)
        status = raw_put(p, d, &o, CRN_PAYLOAD_KV, l);
    if (status == 0)
        return raw_commit(p, d, &o, out_entry);
    char why[sizeof p->error];
    memcpy(why, p->error, sizeof why);
    struct crn_msg_abort m = {.draft = o.draft};
    ck_assert_int_eq(peer_call(p, CRN_MSG_abort, &m, CRN_MSG_ok, NULL), 0);
    memcpy(p->error, why, sizeof why);
    o.landing.ops->destroy(&o.landing);
    return status;
}

static int attach(struct peer *p, struct crn_msg_attach *m, struct raw_lease *out)
{
    int status = peer_call(p, CRN_MSG_attach, m, CRN_MSG_attached, &out->msg);
    if (status != 0)
        return status;
    ck_assert_int_eq(crn_wire_records(out->msg.path, sizeof *out->path, CAIRN_MAX_PATH, out->path,
                                      &out->n_path),
                     0);
    ck_assert_int_eq(crn_wire_records(out->msg.payloads, sizeof *out->payloads, 512, out->payloads,
                                      &out->n_payloads),
                     0);
    ck_assert_int_eq(crn_wire_records(out->msg.counts, 4, 4096, out->counts, &out->n_counts), 0);
    status = crn_wire_records(out->msg.plan, sizeof out->plan, 1, &out->plan, &out->n_plans);
    ck_assert_int_eq(status, 0);
    return 0;
}

int raw_attach(struct peer *p, unsigned salt, uint8_t family, uint32_t n, struct raw_lease *out)
{
    struct crn_msg_match q;
    raw_query(salt, family, n, &q);
    struct crn_msg_attach m = {.hashes = q.hashes, .n_tokens = q.n_tokens, .tail = q.tail};
    return attach(p, &m, out);
}

int raw_attach_entry(struct peer *p, uint64_t entry, uint64_t flags, struct raw_lease *out)
{
    struct crn_msg_attach m = {.entry = entry, .flags = flags};
    return attach(p, &m, out);
}

int raw_release(struct peer *p, const struct raw_lease *l)
{
    struct crn_msg_release m = {.lease = l->msg.lease};
    return peer_call(p, CRN_MSG_release, &m, CRN_MSG_ok, NULL);
}

static int differs(uint32_t dtype, const void *at, float want)
{
    float have = 0;
    struct crn_exec e = {0};
    ck_assert_int_eq(crn_kernels_ref.convert(&e, at, dtype, 1, CAIRN_F32, &have), 0);
    return have != want;
}

static int check_kv(const struct crn_payload_rec *r, const uint32_t *counts, const uint8_t *base,
                    unsigned salt)
{
    uint32_t n[RAW_HEADS];
    uint64_t bytes;
    struct crn_head_parts parts[RAW_HEADS];
    for (uint32_t h = 0; h < RAW_HEADS; h++)
        n[h] = counts[r->counts + (r->one_count ? 0 : h)];
    struct crn_kv_spec spec = {r->dtype, RAW_HEADS, RAW_DIM, r->wide, r->shared_pos, n};
    ck_assert_int_eq(crn_layout_kv(&spec, parts, &bytes), 0);
    ck_assert_uint_eq(bytes, r->bytes);
    size_t item = cairn_dtype_bytes(r->dtype);
    for (uint32_t h = 0; h < RAW_HEADS; h++) {
        const int32_t *pos = (const int32_t *)(const void *)(base + parts[h].pos);
        for (uint32_t i = 0; i < n[h] * RAW_DIM; i++) {
            uint32_t at = (uint32_t)pos[i / RAW_DIM], c = i % RAW_DIM;
            float k = raw_kv(salt, r->layer, h, at, c, 0), v = raw_kv(salt, r->layer, h, at, c, 1);
            if (differs(r->dtype, base + parts[h].k + i * item, k) ||
                differs(r->dtype, base + parts[h].v + i * item, v))
                return -1;
        }
    }
    return 0;
}

static int check_state(const struct crn_payload_rec *r, uint32_t n, const uint8_t *base,
                       unsigned salt)
{
    struct crn_state_parts parts;
    uint64_t bytes;
    ck_assert_int_eq(crn_layout_state(r->dtype, n, RAW_HIDDEN, &parts, &bytes), 0);
    ck_assert_uint_eq(bytes, r->bytes);
    const int32_t *pos = (const int32_t *)(const void *)(base + parts.pos);
    size_t item = cairn_dtype_bytes(r->dtype);
    for (uint32_t i = 0; i < n * RAW_HIDDEN; i++) {
        float want = raw_state(salt, r->layer, (uint32_t)pos[i / RAW_HIDDEN], i % RAW_HIDDEN);
        if (differs(r->dtype, base + parts.rows + i * item, want))
            return -1;
    }
    return 0;
}

static int check_tokens(const struct crn_payload_rec *r, const struct crn_path_rec *part,
                        const uint8_t *base, unsigned salt)
{
    const int32_t *tokens = (const int32_t *)(const void *)base;
    ck_assert_uint_eq(r->bytes, part->n_tokens * sizeof *tokens);
    for (uint32_t i = 0; i < part->usable; i++) {
        if (tokens[i] != raw_token(salt, part->start + i))
            return -1;
    }
    return 0;
}

int raw_check(struct peer *p, const struct raw_lease *l, unsigned salt)
{
    for (size_t i = 0; i < l->n_payloads; i++) {
        const struct crn_payload_rec *r = &l->payloads[i];
        const uint8_t *base = peer_arena(p, r->arena) + r->off;
        int bad = 0;
        if (r->kind == CRN_PAYLOAD_TOKENS)
            bad = check_tokens(r, &l->path[r->path_index], base, salt);
        else if (r->kind == CRN_PAYLOAD_STATE)
            bad = check_state(r, l->counts[r->counts], base, salt);
        else
            bad = check_kv(r, l->counts, base, salt);
        if (bad) {
            fprintf(stderr, "payload %zu: kind %u layer %u differs\n", i, r->kind, r->layer);
            return -1;
        }
    }
    return 0;
}
