/* How much attention a token drew from all tokens behind it, summed (H2O's heavy hitters, taken
 * after the prefill). Costs a prefill, and early tokens have more voters than late ones. */
#include "tools/worker/selectors/selectors.h"

#include <string.h>

struct sums {
    const struct crn_select *s;
    float *out;
};

static int take_scores(void *ctx, uint32_t layer, const float *scores, uint32_t first, uint32_t n)
{
    const struct sums *a = ctx;
    size_t per_layer = (size_t)a->s->e->weights->shape.n_kv_heads * a->s->n;
    (void)first; /* everything is replayed: 0 */
    (void)n;
    memcpy(a->out + layer * per_layer, scores, per_layer * sizeof *scores);
    return 0;
}

int crn_select_attention(const struct crn_select *s, float *out_scores)
{
    struct sums a = {s, out_scores};
    struct crn_replay replay = {
        .from = 0, .reduce = CRN_REDUCE_KV_MEAN, .ctx = &a, .scored = take_scores};
    return crn_select_replay(s, &replay);
}
