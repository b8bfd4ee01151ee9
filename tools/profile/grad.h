/* grad - a layer of a Llama-family model with its derivative by the rows that enter it and by the keys that they see. Weights are
 * constants. float32, on the host. The engine's pool shares out rows and heads and calls BLAS from all its threads, so these functions
 * want crn_linalg_threads(1).
 *
 * Rows of several sequences go together, as in crn_engine_layer; keys before them are constants (an entry's payloads) or those of
 * rows that went through the same layer earlier (a recomputed run), whose tape then takes the derivative. */
#ifndef CRN_PROFILE_GRAD_H
#define CRN_PROFILE_GRAD_H

#include "tools/profile/attend.h"
#include "tools/worker/engine.h"

#include <stdint.h>

/* What the derivative of one layer needs of the way there; n rows. */
struct crn_tape {
    uint32_t n;
    float *memory;     /* owned */
    float *in;         /* [n][d], rows entering the layer */
    float *k, *v;      /* [n][G][dh], K after RoPE */
    float *dk, *dv;    /* [n][G][dh], derivatives of the loss so far */
    float *q, *att;    /* [n][H][dh]; from here on NULL when only keys were computed */
    float *mid;        /* [n][d], after attention */
    float *gate, *up;  /* [n][ffn] */
};
void crn_tape_free(struct crn_tape *t); /* zeroed struct allowed */

/* The keys of a tape as keys before other rows. */
struct crn_keys crn_tape_keys(const struct crn_tape *t, const struct crn_model_shape *s);

struct crn_grad {
    struct crn_engine *engine; /* of the host; matrices float32 */
    uint32_t layer, n;         /* rows */
    const int32_t *pos;        /* [n] */
    const struct crn_part *parts;
    uint32_t n_parts;
    struct crn_keys before;    /* n 0: none */
    struct crn_tape *of_before; /* whose keys these are; NULL: constants */
};

/* h [n][d] through the layer. own: crn_tape_free, also after a failure. fails -ENOMEM, CAIRN_E_UNSUPPORTED (not float32), codes of
 * the kernels */
int crn_grad_layer(const struct crn_grad *g, float *h, struct crn_tape *out_tape);
/* dh [n][d]: the derivative of the loss by the rows that left, becomes that by the rows that entered. What other rows said about the
 * keys must be in the tape already. */
int crn_grad_layer_back(const struct crn_grad *g, struct crn_tape *tape, float *dh); /* fails -ENOMEM, codes of the kernels */

/* K and V only, as in the last layer of a run: h stays; back: dh is what the keys say. parts and before are not used. */
int crn_grad_keys(const struct crn_grad *g, const float *h, struct crn_tape *out_tape);
int crn_grad_keys_back(const struct crn_grad *g, struct crn_tape *tape, float *dh); /* fails likewise */

/* Final norm and output matrix: d_logits [n][vocab] to dh [n][d], h [n][d] being the rows after the last layer.
 * fails -ENOMEM, CAIRN_E_UNSUPPORTED */
int crn_grad_logits_back(struct crn_engine *e, const float *h, uint32_t n, const float *d_logits, float *dh);

#endif
