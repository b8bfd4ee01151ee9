/* bench/gpu_attach - how long a worker waits for device memory that another one has published, over cuda-vmm against cuda-ipc.
 *
 * Two real cairnds on one device, one of each kind, a publisher (helper) for each, and this process, the reader of both. Series
 * are taken in turns, in blocks. Warm: arenas are mapped, an attachment is numbers. First: a client that has just connected, so
 * that the arenas are imported on the way. Contents are compared in full before. */
#include "bench/common.h"
#include "bench/gpu.h"

#include "ipc/log.h"

#include <stdio.h>
#include <stdlib.h>

enum { KINDS = 2, SIZES = 3, BLOCK = 21 };

static const char *const kind_names[KINDS] = {"cuda-vmm", "cuda-ipc"};
static const char *const size_names[SIZES] = {"16 MiB", "256 MiB", "2 GiB"};

struct side {
    struct bench_broker broker;
    struct bench_helper publisher;
    struct cairn_client *client;
    struct bench_samples warm[SIZES], first[SIZES];
};

static int toy; /* on the emulator */

static int n_sizes(void)
{
    return toy ? 1 : bench_quick() ? 2 : SIZES;
}

static struct bench_entry entry_of(int size)
{
    static const uint32_t n_tokens[SIZES] = {128, 2048, 16384}; /* 128 KiB each */
    if (toy)
        return (struct bench_entry){2, 64, bench_seed()};
    return (struct bench_entry){32, n_tokens[size], bench_seed() + (uint64_t)size};
}

/* Publishes all sizes, says so, and stays until the end: cuda-ipc's arenas are the broker's, but its own rows are here. */
static void publisher_run(int fd, void *ctx)
{
    struct bench_gpu g;
    struct bench_entry e = entry_of(0);
    bench_gpu_open(&g);
    struct cairn_client *client = bench_client_on_device(ctx, e.n_layers, "publisher");
    for (int i = 0; i < n_sizes(); i++) {
        e = entry_of(i);
        bench_gpu_publish(&g, client, &e);
    }
    bench_order_send(fd, &(struct bench_order){0});
    while (bench_order_get(fd).what != BENCH_BYE)
        continue;
    cairn_close(client);
    bench_gpu_close(&g);
}

static void open_side(struct side *s, int kind)
{
    const char *const options[] = {"--device", "cuda:0", "--mem-kind", kind_names[kind], "--memory", toy ? "16M" : "5G",
                                   toy ? "--arena-size" : NULL, "8M", NULL};
    bench_broker_start_with(&s->broker, options);
    bench_helper_start(&s->publisher, publisher_run, &s->broker);
    bench_order_get(s->publisher.fd);
}

static void close_side(struct side *s)
{
    for (int i = 0; i < SIZES; i++) {
        bench_samples_free(&s->warm[i]);
        bench_samples_free(&s->first[i]);
    }
    cairn_close(s->client);
    bench_helper_end(&s->publisher);
    bench_broker_stop(&s->broker);
}

static void compare_contents(const struct bench_gpu *g, struct side *s)
{
    for (int i = 0; i < n_sizes(); i++) {
        struct bench_entry e = entry_of(i);
        int32_t *tokens = bench_tokens(&e);
        struct cairn_lease *lease = bench_attach(s->client, &e, tokens);
        bench_must(bench_gpu_lease_equal(g, lease, &e) ? 0 : CAIRN_E_FORMAT, "contents");
        cairn_release(lease);
        free(tokens);
    }
}

static void warm_block(struct side *s, int size, const int32_t *tokens)
{
    struct bench_entry e = entry_of(size);
    for (int i = 0; i < BLOCK; i++) {
        double begin = bench_now_s();
        struct cairn_lease *lease = bench_attach(s->client, &e, tokens);
        if (i > 0)
            bench_sample(&s->warm[size], 1e6 * (bench_now_s() - begin));
        cairn_release(lease);
    }
}

static void first_attach(struct side *s, int size, const int32_t *tokens)
{
    struct bench_entry e = entry_of(size);
    struct cairn_client *fresh = bench_client_on_device(&s->broker, e.n_layers, "first");
    bench_must(cairn_connect(fresh, cairn_deadline_in(30000)), "cairn_connect");
    double begin = bench_now_s();
    struct cairn_lease *lease = bench_attach(fresh, &e, tokens);
    bench_sample(&s->first[size], 1e3 * (bench_now_s() - begin));
    cairn_release(lease);
    cairn_close(fresh);
}

static void report(struct side sides[KINDS], int size)
{
    char name[96];
    snprintf(name, sizeof name, "attach %s, %s", size_names[size], kind_names[0]);
    bench_report(&(struct bench_figure){.group = "gpu attach", .name = name, .unit = "us", .own = &sides[0].warm[size],
                                        .baseline = "the same over cuda-ipc", .other = &sides[1].warm[size],
                                        .note = "arenas mapped before; back to back"});
    snprintf(name, sizeof name, "first attach of a client, %s, %s", size_names[size], kind_names[0]);
    bench_report(&(struct bench_figure){.group = "gpu attach", .name = name, .unit = "ms", .own = &sides[0].first[size],
                                        .baseline = "the same over cuda-ipc", .other = &sides[1].first[size],
                                        .note = "arenas imported on the way; the client was connected"});
}

static void measure(struct side sides[KINDS], int size)
{
    struct bench_entry e = entry_of(size);
    int32_t *tokens = bench_tokens(&e);
    int blocks = toy ? 1 : bench_quick() ? 10 : 50, firsts = toy ? 2 : bench_quick() ? 10 : 50;
    for (int i = 0; i < blocks; i++)
        for (int k = 0; k < KINDS; k++)
            warm_block(&sides[k], size, tokens);
    for (int k = 0; k < KINDS; k++) { /* the reader's own mappings would hide the import */
        cairn_close(sides[k].client);
        sides[k].client = NULL;
    }
    for (int i = 0; i < firsts; i++)
        for (int k = 0; k < KINDS; k++)
            first_attach(&sides[k], size, tokens);
    for (int k = 0; k < KINDS; k++)
        sides[k].client = bench_client_on_device(&sides[k].broker, e.n_layers, "reader");
    free(tokens);
}

int main(void)
{
    static struct side sides[KINDS];
    struct bench_gpu g;
    crn_log_setup("bench", CRN_LOG_WARN);
    toy = bench_gpu_require();
    for (int k = 0; k < KINDS; k++)
        open_side(&sides[k], k);
    bench_gpu_open(&g);
    for (int k = 0; k < KINDS; k++) {
        sides[k].client = bench_client_on_device(&sides[k].broker, entry_of(0).n_layers, "reader");
        compare_contents(&g, &sides[k]);
    }
    for (int i = 0; i < n_sizes(); i++) {
        measure(sides, i);
        report(sides, i);
    }
    for (int k = 0; k < KINDS; k++)
        close_side(&sides[k]);
    bench_gpu_close(&g);
    return 0;
}
