/* ExpectedAttention: future queries are taken for samples of one Gaussian per query head, with mean
 * and covariance of the queries seen so far, turned to the positions that come next. Then the
 * expected weight of a key has a closed form,
 *
 *     E exp(s q.k) = exp(s mu.k + s^2/2 k'Sk),   mu, S: mean and covariance after rotation, s =
 * 1/sqrt(dh)
 *
 * Softmax over the keys, mean over the query heads of a KV head, times the norm of the value. The
 * rotation is the mean one over the next FUTURE positions; mean and covariance come from the last
 * SAMPLE tokens, which are replayed. */
#include "tools/worker/selectors/norms.h"

#include "kernels/memory.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE 256u
#define FUTURE 512u

struct expected {
    const struct crn_select *s;
    size_t dh, group, heads;
    float *cosine, *sine; /* [dh / 2], of the mean rotation */
    void *x, *there;      /* [SAMPLE][hidden], [SAMPLE][H * dh]: in the memory of the exec */
    float *q;             /* [SAMPLE][H * dh] */
    float *mean, *cov;    /* [dh], [dh][dh] */
    float *keys, *turned; /* [n][dh] */
    float *weight;        /* [n] */
    float *out;           /* [L][G][n]: norms of the values, then scores */
};

static int mean_rotation(struct expected *x)
{
    float *freq = x->sine; /* for a moment */
    int status = crn_memory_get(&x->s->e->exec, freq, x->s->e->inv_freq, x->dh / 2 * sizeof *freq);
    for (size_t i = 0; i < x->dh / 2 && status == 0; i++) {
        double c = 0, s = 0;
        for (uint32_t p = x->s->n; p < x->s->n + FUTURE; p++) {
            c += cos((double)p * (double)freq[i]);
            s += sin((double)p * (double)freq[i]);
        }
        x->cosine[i] = (float)(c / FUTURE);
        x->sine[i] = (float)(s / FUTURE);
    }
    return status;
}

/* v <- R v; elements are `step` apart. */
static void turn(const struct expected *x, float *v, size_t step)
{
    size_t half = x->dh / 2;
    for (size_t i = 0; i < half; i++) {
        float a = v[i * step], b = v[(i + half) * step];
        v[i * step] = a * x->cosine[i] - b * x->sine[i];
        v[(i + half) * step] = b * x->cosine[i] + a * x->sine[i];
    }
}

/* Mean and covariance of one query head over m rows, rotated: S <- R S R'. */
static void moments(struct expected *x, size_t head, size_t m)
{
    size_t dh = x->dh, row = x->heads * x->group * dh;
    memset(x->mean, 0, dh * sizeof *x->mean);
    memset(x->cov, 0, dh * dh * sizeof *x->cov);
    for (size_t i = 0; i < m; i++)
        for (size_t c = 0; c < dh; c++)
            x->mean[c] += x->q[i * row + head * dh + c] / (float)m;
    for (size_t i = 0; i < m; i++) {
        float *q = x->q + i * row + head * dh;
        for (size_t c = 0; c < dh; c++)
            q[c] -= x->mean[c];
        for (size_t c = 0; c < dh; c++)
            for (size_t d = 0; d < dh; d++)
                x->cov[c * dh + d] += q[c] * q[d] / (float)m;
    }
    turn(x, x->mean, 1);
    for (size_t c = 0; c < dh; c++)
        turn(x, x->cov + c, dh);
    for (size_t c = 0; c < dh; c++)
        turn(x, x->cov + c * dh, 1);
}

/* weight += softmax over the keys of the expected logit. */
static int add_head(struct expected *x)
{
    size_t n = x->s->n, dh = x->dh;
    float s = 1.0f / sqrtf((float)dh), most = -INFINITY, sum = 0;
    struct crn_matrix cov = {x->cov, CRN_W_F32, (uint32_t)dh, (uint32_t)dh};
    float *logit = malloc(n * sizeof *logit);
    int status = logit != NULL
                     ? x->s->e->host_ops->gemm(&x->s->e->host_exec, x->keys, n, &cov, 0, x->turned)
                     : -ENOMEM;
    for (size_t i = 0; i < n && status == 0; i++) {
        const float *k = x->keys + i * dh, *t = x->turned + i * dh;
        float linear = 0, square = 0;
        for (size_t c = 0; c < dh; c++) {
            linear += x->mean[c] * k[c];
            square += t[c] * k[c];
        }
        logit[i] = s * linear + 0.5f * s * s * square;
        most = logit[i] > most ? logit[i] : most;
    }
    for (size_t i = 0; i < n && status == 0; i++)
        sum += logit[i] = expf(logit[i] - most);
    for (size_t i = 0; i < n && status == 0; i++)
        x->weight[i] += logit[i] / (sum * (float)x->group);
    free(logit);
    return status;
}

static int score_layer(void *ctx, uint32_t layer, const struct crn_pass *pass)
{
    struct expected *x = ctx;
    struct crn_engine *e = x->s->e;
    const struct crn_layer_weights *w = &e->weights->layers[layer];
    size_t n = x->s->n;
    int status = e->ops->rmsnorm(&e->exec, pass->h, w->attn_norm, pass->n, e->weights->shape.hidden,
                                 e->weights->shape.norm_eps, x->x);
    if (status == 0)
        status = e->ops->gemm(&e->exec, x->x, pass->n, &w->wq, 0, x->there);
    if (status == 0)
        status = crn_memory_get(&e->exec, x->q, x->there,
                                pass->n * x->heads * x->group * x->dh * sizeof *x->q);
    for (size_t h = 0; h < x->heads && status == 0; h++) {
        status = crn_select_rows(x->s, layer, (uint32_t)h, CRN_ROWS_K, x->keys);
        memset(x->weight, 0, n * sizeof *x->weight);
        for (size_t g = 0; g < x->group && status == 0; g++) {
            moments(x, h * x->group + g, pass->n);
            status = add_head(x);
        }
        float *out = x->out + (layer * x->heads + h) * n;
        for (size_t i = 0; i < n && status == 0; i++)
            out[i] *= x->weight[i];
    }
    return status;
}

static int make_room(struct expected *x)
{
    const struct crn_model_shape *shape = &x->s->e->weights->shape;
    size_t n = x->s->n, dh = x->dh;
    x->cosine = malloc(dh * sizeof *x->cosine);
    x->q = malloc(SAMPLE * shape->n_heads * dh * sizeof *x->q);
    x->mean = malloc((dh + dh * dh) * sizeof *x->mean);
    x->keys = malloc(2 * n * dh * sizeof *x->keys);
    x->weight = malloc(n * sizeof *x->weight);
    if (x->cosine == NULL || x->q == NULL || x->mean == NULL || x->keys == NULL ||
        x->weight == NULL)
        return -ENOMEM;
    x->sine = x->cosine + dh / 2;
    x->cov = x->mean + dh;
    x->turned = x->keys + n * dh;
    const struct crn_exec *exec = &x->s->e->exec;
    int status = crn_memory_alloc(exec, SAMPLE * (size_t)shape->hidden * sizeof(float), &x->x);
    return status == 0
               ? crn_memory_alloc(exec, SAMPLE * shape->n_heads * dh * sizeof(float), &x->there)
               : status;
}

int crn_select_expected(const struct crn_select *s, float *out_scores)
{
    const struct crn_model_shape *shape = &s->e->weights->shape;
    struct expected x = {.s = s,
                         .dh = shape->head_dim,
                         .group = shape->n_heads / shape->n_kv_heads,
                         .heads = shape->n_kv_heads,
                         .out = out_scores};
    struct crn_replay replay = {
        .from = s->n > SAMPLE ? s->n - SAMPLE : 0, .ctx = &x, .enter = score_layer};
    int status = make_room(&x);
    if (status == 0)
        status = crn_select_norms(s, CRN_ROWS_V, 1.0f, out_scores);
    if (status == 0)
        status = mean_rotation(&x);
    if (status == 0)
        status = crn_select_replay(s, &replay);
    crn_memory_free(&s->e->exec, x.x);
    crn_memory_free(&s->e->exec, x.there);
    free(x.cosine);
    free(x.q);
    free(x.mean);
    free(x.keys);
    free(x.weight);
    return status;
}
