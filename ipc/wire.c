/* MessagePack bodies of the control plane, driven by msgs.def.
 *
 * msgs.def is expanded twice here: into one field table per message, and into checks that the
 * structs of wire.h are packed the way the tables are walked. Encoding walks a table with
 * msgpack-c's packer into the caller's buffer. Decoding has two steps: scan() walks the bytes with
 * bounds and allocates nothing, because msgpack-c trusts container headers (5 bytes make it reserve
 * 8 GiB); only what passed goes to msgpack_unpack_next, whose tree is bounded by then (8192 objects
 * of 24 bytes) and is freed before return. Views of a decoded message point into the caller's
 * bytes, never into that tree.
 *
 * It does not know what a message means: relations between fields, ids and records are the
 * receiver's to check. Text is not checked for UTF-8; crn_wire_text makes it printable. */
#include "ipc/wire.h"

#include "ipc/chan.h"

#include <msgpack.h>

#include <errno.h>
#include <string.h>

/* ---- tables ---- */

enum kind { KIND_U, KIND_B, KIND_S, KIND_D };
enum need { NEED_O = 0, NEED_R = 1 };

/* Keys are one-byte integers: a map has at most 127 pairs, and a bitmap finds repeated ones. */
#define KEY_MAX 127u

struct field {
    uint8_t key; /* 0 ends a table */
    uint8_t kind;
    uint8_t need;
    uint64_t max;
};

struct message {
    const char *name;
    const struct field *fields;
};

#define U(key, name, need, max) {(key), KIND_U, NEED_##need, (max)},
#define B(key, name, need, max) {(key), KIND_B, NEED_##need, (max)},
#define S(key, name, need, max) {(key), KIND_S, NEED_##need, (max)},
#define D(key, name, need) {(key), KIND_D, NEED_##need, sizeof(struct cairn_digest)},
#define MESSAGE(name, number, fields)                                                              \
    static const struct field fields_##name[] = {fields{0, 0, 0, 0}};
#include "ipc/msgs.def"
#undef MESSAGE
#undef U
#undef B
#undef S
#undef D

static const struct message messages[256] = {
#define MESSAGE(name, number, fields) [number] = {#name, fields_##name},
#include "ipc/msgs.def"
#undef MESSAGE
};

/* A struct of wire.h is its fields in order without padding, then the request id: so a walk needs
 * no offsets. */
#define U(key, name, need, max) +sizeof(uint64_t)
#define B(key, name, need, max) +sizeof(struct crn_bytes)
#define S(key, name, need, max) +sizeof(struct crn_bytes)
#define D(key, name, need) +sizeof(struct cairn_digest)
#define MESSAGE(name, number, fields)                                                              \
    _Static_assert(sizeof(struct crn_msg_##name) == sizeof(uint64_t) fields, "packed: " #name);
#include "ipc/msgs.def"
#undef MESSAGE
#undef U
#undef B
#undef S
#undef D

static const struct message *message_of(uint64_t type)
{
    return type < 256 && messages[type].name != NULL ? &messages[type] : NULL;
}

static size_t field_bytes(const struct field *f)
{
    if (f->kind == KIND_U)
        return sizeof(uint64_t);
    return f->kind == KIND_D ? sizeof(struct cairn_digest) : sizeof(struct crn_bytes);
}

const char *crn_wire_name(enum crn_msg_type type)
{
    const struct message *m = message_of((uint64_t)type);
    return m != NULL ? m->name : "?";
}

/* ---- encode ---- */

struct sink {
    uint8_t *p;
    size_t bytes, used;
};

static int sink_write(void *ctx, const char *bytes, size_t n)
{
    struct sink *sink = ctx;
    if (n > sink->bytes - sink->used)
        return -1;
    if (n > 0)
        memcpy(sink->p + sink->used, bytes, n);
    sink->used += n;
    return 0;
}

/* A field's value: u for integers, b for the others. A digest is 16 bytes; all zero means absent.
 */
struct value {
    uint64_t u;
    struct crn_bytes b;
};

static struct value field_load(const struct field *f, const uint8_t *at)
{
    static const struct cairn_digest none;
    struct value v = {0, {NULL, 0}};
    if (f->kind == KIND_U)
        memcpy(&v.u, at, sizeof v.u);
    else if (f->kind != KIND_D)
        memcpy(&v.b, at, sizeof v.b);
    else if (f->need == NEED_R || memcmp(at, &none, sizeof none) != 0)
        v.b = (struct crn_bytes){at, sizeof none};
    return v;
}

static int value_fits(const struct field *f, const struct value *v)
{
    if (f->kind == KIND_U)
        return v->u <= f->max;
    if (v->b.n > f->max || (f->kind == KIND_D && v->b.n != f->max))
        return 0;
    return f->kind != KIND_S || v->b.n == 0 || memchr(v->b.p, 0, v->b.n) == NULL;
}

static int value_present(const struct field *f, const struct value *v)
{
    return f->need == NEED_R || v->u != 0 || v->b.n != 0;
}

static int value_pack(msgpack_packer *pk, const struct field *f, const struct value *v)
{
    if (msgpack_pack_uint8(pk, f->key) != 0)
        return -1;
    if (f->kind == KIND_U)
        return msgpack_pack_uint64(pk, v->u);
    int status = f->kind == KIND_S ? msgpack_pack_str(pk, v->b.n) : msgpack_pack_bin(pk, v->b.n);
    return status != 0 ? status : sink_write(pk->data, v->b.p, v->b.n);
}

/* Checks all fields and finds what the header needs to say first. */
static int count_fields(const struct message *m, const uint8_t *at, uint32_t *out_n,
                        uint64_t *out_request)
{
    uint32_t n = 0;
    for (const struct field *f = m->fields; f->key != 0; at += field_bytes(f), f++) {
        struct value v = field_load(f, at);
        if (!value_present(f, &v))
            continue;
        if (!value_fits(f, &v))
            return CAIRN_E_TOO_BIG;
        n++;
    }
    memcpy(out_request, at, sizeof *out_request);
    *out_n = n;
    return 0;
}

int crn_wire_encode(enum crn_msg_type type, const void *msg, void *buf, size_t buf_bytes,
                    size_t *out_n)
{
    const struct message *m = message_of((uint64_t)type);
    if (m == NULL)
        return CAIRN_E_ARG;
    uint32_t n_fields;
    uint64_t request;
    int status = count_fields(m, msg, &n_fields, &request);
    if (status != 0)
        return status;

    struct sink sink = {buf, buf_bytes < CRN_MESSAGE_MAX ? buf_bytes : CRN_MESSAGE_MAX, 0};
    msgpack_packer pk;
    msgpack_packer_init(&pk, &sink, sink_write);
    status = msgpack_pack_array(&pk, 4) | msgpack_pack_uint32(&pk, CRN_PROTO_MAX) |
             msgpack_pack_uint32(&pk, (uint32_t)type) | msgpack_pack_uint64(&pk, request) |
             msgpack_pack_map(&pk, n_fields);
    const uint8_t *at = msg;
    for (const struct field *f = m->fields; f->key != 0 && status == 0; at += field_bytes(f), f++) {
        struct value v = field_load(f, at);
        if (value_present(f, &v))
            status = value_pack(&pk, f, &v);
    }
    if (status != 0)
        return CAIRN_E_TOO_BIG;
    *out_n = sink.used;
    return 0;
}

/* ---- scan: bounds before any allocation ---- */

#define SCAN_DEPTH 8
#define SCAN_CONTAINER 4096u
#define SCAN_TOTAL 8192u

enum shape { SHAPE_BAD, SHAPE_SCALAR, SHAPE_BYTES, SHAPE_ARRAY, SHAPE_MAP };

/* Formats 0xc0 .. 0xdf: what follows the first byte (a scalar's body or a length), and what it is.
 * Left out: never used, ext. */
static const struct {
    uint8_t bytes;
    uint8_t shape;
} formats[32] = {
    [0x00] = {0, SHAPE_SCALAR}, /* nil */
    [0x02] = {0, SHAPE_SCALAR}, /* false */
    [0x03] = {0, SHAPE_SCALAR}, /* true */
    [0x04] = {1, SHAPE_BYTES},  /* bin 8 */
    [0x05] = {2, SHAPE_BYTES},  /* bin 16 */
    [0x06] = {4, SHAPE_BYTES},  /* bin 32 */
    [0x0a] = {4, SHAPE_SCALAR}, /* float 32 */
    [0x0b] = {8, SHAPE_SCALAR}, /* float 64 */
    [0x0c] = {1, SHAPE_SCALAR}, /* uint 8 */
    [0x0d] = {2, SHAPE_SCALAR}, /* uint 16 */
    [0x0e] = {4, SHAPE_SCALAR}, /* uint 32 */
    [0x0f] = {8, SHAPE_SCALAR}, /* uint 64 */
    [0x10] = {1, SHAPE_SCALAR}, /* int 8 */
    [0x11] = {2, SHAPE_SCALAR}, /* int 16 */
    [0x12] = {4, SHAPE_SCALAR}, /* int 32 */
    [0x13] = {8, SHAPE_SCALAR}, /* int 64 */
    [0x19] = {1, SHAPE_BYTES},  /* str 8 */
    [0x1a] = {2, SHAPE_BYTES},  /* str 16 */
    [0x1b] = {4, SHAPE_BYTES},  /* str 32 */
    [0x1c] = {2, SHAPE_ARRAY},  /* array 16 */
    [0x1d] = {4, SHAPE_ARRAY},  /* array 32 */
    [0x1e] = {2, SHAPE_MAP},    /* map 16 */
    [0x1f] = {4, SHAPE_MAP},    /* map 32 */
};

/* The header of one object: its shape, its length (bytes, or pairs or elements), the bytes of the
 * header and of a scalar. */
struct head {
    enum shape shape;
    size_t bytes;
    uint64_t length;
};

static struct head head_at(const uint8_t *p, size_t left)
{
    static const struct head bad = {SHAPE_BAD, 0, 0};
    uint8_t b = p[0];
    if (b < 0x80 || b >= 0xe0)
        return (struct head){SHAPE_SCALAR, 1, 0};
    if (b < 0xa0)
        return (struct head){b < 0x90 ? SHAPE_MAP : SHAPE_ARRAY, 1, b & 0x0fu};
    if (b < 0xc0)
        return (struct head){SHAPE_BYTES, 1, b & 0x1fu};
    struct head h = {(enum shape)formats[b - 0xc0].shape, (size_t)formats[b - 0xc0].bytes + 1, 0};
    if (h.shape == SHAPE_BAD || h.bytes > left)
        return bad;
    for (size_t i = 1; i < h.bytes; i++)
        h.length = h.length << 8 | p[i];
    return h;
}

/* 0 when the bytes are exactly one object within all bounds. */
static int scan(const uint8_t *p, size_t n)
{
    uint64_t todo[SCAN_DEPTH + 1] = {1}; /* objects still to come, per level */
    uint64_t total = 0;
    int depth = 0;
    if (n > CRN_MESSAGE_MAX)
        return CAIRN_E_PROTO;
    while (depth >= 0) {
        if (todo[depth] == 0) {
            depth--;
            continue;
        }
        todo[depth]--;
        if (n == 0)
            return CAIRN_E_PROTO;
        struct head h = head_at(p, n);
        if (h.shape == SHAPE_BAD)
            return CAIRN_E_PROTO;
        size_t step = h.bytes;
        if (h.shape == SHAPE_BYTES) {
            if (h.length > n - step)
                return CAIRN_E_PROTO;
            step += (size_t)h.length;
        } else if (h.shape != SHAPE_SCALAR) {
            uint64_t objects = h.shape == SHAPE_MAP ? 2 * h.length : h.length;
            total += objects;
            if (h.length > SCAN_CONTAINER || objects > n - step || total > SCAN_TOTAL ||
                depth == SCAN_DEPTH)
                return CAIRN_E_PROTO;
            todo[++depth] = objects;
        }
        p += step;
        n -= step;
    }
    return n == 0 ? 0 : CAIRN_E_PROTO;
}

/* ---- decode ---- */

struct envelope {
    uint64_t type, request;
    msgpack_object_map map;
};

static int positive(const msgpack_object *o, uint64_t max, uint64_t *out_v)
{
    if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER || o->via.u64 > max)
        return CAIRN_E_PROTO;
    *out_v = o->via.u64;
    return 0;
}

/* The first three elements mean the same in every version, so that a refusal can be addressed. */
static int envelope_read(const msgpack_object *root, struct envelope *out)
{
    if (root->type != MSGPACK_OBJECT_ARRAY || root->via.array.size < 3)
        return CAIRN_E_PROTO;
    const msgpack_object *at = root->via.array.ptr;
    uint64_t version;
    if (positive(&at[0], UINT32_MAX, &version) != 0 || positive(&at[1], 255, &out->type) != 0 ||
        positive(&at[2], UINT64_MAX, &out->request) != 0)
        return CAIRN_E_PROTO;
    if (version < CRN_PROTO_MIN || version > CRN_PROTO_MAX)
        return CAIRN_E_VERSION;
    if (root->via.array.size != 4 || at[3].type != MSGPACK_OBJECT_MAP)
        return CAIRN_E_PROTO;
    out->map = at[3].via.map;
    return 0;
}

/* tree: initialised by the caller, who also destroys it; out points into it. */
static int envelope_open(const void *buf, size_t n, msgpack_unpacked *tree, struct envelope *out)
{
    int status = scan(buf, n);
    if (status != 0)
        return status;
    size_t off = 0;
    msgpack_unpack_return got = msgpack_unpack_next(tree, buf, n, &off);
    if (got == MSGPACK_UNPACK_NOMEM_ERROR)
        return -ENOMEM;
    if (got != MSGPACK_UNPACK_SUCCESS || off != n)
        return CAIRN_E_PROTO;
    return envelope_read(&tree->data, out);
}

int crn_wire_peek(const void *buf, size_t n, enum crn_msg_type *out_type, uint64_t *out_request)
{
    struct envelope e;
    msgpack_unpacked tree;
    msgpack_unpacked_init(&tree);
    int status = envelope_open(buf, n, &tree, &e);
    msgpack_unpacked_destroy(&tree);
    if (status == 0 || status == CAIRN_E_VERSION) {
        *out_type = (enum crn_msg_type)e.type;
        *out_request = e.request;
    }
    return status;
}

static int field_store(const struct field *f, const msgpack_object *o, uint8_t *at)
{
    struct value v = {0, {NULL, 0}};
    if (f->kind == KIND_U && o->type == MSGPACK_OBJECT_POSITIVE_INTEGER)
        v.u = o->via.u64;
    else if (f->kind == KIND_S && o->type == MSGPACK_OBJECT_STR)
        v.b = (struct crn_bytes){o->via.str.ptr, o->via.str.size};
    else if ((f->kind == KIND_B || f->kind == KIND_D) && o->type == MSGPACK_OBJECT_BIN)
        v.b = (struct crn_bytes){o->via.bin.ptr, o->via.bin.size};
    else
        return CAIRN_E_PROTO;
    if (!value_fits(f, &v))
        return CAIRN_E_PROTO;
    if (f->kind == KIND_U)
        memcpy(at, &v.u, sizeof v.u);
    else if (f->kind == KIND_D)
        memcpy(at, v.b.p, v.b.n);
    else
        memcpy(at, &v.b, sizeof v.b);
    return 0;
}

/* Stores the pair's value when the key is known; skips it otherwise. */
static int pair_store(const struct message *m, const msgpack_object_kv *pair, uint8_t *at)
{
    for (const struct field *f = m->fields; f->key != 0; at += field_bytes(f), f++) {
        if (f->key == pair->key.via.u64)
            return field_store(f, &pair->val, at);
    }
    return 0;
}

static int map_store(const struct message *m, const msgpack_object_map *map, uint8_t *out)
{
    uint64_t seen[2] = {0, 0};
    for (uint32_t i = 0; i < map->size; i++) {
        uint64_t key;
        if (positive(&map->ptr[i].key, KEY_MAX, &key) != 0 || (seen[key / 64] >> key % 64 & 1) != 0)
            return CAIRN_E_PROTO;
        seen[key / 64] |= 1ull << key % 64;
        int status = pair_store(m, &map->ptr[i], out);
        if (status != 0)
            return status;
    }
    for (const struct field *f = m->fields; f->key != 0; f++) {
        if (f->need == NEED_R && (seen[f->key / 64] >> f->key % 64 & 1) == 0)
            return CAIRN_E_PROTO;
    }
    return 0;
}

int crn_wire_decode(enum crn_msg_type type, const void *buf, size_t n, void *out_msg)
{
    const struct message *m = message_of((uint64_t)type);
    if (m == NULL)
        return CAIRN_E_ARG;
    size_t fields_bytes = 0;
    for (const struct field *f = m->fields; f->key != 0; f++)
        fields_bytes += field_bytes(f);
    memset(out_msg, 0, fields_bytes + sizeof(uint64_t));

    struct envelope e;
    msgpack_unpacked tree;
    msgpack_unpacked_init(&tree);
    int status = envelope_open(buf, n, &tree, &e);
    if (status == 0 && e.type != (uint64_t)type)
        status = CAIRN_E_PROTO;
    if (status == 0)
        status = map_store(m, &e.map, out_msg);
    if (status == 0)
        memcpy((uint8_t *)out_msg + fields_bytes, &e.request, sizeof e.request);
    msgpack_unpacked_destroy(&tree);
    return status;
}

/* ---- views ---- */

int crn_wire_records(struct crn_bytes v, size_t record_bytes, size_t max, void *out_records,
                     size_t *out_n)
{
    if (v.n % record_bytes != 0 || v.n / record_bytes > max)
        return CAIRN_E_PROTO;
    if (v.n > 0)
        memcpy(out_records, v.p, v.n);
    *out_n = v.n / record_bytes;
    return 0;
}

void crn_wire_text(struct crn_bytes v, char *out_text, size_t out_bytes)
{
    const uint8_t *p = v.p;
    size_t n = 0;
    for (; n < v.n && n + 1 < out_bytes; n++)
        out_text[n] = p[n] >= 0x20 && p[n] < 0x7f ? (char)p[n] : '?';
    if (out_bytes > 0)
        out_text[n] = '\0';
}
