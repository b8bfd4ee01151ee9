/* gen_pyramid - dropping tokens while generating (method.md 2.3.3, PyramidInfer's intended rule),
 * for the private rows of an answer. The question and everything before it is never touched.
 *
 * Per layer: the last 1 + r rows are a window that nothing is dropped from, r = int(rho * tokens so
 * far). Whenever X rows have left it, the best k of them stay, k = max(1, int(X c g_l)), g_l
 * falling from 1 in the first layer to g in the last; what stayed once stays. A row's score is the
 * attention that the queries since it came paid to it, head-mean, later queries weighing up to w
 * times as much: two running sums per row instead of stored attention rows. Queries of the prompt
 * do not vote. */
#ifndef CRN_WORKER_GEN_PYRAMID_H
#define CRN_WORKER_GEN_PYRAMID_H

#include "tools/worker/kv.h"

#include <stdint.h>

/* method.md 2.3.1 */
struct crn_gen_rule {
    int on;
    float rho;       /* recent_ratio */
    float g;         /* gen_decay_ratio: of the last layer */
    float c;         /* gen_compress_ratio */
    float w;         /* distance_weight */
    uint32_t exceed; /* X, exceed_length_to_compress */
};
#define CRN_GEN_DEFAULT                                                                            \
    {                                                                                              \
        1, 0.2f, 0.1f, 0.9f, 1.2f, 16                                                              \
    }

/* Parses "rho=0.2,g=0.1,c=0.9,w=1.2,X=16" over the defaults; "" and "on" are the defaults.
 * CAIRN_E_ARG */
int crn_gen_parse(const char *text, struct crn_gen_rule *out_rule);
/* k of a layer. */
uint32_t crn_gen_keep(const struct crn_gen_rule *r, uint32_t layer, uint32_t n_layers);
/* r: rows of the window besides the newest, when `tokens` are there. */
uint32_t crn_gen_window(const struct crn_gen_rule *r, uint32_t tokens);

struct crn_gen;

/* For n answers at once. own: crn_gen_end. fails -ENOMEM, CAIRN_E_ARG */
int crn_gen_begin(const struct crn_gen_rule *rule, uint32_t n_layers, uint32_t n_answers,
                  struct crn_gen **out_gen);
void crn_gen_end(struct crn_gen *g); /* NULL allowed */

/* Where to have the scores of an answer's newest query written: [n] of all its private rows, the
 * newest included (crn_scores, CRN_REDUCE_MEAN_ALL). Valid until the next call for this answer.
 * NULL: no memory. */
float *crn_gen_scores(struct crn_gen *g, uint32_t answer, uint32_t n);
/* Takes these scores in after layer `layer` has appended one row to kv; the first `fixed` rows are
 * the question's. tokens: position of the newest one, plus one. Drops rows when it is time.
 * fails -ENOMEM, device codes */
struct crn_gen_step {
    uint32_t layer, answer, fixed, tokens;
    const struct crn_kernel_ops *ops; /* for rows on a device */
};
int crn_gen_take(struct crn_gen *g, const struct crn_gen_step *step, struct crn_kv *kv);

#endif
