/* Next fit over a bitmap. Extents are written once and removed whole, and most are alike in size, so a moving hand finds room
 * in a few words and leaves neighbours in the order in which they were spilled, which is nearly the order of restores. */
#include "broker/store_alloc.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

struct crn_store_alloc {
    uint32_t total, used, hand;
    uint64_t bits[]; /* 1: in use; bits past total stay 1 */
};

static bool get(const struct crn_store_alloc *a, uint32_t i)
{
    return (a->bits[i / 64u] >> (i % 64u) & 1u) != 0;
}

static void put(struct crn_store_alloc *a, uint32_t first, uint32_t n, bool used)
{
    for (uint32_t i = first; i < first + n; i++) {
        uint64_t bit = UINT64_C(1) << (i % 64u);
        a->bits[i / 64u] = used ? a->bits[i / 64u] | bit : a->bits[i / 64u] & ~bit;
    }
    a->used = used ? a->used + n : a->used - n;
}

static bool all(const struct crn_store_alloc *a, uint32_t first, uint32_t n, bool used)
{
    for (uint32_t i = first; i < first + n; i++) {
        if (get(a, i) != used)
            return false;
    }
    return true;
}

static bool inside(const struct crn_store_alloc *a, uint32_t first, uint32_t n)
{
    return n > 0 && first < a->total && n <= a->total - first;
}

/* First run of n free granules that lies within from .. to; UINT32_MAX when there is none. */
static uint32_t find(const struct crn_store_alloc *a, uint32_t from, uint32_t to, uint32_t n)
{
    uint32_t run = 0;
    for (uint32_t i = from; i < to;) {
        if (i % 64u == 0 && a->bits[i / 64u] == UINT64_MAX) {
            run = 0;
            i += 64u;
            continue;
        }
        run = get(a, i) ? 0 : run + 1;
        i++;
        if (run == n)
            return i - n;
    }
    return UINT32_MAX;
}

int crn_store_alloc_create(uint32_t n_granules, struct crn_store_alloc **out_alloc)
{
    if (n_granules == 0 || n_granules > 1u << 31)
        return CAIRN_E_ARG;
    uint32_t words = (n_granules + 63u) / 64u;
    struct crn_store_alloc *a = calloc(1, sizeof *a + words * sizeof a->bits[0]);
    if (a == NULL)
        return -ENOMEM;
    a->total = n_granules;
    if (n_granules % 64u != 0)
        a->bits[words - 1] = UINT64_MAX << (n_granules % 64u);
    *out_alloc = a;
    return 0;
}

void crn_store_alloc_destroy(struct crn_store_alloc *a)
{
    free(a);
}

int crn_store_alloc_take(struct crn_store_alloc *a, uint32_t n, uint32_t *out_first)
{
    if (n == 0)
        return CAIRN_E_ARG;
    if (n > a->total - a->used)
        return CAIRN_E_FULL;
    uint32_t first = find(a, a->hand, a->total, n);
    if (first == UINT32_MAX)
        first = find(a, 0, a->total, n);
    if (first == UINT32_MAX)
        return CAIRN_E_FULL;
    put(a, first, n, true);
    a->hand = first + n < a->total ? first + n : 0;
    *out_first = first;
    return 0;
}

int crn_store_alloc_reserve(struct crn_store_alloc *a, uint32_t first, uint32_t n)
{
    if (!inside(a, first, n))
        return CAIRN_E_ARG;
    if (!all(a, first, n, false))
        return CAIRN_E_BUSY;
    put(a, first, n, true);
    return 0;
}

int crn_store_alloc_free(struct crn_store_alloc *a, uint32_t first, uint32_t n)
{
    if (!inside(a, first, n) || !all(a, first, n, true))
        return CAIRN_E_STALE;
    put(a, first, n, false);
    return 0;
}

uint32_t crn_store_alloc_total(const struct crn_store_alloc *a)
{
    return a->total;
}

uint32_t crn_store_alloc_used(const struct crn_store_alloc *a)
{
    return a->used;
}
