/* The client object: options, error text, and requests over the channel.
 *
 *     no session --(any call that needs the broker)--> session --(channel broke or reconnected)--> no session
 *
 * A request goes out with a number and the answer with that number ends it; answers that come meanwhile belong to PUTs, which
 * nobody waits for, or to requests that ran into their deadline: a lease or draft that arrives late is given back.
 * Not here: what the session maps (session.c), what messages mean (attach.c, publish.c, plan.c, admin.c). */
#include "client/client.h"

#include "ipc/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NS_PER_MS 1000000ull
#define BYE_NS (50 * NS_PER_MS)
#define PAUSE_NS (2000 * NS_PER_MS) /* after the second attempt that nobody answered; doubles */
#define DEAF_MOST 6u                /* four times: 32 s */

const char *cairn_version(void)
{
    return CAIRN_VERSION;
}

uint64_t cairn_deadline_in(uint32_t milliseconds)
{
    return crn_now_ns() + milliseconds * NS_PER_MS;
}

int crn_client_fail(struct cairn_client *client, int code, const char *format, ...)
{
    va_list args;
    if (client->error[0] == '\0' && code != CAIRN_E_MISS)
        client->stats.failures++;
    va_start(args, format);
    int n = vsnprintf(client->error, sizeof client->error, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof client->error)
        snprintf(client->error + n, sizeof client->error - (size_t)n, ": %s", cairn_strerror(code));
    crn_log(CRN_LOG_DEBUG, "%s", client->error);
    return code;
}

const char *cairn_error(const struct cairn_client *client)
{
    return client != NULL ? client->error : "";
}

void crn_client_begin(struct cairn_client *client)
{
    client->error[0] = '\0';
}

int crn_sized_copy(void *dst, size_t dst_bytes, const void *src, size_t min_bytes)
{
    size_t src_bytes;
    if (src == NULL)
        return CAIRN_E_ARG;
    memcpy(&src_bytes, src, sizeof src_bytes);
    if (src_bytes < min_bytes || src_bytes > 65536)
        return CAIRN_E_ARG;
    for (size_t i = dst_bytes; i < src_bytes; i++) {
        if (((const uint8_t *)src)[i] != 0)
            return CAIRN_E_UNSUPPORTED;
    }
    memset(dst, 0, dst_bytes);
    memcpy(dst, src, src_bytes < dst_bytes ? src_bytes : dst_bytes);
    return 0;
}

struct crn_bytes crn_client_text(const char *text)
{
    return (struct crn_bytes){text, text != NULL ? (uint32_t)strlen(text) : 0};
}

void crn_client_label(char out_label[64], const char label[64])
{
    crn_wire_text((struct crn_bytes){label, (uint32_t)strnlen(label, 63)}, out_label, 64);
}

/* ---- open and close ---- */

/* Where the broker listens when nobody says so. */
static int default_socket(char *out, size_t bytes)
{
    const char *socket = getenv("CAIRN_SOCKET"), *runtime = getenv("XDG_RUNTIME_DIR");
    int n;
    if (socket != NULL && *socket != '\0')
        n = snprintf(out, bytes, "%s", socket);
    else if (runtime != NULL && *runtime != '\0')
        n = snprintf(out, bytes, "%s/cairn/cairn.sock", runtime);
    else
        n = snprintf(out, bytes, "/tmp/cairn-%u/cairn.sock", (unsigned)getuid());
    return n > 0 && (size_t)n < bytes ? 0 : CAIRN_E_TOO_BIG;
}

static int copy_text(char *out, size_t bytes, const char *text)
{
    size_t n = text != NULL ? strlen(text) : 0;
    if (n >= bytes)
        return CAIRN_E_TOO_BIG;
    if (n > 0)
        memcpy(out, text, n);
    out[n] = '\0';
    return 0;
}

static int shape_check(const struct cairn_shape *s)
{
    return s->n_layers <= CAIRN_MAX_LAYERS && s->n_kv_heads <= CAIRN_MAX_KV_HEADS &&
                   s->head_dim <= CAIRN_MAX_HEAD_DIM && s->hidden <= CAIRN_MAX_HIDDEN
               ? 0
               : CAIRN_E_TOO_BIG;
}

static int client_setup(struct cairn_client *client, const struct cairn_options *options)
{
    int status = crn_sized_copy(&client->options, sizeof client->options, options,
                                offsetof(struct cairn_options, memory));
    if (status == 0 && client->options.memory > CAIRN_MEMORY_DEVICE)
        status = CAIRN_E_ARG;
    if (status == 0)
        status = shape_check(&client->options.shape);
    if (status == 0)
        status = copy_text(client->space, sizeof client->space, client->options.space);
    if (status == 0)
        status = copy_text(client->label, sizeof client->label, client->options.label);
    if (status == 0 && client->options.socket != NULL)
        status = copy_text(client->socket, sizeof client->socket, client->options.socket);
    else if (status == 0)
        status = default_socket(client->socket, sizeof client->socket);
    if (status != 0)
        return status;
    client->options.socket = client->socket;
    client->options.space = client->space;
    client->options.label = client->label;
    snprintf(client->fd_path, sizeof client->fd_path, "%s.fd", client->socket);
    return crn_chan_open(client->socket, &client->chan);
}

int cairn_open(const struct cairn_options *options, struct cairn_client **out_client)
{
    if (out_client == NULL)
        return CAIRN_E_ARG;
    struct cairn_client *client = calloc(1, sizeof *client);
    if (client == NULL)
        return -ENOMEM;
    int status = client_setup(client, options);
    if (status != 0) {
        free(client);
        return status;
    }
    *out_client = client;
    return 0;
}

/* The broker takes a session that ends without BYE for a dead worker's: give it a moment to hear us. Closing the descriptor channel
 * tells it that the session is over, whatever becomes of BYE. */
static void say_bye(struct cairn_client *client)
{
    struct crn_msg_bye bye = {.request = 0};
    struct crn_msg_ok ok;
    if (crn_client_current(client, client->session))
        CRN_CALL(client, bye, bye, ok, &ok, crn_now_ns() + BYE_NS);
}

void cairn_close(struct cairn_client *client)
{
    if (client == NULL)
        return;
    while (client->leases != NULL)
        crn_grant_free(client->leases);
    while (client->drafts != NULL)
        crn_writer_free(client->drafts);
    say_bye(client);
    crn_conn_drop(client->session);
    crn_chan_close(client->chan);
    free(client->spare);
    free(client);
}

/* ---- session ---- */

int crn_client_current(struct cairn_client *client, const struct crn_conn *session)
{
    return session != NULL && session == client->session && crn_chan_connected(client->chan) &&
           crn_chan_generation(client->chan) == session->generation;
}

/* A connection says HELLO once. Where that went wrong, or the session ended while the connection lives, we need another one. */
static int renew_channel(struct cairn_client *client)
{
    struct crn_chan *chan;
    if (!client->stuck)
        return 0;
    int status = crn_chan_open(client->socket, &chan);
    if (status != 0)
        return crn_client_fail(client, status, "channel %s", client->socket);
    crn_chan_close(client->chan);
    client->chan = chan;
    client->stuck = 0;
    return 0;
}

/* Somebody listens and says nothing, time and again: each attempt costs seconds, so they become rarer. */
static void note_attempt(struct cairn_client *client, uint64_t began_ns, int status)
{
    uint64_t now = crn_now_ns();
    if (status != CAIRN_E_GONE || now - began_ns < CRN_PATIENCE_NS) {
        client->deaf = 0;
        return;
    }
    if (client->deaf < DEAF_MOST)
        client->deaf++;
    if (client->deaf > 1)
        client->retry_ns = now + (PAUSE_NS << (client->deaf - 2));
}

int crn_client_ready(struct cairn_client *client, uint64_t deadline_ns)
{
    uint64_t began_ns = crn_now_ns();
    crn_client_begin(client);
    if (crn_client_current(client, client->session))
        return 0;
    if (began_ns < client->retry_ns)
        return crn_client_fail(client, CAIRN_E_GONE, "broker %s did not answer, next attempt in %u s",
                               client->socket,
                               (unsigned)((client->retry_ns - began_ns) / 1000000000u + 1));
    if (client->session != NULL && client->session->generation == 0)
        client->stuck = 1;
    crn_conn_drop(client->session);
    client->session = NULL;
    struct crn_conn *session;
    int status = renew_channel(client);
    if (status == 0)
        status = crn_conn_open(client, deadline_ns, &session);
    note_attempt(client, began_ns, status);
    if (status != 0)
        return status;
    client->session = session;
    if (client->sessions++ > 0)
        client->stats.reconnects++;
    return 0;
}

int cairn_connect(struct cairn_client *client, uint64_t deadline_ns)
{
    if (client == NULL)
        return CAIRN_E_ARG;
    client->retry_ns = 0;
    return crn_client_ready(client, deadline_ns);
}

/* ---- requests ---- */

uint64_t crn_client_next(struct cairn_client *client)
{
    return ++client->last_request; /* never reset: an answer of an earlier session fits no request of this one */
}

int crn_client_send(struct cairn_client *client, enum crn_msg_type type, const void *msg,
                    uint64_t deadline_ns)
{
    size_t n;
    int status = crn_wire_encode(type, msg, client->out, sizeof client->out, &n);
    client->sent_ns = crn_now_ns();
    return status != 0 ? status : crn_chan_send(client->chan, client->out, n, deadline_ns);
}

/* What an error answer says: the code, and its text for cairn_error. */
static int read_error(struct cairn_client *client, size_t n, char *out_text, size_t text_bytes)
{
    struct crn_msg_error error;
    int status = crn_wire_decode(CRN_MSG_error, client->in, n, &error);
    if (status != 0)
        return status;
    crn_wire_text(error.text, out_text, text_bytes);
    return error.code == 0 ? CAIRN_E_PROTO : -(int)error.code;
}

/* A lease or a draft that came after its request had given up. */
static void give_back(struct cairn_client *client, enum crn_msg_type type, size_t n)
{
    struct crn_msg_attached attached;
    struct crn_msg_drafted drafted;
    if (type == CRN_MSG_attached && crn_wire_decode(type, client->in, n, &attached) == 0 &&
        attached.lease != 0) {
        struct crn_msg_release release = {.lease = attached.lease};
        crn_client_send(client, CRN_MSG_release, &release, 0);
    }
    if (type == CRN_MSG_drafted && crn_wire_decode(type, client->in, n, &drafted) == 0) {
        struct crn_msg_abort abort_draft = {.draft = drafted.draft};
        crn_client_send(client, CRN_MSG_abort, &abort_draft, 0);
    }
}

/* An answer that nobody waits for. */
static void take_in(struct cairn_client *client, enum crn_msg_type type, uint64_t request, size_t n)
{
    char text[128];
    if (type == CRN_MSG_put_done)
        crn_writer_answer(client, request, 0);
    else if (type == CRN_MSG_error)
        crn_writer_answer(client, request, read_error(client, n, text, sizeof text));
    else
        give_back(client, type, n);
}

/* The next message: its type, number and size. */
static int receive(struct cairn_client *client, uint64_t deadline_ns, enum crn_msg_type *out_type,
                   uint64_t *out_request, size_t *out_n)
{
    int status = crn_chan_recv(client->chan, client->in, sizeof client->in, deadline_ns, out_n);
    if (status != 0)
        return status;
    status = crn_wire_peek(client->in, *out_n, out_type, out_request);
    if (status != 0)
        crn_log(CRN_LOG_WARN, "broker %s: message of %zu bytes: %s", client->socket, *out_n,
                cairn_strerror(status));
    return status;
}

int crn_client_pump(struct cairn_client *client, uint64_t deadline_ns)
{
    enum crn_msg_type type;
    uint64_t request;
    size_t n;
    int status = receive(client, deadline_ns, &type, &request, &n);
    while (status == 0) {
        take_in(client, type, request, n);
        status = receive(client, 0, &type, &request, &n);
        if (status == CAIRN_E_TIMEOUT)
            return 0;
    }
    return status == CAIRN_E_TIMEOUT && deadline_ns == 0 ? 0 : status;
}

static int answer(struct cairn_client *client, const struct crn_call *call, enum crn_msg_type type,
                  size_t n)
{
    const char *name = crn_wire_name(call->type);
    if (type == CRN_MSG_error) {
        char text[200] = "";
        int status = read_error(client, n, text, sizeof text);
        if (status == CAIRN_E_GONE && client->session != NULL)
            client->session->generation = 0; /* the broker has forgotten us */
        return crn_client_fail(client, status, "%s: %s", name, text[0] != '\0' ? text : "refused");
    }
    int status = type != call->reply ? CAIRN_E_PROTO
                                     : crn_wire_decode(type, client->in, n, call->out_reply);
    return status == 0 ? 0
                       : crn_client_fail(client, status, "%s: answer %s", name, crn_wire_name(type));
}

int crn_client_call(struct cairn_client *client, const struct crn_call *call)
{
    enum crn_msg_type type = 0;
    uint64_t request = 0;
    size_t n = 0;
    int status = crn_client_send(client, call->type, call->msg, call->deadline_ns);
    while (status == 0) {
        status = receive(client, call->deadline_ns, &type, &request, &n);
        if (status != 0 || request == call->request)
            break;
        take_in(client, type, request, n);
    }
    if (status == 0)
        return answer(client, call, type, n);
    return crn_client_fail(client, status, "%s at %s", crn_wire_name(call->type), client->socket);
}

void cairn_client_stats(const struct cairn_client *client, struct cairn_client_stats *out_stats)
{
    if (client != NULL && out_stats != NULL)
        *out_stats = client->stats;
}
