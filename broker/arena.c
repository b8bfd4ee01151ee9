/* An arena ties a segment of a memory backend to its extent book. It decides nothing: which arena serves a request, and when a
 * new one is made, is space.c. */
#include "broker/arena.h"

#include "ipc/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#define MAX_ARENA_GRANULES (1u << 30)

uint32_t crn_arena_granules(uint64_t bytes)
{
    uint64_t n = bytes / CRN_GRANULE_BYTES + (bytes % CRN_GRANULE_BYTES != 0);
    if (n > MAX_ARENA_GRANULES)
        return 0;
    return n == 0 ? 1u : (uint32_t)n;
}

int crn_arena_create(struct crn_space *space, const struct crn_mem_ops *ops, int device,
                     uint64_t bytes, struct crn_arena **out_arena)
{
    static atomic_uint last_id;
    uint32_t n = crn_arena_granules(bytes);
    if (n == 0)
        return CAIRN_E_TOO_BIG;
    struct crn_arena *arena = calloc(1, sizeof *arena);
    if (arena == NULL)
        return -ENOMEM;
    int status = crn_extents_create(n, &arena->extents);
    if (status == 0)
        status = ops->create((uint64_t)n * CRN_GRANULE_BYTES, device, CRN_MEM_ARENA, &arena->mem);
    if (status != 0) {
        crn_log(CRN_LOG_ERROR, "arena of %llu bytes: %s", (unsigned long long)bytes,
                cairn_strerror(status));
        crn_extents_destroy(arena->extents);
        free(arena);
        return status;
    }
    arena->space = space;
    arena->id = atomic_fetch_add_explicit(&last_id, 1, memory_order_relaxed) + 1;
    *out_arena = arena;
    return 0;
}

void crn_arena_destroy(struct crn_arena *arena)
{
    if (arena->mem.ops->kind != CRN_MEM_CUDA_IPC) /* workers may have it open: it goes with the process */
        arena->mem.ops->destroy(&arena->mem);
    crn_extents_destroy(arena->extents);
    free(arena);
}
