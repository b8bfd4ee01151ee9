/* Best fit with immediate coalescing over 64 KiB granules.
 *
 * KV payloads are megabytes of odd size and live long. A buddy system would round them up to powers of two (25 % lost on
 * average, up to half); best fit loses half a granule per payload, and leaves the largest runs whole for the largest payloads.
 *
 * The arena is a sequence of runs, free or used. The first and the last cell of a run carry its length and state (boundary
 * tags), so both neighbours are found without a search. Free runs hang in bins: sizes 1..63 have a bin each, larger ones eight
 * per power of two. Bins are ordered by size, so the best fit is the smallest fitting run of the first bin that has one. */
#include "broker/extent.h"

#include "ipc/cairn_status.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#define NIL UINT32_MAX
#define MAX_GRANULES (1u << 30)
#define EXACT_BINS 64u
#define BINS (EXACT_BINS + 8u * 25u)
#define WORDS ((BINS + 63u) / 64u)

struct cell {
    uint32_t n; /* granules of the run; first and last cell of a run */
    uint32_t generation; /* first cell: grows whenever a run that starts here is freed */
    uint32_t prev, next; /* first cell of a free run: neighbours in its bin */
    uint32_t used;
};

struct crn_extents {
    struct cell *cells;
    uint32_t total, used, free_runs;
    uint32_t head[BINS];
    uint64_t filled[WORDS]; /* one bit per bin that is not empty */
};

static uint32_t bin_of(uint32_t n)
{
    if (n < EXACT_BINS)
        return n;
    uint32_t log = 31u - (uint32_t)__builtin_clz(n);
    return EXACT_BINS + (log - 6u) * 8u + ((n >> (log - 3u)) & 7u);
}

/* First bin >= from that holds a run; BINS when none does. */
static uint32_t next_filled(const struct crn_extents *x, uint32_t from)
{
    for (uint32_t w = from / 64u; w < WORDS; w++) {
        uint64_t bits = x->filled[w];
        if (w == from / 64u)
            bits &= UINT64_MAX << (from % 64u);
        if (bits != 0)
            return w * 64u + (uint32_t)__builtin_ctzll(bits);
    }
    return BINS;
}

static void mark(struct crn_extents *x, uint32_t first, uint32_t n, uint32_t used)
{
    x->cells[first].n = n;
    x->cells[first].used = used;
    x->cells[first + n - 1].n = n;
    x->cells[first + n - 1].used = used;
}

static void bin_add(struct crn_extents *x, uint32_t first, uint32_t n)
{
    mark(x, first, n, 0);
    uint32_t bin = bin_of(n);
    struct cell *c = &x->cells[first];
    c->prev = NIL;
    c->next = x->head[bin];
    if (c->next != NIL)
        x->cells[c->next].prev = first;
    x->head[bin] = first;
    x->filled[bin / 64u] |= UINT64_C(1) << (bin % 64u);
    x->free_runs++;
}

static void bin_remove(struct crn_extents *x, uint32_t first)
{
    struct cell *c = &x->cells[first];
    uint32_t bin = bin_of(c->n);
    if (c->prev != NIL)
        x->cells[c->prev].next = c->next;
    else
        x->head[bin] = c->next;
    if (c->next != NIL)
        x->cells[c->next].prev = c->prev;
    if (x->head[bin] == NIL)
        x->filled[bin / 64u] &= ~(UINT64_C(1) << (bin % 64u));
    x->free_runs--;
}

/* The smallest run of a bin that holds n granules, NIL when none does. */
static uint32_t smallest_in(const struct crn_extents *x, uint32_t bin, uint32_t n)
{
    uint32_t best = NIL;
    for (uint32_t at = x->head[bin]; at != NIL; at = x->cells[at].next) {
        if (x->cells[at].n < n)
            continue;
        if (best == NIL || x->cells[at].n < x->cells[best].n)
            best = at;
        if (x->cells[best].n == n)
            break;
    }
    return best;
}

int crn_extents_create(uint32_t n_granules, struct crn_extents **out_extents)
{
    if (n_granules == 0 || n_granules > MAX_GRANULES)
        return CAIRN_E_ARG;
    struct crn_extents *x = calloc(1, sizeof *x);
    struct cell *cells = calloc(n_granules, sizeof *cells);
    if (x == NULL || cells == NULL) {
        free(x);
        free(cells);
        return -ENOMEM;
    }
    x->cells = cells;
    x->total = n_granules;
    for (uint32_t bin = 0; bin < BINS; bin++)
        x->head[bin] = NIL;
    bin_add(x, 0, n_granules);
    *out_extents = x;
    return 0;
}

void crn_extents_destroy(struct crn_extents *x)
{
    if (x == NULL)
        return;
    free(x->cells);
    free(x);
}

int crn_extents_alloc(struct crn_extents *x, uint32_t n, struct crn_extent *out_extent)
{
    if (n == 0)
        return CAIRN_E_ARG;
    if (n > x->total)
        return CAIRN_E_FULL;
    uint32_t at = NIL;
    for (uint32_t bin = next_filled(x, bin_of(n)); bin < BINS && at == NIL;
         bin = next_filled(x, bin + 1))
        at = smallest_in(x, bin, n);
    if (at == NIL)
        return CAIRN_E_FULL;
    uint32_t rest = x->cells[at].n - n;
    bin_remove(x, at);
    mark(x, at, n, 1);
    if (rest > 0)
        bin_add(x, at + n, rest);
    x->used += n;
    *out_extent = (struct crn_extent){at, n, x->cells[at].generation};
    return 0;
}

int crn_extents_free(struct crn_extents *x, const struct crn_extent *extent)
{
    uint32_t first = extent->first, n = extent->n;
    if (first >= x->total || n == 0 || n > x->total - first)
        return CAIRN_E_STALE;
    struct cell *c = &x->cells[first];
    if (c->used == 0 || c->n != n || c->generation != extent->generation)
        return CAIRN_E_STALE;
    c->generation++;
    x->used -= n;
    if (first + n < x->total && x->cells[first + n].used == 0) {
        uint32_t right = first + n;
        n += x->cells[right].n;
        bin_remove(x, right);
    }
    if (first > 0 && x->cells[first - 1].used == 0) {
        uint32_t left = first - x->cells[first - 1].n;
        n += x->cells[left].n;
        bin_remove(x, left);
        c->used = 0;
        first = left;
    }
    bin_add(x, first, n);
    return 0;
}

static uint32_t largest_free(const struct crn_extents *x)
{
    for (uint32_t w = WORDS; w-- > 0;) {
        if (x->filled[w] == 0)
            continue;
        uint32_t bin = w * 64u + 63u - (uint32_t)__builtin_clzll(x->filled[w]);
        uint32_t largest = 0;
        for (uint32_t at = x->head[bin]; at != NIL; at = x->cells[at].next)
            largest = x->cells[at].n > largest ? x->cells[at].n : largest;
        return largest;
    }
    return 0;
}

struct crn_extents_view crn_extents_view(const struct crn_extents *x)
{
    return (struct crn_extents_view){x->total, x->used, largest_free(x), x->free_runs};
}

/* Every run of every bin is free and of a size that belongs there; out_runs counts them. */
static bool bins_hold(const struct crn_extents *x, uint32_t *out_runs)
{
    *out_runs = 0;
    for (uint32_t bin = 0; bin < BINS; bin++) {
        bool filled = (x->filled[bin / 64u] >> (bin % 64u) & 1u) != 0;
        if (filled != (x->head[bin] != NIL))
            return false;
        for (uint32_t at = x->head[bin]; at != NIL; at = x->cells[at].next, (*out_runs)++) {
            if (x->cells[at].used != 0 || bin_of(x->cells[at].n) != bin)
                return false;
        }
    }
    return true;
}

int crn_extents_check(const struct crn_extents *x)
{
    uint32_t used = 0, free_runs = 0, binned;
    bool last_was_free = false;
    for (uint32_t at = 0; at < x->total;) {
        const struct cell *c = &x->cells[at];
        if (c->n == 0 || c->n > x->total - at)
            return CAIRN_E_CORRUPT;
        const struct cell *end = &x->cells[at + c->n - 1];
        if (end->n != c->n || end->used != c->used || (last_was_free && c->used == 0))
            return CAIRN_E_CORRUPT;
        used += c->used != 0 ? c->n : 0;
        free_runs += c->used == 0;
        last_was_free = c->used == 0;
        at += c->n;
    }
    bool good = bins_hold(x, &binned) && binned == free_runs && used == x->used;
    return good && free_runs == x->free_runs ? 0 : CAIRN_E_CORRUPT;
}
