/* State maps as GGUF files. Reading checks shapes against each other and turns any float type into float32; writing makes the
 * smallest file that says which two models and which layer it is about. It fits nothing and applies nothing. */
#include "tools/map_file.h"

#include "tools/worker/gguf.h"
#include "tools/worker/quant.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading ---- */

struct reader {
    const struct crn_gguf *g;
    char *why;
    size_t why_bytes;
};

static int bad(const struct reader *r, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int bad(const struct reader *r, int code, const char *format, ...)
{
    va_list args;
    int n = snprintf(r->why, r->why_bytes, "%s: ", crn_gguf_name(r->g));
    va_start(args, format);
    if (n >= 0 && (size_t)n < r->why_bytes)
        vsnprintf(r->why + n, r->why_bytes - (size_t)n, format, args);
    va_end(args);
    return code;
}

static void copy_rows(const struct crn_gguf_tensor *t, size_t rows, size_t stride, float *out)
{
    size_t columns = (size_t)(t->n_elements / rows), row_bytes = (size_t)(t->size_bytes / rows);
    for (size_t i = 0; i < rows; i++)
        crn_quant_row(t->type, t->data + i * row_bytes, columns, out + i * stride);
}

static int is_matrix(const struct crn_gguf_tensor *t, uint64_t rows, uint64_t columns)
{
    return t != NULL && t->n_dims == 2 && t->dims[0] == columns && t->dims[1] == rows;
}

static int read_full(const struct reader *r, const struct crn_gguf_tensor *weight, const struct crn_gguf_tensor *bias,
                     struct cairn_map_view *out)
{
    size_t hidden = (size_t)bias->n_elements, bytes = hidden * (hidden + 1) * sizeof(float);
    if (!is_matrix(weight, hidden, hidden))
        return bad(r, CAIRN_E_FORMAT, "state_map.weight must be [%zu][%zu]", hidden, hidden);
    float *map = malloc(bytes), *offsets = malloc(hidden * sizeof *offsets);
    if (map == NULL || offsets == NULL) {
        free(map);
        free(offsets);
        return bad(r, -ENOMEM, "state map of %zu bytes", bytes);
    }
    copy_rows(weight, hidden, hidden + 1, map);
    copy_rows(bias, 1, hidden, offsets);
    for (size_t i = 0; i < hidden; i++)
        map[i * (hidden + 1) + hidden] = offsets[i];
    free(offsets);
    *out = (struct cairn_map_view){.w = map, .hidden = (uint32_t)hidden, .bytes = bytes};
    return 0;
}

static int read_low(const struct reader *r, const struct crn_gguf_tensor *u, const struct crn_gguf_tensor *bias,
                    struct cairn_map_view *out)
{
    const struct crn_gguf_tensor *v = crn_gguf_tensor(r->g, "state_map.v");
    size_t hidden = (size_t)bias->n_elements, rank = (size_t)u->dims[0];
    size_t bytes = (2 * rank + 1) * hidden * sizeof(float);
    if (rank == 0 || rank >= hidden || !is_matrix(u, hidden, rank) || !is_matrix(v, rank, hidden))
        return bad(r, CAIRN_E_FORMAT, "state_map.u and .v must be [%zu][rank] and [rank][%zu], rank < %zu", hidden, hidden,
                   hidden);
    float *map = malloc(bytes);
    if (map == NULL)
        return bad(r, -ENOMEM, "state map of %zu bytes", bytes);
    copy_rows(u, hidden, rank, map);
    copy_rows(v, rank, hidden, map + hidden * rank);
    copy_rows(bias, 1, hidden, map + 2 * hidden * rank);
    *out = (struct cairn_map_view){.w = map, .hidden = (uint32_t)hidden, .rank = (uint32_t)rank, .bytes = bytes};
    return 0;
}

/* A digest as text under a key; zero when it is not there. */
static int read_model(const struct reader *r, const char *key, struct cairn_digest *out)
{
    struct crn_gguf_str text;
    char digits[33] = "";
    *out = (struct cairn_digest){0};
    if (crn_gguf_find(r->g, key) == NULL)
        return 0;
    if (crn_gguf_str(r->g, key, &text) != 0 || text.n != 32)
        return bad(r, CAIRN_E_FORMAT, "%s must be 32 hex digits", key);
    memcpy(digits, text.p, 32);
    return cairn_digest_parse(digits, out) == 0 ? 0 : bad(r, CAIRN_E_FORMAT, "%s must be 32 hex digits", key);
}

int crn_map_file_read(const char *path, struct cairn_map_view *out_map, struct cairn_digest out_models[2], char *why,
                      size_t why_bytes)
{
    struct cairn_digest models[2];
    struct crn_gguf *g;
    int status = crn_gguf_open(path, &g);
    if (status != 0) {
        snprintf(why, why_bytes, "%s: %s", path, cairn_strerror(status));
        return status;
    }
    struct reader r = {g, why, why_bytes};
    const struct crn_gguf_tensor *weight = crn_gguf_tensor(g, "state_map.weight"), *u = crn_gguf_tensor(g, "state_map.u");
    const struct crn_gguf_tensor *bias = crn_gguf_tensor(g, "state_map.bias");
    if (bias == NULL || (weight == NULL) == (u == NULL) || bias->n_elements == 0 || bias->n_elements > CAIRN_MAX_HIDDEN)
        status = bad(&r, CAIRN_E_FORMAT, "needs state_map.bias [h], and state_map.weight [h][h] or state_map.u and .v");
    if (status == 0)
        status = read_model(&r, "cairn.state_map.producer_digest", &models[0]);
    if (status == 0)
        status = read_model(&r, "cairn.state_map.receiver_digest", &models[1]);
    if (status == 0)
        status = weight != NULL ? read_full(&r, weight, bias, out_map) : read_low(&r, u, bias, out_map);
    if (status == 0 && out_models != NULL)
        memcpy(out_models, models, sizeof models);
    crn_gguf_close(g);
    return status;
}

/* ---- writing ---- */

struct writer {
    FILE *file;
    uint64_t used; /* bytes of tensor data announced so far */
    bool half, failed;
};

static void put(struct writer *w, const void *bytes, size_t n)
{
    w->failed |= n > 0 && fwrite(bytes, n, 1, w->file) != 1;
}

static void put_u32(struct writer *w, uint32_t number)
{
    put(w, &number, sizeof number);
}

static void put_u64(struct writer *w, uint64_t number)
{
    put(w, &number, sizeof number);
}

static void put_text(struct writer *w, const char *text)
{
    put_u64(w, strlen(text));
    put(w, text, strlen(text));
}

static void put_key(struct writer *w, const char *key, const char *value)
{
    put_text(w, key);
    put_u32(w, CRN_GGUF_STRING);
    put_text(w, value);
}

static uint64_t padded(uint64_t bytes)
{
    return (bytes + 31) / 32 * 32;
}

/* columns innermost; rows 0: a vector. */
static void announce(struct writer *w, const char *name, uint64_t columns, uint64_t rows)
{
    put_text(w, name);
    put_u32(w, rows > 0 ? 2 : 1);
    put_u64(w, columns);
    if (rows > 0)
        put_u64(w, rows);
    put_u32(w, w->half ? CRN_QUANT_F16 : CRN_QUANT_F32);
    put_u64(w, w->used);
    w->used += padded(columns * (rows > 0 ? rows : 1) * (w->half ? 2 : 4));
}

static void put_numbers(struct writer *w, const float *numbers, size_t rows, size_t columns, size_t stride)
{
    static const char zeros[32];
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < columns; j++) {
            float x = numbers[i * stride + j];
            _Float16 h = (_Float16)x;
            w->failed |= w->half && !isfinite((float)h);
            put(w, w->half ? (const void *)&h : (const void *)&x, w->half ? sizeof h : sizeof x);
        }
    uint64_t bytes = (uint64_t)rows * columns * (w->half ? 2 : 4);
    put(w, zeros, (size_t)(padded(bytes) - bytes));
}

static void put_head(struct writer *w, const struct crn_map_note *note, uint64_t n_tensors)
{
    char text[33];
    put(w, "GGUF", 4);
    put_u32(w, 3);
    put_u64(w, n_tensors);
    put_u64(w, 7);
    put_key(w, "general.architecture", "cairn");
    put_key(w, "general.type", "state_map");
    put_text(w, "cairn.state_map.layer");
    put_u32(w, CRN_GGUF_U32);
    put_u32(w, note->layer);
    put_key(w, "cairn.state_map.producer", note->producer);
    put_key(w, "cairn.state_map.receiver", note->receiver);
    cairn_digest_text(&note->producer_digest, text);
    put_key(w, "cairn.state_map.producer_digest", text);
    cairn_digest_text(&note->receiver_digest, text);
    put_key(w, "cairn.state_map.receiver_digest", text);
}

static void put_tensors(struct writer *w, const struct cairn_map_view *map)
{
    static const char zeros[32];
    size_t d = map->hidden, rank = map->rank;
    const float *bias = map->w + 2 * d * rank;
    if (rank > 0) {
        announce(w, "state_map.u", rank, d);
        announce(w, "state_map.v", d, rank);
    } else {
        announce(w, "state_map.weight", d, d);
    }
    announce(w, "state_map.bias", d, 0);
    long at = ftell(w->file);
    w->failed |= at < 0;
    put(w, zeros, at < 0 ? 0 : (size_t)(padded((uint64_t)at) - (uint64_t)at));
    if (rank > 0) {
        put_numbers(w, map->w, d, rank, rank);
        put_numbers(w, map->w + d * rank, rank, d, d);
        put_numbers(w, bias, 1, d, d);
    } else {
        put_numbers(w, map->w, d, d, d + 1);
        put_numbers(w, map->w + d, d, 1, d + 1);
    }
}

int crn_map_file_write(const char *path, const struct cairn_map_view *map, const struct crn_map_note *note, bool half)
{
    char part[4096];
    if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part)
        return CAIRN_E_TOO_BIG;
    struct writer w = {.file = fopen(part, "wbe"), .half = half};
    if (w.file == NULL)
        return -errno;
    put_head(&w, note, map->rank > 0 ? 3 : 2);
    put_tensors(&w, map);
    w.failed |= fclose(w.file) != 0;
    if (!w.failed && rename(part, path) == 0)
        return 0;
    remove(part);
    return -EIO;
}
