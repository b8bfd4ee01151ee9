/* Requests and replies as JSON lines (jansson). A broken line costs that line only. Numbers are
 * seconds, bytes and tokens. */
#include "tools/worker/requests.h"

#include "ipc/log.h"

#include <jansson.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_TEXT_BYTES (64u << 20)
#define READ_BYTES (64u << 10)
#define READ_AHEAD_BYTES (4u << 20)

static int read_stream(FILE *f, char **out_text, size_t *out_bytes)
{
    size_t n = 0, room = 1 << 16;
    char *text = malloc(room);
    while (text != NULL) {
        n += fread(text + n, 1, room - n - 1, f);
        if (n < room - 1)
            break;
        char *grown = room <= MAX_TEXT_BYTES ? realloc(text, room *= 2) : NULL;
        if (grown == NULL) {
            free(text);
            return room > MAX_TEXT_BYTES ? CAIRN_E_TOO_BIG : -ENOMEM;
        }
        text = grown;
    }
    if (text == NULL || ferror(f)) {
        free(text);
        return text == NULL ? -ENOMEM : -EIO;
    }
    text[n] = '\0';
    *out_text = text;
    *out_bytes = n;
    return 0;
}

int crn_text_read(const char *path, char **out_text, size_t *out_bytes)
{
    FILE *f = fopen(path, "re");
    int status = f != NULL ? read_stream(f, out_text, out_bytes) : -errno;
    if (f != NULL)
        fclose(f);
    if (status != 0)
        crn_log(CRN_LOG_ERROR, "%s: %s", path, cairn_strerror(status));
    return status;
}

__attribute__((format(printf, 1, 2))) static char *text_of(const char *format, ...)
{
    char *text;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    return n >= 0 ? text : NULL;
}

/* Context of a line: given in it, or in a file it names. */
static char *take_context(const json_t *line, size_t number, struct crn_request *r)
{
    const json_t *text = json_object_get(line, "context"),
                 *file = json_object_get(line, "context_file");
    if (json_is_string(text) && file == NULL) {
        r->context_bytes = json_string_length(text);
        r->context = malloc(r->context_bytes + 1);
        if (r->context != NULL)
            memcpy(r->context, json_string_value(text), r->context_bytes + 1);
        return r->context != NULL ? NULL : text_of("line %zu: no memory", number);
    }
    if (!json_is_string(file) || text != NULL)
        return text_of("line %zu: want a string in either context or context_file", number);
    int status = crn_text_read(json_string_value(file), &r->context, &r->context_bytes);
    return status == 0 ? NULL
                       : text_of("line %zu: context_file %s: %s", number, json_string_value(file),
                                 cairn_strerror(status));
}

static char *take_fields(const json_t *line, size_t number, struct crn_request *r)
{
    const json_t *question = json_object_get(line, "question"),
                 *answer = json_object_get(line, "answer");
    if (!json_is_object(line))
        return text_of("line %zu: want a JSON object", number);
    if (!json_is_string(question))
        return text_of("line %zu: question is missing or no string", number);
    if (answer != NULL && !json_is_string(answer))
        return text_of("line %zu: answer is no string", number);
    r->question = strdup(json_string_value(question));
    r->expected = answer != NULL ? strdup(json_string_value(answer)) : NULL;
    if (r->question == NULL || (answer != NULL && r->expected == NULL))
        return text_of("line %zu: no memory", number);
    return take_context(line, number, r);
}

static void parse_line(const char *text, size_t n, size_t number, struct crn_request *r)
{
    json_error_t error;
    json_t *line = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    *r = (struct crn_request){0};
    r->error = line == NULL ? text_of("line %zu, column %d: %s", number, error.column, error.text)
                            : take_fields(line, number, r);
    json_decref(line);
}

void crn_requests_free(struct crn_requests *r)
{
    for (size_t i = 0; i < r->n; i++)
        crn_request_free(&r->list[i]);
    free(r->list);
    *r = (struct crn_requests){0};
}

/* ---- lines as they come ---- */

/* Room for a read behind what is not taken yet. */
static int make_room(struct crn_request_stream *s)
{
    if (s->at > 0) {
        memmove(s->text, s->text + s->at, s->n - s->at);
        s->n -= s->at;
        s->at = 0;
    }
    if (s->room - s->n > READ_BYTES)
        return 0;
    size_t room = s->n + 2 * READ_BYTES > 2 * s->room ? s->n + 2 * READ_BYTES : 2 * s->room;
    char *grown = realloc(s->text, room);
    if (grown == NULL)
        return -ENOMEM;
    s->text = grown;
    s->room = room;
    return 0;
}

/* One read: waits when nothing is there, also where the descriptor would not. */
static int read_more(struct crn_request_stream *s)
{
    struct pollfd input = {.fd = s->fd, .events = POLLIN};
    int status = make_room(s);
    if (status != 0)
        return status;
    ssize_t n;
    do
        n = read(s->fd, s->text + s->n, READ_BYTES);
    while (n < 0 && (errno == EINTR || (errno == EAGAIN && poll(&input, 1, -1) >= 0)));
    if (n < 0)
        return -errno;
    s->ended = n == 0;
    s->n += (size_t)n;
    return 0;
}

/* The end of the line that begins at from, behind the text when no more comes; NULL: not all of it
 * is there. skip: bytes of it that are known not to be the end. */
static char *line_end(const struct crn_request_stream *s, size_t from, size_t skip)
{
    size_t at = from + skip;
    char *end = at < s->n ? memchr(s->text + at, '\n', s->n - at) : NULL;
    return end != NULL ? end : s->ended && from < s->n ? s->text + s->n : NULL;
}

static int is_blank(const char *line, const char *end)
{
    while (line < end && memchr(" \t\r", *line, 3) != NULL)
        line++;
    return line == end;
}

/* More of a line whose end is not there. What is there of one that is too long is given up. */
static int read_on(struct crn_request_stream *s)
{
    if (s->n - s->at > MAX_TEXT_BYTES) {
        s->at = s->n = 0;
        s->too_long = 1;
    }
    s->scanned = s->n - s->at;
    return read_more(s);
}

static int take(struct crn_request_stream *s, const char *line, const char *end, struct crn_request *out)
{
    if (s->too_long || (size_t)(end - line) > MAX_TEXT_BYTES)
        *out = (struct crn_request){.error = text_of("line %zu: longer than 64 MiB", s->number)};
    else if (is_blank(line, end))
        return 0;
    else
        parse_line(line, (size_t)(end - line), s->number, out);
    s->too_long = 0;
    return 1;
}

int crn_request_next(struct crn_request_stream *s, struct crn_request *out)
{
    for (;;) {
        char *end = line_end(s, s->at, s->scanned);
        if (end == NULL && s->ended && !s->too_long)
            return 0;
        if (end == NULL && !s->ended) {
            int status = read_on(s);
            if (status != 0)
                return status;
            continue;
        }
        char *line = s->text + s->at;
        end = end != NULL ? end : line;
        s->at = end < s->text + s->n ? (size_t)(end - s->text) + 1 : s->n;
        s->scanned = 0;
        s->number++;
        if (take(s, line, end, out))
            return 1;
    }
}

uint32_t crn_requests_waiting(struct crn_request_stream *s)
{
    struct pollfd input = {.fd = s->fd, .events = POLLIN};
    uint32_t lines = 0;
    while (!s->ended && s->n - s->at < READ_AHEAD_BYTES && poll(&input, 1, 0) == 1 &&
           (input.revents & (POLLIN | POLLHUP)) != 0 && read_more(s) == 0)
        ;
    size_t at = s->at;
    for (char *end; (end = line_end(s, at, 0)) != NULL; at = (size_t)(end - s->text) + 1)
        lines += !is_blank(s->text + at, end);
    return lines + (at < s->n && !is_blank(s->text + at, s->text + s->n));
}

void crn_request_stream_free(struct crn_request_stream *s)
{
    free(s->text);
    *s = (struct crn_request_stream){0};
}

static int add(struct crn_requests *r, const struct crn_request *one)
{
    if ((r->n & (r->n + 1)) == 0) {
        struct crn_request *grown = realloc(r->list, (2 * r->n + 1) * sizeof *grown);
        if (grown == NULL)
            return -ENOMEM;
        r->list = grown;
    }
    r->list[r->n++] = *one;
    return 0;
}

int crn_requests_read(const char *path, struct crn_requests *out)
{
    int fd = strcmp(path, "-") == 0 ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    struct crn_request_stream stream = {.fd = fd};
    struct crn_request one;
    int status = fd >= 0 ? 0 : -errno;
    *out = (struct crn_requests){0};
    while (status == 0 && (status = crn_request_next(&stream, &one)) == 1) {
        status = add(out, &one);
        if (status != 0)
            crn_request_free(&one);
    }
    crn_request_stream_free(&stream);
    if (fd > STDIN_FILENO)
        close(fd);
    if (status == 0)
        return 0;
    crn_log(CRN_LOG_ERROR, "%s: %s", path, cairn_strerror(status));
    crn_requests_free(out);
    return status;
}

void crn_request_free(struct crn_request *r)
{
    free(r->context);
    free(r->question);
    free(r->expected);
    free(r->error);
    *r = (struct crn_request){0};
}

static json_t *run_of(const struct crn_reuse_result *r)
{
    return r->run_first < 0 ? json_null() : json_pack("[i,i]", r->run_first, r->run_last);
}

static json_t *outcome_of(const struct crn_outcome *o)
{
    char producer[33];
    cairn_digest_text(&o->reuse.producer, producer);
    return json_pack("{s:s, s:s, s:s, s:o, s:b, s:I, s:I, s:f, s:{s:f, s:f, s:f, s:f, s:f}, "
                     "s:{s:f, s:f}, s:f, s:I, "
                     "s:I, s:b}",
                     "class", crn_class_name(o->reuse.class_), "reason", o->reason, "producer",
                     o->reuse.n_tokens > 0 ? producer : "", "run", run_of(&o->reuse), "map",
                     o->reuse.mapped, "context_tokens", (json_int_t)o->n_context, "reused_tokens",
                     (json_int_t)o->reuse.n_tokens, "ttft_s", o->ttft_s, "ttft_parts", "attach",
                     o->reuse.match_s, "map", o->reuse.map_s, "run", o->reuse.run_s, "prefill",
                     o->prefill_s, "suffix", o->reuse.suffix_s, "estimate_s", "reuse",
                     o->reuse.estimate_s, "prefill", o->reuse.prefill_s, "total_s", o->total_s,
                     "kv_shared_bytes", (json_int_t)o->kv_shared_bytes, "kv_private_bytes",
                     (json_int_t)o->kv_private_bytes, "published", o->published);
}

/* Bytes of an answer need not be UTF-8: what is not becomes U+FFFD. */
static json_t *text_value(const char *text)
{
    json_t *value = json_string(text);
    if (value != NULL)
        return value;
    size_t n = strlen(text), used = 0;
    char *clean = malloc(3 * n + 1);
    if (clean == NULL)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)text[i] < 0x80) {
            clean[used++] = text[i];
        } else {
            memcpy(clean + used, "\xef\xbf\xbd", 3);
            used += 3;
        }
    }
    clean[used] = '\0';
    value = json_string(clean);
    free(clean);
    return value;
}

static json_t *reply_of(const struct crn_reply *r)
{
    if (r->error != NULL)
        return json_pack("{s:o}", "error", text_value(r->error));
    json_t *line = json_object();
    if (r->answer != NULL) {
        json_object_set_new(line, "answer", text_value(r->answer));
        json_object_set_new(line, "stopped", json_boolean(r->stopped));
    }
    if (r->scored)
        json_object_set_new(line, "nll", json_real(r->nll));
    if (r->expected != NULL)
        json_object_set_new(
            line, "exact",
            json_boolean(r->scored ? r->exact : r->stopped && strcmp(r->answer, r->expected) == 0));
    json_object_set_new(line, "tokens", json_integer(r->n_tokens));
    json_t *outcome = outcome_of(r->outcome);
    json_object_update(line, outcome);
    json_decref(outcome);
    return line;
}

int crn_reply_write(FILE *to, const struct crn_reply *reply)
{
    json_t *line = reply_of(reply);
    int failed = line == NULL || json_dumpf(line, to, JSON_COMPACT | JSON_REAL_PRECISION(9)) != 0 ||
                 fputc('\n', to) == EOF || fflush(to) != 0;
    json_decref(line);
    return failed ? -EIO : 0;
}
