/* Weight-only casts.
 *
 *     source   out     how
 *     bf16     bf16    bytes as they are, NaN payloads too
 *     fp16     fp16    bytes as they are, NaN payloads too
 *     fp32     bf16    rounded once, NaN to 0x7FFF
 *     fp16     bf16    rounded once
 *     bf16     fp16    rounded once, overflow to Inf, subnormals kept
 *     fp32     fp16    rounded once, not by way of bf16
 *     fp32     fp32    bytes as they are, NaN payloads too
 *     bf16     fp32    exact
 *     fp16     fp32    exact
 *     codes    same    bytes as they are (move.c)
 *
 * What comes out as NaN or Inf is reported, so an overflow too. With `inverse` what becomes fp32 becomes 1/x,
 * and an x that is not finite is reported as well.
 *
 * 2 or 4 bytes read, 2 or 4 written, an element.
 */
#include <string.h>

#include "kernels/arith.h"
#include "kernels/ref/ref.h"
#include "kernels/ref/tile.h"

/* ---- Of 16 bits, or to bf16: by tiles ---- */

static void cast_row(weft_tile_t *tile, uint32_t row, weft_dtype_t out_dtype)
{
    float x[WEFT_TILE];
    weft_tile_row_f32(tile, row, x);
    for (int i = 0; i < WEFT_TILE; i++)
        tile->value[row][i] =
            out_dtype == WEFT_DTYPE_F16 ? weft_f16_from_f32(x[i]) : weft_bf16_from_f32(x[i]);
}

/* Make the tile's values those of `out_dtype`. */
static void cast_tile(weft_tile_t *tile, weft_dtype_t out_dtype)
{
    weft_dtype_t value_dtype = tile->dtype == WEFT_DTYPE_F16 ? WEFT_DTYPE_F16 : WEFT_DTYPE_BF16;
    for (uint32_t row = 0; row < tile->rows && value_dtype != out_dtype; row++)
        cast_row(tile, row, out_dtype);
    tile->dtype = out_dtype;
}

static void put_tile(const weft_tile_t *tile, const weft_quantize_unit_t *unit,
                     weft_quantize_result_t *result)
{
    uint16_t *out = unit->out;
    for (uint32_t row = 0; row < tile->rows; row++) {
        weft_tile_row_amax(tile, row, result);
        memcpy(out + (size_t)row * unit->cols + tile->col, tile->value[row], tile->cols * sizeof *out);
    }
}

/* ---- To fp32, and from it to fp16: by runs of a segment's row ---- */

#define RUN 256

static uint32_t widened(weft_dtype_t dtype, const void *element)
{
    uint32_t bits;
    uint16_t value;
    if (dtype == WEFT_DTYPE_F32) {
        memcpy(&bits, element, sizeof bits);
        return bits;
    }
    memcpy(&value, element, sizeof value);
    return weft_f32_bits(weft_value_f32(dtype, value));
}

/* Load `count` elements, `step` apart, as bits of fp32. */
static void load_run(weft_dtype_t dtype, const void *data, size_t step, uint32_t count, uint32_t bits[RUN])
{
    const size_t bytes = weft_dtype_bytes(dtype);
    const uint16_t *values = data;
    if (step == 1 && dtype == WEFT_DTYPE_F32)
        memcpy(bits, data, count * bytes);
    else if (step == 1 && dtype == WEFT_DTYPE_BF16)
        for (uint32_t i = 0; i < count; i++)
            bits[i] = (uint32_t)values[i] << 16;
    else
        for (uint32_t i = 0; i < count; i++)
            bits[i] = widened(dtype, (const char *)data + i * step * bytes);
}

/* The first of the run that is not finite; `count` without one. */
static uint32_t first_nonfinite(const uint32_t bits[RUN], uint32_t count)
{
    uint32_t most = 0, first = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t magnitude = bits[i] & WEFT_F32_MAGNITUDE;
        most = magnitude > most ? magnitude : most;
    }
    if (most < WEFT_F32_INF)
        return count;
    while ((bits[first] & WEFT_F32_MAGNITUDE) < WEFT_F32_INF)
        first++;
    return first;
}

static void note(uint32_t row, uint32_t col, weft_quantize_result_t *result)
{
    bool earlier =
        row < result->nonfinite_row || (row == result->nonfinite_row && col < result->nonfinite_col);
    if (!result->nonfinite || earlier)
        *result = (weft_quantize_result_t){true, row, col};
}

/* What fp32 becomes in fp16, seen as fp32 again. */
static void narrow_run(uint32_t bits[RUN], uint32_t count, uint16_t *out)
{
    for (uint32_t i = 0; i < count; i++) {
        out[i] = weft_f16_from_f32(weft_f32(bits[i]));
        bits[i] = weft_f32_bits(weft_f32_from_f16(out[i]));
    }
}

static void put_run(const weft_quantize_unit_t *unit, uint32_t row, uint32_t col, uint32_t bits[RUN],
                    uint32_t count, weft_quantize_result_t *result)
{
    const size_t at = (size_t)row * unit->cols + col;
    uint32_t first = count;
    if (unit->inverse)
        first = first_nonfinite(bits, count);
    for (uint32_t i = 0; i < count && unit->inverse; i++)
        bits[i] = weft_inverted(bits[i]);
    if (unit->out_dtype == WEFT_DTYPE_F16)
        narrow_run(bits, count, (uint16_t *)unit->out + at);
    else
        memcpy((uint32_t *)unit->out + at, bits, count * sizeof *bits);
    uint32_t made = first_nonfinite(bits, count);
    first = made < first ? made : first;
    if (first < count)
        note(row, col + first, result);
}

static void cast_segment(const weft_quantize_unit_t *unit, const weft_segment_t *s,
                         weft_quantize_result_t *result)
{
    const size_t step = s->transposed ? s->ld_elems : 1, down = s->transposed ? 1 : s->ld_elems;
    for (uint32_t row = 0; row < s->rows; row++) {
        for (uint32_t col = 0; col < s->cols; col += RUN) {
            const uint32_t count = s->cols - col < RUN ? s->cols - col : RUN;
            uint32_t bits[RUN] = {0};
            if (s->data)
                load_run(unit->dtype,
                         (const char *)s->data + (row * down + col * step) * weft_dtype_bytes(unit->dtype),
                         step, count, bits);
            put_run(unit, s->row + row, s->col + col, bits, count, result);
        }
    }
}

static bool by_runs(const weft_quantize_unit_t *unit)
{
    return unit->out_dtype == WEFT_DTYPE_F32 ||
           (unit->out_dtype == WEFT_DTYPE_F16 && unit->dtype == WEFT_DTYPE_F32);
}

weft_status_t weft_ref_cast(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    if (unit->profile == WEFT_PROFILE_DEFAULT && unit->rows <= WEFT_TILE && weft_ref_moves(unit))
        return weft_ref_move(unit, result);
    if (!weft_tile_accepts(unit) || unit->profile != WEFT_PROFILE_DEFAULT)
        return WEFT_ERR_ARGUMENT;
    weft_quantize_result_t found = {0};
    bool runs = by_runs(unit);
    if (!runs && unit->out_dtype != WEFT_DTYPE_BF16 && unit->out_dtype != WEFT_DTYPE_F16)
        return WEFT_ERR_ARGUMENT;
    for (uint32_t i = 0; i < unit->num_segments && runs; i++)
        cast_segment(unit, &unit->segments[i], &found);
    for (uint32_t col = 0; col < unit->cols && !runs; col += WEFT_TILE) {
        weft_tile_t tile;
        weft_tile_gather(unit, col, &tile);
        cast_tile(&tile, unit->out_dtype);
        put_tile(&tile, unit, &found);
    }
    *result = found;
    return WEFT_OK;
}
