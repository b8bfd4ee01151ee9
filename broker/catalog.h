/* catalog - what survives a restart: entries whose payloads are all in store files, their tokens, and plans. LMDB behind.
 *
 * A record is written only after the bytes it points to are on disk (the caller syncs the store first), and an extent is given
 * back only after the removal of its record is durable: that is what a finished batch means. Records are input when read: each
 * carries a version and a checksum and is checked to the last field. A catalogue that LMDB itself cannot walk (a damaged page can
 * crash it) is recognised at open, in a child process, and set aside.
 *
 * Writing is done by one thread of the catalogue's own, many batches in one transaction; reading by the caller's. */
#ifndef CRN_BROKER_CATALOG_H
#define CRN_BROKER_CATALOG_H

#include "ipc/cairn_status.h"
#include "ipc/cairn_types.h"
#include "ipc/wire.h"

#include <stdbool.h>
#include <stdint.h>

#define CRN_CATALOG_VERSION 2u
#define CRN_CATALOG_MAX_PAYLOADS (CAIRN_MAX_LAYERS + CAIRN_MAX_STATES + 1u)
#define CRN_CATALOG_MAX_INFO 16384u
#define CRN_CATALOG_NO_FILE 0xffffu /* the payload is the entry's tokens, kept in the catalogue itself */

/* One payload: where its bytes are, and how to read them. As stored. */
struct crn_cat_payload {
    uint64_t off, bytes; /* in the file */
    uint64_t checksum;
    uint32_t counts;   /* index into crn_cat_entry.counts */
    uint16_t n_counts; /* 1, or one per head */
    uint16_t file;     /* crn_catalog_file(); CRN_CATALOG_NO_FILE */
    uint16_t layer, wide;
    uint8_t kind, dtype, shared_pos, reserved;
};
_Static_assert(sizeof(struct crn_cat_payload) == 40, "stored bytes");

struct crn_cat_entry {
    uint64_t id, parent; /* of the catalogue, from crn_catalog_next_id(); parent 0: root */
    uint64_t created_s;  /* Unix time */
    uint64_t hits;
    char space[CAIRN_MAX_LABEL + 1], label[CAIRN_MAX_LABEL + 1];
    struct cairn_digest producer, family;
    struct cairn_shape shape;
    uint32_t start, n_tokens;
    uint8_t pyramid, pinned, spill_int8;
    uint32_t token_ns; /* what a token cost its publisher; 0: not known */
    uint32_t n_payloads, n_counts, n_hashes;
    const char *settings; /* zero-terminated */
    const struct crn_cat_payload *payloads;
    const uint32_t *counts;
    const uint64_t *hashes; /* of the chunks the index knows it by */
};

struct crn_cat_plan {
    uint64_t id;
    char space[CAIRN_MAX_LABEL + 1];
    struct crn_plan_rec rec; /* its id, map_arena and map_off mean nothing here */
    const struct crn_budget_rec *budgets; /* [rec.n_budgets] */
    const char *info;                     /* zero-terminated */
    const void *map;                      /* [rec.map_bytes] */
};

struct crn_catalog_config {
    const char *path;   /* of the data file; LMDB adds PATH-lock */
    uint64_t map_bytes; /* 0: 1 GiB. Doubled when full, up to max_map_bytes (0: 1 TiB) */
    uint64_t max_map_bytes;
};

struct crn_catalog;

/* Opens or creates. A catalogue that cannot be walked, or is of another version, is renamed to PATH.damaged and a new one begun;
 * out_damaged says so. Logs what fails.
 * own     end with crn_catalog_close, which finishes submitted batches
 * fails   -errno, CAIRN_E_CORRUPT */
int crn_catalog_open(const struct crn_catalog_config *config, bool *out_damaged, struct crn_catalog **out_catalog);
void crn_catalog_close(struct crn_catalog *c);

/* A number never used before in this catalogue. */
uint64_t crn_catalog_next_id(struct crn_catalog *c);
/* The short number of a store file, made durable when it is new. CAIRN_E_FULL after 65535 of them, -errno. */
int crn_catalog_file(struct crn_catalog *c, const struct cairn_digest *uuid, uint16_t *out_file);

/* ---- writing: fill a batch, submit it, get it back ---- */

struct crn_cat_batch {
    struct crn_cat_batch *next; /* the catalogue's */
    int status;                 /* out: 0 when everything in it is durable, else nothing of it is */
    void *owner;                /* the caller's */
    uint32_t n_ops;
    struct crn_cat_op *ops;
};

/* NULL when memory is out. */
struct crn_cat_batch *crn_cat_batch_new(void);
void crn_cat_batch_free(struct crn_cat_batch *b);
/* All copy what they are given. -ENOMEM, CAIRN_E_TOO_BIG. tokens [n_tokens]. */
int crn_cat_put_entry(struct crn_cat_batch *b, const struct crn_cat_entry *entry, const int32_t *tokens);
int crn_cat_drop_entry(struct crn_cat_batch *b, uint64_t id);
int crn_cat_put_plan(struct crn_cat_batch *b, const struct crn_cat_plan *plan);
int crn_cat_drop_plan(struct crn_cat_batch *b, uint64_t id);

/* Hands the batch to the writer; batches become durable in the order they are submitted in. */
void crn_catalog_submit(struct crn_catalog *c, struct crn_cat_batch *b);
/* A finished batch, oldest first; NULL when there is none. Owned by the caller again. */
struct crn_cat_batch *crn_catalog_take(struct crn_catalog *c);
/* Readable while finished batches may wait. */
int crn_catalog_fd(const struct crn_catalog *c);
/* Submits and waits; frees the batch. */
int crn_catalog_apply(struct crn_catalog *c, struct crn_cat_batch *b);
/* Waits until a batch is finished: 0, or CAIRN_E_TIMEOUT. */
int crn_catalog_wait(struct crn_catalog *c, uint64_t timeout_ns);

/* ---- reading ---- */

/* A whole entry in one block of memory: free() it. CAIRN_E_MISS, CAIRN_E_CORRUPT, CAIRN_E_VERSION, -ENOMEM. */
int crn_catalog_entry(struct crn_catalog *c, uint64_t id, struct crn_cat_entry **out_entry);
/* Copies the tokens; n_tokens must be what was stored. CAIRN_E_MISS, CAIRN_E_CORRUPT. */
int crn_catalog_tokens(struct crn_catalog *c, uint64_t id, uint32_t n_tokens, int32_t *out_tokens);

/* Walks all records in the order of their ids (parents before children). bad(ctx, id, status) gets those that do not check; the
 * views live until the callback returns. A callback must not write. Returns what ended the walk, 0 at the end. */
struct crn_cat_visitor {
    int (*entry)(void *ctx, const struct crn_cat_entry *entry);
    int (*plan)(void *ctx, const struct crn_cat_plan *plan);
    void (*bad)(void *ctx, bool is_plan, uint64_t id, int status);
    void *ctx;
};
int crn_catalog_walk(struct crn_catalog *c, const struct crn_cat_visitor *visitor);

struct crn_catalog_stats {
    uint64_t commits, batches, ops, failed, map_bytes, used_bytes;
};
void crn_catalog_stats(struct crn_catalog *c, struct crn_catalog_stats *out_stats);

#endif
