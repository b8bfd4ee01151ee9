/* emu - what tests may ask of the emulated device. Host code under test never includes this.
 *
 * The emulator implements the calls of tests/cuda_emu/include in host memory and is stricter than hardware. A broken rule is a
 * *violation*: one line `cuda-emu: violation: ...` on stderr, then abort(). Hardware would go on, or fault somewhere later.
 *
 * Environment: CRN_CUDA_EMU_DEVICES (default 1; 0 = a machine without a GPU, -1 = without a driver),
 * CRN_CUDA_EMU_MEMORY (bytes this process may allocate, default 4 GiB),
 * CRN_CUDA_EMU_FAIL=CALL:N:CODE[,CALL:N:CODE...] (the N-th use of CALL, counted from 1, returns CODE; codes that a device
 * cannot recover from stay). */
#ifndef CRN_EMU_H
#define CRN_EMU_H

#include <stdint.h>

#define EMU_DEVICE_NAME "cuda-emu"

/* The n-th call from now returns code. At most 16 at a time. */
void emu_fail(const char *call, unsigned n, int code);

struct emu_stats {
    uint64_t bytes;        /* device memory allocated here (cudaMalloc, cuMemCreate) */
    uint64_t mappings;     /* address ranges that kernels can reach */
    uint64_t reservations; /* cuMemAddressReserve */
    uint64_t handles;      /* cuMemCreate and cuMemImportFromShareableHandle, not released */
    uint64_t imports;      /* cudaIpcOpenMemHandle, not closed */
    uint64_t streams, events, pinned, blas;
    uint64_t pending;      /* operations queued and not run */
    uint64_t kernels;      /* launches that ran */
};
void emu_stats_get(struct emu_stats *out_stats);

#endif
