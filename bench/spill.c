/* bench/spill - how fast extents go down and come back, against fio on the same file with the same block size and depth.
 *
 * usage: spill [DIR [MIB [ROUNDS]]]    (default: build/bench, 768, 5; with CAIRN_BENCH_QUICK 256, 3)
 * Per round and direction, one after the other on one file that was written once before: fio, our engines, fio. Reads are
 * checksummed (that is what a restore costs) unless the row says otherwise. fio is asked for io_uring, O_DIRECT, 1 MiB and the same
 * depth, with registered file and buffers; without it the rows have no baseline. CPU is of this process, user and system. */
#include "bench/common.h"
#include "bench/peers.h"
#include "broker/store.h"
#include "ipc/hash.h"
#include "ipc/log.h"
#include "ipc/mem.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)
#define MAX_ROUNDS 15
#define MAX_EXTENTS 4096u
#define EXTENT_BYTES (3 * MIB) /* a layer of SmolLM2 at 4096 tokens, f16 */

static const struct way {
    const char *name;
    enum crn_spill_engine engine;
    bool offer, check;
} ways[] = {
    {"io_uring", CRN_SPILL_URING, false, true},
    {"io_uring, memory registered", CRN_SPILL_URING, true, true},
    {"io_uring, no checksum", CRN_SPILL_URING, false, false},
    {"threads", CRN_SPILL_THREADS, false, true},
};
#define N_WAYS (sizeof ways / sizeof ways[0])

struct result { /* [0]: writes, [1]: reads */
    struct bench_samples rate[2], cpu[2]; /* GB/s; CPU seconds per GiB */
};

static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static void die(const char *what, int status)
{
    fprintf(stderr, "bench spill: %s: %s\n", what, cairn_strerror(status));
    exit(1);
}

struct bench {
    struct crn_store_config config;
    struct crn_mem mem;
    struct crn_place places[MAX_EXTENTS];
    uint64_t sums[MAX_EXTENTS];
    struct crn_spill_io ios[MAX_EXTENTS];
    uint32_t n;
    char path[4096], text[160];
};

static void move_all(struct bench *b, struct crn_spill *s, uint32_t op, bool check)
{
    for (uint32_t i = 0; i < b->n; i++) {
        b->ios[i] = (struct crn_spill_io){.op = op,
                                          .file = b->places[i].file,
                                          .off = b->places[i].off,
                                          .bytes = EXTENT_BYTES,
                                          .mem = (char *)b->mem.base + (size_t)i * EXTENT_BYTES,
                                          .check = check,
                                          .checksum = b->sums[i]};
        int status = crn_spill_submit(s, &b->ios[i]);
        if (status != 0)
            die("submit", status);
    }
    for (uint32_t i = 0; i < b->n; i++) {
        int status = crn_spill_wait(s, 60000000000ull);
        struct crn_spill_io *io = status == 0 ? crn_spill_take(s) : NULL;
        if (io == NULL || io->result != 0)
            die("transfer", io == NULL ? status : io->result);
    }
}

/* One direction through one engine; places are taken anew, in the same order, because nothing else is in the store. */
static void one_way(struct bench *b, const struct way *w, uint32_t op, struct result *out)
{
    struct crn_store *st;
    b->config.engine = w->engine;
    int status = crn_store_open(&b->config, &st);
    for (uint32_t i = 0; i < b->n && status == 0; i++)
        status = crn_store_take(st, EXTENT_BYTES, &b->places[i]);
    if (status != 0)
        die("store", status);
    struct crn_spill *s = crn_store_spill(st);
    if (w->offer)
        crn_spill_offer(s, b->mem.base, b->mem.bytes);
    snprintf(b->path, sizeof b->path, "%s", crn_store_path(st, 0));
    snprintf(b->text, sizeof b->text, "%s", crn_spill_text(s));
    double cpu = cpu_seconds(), start = bench_now_s(), bytes = (double)b->n * (double)EXTENT_BYTES;
    move_all(b, s, op, w->check && op == CRN_SPILL_READ);
    double took = bench_now_s() - start;
    if (out != NULL) {
        bench_sample(&out->rate[op == CRN_SPILL_READ], bytes / took * 1e-9);
        bench_sample(&out->cpu[op == CRN_SPILL_READ], (cpu_seconds() - cpu) / bytes * 1073741824.0);
    }
    crn_store_close(st);
}

/* "registered" is what a broker uses; only its rows have a goal. */
static void report(const struct way *w, struct result *r, const struct bench_samples *reference, int reads)
{
    char name[80], note[120];
    snprintf(name, sizeof name, "%s, %s", reads ? "restore" : "spill", w->name);
    snprintf(note, sizeof note, "extents of %zu KiB, 1 MiB pieces, depth %u; %.3f CPU s/GiB", EXTENT_BYTES / 1024, CRN_SPILL_DEPTH,
             bench_quantile(&r->cpu[reads], 0.5));
    bool fio_ran = reference->n > 0;
    bench_report(&(struct bench_figure){.group = "spill", .name = name, .unit = "GB/s", .own = &r->rate[reads],
                                        .baseline = fio_ran ? "fio, same file, block and depth" : NULL, .other = reference,
                                        .goal_on = fio_ran && w->offer ? BENCH_GOAL_RATIO : BENCH_GOAL_NONE, .at_least = 1,
                                        .goal = 0.9, .note = note});
}

static void run_fio(struct bench *b, const char *rw, size_t mib, struct bench_samples *out)
{
    double rate = bench_fio(b->path, rw, mib * MIB);
    if (rate > 0)
        bench_sample(out, rate);
}

/* fio before and after: neither side always follows the other's last writes. */
static void one_direction(struct bench *b, uint32_t op, size_t mib, struct result *results, struct bench_samples *reference)
{
    const char *rw = op == CRN_SPILL_READ ? "read" : "write";
    run_fio(b, rw, mib, reference);
    for (size_t w = 0; w < N_WAYS; w++)
        one_way(b, &ways[w], op, &results[w]);
    run_fio(b, rw, mib, reference);
    if (op == CRN_SPILL_WRITE)
        one_way(b, &ways[0], op, NULL); /* fio has written over what will be read */
}

int main(int argc, char **argv)
{
    static struct bench b;
    static struct result results[N_WAYS], reference;
    const char *dir = argc > 1 ? argv[1] : "build/bench";
    size_t mib = argc > 2 ? strtoul(argv[2], NULL, 10) : bench_quick() ? 256 : 768;
    int rounds = argc > 3 ? (int)strtol(argv[3], NULL, 10) : bench_quick() ? 3 : 5;
    if (mib < 8 || mib * MIB / EXTENT_BYTES > MAX_EXTENTS || rounds < 1 || rounds > MAX_ROUNDS) {
        fprintf(stderr, "usage: %s [DIR [MIB 8..3072 [ROUNDS 1..%d]]]\n", argv[0], MAX_ROUNDS);
        return 2;
    }
    crn_log_setup("bench", CRN_LOG_WARN);
    mkdir(dir, 0777); /* its parent is there; a failure shows when the file is made */
    b.n = (uint32_t)(mib * MIB / EXTENT_BYTES);
    b.config.n_files = 1;
    b.config.files[0] = (struct crn_store_file_config){dir, (mib + 16) * MIB};
    int status = crn_mem_host.create((uint64_t)b.n * EXTENT_BYTES, 0, CRN_MEM_ARENA, &b.mem);
    if (status != 0)
        die("memory", status);
    for (size_t i = 0; i < b.mem.bytes / 8; i++)
        ((uint64_t *)b.mem.base)[i] = i * 0x9E3779B97F4A7C15ull;
    for (uint32_t i = 0; i < b.n; i++)
        b.sums[i] = crn_hash64((char *)b.mem.base + (size_t)i * EXTENT_BYTES, EXTENT_BYTES);
    one_way(&b, &ways[0], CRN_SPILL_WRITE, NULL); /* the first pass over fresh extents does not count */
    for (int r = 0; r < rounds; r++) {
        one_direction(&b, CRN_SPILL_WRITE, mib, results, &reference.rate[0]);
        one_direction(&b, CRN_SPILL_READ, mib, results, &reference.rate[1]);
    }
    for (int reads = 0; reads < 2; reads++) {
        for (size_t w = 0; w < N_WAYS; w++)
            report(&ways[w], &results[w], &reference.rate[reads], reads);
    }
    unlink(b.path);
    crn_mem_host.destroy(&b.mem);
    return 0;
}
