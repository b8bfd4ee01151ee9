/* Gathering where the CPU cannot look: whole heads instead of blocks, because a device wants much work at a time. The way of a part
 * (K or V of a head, or a state):
 *
 *     int8 source --dequantise--> float32 rows
 *     rows --gather by index--> kept rows (without an index: the rows themselves)
 *     kept rows --convert--> the payload's plain type
 *               --convert to float32, quantise--> int8 with scales
 *
 * The payload is zeroed first, so that the gaps between its parts are zero as gather.c leaves them. */
#include "broker/gather_there.h"

#include "kernels/memory.h"

#include <errno.h>

#define STATE_GROUP 64u
#define F16_MAX 65504.0f

/* Rows of one part, and how many are kept. */
struct part {
    uint32_t dtype, width;
    const void *at;        /* [n_rows - n_wide][width] */
    const void *wide;      /* int8: f16 rows before them */
    uint32_t n_rows, n_wide;
    const uint16_t *scale;
    uint32_t group;        /* 0: a scale per channel and 64 rows (K), else per row and group */
    const uint32_t *index;
    uint32_t n_kept;
};

void crn_gather_there_end(struct crn_gather_there *t)
{
    crn_memory_free(&t->exec, t->wide.at);
    crn_memory_free(&t->exec, t->picked.at);
    t->wide = t->picked = (struct crn_gather_scratch){0};
}

static int room(struct crn_gather_there *t, struct crn_gather_scratch *s, size_t bytes)
{
    void *grown;
    if (bytes <= s->bytes)
        return 0;
    int status = crn_memory_alloc(&t->exec, bytes, &grown);
    if (status != 0)
        return status;
    crn_memory_free(&t->exec, s->at);
    *s = (struct crn_gather_scratch){grown, bytes};
    return 0;
}

/* int8 rows, and the wide ones before them, as float32. */
static int widen(struct crn_gather_there *t, struct part *p)
{
    const struct crn_kernel_ops *ops = t->ops;
    const struct crn_exec *e = &t->exec;
    uint32_t n = p->n_rows - p->n_wide;
    int status = room(t, &t->wide, (size_t)p->n_rows * p->width * sizeof(float));
    float *to = t->wide.at;
    if (status == 0 && p->n_wide > 0)
        status = ops->convert(e, p->wide, CAIRN_F16, (size_t)p->n_wide * p->width, CAIRN_F32, to);
    if (status != 0)
        return status;
    float *rest = to + (size_t)p->n_wide * p->width;
    status = p->group == 0 ? ops->dequant_k(e, p->at, p->scale, n, p->width, rest)
                           : ops->dequant_rows(e, p->at, p->scale, n, p->width, p->group, rest);
    p->at = to;
    p->dtype = CAIRN_F32;
    return status;
}

/* Kept rows in a row: of p's type, which may have become float32. */
static int pick(struct crn_gather_there *t, struct part *p)
{
    int status = p->dtype == CAIRN_I8 ? widen(t, p) : 0;
    size_t row_bytes = (size_t)p->width * cairn_dtype_bytes(p->dtype);
    if (status != 0 || p->index == NULL || p->n_kept == 0)
        return status;
    status = room(t, &t->picked, p->n_kept * row_bytes);
    if (status == 0)
        status = t->ops->gather(&t->exec, p->at, p->n_rows, row_bytes, p->index, p->n_kept, t->picked.at);
    p->at = t->picked.at;
    return status;
}

/* Picked rows first .. first + n - 1 to a plain type. */
static int store(struct crn_gather_there *t, const struct part *p, uint32_t first, uint32_t n, uint32_t dtype, void *out)
{
    const char *from = (const char *)p->at + (size_t)first * p->width * cairn_dtype_bytes(p->dtype);
    return t->ops->convert(&t->exec, from, p->dtype, (size_t)n * p->width, dtype, out);
}

/* The same to int8 with scales; group as in struct part. */
static int quantise(struct crn_gather_there *t, const struct part *p, uint32_t first, uint32_t n, int8_t *q, uint16_t *scale)
{
    const float *rows = (const float *)p->at + (size_t)first * p->width;
    int status = 0;
    if (p->dtype != CAIRN_F32) {
        status = room(t, &t->wide, (size_t)n * p->width * sizeof(float));
        if (status == 0)
            status = store(t, p, first, n, CAIRN_F32, t->wide.at);
        rows = t->wide.at;
    }
    if (status != 0)
        return status;
    return p->group == 0 ? t->ops->quant_k(&t->exec, rows, n, p->width, q, scale)
                         : t->ops->quant_rows(&t->exec, rows, n, p->width, p->group, q, scale);
}

static int positions(struct crn_gather_there *t, const int32_t *pos, uint32_t n_rows, const uint32_t *index, uint32_t n,
                     void *out)
{
    if (index != NULL)
        return t->ops->gather(&t->exec, pos, n_rows, sizeof *pos, index, n, out);
    return crn_memory_copy(&t->exec, out, pos, n * sizeof *pos);
}

static int write_part(struct crn_gather_there *t, const struct crn_gather_kv *g, const struct crn_head_parts *to, struct part *p)
{
    int is_v = p->group != 0;
    uint8_t *rows = g->out + (is_v ? to->v : to->k);
    int status = pick(t, p);
    if (status != 0)
        return status;
    if (g->dst.dtype != CAIRN_I8)
        return store(t, p, 0, to->n, g->dst.dtype, rows);
    status = store(t, p, 0, to->n_wide, CAIRN_F16, g->out + (is_v ? to->v_wide : to->k_wide));
    if (status != 0 || to->n == 0)
        return status;
    uint16_t *scale = (uint16_t *)(void *)(g->out + (is_v ? to->v_scale : to->k_scale));
    return quantise(t, p, to->n_wide, to->n, (int8_t *)rows, scale);
}

static int write_head(struct crn_gather_there *t, const struct crn_gather_kv *g, const struct crn_head_parts *to,
                      const struct crn_gather_head *h)
{
    struct part k = {.dtype = g->src_dtype, .width = g->dst.head_dim, .at = h->k, .wide = h->k_wide,
                     .n_rows = h->n + h->n_wide, .n_wide = h->n_wide, .scale = h->k_scale, .index = h->index,
                     .n_kept = to->n + to->n_wide};
    struct part v = k;
    v.at = h->v;
    v.wide = h->v_wide;
    v.scale = h->v_scale;
    v.group = g->dst.head_dim;
    int status = write_part(t, g, to, &k);
    return status != 0 ? status : write_part(t, g, to, &v);
}

int crn_gather_kv_there(struct crn_gather_there *t, const struct crn_gather_kv *g)
{
    struct crn_head_parts parts[CAIRN_MAX_KV_HEADS];
    uint64_t bytes;
    int status = crn_layout_kv(&g->dst, parts, &bytes);
    if (status == 0)
        status = crn_memory_zero(&t->exec, g->out, bytes);
    for (uint32_t h = 0; h < g->dst.n_kv_heads && status == 0; h++) {
        const struct crn_gather_head *from = &g->heads[h];
        if (h == 0 || !g->dst.shared_pos)
            status = positions(t, from->pos, from->n + from->n_wide, from->index, g->dst.n[h], g->out + parts[h].pos);
        if (status == 0)
            status = write_head(t, g, &parts[h], from);
    }
    return status;
}

/* Does any picked number leave f16's range? */
static int overflows(struct crn_gather_there *t, const struct part *p, int *out_over)
{
    float largest = 0;
    const float *rows = p->at;
    size_t n = (size_t)p->n_kept * p->width;
    int status = 0;
    if (p->dtype != CAIRN_F32) {
        status = room(t, &t->wide, n * sizeof(float));
        if (status == 0)
            status = store(t, p, 0, p->n_kept, CAIRN_F32, t->wide.at);
        rows = t->wide.at;
    }
    if (status == 0)
        status = t->ops->max_abs(&t->exec, rows, n, &largest);
    *out_over = largest > F16_MAX;
    return status;
}

int crn_gather_state_there(struct crn_gather_there *t, const struct crn_gather_state *g, uint32_t *out_dtype)
{
    struct part p = {.dtype = g->src_dtype, .width = g->hidden, .at = g->rows, .n_rows = g->n_rows, .scale = g->scale,
                     .group = STATE_GROUP, .index = g->index, .n_kept = g->n};
    struct crn_state_parts parts;
    uint64_t bytes;
    uint32_t dtype = g->dst_dtype;
    int over = 0, status = pick(t, &p);
    if (status == 0 && dtype == CAIRN_F16 && g->src_dtype != CAIRN_F16)
        status = overflows(t, &p, &over);
    dtype = over ? CAIRN_BF16 : dtype;
    if (status == 0)
        status = crn_layout_state(dtype, g->n, g->hidden, &parts, &bytes);
    if (status == 0)
        status = crn_memory_zero(&t->exec, g->out, bytes);
    if (status == 0)
        status = positions(t, g->pos, g->n_rows, g->index, g->n, g->out + parts.pos);
    if (status != 0)
        return status;
    *out_dtype = dtype;
    if (dtype != CAIRN_I8)
        return store(t, &p, 0, g->n, dtype, g->out + parts.rows);
    return quantise(t, &p, 0, g->n, (int8_t *)(g->out + parts.rows), (uint16_t *)(void *)(g->out + parts.scale));
}
