/* Lessons are made once and kept; a step is one lesson there and back. The order is shuffled with a seed of its own, so the same input
 * gives the same map on the same machine. What is returned was the better one on lessons that no step has seen. */
#include "tools/profile/tune.h"

#include "ipc/cairn_status.h"
#include "ipc/log.h"
#include "kernels/pool.h"
#include "tools/profile/lesson.h"
#include "tools/profile/linalg.h"
#include "tools/worker/state_map.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RATE 1e-3       /* of Adam, in whitened coordinates: such numbers at random move a channel by 2 % of its error */
#define WARM_STEPS 10.0 /* the rate rises, then falls along a cosine ... */
#define LAST_RATE 0.05  /* ... to this share */
#define BETA_1 0.9
#define BETA_2 0.99
#define HELD_OUT 8u /* every eighth lesson */

struct tuning {
    const struct crn_tune *t;
    struct crn_lesson_rule rule;
    struct crn_lesson *lessons;
    uint32_t n_lessons;
    size_t d, n;                   /* n = d + 1 */
    float *root, *scale;           /* [n][n] L^-1, [d] error per channel */
    float *first, *map, *best;     /* [d][n] the closed form, the map in hand, the best so far */
    float *m, *slope;              /* [d][n] M and the derivative by it */
    float *mean, *square;          /* [d][n] of Adam */
    float *state, *d_state;        /* rows of the longest context */
    uint32_t step, n_steps;
};

static int is_held_out(uint32_t lesson)
{
    return lesson % HELD_OUT == 0;
}

/* ---- a map and its derivative ---- */

/* map = W0 + diag(scale) M L^-1 */
static void set_map(struct tuning *u)
{
    crn_linalg_float(&(struct crn_product){.a = u->m, .b = u->root, .c = u->map, .m = u->d, .n = u->n, .k = u->n, .lda = u->n, .ldb = u->n,
                                           .ldc = u->n, .scale = 1.0f});
    for (size_t i = 0; i < u->d; i++)
        for (size_t j = 0; j < u->n; j++)
            u->map[i * u->n + j] = u->first[i * u->n + j] + u->scale[i] * u->map[i * u->n + j];
}

static int apply(struct tuning *u, const struct crn_lesson *l, const float *map)
{
    struct cairn_map_view view = {.w = map, .hidden = (uint32_t)u->d, .bytes = u->d * u->n * sizeof *map};
    memcpy(u->state, l->state, l->n * u->d * sizeof *u->state);
    return crn_state_map_apply(u->t->receiver, &view, u->state, l->n);
}

/* The derivative by M of what d_state [l->n][d] says: diag(scale) (d_state^T [state, 1]) L^-T. u->map serves as scratch. */
static void set_slope(struct tuning *u, const struct crn_lesson *l)
{
    crn_linalg_float(&(struct crn_product){.a = u->d_state, .b = l->state, .c = u->map, .m = u->d, .n = u->d, .k = l->n, .lda = u->d,
                                           .ldb = u->d, .ldc = u->n, .a_turned = 1, .scale = 1.0f});
    for (size_t i = 0; i < u->d; i++)
        u->map[i * u->n + u->d] = 0;
    for (size_t r = 0; r < l->n; r++)
        for (size_t i = 0; i < u->d; i++)
            u->map[i * u->n + u->d] += u->d_state[r * u->d + i];
    for (size_t i = 0; i < u->d; i++)
        for (size_t j = 0; j < u->n; j++)
            u->map[i * u->n + j] *= u->scale[i];
    crn_linalg_float(&(struct crn_product){.a = u->map, .b = u->root, .c = u->slope, .m = u->d, .n = u->n, .k = u->n, .lda = u->n,
                                           .ldb = u->n, .ldc = u->n, .b_turned = 1, .scale = 1.0f});
}

/* ---- steps ---- */

static double rate_of(const struct tuning *u)
{
    double rate = u->t->rate > 0 ? u->t->rate : RATE, warm = (u->step + 1) / WARM_STEPS, done = (double)u->step / u->n_steps;
    return rate * (warm < 1 ? warm : 1) * (LAST_RATE + (1 - LAST_RATE) * (1 + cos(3.14159265358979 * done)) / 2);
}

static void adam(struct tuning *u)
{
    double rate = rate_of(u), t = u->step + 1;
    float fix_1 = (float)(1 - pow(BETA_1, t)), fix_2 = (float)(1 - pow(BETA_2, t));
    for (size_t i = 0; i < u->d * u->n; i++) {
        float g = u->slope[i];
        u->mean[i] = (float)BETA_1 * u->mean[i] + (float)(1 - BETA_1) * g;
        u->square[i] = (float)BETA_2 * u->square[i] + (float)(1 - BETA_2) * g * g;
        u->m[i] -= (float)rate * (u->mean[i] / fix_1) / (sqrtf(u->square[i] / fix_2) + 1e-8f);
    }
    u->step++;
}

static int all_finite(const float *x, size_t n)
{
    size_t i = 0;
    while (i < n && isfinite(x[i]))
        i++;
    return i == n;
}

static int step(struct tuning *u, const struct crn_lesson *l)
{
    double kl;
    set_map(u);
    int status = apply(u, l, u->map);
    if (status == 0)
        status = crn_lesson_ask(l, u->state, &kl, u->d_state);
    if (status != 0 || !isfinite(kl))
        return status; /* such a lesson teaches nothing */
    set_slope(u, l);
    if (all_finite(u->slope, u->d * u->n))
        adam(u);
    return 0;
}

/* Mean KL of the lessons held out. */
static int examine(struct tuning *u, const float *map, double *out_kl)
{
    double sum = 0, rows = 0, kl;
    int status = 0;
    for (uint32_t i = 0; i < u->n_lessons && status == 0; i++) {
        if (!is_held_out(i))
            continue;
        status = apply(u, &u->lessons[i], map);
        if (status == 0)
            status = crn_lesson_ask(&u->lessons[i], u->state, &kl, NULL);
        sum += status == 0 ? kl : 0;
        rows += u->lessons[i].n_answers;
    }
    *out_kl = rows > 0 ? sum / rows : 0;
    return status;
}

/* ---- all of it ---- */

static void advance(const struct tuning *u)
{
    if (u->t->progress != NULL)
        u->t->progress(u->t->progress_ctx, 1);
}

static int make_lessons(struct tuning *u)
{
    const struct crn_dataset *set = u->t->set;
    size_t longest = 0;
    int status = 0;
    u->lessons = calloc(set->n + 1, sizeof *u->lessons);
    if (u->lessons == NULL)
        return -ENOMEM;
    for (uint32_t i = u->t->every - 1; i < set->n && status == 0; i += u->t->every) {
        if (set->contexts[i].n == 0)
            continue;
        status = crn_lesson_make(&u->rule, &set->contexts[i], &u->lessons[u->n_lessons++]);
        longest = set->contexts[i].ids.n > longest ? set->contexts[i].ids.n : longest;
        advance(u);
    }
    if (status == 0 && u->n_lessons < 2)
        return CAIRN_E_ARG;
    u->state = malloc(longest * u->d * sizeof *u->state);
    u->d_state = malloc(longest * u->d * sizeof *u->d_state);
    return status != 0 ? status : u->state != NULL && u->d_state != NULL ? 0 : -ENOMEM;
}

static int prepare(struct tuning *u, const float *map)
{
    size_t count = u->d * u->n;
    float **zeroed[] = {&u->first, &u->map, &u->best, &u->m, &u->slope, &u->mean, &u->square};
    int status = 0;
    for (size_t i = 0; i < sizeof zeroed / sizeof *zeroed; i++) {
        *zeroed[i] = calloc(count, sizeof(float));
        status = *zeroed[i] != NULL ? status : -ENOMEM;
    }
    u->root = malloc(u->n * u->n * sizeof *u->root);
    u->scale = malloc(u->d * sizeof *u->scale);
    if (status != 0 || u->root == NULL || u->scale == NULL)
        return -ENOMEM;
    memcpy(u->first, map, count * sizeof *map);
    status = crn_fit_whiten(u->t->fit, u->root);
    return status != 0 ? status : crn_fit_residual(u->t->fit, map, u->t->lambda, u->scale);
}

/* An order of its own for each epoch (Fisher and Yates, a 64-bit linear congruential generator). */
static void shuffle(uint32_t *order, uint32_t n, uint64_t *io_seed)
{
    for (uint32_t i = n; i > 1; i--) {
        *io_seed = *io_seed * 6364136223846793005u + 1442695040888963407u;
        uint32_t other = (uint32_t)((*io_seed >> 33) % i), kept = order[i - 1];
        order[i - 1] = order[other];
        order[other] = kept;
    }
}

static int learn(struct tuning *u)
{
    uint32_t *order = malloc(u->n_lessons * sizeof *order), n = 0;
    uint64_t seed = 1;
    int status = order != NULL ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < u->n_lessons && status == 0; i++)
        if (!is_held_out(i))
            order[n++] = i;
    u->n_steps = n * u->t->epochs;
    for (uint32_t epoch = 0; epoch < u->t->epochs && status == 0; epoch++) {
        shuffle(order, n, &seed);
        for (uint32_t i = 0; i < n && status == 0; i++) {
            status = step(u, &u->lessons[order[i]]);
            advance(u);
        }
    }
    free(order);
    return status;
}

/* How far to go of the way learnt, by the lessons held out: few answers teach what is not true of others, too, and half of the way
 * may do better. What is told of the best of three is a little too good. */
static int go_back(struct tuning *u, struct crn_tuned *out)
{
    double kl;
    int status = 0;
    out->kl_after = INFINITY;
    for (float part = 1; part > 0.2f && status == 0; part /= 2) {
        set_map(u);
        status = examine(u, u->map, &kl);
        crn_log(CRN_LOG_INFO, "tuning: %.2f of the way: KL %.5g", (double)part, kl);
        if (status == 0 && kl < out->kl_after) {
            out->kl_after = kl;
            out->part = part;
            memcpy(u->best, u->map, u->d * u->n * sizeof *u->best);
        }
        for (size_t i = 0; i < u->d * u->n; i++)
            u->m[i] /= 2;
    }
    return status;
}

static int tune(struct tuning *u, float *io_map, struct crn_tuned *out)
{
    int status = make_lessons(u);
    if (status == 0)
        status = prepare(u, io_map);
    if (status == 0)
        status = examine(u, u->first, &out->kl_before);
    if (status == 0)
        status = learn(u);
    if (status != 0)
        return status;
    status = go_back(u, out);
    for (uint32_t i = 0; i < u->n_lessons; i++)
        out->held_out += (uint32_t)is_held_out(i);
    out->contexts = u->n_lessons;
    out->better = status == 0 && out->kl_after < out->kl_before; /* false for what is not a number */
    if (out->better)
        memcpy(io_map, u->best, u->d * u->n * sizeof *io_map);
    return status;
}

static void release(struct tuning *u)
{
    float *owned[] = {u->root, u->scale, u->first, u->map, u->best, u->m, u->slope, u->mean, u->square, u->state, u->d_state};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        free(owned[i]);
    for (uint32_t i = 0; i < u->n_lessons; i++)
        crn_lesson_free(&u->lessons[i]);
    free(u->lessons);
}

int crn_tune_map(const struct crn_tune *t, float *io_map, struct crn_tuned *out)
{
    struct tuning u = {.t = t,
                       .rule = {.producer = t->producer,
                                .receiver = t->receiver,
                                .first = t->first,
                                .last = t->last,
                                .answers = t->answers},
                       .d = t->receiver->weights->shape.hidden};
    u.n = u.d + 1;
    *out = (struct crn_tuned){0};
    if (t->first == 0 || t->last < t->first || t->last >= t->receiver->weights->shape.n_layers || t->epochs == 0)
        return CAIRN_E_ARG;
    crn_linalg_threads(1); /* products are called from the pool's threads */
    int status = tune(&u, io_map, out);
    crn_linalg_threads(crn_pool_threads(t->receiver->exec.pool));
    release(&u);
    return status;
}
