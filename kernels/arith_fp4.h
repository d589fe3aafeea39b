/* Arithmetic of formats with a scale for each few elements of a row (mxfp8, mxfp4, nvfp4), shared by host and device as
 * arith.h is.
 *
 *                 sign exponent mantissa   bias
 *     e2m1          1      2        1        1    0 .5 1 1.5 2 3 4 6; no Inf, no NaN
 *     e8m0          0      8        0       127   the exponent byte of an fp32
 */
#ifndef WEFT_KERNELS_ARITH_FP4_H
#define WEFT_KERNELS_ARITH_FP4_H

#include "kernels/arith.h"
#include "kernels/kernels.h"

#define WEFT_E2M1_SIGN 0x8

/* Round to nearest even and saturate to +-6, Inf too; -0 stays 0x8, NaN becomes 0. */
WEFT_HD uint8_t weft_e2m1_from_f32(float x)
{
    uint32_t bits = weft_f32_bits(x);
    int32_t m = (int32_t)(bits & WEFT_F32_MAGNITUDE);
    /* The ties .25 .75 1.25 1.75 2.5 3.5 5: every other one goes up. */
    int32_t code = (m > 0x3E800000) + (m >= 0x3F400000) + (m > 0x3FA00000) + (m >= 0x3FE00000) +
                   (m > 0x40200000) + (m >= 0x40600000) + (m > 0x40A00000);
    int32_t sign = (int32_t)(bits >> 28 & WEFT_E2M1_SIGN);
    return (uint8_t)weft_select(m > WEFT_F32_INF, 0, sign | code);
}

/* ---- mxfp8 and mxfp4 ---- */

/* The scale's exponent byte; `amax` is finite. That of the least power of two not below amax / 448: 448 is 1.75 * 2^8,
 * so an amax of a mantissa above 1.75 goes to the next. No value of 16 bits is so near that the division would round. */
WEFT_HD uint8_t weft_mxfp8_exponent(float amax)
{
    int32_t exponent = (int32_t)((weft_f32_bits(amax) + 0x1FFFFF) >> 23) - 8;
    return (uint8_t)(exponent > 0 ? exponent : 0);
}

/* Rounds the mantissa to two bits first, so that 3.5 times a power of two and more goes to the next. */
WEFT_HD uint8_t weft_mxfp4_exponent(float amax)
{
    int32_t exponent = (int32_t)((weft_f32_bits(amax) + 0x200000) >> 23) - 2;
    return (uint8_t)(exponent > 0 ? exponent : 0);
}

/* 2^(127 - exponent), exactly: what an element is multiplied by. */
WEFT_HD float weft_mx_factor(uint8_t exponent)
{
    return weft_f32(exponent < 254 ? (uint32_t)(254 - exponent) << 23 : 0x400000u);
}

/* ---- fp8-tensor ---- */

/* Where the inverse of amax / 448 would be Inf, or there are only zeros: 1. */
WEFT_HD float weft_tensor_scale(float amax)
{
    float scale = weft_div(amax, WEFT_E4M3_LARGEST);
    float usable = scale > 0 ? scale : 1.0f;
    return (weft_f32_bits(weft_div(1.0f, usable)) & WEFT_F32_MAGNITUDE) < WEFT_F32_INF ? usable : 1.0f;
}

/* ---- nvfp4 ---- */

#define WEFT_F32_LARGEST 3.402823466385288598e+38f
#define WEFT_NVFP4_RANGE 2688.0f /* 6 * 448: the largest code under the largest scale */

/* What is the same for all groups of a tensor. */
typedef struct weft_nvfp4 {
    float global; /* stored: an element stands for code * scale * global */
    float to_scale; /* default: what a group's amax is multiplied by; modelopt: divided by */
    int modelopt;
} weft_nvfp4_t;

/* The default computes S = 2688 / amax, TransformerEngine's order, and stores 1 / S; modelopt amax / 2688. */
WEFT_HD weft_nvfp4_t weft_nvfp4_domain(weft_profile_t profile, float amax)
{
    weft_nvfp4_t d;
    d.modelopt = profile == WEFT_PROFILE_MODELOPT;
    if (d.modelopt) {
        d.global = amax > 0 ? weft_div(amax, WEFT_NVFP4_RANGE) : 1.0f;
        d.to_scale = weft_mul(6.0f, d.global);
        return d;
    }
    float s = amax > 0 ? weft_div(WEFT_NVFP4_RANGE, amax) : 1.0f;
    s = s < WEFT_F32_LARGEST ? s : WEFT_F32_LARGEST;
    d.global = weft_div(1.0f, s);
    d.to_scale = weft_mul(s, 1.0f / 6.0f);
    return d;
}

/* The e4m3 scale of a group. */
WEFT_HD uint8_t weft_nvfp4_scale(const weft_nvfp4_t *d, float amax)
{
    if (!d->modelopt)
        return weft_e4m3_from_f32(weft_mul(amax, d->to_scale));
    float quotient = weft_div(amax, d->to_scale);
    float clamped = quotient > 0 ? weft_max(quotient, 0.001953125f) : 1.0f; /* 2^-9 */
    return weft_e4m3_from_f32(clamped);
}

/* What elements of a group are multiplied by (modelopt: divided by; 0 where all codes are zeros). A scale that
 * rounded to 0 leaves elements that are not 0 the largest codes. */
WEFT_HD float weft_nvfp4_factor(const weft_nvfp4_t *d, uint8_t scale)
{
    float product = weft_mul(weft_f32_from_e4m3(scale), d->global);
    if (d->modelopt)
        return product;
    float factor = product > 0 ? weft_div(1.0f, product) : WEFT_F32_LARGEST;
    return factor < WEFT_F32_LARGEST ? factor : WEFT_F32_LARGEST;
}

WEFT_HD uint8_t weft_nvfp4_code(const weft_nvfp4_t *d, float x, float factor)
{
    if (!d->modelopt)
        return weft_e2m1_from_f32(weft_mul(x, factor));
    if (factor > 0)
        return weft_e2m1_from_f32(weft_div(x, factor));
    bool finite = (weft_f32_bits(x) & WEFT_F32_MAGNITUDE) < WEFT_F32_INF;
    return weft_e2m1_from_f32(finite ? weft_mul(x, 0.0f) : x);
}

#endif
