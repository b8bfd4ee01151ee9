/* What both kinds of device memory share: moving bytes, clearing, waiting.
 *
 * Copies are issued on the device's stream and finish in order; crn_mem_ops.fence waits. Host memory on the other side must stay
 * as it is until then. Clearing is finished when it returns: cleared memory may be handed to somebody else. */
#include "ipc/mem.h"

#include "ipc/cuda_driver.h"

static int inside(const struct crn_mem *mem, uint64_t off, uint64_t bytes)
{
    return bytes <= mem->bytes && off <= mem->bytes - bytes;
}

static int writable(const struct crn_mem *mem)
{
    return mem->owner || mem->access == CRN_MEM_WRITE;
}

int crn_mem_cuda_copy(struct crn_mem *dst, uint64_t dst_off, const struct crn_mem *src, uint64_t src_off, uint64_t bytes)
{
    int to_device = !dst->ops->cpu_visible, from_device = !src->ops->cpu_visible;
    if (!to_device && !from_device)
        return CAIRN_E_UNSUPPORTED;
    if (!writable(dst) || !inside(dst, dst_off, bytes) || !inside(src, src_off, bytes))
        return CAIRN_E_ARG;
    if (to_device && from_device && dst->device != src->device)
        return CAIRN_E_UNSUPPORTED;
    struct crn_cuda_move move = { .dst = (char *)dst->base + dst_off, .src = (const char *)src->base + src_off,
                                  .bytes = bytes, .to = to_device ? CRN_CUDA_DEVICE : CRN_CUDA_HOST,
                                  .from = from_device ? CRN_CUDA_DEVICE : CRN_CUDA_HOST };
    return crn_cuda_copy(to_device ? dst->device : src->device, &move);
}

int crn_mem_cuda_clear(struct crn_mem *mem, uint64_t off, uint64_t bytes)
{
    if (!writable(mem) || !inside(mem, off, bytes))
        return CAIRN_E_ARG;
    return crn_cuda_clear(mem->device, (char *)mem->base + off, bytes);
}

int crn_mem_cuda_fence(struct crn_mem *mem)
{
    return crn_cuda_fence(mem->device);
}
