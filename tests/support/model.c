/* Models for tests. */
#include "tests/support/model.h"

#include "kernels/pool.h"
#include "tests/support/paths.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void load(struct test_model *m, const char *path, const char *adapter,
                 const struct crn_weights_place *place)
{
    struct crn_adapter_spec spec = {adapter, 1.0f};
    memset(m, 0, sizeof *m);
    ck_assert_int_eq(crn_weights_load_at(path, &spec, adapter != NULL, place, &m->weights), 0);
    ck_assert_int_eq(crn_tokenizer_create(m->weights->base, &m->tokenizer), 0);
    ck_assert_int_eq(crn_pool_create(2, 0, &m->pool), 0);
}

void test_model_open_file(struct test_model *m, const char *path, const char *adapter,
                          const char *backend, uint32_t kv_dtype)
{
    load(m, path, adapter, NULL);
    struct crn_exec exec = {.pool = m->pool};
    ck_assert_int_eq(
        crn_engine_init(&m->engine, m->weights, crn_kernels_named(backend), &exec, kv_dtype), 0);
}

void test_model_open_at(struct test_model *m, const char *path, const char *adapter,
                        const struct crn_weights_place *place, uint32_t kv_dtype)
{
    load(m, path, adapter, place);
    ck_assert_int_eq(crn_engine_init(&m->engine, m->weights, crn_kernels_named("cuda"), place->exec,
                                     kv_dtype),
                     0);
}

void test_model_open(struct test_model *m, const char *name, const char *backend, uint32_t kv_dtype)
{
    char file[64];
    snprintf(file, sizeof file, "%s.gguf", name);
    const char *adapter = strcmp(name, "base") == 0 ? NULL : paths_family(file);
    test_model_open_file(m, paths_model(), adapter, backend, kv_dtype);
}

void test_model_close(struct test_model *m)
{
    crn_engine_free(&m->engine);
    crn_pool_destroy(m->pool);
    crn_tokenizer_destroy(m->tokenizer);
    crn_weights_free(m->weights);
}

json_t *test_golden(const char *file)
{
    json_error_t error;
    json_t *root = json_load_file(paths_golden(file), 0, &error);
    ck_assert_msg(root != NULL, "%s: %s", file, error.text);
    return root;
}

int32_t *test_ids(const json_t *array, uint32_t *out_n)
{
    size_t n = json_array_size(array);
    int32_t *ids = malloc((n + 1) * sizeof *ids);
    ck_assert_ptr_nonnull(ids);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
    *out_n = (uint32_t)n;
    return ids;
}

double test_top_difference(const json_t *pairs, const float *logits)
{
    double worst = 0;
    ck_assert_uint_gt(json_array_size(pairs), 0);
    for (size_t i = 0; i < json_array_size(pairs); i++) {
        const json_t *pair = json_array_get(pairs, i);
        double want = json_number_value(json_array_get(pair, 1));
        double off = fabs(want - (double)logits[json_integer_value(json_array_get(pair, 0))]);
        worst = off > worst || isnan(off) ? off : worst;
    }
    return worst;
}
