/* Finding the driver's functions, and its errors. */
#include "transport/ipc/cuda/driver.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define FUNCTION(name, member)                                                                               \
    {                                                                                                        \
        name, offsetof(weft_ipc_cuda_t, member)                                                              \
    }

static const struct {
    const char *name;
    size_t at;
} functions[] = {
    FUNCTION("cuGetErrorString", error_string),
    FUNCTION("cuDeviceGet", device_get),
    FUNCTION("cuDevicePrimaryCtxRetain", context_retain),
    FUNCTION("cuDevicePrimaryCtxRelease", context_release),
    FUNCTION("cuCtxPushCurrent", context_push),
    FUNCTION("cuCtxPopCurrent", context_pop),
    FUNCTION("cuPointerGetAttribute", attribute),
    FUNCTION("cuMemGetAddressRange", address_range),
    FUNCTION("cuMemGetAllocationGranularity", granularity),
    FUNCTION("cuMemCreate", create),
    FUNCTION("cuMemRetainAllocationHandle", retain),
    FUNCTION("cuMemExportToShareableHandle", to_fd),
    FUNCTION("cuMemImportFromShareableHandle", from_fd),
    FUNCTION("cuMemAddressReserve", reserve),
    FUNCTION("cuMemAddressFree", unreserve),
    FUNCTION("cuMemMap", map),
    FUNCTION("cuMemUnmap", unmap),
    FUNCTION("cuMemSetAccess", set_access),
    FUNCTION("cuMemRelease", release),
};

#define NUM_FUNCTIONS  (sizeof functions / sizeof functions[0])
#define DRIVER_VERSION 12000 /* of whose functions we know the form */

/* ---- Errors ---- */

static weft_status_t status_of(bool no_memory, bool no_device)
{
    return no_memory ? WEFT_ERR_NO_MEMORY : no_device ? WEFT_ERR_UNSUPPORTED : WEFT_ERR_SYSTEM;
}

/* The runtime keeps the error until it is asked for; it is ours, so the application must not meet it. */
weft_status_t weft_ipc_cuda_check(cudaError_t code, const char *what, weft_error_t *error)
{
    if (code == cudaSuccess)
        return WEFT_OK;
    cudaGetLastError();
    bool no_device =
        code == cudaErrorNoDevice || code == cudaErrorInsufficientDriver || code == cudaErrorStubLibrary;
    return weft_fail(error, status_of(code == cudaErrorMemoryAllocation, no_device), "%s: %s", what,
                     cudaGetErrorString(code));
}

weft_status_t weft_ipc_cuda_check_driver(const weft_ipc_cuda_t *cuda, CUresult code, const char *what,
                                         weft_error_t *error)
{
    const char *text = NULL;
    if (code == CUDA_SUCCESS)
        return WEFT_OK;
    if (cuda->error_string(code, &text) != CUDA_SUCCESS)
        text = "unknown error";
    return weft_fail(error, status_of(code == CUDA_ERROR_OUT_OF_MEMORY, code == CUDA_ERROR_NO_DEVICE),
                     "%s: %s", what, text);
}

/* ---- Open and close ---- */

bool weft_ipc_cuda_available(void)
{
    int count = 0;
    bool found = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
    cudaGetLastError();
    return found;
}

static weft_status_t load(weft_ipc_cuda_t *cuda, weft_error_t *error)
{
    for (size_t i = 0; i < NUM_FUNCTIONS; i++) {
        void *function = NULL;
        enum cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
        WEFT_TRY(
            weft_ipc_cuda_check(cudaGetDriverEntryPointByVersion(functions[i].name, &function, DRIVER_VERSION,
                                                                 cudaEnableDefault, &found),
                                functions[i].name, error));
        if (found != cudaDriverEntryPointSuccess || !function)
            return weft_fail(error, WEFT_ERR_UNSUPPORTED, "the CUDA driver has no %s; update it",
                             functions[i].name);
        memcpy((char *)cuda + functions[i].at, &function, sizeof function);
    }
    return WEFT_OK;
}

static weft_status_t find_device(weft_ipc_cuda_t *cuda, int32_t wanted, int *device, weft_error_t *error)
{
    int count = 0;
    WEFT_TRY(weft_ipc_cuda_check(cudaGetDeviceCount(&count), "looking for a GPU", error));
    *device = wanted;
    if (wanted < 0)
        WEFT_TRY(weft_ipc_cuda_check(cudaGetDevice(device), "cudaGetDevice", error));
    if (*device >= count)
        return weft_fail(error, WEFT_ERR_ARGUMENT, "config.device is %d, there are %d CUDA devices", *device,
                         count);
    WEFT_TRY(
        weft_ipc_cuda_check_driver(cuda, cuda->device_get(&cuda->device, *device), "cuDeviceGet", error));
    return weft_ipc_cuda_check_driver(cuda, cuda->context_retain(&cuda->context, cuda->device),
                                      "cuDevicePrimaryCtxRetain", error);
}

weft_status_t weft_ipc_cuda_open(weft_transport_t *transport, int32_t device, weft_error_t *error)
{
    weft_ipc_cuda_t *cuda = calloc(1, sizeof *cuda);
    if (!cuda)
        return weft_fail(error, WEFT_ERR_NO_MEMORY, "rank %u: ipc: out of memory", transport->base.rank);
    weft_status_t status = load(cuda, error);
    if (status == WEFT_OK)
        status = find_device(cuda, device, &transport->base.device, error);
    if (status != WEFT_OK) {
        free(cuda);
        weft_error_prefix(error, "rank %u: ipc: config.memory \"cuda\"", transport->base.rank);
        return status;
    }
    transport->base.queue = "cuda";
    transport->cuda = cuda;
    return WEFT_OK;
}

void weft_ipc_cuda_close(weft_transport_t *transport)
{
    if (transport->cuda)
        transport->cuda->context_release(transport->cuda->device);
    free(transport->cuda);
}

weft_status_t weft_ipc_cuda_enter(const weft_ipc_cuda_t *cuda, weft_error_t *error)
{
    return weft_ipc_cuda_check_driver(cuda, cuda->context_push(cuda->context), "cuCtxPushCurrent", error);
}

void weft_ipc_cuda_leave(const weft_ipc_cuda_t *cuda)
{
    CUcontext popped;
    cuda->context_pop(&popped);
}
