#include <string.h>

#include "kernels/arith.h"
#include "kernels/ref/tile.h"

/* ---- Values ---- */

void weft_values_load(weft_dtype_t dtype, const void *data, size_t count, uint16_t *value)
{
    if (dtype != WEFT_DTYPE_F32) {
        memcpy(value, data, count * sizeof *value);
        return;
    }
    const float *x = data;
    for (size_t i = 0; i < count; i++)
        value[i] = weft_bf16_from_f32(x[i]);
}

uint16_t weft_values_max(const uint16_t value[WEFT_TILE])
{
    int16_t max = 0; /* magnitudes fit: signed 16-bit maxima are what every vector unit has */
    for (int i = 0; i < WEFT_TILE; i++) {
        int16_t magnitude = (int16_t)(value[i] & 0x7FFF);
        max = magnitude > max ? magnitude : max;
    }
    return (uint16_t)max;
}

uint16_t weft_values_finite_max(weft_dtype_t dtype, const uint16_t value[WEFT_TILE], uint32_t *first)
{
    uint16_t inf = weft_values_inf(dtype), max = 0;
    *first = WEFT_TILE;
    for (uint32_t i = 0; i < WEFT_TILE; i++) {
        uint16_t magnitude = value[i] & 0x7FFF;
        if (magnitude < inf)
            max = magnitude > max ? magnitude : max;
        else if (*first == WEFT_TILE)
            *first = i;
    }
    return max;
}

uint16_t weft_values_inf(weft_dtype_t dtype)
{
    return dtype == WEFT_DTYPE_F16 ? WEFT_F16_INF : WEFT_BF16_INF;
}

float weft_value_f32(weft_dtype_t dtype, uint16_t value)
{
    return dtype == WEFT_DTYPE_F16 ? weft_f32_from_f16(value) : weft_f32_from_bf16(value);
}

/* ---- Tiles ---- */

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* The same of a segment that lies transposed: what is together there goes down a column of the tile. */
static void gather_columns(const weft_segment_t *segment, uint32_t begin, uint32_t end, weft_tile_t *tile)
{
    size_t elem_bytes = weft_dtype_bytes(tile->dtype);
    uint16_t column[WEFT_TILE];
    for (uint32_t col = begin; col < end; col++) {
        size_t offset_elems = (col - segment->col) * segment->ld_elems;
        weft_values_load(tile->dtype, (const char *)segment->data + offset_elems * elem_bytes, segment->rows,
                         column);
        for (uint32_t row = 0; row < segment->rows; row++)
            tile->value[segment->row + row][col - tile->col] = column[row];
    }
}

/* Copy the part of one segment that lies in the tile. */
static void gather_segment(const weft_segment_t *segment, weft_tile_t *tile)
{
    uint32_t begin = max_u32(segment->col, tile->col);
    uint32_t end = min_u32(segment->col + segment->cols, tile->col + tile->cols);
    if (begin >= end)
        return;
    if (segment->data && segment->transposed) {
        gather_columns(segment, begin, end, tile);
        return;
    }
    size_t elem_bytes = weft_dtype_bytes(tile->dtype);
    for (uint32_t row = 0; row < segment->rows; row++) {
        uint16_t *value = &tile->value[segment->row + row][begin - tile->col];
        if (segment->data == NULL) {
            memset(value, 0, (end - begin) * sizeof *value);
            continue;
        }
        size_t offset_elems = row * segment->ld_elems + (begin - segment->col);
        weft_values_load(tile->dtype, (const char *)segment->data + offset_elems * elem_bytes, end - begin,
                         value);
    }
}

bool weft_tile_accepts(const weft_quantize_unit_t *unit)
{
    bool known =
        unit->dtype == WEFT_DTYPE_F32 || unit->dtype == WEFT_DTYPE_F16 || unit->dtype == WEFT_DTYPE_BF16;
    return known && unit->rows <= WEFT_TILE;
}

void weft_tile_gather(const weft_quantize_unit_t *unit, uint32_t col, weft_tile_t *tile)
{
    tile->dtype = unit->dtype;
    tile->rows = unit->rows;
    tile->col = col;
    tile->cols = min_u32(unit->cols - col, WEFT_TILE);
    if (tile->cols < WEFT_TILE)
        memset(tile->value, 0, sizeof tile->value);
    for (uint32_t i = 0; i < unit->num_segments; i++)
        gather_segment(&unit->segments[i], tile);
}

static void note_nonfinite(weft_quantize_result_t *result, uint32_t row, uint32_t col)
{
    bool earlier =
        row < result->nonfinite_row || (row == result->nonfinite_row && col < result->nonfinite_col);
    if (!result->nonfinite || earlier)
        *result = (weft_quantize_result_t){.nonfinite = true, .nonfinite_row = row, .nonfinite_col = col};
}

uint16_t weft_tile_row_amax(const weft_tile_t *tile, uint32_t row, weft_quantize_result_t *result)
{
    uint16_t amax = weft_values_max(tile->value[row]);
    if (amax < weft_values_inf(tile->dtype))
        return amax;
    uint32_t first;
    amax = weft_values_finite_max(tile->dtype, tile->value[row], &first);
    note_nonfinite(result, row, tile->col + first);
    return amax;
}

void weft_tile_row_f32(const weft_tile_t *tile, uint32_t row, float x[WEFT_TILE])
{
    const uint16_t *value = tile->value[row];
    if (tile->dtype == WEFT_DTYPE_F16) {
        for (int i = 0; i < WEFT_TILE; i++)
            x[i] = weft_f32_from_f16(value[i]);
    } else {
        for (int i = 0; i < WEFT_TILE; i++)
            x[i] = weft_f32_from_bf16(value[i]);
    }
}

void weft_tile_rows_amax(const weft_quantize_unit_t *unit, uint16_t amax[WEFT_TILE],
                         weft_quantize_result_t *result)
{
    for (uint32_t col = 0; col < unit->cols; col += WEFT_TILE) {
        weft_tile_t tile;
        weft_tile_gather(unit, col, &tile);
        for (uint32_t row = 0; row < unit->rows; row++) {
            uint16_t row_amax = weft_tile_row_amax(&tile, row, result);
            amax[row] = row_amax > amax[row] ? row_amax : amax[row];
        }
    }
}

float weft_tile_tensor_amax(const weft_quantize_unit_t *unit, weft_quantize_result_t *result)
{
    uint16_t rows[WEFT_TILE] = {0}, amax = 0;
    weft_tile_rows_amax(unit, rows, result);
    for (uint32_t row = 0; row < unit->rows; row++)
        amax = rows[row] > amax ? rows[row] : amax;
    return weft_value_f32(unit->dtype, unit->tensor_amax ? *unit->tensor_amax : amax);
}
