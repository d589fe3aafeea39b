/* int8-channel: the nearest integer of x / s, which profiles round to bf16 before. */
#include "kernels/cuda/channel.cuh"
#include "kernels/cuda/codes.h"

namespace {

struct int8_code {
    static constexpr bool QUICK_ALWAYS = false;
    static __device__ __forceinline__ bool quick(float scale)
    {
        return weft_quick_scale(scale);
    }
    static __device__ __forceinline__ float scale(weft_profile_t profile, float amax)
    {
        return weft_int8_scale(profile, amax);
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

} // namespace

weft_status_t weft_cuda_launch_int8_channel(const work_t *work, weft_dtype_t dtype, uint32_t threads,
                                            unsigned extras, cudaStream_t stream)
{
    return launch_channel<int8_code>(work, dtype, threads, extras, stream);
}
