/* What goes wrong, with real processes: workers and brokers that die, hang, are too slow, are strangers, or send rubbish. The rule
 * under test: Cairn may make a request slower, never wrong, and never fails or hangs it. */
#include "client/cairn.h"
#include "ipc/chan.h"
#include "ipc/fdchan.h"
#include "tests/support/broker.h"
#include "tests/support/child.h"
#include "tests/support/run.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define N 200u
#define MS UINT64_C(1000000)
#define ROWS_BYTES (2u * TINY_HEADS * N * TINY_DIM * sizeof(float)) /* K and V of a layer */

static const char *const small[] = {"--memory", "16M", "--log-level", "error", NULL};
static const char *const tight[] = {"--memory", "1M", "--arena-size", "1M", "--log-level", "error", NULL};

static int32_t context[N];

struct scene {
    struct broker b;
    int pipe[2]; /* a child says "ready" */
    uint32_t seed;
};

static void tell(const struct scene *s)
{
    if (write(s->pipe[1], "x", 1) != 1)
        _exit(9);
}

static void hear(const struct scene *s)
{
    char byte;
    struct pollfd p = {.fd = s->pipe[0], .events = POLLIN};
    ck_assert_int_eq(poll(&p, 1, 20000), 1);
    ck_assert_int_eq(read(s->pipe[0], &byte, 1), 1);
}

static void wait_for_ever(void)
{
    for (;;)
        pause();
}

static void scene_start(struct scene *s, const char *const *options)
{
    broker_start(&s->b, options);
    ck_assert_int_eq(pipe(s->pipe), 0);
    tiny_tokens(context, N, 77);
}

static struct cairn_entry_id publish(struct cairn_client *client, uint32_t seed)
{
    struct cairn_entry_id entry;
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N};
    tiny_tokens(context, N, seed);
    ck_assert_msg(tiny_publish(client, &e, &entry) == 0, "%s", cairn_error(client));
    return entry;
}

/* ---- workers that die ---- */

static int die_in_draft(void *ctx)
{
    struct scene *s = ctx;
    struct cairn_client *client = tiny_open(&s->b, 1);
    struct cairn_draft *draft;
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N};
    ck_assert_int_eq(tiny_draft(client, &e, &draft), 0);
    ck_assert_int_eq(tiny_put_layer(draft, &e, 0), 0);
    ck_assert_int_eq(tiny_put_layer(draft, &e, 1), 0);
    tell(s);
    wait_for_ever();
    return 1;
}

START_TEST(a_publisher_killed_in_its_draft_leaves_nothing_behind)
{
    struct scene s;
    struct cairn_lease *lease;
    scene_start(&s, small);
    pid_t publisher = child_start(die_in_draft, &s);
    hear(&s);
    ck_assert_uint_eq(broker_counter(&s.b, "drafts"), 1);
    child_kill(publisher);
    uint64_t killed_ns = crn_now_ns();
    broker_await(&s.b, "drafts", 0);
    ck_assert_uint_lt(crn_now_ns() - killed_ns, 1000 * MS);
    broker_await(&s.b, "used_bytes", 0);
    ck_assert_uint_eq(broker_counter(&s.b, "landing_bytes"), 0);
    struct cairn_client *client = tiny_open(&s.b, 1);
    ck_assert_int_eq(tiny_attach(client, context, N, &lease), CAIRN_E_MISS);
    publish(client, 77);
    cairn_close(client);
    broker_stop(&s.b);
}
END_TEST

static int die_with_lease(void *ctx)
{
    struct scene *s = ctx;
    struct cairn_client *client = tiny_open(&s->b, 1);
    struct cairn_lease *lease;
    if (tiny_attach(client, context, N, &lease) != 0)
        return 1;
    tell(s);
    wait_for_ever();
    return 1;
}

START_TEST(a_reader_killed_with_a_lease_gives_it_back_within_a_second)
{
    struct scene s;
    scene_start(&s, small);
    struct cairn_client *client = tiny_open(&s.b, 1);
    publish(client, 77);
    cairn_close(client); /* its threads end before the fork */
    pid_t reader = child_start(die_with_lease, &s);
    hear(&s);
    ck_assert_uint_eq(broker_counter(&s.b, "leases"), 1);
    child_kill(reader);
    uint64_t killed_ns = crn_now_ns();
    broker_await(&s.b, "leases", 0);
    ck_assert_uint_lt(crn_now_ns() - killed_ns, 1000 * MS);
    ck_assert_uint_eq(broker_counter(&s.b, "lease_reaped_total"), 1);
    broker_stop(&s.b);
}
END_TEST

/* ---- brokers that die ---- */

/* Kills the broker as soon as the parent waits for its answer; the broker is stopped, so it cannot answer before. */
static int kill_broker(void *ctx)
{
    struct scene *s = ctx;
    child_asleep(getppid());
    return kill(s->b.pid, SIGKILL) == 0 ? 0 : 1;
}

START_TEST(a_broker_killed_during_a_request_is_gone_within_three_seconds_and_found_again)
{
    struct scene s;
    struct cairn_match match;
    struct cairn_client_stats stats;
    struct cairn_lease *lease;
    struct cairn_draft *draft;
    struct cairn_query q = CAIRN_QUERY_INIT;
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N};
    scene_start(&s, small);
    struct cairn_client *client = tiny_open(&s.b, 1);
    publish(client, 77);
    ck_assert_int_eq(tiny_attach(client, context, N, &lease), 0);
    ck_assert_int_eq(tiny_draft(client, &e, &draft), 0);
    q.tokens = context;
    q.n_tokens = N;
    ck_assert_int_eq(kill(s.b.pid, SIGSTOP), 0);
    pid_t killer = child_start(kill_broker, &s);
    uint64_t start_ns = crn_now_ns();
    ck_assert_int_eq(cairn_match(client, &q, cairn_deadline_in(60000), &match), CAIRN_E_GONE);
    ck_assert_uint_lt(crn_now_ns() - start_ns, 3000 * MS);
    ck_assert_int_eq(child_end(killer), 0);
    broker_kill(&s.b);

    tiny_check_part(lease, 0, 1); /* what is mapped stays */
    ck_assert_int_eq(cairn_lease_check(lease), 0);
    start_ns = crn_now_ns();
    ck_assert_int_eq(cairn_match(client, &q, cairn_deadline_in(60000), &match), CAIRN_E_GONE);
    ck_assert_uint_lt(crn_now_ns() - start_ns, 3000 * MS);
    ck_assert_int_eq(tiny_put_layer(draft, &e, 0), CAIRN_E_GONE);

    broker_restart(&s.b);
    ck_assert_msg(cairn_match(client, &q, SOON, &match) == 0, "%s", cairn_error(client));
    ck_assert_uint_eq(match.class_, CAIRN_CLASS_NONE);
    ck_assert_int_eq(tiny_put_layer(draft, &e, 0), CAIRN_E_STALE);
    cairn_abort(draft);
    cairn_release(lease);
    publish(client, 77);
    ck_assert_int_eq(tiny_attach(client, context, N, &lease), 0);
    tiny_check_part(lease, 0, 1);
    cairn_client_stats(client, &stats);
    ck_assert_uint_eq(stats.reconnects, 1);
    cairn_close(client);
    broker_stop(&s.b);
}
END_TEST

START_TEST(a_broker_that_hangs_is_given_up_at_the_deadline_or_by_its_heartbeat)
{
    struct scene s;
    struct cairn_match match;
    struct cairn_query q = CAIRN_QUERY_INIT;
    scene_start(&s, small);
    struct cairn_client *client = tiny_open(&s.b, 1);
    q.tokens = context;
    q.n_tokens = N;
    ck_assert_int_eq(cairn_match(client, &q, SOON, &match), 0);
    ck_assert_int_eq(kill(s.b.pid, SIGSTOP), 0);
    uint64_t start_ns = crn_now_ns();
    ck_assert_int_eq(cairn_match(client, &q, cairn_deadline_in(200), &match), CAIRN_E_TIMEOUT);
    ck_assert_uint_lt(crn_now_ns() - start_ns, 1000 * MS);
    ck_assert_int_eq(cairn_match(client, &q, cairn_deadline_in(60000), &match), CAIRN_E_GONE);
    ck_assert_uint_lt(crn_now_ns() - start_ns, 8000 * MS);
    ck_assert_int_eq(kill(s.b.pid, SIGCONT), 0);
    uint64_t deadline_ns = cairn_deadline_in(20000);
    int status;
    do
        status = cairn_match(client, &q, cairn_deadline_in(5000), &match);
    while (status != 0 && crn_now_ns() < deadline_ns);
    ck_assert_int_eq(status, 0);
    cairn_close(client);
    broker_stop(&s.b);
}
END_TEST

START_TEST(without_a_broker_every_call_says_so_at_once)
{
    struct broker nowhere = {.socket = "/tmp/cairn-test-no-such-dir/s.sock"};
    struct cairn_client *client = tiny_open(&nowhere, 1);
    struct cairn_lease *lease;
    struct cairn_entry_id entry;
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N};
    uint64_t start_ns = crn_now_ns();
    ck_assert_int_eq(cairn_connect(client, cairn_deadline_in(60000)), CAIRN_E_GONE);
    ck_assert_int_eq(tiny_attach(client, context, N, &lease), CAIRN_E_GONE);
    ck_assert_int_eq(tiny_publish(client, &e, &entry), CAIRN_E_GONE);
    ck_assert_uint_lt(crn_now_ns() - start_ns, 1000 * MS);
    ck_assert_ptr_nonnull(strstr(cairn_error(client), "no-such-dir"));
    cairn_close(client);
}
END_TEST

START_TEST(a_second_broker_on_the_same_address_gives_up_and_harms_nobody)
{
    struct scene s;
    scene_start(&s, small);
    struct cairn_client *client = tiny_open(&s.b, 1);
    publish(client, 77);
    ck_assert_int_eq(broker_second(&s.b), 1);
    struct cairn_client *other = tiny_open(&s.b, 1);
    struct cairn_lease *lease;
    ck_assert_int_eq(tiny_attach(other, context, N, &lease), 0);
    publish(client, 78);
    cairn_close(other);
    cairn_close(client);
    broker_stop(&s.b);
}
END_TEST

/* ---- ids and room ---- */

START_TEST(an_id_stays_stale_when_its_place_is_used_again)
{
    struct scene s;
    struct cairn_entry_info info;
    struct cairn_lease *lease;
    struct cairn_query q = CAIRN_QUERY_INIT;
    scene_start(&s, small);
    struct cairn_client *client = tiny_open(&s.b, 1);
    struct cairn_entry_id old = publish(client, 1);
    ck_assert_int_eq(cairn_evict(client, old, SOON, NULL, NULL), 0);
    for (uint32_t seed = 2; seed < 12; seed++) {
        struct cairn_entry_id entry = publish(client, seed);
        ck_assert(entry.v != old.v);
        q.entry = old;
        q.flags = CAIRN_QUERY_INSPECT;
        ck_assert_int_eq(cairn_attach(client, &q, SOON, &lease), CAIRN_E_STALE);
        ck_assert_int_eq(cairn_show(client, old, SOON, &info, NULL, NULL), CAIRN_E_STALE);
        ck_assert_int_eq(cairn_pin(client, old, 1, SOON), CAIRN_E_STALE);
        ck_assert_int_eq(cairn_evict(client, entry, SOON, NULL, NULL), 0);
    }
    cairn_close(client);
    broker_stop(&s.b);
}
END_TEST

START_TEST(a_full_pool_refuses_to_publish_while_everything_is_leased_and_goes_on_afterwards)
{
    struct scene s;
    struct cairn_lease *held[64];
    struct cairn_entry_id entry;
    uint32_t n = 0;
    int status = 0;
    scene_start(&s, tight);
    struct cairn_client *client = tiny_open(&s.b, 1), *reader = tiny_open(&s.b, 1);
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N};
    while (status == 0 && n < 64) {
        tiny_tokens(context, N, n + 1);
        status = tiny_publish(client, &e, &entry);
        if (status == 0)
            ck_assert_int_eq(tiny_attach(reader, context, N, &held[n++]), 0);
    }
    ck_assert_int_eq(status, CAIRN_E_FULL);
    ck_assert_uint_ge(n, 1);
    for (uint32_t i = 0; i < n; i++) {
        tiny_check_part(held[i], 0, 1);
        ck_assert_int_eq(cairn_lease_check(held[i]), 0);
        cairn_release(held[i]);
    }
    broker_await(&s.b, "leases", 0);
    ck_assert_msg(tiny_publish(client, &e, &entry) == 0, "%s", cairn_error(client));
    ck_assert_uint_ge(broker_counter(&s.b, "evicted_total"), 1);
    ck_assert_uint_ge(broker_counter(&s.b, "full_total"), 1);
    cairn_close(client);
    cairn_close(reader);
    broker_stop(&s.b);
}
END_TEST

/* ---- different speeds ---- */

START_TEST(a_publisher_faster_than_the_broker_waits_for_room_and_loses_nothing)
{
    struct scene s;
    struct cairn_draft *draft;
    struct cairn_entry_id entry;
    struct cairn_lease *lease;
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N};
    scene_start(&s, small);
    struct cairn_client *client = tiny_open(&s.b, 1);
    ck_assert_int_eq(tiny_draft(client, &e, &draft), 0);
    ck_assert_int_eq(kill(s.b.pid, SIGSTOP), 0);
    for (uint32_t layer = 0; layer < 2; layer++) /* the landing zone holds two */
        ck_assert_int_eq(tiny_put_layer(draft, &e, layer), 0);
    void *memory;
    ck_assert_int_eq(cairn_draft_reserve(draft, ROWS_BYTES, cairn_deadline_in(100), &memory), CAIRN_E_TIMEOUT);
    ck_assert_int_eq(kill(s.b.pid, SIGCONT), 0);
    for (uint32_t layer = 2; layer < TINY_LAYERS; layer++)
        ck_assert_msg(tiny_put_layer(draft, &e, layer) == 0, "%s", cairn_error(client));
    ck_assert_int_eq(cairn_commit(draft, SOON, &entry), 0);
    ck_assert_int_eq(tiny_attach(client, context, N, &lease), 0);
    tiny_check_part(lease, 0, 1);
    cairn_close(client);
    broker_stop(&s.b);
}
END_TEST

START_TEST(a_publisher_slower_than_the_broker_publishes_layer_by_layer)
{
    struct scene s;
    struct cairn_draft *draft;
    struct cairn_entry_id entry;
    struct cairn_lease *lease;
    struct tiny_entry e = {.model = 1, .context = context, .n_tokens = N};
    scene_start(&s, small);
    struct cairn_client *client = tiny_open(&s.b, 1);
    ck_assert_int_eq(tiny_draft(client, &e, &draft), 0);
    uint64_t gathered = 0;
    for (uint32_t layer = 0; layer < TINY_LAYERS; layer++) {
        ck_assert_int_eq(tiny_put_layer(draft, &e, layer), 0);
        uint64_t deadline_ns = cairn_deadline_in(10000), now;
        do
            now = broker_counter(&s.b, "gathered_bytes_total");
        while (now <= gathered && crn_now_ns() < deadline_ns);
        ck_assert_uint_gt(now, gathered); /* done with this layer before the next one comes */
        gathered = now;
        ck_assert_int_eq(tiny_attach(client, context, N, &lease), CAIRN_E_MISS);
    }
    ck_assert_int_eq(cairn_commit(draft, SOON, &entry), 0);
    ck_assert_int_eq(tiny_attach(client, context, N, &lease), 0);
    tiny_check_part(lease, 0, 1);
    cairn_close(client);
    broker_stop(&s.b);
}
END_TEST

/* ---- strangers ---- */

static int knock_as_stranger(void *ctx)
{
    struct scene *s = ctx;
    struct cairn_client *client;
    if (setgid(65534) != 0 || setuid(65534) != 0)
        return 2;
    client = tiny_open(&s->b, 1);
    int status = cairn_connect(client, cairn_deadline_in(4000));
    fprintf(stderr, "stranger: %s\n", cairn_error(client));
    cairn_close(client);
    return status == CAIRN_E_DENIED ? 0 : status == 0 ? 3 : 4;
}

START_TEST(a_client_of_another_user_is_refused_by_the_files_and_by_the_broker)
{
    struct scene s;
    char path[128];
    if (getuid() != 0) {
        fprintf(stderr, "SKIP: needs root to become another user\n");
        return;
    }
    scene_start(&s, small);
    ck_assert_int_eq(child_end(child_start(knock_as_stranger, &s)), 0);
    /* even when somebody opens the directory and the sockets to all */
    ck_assert_int_eq(chmod(s.b.dir, 0755), 0);
    ck_assert_int_eq(chmod(s.b.socket, 0666), 0);
    snprintf(path, sizeof path, "%s.fd", s.b.socket);
    ck_assert_int_eq(chmod(path, 0666), 0);
    ck_assert_int_eq(child_end(child_start(knock_as_stranger, &s)), 0);
    ck_assert_uint_ge(broker_counter(&s.b, "denied_total"), 1);
    ck_assert_uint_eq(broker_counter(&s.b, "sessions"), 1);
    broker_stop(&s.b);
}
END_TEST

/* ---- rubbish ---- */

static uint32_t random_state = 12345;

static uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static void fill_random(uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)next_random();
}

static void send_random_messages(const struct broker *b)
{
    static uint8_t bytes[CRN_MESSAGE_MAX];
    struct crn_chan *chan;
    ck_assert_int_eq(crn_chan_open(b->socket, &chan), 0);
    for (int i = 0; i < 300; i++) {
        size_t n = i % 10 == 0 ? CRN_MESSAGE_MAX : next_random() % 300;
        fill_random(bytes, n);
        if (n > 3 && i % 2 == 0) { /* looks like an envelope */
            bytes[0] = 0x94;
            bytes[1] = 1;
            bytes[2] = (uint8_t)(next_random() % 30);
        }
        int status = crn_chan_send(chan, bytes, n, SOON);
        ck_assert_msg(status == 0 || status == CAIRN_E_GONE, "%d", status);
        size_t got;
        uint64_t now_ns = crn_now_ns();
        while (crn_chan_recv(chan, bytes, sizeof bytes, now_ns, &got) == 0)
            continue;
    }
    crn_chan_close(chan);
}

/* Bytes that are no ZMTP at all, and a connection that says nothing. */
static void send_random_stream(const char *path, int type)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    uint8_t bytes[4096];
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    for (int i = 0; i < 40; i++) {
        int fd = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(connect(fd, (const struct sockaddr *)&address, sizeof address), 0);
        fill_random(bytes, sizeof bytes);
        size_t n = i % 4 == 0 ? 0 : next_random() % sizeof bytes;
        ssize_t sent = n > 0 ? send(fd, bytes, n, MSG_NOSIGNAL) : 0;
        ck_assert_int_ge(sent, -1);
        close(fd);
    }
}

/* Well-formed records that ask for what a stranger may not have. */
static void ask_for_segments(const char *path)
{
    for (uint16_t op = 0; op < 6; op++) {
        struct crn_fd_record record = {
            .magic = CRN_FD_MAGIC, .version = CRN_FD_VERSION, .op = op, .id = 1};
        int sock, fd = -1;
        ck_assert_int_eq(crn_fd_connect(path, &sock), 0);
        ck_assert_int_eq(crn_fd_send(sock, &record, op == 3 ? sock : -1), 0);
        int status = crn_fd_recv(sock, SOON, &record, &fd);
        ck_assert_int_eq(fd, -1);
        ck_assert_msg(status != 0 || record.status != 0, "op %u was answered", op);
        close(sock);
    }
}

START_TEST(rubbish_on_both_sockets_is_refused_and_workers_notice_nothing)
{
    struct scene s;
    struct cairn_lease *lease;
    char path[128];
    scene_start(&s, small);
    struct cairn_client *client = tiny_open(&s.b, 1);
    publish(client, 77);
    snprintf(path, sizeof path, "%s.fd", s.b.socket);
    send_random_messages(&s.b);
    send_random_stream(s.b.socket, SOCK_STREAM);
    send_random_stream(path, SOCK_SEQPACKET);
    ask_for_segments(path);
    ck_assert_int_eq(tiny_attach(client, context, N, &lease), 0);
    tiny_check_part(lease, 0, 1);
    ck_assert_int_eq(cairn_lease_check(lease), 0);
    ck_assert_uint_ge(broker_counter(&s.b, "bad_message_total"), 1);
    cairn_close(client);
    broker_await(&s.b, "sessions", 1);
    broker_stop(&s.b);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(a_publisher_killed_in_its_draft_leaves_nothing_behind),
        RUN_TEST(a_reader_killed_with_a_lease_gives_it_back_within_a_second),
        RUN_TEST(a_broker_killed_during_a_request_is_gone_within_three_seconds_and_found_again),
        RUN_TEST(a_broker_that_hangs_is_given_up_at_the_deadline_or_by_its_heartbeat),
        RUN_TEST(without_a_broker_every_call_says_so_at_once),
        RUN_TEST(a_second_broker_on_the_same_address_gives_up_and_harms_nobody),
        RUN_TEST(an_id_stays_stale_when_its_place_is_used_again),
        RUN_TEST(a_full_pool_refuses_to_publish_while_everything_is_leased_and_goes_on_afterwards),
        RUN_TEST(a_publisher_faster_than_the_broker_waits_for_room_and_loses_nothing),
        RUN_TEST(a_publisher_slower_than_the_broker_publishes_layer_by_layer),
        RUN_TEST(a_client_of_another_user_is_refused_by_the_files_and_by_the_broker),
        RUN_TEST(rubbish_on_both_sockets_is_refused_and_workers_notice_nothing),
    };
    return run_suite("client_faults", tests, sizeof tests / sizeof tests[0]);
}
