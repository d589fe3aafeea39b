/* What a code of a channel scheme is, for the kernels that take a CODE:
 *
 *     CODE::OF_TENSOR                            one scale for all rows, and no amax of theirs that covers them
 *     CODE::scale(profile, amax)                 of a row
 *     CODE::QUICK_ALWAYS, CODE::quick(scale)     whether `encode` may be asked, if no |x| is above the amax
 *     CODE::inverse(scale)                       what `encode` wants of it
 *     CODE::encode<D>(word, inverse, profile)    two codes, without a division
 *     CODE::divide<D>(word, scale, profile)      the same of any two elements
 */
#ifndef WEFT_KERNELS_CUDA_CHANNEL_CODES_CUH
#define WEFT_KERNELS_CUDA_CHANNEL_CODES_CUH

#include "kernels/cuda/codes.h"
#include "kernels/cuda/tile.cuh"

namespace {

/* fp8-channel: x / s must be what one true division gives, rounded, and then rounded to e4m3; quotient.h does it in two
 * operations for a row whose amax covers it. */
struct fp8_code {
    static constexpr bool OF_TENSOR = false;
    static constexpr bool QUICK_ALWAYS = true;
    static __device__ __forceinline__ bool quick(float)
    {
        return true;
    }
    static __device__ __forceinline__ float scale(weft_profile_t, float amax)
    {
        return weft_channel_scale(amax);
    }
    static __device__ __forceinline__ weft_inverse_t inverse(float s)
    {
        return weft_inverse_of(s);
    }
    template <weft_dtype_t D>
    static __device__ __forceinline__ uint32_t encode(uint32_t word, weft_inverse_t inverse, weft_profile_t)
    {
        const float2 x = unpack<D>(word);
        return e4m3_pair(weft_quotient(x.x, inverse), weft_quotient(x.y, inverse));
    }
    template <weft_dtype_t D>
    static __device__ __forceinline__ uint32_t divide(uint32_t word, float s, weft_profile_t)
    {
        const float2 x = unpack<D>(word);
        return e4m3_pair(weft_div(x.x, s), weft_div(x.y, s));
    }
};

/* int8-channel: the nearest integer of x / s, which profiles round to bf16 before. */
struct int8_code {
    static constexpr bool OF_TENSOR = false;
    static constexpr bool QUICK_ALWAYS = false;
    static __device__ __forceinline__ bool quick(float scale)
    {
        return weft_quick_scale(scale);
    }
    static __device__ __forceinline__ float scale(weft_profile_t profile, float amax)
    {
        return weft_int8_scale(profile, amax);
    }
    static __device__ __forceinline__ weft_inverse_t inverse(float s)
    {
        return weft_inverse_of(s);
    }
    template <weft_dtype_t D>
    static __device__ __forceinline__ uint32_t encode(uint32_t word, weft_inverse_t inverse, weft_profile_t profile)
    {
        const float2 x = unpack<D>(word);
        float2 q = make_float2(weft_quotient(x.x, inverse), weft_quotient(x.y, inverse));
        if (weft_int8_rounds(profile))
            q = unpack<WEFT_DTYPE_BF16>(bf16_pair(q.x, q.y));
        const float low = weft_int8_low(profile);
        return __byte_perm(weft_quick_int8(q.x, low), weft_quick_int8(q.y, low), 0x7740) & 0xFFFF;
    }
    template <weft_dtype_t D>
    static __device__ __forceinline__ uint32_t divide(uint32_t word, float s, weft_profile_t profile)
    {
        const float2 x = unpack<D>(word);
        return (uint8_t)weft_int8_code(profile, x.x, s) | (uint32_t)(uint8_t)weft_int8_code(profile, x.y, s) << 8;
    }
};

/* fp8-tensor: a product with 1 / s, whatever the elements. */
struct tensor_code {
    static constexpr bool OF_TENSOR = true;
    static constexpr bool QUICK_ALWAYS = true;
    static __device__ __forceinline__ bool quick(float)
    {
        return true;
    }
    static __device__ __forceinline__ float scale(weft_profile_t, float amax)
    {
        return weft_tensor_scale(amax);
    }
    static __device__ __forceinline__ weft_inverse_t inverse(float s)
    {
        return weft_inverse_t{weft_block_factor(s), 0};
    }
    template <weft_dtype_t D>
    static __device__ __forceinline__ uint32_t encode(uint32_t word, weft_inverse_t inverse, weft_profile_t)
    {
        const float2 x = unpack<D>(word);
        return e4m3_pair(weft_mul(x.x, inverse.hi), weft_mul(x.y, inverse.hi));
    }
    template <weft_dtype_t D>
    static __device__ __forceinline__ uint32_t divide(uint32_t word, float s, weft_profile_t profile)
    {
        return encode<D>(word, inverse(s), profile);
    }
};

} // namespace

template <weft_dtype_t D, typename CODE>
static __device__ __forceinline__ uint2 encode_group(uint4 v, weft_inverse_t inverse, weft_profile_t profile)
{
    return make_uint2(CODE::template encode<D>(v.x, inverse, profile) |
                          CODE::template encode<D>(v.y, inverse, profile) << 16,
                      CODE::template encode<D>(v.z, inverse, profile) |
                          CODE::template encode<D>(v.w, inverse, profile) << 16);
}

template <weft_dtype_t D, typename CODE>
static __device__ __forceinline__ uint2 divide_group(uint4 v, float s, weft_profile_t profile)
{
    return make_uint2(
        CODE::template divide<D>(v.x, s, profile) | CODE::template divide<D>(v.y, s, profile) << 16,
        CODE::template divide<D>(v.z, s, profile) | CODE::template divide<D>(v.w, s, profile) << 16);
}

#endif
