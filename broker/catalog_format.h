/* catalog_format - the bytes of a catalogue's records, and the checks that stand between them and the rest of the broker.
 *
 * Entry: header, settings (padded to 8), payloads, hashes, counts. Plan: header, budgets, info (padded to 8), map.
 * Tokens: header, int32 tokens. Every record starts with struct crn_cat_head; its checksum covers all that follows it. */
#ifndef CRN_BROKER_CATALOG_FORMAT_H
#define CRN_BROKER_CATALOG_FORMAT_H

#include "broker/catalog.h"

#include <stddef.h>

struct crn_cat_head {
    uint32_t version;
    uint32_t bytes; /* of the whole record */
    uint64_t checksum;
};
_Static_assert(sizeof(struct crn_cat_head) == 16, "stored bytes");

struct crn_cat_entry_rec {
    struct crn_cat_head head;
    uint64_t id, parent, created_s, hits;
    char space[64], label[64];
    struct cairn_digest producer, family;
    struct cairn_shape shape;
    uint32_t start, n_tokens;
    uint32_t n_payloads, n_counts, n_hashes;
    uint32_t settings_bytes; /* with the terminating zero, without padding */
    uint8_t pyramid, pinned, spill_int8;
    uint8_t reserved;
    uint32_t token_ns;
};
_Static_assert(sizeof(struct crn_cat_entry_rec) == 256, "stored bytes");

struct crn_cat_plan_rec {
    struct crn_cat_head head;
    uint64_t id;
    char space[64];
    struct crn_plan_rec rec;
    uint32_t info_bytes; /* with the terminating zero, without padding */
    uint32_t reserved;
};
_Static_assert(sizeof(struct crn_cat_plan_rec) == 456, "stored bytes");

struct crn_cat_tokens_rec {
    struct crn_cat_head head;
    uint64_t id;
    uint32_t n_tokens, reserved;
};
_Static_assert(sizeof(struct crn_cat_tokens_rec) == 32, "stored bytes");

/* Encoders: malloc'ed record. -ENOMEM, CAIRN_E_TOO_BIG, CAIRN_E_ARG. */
int crn_cat_encode_entry(const struct crn_cat_entry *e, void **out_rec, size_t *out_n);
int crn_cat_encode_plan(const struct crn_cat_plan *p, void **out_rec, size_t *out_n);
int crn_cat_encode_tokens(uint64_t id, const int32_t *tokens, uint32_t n_tokens, void **out_rec, size_t *out_n);

/* Decoders: bytes 8-aligned; views into them. CAIRN_E_CORRUPT, CAIRN_E_VERSION. */
int crn_cat_decode_entry(const void *rec, size_t n, uint64_t key, struct crn_cat_entry *out_entry);
int crn_cat_decode_plan(const void *rec, size_t n, uint64_t key, struct crn_cat_plan *out_plan);
int crn_cat_decode_tokens(const void *rec, size_t n, uint64_t key, const int32_t **out_tokens, uint32_t *out_n);

#endif
