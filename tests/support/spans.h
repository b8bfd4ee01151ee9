/* spans - random attention problems for parity tests: spans of every storage type, heads of different length, gaps in
 * positions, spans that only some queries see. */
#ifndef CRN_TESTS_SPANS_H
#define CRN_TESTS_SPANS_H

#include "kernels/kernels.h"
#include "tests/support/rand.h"

struct spans_shape {
    uint32_t n_q, n_heads, n_kv_heads, head_dim;
    uint32_t n_spans;
    uint32_t max_keys; /* of a head in a span; the first span's first head has exactly so many */
    uint32_t dtype;    /* of all spans; CAIRN_DTYPE_NONE: mixed */
    int equal_heads;   /* every head of a span has the same n */
};

struct spans_case {
    struct crn_attention a; /* points into memory owned by the case */
    struct crn_span *spans;
    float *q;
    int32_t *q_pos;
};

struct spans_case spans_make(struct rand *r, const struct spans_shape *shape);
void spans_free(struct spans_case *c);

#endif
