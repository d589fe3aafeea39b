/* Codes of a group of 8 elements, and scales, of the schemes whose scale is for a few elements: what groups.cu and marlin.cu
 * share. Quick codes are those of codes.h, of finite elements; the others are of any.
 */
#ifndef WEFT_KERNELS_CUDA_GROUP_CODES_CUH
#define WEFT_KERNELS_CUDA_GROUP_CODES_CUH

#include "kernels/cuda/codes.h"
#include "kernels/cuda/direct.cuh"

/* ---- Of any elements; `code` is an operation on one ---- */

template <weft_dtype_t D, typename CODE>
static __device__ __forceinline__ uint32_t four_bits(uint4 v, CODE code)
{
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
    uint32_t codes = 0;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const float2 x = unpack<D>(words[i]);
        codes |= (uint32_t)code(x.x) << 8 * i | (uint32_t)code(x.y) << (8 * i + 4);
    }
    return codes;
}

template <weft_dtype_t D> static __device__ __forceinline__ uint2 e4m3_times(uint4 v, float factor)
{
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
    uint32_t pairs[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const float2 x = unpack<D>(words[i]);
        pairs[i] = e4m3_pair(weft_mul(x.x, factor), weft_mul(x.y, factor));
    }
    return make_uint2(pairs[0] | pairs[1] << 16, pairs[2] | pairs[3] << 16);
}

/* What a group of elements becomes, and the scale that it shares. */
typedef struct encoded {
    uint2 codes; /* 4-bit ones in x */
    uint32_t scale;
} encoded_t;

template <weft_dtype_t D>
static __device__ __forceinline__ encoded_t encode_int4(uint4 v, weft_profile_t profile, float amax)
{
    const float scale = weft_int4_scale(profile, amax);
    const uint32_t codes = four_bits<D>(v, [=](float x) { return weft_int4_code(profile, x, scale); });
    return encoded_t{make_uint2(codes, 0), weft_bf16_from_f32(scale)};
}

/* ---- Quick ---- */

template <groups_kind_t K> constexpr bool is_int4 = K == INT4 || K == INT4_CT;
template <groups_kind_t K> constexpr bool is_nvfp4 = K == NV4 || K == NV4_MODELOPT;
template <groups_kind_t K> constexpr bool divides = is_int4<K> || K == NV4_MODELOPT;

/* The scale of a group: what elements are multiplied by (two parts of it where they are divided; nvfp4 has it in a
 * table), and what is stored. */
typedef struct scaling {
    weft_inverse_t factor;
    uint32_t stored;
    bool quick;
    bool saturates; /* e2m1: elements of 7 and more may come by */
} scaling_t;

static __device__ __forceinline__ scaling_t int4_scaling(weft_profile_t profile, float amax)
{
    const float scale = weft_int4_scale(profile, amax);
    return scaling_t{weft_inverse_of(scale), weft_bf16_from_f32(scale), weft_quick_scale(scale), false};
}

/* The signs of 8 values, each the highest of four bits. */
static __device__ __forceinline__ uint32_t signs_of(uint4 v)
{
    const uint32_t low = __byte_perm(v.x, v.y, 0x7351), high = __byte_perm(v.z, v.w, 0x7351);
    const uint32_t even = __byte_perm(low, high, 0x5410), odd = __byte_perm(low, high, 0x7632);
    return (even >> 4 & 0x08080808u) | (odd & 0x80808080u);
}

template <groups_kind_t K, bool SATURATE> static __device__ __forceinline__ uint32_t quick_code(float x)
{
    if (is_int4<K>)
        return weft_quick_int4(x);
    return SATURATE ? weft_saturating_e2m1(x) : weft_quick_e2m1(x);
}

template <weft_dtype_t D, groups_kind_t K, bool SATURATE = false>
static __device__ __forceinline__ uint32_t quick_codes(uint4 v, weft_inverse_t factor)
{
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
    uint32_t codes = 0u - 0x11111111u * (is_int4<K> ? WEFT_QUICK_INT4 : WEFT_QUICK_E2M1);
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const float2 x = unpack<D>(words[i]);
        float2 q = divides<K> ? make_float2(weft_quotient(x.x, factor), weft_quotient(x.y, factor))
                              : make_float2(weft_mul(x.x, factor.hi), weft_mul(x.y, factor.hi));
        if (K == INT4_CT)
            q = unpack<WEFT_DTYPE_BF16>(bf16_pair(q.x, q.y));
        codes += (quick_code<K, SATURATE>(q.x) << 8 * i) + (quick_code<K, SATURATE>(q.y) << (8 * i + 4));
    }
    return is_int4<K> ? codes : codes | signs_of(v);
}

#endif
