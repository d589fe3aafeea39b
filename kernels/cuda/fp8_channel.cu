/* fp8-channel: x / s must be what one true division gives, rounded, and then rounded to e4m3; quotient.h does it
 * in two operations for a row whose amax covers it. */
#include "kernels/cuda/channel.cuh"

namespace {

struct fp8_code {
    static constexpr bool QUICK_ALWAYS = true;
    static __device__ __forceinline__ bool quick(float)
    {
        return true;
    }
    static __device__ __forceinline__ float scale(weft_profile_t, float amax)
    {
        return weft_channel_scale(amax);
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

} // namespace

weft_status_t weft_cuda_launch_fp8_channel(const work_t *work, weft_dtype_t dtype, uint32_t threads,
                                           unsigned extras, cudaStream_t stream)
{
    return launch_channel<fp8_code>(work, dtype, threads, extras, stream);
}
