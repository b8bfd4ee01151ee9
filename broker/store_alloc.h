/* store_alloc - which granules of a store file are in use: one bit each (2 MiB per TiB), because a store can be a thousand times
 * larger than an arena and the catalogue already knows every extent's place and size. One thread. */
#ifndef CRN_BROKER_STORE_ALLOC_H
#define CRN_BROKER_STORE_ALLOC_H

#include "ipc/cairn_status.h"

#include <stdint.h>

struct crn_store_alloc;

/* fails   CAIRN_E_ARG for 0 or more than 2^31 granules, -ENOMEM
 * own     end with crn_store_alloc_destroy (NULL allowed) */
int crn_store_alloc_create(uint32_t n_granules, struct crn_store_alloc **out_alloc);
void crn_store_alloc_destroy(struct crn_store_alloc *a);

/* A run of n free granules, searched from where the last one ended. CAIRN_E_FULL when there is none. */
int crn_store_alloc_take(struct crn_store_alloc *a, uint32_t n, uint32_t *out_first);
/* Exactly this run: CAIRN_E_BUSY when part of it is in use, CAIRN_E_ARG outside the file. Nothing changes on failure. */
int crn_store_alloc_reserve(struct crn_store_alloc *a, uint32_t first, uint32_t n);
/* CAIRN_E_STALE when part of the run is free already; nothing changes then. */
int crn_store_alloc_free(struct crn_store_alloc *a, uint32_t first, uint32_t n);

uint32_t crn_store_alloc_total(const struct crn_store_alloc *a);
uint32_t crn_store_alloc_used(const struct crn_store_alloc *a);

#endif
