/* frontier - which measured runs nobody beats. A point is one run [first, last] (first > last: none, full reuse) under one setting
 * of the pyramid and one way to make maps; quality is a share (higher is better), cost is time (lower is better).
 *
 * A point is beaten by one of its setting that is at least as good and at most as dear, and better in one of the two; between equals
 * the tie rules of method.md 1.5 decide: fewest layers, then least bytes loaded, then earliest start. Settings do not compete: what
 * an entry keeps is decided when it is published, a run when it is read. Pure logic over what it is given. */
#ifndef CRN_TOOLS_FRONTIER_H
#define CRN_TOOLS_FRONTIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct crn_point {
    uint32_t first, last, setting, variant;
    double quality; /* exact match, or agreement with the receiver's own answers */
    double cost_s;  /* until the answer's first token: map, run, suffix */
    uint64_t bytes; /* loaded: state and payloads of reused layers */
    double nll, kl;
    uint32_t n;       /* questions */
    uint32_t n_exact; /* answered exactly right */
    double error;     /* standard error of a quality that is agreement, contexts taken as independent; 0: exact match */
    double tokens;    /* recomputed, summed over the run's layers; the mean of the contexts */
    bool on_frontier; /* out of crn_frontier_mark */
};

uint32_t crn_point_layers(const struct crn_point *p);

/* Is a to be preferred to b, both of one setting? A strict partial order. */
bool crn_point_beats(const struct crn_point *a, const struct crn_point *b);

/* Marks the points that no other beats. Returns how many. */
size_t crn_frontier_mark(struct crn_point *points, size_t n);

/* The cheapest point of a setting with at least this quality, ties as above; NULL when there is none. */
const struct crn_point *crn_frontier_choose(const struct crn_point *points, size_t n, uint32_t setting, double quality);

/* The best of the frontier, of setting 0: up to n runs that start behind layer 0 and have at most max_layers layers, no two with one
 * start, best first. Returns how many. */
size_t crn_frontier_best(const struct crn_point *points, size_t n_points, uint32_t max_layers, size_t n, uint32_t (*out_runs)[2]);

/* Runs to measure, each once: all that are made of whole groups of `grain` layers and no longer than max_layers (0: any). The last
 * group is shorter when grain does not divide n_layers. fails -ENOMEM */
struct crn_runs {
    uint32_t (*list)[2]; /* malloc'd */
    size_t n;
};
int crn_runs_all(uint32_t n_layers, uint32_t grain, uint32_t max_layers, struct crn_runs *out);
/* The runs about [first, last]: both ends within `reach` layers of it; starts in steps of grain (each costs a map), any last layer
 * (costs little, and one layer decides whether a limit is used up). */
int crn_runs_about(uint32_t n_layers, uint32_t grain, uint32_t reach, uint32_t max_layers, const uint32_t run[2],
                   struct crn_runs *io);
/* "13-23,15-23"; malloc'd, NULL when memory is out. */
char *crn_runs_text(const struct crn_runs *runs);

/* 95 % interval (Wilson) of n_exact out of n. */
void crn_interval(uint32_t n_exact, uint32_t n, double *out_low, double *out_high);
/* 95 % interval of a point's quality: Wilson's for exact match, else by the standard error. */
void crn_point_interval(const struct crn_point *p, double *out_low, double *out_high);

#endif
