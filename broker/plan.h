/* plan - how a receiver may use a producer's entries: run, state map, budgets, measured quality. Stored per namespace, in the
 * order of a frontier: best quality first, then the cheaper one. The state map lies pinned in an arena, like a payload. */
#ifndef CRN_BROKER_PLAN_H
#define CRN_BROKER_PLAN_H

#include "broker/payload.h"
#include "ipc/wire.h"

#include <stdint.h>

#define CRN_MAX_PLANS 4096u

struct crn_plan {
    struct crn_plan *next; /* in order of crn_plan_before */
    struct crn_plan_rec rec;
    struct crn_budget_rec *budgets; /* [rec.n_budgets] */
    char *info;
    struct crn_payload *map; /* NULL: none */
    uint64_t catalog_id;     /* 0: not on NVMe */
};

struct crn_plans {
    struct crn_plan *first;
    uint32_t n;
    uint64_t last_id;
};

void crn_plans_close(struct crn_plans *plans);
/* Takes the plan over (malloc'ed), gives it an id; an earlier plan of the same pair, run, rank and budgets is replaced.
 * fails   CAIRN_E_FULL */
int crn_plans_add(struct crn_plans *plans, struct crn_plan *plan);
/* CAIRN_E_MISS */
int crn_plans_drop(struct crn_plans *plans, uint64_t id);
struct crn_plan *crn_plans_find(const struct crn_plans *plans, uint64_t id);
void crn_plan_destroy(struct crn_plan *plan);

/* The next plan of a pair behind `after` (NULL: from the start), best first; zero digests match any. */
struct crn_plan *crn_plans_next(const struct crn_plans *plans, const struct crn_plan *after,
                                const struct cairn_digest *producer,
                                const struct cairn_digest *receiver);

/* Does the run recompute this layer / start from a stored state? */
int crn_plan_runs(const struct crn_plan *plan, uint32_t layer);
int crn_plan_needs_state(const struct crn_plan *plan);

/* Layers whose state some plan of this producer starts from, ascending; returns their number (at most max). */
uint32_t crn_plans_states(const struct crn_plans *plans, const struct cairn_digest *producer,
                          uint16_t *out_layers, uint32_t max);
/* Shares that satisfy all plans of this producer: per layer the largest, whole where a plan has no budget. Only layers that may be
 * cut; returns the number of records (at most CAIRN_MAX_LAYERS). */
uint32_t crn_plans_budgets(const struct crn_plans *plans, const struct cairn_digest *producer,
                           uint32_t n_layers, struct crn_budget_rec out[CAIRN_MAX_LAYERS]);

/* What a plan promises with an entry of n_tokens: its quality when the layers that it does not recompute keep everything, else the best
 * that was measured with an entry that keeps no more; 0 when nothing like it was measured. Payloads of int8 count as less than others. */
uint32_t crn_plan_quality(const struct crn_plan *plan, const struct crn_body *body, uint32_t n_tokens);

/* Size of a state map of these numbers; 0 when they are impossible. */
uint64_t crn_plan_map_bytes(uint32_t hidden, uint32_t rank);

#endif
