/* quant - how tensors of a GGUF file store numbers, and how they become float32.
 *
 * Block formats are those of ggml (ggml/src/ggml-common.h): 32 numbers per block, scales in f16,
 * little-endian. q8_0  d, 32 x int8            x = d * q q4_0  d, 16 bytes of nibbles  x = d * (q -
 * 8)   byte i holds number i (low) and number i + 16 (high) q4_1  d, m, 16 bytes          x = d * q
 * + m */
#ifndef CRN_WORKER_QUANT_H
#define CRN_WORKER_QUANT_H

#include <stddef.h>
#include <stdint.h>

/* Tensor types that are read, numbers of the file format (enum ggml_type). */
enum crn_quant_type {
    CRN_QUANT_F32 = 0,
    CRN_QUANT_F16 = 1,
    CRN_QUANT_Q4_0 = 2,
    CRN_QUANT_Q4_1 = 3,
    CRN_QUANT_Q8_0 = 8,
    CRN_QUANT_BF16 = 30,
};

#define CRN_QUANT_BLOCK 32u

struct crn_quant_info {
    const char *name;
    uint32_t block_elems;
    uint32_t block_bytes;
};

/* Layout of a type; NULL when it is not one of the above. */
const struct crn_quant_info *crn_quant_info(uint32_t type);

/* Name of any ggml tensor type, also of those not read; "?" when unknown. */
const char *crn_quant_name(uint32_t type);

/* crn_quant_row - n numbers to float32, exactly as ggml does.
 * in      src: n / block_elems blocks, any alignment; n: a multiple of block_elems; type: one that
 * crn_quant_info knows out     out [n] */
void crn_quant_row(uint32_t type, const void *src, size_t n, float *out);

#endif
