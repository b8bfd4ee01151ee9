/* attend - causal softmax attention over float32 keys, and its derivative.
 *
 * For queries q_i of head h over the keys j that row i may see, s = 1 / sqrt(dh):
 *     p_ij = softmax_j(s q_i . k_j)          o_i = sum_j p_ij v_j
 *     dv_j += p_ij do_i      dp_ij = do_i . v_j      ds_ij = p_ij (dp_ij - do_i . o_i)      dq_i = s sum_j ds_ij k_j      dk_j += s ds_ij q_i
 *
 * Probabilities are computed again for the derivative instead of being kept: n^2 numbers per head would be most of the memory. */
#ifndef CRN_PROFILE_ATTEND_H
#define CRN_PROFILE_ATTEND_H

#include "kernels/pool.h"

#include <stddef.h>
#include <stdint.h>

/* Keys and values [n] of G heads: number c of head g's row i is at [i * row + g * head + c]. */
struct crn_keys {
    const float *k, *v;
    size_t row, head;
    uint32_t n;
};

/* Rows begin .. end - 1 are one sequence: each sees itself and those of the part before it. */
struct crn_part {
    uint32_t begin, end;
};

struct crn_attend {
    struct crn_pool *pool;
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t n;                  /* rows */
    const float *q;              /* [n][H][dh], after RoPE */
    const float *k, *v;          /* [n][G][dh], the rows' own */
    struct crn_keys before;      /* seen by all rows */
    const struct crn_part *parts; /* cover the rows */
    uint32_t n_parts;
};

/* out [n][H][dh]. fails -ENOMEM */
int crn_attend(const struct crn_attend *a, float *out);

struct crn_attend_back {
    const float *out, *d_out;     /* [n][H][dh]: what crn_attend gave, and the derivative by it */
    float *dq;                    /* out [n][H][dh] */
    float *dk, *dv;               /* [n][G][dh], added to */
    float *before_dk, *before_dv; /* [before.n][G][dh], added to; NULL: those keys are constants */
};
/* fails -ENOMEM */
int crn_attend_back(const struct crn_attend *a, const struct crn_attend_back *b);

#endif
