/* memory - the memory that an exec's kernels work on, for callers that need not know which it is: the host's own (ref, cpu), or
 * a device's (cuda). On the host alloc is aligned memory and every move a memcpy, done when it returns. On a device moves and
 * operations run in the order they were asked for; only get, put and sync wait. */
#ifndef CRN_KERNELS_MEMORY_H
#define CRN_KERNELS_MEMORY_H

#include "kernels/kernels.h"

#include <stddef.h>

enum crn_move { CRN_MOVE_IN = 1, CRN_MOVE_OUT = 2, CRN_MOVE_WITHIN = 3 };

/* What a backend with memory of its own supplies; codes are those of its operations. */
struct crn_exec_memory {
    int (*alloc)(const struct crn_exec *e, size_t bytes, void **out_at);
    void (*free)(const struct crn_exec *e, void *at); /* waits; NULL allowed */
    int (*move)(const struct crn_exec *e, void *dst, const void *src, size_t bytes, enum crn_move way);
    int (*zero)(const struct crn_exec *e, void *at, size_t bytes);
    int (*sync)(const struct crn_exec *e);
};

static inline int crn_memory_apart(const struct crn_exec *e)
{
    return e->memory != NULL;
}

/* Bytes at an address that is a multiple of 64; undefined content. fails -ENOMEM, device codes */
int crn_memory_alloc(const struct crn_exec *e, size_t bytes, void **out_at);
void crn_memory_free(const struct crn_exec *e, void *at);

/* put: from the host; get: to the host; the host's side may be used again at once. copy: within; ranges do not overlap. */
int crn_memory_put(const struct crn_exec *e, void *dst, const void *host, size_t bytes);
int crn_memory_get(const struct crn_exec *e, void *host, const void *src, size_t bytes);
int crn_memory_copy(const struct crn_exec *e, void *dst, const void *src, size_t bytes);
int crn_memory_zero(const struct crn_exec *e, void *at, size_t bytes);

/* Waits until everything asked for so far is done: somebody else may read it then. */
int crn_memory_sync(const struct crn_exec *e);

#endif
