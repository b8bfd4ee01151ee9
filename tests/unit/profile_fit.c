/* tools/profile/fit: a map that is there is found; ridge, weights and rank do what their formulas say. */
#include "tools/profile/fit.h"

#include "ipc/cairn_status.h"
#include "tests/support/rand.h"
#include "tests/support/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define D 24u
#define N 1500u /* more than one block of rows */

struct data {
    float from[N * D], to[N * D];
    float map[D * (D + 1)]; /* what made `to` from `from` */
};

static void apply(const float *map, const float *x, float *out)
{
    for (size_t i = 0; i < D; i++) {
        double sum = (double)map[i * (D + 1) + D];
        for (size_t j = 0; j < D; j++)
            sum += (double)map[i * (D + 1) + j] * (double)x[j];
        out[i] = (float)((double)x[i] + sum);
    }
}

/* States with an outlier channel, moved by a random map of a rank (0: full), noise on top. */
static struct data *data_new(uint32_t rank, float noise)
{
    struct rand r = rand_seeded(rand_default_seed());
    struct data *d = calloc(1, sizeof *d);
    float u[D * D], v[D * D], e[D];
    ck_assert_ptr_nonnull(d);
    rand_fill(&r, u, D * D, 0.5f);
    rand_fill(&r, v, D * D, 0.5f);
    for (size_t i = 0; i < D; i++) {
        for (size_t j = 0; j < D; j++) {
            double sum = 0;
            for (size_t k = 0; k < rank; k++)
                sum += (double)u[i * D + k] * (double)v[k * D + j];
            d->map[i * (D + 1) + j] = rank > 0 ? (float)sum : u[i * D + j];
        }
        d->map[i * (D + 1) + D] = v[i];
    }
    rand_fill(&r, d->from, N * D, 1);
    for (size_t i = 0; i < N; i++) {
        d->from[i * D] += 30; /* a mean far from zero */
        apply(d->map, d->from + i * D, d->to + i * D);
        rand_fill(&r, e, D, noise);
        for (size_t j = 0; j < D; j++)
            d->to[i * D + j] += e[j];
    }
    return d;
}

static double largest_difference(const float *a, const float *b, size_t n)
{
    double largest = 0;
    for (size_t i = 0; i < n; i++)
        largest = fmax(largest, fabs((double)a[i] - (double)b[i]));
    return largest;
}

START_TEST(a_map_without_noise_is_found_exactly)
{
    struct data *d = data_new(0, 0);
    struct crn_fit fit;
    float map[D * (D + 1)];
    double explained;
    ck_assert_int_eq(crn_fit_init(&fit, D, _i == 0 ? CRN_FIT_EQUAL : CRN_FIT_NORM), 0);
    crn_fit_add(&fit, d->from, d->to, 700);
    crn_fit_add(&fit, d->from + 700 * D, d->to + 700 * D, N - 700);
    ck_assert_uint_eq(fit.n, N);
    ck_assert_int_eq(crn_fit_solve(&fit, 0, map, &explained), 0);
    ck_assert_double_le(largest_difference(map, d->map, D * (D + 1)), 2e-4);
    ck_assert_double_eq_tol(explained, 1, 1e-6);
    crn_fit_free(&fit);
    free(d);
}
END_TEST

/* One channel: W = sum x y / (sum x^2 + lambda mean diag), when the bias has nothing to do. */
START_TEST(the_ridge_is_a_share_of_the_mean_diagonal)
{
    const float from[] = {1, -1, 2, -2}, to[] = {1.5f, -1.5f, 3, -3};
    struct crn_fit fit;
    float map[2];
    double explained;
    ck_assert_int_eq(crn_fit_init(&fit, 1, CRN_FIT_EQUAL), 0);
    crn_fit_add(&fit, from, to, 4);
    ck_assert_int_eq(crn_fit_solve(&fit, 0.25, map, &explained), 0);
    ck_assert_float_eq_tol(map[0], 0.5f / 1.25f, 1e-6f); /* x^T x = 10, x^T y = 5, ridge 2.5 */
    ck_assert_float_eq_tol(map[1], 0, 1e-6f);
    ck_assert_double_eq_tol(explained, 1 - 0.01 / 0.25, 1e-9); /* what is left: (0.1 x)^2 of (0.5 x)^2 */
    crn_fit_free(&fit);
}
END_TEST

/* A token of large norm that follows another rule spoils an equal fit, and hardly a weighted one. */
START_TEST(weights_keep_a_massive_token_from_ruling)
{
    struct data *d = data_new(0, 0.01f);
    float worst[2];
    for (int w = 0; w < 2; w++) {
        struct crn_fit fit;
        float map[D * (D + 1)], odd[D], moved[D];
        ck_assert_int_eq(crn_fit_init(&fit, D, w == 0 ? CRN_FIT_EQUAL : CRN_FIT_NORM), 0);
        crn_fit_add(&fit, d->from, d->to, N);
        for (size_t j = 0; j < D; j++)
            odd[j] = 20000.0f * (j % 3 == 0 ? 1.0f : -1.0f);
        memset(moved, 0, sizeof moved);
        crn_fit_add(&fit, odd, moved, 1);
        ck_assert_int_eq(crn_fit_solve(&fit, 1e-6, map, NULL), 0);
        worst[w] = (float)largest_difference(map, d->map, D * (D + 1));
        crn_fit_free(&fit);
    }
    ck_assert_float_lt(worst[1], worst[0] / 2);
    free(d);
}
END_TEST

static void apply_low(const float *low, uint32_t rank, const float *x, float *out)
{
    const float *u = low, *v = low + D * rank, *bias = v + D * rank;
    for (size_t i = 0; i < D; i++) {
        double sum = (double)bias[i];
        for (size_t k = 0; k < rank; k++) {
            double inner = 0;
            for (size_t j = 0; j < D; j++)
                inner += (double)v[k * D + j] * (double)x[j];
            sum += (double)u[i * rank + k] * inner;
        }
        out[i] = (float)((double)x[i] + sum);
    }
}

static double error_of(const struct data *d, const float *low, uint32_t rank)
{
    double sum = 0;
    float out[D];
    for (size_t i = 0; i < N; i++) {
        apply_low(low, rank, d->from + i * D, out);
        for (size_t j = 0; j < D; j++)
            sum += pow((double)out[j] - (double)d->to[i * D + j], 2);
    }
    return sum / (N * D);
}

START_TEST(a_map_of_low_rank_is_found_with_that_rank_and_not_with_less)
{
    struct data *d = data_new(5, 0);
    struct crn_fit fit;
    float map[D * (D + 1)], low[(2 * D + 1) * D];
    ck_assert_int_eq(crn_fit_init(&fit, D, CRN_FIT_EQUAL), 0);
    crn_fit_add(&fit, d->from, d->to, N);
    ck_assert_int_eq(crn_fit_solve(&fit, 0, map, NULL), 0);
    ck_assert_int_eq(crn_fit_reduce(&fit, map, 5, low), 0);
    ck_assert_double_le(error_of(d, low, 5), 1e-6);
    double last = 1e-6;
    for (uint32_t rank = 4; rank > 0; rank--) { /* the best of each rank: less rank, more error */
        ck_assert_int_eq(crn_fit_reduce(&fit, map, rank, low), 0);
        double error = error_of(d, low, rank);
        ck_assert_double_gt(error, last);
        last = error;
    }
    ck_assert_int_eq(crn_fit_reduce(&fit, map, D, low), CAIRN_E_ARG);
    ck_assert_int_eq(crn_fit_reduce(&fit, map, 0, low), CAIRN_E_ARG);
    crn_fit_free(&fit);
    free(d);
}
END_TEST

START_TEST(too_few_tokens_need_a_ridge)
{
    struct data *d = data_new(0, 0);
    struct crn_fit fit;
    float map[D * (D + 1)];
    ck_assert_int_eq(crn_fit_init(&fit, D, CRN_FIT_EQUAL), 0);
    ck_assert_int_eq(crn_fit_solve(&fit, 1e-3, map, NULL), CAIRN_E_ARG); /* no token at all */
    crn_fit_add(&fit, d->from, d->to, 3);
    ck_assert_int_eq(crn_fit_solve(&fit, 1e-3, map, NULL), 0);
    for (size_t i = 0; i < D * (D + 1); i++)
        ck_assert(isfinite(map[i]));
    ck_assert_int_eq(crn_fit_solve(&fit, -1, map, NULL), CAIRN_E_ARG);
    crn_fit_free(&fit);
    free(d);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(a_map_without_noise_is_found_exactly, 2),
        RUN_TEST(the_ridge_is_a_share_of_the_mean_diagonal),
        RUN_TEST(weights_keep_a_massive_token_from_ruling),
        RUN_TEST(a_map_of_low_rank_is_found_with_that_rank_and_not_with_less),
        RUN_TEST(too_few_tokens_need_a_ridge),
    };
    return run_suite("profile_fit", tests, sizeof tests / sizeof *tests);
}
