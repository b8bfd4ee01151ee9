/* sample - from logits to the next token: greedy, or temperature and top-p with a seed. */
#ifndef CRN_WORKER_SAMPLE_H
#define CRN_WORKER_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

struct crn_sampler {
    float temperature; /* 0: greedy, ties to the lowest id */
    float top_p;       /* 0..1; 1: all tokens */
    uint64_t state;    /* of the generator: seed it with any number */
};

/* The next token. logits [n] are changed when temperature > 0. scratch [n] is working memory. */
uint32_t crn_sample(struct crn_sampler *s, float *logits, size_t n, uint32_t *scratch);

/* -log softmax(logits)[token], in double. */
double crn_nll(const float *logits, size_t n, uint32_t token);

#endif
