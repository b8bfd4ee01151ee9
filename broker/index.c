/* A chained hash table that doubles. Hashes are XXH3 already: their low bits are the bucket. When memory for doubling is out the
 * table stays as it is and gets slower, never wrong. It knows nothing about what an entry is, and believes no hash: whoever acts
 * on a hit compares tokens (commit here, readers in the client). */
#include "broker/index.h"

#include <errno.h>
#include <stdlib.h>

#define FIRST_BUCKETS 1024u

int crn_index_init(struct crn_index *index)
{
    struct crn_chunk **buckets = calloc(FIRST_BUCKETS, sizeof *buckets);
    if (buckets == NULL)
        return -ENOMEM;
    *index = (struct crn_index){buckets, FIRST_BUCKETS, 0};
    return 0;
}

void crn_index_close(struct crn_index *index)
{
    free(index->buckets);
    *index = (struct crn_index){0};
}

static void link_chunk(struct crn_chunk **buckets, size_t n_buckets, struct crn_chunk *chunk)
{
    struct crn_chunk **head = &buckets[chunk->hash & (n_buckets - 1)];
    chunk->next = *head;
    *head = chunk;
}

static void grow(struct crn_index *index)
{
    size_t n = index->n_buckets * 2;
    struct crn_chunk **buckets = calloc(n, sizeof *buckets);
    if (buckets == NULL)
        return;
    for (size_t b = 0; b < index->n_buckets; b++) {
        for (struct crn_chunk *c = index->buckets[b], *next; c != NULL; c = next) {
            next = c->next;
            link_chunk(buckets, n, c);
        }
    }
    free(index->buckets);
    index->buckets = buckets;
    index->n_buckets = n;
}

void crn_index_add(struct crn_index *index, struct crn_chunk *chunk)
{
    if (index->n_chunks >= index->n_buckets)
        grow(index);
    link_chunk(index->buckets, index->n_buckets, chunk);
    index->n_chunks++;
}

void crn_index_remove(struct crn_index *index, struct crn_chunk *chunk)
{
    struct crn_chunk **at = &index->buckets[chunk->hash & (index->n_buckets - 1)];
    while (*at != NULL && *at != chunk)
        at = &(*at)->next;
    if (*at == NULL)
        return;
    *at = chunk->next;
    chunk->next = NULL;
    index->n_chunks--;
}

struct crn_chunk *crn_index_next(const struct crn_index *index, uint64_t hash,
                                 const struct crn_chunk *after)
{
    struct crn_chunk *c =
        after != NULL ? after->next : index->buckets[hash & (index->n_buckets - 1)];
    while (c != NULL && c->hash != hash)
        c = c->next;
    return c;
}
