/* cpu_move - gather, split into heads, conversion: what moves numbers. Bit for bit as the reference. */
#include "kernels/cpu.h"
#include "kernels/half.h"
#include "kernels/shape.h"
#include "kernels/simd.h"

#include <string.h>

enum {
    GRAIN_BYTES = 128 * 1024,
    GRAIN = 32 * 1024, /* numbers */
    PIECE = 1024,      /* numbers converted by way of f32 at a time */
};

/* --- gather --- */

struct gather_job {
    const char *src;
    size_t row_bytes;
    const uint32_t *index;
    char *out;
};

static void gather_rows(void *ctx, size_t begin, size_t end)
{
    const struct gather_job *j = ctx;
    for (size_t i = begin; i < end; i++)
        memcpy(j->out + i * j->row_bytes, j->src + j->index[i] * j->row_bytes, j->row_bytes);
}

int crn_cpu_gather(const struct crn_exec *e, const void *src, size_t src_rows, size_t row_bytes, const uint32_t *index,
                   size_t n, void *out)
{
    uint32_t highest = 0;
    for (size_t i = 0; i < n; i++)
        highest = index[i] > highest ? index[i] : highest;
    if (n != 0 && highest >= src_rows)
        return CAIRN_E_ARG;
    if (n == 0 || row_bytes == 0)
        return 0;
    struct gather_job job = { src, row_bytes, index, out };
    crn_for_ranges(e, n, GRAIN_BYTES / row_bytes, gather_rows, &job);
    return 0;
}

/* --- conversion --- */

/* n numbers of one type to another, by way of f32 where neither is f32: every 16-bit number is exact in f32. */
static void convert_run(const void *src, uint32_t src_dtype, size_t n, uint32_t dst_dtype, void *out)
{
    const struct crn_simd_ops *simd = crn_simd();
    if (src_dtype == dst_dtype) {
        memcpy(out, src, n * cairn_dtype_bytes(src_dtype));
        return;
    }
    if (src_dtype == CAIRN_F32) {
        simd->narrow(src, n, dst_dtype, out);
        return;
    }
    float wide[PIECE];
    for (size_t i = 0; i < n; i += PIECE) {
        size_t count = n - i < PIECE ? n - i : PIECE;
        struct crn_stored_rows rows = { .data = (const uint16_t *)src + i, .dtype = src_dtype, .n = 1, .dh = count };
        if (dst_dtype == CAIRN_F32) {
            simd->widen_rows(&rows, (float *)out + i, count);
            continue;
        }
        simd->widen_rows(&rows, wide, count);
        simd->narrow(wide, count, dst_dtype, (uint16_t *)out + i);
    }
}

struct convert_job {
    const char *src;
    char *out;
    uint32_t src_dtype, dst_dtype;
};

static void convert_range(void *ctx, size_t begin, size_t end)
{
    const struct convert_job *j = ctx;
    convert_run(j->src + begin * cairn_dtype_bytes(j->src_dtype), j->src_dtype, end - begin, j->dst_dtype,
                j->out + begin * cairn_dtype_bytes(j->dst_dtype));
}

int crn_cpu_convert(const struct crn_exec *e, const void *src, uint32_t src_dtype, size_t n, uint32_t dst_dtype, void *out)
{
    if (crn_check_float_dtype(src_dtype) != 0 || crn_check_float_dtype(dst_dtype) != 0)
        return CAIRN_E_ARG;
    struct convert_job job = { src, out, src_dtype, dst_dtype };
    crn_for_ranges(e, n, GRAIN, convert_range, &job);
    return 0;
}

/* --- split into heads --- */

struct split_job {
    const float *x;
    size_t n, g, dh, stride;
    uint32_t dtype;
    char *out;
};

/* Tokens begin .. end-1 of every head: reads run on, writes go to one stream per head. */
static void split_rows(void *ctx, size_t begin, size_t end)
{
    const struct split_job *j = ctx;
    size_t row_bytes = j->dh * cairn_dtype_bytes(j->dtype);
    for (size_t i = begin; i < end; i++)
        for (size_t h = 0; h < j->g; h++)
            convert_run(j->x + (i * j->g + h) * j->dh, CAIRN_F32, j->dh, j->dtype,
                        j->out + (h * j->stride + i) * row_bytes);
}

int crn_cpu_split_heads(const struct crn_exec *e, const float *x, size_t n, size_t g, size_t dh, uint32_t dtype,
                        size_t stride, void *out)
{
    if (crn_check_float_dtype(dtype) != 0 || stride < n)
        return CAIRN_E_ARG;
    if (g == 0 || dh == 0)
        return 0;
    struct split_job job = { x, n, g, dh, stride, dtype, out };
    crn_for_ranges(e, n, GRAIN / (g * dh), split_rows, &job);
    return 0;
}
