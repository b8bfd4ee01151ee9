/* simd - the inner loops of the cpu backend, compiled once per instruction set and chosen at run time.
 *
 * A table holds single-threaded loops over memory that the callers (kernels/cpu_*.c) have checked and cut into pieces; they
 * own the threads and the meaning. simd_v4.c is AVX-512, simd_v3.c AVX2 + FMA + F16C, simd_base.c what every CPU has. */
#ifndef CRN_KERNELS_SIMD_H
#define CRN_KERNELS_SIMD_H

#include <stddef.h>
#include <stdint.h>

enum {
    CRN_TILE_KEYS = 64, /* keys of an attention tile: one block of K scales */
};

/* Rows of queries against one tile of keys, all f32. A row is one (query, head); its running softmax is (max, sum, acc):
 * max in units of log2, sum = sum of 2^(score - max), acc [dh] = sum of 2^(score - max) v. */
struct crn_tile {
    const float *q;         /* [rows][dh], times scale and log2(e) */
    const float *kt;        /* [dh][CRN_TILE_KEYS]: keys as columns, missing ones 0 */
    const float *v;         /* [n_keys][v_stride], v_stride >= padded; NULL: v_stored */
    const uint16_t *v_stored; /* the same as f16 or bf16, not yet widened */
    uint32_t v_dtype;
    const uint8_t *visible; /* [rows]: how many of the keys, from the first; NULL = n_keys for all */
    size_t rows, dh, padded, v_stride, n_keys; /* padded: dh rounded up to CRN_TILE_PAD */
    float *max, *sum;       /* [rows] */
    float *acc;             /* [rows][padded]; NULL: only max and sum */
};

/* What a tile adds to the scores of its keys. */
struct crn_tile_scores {
    struct crn_tile tile;
    const float *weight; /* [rows]: factor of the row's probabilities, 1/sum included */
    int take_max;        /* 1: maximum over rows, 0: sum */
    float *out;          /* [CRN_TILE_KEYS] */
};

enum { CRN_TILE_PAD = 16 };

/* Rows of a stored K or V: n rows of dh numbers. */
struct crn_stored_rows {
    const void *data;
    uint32_t dtype; /* enum cairn_dtype */
    size_t n, dh;
    const uint16_t *column_scale; /* [dh], int8 keys */
    const uint16_t *row_scale;    /* [n], int8 values */
};

enum {
    CRN_GEMV_MAX = 8,  /* tokens of one gemv */
    CRN_GEMM_ROWS = 4, /* rows that gemm decodes at a time */
};

/* out [tokens][rows] (row stride out_stride) = beta * out + a [tokens][cols] . w^T. */
struct crn_gemv {
    const float *a;
    size_t tokens, cols;
    const void *w;
    uint32_t type; /* enum crn_weight_type */
    size_t row_bytes, rows;
    float beta;
    float *out;
    size_t out_stride;
};

struct crn_simd_ops {
    const char *name;

    /* out [n][stride] = rows as f32; columns dh .. stride-1 become 0. */
    void (*widen_rows)(const struct crn_stored_rows *rows, float *out, size_t stride);
    /* out [dh][CRN_TILE_KEYS] = the transpose of rows as f32; columns n .. become 0. scratch [n][dh] */
    void (*columns)(const struct crn_stored_rows *rows, float *scratch, float *out);
    void (*tile_attend)(const struct crn_tile *t);
    void (*tile_scores)(const struct crn_tile_scores *s);

    /* One row: out = x / sqrt(mean(x^2) + eps) * gain; out may be x. */
    void (*rmsnorm)(const float *x, const float *gain, size_t d, float eps, float *out);
    /* Cosine and sine of angle [n]; |angle| up to 2^21. */
    void (*sincos)(const float *angle, size_t n, float *out_cos, float *out_sin);
    /* x [heads][2 half]: the pair (i, i + half) turns by the angle i. */
    void (*rotate)(const float *cosine, const float *sine, size_t half, size_t heads, float *x);
    void (*swiglu)(const float *gate, const float *up, size_t n, float *out);
    void (*add)(const float *y, size_t n, float *x);
    float (*highest)(const float *x, size_t n); /* -inf when there is no number */
    /* out [n] = x as f16 or bf16, to nearest even. */
    void (*narrow)(const float *x, size_t n, uint32_t dtype, uint16_t *out);
    /* int8 as in kernels.h. Rows: one scale per row of `width` numbers. Columns: one per column of n <= 64 rows. */
    void (*quant_rows)(const float *x, size_t n, size_t width, int8_t *q, uint16_t *scale);
    void (*quant_columns)(const float *x, size_t n, size_t width, int8_t *q, uint16_t *scale);

    /* One row of a weight as f32; cols a multiple of 32 for the block types. */
    void (*decode_row)(uint32_t type, const void *row, size_t cols, float *out);
    /* Tokens 1 .. CRN_GEMV_MAX. */
    void (*gemv)(const struct crn_gemv *g);
    /* Any tokens, same bits; scratch [CRN_GEMM_ROWS][cols], unused when the weights are f32. */
    void (*gemm)(const struct crn_gemv *g, float *scratch);
};

/* The best table this CPU can run; NULL for a name that is not compiled in or not runnable here ("v4", "v3", "base"). */
const struct crn_simd_ops *crn_simd(void);
const struct crn_simd_ops *crn_simd_named(const char *name);

/* Makes crn_simd() answer this table from now on: for tests. */
void crn_simd_use(const struct crn_simd_ops *ops);

extern const struct crn_simd_ops crn_simd_v4, crn_simd_v3, crn_simd_base;

#endif
