/* Running sums. With t the number of a query, a row's score over queries t0 .. T is
 *     sum (1 + (w - 1) (t - t0) / r) a_t  =  (1 - (w - 1) t0 / r) S0 + (w - 1) / r S1
 * with S0 = sum a_t and S1 = sum t a_t. The sums begin when the row appears, r + 1 to r + X queries
 * before it is judged: the window's queries, and up to X - 1 earlier ones that weigh a little less
 * than 1.
 *
 * The rule differs from its published code where that is broken (method.md 2.3.4): each layer
 * counts its own rows, and what is judged is always the X oldest rows that were not judged before.
 */
#include "tools/worker/gen_pyramid.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_EXCEED 1024u

/* One layer of one answer. */
struct rows {
    float *sum, *late; /* S0, S1 [capacity] */
    uint32_t n, capacity;
    uint32_t judged; /* rows in front that stay for good */
    uint32_t seen;   /* queries so far */
};

struct crn_gen {
    struct crn_gen_rule rule;
    uint32_t n_layers, n_answers;
    struct rows *rows; /* [n_layers][n_answers] */
    float **scores;    /* [n_answers] */
    uint32_t *room;    /* [n_answers] */
    struct crn_kv_spare spare;
};

static int set_field(struct crn_gen_rule *r, const char *name, double value)
{
    if (strcmp(name, "rho") == 0 && value < 1)
        r->rho = (float)value;
    else if (strcmp(name, "g") == 0 && value <= 1)
        r->g = (float)value;
    else if (strcmp(name, "c") == 0 && value <= 1)
        r->c = (float)value;
    else if (strcmp(name, "w") == 0 && value >= 1 && value <= 100)
        r->w = (float)value;
    else if (strcmp(name, "X") == 0 && value >= 1 && value <= MAX_EXCEED && value == floor(value))
        r->exceed = (uint32_t)value;
    else
        return CAIRN_E_ARG;
    return 0;
}

int crn_gen_parse(const char *text, struct crn_gen_rule *out_rule)
{
    struct crn_gen_rule rule = CRN_GEN_DEFAULT;
    char copy[128], *rest = copy, *item;
    if (strlen(text) >= sizeof copy)
        return CAIRN_E_ARG;
    memcpy(copy, text, strlen(text) + 1);
    while (strcmp(text, "on") != 0 && text[0] != '\0' && (item = strsep(&rest, ",")) != NULL) {
        char *value = strchr(item, '='), *end;
        if (value == NULL)
            return CAIRN_E_ARG;
        *value++ = '\0';
        double number = strtod(value, &end);
        if (end == value || *end != '\0' || !(number >= 0) || set_field(&rule, item, number) != 0)
            return CAIRN_E_ARG;
    }
    *out_rule = rule;
    return 0;
}

/* 0.2f is meant as 0.2 (pyramid.c). */
static double decimal(float x)
{
    return round((double)x * 1e6) / 1e6;
}

uint32_t crn_gen_keep(const struct crn_gen_rule *r, uint32_t layer, uint32_t n_layers)
{
    double g = decimal(r->g), fall = (1 + cos(M_PI * layer / n_layers)) / 2;
    uint32_t k = (uint32_t)(r->exceed * decimal(r->c) * (g + (1 - g) * fall));
    return k > 1 ? k : 1;
}

uint32_t crn_gen_window(const struct crn_gen_rule *r, uint32_t tokens)
{
    return (uint32_t)(tokens * decimal(r->rho));
}

int crn_gen_begin(const struct crn_gen_rule *rule, uint32_t n_layers, uint32_t n_answers,
                  struct crn_gen **out_gen)
{
    struct crn_gen *g = calloc(1, sizeof *g);
    if (g == NULL)
        return -ENOMEM;
    *g = (struct crn_gen){.rule = *rule, .n_layers = n_layers, .n_answers = n_answers};
    g->rows = calloc((size_t)n_layers * n_answers, sizeof *g->rows);
    g->scores = calloc(n_answers, sizeof *g->scores);
    g->room = calloc(n_answers, sizeof *g->room);
    int status = g->rows && g->scores && g->room ? 0 : -ENOMEM;
    if (rule->exceed == 0 || rule->exceed > MAX_EXCEED || n_layers == 0)
        status = CAIRN_E_ARG;
    if (status != 0)
        crn_gen_end(g);
    else
        *out_gen = g;
    return status;
}

void crn_gen_end(struct crn_gen *g)
{
    if (g == NULL)
        return;
    for (size_t i = 0; g->rows != NULL && i < (size_t)g->n_layers * g->n_answers; i++) {
        free(g->rows[i].sum);
        free(g->rows[i].late);
    }
    for (uint32_t i = 0; g->scores != NULL && i < g->n_answers; i++)
        free(g->scores[i]);
    free(g->rows);
    free(g->scores);
    free(g->room);
    crn_kv_spare_free(&g->spare);
    free(g);
}

float *crn_gen_scores(struct crn_gen *g, uint32_t answer, uint32_t n)
{
    if (n > g->room[answer]) {
        uint32_t room = n + n / 2 + 64;
        float *grown = realloc(g->scores[answer], room * sizeof *grown);
        if (grown == NULL)
            return NULL;
        g->scores[answer] = grown;
        g->room[answer] = room;
    }
    return g->scores[answer];
}

static int grow(struct rows *r, uint32_t n)
{
    if (n > r->capacity) {
        uint32_t capacity = n + n / 2 + 64;
        float *sum = realloc(r->sum, capacity * sizeof *sum);
        r->sum = sum != NULL ? sum : r->sum;
        float *late = realloc(r->late, capacity * sizeof *late);
        r->late = late != NULL ? late : r->late;
        if (sum == NULL || late == NULL)
            return -ENOMEM;
        r->capacity = capacity;
    }
    for (; r->n < n; r->n++)
        r->sum[r->n] = r->late[r->n] = 0;
    return 0;
}

/* Marks the k best of X rows; ties to the earlier one. */
static void pick(const double *score, uint32_t n, uint32_t k, uint8_t *out_kept)
{
    memset(out_kept, 0, n);
    for (uint32_t j = 0; j < k && j < n; j++) {
        uint32_t best = n;
        for (uint32_t i = 0; i < n; i++)
            if (!out_kept[i] && (best == n || score[i] > score[best]))
                best = i;
        out_kept[best] = 1;
    }
}

/* Drops the rows of [first, first + X) that are not kept, from kv and from the sums. */
static int drop(struct crn_gen *g, struct rows *r, const struct crn_kernel_ops *ops, struct crn_kv *kv,
                const uint8_t *kept)
{
    uint32_t first = r->judged, n = g->rule.exceed, to = first, index[MAX_EXCEED];
    for (uint32_t i = 0; i < n; i++) {
        if (!kept[i])
            continue;
        r->sum[to] = r->sum[first + i];
        r->late[to] = r->late[first + i];
        index[to - first] = first + i;
        to++;
    }
    memmove(r->sum + to, r->sum + first + n, (r->n - first - n) * sizeof *r->sum);
    memmove(r->late + to, r->late + first + n, (r->n - first - n) * sizeof *r->late);
    r->n -= first + n - to;
    struct crn_kv_cut cut = {first, n, index, to - first};
    return crn_kv_keep(kv, ops, &g->spare, &cut);
}

static int judge(struct crn_gen *g, struct rows *r, const struct crn_gen_step *step,
                 uint32_t window, struct crn_kv *kv)
{
    double score[MAX_EXCEED], slope = window > 0 ? (decimal(g->rule.w) - 1) / window : 0;
    uint8_t kept[MAX_EXCEED];
    double begin = (double)r->seen - window;
    uint32_t k = crn_gen_keep(&g->rule, step->layer, g->n_layers), x = g->rule.exceed;
    for (uint32_t i = 0; i < x; i++)
        score[i] = (1 - slope * begin) * (double)r->sum[r->judged + i] +
                   slope * (double)r->late[r->judged + i];
    pick(score, x, k, kept);
    int status = drop(g, r, step->ops, kv, kept);
    r->judged += k < x ? k : x;
    return status;
}

int crn_gen_take(struct crn_gen *g, const struct crn_gen_step *step, struct crn_kv *kv)
{
    struct rows *r = &g->rows[(size_t)step->layer * g->n_answers + step->answer];
    const float *scores = g->scores[step->answer];
    uint32_t window = crn_gen_window(&g->rule, step->tokens), x = g->rule.exceed;
    int status = grow(r, kv->n);
    if (r->judged < step->fixed)
        r->judged = step->fixed;
    r->seen++;
    for (uint32_t i = 0; i < kv->n && status == 0; i++) {
        r->sum[i] += scores[i];
        r->late[i] += (float)r->seen * scores[i];
    }
    while (status == 0 && kv->n >= r->judged + x + 1 + window)
        status = judge(g, r, step, window, kv);
    return status;
}
