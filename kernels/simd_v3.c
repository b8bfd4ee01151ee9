/* simd_v3 - the inner loops for AVX2, FMA and F16C. Empty on other architectures. */
#include "kernels/simd.h"

#if defined(__x86_64__)
#pragma GCC target("arch=x86-64-v3")
#define CRN_LANES 8
#define CRN_SIMD_NAME "v3"
#define CRN_SIMD_TABLE crn_simd_v3
#include "kernels/simd_table.h"
#endif
