/* Weights in their stored form. Most matrices are used where the file is mapped; rows of Q and K
 * are copied once into half-split RoPE order (weights.h). Block types that no kernel multiplies
 * (f16) have no stored form: the merged matrix serves them. */
#include "tools/worker/stored.h"

#include "tools/worker/quant.h"
#include "tools/worker/weights.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct build {
    const struct crn_weights *w;
    struct crn_stored *out;
};

static void *keep(struct build *b, size_t bytes)
{
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (memory != NULL)
        b->out->owned[b->out->n_owned++] = memory;
    return memory;
}

static uint32_t weight_type(uint32_t quant_type)
{
    switch (quant_type) {
    case CRN_QUANT_BF16:
        return CRN_W_BF16;
    case CRN_QUANT_Q8_0:
        return CRN_W_Q8_0;
    case CRN_QUANT_Q4_0:
        return CRN_W_Q4_0;
    case CRN_QUANT_Q4_1:
        return CRN_W_Q4_1;
    default:
        return 0;
    }
}

/* rope_head_dim 0: rows as they are, in the mapping. */
static int take_rows(struct build *b, const struct crn_gguf_tensor *t, uint32_t rope_head_dim,
                     struct crn_matrix *out)
{
    uint32_t rows = (uint32_t)t->dims[1];
    size_t row_bytes = (size_t)t->size_bytes / rows;
    *out = (struct crn_matrix){t->data, weight_type(t->type), rows, (uint32_t)t->dims[0]};
    if (rope_head_dim == 0 || out->type == 0)
        return 0;
    uint8_t *copy = keep(b, t->size_bytes);
    if (copy == NULL)
        return -ENOMEM;
    for (uint32_t r = 0; r < rows; r++)
        memcpy(copy + crn_rope_row(r, rope_head_dim) * row_bytes, t->data + r * row_bytes,
               row_bytes);
    out->data = copy;
    return 0;
}

struct half {
    const struct crn_gguf_tensor *a, *b;
    float factor;
};

static struct half half_of(const struct crn_adapter *adapter, const char *name)
{
    char half[CRN_GGUF_MAX_NAME + 16];
    struct half h;
    snprintf(half, sizeof half, "%s.lora_a", name);
    h.a = crn_gguf_tensor(adapter->gguf, half);
    snprintf(half, sizeof half, "%s.lora_b", name);
    h.b = crn_gguf_tensor(adapter->gguf, half);
    h.factor = adapter->scale;
    if (h.a != NULL && adapter->alpha != 0)
        h.factor *= adapter->alpha / (float)h.a->dims[1];
    return h;
}

/* One adapter's columns of B, scaled, at column `at` of b [rows][rank]. */
static void fill_b(const struct half *h, uint32_t rope_head_dim, float *b, uint32_t rank,
                   uint32_t at)
{
    uint32_t r = (uint32_t)h->b->dims[0], rows = (uint32_t)h->b->dims[1];
    size_t row_bytes = (size_t)h->b->size_bytes / rows;
    for (uint32_t i = 0; i < rows; i++) {
        float *row =
            b + (size_t)(rope_head_dim > 0 ? crn_rope_row(i, rope_head_dim) : i) * rank + at;
        crn_quant_row(h->b->type, h->b->data + i * row_bytes, r, row);
        for (uint32_t k = 0; k < r; k++)
            row[k] *= h->factor;
    }
}

static int take_adapters(struct build *b, const char *name, uint32_t rope_head_dim,
                         struct crn_stored_matrix *m)
{
    struct half halves[CRN_MAX_ADAPTERS];
    uint32_t rank = 0, at = 0;
    for (size_t i = 0; i < b->w->n_adapters; i++) {
        halves[i] = half_of(&b->w->adapters[i], name);
        rank += halves[i].a != NULL ? (uint32_t)halves[i].a->dims[1] : 0;
    }
    if (rank == 0)
        return 0;
    float *a = keep(b, (size_t)rank * m->w.cols * sizeof *a),
          *up = keep(b, (size_t)m->w.rows * rank * sizeof *up);
    if (a == NULL || up == NULL)
        return -ENOMEM;
    for (size_t i = 0; i < b->w->n_adapters; i++) {
        if (halves[i].a == NULL)
            continue;
        uint32_t r = (uint32_t)halves[i].a->dims[1];
        crn_quant_row(halves[i].a->type, halves[i].a->data, (size_t)r * m->w.cols,
                      a + (size_t)at * m->w.cols);
        fill_b(&halves[i], rope_head_dim, up, rank, at);
        at += r;
    }
    m->a = (struct crn_matrix){a, CRN_W_F32, rank, m->w.cols};
    m->b = (struct crn_matrix){up, CRN_W_F32, m->w.rows, rank};
    return 0;
}

static int take(struct build *b, const char *name, uint32_t rope_head_dim,
                struct crn_stored_matrix *out)
{
    const struct crn_gguf_tensor *t = crn_gguf_tensor(b->w->base, name);
    if (t == NULL)
        return 0;
    int status = take_rows(b, t, rope_head_dim, &out->w);
    return status != 0 || out->w.type == 0 ? status : take_adapters(b, name, rope_head_dim, out);
}

static int take_layer(struct build *b, uint32_t layer, struct crn_stored_layer *out)
{
    uint32_t dh = b->w->shape.head_dim;
    const struct {
        const char *name;
        uint32_t rope_head_dim;
        struct crn_stored_matrix *to;
    } list[] = {
        {"attn_q", dh, &out->wq},      {"attn_k", dh, &out->wk},      {"attn_v", 0, &out->wv},
        {"attn_output", 0, &out->wo},  {"ffn_gate", 0, &out->w_gate}, {"ffn_up", 0, &out->w_up},
        {"ffn_down", 0, &out->w_down},
    };
    int status = 0;
    for (size_t i = 0; i < sizeof list / sizeof *list && status == 0; i++) {
        char name[CRN_GGUF_MAX_NAME];
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, list[i].name);
        status = take(b, name, list[i].rope_head_dim, list[i].to);
    }
    return status;
}

int crn_stored_build(const struct crn_weights *weights, struct crn_stored *out)
{
    const uint32_t n_layers = weights->shape.n_layers;
    struct build b = {weights, out};
    *out = (struct crn_stored){0};
    out->layers = calloc(n_layers, sizeof *out->layers);
    out->owned = calloc((size_t)n_layers * 16 + 3,
                        sizeof *out->owned); /* q, k, and two per adapted matrix */
    int status = out->layers != NULL && out->owned != NULL ? 0 : -ENOMEM;
    for (uint32_t l = 0; l < n_layers && status == 0; l++)
        status = take_layer(&b, l, &out->layers[l]);
    if (status == 0)
        status =
            take(&b, weights->shape.tied ? "token_embd.weight" : "output.weight", 0, &out->output);
    if (status != 0)
        crn_stored_free(out);
    return status;
}

void crn_stored_free(struct crn_stored *s)
{
    for (size_t i = 0; i < s->n_owned; i++)
        free(s->owned[i]);
    free(s->owned);
    free(s->layers);
    *s = (struct crn_stored){0};
}
