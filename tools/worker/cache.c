/* A context's cache as lists of spans. Private pieces are owned here and freed with the cache;
 * attached payloads belong to their lease, only the small arrays that describe their heads are
 * copied. Waiting for payloads is the caller's business. */
#include "tools/worker/cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int crn_cache_init(struct crn_cache *c, uint32_t n_layers)
{
    *c = (struct crn_cache){.n_layers = n_layers};
    c->layers = calloc(n_layers, sizeof *c->layers);
    return c->layers != NULL ? 0 : -ENOMEM;
}

void crn_cache_free(struct crn_cache *c)
{
    while (c->pieces != NULL) {
        struct crn_cache_piece *piece = c->pieces;
        c->pieces = piece->next;
        for (uint32_t l = 0; l < c->n_layers; l++)
            crn_kv_free(&piece->kv[l]);
        free(piece->kv);
        free(piece);
    }
    for (uint32_t i = 0; i < c->n_views; i++)
        free(c->views[i]);
    free(c->views);
    for (uint32_t l = 0; l < c->n_layers && c->layers != NULL; l++)
        free(c->layers[l].spans);
    free(c->layers);
    *c = (struct crn_cache){0};
}

struct crn_kv *crn_cache_piece_add(struct crn_cache *c)
{
    struct crn_cache_piece *piece = calloc(1, sizeof *piece);
    struct crn_kv *kv = calloc(c->n_layers, sizeof *kv);
    if (piece == NULL || kv == NULL) {
        free(piece);
        free(kv);
        return NULL;
    }
    piece->kv = kv;
    piece->next = c->pieces;
    c->pieces = piece;
    return kv;
}

static int add_span(struct crn_cache *c, uint32_t layer, struct crn_span span)
{
    struct crn_cache_layer *list = &c->layers[layer];
    if (list->n == list->capacity) {
        uint32_t capacity = list->capacity == 0 ? 4 : 2 * list->capacity;
        struct crn_span *grown = realloc(list->spans, capacity * sizeof *grown);
        if (grown == NULL)
            return -ENOMEM;
        list->spans = grown;
        list->capacity = capacity;
    }
    list->spans[list->n++] = span;
    return 0;
}

int crn_cache_add_kv(struct crn_cache *c, uint32_t layer, const struct crn_kv *kv)
{
    return add_span(c, layer, crn_kv_span(kv, 0, UINT32_MAX));
}

static int add_heads(struct crn_cache *c, uint32_t layer, const struct cairn_head_view *views,
                     uint32_t n, uint32_t dtype)
{
    if (c->n_views == c->views_capacity) {
        uint32_t capacity = c->views_capacity == 0 ? 64 : 2 * c->views_capacity;
        void **grown = realloc(c->views, capacity * sizeof *grown);
        if (grown == NULL)
            return -ENOMEM;
        c->views = grown;
        c->views_capacity = capacity;
    }
    struct crn_kv_head *heads = calloc(n, sizeof *heads);
    if (heads == NULL)
        return -ENOMEM;
    for (uint32_t h = 0; h < n; h++)
        heads[h] = (struct crn_kv_head){.k = views[h].k,
                                        .v = views[h].v,
                                        .k_scale = views[h].k_scale,
                                        .v_scale = views[h].v_scale,
                                        .pos = views[h].pos,
                                        .n = views[h].n};
    c->views[c->n_views++] = heads;
    return add_span(
        c, layer,
        (struct crn_span){.heads = heads, .dtype = dtype, .q_begin = 0, .q_end = UINT32_MAX});
}

int crn_cache_add_view(struct crn_cache *c, uint32_t layer, const struct cairn_layer_view *view)
{
    int status = 0;
    if (view->wide != NULL)
        status = add_heads(c, layer, view->wide, view->n_heads, view->wide_dtype);
    return status != 0 ? status : add_heads(c, layer, view->heads, view->n_heads, view->dtype);
}

/* Head descriptors of private rows stay where they are; only the spans' type may have changed. */
void crn_cache_refresh(struct crn_cache *c)
{
    for (const struct crn_cache_piece *piece = c->pieces; piece != NULL; piece = piece->next)
        for (uint32_t l = 0; l < c->n_layers; l++)
            for (uint32_t i = 0; i < c->layers[l].n; i++)
                if (piece->kv[l].heads != NULL && c->layers[l].spans[i].heads == piece->kv[l].heads)
                    c->layers[l].spans[i].dtype = piece->kv[l].dtype;
}

uint64_t crn_cache_private_bytes(const struct crn_cache *c)
{
    uint64_t bytes = 0;
    for (const struct crn_cache_piece *piece = c->pieces; piece != NULL; piece = piece->next)
        for (uint32_t l = 0; l < c->n_layers; l++)
            bytes += piece->kv[l].heads != NULL ? crn_kv_bytes(&piece->kv[l]) : 0;
    return bytes;
}
