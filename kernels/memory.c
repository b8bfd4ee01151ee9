/* Memory of an exec. Without a table of a backend it is the host's. */
#include "kernels/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int crn_memory_alloc(const struct crn_exec *e, size_t bytes, void **out_at)
{
    if (e->memory != NULL)
        return e->memory->alloc(e, bytes, out_at);
    if (bytes > SIZE_MAX - CAIRN_ALIGN)
        return -ENOMEM;
    size_t rounded = (bytes + CAIRN_ALIGN - 1) / CAIRN_ALIGN * CAIRN_ALIGN;
    void *at = aligned_alloc(CAIRN_ALIGN, rounded > 0 ? rounded : CAIRN_ALIGN);
    if (at == NULL)
        return -ENOMEM;
    *out_at = at;
    return 0;
}

void crn_memory_free(const struct crn_exec *e, void *at)
{
    if (e->memory != NULL)
        e->memory->free(e, at);
    else
        free(at);
}

int crn_memory_put(const struct crn_exec *e, void *dst, const void *host, size_t bytes)
{
    if (e->memory != NULL) {
        int status = e->memory->move(e, dst, host, bytes, CRN_MOVE_IN);
        return status != 0 ? status : e->memory->sync(e);
    }
    if (bytes > 0)
        memcpy(dst, host, bytes);
    return 0;
}

int crn_memory_get(const struct crn_exec *e, void *host, const void *src, size_t bytes)
{
    if (e->memory != NULL) {
        int status = e->memory->move(e, host, src, bytes, CRN_MOVE_OUT);
        return status != 0 ? status : e->memory->sync(e);
    }
    if (bytes > 0)
        memcpy(host, src, bytes);
    return 0;
}

int crn_memory_copy(const struct crn_exec *e, void *dst, const void *src, size_t bytes)
{
    if (e->memory != NULL)
        return e->memory->move(e, dst, src, bytes, CRN_MOVE_WITHIN);
    if (bytes > 0)
        memcpy(dst, src, bytes);
    return 0;
}

int crn_memory_zero(const struct crn_exec *e, void *at, size_t bytes)
{
    if (e->memory != NULL)
        return e->memory->zero(e, at, bytes);
    if (bytes > 0)
        memset(at, 0, bytes);
    return 0;
}

int crn_memory_sync(const struct crn_exec *e)
{
    return e->memory != NULL ? e->memory->sync(e) : 0;
}
