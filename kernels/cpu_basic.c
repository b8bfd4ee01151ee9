/* cpu_basic - norm, rotation, activation, sum and the largest number: loops over rows, shared out in runs of GRAIN numbers.
 *
 * Every output number is computed the same way wherever it lies, so neither threads nor neighbours change a bit. */
#include "kernels/cpu.h"
#include "kernels/simd.h"

#include <math.h>

enum { GRAIN = 16 * 1024 };

static size_t rows_per_task(size_t row)
{
    return row < GRAIN ? GRAIN / (row + 1) + 1 : 1;
}

struct norm_job {
    const float *x, *gain;
    size_t d;
    float eps;
    float *out;
};

static void norm_rows(void *ctx, size_t begin, size_t end)
{
    const struct norm_job *j = ctx;
    for (size_t i = begin; i < end; i++)
        crn_simd()->rmsnorm(j->x + i * j->d, j->gain, j->d, j->eps, j->out + i * j->d);
}

int crn_cpu_rmsnorm(const struct crn_exec *e, const float *x, const float *gain, size_t n, size_t d, float eps, float *out)
{
    struct norm_job job = { x, gain, d, eps, out };
    crn_for_ranges(e, n, rows_per_task(d), norm_rows, &job);
    return 0;
}

struct rope_job {
    const struct crn_rope *rope;
    const int32_t *pos;
    size_t heads;
    float *x;
};

static void rope_rows(void *ctx, size_t begin, size_t end)
{
    const struct rope_job *j = ctx;
    size_t half = j->rope->head_dim / 2;
    float angle[CAIRN_MAX_HEAD_DIM / 2], cosine[CAIRN_MAX_HEAD_DIM / 2], sine[CAIRN_MAX_HEAD_DIM / 2];
    for (size_t i = begin; i < end; i++) {
        for (size_t c = 0; c < half; c++)
            angle[c] = (float)j->pos[i] * j->rope->inv_freq[c];
        crn_simd()->sincos(angle, half, cosine, sine);
        crn_simd()->rotate(cosine, sine, half, j->heads, j->x + i * j->heads * 2 * half);
    }
}

int crn_cpu_rope(const struct crn_exec *e, const struct crn_rope *r, const int32_t *pos, size_t n, size_t heads, float *x)
{
    if (r->head_dim == 0 || r->head_dim % 2 != 0 || r->head_dim > CAIRN_MAX_HEAD_DIM)
        return CAIRN_E_ARG;
    struct rope_job job = { r, pos, heads, x };
    crn_for_ranges(e, n, rows_per_task(heads * r->head_dim), rope_rows, &job);
    return 0;
}

struct pair_job {
    const float *a, *b;
    float *out;
};

static void swiglu_range(void *ctx, size_t begin, size_t end)
{
    const struct pair_job *j = ctx;
    crn_simd()->swiglu(j->a + begin, j->b + begin, end - begin, j->out + begin);
}

int crn_cpu_swiglu(const struct crn_exec *e, const float *gate, const float *up, size_t n, float *out)
{
    struct pair_job job = { gate, up, out };
    crn_for_ranges(e, n, GRAIN, swiglu_range, &job);
    return 0;
}

static void add_range(void *ctx, size_t begin, size_t end)
{
    const struct pair_job *j = ctx;
    crn_simd()->add(j->a + begin, end - begin, j->out + begin);
}

int crn_cpu_add(const struct crn_exec *e, const float *y, size_t n, float *x)
{
    struct pair_job job = { .a = y, .out = x };
    crn_for_ranges(e, n, GRAIN, add_range, &job);
    return 0;
}

int crn_cpu_argmax(const struct crn_exec *e, const float *x, size_t n, uint32_t *out_index)
{
    (void)e;
    if (n == 0 || n > UINT32_MAX)
        return CAIRN_E_ARG;
    float best = crn_simd()->highest(x, n);
    size_t i = 0;
    while (i < n && !(x[i] == best))
        i++;
    *out_index = i < n ? (uint32_t)i : 0; /* nothing but NaN: the first */
    return 0;
}
