/* Rows of an entry as numbers, whatever they are stored as. */
#include "tools/worker/selectors/selectors.h"

#include "kernels/memory.h"

#include <errno.h>
#include <stdlib.h>

void crn_select_fill(float *scores, size_t n, float value)
{
    for (size_t i = 0; i < n; i++)
        scores[i] = value;
}

uint32_t crn_select_wide(const struct crn_select *s, uint32_t layer)
{
    const struct crn_cache_layer *l = &s->cache->layers[layer];
    return s->n - l->spans[l->n - 1].heads[0].n;
}

/* K or V of one head, and its scales, on the host; scales follow the rows. own: free. */
static int fetch(const struct crn_select *s, const struct crn_kv_head *h, uint32_t dtype,
                 enum crn_rows which, void **out_rows, uint16_t **out_scale)
{
    size_t dh = s->e->weights->shape.head_dim, bytes = h->n * dh * cairn_dtype_bytes(dtype);
    size_t padded = (bytes + 63) / 64 * 64;
    size_t n_scales = dtype != CAIRN_I8 ? 0 : which == CRN_ROWS_K ? (h->n + 63) / 64 * dh : h->n;
    char *memory = malloc(padded + n_scales * sizeof(uint16_t) + 64);
    if (memory == NULL)
        return -ENOMEM;
    int status = crn_memory_get(&s->e->exec, memory, which == CRN_ROWS_K ? h->k : h->v, bytes);
    if (status == 0 && n_scales > 0)
        status = crn_memory_get(&s->e->exec, memory + padded,
                                which == CRN_ROWS_K ? h->k_scale : h->v_scale,
                                n_scales * sizeof(uint16_t));
    if (status != 0) {
        free(memory);
        return status;
    }
    *out_rows = memory;
    *out_scale = (uint16_t *)(void *)(memory + padded);
    return 0;
}

static int to_floats(const struct crn_select *s, const struct crn_kv_head *h, uint32_t dtype,
                     enum crn_rows which, float *out)
{
    const struct crn_kernel_ops *ops = s->e->host_ops;
    const struct crn_exec *exec = &s->e->host_exec;
    size_t dh = s->e->weights->shape.head_dim;
    uint16_t *scale;
    void *rows;
    int status = fetch(s, h, dtype, which, &rows, &scale);
    if (status != 0)
        return status;
    if (dtype != CAIRN_I8)
        status = ops->convert(exec, rows, dtype, h->n * dh, CAIRN_F32, out);
    else if (which == CRN_ROWS_K)
        status = ops->dequant_k(exec, rows, scale, h->n, dh, out);
    else
        status = ops->dequant_rows(exec, rows, scale, h->n, dh, dh, out);
    free(rows);
    return status;
}

int crn_select_rows(const struct crn_select *s, uint32_t layer, uint32_t head, enum crn_rows which,
                    float *out)
{
    const struct crn_cache_layer *l = &s->cache->layers[layer];
    int status = 0;
    for (uint32_t i = 0; i < l->n && status == 0; i++) {
        const struct crn_kv_head *h = &l->spans[i].heads[head];
        status = to_floats(s, h, l->spans[i].dtype, which, out);
        out += (size_t)h->n * s->e->weights->shape.head_dim;
    }
    return status;
}
