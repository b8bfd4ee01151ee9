/* model - a loaded model with an engine, for tests that compute: the real one with its siblings, or
 * small random ones. */
#ifndef CRN_TESTS_MODEL_H
#define CRN_TESTS_MODEL_H

#include "tools/worker/chat.h"
#include "tools/worker/engine.h"
#include "tools/worker/decode.h"
#include "tools/worker/prefill.h"

#include <jansson.h>

struct test_model {
    struct crn_weights *weights;
    struct crn_tokenizer *tokenizer;
    struct crn_pool *pool;
    struct crn_engine engine;
};

/* Loads "base", or base with the adapter share/family/NAME.gguf; fails the test on error. kv_dtype:
 * of private KV. */
void test_model_open(struct test_model *m, const char *name, const char *backend,
                     uint32_t kv_dtype);
/* The same for a model file of the test's own. */
void test_model_open_file(struct test_model *m, const char *path, const char *adapter,
                          const char *backend, uint32_t kv_dtype);
/* The same on a device. */
void test_model_open_at(struct test_model *m, const char *path, const char *adapter,
                        const struct crn_weights_place *place, uint32_t kv_dtype);
void test_model_close(struct test_model *m);

/* A golden file as JSON; fails the test when it is not there. */
json_t *test_golden(const char *file);
/* Array of integers -> ids, malloc'd. */
int32_t *test_ids(const json_t *array, uint32_t *out_n);
/* Checks pairs [[id, logit], ...] against logits; returns the largest difference. */
double test_top_difference(const json_t *pairs, const float *logits);

#endif
