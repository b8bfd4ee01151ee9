/* kernels - the table of backends, and the checks that all of them share (kernels/shape.h). */
#include "kernels/kernels.h"

#include "kernels/half.h"
#include "kernels/shape.h"

#include <stdbool.h>
#include <string.h>

const struct crn_kernel_ops *crn_kernels_named(const char *name)
{
    static const struct crn_kernel_ops *const all[] = {
        &crn_kernels_ref,
        &crn_kernels_cpu,
#ifdef CRN_CUDA
        &crn_kernels_cuda,
#endif
    };
    for (size_t i = 0; name != NULL && i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i]->name, name) == 0)
            return all[i];
    return NULL;
}

const struct crn_kernel_ops *crn_kernels_host(void)
{
    char why[64];
    return crn_kernels_cpu.probe(why, sizeof why) ? &crn_kernels_cpu : &crn_kernels_ref;
}

size_t crn_weight_row_bytes(uint32_t type, size_t cols)
{
    bool whole_blocks = cols % CRN_QUANT_BLOCK == 0;
    size_t blocks = cols / CRN_QUANT_BLOCK;
    switch (type) {
    case CRN_W_F32:
        return cols * sizeof(float);
    case CRN_W_BF16:
        return cols * sizeof(uint16_t);
    case CRN_W_Q8_0:
        return whole_blocks ? blocks * sizeof(struct crn_block_q8_0) : 0;
    case CRN_W_Q4_0:
        return whole_blocks ? blocks * sizeof(struct crn_block_q4_0) : 0;
    case CRN_W_Q4_1:
        return whole_blocks ? blocks * sizeof(struct crn_block_q4_1) : 0;
    default:
        return 0;
    }
}

static void row_q8_0(const struct crn_block_q8_0 *b, size_t blocks, float *out)
{
    for (size_t i = 0; i < blocks; i++, b++) {
        float d = crn_f16_to_f32(b->d);
        for (size_t j = 0; j < 32; j++)
            *out++ = d * (float)b->q[j];
    }
}

static void row_q4_0(const struct crn_block_q4_0 *b, size_t blocks, float *out)
{
    for (size_t i = 0; i < blocks; i++, b++, out += 32) {
        float d = crn_f16_to_f32(b->d);
        for (size_t j = 0; j < 16; j++) {
            out[j] = d * (float)((b->q[j] & 15) - 8);
            out[j + 16] = d * (float)((b->q[j] >> 4) - 8);
        }
    }
}

static void row_q4_1(const struct crn_block_q4_1 *b, size_t blocks, float *out)
{
    for (size_t i = 0; i < blocks; i++, b++, out += 32) {
        float d = crn_f16_to_f32(b->d), m = crn_f16_to_f32(b->m);
        for (size_t j = 0; j < 16; j++) {
            out[j] = d * (float)(b->q[j] & 15) + m;
            out[j + 16] = d * (float)(b->q[j] >> 4) + m;
        }
    }
}

void crn_weight_row(const struct crn_matrix *w, size_t row, float *out)
{
    const char *at = (const char *)w->data + row * crn_weight_row_bytes(w->type, w->cols);
    const void *data = at;
    size_t blocks = w->cols / CRN_QUANT_BLOCK;
    switch (w->type) {
    case CRN_W_F32:
        memcpy(out, data, w->cols * sizeof *out);
        return;
    case CRN_W_BF16:
        for (size_t j = 0; j < w->cols; j++)
            out[j] = crn_bf16_to_f32(((const uint16_t *)data)[j]);
        return;
    case CRN_W_Q8_0:
        row_q8_0(data, blocks, out);
        return;
    case CRN_W_Q4_0:
        row_q4_0(data, blocks, out);
        return;
    default:
        row_q4_1(data, blocks, out);
    }
}

int crn_check_float_dtype(uint32_t dtype)
{
    return dtype == CAIRN_F32 || dtype == CAIRN_F16 || dtype == CAIRN_BF16 ? 0 : CAIRN_E_ARG;
}

static int check_span(const struct crn_attention *a, const struct crn_span *s)
{
    if (s->q_begin > s->q_end || s->q_end > a->n_q || s->heads == NULL)
        return CAIRN_E_ARG;
    if (s->dtype != CAIRN_I8)
        return crn_check_float_dtype(s->dtype);
    for (uint32_t g = 0; g < a->n_kv_heads; g++)
        if (s->heads[g].n != 0 && (s->heads[g].k_scale == NULL || s->heads[g].v_scale == NULL))
            return CAIRN_E_ARG;
    return 0;
}

int crn_check_attention(const struct crn_attention *a)
{
    if (a->n_kv_heads == 0 || a->n_heads == 0 || a->n_heads % a->n_kv_heads != 0)
        return CAIRN_E_ARG;
    if (a->head_dim == 0 || a->head_dim > CAIRN_MAX_HEAD_DIM)
        return CAIRN_E_ARG;
    for (uint32_t i = 0; i < a->n_spans; i++) {
        int rc = check_span(a, &a->spans[i]);
        if (rc != 0)
            return rc;
    }
    return 0;
}

int crn_check_scores(const struct crn_scores *s)
{
    const struct crn_attention *a = &s->attention;
    if (s->reduce < CRN_REDUCE_MEAN_ALL || s->reduce > CRN_REDUCE_KV_MAX || s->target >= a->n_spans)
        return CAIRN_E_ARG;
    int rc = crn_check_attention(a);
    if (rc != 0)
        return rc;
    const struct crn_kv_head *heads = a->spans[s->target].heads;
    for (uint32_t g = 1; s->reduce == CRN_REDUCE_MEAN_ALL && g < a->n_kv_heads; g++)
        if (heads[g].n != heads[0].n)
            return CAIRN_E_ARG;
    return 0;
}

uint16_t crn_quant_scale(float max)
{
    uint16_t half = crn_f16_from_f32(max / 127.0f);
    if (half >= 0x7c00u)
        return 0x7bffu;
    if (crn_f16_to_f32(half) * 127.0f < max)
        half++;
    return half < 0x7c00u ? half : 0x7bffu;
}
