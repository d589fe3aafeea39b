/* What every CUDA source here uses: the C headers as seen from C++, errors as statuses, block-wide reductions. */
#ifndef WEFT_KERNELS_CUDA_COMMON_CUH
#define WEFT_KERNELS_CUDA_COMMON_CUH

#include <cuda_runtime.h>
#include <stdint.h>
#include <stdlib.h>

extern "C" {
#include "kernels/arith.h"
#include "kernels/digest.h"
#include "kernels/kernels.h"
}
#include "kernels/cuda/cuda_kernels.h"

#define WEFT_TRY(call)                                                                                                 \
    do {                                                                                                               \
        weft_status_t status_ = (call);                                                                                \
        if (status_ != WEFT_OK)                                                                                        \
            return status_;                                                                                            \
    } while (0)
#define WEFT_TRY_CUDA(call)                                                                                            \
    do {                                                                                                               \
        cudaError_t error_ = (call);                                                                                   \
        if (error_ != cudaSuccess)                                                                                     \
            return weft_cuda_status(error_);                                                                           \
    } while (0)

constexpr uint32_t WARP = 32;
constexpr uint32_t ALL_LANES = 0xFFFFFFFFu;

/* ---- Host ---- */

static inline weft_status_t weft_cuda_status(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return WEFT_OK;
    case cudaErrorMemoryAllocation:
        return WEFT_ERR_NO_MEMORY;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorStubLibrary:
        return WEFT_ERR_UNSUPPORTED;
    default:
        return WEFT_ERR_SYSTEM;
    }
}

/* An array of the host made device memory; at least one element, so that no list is NULL. */
template <typename T> static inline weft_status_t weft_cuda_upload(const T *items, size_t count, T **device)
{
    T *made;
    WEFT_TRY_CUDA(cudaMalloc((void **)&made, (count + 1) * sizeof(T)));
    cudaError_t error = count ? cudaMemcpy(made, items, count * sizeof(T), cudaMemcpyHostToDevice) : cudaSuccess;
    if (error != cudaSuccess) {
        cudaFree(made);
        return weft_cuda_status(error);
    }
    *device = made;
    return WEFT_OK;
}

/* Whether [first, first + count) lies in a list of `total`. */
static inline bool weft_cuda_in_range(uint32_t first, uint32_t count, uint32_t total)
{
    return first <= total && count <= total - first;
}

/* ---- Device ---- */

/* Weights are read once, and what is written is read by others later: neither should displace anything. */
static __device__ __forceinline__ uint4 weft_load16(const void *from)
{
    uint4 v;
#ifndef WEFT_TUNE_LOAD
#define WEFT_TUNE_LOAD "ld.global.L1::no_allocate.v4.u32"
#endif
    asm volatile(WEFT_TUNE_LOAD " {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
}

static __device__ __forceinline__ void weft_store8(void *to, uint2 v)
{
#ifdef WEFT_TUNE_STORE
    *(uint2 *)to = v;
#else
    __stcs((uint2 *)to, v);
#endif
}

static __device__ __forceinline__ void weft_store16(void *to, uint4 v)
{
    __stcs((uint4 *)to, v);
}

#endif
