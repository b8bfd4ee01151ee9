/* cpu_gemm - matrix products of activations with weights of any type, cut into tasks for the pool.
 *
 * f32 weights go to the GEMM library as they are. Others are decoded to f32, a panel of rows and columns at a time, on the
 * stack of the task, and multiplied from there: many activations share one decoding.
 * How the work is cut depends on the shape alone, never on the number of threads, so results do not either. */
#include "kernels/cpu.h"
#include "kernels/pool.h"
#include "kernels/shape.h"

#include <stdatomic.h>
#include <stdbool.h>

enum {
    TASK_TOKENS = 192,         /* activations (rows of a) of one task */
    TASK_OUTPUTS = 192,        /* rows of W of one task when activations are few */
    PANEL_COLUMNS = 768,       /* of a decoded panel: whole blocks */
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
    for (size_t i = 0; i < n; i++) {
        const char *at = (const char *)w->data + (n0 + i) * row_bytes + skip;
        struct crn_matrix piece = { at, w->type, 1, (uint32_t)k };
        crn_weight_row(&piece, 0, panel + i * k);
    }
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
    int rc = job->w->type == CRN_W_F32 ? multiply_f32(job, &p) : multiply_decoded(job, &p);
    if (rc != 0)
        atomic_store(&job->rc, rc);
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
    bool many = w->type == CRN_W_F32 && m >= 2 * TASK_TOKENS;
    struct gemm_job job = {
        .a = a,
        .m = m,
        .w = w,
        .beta = beta,
        .out = out,
        .tokens = many ? TASK_TOKENS : m,
        .outputs = many ? w->rows : TASK_OUTPUTS,
    };
    job.n_output_tasks = (w->rows + job.outputs - 1) / job.outputs;
    size_t n_token_tasks = (m + job.tokens - 1) / job.tokens;
    crn_pool_run(crn_pool_of(e), gemm_task, &job, n_token_tasks * job.n_output_tasks);
    return atomic_load(&job.rc);
}
