/* Kernels that are wrong on purpose, for the emulator's own tests. One block of 64 threads each; returns the launch's error. */
#ifndef CRN_EMU_BROKEN_H
#define CRN_EMU_BROKEN_H

#include "kernels/cuda/launch.h"

#ifdef __cplusplus
extern "C" {
#endif

enum broken {
    BROKEN_NOT = 0,               /* a correct one: out[i] = i + 1, through shared memory */
    BROKEN_MISSING_BARRIER,       /* reads its neighbour's word before a barrier */
    BROKEN_SHARED_WRITES,         /* all threads write one word */
    BROKEN_SHARED_UNWRITTEN,      /* reads shared memory nobody wrote */
    BROKEN_SHARED_RANGE,          /* index one past the array */
    BROKEN_SHARED_SIZE,           /* array larger than the launch gave */
    BROKEN_DIVERGENT_BARRIER,     /* half of the threads leave before a barrier */
    BROKEN_TWO_BARRIERS,          /* halves wait at different barriers */
    BROKEN_SHUFFLE_LANES,         /* a warp operation that names lanes which left */
    BROKEN_WRITE_PAST,            /* out[64] */
    BROKEN_WRITE_BEFORE,          /* out[-1] */
    BROKEN_WRITE_FAR,             /* out[4096] */
    BROKEN_USES_HOST,             /* (reads p: give it host memory) */
    BROKEN_TOO_MUCH_SHARED,       /* 64 KiB without asking */
    BROKEN_NO_THREADS,            /* an empty grid */
};
int broken_run(crn_cuda_stream stream, enum broken what, const unsigned *p, unsigned *out);

#ifdef __cplusplus
}
#endif
#endif
