/* Processes and contents. A helper is a loop over orders in a forked process; cairnd is started
 * from $CRN_BIN (default build/release/bin). Contents are a multiplication per 8 bytes, so that
 * making and checking 1 GiB takes well below a second; bit 14 of each 16 is cleared, so that every
 * number is a finite f16. */
#include "bench/host.h"

#include "bench/common.h"

#include <errno.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HEADS = 8, HEAD_DIM = 128 };

/* ---- processes ---- */

static void exec_broker(const struct bench_broker *b, const char *const *options)
{
    char path[512];
    const char *bin = getenv("CRN_BIN"), *argv[24] = {"cairnd", "--socket", b->socket, "--log-level", "warn"};
    snprintf(path, sizeof path, "%s/cairnd", bin != NULL ? bin : "build/release/bin");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (size_t n = 5; *options != NULL && n + 1 < sizeof argv / sizeof *argv; options++)
        argv[n++] = *options;
    execv(path, (char *const *)(uintptr_t)argv);
    fprintf(stderr, "bench: cannot run %s\n", path);
    _exit(127);
}

static void wait_for_broker(const struct bench_broker *b)
{
    double limit = bench_now_s() + 60;
    int status = CAIRN_E_GONE;
    struct cairn_client *client = bench_client(b, 1, "bench");
    while (status != 0 && bench_now_s() < limit) {
        status = cairn_connect(client, cairn_deadline_in(100));
        if (status != 0)
            poll(NULL, 0, 5);
    }
    cairn_close(client);
    bench_must(status, "start of cairnd");
}

void bench_broker_start(struct bench_broker *b, const char *memory)
{
    bench_broker_start_nvme(b, memory, NULL);
}

void bench_broker_start_nvme(struct bench_broker *b, const char *memory, const char *nvme)
{
    bench_broker_start_with(b, (const char *const[]){"--memory", memory, nvme != NULL ? "--nvme" : NULL, nvme, NULL});
}

void bench_broker_start_with(struct bench_broker *b, const char *const *options)
{
    snprintf(b->dir, sizeof b->dir, "/tmp/cairn-bench-XXXXXX");
    bench_must(mkdtemp(b->dir) == NULL ? -errno : 0, "mkdtemp");
    snprintf(b->socket, sizeof b->socket, "%s/c.sock", b->dir);
    b->pid = fork();
    bench_must(b->pid < 0 ? -errno : 0, "fork");
    if (b->pid == 0)
        exec_broker(b, options);
    pid_t child = fork(); /* connects in a process of its own: this one must stay without threads
                             until its helpers are made */
    bench_must(child < 0 ? -errno : 0, "fork");
    if (child == 0) {
        wait_for_broker(b);
        _exit(0);
    }
    int code = 0;
    waitpid(child, &code, 0);
    bench_must(code, "cairnd");
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

void bench_broker_stop(struct bench_broker *b)
{
    kill(b->pid, SIGTERM);
    waitpid(b->pid, NULL, 0);
    nftw(b->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

void bench_helper_start(struct bench_helper *h, void (*run)(int fd, void *ctx), void *ctx)
{
    int ends[2];
    bench_must(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0 ? 0 : -errno, "socketpair");
    fflush(NULL);
    h->pid = fork();
    bench_must(h->pid < 0 ? -errno : 0, "fork");
    if (h->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends[0]);
        run(ends[1], ctx);
        _exit(0);
    }
    close(ends[1]);
    h->fd = ends[0];
}

void bench_helper_end(struct bench_helper *h)
{
    int code = 0;
    bench_order_send(h->fd, &(struct bench_order){.what = BENCH_BYE});
    waitpid(h->pid, &code, 0);
    close(h->fd);
    bench_must(code, "helper");
}

void bench_order_send(int fd, const struct bench_order *order)
{
    ssize_t n = send(fd, order, sizeof *order, MSG_NOSIGNAL);
    bench_must(n == (ssize_t)sizeof *order ? 0 : -errno, "order to a helper");
}

struct bench_order bench_order_get(int fd)
{
    struct bench_order order;
    ssize_t n = recv(fd, &order, sizeof order, 0);
    bench_must(n == (ssize_t)sizeof order ? 0 : -EPIPE, "answer of a helper");
    return order;
}

int bench_order_waits(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) > 0;
}

/* ---- contents ---- */

uint64_t bench_layer_bytes(const struct bench_entry *e)
{
    return 2ull * HEADS * HEAD_DIM * sizeof(uint16_t) * e->n_tokens;
}

static uint64_t word_at(const struct bench_entry *e, uint32_t layer, uint64_t i)
{
    uint64_t base = e->seed * 0x9e3779b97f4a7c15u + layer * 0xbf58476d1ce4e5b9u;
    return ((i ^ base) * 0x94d049bb133111ebu) & 0xbfffbfffbfffbfffu;
}

void bench_layer_fill(const struct bench_entry *e, uint32_t layer, void *kv)
{
    uint64_t *out = kv, n = bench_layer_bytes(e) / sizeof *out;
    for (uint64_t i = 0; i < n; i++)
        out[i] = word_at(e, layer, i);
}

static int words_equal(const struct bench_entry *e, uint32_t layer, const void *from,
                       uint64_t first, uint64_t n)
{
    const uint64_t *words = from;
    uint64_t differ = 0;
    for (uint64_t i = 0; i < n; i++)
        differ |= words[i] ^ word_at(e, layer, first + i);
    return differ == 0;
}

int bench_layer_equal(const struct bench_entry *e, uint32_t layer, const void *kv)
{
    return words_equal(e, layer, kv, 0, bench_layer_bytes(e) / sizeof(uint64_t));
}

int32_t *bench_tokens(const struct bench_entry *e)
{
    int32_t *tokens = malloc(e->n_tokens * sizeof *tokens);
    bench_must(tokens == NULL ? -ENOMEM : 0, "tokens");
    for (uint32_t i = 0; i < e->n_tokens; i++)
        tokens[i] = (int32_t)(word_at(e, UINT32_MAX, i) >> 40);
    return tokens;
}

void *bench_memory(uint64_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
                    -1, 0);
    bench_must(at == MAP_FAILED ? -errno : 0, "memory");
    return at;
}

/* ---- the library ---- */

static struct cairn_client *open_client(const struct bench_broker *b, uint32_t n_layers, const char *label,
                                        uint32_t memory)
{
    struct cairn_client *client;
    struct cairn_options o = CAIRN_OPTIONS_INIT;
    o.socket = b->socket;
    o.label = label;
    o.memory = memory;
    o.shape = (struct cairn_shape){n_layers, HEADS, HEAD_DIM, 1024};
    memset(o.model.b, 7, sizeof o.model.b);
    memset(o.family.b, (int)n_layers, sizeof o.family.b); /* another shape is another family */
    bench_must(cairn_open(&o, &client), "cairn_open");
    return client;
}

struct cairn_client *bench_client(const struct bench_broker *b, uint32_t n_layers,
                                  const char *label)
{
    return open_client(b, n_layers, label, CAIRN_MEMORY_HOST);
}

struct cairn_client *bench_client_on_device(const struct bench_broker *b, uint32_t n_layers,
                                            const char *label)
{
    return open_client(b, n_layers, label, CAIRN_MEMORY_DEVICE);
}

struct cairn_lease *bench_attach(struct cairn_client *client, const struct bench_entry *e,
                                 const int32_t *tokens)
{
    struct cairn_query query = CAIRN_QUERY_INIT;
    struct cairn_lease *lease;
    struct cairn_layer_view view;
    query.tokens = tokens;
    query.n_tokens = e->n_tokens;
    uint64_t deadline_ns = cairn_deadline_in(30000);
    bench_must(cairn_attach(client, &query, deadline_ns, &lease), "cairn_attach");
    bench_must(cairn_wait(lease, 0, 0, CAIRN_WAIT_KV, deadline_ns), "cairn_wait");
    bench_must(cairn_lease_layer(lease, 0, 0, &view), "cairn_lease_layer");
    return lease;
}

static void layer_view(struct cairn_lease *lease, uint32_t layer, const struct bench_entry *e,
                       struct cairn_layer_view *out)
{
    bench_must(cairn_wait(lease, 0, layer, CAIRN_WAIT_KV, cairn_deadline_in(30000)), "cairn_wait");
    bench_must(cairn_lease_layer(lease, 0, layer, out), "cairn_lease_layer");
    bench_must(out->n_heads != HEADS || out->heads[0].n != e->n_tokens, "shape of a view");
}

int bench_lease_equal(struct cairn_lease *lease, const struct bench_entry *e)
{
    uint64_t words = bench_layer_bytes(e) / sizeof(uint64_t), head = words / 2 / HEADS;
    int equal = 1;
    for (uint32_t l = 0; l < e->n_layers; l++) {
        struct cairn_layer_view view;
        layer_view(lease, l, e, &view);
        for (uint32_t h = 0; h < HEADS; h++)
            equal &= words_equal(e, l, view.heads[h].k, h * head, head) &&
                     words_equal(e, l, view.heads[h].v, words / 2 + h * head, head);
    }
    return equal;
}

void bench_lease_copy(struct cairn_lease *lease, const struct bench_entry *e, void *to)
{
    uint64_t half = bench_layer_bytes(e) / 2, head = half / HEADS;
    uint8_t *at = to;
    for (uint32_t l = 0; l < e->n_layers; l++, at += 2 * half) {
        struct cairn_layer_view view;
        layer_view(lease, l, e, &view);
        for (uint32_t h = 0; h < HEADS; h++) {
            memcpy(at + h * head, view.heads[h].k, head);
            memcpy(at + half + h * head, view.heads[h].v, head);
        }
    }
}
