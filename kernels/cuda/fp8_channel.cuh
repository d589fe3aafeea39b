/* The division of fp8-channel, by itself so that tests/cuda can try it on every x and every amax. */
#ifndef WEFT_KERNELS_CUDA_FP8_CHANNEL_CUH
#define WEFT_KERNELS_CUDA_FP8_CHANNEL_CUH

/* x / s as far as its e4m3 code can tell, where r = fl(1/s), |x| <= 448 s and x has at most 11 bits of mantissa. The
 * signs are such that -0 stays -0. */
static __device__ __forceinline__ float weft_cuda_quotient(float x, float s, float r)
{
    float q = __fmul_rn(x, r);
    float e = __fmaf_rn(q, s, -x);
    return __fmaf_rn(-e, r, q);
}

#endif
