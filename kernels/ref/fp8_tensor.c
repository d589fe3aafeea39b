/* fp8-tensor: one scale for a whole layer, of experts one each.
 *
 *     units of all ranks           amax, sent ahead        scale
 *     | ... |  | ... |  | ... |  ===================>     |s|     codes: rows x cols bytes
 *
 * One unit writes the scale; others are given no place for it. Marlin has one a row: each unit writes those
 * of its own.
 *
 * 2 bytes read, 1 written, an element.
 */
#include "kernels/arith_fp4.h"
#include "kernels/arrange.h"
#include "kernels/ref/ref.h"
#include "kernels/ref/tile.h"

static void encode_tile(const weft_tile_t *tile, const weft_quantize_unit_t *unit, float factor)
{
    for (uint32_t row = 0; row < tile->rows; row++) {
        float x[WEFT_TILE];
        uint8_t code[WEFT_TILE];
        weft_tile_row_f32(tile, row, x);
        for (int i = 0; i < WEFT_TILE; i++)
            code[i] = weft_e4m3_from_f32(weft_mul(x[i], factor));
        weft_ref_put_codes(unit, row, tile->col, code, tile->cols);
    }
}

static void put_scale(const weft_quantize_unit_t *unit, float scale)
{
    const uint32_t rows = unit->arrange == WEFT_ARRANGE_MARLIN ? unit->rows : 1;
    for (uint32_t row = 0; unit->scale && row < rows; row++)
        weft_ref_put_row_scale(unit, row, scale);
}

weft_status_t weft_ref_fp8_tensor(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    if (!weft_tile_accepts(unit) || unit->profile != WEFT_PROFILE_DEFAULT ||
        !weft_arrange_takes_unit(WEFT_KERNEL_FP8_TENSOR, unit))
        return WEFT_ERR_ARGUMENT;
    if (unit->out_dtype != WEFT_DTYPE_F8_E4M3)
        return WEFT_ERR_ARGUMENT;
    weft_quantize_result_t found = {0};
    float scale = weft_tensor_scale(weft_tile_tensor_amax(unit, &found));
    for (uint32_t col = 0; col < unit->cols; col += WEFT_TILE) {
        weft_tile_t tile;
        weft_tile_gather(unit, col, &tile);
        encode_tile(&tile, unit, weft_block_factor(scale));
    }
    put_scale(unit, scale);
    *result = found;
    return WEFT_OK;
}
