/* int8-channel: one scale for each output row, as in fp8-channel; codes are integers.
 *
 *     unit, 128 columns at a time           scale   codes
 *     | row 0 ... |  amax over all K  ===>  |s|     clamp(rne(x / s))
 *
 * 2 bytes read twice, 1 written, an element (and 4 bytes a row).
 */
#include "kernels/arith_int.h"
#include "kernels/arrange.h"
#include "kernels/ref/ref.h"
#include "kernels/ref/tile.h"

static void encode_tile(const weft_tile_t *tile, const weft_quantize_unit_t *unit, const float *scale)
{
    for (uint32_t row = 0; row < tile->rows; row++) {
        float x[WEFT_TILE];
        int8_t code[WEFT_TILE];
        weft_tile_row_f32(tile, row, x);
        for (int i = 0; i < WEFT_TILE; i++)
            code[i] = weft_int8_code(unit->profile, x[i], scale[row]);
        weft_ref_put_codes(unit, row, tile->col, code, tile->cols);
    }
}

static bool accepts(const weft_quantize_unit_t *unit)
{
    bool profile = unit->profile == WEFT_PROFILE_DEFAULT || unit->profile == WEFT_PROFILE_IEEE ||
                   unit->profile == WEFT_PROFILE_VLLM || unit->profile == WEFT_PROFILE_CT;
    return profile && weft_tile_accepts(unit) && unit->out_dtype == WEFT_DTYPE_I8 &&
           weft_arrange_takes_unit(WEFT_KERNEL_INT8_CHANNEL, unit);
}

weft_status_t weft_ref_int8_channel(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    if (!accepts(unit))
        return WEFT_ERR_ARGUMENT;
    weft_quantize_result_t found = {0};
    uint16_t found_amax[WEFT_TILE] = {0};
    weft_tile_rows_amax(unit, found_amax, &found);
    const uint16_t *amax = unit->row_amax ? unit->row_amax : found_amax;
    float scale[WEFT_TILE];
    for (uint32_t row = 0; row < unit->rows; row++) {
        scale[row] = weft_int8_scale(unit->profile, weft_value_f32(unit->dtype, amax[row]));
        weft_ref_put_row_scale(unit, row, scale[row]);
    }
    for (uint32_t col = 0; col < unit->cols; col += WEFT_TILE) {
        weft_tile_t tile;
        weft_tile_gather(unit, col, &tile);
        encode_tile(&tile, unit, scale);
    }
    *result = found;
    return WEFT_OK;
}
