/* Devices, streams and the few driver entry points that have no runtime equivalent.
 *
 * Everything is found on first use. A process that forks after that cannot use CUDA in the child: the broker and the workers
 * never fork without exec. The table of streams is made once per device and never destroyed: its memory belongs to the context,
 * which ends with the process.
 *
 * It does not allocate device memory: that is mem_cuda_vmm.c and mem_cuda_ipc.c. */
#include "ipc/cuda_driver.h"

#include "ipc/cuda_entry.h"
#include "ipc/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEVICES = 64 };
#define PIN_PIECE ((uint64_t)64 << 30)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct crn_cuda_entry entry_points;
static int entries_found;
static cudaStream_t streams[MAX_DEVICES];

static int lost(int error)
{
    return error == cudaErrorIllegalAddress || error == cudaErrorECCUncorrectable ||
           error == cudaErrorDevicesUnavailable || error == cudaErrorLaunchTimeout ||
           (error >= cudaErrorHardwareStackError && error <= cudaErrorLaunchFailure);
}

static int status_of(int error)
{
    switch (error) {
    case cudaSuccess:
        return 0;
    case cudaErrorMemoryAllocation:
        return -ENOMEM;
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorInitializationError:
        return CAIRN_E_NO_DEVICE;
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidDevicePointer:
    case cudaErrorInvalidMemcpyDirection:
    case cudaErrorInvalidResourceHandle:
        return CAIRN_E_ARG;
    case cudaErrorNotPermitted:
    case cudaErrorNotSupported:
    case cudaErrorSymbolNotFound:
        return CAIRN_E_UNSUPPORTED;
    default:
        return lost(error) ? CAIRN_E_DEVICE_LOST : -EIO;
    }
}

int crn_cuda_status(int cuda_error, const char *call)
{
    int status = status_of(cuda_error);
    if (status == 0)
        return 0;
    (void)cudaGetLastError(); /* the next call must not find this failure */
    crn_log(status == CAIRN_E_DEVICE_LOST ? CRN_LOG_ERROR : CRN_LOG_WARN, "cuda: %s: error %d (%s)", call, cuda_error,
            cudaGetErrorString((cudaError_t)cuda_error));
    return status;
}

int crn_cuda_devices(int *out_n, char *why, size_t why_bytes)
{
    int n = -1;
    cudaError_t error = cudaGetDeviceCount(&n);
    if (error == cudaSuccess && n > 0) {
        *out_n = n;
        return 0;
    }
    (void)cudaGetLastError();
    snprintf(why, why_bytes, "%s", error == cudaErrorInsufficientDriver ? "no CUDA driver, or one older than the toolkit"
                                   : error == cudaSuccess || error == cudaErrorNoDevice
                                       ? "no CUDA device"
                                       : cudaGetErrorString(error));
    return CAIRN_E_NO_DEVICE;
}

int crn_cuda_use(int device)
{
    return crn_cuda_status((int)cudaSetDevice(device), "cudaSetDevice");
}

/* --- entry points --- */

static int find(const char *symbol, unsigned version, void *out_function)
{
    enum cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
    void *at = NULL;
    cudaError_t error = cudaGetDriverEntryPointByVersion(symbol, &at, version, cudaEnableDefault, &found);
    int status = crn_cuda_status((int)error, symbol);
    if (status != 0)
        return status;
    if (found != cudaDriverEntryPointSuccess || at == NULL) {
        crn_log(CRN_LOG_WARN, "cuda: the driver has no %s", symbol);
        return CAIRN_E_UNSUPPORTED;
    }
    memcpy(out_function, &at, sizeof at);
    return 0;
}

static int find_all(struct crn_cuda_entry *e)
{
    const struct {
        const char *symbol;
        void *out;
    } wanted[] = {
        { "cuDeviceGetName", &e->DeviceGetName },
        { "cuDeviceGetUuid", &e->DeviceGetUuid },
        { "cuDeviceGetAttribute", &e->DeviceGetAttribute },
        { "cuMemGetAllocationGranularity", &e->MemGetAllocationGranularity },
        { "cuMemCreate", &e->MemCreate },
        { "cuMemRelease", &e->MemRelease },
        { "cuMemAddressReserve", &e->MemAddressReserve },
        { "cuMemAddressFree", &e->MemAddressFree },
        { "cuMemMap", &e->MemMap },
        { "cuMemUnmap", &e->MemUnmap },
        { "cuMemSetAccess", &e->MemSetAccess },
        { "cuMemExportToShareableHandle", &e->MemExport },
        { "cuMemImportFromShareableHandle", &e->MemImport },
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        int status = find(wanted[i].symbol, 12000, wanted[i].out);
        if (status != 0)
            return status;
    }
    return 0;
}

int crn_cuda_entries(const struct crn_cuda_entry **out_entries)
{
    pthread_mutex_lock(&lock);
    int status = entries_found ? 0 : find_all(&entry_points);
    entries_found = status == 0;
    pthread_mutex_unlock(&lock);
    if (status == 0)
        *out_entries = &entry_points;
    return status;
}

/* --- devices --- */

static int uuid_of(int device, uint8_t out_uuid[16])
{
    const struct crn_cuda_entry *e;
    CUuuid uuid;
    int status = crn_cuda_entries(&e);
    if (status == 0)
        status = crn_cuda_status((int)e->DeviceGetUuid(&uuid, device), "cuDeviceGetUuid");
    if (status == 0)
        memcpy(out_uuid, uuid.bytes, 16);
    return status;
}

int crn_cuda_info(int device, struct crn_cuda_info *out_info)
{
    struct crn_cuda_info info = { .total_bytes = 0 };
    const struct crn_cuda_entry *e;
    size_t total = 0, available = 0;
    int status = crn_cuda_use(device);
    if (status == 0)
        status = crn_cuda_entries(&e);
    if (status == 0)
        status = crn_cuda_status((int)e->DeviceGetName(info.name, sizeof info.name, device), "cuDeviceGetName");
    if (status == 0)
        status = uuid_of(device, info.uuid);
    if (status == 0)
        status = crn_cuda_status((int)cudaMemGetInfo(&available, &total), "cudaMemGetInfo");
    if (status != 0)
        return status;
    info.total_bytes = total;
    info.free_bytes = available;
    *out_info = info;
    return 0;
}

int crn_cuda_by_uuid(const uint8_t uuid[16], int *out_device)
{
    int n;
    char why[64];
    int status = crn_cuda_devices(&n, why, sizeof why);
    for (int i = 0; i < n && status == 0; i++) {
        uint8_t candidate[16];
        status = crn_cuda_use(i);
        if (status == 0)
            status = uuid_of(i, candidate);
        if (status == 0 && memcmp(candidate, uuid, 16) == 0) {
            *out_device = i;
            return 0;
        }
    }
    return status != 0 ? status : CAIRN_E_NO_DEVICE;
}

/* --- moves --- */

static int stream_of(int device, cudaStream_t *out_stream)
{
    int status = crn_cuda_use(device);
    if (status != 0)
        return status;
    if (device < 0 || device >= MAX_DEVICES)
        return CAIRN_E_ARG;
    pthread_mutex_lock(&lock);
    if (streams[device] == NULL)
        status = crn_cuda_status((int)cudaStreamCreateWithFlags(&streams[device], cudaStreamNonBlocking),
                                 "cudaStreamCreateWithFlags");
    *out_stream = streams[device];
    pthread_mutex_unlock(&lock);
    return status;
}

static int copy_on(cudaStream_t stream, const struct crn_cuda_move *move)
{
    static const enum cudaMemcpyKind kinds[2][2] = { { cudaMemcpyHostToHost, cudaMemcpyDeviceToHost },
                                                     { cudaMemcpyHostToDevice, cudaMemcpyDeviceToDevice } };
    enum cudaMemcpyKind kind = kinds[move->to][move->from];
    if (move->bytes == 0)
        return 0;
    return crn_cuda_status((int)cudaMemcpyAsync(move->dst, move->src, move->bytes, kind, stream), "cudaMemcpyAsync");
}

int crn_cuda_copy(int device, const struct crn_cuda_move *move)
{
    cudaStream_t stream;
    int status = stream_of(device, &stream);
    return status != 0 ? status : copy_on(stream, move);
}

int crn_cuda_clear(int device, void *at, uint64_t bytes)
{
    cudaStream_t stream;
    int status = stream_of(device, &stream);
    if (status == 0 && bytes != 0)
        status = crn_cuda_status((int)cudaMemsetAsync(at, 0, bytes, stream), "cudaMemsetAsync");
    return status != 0 ? status : crn_cuda_fence(device);
}

int crn_cuda_fence(int device)
{
    cudaStream_t stream;
    int status = stream_of(device, &stream);
    return status != 0 ? status : crn_cuda_status((int)cudaStreamSynchronize(stream), "cudaStreamSynchronize");
}

/* --- lanes --- */

struct crn_cuda_lane {
    int device;
    cudaStream_t stream;
};

int crn_cuda_lane_open(int device, struct crn_cuda_lane **out_lane)
{
    int status = crn_cuda_use(device);
    struct crn_cuda_lane *lane = status == 0 ? calloc(1, sizeof *lane) : NULL;
    if (lane == NULL)
        return status != 0 ? status : -ENOMEM;
    lane->device = device;
    status = crn_cuda_status((int)cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    if (status != 0) {
        free(lane);
        return status;
    }
    *out_lane = lane;
    return 0;
}

void crn_cuda_lane_close(struct crn_cuda_lane *lane)
{
    if (lane == NULL)
        return;
    (void)crn_cuda_lane_wait(lane);
    (void)crn_cuda_status((int)cudaStreamDestroy(lane->stream), "cudaStreamDestroy");
    free(lane);
}

int crn_cuda_lane_copy(struct crn_cuda_lane *lane, const struct crn_cuda_move *move)
{
    int status = crn_cuda_use(lane->device);
    return status != 0 ? status : copy_on(lane->stream, move);
}

int crn_cuda_lane_wait(struct crn_cuda_lane *lane)
{
    int status = crn_cuda_use(lane->device);
    return status != 0 ? status : crn_cuda_status((int)cudaStreamSynchronize(lane->stream), "cudaStreamSynchronize");
}

/* --- page-locked host memory --- */

int crn_cuda_unpin(int device, void *at, uint64_t bytes)
{
    int status = crn_cuda_use(device);
    for (uint64_t i = 0; i < bytes && status == 0; i += PIN_PIECE)
        status = crn_cuda_status((int)cudaHostUnregister((char *)at + i), "cudaHostUnregister");
    return status;
}

int crn_cuda_pin(int device, void *at, uint64_t bytes)
{
    int status = crn_cuda_use(device);
    if (status != 0)
        return status;
    for (uint64_t i = 0; i < bytes; i += PIN_PIECE) {
        uint64_t piece = bytes - i < PIN_PIECE ? bytes - i : PIN_PIECE;
        status = crn_cuda_status((int)cudaHostRegister((char *)at + i, piece, cudaHostRegisterDefault), "cudaHostRegister");
        if (status != 0) {
            crn_cuda_unpin(device, at, i);
            return status;
        }
    }
    return 0;
}
