/* lesson - one context with its questions, ready to ask again and again how well the receiver answers after a run that starts from
 * some state: what does not depend on that state is computed once. crn_linalg_threads(1) first, as for grad.h. */
#ifndef CRN_PROFILE_LESSON_H
#define CRN_PROFILE_LESSON_H

#include "tools/profile/attend.h"
#include "tools/profile/questions.h"

#include <stdint.h>

struct crn_lesson_rule {
    struct crn_engine *producer, *receiver;
    uint32_t first, last; /* the run */
    struct crn_answer_rule answers;
};

struct crn_lesson {
    const struct crn_lesson_rule *rule;
    uint32_t n, rows, n_parts, n_answers;
    float *state;            /* [n][d] the producer's, rounded as an entry stores it */
    struct crn_kv *kv;       /* [n_layers] the producer's K and V behind the run; before it: empty */
    float *questions;        /* [rows][d] rows of the questions entering the run's first layer */
    int32_t *pos, *context_pos; /* [rows], [n] */
    struct crn_part *parts;  /* [n_parts], one per question */
    uint32_t *answers;       /* [n_answers] rows that predict an answer's token */
    float *goal;             /* [n_answers][d] these rows after the last layer, over the receiver's own prefill */
};

/* rule and context must outlive it. own: crn_lesson_free, also after a failure. fails -ENOMEM, codes of the engine */
int crn_lesson_make(const struct crn_lesson_rule *rule, const struct crn_dataset_context *context, struct crn_lesson *out);
void crn_lesson_free(struct crn_lesson *l); /* zeroed struct allowed */

/* mapped [n][d]: the state that the run starts from; it is overwritten. out_kl: sum over the rows that predict an answer's token.
 * d_mapped [n][d]: the derivative of the mean over these rows; NULL: not wanted. fails -ENOMEM, codes of the engine */
int crn_lesson_ask(const struct crn_lesson *l, float *mapped, double *out_kl, float *d_mapped);

#endif
