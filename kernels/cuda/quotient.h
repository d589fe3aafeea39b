/* The division of fp8-channel without a division, by itself so that tests can try it on every x and every
 * amax.
 *
 *     hi = 1/s rounded down        lo = (1 - hi s) hi, what is left of it        q = fma(x, hi, x lo)
 *
 * q has the same e4m3 code as x / s rounded to fp32, for every finite bf16 or fp16 x and every s of a row
 * whose amax is at least |x|, signs of zero included: neither part is negative, so that -0 stays -0. Where
 * |x| is larger, or not finite, only the division itself will do.
 */
#ifndef WEFT_KERNELS_CUDA_QUOTIENT_H
#define WEFT_KERNELS_CUDA_QUOTIENT_H

#include <math.h>

#include "kernels/arith.h"

typedef struct weft_inverse {
    float hi, lo;
} weft_inverse_t;

WEFT_HD float weft_fma(float a, float b, float c)
{
#if defined(__CUDA_ARCH__)
    return __fmaf_rn(a, b, c);
#else
    return fmaf(a, b, c);
#endif
}

WEFT_HD weft_inverse_t weft_inverse_of(float s)
{
    weft_inverse_t inverse = {weft_div(1.0f, s), 0.0f};
    float rest = weft_fma(-inverse.hi, s, 1.0f);
    if (rest < 0.0f) {
        inverse.hi = weft_f32(weft_f32_bits(inverse.hi) - 1);
        rest = weft_fma(-inverse.hi, s, 1.0f);
    }
    inverse.lo = weft_mul(rest, inverse.hi);
    return inverse;
}

WEFT_HD float weft_quotient(float x, weft_inverse_t inverse)
{
    return weft_fma(x, inverse.hi, weft_mul(x, inverse.lo));
}

#endif
