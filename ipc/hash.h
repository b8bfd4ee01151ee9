/* hash - XXH3 for three jobs: chained chunk hashes of the index, checksums of payloads, digests of models and families.
 * None of them is a security boundary: tokens are compared on a hit, and bytes are checked by the broker that wrote them. */
#ifndef CRN_IPC_HASH_H
#define CRN_IPC_HASH_H

#include "ipc/cairn_types.h"

#include <stddef.h>
#include <stdint.h>

/* 64-bit XXH3 of n bytes: payload checksums. */
uint64_t crn_hash64(const void *bytes, size_t n);

/* Chained hash of one 64-token chunk: XXH3-64 of (previous, tokens as int32 little-endian). The chain starts with the hash of
 * the family digest, so equal tokens of different families never meet. */
uint64_t crn_hash_root(const struct cairn_digest *family);
uint64_t crn_hash_chunk(uint64_t previous, const int32_t tokens[CAIRN_CHUNK_TOKENS]);

/* All whole chunks of a context: out_hashes [n_tokens / 64]; returns their number. */
size_t crn_hash_chain(const struct cairn_digest *family, const int32_t *tokens, size_t n_tokens, uint64_t *out_hashes);

/* The same 64 bits, bytes handed in piece by piece. own: end with crn_hash64_end, also after a failure of the caller; NULL when
 * memory is out. */
struct crn_hash64;
struct crn_hash64 *crn_hash64_begin(void);
void crn_hash64_add(struct crn_hash64 *h, const void *bytes, size_t n);
uint64_t crn_hash64_end(struct crn_hash64 *h);

/* Streaming 128-bit XXH3. own: end with crn_hash128_end, also after a failure of the caller; NULL when memory is out. */
struct crn_hash128;
struct crn_hash128 *crn_hash128_begin(void);
void crn_hash128_add(struct crn_hash128 *h, const void *bytes, size_t n);
struct cairn_digest crn_hash128_end(struct crn_hash128 *h);

/* 32 lower-case hex digits, and back (CAIRN_E_ARG when text is anything else). */
void crn_digest_text(const struct cairn_digest *d, char out_text[33]);
int crn_digest_parse(const char *text, struct cairn_digest *out_digest);

#endif
