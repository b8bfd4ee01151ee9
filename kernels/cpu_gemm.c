/* cpu_gemm - matrix products of activations with weights of any type, cut into tasks for the pool.
 *
 *     tokens <= FEW_TOKENS    own loops that read the weights as they are stored (kernels/simd_gemv.h): bound by memory
 *     more                    the GEMM library. Weights that are not f32 are decoded first, a panel of rows and columns at a
 *                             time, on the stack of the task, so that many activations share one decoding
 *
 * How the work is cut depends on the shape alone, never on the number of threads, so results do not either. Up to FEW_TOKENS
 * an output has the same bits whatever other tokens are in the call: decoding in batches changes nothing. */
#include "kernels/cpu.h"
#include "kernels/pool.h"
#include "kernels/shape.h"
#include "kernels/simd.h"

#include <stdatomic.h>

enum {
    FEW_TOKENS = 16,       /* the library overtakes the own loops between 8 and 16 tokens of f32, later for other types */
    FEW_BYTES = 64 * 1024, /* weights of one task when tokens are few: they stay in cache for the next CRN_GEMV_MAX tokens */
    TASK_TOKENS = 256,     /* tokens of one task at most: amortises the library's packing of W */
    TASK_OUTPUTS = 192,    /* rows of W of one task when tokens alone do not give enough tasks */
    TASK_GROUP = 4,        /* tasks come in multiples of this: 2 or 4 threads finish together */
    PANEL_COLUMNS = 768,   /* of a decoded panel: whole blocks */
    PANEL_FLOATS = 192 * 768,
};

struct gemm_job {
    const float *a;
    size_t m;
    const struct crn_matrix *w;
    float beta;
    float *out;
    size_t tokens, outputs; /* of one task */
    size_t n_output_tasks;
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

static int multiply_few(const struct gemm_job *job, const struct gemm_part *p)
{
    size_t row_bytes = crn_weight_row_bytes(job->w->type, job->w->cols);
    struct crn_gemv g = {
        .cols = job->w->cols,
        .w = (const char *)job->w->data + p->n0 * row_bytes,
        .type = job->w->type,
        .row_bytes = row_bytes,
        .rows = p->n,
        .beta = job->beta,
        .out_stride = job->w->rows,
    };
    for (size_t t = 0; t < p->m; t += CRN_GEMV_MAX) {
        g.tokens = smaller(p->m - t, CRN_GEMV_MAX);
        g.a = job->a + t * g.cols;
        g.out = job->out + t * g.out_stride + p->n0;
        crn_simd()->gemv(&g);
    }
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
    int rc = job->m <= FEW_TOKENS           ? multiply_few(job, &p)
             : job->w->type == CRN_W_F32 ? multiply_f32(job, &p)
                                         : multiply_decoded(job, &p);
    if (rc != 0)
        atomic_store(&job->rc, rc);
}

static size_t rounded_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

/* Few tokens: runs of rows of W. Many: runs of tokens, each with all of W, where that gives enough of them. Else both. */
static void cut(struct gemm_job *job)
{
    job->tokens = job->m;
    job->outputs = TASK_OUTPUTS;
    if (job->m <= FEW_TOKENS) {
        size_t rows = FEW_BYTES / crn_weight_row_bytes(job->w->type, job->w->cols);
        job->outputs = rounded_up(rows + 1, CRN_GEMV_MAX);
    } else if (job->w->type == CRN_W_F32 && job->m >= TASK_TOKENS) {
        size_t n_tasks = rounded_up((job->m + TASK_TOKENS - 1) / TASK_TOKENS, TASK_GROUP);
        job->tokens = rounded_up((job->m + n_tasks - 1) / n_tasks, CRN_GEMV_MAX);
        job->outputs = job->w->rows;
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
