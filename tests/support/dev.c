/* dev - device memory in tests. */
#include "tests/support/dev.h"

#include "kernels/cuda/exec.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 64, GUARD_BYTE = 0x5c, POISON = 0xa5 };

static struct crn_exec exec;

void dev_exec_use(size_t workspace_bytes)
{
    crn_cuda_exec_close(&exec);
    ck_assert_int_eq(crn_cuda_exec_open(0, workspace_bytes, &exec), 0);
}

const struct crn_exec *dev_exec(void)
{
    if (exec.stream == NULL)
        dev_exec_use(CRN_CUDA_WORKSPACE_MIN);
    return &exec;
}

void dev_close(void)
{
    crn_cuda_exec_close(&exec);
}

struct dev_buffer dev_put(const void *src, size_t bytes, size_t offset)
{
    struct dev_buffer b = { .bytes = bytes, .offset = offset };
    size_t total = GUARD + offset + bytes + GUARD;
    unsigned char *image = malloc(total);
    ck_assert_ptr_nonnull(image);
    memset(image, GUARD_BYTE, total);
    if (src != NULL)
        memcpy(image + GUARD + offset, src, bytes);
    else
        memset(image + GUARD + offset, POISON, bytes);
    ck_assert_int_eq(crn_cuda_alloc(dev_exec(), total, &b.base), 0);
    ck_assert_int_eq(crn_cuda_upload(dev_exec(), b.base, image, total), 0);
    ck_assert_int_eq(crn_cuda_exec_sync(dev_exec()), 0);
    b.p = (char *)b.base + GUARD + offset;
    free(image);
    return b;
}

void dev_get(const struct dev_buffer *b, void *out)
{
    size_t total = GUARD + b->offset + b->bytes + GUARD;
    unsigned char *image = malloc(total);
    ck_assert_ptr_nonnull(image);
    ck_assert_int_eq(crn_cuda_download(dev_exec(), image, b->base, total), 0);
    ck_assert_int_eq(crn_cuda_exec_sync(dev_exec()), 0);
    bool intact = true;
    for (size_t i = 0; i < GUARD + b->offset; i++)
        intact = intact && image[i] == GUARD_BYTE;
    for (size_t i = 0; i < GUARD; i++)
        intact = intact && image[GUARD + b->offset + b->bytes + i] == GUARD_BYTE;
    memcpy(out, image + GUARD + b->offset, b->bytes);
    free(image);
    ck_assert_msg(intact, "a kernel wrote outside its buffer of %zu bytes", b->bytes);
}

void dev_free(struct dev_buffer *b)
{
    crn_cuda_free(dev_exec(), b->base);
    *b = (struct dev_buffer){ 0 };
}
