/* reuse - the order in which a receiver loads and computes (method.md 1.2.6, 1.2.7), apart from doing it: the driver executes
 * these steps, and a test replays them against a clock. */
#ifndef CRN_CLIENT_REUSE_H
#define CRN_CLIENT_REUSE_H

#include <stdint.h>

enum crn_step_op {
    CRN_STEP_WAIT_STATE = 1, /* the state entering `layer` of `part` must be resident */
    CRN_STEP_WAIT_KV = 2,    /* the KV of `layer` of `part` must be resident */
    CRN_STEP_BEGIN = 3,      /* the run of `part` starts */
    CRN_STEP_RUN = 4,        /* recompute `layer` of `part` */
    CRN_STEP_SUFFIX = 5,     /* the new tokens go through `layer` */
};

struct crn_step {
    uint32_t op; /* enum crn_step_op */
    uint32_t part, layer;
};

struct crn_reuse_spec {
    uint32_t n_layers, n_parts;
    uint32_t first, last;   /* the run, both included; first > last: none */
    uint32_t approx;        /* bit per part: its run is recomputed */
    uint32_t positions;     /* bit per part: the run follows the position lists of its layers */
    uint32_t suffix;        /* 0: stop after the runs */
};

/* Calls step for each step in order; ends with its first result that is not 0. */
int crn_reuse_steps(const struct crn_reuse_spec *spec,
                    int (*step)(void *ctx, const struct crn_step *step), void *ctx);

#endif
