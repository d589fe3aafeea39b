/* fp8-channel: one scale for each output row.
 *
 *     unit                                         scale
 *     +-----------------------+                    +-+   +-----------------------+
 *     | row 0                 |  amax over all K   |s|   | codes of row 0        |
 *     | row 1                 |  ===============>  |s|   | codes of row 1        |
 *     +-----------------------+                    +-+   +-----------------------+
 *
 * Where columns are split over ranks the amax of the whole rows has come ahead (row_amax); the unit is then
 * still searched for NaN and Inf. A row of zeros keeps its signs under the least scale.
 *
 * 2 bytes read twice, 1 written, an element (and 4 bytes a row).
 */
#include "kernels/arith.h"
#include "kernels/arrange.h"
#include "kernels/ref/ref.h"
#include "kernels/ref/tile.h"

static void encode_tile(const weft_tile_t *tile, const weft_quantize_unit_t *unit, const float *scale)
{
    for (uint32_t row = 0; row < tile->rows; row++) {
        float x[WEFT_TILE];
        uint8_t code[WEFT_TILE];
        weft_tile_row_f32(tile, row, x);
        for (int i = 0; i < WEFT_TILE; i++)
            code[i] = weft_channel_code(x[i], scale[row]);
        weft_ref_put_codes(unit, row, tile->col, code, tile->cols);
    }
}

weft_status_t weft_ref_fp8_channel(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    if (!weft_tile_accepts(unit) || unit->profile != WEFT_PROFILE_DEFAULT ||
        !weft_arrange_takes_unit(WEFT_KERNEL_FP8_CHANNEL, unit))
        return WEFT_ERR_ARGUMENT;
    if (unit->out_dtype != WEFT_DTYPE_F8_E4M3)
        return WEFT_ERR_ARGUMENT;
    weft_quantize_result_t found = {0};
    uint16_t found_amax[WEFT_TILE] = {0};
    weft_tile_rows_amax(unit, found_amax, &found);
    const uint16_t *amax = unit->row_amax != NULL ? unit->row_amax : found_amax;
    float scale[WEFT_TILE];
    for (uint32_t row = 0; row < unit->rows; row++) {
        scale[row] = weft_channel_scale(weft_value_f32(unit->dtype, amax[row]));
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
