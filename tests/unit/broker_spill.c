/* broker/spill and broker/store: what goes down comes back, byte for byte, through either engine, whatever the kernel does in
 * between; and what cannot come back is reported, never made up. */
#include "broker/spill.h"
#include "broker/spill_format.h"
#include "broker/store.h"
#include "broker/store_alloc.h"
#include "ipc/hash.h"
#include "tests/support/paths.h"
#include "tests/support/run.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define DEADLINE_NS 20000000000ull
#define GUARD 4096u
#define POISON 0xA5

static const enum crn_spill_engine engines[] = {CRN_SPILL_URING, CRN_SPILL_THREADS};
#define N_ENGINES 2

/* ---- helpers ---- */

/* Aligned memory with a poisoned page before and behind: ASan does not see what the kernel writes. */
struct buf {
    uint8_t *all, *p;
    size_t bytes;
};

static struct buf buf_new(size_t bytes)
{
    struct buf b = {.bytes = (bytes + 4095) / 4096 * 4096};
    ck_assert_int_eq(posix_memalign((void **)&b.all, 4096, b.bytes + 2 * GUARD), 0);
    memset(b.all, POISON, b.bytes + 2 * GUARD);
    b.p = b.all + GUARD;
    return b;
}

static void buf_check_free(struct buf *b)
{
    for (size_t i = 0; i < GUARD; i++) {
        ck_assert_msg(b->all[i] == POISON, "byte %zu before the buffer was written", i);
        ck_assert_msg(b->p[b->bytes + i] == POISON, "byte %zu behind the buffer was written", i);
    }
    free(b->all);
}

static void fill(void *p, size_t n, uint64_t seed)
{
    uint8_t *bytes = p;
    for (size_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        bytes[i] = (uint8_t)(seed >> 56);
    }
}

static struct crn_store *store_open(enum crn_spill_engine engine, uint64_t bytes, const struct crn_spill_faults *faults)
{
    struct crn_store_config c = {.n_files = 1, .engine = engine, .faults = faults};
    c.files[0] = (struct crn_store_file_config){paths_tmp_file("store"), bytes};
    struct crn_store *st = NULL;
    int status = crn_store_open(&c, &st);
    ck_assert_msg(status == 0, "open: %s", cairn_strerror(status));
    return st;
}

static struct crn_spill_io *take(struct crn_store *st)
{
    ck_assert_int_eq(crn_spill_wait(crn_store_spill(st), DEADLINE_NS), 0);
    struct crn_spill_io *io = crn_spill_take(crn_store_spill(st));
    ck_assert_ptr_nonnull(io);
    return io;
}

static int run(struct crn_store *st, struct crn_spill_io *io)
{
    ck_assert_int_eq(crn_spill_submit(crn_store_spill(st), io), 0);
    ck_assert_ptr_eq(take(st), io);
    return io->result;
}

static struct crn_spill_io io_of(uint32_t op, const struct crn_place *place, void *mem)
{
    return (struct crn_spill_io){.op = op, .file = place->file, .off = place->off, .bytes = place->bytes, .mem = mem};
}

/* Writes an extent and reads it back into other memory; returns the read's result. */
static int round_trip(struct crn_store *st, size_t bytes, uint64_t seed)
{
    struct crn_place place;
    struct buf a = buf_new(bytes), b = buf_new(bytes);
    fill(a.p, bytes, seed);
    ck_assert_int_eq(crn_store_take(st, bytes, &place), 0);
    struct crn_spill_io w = io_of(CRN_SPILL_WRITE, &place, a.p), r = io_of(CRN_SPILL_READ, &place, b.p);
    struct crn_spill_io sync = {.op = CRN_SPILL_SYNC, .file = place.file};
    ck_assert_int_eq(run(st, &w), 0);
    ck_assert_int_eq(run(st, &sync), 0);
    r.check = 1;
    r.checksum = crn_hash64(a.p, bytes);
    int result = run(st, &r);
    if (result == 0)
        ck_assert_mem_eq(a.p, b.p, bytes);
    buf_check_free(&a);
    buf_check_free(&b);
    return result;
}

/* ---- round trips ---- */

START_TEST(extents_of_any_size_come_back)
{
    static const size_t sizes[] = {1, 4095, 4096, 4097, 65536, MIB - 1, MIB, MIB + 1, 3 * MIB + 12345};
    paths_tmp();
    struct crn_store *st = store_open(engines[_i], 64 * MIB, NULL);
    ck_assert_ptr_nonnull(strstr(crn_spill_text(crn_store_spill(st)), _i == 0 ? "io_uring (" : "threads ("));
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        ck_assert_int_eq(round_trip(st, sizes[i], i), 0);
    crn_store_close(st);
    paths_tmp_remove();
}
END_TEST

START_TEST(registered_memory_changes_nothing_but_the_cost)
{
    enum { N = 8 };
    paths_tmp();
    struct crn_store *st = store_open(CRN_SPILL_URING, 64 * MIB, NULL);
    struct crn_spill *s = crn_store_spill(st);
    struct buf b = buf_new(N * MIB), want = buf_new(N * MIB);
    ck_assert_int_eq(crn_spill_offer(s, b.p, b.bytes), 0);
    fill(b.p, b.bytes, 7);
    memcpy(want.p, b.p, b.bytes);
    struct crn_spill_io io[N];
    struct crn_place place[N];
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) {
            if (round == 0)
                ck_assert_int_eq(crn_store_take(st, MIB, &place[i]), 0);
            io[i] = io_of(round == 0 ? CRN_SPILL_WRITE : CRN_SPILL_READ, &place[i], b.p + (size_t)i * MIB);
            ck_assert_int_eq(crn_spill_submit(s, &io[i]), 0);
        }
        for (int i = 0; i < N; i++)
            ck_assert_int_eq(take(st)->result, 0);
        if (round == 0)
            memset(b.p, 0, b.bytes);
    }
    ck_assert_mem_eq(b.p, want.p, b.bytes);
    crn_spill_withdraw(s, b.p, b.bytes);
    ck_assert_int_eq(round_trip(st, MIB, 3), 0);
    crn_store_close(st);
    buf_check_free(&b);
    buf_check_free(&want);
    paths_tmp_remove();
}
END_TEST

struct submitter {
    struct crn_store *st;
    struct crn_spill_io *ios;
    int n;
};

static void *submitter_main(void *arg)
{
    struct submitter *s = arg;
    for (int i = 0; i < s->n; i++) {
        if (crn_spill_submit(crn_store_spill(s->st), &s->ios[i]) != 0)
            abort();
    }
    return NULL;
}

START_TEST(many_transfers_from_several_threads_stay_within_the_depth)
{
    enum { T = 3, N = 24, BYTES = 200000 };
    paths_tmp();
    struct crn_store *st = store_open(engines[_i], 64 * MIB, NULL);
    static struct crn_spill_io ios[T][N];
    struct crn_place place[T][N];
    struct buf mem = buf_new((size_t)T * N * 4 * 65536), want = buf_new((size_t)T * N * 4 * 65536);
    fill(mem.p, mem.bytes, 99);
    memcpy(want.p, mem.p, mem.bytes);
    for (int round = 0; round < 2; round++) {
        pthread_t threads[T];
        struct submitter args[T];
        for (int t = 0; t < T; t++) {
            for (int i = 0; i < N; i++) {
                if (round == 0)
                    ck_assert_int_eq(crn_store_take(st, BYTES, &place[t][i]), 0);
                uint8_t *p = mem.p + (size_t)(t * N + i) * 4 * 65536;
                ios[t][i] = io_of(round == 0 ? CRN_SPILL_WRITE : CRN_SPILL_READ, &place[t][i], p);
            }
            args[t] = (struct submitter){st, ios[t], N};
            ck_assert_int_eq(pthread_create(&threads[t], NULL, submitter_main, &args[t]), 0);
        }
        for (int i = 0; i < T * N; i++)
            ck_assert_int_eq(take(st)->result, 0);
        for (int t = 0; t < T; t++)
            pthread_join(threads[t], NULL);
        for (int i = 0; round == 0 && i < T * N; i++)
            memset(mem.p + (size_t)i * 4 * 65536, 0, BYTES);
    }
    ck_assert_mem_eq(mem.p, want.p, mem.bytes);
    struct crn_spill_stats stats;
    crn_spill_stats(crn_store_spill(st), &stats);
    ck_assert_uint_le(stats.max_in_flight, CRN_SPILL_DEPTH);
    ck_assert_uint_eq(stats.errors, 0);
    ck_assert_uint_eq(stats.read_queue + stats.write_queue, 0);
    ck_assert_uint_gt(stats.read_per_second, 0);
    ck_assert_uint_gt(stats.write_per_second, 0);
    crn_store_close(st);
    buf_check_free(&mem);
    buf_check_free(&want);
    paths_tmp_remove();
}
END_TEST

/* ---- faults ---- */

struct fault {
    enum { SHORT, SHORT_ODD, AGAIN, FAIL, ZERO, LATE } kind;
    uint32_t op;
    int every, seen, error;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool open;
    int held;
};

static int fault_result(void *ctx, const struct crn_spill_io *io, uint64_t off, int res)
{
    struct fault *f = ctx;
    (void)off;
    pthread_mutex_lock(&f->lock);
    bool hit = io->op == f->op && ++f->seen % f->every == 0;
    int seen = f->seen;
    if (hit && f->kind == LATE) {
        f->held++;
        pthread_cond_broadcast(&f->changed);
        while (!f->open)
            pthread_cond_wait(&f->changed, &f->lock);
    }
    pthread_mutex_unlock(&f->lock);
    if (!hit || res <= 0)
        return res;
    switch (f->kind) {
    case SHORT:
        return res > 8192 ? res / 2 / 4096 * 4096 : res;
    case SHORT_ODD:
        return res > 8192 ? res / 2 + 77 : res;
    case AGAIN:
        return seen % 2 == 0 ? -EAGAIN : -EINTR;
    case FAIL:
        return -f->error;
    case ZERO:
        return 0;
    default:
        return res;
    }
}

static struct fault fault_of(int kind, uint32_t op, int every, int error)
{
    struct fault f = {.kind = kind, .op = op, .every = every, .error = error};
    pthread_mutex_init(&f.lock, NULL);
    pthread_cond_init(&f.changed, NULL);
    return f;
}

/* Until a transfer is held at its end. */
static void fault_await(struct fault *f)
{
    pthread_mutex_lock(&f->lock);
    while (f->held == 0)
        pthread_cond_wait(&f->changed, &f->lock);
    pthread_mutex_unlock(&f->lock);
}

/* Nothing is held any more. */
static void fault_end(struct fault *f)
{
    pthread_mutex_lock(&f->lock);
    f->open = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

START_TEST(short_and_interrupted_pieces_are_finished)
{
    static const int kinds[] = {SHORT, SHORT_ODD, AGAIN};
    for (int k = 0; k < 3; k++) {
        for (uint32_t op = CRN_SPILL_READ; op <= CRN_SPILL_WRITE; op++) {
            paths_tmp();
            struct fault f = fault_of(kinds[k], op, 2, 0);
            struct crn_spill_faults table = {fault_result, &f};
            struct crn_store *st = store_open(engines[_i], 32 * MIB, &table);
            ck_assert_int_eq(round_trip(st, 5 * MIB + 4321, (uint64_t)k), 0);
            struct crn_spill_stats stats;
            crn_spill_stats(crn_store_spill(st), &stats);
            ck_assert_uint_gt(kinds[k] == AGAIN ? stats.retries : stats.shorts, 0);
            ck_assert_uint_eq(stats.errors, 0);
            crn_store_close(st);
            paths_tmp_remove();
        }
    }
}
END_TEST

START_TEST(errors_fail_the_transfer_and_only_it)
{
    static const int errors[] = {EIO, ENOSPC, ENODEV};
    for (int e = 0; e < 3; e++) {
        paths_tmp();
        struct fault f = fault_of(FAIL, CRN_SPILL_WRITE, 3, errors[e]);
        struct crn_spill_faults table = {fault_result, &f};
        struct crn_store *st = store_open(engines[_i], 64 * MIB, &table);
        struct buf b = buf_new(20 * MIB);
        struct crn_place place;
        ck_assert_int_eq(crn_store_take(st, 20 * MIB, &place), 0);
        struct crn_spill_io w = io_of(CRN_SPILL_WRITE, &place, b.p);
        ck_assert_int_eq(run(st, &w), -errors[e]);
        struct crn_spill_stats stats;
        crn_spill_stats(crn_store_spill(st), &stats);
        ck_assert_uint_eq(stats.errors, 1);
        ck_assert_uint_eq(stats.in_flight, 0);
        f.every = 1000000;
        ck_assert_int_eq(round_trip(st, 2 * MIB, 5), 0);
        crn_store_close(st);
        buf_check_free(&b);
        paths_tmp_remove();
    }
}
END_TEST

START_TEST(endless_again_and_empty_reads_end_as_errors)
{
    paths_tmp();
    struct fault f = fault_of(AGAIN, CRN_SPILL_WRITE, 1, 0);
    struct crn_spill_faults table = {fault_result, &f};
    struct crn_store *st = store_open(engines[_i], 32 * MIB, &table);
    struct buf b = buf_new(MIB);
    struct crn_place place;
    ck_assert_int_eq(crn_store_take(st, MIB, &place), 0);
    struct crn_spill_io w = io_of(CRN_SPILL_WRITE, &place, b.p), r = io_of(CRN_SPILL_READ, &place, b.p);
    int result = run(st, &w);
    ck_assert(result == -EAGAIN || result == -EINTR);
    f.kind = ZERO;
    f.op = CRN_SPILL_READ;
    ck_assert_int_eq(run(st, &r), -ENODATA);
    crn_store_close(st);
    buf_check_free(&b);
    paths_tmp_remove();
}
END_TEST

START_TEST(late_completions_hold_the_memory_until_they_arrive)
{
    paths_tmp();
    struct fault f = fault_of(LATE, CRN_SPILL_READ, 1, 0);
    struct crn_spill_faults table = {fault_result, &f};
    struct crn_store *st = store_open(engines[_i], 32 * MIB, &table);
    struct buf b = buf_new(MIB);
    struct crn_place place;
    ck_assert_int_eq(crn_store_take(st, MIB, &place), 0);
    struct crn_spill_io r = io_of(CRN_SPILL_READ, &place, b.p);
    ck_assert_int_eq(crn_spill_submit(crn_store_spill(st), &r), 0);
    fault_await(&f);
    ck_assert_int_eq(crn_spill_wait(crn_store_spill(st), 1000000), CAIRN_E_TIMEOUT);
    ck_assert_ptr_null(crn_spill_take(crn_store_spill(st)));
    fault_end(&f);
    ck_assert_ptr_eq(take(st), &r);
    ck_assert_int_eq(r.result, 0);
    crn_store_close(st);
    buf_check_free(&b);
    paths_tmp_remove();
}
END_TEST

/* Reads come back while writes that were queued before them wait: the late first write holds the only place in flight. */
START_TEST(restores_overtake_spills)
{
    enum { N = 6 };
    paths_tmp();
    struct fault f = fault_of(LATE, CRN_SPILL_WRITE, 1, 0);
    struct crn_spill_faults table = {fault_result, &f};
    struct crn_store_config c = {.n_files = 1, .engine = engines[_i], .depth = 1, .faults = &table};
    c.files[0] = (struct crn_store_file_config){paths_tmp_file("store"), 32 * MIB};
    struct crn_store *st;
    ck_assert_int_eq(crn_store_open(&c, &st), 0);
    struct buf b = buf_new((N + 1) * MIB);
    struct crn_spill_io io[N + 1];
    for (int i = 0; i <= N; i++) {
        struct crn_place place;
        ck_assert_int_eq(crn_store_take(st, MIB, &place), 0);
        io[i] = io_of(i < N ? CRN_SPILL_WRITE : CRN_SPILL_READ, &place, b.p + (size_t)i * MIB);
        ck_assert_int_eq(crn_spill_submit(crn_store_spill(st), &io[i]), 0);
    }
    fault_await(&f);
    fault_end(&f);
    int place_of_read = -1;
    for (int i = 0; i <= N; i++) {
        if (take(st) == &io[N])
            place_of_read = i;
    }
    ck_assert_int_ge(place_of_read, 0);
    ck_assert_int_le(place_of_read, 1);
    crn_store_close(st);
    buf_check_free(&b);
    paths_tmp_remove();
}
END_TEST

START_TEST(a_flipped_bit_or_a_cut_file_is_never_handed_out)
{
    paths_tmp();
    struct crn_store *st = store_open(engines[_i], 32 * MIB, NULL);
    struct buf a = buf_new(2 * MIB);
    struct crn_place place;
    fill(a.p, a.bytes, 11);
    ck_assert_int_eq(crn_store_take(st, a.bytes, &place), 0);
    struct crn_spill_io w = io_of(CRN_SPILL_WRITE, &place, a.p), r = io_of(CRN_SPILL_READ, &place, a.p);
    ck_assert_int_eq(run(st, &w), 0);
    r.check = 1;
    r.checksum = crn_hash64(a.p, a.bytes);
    int fd = open(paths_tmp_file("store"), O_RDWR | O_CLOEXEC);
    uint8_t byte;
    ck_assert_int_eq(pread(fd, &byte, 1, (off_t)(place.off + MIB + 5)), 1);
    byte ^= 0x10;
    ck_assert_int_eq(pwrite(fd, &byte, 1, (off_t)(place.off + MIB + 5)), 1);
    ck_assert_int_eq(fsync(fd), 0);
    ck_assert_int_eq(run(st, &r), CAIRN_E_CORRUPT);
    ck_assert_int_eq(ftruncate(fd, (off_t)(place.off + MIB / 2)), 0);
    ck_assert_int_eq(run(st, &r), -ENODATA);
    struct crn_spill_stats stats;
    crn_spill_stats(crn_store_spill(st), &stats);
    ck_assert_uint_eq(stats.corrupt, 1);
    ck_assert_uint_eq(stats.errors, 2);
    close(fd);
    crn_store_close(st);
    buf_check_free(&a);
    paths_tmp_remove();
}
END_TEST

/* What is prepared waits in memory of its own: there must not be more of it than the files can take. */
enum { PREPARED = 60 };

static struct {
    pthread_mutex_t lock;
    uint32_t now, most;
    struct crn_spill_io ios[PREPARED];
    void *mem[PREPARED];
} prepared = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int prepare_one(struct crn_spill_io *io)
{
    void *mem;
    ck_assert_int_eq(posix_memalign(&mem, CRN_SPILL_ALIGN, 65536), 0);
    fill(mem, 65536, (uint64_t)(io - prepared.ios));
    pthread_mutex_lock(&prepared.lock);
    prepared.now++;
    prepared.most = prepared.now > prepared.most ? prepared.now : prepared.most;
    prepared.mem[io - prepared.ios] = mem;
    pthread_mutex_unlock(&prepared.lock);
    io->mem = mem;
    io->bytes = 65536;
    return 0;
}

static int prepare_empty(struct crn_spill_io *io)
{
    int status = prepare_one(io);
    memset(io->mem, 0, 65536);
    return status;
}

START_TEST(what_is_prepared_is_what_is_written)
{
    paths_tmp();
    struct crn_store *st = store_open(engines[_i], 32 * MIB, NULL);
    struct buf back = buf_new(65536), want = buf_new(65536);
    struct crn_place place[PREPARED];
    for (int i = 0; i < PREPARED; i++) {
        ck_assert_int_eq(crn_store_take(st, 100000, &place[i]), 0);
        prepared.ios[i] = io_of(CRN_SPILL_WRITE, &place[i], NULL);
        prepared.ios[i].prepare = prepare_one;
        ck_assert_int_eq(crn_spill_submit(crn_store_spill(st), &prepared.ios[i]), 0);
    }
    for (int i = 0; i < PREPARED; i++) {
        struct crn_spill_io *io = take(st);
        ck_assert_int_eq(io->result, 0);
        pthread_mutex_lock(&prepared.lock);
        prepared.now--;
        pthread_mutex_unlock(&prepared.lock);
    }
    for (int i = 0; i < PREPARED; i++) {
        struct crn_spill_io r = {.op = CRN_SPILL_READ, .file = place[i].file, .off = place[i].off, .bytes = 65536, .mem = back.p};
        fill(want.p, 65536, (uint64_t)i);
        ck_assert_int_eq(run(st, &r), 0);
        ck_assert_mem_eq(back.p, want.p, 65536);
        free(prepared.mem[i]);
    }
    crn_store_close(st);
    buf_check_free(&back);
    buf_check_free(&want);
    paths_tmp_remove();
}
END_TEST

/* The first write is held at its end: behind it nothing moves, and only so many are prepared. */
START_TEST(nothing_more_is_prepared_while_writes_wait)
{
    paths_tmp();
    struct fault f = fault_of(LATE, CRN_SPILL_WRITE, 1, 0);
    struct crn_spill_faults table = {fault_result, &f};
    struct crn_store_config c = {.n_files = 1, .engine = engines[_i], .depth = 1, .faults = &table};
    c.files[0] = (struct crn_store_file_config){paths_tmp_file("store"), 32 * MIB};
    struct crn_store *st;
    struct crn_place place;
    ck_assert_int_eq(crn_store_open(&c, &st), 0);
    for (int i = 0; i < PREPARED; i++) {
        ck_assert_int_eq(crn_store_take(st, 100000, &place), 0);
        prepared.ios[i] = io_of(CRN_SPILL_WRITE, &place, NULL);
        prepared.ios[i].prepare = prepare_one;
        ck_assert_int_eq(crn_spill_submit(crn_store_spill(st), &prepared.ios[i]), 0);
    }
    fault_await(&f);
    ck_assert_int_eq(crn_spill_wait(crn_store_spill(st), 300000000), CAIRN_E_TIMEOUT); /* they had time to run ahead */
    pthread_mutex_lock(&prepared.lock);
    ck_assert_uint_le(prepared.now, 16 + 1 + 2); /* waiting, in flight, one per thread that prepares */
    pthread_mutex_unlock(&prepared.lock);
    fault_end(&f);
    for (int i = 0; i < PREPARED; i++)
        ck_assert_int_eq(take(st)->result, 0);
    crn_store_close(st);
    for (int i = 0; i < PREPARED; i++)
        free(prepared.mem[i]);
    paths_tmp_remove();
}
END_TEST

/* Reads may ask for their memory when their turn comes: then only so many have any, and all get what they asked for. */
START_TEST(a_read_gets_its_memory_when_its_turn_comes)
{
    paths_tmp();
    struct fault f = fault_of(LATE, CRN_SPILL_READ, 1, 0);
    struct crn_spill_faults table = {fault_result, &f};
    struct crn_store_config c = {.n_files = 1, .engine = engines[_i], .depth = 1, .faults = &table};
    c.files[0] = (struct crn_store_file_config){paths_tmp_file("store"), 32 * MIB};
    struct crn_store *st;
    struct crn_place place[PREPARED];
    struct buf want = buf_new(65536);
    ck_assert_int_eq(crn_store_open(&c, &st), 0);
    for (int i = 0; i < PREPARED; i++) {
        ck_assert_int_eq(crn_store_take(st, 65536, &place[i]), 0);
        struct crn_spill_io w = io_of(CRN_SPILL_WRITE, &place[i], want.p);
        fill(want.p, 65536, (uint64_t)i);
        ck_assert_int_eq(run(st, &w), 0);
    }
    for (int i = 0; i < PREPARED; i++) {
        prepared.ios[i] = io_of(CRN_SPILL_READ, &place[i], NULL);
        prepared.ios[i].prepare = prepare_empty;
        ck_assert_int_eq(crn_spill_submit(crn_store_spill(st), &prepared.ios[i]), 0);
    }
    fault_await(&f);
    ck_assert_int_eq(crn_spill_wait(crn_store_spill(st), 300000000), CAIRN_E_TIMEOUT);
    pthread_mutex_lock(&prepared.lock);
    ck_assert_uint_le(prepared.now, 16 + 1 + 2);
    pthread_mutex_unlock(&prepared.lock);
    fault_end(&f);
    for (int i = 0; i < PREPARED; i++)
        ck_assert_int_eq(take(st)->result, 0);
    for (int i = 0; i < PREPARED; i++) {
        fill(want.p, 65536, (uint64_t)i);
        ck_assert_mem_eq(prepared.mem[i], want.p, 65536);
        free(prepared.mem[i]);
    }
    crn_store_close(st);
    buf_check_free(&want);
    paths_tmp_remove();
}
END_TEST

/* ---- where things are not allowed ---- */

static void forbid_io_uring(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, __builtin_offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
    ck_assert_int_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    ck_assert_int_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

START_TEST(threads_take_over_where_io_uring_is_forbidden)
{
    paths_tmp();
    forbid_io_uring();
    struct crn_store_config c = {.n_files = 1, .engine = CRN_SPILL_URING};
    c.files[0] = (struct crn_store_file_config){paths_tmp_file("store"), 16 * MIB};
    struct crn_store *st = NULL;
    ck_assert_int_eq(crn_store_open(&c, &st), -EPERM);
    ck_assert_ptr_null(st);
    st = store_open(CRN_SPILL_AUTO, 16 * MIB, NULL);
    const char *text = crn_spill_text(crn_store_spill(st));
    ck_assert_msg(strstr(text, "threads (12; io_uring: ") == text, "%s", text);
    ck_assert_int_eq(round_trip(st, 3 * MIB, 1), 0);
    crn_store_close(st);
    paths_tmp_remove();
}
END_TEST

START_TEST(little_memory_to_lock_means_plain_addresses)
{
    paths_tmp();
    struct rlimit small = {1 << 20, 1 << 20};
    ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &small), 0);
    const char *dir = paths_tmp_file(".");
    if (geteuid() == 0) { /* root may lock what it likes */
        ck_assert_int_eq(chown(dir, 65534, 65534), 0);
        ck_assert_int_eq(setresgid(65534, 65534, 65534), 0);
        ck_assert_int_eq(setresuid(65534, 65534, 65534), 0);
    }
    struct crn_store *st = store_open(CRN_SPILL_URING, 16 * MIB, NULL);
    struct buf b = buf_new(8 * MIB);
    ck_assert_int_lt(crn_spill_offer(crn_store_spill(st), b.p, b.bytes), 0);
    struct crn_place place;
    ck_assert_int_eq(crn_store_take(st, b.bytes, &place), 0);
    struct crn_spill_io w = io_of(CRN_SPILL_WRITE, &place, b.p);
    ck_assert_int_eq(run(st, &w), 0);
    crn_store_close(st);
    buf_check_free(&b);
    paths_tmp_remove();
}
END_TEST

/* ---- store files ---- */

START_TEST(a_store_keeps_its_uuid_and_grows)
{
    paths_tmp();
    struct crn_store *st = store_open(CRN_SPILL_THREADS, 4 * MIB, NULL);
    struct cairn_digest uuid = crn_store_uuid(st, 0);
    ck_assert_uint_eq(crn_store_limit_bytes(st), 4 * MIB - 65536);
    ck_assert_int_eq(crn_store_find(st, &uuid), 0);
    crn_store_close(st);
    st = store_open(CRN_SPILL_THREADS, 6 * MIB, NULL);
    struct cairn_digest again = crn_store_uuid(st, 0);
    ck_assert_mem_eq(&uuid, &again, sizeof uuid);
    ck_assert_uint_eq(crn_store_limit_bytes(st), 6 * MIB - 65536);
    crn_store_close(st);
    st = store_open(CRN_SPILL_THREADS, 0, NULL);
    ck_assert_uint_eq(crn_store_limit_bytes(st), 6 * MIB - 65536);
    crn_store_close(st);
    paths_tmp_remove();
}
END_TEST

START_TEST(extents_go_to_the_files_in_turn)
{
    paths_tmp();
    char a[256], b[256];
    snprintf(a, sizeof a, "%s", paths_tmp_file("a"));
    snprintf(b, sizeof b, "%s", paths_tmp_file("b"));
    struct crn_store_config c = {.n_files = 2, .files = {{a, 2 * MIB}, {b, 4 * MIB}}};
    struct crn_store *st;
    ck_assert_int_eq(crn_store_open(&c, &st), 0);
    struct crn_place place;
    uint32_t in[2] = {0, 0};
    for (int i = 0; crn_store_take(st, 65536, &place) == 0; i++) {
        ck_assert_msg(i >= 60 || place.file == (uint32_t)i % 2, "extent %d went to file %u", i, place.file);
        in[place.file]++;
    }
    ck_assert_uint_eq(in[0], 31);
    ck_assert_uint_eq(in[1], 63);
    ck_assert_uint_eq(crn_store_used_bytes(st), crn_store_limit_bytes(st));
    ck_assert_int_eq(crn_store_free(st, &place), 0);
    ck_assert_int_eq(crn_store_free(st, &place), CAIRN_E_STALE);
    ck_assert_int_eq(crn_store_reserve(st, &place), 0);
    ck_assert_int_eq(crn_store_reserve(st, &place), CAIRN_E_CORRUPT);
    place.file = 2;
    ck_assert_int_eq(crn_store_reserve(st, &place), CAIRN_E_CORRUPT);
    place = (struct crn_place){.file = 0, .off = 0, .bytes = 10};
    ck_assert_int_eq(crn_store_reserve(st, &place), CAIRN_E_CORRUPT);
    place = (struct crn_place){.file = 1, .off = 3 * MIB, .bytes = UINT64_MAX - 5};
    ck_assert_int_eq(crn_store_reserve(st, &place), CAIRN_E_CORRUPT);
    crn_store_close(st);
    paths_tmp_remove();
}
END_TEST

START_TEST(a_file_serves_one_broker)
{
    paths_tmp();
    struct crn_store *st = store_open(CRN_SPILL_THREADS, 4 * MIB, NULL), *second = NULL;
    struct crn_store_config c = {.n_files = 1, .files = {{paths_tmp_file("store"), 4 * MIB}}};
    ck_assert_int_eq(crn_store_open(&c, &second), CAIRN_E_BUSY);
    crn_store_close(st);
    paths_tmp_remove();
}
END_TEST

static void flip(const char *path, off_t at)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint8_t byte;
    ck_assert_int_eq(pread(fd, &byte, 1, at), 1);
    byte ^= 1;
    ck_assert_int_eq(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

START_TEST(a_damaged_superblock_starts_the_file_anew)
{
    static const off_t at[] = {8, 20, 32, 500, 4090};
    paths_tmp();
    struct crn_store *st = store_open(CRN_SPILL_THREADS, 4 * MIB, NULL);
    struct cairn_digest uuid = crn_store_uuid(st, 0);
    crn_store_close(st);
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        flip(paths_tmp_file("store"), at[i]);
        st = store_open(CRN_SPILL_THREADS, 0, NULL);
        struct cairn_digest now = crn_store_uuid(st, 0);
        ck_assert_mem_ne(&uuid, &now, sizeof uuid);
        ck_assert_uint_eq(crn_store_limit_bytes(st), 4 * MIB - 65536);
        uuid = now;
        crn_store_close(st);
    }
    paths_tmp_remove();
}
END_TEST

START_TEST(a_file_that_is_no_store_is_left_alone)
{
    paths_tmp();
    FILE *f = fopen(paths_tmp_file("store"), "w");
    for (int i = 0; i < 2000; i++)
        fputs("somebody's letter\n", f);
    fclose(f);
    struct crn_store_config c = {.n_files = 1, .files = {{paths_tmp_file("store"), 4 * MIB}}};
    struct crn_store *st = NULL;
    ck_assert_int_eq(crn_store_open(&c, &st), CAIRN_E_FORMAT);
    struct stat s;
    ck_assert_int_eq(stat(paths_tmp_file("store"), &s), 0);
    ck_assert_int_eq(s.st_size, 36000);
    paths_tmp_remove();
}
END_TEST

START_TEST(a_full_disk_is_told_when_the_file_is_made)
{
    const char *dir = paths_tmp();
    if (geteuid() != 0 || mount("none", dir, "tmpfs", 0, "size=4m") != 0) {
        fprintf(stderr, "not run: no right to mount a tmpfs\n");
        paths_tmp_remove();
        return;
    }
    struct crn_store_config c = {.n_files = 1, .files = {{paths_tmp_file("store"), 8 * MIB}}};
    struct crn_store *st = NULL;
    int status = crn_store_open(&c, &st);
    int left = access(paths_tmp_file("store"), F_OK);
    c.files[0].bytes = 2 * MIB;
    int smaller = crn_store_open(&c, &st);
    if (smaller == 0)
        crn_store_close(st);
    ck_assert_int_eq(umount2(dir, MNT_DETACH), 0); /* a ring's files close a little after it */
    ck_assert_int_eq(status, -ENOSPC);
    ck_assert_int_ne(left, 0);
    ck_assert_int_eq(smaller, 0);
    paths_tmp_remove();
}
END_TEST

/* A random history of takes and frees against a plain array of owners. */
START_TEST(granules_have_one_owner_each)
{
    enum { TOTAL = 1000, RUNS = 64 };
    struct crn_store_alloc *a;
    static uint8_t owner[TOTAL];
    struct {
        uint32_t first, n;
    } runs[RUNS] = {{0, 0}};
    uint64_t seed = 42;
    ck_assert_int_eq(crn_store_alloc_create(TOTAL, &a), 0);
    for (int step = 0; step < 20000; step++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        uint32_t r = (uint32_t)(seed >> 40) % RUNS, n = (uint32_t)(seed >> 33) % 40 + 1;
        if (runs[r].n > 0) {
            ck_assert_int_eq(crn_store_alloc_free(a, runs[r].first, runs[r].n), 0);
            memset(owner + runs[r].first, 0, runs[r].n);
            runs[r].n = 0;
        } else if (crn_store_alloc_take(a, n, &runs[r].first) == 0) {
            runs[r].n = n;
            for (uint32_t i = 0; i < n; i++) {
                ck_assert_uint_lt(runs[r].first + i, TOTAL);
                ck_assert_uint_eq(owner[runs[r].first + i], 0);
                owner[runs[r].first + i] = 1;
            }
        }
        uint32_t used = 0;
        for (int i = 0; i < TOTAL; i++)
            used += owner[i];
        ck_assert_uint_eq(crn_store_alloc_used(a), used);
    }
    crn_store_alloc_destroy(a);
}
END_TEST

START_TEST(nonsense_is_refused_before_it_reaches_the_kernel)
{
    paths_tmp();
    struct crn_store *st = store_open(engines[_i], 4 * MIB, NULL);
    struct crn_spill *s = crn_store_spill(st);
    struct buf b = buf_new(MIB);
    struct crn_spill_io good = {.op = CRN_SPILL_READ, .off = 65536, .bytes = 4096, .mem = b.p}, io;
    io = good, io.op = 0;
    ck_assert_int_eq(crn_spill_submit(s, &io), CAIRN_E_ARG);
    io = good, io.file = 1;
    ck_assert_int_eq(crn_spill_submit(s, &io), CAIRN_E_ARG);
    io = good, io.off = 100;
    ck_assert_int_eq(crn_spill_submit(s, &io), CAIRN_E_ARG);
    io = good, io.bytes = 0;
    ck_assert_int_eq(crn_spill_submit(s, &io), CAIRN_E_ARG);
    io = good, io.bytes = UINT64_MAX;
    ck_assert_int_eq(crn_spill_submit(s, &io), CAIRN_E_ARG);
    io = good, io.mem = b.p + 8;
    ck_assert_int_eq(crn_spill_submit(s, &io), CAIRN_E_ARG);
    io = good;
    ck_assert_int_eq(run(st, &io), 0);
    struct crn_store_config c = {.n_files = 0};
    ck_assert_int_eq(crn_store_open(&c, &st), CAIRN_E_ARG);
    crn_store_close(st);
    buf_check_free(&b);
    paths_tmp_remove();
}
END_TEST

START_TEST(close_finishes_what_was_submitted)
{
    enum { N = 12 };
    paths_tmp();
    struct crn_store *st = store_open(engines[_i], 32 * MIB, NULL);
    struct buf b = buf_new(N * MIB), c = buf_new(N * MIB);
    struct crn_spill_io io[N];
    fill(b.p, b.bytes, 3);
    for (int i = 0; i < N; i++) {
        struct crn_place place;
        ck_assert_int_eq(crn_store_take(st, MIB, &place), 0);
        ck_assert_uint_eq(place.off, 65536 + (uint64_t)i * MIB);
        io[i] = io_of(CRN_SPILL_WRITE, &place, b.p + (size_t)i * MIB);
        ck_assert_int_eq(crn_spill_submit(crn_store_spill(st), &io[i]), 0);
    }
    crn_store_close(st);
    int fd = open(paths_tmp_file("store"), O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(pread(fd, c.p, c.bytes, 65536), (ssize_t)c.bytes);
    ck_assert_mem_eq(b.p, c.p, b.bytes);
    close(fd);
    buf_check_free(&b);
    buf_check_free(&c);
    paths_tmp_remove();
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(extents_of_any_size_come_back, N_ENGINES),
        RUN_TEST(registered_memory_changes_nothing_but_the_cost),
        RUN_LOOP(many_transfers_from_several_threads_stay_within_the_depth, N_ENGINES),
        RUN_LOOP(short_and_interrupted_pieces_are_finished, N_ENGINES),
        RUN_LOOP(errors_fail_the_transfer_and_only_it, N_ENGINES),
        RUN_LOOP(endless_again_and_empty_reads_end_as_errors, N_ENGINES),
        RUN_LOOP(late_completions_hold_the_memory_until_they_arrive, N_ENGINES),
        RUN_LOOP(restores_overtake_spills, N_ENGINES),
        RUN_LOOP(what_is_prepared_is_what_is_written, N_ENGINES),
        RUN_LOOP(nothing_more_is_prepared_while_writes_wait, N_ENGINES),
        RUN_LOOP(a_read_gets_its_memory_when_its_turn_comes, N_ENGINES),
        RUN_LOOP(a_flipped_bit_or_a_cut_file_is_never_handed_out, N_ENGINES),
        RUN_TEST(threads_take_over_where_io_uring_is_forbidden),
        RUN_TEST(little_memory_to_lock_means_plain_addresses),
        RUN_TEST(a_store_keeps_its_uuid_and_grows),
        RUN_TEST(extents_go_to_the_files_in_turn),
        RUN_TEST(a_file_serves_one_broker),
        RUN_TEST(a_damaged_superblock_starts_the_file_anew),
        RUN_TEST(a_file_that_is_no_store_is_left_alone),
        RUN_TEST(a_full_disk_is_told_when_the_file_is_made),
        RUN_TEST(granules_have_one_owner_each),
        RUN_LOOP(nonsense_is_refused_before_it_reaches_the_kernel, N_ENGINES),
        RUN_LOOP(close_finishes_what_was_submitted, N_ENGINES),
    };
    return run_suite("broker_spill", tests, sizeof tests / sizeof tests[0]);
}
