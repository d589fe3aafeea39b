/* What every CUDA source here uses: the C headers as seen from C++, errors as statuses, block-wide
 * reductions. */
#ifndef WEFT_KERNELS_CUDA_COMMON_CUH
#define WEFT_KERNELS_CUDA_COMMON_CUH

#include <cuda_runtime.h>
#include <stdint.h>
#include <stdlib.h>

extern "C" {
#include "kernels/arith.h"
#include "kernels/digest.h"
#include "kernels/kernels.h"
#include "src/base/error.h"
}
#include "kernels/cuda/cuda_kernels.h"

#define WEFT_TRY_CUDA(call)                                                                                  \
    do {                                                                                                     \
        cudaError_t error_ = (call);                                                                         \
        if (error_ != cudaSuccess)                                                                           \
            return weft_cuda_status(error_);                                                                 \
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
    cudaError_t error =
        count ? cudaMemcpy(made, items, count * sizeof(T), cudaMemcpyHostToDevice) : cudaSuccess;
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

/* What came before this launch on its stream is complete and visible. */
static __device__ __forceinline__ void wait_for_stream(void)
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

static __device__ __forceinline__ void let_next_launch(void)
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

/* A barrier among the SIZE threads of a block. */
template <uint32_t SIZE> static __device__ __forceinline__ void weft_sync(void)
{
    asm volatile("bar.sync 1, %0;" ::"n"(SIZE) : "memory");
}

/* The same; true for all where it is for any. */
template <uint32_t SIZE> static __device__ __forceinline__ bool weft_sync_or(bool mine)
{
    uint32_t any;
    asm volatile("{\n\t"
                 ".reg .pred p, q;\n\t"
                 "setp.ne.u32 p, %1, 0;\n\t"
                 "bar.red.or.pred q, 1, %2, p;\n\t"
                 "selp.u32 %0, 1, 0, q;\n\t"
                 "}"
                 : "=r"(any)
                 : "r"((uint32_t)mine), "n"(SIZE)
                 : "memory");
    return any;
}

/* Reads through the read-only path, and writes marked as not wanted again: of the hints there are, this pair
 * was the fastest on an H100, by 3 % of a pass over marking both. Pointers are to global memory, which the
 * compiler cannot see where they come from a list. */
static __device__ __forceinline__ uint4 weft_load16(const void *from)
{
    uint4 v;
    asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from));
    return v;
}

static __device__ __forceinline__ void weft_store8(void *to, uint2 v)
{
    asm volatile("st.global.cs.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(v.x), "r"(v.y) : "memory");
}

static __device__ __forceinline__ void weft_store16(void *to, uint4 v)
{
    asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
}

#endif
