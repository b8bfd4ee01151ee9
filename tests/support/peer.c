/* A hand-made worker: encode, send, wait, decode. */
#include "tests/support/peer.h"

#include <check.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SECOND UINT64_C(1000000000)

static uint64_t soon(void)
{
    return crn_now_ns() + 10 * SECOND;
}

struct peer *peer_open(const char *socket)
{
    struct peer *p = calloc(1, sizeof *p);
    ck_assert_ptr_nonnull(p);
    ck_assert_int_eq(crn_chan_open(socket, &p->chan), 0);
    p->fd_sock = -1;
    return p;
}

void peer_close(struct peer *p)
{
    if (p->fd_sock >= 0)
        close(p->fd_sock);
    if (p->control.ops != NULL)
        p->control.ops->destroy(&p->control);
    for (int i = 0; i < PEER_ARENAS; i++) {
        if (p->arenas[i].ops != NULL)
            p->arenas[i].ops->destroy(&p->arenas[i]);
    }
    crn_chan_close(p->chan);
    free(p);
}

/* The request id lies behind the fields, whatever they are. */
static size_t request_at(enum crn_msg_type type)
{
    switch (type) {
#define MESSAGE(name, number, fields)                                                              \
    case CRN_MSG_##name:                                                                           \
        return offsetof(struct crn_msg_##name, request);
#include "ipc/msgs.def"
#undef MESSAGE
    }
    ck_abort_msg("no such message");
}

static void send_numbered(struct peer *p, enum crn_msg_type type, void *msg, uint64_t request)
{
    uint8_t bytes[CRN_MESSAGE_MAX];
    size_t n;
    memcpy((uint8_t *)msg + request_at(type), &request, sizeof request);
    ck_assert_int_eq(crn_wire_encode(type, msg, bytes, sizeof bytes, &n), 0);
    ck_assert_int_eq(crn_chan_send(p->chan, bytes, n, soon()), 0);
}

void peer_send(struct peer *p, enum crn_msg_type type, void *msg)
{
    send_numbered(p, type, msg, ++p->request);
}

void peer_tell(struct peer *p, enum crn_msg_type type, void *msg)
{
    send_numbered(p, type, msg, 0);
}

int peer_recv(struct peer *p, enum crn_msg_type reply_type, void *out_reply)
{
    size_t n;
    enum crn_msg_type type;
    uint64_t request;
    struct crn_msg_error error;
    int status = crn_chan_recv(p->chan, p->buf, sizeof p->buf, soon(), &n);
    ck_assert_msg(status == 0, "no answer: %s", cairn_strerror(status));
    ck_assert_int_eq(crn_wire_peek(p->buf, n, &type, &request), 0);
    if (type == CRN_MSG_error) {
        ck_assert_int_eq(crn_wire_decode(type, p->buf, n, &error), 0);
        crn_wire_text(error.text, p->error, sizeof p->error);
        return -(int)error.code;
    }
    if (type != reply_type)
        return CAIRN_E_PROTO;
    if (out_reply != NULL)
        ck_assert_int_eq(crn_wire_decode(type, p->buf, n, out_reply), 0);
    return 0;
}

int peer_call(struct peer *p, enum crn_msg_type type, void *msg, enum crn_msg_type reply_type,
              void *out_reply)
{
    peer_send(p, type, msg);
    return peer_recv(p, reply_type, out_reply);
}

int peer_hears(struct peer *p, unsigned ms)
{
    size_t n;
    return crn_chan_recv(p->chan, p->buf, sizeof p->buf, crn_now_ns() + ms * UINT64_C(1000000), &n);
}

static struct crn_bytes text(const char *s)
{
    return (struct crn_bytes){s, s != NULL ? (uint32_t)strlen(s) : 0};
}

static int connect_fds(struct peer *p, const char *socket)
{
    char path[128];
    snprintf(path, sizeof path, "%s.fd", socket);
    ck_assert_int_eq(crn_fd_connect(path, &p->fd_sock), 0);
    return peer_segment(p, CRN_FD_AUTH, p->welcome.session, &p->control);
}

int peer_hello(struct peer *p, const struct peer_model *model, int fds, const char *socket)
{
    struct crn_msg_hello m = {.proto_min = CRN_PROTO_MIN,
                              .proto_max = CRN_PROTO_MAX,
                              .space = text(model->space),
                              .label = text(model->label),
                              .n_layers = model->shape.n_layers,
                              .n_kv_heads = model->shape.n_kv_heads,
                              .head_dim = model->shape.head_dim,
                              .hidden = model->shape.hidden};
    memset(&m.model, model->model, sizeof m.model);
    memset(&m.family, model->family, sizeof m.family);
    int status = peer_call(p, CRN_MSG_hello, &m, CRN_MSG_welcome, &p->welcome);
    if (status != 0)
        return status;
    ck_assert_uint_eq(p->welcome.token.n, sizeof p->token);
    memcpy(p->token, p->welcome.token.p, sizeof p->token);
    return fds ? connect_fds(p, socket) : 0;
}

int peer_segment(struct peer *p, enum crn_fd_op op, uint64_t id, struct crn_mem *out_mem)
{
    struct crn_fd_record r = {
        .magic = CRN_FD_MAGIC, .version = CRN_FD_VERSION, .op = (uint16_t)op, .id = id};
    int fd = -1;
    if (op == CRN_FD_AUTH)
        memcpy(r.token, p->token, sizeof r.token);
    ck_assert_int_eq(crn_fd_send(p->fd_sock, &r, -1), 0);
    int status = crn_fd_recv(p->fd_sock, soon(), &r, &fd);
    if (status != 0 || r.status != 0)
        return status != 0 ? status : r.status;
    enum crn_mem_access access = op == CRN_FD_LANDING ? CRN_MEM_WRITE : CRN_MEM_READ;
    return crn_mem_host.import_token(&r.mem, fd, access, out_mem);
}

const uint8_t *peer_arena(struct peer *p, uint32_t id)
{
    ck_assert_uint_lt(id, PEER_ARENAS);
    if (p->arenas[id].ops == NULL)
        ck_assert_int_eq(peer_segment(p, CRN_FD_ARENA, id, &p->arenas[id]), 0);
    return p->arenas[id].base;
}

uint64_t peer_counter(struct peer *p, unsigned counter)
{
    struct crn_msg_stat m = {0};
    struct crn_msg_stats r;
    uint64_t value;
    ck_assert_int_eq(peer_call(p, CRN_MSG_stat, &m, CRN_MSG_stats, &r), 0);
    ck_assert_uint_ge(r.counters.n / 8, counter + 1);
    memcpy(&value, (const uint8_t *)r.counters.p + counter * 8, sizeof value);
    return value;
}
