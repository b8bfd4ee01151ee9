/* cpu - the table of the tuned backend. */
#include "kernels/cpu.h"

static int cpu_probe(char *why, size_t why_bytes)
{
    (void)why;
    (void)why_bytes;
    return 1;
}

const struct crn_kernel_ops crn_kernels_cpu = {
    .name = "cpu",
    .probe = cpu_probe,
    .rmsnorm = crn_cpu_rmsnorm,
    .rope = crn_cpu_rope,
    .gemm = crn_cpu_gemm,
    .attention = crn_cpu_attention,
    .scores = crn_cpu_scores,
    .topk = crn_cpu_topk,
    .gather = crn_cpu_gather,
    .swiglu = crn_cpu_swiglu,
    .add = crn_cpu_add,
    .split_heads = crn_cpu_split_heads,
    .convert = crn_cpu_convert,
    .quant_k = crn_cpu_quant_k,
    .quant_rows = crn_cpu_quant_rows,
    .dequant_k = crn_cpu_dequant_k,
    .dequant_rows = crn_cpu_dequant_rows,
    .argmax = crn_cpu_argmax,
};
