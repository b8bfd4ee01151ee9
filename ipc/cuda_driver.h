/* cuda_driver - the way to a GPU: devices, driver entry points found at run time, one stream per device for memory moves.
 *
 * Cairn is not linked with libcuda: a binary starts without a driver and answers CAIRN_E_NO_DEVICE. Compiled only when CUDA is
 * (CRN_CUDA); no type of CUDA's appears here, so that any file may include it. */
#ifndef CRN_IPC_CUDA_DRIVER_H
#define CRN_IPC_CUDA_DRIVER_H

#include "ipc/cairn_status.h"

#include <stddef.h>
#include <stdint.h>

/* Status of a CUDA runtime or driver error (their numbers agree); also clears the runtime's last error, which only a lost
 * device keeps.   2 -> -ENOMEM   no driver, no device -> NO_DEVICE   700, 719 and the other errors after which a context is
 * unusable -> DEVICE_LOST   misuse -> ARG   800, 801 -> UNSUPPORTED   else -EIO. Logs `call` once at its failure. */
int crn_cuda_status(int cuda_error, const char *call);

/* How many devices answer; CAIRN_E_NO_DEVICE and a reason when none does. */
int crn_cuda_devices(int *out_n, char *why, size_t why_bytes);

/* Makes the device current on the calling thread. Cheap; every entry point of a backend begins with it. */
int crn_cuda_use(int device);

/* Name ("cuda-emu" for the emulator), UUID and memory of a device. */
struct crn_cuda_info {
    char name[64];
    uint8_t uuid[16];
    uint64_t total_bytes, free_bytes;
};
int crn_cuda_info(int device, struct crn_cuda_info *out_info);

/* The ordinal that this process has for a device; CAIRN_E_NO_DEVICE when it does not see it. */
int crn_cuda_by_uuid(const uint8_t uuid[16], int *out_device);

/* Copies and clears run on one stream per device and process. Offsets and sizes were checked by the caller. `to` and `from` say
 * where each side lives. crn_cuda_fence waits for what was issued so far. */
enum crn_cuda_side { CRN_CUDA_HOST = 0, CRN_CUDA_DEVICE = 1 };
struct crn_cuda_move {
    void *dst;
    const void *src;
    uint64_t bytes;
    enum crn_cuda_side to, from;
};
int crn_cuda_copy(int device, const struct crn_cuda_move *move);
int crn_cuda_clear(int device, void *at, uint64_t bytes); /* zeroes; done when it returns */
int crn_cuda_fence(int device);

/* A stream of one's own, for moves that wait for nobody else's. A lane is used by one thread at a time; its copies are done after
 * wait, and the host side must stay as it is until then. own: crn_cuda_lane_close, which waits for them. */
struct crn_cuda_lane;
int crn_cuda_lane_open(int device, struct crn_cuda_lane **out_lane);
void crn_cuda_lane_close(struct crn_cuda_lane *lane); /* NULL allowed */
int crn_cuda_lane_copy(struct crn_cuda_lane *lane, const struct crn_cuda_move *move);
int crn_cuda_lane_wait(struct crn_cuda_lane *lane);

/* Page-locks host memory of this process, for copies that overlap computing; in pieces of at most 64 GiB (tech.md 2.2). The
 * address must be the start of a mapping that is writable here. Undo with the same range. */
int crn_cuda_pin(int device, void *at, uint64_t bytes);
int crn_cuda_unpin(int device, void *at, uint64_t bytes);

#endif
