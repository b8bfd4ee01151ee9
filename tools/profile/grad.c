/* Forward, the engine's own kernels; attention alone is done here (attend.h), because its derivative wants keys in float32. Back,
 * every product with W^T becomes one with W, cut into rows for the pool's threads. */
#include "tools/profile/grad.h"

#include "tools/profile/linalg.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- tapes ---- */

static int tape_init(struct crn_tape *t, const struct crn_model_shape *s, uint32_t n, int keys_only)
{
    size_t kv = (size_t)s->n_kv_heads * s->head_dim, q = (size_t)s->n_heads * s->head_dim;
    float **parts[] = {&t->in, &t->k, &t->v, &t->dk, &t->dv, &t->q, &t->att, &t->mid, &t->gate, &t->up};
    const size_t sizes[] = {s->hidden, kv, kv, kv, kv, q, q, s->hidden, s->ffn, s->ffn};
    size_t count = keys_only ? 5 : sizeof sizes / sizeof *sizes, total = 0;
    for (size_t i = 0; i < count; i++)
        total += n * sizes[i];
    *t = (struct crn_tape){.n = n, .memory = malloc(total * sizeof(float) + 1)};
    if (t->memory == NULL)
        return -ENOMEM;
    float *at = t->memory;
    for (size_t i = 0; i < count; i++) {
        *parts[i] = at;
        at += n * sizes[i];
    }
    memset(t->dk, 0, 2 * n * kv * sizeof *t->dk);
    return 0;
}

void crn_tape_free(struct crn_tape *t)
{
    free(t->memory);
    *t = (struct crn_tape){0};
}

struct crn_keys crn_tape_keys(const struct crn_tape *t, const struct crn_model_shape *s)
{
    return (struct crn_keys){t->k, t->v, (size_t)s->n_kv_heads * s->head_dim, s->head_dim, t->n};
}

/* ---- forward ---- */

static struct crn_attend attend_of(const struct crn_grad *g, const struct crn_tape *t)
{
    const struct crn_model_shape *s = &g->engine->weights->shape;
    return (struct crn_attend){.pool = g->engine->exec.pool,
                               .n_heads = s->n_heads,
                               .n_kv_heads = s->n_kv_heads,
                               .head_dim = s->head_dim,
                               .n = g->n,
                               .q = t->q,
                               .k = t->k,
                               .v = t->v,
                               .before = g->before,
                               .parts = g->parts,
                               .n_parts = g->n_parts};
}

/* x [n][d]: rows after the norm, for what follows. */
static int keys(const struct crn_grad *g, const float *h, struct crn_tape *t, float *x)
{
    const struct crn_engine *e = g->engine;
    const struct crn_model_shape *s = &e->weights->shape;
    const struct crn_layer_weights *w = &e->weights->layers[g->layer];
    struct crn_rope rope = {e->inv_freq, s->head_dim};
    memcpy(t->in, h, (size_t)g->n * s->hidden * sizeof *h);
    int status = e->ops->rmsnorm(&e->exec, h, w->attn_norm, g->n, s->hidden, s->norm_eps, x);
    if (status == 0)
        status = e->ops->gemm(&e->exec, x, g->n, &w->wk, 0.0f, t->k);
    if (status == 0)
        status = e->ops->gemm(&e->exec, x, g->n, &w->wv, 0.0f, t->v);
    return status != 0 ? status : e->ops->rope(&e->exec, &rope, g->pos, g->n, s->n_kv_heads, t->k);
}

static int is_float32(const struct crn_engine *e)
{
    return e->weights->layers[0].wq.type == CRN_W_F32 && e->weights->output.type == CRN_W_F32;
}

static int begin(const struct crn_grad *g, struct crn_tape *t, int keys_only, float **out_x)
{
    const struct crn_model_shape *s = &g->engine->weights->shape;
    *t = (struct crn_tape){0};
    *out_x = NULL;
    if (!is_float32(g->engine))
        return CAIRN_E_UNSUPPORTED;
    *out_x = malloc((size_t)g->n * (s->hidden > s->ffn ? s->hidden : s->ffn) * sizeof **out_x);
    return *out_x != NULL ? tape_init(t, s, g->n, keys_only) : -ENOMEM;
}

int crn_grad_keys(const struct crn_grad *g, const float *h, struct crn_tape *out_tape)
{
    float *x;
    int status = begin(g, out_tape, 1, &x);
    if (status == 0)
        status = keys(g, h, out_tape, x);
    free(x);
    return status;
}

int crn_grad_layer(const struct crn_grad *g, float *h, struct crn_tape *out_tape)
{
    const struct crn_engine *e = g->engine;
    const struct crn_model_shape *s = &e->weights->shape;
    const struct crn_layer_weights *w = &e->weights->layers[g->layer];
    struct crn_rope rope = {e->inv_freq, s->head_dim};
    struct crn_tape *t = out_tape;
    float *x;
    int status = begin(g, t, 0, &x);
    if (status == 0)
        status = keys(g, h, t, x);
    if (status == 0)
        status = e->ops->gemm(&e->exec, x, g->n, &w->wq, 0.0f, t->q);
    if (status == 0)
        status = e->ops->rope(&e->exec, &rope, g->pos, g->n, s->n_heads, t->q);
    struct crn_attend attention = attend_of(g, t);
    if (status == 0)
        status = crn_attend(&attention, t->att);
    if (status == 0)
        status = e->ops->gemm(&e->exec, t->att, g->n, &w->wo, 1.0f, h);
    if (status == 0) {
        memcpy(t->mid, h, (size_t)g->n * s->hidden * sizeof *h);
        status = e->ops->rmsnorm(&e->exec, h, w->ffn_norm, g->n, s->hidden, s->norm_eps, x);
    }
    if (status == 0)
        status = e->ops->gemm(&e->exec, x, g->n, &w->w_gate, 0.0f, t->gate);
    if (status == 0)
        status = e->ops->gemm(&e->exec, x, g->n, &w->w_up, 0.0f, t->up);
    if (status == 0)
        status = e->ops->swiglu(&e->exec, t->gate, t->up, (size_t)g->n * s->ffn, x);
    if (status == 0)
        status = e->ops->gemm(&e->exec, x, g->n, &w->w_down, 1.0f, h);
    free(x);
    return status;
}

/* ---- back ---- */

struct rows {
    const struct crn_matrix *w;
    const float *dy, *x, *gain;
    float *out, *gate, *up;
    size_t n, d, chunk;
    float keep, eps;
};

static size_t rows_of(const struct rows *r, size_t task, size_t *out_first)
{
    *out_first = task * r->chunk;
    return r->n - *out_first < r->chunk ? r->n - *out_first : r->chunk;
}

static void share_out(const struct crn_engine *e, crn_pool_fn *fn, struct rows *r)
{
    size_t threads = crn_pool_threads(e->exec.pool);
    r->chunk = (r->n + threads - 1) / threads;
    if (r->n > 0)
        crn_pool_run(e->exec.pool, fn, r, (r->n + r->chunk - 1) / r->chunk);
}

static void product_rows(void *ctx, size_t task, unsigned thread)
{
    const struct rows *r = ctx;
    size_t first, n = rows_of(r, task, &first);
    (void)thread;
    crn_linalg_float(&(struct crn_product){.a = r->dy + first * r->w->rows,
                                           .b = r->w->data,
                                           .c = r->out + first * r->w->cols,
                                           .m = n,
                                           .n = r->w->cols,
                                           .k = r->w->rows,
                                           .lda = r->w->rows,
                                           .ldb = r->w->cols,
                                           .ldc = r->w->cols,
                                           .scale = 1.0f,
                                           .keep = r->keep});
}

/* dx [n][cols] = keep * dx + dy [n][rows] . W */
static void product_back(const struct crn_engine *e, const float *dy, size_t n, const struct crn_matrix *w, float keep, float *dx)
{
    share_out(e, product_rows, &(struct rows){.w = w, .dy = dy, .out = dx, .n = n, .keep = keep});
}

/* y = r x g with r = 1 / sqrt(mean(x^2) + eps): dx = r (g dy) - x r^3 mean(g dy x). */
static void norm_rows(void *ctx, size_t task, unsigned thread)
{
    const struct rows *s = ctx;
    size_t first, n = rows_of(s, task, &first);
    (void)thread;
    for (size_t i = first; i < first + n; i++) {
        const float *x = s->x + i * s->d, *dy = s->dy + i * s->d;
        float *dx = s->out + i * s->d;
        double squares = 0, dot = 0;
        for (size_t c = 0; c < s->d; c++) {
            squares += (double)x[c] * (double)x[c];
            dot += (double)(s->gain[c] * dy[c]) * (double)x[c];
        }
        double r = 1 / sqrt(squares / (double)s->d + (double)s->eps), pull = r * r * r * dot / (double)s->d;
        for (size_t c = 0; c < s->d; c++)
            dx[c] += (float)(r * (double)(s->gain[c] * dy[c]) - pull * (double)x[c]);
    }
}

/* dh += the norm's derivative. */
static void norm_back(const struct crn_engine *e, const float *x, const float *gain, const float *dy, size_t n, float *dh)
{
    const struct crn_model_shape *s = &e->weights->shape;
    share_out(e, norm_rows, &(struct rows){.x = x, .gain = gain, .dy = dy, .out = dh, .n = n, .d = s->hidden, .eps = s->norm_eps});
}

/* a = silu(gate) up: gate and up become their derivatives. */
static void swiglu_rows(void *ctx, size_t task, unsigned thread)
{
    const struct rows *r = ctx;
    size_t first, n = rows_of(r, task, &first);
    (void)thread;
    for (size_t i = first * r->d; i < (first + n) * r->d; i++) {
        float gate = r->gate[i], up = r->up[i], da = r->dy[i], sigmoid = 1.0f / (1.0f + expf(-gate));
        r->gate[i] = da * up * sigmoid * (1.0f + gate * (1.0f - sigmoid));
        r->up[i] = da * gate * sigmoid;
    }
}

static void mlp_back(const struct crn_grad *g, struct crn_tape *t, float *wide, float *dx, float *dh)
{
    const struct crn_engine *e = g->engine;
    const struct crn_layer_weights *w = &e->weights->layers[g->layer];
    product_back(e, dh, g->n, &w->w_down, 0.0f, wide);
    share_out(e, swiglu_rows, &(struct rows){.dy = wide, .gate = t->gate, .up = t->up, .n = g->n, .d = e->weights->shape.ffn});
    product_back(e, t->gate, g->n, &w->w_gate, 0.0f, dx);
    product_back(e, t->up, g->n, &w->w_up, 1.0f, dx);
    norm_back(e, t->mid, w->ffn_norm, dx, g->n, dh);
}

/* A rotation's derivative is the rotation back: by minus the position. */
static int turn_back(const struct crn_grad *g, size_t heads, float *x)
{
    const struct crn_engine *e = g->engine;
    struct crn_rope rope = {e->inv_freq, e->weights->shape.head_dim};
    int32_t *minus = malloc(g->n * sizeof *minus + 1);
    if (minus == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < g->n; i++)
        minus[i] = -g->pos[i];
    int status = e->ops->rope(&e->exec, &rope, minus, g->n, heads, x);
    free(minus);
    return status;
}

/* dx [n][d] = keep * dx + what the rows' own keys say. */
static int keys_back(const struct crn_grad *g, struct crn_tape *t, float keep, float *dx)
{
    const struct crn_layer_weights *w = &g->engine->weights->layers[g->layer];
    int status = turn_back(g, g->engine->weights->shape.n_kv_heads, t->dk);
    product_back(g->engine, t->dk, g->n, &w->wk, keep, dx);
    product_back(g->engine, t->dv, g->n, &w->wv, 1.0f, dx);
    return status;
}

static int attention_back(const struct crn_grad *g, struct crn_tape *t, float *wide, float *dx, float *dh)
{
    const struct crn_engine *e = g->engine;
    const struct crn_model_shape *s = &e->weights->shape;
    const struct crn_layer_weights *w = &e->weights->layers[g->layer];
    struct crn_attend attention = attend_of(g, t);
    float *d_att = wide, *dq = wide + (size_t)g->n * s->n_heads * s->head_dim;
    struct crn_attend_back back = {.out = t->att, .d_out = d_att, .dq = dq, .dk = t->dk, .dv = t->dv};
    if (g->of_before != NULL) {
        back.before_dk = g->of_before->dk;
        back.before_dv = g->of_before->dv;
    }
    product_back(e, dh, g->n, &w->wo, 0.0f, d_att);
    int status = crn_attend_back(&attention, &back);
    if (status == 0)
        status = turn_back(g, s->n_heads, dq);
    product_back(e, dq, g->n, &w->wq, 0.0f, dx);
    if (status == 0)
        status = keys_back(g, t, 1.0f, dx);
    norm_back(e, t->in, w->attn_norm, dx, g->n, dh);
    return status;
}

int crn_grad_layer_back(const struct crn_grad *g, struct crn_tape *tape, float *dh)
{
    const struct crn_model_shape *s = &g->engine->weights->shape;
    size_t q = (size_t)s->n_heads * s->head_dim, width = 2 * q > s->ffn ? 2 * q : s->ffn;
    float *wide = malloc(g->n * width * sizeof *wide + 1), *dx = malloc((size_t)g->n * s->hidden * sizeof *dx + 1);
    int status = wide != NULL && dx != NULL ? 0 : -ENOMEM;
    if (status == 0) {
        mlp_back(g, tape, wide, dx, dh);
        status = attention_back(g, tape, wide, dx, dh);
    }
    free(wide);
    free(dx);
    return status;
}

int crn_grad_keys_back(const struct crn_grad *g, struct crn_tape *tape, float *dh)
{
    const struct crn_model_shape *s = &g->engine->weights->shape;
    size_t bytes = (size_t)g->n * s->hidden * sizeof *dh;
    float *dx = malloc(bytes + 1);
    if (dx == NULL)
        return -ENOMEM;
    int status = keys_back(g, tape, 0.0f, dx);
    memset(dh, 0, bytes);
    norm_back(g->engine, tape->in, g->engine->weights->layers[g->layer].attn_norm, dx, g->n, dh);
    free(dx);
    return status;
}

int crn_grad_logits_back(struct crn_engine *e, const float *h, uint32_t n, const float *d_logits, float *dh)
{
    size_t bytes = (size_t)n * e->weights->shape.hidden * sizeof *dh;
    float *dx = malloc(bytes + 1);
    if (dx == NULL || !is_float32(e)) {
        free(dx);
        return dx == NULL ? -ENOMEM : CAIRN_E_UNSUPPORTED;
    }
    product_back(e, d_logits, n, &e->weights->output, 0.0f, dx);
    memset(dh, 0, bytes);
    norm_back(e, h, e->weights->output_norm, dx, n, dh);
    free(dx);
    return 0;
}
