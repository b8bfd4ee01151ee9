/* mem - memory backends: how another process reaches a segment's bytes. One contract, one const table per kind.
 *
 * A segment is created by the broker and imported by workers. What coordinates (control pages, catalogue) is always `host`
 * memory; a backend supplies payload memory only.
 *     host      memfd; the fd travels over the fd channel; readers get a mapping the kernel keeps read-only
 *     cuda-vmm  cuMemCreate; the fd travels over the fd channel; readers map PROT_READ (a guard against bugs)
 *     cuda-ipc  cudaMalloc; the 64-byte handle travels in the message; no protection */
#ifndef CRN_IPC_MEM_H
#define CRN_IPC_MEM_H

#include "ipc/cairn_status.h"
#include "ipc/cairn_types.h"

#include <stddef.h>
#include <stdint.h>

enum crn_mem_kind { CRN_MEM_HOST = 1, CRN_MEM_CUDA_VMM = 2, CRN_MEM_CUDA_IPC = 3 };

enum crn_mem_access {
    CRN_MEM_READ = 1,  /* importer of an arena or control page */
    CRN_MEM_WRITE = 2, /* importer of its own landing zone */
};

/* What create() is for: an arena or control page is sealed so that only the creator's mapping can write; a landing zone is
 * sealed against shrinking and growing only. */
enum crn_mem_role { CRN_MEM_ARENA = 1, CRN_MEM_LANDING = 2 };

struct crn_mem_ops;

/* A segment as this process sees it. A zeroed struct is "none"; destroy on it is legal. */
struct crn_mem {
    const struct crn_mem_ops *ops;
    void *base;      /* host pointer, or device pointer for cuda kinds */
    uint64_t bytes;
    int fd;          /* creator: descriptor to export; importer: -1 */
    int device;
    uint32_t owner;  /* 1 creator, 0 importer */
    uint32_t access; /* enum crn_mem_access, importer */
    void *handle;    /* backend's own */
};

/* What travels to an importer besides the descriptor. */
struct crn_mem_token {
    uint32_t kind; /* enum crn_mem_kind */
    uint32_t reserved;
    uint64_t bytes;
    uint8_t device_uuid[16];
    uint8_t handle[64]; /* cuda-ipc only */
};
_Static_assert(sizeof(struct crn_mem_token) == 96, "token travels as bytes");

struct crn_mem_ops {
    const char *name;
    uint32_t kind;
    uint32_t cpu_visible; /* base may be dereferenced by the CPU */
    uint32_t fd_travels;  /* export gives a descriptor */

    /* 1 when usable here, else 0 and a reason. */
    int (*probe)(char *why, size_t why_bytes);
    /* bytes is rounded up to the backend's granularity; memory reads as zero. */
    int (*create)(uint64_t bytes, int device, enum crn_mem_role role, struct crn_mem *out_mem);
    /* out_fd: borrowed, valid while mem lives; -1 when no descriptor travels. */
    int (*export_token)(const struct crn_mem *mem, struct crn_mem_token *out_token, int *out_fd);
    /* Takes fd over in every case. Checks size, and for host the seals, before mapping. CAIRN_E_CORRUPT when they do not fit. */
    int (*import_token)(const struct crn_mem_token *token, int fd, enum crn_mem_access access, struct crn_mem *out_mem);
    /* Copies between segments of the same or of different kinds, where one of them is host or both are the same kind. Copies
     * that touch device memory are done after the device segment's fence(), and the host side must stay as it is until then. */
    int (*copy)(struct crn_mem *dst, uint64_t dst_off, const struct crn_mem *src, uint64_t src_off, uint64_t bytes);
    /* Zeroes a range, and gives its pages back to the system where the backend can. */
    int (*clear)(struct crn_mem *mem, uint64_t off, uint64_t bytes);
    /* Waits until everything issued so far is done. */
    int (*fence)(struct crn_mem *mem);
    void (*destroy)(struct crn_mem *mem);
};

extern const struct crn_mem_ops crn_mem_host;

/* Compiled in with CRN_CUDA only. Copies and clears of both kinds: see ipc/mem_cuda_copy.c. */
extern const struct crn_mem_ops crn_mem_cuda_vmm;
extern const struct crn_mem_ops crn_mem_cuda_ipc;
int crn_mem_cuda_copy(struct crn_mem *dst, uint64_t dst_off, const struct crn_mem *src, uint64_t src_off, uint64_t bytes);
int crn_mem_cuda_clear(struct crn_mem *mem, uint64_t off, uint64_t bytes);
int crn_mem_cuda_fence(struct crn_mem *mem);

/* By kind or by name ("host", "cuda-vmm", "cuda-ipc"); NULL when unknown or not compiled in. */
const struct crn_mem_ops *crn_mem_ops_of(uint32_t kind);
const struct crn_mem_ops *crn_mem_ops_named(const char *name);

#endif
