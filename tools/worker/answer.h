/* answer - one context and its questions: attach or prefill, publish, first token, the rest. */
#ifndef CRN_WORKER_ANSWER_H
#define CRN_WORKER_ANSWER_H

#include "tools/worker/decode.h"
#include "tools/worker/engine.h"
#include "tools/worker/pyramid.h"
#include "tools/worker/share.h"
#include "tools/worker/tokenizer.h"

#include <stdint.h>

/* What a worker process has: set up once. */
struct crn_worker {
    struct crn_engine engine;
    struct cairn_client *client; /* NULL: works alone */
    struct crn_reuse_choice reuse;
    struct crn_publish_choice publish;
    struct crn_pyramid_rule rule; /* of an own prefill */
    struct crn_decode_options decode;
    struct crn_gen_rule gen; /* while generating */
    int private_int8; /* recomputed and prefilled layers become int8 when they are complete */
    int score;        /* given answers are scored instead of generated */
    int alone;        /* the broker was not there: said once */
};

struct crn_outcome {
    struct crn_reuse_result reuse;
    const char *reason; /* one word for people: why this class */
    uint32_t n_context;
    double ttft_s, prefill_s, total_s;
    uint64_t kv_shared_bytes, kv_private_bytes;
    int published;
};

/* context [n]; questions may be 0: then the context is only read and published.
 * fails   -ENOMEM, CAIRN_E_ARG, CAIRN_E_TOO_BIG (longer than the model allows); never because of
 * the broker */
int crn_answer(struct crn_worker *w, const int32_t *context, uint32_t n,
               struct crn_question *questions, uint32_t n_questions, struct crn_outcome *out);

/* What all members of a model's family have in common, as one digest (cairn_family_digest). */
int crn_worker_family(const struct crn_weights *weights, const struct crn_tokenizer *tokenizer,
                      struct cairn_digest *out_family);

/* "same_model", "plan", "no_entry", ...: enum cairn_reason as people and JSON see it. */
const char *crn_reason_name(uint32_t reason);
/* "exact", "approx", "none". */
const char *crn_class_name(uint32_t class_);

#endif
