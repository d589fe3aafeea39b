/* int8-channel: one scale for each output row, as in fp8-channel; codes are integers.
 *
 *     unit, 128 columns at a time           scale   codes
 *     | row 0 ... |  amax over all K  ===>  |s|     clamp(rne(x / s))
 *
 * 2 bytes read twice, 1 written, an element (and 4 bytes a row).
 */
#include <string.h>

#include "kernels/arith_int.h"
#include "kernels/ref/ref.h"
#include "kernels/ref/tile.h"

static void encode_tile(const weft_tile_t *tile, weft_profile_t profile, const float *scale, int8_t *out,
                        size_t ld)
{
    for (uint32_t row = 0; row < tile->rows; row++) {
        float x[WEFT_TILE];
        int8_t code[WEFT_TILE];
        weft_tile_row_f32(tile, row, x);
        for (int i = 0; i < WEFT_TILE; i++)
            code[i] = weft_int8_code(profile, x[i], scale[row]);
        memcpy(out + row * ld, code, tile->cols);
    }
}

static bool accepts(const weft_quantize_unit_t *unit)
{
    bool profile = unit->profile == WEFT_PROFILE_DEFAULT || unit->profile == WEFT_PROFILE_IEEE ||
                   unit->profile == WEFT_PROFILE_VLLM || unit->profile == WEFT_PROFILE_CT;
    return profile && weft_tile_accepts(unit) && unit->out_dtype == WEFT_DTYPE_I8;
}

weft_status_t weft_ref_int8_channel(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    if (!accepts(unit))
        return WEFT_ERR_ARGUMENT;
    weft_quantize_result_t found = {0};
    uint16_t found_amax[WEFT_TILE] = {0};
    weft_tile_rows_amax(unit, found_amax, &found);
    const uint16_t *amax = unit->row_amax ? unit->row_amax : found_amax;
    float *scale = unit->scale;
    for (uint32_t row = 0; row < unit->rows; row++)
        scale[row] = weft_int8_scale(unit->profile, weft_value_f32(unit->dtype, amax[row]));
    for (uint32_t col = 0; col < unit->cols; col += WEFT_TILE) {
        weft_tile_t tile;
        weft_tile_gather(unit, col, &tile);
        encode_tile(&tile, unit->profile, scale, (int8_t *)unit->out + col, unit->cols);
    }
    *result = found;
    return WEFT_OK;
}
