/* device - the GPU that payloads live on, when --device names one: its memory kind for arenas and landing zones, and what fills
 * and checks payloads there. The rest of the broker knows two things about it: whether there is one (NULL: payloads are in host
 * memory), and that pointers into its memory are for the functions below only.
 *
 * Gathering has one stream and one scratch memory, used by one copy thread at a time. Moves between the device and host memory
 * (tiers) have streams of their own, one per move under way, so that they wait neither for a gather nor for each other. A device
 * that is lost fails every job that needs it with CAIRN_E_DEVICE_LOST; the broker goes on. */
#ifndef CRN_BROKER_DEVICE_H
#define CRN_BROKER_DEVICE_H

#include "broker/gather.h"
#include "ipc/mem.h"

#include <stddef.h>
#include <stdint.h>

struct crn_device;

/* wish: "host", "auto" or "cuda:N"; kind: "auto", "cuda-vmm" or "cuda-ipc". Logs what was chosen and why.
 * *out_device is NULL for host memory. own: crn_device_close
 * fails   CAIRN_E_NO_DEVICE, CAIRN_E_NOT_BUILT, CAIRN_E_UNSUPPORTED, CAIRN_E_ARG: only for cuda:N */
int crn_device_open(const char *wish, const char *kind, struct crn_device **out_device);
void crn_device_close(struct crn_device *device); /* NULL allowed */

/* NULL device: the host's. */
const struct crn_mem_ops *crn_device_mem(const struct crn_device *device);
int crn_device_ordinal(const struct crn_device *device); /* -1: host */
const char *crn_device_name(const struct crn_device *device);
uint64_t crn_device_bytes(const struct crn_device *device); /* memory it has; 0: host */

/* Page-locked host memory at a page's address, for moves between device and storage. Kept for the next one when it is given back.
 * Memory that cannot be page-locked is taken all the same: copies are slower then. Any thread. fails -ENOMEM */
struct crn_device_stage {
    struct crn_device_stage *next;
    void *at;
    uint64_t bytes;
    int pinned;
};
int crn_device_stage_take(struct crn_device *device, uint64_t bytes, struct crn_device_stage **out_stage);
void crn_device_stage_give(struct crn_device *device, struct crn_device_stage *stage);

/* One payload from the device to host memory of this process, or back; done when they return. Any thread, several at a time.
 * A NULL device is host memory on both sides (tests). */
int crn_device_down(struct crn_device *device, const void *at, uint64_t bytes, void *host);
int crn_device_up(struct crn_device *device, void *at, uint64_t bytes, const void *host);
/* Page-locks an arena of host memory before the first move to or from it, so not on the loop thread: it takes about half a second
 * per GiB. When the driver refuses, moves work all the same, slower. Unlock before the arena ends. */
struct crn_arena;
void crn_device_lock(struct crn_device *device, struct crn_arena *arena);
void crn_device_unlock(struct crn_device *device, struct crn_arena *arena);

/* Copy thread. The bytes are there, or on the host, when they return; host sides may be reused at once. */
int crn_device_read(struct crn_device *device, const void *at, uint64_t bytes, void *out_host);
int crn_device_write(struct crn_device *device, void *at, uint64_t bytes, const void *host);
int crn_device_checksum(struct crn_device *device, const void *at, uint64_t bytes, uint64_t *out_sum);

/* broker/gather.h with rows, payload and lists that are all there. lists [n_lists] (index lists and positions, from the host) are
 * brought over first: pointers of the request that lie inside lists are taken for the copy. Also gives the payload's sum. */
struct crn_device_lists {
    const uint32_t *at;
    uint64_t n;
};
int crn_device_gather_kv(struct crn_device *device, const struct crn_gather_kv *g, const struct crn_device_lists *lists,
                         uint64_t *out_sum);
int crn_device_gather_state(struct crn_device *device, const struct crn_gather_state *g, const struct crn_device_lists *lists,
                            uint32_t *out_dtype, uint64_t *out_sum);

#endif
