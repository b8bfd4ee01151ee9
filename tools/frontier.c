/* Comparing points, and lists of runs. O(n^2), with n in the hundreds. */
#include "tools/frontier.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint32_t crn_point_layers(const struct crn_point *p)
{
    return p->first <= p->last ? p->last - p->first + 1 : 0;
}

/* The tie rules; the variant comes last, so that equal points have an order. */
static bool wins_tie(const struct crn_point *a, const struct crn_point *b)
{
    uint32_t layers_a = crn_point_layers(a), layers_b = crn_point_layers(b);
    if (layers_a != layers_b)
        return layers_a < layers_b;
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes;
    if (a->first != b->first)
        return a->first < b->first;
    return a->variant < b->variant;
}

bool crn_point_beats(const struct crn_point *a, const struct crn_point *b)
{
    if (a->setting != b->setting || a->quality < b->quality || a->cost_s > b->cost_s)
        return false;
    return a->quality > b->quality || a->cost_s < b->cost_s || wins_tie(a, b);
}

size_t crn_frontier_mark(struct crn_point *points, size_t n)
{
    size_t on = 0;
    for (size_t i = 0; i < n; i++) {
        points[i].on_frontier = true;
        for (size_t j = 0; j < n && points[i].on_frontier; j++)
            points[i].on_frontier = !crn_point_beats(&points[j], &points[i]);
        on += points[i].on_frontier;
    }
    return on;
}

const struct crn_point *crn_frontier_choose(const struct crn_point *points, size_t n, uint32_t setting, double quality)
{
    const struct crn_point *best = NULL;
    for (size_t i = 0; i < n; i++) {
        const struct crn_point *p = &points[i];
        if (p->setting != setting || p->quality < quality)
            continue;
        if (best == NULL || p->cost_s < best->cost_s || (p->cost_s <= best->cost_s && p->quality > best->quality) ||
            (p->cost_s <= best->cost_s && p->quality >= best->quality && wins_tie(p, best)))
            best = p;
    }
    return best;
}

static bool is_new_start(uint32_t (*runs)[2], size_t n, uint32_t first)
{
    for (size_t i = 0; i < n; i++)
        if (runs[i][0] == first)
            return false;
    return true;
}

size_t crn_frontier_best(const struct crn_point *points, size_t n_points, uint32_t max_layers, size_t n, uint32_t (*out_runs)[2])
{
    size_t taken = 0;
    for (; taken < n; taken++) {
        const struct crn_point *best = NULL;
        for (size_t i = 0; i < n_points; i++) {
            const struct crn_point *p = &points[i];
            if (p->on_frontier && p->setting == 0 && p->first > 0 && crn_point_layers(p) > 0 && crn_point_layers(p) <= max_layers &&
                is_new_start(out_runs, taken, p->first) && (best == NULL || p->quality > best->quality))
                best = p;
        }
        if (best == NULL)
            break;
        out_runs[taken][0] = best->first;
        out_runs[taken][1] = best->last;
    }
    return taken;
}

static int add_run(struct crn_runs *runs, uint32_t first, uint32_t last)
{
    for (size_t i = 0; i < runs->n; i++)
        if (runs->list[i][0] == first && runs->list[i][1] == last)
            return 0;
    if ((runs->n & (runs->n + 1)) == 0) {
        void *grown = realloc(runs->list, (2 * runs->n + 1) * sizeof *runs->list);
        if (grown == NULL)
            return -ENOMEM;
        runs->list = grown;
    }
    runs->list[runs->n][0] = first;
    runs->list[runs->n++][1] = last;
    return 0;
}

int crn_runs_all(uint32_t n_layers, uint32_t grain, uint32_t max_layers, struct crn_runs *out)
{
    int status = 0;
    *out = (struct crn_runs){0};
    for (uint32_t a = 0; a < n_layers && status == 0; a += grain)
        for (uint32_t end = a + grain; end < n_layers + grain && status == 0; end += grain) {
            uint32_t last = (end < n_layers ? end : n_layers) - 1;
            if (max_layers == 0 || last - a + 1 <= max_layers)
                status = add_run(out, a, last);
        }
    return status;
}

int crn_runs_about(uint32_t n_layers, uint32_t grain, uint32_t reach, uint32_t max_layers, const uint32_t run[2],
                   struct crn_runs *io)
{
    int steps = (int)(reach / grain), ends = (int)reach, status = 0;
    for (int i = -steps; i <= steps; i++)
        for (int j = -ends; j <= ends && status == 0; j++) {
            int first = (int)run[0] + i * (int)grain, last = (int)run[1] + j;
            if (first >= 0 && first <= last && last < (int)n_layers &&
                (max_layers == 0 || (uint32_t)(last - first + 1) <= max_layers))
                status = add_run(io, (uint32_t)first, (uint32_t)last);
        }
    return status;
}

char *crn_runs_text(const struct crn_runs *runs)
{
    char *text = malloc(runs->n * 24 + 1), *at = text;
    if (text == NULL)
        return NULL;
    *at = '\0';
    for (size_t i = 0; i < runs->n; i++)
        at += snprintf(at, 24, "%s%u-%u", i > 0 ? "," : "", runs->list[i][0], runs->list[i][1]);
    return text;
}

void crn_interval(uint32_t n_exact, uint32_t n, double *out_low, double *out_high)
{
    const double z = 1.96;
    double share = n > 0 ? (double)n_exact / n : 0, scale = 1 + z * z / (n > 0 ? n : 1);
    double middle = (share + z * z / (2.0 * (n > 0 ? n : 1))) / scale;
    double half = z / scale * sqrt(share * (1 - share) / (n > 0 ? n : 1) + z * z / (4.0 * n * n + (n == 0)));
    *out_low = middle - half > 0 ? middle - half : 0;
    *out_high = middle + half < 1 ? middle + half : 1;
}

void crn_point_interval(const struct crn_point *p, double *out_low, double *out_high)
{
    if (p->error <= 0) {
        crn_interval(p->n_exact, p->n, out_low, out_high);
        return;
    }
    *out_low = p->quality - 1.96 * p->error > 0 ? p->quality - 1.96 * p->error : 0;
    *out_high = p->quality + 1.96 * p->error < 1 ? p->quality + 1.96 * p->error : 1;
}
