/* cpu_attention - attention over a list of spans with online softmax; no query x key matrix exists.
 *
 * Each KV head's keys are cut into chunks of CHUNK_KEYS counted from the start of their span. A block of query rows
 * (cpu_tiles.h) attends to each chunk on its own, starting from nothing, and chunks are merged in order of span and key.
 * That fixes the order of every sum: a row's result is the same bits for any number of threads, and whichever other queries
 * are in the call (values must be finite where they are masked: 0 * inf is not 0).
 *
 * With many blocks a task is one block, which merges as it goes. With a single block per KV head (decoding, short suffixes)
 * a task is one chunk, and the caller merges. */
#include "kernels/cpu.h"
#include "kernels/cpu_tiles.h"
#include "kernels/pool.h"
#include "kernels/shape.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum {
    CHUNK_KEYS = 1024,
    SPLIT_FLOATS = 96 * 1024, /* partial results of one round of chunk tasks */
    SPLIT_TASKS = 256,
};

static void attend(void *ctx, const struct crn_tile *tile, size_t row, size_t key)
{
    const struct crn_simd_ops *simd = ctx;
    (void)row;
    (void)key;
    simd->tile_attend(tile);
}

static void attend_chunk(struct crn_block *b, const struct crn_keys *chunk)
{
    crn_block_clear(b);
    crn_block_walk(b, chunk, attend, (void *)(uintptr_t)crn_simd());
}

/* The next chunk of KV head g after `*chunk`; false at the end. Start with { 0, 0, 0 }. */
static bool next_chunk(const struct crn_attention *a, uint32_t g, struct crn_keys *chunk)
{
    chunk->first = chunk->end;
    for (; chunk->span < a->n_spans; chunk->span++, chunk->first = 0) {
        size_t n = a->spans[chunk->span].heads[g].n;
        if (chunk->first >= n)
            continue;
        chunk->end = n - chunk->first < CHUNK_KEYS ? n : chunk->first + CHUNK_KEYS;
        return true;
    }
    return false;
}

/* total = total + part, both softmax states over different keys. */
static void merge(struct crn_block *total, const struct crn_block *part)
{
    size_t padded = crn_padded(total->a->head_dim);
    for (size_t r = 0; r < total->n; r++) {
        float max = fmaxf(total->max[r], part->max[r]);
        float keep = exp2f(total->max[r] - max), add = exp2f(part->max[r] - max);
        float *to = total->acc + r * padded;
        const float *from = part->acc + r * padded;
        for (size_t c = 0; c < padded; c++)
            to[c] = to[c] * keep + from[c] * add;
        total->sum[r] = total->sum[r] * keep + part->sum[r] * add;
        total->max[r] = max;
    }
}

static void write_lse(const struct crn_block *b)
{
    for (size_t r = 0; r < b->n; r++) {
        double lse = (double)b->max[r] + log2((double)b->sum[r]); /* not below max, rounded or not */
        b->a->lse[crn_block_row(b, r)] = b->sum[r] == 0 ? -INFINITY : (float)lse;
    }
}

static void write_out(const struct crn_block *b, float *out)
{
    size_t dh = b->a->head_dim, padded = crn_padded(dh);
    for (size_t r = 0; r < b->n; r++) {
        float *to = out + crn_block_row(b, r) * dh;
        float inverse = b->sum[r] == 0 ? 0.0f : 1.0f / b->sum[r];
        for (size_t c = 0; c < dh; c++)
            to[c] = b->acc[r * padded + c] * inverse;
    }
    if (b->a->lse != NULL)
        write_lse(b);
}

struct attention_job {
    const struct crn_attention *a;
    float *out;
    size_t rows, block_rows, n_blocks; /* rows per KV head */
};

/* --- one task per block --- */

static void block_task(void *ctx, size_t task, unsigned thread)
{
    const struct attention_job *job = ctx;
    (void)thread;
    _Alignas(64) float q[CRN_BLOCK_FLOATS], part_acc[CRN_BLOCK_FLOATS], total_acc[CRN_BLOCK_FLOATS];
    float state[4][CRN_BLOCK_ROWS];
    size_t index = job->n_blocks - 1 - task / job->a->n_kv_heads; /* the last blocks see most keys: first */
    size_t r0 = index * job->block_rows, left = job->rows - r0;
    struct crn_block part = {
        .a = job->a,
        .g = (uint32_t)(task % job->a->n_kv_heads),
        .r0 = r0,
        .n = left < job->block_rows ? left : job->block_rows,
        .q = q,
        .max = state[0],
        .sum = state[1],
        .acc = part_acc,
    };
    struct crn_block total = part;
    total.max = state[2];
    total.sum = state[3];
    total.acc = total_acc;
    crn_block_load(&part);
    crn_block_clear(&total);
    for (struct crn_keys chunk = { 0 }; next_chunk(job->a, part.g, &chunk);) {
        attend_chunk(&part, &chunk);
        merge(&total, &part);
    }
    write_out(&total, job->out);
}

/* --- one task per chunk --- */

struct split_job {
    const struct attention_job *job;
    size_t n_tasks;
    struct split_task {
        uint32_t g;
        struct crn_keys chunk;
    } task[SPLIT_TASKS];
    float *slots; /* [n_kv_heads] totals, then a part per task */
};

static size_t slot_floats(const struct attention_job *job)
{
    return job->rows * (crn_padded(job->a->head_dim) + 2);
}

/* The softmax state kept in a slot: acc, max, sum. */
static struct crn_block slot_block(const struct split_job *s, size_t slot, uint32_t g)
{
    const struct attention_job *job = s->job;
    float *acc = s->slots + slot * slot_floats(job);
    float *max = acc + job->rows * crn_padded(job->a->head_dim);
    return (struct crn_block){ .a = job->a, .g = g, .n = job->rows, .max = max, .sum = max + job->rows, .acc = acc };
}

static void chunk_task(void *ctx, size_t task, unsigned thread)
{
    const struct split_job *s = ctx;
    (void)thread;
    _Alignas(64) float q[CRN_BLOCK_FLOATS];
    struct crn_block part = slot_block(s, s->job->a->n_kv_heads + task, s->task[task].g);
    part.q = q;
    crn_block_load(&part);
    attend_chunk(&part, &s->task[task].chunk);
}

static void run_round(const struct crn_exec *e, struct split_job *s)
{
    crn_pool_run(crn_pool_of(e), chunk_task, s, s->n_tasks);
    for (size_t i = 0; i < s->n_tasks; i++) {
        uint32_t g = s->task[i].g;
        struct crn_block total = slot_block(s, g, g), part = slot_block(s, s->job->a->n_kv_heads + i, g);
        merge(&total, &part);
    }
    s->n_tasks = 0;
}

static void split_attention(const struct crn_exec *e, const struct attention_job *job)
{
    _Alignas(64) float slots[SPLIT_FLOATS];
    struct split_job s = { .job = job, .slots = slots };
    size_t per_round = SPLIT_FLOATS / slot_floats(job) - job->a->n_kv_heads;
    per_round = per_round < SPLIT_TASKS ? per_round : SPLIT_TASKS;
    for (uint32_t g = 0; g < job->a->n_kv_heads; g++) {
        struct crn_block total = slot_block(&s, g, g);
        crn_block_clear(&total);
        for (struct crn_keys chunk = { 0 }; next_chunk(job->a, g, &chunk);) {
            s.task[s.n_tasks++] = (struct split_task){ g, chunk };
            if (s.n_tasks == per_round)
                run_round(e, &s);
        }
    }
    run_round(e, &s);
    for (uint32_t g = 0; g < job->a->n_kv_heads; g++) {
        struct crn_block total = slot_block(&s, g, g);
        write_out(&total, job->out);
    }
}

/* Chunk tasks pay when blocks alone would leave threads idle, and need room for a part per thread at least. */
static bool should_split(const struct crn_exec *e, const struct attention_job *job)
{
    size_t threads = crn_pool_threads(crn_pool_of(e));
    if (job->n_blocks != 1 || threads == 1 || job->a->n_kv_heads >= 4 * threads)
        return false;
    return SPLIT_FLOATS / slot_floats(job) >= job->a->n_kv_heads + threads;
}

int crn_cpu_attention(const struct crn_exec *e, const struct crn_attention *a, float *out)
{
    int rc = crn_check_attention(a);
    if (rc != 0 || a->n_q == 0)
        return rc;
    struct attention_job job = {
        .a = a,
        .out = out,
        .rows = a->n_q * crn_group(a),
        .block_rows = crn_block_rows(a->head_dim),
    };
    job.n_blocks = (job.rows + job.block_rows - 1) / job.block_rows;
    if (should_split(e, &job))
        split_attention(e, &job);
    else
        crn_pool_run(crn_pool_of(e), block_task, &job, job.n_blocks * a->n_kv_heads);
    return 0;
}
