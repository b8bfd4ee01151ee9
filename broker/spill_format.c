/* The superblock: made once when a file is created, never written again. */
#include "broker/spill_format.h"

#include "ipc/hash.h"

#include <stdbool.h>
#include <string.h>
#include <time.h>

static uint64_t checksum_of(const struct crn_superblock *b)
{
    return crn_hash64(b, __builtin_offsetof(struct crn_superblock, checksum));
}

void crn_superblock_make(const struct cairn_digest *uuid, uint64_t size_bytes, struct crn_superblock *out_block)
{
    memset(out_block, 0, sizeof *out_block);
    out_block->magic = CRN_STORE_MAGIC;
    out_block->version = CRN_STORE_VERSION;
    out_block->granule_bytes = CRN_STORE_GRANULE_BYTES;
    out_block->uuid = *uuid;
    out_block->size_bytes = size_bytes;
    out_block->created_s = (uint64_t)time(NULL);
    out_block->checksum = checksum_of(out_block);
}

int crn_superblock_check(const struct crn_superblock *b)
{
    if (b->magic != CRN_STORE_MAGIC)
        return CAIRN_E_FORMAT;
    if (b->version != CRN_STORE_VERSION)
        return CAIRN_E_VERSION;
    if (b->checksum != checksum_of(b) || b->granule_bytes != CRN_STORE_GRANULE_BYTES)
        return CAIRN_E_CORRUPT;
    bool sized = b->size_bytes >= CRN_STORE_MIN_BYTES && b->size_bytes <= CRN_STORE_MAX_BYTES;
    return sized && b->size_bytes % CRN_STORE_GRANULE_BYTES == 0 ? 0 : CAIRN_E_CORRUPT;
}
