/* What kernels compiled with g++ call (include/cuda_runtime.h is their side of it). */
#ifndef CRN_EMU_KERNEL_H
#define CRN_EMU_KERNEL_H

#include <cuda_runtime_api.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct emu_uint3 {
    unsigned x, y, z;
};

extern struct emu_uint3 emu_thread_idx, emu_block_idx, emu_block_dim, emu_grid_dim;

struct emu_grid {
    const char *kernel;
    const void *function; /* key of cudaFuncSetAttribute */
    struct emu_uint3 grid, block;
    size_t shared_bytes;
    cudaStream_t stream;
    void (*run)(void *args); /* one thread */
    void *args;              /* malloc'd, given away */
};
cudaError_t emu_launch(const struct emu_grid *launch);

void emu_barrier(const char *file, int line);

enum emu_shuffle { EMU_SHUFFLE_XOR = 1, EMU_SHUFFLE_UP = 2, EMU_SHUFFLE_IDX = 3, EMU_BALLOT = 4 };
/* value [0 .. 8 bytes]; all lanes of mask must come to the same place. */
uint64_t emu_warp(enum emu_shuffle kind, unsigned mask, uint64_t value, unsigned arg, const char *where);

enum emu_access { EMU_READ = 1, EMU_WRITE = 2, EMU_ATOMIC = 3 };
/* Shared memory of the running block, checked: range, alignment, unwritten bytes, races between two barriers. */
void *emu_shared(size_t offset, size_t bytes, enum emu_access access);
void emu_shared_view(size_t offset, size_t bytes, size_t align);

#ifdef __cplusplus
}
#endif
#endif
