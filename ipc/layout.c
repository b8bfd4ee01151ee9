/* Offsets inside a payload. Pure arithmetic: a cursor walks the parts in the order of layout.h and
 * rounds each start up to 64. Limits are checked first; with them the largest payload is 64 heads x
 * 2^20 tokens x 512 channels x 4 bytes x (K, V) < 2^39, so nothing here can overflow 64 bits. */
#include "ipc/layout.h"

#include <stddef.h>

#define QUANT_BLOCK 64u /* tokens that share a K scale; channels of a state that share one */

/* Start of the next part; a part of no bytes does not exist and has offset 0. */
static uint64_t take(uint64_t *cursor, uint64_t bytes)
{
    if (bytes == 0)
        return 0;
    uint64_t at = *cursor;
    *cursor = (at + bytes + CAIRN_ALIGN - 1) & ~(uint64_t)(CAIRN_ALIGN - 1);
    return at;
}

static int kv_check(const struct crn_kv_spec *s)
{
    if (cairn_dtype_bytes(s->dtype) == 0 || s->n_kv_heads == 0 || s->head_dim == 0 ||
        s->shared_pos > 1)
        return CAIRN_E_ARG;
    if (s->wide != 0 && s->dtype != CAIRN_I8)
        return CAIRN_E_ARG;
    if (s->n_kv_heads > CAIRN_MAX_KV_HEADS || s->head_dim > CAIRN_MAX_HEAD_DIM)
        return CAIRN_E_TOO_BIG;
    for (uint32_t h = 0; h < s->n_kv_heads; h++) {
        if (s->n[h] > CAIRN_MAX_TOKENS)
            return CAIRN_E_TOO_BIG;
        if (s->shared_pos && s->n[h] != s->n[0])
            return CAIRN_E_ARG;
    }
    return 0;
}

static void head_parts(const struct crn_kv_spec *s, struct crn_head_parts *p, uint64_t *cursor)
{
    uint64_t dh = s->head_dim, item = cairn_dtype_bytes(s->dtype);
    p->k_wide = take(cursor, p->n_wide * dh * 2);
    p->v_wide = take(cursor, p->n_wide * dh * 2);
    p->k = take(cursor, p->n * dh * item);
    p->v = take(cursor, p->n * dh * item);
    if (s->dtype == CAIRN_I8) {
        p->k_scale = take(cursor, (p->n + QUANT_BLOCK - 1) / QUANT_BLOCK * dh * 2);
        p->v_scale = take(cursor, (uint64_t)p->n * 2);
    }
}

int crn_layout_kv(const struct crn_kv_spec *spec, struct crn_head_parts *out_heads,
                  uint64_t *out_bytes)
{
    int status = kv_check(spec);
    if (status != 0)
        return status;
    uint64_t cursor = 0;
    for (uint32_t h = 0; h < spec->n_kv_heads; h++) {
        uint32_t n = spec->n[h], n_wide = spec->wide < n ? spec->wide : n;
        out_heads[h] = (struct crn_head_parts){.n = n - n_wide, .n_wide = n_wide};
        if (!spec->shared_pos || h == 0)
            out_heads[h].pos = take(&cursor, n * sizeof(int32_t));
        else
            out_heads[h].pos = out_heads[0].pos;
    }
    for (uint32_t h = 0; h < spec->n_kv_heads; h++)
        head_parts(spec, &out_heads[h], &cursor);
    *out_bytes = cursor;
    return 0;
}

int crn_layout_state(uint32_t dtype, uint32_t n, uint32_t hidden, struct crn_state_parts *out_parts,
                     uint64_t *out_bytes)
{
    uint64_t item = cairn_dtype_bytes(dtype);
    if (item == 0 || hidden == 0 || (dtype == CAIRN_I8 && hidden % QUANT_BLOCK != 0))
        return CAIRN_E_ARG;
    if (n > CAIRN_MAX_TOKENS || hidden > CAIRN_MAX_HIDDEN)
        return CAIRN_E_TOO_BIG;
    uint64_t cursor = 0;
    struct crn_state_parts parts = {0, 0, 0};
    parts.pos = take(&cursor, n * sizeof(int32_t));
    parts.rows = take(&cursor, (uint64_t)n * hidden * item);
    if (dtype == CAIRN_I8)
        parts.scale = take(&cursor, (uint64_t)n * (hidden / QUANT_BLOCK) * 2);
    *out_parts = parts;
    *out_bytes = cursor;
    return 0;
}
