/* cpu - the table of the tuned backend, and how its simple loops are shared out. */
#include "kernels/cpu.h"

#include "kernels/check.h"
#include "kernels/pool.h"

struct ranges {
    crn_range_fn *fn;
    void *ctx;
    size_t n, grain;
};

static void range_task(void *ctx, size_t task, unsigned thread)
{
    const struct ranges *r = ctx;
    (void)thread;
    size_t begin = task * r->grain, left = r->n - begin;
    r->fn(r->ctx, begin, begin + (left < r->grain ? left : r->grain));
}

void crn_for_ranges(const struct crn_exec *e, size_t n, size_t grain, crn_range_fn *fn, void *ctx)
{
    struct ranges r = { fn, ctx, n, grain != 0 ? grain : 1 };
    crn_pool_run(crn_pool_of(e), range_task, &r, n / r.grain + (n % r.grain != 0));
}

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
    .checksum = crn_host_checksum,
    .max_abs = crn_host_max_abs,
};
