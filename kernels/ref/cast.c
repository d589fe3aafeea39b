/* Weight-only casts.
 *
 *     source   out     how
 *     bf16     bf16    bytes as they are, NaN payloads too
 *     fp16     fp16    bytes as they are, NaN payloads too
 *     fp32     bf16    rounded once, NaN to 0x7FFF
 *     fp16     bf16    rounded once
 *     bf16     fp16    rounded once, overflow to Inf, subnormals kept
 *     fp32     fp16    rounded to bf16, then to fp16
 *     fp32     fp32    bytes as they are, NaN payloads too
 *     bf16     fp32    exact
 *     fp16     fp32    exact
 *     codes    same    bytes as they are (move.c)
 *
 * With `inverse` what becomes fp32 becomes 1/x.
 *
 * 2 or 4 bytes read, 2 or 4 written, an element. What stays in fp32 are small tensors (a router's bias): they
 * go element by element.
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

/* ---- To fp32 ---- */

static uint32_t widened(weft_dtype_t dtype, const void *element)
{
    uint32_t bits;
    if (dtype == WEFT_DTYPE_F32) {
        memcpy(&bits, element, sizeof bits);
        return bits;
    }
    uint16_t value;
    memcpy(&value, element, sizeof value);
    float x = weft_value_f32(dtype, value);
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static uint32_t widened_element(const weft_quantize_unit_t *unit, uint32_t row, uint32_t col)
{
    for (uint32_t i = 0; i < unit->num_segments; i++) {
        const weft_segment_t *s = &unit->segments[i];
        uint32_t down = row - s->row, right = col - s->col;
        if (down >= s->rows || right >= s->cols || !s->data)
            continue;
        size_t at = s->transposed ? right * s->ld_elems + down : down * s->ld_elems + right;
        return widened(unit->dtype, (const char *)s->data + at * weft_dtype_bytes(unit->dtype));
    }
    return 0;
}

static uint32_t inverted(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    x = weft_div(1.0f, x);
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static void widen(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    for (uint32_t row = 0; row < unit->rows; row++) {
        for (uint32_t col = 0; col < unit->cols; col++) {
            uint32_t bits = widened_element(unit, row, col);
            const uint32_t out = unit->inverse ? inverted(bits) : bits;
            memcpy((uint32_t *)unit->out + (size_t)row * unit->cols + col, &out, sizeof out);
            bool finite = (bits & 0x7FFFFFFFu) < WEFT_F32_INF && (out & 0x7FFFFFFFu) < WEFT_F32_INF;
            if (!finite && !result->nonfinite)
                *result = (weft_quantize_result_t){true, row, col};
        }
    }
}

weft_status_t weft_ref_cast(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    if (unit->profile == WEFT_PROFILE_DEFAULT && unit->rows <= WEFT_TILE && weft_ref_moves(unit))
        return weft_ref_move(unit, result);
    if (!weft_tile_accepts(unit) || unit->profile != WEFT_PROFILE_DEFAULT)
        return WEFT_ERR_ARGUMENT;
    weft_quantize_result_t found = {0};
    if (unit->out_dtype == WEFT_DTYPE_F32) {
        widen(unit, &found);
        *result = found;
        return WEFT_OK;
    }
    if (unit->out_dtype != WEFT_DTYPE_BF16 && unit->out_dtype != WEFT_DTYPE_F16)
        return WEFT_ERR_ARGUMENT;
    for (uint32_t col = 0; col < unit->cols; col += WEFT_TILE) {
        weft_tile_t tile;
        weft_tile_gather(unit, col, &tile);
        cast_tile(&tile, unit, &found);
    }
    *result = found;
    return WEFT_OK;
}
