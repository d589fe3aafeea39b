/* Arithmetic of int8-channel and int4-group, shared by host and device as arith.h is.
 *
 *     code = clamp(round to nearest even(x / scale))      a true division, profiles round it to bf16 before
 */
#ifndef WEFT_KERNELS_ARITH_INT_H
#define WEFT_KERNELS_ARITH_INT_H

#include "kernels/arith.h"
#include "kernels/kernels.h"

#define WEFT_CT_ZERO_SCALE 0.0078125f /* 2^-7, bf16's epsilon: what compressed-tensors puts for a scale of 0 */
#define WEFT_QAT_FLOOR     1e-5f      /* least scale of int4-group's `qat` */

WEFT_HD float weft_round_bf16(float x)
{
    return weft_f32_from_bf16(weft_bf16_from_f32(x));
}

/* The nearest integer, of two the even one, not below `low` nor above `high` (both below 2^22); NaN becomes 0. */
WEFT_HD int32_t weft_int_from_f32(float x, float low, float high)
{
    const float unit = 12582912.0f; /* 1.5 * 2^23: one ulp of it is 1 */
    float clamped = x < low ? low : x > high ? high : x;
    int32_t nearest = (int32_t)(weft_f32_bits(weft_add(clamped, unit)) - weft_f32_bits(unit));
    return weft_select((weft_f32_bits(x) & WEFT_F32_MAGNITUDE) > WEFT_F32_INF, 0, nearest);
}

/* A scale that is 0, or that rounds to it, is of nothing but zeros. */
WEFT_HD float weft_int_nonzero(weft_profile_t profile, float scale)
{
    return scale > 0 ? scale : profile == WEFT_PROFILE_CT ? WEFT_CT_ZERO_SCALE : 1.0f;
}

/* ---- int8-channel ---- */

WEFT_HD float weft_int8_scale(weft_profile_t profile, float amax)
{
    float scale = profile == WEFT_PROFILE_VLLM ? weft_round_bf16(weft_mul(amax, 1.0f / 127.0f))
                  : profile == WEFT_PROFILE_CT ? weft_round_bf16(weft_div(amax, 127.5f))
                                               : weft_div(amax, 127.0f);
    return weft_int_nonzero(profile, scale);
}

/* Whether a quotient is rounded to bf16 first. */
WEFT_HD bool weft_int8_rounds(weft_profile_t profile)
{
    return profile == WEFT_PROFILE_VLLM || profile == WEFT_PROFILE_CT;
}

WEFT_HD float weft_int8_low(weft_profile_t profile)
{
    return profile == WEFT_PROFILE_CT ? -128.0f : -127.0f;
}

WEFT_HD int8_t weft_int8_code(weft_profile_t profile, float x, float scale)
{
    float quotient = weft_div(x, scale);
    if (weft_int8_rounds(profile))
        quotient = weft_round_bf16(quotient);
    return (int8_t)weft_int_from_f32(quotient, weft_int8_low(profile), 127.0f);
}

/* ---- int4-group ---- */

/* What codes are divided by; stored rounded to bf16, which all but `qat` have rounded it to already. */
WEFT_HD float weft_int4_scale(weft_profile_t profile, float amax)
{
    if (profile == WEFT_PROFILE_QAT)
        return weft_max(weft_mul(amax, 1.0f / 7.0f), WEFT_QAT_FLOOR);
    return weft_int_nonzero(profile, weft_round_bf16(weft_div(amax, 7.5f)));
}

/* As it is stored, 0..15: the value and 8. */
WEFT_HD uint8_t weft_int4_code(weft_profile_t profile, float x, float scale)
{
    float quotient = weft_div(x, scale);
    if (profile == WEFT_PROFILE_CT)
        quotient = weft_round_bf16(quotient);
    return (uint8_t)(weft_int_from_f32(quotient, -8.0f, 7.0f) + 8);
}

#endif
