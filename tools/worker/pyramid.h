/* pyramid - which tokens a layer keeps. Two ways:
 *   while prefilling (method.md 2.3.2, PyramidInfer's coded rule): one nested set per layer, chosen
 * by the last 1 + r queries; while publishing (method.md 5.3): a set per layer and KV head, from
 * window scores. Pure functions over scores; the engine supplies these. What compresses an entry
 * afterwards is in selectors/. */
#ifndef CRN_WORKER_PYRAMID_H
#define CRN_WORKER_PYRAMID_H

#include "kernels/kernels.h"

#include <stdint.h>

/* method.md 2.3.1; a zero `on` means: keep everything. */
struct crn_pyramid_rule {
    int on;
    float rho;         /* share of the prompt in the recent window, never pruned */
    float d;           /* factor of the top layer; 1 prunes nothing */
    float w;           /* weight of the window's last query over its first */
    uint32_t m;        /* minimum context length */
    uint32_t interval; /* I: layers between two cuts */
    uint32_t sink;     /* first tokens, always kept */
    uint32_t warm;     /* first layer whose scores may prune */
};
#define CRN_PYRAMID_DEFAULT                                                                        \
    {                                                                                              \
        1, 0.2f, 0.9f, 1.2f, 64, 1, 4, 0                                                           \
    }

/* Parses "d=0.9,rho=0.2,m=64,I=1,sink=4,w=1.2,warm=0" over the defaults. CAIRN_E_ARG names nothing:
 * the caller does. */
int crn_pyramid_parse(const char *text, struct crn_pyramid_rule *out_rule);
/* Canonical text of a rule: equal rules, equal text. Part of the key of what is published by it. */
#define CRN_PYRAMID_TEXT 128u
void crn_pyramid_text(const struct crn_pyramid_rule *r, char out_text[CRN_PYRAMID_TEXT]);

/* 1 + int(S rho): queries that vote, and tokens never pruned. */
uint32_t crn_pyramid_window(const struct crn_pyramid_rule *r, uint32_t prompt_tokens);

/* Kept context tokens k for layer l + 1 out of the n that reached layer l, or n - window when
 * nothing is cut. */
uint32_t crn_pyramid_keep(const struct crn_pyramid_rule *r, uint32_t layer, uint32_t n_layers,
                          uint32_t prompt_tokens, uint32_t n);

/* Weights linspace(1, w) of the voting queries: out [window]. */
void crn_pyramid_weights(const struct crn_pyramid_rule *r, uint32_t window, float *out_weight);

/* Rows kept for layer l + 1, ascending: top k of score [n - window] with the sinks on top, then the
 * window. out_index [n]; returns their number. score is changed. */
uint32_t crn_pyramid_select(const struct crn_pyramid_rule *r, const struct crn_kernel_ops *ops,
                            const struct crn_exec *exec, float *score, uint32_t n, uint32_t window,
                            uint32_t keep, uint32_t *out_index);

/* ---- sets at publish time ---- */

#define CRN_SNAP_WINDOW 32u /* queries at the end that vote */
#define CRN_SNAP_POOL 7u    /* width of the max-pooling */
#define CRN_SNAP_SINK 4u

/* Max-pools score [n] over CRN_SNAP_POOL neighbours into out [n]. */
void crn_snap_pool(const float *score, uint32_t n, float *out);

/* Tokens of one head: the sinks, the last k/2 and the best of the rest, k = max(8, int(keep n)).
 * score is changed. out_index [n]; returns k. */
uint32_t crn_snap_select(const struct crn_kernel_ops *ops, const struct crn_exec *exec,
                         float *score, uint32_t n, float keep, uint32_t *out_index);

#endif
