/* parity - guarded buffers, comparator, variants. */
#include "tests/support/parity.h"

#include "kernels/pool.h"
#include "kernels/simd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 64, POISON = 0xa5, GUARD_BYTE = 0x5c };

struct guarded guarded_alloc(size_t bytes, size_t offset)
{
    size_t front = GUARD + offset, total = (front + bytes + GUARD + 63) / 64 * 64;
    unsigned char *base = aligned_alloc(64, total);
    if (base == NULL)
        abort();
    memset(base, GUARD_BYTE, total);
    memset(base + front, POISON, bytes);
    return (struct guarded){ .p = base + front, .bytes = bytes, .base = base };
}

struct guarded guarded_copy(const void *src, size_t bytes, size_t offset)
{
    struct guarded g = guarded_alloc(bytes, offset);
    if (bytes != 0)
        memcpy(g.p, src, bytes);
    return g;
}

bool guarded_intact(const struct guarded *g)
{
    const unsigned char *end = (const unsigned char *)g->p + g->bytes;
    for (const unsigned char *b = g->base; b < (const unsigned char *)g->p; b++)
        if (*b != GUARD_BYTE)
            return false;
    for (size_t i = 0; i < GUARD; i++)
        if (end[i] != GUARD_BYTE)
            return false;
    return true;
}

void guarded_free(struct guarded *g)
{
    free(g->base);
    *g = (struct guarded){ 0 };
}

static bool is_close(float want, float got, struct tolerance tol)
{
    if (isnan(want) || isnan(got))
        return isnan(want) && isnan(got);
    if (isinf(want) || isinf(got))
        return want == got;
    return fabsf(want - got) <= tol.abs + tol.rel * fabsf(want);
}

long parity_first_bad(const float *want, const float *got, size_t n, struct tolerance tol)
{
    for (size_t i = 0; i < n; i++)
        if (!is_close(want[i], got[i], tol))
            return (long)i;
    return -1;
}

long parity_first_byte(const void *want, const void *got, size_t bytes)
{
    const unsigned char *w = want, *g = got;
    for (size_t i = 0; i < bytes; i++)
        if (w[i] != g[i])
            return (long)i;
    return -1;
}

bool parity_close(const char *name, const float *want, const float *got, size_t n, struct tolerance tol)
{
    long bad = parity_first_bad(want, got, n, tol);
    if (bad < 0)
        return true;
    printf("%s (%s): number %ld of %zu: want %.9g got %.9g\n", name, parity_variant_name(), bad, n, (double)want[bad],
           (double)got[bad]);
    fflush(stdout); /* a failed assertion ends the test's process without it */
    return false;
}

static const struct {
    const char *simd;
    unsigned threads;
} variants[PARITY_VARIANTS] = { { "v4", 2 }, { "v3", 2 }, { "v3", 1 }, { "base", 3 } };

static struct {
    int variant;
    struct crn_pool *pool;
    struct crn_exec exec;
} use = { .variant = -1 };

bool parity_use_variant(int i)
{
    const struct crn_simd_ops *simd = crn_simd_named(variants[i].simd);
    if (simd == NULL)
        return false;
    crn_simd_use(simd);
    crn_pool_destroy(use.pool);
    use.pool = NULL;
    if (variants[i].threads > 1 && crn_pool_create(variants[i].threads, 0, &use.pool) != 0)
        abort();
    use.exec = (struct crn_exec){ .pool = use.pool };
    use.variant = i;
    return true;
}

const char *parity_variant_name(void)
{
    return use.variant < 0 ? "none" : variants[use.variant].simd;
}

const struct crn_exec *parity_exec(void)
{
    return &use.exec;
}

const struct crn_kernel_ops *parity_backend(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "cpu";
    const struct crn_kernel_ops *ops = crn_kernels_named(name);
    char why[128] = "not compiled in";
    if (ops != NULL && ops->probe(why, sizeof why))
        return ops;
    printf("SKIP %s: %s\n", name, why);
    return NULL;
}
