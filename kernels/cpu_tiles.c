/* cpu_tiles - cuts attention into tiles: which keys a block of rows sees, read as f32 whatever their storage.
 *
 * Keys of a tile become columns once per block, values become f32 rows; f32 values are read in place. Both conversions are
 * shared by all rows of the block, that is by all query heads of the KV head. Few rows (decoding) are bound by memory: their
 * values are widened in registers, and the next tile is asked for while this one is worked on. Stack: up to 400 KiB. */
#include "kernels/cpu_tiles.h"

#include "kernels/shape.h"

#include <float.h>
#include <stdbool.h>
#include <string.h>

enum {
    MAX_PADDED = CAIRN_MAX_HEAD_DIM,
    FEW_ROWS = 6, /* one group of simd_tile.h: what is read once need not be widened first */
};

size_t crn_block_rows(size_t dh)
{
    size_t rows = CRN_BLOCK_FLOATS / crn_padded(dh);
    return rows < CRN_BLOCK_ROWS ? rows / 6 * 6 : CRN_BLOCK_ROWS;
}

void crn_block_load(struct crn_block *b)
{
    const struct crn_attention *a = b->a;
    size_t dh = a->head_dim;
    float factor = a->scale * 1.44269504f;
    for (size_t r = 0; r < b->n; r++) {
        const float *q = a->q + crn_block_row(b, r) * dh;
        for (size_t c = 0; c < dh; c++)
            b->q[r * dh + c] = q[c] * factor;
    }
}

void crn_block_clear(struct crn_block *b)
{
    for (size_t r = 0; r < b->n; r++) {
        b->max[r] = -FLT_MAX; /* finite: a row that sees nothing keeps sum 0 and never meets inf - inf */
        b->sum[r] = 0;
    }
    if (b->acc != NULL)
        memset(b->acc, 0, b->n * crn_padded(b->a->head_dim) * sizeof *b->acc);
}

/* How many of pos [n], ascending, are <= limit. */
static size_t count_upto(const int32_t *pos, size_t n, int32_t limit)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (pos[middle] <= limit)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The rows of a block that belong to a span, and the range of their positions. */
struct seen_rows {
    size_t first, n; /* in the block */
    int32_t lowest, highest;
};

static struct seen_rows rows_of_span(const struct crn_block *b, const struct crn_span *s)
{
    size_t group = crn_group(b->a);
    size_t begin = s->q_begin * group, end = s->q_end * group;
    begin = begin > b->r0 ? begin : b->r0;
    end = end < b->r0 + b->n ? end : b->r0 + b->n;
    struct seen_rows seen = { 0 };
    if (begin >= end)
        return seen;
    seen = (struct seen_rows){ begin - b->r0, end - begin, INT32_MAX, INT32_MIN };
    for (size_t query = begin / group; query <= (end - 1) / group; query++) {
        int32_t pos = b->a->q_pos[query];
        seen.lowest = pos < seen.lowest ? pos : seen.lowest;
        seen.highest = pos > seen.highest ? pos : seen.highest;
    }
    return seen;
}

/* One walk: buffers and what does not change from tile to tile. */
struct walk {
    const struct crn_simd_ops *simd;
    const struct crn_block *block;
    const struct crn_span *span;
    const struct crn_kv_head *head;
    struct seen_rows rows;
    uint8_t visible[CRN_BLOCK_ROWS];
    _Alignas(64) float kt[MAX_PADDED * CRN_TILE_KEYS];
    _Alignas(64) float wide[MAX_PADDED * CRN_TILE_KEYS];
};

static struct crn_stored_rows stored_rows(const struct walk *w, const void *base, size_t key, size_t n)
{
    size_t dh = w->block->a->head_dim;
    const char *at = (const char *)base + key * dh * cairn_dtype_bytes(w->span->dtype);
    return (struct crn_stored_rows){ .data = at, .dtype = w->span->dtype, .n = n, .dh = dh };
}

static void load_keys(struct walk *w, size_t key, size_t n)
{
    size_t dh = w->block->a->head_dim;
    struct crn_stored_rows rows = stored_rows(w, w->head->k, key, n);
    if (rows.dtype == CAIRN_I8)
        rows.column_scale = w->head->k_scale + key / CRN_SCALE_ROWS * dh;
    w->simd->columns(&rows, w->wide, w->kt);
}

static void load_values(struct walk *w, size_t key, struct crn_tile *tile)
{
    struct crn_stored_rows rows = stored_rows(w, w->head->v, key, tile->n_keys);
    if (rows.dtype == CAIRN_F32 && tile->padded == tile->dh) {
        tile->v = rows.data;
        tile->v_stride = tile->dh;
        return;
    }
    bool half = rows.dtype == CAIRN_F16 || rows.dtype == CAIRN_BF16;
    if (half && tile->rows <= FEW_ROWS && tile->padded == tile->dh) {
        tile->v_stored = rows.data;
        tile->v_dtype = rows.dtype;
        tile->v_stride = tile->dh;
        return;
    }
    if (rows.dtype == CAIRN_I8)
        rows.row_scale = w->head->v_scale + key;
    w->simd->widen_rows(&rows, w->wide, tile->padded);
    tile->v = w->wide;
    tile->v_stride = tile->padded;
}

/* Per row, how many keys of the tile it sees; NULL when every row sees all of them. */
static const uint8_t *visible_keys(struct walk *w, const int32_t *pos, size_t n)
{
    if (pos[n - 1] <= w->rows.lowest)
        return NULL;
    size_t group = crn_group(w->block->a), r0 = w->block->r0 + w->rows.first, query = SIZE_MAX;
    uint8_t count = 0;
    for (size_t r = 0; r < w->rows.n; r++) {
        if ((r0 + r) / group != query) {
            query = (r0 + r) / group;
            count = (uint8_t)count_upto(pos, n, w->block->a->q_pos[query]);
        }
        w->visible[r] = count;
    }
    return w->visible;
}

static void visit_tile(struct walk *w, size_t key, size_t n, crn_tile_fn *visit, void *ctx)
{
    const struct crn_block *b = w->block;
    size_t row = w->rows.first, dh = b->a->head_dim, padded = crn_padded(dh);
    struct crn_tile tile = {
        .q = b->q + row * dh,
        .kt = w->kt,
        .visible = visible_keys(w, w->head->pos + key, n),
        .rows = w->rows.n,
        .dh = dh,
        .padded = padded,
        .n_keys = n,
        .max = b->max + row,
        .sum = b->sum + row,
        .acc = b->acc != NULL ? b->acc + row * padded : NULL,
    };
    load_keys(w, key, n);
    if (tile.acc != NULL)
        load_values(w, key, &tile);
    visit(ctx, &tile, row, key);
}

/* Few rows take less time for a tile than memory does. */
static void fetch_tile(const struct walk *w, size_t key, size_t n)
{
    size_t row = w->block->a->head_dim * cairn_dtype_bytes(w->span->dtype), bytes = n * row;
    const char *k = (const char *)w->head->k + key * row, *v = (const char *)w->head->v + key * row;
    for (size_t i = 0; i < bytes; i += 64) {
        __builtin_prefetch(k + i);
        __builtin_prefetch(v + i);
    }
}

void crn_block_walk(const struct crn_block *b, const struct crn_keys *keys, crn_tile_fn *visit, void *ctx)
{
    struct walk w;
    w.simd = crn_simd();
    w.block = b;
    w.span = &b->a->spans[keys->span];
    w.head = &w.span->heads[b->g];
    w.rows = rows_of_span(b, w.span);
    if (w.rows.n == 0 || keys->first >= keys->end)
        return;
    size_t end = keys->first + count_upto(w.head->pos + keys->first, keys->end - keys->first, w.rows.highest);
    for (size_t key = keys->first, n; key < end; key += n) {
        n = end - key < CRN_TILE_KEYS ? end - key : CRN_TILE_KEYS;
        if (w.rows.n <= FEW_ROWS && end - key > CRN_TILE_KEYS)
            fetch_tile(&w, key + n, end - key - n < CRN_TILE_KEYS ? end - key - n : CRN_TILE_KEYS);
        visit_tile(&w, key, n, visit, ctx);
    }
}
