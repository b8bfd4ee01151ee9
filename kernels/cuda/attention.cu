/* Between the two products of attention: masking by position, softmax, narrowing, and the reduction of probabilities to scores.
 * A block per row for the softmax; everything else walks over columns, so that neighbours read neighbours. */
#include "kernels/cuda/common.cuh"

static __global__ void mask(crn_cuda_columns c)
{
    uint32_t query = blockIdx.x % c.n_q;
    float *row = c.s + (size_t)blockIdx.x * c.ld;
    bool sees = query >= c.q_begin && query < c.q_end;
    int32_t at = c.q_pos[query];
    for (size_t j = threadIdx.x; j < c.n; j += CRN_THREADS) {
        if (!sees || c.pos[j] > at)
            row[j] = -INFINITY;
    }
}

extern "C" int crn_cuda_mask(crn_cuda_stream s, const crn_cuda_columns *c)
{
    unsigned rows = c->group * c->n_q;
    return rows == 0 || c->n == 0 ? 0 : CRN_LAUNCH(mask, rows, CRN_THREADS, 0, s, *c);
}

/* fmaxf skips NaN, and the maximum starts at a finite number: a row of -inf has weight 0, a NaN makes its row NaN. */
static __global__ void softmax(float *rows, size_t columns)
{
    CRN_SHARED(float, scratch, 0, CRN_WARPS + 1);
    float *row = rows + (size_t)blockIdx.x * columns;
    float max = -3.402823466e38f;
    for (size_t j = threadIdx.x; j < columns; j += CRN_THREADS)
        max = fmaxf(max, row[j]);
    max = crn_block_max(max, scratch);
    float sum = 0;
    for (size_t j = threadIdx.x; j < columns; j += CRN_THREADS) {
        float p = expf(row[j] - max);
        row[j] = p;
        sum += p;
    }
    sum = crn_block_sum(sum, scratch);
    for (size_t j = threadIdx.x; j < columns; j += CRN_THREADS)
        row[j] = sum == 0 ? 0.0f : row[j] / sum;
}

extern "C" int crn_cuda_softmax(crn_cuda_stream s, float *rows, size_t n_rows, size_t columns)
{
    if (n_rows == 0 || columns == 0)
        return 0;
    return CRN_LAUNCH(softmax, (unsigned)n_rows, CRN_THREADS, (CRN_WARPS + 1) * sizeof(float), s, rows, columns);
}

static __global__ void narrow(crn_cuda_columns c, uint32_t dtype, void *out)
{
    const float *row = c.s + (size_t)blockIdx.x * c.ld;
    for (size_t j = threadIdx.x; j < c.n; j += CRN_THREADS)
        crn_store(out, dtype, (size_t)blockIdx.x * c.n + j, row[j]);
}

extern "C" int crn_cuda_narrow(crn_cuda_stream s, const crn_cuda_columns *c, uint32_t dtype, void *out)
{
    unsigned rows = c->group * c->n_q;
    return rows == 0 || c->n == 0 ? 0 : CRN_LAUNCH(narrow, rows, CRN_THREADS, 0, s, *c, dtype, out);
}

static __global__ void narrow_queries(crn_cuda_columns c, uint32_t dtype, void *out)
{
    size_t query = blockIdx.x % c.n_q, head = blockIdx.x / c.n_q;
    const float *row = c.s + query * c.ld + head * c.n;
    for (size_t j = threadIdx.x; j < c.n; j += CRN_THREADS)
        crn_store(out, dtype, (size_t)blockIdx.x * c.n + j, row[j]);
}

extern "C" int crn_cuda_narrow_queries(crn_cuda_stream s, const crn_cuda_columns *c, uint32_t dtype, void *out)
{
    unsigned rows = c->group * c->n_q;
    return rows == 0 || c->n == 0 ? 0 : CRN_LAUNCH(narrow_queries, rows, CRN_THREADS, 0, s, *c, dtype, out);
}

/* A thread per key adds the rows in order: deterministic. */
static __global__ void reduce(crn_cuda_columns c, crn_cuda_reduction r, float *out)
{
    size_t j = crn_first();
    if (j >= c.n)
        return;
    float total = 0;
    for (uint32_t query = 0; query < c.n_q; query++) {
        float weight = r.q_weight != nullptr ? r.q_weight[query] : 1.0f;
        for (uint32_t h = 0; h < c.group; h++) {
            float p = c.s[((size_t)h * c.n_q + query) * c.ld + j];
            total = r.maximum ? fmaxf(total, p) : total + p * weight;
        }
    }
    out[j] = r.maximum ? fmaxf(out[j], total) : out[j] + total / r.divisor;
}

extern "C" int crn_cuda_reduce(crn_cuda_stream s, const crn_cuda_columns *c, const crn_cuda_reduction *r, float *out)
{
    if (c->n == 0)
        return 0;
    return CRN_LAUNCH(reduce, (c->n + CRN_THREADS - 1) / CRN_THREADS, CRN_THREADS, 0, s, *c, *r, out);
}
