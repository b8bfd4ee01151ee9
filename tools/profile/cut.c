/* Cutting in private memory what the broker would gather into an arena: same sets, same bytes per token, same rounding. A whole
 * setting without int8 refers to the producer's own rows and copies nothing. */
#include "tools/profile/cut.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WIDE CRN_SETS_SINK /* first rows kept as they are beside int8 */

struct job {
    const struct crn_engine *e;
    const struct crn_cut_setting *setting;
    const struct crn_sets *sets; /* NULL: all tokens */
    uint32_t n;                  /* tokens */
    size_t dh, row_bytes;
    uint32_t dtype;
    const uint32_t *index; /* [n], the head's set in hand */
    uint32_t *all;         /* [n], every token */
};

static void *take(char **at, size_t bytes)
{
    void *p = *at;
    *at += (bytes + 63) / 64 * 64;
    return p;
}

static void gather(const struct job *j, const void *from, uint32_t first, uint32_t n, void *to)
{
    for (uint32_t i = 0; i < n; i++)
        memcpy((char *)to + i * j->row_bytes, (const char *)from + j->index[first + i] * j->row_bytes, j->row_bytes);
}

static void fill_plain(const struct job *j, const struct crn_kv_head *from, uint32_t first, uint32_t n, char **at,
                       struct crn_kv_head *to)
{
    void *k = take(at, n * j->row_bytes), *v = take(at, n * j->row_bytes);
    int32_t *pos = take(at, n * sizeof *pos);
    gather(j, from->k, first, n, k);
    gather(j, from->v, first, n, v);
    for (uint32_t i = 0; i < n; i++)
        pos[i] = from->pos[j->index[first + i]];
    *to = (struct crn_kv_head){.k = k, .v = v, .pos = pos, .n = n};
}

static int fill_int8(const struct job *j, const struct crn_kv_head *from, uint32_t first, uint32_t n, char **at,
                     struct crn_kv_head *to)
{
    const struct crn_kernel_ops *ops = j->e->ops;
    struct crn_kv_head plain;
    char *scratch = *at; /* the gathered rows lie where int8 rows go: converted through j->rows first */
    int8_t *k, *v;
    fill_plain(j, from, first, n, &scratch, &plain);
    int32_t *pos = malloc((n > 0 ? n : 1) * sizeof *pos);
    float *both = malloc((2 * (size_t)n * j->dh + 1) * sizeof *both);
    int status = pos != NULL && both != NULL ? 0 : -ENOMEM;
    if (status == 0)
        status = ops->convert(&j->e->exec, plain.k, j->dtype, n * j->dh, CAIRN_F32, both);
    if (status == 0)
        status = ops->convert(&j->e->exec, plain.v, j->dtype, n * j->dh, CAIRN_F32, both + n * j->dh);
    if (status == 0) {
        memcpy(pos, plain.pos, n * sizeof *pos);
        k = take(at, n * j->dh);
        v = take(at, n * j->dh);
        uint16_t *k_scale = take(at, (n + 63) / 64 * j->dh * sizeof *k_scale), *v_scale = take(at, n * sizeof *v_scale);
        int32_t *kept = take(at, n * sizeof *kept);
        status = ops->quant_k(&j->e->exec, both, n, j->dh, k, k_scale);
        if (status == 0)
            status = ops->quant_rows(&j->e->exec, both + n * j->dh, n, j->dh, j->dh, v, v_scale);
        memcpy(kept, pos, n * sizeof *pos);
        *to = (struct crn_kv_head){.k = k, .v = v, .k_scale = k_scale, .v_scale = v_scale, .pos = kept, .n = n};
    }
    free(pos);
    free(both);
    return status;
}

static uint32_t choose(struct job *j, uint32_t layer, uint32_t head)
{
    j->index = j->sets != NULL ? crn_sets_list(j->sets, layer, head) : j->all;
    return j->sets != NULL ? j->sets->counts[layer * j->sets->n_heads + head] : j->n;
}

static int cut_layer(struct job *j, const struct crn_span *whole, uint32_t layer, struct crn_cut_layer *out)
{
    uint32_t g = j->e->weights->shape.n_kv_heads;
    size_t per_row = 2 * j->row_bytes + sizeof(int32_t) + 2 * sizeof(uint16_t);
    size_t room = g * ((size_t)j->n * per_row + (j->n / 64 + 2) * j->dh * sizeof(uint16_t) + 16 * 64);
    out->heads = calloc(2 * (size_t)g, sizeof *out->heads);
    out->memory = aligned_alloc(64, (room + 63) / 64 * 64);
    if (out->heads == NULL || out->memory == NULL)
        return -ENOMEM;
    char *at = out->memory;
    size_t narrow = j->setting->int8 ? j->dh : j->row_bytes;
    uint64_t kept = 0;
    int status = 0;
    for (uint32_t h = 0; h < g && status == 0; h++) {
        uint32_t n = choose(j, layer, h), wide = j->setting->int8 ? (n < WIDE ? n : WIDE) : 0;
        fill_plain(j, &whole->heads[h], 0, wide, &at, &out->heads[h]);
        if (j->setting->int8)
            status = fill_int8(j, &whole->heads[h], wide, n - wide, &at, &out->heads[g + h]);
        else
            fill_plain(j, &whole->heads[h], 0, n, &at, &out->heads[g + h]);
        kept += n;
        out->bytes += (uint64_t)wide * 2 * j->row_bytes + (uint64_t)(n - wide) * 2 * narrow + n * sizeof(int32_t);
        if (j->setting->int8)
            out->bytes += 2 * ((n - wide) + ((uint64_t)(n - wide) + 63) / 64 * j->dh);
    }
    if (j->setting->int8)
        out->spans[out->n_spans++] = (struct crn_span){.heads = out->heads, .dtype = j->dtype, .q_end = UINT32_MAX};
    out->spans[out->n_spans++] = (struct crn_span){
        .heads = out->heads + g, .dtype = j->setting->int8 ? (uint32_t)CAIRN_I8 : j->dtype, .q_end = UINT32_MAX};
    out->kept = (double)kept / ((double)g * j->n);
    return status;
}

static void refer(const struct job *j, const struct crn_span *whole, struct crn_cut_layer *out)
{
    uint32_t g = j->e->weights->shape.n_kv_heads;
    *out = (struct crn_cut_layer){.n_spans = 1, .kept = 1, .bytes = (uint64_t)g * j->n * (2 * j->row_bytes + sizeof(int32_t))};
    out->spans[0] = *whole;
}

int crn_cut_make(const struct crn_engine *e, const struct crn_cache *whole, const float *scores,
                 const struct crn_cut_setting *setting, struct crn_cut *out)
{
    const struct crn_model_shape *s = &e->weights->shape;
    struct job j = {.e = e, .setting = setting, .n = whole->n_tokens, .dh = s->head_dim};
    struct crn_sets sets = {0};
    int fewer = setting->rule.keep < 1, status = 0;
    *out = (struct crn_cut){.n_layers = s->n_layers, .layers = calloc(s->n_layers, sizeof *out->layers)};
    j.dtype = whole->layers[0].spans[0].dtype;
    j.row_bytes = j.dh * cairn_dtype_bytes(j.dtype);
    j.all = malloc((j.n + 1) * sizeof *j.all);
    if (out->layers == NULL || j.all == NULL)
        status = -ENOMEM;
    for (uint32_t i = 0; i < j.n && status == 0; i++)
        j.all[i] = i;
    if (status == 0 && fewer) {
        status = crn_sets_choose(&setting->rule, scores, s->n_layers, s->n_kv_heads, j.n, &sets);
        j.sets = &sets;
    }
    for (uint32_t l = 0; l < s->n_layers && status == 0; l++) {
        if (fewer || setting->int8)
            status = cut_layer(&j, &whole->layers[l].spans[0], l, &out->layers[l]);
        else
            refer(&j, &whole->layers[l].spans[0], &out->layers[l]);
    }
    crn_sets_free(&sets);
    free(j.all);
    if (status != 0)
        crn_cut_free(out);
    return status;
}

void crn_cut_free(struct crn_cut *c)
{
    for (uint32_t l = 0; l < c->n_layers && c->layers != NULL; l++) {
        free(c->layers[l].heads);
        free(c->layers[l].memory);
    }
    free(c->layers);
    *c = (struct crn_cut){0};
}

int crn_cut_state(const struct crn_engine *e, const float *state, size_t count, float *out)
{
    uint32_t dtype = CAIRN_F16;
    uint16_t *stored = malloc(count * sizeof *stored + 1);
    if (stored == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        dtype = state[i] > 65504.0f || state[i] < -65504.0f ? (uint32_t)CAIRN_BF16 : dtype;
    int status = e->ops->convert(&e->exec, state, CAIRN_F32, count, dtype, stored);
    if (status == 0)
        status = e->ops->convert(&e->exec, stored, dtype, count, CAIRN_F32, out);
    free(stored);
    return status;
}
