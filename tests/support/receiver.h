/* receiver - this process as a receiver of what real workers published: it reads a context in
 * several ways and answers one question each time, so that logits can be compared. And small
 * helpers to run the workers. Failures end the test. */
#ifndef CRN_TESTS_RECEIVER_H
#define CRN_TESTS_RECEIVER_H

#include "tests/support/broker.h"
#include "tests/support/model.h"
#include "tests/support/program.h"

#include "tools/worker/answer.h"

#define RECEIVER_THREADS                                                                           \
    2 /* of every worker and of this process: equal shapes then mean equal bits */
#define RECEIVER_ANSWER 12u

struct receiver {
    struct test_model model;
    struct crn_chat chat;
    struct cairn_client *client;
};

/* adapter may be NULL; kv_dtype: of private KV. */
void receiver_open(struct receiver *r, const struct broker *b, const char *model,
                   const char *adapter, uint32_t kv_dtype);
/* The same with everything in the memory of place->exec, that of device 0 (NULL: as above). */
void receiver_open_at(struct receiver *r, const struct broker *b, const char *model,
                      const char *adapter, uint32_t kv_dtype, const struct crn_weights_place *place);
void receiver_close(struct receiver *r);
/* Token ids of a context as a worker reads it. own: crn_ids_free */
struct crn_ids receiver_tokens(const struct receiver *r, const char *text);

/* One context, read in some way, and one question answered after it. */
struct reading {
    struct receiver *by;
    struct crn_cache cache;
    struct crn_decode decode;
    struct crn_ids asked;
    struct crn_question question;
    int32_t answer[RECEIVER_ANSWER];
    float *logits;             /* [vocab], of the first token */
    struct cairn_lease *lease; /* NULL: nothing is shared */
    struct crn_reuse_result result;
};

/* An own prefill; rule may be NULL. */
void reading_own(struct reading *x, struct receiver *r, const struct crn_ids *context,
                 const struct crn_pyramid_rule *rule);
/* From the broker, which must have all of the context. */
void reading_shared(struct reading *x, struct receiver *r, const struct crn_ids *context,
                    const struct crn_reuse_choice *choice);
/* In steps: begin; fill x->cache; answer. */
void reading_begin(struct reading *x, struct receiver *r, const struct crn_ids *context);
void reading_answer(struct reading *x);
void reading_end(struct reading *x);

/* Largest difference of the first logits. */
double reading_difference(const struct reading *a, const struct reading *b);
/* Same bits of the first logits, same tokens. */
void reading_same_bits(const struct reading *a, const struct reading *b, const char *what);
/* The design's bound: |difference| <= 2e-3, same tokens. */
void reading_same(const struct reading *a, const struct reading *b, const char *what);

/* A plan from this model to another one, for a run of one layer: the state that enters it is wanted from then on. */
void receiver_store_plan(const struct receiver *r, uint32_t layer);

/* The choices of the worker's --reuse. */
struct crn_reuse_choice choice_auto(void);
struct crn_reuse_choice choice_run(uint32_t first, uint32_t last);

/* Runs cairn-worker on this broker (NULL: none) with --json and further options, NULL-terminated;
 * fails unless it exits 0. */
struct program worker_run(const struct broker *b, const char *const *options);
/* The first line it printed. own: json_decref */
json_t *worker_line(const struct broker *b, const char *const *options);
int json_number(const json_t *object, const char *key);
const char *json_text(const json_t *object, const char *key);

/* n letters, digits and spaces from a seed, each of them one token of a generated model. own: free
 */
char *random_text(uint32_t n, uint64_t seed);
/* The first n bytes of text (n < 0: all) as a file of the test's directory; the path is valid until
 * the next call with the same slot (0..7). */
const char *text_file(unsigned slot, const char *text, long n);

#endif
