/* decode - questions after a shared context: their tokens through the layers, the first token, the
 * rest of the answer.
 *
 * Several questions go together: their rows share the reads of weights and of the context's spans,
 * and each question sees only its own suffix. The suffix pass is exposed layer by layer, so that it
 * can follow payloads as they come back. */
#ifndef CRN_WORKER_DECODE_H
#define CRN_WORKER_DECODE_H

#include "tools/worker/cache.h"
#include "tools/worker/gen_pyramid.h"
#include "tools/worker/pass.h"
#include "tools/worker/sample.h"

#include <stdint.h>

/* One question and, when it is done, its answer. */
struct crn_question {
    const int32_t *tokens; /* question, n of them, n >= 1 */
    uint32_t n;
    uint32_t n_forced; /* trailing tokens of `tokens` that are a given answer: scored instead of
                          generated */
    int32_t *answer;   /* out [max_tokens], caller's memory; without the stop token */
    uint32_t n_answer;
    uint32_t stopped; /* 1: ended with the stop token, 0: cut at max_tokens */
    const int32_t *follow; /* [n_follow]: generating takes these tokens, and scores them, instead of
                              its own; NULL: none */
    uint32_t n_follow, n_agreed; /* agreed: that were the most likely ones */
    uint32_t exact;   /* forced: every token of the given answer was the most likely one */
    double nll;       /* forced: mean negative log-likelihood of the given answer */
};

struct crn_decode_options {
    struct crn_sampler sampler;
    uint32_t max_tokens;
    int32_t stop[2]; /* tokens that end an answer; negative: unused */
    int (*keep)(void *ctx); /* NULL: none. Called before each step: may what is read still be read? */
    void *keep_ctx;
};

struct crn_decode {
    struct crn_engine *engine;
    struct crn_question *questions;
    uint32_t n;                   /* questions */
    struct crn_pass pass;         /* all questions' rows */
    struct crn_segment *segments; /* [n], scratch */
    struct crn_gen *gen;          /* NULL: answers keep all their tokens */
    struct crn_kv *kv;            /* [n_layers][n] */
    uint32_t *next_pos;           /* [n] */
    float *rows, *logits;         /* [n][hidden], [n][vocab] */
    uint32_t *scratch;            /* [vocab] */
};

/* Embeds the questions' tokens at positions start, start + 1, ... own: end with crn_decode_end */
int crn_decode_begin(struct crn_decode *d, struct crn_engine *e, struct crn_question *questions,
                     uint32_t n, uint32_t start);
void crn_decode_end(struct crn_decode *d); /* zeroed struct allowed */

/* From here on generating drops tokens of the answers. fails -ENOMEM, CAIRN_E_ARG */
int crn_decode_thin(struct crn_decode *d, const struct crn_gen_rule *rule);

/* The suffix pass through one layer. Layers 0 .. L-1 in order. */
int crn_decode_layer(struct crn_decode *d, uint32_t layer, const struct crn_span *spans,
                     uint32_t n_spans);
/* Logits of each question's last row [n][vocab] are in d->logits afterwards. */
int crn_decode_logits(struct crn_decode *d);
/* Generates all answers; cache is the context's. Call after crn_decode_logits. fails what
 * options->keep says, codes of the engine */
int crn_decode_generate(struct crn_decode *d, const struct crn_cache *cache,
                        const struct crn_decode_options *options);
/* Scores given answers (n_forced > 0) from the suffix pass alone. */
int crn_decode_score(struct crn_decode *d);
/* Bytes of the questions' own K and V. */
uint64_t crn_decode_bytes(const struct crn_decode *d);

#endif
