/* Arithmetic shared by host and device: what docs/numerics.md says, one element at a time.
 *
 * Both sides must give the same bytes, so there are only integer operations and fp32 operations that IEEE 754
 * rounds correctly. On the device those are the `_rn` intrinsics; on the host the plain operators, compiled
 * with -ffp-contract=off and run under the default environment (weft_kernels_thread_begin).
 *
 *                 sign exponent mantissa   bias
 *     fp32          1      8       23       127
 *     bf16          1      8        7       127    the upper half of an fp32
 *     fp16          1      5       10        15
 *     e4m3          1      4        3         7    no Inf; 0x7F and 0xFF are NaN, 0x7E is 448
 *
 * Nothing branches: every function is two results and a selection, which compilers vectorize.
 */
#ifndef WEFT_KERNELS_ARITH_H
#define WEFT_KERNELS_ARITH_H

#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__)
#define WEFT_HD static inline __host__ __device__
#else
#define WEFT_HD static inline
#endif

#define WEFT_F32_INF       0x7F800000
#define WEFT_F32_NAN       0x7FC00000
#define WEFT_F32_MAGNITUDE 0x7FFFFFFF
#define WEFT_BF16_INF      0x7F80
#define WEFT_F16_INF       0x7C00
#define WEFT_BF16_OVERFLOW 0x4780 /* the least bf16 that becomes Inf in fp16: 65536 */
#define WEFT_NAN16         0x7FFF /* the one NaN that weft writes, in bf16 and in fp16 */
#define WEFT_E4M3_NAN      0x7F
#define WEFT_E4M3_MAX      0x7E
#define WEFT_E4M3_SIGN     0x80

#define WEFT_E4M3_LARGEST  448.0f
#define WEFT_BLOCK_FLOOR   1e-4f                      /* least amax of an fp8-block block */
#define WEFT_CHANNEL_FLOOR (1.0f / (448.0f * 512.0f)) /* least scale of an fp8-channel row */

/* ---- Correctly rounded fp32 ---- */

WEFT_HD uint32_t weft_f32_bits(float x)
{
#if defined(__CUDA_ARCH__)
    return __float_as_uint(x);
#else
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
#endif
}

WEFT_HD float weft_f32(uint32_t bits)
{
#if defined(__CUDA_ARCH__)
    return __uint_as_float(bits);
#else
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
#endif
}

WEFT_HD float weft_add(float a, float b)
{
#if defined(__CUDA_ARCH__)
    return __fadd_rn(a, b);
#else
    return a + b;
#endif
}

WEFT_HD float weft_mul(float a, float b)
{
#if defined(__CUDA_ARCH__)
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

WEFT_HD float weft_div(float a, float b)
{
#if defined(__CUDA_ARCH__)
    return __fdiv_rn(a, b);
#else
    return a / b;
#endif
}

/* `a` where `condition` is 1, `b` where it is 0. By masks: with a conditional, compilers put the
 * floating-point half of it behind a branch, and then vectorize nothing. */
WEFT_HD int32_t weft_select(int condition, int32_t a, int32_t b)
{
    int32_t mask = -condition;
    return (a & mask) | (b & ~mask);
}

/* The larger of two numbers, neither of them NaN. */
WEFT_HD float weft_max(float a, float b)
{
    return a > b ? a : b;
}

/* ---- bf16 and fp16 ---- */

WEFT_HD float weft_f32_from_bf16(uint16_t bits)
{
    return weft_f32((uint32_t)bits << 16);
}

WEFT_HD uint16_t weft_bf16_from_f32(float x)
{
    uint32_t bits = weft_f32_bits(x);
    uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    return (uint16_t)((bits & WEFT_F32_MAGNITUDE) > WEFT_F32_INF ? WEFT_NAN16 : rounded);
}

WEFT_HD float weft_f32_from_f16(uint16_t bits)
{
    const int32_t rebias = (127 - 15) << 23, least_normal = (127 - 14) << 23; /* 2^-14 */
    int32_t magnitude = bits & 0x7FFF, shifted = magnitude << 13;
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16;
    /* With an implicit one in front, then without it: exact, and no fp32 subnormal is ever met. */
    float with_one = weft_f32((uint32_t)(shifted + least_normal));
    int32_t subnormal = (int32_t)weft_f32_bits(weft_add(with_one, -weft_f32((uint32_t)least_normal)));
    int32_t finite = weft_select(magnitude < 0x0400, subnormal, shifted + rebias);
    return weft_f32(sign | (uint32_t)weft_select(magnitude >= WEFT_F16_INF, shifted | WEFT_F32_INF, finite));
}

WEFT_HD uint16_t weft_f16_from_f32(float x)
{
    const int32_t least_normal = (127 - 14) << 23; /* 2^-14 */
    const int32_t overflow = 0x477FF000;           /* 65520, the tie between 65504 and what would be 65536 */
    uint32_t bits = weft_f32_bits(x);
    int32_t magnitude = (int32_t)(bits & WEFT_F32_MAGNITUDE);
    int32_t clamped = magnitude < overflow ? magnitude : overflow; /* rounds to 0x7C00, which is Inf */
    int32_t normal = ((clamped + 0x0FFF + (clamped >> 13 & 1)) >> 13) - ((127 - 15) << 10);
    /* One ulp of 0.5 is 2^-24, the least fp16: the addition rounds there, to even. */
    int32_t subnormal =
        (int32_t)(weft_f32_bits(weft_add(weft_f32((uint32_t)clamped), 0.5f)) - weft_f32_bits(0.5f));
    int32_t code = weft_select(clamped < least_normal, subnormal, normal);
    int32_t sign = (int32_t)(bits >> 16 & 0x8000);
    return (uint16_t)weft_select(magnitude > WEFT_F32_INF, WEFT_NAN16, sign | code);
}

/* A divisor as a multiplier, both as bits: 1/x. Processors differ in the NaN that a division makes of one. */
WEFT_HD uint32_t weft_inverted(uint32_t bits)
{
    uint32_t inverse = weft_f32_bits(weft_div(1.0f, weft_f32(bits)));
    return (bits & WEFT_F32_MAGNITUDE) > WEFT_F32_INF ? WEFT_F32_NAN : inverse;
}

/* ---- e4m3 ---- */

/* Round to nearest even and saturate to +-448, Inf too; -0 stays 0x80, NaN becomes 0x7F. */
WEFT_HD uint8_t weft_e4m3_from_f32(float x)
{
    const int32_t least_normal = (127 - 6) << 23; /* 2^-6 */
    const int32_t largest = 0x43E00000;           /* 448 */
    const float unit = 16384.0f;                  /* one ulp of it is 2^-9, the least e4m3 */
    uint32_t bits = weft_f32_bits(x);
    int32_t magnitude = (int32_t)(bits & WEFT_F32_MAGNITUDE);
    int32_t clamped = magnitude < largest ? magnitude : largest;
    int32_t normal = ((clamped + 0x7FFFF + (clamped >> 20 & 1)) >> 20) - ((127 - 7) << 3);
    int32_t subnormal =
        (int32_t)(weft_f32_bits(weft_add(weft_f32((uint32_t)clamped), unit)) - weft_f32_bits(unit));
    int32_t code = weft_select(clamped < least_normal, subnormal, normal);
    int32_t sign = (int32_t)(bits >> 24 & WEFT_E4M3_SIGN);
    return (uint8_t)weft_select(magnitude > WEFT_F32_INF, WEFT_E4M3_NAN, sign | code);
}

WEFT_HD float weft_f32_from_e4m3(uint8_t code)
{
    const int32_t rebias = (127 - 7) << 23, least_normal = (127 - 6) << 23;
    int32_t magnitude = code & 0x7F, shifted = magnitude << 20;
    uint32_t sign = (uint32_t)(code & WEFT_E4M3_SIGN) << 24;
    float with_one = weft_f32((uint32_t)(shifted + least_normal));
    int32_t subnormal = (int32_t)weft_f32_bits(weft_add(with_one, -weft_f32((uint32_t)least_normal)));
    int32_t finite = weft_select(magnitude < 0x08, subnormal, shifted + rebias);
    return weft_f32(sign | (uint32_t)weft_select(magnitude == WEFT_E4M3_NAN, WEFT_F32_NAN, finite));
}

/* ---- Scales of fp8-block ---- */

/* Profile `ieee`: one true division. */
WEFT_HD float weft_block_scale_ieee(float amax)
{
    return weft_div(weft_max(amax, WEFT_BLOCK_FLOOR), WEFT_E4M3_LARGEST);
}

/* Profile `vllm`: what eager CUDA makes of a division by a constant. */
WEFT_HD float weft_block_scale_vllm(float amax)
{
    return weft_mul(weft_max(amax, WEFT_BLOCK_FLOOR), 1.0f / WEFT_E4M3_LARGEST);
}

/* The least power of two that is not below `v`, as its biased exponent; `v` is positive and finite. */
WEFT_HD uint32_t weft_exponent_ceil(float v)
{
    uint32_t bits = weft_f32_bits(v), exponent = bits >> 23, mantissa = bits & 0x7FFFFF;
    return exponent + (mantissa > (exponent ? 0u : 0x400000u));
}

/* Profile `pow2`. The floor and the finiteness of `amax` keep the exponent between 105 and 247: scale and
 * inverse are both normal, so neither end of the range 1..254 is ever met. */
WEFT_HD float weft_block_scale_pow2(float amax)
{
    return weft_f32(weft_exponent_ceil(weft_block_scale_ieee(amax)) << 23);
}

/* What `ieee` and `vllm` multiply by: 1/s, rounded. Exact where s is a power of two, hence `pow2` too. */
WEFT_HD float weft_block_factor(float scale)
{
    return weft_div(1.0f, scale);
}

/* Second half of `vllm-pow2`: a code of `vllm` under `scale`, seen as fp32 and rounded again under 1/factor.
 */
WEFT_HD uint8_t weft_block_recode(uint8_t code, float scale, float factor)
{
    return weft_e4m3_from_f32(weft_mul(weft_mul(weft_f32_from_e4m3(code), scale), factor));
}

/* ---- fp8-channel ---- */

WEFT_HD float weft_channel_scale(float amax)
{
    return weft_max(weft_div(amax, WEFT_E4M3_LARGEST), WEFT_CHANNEL_FLOOR);
}

/* A true division: a product with the reciprocal rounds some midpoints the other way. */
WEFT_HD uint8_t weft_channel_code(float x, float scale)
{
    return weft_e4m3_from_f32(weft_div(x, scale));
}

#endif
