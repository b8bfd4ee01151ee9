/* bench/attach - how long a worker waits for memory that another one has published, whatever its
 * size.
 *
 * Processes: a real cairnd, a publisher (helper), a raw ZeroMQ ROUTER (helper), and this one, the
 * reader. Series are taken in turns, in blocks: raw round trips, attaches of 16 MiB, 256 MiB, 2
 * GiB, each released before the next begins; first back to back, then each after a pause in which
 * all processes fall asleep. "Attach" ends when the views of layer 0 can be read. Contents are
 * compared in full, once in place and once in the copies. Then: small matches while a publisher
 * keeps the broker's copy thread busy with gathers, and those gathers with and without the matches.
 */
#include "bench/common.h"
#include "bench/host.h"
#include "bench/peers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SIZES = 3, LAYERS = 32, GATHER_ENTRY = 100, BLOCK = 21, RAW = -1, RAW_AWAKE = -2, AWAKE_US = 200 };

static const char *const size_names[SIZES] = {"16 MiB", "256 MiB", "2 GiB"};

enum order { ORDER_PUBLISH = 1, ORDER_GATHER };

struct reader {
    struct bench_broker broker;
    struct bench_helper publisher, pong;
    struct bench_ping *ping;
    struct cairn_client *client;
    int n_sizes;
    struct bench_entry entry[SIZES];
    int32_t *tokens[SIZES];
};

static struct bench_entry entry_of(int size)
{
    static const uint32_t n_tokens[SIZES] = {128, 2048, 16384}; /* 128 KiB each */
    return (struct bench_entry){LAYERS, n_tokens[size], bench_seed() + (uint64_t)size};
}

/* ---- publisher ---- */

/* half: the broker gathers every second row. */
static void publish(struct cairn_client *client, const struct bench_entry *e, void *kv, int half)
{
    struct cairn_draft_options o = CAIRN_DRAFT_INIT;
    struct cairn_draft *draft;
    struct cairn_entry_id id;
    uint32_t counts[8], *index = calloc(e->n_tokens, sizeof *index);
    const uint32_t *lists[8] = {index};
    int32_t *tokens = bench_tokens(e);
    uint64_t deadline_ns = cairn_deadline_in(120000);
    bench_must(index == NULL ? -ENOMEM : 0, "index");
    for (uint32_t i = 0; i < e->n_tokens / 2; i++)
        index[i] = 2 * i;
    for (uint32_t i = 0; i < 8; i++)
        counts[i] = e->n_tokens / 2;
    o.tokens = tokens;
    o.n_tokens = e->n_tokens;
    o.pyramid = half ? CAIRN_PYRAMID_PUBLISH : CAIRN_PYRAMID_NONE;
    int status = cairn_draft_open(client, &o, deadline_ns, &draft);
    bench_must(status, cairn_error(client));
    for (uint32_t l = 0; l < e->n_layers; l++) {
        struct cairn_put put = CAIRN_PUT_INIT;
        if (!half)
            bench_layer_fill(e, l, kv);
        put.layer = l;
        put.src_dtype = CAIRN_F16;
        put.k = kv;
        put.v = (uint8_t *)kv + bench_layer_bytes(e) / 2;
        put.n = e->n_tokens;
        put.counts = half ? counts : NULL;
        put.index = half ? lists : NULL;
        put.shared_index = 1;
        bench_must(cairn_put_layer(draft, &put, deadline_ns), "cairn_put_layer");
    }
    bench_must(cairn_commit(draft, deadline_ns, &id), "cairn_commit");
    if (half)
        bench_must(cairn_evict(client, id, deadline_ns, NULL, NULL), "cairn_evict");
    free(tokens);
    free(index);
}

static void publisher_run(int fd, void *ctx)
{
    struct bench_broker *broker = ctx;
    struct bench_entry largest = entry_of(SIZES - 1), gathered = entry_of(1);
    void *kv = bench_memory(bench_layer_bytes(&largest));
    struct cairn_client *client = bench_client(broker, LAYERS, "publisher");
    gathered.n_tokens *= bench_quick() ? 1 : 2;
    for (struct bench_order o = bench_order_get(fd); o.what != BENCH_BYE; o = bench_order_get(fd)) {
        double begin = bench_now_s();
        if (o.what == ORDER_PUBLISH) {
            struct bench_entry e = entry_of((int)o.a);
            publish(client, &e, kv, 0);
        } else {
            gathered.seed = GATHER_ENTRY + o.a;
            publish(client, &gathered, kv, 1);
        }
        o.at_s = bench_now_s() - begin;
        bench_order_send(fd, &o);
    }
    cairn_close(client);
}

/* ---- reader ---- */

static void open_all(struct reader *r, char *address)
{
    r->n_sizes = bench_quick() ? 2 : SIZES;
    bench_broker_start(&r->broker, bench_quick() ? "1500M" : "4G");
    snprintf(address, 112, "ipc://%s/raw", r->broker.dir);
    bench_helper_start(&r->publisher, publisher_run, &r->broker);
    bench_helper_start(&r->pong, bench_pong_run, address);
    bench_order_get(r->pong.fd);
    r->ping = bench_ping_open(address);
    r->client = bench_client(&r->broker, LAYERS, "reader");
    for (int i = 0; i < r->n_sizes; i++) {
        r->entry[i] = entry_of(i);
        r->tokens[i] = bench_tokens(&r->entry[i]);
        bench_order_send(r->publisher.fd,
                         &(struct bench_order){.what = ORDER_PUBLISH, .a = (uint64_t)i});
        bench_order_get(r->publisher.fd);
    }
}

static void close_all(struct reader *r)
{
    for (int i = 0; i < r->n_sizes; i++)
        free(r->tokens[i]);
    cairn_close(r->client);
    bench_ping_close(r->ping);
    bench_helper_end(&r->pong);
    bench_helper_end(&r->publisher);
    bench_broker_stop(&r->broker);
}

static void compare_contents(struct reader *r)
{
    for (int i = 0; i < r->n_sizes; i++) {
        struct cairn_lease *lease = bench_attach(r->client, &r->entry[i], r->tokens[i]);
        bench_must(bench_lease_equal(lease, &r->entry[i]) ? 0 : CAIRN_E_FORMAT, "contents");
        cairn_release(lease);
    }
}

/* Lets what was sent last (a release has no answer) come to rest. The other processes fall asleep
 * meanwhile. */
static void settle(void)
{
    double until = bench_now_s() + 200e-6;
    while (bench_now_s() < until)
        continue;
}

/* A block of exchanges of one kind; the first one warms up. s: an entry, RAW or RAW_AWAKE. */
static void block(struct reader *r, int s, int paused, struct bench_samples *out)
{
    for (int i = 0; i < BLOCK; i++) {
        struct cairn_lease *lease = NULL;
        if (paused)
            settle();
        double begin = bench_now_s();
        if (s < 0)
            bench_ping_once(r->ping, s == RAW_AWAKE ? AWAKE_US : 0);
        else
            lease = bench_attach(r->client, &r->entry[s], r->tokens[s]);
        if (i > 0)
            bench_sample(out, 1e6 * (bench_now_s() - begin));
        cairn_release(lease);
    }
}

static void attach_only(struct reader *r, int paused)
{
    struct bench_samples ping = {0}, awake = {0}, attach[SIZES] = {{0}};
    int rounds = bench_quick() ? 20 : 150;
    for (int i = 0; i < rounds; i++) {
        block(r, RAW, paused, &ping);
        block(r, RAW_AWAKE, paused, &awake);
        for (int s = 0; s < r->n_sizes; s++)
            block(r, s, paused, &attach[s]);
    }
    for (int s = 0; s < r->n_sizes; s++) {
        char name[64];
        snprintf(name, sizeof name, "attach %s%s", size_names[s], paused ? ", after a pause" : "");
        struct bench_figure f = {"attach",
                                 name,
                                 "us",
                                 &attach[s],
                                 "raw DEALER-ROUTER round trip",
                                 &ping,
                                 0,
                                 BENCH_GOAL_RATIO,
                                 0,
                                 1.5,
                                 paused ? "all processes asleep before each"
                                        : "back to back, releases between them not timed"};
        bench_report(&f);
        snprintf(name, sizeof name, "attach %s%s, p99", size_names[s],
                 paused ? ", after a pause" : "");
        f.goal_on = BENCH_GOAL_P99;
        f.goal = 1000;
        bench_report(&f);
        bench_samples_free(&attach[s]);
    }
    bench_report(&(struct bench_figure){
        "attach", paused ? "raw round trip, awake, after a pause" : "raw round trip, awake", "us",
        &awake, "raw DEALER-ROUTER round trip", &ping, 0, BENCH_GOAL_NONE, 0, 0,
        "looks for the answer up to 200 us before it sleeps, as libcairn does"});
    bench_samples_free(&awake);
    bench_samples_free(&ping);
}

static void attach_and_copy(struct reader *r, int s)
{
    struct bench_samples both = {0}, plain = {0};
    uint64_t bytes = bench_layer_bytes(&r->entry[s]) * LAYERS;
    int rounds = bench_quick() || s == SIZES - 1 ? 5 : 15;
    void *to = bench_memory(bytes), *from = bench_memory(bytes);
    for (int i = 0; i < rounds; i++) {
        double begin = bench_now_s();
        struct cairn_lease *lease = bench_attach(r->client, &r->entry[s], r->tokens[s]);
        bench_lease_copy(lease, &r->entry[s], to);
        bench_sample(&both, 1e3 * (bench_now_s() - begin));
        cairn_release(lease);
        begin = bench_now_s();
        memcpy(from, to, bytes);
        bench_sample(&plain, 1e3 * (bench_now_s() - begin));
    }
    for (uint32_t l = 0; l < LAYERS; l++)
        bench_must(
            bench_layer_equal(&r->entry[s], l, (uint8_t *)to + l * bench_layer_bytes(&r->entry[s]))
                ? 0
                : CAIRN_E_FORMAT,
            "contents of a copy");
    munmap(to, bytes);
    munmap(from, bytes);
    char name[64];
    snprintf(name, sizeof name, "attach + copy %s", size_names[s]);
    bench_report(&(struct bench_figure){"attach", name, "ms", &both, "memcpy of as many bytes",
                                        &plain, 0, BENCH_GOAL_NONE, 0, 0,
                                        "destination pre-faulted; contents compared"});
    bench_samples_free(&both);
    bench_samples_free(&plain);
}

/* ---- matches and gathers ---- */

static void match_once(struct reader *r, struct bench_samples *out)
{
    struct cairn_query query = CAIRN_QUERY_INIT;
    struct cairn_match match;
    query.tokens = r->tokens[0];
    query.n_tokens = r->entry[0].n_tokens;
    double begin = bench_now_s();
    bench_must(cairn_match(r->client, &query, cairn_deadline_in(30000), &match), "cairn_match");
    bench_sample(out, 1e6 * (bench_now_s() - begin));
    bench_must(match.n_tokens == query.n_tokens ? 0 : CAIRN_E_FORMAT, "match");
}

static void gather_round(struct reader *r, uint64_t number, struct bench_samples *during,
                         struct bench_samples *gather)
{
    bench_order_send(r->publisher.fd, &(struct bench_order){.what = ORDER_GATHER, .a = number});
    while (during != NULL && !bench_order_waits(r->publisher.fd))
        match_once(r, during);
    bench_sample(gather, bench_order_get(r->publisher.fd).at_s);
}

static void matches_and_gathers(struct reader *r)
{
    struct bench_samples idle = {0}, during = {0}, alone = {0}, disturbed = {0}, warm = {0};
    int rounds = bench_quick() ? 3 : 9;
    gather_round(r, 0, NULL, &warm);
    for (int i = 0; i < rounds; i++) {
        for (int k = 0; k < 300; k++)
            match_once(r, &idle);
        gather_round(r, 2 * (uint64_t)i + 1, NULL, &alone);
        gather_round(r, 2 * (uint64_t)i + 2, &during, &disturbed);
    }
    bench_report(&(struct bench_figure){"attach", "match while a large gather runs", "us", &during,
                                        "match on an idle broker", &idle, 0, BENCH_GOAL_P99, 0,
                                        1000, "publisher and copy thread take both cores"});
    bench_report(&(struct bench_figure){"attach", "large gather while matches run", "s", &disturbed,
                                        "the same gather alone", &alone, 0, BENCH_GOAL_RATIO, 0,
                                        1.5, "matches back to back; half of the rows gathered"});
    bench_samples_free(&idle);
    bench_samples_free(&during);
    bench_samples_free(&alone);
    bench_samples_free(&disturbed);
    bench_samples_free(&warm);
}

int main(void)
{
    static struct reader r;
    char address[112];
    open_all(&r, address);
    compare_contents(&r);
    attach_only(&r, 0);
    attach_only(&r, 1);
    for (int s = 0; s < r.n_sizes; s++)
        attach_and_copy(&r, s);
    matches_and_gathers(&r);
    close_all(&r);
    return 0;
}
