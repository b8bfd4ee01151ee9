/* From scores to sets. One function cuts a group of sets to a number of tokens with one threshold;
 * a budget says what a group is: all sets of all layers (GLOBAL), or each head of each layer by
 * itself, with a share that depends on the layer; with weights, the heads of a layer. */
#include "tools/worker/selectors/selectors.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LINEAR_LAST 0.05
#define COSINE_LAST 0.1

static const char *const names[] = {
    [CRN_BUDGET_GLOBAL] = "global",   [CRN_BUDGET_UNIFORM] = "uniform",
    [CRN_BUDGET_LINEAR] = "linear",   [CRN_BUDGET_COSINE] = "cosine",
    [CRN_BUDGET_DELAYED] = "delayed",
};

int crn_budget_parse(const char *name, enum crn_budget *out_budget)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], name) == 0) {
            *out_budget = (enum crn_budget)i;
            return 0;
        }
    }
    return CAIRN_E_ARG;
}

const char *crn_budget_name(enum crn_budget budget)
{
    return names[budget];
}

/* ---- shares ---- */

static int is_cut(const struct crn_sets_rule *r, uint32_t layer)
{
    return layer < r->whole_first || layer > r->whole_last;
}

static int is_global(const struct crn_sets_rule *r)
{
    return r->budget == CRN_BUDGET_GLOBAL && r->weights == NULL;
}

static double weight_of(const struct crn_sets_rule *r, uint32_t layer, uint32_t n_layers)
{
    double depth = n_layers > 1 ? (double)layer / (n_layers - 1) : 0;
    if (r->weights != NULL)
        return r->weights[layer];
    switch (r->budget) {
    case CRN_BUDGET_LINEAR:
        return 1 - (1 - LINEAR_LAST) * depth;
    case CRN_BUDGET_COSINE:
        return COSINE_LAST + (1 - COSINE_LAST) * (1 + cos(M_PI * depth)) / 2;
    case CRN_BUDGET_DELAYED:
        return layer < n_layers / 8 ? 1e6 : 1;
    default:
        return 1;
    }
}

/* Mean share of the layers that are cut when weights are multiplied by scale. */
static double fill_shares(const struct crn_sets_rule *r, uint32_t n_layers, double scale,
                          double *out)
{
    double sum = 0;
    uint32_t n = 0;
    for (uint32_t l = 0; l < n_layers; l++) {
        double share = scale * weight_of(r, l, n_layers);
        out[l] = !is_cut(r, l) || share > 1 ? 1 : share;
        sum += is_cut(r, l) ? out[l] : 0;
        n += is_cut(r, l) ? 1u : 0u;
    }
    return n > 0 ? sum / n : 1;
}

void crn_sets_shares(const struct crn_sets_rule *rule, uint32_t n_layers, double *out_share)
{
    double low = 0, high = 1;
    while (fill_shares(rule, n_layers, high, out_share) < (double)rule->keep && high < 1e12)
        high *= 2;
    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2;
        if (fill_shares(rule, n_layers, middle, out_share) < (double)rule->keep)
            low = middle;
        else
            high = middle;
    }
    fill_shares(rule, n_layers, high, out_share);
}

/* ---- cutting ---- */

static int always_kept(uint32_t i, uint32_t n)
{
    return i < CRN_SETS_SINK || i + CRN_SETS_RECENT >= n;
}

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Sets that share one threshold. */
struct group {
    const float *const *scores; /* [n_sets] */
    uint32_t *const *index;     /* [n_sets] */
    uint32_t **counts;          /* [n_sets] */
    size_t n_sets;
    uint32_t n;
};

static float value_at(const struct group *g, size_t set, uint32_t i)
{
    return always_kept(i, g->n) ? INFINITY : g->scores[set][i];
}

/* The value of the k-th largest, and how many tokens of exactly that value still fit. */
static int find_threshold(const struct group *g, size_t k, float *out_threshold, size_t *out_ties)
{
    size_t total = g->n_sets * g->n, above = 0;
    float *sorted = malloc((total + 1) * sizeof *sorted);
    if (sorted == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < total; i++)
        sorted[i] = value_at(g, i / g->n, (uint32_t)(i % g->n));
    qsort(sorted, total, sizeof *sorted, descending);
    float threshold = k > 0 ? sorted[k - 1] : INFINITY;
    while (above < k && sorted[above] > threshold)
        above++;
    free(sorted);
    *out_threshold = threshold;
    *out_ties = k - above;
    return 0;
}

/* Keeps k tokens of the group, or what must be kept when that is more. */
static int cut(const struct group *g, size_t k)
{
    size_t ties = 0;
    float threshold = 0;
    int status = find_threshold(g, k, &threshold, &ties);
    for (size_t set = 0; set < g->n_sets && status == 0; set++) {
        uint32_t kept = 0;
        for (uint32_t i = 0; i < g->n; i++) {
            float value = value_at(g, set, i);
            int tie = value == threshold && ties > 0;
            if (value > threshold || tie || always_kept(i, g->n))
                g->index[set][kept++] = i;
            ties -= tie ? 1u : 0u;
        }
        *g->counts[set] = kept;
    }
    return status;
}

/* ---- sets ---- */

static void keep_all(struct crn_sets *s, uint32_t layer)
{
    for (uint32_t h = 0; h < s->n_heads; h++) {
        size_t set = (size_t)layer * s->n_heads + h;
        s->counts[set] = s->n;
        for (uint32_t i = 0; i < s->n; i++)
            s->index[set * s->n + i] = i;
    }
}

struct lists {
    const float **scores;
    uint32_t **index, **counts;
    size_t n;
};

static void list_layer(const struct crn_sets *s, const float *scores, uint32_t layer,
                       struct lists *l)
{
    for (uint32_t h = 0; h < s->n_heads; h++, l->n++) {
        size_t set = (size_t)layer * s->n_heads + h;
        l->scores[l->n] = scores + set * s->n;
        l->index[l->n] = s->index + set * s->n;
        l->counts[l->n] = &s->counts[set];
    }
}

static size_t rounded(double share, size_t n)
{
    double exact = round(share * 1e6) / 1e6 * (double)n;
    return (size_t)(exact + 1e-9);
}

static int cut_layers(const struct crn_sets_rule *r, const double *share, const float *scores,
                      struct crn_sets *s, struct lists *l)
{
    int status = 0;
    for (uint32_t layer = 0; layer < s->n_layers; layer++) {
        if (is_cut(r, layer))
            list_layer(s, scores, layer, l);
        else
            keep_all(s, layer);
        if (is_global(r))
            continue;
        size_t together = r->weights != NULL ? s->n_heads : 1;
        for (size_t i = 0; i < l->n && status == 0; i += together) {
            struct group one = {l->scores + i, l->index + i, l->counts + i, together, s->n};
            status = cut(&one, rounded(share[layer], together * s->n));
        }
        l->n = 0;
    }
    struct group all = {l->scores, l->index, l->counts, l->n, s->n};
    return status == 0 && l->n > 0 ? cut(&all, rounded((double)r->keep, l->n * s->n)) : status;
}

static double kept_share(const struct crn_sets_rule *r, const struct crn_sets *s)
{
    double kept = 0, n = 0;
    for (size_t set = 0; set < (size_t)s->n_layers * s->n_heads; set++) {
        if (!is_cut(r, (uint32_t)(set / s->n_heads)))
            continue;
        kept += s->counts[set];
        n += s->n;
    }
    return n > 0 ? kept / n : 1;
}

int crn_sets_choose(const struct crn_sets_rule *rule, const float *scores, uint32_t n_layers,
                    uint32_t n_heads, uint32_t n, struct crn_sets *out_sets)
{
    size_t sets = (size_t)n_layers * n_heads;
    struct crn_sets s = {.n_layers = n_layers, .n_heads = n_heads, .n = n};
    double share[CAIRN_MAX_LAYERS];
    if (n == 0 || sets == 0 || n_layers > CAIRN_MAX_LAYERS || !(rule->keep > 0 && rule->keep <= 1))
        return CAIRN_E_ARG;
    for (uint32_t l = 0; l < n_layers && rule->weights != NULL; l++)
        if (!(rule->weights[l] > 0))
            return CAIRN_E_ARG;
    s.counts = calloc(sets, sizeof *s.counts);
    s.index = malloc(sets * n * sizeof *s.index);
    struct lists l = {malloc(sets * sizeof *l.scores), malloc(sets * sizeof *l.index),
                      malloc(sets * sizeof *l.counts), 0};
    int status = s.counts && s.index && l.scores && l.index && l.counts ? 0 : -ENOMEM;
    if (status == 0) {
        crn_sets_shares(rule, n_layers, share);
        status = cut_layers(rule, share, scores, &s, &l);
    }
    free(l.scores);
    free(l.index);
    free(l.counts);
    s.share = status == 0 ? kept_share(rule, &s) : 0;
    if (status == 0)
        *out_sets = s;
    else
        crn_sets_free(&s);
    return status;
}

void crn_sets_free(struct crn_sets *s)
{
    free(s->counts);
    free(s->index);
    *s = (struct crn_sets){0};
}
