/* spill_format - the bytes of a store file, besides the extents themselves.
 *
 *     0       superblock (struct crn_superblock, 4096 bytes)
 *     65536   extents: runs of 64 KiB granules; granule g lies at g * 65536, granule 0 is the superblock's
 *
 * Which granules are in use, and by whom, is in the catalogue (broker/catalog.h), not here. Bytes read back are input: checked
 * before use, in the order magic, version, checksum, sizes. Little-endian. */
#ifndef CRN_BROKER_SPILL_FORMAT_H
#define CRN_BROKER_SPILL_FORMAT_H

#include "ipc/cairn_status.h"
#include "ipc/cairn_types.h"

#include <stdint.h>

#define CRN_STORE_MAGIC 0x3145524f54534e43ull /* "CNSTORE1" */
#define CRN_STORE_VERSION 1u
#define CRN_STORE_GRANULE_BYTES 65536u
#define CRN_STORE_MIN_BYTES (2ull * CRN_STORE_GRANULE_BYTES)
#define CRN_STORE_MAX_BYTES (1ull << 46)

struct crn_superblock {
    uint64_t magic;
    uint32_t version;
    uint32_t granule_bytes;
    struct cairn_digest uuid; /* of this file; the catalogue names files by it */
    uint64_t size_bytes;      /* of the file, a multiple of granule_bytes */
    uint64_t created_s;       /* Unix time, for people */
    uint8_t reserved[4040];
    uint64_t checksum;        /* XXH3-64 of all bytes before it */
};
_Static_assert(sizeof(struct crn_superblock) == 4096, "stored bytes");
_Static_assert(__builtin_offsetof(struct crn_superblock, checksum) == 4088, "stored bytes");

void crn_superblock_make(const struct cairn_digest *uuid, uint64_t size_bytes, struct crn_superblock *out_block);

/* fails   CAIRN_E_FORMAT not a store, CAIRN_E_VERSION, CAIRN_E_CORRUPT checksum or impossible sizes */
int crn_superblock_check(const struct crn_superblock *block);

#endif
