/* store - the files of the NVMe tier: created, preallocated, checked, locked; and who has which extent of them.
 *
 * A store is a set of files, perhaps on several devices; extents go to them in turn. The bytes of a file are in
 * broker/spill_format.h, the moving in broker/spill.h, and what an extent means in broker/catalog.h. */
#ifndef CRN_BROKER_STORE_H
#define CRN_BROKER_STORE_H

#include "broker/spill.h"
#include "ipc/cairn_types.h"

struct crn_store_file_config {
    const char *path; /* a file, or a directory: then DIR/spill.cairn */
    uint64_t bytes;   /* 0: as large as it is; a new one takes half of what is free */
};

struct crn_store_config {
    uint32_t n_files;
    struct crn_store_file_config files[CRN_SPILL_MAX_FILES];
    enum crn_spill_engine engine;
    uint32_t depth; /* 0: default */
    const struct crn_spill_faults *faults;
};

/* A run of whole granules in one file. */
struct crn_place {
    uint32_t file;
    uint32_t reserved;
    uint64_t off, bytes; /* bytes: of the payload; the run is rounded up to granules */
};

struct crn_store;

/* Opens or creates every file. A file with a damaged superblock or another version starts anew under a new uuid (what the
 * catalogue knows of the old one is then lost, and found to be); a file that is not a store is not touched.
 * Logs one line for whatever fails.
 * fails   CAIRN_E_ARG, CAIRN_E_FORMAT not a store, CAIRN_E_BUSY locked by another broker, -ENOSPC, -errno
 * own     end with crn_store_close */
int crn_store_open(const struct crn_store_config *config, struct crn_store **out_store);
void crn_store_close(struct crn_store *st); /* finishes transfers; NULL is allowed */

struct crn_spill *crn_store_spill(struct crn_store *st);

/* CAIRN_E_FULL when no file has a run; CAIRN_E_ARG for 0 bytes. */
int crn_store_take(struct crn_store *st, uint64_t bytes, struct crn_place *out_place);
/* At start: what the catalogue says is in use. CAIRN_E_CORRUPT outside the file or twice. */
int crn_store_reserve(struct crn_store *st, const struct crn_place *place);
/* Once its removal is durable. CAIRN_E_STALE when it is free already. */
int crn_store_free(struct crn_store *st, const struct crn_place *place);

/* Reads an extent by itself, beside the engine, and compares it; for verification. Any thread, blocks.
 * fails   CAIRN_E_CORRUPT, -errno, -ENOMEM */
int crn_store_check(const struct crn_store *st, const struct crn_place *place, uint64_t bytes, uint64_t checksum);

uint32_t crn_store_files(const struct crn_store *st);
const char *crn_store_path(const struct crn_store *st, uint32_t file);
struct cairn_digest crn_store_uuid(const struct crn_store *st, uint32_t file);
/* Index of the file with that uuid, or CAIRN_E_MISS. */
int crn_store_find(const struct crn_store *st, const struct cairn_digest *uuid);
uint64_t crn_store_limit_bytes(const struct crn_store *st);
uint64_t crn_store_used_bytes(const struct crn_store *st); /* granules in use, without superblocks */

#endif
