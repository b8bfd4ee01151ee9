/* Keys of small norm draw much attention in most models: keep those. Costs nothing but a look at
 * the rows; a baseline. */
#include "tools/worker/selectors/norms.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

int crn_select_norms(const struct crn_select *s, enum crn_rows which, float factor, float *out)
{
    const struct crn_model_shape *shape = &s->e->weights->shape;
    size_t dh = shape->head_dim;
    float *rows = malloc(s->n * dh * sizeof *rows);
    int status = rows != NULL ? 0 : -ENOMEM;
    for (uint32_t l = 0; l < shape->n_layers; l++) {
        for (uint32_t h = 0; h < shape->n_kv_heads && status == 0; h++, out += s->n) {
            status = crn_select_rows(s, l, h, which, rows);
            for (uint32_t i = 0; i < s->n && status == 0; i++) {
                float sum = 0;
                for (size_t c = 0; c < dh; c++)
                    sum += rows[i * dh + c] * rows[i * dh + c];
                out[i] = factor * sqrtf(sum);
            }
        }
    }
    free(rows);
    return status;
}

int crn_select_key_norm(const struct crn_select *s, float *out_scores)
{
    return crn_select_norms(s, CRN_ROWS_K, -1.0f, out_scores);
}
