/* Redis over a unix socket, raw RESP: one key per layer, SET by the writer, GET by the reader
 * straight into its memory. The server keeps nothing on disk. */
#include "bench/common.h"
#include "bench/peers.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static struct {
    char path[100];
    pid_t server;
    int fd; /* of this process */
    uint32_t n_layers;
    uint64_t layer_bytes;
} redis = {.fd = -1};

static int connect_to(void)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    memcpy(to.sun_path, redis.path, sizeof redis.path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static void ready(void)
{
    if (redis.fd < 0)
        redis.fd = connect_to();
    bench_must(redis.fd < 0 ? -errno : 0, "connection to redis-server");
}

static int setup(const char *dir, uint32_t n_layers, uint64_t layer_bytes)
{
    snprintf(redis.path, sizeof redis.path, "%s/redis.sock", dir);
    redis.n_layers = n_layers;
    redis.layer_bytes = layer_bytes;
    redis.server = fork();
    bench_must(redis.server < 0 ? -errno : 0, "fork");
    if (redis.server == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", redis.path, "--save",
               "", "--appendonly", "no", "--logfile", "/dev/null", (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 1000; i++) {
        int fd = connect_to();
        if (fd >= 0) {
            close(fd);
            return 0;
        }
        if (waitpid(redis.server, NULL, WNOHANG) == redis.server)
            return -ENOENT; /* not installed */
        poll(NULL, 0, 5);
    }
    return -ETIMEDOUT;
}

static void teardown(void)
{
    if (redis.fd >= 0)
        close(redis.fd);
    kill(redis.server, SIGKILL);
    waitpid(redis.server, NULL, 0);
}

static void send_all(struct iovec *parts, int n)
{
    while (n > 0) {
        ssize_t sent = writev(redis.fd, parts, n);
        bench_must(sent < 0 ? -errno : 0, "redis: send");
        for (size_t left = (size_t)sent; n > 0 && left >= parts->iov_len; parts++, n--)
            left -= parts->iov_len, sent -= (ssize_t)parts->iov_len;
        if (n > 0) {
            parts->iov_base = (char *)parts->iov_base + sent;
            parts->iov_len -= (size_t)sent;
        }
    }
}

static void receive(void *to, size_t n)
{
    for (char *at = to; n > 0;) {
        ssize_t got = recv(redis.fd, at, n, MSG_WAITALL);
        bench_must(got <= 0 ? -EPIPE : 0, "redis: receive");
        at += got;
        n -= (size_t)got;
    }
}

static void line(char *out, size_t bytes)
{
    for (size_t n = 0; n + 1 < bytes; n++) {
        receive(&out[n], 1);
        out[n + 1] = '\0';
        if (out[n] == '\n')
            return;
    }
}

static void put(uint32_t layer, const void *kv)
{
    char head[96], answer[32];
    ready();
    int n = snprintf(head, sizeof head, "*3\r\n$3\r\nSET\r\n$3\r\nk%02u\r\n$%llu\r\n", layer,
                     (unsigned long long)redis.layer_bytes);
    struct iovec parts[] = {
        {head, (size_t)n}, {(void *)(uintptr_t)kv, redis.layer_bytes}, {"\r\n", 2}};
    send_all(parts, 3);
    line(answer, sizeof answer);
    bench_must(strcmp(answer, "+OK\r\n") == 0 ? 0 : -EPROTO, "redis: SET");
}

static void get(void *to)
{
    char text[64], end[2];
    ready();
    for (uint32_t l = 0; l < redis.n_layers; l++) {
        int n = snprintf(text, sizeof text, "*2\r\n$3\r\nGET\r\n$3\r\nk%02u\r\n", l);
        send_all(&(struct iovec){text, (size_t)n}, 1);
        line(text, sizeof text);
        bench_must(text[0] == '$' && strtoull(text + 1, NULL, 10) == redis.layer_bytes ? 0
                                                                                       : -EPROTO,
                   "redis: GET");
        receive((char *)to + l * redis.layer_bytes, redis.layer_bytes);
        receive(end, sizeof end);
    }
}

const struct bench_store_ops bench_store_redis = {"Redis, unix socket", setup, put, get, teardown};
