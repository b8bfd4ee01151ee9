/* bench/gpu_tiers - how fast payloads leave a device and come back: to page-locked host memory over the bus, and to NVMe.
 *
 * First the copies themselves, as the broker makes them (extents of one layer, on its stream, a fence at the end), against one
 * copy of as many bytes. Then a real cairnd: an entry that was just published is spilled by order, and restored by an attach that
 * waits for every layer; against the bare copy (host tier) and fio (NVMe). Each round publishes an entry of its own, because
 * what is on NVMe already is not written again. A tier that this broker does not have is said, and left out. */
#include "bench/common.h"
#include "bench/gpu.h"
#include "bench/peers.h"

#include "ipc/cuda_driver.h"
#include "ipc/log.h"
#include "ipc/mem.h"
#include "kernels/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DOWN, UP, WAYS };

static const char *const way_names[WAYS] = {"device to page-locked host", "page-locked host to device"};
static const char *const scratch_path = "build/bench/gpu-tiers.fio";

static struct bench_entry entry_of(const struct bench_gpu *g, uint64_t round)
{
    if (g->emulated)
        return (struct bench_entry){2, 64, bench_seed() + round};
    return (struct bench_entry){32, 2048, bench_seed() + round}; /* 256 MiB */
}

static uint64_t entry_bytes(const struct bench_entry *e)
{
    return e->n_layers * bench_layer_bytes(e);
}

/* ---- copies ---- */

struct copies {
    struct crn_mem device, host;
    uint64_t bytes, extent;
};

static void copies_open(struct copies *c, const struct bench_entry *e)
{
    c->bytes = entry_bytes(e);
    c->extent = bench_layer_bytes(e);
    bench_must(crn_mem_cuda_vmm.create(c->bytes, 0, CRN_MEM_ARENA, &c->device), "device segment");
    bench_must(crn_mem_host.create(c->bytes, -1, CRN_MEM_ARENA, &c->host), "host segment");
    bench_must(crn_cuda_pin(0, c->host.base, c->bytes), "page-locking");
    memset(c->host.base, 1, c->bytes);
}

static void copies_close(struct copies *c)
{
    crn_cuda_unpin(0, c->host.base, c->bytes);
    crn_mem_host.destroy(&c->host);
    crn_mem_cuda_vmm.destroy(&c->device);
}

/* GB/s of all bytes in pieces. */
static double copy_all(struct copies *c, int way, uint64_t piece)
{
    struct crn_mem *to = way == DOWN ? &c->host : &c->device, *from = way == DOWN ? &c->device : &c->host;
    double begin = bench_now_s();
    for (uint64_t off = 0; off < c->bytes; off += piece)
        bench_must(crn_mem_cuda_vmm.copy(to, off, from, off, c->bytes - off < piece ? c->bytes - off : piece), "copy");
    bench_must(crn_mem_cuda_vmm.fence(&c->device), "fence");
    return 1e-9 * (double)c->bytes / (bench_now_s() - begin);
}

static void measure_copies(const struct bench_gpu *g, struct bench_samples whole[WAYS])
{
    struct bench_entry e = entry_of(g, 0);
    struct bench_samples pieces[WAYS] = {{0}};
    struct copies c = {0};
    int rounds = g->emulated ? 1 : bench_quick() ? 10 : 50;
    copies_open(&c, &e);
    copy_all(&c, UP, c.extent);
    for (int i = 0; i < rounds; i++) {
        for (int way = 0; way < WAYS; way++) {
            bench_sample(&pieces[way], copy_all(&c, way, c.extent));
            bench_sample(&whole[way], copy_all(&c, way, c.bytes));
        }
    }
    for (int way = 0; way < WAYS; way++) {
        bench_report(&(struct bench_figure){.group = "gpu tiers", .name = way_names[way], .unit = "GB/s", .own = &pieces[way],
                                            .baseline = "one copy of as many bytes", .other = &whole[way],
                                            .note = "256 MiB in extents of 8 MiB, one stream, a fence at the end"});
        bench_samples_free(&pieces[way]);
    }
    copies_close(&c);
}

/* ---- through the broker ---- */

struct tier {
    const char *name, *baseline;
    uint32_t tier; /* enum cairn_tier */
    struct bench_samples rate[WAYS], other[WAYS];
    int missing;
};

static void wait_for_all(struct cairn_lease *lease, const struct bench_entry *e)
{
    for (uint32_t l = 0; l < e->n_layers; l++)
        bench_must(cairn_wait(lease, 0, l, CAIRN_WAIT_KV, cairn_deadline_in(60000)), "cairn_wait");
}

/* One entry down and up; what comes back is compared in the first round. */
static void one_round(const struct bench_gpu *g, struct cairn_client *client, struct tier *t, uint64_t round)
{
    struct cairn_query query = CAIRN_QUERY_INIT;
    struct cairn_lease *lease;
    struct bench_entry e = entry_of(g, round);
    int32_t *tokens = bench_tokens(&e);
    struct cairn_entry_id id = bench_gpu_publish(g, client, &e);
    double gb = 1e-9 * (double)entry_bytes(&e), begin = bench_now_s();
    int status = cairn_spill(client, id, 0, e.n_layers - 1, t->tier, cairn_deadline_in(60000));
    t->missing = status != 0;
    if (status != 0) {
        printf("gpu tiers: no figures for %s: %s\n", t->name, cairn_error(client));
    } else {
        bench_sample(&t->rate[DOWN], gb / (bench_now_s() - begin));
        query.tokens = tokens;
        query.n_tokens = e.n_tokens;
        begin = bench_now_s();
        bench_must(cairn_attach(client, &query, cairn_deadline_in(60000), &lease), "cairn_attach");
        wait_for_all(lease, &e);
        bench_sample(&t->rate[UP], gb / (bench_now_s() - begin));
        if (t->rate[UP].n == 1)
            bench_must(bench_gpu_lease_equal(g, lease, &e) ? 0 : CAIRN_E_FORMAT, "contents");
        cairn_release(lease);
    }
    bench_must(cairn_evict(client, id, cairn_deadline_in(60000), NULL, NULL), "cairn_evict");
    free(tokens);
}

static void report_tier(const struct tier *t)
{
    for (int way = 0; way < WAYS && !t->missing; way++) {
        char name[64];
        snprintf(name, sizeof name, "%s %s", way == DOWN ? "spill to" : "restore from", t->name);
        bench_report(&(struct bench_figure){.group = "gpu tiers", .name = name, .unit = "GB/s", .own = &t->rate[way],
                                            .baseline = t->other[way].n > 0 ? t->baseline : NULL, .other = &t->other[way],
                                            .note = "through cairnd, 256 MiB of 32 layers, checksums included"});
    }
}

/* A file for fio, as large as it asks for. */
static void run_fio(struct tier *t, uint64_t bytes)
{
    int fd = open(scratch_path, O_RDWR | O_CREAT, 0600);
    bench_must(fd < 0 || posix_fallocate(fd, 0, (off_t)(bytes + ((uint64_t)1 << 20))) != 0 ? -errno : 0, scratch_path);
    close(fd);
    double down = bench_fio(scratch_path, "write", bytes), up = bench_fio(scratch_path, "read", bytes);
    if (down > 0 && up > 0) {
        bench_sample(&t->other[DOWN], down);
        bench_sample(&t->other[UP], up);
    }
    unlink(scratch_path);
}

static void measure_tiers(const struct bench_gpu *g, const struct bench_broker *broker, struct bench_samples whole[WAYS])
{
    struct tier tiers[] = {{.name = "host memory", .baseline = "the bare copy", .tier = CAIRN_TIER_HOST},
                           {.name = "NVMe", .baseline = "fio, same block and depth", .tier = CAIRN_TIER_NVME}};
    struct bench_entry e = entry_of(g, 0);
    struct cairn_client *client = bench_client_on_device(broker, e.n_layers, "tiers");
    int rounds = g->emulated ? 1 : bench_quick() ? 3 : 9;
    for (int i = 0; i < rounds; i++) {
        for (size_t k = 0; k < 2; k++)
            if (!tiers[k].missing)
                one_round(g, client, &tiers[k], 1 + 2 * (uint64_t)i + k);
        if (!g->emulated)
            run_fio(&tiers[1], entry_bytes(&e));
    }
    memcpy(tiers[0].other, whole, sizeof tiers[0].other); /* borrowed */
    for (size_t k = 0; k < 2; k++)
        report_tier(&tiers[k]);
    for (int way = 0; way < WAYS; way++) {
        bench_samples_free(&tiers[0].rate[way]);
        bench_samples_free(&tiers[1].rate[way]);
        bench_samples_free(&tiers[1].other[way]);
    }
    cairn_close(client);
}

int main(void)
{
    struct bench_broker broker;
    struct bench_gpu g;
    struct bench_samples whole[WAYS] = {{0}};
    char store[128];
    crn_log_setup("bench", CRN_LOG_WARN);
    int toy = bench_gpu_require();
    mkdir("build", 0777);
    mkdir("build/bench", 0777);
    snprintf(store, sizeof store, "build/bench/gpu-store-%d:%s", (int)getpid(), toy ? "64M" : "4G");
    const char *const options[] = {"--device", "cuda:0", "--memory", toy ? "16M" : "2G", "--nvme", store,
                                   toy ? "--arena-size" : NULL, "8M", NULL};
    bench_broker_start_with(&broker, options);
    bench_gpu_open(&g);
    measure_copies(&g, whole);
    measure_tiers(&g, &broker, whole);
    for (int way = 0; way < WAYS; way++)
        bench_samples_free(&whole[way]);
    bench_gpu_close(&g);
    bench_broker_stop(&broker);
    return 0;
}
