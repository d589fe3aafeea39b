/* Where codes of a byte and scales of rows go: one after the other, or in the order of Marlin. */
#include <string.h>

#include "kernels/arrange.h"
#include "kernels/ref/ref.h"

void weft_ref_put_codes(const weft_quantize_unit_t *unit, uint32_t row, uint32_t col, const void *codes,
                        uint32_t count)
{
    const uint8_t *code = codes, bias = unit->out_dtype == WEFT_DTYPE_I8 ? WEFT_MARLIN_BIAS : 0;
    uint8_t *out = unit->out;
    if (unit->arrange != WEFT_ARRANGE_MARLIN) {
        memcpy(out + (size_t)row * unit->cols + col, codes, count);
        return;
    }
    for (uint32_t i = 0; i < count; i++)
        out[weft_marlin_byte(unit->matrix_row + row, col + i, unit->matrix_rows)] = code[i] ^ bias;
}

void weft_ref_put_row_scale(const weft_quantize_unit_t *unit, uint32_t row, float scale)
{
    if (unit->arrange != WEFT_ARRANGE_MARLIN) {
        ((float *)unit->scale)[row] = scale;
        return;
    }
    const uint64_t index = weft_arrange_index(unit->arrange, unit->matrix_row + row, 0, unit->matrix_rows, 1);
    ((uint16_t *)unit->scale)[index] = weft_marlin_scale(unit->out_dtype, scale);
}
