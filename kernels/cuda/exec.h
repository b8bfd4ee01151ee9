/* exec - where CUDA kernels run: one stream, one cuBLAS handle and one workspace of a device, for one thread of control.
 *
 * The operations of crn_kernels_cuda take a struct crn_exec made here and queue their work on its stream; results are there
 * after crn_cuda_exec_sync. They allocate nothing. Two of them wait for the stream themselves: gather (it must be able to
 * refuse an index), and the closing of the exec. */
#ifndef CRN_KERNELS_CUDA_EXEC_H
#define CRN_KERNELS_CUDA_EXEC_H

#include "kernels/kernels.h"

#include <stddef.h>

/* Smallest workspace that every operation accepts at moderate shapes; attention needs rows of scores: H/G * keys * 4 bytes per
 * query, and works through more queries at a time when it gets more. Up to 32 MiB, at most half, are cuBLAS's own. */
#define CRN_CUDA_WORKSPACE_MIN ((size_t)4 << 20)

/* own     end with crn_cuda_exec_close
 * fails   NO_DEVICE, NOT_BUILT (no cuBLAS found), -ENOMEM, DEVICE_LOST, CAIRN_E_ARG for a workspace below the minimum */
int crn_cuda_exec_open(int device, size_t workspace_bytes, struct crn_exec *out_exec);
/* The same without cuBLAS, for who moves and converts only: products and attention answer CAIRN_E_ARG. */
int crn_cuda_exec_open_plain(int device, size_t workspace_bytes, struct crn_exec *out_exec);
/* An exec for a whole model: the workspace is a 64th of the device's memory, within 16 MiB .. 512 MiB. why: the device's name, or
 * what is wrong with it. */
int crn_cuda_exec_open_on(int device, struct crn_exec *out_exec, char *why, size_t why_bytes);
/* Waits for everything queued. fails DEVICE_LOST: the process must not use the device again. */
int crn_cuda_exec_sync(const struct crn_exec *exec);
void crn_cuda_exec_close(struct crn_exec *exec); /* zeroed struct allowed */

/* Device memory for weights, activations and private KV, and moves between it and the host. Moves are queued on the stream and
 * ordered with the operations; host memory must stay as it is until a sync. */
int crn_cuda_alloc(const struct crn_exec *exec, size_t bytes, void **out_at);
void crn_cuda_free(const struct crn_exec *exec, void *at); /* waits for the device; NULL allowed */
int crn_cuda_upload(const struct crn_exec *exec, void *device, const void *host, size_t bytes);
int crn_cuda_download(const struct crn_exec *exec, void *host, const void *device, size_t bytes);

#endif
