/* simd_base - the inner loops for a CPU about which nothing is known: SSE2 on x86-64, NEON on aarch64. */
#include "kernels/simd.h"

#define CRN_LANES 4
#define CRN_SIMD_NAME "base"
#define CRN_SIMD_TABLE crn_simd_base
#include "kernels/simd_table.h"
