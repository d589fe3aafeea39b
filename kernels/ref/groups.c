#include "kernels/ref/groups.h"

#include <string.h>

#include "kernels/arrange.h"
#include "kernels/ref/ref.h"

static uint16_t finite_amax(const weft_tile_t *tile, uint32_t row, uint32_t first, uint32_t size)
{
    uint16_t inf = weft_values_inf(tile->dtype), amax = 0;
    for (uint32_t i = first; i < first + size; i++) {
        uint16_t magnitude = tile->value[row][i] & 0x7FFF;
        amax = magnitude < inf && magnitude > amax ? magnitude : amax;
    }
    return amax;
}

static size_t scale_index(const weft_quantize_unit_t *unit, uint32_t row, uint32_t group, uint32_t size)
{
    const bool marlin = unit->arrange == WEFT_ARRANGE_MARLIN;
    const uint32_t groups = (marlin ? unit->matrix_cols : unit->cols) / size;
    if (unit->arrange == WEFT_ARRANGE_PLAIN)
        return (size_t)row * groups + group;
    return weft_arrange_index(unit->arrange, unit->matrix_row + row, group, unit->matrix_rows, groups);
}

/* Give codes of a row, eight in a word, their places in the matrix. */
static void scatter_codes(const weft_quantize_unit_t *unit, uint32_t row, uint32_t col, const uint8_t *packed,
                          uint32_t count)
{
    uint32_t *words = unit->out;
    for (uint32_t i = 0; i < count; i++) {
        const weft_marlin_place_t place =
            weft_marlin_code(unit->matrix_row + row, col + i, unit->matrix_rows);
        const uint32_t code = packed[i / 2] >> i % 2 * 4 & 15;
        words[place.word] = (words[place.word] & ~(15u << place.shift)) | code << place.shift;
    }
}

/* One row of a tile, which begins and ends with a group. */
static void encode_row(const weft_tile_t *tile, uint32_t row, const weft_format_t *format,
                       weft_group_t *group, weft_group_fn encode)
{
    const weft_quantize_unit_t *unit = group->unit;
    size_t scale_bytes = weft_dtype_bytes(format->scale_dtype);
    const bool scatters = weft_arrange_moves_codes(unit->arrange);
    uint8_t packed[WEFT_TILE];
    float x[WEFT_TILE];
    weft_tile_row_f32(tile, row, x);
    for (uint32_t first = 0; first < tile->cols; first += group->size) {
        uint32_t col = tile->col + first;
        memcpy(group->x, x + first, group->size * sizeof *x);
        group->amax = weft_value_f32(tile->dtype, finite_amax(tile, row, first, group->size));
        group->scale =
            (uint8_t *)unit->scale + scale_index(unit, row, col / group->size, group->size) * scale_bytes;
        group->out = scatters ? packed
                              : (uint8_t *)unit->out +
                                    row * weft_format_row_bytes(format, unit->out_dtype, unit->cols) +
                                    weft_format_row_bytes(format, unit->out_dtype, col);
        encode(group);
        if (scatters)
            scatter_codes(unit, row, col, packed, group->size);
    }
}

weft_status_t weft_groups_encode(weft_kernel_id_t kernel, const weft_quantize_unit_t *unit,
                                 const void *domain, weft_group_fn encode, weft_quantize_result_t *result)
{
    const weft_format_t *format = weft_kernel_format(kernel);
    if (!weft_tile_accepts(unit) || unit->cols % format->scale_cols || !weft_arrange_takes_unit(kernel, unit))
        return WEFT_ERR_ARGUMENT;
    weft_group_t group = {.unit = unit, .domain = domain, .size = format->scale_cols};
    weft_quantize_result_t found = {0};
    for (uint32_t col = 0; col < unit->cols; col += WEFT_TILE) {
        weft_tile_t tile;
        weft_tile_gather(unit, col, &tile);
        for (uint32_t row = 0; row < unit->rows; row++) {
            (void)weft_tile_row_amax(&tile, row, &found);
            encode_row(&tile, row, format, &group, encode);
        }
    }
    *result = found;
    return WEFT_OK;
}
