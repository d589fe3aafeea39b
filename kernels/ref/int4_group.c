/* int4-group: one scale for each 32, 64 or 128 elements of a row; eight codes in an int32.
 *
 *     word  | k7 k6 k5 k4 k3 k2 k1 k0 |   four bits each: value + 8        scale  bf16, one a group
 *
 * 2 bytes read, 1/2 written, an element, and 2 bytes a group.
 */
#include <string.h>

#include "kernels/arith_int.h"
#include "kernels/ref/groups.h"
#include "kernels/ref/ref.h"

static void encode(const weft_group_t *group)
{
    weft_profile_t profile = group->unit->profile;
    float scale = weft_int4_scale(profile, group->amax);
    uint16_t stored = weft_bf16_from_f32(scale);
    memcpy(group->scale, &stored, sizeof stored);
    for (uint32_t i = 0; i < group->size; i += 8) {
        uint32_t word = 0;
        for (uint32_t k = 0; k < 8; k++)
            word |= (uint32_t)weft_int4_code(profile, group->x[i + k], scale) << 4 * k;
        memcpy(group->out + i / 2, &word, sizeof word);
    }
}

static weft_status_t quantize(weft_kernel_id_t kernel, const weft_quantize_unit_t *unit,
                              weft_quantize_result_t *result)
{
    bool profile = unit->profile == WEFT_PROFILE_DEFAULT || unit->profile == WEFT_PROFILE_IEEE ||
                   unit->profile == WEFT_PROFILE_CT || unit->profile == WEFT_PROFILE_QAT;
    if (!profile || unit->out_dtype != WEFT_DTYPE_I32)
        return WEFT_ERR_ARGUMENT;
    return weft_groups_encode(kernel, unit, NULL, encode, result);
}

weft_status_t weft_ref_int4_group_32(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    return quantize(WEFT_KERNEL_INT4_GROUP_32, unit, result);
}

weft_status_t weft_ref_int4_group_64(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    return quantize(WEFT_KERNEL_INT4_GROUP_64, unit, result);
}

weft_status_t weft_ref_int4_group_128(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    return quantize(WEFT_KERNEL_INT4_GROUP_128, unit, result);
}
