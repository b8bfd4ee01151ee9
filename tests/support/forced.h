/* forced - an own prefill forced onto the sets of tokens that somebody published: what a recomputed
 * run must come to, on the host or on a device. Failures end the test. */
#ifndef CRN_TESTS_FORCED_H
#define CRN_TESTS_FORCED_H

#include "tests/support/receiver.h"

#define SETS_LAYERS 8u

/* Kept positions of every layer, on the host. */
struct sets {
    int32_t *pos[SETS_LAYERS];
    uint32_t n[SETS_LAYERS], n_layers;
};

/* Of what a reading has attached; heads of a layer must keep the same tokens. own: sets_free */
void sets_take(struct sets *out, const struct reading *shared);
void sets_free(struct sets *s);

/* A prefill on these sets (NULL: all tokens); then layers first..last of the run once more, from the
 * state stored as dtype (first 0: from the embedding). */
void reading_forced(struct reading *x, struct receiver *r, const struct crn_ids *context,
                    const struct sets *sets, const struct crn_reuse_choice *run, uint32_t dtype);

#endif
