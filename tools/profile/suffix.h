/* suffix - the questions about one context with their answers, through the layers in one pass: exact match and likelihood need no
 * decoding. K and V of the suffix live for one layer only, so the residual rows are the whole state: a pass may branch anywhere. */
#ifndef CRN_PROFILE_SUFFIX_H
#define CRN_PROFILE_SUFFIX_H

#include "tools/worker/engine.h"

#include <stdint.h>

struct crn_suffix_question {
    const int32_t *ids; /* question and answer */
    uint32_t n, n_asked; /* the answer: ids n_asked .. n - 1, at least one */
};

struct crn_suffix_score {
    int exact;    /* every token of the answer was the most likely one */
    double nll;   /* mean over the answer's tokens */
    double agree; /* share of the answer's tokens that were the most likely ones */
    double kl;    /* mean KL(reference || this) over the answer's tokens; 0 without a reference */
};

struct crn_suffix {
    struct crn_engine *engine;
    const struct crn_suffix_question *questions;
    uint32_t n, rows, n_answers;
    int32_t *pos;                 /* [rows] */
    struct crn_segment *segments; /* [n] */
    struct crn_kv *kv;            /* [n], of the layer in hand */
    float *embedded;              /* [rows][hidden] */
    float *gathered, *logits;     /* one block of answer rows */
    float *reference;             /* [n_answers][vocab], NULL: none */
};

/* start: position of the first token of every question. questions are borrowed. own: crn_suffix_end. fails -ENOMEM, CAIRN_E_ARG */
int crn_suffix_begin(struct crn_suffix *s, struct crn_engine *e, const struct crn_suffix_question *questions, uint32_t n,
                     uint32_t start);
void crn_suffix_end(struct crn_suffix *s); /* zeroed struct allowed */

/* h [rows][hidden] through one layer over spans. */
int crn_suffix_layer(struct crn_suffix *s, uint32_t layer, const struct crn_span *spans, uint32_t n_spans, float *h);
/* Scores after the last layer: out [n]. */
int crn_suffix_score(struct crn_suffix *s, const float *h, struct crn_suffix_score *out);
/* Makes the distributions of h the reference of later scores. */
int crn_suffix_refer(struct crn_suffix *s, const float *h);

#endif
