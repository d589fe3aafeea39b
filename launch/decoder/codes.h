/* Bits to floats, one element at a time, for the host and for a GPU. All of it is exact.
 *
 *                 sign exponent mantissa   bias
 *     bf16          1      8        7       127    the upper half of an fp32
 *     fp16          1      5       10        15
 *     e4m3          1      4        3         7    no Inf; 0x7F and 0xFF are NaN
 *     e2m1          1      2        1         1    no Inf, no NaN
 *     e8m0          0      8        0       127    a power of two; 0xFF is NaN
 *
 * Exponent and mantissa move to the fp32's place and the exponent is rebiased. A subnormal has no hidden 1:
 * it is read as if it had, with the least normal exponent, and the 1 is taken off again, which is exact.
 * Nothing branches, so that loops over these functions vectorize.
 */
#ifndef WEFT_LAUNCH_DECODER_CODES_H
#define WEFT_LAUNCH_DECODER_CODES_H

#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define DECODER_HD static inline __host__ __device__
#else
#define DECODER_HD static inline
#endif

DECODER_HD float decoder_float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

DECODER_HD float decoder_with_sign(float magnitude, uint32_t sign)
{
    uint32_t bits;
    memcpy(&bits, &magnitude, sizeof bits);
    return decoder_float_of_bits(bits | sign);
}

DECODER_HD float decoder_float_of_bf16(uint16_t code)
{
    return decoder_float_of_bits((uint32_t)code << 16);
}

DECODER_HD float decoder_float_of_fp16(uint16_t code)
{
    uint32_t magnitude = (uint32_t)(code & 0x7FFF) << 13;
    float normal = decoder_float_of_bits(magnitude + (112u << 23));
    float subnormal = decoder_float_of_bits(magnitude + (113u << 23)) - 0x1p-14f;
    float special = decoder_float_of_bits(magnitude | 0x7F800000u);
    float value = magnitude < (1u << 23) ? subnormal : magnitude >= (31u << 23) ? special : normal;
    return decoder_with_sign(value, (uint32_t)(code & 0x8000) << 16);
}

DECODER_HD float decoder_float_of_e4m3(uint8_t code)
{
    uint32_t magnitude = (uint32_t)(code & 0x7F) << 20;
    float normal = decoder_float_of_bits(magnitude + (120u << 23));
    float subnormal = decoder_float_of_bits(magnitude + (121u << 23)) - 0x1p-6f;
    float nan = decoder_float_of_bits(0x7FC00000u);
    float value = magnitude < (1u << 23) ? subnormal : magnitude == (0x7Fu << 20) ? nan : normal;
    return decoder_with_sign(value, (uint32_t)(code & 0x80) << 24);
}

/* Of the low four bits. */
DECODER_HD float decoder_float_of_e2m1(uint32_t code)
{
    uint32_t magnitude = (code & 7) << 22;
    float normal = decoder_float_of_bits(magnitude + (126u << 23));
    float subnormal = decoder_float_of_bits(magnitude + (127u << 23)) - 1.0f;
    float value = magnitude < (1u << 23) ? subnormal : normal;
    return decoder_with_sign(value, (code & 8) << 28);
}

/* Of the low four bits, which hold the value plus 8. */
DECODER_HD float decoder_float_of_int4(uint32_t code)
{
    return (float)((int32_t)(code & 15) - 8);
}

/* 2^-127 is a subnormal fp32, whose exponent field cannot say it. */
DECODER_HD float decoder_float_of_e8m0(uint8_t code)
{
    uint32_t bits = code == 0 ? 0x00400000u : code == 0xFF ? 0x7FC00000u : (uint32_t)code << 23;
    return decoder_float_of_bits(bits);
}

#endif
