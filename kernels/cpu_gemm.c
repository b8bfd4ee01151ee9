/* cpu_gemm - matrix products of activations with weights of any type, cut into tasks for the pool.
 *
 *     few tokens               own loops that read the weights as they are stored (kernels/simd_gemv.h): bound by memory
 *     tokens <= SOME_TOKENS    own loops that decode a few rows of weights for all tokens (kernels/simd_gemm.h)
 *     more                     the GEMM library. Weights that are not f32 are decoded first, a panel of rows and columns at a
 *                              time, on the stack of the task, so that many activations share one decoding
 *
 * How the work is cut depends on the shape alone, never on the number of threads, so results do not either. Up to SOME_TOKENS
 * an output has the same bits whatever other tokens are in the call: decoding in batches changes nothing. */
#include "kernels/cpu.h"
#include "kernels/pool.h"
#include "kernels/shape.h"
#include "kernels/simd.h"

#include <stdatomic.h>
#include <stdbool.h>

enum {
    FEW_TOKENS_F32 = 2,    /* more: decoding is what gemv saves, and f32 needs none */
    SOME_TOKENS = 64,      /* the library overtakes the own loops above that */
    SOME_COLUMNS = 8192,   /* of rows decoded on the stack; wider ones go to the library from CRN_GEMV_MAX tokens on */
    FEW_BYTES = 64 * 1024, /* weights of one task at most when tokens are few */
    SOME_OUTPUTS = 48,     /* rows of W of one task when they are some */
    TASK_TOKENS = 256,     /* tokens of one task at most: amortises the library's packing of W */
    TASK_OUTPUTS = 192,    /* rows of W of one task when tokens alone do not give enough tasks */
    WIDE_OUTPUTS = 768,    /* rows of W up to which a run of tokens takes all of them: more leave the second-level cache */
    TASK_GROUP = 4,        /* tasks come in multiples of this: 2 or 4 threads finish together */
    PANEL_COLUMNS = 768,   /* of a decoded panel: whole blocks */
    PANEL_FLOATS = 192 * 768,
};

struct gemm_part;

struct gemm_job {
    const float *a;
    size_t m;
    const struct crn_matrix *w;
    float beta;
    float *out;
    size_t tokens, outputs; /* of one task */
    size_t n_output_tasks;
    int (*multiply)(const struct gemm_job *job, const struct gemm_part *p);
    _Atomic int rc;
};

struct gemm_part {
    size_t m0, m, n0, n;
};

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static int multiply_f32(const struct gemm_job *job, const struct gemm_part *p)
{
    size_t cols = job->w->cols, rows = job->w->rows;
    struct crn_sgemm g = {
        .m = p->m,
        .n = p->n,
        .k = cols,
        .a = job->a + p->m0 * cols,
        .a_stride = cols,
        .w = (const float *)job->w->data + p->n0 * cols,
        .w_stride = cols,
        .beta = job->beta,
        .out = job->out + p->m0 * rows + p->n0,
        .out_stride = rows,
    };
    return crn_sgemm(&g);
}

/* Rows n0 .. n0+n-1, columns k0 .. k0+k-1 of W as f32. */
static void decode_panel(const struct crn_matrix *w, size_t n0, size_t n, size_t k0, size_t k, float *panel)
{
    size_t row_bytes = crn_weight_row_bytes(w->type, w->cols), skip = crn_weight_row_bytes(w->type, k0);
    const char *at = (const char *)w->data + n0 * row_bytes + skip;
    for (size_t i = 0; i < n; i++)
        crn_simd()->decode_row(w->type, at + i * row_bytes, k, panel + i * k);
}

static int multiply_decoded(const struct gemm_job *job, const struct gemm_part *p)
{
    _Alignas(64) float panel[PANEL_FLOATS];
    size_t cols = job->w->cols, rows = job->w->rows;
    for (size_t k0 = 0; k0 < cols; k0 += PANEL_COLUMNS) {
        size_t k = smaller(cols - k0, PANEL_COLUMNS);
        for (size_t i = 0, n; i < p->n; i += n) {
            n = smaller(p->n - i, PANEL_FLOATS / k);
            decode_panel(job->w, p->n0 + i, n, k0, k, panel);
            struct crn_sgemm g = {
                .m = p->m,
                .n = n,
                .k = k,
                .a = job->a + p->m0 * cols + k0,
                .a_stride = cols,
                .w = panel,
                .w_stride = k,
                .beta = k0 == 0 ? job->beta : 1.0f,
                .out = job->out + p->m0 * rows + p->n0 + i,
                .out_stride = rows,
            };
            int rc = crn_sgemm(&g);
            if (rc != 0)
                return rc;
        }
    }
    return 0;
}

static struct crn_gemv stored_product(const struct gemm_job *job, const struct gemm_part *p)
{
    size_t row_bytes = crn_weight_row_bytes(job->w->type, job->w->cols);
    return (struct crn_gemv){
        .a = job->a + p->m0 * job->w->cols,
        .tokens = p->m,
        .cols = job->w->cols,
        .w = (const char *)job->w->data + p->n0 * row_bytes,
        .type = job->w->type,
        .row_bytes = row_bytes,
        .rows = p->n,
        .beta = job->beta,
        .out = job->out + p->m0 * job->w->rows + p->n0,
        .out_stride = job->w->rows,
    };
}

static int multiply_few(const struct gemm_job *job, const struct gemm_part *p)
{
    struct crn_gemv g = stored_product(job, p);
    crn_simd()->gemv(&g);
    return 0;
}

static int multiply_some(const struct gemm_job *job, const struct gemm_part *p)
{
    _Alignas(64) float scratch[CRN_GEMM_ROWS * SOME_COLUMNS];
    struct crn_gemv g = stored_product(job, p);
    crn_simd()->gemm(&g, scratch);
    return 0;
}

static void gemm_task(void *ctx, size_t task, unsigned thread)
{
    struct gemm_job *job = ctx;
    (void)thread;
    struct gemm_part p = {
        .m0 = task / job->n_output_tasks * job->tokens,
        .n0 = task % job->n_output_tasks * job->outputs,
    };
    p.m = smaller(job->m - p.m0, job->tokens);
    p.n = smaller(job->w->rows - p.n0, job->outputs);
    int rc = job->multiply(job, &p);
    if (rc != 0)
        atomic_store(&job->rc, rc);
}

static size_t rounded_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* n items in equal runs of at most `most`, as many runs as are a multiple of TASK_GROUP. */
static size_t run_of(size_t n, size_t most)
{
    size_t n_tasks = rounded_up((n + most - 1) / most, TASK_GROUP);
    return rounded_up((n + n_tasks - 1) / n_tasks, CRN_GEMV_MAX);
}

/* Few or some tokens: runs of rows of W. Many: runs of tokens, where that gives enough of them, each with as much of W as stays
 * in cache. Else both. */
static void cut(struct gemm_job *job)
{
    bool f32 = job->w->type == CRN_W_F32;
    job->tokens = job->m;
    if (job->m <= (f32 ? FEW_TOKENS_F32 : CRN_GEMV_MAX)) {
        job->outputs = run_of(job->w->rows, FEW_BYTES / crn_weight_row_bytes(job->w->type, job->w->cols) + 1);
        job->multiply = multiply_few;
    } else if (job->m <= SOME_TOKENS && job->w->cols <= SOME_COLUMNS) {
        job->outputs = run_of(job->w->rows, SOME_OUTPUTS);
        job->multiply = multiply_some;
    } else {
        job->outputs = TASK_OUTPUTS;
        job->multiply = f32 ? multiply_f32 : multiply_decoded;
        if (f32 && job->m >= TASK_TOKENS) {
            job->tokens = run_of(job->m, TASK_TOKENS);
            job->outputs = job->w->rows <= WIDE_OUTPUTS ? job->w->rows : run_of(job->w->rows, WIDE_OUTPUTS / 2);
        }
    }
    job->n_output_tasks = (job->w->rows + job->outputs - 1) / job->outputs;
}

static int check(const struct crn_matrix *w, float beta)
{
    if (w->type < CRN_W_F32 || w->type > CRN_W_Q4_1 || (beta != 0.0f && beta != 1.0f))
        return CAIRN_E_ARG;
    return w->cols != 0 && crn_weight_row_bytes(w->type, w->cols) == 0 ? CAIRN_E_ARG : 0;
}

int crn_cpu_gemm(const struct crn_exec *e, const float *a, size_t m, const struct crn_matrix *w, float beta, float *out)
{
    int rc = check(w, beta);
    if (rc != 0 || m == 0 || w->rows == 0)
        return rc;
    if (w->cols == 0) {
        for (size_t i = 0; beta == 0.0f && i < m * w->rows; i++)
            out[i] = 0;
        return 0;
    }
    struct gemm_job job = { .a = a, .m = m, .w = w, .beta = beta, .out = out };
    cut(&job);
    size_t n_token_tasks = (m + job.tokens - 1) / job.tokens;
    crn_pool_run(crn_pool_of(e), gemm_task, &job, n_token_tasks * job.n_output_tasks);
    return atomic_load(&job.rc);
}
