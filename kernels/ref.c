/* ref - the scalar definition of every operation: what the numbers mean, not how to get them fast.
 *
 * Sums are kept in double where float32 would make the definition depend on the order of summation. It uses the calling
 * thread only, reads what it is given and writes the output; -ffast-math would change its meaning and is never used. */
#include "kernels/kernels.h"

#include "kernels/check.h"
#include "kernels/half.h"
#include "kernels/shape.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

static int ref_probe(char *why, size_t why_bytes)
{
    (void)why;
    (void)why_bytes;
    return 1;
}

static int ref_rmsnorm(const struct crn_exec *e, const float *x, const float *gain, size_t n, size_t d, float eps,
                       float *out)
{
    (void)e;
    for (size_t i = 0; i < n; i++, x += d, out += d) {
        double sum = 0;
        for (size_t c = 0; c < d; c++)
            sum += (double)x[c] * x[c];
        double inverse = 1.0 / sqrt(sum / (double)d + (double)eps);
        for (size_t c = 0; c < d; c++)
            out[c] = (float)(x[c] * inverse * gain[c]);
    }
    return 0;
}

static void rope_head(const struct crn_rope *r, int32_t pos, float *x)
{
    size_t half = r->head_dim / 2;
    for (size_t i = 0; i < half; i++) {
        float angle = (float)pos * r->inv_freq[i];
        double c = cos((double)angle), s = sin((double)angle);
        double a = x[i], b = x[i + half];
        x[i] = (float)(a * c - b * s);
        x[i + half] = (float)(b * c + a * s);
    }
}

static int ref_rope(const struct crn_exec *e, const struct crn_rope *r, const int32_t *pos, size_t n, size_t heads, float *x)
{
    (void)e;
    if (r->head_dim == 0 || r->head_dim % 2 != 0)
        return CAIRN_E_ARG;
    for (size_t i = 0; i < n; i++)
        for (size_t h = 0; h < heads; h++)
            rope_head(r, pos[i], x + (i * heads + h) * r->head_dim);
    return 0;
}

/* --- gemm --- */

/* Numbers of a weight row that are decoded at a time: a multiple of the quantised block. */
enum { REF_PIECE = 256 };

/* a . W[row], decoded piece by piece: a piece is a one-row matrix of its own. */
static double dot_row(const float *a, const struct crn_matrix *w, size_t row)
{
    float piece[REF_PIECE];
    const char *at = (const char *)w->data + row * crn_weight_row_bytes(w->type, w->cols);
    double sum = 0;
    for (uint32_t k = 0; k < w->cols; k += REF_PIECE) {
        uint32_t count = w->cols - k < REF_PIECE ? w->cols - k : REF_PIECE;
        struct crn_matrix part = { at + crn_weight_row_bytes(w->type, k), w->type, 1, count };
        crn_weight_row(&part, 0, piece);
        for (uint32_t j = 0; j < count; j++)
            sum += (double)a[k + j] * piece[j];
    }
    return sum;
}

static int ref_gemm(const struct crn_exec *e, const float *a, size_t m, const struct crn_matrix *w, float beta, float *out)
{
    (void)e;
    if (crn_weight_row_bytes(w->type, w->cols) == 0 && w->cols != 0)
        return CAIRN_E_ARG;
    if (w->type < CRN_W_F32 || w->type > CRN_W_Q4_1 || (beta != 0.0f && beta != 1.0f))
        return CAIRN_E_ARG;
    for (size_t i = 0; i < m; i++)
        for (size_t r = 0; r < w->rows; r++) {
            double sum = dot_row(a + i * w->cols, w, r);
            float *to = &out[i * w->rows + r];
            *to = (float)(beta != 0.0f ? (double)*to + sum : sum);
        }
    return 0;
}

/* --- attention --- */

/* Number c of row j of keys or values. */
static float stored(uint32_t dtype, const void *base, size_t index)
{
    switch (dtype) {
    case CAIRN_F32:
        return ((const float *)base)[index];
    case CAIRN_F16:
        return crn_f16_to_f32(((const uint16_t *)base)[index]);
    case CAIRN_BF16:
        return crn_bf16_to_f32(((const uint16_t *)base)[index]);
    default:
        return (float)((const int8_t *)base)[index];
    }
}

static float key_at(const struct crn_span *s, const struct crn_kv_head *h, size_t dh, size_t j, size_t c)
{
    float k = stored(s->dtype, h->k, j * dh + c);
    return s->dtype == CAIRN_I8 ? k * crn_f16_to_f32(h->k_scale[j / CRN_SCALE_ROWS * dh + c]) : k;
}

static float value_at(const struct crn_span *s, const struct crn_kv_head *h, size_t dh, size_t j, size_t c)
{
    float v = stored(s->dtype, h->v, j * dh + c);
    return s->dtype == CAIRN_I8 ? v * crn_f16_to_f32(h->v_scale[j]) : v;
}

#define LOG2_E 1.4426950408889634

/* One (query, head): its softmax is p(s) = exp(s - max) / sum over the visible keys of all spans. */
struct ref_row {
    const struct crn_attention *a;
    uint32_t query, head;
    double max, sum;
};

static const struct crn_kv_head *row_keys(const struct ref_row *row, const struct crn_span *s)
{
    return &s->heads[row->head / (row->a->n_heads / row->a->n_kv_heads)];
}

static bool visible(const struct ref_row *row, const struct crn_span *s, size_t j)
{
    if (row->query < s->q_begin || row->query >= s->q_end)
        return false;
    return row_keys(row, s)->pos[j] <= row->a->q_pos[row->query];
}

static double row_score(const struct ref_row *row, const struct crn_span *s, size_t j)
{
    size_t dh = row->a->head_dim;
    const float *q = row->a->q + ((size_t)row->query * row->a->n_heads + row->head) * dh;
    double dot = 0;
    for (size_t c = 0; c < dh; c++)
        dot += (double)q[c] * key_at(s, row_keys(row, s), dh, j, c);
    return dot * (double)row->a->scale;
}

static void row_max(struct ref_row *row)
{
    row->max = -(double)FLT_MAX; /* finite, so that a row of -inf has weight 0 and not NaN */
    for (uint32_t i = 0; i < row->a->n_spans; i++) {
        const struct crn_span *s = &row->a->spans[i];
        for (size_t j = 0; j < row_keys(row, s)->n; j++)
            if (visible(row, s, j))
                row->max = fmax(row->max, row_score(row, s, j));
    }
}

/* Adds up exp(score - max) into sum and, when acc is given, exp(score - max) v into acc [dh]. */
static void row_sum(struct ref_row *row, double *acc)
{
    size_t dh = row->a->head_dim;
    row->sum = 0;
    for (uint32_t i = 0; i < row->a->n_spans; i++) {
        const struct crn_span *s = &row->a->spans[i];
        for (size_t j = 0; j < row_keys(row, s)->n; j++) {
            if (!visible(row, s, j))
                continue;
            double p = exp(row_score(row, s, j) - row->max);
            row->sum += p;
            for (size_t c = 0; acc != NULL && c < dh; c++)
                acc[c] += p * value_at(s, row_keys(row, s), dh, j, c);
        }
    }
}

static int ref_attention(const struct crn_exec *e, const struct crn_attention *a, float *out)
{
    (void)e;
    int rc = crn_check_attention(a);
    if (rc != 0)
        return rc;
    for (uint32_t i = 0; i < a->n_q; i++)
        for (uint32_t h = 0; h < a->n_heads; h++, out += a->head_dim) {
            double acc[CAIRN_MAX_HEAD_DIM] = { 0 };
            struct ref_row row = { .a = a, .query = i, .head = h };
            row_max(&row);
            row_sum(&row, acc);
            for (size_t c = 0; c < a->head_dim; c++)
                out[c] = row.sum == 0 ? 0.0f : (float)(acc[c] / row.sum);
            if (a->lse != NULL)
                a->lse[(size_t)i * a->n_heads + h] = row.sum == 0 ? -INFINITY : (float)(row.max * LOG2_E + log2(row.sum));
        }
    return 0;
}

/* --- scores --- */

/* Where the scores of a KV head begin, and how many numbers all of them are. */
static size_t scores_offset(const struct crn_scores *s, uint32_t kv_head)
{
    const struct crn_kv_head *heads = s->attention.spans[s->target].heads;
    if (s->reduce == CRN_REDUCE_MEAN_ALL)
        return kv_head < s->attention.n_kv_heads ? 0 : heads[0].n;
    size_t offset = 0;
    for (uint32_t g = 0; g < kv_head; g++)
        offset += heads[g].n;
    return offset;
}

static double scores_divisor(const struct crn_scores *s)
{
    const struct crn_attention *a = &s->attention;
    uint32_t heads = s->reduce == CRN_REDUCE_MEAN_ALL ? a->n_heads : a->n_heads / a->n_kv_heads;
    uint32_t queries = s->total_queries != 0 ? s->total_queries : a->n_q;
    return (double)queries * heads;
}

/* max and sum, or numbers that stand for them. */
static void row_softmax(struct ref_row *row)
{
    if (row->a->lse != NULL) {
        row->max = (double)row->a->lse[(size_t)row->query * row->a->n_heads + row->head] / LOG2_E;
        row->sum = row->max == -(double)INFINITY ? 0 : 1;
        return;
    }
    row_max(row);
    row_sum(row, NULL);
}

/* Adds the probabilities of one (query, head) to the scores of its keys, or takes the maximum. */
static void score_row(const struct crn_scores *s, struct ref_row *row, float *out)
{
    const struct crn_span *target = &s->attention.spans[s->target];
    double weight = s->q_weight != NULL ? (double)s->q_weight[row->query] : 1.0;
    row_softmax(row);
    for (size_t j = 0; row->sum != 0 && j < row_keys(row, target)->n; j++) {
        if (!visible(row, target, j))
            continue;
        double p = exp(row_score(row, target, j) - row->max) / row->sum;
        if (s->reduce == CRN_REDUCE_KV_MAX)
            out[j] = (float)fmax((double)out[j], p);
        else
            out[j] = (float)((double)out[j] + p * weight / scores_divisor(s));
    }
}

static int ref_scores(const struct crn_exec *e, const struct crn_scores *s, float *out)
{
    (void)e;
    int rc = crn_check_scores(s);
    if (rc != 0)
        return rc;
    const struct crn_attention *a = &s->attention;
    uint32_t group = a->n_heads / a->n_kv_heads;
    for (size_t j = 0; !s->accumulate && j < scores_offset(s, a->n_kv_heads); j++)
        out[j] = 0;
    for (uint32_t i = 0; i < a->n_q; i++)
        for (uint32_t h = 0; h < a->n_heads; h++) {
            struct ref_row row = { .a = a, .query = i, .head = h };
            score_row(s, &row, out + scores_offset(s, h / group));
        }
    return 0;
}

/* --- selection and movement --- */

/* Does score i come before score j when the highest come first? NaN is last, ties go to the lower index. */
static bool before(const float *score, size_t i, size_t j)
{
    bool i_nan = isnan(score[i]), j_nan = isnan(score[j]);
    if (i_nan != j_nan)
        return j_nan;
    if (!i_nan && score[i] != score[j])
        return score[i] > score[j];
    return i < j;
}

static int ref_topk(const struct crn_exec *e, const float *score, size_t n, size_t k, uint32_t *out_index)
{
    (void)e;
    if (k > n || n > UINT32_MAX)
        return CAIRN_E_ARG;
    for (size_t i = 0; i < n; i++) {
        size_t rank = 0;
        for (size_t j = 0; j < n; j++)
            rank += before(score, j, i);
        if (rank < k)
            *out_index++ = (uint32_t)i;
    }
    return 0;
}

static int ref_gather(const struct crn_exec *e, const void *src, size_t src_rows, size_t row_bytes, const uint32_t *index,
                      size_t n, void *out)
{
    (void)e;
    for (size_t i = 0; i < n; i++) {
        if (index[i] >= src_rows)
            return CAIRN_E_ARG;
        memcpy((char *)out + i * row_bytes, (const char *)src + index[i] * row_bytes, row_bytes);
    }
    return 0;
}

static int ref_argmax(const struct crn_exec *e, const float *x, size_t n, uint32_t *out_index)
{
    (void)e;
    if (n == 0 || n > UINT32_MAX)
        return CAIRN_E_ARG;
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (before(x, i, best))
            best = i;
    *out_index = (uint32_t)best;
    return 0;
}

/* --- element by element --- */

static int ref_swiglu(const struct crn_exec *e, const float *gate, const float *up, size_t n, float *out)
{
    (void)e;
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(gate[i] / (1.0 + exp(-(double)gate[i])) * up[i]);
    return 0;
}

static int ref_add(const struct crn_exec *e, const float *y, size_t n, float *x)
{
    (void)e;
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
    return 0;
}

static void store(uint32_t dtype, float x, void *base, size_t index)
{
    if (dtype == CAIRN_F32)
        ((float *)base)[index] = x;
    else
        ((uint16_t *)base)[index] = dtype == CAIRN_F16 ? crn_f16_from_f32(x) : crn_bf16_from_f32(x);
}

static int ref_split_heads(const struct crn_exec *e, const float *x, size_t n, size_t g, size_t dh, uint32_t dtype,
                           size_t stride, void *out)
{
    (void)e;
    if (crn_check_float_dtype(dtype) != 0 || stride < n)
        return CAIRN_E_ARG;
    for (size_t i = 0; i < n; i++)
        for (size_t h = 0; h < g; h++)
            for (size_t c = 0; c < dh; c++)
                store(dtype, x[(i * g + h) * dh + c], out, (h * stride + i) * dh + c);
    return 0;
}

static int ref_convert(const struct crn_exec *e, const void *src, uint32_t src_dtype, size_t n, uint32_t dst_dtype, void *out)
{
    (void)e;
    if (crn_check_float_dtype(src_dtype) != 0 || crn_check_float_dtype(dst_dtype) != 0)
        return CAIRN_E_ARG;
    if (src_dtype == dst_dtype) {
        if (n != 0)
            memcpy(out, src, n * cairn_dtype_bytes(src_dtype));
        return 0;
    }
    for (size_t i = 0; i < n; i++)
        store(dst_dtype, stored(src_dtype, src, i), out, i);
    return 0;
}

/* --- int8 --- */

/* x / s to the nearest integer, ties to even, at most 127 in size; s = 0 and NaN give 0. */
static int8_t quantise(float x, float s)
{
    if (s == 0 || isnan(x))
        return 0;
    return (int8_t)fmaxf(-127.0f, fminf(127.0f, rintf(x / s)));
}

/* Quantises `count` numbers that lie `step` apart and share one scale. */
static uint16_t quant_group(const float *x, size_t count, size_t step, int8_t *q)
{
    float max = 0;
    for (size_t i = 0; i < count; i++)
        max = fmaxf(max, fabsf(x[i * step])); /* skips NaN */
    uint16_t scale = crn_quant_scale(max);
    for (size_t i = 0; i < count; i++)
        q[i * step] = quantise(x[i * step], crn_f16_to_f32(scale));
    return scale;
}

static int ref_quant_k(const struct crn_exec *e, const float *x, size_t n, size_t dh, int8_t *q, uint16_t *scale)
{
    (void)e;
    for (size_t i = 0; i < n; i += CRN_SCALE_ROWS) {
        size_t rows = n - i < CRN_SCALE_ROWS ? n - i : CRN_SCALE_ROWS;
        for (size_t c = 0; c < dh; c++)
            *scale++ = quant_group(x + i * dh + c, rows, dh, q + i * dh + c);
    }
    return 0;
}

static int ref_quant_rows(const struct crn_exec *e, const float *x, size_t n, size_t d, size_t group, int8_t *q,
                          uint16_t *scale)
{
    (void)e;
    if (group == 0 || d % group != 0)
        return CAIRN_E_ARG;
    for (size_t i = 0; i < n * d; i += group)
        *scale++ = quant_group(x + i, group, 1, q + i);
    return 0;
}

static int ref_dequant_k(const struct crn_exec *e, const int8_t *q, const uint16_t *scale, size_t n, size_t dh, float *out)
{
    (void)e;
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < dh; c++)
            out[i * dh + c] = (float)q[i * dh + c] * crn_f16_to_f32(scale[i / CRN_SCALE_ROWS * dh + c]);
    return 0;
}

static int ref_dequant_rows(const struct crn_exec *e, const int8_t *q, const uint16_t *scale, size_t n, size_t d,
                            size_t group, float *out)
{
    (void)e;
    if (group == 0 || d % group != 0)
        return CAIRN_E_ARG;
    for (size_t i = 0; i < n * d; i++)
        out[i] = (float)q[i] * crn_f16_to_f32(scale[i / group]);
    return 0;
}

const struct crn_kernel_ops crn_kernels_ref = {
    .name = "ref",
    .probe = ref_probe,
    .rmsnorm = ref_rmsnorm,
    .rope = ref_rope,
    .gemm = ref_gemm,
    .attention = ref_attention,
    .scores = ref_scores,
    .topk = ref_topk,
    .gather = ref_gather,
    .swiglu = ref_swiglu,
    .add = ref_add,
    .split_heads = ref_split_heads,
    .convert = ref_convert,
    .quant_k = ref_quant_k,
    .quant_rows = ref_quant_rows,
    .dequant_k = ref_dequant_k,
    .dequant_rows = ref_dequant_rows,
    .argmax = ref_argmax,
    .checksum = crn_host_checksum,
    .max_abs = crn_host_max_abs,
};
