/* Attention over spans, and the scores that fall out of it, one KV head and one chunk of queries at a time:
 *
 *     S [group][queries][keys of all spans] = scale Q K^T     cuBLAS, one strided batch over the group per span
 *     -inf where a key's position is after the query's, or the query is outside the span's range
 *     P = softmax(S)                                           rows over all spans together
 *     out = sum over spans of P V                              cuBLAS again; scores: reduce P instead
 *
 * f16 and bf16 spans are multiplied as they are: the queries and P are rounded to the span's type, sums are f32. int8 spans are
 * decoded to f32 in the workspace first. The chunk is as large as the workspace allows.
 *
 * P is 0 where a key is not visible, and 0 times an infinity or a NaN among the *values* of invisible keys is NaN: unlike the
 * definition, values of all keys of a span must be finite. */
#include "kernels/cuda/internal.h"

#include "kernels/shape.h"

#include <string.h>

/* The workspace, cut from the front in steps of 256 bytes. */
struct room {
    char *at;
    size_t left;
};

static void *take(struct room *r, size_t bytes)
{
    size_t rounded = (bytes + 255) / 256 * 256;
    if (rounded > r->left || rounded < bytes)
        return NULL;
    void *p = r->at;
    r->at += rounded;
    r->left -= rounded;
    return p;
}

/* One KV head: what its queries see. */
struct work {
    const struct crn_exec *e;
    const struct crn_cuda_exec *x;
    const struct crn_attention *a;
    uint32_t head, group;
    size_t columns;     /* keys of all spans */
    size_t widest;      /* keys of the largest span */
    uint32_t first, n_q; /* chunk */
    float *s;           /* [group][n_q][columns] */
    void *narrow_q;     /* [group][n_q][dh], 16 bits */
    void *narrow_p;     /* [group][n_q][widest], 16 bits */
    float *wide;        /* [widest][dh], decoded int8 */
};

static const struct crn_kv_head *keys_of(const struct work *w, uint32_t span)
{
    return &w->a->spans[span].heads[w->head];
}

static size_t bytes_per_query(const struct work *w)
{
    size_t dh = w->a->head_dim;
    return w->group * (w->columns * sizeof(float) + (w->widest + dh) * sizeof(uint16_t)) + 16;
}

/* Sizes the chunk: fixed parts first, then as many queries as fit. */
static int plan(struct work *w, int decodes)
{
    size_t slack = (size_t)4 * 256;
    w->columns = w->widest = 0;
    for (uint32_t i = 0; i < w->a->n_spans; i++) {
        size_t n = keys_of(w, i)->n;
        w->columns += n;
        w->widest = n > w->widest ? n : w->widest;
    }
    size_t fixed = decodes ? w->widest * w->a->head_dim * sizeof(float) : 0;
    if (fixed + slack + bytes_per_query(w) > w->e->workspace_bytes)
        return CAIRN_E_TOO_BIG;
    size_t fit = (w->e->workspace_bytes - fixed - slack) / bytes_per_query(w), rows = (size_t)1 << 30;
    fit = fit < w->a->n_q ? fit : w->a->n_q;
    w->n_q = (uint32_t)(fit < rows / w->group ? fit : rows / w->group);
    return 0;
}

static int lay_out(struct work *w, int decodes)
{
    struct room r = { w->e->workspace, w->e->workspace_bytes };
    size_t rows = (size_t)w->group * w->n_q;
    w->wide = take(&r, decodes ? w->widest * w->a->head_dim * sizeof(float) : 0);
    w->s = take(&r, rows * w->columns * sizeof(float));
    w->narrow_q = take(&r, rows * w->a->head_dim * sizeof(uint16_t));
    w->narrow_p = take(&r, rows * w->widest * sizeof(uint16_t));
    return w->narrow_p != NULL ? 0 : CAIRN_E_TOO_BIG;
}

/* Queries of the chunk that see the span: [*begin, *end). */
static void overlap(const struct work *w, const struct crn_span *s, uint32_t *begin, uint32_t *end)
{
    uint32_t last = w->first + w->n_q;
    *begin = s->q_begin > w->first ? s->q_begin - w->first : 0;
    *end = s->q_end < last ? (s->q_end > w->first ? s->q_end - w->first : 0) : w->n_q;
    if (*begin >= *end)
        *begin = *end = 0;
}

/* Keys (or values) of the span as something cuBLAS multiplies; decodes int8 on the way. */
static int operand(const struct work *w, uint32_t span, int values, const void **out_rows, uint32_t *out_dtype)
{
    const struct crn_span *s = &w->a->spans[span];
    const struct crn_kv_head *h = keys_of(w, span);
    size_t dh = w->a->head_dim;
    *out_dtype = s->dtype == CAIRN_I8 ? (uint32_t)CAIRN_F32 : s->dtype;
    *out_rows = values ? h->v : h->k;
    if (s->dtype != CAIRN_I8)
        return 0;
    *out_rows = w->wide;
    int error = values ? crn_cuda_dequant_rows(w->x->stream, h->v, h->v_scale, h->n * dh, dh, w->wide)
                       : crn_cuda_dequant_k(w->x->stream, h->k, h->k_scale, h->n, dh, w->wide);
    return crn_cuda_status(error, "decode int8");
}

static struct crn_cuda_columns columns_at(const struct work *w, uint32_t span, size_t offset)
{
    const struct crn_kv_head *h = keys_of(w, span);
    struct crn_cuda_columns c = { .s = w->s + offset, .ld = w->columns, .group = w->group, .n_q = w->n_q, .n = h->n,
                                  .pos = h->pos, .q_pos = w->a->q_pos + w->first };
    overlap(w, &w->a->spans[span], &c.q_begin, &c.q_end);
    return c;
}

/* The chunk's queries of this group in the type of the span: in place for f32, else gathered to [group][n_q][dh]. */
static int queries(const struct work *w, uint32_t dtype, struct crn_cuda_product *p)
{
    size_t dh = w->a->head_dim, row = (size_t)w->a->n_heads * dh;
    const float *q = w->a->q + w->first * row + (size_t)w->head * w->group * dh;
    p->a = q;
    p->lda = row;
    p->stride_a = dh;
    if (dtype == CAIRN_F32)
        return 0;
    struct crn_cuda_columns c = { .s = (float *)(uintptr_t)q, .ld = row, .group = w->group, .n_q = w->n_q,
                                  .n = (uint32_t)dh };
    p->a = w->narrow_q;
    p->lda = dh;
    p->stride_a = (size_t)w->n_q * dh;
    return crn_cuda_status(crn_cuda_narrow_queries(w->x->stream, &c, dtype, w->narrow_q), "narrow queries");
}

static int scores_of_span(const struct work *w, uint32_t span, size_t offset)
{
    const void *rows = NULL;
    uint32_t dtype = 0;
    struct crn_cuda_columns c = columns_at(w, span, offset);
    struct crn_cuda_product p = { .n = c.n, .k = w->a->head_dim, .ldb = w->a->head_dim, .ldc = w->columns,
                                  .stride_c = (size_t)w->n_q * w->columns, .batch = w->group, .b_by_rows = 1,
                                  .alpha = w->a->scale };
    if (c.n == 0)
        return 0;
    if (c.q_begin < c.q_end) {
        int status = operand(w, span, 0, &rows, &dtype);
        if (status == 0)
            status = queries(w, dtype, &p);
        if (status != 0)
            return status;
        p.b = rows;
        p.dtype = dtype;
        p.m = c.q_end - c.q_begin;
        p.a = (const char *)p.a + c.q_begin * p.lda * cairn_dtype_bytes(dtype);
        p.c = c.s + c.q_begin * w->columns;
        status = crn_cuda_multiply(w->x, &p);
        if (status != 0)
            return status;
    }
    return crn_cuda_status(crn_cuda_mask(w->x->stream, &c), "mask");
}

/* P of the chunk. */
static int probabilities(const struct work *w)
{
    size_t offset = 0;
    for (uint32_t i = 0; i < w->a->n_spans; i++) {
        int status = scores_of_span(w, i, offset);
        if (status != 0)
            return status;
        offset += keys_of(w, i)->n;
    }
    return crn_cuda_status(crn_cuda_softmax(w->x->stream, w->s, (size_t)w->group * w->n_q, w->columns), "softmax");
}

static int values_of_span(const struct work *w, uint32_t span, size_t offset, float *out)
{
    size_t dh = w->a->head_dim, row = (size_t)w->a->n_heads * dh;
    struct crn_cuda_columns c = columns_at(w, span, offset);
    struct crn_cuda_product p = { .n = dh, .k = c.n, .a = c.s, .lda = w->columns, .ldb = dh, .ldc = row,
                                  .stride_a = (size_t)w->n_q * w->columns, .stride_c = dh, .batch = w->group,
                                  .alpha = 1.0f, .beta = 1.0f };
    const void *rows = NULL;
    if (c.n == 0 || c.q_begin == c.q_end)
        return 0;
    int status = operand(w, span, 1, &rows, &p.dtype);
    if (status == 0 && p.dtype != CAIRN_F32) {
        status = crn_cuda_status(crn_cuda_narrow(w->x->stream, &c, p.dtype, w->narrow_p), "narrow");
        p.a = w->narrow_p;
        p.lda = c.n;
        p.stride_a = (size_t)w->n_q * c.n;
    }
    if (status != 0)
        return status;
    p.b = rows;
    p.m = c.q_end - c.q_begin;
    p.a = (const char *)p.a + c.q_begin * p.lda * cairn_dtype_bytes(p.dtype);
    p.c = out + (w->first + c.q_begin) * row + (size_t)w->head * w->group * dh;
    return crn_cuda_multiply(w->x, &p);
}

static int values(const struct work *w, float *out)
{
    size_t offset = 0;
    for (uint32_t i = 0; i < w->a->n_spans; i++) {
        int status = values_of_span(w, i, offset, out);
        if (status != 0)
            return status;
        offset += keys_of(w, i)->n;
    }
    return 0;
}

static int has_int8(const struct crn_attention *a)
{
    for (uint32_t i = 0; i < a->n_spans; i++)
        if (a->spans[i].dtype == CAIRN_I8)
            return 1;
    return 0;
}

/* Runs `each` with the probabilities of every chunk of every KV head. */
static int for_chunks(const struct crn_exec *e, const struct crn_cuda_exec *x, const struct crn_attention *a,
                      int (*each)(const struct work *w, void *context), void *context)
{
    for (uint32_t g = 0; g < a->n_kv_heads; g++) {
        struct work w = { .e = e, .x = x, .a = a, .head = g, .group = a->n_heads / a->n_kv_heads };
        int status = plan(&w, has_int8(a));
        uint32_t chunk = w.n_q;
        for (w.first = 0; status == 0 && w.first < a->n_q && w.columns > 0; w.first += chunk) {
            w.n_q = a->n_q - w.first < chunk ? a->n_q - w.first : chunk;
            status = lay_out(&w, has_int8(a));
            if (status == 0)
                status = probabilities(&w);
            if (status == 0)
                status = each(&w, context);
        }
        if (status != 0)
            return status;
    }
    return 0;
}

static int add_values(const struct work *w, void *context)
{
    return values(w, context);
}

int crn_cuda_attention(const struct crn_exec *e, const struct crn_attention *a, float *out)
{
    struct crn_cuda_exec *x;
    int status = a->lse != NULL ? CAIRN_E_ARG : crn_check_attention(a);
    if (status == 0)
        status = crn_cuda_enter(e, &x);
    size_t bytes = (size_t)a->n_q * a->n_heads * a->head_dim * sizeof *out;
    if (status == 0 && bytes != 0)
        status = crn_cuda_status((int)cudaMemsetAsync(out, 0, bytes, x->stream), "cudaMemsetAsync");
    return status != 0 ? status : for_chunks(e, x, a, add_values, out);
}

/* --- scores --- */

struct scoring {
    const struct crn_scores *s;
    float *out;
};

static size_t scores_begin(const struct crn_scores *s, uint32_t kv_head)
{
    const struct crn_kv_head *heads = s->attention.spans[s->target].heads;
    if (s->reduce == CRN_REDUCE_MEAN_ALL)
        return kv_head < s->attention.n_kv_heads ? 0 : heads[0].n;
    size_t begin = 0;
    for (uint32_t g = 0; g < kv_head; g++)
        begin += heads[g].n;
    return begin;
}

static int add_scores(const struct work *w, void *context)
{
    const struct scoring *c = context;
    const struct crn_scores *s = c->s;
    size_t offset = 0;
    for (uint32_t i = 0; i < s->target; i++)
        offset += keys_of(w, i)->n;
    uint32_t queries_in_all = s->total_queries != 0 ? s->total_queries : w->a->n_q;
    uint32_t heads = s->reduce == CRN_REDUCE_MEAN_ALL ? w->a->n_heads : w->group;
    struct crn_cuda_columns columns = columns_at(w, s->target, offset);
    struct crn_cuda_reduction r = { .q_weight = s->q_weight != NULL ? s->q_weight + w->first : NULL,
                                    .divisor = (float)queries_in_all * (float)heads,
                                    .maximum = s->reduce == CRN_REDUCE_KV_MAX };
    return crn_cuda_status(crn_cuda_reduce(w->x->stream, &columns, &r, c->out + scores_begin(s, w->head)), "reduce");
}

int crn_cuda_scores(const struct crn_exec *e, const struct crn_scores *s, float *out)
{
    struct crn_cuda_exec *x;
    struct scoring context = { s, out };
    int status = s->attention.lse != NULL ? CAIRN_E_ARG : crn_check_scores(s);
    if (status == 0)
        status = crn_cuda_enter(e, &x);
    if (status != 0)
        return status;
    size_t bytes = scores_begin(s, s->attention.n_kv_heads) * sizeof *out;
    if (!s->accumulate && bytes != 0)
        status = crn_cuda_status((int)cudaMemsetAsync(out, 0, bytes, x->stream), "cudaMemsetAsync");
    return status != 0 ? status : for_chunks(e, x, &s->attention, add_scores, &context);
}
