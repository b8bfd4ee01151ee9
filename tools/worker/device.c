/* Choosing what to compute on. Built without CUDA there is only the CPU. */
#include "tools/worker/device.h"

#include "ipc/log.h"

#include <stdio.h>
#include <string.h>

#ifdef CRN_CUDA
#include "kernels/cuda/exec.h"
#endif

int crn_worker_device_parse(const char *wish, int *out_ordinal)
{
    char rest;
    *out_ordinal = strcmp(wish, "host") == 0 ? -1 : 0;
    if (*out_ordinal < 0 || strcmp(wish, "auto") == 0)
        return 0;
    return sscanf(wish, "cuda:%d%c", out_ordinal, &rest) == 1 && *out_ordinal >= 0 ? 0 : CAIRN_E_ARG;
}

#ifdef CRN_CUDA

static int use(struct crn_worker_device *d, char *why, size_t why_bytes)
{
    d->ops = &crn_kernels_cuda;
    return crn_cuda_exec_open_on(d->ordinal, &d->exec, why, why_bytes);
}

void crn_worker_device_close(struct crn_worker_device *device)
{
    if (device->ordinal >= 0)
        crn_cuda_exec_close(&device->exec);
}

#else

static int use(struct crn_worker_device *d, char *why, size_t why_bytes)
{
    (void)d;
    snprintf(why, why_bytes, "this cairn-worker is built without CUDA");
    return CAIRN_E_NOT_BUILT;
}

void crn_worker_device_close(struct crn_worker_device *device)
{
    (void)device;
}

#endif

static int use_host(const char *backend, struct crn_worker_device *out)
{
    char why[128];
    const struct crn_kernel_ops *ops = crn_kernels_named(backend);
    if (ops == NULL || !ops->probe(why, sizeof why))
        return CAIRN_E_NOT_BUILT;
    *out = (struct crn_worker_device){.ops = ops, .ordinal = -1};
    return 0;
}

int crn_worker_device_open(const char *wish, const char *backend, struct crn_worker_device *out)
{
    struct crn_worker_device d = {0};
    char why[128] = "it is neither host, auto nor cuda:N";
    int status = crn_worker_device_parse(wish, &d.ordinal);
    if (status == 0 && d.ordinal < 0)
        return use_host(backend, out);
    if (status == 0)
        status = use(&d, why, sizeof why);
    if (status == 0) {
        crn_log(CRN_LOG_INFO, "device cuda:%d, %s: computing there, as %s asks", d.ordinal, why, wish);
        *out = d;
        return 0;
    }
    if (strcmp(wish, "auto") == 0) {
        crn_log(CRN_LOG_INFO, "device: computing on the CPU, because %s", why);
        return use_host(backend, out);
    }
    crn_log(CRN_LOG_ERROR, "device %s: %s: %s", wish, cairn_strerror(status), why);
    return status;
}
