/* The raw round trip: one DEALER, one ROUTER, 64 bytes, no timeout, no heartbeat, nothing but
 * libzmq. What any broker over ZeroMQ pays at least. */
#include "bench/common.h"
#include "bench/host.h"
#include "bench/peers.h"

#include <zmq.h>

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum { PING_BYTES = 64 };

struct bench_ping {
    void *context, *socket;
};

static struct bench_ping *open_socket(int type)
{
    struct bench_ping *p = calloc(1, sizeof *p);
    int linger = 0;
    bench_must(p == NULL ? -ENOMEM : 0, "ping");
    p->context = zmq_ctx_new();
    p->socket = p->context != NULL ? zmq_socket(p->context, type) : NULL;
    bench_must(p->socket == NULL ? -zmq_errno() : 0, "zmq_socket");
    zmq_setsockopt(p->socket, ZMQ_LINGER, &linger, sizeof linger);
    return p;
}

void bench_ping_close(struct bench_ping *p)
{
    zmq_close(p->socket);
    zmq_ctx_term(p->context);
    free(p);
}

void bench_pong_run(int fd, void *ctx)
{
    struct bench_ping *p = open_socket(ZMQ_ROUTER);
    char route[256], body[256];
    bench_must(zmq_bind(p->socket, ctx) == 0 ? 0 : -zmq_errno(), "zmq_bind");
    bench_order_send(fd, &(struct bench_order){0});
    int patience_ms = 200;
    zmq_setsockopt(p->socket, ZMQ_RCVTIMEO, &patience_ms, sizeof patience_ms);
    for (;;) {
        int n_route = zmq_recv(p->socket, route, sizeof route, 0);
        if (n_route < 0 && zmq_errno() == EAGAIN) { /* nobody asks: perhaps it is over */
            if (bench_order_waits(fd))
                break;
            continue;
        }
        int n = zmq_recv(p->socket, body, sizeof body, 0);
        bench_must(n_route < 0 || n < 0 ? -zmq_errno() : 0, "zmq_recv");
        zmq_send(p->socket, route, (size_t)n_route, ZMQ_SNDMORE);
        zmq_send(p->socket, body, (size_t)n, 0);
    }
    bench_order_get(fd);
    bench_ping_close(p);
}

struct bench_ping *bench_ping_open(const char *address)
{
    struct bench_ping *p = open_socket(ZMQ_DEALER);
    bench_must(zmq_connect(p->socket, address) == 0 ? 0 : -zmq_errno(), "zmq_connect");
    return p;
}

void bench_ping_once(struct bench_ping *p, unsigned awake_us)
{
    char out[PING_BYTES], in[PING_BYTES];
    double until_s = bench_now_s() + 1e-6 * awake_us;
    memset(out, 'c', sizeof out);
    zmq_send(p->socket, out, sizeof out, 0);
    int n = -1;
    while (n < 0 && bench_now_s() < until_s) {
        n = zmq_recv(p->socket, in, sizeof in, ZMQ_DONTWAIT);
        if (n < 0)
            sched_yield();
    }
    if (n < 0)
        n = zmq_recv(p->socket, in, sizeof in, 0);
    bench_must(n == PING_BYTES && memcmp(in, out, sizeof in) == 0 ? 0 : -EPROTO, "ping");
}
