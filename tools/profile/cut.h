/* cut - a producer's payloads and states as an entry would hold them: fewer tokens, a set per layer and KV head chosen by a
 * selector (method.md 5.4), as cairn-worker --compress does, and int8 if asked for. */
#ifndef CRN_PROFILE_CUT_H
#define CRN_PROFILE_CUT_H

#include "tools/worker/cache.h"
#include "tools/worker/engine.h"
#include "tools/worker/selectors/selectors.h"

#include <stdint.h>

struct crn_cut_setting {
    struct crn_sets_rule rule; /* keep 1: all tokens */
    int int8;
};

struct crn_cut_layer {
    struct crn_kv_head *heads; /* [2][G]: the wide first tokens, then the rest */
    struct crn_span spans[2];
    uint32_t n_spans;
    void *memory;   /* rows of all heads */
    uint64_t bytes; /* keys, values, scales, positions */
    double kept;    /* share of the tokens, mean of the heads */
};

struct crn_cut {
    struct crn_cut_layer *layers; /* [n_layers] */
    uint32_t n_layers;
};

/* whole: a prefill, private pieces whose heads have equal rows; scores [L][G][n] of a selector, may be NULL when
 * keep is 1. own: crn_cut_free. fails -ENOMEM, codes of the kernels */
int crn_cut_make(const struct crn_engine *e, const struct crn_cache *whole, const float *scores,
                 const struct crn_cut_setting *setting, struct crn_cut *out);
/* Rows of the residual stream, count numbers, as they come back from an entry: through f16 where all of them fit, else through bf16
 * (method.md 5.5). out may be state. fails -ENOMEM, codes of the kernels */
int crn_cut_state(const struct crn_engine *e, const float *state, size_t count, float *out);
void crn_cut_free(struct crn_cut *c); /* zeroed struct allowed */

#endif
