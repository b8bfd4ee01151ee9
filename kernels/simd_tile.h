/* simd_tile - one attention tile: scores, online softmax, weighted sum of values. Part of simd_table.h.
 *
 * Rows are worked on in groups of at most six whose scores stay in the first-level cache: scores = q . kt by a product
 * blocked for registers, softmax in place, acc = acc * correction + p . v by the same product.
 * Every number is one chain of v_fma in the order of channels (scores) or keys (values), whatever group its row is in, and
 * a masked key adds exactly 0: so a row's result does not depend on the other rows, as long as values are finite. */
#ifndef CRN_KERNELS_SIMD_TILE_H
#define CRN_KERNELS_SIMD_TILE_H

#include <math.h>

enum {
    TILE_VECTORS = CRN_TILE_KEYS / CRN_LANES,
    GROUP_ROWS = 6,
    GROUP_PAD = 16,    /* GROUP_ROWS in whole vectors */
    BLOCK_VECTORS = 8, /* the widest block of a product */
};

/* A group's scores, then its probabilities. */
struct tile_group {
    size_t first, n_keys, columns; /* first row; highest number of visible keys; the same in whole blocks */
    float score[GROUP_ROWS][CRN_TILE_KEYS];
};

/* Width of a register block in vectors: rows x width accumulators + width + 1 fit 16 registers (AVX-512: 32), and at least
 * 8 accumulators hide the latency of v_fma. */
V_INLINE size_t block_width(size_t rows)
{
    size_t width = rows == 1 ? 8 : rows <= 3 || CRN_LANES == 16 ? 4 : 2;
    return width < TILE_VECTORS ? width : TILE_VECTORS;
}

/* acc += a [rows][a_stride] . b [depth][b_stride]; rows and width are known at compile time. */
V_INLINE void product(size_t rows, size_t width, size_t depth, const float *a, size_t a_stride, const float *b,
                      size_t b_stride, vf acc[GROUP_ROWS][BLOCK_VECTORS])
{
    for (size_t k = 0; k < depth; k++, b += b_stride) {
        vf column[BLOCK_VECTORS];
        V_UNROLL
        for (size_t v = 0; v < width; v++)
            column[v] = v_load(b + v * CRN_LANES);
        V_UNROLL
        for (size_t r = 0; r < rows; r++) {
            vf x = v_set1(a[r * a_stride + k]);
            V_UNROLL
            for (size_t v = 0; v < width; v++)
                acc[r][v] = v_fma(x, column[v], acc[r][v]);
        }
    }
}

static size_t group_visible(const struct crn_tile *t, size_t first, size_t rows)
{
    if (t->visible == NULL)
        return t->n_keys;
    size_t most = 0;
    for (size_t r = 0; r < rows; r++)
        most = t->visible[first + r] > most ? t->visible[first + r] : most;
    return most;
}

/* Scores of the group's rows; keys that a row does not see get -inf. */
V_INLINE void group_scores(const struct crn_tile *t, size_t rows, struct tile_group *g)
{
    size_t width = block_width(rows), step = width * CRN_LANES;
    const float *q = t->q + g->first * t->dh;
    for (g->columns = 0; g->columns < g->n_keys; g->columns += step) {
        vf acc[GROUP_ROWS][BLOCK_VECTORS] = { { { 0 } } };
        product(rows, width, t->dh, q, t->dh, t->kt + g->columns, CRN_TILE_KEYS, acc);
        V_UNROLL
        for (size_t r = 0; r < rows; r++)
            V_UNROLL
            for (size_t v = 0; v < width; v++)
                v_store(&g->score[r][g->columns + v * CRN_LANES], acc[r][v]);
    }
    for (size_t r = 0; r < rows; r++) {
        size_t visible = t->visible != NULL ? t->visible[g->first + r] : t->n_keys;
        for (size_t j = visible; j < g->columns; j++)
            g->score[r][j] = -INFINITY;
    }
}

/* Raises the group's maxima; out_correction: the factors for what was summed before. */
V_INLINE void group_maxima(const struct crn_tile *t, size_t rows, const struct tile_group *g, float *out_correction)
{
    float fall[GROUP_PAD] = { 0 };
    for (size_t r = 0; r < rows; r++) {
        vf high = v_load(g->score[r]);
        for (size_t j = CRN_LANES; j < g->columns; j += CRN_LANES)
            high = v_max(v_load(&g->score[r][j]), high);
        float highest = v_highest(high), old = t->max[g->first + r];
        float now = highest > old ? highest : old;
        t->max[g->first + r] = now;
        fall[r] = old - now;
    }
    for (size_t r = 0; r < rows; r += CRN_LANES)
        v_store(out_correction + r, v_exp2_negative(v_load(fall + r)));
}

/* Scores -> 2^(score - max), added to sum. */
V_INLINE void softmax_row(float *score, size_t columns, float max, float correction, float *sum)
{
    vf total = { 0 };
    for (size_t j = 0; j < columns; j += CRN_LANES) {
        vf p = v_exp2_negative(v_load(score + j) - max);
        v_store(score + j, p);
        total += p;
    }
    *sum = *sum * correction + v_sum(total);
}

/* product with b as f16 or bf16. */
V_INLINE void product_stored(size_t rows, size_t width, size_t depth, const float *a, size_t a_stride, uint32_t dtype,
                             const uint16_t *b, size_t b_stride, vf acc[GROUP_ROWS][BLOCK_VECTORS])
{
    for (size_t k = 0; k < depth; k++, b += b_stride) {
        vf column[BLOCK_VECTORS];
        V_UNROLL
        for (size_t v = 0; v < width; v++)
            column[v] = dtype == CAIRN_F16 ? v_from_f16(b + v * CRN_LANES) : v_from_bf16(b + v * CRN_LANES);
        V_UNROLL
        for (size_t r = 0; r < rows; r++) {
            vf x = v_set1(a[r * a_stride + k]);
            V_UNROLL
            for (size_t v = 0; v < width; v++)
                acc[r][v] = v_fma(x, column[v], acc[r][v]);
        }
    }
}

/* acc of one block of channels = acc * correction + p . v */
V_INLINE void block_values(const struct crn_tile *t, uint32_t dtype, size_t rows, size_t width, const struct tile_group *g,
                           const float *correction, size_t channel)
{
    float *out = t->acc + g->first * t->padded + channel;
    vf acc[GROUP_ROWS][BLOCK_VECTORS];
    V_UNROLL
    for (size_t r = 0; r < rows; r++)
        V_UNROLL
        for (size_t v = 0; v < width; v++)
            acc[r][v] = v_load(out + r * t->padded + v * CRN_LANES) * correction[r];
    if (dtype == CAIRN_F32)
        product(rows, width, g->n_keys, g->score[0], CRN_TILE_KEYS, t->v + channel, t->v_stride, acc);
    else
        product_stored(rows, width, g->n_keys, g->score[0], CRN_TILE_KEYS, dtype, t->v_stored + channel, t->v_stride, acc);
    V_UNROLL
    for (size_t r = 0; r < rows; r++)
        V_UNROLL
        for (size_t v = 0; v < width; v++)
            v_store(out + r * t->padded + v * CRN_LANES, acc[r][v]);
}

/* dtype of the values, known at compile time. */
V_INLINE void group_attend(const struct crn_tile *t, uint32_t dtype, size_t rows, size_t first)
{
    struct tile_group g = { .first = first, .n_keys = group_visible(t, first, rows) };
    if (g.n_keys == 0)
        return;
    group_scores(t, rows, &g);
    float correction[GROUP_PAD];
    group_maxima(t, rows, &g, correction);
    for (size_t r = 0; r < rows; r++)
        softmax_row(g.score[r], g.columns, t->max[first + r], correction[r], &t->sum[first + r]);
    if (t->acc == NULL)
        return;
    size_t width = block_width(rows), step = width * CRN_LANES, channel = 0;
    for (; channel + step <= t->padded; channel += step)
        block_values(t, dtype, rows, width, &g, correction, channel);
    for (; channel < t->padded; channel += CRN_LANES)
        block_values(t, dtype, rows, 1, &g, correction, channel);
}

/* Adds the group's probabilities to the scores of the keys. */
V_INLINE void group_add_scores(const struct crn_tile_scores *s, size_t rows, size_t first)
{
    const struct crn_tile *t = &s->tile;
    struct tile_group g = { .first = first, .n_keys = group_visible(t, first, rows) };
    if (g.n_keys == 0)
        return;
    group_scores(t, rows, &g);
    for (size_t j = 0; j < g.columns; j += CRN_LANES) {
        vf out = v_load(s->out + j);
        for (size_t r = 0; r < rows; r++) {
            vf p = v_exp2_negative(v_load(&g.score[r][j]) - t->max[first + r]) * s->weight[first + r];
            out = s->take_max ? v_max(p, out) : out + p;
        }
        v_store(s->out + j, out);
    }
}

#define TILE_FOR_GROUPS(n_rows, call)                                                                                    \
    for (size_t first = 0, left = (n_rows), take; left > 0; first += take, left -= take) {                              \
        take = left >= 6 ? 6 : left >= 4 ? 4 : left;                                                                    \
        switch (take) {                                                                                                 \
        case 6:                                                                                                         \
            call(6);                                                                                                    \
            break;                                                                                                      \
        case 4:                                                                                                         \
            call(4);                                                                                                    \
            break;                                                                                                      \
        case 3:                                                                                                         \
            call(3);                                                                                                    \
            break;                                                                                                      \
        case 2:                                                                                                         \
            call(2);                                                                                                    \
            break;                                                                                                      \
        default:                                                                                                        \
            call(1);                                                                                                    \
        }                                                                                                               \
    }

static void tile_attend(const struct crn_tile *t)
{
#define ATTEND(rows) group_attend(t, CAIRN_F32, rows, first)
#define ATTEND_F16(rows) group_attend(t, CAIRN_F16, rows, first)
#define ATTEND_BF16(rows) group_attend(t, CAIRN_BF16, rows, first)
    if (t->v != NULL || t->acc == NULL) {
        TILE_FOR_GROUPS(t->rows, ATTEND)
    } else if (t->v_dtype == CAIRN_F16) {
        TILE_FOR_GROUPS(t->rows, ATTEND_F16)
    } else {
        TILE_FOR_GROUPS(t->rows, ATTEND_BF16)
    }
#undef ATTEND
#undef ATTEND_F16
#undef ATTEND_BF16
}

static void tile_scores(const struct crn_tile_scores *s)
{
#define ADD_SCORES(rows) group_add_scores(s, rows, first)
    TILE_FOR_GROUPS(s->tile.rows, ADD_SCORES)
#undef ADD_SCORES
}

#endif
