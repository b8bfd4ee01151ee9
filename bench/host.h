/* host - the processes of a benchmark: a real cairnd, forked helpers that take orders, and entries
 * of known content. Helpers are forked before their parent has threads (ZeroMQ's), and die with it.
 * Failures end the program. */
#ifndef CRN_BENCH_HOST_H
#define CRN_BENCH_HOST_H

#include "client/cairn.h"

#include <stdint.h>
#include <sys/types.h>

/* A cairnd of its own in a directory of its own. */
struct bench_broker {
    pid_t pid;
    char dir[64];
    char socket[96];
};
void bench_broker_start(struct bench_broker *b, const char *memory);
void bench_broker_start_nvme(struct bench_broker *b, const char *memory, const char *nvme); /* nvme: of --nvme, or NULL */
void bench_broker_start_with(struct bench_broker *b, const char *const *options); /* of cairnd, NULL-terminated */
void bench_broker_stop(struct bench_broker *b);

/* A forked process and a socket to it. Both sides send and receive whole orders. */
struct bench_helper {
    pid_t pid;
    int fd;
};
struct bench_order {
    uint64_t what, a, b;
    double at_s;
};
#define BENCH_BYE UINT64_MAX /* what: the helper returns */
void bench_helper_start(struct bench_helper *h, void (*run)(int fd, void *ctx), void *ctx);
void bench_helper_end(struct bench_helper *h); /* BENCH_BYE, and waits */
void bench_order_send(int fd, const struct bench_order *order);
struct bench_order bench_order_get(int fd);
int bench_order_waits(int fd); /* 1 when one can be read now */

/* An entry of a model with 8 KV heads of 128 in f16; one token takes n_layers * 4 KiB. Its tokens
 * and numbers follow from seed. */
struct bench_entry {
    uint32_t n_layers, n_tokens;
    uint64_t seed;
};
uint64_t bench_layer_bytes(const struct bench_entry *e); /* K and V of one layer */
/* kv [layer_bytes]: K, then V, as [heads][n][128]. */
void bench_layer_fill(const struct bench_entry *e, uint32_t layer, void *kv);
int bench_layer_equal(const struct bench_entry *e, uint32_t layer, const void *kv);
int32_t *bench_tokens(const struct bench_entry *e); /* own: free */

struct cairn_client *bench_client(const struct bench_broker *b, uint32_t n_layers,
                                  const char *label);
/* The same with rows in the memory of device 0. */
struct cairn_client *bench_client_on_device(const struct bench_broker *b, uint32_t n_layers,
                                            const char *label);
/* A lease on the whole entry; layer 0 can be read. */
struct cairn_lease *bench_attach(struct cairn_client *client, const struct bench_entry *e,
                                 const int32_t *tokens);
/* Every layer of the lease against its content. copy NULL: in place. */
int bench_lease_equal(struct cairn_lease *lease, const struct bench_entry *e);
/* All of the lease's keys and values into memory [n_layers * layer_bytes]. */
void bench_lease_copy(struct cairn_lease *lease, const struct bench_entry *e, void *to);
/* Memory with all its pages there. */
void *bench_memory(uint64_t bytes);

#endif
