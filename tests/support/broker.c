/* A broker process per test, and clients that publish numbers everybody can recompute. */
#include "tests/support/broker.h"

#include "tests/support/paths.h"

#include <check.h>
#include <dirent.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define OPTIONS_MAX 24

/* ---- processes ---- */

/* A datagram socket on which the broker says READY=1; the name is in the abstract namespace, so nothing is left behind. */
static int notify_open(char out_name[64])
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    static unsigned number;
    int n = snprintf(out_name, 64, "@cairn-test-%d-%u", (int)getpid(), number++);
    memcpy(address.sun_path, out_name, (size_t)n);
    address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n);
    ck_assert_int_eq(bind(fd, (const struct sockaddr *)&address, bytes), 0);
    return fd;
}

static void exec_broker(const struct broker *b)
{
    const char *argv[OPTIONS_MAX + 4] = {"cairnd", "--socket", b->socket};
    size_t n = 3;
    for (size_t i = 0; b->options != NULL && b->options[i] != NULL && i < OPTIONS_MAX; i++)
        argv[n++] = b->options[i];
    setenv("NOTIFY_SOCKET", b->notify, 1);
    unsetenv("CAIRN_SOCKET");
    execv(paths_bin(b->program != NULL ? b->program : "cairnd"), (char *const *)(uintptr_t)argv);
    _exit(127);
}

static pid_t spawn(const struct broker *b)
{
    fflush(NULL);
    pid_t parent = getpid(), pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent)
            exec_broker(b);
        _exit(1);
    }
    return pid;
}

int broker_try_restart(struct broker *b)
{
    char text[256] = "";
    b->pid = spawn(b);
    int pidfd = (int)syscall(SYS_pidfd_open, b->pid, 0);
    struct pollfd p[] = {{.fd = b->notify_fd, .events = POLLIN}, {.fd = pidfd, .events = POLLIN}};
    while (strstr(text, "READY=1") == NULL) {
        ck_assert_msg(poll(p, 2, 20000) > 0, "cairnd is not ready after 20 s");
        if ((p[0].revents & POLLIN) == 0) {
            close(pidfd);
            return 0;
        }
        ssize_t n = recv(b->notify_fd, text, sizeof text - 1, MSG_DONTWAIT);
        text[n > 0 ? n : 0] = '\0';
    }
    close(pidfd);
    return 1;
}

void broker_restart(struct broker *b)
{
    ck_assert_msg(broker_try_restart(b), "cairnd ended instead of starting");
}

void broker_start(struct broker *b, const char *const *options)
{
    *b = (struct broker){.options = options};
    snprintf(b->dir, sizeof b->dir, "/tmp/cairn-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(b->dir));
    snprintf(b->socket, sizeof b->socket, "%s/s.sock", b->dir);
    b->notify_fd = notify_open(b->notify);
    broker_restart(b);
}

void broker_kill(struct broker *b)
{
    ck_assert_int_eq(kill(b->pid, SIGKILL), 0);
    ck_assert_int_eq(waitpid(b->pid, NULL, 0), b->pid);
    b->pid = 0;
}

/* Exit code of a process that ought to end by itself. */
static int end_of(pid_t pid)
{
    int status;
    struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    int ended = poll(&p, 1, 20000);
    close(p.fd);
    if (ended != 1)
        kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(ended == 1, "process %d did not end", (int)pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int broker_second(const struct broker *b)
{
    return end_of(spawn(b));
}

static void remove_dir(const char *path)
{
    DIR *dir = opendir(path);
    if (dir == NULL)
        return;
    for (struct dirent *e; (e = readdir(dir)) != NULL;) {
        char file[400];
        snprintf(file, sizeof file, "%s/%s", path, e->d_name);
        if (e->d_name[0] != '.')
            unlink(file);
    }
    closedir(dir);
    rmdir(path);
}

void broker_stop(struct broker *b)
{
    ck_assert_int_eq(kill(b->pid, SIGTERM), 0);
    ck_assert_int_eq(end_of(b->pid), 0);
    close(b->notify_fd);
    remove_dir(b->dir);
}

/* ---- counters ---- */

static uint64_t counter_of(struct cairn_client *client, const char *name)
{
    struct cairn_counter all[128];
    size_t n = 0;
    int status = cairn_stat(client, SOON, all, 128, &n, NULL, 0);
    ck_assert_msg(status == 0, "stat: %s", cairn_error(client));
    for (size_t i = 0; i < n; i++) {
        if (strcmp(all[i].name, name) == 0)
            return all[i].value;
    }
    ck_abort_msg("no counter %s", name);
    return 0;
}

uint64_t broker_counter(const struct broker *b, const char *name)
{
    struct cairn_client *client = tiny_open(b, 0);
    uint64_t value = counter_of(client, name);
    cairn_close(client);
    return value;
}

void broker_await(const struct broker *b, const char *name, uint64_t value)
{
    struct cairn_client *client = tiny_open(b, 0);
    uint64_t deadline_ns = cairn_deadline_in(10000), seen = counter_of(client, name);
    while (seen != value && cairn_deadline_in(0) < deadline_ns)
        seen = counter_of(client, name);
    cairn_close(client);
    ck_assert_msg(seen == value, "%s is %llu, not %llu", name, (unsigned long long)seen,
                  (unsigned long long)value);
}

/* ---- the tiny family ---- */

struct cairn_digest tiny_model(uint32_t model)
{
    struct cairn_digest d = {{0}};
    d.b[0] = (uint8_t)model;
    d.b[15] = 0x55;
    return d;
}

struct cairn_client *tiny_open(const struct broker *b, uint32_t model)
{
    struct cairn_options o = CAIRN_OPTIONS_INIT;
    struct cairn_client *client;
    char label[16];
    snprintf(label, sizeof label, "tiny-%u", model);
    o.socket = b->socket;
    if (model != 0) {
        o.label = label;
        o.model = tiny_model(model);
        o.family.b[3] = 0xfa;
        o.shape = (struct cairn_shape){TINY_LAYERS, TINY_HEADS, TINY_DIM, TINY_HIDDEN};
    }
    ck_assert_int_eq(cairn_open(&o, &client), 0);
    return client;
}

void tiny_tokens(int32_t *out_tokens, uint32_t n, uint32_t seed)
{
    for (uint32_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        out_tokens[i] = (int32_t)(seed >> 20);
    }
}

/* Small integers and quarters: exact in f16, too. */
float tiny_value(uint32_t model, uint32_t what, uint32_t layer, uint32_t head, int32_t pos, uint32_t channel)
{
    uint32_t h = model * 131u + what * 31u + layer * 17u + head * 7u + (uint32_t)pos * 3u + channel;
    return (float)(h % 509u) / 4.0f - 60.0f;
}

int tiny_draft(struct cairn_client *client, const struct tiny_entry *e, struct cairn_draft **out_draft)
{
    struct cairn_draft_options o = CAIRN_DRAFT_INIT;
    o.tokens = e->context + e->start;
    o.n_tokens = e->n_tokens;
    o.start = e->start;
    o.parent = e->parent;
    o.context = e->start > 0 ? e->context : NULL;
    o.dtype = e->dtype != 0 ? e->dtype : CAIRN_F32;
    o.n_states = e->n_states;
    o.flags = e->flags;
    o.pyramid = e->pyramid;
    o.settings = e->settings;
    return cairn_draft_open(client, &o, SOON, out_draft);
}

int tiny_put_layer(struct cairn_draft *draft, const struct tiny_entry *e, uint32_t layer)
{
    struct cairn_put put = CAIRN_PUT_INIT;
    size_t numbers = (size_t)TINY_HEADS * e->n_tokens * TINY_DIM;
    float *k = malloc(2 * numbers * sizeof *k), *v = k + numbers;
    ck_assert_ptr_nonnull(k);
    for (size_t i = 0; i < numbers; i++) {
        uint32_t c = i % TINY_DIM, row = (uint32_t)(i / TINY_DIM) % e->n_tokens;
        uint32_t head = (uint32_t)(i / TINY_DIM / e->n_tokens);
        k[i] = tiny_value(e->model, 0, layer, head, (int32_t)(e->start + row), c);
        v[i] = tiny_value(e->model, 1, layer, head, (int32_t)(e->start + row), c);
    }
    put.layer = layer;
    put.k = k;
    put.v = v;
    put.n = e->n_tokens;
    int status = cairn_put_layer(draft, &put, SOON);
    free(k);
    return status;
}

int tiny_put_state(struct cairn_draft *draft, const struct tiny_entry *e, uint32_t layer)
{
    struct cairn_put put = CAIRN_PUT_INIT;
    float *rows = malloc((size_t)e->n_tokens * TINY_HIDDEN * sizeof *rows);
    ck_assert_ptr_nonnull(rows);
    for (uint32_t i = 0; i < e->n_tokens * TINY_HIDDEN; i++)
        rows[i] = tiny_value(e->model, 2, layer, 0, (int32_t)(e->start + i / TINY_HIDDEN), i % TINY_HIDDEN);
    put.layer = layer;
    put.rows = rows;
    put.n = e->n_tokens;
    int status = cairn_put_state(draft, &put, SOON);
    free(rows);
    return status;
}

int tiny_publish_by(struct cairn_client *client, const struct tiny_entry *e, const struct tiny_puts *by,
                    struct cairn_entry_id *out_entry)
{
    struct cairn_draft *draft;
    int status = tiny_draft(client, e, &draft);
    if (status != 0)
        return status;
    for (uint32_t layer = 0; layer < TINY_LAYERS && status == 0; layer++) {
        if (layer < e->n_states)
            status = by->state(draft, e, layer);
        if (status == 0)
            status = by->layer(draft, e, layer);
    }
    if (status != 0) {
        cairn_abort(draft);
        return status;
    }
    return cairn_commit(draft, SOON, out_entry);
}

int tiny_publish(struct cairn_client *client, const struct tiny_entry *e, struct cairn_entry_id *out_entry)
{
    static const struct tiny_puts from_host = {tiny_put_state, tiny_put_layer};
    return tiny_publish_by(client, e, &from_host, out_entry);
}

int tiny_attach(struct cairn_client *client, const int32_t *context, uint32_t n, struct cairn_lease **out_lease)
{
    struct cairn_query q = CAIRN_QUERY_INIT;
    q.tokens = context;
    q.n_tokens = n;
    return cairn_attach(client, &q, SOON, out_lease);
}

static float number_at(const void *rows, uint32_t dtype, size_t i)
{
    if (dtype == CAIRN_F32)
        return ((const float *)rows)[i];
    _Float16 half;
    memcpy(&half, (const char *)rows + 2 * i, sizeof half);
    return (float)half;
}

static void check_head(const struct cairn_head_view *h, uint32_t dtype, uint32_t model, uint32_t layer, uint32_t head)
{
    for (uint32_t row = 0; row < h->n; row++) {
        for (uint32_t c = 0; c < TINY_DIM; c++) {
            float k = tiny_value(model, 0, layer, head, h->pos[row], c);
            float v = tiny_value(model, 1, layer, head, h->pos[row], c);
            ck_assert_float_eq(number_at(h->k, dtype, (size_t)row * TINY_DIM + c), k);
            ck_assert_float_eq(number_at(h->v, dtype, (size_t)row * TINY_DIM + c), v);
        }
    }
}

void tiny_check_part(struct cairn_lease *lease, uint32_t part, uint32_t model)
{
    for (uint32_t layer = 0; layer < TINY_LAYERS; layer++) {
        struct cairn_layer_view view;
        int status = cairn_wait(lease, part, layer, CAIRN_WAIT_KV, SOON);
        ck_assert_msg(status == 0 || status == CAIRN_E_MISS, "layer %u: %d", layer, status);
        ck_assert_int_eq(cairn_lease_layer(lease, part, layer, &view), 0);
        if (view.dtype == CAIRN_DTYPE_NONE)
            continue;
        ck_assert_int_eq(status, 0);
        ck_assert_uint_eq(view.n_heads, TINY_HEADS);
        for (uint32_t head = 0; head < TINY_HEADS; head++)
            check_head(&view.heads[head], view.dtype, model, layer, head);
    }
}
