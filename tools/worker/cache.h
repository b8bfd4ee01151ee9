/* cache - what queries attend to, layer by layer: a list of spans over shared (attached) and
 * private memory, in order of tokens. Nothing is copied to make it contiguous. */
#ifndef CRN_WORKER_CACHE_H
#define CRN_WORKER_CACHE_H

#include "client/cairn.h"
#include "tools/worker/kv.h"

#include <stdint.h>

struct crn_cache_layer {
    struct crn_span *spans; /* visible to every query */
    uint32_t n, capacity;
};

/* K and V of some tokens for all layers; a layer without rows here has n = 0. */
struct crn_cache_piece {
    struct crn_kv *kv; /* [n_layers] */
    struct crn_cache_piece *next;
};

struct crn_cache {
    uint32_t n_layers;
    uint32_t n_tokens;              /* tokens of the context covered so far: the next position */
    struct crn_cache_layer *layers; /* [n_layers] */
    struct crn_cache_piece *pieces; /* owned */
    void **views;                   /* owned arrays of head descriptors for attached payloads */
    uint32_t n_views, views_capacity;
    uint64_t shared_bytes; /* payload bytes attached */
};

int crn_cache_init(struct crn_cache *c, uint32_t n_layers);
void crn_cache_free(struct crn_cache *c); /* zeroed struct allowed */

/* A new private piece [n_layers], empty; the caller initialises the layers it fills. Owned by the
 * cache. NULL: no memory. */
struct crn_kv *crn_cache_piece_add(struct crn_cache *c);

/* Appends private rows, or an attached view, to a layer's list. fails -ENOMEM */
int crn_cache_add_kv(struct crn_cache *c, uint32_t layer, const struct crn_kv *kv);
int crn_cache_add_view(struct crn_cache *c, uint32_t layer, const struct cairn_layer_view *view);

/* After private rows changed their storage (crn_kv_quantise): their spans follow. */
void crn_cache_refresh(struct crn_cache *c);

/* Bytes of all private pieces. */
uint64_t crn_cache_private_bytes(const struct crn_cache *c);

#endif
