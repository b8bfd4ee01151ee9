/* stored - matrices as the file stores them, with adapters beside them, for products of few tokens.
 *
 * Decoding reads every weight once per token, so it is bound by memory: a Q4_1 matrix and a rank-16
 * adapter are a fifth of the merged float32 matrix. x W'^T = x W^T + (x A^T) (f B)^T, f = scale *
 * alpha / r: the same numbers up to float32 rounding. */
#ifndef CRN_WORKER_STORED_H
#define CRN_WORKER_STORED_H

#include "kernels/kernels.h"

struct crn_weights;

/* One matrix. w.type 0: no shorter form than the merged one. All adapters stacked: a [R][cols], b
 * [rows][R], R = a.rows. */
struct crn_stored_matrix {
    struct crn_matrix w, a, b;
};

struct crn_stored_layer {
    struct crn_stored_matrix wq, wk, wv, wo, w_gate, w_up, w_down;
};

struct crn_stored {
    struct crn_stored_layer *layers; /* [n_layers] */
    struct crn_stored_matrix output;
    void **owned; /* copies of rows in half-split order, adapters as float32 */
    size_t n_owned;
};

/* Looks at the mapped files of loaded weights. own: crn_stored_free. fails -ENOMEM */
int crn_stored_build(const struct crn_weights *weights, struct crn_stored *out);
void crn_stored_free(struct crn_stored *s); /* zeroed struct allowed */

#endif
