/* tools/profile: the derivative through a run is the one that finite differences find, a lesson asks what the executor asks, and tuning
 * makes a map better on contexts that no step has seen, or leaves it alone. */
#include "tests/support/gguf_write.h"
#include "tests/support/model.h"
#include "tests/support/paths.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"

#include "tools/profile/lesson.h"
#include "tools/profile/tune.h"
#include "tools/worker/pass.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXTS = 17, QUESTIONS = 2, TOKENS = 150, ASKED = 7, ANSWERED = 3 };

static const struct crn_model_shape shape = {.n_layers = 5,
                                             .hidden = 64,
                                             .n_heads = 4,
                                             .n_kv_heads = 2,
                                             .head_dim = 16,
                                             .ffn = 96,
                                             .vocab = 97,
                                             .context_max = 1024,
                                             .rope_theta = 10000,
                                             .norm_eps = 1e-5f};

struct scene {
    struct test_model producer, receiver;
    struct crn_dataset set;
    struct crn_answer_rule answers;
};

static struct crn_ids random_ids(struct rand *r, size_t n)
{
    struct crn_ids ids = {.n = n, .ids = malloc(n * sizeof *ids.ids)};
    for (size_t i = 0; i < n; i++)
        ids.ids[i] = (int32_t)(3 + rand_below(r, 90));
    return ids;
}

/* Every other question has no answer of its own. */
static void scene_open(struct scene *s, bool siblings)
{
    char model[200], adapter[200];
    struct rand r = rand_seeded(rand_default_seed());
    paths_tmp();
    snprintf(model, sizeof model, "%s", paths_tmp_file("model.gguf"));
    snprintf(adapter, sizeof adapter, "%s", paths_tmp_file("adapter.gguf"));
    ck_assert_int_eq(crn_test_model_write(model, &shape, 5, CRN_QUANT_F32), 0);
    ck_assert_int_eq(crn_test_adapter_write(adapter, &shape, 6, 4, CRN_QUANT_F32), 0);
    *s = (struct scene){.answers = {.tokens = 4, .stop = {2, -1}}};
    test_model_open_file(&s->producer, model, NULL, "cpu", CAIRN_F32);
    test_model_open_file(&s->receiver, model, siblings ? adapter : NULL, "cpu", CAIRN_F32);
    s->set.n = CONTEXTS;
    s->set.contexts = calloc(CONTEXTS, sizeof *s->set.contexts);
    for (uint32_t i = 0; i < CONTEXTS; i++) {
        struct crn_dataset_context *c = &s->set.contexts[i];
        *c = (struct crn_dataset_context){.ids = random_ids(&r, TOKENS + i), .n = QUESTIONS,
                                          .questions = calloc(QUESTIONS, sizeof *c->questions)};
        for (uint32_t q = 0; q < QUESTIONS; q++)
            c->questions[q] = (struct crn_dataset_question){.ids = random_ids(&r, q == 0 ? ASKED + ANSWERED : ASKED + q),
                                                            .n_asked = ASKED + (q == 0 ? 0 : q), .answered = q == 0};
    }
}

static void scene_close(struct scene *s)
{
    crn_dataset_free(&s->set);
    test_model_close(&s->producer);
    test_model_close(&s->receiver);
    paths_tmp_remove();
}

static struct crn_lesson_rule rule_of(struct scene *s, uint32_t first, uint32_t last)
{
    return (struct crn_lesson_rule){
        .producer = &s->producer.engine, .receiver = &s->receiver.engine, .first = first, .last = last, .answers = s->answers};
}

static double ask(const struct crn_lesson *l, const float *state, float *d_state)
{
    double kl;
    float *copy = malloc(l->n * shape.hidden * sizeof *copy);
    memcpy(copy, state, l->n * shape.hidden * sizeof *copy);
    ck_assert_int_eq(crn_lesson_ask(l, copy, &kl, d_state), 0);
    free(copy);
    return kl / l->n_answers;
}

START_TEST(the_derivative_is_that_of_finite_differences)
{
    static const uint32_t runs[][2] = {{1, 1}, {1, 3}, {2, 4}, {3, 4}};
    struct scene s;
    struct crn_lesson l;
    struct rand r = rand_seeded(7);
    scene_open(&s, true);
    struct crn_lesson_rule rule = rule_of(&s, runs[_i][0], runs[_i][1]);
    ck_assert_int_eq(crn_lesson_make(&rule, &s.set.contexts[3], &l), 0);
    size_t count = l.n * shape.hidden;
    float *d = malloc(count * sizeof *d), *way = malloc(count * sizeof *way), *moved = malloc(count * sizeof *moved);
    double plain = ask(&l, l.state, d), length = 0;
    ck_assert_double_gt(plain, 1e-5); /* the models differ */
    for (size_t i = 0; i < count; i++)
        length += (double)d[i] * (double)d[i];
    length = sqrt(length);
    for (int k = 0; k < 4; k++) { /* along the derivative, then along it with random numbers added */
        double along = 0, ends[2], reach = 2e-3 * sqrt((double)count);
        rand_fill(&r, way, count, k > 0 ? (float)(2.0 / sqrt((double)count)) : 0.0f);
        for (size_t i = 0; i < count; i++) {
            way[i] += (float)((double)d[i] / length);
            along += (double)way[i] * (double)d[i];
        }
        for (int side = 0; side < 2; side++) {
            for (size_t i = 0; i < count; i++)
                moved[i] = l.state[i] + (float)(side == 0 ? -reach : reach) * way[i];
            ends[side] = ask(&l, moved, NULL);
        }
        ck_assert_msg(fabs((ends[1] - ends[0]) / (2 * reach) - along) < 0.03 * fabs(along), "%u-%u, way %d: %g instead of %g", rule.first,
                      rule.last, k, (ends[1] - ends[0]) / (2 * reach), along);
    }
    free(d);
    free(way);
    free(moved);
    crn_lesson_free(&l);
    scene_close(&s);
}
END_TEST

START_TEST(a_model_loses_nothing_from_its_own_state)
{
    struct scene s;
    struct crn_lesson l;
    scene_open(&s, false);
    struct crn_lesson_rule rule = rule_of(&s, 2, 3);
    ck_assert_int_eq(crn_lesson_make(&rule, &s.set.contexts[0], &l), 0);
    ck_assert_double_lt(fabs(ask(&l, l.state, NULL)), 1e-5); /* the state was rounded to f16 */
    crn_lesson_free(&l);
    scene_close(&s);
}
END_TEST

/* The rows entering a layer after a prefill. */
static void state_of(struct test_model *m, const struct crn_ids *ids, uint32_t layer, float *out)
{
    struct crn_pass pass;
    ck_assert_int_eq(crn_pass_begin(&pass, &m->engine, ids->ids, (uint32_t)ids->n, 0), 0);
    for (uint32_t i = 0; i < layer; i++) {
        struct crn_kv kv = {0};
        ck_assert_int_eq(crn_kv_init(&kv, CAIRN_F32, shape.n_kv_heads, shape.head_dim, (uint32_t)ids->n), 0);
        ck_assert_int_eq(crn_pass_layer(&pass, i, NULL, 0, &kv, NULL, 0), 0);
        crn_kv_free(&kv);
    }
    memcpy(out, pass.h, ids->n * shape.hidden * sizeof *out);
    crn_pass_end(&pass);
}

/* closed: what fitting gave. */
static struct crn_tuned tune(struct scene *s, double rate, float *closed, float *map)
{
    struct crn_fit fit;
    struct crn_tuned out;
    float from[(TOKENS + CONTEXTS) * 64], to[(TOKENS + CONTEXTS) * 64];
    ck_assert_int_eq(crn_fit_init(&fit, shape.hidden, CRN_FIT_EQUAL), 0);
    for (uint32_t i = 0; i < CONTEXTS; i++) {
        state_of(&s->producer, &s->set.contexts[i].ids, 2, from);
        state_of(&s->receiver, &s->set.contexts[i].ids, 2, to);
        crn_fit_add(&fit, from, to, s->set.contexts[i].ids.n);
    }
    ck_assert_int_eq(crn_fit_solve(&fit, 1e-3, map, NULL), 0);
    memcpy(closed, map, shape.hidden * (shape.hidden + 1) * sizeof *map);
    struct crn_tune t = {.producer = &s->producer.engine,
                         .receiver = &s->receiver.engine,
                         .set = &s->set,
                         .every = 1,
                         .first = 2,
                         .last = 3,
                         .epochs = 3,
                         .rate = rate,
                         .answers = s->answers,
                         .fit = &fit,
                         .lambda = 1e-3};
    ck_assert_int_eq(crn_tune_map(&t, map, &out), 0);
    crn_fit_free(&fit);
    return out;
}

START_TEST(tuning_makes_a_map_better_on_contexts_held_out_and_the_same_each_time)
{
    struct scene s;
    float closed[64 * 65], map[64 * 65], again[64 * 65];
    scene_open(&s, true);
    struct crn_tuned tuned = tune(&s, 0, closed, map);
    ck_assert_uint_eq(tuned.contexts, CONTEXTS);
    ck_assert_uint_eq(tuned.held_out, 3);
    ck_assert_msg(tuned.better && tuned.kl_after < tuned.kl_before, "%g, then %g", tuned.kl_before, tuned.kl_after);
    ck_assert_mem_ne(map, closed, sizeof map);
    tune(&s, 0, closed, again);
    ck_assert_mem_eq(map, again, sizeof map);
    scene_close(&s);
}
END_TEST

/* Steps that are too long overshoot: then a part of the way is better than all of it, and than none. */
START_TEST(a_part_of_the_way_is_taken_where_it_does_better)
{
    struct scene s;
    float closed[64 * 65], map[64 * 65];
    scene_open(&s, true);
    struct crn_tuned tuned = tune(&s, 0, closed, map);
    ck_assert_double_eq(tuned.part, 1);
    tuned = tune(&s, 8e-3, closed, map);
    ck_assert(tuned.better);
    ck_assert_double_lt(tuned.part, 1);
    scene_close(&s);
}
END_TEST

START_TEST(a_map_that_became_worse_is_not_taken)
{
    struct scene s;
    float closed[64 * 65], map[64 * 65];
    scene_open(&s, true);
    struct crn_tuned tuned = tune(&s, 1e3, closed, map); /* steps far beyond anything sensible */
    ck_assert_int_eq(tuned.better, 0);
    ck_assert(!(tuned.kl_after < tuned.kl_before));
    ck_assert_mem_eq(map, closed, sizeof map);
    scene_close(&s);
}
END_TEST

START_TEST(what_cannot_be_tuned_is_refused)
{
    struct scene s;
    float map[64 * 65];
    struct crn_fit fit = {0};
    struct crn_tuned out;
    scene_open(&s, true);
    struct crn_tune t = {.producer = &s.producer.engine, .receiver = &s.receiver.engine, .set = &s.set, .every = 1, .first = 0, .last = 3,
                         .epochs = 1, .answers = s.answers, .fit = &fit};
    ck_assert_int_eq(crn_tune_map(&t, map, &out), CAIRN_E_ARG); /* a run from layer 0 has no state */
    t.first = 2;
    t.last = shape.n_layers;
    ck_assert_int_eq(crn_tune_map(&t, map, &out), CAIRN_E_ARG);
    t.last = 3;
    ck_assert_int_eq(crn_tune_map(&t, map, &out), CAIRN_E_ARG); /* nothing was fitted */
    s.set.n = 1;
    ck_assert_int_eq(crn_tune_map(&t, map, &out), CAIRN_E_ARG); /* nothing to hold out */
    s.set.n = CONTEXTS;
    scene_close(&s);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(the_derivative_is_that_of_finite_differences, 4),
        RUN_TEST(a_model_loses_nothing_from_its_own_state),
        RUN_TEST(tuning_makes_a_map_better_on_contexts_held_out_and_the_same_each_time),
        RUN_TEST(a_part_of_the_way_is_taken_where_it_does_better),
        RUN_TEST(a_map_that_became_worse_is_not_taken),
        RUN_TEST(what_cannot_be_tuned_is_refused),
    };
    return run_suite("profile_tune", tests, sizeof tests / sizeof *tests);
}
