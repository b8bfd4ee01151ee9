/* ipc/mem_cuda_vmm, ipc/mem_cuda_ipc: segments of device memory between real processes. Every test runs for both kinds; the test's
 * own process never touches CUDA (it does not survive fork). Nothing here knows the emulator: the same tests run on a device. */
#include "ipc/mem.h"

#include "ipc/cuda_driver.h"
#include "ipc/fdchan.h"
#include "ipc/log.h"
#include "tests/support/child.h"
#include "tests/support/run.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BYTES = 4 << 20, WORKERS = 3 };

static const struct crn_mem_ops *kind_of(int loop)
{
    return loop == 0 ? &crn_mem_cuda_vmm : &crn_mem_cuda_ipc;
}

/* --- one side of a test, in a process of its own; failures end it with a line number --- */

#define CHECK(condition)                                                                                                    \
    do {                                                                                                                    \
        if (!(condition)) {                                                                                                 \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                                         \
            _exit(200);                                                                                                     \
        }                                                                                                                   \
    } while (0)

struct party {
    const struct crn_mem_ops *ops;
    int sock[WORKERS][2]; /* broker end, worker end */
    int go[2];            /* test's end, the other's */
    int me;
    int stay; /* worker: keep the mapping until killed */
};

static uint64_t soon(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + 20000000000u;
}

static void fill(struct crn_mem *segment, unsigned char seed)
{
    struct crn_mem host;
    CHECK(crn_mem_host.create(segment->bytes, -1, CRN_MEM_LANDING, &host) == 0);
    for (size_t i = 0; i < host.bytes; i++)
        ((unsigned char *)host.base)[i] = (unsigned char)(i * 7 + i / 4096 + seed);
    CHECK(segment->ops->copy(segment, 0, &host, 0, host.bytes) == 0);
    CHECK(segment->ops->fence(segment) == 0);
    crn_mem_host.destroy(&host);
}

static int holds(const struct crn_mem *segment, unsigned char seed)
{
    struct crn_mem host;
    int same = 1;
    CHECK(crn_mem_host.create(segment->bytes, -1, CRN_MEM_LANDING, &host) == 0);
    CHECK(crn_mem_host.copy(&host, 0, segment, 0, host.bytes) == 0);
    CHECK(segment->ops->fence((struct crn_mem *)(uintptr_t)segment) == 0);
    for (size_t i = 0; i < host.bytes && same; i++)
        same = ((unsigned char *)host.base)[i] == (unsigned char)(i * 7 + i / 4096 + seed);
    crn_mem_host.destroy(&host);
    return same;
}

static void send_segment(int sock, const struct crn_mem *segment)
{
    struct crn_fd_record record = { .magic = CRN_FD_MAGIC, .version = CRN_FD_VERSION, .op = CRN_FD_ARENA };
    int fd = -1;
    CHECK(segment->ops->export_token(segment, &record.mem, &fd) == 0);
    CHECK(crn_fd_send(sock, &record, fd) == 0);
}

static int receive_segment(int sock, enum crn_mem_access access, struct crn_mem *out)
{
    struct crn_fd_record record;
    int fd = -1;
    CHECK(crn_fd_recv(sock, soon(), &record, &fd) == 0);
    const struct crn_mem_ops *ops = crn_mem_ops_of(record.mem.kind);
    CHECK(ops != NULL);
    return ops->import_token(&record.mem, fd, access, out);
}

static void say(int sock)
{
    CHECK(send(sock, "!", 1, MSG_NOSIGNAL) == 1);
}

static void hear(int sock)
{
    char byte;
    CHECK(recv(sock, &byte, 1, 0) == 1);
}

static int reading_worker(void *context)
{
    const struct party *p = context;
    int sock = p->sock[p->me][1];
    struct crn_mem segment;
    CHECK(receive_segment(sock, CRN_MEM_READ, &segment) == 0);
    CHECK(segment.owner == 0 && segment.bytes == BYTES && segment.fd == -1);
    CHECK(holds(&segment, 3));
    say(sock);
    if (p->stay)
        pause();
    hear(sock); /* the broker may be gone by now */
    CHECK(holds(&segment, 3));
    segment.ops->destroy(&segment);
    p->ops->destroy(&segment); /* legal on none */
    say(sock);
    return 0;
}

static struct party start(const struct crn_mem_ops *ops, int (*work)(void *), int stay, pid_t out_pids[WORKERS])
{
    struct party p = { .ops = ops, .stay = stay };
    for (int i = 0; i < WORKERS; i++)
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p.sock[i]), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p.go), 0);
    for (p.me = 0; p.me < WORKERS; p.me++)
        out_pids[p.me] = child_start(work, &p);
    return p;
}

/* --- attach from three workers --- */

static int broker(void *context)
{
    const struct party *p = context;
    struct crn_mem segment;
    CHECK(p->ops->create(BYTES - 5, 0, CRN_MEM_ARENA, &segment) == 0);
    CHECK(segment.bytes == BYTES && segment.owner == 1); /* rounded to 2 MiB */
    fill(&segment, 3);
    for (int i = 0; i < WORKERS; i++)
        send_segment(p->sock[i][0], &segment);
    for (int i = 0; i < WORKERS; i++)
        hear(p->sock[i][0]);
    for (int i = 0; i < WORKERS; i++)
        say(p->sock[i][0]);
    for (int i = 0; i < WORKERS; i++)
        hear(p->sock[i][0]); /* importers first, then the creator */
    segment.ops->destroy(&segment);
    return 0;
}

START_TEST(three_workers_read_what_the_broker_wrote)
{
    pid_t pids[WORKERS];
    struct party p = start(kind_of(_i), reading_worker, 0, pids);
    ck_assert_int_eq(child_end(child_start(broker, &p)), 0);
    for (int i = 0; i < WORKERS; i++)
        ck_assert_int_eq(child_end(pids[i]), 0);
}
END_TEST

/* --- the broker dies --- */

static int broker_that_stays(void *context)
{
    const struct party *p = context;
    struct crn_mem segment;
    CHECK(p->ops->create(BYTES, 0, CRN_MEM_ARENA, &segment) == 0);
    fill(&segment, 3);
    for (int i = 0; i < WORKERS; i++)
        send_segment(p->sock[i][0], &segment);
    pause();
    return 0;
}

static void hear_in_test(int sock)
{
    char byte;
    ck_assert_int_eq((int)recv(sock, &byte, 1, 0), 1);
}

START_TEST(mappings_survive_the_death_of_the_broker)
{
    pid_t pids[WORKERS];
    struct party p = start(kind_of(_i), reading_worker, 0, pids);
    pid_t dying = child_start(broker_that_stays, &p);
    for (int i = 0; i < WORKERS; i++)
        hear_in_test(p.sock[i][0]);
    child_kill(dying);
    for (int i = 0; i < WORKERS; i++)
        ck_assert_int_eq((int)send(p.sock[i][0], "!", 1, 0), 1);
    for (int i = 0; i < WORKERS; i++)
        ck_assert_int_eq(child_end(pids[i]), 0);
}
END_TEST

static int late_worker(void *context)
{
    const struct party *p = context;
    struct crn_mem segment = { 0 };
    hear(p->sock[2][0]); /* the broker is dead */
    int status = receive_segment(p->sock[p->me][1], CRN_MEM_READ, &segment);
    if (p->ops == &crn_mem_cuda_vmm)
        CHECK(status == 0 && holds(&segment, 3)); /* a parked descriptor keeps the memory */
    else
        CHECK(status != 0 && segment.ops == NULL);
    return 0;
}

START_TEST(a_descriptor_on_its_way_keeps_memory_and_a_handle_does_not)
{
    struct party p = { .ops = kind_of(_i), .me = 1 };
    for (int i = 0; i < WORKERS; i++)
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p.sock[i]), 0);
    pid_t worker = child_start(late_worker, &p), dying = child_start(broker_that_stays, &p);
    char byte;
    ck_assert_int_eq((int)recv(p.sock[2][1], &byte, 1, MSG_PEEK), 1); /* the last message was sent */
    child_kill(dying);
    ck_assert_int_eq((int)send(p.sock[2][1], "!", 1, 0), 1);
    ck_assert_int_eq(child_end(worker), 0);
}
END_TEST

/* --- workers die --- */

static int broker_of_dying_workers(void *context)
{
    const struct party *p = context;
    struct crn_mem segment;
    CHECK(p->ops->create(BYTES, 0, CRN_MEM_ARENA, &segment) == 0);
    fill(&segment, 3);
    for (int i = 0; i < WORKERS; i++)
        send_segment(p->sock[i][0], &segment);
    hear(p->go[1]); /* they are dead */
    CHECK(holds(&segment, 3));
    segment.ops->destroy(&segment);
    CHECK(p->ops->create(BYTES, 0, CRN_MEM_ARENA, &segment) == 0); /* quarantine: never reuse, make anew */
    segment.ops->destroy(&segment);
    return 0;
}

START_TEST(killed_workers_leave_nothing_behind)
{
    pid_t pids[WORKERS];
    struct party p = start(kind_of(_i), reading_worker, 1, pids);
    pid_t pid = child_start(broker_of_dying_workers, &p);
    for (int i = 0; i < WORKERS; i++) {
        hear_in_test(p.sock[i][0]);
        child_kill(pids[i]);
    }
    ck_assert_int_eq((int)send(p.go[0], "!", 1, 0), 1);
    ck_assert_int_eq(child_end(pid), 0);
}
END_TEST

/* --- landing zones --- */

static int writing_worker(void *context)
{
    const struct party *p = context;
    struct crn_mem zone;
    CHECK(receive_segment(p->sock[0][1], CRN_MEM_WRITE, &zone) == 0);
    fill(&zone, 9);
    say(p->sock[0][1]);
    if (p->stay)
        pause();
    hear(p->sock[0][1]);
    zone.ops->destroy(&zone);
    say(p->sock[0][1]);
    return 0;
}

static int broker_of_writer(void *context)
{
    const struct party *p = context;
    struct crn_mem zone, arena;
    CHECK(p->ops->create(BYTES, 0, CRN_MEM_LANDING, &zone) == 0);
    CHECK(p->ops->create(BYTES, 0, CRN_MEM_ARENA, &arena) == 0);
    send_segment(p->sock[0][0], &zone);
    hear(p->sock[0][0]);
    CHECK(arena.ops->copy(&arena, 0, &zone, 0, BYTES) == 0);
    CHECK(arena.ops->fence(&arena) == 0);
    CHECK(holds(&arena, 9));
    say(p->sock[0][0]);
    hear(p->sock[0][0]);
    zone.ops->destroy(&zone);
    arena.ops->destroy(&arena);
    return 0;
}

START_TEST(a_layer_goes_through_a_landing_zone_into_the_arena)
{
    struct party p = { .ops = kind_of(_i) };
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p.sock[0]), 0);
    pid_t worker = child_start(writing_worker, &p);
    ck_assert_int_eq(child_end(child_start(broker_of_writer, &p)), 0);
    ck_assert_int_eq(child_end(worker), 0);
}
END_TEST

/* --- one process --- */

static int basics(void *context)
{
    const struct crn_mem_ops *ops = ((const struct party *)context)->ops;
    struct crn_mem m, host, none = { 0 };
    char why[128];
    static const unsigned char zeroes[4096];
    CHECK(ops->probe(why, sizeof why) == 1);
    CHECK(crn_mem_ops_of(ops->kind) == ops && crn_mem_ops_named(ops->name) == ops);
    CHECK(ops->create(0, 0, CRN_MEM_ARENA, &m) == CAIRN_E_ARG);
    CHECK(ops->create(UINT64_MAX, 0, CRN_MEM_ARENA, &m) == CAIRN_E_TOO_BIG);
    CHECK(ops->create(BYTES, 0, (enum crn_mem_role)7, &m) == CAIRN_E_ARG);
    CHECK(ops->create(BYTES, 63, CRN_MEM_ARENA, &m) == CAIRN_E_NO_DEVICE);
    CHECK(ops->create(BYTES, 0, CRN_MEM_ARENA, &m) == 0);
    CHECK(crn_mem_host.create(4096, -1, CRN_MEM_LANDING, &host) == 0);
    memset(host.base, 'x', 4096);
    CHECK(crn_mem_host.copy(&host, 0, &m, 8192, 4096) == 0 && ops->fence(&m) == 0);
    CHECK(memcmp(host.base, zeroes, 4096) == 0); /* fresh memory reads as zero */
    memset(host.base, 'x', 4096);
    CHECK(ops->copy(&m, BYTES - 4096, &host, 0, 4096) == 0);
    CHECK(ops->copy(&m, 0, &m, BYTES - 4096, 4096) == 0);
    CHECK(ops->clear(&m, 100, 200) == 0);
    CHECK(ops->copy(&host, 0, &m, 0, 4096) == 0 && ops->fence(&m) == 0);
    for (int i = 0; i < 4096; i++)
        CHECK(((char *)host.base)[i] == (i >= 100 && i < 300 ? 0 : 'x'));
    CHECK(ops->copy(&m, BYTES - 1, &host, 0, 2) == CAIRN_E_ARG);
    CHECK(ops->copy(&m, UINT64_MAX, &host, 0, 1) == CAIRN_E_ARG);
    CHECK(ops->copy(&m, 0, &host, 0, UINT64_MAX) == CAIRN_E_ARG);
    CHECK(ops->copy(&host, 0, &host, 0, 1) == CAIRN_E_UNSUPPORTED);
    CHECK(ops->clear(&m, BYTES, 1) == CAIRN_E_ARG);
    CHECK(crn_mem_host.copy(&m, 0, &host, 0, 1) == CAIRN_E_UNSUPPORTED);
    ops->destroy(&m);
    ops->destroy(&m);
    ops->destroy(&none);
    crn_mem_host.destroy(&host);
    return 0;
}

START_TEST(a_segment_is_rounded_zero_copied_and_cleared)
{
    struct party p = { .ops = kind_of(_i) };
    ck_assert_int_eq(child_end(child_start(basics, &p)), 0);
}
END_TEST

/* --- lies --- */

static int lied_to(void *context)
{
    const struct party *p = context;
    struct crn_mem segment = { 0 };
    struct crn_fd_record record;
    int fd = -1, before, pipes[2];
    CHECK(crn_fd_recv(p->sock[0][1], soon(), &record, &fd) == 0);
    int fds[2] = { fd, p->ops->fd_travels ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1 };
    CHECK(p->ops->import_token(&record.mem, fds[0], CRN_MEM_READ, &segment) == 0); /* CUDA's own descriptors are open now */
    before = count_fds();
    const uint64_t sizes[] = { 0, 1, BYTES - 1, BYTES + 4096, UINT64_MAX };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct crn_mem_token token = record.mem;
        token.bytes = sizes[i];
        int copy = fds[1] < 0 ? -1 : fcntl(fds[1], F_DUPFD_CLOEXEC, 0);
        CHECK(p->ops->import_token(&token, copy, CRN_MEM_READ, &segment) == CAIRN_E_CORRUPT);
    }
    struct crn_mem_token token = record.mem;
    token.device_uuid[3] ^= 1;
    CHECK(p->ops->import_token(&token, fds[1] < 0 ? -1 : fcntl(fds[1], F_DUPFD_CLOEXEC, 0), CRN_MEM_READ, &segment) ==
          CAIRN_E_NO_DEVICE);
    token = record.mem;
    token.kind = CRN_MEM_HOST;
    CHECK(p->ops->import_token(&token, fds[1] < 0 ? -1 : fcntl(fds[1], F_DUPFD_CLOEXEC, 0), CRN_MEM_READ, &segment) ==
          CAIRN_E_CORRUPT);
    token = record.mem;
    token.handle[5] ^= 1;
    CHECK(pipe(pipes) == 0);
    CHECK(p->ops->import_token(&token, pipes[0], CRN_MEM_READ, &segment) == CAIRN_E_CORRUPT);
    close(pipes[1]);
    CHECK(p->ops->import_token(&record.mem, -1, (enum crn_mem_access)9, &segment) == CAIRN_E_ARG);
    CHECK(count_fds() == before);
    CHECK(holds(&segment, 3)); /* the good one was not touched */
    CHECK(p->ops->copy(&segment, 0, &segment, 64, 64) == CAIRN_E_ARG); /* a reader does not write */
    CHECK(p->ops->clear(&segment, 0, 64) == CAIRN_E_ARG);
    CHECK(p->ops->export_token(&segment, &token, &fd) == CAIRN_E_ARG); /* nor hand on */
    segment.ops->destroy(&segment);
    return 0;
}

START_TEST(an_importer_believes_no_token)
{
    struct party p = { .ops = kind_of(_i) };
    for (int i = 0; i < WORKERS; i++)
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p.sock[i]), 0);
    pid_t worker = child_start(lied_to, &p), stays = child_start(broker_that_stays, &p);
    ck_assert_int_eq(child_end(worker), 0);
    child_kill(stays);
}
END_TEST

static int opens_twice(void *context)
{
    const struct party *p = context;
    struct crn_fd_record record;
    struct crn_mem a, b;
    int fd;
    CHECK(crn_fd_recv(p->sock[0][1], soon(), &record, &fd) == 0);
    CHECK(p->ops->import_token(&record.mem, -1, CRN_MEM_READ, &a) == 0);
    CHECK(p->ops->import_token(&record.mem, -1, CRN_MEM_READ, &b) == 0);
    CHECK(a.base == b.base);
    a.ops->destroy(&a);
    CHECK(holds(&b, 3)); /* one close does not unmap for the other */
    b.ops->destroy(&b);
    CHECK(p->ops->import_token(&record.mem, -1, CRN_MEM_READ, &a) == 0);
    CHECK(holds(&a, 3));
    a.ops->destroy(&a);
    return 0;
}

START_TEST(a_handle_opened_twice_is_counted)
{
    struct party p = { .ops = &crn_mem_cuda_ipc };
    for (int i = 0; i < WORKERS; i++)
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, p.sock[i]), 0);
    pid_t worker = child_start(opens_twice, &p), stays = child_start(broker_that_stays, &p);
    ck_assert_int_eq(child_end(worker), 0);
    child_kill(stays);
}
END_TEST

/* Two lanes and the stream of everything else: each waits for its own copies only. On the emulator that is how it must be (nothing
 * runs before its stream is waited for); on a device the last comparison holds, and the ones before may, too, by luck. */
static int use_two_lanes(void *ctx)
{
    struct party *p = ctx;
    struct crn_cuda_lane *down = NULL, *up = NULL;
    struct crn_mem segment;
    unsigned char *host = calloc(3, BYTES), *sent = host + BYTES, *shared = host + 2 * BYTES;
    CHECK(host != NULL && p->ops->create(BYTES, 0, CRN_MEM_ARENA, &segment) == 0);
    fill(&segment, 5);
    CHECK(crn_cuda_lane_open(0, &down) == 0 && crn_cuda_lane_open(0, &up) == 0);
    memset(sent, 9, BYTES / 2);
    struct crn_cuda_move from = { .dst = host, .src = segment.base, .bytes = BYTES / 2, .to = CRN_CUDA_HOST, .from = CRN_CUDA_DEVICE };
    struct crn_cuda_move to = { .dst = (char *)segment.base + BYTES / 2, .src = sent, .bytes = BYTES / 2, .to = CRN_CUDA_DEVICE,
                                .from = CRN_CUDA_HOST };
    struct crn_cuda_move all = { .dst = shared, .src = segment.base, .bytes = BYTES, .to = CRN_CUDA_HOST, .from = CRN_CUDA_DEVICE };
    CHECK(crn_cuda_lane_copy(down, &from) == 0 && crn_cuda_lane_copy(up, &to) == 0);
    CHECK(crn_cuda_lane_wait(up) == 0);
    CHECK(getenv("CRN_GPU") != NULL || host[1] == 0); /* nobody waited for this one */
    CHECK(crn_cuda_copy(0, &all) == 0 && crn_cuda_fence(0) == 0);
    CHECK(getenv("CRN_GPU") != NULL || host[1] == 0);
    CHECK(crn_cuda_lane_wait(down) == 0);
    CHECK(memcmp(host, shared, BYTES / 2) == 0 && host[1] != 0);
    CHECK(memcmp(sent, shared + BYTES / 2, BYTES / 2) == 0);
    crn_cuda_lane_close(down);
    crn_cuda_lane_close(up);
    crn_cuda_lane_close(NULL);
    segment.ops->destroy(&segment);
    free(host);
    return 0;
}

START_TEST(lanes_wait_for_their_own_moves)
{
    struct party p = { .ops = kind_of(_i) };
    ck_assert_int_eq(child_end(child_start(use_two_lanes, &p)), 0);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(a_segment_is_rounded_zero_copied_and_cleared, 2),
        RUN_LOOP(three_workers_read_what_the_broker_wrote, 2),
        RUN_LOOP(mappings_survive_the_death_of_the_broker, 2),
        RUN_LOOP(a_descriptor_on_its_way_keeps_memory_and_a_handle_does_not, 2),
        RUN_LOOP(killed_workers_leave_nothing_behind, 2),
        RUN_LOOP(a_layer_goes_through_a_landing_zone_into_the_arena, 2),
        RUN_LOOP(an_importer_believes_no_token, 2),
        RUN_TEST(a_handle_opened_twice_is_counted),
        RUN_LOOP(lanes_wait_for_their_own_moves, 2),
    };
    crn_log_setup("cuda_memory", CRN_LOG_ERROR); /* refusals are expected */
    return run_suite("cuda_memory", tests, sizeof tests / sizeof *tests);
}
