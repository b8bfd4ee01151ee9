/* cpu_scores - how much attention the keys of one span draw: two passes of q . k and no query x key matrix.
 *
 * Queries are worked through in chunks. Pass one gives every row (query, head) its softmax maximum and sum over all spans, or
 * takes what attention left (lse); a task is one block of rows. Pass two forms probabilities for the target span again and adds
 * them up per key; a task owns a run of keys and walks all rows in order, so no two tasks write one number and the order of
 * every sum is fixed. */
#include "kernels/cpu.h"
#include "kernels/cpu_tiles.h"
#include "kernels/pool.h"
#include "kernels/shape.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum {
    STATE_ROWS = 16 * 1024, /* rows of all heads whose max and sum are kept at a time */
    TASK_KEYS = 256,        /* keys of a task of pass two: whole tiles */
};

struct scores_job {
    const struct crn_scores *s;
    float *out;
    size_t row0, n_rows;      /* the chunk: rows of each KV head */
    size_t block_rows, n_blocks;
    size_t n_key_tasks;
    float factor;             /* of a probability that counts in a mean */
    float max[STATE_ROWS], sum[STATE_ROWS]; /* [n_kv_heads][n_rows]; after pass one sum holds the row's weight */
};

static struct crn_block block_at(struct scores_job *job, uint32_t g, size_t index)
{
    size_t first = index * job->block_rows, left = job->n_rows - first;
    return (struct crn_block){
        .a = &job->s->attention,
        .g = g,
        .r0 = job->row0 + first,
        .n = left < job->block_rows ? left : job->block_rows,
        .max = job->max + g * job->n_rows + first,
        .sum = job->sum + g * job->n_rows + first,
    };
}

static void add_state(void *ctx, const struct crn_tile *tile, size_t row, size_t key)
{
    (void)ctx;
    (void)row;
    (void)key;
    crn_simd()->tile_attend(tile);
}

/* sum -> the factor that makes 2^(score - max) what the row adds to a key. */
static void weigh_rows(const struct scores_job *job, struct crn_block *b)
{
    const struct crn_scores *s = job->s;
    size_t group = crn_group(b->a);
    for (size_t r = 0; r < b->n; r++) {
        float weight = s->q_weight != NULL ? s->q_weight[(b->r0 + r) / group] * job->factor : job->factor;
        if (s->reduce == CRN_REDUCE_KV_MAX)
            weight = 1.0f;
        b->sum[r] = b->sum[r] == 0 ? 0.0f : weight / b->sum[r];
    }
}

/* 2^(score - max) / sum is the probability, whichever of max and sum carries the logarithm. */
static void take_state(struct crn_block *b)
{
    for (size_t r = 0; r < b->n; r++) {
        float lse = b->a->lse[crn_block_row(b, r)];
        b->max[r] = lse == -INFINITY ? -FLT_MAX : lse;
        b->sum[r] = lse == -INFINITY ? 0.0f : 1.0f;
    }
}

static void find_state(struct crn_block *b)
{
    _Alignas(64) float q[CRN_BLOCK_FLOATS];
    b->q = q;
    crn_block_load(b);
    crn_block_clear(b);
    for (uint32_t i = 0; i < b->a->n_spans; i++) {
        struct crn_keys all = { i, 0, b->a->spans[i].heads[b->g].n };
        crn_block_walk(b, &all, add_state, NULL);
    }
}

static void state_task(void *ctx, size_t task, unsigned thread)
{
    struct scores_job *job = ctx;
    (void)thread;
    uint32_t heads = job->s->attention.n_kv_heads;
    struct crn_block b = block_at(job, (uint32_t)(task % heads), job->n_blocks - 1 - task / heads);
    if (b.a->lse != NULL)
        take_state(&b);
    else
        find_state(&b);
    weigh_rows(job, &b);
}

/* Where a tile's probabilities go. */
struct target {
    const struct scores_job *job;
    const struct crn_block *block;
    float *out; /* of the KV head */
};

static void add_scores(void *ctx, const struct crn_tile *tile, size_t row, size_t key)
{
    const struct target *t = ctx;
    struct crn_tile_scores s = {
        .tile = *tile,
        .weight = t->block->sum + row,
        .take_max = t->job->s->reduce == CRN_REDUCE_KV_MAX,
    };
    float sum[CRN_TILE_KEYS];
    memset(sum, 0, sizeof sum);
    memcpy(sum, t->out + key, tile->n_keys * sizeof *sum);
    s.out = sum;
    crn_simd()->tile_scores(&s);
    memcpy(t->out + key, sum, tile->n_keys * sizeof *sum);
}

static float *head_scores(const struct scores_job *job, uint32_t g)
{
    const struct crn_kv_head *heads = job->s->attention.spans[job->s->target].heads;
    float *out = job->out;
    for (uint32_t i = 0; job->s->reduce != CRN_REDUCE_MEAN_ALL && i < g; i++)
        out += heads[i].n;
    return out;
}

static void score_keys(struct scores_job *job, uint32_t g, size_t first)
{
    _Alignas(64) float q[CRN_BLOCK_FLOATS];
    size_t n = job->s->attention.spans[job->s->target].heads[g].n;
    struct crn_keys keys = { job->s->target, first, first + TASK_KEYS < n ? first + TASK_KEYS : n };
    for (size_t i = 0; i < job->n_blocks && keys.first < n; i++) {
        struct crn_block b = block_at(job, g, i);
        struct target target = { job, &b, head_scores(job, g) };
        b.q = q;
        crn_block_load(&b);
        crn_block_walk(&b, &keys, add_scores, &target);
    }
}

/* A mean over all heads has one sum per key: its task takes every head. */
static void score_task(void *ctx, size_t task, unsigned thread)
{
    struct scores_job *job = ctx;
    (void)thread;
    uint32_t heads = job->s->attention.n_kv_heads;
    size_t first = task % job->n_key_tasks * TASK_KEYS;
    if (job->s->reduce != CRN_REDUCE_MEAN_ALL) {
        score_keys(job, (uint32_t)(task / job->n_key_tasks), first);
        return;
    }
    for (uint32_t g = 0; g < heads; g++)
        score_keys(job, g, first);
}

static size_t most_keys(const struct crn_scores *s)
{
    size_t most = 0;
    for (uint32_t g = 0; g < s->attention.n_kv_heads; g++) {
        size_t n = s->attention.spans[s->target].heads[g].n;
        most = n > most ? n : most;
    }
    return most;
}

static void run_chunk(const struct crn_exec *e, struct scores_job *job)
{
    uint32_t heads = job->s->attention.n_kv_heads;
    job->n_blocks = (job->n_rows + job->block_rows - 1) / job->block_rows;
    crn_pool_run(crn_pool_of(e), state_task, job, job->n_blocks * heads);
    size_t lists = job->s->reduce == CRN_REDUCE_MEAN_ALL ? 1 : heads;
    crn_pool_run(crn_pool_of(e), score_task, job, job->n_key_tasks * lists);
}

static float mean_factor(const struct crn_scores *s)
{
    const struct crn_attention *a = &s->attention;
    size_t heads = s->reduce == CRN_REDUCE_MEAN_ALL ? a->n_heads : crn_group(a);
    size_t queries = s->total_queries != 0 ? s->total_queries : a->n_q;
    return (float)(1.0 / ((double)queries * (double)heads));
}

static void clear_scores(struct scores_job *job)
{
    const struct crn_attention *a = &job->s->attention;
    uint32_t last = a->n_kv_heads - 1;
    size_t n = (size_t)(head_scores(job, last) - job->out) + a->spans[job->s->target].heads[last].n;
    memset(job->out, 0, n * sizeof *job->out);
}

int crn_cpu_scores(const struct crn_exec *e, const struct crn_scores *s, float *out)
{
    int rc = crn_check_scores(s);
    if (rc != 0)
        return rc;
    const struct crn_attention *a = &s->attention;
    struct scores_job job;
    job.s = s;
    job.out = out;
    job.block_rows = crn_block_rows(a->head_dim);
    job.n_key_tasks = (most_keys(s) + TASK_KEYS - 1) / TASK_KEYS;
    job.factor = mean_factor(s);
    if (!s->accumulate)
        clear_scores(&job);
    size_t rows = a->n_q * crn_group(a), chunk = STATE_ROWS / a->n_kv_heads;
    for (job.row0 = 0; job.row0 < rows; job.row0 += chunk) {
        job.n_rows = rows - job.row0 < chunk ? rows - job.row0 : chunk;
        run_chunk(e, &job);
    }
    return 0;
}
