/* ipc/mem_cuda_vmm, ipc/mem_cuda_ipc when calls fail: whatever call it is, the status says so, nothing is left behind (mappings,
 * reservations, handles, descriptors, bytes), and the next attempt works. A lost device ends every use and no process. */
#include "ipc/mem.h"

#include "ipc/cuda_driver.h"
#include "ipc/log.h"
#include "kernels/cuda/exec.h"
#include "tests/cuda_emu/emu.h"
#include "tests/support/child.h"
#include "tests/support/run.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BYTES = 2 << 20, OUT_OF_MEMORY = 2, ILLEGAL_ADDRESS = 700 };

static const struct crn_mem_ops *kind_of(int loop)
{
    return loop == 0 ? &crn_mem_cuda_vmm : &crn_mem_cuda_ipc;
}

/* What is open now: compared before and after. The stream for moves is made once and stays. */
struct books {
    struct emu_stats stats;
    int fds;
};

static struct books books(void)
{
    struct books b;
    emu_stats_get(&b.stats);
    b.fds = count_fds();
    return b;
}

static void balanced(const struct books *before, const char *after_what)
{
    struct books now = books();
    ck_assert_msg(now.stats.bytes == before->stats.bytes, "%s: bytes leaked", after_what);
    ck_assert_msg(now.stats.mappings == before->stats.mappings, "%s: mappings leaked", after_what);
    ck_assert_msg(now.stats.reservations == before->stats.reservations, "%s: reservations leaked", after_what);
    ck_assert_msg(now.stats.handles == before->stats.handles, "%s: handles leaked", after_what);
    ck_assert_msg(now.stats.imports == before->stats.imports, "%s: imports leaked", after_what);
    ck_assert_msg(now.stats.pending == 0, "%s: work is left", after_what);
    ck_assert_msg(now.fds == before->fds, "%s: %d descriptors, then %d", after_what, before->fds, now.fds);
}

static void warm_up(const struct crn_mem_ops *ops)
{
    struct crn_mem m;
    ck_assert_int_eq(ops->create(BYTES, 0, CRN_MEM_ARENA, &m), 0);
    ops->destroy(&m);
}

static const struct {
    int kind;
    const char *call;
} creating[] = {
    { 0, "cudaSetDevice" },  { 0, "cuMemGetAllocationGranularity" }, { 0, "cuMemCreate" },
    { 0, "cuMemAddressReserve" }, { 0, "cuMemMap" }, { 0, "cuMemSetAccess" },
    { 0, "cuMemExportToShareableHandle" }, { 0, "cudaMemsetAsync" }, { 0, "cudaStreamSynchronize" },
    { 1, "cudaSetDevice" },  { 1, "cudaMalloc" },                    { 1, "cudaMemsetAsync" },
    { 1, "cudaStreamSynchronize" },
};
enum { N_CREATING = sizeof creating / sizeof *creating };

START_TEST(creating_fails_cleanly_at_every_call)
{
    const struct crn_mem_ops *ops = kind_of(creating[_i].kind);
    struct crn_mem m = { 0 };
    warm_up(ops);
    struct books before = books();
    emu_fail(creating[_i].call, 1, OUT_OF_MEMORY);
    ck_assert_int_eq(ops->create(BYTES, 0, CRN_MEM_ARENA, &m), -ENOMEM);
    ck_assert_ptr_null(m.ops);
    balanced(&before, creating[_i].call);
    ck_assert_int_eq(ops->create(BYTES, 0, CRN_MEM_ARENA, &m), 0);
    ops->destroy(&m);
    balanced(&before, "destroy");
}
END_TEST

/* Importing a vmm segment works in the process that made it; a cuda-ipc handle needs another. */
static const char *const importing[] = { "cuDeviceGetUuid", "cuMemGetAllocationGranularity",
                                         "cuMemImportFromShareableHandle", "cuMemAddressReserve", "cuMemMap",
                                         "cuMemSetAccess" };
enum { N_IMPORTING = sizeof importing / sizeof *importing };

START_TEST(importing_fails_cleanly_at_every_call)
{
    const struct crn_mem_ops *ops = &crn_mem_cuda_vmm;
    struct crn_mem m, reader = { 0 };
    struct crn_mem_token token;
    int fd;
    ck_assert_int_eq(ops->create(BYTES, 0, CRN_MEM_ARENA, &m), 0);
    ck_assert_int_eq(ops->export_token(&m, &token, &fd), 0);
    struct books before = books();
    emu_fail(importing[_i], 1, OUT_OF_MEMORY);
    ck_assert_int_eq(ops->import_token(&token, fcntl(fd, F_DUPFD_CLOEXEC, 0), CRN_MEM_READ, &reader), -ENOMEM);
    ck_assert_ptr_null(reader.ops);
    balanced(&before, importing[_i]);
    ck_assert_int_eq(ops->import_token(&token, fcntl(fd, F_DUPFD_CLOEXEC, 0), CRN_MEM_READ, &reader), 0);
    ck_assert_ptr_ne(reader.base, m.base);
    ops->destroy(&reader);
    balanced(&before, "destroy");
    ops->destroy(&m);
}
END_TEST

START_TEST(a_full_device_refuses_and_recovers)
{
    setenv("CRN_CUDA_EMU_MEMORY", "8388608", 1);
    const struct crn_mem_ops *ops = kind_of(_i);
    struct crn_mem m[4], more = { 0 };
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(ops->create(BYTES, 0, CRN_MEM_ARENA, &m[i]), 0);
    struct books before = books();
    ck_assert_int_eq(ops->create(1, 0, CRN_MEM_ARENA, &more), -ENOMEM);
    balanced(&before, "a refusal");
    ops->destroy(&m[2]);
    ck_assert_int_eq(ops->create(1, 0, CRN_MEM_ARENA, &more), 0);
}
END_TEST

START_TEST(a_lost_device_is_told_and_ends_nothing_else)
{
    const struct crn_mem_ops *ops = kind_of(_i);
    struct crn_mem m, host, other;
    struct crn_mem_token token;
    int fd;
    ck_assert_int_eq(ops->create(BYTES, 0, CRN_MEM_ARENA, &m), 0);
    ck_assert_int_eq(crn_mem_host.create(4096, -1, CRN_MEM_LANDING, &host), 0);
    emu_fail("cudaMemcpyAsync", 1, ILLEGAL_ADDRESS);
    ck_assert_int_eq(ops->copy(&m, 0, &host, 0, 4096), CAIRN_E_DEVICE_LOST);
    ck_assert_int_eq(ops->copy(&m, 0, &host, 0, 4096), CAIRN_E_DEVICE_LOST);
    ck_assert_int_eq(ops->clear(&m, 0, 4096), CAIRN_E_DEVICE_LOST);
    ck_assert_int_eq(ops->fence(&m), CAIRN_E_DEVICE_LOST);
    ck_assert_int_eq(ops->export_token(&m, &token, &fd), CAIRN_E_DEVICE_LOST);
    ck_assert_int_eq(ops->create(BYTES, 0, CRN_MEM_ARENA, &other), CAIRN_E_DEVICE_LOST);
    int fds = count_fds();
    ops->destroy(&m);
    ck_assert_ptr_null(m.ops);
    ck_assert_int_eq(count_fds(), fds - (int)ops->fd_travels); /* the descriptor goes, device or not */
    ck_assert_int_eq(crn_mem_host.clear(&host, 0, 4096), 0);
}
END_TEST

START_TEST(without_driver_or_device_the_reason_is_given)
{
    setenv("CRN_CUDA_EMU_DEVICES", _i / 2 == 0 ? "0" : "-1", 1);
    const struct crn_mem_ops *ops = kind_of(_i % 2);
    struct crn_mem m;
    char why[128] = "";
    ck_assert_int_eq(ops->probe(why, sizeof why), 0);
    ck_assert_str_eq(why, _i / 2 == 0 ? "no CUDA device" : "no CUDA driver, or one older than the toolkit");
    ck_assert_int_eq(ops->create(BYTES, 0, CRN_MEM_ARENA, &m), CAIRN_E_NO_DEVICE);
    ck_assert_int_eq(crn_kernels_cuda.probe(why, sizeof why), 0);
}
END_TEST

START_TEST(copies_need_a_fence)
{
    const struct crn_mem_ops *ops = kind_of(_i);
    struct crn_mem m, host;
    ck_assert_int_eq(ops->create(BYTES, 0, CRN_MEM_ARENA, &m), 0);
    ck_assert_int_eq(crn_mem_host.create(4096, -1, CRN_MEM_LANDING, &host), 0);
    memset(host.base, 'x', 4096);
    ck_assert_int_eq(crn_mem_host.copy(&host, 0, &m, 0, 4096), 0);
    ck_assert_int_eq(((char *)host.base)[7], 'x');
    ck_assert_int_eq(ops->fence(&m), 0);
    ck_assert_int_eq(((char *)host.base)[7], 0);
}
END_TEST

/* --- execs --- */

static const char *const opening[] = { "cudaStreamCreateWithFlags", "cudaMalloc", "cudaMallocHost", "cudaMemsetAsync",
                                       "cudaStreamSynchronize" };
enum { N_OPENING = sizeof opening / sizeof *opening };

START_TEST(an_exec_opens_whole_or_not_at_all)
{
    struct crn_exec e = { 0 };
    emu_fail(opening[_i], 1, OUT_OF_MEMORY);
    struct books before = books();
    ck_assert_int_eq(crn_cuda_exec_open(0, CRN_CUDA_WORKSPACE_MIN, &e), -ENOMEM);
    ck_assert_ptr_null(e.stream);
    balanced(&before, opening[_i]);
    struct books after = books();
    ck_assert_uint_eq(after.stats.streams, before.stats.streams);
    ck_assert_uint_eq(after.stats.blas, before.stats.blas);
    ck_assert_uint_eq(after.stats.pinned, before.stats.pinned);
    ck_assert_int_eq(crn_cuda_exec_open(0, CRN_CUDA_WORKSPACE_MIN, &e), 0);
    crn_cuda_exec_close(&e);
    crn_cuda_exec_close(&e);
    balanced(&before, "close");
    ck_assert_int_eq(crn_cuda_exec_open(0, CRN_CUDA_WORKSPACE_MIN - 1, &e), CAIRN_E_ARG);
}
END_TEST

START_TEST(failing_launches_and_products_are_told)
{
    struct crn_exec e;
    float *x;
    ck_assert_int_eq(crn_cuda_exec_open(0, CRN_CUDA_WORKSPACE_MIN, &e), 0);
    ck_assert_int_eq(crn_cuda_alloc(&e, 4096, (void **)&x), 0);
    struct crn_matrix w = { x, CRN_W_F32, 8, 8 };
    emu_fail("launch", 1, 9); /* invalid configuration */
    ck_assert_int_eq(crn_kernels_cuda.add(&e, x, 64, x + 64), CAIRN_E_ARG);
    ck_assert_int_eq(crn_kernels_cuda.add(&e, x, 64, x + 64), 0);
    emu_fail("cublasGemmStridedBatchedEx", 1, 14);
    ck_assert_int_eq(crn_kernels_cuda.gemm(&e, x, 2, &w, 0, x + 128), -EIO);
    ck_assert_int_eq(crn_kernels_cuda.gemm(&e, x, 2, &w, 0, x + 128), 0);
    emu_fail("launch", 1, ILLEGAL_ADDRESS);
    ck_assert_int_eq(crn_kernels_cuda.add(&e, x, 64, x + 64), CAIRN_E_DEVICE_LOST);
    ck_assert_int_eq(crn_cuda_exec_sync(&e), CAIRN_E_DEVICE_LOST);
    ck_assert_int_eq(crn_kernels_cuda.gemm(&e, x, 2, &w, 0, x + 128), CAIRN_E_DEVICE_LOST);
    crn_cuda_exec_close(&e);
}
END_TEST

/* --- pinning --- */

START_TEST(host_memory_is_pinned_once_and_undone)
{
    struct crn_mem host;
    ck_assert_int_eq(crn_mem_host.create(1 << 20, -1, CRN_MEM_LANDING, &host), 0);
    ck_assert_int_eq(crn_cuda_pin(0, host.base, host.bytes), 0);
    ck_assert_int_lt(crn_cuda_pin(0, (char *)host.base + 4096, 4096), 0);
    ck_assert_int_eq(crn_cuda_unpin(0, host.base, host.bytes), 0);
    ck_assert_int_lt(crn_cuda_unpin(0, host.base, host.bytes), 0);
    ck_assert_uint_eq(books().stats.pinned, 0);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_LOOP(creating_fails_cleanly_at_every_call, N_CREATING),
        RUN_LOOP(importing_fails_cleanly_at_every_call, N_IMPORTING),
        RUN_LOOP(a_full_device_refuses_and_recovers, 2),
        RUN_LOOP(a_lost_device_is_told_and_ends_nothing_else, 2),
        RUN_LOOP(without_driver_or_device_the_reason_is_given, 4),
        RUN_LOOP(copies_need_a_fence, 2),
        RUN_LOOP(an_exec_opens_whole_or_not_at_all, N_OPENING),
        RUN_TEST(failing_launches_and_products_are_told),
        RUN_TEST(host_memory_is_pinned_once_and_undone),
    };
    crn_log_setup("cuda_emu_memory", (enum crn_log_level)0); /* failures are expected */
    return run_suite("cuda_emu_memory", tests, sizeof tests / sizeof *tests);
}
