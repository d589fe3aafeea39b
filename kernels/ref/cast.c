/* Weight-only casts.
 *
 *     source   out     how
 *     bf16     bf16    bytes as they are, NaN payloads too
 *     fp16     fp16    bytes as they are, NaN payloads too
 *     fp32     bf16    rounded once, NaN to 0x7FFF
 *     fp16     bf16    rounded once
 *     bf16     fp16    rounded once, overflow to Inf, subnormals kept
 *     fp32     fp16    rounded to bf16, then to fp16
 *
 * 2 or 4 bytes read, 2 written, an element.
 */
#include <string.h>

#include "kernels/arith.h"
#include "kernels/ref/ref.h"
#include "kernels/ref/tile.h"

static void cast_row(const weft_tile_t *tile, uint32_t row, weft_dtype_t out_dtype, uint16_t out[WEFT_TILE])
{
    weft_dtype_t value_dtype = tile->dtype == WEFT_DTYPE_F16 ? WEFT_DTYPE_F16 : WEFT_DTYPE_BF16;
    if (value_dtype == out_dtype) {
        memcpy(out, tile->value[row], sizeof tile->value[row]);
        return;
    }
    float x[WEFT_TILE];
    weft_tile_row_f32(tile, row, x);
    for (int i = 0; i < WEFT_TILE; i++)
        out[i] = out_dtype == WEFT_DTYPE_F16 ? weft_f16_from_f32(x[i]) : weft_bf16_from_f32(x[i]);
}

static void cast_tile(const weft_tile_t *tile, const weft_quantize_unit_t *unit,
                      weft_quantize_result_t *result)
{
    uint16_t *out = unit->out;
    for (uint32_t row = 0; row < tile->rows; row++) {
        uint16_t cast[WEFT_TILE];
        weft_tile_row_amax(tile, row, result);
        cast_row(tile, row, unit->out_dtype, cast);
        memcpy(out + (size_t)row * unit->cols + tile->col, cast, tile->cols * sizeof *out);
    }
}

weft_status_t weft_ref_cast(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    if (!weft_tile_accepts(unit) || unit->profile != WEFT_PROFILE_DEFAULT)
        return WEFT_ERR_ARGUMENT;
    if (unit->out_dtype != WEFT_DTYPE_BF16 && unit->out_dtype != WEFT_DTYPE_F16)
        return WEFT_ERR_ARGUMENT;
    weft_quantize_result_t found = {0};
    for (uint32_t col = 0; col < unit->cols; col += WEFT_TILE) {
        weft_tile_t tile;
        weft_tile_gather(unit, col, &tile);
        cast_tile(&tile, unit, &found);
    }
    *result = found;
    return WEFT_OK;
}
