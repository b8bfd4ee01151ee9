/* linalg - the dense algebra of fitting (float64) and tuning (float32). linalg.c is the only file that knows BLAS and LAPACK.
 * All matrices are row-major; of a symmetric matrix only the lower triangle is read and written, unless said. */
#ifndef CRN_PROFILE_LINALG_H
#define CRN_PROFILE_LINALG_H

#include <stddef.h>

/* g [n][n] += x^T x, x [m][n]. */
void crn_linalg_gram(double *g, const double *x, size_t m, size_t n);
/* c [p][q] += x^T y, x [m][p], y [m][q]. */
void crn_linalg_cross(double *c, const double *x, const double *y, size_t m, size_t p, size_t q);
/* out [m][n] = a [m][k] . b [k][n]. */
void crn_linalg_product(double *out, const double *a, const double *b, size_t m, size_t n, size_t k);
/* b [n][q] <- a^-1 b by Cholesky; a [n][n] is overwritten. fails CAIRN_E_ARG (not positive definite), -ENOMEM */
int crn_linalg_solve(double *a, double *b, size_t n, size_t q);
/* Eigenvectors of a [n][n], overwritten: column j belongs to out_values[j], ascending. fails CAIRN_E_ARG, -ENOMEM */
int crn_linalg_eigen(double *a, double *out_values, size_t n);

/* Threads of the library; the kernels it chose for this CPU, by name. */
void crn_linalg_threads(unsigned n);
const char *crn_linalg_core(void);

/* float32; may be called from several threads at once after crn_linalg_threads(1): c [m][n] = scale * a [m][k] . b [k][n] + keep * c.
 * Rows are lda, ldb, ldc numbers apart; a_turned: a is stored as [k][m]; b_turned: b is stored as [n][k]. */
struct crn_product {
    const float *a, *b;
    float *c;
    size_t m, n, k, lda, ldb, ldc;
    int a_turned, b_turned;
    float scale, keep;
};
void crn_linalg_float(const struct crn_product *p);

/* The lower triangle of a positive definite matrix a [n][n] = L L^T becomes that of the inverse of L; the other triangle is cleared.
 * fails CAIRN_E_ARG (not positive definite), -ENOMEM */
int crn_linalg_inverse_root(double *a, size_t n);

#endif
