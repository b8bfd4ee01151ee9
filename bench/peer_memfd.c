/* The least that two processes can do: one memfd, mapped and pre-faulted by both and used again in
 * every round. The writer copies in, the reader copies out. No protection, no catalog, no second
 * reader's rights. */
#include "bench/common.h"
#include "bench/peers.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct {
    int fd;
    char *at; /* of this process */
    uint32_t n_layers;
    uint64_t layer_bytes;
} segment;

static void map_here(void)
{
    if (segment.at != NULL)
        return;
    void *at = mmap(NULL, segment.n_layers * segment.layer_bytes, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_POPULATE, segment.fd, 0);
    bench_must(at == MAP_FAILED ? -errno : 0, "memfd: map");
    segment.at = at;
}

static int setup(const char *dir, uint32_t n_layers, uint64_t layer_bytes)
{
    (void)dir;
    segment.n_layers = n_layers;
    segment.layer_bytes = layer_bytes;
    segment.fd = memfd_create("cairn-bench", MFD_CLOEXEC);
    return segment.fd >= 0 && ftruncate(segment.fd, (off_t)(n_layers * layer_bytes)) == 0 ? 0
                                                                                          : -errno;
}

static void teardown(void)
{
    if (segment.at != NULL)
        munmap(segment.at, segment.n_layers * segment.layer_bytes);
    close(segment.fd);
}

static void put(uint32_t layer, const void *kv)
{
    map_here();
    memcpy(segment.at + layer * segment.layer_bytes, kv, segment.layer_bytes);
}

static void get(void *to)
{
    map_here();
    memcpy(to, segment.at, segment.n_layers * segment.layer_bytes);
}

const struct bench_store_ops bench_store_memfd = {"memfd, copied in and out", setup, put, get,
                                                  teardown};
