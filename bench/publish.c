/* bench/publish - from "A's last layer is complete" to "B may read all of it", for 1 GiB of keys
 * and values in 32 layers.
 *
 * A (helper) makes the layers one after the other in private memory, as a prefill does; B (this
 * process) waits for A's word, then gets the whole. Time runs from the moment the last layer is
 * complete in A's memory.
 *
 *   streamed   each layer is handed over as soon as it is complete; only the last one is left when
 * time starts at once    all layers are handed over when time has started in place   Cairn only:
 * the layer is made in the landing zone, there is nothing to copy in
 *
 * Peers copy into B's memory, whose pages are there. Cairn attaches; its copy series copies too. B
 * compares all contents after every round. Ways take turns within a round. */
#include "bench/common.h"
#include "bench/host.h"
#include "bench/peers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 32 };
#define STORES 3

static const struct bench_store_ops *const stores[STORES] = {&bench_store_redis, &bench_store_lmdb,
                                                             &bench_store_memfd};

/* How a round goes: a store's number, or one of Cairn's. */
enum way { CAIRN = STORES, CAIRN_IN_PLACE, WAYS };

struct bench {
    struct bench_broker broker;
    struct bench_helper a;
    struct cairn_client *client;
    int usable[STORES];
    void *to; /* B's memory */
    void *kv; /* A's */
    uint64_t round;
    struct bench_samples took[WAYS][2]; /* [streamed] in ms */
    struct bench_samples attach, attach_copy;
};

static struct bench_entry entry_of(uint64_t round)
{
    return (struct bench_entry){LAYERS, bench_quick() ? 1024 : 8192, bench_seed() * 1000 + round};
}

static void *layer_at(const struct bench_entry *e, void *kv, uint32_t layer)
{
    return (uint8_t *)kv + layer * bench_layer_bytes(e);
}

/* ---- A ---- */

static double to_store(const struct bench_store_ops *store, const struct bench_entry *e, void *kv,
                       int streamed)
{
    for (uint32_t l = 0; l + 1 < LAYERS; l++) {
        bench_layer_fill(e, l, layer_at(e, kv, l));
        if (streamed)
            store->put(l, layer_at(e, kv, l));
    }
    bench_layer_fill(e, LAYERS - 1, layer_at(e, kv, LAYERS - 1));
    double complete_s = bench_now_s();
    for (uint32_t l = streamed ? LAYERS - 1 : 0; l < LAYERS; l++)
        store->put(l, layer_at(e, kv, l));
    return complete_s;
}

static void put_layer(struct cairn_draft *draft, const struct bench_entry *e, uint32_t layer,
                      const void *kv)
{
    struct cairn_put put = CAIRN_PUT_INIT;
    put.layer = layer;
    put.src_dtype = CAIRN_F16;
    put.k = kv;
    put.v = (const uint8_t *)kv + bench_layer_bytes(e) / 2;
    put.n = e->n_tokens;
    bench_must(cairn_put_layer(draft, &put, cairn_deadline_in(60000)), "cairn_put_layer");
}

static struct cairn_draft *open_draft(struct cairn_client *client, const struct bench_entry *e,
                                      int32_t *tokens)
{
    struct cairn_draft_options o = CAIRN_DRAFT_INIT;
    struct cairn_draft *draft;
    o.tokens = tokens;
    o.n_tokens = e->n_tokens;
    bench_must(cairn_draft_open(client, &o, cairn_deadline_in(60000), &draft), "cairn_draft_open");
    return draft;
}

static double to_cairn(struct cairn_client *client, const struct bench_entry *e, void *kv,
                       const struct bench_order *o, uint64_t *out_entry)
{
    int32_t *tokens = bench_tokens(e);
    int in_place = o->what == CAIRN_IN_PLACE, streamed = o->b != 0;
    struct cairn_draft *draft = open_draft(client, e, tokens);
    struct cairn_entry_id id;
    double complete_s = 0;
    for (uint32_t l = 0; l < LAYERS; l++) {
        void *at = layer_at(e, kv, l);
        if (in_place)
            bench_must(
                cairn_draft_reserve(draft, bench_layer_bytes(e), cairn_deadline_in(60000), &at),
                "cairn_draft_reserve");
        bench_layer_fill(e, l, at);
        complete_s = bench_now_s();
        if (streamed)
            put_layer(draft, e, l, at);
    }
    for (uint32_t l = 0; l < LAYERS && !streamed; l++)
        put_layer(draft, e, l, layer_at(e, kv, l));
    bench_must(cairn_commit(draft, cairn_deadline_in(60000), &id), "cairn_commit");
    free(tokens);
    *out_entry = id.v;
    return complete_s;
}

/* Orders: what = way, a = round, b = streamed. Answer: a = entry, at_s = when the last layer was
 * complete. */
static void a_run(int fd, void *ctx)
{
    struct bench *b = ctx;
    struct bench_entry any = entry_of(0);
    void *kv = bench_memory(LAYERS * bench_layer_bytes(&any));
    struct cairn_client *client = bench_client(&b->broker, LAYERS, "A");
    for (struct bench_order o = bench_order_get(fd); o.what != BENCH_BYE; o = bench_order_get(fd)) {
        struct bench_entry e = entry_of(o.a);
        if (o.what < STORES)
            o.at_s = to_store(stores[o.what], &e, kv, o.b != 0);
        else
            o.at_s = to_cairn(client, &e, kv, &o, &o.a);
        bench_order_send(fd, &o);
    }
    cairn_close(client);
}

/* ---- B ---- */

static void take_from_store(struct bench *b, enum way way, const struct bench_entry *e,
                            double *out_end_s)
{
    stores[way]->get(b->to);
    *out_end_s = bench_now_s();
    for (uint32_t l = 0; l < LAYERS; l++)
        bench_must(bench_layer_equal(e, l, layer_at(e, b->to, l)) ? 0 : CAIRN_E_FORMAT,
                   stores[way]->name);
}

static void take_from_cairn(struct bench *b, const struct bench_entry *e, uint64_t entry,
                            double *out_end_s)
{
    int32_t *tokens = bench_tokens(e);
    double begin = bench_now_s();
    struct cairn_lease *lease = bench_attach(b->client, e, tokens);
    *out_end_s = bench_now_s();
    if (b->round > 0)
        bench_sample(&b->attach, 1e3 * (*out_end_s - begin));
    bench_must(bench_lease_equal(lease, e) ? 0 : CAIRN_E_FORMAT, "contents");
    begin = bench_now_s();
    bench_lease_copy(lease, e, b->to);
    if (b->round > 0)
        bench_sample(&b->attach_copy, 1e3 * (bench_now_s() - begin));
    cairn_release(lease);
    bench_must(cairn_evict(b->client, (struct cairn_entry_id){entry}, cairn_deadline_in(30000),
                           NULL, NULL),
               "cairn_evict");
    free(tokens);
}

static void hand_over(struct bench *b, enum way way, int streamed)
{
    static uint64_t number;
    struct bench_entry e = entry_of(++number);
    double end_s;
    bench_order_send(b->a.fd,
                     &(struct bench_order){.what = way, .a = number, .b = (uint64_t)streamed});
    struct bench_order done = bench_order_get(b->a.fd);
    if (way < STORES)
        take_from_store(b, way, &e, &end_s);
    else
        take_from_cairn(b, &e, done.a, &end_s);
    if (b->round > 0) /* the first round faults pages in */
        bench_sample(&b->took[way][streamed], 1e3 * (end_s - done.at_s));
}

static void one_round(struct bench *b)
{
    for (int streamed = 0; streamed < 2; streamed++)
        for (int way = 0; way < WAYS; way++)
            if ((way >= STORES || b->usable[way]) && (way != CAIRN_IN_PLACE || streamed))
                hand_over(b, (enum way)way, streamed);
    b->round++;
}

/* ---- figures ---- */

static const char *const how[] = {"all at once", "streamed"};

static int best_store(const struct bench *b, int streamed)
{
    int best = -1;
    for (int i = 0; i < STORES; i++)
        if (b->usable[i] && (best < 0 || bench_quantile(&b->took[i][streamed], 0.5) <
                                             bench_quantile(&b->took[best][streamed], 0.5)))
            best = i;
    return best;
}

/* One of Cairn's series against the best copying peer that hands over in the same way. */
static void against_best(const struct bench *b, const char *name, const struct bench_samples *own,
                         int streamed, double goal, const char *note)
{
    int best = best_store(b, streamed);
    char peer[96];
    snprintf(peer, sizeof peer, "%s, %s", stores[best]->name, how[streamed]);
    bench_report(&(struct bench_figure){.group = "publish",
                                        .name = name,
                                        .unit = "ms",
                                        .own = own,
                                        .baseline = peer,
                                        .other = &b->took[best][streamed],
                                        .inverse = 1,
                                        .goal_on = goal > 0 ? BENCH_GOAL_RATIO : BENCH_GOAL_NONE,
                                        .at_least = 1,
                                        .goal = goal,
                                        .note = note});
}

static void plain(const char *name, const struct bench_samples *own)
{
    bench_report(
        &(struct bench_figure){.group = "publish", .name = name, .unit = "ms", .own = own});
}

static void report(struct bench *b, const char *size)
{
    char name[96];
    snprintf(name, sizeof name, "hand-over of %s, streamed, copied in", size);
    against_best(b, name, &b->took[CAIRN][1], 1, 5,
                 "last layer complete to attached; the peer ends with the bytes in B's memory");
    snprintf(name, sizeof name, "hand-over of %s, streamed, made in place", size);
    against_best(b, name, &b->took[CAIRN_IN_PLACE][1], 1, 0, "layers made in the landing zone");
    snprintf(name, sizeof name, "hand-over of %s, all at once, copied in", size);
    against_best(b, name, &b->took[CAIRN][0], 0, 0,
                 "nothing was handed over before the last layer was complete");
    snprintf(name, sizeof name, "attach alone, %s", size);
    against_best(b, name, &b->attach, 0, 1000, "the entry is there; one round trip");
    for (int i = 0; i < STORES; i++) {
        for (int streamed = 0; streamed < 2 && b->usable[i]; streamed++) {
            snprintf(name, sizeof name, "peer: %s, %s, %s", stores[i]->name, size, how[streamed]);
            plain(name, &b->took[i][streamed]);
        }
    }
    snprintf(name, sizeof name, "copy of %s out of the arena", size);
    plain(name, &b->attach_copy);
}

int main(void)
{
    static struct bench b;
    struct bench_entry any = entry_of(0);
    uint64_t layer_bytes = bench_layer_bytes(&any);
    bench_broker_start(&b.broker, "3G");
    for (int i = 0; i < STORES; i++) {
        b.usable[i] = stores[i]->setup(b.broker.dir, LAYERS, layer_bytes) == 0;
        if (!b.usable[i])
            printf("%s: not installed (make bench-deps)\n", stores[i]->name);
    }
    bench_helper_start(&b.a, a_run, &b);
    b.client = bench_client(&b.broker, LAYERS, "B");
    b.to = bench_memory(LAYERS * layer_bytes);
    for (int i = 0; i < (bench_quick() ? 4 : 6); i++)
        one_round(&b);
    report(&b, bench_quick() ? "128 MiB" : "1 GiB");
    bench_helper_end(&b.a);
    cairn_close(b.client);
    for (int i = 0; i < STORES; i++)
        if (b.usable[i])
            stores[i]->teardown();
    bench_broker_stop(&b.broker);
    return 0;
}
