/* spans - builds random attention problems. Keys and values are stored by the reference kernels. */
#include "tests/support/spans.h"

#include <math.h>
#include <stdlib.h>

static void *take(size_t n, size_t size)
{
    void *p = calloc(n + 1, size);
    if (p == NULL)
        abort();
    return p;
}

static const void *stored_floats(uint32_t dtype, const float *x, size_t n)
{
    void *out = take(n, sizeof(float));
    if (crn_kernels_ref.convert(NULL, x, CAIRN_F32, n, dtype, out) != 0)
        abort();
    return out;
}

static void store_head(struct crn_kv_head *h, uint32_t dtype, const float *k, const float *v, size_t dh)
{
    if (dtype != CAIRN_I8) {
        h->k = stored_floats(dtype, k, h->n * dh);
        h->v = stored_floats(dtype, v, h->n * dh);
        return;
    }
    int8_t *qk = take(h->n * dh, 1), *qv = take(h->n * dh, 1);
    uint16_t *sk = take((h->n + 63) / 64 * dh, 2), *sv = take(h->n, 2);
    crn_kernels_ref.quant_k(NULL, k, h->n, dh, qk, sk);
    crn_kernels_ref.quant_rows(NULL, v, h->n, dh, dh, qv, sv);
    h->k = qk;
    h->v = qv;
    h->k_scale = sk;
    h->v_scale = sv;
}

static struct crn_kv_head make_head(struct rand *r, uint32_t n, uint32_t dtype, size_t dh)
{
    float *k = take(n * dh, sizeof *k), *v = take(n * dh, sizeof *v);
    int32_t *pos = take(n, sizeof *pos), at = 0;
    rand_fill(r, k, n * dh, 2.0f);
    rand_fill(r, v, n * dh, 1.0f);
    for (uint32_t i = 0; i < n; i++)
        pos[i] = at += (int32_t)rand_below(r, 3); /* equal positions are allowed: ascending, not strictly */
    struct crn_kv_head h = { .pos = pos, .n = n };
    store_head(&h, dtype, k, v, dh);
    free(k);
    free(v);
    return h;
}

static void make_span(struct rand *r, const struct spans_shape *s, uint32_t index, struct crn_span *out)
{
    struct crn_kv_head *heads = take(s->n_kv_heads, sizeof *heads);
    uint32_t dtype = s->dtype != CAIRN_DTYPE_NONE ? s->dtype : CAIRN_F32 + (uint32_t)rand_below(r, 4);
    uint32_t n = index == 0 ? s->max_keys : (uint32_t)rand_below(r, s->max_keys + 1);
    for (uint32_t g = 0; g < s->n_kv_heads; g++) {
        heads[g] = make_head(r, n, dtype, s->head_dim);
        n = s->equal_heads ? n : (uint32_t)rand_below(r, s->max_keys + 1);
    }
    *out = (struct crn_span){ .heads = heads, .dtype = dtype, .q_begin = 0, .q_end = s->n_q };
    if (index > 0 && rand_below(r, 2) == 0) {
        out->q_begin = (uint32_t)rand_below(r, s->n_q + 1);
        out->q_end = out->q_begin + (uint32_t)rand_below(r, s->n_q - out->q_begin + 1);
    }
}

struct spans_case spans_make(struct rand *r, const struct spans_shape *s)
{
    size_t n_floats = (size_t)s->n_q * s->n_heads * s->head_dim;
    struct spans_case c = {
        .spans = take(s->n_spans, sizeof *c.spans),
        .q = take(n_floats, sizeof *c.q),
        .q_pos = take(s->n_q, sizeof *c.q_pos),
    };
    rand_fill(r, c.q, n_floats, 2.0f);
    for (uint32_t i = 0; i < s->n_q; i++)
        c.q_pos[i] = (int32_t)rand_below(r, s->max_keys + 3) - 1; /* some see nothing */
    for (uint32_t i = 0; i < s->n_spans; i++)
        make_span(r, s, i, &c.spans[i]);
    c.a = (struct crn_attention){
        .q = c.q,
        .q_pos = c.q_pos,
        .n_q = s->n_q,
        .n_heads = s->n_heads,
        .n_kv_heads = s->n_kv_heads,
        .head_dim = s->head_dim,
        .scale = 1.0f / sqrtf((float)s->head_dim),
        .spans = c.spans,
        .n_spans = s->n_spans,
    };
    return c;
}

static void free_head(const struct crn_kv_head *h)
{
    free((void *)(uintptr_t)h->k);
    free((void *)(uintptr_t)h->v);
    free((void *)(uintptr_t)h->k_scale);
    free((void *)(uintptr_t)h->v_scale);
    free((void *)(uintptr_t)h->pos);
}

void spans_free(struct spans_case *c)
{
    for (uint32_t i = 0; i < c->a.n_spans; i++) {
        for (uint32_t g = 0; g < c->a.n_kv_heads; g++)
            free_head(&c->spans[i].heads[g]);
        free((void *)(uintptr_t)c->spans[i].heads);
    }
    free(c->spans);
    free(c->q);
    free(c->q_pos);
    *c = (struct spans_case){ 0 };
}
