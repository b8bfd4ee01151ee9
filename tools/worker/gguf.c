/* GGUF reader. open = map, then one pass over the header that touches every metadata byte once:
 *
 *   magic, version, counts -> key/value pairs -> tensor infos -> alignment -> tensor extents
 *
 * Every read goes through a cursor that knows how many bytes are left, so a length can be compared
 * but never added to a pointer first. Counts are bounded by what the remaining bytes could hold
 * before memory is taken. Keys and tensors are then sorted by name, which finds duplicates and
 * serves look-ups by bisection.
 *
 * Not here: writing, big-endian files, version 1, arrays of arrays, split files. A file that
 * shrinks after it was mapped raises SIGBUS at the next touch, as with every mapping; model files
 * are not edited in place. */
#include "tools/worker/gguf.h"

#include "ipc/cairn_status.h"
#include "ipc/log.h"
#include "tools/worker/quant.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_KEYS 65536u
#define MAX_TENSORS 65536u
#define MAX_KEY_BYTES 65535u
#define MAX_ALIGNMENT (1u << 20)
#define DEFAULT_ALIGNMENT 32u
#define MIN_KEY_RECORD 13u    /* empty key: u64 length, u32 type, one byte */
#define MIN_TENSOR_RECORD 24u /* empty name: u64 length, u32 n_dims, u32 type, u64 offset */

struct crn_gguf {
    char *label;
    const uint8_t *base;
    size_t size_bytes;
    bool mapped;
    struct crn_gguf_value *keys;
    size_t n_keys;
    struct crn_gguf_tensor *tensors;
    size_t n_tensors;
};

/* Reading position. `what` names the key or tensor being read, for the log line. */
struct cursor {
    const struct crn_gguf *g;
    size_t at;
    char what[CRN_GGUF_MAX_NAME + 16];
};

static const uint8_t scalar_bytes[] = {
    [CRN_GGUF_U8] = 1,  [CRN_GGUF_I8] = 1,  [CRN_GGUF_U16] = 2, [CRN_GGUF_I16] = 2,
    [CRN_GGUF_U32] = 4, [CRN_GGUF_I32] = 4, [CRN_GGUF_F32] = 4, [CRN_GGUF_BOOL] = 1,
    [CRN_GGUF_U64] = 8, [CRN_GGUF_I64] = 8, [CRN_GGUF_F64] = 8,
};

__attribute__((format(printf, 3, 4))) static int broken(const struct cursor *c, int code,
                                                        const char *format, ...)
{
    char detail[256];
    va_list args;
    va_start(args, format);
    vsnprintf(detail, sizeof detail, format, args);
    va_end(args);
    crn_log(CRN_LOG_ERROR, "%s: %s, offset %zu: %s", c->g->label, c->what, c->at, detail);
    return code;
}

/* Names the thing being read; bytes that could break the log line are shown as '?'. */
static void name_it(struct cursor *c, const char *kind, struct crn_gguf_str name)
{
    size_t used = (size_t)snprintf(c->what, sizeof c->what, "%s ", kind);
    size_t n = name.n < CRN_GGUF_MAX_NAME ? name.n : CRN_GGUF_MAX_NAME;
    for (size_t i = 0; i < n && used + 1 < sizeof c->what; i++) {
        char ch = name.p[i];
        c->what[used++] = ch > ' ' && ch < 127 ? ch : '?';
    }
    c->what[used] = '\0';
}

static size_t left(const struct cursor *c)
{
    return c->g->size_bytes - c->at;
}

static int take(struct cursor *c, size_t n, const uint8_t **out_bytes)
{
    if (n > left(c)) {
        broken(c, CAIRN_E_FORMAT, "file ends: %zu bytes wanted, %zu left", n, left(c));
        return CAIRN_E_FORMAT;
    }
    *out_bytes = c->g->base + c->at;
    c->at += n;
    return 0;
}

static int take_u32(struct cursor *c, uint32_t *out_number)
{
    const uint8_t *p;
    int rc = take(c, sizeof *out_number, &p);
    if (rc == 0)
        memcpy(out_number, p, sizeof *out_number);
    return rc;
}

static int take_u64(struct cursor *c, uint64_t *out_number)
{
    const uint8_t *p;
    int rc = take(c, sizeof *out_number, &p);
    if (rc == 0)
        memcpy(out_number, p, sizeof *out_number);
    return rc;
}

static int take_str(struct cursor *c, size_t max_bytes, struct crn_gguf_str *out_text)
{
    uint64_t n;
    int rc = take_u64(c, &n);
    if (rc != 0)
        return rc;
    if (n > max_bytes) {
        broken(c, CAIRN_E_FORMAT, "string of %llu bytes, at most %zu allowed",
               (unsigned long long)n, max_bytes);
        return CAIRN_E_FORMAT;
    }
    const uint8_t *p;
    rc = take(c, (size_t)n, &p);
    if (rc == 0)
        *out_text = (struct crn_gguf_str){(const char *)p, (size_t)n};
    return rc;
}

/* --- metadata --------------------------------------------------------------------------------- */

static int take_bools(struct cursor *c, uint64_t count)
{
    const uint8_t *p;
    int rc = take(c, (size_t)count, &p);
    if (rc != 0)
        return rc;
    for (uint64_t i = 0; i < count; i++) {
        if (p[i] > 1)
            return broken(c, CAIRN_E_FORMAT, "bool with value %u", p[i]);
    }
    return 0;
}

/* `count` elements of one type, skipped after they are known to be inside the file. */
static int take_elements(struct cursor *c, uint32_t type, uint64_t count)
{
    if (count > left(c))
        return broken(c, CAIRN_E_FORMAT, "%llu elements in %zu bytes", (unsigned long long)count,
                      left(c));
    if (type == CRN_GGUF_BOOL)
        return take_bools(c, count);
    if (type == CRN_GGUF_STRING) {
        int rc = 0;
        struct crn_gguf_str text;
        for (uint64_t i = 0; i < count && rc == 0; i++)
            rc = take_str(c, left(c), &text);
        return rc;
    }
    if (type == CRN_GGUF_ARRAY)
        return broken(c, CAIRN_E_UNSUPPORTED, "array of arrays");
    if (type >= sizeof scalar_bytes)
        return broken(c, CAIRN_E_FORMAT, "unknown value type %u", type);
    uint64_t size_bytes;
    if (__builtin_mul_overflow(count, (uint64_t)scalar_bytes[type], &size_bytes))
        return broken(c, CAIRN_E_FORMAT, "%llu elements", (unsigned long long)count);
    const uint8_t *p;
    return take(c, (size_t)size_bytes, &p);
}

static int take_value(struct cursor *c, struct crn_gguf_value *v)
{
    int rc = take_u32(c, &v->type);
    if (rc != 0)
        return rc;
    v->element = v->type;
    v->count = 1;
    if (v->type == CRN_GGUF_ARRAY) {
        if ((rc = take_u32(c, &v->element)) != 0 || (rc = take_u64(c, &v->count)) != 0)
            return rc;
    }
    size_t start = c->at;
    rc = take_elements(c, v->element, v->count);
    v->data = c->g->base + start;
    v->size_bytes = c->at - start;
    return rc;
}

static int compare_bytes(const char *a, size_t na, const char *b, size_t nb)
{
    int order = memcmp(a, b, na < nb ? na : nb);
    return order != 0 ? order : (na > nb) - (na < nb);
}

static int by_key(const void *a, const void *b)
{
    const struct crn_gguf_value *x = a, *y = b;
    return compare_bytes(x->key.p, x->key.n, y->key.p, y->key.n);
}

static int take_keys(struct cursor *c, struct crn_gguf *g)
{
    for (size_t i = 0; i < g->n_keys; i++) {
        struct crn_gguf_value *v = &g->keys[i];
        snprintf(c->what, sizeof c->what, "key %zu of %zu", i + 1, g->n_keys);
        int rc = take_str(c, MAX_KEY_BYTES, &v->key);
        if (rc != 0)
            return rc;
        name_it(c, "key", v->key);
        if ((rc = take_value(c, v)) != 0)
            return rc;
    }
    qsort(g->keys, g->n_keys, sizeof *g->keys, by_key);
    for (size_t i = 1; i < g->n_keys; i++) {
        if (by_key(&g->keys[i - 1], &g->keys[i]) != 0)
            continue;
        name_it(c, "key", g->keys[i].key);
        c->at = (size_t)((const uint8_t *)g->keys[i].key.p - g->base);
        return broken(c, CAIRN_E_FORMAT, "appears twice");
    }
    return 0;
}

/* --- tensors ---------------------------------------------------------------------------------- */

/* Fills n_elements and size_bytes; refuses shapes that overflow or do not fill whole blocks. */
static int measure(const struct cursor *c, struct crn_gguf_tensor *t)
{
    const struct crn_quant_info *info = crn_quant_info(t->type);
    if (info == NULL)
        return broken(c, CAIRN_E_UNSUPPORTED, "tensor type %u (%s) is not supported", t->type,
                      crn_quant_name(t->type));
    uint64_t n = 1;
    for (uint32_t d = 0; d < t->n_dims; d++) {
        if (t->dims[d] == 0 || __builtin_mul_overflow(n, t->dims[d], &n) || n > INT64_MAX)
            return broken(c, CAIRN_E_FORMAT, "impossible dimension %u: %llu", d,
                          (unsigned long long)t->dims[d]);
    }
    if (t->dims[0] % info->block_elems != 0)
        return broken(c, CAIRN_E_FORMAT, "row of %llu is not a multiple of %u",
                      (unsigned long long)t->dims[0], info->block_elems);
    t->n_elements = n;
    if (__builtin_mul_overflow(n / info->block_elems, (uint64_t)info->block_bytes, &t->size_bytes))
        return broken(c, CAIRN_E_FORMAT, "%llu elements", (unsigned long long)n);
    return 0;
}

/* Reads one record; the offset, still relative, is returned beside it. */
static int take_tensor(struct cursor *c, struct crn_gguf_tensor *t, uint64_t *out_offset)
{
    struct crn_gguf_str name;
    int rc = take_str(c, CRN_GGUF_MAX_NAME, &name);
    if (rc != 0)
        return rc;
    name_it(c, "tensor", name);
    if (name.n == 0 || memchr(name.p, '\0', name.n) != NULL)
        return broken(c, CAIRN_E_FORMAT, "impossible name");
    memcpy(t->name, name.p, name.n);
    t->name[name.n] = '\0';
    if ((rc = take_u32(c, &t->n_dims)) != 0)
        return rc;
    if (t->n_dims == 0 || t->n_dims > CRN_GGUF_MAX_DIMS)
        return broken(c, CAIRN_E_FORMAT, "%u dimensions", t->n_dims);
    for (uint32_t d = 0; d < CRN_GGUF_MAX_DIMS; d++) {
        t->dims[d] = 1;
        if (d < t->n_dims && (rc = take_u64(c, &t->dims[d])) != 0)
            return rc;
    }
    if ((rc = take_u32(c, &t->type)) != 0 || (rc = take_u64(c, out_offset)) != 0)
        return rc;
    return measure(c, t);
}

static int by_name(const void *a, const void *b)
{
    const struct crn_gguf_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static int alignment_of(struct cursor *c, const struct crn_gguf *g, uint32_t *out_alignment)
{
    uint32_t alignment = DEFAULT_ALIGNMENT;
    int rc = crn_gguf_u32(g, "general.alignment", &alignment);
    if (rc != 0 && rc != CAIRN_E_MISS)
        return rc;
    if (alignment < 8 || alignment > MAX_ALIGNMENT || (alignment & (alignment - 1)) != 0) {
        snprintf(c->what, sizeof c->what, "key general.alignment");
        return broken(c, CAIRN_E_FORMAT, "impossible value %u", alignment);
    }
    *out_alignment = alignment;
    return 0;
}

/* Turns relative offsets into pointers; every tensor must lie inside the file. */
static int place(struct cursor *c, struct crn_gguf *g, const uint64_t *offsets, uint32_t alignment)
{
    uint64_t mask = alignment - 1;
    uint64_t start = ((uint64_t)c->at + mask) & ~mask;
    for (size_t i = 0; i < g->n_tensors; i++) {
        struct crn_gguf_tensor *t = &g->tensors[i];
        uint64_t begin, end;
        name_it(c, "tensor", (struct crn_gguf_str){t->name, strlen(t->name)});
        if (offsets[i] % alignment != 0)
            return broken(c, CAIRN_E_FORMAT, "data offset %llu is not a multiple of %u",
                          (unsigned long long)offsets[i], alignment);
        if (__builtin_add_overflow(start, offsets[i], &begin) ||
            __builtin_add_overflow(begin, t->size_bytes, &end) || end > g->size_bytes)
            return broken(c, CAIRN_E_FORMAT,
                          "data of %llu bytes at %llu + %llu ends beyond the file of %zu bytes",
                          (unsigned long long)t->size_bytes, (unsigned long long)start,
                          (unsigned long long)offsets[i], g->size_bytes);
        t->data = g->base + begin;
    }
    return 0;
}

static int take_tensors(struct cursor *c, struct crn_gguf *g)
{
    uint64_t *offsets = calloc(g->n_tensors + 1, sizeof *offsets);
    if (offsets == NULL)
        return broken(c, -ENOMEM, "no memory for %zu tensors", g->n_tensors);
    int rc = 0;
    for (size_t i = 0; i < g->n_tensors && rc == 0; i++) {
        snprintf(c->what, sizeof c->what, "tensor %zu of %zu", i + 1, g->n_tensors);
        rc = take_tensor(c, &g->tensors[i], &offsets[i]);
    }
    uint32_t alignment = 0;
    if (rc == 0)
        rc = alignment_of(c, g, &alignment);
    if (rc == 0)
        rc = place(c, g, offsets, alignment);
    free(offsets);
    if (rc != 0)
        return rc;
    qsort(g->tensors, g->n_tensors, sizeof *g->tensors, by_name);
    for (size_t i = 1; i < g->n_tensors; i++) {
        if (by_name(&g->tensors[i - 1], &g->tensors[i]) != 0)
            continue;
        name_it(c, "tensor", (struct crn_gguf_str){g->tensors[i].name, strlen(g->tensors[i].name)});
        return broken(c, CAIRN_E_FORMAT, "appears twice");
    }
    return 0;
}

/* --- opening ---------------------------------------------------------------------------------- */

/* Magic, version, counts. Counts are bounded here, before anything is allocated for them. */
static int take_header(struct cursor *c, struct crn_gguf *g)
{
    const uint8_t *magic;
    uint32_t version;
    uint64_t n_tensors, n_keys;
    int rc = take(c, 4, &magic);
    if (rc != 0)
        return rc;
    if (memcmp(magic, "GGUF", 4) != 0)
        return broken(c, CAIRN_E_FORMAT, "not a GGUF file");
    if ((rc = take_u32(c, &version)) != 0)
        return rc;
    if (version != 2 && version != 3)
        return broken(c, CAIRN_E_VERSION, "GGUF version %u, only 2 and 3 are read", version);
    if ((rc = take_u64(c, &n_tensors)) != 0 || (rc = take_u64(c, &n_keys)) != 0)
        return rc;
    if (n_keys > MAX_KEYS || n_keys > left(c) / MIN_KEY_RECORD)
        return broken(c, CAIRN_E_FORMAT, "%llu keys in %zu bytes", (unsigned long long)n_keys,
                      left(c));
    if (n_tensors > MAX_TENSORS || n_tensors > left(c) / MIN_TENSOR_RECORD)
        return broken(c, CAIRN_E_FORMAT, "%llu tensors in %zu bytes", (unsigned long long)n_tensors,
                      left(c));
    g->n_keys = (size_t)n_keys;
    g->n_tensors = (size_t)n_tensors;
    return 0;
}

static int parse(struct crn_gguf *g)
{
    struct cursor c = {.g = g, .what = "header"};
    int rc = take_header(&c, g);
    if (rc != 0)
        return rc;
    g->keys = calloc(g->n_keys + 1, sizeof *g->keys);
    g->tensors = calloc(g->n_tensors + 1, sizeof *g->tensors);
    if (g->keys == NULL || g->tensors == NULL)
        return broken(&c, -ENOMEM, "no memory for %zu keys, %zu tensors", g->n_keys, g->n_tensors);
    if ((rc = take_keys(&c, g)) != 0)
        return rc;
    return take_tensors(&c, g);
}

/* Takes over `bytes` when mapped, also on failure. */
static int open_bytes(const void *bytes, size_t size_bytes, bool mapped, const char *label,
                      struct crn_gguf **out_gguf)
{
    struct crn_gguf *g = calloc(1, sizeof *g);
    char *copy = strdup(label);
    if (g == NULL || copy == NULL) {
        free(g);
        free(copy);
        if (mapped)
            munmap((void *)(uintptr_t)bytes, size_bytes);
        crn_log(CRN_LOG_ERROR, "%s: no memory", label);
        return -ENOMEM;
    }
    *g =
        (struct crn_gguf){.label = copy, .base = bytes, .size_bytes = size_bytes, .mapped = mapped};
    int rc = parse(g);
    if (rc != 0) {
        crn_gguf_close(g);
        return rc;
    }
    *out_gguf = g;
    return 0;
}

int crn_gguf_open_memory(const void *bytes, size_t size_bytes, const char *label,
                         struct crn_gguf **out_gguf)
{
    return open_bytes(bytes, size_bytes, false, label, out_gguf);
}

static int map_file(const char *path, int fd, const void **out_bytes, size_t *out_size_bytes)
{
    struct stat st;
    if (fstat(fd, &st) != 0) {
        int code = -errno;
        crn_log(CRN_LOG_ERROR, "%s: %s", path, cairn_strerror(code));
        return code;
    }
    if (!S_ISREG(st.st_mode) || st.st_size <= 0) {
        crn_log(CRN_LOG_ERROR, "%s: not a file with content", path);
        return CAIRN_E_FORMAT;
    }
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        int code = -errno;
        crn_log(CRN_LOG_ERROR, "%s: cannot map %lld bytes: %s", path, (long long)st.st_size,
                cairn_strerror(code));
        return code;
    }
    *out_bytes = p;
    *out_size_bytes = (size_t)st.st_size;
    return 0;
}

int crn_gguf_open(const char *path, struct crn_gguf **out_gguf)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        int code = -errno;
        crn_log(CRN_LOG_ERROR, "%s: %s", path, cairn_strerror(code));
        return code;
    }
    const void *bytes = NULL;
    size_t size_bytes = 0;
    int rc = map_file(path, fd, &bytes, &size_bytes);
    close(fd);
    if (rc != 0)
        return rc;
    return open_bytes(bytes, size_bytes, true, path, out_gguf);
}

void crn_gguf_close(struct crn_gguf *g)
{
    if (g == NULL)
        return;
    if (g->mapped)
        munmap((void *)(uintptr_t)g->base, g->size_bytes);
    free(g->keys);
    free(g->tensors);
    free(g->label);
    free(g);
}

void crn_gguf_forget(const struct crn_gguf *g)
{
    if (g->mapped)
        madvise((void *)(uintptr_t)g->base, g->size_bytes, MADV_DONTNEED);
}

/* --- reading ---------------------------------------------------------------------------------- */

const char *crn_gguf_name(const struct crn_gguf *g)
{
    return g->label;
}

const uint8_t *crn_gguf_bytes(const struct crn_gguf *g, size_t *out_size_bytes)
{
    *out_size_bytes = g->size_bytes;
    return g->base;
}

const struct crn_gguf_value *crn_gguf_find(const struct crn_gguf *g, const char *key)
{
    struct crn_gguf_value want = {.key = {key, strlen(key)}};
    return bsearch(&want, g->keys, g->n_keys, sizeof *g->keys, by_key);
}

static int wrong(const struct crn_gguf *g, const struct crn_gguf_value *v, const char *want)
{
    crn_log(CRN_LOG_ERROR, "%s: key %.*s, offset %zu: %s wanted, type is %u", g->label,
            (int)v->key.n, v->key.p, (size_t)(v->data - g->base), want, v->type);
    return CAIRN_E_FORMAT;
}

/* One stored integer; false for other types and for u64 beyond int64. */
static bool load_int(uint32_t type, const uint8_t *p, int64_t *out_number)
{
    uint64_t raw = 0;
    if (type > CRN_GGUF_I64 || type == CRN_GGUF_F32 || type == CRN_GGUF_BOOL ||
        scalar_bytes[type] == 0)
        return false;
    memcpy(&raw, p, scalar_bytes[type]);
    switch (type) {
    case CRN_GGUF_I8:
        *out_number = (int8_t)raw;
        return true;
    case CRN_GGUF_I16:
        *out_number = (int16_t)raw;
        return true;
    case CRN_GGUF_I32:
        *out_number = (int32_t)raw;
        return true;
    case CRN_GGUF_U64:
        if (raw > INT64_MAX)
            return false;
        break;
    default:
        break;
    }
    *out_number = (int64_t)raw;
    return true;
}

int crn_gguf_int_at(const struct crn_gguf_value *array, uint64_t index, int64_t *out_number)
{
    if (index >= array->count || array->element >= sizeof scalar_bytes)
        return CAIRN_E_FORMAT;
    const uint8_t *p = array->data + index * scalar_bytes[array->element];
    return load_int(array->element, p, out_number) ? 0 : CAIRN_E_FORMAT;
}

int crn_gguf_u64(const struct crn_gguf *g, const char *key, uint64_t *out_number)
{
    const struct crn_gguf_value *v = crn_gguf_find(g, key);
    int64_t number;
    if (v == NULL)
        return CAIRN_E_MISS;
    if (v->type == CRN_GGUF_ARRAY || !load_int(v->type, v->data, &number) || number < 0)
        return wrong(g, v, "an integer, not negative,");
    *out_number = (uint64_t)number;
    return 0;
}

int crn_gguf_u32(const struct crn_gguf *g, const char *key, uint32_t *out_number)
{
    uint64_t number;
    int rc = crn_gguf_u64(g, key, &number);
    if (rc != 0)
        return rc;
    if (number > UINT32_MAX)
        return wrong(g, crn_gguf_find(g, key), "a number of 32 bits");
    *out_number = (uint32_t)number;
    return 0;
}

int crn_gguf_f32(const struct crn_gguf *g, const char *key, float *out_number)
{
    const struct crn_gguf_value *v = crn_gguf_find(g, key);
    double wide;
    if (v == NULL)
        return CAIRN_E_MISS;
    if (v->type == CRN_GGUF_F32) {
        memcpy(out_number, v->data, sizeof *out_number);
        return 0;
    }
    if (v->type != CRN_GGUF_F64)
        return wrong(g, v, "a float");
    memcpy(&wide, v->data, sizeof wide);
    *out_number = (float)wide;
    return 0;
}

int crn_gguf_bool(const struct crn_gguf *g, const char *key, bool *out_flag)
{
    const struct crn_gguf_value *v = crn_gguf_find(g, key);
    if (v == NULL)
        return CAIRN_E_MISS;
    if (v->type != CRN_GGUF_BOOL)
        return wrong(g, v, "a bool");
    *out_flag = v->data[0] != 0;
    return 0;
}

/* A string checked at open: u64 length, then its bytes. */
static struct crn_gguf_str load_str(const uint8_t *p)
{
    uint64_t n;
    memcpy(&n, p, sizeof n);
    return (struct crn_gguf_str){(const char *)p + sizeof n, (size_t)n};
}

int crn_gguf_str(const struct crn_gguf *g, const char *key, struct crn_gguf_str *out_text)
{
    const struct crn_gguf_value *v = crn_gguf_find(g, key);
    if (v == NULL)
        return CAIRN_E_MISS;
    if (v->type != CRN_GGUF_STRING)
        return wrong(g, v, "a string");
    *out_text = load_str(v->data);
    return 0;
}

bool crn_gguf_next_str(const struct crn_gguf_value *array, size_t *cursor,
                       struct crn_gguf_str *out_text)
{
    if (array->element != CRN_GGUF_STRING || *cursor >= array->size_bytes)
        return false;
    *out_text = load_str(array->data + *cursor);
    *cursor += sizeof(uint64_t) + out_text->n;
    return true;
}

size_t crn_gguf_n_tensors(const struct crn_gguf *g)
{
    return g->n_tensors;
}

const struct crn_gguf_tensor *crn_gguf_tensor_at(const struct crn_gguf *g, size_t index)
{
    return index < g->n_tensors ? &g->tensors[index] : NULL;
}

const struct crn_gguf_tensor *crn_gguf_tensor(const struct crn_gguf *g, const char *name)
{
    struct crn_gguf_tensor want;
    if (strlen(name) > CRN_GGUF_MAX_NAME)
        return NULL;
    snprintf(want.name, sizeof want.name, "%s", name);
    return bsearch(&want, g->tensors, g->n_tensors, sizeof *g->tensors, by_name);
}

bool crn_gguf_str_is(struct crn_gguf_str text, const char *want)
{
    return text.n == strlen(want) && memcmp(text.p, want, text.n) == 0;
}
