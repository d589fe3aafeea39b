/* fp8-tensor: one scale for a whole layer, of experts one each.
 *
 *     units of all ranks           amax, sent ahead        scale
 *     | ... |  | ... |  | ... |  ===================>     |s|     codes: rows x cols bytes
 *
 * One unit writes the scale; others are given no place for it.
 *
 * 2 bytes read, 1 written, an element.
 */
#include <string.h>

#include "kernels/arith_fp4.h"
#include "kernels/ref/ref.h"
#include "kernels/ref/tile.h"

static void encode_tile(const weft_tile_t *tile, float factor, uint8_t *out, size_t ld)
{
    for (uint32_t row = 0; row < tile->rows; row++) {
        float x[WEFT_TILE];
        uint8_t code[WEFT_TILE];
        weft_tile_row_f32(tile, row, x);
        for (int i = 0; i < WEFT_TILE; i++)
            code[i] = weft_e4m3_from_f32(weft_mul(x[i], factor));
        memcpy(out + row * ld, code, tile->cols);
    }
}

weft_status_t weft_ref_fp8_tensor(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    if (!weft_tile_accepts(unit) || unit->profile != WEFT_PROFILE_DEFAULT || unit->arrange)
        return WEFT_ERR_ARGUMENT;
    if (unit->out_dtype != WEFT_DTYPE_F8_E4M3)
        return WEFT_ERR_ARGUMENT;
    weft_quantize_result_t found = {0};
    float scale = weft_tensor_scale(weft_tile_tensor_amax(unit, &found));
    for (uint32_t col = 0; col < unit->cols; col += WEFT_TILE) {
        weft_tile_t tile;
        weft_tile_gather(unit, col, &tile);
        encode_tile(&tile, weft_block_factor(scale), (uint8_t *)unit->out + col, unit->cols);
    }
    if (unit->scale)
        memcpy(unit->scale, &scale, sizeof scale);
    *result = found;
    return WEFT_OK;
}
