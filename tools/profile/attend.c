/* One task per query head, in blocks of rows, so that a block's probabilities stay in cache and keys behind it are never touched.
 * Query heads that share a KV head write derivatives of their own, which are summed at the end: no two threads add to one number. */
#include "tools/profile/attend.h"

#include "tools/profile/linalg.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_ROWS 128u

struct job {
    const struct crn_attend *a;
    const struct crn_attend_back *b; /* NULL: forward */
    float *out;
    float *scratch; /* per thread: probabilities and their derivatives [2][BLOCK_ROWS][keys] */
    float *wide;    /* per head: dk, dv of own rows [2][n][dh], then of the keys before [2][before.n][dh] */
    size_t keys;    /* that a row sees at most */
};

/* What one head needs in a block of rows of one part. */
struct block {
    const struct job *j;
    uint32_t head;
    size_t row, rows; /* first row, how many */
    size_t begin;     /* first row of the part: own keys are begin .. row + rows - 1 */
    float *p, *ds;    /* [rows][keys] */
};

static size_t own_keys(const struct block *x)
{
    return x->row + x->rows - x->begin;
}

/* a [rows][keys] . b, or the like, on the two kinds of keys one after the other: before 1: those before, 0: own. */
struct side {
    const float *k, *v;
    size_t ld, n, at; /* numbers between rows of k and v, keys, first column of the block's matrices */
};

static struct side side_of(const struct block *x, int before)
{
    const struct crn_attend *a = x->j->a;
    size_t g = x->head / (a->n_heads / a->n_kv_heads), width = (size_t)a->n_kv_heads * a->head_dim;
    if (before)
        return (struct side){a->before.k + g * a->before.head, a->before.v + g * a->before.head, a->before.row, a->before.n, 0};
    size_t off = x->begin * width + g * a->head_dim;
    return (struct side){a->k + off, a->v + off, width, own_keys(x), a->before.n};
}

/* m [rows][keys] = scale * rows_of [rows][dh] . keys^T */
static void against_keys(const struct block *x, const float *rows_of, float scale, int values, float *m)
{
    const struct crn_attend *a = x->j->a;
    size_t width = (size_t)a->n_heads * a->head_dim;
    for (int before = 0; before < 2; before++) {
        struct side s = side_of(x, before);
        if (s.n == 0)
            continue;
        crn_linalg_float(&(struct crn_product){.a = rows_of + x->row * width + (size_t)x->head * a->head_dim,
                                               .b = values ? s.v : s.k,
                                               .c = m + s.at,
                                               .m = x->rows,
                                               .n = s.n,
                                               .k = a->head_dim,
                                               .lda = width,
                                               .ldb = s.ld,
                                               .ldc = x->j->keys,
                                               .b_turned = 1,
                                               .scale = scale});
    }
}

/* out [rows][dh] of the head = scale * m [rows][keys] . keys */
static void over_keys(const struct block *x, const float *m, float scale, int values, float *out)
{
    const struct crn_attend *a = x->j->a;
    size_t width = (size_t)a->n_heads * a->head_dim;
    for (int before = 1; before >= 0; before--) {
        struct side s = side_of(x, before);
        if (s.n == 0)
            continue;
        crn_linalg_float(&(struct crn_product){.a = m + s.at,
                                               .b = values ? s.v : s.k,
                                               .c = out + x->row * width + (size_t)x->head * a->head_dim,
                                               .m = x->rows,
                                               .n = a->head_dim,
                                               .k = s.n,
                                               .lda = x->j->keys,
                                               .ldb = s.ld,
                                               .ldc = width,
                                               .scale = scale,
                                               .keep = before || a->before.n == 0 ? 0.0f : 1.0f});
    }
}

static float *wide_of(const struct block *x, int before, int values)
{
    const struct crn_attend *a = x->j->a;
    size_t own = (size_t)a->n * a->head_dim, others = x->j->b->before_dk != NULL ? (size_t)a->before.n * a->head_dim : 0;
    float *at = x->j->wide + x->head * 2 * (own + others);
    return before ? at + 2 * own + (values ? others : 0) : at + (values ? own : 0);
}

/* The head's derivatives by keys (or values) += scale * m^T [keys][rows] . rows_of [rows][dh] */
static void to_keys(const struct block *x, const float *m, float scale, int values, const float *rows_of)
{
    const struct crn_attend *a = x->j->a;
    size_t width = (size_t)a->n_heads * a->head_dim;
    for (int before = 0; before < 2; before++) {
        struct side s = side_of(x, before);
        if (s.n == 0 || (before && x->j->b->before_dk == NULL))
            continue;
        crn_linalg_float(&(struct crn_product){.a = m + s.at,
                                               .b = rows_of + x->row * width + (size_t)x->head * a->head_dim,
                                               .c = wide_of(x, before, values) + (before ? 0 : x->begin * a->head_dim),
                                               .m = s.n,
                                               .n = a->head_dim,
                                               .k = x->rows,
                                               .lda = x->j->keys,
                                               .ldb = width,
                                               .ldc = a->head_dim,
                                               .a_turned = 1,
                                               .scale = scale,
                                               .keep = 1.0f});
    }
}

static float scale_of(const struct block *x)
{
    return 1.0f / sqrtf((float)x->j->a->head_dim);
}

/* Keys that row i of the block sees come first in its row of p; what is behind them becomes 0. */
static void probabilities(const struct block *x)
{
    size_t all = x->j->a->before.n + own_keys(x);
    against_keys(x, x->j->a->q, scale_of(x), 0, x->p);
    for (size_t i = 0; i < x->rows; i++) {
        float *p = x->p + i * x->j->keys, max = p[0], sum = 0;
        size_t seen = all - (x->rows - 1 - i);
        for (size_t c = 1; c < seen; c++)
            max = p[c] > max ? p[c] : max;
        for (size_t c = 0; c < seen; c++) {
            p[c] = expf(p[c] - max);
            sum += p[c];
        }
        for (size_t c = 0; c < seen; c++)
            p[c] /= sum;
        memset(p + seen, 0, (all - seen) * sizeof *p);
    }
}

static void back(const struct block *x)
{
    const struct crn_attend *a = x->j->a;
    const struct crn_attend_back *b = x->j->b;
    size_t width = (size_t)a->n_heads * a->head_dim, all = a->before.n + own_keys(x);
    to_keys(x, x->p, 1.0f, 1, b->d_out);
    against_keys(x, b->d_out, 1.0f, 1, x->ds);
    for (size_t i = 0; i < x->rows; i++) {
        size_t at = (x->row + i) * width + (size_t)x->head * a->head_dim;
        float dot = 0, *p = x->p + i * x->j->keys, *ds = x->ds + i * x->j->keys;
        for (size_t c = 0; c < a->head_dim; c++)
            dot += b->d_out[at + c] * b->out[at + c];
        for (size_t c = 0; c < all; c++)
            ds[c] = p[c] * (ds[c] - dot);
    }
    over_keys(x, x->ds, scale_of(x), 0, b->dq);
    to_keys(x, x->ds, scale_of(x), 0, a->q);
}

static void one_head(void *ctx, size_t head, unsigned thread)
{
    const struct job *j = ctx;
    struct block x = {.j = j, .head = (uint32_t)head, .p = j->scratch + thread * 2 * BLOCK_ROWS * j->keys};
    x.ds = x.p + BLOCK_ROWS * j->keys;
    for (uint32_t i = 0; i < j->a->n_parts; i++)
        for (size_t row = j->a->parts[i].begin; row < j->a->parts[i].end; row += BLOCK_ROWS) {
            x.begin = j->a->parts[i].begin;
            x.row = row;
            x.rows = j->a->parts[i].end - row < BLOCK_ROWS ? j->a->parts[i].end - row : BLOCK_ROWS;
            probabilities(&x);
            if (j->b == NULL)
                over_keys(&x, x.p, 1.0f, 1, j->out);
            else
                back(&x);
        }
}

/* to [n][G][dh] += the heads' wide derivatives [n][dh], each by its KV head. */
static void gather(const struct job *j, int before, int values, float *to)
{
    const struct crn_attend *a = j->a;
    size_t n = before ? a->before.n : a->n, group = a->n_heads / a->n_kv_heads;
    for (uint32_t h = 0; h < a->n_heads; h++) {
        struct block x = {.j = j, .head = h};
        const float *from = wide_of(&x, before, values);
        for (size_t i = 0; i < n; i++) {
            float *row = to + (i * a->n_kv_heads + h / group) * a->head_dim;
            for (size_t c = 0; c < a->head_dim; c++)
                row[c] += from[i * a->head_dim + c];
        }
    }
}

static int run(struct job *j)
{
    const struct crn_attend *a = j->a;
    size_t longest = 0, wide = 0;
    for (uint32_t i = 0; i < a->n_parts; i++)
        longest = a->parts[i].end - a->parts[i].begin > longest ? a->parts[i].end - a->parts[i].begin : longest;
    j->keys = a->before.n + longest;
    if (j->b != NULL)
        wide = 2 * (size_t)a->n_heads * a->head_dim * (a->n + (j->b->before_dk != NULL ? a->before.n : 0));
    j->scratch = malloc(crn_pool_threads(a->pool) * 2 * BLOCK_ROWS * j->keys * sizeof *j->scratch);
    j->wide = calloc(wide + 1, sizeof *j->wide);
    int status = j->scratch != NULL && j->wide != NULL ? 0 : -ENOMEM;
    if (status == 0)
        crn_pool_run(a->pool, one_head, j, a->n_heads);
    if (status == 0 && j->b != NULL) {
        gather(j, 0, 0, j->b->dk);
        gather(j, 0, 1, j->b->dv);
    }
    if (status == 0 && j->b != NULL && j->b->before_dk != NULL) {
        gather(j, 1, 0, j->b->before_dk);
        gather(j, 1, 1, j->b->before_dv);
    }
    free(j->scratch);
    free(j->wide);
    return status;
}

int crn_attend(const struct crn_attend *a, float *out)
{
    struct job j = {.a = a, .out = out};
    return run(&j);
}

int crn_attend_back(const struct crn_attend *a, const struct crn_attend_back *b)
{
    struct job j = {.a = a, .b = b};
    return run(&j);
}
