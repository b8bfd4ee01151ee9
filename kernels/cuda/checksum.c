/* XXH3 of 64 bits over device memory: the numbers of the algorithm, its beginning and its end (checksum.cu has the middle).
 *
 *     whole blocks, in rounds that fit the workspace: sums of all blocks, then the chain through them
 *     what is left (at most 1024 bytes, at least the last stripe): on the host, with the accumulators
 *
 * Inputs of at most 240 bytes are hashed in other ways by XXH3; they are fetched and hashed whole. */
#include "kernels/cuda/internal.h"

#include "ipc/hash.h"

#include <stdint.h>
#include <string.h>

enum { SHORT = 240, STRIPE = 64, BLOCK = 1024, LANES = 8 };

#define PRIME32_1 UINT64_C(0x9E3779B1)
#define PRIME32_2 UINT64_C(0x85EBCA77)
#define PRIME32_3 UINT64_C(0xC2B2AE3D)
#define PRIME64_1 UINT64_C(0x9E3779B185EBCA87)
#define PRIME64_2 UINT64_C(0xC2B2AE3D27D4EB4F)
#define PRIME64_3 UINT64_C(0x165667B19E3779F9)
#define PRIME64_4 UINT64_C(0x85EBCA77C2B2AE63)
#define PRIME64_5 UINT64_C(0x27D4EB2F165667C5)

/* XXH3's default secret as little-endian words, and the same from byte 121 and from byte 11 on. */
static const struct crn_cuda_xxh3 secret = { {
    0xbe4ba423396cfeb8u, 0x1cad21f72c81017cu, 0xdb979083e96dd4deu, 0x1f67b3b7a4a44072u,
    0x78e5c0cc4ee679cbu, 0x2172ffcc7dd05a82u, 0x8e2443f7744608b8u, 0x4c263a81e69035e0u,
    0xcb00c391bb52283cu, 0xa32e531b8b65d088u, 0x4ef90da297486471u, 0xd8acdea946ef1938u,
    0x3f349ce33f76faa8u, 0x1d4f0bc7c7bbdcf9u, 0x3159b4cd4be0518au, 0x647378d9c97e9fc8u,
    0xc3ebd33483acc5eau, 0xeb6313faffa081c5u, 0x49daf0b751dd0d17u, 0x9e68d429265516d3u,
    0xfca1477d58be162bu, 0xce31d07ad1b8f88fu, 0x280416958f3acb45u, 0x7e404bbbcafbd7afu
} };
static const uint64_t secret_last[LANES] = {
    0xea647378d9c97e9fu, 0xc5c3ebd33483acc5u, 0x17eb6313faffa081u, 0xd349daf0b751dd0du,
    0x2b9e68d429265516u, 0x8ffca1477d58be16u, 0x45ce31d07ad1b8f8u, 0xaf280416958f3acbu
};
static const uint64_t secret_merge[LANES] = {
    0x6dd4de1cad21f72cu, 0xa44072db979083e9u, 0xe679cb1f67b3b7a4u, 0xd05a8278e5c0cc4eu,
    0x4608b82172ffcc7du, 0x9035e08e2443f774u, 0x52283c4c263a81e6u, 0x65d088cb00c391bbu
};

static void add_stripe(uint64_t acc[LANES], const uint8_t *bytes, const uint64_t *keys)
{
    uint64_t data[LANES];
    memcpy(data, bytes, sizeof data);
    for (unsigned i = 0; i < LANES; i++) {
        uint64_t mixed = data[i] ^ keys[i];
        acc[i ^ 1u] += data[i];
        acc[i] += (mixed & 0xffffffffu) * (mixed >> 32);
    }
}

static uint64_t folded(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* rest [n_rest]: the bytes behind the whole blocks, with the last stripe's beginning before them when they are shorter. */
static uint64_t finish(uint64_t acc[LANES], const uint8_t *rest, size_t n_rest, const uint8_t *last, size_t bytes)
{
    for (size_t s = 0; s < (n_rest - 1) / STRIPE; s++)
        add_stripe(acc, rest + s * STRIPE, secret.word + s);
    add_stripe(acc, last, secret_last);
    uint64_t hash = (uint64_t)bytes * PRIME64_1;
    for (unsigned i = 0; i < LANES; i += 2)
        hash += folded(acc[i] ^ secret_merge[i], acc[i + 1] ^ secret_merge[i + 1]);
    hash ^= hash >> 37;
    hash *= UINT64_C(0x165667919E3779F9);
    return hash ^ hash >> 32;
}

static int fetch(const struct crn_exec *e, void *host, const void *device, size_t bytes)
{
    int status = crn_cuda_download(e, host, device, bytes);
    return status != 0 ? status : crn_cuda_exec_sync(e);
}

/* The accumulators after all whole blocks. Workspace: the accumulators, then sums. */
static int whole_blocks(const struct crn_exec *e, struct crn_cuda_exec *x, const uint64_t *data, size_t n, uint64_t acc[LANES])
{
    uint64_t *there = e->workspace, *sums = there + LANES;
    size_t round = e->workspace_bytes / STRIPE - 1;
    int status = crn_cuda_upload(e, there, acc, LANES * sizeof *acc);
    for (size_t done = 0; done < n && status == 0; done += round) {
        size_t m = n - done < round ? n - done : round;
        status = crn_cuda_status(crn_cuda_xxh3_sums(x->stream, data + done * (BLOCK / 8), m, &secret, sums), "checksum");
        if (status == 0)
            status = crn_cuda_status(crn_cuda_xxh3_chain(x->stream, sums, m, &secret, there), "checksum");
    }
    return status != 0 ? status : fetch(e, acc, there, LANES * sizeof *acc);
}

int crn_cuda_checksum(const struct crn_exec *e, const void *data, size_t bytes, uint64_t *out_hash)
{
    uint64_t acc[LANES] = { PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1 };
    uint8_t rest[STRIPE + BLOCK];
    struct crn_cuda_exec *x;
    int status = crn_cuda_enter(e, &x);
    if (status != 0)
        return status;
    if ((uintptr_t)data % sizeof(uint64_t) != 0 || e->workspace_bytes < 2 * STRIPE)
        return CAIRN_E_ARG;
    if (bytes <= SHORT) {
        status = bytes > 0 ? fetch(e, rest, data, bytes) : 0;
        if (status == 0)
            *out_hash = crn_hash64(rest, bytes);
        return status;
    }
    size_t n = (bytes - 1) / BLOCK, n_rest = bytes - n * BLOCK, from = n > 0 ? n * BLOCK - STRIPE : 0;
    status = whole_blocks(e, x, data, n, acc);
    if (status == 0)
        status = fetch(e, rest, (const char *)data + from, bytes - from);
    if (status == 0)
        *out_hash = finish(acc, rest + (n * BLOCK - from), n_rest, rest + (bytes - from) - STRIPE, bytes);
    return status;
}

int crn_cuda_largest(const struct crn_exec *e, const float *x_, size_t n, float *out_max)
{
    struct crn_cuda_exec *x;
    float max = 0;
    int status = crn_cuda_enter(e, &x);
    float *partial = status == 0 ? e->workspace : NULL;
    if (status == 0 && e->workspace_bytes < (CRN_CUDA_MAX_PARTS + 1) * sizeof *partial)
        status = CAIRN_E_ARG;
    if (status == 0 && n > 0)
        status = crn_cuda_status(crn_cuda_max_abs(x->stream, x_, n, partial, partial + CRN_CUDA_MAX_PARTS), "max_abs");
    if (status == 0 && n > 0)
        status = fetch(e, &max, partial + CRN_CUDA_MAX_PARTS, sizeof max);
    if (status == 0)
        *out_max = max;
    return status;
}
