/* pass - a batch of rows on its way through the layers: tokens in, residual rows, logits out. */
#ifndef CRN_WORKER_PASS_H
#define CRN_WORKER_PASS_H

#include "tools/worker/engine.h"

#include <stdint.h>

struct crn_pass {
    struct crn_engine *engine;
    float *h;     /* [n][hidden], owned */
    int32_t *pos; /* [n], owned */
    uint32_t n;
};

/* Rows of tokens at positions start, start + 1, ... own: end with crn_pass_end. fails -ENOMEM,
 * CAIRN_E_ARG */
int crn_pass_begin(struct crn_pass *p, struct crn_engine *e, const int32_t *tokens, uint32_t n,
                   uint32_t start);
/* Room for n rows with h and pos to be filled by the caller. */
int crn_pass_begin_rows(struct crn_pass *p, struct crn_engine *e, uint32_t n);
void crn_pass_end(struct crn_pass *p); /* zeroed struct allowed */

/* All rows as one segment of kv, through one layer. scores may be NULL. */
int crn_pass_layer(struct crn_pass *p, uint32_t layer, const struct crn_span *spans,
                   uint32_t n_spans, struct crn_kv *kv, const struct crn_score_call *scores,
                   uint32_t n_scores);
/* K and V of one layer only; h stays. */
int crn_pass_keys(struct crn_pass *p, uint32_t layer, struct crn_kv *kv);

/* Goes on with the rows index [n], ascending, only. */
int crn_pass_keep(struct crn_pass *p, const uint32_t *index, uint32_t n);
/* Goes on with the rows whose positions are in pos [n], ascending; CAIRN_E_ARG when one is not
 * there. */
int crn_pass_keep_positions(struct crn_pass *p, const int32_t *pos, uint32_t n);

#endif
