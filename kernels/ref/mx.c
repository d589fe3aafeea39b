/* mxfp8 and mxfp4: a power of two for each 32 elements of a row, stored as its exponent byte.
 *
 *     mxfp8  | 32 e4m3 bytes |       mxfp4  | 16 bytes: k1 k0, k3 k2, ... |     E  one byte a group
 *
 * 2 bytes read, 1 (1/2) written, an element, and 1 byte a group.
 */
#include "kernels/arith_fp4.h"
#include "kernels/ref/groups.h"
#include "kernels/ref/ref.h"

static void encode_mxfp8(const weft_group_t *group)
{
    uint8_t exponent = weft_mxfp8_exponent(group->amax);
    float factor = weft_mx_factor(exponent);
    *(uint8_t *)group->scale = exponent;
    for (uint32_t i = 0; i < group->size; i++)
        group->out[i] = weft_e4m3_from_f32(weft_mul(group->x[i], factor));
}

static void encode_mxfp4(const weft_group_t *group)
{
    uint8_t exponent = weft_mxfp4_exponent(group->amax);
    float factor = weft_mx_factor(exponent);
    *(uint8_t *)group->scale = exponent;
    for (uint32_t i = 0; i < group->size; i += 2) {
        uint8_t low = weft_e2m1_from_f32(weft_mul(group->x[i], factor));
        uint8_t high = weft_e2m1_from_f32(weft_mul(group->x[i + 1], factor));
        group->out[i / 2] = (uint8_t)(low | high << 4);
    }
}

weft_status_t weft_ref_mxfp8(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    if (unit->profile != WEFT_PROFILE_DEFAULT || unit->out_dtype != WEFT_DTYPE_F8_E4M3)
        return WEFT_ERR_ARGUMENT;
    return weft_groups_encode(WEFT_KERNEL_MXFP8, unit, NULL, encode_mxfp8, result);
}

weft_status_t weft_ref_mxfp4(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    if (unit->profile != WEFT_PROFILE_DEFAULT || unit->out_dtype != WEFT_DTYPE_U8)
        return WEFT_ERR_ARGUMENT;
    return weft_groups_encode(WEFT_KERNEL_MXFP4, unit, NULL, encode_mxfp4, result);
}
