/* ipc/wire: what is encoded comes back, what is not a message is refused, and hostile bytes cost
 * nothing but their refusal. Every input lies directly in front of an inaccessible page, so reading
 * one byte too far is a crash in any build. */
#include "ipc/wire.h"

#include "ipc/chan.h"
#include "tests/support/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- helpers ---- */

static uint64_t seed;

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static uint64_t below(uint64_t n)
{
    return rnd() % n;
}

enum { GUARDED_BYTES = 2 * 65536 };
static uint8_t *guard_end; /* first inaccessible byte */

/* A copy of n bytes that ends at the guard page. */
static const uint8_t *guarded(const void *bytes, size_t n)
{
    if (guard_end == NULL) {
        uint8_t *p = mmap(NULL, GUARDED_BYTES + 4096, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        ck_assert_ptr_ne(p, MAP_FAILED);
        ck_assert_int_eq(mprotect(p + GUARDED_BYTES, 4096, PROT_NONE), 0);
        guard_end = p + GUARDED_BYTES;
    }
    if (n > GUARDED_BYTES)
        ck_abort_msg("input too large");
    if (n > 0)
        memmove(guard_end - n, bytes, n);
    return guard_end - n;
}

union any { /* room for every message */
#define MESSAGE(name, number, fields) struct crn_msg_##name name;
#include "ipc/msgs.def"
#undef MESSAGE
};

enum fill { FILL_LEAST, FILL_MOST, FILL_SMALL, FILL_RANDOM, N_FILLS };

static uint8_t noise[65536];

static uint64_t pick(enum fill fill, uint64_t max)
{
    switch (fill) {
    case FILL_LEAST:
        return 0;
    case FILL_MOST:
        return max;
    case FILL_SMALL:
        return 1 + below(max < 30 ? max : 30);
    default:
        return max == UINT64_MAX ? rnd() >> below(64) : below(max + 1);
    }
}

static struct crn_bytes pick_bytes(enum fill fill, uint64_t max)
{
    uint64_t cap =
        max < 12000 ? max : 12000; /* of several large fields of one message, only some fit */
    uint32_t n = (uint32_t)pick(fill, cap);
    return (struct crn_bytes){noise + below(sizeof noise - n), n};
}

static int same_bytes(struct crn_bytes a, struct crn_bytes b)
{
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* Views lie inside the message they came from. */
static int is_view(struct crn_bytes v, const uint8_t *p, size_t n)
{
    const uint8_t *at = v.p;
    return v.p == NULL ? v.n == 0 : at >= p && at + v.n <= p + n;
}

/* Per message: fill, compare and check views, field by field and by name. */
#define U(key, name, need, max) m->name = pick(fill, (max));
#define B(key, name, need, max) m->name = pick_bytes(fill, (max));
#define S(key, name, need, max) m->name = pick_bytes(fill, (max));
#define D(key, name, need)                                                                         \
    for (size_t i = 0; i < 16; i++)                                                                \
        m->name.b[i] = fill == FILL_LEAST ? 0 : (uint8_t)rnd();
#define MESSAGE(name, number, fields)                                                              \
    static void fill_##name(void *msg, enum fill fill)                                             \
    {                                                                                              \
        struct crn_msg_##name *m = msg;                                                            \
        memset(m, 0, sizeof *m);                                                                   \
        fields m->request = pick(fill, UINT64_MAX);                                                \
    }
#include "ipc/msgs.def"
#undef MESSAGE
#undef U
#undef B
#undef S
#undef D

#define U(key, name, need, max) &&a->name == b->name
#define B(key, name, need, max) &&same_bytes(a->name, b->name)
#define S(key, name, need, max) &&same_bytes(a->name, b->name)
#define D(key, name, need) &&memcmp(&a->name, &b->name, 16) == 0
#define MESSAGE(name, number, fields)                                                              \
    static int same_##name(const void *one, const void *other)                                     \
    {                                                                                              \
        const struct crn_msg_##name *a = one, *b = other;                                          \
        return a->request == b->request fields;                                                    \
    }
#include "ipc/msgs.def"
#undef MESSAGE
#undef U
#undef B
#undef S
#undef D

#define U(key, name, need, max)
#define B(key, name, need, max) &&is_view(m->name, p, n)
#define S(key, name, need, max) &&is_view(m->name, p, n)
#define D(key, name, need)
#define MESSAGE(name, number, fields)                                                              \
    static int views_##name(const void *msg, const uint8_t *p, size_t n)                           \
    {                                                                                              \
        const struct crn_msg_##name *m = msg;                                                      \
        return m != NULL && p != NULL && n > 0 fields;                                             \
    }
#include "ipc/msgs.def"
#undef MESSAGE
#undef U
#undef B
#undef S
#undef D

static const struct kind {
    const char *name;
    enum crn_msg_type type;
    size_t bytes;
    void (*fill)(void *msg, enum fill fill);
    int (*same)(const void *one, const void *other);
    int (*views)(const void *msg, const uint8_t *p, size_t n);
} kinds[] = {
#define MESSAGE(name, number, fields)                                                              \
    {#name, CRN_MSG_##name, sizeof(struct crn_msg_##name), fill_##name, same_##name, views_##name},
#include "ipc/msgs.def"
#undef MESSAGE
};

enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

static void setup_noise(void)
{
    seed = 0x9e3779b97f4a7c15ull;
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (uint8_t)(1 + below(255)); /* texts have no zero byte */
}

static size_t encoded(const struct kind *k, enum fill fill, uint8_t buf[CRN_MESSAGE_MAX])
{
    union any msg;
    size_t n = 0;
    k->fill(&msg, fill);
    if (crn_wire_encode(k->type, &msg, buf, CRN_MESSAGE_MAX, &n) != 0)
        ck_abort_msg("%s does not encode", k->name);
    return n;
}

/* Decodes guarded bytes; a success must have its views inside and must encode again, to something
 * that decodes to the same. */
static int decode_checked(const struct kind *k, const void *bytes, size_t n)
{
    static uint8_t again[CRN_MESSAGE_MAX];
    union any msg, copy;
    size_t again_n;
    const uint8_t *p = guarded(bytes, n);
    int status = crn_wire_decode(k->type, p, n, &msg);
    if (status != 0)
        return status;
    if (!k->views(&msg, p, n)) /* a ck_assert costs a system call */
        ck_abort_msg("%s: a view outside the message", k->name);
    if (crn_wire_encode(k->type, &msg, again, sizeof again, &again_n) != 0 ||
        crn_wire_decode(k->type, again, again_n, &copy) != 0 || !k->same(&msg, &copy))
        ck_abort_msg("%s: what decoded does not survive a round trip", k->name);
    return 0;
}

static int decode_release(const void *bytes, size_t n, struct crn_msg_release *out)
{
    return crn_wire_decode(CRN_MSG_release, guarded(bytes, n), n, out);
}

/* Bytes written as a string literal, decoded as RELEASE (version 1, type 5, request 7, lease
 * required). */
#define RELEASE(literal, out) decode_release((literal), sizeof(literal) - 1, (out))

/* ---- round trips ---- */

START_TEST(every_message_survives_the_round_trip)
{
    static uint8_t buf[CRN_MESSAGE_MAX];
    const struct kind *k = &kinds[_i / N_FILLS];
    enum fill fill = (enum fill)(_i % N_FILLS);
    setup_noise();
    for (int round = 0; round < (fill >= FILL_SMALL ? 50 : 1); round++) {
        union any msg, back;
        size_t n = 0;
        k->fill(&msg, fill);
        ck_assert_int_eq(crn_wire_encode(k->type, &msg, buf, sizeof buf, &n), 0);
        const uint8_t *p = guarded(buf, n);
        memset(&back, 0xa5, sizeof back);
        ck_assert_int_eq(crn_wire_decode(k->type, p, n, &back), 0);
        ck_assert(k->same(&msg, &back));
        ck_assert(k->views(&back, p, n));
        for (size_t i = k->bytes; i < sizeof back; i++) {
            if (((uint8_t *)&back)[i] != 0xa5)
                ck_abort_msg("%s: wrote behind its struct", k->name);
        }

        enum crn_msg_type type;
        uint64_t request;
        ck_assert_int_eq(crn_wire_peek(p, n, &type, &request), 0);
        ck_assert_int_eq(type, k->type);
        ck_assert_str_eq(crn_wire_name(type), k->name);
    }
}
END_TEST

START_TEST(keys_of_a_message_are_unique_and_fit_one_byte)
{
    static const struct {
        const char *name;
        int keys[33];
    } lists[] = {
#define U(key, name, need, max) (key),
#define B(key, name, need, max) (key),
#define S(key, name, need, max) (key),
#define D(key, name, need) (key),
#define MESSAGE(name, number, fields) {#name, {fields 0}},
#include "ipc/msgs.def"
#undef MESSAGE
#undef U
#undef B
#undef S
#undef D
    };
    for (size_t m = 0; m < sizeof lists / sizeof lists[0]; m++) {
        for (const int *key = lists[m].keys; *key != 0; key++) {
            ck_assert_int_ge(*key, 1);
            ck_assert_int_le(*key, 127);
            for (const int *other = key + 1; *other != 0; other++)
                ck_assert_msg(*key != *other, "%s: key %d twice", lists[m].name, *key);
        }
    }
}
END_TEST

START_TEST(a_small_message_has_the_documented_bytes)
{
    struct crn_msg_release msg = {.lease = 300, .request = 7};
    uint8_t buf[16];
    size_t n = 0;
    ck_assert_int_eq(crn_wire_encode(CRN_MSG_release, &msg, buf, sizeof buf, &n), 0);
    ck_assert_uint_eq(n, 9);
    ck_assert_mem_eq(buf, "\x94\x02\x05\x07\x81\x01\xcd\x01\x2c", 9);
}
END_TEST

START_TEST(encoding_needs_room_and_obeys_maxima)
{
    uint8_t buf[64];
    size_t n = 77;
    struct crn_msg_release release = {.lease = 300, .request = 7};
    for (size_t room = 0; room < 9; room++)
        ck_assert_int_eq(crn_wire_encode(CRN_MSG_release, &release, buf, room, &n),
                         CAIRN_E_TOO_BIG);
    ck_assert_uint_eq(n, 77);
    ck_assert_int_eq(crn_wire_encode(CRN_MSG_release, &release, buf, 9, &n), 0);

    struct crn_msg_pin pin = {.entry = 1, .on = 2};
    ck_assert_int_eq(crn_wire_encode(CRN_MSG_pin, &pin, buf, sizeof buf, &n), CAIRN_E_TOO_BIG);
    struct crn_msg_hello hello = {.label = {noise, CAIRN_MAX_LABEL + 1}};
    setup_noise();
    ck_assert_int_eq(crn_wire_encode(CRN_MSG_hello, &hello, buf, sizeof buf, &n), CAIRN_E_TOO_BIG);
    hello.label = (struct crn_bytes){"a\0b", 3};
    ck_assert_int_eq(crn_wire_encode(CRN_MSG_hello, &hello, buf, sizeof buf, &n), CAIRN_E_TOO_BIG);
    ck_assert_int_eq(crn_wire_encode((enum crn_msg_type)200, &pin, buf, sizeof buf, &n),
                     CAIRN_E_ARG);
    ck_assert_str_eq(crn_wire_name((enum crn_msg_type)200), "?");
}
END_TEST

START_TEST(a_message_never_grows_beyond_the_limit)
{
    static uint8_t buf[2 * CRN_MESSAGE_MAX];
    struct crn_msg_shown msg = {.payloads = {noise, 49152}, .counts = {noise, 16384}};
    size_t n;
    setup_noise();
    ck_assert_int_eq(crn_wire_encode(CRN_MSG_shown, &msg, buf, sizeof buf, &n), CAIRN_E_TOO_BIG);
    msg.counts.n = 16000;
    ck_assert_int_eq(crn_wire_encode(CRN_MSG_shown, &msg, buf, sizeof buf, &n), 0);
    ck_assert_uint_le(n, CRN_MESSAGE_MAX);
    ck_assert_int_eq(crn_wire_decode(CRN_MSG_shown, buf, n, &msg), 0);
}
END_TEST

/* ---- what is refused ---- */

START_TEST(every_truncation_is_refused)
{
    static uint8_t buf[CRN_MESSAGE_MAX];
    setup_noise();
    size_t n = encoded(&kinds[_i], FILL_SMALL, buf);
    enum crn_msg_type type;
    uint64_t request;
    for (size_t cut = 0; cut < n; cut++) {
        ck_assert_int_eq(decode_checked(&kinds[_i], buf, cut), CAIRN_E_PROTO);
        ck_assert_int_eq(crn_wire_peek(guarded(buf, cut), cut, &type, &request), CAIRN_E_PROTO);
    }
    buf[n] = 0xc0;
    ck_assert_int_eq(decode_checked(&kinds[_i], buf, n + 1),
                     CAIRN_E_PROTO); /* one object too many */
}
END_TEST

START_TEST(a_flipped_bit_is_refused_or_gives_another_message)
{
    static uint8_t buf[CRN_MESSAGE_MAX];
    setup_noise();
    size_t n = encoded(&kinds[_i], FILL_SMALL, buf);
    for (size_t bit = 0; bit < 8 * n; bit++) {
        buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
        int status = decode_checked(&kinds[_i], buf, n);
        if (status != 0 && status != CAIRN_E_PROTO && status != CAIRN_E_VERSION)
            ck_abort_msg("bit %zu: %s", bit, cairn_errname(status));
        buf[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}
END_TEST

START_TEST(the_envelope_is_checked)
{
    struct crn_msg_release m;
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x81\x01\x09", &m), 0);
    ck_assert_uint_eq(m.lease, 9);
    ck_assert_uint_eq(m.request, 7);
    ck_assert_int_eq(RELEASE("\x94\x02\x06\x07\x81\x01\x09", &m), CAIRN_E_PROTO); /* another type */
    ck_assert_int_eq(RELEASE("\x93\x02\x05\x07", &m), CAIRN_E_PROTO);             /* no map */
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x92\x01\x09", &m), CAIRN_E_PROTO); /* list for map */
    ck_assert_int_eq(RELEASE("\x95\x02\x05\x07\x81\x01\x09\x00", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\x94\xff\x05\x07\x81\x01\x09", &m), CAIRN_E_PROTO); /* version -1 */
    ck_assert_int_eq(RELEASE("\x94\x02\x05\xa1x\x81\x01\x09", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\x94\x02\xcd\x01\x05\x07\x81\x01\x09", &m), CAIRN_E_PROTO); /* 261 */
    ck_assert_int_eq(RELEASE("\x81\x01\x09", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\xc1", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("", &m), CAIRN_E_PROTO);
}
END_TEST

START_TEST(another_version_is_named_and_can_be_answered)
{
    static const char bytes[] = "\x94\x01\x05\x07\x81\x01\x09";
    struct crn_msg_release m;
    enum crn_msg_type type = CRN_MSG_ok;
    uint64_t request = 0;
    ck_assert_int_eq(RELEASE("\x94\x01\x05\x07\x81\x01\x09", &m), CAIRN_E_VERSION);
    ck_assert_int_eq(RELEASE("\x94\x00\x05\x07\x81\x01\x09", &m), CAIRN_E_VERSION);
    ck_assert_int_eq(crn_wire_peek(bytes, sizeof bytes - 1, &type, &request), CAIRN_E_VERSION);
    ck_assert_int_eq(type, CRN_MSG_release);
    ck_assert_uint_eq(request, 7);
}
END_TEST

START_TEST(a_repeated_key_is_refused)
{
    struct crn_msg_release m;
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x82\x01\x09\x01\x09", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x83\x01\x09\x60\x01\x60\x01", &m), CAIRN_E_PROTO);
}
END_TEST

START_TEST(unknown_keys_are_skipped_whatever_they_hold)
{
    struct crn_msg_release m;
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x82\x60\x93\xc0\x81\xa1x\x90\xcb@\t!\xfbTD-\x18"
                             "\x01\x09",
                             &m),
                     0);
    ck_assert_uint_eq(m.lease, 9);
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x82\x01\x09\x7f\xc3", &m), 0);
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x82\x01\x09\xcc\x80\xc3", &m),
                     CAIRN_E_PROTO); /* 128 */
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x82\x01\x09\xa1k\xc3", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x82\x01\x09\xff\xc3", &m), CAIRN_E_PROTO);
}
END_TEST

START_TEST(a_missing_required_key_is_refused)
{
    struct crn_msg_release m;
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x80", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x81\x02\x09", &m), CAIRN_E_PROTO);
    struct crn_msg_stat stat = {.flags = 5}; /* optional: absent means zero */
    ck_assert_int_eq(crn_wire_decode(CRN_MSG_stat, "\x94\x02\x10\x07\x80", 5, &stat), 0);
    ck_assert_uint_eq(stat.flags, 0);
}
END_TEST

START_TEST(only_whole_positive_numbers_are_numbers)
{
    struct crn_msg_release m;
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x81\x01\xff", &m), CAIRN_E_PROTO);     /* -1 */
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x81\x01\xd0\x80", &m), CAIRN_E_PROTO); /* -128 */
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x81\x01\xca\x40\x00\x00\x00", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x81\x01\xc3", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x81\x01\xc0", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x81\x01\xa1\x31", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x81\x01\xcf\xff\xff\xff\xff\xff\xff\xff\xff", &m),
                     0);
    ck_assert_uint_eq(m.lease, UINT64_MAX);
}
END_TEST

START_TEST(values_beyond_their_bounds_are_refused)
{
    struct crn_msg_pin pin;
    ck_assert_int_eq(crn_wire_decode(CRN_MSG_pin, "\x94\x02\x13\x07\x82\x01\x01\x02\x01", 9, &pin),
                     0);
    ck_assert_int_eq(crn_wire_decode(CRN_MSG_pin, "\x94\x02\x13\x07\x82\x01\x01\x02\x02", 9, &pin),
                     CAIRN_E_PROTO);

    /* HELLO with one more field: label (5, text up to 63), model (6, exactly 16 bytes) */
    static const char hello[] = "\x94\x02\x01\x07\x83\x01\x01\x02\x01";
    struct crn_msg_hello m;
    uint8_t buf[128];
    memcpy(buf, hello, sizeof hello - 1);
    uint8_t *at = buf + sizeof hello - 1;
    size_t head = sizeof hello - 1;
    memcpy(at, "\x05\xd9\x40", 3);
    memset(at + 3, 'x', 64);
    ck_assert_int_eq(crn_wire_decode(CRN_MSG_hello, buf, head + 3 + 64, &m), CAIRN_E_PROTO);
    at[2] = 63;
    ck_assert_int_eq(crn_wire_decode(CRN_MSG_hello, buf, head + 3 + 63, &m), 0);
    ck_assert_uint_eq(m.label.n, 63);
    at[10] = 0; /* a zero byte in a text */
    ck_assert_int_eq(crn_wire_decode(CRN_MSG_hello, buf, head + 3 + 63, &m), CAIRN_E_PROTO);
    memcpy(at, "\x05\xc4\x01x", 4); /* bytes for a text */
    ck_assert_int_eq(crn_wire_decode(CRN_MSG_hello, buf, head + 4, &m), CAIRN_E_PROTO);
    for (uint8_t n = 15; n <= 17; n++) {
        memcpy(at, "\x06\xc4", 2);
        at[2] = n;
        memset(at + 3, 0x11, 17);
        ck_assert_int_eq(crn_wire_decode(CRN_MSG_hello, buf, head + 3 + n, &m),
                         n == 16 ? 0 : CAIRN_E_PROTO);
    }
}
END_TEST

/* ---- bombs ---- */

/* From here on, 256 MiB more address space is all there is: msgpack-c reserving what a header
 * promises would fail (-ENOMEM). */
static void forbid_large_allocations(void)
{
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    ck_assert_ptr_nonnull(f);
    ck_assert_int_eq(fscanf(f, "%lu", &pages), 1);
    fclose(f);
    struct rlimit limit = {pages * 4096 + (256u << 20), RLIM_INFINITY};
    ck_assert_int_eq(setrlimit(RLIMIT_AS, &limit), 0);
}

START_TEST(containers_that_promise_too_much_allocate_nothing)
{
    struct crn_msg_release m;
    uint8_t nested[40];
    forbid_large_allocations();
    ck_assert_int_eq(RELEASE("\xdd\x0f\xff\xff\xff", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\xdf\x0f\xff\xff\xff", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\xdd\xff\xff\xff\xff", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\xdc\xff\xff", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\xdf\x80\x00\x00\x00", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x82\x01\x09\x60\xc6\xff\xff\xff\xff", &m),
                     CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x82\x01\x09\x60\xdb\xff\xff\xff\xff", &m),
                     CAIRN_E_PROTO);
    for (size_t i = 0; i < sizeof nested; i += 5)
        memcpy(nested + i, "\xdd\x01\x00\x00\x00", 5);
    ck_assert_int_eq(decode_release(nested, sizeof nested, &m), CAIRN_E_PROTO);
}
END_TEST

/* RELEASE whose unknown key holds n nested lists. */
static int decode_nested(size_t n)
{
    uint8_t buf[64];
    struct crn_msg_release m;
    memcpy(buf, "\x94\x02\x05\x07\x82\x01\x09\x60", 8);
    memset(buf + 8, 0x91, n);
    buf[8 + n] = 0xc0;
    return decode_release(buf, 8 + n + 1, &m);
}

START_TEST(nesting_ends_at_depth_eight)
{
    ck_assert_int_eq(decode_nested(6), 0); /* envelope, map, and six */
    ck_assert_int_eq(decode_nested(7), CAIRN_E_PROTO);
    ck_assert_int_eq(decode_nested(40), CAIRN_E_PROTO);
}
END_TEST

/* RELEASE whose unknown keys hold two lists of so many nils. */
static int decode_lists(uint16_t first, uint16_t second)
{
    static uint8_t buf[CRN_MESSAGE_MAX];
    struct crn_msg_release m;
    size_t n = 7;
    memcpy(buf, "\x94\x02\x05\x07\x83\x01\x09", n);
    for (uint8_t key = 0x60; key <= 0x61; key++) {
        uint16_t count = key == 0x60 ? first : second;
        buf[n++] = key;
        buf[n++] = 0xdc;
        buf[n++] = (uint8_t)(count >> 8);
        buf[n++] = (uint8_t)count;
        memset(buf + n, 0xc0, count);
        n += count;
    }
    return decode_release(buf, n, &m);
}

START_TEST(objects_are_counted)
{
    ck_assert_int_eq(decode_lists(4096, 4000), 0);
    ck_assert_int_eq(decode_lists(4097, 1), CAIRN_E_PROTO);    /* one container */
    ck_assert_int_eq(decode_lists(4096, 4096), CAIRN_E_PROTO); /* all together: 4 + 6 more */
}
END_TEST

START_TEST(extension_types_and_oversized_messages_are_refused)
{
    static uint8_t big[CRN_MESSAGE_MAX + 16];
    struct crn_msg_release m;
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x82\x01\x09\x60\xd4\x01\x02", &m), CAIRN_E_PROTO);
    ck_assert_int_eq(RELEASE("\x94\x02\x05\x07\x82\x01\x09\x60\xc7\x01\x01\x02", &m),
                     CAIRN_E_PROTO);
    static const char head[] = "\x94\x02\x05\x07\x82\x01\x09\x60\xc5\xff";
    memcpy(big, head, sizeof head - 1);
    size_t n_head = sizeof head; /* and the low byte of the length */
    big[n_head - 1] = (uint8_t)(CRN_MESSAGE_MAX - n_head);
    ck_assert_int_eq(decode_release(big, CRN_MESSAGE_MAX, &m), 0);
    big[n_head - 1]++;
    ck_assert_int_eq(decode_release(big, CRN_MESSAGE_MAX + 1, &m), CAIRN_E_PROTO);
}
END_TEST

/* ---- mutations ---- */

static size_t mutate(uint8_t *p, size_t n, size_t room)
{
    static const uint8_t special[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0xc1, 0xc4, 0xc6, 0xca,
                                      0xcf, 0xd9, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xe0, 0xff};
    size_t at = below(n);
    switch (below(6)) {
    case 0:
        p[at] ^= (uint8_t)(1u << below(8));
        return n;
    case 1:
        p[at] = special[below(sizeof special)];
        return n;
    case 2:
        p[at] = (uint8_t)rnd();
        return n;
    case 3:
        return at + 1; /* cut */
    case 4: {          /* repeat a range */
        size_t count = 1 + below(n - at < 64 ? n - at : 64);
        if (n + count > room)
            return n;
        memmove(p + at + count, p + at, n - at);
        return n + count;
    }
    default: { /* drop a range */
        size_t count = below(n - at);
        memmove(p + at, p + at + count, n - at - count);
        return n - count;
    }
    }
}

enum { MUTANTS = 200000, MUTANT_PARTS = 8 };

START_TEST(mutated_messages_never_break_the_decoder)
{
    static uint8_t buf[CRN_MESSAGE_MAX];
    size_t accepted = 0;
    setup_noise();
    seed += (uint64_t)(_i + 1) * UINT64_C(0x2545f4914f6cdd1d);
    for (int i = 0; i < MUTANTS / MUTANT_PARTS; i++) {
        const struct kind *k = &kinds[below(N_KINDS)];
        size_t n = encoded(k, i % 16 == 0 ? FILL_RANDOM : FILL_SMALL, buf);
        for (uint64_t steps = 1 + below(4); steps > 0; steps--)
            n = mutate(buf, n, sizeof buf);
        int status = decode_checked(k, buf, n);
        if (status != 0 && status != CAIRN_E_PROTO && status != CAIRN_E_VERSION)
            ck_abort_msg("part %d mutant %d: %s", _i, i, cairn_errname(status));
        accepted += status == 0;
    }
    ck_assert_uint_gt(accepted, 0); /* else nothing reached the map */
    ck_assert_uint_lt(accepted, MUTANTS / MUTANT_PARTS);
}
END_TEST

/* ---- views ---- */

START_TEST(records_are_whole_and_bounded)
{
    struct crn_budget_rec out[4];
    size_t n = 9;
    setup_noise();
    ck_assert_int_eq(crn_wire_records((struct crn_bytes){noise + 1, 24}, 8, 4, out, &n), 0);
    ck_assert_uint_eq(n, 3);
    ck_assert_mem_eq(out, noise + 1, 24);
    ck_assert_int_eq(crn_wire_records((struct crn_bytes){noise, 23}, 8, 4, out, &n), CAIRN_E_PROTO);
    ck_assert_int_eq(crn_wire_records((struct crn_bytes){noise, 40}, 8, 4, out, &n), CAIRN_E_PROTO);
    ck_assert_int_eq(crn_wire_records((struct crn_bytes){NULL, 0}, 8, 4, out, &n), 0);
    ck_assert_uint_eq(n, 0);
}
END_TEST

START_TEST(text_becomes_printable_and_fits)
{
    char text[6];
    crn_wire_text((struct crn_bytes){"ab\x1b[c", 5}, text, sizeof text);
    ck_assert_str_eq(text, "ab?[c");
    crn_wire_text((struct crn_bytes){"\xc3\xa9\n0123", 7}, text, sizeof text);
    ck_assert_str_eq(text, "???01");
    crn_wire_text((struct crn_bytes){NULL, 0}, text, sizeof text);
    ck_assert_str_eq(text, "");
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(every_message_survives_the_round_trip, N_KINDS * N_FILLS),
        RUN_TEST(keys_of_a_message_are_unique_and_fit_one_byte),
        RUN_TEST(a_small_message_has_the_documented_bytes),
        RUN_TEST(encoding_needs_room_and_obeys_maxima),
        RUN_TEST(a_message_never_grows_beyond_the_limit),
        RUN_LOOP(every_truncation_is_refused, N_KINDS),
        RUN_LOOP(a_flipped_bit_is_refused_or_gives_another_message, N_KINDS),
        RUN_TEST(the_envelope_is_checked),
        RUN_TEST(another_version_is_named_and_can_be_answered),
        RUN_TEST(a_repeated_key_is_refused),
        RUN_TEST(unknown_keys_are_skipped_whatever_they_hold),
        RUN_TEST(a_missing_required_key_is_refused),
        RUN_TEST(only_whole_positive_numbers_are_numbers),
        RUN_TEST(values_beyond_their_bounds_are_refused),
        RUN_TEST(containers_that_promise_too_much_allocate_nothing),
        RUN_TEST(nesting_ends_at_depth_eight),
        RUN_TEST(objects_are_counted),
        RUN_TEST(extension_types_and_oversized_messages_are_refused),
        RUN_LOOP(mutated_messages_never_break_the_decoder, MUTANT_PARTS),
        RUN_TEST(records_are_whole_and_bounded),
        RUN_TEST(text_becomes_printable_and_fits),
    };
    return run_suite("ipc_wire", tests, sizeof tests / sizeof tests[0]);
}
