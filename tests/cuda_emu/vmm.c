/* Virtual memory management: cuMemCreate and friends. An allocation is a memfd; an address range is reserved apart from it.
 *
 * An exported descriptor is not the memfd but a socket that holds one message: size, device and the memfd. Like the driver's
 * descriptors it can be sent, duplicated and imported, and cannot be mapped, read or asked for its size by the host. The memory
 * lives until the last mapping, handle and exported descriptor of any process is gone, because the kernel counts them. */
#include "tests/cuda_emu/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAGIC 0x756d65616475636full

struct allocation {
    struct allocation *next;
    CUmemGenericAllocationHandle handle;
    int fd;
    size_t bytes;
    unsigned handles, mappings;
    int exportable, device, imported;
};

struct reservation {
    struct reservation *next;
    char *base;
    size_t bytes;
};

struct parcel {
    uint64_t magic, bytes;
    int32_t device, reserved;
};

static struct allocation *allocations;
static struct reservation *reservations;
static CUmemGenericAllocationHandle last_handle = 0x1000;

static struct allocation *allocation_of(CUmemGenericAllocationHandle handle)
{
    for (struct allocation *a = allocations; a != NULL; a = a->next) {
        if (a->handle == handle && a->handles > 0)
            return a;
    }
    return NULL;
}

static void drop_if_unused(struct allocation *a)
{
    if (a->handles > 0 || a->mappings > 0)
        return;
    for (struct allocation **at = &allocations; *at != NULL; at = &(*at)->next) {
        if (*at == a) {
            *at = a->next;
            break;
        }
    }
    if (!a->imported)
        emu_now.bytes -= a->bytes;
    close(a->fd);
    free(a);
}

static struct allocation *add_allocation(int fd, size_t bytes, int device)
{
    struct allocation *a = calloc(1, sizeof *a);
    if (a == NULL)
        return NULL;
    *a = (struct allocation){ .next = allocations, .handle = ++last_handle, .fd = fd, .bytes = bytes, .handles = 1,
                              .device = device };
    allocations = a;
    emu_now.handles++;
    return a;
}

static int check_prop(const CUmemAllocationProp *prop)
{
    int fits = prop != NULL && prop->type == CU_MEM_ALLOCATION_TYPE_PINNED &&
               prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE && prop->location.id >= 0 &&
               prop->location.id < emu_device_count() && prop->win32HandleMetaData == NULL &&
               prop->requestedHandleTypes <= CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    return fits ? 0 : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
                                       CUmemAllocationGranularity_flags option)
{
    (void)option;
    int code = emu_begin("cuMemGetAllocationGranularity", EMU_NEED_CONTEXT);
    if (code == 0)
        code = check_prop(prop);
    if (code == 0)
        *granularity = EMU_GRANULARITY;
    return emu_end_driver(code);
}

static int create(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop)
{
    if (check_prop(prop) != 0 || size == 0 || size % EMU_GRANULARITY != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (size > emu_memory_limit() || emu_now.bytes + size > emu_memory_limit())
        return CUDA_ERROR_OUT_OF_MEMORY;
    int fd = emu_memfd(size);
    struct allocation *a = fd < 0 ? NULL : add_allocation(fd, size, prop->location.id);
    if (a == NULL) {
        if (fd >= 0)
            close(fd);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    a->exportable = prop->requestedHandleTypes == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    emu_now.bytes += size;
    *handle = a->handle;
    return 0;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop,
                     unsigned long long flags)
{
    int code = emu_begin("cuMemCreate", EMU_NEED_CONTEXT);
    if (code == 0)
        code = flags != 0 ? CUDA_ERROR_INVALID_VALUE : create(handle, size, prop);
    return emu_end_driver(code);
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    int code = emu_begin("cuMemRelease", EMU_NEED_CONTEXT);
    struct allocation *a = code == 0 ? allocation_of(handle) : NULL;
    if (a != NULL) {
        a->handles--;
        emu_now.handles--;
        drop_if_unused(a);
    }
    return emu_end_driver(code == 0 && a == NULL ? CUDA_ERROR_INVALID_VALUE : code);
}

/* --- addresses --- */

CUresult cuMemAddressReserve(CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr, unsigned long long flags)
{
    int code = emu_begin("cuMemAddressReserve", EMU_NEED_CONTEXT);
    if (code == 0 && (size == 0 || size % EMU_GRANULARITY != 0 || flags != 0 || addr != 0 ||
                      (alignment != 0 && alignment % EMU_GRANULARITY != 0)))
        code = CUDA_ERROR_INVALID_VALUE;
    struct reservation *r = code == 0 ? calloc(1, sizeof *r) : NULL;
    char *base = r != NULL ? emu_reserve(size + EMU_GRANULARITY, EMU_GRANULARITY) : NULL;
    if (code == 0 && base == NULL) {
        free(r);
        code = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (code == 0) { /* the granule behind it stays inaccessible */
        *r = (struct reservation){ reservations, base, size };
        reservations = r;
        emu_now.reservations++;
        *ptr = (CUdeviceptr)(uintptr_t)base;
    }
    return emu_end_driver(code);
}

CUresult cuMemAddressFree(CUdeviceptr ptr, size_t size)
{
    int code = emu_begin("cuMemAddressFree", EMU_NEED_CONTEXT);
    if (code != 0)
        return emu_end_driver(code);
    for (struct reservation **at = &reservations; *at != NULL; at = &(*at)->next) {
        struct reservation *r = *at;
        if ((CUdeviceptr)(uintptr_t)r->base != ptr || r->bytes != size)
            continue;
        for (size_t i = 0; i < size; i += EMU_GRANULARITY) {
            if (emu_map_of(r->base + i, 1) != NULL)
                emu_violation("cuMemAddressFree: the range at %p is still mapped", (void *)r->base);
        }
        *at = r->next;
        free(r); /* the addresses stay inaccessible: a late use faults */
        emu_now.reservations--;
        return emu_end_driver(0);
    }
    return emu_end_driver(CUDA_ERROR_INVALID_VALUE);
}

static int reserved(const char *base, size_t size)
{
    for (const struct reservation *r = reservations; r != NULL; r = r->next) {
        if (base >= r->base && size <= r->bytes && base <= r->base + (r->bytes - size))
            return 1;
    }
    return 0;
}

static int map_at(char *base, size_t size, struct allocation *a)
{
    if (a == NULL || size == 0 || size % EMU_GRANULARITY != 0 || size > a->bytes || !reserved(base, size))
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < size; i += EMU_GRANULARITY) {
        if (emu_map_of(base + i, 1) != NULL)
            return CUDA_ERROR_INVALID_VALUE;
    }
    struct emu_map *m = calloc(1, sizeof *m);
    if (m == NULL || mmap(base, size, PROT_NONE, MAP_SHARED | MAP_FIXED, a->fd, 0) == MAP_FAILED) {
        free(m);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *m = (struct emu_map){ .base = base, .bytes = size, .pages = base, .page_bytes = size, .prot = PROT_NONE, .fd = -1,
                           .kind = EMU_VMM, .device = a->device, .owner = a };
    a->mappings++;
    emu_map_add(m);
    return 0;
}

CUresult cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags)
{
    int code = emu_begin("cuMemMap", EMU_NEED_CONTEXT);
    if (code == 0 && (offset != 0 || flags != 0))
        code = CUDA_ERROR_INVALID_VALUE;
    if (code == 0)
        code = map_at((char *)(uintptr_t)ptr, size, allocation_of(handle));
    return emu_end_driver(code);
}

static struct emu_map *whole_map(CUdeviceptr ptr, size_t size)
{
    struct emu_map *m = emu_map_of((void *)(uintptr_t)ptr, size);
    return m != NULL && m->kind == EMU_VMM && (CUdeviceptr)(uintptr_t)m->base == ptr && m->bytes == size ? m : NULL;
}

CUresult cuMemUnmap(CUdeviceptr ptr, size_t size)
{
    int code = emu_begin("cuMemUnmap", EMU_NEED_CONTEXT);
    struct emu_map *m = code == 0 ? whole_map(ptr, size) : NULL;
    if (m == NULL)
        return emu_end_driver(code == 0 ? CUDA_ERROR_INVALID_VALUE : code);
    struct allocation *a = m->owner;
    emu_drain_all();
    emu_map_remove(m);
    free(m);
    a->mappings--;
    drop_if_unused(a);
    return emu_end_driver(0);
}

CUresult cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count)
{
    int code = emu_begin("cuMemSetAccess", EMU_NEED_CONTEXT);
    struct emu_map *m = code == 0 ? whole_map(ptr, size) : NULL;
    if (code == 0 && (m == NULL || count != 1 || desc->location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
                      desc->location.id != m->device))
        code = CUDA_ERROR_INVALID_VALUE;
    if (code == 0) {
        m->prot = desc->flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE ? PROT_READ | PROT_WRITE
                  : desc->flags == CU_MEM_ACCESS_FLAGS_PROT_READ    ? PROT_READ
                                                                    : PROT_NONE;
    }
    return emu_end_driver(code);
}

/* --- sharing --- */

static int export_socket(const struct allocation *a, int *out_fd)
{
    int ends[2];
    struct parcel parcel = { .magic = MAGIC, .bytes = a->bytes, .device = a->device };
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    struct iovec part = { &parcel, sizeof parcel };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes,
                              .msg_controllen = sizeof control.bytes };
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &a->fd, sizeof a->fd);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return CUDA_ERROR_OUT_OF_MEMORY;
    int sent = sendmsg(ends[0], &message, MSG_NOSIGNAL) == (ssize_t)sizeof parcel;
    close(ends[0]);
    if (!sent) {
        close(ends[1]);
        return CUDA_ERROR_UNKNOWN;
    }
    *out_fd = ends[1];
    return 0;
}

/* Peeks, so that a descriptor can be imported any number of times. */
static int open_parcel(int sock, struct parcel *out_parcel, int *out_fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    struct iovec part = { out_parcel, sizeof *out_parcel };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.bytes,
                              .msg_controllen = sizeof control.bytes };
    ssize_t got = recvmsg(sock, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *c = got == (ssize_t)sizeof *out_parcel ? CMSG_FIRSTHDR(&message) : NULL;
    if (c == NULL || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
        return CUDA_ERROR_INVALID_VALUE;
    memcpy(out_fd, CMSG_DATA(c), sizeof *out_fd);
    if (out_parcel->magic == MAGIC && out_parcel->device >= 0 && out_parcel->device < emu_device_count())
        return 0;
    close(*out_fd);
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemExportToShareableHandle(void *shareableHandle, CUmemGenericAllocationHandle handle,
                                      CUmemAllocationHandleType handleType, unsigned long long flags)
{
    int code = emu_begin("cuMemExportToShareableHandle", EMU_NEED_CONTEXT);
    struct allocation *a = code == 0 ? allocation_of(handle) : NULL;
    if (code == 0 && (a == NULL || !a->exportable || flags != 0 || handleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR))
        code = CUDA_ERROR_INVALID_VALUE;
    if (code == 0)
        code = export_socket(a, shareableHandle);
    return emu_end_driver(code);
}

CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *osHandle,
                                        CUmemAllocationHandleType shHandleType)
{
    struct parcel parcel;
    int fd = -1, code = emu_begin("cuMemImportFromShareableHandle", EMU_NEED_CONTEXT);
    if (code == 0 && shHandleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
        code = CUDA_ERROR_INVALID_VALUE;
    if (code == 0)
        code = open_parcel((int)(intptr_t)osHandle, &parcel, &fd);
    if (code != 0)
        return emu_end_driver(code);
    struct allocation *a = add_allocation(fd, parcel.bytes, parcel.device);
    if (a == NULL) {
        close(fd);
        return emu_end_driver(CUDA_ERROR_OUT_OF_MEMORY);
    }
    a->imported = 1;
    a->exportable = 1;
    *handle = a->handle;
    return emu_end_driver(0);
}
