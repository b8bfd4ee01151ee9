/* bench/kernels - how fast the compute kernels are on this machine: GFLOP/s of products and attention, GB/s of movement.
 *
 * usage: kernels [THREADS [FILTER]]      FILTER: run only lines whose name contains it
 * One thread is timed by the CPU time it got, so that others on the machine disturb it less.
 * Every line is the median (and the best) of repeated calls on shapes of SmolLM2-135M (9 query and 3 KV heads of 64, hidden 576). Causal
 * attention counts the visible half only. Numbers of two programs compare only when they ran on the same quiet machine. */
#include "kernels/kernels.h"
#include "kernels/pool.h"
#include "kernels/shape.h"
#include "kernels/simd.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_RUNS = 501, H = 9, G = 3, DH = 64, HIDDEN = 576, MLP = 1536, VOCABULARY = 49152 };

static const struct crn_kernel_ops *ops;
static struct crn_exec e;
static const char *filter = "";
static clockid_t clock_used = CLOCK_MONOTONIC;

typedef void run_fn(void *ctx);

static double now_s(void)
{
    struct timespec t;
    clock_gettime(clock_used, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct timing {
    double median, best;
};

/* Seconds of one call: at least 5 calls and about half a second of them. */
static struct timing time_calls(run_fn *run, void *ctx)
{
    double took[MAX_RUNS], start = now_s();
    size_t n = 0;
    run(ctx);
    while (n < MAX_RUNS && (n < 5 || now_s() - start < 0.5)) {
        double t = now_s();
        run(ctx);
        took[n++] = now_s() - t;
    }
    qsort(took, n, sizeof *took, by_value);
    return (struct timing){ took[n / 2], took[0] };
}

/* Times one line; work is in giga-units (flop, bytes). */
static void report(const char *name, run_fn *run, void *ctx, double work, const char *unit)
{
    if (strstr(name, filter) == NULL)
        return;
    struct timing t = time_calls(run, ctx);
    printf("%-44s %10.1f us %9.1f %s (best %.1f)\n", name, t.median * 1e6, work / t.median, unit, work / t.best);
    fflush(stdout);
}

static void *memory(size_t bytes)
{
    uint8_t *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (p == NULL)
        exit(1);
    memset(p, 0, bytes);
    return p;
}

static float *numbers(size_t n)
{
    float *x = memory(n * sizeof *x);
    uint32_t seed = 1;
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) * 0x1p-23f - 1.0f;
    }
    return x;
}

/* --- products --- */

struct gemm_run {
    float *a, *out;
    size_t m;
    struct crn_matrix w;
};

static void run_gemm(void *ctx)
{
    struct gemm_run *r = ctx;
    ops->gemm(&e, r->a, r->m, &r->w, 0, r->out);
}

static void bench_gemm(uint32_t type, size_t m, uint32_t rows, uint32_t cols)
{
    static const char *const names[] = { "", "f32", "bf16", "q8_0", "q4_0", "q4_1" };
    size_t bytes = crn_weight_row_bytes(type, cols) * rows;
    struct gemm_run r = { numbers(m * cols), memory(m * rows * sizeof(float)), m, { NULL, type, rows, cols } };
    void *w = type == CRN_W_F32 ? (void *)numbers((size_t)rows * cols) : memory(bytes);
    r.w.data = w;
    char name[64];
    snprintf(name, sizeof name, "gemm %s m %zu %u -> %u", names[type], m, cols, rows);
    report(name, run_gemm, &r, 2e-9 * (double)m * rows * cols, "GFLOP/s");
    free(r.a);
    free(r.out);
    free(w);
}

static void bench_gemms(void)
{
    static const size_t tokens[] = { 1, 2, 4, 8, 16, 32, 64, 96, 256, 1024 };
    static const struct {
        uint32_t rows, cols;
    } shapes[] = { { 192, HIDDEN }, { HIDDEN, HIDDEN }, { 960, HIDDEN }, { MLP, HIDDEN }, { HIDDEN, MLP } };
    for (uint32_t type = CRN_W_F32; type <= CRN_W_Q4_1; type++)
        for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
            for (size_t j = 0; j < sizeof shapes / sizeof *shapes; j++)
                bench_gemm(type, tokens[i], shapes[j].rows, shapes[j].cols);
            if (tokens[i] <= 8)
                bench_gemm(type, tokens[i], VOCABULARY, HIDDEN);
        }
}

/* --- attention --- */

struct attention_run {
    struct crn_attention a;
    struct crn_span span;
    struct crn_kv_head heads[G];
    float *out, *scores;
    int32_t *pos;
    float *q;
    void *memory[2 * G];
};

static void run_attention(void *ctx)
{
    struct attention_run *r = ctx;
    ops->attention(&e, &r->a, r->out);
}

static void run_scores(void *ctx)
{
    struct attention_run *r = ctx;
    struct crn_scores s = { .attention = r->a, .reduce = CRN_REDUCE_KV_MAX };
    ops->scores(&e, &s, r->scores);
}

/* The last n_q of n_keys tokens attend to all of them. */
static struct attention_run make_attention(uint32_t n_q, uint32_t n_keys, uint32_t dtype)
{
    struct attention_run r = { .pos = memory(n_keys * sizeof(int32_t)), .q = numbers((size_t)n_q * H * DH) };
    r.out = memory((size_t)n_q * H * DH * sizeof(float));
    r.scores = memory((size_t)G * n_keys * sizeof(float));
    for (uint32_t i = 0; i < n_keys; i++)
        r.pos[i] = (int32_t)i;
    uint16_t *scale = memory((size_t)n_keys * DH * 2);
    for (uint32_t g = 0; g < 2 * G; g++) {
        float *x = numbers((size_t)n_keys * DH);
        r.memory[g] = memory((size_t)n_keys * DH * 4);
        if (dtype != CAIRN_I8)
            ops->convert(&e, x, CAIRN_F32, (size_t)n_keys * DH, dtype, r.memory[g]);
        free(x);
    }
    for (uint32_t g = 0; g < G; g++)
        r.heads[g] = (struct crn_kv_head){ r.memory[g], r.memory[G + g], scale, scale, r.pos, n_keys, 0 };
    r.span = (struct crn_span){ .dtype = dtype, .q_end = n_q };
    r.a = (struct crn_attention){ .q = r.q, .q_pos = r.pos + n_keys - n_q, .n_q = n_q, .n_heads = H, .n_kv_heads = G, .head_dim = DH,
                                  .scale = 0.125f, .n_spans = 1 };
    return r;
}

static void bench_attention(uint32_t n_q, uint32_t n_keys, uint32_t dtype)
{
    static const char *const names[] = { "", "f32", "f16", "bf16", "int8" };
    struct attention_run r = make_attention(n_q, n_keys, dtype);
    r.span.heads = r.heads;
    r.a.spans = &r.span;
    double pairs = ((double)n_keys - 0.5 * (n_q - 1)) * n_q, gflop = 4e-9 * pairs * H * DH;
    double gbytes = 2e-9 * G * DH * n_keys * cairn_dtype_bytes(dtype);
    char name[64];
    snprintf(name, sizeof name, "attention %s %u of %u", names[dtype], n_q, n_keys);
    report(name, run_attention, &r, gflop, "GFLOP/s");
    if (n_q == 1)
        report(name, run_attention, &r, gbytes, "GB/s");
    snprintf(name, sizeof name, "scores %s %u of %u (two passes of q.k)", names[dtype], n_q, n_keys);
    if (n_q > 1)
        report(name, run_scores, &r, gflop, "GFLOP/s");
    for (size_t i = 0; i < 2 * G; i++)
        free(r.memory[i]);
    free((void *)(uintptr_t)r.heads[0].k_scale);
    free(r.pos);
    free(r.q);
    free(r.out);
    free(r.scores);
}

static void bench_attentions(void)
{
    for (uint32_t dtype = CAIRN_F32; dtype <= CAIRN_I8; dtype++) {
        bench_attention(1024, 1024, dtype);
        bench_attention(1024, 8192, dtype);
        bench_attention(64, 8192, dtype);
        bench_attention(8, 8192, dtype);
        bench_attention(1, 1024, dtype);
        bench_attention(1, 8192, dtype);
    }
}

/* --- element by element, movement --- */

struct rows_run {
    float *x, *y, *out;
    uint32_t *index;
    int32_t *pos;
    float *inv_freq;
    size_t n;
};

static void run_rmsnorm(void *ctx)
{
    struct rows_run *r = ctx;
    ops->rmsnorm(&e, r->x, r->y, r->n, HIDDEN, 1e-5f, r->out);
}

static void run_rope(void *ctx)
{
    struct rows_run *r = ctx;
    struct crn_rope rope = { r->inv_freq, DH };
    ops->rope(&e, &rope, r->pos, r->n, H, r->out);
}

static void run_swiglu(void *ctx)
{
    struct rows_run *r = ctx;
    ops->swiglu(&e, r->x, r->y, r->n * MLP, r->out);
}

static void run_add(void *ctx)
{
    struct rows_run *r = ctx;
    ops->add(&e, r->x, r->n * HIDDEN, r->out);
}

static void run_split(void *ctx)
{
    struct rows_run *r = ctx;
    ops->split_heads(&e, r->x, r->n, G, DH, CAIRN_F16, r->n, r->out);
}

static void run_convert(void *ctx)
{
    struct rows_run *r = ctx;
    ops->convert(&e, r->x, CAIRN_F32, r->n * HIDDEN, CAIRN_F16, r->out);
}

static void run_gather(void *ctx)
{
    struct rows_run *r = ctx;
    ops->gather(&e, r->x, 2 * r->n, HIDDEN * 2, r->index, r->n, r->out);
}

static void run_quant_k(void *ctx)
{
    struct rows_run *r = ctx;
    ops->quant_k(&e, r->x, r->n * 9, DH, (int8_t *)r->out, (uint16_t *)(r->out + r->n * 9 * DH / 2));
}

static void run_quant_rows(void *ctx)
{
    struct rows_run *r = ctx;
    ops->quant_rows(&e, r->x, r->n, HIDDEN, DH, (int8_t *)r->out, (uint16_t *)(r->out + r->n * HIDDEN / 2));
}

static void run_dequant_rows(void *ctx)
{
    struct rows_run *r = ctx;
    ops->dequant_rows(&e, (int8_t *)r->x, (uint16_t *)r->y, r->n, HIDDEN, DH, r->out);
}

static void run_topk(void *ctx)
{
    struct rows_run *r = ctx;
    ops->topk(&e, r->x, r->n, r->n / 4, r->index);
}

static void run_argmax(void *ctx)
{
    struct rows_run *r = ctx;
    uint32_t best;
    ops->argmax(&e, r->x, VOCABULARY, &best);
}

static void bench_rows(void)
{
    struct rows_run r = { .n = 8192 };
    size_t wide = r.n * MLP;
    r.x = numbers(wide);
    r.y = numbers(wide);
    r.out = memory(wide * sizeof(float));
    r.index = memory(r.n * sizeof *r.index);
    r.pos = memory(r.n * sizeof *r.pos);
    r.inv_freq = numbers(DH / 2);
    for (size_t i = 0; i < r.n; i++) {
        r.pos[i] = (int32_t)i;
        r.index[i] = (uint32_t)(2 * i);
    }
    for (size_t i = 0; i < DH / 2; i++)
        r.inv_freq[i] = powf(100000.0f, -2.0f * (float)i / DH);
    double row = 1e-9 * (double)r.n * HIDDEN;
    report("rmsnorm 8192 x 576", run_rmsnorm, &r, row * 8, "GB/s");
    report("rope 8192 x 9 x 64", run_rope, &r, row * 8, "GB/s");
    report("swiglu 8192 x 1536", run_swiglu, &r, 12e-9 * (double)wide, "GB/s");
    report("add 8192 x 576", run_add, &r, row * 12, "GB/s");
    report("split_heads f16 8192 x 3 x 64", run_split, &r, row / 3 * 6, "GB/s");
    report("convert f32 -> f16 8192 x 576", run_convert, &r, row * 6, "GB/s");
    report("gather 8192 rows of 1152 bytes", run_gather, &r, row * 4, "GB/s");
    report("quant_k 73728 x 64", run_quant_k, &r, row * 5, "GB/s");
    report("quant_rows 8192 x 576 by 64", run_quant_rows, &r, row * 5, "GB/s");
    report("dequant_rows 8192 x 576 by 64", run_dequant_rows, &r, row * 5, "GB/s");
    report("topk 2048 of 8192", run_topk, &r, 1e-9 * 4 * (double)r.n, "GB/s");
    report("argmax of 49152", run_argmax, &r, 4e-9 * VOCABULARY, "GB/s");
    free(r.x);
    free(r.y);
    free(r.out);
    free(r.index);
    free(r.pos);
    free(r.inv_freq);
}

/* --- the machine --- */

enum { COPY_BYTES = 256 << 20, COPY_TASKS = 64 };

struct copy_run {
    char *from, *to;
};

static void copy_task(void *ctx, size_t task, unsigned thread)
{
    const struct copy_run *r = ctx;
    (void)thread;
    size_t bytes = COPY_BYTES / COPY_TASKS, off = task * bytes;
    memcpy(r->to + off, r->from + off, bytes);
}

static void run_copy(void *ctx)
{
    crn_pool_run(e.pool, copy_task, ctx, COPY_TASKS);
}

static void bench_copy(void)
{
    struct copy_run r = { memory(COPY_BYTES), memory(COPY_BYTES) };
    memset(r.from, 1, COPY_BYTES);
    report("copy 256 MiB, read and written", run_copy, &r, 2e-9 * COPY_BYTES, "GB/s");
    free(r.from);
    free(r.to);
}

static void print_machine(unsigned threads)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, "model name", 10) == 0) {
            printf("%s", line);
            break;
        }
    if (f != NULL)
        fclose(f);
    printf("inner loops %s, threads %u\n", crn_simd()->name, threads);
}

int main(int argc, char **argv)
{
    unsigned threads = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 2;
    filter = argc > 2 ? argv[2] : "";
    if (threads == 1)
        clock_used = CLOCK_PROCESS_CPUTIME_ID;
    ops = &crn_kernels_cpu;
    if (crn_pool_create(threads, 0, &e.pool) != 0)
        return 1;
    print_machine(threads);
    bench_gemms();
    bench_attentions();
    bench_rows();
    bench_copy();
    crn_pool_destroy(e.pool);
    return 0;
}
