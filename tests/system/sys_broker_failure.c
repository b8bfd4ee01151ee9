/* cairnd when things go wrong: workers killed, hostile bytes on both sockets, other users, a second broker, its own end. */
#include "ipc/control.h"
#include "ipc/counters.h"
#include "ipc/layout.h"
#include "tests/support/child.h"
#include "tests/support/daemon.h"
#include "tests/support/paths.h"
#include "tests/support/raw.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FAMILY 0xf0
#define SECOND UINT64_C(1000000000)
#define NOBODY 65534

static const char *const small[] = {"--memory", "16M", "--landing-max", "4M", NULL};
static const struct peer_model base = {1, FAMILY, RAW_SHAPE, "base", NULL};
static const struct peer_model tool = {0, 0, {0, 0, 0, 0}, NULL, NULL};

static struct daemon broker;

static void start(const char *const options[])
{
    broker = daemon_start(NULL, options);
    atexit(paths_tmp_remove);
}

static struct peer *joined(const struct peer_model *model)
{
    struct peer *p = peer_open(broker.socket);
    int status = peer_hello(p, model, 1, broker.socket);
    ck_assert_msg(status == 0, "hello: %s", p->error);
    return p;
}

/* Waits until a counter has this value; returns the nanoseconds it took. */
static uint64_t await_counter(struct peer *p, unsigned counter, uint64_t value)
{
    uint64_t from = crn_now_ns();
    while (peer_counter(p, counter) != value)
        ck_assert_msg(crn_now_ns() - from < 5 * SECOND, "counter %u stays at %llu", counter,
                      (unsigned long long)peer_counter(p, counter));
    return crn_now_ns() - from;
}

/* ---- death ---- */

struct worker {
    int attach; /* or draft */
    int ready;  /* pipe: one byte when it is where it should be */
};

static int worker_run(void *ctx)
{
    struct worker *w = ctx;
    struct peer *p = joined(&base);
    struct raw_draft d = {.salt = 2, .n_tokens = 64, .dtype = CAIRN_F16};
    struct raw_open o;
    struct raw_lease l;
    if (w->attach) {
        uint64_t entry;
        ck_assert_int_eq(raw_publish(p, &d, &entry), 0);
        ck_assert_int_eq(raw_attach(p, d.salt, FAMILY, 64, &l), 0);
    } else {
        ck_assert_int_eq(raw_open(p, &d, &o), 0);
        ck_assert_int_eq(raw_put(p, &d, &o, CRN_PAYLOAD_KV, 0), 0);
        struct crn_msg_put m = raw_rows(&d, &o, CRN_PAYLOAD_KV, 1);
        peer_send(p, CRN_MSG_put, &m); /* may be under way when we die */
    }
    ck_assert_int_eq(write(w->ready, "x", 1), 1);
    pause();
    return 0;
}

static pid_t worker_ready(int attach)
{
    int ends[2];
    char x;
    ck_assert_int_eq(pipe(ends), 0);
    struct worker w = {attach, ends[1]};
    pid_t pid = child_start(worker_run, &w);
    close(ends[1]);
    ck_assert_int_eq(read(ends[0], &x, 1), 1);
    close(ends[0]);
    return pid;
}

START_TEST(a_publisher_killed_in_its_draft_leaves_nothing)
{
    start(small);
    pid_t pid = worker_ready(0); /* before this process has threads */
    struct peer *p = joined(&base);
    ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_drafts), 1);
    ck_assert_uint_gt(peer_counter(p, CRN_COUNTER_used_bytes), 0);
    child_kill(pid);
    ck_assert_uint_lt(await_counter(p, CRN_COUNTER_drafts, 0), SECOND);
    ck_assert_uint_lt(await_counter(p, CRN_COUNTER_used_bytes, 0), SECOND);
    ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_landing_bytes), 0);
    ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_session_reaped_total), 1);
    ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_entries), 0);
    peer_close(p);
    ck_assert_int_eq(daemon_stop(&broker), 0);
}
END_TEST

START_TEST(leases_of_a_killed_reader_end_within_a_second)
{
    start(small);
    pid_t pid = worker_ready(1);
    struct peer *p = joined(&base);
    ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_leases), 1);
    child_kill(pid);
    ck_assert_uint_lt(await_counter(p, CRN_COUNTER_leases, 0), SECOND);
    ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_lease_reaped_total), 1);
    peer_close(p);
    ck_assert_int_eq(daemon_stop(&broker), 0);
}
END_TEST

START_TEST(a_closed_descriptor_channel_ends_its_session)
{
    start(small);
    struct peer *p = joined(&base), *q = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = 64, .dtype = CAIRN_F16};
    struct raw_lease l;
    uint64_t entry;
    ck_assert_int_eq(raw_publish(p, &d, &entry), 0);
    ck_assert_int_eq(raw_attach(q, 1, FAMILY, 64, &l), 0);
    close(q->fd_sock);
    q->fd_sock = -1;
    await_counter(p, CRN_COUNTER_sessions, 1);
    ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_leases), 0);
    ck_assert_int_eq(raw_attach(q, 1, FAMILY, 64, &l), CAIRN_E_STATE); /* before HELLO */
    peer_close(p);
    peer_close(q);
    ck_assert_int_eq(daemon_stop(&broker), 0);
}
END_TEST

START_TEST(a_silent_workers_lease_expires_on_its_control_page)
{
    static const char *const impatient[] = {"--memory", "16M", "--lease-ttl", "200ms", NULL};
    start(impatient);
    struct peer *p = joined(&base), *q = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = 64, .dtype = CAIRN_F16};
    struct raw_lease l;
    uint64_t entry;
    ck_assert_int_eq(raw_publish(p, &d, &entry), 0);
    ck_assert_int_eq(raw_attach(q, 1, FAMILY, 64, &l), 0);
    struct crn_control_slot *slot = crn_control_slot_at(&q->control, (uint32_t)l.msg.slot);
    ck_assert_uint_eq(atomic_load(&slot->epoch), l.msg.epoch);
    await_counter(p, CRN_COUNTER_lease_expired_total, 1);
    ck_assert_uint_ne(atomic_load(&slot->epoch), l.msg.epoch);
    ck_assert_int_eq(raw_release(q, &l), CAIRN_E_STALE);
    peer_close(p);
    peer_close(q);
    ck_assert_int_eq(daemon_stop(&broker), 0);
}
END_TEST

START_TEST(a_clean_end_says_so_on_every_control_page)
{
    struct stat st;
    char path[160];
    start(small);
    struct peer *p = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = 64, .dtype = CAIRN_F16};
    struct raw_lease l;
    uint64_t entry;
    ck_assert_int_eq(raw_publish(p, &d, &entry), 0);
    ck_assert_int_eq(raw_attach(p, 1, FAMILY, 64, &l), 0);
    peer_arena(p, l.payloads[0].arena);
    const struct crn_control_header *page = p->control.base;
    ck_assert_uint_eq(atomic_load(&page->alive), 1);
    ck_assert_int_eq(daemon_stop(&broker), 0);
    ck_assert_uint_eq(atomic_load(&page->alive), 0);
    ck_assert_int_eq(raw_check(p, &l, 1), 0); /* what is mapped stays readable */
    ck_assert_int_ne(stat(broker.socket, &st), 0);
    snprintf(path, sizeof path, "%s.fd", broker.socket);
    ck_assert_int_ne(stat(path, &st), 0);
    peer_close(p);
}
END_TEST

START_TEST(a_killed_broker_leaves_mappings_and_its_address_can_be_taken_again)
{
    start(small);
    struct peer *p = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = 64, .dtype = CAIRN_F16};
    struct raw_lease l, again;
    uint64_t entry;
    ck_assert_int_eq(raw_publish(p, &d, &entry), 0);
    ck_assert_int_eq(raw_attach(p, 1, FAMILY, 64, &l), 0);
    peer_arena(p, l.payloads[0].arena);
    uint64_t boot = p->welcome.boot;
    daemon_kill(&broker);
    ck_assert_int_eq(raw_check(p, &l, 1), 0);
    broker = daemon_start(broker.socket, small);
    struct peer *q = joined(&base);
    ck_assert_uint_ne(q->welcome.boot, boot);
    ck_assert_int_eq(raw_attach(q, 1, FAMILY, 64, &again), 0);
    ck_assert_uint_eq(again.msg.reason, CAIRN_REASON_NO_ENTRY);
    ck_assert_int_lt(raw_attach_entry(q, entry, 0, &again), 0);
    peer_close(p);
    peer_close(q);
    ck_assert_int_eq(daemon_stop(&broker), 0);
}
END_TEST

/* ---- who may ---- */

START_TEST(a_second_broker_on_one_address_refuses_to_start)
{
    char said[512];
    start(small);
    const char *const options[] = {"--socket", broker.socket, "--memory", "16M", NULL};
    ck_assert_int_eq(daemon_run(options, said, sizeof said), 1);
    ck_assert_ptr_nonnull(strstr(said, broker.socket));
    ck_assert_ptr_eq(strchr(said, '\n'), said + strlen(said) - 1); /* one line */
    struct peer *p = joined(&base);
    peer_close(p);
    ck_assert_int_eq(daemon_stop(&broker), 0);
}
END_TEST

START_TEST(a_directory_that_others_can_write_is_refused)
{
    char path[108], said[512];
    ck_assert_int_eq(chmod(paths_tmp(), 0777), 0);
    atexit(paths_tmp_remove);
    snprintf(path, sizeof path, "%s", paths_tmp_file("cairn.sock"));
    const char *const options[] = {"--socket", path, "--memory", "16M", NULL};
    ck_assert_int_eq(daemon_run(options, said, sizeof said), 1);
    ck_assert_ptr_nonnull(strstr(said, "0777"));
}
END_TEST

static int hello_as_nobody(void *ctx)
{
    const struct peer_model *model = ctx;
    if (setgid(NOBODY) != 0 || setuid(NOBODY) != 0)
        return 100;
    struct peer *p = peer_open(broker.socket);
    struct crn_msg_stat m = {0};
    uint8_t bytes[64];
    size_t n;
    ck_assert_int_eq(crn_wire_encode(CRN_MSG_stat, &m, bytes, sizeof bytes, &n), 0);
    int status = crn_chan_send(p->chan, bytes, n, crn_now_ns() + SECOND);
    if (status == CAIRN_E_GONE)
        return 1; /* not even connected */
    if (peer_recv(p, CRN_MSG_stats, NULL) != CAIRN_E_STATE)
        return 101;
    status = peer_hello(p, model, 1, broker.socket);
    return status == 0 ? 0 : status == CAIRN_E_DENIED ? 2 : 102;
}

START_TEST(another_user_gets_in_only_by_configuration_and_only_into_its_own_namespace)
{
    static const struct peer_model theirs = {1, FAMILY, RAW_SHAPE, "base", "theirs"};
    static const struct peer_model ours = {1, FAMILY, RAW_SHAPE, "base", "ours"};
    static const char *const shared[] = {"--memory", "16M", "--namespace", "ours",
                                         "--namespace", "theirs:uid=65534:memory=4M", NULL};
    struct peer_model model = base;
    if (getuid() != 0) {
        printf("SKIP needs root to become somebody else\n");
        return;
    }
    start(small);
    ck_assert_int_eq(chmod(paths_tmp_file(""), 0700), 0);
    ck_assert_int_eq(child_end(child_start(hello_as_nobody, &model)), 1);
    ck_assert_int_eq(daemon_stop(&broker), 0);
    broker = daemon_start(NULL, shared);
    model = theirs;
    ck_assert_int_eq(child_end(child_start(hello_as_nobody, &model)), 0);
    model = ours;
    ck_assert_int_eq(child_end(child_start(hello_as_nobody, &model)), 2);
    struct peer *p = peer_open(broker.socket);
    ck_assert_int_eq(peer_hello(p, &theirs, 0, broker.socket), CAIRN_E_DENIED);
    ck_assert_int_eq(peer_hello(p, &ours, 0, broker.socket), 0);
    peer_close(p);
    ck_assert_int_eq(daemon_stop(&broker), 0);
}
END_TEST

START_TEST(namespaces_never_meet)
{
    static const struct peer_model red = {1, FAMILY, RAW_SHAPE, "base", "red"};
    static const struct peer_model blue = {1, FAMILY, RAW_SHAPE, "base", "blue"};
    static const char *const two[] = {"--memory", "16M", "--namespace", "red", "--namespace",
                                      "blue", NULL};
    start(two);
    struct peer *p = joined(&red), *q = joined(&blue);
    struct raw_draft d = {.salt = 1, .n_tokens = 64, .dtype = CAIRN_F16};
    struct raw_lease l;
    struct crn_mem mem;
    uint64_t entry;
    ck_assert_int_eq(raw_publish(p, &d, &entry), 0);
    ck_assert_int_eq(raw_attach(q, 1, FAMILY, 64, &l), 0);
    ck_assert_uint_eq(l.msg.reason, CAIRN_REASON_NO_ENTRY);
    ck_assert_int_lt(raw_attach_entry(q, entry, CRN_ATTACH_INSPECT, &l), 0);
    ck_assert_int_eq(raw_attach(p, 1, FAMILY, 64, &l), 0);
    ck_assert_int_eq(peer_segment(q, CRN_FD_ARENA, l.payloads[0].arena, &mem), CAIRN_E_MISS);
    ck_assert_uint_eq(peer_counter(q, CRN_COUNTER_entries), 0);
    peer_close(p);
    peer_close(q);
    ck_assert_int_eq(daemon_stop(&broker), 0);
}
END_TEST

START_TEST(a_family_has_one_shape)
{
    static const struct peer_model twisted = {
        7, FAMILY, {RAW_LAYERS, 1, 64, RAW_HIDDEN}, "x", NULL};
    start(small);
    struct peer *p = joined(&base), *q = peer_open(broker.socket);
    ck_assert_int_eq(peer_hello(q, &twisted, 0, broker.socket), CAIRN_E_ARG);
    peer_close(p);
    peer_close(q);
    ck_assert_int_eq(daemon_stop(&broker), 0);
}
END_TEST

/* ---- hostile bytes ---- */

START_TEST(rubbish_on_the_socket_is_answered_or_dropped_and_harms_nobody)
{
    static uint8_t bytes[CRN_MESSAGE_MAX];
    start(small);
    struct rand r = rand_seeded(rand_default_seed());
    struct peer *p = joined(&base), *evil = joined(&base);
    struct crn_msg_match q;
    raw_query(1, FAMILY, 200, &q);
    size_t good;
    ck_assert_int_eq(crn_wire_encode(CRN_MSG_match, &q, bytes, sizeof bytes, &good), 0);
    for (int i = 0; i < 3000; i++) {
        uint8_t sent[1024];
        size_t n = i % 3 == 0 ? 1 + rand_below(&r, sizeof sent) : good;
        for (size_t b = 0; b < n; b++)
            sent[b] = i % 3 == 0 ? (uint8_t)rand_u64(&r) : bytes[b];
        sent[rand_below(&r, n)] ^= (uint8_t)(1 + rand_below(&r, 255));
        if (crn_chan_send(evil->chan, sent, n, crn_now_ns() + 10 * SECOND) != 0)
            break;
        if (i % 100 == 0)
            ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_sessions), 2);
        while (i % 16 == 0 && peer_hears(evil, 0) == 0)
            ;
    }
    ck_assert_uint_gt(peer_counter(p, CRN_COUNTER_bad_message_total), 0);
    struct raw_draft d = {.salt = 1, .n_tokens = 64, .dtype = CAIRN_F16};
    uint64_t entry;
    ck_assert_int_eq(raw_publish(p, &d, &entry), 0);
    peer_close(p);
    peer_close(evil);
    ck_assert_int_eq(daemon_stop(&broker), 0);
}
END_TEST

START_TEST(a_peer_that_never_reads_is_dropped)
{
    start(small);
    struct peer *p = joined(&base), *deaf = joined(&base);
    struct crn_msg_list m = {.what = CRN_LIST_ARENAS};
    uint8_t bytes[64];
    size_t n;
    ck_assert_int_eq(crn_wire_encode(CRN_MSG_list, &m, bytes, sizeof bytes, &n), 0);
    for (int i = 0; i < 200000 && peer_counter(p, CRN_COUNTER_sessions) == 2; i++) {
        for (int burst = 0; burst < 500; burst++) {
            if (crn_chan_send(deaf->chan, bytes, n, crn_now_ns() + SECOND / 100) != 0)
                break;
        }
    }
    await_counter(p, CRN_COUNTER_sessions, 1);
    peer_close(p);
    peer_close(deaf);
    ck_assert_int_eq(daemon_stop(&broker), 0);
}
END_TEST

START_TEST(requests_before_hello_and_after_bye_are_refused)
{
    start(small);
    struct peer *p = peer_open(broker.socket);
    struct crn_msg_stat m = {0};
    struct crn_msg_bye bye = {0};
    ck_assert_int_eq(peer_call(p, CRN_MSG_stat, &m, CRN_MSG_stats, NULL), CAIRN_E_STATE);
    ck_assert_int_eq(peer_hello(p, &tool, 0, broker.socket), 0);
    ck_assert_int_eq(peer_hello(p, &tool, 0, broker.socket), CAIRN_E_STATE);
    ck_assert_int_eq(peer_call(p, CRN_MSG_bye, &bye, CRN_MSG_ok, NULL), 0);
    ck_assert_int_eq(peer_call(p, CRN_MSG_stat, &m, CRN_MSG_stats, NULL), CAIRN_E_STATE);
    ck_assert_int_eq(peer_hello(p, &tool, 0, broker.socket), 0);
    peer_close(p);
    ck_assert_int_eq(daemon_stop(&broker), 0);
}
END_TEST

START_TEST(descriptors_go_only_to_the_holder_of_the_unused_token)
{
    start(small);
    struct peer *p = peer_open(broker.socket), *thief = peer_open(broker.socket);
    struct crn_mem mem;
    char path[160];
    snprintf(path, sizeof path, "%s.fd", broker.socket);
    ck_assert_int_eq(peer_hello(p, &base, 0, broker.socket), 0);
    ck_assert_int_eq(crn_fd_connect(path, &thief->fd_sock), 0);
    thief->welcome = p->welcome;
    ck_assert_int_eq(peer_segment(thief, CRN_FD_AUTH, p->welcome.session, &mem), CAIRN_E_DENIED);
    close(thief->fd_sock);
    ck_assert_int_eq(crn_fd_connect(path, &p->fd_sock), 0);
    ck_assert_int_eq(peer_segment(p, CRN_FD_AUTH, p->welcome.session, &p->control), 0);
    ck_assert_int_eq(peer_segment(p, CRN_FD_AUTH, p->welcome.session, &mem), CAIRN_E_STATE);
    ck_assert_int_eq(peer_segment(p, CRN_FD_LANDING, 1, &mem), CAIRN_E_MISS);
    ck_assert_int_eq(peer_segment(p, CRN_FD_ARENA, 77, &mem), CAIRN_E_MISS);
    ck_assert_int_eq(crn_fd_connect(path, &thief->fd_sock), 0);
    memcpy(thief->token, p->token, sizeof p->token); /* right, but used */
    ck_assert_int_eq(peer_segment(thief, CRN_FD_AUTH, p->welcome.session, &mem), CAIRN_E_DENIED);
    close(thief->fd_sock);
    ck_assert_int_eq(crn_fd_connect(path, &thief->fd_sock), 0);
    ck_assert_int_eq(write(thief->fd_sock, "rubbish", 7), 7);
    struct crn_fd_record record;
    int fd;
    ck_assert_int_eq(crn_fd_recv(thief->fd_sock, crn_now_ns() + 5 * SECOND, &record, &fd),
                     CAIRN_E_GONE);
    ck_assert_uint_eq(peer_counter(p, CRN_COUNTER_denied_total), 2);
    peer_close(p);
    peer_close(thief);
    ck_assert_int_eq(daemon_stop(&broker), 0);
}
END_TEST

START_TEST(lists_that_change_while_they_are_read_do_no_harm)
{
    start(small);
    struct peer *p = joined(&base);
    struct raw_draft d = {.salt = 1, .n_tokens = 256, .dtype = CAIRN_F32,
                           .pyramid = CAIRN_PYRAMID_PUBLISH};
    struct rand r = rand_seeded(rand_default_seed());
    for (int round = 0; round < 100; round++) {
        struct raw_open o;
        uint32_t counts[RAW_HEADS] = {100, 100};
        ck_assert_int_eq(raw_open(p, &d, &o), 0);
        struct crn_msg_put m = raw_rows(&d, &o, CRN_PAYLOAD_KV, 0);
        m.index_off = o.landing.bytes - 800;
        uint32_t *lists = (uint32_t *)(void *)((uint8_t *)o.landing.base + m.index_off);
        for (uint32_t i = 0; i < 200; i++)
            lists[i] = i % 100;
        m.counts = (struct crn_bytes){counts, sizeof counts};
        peer_send(p, CRN_MSG_put, &m);
        for (int i = 0; i < 2000; i++)
            ((_Atomic uint32_t *)(void *)lists)[rand_below(&r, 200)] = (uint32_t)rand_u64(&r);
        int status = peer_recv(p, CRN_MSG_put_done, NULL);
        ck_assert(status == 0 || status == CAIRN_E_ARG);
        struct crn_msg_abort gone = {.draft = o.draft};
        ck_assert_int_eq(peer_call(p, CRN_MSG_abort, &gone, CRN_MSG_ok, NULL), 0);
        o.landing.ops->destroy(&o.landing);
    }
    peer_close(p);
    ck_assert_int_eq(daemon_stop(&broker), 0);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(a_publisher_killed_in_its_draft_leaves_nothing),
        RUN_TEST(leases_of_a_killed_reader_end_within_a_second),
        RUN_TEST(a_closed_descriptor_channel_ends_its_session),
        RUN_TEST(a_silent_workers_lease_expires_on_its_control_page),
        RUN_TEST(a_clean_end_says_so_on_every_control_page),
        RUN_TEST(a_killed_broker_leaves_mappings_and_its_address_can_be_taken_again),
        RUN_TEST(a_second_broker_on_one_address_refuses_to_start),
        RUN_TEST(a_directory_that_others_can_write_is_refused),
        RUN_TEST(another_user_gets_in_only_by_configuration_and_only_into_its_own_namespace),
        RUN_TEST(namespaces_never_meet),
        RUN_TEST(a_family_has_one_shape),
        RUN_TEST(rubbish_on_the_socket_is_answered_or_dropped_and_harms_nobody),
        RUN_TEST(a_peer_that_never_reads_is_dropped),
        RUN_TEST(requests_before_hello_and_after_bye_are_refused),
        RUN_TEST(descriptors_go_only_to_the_holder_of_the_unused_token),
        RUN_TEST(lists_that_change_while_they_are_read_do_no_harm),
    };
    return run_suite("sys_broker_failure", tests, sizeof tests / sizeof *tests);
}
