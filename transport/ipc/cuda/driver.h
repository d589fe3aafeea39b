/* The CUDA driver as the IPC transport uses it, reached through the runtime: programs start without one.
 *
 * A context is pushed around every call, so that neither the progress thread nor the caller's has another
 * current device afterwards than before. */
#ifndef WEFT_TRANSPORT_IPC_CUDA_DRIVER_H
#define WEFT_TRANSPORT_IPC_CUDA_DRIVER_H

#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include "src/base/error.h"
#include "transport/ipc/backend.h"

typedef struct weft_ipc_cuda {
    CUdevice device;
    CUcontext context; /* the device's primary one */
    PFN_cuGetErrorString_v6000 error_string;
    PFN_cuDeviceGet_v2000 device_get;
    PFN_cuDevicePrimaryCtxRetain_v7000 context_retain;
    PFN_cuDevicePrimaryCtxRelease_v11000 context_release;
    PFN_cuCtxPushCurrent_v4000 context_push;
    PFN_cuCtxPopCurrent_v4000 context_pop;
    PFN_cuPointerGetAttribute_v4000 attribute;
    PFN_cuMemGetAddressRange_v3020 address_range;
    PFN_cuMemGetAllocationGranularity_v10020 granularity;
    PFN_cuMemCreate_v10020 create;
    PFN_cuMemRetainAllocationHandle_v11000 retain;
    PFN_cuMemExportToShareableHandle_v10020 to_fd;
    PFN_cuMemImportFromShareableHandle_v10020 from_fd;
    PFN_cuMemAddressReserve_v10020 reserve;
    PFN_cuMemAddressFree_v10020 unreserve;
    PFN_cuMemMap_v10020 map;
    PFN_cuMemUnmap_v10020 unmap;
    PFN_cuMemSetAccess_v10020 set_access;
    PFN_cuMemRelease_v10020 release;
} weft_ipc_cuda_t;

bool weft_ipc_cuda_available(void);

/* The entries open and close of weft_ipc_cuda_memory. */
weft_status_t weft_ipc_cuda_open(weft_transport_t *transport, int32_t device, weft_error_t *error);
void weft_ipc_cuda_close(weft_transport_t *transport);

/* Make the transport's device current, and what was current before current again. */
weft_status_t weft_ipc_cuda_enter(const weft_ipc_cuda_t *cuda, weft_error_t *error);
void weft_ipc_cuda_leave(const weft_ipc_cuda_t *cuda);

/* "what: the text of the error", for the runtime and for the driver. */
weft_status_t weft_ipc_cuda_check(cudaError_t code, const char *what, weft_error_t *error);
weft_status_t weft_ipc_cuda_check_driver(const weft_ipc_cuda_t *cuda, CUresult code, const char *what,
                                         weft_error_t *error);

#endif
