/* gpu - what the benchmarks of a device share: the device, entries that are published from its memory, and a model of random
 * weights on it. On the emulator everything runs at toy size and every figure is refused. Failures end the program with a line. */
#ifndef CRN_BENCH_GPU_H
#define CRN_BENCH_GPU_H

#include "bench/host.h"
#include "kernels/kernels.h"
#include "tools/worker/weights.h"

#include <stdint.h>

struct bench_gpu {
    struct crn_exec exec; /* of device 0 */
    int emulated;
    uint64_t total_bytes;
    char name[96], driver[48];
};

/* Ends the program with one line when no device answers. Looks from a process of its own, since CUDA does not survive a fork:
 * call it first, make brokers and helpers, then open. Returns 1 on the emulator. */
int bench_gpu_require(void);
void bench_gpu_open(struct bench_gpu *g);
void bench_gpu_close(struct bench_gpu *g);

/* Publishes an entry as it is, layer by layer, from device memory. client: of bench_client_on_device */
struct cairn_entry_id bench_gpu_publish(const struct bench_gpu *g, struct cairn_client *client, const struct bench_entry *e);
/* Every layer of the lease against its content, by way of the host. */
int bench_gpu_lease_equal(const struct bench_gpu *g, struct cairn_lease *lease, const struct bench_entry *e);

/* Llama-3-8B; on the emulator something tiny. */
struct crn_model_shape bench_gpu_shape(const struct bench_gpu *g);
/* bf16 weights of that shape: a block of random numbers goes over once and is copied there until all is full. own:
 * crn_weights_free */
struct crn_weights *bench_gpu_weights(const struct bench_gpu *g, const struct crn_model_shape *shape);

#endif
