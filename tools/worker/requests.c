/* Requests and replies as JSON lines (jansson). A broken line costs that line only. Numbers are
 * seconds, bytes and tokens. */
#include "tools/worker/requests.h"

#include "ipc/log.h"

#include <jansson.h>

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_TEXT_BYTES (64u << 20)
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

static int add(struct crn_requests *r, const char *text, size_t n, size_t number)
{
    if (strspn(text, " \t\r") >= n)
        return 0;
    if ((r->n & (r->n + 1)) == 0) {
        struct crn_request *grown = realloc(r->list, (2 * r->n + 1) * sizeof *grown);
        if (grown == NULL)
            return -ENOMEM;
        r->list = grown;
    }
    parse_line(text, n, number, &r->list[r->n++]);
    return 0;
}

int crn_requests_read(const char *path, struct crn_requests *out)
{
    char *text = NULL;
    size_t bytes, number = 1;
    int status = strcmp(path, "-") == 0 ? read_stream(stdin, &text, &bytes)
                                        : crn_text_read(path, &text, &bytes);
    *out = (struct crn_requests){0};
    for (char *line = text; status == 0 && line < text + bytes; number++) {
        char *end = memchr(line, '\n', (size_t)(text + bytes - line));
        size_t n = (size_t)((end != NULL ? end : text + bytes) - line);
        if (end != NULL)
            *end = '\0';
        status = add(out, line, n, number);
        line += n + 1;
    }
    free(text);
    if (status != 0)
        crn_requests_free(out);
    return status;
}

void crn_requests_free(struct crn_requests *r)
{
    for (size_t i = 0; i < r->n; i++)
        crn_request_free(&r->list[i]);
    free(r->list);
    *r = (struct crn_requests){0};
}

/* ---- lines as they come ---- */

/* Room for more behind what is not taken yet. */
static int make_room(struct crn_request_stream *s)
{
    if (s->at > 0) {
        memmove(s->text, s->text + s->at, s->n - s->at);
        s->n -= s->at;
        s->at = 0;
    }
    if (s->n + 1 < s->room)
        return 0;
    size_t room = s->room > 0 ? 2 * s->room : 1 << 16;
    char *grown = s->n < MAX_TEXT_BYTES ? realloc(s->text, room) : NULL;
    if (grown == NULL)
        return s->n < MAX_TEXT_BYTES ? -ENOMEM : CAIRN_E_TOO_BIG;
    s->text = grown;
    s->room = room;
    return 0;
}

/* One read: waits when nothing is there. */
static int read_more(struct crn_request_stream *s)
{
    int status = make_room(s);
    if (status != 0)
        return status;
    ssize_t n;
    do
        n = read(s->fd, s->text + s->n, s->room - s->n - 1); /* a byte is left behind the last line */
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    s->ended = n == 0;
    s->n += (size_t)n;
    return 0;
}

/* The end of the line that begins at from, behind the text when no more comes; NULL: not all of it
 * is there. */
static char *line_end(const struct crn_request_stream *s, size_t from)
{
    char *end = from < s->n ? memchr(s->text + from, '\n', s->n - from) : NULL;
    return end != NULL ? end : s->ended && from < s->n ? s->text + s->n : NULL;
}

static int is_blank(const char *line, const char *end)
{
    while (line < end && memchr(" \t\r", *line, 3) != NULL)
        line++;
    return line == end;
}

int crn_request_next(struct crn_request_stream *s, struct crn_request *out)
{
    for (;;) {
        char *end = line_end(s, s->at);
        if (end == NULL && s->ended)
            return 0;
        int status = end == NULL ? read_more(s) : 0;
        if (status != 0)
            return status;
        if (end == NULL)
            continue;
        char *line = s->text + s->at;
        s->at = end < s->text + s->n ? (size_t)(end - s->text) + 1 : s->n;
        s->number++;
        if (is_blank(line, end))
            continue;
        parse_line(line, (size_t)(end - line), s->number, out);
        return 1;
    }
}

uint32_t crn_requests_waiting(struct crn_request_stream *s)
{
    struct pollfd input = {.fd = s->fd, .events = POLLIN};
    uint32_t lines = 0;
    while (!s->ended && s->n - s->at < READ_AHEAD_BYTES && poll(&input, 1, 0) == 1 &&
           read_more(s) == 0)
        ;
    char *end;
    for (size_t at = s->at; (end = line_end(s, at)) != NULL; at = (size_t)(end - s->text) + 1)
        lines += !is_blank(s->text + at, end);
    return lines;
}

void crn_request_stream_free(struct crn_request_stream *s)
{
    free(s->text);
    *s = (struct crn_request_stream){0};
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
