/* questions - the questions about one context, each with an answer: the one that was given, or else the receiver's own. */
#ifndef CRN_PROFILE_QUESTIONS_H
#define CRN_PROFILE_QUESTIONS_H

#include "tools/profile/dataset.h"
#include "tools/profile/suffix.h"
#include "tools/worker/cache.h"

/* How the receiver answers where no answer was given: greedily. */
struct crn_answer_rule {
    uint32_t tokens; /* the longest answer */
    int32_t stop[2]; /* tokens that end one; negative: unused */
};

struct crn_questions {
    struct crn_suffix_question *list; /* [n] */
    uint32_t n;
    int own_answers; /* at least one answer is the receiver's own */
    int32_t *ids;    /* memory of the list's ids */
};

/* own: the receiver's cache of the context; dataset and cache are needed for this call only.
 * own     crn_questions_free, also after a failure. fails -ENOMEM, codes of the engine */
int crn_questions_make(const struct crn_dataset_context *context, struct crn_engine *receiver, const struct crn_cache *own,
                       const struct crn_answer_rule *rule, struct crn_questions *out);
void crn_questions_free(struct crn_questions *q); /* zeroed struct allowed */

#endif
