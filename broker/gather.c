/* Gathering works on blocks of 64 rows: that is the unit in which int8 keys share their scales, and small enough to stay in
 * cache. Equal source and target types are copied row by row, bit for bit. Other types go through float32 scratch:
 *
 *     source rows --take_rows--> float32 [64][width] --store_rows--> f32, f16, bf16, or int8 with scales
 *
 * The gaps that alignment leaves between parts are zeroed, so that equal content has equal bytes and an equal checksum. That sum
 * follows the copy through memory wherever bytes become final in ascending order (all plain types), and takes the rest at the end
 * of a head: it reads what has just been written from cache. */
#include "broker/gather.h"

#include "ipc/hash.h"
#include "kernels/kernels.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 64u        /* rows per block; tokens that share a K scale */
#define STATE_GROUP 64u  /* channels of a state that share a scale */
#define SCRATCH (1u << 16) /* numbers: 64 rows of the widest head, one row of the widest state */
#define F16_MAX 65504.0f

/* Rows of one part of a source: K or V of a head, or a state. */
struct rows {
    uint32_t dtype, width;
    const uint8_t *at;       /* [..][width] */
    const uint8_t *wide;     /* f16 rows before them (int8) */
    uint32_t n_wide;
    const uint16_t *scale;   /* int8: */
    uint32_t scale_block;    /* rows per line of scales: 64 for K, 1 for V and states */
    uint32_t group;          /* channels per scale: 1 for K, head_dim for V, 64 for states */
    const uint32_t *index;
};

struct scratch {
    const struct crn_kernel_ops *ops;
    struct crn_exec exec;
    float *f32;     /* [SCRATCH] */
    float *scale;   /* [SCRATCH] */
    uint8_t *plain; /* [SCRATCH * 4]: gathered, not yet converted */
    struct crn_hash64 *sum;   /* NULL: none */
    const uint8_t *summed_to; /* the payload is final and summed up to here */
};

/* Everything before `end` is final. */
static void sum_to(struct scratch *s, const uint8_t *end)
{
    if (s->sum == NULL || end <= s->summed_to)
        return;
    crn_hash64_add(s->sum, s->summed_to, (size_t)(end - s->summed_to));
    s->summed_to = end;
}

static int scratch_open(struct scratch *s)
{
    char why[64];
    *s = (struct scratch){.ops = &crn_kernels_cpu};
    if (!s->ops->probe(why, sizeof why))
        s->ops = &crn_kernels_ref;
    s->f32 = malloc(3 * SCRATCH * sizeof(float));
    if (s->f32 == NULL)
        return -ENOMEM;
    s->scale = s->f32 + SCRATCH;
    s->plain = (uint8_t *)(s->f32 + 2 * SCRATCH);
    return 0;
}

static uint32_t row_of(const struct rows *r, uint32_t i)
{
    return r->index != NULL ? r->index[i] : i;
}

/* One int8 row to float32. */
static int take_quantised(const struct scratch *s, const struct rows *r, uint32_t row, float *out)
{
    uint32_t n_scales = r->width / r->group;
    const uint16_t *line = r->scale + (size_t)(row / r->scale_block) * n_scales;
    int status = s->ops->convert(&s->exec, line, CAIRN_F16, n_scales, CAIRN_F32, s->scale);
    const int8_t *q = (const int8_t *)r->at + (size_t)row * r->width;
    for (uint32_t c = 0; c < r->width; c++)
        out[c] = (float)q[c] * s->scale[c / r->group];
    return status;
}

/* Kept rows first .. first + n - 1 of an int8 source to float32 [n][width]. */
static int take_int8(const struct scratch *s, const struct rows *r, uint32_t first, uint32_t n,
                     float *out)
{
    int status = 0;
    for (uint32_t i = 0; i < n && status == 0; i++, out += r->width) {
        uint32_t row = row_of(r, first + i);
        if (row < r->n_wide)
            status = s->ops->convert(&s->exec, r->wide + (size_t)row * r->width * 2, CAIRN_F16,
                                     r->width, CAIRN_F32, out);
        else
            status = take_quantised(s, r, row - r->n_wide, out);
    }
    return status;
}

/* Kept rows as they are, of a source that is not int8. */
static void take_plain(const struct rows *r, uint32_t first, uint32_t n, uint8_t *out)
{
    size_t row_bytes = (size_t)r->width * cairn_dtype_bytes(r->dtype);
    if (r->index == NULL) {
        memcpy(out, r->at + first * row_bytes, n * row_bytes);
        return;
    }
    for (uint32_t i = 0; i < n; i++)
        memcpy(out + i * row_bytes, r->at + r->index[first + i] * row_bytes, row_bytes);
}

static int take_rows(const struct scratch *s, const struct rows *r, uint32_t first, uint32_t n,
                     float *out)
{
    if (r->dtype == CAIRN_I8)
        return take_int8(s, r, first, n, out);
    take_plain(r, first, n, s->plain);
    return s->ops->convert(&s->exec, s->plain, r->dtype, (size_t)n * r->width, CAIRN_F32, out);
}

/* Rows first .. first + n - 1 of those that are kept, to out [n][width] of a plain type; n: few enough for the scratch. */
static int copy_block(const struct scratch *s, const struct rows *r, uint32_t first, uint32_t n,
                      uint32_t dtype, uint8_t *out)
{
    if (r->dtype == dtype && dtype != CAIRN_I8) {
        take_plain(r, first, n, out);
        return 0;
    }
    int status = take_rows(s, r, first, n, s->f32);
    return status != 0 ? status
                       : s->ops->convert(&s->exec, s->f32, CAIRN_F32, (size_t)n * r->width, dtype, out);
}

/* The same for any n. follow: all before these rows is final, so the sum goes with the copy. */
static int copy_rows(struct scratch *s, const struct rows *r, uint32_t n, uint32_t dtype, int follow,
                     uint8_t *out)
{
    size_t row_bytes = (size_t)r->width * cairn_dtype_bytes(dtype);
    uint32_t step = SCRATCH / r->width < BLOCK ? SCRATCH / r->width : BLOCK;
    for (uint32_t done = 0; done < n; done += step) {
        uint32_t m = n - done < step ? n - done : step;
        int status = copy_block(s, r, done, m, dtype, out + done * row_bytes);
        if (status != 0)
            return status;
        if (follow)
            sum_to(s, out + (done + m) * row_bytes);
    }
    return 0;
}

/* The same to int8, K's way (a scale per channel and block of 64 rows) or per row and group. */
static int quantise_rows(const struct scratch *s, const struct rows *r, uint32_t first, uint32_t n,
                         uint32_t group, int8_t *q, uint16_t *scale)
{
    uint32_t step = SCRATCH / r->width < BLOCK ? SCRATCH / r->width : BLOCK;
    for (uint32_t done = 0; done < n; done += step) {
        uint32_t m = n - done < step ? n - done : step;
        int8_t *to = q + (size_t)done * r->width;
        int status = take_rows(s, r, first + done, m, s->f32);
        if (status == 0 && group == 0)
            status = s->ops->quant_k(&s->exec, s->f32, m, r->width, to,
                                     scale + (size_t)(done / BLOCK) * r->width);
        else if (status == 0)
            status = s->ops->quant_rows(&s->exec, s->f32, m, r->width, group, to,
                                        scale + (size_t)done * (r->width / group));
        if (status != 0)
            return status;
    }
    return 0;
}

/* Zeroes the last 64 bytes of a part before it is written: what stays zero is its padding. */
static void pad(uint8_t *out, uint64_t off, uint64_t bytes)
{
    if (bytes == 0)
        return;
    uint64_t end = (off + bytes + CAIRN_ALIGN - 1) & ~(uint64_t)(CAIRN_ALIGN - 1);
    memset(out + end - CAIRN_ALIGN, 0, CAIRN_ALIGN);
}

static void write_positions(uint8_t *out, uint64_t off, const int32_t *pos, const uint32_t *index,
                            uint32_t n)
{
    pad(out, off, n * sizeof *pos);
    int32_t *to = (int32_t *)(void *)(out + off);
    for (uint32_t i = 0; i < n; i++)
        to[i] = pos[index != NULL ? index[i] : i];
}

static void pad_head(const struct crn_gather_kv *g, const struct crn_head_parts *p)
{
    uint64_t dh = g->dst.head_dim, item = cairn_dtype_bytes(g->dst.dtype);
    pad(g->out, p->k_wide, p->n_wide * dh * 2);
    pad(g->out, p->v_wide, p->n_wide * dh * 2);
    pad(g->out, p->k, p->n * dh * item);
    pad(g->out, p->v, p->n * dh * item);
    if (g->dst.dtype != CAIRN_I8)
        return;
    pad(g->out, p->k_scale, (p->n + BLOCK - 1) / BLOCK * dh * 2);
    pad(g->out, p->v_scale, (uint64_t)p->n * 2);
}

static int write_part(struct scratch *s, const struct crn_gather_kv *g,
                      const struct crn_head_parts *p, const struct rows *r, int is_v)
{
    uint8_t *wide = g->out + (is_v ? p->v_wide : p->k_wide);
    uint8_t *main_rows = g->out + (is_v ? p->v : p->k);
    if (g->dst.dtype != CAIRN_I8)
        return copy_rows(s, r, p->n, g->dst.dtype, 1, main_rows);
    int status = copy_rows(s, r, p->n_wide, CAIRN_F16, 0, wide);
    if (status != 0)
        return status;
    uint16_t *scale = (uint16_t *)(void *)(g->out + (is_v ? p->v_scale : p->k_scale));
    return quantise_rows(s, r, p->n_wide, p->n, is_v ? g->dst.head_dim : 0,
                         (int8_t *)main_rows, scale);
}

static int write_head(struct scratch *s, const struct crn_gather_kv *g,
                      const struct crn_head_parts *p, const struct crn_gather_head *h)
{
    uint32_t dh = g->dst.head_dim;
    struct rows k = {.dtype = g->src_dtype, .width = dh, .at = h->k, .wide = h->k_wide,
                     .n_wide = h->n_wide, .scale = h->k_scale, .scale_block = BLOCK, .group = 1,
                     .index = h->index};
    struct rows v = {.dtype = g->src_dtype, .width = dh, .at = h->v, .wide = h->v_wide,
                     .n_wide = h->n_wide, .scale = h->v_scale, .scale_block = 1, .group = dh,
                     .index = h->index};
    pad_head(g, p);
    int status = write_part(s, g, p, &k, 0);
    return status == 0 ? write_part(s, g, p, &v, 1) : status;
}

/* Where a head's parts begin; 0 when it has none. */
static uint64_t first_part(const struct crn_head_parts *p)
{
    return p->k_wide != 0 ? p->k_wide : p->k;
}

int crn_gather_kv(const struct crn_gather_kv *g)
{
    struct crn_head_parts parts[CAIRN_MAX_KV_HEADS];
    struct scratch s;
    uint64_t bytes;
    int status = crn_layout_kv(&g->dst, parts, &bytes);
    if (status == 0)
        status = scratch_open(&s);
    if (status != 0)
        return status;
    s.sum = g->sum;
    s.summed_to = g->out;
    for (uint32_t h = 0; h < (g->dst.shared_pos ? 1u : g->dst.n_kv_heads); h++)
        write_positions(g->out, parts[h].pos, g->heads[h].pos, g->heads[h].index, g->dst.n[h]);
    for (uint32_t h = 0; h < g->dst.n_kv_heads && status == 0; h++) {
        status = write_head(&s, g, &parts[h], &g->heads[h]);
        if (status == 0)
            sum_to(&s, g->out + (h + 1 < g->dst.n_kv_heads ? first_part(&parts[h + 1]) : bytes));
    }
    free(s.f32);
    return status;
}

/* Does any kept row leave f16's range? */
static int overflows(const struct scratch *s, const struct rows *r, uint32_t n, int *out_over)
{
    uint32_t step = SCRATCH / r->width < BLOCK ? SCRATCH / r->width : BLOCK;
    *out_over = 0;
    for (uint32_t done = 0; done < n && !*out_over; done += step) {
        uint32_t m = n - done < step ? n - done : step;
        int status = take_rows(s, r, done, m, s->f32);
        if (status != 0)
            return status;
        for (size_t i = 0; i < (size_t)m * r->width; i++)
            *out_over |= fabsf(s->f32[i]) > F16_MAX;
    }
    return 0;
}

static int write_state(struct scratch *s, const struct crn_gather_state *g,
                       const struct rows *r, uint32_t dtype)
{
    struct crn_state_parts parts;
    uint64_t bytes, item = cairn_dtype_bytes(dtype);
    int status = crn_layout_state(dtype, g->n, g->hidden, &parts, &bytes);
    if (status != 0)
        return status;
    write_positions(g->out, parts.pos, g->pos, g->index, g->n);
    pad(g->out, parts.rows, (uint64_t)g->n * g->hidden * item);
    if (dtype != CAIRN_I8)
        return copy_rows(s, r, g->n, dtype, 0, g->out + parts.rows);
    pad(g->out, parts.scale, (uint64_t)g->n * (g->hidden / STATE_GROUP) * 2);
    return quantise_rows(s, r, 0, g->n, STATE_GROUP, (int8_t *)(g->out + parts.rows),
                         (uint16_t *)(void *)(g->out + parts.scale));
}

int crn_gather_state(const struct crn_gather_state *g, uint32_t *out_dtype)
{
    struct scratch s;
    struct rows r = {.dtype = g->src_dtype, .width = g->hidden, .at = g->rows, .scale = g->scale,
                     .scale_block = 1, .group = STATE_GROUP, .index = g->index};
    int status = scratch_open(&s), over = 0;
    if (status != 0)
        return status;
    uint32_t dtype = g->dst_dtype;
    if (dtype == CAIRN_F16 && g->src_dtype != CAIRN_F16)
        status = overflows(&s, &r, g->n, &over);
    dtype = over ? CAIRN_BF16 : dtype;
    if (status == 0)
        status = write_state(&s, g, &r, dtype);
    free(s.f32);
    if (status == 0)
        *out_dtype = dtype;
    return status;
}

int crn_gather_from_payload(const struct crn_kv_spec *spec, const uint8_t *base,
                            struct crn_gather_head *out_heads)
{
    struct crn_head_parts parts[CAIRN_MAX_KV_HEADS];
    uint64_t bytes;
    int status = crn_layout_kv(spec, parts, &bytes);
    if (status != 0)
        return status;
    for (uint32_t h = 0; h < spec->n_kv_heads; h++) {
        const struct crn_head_parts *p = &parts[h];
        out_heads[h] = (struct crn_gather_head){
            .k = base + p->k,
            .v = base + p->v,
            .k_wide = base + p->k_wide,
            .v_wide = base + p->v_wide,
            .k_scale = (const uint16_t *)(const void *)(base + p->k_scale),
            .v_scale = (const uint16_t *)(const void *)(base + p->v_scale),
            .n = p->n,
            .n_wide = p->n_wide,
            .pos = (const int32_t *)(const void *)(base + p->pos),
        };
    }
    return 0;
}
