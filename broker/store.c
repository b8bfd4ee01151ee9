/* Files of the NVMe tier.
 *
 * Creating: fallocate first, so that a full disk is a line in the log now and not an error in the middle of a spill; then the
 * superblock, then fsync of the file and of its directory. Opening: lock, superblock, size. A file that is shorter than its
 * superblock says was truncated: it is extended again, and the extents that were cut off fail their checksums one by one.
 * The lock goes when the process is gone, and that is after its last transfer: no write of a killed broker arrives later.
 *
 * What it does not do: it does not wipe or pre-write. The first pass over fresh extents is slower (the file system marks them as
 * written); that is paid once. */
#include "broker/store.h"

#include "broker/crash.h"
#include "broker/spill_format.h"
#include "broker/store_alloc.h"
#include "ipc/hash.h"
#include "ipc/log.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

struct file {
    char path[PATH_MAX];
    int fd;
    int lock_fd; /* held by this process alone: a dying ring may keep `fd` open a little longer */
    struct cairn_digest uuid;
    uint64_t bytes;
    struct crn_store_alloc *alloc;
};

struct crn_store {
    uint32_t n_files, turn;
    struct file files[CRN_SPILL_MAX_FILES];
    struct crn_spill *spill;
};

static uint32_t granules(uint64_t bytes)
{
    return (uint32_t)((bytes + CRN_STORE_GRANULE_BYTES - 1) / CRN_STORE_GRANULE_BYTES);
}

/* ---- one file ---- */

static int failed(const struct file *f, const char *what, int status)
{
    crn_log(CRN_LOG_WARN, "store %s: %s: %s", f->path, what, cairn_strerror(status));
    return status;
}

static int sync_directory(const struct file *f)
{
    char dir[PATH_MAX];
    snprintf(dir, sizeof dir, "%s", f->path);
    int fd = open(dirname(dir), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int status = fsync(fd) == 0 ? 0 : -errno;
    close(fd);
    return status;
}

static int set_path(struct file *f, const char *path)
{
    struct stat st;
    bool dir = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    int n = snprintf(f->path, sizeof f->path, "%s%s", path, dir ? "/spill.cairn" : "");
    return n < 0 || n >= PATH_MAX ? -ENAMETOOLONG : 0;
}

/* Superblocks go through an aligned buffer, because the descriptor may be O_DIRECT. */
static int read_superblock(const struct file *f, struct crn_superblock *out_block)
{
    _Alignas(4096) struct crn_superblock block;
    ssize_t n = pread(f->fd, &block, sizeof block, 0);
    if (n < 0)
        return -errno;
    if (n != (ssize_t)sizeof block)
        return CAIRN_E_FORMAT;
    *out_block = block;
    if (block.magic == 0)
        return CAIRN_E_CORRUPT; /* preallocated, but its creator died before the superblock */
    return crn_superblock_check(out_block);
}

static int write_superblock(struct file *f, uint64_t bytes)
{
    _Alignas(4096) struct crn_superblock block;
    crn_superblock_make(&f->uuid, bytes, &block);
    ssize_t n = pwrite(f->fd, &block, sizeof block, 0);
    if (n != (ssize_t)sizeof block)
        return n < 0 ? -errno : -EIO;
    if (fsync(f->fd) != 0)
        return -errno;
    f->bytes = bytes;
    return sync_directory(f);
}

static int default_bytes(const struct file *f, uint64_t *out_bytes)
{
    struct statvfs v;
    if (fstatvfs(f->fd, &v) != 0)
        return -errno;
    *out_bytes = (uint64_t)v.f_bavail * v.f_frsize / 2;
    return 0;
}

/* A new identity over `bytes` preallocated bytes. */
static int initialise(struct file *f, uint64_t bytes)
{
    int status = bytes == 0 ? default_bytes(f, &bytes) : 0;
    bytes = bytes / CRN_STORE_GRANULE_BYTES * CRN_STORE_GRANULE_BYTES;
    if (status == 0 && (bytes < CRN_STORE_MIN_BYTES || bytes > CRN_STORE_MAX_BYTES))
        status = CAIRN_E_ARG;
    if (status == 0 && getrandom(f->uuid.b, sizeof f->uuid.b, 0) != (ssize_t)sizeof f->uuid.b)
        status = -EIO;
    if (status == 0 && fallocate(f->fd, 0, 0, (off_t)bytes) != 0)
        status = -errno;
    CRN_CRASH("start-preallocated");
    return status == 0 ? write_superblock(f, bytes) : status;
}

/* The superblock is good: is the file as long as it says, and as large as is wanted now? */
static int adopt(struct file *f, const struct crn_superblock *block, uint64_t file_bytes, uint64_t want_bytes)
{
    f->uuid = block->uuid;
    f->bytes = block->size_bytes;
    want_bytes = want_bytes / CRN_STORE_GRANULE_BYTES * CRN_STORE_GRANULE_BYTES;
    if (file_bytes < f->bytes)
        crn_log(CRN_LOG_WARN, "store %s: truncated to %llu of %llu bytes: what was cut off is lost", f->path,
                (unsigned long long)file_bytes, (unsigned long long)f->bytes);
    uint64_t bytes = want_bytes > f->bytes ? want_bytes : f->bytes;
    if (bytes > file_bytes && fallocate(f->fd, 0, 0, (off_t)bytes) != 0)
        return -errno;
    return bytes > f->bytes ? write_superblock(f, bytes) : 0;
}

static int load(struct file *f, uint64_t want_bytes, bool *out_created)
{
    struct stat st;
    struct crn_superblock block;
    if (fstat(f->fd, &st) != 0)
        return failed(f, "stat", -errno);
    if (!S_ISREG(st.st_mode))
        return failed(f, "not a regular file", CAIRN_E_FORMAT);
    *out_created = st.st_size == 0;
    if (*out_created) {
        int status = initialise(f, want_bytes);
        return status == 0 ? 0 : failed(f, "preallocate", status);
    }
    int status = read_superblock(f, &block);
    if (status == 0) {
        status = adopt(f, &block, (uint64_t)st.st_size, want_bytes);
        return status == 0 ? 0 : failed(f, "resize", status);
    }
    if (status != CAIRN_E_CORRUPT && status != CAIRN_E_VERSION)
        return failed(f, "superblock", status);
    crn_log(CRN_LOG_WARN, "store %s: superblock: %s: the file starts anew, what was on it is lost", f->path,
            cairn_strerror(status));
    status = initialise(f, want_bytes != 0 ? want_bytes : (uint64_t)st.st_size);
    return status == 0 ? 0 : failed(f, "preallocate", status);
}

static int open_fd(struct file *f)
{
    int flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
    f->fd = open(f->path, flags | O_DIRECT, 0600);
    if (f->fd < 0 && errno == EINVAL) {
        f->fd = open(f->path, flags, 0600);
        if (f->fd >= 0)
            crn_log(CRN_LOG_INFO, "store %s: no O_DIRECT on this file system", f->path);
    }
    if (f->fd < 0)
        return failed(f, "open", -errno);
    f->lock_fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (f->lock_fd < 0)
        return failed(f, "open", -errno);
    return flock(f->lock_fd, LOCK_EX | LOCK_NB) == 0 ? 0 : failed(f, "in use by another broker", CAIRN_E_BUSY);
}

static int open_file(struct file *f, const struct crn_store_file_config *config)
{
    bool created = false;
    int status = set_path(f, config->path);
    if (status == 0)
        status = open_fd(f);
    if (status != 0)
        return status;
    status = load(f, config->bytes, &created);
    if (status == 0)
        status = crn_store_alloc_create(granules(f->bytes), &f->alloc);
    if (status == 0)
        return crn_store_alloc_reserve(f->alloc, 0, 1);
    if (created)
        unlink(f->path); /* ours, and useless: give the space back */
    return status;
}

/* ---- the set ---- */

static int start_engine(struct crn_store *st, const struct crn_store_config *config)
{
    struct crn_spill_config spill = {
        .n_files = st->n_files, .engine = config->engine, .depth = config->depth, .faults = config->faults};
    for (uint32_t i = 0; i < st->n_files; i++) {
        spill.fds[i] = st->files[i].fd;
        spill.names[i] = st->files[i].path;
    }
    int status = crn_spill_open(&spill, &st->spill);
    if (status != 0)
        crn_log(CRN_LOG_WARN, "store: engine: %s", cairn_strerror(status));
    return status;
}

int crn_store_open(const struct crn_store_config *config, struct crn_store **out_store)
{
    if (config->n_files == 0 || config->n_files > CRN_SPILL_MAX_FILES)
        return CAIRN_E_ARG;
    struct crn_store *st = calloc(1, sizeof *st);
    if (st == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < CRN_SPILL_MAX_FILES; i++)
        st->files[i].fd = st->files[i].lock_fd = -1;
    int status = 0;
    for (; st->n_files < config->n_files && status == 0; st->n_files++)
        status = open_file(&st->files[st->n_files], &config->files[st->n_files]);
    if (status == 0)
        status = start_engine(st, config);
    if (status != 0) {
        crn_store_close(st);
        return status;
    }
    *out_store = st;
    return 0;
}

void crn_store_close(struct crn_store *st)
{
    if (st == NULL)
        return;
    crn_spill_close(st->spill);
    for (uint32_t i = 0; i < st->n_files; i++) {
        crn_store_alloc_destroy(st->files[i].alloc);
        if (st->files[i].fd >= 0)
            close(st->files[i].fd);
        if (st->files[i].lock_fd >= 0)
            close(st->files[i].lock_fd);
    }
    free(st);
}

struct crn_spill *crn_store_spill(struct crn_store *st)
{
    return st->spill;
}

int crn_store_take(struct crn_store *st, uint64_t bytes, struct crn_place *out_place)
{
    if (bytes == 0 || bytes > CRN_STORE_MAX_BYTES)
        return CAIRN_E_ARG;
    for (uint32_t i = 0; i < st->n_files; i++) {
        uint32_t first, file = (st->turn + i) % st->n_files;
        if (crn_store_alloc_take(st->files[file].alloc, granules(bytes), &first) != 0)
            continue;
        st->turn = file + 1;
        *out_place = (struct crn_place){
            .file = file, .off = (uint64_t)first * CRN_STORE_GRANULE_BYTES, .bytes = bytes};
        return 0;
    }
    return CAIRN_E_FULL;
}

/* The place as granules; false when it cannot be one of this store. */
static bool to_granules(const struct crn_store *st, const struct crn_place *p, uint32_t *out_first, uint32_t *out_n)
{
    if (p->file >= st->n_files || p->bytes == 0 || p->off % CRN_STORE_GRANULE_BYTES != 0)
        return false;
    uint64_t size = st->files[p->file].bytes;
    if (p->off >= size || p->bytes > size - p->off)
        return false;
    *out_first = (uint32_t)(p->off / CRN_STORE_GRANULE_BYTES);
    *out_n = granules(p->bytes);
    return true;
}

int crn_store_reserve(struct crn_store *st, const struct crn_place *place)
{
    uint32_t first, n;
    if (!to_granules(st, place, &first, &n))
        return CAIRN_E_CORRUPT;
    return crn_store_alloc_reserve(st->files[place->file].alloc, first, n) == 0 ? 0 : CAIRN_E_CORRUPT;
}

int crn_store_free(struct crn_store *st, const struct crn_place *place)
{
    uint32_t first, n;
    if (!to_granules(st, place, &first, &n))
        return CAIRN_E_STALE;
    return crn_store_alloc_free(st->files[place->file].alloc, first, n);
}

int crn_store_check(const struct crn_store *st, const struct crn_place *place, uint64_t bytes, uint64_t checksum)
{
    void *mem;
    uint64_t want = crn_spill_whole(place->bytes), got = 0;
    if (posix_memalign(&mem, CRN_SPILL_ALIGN, want) != 0)
        return -ENOMEM;
    int status = 0;
    while (got < want && status == 0) {
        ssize_t n = pread(st->files[place->file].fd, (char *)mem + got, want - got, (off_t)(place->off + got));
        if (n < 0 && errno != EINTR)
            status = -errno;
        else if (n == 0)
            status = -ENODATA;
        else
            got += n > 0 ? (uint64_t)n : 0;
    }
    if (status == 0 && crn_hash64(mem, bytes) != checksum)
        status = CAIRN_E_CORRUPT;
    if (status != 0)
        failed(&st->files[place->file], "check", status);
    free(mem);
    return status;
}

uint32_t crn_store_files(const struct crn_store *st)
{
    return st->n_files;
}

const char *crn_store_path(const struct crn_store *st, uint32_t file)
{
    return st->files[file].path;
}

struct cairn_digest crn_store_uuid(const struct crn_store *st, uint32_t file)
{
    return st->files[file].uuid;
}

int crn_store_find(const struct crn_store *st, const struct cairn_digest *uuid)
{
    for (uint32_t i = 0; i < st->n_files; i++) {
        if (memcmp(&st->files[i].uuid, uuid, sizeof *uuid) == 0)
            return (int)i;
    }
    return CAIRN_E_MISS;
}

uint64_t crn_store_limit_bytes(const struct crn_store *st)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < st->n_files; i++)
        bytes += st->files[i].bytes - CRN_STORE_GRANULE_BYTES;
    return bytes;
}

uint64_t crn_store_used_bytes(const struct crn_store *st)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < st->n_files; i++)
        n += crn_store_alloc_used(st->files[i].alloc) - 1u;
    return n * CRN_STORE_GRANULE_BYTES;
}
