/* simd - picks the table of inner loops by what the CPU can do. */
#include "kernels/simd.h"

#include <stdatomic.h>
#include <string.h>

static _Atomic(const struct crn_simd_ops *) chosen;

const struct crn_simd_ops *crn_simd_named(const char *name)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (strcmp(name, "v4") == 0)
        return __builtin_cpu_supports("x86-64-v4") ? &crn_simd_v4 : NULL;
    if (strcmp(name, "v3") == 0)
        return __builtin_cpu_supports("x86-64-v3") ? &crn_simd_v3 : NULL;
#endif
    return strcmp(name, "base") == 0 ? &crn_simd_base : NULL;
}

static const struct crn_simd_ops *best(void)
{
    const struct crn_simd_ops *ops = crn_simd_named("v4");
    if (ops == NULL)
        ops = crn_simd_named("v3");
    return ops != NULL ? ops : &crn_simd_base;
}

const struct crn_simd_ops *crn_simd(void)
{
    const struct crn_simd_ops *ops = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (ops == NULL) {
        ops = best();
        atomic_store_explicit(&chosen, ops, memory_order_relaxed);
    }
    return ops;
}

void crn_simd_use(const struct crn_simd_ops *ops)
{
    atomic_store_explicit(&chosen, ops, memory_order_relaxed);
}
