/* The table of compiled-in memory backends. A new backend is one file and one row here. */
#include "ipc/mem.h"

#include <string.h>

static const struct crn_mem_ops *const backends[] = {
    &crn_mem_host,
#ifdef CRN_CUDA
    &crn_mem_cuda_vmm,
    &crn_mem_cuda_ipc,
#endif
};

#define N_BACKENDS (sizeof backends / sizeof backends[0])

const struct crn_mem_ops *crn_mem_ops_of(uint32_t kind)
{
    for (size_t i = 0; i < N_BACKENDS; i++) {
        if (backends[i]->kind == kind)
            return backends[i];
    }
    return NULL;
}

const struct crn_mem_ops *crn_mem_ops_named(const char *name)
{
    for (size_t i = 0; i < N_BACKENDS; i++) {
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    }
    return NULL;
}
