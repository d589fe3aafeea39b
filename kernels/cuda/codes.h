/* Codes of int8-channel, int4-group, mxfp4 and nvfp4 in few instructions, by themselves so that tests can try
 * them on every x and every amax.
 *
 *     x ---> quotient (quotient.h, or x * factor) ---> + a power of two whose ulp is the code's ---> low bits
 *
 * They are the codes of arith_int.h and arith_fp4.h wherever weft_quick_* of their scale says so; elsewhere (a
 * NaN or Inf, a scale near either end of fp32) only those will do.
 */
#ifndef WEFT_KERNELS_CUDA_CODES_H
#define WEFT_KERNELS_CUDA_CODES_H

#include "kernels/arith_fp4.h"
#include "kernels/arith_int.h"
#include "kernels/cuda/quotient.h"

WEFT_HD float weft_quick_min(float a, float b)
{
#if defined(__CUDA_ARCH__)
    return fminf(a, b);
#else
    return a < b ? a : b;
#endif
}

WEFT_HD float weft_quick_max(float a, float b)
{
#if defined(__CUDA_ARCH__)
    return fmaxf(a, b);
#else
    return a > b ? a : b;
#endif
}

/* Whether neither 1 / s nor what it leaves is near an end of fp32, and s not the last number below a power of two:
 * what its inverse leaves is just half an ulp of a power of two, which then rounds to even. */
WEFT_HD bool weft_quick_scale(float s)
{
    const uint32_t bits = weft_f32_bits(s), least = (127 - 60) << 23, span = 120u << 23; /* 2^-60 .. 2^60 */
    return bits - least < span && (bits & 0x7FFFFF) != 0x7FFFFF;
}

/* ---- Integers ---- */

/* The low byte is the nearest integer, of two the even one, of a quotient from `low` to 127. */
WEFT_HD uint32_t weft_quick_int8(float quotient, float low)
{
    const float clamped = weft_quick_max(weft_quick_min(quotient, 127.0f), low);
    return weft_f32_bits(weft_add(clamped, 12582912.0f)); /* 1.5 * 2^23: one ulp is 1 */
}

/* The low four bits are that integer and 8; quotients from -8.5, which becomes -8. All other bits are those of
 * WEFT_QUICK_INT4. */
#define WEFT_QUICK_INT4 0x4B400000u
WEFT_HD uint32_t weft_quick_int4(float quotient)
{
    return weft_f32_bits(weft_add(weft_quick_min(quotient, 7.0f), 12582920.0f));
}

/* ---- e2m1 ---- */

/* x * by + plus, not below 0 nor above 1, NaN 0; free on the device. */
WEFT_HD float weft_quick_saturate(float x, float by, float plus)
{
    const float value = weft_fma(x, by, plus);
#if defined(__CUDA_ARCH__)
    return __saturatef(value);
#else
    return value > 0.0f ? value < 1.0f ? value : 1.0f : 0.0f;
#endif
}

#define WEFT_QUICK_E2M1 0x4B400000u

/* The low three bits are the code of |x|, below 7; all other bits are those of WEFT_QUICK_E2M1.
 *
 *     min(2 |x|, |x| + 2, |x| / 2 + 4)      three lines that meet at 2 and at 4; the slope of each says how many codes there are
 *
 * Each is rounded as it is added up, once and to even, and the least of them is then what the least would be rounded to. */
WEFT_HD uint32_t weft_quick_e2m1(float x)
{
    const float magnitude = fabsf(x); /* 12582912 is 1.5 * 2^23: one ulp is 1 */
    const uint32_t steep = weft_f32_bits(weft_fma(magnitude, 2.0f, 12582912.0f));
    const uint32_t middle = weft_f32_bits(weft_add(magnitude, 12582914.0f));
    const uint32_t flat = weft_f32_bits(weft_fma(magnitude, 0.5f, 12582916.0f));
#if defined(__CUDA_ARCH__)
    return __vimin3_u32(steep, middle, flat);
#else
    const uint32_t least = steep < middle ? steep : middle;
    return least < flat ? least : flat;
#endif
}

/* The same of any |x| but NaN.
 *
 *     0 .. 2  in steps of 1/2: 4 codes      2 .. 4  of 1: 2      4 .. 6  of 2: 1
 *
 * Each range becomes 0 .. 1, of which those above |x| are 0 and those below it 1. Their steps are rounded one range
 * after the other as they are added up: a sum is odd only where no range after it adds anything, so all ties
 * are those of its own. */
WEFT_HD uint32_t weft_saturating_e2m1(float x)
{
    const float magnitude = fabsf(x);
    const float low = weft_quick_saturate(magnitude, 0.5f, 0.0f);
    const float middle = weft_quick_saturate(magnitude, 0.5f, -1.0f);
    const float high = weft_quick_saturate(magnitude, 0.5f, -2.0f);
    const float sum = weft_fma(low, 4.0f, 12582912.0f); /* 1.5 * 2^23: one ulp is 1 */
    return weft_f32_bits(weft_add(weft_fma(middle, 2.0f, sum), high));
}

#endif
