/* BLAS and LAPACK, from Debian's OpenBLAS (and LAPACKE on top of it): the one provider there that is fast in float64. Its 0.3.21
 * takes CPUs newer than itself for "Prescott" and runs several times slower then; OPENBLAS_CORETYPE decides before the library is
 * loaded, so who starts the profiler sets it (tools/cmd_profile.c), and the profiler says when it finds the slow kernels. */
#include "tools/profile/linalg.h"

#include "ipc/cairn_status.h"

#include <cblas.h>
#include <lapacke.h>

#include <errno.h>

void crn_linalg_gram(double *g, const double *x, size_t m, size_t n)
{
    cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, (blasint)n, (blasint)m, 1.0, x, (blasint)n, 1.0, g,
                (blasint)n);
}

void crn_linalg_cross(double *c, const double *x, const double *y, size_t m, size_t p, size_t q)
{
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)p, (blasint)q, (blasint)m, 1.0, x, (blasint)p, y,
                (blasint)q, 1.0, c, (blasint)q);
}

void crn_linalg_product(double *out, const double *a, const double *b, size_t m, size_t n, size_t k)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)m, (blasint)n, (blasint)k, 1.0, a, (blasint)k, b,
                (blasint)n, 0.0, out, (blasint)n);
}

static int status_of(lapack_int info)
{
    if (info == LAPACK_WORK_MEMORY_ERROR || info == LAPACK_TRANSPOSE_MEMORY_ERROR)
        return -ENOMEM;
    return info == 0 ? 0 : CAIRN_E_ARG;
}

int crn_linalg_solve(double *a, double *b, size_t n, size_t q)
{
    return status_of(LAPACKE_dposv(LAPACK_ROW_MAJOR, 'L', (lapack_int)n, (lapack_int)q, a, (lapack_int)n, b,
                                   (lapack_int)q));
}

int crn_linalg_eigen(double *a, double *out_values, size_t n)
{
    return status_of(LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'L', (lapack_int)n, a, (lapack_int)n, out_values));
}

void crn_linalg_float(const struct crn_product *p)
{
    cblas_sgemm(CblasRowMajor, p->a_turned ? CblasTrans : CblasNoTrans, p->b_turned ? CblasTrans : CblasNoTrans, (blasint)p->m,
                (blasint)p->n, (blasint)p->k, p->scale, p->a, (blasint)p->lda, p->b, (blasint)p->ldb, p->keep, p->c,
                (blasint)p->ldc);
}

int crn_linalg_inverse_root(double *a, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = i + 1; j < n; j++)
            a[i * n + j] = 0;
    int status = status_of(LAPACKE_dpotrf(LAPACK_ROW_MAJOR, 'L', (lapack_int)n, a, (lapack_int)n));
    return status != 0 ? status : status_of(LAPACKE_dtrtri(LAPACK_ROW_MAJOR, 'L', 'N', (lapack_int)n, a, (lapack_int)n));
}

void crn_linalg_threads(unsigned n)
{
    openblas_set_num_threads((int)n);
}

const char *crn_linalg_core(void)
{
    return openblas_get_corename();
}
