/* broker/tier: a payload changes its place one legal step at a time, whatever the storage does and in whatever order it answers;
 * memory goes after the write, a record after the sync, and what cannot be read back is a miss.
 *
 * The tier runs here without a broker around it: a namespace, a session with a control page, and a store whose every finished
 * piece passes a gate. The gate notes pieces, holds them until the test lets them go, one by one, and can spoil them. */
#include "broker/tier_impl.h"

#include "broker/gather.h"
#include "broker/session.h"
#include "ipc/chan.h"
#include "ipc/hash.h"
#include "ipc/layout.h"
#include "ipc/log.h"
#include "tests/support/paths.h"
#include "tests/support/run.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LAYERS 4u
#define TOKENS 64u
#define DIM 64u
#define HIDDEN 64u
#define GRANULE CRN_GRANULE_BYTES
#define DEADLINE_NS UINT64_C(20000000000)
#define MAX_EVENTS 4096

/* ---- the gate ---- */

struct event {
    uint32_t op;
    uint64_t off;
};

static struct gate {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct event seen[MAX_EVENTS]; /* finished by the kernel, in this order */
    int n_seen;
    struct event held[64]; /* waiting at the gate */
    int n_held;
    uint32_t hold;     /* bits 1 << op: stop here */
    uint64_t let_off;  /* the one held piece that may go; UINT64_MAX: none */
    uint32_t spoil_op; /* its result is `spoil` */
    uint64_t spoil_off;
    int spoil;
} gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, .let_off = UINT64_MAX};

#define ANY_OFF UINT64_MAX

static int gate_result(void *ctx, const struct crn_spill_io *io, uint64_t off, int res)
{
    (void)ctx;
    pthread_mutex_lock(&gate.lock);
    ck_assert_int_lt(gate.n_seen, MAX_EVENTS);
    gate.seen[gate.n_seen++] = (struct event){io->op, off};
    if ((gate.hold & 1u << io->op) != 0) {
        gate.held[gate.n_held++] = (struct event){io->op, off};
        pthread_cond_broadcast(&gate.changed);
        while ((gate.hold & 1u << io->op) != 0 && gate.let_off != off)
            pthread_cond_wait(&gate.changed, &gate.lock);
        if (gate.let_off == off)
            gate.let_off = ANY_OFF;
        int i = 0;
        while (gate.held[i].op != io->op || gate.held[i].off != off)
            i++;
        gate.held[i] = gate.held[--gate.n_held];
        pthread_cond_broadcast(&gate.changed);
    }
    if (gate.spoil_op == io->op && (gate.spoil_off == ANY_OFF || gate.spoil_off == off))
        res = gate.spoil;
    pthread_mutex_unlock(&gate.lock);
    return res;
}

static void gate_hold(uint32_t op)
{
    pthread_mutex_lock(&gate.lock);
    gate.hold |= 1u << op;
    pthread_mutex_unlock(&gate.lock);
}

static void gate_open(void)
{
    pthread_mutex_lock(&gate.lock);
    gate.hold = 0;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
}

static struct timespec soon(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_sec += 20;
    return t;
}

static void gate_await(int n_held)
{
    struct timespec end = soon();
    pthread_mutex_lock(&gate.lock);
    while (gate.n_held != n_held)
        ck_assert_int_eq(pthread_cond_timedwait(&gate.changed, &gate.lock, &end), 0);
    pthread_mutex_unlock(&gate.lock);
}

/* One held piece may go on. */
static void gate_let(uint64_t off)
{
    struct timespec end = soon();
    pthread_mutex_lock(&gate.lock);
    gate.let_off = off;
    pthread_cond_broadcast(&gate.changed);
    while (gate.let_off != ANY_OFF)
        ck_assert_int_eq(pthread_cond_timedwait(&gate.changed, &gate.lock, &end), 0);
    pthread_mutex_unlock(&gate.lock);
}

static void gate_spoil(uint32_t op, uint64_t off, int result)
{
    pthread_mutex_lock(&gate.lock);
    gate.spoil_op = op;
    gate.spoil_off = off;
    gate.spoil = result;
    pthread_mutex_unlock(&gate.lock);
}

static int gate_seen(uint32_t op)
{
    int n = 0;
    pthread_mutex_lock(&gate.lock);
    for (int i = 0; i < gate.n_seen; i++)
        n += gate.seen[i].op == op;
    pthread_mutex_unlock(&gate.lock);
    return n;
}

/* ---- the world ---- */

static struct crn_space space;
static struct crn_tier *tier;
static struct crn_session session;
static const struct crn_model *base;
static struct crn_tier_config config;
static const struct crn_spill_faults faults = {gate_result, NULL};

static uint64_t host_granules; /* of a host tier; what it lies below is host memory, too, and stands for a device's */

static void open_tier(void)
{
    struct crn_space_options o = {
        .name = "test", .limit_bytes = 32 * GRANULE, .arena_bytes = 32 * GRANULE, .first_generation = 1, .mem = &crn_mem_host,
        .host_limit_bytes = host_granules * GRANULE};
    struct crn_model like = {.shape = {LAYERS, 1, DIM, HIDDEN}};
    memset(&like.digest, 1, sizeof like.digest);
    memset(&like.family, 9, sizeof like.family);
    ck_assert_int_eq(crn_space_open(&o, &space), 0);
    ck_assert_int_eq(crn_tier_open(&config, &space, 1, &tier), 0);
    ck_assert_int_eq(crn_space_model(&space, &like, &base), 0);
    session = (struct crn_session){.space = &space, .model = base};
    ck_assert_int_eq(crn_control_create(&session.control), 0);
}

static void close_tier(void)
{
    gate_open();
    crn_lease_end_all(&session);
    crn_tier_close(tier);
    crn_space_close(&space);
    session.control.ops->destroy(&session.control);
}

static void open_world(uint64_t nvme_bytes)
{
    crn_log_setup("test", CRN_LOG_ERROR);
    paths_tmp();
    config = (struct crn_tier_config){.high_percent = 100, .low_percent = 50};
    config.store.n_files = 1;
    config.store.files[0] = (struct crn_store_file_config){paths_tmp_file("store"), nvme_bytes};
    config.store.engine = CRN_SPILL_THREADS; /* a held piece holds up no other */
    config.store.faults = &faults;
    open_tier();
}

/* nvme_bytes 0: none. */
static void open_world_with_host(uint64_t nvme_bytes, uint64_t granules)
{
    host_granules = granules;
    open_world(nvme_bytes > 0 ? nvme_bytes : 8 << 20);
    if (nvme_bytes > 0)
        return;
    close_tier();
    config.store.n_files = 0;
    open_tier();
}

static void close_world(void)
{
    close_tier();
    paths_tmp_remove();
}

static void turn(int timeout_ms)
{
    struct pollfd p[CRN_TIER_FDS];
    for (uint32_t i = 0; i < CRN_TIER_FDS; i++)
        p[i] = (struct pollfd){.fd = crn_tier_fd(tier, i), .events = POLLIN};
    poll(p, CRN_TIER_FDS, timeout_ms);
    crn_tier_collect(tier);
}

#define AWAIT(condition)                                                                                                        \
    do {                                                                                                                        \
        uint64_t end_ = crn_now_ns() + DEADLINE_NS;                                                                             \
        while (!(condition)) {                                                                                                  \
            ck_assert_msg(crn_now_ns() < end_, "never: %s", #condition);                                                        \
            turn(20);                                                                                                           \
        }                                                                                                                       \
    } while (0)

/* Everything that is under way has a chance to be seen. */
static void settle(void)
{
    for (int i = 0; i < 5; i++)
        turn(10);
}

/* Where a payload is being written, or was. */
static uint64_t off_of(const struct crn_payload *p)
{
    const struct crn_tier_move *m = p->sink != NULL ? p->sink : p->move;
    return m != NULL ? m->place.off : p->place.off;
}

static struct crn_payload *payload(uint8_t kind, uint16_t layer, uint64_t bytes, uint32_t count)
{
    struct crn_payload *p = NULL;
    struct crn_payload_spec spec = {.kind = kind, .dtype = CAIRN_F32, .shared_pos = 1, .layer = layer, .bytes = bytes,
                                    .counts = &count, .n_counts = 1};
    uint64_t end = crn_now_ns() + DEADLINE_NS;
    int status;
    while ((status = crn_payload_create(&space, &spec, &p)) == -EAGAIN && crn_now_ns() < end)
        turn(20);
    ck_assert_int_eq(status, 0);
    return p;
}

/* Numbers of -1..1, and positions that count up where a KV payload has them. */
static float number(uint64_t i, uint32_t seed, uint32_t layer)
{
    return (float)((i * 37 + seed * 101 + layer * 53) % 2001) / 1000.0f - 1.0f;
}

static void fill(struct crn_payload *p, uint32_t seed)
{
    float *at = crn_payload_at(p);
    int32_t *pos = crn_payload_at(p);
    for (uint64_t i = 0; i < p->bytes / sizeof *at; i++)
        at[i] = number(i, seed, p->layer);
    for (int32_t i = 0; i < (int32_t)TOKENS && p->kind == CRN_PAYLOAD_KV; i++)
        pos[i] = i;
    p->checksum = crn_hash64(at, p->bytes);
}

static bool intact(const struct crn_payload *p)
{
    return p->arena != NULL && crn_hash64(crn_payload_at(p), p->bytes) == p->checksum;
}

static const uint32_t all_rows = TOKENS;

static struct crn_kv_spec kv_spec(uint32_t dtype, uint32_t wide)
{
    return (struct crn_kv_spec){.dtype = dtype, .n_kv_heads = 1, .head_dim = DIM, .wide = wide, .shared_pos = 1, .n = &all_rows};
}

/* All payloads of an entry: its layers and, when asked for, the state that enters layer 1. */
static struct crn_body *body_of(const int32_t *tokens, uint32_t seed, bool state)
{
    struct crn_body *body;
    struct crn_head_parts heads[1];
    struct crn_state_parts parts;
    struct crn_kv_spec kv = kv_spec(CAIRN_F32, 0);
    uint64_t bytes;
    ck_assert_int_eq(crn_body_create(LAYERS, &body), 0);
    struct crn_payload *own = payload(CRN_PAYLOAD_TOKENS, 0, TOKENS * sizeof *tokens, TOKENS);
    memcpy(crn_payload_at(own), tokens, TOKENS * sizeof *tokens);
    own->checksum = crn_hash64(tokens, TOKENS * sizeof *tokens);
    ck_assert_int_eq(crn_body_put(body, own), 0);
    ck_assert_int_eq(crn_layout_kv(&kv, heads, &bytes), 0);
    for (uint16_t l = 0; l < LAYERS; l++) {
        struct crn_payload *p = payload(CRN_PAYLOAD_KV, l, bytes, TOKENS);
        fill(p, seed);
        ck_assert_int_eq(crn_body_put(body, p), 0);
    }
    if (state) {
        ck_assert_int_eq(crn_layout_state(CAIRN_F32, TOKENS, HIDDEN, &parts, &bytes), 0);
        struct crn_payload *p = payload(CRN_PAYLOAD_STATE, 1, bytes, TOKENS);
        fill(p, seed);
        ck_assert_int_eq(crn_body_put(body, p), 0);
    }
    return body;
}

static struct crn_entry *publish_after(struct crn_entry *parent, uint32_t seed, bool state)
{
    int32_t tokens[TOKENS];
    struct crn_entry *e;
    for (uint32_t i = 0; i < TOKENS; i++)
        tokens[i] = (int32_t)(seed * 1000 + i);
    struct crn_body *body = body_of(tokens, seed, state);
    struct crn_entry_spec spec = {.space = &space, .producer = base, .parent = parent, .start = parent != NULL ? crn_entry_end(parent) : 0,
                                  .n_tokens = TOKENS, .settings = "", .tokens = tokens};
    ck_assert_int_eq(crn_entry_create(&spec, &e), 0);
    e->body = body;
    ck_assert_int_eq(crn_space_insert(&space, e), 0);
    crn_tier_published(e);
    return e;
}

static struct crn_entry *publish(uint32_t seed, bool state)
{
    return publish_after(NULL, seed, state);
}

/* Another body in place of the entry's, as a compressor does it. */
static void replace(struct crn_entry *e, uint32_t seed)
{
    struct crn_body *body = body_of(crn_payload_at(e->body->tokens), seed, false);
    crn_tier_replaced(e);
    crn_body_drop(e->body);
    e->body = body;
    crn_entries_renew(&space.entries, e);
    crn_tier_published(e);
}

static struct crn_listing listing;

/* A lease on the whole entry, restores begun. */
static struct crn_lease *attach(struct crn_entry *e)
{
    struct crn_lease *lease;
    struct crn_path path = {.n = 1, .class_ = CAIRN_CLASS_EXACT};
    ck_assert_int_eq(crn_tier_warm(e), 0);
    path.parts[0] = (struct crn_part){.entry = e, .usable = TOKENS, .class_ = CAIRN_CLASS_EXACT};
    ck_assert_int_eq(crn_listing_path(&listing, &path, true, 0), 0);
    ck_assert_int_eq(crn_lease_grant(&session, &path, listing.payloads, listing.n, &lease), 0);
    e->used_ns = crn_now_ns();
    e->hits++;
    ck_assert_int_eq(crn_tier_want(&session, lease, &path, &listing), 0);
    return lease;
}

/* The progress of one layer of the lease that was attached last; READY when it has no word. */
static uint32_t progress(const struct crn_lease *lease, uint32_t layer)
{
    const struct crn_control_slot *slot = crn_control_slot_at(&session.control, lease->slot);
    for (uint32_t i = 0; i < listing.n; i++) {
        if (listing.recs[i].kind == CRN_PAYLOAD_KV && listing.recs[i].layer == layer)
            return listing.recs[i].word == 0xffff ? CRN_PROGRESS_READY : slot->word[listing.recs[i].word];
    }
    ck_abort_msg("layer %u is not in the listing", layer);
}

struct outcome {
    bool ended;
    int status;
};

static void ended(void *ctx, int status)
{
    *(struct outcome *)ctx = (struct outcome){true, status};
}

static void order_down_as(struct crn_entry *e, bool int8, struct outcome *o)
{
    struct crn_tier_layers all = {0, LAYERS - 1, int8, false};
    *o = (struct outcome){false, 0};
    ck_assert_int_eq(crn_tier_spill(e, &all, ended, o), 0);
}

static void order_down(struct crn_entry *e, struct outcome *o)
{
    order_down_as(e, false, o);
}

/* The same, held when n writes are under way. */
static void order_held(struct crn_entry *e, int n, struct outcome *o)
{
    gate_hold(CRN_SPILL_WRITE);
    order_down(e, o);
    gate_await(n);
}

/* Wholly on NVMe, and durable. */
static void spill(struct crn_entry *e)
{
    struct outcome o;
    order_down(e, &o);
    AWAIT(o.ended);
    ck_assert_int_eq(o.status, 0);
    ck_assert(e->durable);
}

static bool recorded(const struct crn_entry *e)
{
    struct crn_cat_entry *rec;
    if (e->catalog_id == 0 || crn_catalog_entry(tier->catalog, e->catalog_id, &rec) != 0)
        return false;
    free(rec);
    return true;
}

static uint64_t counted(enum crn_counter counter)
{
    return space.stats.v[counter];
}

/* ---- the order of things ---- */

START_TEST(memory_goes_after_the_write_and_not_before)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(1, false);
    struct outcome o;
    uint64_t used = space.used_bytes;
    order_held(e, LAYERS, &o);
    settle();
    ck_assert_uint_eq(space.used_bytes, used);
    for (uint32_t l = 0; l < LAYERS; l++) {
        ck_assert_int_eq(e->body->kv[l]->state, CRN_SPILLING);
        ck_assert(intact(e->body->kv[l]));
    }
    ck_assert_int_eq(gate_seen(CRN_SPILL_SYNC), 0);
    ck_assert(!o.ended && !e->durable && !recorded(e));
    gate_open();
    AWAIT(o.ended);
    ck_assert_uint_lt(space.used_bytes, used);
    close_world();
}
END_TEST

START_TEST(the_record_is_written_after_the_sync_of_all_payloads)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(1, true);
    struct crn_catalog_stats stats;
    struct outcome o;
    gate_hold(CRN_SPILL_SYNC);
    order_down(e, &o);
    AWAIT(gate_seen(CRN_SPILL_SYNC) == 1);
    settle();
    crn_catalog_stats(tier->catalog, &stats);
    ck_assert_uint_eq(stats.batches, 0);
    ck_assert(!o.ended && !e->durable && !recorded(e));
    ck_assert_int_eq(gate.n_seen, LAYERS + 2);
    for (uint32_t i = 0; i < LAYERS + 1; i++)
        ck_assert_int_eq(gate.seen[i].op, CRN_SPILL_WRITE);
    gate_open();
    AWAIT(o.ended);
    ck_assert_int_eq(o.status, 0);
    ck_assert(e->durable && recorded(e));
    close_world();
}
END_TEST

/* A layer that is still being written when its entry's others are synced for another entry: no record names it. */
START_TEST(an_entry_waits_for_its_last_payload)
{
    open_world(8 << 20);
    struct crn_entry *slow = publish(1, false), *quick = publish(2, false);
    struct outcome o;
    order_held(slow, LAYERS, &o);
    for (uint32_t l = 0; l + 1 < LAYERS; l++)
        gate_let(off_of(slow->body->kv[l]));
    uint64_t last = off_of(slow->body->kv[LAYERS - 1]);
    struct outcome other;
    order_down(quick, &other);
    for (uint32_t l = 0; l < LAYERS; l++) {
        gate_await((int)(LAYERS - l) + 1); /* its own that are left, and the slow one's last */
        gate_let(off_of(quick->body->kv[l]));
    }
    AWAIT(other.ended);
    ck_assert(quick->durable && recorded(quick));
    ck_assert(!o.ended && !slow->durable && !recorded(slow));
    gate_let(last);
    AWAIT(o.ended);
    ck_assert(slow->durable && recorded(slow));
    close_world();
}
END_TEST

START_TEST(writes_that_end_in_reverse_order_each_free_their_own)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(1, false);
    struct outcome o;
    order_held(e, LAYERS, &o);
    for (uint32_t l = LAYERS; l-- > 0;) {
        gate_let(off_of(e->body->kv[l]));
        AWAIT(e->body->kv[l]->state == CRN_SPILLED);
        ck_assert_ptr_null(e->body->kv[l]->arena);
        for (uint32_t other = 0; other < l; other++) {
            ck_assert_int_eq(e->body->kv[other]->state, CRN_SPILLING);
            ck_assert(intact(e->body->kv[other]));
        }
    }
    AWAIT(o.ended);
    ck_assert(e->durable);
    close_world();
}
END_TEST

START_TEST(restores_that_end_out_of_order_wake_only_their_own_layer)
{
    static const uint32_t order[LAYERS] = {2, 0, 3, 1};
    open_world(8 << 20);
    struct crn_entry *e = publish(1, false);
    spill(e);
    gate_hold(CRN_SPILL_READ);
    struct crn_lease *lease = attach(e);
    gate_await(LAYERS);
    settle();
    for (uint32_t i = 0; i < LAYERS; i++) {
        for (uint32_t j = i; j < LAYERS; j++)
            ck_assert_uint_eq(progress(lease, order[j]), CRN_PROGRESS_PENDING);
        gate_let(e->body->kv[order[i]]->place.off);
        AWAIT(progress(lease, order[i]) == CRN_PROGRESS_READY);
        ck_assert(intact(e->body->kv[order[i]]));
        ck_assert_int_eq(e->body->kv[order[i]]->state, CRN_RESIDENT);
    }
    close_world();
}
END_TEST

START_TEST(late_reads_hold_their_memory_although_the_reader_is_gone)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(1, false);
    spill(e);
    gate_hold(CRN_SPILL_READ);
    struct crn_lease *lease = attach(e);
    gate_await(LAYERS);
    uint64_t used = space.used_bytes;
    crn_lease_end(&session, lease);
    crn_space_remove(&space, e);
    settle();
    ck_assert_uint_ge(space.used_bytes, used - GRANULE); /* the tokens' */
    gate_open();
    AWAIT(tier->n_moves == 0);
    ck_assert_uint_eq(space.used_bytes, 0);
    AWAIT(crn_store_used_bytes(tier->store) == 0);
    close_world();
}
END_TEST

/* ---- drops and leases in between ---- */

START_TEST(an_entry_dropped_while_it_is_written_keeps_memory_and_extents_until_the_end)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(1, false);
    struct outcome o, second;
    order_held(e, LAYERS, &o);
    uint64_t used = crn_store_used_bytes(tier->store), memory = space.used_bytes;
    crn_space_remove(&space, e);
    settle();
    ck_assert_uint_eq(crn_store_used_bytes(tier->store), used);
    ck_assert_uint_ge(space.used_bytes, memory - GRANULE);
    struct crn_entry *next = publish(2, false); /* neither its memory nor its extents may be those */
    order_down(next, &second);
    ck_assert_uint_eq(crn_store_used_bytes(tier->store), 2 * used);
    gate_open();
    AWAIT(o.ended && second.ended);
    ck_assert_uint_eq(crn_store_used_bytes(tier->store), used);
    ck_assert_int_eq(second.status, 0);
    struct crn_lease *lease = attach(next);
    AWAIT(progress(lease, LAYERS - 1) == CRN_PROGRESS_READY && progress(lease, 0) == CRN_PROGRESS_READY);
    close_world();
}
END_TEST

START_TEST(a_lease_taken_while_a_payload_goes_down_keeps_it_in_memory)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(1, false);
    struct outcome o;
    order_held(e, LAYERS, &o);
    struct crn_lease *lease = attach(e);
    for (uint32_t l = 0; l < LAYERS; l++)
        ck_assert_uint_eq(progress(lease, l), CRN_PROGRESS_READY);
    gate_open();
    AWAIT(o.ended);
    for (uint32_t l = 0; l < LAYERS; l++) {
        ck_assert_int_eq(e->body->kv[l]->state, CRN_RESIDENT);
        ck_assert(intact(e->body->kv[l]) && crn_tier_clean(e->body->kv[l]));
        ck_assert(!crn_tier_release(e->body->kv[l]));
    }
    ck_assert_int_eq(gate_seen(CRN_SPILL_READ), 0);
    crn_lease_end(&session, lease);
    int writes = gate_seen(CRN_SPILL_WRITE);
    ck_assert_uint_gt(crn_tier_demote(&space, 4 * GRANULE, false), 0); /* clean: no second write */
    settle();
    ck_assert_int_eq(gate_seen(CRN_SPILL_WRITE), writes);
    ck_assert_int_eq(e->body == NULL || e->body->kv[LAYERS - 1]->state == CRN_SPILLED, 1);
    close_world();
}
END_TEST

START_TEST(attaches_share_one_restore_and_an_ended_one_is_not_told)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(1, false);
    spill(e);
    gate_hold(CRN_SPILL_READ);
    struct crn_lease *first = attach(e), *gone = attach(e), *third = attach(e);
    gate_await(LAYERS);
    struct crn_control_slot *slot = crn_control_slot_at(&session.control, gone->slot);
    crn_lease_end(&session, gone);
    gate_open();
    for (uint32_t l = 0; l < LAYERS; l++)
        AWAIT(progress(first, l) == CRN_PROGRESS_READY && progress(third, l) == CRN_PROGRESS_READY);
    ck_assert_int_eq(gate_seen(CRN_SPILL_READ), LAYERS);
    ck_assert_uint_eq(slot->word[0], CRN_PROGRESS_PENDING);
    ck_assert_uint_eq(counted(CRN_COUNTER_restored_total), LAYERS);
    close_world();
}
END_TEST

START_TEST(steps_that_make_no_sense_are_refused)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(1, false);
    struct crn_payload *p = e->body->kv[0];
    ck_assert_int_eq(crn_tier_start_restore(e, p, NULL), CAIRN_E_STATE);
    gate_hold(CRN_SPILL_WRITE);
    ck_assert_int_eq(crn_tier_start_spill(e, p, CRN_DOWN_RELEASE, NULL), 0);
    ck_assert_int_eq(crn_tier_start_spill(e, p, CRN_DOWN_RELEASE, NULL), CAIRN_E_STATE);
    ck_assert_int_eq(crn_tier_start_restore(e, p, NULL), CAIRN_E_STATE);
    ck_assert(!crn_tier_release(p));
    gate_open();
    AWAIT(p->state == CRN_SPILLED);
    ck_assert_int_eq(crn_tier_start_spill(e, p, CRN_DOWN_RELEASE, NULL), CAIRN_E_STATE);
    gate_hold(CRN_SPILL_READ);
    ck_assert_int_eq(crn_tier_start_restore(e, p, NULL), 0);
    ck_assert_int_eq(crn_tier_start_restore(e, p, NULL), CAIRN_E_STATE);
    ck_assert_int_eq(crn_tier_start_spill(e, p, CRN_DOWN_RELEASE, NULL), CAIRN_E_STATE);
    ck_assert(!crn_tier_release(p));
    gate_open();
    AWAIT(p->state == CRN_RESIDENT);
    ck_assert(intact(p));
    close_world();
}
END_TEST

/* ---- generations and families ---- */

/* Where the catalogue says that a layer is; UINT64_MAX when it has no record. */
static uint64_t recorded_off(const struct crn_entry *e, uint32_t layer)
{
    struct crn_cat_entry *rec;
    uint64_t off = UINT64_MAX;
    if (crn_catalog_entry(tier->catalog, e->catalog_id, &rec) != 0)
        return off;
    for (uint32_t i = 0; i < rec->n_payloads; i++)
        off = rec->payloads[i].kind == CRN_PAYLOAD_KV && rec->payloads[i].layer == layer ? rec->payloads[i].off : off;
    free(rec);
    return off;
}

START_TEST(the_record_of_a_replaced_body_is_good_until_the_next_one_is)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(1, false);
    spill(e);
    ck_assert_int_eq(crn_tier_warm(e), 0);
    struct crn_place old = e->body->kv[2]->place;
    uint64_t checksum = e->body->kv[2]->checksum, bytes = e->body->kv[2]->bytes, id = e->catalog_id;
    uint64_t used = crn_store_used_bytes(tier->store), memory = space.used_bytes;
    gate_hold(CRN_SPILL_WRITE);
    replace(e, 2);
    gate_await(LAYERS);
    settle();
    ck_assert(!e->durable && e->in_catalog);
    ck_assert_uint_eq(e->catalog_id, id);
    ck_assert_uint_eq(recorded_off(e, 2), old.off);
    ck_assert_int_eq(crn_store_check(tier->store, &old, bytes, checksum), 0);
    ck_assert_uint_eq(crn_store_used_bytes(tier->store), 2 * used); /* nobody can overwrite it */
    ck_assert_uint_le(space.used_bytes, memory + (LAYERS + 1) * GRANULE);
    gate_open();
    AWAIT(e->durable);
    ck_assert_uint_eq(e->catalog_id, id);
    ck_assert_uint_ne(recorded_off(e, 2), old.off);
    AWAIT(crn_store_used_bytes(tier->store) == used);
    ck_assert_ptr_null(e->old);
    close_world();
}
END_TEST

START_TEST(an_entry_replaced_twice_and_dropped_leaves_nothing)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(1, false);
    spill(e);
    ck_assert_int_eq(crn_tier_warm(e), 0);
    gate_hold(CRN_SPILL_WRITE);
    replace(e, 2);
    replace(e, 3);
    uint64_t id = e->catalog_id;
    crn_space_remove(&space, e);
    gate_open();
    AWAIT(tier->n_moves == 0 && crn_store_used_bytes(tier->store) == 0);
    ck_assert_uint_eq(space.used_bytes, 0);
    struct crn_cat_entry *rec;
    ck_assert_int_eq(crn_catalog_entry(tier->catalog, id, &rec), CAIRN_E_MISS);
    close_world();
}
END_TEST

START_TEST(spilling_a_child_ends_when_its_whole_path_is_durable)
{
    open_world(8 << 20);
    struct crn_entry *root = publish(1, false), *middle = publish_after(root, 2, false), *leaf = publish_after(middle, 3, false);
    struct outcome o;
    gate_hold(CRN_SPILL_SYNC);
    order_down(leaf, &o);
    AWAIT(gate_seen(CRN_SPILL_SYNC) == 1);
    settle();
    ck_assert(!o.ended && !leaf->durable);
    gate_open();
    AWAIT(o.ended);
    ck_assert_int_eq(o.status, 0);
    ck_assert(root->durable && middle->durable && leaf->durable);
    for (uint32_t l = 0; l < LAYERS; l++)
        ck_assert_int_eq(root->body->kv[l]->state, CRN_RESIDENT); /* only the leaf was to go */
    close_tier();
    open_tier();
    ck_assert_uint_eq(tier->recovered, 3);
    close_world();
}
END_TEST

START_TEST(spilling_a_child_whose_parent_cannot_be_written_says_so)
{
    open_world(8 << 20);
    struct crn_entry *root = publish(1, false), *leaf = publish_after(root, 2, false);
    struct outcome o;
    order_held(leaf, 2 * LAYERS, &o);
    gate_spoil(CRN_SPILL_WRITE, off_of(root->body->kv[1]), -EIO);
    gate_open();
    AWAIT(o.ended);
    ck_assert_int_eq(o.status, -EIO);
    ck_assert(!leaf->durable && !root->durable);
    close_world();
}
END_TEST

/* Whoever publishes the same again is told so, although there is no memory to look at it in. */
START_TEST(a_cold_entry_is_recognised_without_memory)
{
    struct crn_payload *p = NULL;
    uint32_t count = 1;
    int32_t tokens[TOKENS];
    struct crn_payload_spec all = {.kind = CRN_PAYLOAD_BLOB, .bytes = 32 * GRANULE, .counts = &count, .n_counts = 1};
    open_world(8 << 20);
    struct crn_entry *e = publish(3, false);
    spill(e);
    while (e->body != NULL) {
        turn(20);
        crn_tier_tick(tier);
    }
    AWAIT(crn_payload_create(&space, &all, &p) == 0);
    for (uint32_t i = 0; i < TOKENS; i++)
        tokens[i] = (int32_t)(3000 + i);
    struct crn_entry_spec like = {.space = &space, .producer = base, .n_tokens = TOKENS, .settings = "", .tokens = tokens};
    ck_assert_int_ne(crn_tier_warm(e), 0);
    ck_assert_ptr_eq(crn_space_same(&space, &like, crn_entry_last_hash(e)), e);
    ck_assert_ptr_null(e->body);
    tokens[TOKENS - 1]++;
    ck_assert_ptr_null(crn_space_same(&space, &like, crn_entry_last_hash(e)));
    crn_payload_drop(p);
    close_world();
}
END_TEST

/* ---- int8 on the way down ---- */

static void check_int8(const struct crn_payload *p, uint32_t seed)
{
    static _Alignas(64) float plain[2 * TOKENS * DIM + TOKENS + 64];
    struct crn_head_parts parts[1];
    struct crn_gather_head heads[1];
    uint64_t bytes;
    struct crn_kv_spec from = kv_spec(CAIRN_I8, p->wide), to = kv_spec(CAIRN_F32, 0);
    ck_assert_int_eq(crn_layout_kv(&to, parts, &bytes), 0);
    ck_assert_int_eq(crn_gather_from_payload(&from, crn_payload_at(p), heads), 0);
    struct crn_gather_kv g = {.src_dtype = CAIRN_I8, .dst = to, .heads = heads, .out = (uint8_t *)plain};
    ck_assert_int_eq(crn_gather_kv(&g), 0);
    for (uint32_t i = 0; i < TOKENS * DIM; i++) {
        float k = plain[parts[0].k / sizeof *plain + i], want = number(parts[0].k / sizeof *plain + i, seed, p->layer);
        ck_assert_msg(k >= want - 0.01f && k <= want + 0.01f, "layer %u, number %u: %f instead of %f", p->layer, i,
                      (double)k, (double)want);
    }
}

START_TEST(int8_halves_what_goes_down_and_stays_when_it_is_back)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(7, true);
    uint64_t plain = e->body->kv[0]->bytes, all = e->body->bytes;
    struct outcome o;
    if (_i == 0)
        order_down_as(e, true, &o);
    else { /* by the entry's or the namespace's option */
        e->spill_int8 = _i == 1;
        space.options.spill_int8 = _i == 2;
        order_down(e, &o);
    }
    AWAIT(o.ended);
    ck_assert_int_eq(o.status, 0);
    ck_assert(e->durable);
    uint64_t coded = e->body->kv[0]->bytes;
    ck_assert_uint_lt(coded, plain / 3);
    ck_assert_uint_eq(e->body->bytes, all - LAYERS * (plain - coded));
    ck_assert_int_eq(e->body->states[0]->dtype, CAIRN_F32);
    close_tier(); /* the catalogue knows */
    open_tier();
    uint32_t slot = 0;
    e = crn_entries_walk(&space.entries, 0, &slot);
    ck_assert_ptr_nonnull(e);
    ck_assert_int_eq(e->spill_int8, _i == 1);
    struct crn_lease *lease = attach(e);
    for (uint32_t l = 0; l < LAYERS; l++) {
        AWAIT(progress(lease, l) == CRN_PROGRESS_READY);
        ck_assert_int_eq(e->body->kv[l]->dtype, CAIRN_I8);
        ck_assert_uint_eq(e->body->kv[l]->bytes, coded);
        check_int8(e->body->kv[l], 7);
    }
    for (uint32_t i = 0; i < listing.n; i++)
        ck_assert_int_eq(listing.recs[i].dtype, listing.recs[i].kind == CRN_PAYLOAD_KV ? CAIRN_I8 : listing.payloads[i]->dtype);
    close_world();
}
END_TEST

START_TEST(what_somebody_began_to_read_plain_stays_plain)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(7, false);
    struct outcome o;
    gate_hold(CRN_SPILL_WRITE);
    order_down_as(e, true, &o);
    gate_await(LAYERS);
    struct crn_lease *lease = attach(e);
    gate_open();
    AWAIT(o.ended);
    for (uint32_t l = 0; l < LAYERS; l++) {
        ck_assert_int_eq(e->body->kv[l]->state, CRN_RESIDENT);
        ck_assert_int_eq(e->body->kv[l]->dtype, CAIRN_F32);
        ck_assert(intact(e->body->kv[l]));
    }
    ck_assert(!e->durable);
    ck_assert_uint_eq(crn_store_used_bytes(tier->store), 0);
    crn_lease_end(&session, lease);
    close_world();
}
END_TEST

/* ---- failures ---- */

START_TEST(a_failed_write_leaves_the_payload_where_it_was)
{
    static const int errors[] = {-EIO, -ENOSPC};
    open_world(8 << 20);
    struct crn_entry *e = publish(1, false);
    struct outcome o;
    order_held(e, LAYERS, &o);
    gate_spoil(CRN_SPILL_WRITE, off_of(e->body->kv[2]), errors[_i]);
    gate_open();
    AWAIT(o.ended);
    settle();
    ck_assert_int_eq(o.status, errors[_i]);
    ck_assert_int_eq(e->body->kv[2]->state, CRN_RESIDENT);
    ck_assert(intact(e->body->kv[2]) && !crn_tier_clean(e->body->kv[2]));
    ck_assert_int_eq(e->body->kv[1]->state, CRN_SPILLED);
    ck_assert(!e->durable && !recorded(e));
    ck_assert_uint_eq(counted(CRN_COUNTER_io_error_total), 1);
    ck_assert_uint_eq(crn_tier_demote(&space, GRANULE, false), 0); /* not again at once */
    gate_spoil(0, 0, 0);
    tier->paused_until_ns = 0;
    spill(e);
    struct crn_lease *lease = attach(e);
    for (uint32_t l = 0; l < LAYERS; l++)
        AWAIT(progress(lease, l) == CRN_PROGRESS_READY);
    close_world();
}
END_TEST

/* 0: EIO, 1: a wrong byte. */
START_TEST(a_failed_read_is_a_miss_for_its_layer_and_ends_the_entry)
{
    struct crn_entry *found;
    open_world(8 << 20);
    struct crn_entry *e = publish(1, false);
    spill(e);
    ck_assert_int_eq(crn_tier_warm(e), 0);
    uint64_t off = e->body->kv[1]->place.off, id = e->id;
    if (_i == 0)
        gate_spoil(CRN_SPILL_READ, off, -EIO);
    else
        e->body->kv[1]->checksum ^= 1;
    struct crn_lease *lease = attach(e);
    AWAIT(progress(lease, 1) == CRN_PROGRESS_FAILED);
    for (uint32_t l = 0; l < LAYERS; l += l == 0 ? 2 : 1)
        AWAIT(progress(lease, l) == CRN_PROGRESS_READY);
    ck_assert_uint_eq(counted(CRN_COUNTER_restore_failed_total), 1);
    ck_assert_uint_eq(counted(_i == 0 ? CRN_COUNTER_io_error_total : CRN_COUNTER_corrupt_total), 1);
    ck_assert_int_eq(crn_tier_warm(e), CAIRN_E_MISS); /* nobody else gets it */
    ck_assert_int_eq(e->body->kv[1]->state, CRN_SPILLED);
    crn_tier_tick(tier);
    ck_assert_int_eq(crn_entries_find(&space.entries, id, &found), CAIRN_E_STALE);
    crn_lease_end(&session, lease);
    AWAIT(crn_store_used_bytes(tier->store) == 0);
    ck_assert_uint_eq(space.used_bytes, 0);
    close_world();
}
END_TEST

START_TEST(a_failed_sync_makes_nothing_durable_and_is_not_believed_later)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(1, false);
    uint64_t off[LAYERS];
    struct outcome o;
    gate_spoil(CRN_SPILL_SYNC, ANY_OFF, -EIO);
    order_down(e, &o);
    AWAIT(o.ended);
    ck_assert_int_eq(o.status, -EIO);
    ck_assert(!e->durable && !recorded(e));
    ck_assert_uint_eq(counted(CRN_COUNTER_io_error_total), 1);
    for (uint32_t l = 0; l < LAYERS; l++)
        off[l] = e->body->kv[l]->place.off;
    gate_spoil(0, 0, 0);
    crn_tier_persist(tier, e, NULL); /* a second fsync would say yes: the kernel reports a lost page once */
    crn_tier_persist_step(tier);
    settle();
    ck_assert(!e->durable && !recorded(e));
    struct crn_lease *lease = attach(e); /* what can be read is still right */
    for (uint32_t l = 0; l < LAYERS; l++)
        AWAIT(progress(lease, l) == CRN_PROGRESS_READY);
    crn_lease_end(&session, lease);
    tier->paused_until_ns = 0;
    spill(e);
    ck_assert_int_eq(crn_tier_warm(e), 0);
    for (uint32_t l = 0; l < LAYERS; l++)
        ck_assert_uint_ne(e->body->kv[l]->place.off, off[l]);
    close_world();
}
END_TEST

START_TEST(a_full_catalogue_fails_the_order_and_keeps_what_there_is)
{
    open_world(8 << 20);
    close_tier();
    config.catalog_map_bytes = config.catalog_max_map_bytes = 16 * 4096;
    unlink(paths_tmp_file("store.catalog"));
    open_tier();
    uint32_t n = 0;
    struct crn_entry *e = NULL;
    struct outcome o = {.status = 0};
    for (; o.status == 0 && n < 200; n++) {
        e = publish(n, false);
        order_down(e, &o);
        AWAIT(o.ended);
    }
    ck_assert_int_eq(o.status, CAIRN_E_FULL);
    ck_assert_uint_gt(n, 2);
    ck_assert(!e->durable);
    ck_assert_uint_ge(counted(CRN_COUNTER_io_error_total), 1);
    struct crn_lease *lease = attach(e);
    for (uint32_t l = 0; l < LAYERS; l++)
        AWAIT(progress(lease, l) == CRN_PROGRESS_READY);
    close_tier();
    open_tier(); /* what was told to be durable came back */
    ck_assert_uint_eq(tier->recovered, n - 1);
    ck_assert_uint_eq(tier->dropped, 0);
    close_world();
}
END_TEST

/* Every piece moves 4 KiB at a time, down and up. */
START_TEST(short_transfers_change_nothing)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(1, true);
    gate_spoil(_i == 0 ? CRN_SPILL_WRITE : CRN_SPILL_READ, ANY_OFF, 4096);
    spill(e);
    struct crn_lease *lease = attach(e);
    for (uint32_t l = 0; l < LAYERS; l++) {
        AWAIT(progress(lease, l) == CRN_PROGRESS_READY);
        ck_assert(intact(e->body->kv[l]));
    }
    struct crn_spill_stats stats;
    crn_spill_stats(crn_store_spill(tier->store), &stats);
    ck_assert_uint_gt(stats.shorts, LAYERS);
    ck_assert_uint_eq(counted(CRN_COUNTER_io_error_total), 0);
    close_world();
}
END_TEST

/* ---- the policy ---- */

START_TEST(the_deepest_layers_go_first_and_states_last)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(1, true);
    for (uint32_t l = LAYERS; l-- > 0;) {
        ck_assert_uint_gt(crn_tier_demote(&space, 1, false), 0);
        AWAIT(e->body->kv[l]->state == CRN_SPILLED);
        ck_assert(l == 0 || e->body->kv[l - 1]->state == CRN_RESIDENT);
        ck_assert_int_eq(e->body->states[0]->state, CRN_RESIDENT);
    }
    struct crn_payload *state = e->body->states[0];
    ck_assert_uint_gt(crn_tier_demote(&space, 1, false), 0);
    AWAIT(e->body == NULL || state->state == CRN_SPILLED);
    close_world();
}
END_TEST

/* Layers 1 and 2 are recomputed by whoever attaches: nobody misses them. */
START_TEST(layers_that_no_reader_asks_for_go_first)
{
    open_world(8 << 20);
    struct crn_entry *e = publish(1, false);
    struct crn_lease *lease = attach(e);
    crn_lease_end(&session, lease);
    e->body->kv[1]->used_ns = e->body->kv[2]->used_ns = 1;
    ck_assert_uint_gt(crn_tier_demote(&space, 1, false), 0);
    AWAIT(e->body->kv[2]->state == CRN_SPILLED);
    ck_assert_uint_gt(crn_tier_demote(&space, 1, false), 0);
    AWAIT(e->body->kv[1]->state == CRN_SPILLED);
    ck_assert_int_eq(e->body->kv[3]->state, CRN_RESIDENT);
    close_world();
}
END_TEST

/* Registered with the kernel by a thread of its own, once, while transfers go on. */
START_TEST(arenas_are_offered_to_the_engine_when_they_fill)
{
    open_world(8 << 20);
    close_tier();
    config.store.engine = CRN_SPILL_URING;
    open_tier();
    struct crn_entry *entries[4];
    for (uint32_t i = 0; i < 4; i++) {
        entries[i] = publish(i, false);
        crn_tier_tick(tier);
        ck_assert(i > 0 || !space.arenas->offered);
        spill(entries[i]);
        crn_lease_end(&session, attach(entries[i]));
        AWAIT(tier->n_moves == 0);
    }
    crn_tier_tick(tier);
    ck_assert(space.arenas->offered);
    for (uint32_t i = 0; i < 4; i++) {
        spill(entries[i]);
        struct crn_lease *lease = attach(entries[i]);
        for (uint32_t l = 0; l < LAYERS; l++)
            AWAIT(progress(lease, l) == CRN_PROGRESS_READY);
        ck_assert(intact(entries[i]->body->kv[0]));
        crn_lease_end(&session, lease);
    }
    while (tier->offer != NULL) {
        turn(10);
        crn_tier_tick(tier);
    }
    close_world();
}
END_TEST

START_TEST(leased_and_pinned_payloads_stay)
{
    open_world(8 << 20);
    struct crn_entry *leased = publish(1, false), *pinned = publish(2, false), *idle = publish(3, false);
    struct crn_lease *lease = attach(leased);
    pinned->pinned = true;
    leased->used_ns = pinned->used_ns = 1;
    crn_tier_demote(&space, 32 * GRANULE, false);
    AWAIT(idle->body == NULL || idle->body->kv[0]->state == CRN_SPILLED);
    settle();
    for (uint32_t l = 0; l < LAYERS; l++) {
        ck_assert_int_eq(leased->body->kv[l]->state, CRN_RESIDENT);
        ck_assert_int_eq(pinned->body->kv[l]->state, CRN_RESIDENT);
    }
    crn_lease_end(&session, lease);
    close_world();
}
END_TEST

/* With every byte on its way down nobody waits, and nothing is dropped. */
START_TEST(making_room_never_waits)
{
    struct crn_payload *p = NULL;
    uint32_t count = 1;
    struct crn_payload_spec spec = {.kind = CRN_PAYLOAD_KV, .bytes = 8 * GRANULE, .counts = &count, .n_counts = 1};
    open_world(8 << 20);
    for (uint32_t i = 0; i < 6; i++)
        publish(i, false);
    gate_hold(CRN_SPILL_WRITE);
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(crn_payload_create(&space, &spec, &p), -EAGAIN);
    crn_tier_hurry(tier, true);
    ck_assert_int_eq(crn_payload_create(&space, &spec, &p), CAIRN_E_FULL);
    crn_tier_hurry(tier, false);
    ck_assert_uint_eq(space.entries.n, 6);
    gate_open();
    AWAIT(crn_payload_create(&space, &spec, &p) == 0);
    crn_payload_drop(p);
    close_world();
}
END_TEST

START_TEST(one_pass_over_many_leaves_what_is_read_again)
{
    open_world(32 << 20);
    struct crn_entry *hot = publish(0, false);
    for (int i = 0; i < 3; i++)
        crn_lease_end(&session, attach(hot));
    for (uint32_t i = 1; i <= 40; i++)
        publish(i, false); /* 5 granules each, of 32 */
    for (uint32_t l = 0; l < LAYERS; l++)
        ck_assert_int_eq(hot->body->kv[l]->state, CRN_RESIDENT);
    ck_assert_int_eq(gate_seen(CRN_SPILL_READ), 0);
    close_world();
}
END_TEST

/* ---- the host tier ---- */

static int ask_to_host(struct crn_entry *e, struct outcome *o)
{
    struct crn_tier_layers all = {0, LAYERS - 1, false, true};
    *o = (struct outcome){false, 0};
    return crn_tier_spill(e, &all, ended, o);
}

/* Wholly in the host tier; asks again while room is coming, as a session does. */
static void to_host(struct crn_entry *e)
{
    struct outcome o;
    int status;
    AWAIT((status = ask_to_host(e, &o)) != -EAGAIN);
    ck_assert_int_eq(status, 0);
    AWAIT(o.ended);
    ck_assert_int_eq(o.status, 0);
}

/* A world with an entry in the host tier, whose writes to NVMe are under way and held. */
static struct crn_entry *sinking(struct outcome *o)
{
    open_world_with_host(8 << 20, 16);
    struct crn_entry *e = publish(1, false);
    to_host(e);
    order_held(e, LAYERS, o);
    return e;
}

static bool in_host(const struct crn_payload *p)
{
    return p->state == CRN_SPILLED && p->tier == CAIRN_TIER_HOST && p->arena == NULL && p->host != NULL &&
           crn_hash64(crn_tier_host_copy(p), p->bytes) == p->checksum;
}

static bool on_nvme(const struct crn_entry *e)
{
    return e->body == NULL || crn_tier_brief(e).tier == CAIRN_TIER_NVME;
}

static void read_back(struct crn_entry *e)
{
    struct crn_lease *lease = attach(e);
    for (uint32_t l = 0; l < LAYERS; l++) {
        AWAIT(progress(lease, l) != CRN_PROGRESS_PENDING);
        ck_assert_uint_eq(progress(lease, l), CRN_PROGRESS_READY);
        ck_assert(intact(e->body->kv[l]));
    }
    crn_lease_end(&session, lease);
}

/* 0: with NVMe below, 1: without. */
START_TEST(the_host_tier_takes_payloads_and_gives_them_back_without_storage)
{
    open_world_with_host(_i == 0 ? 8 << 20 : 0, 16);
    struct crn_entry *e = publish(1, true);
    uint64_t used = space.used_bytes;
    to_host(e);
    for (uint32_t l = 0; l < LAYERS; l++)
        ck_assert(in_host(e->body->kv[l]));
    ck_assert(in_host(e->body->states[0]));
    ck_assert_int_eq(crn_tier_brief(e).tier, CAIRN_TIER_HOST);
    ck_assert_uint_eq(space.used_bytes, GRANULE); /* tokens */
    ck_assert_uint_eq(space.host_used_bytes, (LAYERS + 1) * GRANULE);
    ck_assert(!e->durable);
    read_back(e);
    ck_assert_uint_eq(space.used_bytes, used);
    ck_assert_uint_eq(space.host_used_bytes, 0);
    ck_assert_uint_eq(counted(CRN_COUNTER_host_restored_total), LAYERS + 1);
    ck_assert_int_eq(gate_seen(CRN_SPILL_WRITE) + gate_seen(CRN_SPILL_READ), 0);
    close_world();
}
END_TEST

START_TEST(what_a_reader_wants_on_its_way_to_the_host_tier_stays)
{
    open_world_with_host(0, 16);
    struct crn_entry *e = publish(1, false);
    struct outcome o;
    ck_assert_int_eq(ask_to_host(e, &o), 0);
    struct crn_lease *lease = attach(e);
    for (uint32_t l = 0; l < LAYERS; l++)
        ck_assert_uint_eq(progress(lease, l), CRN_PROGRESS_READY);
    AWAIT(o.ended);
    ck_assert_int_eq(o.status, CAIRN_E_BUSY);
    for (uint32_t l = 0; l < LAYERS; l++)
        ck_assert(e->body->kv[l]->state == CRN_RESIDENT && intact(e->body->kv[l]));
    ck_assert_uint_eq(space.host_used_bytes, 0);
    crn_lease_end(&session, lease);
    close_world();
}
END_TEST

/* A job of the thread that takes things down, until the test lets it go. */
static pthread_mutex_t held_up = PTHREAD_MUTEX_INITIALIZER;

static int hold_up(struct crn_job *job)
{
    (void)job;
    pthread_mutex_lock(&held_up);
    pthread_mutex_unlock(&held_up);
    return 0;
}

static void let_through(struct crn_job *job, int status)
{
    (void)job;
    (void)status;
}

START_TEST(a_restore_does_not_wait_for_what_goes_down)
{
    open_world_with_host(0, 16);
    struct crn_entry *up = publish(1, false), *down = publish(2, false);
    struct crn_job job = {.run = hold_up, .done = let_through};
    struct outcome o;
    to_host(up);
    pthread_mutex_lock(&held_up);
    crn_copier_submit(tier->to_host, &job);
    ck_assert_int_eq(ask_to_host(down, &o), 0);
    read_back(up);
    ck_assert(!o.ended && down->body->kv[0]->state == CRN_SPILLING);
    pthread_mutex_unlock(&held_up);
    AWAIT(o.ended);
    ck_assert_int_eq(o.status, 0);
    read_back(down);
    close_world();
}
END_TEST

START_TEST(a_full_host_tier_sends_its_coldest_on_to_nvme)
{
    open_world_with_host(8 << 20, LAYERS);
    struct crn_entry *cold = publish(1, false), *warm = publish(2, false);
    struct outcome o;
    to_host(cold);
    ck_assert_int_eq(ask_to_host(warm, &o), -EAGAIN);
    to_host(warm);
    AWAIT(on_nvme(cold) && cold->durable);
    for (uint32_t l = 0; l < LAYERS; l++)
        ck_assert(in_host(warm->body->kv[l]));
    ck_assert(!warm->durable);
    read_back(cold);
    read_back(warm);
    close_world();
}
END_TEST

START_TEST(without_nvme_a_full_host_tier_drops_its_coldest_entry)
{
    open_world_with_host(0, LAYERS);
    struct crn_entry *cold = publish(1, false), *warm = publish(2, false), *found;
    uint64_t id = cold->id;
    to_host(cold);
    to_host(warm);
    ck_assert_int_eq(crn_entries_find(&space.entries, id, &found), CAIRN_E_STALE);
    ck_assert_uint_eq(counted(CRN_COUNTER_evicted_total), 1);
    read_back(warm);
    close_world();
}
END_TEST

/* A read entry is not dropped for another one's sake, and an order that finds no room says so. */
START_TEST(a_host_tier_full_of_what_must_stay_refuses)
{
    open_world_with_host(0, LAYERS);
    struct crn_entry *pinned = publish(1, false), *other = publish(2, false);
    struct outcome o;
    to_host(pinned);
    pinned->pinned = true;
    ck_assert_int_eq(ask_to_host(other, &o), 0);
    AWAIT(o.ended);
    ck_assert_int_eq(o.status, CAIRN_E_FULL);
    ck_assert(other->body->kv[0]->state == CRN_RESIDENT);
    close_world();
}
END_TEST

/* Above its watermark memory goes to the host tier first, and from there to NVMe when that is above its own. */
START_TEST(watermarks_lead_down_tier_by_tier)
{
    uint32_t in_memory = 0, there = 0, below = 0;
    open_world_with_host(16 << 20, 16);
    tier->config.high_percent = 50;
    tier->config.low_percent = 25;
    struct crn_entry *e[6];
    for (uint32_t i = 0; i < 6; i++) {
        e[i] = publish(i, false);
        crn_tier_tick(tier);
        AWAIT(tier->down_bytes == 0 && tier->sink_bytes == 0);
        ck_assert(i > 2 || gate_seen(CRN_SPILL_WRITE) == 0);
    }
    for (int i = 0; i < 4; i++) {
        crn_tier_tick(tier);
        AWAIT(tier->down_bytes == 0 && tier->sink_bytes == 0);
    }
    for (uint32_t i = 0; i < 6 * LAYERS; i++) {
        const struct crn_body *body = e[i / LAYERS]->body;
        const struct crn_payload *p = body != NULL ? body->kv[i % LAYERS] : NULL;
        in_memory += p != NULL && p->state == CRN_RESIDENT;
        there += p != NULL && p->state == CRN_SPILLED && p->host != NULL;
        below += p == NULL || p->tier == CAIRN_TIER_NVME;
    }
    ck_assert_msg(in_memory > 0 && there > 0 && below > 0, "%u %u %u", in_memory, there, below);
    ck_assert_uint_le(space.used_bytes, 16 * GRANULE);
    ck_assert_uint_le(space.host_used_bytes, 8 * GRANULE);
    for (uint32_t i = 0; i < 6; i++)
        read_back(e[i]);
    close_world();
}
END_TEST

/* The copy is being written to NVMe: that holds up no reader, and what was written counts. */
START_TEST(a_reader_does_not_wait_for_what_is_written_from_the_host_tier)
{
    struct outcome o;
    struct crn_entry *e = sinking(&o);
    struct crn_lease *lease = attach(e);
    for (uint32_t l = 0; l < LAYERS; l++) {
        AWAIT(progress(lease, l) == CRN_PROGRESS_READY);
        ck_assert(intact(e->body->kv[l]) && !crn_tier_all_placed(e));
    }
    ck_assert_uint_eq(space.host_used_bytes, LAYERS * GRANULE); /* the kernel reads them */
    gate_open();
    AWAIT(o.ended);
    ck_assert_int_eq(o.status, 0);
    ck_assert(e->durable);
    ck_assert_uint_eq(space.host_used_bytes, 0);
    for (uint32_t l = 0; l < LAYERS; l++)
        ck_assert(crn_tier_clean(e->body->kv[l]) && intact(e->body->kv[l]));
    crn_lease_end(&session, lease);
    int written = gate_seen(CRN_SPILL_WRITE);
    spill(e);
    ck_assert_int_eq(gate_seen(CRN_SPILL_WRITE), written); /* clean: no second write */
    read_back(e);
    close_world();
}
END_TEST

START_TEST(an_entry_dropped_while_its_copy_is_written_leaves_nothing)
{
    struct outcome o;
    struct crn_entry *e = sinking(&o);
    crn_space_remove(&space, e);
    ck_assert_uint_eq(space.host_used_bytes, LAYERS * GRANULE);
    gate_open();
    AWAIT(o.ended);
    AWAIT(tier->n_moves == 0);
    ck_assert_uint_eq(space.host_used_bytes, 0);
    ck_assert_uint_eq(crn_store_used_bytes(tier->store), 0);
    close_world();
}
END_TEST

START_TEST(a_failed_write_from_the_host_tier_leaves_the_copy_there)
{
    open_world_with_host(8 << 20, 16);
    struct crn_entry *e = publish(1, false);
    struct outcome o;
    to_host(e);
    gate_spoil(CRN_SPILL_WRITE, ANY_OFF, -ENOSPC);
    order_down(e, &o);
    AWAIT(o.ended);
    ck_assert_int_eq(o.status, -ENOSPC);
    for (uint32_t l = 0; l < LAYERS; l++)
        ck_assert(in_host(e->body->kv[l]));
    gate_spoil(0, 0, 0);
    tier->paused_until_ns = 0;
    spill(e);
    ck_assert_uint_eq(space.host_used_bytes, 0);
    read_back(e);
    close_world();
}
END_TEST

/* What is in the host tier only dies with the broker; what an order took on to NVMe does not. */
START_TEST(the_host_tier_does_not_survive_and_what_went_on_does)
{
    open_world_with_host(8 << 20, 16);
    struct crn_entry *lost = publish(1, false), *kept = publish(2, false);
    struct outcome o;
    to_host(lost);
    to_host(kept);
    order_down(kept, &o);
    AWAIT(o.ended);
    ck_assert(kept->durable && !lost->durable);
    close_tier();
    open_tier();
    ck_assert_uint_eq(space.entries.n, 1);
    ck_assert_uint_eq(tier->recovered, 1);
    uint32_t slot;
    read_back(crn_entries_walk(&space.entries, 0, &slot));
    close_world();
}
END_TEST

/* An order for NVMe that finds payloads on their way to the host tier takes them on from there. */
START_TEST(an_order_for_nvme_follows_what_is_going_to_the_host_tier)
{
    open_world_with_host(8 << 20, 16);
    struct crn_entry *e = publish(1, true);
    struct outcome first, second;
    ck_assert_int_eq(ask_to_host(e, &first), 0);
    order_down(e, &second);
    AWAIT(first.ended && second.ended);
    ck_assert_int_eq(second.status, 0);
    ck_assert(e->durable && on_nvme(e));
    ck_assert_uint_eq(space.host_used_bytes, 0);
    read_back(e);
    close_world();
}
END_TEST

START_TEST(int8_is_coded_from_the_host_tier)
{
    open_world_with_host(8 << 20, 16);
    struct crn_entry *e = publish(1, false);
    struct outcome o;
    to_host(e);
    uint64_t plain = e->body->kv[0]->bytes;
    order_down_as(e, true, &o);
    AWAIT(o.ended);
    ck_assert_int_eq(o.status, 0);
    struct crn_lease *lease = attach(e);
    for (uint32_t l = 0; l < LAYERS; l++) {
        AWAIT(progress(lease, l) == CRN_PROGRESS_READY);
        const struct crn_payload *p = e->body->kv[l];
        ck_assert(intact(p));
        ck_assert_int_eq(p->dtype, CAIRN_I8);
        ck_assert_uint_lt(p->bytes, plain / 2);
    }
    crn_lease_end(&session, lease);
    close_world();
}
END_TEST

/* A thread that verifies the entry reads the copy: a restore does not take it away. */
START_TEST(a_copy_that_is_being_verified_stays_until_the_end)
{
    open_world_with_host(8 << 20, 16);
    struct crn_entry *e = publish(1, false);
    to_host(e);
    struct crn_body *held = crn_body_hold(e->body);
    read_back(e);
    ck_assert_uint_eq(space.host_used_bytes, LAYERS * GRANULE);
    crn_body_drop(held);
    ck_assert_uint_eq(crn_tier_sink(&space, LAYERS * GRANULE), LAYERS * GRANULE); /* at once: memory has them */
    ck_assert_uint_eq(space.host_used_bytes, 0);
    ck_assert_int_eq(gate_seen(CRN_SPILL_WRITE), 0);
    read_back(e);
    close_world();
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(memory_goes_after_the_write_and_not_before),
        RUN_TEST(the_record_is_written_after_the_sync_of_all_payloads),
        RUN_TEST(an_entry_waits_for_its_last_payload),
        RUN_TEST(writes_that_end_in_reverse_order_each_free_their_own),
        RUN_TEST(restores_that_end_out_of_order_wake_only_their_own_layer),
        RUN_TEST(late_reads_hold_their_memory_although_the_reader_is_gone),
        RUN_TEST(an_entry_dropped_while_it_is_written_keeps_memory_and_extents_until_the_end),
        RUN_TEST(a_lease_taken_while_a_payload_goes_down_keeps_it_in_memory),
        RUN_TEST(attaches_share_one_restore_and_an_ended_one_is_not_told),
        RUN_TEST(steps_that_make_no_sense_are_refused),
        RUN_TEST(the_record_of_a_replaced_body_is_good_until_the_next_one_is),
        RUN_TEST(an_entry_replaced_twice_and_dropped_leaves_nothing),
        RUN_TEST(spilling_a_child_ends_when_its_whole_path_is_durable),
        RUN_TEST(spilling_a_child_whose_parent_cannot_be_written_says_so),
        RUN_TEST(a_cold_entry_is_recognised_without_memory),
        RUN_LOOP(int8_halves_what_goes_down_and_stays_when_it_is_back, 3),
        RUN_TEST(what_somebody_began_to_read_plain_stays_plain),
        RUN_LOOP(a_failed_write_leaves_the_payload_where_it_was, 2),
        RUN_LOOP(a_failed_read_is_a_miss_for_its_layer_and_ends_the_entry, 2),
        RUN_TEST(a_failed_sync_makes_nothing_durable_and_is_not_believed_later),
        RUN_TEST(a_full_catalogue_fails_the_order_and_keeps_what_there_is),
        RUN_LOOP(short_transfers_change_nothing, 2),
        RUN_TEST(the_deepest_layers_go_first_and_states_last),
        RUN_TEST(layers_that_no_reader_asks_for_go_first),
        RUN_TEST(arenas_are_offered_to_the_engine_when_they_fill),
        RUN_TEST(leased_and_pinned_payloads_stay),
        RUN_TEST(making_room_never_waits),
        RUN_TEST(one_pass_over_many_leaves_what_is_read_again),
        RUN_LOOP(the_host_tier_takes_payloads_and_gives_them_back_without_storage, 2),
        RUN_TEST(what_a_reader_wants_on_its_way_to_the_host_tier_stays),
        RUN_TEST(a_restore_does_not_wait_for_what_goes_down),
        RUN_TEST(a_full_host_tier_sends_its_coldest_on_to_nvme),
        RUN_TEST(without_nvme_a_full_host_tier_drops_its_coldest_entry),
        RUN_TEST(a_host_tier_full_of_what_must_stay_refuses),
        RUN_TEST(watermarks_lead_down_tier_by_tier),
        RUN_TEST(a_reader_does_not_wait_for_what_is_written_from_the_host_tier),
        RUN_TEST(an_entry_dropped_while_its_copy_is_written_leaves_nothing),
        RUN_TEST(a_failed_write_from_the_host_tier_leaves_the_copy_there),
        RUN_TEST(the_host_tier_does_not_survive_and_what_went_on_does),
        RUN_TEST(an_order_for_nvme_follows_what_is_going_to_the_host_tier),
        RUN_TEST(int8_is_coded_from_the_host_tier),
        RUN_TEST(a_copy_that_is_being_verified_stays_until_the_end),
    };
    return run_suite("broker_tier", tests, sizeof tests / sizeof *tests);
}
