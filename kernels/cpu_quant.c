/* cpu_quant - int8 with f16 scales, both ways. Bit for bit as the reference: divisions are divisions. */
#include "kernels/cpu.h"
#include "kernels/shape.h"
#include "kernels/simd.h"

enum { GRAIN = 32 * 1024 }; /* numbers */

struct quant_job {
    const float *x;
    int8_t *q;
    uint16_t *scale;
    size_t n, width;
};

/* Blocks of CRN_SCALE_ROWS tokens. */
static void quant_k_blocks(void *ctx, size_t begin, size_t end)
{
    const struct quant_job *j = ctx;
    for (size_t b = begin; b < end; b++) {
        size_t row = b * CRN_SCALE_ROWS, left = j->n - row, at = row * j->width;
        crn_simd()->quant_columns(j->x + at, left < CRN_SCALE_ROWS ? left : CRN_SCALE_ROWS, j->width, j->q + at,
                                  j->scale + b * j->width);
    }
}

int crn_cpu_quant_k(const struct crn_exec *e, const float *x, size_t n, size_t dh, int8_t *q, uint16_t *scale)
{
    if (dh == 0)
        return 0;
    struct quant_job job = { x, q, scale, n, dh };
    crn_for_ranges(e, (n + CRN_SCALE_ROWS - 1) / CRN_SCALE_ROWS, GRAIN / (CRN_SCALE_ROWS * dh), quant_k_blocks, &job);
    return 0;
}

static void quant_groups(void *ctx, size_t begin, size_t end)
{
    const struct quant_job *j = ctx;
    size_t at = begin * j->width;
    crn_simd()->quant_rows(j->x + at, end - begin, j->width, j->q + at, j->scale + begin);
}

int crn_cpu_quant_rows(const struct crn_exec *e, const float *x, size_t n, size_t d, size_t group, int8_t *q,
                       uint16_t *scale)
{
    if (group == 0 || d % group != 0)
        return CAIRN_E_ARG;
    struct quant_job job = { x, q, scale, n, group };
    crn_for_ranges(e, n * (d / group), GRAIN / group, quant_groups, &job);
    return 0;
}

struct dequant_job {
    const int8_t *q;
    const uint16_t *scale;
    size_t n, width;
    float *out;
};

static void dequant_k_blocks(void *ctx, size_t begin, size_t end)
{
    const struct dequant_job *j = ctx;
    for (size_t b = begin; b < end; b++) {
        size_t row = b * CRN_SCALE_ROWS, left = j->n - row;
        struct crn_stored_rows rows = {
            .data = j->q + row * j->width,
            .dtype = CAIRN_I8,
            .n = left < CRN_SCALE_ROWS ? left : CRN_SCALE_ROWS,
            .dh = j->width,
            .column_scale = j->scale + b * j->width,
        };
        crn_simd()->widen_rows(&rows, j->out + row * j->width, j->width);
    }
}

int crn_cpu_dequant_k(const struct crn_exec *e, const int8_t *q, const uint16_t *scale, size_t n, size_t dh, float *out)
{
    if (dh == 0)
        return 0;
    struct dequant_job job = { q, scale, n, dh, out };
    crn_for_ranges(e, (n + CRN_SCALE_ROWS - 1) / CRN_SCALE_ROWS, GRAIN / (CRN_SCALE_ROWS * dh), dequant_k_blocks, &job);
    return 0;
}

static void dequant_groups(void *ctx, size_t begin, size_t end)
{
    const struct dequant_job *j = ctx;
    struct crn_stored_rows rows = {
        .data = j->q + begin * j->width,
        .dtype = CAIRN_I8,
        .n = end - begin,
        .dh = j->width,
        .row_scale = j->scale + begin,
    };
    crn_simd()->widen_rows(&rows, j->out + begin * j->width, j->width);
}

int crn_cpu_dequant_rows(const struct crn_exec *e, const int8_t *q, const uint16_t *scale, size_t n, size_t d, size_t group,
                         float *out)
{
    if (group == 0 || d % group != 0)
        return CAIRN_E_ARG;
    struct dequant_job job = { q, scale, n, group, out };
    crn_for_ranges(e, n * (d / group), GRAIN / group, dequant_groups, &job);
    return 0;
}
