/* Plain SVG 1.1 text; no fonts, scripts or links. Panels stand side by side, each with a scale of its own. */
#include "tools/profile_plot.h"

#include <errno.h>
#include <stdio.h>

#define SIZE 340.0 /* of a panel's plotting area */
#define LEFT 60.0
#define TOP 50.0
#define STEP (SIZE + 90.0)

static const char *const colours[] = {"#2a6f97", "#e07a5f", "#81b29a", "#9b5de5", "#f2cc8f", "#3d405b", "#bc4749", "#6a994e"};
#define N_COLOURS (sizeof colours / sizeof *colours)

struct panel {
    FILE *f;
    double left;
    double x_low, x_high, y_low, y_high;
};

static double at_x(const struct panel *p, double x)
{
    return p->left + (x - p->x_low) / (p->x_high - p->x_low) * SIZE;
}

static double at_y(const struct panel *p, double y)
{
    return TOP + SIZE - (y - p->y_low) / (p->y_high - p->y_low) * SIZE;
}

static void text(const struct panel *p, double x, double y, const char *anchor, const char *format, double value)
{
    fprintf(p->f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
    fprintf(p->f, format, value);
    fprintf(p->f, "</text>\n");
}

static void frame(const struct panel *p, const char *title, const char *x_label, const char *format_x, const char *format_y)
{
    fprintf(p->f, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" stroke=\"#888\"/>\n", p->left, TOP, SIZE,
            SIZE);
    fprintf(p->f, "<text x=\"%.1f\" y=\"%.1f\" font-weight=\"bold\">%s</text>\n", p->left, TOP - 10, title);
    fprintf(p->f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n", p->left + SIZE / 2, TOP + SIZE + 32, x_label);
    for (int i = 0; i <= 5; i++) {
        double x = p->x_low + (p->x_high - p->x_low) * i / 5, y = p->y_low + (p->y_high - p->y_low) * i / 5;
        text(p, at_x(p, x), TOP + SIZE + 15, "middle", format_x, x);
        text(p, p->left - 5, at_y(p, y) + 4, "end", format_y, y);
    }
}

static const char *measure_name(const struct crn_result *r)
{
    return r->by_agreement ? "agreement with the own answer" : "exact match";
}

static void quality_and_cost(const struct crn_result *r, FILE *f)
{
    struct panel p = {.f = f, .left = LEFT, .x_high = 100, .y_high = 1};
    char title[96];
    snprintf(title, sizeof title, "%s against time (%% of an own prefill)", measure_name(r));
    frame(&p, title, "time, %", "%.0f", "%.1f");
    fprintf(f, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#444\" stroke-dasharray=\"4 3\"/>\n", p.left,
            at_y(&p, r->own.quality), p.left + SIZE, at_y(&p, r->own.quality));
    for (size_t i = 0; i < r->n_points; i++) {
        const struct crn_point *q = &r->points[i];
        double cost = 100 * crn_result_cost(r, q);
        if (cost > 100)
            continue;
        fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%s\" fill=\"%s\"%s><title>", at_x(&p, cost), at_y(&p, q->quality),
                q->on_frontier ? "4.5" : "2", colours[q->setting % N_COLOURS],
                q->on_frontier ? " stroke=\"#000\"" : " fill-opacity=\"0.45\"");
        if (crn_point_layers(q) > 0)
            fprintf(f, "%u-%u%s: ", q->first, q->last, crn_result_is_tuned(r, q) ? " tuned" : "");
        else
            fprintf(f, "full reuse: ");
        fprintf(f, "%.3f at %.0f %%</title></circle>\n", q->quality, cost);
    }
    for (uint32_t s = 0; s < r->n_settings; s++)
        fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" fill=\"%s\">keep %g%s</text>\n", p.left + SIZE - 95, TOP + SIZE - 12 - 15.0 * s,
                colours[s % N_COLOURS], r->settings[s].keep, r->settings[s].int8 ? ", int8" : "");
}

/* Of the ways to make maps that this run was measured with, is this the best one? */
static bool is_best_of_run(const struct crn_result *r, const struct crn_point *p)
{
    for (size_t i = 0; i < r->n_points; i++) {
        const struct crn_point *q = &r->points[i];
        if (q->setting == p->setting && q->first == p->first && q->last == p->last &&
            (q->quality > p->quality || (q->quality >= p->quality && q->variant < p->variant)))
            return false;
    }
    return true;
}

static void heat_map(const struct crn_result *r, FILE *f)
{
    struct panel p = {.f = f, .left = LEFT + STEP, .x_high = r->n_layers, .y_high = r->n_layers};
    double cell = SIZE / r->n_layers;
    frame(&p, "runs, everything kept: dark is good", "first layer", "%.0f", "%.0f");
    fprintf(f, "<text x=\"%.1f\" y=\"%.1f\">last layer upwards</text>\n", p.left + 8, TOP + 16);
    for (size_t i = 0; i < r->n_points; i++) {
        const struct crn_point *q = &r->points[i];
        if (q->setting != 0 || crn_point_layers(q) == 0 || !is_best_of_run(r, q))
            continue;
        double good = r->own.quality > 0 ? q->quality / r->own.quality : 0;
        int shade = (int)(245 - 215 * (good < 1 ? good * good : 1));
        fprintf(f, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"rgb(%d,%d,%d)\"%s>"
                   "<title>%u-%u: %.3f</title></rect>\n",
                at_x(&p, q->first), at_y(&p, q->last + 1), cell, cell, shade, shade + 5, 120 + shade / 2,
                q->on_frontier ? " stroke=\"#e07a5f\" stroke-width=\"2\"" : "", q->first, q->last, q->quality);
    }
}

static void sensitivity(const struct crn_result *r, FILE *f)
{
    struct panel p = {.f = f, .left = LEFT + 2 * STEP, .x_high = r->n_layers, .y_high = 0.01};
    for (uint32_t l = 0; l < r->n_layers; l++) {
        double more = r->alone[l].nll - r->own.nll;
        if (r->alone[l].n == 0)
            return;
        p.y_high = more > p.y_high ? more : p.y_high;
    }
    frame(&p, "nll gained by reusing one layer alone", "layer", "%.0f", "%.3f");
    for (uint32_t l = 0; l < r->n_layers; l++) {
        double more = r->alone[l].nll - r->own.nll;
        if (more > 0)
            fprintf(f, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n", at_x(&p, l) + 1, at_y(&p, more),
                    SIZE / r->n_layers - 2, TOP + SIZE - at_y(&p, more), colours[0]);
    }
}

int crn_profile_plot(const struct crn_result *r, const char *path)
{
    double width = LEFT + (r->alone[0].n > 0 ? 3 : 2) * STEP, height = TOP + SIZE + 45;
    FILE *f = fopen(path, "we");
    if (f == NULL)
        return -errno;
    fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" font-family=\"sans-serif\" font-size=\"11\">\n",
            width, height);
    fprintf(f, "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n<text x=\"%.0f\" y=\"18\" font-size=\"13\">profile, %u "
               "contexts, %u questions; dashed: own prefill</text>\n", LEFT, r->n_contexts, r->own.n);
    quality_and_cost(r, f);
    heat_map(r, f);
    sensitivity(r, f);
    int failed = fputs("</svg>\n", f) == EOF;
    failed |= fclose(f) != 0;
    return failed ? -EIO : 0;
}
