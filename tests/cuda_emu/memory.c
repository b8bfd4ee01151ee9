/* Device memory: memfds mapped at addresses that only "the device" can touch.
 *
 * While no kernel and no copy runs, every mapping is PROT_NONE, so host code that dereferences a device pointer faults, as it
 * must. Freed addresses stay inaccessible for ever. A block ends right at a guard page (rounded to 256 bytes); the slack around
 * it keeps its poison and is checked when it is freed. */
#include "tests/cuda_emu/internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, MAX_PINNED = 256 };

static struct emu_map *maps;
static int depth;
static const char *running;
static struct pinned {
    char *base;
    size_t bytes;
    int owned; /* cudaMallocHost */
} pinned[MAX_PINNED];

size_t emu_round(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

/* --- faults --- */

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    sigaction(number, &(struct sigaction){ .sa_handler = SIG_DFL }, NULL);
    if (depth == 0 && !emu_is_device(info->si_addr))
        return; /* an ordinary crash, nothing of ours */
    char text[320];
    int n = snprintf(text, sizeof text, "cuda-emu: violation: %s touched %p, %s\n",
                     depth > 0 ? running : "host code (no kernel was running)", info->si_addr, emu_describe(info->si_addr));
    ssize_t ignored = write(STDERR_FILENO, text, (size_t)n);
    (void)ignored; /* returning runs the faulting instruction again, now with the default action */
}

static void watch_faults(void)
{
    static int watching;
    if (watching)
        return;
    watching = 1;
    struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
    sigaction(SIGSEGV, &action, NULL);
}

/* --- address ranges --- */

char *emu_reserve(size_t bytes, size_t align)
{
    size_t total = bytes + align;
    char *p = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    char *aligned = p + (emu_round((uintptr_t)p, align) - (uintptr_t)p);
    if (aligned > p)
        munmap(p, (size_t)(aligned - p));
    if (p + total > aligned + bytes)
        munmap(aligned + bytes, (size_t)(p + total - (aligned + bytes)));
    return aligned;
}

int emu_memfd(size_t bytes)
{
    int fd = memfd_create("cuda-emu", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, (off_t)bytes) != 0) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        close(fd);
        return -1;
    }
    memset(p, EMU_POISON, bytes);
    munmap(p, bytes);
    return fd;
}

void emu_map_add(struct emu_map *map)
{
    watch_faults();
    map->next = maps;
    maps = map;
    emu_now.mappings++;
    if (depth > 0)
        mprotect(map->pages, map->page_bytes, map->prot);
}

void emu_map_remove(struct emu_map *map)
{
    for (struct emu_map **at = &maps; *at != NULL; at = &(*at)->next) {
        if (*at == map) {
            *at = map->next;
            break;
        }
    }
    emu_now.mappings--;
    mmap(map->pages, map->page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

struct emu_map *emu_map_of(const void *p, size_t bytes)
{
    const char *at = p;
    for (struct emu_map *m = maps; m != NULL; m = m->next) {
        if (at >= m->base && bytes <= m->bytes && at <= m->base + (m->bytes - bytes))
            return m;
    }
    return NULL;
}

int emu_is_device(const void *p)
{
    const char *at = p;
    for (struct emu_map *m = maps; m != NULL; m = m->next) {
        if (at >= m->pages && at < m->pages + m->page_bytes)
            return 1;
    }
    return 0;
}

const char *emu_describe(const void *p)
{
    static char text[160];
    const char *at = p;
    for (struct emu_map *m = maps; m != NULL; m = m->next) {
        if (at >= m->pages - PAGE && at < m->pages + m->page_bytes + PAGE) {
            snprintf(text, sizeof text, "%td bytes from the start of a block of %zu bytes%s", at - m->base, m->bytes,
                     m->prot == PROT_READ ? ", mapped read-only" : "");
            return text;
        }
    }
    return "in no block of device memory";
}

/* --- the device's view --- */

static void protect_all(int visible)
{
    for (struct emu_map *m = maps; m != NULL; m = m->next)
        mprotect(m->pages, m->page_bytes, visible ? m->prot : PROT_NONE);
}

void emu_device_enter(const char *what)
{
    running = what;
    if (depth++ == 0) {
        watch_faults();
        protect_all(1);
    }
}

void emu_device_leave(void)
{
    if (--depth == 0)
        protect_all(0);
}

void emu_check_range(const char *call, const void *p, size_t bytes, int prot)
{
    const struct emu_map *m = emu_map_of(p, bytes);
    if (m == NULL)
        emu_violation("%s: %zu bytes at %p are not one mapped range of device memory (%s)", call, bytes, p,
                      emu_describe(p));
    if ((m->prot & prot) != prot)
        emu_violation("%s: writes %zu bytes to a read-only mapping at %p", call, bytes, p);
}

/* --- cudaMalloc --- */

static int map_block(struct emu_map *m, size_t size)
{
    m->page_bytes = emu_round(size, PAGE);
    m->reserve_bytes = m->page_bytes + 2 * PAGE;
    m->reserve = emu_reserve(m->reserve_bytes, EMU_GRANULARITY);
    m->fd = emu_memfd(m->page_bytes + PAGE); /* one page for ipc.c */
    if (m->reserve == NULL || m->fd < 0)
        return cudaErrorMemoryAllocation;
    m->pages = m->reserve + PAGE;
    if (mmap(m->pages, m->page_bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, m->fd, 0) == MAP_FAILED)
        return cudaErrorMemoryAllocation;
    m->bytes = size;
    m->base = m->pages + (m->page_bytes - emu_round(size, EMU_ALLOC_ALIGN));
    return 0;
}

static int allocate(void **out, size_t size)
{
    *out = NULL;
    if (size == 0)
        return 0;
    if (emu_now.bytes + size > emu_memory_limit() || size > emu_memory_limit())
        return cudaErrorMemoryAllocation;
    struct emu_map *m = calloc(1, sizeof *m);
    if (m == NULL)
        return cudaErrorMemoryAllocation;
    *m = (struct emu_map){ .kind = EMU_MALLOC, .prot = PROT_READ | PROT_WRITE, .device = emu_device(), .fd = -1 };
    if (map_block(m, size) != 0) {
        free(m);
        return cudaErrorMemoryAllocation;
    }
    emu_map_add(m);
    emu_now.bytes += size;
    *out = m->base;
    return 0;
}

cudaError_t cudaMalloc(void **devPtr, size_t size)
{
    int code = emu_begin("cudaMalloc", EMU_NEED_CONTEXT);
    if (code == 0)
        code = allocate(devPtr, size);
    return emu_end(code);
}

static void check_slack(const struct emu_map *m)
{
    emu_device_enter("cudaFree");
    for (const char *p = m->pages; p < m->pages + m->page_bytes; p++) {
        if (p == m->base)
            p = m->base + m->bytes;
        if (p < m->pages + m->page_bytes && (unsigned char)*p != EMU_POISON)
            emu_violation("byte %td of a block of %zu bytes was written", p - m->base, m->bytes);
    }
    emu_device_leave();
}

static int release(void *p)
{
    if (p == NULL)
        return 0;
    struct emu_map *m = emu_map_of(p, 1);
    if (m == NULL || m->base != (char *)p || m->kind != EMU_MALLOC)
        return cudaErrorInvalidValue;
    emu_drain_all(); /* cudaFree waits for the device */
    check_slack(m);
    emu_ipc_on_free(m);
    emu_map_remove(m);
    emu_now.bytes -= m->bytes;
    close(m->fd);
    free(m);
    return 0;
}

cudaError_t cudaFree(void *devPtr)
{
    int code = emu_begin("cudaFree", EMU_NEED_CONTEXT);
    if (code == 0)
        code = release(devPtr);
    return emu_end(code);
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total)
{
    int code = emu_begin("cudaMemGetInfo", EMU_NEED_CONTEXT);
    if (code == 0) {
        *total = emu_memory_limit();
        *free = emu_memory_limit() - emu_now.bytes;
    }
    return emu_end(code);
}

/* --- page-locked host memory --- */

static struct pinned *pinned_of(const void *p, size_t bytes)
{
    const char *at = p;
    for (struct pinned *x = pinned; x < pinned + MAX_PINNED; x++) {
        if (x->base != NULL && at >= x->base && bytes <= x->bytes && at <= x->base + (x->bytes - bytes))
            return x;
    }
    return NULL;
}

static int pin(void *p, size_t size, int owned)
{
    for (struct pinned *x = pinned; x < pinned + MAX_PINNED; x++) {
        if (x->base != NULL && (char *)p < x->base + x->bytes && x->base < (char *)p + size)
            return cudaErrorHostMemoryAlreadyRegistered;
    }
    for (struct pinned *x = pinned; x < pinned + MAX_PINNED; x++) {
        if (x->base == NULL) {
            *x = (struct pinned){ p, size, owned };
            emu_now.pinned++;
            return 0;
        }
    }
    return cudaErrorMemoryAllocation;
}

static int unpin(void *p, int owned)
{
    for (struct pinned *x = pinned; x < pinned + MAX_PINNED; x++) {
        if (x->base == (char *)p && p != NULL && x->owned == owned) {
            emu_drain_all();
            if (owned)
                munmap(x->base, emu_round(x->bytes, PAGE));
            *x = (struct pinned){ 0 };
            emu_now.pinned--;
            return 0;
        }
    }
    return owned ? cudaErrorInvalidValue : cudaErrorHostMemoryNotRegistered;
}

cudaError_t cudaMallocHost(void **ptr, size_t size)
{
    int code = emu_begin("cudaMallocHost", EMU_NEED_CONTEXT);
    if (code == 0) {
        void *p = mmap(NULL, emu_round(size, PAGE), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        code = p == MAP_FAILED ? cudaErrorMemoryAllocation : pin(p, size, 1);
        if (code == 0) {
            memset(p, EMU_POISON, size);
            *ptr = p;
        }
    }
    return emu_end(code);
}

cudaError_t cudaFreeHost(void *ptr)
{
    int code = emu_begin("cudaFreeHost", EMU_NEED_CONTEXT);
    if (code == 0)
        code = ptr == NULL ? 0 : unpin(ptr, 1);
    return emu_end(code);
}

/* Read-only pages need a flag of their own on hardware; here the kernel is asked whether they can be written. */
cudaError_t cudaHostRegister(void *ptr, size_t size, unsigned int flags)
{
    int code = emu_begin("cudaHostRegister", EMU_NEED_CONTEXT);
    if (code == 0 && (ptr == NULL || size == 0 || flags != cudaHostRegisterDefault || emu_is_device(ptr)))
        code = cudaErrorInvalidValue;
    if (code == 0)
        code = pin(ptr, size, 0);
    return emu_end(code);
}

cudaError_t cudaHostUnregister(void *ptr)
{
    int code = emu_begin("cudaHostUnregister", EMU_NEED_CONTEXT);
    if (code == 0)
        code = unpin(ptr, 0);
    return emu_end(code);
}

/* --- copies --- */

struct copy {
    char *dst;
    const char *src;
    size_t count;
    enum cudaMemcpyKind kind;
    int value; /* memset */
    int staged;
    char stage[];
};

static void check_copy(const char *call, const struct copy *c)
{
    int to = c->kind == cudaMemcpyHostToDevice || c->kind == cudaMemcpyDeviceToDevice;
    int from = c->kind == cudaMemcpyDeviceToHost || c->kind == cudaMemcpyDeviceToDevice;
    if (to)
        emu_check_range(call, c->dst, c->count, PROT_READ | PROT_WRITE);
    else if (emu_is_device(c->dst))
        emu_violation("%s: destination is device memory, kind says host", call);
    if (from)
        emu_check_range(call, c->src, c->count, PROT_READ);
    else if (!c->staged && emu_is_device(c->src))
        emu_violation("%s: source is device memory, kind says host", call);
}

static void run_copy(void *arg)
{
    const struct copy *c = arg;
    check_copy("a queued copy", c);
    memmove(c->dst, c->staged ? c->stage : c->src, c->count);
}

/* Pageable host memory is read before the call returns, page-locked memory when the copy runs. */
static struct copy *new_copy(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind)
{
    int staged = kind == cudaMemcpyHostToDevice && pinned_of(src, count) == NULL && !emu_is_device(src);
    struct copy *c = calloc(1, sizeof *c + (staged ? count : 0));
    if (c == NULL)
        return NULL;
    *c = (struct copy){ .dst = dst, .src = src, .count = count, .kind = kind, .staged = staged };
    if (staged)
        memcpy(c->stage, src, count);
    return c;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    int code = emu_begin("cudaMemcpyAsync", EMU_NEED_CONTEXT);
    if (code == 0 && (kind < cudaMemcpyHostToDevice || kind > cudaMemcpyDeviceToDevice))
        code = cudaErrorInvalidMemcpyDirection;
    if (code != 0 || count == 0)
        return emu_end(code);
    struct copy *c = new_copy(dst, src, count, kind);
    if (c == NULL)
        return emu_end(cudaErrorMemoryAllocation);
    check_copy("cudaMemcpyAsync", c);
    code = emu_enqueue(stream, "a copy", run_copy, c);
    if (code != 0)
        free(c);
    return emu_end(code);
}

/* On the legacy stream: waits for no stream of Cairn's (they are non-blocking). */
cudaError_t cudaMemcpy(void *dst, const void *src, size_t count, enum cudaMemcpyKind kind)
{
    int code = emu_begin("cudaMemcpy", EMU_NEED_CONTEXT);
    if (code == 0 && (kind < cudaMemcpyHostToDevice || kind > cudaMemcpyDeviceToDevice))
        code = cudaErrorInvalidMemcpyDirection;
    if (code == 0 && count != 0) {
        struct copy c = { .dst = dst, .src = src, .count = count, .kind = kind };
        check_copy("cudaMemcpy", &c);
        emu_device_enter("cudaMemcpy");
        memmove(dst, src, count);
        emu_device_leave();
    }
    return emu_end(code);
}

static void run_set(void *arg)
{
    const struct copy *c = arg;
    emu_check_range("a queued memset", c->dst, c->count, PROT_READ | PROT_WRITE);
    memset(c->dst, c->value, c->count);
}

cudaError_t cudaMemsetAsync(void *devPtr, int value, size_t count, cudaStream_t stream)
{
    int code = emu_begin("cudaMemsetAsync", EMU_NEED_CONTEXT);
    if (code != 0 || count == 0)
        return emu_end(code);
    emu_check_range("cudaMemsetAsync", devPtr, count, PROT_READ | PROT_WRITE);
    struct copy *c = calloc(1, sizeof *c);
    if (c == NULL)
        return emu_end(cudaErrorMemoryAllocation);
    *c = (struct copy){ .dst = devPtr, .count = count, .value = value };
    code = emu_enqueue(stream, "a memset", run_set, c);
    if (code != 0)
        free(c);
    return emu_end(code);
}
