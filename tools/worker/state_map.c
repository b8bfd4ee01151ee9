/* The affine map of a plan as two or three products, wherever the engine's numbers live. It keeps nothing. */
#include "tools/worker/state_map.h"

#include "kernels/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The map's matrices and then its bias, where they are multiplied: u, v, bias as they are stored, or the full matrix without its
 * last column, which is the bias. *out_owned: to be freed, may be NULL. */
static int place_map(const struct crn_exec *exec, const struct cairn_map_view *map,
                     const float **out_numbers, void **out_owned)
{
    size_t d = map->hidden, n = map->rank > 0 ? d * (2 * (size_t)map->rank + 1) : d * (d + 1);
    float *packed = map->rank == 0 ? malloc(n * sizeof *packed) : NULL;
    void *there = NULL;
    if (map->rank == 0 && packed == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < d && packed != NULL; i++) {
        memcpy(packed + i * d, map->w + i * (d + 1), d * sizeof *packed);
        packed[d * d + i] = map->w[i * (d + 1) + d];
    }
    const float *numbers = packed != NULL ? packed : map->w;
    *out_numbers = numbers;
    *out_owned = packed;
    if (!crn_memory_apart(exec))
        return 0;
    int status = crn_memory_alloc(exec, n * sizeof *numbers, &there);
    if (status == 0)
        status = crn_memory_put(exec, there, numbers, n * sizeof *numbers);
    free(packed);
    *out_numbers = there;
    *out_owned = there;
    return status;
}

/* h += delta + bias. On a device the bias is a product with a column of ones. */
static int add_delta(struct crn_engine *e, float *delta, const float *bias, float *h, size_t n)
{
    const struct crn_kernel_ops *ops = e->ops;
    const struct crn_exec *exec = &e->exec;
    size_t d = e->weights->shape.hidden;
    if (!crn_memory_apart(exec)) {
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < d; j++)
                h[i * d + j] += delta[i * d + j] + bias[j];
        return 0;
    }
    float *ones = malloc(n * sizeof *ones + 1);
    struct crn_matrix column = {bias, CRN_W_F32, (uint32_t)d, 1};
    void *there = NULL;
    int status = ones != NULL ? crn_memory_alloc(exec, n * sizeof *ones, &there) : -ENOMEM;
    for (size_t i = 0; i < n && ones != NULL; i++)
        ones[i] = 1.0f;
    if (status == 0)
        status = crn_memory_put(exec, there, ones, n * sizeof *ones);
    if (status == 0)
        status = ops->gemm(exec, there, n, &column, 1.0f, delta);
    if (status == 0)
        status = ops->add(exec, delta, n * d, h);
    crn_memory_free(exec, there);
    free(ones);
    return status;
}

int crn_state_map_apply(struct crn_engine *e, const struct cairn_map_view *map, float *h, size_t n)
{
    const struct crn_kernel_ops *ops = e->ops;
    const struct crn_exec *exec = &e->exec;
    size_t d = map->hidden, rank = map->rank;
    if (d != e->weights->shape.hidden)
        return CAIRN_E_CORRUPT;
    const float *numbers = NULL;
    void *delta = NULL, *low = NULL, *owned = NULL;
    int status = place_map(exec, map, &numbers, &owned);
    if (status == 0)
        status = crn_memory_alloc(exec, n * d * sizeof(float), &delta);
    if (status == 0 && rank > 0)
        status = crn_memory_alloc(exec, n * rank * sizeof(float), &low);
    if (status == 0 && rank > 0) {
        struct crn_matrix u = {numbers, CRN_W_F32, (uint32_t)d, map->rank};
        struct crn_matrix v = {numbers + d * rank, CRN_W_F32, map->rank, (uint32_t)d};
        status = ops->gemm(exec, h, n, &v, 0.0f, low);
        if (status == 0)
            status = ops->gemm(exec, low, n, &u, 0.0f, delta);
    } else if (status == 0) {
        struct crn_matrix full = {numbers, CRN_W_F32, (uint32_t)d, (uint32_t)d};
        status = ops->gemm(exec, h, n, &full, 0.0f, delta);
    }
    if (status == 0)
        status = add_delta(e, delta, numbers + (rank > 0 ? 2 * d * rank : d * d), h, n);
    crn_memory_free(exec, owned);
    crn_memory_free(exec, low);
    crn_memory_free(exec, delta);
    return status;
}
