/* device - what a worker computes on: the CPU's kernels, or a GPU's with a stream and a workspace. */
#ifndef CRN_WORKER_DEVICE_H
#define CRN_WORKER_DEVICE_H

#include "kernels/kernels.h"

#include <stddef.h>

struct crn_worker_device {
    const struct crn_kernel_ops *ops;
    struct crn_exec exec;
    int ordinal; /* -1: the CPU */
};

/* wish: "host", "auto" or "cuda:N"; backend: the kernels of the host. Logs what was chosen and why, and what "auto" found wrong.
 * own     end with crn_worker_device_close
 * fails   CAIRN_E_NO_DEVICE, CAIRN_E_NOT_BUILT, -ENOMEM and device codes: only for cuda:N */
int crn_worker_device_open(const char *wish, const char *backend, struct crn_worker_device *out);
void crn_worker_device_close(struct crn_worker_device *device);

/* Is it host, auto or cuda:N? */
int crn_worker_device_parse(const char *wish, int *out_ordinal);

#endif
