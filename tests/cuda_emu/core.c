/* Entering and leaving an emulated call: who may call, which calls fail on purpose, what is said about broken rules.
 *
 * CUDA does not survive fork: a process that initialised CUDA and forked gets cudaErrorInitializationError in the child, as on
 * hardware. A thread has no device until it says cudaSetDevice (hardware would silently take device 0). */
#include "tests/cuda_emu/internal.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_FAILURES = 16 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct failure {
    char call[48];
    unsigned left;
    int code;
} failures[MAX_FAILURES];
static int configured, lost_code;
static int n_devices = 1;
static uint64_t memory_limit = (uint64_t)4 << 30;
static pid_t initialised_by;
static _Thread_local int last_error, current_device = -1;
struct emu_stats emu_now;

static void add_failure(const char *call, size_t length, unsigned n, int code)
{
    for (size_t i = 0; i < MAX_FAILURES; i++) {
        if (failures[i].left != 0)
            continue;
        snprintf(failures[i].call, sizeof failures[i].call, "%.*s", (int)length, call);
        failures[i].left = n;
        failures[i].code = code;
        return;
    }
    emu_violation("more than %d planned failures", MAX_FAILURES);
}

static void read_failures(const char *text)
{
    while (text != NULL && *text != '\0') {
        char call[48];
        unsigned n;
        int code, used = 0;
        if (sscanf(text, "%47[A-Za-z0-9_]:%u:%d%n", call, &n, &code, &used) != 3 || n == 0)
            emu_violation("CRN_CUDA_EMU_FAIL: cannot read '%s'", text);
        add_failure(call, strlen(call), n, code);
        text += used;
        text += *text == ',';
    }
}

static void configure(void)
{
    if (configured)
        return;
    configured = 1;
    const char *devices = getenv("CRN_CUDA_EMU_DEVICES"), *memory = getenv("CRN_CUDA_EMU_MEMORY");
    if (devices != NULL)
        n_devices = (int)strtol(devices, NULL, 10);
    if (memory != NULL)
        memory_limit = strtoull(memory, NULL, 10);
    read_failures(getenv("CRN_CUDA_EMU_FAIL"));
}

int emu_device_count(void)
{
    return n_devices;
}

uint64_t emu_memory_limit(void)
{
    return memory_limit;
}

int emu_device(void)
{
    return current_device;
}

void emu_violation(const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    int n = snprintf(text, sizeof text, "cuda-emu: violation: ");
    n += vsnprintf(text + n, sizeof text - (size_t)n - 1, format, args);
    va_end(args);
    if (n > (int)sizeof text - 2)
        n = (int)sizeof text - 2;
    text[n] = '\n';
    ssize_t ignored = write(STDERR_FILENO, text, (size_t)n + 1);
    (void)ignored;
    abort();
}

void emu_fail(const char *call, unsigned n, int code)
{
    pthread_mutex_lock(&lock);
    configure();
    add_failure(call, strlen(call), n, code);
    pthread_mutex_unlock(&lock);
}

void emu_stats_get(struct emu_stats *out_stats)
{
    pthread_mutex_lock(&lock);
    *out_stats = emu_now;
    pthread_mutex_unlock(&lock);
}

int emu_is_sticky(int code)
{
    return code == cudaErrorIllegalAddress || code == cudaErrorECCUncorrectable || code == cudaErrorDevicesUnavailable ||
           (code >= cudaErrorHardwareStackError && code <= cudaErrorLaunchFailure) || code == cudaErrorLaunchTimeout;
}

void emu_lose(int code)
{
    if (lost_code == 0)
        lost_code = code;
}

static int planned_failure(const char *call)
{
    for (size_t i = 0; i < MAX_FAILURES; i++) {
        if (failures[i].left != 0 && strcmp(failures[i].call, call) == 0 && --failures[i].left == 0)
            return failures[i].code;
    }
    return 0;
}

int emu_begin(const char *call, enum emu_need need)
{
    pthread_mutex_lock(&lock);
    configure();
    int code = planned_failure(call);
    if (emu_is_sticky(code))
        emu_lose(code);
    if (lost_code != 0)
        return lost_code;
    if (code != 0)
        return code;
    if (n_devices <= 0)
        return n_devices == 0 ? cudaErrorNoDevice : cudaErrorInsufficientDriver;
    if (initialised_by != 0 && initialised_by != getpid())
        return cudaErrorInitializationError;
    initialised_by = getpid();
    return need == EMU_NEED_CONTEXT && current_device < 0 ? cudaErrorDeviceUninitialized : 0;
}

cudaError_t emu_end(int code)
{
    if (code != 0 && code != cudaErrorNotReady)
        last_error = code;
    pthread_mutex_unlock(&lock);
    return (cudaError_t)code;
}

CUresult emu_end_driver(int code)
{
    pthread_mutex_unlock(&lock);
    return (CUresult)code;
}

/* --- devices and errors --- */

cudaError_t cudaRuntimeGetVersion(int *runtimeVersion)
{
    *runtimeVersion = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *driverVersion)
{
    pthread_mutex_lock(&lock);
    configure();
    *driverVersion = n_devices < 0 ? 0 : CUDART_VERSION;
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

/* As measured on CUDA 13.0 without a driver: 35 and n = -1. */
cudaError_t cudaGetDeviceCount(int *count)
{
    int code = emu_begin("cudaGetDeviceCount", EMU_NEED_DRIVER);
    *count = code == 0 ? n_devices : -1;
    return emu_end(code);
}

cudaError_t cudaSetDevice(int device)
{
    int code = emu_begin("cudaSetDevice", EMU_NEED_DRIVER);
    if (code == 0 && (device < 0 || device >= n_devices))
        code = cudaErrorInvalidDevice;
    if (code == 0)
        current_device = device;
    return emu_end(code);
}

cudaError_t cudaGetDevice(int *device)
{
    int code = emu_begin("cudaGetDevice", EMU_NEED_CONTEXT);
    if (code == 0)
        *device = current_device;
    return emu_end(code);
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)
{
    int code = emu_begin("cudaDeviceGetAttribute", EMU_NEED_DRIVER);
    if (code == 0 && (device < 0 || device >= n_devices))
        code = cudaErrorInvalidDevice;
    if (code == 0) {
        switch (attr) {
        case cudaDevAttrUnifiedAddressing:
        case cudaDevAttrIpcEventSupport:
            *value = 1;
            break;
        case cudaDevAttrComputeCapabilityMajor:
            *value = 9;
            break;
        case cudaDevAttrComputeCapabilityMinor:
            *value = 0;
            break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = 227 * 1024;
            break;
        default:
            code = cudaErrorInvalidValue;
        }
    }
    return emu_end(code);
}

cudaError_t cudaDeviceGetPCIBusId(char *pciBusId, int len, int device)
{
    int code = emu_begin("cudaDeviceGetPCIBusId", EMU_NEED_DRIVER);
    if (code == 0 && (device < 0 || device >= n_devices))
        code = cudaErrorInvalidDevice;
    if (code == 0)
        snprintf(pciBusId, (size_t)len, "%04x:00:00.0", 0xe000 + device);
    return emu_end(code);
}

/* Clears the remembered failure, unless the device is lost. */
cudaError_t cudaGetLastError(void)
{
    pthread_mutex_lock(&lock);
    int code = lost_code != 0 ? lost_code : last_error;
    last_error = 0;
    pthread_mutex_unlock(&lock);
    return (cudaError_t)code;
}

cudaError_t cudaPeekAtLastError(void)
{
    pthread_mutex_lock(&lock);
    int code = lost_code != 0 ? lost_code : last_error;
    pthread_mutex_unlock(&lock);
    return (cudaError_t)code;
}

static const struct {
    int code;
    const char *name, *text;
} errors[] = {
    { cudaSuccess, "cudaSuccess", "no error" },
    { cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument" },
    { cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory" },
    { cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error" },
    { cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument" },
    { cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver", "CUDA driver version is insufficient" },
    { cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected" },
    { cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal" },
    { cudaErrorDeviceUninitialized, "cudaErrorDeviceUninitialized", "invalid device context" },
    { cudaErrorMapBufferObjectFailed, "cudaErrorMapBufferObjectFailed", "mapping of buffer object failed" },
    { cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle" },
    { cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered" },
    { cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure" },
    { cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported" },
};

const char *cudaGetErrorName(cudaError_t error)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == (int)error)
            return errors[i].name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == (int)error)
            return errors[i].text;
    return "unrecognized error code";
}

/* --- driver entry points --- */

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice dev)
{
    int code = emu_begin("cuDeviceGetUuid", EMU_NEED_DRIVER);
    if (code == 0 && (dev < 0 || dev >= n_devices))
        code = CUDA_ERROR_INVALID_DEVICE;
    if (code == 0) {
        memcpy(uuid->bytes, "cuda-emu-device", 15);
        uuid->bytes[15] = (char)dev;
    }
    return emu_end_driver(code);
}

CUresult cuDeviceGetName(char *name, int len, CUdevice dev)
{
    int code = emu_begin("cuDeviceGetName", EMU_NEED_DRIVER);
    if (code == 0 && (dev < 0 || dev >= n_devices))
        code = CUDA_ERROR_INVALID_DEVICE;
    if (code == 0)
        snprintf(name, (size_t)len, "%s", EMU_DEVICE_NAME);
    return emu_end_driver(code);
}

CUresult cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev)
{
    int code = emu_begin("cuDeviceGetAttribute", EMU_NEED_DRIVER);
    if (code == 0 && (dev < 0 || dev >= n_devices))
        code = CUDA_ERROR_INVALID_DEVICE;
    if (code == 0)
        *pi = attrib == CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED ||
              attrib == CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED;
    return emu_end_driver(code);
}

union entry {
    void (*function)(void);
    void *pointer;
};

#define ENTRY(name) { #name, { (void (*)(void))(name) } }
static const struct {
    const char *name;
    union entry at;
} entries[] = {
    { "cuDeviceGetUuid", { (void (*)(void))cuDeviceGetUuid } },
    ENTRY(cuDeviceGetName),
    ENTRY(cuDeviceGetAttribute),
    ENTRY(cuMemGetAllocationGranularity),
    ENTRY(cuMemCreate),
    ENTRY(cuMemRelease),
    ENTRY(cuMemAddressReserve),
    ENTRY(cuMemAddressFree),
    ENTRY(cuMemMap),
    ENTRY(cuMemUnmap),
    ENTRY(cuMemSetAccess),
    ENTRY(cuMemExportToShareableHandle),
    ENTRY(cuMemImportFromShareableHandle),
};

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **funcPtr, unsigned int cudaVersion,
                                             unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *driverStatus)
{
    int code = emu_begin("cudaGetDriverEntryPointByVersion", EMU_NEED_DRIVER);
    if (code != 0)
        return emu_end(code);
    if (flags != cudaEnableDefault || cudaVersion > CUDA_VERSION || cudaVersion < 11020)
        return emu_end(cudaErrorInvalidValue);
    *funcPtr = NULL;
    *driverStatus = cudaDriverEntryPointSymbolNotFound;
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        if (strcmp(entries[i].name, symbol) == 0) {
            *funcPtr = entries[i].at.pointer;
            *driverStatus = cudaDriverEntryPointSuccess;
        }
    }
    return emu_end(0);
}
