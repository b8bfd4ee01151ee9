/* bench/spill_catalog - a broker that knows 10^5 contexts of 1,024 tokens, all of them on NVMe: how long it takes to start, what it
 * keeps in memory for each, and how long a match takes.
 *
 * usage: spill_catalog [ENTRIES]
 * The catalogue is written with the broker's own code; the store file is as long as it would be and has no bytes in it, because a
 * match reads none. Then a real cairnd starts on it. Matches ask for contexts at random; the baseline is the same broker's answer
 * about contexts that it does not know. Numbers of the broker's memory come from /proc. */
#include "bench/common.h"
#include "bench/host.h"
#include "broker/catalog.h"
#include "broker/spill_format.h"
#include "ipc/hash.h"
#include "ipc/layout.h"
#include "ipc/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LAYERS = 30, HEADS = 3, HEAD_DIM = 64, HIDDEN = 576, TOKENS = 1024, CHUNKS = TOKENS / 64, AT_ONCE = 200 };

struct bench {
    struct bench_broker broker;
    char store[128], catalog[160];
    uint64_t n, layer_bytes;
};

static void tokens_of(uint64_t entry, int32_t *out)
{
    uint64_t at = (entry + 1) * 0x9e3779b97f4a7c15u + bench_seed();
    for (uint32_t i = 0; i < TOKENS; i++) {
        at = at * 6364136223846793005u + 1442695040888963407u;
        out[i] = (int32_t)(at >> 48);
    }
}

static struct cairn_digest digest_of(int byte)
{
    struct cairn_digest d;
    memset(&d, byte, sizeof d);
    return d;
}

/* ---- making it ---- */

static uint64_t granules_bytes(uint64_t bytes)
{
    return (bytes + CRN_STORE_GRANULE_BYTES - 1) / CRN_STORE_GRANULE_BYTES * CRN_STORE_GRANULE_BYTES;
}

/* A store without bytes, as large as it needs to be. */
static void make_store(const struct bench *b, struct cairn_digest *uuid)
{
    _Alignas(4096) struct crn_superblock block;
    *uuid = digest_of(77);
    crn_superblock_make(uuid, CRN_STORE_GRANULE_BYTES + b->n * LAYERS * granules_bytes(b->layer_bytes), &block);
    int fd = open(b->store, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bench_must(fd < 0 ? -errno : 0, b->store);
    bench_must(pwrite(fd, &block, sizeof block, 0) == (ssize_t)sizeof block ? 0 : -EIO, b->store);
    bench_must(ftruncate(fd, (off_t)block.size_bytes) == 0 ? 0 : -errno, "a sparse file");
    close(fd);
}

static void add_entry(const struct bench *b, struct crn_catalog *c, uint16_t file, struct crn_cat_batch *batch, uint64_t i)
{
    int32_t tokens[TOKENS];
    uint64_t hashes[CHUNKS];
    struct crn_cat_payload payloads[LAYERS + 1];
    uint32_t count = TOKENS;
    struct crn_cat_entry e = {.id = crn_catalog_next_id(c), .created_s = 1, .producer = digest_of(7), .family = digest_of(8),
                              .shape = {LAYERS, HEADS, HEAD_DIM, HIDDEN}, .n_tokens = TOKENS, .n_payloads = LAYERS + 1,
                              .n_counts = 1, .n_hashes = CHUNKS, .settings = "", .payloads = payloads, .counts = &count,
                              .hashes = hashes};
    snprintf(e.space, sizeof e.space, "default");
    snprintf(e.label, sizeof e.label, "bench");
    tokens_of(i, tokens);
    crn_hash_chain(&e.family, tokens, TOKENS, hashes);
    payloads[0] = (struct crn_cat_payload){.bytes = sizeof tokens, .checksum = crn_hash64(tokens, sizeof tokens), .n_counts = 1,
                                           .file = CRN_CATALOG_NO_FILE, .kind = CRN_PAYLOAD_TOKENS, .dtype = CAIRN_F32,
                                           .shared_pos = 1};
    for (uint32_t l = 0; l < LAYERS; l++)
        payloads[l + 1] = (struct crn_cat_payload){
            .off = CRN_STORE_GRANULE_BYTES + (i * LAYERS + l) * granules_bytes(b->layer_bytes), .bytes = b->layer_bytes,
            .n_counts = 1, .file = file, .layer = (uint16_t)l, .kind = CRN_PAYLOAD_KV, .dtype = CAIRN_F16, .shared_pos = 1};
    bench_must(crn_cat_put_entry(batch, &e, tokens), "record");
}

static void make_catalog(struct bench *b)
{
    struct cairn_digest uuid;
    struct crn_catalog *c;
    struct crn_catalog_config config = {.path = b->catalog};
    bool damaged;
    uint16_t file;
    make_store(b, &uuid);
    bench_must(crn_catalog_open(&config, &damaged, &c), "catalogue");
    bench_must(crn_catalog_file(c, &uuid, &file), "catalogue");
    for (uint64_t i = 0; i < b->n;) {
        struct crn_cat_batch *batch = crn_cat_batch_new();
        for (int j = 0; j < AT_ONCE && i < b->n; j++)
            add_entry(b, c, file, batch, i++);
        bench_must(crn_catalog_apply(c, batch), "commit");
    }
    crn_catalog_close(c);
}

/* ---- the broker ---- */

/* "VmRSS", "RssAnon": bytes. */
static double memory_of(pid_t pid, const char *name)
{
    char path[64], line[256];
    double kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ':')
            kib = strtod(line + strlen(name) + 1, NULL);
    }
    if (f != NULL)
        fclose(f);
    return kib * 1024;
}

static struct cairn_client *client_of(const struct bench *b)
{
    struct cairn_options o = CAIRN_OPTIONS_INIT;
    struct cairn_client *client;
    o.socket = b->broker.socket;
    o.label = "bench";
    o.shape = (struct cairn_shape){LAYERS, HEADS, HEAD_DIM, HIDDEN};
    o.model = digest_of(7);
    o.family = digest_of(8);
    bench_must(cairn_open(&o, &client), "cairn_open");
    return client;
}

static double match_us(struct cairn_client *client, uint64_t entry, uint32_t want)
{
    int32_t tokens[TOKENS];
    struct cairn_query query = CAIRN_QUERY_INIT;
    struct cairn_match m;
    tokens_of(entry, tokens);
    query.tokens = tokens;
    query.n_tokens = TOKENS;
    double begin = bench_now_s();
    int status = cairn_match(client, &query, cairn_deadline_in(10000), &m);
    double end = bench_now_s();
    bench_must(status == CAIRN_E_MISS && want == 0 ? 0 : status, "cairn_match");
    bench_must(want > 0 && m.n_tokens != want ? CAIRN_E_MISS : 0, "a context that is there");
    return (end - begin) * 1e6;
}

/* before_bytes: of an empty broker, anonymous, and with mapped files. */
static void measure(struct bench *b, const double before_bytes[2])
{
    uint64_t at = bench_seed(), n_matches = bench_quick() ? 2000 : 20000;
    struct bench_samples own = {0}, unknown = {0}, rss = {0}, anon = {0};
    struct cairn_client *client = client_of(b);
    bench_sample(&anon, (memory_of(b->broker.pid, "RssAnon") - before_bytes[0]) / (double)b->n);
    for (uint64_t i = 0; i < n_matches; i++) {
        at = at * 6364136223846793005u + 1442695040888963407u;
        bench_sample(&own, match_us(client, (at >> 33) % b->n, TOKENS));
        bench_sample(&unknown, match_us(client, b->n + i, 0));
    }
    bench_sample(&rss, (memory_of(b->broker.pid, "RssAnon") + memory_of(b->broker.pid, "RssFile") - before_bytes[1]) / (double)b->n);
    bench_report(&(struct bench_figure){.group = "spill", .name = "match, all entries on NVMe", .unit = "us", .own = &own,
                                        .baseline = "a context that is not there", .other = &unknown, .goal_on = BENCH_GOAL_P99,
                                        .goal = 1000, .note = "random contexts; 64 MiB of arenas"});
    bench_report(&(struct bench_figure){.group = "spill", .name = "broker memory per entry", .unit = "bytes", .own = &anon,
                                        .goal_on = BENCH_GOAL_MEDIAN, .goal = 2048,
                                        .note = "anonymous, after start, without that of an empty broker"});
    bench_report(&(struct bench_figure){.group = "spill", .name = "broker RSS per entry, after the matches", .unit = "bytes",
                                        .own = &rss, .goal_on = BENCH_GOAL_MEDIAN, .goal = 2048,
                                        .note = "with mapped pages of the catalogue; without arenas and an empty broker"});
    cairn_close(client);
    bench_samples_free(&own);
    bench_samples_free(&unknown);
    bench_samples_free(&rss);
    bench_samples_free(&anon);
}

int main(int argc, char **argv)
{
    static struct bench b;
    struct crn_head_parts parts[HEADS];
    uint32_t counts[HEADS] = {TOKENS, TOKENS, TOKENS};
    struct crn_kv_spec spec = {.dtype = CAIRN_F16, .n_kv_heads = HEADS, .head_dim = HEAD_DIM, .shared_pos = 1, .n = counts};
    char dir[] = "/tmp/cairn-bench-XXXXXX";
    struct bench_samples start = {0};
    crn_log_setup("bench", CRN_LOG_WARN);
    bench_must(crn_layout_kv(&spec, parts, &b.layer_bytes), "layout");
    bench_must(mkdtemp(dir) == NULL ? -errno : 0, "mkdtemp");
    b.n = argc > 1 ? strtoull(argv[1], NULL, 10) : bench_quick() ? 10000 : 100000;
    snprintf(b.store, sizeof b.store, "%s/store", dir);
    snprintf(b.catalog, sizeof b.catalog, "%s.catalog", b.store);
    bench_broker_start(&b.broker, "64M");
    double anon = memory_of(b.broker.pid, "RssAnon"), empty[2] = {anon, anon + memory_of(b.broker.pid, "RssFile")};
    bench_broker_stop(&b.broker);
    make_catalog(&b);
    double begin = bench_now_s();
    bench_broker_start_nvme(&b.broker, "64M", b.store);
    bench_sample(&start, bench_now_s() - begin);
    char name[64];
    snprintf(name, sizeof name, "start with %llu entries", (unsigned long long)b.n);
    bench_report(&(struct bench_figure){.group = "spill", .name = name, .unit = "s", .own = &start,
                                        .note = "until the first answer; 30 layers, 1,024 tokens each, catalogue in the page cache"});
    measure(&b, empty);
    bench_broker_stop(&b.broker);
    char path[200];
    static const char *const files[] = {"store", "store.catalog", "store.catalog-lock"};
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        unlink(path);
    }
    rmdir(dir);
    bench_samples_free(&start);
    return 0;
}
