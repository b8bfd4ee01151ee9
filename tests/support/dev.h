/* dev - device memory in tests: buffers with guard bytes, and an exec of device 0. Everything fails the test when it fails.
 * Linked only into tests of the GPU path: emulated device by default, a real one in `make check-gpu`. */
#ifndef CRN_TESTS_DEV_H
#define CRN_TESTS_DEV_H

#include "kernels/kernels.h"

#include <stdbool.h>
#include <stddef.h>

/* bytes at p on the device, `offset` bytes past a multiple of 256, between guards of 64. */
struct dev_buffer {
    void *p;
    size_t bytes, offset;
    void *base;
};

/* One exec per test process. */
const struct crn_exec *dev_exec(void);
void dev_exec_use(size_t workspace_bytes); /* a new one of this size */
void dev_close(void);

/* A buffer of src (NULL: poison). */
struct dev_buffer dev_put(const void *src, size_t bytes, size_t offset);
/* Waits for the device, checks the guards, copies to host memory. */
void dev_get(const struct dev_buffer *b, void *out);
void dev_free(struct dev_buffer *b);

#endif
