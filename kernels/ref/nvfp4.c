/* nvfp4: an e4m3 scale for each 16 elements of a row, under one of the whole layer (of experts one each).
 *
 *     | 8 bytes: k1 k0, k3 k2, ... |     sf  e4m3, one a group     global  fp32, the number to multiply with
 *
 * 2 bytes read twice where no amax was sent ahead, 1/2 written, an element, and 1 byte a group.
 */
#include <string.h>

#include "kernels/arith_fp4.h"
#include "kernels/ref/groups.h"
#include "kernels/ref/ref.h"
#include "src/base/error.h"

static void put_codes(const weft_group_t *group, const uint8_t *code)
{
    for (uint32_t i = 0; i < group->size; i += 2)
        group->out[i / 2] = (uint8_t)(code[i] | code[i + 1] << 4);
}

static void encode(const weft_group_t *group)
{
    const weft_nvfp4_t *domain = group->domain;
    uint8_t code[WEFT_TILE], scale = weft_nvfp4_scale(domain, group->amax);
    float factor = weft_nvfp4_factor(domain, scale);
    *(uint8_t *)group->scale = scale;
    for (uint32_t i = 0; i < group->size; i++)
        code[i] = weft_nvfp4_code(domain, group->x[i], factor);
    put_codes(group, code);
}

weft_status_t weft_ref_nvfp4(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    bool profile = unit->profile == WEFT_PROFILE_DEFAULT || unit->profile == WEFT_PROFILE_MODELOPT;
    if (!profile || !weft_tile_accepts(unit) || unit->out_dtype != WEFT_DTYPE_U8)
        return WEFT_ERR_ARGUMENT;
    weft_quantize_result_t found = {0};
    weft_nvfp4_t domain = weft_nvfp4_domain(unit->profile, weft_tile_tensor_amax(unit, &found));
    WEFT_TRY(weft_groups_encode(WEFT_KERNEL_NVFP4, unit, &domain, encode, result));
    if (unit->global)
        memcpy(unit->global, &domain.global, sizeof domain.global);
    return WEFT_OK;
}
