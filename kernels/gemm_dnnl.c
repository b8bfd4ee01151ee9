/* gemm_dnnl - float32 matrix products by oneDNN, one call per thread of the pool.
 *
 * Debian's oneDNN brings its own threads by OpenMP. They spin between calls and know nothing of the worker's --threads, so
 * every thread that comes here tells OpenMP, once, that it is alone; the pool divides the work (cpu_gemm.c). */
#include "kernels/cpu.h"

#include <dnnl.h>
#include <stdbool.h>

void omp_set_num_threads(int n); /* libgomp; the setting belongs to the calling thread */

int crn_sgemm(const struct crn_sgemm *g)
{
    static _Thread_local bool alone;
    if (!alone) {
        omp_set_num_threads(1);
        alone = true;
    }
    dnnl_status_t status =
        dnnl_sgemm('N', 'T', (dnnl_dim_t)g->m, (dnnl_dim_t)g->n, (dnnl_dim_t)g->k, 1.0f, g->a, (dnnl_dim_t)g->a_stride, g->w,
                   (dnnl_dim_t)g->w_stride, g->beta, g->out, (dnnl_dim_t)g->out_stride);
    return status == dnnl_success ? 0 : status == dnnl_out_of_memory ? CAIRN_E_FULL : CAIRN_E_ARG;
}
