/* tests/cuda_emu: every rule that makes the emulator stricter than hardware is broken here on purpose, and caught. */
#include "tests/cuda_emu/emu.h"
#include "tests/cuda_emu/kernels/broken.h"
#include "tests/support/child.h"
#include "tests/support/run.h"

#include "ipc/cuda_entry.h"

#include <cublas_v2.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

/* --- support --- */

/* Runs `what` in a process that must die with this signal after a line that contains `says` on stderr. */
static void dies(int (*what)(void *), void *context, int signal_number, const char *says)
{
    char text[2048] = "";
    int log = memfd_create("stderr", 0), keep = dup(STDERR_FILENO);
    ck_assert_int_ge(dup2(log, STDERR_FILENO), 0);
    int code = child_end(child_start(what, context));
    dup2(keep, STDERR_FILENO);
    close(keep);
    ck_assert_int_ge(pread(log, text, sizeof text - 1, 0), 0);
    close(log);
    ck_assert_msg(code == 128 + signal_number, "ended with %d, not signal %d; it said: %s", code, signal_number, text);
    ck_assert_msg(strstr(text, says) != NULL, "said '%s', not '%s'", text, says);
}

static void *device_memory(size_t bytes)
{
    void *p = NULL;
    ck_assert_int_eq(cudaSetDevice(0), cudaSuccess);
    ck_assert_int_eq(cudaMalloc(&p, bytes), cudaSuccess);
    return p;
}

static cudaStream_t stream(void)
{
    cudaStream_t s = NULL;
    ck_assert_int_eq(cudaSetDevice(0), cudaSuccess);
    ck_assert_int_eq(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
    return s;
}

/* --- kernels --- */

static int run_broken(void *context)
{
    enum broken what = *(enum broken *)context;
    cudaStream_t s = stream();
    unsigned *out = device_memory(64 * sizeof *out), host[64] = { 0 };
    if (broken_run(s, what, host, out) != 0)
        return 1;
    if (cudaStreamSynchronize(s) != cudaSuccess)
        return 2;
    return cudaFree(out) == cudaSuccess ? 0 : 3;
}

START_TEST(a_correct_kernel_runs)
{
    cudaStream_t s = stream();
    unsigned *out = device_memory(64 * sizeof *out), host[64];
    ck_assert_int_eq(broken_run(s, BROKEN_NOT, NULL, out), 0);
    ck_assert_int_eq(cudaMemcpyAsync(host, out, sizeof host, cudaMemcpyDeviceToHost, s), cudaSuccess);
    ck_assert_int_eq(cudaStreamSynchronize(s), cudaSuccess);
    for (unsigned i = 0; i < 64; i++)
        ck_assert_uint_eq(host[i], i + 1);
}
END_TEST

static const struct {
    enum broken what;
    int signal_number;
    const char *says;
} rules[] = {
    { BROKEN_MISSING_BARRIER, SIGABRT, "without a barrier" },
    { BROKEN_SHARED_WRITES, SIGABRT, "both write" },
    { BROKEN_SHARED_UNWRITTEN, SIGABRT, "never written" },
    { BROKEN_SHARED_RANGE, SIGABRT, "outside its shared array" },
    { BROKEN_SHARED_SIZE, SIGABRT, "the launch gave 256" },
    { BROKEN_DIVERGENT_BARRIER, SIGABRT, "diverged" },
    { BROKEN_TWO_BARRIERS, SIGABRT, "diverged" },
    { BROKEN_SHUFFLE_LANES, SIGABRT, "diverged" },
    { BROKEN_WRITE_PAST, SIGSEGV, "memory touched" },
    { BROKEN_WRITE_BEFORE, SIGABRT, "byte -" },
    { BROKEN_WRITE_FAR, SIGSEGV, "memory touched" },
};
enum { N_RULES = sizeof rules / sizeof *rules };

START_TEST(a_broken_kernel_is_caught)
{
    enum broken what = rules[_i].what;
    dies(run_broken, &what, rules[_i].signal_number, rules[_i].says);
}
END_TEST

START_TEST(impossible_launches_are_refused)
{
    cudaStream_t s = stream();
    unsigned *out = device_memory(256);
    ck_assert_int_eq(broken_run(s, BROKEN_TOO_MUCH_SHARED, NULL, out), cudaErrorInvalidValue);
    ck_assert_int_eq(broken_run(s, BROKEN_NO_THREADS, NULL, out), cudaErrorInvalidConfiguration);
}
END_TEST

/* --- memory --- */

static int host_reads_device(void *context)
{
    (void)context;
    return *(volatile int *)device_memory(4096);
}

static int use_after_free(void *context)
{
    (void)context;
    cudaStream_t s = stream();
    unsigned *out = device_memory(256);
    if (cudaFree(out) != cudaSuccess || broken_run(s, BROKEN_NOT, NULL, out) != 0)
        return 1;
    return cudaStreamSynchronize(s) != cudaSuccess;
}

static int copy_from_freed(void *context)
{
    int x;
    (void)context;
    unsigned *p = device_memory(256);
    return cudaFree(p) != cudaSuccess || cudaMemcpy(&x, p, sizeof x, cudaMemcpyDeviceToHost) != cudaSuccess;
}

static int copy_past_end(void *context)
{
    static char host[512];
    (void)context;
    return cudaMemcpy(device_memory(256), host, 257, cudaMemcpyHostToDevice) != cudaSuccess;
}

static int wrong_direction(void *context)
{
    static char host[256];
    (void)context;
    return cudaMemcpy(host, device_memory(256), 256, cudaMemcpyHostToDevice) != cudaSuccess;
}

START_TEST(wild_memory_is_caught)
{
    dies(host_reads_device, NULL, SIGSEGV, "host code");
    dies(use_after_free, NULL, SIGSEGV, "shared_memory touched");
    dies(copy_from_freed, NULL, SIGABRT, "not one mapped range");
    dies(copy_past_end, NULL, SIGABRT, "not one mapped range");
    dies(wrong_direction, NULL, SIGABRT, "not one mapped range");
}
END_TEST

START_TEST(fresh_memory_is_poison)
{
    unsigned char host[300], want[300];
    memset(want, 0xff, sizeof want);
    ck_assert_int_eq(cudaMemcpy(host, device_memory(300), 300, cudaMemcpyDeviceToHost), cudaSuccess);
    ck_assert_mem_eq(host, want, 300);
}
END_TEST

START_TEST(memory_runs_out)
{
    void *p = NULL;
    ck_assert_int_eq(cudaSetDevice(0), cudaSuccess);
    ck_assert_int_eq(cudaMalloc(&p, (size_t)1 << 40), cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
}
END_TEST

/* --- streams --- */

START_TEST(nothing_is_there_before_somebody_waits)
{
    cudaStream_t s = stream(), other = stream();
    unsigned *out = device_memory(64 * sizeof *out), host[64] = { 0 };
    ck_assert_int_eq(broken_run(s, BROKEN_NOT, NULL, out), 0);
    ck_assert_int_eq(cudaMemcpyAsync(host, out, sizeof host, cudaMemcpyDeviceToHost, s), cudaSuccess);
    ck_assert_int_eq(cudaStreamSynchronize(other), cudaSuccess);
    ck_assert_uint_eq(host[5], 0);
    ck_assert_int_eq(cudaStreamQuery(s), cudaErrorNotReady); /* runs the kernel, not the copy */
    ck_assert_uint_eq(host[5], 0);
    ck_assert_int_eq(cudaStreamSynchronize(s), cudaSuccess);
    ck_assert_uint_eq(host[5], 6);
}
END_TEST

START_TEST(a_stream_sees_another_ones_work_only_through_an_event)
{
    cudaStream_t writer = stream(), reader = stream();
    cudaEvent_t done;
    unsigned *out = device_memory(64 * sizeof *out), early[64], late[64];
    ck_assert_int_eq(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), cudaSuccess);
    ck_assert_int_eq(broken_run(writer, BROKEN_NOT, NULL, out), 0);
    ck_assert_int_eq(cudaEventRecord(done, writer), cudaSuccess);
    ck_assert_int_eq(cudaMemcpyAsync(early, out, sizeof early, cudaMemcpyDeviceToHost, reader), cudaSuccess);
    ck_assert_int_eq(cudaStreamWaitEvent(reader, done, 0), cudaSuccess);
    ck_assert_int_eq(cudaMemcpyAsync(late, out, sizeof late, cudaMemcpyDeviceToHost, reader), cudaSuccess);
    ck_assert_int_eq(cudaStreamSynchronize(reader), cudaSuccess);
    ck_assert_uint_eq(early[5], 0xffffffffu); /* a missing wait reads poison */
    ck_assert_uint_eq(late[5], 6);
    ck_assert_int_eq(cudaEventDestroy(done), cudaSuccess);
}
END_TEST

START_TEST(page_locked_memory_is_read_late_and_pageable_memory_at_once)
{
    cudaStream_t s = stream();
    int *device = device_memory(2 * sizeof *device), host[2], pageable = 1, *locked = NULL;
    ck_assert_int_eq(cudaMallocHost((void **)&locked, sizeof *locked), cudaSuccess);
    *locked = 1;
    ck_assert_int_eq(cudaMemcpyAsync(device, &pageable, sizeof pageable, cudaMemcpyHostToDevice, s), cudaSuccess);
    ck_assert_int_eq(cudaMemcpyAsync(device + 1, locked, sizeof *locked, cudaMemcpyHostToDevice, s), cudaSuccess);
    pageable = *locked = 2;
    ck_assert_int_eq(cudaStreamSynchronize(s), cudaSuccess);
    ck_assert_int_eq(cudaMemcpy(host, device, sizeof host, cudaMemcpyDeviceToHost), cudaSuccess);
    ck_assert_int_eq(host[0], 1);
    ck_assert_int_eq(host[1], 2);
}
END_TEST

static int legacy_stream(void *context)
{
    (void)context;
    return cudaMemsetAsync(device_memory(256), 0, 256, NULL) != cudaSuccess;
}

static int blas_without_workspace(void *context)
{
    cublasHandle_t h;
    float one = 1, *p = device_memory(256);
    (void)context;
    if (cublasCreate(&h) != CUBLAS_STATUS_SUCCESS || cublasSetStream(h, stream()) != CUBLAS_STATUS_SUCCESS)
        return 1;
    return cublasGemmStridedBatchedEx(h, CUBLAS_OP_N, CUBLAS_OP_N, 1, 1, 1, &one, p, CUDA_R_32F, 1, 0, p + 1, CUDA_R_32F, 1,
                                      0, &one, p + 2, CUDA_R_32F, 1, 0, 1, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) != 0;
}

START_TEST(the_legacy_stream_and_a_blas_that_would_allocate_are_caught)
{
    dies(legacy_stream, NULL, SIGABRT, "legacy stream");
    dies(blas_without_workspace, NULL, SIGABRT, "workspace");
}
END_TEST

/* --- contexts, processes, failures --- */

static void *without_device(void *out)
{
    void *p;
    *(cudaError_t *)out = cudaMalloc(&p, 256);
    return NULL;
}

START_TEST(a_thread_without_a_device_gets_nothing)
{
    pthread_t thread;
    cudaError_t error = cudaSuccess;
    (void)device_memory(256);
    ck_assert_int_eq(pthread_create(&thread, NULL, without_device, &error), 0);
    pthread_join(thread, NULL);
    ck_assert_int_eq(error, cudaErrorDeviceUninitialized);
}
END_TEST

static int in_a_fork(void *context)
{
    (void)context;
    return (int)cudaSetDevice(0);
}

START_TEST(a_forked_child_cannot_go_on)
{
    (void)device_memory(256);
    ck_assert_int_eq(child_end(child_start(in_a_fork, NULL)), cudaErrorInitializationError);
}
END_TEST

START_TEST(the_n_th_call_can_fail_and_a_lost_device_stays_lost)
{
    void *p = NULL;
    emu_fail("cudaMalloc", 2, cudaErrorMemoryAllocation);
    (void)device_memory(256);
    ck_assert_int_eq(cudaMalloc(&p, 256), cudaErrorMemoryAllocation);
    ck_assert_int_eq(cudaMalloc(&p, 256), cudaSuccess);
    emu_fail("cudaFree", 1, cudaErrorIllegalAddress);
    ck_assert_int_eq(cudaFree(p), cudaErrorIllegalAddress);
    ck_assert_int_eq(cudaMalloc(&p, 256), cudaErrorIllegalAddress);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorIllegalAddress);
    ck_assert_int_eq(cudaGetLastError(), cudaErrorIllegalAddress);
}
END_TEST

START_TEST(machines_without_device_or_driver_say_so)
{
    int n = 0;
    setenv("CRN_CUDA_EMU_DEVICES", _i == 0 ? "0" : "-1", 1);
    ck_assert_int_eq(cudaGetDeviceCount(&n), _i == 0 ? cudaErrorNoDevice : cudaErrorInsufficientDriver);
    ck_assert_int_eq(n, -1);
}
END_TEST

/* --- virtual memory --- */

static CUmemAllocationProp prop(void)
{
    CUmemAllocationProp p = { .type = CU_MEM_ALLOCATION_TYPE_PINNED,
                              .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                              .location = { CU_MEM_LOCATION_TYPE_DEVICE, 0 } };
    return p;
}

/* 2 MiB, mapped with this access; the handle is kept. */
static CUdeviceptr mapped(CUmemAccess_flags flags, CUmemGenericAllocationHandle *out_handle)
{
    CUmemAllocationProp p = prop();
    CUdeviceptr at = 0;
    CUmemAccessDesc access = { { CU_MEM_LOCATION_TYPE_DEVICE, 0 }, flags };
    ck_assert_int_eq(cudaSetDevice(0), cudaSuccess);
    ck_assert_int_eq(cuMemCreate(out_handle, 2 * MIB, &p, 0), CUDA_SUCCESS);
    ck_assert_int_eq(cuMemAddressReserve(&at, 2 * MIB, 0, 0, 0), CUDA_SUCCESS);
    ck_assert_int_eq(cuMemMap(at, 2 * MIB, 0, *out_handle, 0), CUDA_SUCCESS);
    ck_assert_int_eq(cuMemSetAccess(at, 2 * MIB, &access, 1), CUDA_SUCCESS);
    return at;
}

static int write_read_only(void *context)
{
    CUmemGenericAllocationHandle h;
    cudaStream_t s = stream();
    (void)context;
    unsigned *at = (unsigned *)(uintptr_t)mapped(CU_MEM_ACCESS_FLAGS_PROT_READ, &h);
    return broken_run(s, BROKEN_NOT, NULL, at) != 0 || cudaStreamSynchronize(s) != cudaSuccess;
}

static int copy_to_read_only(void *context)
{
    CUmemGenericAllocationHandle h;
    int x = 0;
    (void)context;
    void *at = (void *)(uintptr_t)mapped(CU_MEM_ACCESS_FLAGS_PROT_READ, &h);
    return cudaMemcpy(at, &x, sizeof x, cudaMemcpyHostToDevice) != cudaSuccess;
}

static int use_after_unmap(void *context)
{
    CUmemGenericAllocationHandle h;
    cudaStream_t s = stream();
    (void)context;
    CUdeviceptr at = mapped(CU_MEM_ACCESS_FLAGS_PROT_READWRITE, &h);
    if (cuMemUnmap(at, 2 * MIB) != CUDA_SUCCESS || broken_run(s, BROKEN_NOT, NULL, (unsigned *)(uintptr_t)at) != 0)
        return 1;
    return cudaStreamSynchronize(s) != cudaSuccess;
}

static int free_mapped_range(void *context)
{
    CUmemGenericAllocationHandle h;
    (void)context;
    return cuMemAddressFree(mapped(CU_MEM_ACCESS_FLAGS_PROT_READ, &h), 2 * MIB) != CUDA_SUCCESS;
}

START_TEST(mappings_are_enforced)
{
    dies(write_read_only, NULL, SIGSEGV, "read-only");
    dies(copy_to_read_only, NULL, SIGABRT, "read-only");
    dies(use_after_unmap, NULL, SIGSEGV, "shared_memory touched");
    dies(free_mapped_range, NULL, SIGABRT, "still mapped");
}
END_TEST

START_TEST(granularity_is_wanted_everywhere)
{
    CUmemGenericAllocationHandle h, other;
    CUmemAllocationProp p = prop();
    CUdeviceptr at = 0, range = mapped(CU_MEM_ACCESS_FLAGS_PROT_READWRITE, &h);
    ck_assert_int_eq(cuMemCreate(&other, 2 * MIB + 4096, &p, 0), CUDA_ERROR_INVALID_VALUE);
    ck_assert_int_eq(cuMemAddressReserve(&at, MIB, 0, 0, 0), CUDA_ERROR_INVALID_VALUE);
    ck_assert_int_eq(cuMemAddressReserve(&at, 4 * MIB, 0, 0, 0), CUDA_SUCCESS);
    ck_assert_int_eq(cuMemMap(at, 4 * MIB, 0, h, 0), CUDA_ERROR_INVALID_VALUE);       /* more than there is */
    ck_assert_int_eq(cuMemMap(at, 2 * MIB, 4096, h, 0), CUDA_ERROR_INVALID_VALUE);    /* an offset */
    ck_assert_int_eq(cuMemMap(range, 2 * MIB, 0, h, 0), CUDA_ERROR_INVALID_VALUE);    /* twice */
    ck_assert_int_eq(cuMemUnmap(range, MIB), CUDA_ERROR_INVALID_VALUE);               /* a part */
    ck_assert_int_eq(cuMemRelease(h), CUDA_SUCCESS);
    ck_assert_int_eq(cuMemRelease(h), CUDA_ERROR_INVALID_VALUE);
}
END_TEST

START_TEST(only_what_was_made_for_it_can_be_exported_and_the_host_cannot_look_inside)
{
    CUmemGenericAllocationHandle h, plain;
    CUmemAllocationProp p = prop();
    int fd = -1;
    (void)mapped(CU_MEM_ACCESS_FLAGS_PROT_READWRITE, &h);
    p.requestedHandleTypes = CU_MEM_HANDLE_TYPE_NONE;
    ck_assert_int_eq(cuMemCreate(&plain, 2 * MIB, &p, 0), CUDA_SUCCESS);
    ck_assert_int_eq(cuMemExportToShareableHandle(&fd, plain, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                     CUDA_ERROR_INVALID_VALUE);
    ck_assert_int_eq(cuMemExportToShareableHandle(&fd, h, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0), CUDA_SUCCESS);
    ck_assert_ptr_eq(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0), MAP_FAILED);
    close(fd);
}
END_TEST

/* --- legacy IPC --- */

START_TEST(a_handle_cannot_be_opened_by_its_own_process)
{
    cudaIpcMemHandle_t handle;
    void *p = device_memory(2 * MIB), *again = NULL;
    ck_assert_int_eq(cudaIpcGetMemHandle(&handle, (char *)p + 256), cudaErrorInvalidValue);
    ck_assert_int_eq(cudaIpcGetMemHandle(&handle, p), cudaSuccess);
    ck_assert_int_eq(cudaIpcOpenMemHandle(&again, handle, cudaIpcMemLazyEnablePeerAccess), cudaErrorDeviceUninitialized);
}
END_TEST

static int share_a_small_block(void *context)
{
    cudaIpcMemHandle_t handle;
    (void)context;
    return cudaIpcGetMemHandle(&handle, device_memory(4096)) != cudaSuccess;
}

struct pipes {
    int to_importer[2], to_exporter[2];
};

/* Opens what the exporter sent, says so, and keeps it until it is killed. */
static int import_and_stay(void *context)
{
    const struct pipes *p = context;
    cudaIpcMemHandle_t handle;
    void *at = NULL;
    if (read(p->to_importer[0], &handle, sizeof handle) != sizeof handle || cudaSetDevice(0) != cudaSuccess)
        return 1;
    if (cudaIpcOpenMemHandle(&at, handle, cudaIpcMemLazyEnablePeerAccess) != cudaSuccess)
        return 2;
    if (write(p->to_exporter[1], "o", 1) != 1)
        return 3;
    pause();
    return 0;
}

static int free_while_open(void *context)
{
    struct pipes p;
    cudaIpcMemHandle_t handle;
    char byte;
    int kill_first = *(int *)context;
    if (pipe(p.to_importer) != 0 || pipe(p.to_exporter) != 0)
        return 1;
    pid_t importer = child_start(import_and_stay, &p); /* before CUDA is used here */
    void *at = device_memory(2 * MIB);
    if (cudaIpcGetMemHandle(&handle, at) != cudaSuccess)
        return 2;
    if (write(p.to_importer[1], &handle, sizeof handle) != sizeof handle || read(p.to_exporter[0], &byte, 1) != 1)
        return 3;
    if (kill_first)
        child_kill(importer);
    return cudaFree(at) == cudaSuccess ? 0 : 4;
}

START_TEST(freeing_what_somebody_has_open_is_caught)
{
    int kill_first = 0;
    dies(free_while_open, &kill_first, SIGABRT, "still has the block");
    dies(share_a_small_block, NULL, SIGABRT, "multiple of 2 MiB");
    kill_first = 1; /* the driver drops a dead importer's mapping */
    ck_assert_int_eq(child_end(child_start(free_while_open, &kill_first)), 0);
}
END_TEST

int main(void)
{
    const struct run_test tests[] = {
        RUN_TEST(a_correct_kernel_runs),
        RUN_LOOP(a_broken_kernel_is_caught, N_RULES),
        RUN_TEST(impossible_launches_are_refused),
        RUN_TEST(wild_memory_is_caught),
        RUN_TEST(fresh_memory_is_poison),
        RUN_TEST(memory_runs_out),
        RUN_TEST(nothing_is_there_before_somebody_waits),
        RUN_TEST(a_stream_sees_another_ones_work_only_through_an_event),
        RUN_TEST(page_locked_memory_is_read_late_and_pageable_memory_at_once),
        RUN_TEST(the_legacy_stream_and_a_blas_that_would_allocate_are_caught),
        RUN_TEST(a_thread_without_a_device_gets_nothing),
        RUN_TEST(a_forked_child_cannot_go_on),
        RUN_TEST(the_n_th_call_can_fail_and_a_lost_device_stays_lost),
        RUN_LOOP(machines_without_device_or_driver_say_so, 2),
        RUN_TEST(mappings_are_enforced),
        RUN_TEST(granularity_is_wanted_everywhere),
        RUN_TEST(only_what_was_made_for_it_can_be_exported_and_the_host_cannot_look_inside),
        RUN_TEST(a_handle_cannot_be_opened_by_its_own_process),
        RUN_TEST(freeing_what_somebody_has_open_is_caught),
    };
    return run_suite("cuda_emu_rules", tests, sizeof tests / sizeof *tests);
}
