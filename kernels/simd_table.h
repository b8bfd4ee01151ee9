/* simd_table - the body of simd_v4.c, simd_v3.c and simd_base.c: all inner loops, then the table that names them. */
#include "kernels/simd_vec.h"

#include "kernels/simd_basic.h"
#include "kernels/simd_gemv.h"
#include "kernels/simd_gemm.h"
#include "kernels/simd_quant.h"
#include "kernels/simd_rows.h"
#include "kernels/simd_tile.h"

const struct crn_simd_ops CRN_SIMD_TABLE = {
    .name = CRN_SIMD_NAME,
    .widen_rows = widen_rows,
    .columns = columns,
    .tile_attend = tile_attend,
    .tile_scores = tile_scores,
    .rmsnorm = rmsnorm,
    .sincos = sines,
    .rotate = rotate,
    .swiglu = swiglu,
    .add = add,
    .highest = highest,
    .narrow = narrow,
    .quant_rows = quant_rows,
    .quant_columns = quant_columns,
    .decode_row = decode_row,
    .gemv = gemv,
    .gemm = gemm,
};
