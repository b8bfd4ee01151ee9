/* cpu_tiles - attention as a walk over tiles, shared by cpu_attention.c and cpu_scores.c.
 *
 * Query rows of one KV head are numbered flat: row = query * group + head in the group. A block is a run of rows; a tile is
 * CRN_TILE_KEYS keys of one span, always counted from the span's first key, so every row meets the same tiles in the same
 * order whatever block it is in. */
#ifndef CRN_KERNELS_CPU_TILES_H
#define CRN_KERNELS_CPU_TILES_H

#include "kernels/kernels.h"
#include "kernels/simd.h"

enum {
    CRN_BLOCK_ROWS = 192,     /* rows of a block: a multiple of 6 */
    CRN_BLOCK_FLOATS = 12288, /* the largest block [rows][padded] */
};

/* Rows r0 .. r0+n-1 of KV head g: softmax state (see struct crn_tile). */
struct crn_block {
    const struct crn_attention *a;
    uint32_t g;
    size_t r0, n;
    float *q; /* [n][dh] */
    float *max, *sum;
    float *acc; /* [n][padded] or NULL */
};

/* Keys first .. end-1 of one span. */
struct crn_keys {
    uint32_t span;
    size_t first, end;
};

/* Called per tile: rows of the block that may see it, from row `row` of the block on; `key` = first key in the span. */
typedef void crn_tile_fn(void *ctx, const struct crn_tile *tile, size_t row, size_t key);

static inline size_t crn_padded(size_t dh)
{
    return (dh + CRN_TILE_PAD - 1) / CRN_TILE_PAD * CRN_TILE_PAD;
}

static inline size_t crn_group(const struct crn_attention *a)
{
    return a->n_heads / a->n_kv_heads;
}

/* Where a row of a block is in rows [n_q][H], counted in rows. */
static inline size_t crn_block_row(const struct crn_block *b, size_t r)
{
    size_t group = crn_group(b->a), query = (b->r0 + r) / group;
    return query * b->a->n_heads + b->g * group + (b->r0 + r) % group;
}

/* Rows per block for a head size: as many as fit, 24 .. CRN_BLOCK_ROWS. */
size_t crn_block_rows(size_t dh);

/* Fills q [n][dh] of a block: scaled by scale * log2(e). */
void crn_block_load(struct crn_block *b);

/* max = lowest, sum = 0, acc = 0. */
void crn_block_clear(struct crn_block *b);

/* Visits all tiles of `keys` (first a multiple of CRN_TILE_KEYS) that some row of the block sees. */
void crn_block_walk(const struct crn_block *b, const struct crn_keys *keys, crn_tile_fn *visit, void *ctx);

#endif
