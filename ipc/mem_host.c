/* The "host" backend: anonymous files (memfd). The creator maps first and seals second, so its own
 * mapping is the last one that can write; an importer believes nothing it is told: size and seals
 * are asked of the kernel before it maps. Without the seal against shrinking, a peer could truncate
 * the file and kill every reader with SIGBUS.
 *
 * Clearing: a hole (MADV_REMOVE) gives pages back, but F_SEAL_FUTURE_WRITE forbids holes even to
 * the creator (EPERM, measured on Linux 6.18), so arenas are cleared by writing zeroes and keep
 * their pages until the arena is destroyed.
 *
 * No huge pages and no page locking here. */
#include "ipc/mem.h"

#include "ipc/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif

#define MAX_BYTES ((uint64_t)1 << 46)
#define SEALS_ALWAYS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define SEALS_ARENA (SEALS_ALWAYS | F_SEAL_FUTURE_WRITE)

static int open_memfd(void)
{
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    int fd = memfd_create("cairn", flags | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("cairn", flags);
    return fd < 0 ? -errno : fd;
}

static uint64_t page_bytes(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

static int inside(const struct crn_mem *mem, uint64_t off, uint64_t bytes)
{
    return bytes <= mem->bytes && off <= mem->bytes - bytes;
}

static int writable(const struct crn_mem *mem)
{
    return mem->owner || mem->access == CRN_MEM_WRITE;
}

static int host_probe(char *why, size_t why_bytes)
{
    int fd = open_memfd();
    if (fd < 0) {
        snprintf(why, why_bytes, "memfd_create: %s", cairn_strerror(fd));
        return 0;
    }
    close(fd);
    return 1;
}

static int host_create(uint64_t bytes, int device, enum crn_mem_role role, struct crn_mem *out_mem)
{
    (void)device;
    if (bytes == 0 || (role != CRN_MEM_ARENA && role != CRN_MEM_LANDING))
        return CAIRN_E_ARG;
    if (bytes > MAX_BYTES)
        return CAIRN_E_TOO_BIG;
    bytes = (bytes + page_bytes() - 1) / page_bytes() * page_bytes();
    int fd = open_memfd();
    if (fd < 0) {
        crn_log(CRN_LOG_ERROR, "memory: memfd_create: %s", cairn_strerror(fd));
        return fd;
    }
    void *base = MAP_FAILED;
    if (ftruncate(fd, (off_t)bytes) == 0)
        base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int seals = role == CRN_MEM_ARENA ? SEALS_ARENA : SEALS_ALWAYS;
    if (base == MAP_FAILED || fcntl(fd, F_ADD_SEALS, seals) != 0) {
        int status = -errno;
        crn_log(CRN_LOG_ERROR, "memory: segment of %llu bytes: %s", (unsigned long long)bytes,
                cairn_strerror(status));
        if (base != MAP_FAILED)
            munmap(base, bytes);
        close(fd);
        return status;
    }
    *out_mem = (struct crn_mem){
        .ops = &crn_mem_host, .base = base, .bytes = bytes, .fd = fd, .device = -1, .owner = 1};
    return 0;
}

static int host_export(const struct crn_mem *mem, struct crn_mem_token *out_token, int *out_fd)
{
    if (!mem->owner || mem->fd < 0)
        return CAIRN_E_ARG;
    *out_token = (struct crn_mem_token){.kind = CRN_MEM_HOST, .bytes = mem->bytes};
    *out_fd = mem->fd;
    return 0;
}

/* What the kernel says about the descriptor against what the peer said. */
static int import_check(const struct crn_mem_token *token, int fd, enum crn_mem_access access)
{
    int want = access == CRN_MEM_READ ? SEALS_ARENA : SEALS_ALWAYS;
    struct stat st;
    if (access != CRN_MEM_READ && access != CRN_MEM_WRITE)
        return CAIRN_E_ARG;
    if (fd < 0 || token->kind != CRN_MEM_HOST || token->bytes == 0 || token->bytes > MAX_BYTES)
        return CAIRN_E_CORRUPT;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size != token->bytes)
        return CAIRN_E_CORRUPT;
    int seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && (seals & want) == want ? 0 : CAIRN_E_CORRUPT;
}

static int host_import(const struct crn_mem_token *token, int fd, enum crn_mem_access access,
                       struct crn_mem *out_mem)
{
    void *base = MAP_FAILED;
    int status = import_check(token, fd, access);
    if (status == 0) {
        int protection = access == CRN_MEM_READ ? PROT_READ : PROT_READ | PROT_WRITE;
        base = mmap(NULL, token->bytes, protection, MAP_SHARED, fd, 0);
        status = base == MAP_FAILED ? -errno : 0;
    }
    if (fd >= 0)
        close(fd);
    if (status != 0) {
        crn_log(CRN_LOG_WARN, "memory: import of %llu bytes: %s", (unsigned long long)token->bytes,
                cairn_strerror(status));
        return status;
    }
    *out_mem = (struct crn_mem){.ops = &crn_mem_host,
                                .base = base,
                                .bytes = token->bytes,
                                .fd = -1,
                                .device = -1,
                                .access = (uint32_t)access};
    return 0;
}

static int host_copy(struct crn_mem *dst, uint64_t dst_off, const struct crn_mem *src,
                     uint64_t src_off, uint64_t bytes)
{
    if (!src->ops->cpu_visible)
        return src->ops->copy(dst, dst_off, src, src_off, bytes); /* device memory knows how */
    if (!dst->ops->cpu_visible)
        return CAIRN_E_UNSUPPORTED;
    if (!writable(dst) || !inside(dst, dst_off, bytes) || !inside(src, src_off, bytes))
        return CAIRN_E_ARG;
    memmove((char *)dst->base + dst_off, (const char *)src->base + src_off, bytes);
    return 0;
}

static int host_clear(struct crn_mem *mem, uint64_t off, uint64_t bytes)
{
    if (!writable(mem) || !inside(mem, off, bytes))
        return CAIRN_E_ARG;
    char *from = (char *)mem->base + off;
    int whole_pages = off % page_bytes() == 0 && bytes % page_bytes() == 0;
    if (!whole_pages || madvise(from, bytes, MADV_REMOVE) != 0)
        memset(from, 0, bytes);
    return 0;
}

static int host_fence(struct crn_mem *mem)
{
    (void)mem; /* copies are done when they return */
    return 0;
}

static void host_destroy(struct crn_mem *mem)
{
    if (mem->ops == NULL)
        return;
    munmap(mem->base, mem->bytes);
    if (mem->fd >= 0)
        close(mem->fd);
    *mem = (struct crn_mem){0};
}

const struct crn_mem_ops crn_mem_host = {
    .name = "host",
    .kind = CRN_MEM_HOST,
    .cpu_visible = 1,
    .fd_travels = 1,
    .probe = host_probe,
    .create = host_create,
    .export_token = host_export,
    .import_token = host_import,
    .copy = host_copy,
    .clear = host_clear,
    .fence = host_fence,
    .destroy = host_destroy,
};
