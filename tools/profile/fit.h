/* fit - a state map in closed form (method.md 5.1), from streamed normal equations in float64:
 *
 *     W = argmin sum_t w_t || (R_t - P_t) - [P_t, 1] W ||^2 + lambda ||W||^2        P, R: the states of producer and receiver
 *
 * Memory is (d + 1)^2 + (d + 1) d numbers, whatever the number of tokens. The bias is not regularised. */
#ifndef CRN_PROFILE_FIT_H
#define CRN_PROFILE_FIT_H

#include <stddef.h>
#include <stdint.h>

/* Weight of a token: all alike, or 1 / mean(P_t^2), as the norm before a layer sees it. */
enum crn_fit_weight { CRN_FIT_EQUAL = 1, CRN_FIT_NORM = 2 };

struct crn_fit {
    uint32_t d;
    uint64_t n;              /* tokens seen */
    enum crn_fit_weight weight;
    double *energy;          /* [d] sum of w (R - P)^2, channel by channel */
    double *gram;            /* [d + 1][d + 1], lower triangle; the bias is the last row */
    double *cross;           /* [d + 1][d] */
    double *x, *y;           /* scratch, one block of rows */
};

/* own: crn_fit_free. fails -ENOMEM, CAIRN_E_ARG */
int crn_fit_init(struct crn_fit *f, uint32_t d, enum crn_fit_weight weight);
void crn_fit_free(struct crn_fit *f); /* zeroed struct allowed */

/* More tokens: from and to [n][d]. */
void crn_fit_add(struct crn_fit *f, const float *from, const float *to, size_t n);

/* out_map [d][d + 1]: row i gives what is added to channel i, its last number is the bias. lambda is a share of the mean of
 * the Gram matrix's diagonal (bias excluded). out_explained: share of the difference's energy that the map explains on the tokens
 * it was fitted on; may be NULL. fails CAIRN_E_ARG (singular, no tokens), -ENOMEM */
int crn_fit_solve(const struct crn_fit *f, double lambda, float *out_map, double *out_explained);

/* The best map of a rank for these tokens (reduced-rank regression): map ~ u v with bias.
 * in      map: of crn_fit_solve; 1 <= rank < d
 * out     out_low: u [d][rank], v [rank][d], bias [d], one behind the other */
int crn_fit_reduce(const struct crn_fit *f, const float *map, uint32_t rank, float *out_low);

/* out_rms [d]: root mean square, over the tokens fitted on, of what the map that crn_fit_solve made with this lambda leaves of each
 * channel's difference. fails CAIRN_E_ARG (no tokens) */
int crn_fit_residual(const struct crn_fit *f, const float *map, double lambda, float *out_rms);
/* out_root [d + 1][d + 1]: L^-1, lower triangle, of the mean Gram matrix L L^T: root . [P_t, 1] has uncorrelated channels of mean
 * square 1. fails CAIRN_E_ARG (no tokens, singular), -ENOMEM */
int crn_fit_whiten(const struct crn_fit *f, float *out_root);

#endif
