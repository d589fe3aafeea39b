/* Bits to floats, one element at a time, for the host and for a GPU. All of it is exact.
 *
 *                 sign exponent mantissa   bias
 *     bf16          1      8        7       127    the upper half of an fp32
 *     fp16          1      5       10        15
 *     e4m3          1      4        3         7    no Inf; 0x7F and 0xFF are NaN
 *     e2m1          1      2        1         1    no Inf, no NaN
 *     e8m0          0      8        0       127    a power of two; 0xFF is NaN
 *
 * Nothing branches, so that loops over these functions vectorize: a condition becomes a mask, and no float
 * operation hangs on one.
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

/* From exponent and mantissa, moved to their place in an fp32, to the fp32 without its sign: the exponent
 * goes up by `by`. A subnormal has no hidden 1: it is read as if it had, with the least normal exponent, and
 * the 1 is taken off again, which is exact. */
DECODER_HD uint32_t decoder_rebias(int32_t magnitude, int32_t by)
{
    int32_t small = -(magnitude < (1 << 23));
    int32_t exponent = (by << 23) + (small & (1 << 23)), one = small & ((by + 1) << 23);
    float value =
        decoder_float_of_bits((uint32_t)(magnitude + exponent)) - decoder_float_of_bits((uint32_t)one);
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

DECODER_HD float decoder_float_of_bf16(uint16_t code)
{
    return decoder_float_of_bits((uint32_t)code << 16);
}

DECODER_HD float decoder_float_of_fp16(uint16_t code)
{
    int32_t magnitude = (code & 0x7FFF) << 13, special = -(magnitude >= (31 << 23)) & 0x7F800000;
    uint32_t sign = (uint32_t)(code & 0x8000) << 16;
    return decoder_float_of_bits(decoder_rebias(magnitude, 112) | (uint32_t)special | sign);
}

DECODER_HD float decoder_float_of_e4m3(uint8_t code)
{
    int32_t magnitude = (code & 0x7F) << 20, nan = -(magnitude == (0x7F << 20)) & 0x7FC00000;
    uint32_t sign = (uint32_t)(code & 0x80) << 24;
    return decoder_float_of_bits(decoder_rebias(magnitude, 120) | (uint32_t)nan | sign);
}

/* Of the low four bits. The one subnormal, 0.5, is a power of two like any other. */
DECODER_HD float decoder_float_of_e2m1(uint32_t code)
{
    int32_t magnitude = (int32_t)(code & 7), normal = (126 << 23) + (magnitude << 22);
    int32_t bits = (normal - ((magnitude == 1) << 22)) & -(magnitude != 0);
    return decoder_float_of_bits((uint32_t)bits | (code & 8) << 28);
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
