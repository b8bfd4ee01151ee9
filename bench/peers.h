/* peers - what Cairn is measured against, each in a file of its own. All of them hand bytes from
 * one process to another. */
#ifndef CRN_BENCH_PEERS_H
#define CRN_BENCH_PEERS_H

#include <stddef.h>
#include <stdint.h>

/* ---- peer_zmq: a raw DEALER-ROUTER round trip over ipc:// ---- */
void bench_pong_run(int fd, void *ctx); /* helper; ctx: address (ipc://...). Says so when it is
                                           bound, echoes until BENCH_BYE. */
struct bench_ping;
struct bench_ping *bench_ping_open(const char *address);
/* 64 bytes there and back. awake_us: looks for the answer that long, as libcairn does, before it sleeps. */
void bench_ping_once(struct bench_ping *p, unsigned awake_us);
void bench_ping_close(struct bench_ping *p);

/* ---- stores: n_layers blocks of layer_bytes go in one by one, and come out into memory of the
 * reader ---- */
struct bench_store_ops {
    const char *name;
    /* Before the helper is forked: servers, files. 0, or negative when this peer is not installed.
     */
    int (*setup)(const char *dir, uint32_t n_layers, uint64_t layer_bytes);
    void (*put)(uint32_t layer, const void *kv); /* writer; complete when it returns */
    void (*get)(void *to);                       /* reader: all layers, copied */
    void (*teardown)(void);
};
extern const struct bench_store_ops bench_store_redis, bench_store_lmdb, bench_store_memfd;

/* ---- peer_fio: GB/s of `rw` ("read", "write") through bytes of the file; 0 when there is no fio ---- */
double bench_fio(const char *path, const char *rw, size_t bytes);

#endif
