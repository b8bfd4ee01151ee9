/* Normal equations of one start layer. States hold massive outliers (tokens whose norm is hundreds of times the others'), so rows
 * may be weighted by their own norm, and everything is summed in float64. It knows nothing of models or files of contexts. */
#include "tools/profile/fit.h"

#include "ipc/cairn_status.h"
#include "tools/profile/linalg.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_ROWS 512u
#define HIDDEN_MAX 16384u

int crn_fit_init(struct crn_fit *f, uint32_t d, enum crn_fit_weight weight)
{
    size_t n = (size_t)d + 1;
    if (d == 0 || d > HIDDEN_MAX)
        return CAIRN_E_ARG;
    *f = (struct crn_fit){.d = d, .weight = weight};
    f->gram = calloc(n * n, sizeof *f->gram);
    f->cross = calloc(n * d, sizeof *f->cross);
    f->energy = calloc(d, sizeof *f->energy);
    f->x = malloc(BLOCK_ROWS * n * sizeof *f->x);
    f->y = malloc(BLOCK_ROWS * (size_t)d * sizeof *f->y);
    if (f->gram != NULL && f->cross != NULL && f->energy != NULL && f->x != NULL && f->y != NULL)
        return 0;
    crn_fit_free(f);
    return -ENOMEM;
}

void crn_fit_free(struct crn_fit *f)
{
    free(f->gram);
    free(f->cross);
    free(f->energy);
    free(f->x);
    free(f->y);
    *f = (struct crn_fit){0};
}

/* Square root of a row's weight. */
static double row_scale(const struct crn_fit *f, const float *from)
{
    double sum = 0;
    if (f->weight != CRN_FIT_NORM)
        return 1.0;
    for (size_t j = 0; j < f->d; j++)
        sum += (double)from[j] * (double)from[j];
    return sum > 0 ? 1.0 / sqrt(sum / f->d) : 1.0;
}

static void take_row(struct crn_fit *f, const float *from, const float *to, size_t row)
{
    double scale = row_scale(f, from), *x = f->x + row * (f->d + 1), *y = f->y + row * f->d;
    for (size_t j = 0; j < f->d; j++) {
        x[j] = scale * (double)from[j];
        y[j] = scale * ((double)to[j] - (double)from[j]);
        f->energy[j] += y[j] * y[j];
    }
    x[f->d] = scale;
}

void crn_fit_add(struct crn_fit *f, const float *from, const float *to, size_t n)
{
    for (size_t i = 0; i < n; i += BLOCK_ROWS) {
        size_t rows = n - i < BLOCK_ROWS ? n - i : BLOCK_ROWS;
        for (size_t j = 0; j < rows; j++)
            take_row(f, from + (i + j) * f->d, to + (i + j) * f->d, j);
        crn_linalg_gram(f->gram, f->x, rows, (size_t)f->d + 1);
        crn_linalg_cross(f->cross, f->x, f->y, rows, (size_t)f->d + 1, f->d);
    }
    f->n += n;
}

static double mean_diagonal(const struct crn_fit *f)
{
    double sum = 0;
    for (size_t j = 0; j < f->d; j++)
        sum += f->gram[j * (f->d + 1) + j];
    return sum / f->d;
}

/* |Y - X W|^2 of the fitted tokens = energy - <W, 2 B - G W>, and G W = B - ridge W up to the bias row. */
static double explained_by(const struct crn_fit *f, const double *w, double ridge)
{
    double inner = 0, norm = 0, energy = 0;
    for (size_t j = 0; j < f->d; j++)
        energy += f->energy[j];
    for (size_t j = 0; j < (size_t)f->d * (f->d + 1); j++)
        inner += w[j] * f->cross[j];
    for (size_t j = 0; j < (size_t)f->d * f->d; j++)
        norm += w[j] * w[j];
    return energy > 0 ? (inner + ridge * norm) / energy : 1.0;
}

int crn_fit_solve(const struct crn_fit *f, double lambda, float *out_map, double *out_explained)
{
    size_t d = f->d, n = d + 1;
    if (f->n == 0 || !(lambda >= 0))
        return CAIRN_E_ARG;
    double ridge = lambda * mean_diagonal(f);
    double *a = malloc(n * n * sizeof *a), *w = malloc(n * d * sizeof *w);
    int status = a != NULL && w != NULL ? 0 : -ENOMEM;
    if (status == 0) {
        memcpy(a, f->gram, n * n * sizeof *a);
        memcpy(w, f->cross, n * d * sizeof *w);
        for (size_t j = 0; j < d; j++)
            a[j * n + j] += ridge;
        status = crn_linalg_solve(a, w, n, d);
    }
    for (size_t i = 0; i < d && status == 0; i++)
        for (size_t j = 0; j < n; j++)
            out_map[i * n + j] = (float)w[j * d + i];
    if (status == 0 && out_explained != NULL)
        *out_explained = explained_by(f, w, ridge);
    free(a);
    free(w);
    return status;
}

/* The covariance of P (sums of squares about the mean) as a full matrix [d][d]. */
static void covariance(const struct crn_fit *f, double *out)
{
    size_t d = f->d, n = d + 1;
    const double *sums = f->gram + d * n;
    for (size_t i = 0; i < d; i++)
        for (size_t j = 0; j <= i; j++)
            out[i * d + j] = out[j * d + i] = f->gram[i * n + j] - sums[i] * sums[j] / sums[d];
}

/* Directions of the output in which the map moves the data most: W^T C W = V diag V^T, the last columns. */
static int directions(const struct crn_fit *f, const double *w, double *v)
{
    size_t d = f->d;
    double *c = malloc(d * d * sizeof *c), *values = malloc(d * sizeof *values);
    int status = c != NULL && values != NULL ? 0 : -ENOMEM;
    if (status == 0) {
        covariance(f, c);
        crn_linalg_product(v, c, w, d, d, d);
        memset(c, 0, d * d * sizeof *c);
        crn_linalg_cross(c, w, v, d, d, d);
        memcpy(v, c, d * d * sizeof *v);
        status = crn_linalg_eigen(v, values, d);
    }
    free(c);
    free(values);
    return status;
}

int crn_fit_reduce(const struct crn_fit *f, const float *map, uint32_t rank, float *out_low)
{
    size_t d = f->d, n = d + 1;
    if (rank == 0 || rank >= d || f->n == 0)
        return CAIRN_E_ARG;
    double *w = malloc(d * d * sizeof *w), *v = malloc(d * d * sizeof *v), *t = malloc(d * rank * sizeof *t);
    double *vr = malloc(d * rank * sizeof *vr);
    float *u = out_low, *low_v = out_low + d * rank, *bias = low_v + d * rank;
    const double *sums = f->gram + d * n;
    int status = w != NULL && v != NULL && t != NULL && vr != NULL ? 0 : -ENOMEM;
    for (size_t i = 0; i < d && status == 0; i++)
        for (size_t j = 0; j < d; j++)
            w[j * d + i] = (double)map[i * n + j];
    if (status == 0)
        status = directions(f, w, v);
    for (size_t i = 0; i < d && status == 0; i++)
        for (size_t r = 0; r < rank; r++) {
            vr[i * rank + r] = v[i * d + (d - rank + r)];
            u[i * rank + r] = (float)vr[i * rank + r];
        }
    if (status == 0)
        crn_linalg_product(t, w, vr, d, rank, d);
    for (size_t i = 0; i < d && status == 0; i++) {
        double moved = 0; /* what the full map does to the mean, less what the reduced one does */
        for (size_t j = 0; j < d; j++) {
            double reduced = 0;
            for (size_t r = 0; r < rank; r++)
                reduced += t[j * rank + r] * vr[i * rank + r];
            moved += (w[j * d + i] - reduced) * sums[j] / sums[d];
        }
        bias[i] = (float)((double)map[i * n + d] + moved);
        for (size_t r = 0; r < rank; r++)
            low_v[r * d + i] = (float)t[i * rank + r];
    }
    free(w);
    free(v);
    free(t);
    free(vr);
    return status;
}

/* As in explained_by, channel by channel. */
int crn_fit_residual(const struct crn_fit *f, const float *map, double lambda, float *out_rms)
{
    size_t d = f->d, n = d + 1;
    if (f->n == 0)
        return CAIRN_E_ARG;
    double ridge = lambda * mean_diagonal(f);
    for (size_t i = 0; i < d; i++) {
        double left = f->energy[i];
        for (size_t j = 0; j < n; j++) {
            double w = (double)map[i * n + j];
            left -= w * f->cross[j * d + i] + (j < d ? ridge * w * w : 0);
        }
        out_rms[i] = left > 0 ? (float)sqrt(left / (double)f->n) : 0.0f;
    }
    return 0;
}

#define ROOT_RIDGE 1e-6 /* a share of each channel's own mean square */

int crn_fit_whiten(const struct crn_fit *f, float *out_root)
{
    size_t n = (size_t)f->d + 1;
    double *a = malloc(n * n * sizeof *a);
    int status = f->n == 0 ? CAIRN_E_ARG : a != NULL ? 0 : -ENOMEM;
    for (size_t i = 0; i < n * n && status == 0; i++)
        a[i] = f->gram[i] / (double)f->n;
    for (size_t i = 0; i < n && status == 0; i++)
        a[i * n + i] *= 1 + ROOT_RIDGE;
    if (status == 0)
        status = crn_linalg_inverse_root(a, n);
    for (size_t i = 0; i < n * n && status == 0; i++)
        out_root[i] = (float)a[i];
    free(a);
    return status;
}
