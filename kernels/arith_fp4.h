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

/* The scale's exponent byte; `amax` is finite. Without zeros in mind: those give 0. */
WEFT_HD uint8_t weft_mxfp8_exponent(float amax)
{
    uint32_t exponent = weft_exponent_ceil(weft_div(amax, WEFT_E4M3_LARGEST));
    return (uint8_t)(exponent < 254 ? exponent : 254);
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

#endif
