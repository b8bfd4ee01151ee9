/* Legacy IPC: 64-byte handles of cudaMalloc blocks. The handle names the exporting process and a descriptor in it; the importer
 * opens that through /proc, which needs the same user and a living exporter. The last page of a block's memfd, which nobody
 * maps as device memory, lists who has it open, so that freeing too early is seen.
 *
 * As on hardware: the base pointer is wanted; the exporter itself cannot open its handle; opening twice gives the same pointer
 * and counts. Stricter: only whole multiples of 2 MiB are shared (hardware would expose the neighbours of smaller blocks). */
#include "tests/cuda_emu/internal.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = 4096, MAX_USERS = 256 };
#define MAGIC 0x63706975656d75u

struct users {
    _Atomic int32_t pid[MAX_USERS];
};

struct handle {
    uint64_t magic;
    int32_t pid, fd;
    uint64_t bytes;
    uint64_t inode;
    int32_t device, reserved;
};
_Static_assert(sizeof(struct handle) <= CUDA_IPC_HANDLE_SIZE, "fits a handle");

struct import {
    struct import *next;
    struct handle handle;
    struct users *users;
    struct emu_map map;
    unsigned count;
};

static struct import *imports;

static struct users *map_users(int fd, size_t bytes)
{
    void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)bytes);
    return p == MAP_FAILED ? NULL : p;
}

static int get_handle(cudaIpcMemHandle_t *handle, void *p)
{
    struct emu_map *m = emu_map_of(p, 1);
    struct stat st;
    if (m == NULL || m->kind != EMU_MALLOC || m->base != (char *)p || fstat(m->fd, &st) != 0)
        return cudaErrorInvalidValue;
    if (m->bytes % EMU_GRANULARITY != 0)
        emu_violation("cudaIpcGetMemHandle: %zu bytes are not a multiple of 2 MiB", m->bytes);
    struct handle h = { .magic = MAGIC, .pid = getpid(), .fd = m->fd, .bytes = m->bytes, .inode = st.st_ino,
                        .device = m->device };
    if (m->owner == NULL) { /* first export: nobody has it open yet */
        struct users *users = map_users(m->fd, m->page_bytes);
        if (users == NULL)
            return cudaErrorMemoryAllocation;
        memset(users, 0, sizeof *users);
        m->owner = users;
    }
    memset(handle, 0, sizeof *handle);
    memcpy(handle, &h, sizeof h);
    return 0;
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *handle, void *devPtr)
{
    int code = emu_begin("cudaIpcGetMemHandle", EMU_NEED_CONTEXT);
    if (code == 0)
        code = get_handle(handle, devPtr);
    return emu_end(code);
}

/* Called when the exporter frees the block. */
void emu_ipc_on_free(struct emu_map *map)
{
    struct users *users = map->owner;
    if (users == NULL)
        return;
    for (size_t i = 0; i < MAX_USERS; i++) {
        int32_t pid = atomic_load(&users->pid[i]);
        if (pid != 0 && kill(pid, 0) == 0)
            emu_violation("cudaFree: process %d still has the block of %zu bytes open", pid, map->bytes);
    }
    munmap(users, PAGE);
    map->owner = NULL;
}

static int open_remote(const struct handle *h)
{
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", h->pid, h->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0 && (fstat(fd, &st) != 0 || st.st_ino != h->inode || (uint64_t)st.st_size != h->bytes + PAGE)) {
        close(fd);
        return -1;
    }
    return fd;
}

static int add_user(struct users *users)
{
    for (size_t i = 0; i < MAX_USERS; i++) {
        int32_t seen = atomic_load(&users->pid[i]);
        if ((seen == 0 || kill(seen, 0) != 0) && atomic_compare_exchange_strong(&users->pid[i], &seen, getpid()))
            return 0;
    }
    return -1;
}

static void remove_user(struct users *users)
{
    for (size_t i = 0; i < MAX_USERS; i++) {
        if (atomic_load(&users->pid[i]) == getpid()) {
            atomic_store(&users->pid[i], 0);
            return;
        }
    }
}

static int map_import(struct import *i, int fd)
{
    struct emu_map *m = &i->map;
    i->users = map_users(fd, i->handle.bytes);
    *m = (struct emu_map){ .bytes = i->handle.bytes, .page_bytes = i->handle.bytes, .fd = -1, .kind = EMU_IMPORT,
                           .prot = PROT_READ | PROT_WRITE, .device = i->handle.device };
    m->reserve = emu_reserve(m->bytes + 2 * EMU_GRANULARITY, EMU_GRANULARITY);
    if (i->users == NULL || m->reserve == NULL || add_user(i->users) != 0)
        return cudaErrorMemoryAllocation;
    m->base = m->pages = m->reserve + EMU_GRANULARITY;
    if (mmap(m->pages, m->bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
        return cudaErrorMapBufferObjectFailed;
    return 0;
}

static int open_handle(void **out, const struct handle *h, unsigned int flags)
{
    if (h->magic != MAGIC || flags != cudaIpcMemLazyEnablePeerAccess)
        return cudaErrorInvalidValue;
    if (h->pid == getpid())
        return cudaErrorDeviceUninitialized; /* "invalid device context", as seen on hardware */
    for (struct import *i = imports; i != NULL; i = i->next) {
        if (memcmp(&i->handle, h, sizeof *h) == 0) {
            i->count++;
            *out = i->map.base;
            return 0;
        }
    }
    int fd = open_remote(h);
    struct import *i = fd < 0 ? NULL : calloc(1, sizeof *i);
    if (i == NULL) {
        if (fd >= 0)
            close(fd);
        return cudaErrorMapBufferObjectFailed;
    }
    i->handle = *h;
    i->count = 1;
    int code = map_import(i, fd);
    close(fd);
    if (code != 0) {
        free(i);
        return code;
    }
    i->next = imports;
    imports = i;
    emu_map_add(&i->map);
    emu_now.imports++;
    *out = i->map.base;
    return 0;
}

cudaError_t cudaIpcOpenMemHandle(void **devPtr, cudaIpcMemHandle_t handle, unsigned int flags)
{
    int code = emu_begin("cudaIpcOpenMemHandle", EMU_NEED_CONTEXT);
    struct handle h;
    memcpy(&h, &handle, sizeof h);
    if (code == 0)
        code = open_handle(devPtr, &h, flags);
    return emu_end(code);
}

static int close_handle(const void *p)
{
    for (struct import **at = &imports; *at != NULL; at = &(*at)->next) {
        struct import *i = *at;
        if (i->map.base != p)
            continue;
        if (--i->count > 0)
            return 0;
        emu_drain_all();
        *at = i->next;
        emu_map_remove(&i->map);
        remove_user(i->users);
        munmap(i->users, PAGE);
        free(i);
        emu_now.imports--;
        return 0;
    }
    return cudaErrorInvalidValue;
}

cudaError_t cudaIpcCloseMemHandle(void *devPtr)
{
    int code = emu_begin("cudaIpcCloseMemHandle", EMU_NEED_CONTEXT);
    if (code == 0)
        code = close_handle(devPtr);
    return emu_end(code);
}
