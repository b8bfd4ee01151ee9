/* selectors - which tokens of a whole entry are worth keeping, when no question is known yet.
 *
 * Two steps. A selector gives every token of every layer and KV head a score: one row of the table
 * per method, one file each. A budget turns scores into sets: how many tokens each layer and head
 * keeps (sets.c). Both are blind to the question, so that the sets serve every reader. All of it
 * works on host memory. */
#ifndef CRN_WORKER_SELECTORS_H
#define CRN_WORKER_SELECTORS_H

#include "tools/worker/cache.h"
#include "tools/worker/pass.h"

#include <stddef.h>
#include <stdint.h>

/* Tokens read again at a time unless said otherwise: cheaper on contexts of several thousand tokens
 * than all at once, and no worse (docs/quality.md). */
#define CRN_SELECT_CHUNK 1024u

/* What selectors look at. */
struct crn_select {
    struct crn_engine *e;          /* of the model that made the entry */
    const struct crn_cache *cache; /* the entry, whole, from position 0: in each layer one span, or
                                      two (int8: the first rows wide, then the rest) */
    const int32_t *tokens;         /* [n] */
    uint32_t n;
    const int32_t *prompt; /* [n_prompt]: what asks the model to repeat the context */
    uint32_t n_prompt;
    uint32_t chunk;  /* re-reading: tokens read again at a time, 0: CRN_SELECT_CHUNK */
    uint32_t stride; /* re-reading: every stride-th token is read again; 0 or 1: all */
    uint32_t heads;  /* re-reading: how many query heads of each KV head count; 0, or more than
                        there are: all */
};

/* out_scores [L][G][n]: more is better; any scale that is the same for all layers and heads. What
 * a selector cannot judge has INFINITY. fails -ENOMEM, codes of the engine */
typedef int crn_select_fn(const struct crn_select *s, float *out_scores);

struct crn_selector {
    const char *name, *help;
    crn_select_fn *score;
};

extern const struct crn_selector crn_selectors[];
extern const size_t crn_n_selectors;
/* NULL when there is none of that name. */
const struct crn_selector *crn_selector_named(const char *name);

crn_select_fn crn_select_reread, crn_select_window, crn_select_snap, crn_select_attention,
    crn_select_expected, crn_select_key_norm, crn_select_value_norm;

/* ---- sets ---- */

#define CRN_SETS_SINK 4u    /* first tokens that every set has */
#define CRN_SETS_RECENT 16u /* and last ones */

/* How the kept share is divided among layers. Within a layer, heads keep equally many, but for
 * GLOBAL, which has one threshold for all. */
enum crn_budget {
    CRN_BUDGET_GLOBAL = 0,
    CRN_BUDGET_UNIFORM = 1,
    CRN_BUDGET_LINEAR = 2,  /* falling with depth, the last layer gets 1/20 of the first */
    CRN_BUDGET_COSINE = 3,  /* half a period from the first layer down to a tenth of it */
    CRN_BUDGET_DELAYED = 4, /* the first eighth of the layers whole, the others equally much */
};

struct crn_sets_rule {
    float keep; /* share of all tokens of the layers that are cut, heads counted one by one */
    enum crn_budget budget;
    uint32_t whole_first,
        whole_last; /* layers left as they are, both included; first > last: none */
    const double *weights; /* [n_layers], above 0, or NULL: the shape that a layer's share follows
                              instead of the budget's; heads of one layer then share a threshold */
};

/* "global", "uniform", "linear", "cosine", "delayed". CAIRN_E_ARG */
int crn_budget_parse(const char *name, enum crn_budget *out_budget);
const char *crn_budget_name(enum crn_budget budget);

struct crn_sets {
    uint32_t n_layers, n_heads, n;
    uint32_t *counts; /* [L][G] */
    uint32_t *index;  /* [L][G][n]: kept tokens, ascending */
    double share;     /* kept of the layers that are cut */
};

/* Rows of one set. */
static inline const uint32_t *crn_sets_list(const struct crn_sets *s, uint32_t layer, uint32_t head)
{
    return s->index + ((size_t)layer * s->n_heads + head) * s->n;
}

/* The share of tokens that each layer keeps under a rule: out [n_layers], 1 for layers left whole.
 * Its mean over the layers that are cut is keep. GLOBAL: as UNIFORM. */
void crn_sets_shares(const struct crn_sets_rule *rule, uint32_t n_layers, double *out_share);

/* Sets from scores [L][G][n]. Sinks and recent tokens are in each set and count; ties go to the
 * earlier token, layer by layer. own: crn_sets_free. fails -ENOMEM, CAIRN_E_ARG */
int crn_sets_choose(const struct crn_sets_rule *rule, const float *scores, uint32_t n_layers,
                    uint32_t n_heads, uint32_t n, struct crn_sets *out_sets);
void crn_sets_free(struct crn_sets *s); /* zeroed struct allowed */

/* ---- what selectors share (rows.c, replay.c) ---- */

/* Rows of one head in one layer as float32 [n][dh], all spans one after the other. */
enum crn_rows { CRN_ROWS_K, CRN_ROWS_V };
int crn_select_rows(const struct crn_select *s, uint32_t layer, uint32_t head, enum crn_rows which,
                    float *out);
/* Tokens before the layer's last span: the wide rows of an int8 entry. */
uint32_t crn_select_wide(const struct crn_select *s, uint32_t layer);
/* Fills a set of scores with one value. */
void crn_select_fill(float *scores, size_t n, float value);

/* Tokens [from, n) once more through all layers, seeing the entry's rows before `from`. */
struct crn_replay {
    uint32_t from;
    uint32_t reduce; /* enum crn_reduce of the scores, 0: none */
    void *ctx;
    /* Rows entering a layer, before its norm. May be NULL. */
    int (*enter)(void *ctx, uint32_t layer, const struct crn_pass *pass);
    /* Scores [G][n] of tokens first .. first + n - 1: of the rows before `from`, or, when from is
     * 0, of the replayed rows themselves. NULL without reduce. */
    int (*scored)(void *ctx, uint32_t layer, const float *scores, uint32_t first, uint32_t n);
};
int crn_select_replay(const struct crn_select *s, const struct crn_replay *r);

#endif
