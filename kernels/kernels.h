/* kernels - the compute contract: pure functions on memory handed in.
 *
 * One table per backend: `ref` (scalar, the definition), `cpu` (tuned), `cuda` when compiled in. A kernel never allocates, maps,
 * logs or talks; it returns 0, CAIRN_E_ARG for an impossible shape, or a device code. Activations are float32 and row-major.
 * Pointers belong to the backend's memory (host for ref and cpu, device for cuda). Outputs never alias inputs unless said.
 *
 * Shapes: n tokens, d hidden channels, H query heads, G KV heads (H a multiple of G), dh channels per head.
 * Q is token-major [n][H][dh]; K and V are head-major [G][n][dh], as payloads store them. K is kept after RoPE at original
 * positions. Positions are int32 and ascending within a head; order in time is decided by position, never by index. */
#ifndef CRN_KERNELS_H
#define CRN_KERNELS_H

#include "ipc/cairn_status.h"
#include "ipc/cairn_types.h"

#include <stddef.h>
#include <stdint.h>

struct crn_pool;
struct crn_exec_memory;

/* Where a kernel runs. cpu: threads of the pool (NULL = the calling thread alone). cuda: a stream and one workspace. */
struct crn_exec {
    struct crn_pool *pool;
    void *stream;
    void *workspace;
    size_t workspace_bytes;
    const struct crn_exec_memory *memory; /* kernels/memory.h; NULL: the host's own */
};

/* Storage of a weight matrix beyond cairn_dtype: GGUF block types, multiplied as they are. */
enum crn_weight_type {
    CRN_W_F32 = 1,
    CRN_W_BF16 = 2,
    CRN_W_Q8_0 = 3,
    CRN_W_Q4_0 = 4,
    CRN_W_Q4_1 = 5,
};

/* One weight matrix W, [rows][cols], row-major: rows = outputs, cols = inputs. */
struct crn_matrix {
    const void *data;
    uint32_t type; /* enum crn_weight_type */
    uint32_t rows, cols;
};

/* Keys and values of one KV head. Scales only with CAIRN_I8 (f16 bits, ipc/layout.h): k_scale [ceil(n/64)][dh], v_scale [n]. */
struct crn_kv_head {
    const void *k; /* [n][dh] */
    const void *v; /* [n][dh] */
    const uint16_t *k_scale;
    const uint16_t *v_scale;
    const int32_t *pos; /* [n], ascending */
    uint32_t n;
    uint32_t reserved;
};

/* A run of keys that queries attend to: shared arena memory, a private recomputed run, or the suffix itself.
 * Only queries q_begin <= i < q_end see it (several questions may be answered in one pass over shared spans). */
struct crn_span {
    const struct crn_kv_head *heads; /* [G] */
    uint32_t dtype;                  /* enum cairn_dtype */
    uint32_t q_begin, q_end;
};

/* Attention of n_q queries over a list of spans. A key is visible when its position <= the query's position.
 * out[i][h] = sum_j softmax_j(scale * q[i][h] . k[j]) * v[j], over all visible keys of all spans; 0 when none is visible. */
struct crn_attention {
    const float *q;       /* [n_q][H][dh], after RoPE */
    const int32_t *q_pos; /* [n_q] */
    uint32_t n_q, n_heads, n_kv_heads, head_dim;
    float scale;
    const struct crn_span *spans;
    uint32_t n_spans;
    /* [n_q][H] or NULL, for the host's backends (others: CAIRN_E_ARG): log2 sum_j exp(scale * q[i][h] . k[j]) over the visible
     * keys, -inf without one. attention leaves it there; scores of the same queries and spans reads it instead of going
     * through all keys again. */
    float *lse;
};

/* How softmax probabilities of a set of queries become one score per key (method.md 2.3.2, 5.3, 5.4). */
enum crn_reduce {
    CRN_REDUCE_MEAN_ALL = 1, /* out [n]: mean over queries and all heads, query i weighted by q_weight[i] */
    CRN_REDUCE_KV_MEAN = 2,  /* out [G][n]: mean over queries (weighted) and the query heads of the KV head */
    CRN_REDUCE_KV_MAX = 3,   /* out [G][n]: maximum over queries and the query heads of the KV head */
};

/* Scores of the keys of spans[target]; all spans take part in the softmax. MEAN_ALL needs heads of equal n; otherwise the
 * scores of the heads follow one another, whatever their n.
 * The mean divides by total_queries (0 = n_q), so that a caller may work through its queries in chunks with accumulate = 1:
 * then out is added to (means) or maximised into (max) instead of being overwritten. */
struct crn_scores {
    struct crn_attention attention;
    uint32_t target;
    uint32_t reduce; /* enum crn_reduce */
    const float *q_weight; /* [n_q] or NULL = 1 */
    uint32_t total_queries;
    uint32_t accumulate;
};

/* Numbers that turn positions into rotation angles: inv_freq[i] = theta^(-2i/dh), i < dh/2. Pairs are (i, i + dh/2). */
struct crn_rope {
    const float *inv_freq; /* [dh/2] */
    uint32_t head_dim;
};

struct crn_kernel_ops {
    const char *name;

    /* 1 when usable here, else 0 and a reason in why. */
    int (*probe)(char *why, size_t why_bytes);

    /* out[i] = x[i] / sqrt(mean(x[i]^2) + eps) * gain. x, out [n][d]; out may be x. */
    int (*rmsnorm)(const struct crn_exec *e, const float *x, const float *gain, size_t n, size_t d, float eps,
                   float *out);

    /* Rotates x [n][heads][dh] in place at positions pos [n]; angles in float32. */
    int (*rope)(const struct crn_exec *e, const struct crn_rope *r, const int32_t *pos, size_t n, size_t heads, float *x);

    /* out [m][w.rows] = beta * out + a [m][w.cols] . W^T; beta is 0 or 1. */
    int (*gemm)(const struct crn_exec *e, const float *a, size_t m, const struct crn_matrix *w, float beta, float *out);

    /* out [n_q][H][dh], see struct crn_attention. */
    int (*attention)(const struct crn_exec *e, const struct crn_attention *a, float *out);

    /* out [n] or [G][n], see struct crn_scores. */
    int (*scores)(const struct crn_exec *e, const struct crn_scores *s, float *out);

    /* The k highest of score [n], ties to the lowest index, NaN below everything; out_index [k] ascending. k <= n. */
    int (*topk)(const struct crn_exec *e, const float *score, size_t n, size_t k, uint32_t *out_index);

    /* out row i = src row index[i]; rows of row_bytes; every index < src_rows, else CAIRN_E_ARG and out undefined. */
    int (*gather)(const struct crn_exec *e, const void *src, size_t src_rows, size_t row_bytes, const uint32_t *index,
                  size_t n, void *out);

    /* out[i] = silu(gate[i]) * up[i], n numbers; out may be gate. */
    int (*swiglu)(const struct crn_exec *e, const float *gate, const float *up, size_t n, float *out);

    /* x[i] += y[i], n numbers. */
    int (*add)(const struct crn_exec *e, const float *y, size_t n, float *x);

    /* Splits token-major rows x [n][G][dh] into head-major out [G][stride][dh] (stride >= n rows per head), converting to
     * dtype f32, f16 or bf16 (round to nearest even; f16 overflow becomes infinity). */
    int (*split_heads)(const struct crn_exec *e, const float *x, size_t n, size_t g, size_t dh, uint32_t dtype,
                       size_t stride, void *out);

    /* Converts n numbers between f32, f16 and bf16 (any pair). */
    int (*convert)(const struct crn_exec *e, const void *src, uint32_t src_dtype, size_t n, uint32_t dst_dtype, void *out);

    /* int8 with f16 scales: q = round(x / s), s = max|x| / 127 rounded to f16 *upwards* so that |q| <= 127; s = 0 gives q = 0.
     * quant_k: one scale per channel and block of 64 tokens; x [n][dh], q [n][dh], scale [ceil(n/64)][dh].
     * quant_rows: one scale per row and group of `group` channels; x [n][d], q [n][d], scale [n][d/group]. group divides d.
     * V uses group = dh, states use group = 64 (method.md 5.5). */
    int (*quant_k)(const struct crn_exec *e, const float *x, size_t n, size_t dh, int8_t *q, uint16_t *scale);
    int (*quant_rows)(const struct crn_exec *e, const float *x, size_t n, size_t d, size_t group, int8_t *q,
                      uint16_t *scale);

    /* The inverse: out = q * scale, float32. */
    int (*dequant_k)(const struct crn_exec *e, const int8_t *q, const uint16_t *scale, size_t n, size_t dh, float *out);
    int (*dequant_rows)(const struct crn_exec *e, const int8_t *q, const uint16_t *scale, size_t n, size_t d, size_t group,
                        float *out);

    /* Index of the largest of x [n], lowest index on a tie; n >= 1. */
    int (*argmax)(const struct crn_exec *e, const float *x, size_t n, uint32_t *out_index);

    /* What a payload is checked by. Results are on the host, and there when the call returns.
     * checksum: XXH3 of 64 bits over bytes at an address that is a multiple of 8 (crn_hash64).
     * max_abs: the largest |x| of n numbers, NaNs left out; 0 when there are none. */
    int (*checksum)(const struct crn_exec *e, const void *data, size_t bytes, uint64_t *out_hash);
    int (*max_abs)(const struct crn_exec *e, const float *x, size_t n, float *out_max);
};

extern const struct crn_kernel_ops crn_kernels_ref;
extern const struct crn_kernel_ops crn_kernels_cpu;
extern const struct crn_kernel_ops crn_kernels_cuda; /* with CRN_CUDA only; its exec is made by kernels/cuda/exec.h */

/* "ref", "cpu" or "cuda"; NULL when the name is unknown or not compiled in. */
const struct crn_kernel_ops *crn_kernels_named(const char *name);
/* For numbers in host memory: cpu where this processor can, else ref. */
const struct crn_kernel_ops *crn_kernels_host(void);

#endif
