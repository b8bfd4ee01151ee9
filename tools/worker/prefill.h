/* prefill - a context's tokens through all layers, appended to a cache. */
#ifndef CRN_WORKER_PREFILL_H
#define CRN_WORKER_PREFILL_H

#include "tools/worker/cache.h"
#include "tools/worker/pass.h"
#include "tools/worker/pyramid.h"

#include <stdint.h>

/* What happens on the way; any of them may be NULL. A failure of one ends only the watching, never
 * the prefill. */
struct crn_prefill_watch {
    void *ctx;
    /* Rows entering a layer, before its norm: h [n][hidden]. */
    int (*state)(void *ctx, uint32_t layer, const float *h, const int32_t *pos, uint32_t n);
    /* K and V of a layer are complete. scores: window scores per KV head [G][n], or NULL when not
     * asked for. */
    int (*layer)(void *ctx, uint32_t layer, const struct crn_kv *kv, const float *scores);
    int want_scores;
};

struct crn_prefill {
    const int32_t *tokens; /* the new ones */
    uint32_t n, start;     /* start: position of the first; the cache covers what is before */
    const struct crn_pyramid_rule *rule; /* NULL or !on: keep everything; only with start == 0 */
    const struct crn_prefill_watch *watch;
};

/* Appends one private piece to the cache. out_h [hidden], may be NULL: the last row after the last
 * layer. fails -ENOMEM, CAIRN_E_ARG */
int crn_prefill(struct crn_engine *e, const struct crn_prefill *p, struct crn_cache *cache,
                float *out_h);

#endif
