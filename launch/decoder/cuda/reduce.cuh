/* Reductions over a warp and over a block, in one fixed order: a result does not depend on timing. */
#ifndef WEFT_LAUNCH_DECODER_CUDA_REDUCE_CUH
#define WEFT_LAUNCH_DECODER_CUDA_REDUCE_CUH

#include <cuda_runtime.h>
#include <stdint.h>

constexpr uint32_t WARP = 32;
constexpr uint32_t ALL_LANES = 0xFFFFFFFFu;

typedef struct sum {
    template <typename T> __device__ T operator()(T a, T b) const
    {
        return a + b;
    }
} sum_t;

typedef struct larger {
    template <typename T> __device__ T operator()(T a, T b) const
    {
        return a > b ? a : b;
    }
} larger_t;

template <typename T, typename OP> static __device__ __forceinline__ T warp_reduce(T value, OP op)
{
#pragma unroll
    for (uint32_t apart = WARP / 2; apart; apart /= 2)
        value = op(value, __shfl_xor_sync(ALL_LANES, value, apart));
    return value;
}

/* Every thread of the block gets the result. */
template <uint32_t THREADS, typename T, typename OP>
static __device__ __forceinline__ T block_reduce(T value, OP op)
{
    __shared__ T partials[THREADS / WARP];
    value = warp_reduce(value, op);
    __syncthreads(); /* an earlier reduction has been read */
    if (threadIdx.x % WARP == 0)
        partials[threadIdx.x / WARP] = value;
    __syncthreads();
    T total = partials[0];
    for (uint32_t i = 1; i < THREADS / WARP; i++)
        total = op(total, partials[i]);
    return total;
}

/* A key that is larger where the value is larger, and among equal values where the index is smaller. */
static __device__ __forceinline__ unsigned long long rank_key(float value, uint32_t index)
{
    uint32_t bits = __float_as_uint(value + 0.0f); /* -0 counts as 0 */
    bits ^= bits >> 31 ? 0xFFFFFFFFu : 0x80000000u;
    return (unsigned long long)bits << 32 | (uint32_t)~index;
}

static __device__ __forceinline__ uint32_t rank_index(unsigned long long key)
{
    return ~(uint32_t)key;
}

#endif
