/* simd_v4 - the inner loops for AVX-512 (F, BW, CD, DQ, VL). Empty on other architectures. */
#include "kernels/simd.h"

#if defined(__x86_64__)
#pragma GCC target("arch=x86-64-v4")
#define CRN_LANES 16
#define CRN_SIMD_NAME "v4"
#define CRN_SIMD_TABLE crn_simd_v4
#include "kernels/simd_table.h"
#endif
