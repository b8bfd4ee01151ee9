/* cairnd by its protocol alone: what is published comes back byte for byte under the class it deserves, and every refusal says
 * what is wrong. Raw messages, real processes; libcairn is not involved. */
#include "ipc/counters.h"
#include "ipc/hash.h"
#include "ipc/layout.h"
#include "tests/support/child.h"
#include "tests/support/daemon.h"
#include "tests/support/paths.h"
#include "tests/support/raw.h"
#include "tests/support/run.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAMILY 0xf0
#define HANDBOOK 200u

static const char *const small[] = {"--memory", "16M", "--landing-max", "4M", NULL};
static const struct peer_model base = {1, FAMILY, RAW_SHAPE, "base", NULL};
static const struct peer_model finder = {2, FAMILY, RAW_SHAPE, "finder", NULL};
static const struct peer_model tool = {0, 0, {0, 0, 0, 0}, NULL, NULL};

static struct daemon broker;

static void start(const char *const options[])
{
    broker = daemon_start(NULL, options);
    atexit(paths_tmp_remove);
}

static void stop(void)
{
    ck_assert_int_eq(daemon_stop(&broker), 0);
}

static struct peer *joined(const struct peer_model *model)
{
    struct peer *p = peer_open(broker.socket);
    int status = peer_hello(p, model, 1, broker.socket);
    ck_assert_msg(status == 0, "hello: %s", p->error);
    return p;
}

static uint64_t published(struct peer *p, const struct raw_draft *d)
{
    uint64_t entry = 0;
    int status = raw_publish(p, d, &entry);
    ck_assert_msg(status == 0, "publish: %s: %s", cairn_strerror(status), p->error);
    return entry;
}

static void attached(struct peer *p, unsigned salt, uint32_t n, struct raw_lease *l)
{
    int status = raw_attach(p, salt, FAMILY, n, l);
    ck_assert_msg(status == 0, "attach: %s", p->error);
}

static uint64_t stored_plan(struct peer *p, uint16_t first, uint16_t last, uint32_t quality)
{
    struct crn_plan_rec rec = {.first = first, .last = last, .quality_ppm = quality};
    memset(&rec.producer, base.model, sizeof rec.producer);
    memset(&rec.receiver, finder.model, sizeof rec.receiver);
    struct crn_msg_plan_put m = {.plan = {&rec, sizeof rec}};
    struct crn_msg_plan_stored r;
    ck_assert_int_eq(peer_call(p, CRN_MSG_plan_put, &m, CRN_MSG_plan_stored, &r), 0);
    return r.plan;
}

/* ---- reading what was written ---- */

START_TEST(published_bytes_come_back_as_they_were)
{
    static const uint32_t dtypes[] = {CAIRN_F32, CAIRN_F16, CAIRN_BF16};
    start(small);
    struct peer *p = joined(&base), *q = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = HANDBOOK, .dtype = dtypes[_i], .state_layer = 1};
    uint64_t entry = published(p, &d);
    struct raw_lease l;
    attached(q, 1, HANDBOOK, &l);
    ck_assert_uint_eq(l.msg.class_, CAIRN_CLASS_EXACT);
    ck_assert_uint_eq(l.n_path, 1);
    ck_assert_uint_eq(l.path[0].entry, entry);
    ck_assert_uint_eq(l.path[0].usable, HANDBOOK);
    ck_assert_uint_eq(l.n_payloads, 1 + RAW_LAYERS);
    ck_assert_uint_eq(l.payloads[0].kind, CRN_PAYLOAD_TOKENS);
    ck_assert_int_eq(raw_check(q, &l, 1), 0);
    ck_assert_int_ne(raw_check(q, &l, 2), 0);
    ck_assert_int_eq(raw_release(q, &l), 0);
    ck_assert_int_eq(raw_release(q, &l), CAIRN_E_STALE);
    peer_close(p);
    peer_close(q);
    stop();
}
END_TEST

START_TEST(a_release_that_wants_no_answer_gets_none)
{
    start(small);
    struct peer *p = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = HANDBOOK, .dtype = CAIRN_F16, .state_layer = 1};
    published(p, &d);
    struct raw_lease l;
    attached(p, 1, HANDBOOK, &l);
    struct crn_msg_release m = {.lease = l.msg.lease};
    peer_tell(p, CRN_MSG_release, &m);
    peer_tell(p, CRN_MSG_release, &m); /* fails, and that is nobody's business either */
    ck_assert_int_eq(raw_release(p, &l), CAIRN_E_STALE);
    ck_assert_int_eq(peer_hears(p, 100), CAIRN_E_TIMEOUT);
    struct crn_msg_stat stat = {0};
    peer_tell(p, CRN_MSG_stat, &stat); /* not one that OK answers */
    ck_assert_int_eq(peer_hears(p, 10000), 0);
    peer_close(p);
    stop();
}
END_TEST

START_TEST(a_match_ends_where_the_tokens_do)
{
    static const uint32_t lengths[] = {40, 64, 128, 190, 200, 300};
    static const uint32_t usable[] = {40, 64, 128, 190, 200, 200};
    start(small);
    struct peer *p = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = HANDBOOK, .dtype = CAIRN_F16};
    published(p, &d);
    struct raw_lease l;
    attached(p, 1, lengths[_i], &l);
    if (lengths[_i] < 64) { /* no whole chunk in common */
        ck_assert_uint_eq(l.msg.lease, 0);
        ck_assert_uint_eq(l.msg.reason, CAIRN_REASON_NO_ENTRY);
    } else {
        ck_assert_uint_eq(l.path[0].usable, usable[_i]);
    }
    peer_close(p);
    stop();
}
END_TEST

START_TEST(a_tail_that_differs_is_cut_by_the_broker)
{
    start(small);
    struct peer *p = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = HANDBOOK, .dtype = CAIRN_F16};
    published(p, &d);
    struct crn_msg_match q;
    struct crn_msg_matched r;
    struct crn_path_rec path[CAIRN_MAX_PATH];
    size_t n;
    raw_query(1, FAMILY, HANDBOOK, &q);
    int32_t tail[8];
    memcpy(tail, q.tail.p, sizeof tail); /* 200 - 192 */
    tail[3]++;
    q.tail.p = tail;
    ck_assert_int_eq(peer_call(p, CRN_MSG_match, &q, CRN_MSG_matched, &r), 0);
    ck_assert_int_eq(crn_wire_records(r.path, sizeof *path, CAIRN_MAX_PATH, path, &n), 0);
    ck_assert_uint_eq(n, 1);
    ck_assert_uint_eq(path[0].usable, 195);
    peer_close(p);
    stop();
}
END_TEST

START_TEST(children_continue_their_parents)
{
    start(small);
    struct peer *p = joined(&base);
    struct raw_draft root = {.salt = 1, .n_tokens = 100, .dtype = CAIRN_F16};
    struct raw_draft child = {.salt = 1, .n_tokens = 90, .start = 100, .dtype = CAIRN_F16};
    struct raw_draft leaf = {.salt = 1, .n_tokens = 10, .start = 180, .dtype = CAIRN_F16};
    child.parent = published(p, &root);
    leaf.parent = published(p, &child);
    published(p, &leaf);
    struct raw_lease l;
    attached(p, 1, 190, &l);
    ck_assert_uint_ge(l.n_path, 2);
    uint32_t end = 0;
    for (size_t i = 0; i < l.n_path; i++) {
        ck_assert_uint_eq(l.path[i].start, end);
        end += l.path[i].usable;
    }
    ck_assert_uint_eq(end, 190);
    ck_assert_int_eq(raw_check(p, &l, 1), 0);
    struct raw_draft lost = {.salt = 1, .n_tokens = 5, .start = 200, .dtype = CAIRN_F16};
    uint64_t none;
    lost.parent = leaf.parent;
    ck_assert_int_eq(raw_publish(p, &lost, &none), CAIRN_E_ARG);
    peer_close(p);
    stop();
}
END_TEST

START_TEST(contexts_shorter_than_a_chunk_are_told_apart_by_their_tokens)
{
    start(small);
    struct peer *p = joined(&base);
    for (unsigned salt = 1; salt < 6; salt++) {
        struct raw_draft d = {.salt = salt, .n_tokens = 20 + salt, .dtype = CAIRN_F32};
        published(p, &d);
    }
    for (unsigned salt = 1; salt < 6; salt++) {
        struct raw_lease l;
        attached(p, salt, 40, &l);
        ck_assert_uint_eq(l.n_path, 1);
        ck_assert_uint_eq(l.path[0].usable, 20 + salt);
        ck_assert_int_eq(raw_check(p, &l, salt), 0);
    }
    peer_close(p);
    stop();
}
END_TEST

/* ---- siblings ---- */

START_TEST(a_sibling_needs_a_plan_and_then_gets_its_state_first)
{
    start(small);
    struct peer *p = joined(&base), *q = joined(&finder);
    struct raw_draft d = {.salt = 1, .n_tokens = HANDBOOK, .dtype = CAIRN_F16, .state_layer = 1};
    published(p, &d);
    struct raw_lease l;
    attached(q, 1, HANDBOOK, &l);
    ck_assert_uint_eq(l.msg.class_, CAIRN_CLASS_NONE);
    ck_assert_uint_eq(l.msg.reason, CAIRN_REASON_NO_PLAN);
    ck_assert_uint_eq(l.msg.lease, 0);
    uint64_t no_state = stored_plan(q, 2, 2, 990000);
    attached(q, 1, HANDBOOK, &l);
    ck_assert_uint_eq(l.msg.reason, CAIRN_REASON_NO_STATE);
    uint64_t plan = stored_plan(q, 1, 1, 950000);
    attached(q, 1, HANDBOOK, &l);
    ck_assert_uint_eq(l.msg.class_, CAIRN_CLASS_APPROX);
    ck_assert_uint_eq(l.plan.id, plan);
    ck_assert_uint_eq(l.n_payloads, 4); /* tokens, state of 1, layers 0 and 2 */
    ck_assert_uint_eq(l.payloads[1].kind, CRN_PAYLOAD_STATE);
    ck_assert_uint_eq(l.payloads[2].layer, 0);
    ck_assert_uint_eq(l.payloads[3].layer, 2);
    ck_assert_int_eq(raw_check(q, &l, 1), 0);
    struct crn_msg_match strict;
    struct crn_msg_matched r;
    raw_query(1, FAMILY, HANDBOOK, &strict);
    strict.min_quality = 960000;
    ck_assert_int_eq(peer_call(q, CRN_MSG_match, &strict, CRN_MSG_matched, &r), 0);
    ck_assert_uint_eq(r.class_, CAIRN_CLASS_NONE);
    ck_assert_uint_eq(peer_counter(q, CRN_COUNTER_match_approx_total), 1);
    ck_assert_uint_ne(no_state, plan);
    peer_close(p);
    peer_close(q);
    stop();
}
END_TEST

START_TEST(a_draft_learns_which_states_and_budgets_its_plans_want)
{
    start(small);
    struct peer *p = joined(&base);
    struct crn_budget_rec budgets[] = {{0, 0, 100000}, {2, 2, 300000}};
    struct crn_plan_rec rec = {.first = 1, .last = 1, .quality_ppm = 900000};
    memset(&rec.producer, base.model, sizeof rec.producer);
    memset(&rec.receiver, finder.model, sizeof rec.receiver);
    struct crn_msg_plan_put m = {.plan = {&rec, sizeof rec}, .budgets = {budgets, sizeof budgets}};
    ck_assert_int_eq(peer_call(p, CRN_MSG_plan_put, &m, CRN_MSG_plan_stored, NULL), 0);
    struct raw_draft d = {.salt = 1, .n_tokens = 64, .dtype = CAIRN_F16};
    struct raw_open o;
    ck_assert_int_eq(raw_open(p, &d, &o), 0);
    ck_assert_uint_eq(o.n_states, 1);
    ck_assert_uint_eq(o.states[0], 1);
    ck_assert_uint_eq(o.n_budgets, 2);
    ck_assert_uint_eq(o.budgets[1].first, 2);
    ck_assert_uint_eq(o.budgets[1].keep_ppm, 300000);
    peer_close(p);
    stop();
}
END_TEST

START_TEST(a_state_map_survives_until_its_plan_is_dropped)
{
    enum { BYTES = RAW_HIDDEN * (RAW_HIDDEN + 1) * 4 };
    start(small);
    struct peer *p = joined(&base);
    struct crn_msg_landing zone = {.put_bytes = BYTES};
    struct crn_msg_landed landed;
    struct crn_mem mem;
    ck_assert_int_eq(peer_call(p, CRN_MSG_landing, &zone, CRN_MSG_landed, &landed), 0);
    ck_assert_int_eq(peer_segment(p, CRN_FD_LANDING, landed.landing, &mem), 0);
    for (size_t i = 0; i < BYTES; i++)
        ((uint8_t *)mem.base)[i] = (uint8_t)(i * 7);
    struct crn_plan_rec rec = {.first = 1, .last = 1, .map_dtype = CAIRN_F32};
    struct crn_msg_plan_put m = {
        .plan = {&rec, sizeof rec}, .landing = landed.landing, .bytes = BYTES - 4};
    struct crn_msg_plan_stored stored;
    ck_assert_int_eq(peer_call(p, CRN_MSG_plan_put, &m, CRN_MSG_plan_stored, &stored), CAIRN_E_ARG);
    m.bytes = BYTES;
    ck_assert_int_eq(peer_call(p, CRN_MSG_plan_put, &m, CRN_MSG_plan_stored, &stored), 0);
    struct crn_msg_plan_get get = {.plan = stored.plan, .with_info = 1};
    struct crn_msg_plan_list list;
    size_t n;
    ck_assert_int_eq(peer_call(p, CRN_MSG_plan_get, &get, CRN_MSG_plan_list, &list), 0);
    ck_assert_int_eq(crn_wire_records(list.plans, sizeof rec, 1, &rec, &n), 0);
    ck_assert_uint_eq(rec.map_bytes, BYTES);
    ck_assert_mem_eq(peer_arena(p, rec.map_arena) + rec.map_off, mem.base, BYTES);
    ck_assert_uint_eq(rec.map_checksum, crn_hash64(mem.base, BYTES));
    struct crn_msg_plan_drop drop = {.plan = stored.plan};
    ck_assert_int_eq(peer_call(p, CRN_MSG_plan_drop, &drop, CRN_MSG_ok, NULL), 0);
    ck_assert_int_eq(peer_call(p, CRN_MSG_plan_drop, &drop, CRN_MSG_ok, NULL), CAIRN_E_MISS);
    ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_used_bytes), 0);
    mem.ops->destroy(&mem);
    peer_close(p);
    stop();
}
END_TEST

/* ---- drafts ---- */

START_TEST(nothing_is_visible_before_commit_and_a_missing_layer_is_named)
{
    start(small);
    struct peer *p = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = 64, .dtype = CAIRN_F16};
    struct raw_open o;
    struct raw_lease l;
    uint64_t entry;
    ck_assert_int_eq(raw_open(p, &d, &o), 0);
    ck_assert_int_eq(raw_put(p, &d, &o, CRN_PAYLOAD_TOKENS, 0), 0);
    ck_assert_int_eq(raw_put(p, &d, &o, CRN_PAYLOAD_KV, 0), 0);
    ck_assert_int_eq(raw_put(p, &d, &o, CRN_PAYLOAD_KV, 2), 0);
    ck_assert_int_eq(raw_put(p, &d, &o, CRN_PAYLOAD_KV, 2), CAIRN_E_STATE);
    attached(p, 1, 64, &l);
    ck_assert_uint_eq(l.msg.class_, CAIRN_CLASS_NONE);
    ck_assert_int_eq(raw_commit(p, &d, &o, &entry), CAIRN_E_STATE);
    ck_assert_ptr_nonnull(strstr(p->error, "layer 1 "));
    ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_used_bytes), 0);
    ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_drafts), 0);
    peer_close(p);
    stop();
}
END_TEST

START_TEST(the_same_context_is_kept_once)
{
    start(small);
    struct peer *p = joined(&base), *q = joined(&base);
    struct crn_msg_match m;
    raw_query(1, FAMILY, HANDBOOK, &m);
    struct raw_draft d = {.salt = 1, .n_tokens = HANDBOOK, .dtype = CAIRN_F16,
                           .flags = CRN_DRAFT_EXCLUSIVE};
    memcpy(&d.first_hash, (const uint8_t *)m.hashes.p + m.hashes.n - 8, 8);
    struct raw_open first, second;
    ck_assert_int_eq(raw_open(p, &d, &first), 0);
    ck_assert_int_eq(raw_open(q, &d, &second), CAIRN_E_BUSY);
    struct crn_msg_abort gone = {.draft = first.draft};
    ck_assert_int_eq(peer_call(p, CRN_MSG_abort, &gone, CRN_MSG_ok, NULL), 0);
    uint64_t entry = published(p, &d);
    ck_assert_int_eq(raw_open(q, &d, &second), CAIRN_E_EXISTS);
    d.flags = 0;
    ck_assert_uint_eq(published(q, &d), entry);
    ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_entries), 1);
    peer_close(p);
    peer_close(q);
    stop();
}
END_TEST

static int put_broken(struct peer *p, const struct raw_draft *d, const struct raw_open *o, int how)
{
    uint32_t counts[RAW_HEADS] = {3, 3};
    struct crn_msg_put m = raw_rows(d, o, CRN_PAYLOAD_KV, (uint32_t)how % RAW_LAYERS);
    m.index_off = o->landing.bytes - 64;
    uint32_t *lists = (uint32_t *)(void *)((uint8_t *)o->landing.base + m.index_off);
    int32_t *pos = (int32_t *)(void *)((uint8_t *)o->landing.base + m.pos_off);
    memcpy(lists, (uint32_t[]){0, 1, 2, 0, 1, 2}, 24);
    m.counts = (struct crn_bytes){counts, sizeof counts};
    switch (how) {
    case 0: m.off = o->landing.bytes; break;
    case 1: m.bytes = UINT64_MAX; break;
    case 2: m.rows++; break;
    case 3: m.row_stride = 1; break;
    case 4: m.row_stride = CAIRN_MAX_TOKENS; break;
    case 5: m.src_dtype = CAIRN_I8; break;
    case 6: m.dst_dtype = 7; break;
    case 7: m.layer = RAW_LAYERS; break;
    case 8: m.kind = CRN_PAYLOAD_BLOB; break;
    case 9: m.index_off = o->landing.bytes - 20; break;
    case 10: m.index_off = UINT64_MAX - 3; break;
    case 11: m.pos_off = o->landing.bytes - 4; break;
    case 12: lists[1] = 0; break;
    case 13: lists[5] = d->n_tokens; break;
    case 14: pos[1] = pos[0]; break;
    case 15: pos[d->n_tokens - 1] = (int32_t)d->n_tokens; break;
    case 16: pos[0] = -1; break;
    case 17: counts[1] = d->n_tokens + 1; break;
    case 18: m.counts.n = 4; break;
    case 19: counts[1] = 2; m.shared_index = 1; break;
    case 20: m.bytes = 0; break;
    default: m.draft++; break;
    }
    return peer_call(p, CRN_MSG_put, &m, CRN_MSG_put_done, NULL);
}
#define BROKEN_PUTS 22

START_TEST(a_put_that_lies_is_refused_with_a_reason)
{
    start(small);
    struct peer *p = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = 64, .dtype = CAIRN_F16,
                           .pyramid = CAIRN_PYRAMID_PUBLISH};
    for (int how = 0; how < BROKEN_PUTS; how++) {
        struct raw_open o;
        uint64_t entry;
        ck_assert_int_eq(raw_open(p, &d, &o), 0);
        int status = put_broken(p, &d, &o, how);
        ck_assert_msg(status < 0 && p->error[0] != '\0', "lie %d: %s", how,
                      cairn_strerror(status));
        ck_assert_int_lt(raw_commit(p, &d, &o, &entry), 0);
    }
    ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_used_bytes), 0);
    struct raw_draft good = {.salt = 1, .n_tokens = 64, .dtype = CAIRN_F16};
    published(p, &good);
    peer_close(p);
    stop();
}
END_TEST

START_TEST(a_commit_waits_for_the_puts_before_it)
{
    start(small);
    struct peer *p = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = 64, .dtype = CAIRN_F16};
    struct raw_open o;
    ck_assert_int_eq(raw_open(p, &d, &o), 0);
    struct crn_msg_put tokens = raw_rows(&d, &o, CRN_PAYLOAD_TOKENS, 0);
    ck_assert_int_eq(peer_call(p, CRN_MSG_put, &tokens, CRN_MSG_put_done, NULL), 0);
    struct crn_msg_commit commit = {.draft = o.draft};
    for (uint32_t l = 0; l < RAW_LAYERS; l++) {
        struct crn_msg_put m = raw_rows(&d, &o, CRN_PAYLOAD_KV, 0);
        m.layer = l;
        peer_send(p, CRN_MSG_put, &m);
    }
    peer_send(p, CRN_MSG_commit, &commit);
    for (uint32_t l = 0; l < RAW_LAYERS; l++)
        ck_assert_int_eq(peer_recv(p, CRN_MSG_put_done, NULL), 0);
    ck_assert_int_eq(peer_recv(p, CRN_MSG_committed, NULL), 0);
    peer_close(p);
    stop();
}
END_TEST

START_TEST(a_state_beyond_f16_is_kept_as_bf16)
{
    start(small);
    struct peer *p = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = 64, .dtype = CAIRN_F16};
    struct raw_open o;
    uint64_t entry;
    ck_assert_int_eq(raw_open(p, &d, &o), 0);
    struct crn_msg_put m = raw_rows(&d, &o, CRN_PAYLOAD_STATE, 1);
    ((float *)o.landing.base)[5] = 70000.0f;
    ck_assert_int_eq(peer_call(p, CRN_MSG_put, &m, CRN_MSG_put_done, NULL), 0);
    ck_assert_int_eq(raw_put(p, &d, &o, CRN_PAYLOAD_STATE, 2), 0);
    ck_assert_int_eq(raw_put(p, &d, &o, CRN_PAYLOAD_TOKENS, 0), 0);
    for (uint32_t l = 0; l < RAW_LAYERS; l++)
        ck_assert_int_eq(raw_put(p, &d, &o, CRN_PAYLOAD_KV, l), 0);
    ck_assert_int_eq(raw_commit(p, &d, &o, &entry), 0);
    struct raw_lease l;
    ck_assert_int_eq(raw_attach_entry(p, entry, CRN_ATTACH_INSPECT, &l), 0);
    ck_assert_uint_eq(l.payloads[1].dtype, CAIRN_BF16);
    ck_assert_uint_eq(l.payloads[2].dtype, CAIRN_F16);
    peer_close(p);
    stop();
}
END_TEST

START_TEST(a_session_keeps_its_landing_zone_for_its_next_draft)
{
    start(small);
    struct peer *p = joined(&base), *q = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = 64, .dtype = CAIRN_F16};
    struct raw_open first, second, third;
    uint64_t entry;
    ck_assert_int_eq(raw_open(p, &d, &first), 0);
    ck_assert_int_eq(raw_open(p, &(struct raw_draft){.salt = 2, .n_tokens = 64}, &second), 0);
    ck_assert_uint_ne(second.reply.landing, first.reply.landing); /* both are open */
    ck_assert_int_eq(raw_put(p, &d, &first, CRN_PAYLOAD_TOKENS, 0), 0);
    for (uint32_t l = 0; l < RAW_LAYERS; l++)
        ck_assert_int_eq(raw_put(p, &d, &first, CRN_PAYLOAD_KV, l), 0);
    ck_assert_int_eq(raw_commit(p, &d, &first, &entry), 0);
    d.salt = 3;
    ck_assert_int_eq(raw_open(q, &d, &third), 0);
    ck_assert_uint_ne(third.reply.landing, first.reply.landing); /* another worker */
    third.landing.ops->destroy(&third.landing);
    ck_assert_int_eq(raw_open(p, &d, &third), 0);
    ck_assert_uint_eq(third.reply.landing, first.reply.landing);
    ck_assert_int_eq(raw_put(p, &d, &third, CRN_PAYLOAD_TOKENS, 0), 0);
    for (uint32_t l = 0; l < RAW_LAYERS; l++)
        ck_assert_int_eq(raw_put(p, &d, &third, CRN_PAYLOAD_KV, l), 0);
    ck_assert_int_eq(raw_commit(p, &d, &third, &entry), 0);
    struct raw_lease l;
    ck_assert_int_eq(raw_attach(p, 3, 1, 64, &l), 0);
    ck_assert_int_eq(raw_check(p, &l, 3), 0);
    second.landing.ops->destroy(&second.landing);
    peer_close(q);
    peer_close(p);
    stop();
}
END_TEST

/* ---- replacing ---- */

/* Compresses an entry in place: head h of every layer keeps rows h, h + 2, h + 4, ... */
static int compress(struct peer *p, uint64_t entry, uint32_t n_tokens, uint64_t *out_entry)
{
    struct crn_msg_draft m = {.n_tokens = n_tokens,
                              .pyramid = CAIRN_PYRAMID_PUBLISH,
                              .replaces = entry,
                              .bytes = 4096,
                              .put_bytes = 65536,
                              .n_layers = RAW_LAYERS};
    struct crn_msg_drafted r;
    struct crn_mem zone;
    int status = peer_call(p, CRN_MSG_draft, &m, CRN_MSG_drafted, &r);
    if (status != 0)
        return status;
    ck_assert_int_eq(peer_segment(p, CRN_FD_LANDING, r.landing, &zone), 0);
    uint32_t *lists = zone.base, n = 0, counts[RAW_HEADS];
    for (uint32_t h = 0; h < RAW_HEADS; h++) {
        counts[h] = 0;
        for (uint32_t row = h; row < n_tokens; row += 2 + h, counts[h]++)
            lists[n++] = row;
    }
    for (uint32_t l = 0; l < RAW_LAYERS && status == 0; l++) {
        struct crn_msg_put put = {.draft = r.draft, .kind = CRN_PAYLOAD_KV, .layer = l,
                                  .counts = {counts, sizeof counts}};
        status = peer_call(p, CRN_MSG_put, &put, CRN_MSG_put_done, NULL);
    }
    zone.ops->destroy(&zone);
    struct crn_msg_commit commit = {.draft = r.draft};
    struct crn_msg_committed done;
    if (status == 0)
        status = peer_call(p, CRN_MSG_commit, &commit, CRN_MSG_committed, &done);
    if (status == 0)
        *out_entry = done.entry;
    return status;
}

START_TEST(compressing_makes_a_new_generation_and_old_readers_go_on)
{
    start(small);
    struct peer *p = joined(&base), *reader = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = HANDBOOK, .dtype = CAIRN_F16, .state_layer = 1};
    uint64_t entry = published(p, &d), smaller = 0;
    struct raw_lease before, after;
    attached(reader, 1, HANDBOOK, &before);
    ck_assert_int_eq(compress(p, entry, HANDBOOK, &smaller), 0);
    ck_assert_uint_ne(smaller, entry);
    ck_assert_int_eq(raw_attach_entry(reader, entry, 0, &after), CAIRN_E_STALE);
    ck_assert_int_eq(raw_check(reader, &before, 1), 0);
    attached(reader, 1, HANDBOOK, &after);
    ck_assert_uint_eq(after.path[0].entry, smaller);
    ck_assert_uint_eq(after.path[0].pyramid, CAIRN_PYRAMID_PUBLISH);
    ck_assert_uint_eq(after.payloads[1].one_count, 0);
    ck_assert_uint_eq(after.counts[after.payloads[1].counts + 1], (HANDBOOK - 1 + 2) / 3);
    ck_assert_int_eq(raw_check(reader, &after, 1), 0);
    uint64_t used = peer_counter(p, CRN_COUNTER_used_bytes);
    ck_assert_int_eq(raw_release(reader, &before), 0);
    ck_assert_uint_lt(peer_counter(p, CRN_COUNTER_used_bytes), used);
    ck_assert_int_eq(compress(p, entry, HANDBOOK, &smaller), CAIRN_E_STALE);
    peer_close(p);
    peer_close(reader);
    stop();
}
END_TEST

START_TEST(only_the_producer_compresses)
{
    start(small);
    struct peer *p = joined(&base), *q = joined(&finder);
    struct raw_draft d = {.salt = 1, .n_tokens = 64, .dtype = CAIRN_F16};
    uint64_t entry = published(p, &d);
    ck_assert_int_eq(compress(q, entry, 64, &entry), CAIRN_E_DENIED);
    peer_close(p);
    peer_close(q);
    stop();
}
END_TEST

/* ---- room ---- */

START_TEST(what_is_leased_or_pinned_stays_and_the_rest_makes_room)
{
    static const char *const tiny[] = {"--memory", "1M", "--landing-max", "1M", NULL};
    start(tiny); /* 16 granules; an entry takes 4 */
    struct peer *p = joined(&base);
    struct raw_lease leases[4];
    uint64_t entry;
    for (unsigned salt = 0; salt < 4; salt++) {
        struct raw_draft d = {.salt = salt, .n_tokens = 64, .dtype = CAIRN_F16,
                               .commit_flags = salt == 0 ? CRN_COMMIT_PIN : 0};
        published(p, &d);
        if (salt != 0)
            attached(p, salt, 64, &leases[salt]);
    }
    struct raw_draft more = {.salt = 9, .n_tokens = 64, .dtype = CAIRN_F16};
    ck_assert_int_eq(raw_publish(p, &more, &entry), CAIRN_E_FULL);
    ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_evicted_total), 0);
    ck_assert_uint_ge(peer_counter(p, CRN_COUNTER_full_total), 1);
    for (unsigned salt = 1; salt < 4; salt++)
        ck_assert_int_eq(raw_check(p, &leases[salt], salt), 0);
    ck_assert_int_eq(raw_release(p, &leases[2]), 0);
    published(p, &more);
    attached(p, 2, 64, &leases[2]);
    ck_assert_uint_eq(leases[2].msg.class_, CAIRN_CLASS_NONE);
    attached(p, 0, 64, &leases[0]);
    ck_assert_uint_eq(leases[0].msg.class_, CAIRN_CLASS_EXACT);
    peer_close(p);
    stop();
}
END_TEST

START_TEST(an_evicted_id_is_stale_and_never_another_entry)
{
    start(small);
    struct peer *p = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = 64, .dtype = CAIRN_F16};
    uint64_t entry = published(p, &d);
    struct crn_msg_evict m = {.entry = entry};
    struct crn_msg_evicted r;
    ck_assert_int_eq(peer_call(p, CRN_MSG_evict, &m, CRN_MSG_evicted, &r), 0);
    ck_assert_uint_eq(r.entries, 1);
    d.salt = 2;
    ck_assert_uint_ne(published(p, &d), entry);
    struct raw_lease l;
    ck_assert_int_eq(raw_attach_entry(p, entry, 0, &l), CAIRN_E_STALE);
    ck_assert_int_eq(raw_attach_entry(p, UINT64_C(0x7fffffff000001), 0, &l), CAIRN_E_MISS);
    m.entry = 0;
    m.all = 1;
    ck_assert_int_eq(peer_call(p, CRN_MSG_evict, &m, CRN_MSG_evicted, &r), 0);
    ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_used_bytes), 0);
    peer_close(p);
    stop();
}
END_TEST

/* ---- operations ---- */

START_TEST(tools_see_entries_sessions_models_and_checksums)
{
    start(small);
    struct peer *p = joined(&base), *t = peer_open(broker.socket);
    ck_assert_int_eq(peer_hello(t, &tool, 0, broker.socket), 0);
    struct raw_draft d = {.salt = 1, .n_tokens = HANDBOOK, .dtype = CAIRN_F16, .state_layer = 2};
    uint64_t entry = published(p, &d);
    struct crn_msg_list m = {.what = CRN_LIST_ENTRIES};
    struct crn_msg_listed r;
    struct crn_entry_rec rec;
    ck_assert_int_eq(peer_call(t, CRN_MSG_list, &m, CRN_MSG_listed, &r), 0);
    ck_assert_uint_eq(r.recs.n, sizeof rec);
    memcpy(&rec, r.recs.p, sizeof rec);
    ck_assert_uint_eq(rec.entry, entry);
    ck_assert_str_eq(rec.label, "base");
    ck_assert_uint_eq(rec.n_states, 1);
    static const size_t sizes[] = {sizeof(struct crn_session_rec) * 2, sizeof(struct crn_model_rec),
                                   sizeof(struct crn_arena_rec)};
    for (unsigned i = 0; i < 3; i++) {
        m.what = CRN_LIST_SESSIONS + i;
        ck_assert_int_eq(peer_call(t, CRN_MSG_list, &m, CRN_MSG_listed, &r), 0);
        ck_assert_uint_eq(r.recs.n, sizes[i]);
    }
    struct crn_msg_show show = {.entry = entry};
    struct crn_msg_shown shown;
    ck_assert_int_eq(peer_call(t, CRN_MSG_show, &show, CRN_MSG_shown, &shown), 0);
    ck_assert_uint_eq(shown.payloads.n, (2 + RAW_LAYERS) * sizeof(struct crn_payload_rec));
    struct crn_msg_verify verify = {0};
    struct crn_msg_verified verified;
    ck_assert_int_eq(peer_call(t, CRN_MSG_verify, &verify, CRN_MSG_verified, &verified), 0);
    ck_assert_uint_eq(verified.payloads, 2 + RAW_LAYERS);
    ck_assert_uint_eq(verified.bad, 0);
    ck_assert_uint_eq(verified.next, 0);
    struct crn_msg_match q;
    raw_query(1, FAMILY, HANDBOOK, &q);
    ck_assert_int_eq(peer_call(t, CRN_MSG_match, &q, CRN_MSG_matched, NULL), CAIRN_E_DENIED);
    peer_close(p);
    peer_close(t);
    stop();
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(published_bytes_come_back_as_they_were, 3),
        RUN_TEST(a_release_that_wants_no_answer_gets_none),
        RUN_LOOP(a_match_ends_where_the_tokens_do, 6),
        RUN_TEST(a_tail_that_differs_is_cut_by_the_broker),
        RUN_TEST(children_continue_their_parents),
        RUN_TEST(contexts_shorter_than_a_chunk_are_told_apart_by_their_tokens),
        RUN_TEST(a_sibling_needs_a_plan_and_then_gets_its_state_first),
        RUN_TEST(a_draft_learns_which_states_and_budgets_its_plans_want),
        RUN_TEST(a_state_map_survives_until_its_plan_is_dropped),
        RUN_TEST(nothing_is_visible_before_commit_and_a_missing_layer_is_named),
        RUN_TEST(the_same_context_is_kept_once),
        RUN_TEST(a_put_that_lies_is_refused_with_a_reason),
        RUN_TEST(a_commit_waits_for_the_puts_before_it),
        RUN_TEST(a_state_beyond_f16_is_kept_as_bf16),
        RUN_TEST(a_session_keeps_its_landing_zone_for_its_next_draft),
        RUN_TEST(compressing_makes_a_new_generation_and_old_readers_go_on),
        RUN_TEST(only_the_producer_compresses),
        RUN_TEST(what_is_leased_or_pinned_stays_and_the_rest_makes_room),
        RUN_TEST(an_evicted_id_is_stale_and_never_another_entry),
        RUN_TEST(tools_see_entries_sessions_models_and_checksums),
    };
    return run_suite("sys_broker_protocol", tests, sizeof tests / sizeof *tests);
}
