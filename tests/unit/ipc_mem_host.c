/* ipc/mem_host: an importer can read and nothing else, whatever it tries; and it believes the
 * kernel, not the token. */
#include "ipc/mem.h"

#include "ipc/log.h"
#include "tests/support/child.h"
#include "tests/support/run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BYTES = 64 * 4096 };

static const struct crn_mem_ops *const host = &crn_mem_host;

static struct crn_mem segment(enum crn_mem_role role)
{
    struct crn_mem mem;
    ck_assert_int_eq(host->create(BYTES, -1, role, &mem), 0);
    return mem;
}

/* Token and a descriptor of its own, as an importer gets them. */
static int exported(const struct crn_mem *mem, struct crn_mem_token *out_token)
{
    int fd;
    ck_assert_int_eq(host->export_token(mem, out_token, &fd), 0);
    fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    return fd;
}

static struct crn_mem imported(const struct crn_mem *mem, enum crn_mem_access access)
{
    struct crn_mem_token token;
    struct crn_mem other;
    int fd = exported(mem, &token);
    ck_assert_int_eq(host->import_token(&token, fd, access, &other), 0);
    return other;
}

START_TEST(a_segment_is_zero_and_rounded_to_pages)
{
    struct crn_mem mem;
    ck_assert_int_eq(host->create(4097, -1, CRN_MEM_ARENA, &mem), 0);
    ck_assert_uint_eq(mem.bytes, 8192);
    static const char zeroes[8192];
    ck_assert_mem_eq(mem.base, zeroes, 8192);
    ck_assert_int_eq(fcntl(mem.fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    host->destroy(&mem);
    host->destroy(&mem); /* legal on none */
    ck_assert_int_eq(host->create(0, -1, CRN_MEM_ARENA, &mem), CAIRN_E_ARG);
    ck_assert_int_eq(host->create(UINT64_MAX, -1, CRN_MEM_ARENA, &mem), CAIRN_E_TOO_BIG);
    ck_assert_int_eq(host->create(4096, -1, (enum crn_mem_role)9, &mem), CAIRN_E_ARG);
}
END_TEST

START_TEST(what_the_creator_writes_an_importer_reads)
{
    struct crn_mem mem = segment(CRN_MEM_ARENA), reader = imported(&mem, CRN_MEM_READ);
    memcpy((char *)mem.base + 5000, "stone", 6);
    ck_assert_str_eq((char *)reader.base + 5000, "stone");
    ck_assert_uint_eq(reader.bytes, mem.bytes);
    ck_assert_uint_eq(reader.owner, 0);
    ck_assert_int_eq(reader.fd, -1);
    host->destroy(&mem);
    ck_assert_str_eq((char *)reader.base + 5000, "stone"); /* a mapping outlives its creator's */
    host->destroy(&reader);
}
END_TEST

START_TEST(an_importer_of_an_arena_cannot_write_by_any_means)
{
    struct crn_mem mem = segment(CRN_MEM_ARENA), reader = imported(&mem, CRN_MEM_READ);
    struct crn_mem_token token;
    char path[64];
    int fd = exported(&mem, &token);
    errno = 0;
    ck_assert_int_eq(mprotect(reader.base, 4096, PROT_READ | PROT_WRITE), -1);
    ck_assert_int_eq(errno, EACCES);
    ck_assert_ptr_eq(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(pwrite(fd, "x", 1, 0), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(ftruncate(fd, 0), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(ftruncate(fd, 2 * BYTES), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
    ck_assert_int_eq(errno, EPERM);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, O_RDWR | O_CLOEXEC);
    if (again >= 0)
        ck_assert_ptr_eq(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, again, 0), MAP_FAILED);
    *(volatile char *)mem.base = 'w'; /* the creator still can */
    ck_assert_int_eq(*(char *)reader.base, 'w');
}
END_TEST

static int write_to(void *ctx)
{
    struct crn_mem *reader = ctx;
    sigaction(SIGSEGV, &(struct sigaction){.sa_handler = SIG_DFL},
              NULL); /* no sanitizer's report */
    *(volatile char *)reader->base = 'x';
    return 0;
}

START_TEST(a_store_through_an_imported_arena_faults)
{
    struct crn_mem mem = segment(CRN_MEM_ARENA), reader = imported(&mem, CRN_MEM_READ);
    ck_assert_int_eq(child_end(child_start(write_to, &reader)), 128 + SIGSEGV);
    ck_assert_int_eq(*(char *)mem.base, 0);
}
END_TEST

START_TEST(a_worker_writes_its_landing_zone_and_cannot_shrink_it)
{
    struct crn_mem mem = segment(CRN_MEM_LANDING), writer = imported(&mem, CRN_MEM_WRITE);
    struct crn_mem_token token;
    int fd = exported(&mem, &token);
    memcpy(writer.base, "layer", 6);
    ck_assert_str_eq(mem.base, "layer");
    ck_assert_int_eq(ftruncate(fd, 0), -1);
    ck_assert_int_eq(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
}
END_TEST

START_TEST(a_wrong_size_is_refused)
{
    struct crn_mem mem = segment(CRN_MEM_ARENA), other = {0};
    struct crn_mem_token token;
    static const uint64_t lies[] = {0, 1, BYTES - 1, BYTES + 1, 2 * BYTES, UINT64_MAX};
    int before = count_fds();
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        int fd = exported(&mem, &token);
        token.bytes = lies[i];
        ck_assert_int_eq(host->import_token(&token, fd, CRN_MEM_READ, &other), CAIRN_E_CORRUPT);
        ck_assert_int_eq(count_fds(), before); /* the descriptor was taken over */
    }
    ck_assert_ptr_null(other.ops);
}
END_TEST

START_TEST(a_segment_that_could_shrink_or_change_is_refused)
{
    struct crn_mem mem = segment(CRN_MEM_LANDING), other;
    struct crn_mem_token token;
    int before = count_fds();
    int fd = exported(&mem, &token);
    ck_assert_int_eq(host->import_token(&token, fd, CRN_MEM_READ, &other), CAIRN_E_CORRUPT);

    fd = memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ck_assert_int_eq(ftruncate(fd, BYTES), 0);
    ck_assert_int_eq(host->import_token(&token, fd, CRN_MEM_WRITE, &other), CAIRN_E_CORRUPT);
    ck_assert_int_eq(count_fds(), before);
}
END_TEST

START_TEST(other_descriptors_and_kinds_are_refused)
{
    struct crn_mem mem = segment(CRN_MEM_ARENA), other;
    struct crn_mem_token token;
    int before = count_fds(), ends[2];
    ck_assert_int_eq(pipe(ends), 0);
    close(ends[1]);
    int fd = exported(&mem, &token);
    ck_assert_int_eq(host->import_token(&token, ends[0], CRN_MEM_READ, &other), CAIRN_E_CORRUPT);
    ck_assert_int_eq(host->import_token(&token, -1, CRN_MEM_READ, &other), CAIRN_E_CORRUPT);
    token.kind = CRN_MEM_CUDA_IPC;
    ck_assert_int_eq(host->import_token(&token, fd, CRN_MEM_READ, &other), CAIRN_E_CORRUPT);
    fd = exported(&mem, &token);
    ck_assert_int_eq(host->import_token(&token, fd, (enum crn_mem_access)0, &other), CAIRN_E_ARG);
    fd = exported(&mem, &token);
    ck_assert_int_lt(host->import_token(&token, fd, CRN_MEM_WRITE, &other), 0); /* sealed */
    ck_assert_int_eq(count_fds(), before);
}
END_TEST

START_TEST(copies_stay_inside_and_never_go_to_a_reader)
{
    struct crn_mem a = segment(CRN_MEM_LANDING), b = segment(CRN_MEM_ARENA);
    struct crn_mem reader = imported(&b, CRN_MEM_READ);
    memcpy((char *)a.base + BYTES - 6, "stone", 6);
    ck_assert_int_eq(host->copy(&b, 0, &a, BYTES - 6, 6), 0);
    ck_assert_str_eq(b.base, "stone");
    ck_assert_int_eq(host->copy(&b, 0, &a, BYTES - 6, 7), CAIRN_E_ARG);
    ck_assert_int_eq(host->copy(&b, BYTES - 5, &a, 0, 6), CAIRN_E_ARG);
    ck_assert_int_eq(host->copy(&b, 1, &a, 0, UINT64_MAX), CAIRN_E_ARG);
    ck_assert_int_eq(host->copy(&b, UINT64_MAX, &a, 0, 1), CAIRN_E_ARG);
    ck_assert_int_eq(host->copy(&reader, 0, &a, 0, 1), CAIRN_E_ARG);
    ck_assert_int_eq(host->clear(&reader, 0, 4096), CAIRN_E_ARG);
    ck_assert_int_eq(host->fence(&b), 0);
}
END_TEST

static long blocks(const struct crn_mem *mem)
{
    struct stat st;
    ck_assert_int_eq(fstat(mem->fd, &st), 0);
    return (long)st.st_blocks;
}

START_TEST(clearing_zeroes_exactly_the_range)
{
    struct crn_mem mem = segment(_i == 0 ? CRN_MEM_ARENA : CRN_MEM_LANDING);
    char *p = mem.base;
    memset(p, 'x', BYTES);
    long full = blocks(&mem);
    ck_assert_int_eq(host->clear(&mem, 4096, 8192), 0);
    ck_assert_int_eq(host->clear(&mem, 20000, 100), 0);
    if (_i == 1)
        ck_assert_int_lt(blocks(&mem), full); /* a landing zone's pages went back to the system */
    for (size_t i = 0; i < BYTES; i++) {
        int cleared = (i >= 4096 && i < 12288) || (i >= 20000 && i < 20100);
        if (p[i] != (cleared ? 0 : 'x'))
            ck_abort_msg("byte %zu is %d", i, p[i]);
    }
    ck_assert_int_eq(host->clear(&mem, BYTES - 10, 11), CAIRN_E_ARG);
}
END_TEST

START_TEST(backends_are_found_by_kind_and_name)
{
    char why[64] = "";
    ck_assert_ptr_eq(crn_mem_ops_of(CRN_MEM_HOST), host);
    ck_assert_ptr_eq(crn_mem_ops_named("host"), host);
    ck_assert_ptr_null(crn_mem_ops_of(77));
    ck_assert_ptr_null(crn_mem_ops_named("punched-cards"));
    ck_assert_int_eq(host->probe(why, sizeof why), 1);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(a_segment_is_zero_and_rounded_to_pages),
        RUN_TEST(what_the_creator_writes_an_importer_reads),
        RUN_TEST(an_importer_of_an_arena_cannot_write_by_any_means),
        RUN_TEST(a_store_through_an_imported_arena_faults),
        RUN_TEST(a_worker_writes_its_landing_zone_and_cannot_shrink_it),
        RUN_TEST(a_wrong_size_is_refused),
        RUN_TEST(a_segment_that_could_shrink_or_change_is_refused),
        RUN_TEST(other_descriptors_and_kinds_are_refused),
        RUN_TEST(copies_stay_inside_and_never_go_to_a_reader),
        RUN_LOOP(clearing_zeroes_exactly_the_range, 2),
        RUN_TEST(backends_are_found_by_kind_and_name),
    };
    crn_log_setup("ipc_mem_host", CRN_LOG_ERROR); /* refusals are expected */
    return run_suite("ipc_mem_host", tests, sizeof tests / sizeof *tests);
}
