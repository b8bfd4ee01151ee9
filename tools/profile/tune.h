/* tune - a state map made better for what it is for: the receiver's answers.
 *
 * The closed form (fit.h) brings the mapped state near the receiver's, every token and channel alike. What counts is what questions
 * read from it after the run. So the map is moved on by gradient descent (Adam) on
 *
 *     mean over rows that predict an answer's token of KL(receiver after an own prefill || receiver after the run from the mapped state)
 *
 * through the layers of the run and those of the questions behind its start, weights frozen (grad.h). Steps are taken in whitened
 * coordinates, W = W0 + diag(r) M L^-1 with L L^T the Gram matrix and r the closed form's error per channel, so that one rate suits
 * channels whose scales differ by thousands. Labels are not used: the receiver's own distributions are the goal.
 *
 * Memory: the lessons of all contexts, each of its state in float32 and the producer's K and V behind the run (SmolLM2, a run to layer
 * 23: 7 MB per 1,000 tokens), and the tapes of one: 23 kB per token and layer of the run. */
#ifndef CRN_PROFILE_TUNE_H
#define CRN_PROFILE_TUNE_H

#include "tools/profile/fit.h"
#include "tools/profile/questions.h"

#include <stdint.h>

#define CRN_TUNE_EPOCHS 2u /* more brought nothing on contexts held out */

struct crn_tune {
    struct crn_engine *producer, *receiver; /* of the host */
    const struct crn_dataset *set;
    uint32_t every; /* 1: all contexts of the set; n: the last of every n */
    uint32_t first, last; /* the run; first > 0 */
    uint32_t epochs;
    double rate;          /* of Adam, 0: the default */
    struct crn_answer_rule answers;
    const struct crn_fit *fit; /* of the run's start */
    double lambda;             /* that the closed form was solved with */
    void (*progress)(void *ctx, double contexts); /* once per context read and per step */
    void *progress_ctx;
};

/* What came of it, on the contexts that were held out (every eighth): mean KL per row. */
struct crn_tuned {
    uint32_t contexts, held_out;
    double kl_before, kl_after;
    double part; /* of the way learnt that is gone: 1, 0.5 or 0.25 */
    int better; /* 0: the closed form was kept */
};

/* io_map [d][d + 1]: the closed form in, the better of the two out. fails CAIRN_E_ARG (fewer than two contexts with questions),
 * CAIRN_E_UNSUPPORTED (weights that are not float32), -ENOMEM, codes of the engine */
int crn_tune_map(const struct crn_tune *t, float *io_map, struct crn_tuned *out);

#endif
