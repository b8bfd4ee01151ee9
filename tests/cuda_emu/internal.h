/* What the emulator's own files share. All state is of this process and under one lock; what processes share is memfds. */
#ifndef CRN_EMU_INTERNAL_H
#define CRN_EMU_INTERNAL_H

#include "tests/cuda_emu/emu.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <stddef.h>
#include <stdint.h>

#define EMU_POISON 0xff /* float NaN, index out of range */
#define EMU_GRANULARITY ((size_t)2 << 20)
#define EMU_ALLOC_ALIGN 256u

/* --- core.c: entering and leaving a call --- */
enum emu_need { EMU_NEED_DRIVER = 0, EMU_NEED_CONTEXT = 1 };
/* Takes the lock; 0 or the code that the call must return (injected, lost device, wrong process, no context). */
int emu_begin(const char *call, enum emu_need need);
/* Gives the lock back, remembers a failure for cudaGetLastError, returns code. */
cudaError_t emu_end(int code);
CUresult emu_end_driver(int code);
int emu_device_count(void);
int emu_device(void);               /* current one of this thread */
int emu_is_sticky(int code);
void emu_lose(int code);            /* from now on every call returns code */
void emu_violation(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
uint64_t emu_memory_limit(void);
extern struct emu_stats emu_now;

/* --- memory.c --- */
enum emu_map_kind { EMU_MALLOC = 1, EMU_VMM = 2, EMU_IMPORT = 3 };
struct emu_map {
    struct emu_map *next;
    char *base;
    size_t bytes;        /* usable, what the program asked for */
    char *pages;         /* start of the mapped pages; base lies in them */
    size_t page_bytes;
    char *reserve;       /* with guard pages; NULL for VMM (its reservation is the program's) */
    size_t reserve_bytes;
    int prot;            /* PROT_NONE, PROT_READ or PROT_READ | PROT_WRITE, while the device runs */
    int fd;              /* memfd of EMU_MALLOC, else -1 */
    enum emu_map_kind kind;
    int device;
    void *owner;         /* vmm: allocation; import: ipc record */
};
size_t emu_round(size_t n, size_t to);
int emu_memfd(size_t bytes);        /* poisoned; -1 */
char *emu_reserve(size_t bytes, size_t align); /* inaccessible addresses; NULL */
void emu_map_add(struct emu_map *map);
void emu_map_remove(struct emu_map *map); /* its pages become inaccessible for ever */
struct emu_map *emu_map_of(const void *p, size_t bytes); /* the one that holds the whole range, NULL */
int emu_is_device(const void *p);   /* inside a mapping or the guards around it */
const char *emu_describe(const void *p); /* for messages; a static buffer */
/* The device's view of memory: between enter and leave mappings have their protection, otherwise the host faults on them. */
void emu_device_enter(const char *what);
void emu_device_leave(void);
void emu_check_range(const char *call, const void *p, size_t bytes, int prot);

/* --- ipc.c --- */
void emu_ipc_on_free(struct emu_map *map);

/* --- stream.c --- */
/* Queues run(arg) on a stream; arg is freed with free() after it ran. */
int emu_enqueue(cudaStream_t stream, const char *what, void (*run)(void *arg), void *arg);
void emu_drain_all(void);
int emu_stream_ok(cudaStream_t stream);

#endif
