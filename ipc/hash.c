/* XXH3 over tokens, payloads, weights. All hashed bytes are little-endian, so hosts of one byte
 * order are assumed and asserted; digests are stored in XXH's canonical (big-endian) form, so their
 * text is what xxhsum prints. Not a security boundary. */
#include "ipc/hash.h"

#include "ipc/cairn_status.h"

#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h> /* the same functions, with AVX2 or AVX-512 where the CPU has it */
#else
#include <xxhash.h>
#endif

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "stored and shared bytes are little-endian");

uint64_t crn_hash64(const void *bytes, size_t n)
{
    return XXH3_64bits(bytes, n);
}

uint64_t crn_hash_root(const struct cairn_digest *family)
{
    return XXH3_64bits(family->b, sizeof family->b);
}

uint64_t crn_hash_chunk(uint64_t previous, const int32_t tokens[CAIRN_CHUNK_TOKENS])
{
    uint8_t bytes[sizeof previous + CAIRN_CHUNK_TOKENS * sizeof tokens[0]];
    memcpy(bytes, &previous, sizeof previous);
    memcpy(bytes + sizeof previous, tokens, sizeof bytes - sizeof previous);
    return XXH3_64bits(bytes, sizeof bytes);
}

size_t crn_hash_chain(const struct cairn_digest *family, const int32_t *tokens, size_t n_tokens,
                      uint64_t *out_hashes)
{
    size_t n_chunks = n_tokens / CAIRN_CHUNK_TOKENS;
    uint64_t h = crn_hash_root(family);
    for (size_t i = 0; i < n_chunks; i++) {
        h = crn_hash_chunk(h, tokens + i * CAIRN_CHUNK_TOKENS);
        out_hashes[i] = h;
    }
    return n_chunks;
}

/* struct crn_hash64 and crn_hash128 are never defined: the pointer is XXH3's own state, which wants
 * an alignment only XXH3_createState gives. */
struct crn_hash64 *crn_hash64_begin(void)
{
    XXH3_state_t *state = XXH3_createState();
    if (state != NULL)
        XXH3_64bits_reset(state);
    return (struct crn_hash64 *)(void *)state;
}

void crn_hash64_add(struct crn_hash64 *h, const void *bytes, size_t n)
{
    XXH3_64bits_update((XXH3_state_t *)(void *)h, bytes, n);
}

uint64_t crn_hash64_end(struct crn_hash64 *h)
{
    XXH3_state_t *state = (XXH3_state_t *)(void *)h;
    uint64_t hash = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return hash;
}

static XXH3_state_t *state_of(struct crn_hash128 *h)
{
    return (XXH3_state_t *)(void *)h;
}

struct crn_hash128 *crn_hash128_begin(void)
{
    XXH3_state_t *state = XXH3_createState();
    if (state != NULL)
        XXH3_128bits_reset(state);
    return (struct crn_hash128 *)(void *)state;
}

void crn_hash128_add(struct crn_hash128 *h, const void *bytes, size_t n)
{
    XXH3_128bits_update(state_of(h), bytes, n);
}

struct cairn_digest crn_hash128_end(struct crn_hash128 *h)
{
    XXH128_canonical_t canonical;
    struct cairn_digest digest;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_of(h)));
    XXH3_freeState(state_of(h));
    _Static_assert(sizeof canonical.digest == sizeof digest.b, "128 bits");
    memcpy(digest.b, canonical.digest, sizeof digest.b);
    return digest;
}

static const char hex_digits[] = "0123456789abcdef";

void crn_digest_text(const struct cairn_digest *d, char out_text[33])
{
    for (size_t i = 0; i < sizeof d->b; i++) {
        out_text[2 * i] = hex_digits[d->b[i] >> 4];
        out_text[2 * i + 1] = hex_digits[d->b[i] & 15];
    }
    out_text[32] = '\0';
}

int crn_digest_parse(const char *text, struct cairn_digest *out_digest)
{
    struct cairn_digest d = {{0}};
    if (strlen(text) != 2 * sizeof d.b)
        return CAIRN_E_ARG;
    for (size_t i = 0; i < 2 * sizeof d.b; i++) {
        const char *digit = strchr(hex_digits, text[i]);
        if (digit == NULL)
            return CAIRN_E_ARG;
        d.b[i / 2] = (uint8_t)(d.b[i / 2] << 4 | (digit - hex_digits));
    }
    *out_digest = d;
    return 0;
}
