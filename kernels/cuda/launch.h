/* launch - the kernels of this folder as C functions: each queues its kernels on a stream and returns the launch's error (0 or a
 * cudaError number). Shapes were checked by the caller. Pointers are device memory; sizes of 0 launch nothing. */
#ifndef CRN_KERNELS_CUDA_LAUNCH_H
#define CRN_KERNELS_CUDA_LAUNCH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A stream of CUDA's, opaque here (cudaStream_t). */
typedef struct CUstream_st *crn_cuda_stream;

/* basic.cu */
int crn_cuda_rmsnorm(crn_cuda_stream s, const float *x, const float *gain, size_t n, size_t d, float eps, float *out);
int crn_cuda_rope(crn_cuda_stream s, const float *inv_freq, size_t dh, const int32_t *pos, size_t n, size_t heads, float *x);
int crn_cuda_swiglu(crn_cuda_stream s, const float *gate, const float *up, size_t n, float *out);
int crn_cuda_add(crn_cuda_stream s, const float *y, size_t n, float *x);
int crn_cuda_split_heads(crn_cuda_stream s, const float *x, size_t n, size_t g, size_t dh, uint32_t dtype, size_t stride,
                         void *out);
int crn_cuda_convert(crn_cuda_stream s, const void *src, uint32_t src_dtype, size_t n, uint32_t dst_dtype, void *out);
/* Sets *bad to 1 when an index is out of range; such rows are not copied. */
int crn_cuda_gather(crn_cuda_stream s, const void *src, size_t src_rows, size_t row_bytes, const uint32_t *index, size_t n,
                    void *out, uint32_t *bad);

/* select.cu */
int crn_cuda_topk(crn_cuda_stream s, const float *score, size_t n, size_t k, uint32_t *out_index);
int crn_cuda_argmax(crn_cuda_stream s, const float *x, size_t n, uint32_t *out_index);

/* quant.cu */
int crn_cuda_quant_k(crn_cuda_stream s, const float *x, size_t n, size_t dh, int8_t *q, uint16_t *scale);
int crn_cuda_quant_rows(crn_cuda_stream s, const float *x, size_t n, size_t d, size_t group, int8_t *q, uint16_t *scale);
int crn_cuda_dequant_k(crn_cuda_stream s, const int8_t *q, const uint16_t *scale, size_t n, size_t dh, float *out);
int crn_cuda_dequant_rows(crn_cuda_stream s, const int8_t *q, const uint16_t *scale, size_t n, size_t group, float *out);
/* Rows of a GGUF-quantised weight as f32: n_blocks blocks of 32 numbers. */
int crn_cuda_weights(crn_cuda_stream s, uint32_t type, const void *blocks, size_t n_blocks, float *out);

/* attention.cu: a score matrix has one row per (head of the group, query), [group][n_q][ld]; a span owns n columns of it. */
struct crn_cuda_columns {
    float *s;           /* first column of the span */
    size_t ld;          /* columns of a row, all spans */
    uint32_t group, n_q; /* rows */
    uint32_t n;         /* keys */
    const int32_t *pos; /* [n] */
    const int32_t *q_pos;      /* [n_q] */
    uint32_t q_begin, q_end;   /* queries of this chunk that see the span */
};
/* Puts -inf where a key is not visible. */
int crn_cuda_mask(crn_cuda_stream s, const struct crn_cuda_columns *c);
/* exp(s - max) / sum in every row of `columns` numbers; a row that sees nothing becomes 0. */
int crn_cuda_softmax(crn_cuda_stream s, float *rows, size_t n_rows, size_t columns);
/* The span's columns as f16 or bf16, [group][n_q][n] without gaps. */
int crn_cuda_narrow(crn_cuda_stream s, const struct crn_cuda_columns *c, uint32_t dtype, void *out);
/* The same for queries in rows of all heads: s is the first head of the group, [n_q][ld], heads n apart. */
int crn_cuda_narrow_queries(crn_cuda_stream s, const struct crn_cuda_columns *c, uint32_t dtype, void *out);
struct crn_cuda_reduction {
    const float *q_weight; /* [n_q] or NULL */
    float divisor;
    int maximum;
};
/* Adds the probabilities of a span's columns to out [n], or takes their maximum. */
int crn_cuda_reduce(crn_cuda_stream s, const struct crn_cuda_columns *c, const struct crn_cuda_reduction *r, float *out);


/* checksum.cu: XXH3's secret; sums [n][8] of n blocks of 1024 bytes; acc [8] through the chain of n blocks. */
struct crn_cuda_xxh3 {
    uint64_t word[24];
};
int crn_cuda_xxh3_sums(crn_cuda_stream s, const uint64_t *data, size_t n, const struct crn_cuda_xxh3 *keys, uint64_t *sums);
int crn_cuda_xxh3_chain(crn_cuda_stream s, const uint64_t *sums, size_t n, const struct crn_cuda_xxh3 *keys, uint64_t *acc);
/* Largest |x| of n >= 1 numbers to *out; partial: room for so many. */
enum { CRN_CUDA_MAX_PARTS = 1024 };
int crn_cuda_max_abs(crn_cuda_stream s, const float *x, size_t n, float *partial, float *out);

#ifdef __cplusplus
}
#endif
#endif
