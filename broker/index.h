/* index - chained chunk hash -> entries that contain that chunk. One per namespace; the chain starts at the family digest, so
 * families never meet. Nodes are embedded in their entry (entry.h), so a look-up allocates nothing. Loop thread only. */
#ifndef CRN_BROKER_INDEX_H
#define CRN_BROKER_INDEX_H

#include <stddef.h>
#include <stdint.h>

struct crn_entry;

struct crn_chunk {
    uint64_t hash;
    struct crn_chunk *next; /* of the bucket; the index's own */
    struct crn_entry *entry;
};

struct crn_index {
    struct crn_chunk **buckets;
    size_t n_buckets; /* a power of two */
    size_t n_chunks;
};

int crn_index_init(struct crn_index *index); /* -ENOMEM */
void crn_index_close(struct crn_index *index);
/* The chunk must stay where it is until it is removed. */
void crn_index_add(struct crn_index *index, struct crn_chunk *chunk);
void crn_index_remove(struct crn_index *index, struct crn_chunk *chunk);
/* Chunks of that hash, one after the other: start with NULL, ends with NULL. */
struct crn_chunk *crn_index_next(const struct crn_index *index, uint64_t hash,
                                 const struct crn_chunk *after);

#endif
