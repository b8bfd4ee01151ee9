/* shape - what every backend checks before it touches memory, and the block formats of weights.
 *
 * GGUF blocks hold 32 numbers of one row, so a row of `cols` numbers needs cols to be a multiple of 32:
 *     Q8_0: f16 d, int8 q[32]                 w = d q
 *     Q4_0: f16 d, 16 bytes                   w = d (q - 8)     q[j] = low nibble of byte j, q[j + 16] = high nibble
 *     Q4_1: f16 d, f16 m, 16 bytes            w = d q + m */
#ifndef CRN_KERNELS_SHAPE_H
#define CRN_KERNELS_SHAPE_H

#include "kernels/kernels.h"

enum {
    CRN_QUANT_BLOCK = 32,  /* numbers per block of a quantised weight */
    CRN_SCALE_ROWS = 64,   /* tokens that share a K scale per channel */
};

struct crn_block_q8_0 {
    uint16_t d;
    int8_t q[32];
};
struct crn_block_q4_0 {
    uint16_t d;
    uint8_t q[16];
};
struct crn_block_q4_1 {
    uint16_t d, m;
    uint8_t q[16];
};
CAIRN_STATIC_ASSERT(sizeof(struct crn_block_q8_0) == 34, "GGUF Q8_0 block");
CAIRN_STATIC_ASSERT(sizeof(struct crn_block_q4_0) == 18, "GGUF Q4_0 block");
CAIRN_STATIC_ASSERT(sizeof(struct crn_block_q4_1) == 20, "GGUF Q4_1 block");

/* Bytes of one row of a weight; 0 when the type is unknown or cols does not fit its blocks. */
size_t crn_weight_row_bytes(uint32_t type, size_t cols);

/* One row of a weight as f32: the definition of the block formats. */
void crn_weight_row(const struct crn_matrix *w, size_t row, float *out);

/* 0 or CAIRN_E_ARG. */
int crn_check_attention(const struct crn_attention *a);
int crn_check_scores(const struct crn_scores *s);
int crn_check_float_dtype(uint32_t dtype); /* f32, f16, bf16 */

/* The largest |x| of a quantised group -> its f16 scale: max / 127 rounded up, at most the largest finite f16. */
uint16_t crn_quant_scale(float max);

#endif
